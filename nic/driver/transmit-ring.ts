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
import type { BufferTable } from './buffer-table.ts';
import type { RegisterWriter } from './register-writer.ts';
import type { RingKernels } from './ring-kernels.ts';

const WORDS = DESCRIPTOR_BYTES / 4;
/** Descriptor i begins at word i << WORD_SHIFT: V8 checks a product for overflow, and a shift not. */
const WORD_SHIFT = 2;
const COMMAND = 2;
const STATUS = 3;
/** What a data descriptor that is a whole frame has besides its length. */
const WHOLE_FRAME = TXD_DTYP_DATA | TXD_CMD_EOP | TXD_CMD_IFCS | TXD_CMD_DEXT;
/** Descriptors between two marks within a batch. */
const MARK_INTERVAL = 32;

export interface TransmitRingOptions {
  /** The descriptors, 16 bytes each; a power of two of them. */
  descriptors: ArrayBuffer;
  /** For rings and tables in an arena: its kernels, and where the descriptors stand. */
  kernels?: RingKernels;
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
  readonly #kernels: RingKernels | null;
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

  constructor({ descriptors, kernels, writer, tail }: TransmitRingOptions) {
    this.#kernels = kernels ?? null;
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
   * Posts `count` frames without offloads that lie in one buffer each: `first`, `first` + 1, … round the table, which has their
   * lengths, BUFFER_BYTES at the most. There must be as many descriptors {@link free}. {@link done} gives `cookie` + 1 once the
   * first of them has been sent, and so on.
   */
  postBuffers(buffers: BufferTable, first: number, count: number, cookie: number): void {
    for (let n = 0; n < count; ) {
      const some = Math.min(count - n, MARK_INTERVAL);
      this.#postSome(buffers, first + n, some);
      n += some;
      this.#next = (this.#next + some) | 0;
      this.#frameEnd = (this.#next - 1) | 0;
      this.#cookie = cookie + n;
      if (((this.#next - this.#marked) | 0) >= MARK_INTERVAL) this.#mark();
    }
  }

  #postSome(buffers: BufferTable, first: number, count: number): void {
    const mask = this.#mask;
    const next = this.#next;
    const bufferMask = buffers.count - 1;
    const kernels = this.#kernels;
    if (kernels !== null) {
      const { addressesAt, lengthsAt } = buffers;
      kernels.wasm.postDescriptors(
        kernels.ring,
        mask,
        next,
        addressesAt,
        lengthsAt,
        bufferMask,
        first,
        count,
        WHOLE_FRAME,
      );
      return;
    }
    const words = this.#words;
    const halves = this.#halves;
    const { addresses, lengths } = buffers;
    for (let n = 0; n < count; n++) {
      const buffer = (first + n) & bufferMask;
      const at = ((next + n) & mask) << WORD_SHIFT;
      const length = lengths[buffer]!;
      halves[at >> 1] = addresses[buffer]!;
      words[at + COMMAND] = length | WHOLE_FRAME;
      words[at + STATUS] = length << TXD_PAYLEN_SHIFT;
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
