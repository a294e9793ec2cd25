/** A host's memory behind a fake bus: given out piece by piece, read and written by bus address. */
import type { FakeBus } from './fake-card-host.ts';

const ALIGNMENT = 128;

export class HostMemory {
  readonly bus: FakeBus;
  #free: number;

  constructor(bus: FakeBus) {
    this.bus = bus;
    this.#free = bus.base;
  }

  /** Bus address of memory that is nobody else's, at a multiple of 128. */
  allocate(bytes: number): number {
    const at = this.#free;
    this.#free += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
    if (this.#free > this.end) throw new Error('the fake bus has no more memory');
    return at;
  }

  /** Takes all back that was given out. What memory holds stays. */
  release(): void {
    this.#free = this.bus.base;
  }

  /** Where memory ends. */
  get end(): number {
    return this.bus.base + this.bus.memory.length;
  }

  bytes(address: number, length: number): Uint8Array {
    const at = address - this.bus.base;
    return this.bus.memory.subarray(at, at + length);
  }

  setWords(address: number, words: number[]): void {
    for (const [i, word] of words.entries()) this.bus.view.setUint32(address - this.bus.base + 4 * i, word, true);
  }

  words(address: number, count = 4): number[] {
    return Array.from({ length: count }, (_, i) => this.bus.view.getUint32(address - this.bus.base + 4 * i, true));
  }
}
