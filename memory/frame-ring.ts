/**
 * A bounded ring of byte records between exactly one producing and one consuming thread.
 *
 *     address        64             128           192                              192 + capacity
 *     | head (u32)   | tail (u32)   | sleeping    | record | record |  free  | record | pad |
 *       consumer       producer       (u32)         ^tail … wraps …            ^head
 *
 * head and tail count bytes for ever, modulo 2^32; they differ by at most the capacity (a power of two). A record is
 * a length word, then its bytes, rounded up to 16. A record never wraps: where it would, a PAD length sends the
 * consumer to the start. `sleeping` is set by the consumer before it sleeps; the producer then owes it a signal.
 *
 * Data is written before tail is stored (Atomics), and tail is loaded before data is read. Hot: allocates nothing.
 */
import { type Address, viewMemory } from '../linux/libc.ts';

const HEAD = 0;
const TAIL = 64 >> 2;
const SLEEPING = 128 >> 2;
const DATA_OFFSET = 192;
const LENGTH_BYTES = 16;
const ALIGN = 16;
const PAD = 0xffff_ffff;

/** Bytes of memory that a ring with this capacity (a power of two) needs. */
export function frameRingBytes(capacity: number): number {
  return DATA_OFFSET + capacity;
}

export class FrameRing {
  readonly #words: Uint32Array;
  readonly #lengths: Uint32Array;
  readonly #data: Address;
  readonly #capacity: number;
  #head: number;
  #tail: number;
  /** The other side's index as this side last saw it. */
  #headSeen: number;
  #tailSeen: number;

  /** One side's view of the ring at `address`. `capacity` must be a power of two of at least 64; both sides agree on it. */
  constructor(address: Address, capacity: number) {
    if (capacity < 64 || (capacity & (capacity - 1)) !== 0) {
      throw new RangeError(`frame ring: capacity ${capacity} is not a power of two of at least 64`);
    }
    this.#words = new Uint32Array(viewMemory(address, DATA_OFFSET));
    this.#lengths = new Uint32Array(viewMemory(address + DATA_OFFSET, capacity));
    this.#data = address + DATA_OFFSET;
    this.#capacity = capacity;
    this.#head = Atomics.load(this.#words, HEAD);
    this.#tail = Atomics.load(this.#words, TAIL);
    this.#headSeen = this.#head;
    this.#tailSeen = this.#head;
  }

  /** The longest record that can ever be pushed. */
  get maxRecord(): number {
    return this.#capacity / 2 - LENGTH_BYTES;
  }

  // ---- producer

  /**
   * Address for a record of `length` bytes, or 0 when the ring is full. Fill it, then {@link stage} the same length, or
   * {@link commit} it, which publishes too.
   */
  reserve(length: number): Address {
    const need = LENGTH_BYTES + ((length + ALIGN - 1) & ~(ALIGN - 1));
    if (length > this.maxRecord) return 0;
    const at = this.#tail & (this.#capacity - 1);
    const toEnd = this.#capacity - at;
    const pad = need > toEnd ? toEnd : 0;
    const room = this.#capacity - pad - need;
    if ((this.#tail - this.#headSeen) >>> 0 > room) {
      this.#headSeen = Atomics.load(this.#words, HEAD);
      if ((this.#tail - this.#headSeen) >>> 0 > room) return 0;
    }
    if (pad > 0) {
      this.#lengths[at >> 2] = PAD;
      this.#tail = (this.#tail + pad) >>> 0;
    }
    return this.#data + (this.#tail & (this.#capacity - 1)) + LENGTH_BYTES;
  }

  /** Ends the record just filled; the consumer sees it with the next {@link publishStaged}. */
  stage(length: number): void {
    this.#lengths[(this.#tail & (this.#capacity - 1)) >> 2] = length;
    this.#tail = (this.#tail + LENGTH_BYTES + ((length + ALIGN - 1) & ~(ALIGN - 1))) >>> 0;
  }

  /** Publishes what was staged. True when the consumer sleeps and must be signalled. */
  publishStaged(): boolean {
    Atomics.store(this.#words, TAIL, this.#tail);
    return Atomics.exchange(this.#words, SLEEPING, 0) === 1;
  }

  /** Ends and publishes the record just filled. True when the consumer sleeps and must be signalled. */
  commit(length: number): boolean {
    this.stage(length);
    return this.publishStaged();
  }

  // ---- consumer

  /** Length of the next record, or -1 when there is none. */
  peek(): number {
    if (this.#head === this.#tailSeen) {
      this.#tailSeen = Atomics.load(this.#words, TAIL);
      if (this.#head === this.#tailSeen) return -1;
    }
    const at = this.#head & (this.#capacity - 1);
    const length = this.#lengths[at >> 2]!;
    if (length !== PAD) return length;
    this.#head = (this.#head + this.#capacity - at) >>> 0;
    return this.#lengths[0]!;
  }

  /** Address of the record that {@link peek} found. */
  get address(): Address {
    return this.#data + (this.#head & (this.#capacity - 1)) + LENGTH_BYTES;
  }

  /** Gives the record's room back. Until then its bytes stay as they are. */
  consume(length: number): void {
    this.advance(length);
    this.publish();
  }

  /** Steps to the next record without giving the room back yet; {@link publish} gives back all that was passed. */
  advance(length: number): void {
    this.#head = (this.#head + LENGTH_BYTES + ((length + ALIGN - 1) & ~(ALIGN - 1))) >>> 0;
  }

  /** Where the consumer stands, for {@link rewind}. */
  get mark(): number {
    return this.#head;
  }

  /** Goes back to a mark: the records passed by {@link advance} since then come again. Only before {@link publish}. */
  rewind(mark: number): void {
    this.#head = mark;
  }

  /** Gives back the room of every record passed by {@link advance}. */
  publish(): void {
    Atomics.store(this.#words, HEAD, this.#head);
  }

  /** Says that this side sleeps until it is signalled. False: a record came meanwhile, look again instead. */
  sleep(): boolean {
    Atomics.store(this.#words, SLEEPING, 1);
    return Atomics.load(this.#words, TAIL) === this.#head;
  }

  /** Records may wait without anybody asking for a signal any more. */
  wake(): void {
    Atomics.store(this.#words, SLEEPING, 0);
  }

  /** Throws away everything that waits. */
  discard(): void {
    this.#head = Atomics.load(this.#words, TAIL);
    this.#tailSeen = this.#head;
    this.publish();
  }
}
