/**
 * The driver side of a split virtqueue (virtio 1.2 §2.7), plain and slow, and the guest memory that it lives in.
 *
 * It shares no code with vhost/: layouts and rules are written down here a second time, from the specification. Numbers
 * are unbounded counters wherever the ring itself counts modulo 2^16, so that wrap-around is nobody's assumption.
 */
import { close } from '../../linux/file.ts';
import { viewMemory } from '../../linux/libc.ts';
import {
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MAP_SHARED,
  memfd,
  mmap,
  munmap,
  PROT_READ,
  PROT_WRITE,
} from '../../linux/mman.ts';
import type { Arena } from '../../memory/arena.ts';
import type { ClientMemory } from '../../memory/client-memory.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import type { RingDescription } from '../../vhost/virtqueue.ts';
import { ARENAS, wasmArena } from './arenas.ts';

const PAGE = 4096;
/** `<sys/mman.h>`. */
const MAP_FIXED_NOREPLACE = 0x10_0000;

// §2.7.5: struct virtq_desc { le64 addr; le32 len; le16 flags; le16 next; }
const DESC_SIZE = 16;
const DESC_LEN_AT = 8;
const DESC_FLAGS_AT = 12;
const DESC_NEXT_AT = 14;
export const F_NEXT = 1;
export const F_WRITE = 2;
export const F_INDIRECT = 4;
// §2.7.6: struct virtq_avail { le16 flags; le16 idx; le16 ring[]; le16 used_event; }
const AVAIL_IDX_AT = 2;
const AVAIL_RING_AT = 4;
const AVAIL_ENTRY_SIZE = 2;
const AVAIL_F_NO_INTERRUPT = 1;
// §2.7.8: struct virtq_used { le16 flags; le16 idx; struct { le32 id; le32 len; } ring[]; le16 avail_event; }
const USED_IDX_AT = 2;
const USED_RING_AT = 4;
const USED_ENTRY_SIZE = 8;
const USED_LEN_AT = 4;
const USED_F_NO_NOTIFY = 1;
const EVENT_SIZE = 2;
const INDEX_MODULUS = 0x10000;

// Feature bits (§5.1.3, §6).
export const MRG_RXBUF = 1n << 15n;
export const NOTIFY_ON_EMPTY = 1n << 24n;
export const ANY_LAYOUT = 1n << 27n;
export const INDIRECT_DESC = 1n << 28n;
export const EVENT_IDX = 1n << 29n;
export const VERSION_1 = 1n << 32n;
export const IN_ORDER = 1n << 35n;

/** A piece of guest-physical memory, and where the client (QEMU, say) has it; all in bytes. */
export interface TestRegion {
  guestAddress: number;
  size: number;
  userAddress: number;
  /** Bytes shared around the region though no region names them: a write into them is a write out of bounds. */
  canary?: number;
}

interface Mapped extends TestRegion {
  /** -1 for memory that is private to this process, which stands where the client has it. */
  fd: number;
  address: number;
  mappedBytes: number;
  canary: number;
  /** The region and its canaries. */
  all: Uint8Array;
  view: DataView;
  /** Its 16-bit words: what the other side may look at any time is read and written in one piece. */
  halves: Uint16Array;
}

export const CANARY_BYTE = 0xc5;

/** Which of a guest's regions, by number, are private to the client. */
export type PrivateRegions = (region: number) => boolean;

/** Kinds of memory, for suites that must hold over all of them: arenas for shared memory, and memory that is not. */
export const MEMORIES: { name: string; arena: () => Arena; isPrivate?: PrivateRegions }[] = [
  ...ARENAS,
  { name: 'over private memory', arena: wasmArena, isPrivate: () => true },
  { name: 'over private, then shared memory', arena: wasmArena, isPrivate: (region) => region === 0 },
  { name: 'over shared, then private memory', arena: wasmArena, isPrivate: (region) => region !== 0 },
];

/**
 * Guest memory of one or more regions, each a memfd of its own or private to this process, as driver and client see it.
 */
export class TestGuest {
  /** What a device fetches of it. */
  readonly client: ClientMemory;
  readonly #regions: Mapped[];
  readonly #devices: GuestMemory[] = [];

