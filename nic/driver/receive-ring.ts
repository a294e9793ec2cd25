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
import type { RegisterWriter } from './register-writer.ts';

const WORDS = DESCRIPTOR_BYTES / 4;
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
  /** Bytes of each buffer. */
  bufferBytes: number;
  /** Where the card sees buffer `i`. */
  bufferAddress(i: number): number;
  writer: RegisterWriter;
  /** Offset of the ring's RDT. */
  tail: number;
}

export class ReceiveRing {
  /** Descriptors of the ring. */
  readonly count: number;
  /** Frames with an error, or longer than any. They were dropped. */
  errors = 0;
  readonly #words: Uint32Array;
  readonly #status: Int32Array;
  /** Low and high word of each buffer's address. */
  readonly #buffers: Uint32Array;
  readonly #bufferBytes: number;
  readonly #mask: number;
  readonly #writer: RegisterWriter;
  readonly #tail: number;
  /** Descriptors of each frame that waits, round the ring; BAD for what is none. */
  readonly #frames: Uint16Array;
  #firstFrame = 0;
  #waiting = 0;
  /**
   * First descriptor that is not released, and first one that was not looked at, counted to 2^32 and again; and how many of
   * a frame were seen so far.
   */
  #first = 0;
  #scan = 0;
  #partial = 0;
  #bad = false;
  #announced: number;

  /** Fills the ring: the card gets all buffers but one. {@link publish} hands them over. */
  constructor({ descriptors, bufferBytes, bufferAddress, writer, tail }: ReceiveRingOptions) {
    this.#words = new Uint32Array(descriptors);
    this.#status = new Int32Array(descriptors);
    this.count = this.#words.length / WORDS;
    this.#mask = this.count - 1;
    this.#frames = new Uint16Array(this.count);
    this.#buffers = new Uint32Array(2 * this.count);
    this.#bufferBytes = bufferBytes;
    this.#writer = writer;
    this.#tail = tail;
    for (let i = 0; i < this.count; i++) {
      const address = bufferAddress(i);
      this.#buffers[2 * i] = address % 2 ** 32;
      this.#buffers[2 * i + 1] = Math.floor(address / 2 ** 32);
      this.#offer(i);
    }
    this.#announced = 0;
  }

  /** Looks for frames that have come. Gives how many wait, older ones among them, `limit` at the most. */
  poll(limit: number): number {
    while (this.#waiting < limit && ((this.#scan - this.#first) | 0) < this.count) {
      const at = (this.#scan & this.#mask) * WORDS;
      // DD is read before the rest of the descriptor.
      const status = Atomics.load(this.#status, at + STATUS);
      if ((status & RXD_STAT_DD) === 0) break;
      this.#scan = (this.#scan + 1) | 0;
      this.#partial++;
      const length = this.#words[at + LENGTH]! & LENGTH_MASK;
      if (length > this.#bufferBytes || (status & RXD_ERR_RXE) !== 0 || this.#partial > MAX_FRAME_DESCRIPTORS) {
        this.#bad = true;
      }
      if ((status & RXD_STAT_EOP) !== 0) this.#endFrame();
      else if (this.#partial === this.count) this.#endFrame();
    }
    return this.#waiting;
  }

  #endFrame(): void {
    this.#frames[(this.#firstFrame + this.#waiting) & this.#mask] = this.#bad ? this.#partial | BAD : this.#partial;
    this.#partial = 0;
    this.#bad = false;
    this.#waiting++;
  }

  /** Descriptors of the `f`-th frame that waits, 0 being the oldest; 0 when it is none: release it. */
  descriptors(f: number): number {
    const n = this.#frames[(this.#firstFrame + f) & this.#mask]!;
    return (n & BAD) === 0 ? n : 0;
  }

  /** Index of the descriptor, and buffer, `d` places behind the oldest that waits. */
  index(d: number): number {
    return (this.#first + d) & this.#mask;
  }

  /** Bytes in buffer `index`. */
  length(index: number): number {
    return this.#words[index * WORDS + LENGTH]! & LENGTH_MASK;
  }

  /** The status and error word of descriptor `index`; a frame's last one tells of the frame (RXD_STAT_…, RXD_ERR_…). */
  status(index: number): number {
    return this.#words[index * WORDS + STATUS]!;
  }

  /** RSS type and packet type of a frame, on its last descriptor. */
  info(index: number): number {
    return this.#words[index * WORDS + INFO]!;
  }

  /** The RSS hash, where {@link info} tells of one. */
  hash(index: number): number {
    return this.#words[index * WORDS + HASH]!;
  }

  /** The VLAN tag that was stripped, where the status has VP and the queue strips. */
  vlanTag(index: number): number {
    return this.#words[index * WORDS + LENGTH]! >>> LENGTH_BITS;
  }

  /** The oldest `frames` frames are done with: their buffers go back to the card at the next {@link publish}. */
  release(frames: number): void {
    for (let f = 0; f < frames; f++) {
      const n = this.#frames[this.#firstFrame]!;
      this.#firstFrame = (this.#firstFrame + 1) & this.#mask;
      if ((n & BAD) !== 0) this.errors++;
      for (let d = n & ~BAD; d > 0; d--) {
        this.#offer(this.#first & this.#mask);
        this.#first = (this.#first + 1) | 0;
      }
    }
    this.#waiting -= frames;
  }

  /** The read format (§7.1.6.1): packet buffer, and no header buffer, whose bit 0 is DD. */
  #offer(i: number): void {
    const words = this.#words;
    const at = i * WORDS;
    words[at] = this.#buffers[2 * i]!;
    words[at + 1] = this.#buffers[2 * i + 1]!;
    words[at + 2] = 0;
    words[at + 3] = 0;
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
