/**
 * Memory that a client keeps to itself, as a lane sees it: address space of the same size here, which holds nothing until
 * it is asked for, and copies to and fro.
 *
 *     client   │ ring │      │ buffer │      │ buffer │      private to it
 *                 │ pull         │ pull          ▲ push      process_vm_readv(2), process_vm_writev(2)
 *                 ▼              ▼               │
 *     mirror   │ ring │      │ buffer │      │ buffer │      anonymous memory, pages that were touched
 *
 * The device side of a ring works on the mirror as it does on shared memory. Before it looks, what it looks at is pulled;
 * what it writes is pushed, data before the index that announces it. What is pulled is the client's word no more: nobody
 * else writes to the mirror, and what is there came from this client or went to it.
 *
 * One thread only. Hot: allocates nothing per copy.
 */
import { EFAULT, ESRCH } from '../linux/errno.ts';
import { close } from '../linux/file.ts';
import { type Address, addressOf } from '../linux/libc.ts';
import { MADV_DONTNEED, madvise, PAGE_SIZE } from '../linux/mman.ts';
import { POLLIN, PollSet } from '../linux/poll.ts';
import { IOVEC_BYTES, pidfdOpen, readVector, UIO_MAXIOV, type VectorCopy, writeVector } from '../linux/process.ts';

/** Pages of the mirror that may hold something, in bytes, before they are given back. */
const RESIDENT_BYTES = 2 ** 25;
/** A process is asked for whether it still is the one it was, after this many ms: its id could be another's. */
const LIVENESS_MS = 1;

const IOVEC_WORDS = IOVEC_BYTES / Uint32Array.BYTES_PER_ELEMENT;
const BASE_LOW = 0;
const BASE_HIGH = 1;
const LEN_LOW = 2;
const TWO_32 = 2 ** 32;

/** A range of the client, and where it is mirrored: the same number of bytes, congruent modulo a page. */
export interface MirrorRange {
  userAddress: number;
  address: Address;
  length: number;
}

interface Part extends MirrorRange {
  /** 1 for each page that may hold something. */
  touched: Uint8Array;
}

/** Pages that stay: rings. */
interface Kept {
  start: Address;
  end: Address;
}

export class Mirror {
  readonly pid: number;
  /** Copies from the client. Whoever notes some runs them at once. */
  readonly pulls: Transfer;
  /** How often pages were given back: what was pulled before is not there any more. */
  trims = 0;
  /** Parties that hold frames which lie in the mirror, or copies that wait to be made. */
  users = 0;
  /** Why nothing is copied any more: the process has ended. */
  gone = false;
  /** Why a copy failed last: an errno, and the client's address. */
  errno = 0;
  faultAddress = 0;
  readonly #parts: Part[];
  readonly #kept: Kept[] = [];
  readonly #residentBytes: number;
  #last: Part;
  #touchedBytes = 0;
  #pidfd: number;
  readonly #poll = new PollSet();
  #checkedAt = Number.NEGATIVE_INFINITY;

