/**
 * Frames on their way over an impaired wire: copies in a bounded piece of the lane's arena, in the order of the times at
 * which they are to arrive, and those of the same time in the order in which they came.
 *
 *     push ──► heap, by time ──► present: those due, 32 at the most, stand at the front ──► release: gone
 *
 *     memory   | chunk | chunk | chunk | …      2048 bytes each; a frame is a list of chunks, nearly always of one
 *              virtio-net header (12), frame
 *
 * Presented frames stay at the front until they are released, and come again until then: as a PortQueue has it. Memory is
 * touched as frames need it. Hot for impaired ports: allocates nothing after construction.
 */
import { type Address, viewMemory } from '../linux/libc.ts';
import {
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_NORESERVE,
  MAP_PRIVATE,
  mmap,
  PAGE_SIZE,
  PROT_READ,
  PROT_WRITE,
} from '../linux/mman.ts';
import type { Arena } from '../memory/arena.ts';
import {
  BATCH_FRAMES,
  type FrameBatch,
  MAX_FRAME_BYTES,
  VIRTIO_NET_HDR_MRG_RXBUF_BYTES,
} from '../memory/frame-batch.ts';
import { pages } from '../memory/shared-buffer.ts';
import { VIRTIO_NET_HDR_F_DATA_VALID } from '../vhost/virtio.ts';

const RECORD_HEADER_BYTES = VIRTIO_NET_HDR_MRG_RXBUF_BYTES;
const CHUNK_BYTES = 2048;
/** The longest record. */
export const MAX_RECORD_BYTES = RECORD_HEADER_BYTES + MAX_FRAME_BYTES;
const MAX_CHUNKS = Math.ceil(MAX_RECORD_BYTES / CHUNK_BYTES);
/** Before every time. */
const AT_ONCE = Number.NEGATIVE_INFINITY;
const NEVER = Number.POSITIVE_INFINITY;
const NO_CHUNK = -1;
const BITS_PER_BYTE = 8;

const chunksOf = (length: number): number => Math.ceil((RECORD_HEADER_BYTES + length) / CHUNK_BYTES);

export class DelayLine {
  readonly #arena: Arena;
  /** Room for a record, to be cut into chunks. The lane's. */
  readonly #scratch: Address;
  readonly #limit: number;
  readonly #address: Address;
  readonly #memoryBytes: number;
  readonly #bytes: Uint8Array;
  /** A frame is known by its first chunk. By chunk: the one behind it, and the length of the frame that begins there. */
  readonly #nextChunk: Int32Array;
  readonly #lengths: Int32Array;
  /** Chunks that nobody has; the last given back is the next taken, so that few pages are in use. */
  readonly #free: Int32Array;
  #freeCount: number;
  /** A binary heap: frames with their times, and their numbers where times are the same. */
  readonly #heap: Int32Array;
  readonly #times: Float64Array;
  readonly #numbers: Float64Array;
  #waiting = 0;
  #pushed = 0;
  /** Frames that are due, in order. */
  readonly #front = new Int32Array(BATCH_FRAMES);
  #frontCount = 0;
  /** Frames here that were another line's. */
  #takenOver = 0;

