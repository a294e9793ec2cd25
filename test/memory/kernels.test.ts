import assert from 'node:assert/strict';
import fs from 'node:fs';
import { addressOf, viewMemory } from '../../linux/libc.ts';
import { MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, mmap, PROT_NONE, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';
import { ARENA_BYTES, Arena } from '../../memory/arena.ts';
import { ASSEMBLED, assembleKernels, placeConstants } from '../../scripts/kernels.ts';
import { ARENAS, emptyBatch, wasmArena } from '../helpers/arenas.ts';
import { frameBytes } from '../helpers/frame-bytes.ts';

const PAGE = 4096;
/** As long as a copy or sum of the tests may be, with room on both sides. */
const SPACE = 2 ** 17;
const MARGIN = 32;

interface Place {
  address: number;
  bytes: Uint8Array;
}
const viewOf = (address: number, length: number): Place => ({
  address,
  bytes: new Uint8Array(viewMemory(address, length)),
});
/** The same few for every test: scratch memory is never given back, and an address does not keep an array alive. */
const places = new Map<Arena, Place[]>();
/** Two places in an arena and two outside of it. */
function placesOf(arena: Arena): [near: Place, near2: Place, far: Place, far2: Place] {
  let four = places.get(arena);
  if (!four) {
    const near = [0, 1].map(() => viewOf(arena.allocate(SPACE), SPACE));
    const far = [0, 1].map(() => {
      const bytes = new Uint8Array(SPACE);
      return { address: addressOf(bytes), bytes };
    });
    four = [...near, ...far];
    places.set(arena, four);
  }
  return four as [Place, Place, Place, Place];
}

/** RFC 1071 §1 as it is written: 16-bit words in network order, an odd byte padded, carries folded in. */
function plainSum(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) {
    sum += (bytes[i]! << 8) + (bytes[i + 1] ?? 0);
    if (sum > 0xffff) sum -= 0xffff;
  }
  return sum;
}

describe('kernels.wasm', () => {
  it('is what kernels.wat stands for (else: npm run kernels)', async () => {
    assert.deepEqual(new Uint8Array(fs.readFileSync(ASSEMBLED)), new Uint8Array(await assembleKernels()));
  });

  it('has constants in their places, in offsets too', () => {
    const text = '(global $A i64 (i64.const 0x10)) (i64.load offset=$A (global.get $A)) (global.get $sink)';
    assert.equal(placeConstants(text).trim(), '(i64.load offset=0x10 (i64.const 0x10)) (global.get $sink)');
    assert.throws(
      () => placeConstants('(i64.load offset=$B (local.get $i))'),
      /offset=\$B, but there is no constant \$B/,
    );
  });

  it('is not assembled from a text with a mistake, whose line is named', async () => {
    await assert.rejects(() => assembleKernels('(module\n  (func (i32.add))\n)'), /kernels\.wat:2/);
    await assert.rejects(() => assembleKernels('(module\n  (fun)\n)'), /kernels\.wat:2/);
  });
});

