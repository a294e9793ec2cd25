/** Random sequences of driver and device against a plain model: an array of what was offered and not yet taken. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { drainEventfd, eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { BATCH_FRAMES, MAX_FRAME_BYTES, MIN_FRAME_BYTES } from '../../memory/frame-batch.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { PackedVirtqueue } from '../../vhost/packed-virtqueue.ts';
import { BUFFER_TOO_SMALL, NO_BUFFERS, NO_REFUSAL } from '../../vhost/virtqueue.ts';
import { emptyBatch } from '../helpers/arenas.ts';
import { appendFrame, cut, frameBytes, frameOf, join } from '../helpers/frame-bytes.ts';
import {
  EVENT_DESC,
  EVENT_DISABLE,
  EVENT_ENABLE,
  PackedDriver,
  packedRingBytes,
  passes,
  placeWord,
} from '../helpers/packed-driver.ts';
import {
  EVENT_IDX,
  IN_ORDER,
  INDIRECT_DESC,
  MEMORIES,
  MRG_RXBUF,
  type TestBuffer,
  TestGuest,
  VERSION_1,
} from '../helpers/split-driver.ts';

const RUNS = 150;
const MIB = 2 ** 20;
const BORDER = 4 * MIB;
const GUEST_END = 12 * MIB;
const DATA_AT = 2 * MIB;
const MAX_NUM = 100;

const features = fc
  .subarray([INDIRECT_DESC, EVENT_IDX, MRG_RXBUF, VERSION_1, IN_ORDER])
  .map((set) => set.reduce((all, feature) => all | feature, 0n));
const headerBytes = (set: bigint): number => ((set & (MRG_RXBUF | VERSION_1)) === 0n ? 10 : 12);

/** Size of the ring, and the place where it starts: in either lap. */
const ring = fc
  .oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: MAX_NUM }))
  .chain((num) => fc.record({ num: fc.constant(num), start: fc.oneof(fc.constant(0), fc.nat(2 * num - 1)) }));
const frameLength = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: MIN_FRAME_BYTES, max: 300 }) },
  { weight: 3, arbitrary: fc.integer({ min: MIN_FRAME_BYTES, max: 9100 }) },
  { weight: 1, arbitrary: fc.integer({ min: 60_000, max: MAX_FRAME_BYTES }) },
);
const notAFrame = fc.oneof(fc.integer({ min: 0, max: MIN_FRAME_BYTES - 1 }), fc.constant(MAX_FRAME_BYTES + 1));
/** Where a frame and its header are cut into buffers: mostly not at all. */
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

