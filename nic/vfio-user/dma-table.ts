/**
 * The memory of a vfio-user client, by bus address: what the device reaches. Ranges come with a file to map, or without: then
 * the device does not reach them.
 *
 * A range is believed as far as its file goes (beyond its end there is SIGBUS). Files that can be sealed against shrinking
 * are.
 */
import fs from 'node:fs';
import { viewMemory } from '../../linux/libc.ts';
import { MAP_SHARED, mmap, munmap, PAGE_SIZE, PROT_READ, PROT_WRITE, sealAgainstShrinking } from '../../linux/mman.ts';
import type { BusAddress } from '../model/host-bus.ts';

/** Ranges at the most: a guest's IOMMU may map each page by itself. */
export const MAX_DMA_RANGES = 65_536;

const WORD_BYTES = 4;

export interface DmaRange {
  address: BusAddress;
  size: number;
  /** Bytes into the file. */
  offset: number;
  readable: boolean;
  writable: boolean;
}

interface Mapped extends DmaRange {
  end: BusAddress;
  /** Null where there is no file. */
  bytes: Uint8Array | null;
  words: Uint32Array | null;
  mapping: { address: number; length: number } | null;
}

export class DmaTable {
  /** By address. */
  readonly #ranges: Mapped[] = [];
  #last: Mapped | null = null;

  /** How many ranges there are. */
  get size(): number {
    return this.#ranges.length;
  }

  /**
   * Adds a range; `fd` is only looked at, null when none came. Throws Error for a range that is empty, overlaps another, or
   * goes beyond its file.
   */
  map(range: DmaRange, fd: number | null): void {
    const { address, size, offset, readable, writable } = range;
    const end = address + size;
    const refuse = (why: string): never => {
      throw new Error(`${size} bytes at ${hex(address)}: ${why}`);
    };
    if (size === 0) refuse('there is nothing to map');
    if (!Number.isSafeInteger(end)) refuse('no memory is there');
    if (this.#ranges.length === MAX_DMA_RANGES) refuse(`all ${MAX_DMA_RANGES} ranges are taken`);
    const at = this.#find(address);
    const before = this.#ranges[at - 1];
    const after = this.#ranges[at];
    for (const other of [before, after]) {
      if (other && other.address < end && address < other.end) {
        refuse(`they overlap the ${other.size} bytes at ${hex(other.address)}`);
      }
    }
    const mapped: Mapped = { ...range, end, bytes: null, words: null, mapping: null };
    if (fd !== null && (readable || writable)) {
      const stat = fs.fstatSync(fd);
      if (!stat.isFile()) refuse('the descriptor is no file that can be mapped');
      if (offset + size > stat.size)
        refuse(`its file has ${stat.size} bytes, and it needs those up to ${offset + size}`);
      if (offset % PAGE_SIZE !== 0) refuse(`offset ${hex(offset)} of its file is not at a page`);
      sealAgainstShrinking(fd);
      const prot = (readable ? PROT_READ : 0) | (writable ? PROT_WRITE : 0);
      const where = mmap({ length: size, prot, flags: MAP_SHARED, fd, offset });
      mapped.mapping = { address: where, length: size };
      mapped.bytes = new Uint8Array(viewMemory(where, size));
      mapped.words = new Uint32Array(mapped.bytes.buffer, 0, size >>> 2);
    }
    this.#ranges.splice(at, 0, mapped);
  }

  /** Takes away all ranges within `size` bytes at `address`. Throws Error where one lies across an end, or none is there. */
  unmap(address: BusAddress, size: number): void {
    const end = address + size;
    const inside = this.#ranges.filter((range) => range.address >= address && range.end <= end);
    const across = this.#ranges.find((range) => range.address < end && range.end > address && !inside.includes(range));
    if (across)
      throw new Error(`${size} bytes at ${hex(address)}: the ${across.size} at ${hex(across.address)} lie across`);
    if (inside.length === 0) throw new Error(`${size} bytes at ${hex(address)} are not mapped`);
    for (const range of inside) this.#drop(range);
  }

  /** Takes away everything. */
  clear(): void {
    for (const range of [...this.#ranges]) this.#drop(range);
  }

  #drop(range: Mapped): void {
    this.#ranges.splice(this.#ranges.indexOf(range), 1);
    if (this.#last === range) this.#last = null;
    range.bytes = null;
    range.words = null;
    if (range.mapping) munmap(range.mapping.address, range.mapping.length);
  }

  /** See {@link HostBus.read}. */
  read(address: BusAddress, into: Uint8Array): boolean {
    for (let done = 0; done < into.length; ) {
      const range = this.#at(address + done);
      if (range === null || range.bytes === null || !range.readable) return false;
      const from = address + done - range.address;
      const part = Math.min(into.length - done, range.size - from);
      into.set(range.bytes.subarray(from, from + part), done);
      done += part;
    }
    return true;
  }

  /** See {@link HostBus.write}. */
  write(address: BusAddress, from: Uint8Array): boolean {
    // All of it or nothing: looked at first where it lies across ranges.
    for (let done = 0; done < from.length; ) {
      const range = this.#at(address + done);
      if (range === null || range.bytes === null || !range.writable) return false;
      done += range.end - (address + done);
    }
    for (let done = 0; done < from.length; ) {
      const range = this.#at(address + done)!;
      const to = address + done - range.address;
      const part = Math.min(from.length - done, range.size - to);
      range.bytes!.set(part === from.length ? from : from.subarray(done, done + part), to);
      done += part;
    }
    return true;
  }

  /** See {@link HostBus.writeWords}. */
  writeWords(address: BusAddress, words: Uint32Array, last: number): boolean {
    const range = this.#at(address);
    if (range === null || range.words === null || !range.writable) return false;
    const at = (address - range.address) / WORD_BYTES;
    if (!Number.isInteger(at) || at + words.length > range.words.length) return false;
    for (let i = 0; i < words.length; i++) if (i !== last) range.words[at + i] = words[i]!;
    Atomics.store(range.words, at + last, words[last]!);
    return true;
  }

  /** The range that holds an address; null when none does. */
  #at(address: BusAddress): Mapped | null {
    const last = this.#last;
    if (last !== null && address >= last.address && address < last.end) return last;
    const range = this.#ranges[this.#find(address + 1) - 1];
    if (range === undefined || address < range.address || address >= range.end) return null;
    this.#last = range;
    return range;
  }

  /** Index of the first range that begins at `address` or behind it. */
  #find(address: BusAddress): number {
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#ranges[middle]!.address < address) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

const hex = (n: number): string => `0x${n.toString(16)}`;
