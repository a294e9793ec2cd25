/** Where rings and buffers lie: nothing on top of anything else, nothing across a hugepage, all within the memory. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { DESCRIPTOR_BYTES } from '../../../nic/descriptors.ts';
import {
  BUFFER_BYTES,
  busAddress,
  MAX_DESCRIPTORS,
  MIN_DESCRIPTORS,
  queueLayout,
  rxBufferOffset,
} from '../../../nic/driver/queue-memory.ts';

const HUGE_PAGE_BYTES = 2 ** 21;
/** RDBAL and TDBAL have no bits for less. */
const RING_ALIGNMENT = 128;
const SIZES = [64, 128, 256, 512, 1024, 2048, 4096];

describe('the memory of a queue pair', () => {
  it('has room for both rings and all buffers, none on top of another', () => {
    for (const rx of SIZES) {
      for (const tx of SIZES) {
        const layout = queueLayout(rx, tx);
        const parts = [
          [layout.rxRing, rx * DESCRIPTOR_BYTES],
          [layout.txRing, tx * DESCRIPTOR_BYTES],
          [layout.txBuffers, tx * BUFFER_BYTES],
          ...Array.from({ length: rx }, (_, i) => [rxBufferOffset(layout, i), BUFFER_BYTES]),
        ].sort(([a], [b]) => a! - b!);
        let end = 0;
        for (const [offset, bytes] of parts as [number, number][]) {
          assert.ok(offset >= end, `${rx} and ${tx}: ${offset} lies below ${end}`);
          end = offset + bytes;
        }
        assert.ok(end <= layout.length);
        assert.equal(layout.length % HUGE_PAGE_BYTES, 0);
        assert.equal(layout.rxRing % RING_ALIGNMENT, 0);
        assert.equal(layout.txRing % RING_ALIGNMENT, 0);
      }
    }
  });

  it('has no buffer, and no ring, across a hugepage', () => {
    const within = (offset: number, bytes: number): boolean =>
      Math.floor(offset / HUGE_PAGE_BYTES) === Math.floor((offset + bytes - 1) / HUGE_PAGE_BYTES);
    for (const count of SIZES) {
      const layout = queueLayout(count, count);
      assert.ok(within(layout.rxRing, count * DESCRIPTOR_BYTES), `receive ring of ${count}`);
      assert.ok(within(layout.txRing, count * DESCRIPTOR_BYTES), `transmit ring of ${count}`);
      for (let i = 0; i < count; i++) {
        assert.ok(within(rxBufferOffset(layout, i), BUFFER_BYTES), `receive buffer ${i} of ${count}`);
        assert.ok(within(layout.txBuffers + i * BUFFER_BYTES, BUFFER_BYTES), `transmit buffer ${i} of ${count}`);
      }
    }
  });

  it('begins receive buffers in all sets of a cache', () => {
    const layout = queueLayout(64, 64);
    const sets = new Set(Array.from({ length: 64 }, (_, i) => (rxBufferOffset(layout, i) / 64) % 64));
    assert.equal(sets.size, 64);
  });

  it('takes no other sizes', () => {
    for (const count of [0, 32, 63, 65, 96, 8192, -64, 64.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      const message = `is a power of two from ${MIN_DESCRIPTORS} to ${MAX_DESCRIPTORS}, not ${count}`;
      assert.throws(() => queueLayout(count, 64), { name: 'RangeError', message: `rxDescriptors ${message}` });
      assert.throws(() => queueLayout(64, count), { name: 'RangeError', message: `txDescriptors ${message}` });
    }
  });

  it('is seen by the card page by page, wherever each page is (property)', () => {
    const page = fc.nat(2 ** 20).map((n) => n * HUGE_PAGE_BYTES);
    fc.assert(
      fc.property(fc.array(page, { minLength: 1, maxLength: 8 }), fc.nat(2 ** 24), (pages, at) => {
        const offset = at % (pages.length * HUGE_PAGE_BYTES);
        const address = busAddress({ pageBytes: HUGE_PAGE_BYTES, pages }, offset);
        assert.equal(address - pages[Math.floor(offset / HUGE_PAGE_BYTES)]!, offset % HUGE_PAGE_BYTES);
      }),
    );
    assert.equal(busAddress({ pageBytes: 2 ** 23, pages: [2 ** 40] }, 2 ** 22 + 5), 2 ** 40 + 2 ** 22 + 5);
  });
});