const post = fc.record({
  kind: fc.constant('post' as const),
  /** Bytes after the virtio-net header. */
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
const wish = fc.record({
  kind: fc.constant('wish' as const),
  flags: fc.constantFrom(EVENT_ENABLE, EVENT_DISABLE, EVENT_DESC),
  ahead: fc.nat(MAX_NUM),
});

for (const { name, arena, isPrivate } of MEMORIES) {
  describe(`PackedVirtqueue against a model, ${name}`, function () {
    this.timeout(60_000);
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
      readonly driver: PackedDriver;
      readonly features: bigint;
      queue: PackedVirtqueue;
      /** Descriptors used and taken by the device, counted without end. */
      used: number;
      taken: number;
      published: number;
      /** What the driver wishes: flags, and the place they are about. */
      wished = { flags: EVENT_ENABLE, place: 0 };
      first = true;
      /** What the device wishes, and the place it is about. */
      asking = EVENT_ENABLE;
      askedFor = 0;
      #data = DATA_AT;
      #maps = 0;

      constructor(features: bigint, num: number, start: number) {
        this.features = features;
        assert(packedRingBytes(num) < DATA_AT);
        this.driver = new PackedDriver(guest, { num, features, at: 0, start });
        this.queue = new PackedVirtqueue(memories[0]!, this.driver.description({ call }));
        this.used = start;
        this.published = start;
        this.taken = start;
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

      /** Adds a chain if there are descriptors for it; gives how many it takes, or 0. */
      add(buffers: TestBuffer[], writable: boolean, indirect: boolean, direct: number): number {
        const { driver } = this;
        if (indirect && (this.features & INDIRECT_DESC) !== 0n) {
          const first = Math.min(direct, buffers.length - 1);
          if (driver.freeDescriptors < first + 1) return 0;
          driver.addIndirect(buffers, writable, this.place(buffers.length * 16), first);
          return first + 1;
        }
        if (driver.freeDescriptors < buffers.length) return 0;
        driver.add(buffers, writable);
        return buffers.length;
      }

      announce(): void {
        const { driver } = this;
        const from = driver.announced;
        const kick = driver.announce();
        if (driver.announced === from) return;
        const { num, announced } = driver;
        if (this.asking !== EVENT_DESC) assert.equal(kick, this.asking === EVENT_ENABLE, 'kick');
        else assert.equal(kick, passes(placeWord(this.askedFor, num), from, announced, num), 'kick, by descriptor');
      }

      /** Flushes, and checks how far the used side came, and the call against §2.8.10. */
      flush(): void {
        const { driver, queue, features, wished } = this;
        const { num } = driver;
        queue.flush();
        const called = drainEventfd(call);
        assert.equal(queue.usedIdx, placeWord(this.used, num));
        let expected = false;
        if (this.used !== this.published) {
          if (wished.flags === EVENT_DISABLE) expected = false;
          else if (wished.flags === EVENT_ENABLE || (features & EVENT_IDX) === 0n || this.first) expected = true;
          else expected = passes(placeWord(wished.place, num), this.published, this.used, num);
          this.first = false;
        }
        assert.equal(called, expected, 'call');
        this.published = this.used;
      }

      disturb(what: 'poll' | 'sleep' | 'remap' | 'restart'): void {
        const { num } = this.driver;
        if (what === 'poll') {
          this.queue.disableNotification();
          this.asking = EVENT_DISABLE;
        } else if (what === 'sleep') {
          const more = this.queue.enableNotification();
          assert.equal(more, this.taken !== this.driver.announced, 'look again');
          this.asking = (this.features & EVENT_IDX) === 0n ? EVENT_ENABLE : EVENT_DESC;
          this.askedFor = this.taken;
        } else if (what === 'remap') {
          this.#maps = 1 - this.#maps;
          this.queue.remap(memories[this.#maps]!);
        } else {
          assert.equal(this.queue.error, null);
          assert.equal(this.queue.base, placeWord(this.taken, num) + 0x10000 * placeWord(this.used, num));
          const description = this.driver.description({ call, base: this.queue.base });
          this.queue = new PackedVirtqueue(memories[this.#maps]!, description);
          this.first = true;
          this.asking = EVENT_ENABLE;
        }
        const { flags, word } = this.driver.deviceWish;
        assert.equal(flags, this.asking);
        if (flags === EVENT_DESC) assert.equal(word, placeWord(this.askedFor, num));
      }

      wish(flags: number, ahead: number): void {
        this.wished = { flags, place: this.published + (ahead % this.driver.num) };
        this.driver.wish(flags, this.wished.place);
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
        { maxLength: 80, size: 'max' },
      );
      fc.assert(
        fc.property(features, ring, operations, (features, { num, start }, operations) => {
          const rig = new Rig(features, num, start);
          const { driver } = rig;
          const header = headerBytes(features);
          const batch = emptyBatch(arena());
          /** Chains posted and not taken, with their descriptors: no bytes for what is no frame. */
          const waiting: { frame: Uint8Array | null; descriptors: number }[] = [];
          let announced = 0;
          let malformed = 0;
          let malformedBefore = 0;
          let reclaimed = 0;
          let seed = 0;
          let added = 0;

          const done = (count: number): void => {
            for (const { descriptors } of waiting.splice(0, count)) {
              rig.used += descriptors;
              rig.taken += descriptors;
            }
            announced -= count;
          };

          const receiveAndRelease = (keep: number): void => {
            batch.clear();
            const received = rig.queue.receive(batch);
            assert.equal(rig.queue.error, null);
            // The model: malformed chains before the first frame vanish, frames follow up to the next malformed one.
            let looked = 0;
            while (announced > 0 && waiting[0]!.frame === null && looked < BATCH_FRAMES) {
              done(1);
              malformed++;
              looked++;
            }
            const frames = waiting.slice(0, announced).map(({ frame }) => frame);
            let expected = 0;
            while (expected < announced && frames[expected] !== null && looked + expected < BATCH_FRAMES) expected++;
            if (expected < received || batch.hasRoom) assert.equal(received, expected);
            assert.equal(malformed - malformedBefore, rig.queue.malformed);
            for (let i = 0; i < received; i++) assert.deepEqual(frameOf(batch, i), frames[i]);
            const released = Math.max(0, received - keep);
            rig.queue.release(released);
            done(released);
            rig.flush();
          };

          for (const operation of operations) {
            if (operation.kind === 'post') {
              const frame = frameBytes(operation.length, seed++);
              const pieces = cut(join([new Uint8Array(header), frame]), operation.cuts);
              const buffers = rig.buffers(pieces.map((piece) => piece.length));
              for (const [i, piece] of pieces.entries()) guest.write(buffers[i]!.address, piece);
              const descriptors = rig.add(buffers, false, operation.indirect, operation.direct);
              if (descriptors > 0) {
                added++;
                const legal = frame.length >= MIN_FRAME_BYTES && frame.length <= MAX_FRAME_BYTES;
                waiting.push({ frame: legal ? frame : null, descriptors });
              }
              if (operation.announce) {
                rig.announce();
                announced = waiting.length;
              }
            } else if (operation.kind === 'receive') receiveAndRelease(operation.keep);
            else if (operation.kind === 'reclaim') reclaimed += driver.reclaim().length;
            else if (operation.kind === 'wish') rig.wish(operation.flags, operation.ahead);
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
          reclaimed += driver.reclaim().length;
          assert.equal(reclaimed, added, 'every chain comes back');
          assert.equal(driver.outstanding, 0);
          assert(guest.canariesAlive);
        }),
        { numRuns: RUNS },
      );
    });

    it('delivers every frame once, in order and whole, or says why not', () => {
      const room = fc.record({
        kind: fc.constant('room' as const),
        lengths: fc.oneof(
          fc.constant<number[]>([1526]),
          fc.array(
            fc.oneof(
              { weight: 1, arbitrary: fc.constant(0) },
              { weight: 3, arbitrary: fc.integer({ min: 1, max: 64 }) },
              { weight: 6, arbitrary: fc.integer({ min: 60, max: 2000 }) },
              { weight: 2, arbitrary: fc.integer({ min: 2000, max: 66_000 }) },
            ),
            { minLength: 1, maxLength: 5 },
          ),
        ),
        indirect: fc.boolean(),
        direct: fc.nat(2),
        announce: fc.boolean(),
      });
      const frames = fc.record({
        kind: fc.constant('deliver' as const),
        frames: fc.array(fc.record({ length: frameLength, cuts }), { minLength: 1, maxLength: 8 }),
      });
      const operations = fc.array(
        fc.oneof(
          { weight: 8, arbitrary: room },
          { weight: 6, arbitrary: frames },
          { weight: 2, arbitrary: disturb },
          { weight: 1, arbitrary: wish },
        ),
        { maxLength: 80, size: 'max' },
      );
      fc.assert(
        fc.property(features, ring, operations, (features, { num, start }, operations) => {
          const rig = new Rig(features, num, start);
          const { driver } = rig;
          const header = headerBytes(features);
          const mergeable = (features & MRG_RXBUF) !== 0n;
          const batch = emptyBatch(arena());
          /** Sizes and descriptors of the chains posted, of which the first `announced` are visible. */
          const chains: { size: number; descriptors: number }[] = [];
          let announced = 0;
          let seed = 0;

          /** What must become of a frame: how many chains it takes, or why it takes none. */
          const expectation = (total: number): { refusal: number; count: number } => {
            let room = 0;
            for (let count = 0; count < announced; count++) {
              const { size } = chains[count]!;
              room += size;
              if (room >= total) return { refusal: NO_REFUSAL, count: count + 1 };
              if (!mergeable || size === 0) return { refusal: BUFFER_TOO_SMALL, count: 0 };
            }
            return { refusal: NO_BUFFERS, count: 0 };
          };

          for (const operation of operations) {
            if (operation.kind === 'room') {
              const buffers = rig.buffers(operation.lengths);
              const descriptors = rig.add(buffers, true, operation.indirect, operation.direct);
              const size = buffers.reduce((sum, { length }) => sum + length, 0);
              if (descriptors > 0) chains.push({ size, descriptors });
              if (operation.announce) {
                rig.announce();
                announced = chains.length;
              }
            } else if (operation.kind === 'deliver') {
              batch.clear();
              const contents = operation.frames.map(({ length }) => frameBytes(length, seed++));
              for (const [i, frame] of contents.entries()) appendFrame(batch, cut(frame, operation.frames[i]!.cuts));
              for (let i = 0; i < batch.count; i++) {
                batch.flags[i] = 1;
                batch.csumStart[i] = 0x1234;
              }
              const delivered: { frame: Uint8Array; count: number; sizes: number[] }[] = [];
              for (let i = 0; i < contents.length; ) {
                const first = i;
                let refusal = NO_REFUSAL;
                for (; i < contents.length; i++) {
                  const expected = expectation(contents[i]!.length + header);
                  refusal = expected.refusal;
                  if (refusal !== NO_REFUSAL) break;
                  const taken = chains.splice(0, expected.count);
                  announced -= expected.count;
                  for (const { descriptors } of taken) {
                    rig.used += descriptors;
                    rig.taken += descriptors;
                  }
                  const sizes = taken.map(({ size }) => size);
                  delivered.push({ frame: contents[i]!, count: expected.count, sizes });
                }
                assert.equal(rig.queue.deliver(batch, first, contents.length), i - first);
                assert.equal(rig.queue.refusal, refusal);
                // The one that was refused is somebody else's matter.
                i++;
              }
              assert.deepEqual(driver.reclaim(), [], 'nothing is published before flush');
              rig.flush();
              const used = driver.reclaim();
              for (const { frame, count, sizes } of delivered) {
                const mine = used.splice(0, count);
                assert.equal(mine.length, count);
                for (const [i, chain] of mine.slice(0, -1).entries()) assert.equal(chain.length, sizes[i], 'filled up');
                const bytes = join(mine.map((chain) => driver.contents(chain)));
                assert.deepEqual(bytes.subarray(header), frame);
                assert.deepEqual([...bytes.subarray(6, 8)], [0x34, 0x12], 'csum_start');
                if (header === 12) assert.equal(bytes[10]! | (bytes[11]! << 8), count, 'num_buffers');
              }
              assert.deepEqual(used, []);
            } else if (operation.kind === 'wish') rig.wish(operation.flags, operation.ahead);
            else rig.disturb(operation.what);
          }
          assert.equal(rig.queue.error, null);
          assert.equal(driver.outstanding, chains.length);
          assert(guest.canariesAlive);
        }),
        { numRuns: RUNS },
      );
    });

    it('carries a stream from one ring to another, sizes and laps apart', () => {
      const side = fc.record({ ring, features });
      const bursts = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 5, maxLength: 30 });
      fc.assert(
        fc.property(side, side, bursts, (from, to, bursts) => {
          const sender = new Rig(from.features, from.ring.num, from.ring.start);
          // The receiver's ring in the other region.
          const receiver = new PackedDriver(guest, {
            num: to.ring.num,
            features: to.features,
            at: MIB,
            start: to.ring.start,
          });
          const queue = new PackedVirtqueue(memories[1]!, receiver.description());
          const batch = emptyBatch(arena());
          const [fromHeader, toHeader] = [headerBytes(from.features), headerBytes(to.features)];
          const sent: Uint8Array[] = [];
          const got: Uint8Array[] = [];
          for (const burst of bursts) {
            for (let i = 0; i < burst && sender.driver.freeDescriptors > 0; i++) {
              const frame = frameBytes(60 + ((sent.length * 37) % 1400), sent.length);
              const [buffer] = sender.buffers([fromHeader + frame.length]);
              guest.write(buffer!.address, join([new Uint8Array(fromHeader), frame]));
              sender.driver.add([buffer!], false);
              sent.push(frame);
            }
            sender.driver.announce();
            while (receiver.freeDescriptors > 0) receiver.add(sender.buffers([1600]), true);
            receiver.announce();
            batch.clear();
            const count = sender.queue.receive(batch);
            const taken = queue.deliver(batch, 0, count);
            queue.flush();
            sender.queue.release(taken);
            sender.queue.flush();
            sender.driver.reclaim();
            for (const chain of receiver.reclaim()) got.push(receiver.contents(chain).subarray(toHeader));
          }
          assert.equal(sender.queue.error ?? queue.error, null);
          assert.equal(got.length, sent.length - sender.driver.outstanding);
          for (const [i, frame] of got.entries()) assert.deepEqual(frame, sent[i]);
        }),
        { numRuns: RUNS },
      );
    });
  });
}
