/**
 * The registers of BAR 0 as a map from offset to behaviour. Each block of the card defines its own; what nobody defined
 * reads as 0 and takes no writes, as reserved addresses do (datasheet §8.1).
 */

/** The register space of the 82599: 512 KiB. */
export const REGISTER_SPACE_BYTES = 0x80000;

export interface RegisterBehaviour {
  /** Value after reset. Default 0. */
  initial?: number;
  /** Bits that software can write. Default all. */
  writable?: number;
  /** Replaces reading the stored value: side effects (clear on read) go here. `stored` is the value as it stands. */
  read?: (stored: number) => number;
  /** Called with a written value after masking; its result is stored. */
  write?: (value: number, stored: number) => number;
}

export class RegisterFile {
  readonly #values = new Uint32Array(REGISTER_SPACE_BYTES / 4);
  readonly #behaviours = new Map<number, RegisterBehaviour>();
  readonly #listeners = new Map<number, () => void>();

  /** Defines the register at `offset` (bytes, a multiple of 4). Throws Error when it is defined already. */
  define(offset: number, behaviour: RegisterBehaviour = {}): void {
    if (this.#behaviours.has(offset)) throw new Error(`register 0x${offset.toString(16)} is defined twice`);
    this.#behaviours.set(offset, behaviour);
    this.#values[offset >>> 2] = behaviour.initial ?? 0;
  }

  /** Makes `offset` another name of the register at `of`. */
  alias(offset: number, of: number): void {
    this.define(offset, {
      read: () => this.read(of),
      write: (value) => {
        this.write(of, value);
        return 0;
      },
    });
  }

  /** Calls back after each write of a register, when its value stands. */
  onWrite(offset: number, listener: () => void): void {
    this.#listeners.set(offset, listener);
  }

  /** What software reads: 32 bits at a multiple of 4. */
  read(offset: number): number {
    const behaviour = this.#behaviours.get(offset);
    if (behaviour === undefined) return 0;
    const stored = this.#values[offset >>> 2]!;
    return behaviour.read === undefined ? stored : behaviour.read(stored) >>> 0;
  }

  /** What software writes. */
  write(offset: number, value: number): void {
    const behaviour = this.#behaviours.get(offset);
    if (behaviour === undefined) return;
    const stored = this.#values[offset >>> 2]!;
    const mask = behaviour.writable ?? 0xffffffff;
    const merged = ((stored & ~mask) | (value & mask)) >>> 0;
    this.#values[offset >>> 2] = behaviour.write === undefined ? merged : behaviour.write(merged, stored);
    this.#listeners.get(offset)?.();
  }

  /** The stored value, without the side effects of reading: for the card's own blocks. */
  get(offset: number): number {
    return this.#values[offset >>> 2]!;
  }

  /** Stores a value, without the side effects of writing: for the card's own blocks. */
  set(offset: number, value: number): void {
    this.#values[offset >>> 2] = value;
  }

  /** All registers as after reset. */
  reset(): void {
    for (const [offset, { initial = 0 }] of this.#behaviours) this.#values[offset >>> 2] = initial;
  }
}
