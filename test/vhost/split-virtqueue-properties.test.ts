/** Random sequences of driver and device against a plain model: an array of what was offered and not yet taken. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { drainEventfd, eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import type { Arena } from '../../memory/arena.ts';
import { BATCH_FRAMES, MAX_FRAME_BYTES, MIN_FRAME_BYTES } from '../../memory/frame-batch.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { SplitVirtqueue } from '../../vhost/split-virtqueue.ts';
import { VIRTIO_NET_HDR_F_NEEDS_CSUM } from '../../vhost/virtio.ts';
import { BUFFER_TOO_SMALL, NO_BUFFERS, NO_REFUSAL } from '../../vhost/virtqueue.ts';
import { emptyBatch } from '../helpers/arenas.ts';
import { appendFrame, cut, frameBytes, frameOf, join } from '../helpers/frame-bytes.ts';
import {
  crosses,
  driverRingBytes,
  EVENT_IDX,
  IN_ORDER,
  INDIRECT_DESC,
  MEMORIES,
  MRG_RXBUF,
  NOTIFY_ON_EMPTY,
  type PrivateRegions,
  SplitDriver,
  type TestBuffer,
  TestGuest,
  VERSION_1,
} from '../helpers/split-driver.ts';

const RUNS = 200;
const MIB = 2 ** 20;
const BORDER = 4 * MIB;
const GUEST_END = 12 * MIB;
const DATA_AT = 2 * MIB;
const MAX_NUM = 64;

const features = fc
  .record({
    indirect: fc.boolean(),
    event: fc.boolean(),
    mergeable: fc.boolean(),
    modern: fc.boolean(),
    onEmpty: fc.boolean(),
    inOrder: fc.boolean(),
  })
  .map(
    ({ indirect, event, mergeable, modern, onEmpty, inOrder }) =>
      (indirect ? INDIRECT_DESC : 0n) |
      (event ? EVENT_IDX : 0n) |
      (mergeable ? MRG_RXBUF : 0n) |
      (modern ? VERSION_1 : 0n) |
      (onEmpty ? NOTIFY_ON_EMPTY : 0n) |
      (inOrder ? IN_ORDER : 0n),
  );
const headerBytes = (set: bigint): number => ((set & (MRG_RXBUF | VERSION_1)) === 0n ? 10 : 12);

const num = fc.integer({ min: 0, max: Math.log2(MAX_NUM) }).map((log) => 2 ** log);
const base = fc.oneof(
  fc.constantFrom(0, 1, 0x7fff, 0xfffe, 0xffff),
  fc.integer({ min: 0xffe0, max: 0xffff }),
  fc.nat(0xffff),
);
const frameLength = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: MIN_FRAME_BYTES, max: 300 }) },
  { weight: 3, arbitrary: fc.integer({ min: MIN_FRAME_BYTES, max: 9100 }) },
  { weight: 1, arbitrary: fc.integer({ min: 60_000, max: MAX_FRAME_BYTES }) },
);
const notAFrame = fc.oneof(fc.integer({ min: 0, max: MIN_FRAME_BYTES - 1 }), fc.constant(MAX_FRAME_BYTES + 1));
/** Often none: chains of one buffer go their own way. */
const cuts = fc.oneof(
  fc.constant<number[]>([]),
  fc.array(
    fc.oneof(
      { weight: 4, arbitrary: fc.integer({ min: 0, max: 14 }) },
      { weight: 2, arbitrary: fc.integer({ min: 0, max: 5000 }) },
    ),
    { maxLength: 20 },
  ),
);

interface Post {
  kind: 'post';
  /** Bytes after the virtio-net header. */
  length: number;
  cuts: number[];
  indirect: boolean;
  direct: number;
  announce: boolean;
}
const post: fc.Arbitrary<Post> = fc.record({
  kind: fc.constant('post' as const),
  length: fc.oneof({ weight: 6, arbitrary: frameLength }, { weight: 1, arbitrary: notAFrame }),
  cuts,
  indirect: fc.boolean(),
  direct: fc.nat(2),
  announce: fc.boolean(),
});
/** Asked of the device between frames: polling, sleeping, another mapping, another queue object at the same place. */
const disturb = fc.record({
  kind: fc.constant('disturb' as const),
  what: fc.constantFrom('poll' as const, 'sleep' as const, 'remap' as const, 'restart' as const),
});
const wish = fc.record({ kind: fc.constant('wish' as const), usedEvent: fc.nat(20), noInterrupt: fc.boolean() });

for (const { name, arena, isPrivate } of MEMORIES) {
  describe(`SplitVirtqueue against a model ${name}`, () => suite(arena, isPrivate));
}

