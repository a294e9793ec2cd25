/**
 * Copies that are noted one by one and made together, by one call of the kernels.
 *
 * Whoever notes a copy has validated both ranges. Nothing may be published that depends on it before {@link run}.
 * Hot: allocates nothing after construction.
 */
import { type Address, viewMemory } from '../linux/libc.ts';
import type { Arena } from './arena.ts';

/** Copies that are held; kernels.wat knows the layout that follows from it. */
const CAPACITY = 1024;
const TO = 0;
const FROM = TO + CAPACITY * Float64Array.BYTES_PER_ELEMENT;
const BYTES = FROM + CAPACITY * Float64Array.BYTES_PER_ELEMENT;
const END = BYTES + CAPACITY * Int32Array.BYTES_PER_ELEMENT;

export class CopyList {
  readonly #arena: Arena;
  readonly #offset: number;
  readonly #to: Float64Array;
  readonly #from: Float64Array;
  readonly #bytes: Int32Array;
  #count = 0;

  constructor(arena: Arena) {
    this.#arena = arena;
    const address = arena.allocate(END);
    this.#offset = arena.offsetOf(address);
    const memory = viewMemory(address, END);
    this.#to = new Float64Array(memory, TO, CAPACITY);
    this.#from = new Float64Array(memory, FROM, CAPACITY);
    this.#bytes = new Int32Array(memory, BYTES, CAPACITY);
  }

  /** Notes a copy. */
  add(to: Address, from: Address, bytes: number): void {
    if (this.#count === CAPACITY) this.run();
    const i = this.#count++;
    this.#to[i] = to;
    this.#from[i] = from;
    this.#bytes[i] = bytes;
  }

  /** Makes the copies noted, in order. */
  run(): void {
    const count = this.#count;
    if (count === 0) return;
    this.#count = 0;
    const { wasm } = this.#arena;
    if (wasm !== null) wasm.copyList(this.#offset, count);
    else for (let i = 0; i < count; i++) this.#arena.copy(this.#to[i]!, this.#from[i]!, this.#bytes[i]!);
  }
}