  constructor(regions: TestRegion[], isPrivate: PrivateRegions = () => false) {
    this.#regions = regions.map((region, i) => {
      const canary = region.canary ?? 0;
      const mappedBytes = Math.ceil((region.size + 2 * canary) / PAGE) * PAGE;
      const mapping = { length: mappedBytes, prot: PROT_READ | PROT_WRITE };
      const fd = isPrivate(i) ? -1 : memfd('test-guest', mappedBytes);
      const address =
        fd >= 0
          ? mmap({ ...mapping, flags: MAP_SHARED, fd })
          : mmap({
              ...mapping,
              address: region.userAddress - canary,
              flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
            });
      const bytes = viewMemory(address, mappedBytes);
      const all = new Uint8Array(bytes);
      all.fill(CANARY_BYTE, 0, canary);
      all.fill(CANARY_BYTE, canary + region.size);
      const view = new DataView(bytes, canary, region.size);
      const halves = new Uint16Array(bytes, canary, region.size >> 1);
      return { ...region, canary, fd, address, mappedBytes, all, view, halves };
    });
    const area = ({ userAddress, canary, mappedBytes }: Mapped) => ({
      userAddress: userAddress - canary,
      length: mappedBytes,
    });
    const copied = this.#regions.filter(({ fd }) => fd < 0).map(area);
    this.client = {
      regions: regions.map(({ guestAddress, size, userAddress }) => ({ guestAddress, size, userAddress })),
      areas: this.#regions.filter(({ fd }) => fd >= 0).map((one) => ({ ...area(one), fd: one.fd, offset: 0 })),
      ...(copied.length > 0 ? { copied: { pid: process.pid, areas: copied } } : {}),
    };
  }

  /** A device's mapping of it. Lives until {@link dispose}. */
  map(arena: Arena = wasmArena()): GuestMemory {
    const memory = new GuestMemory(this.client, arena);
    this.#devices.push(memory);
    return memory;
  }

  #at(guestAddress: number): { region: Mapped; offset: number } {
    for (const region of this.#regions) {
      const offset = guestAddress - region.guestAddress;
      if (offset >= 0 && offset < region.size) return { region, offset };
    }
    throw new Error(`test guest: no memory at 0x${guestAddress.toString(16)}`);
  }

  /** The client's address of a guest address. */
  user(guestAddress: number): number {
    const { region, offset } = this.#at(guestAddress);
    return region.userAddress + offset;
  }

  write(guestAddress: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const { region, offset } = this.#at(guestAddress + done);
      const n = Math.min(bytes.length - done, region.size - offset);
      region.all.set(bytes.subarray(done, done + n), region.canary + offset);
      done += n;
    }
  }

  read(guestAddress: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const { region, offset } = this.#at(guestAddress + done);
      const n = Math.min(length - done, region.size - offset);
      bytes.set(region.all.subarray(region.canary + offset, region.canary + offset + n), done);
      done += n;
    }
    return bytes;
  }

  read16(guestAddress: number): number {
    const { region, offset } = this.#at(guestAddress);
    return offset % 2 === 0 ? Atomics.load(region.halves, offset / 2) : region.view.getUint16(offset, true);
  }

  read32(guestAddress: number): number {
    const { region, offset } = this.#at(guestAddress);
    return region.view.getUint32(offset, true);
  }

  write16(guestAddress: number, value: number): void {
    const { region, offset } = this.#at(guestAddress);
    if (offset % 2 === 0) Atomics.store(region.halves, offset / 2, value);
    else region.view.setUint16(offset, value, true);
  }

  write32(guestAddress: number, value: number): void {
    const { region, offset } = this.#at(guestAddress);
    region.view.setUint32(offset, value, true);
  }

  write64(guestAddress: number, value: bigint): void {
    const { region, offset } = this.#at(guestAddress);
    region.view.setBigUint64(offset, value, true);
  }

  /** Whether nobody wrote around the regions. */
  get canariesAlive(): boolean {
    return this.#regions.every(
      ({ all, canary, size }) =>
        all.subarray(0, canary).every((byte) => byte === CANARY_BYTE) &&
        all.subarray(canary + size).every((byte) => byte === CANARY_BYTE),
    );
  }

  dispose(): void {
    for (const memory of this.#devices.splice(0)) memory.unmap();
    for (const { fd, address, mappedBytes } of this.#regions.splice(0)) {
      munmap(address, mappedBytes);
      if (fd >= 0) close(fd);
    }
  }
}

/** One buffer of a chain, by guest address. */
export interface TestBuffer {
  address: number;
  length: number;
}

/** A descriptor as raw as it gets, for hostile tests. */
export interface RawDescriptor {
  addr?: bigint;
  len?: number;
  flags?: number;
  next?: number;
}

/** A chain that the device has used. */
export interface UsedChain {
  head: number;
  /** Bytes written, as the device says. */
  length: number;
  buffers: TestBuffer[];
}

export interface DriverOptions {
  num: number;
  /** Features negotiated: INDIRECT_DESC, EVENT_IDX and IN_ORDER matter to the driver, the others travel to the device. */
  features: bigint;
  /** Guest address where the ring's parts go, one after the other. */
  at: number;
  /** Where the avail ring's (and used ring's) index starts; the device starts there too. */
  base?: number;
  usedBase?: number;
}

/** Bytes that a driver's ring takes at its place. */
export function driverRingBytes(num: number): number {
  return align(num * DESC_SIZE, 2) + align(6 + 2 * num, 4) + 6 + 8 * num;
}

