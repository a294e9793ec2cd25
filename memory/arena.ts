/**
 * The memory of a lane: one WebAssembly memory of 16 GiB, most of it only reserved, into which guest memory is mapped.
 *
 *     base                                                                              base + 16 GiB
 *     | scratch: batches, copy lists | guest A … |  free  | guest B … |        free         |
 *       allocate(), for ever           reserve() … free()
 *
 * So the wasm kernels reach every frame, and a copy costs no call out of JavaScript's world. That a mapping may be laid
 * over a wasm memory (MAP_FIXED) is how V8 happens to work and nothing that it promises, hence {@link Arena.open} tries it
 * out first. Where that fails, and for memory that finds no room, everything works as well with libc's memcpy ("far").
 *
 * Addresses are absolute and those of the process everywhere; nobody but the kernels knows the base. One thread only.
 */
import { close } from '../linux/file.ts';
import { type Address, addressOf, viewMemory } from '../linux/libc.ts';
import {
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_NORESERVE,
  MAP_PRIVATE,
  MAP_SHARED,
  memcpy,
  memfd,
  mmap,
  munmap,
  PAGE_SIZE,
  PROT_NONE,
  PROT_READ,
  PROT_WRITE,
} from '../linux/mman.ts';
import { instantiateKernels, type WasmKernels } from './kernels.ts';

const WASM_PAGE_BYTES = 65_536;
/** The kernels know it as a shift by 34. */
export const ARENA_BYTES = 2 ** 34;
/** For batches and lists; allocated for as long as the lane lives. */
const SCRATCH_BYTES = 2 ** 26;
const CACHE_LINE_BYTES = 64;
/** Far sums pass through a buffer of this size; even, so that the pieces of a sum add up. */
const BOUNCE_BYTES = 2 ** 16;

export interface ArenaOptions {
  /** False: work without wasm, as where it fails. */
  wasm?: boolean;
  /** Bytes of the wasm memory that guest memory may take; the rest goes where it finds room. For tests. */
  guestBytes?: number;
}

interface Range {
  start: Address;
  end: Address;
}

export class Arena {
  /** The kernels, or null where the arena works without wasm. */
  readonly wasm: WasmKernels | null;
  /** Why it works without wasm; empty when it does not. */
  readonly reason: string;
  /** memcpy between any addresses of this process. Nothing is checked: the caller has validated both ranges. */
  readonly copy: (to: Address, from: Address, bytes: number) => void;
  /** Ones' complement sum (RFC 1071): 16 bits, in network order. */
  readonly sum: (address: Address, bytes: number) => number;
  /** {@link copy}, and the sum of what was written. */
  readonly copySum: (to: Address, from: Address, bytes: number) => number;
  readonly #base: Address;
  #scratchUsed = 0;
  /** Free ranges for guest memory, in order. */
  #free: Range[];
  readonly #bounce: Address;
  readonly #bounceWords: Uint16Array;

  /** Makes an arena; never fails for want of wasm. */
  static open({ wasm = true, guestBytes = ARENA_BYTES - SCRATCH_BYTES }: ArenaOptions = {}): Arena {
    if (!wasm) return new Arena(null, 'it was told to work without', 0);
    let memory: WebAssembly.Memory;
    try {
      const initial = BigInt(ARENA_BYTES / WASM_PAGE_BYTES);
      memory = new WebAssembly.Memory({ initial, maximum: initial, address: 'i64' });
    } catch (error) {
      return new Arena(null, `a wasm memory of ${ARENA_BYTES} bytes cannot be had: ${(error as Error).message}`, 0);
    }
    try {
      const arena = new Arena(memory, '', guestBytes);
      arena.#tryOut();
      return arena;
    } catch (error) {
      return new Arena(null, `mappings in a wasm memory do not work here: ${(error as Error).message}`, 0);
    }
  }

