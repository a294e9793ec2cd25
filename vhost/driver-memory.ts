/**
 * Memory that a driver shares with its device: a memfd mapped here, in which rings and buffers are laid out once.
 *
 * Guest-physical addresses are the addresses of this process, as DPDK's virtio-user has them: one region, and no
 * translation on this side. A device in the kernel reaches the memory through this process; one in another process maps
 * the file (`/proc/PID/map_files`, or the descriptor itself).
 */
import { close } from '../linux/file.ts';
import { type Address, viewMemory } from '../linux/libc.ts';
import { MAP_FIXED, MAP_SHARED, mmap, munmap, PAGE_SIZE, PROT_READ, PROT_WRITE, sealedMemfd } from '../linux/mman.ts';

const CACHE_LINE_BYTES = 64;

/** Who decides where in this process the memory lies, such as a lane's arena. */
export interface AddressSpace {
  /** Address space for `bytes`, congruent to `phase` modulo `align`, to map over with MAP_FIXED. */
  reserve(bytes: number, align: number, phase: number): Address;
  /** Takes away what is mapped there, and the address space back. */
  free(address: Address, bytes: number): void;
}

export class DriverMemory {
  readonly fd: number;
  readonly address: Address;
  /** A whole number of pages. */
  readonly length: number;
  readonly #space: AddressSpace | undefined;
  #used = 0;
  #mapped = true;

  /** `length` in bytes, rounded up to whole pages; zeroed. Throws SystemError. */
  constructor(length: number, space?: AddressSpace) {
    this.length = Math.ceil(length / PAGE_SIZE) * PAGE_SIZE;
    this.#space = space;
    this.fd = sealedMemfd('ringswitch-driver', this.length);
    const mapping = { length: this.length, prot: PROT_READ | PROT_WRITE, fd: this.fd };
    let reserved: Address | undefined;
    try {
      reserved = space?.reserve(this.length, PAGE_SIZE, 0);
      this.address =
        reserved === undefined
          ? mmap({ ...mapping, flags: MAP_SHARED })
          : mmap({ ...mapping, address: reserved, flags: MAP_SHARED | MAP_FIXED });
    } catch (error) {
      if (reserved !== undefined) space?.free(reserved, this.length);
      close(this.fd);
      throw error;
    }
  }

  /** A part of the memory, at a cache line; never given back. Throws RangeError when none is left. */
  allocate(bytes: number): Address {
    const at = this.#used;
    if (at + bytes > this.length) {
      throw new RangeError(`driver memory: ${bytes} bytes wanted, ${this.length - at} of ${this.length} are left`);
    }
    this.#used = at + lines(bytes);
    return this.address + at;
  }

  /** A view of a part of the memory. Drop it before {@link close}. */
  view(address: Address, length: number): ArrayBuffer {
    return viewMemory(address, length);
  }

  /** Unmaps it here; the device must have let go. */
  close(): void {
    if (!this.#mapped) return;
    this.#mapped = false;
    if (this.#space) this.#space.free(this.address, this.length);
    else munmap(this.address, this.length);
    close(this.fd);
  }
}

/** `bytes` rounded up to whole cache lines: what an allocation of that size takes. */
export function lines(bytes: number): number {
  return Math.ceil(bytes / CACHE_LINE_BYTES) * CACHE_LINE_BYTES;
}
