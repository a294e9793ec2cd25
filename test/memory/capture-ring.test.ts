import assert from 'node:assert/strict';
import {
  CAPTURE_IN,
  CAPTURE_OUT,
  CaptureReader,
  CaptureRingWriter,
  capturePartBytes,
  readCaptureCounters,
} from '../../memory/capture-ring.ts';
import { SharedBuffer } from '../../memory/shared-buffer.ts';
import { ARENAS, emptyBatch } from '../helpers/arenas.ts';
import { appendFrame, cut, frameBytes } from '../helpers/frame-bytes.ts';

const RING_BYTES = 4096;
const ALL = 65_550;

for (const { name, arena } of ARENAS) {
  describe(`a capture's ring, ${name}`, () => {
    let memory: SharedBuffer;
    let writers: CaptureRingWriter[];
    let reader: CaptureReader;

    beforeEach(() => {
      const part = capturePartBytes(RING_BYTES);
      memory = new SharedBuffer(2 * part);
      writers = [0, 1].map((n) => new CaptureRingWriter(memory.address + n * part, RING_BYTES));
      reader = new CaptureReader(memory.address, 2, RING_BYTES);
    });

    afterEach(() => {
      memory.free();
    });

    /** One frame in two buffers, at a time of `high` and `low`. */
    function put(
      writer: number,
      bytes: Uint8Array,
      { snaplen = ALL, high = 1, low = 0, direction = CAPTURE_IN } = {},
    ): void {
      const batch = emptyBatch(arena());
      appendFrame(batch, cut(bytes, [200]));
      writers[writer]!.see(1);
      writers[writer]!.put(batch, 0, snaplen, direction, high, low);
    }

    /** All that waits: time, length, direction, and the bytes that were kept. */
    function takeAll(): [number, number, number, number, Uint8Array][] {
      const taken: [number, number, number, number, Uint8Array][] = [];
      for (let frame = reader.peek(); frame !== null; frame = reader.peek()) {
        const { high, low, length, direction, bytes, from, captured } = frame;
        taken.push([high, low, length, direction, bytes.slice(from, from + captured)]);
        reader.release();
      }
      return taken;
    }

    it('carries the first bytes of frames, and what is to be known of them', () => {
      const long = frameBytes(1000, 1);
      const short = frameBytes(60, 2);
      put(0, long, { high: 7, low: 0xffff_fffe });
      put(0, long, { high: 7, low: 0xffff_ffff, snaplen: 300, direction: CAPTURE_OUT });
      put(0, short, { high: 8, low: 3, snaplen: 100 });
      assert.equal(reader.peek(), null, 'not before it is published');
      assert.deepEqual(reader.counters(), { seen: 0, accepted: 0, dropped: 0 }, 'nor counted');
      writers[0]!.publish();
      assert.deepEqual(takeAll(), [
        [7, 0xffff_fffe, 1000, CAPTURE_IN, long],
        [7, 0xffff_ffff, 1000, CAPTURE_OUT, long.slice(0, 300)],
        [8, 3, 60, CAPTURE_IN, short],
      ]);
      assert.deepEqual(reader.counters(), { seen: 3, accepted: 3, dropped: 0 });
    });

    it('gives frames of several lanes in the order of their times', () => {
      const frame = frameBytes(60, 3);
      for (const [writer, high, low] of [
        [0, 1, 5],
        [1, 1, 2],
        [0, 1, 9],
        [1, 1, 7],
        [1, 2, 0],
        [0, 2, 1],
      ] as const) {
        put(writer, frame, { high, low });
      }
      for (const writer of writers) writer.publish();
      assert.deepEqual(
        takeAll().map(([high, low]) => [high, low]),
        [
          [1, 2],
          [1, 5],
          [1, 7],
          [1, 9],
          [2, 0],
          [2, 1],
        ],
      );
      assert.deepEqual(reader.counters(), { seen: 6, accepted: 6, dropped: 0 });
    });

    it('drops and counts what finds no room, and goes on', () => {
      const frame = frameBytes(1000, 4);
      for (let i = 0; i < 10; i++) put(0, frame, { low: i });
      writers[0]!.publish();
      assert.deepEqual(
        takeAll().map(([, low]) => low),
        [0, 1, 2],
      );
      assert.deepEqual(reader.counters(), { seen: 10, accepted: 10, dropped: 7 });
      for (let i = 10; i < 13; i++) put(0, frame, { low: i });
      writers[0]!.publish();
      assert.deepEqual(
        takeAll().map(([, low]) => low),
        [10, 11, 12],
      );
      put(0, frameBytes(RING_BYTES / 2, 5));
      writers[0]!.publish();
      assert.deepEqual(reader.counters(), { seen: 14, accepted: 14, dropped: 8 }, 'longer than any record');
      assert.deepEqual(readCaptureCounters(memory.bytes), { seen: 14, accepted: 14, dropped: 8 });
    });

    it('signals a reader that sleeps, once', () => {
      assert.equal(reader.sleep(), true);
      assert.equal(writers[1]!.publish(), false, 'nothing was put');
      put(1, frameBytes(60, 6));
      assert.equal(writers[1]!.publish(), true);
      put(1, frameBytes(60, 7));
      assert.equal(writers[1]!.publish(), false);
      assert.equal(reader.sleep(), false, 'there is something');
      takeAll();
      assert.equal(reader.sleep(), true);
      reader.wake();
      put(0, frameBytes(60, 8));
      assert.equal(writers[0]!.publish(), false, 'awake again');
    });

    it('is not led astray by what a reader writes', () => {
      const guard = new Uint8Array(memory.bytes, capturePartBytes(RING_BYTES));
      guard.fill(0xa5);
      const words = new Uint32Array(memory.bytes, 4096, 48);
      for (const head of [0xffff_ffff, 12_345, 0x8000_0001, 0]) {
        words[0] = head;
        for (let i = 0; i < 20; i++) put(0, frameBytes(1000 + i, i));
        writers[0]!.publish();
      }
      assert.ok(guard.every((byte) => byte === 0xa5));
    });
  });
}
