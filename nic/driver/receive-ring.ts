/**
 * A receive ring of the 82599 (datasheet §7.1.9): descriptors that the card fills in order, put together into frames.
 *
 *          released            frames that wait              the card's
 *     ─────────────────┬──────────────────────────┬──────────────────────────┬──
 *                      │ 0 │  1  1  │ 2 │ …         DD not set yet            │
 *                     first                       scan                      RDT: one descriptor stays free
 *
 * Descriptor i keeps the buffer that it was given; a frame longer than a buffer takes several descriptors, of which the last
 * has EOP. What the card writes back is read once, and believed only within the buffer's length.
 *
 * One thread only. Hot: allocates nothing.
 */

import { DESCRIPTOR_BYTES, RXD_ERR_RXE, RXD_STAT_DD, RXD_STAT_EOP } from '../descriptors.ts';
import type { BufferTable } from './buffer-table.ts';
import type { RegisterWriter } from './register-writer.ts';
import type { RingKernels } from './ring-kernels.ts';

const WORDS = DESCRIPTOR_BYTES / 4;
/** Descriptor i begins at word i << WORD_SHIFT: V8 checks a product for overflow, and a shift not. */
const WORD_SHIFT = 2;
/** Words of a descriptor as the card writes it back (§7.1.6.2). */
const INFO = 0;
const HASH = 1;
const STATUS = 2;
const LENGTH = 3;
const LENGTH_MASK = 0xffff;
const LENGTH_BITS = 16;
/** Descriptors of one frame at the most: a jumbo frame of 15.5 KiB (§3.7.3.2) takes eight. */
export const MAX_FRAME_DESCRIPTORS = 8;
/** Stands for the number of descriptors of what is no frame. */
const BAD = 0x8000;

export interface ReceiveRingOptions {
  /** The descriptors, 16 bytes each; a power of two of them. */
  descriptors: ArrayBuffer;
  /** As many buffers, and the bytes of each. */
  buffers: BufferTable;
  bufferBytes: number;
  /** For rings and tables in an arena: its kernels, and where the descriptors stand. */
  kernels?: RingKernels;
  writer: RegisterWriter;
  /** Offset of the ring's RDT. */
  tail: number;
}

export class ReceiveRing {
  /** Descriptors of the ring. */
  readonly count: number;
  /** Frames with an error, or longer than any. They were dropped. */
  errors = 0;
  /** The buffers. Their lengths are those of frames that wait, as they were when they were checked. */
  readonly buffers: BufferTable;
  /** The descriptors. Signed words, since V8 has no small integers beyond 2^31. */
  readonly #words: Int32Array;
  /** The descriptors, by 64 bits. */
  readonly #halves: Float64Array;
  readonly #kernels: RingKernels | null;
  readonly #bufferBytes: number;
  readonly #mask: number;
  readonly #writer: RegisterWriter;
  readonly #tail: number;
  #waiting = 0;
  /**
   * Descriptors of each frame that waits, round the ring; BAD for what is none. Kept up only while {@link #others} of them
   * are not frames of one buffer, which is rare.
   */
  readonly #frames: Uint16Array;
  #firstFrame = 0;
  #others = 0;
  /**
   * First descriptor that is not released, and first one that was not looked at, counted to 2^32 and again; and how many of
   * a frame were seen so far.
   */
  #first = 0;
  #scan = 0;
  #partial = 0;
  #bad = false;
  #announced = 0;

  /** Fills the ring: the card gets all buffers but one. {@link publish} hands them over. */
  constructor({ descriptors, buffers, bufferBytes, kernels, writer, tail }: ReceiveRingOptions) {
    this.#words = new Int32Array(descriptors);
    this.#halves = new Float64Array(descriptors);
    this.count = this.#words.length / WORDS;
    this.buffers = buffers;
    this.#kernels = kernels ?? null;
    this.#frames = new Uint16Array(this.count);
    this.#mask = this.count - 1;
    this.#bufferBytes = bufferBytes;
    this.#writer = writer;
    this.#tail = tail;
    this.#offer(0, this.count);
  }

