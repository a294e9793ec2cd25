/** Packed rings of drivers that lie, scribble and change their mind. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { drainEventfd, eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { type FrameBatch, MAX_FRAME_SEGMENTS } from '../../memory/frame-batch.ts';
import { packBase } from '../../vhost/packed-ring.ts';
import { PackedVirtqueue } from '../../vhost/packed-virtqueue.ts';
import type { RingErrorCode } from '../../vhost/ring-error.ts';
import { BUFFER_TOO_SMALL, NO_REFUSAL, RING_BROKEN } from '../../vhost/virtqueue.ts';
import { emptyBatch } from '../helpers/arenas.ts';
import { appendFrame, frameBytes, frameOf, join } from '../helpers/frame-bytes.ts';
import { deliverOne } from '../helpers/one-frame.ts';
import {
  F_AVAIL,
  F_USED,
  PackedDriver,
  packedRingBytes,
  placeWord,
  type RawPackedDescriptor,
} from '../helpers/packed-driver.ts';
import { Scribbler } from '../helpers/scribbler.ts';
import {
  EVENT_IDX,
  F_INDIRECT,
  F_NEXT,
  F_WRITE,
  IN_ORDER,
  INDIRECT_DESC,
  MEMORIES,
  MRG_RXBUF,
  TestGuest,
  VERSION_1,
} from '../helpers/split-driver.ts';

const MIB = 2 ** 20;
const GUEST_BYTES = 4 * MIB;
const NUM = 16;
const FEATURES = VERSION_1 | INDIRECT_DESC | MRG_RXBUF;
const SECOND_RING_AT = 0x8000;
const LARGE_RING_AT = MIB;
const DATA_AT = 2 * MIB;
const TABLE_AT = 3 * MIB;
/** Frames and errors that a race is to bring about. */
const ENOUGH = 200;
const HEADER = new Uint8Array(12);

interface Case {
  code: RingErrorCode;
  title: string;
  index?: number;
  value?: number;
  features?: bigint;
  num?: number;
  deliver?: boolean;
  /** Makes descriptors available, from place 0 on. */
  poke: (driver: PackedDriver) => void;
}

/** An available descriptor at a place of the first lap, of 100 bytes unless told otherwise. */
function available(driver: PackedDriver, place: number, descriptor: RawPackedDescriptor = {}): void {
  const { flags = 0, ...rest } = descriptor;
  driver.pokeDescriptor(place, {
    addr: BigInt(DATA_AT),
    len: 100,
    ...rest,
    flags: flags | driver.availableFlags(place),
  });
}