for (const { name, arena } of ARENAS) {
  describe(`the kernels ${name}`, () => {
    /** Copies, and looks at what the bytes are and that no others were touched. */
    function checkCopy(from: Place, fromAt: number, to: Place, toAt: number, length: number): void {
      const around = to.bytes.subarray(toAt - MARGIN, toAt + length + MARGIN);
      around.fill(0xee);
      arena().copy(to.address + toAt, from.address + fromAt, length);
      const what = `${length} bytes from ${fromAt} to ${toAt}`;
      const expected = from.bytes.subarray(fromAt, fromAt + length);
      assert.equal(Buffer.compare(around.subarray(MARGIN, MARGIN + length), expected), 0, what);
      for (let i = 0; i < MARGIN; i++) {
        if (around[i] !== 0xee || around[MARGIN + length + i] !== 0xee) assert.fail(`${what}: bytes beside them`);
      }
    }

    it('copy any number of bytes between any alignments', () => {
      const [from, to] = placesOf(arena());
      from.bytes.set(frameBytes(SPACE, 1));
      for (let length = 0; length <= 600; length++) {
        for (let fromAt = MARGIN; fromAt < MARGIN + 16; fromAt++) {
          // Every distance of the two alignments, and with the lengths every pair of them.
          checkCopy(from, fromAt, to, MARGIN + ((fromAt + length) & 15), length);
          checkCopy(from, fromAt, to, MARGIN + ((7 * fromAt + 3) & 15), length);
        }
      }
      for (let at = 0; at < 256; at++) {
        for (const length of [1, 7, 15, 16, 17, 33, 255, 256, 257]) {
          checkCopy(from, MARGIN + (at & 15), to, MARGIN + (at >> 4), length);
        }
      }
      checkCopy(from, MARGIN, to, MARGIN, 65_550);
      checkCopy(from, MARGIN + 3, to, MARGIN + 2, 100_001);
    });

    it('copy from and to what lies elsewhere', () => {
      const [near, , far, far2] = placesOf(arena());
      for (const [from, to] of [
        [near, far],
        [far, near],
        [far, far2],
      ] as const) {
        from.bytes.set(frameBytes(SPACE, 2));
        for (const length of [0, 1, 15, 16, 17, 100, 257, 1514, 65_550]) {
          checkCopy(from, MARGIN + 1, to, MARGIN + 2, length);
        }
      }
    });

    it('touch nothing behind the last byte of a mapping', () => {
      const base = arena().reserve(3 * PAGE, PAGE, 0);
      const [, to] = placesOf(arena());
      try {
        const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
        mmap({ address: base, length: PAGE, prot: PROT_NONE, flags });
        mmap({ address: base + PAGE, length: PAGE, prot: PROT_READ | PROT_WRITE, flags });
        mmap({ address: base + 2 * PAGE, length: PAGE, prot: PROT_NONE, flags });
        const page = viewOf(base + PAGE, PAGE);
        page.bytes.set(frameBytes(PAGE, 3));
        for (let length = 0; length <= 300; length++) {
          for (const at of [0, PAGE - length]) {
            const expected = page.bytes.slice(at, at + length);
            arena().copy(to.address, page.address + at, length);
            assert.deepEqual(to.bytes.slice(0, length), expected);
            assert.equal(arena().sum(page.address + at, length), plainSum(expected));
            assert.equal(arena().copySum(page.address + at, to.address, length), plainSum(expected));
          }
        }
      } finally {
        arena().free(base, 3 * PAGE);
      }
    });

    /** Every way to sum bytes at a place; each must give the same. */
    function checkSum(from: Place, at: number, to: Place, toAt: number, length: number): void {
      const bytes = from.bytes.subarray(at, at + length);
      const expected = plainSum(bytes);
      const what = `${length} bytes at ${at}`;
      assert.equal(arena().sum(from.address + at, length), expected, `sum of ${what}`);
      const around = to.bytes.subarray(toAt - MARGIN, toAt + length + MARGIN);
      around.fill(0xee);
      assert.equal(arena().copySum(to.address + toAt, from.address + at, length), expected, `copySum of ${what}`);
      assert.equal(Buffer.compare(around.subarray(MARGIN, MARGIN + length), bytes), 0, `copySum of ${what}: the bytes`);
      for (let i = 0; i < MARGIN; i++) {
        if (around[i] !== 0xee || around[MARGIN + length + i] !== 0xee) assert.fail(`${what}: bytes beside them`);
      }
    }

    it('sum any number of bytes at any address', () => {
      const [from, to] = placesOf(arena());
      from.bytes.set(frameBytes(SPACE, 4));
      for (let length = 0; length <= 300; length++) {
        for (let at = MARGIN; at < MARGIN + 16; at++) checkSum(from, at, to, MARGIN + ((at + length) & 15), length);
      }
      for (const length of [1514, 9014, 65_535, 65_536, 65_537, 65_549, 65_550]) {
        checkSum(from, MARGIN, to, MARGIN, length);
        checkSum(from, MARGIN + 1, to, MARGIN + 2, length);
      }
    });

    it('sum zeros to 0, all ones to 0xffff, and carry as often as it takes', () => {
      const [from, to] = placesOf(arena());
      for (const [fill, sum] of [
        [0, 0],
        [0xff, 0xffff],
      ] as const) {
        from.bytes.fill(fill);
        for (const length of [1, 2, 3, 16, 17, 63, 64, 65, 128, 1514, 65_549, 65_550]) {
          checkSum(from, MARGIN, to, MARGIN, length);
          if (length % 2 === 0) assert.equal(arena().sum(from.address + MARGIN, length), sum);
        }
      }
      // 0xffff and 1: the sum carries into a word that is full.
      from.bytes.fill(0);
      for (const at of [0, 2, 14, 16, 62, 64, 66]) {
        from.bytes.fill(0xff, MARGIN + at, MARGIN + at + 2);
        from.bytes[MARGIN + 99] = 1;
        checkSum(from, MARGIN, to, MARGIN, 100);
      }
    });

    it('sum what lies elsewhere, and copy it on the way', () => {
      const [near, , far, far2] = placesOf(arena());
      for (const [from, to] of [
        [near, far],
        [far, near],
        [far, far2],
      ] as const) {
        from.bytes.set(frameBytes(SPACE, 5));
        for (let length = 0; length <= 70; length++) checkSum(from, MARGIN + (length & 1), to, MARGIN + 1, length);
        for (const length of [1514, 65_535, 65_536, 65_537, 65_550, 100_001]) {
          checkSum(from, MARGIN + 1, to, MARGIN, length);
          from.bytes.fill(0xff);
          checkSum(from, MARGIN, to, MARGIN, length);
          from.bytes.set(frameBytes(SPACE, length));
        }
      }
    });
  });
}

