/** Our driver against our device, frames both ways, over every combination of features that both know. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { drainEventfd, eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { BATCH_FRAMES, MAX_FRAME_BYTES, MIN_FRAME_BYTES } from '../../memory/frame-batch.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import { DriverFrames } from '../../vhost/driver-frames.ts';
import { DriverMemory } from '../../vhost/driver-memory.ts';
import { DriverVirtqueue } from '../../vhost/driver-virtqueue.ts';
import { SplitVirtqueue } from '../../vhost/split-virtqueue.ts';
import type { Virtqueue } from '../../vhost/virtqueue.ts';
import { emptyBatch, wasmArena } from '../helpers/arenas.ts';
import { appendTestFrame, ethernet } from '../helpers/fake-queue.ts';
import { frameBytes, frameOf } from '../helpers/frame-bytes.ts';
import { deliverOne } from '../helpers/one-frame.ts';
import { EVENT_IDX, MRG_RXBUF, VERSION_1 } from '../helpers/split-driver.ts';

const HEADER_BYTES = 12;
const MERGEABLE_SLOT = 500;
const WHOLE_SLOT = HEADER_BYTES + MAX_FRAME_BYTES;

/** Both sides of a ring in one process. */
class Wire implements Disposable {
  readonly driver: DriverVirtqueue;
  readonly frames: DriverFrames;
  readonly bytes: Uint8Array;
  readonly fds = { kick: eventfd(), call: eventfd() };
  readonly device: Virtqueue;
  readonly #memory: DriverMemory;
  readonly #mapped: GuestMemory;

  constructor(features: bigint, { num = 64, writable = true } = {}) {
    const slotBytes = writable && (features & MRG_RXBUF) !== 0n ? MERGEABLE_SLOT : WHOLE_SLOT;
    const options = { num, slotBytes, writable, features };
    this.#memory = new DriverMemory(DriverVirtqueue.bytes(options));
    this.driver = new DriverVirtqueue(this.#memory, options);
    this.driver.kick = this.fds.kick;
    this.frames = new DriverFrames(this.driver, this.#memory, features);
    this.bytes = new Uint8Array(this.#memory.view(this.driver.slotAddress(0), this.driver.slotsBytes));
    const { address, length, fd } = this.#memory;
    const client = {
      regions: [{ guestAddress: address, userAddress: address, size: length }],
      areas: [{ userAddress: address, length, fd, offset: 0 }],
    };
    this.#mapped = new GuestMemory(client, wasmArena());
    const { addresses } = this.driver;
    this.device = new SplitVirtqueue(this.#mapped, { addresses, num, base: 0, features, ...this.fds, err: -1 });
    if (writable) this.frames.restart();
  }

  /** Transmits a frame with an empty header. False: no slot. */
  send(frame: Uint8Array): boolean {
    for (let used = this.driver.poll(); used > 0; used--) this.driver.giveBack(this.driver.shift());
    const slot = this.driver.take();
    if (slot < 0) return false;
    const at = this.driver.slotOffset(slot);
    this.bytes.fill(0, at, at + HEADER_BYTES);
    this.bytes.set(frame, at + HEADER_BYTES);
    this.driver.offer(slot, HEADER_BYTES + frame.length);
    return true;
  }

  /** The frames that wait, with their headers. */
  received(): Buffer[] {
    const found: Buffer[] = [];
    let entry = 0;
    for (let f = 0, waiting = this.frames.poll(); f < waiting; f++) {
      const parts: Uint8Array[] = [];
      for (let b = this.frames.buffers(f); b > 0; b--, entry++) {
        const at = this.driver.slotOffset(this.driver.usedSlot(entry));
        parts.push(this.bytes.subarray(at, at + this.driver.usedLength(entry)));
      }
      found.push(Buffer.concat(parts));
    }
    return found;
  }

  [Symbol.dispose](): void {
    this.#mapped.unmap();
    this.#memory.close();
    close(this.fds.kick);
    close(this.fds.call);
  }
}

const SETS = [VERSION_1, VERSION_1 | MRG_RXBUF, VERSION_1 | EVENT_IDX, VERSION_1 | MRG_RXBUF | EVENT_IDX];
const lengths = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: MIN_FRAME_BYTES, max: 1514 }) },
  { weight: 1, arbitrary: fc.integer({ min: 1515, max: 20_000 }) },
);

