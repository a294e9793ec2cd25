import assert from 'node:assert/strict';
import fc from 'fast-check';
import { addressOf, viewMemory } from '../../linux/libc.ts';
import type { Arena } from '../../memory/arena.ts';
import {
  ADDRESS_WORDS,
  BATCH_FRAMES,
  FROM_HIGH,
  FROM_LOW,
  type FrameBatch,
  HEADER_BYTES,
  HEADROOM,
  MAX_FRAME_BYTES,
  MAX_FRAME_SEGMENTS,
  TO_HIGH,
  TO_LOW,
} from '../../memory/frame-batch.ts';
import { ARENAS, emptyBatch, plainArena, wasmArena } from '../helpers/arenas.ts';
import { appendFrame, appendFrames, cut, frameBytes, frameOf, join } from '../helpers/frame-bytes.ts';

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

for (const { name, arena } of ARENAS) describe(`FrameBatch ${name}`, () => suite(arena));

function suite(arena: () => Arena): void {
  it('copies a short frame whole into its slot', () => {
    const batch = emptyBatch(arena());
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
    const batch = emptyBatch(arena());
    const frame = frameBytes(1514, 1);
    appendFrame(batch, [frame]);
    assert.deepEqual(segmentsOf(batch, 0), [HEADER_BYTES, 1514 - HEADER_BYTES]);
    assert.deepEqual(frameOf(batch, 0), frame);
  });

  it('copies out the first bytes alone when asked for fewer, and the frame when asked for more', () => {
    const batch = emptyBatch(arena());
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
    const batch = emptyBatch(arena());
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
    const batch = emptyBatch(arena());
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
        const batch = emptyBatch(arena());
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

  it('takes frames of one buffer together, behind what is there', () => {
    const batch = emptyBatch(arena());
    appendFrame(batch, cut(frameBytes(500, 9), [200, 7]));
    const frames = [14, 60, 115, 116, 127, 128, 129, 1514, MAX_FRAME_BYTES].map((length) => frameBytes(length, length));
    for (const prefix of [12, 0, 10]) {
      appendFrames(
        batch,
        frames.slice(prefix / 2).map((frame) => join([frameBytes(prefix, 1), frame])),
        prefix,
      );
    }
    appendFrames(batch, []);
    appendFrame(batch, [frameBytes(77, 8)]);
    const expected = [frameBytes(500, 9), ...frames.slice(6), ...frames, ...frames.slice(5), frameBytes(77, 8)];
    assert.equal(batch.count, expected.length);
    for (const [i, frame] of expected.entries()) {
      assert.equal(batch.length[i], frame.length);
      assert.deepEqual(frameOf(batch, i), frame);
      assert.equal(segmentsOf(batch, i)[0], Math.min(frame.length, HEADER_BYTES));
      assert.equal(
        segmentsOf(batch, i).reduce((sum, n) => sum + n, 0),
        frame.length,
      );
    }
    const bytes = (frames: Uint8Array[]): number => frames.reduce((sum, frame) => sum + frame.length, 0);
    assert.equal(batch.bytesOf(0, batch.count), bytes(expected));
    assert.equal(batch.bytesOf(2, 9), bytes(expected.slice(2, 9)));
    assert.equal(batch.bytesOf(3, 3), 0);
    assert.equal(batch.room, BATCH_FRAMES - expected.length);
    batch.clear();
    assert.equal(batch.bytesOf(0, 0), 0);
    assert.equal(batch.room, BATCH_FRAMES);
  });

  it('reads the MAC addresses of a frame in network order', () => {
    const batch = emptyBatch(arena());
    const [to, from] = [Uint8Array.of(0x01, 0x80, 0xc2, 0xf0, 0xe1, 0xd2), Uint8Array.of(0xfe, 2, 0x83, 4, 5, 0xf6)];
    appendFrame(batch, [frameBytes(60, 0)]);
    appendFrame(batch, [join([to, from, Uint8Array.of(8, 0)])]);
    assert.deepEqual(
      [...batch.addresses.subarray(ADDRESS_WORDS, 2 * ADDRESS_WORDS)],
      [0x0180, 0xc2f0e1d2 | 0, 0xfe02, 0x830405f6 | 0],
    );
    assert.equal(batch.addresses[ADDRESS_WORDS + TO_HIGH], 0x0180);
    assert.equal(batch.addresses[ADDRESS_WORDS + TO_LOW], 0xc2f0e1d2 | 0);
    assert.equal(batch.addresses[ADDRESS_WORDS + FROM_HIGH], 0xfe02);
    assert.equal(batch.addresses[ADDRESS_WORDS + FROM_LOW], 0x830405f6 | 0);
  });

  describe('repeats', () => {
    const macs = frameBytes(12, 7);
    const frame = (seed: number): Uint8Array => join([macs, frameBytes(100, seed)]);
    const plain = new Uint8Array(12);
    const repeatsOf = (frames: [header: Uint8Array, frame: Uint8Array][]): number[] => {
      const batch = emptyBatch(arena());
      appendFrames(
        batch,
        frames.map((pieces) => join(pieces)),
        12,
      );
      return [...batch.repeats.subarray(0, frames.length)];
    };

    it('says that a frame has the addresses of the one before it', () => {
      const other = frame(4).fill(1, 11, 12);
      const frames = [1, 2, 3].map((seed): [Uint8Array, Uint8Array] => [plain, frame(seed)]);
      assert.deepEqual(repeatsOf([...frames, [plain, other], [plain, other], [plain, frame(5)]]), [0, 1, 1, 0, 1, 0]);
    });

    it('sees a difference in every byte of the addresses', () => {
      for (let at = 0; at < 12; at++) {
        for (const bit of [1, 0x80]) {
          const other = frame(1);
          other[at] = other[at]! ^ bit;
          assert.deepEqual(
            repeatsOf([
              [plain, frame(1)],
              [plain, other],
            ]),
            [0, 0],
            `byte ${at}`,
          );
        }
      }
      const other = frame(1);
      other[12] = other[12]! ^ 1;
      assert.deepEqual(
        repeatsOf([
          [plain, frame(1)],
          [plain, other],
        ]),
        [0, 1],
        'the EtherType is none of them',
      );
    });

    it('says so of no frame with offloads, nor of the one behind it', () => {
      const [flags, gso] = [Uint8Array.from(plain), Uint8Array.from(plain)];
      flags[0] = 1;
      gso[1] = 1;
      const meaningless = Uint8Array.from(plain).fill(9, 2);
      const headers = [plain, plain, flags, plain, plain, gso, plain, meaningless, meaningless];
      assert.deepEqual(repeatsOf(headers.map((header) => [header, frame(1)])), [0, 1, 0, 0, 1, 0, 0, 1, 1]);
    });

    it('says so of no frame that is the first of its call', () => {
      const batch = emptyBatch(arena());
      for (let i = 0; i < 2; i++) appendFrames(batch, [frame(1), frame(2)]);
      for (let i = 0; i < 2; i++) appendFrame(batch, [frame(1)]);
      assert.deepEqual([...batch.repeats.subarray(0, 6)], [0, 1, 0, 1, 0, 0]);
    });
  });

  describe('place', () => {
    const SPACE = 2 ** 20;
    /** A place in the arena and one outside of it. */
    let near: { address: number; bytes: Uint8Array };
    let far: { address: number; bytes: Uint8Array };
    before(() => {
      const address = arena().allocate(SPACE);
      near = { address, bytes: new Uint8Array(viewMemory(address, SPACE)) };
      const bytes = new Uint8Array(SPACE);
      far = { address: addressOf(bytes), bytes };
    });
    const GAP = 32;
    const FIELDS = [0x0401, 0x1236, 0x05b4, 0x0122, 0x0210];
    const headerOf = (plain: boolean, headerBytes: number): Uint8Array =>
      new Uint8Array(Uint16Array.of(...(plain ? [0, 0, 0, 0, 0] : FIELDS), 1).buffer).slice(0, headerBytes);

    it('writes frames with their headers, near and far, and nothing beside them', () => {
      const frames = fc.array(
        fc.record({
          length: fc.oneof(fc.integer({ min: 14, max: 300 }), fc.integer({ min: 14, max: 3000 })),
          cuts: fc.array(fc.nat(500), { maxLength: 10 }),
          plain: fc.boolean(),
          isFar: fc.boolean(),
        }),
        { minLength: 1, maxLength: BATCH_FRAMES, size: 'max' },
      );
      const property = fc.property(
        frames,
        fc.constantFrom(10, 12),
        fc.nat(),
        fc.nat(),
        (frames, header, some, more) => {
          const batch = emptyBatch(arena());
          for (const [i, { length, cuts, plain }] of frames.entries()) {
            const fields = plain ? new Uint8Array(12).fill(9, 2) : headerOf(false, 12);
            appendFrame(batch, [fields, ...cut(frameBytes(length, i), cuts)], 12);
          }
          near.bytes.fill(0xee);
          far.bytes.fill(0xee);
          const expected: Record<'near' | 'far', Uint8Array> = { near: near.bytes.slice(), far: far.bytes.slice() };
          const first = some % frames.length;
          const end = first + (more % (frames.length + 1 - first));
          let at = GAP;
          for (const [i, { length, plain, isFar }] of frames.entries()) {
            batch.placeTo[i] = (isFar ? far : near).address + at;
            if (i >= first && i < end) {
              expected[isFar ? 'far' : 'near'].set(join([headerOf(plain, header), frameBytes(length, i)]), at);
            }
            at += header + length + GAP;
          }
          batch.place(first, end, header);
          assert.equal(Buffer.compare(near.bytes, expected.near), 0, 'near');
          assert.equal(Buffer.compare(far.bytes, expected.far), 0, 'far');
          for (const [i, { length }] of frames.entries()) assert.deepEqual(frameOf(batch, i), frameBytes(length, i));
        },
      );
      fc.assert(property, { numRuns: 100 });
    });

    it('writes a frame again, with the fields that it has then', () => {
      const batch = emptyBatch(arena());
      appendFrame(batch, [headerOf(false, 12), frameBytes(200, 1)], 12);
      for (const [i, headerBytes] of [12, 10, 12].entries()) {
        if (i === 2) batch.flags[0] = batch.gsoType[0] = 0;
        batch.placeTo[0] = near.address;
        batch.place(0, 1, headerBytes);
        assert.deepEqual(
          near.bytes.slice(0, headerBytes + 200),
          join([headerOf(i === 2, headerBytes), frameBytes(200, 1)]),
        );
      }
    });
  });

  describe('its virtio-net header', () => {
    it('is written as it was read, in 10 and 12 bytes, beside its neighbours', () => {
      const header = fc
        .tuple(fc.uint8Array({ minLength: 12, maxLength: 12 }), fc.boolean())
        .map(([bytes, plain]) => (plain ? bytes.fill(0, 0, 2) : bytes));
      fc.assert(
        fc.property(header, fc.constantFrom(10, 12), fc.nat(0xffff), (bytes, headerBytes, numBuffers) => {
          const batch = emptyBatch(arena());
          for (let i = 0; i < 3; i++)
            appendFrame(batch, [join([bytes.subarray(0, headerBytes), frameBytes(60, i)])], 0);
          batch.clear();
          for (let i = 0; i < 3; i++) {
            appendFrame(batch, [join([bytes.subarray(0, headerBytes), frameBytes(200, i)])], headerBytes);
          }
          // Without flags and gso_type the other fields mean nothing.
          const isPlain = bytes[0] === 0 && bytes[1] === 0;
          const view = new DataView(Uint8Array.from(bytes).buffer);
          assert.deepEqual(
            [batch.flags, batch.gsoType, batch.hdrLen, batch.gsoSize, batch.csumStart, batch.csumOffset].map(
              (c) => c[1],
            ),
            [bytes[0], bytes[1], ...[2, 4, 6, 8].map((at) => view.getUint16(at, true))].map((n) => (isPlain ? 0 : n)),
          );
          batch.headers.fill(0xee, batch.headerOffset(1) - HEADROOM, batch.headerOffset(1));
          const before = batch.headers.slice();
          batch.writeNetHeader(1, headerBytes, numBuffers);
          const end = batch.headerOffset(1);
          const fields = isPlain ? new Uint8Array(10) : bytes.subarray(0, 10);
          const expected = [...fields, numBuffers & 0xff, numBuffers >> 8].slice(0, headerBytes);
          before.set(expected, end - headerBytes);
          assert.deepEqual(batch.headers, before);
        }),
        { numRuns: 200 },
      );
    });
  });
}

describe('FrameBatch with wasm and without', () => {
  it('have the same from the same frames, near and far: slots, segments and columns', () => {
    const SPACE = 2 ** 18;
    const FIRST_AT = SPACE - 3000;
    const nearAt = wasmArena().allocate(SPACE);
    const near = new Uint8Array(viewMemory(nearAt, SPACE));
    const far = new Uint8Array(SPACE);
    const farAt = addressOf(far);
    interface Segment {
      isFar: boolean;
      length: number;
      at: number;
    }
    const segment: fc.Arbitrary<Segment> = fc.record({
      isFar: fc.boolean(),
      length: fc.oneof(fc.nat(20), fc.nat(200), fc.nat(3000)),
      at: fc.nat(FIRST_AT - 3000),
    });
    const frame = fc.record({
      segments: fc.array(segment, { minLength: 1, maxLength: 12 }),
      /** Segments more, of a byte each. */
      more: fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(1000) }),
      /** Frames of the same family have the same addresses, and the same flags and gso_type. */
      family: fc.nat(4),
    });
    const call = fc.record({
      prefix: fc.constantFrom(0, 10, 12, HEADROOM),
      /** One buffer each, taken together; the bytes are those of the family's place, as many as the first segment has. */
      together: fc.boolean(),
      frames: fc.array(frame, { maxLength: 12 }),
    });

    const property = fc.property(fc.array(call, { minLength: 1, maxLength: 4 }), fc.nat(), (calls, seed) => {
      near.set(frameBytes(SPACE, seed));
      far.set(frameBytes(SPACE, seed + 1));
      for (let family = 0; family <= 4; family++) {
        const at = FIRST_AT + family * 40;
        if (family < 3) for (const place of [near, far]) place.fill(0, at, at + 2);
        // The same addresses (behind headers of any length) near and far, so that they repeat over both.
        far.set(near.subarray(at, at + 40), at);
      }
      const batches = [emptyBatch(wasmArena()), emptyBatch(plainArena())] as const;
      // What earlier frames left, the same in both.
      for (const batch of batches) batch.headers.set(frameBytes(batch.headers.length, seed + 2));
      const note = (batch: FrameBatch, at: number, { isFar, at: from, length }: Segment): void => {
        batch.segmentAddress[at] = (isFar ? farAt : nearAt) + from;
        batch.segmentLength[at] = length;
      };
      for (const { prefix, together, frames } of calls) {
        const some = frames.slice(0, batches[0].hasRoom ? batches[0].room : 0);
        const head = ({ segments, family }: (typeof frames)[number]): Segment => ({
          isFar: segments[0]!.isFar,
          at: FIRST_AT + family * 40,
          length: prefix + 14,
        });
        for (const batch of batches) {
          if (together) {
            for (const [i, frame] of some.entries()) {
              const first = head(frame);
              note(batch, batch.segments + 1 + 2 * i, {
                ...first,
                length: first.length + (frame.segments[0]!.length % 2000),
              });
            }
            batch.appendBuffers(some.length, prefix);
            continue;
          }
          for (const frame of some) {
            if (!batch.hasRoom) break;
            const ones = Array.from({ length: frame.more }, (_, i) => ({ isFar: i % 2 === 0, at: i, length: 1 }));
            const all = [head(frame), ...frame.segments, ...ones];
            for (const [i, each] of all.entries()) note(batch, batch.segments + 1 + i, each);
            batch.append(all.length, prefix, all.reduce((sum, { length }) => sum + length, 0) - prefix);
          }
        }
      }
      const [one, two] = batches.map((batch) => {
        const { count, headersAddress } = batch;
        const meant = (column: Uint16Array): number[] =>
          Array.from(column.subarray(0, count), (value, i) => (batch.flags[i]! | batch.gsoType[i]! ? value : 0));
        const segments = Array.from({ length: count }, (_, i) => {
          const first = batch.firstSegment[i]!;
          assert.equal(batch.segmentAddress[first], batch.headerAddress(i), 'the slot comes first');
          return Array.from({ length: batch.segmentCount[i]! }, (_, s) => {
            const address = batch.segmentAddress[first + s]!;
            // Addresses in slots are each batch's own.
            return [s === 0 ? address - headersAddress : address, batch.segmentLength[first + s]];
          });
        });
        return {
          count,
          used: batch.segments,
          bytes: batch.bytesOf(0, count),
          headers: batch.headers.slice(),
          length: [...batch.length.subarray(0, count)],
          segments,
          flags: [...batch.flags.subarray(0, count)],
          gsoType: [...batch.gsoType.subarray(0, count)],
          fields: [batch.hdrLen, batch.gsoSize, batch.csumStart, batch.csumOffset].map(meant),
          repeats: [...batch.repeats.subarray(0, count)],
          macs: [...batch.addresses.subarray(0, ADDRESS_WORDS * count)],
        };
      });
      assert.deepEqual(one, two);
      repeated += one!.repeats.reduce((sum, n) => sum + n, 0);
    });
    let repeated = 0;
    fc.assert(property, { numRuns: 300 });
    assert(repeated > 50, 'frames repeat often enough to tell');
  });

  it('have room for the last frame and segment that the columns hold', () => {
    // Every column filled with something else: one that the kernels look for elsewhere would show.
    for (const { arena } of ARENAS) {
      const batch = emptyBatch(arena());
      for (let i = 0; i < BATCH_FRAMES; i++) {
        const header = Uint8Array.of(i + 1, i + 2, i + 3, 1, i + 4, 2, i + 5, 3, i + 6, 4, 0, 0);
        appendFrame(batch, [header, frameBytes(60 + i, i), frameBytes(100, i)], 12);
      }
      const upTo = (first: number, high = 0): number[] =>
        Array.from({ length: BATCH_FRAMES }, (_, i) => first + i + 256 * high);
      assert.deepEqual([...batch.flags], upTo(1));
      assert.deepEqual([...batch.gsoType], upTo(2));
      assert.deepEqual([...batch.hdrLen], upTo(3, 1));
      assert.deepEqual([...batch.gsoSize], upTo(4, 2));
      assert.deepEqual([...batch.csumStart], upTo(5, 3));
      assert.deepEqual([...batch.csumOffset], upTo(6, 4));
      assert.deepEqual([...batch.length], upTo(160));
      assert.deepEqual([...batch.repeats], new Array(BATCH_FRAMES).fill(0));
      for (let i = 0; i < BATCH_FRAMES; i++) {
        assert.deepEqual(frameOf(batch, i), join([frameBytes(60 + i, i), frameBytes(100, i)]));
      }
      // Frames of as many segments as there may be, up to the end of the segments' columns.
      batch.clear();
      const pieces = cut(frameBytes(5000, 1), new Array(MAX_FRAME_SEGMENTS - 1).fill(3));
      let frames = 0;
      for (; batch.hasRoom; frames++) appendFrame(batch, pieces);
      for (let i = 0; i < frames; i++) assert.deepEqual(frameOf(batch, i), frameBytes(5000, 1));
    }
  });
});
