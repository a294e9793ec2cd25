/** Memory of this process outside the JavaScript heap, which several of its threads touch by address. */
import { type Address, viewMemory } from '../linux/libc.ts';
import { MAP_ANONYMOUS, MAP_SHARED, mmap, munmap, PAGE_SIZE, PROT_READ, PROT_WRITE } from '../linux/mman.ts';

/** `length` rounded up to whole pages. */
export function pages(length: number): number {
  return Math.ceil(length / PAGE_SIZE) * PAGE_SIZE;
}

/** An anonymous mapping. Its address may be handed to other threads; whoever made it frees it, when all have let go. */
export class SharedBuffer {
  readonly address: Address;
  readonly length: number;
  readonly bytes: ArrayBuffer;
  #mapped = true;

  /** `length` in bytes, rounded up to whole pages; zeroed. */
  constructor(length: number) {
    this.length = pages(length);
    this.address = mmap({ length: this.length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED | MAP_ANONYMOUS });
    this.bytes = viewMemory(this.address, this.length);
  }

  /** Unmaps it; touching any view of it after that ends the process, so drop them first. */
  free(): void {
    if (!this.#mapped) return;
    this.#mapped = false;
    munmap(this.address, this.length);
  }
}