const align = (n: number, to: number): number => Math.ceil(n / to) * to;

export class SplitDriver {
  readonly num: number;
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
  readonly end: number;
  readonly #guest: TestGuest;
  readonly #features: bigint;
  /** Chains made available, and of those the ones announced in avail.idx; from the ring's base on, never wrapped. */
  #added: number;
  #announced: number;
  #reclaimed: number;
  readonly #free: number[];
  readonly #chains = new Map<number, { descriptors: number[]; buffers: TestBuffer[] }>();

  constructor(guest: TestGuest, { num, features, at, base = 0, usedBase = base }: DriverOptions) {
    this.#guest = guest;
    this.#features = features;
    this.num = num;
    this.desc = at;
    this.avail = align(this.desc + num * DESC_SIZE, 2);
    this.used = align(this.avail + AVAIL_RING_AT + num * AVAIL_ENTRY_SIZE + EVENT_SIZE, 4);
    this.end = this.used + USED_RING_AT + num * USED_ENTRY_SIZE + EVENT_SIZE;
    this.#added = base;
    this.#announced = base;
    this.#reclaimed = usedBase;
    this.#free = Array.from({ length: num }, (_, i) => i);
    guest.write16(this.avail, 0);
    guest.write16(this.avail + AVAIL_IDX_AT, base % INDEX_MODULUS);
    guest.write16(this.used, 0);
    guest.write16(this.used + USED_IDX_AT, usedBase % INDEX_MODULUS);
  }

  get eventIdx(): boolean {
    return (this.#features & EVENT_IDX) !== 0n;
  }

  get freeDescriptors(): number {
    return this.#free.length;
  }

  /** Chains that the device has not used yet. */
  get outstanding(): number {
    return this.#chains.size;
  }

  /** avail.idx as announced, not wrapped. */
  get announced(): number {
    return this.#announced;
  }

  /** What the device needs to know. */
  description(changes: Partial<RingDescription> = {}): RingDescription {
    const { desc, avail, used, num } = this;
    const addresses = {
      desc: this.#guest.user(desc),
      avail: this.#guest.user(avail),
      used: this.#guest.user(used),
    };
    const base = this.#added % INDEX_MODULUS;
    return { addresses, num, base, features: this.#features, kick: -1, call: -1, err: -1, ...changes };
  }

  // ---- making buffers available (§2.7.13)

  /** Puts a chain of buffers into descriptors and its head into the avail ring; {@link announce} shows it. */
  add(buffers: TestBuffer[], writable: boolean): number {
    const descriptors = this.#take(buffers.length);
    const direction = writable ? F_WRITE : 0;
    for (const [i, { address, length }] of buffers.entries()) {
      const next = descriptors[i + 1];
      this.pokeDescriptor(descriptors[i]!, {
        addr: BigInt(address),
        len: length,
        flags: direction | (next === undefined ? 0 : F_NEXT),
        next: next ?? 0,
      });
    }
    return this.#makeAvailable(descriptors, buffers);
  }

  /** The same through an indirect table (§2.7.5.3) at `table`, after `direct` buffers in the ring's own descriptors. */
  addIndirect(buffers: TestBuffer[], writable: boolean, table: number, direct = 0): number {
    const descriptors = this.#take(direct + 1);
    const direction = writable ? F_WRITE : 0;
    for (const [i, { address, length }] of buffers.slice(0, direct).entries()) {
      const next = descriptors[i + 1]!;
      this.pokeDescriptor(descriptors[i]!, { addr: BigInt(address), len: length, flags: direction | F_NEXT, next });
    }
    const indirect = buffers.slice(direct);
    for (const [i, { address, length }] of indirect.entries()) {
      const last = i === indirect.length - 1;
      this.#pokeAt(table + i * DESC_SIZE, {
        addr: BigInt(address),
        len: length,
        flags: direction | (last ? 0 : F_NEXT),
        next: last ? 0 : i + 1,
      });
    }
    this.pokeDescriptor(descriptors[direct]!, {
      addr: BigInt(table),
      len: indirect.length * DESC_SIZE,
      flags: F_INDIRECT,
    });
    return this.#makeAvailable(descriptors, buffers);
  }

  #take(count: number): number[] {
    if (count > this.#free.length)
      throw new Error(`test driver: ${count} descriptors wanted, ${this.#free.length} free`);
    return this.#free.splice(0, count);
  }

  #makeAvailable(descriptors: number[], buffers: TestBuffer[]): number {
    const head = descriptors[0]!;
    this.#chains.set(head, { descriptors, buffers });
    this.pokeAvail(this.#added, head);
    this.#added++;
    return head;
  }

