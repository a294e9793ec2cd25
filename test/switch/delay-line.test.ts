import assert from 'node:assert/strict';
import fc from 'fast-check';
import { BATCH_FRAMES, MAX_FRAME_BYTES } from '../../memory/frame-batch.ts';
import { DelayLine, MAX_RECORD_BYTES } from '../../switch/delay-line.ts';
import {
  VIRTIO_NET_HDR_F_DATA_VALID,
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_TCPV4,
} from '../../vhost/virtio.ts';
import { ARENAS, emptyBatch, wasmArena } from '../helpers/arenas.ts';
import { appendTestFrame, type TestFrame, testFrameOf } from '../helpers/fake-queue.ts';
import { frameBytes } from '../helpers/frame-bytes.ts';

const NO_BIT = -1;

for (const { name, arena } of ARENAS) {
  describe(`DelayLine ${name}`, () => {
    const lines: DelayLine[] = [];
    let scratch: number | undefined;
    const open = (limit: number, before: DelayLine | null = null): DelayLine => {
      scratch ??= arena().allocate(MAX_RECORD_BYTES);
      const line = new DelayLine(arena(), scratch, limit, before);
      if (before) lines.splice(lines.indexOf(before), 1);
      lines.push(line);
      return line;
    };
    afterEach(() => {
      for (const line of lines.splice(0)) line.close();
    });

    const push = (line: DelayLine, frame: TestFrame, at: number, bit = NO_BIT): void => {
      const batch = emptyBatch(arena());
      appendTestFrame(batch, frame);
      line.push(batch, 0, at, bit);
    };
    const present = (line: DelayLine, now: number): Required<TestFrame>[] => {
      const batch = emptyBatch(arena(), 1);
      const count = line.present(batch, now);
      assert.equal(count, batch.count);
      return Array.from({ length: count }, (_, i) => testFrameOf(batch, i));
    };
    const take = (line: DelayLine, now: number): Uint8Array[] => {
      const all: Uint8Array[] = [];
      for (;;) {
        const some = present(line, now);
        if (some.length === 0) return all;
        line.release(some.length);
        all.push(...some.map(({ bytes }) => bytes));
      }
    };

    it('gives each frame when its time has come, and those of the same time in order', () => {
      const line = open(10);
      const frames = [5, 3, 5, 1, 3].map((at, i) => ({ at, bytes: frameBytes(60 + i, i) }));
      for (const { at, bytes } of frames) push(line, { bytes }, at);
      assert.equal(line.count, 5);
      assert.equal(line.nextAt, 1);
      assert.deepEqual(take(line, 0.9), []);
      assert.deepEqual(take(line, 1), [frames[3]!.bytes]);
      assert.equal(line.nextAt, 3);
      assert.deepEqual(
        take(line, 6),
        [1, 4, 0, 2].map((i) => frames[i]!.bytes),
      );
      assert.equal(line.count, 0);
      assert.equal(line.nextAt, Number.POSITIVE_INFINITY);
    });

    it('keeps frames of any length, with their virtio-net header', () => {
      const line = open(40);
      const offload = { flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, gsoType: VIRTIO_NET_HDR_GSO_TCPV4 };
      const fields = { hdrLen: 54, gsoSize: 1448, csumStart: 34, csumOffset: 16 };
      const frames = [14, 60, 127, 128, 129, 2035, 2036, 2037, 4084, 4085, 9000, MAX_FRAME_BYTES].map((length) => ({
        bytes: frameBytes(length, length),
        ...(length > 2000
          ? { ...offload, ...fields }
          : { flags: 0, gsoType: 0, hdrLen: 0, gsoSize: 0, csumStart: 0, csumOffset: 0 }),
      }));
      for (const frame of frames) push(line, frame, 0);
      assert.deepEqual(present(line, 0), frames);
    });

    it('presents again what was not released', () => {
      const line = open(100);
      const count = BATCH_FRAMES + 18;
      for (let i = 0; i < count; i++) push(line, { bytes: frameBytes(60, i) }, i);
      assert.equal(present(line, 100).length, BATCH_FRAMES);
      assert.equal(line.presented, BATCH_FRAMES);
      line.release(2);
      push(line, { bytes: frameBytes(60, 99) }, 0);
      const again = present(line, 100).map(({ bytes }) => bytes);
      assert.equal(again.length, BATCH_FRAMES);
      assert.deepEqual(again[0], frameBytes(60, 2));
      assert.deepEqual(again[BATCH_FRAMES - 2], frameBytes(60, 99), 'a later one is not put before those presented');
      assert.equal(line.count, count - 1);
    });

    it('flips one bit, and then nobody says any more that its checksums are right', () => {
      const line = open(10);
      const bytes = frameBytes(5000, 1);
      const batch = emptyBatch(arena());
      appendTestFrame(batch, { bytes, flags: VIRTIO_NET_HDR_F_DATA_VALID });
      for (const bit of [14 * 8, 2035 * 8 + 7, 2036 * 8, 4999 * 8 + 7]) {
        line.push(batch, 0, 0, bit);
        line.push(batch, 0, 0, NO_BIT);
        const [flipped, whole] = present(line, 0);
        line.release(2);
        const expected = Uint8Array.from(bytes);
        expected[bit >> 3]! ^= 1 << (bit & 7);
        assert.deepEqual(flipped!.bytes, expected);
        assert.equal(flipped!.flags, 0);
        assert.deepEqual(whole!.bytes, bytes);
        assert.equal(whole!.flags, VIRTIO_NET_HDR_F_DATA_VALID);
      }
    });

    it('has room for as many frames as it was told, and long ones take more of it', () => {
      const line = open(3);
      assert.equal(line.roomFor(60), 2);
      push(line, { bytes: frameBytes(60, 1) }, 0);
      push(line, { bytes: frameBytes(60, 2) }, 0);
      assert.equal(line.roomFor(60), 1);
      assert.equal(line.roomFor(MAX_FRAME_BYTES), 1);
      push(line, { bytes: frameBytes(MAX_FRAME_BYTES, 3) }, 0);
      assert.equal(line.roomFor(60), 0);
      take(line, 0);
      push(line, { bytes: frameBytes(MAX_FRAME_BYTES, 4) }, 0);
      assert.equal(line.roomFor(MAX_FRAME_BYTES), 0);
      assert.equal(line.roomFor(60), 2);
      assert.equal(open(1).roomFor(MAX_FRAME_BYTES), 1, 'the longest fits alone');
    });

    it('takes over what another one holds, at once and in order, even where it is more than it holds itself', () => {
      const before = open(50);
      for (let i = 0; i < 40; i++) push(before, { bytes: frameBytes(60 + 100 * i, i) }, 1000 - i);
      const inOrder = Array.from({ length: 40 }, (_, i) => frameBytes(60 + 100 * (39 - i), 39 - i));
      present(before, 970);
      before.release(1);
      const after = open(2, before);
      assert.equal(after.count, 39);
      assert.equal(after.roomFor(60), 2);
      push(after, { bytes: frameBytes(60, 98) }, 7);
      push(after, { bytes: frameBytes(60, 99) }, 5);
      assert.equal(after.roomFor(60), 0, 'those taken over do not count');
      assert.deepEqual(take(after, 0), inOrder.slice(1));
      assert.equal(after.roomFor(60), 0);
      assert.deepEqual(take(after, 7), [frameBytes(60, 99), frameBytes(60, 98)]);
      assert.equal(after.roomFor(60), 2);
    });
  });
}

