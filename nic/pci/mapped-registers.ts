/** BAR 0 in this process's address space. */
import { type Address, viewMemory } from '../../linux/libc.ts';
import type { RegisterSpace } from './pci-device.ts';

/** Registers by 32-bit loads and stores. Every offset is checked: beyond the mapping there is no memory. */
export class MappedRegisters implements RegisterSpace {
  readonly #name: string;
  readonly #address: Address;
  readonly #length: number;
  #words: Uint32Array | null;

  /** `name` is the card's, for messages. `length` in bytes. */
  constructor(name: string, address: Address, length: number) {
    this.#name = name;
    this.#address = address;
    this.#length = length;
    this.#words = new Uint32Array(viewMemory(address, length));
  }

  /** For threads that have writers of their own. */
  get access(): { kind: 'mapped'; address: Address; length: number } {
    return { kind: 'mapped', address: this.#address, length: this.#length };
  }

  read32(offset: number): number {
    return this.#wordsAt(offset)[offset >>> 2]!;
  }

  write32(offset: number, value: number): void {
    this.#wordsAt(offset)[offset >>> 2] = value;
  }

  /** From now on every access is an Error instead of a fault: call it before the memory is unmapped. */
  detach(): void {
    this.#words = null;
  }

  #wordsAt(offset: number): Uint32Array {
    if (this.#words === null) throw new Error(`${this.#name}: register 0x${offset.toString(16)}: the card is closed`);
    if (offset % 4 !== 0 || offset < 0 || offset >= this.#length) {
      throw new Error(
        `${this.#name}: register 0x${offset.toString(16)} is not a word of BAR 0, which has ${this.#length} bytes`,
      );
    }
    return this.#words;
  }
}
