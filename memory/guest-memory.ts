/**
 * A client's memory, mapped into this process, and the way from its addresses to ours.
 *
 * Two address spaces lead here: guest-physical addresses (in descriptors) and the client's own ones (where its rings
 * stand). Both are translated into addresses of this process, which is all that the rest of the house deals with.
 * The mappings lie in the lane's arena, as long as it has room. What is private to the client is not mapped but mirrored
 * (mirror.ts): an address here as well, but its bytes must be pulled and pushed.
 *
 * Shared areas that lie next to each other in the client are mapped next to each other here, so that a buffer across their
 * border is one range. Made and used on one lane's thread. Translation is hot: it allocates nothing.
 */
import fs from 'node:fs';
import { type Address, viewMemory } from '../linux/libc.ts';
import {
  MADV_NOHUGEPAGE,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_NORESERVE,
  MAP_PRIVATE,
  MAP_SHARED,
  madvise,
  mmap,
  PAGE_SIZE,
  PROT_READ,
  PROT_WRITE,
} from '../linux/mman.ts';
import type { Arena } from './arena.ts';
import type { ClientMemory, PrivateArea, SharedArea } from './client-memory.ts';
import type { WasmKernels } from './kernels.ts';
import { Mirror } from './mirror.ts';

interface Run {
  userAddress: number;
  length: number;
  address: Address;
}

export class GuestMemory {
  readonly #arena: Arena;
  readonly #runs: Run[] = [];
  readonly #mirrored: Run[] = [];
  /** What lies behind the private parts; null where all is shared. */
  readonly mirror: Mirror | null = null;
  /** Translation segments in order of guest address: contiguous both in the guest and here. */
  #guest = new Float64Array(0);
  #end = new Float64Array(0);
  #host = new Float64Array(0);
  /** 1 for a segment that is mirrored. */
  #isMirrored = new Uint8Array(0);
  #segments = 0;
  /**
   * The segment that answered last: guest addresses `start` … `end` - 1 stand at the same address plus `delta` here. Loops
   * look there first, and only then ask {@link translate}.
   */
  start = 0;
  end = 0;
  delta = 0;
  /** {@link end} of a segment that is shared, {@link start} of one that is mirrored: what the kernels may touch. */
  sharedEnd = 0;

  /** Maps all areas. Throws SystemError when the kernel refuses; nothing stays mapped then. */
  constructor(memory: ClientMemory, arena: Arena) {
    this.#arena = arena;
    try {
      this.#mapAreas([...memory.areas].sort((a, b) => a.userAddress - b.userAddress));
      if (memory.copied) {
        for (const area of memory.copied.areas) this.#mirrorArea(area);
        this.mirror = new Mirror(memory.copied.pid, this.#mirrored);
      }
    } catch (error) {
      this.unmap();
      throw error;
    }
    this.#buildSegments(memory);
  }

  #mapAreas(areas: SharedArea[]): void {
    for (let first = 0; first < areas.length; ) {
      let last = first;
      const endOf = (area: SharedArea): number => area.userAddress + area.length;
      while (last + 1 < areas.length && areas[last + 1]!.userAddress === endOf(areas[last]!)) last++;
      const userAddress = areas[first]!.userAddress;
      const length = endOf(areas[last]!) - userAddress;
      const page = Math.max(...areas.slice(first, last + 1).map(({ fd }) => pageBytes(fd)));
      const address = this.#arena.reserve(length, page, userAddress);
      this.#runs.push({ userAddress, length, address });
      for (const area of areas.slice(first, last + 1)) {
        mmap({
          address: address + (area.userAddress - userAddress),
          length: area.length,
          prot: PROT_READ | PROT_WRITE,
          flags: MAP_SHARED | MAP_FIXED,
          fd: area.fd,
          offset: area.offset,
        });
      }
      first = last + 1;
    }
  }