  private constructor(memory: WebAssembly.Memory | null, reason: string, guestBytes: number) {
    this.reason = reason;
    if (memory === null) {
      this.#base = mmap({
        length: SCRATCH_BYTES,
        prot: PROT_READ | PROT_WRITE,
        flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
      });
      this.#free = [];
      this.wasm = null;
      this.copy = memcpy;
      this.sum = (address, bytes) => this.#farSum(address, bytes);
      this.copySum = (to, from, bytes) => {
        memcpy(to, from, bytes);
        return this.#farSum(to, bytes);
      };
    } else {
      this.#base = addressOf(new Uint8Array(memory.buffer, 0, 1));
      const start = this.#base + SCRATCH_BYTES;
      this.#free = [{ start, end: start + guestBytes }];
      this.wasm = instantiateKernels(memory, this.#base, {
        farCopy: memcpy,
        farSum: (address, bytes) => this.#farSum(address, bytes),
      });
      this.copy = this.wasm.copy;
      this.sum = this.wasm.sum;
      this.copySum = this.wasm.copySum;
    }
    this.#bounce = this.allocate(BOUNCE_BYTES);
    this.#bounceWords = new Uint16Array(viewMemory(this.#bounce, BOUNCE_BYTES));
  }

  /** Maps a file over the far end of the memory, and lets the kernels read and write what another mapping shows. */
  #tryOut(): void {
    const top = this.#base + ARENA_BYTES - PAGE_SIZE;
    const fd = memfd('ringswitch-arena', PAGE_SIZE);
    const flags = { length: PAGE_SIZE, prot: PROT_READ | PROT_WRITE, fd };
    const other = mmap({ ...flags, flags: MAP_SHARED });
    const scratch = this.allocate(PAGE_SIZE);
    try {
      mmap({ ...flags, address: top, flags: MAP_SHARED | MAP_FIXED });
      const file = new Uint8Array(viewMemory(other, PAGE_SIZE));
      const here = new Uint8Array(viewMemory(scratch, PAGE_SIZE));
      file.forEach((_, i) => {
        file[i] = i * 7;
      });
      this.copy(scratch, top, PAGE_SIZE);
      if (!here.every((byte, i) => byte === ((i * 7) & 0xff))) throw new Error('what a file holds is not seen');
      here.fill(0xa5);
      this.copy(top, scratch, PAGE_SIZE);
      if (!file.every((byte) => byte === 0xa5)) throw new Error('what is written does not reach the file');
    } finally {
      this.#restore(top, PAGE_SIZE);
      munmap(other, PAGE_SIZE);
      close(fd);
    }
  }

  /** Scratch memory of the lane, zeroed, at a cache line; never given back. */
  allocate(bytes: number): Address {
    const address = this.#base + this.#scratchUsed;
    const used = this.#scratchUsed + Math.ceil(bytes / CACHE_LINE_BYTES) * CACHE_LINE_BYTES;
    if (used > SCRATCH_BYTES) {
      throw new RangeError(`arena: ${bytes} bytes of scratch wanted, ${SCRATCH_BYTES - this.#scratchUsed} are left`);
    }
    this.#scratchUsed = used;
    return address;
  }

  /** Offset of a scratch address, as the kernels want it. */
  offsetOf(address: Address): number {
    return address - this.#base;
  }

  /** Whether the kernels reach an address; else a copy there goes through libc. */
  holds(address: Address): boolean {
    return this.wasm !== null && address >= this.#base && address < this.#base + ARENA_BYTES;
  }

  /**
   * Address space for `bytes` (a multiple of `align`, a power of two of at least a page) whose address is congruent to
   * `phase` modulo `align`: in the arena where there is room, else anywhere. Whoever asked maps over it (MAP_FIXED), and
   * gives the same range back to {@link free}. Throws SystemError when the process has no room either.
   */
  reserve(bytes: number, align: number, phase: number): Address {
    for (const [i, range] of this.#free.entries()) {
      const start = range.start + modulo(phase - range.start, align);
      const end = start + bytes;
      if (end > range.end) continue;
      const left = [
        { start: range.start, end: start },
        { start: end, end: range.end },
      ].filter((part) => part.end > part.start);
      this.#free.splice(i, 1, ...left);
      return start;
    }
    const length = bytes + align;
    const base = mmap({ length, prot: PROT_NONE, flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE });
    const start = base + modulo(phase - base, align);
    if (start > base) munmap(base, start - base);
    if (base + length > start + bytes) munmap(start + bytes, base + length - start - bytes);
    return start;
  }

  /** Maps the first `bytes` (whole pages) of a file, for as long as the lane lives. */
  mapFile(fd: number, bytes: number): Address {
    const address = this.reserve(bytes, PAGE_SIZE, 0);
    mmap({ address, length: bytes, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED | MAP_FIXED, fd });
    return address;
  }

  /** Takes away whatever is mapped at a range that {@link reserve} gave, and gives the range back. */
  free(address: Address, bytes: number): void {
    if (!this.holds(address)) {
      munmap(address, bytes);
      return;
    }
    this.#restore(address, bytes);
    const ranges = [...this.#free, { start: address, end: address + bytes }].sort((a, b) => a.start - b.start);
    this.#free = [];
    for (const range of ranges) {
      const last = this.#free.at(-1);
      if (last?.end === range.start) last.end = range.end;
      else this.#free.push({ ...range });
    }
  }

  /** What V8 had there: memory that reads as zero until it is written. */
  #restore(address: Address, length: number): void {
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    mmap({ address, length, prot: PROT_READ | PROT_WRITE, flags });
  }

  #farSum(address: Address, bytes: number): number {
    const words = this.#bounceWords;
    let total = 0;
    for (let done = 0; done < bytes; done += BOUNCE_BYTES) {
      const here = Math.min(bytes - done, BOUNCE_BYTES);
      const count = (here + 1) >> 1;
      words[count - 1] = 0;
      memcpy(this.#bounce, address + done, here);
      for (let i = 0; i < count; i++) total += words[i]!;
    }
    // Folded by the modulus 0xffff, where a sum that is not zero never becomes zero; then into network order.
    const folded = total === 0 ? 0 : ((total - 1) % 0xffff) + 1;
    return ((folded & 0xff) << 8) | (folded >> 8);
  }
}

function modulo(n: number, by: number): number {
  return ((n % by) + by) % by;
}
