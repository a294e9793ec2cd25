/**
 * The memory of one queue pair of the card: descriptor rings and packet buffers, in one shared file that the main thread
 * lets the card reach and the lane that owns the queue maps into its arena.
 *
 *     0            receive descriptors   16 bytes each
 *     txRing       transmit descriptors
 *     rxBuffers    receive buffers       BUFFER_BYTES each; buffer i belongs to receive descriptor i for good
 *     txBuffers    transmit buffers      likewise
 *
 * Every part begins at a multiple of its alignment, so nothing straddles a hugepage.
 */

import { DESCRIPTOR_BYTES } from '../descriptors.ts';
import type { DmaMapping } from '../pci/pci-device.ts';

/** SRRCTL.BSIZEPACKET counts KiB: 2, as Linux and DPDK have it. */
export const BUFFER_BYTES = 2048;
/** A ring has a multiple of eight descriptors (RDLEN and TDLEN are multiples of 128, §8.2.3.8.3), 4096 at the most. */
export const RING_MULTIPLE = 8;
export const MIN_DESCRIPTORS = 64;
export const MAX_DESCRIPTORS = 4096;
const HUGE_PAGE_BYTES = 2 ** 21;

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
    const ok = count >= MIN_DESCRIPTORS && count <= MAX_DESCRIPTORS && (count & (count - 1)) === 0;
    if (!ok)
      throw new RangeError(`${name} is a power of two from ${MIN_DESCRIPTORS} to ${MAX_DESCRIPTORS}, not ${count}`);
  }
  const txRing = rxDescriptors * DESCRIPTOR_BYTES;
  const rxBuffers = roundUp(txRing + txDescriptors * DESCRIPTOR_BYTES, BUFFER_BYTES);
  const txBuffers = rxBuffers + rxDescriptors * BUFFER_BYTES;
  const length = roundUp(txBuffers + txDescriptors * BUFFER_BYTES, HUGE_PAGE_BYTES);
  return { rxDescriptors, txDescriptors, rxRing: 0, txRing, rxBuffers, txBuffers, length };
}

function roundUp(bytes: number, to: number): number {
  return Math.ceil(bytes / to) * to;
}

/** Where the card sees byte `offset` of a mapped memory. */
export function busAddress({ pageBytes, pages }: DmaMapping, offset: number): number {
  return pages[Math.floor(offset / pageBytes)]! + (offset % pageBytes);
}
