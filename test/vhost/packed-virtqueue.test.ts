import assert from 'node:assert/strict';
import { drainEventfd, eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { BATCH_FRAMES, type FrameBatch } from '../../memory/frame-batch.ts';
import { packBase, unpackBase } from '../../vhost/packed-ring.ts';
import { PackedVirtqueue } from '../../vhost/packed-virtqueue.ts';
import { BUFFER_TOO_SMALL, NO_BUFFERS, NO_REFUSAL, RingUnmappedError } from '../../vhost/virtqueue.ts';
import { emptyBatch } from '../helpers/arenas.ts';
import { appendFrame, frameBytes, frameOf, join } from '../helpers/frame-bytes.ts';
import { deliverOne } from '../helpers/one-frame.ts';
import {
  EVENT_DESC,
  EVENT_DISABLE,
  EVENT_ENABLE,
  F_AVAIL,
  F_USED,
  PackedDriver,
  placeWord,
} from '../helpers/packed-driver.ts';
import {
  EVENT_IDX,
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
const DATA_AT = MIB;
const HEADER = new Uint8Array(12);
const BUFFER = 2048;

for (const { name, arena, isPrivate } of MEMORIES) {
  describe(`PackedVirtqueue ${name}`, () => {
    let guest: TestGuest;
    let batch: FrameBatch;
    let call: number;
    let driver: PackedDriver;
    let queue: PackedVirtqueue;

    beforeEach(() => {
      guest = new TestGuest(
        [{ guestAddress: 0, size: 4 * MIB, userAddress: 0x7000_0000_0000, canary: 4096 }],
        isPrivate,
      );
      batch = emptyBatch(arena());
      call = eventfd();
    });
    afterEach(() => {
      assert(guest.canariesAlive);
      guest.dispose();
      close(call);
    });

    function start(num: number, features = VERSION_1, place = 0): void {
      driver = new PackedDriver(guest, { num, features, at: 0, start: place });
      queue = new PackedVirtqueue(guest.map(arena()), driver.description({ call }));
    }

    /** The `i`-th of as many buffers as anyone wants. */
    const at = (i: number): number => DATA_AT + i * BUFFER;

    /** Offers a frame to the device in one buffer; gives its bytes. */
    function send(i: number, length = 60): Uint8Array {
      const frame = frameBytes(length, i);
      guest.write(at(i), join([HEADER, frame]));
      driver.add([{ address: at(i), length: HEADER.length + length }], false);
      return frame;
    }

    function offer(i: number, length = BUFFER): void {
      driver.add([{ address: at(i), length }], true);
    }

    function receive(): number {
      batch.clear();
      return queue.receive(batch);
    }

    function deliver(frame: Uint8Array): number {
      batch.clear();
      appendFrame(batch, [frame]);
      return deliverOne(queue, batch);
    }

    it('takes frames, and gives their buffers back with the next flush', () => {
      start(4);
      const frames = [send(0), send(1, 1514), send(2)];
      assert.equal(receive(), 0, 'not announced');
      driver.announce();
      assert.equal(receive(), 3);
      for (const [i, frame] of frames.entries()) assert.deepEqual(frameOf(batch, i), frame);
      queue.release(3);
      assert.deepEqual(driver.reclaim(), [], 'not before flush');
      queue.flush();
      assert.equal(driver.reclaim().length, 3);
      assert.equal(receive(), 0);
    });

    for (const num of [1, 2, 3, 5, 7, 32, 33, 257]) {
      it(`goes round and round in a ring of ${num}`, () => {
        start(num);
        let seed = 0;
        for (let round = 0; round < 9; round++) {
          const frames: Uint8Array[] = [];
          while (driver.freeDescriptors > 0) frames.push(send(seed++ % 500));
          driver.announce();
          while (frames.length > 0) {
            const received = receive();
            assert.equal(received, Math.min(frames.length, BATCH_FRAMES));
            for (const [i, frame] of frames.splice(0, received).entries()) assert.deepEqual(frameOf(batch, i), frame);
            queue.release(received);
            queue.flush();
          }
          assert.equal(driver.reclaim().length, num);
          assert.equal(queue.usedIdx, placeWord(driver.announced, num));
        }
        assert.equal(queue.error, null);
      });
    }

    it('takes a ring of 32768, the last descriptor with its wrap too', () => {
      start(32_768, VERSION_1, 32_767);
      const frames = [send(0), send(1)];
      driver.announce();
      assert.equal(receive(), 2);
      assert.deepEqual(frameOf(batch, 1), frames[1]);
      queue.release(2);
      queue.flush();
      assert.equal(driver.reclaim().length, 2);
      assert.equal(queue.base, packBase(1, 1), 'index 1, wrap counter 0, of both');
    });

    it('reads the buffer id of a chain from its last descriptor, and skips the chain when it is used', () => {
      start(5);
      const frame = frameBytes(100, 9);
      const bytes = join([HEADER, frame]);
      for (const piece of [0, 1, 2]) guest.write(at(piece), bytes.subarray(piece * 40, (piece + 1) * 40));
      const pieces = [0, 1, 2].map((piece) => ({
        address: at(piece),
        length: Math.min(40, bytes.length - 40 * piece),
      }));
      const id = driver.add(pieces, false);
      send(5);
      driver.announce();
      assert.equal(receive(), 2);
      assert.deepEqual(frameOf(batch, 0), frame);
      queue.release(2);
      queue.flush();
      assert.equal(driver.peekDescriptor(0).id, id);
      assert.equal(driver.peekDescriptor(0).flags, F_AVAIL | F_USED, 'nothing was written, so no WRITE');
      assert.equal(driver.peekDescriptor(1).flags, F_AVAIL | F_NEXT, 'skipped');
      assert.equal(driver.peekDescriptor(3).flags, F_AVAIL | F_USED);
      assert.equal(driver.reclaim().length, 2);
    });

    it('takes a chain across the end of the ring, whose wrap counter inverts within', () => {
      start(3, VERSION_1, 2);
      const frame = frameBytes(60, 1);
      guest.write(at(0), HEADER);
      guest.write(at(1), frame);
      driver.add(
        [
          { address: at(0), length: 12 },
          { address: at(1), length: 60 },
        ],
        false,
      );
      driver.announce();
      assert.equal(receive(), 1);
      assert.deepEqual(frameOf(batch, 0), frame);
      queue.release(1);
      queue.flush();
      assert.equal(driver.reclaim().length, 1);
      assert.equal(queue.base, packBase(1, 1));
    });

    it('puts frames not released back, over the end of the ring too', () => {
      start(5, VERSION_1, 3);
      const frames = [send(0), send(1), send(2), send(3)];
      driver.announce();
      assert.equal(receive(), 4);
      assert.equal(queue.base, packBase(placeWord(3, 5), placeWord(3, 5)), 'frames taken are not gone');
      queue.release(1);
      queue.flush();
      assert.equal(driver.reclaim().length, 1);
      const word = placeWord(4, 5);
      assert.equal(queue.base, packBase(word, word));
      assert.equal(receive(), 3);
      for (let i = 0; i < 3; i++) assert.deepEqual(frameOf(batch, i), frames[i + 1]);
      queue.release(0);
      assert.equal(queue.base, packBase(word, word));
      assert.equal(receive(), 3);
      queue.release(3);
      queue.flush();
      assert.equal(driver.reclaim().length, 3);
    });

    it('goes on with a successor where frames were not released', () => {
      start(3, VERSION_1, 2);
      const frames = [send(0), send(1), send(2)];
      driver.announce();
      assert.equal(receive(), 3);
      assert.equal(queue.base, packBase(placeWord(2, 3), placeWord(2, 3)), 'frames taken are not gone');
      queue.release(1);
      queue.flush();
      queue = new PackedVirtqueue(guest.map(arena()), driver.description({ base: queue.base }));
      assert.equal(receive(), 2);
      assert.deepEqual(frameOf(batch, 1), frames[2]);
      queue.release(2);
      queue.flush();
      assert.equal(driver.reclaim().length, 3);
    });

    it('gives a batch back in order by one used descriptor with the id of the last', () => {
      start(7, VERSION_1 | IN_ORDER);
      send(0);
      const halves = [
        { address: at(1), length: 12 },
        { address: at(2), length: 60 },
      ];
      driver.add(halves, false);
      const last = driver.add([{ address: at(0), length: 72 }], false);
      driver.announce();
      assert.equal(receive(), 3);
      queue.release(3);
      queue.flush();
      assert.deepEqual([driver.peekDescriptor(0).id, driver.peekDescriptor(0).flags], [last, F_AVAIL | F_USED]);
      for (const place of [1, 2, 3])
        assert.equal(driver.peekDescriptor(place).flags & F_USED, 0, `${place} is skipped`);
      send(3);
      driver.announce();
      assert.equal(receive(), 1);
      queue.release(1);
      queue.flush();
      assert.equal(driver.reclaim().length, 4, 'the next one stands behind the batch');
    });

    it('throws what is no frame away, once the frames before it are released', () => {
      start(8);
      driver.add([{ address: at(7), length: 20 }], false);
      send(0);
      driver.add([{ address: at(7), length: 5 }], false);
      send(1);
      driver.announce();
      assert.equal(receive(), 1);
      assert.equal(queue.malformed, 1);
      queue.release(1);
      assert.equal(receive(), 1);
      assert.equal(queue.malformed, 2);
      queue.release(1);
      queue.flush();
      assert.equal(driver.reclaim().length, 4);
    });

    it('delivers into a buffer, says how much it wrote, and nothing is visible before flush', () => {
      start(3);
      offer(0);
      offer(1);
      driver.announce();
      const frame = frameBytes(300, 1);
      assert.equal(deliver(frame), NO_REFUSAL);
      assert.deepEqual(driver.reclaim(), []);
      queue.flush();
      const [used] = driver.reclaim();
      assert.equal(used!.length, 312);
      assert.equal(driver.peekDescriptor(0).flags, F_AVAIL | F_USED | F_WRITE);
      const bytes = driver.contents(used!);
      assert.deepEqual(bytes.subarray(12), frame);
      assert.equal(bytes[10], 1, 'num_buffers');
    });

    it('delivers a batch as far as buffers go', () => {
      start(5, VERSION_1, 4);
      for (let i = 0; i < 3; i++) offer(i);
      driver.announce();
      const frames = [1, 2, 3, 4].map((seed) => frameBytes(100 * seed, seed));
      for (const frame of frames) appendFrame(batch, [frame]);
      assert.equal(queue.deliver(batch, 0, 4), 3);
      assert.equal(queue.refusal, NO_BUFFERS);
      queue.flush();
      const used = driver.reclaim();
      assert.deepEqual(
        used.map((chain) => driver.contents(chain).subarray(12)),
        frames.slice(0, 3),
      );
    });

    it('spreads a frame over chains with MRG_RXBUF, and takes none where they do not suffice', () => {
      start(7, VERSION_1 | MRG_RXBUF, 5);
      const frame = frameBytes(250, 3);
      offer(0, 100);
      offer(1, 100);
      driver.announce();
      assert.equal(deliver(frame), NO_BUFFERS);
      offer(2, 100);
      driver.announce();
      assert.equal(deliver(frame), NO_REFUSAL);
      queue.flush();
      const used = driver.reclaim();
      assert.deepEqual(
        used.map(({ length }) => length),
        [100, 100, 62],
      );
      const bytes = join(used.map((chain) => driver.contents(chain)));
      assert.deepEqual(bytes.subarray(12), frame);
      assert.equal(bytes[10], 3, 'num_buffers');
    });

    it('refuses a frame that a buffer does not hold, without MRG_RXBUF, and leaves the buffer', () => {
      start(4);
      offer(0, 100);
      driver.announce();
      assert.equal(deliver(frameBytes(100, 1)), BUFFER_TOO_SMALL);
      assert.equal(deliver(frameBytes(88, 1)), NO_REFUSAL);
      queue.flush();
      assert.equal(driver.reclaim()[0]!.length, 100);
    });

    it('delivers through indirect tables, whose flags mean nothing but WRITE', () => {
      start(2, VERSION_1 | INDIRECT_DESC);
      const pieces = [100, 50, 0, 150].map((length, i) => ({ address: at(i), length }));
      driver.addIndirect(pieces, true, 2 * MIB);
      driver.announce();
      const frame = frameBytes(280, 1);
      assert.equal(deliver(frame), NO_REFUSAL);
      queue.flush();
      const [used] = driver.reclaim();
      assert.deepEqual(driver.contents(used!).subarray(12), frame);
    });

    it('takes its wish for kicks back and forth', () => {
      for (const features of [VERSION_1, VERSION_1 | EVENT_IDX]) {
        start(3, features, 2);
        assert.equal(driver.deviceWish.flags, EVENT_ENABLE);
        queue.disableNotification();
        assert.equal(driver.deviceWish.flags, EVENT_DISABLE);
        assert.equal(queue.enableNotification(), false);
        assert.equal(driver.deviceWish.flags, features === VERSION_1 ? EVENT_ENABLE : EVENT_DESC);
        if (features !== VERSION_1) assert.equal(driver.deviceWish.word, placeWord(2, 3));
        send(0);
        assert.equal(driver.announce(), true, 'the descriptor that was asked for');
        send(1);
        assert.equal(driver.announce(), features === VERSION_1, 'one after it');
        queue.disableNotification();
        send(2);
        assert.equal(driver.announce(), false);
        assert.equal(queue.enableNotification(), true, 'look again');
      }
    });

    it('calls as the driver wishes', () => {
      start(3, VERSION_1 | EVENT_IDX, 1);
      const use = (count: number): boolean => {
        for (let i = 0; i < count; i++) send(i);
        driver.announce();
        assert.equal(receive(), count);
        queue.release(count);
        queue.flush();
        assert.equal(driver.reclaim().length, count);
        return drainEventfd(call);
      };
      driver.wish(EVENT_DISABLE);
      assert.equal(use(1), false);
      driver.wish(EVENT_ENABLE);
      assert.equal(use(1), true);
      driver.wish(EVENT_DESC, 4);
      assert.equal(use(1), false, '3 used, 4 was asked for');
      assert.equal(use(1), true, '4 used');
      assert.equal(use(3), false, '5 to 7: the same index in another lap');
      driver.wish(EVENT_DESC, 9);
      assert.equal(use(3), true, '9 in the midst');
      assert.deepEqual([queue.calls, queue.callsSuppressed], [3, 3]);
    });

    it('calls on RING_EVENT_FLAGS_DESC without EVENT_IDX: better once too often', () => {
      start(3);
      driver.wish(EVENT_DESC, 2);
      send(0);
      driver.announce();
      receive();
      queue.release(1);
      queue.flush();
      assert.equal(drainEventfd(call), true);
    });

    it('goes over to another mapping of the memory', () => {
      start(3);
      const frames = [send(0), send(1)];
      driver.announce();
      assert.equal(queue.enableNotification(), true);
      queue.remap(guest.map(arena()));
      assert.equal(receive(), 2);
      assert.deepEqual(frameOf(batch, 1), frames[1]);
      queue.release(2);
      queue.flush();
      assert.equal(driver.reclaim().length, 2);
    });

    it('refuses a ring that is not in the memory, and a base beyond the ring', () => {
      start(3);
      const memory = guest.map(arena());
      const description = driver.description();
      for (const part of ['desc', 'avail', 'used'] as const) {
        const addresses = { ...description.addresses, [part]: 0x7000_0000_0000 + 4 * MIB + 4096 };
        assert.throws(() => new PackedVirtqueue(memory, { ...description, addresses }), RingUnmappedError);
      }
      assert.throws(() => new PackedVirtqueue(memory, { ...description, base: 3 }), /base 3 of a packed ring of 3/);
    });

    it('does not take more than the ring holds, however often the driver makes it available', () => {
      start(4);
      for (let i = 0; i < 4; i++) send(i);
      driver.announce();
      assert.equal(receive(), 4);
      // The driver claims the next lap without having got anything back.
      for (let place = 4; place < 8; place++) driver.pokeFlags(place, driver.availableFlags(place));
      assert.equal(queue.receive(batch), 0);
      assert.equal(queue.enableNotification(), false);
      queue.release(4);
      queue.flush();
      assert.equal(queue.error, null);
      assert.equal(driver.reclaim().length, 4);
    });
  });
}

describe('the base of a packed ring', () => {
  it('has both positions with their wrap counters; a high half of 0 means that nothing is in flight', () => {
    assert.deepEqual(unpackBase(0x8003_8005, 7), { avail: { index: 5, wrap: 1 }, used: { index: 3, wrap: 1 } });
    assert.deepEqual(unpackBase(0x8000, 7), { avail: { index: 0, wrap: 1 }, used: { index: 0, wrap: 1 } });
    assert.deepEqual(unpackBase(0x8000_0000, 7), { avail: { index: 0, wrap: 0 }, used: { index: 0, wrap: 1 } });
    assert.equal(packBase(0x8005, 0x8003), 0x8003_8005);
  });

  it('is null where an index is none of the ring, and where more is in flight than the ring has', () => {
    assert.equal(unpackBase(0x8007, 7), null);
    assert.equal(unpackBase(0x8007_8000, 7), null);
    assert.equal(unpackBase(0x8003_0004, 7), null, '8 in flight');
    assert.notEqual(unpackBase(0x8003_0003, 7), null, '7 in flight');
  });
});
