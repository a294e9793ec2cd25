/**
 * A transmit ring of the 82599 (datasheet §7.2.3): context and data descriptors in order, taken back in batches.
 *
 *          free          posted, the card's                       posted, not announced      free
 *     ──────────────┬───────────────────────────────────────┬──────────────────────────┬────────────
 *                 first …  mark (RS)  …  mark (RS) …        TDT                        next
 *
 * Only the last descriptor of a batch asks for a write-back (RS), and one in every MARK_INTERVAL: when its DD is set, all
 * before it is done. With each mark goes a number of the caller's, such as how far its buffers are free then.
 *
 * One thread only. Hot: allocates nothing.
 */
import {
  DESCRIPTOR_BYTES,
  TXD_CMD_DEXT,
  TXD_CMD_EOP,
  TXD_CMD_IFCS,
  TXD_CMD_RS,
  TXD_DTYP_DATA,
  TXD_PAYLEN_SHIFT,
  TXD_STAT_DD,
} from '../descriptors.ts';
import { BUFFER_BYTES } from './queue-memory.ts';
import type { RegisterWriter } from './register-writer.ts';

const WORDS = DESCRIPTOR_BYTES / 4;
/** Descriptor i begins at word i << WORD_SHIFT: V8 checks a product for overflow, and a shift not. */
const WORD_SHIFT = 2;
const COMMAND = 2;
/**
 * The second half of a data descriptor that is a whole frame, by its length, as a double: a load and a store instead of four
 * operations. As with addresses (address-bits.ts), none has the bits of a NaN: PAYLEN takes the upper bits, and is short.
 */
const WHOLE_FRAME = new Float64Array(BUFFER_BYTES + 1);
for (const [length, words] of wordPairs(WHOLE_FRAME).entries()) {
  words[0] = length | TXD_DTYP_DATA | TXD_CMD_EOP | TXD_CMD_IFCS | TXD_CMD_DEXT;
  words[1] = length << TXD_PAYLEN_SHIFT;
}

function wordPairs(halves: Float64Array): Int32Array[] {
  return Array.from(halves, (_, i) => new Int32Array(halves.buffer, i * Float64Array.BYTES_PER_ELEMENT, 2));
}
const STATUS = 3;
/** Descriptors between two marks within a batch. */
const MARK_INTERVAL = 32;

export interface TransmitRingOptions {
  /** The descriptors, 16 bytes each; a power of two of them. */
  descriptors: ArrayBuffer;
  writer: RegisterWriter;
  /** Offset of the ring's TDT. */
  tail: number;
}

export class TransmitRing {
  /** Descriptors of the ring. */
  readonly count: number;
  /** What the caller gave with the youngest mark that is done. */
  done = 0;
  /** The descriptors. Signed words, since V8 has no small integers beyond 2^31. */
  readonly #words: Int32Array;
  /** The descriptors, by 64 bits. */
  readonly #halves: Float64Array;
  readonly #mask: number;
  readonly #writer: RegisterWriter;
  readonly #tail: number;
  /** Where each mark stands and what came with it, oldest first, round. */
  readonly #marks: Int32Array;
  readonly #cookies: Float64Array;
  #firstMark = 0;
  #markCount = 0;
  /** Descriptors ever taken back, posted, announced, marked, counted to 2^32 and again; and the last that ended a frame. */
  #first = 0;
  #next = 0;
  #announced = 0;
  #marked = 0;
  #frameEnd = -1;
  #cookie = 0;

  constructor({ descriptors, writer, tail }: TransmitRingOptions) {
    this.#words = new Int32Array(descriptors);
    this.#halves = new Float64Array(descriptors);
    this.count = this.#words.length / WORDS;
    this.#mask = this.count - 1;
    this.#writer = writer;
    this.#tail = tail;
    this.#marks = new Int32Array(this.count);
    this.#cookies = new Float64Array(this.count);
  }

  /** Descriptors that can be posted now. TDT = TDH means an empty ring, so one stays free. */
  get free(): number {
    return this.#mask - ((this.#next - this.#first) | 0);
  }

  /**
   * Posts a descriptor by its four words (descriptors.ts). There must be one {@link free}. A frame's last descriptor is
   * posted with {@link postLast}.
   */
  post(word0: number, word1: number, word2: number, word3: number): void {
    const words = this.#words;
    const at = (this.#next & this.#mask) << WORD_SHIFT;
    this.#next = (this.#next + 1) | 0;
    words[at] = word0;
    words[at + 1] = word1;
    words[at + 2] = word2;
    words[at + 3] = word3;
  }

  /**
   * Posts `count` frames without offloads that lie in one buffer each: buffers `first`, `first` + 1, … of a ring of them (a
   * power of two), whose addresses (address-bits.ts) and lengths, BUFFER_BYTES at the most, are given by buffer. There must be as many descriptors
   * {@link free}. {@link done} gives `cookie` + 1 once the first of them has been sent, and so on.
   */
  postBuffers(addresses: Float64Array, lengths: Uint16Array, first: number, count: number, cookie: number): void {
    const halves = this.#halves;
    const mask = this.#mask;
    const wholeFrame = WHOLE_FRAME;
    const bufferMask = lengths.length - 1;
    let next = this.#next;
    for (let n = 0; n < count; ) {
      const some = Math.min(count - n, MARK_INTERVAL);
      for (const end = n + some; n < end; n++) {
        const buffer = (first + n) & bufferMask;
        const at = (next & mask) << 1;
        halves[at] = addresses[buffer]!;
        halves[at + 1] = wholeFrame[lengths[buffer]!]!;
        next = (next + 1) | 0;
      }
      this.#next = next;
      this.#frameEnd = (next - 1) | 0;
      this.#cookie = cookie + n;
      if (((next - this.#marked) | 0) >= MARK_INTERVAL) this.#mark();
    }
  }

  /** Posts the descriptor that ends a frame; `cookie` is what {@link done} gives once the frame has been sent. */
  postLast(word0: number, word1: number, word2: number, word3: number, cookie: number): void {
    this.#frameEnd = this.#next;
    this.#cookie = cookie;
    this.post(word0, word1, word2, word3);
    if (((this.#next - this.#marked) | 0) >= MARK_INTERVAL) this.#mark();
  }

  #mark(): void {
    const at = ((this.#frameEnd & this.#mask) << WORD_SHIFT) + COMMAND;
    this.#words[at] = this.#words[at]! | TXD_CMD_RS;
    const place = (this.#firstMark + this.#markCount++) & this.#mask;
    this.#marks[place] = this.#frameEnd;
    this.#cookies[place] = this.#cookie;
    this.#marked = this.#next;
  }

  /** Tells the card of posted frames: one register write, if there are any. */
  publish(): void {
    if (this.#next === this.#announced) return;
    if (this.#marked !== this.#next) this.#mark();
    this.#announced = this.#next;
    this.#writer.write32(this.#tail, this.#next & this.#mask);
  }

  /** Takes back what the card has sent. Gives how many descriptors are {@link free} now. */
  reclaim(): number {
    while (this.#markCount > 0) {
      const mark = this.#marks[this.#firstMark]!;
      const at = ((mark & this.#mask) << WORD_SHIFT) + STATUS;
      if ((this.#words[at]! & TXD_STAT_DD) === 0) break;
      this.#first = (mark + 1) | 0;
      this.done = this.#cookies[this.#firstMark]!;
      this.#firstMark = (this.#firstMark + 1) & this.#mask;
      this.#markCount--;
    }
    return this.free;
  }

  /** Whether everything that was announced has been taken back. */
  get idle(): boolean {
    return this.#first === this.#announced;
  }
}
