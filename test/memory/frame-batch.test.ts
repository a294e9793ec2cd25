import assert from 'node:assert/strict';
import fc from 'fast-check';
import { addressOf } from '../../linux/libc.ts';
import {
  BATCH_FRAMES,
  FrameBatch,
  HEADER_BYTES,
  HEADROOM,
  MAX_FRAME_BYTES,
  MAX_FRAME_SEGMENTS,
} from '../../memory/frame-batch.ts';
import { readNetHeader, writeNetHeader } from '../../vhost/net-header.ts';
import { appendFrame, cut, frameBytes, frameOf, join } from '../helpers/frame-bytes.ts';

/** What stands before frame `i` in its slot. */
function prefixOf(batch: FrameBatch, i: number, prefix: number): Uint8Array {
  const end = batch.headerOffset(i);
  return batch.headers.slice(end - prefix, end);
}

/** The frame as its segments say, which is what every transmitting port follows. */
function segmentsOf(batch: FrameBatch, i: number): number[] {
  const first = batch.firstSegment[i]!;
  return [...batch.segmentLength.subarray(first, first + batch.segmentCount[i]!)];
}

describe('FrameBatch', () => {
  it('copies a short frame whole into its slot', () => {
    const batch = new FrameBatch();
    const frame = frameBytes(60, 1);
    appendFrame(batch, [frame]);
    assert.equal(batch.count, 1);
    assert.equal(batch.length[0], 60);
    assert.deepEqual(segmentsOf(batch, 0), [60]);
    assert.equal(batch.segmentAddress[batch.firstSegment[0]!], batch.headerAddress(0));
    const at = batch.headerOffset(0);
    assert.deepEqual(batch.headers.slice(at, at + 60), frame);
  });

  it('copies the first HEADER_BYTES of a long frame and refers to the rest', () => {
    const batch = new FrameBatch();
    const frame = frameBytes(1514, 1);
    appendFrame(batch, [frame]);
    assert.deepEqual(segmentsOf(batch, 0), [HEADER_BYTES, 1514 - HEADER_BYTES]);
    assert.deepEqual(frameOf(batch, 0), frame);
  });

  it('copies out the first bytes alone when asked for fewer, and the frame when asked for more', () => {
    const batch = new FrameBatch();
    const frame = frameBytes(500, 1);
    appendFrame(batch, cut(frame, [200]));
    for (const count of [0, 1, 127, 128, 129, 199, 200, 201, 499, 500, 501, 70_000]) {
      const bytes = new Uint8Array(600).fill(0xee);
      const copied = Math.min(count, 500);
      assert.equal(batch.copyOut(0, addressOf(bytes), count), copied);
      assert.deepEqual(bytes.subarray(0, copied), frame.subarray(0, copied));
      assert(
        bytes.subarray(copied).every((byte) => byte === 0xee),
        'bytes behind stay',
      );
    }
  });

  it('has room for BATCH_FRAMES frames, or fewer of many segments', () => {
    const batch = new FrameBatch();
    for (let i = 0; i < BATCH_FRAMES; i++) {
      assert.equal(batch.hasRoom, true);
      appendFrame(batch, [frameBytes(60, i)]);
    }
    assert.equal(batch.hasRoom, false);
    batch.clear();
    assert.equal(batch.count, 0);
    const frame = frameBytes(MAX_FRAME_BYTES, 1);
    const pieces = cut(frame, new Array(MAX_FRAME_SEGMENTS - 1).fill(64));
    let frames = 0;
    for (; batch.hasRoom; frames++) appendFrame(batch, pieces);
    assert(frames >= 2, `${frames}`);
    assert(batch.segments <= batch.segmentLength.length);
    for (let i = 0; i < frames; i++) assert.deepEqual(frameOf(batch, i), frame);
  });

  it('begins again after clear', () => {
    const batch = new FrameBatch();
    for (let round = 0; round < 3; round++) {
      batch.clear();
      appendFrame(batch, cut(frameBytes(300 + round, round), [10, 20]));
      assert.deepEqual(frameOf(batch, 0), frameBytes(300 + round, round));
      assert.equal(batch.firstSegment[0], 1 + 1, 'the header slot takes the place of the last buffer that it used up');
    }
  });

  it('gives back any prefix and frames, cut anywhere', () => {
    const frame = fc.record({
      prefix: fc.constantFrom(0, 4, 10, 12, HEADROOM),
      length: fc.oneof(
        { weight: 4, arbitrary: fc.integer({ min: 1, max: 300 }) },
        { weight: 1, arbitrary: fc.integer({ min: 300, max: MAX_FRAME_BYTES }) },
      ),
      cuts: fc.array(fc.oneof(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 0, max: 3000 })), { maxLength: 30 }),
    });
    fc.assert(
      fc.property(fc.array(frame, { minLength: 1, maxLength: 8 }), (frames) => {
        const batch = new FrameBatch();
        const whole = frames.map(({ prefix, length }, i) => frameBytes(prefix + length, i));
        for (const [i, { prefix, cuts }] of frames.entries()) appendFrame(batch, cut(whole[i]!, cuts), prefix);
        assert.equal(batch.count, frames.length);
        let segments = 0;
        for (const [i, { prefix, length }] of frames.entries()) {
          assert.equal(batch.length[i], length);
          assert.deepEqual(join([prefixOf(batch, i, prefix), frameOf(batch, i)]), whole[i]);
          assert.equal(
            segmentsOf(batch, i).reduce((sum, n) => sum + n, 0),
            length,
          );
          assert.equal(segmentsOf(batch, i)[0], Math.min(length, HEADER_BYTES));
          assert(batch.firstSegment[i]! >= segments, 'segments of frames do not overlap');
          segments = batch.firstSegment[i]! + batch.segmentCount[i]!;
        }
        assert.equal(batch.segments, segments);
      }),
      { numRuns: 200 },
    );
  });
});

describe('the virtio-net header of a batch', () => {
  it('is written as it was read, in 10 and 12 bytes, beside its neighbours', () => {
    const header = fc.uint8Array({ minLength: 12, maxLength: 12 });
    fc.assert(
      fc.property(header, fc.constantFrom(10, 12), fc.nat(0xffff), (bytes, headerBytes, numBuffers) => {
        const batch = new FrameBatch();
        for (let i = 0; i < 3; i++) appendFrame(batch, [join([bytes.subarray(0, headerBytes), frameBytes(60, i)])], 0);
        batch.clear();
        for (let i = 0; i < 3; i++) {
          appendFrame(batch, [join([bytes.subarray(0, headerBytes), frameBytes(200, i)])], headerBytes);
        }
        readNetHeader(batch, 1, headerBytes);
        const view = new DataView(Uint8Array.from(bytes).buffer);
        assert.deepEqual(
          [batch.flags, batch.gsoType, batch.hdrLen, batch.gsoSize, batch.csumStart, batch.csumOffset].map((c) => c[1]),
          [bytes[0], bytes[1], ...[2, 4, 6, 8].map((at) => view.getUint16(at, true))],
        );
        batch.headers.fill(0xee, batch.headerOffset(1) - HEADROOM, batch.headerOffset(1));
        const before = batch.headers.slice();
        writeNetHeader(batch, 1, headerBytes, numBuffers);
        const end = batch.headerOffset(1);
        const expected = [...bytes.subarray(0, 10), numBuffers & 0xff, numBuffers >> 8].slice(0, headerBytes);
        before.set(expected, end - headerBytes);
        assert.deepEqual(batch.headers, before);
      }),
      { numRuns: 200 },
    );
  });
});