describe('a driver and a device of ours', () => {
  for (const features of SETS) {
    const name = `0x${features.toString(16)}`;

    it(`${name}: frames from the driver arrive in order, and slots come back`, () => {
      const step = fc.oneof(fc.record({ send: lengths }), fc.record({ take: fc.nat(BATCH_FRAMES) }));
      const property = fc.property(fc.array(step, { maxLength: 300, size: 'max' }), (steps) => {
        using wire = new Wire(features, { num: 16, writable: false });
        const waiting: Uint8Array[] = [];
        const batch = emptyBatch();
        for (const [seed, each] of steps.entries()) {
          if ('send' in each) {
            const frame = frameBytes(each.send, seed);
            const room = waiting.length < 16;
            assert.equal(wire.send(frame), room);
            if (room) waiting.push(frame);
            continue;
          }
          wire.driver.publish();
          batch.clear();
          const count = wire.device.receive(batch);
          const done = Math.min(count, each.take);
          for (let i = 0; i < count; i++) assert.deepEqual(frameOf(batch, i), waiting[i]);
          wire.device.release(done);
          waiting.splice(0, done);
          wire.device.flush();
          assert.equal(wire.device.error, null);
          assert.equal(wire.driver.error, null);
        }
      });
      fc.assert(property, { numRuns: 40 });
    });

    it(`${name}: frames to the driver arrive in order, spread over buffers where they may`, () => {
      const step = fc.oneof(
        fc.record({ send: lengths }),
        fc.record({ release: fc.nat(8) }),
        fc.constant('flush' as const),
      );
      const property = fc.property(fc.array(step, { maxLength: 300, size: 'max' }), (steps) => {
        using wire = new Wire(features);
        const sent: Uint8Array[] = [];
        const visible: Uint8Array[] = [];
        const batch = emptyBatch();
        for (const [seed, each] of steps.entries()) {
          if (each === 'flush') {
            wire.device.flush();
            visible.push(...sent.splice(0));
          } else if ('send' in each) {
            const frame = frameBytes(each.send, seed);
            batch.clear();
            appendTestFrame(batch, { bytes: frame, flags: 1, csumStart: 14, csumOffset: 2 });
            if (deliverOne(wire.device, batch) === 0) sent.push(frame);
            assert.equal(wire.device.error, null);
          } else {
            const found = wire.received();
            assert.deepEqual(
              found.map((bytes) => new Uint8Array(bytes.subarray(HEADER_BYTES))),
              visible,
            );
            for (const bytes of found) {
              assert.equal(bytes[0], 1);
              assert.equal(
                bytes.readUInt16LE(10),
                (features & MRG_RXBUF) === 0n ? 1 : Math.ceil(bytes.length / MERGEABLE_SLOT),
              );
            }
            const done = Math.min(each.release, found.length);
            wire.frames.release(done);
            wire.driver.publish();
            visible.splice(0, done);
          }
          assert.equal(wire.driver.error, null);
        }
      });
      fc.assert(property, { numRuns: 40 });
    });

    it(`${name}: each wakes the other only when it was asked to`, () => {
      using tx = new Wire(features, { writable: false });
      using rx = new Wire(features);
      const batch = emptyBatch();
      const frame = ethernet(1, 2);
      const roundTrip = (): [kicked: boolean, called: boolean] => {
        assert(tx.send(frame));
        drainEventfd(tx.fds.kick);
        tx.driver.publish();
        batch.clear();
        assert.equal(tx.device.receive(batch), 1);
        assert.equal(deliverOne(rx.device, batch), 0);
        tx.device.release(1);
        drainEventfd(rx.fds.call);
        rx.device.flush();
        assert.equal(rx.received().length, 1);
        rx.frames.release(1);
        rx.driver.publish();
        return [drainEventfd(tx.fds.kick), drainEventfd(rx.fds.call)];
      };
      roundTrip();
      tx.device.disableNotification();
      rx.driver.disableCalls();
      for (let i = 0; i < 5; i++) assert.deepEqual(roundTrip(), [false, false]);
      for (let i = 0; i < 5; i++) {
        assert.equal(tx.device.enableNotification(), false);
        assert.equal(rx.driver.enableCalls(), false);
        assert.deepEqual(roundTrip(), [true, true]);
      }
    });
  }

  it('begins anew after a reset of both', () => {
    using wire = new Wire(VERSION_1 | MRG_RXBUF);
    const batch = emptyBatch();
    appendTestFrame(batch, { bytes: ethernet(1, 2, { length: 1514 }) });
    assert.equal(deliverOne(wire.device, batch), 0);
    wire.device.flush();
    assert.equal(wire.received().length, 1);
    wire.driver.reset();
    wire.frames.restart();
    assert.equal(wire.received().length, 0);
    assert.deepEqual([wire.driver.freeSlots, wire.driver.offered], [0, 64]);
  });

  describe('where the device lies of num_buffers', () => {
    const features = VERSION_1 | MRG_RXBUF;
    /** One frame of a device whose num_buffers is overwritten before the driver looks. */
    const lie = (wire: Wire, numBuffers: number): void => {
      const batch = emptyBatch();
      appendTestFrame(batch, { bytes: ethernet(1, 2) });
      assert.equal(deliverOne(wire.device, batch), 0);
      wire.device.flush();
      wire.driver.poll();
      const at = wire.driver.slotOffset(wire.driver.usedSlot(0));
      new DataView(wire.bytes.buffer).setUint16(at + 10, numBuffers, true);
    };

    for (const numBuffers of [0, 65, 0xffff]) {
      it(`${numBuffers}: the ring is broken`, () => {
        using wire = new Wire(features);
        lie(wire, numBuffers);
        assert.equal(wire.frames.poll(), 0);
        assert.equal(wire.driver.error?.code, 'NUM_BUFFERS');
        assert.equal(wire.driver.error?.value, numBuffers);
      });
    }

    it('a frame waits for the buffers that it should have', () => {
      using wire = new Wire(features);
      lie(wire, 3);
      assert.equal(wire.frames.poll(), 0);
      assert.equal(wire.driver.error, null);
      const batch = emptyBatch();
      appendTestFrame(batch, { bytes: ethernet(1, 2, { length: 900 }) });
      assert.equal(deliverOne(wire.device, batch), 0);
      wire.device.flush();
      assert.equal(wire.frames.poll(), 1);
      assert.equal(wire.frames.buffers(0), 3);
    });
  });
});
