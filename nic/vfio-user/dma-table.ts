/**
 * The memory of a vfio-user client, by bus address: what the device reaches. Ranges come with a file to map, or without: then
 * the client is asked for each access ({@link RemoteMemory}).
 *
 *     DMA_MAP ──► map() ──► read(), write() by bus address, across neighbours ──► unmap() or clear()
 *
 * A range is believed as far as its file goes (beyond its end there is SIGBUS). Files that can be sealed against shrinking
 * are; with others clients are trusted that far.
 */
import fs from 'node:fs';
import { EEXIST, EINVAL, ENOSPC } from '../../linux/errno.ts';
import { SystemError, viewMemory } from '../../linux/libc.ts';
import { MAP_SHARED, mmap, munmap, PAGE_SIZE, PROT_READ, PROT_WRITE, sealAgainstShrinking } from '../../linux/mman.ts';
import type { BusAddress } from '../model/host-bus.ts';
import { type DmaRange, VfioUserError } from './messages.ts';
import { askNobody, RemoteMemory } from './remote-memory.ts';

/**
 * Ranges at the most (`max_dma_maps`). A guest's IOMMU may map each page by itself; two clients in one process stay below the
 * 65,530 mappings that vm.max_map_count gives it.
 */
export const MAX_DMA_RANGES = 24_576;
/** Bytes mapped at the most, so that two clients leave the process most of its 128 TiB. */
export const MAX_MAPPED_BYTES = 2 ** 44;
const WORD_BYTES = 4;
const HUGETLBFS_MAGIC = 0x958458f6;

interface Mapped extends DmaRange {
  end: BusAddress;
  /** Null where there is no file. */
  bytes: Uint8Array | null;
  words: Uint32Array | null;
  mapping: { address: number; length: number } | null;
}

export class DmaTable {
  readonly #remote: RemoteMemory;
  /** By address. */
  #ranges: Mapped[] = [];
  #last: Mapped | null = null;
  #mappedBytes = 0;

  /** `remote` reaches ranges without a file. Default: nobody does. */
  constructor(remote: RemoteMemory = new RemoteMemory(askNobody)) {
    this.#remote = remote;
  }

  /** How many ranges there are. */
  get size(): number {
    return this.#ranges.length;
  }