  /** Address space for what is private: pages of zeros, of which only those touched take memory. */
  #mirrorArea({ userAddress, length }: PrivateArea): void {
    const address = this.#arena.reserve(length, PAGE_SIZE, userAddress);
    this.#mirrored.push({ userAddress, length, address });
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    mmap({ address, length, prot: PROT_READ | PROT_WRITE, flags });
    try {
      madvise(address, length, MADV_NOHUGEPAGE);
    } catch {
      // A kernel without hugepages of this kind needs not be told.
    }
  }

  #buildSegments({ regions }: ClientMemory): void {
    const segments: { guest: number; end: number; host: Address; mirrored: boolean }[] = [];
    for (const region of regions) {
      for (const run of [...this.#runs, ...this.#mirrored]) {
        const start = Math.max(region.userAddress, run.userAddress);
        const end = Math.min(region.userAddress + region.size, run.userAddress + run.length);
        if (end <= start) continue;
        segments.push({
          guest: region.guestAddress + (start - region.userAddress),
          end: region.guestAddress + (end - region.userAddress),
          host: run.address + (start - run.userAddress),
          mirrored: this.#mirrored.includes(run),
        });
      }
    }
    segments.sort((a, b) => a.guest - b.guest);
    const merged: typeof segments = [];
    for (const segment of segments) {
      const previous = merged.at(-1);
      if (
        previous &&
        previous.mirrored === segment.mirrored &&
        previous.end === segment.guest &&
        previous.host + (previous.end - previous.guest) === segment.host
      ) {
        previous.end = segment.end;
      } else merged.push({ ...segment });
    }
    this.#segments = merged.length;
    this.#guest = Float64Array.from(merged, (segment) => segment.guest);
    this.#end = Float64Array.from(merged, (segment) => segment.end);
    this.#host = Float64Array.from(merged, (segment) => segment.host);
    this.#isMirrored = Uint8Array.from(merged, (segment) => (segment.mirrored ? 1 : 0));
  }

  /** Makes the segment that holds guest address `guest` the one that answers; false when none does. */
  #find(guest: number): boolean {
    if (guest >= this.start && guest < this.end) return true;
    for (let i = 0; i < this.#segments; i++) {
      if (guest < this.#guest[i]! || guest >= this.#end[i]!) continue;
      this.start = this.#guest[i]!;
      this.end = this.#end[i]!;
      this.delta = this.#host[i]! - this.start;
      this.sharedEnd = this.#isMirrored[i] === 1 ? this.start : this.end;
      return true;
    }
    return false;
  }

  /** Bytes that follow guest address `guest` without a break, itself included; 0 when it is not mapped. */
  contiguous(guest: number): number {
    return this.#find(guest) ? this.end - guest : 0;
  }

  /** Address here of the guest-physical range, or 0 when it is not wholly inside one contiguous mapped range. */
  translate(guest: number, length: number): Address {
    return this.#find(guest) && guest + length <= this.end ? guest + this.delta : 0;
  }

  /** Address here of a range of the client's own addresses, or 0 when it is not mapped. */
  translateUser(userAddress: number, length: number): Address {
    return findUser(this.#runs, userAddress, length) || findUser(this.#mirrored, userAddress, length);
  }

  /**
   * Copies a guest-physical range, which may cross mapped ranges, to `to`. False when part of it is not mapped, or is private
   * and cannot be had any more.
   */
  read(guest: number, length: number, to: Address): boolean {
    let at = guest;
    let left = length;
    let target = to;
    while (left > 0) {
      const here = Math.min(left, this.contiguous(at));
      if (here === 0) return false;
      const from = this.translate(at, here);
      if (this.mirror !== null) {
        this.mirror.pulls.add(from, here);
        if (!this.mirror.pulls.run()) return false;
      }
      this.#arena.copy(target, from, here);
      at += here;
      target += here;
      left -= here;
    }
    return true;
  }

  /** A view on memory of the client, for rings. Drop it before {@link unmap}. */
  view(address: Address, length: number): ArrayBuffer {
    return viewMemory(address, length);
  }

  /** The kernels that reach all of it that is shared; null where they do not, and where more is private than shared. */
  get kernels(): WasmKernels | null {
    const mirroredBytes = this.#mirrored.reduce((sum, run) => sum + run.length, 0);
    if (mirroredBytes > this.mappedBytes) return null;
    return [...this.#runs, ...this.#mirrored].every(({ address }) => this.#arena.holds(address))
      ? this.#arena.wasm
      : null;
  }

  /** Bytes mapped, all of them shared. */
  get mappedBytes(): number {
    return this.#runs.reduce((sum, run) => sum + run.length, 0);
  }

  /** Takes all mappings away; nothing may touch them any more. */
  unmap(): void {
    for (const { address, length } of this.#runs.splice(0)) this.#arena.free(address, length);
    for (const { address, length } of this.#mirrored.splice(0)) this.#arena.free(address, length);
    this.mirror?.close();
    this.#segments = 0;
    this.start = 0;
    this.end = 0;
    this.sharedEnd = 0;
  }
}

function findUser(runs: Run[], userAddress: number, length: number): Address {
  for (const run of runs) {
    if (userAddress >= run.userAddress && userAddress + length <= run.userAddress + run.length) {
      return run.address + (userAddress - run.userAddress);
    }
  }
  return 0;
}

/**
 * The page size of a file: 2 MiB or 1 GiB on hugetlbfs, whose mappings must lie at multiples of it. What is no file is
 * left to mmap, which refuses it.
 */
function pageBytes(fd: number): number {
  let blksize: number;
  try {
    blksize = fs.fstatSync(fd).blksize;
  } catch {
    return PAGE_SIZE;
  }
  return blksize > PAGE_SIZE && (blksize & (blksize - 1)) === 0 ? blksize : PAGE_SIZE;
}