  /**
   * Holds `limit` frames of up to 2036 bytes, or fewer longer ones. `scratch`: MAX_RECORD_BYTES of the lane's. What `before`
   * holds moves here, in order, and is due at once, beside what this line holds; `before` is closed. Throws SystemError, with
   * nothing done, when there is no memory.
   */
  constructor(arena: Arena, scratch: Address, limit: number, before: DelayLine | null = null) {
    // One frame of the longest kind fits even where the limit is 1.
    const chunks = limit + MAX_CHUNKS - 1 + (before === null ? 0 : before.#usedChunks);
    const frames = limit + (before?.count ?? 0);
    this.#arena = arena;
    this.#scratch = scratch;
    this.#limit = limit;
    this.#memoryBytes = pages(chunks * CHUNK_BYTES);
    this.#address = arena.reserve(this.#memoryBytes, PAGE_SIZE, 0);
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    mmap({ address: this.#address, length: this.#memoryBytes, prot: PROT_READ | PROT_WRITE, flags });
    this.#bytes = new Uint8Array(viewMemory(this.#address, this.#memoryBytes));
    this.#nextChunk = new Int32Array(chunks);
    this.#lengths = new Int32Array(chunks);
    this.#free = Int32Array.from({ length: chunks }, (_, i) => chunks - 1 - i);
    this.#freeCount = chunks;
    this.#heap = new Int32Array(frames);
    this.#times = new Float64Array(frames);
    this.#numbers = new Float64Array(frames);
    if (before !== null) this.#takeOver(before);
  }

  /** Gives the memory back, with what is held. */
  close(): void {
    this.#arena.free(this.#address, this.#memoryBytes);
  }

  /** Frames that are held. */
  get count(): number {
    return this.#waiting + this.#frontCount;
  }

  /** Of these, how many were presented and not released. */
  get presented(): number {
    return this.#frontCount;
  }

  /** When the first of the others is due, in ms; Infinity without any. */
  get nextAt(): number {
    return this.#waiting > 0 ? this.#times[0]! : NEVER;
  }

  /** How many more frames of this length can be held: 0, 1, or 2 for more than one. */
  roomFor(length: number): number {
    const byLimit = this.#limit - (this.count - this.#takenOver);
    return Math.max(0, Math.min(byLimit, Math.floor(this.#freeCount / chunksOf(length)), 2));
  }

  /**
   * Copies frame `i` of a batch, to be presented from `at` on; there must be room. `bit`: one to flip in the copy, or -1. Of a
   * flipped one nobody says any more that its checksums are right (VIRTIO_NET_HDR_F_DATA_VALID).
   */
  push(batch: FrameBatch, i: number, at: number, bit: number): void {
    const { flags, length: lengths } = batch;
    const length = lengths[i]!;
    const flagsBefore = flags[i]!;
    if (bit >= 0) flags[i] = flagsBefore & ~VIRTIO_NET_HDR_F_DATA_VALID;
    const first = this.#takeChunks(length);
    const chunk = this.#addressOf(first);
    const whole = RECORD_HEADER_BYTES + length <= CHUNK_BYTES;
    batch.placeTo[i] = whole ? chunk : this.#scratch;
    batch.place(i, i + 1, RECORD_HEADER_BYTES);
    flags[i] = flagsBefore;
    if (!whole) this.#scatter(first, length);
    if (bit >= 0) this.#flip(first, bit);
    this.#insert(first, at);
  }

  /**
   * Appends the frames that are due, and those presented before, to an empty batch; gives how many. They stay here, and the
   * batch refers to this memory, until {@link release}.
   */
  present(batch: FrameBatch, nowMs: number): number {
    while (this.#frontCount < BATCH_FRAMES && this.#waiting > 0 && this.#times[0]! <= nowMs) {
      this.#front[this.#frontCount++] = this.#pop();
    }
    for (let k = 0; k < this.#frontCount; k++) {
      const first = this.#front[k]!;
      const length = this.#lengths[first]!;
      let buffers = 0;
      let left = RECORD_HEADER_BYTES + length;
      for (let chunk = first; left > 0; chunk = this.#nextChunk[chunk]!) {
        const segment = batch.segments + 1 + buffers++;
        batch.segmentAddress[segment] = this.#addressOf(chunk);
        batch.segmentLength[segment] = Math.min(left, CHUNK_BYTES);
        left -= CHUNK_BYTES;
      }
      batch.append(buffers, RECORD_HEADER_BYTES, length);
    }
    return this.#frontCount;
  }

  /** The first `count` frames presented are done with. */
  release(count: number): void {
    for (let k = 0; k < count; k++) this.#giveChunks(this.#front[k]!);
    this.#front.copyWithin(0, count, this.#frontCount);
    this.#frontCount -= count;
    // Those of the line before stand first.
    this.#takenOver = Math.max(0, this.#takenOver - count);
  }

  // ---- chunks

  #addressOf(chunk: number): Address {
    return this.#address + chunk * CHUNK_BYTES;
  }

  #takeChunks(length: number): number {
    let first = NO_CHUNK;
    for (let n = chunksOf(length); n > 0; n--) {
      const chunk = this.#free[--this.#freeCount]!;
      this.#nextChunk[chunk] = first;
      first = chunk;
    }
    this.#lengths[first] = length;
    return first;
  }

  #giveChunks(first: number): void {
    for (let chunk = first; chunk !== NO_CHUNK; chunk = this.#nextChunk[chunk]!) this.#free[this.#freeCount++] = chunk;
  }

  #scatter(first: number, length: number): void {
    let from = this.#scratch;
    let left = RECORD_HEADER_BYTES + length;
    for (let chunk = first; left > 0; chunk = this.#nextChunk[chunk]!) {
      this.#arena.copy(this.#addressOf(chunk), from, Math.min(left, CHUNK_BYTES));
      from += CHUNK_BYTES;
      left -= CHUNK_BYTES;
    }
  }

  #flip(first: number, bit: number): void {
    let at = RECORD_HEADER_BYTES + Math.floor(bit / BITS_PER_BYTE);
    let chunk = first;
    for (; at >= CHUNK_BYTES; at -= CHUNK_BYTES) chunk = this.#nextChunk[chunk]!;
    const index = chunk * CHUNK_BYTES + at;
    this.#bytes[index] = this.#bytes[index]! ^ (1 << (bit % BITS_PER_BYTE));
  }

  get #usedChunks(): number {
    return this.#free.length - this.#freeCount;
  }

  #takeOver(other: DelayLine): void {
    this.#takenOver = other.count;
    for (let k = 0; k < other.#frontCount; k++) this.#adopt(other, other.#front[k]!);
    while (other.#waiting > 0) this.#adopt(other, other.#pop());
    other.close();
  }

  #adopt(other: DelayLine, theirs: number): void {
    const length = other.#lengths[theirs]!;
    const first = this.#takeChunks(length);
    let from = theirs;
    for (let to = first; to !== NO_CHUNK; to = this.#nextChunk[to]!) {
      this.#arena.copy(this.#addressOf(to), other.#addressOf(from), CHUNK_BYTES);
      from = other.#nextChunk[from]!;
    }
    this.#insert(first, AT_ONCE);
  }

  // ---- the heap

  #insert(frame: number, at: number): void {
    const number = this.#pushed++;
    let place = this.#waiting++;
    while (place > 0) {
      const parent = (place - 1) >> 1;
      // Of the same time, the parent has come before.
      if (this.#times[parent]! <= at) break;
      this.#move(parent, place);
      place = parent;
    }
    this.#put(place, frame, at, number);
  }

  /** Takes out the first. */
  #pop(): number {
    const first = this.#heap[0]!;
    const last = --this.#waiting;
    const at = this.#times[last]!;
    const number = this.#numbers[last]!;
    let place = 0;
    for (;;) {
      let child = 2 * place + 1;
      if (child >= last) break;
      if (child + 1 < last && this.#isBefore(child + 1, this.#times[child]!, this.#numbers[child]!)) child++;
      if (!this.#isBefore(child, at, number)) break;
      this.#move(child, place);
      place = child;
    }
    this.#put(place, this.#heap[last]!, at, number);
    return first;
  }

  #isBefore(place: number, at: number, number: number): boolean {
    return this.#times[place]! < at || (this.#times[place] === at && this.#numbers[place]! < number);
  }

  #move(from: number, to: number): void {
    this.#put(to, this.#heap[from]!, this.#times[from]!, this.#numbers[from]!);
  }

  #put(place: number, frame: number, at: number, number: number): void {
    this.#heap[place] = frame;
    this.#times[place] = at;
    this.#numbers[place] = number;
  }
}