  /** Stores avail.idx: the device may take what was added. True when the device must be kicked (§2.7.13.4). */
  announce(): boolean {
    const old = this.#announced;
    this.#announced = this.#added;
    this.#guest.write16(this.avail + AVAIL_IDX_AT, this.#added % INDEX_MODULUS);
    if (!this.eventIdx) return (this.#guest.read16(this.used) & USED_F_NO_NOTIFY) === 0;
    const availEvent = this.#guest.read16(this.used + USED_RING_AT + this.num * USED_ENTRY_SIZE);
    return crosses(availEvent, old, this.#announced);
  }

  // ---- taking back what the device used (§2.7.14)

  /**
   * Chains used since the last time, in the order of the used ring. With VIRTIO_F_IN_ORDER an entry stands for all
   * chains up to its own (§2.7.9): the next one is as many entries further, and the skipped chains have no length.
   */
  reclaim(): UsedChain[] {
    const used: UsedChain[] = [];
    const idx = this.#guest.read16(this.used + USED_IDX_AT);
    while (this.#reclaimed % INDEX_MODULUS !== idx) {
      const at = this.used + USED_RING_AT + (this.#reclaimed % this.num) * USED_ENTRY_SIZE;
      const head = this.#guest.read32(at);
      const length = this.#guest.read32(at + USED_LEN_AT);
      for (const done of this.#upTo(head)) {
        const chain = this.#chains.get(done);
        if (!chain) throw new Error(`test driver: the device used chain ${done}, which was not available`);
        this.#chains.delete(done);
        this.#free.push(...chain.descriptors);
        used.push({ head: done, length: done === head ? length : 0, buffers: chain.buffers });
        this.#reclaimed++;
      }
    }
    return used;
  }

  #upTo(head: number): number[] {
    if ((this.#features & IN_ORDER) === 0n) return [head];
    const heads = [...this.#chains.keys()];
    return this.#chains.has(head) ? heads.slice(0, heads.indexOf(head) + 1) : [head];
  }

  /** The bytes that the device wrote into a chain. */
  contents({ length, buffers }: UsedChain): Uint8Array {
    const bytes = new Uint8Array(length);
    let done = 0;
    for (const buffer of buffers) {
      const n = Math.min(buffer.length, length - done);
      bytes.set(this.#guest.read(buffer.address, n), done);
      done += n;
    }
    if (done < length) throw new Error(`test driver: the device says ${length} bytes, the chain has ${done}`);
    return bytes;
  }

  // ---- calls (§2.7.7)

  /** VIRTQ_AVAIL_F_NO_INTERRUPT, without VIRTIO_F_EVENT_IDX. */
  setNoInterrupt(on: boolean): void {
    this.#guest.write16(this.avail, on ? AVAIL_F_NO_INTERRUPT : 0);
  }

  /** used_event: call when the used entry of this number (modulo 2^16) is written. */
  setUsedEvent(index: number): void {
    this.#guest.write16(this.avail + AVAIL_RING_AT + this.num * AVAIL_ENTRY_SIZE, index % INDEX_MODULUS);
  }

  // ---- anything at all, for hostile tests

  pokeDescriptor(index: number, descriptor: RawDescriptor): void {
    this.#pokeAt(this.desc + index * DESC_SIZE, descriptor);
  }

  /** A descriptor of an indirect table at guest address `table`. */
  pokeIndirect(table: number, index: number, descriptor: RawDescriptor): void {
    this.#pokeAt(table + index * DESC_SIZE, descriptor);
  }

  #pokeAt(at: number, { addr = 0n, len = 0, flags = 0, next = 0 }: RawDescriptor): void {
    this.#guest.write64(at, addr);
    this.#guest.write32(at + DESC_LEN_AT, len);
    this.#guest.write16(at + DESC_FLAGS_AT, flags);
    this.#guest.write16(at + DESC_NEXT_AT, next);
  }

  pokeAvail(entry: number, head: number): void {
    this.#guest.write16(this.avail + AVAIL_RING_AT + (entry % this.num) * AVAIL_ENTRY_SIZE, head);
  }

  pokeAvailIdx(idx: number): void {
    this.#guest.write16(this.avail + AVAIL_IDX_AT, idx % INDEX_MODULUS);
  }

  get usedIdx(): number {
    return this.#guest.read16(this.used + USED_IDX_AT);
  }

  /** A used entry as it stands there, by its number (modulo the ring's size). */
  usedEntry(entry: number): { id: number; length: number } {
    const at = this.used + USED_RING_AT + (entry % this.num) * USED_ENTRY_SIZE;
    return { id: this.#guest.read32(at), length: this.#guest.read32(at + USED_LEN_AT) };
  }
}

/** vring_need_event() by its meaning: some index written in [from, to), counted without end, is `event` modulo 2^16. */
export function crosses(event: number, from: number, to: number): boolean {
  for (let index = from; index < to; index++) if (index % INDEX_MODULUS === event) return true;
  return false;
}