  /**
   * Of one range at least, of process `pid` (the id of the whole process, not of a thread); `residentBytes` for tests.
   * Throws SystemError when there is no such process.
   */
  constructor(pid: number, ranges: MirrorRange[], residentBytes = RESIDENT_BYTES) {
    this.pid = pid;
    this.#pidfd = pidfdOpen(pid);
    this.#poll.add(this.#pidfd, POLLIN);
    this.#parts = ranges.map((range) => ({
      ...range,
      touched: new Uint8Array(Math.ceil(range.length / PAGE_SIZE) + 1),
    }));
    this.#last = this.#parts[0]!;
    this.#residentBytes = residentBytes;
    this.pulls = new Transfer(this, readVector);
  }

  /** Whether the byte at an address here mirrors one of the client. */
  holds(address: Address): boolean {
    return this.#find(address) !== undefined;
  }

  /** The client's address of one here that {@link holds} is true for. */
  userAddress(address: Address): number {
    const part = this.#find(address)!;
    return part.userAddress + (address - part.address);
  }

  #find(address: Address): Part | undefined {
    const last = this.#last;
    if (address >= last.address && address < last.address + last.length) return last;
    for (const part of this.#parts) {
      if (address < part.address || address >= part.address + part.length) continue;
      this.#last = part;
      return part;
    }
    return undefined;
  }

  /** Notes in `transfer` the copy of a range here: of what is mirrored of it. */
  note(transfer: Transfer, address: Address, length: number): void {
    const last = this.#last;
    if (address >= last.address && address + length <= last.address + last.length) {
      this.#note(transfer, last, address, length);
      return;
    }
    for (const part of this.#parts) {
      const start = Math.max(address, part.address);
      const end = Math.min(address + length, part.address + part.length);
      if (start >= end) continue;
      this.#last = part;
      this.#note(transfer, part, start, end - start);
    }
  }

  #note(transfer: Transfer, part: Part, address: Address, length: number): void {
    const { touched } = part;
    const offset = address - part.address;
    const end = Math.floor((offset + length - 1) / PAGE_SIZE);
    for (let page = Math.floor(offset / PAGE_SIZE); page <= end; page++) {
      if (touched[page] !== 0) continue;
      touched[page] = 1;
      this.#touchedBytes += PAGE_SIZE;
    }
    transfer.addPair(address, part.userAddress + offset, length);
  }

  /** Pages of this range are never given back: they hold a ring. */
  keep(address: Address, length: number): void {
    const start = Math.floor(address / PAGE_SIZE) * PAGE_SIZE;
    const end = Math.ceil((address + length) / PAGE_SIZE) * PAGE_SIZE;
    if (this.#kept.some((one) => one.start === start && one.end === end)) return;
    this.#kept.push({ start, end });
    this.#kept.sort((a, b) => a.start - b.start);
  }

  /** Bytes that the mirror may hold now. */
  get touchedBytes(): number {
    return this.#touchedBytes;
  }

  /** Gives pages back when many hold something and nobody uses them. Between batches. */
  trim(): void {
    if (this.#touchedBytes <= this.#residentBytes || this.users > 0) return;
    this.#touchedBytes = 0;
    this.trims++;
    for (const part of this.#parts) {
      part.touched.fill(0);
      const end = part.address + part.length;
      let at = part.address;
      for (const { start, end: keptEnd } of this.#kept) {
        if (keptEnd <= at || start >= end) continue;
        if (start > at) madvise(at, start - at, MADV_DONTNEED);
        at = keptEnd;
      }
      if (at < end) madvise(at, end - at, MADV_DONTNEED);
    }
  }

  /** Whether the process is still there. False for ever after. */
  alive(): boolean {
    if (this.gone) return false;
    const now = performance.now();
    if (now - this.#checkedAt < LIVENESS_MS) return true;
    this.#checkedAt = now;
    // A pidfd becomes readable when its process ends.
    if (this.#poll.wait(0) > 0) this.gone = true;
    return !this.gone;
  }

  /** Lets go of the process; the mirror's memory is its maker's. */
  close(): void {
    this.gone = true;
    if (this.#pidfd < 0) return;
    close(this.#pidfd);
    this.#pidfd = -1;
  }
}

/**
 * Copies in one direction between a mirror and its client, noted one by one and made together: one system call for up to
 * UIO_MAXIOV ranges, in the order in which they were noted.
 */
export class Transfer {
  readonly #mirror: Mirror;
  readonly #copy: VectorCopy;
  readonly #local = new Uint32Array(new ArrayBuffer(UIO_MAXIOV * IOVEC_BYTES));
  readonly #remote = new Uint32Array(new ArrayBuffer(UIO_MAXIOV * IOVEC_BYTES));
  readonly #localAddress = addressOf(this.#local);
  readonly #remoteAddress = addressOf(this.#remote);
  #count = 0;
  #bytes = 0;
  /** Where a range would have to begin to continue the last one. */
  #localEnd = 0;
  #remoteEnd = 0;
  #failed = false;

  constructor(mirror: Mirror, copy: VectorCopy) {
    this.#mirror = mirror;
    this.#copy = copy;
  }

  /** Copies to the client of this mirror. They count as a user of it until they have been made. */
  static pushes(mirror: Mirror): Transfer {
    return new Transfer(mirror, writeVector);
  }

  /** Notes the copy of a range here, of what is mirrored of it. */
  add(address: Address, length: number): void {
    this.#mirror.note(this, address, length);
  }

  /** Notes the copy of any range here from or to any range of the client. */
  addPair(address: Address, userAddress: number, length: number): void {
    if (this.#count > 0 && address === this.#localEnd && userAddress === this.#remoteEnd) {
      const at = (this.#count - 1) * IOVEC_WORDS + LEN_LOW;
      this.#local[at] = this.#local[at]! + length;
      this.#remote[at] = this.#local[at]!;
    } else {
      if (this.#count === UIO_MAXIOV) this.#flush();
      if (this.#count === 0) this.#mirror.users++;
      const at = this.#count++ * IOVEC_WORDS;
      this.#local[at + BASE_LOW] = address % TWO_32;
      this.#local[at + BASE_HIGH] = address / TWO_32;
      this.#local[at + LEN_LOW] = length;
      this.#remote[at + BASE_LOW] = userAddress % TWO_32;
      this.#remote[at + BASE_HIGH] = userAddress / TWO_32;
      this.#remote[at + LEN_LOW] = length;
    }
    this.#bytes += length;
    this.#localEnd = address + length;
    this.#remoteEnd = userAddress + length;
  }

  /** What is noted next is a range of its own, though it may continue the last one: it shall be written behind it. */
  split(): void {
    this.#localEnd = 0;
  }

  /** Makes the copies noted. False: not all could be made, see the mirror's `errno`, or `gone` when the client is. */
  run(): boolean {
    this.#flush();
    const failed = this.#failed;
    this.#failed = false;
    return !failed;
  }

  #flush(): void {
    const count = this.#count;
    if (count === 0) return;
    const bytes = this.#bytes;
    this.#count = 0;
    this.#bytes = 0;
    const mirror = this.#mirror;
    mirror.users--;
    // What depends on a copy that failed must not be announced by one that follows.
    if (this.#failed) return;
    const done = mirror.alive() ? this.#copy(mirror.pid, this.#localAddress, this.#remoteAddress, count) : -ESRCH;
    if (done === bytes) return;
    this.#failed = true;
    mirror.errno = done < 0 ? -done : EFAULT;
    if (mirror.errno === ESRCH) mirror.gone = true;
    mirror.faultAddress = this.#rangeAt(Math.max(done, 0), count);
  }

  /** The client's address of the range that begins after `bytes` bytes: the first that was not copied. */
  #rangeAt(bytes: number, count: number): number {
    let before = 0;
    let i = 0;
    while (i < count - 1 && before + this.#remote[i * IOVEC_WORDS + LEN_LOW]! <= bytes) {
      before += this.#remote[i * IOVEC_WORDS + LEN_LOW]!;
      i++;
    }
    const at = i * IOVEC_WORDS;
    return this.#remote[at + BASE_HIGH]! * TWO_32 + this.#remote[at + BASE_LOW]!;
  }
}
