/** The host's side of a descriptor ring: where it lies, fetched some at a time (82599 datasheet §7.1.5, §7.2.3.4). */
import { DESCRIPTOR_BYTES } from '../descriptors.ts';
import type { BusAddress, HostBus } from './host-bus.ts';

/** Descriptors of one fetch at the most: what fits into the card's own memory for a queue. */
const FETCH_DESCRIPTORS = 64;
export const WORDS_PER_DESCRIPTOR = DESCRIPTOR_BYTES / 4;

/** A fetch of consecutive descriptors. */
export class DescriptorFetch {
  /** What was fetched, by words. */
  readonly words = new Uint32Array(FETCH_DESCRIPTORS * WORDS_PER_DESCRIPTOR);
  readonly #bytes = new Uint8Array(this.words.buffer);
  readonly #bus: HostBus;
  #first = 0;
  #count = 0;

  constructor(bus: HostBus) {
    this.#bus = bus;
  }

  /** Forgets what was fetched. */
  clear(): void {
    this.#count = 0;
  }

  /**
   * Makes descriptor `index` of the ring at `base` available, with up to `available` in a row. Gives its first word in
   * {@link words}; -1 when the host has no memory there.
   */
  at(base: BusAddress, index: number, available: number): number {
    if (index >= this.#first && index < this.#first + this.#count) {
      return (index - this.#first) * WORDS_PER_DESCRIPTOR;
    }
    const count = Math.min(available, FETCH_DESCRIPTORS);
    const bytes = this.#bytes.subarray(0, count * DESCRIPTOR_BYTES);
    if (!this.#bus.read(base + index * DESCRIPTOR_BYTES, bytes)) {
      this.#count = 0;
      return -1;
    }
    this.#first = index;
    this.#count = count;
    return 0;
  }
}

/** A bus address from its two words. */
export function busAddressOf(low: number, high: number): BusAddress {
  return high * 2 ** 32 + (low >>> 0);
}

export const hex = (n: number): string => `0x${n.toString(16)}`;