  /** Looks for frames that have come. Gives how many wait, older ones among them, `limit` at the most. */
  poll(limit: number): number {
    const words = this.#words;
    const mask = this.#mask;
    let scan = this.#scan;
    // Behind the oldest descriptor that is not released stand those of which the card knows nothing.
    const end = (this.#first + this.count) | 0;
    while (this.#waiting < limit) {
      // Frames of one buffer, while nothing else waits; nearly all are such.
      const most = (this.#others | this.#partial) === 0 ? Math.min(limit - this.#waiting, (end - scan) | 0) : 0;
      const plain = this.#pollPlain(scan, most);
      scan = (scan + plain) | 0;
      this.#waiting += plain;
      if (this.#waiting === limit || scan === end) break;
      const i = scan & mask;
      const at = i << WORD_SHIFT;
      const status = words[at + STATUS]!;
      if ((status & RXD_STAT_DD) === 0) break;
      const length = words[at + LENGTH]! & LENGTH_MASK;
      this.buffers.lengths[i] = length;
      scan = (scan + 1) | 0;
      this.#addPart(status, length);
    }
    this.#scan = scan;
    return this.#waiting;
  }

  /** How many of the next `most` descriptors from `scan` on are whole frames of one buffer. */
  #pollPlain(scan: number, most: number): number {
    const mask = this.#mask;
    const kernels = this.#kernels;
    if (kernels !== null) {
      return kernels.wasm.receiveDescriptors(kernels.ring, mask, scan, most, this.#bufferBytes, this.buffers.lengthsAt);
    }
    const words = this.#words;
    const { lengths } = this.buffers;
    const bufferBytes = this.#bufferBytes;
    for (let n = 0; n < most; n++) {
      const i = (scan + n) & mask;
      const at = i << WORD_SHIFT;
      // DD is read before the length, and each word once. (Atomics.load would cost as much as a frame.)
      const status = words[at + STATUS]!;
      if ((status & (RXD_STAT_DD | RXD_STAT_EOP | RXD_ERR_RXE)) !== (RXD_STAT_DD | RXD_STAT_EOP)) return n;
      const length = words[at + LENGTH]! & LENGTH_MASK;
      if (length > bufferBytes) return n;
      lengths[i] = length;
    }
    return most;
  }

  /** A descriptor that is not a whole frame, or comes behind one such. */
  #addPart(status: number, length: number): void {
    this.#partial++;
    const bad = length > this.#bufferBytes || (status & RXD_ERR_RXE) !== 0 || this.#partial > MAX_FRAME_DESCRIPTORS;
    if (bad) this.#bad = true;
    if ((status & RXD_STAT_EOP) === 0 && this.#partial < this.count) return;
    if (this.#others === 0) {
      for (let f = 0; f < this.#waiting; f++) this.#frames[(this.#firstFrame + f) & this.#mask] = 1;
    }
    const n = this.#bad ? this.#partial | BAD : this.#partial;
    if (n !== 1) this.#others++;
    this.#frames[(this.#firstFrame + this.#waiting++) & this.#mask] = n;
    this.#partial = 0;
    this.#bad = false;
  }

  /** Whether all frames that wait lie in one buffer each. */
  get plain(): boolean {
    return this.#others === 0;
  }

  /** Descriptors of the `f`-th frame that waits, 0 being the oldest; 0 when it is none: release it. */
  descriptors(f: number): number {
    if (this.#others === 0) return 1;
    const n = this.#frames[(this.#firstFrame + f) & this.#mask]!;
    return (n & BAD) === 0 ? n : 0;
  }

  /** Index of the descriptor, and buffer, `d` places behind the oldest that waits. */
  index(d: number): number {
    return (this.#first + d) & this.#mask;
  }

  /** The status and error word of descriptor `index`; a frame's last one tells of the frame (RXD_STAT_…, RXD_ERR_…). */
  status(index: number): number {
    return this.#words[(index << WORD_SHIFT) + STATUS]!;
  }

  /** RSS type and packet type of a frame, on its last descriptor. */
  info(index: number): number {
    return this.#words[(index << WORD_SHIFT) + INFO]!;
  }

  /** The RSS hash, where {@link info} tells of one. */
  hash(index: number): number {
    return this.#words[(index << WORD_SHIFT) + HASH]! >>> 0;
  }

  /** The VLAN tag that was stripped, where the status has VP and the queue strips. */
  vlanTag(index: number): number {
    return this.#words[(index << WORD_SHIFT) + LENGTH]! >>> LENGTH_BITS;
  }

  /** The oldest `frames` frames are done with: their buffers go back to the card at the next {@link publish}. */
  release(frames: number): void {
    let descriptors = frames;
    if (this.#others !== 0) {
      descriptors = 0;
      for (let f = 0; f < frames; f++) {
        const n = this.#frames[(this.#firstFrame + f) & this.#mask]!;
        if (n !== 1) this.#others--;
        if ((n & BAD) !== 0) this.errors++;
        descriptors += n & ~BAD;
      }
    }
    this.#firstFrame = (this.#firstFrame + frames) & this.#mask;
    this.#waiting -= frames;
    this.#offer(this.#first, descriptors);
    this.#first = (this.#first + descriptors) | 0;
  }

  /** The read format (§7.1.6.1): packet buffer, and no header buffer, whose bit 0 is DD. */
  #offer(first: number, descriptors: number): void {
    const mask = this.#mask;
    const kernels = this.#kernels;
    if (kernels !== null) {
      kernels.wasm.offerDescriptors(kernels.ring, mask, first, descriptors, this.buffers.addressesAt);
      return;
    }
    const halves = this.#halves;
    const { addresses } = this.buffers;
    for (let d = 0; d < descriptors; d++) {
      const i = (first + d) & mask;
      const at = i << 1;
      halves[at] = addresses[i]!;
      halves[at + 1] = 0;
    }
  }

  /** Tells the card of released buffers: one register write, if there are any. */
  publish(): void {
    // RDT = RDH means that the card has none (§7.1.9), so one stays ours.
    const tail = (this.#first + this.#mask) & this.#mask;
    if (tail === this.#announced) return;
    this.#announced = tail;
    this.#writer.write32(this.#tail, tail);
  }
}
