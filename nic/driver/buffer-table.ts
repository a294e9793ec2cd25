/**
 * The packet buffers of a ring: where the card sees each, and how many bytes of a frame are in it.
 *
 * Addresses stand as the 64 bits that a descriptor takes, in the form of doubles: so a loop moves one with a load and a store.
 * A double survives that unless it is a NaN, and the bits of an address below 2^52 never are one. With an arena the table lies
 * in it, for the kernels.
 */
import { type Address, viewMemory } from '../../linux/libc.ts';
import { MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, mmap, PAGE_SIZE, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';
import type { Arena } from '../../memory/arena.ts';
import { pages } from '../../memory/shared-buffer.ts';

const ADDRESS_BYTES = 8;
const LENGTH_BYTES = 2;

export class BufferTable {
  /** Buffers, a power of two. */
  readonly count: number;
  /** Bus addresses, by buffer. */
  readonly addresses: Float64Array;
  /** Bytes of a frame, by buffer. */
  readonly lengths: Uint16Array;
  /** Where both stand in the arena; 0 without one. */
  readonly addressesAt: Address = 0;
  readonly lengthsAt: Address = 0;
  readonly #arena: Arena | null;
  readonly #bytes: number;

  /** Throws RangeError for an address that is no whole number below 2^52. */
  constructor(count: number, address: (i: number) => number, arena: Arena | null = null) {
    this.count = count;
    this.#arena = arena;
    this.#bytes = pages(count * (ADDRESS_BYTES + LENGTH_BYTES));
    let memory = new ArrayBuffer(this.#bytes);
    if (arena !== null) {
      this.addressesAt = arena.reserve(this.#bytes, PAGE_SIZE, 0);
      this.lengthsAt = this.addressesAt + count * ADDRESS_BYTES;
      const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
      mmap({ address: this.addressesAt, length: this.#bytes, prot: PROT_READ | PROT_WRITE, flags });
      memory = viewMemory(this.addressesAt, this.#bytes);
    }
    this.addresses = new Float64Array(memory, 0, count);
    this.lengths = new Uint16Array(memory, count * ADDRESS_BYTES, count);
    const bits = new BigUint64Array(memory, 0, count);
    for (let i = 0; i < count; i++) {
      const value = address(i);
      if (!Number.isInteger(value) || value < 0 || value >= 2 ** 52) {
        this.close();
        throw new RangeError(`buffer ${i}: ${value} is no bus address; they are whole numbers below 2^52`);
      }
      bits[i] = BigInt(value);
    }
  }

  /** Gives the memory back; nobody looks at the table any more. */
  close(): void {
    if (this.addressesAt !== 0) this.#arena?.free(this.addressesAt, this.#bytes);
  }
}
