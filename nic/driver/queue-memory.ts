/**
 * The memory of one queue pair of the card: descriptor rings and packet buffers, in one shared file that the main thread
 * lets the card reach and the lane that owns the queue maps into its arena.
 *
 *     0            receive descriptors   16 bytes each
 *     txRing       transmit descriptors
 *     txBuffers    transmit buffers      BUFFER_BYTES each, next to each other: a long frame lies in several
 *     rxBuffers    receive buffers       BUFFER_BYTES each, RX_BUFFER_STRIDE apart; buffer i belongs to descriptor i for good
 *
 * Nothing straddles a hugepage.
 */
import { DESCRIPTOR_BYTES } from '../descriptors.ts';
import type { DmaMapping } from '../pci/pci-device.ts';

/** SRRCTL.BSIZEPACKET counts KiB: 2, as Linux and DPDK have it. */
export const BUFFER_BYTES = 2048;
/**
 * An odd number of cache lines: the headers of received frames lie in all sets of a cache. 2048 bytes apart they would share
 * two of an L1's 64, and push each other out.
 */
export const RX_BUFFER_STRIDE = BUFFER_BYTES + 64;
/** A ring has a multiple of eight descriptors (RDLEN and TDLEN are multiples of 128, §8.2.3.8.3), 4096 at the most. */
export const RING_MULTIPLE = 8;
export const MIN_DESCRIPTORS = 64;
export const MAX_DESCRIPTORS = 4096;
const HUGE_PAGE_BYTES = 2 ** 21;
const RX_BUFFERS_PER_PAGE = Math.floor(HUGE_PAGE_BYTES / RX_BUFFER_STRIDE);

/** Offsets into the memory, in bytes. */
export interface QueueLayout {
  rxDescriptors: number;
  txDescriptors: number;
  rxRing: number;
  txRing: number;
  rxBuffers: number;
  txBuffers: number;
  /** Bytes of all, a multiple of 2 MiB. */
  length: number;
}

/** Lays out the memory of a queue pair. Throws RangeError for sizes that are no power of two from 64 to 4096. */
export function queueLayout(rxDescriptors: number, txDescriptors: number): QueueLayout {
  for (const [name, count] of Object.entries({ rxDescriptors, txDescriptors })) {
    const isPowerOfTwo = Number.isInteger(count) && (count & (count - 1)) === 0;
    const ok = isPowerOfTwo && count >= MIN_DESCRIPTORS && count <= MAX_DESCRIPTORS;
    if (!ok)
      throw new RangeError(`${name} is a power of two from ${MIN_DESCRIPTORS} to ${MAX_DESCRIPTORS}, not ${count}`);
  }
  const txRing = rxDescriptors * DESCRIPTOR_BYTES;
  const txBuffers = roundUp(txRing + txDescriptors * DESCRIPTOR_BYTES, BUFFER_BYTES);
  const rxBuffers = roundUp(txBuffers + txDescriptors * BUFFER_BYTES, HUGE_PAGE_BYTES);
  const length = rxBuffers + Math.ceil(rxDescriptors / RX_BUFFERS_PER_PAGE) * HUGE_PAGE_BYTES;
  return { rxDescriptors, txDescriptors, rxRing: 0, txRing, rxBuffers, txBuffers, length };
}

/** Where receive buffer `i` begins. */
export function rxBufferOffset({ rxBuffers }: QueueLayout, i: number): number {
  const page = Math.floor(i / RX_BUFFERS_PER_PAGE);
  return rxBuffers + page * HUGE_PAGE_BYTES + (i % RX_BUFFERS_PER_PAGE) * RX_BUFFER_STRIDE;
}

function roundUp(bytes: number, to: number): number {
  return Math.ceil(bytes / to) * to;
}

/** Where the card sees byte `offset` of a mapped memory. */
export function busAddress({ pageBytes, pages }: DmaMapping, offset: number): number {
  return pages[Math.floor(offset / pageBytes)]! + (offset % pageBytes);
}