  /**
   * Adds a range; `fd` is only looked at, null when none came. Throws {@link VfioUserError} for a range that is empty, overlaps
   * another, or goes beyond its file; nothing changes then.
   */
  map(range: DmaRange, fd: number | null): void {
    const { address, size, offset, readable, writable } = range;
    const end = address + size;
    const refuse = (why: string, errno = EINVAL): never => {
      throw new VfioUserError(`${describe(range)}: ${why}`, errno);
    };
    if (size === 0) refuse('there is nothing to map');
    for (const [what, value] of Object.entries({ address, size, offset })) {
      if (value % PAGE_SIZE !== 0) refuse(`${what} ${hex(value)} is no multiple of ${PAGE_SIZE}`);
    }
    if (!Number.isSafeInteger(end)) refuse('no memory is there');
    if (this.#ranges.length === MAX_DMA_RANGES) refuse(`all ${MAX_DMA_RANGES} ranges are taken`, ENOSPC);
    const at = this.#find(address);
    for (const other of [this.#ranges[at - 1], this.#ranges[at]]) {
      if (other && other.address < end && address < other.end) {
        refuse(`it overlaps the one of ${describe(other)}`, EEXIST);
      }
    }
    const mapped: Mapped = { ...range, end, bytes: null, words: null, mapping: null };
    if (fd !== null && (readable || writable)) this.#mapFile(mapped, fd, refuse);
    this.#ranges.splice(at, 0, mapped);
  }

  #mapFile(range: Mapped, fd: number, refuse: (why: string, errno?: number) => never): void {
    const { offset, size } = range;
    // Before it is measured: what is left of it afterwards stays.
    sealAgainstShrinking(fd);
    const stat = fs.fstatSync(fd);
    if (!stat.isFile()) refuse('its descriptor is no file that can be mapped; share the memory as a memfd or a file');
    if (offset + size > stat.size) refuse(`its file has ${stat.size} bytes, and it needs those up to ${offset + size}`);
    // A file of hugepages is mapped by these; QEMU cuts ranges (holes below 1 MiB) where it likes.
    const page = isHugetlbfs(fd) ? stat.blksize : PAGE_SIZE;
    const before = offset % page;
    const length = Math.ceil((before + size) / page) * page;
    if (this.#mappedBytes + length > MAX_MAPPED_BYTES) {
      refuse(`with ${this.#mappedBytes} mapped already, it goes beyond ${MAX_MAPPED_BYTES} bytes`, ENOSPC);
    }
    const prot = (range.readable ? PROT_READ : 0) | (range.writable ? PROT_WRITE : 0);
    try {
      const address = mmap({ length, prot, flags: MAP_SHARED, fd, offset: offset - before });
      range.mapping = { address, length };
      this.#mappedBytes += length;
      range.bytes = new Uint8Array(viewMemory(address + before, size));
      range.words = new Uint32Array(range.bytes.buffer, 0, size / WORD_BYTES);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      refuse(error.message, error.errno);
    }
  }

  /**
   * Takes away all ranges within `size` bytes at `address`; none is no error, as with VFIO_IOMMU_UNMAP_DMA: a guest's IOMMU
   * unmaps whatever may be there. Throws {@link VfioUserError} where one lies across an end; nothing changes then.
   */
  unmap(address: BusAddress, size: number): void {
    const end = address + size;
    const first = this.#find(address);
    const across = (range: Mapped | undefined): range is Mapped =>
      range !== undefined && range.address < end && range.end > address && (range.address < address || range.end > end);
    let last = first;
    while (last < this.#ranges.length && this.#ranges[last]!.end <= end) last++;
    for (const range of [this.#ranges[first - 1], this.#ranges[last]]) {
      if (across(range))
        throw new VfioUserError(`${describe({ address, size })}: ${describe(range)} lie across an end`);
    }
    for (const range of this.#ranges.splice(first, last - first)) this.#drop(range);
  }

  /** Takes away everything. */
  clear(): void {
    const ranges = this.#ranges;
    this.#ranges = [];
    for (const range of ranges) this.#drop(range);
  }

  #drop(range: Mapped): void {
    if (this.#last === range) this.#last = null;
    range.bytes = null;
    range.words = null;
    if (range.mapping === null) return;
    this.#mappedBytes -= range.mapping.length;
    munmap(range.mapping.address, range.mapping.length);
    range.mapping = null;
  }

  /** See {@link HostBus.read}. */
  read(address: BusAddress, into: Uint8Array): boolean {
    for (let done = 0; done < into.length; ) {
      const range = this.#at(address + done);
      if (range === null || !range.readable) return false;
      const from = address + done - range.address;
      const part = Math.min(into.length - done, range.size - from);
      if (range.bytes !== null) into.set(range.bytes.subarray(from, from + part), done);
      else if (!this.#remote.read(address + done, into.subarray(done, done + part))) return false;
      done += part;
    }
    return true;
  }

  /** See {@link HostBus.write}. */
  write(address: BusAddress, from: Uint8Array): boolean {
    // All of it or nothing: looked at first where it lies across ranges.
    for (let done = 0; done < from.length; ) {
      const range = this.#at(address + done);
      if (range === null || !range.writable) return false;
      done += range.end - (address + done);
    }
    for (let done = 0; done < from.length; ) {
      const range = this.#at(address + done)!;
      const to = address + done - range.address;
      const part = Math.min(from.length - done, range.size - to);
      const bytes = part === from.length ? from : from.subarray(done, done + part);
      if (range.bytes !== null) range.bytes.set(bytes, to);
      else if (!this.#remote.write(address + done, bytes)) return false;
      done += part;
    }
    return true;
  }

  /** See {@link HostBus.writeWords}. */
  writeWords(address: BusAddress, words: Uint32Array, last: number): boolean {
    const range = this.#at(address);
    if (range === null || !range.writable) return false;
    const at = (address - range.address) / WORD_BYTES;
    if (!Number.isInteger(at) || at + words.length > range.size / WORD_BYTES) return false;
    if (range.words === null) return this.#writeRemoteWords(address, words, last);
    for (let i = 0; i < words.length; i++) if (i !== last) range.words[at + i] = words[i]!;
    Atomics.store(range.words, at + last, words[last]!);
    return true;
  }

  /** One request after the other, of which each is answered before the next: the one for word `last` comes last. */
  #writeRemoteWords(address: BusAddress, words: Uint32Array, last: number): boolean {
    const bytes = new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
    const part = (first: number, end: number): boolean =>
      first === end ||
      this.#remote.write(address + first * WORD_BYTES, bytes.subarray(first * WORD_BYTES, end * WORD_BYTES));
    return part(0, last) && part(last + 1, words.length) && part(last, last + 1);
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

const isHugetlbfs = (fd: number): boolean => fs.statfsSync(`/proc/self/fd/${fd}`).type === HUGETLBFS_MAGIC;
const hex = (n: number): string => `0x${n.toString(16)}`;
const describe = ({ address, size }: { address: number; size: number }): string => `${size} bytes at ${hex(address)}`;
