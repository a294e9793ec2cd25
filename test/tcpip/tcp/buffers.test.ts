/** What waits to be acknowledged, and what waits for its turn, against plain models. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { ReceiveBuffer } from '../../../tcpip/tcp/receive-buffer.ts';
import { SendBuffer } from '../../../tcpip/tcp/send-buffer.ts';
import { plus } from '../../../tcpip/tcp/sequence.ts';

const byteAt = (i: number): number => (i * 37 + (i >> 8)) & 0xff;
const bytesFrom = (start: number, length: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => byteAt(start + i));

describe('SendBuffer', () => {
  it('gives what was written, wherever one asks, until it is acknowledged (property)', () => {
    const step = fc.oneof(
      fc.record({ kind: fc.constant('append' as const), length: fc.oneof(fc.nat(100), fc.nat(5000), fc.nat(40_000)) }),
      fc.record({
        kind: fc.constant('copy' as const),
        from: fc.double({ min: 0, max: 1, noNaN: true }),
        length: fc.nat(3000),
      }),
      fc.record({ kind: fc.constant('acknowledge' as const), share: fc.double({ min: 0, max: 1, noNaN: true }) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), fc.constantFrom(0, 0xffff_f000, 77), (steps, start) => {
        const buffer = new SendBuffer();
        buffer.reset(start);
        let [first, end] = [0, 0];
        for (const one of steps) {
          if (one.kind === 'append') {
            buffer.append(bytesFrom(end, one.length));
            end += one.length;
          } else if (one.kind === 'acknowledge') {
            first += Math.floor(one.share * (end - first));
            buffer.acknowledge(plus(start, first));
          } else {
            const from = first + Math.floor(one.from * (end - first));
            const length = Math.min(one.length, end - from);
            if (length === 0) continue;
            const target = new Uint8Array(length + 2);
            buffer.copyTo(plus(start, from), length, target, 1);
            assert.deepEqual(target.subarray(1, -1), bytesFrom(from, length));
            assert.deepEqual([target[0], target[length + 1]], [0, 0]);
          }
          assert.equal(buffer.length, end - first);
          assert.equal(buffer.start, plus(start, first));
        }
      }),
      { numRuns: 300 },
    );
  });

  it('copies small writes, and keeps large ones as they are', () => {
    const buffer = new SendBuffer();
    buffer.reset(0);
    const small = new Uint8Array(10).fill(1);
    const large = new Uint8Array(5000).fill(2);
    buffer.append(small);
    buffer.append(large);
    small.fill(9);
    large.fill(8);
    const target = new Uint8Array(11);
    buffer.copyTo(0, 11, target, 0);
    assert.deepEqual([...target], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 8]);
  });

  it('refuses what is not in it', () => {
    const buffer = new SendBuffer();
    buffer.reset(100);
    buffer.append(new Uint8Array(10));
    assert.throws(() => buffer.copyTo(99, 1, new Uint8Array(1), 0), RangeError);
    assert.throws(() => buffer.copyTo(100, 11, new Uint8Array(11), 0), RangeError);
    buffer.acknowledge(200);
    assert.equal(buffer.length, 0);
    buffer.acknowledge(50);
    assert.equal(buffer.start, 110);
  });
});

describe('ReceiveBuffer', () => {
  /** Everything that it holds, given away. */
  function take(buffer: ReceiveBuffer): number[] {
    const all: number[] = [];
    while (buffer.held > 0) {
      buffer.takeHeld((bytes, start, end) => {
        for (let i = start; i < end; i++) all.push(bytes[i]!);
      });
    }
    return all;
  }

  it('puts segments in order, whatever comes first, twice, or overlaps (property)', () => {
    const SIZE = 400;
    const piece = fc.tuple(fc.nat(SIZE - 1), fc.integer({ min: 1, max: 60 }));
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 60 }), fc.constantFrom(0, 0xffff_ff80), (pieces, base) => {
        const buffer = new ReceiveBuffer();
        // Each byte as it came first, by its offset.
        const first: (number | undefined)[] = new Array(SIZE + 60);
        const start = new Uint32Array(4);
        const end = new Uint32Array(4);
        for (const [n, [at, length]] of pieces.entries()) {
          const bytes = new Uint8Array(length).fill(n + 1);
          // Offset 0 is the hole that is filled last.
          buffer.insert(plus(base, at + 1), bytes, 0, length);
          for (let i = 0; i < length; i++) first[at + 1 + i] ??= n + 1;
          assert.equal(buffer.outOfOrder, first.filter((byte) => byte !== undefined).length);
          const blocks = buffer.sackBlocks(start, end);
          assert.equal(blocks, buffer.sackCount);
          for (let b = 0; b < blocks; b++) {
            const [low, high] = [(start[b]! - base) | 0, (end[b]! - base) | 0];
            assert.ok(low < high);
            for (let i = low; i < high; i++) assert.notEqual(first[i], undefined, `SACK of ${i}`);
          }
          buffer.forgetDuplicate();
        }
        first[0] = 0xee;
        buffer.hold(base, Uint8Array.of(0xee), 0, 1);
        const next = buffer.joinInOrder(plus(base, 1));
        let count = 0;
        while (first[count] !== undefined) count++;
        assert.equal((next - base) >>> 0, count);
        assert.deepEqual(take(buffer), first.slice(0, count));
        assert.equal(buffer.held, 0);
        if (buffer.outOfOrder === 0) assert.equal(buffer.memory, 0);
      }),
      { numRuns: 500 },
    );
  });

  it('counts what small pieces really cost', () => {
    const buffer = new ReceiveBuffer();
    for (let i = 0; i < 1000; i++) buffer.insert(2 * i + 1, Uint8Array.of(1), 0, 1);
    assert.equal(buffer.outOfOrder, 1000);
    assert.ok(buffer.memory >= 100_000);
    buffer.reset();
    // Neighbours are put together.
    for (let i = 0; i < 1000; i++) buffer.insert(i + 1, Uint8Array.of(1), 0, 1);
    assert.ok(buffer.memory < 5000, `${buffer.memory}`);
  });
});