function suite(arena: () => Arena, isPrivate?: PrivateRegions): void {
  let guest: TestGuest;
  let call: number;
  /** Two mappings of it, to go over from one to the other. */
  let memories: GuestMemory[];
  before(() => {
    guest = new TestGuest(
      [
        { guestAddress: 0, size: BORDER, userAddress: 0x7000_0000_0000, canary: 4096 },
        { guestAddress: BORDER, size: GUEST_END - BORDER, userAddress: 0x7100_0000_0000, canary: 4096 },
      ],
      isPrivate,
    );
    memories = [guest.map(arena()), guest.map(arena())];
    call = eventfd();
  });
  after(() => {
    guest.dispose();
    close(call);
  });

  /** One ring with its driver and device, and the checks on notifications that hold whatever frames do. */
  class Rig {
    readonly driver: SplitDriver;
    readonly features: bigint;
    queue: SplitVirtqueue;
    /** Chains used and taken by the device, counted without end from the base on. */
    used: number;
    taken: number;
    published: number;
    usedEvent: number;
    noInterrupt = false;
    first = true;
    /** Whether the device wants kicks, without EVENT_IDX; and with it, the index for which it last asked, if it did. */
    asking = true;
    askedFor: number | null = null;
    #data = DATA_AT;
    #maps = 0;

    constructor(features: bigint, num: number, base: number) {
      this.features = features;
      assert(driverRingBytes(num) < DATA_AT);
      this.driver = new SplitDriver(guest, { num, features, at: 0, base });
      this.queue = new SplitVirtqueue(memories[0]!, this.driver.description({ call }));
      this.used = base;
      this.published = base;
      this.taken = base;
      this.usedEvent = base;
      this.driver.setUsedEvent(base);
      drainEventfd(call);
    }

    /** Room for `length` bytes; the memory is so large that what comes around again is long used. */
    place(length: number): number {
      if (this.#data + length + 64 > GUEST_END) this.#data = DATA_AT;
      const at = this.#data;
      this.#data += length + 1;
      return at;
    }

    buffers(lengths: number[]): TestBuffer[] {
      return lengths.map((length) => ({ address: this.place(length), length }));
    }

    /** Adds a chain if there are descriptors for it; true when it was added. */
    add(buffers: TestBuffer[], writable: boolean, indirect: boolean, direct: number): boolean {
      const { driver } = this;
      if (indirect && (this.features & INDIRECT_DESC) !== 0n) {
        const first = Math.min(direct, buffers.length - 1);
        if (driver.freeDescriptors < first + 1) return false;
        driver.addIndirect(buffers, writable, this.place(buffers.length * 16), first);
      } else {
        if (driver.freeDescriptors < buffers.length) return false;
        driver.add(buffers, writable);
      }
      return true;
    }

    announce(): void {
      const from = this.driver.announced;
      const kick = this.driver.announce();
      if (this.driver.announced === from) return;
      if ((this.features & EVENT_IDX) === 0n) assert.equal(kick, this.asking, 'kick, by used.flags');
      else if (this.askedFor !== null) {
        assert.equal(kick, crosses(this.askedFor % 0x10000, from, this.driver.announced), 'kick, by avail_event');
      }
    }

    /** Flushes, and checks used.idx and the call against §2.7.7. */
    flush(): void {
      const { driver, queue, features } = this;
      queue.flush();
      const called = drainEventfd(call);
      assert.equal(driver.usedIdx, this.used % 0x10000);
      let expected = false;
      if (this.used !== this.published) {
        const empty = this.taken === driver.announced;
        if ((features & NOTIFY_ON_EMPTY) !== 0n && empty) expected = true;
        else if ((features & EVENT_IDX) === 0n) expected = !this.noInterrupt;
        else {
          expected = this.first || crosses(this.usedEvent % 0x10000, this.published, this.used);
          this.first = false;
        }
      }
      assert.equal(called, expected, 'call');
      this.published = this.used;
    }

    disturb(what: 'poll' | 'sleep' | 'remap' | 'restart'): void {
      if (what === 'poll') {
        this.queue.disableNotification();
        // Behind the driver, where it does not come to.
        if (this.asking) this.askedFor = this.taken + 0xffff;
        this.asking = false;
      } else if (what === 'sleep') {
        const more = this.queue.enableNotification();
        assert.equal(more, this.taken !== this.driver.announced, 'look again');
        this.asking = true;
        this.askedFor = this.taken;
      } else if (what === 'remap') {
        this.#maps = 1 - this.#maps;
        this.queue.remap(memories[this.#maps]!);
      } else {
        assert.equal(this.queue.error, null);
        assert.equal(this.queue.base, this.taken % 0x10000);
        this.queue = new SplitVirtqueue(
          memories[this.#maps]!,
          this.driver.description({ call, base: this.queue.base }),
        );
        this.first = true;
        this.asking = true;
      }
    }

    wish({ usedEvent, noInterrupt }: { usedEvent: number; noInterrupt: boolean }): void {
      this.usedEvent = this.published + usedEvent;
      this.noInterrupt = noInterrupt;
      if ((this.features & EVENT_IDX) !== 0n) this.driver.setUsedEvent(this.usedEvent);
      else this.driver.setNoInterrupt(noInterrupt);
    }
  }

  it('takes every frame once, in order and whole', () => {
    const receive = fc.record({ kind: fc.constant('receive' as const), keep: fc.nat(4) });
    const reclaim = fc.record({ kind: fc.constant('reclaim' as const) });
    const operations = fc.array(
      fc.oneof(
        { weight: 8, arbitrary: post },
        { weight: 6, arbitrary: receive },
        { weight: 2, arbitrary: reclaim },
        { weight: 2, arbitrary: disturb },
        { weight: 1, arbitrary: wish },
      ),
      { maxLength: 60, size: 'max' },
    );
    fc.assert(
      fc.property(features, num, base, operations, (features, num, base, operations) => {
        const rig = new Rig(features, num, base);
        const { driver } = rig;
        const header = headerBytes(features);
        const batch = emptyBatch(arena());
        /** Chains posted and not taken: null for what is no frame. */
        const waiting: (Uint8Array | null)[] = [];
        let announced = 0;
        let malformed = 0;
        let malformedBefore = 0;
        const heads: number[] = [];
        let seed = 0;
        let added = 0;

        const receiveAndRelease = (keep: number): void => {
          batch.clear();
          const received = rig.queue.receive(batch);
          assert.equal(rig.queue.error, null);
          // The model: malformed chains before the first frame vanish, frames follow up to the next malformed one.
          let looked = 0;
          while (announced > 0 && waiting[0] === null && looked < BATCH_FRAMES) {
            waiting.shift();
            announced--;
            malformed++;
            rig.used++;
            rig.taken++;
            looked++;
          }
          let expected = 0;
          while (expected < announced && waiting[expected] !== null && looked + expected < BATCH_FRAMES) expected++;
          if (expected < received || batch.hasRoom) assert.equal(received, expected);
          assert.equal(malformed - malformedBefore, rig.queue.malformed);
          for (let i = 0; i < received; i++) assert.deepEqual(frameOf(batch, i), waiting[i]);
          const released = Math.max(0, received - keep);
          rig.queue.release(released);
          waiting.splice(0, released);
          announced -= released;
          rig.used += released;
          rig.taken += released;
          rig.flush();
        };

        for (const operation of operations) {
          if (operation.kind === 'post') {
            const frame = frameBytes(operation.length, seed++);
            const pieces = cut(join([new Uint8Array(header), frame]), operation.cuts);
            const buffers = rig.buffers(pieces.map((piece) => piece.length));
            for (const [i, piece] of pieces.entries()) guest.write(buffers[i]!.address, piece);
            if (rig.add(buffers, false, operation.indirect, operation.direct)) {
              added++;
              const legal = frame.length >= MIN_FRAME_BYTES && frame.length <= MAX_FRAME_BYTES;
              waiting.push(legal ? frame : null);
            }
            if (operation.announce) {
              rig.announce();
              announced = waiting.length;
            }
          } else if (operation.kind === 'receive') receiveAndRelease(operation.keep);
          else if (operation.kind === 'reclaim') heads.push(...driver.reclaim().map((used) => used.head));
          else if (operation.kind === 'wish') rig.wish(operation);
          else {
            if (operation.what === 'restart') malformedBefore = malformed;
            rig.disturb(operation.what);
          }
        }
        rig.announce();
        announced = waiting.length;
        for (let round = 0; waiting.length > 0; round++) {
          assert(round <= 2 * MAX_NUM, 'frames never come out');
          receiveAndRelease(0);
        }
        heads.push(...driver.reclaim().map((used) => used.head));
        assert.equal(heads.length, added, 'every chain comes back');
        assert.equal(driver.outstanding, 0);
        assert(guest.canariesAlive);
      }),
      { numRuns: RUNS },
    );
  });

  it('delivers every frame once, in order and whole, or says why not', () => {
    const size = fc.oneof(
      { weight: 1, arbitrary: fc.constant(0) },
      { weight: 3, arbitrary: fc.integer({ min: 1, max: 64 }) },
      { weight: 6, arbitrary: fc.integer({ min: 60, max: 2000 }) },
      { weight: 2, arbitrary: fc.integer({ min: 2000, max: 66_000 }) },
    );
    const room = fc.record({
      kind: fc.constant('room' as const),
      lengths: fc.oneof(fc.tuple(size), fc.array(size, { minLength: 1, maxLength: 5 })),
      indirect: fc.boolean(),
      direct: fc.nat(2),
      announce: fc.boolean(),
    });
    const frames = fc.record({
      kind: fc.constant('deliver' as const),
      frames: fc.array(fc.record({ length: frameLength, cuts }), { minLength: 1, maxLength: 8 }),
      /** Frames offered together, at the most. */
      run: fc.integer({ min: 1, max: 8 }),
    });
    const operations = fc.array(
      fc.oneof(
        { weight: 8, arbitrary: room },
        { weight: 6, arbitrary: frames },
        { weight: 2, arbitrary: disturb },
        { weight: 1, arbitrary: wish },
      ),
      { maxLength: 60, size: 'max' },
    );
    fc.assert(
      fc.property(features, num, base, operations, (features, num, base, operations) => {
        const rig = new Rig(features, num, base);
        const { driver } = rig;
        const header = headerBytes(features);
        const mergeable = (features & MRG_RXBUF) !== 0n;
        const batch = emptyBatch(arena());
        /** Sizes of the chains posted, of which the first `announced` are visible. */
        const sizes: number[] = [];
        let announced = 0;
        let seed = 0;

        /** What must become of the next frame: how many chains it takes, or why it takes none. */
        const expectation = (total: number): { result: number; chains: number } => {
          let room = 0;
          for (let chains = 0; chains < announced; chains++) {
            room += sizes[chains]!;
            if (room >= total) return { result: NO_REFUSAL, chains: chains + 1 };
            if (!mergeable || sizes[chains] === 0) return { result: BUFFER_TOO_SMALL, chains: 0 };
          }
          return { result: NO_BUFFERS, chains: 0 };
        };

        for (const operation of operations) {
          if (operation.kind === 'room') {
            const buffers = rig.buffers(operation.lengths);
            if (rig.add(buffers, true, operation.indirect, operation.direct)) {
              sizes.push(buffers.reduce((sum, { length }) => sum + length, 0));
            }
            if (operation.announce) {
              rig.announce();
              announced = sizes.length;
            }
          } else if (operation.kind === 'deliver') {
            batch.clear();
            const contents = operation.frames.map(({ length }) => frameBytes(length, seed++));
            const delivered: { frame: Uint8Array; chains: number; sizes: number[] }[] = [];
            for (const [i, frame] of contents.entries()) {
              appendFrame(batch, cut(frame, operation.frames[i]!.cuts));
              batch.flags[i] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
              batch.csumStart[i] = 0x1234;
            }
            for (let next = 0; next < contents.length; ) {
              const end = Math.min(next + operation.run, contents.length);
              let expected = next;
              let refusal = NO_REFUSAL;
              for (; expected < end; expected++) {
                const { result, chains } = expectation(contents[expected]!.length + header);
                refusal = result;
                if (result !== NO_REFUSAL) break;
                delivered.push({ frame: contents[expected]!, chains, sizes: sizes.splice(0, chains) });
                announced -= chains;
                rig.used += chains;
                rig.taken += chains;
              }
              assert.equal(rig.queue.deliver(batch, next, end), expected - next);
              assert.equal(rig.queue.refusal, refusal);
              // The refused one is dropped.
              next = expected === end ? end : expected + 1;
            }
            assert.deepEqual(driver.reclaim(), [], 'nothing is published before flush');
            rig.flush();
            const used = driver.reclaim();
            for (const { frame, chains, sizes } of delivered) {
              const mine = used.splice(0, chains);
              assert.equal(mine.length, chains);
              for (const [i, chain] of mine.slice(0, -1).entries()) assert.equal(chain.length, sizes[i], 'filled up');
              const bytes = join(mine.map((chain) => driver.contents(chain)));
              assert.deepEqual(bytes.subarray(header), frame);
              assert.deepEqual([...bytes.subarray(6, 8)], [0x34, 0x12], 'csum_start');
              if (header === 12) assert.equal(bytes[10]! | (bytes[11]! << 8), chains, 'num_buffers');
            }
            assert.deepEqual(used, []);
          } else if (operation.kind === 'wish') rig.wish(operation);
          else rig.disturb(operation.what);
        }
        assert.equal(rig.queue.error, null);
        assert.equal(driver.outstanding, sizes.length);
        assert(guest.canariesAlive);
      }),
      { numRuns: RUNS },
    );
  });
}