const CASES: Case[] = [
  {
    code: 'CHAIN_NOT_AVAILABLE',
    title: 'a chain goes on at a descriptor never written',
    index: 0,
    value: 1,
    poke: (driver) => available(driver, 0, { flags: F_NEXT }),
  },
  {
    code: 'CHAIN_NOT_AVAILABLE',
    title: 'a chain goes on at one that looks used',
    index: 0,
    value: 2,
    poke: (driver) => {
      available(driver, 0, { flags: F_NEXT });
      available(driver, 1, { flags: F_NEXT });
      driver.pokeDescriptor(2, { addr: BigInt(DATA_AT), len: 1, flags: F_AVAIL | F_USED });
    },
  },
  {
    code: 'CHAIN_NOT_AVAILABLE',
    title: 'a chain goes on at one of the next lap',
    index: 0,
    value: 1,
    deliver: true,
    poke: (driver) => {
      available(driver, 0, { flags: F_NEXT | F_WRITE });
      driver.pokeDescriptor(1, { addr: BigInt(DATA_AT), len: 1, flags: F_USED | F_WRITE });
    },
  },
  {
    code: 'CHAIN_LOOPS',
    title: 'every descriptor of the ring says NEXT',
    index: 0,
    value: NUM,
    poke: (driver) => {
      for (let place = 0; place < NUM; place++) available(driver, place, { flags: F_NEXT });
    },
  },
  {
    code: 'CHAIN_LOOPS',
    title: 'in a ring of one',
    num: 1,
    value: 1,
    deliver: true,
    poke: (driver) => available(driver, 0, { flags: F_NEXT | F_WRITE }),
  },
  {
    code: 'CHAIN_TOO_LONG',
    title: 'more buffers than a frame may have',
    num: 2 * MAX_FRAME_SEGMENTS,
    poke: (driver) => {
      for (let place = 0; place <= MAX_FRAME_SEGMENTS; place++) available(driver, place, { len: 1, flags: F_NEXT });
    },
  },
  {
    code: 'CHAIN_TOO_LONG',
    title: 'more empty buffers than a frame may have',
    num: 2 * MAX_FRAME_SEGMENTS,
    poke: (driver) => {
      for (let place = 0; place <= MAX_FRAME_SEGMENTS; place++) available(driver, place, { len: 0, flags: F_NEXT });
    },
  },
  {
    code: 'CHAIN_TOO_LONG',
    title: 'lengths whose sum overflows',
    num: 2 * MAX_FRAME_SEGMENTS,
    deliver: true,
    poke: (driver) => {
      for (let place = 0; place < MAX_FRAME_SEGMENTS; place++) {
        available(driver, place, { addr: 0n, len: GUEST_BYTES, flags: F_NEXT | F_WRITE });
      }
    },
  },
  {
    code: 'WRONG_DIRECTION',
    title: 'a writable buffer in the transmit ring',
    index: 0,
    poke: (driver) => available(driver, 0, { flags: F_WRITE }),
  },
  {
    code: 'WRONG_DIRECTION',
    title: 'a readable buffer in the receive ring',
    index: 0,
    deliver: true,
    poke: (driver) => available(driver, 0),
  },
  {
    code: 'WRONG_DIRECTION',
    title: 'in the midst of a chain',
    index: 1,
    poke: (driver) => {
      available(driver, 0, { flags: F_NEXT });
      available(driver, 1, { flags: F_WRITE });
    },
  },
  {
    code: 'WRONG_DIRECTION',
    title: 'in an indirect table',
    index: 1,
    poke: (driver) => {
      driver.pokeIndirect(TABLE_AT, 0, { addr: BigInt(DATA_AT), len: 60 });
      driver.pokeIndirect(TABLE_AT, 1, { addr: BigInt(DATA_AT), len: 60, flags: F_WRITE });
      available(driver, 0, { addr: BigInt(TABLE_AT), len: 32, flags: F_INDIRECT });
    },
  },
  ...(
    [
      ['beyond the memory', BigInt(GUEST_BYTES), 100],
      ['across the end', BigInt(GUEST_BYTES - 99), 100],
      ['at the end of 64 bits', (1n << 64n) - 50n, 100],
      ['at an address that no double holds', 1n << 60n, 100],
    ] as const
  ).flatMap(([title, addr, len]): Case[] => [
    { code: 'BUFFER_UNMAPPED', title, index: 0, poke: (driver) => available(driver, 0, { addr, len }) },
    {
      code: 'BUFFER_UNMAPPED',
      title: `${title}, to be written`,
      index: 0,
      deliver: true,
      poke: (driver) => available(driver, 0, { addr, len, flags: F_WRITE }),
    },
  ]),
  {
    code: 'BUFFER_UNMAPPED',
    title: 'a length of 4 GiB less one',
    deliver: true,
    index: 0,
    poke: (driver) => available(driver, 0, { len: 0x7fff_ffff, flags: F_WRITE }),
  },
  {
    code: 'INDIRECT_NOT_NEGOTIATED',
    title: 'an indirect table',
    features: VERSION_1,
    index: 0,
    value: 32,
    poke: (driver) => available(driver, 0, { addr: BigInt(TABLE_AT), len: 32, flags: F_INDIRECT }),
  },
  {
    code: 'INDIRECT_WITH_NEXT',
    title: 'both flags',
    index: 0,
    poke: (driver) => available(driver, 0, { addr: BigInt(TABLE_AT), len: 32, flags: F_INDIRECT | F_NEXT }),
  },
  ...[0, 8, 17, 16 * (MAX_FRAME_SEGMENTS + 1), 0xffff_fff0].map(
    (len): Case => ({
      code: 'INDIRECT_LENGTH',
      title: `of ${len} bytes`,
      index: 0,
      value: len,
      poke: (driver) => available(driver, 0, { addr: BigInt(TABLE_AT), len, flags: F_INDIRECT }),
    }),
  ),
  {
    code: 'INDIRECT_UNMAPPED',
    title: 'across the end of the memory',
    index: 0,
    poke: (driver) => available(driver, 0, { addr: BigInt(GUEST_BYTES - 16), len: 32, flags: F_INDIRECT }),
  },
  {
    code: 'INDIRECT_UNMAPPED',
    title: 'at an address that no double holds',
    index: 0,
    deliver: true,
    poke: (driver) => available(driver, 0, { addr: 1n << 63n, len: 32, flags: F_INDIRECT }),
  },
];