describe('the kernels at the end of the arena', () => {
  it('reach its last byte', () => {
    const arena = wasmArena();
    const scratch = arena.allocate(PAGE);
    const end = scratch - arena.offsetOf(scratch) + ARENA_BYTES;
    // As it comes from V8: nobody in this process maps that much.
    const last = viewOf(end - PAGE, PAGE);
    const here = viewOf(scratch, PAGE);
    try {
      for (let length = 0; length <= 300; length++) {
        here.bytes.set(frameBytes(length, length));
        arena.copy(end - length, scratch, length);
        assert.deepEqual(last.bytes.slice(PAGE - length), frameBytes(length, length));
        here.bytes.fill(0);
        assert.equal(arena.copySum(scratch, end - length, length), plainSum(frameBytes(length, length)));
        assert.deepEqual(here.bytes.slice(0, length), frameBytes(length, length));
        assert.equal(arena.sum(end - length, length), plainSum(frameBytes(length, length)));
      }
    } finally {
      last.bytes.fill(0);
    }
  });

  it('leave to libc what lies right beside it: other arenas', () => {
    const arenas = [wasmArena(), Arena.open(), Arena.open()];
    const content = frameBytes(1000, 9);
    const scratch = arenas.map((arena) => viewOf(arena.allocate(PAGE), PAGE));
    for (const [i, arena] of arenas.entries()) {
      for (const [j, other] of scratch.entries()) {
        if (i === j) continue;
        assert.equal(arena.holds(other.address), false);
        const own = scratch[i]!;
        other.bytes.set(content);
        own.bytes.fill(0);
        arena.copy(own.address, other.address, content.length);
        assert.deepEqual(own.bytes.slice(0, content.length), content);
        other.bytes.fill(0);
        assert.equal(arena.copySum(other.address, own.address, content.length), plainSum(content));
        assert.deepEqual(other.bytes.slice(0, content.length), content);
        assert.equal(arena.sum(other.address, content.length), plainSum(content));
        // A frame of two buffers, and one of one, come from there and go there.
        const batch = emptyBatch(arena);
        batch.segmentAddress.set([other.address, other.address + 100], 1);
        batch.segmentLength.set([100, 900], 1);
        batch.append(2, 0, 1000);
        batch.segmentAddress[batch.segments + 1] = other.address;
        batch.segmentLength[batch.segments + 1] = 1000;
        batch.appendBuffers(1, 0);
        for (const place of [other, own]) {
          batch.placeTo.set([place.address + 1000, place.address + 2100]);
          batch.place(0, 2, 12);
          for (const at of [1012, 2112]) assert.deepEqual(place.bytes.slice(at, at + 1000), content);
        }
      }
    }
  });
});
