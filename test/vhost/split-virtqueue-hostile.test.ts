/** Drivers that break the rules: each way has its own code, hurts its own ring alone, and costs bounded work. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { drainEventfd, eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import type { Arena } from '../../memory/arena.ts';
import { type FrameBatch, HEADER_BYTES, MAX_FRAME_SEGMENTS } from '../../memory/frame-batch.ts';
import type { RingErrorCode } from '../../vhost/ring-error.ts';
import { SplitVirtqueue } from '../../vhost/split-virtqueue.ts';
import { BUFFER_TOO_SMALL, RING_BROKEN } from '../../vhost/virtqueue.ts';
import { emptyBatch } from '../helpers/arenas.ts';
import { appendFrame, appendFrames, cut, frameBytes, frameOf, join } from '../helpers/frame-bytes.ts';
import { deliverOne } from '../helpers/one-frame.ts';
import { Scribbler } from '../helpers/scribbler.ts';
import {
  ANY_LAYOUT,
  driverRingBytes,
  EVENT_IDX,
  F_INDIRECT,
  F_NEXT,
  F_WRITE,
  INDIRECT_DESC,
  MEMORIES,
  MRG_RXBUF,
  type PrivateRegions,
  SplitDriver,
  TestGuest,
  VERSION_1,
} from '../helpers/split-driver.ts';

const MIB = 2 ** 20;
const FEATURES = ANY_LAYOUT | VERSION_1 | INDIRECT_DESC | MRG_RXBUF;
const NUM = 16;
const RING_AT = 0x1000;
const SECOND_RING_AT = 0x8000;
const DATA_AT = 0x10_000;
const TABLE_AT = 0x20_000;
const GUEST_END = 2 * MIB;
const HEADER = new Uint8Array(12);
/** Frames and errors that a race has to bring about to have been one. */
const ENOUGH = 200;

/** One hostile act: what to poke, and what the ring must say. */
interface Case {
  title: string;
  code: RingErrorCode;
  index?: number;
  value?: number;
  features?: bigint;
  num?: number;
  /** In the receive ring (we write) instead of the transmit ring. */
  deliver?: boolean;
  poke(driver: SplitDriver): void;
}

const announce = (driver: SplitDriver, head = 0): void => {
  driver.pokeAvail(0, head);
  driver.pokeAvailIdx(1);
};