describe('DelayLine', () => {
  it('gives every frame once, by time and then by number, as a list would (fast-check)', () => {
    const scratch = wasmArena().allocate(MAX_RECORD_BYTES);
    const step = fc.oneof(
      fc.record({ push: fc.nat(20), length: fc.integer({ min: 14, max: 5000 }) }),
      fc.record({ now: fc.nat(20), release: fc.nat(BATCH_FRAMES) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const line = new DelayLine(wasmArena(), scratch, 60);
        try {
          const model: { at: number; n: number; length: number }[] = [];
          const front: typeof model = [];
          let n = 0;
          for (const one of steps) {
            if ('push' in one) {
              if (line.roomFor(one.length) === 0) continue;
              const batch = emptyBatch();
              appendTestFrame(batch, { bytes: frameBytes(one.length, n) });
              line.push(batch, 0, one.push, NO_BIT);
              model.push({ at: one.push, n: n++, length: one.length });
              model.sort((a, b) => a.at - b.at || a.n - b.n);
              continue;
            }
            while (front.length < BATCH_FRAMES && model.length > 0 && model[0]!.at <= one.now)
              front.push(model.shift()!);
            const batch = emptyBatch(wasmArena(), 1);
            assert.equal(line.present(batch, one.now), front.length);
            for (const [i, { n, length }] of front.entries()) {
              assert.deepEqual(testFrameOf(batch, i).bytes, frameBytes(length, n));
            }
            const released = Math.min(one.release, front.length);
            line.release(released);
            front.splice(0, released);
            assert.equal(line.count, front.length + model.length);
            assert.equal(line.nextAt, model[0]?.at ?? Number.POSITIVE_INFINITY);
          }
        } finally {
          line.close();
        }
      }),
      { numRuns: 60 },
    );
  });
});