/** Codes of split rings alone: a packed ring has neither avail.idx, nor heads, nor desc.next. */
const SPLIT_ONLY: RingErrorCode[] = [
  'AVAIL_IDX_JUMPED',
  'HEAD_OUT_OF_RANGE',
  'NEXT_OUT_OF_RANGE',
  // The flag means nothing in a packed ring's table.
  'INDIRECT_NESTED',
];

for (const { name, arena, isPrivate } of MEMORIES) {
  // Whether the kernels serve a ring in the first region.
  const hasKernels = arena().wasm !== null && isPrivate?.(0) !== true;
  describe(`PackedVirtqueue and hostile drivers, ${name}`, function () {
    this.timeout(60_000);
    let guest: TestGuest;
    let batch: FrameBatch;
    let err: number;
    let call: number;

    beforeEach(() => {
      guest = new TestGuest(
        [{ guestAddress: 0, size: GUEST_BYTES, userAddress: 0x7000_0000_0000, canary: 4096 }],
        isPrivate,
      );
      batch = emptyBatch(arena());
      err = eventfd();
      call = eventfd();
    });
    afterEach(() => {
      guest.dispose();
      close(err);
      close(call);
    });

    for (const { title, code, index, value, features = FEATURES, num = NUM, deliver = false, poke } of CASES) {
      it(`${code}: ${title}`, () => {
        const driver = new PackedDriver(guest, { num, features, at: num > NUM ? LARGE_RING_AT : 0 });
        const memory = guest.map(arena());
        const queue = new PackedVirtqueue(memory, driver.description({ err, call }));
        // A ring beside it, in the same memory, with a frame that waits.
        const neighbour = new PackedDriver(guest, { num: 3, features, at: SECOND_RING_AT });
        const neighbourQueue = new PackedVirtqueue(memory, neighbour.description());
        const frame = frameBytes(100, 1);
        guest.write(DATA_AT + 0x1000, join([HEADER, frame]));
        neighbour.add([{ address: DATA_AT + 0x1000, length: 112 }], false);
        neighbour.announce();

        poke(driver);
        const before = guest.read(0, GUEST_BYTES);
        if (deliver) {
          appendFrame(batch, [frameBytes(60, 2)]);
          assert.equal(deliverOne(queue, batch), RING_BROKEN);
        } else assert.equal(queue.receive(batch), 0);
        assert.equal(queue.error?.code, code);
        if (index !== undefined) assert.equal(queue.error.index, index, 'index');
        if (value !== undefined) assert.equal(queue.error.value, value, 'value');
        assert.match(queue.error.message, /^\S.* \(at \d+, value \d+\)$/);
        assert.equal(drainEventfd(err), true, 'the err eventfd is signalled');

        // Silent from now on, whatever the driver repairs.
        const { error } = queue;
        batch.clear();
        assert.equal(queue.receive(batch), 0);
        appendFrame(batch, [frameBytes(60, 2)]);
        assert.equal(deliverOne(queue, batch), RING_BROKEN);
        assert.equal(queue.enableNotification(), false);
        queue.release(0);
        queue.flush();
        assert.equal(queue.error, error, 'the first error stays');
        assert.equal(queue.usedIdx, placeWord(0, num));
        assert.equal(drainEventfd(call), false);
        assert.equal(drainEventfd(err), false);
        assert.deepEqual(guest.read(0, GUEST_BYTES), before, 'nothing was written');

        // The neighbour notices nothing.
        batch.clear();
        assert.equal(neighbourQueue.receive(batch), 1);
        assert.deepEqual(frameOf(batch, 0), frame);
        neighbourQueue.release(1);
        neighbourQueue.flush();
        assert.equal(neighbour.reclaim().length, 1);
        assert.equal(guest.canariesAlive, true);
      });
    }

    it('provokes every code of packed rings', () => {
      // Unreachable memory has tests of its own.
      const codes: Record<Exclude<RingErrorCode, 'CLIENT_MEMORY_UNREACHABLE'>, true> = {
        AVAIL_IDX_JUMPED: true,
        HEAD_OUT_OF_RANGE: true,
        NEXT_OUT_OF_RANGE: true,
        CHAIN_TOO_LONG: true,
        CHAIN_LOOPS: true,
        CHAIN_NOT_AVAILABLE: true,
        WRONG_DIRECTION: true,
        BUFFER_UNMAPPED: true,
        INDIRECT_NOT_NEGOTIATED: true,
        INDIRECT_NESTED: true,
        INDIRECT_WITH_NEXT: true,
        INDIRECT_LENGTH: true,
        INDIRECT_UNMAPPED: true,
      };
      const all = [...CASES.map((one) => one.code), ...SPLIT_ONLY];
      assert.deepEqual(new Set(all), new Set(Object.keys(codes)));
    });

    it('completes the frames before the broken one', () => {
      const driver = new PackedDriver(guest, { num: NUM, features: FEATURES, at: 0 });
      const queue = new PackedVirtqueue(guest.map(arena()), driver.description({ err }));
      guest.write(DATA_AT, join([HEADER, frameBytes(60, 1)]));
      for (let i = 0; i < 3; i++) driver.add([{ address: DATA_AT, length: 72 }], false);
      driver.announce();
      available(driver, 2, { addr: 1n << 60n });
      assert.equal(queue.receive(batch), 2);
      assert.equal(queue.error?.code, 'BUFFER_UNMAPPED');
      queue.release(2);
      queue.flush();
      assert.equal(driver.reclaim().length, 2);
    });

    it('takes nothing from the ring when a later chain of a gathered delivery is broken', () => {
      const driver = new PackedDriver(guest, { num: NUM, features: FEATURES, at: 0 });
      const queue = new PackedVirtqueue(guest.map(arena()), driver.description());
      driver.add([{ address: DATA_AT, length: 60 }], true);
      driver.add([{ address: DATA_AT + 60, length: 60 }], false);
      driver.announce();
      const before = guest.read(0, GUEST_BYTES);
      appendFrame(batch, [frameBytes(100, 2)]);
      assert.equal(deliverOne(queue, batch), RING_BROKEN);
      queue.flush();
      assert.deepEqual(guest.read(0, GUEST_BYTES), before);
      assert.equal(queue.base, driver.description().base - 2 * 0x10001);
    });

    it('reads id and flags once: what they become after they were taken changes nothing', () => {
      const driver = new PackedDriver(guest, { num: NUM, features: FEATURES, at: 0 });
      const queue = new PackedVirtqueue(guest.map(arena()), driver.description({ err }));
      const frame = frameBytes(60, 1);
      guest.write(DATA_AT, join([HEADER, frame]));
      const ids = [
        driver.add([{ address: DATA_AT, length: 72 }], false),
        driver.add(
          [
            { address: DATA_AT, length: 12 },
            { address: DATA_AT + 12, length: 60 },
          ],
          false,
        ),
      ];
      driver.announce();
      assert.equal(queue.receive(batch), 2);
      for (let place = 0; place < 3; place++) {
        driver.pokeDescriptor(place, { addr: 1n << 60n, len: 0xffff_ffff, id: 0xdead, flags: F_INDIRECT | F_NEXT });
      }
      for (let i = 0; i < 2; i++) assert.deepEqual(frameOf(batch, i), frame);
      queue.release(2);
      queue.flush();
      assert.equal(queue.error, null);
      for (const [i, id] of ids.entries()) {
        const { id: usedId, flags } = driver.peekDescriptor(i);
        assert.deepEqual({ usedId, flags }, { usedId: id, flags: F_AVAIL | F_USED });
      }
    });

    // The kernels remember nothing of a descriptor that they have not taken.
    if (!hasKernels) {
      it('reads id and flags once: what they become after they were seen changes nothing', () => {
        const driver = new PackedDriver(guest, { num: NUM, features: FEATURES, at: 0 });
        const queue = new PackedVirtqueue(guest.map(arena()), driver.description({ err }));
        const frame = frameBytes(60, 1);
        guest.write(DATA_AT, join([HEADER, frame]));
        const id = driver.add([{ address: DATA_AT, length: 72 }], false);
        driver.announce();
        assert.equal(queue.enableNotification(), true, 'it has been seen');
        driver.pokeDescriptor(0, { addr: BigInt(DATA_AT), len: 72, id: 0xdead, flags: F_INDIRECT | F_NEXT | F_WRITE });
        assert.equal(queue.receive(batch), 1);
        assert.deepEqual(frameOf(batch, 0), frame);
        queue.release(0);
        driver.pokeFlags(0, 0);
        batch.clear();
        assert.equal(queue.receive(batch), 1, 'released and taken again');
        queue.release(1);
        queue.flush();
        assert.equal(queue.error, null);
        assert.deepEqual(driver.peekDescriptor(0), { addr: BigInt(DATA_AT), len: 0, id, flags: F_AVAIL | F_USED });
      });

      it('reads those of a chain once, too', () => {
        const driver = new PackedDriver(guest, { num: NUM, features: FEATURES, at: 0 });
        const queue = new PackedVirtqueue(guest.map(arena()), driver.description({ err }));
        const frame = frameBytes(60, 1);
        guest.write(DATA_AT, join([HEADER, frame]));
        const parts = [
          { address: DATA_AT, length: 12 },
          { address: DATA_AT + 12, length: 60 },
        ];
        const id = driver.add(parts, false);
        driver.announce();
        assert.equal(queue.enableNotification(), true, 'both have been seen');
        driver.pokeFlags(0, F_WRITE);
        driver.pokeDescriptor(1, { addr: BigInt(DATA_AT + 12), len: 60, id: 0xdead, flags: F_INDIRECT | F_NEXT });
        assert.equal(queue.receive(batch), 1);
        assert.deepEqual(frameOf(batch, 0), frame);
        queue.release(1);
        queue.flush();
        assert.equal(queue.error, null);
        assert.equal(driver.peekDescriptor(0).id, id);
      });
    }

    it('spends bounded time on a full ring of the longest chains', () => {
      const num = 32_768;
      for (const direction of [0, F_WRITE]) {
        const driver = new PackedDriver(guest, { num, features: FEATURES, at: LARGE_RING_AT });
        // Chains of 1023 empty buffers and one of a byte, as many as there is room for.
        for (let place = 0; place < num; place++) {
          const last = place % MAX_FRAME_SEGMENTS === MAX_FRAME_SEGMENTS - 1;
          available(driver, place, { len: last ? 1 : 0, flags: direction | (last ? 0 : F_NEXT) });
        }
        const queue = new PackedVirtqueue(guest.map(arena()), driver.description());
        const start = process.cpuUsage();
        for (let round = 0; round < 10; round++) {
          batch.clear();
          if (direction === 0) {
            assert.equal(queue.receive(batch), 0);
          } else {
            appendFrame(batch, [frameBytes(60, 1)]);
            assert.equal(deliverOne(queue, batch), BUFFER_TOO_SMALL, 'empty buffers count too');
          }
        }
        const { user, system } = process.cpuUsage(start);
        assert.equal(queue.error, null);
        assert(user + system < 500_000, `${user + system} µs`);
      }
    });

    it('counts empty buffers of indirect tables too', () => {
      const driver = new PackedDriver(guest, { num: NUM, features: FEATURES, at: 0 });
      const queue = new PackedVirtqueue(guest.map(arena()), driver.description());
      const entries = MAX_FRAME_SEGMENTS;
      for (let i = 0; i < entries; i++) {
        driver.pokeIndirect(TABLE_AT, i, { addr: BigInt(DATA_AT), len: i === 0 ? 50 : 0, flags: F_WRITE });
      }
      for (let place = 0; place < NUM; place++) {
        available(driver, place, { addr: BigInt(TABLE_AT), len: entries * 16, flags: F_INDIRECT });
      }
      appendFrame(batch, [frameBytes(60, 1)]);
      assert.equal(deliverOne(queue, batch), BUFFER_TOO_SMALL);
      assert.equal(queue.error, null);
    });

    // ---- random garbage

    const SMALL = 64 * 1024;
    /** Indirect tables of the same garbage stand this far apart. */
    const TABLE_STEP = 0x800;

    /** Garbage that is near enough to sense to get far: addresses about the borders, the flags there are, mostly mine. */
    const descriptor = fc.record({
      addr: fc.oneof(
        { weight: 6, arbitrary: fc.bigInt({ min: 0n, max: BigInt(SMALL - 1) }) },
        { weight: 3, arbitrary: fc.nat(NUM - 1).map((i) => BigInt(i * TABLE_STEP)) },
        { weight: 1, arbitrary: fc.bigInt({ min: BigInt(SMALL - 64), max: BigInt(SMALL + 64) }) },
        { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }) },
      ),
      len: fc.oneof(
        { weight: 6, arbitrary: fc.integer({ min: 0, max: 600 }) },
        { weight: 2, arbitrary: fc.integer({ min: 1, max: 8 }).map((n) => n * 16) },
        { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff_ffff }) },
      ),
      id: fc.nat(0xffff),
      flags: fc.oneof(
        { weight: 3, arbitrary: fc.integer({ min: 0, max: 7 }) },
        { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff }) },
        { weight: 8, arbitrary: fc.constantFrom('plain' as const, 'plain' as const, 'next' as const) },
      ),
      /** Whose the descriptor is: as it should be, or anything. */
      owner: fc.oneof(
        { weight: 8, arbitrary: fc.constant('available' as const) },
        { weight: 1, arbitrary: fc.constantFrom(0, F_AVAIL, F_USED, F_AVAIL | F_USED) },
        { weight: 2, arbitrary: fc.constant('as it was' as const) },
      ),
    });
    const garbage = fc.record({
      descriptors: fc.array(descriptor, { minLength: NUM, maxLength: NUM }),
      event: fc.nat(0xffff_ffff),
      keep: fc.nat(5),
      seed: fc.nat(),
    });

    const features = fc
      .subarray([INDIRECT_DESC, EVENT_IDX, MRG_RXBUF, VERSION_1, IN_ORDER])
      .map((set) => set.reduce((all, feature) => all | feature, 0n));

    it('never throws, loops or writes elsewhere on random memory that changes between calls', () => {
      const ringAt = 2 * MIB;
      // The ring in a region of its own, so that everything else may be compared byte by byte.
      const small = new TestGuest(
        [
          { guestAddress: 0, size: SMALL, userAddress: 0x7200_0000_0000, canary: 8192 },
          { guestAddress: ringAt, size: 4096, userAddress: 0x7300_0000_0000, canary: 4096 },
        ],
        isPrivate,
      );
      const memory = small.map(arena());
      let broken = 0;
      let moved = 0;
      try {
        fc.assert(
          fc.property(
            features,
            fc.integer({ min: 1, max: NUM }),
            fc.nat(2 * NUM - 1),
            fc.boolean(),
            fc.array(garbage, { minLength: 1, maxLength: 6 }),
            (features, num, place, deliver, rounds) => {
              const driver = new PackedDriver(small, { num, features, at: ringAt, start: place % (2 * num) });
              let queue = new PackedVirtqueue(memory, driver.description());
              let next = driver.announced;
              let writableBefore: Uint8Array = new Uint8Array(SMALL);
              for (const { descriptors, event, keep, seed } of rounds) {
                // Everything that the device may read, random; where it may write, by the table now in force.
                small.write(0, frameBytes(SMALL, seed));
                for (const [i, { owner, ...raw }] of descriptors.entries()) {
                  for (let table = 0; table < NUM; table++) {
                    const entry = descriptors[(i + table) % NUM]!;
                    driver.pokeIndirect(table * TABLE_STEP, i, { ...entry, flags: kindOf(entry.flags, deliver) });
                  }
                  if (i >= num || owner === 'as it was') continue;
                  const here = next + i;
                  const whose = owner === 'available' ? driver.availableFlags(here) : owner;
                  const kind = kindOf(raw.flags, deliver) & ~(F_AVAIL | F_USED);
                  driver.pokeDescriptor(here, { ...raw, flags: kind | whose });
                }
                small.write32(driver.driverEvent, event);
                const before = small.read(0, SMALL);
                const ringBefore = new DataView(small.read(ringAt, packedRingBytes(num)).buffer);

                const batch = emptyBatch(arena());
                if (deliver) {
                  appendFrame(batch, [frameBytes(14 + (seed % 900), seed)]);
                  if (deliverOne(queue, batch) === NO_REFUSAL) moved++;
                } else {
                  const received = queue.receive(batch);
                  for (let i = 0; i < received; i++) frameOf(batch, i);
                  moved += received;
                  queue.release(Math.max(0, received - keep));
                }
                queue.flush();
                queue.disableNotification();
                queue.enableNotification();
                const used = queue.usedIdx;
                if (queue.error !== null) {
                  broken++;
                  queue = new PackedVirtqueue(memory, driver.description({ base: packBase(used, used) }));
                }
                const distance = (used % 0x8000) - (next % num);
                next += distance < 0 || (distance === 0 && used !== placeWord(next, num)) ? distance + num : distance;
                assert.equal(placeWord(next, num), used, 'the used side moves by a lap at the most');

                assert(small.canariesAlive, 'a canary died');
                const ring = new DataView(small.read(ringAt, packedRingBytes(num)).buffer);
                for (let at = 0; at < num * 16; at += 16) {
                  assert.equal(ring.getBigUint64(at), ringBefore.getBigUint64(at), 'an address changed');
                }
                assert.equal(
                  ring.getUint32(num * 16),
                  ringBefore.getUint32(num * 16),
                  "the driver's event area changed",
                );
                const writable = writableBytes(small, descriptors, deliver, before, ringBefore, num);
                if (isPrivate) {
                  // Descriptors of private memory are read when they are seen, and may be used a round later.
                  for (let at = 0; at < SMALL; at++) writable[at]! |= writableBefore[at]!;
                  writableBefore = writable;
                }
                const after = small.read(0, SMALL);
                for (let at = 0; at < SMALL; at++) {
                  if (after[at] !== before[at] && writable[at] === 0) {
                    assert.fail(`byte ${at} changed, and no device-writable buffer holds it`);
                  }
                }
              }
            },
          ),
          { numRuns: 200 },
        );
      } finally {
        small.dispose();
      }
      assert(broken > 50 && moved > 50, `${broken} broken, ${moved} frames: the garbage is too mad or too tame`);
    });

    /** Flags of garbage: as they are, or those that a decent driver would set. */
    function kindOf(flags: number | 'plain' | 'next', deliver: boolean): number {
      if (typeof flags === 'number') return flags;
      return (deliver ? F_WRITE : 0) | (flags === 'next' ? F_NEXT : 0);
    }

    /** Bytes that some descriptor with the WRITE flag covers: of the ring, or of any table in the memory. */
    function writableBytes(
      guest: TestGuest,
      descriptors: { addr: bigint; len: number }[],
      deliver: boolean,
      before: Uint8Array,
      ring: DataView,
      num: number,
    ): Uint8Array {
      assert(guest.canariesAlive);
      const writable = new Uint8Array(SMALL);
      const cover = (addr: bigint, len: number): void => {
        if (addr < BigInt(SMALL)) writable.fill(1, Number(addr), Math.min(Number(addr) + len, SMALL));
      };
      if (!deliver) return writable;
      const view = new DataView(before.buffer);
      const tables = (addr: bigint, len: number): void => {
        for (let at = Number(addr); at + 16 <= Math.min(Number(addr) + len, SMALL); at += 16) {
          if ((view.getUint16(at + 14, true) & F_WRITE) === 0) continue;
          cover(view.getBigUint64(at, true), view.getUint32(at + 8, true));
        }
      };
      for (let at = 0; at < num * 16; at += 16) {
        cover(ring.getBigUint64(at, true), ring.getUint32(at + 8, true));
        tables(ring.getBigUint64(at, true), ring.getUint32(at + 8, true));
      }
      for (const { addr, len } of descriptors) tables(addr, len);
      return writable;
    }

    it('survives memory of nothing but noise', () => {
      const noise = new TestGuest(
        [{ guestAddress: 0, size: SMALL, userAddress: 0x7200_0000_0000, canary: 8192 }],
        isPrivate,
      );
      const memory = noise.map(arena());
      try {
        fc.assert(
          fc.property(features, fc.nat(), fc.integer({ min: 1, max: 2000 }), (features, seed, num) => {
            const driver = new PackedDriver(noise, { num, features, at: 0 });
            const queue = new PackedVirtqueue(memory, driver.description());
            const batch = emptyBatch(arena());
            for (let round = 0; round < 4; round++) {
              noise.write(0, frameBytes(SMALL, seed + round));
              for (let place = 0; place < 4; place++) driver.pokeFlags(place, driver.availableFlags(place));
              batch.clear();
              const received = queue.receive(batch);
              queue.release(received);
              batch.clear();
              appendFrame(batch, [frameBytes(60, seed)]);
              deliverOne(queue, batch);
              queue.flush();
              queue.enableNotification();
              assert(noise.canariesAlive);
            }
          }),
          { numRuns: 200 },
        );
      } finally {
        noise.dispose();
      }
    });

    it('survives a driver that rewrites the ring while it is read', async () => {
      const num = 61;
      const [area] = [...guest.client.areas, ...(guest.client.copied?.areas ?? [])];
      const canary = 4096;
      const memory = guest.map(arena());
      const driver = new PackedDriver(guest, { num, features: FEATURES, at: 0 });
      for (const deliver of [false, true]) {
        const plain = deliver ? F_WRITE : 0;
        const kinds = [plain, plain, plain, plain, plain, plain | F_NEXT, F_INDIRECT, F_WRITE ^ plain];
        const owners = [F_AVAIL, F_AVAIL, F_AVAIL, F_USED, F_AVAIL | F_USED];
        const scribbler = new Scribbler({
          memory: area!,
          from: canary,
          to: canary + num * 16,
          values: [
            [DATA_AT, DATA_AT + 1, DATA_AT + 2, GUEST_BYTES - 64, TABLE_AT],
            [...new Array(30).fill(0), 1, 0xffff_ffff],
            [72, 100, 1500, 1500, 1500, 32, 65_562, 0xffff_ffff, 0],
            owners.flatMap((owner) => kinds.map((kind) => ((owner | kind) << 16) | 7)),
          ],
        });
        let frames = 0;
        let errors = 0;
        try {
          await scribbler.started();
          const deadline = Date.now() + 20_000;
          while ((frames < ENOUGH || errors < ENOUGH) && Date.now() < deadline) {
            // Each starts elsewhere, for the scribbler may sleep for a while.
            const place = placeWord(errors % num, num);
            const queue = new PackedVirtqueue(memory, driver.description({ base: packBase(place, place) }));
            for (let round = 0; round < 50 && queue.error === null; round++) {
              batch.clear();
              if (deliver) {
                for (let i = 0; i < 8; i++) appendFrame(batch, [frameBytes(60, i)]);
                frames += queue.deliver(batch, 0, 8);
              } else {
                const received = queue.receive(batch);
                for (let i = 0; i < received; i++) assert.equal(frameOf(batch, i).length, batch.length[i]);
                queue.release(received);
                frames += received;
              }
              queue.flush();
            }
            if (queue.error !== null) errors++;
          }
        } finally {
          await scribbler.stop();
        }
        assert(guest.canariesAlive);
        assert(frames >= ENOUGH && errors >= ENOUGH, `${frames} frames, ${errors} errors: nothing was tried`);
      }
    });
  });
}