const CASES: Case[] = [
  {
    title: 'avail.idx one more than the ring has entries',
    code: 'AVAIL_IDX_JUMPED',
    index: 0,
    value: NUM + 1,
    poke: (driver) => driver.pokeAvailIdx(NUM + 1),
  },
  {
    title: 'avail.idx that went back',
    code: 'AVAIL_IDX_JUMPED',
    index: 0,
    value: 0xffff,
    poke: (driver) => driver.pokeAvailIdx(0xffff),
  },
  {
    title: 'avail.idx that jumps in a receive ring',
    code: 'AVAIL_IDX_JUMPED',
    deliver: true,
    poke: (driver) => driver.pokeAvailIdx(0x8000),
  },
  {
    title: 'a head as large as the ring',
    code: 'HEAD_OUT_OF_RANGE',
    index: 0,
    value: NUM,
    poke: (driver) => announce(driver, NUM),
  },
  {
    title: 'a head of 65535 in a receive ring',
    code: 'HEAD_OUT_OF_RANGE',
    value: 0xffff,
    deliver: true,
    poke: (driver) => announce(driver, 0xffff),
  },
  {
    title: 'a next as large as the ring',
    code: 'NEXT_OUT_OF_RANGE',
    value: NUM,
    poke(driver) {
      driver.pokeDescriptor(3, { addr: BigInt(DATA_AT), len: 10, flags: F_NEXT, next: NUM });
      announce(driver, 3);
    },
  },
  {
    title: 'a next within the ring and beyond the indirect table',
    code: 'NEXT_OUT_OF_RANGE',
    value: 2,
    poke(driver) {
      driver.pokeIndirect(TABLE_AT, 0, { addr: BigInt(DATA_AT), len: 10, flags: F_NEXT, next: 2 });
      driver.pokeDescriptor(0, { addr: BigInt(TABLE_AT), len: 32, flags: F_INDIRECT });
      announce(driver);
    },
  },
  {
    title: 'a chain of more buffers than a frame may have',
    code: 'CHAIN_TOO_LONG',
    num: 2048,
    poke(driver) {
      for (let i = 0; i <= MAX_FRAME_SEGMENTS; i++) {
        const flags = i === MAX_FRAME_SEGMENTS ? 0 : F_NEXT;
        driver.pokeDescriptor(i, { addr: BigInt(DATA_AT), len: 1, flags, next: i + 1 });
      }
      announce(driver);
    },
  },
  {
    title: 'a chain of that many empty buffers',
    code: 'CHAIN_TOO_LONG',
    num: 32_768,
    deliver: true,
    poke(driver) {
      for (let i = 0; i <= MAX_FRAME_SEGMENTS; i++) driver.pokeDescriptor(i, { flags: F_NEXT | F_WRITE, next: i + 1 });
      announce(driver);
    },
  },
  {
    title: 'a chain of more bytes than 2^31',
    code: 'CHAIN_TOO_LONG',
    value: 0x7fff_ffff,
    poke(driver) {
      driver.pokeDescriptor(0, { addr: BigInt(DATA_AT), len: 1, flags: F_NEXT, next: 1 });
      driver.pokeDescriptor(1, { addr: BigInt(DATA_AT), len: 0x7fff_ffff });
      announce(driver);
    },
  },
  {
    title: 'a descriptor that names itself',
    code: 'CHAIN_LOOPS',
    index: 5,
    value: NUM,
    poke(driver) {
      driver.pokeDescriptor(5, { addr: BigInt(DATA_AT), len: 1, flags: F_NEXT, next: 5 });
      announce(driver, 5);
    },
  },
  {
    title: 'a loop of empty buffers in a receive ring',
    code: 'CHAIN_LOOPS',
    deliver: true,
    poke(driver) {
      driver.pokeDescriptor(0, { flags: F_NEXT | F_WRITE, next: 1 });
      driver.pokeDescriptor(1, { flags: F_NEXT | F_WRITE, next: 0 });
      announce(driver);
    },
  },
  {
    title: 'a loop in an indirect table',
    code: 'CHAIN_LOOPS',
    value: 4,
    poke(driver) {
      for (let i = 0; i < 4; i++) {
        driver.pokeIndirect(TABLE_AT, i, { addr: BigInt(DATA_AT), len: 1, flags: F_NEXT, next: (i + 1) % 4 });
      }
      driver.pokeDescriptor(0, { addr: BigInt(TABLE_AT), len: 64, flags: F_INDIRECT });
      announce(driver);
    },
  },
  {
    title: 'a device-writable buffer in a transmit ring',
    code: 'WRONG_DIRECTION',
    index: 1,
    value: F_WRITE,
    poke(driver) {
      driver.pokeDescriptor(0, { addr: BigInt(DATA_AT), len: 100, flags: F_NEXT, next: 1 });
      driver.pokeDescriptor(1, { addr: BigInt(DATA_AT), len: 100, flags: F_WRITE });
      announce(driver);
    },
  },
  {
    title: 'a device-readable buffer in a receive ring',
    code: 'WRONG_DIRECTION',
    index: 0,
    value: 0,
    deliver: true,
    poke(driver) {
      driver.pokeDescriptor(0, { addr: BigInt(DATA_AT), len: 100 });
      announce(driver);
    },
  },
  {
    title: 'a buffer beyond the memory',
    code: 'BUFFER_UNMAPPED',
    index: 2,
    value: GUEST_END,
    poke(driver) {
      driver.pokeDescriptor(2, { addr: BigInt(GUEST_END), len: 100 });
      announce(driver, 2);
    },
  },
  {
    title: 'a buffer whose last byte is beyond the memory',
    code: 'BUFFER_UNMAPPED',
    value: GUEST_END - 99,
    deliver: true,
    poke(driver) {
      driver.pokeDescriptor(0, { addr: BigInt(GUEST_END - 99), len: 100, flags: F_WRITE });
      announce(driver);
    },
  },
  {
    title: 'a buffer that wraps around the end of 64 bits',
    code: 'BUFFER_UNMAPPED',
    poke(driver) {
      driver.pokeDescriptor(0, { addr: 0xffff_ffff_ffff_fff0n, len: 0x100 });
      announce(driver);
    },
  },
  {
    title: 'an address that a double would round into the memory',
    code: 'BUFFER_UNMAPPED',
    poke(driver) {
      driver.pokeDescriptor(0, { addr: (1n << 52n) + BigInt(DATA_AT), len: 100 });
      announce(driver);
    },
  },
  {
    title: 'an indirect table without the feature',
    code: 'INDIRECT_NOT_NEGOTIATED',
    features: FEATURES & ~INDIRECT_DESC,
    index: 0,
    value: 16,
    poke(driver) {
      driver.pokeIndirect(TABLE_AT, 0, { addr: BigInt(DATA_AT), len: 100 });
      driver.pokeDescriptor(0, { addr: BigInt(TABLE_AT), len: 16, flags: F_INDIRECT });
      announce(driver);
    },
  },
  {
    title: 'an indirect table in an indirect table',
    code: 'INDIRECT_NESTED',
    index: 1,
    value: F_INDIRECT,
    poke(driver) {
      driver.pokeIndirect(TABLE_AT, 0, { addr: BigInt(DATA_AT), len: 100, flags: F_NEXT, next: 1 });
      driver.pokeIndirect(TABLE_AT, 1, { addr: BigInt(TABLE_AT), len: 16, flags: F_INDIRECT });
      driver.pokeDescriptor(0, { addr: BigInt(TABLE_AT), len: 32, flags: F_INDIRECT });
      announce(driver);
    },
  },
  {
    title: 'an indirect table with a next',
    code: 'INDIRECT_WITH_NEXT',
    index: 0,
    value: F_INDIRECT | F_NEXT,
    poke(driver) {
      driver.pokeIndirect(TABLE_AT, 0, { addr: BigInt(DATA_AT), len: 100 });
      driver.pokeDescriptor(0, { addr: BigInt(TABLE_AT), len: 16, flags: F_INDIRECT | F_NEXT, next: 1 });
      announce(driver);
    },
  },
  ...[0, 15, 17, 16 * (MAX_FRAME_SEGMENTS + 1), 0xffff_fff0].map(
    (len): Case => ({
      title: `an indirect table of ${len} bytes`,
      code: 'INDIRECT_LENGTH',
      index: 0,
      value: len,
      poke(driver) {
        driver.pokeDescriptor(0, { addr: BigInt(TABLE_AT), len, flags: F_INDIRECT });
        announce(driver);
      },
    }),
  ),
  ...[BigInt(GUEST_END), BigInt(GUEST_END - 16), 1n << 63n, 0xffff_ffff_ffff_fff0n].map(
    (addr): Case => ({
      title: `an indirect table at 0x${addr.toString(16)}`,
      code: 'INDIRECT_UNMAPPED',
      index: 0,
      value: Number(addr),
      deliver: true,
      poke(driver) {
        driver.pokeDescriptor(0, { addr, len: 32, flags: F_INDIRECT });
        announce(driver);
      },
    }),
  ),
];

for (const { name, arena, isPrivate } of MEMORIES) {
  describe(`SplitVirtqueue with a hostile driver ${name}`, () => suite(arena, isPrivate));
}

function suite(arena: () => Arena, isPrivate?: PrivateRegions): void {
  const region = { guestAddress: 0, size: GUEST_END, userAddress: 0x7200_0000_0000, canary: 8192 };
  let guest: TestGuest;
  let batch: FrameBatch;
  let err: number;
  let call: number;

  beforeEach(() => {
    guest = new TestGuest([region], isPrivate);
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
      const at = num > NUM ? MIB : RING_AT;
      const driver = new SplitDriver(guest, { num, features, at });
      const memory = guest.map(arena());
      const queue = new SplitVirtqueue(memory, driver.description({ err, call }));
      // A ring beside it, in the same memory, with a frame that waits.
      const neighbour = new SplitDriver(guest, { num: 4, features, at: SECOND_RING_AT });
      const neighbourQueue = new SplitVirtqueue(memory, neighbour.description());
      const frame = frameBytes(100, 1);
      guest.write(DATA_AT + 0x1000, join([HEADER, frame]));
      neighbour.add([{ address: DATA_AT + 0x1000, length: 112 }], false);
      neighbour.announce();

      poke(driver);
      appendFrame(batch, [frameBytes(60, 2)]);
      const trigger = (): number => (deliver ? deliverOne(queue, batch) : queue.receive(batch));
      assert.equal(trigger(), deliver ? RING_BROKEN : 0);
      assert.equal(queue.error?.code, code);
      if (index !== undefined) assert.equal(queue.error.index, index, 'index');
      if (value !== undefined) assert.equal(queue.error.value, value, 'value');
      assert.match(queue.error.message, /^\S.* \(at \d+, value \d+\)$/);
      assert.equal(drainEventfd(err), true, 'the err eventfd is signalled');

      // Silent from now on, whatever the driver repairs.
      const { error } = queue;
      driver.pokeDescriptor(0, { addr: BigInt(DATA_AT), len: 500, flags: deliver ? F_WRITE : 0 });
      announce(driver);
      batch.clear();
      assert.equal(queue.receive(batch), 0);
      appendFrame(batch, [frameBytes(60, 2)]);
      assert.equal(deliverOne(queue, batch), RING_BROKEN);
      assert.equal(queue.enableNotification(), false);
      queue.release(0);
      queue.flush();
      assert.equal(queue.error, error, 'the first error stays');
      assert.equal(driver.usedIdx, 0);
      assert.equal(drainEventfd(call), false);
      assert.equal(drainEventfd(err), false);

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

  it('provokes every code there is', () => {
    // CHAIN_NOT_AVAILABLE is for packed rings; unreachable memory has tests of its own.
    const codes: Record<Exclude<RingErrorCode, 'CHAIN_NOT_AVAILABLE' | 'CLIENT_MEMORY_UNREACHABLE'>, true> = {
      AVAIL_IDX_JUMPED: true,
      HEAD_OUT_OF_RANGE: true,
      NEXT_OUT_OF_RANGE: true,
      CHAIN_TOO_LONG: true,
      CHAIN_LOOPS: true,
      WRONG_DIRECTION: true,
      BUFFER_UNMAPPED: true,
      INDIRECT_NOT_NEGOTIATED: true,
      INDIRECT_NESTED: true,
      INDIRECT_WITH_NEXT: true,
      INDIRECT_LENGTH: true,
      INDIRECT_UNMAPPED: true,
    };
    assert.deepEqual(new Set(CASES.map((one) => one.code)), new Set(Object.keys(codes)));
  });

  it('completes the frames before the broken one', () => {
    const driver = new SplitDriver(guest, { num: NUM, features: FEATURES, at: RING_AT });
    const queue = new SplitVirtqueue(guest.map(arena()), driver.description({ err }));
    guest.write(DATA_AT, join([HEADER, frameBytes(60, 1)]));
    for (let i = 0; i < 3; i++) driver.add([{ address: DATA_AT, length: 72 }], false);
    driver.announce();
    driver.pokeDescriptor(2, { addr: 1n << 60n, len: 100 });
    assert.equal(queue.receive(batch), 2);
    assert.equal(queue.error?.code, 'BUFFER_UNMAPPED');
    queue.release(2);
    queue.flush();
    assert.equal(driver.reclaim().length, 2);
  });

  it('takes nothing from the ring when a later chain of a gathered delivery is broken', () => {
    const driver = new SplitDriver(guest, { num: NUM, features: FEATURES, at: RING_AT });
    const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
    guest.write(DATA_AT, new Uint8Array(60).fill(0xee));
    driver.add([{ address: DATA_AT, length: 60 }], true);
    driver.add([{ address: DATA_AT + 60, length: 60 }], false);
    driver.announce();
    appendFrame(batch, [frameBytes(100, 2)]);
    assert.equal(deliverOne(queue, batch), RING_BROKEN);
    queue.flush();
    assert.deepEqual(driver.reclaim(), []);
    assert.deepEqual(guest.read(DATA_AT, 60), new Uint8Array(60).fill(0xee));
    assert.equal(queue.base, 0);
  });

  it('breaks on chains made available a second time while they are still taken', () => {
    const driver = new SplitDriver(guest, { num: 2, features: FEATURES, at: RING_AT });
    const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
    guest.write(DATA_AT, join([HEADER, frameBytes(60, 1)]));
    for (let i = 0; i < 2; i++) driver.add([{ address: DATA_AT, length: 72 }], false);
    driver.announce();
    assert.equal(queue.receive(batch), 2);
    driver.pokeAvailIdx(3);
    assert.equal(queue.receive(batch), 0);
    assert.equal(queue.error?.code, 'AVAIL_IDX_JUMPED');
  });

  it('takes nothing more when avail.idx jumps between the frames of a run', () => {
    const driver = new SplitDriver(guest, { num: NUM, features: FEATURES, at: RING_AT });
    const queue = new SplitVirtqueue(guest.map(arena()), driver.description({ err }));
    guest.write(DATA_AT, new Uint8Array(1000).fill(0xee));
    for (let i = 0; i < 3; i++) driver.add([{ address: DATA_AT + i * 300, length: 300 }], true);
    driver.announce();
    appendFrames(
      batch,
      [1, 2, 3, 4].map((seed) => frameBytes(60, seed)),
    );
    assert.equal(queue.deliver(batch, 0, 1), 1);
    // Two buffers are known to be there; the third frame makes the device look.
    driver.pokeAvailIdx(1000);
    assert.equal(queue.deliver(batch, 1, 4), 0);
    assert.equal(queue.refusal, RING_BROKEN);
    assert.deepEqual([queue.error?.code, queue.error?.value], ['AVAIL_IDX_JUMPED', 1000]);
    assert.equal(drainEventfd(err), true);
    const { error } = queue;
    assert.equal(queue.deliver(batch, 1, 4), 0);
    assert.equal(queue.error, error);
    assert.equal(drainEventfd(err), false);
    queue.flush();
    assert.equal(driver.usedIdx, 1);
    assert.deepEqual(guest.read(DATA_AT + 300, 600), new Uint8Array(600).fill(0xee));
  });

  it('reads descriptors and first bytes once: what the driver rewrites after receive changes its own payload only', () => {
    const memory = guest.map(arena());
    const from = new SplitDriver(guest, { num: NUM, features: FEATURES, at: RING_AT });
    const to = new SplitDriver(guest, { num: NUM, features: FEATURES, at: SECOND_RING_AT });
    const tx = new SplitVirtqueue(memory, from.description({ err }));
    const rx = new SplitVirtqueue(memory, to.description({ err }));
    const RECEIVED_AT = MIB;
    // One buffer, a chain, and an indirect table.
    const lengths = [[], [100, 7, 300], [50, 500]];
    const buffers = lengths.map((cuts, i) => {
      let at = DATA_AT + 0x1000 * i;
      return cut(join([HEADER, frameBytes(1000, i)]), cuts).map((piece) => {
        guest.write(at, piece);
        const buffer = { address: at, length: piece.length };
        at += piece.length;
        return buffer;
      });
    });
    const heads = [from.add(buffers[0]!, false), from.add(buffers[1]!, false)];
    heads.push(from.addIndirect(buffers[2]!, false, TABLE_AT));
    from.announce();
    for (let i = 0; i < 3; i++) to.add([{ address: RECEIVED_AT + 0x1000 * i, length: 2000 }], true);
    to.announce();
    assert.equal(tx.receive(batch), 3);

    for (let i = 0; i < NUM; i++) {
      from.pokeDescriptor(i, { addr: BigInt(RING_AT), len: 0xffff_ffff, flags: F_WRITE | F_NEXT, next: i });
      from.pokeIndirect(TABLE_AT, i, { addr: 1n << 60n, len: 3, flags: F_INDIRECT });
      from.pokeAvail(i, 0xffff);
    }
    for (const each of buffers)
      for (const { address, length } of each) guest.write(address, new Uint8Array(length).fill(0x99));
    assert.equal(rx.deliver(batch, 0, 3), 3);
    tx.release(3);
    rx.flush();
    tx.flush();
    assert.deepEqual(
      to.reclaim().map((chain) => to.contents(chain)),
      [0, 1, 2].map((i) => {
        const sent = frameBytes(1000, i);
        // Of private memory the payload was copied when it was received.
        const payload = isPrivate?.(0) ? sent.subarray(HEADER_BYTES) : new Uint8Array(1000 - HEADER_BYTES).fill(0x99);
        return join([Uint8Array.of(...new Uint8Array(10), 1, 0), sent.subarray(0, HEADER_BYTES), payload]);
      }),
    );
    assert.deepEqual(
      from.reclaim().map(({ head }) => head),
      heads,
    );
    assert.deepEqual([tx.error, rx.error], [null, null]);
    assert(guest.canariesAlive);
  });

  it('survives a driver that rewrites the ring while it is read', async () => {
    const num = 64;
    const canary = 8192;
    const memory = guest.map(arena());
    const [area] = [...guest.client.areas, ...(guest.client.copied?.areas ?? [])];
    for (const deliver of [false, true]) {
      const driver = new SplitDriver(guest, { num, features: FEATURES, at: 0 });
      for (let i = 0; i < num; i++) driver.pokeAvail(i, i);
      driver.pokeAvailIdx(num);
      const plain = deliver ? F_WRITE : 0;
      const kinds = [...new Array(20).fill(plain), plain | F_NEXT, F_INDIRECT, F_WRITE ^ plain];
      const scribbler = new Scribbler({
        memory: area!,
        from: canary,
        to: canary + num * 16,
        values: [
          [DATA_AT, DATA_AT + 1, DATA_AT + 2, GUEST_END - 64, TABLE_AT],
          [...new Array(30).fill(0), 1, 0xffff_ffff],
          [72, 100, 1500, 1500, 1500, 32, 65_562, 0xffff_ffff, 0],
          kinds.map((kind) => kind | (7 << 16)),
        ],
      });
      let frames = 0;
      let errors = 0;
      try {
        await scribbler.started();
        const deadline = Date.now() + 20_000;
        while ((frames < ENOUGH || errors < ENOUGH) && Date.now() < deadline) {
          const queue = new SplitVirtqueue(memory, driver.description({ base: 0 }));
          for (let round = 0; round < 16 && queue.error === null; round++) {
            batch.clear();
            if (deliver) {
              appendFrames(
                batch,
                [1, 2, 3, 4].map((seed) => frameBytes(60, seed)),
              );
              frames += queue.deliver(batch, 0, 4);
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

  it('spends bounded time on a full ring of the longest chains', () => {
    const num = 32_768;
    const driver = new SplitDriver(guest, { num, features: FEATURES, at: MIB });
    // One chain of 1023 empty buffers and one of a byte, named by every entry.
    for (const direction of [0, F_WRITE]) {
      for (let i = 0; i < MAX_FRAME_SEGMENTS; i++) {
        const last = i === MAX_FRAME_SEGMENTS - 1;
        driver.pokeDescriptor(i, {
          addr: BigInt(DATA_AT),
          len: last ? 1 : 0,
          flags: direction | (last ? 0 : F_NEXT),
          next: last ? 0 : i + 1,
        });
      }
      driver.pokeAvailIdx(num);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description({ base: 0 }));
      batch.clear();
      const start = process.cpuUsage();
      for (let round = 0; round < 10; round++) {
        if (direction === 0) queue.receive(batch);
        else {
          batch.clear();
          appendFrame(batch, [frameBytes(60, 1)]);
          assert.equal(deliverOne(queue, batch), BUFFER_TOO_SMALL, 'empty buffers count too');
        }
      }
      const { user, system } = process.cpuUsage(start);
      assert.equal(queue.error, null);
      // 10 × 32 × 1024 descriptors take a few milliseconds; without a bound it would be 10 × 32768 × 1024, seconds.
      assert(user + system < 500_000, `${user + system} µs`);
    }
  });

  // ---- random garbage

  const SMALL = 64 * 1024;
  /** Indirect tables of the same garbage stand this far apart. */
  const TABLE_STEP = 0x800;

  /** Garbage that is near enough to sense to get far: small numbers, addresses about the borders, the flags there are. */
  const garbage = fc.record({
    descriptors: fc.array(
      fc.record({
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
        flags: fc.oneof(
          { weight: 6, arbitrary: fc.integer({ min: 0, max: 7 }) },
          { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff }) },
        ),
        next: fc.oneof(
          { weight: 6, arbitrary: fc.integer({ min: 0, max: NUM - 1 }) },
          { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff }) },
        ),
      }),
      { minLength: NUM, maxLength: NUM },
    ),
    heads: fc.array(
      fc.oneof(
        { weight: 9, arbitrary: fc.integer({ min: 0, max: NUM - 1 }) },
        { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff }) },
      ),
      { minLength: NUM, maxLength: NUM },
    ),
    idxStep: fc.oneof(
      { weight: 9, arbitrary: fc.integer({ min: 0, max: 6 }) },
      { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff }) },
    ),
    seed: fc.nat(),
  });

  const features = fc
    .record({ indirect: fc.boolean(), event: fc.boolean(), mergeable: fc.boolean(), modern: fc.boolean() })
    .map(
      ({ indirect, event, mergeable, modern }) =>
        (indirect ? INDIRECT_DESC : 0n) |
        (event ? EVENT_IDX : 0n) |
        (mergeable ? MRG_RXBUF : 0n) |
        (modern ? VERSION_1 : 0n),
    );

  it('never throws, loops or writes elsewhere on random memory that changes between calls', () => {
    const ringAt = 2 * MIB;
    // The ring in a region of its own, so that everything else may be compared byte by byte.
    const small = new TestGuest(
      [
        { guestAddress: 0, size: SMALL, userAddress: 0x7400_0000_0000, canary: 8192 },
        { guestAddress: ringAt, size: driverRingBytes(NUM) + 64, userAddress: 0x7300_0000_0000, canary: 4096 },
      ],
      isPrivate,
    );
    const memory = small.map(arena());
    try {
      fc.assert(
        fc.property(
          features,
          fc.boolean(),
          fc.array(garbage, { minLength: 1, maxLength: 6 }),
          (features, deliver, rounds) => {
            const driver = new SplitDriver(small, { num: NUM, features, at: ringAt });
            const queue = new SplitVirtqueue(memory, driver.description());
            let idx = 0;
            let writableBefore: Uint8Array = new Uint8Array(SMALL);
            for (const round of rounds) {
              // Everything that the device may read, random; where it may write, by the table now in force.
              small.write(0, frameBytes(SMALL, round.seed));
              for (const [i, descriptor] of round.descriptors.entries()) {
                driver.pokeDescriptor(i, descriptor);
                for (let table = 0; table < NUM; table++) {
                  driver.pokeIndirect(table * TABLE_STEP, i, round.descriptors[(i + table) % NUM]!);
                }
              }
              for (const [i, head] of round.heads.entries()) driver.pokeAvail(i, head);
              idx = (idx + round.idxStep) & 0xffff;
              driver.pokeAvailIdx(idx);
              const before = small.read(0, SMALL);
              const beforeRing = small.read(ringAt, driver.used - ringAt);

              const batch = emptyBatch(arena());
              if (deliver) {
                const lengths = [14 + (round.seed % 900), 14 + (round.seed % 77), 14 + (round.seed % 1500)];
                appendFrames(
                  batch,
                  lengths.map((length) => frameBytes(length, round.seed)),
                );
                queue.deliver(batch, 0, 3);
              } else {
                const received = queue.receive(batch);
                for (let i = 0; i < received; i++) frameOf(batch, i);
                queue.release(received);
              }
              queue.flush();
              queue.disableNotification();
              queue.enableNotification();

              assert(small.canariesAlive, 'a canary died');
              assert.deepEqual(small.read(ringAt, driver.used - ringAt), beforeRing, 'descriptors or avail changed');
              const writable = writableBytes(small, round.descriptors, deliver, before);
              if (isPrivate) {
                // Descriptors of private memory are read when avail.idx moves, and may be used a round later.
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
  });

  /** Bytes that some descriptor with the WRITE flag covers: of the ring's table, or of any table in the memory. */
  function writableBytes(
    guest: TestGuest,
    descriptors: { addr: bigint; len: number; flags: number }[],
    deliver: boolean,
    before: Uint8Array,
  ): Uint8Array {
    assert(guest.canariesAlive);
    const writable = new Uint8Array(SMALL);
    const cover = (addr: bigint, len: number): void => {
      if (addr >= BigInt(SMALL)) return;
      writable.fill(1, Number(addr), Math.min(Number(addr) + len, SMALL));
    };
    if (!deliver) return writable;
    const view = new DataView(before.buffer);
    for (const { addr, len, flags } of descriptors) {
      if ((flags & F_INDIRECT) === 0) {
        if ((flags & F_WRITE) !== 0) cover(addr, len);
        continue;
      }
      for (let at = Number(addr); at + 16 <= Math.min(Number(addr) + len, SMALL); at += 16) {
        if ((view.getUint16(at + 12, true) & F_WRITE) !== 0)
          cover(view.getBigUint64(at, true), view.getUint32(at + 8, true));
      }
    }
    return writable;
  }

  it('survives memory of nothing but noise', () => {
    const noise = new TestGuest(
      [{ guestAddress: 0, size: SMALL, userAddress: 0x7400_0000_0000, canary: 8192 }],
      isPrivate,
    );
    const memory = noise.map(arena());
    try {
      fc.assert(
        fc.property(features, fc.nat(), fc.integer({ min: 0, max: 10 }), (features, seed, log) => {
          const driver = new SplitDriver(noise, { num: 1 << log, features, at: 0 });
          const queue = new SplitVirtqueue(memory, driver.description());
          const batch = emptyBatch(arena());
          for (let round = 0; round < 4; round++) {
            noise.write(0, frameBytes(SMALL, seed + round));
            driver.pokeAvailIdx((queue.base + round) & 0xffff);
            batch.clear();
            const received = queue.receive(batch);
            queue.release(received);
            deliverOne(queue, batch);
            queue.flush();
            assert(noise.canariesAlive);
          }
        }),
        { numRuns: 200 },
      );
    } finally {
      noise.dispose();
    }
  });
}
