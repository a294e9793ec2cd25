/**
 * The driver side of a packed virtqueue (virtio 1.2 §2.8), plain and slow.
 *
 * It shares no code with vhost/: layouts and rules are written down here a second time, from the specification. Places in
 * the ring are unbounded counters of descriptors, from which index and wrap counter follow, so that nobody's wrap-around
 * is assumed.
 */
import type { RingDescription } from '../../vhost/virtqueue.ts';
import { EVENT_IDX, F_INDIRECT, F_NEXT, F_WRITE, IN_ORDER, type TestBuffer, type TestGuest } from './split-driver.ts';

// §2.8.13: struct pvirtq_desc { le64 addr; le32 len; le16 id; le16 flags; }
const DESC_SIZE = 16;
const DESC_LEN_AT = 8;
const DESC_ID_AT = 12;
const DESC_FLAGS_AT = 14;
export const F_AVAIL = 1 << 7;
export const F_USED = 1 << 15;
// §2.8.14: struct pvirtq_event_suppress { le16 desc_event_off : 15, desc_event_wrap : 1; le16 flags : 2, reserved : 14; }
const EVENT_SIZE = 4;
const EVENT_FLAGS_AT = 2;
export const EVENT_ENABLE = 0;
export const EVENT_DISABLE = 1;
export const EVENT_DESC = 2;

export const RING_PACKED = 1n << 34n;

/** Ids are any 16 bits; an odd step visits them all before one comes again. */
const ID_STEP = 40_503;

/** A descriptor as raw as it gets, for hostile tests. */
export interface RawPackedDescriptor {
  addr?: bigint;
  len?: number;
  id?: number;
  flags?: number;
}

/** A chain that the device has used. */
export interface UsedPackedChain {
  id: number;
  /** Bytes written, as the device says; 0 where it says nothing (§2.8.4). */
  length: number;
  buffers: TestBuffer[];
}

export interface PackedDriverOptions {
  num: number;
  /** Features negotiated: EVENT_IDX and IN_ORDER matter to the driver, the others travel to the device. */
  features: bigint;
  /** Guest address where the ring's parts go, one after the other; a multiple of 16. */
  at: number;
  /** How many descriptors have been made available and used before. */
  start?: number;
}

/** Bytes that a driver's ring takes at its place. */
export function packedRingBytes(num: number): number {
  return num * DESC_SIZE + 2 * EVENT_SIZE;
}

/** The wrap counter at a place: 1 in the first lap (§2.8.1). */
export function wrapAt(place: number, num: number): number {
  return 1 - (Math.floor(place / num) % 2);
}

/** 15 bits of index and the wrap counter, as in event suppression and in the base of a ring. */
export function placeWord(place: number, num: number): number {
  return (place % num) + 0x8000 * wrapAt(place, num);
}

interface Chain {
  id: number;
  descriptors: number;
  buffers: TestBuffer[];
}

export class PackedDriver {
  readonly num: number;
  readonly desc: number;
  readonly driverEvent: number;
  readonly deviceEvent: number;
  readonly end: number;
  readonly #guest: TestGuest;
  readonly #features: bigint;
  /** Descriptors filled, of those the ones shown to the device, and of those the ones it has used. */
  #added: number;
  #announced: number;
  #reclaimed: number;
  #nextId = 0x1234;
  /** Chains that the device has not used yet, in order. */
  readonly #chains: Chain[] = [];
  /** Flags of the heads that wait for {@link announce}: without them a chain is not available. */
  readonly #heads: { place: number; flags: number }[] = [];

  constructor(guest: TestGuest, { num, features, at, start = 0 }: PackedDriverOptions) {
    this.#guest = guest;
    this.#features = features | RING_PACKED;
    this.num = num;
    this.desc = at;
    this.driverEvent = at + num * DESC_SIZE;
    this.deviceEvent = this.driverEvent + EVENT_SIZE;
    this.end = this.deviceEvent + EVENT_SIZE;
    this.#added = start;
    this.#announced = start;
    this.#reclaimed = start;
    guest.write(at, new Uint8Array(packedRingBytes(num)));
    // A ring that was in use: what the last lap left in each descriptor is used.
    for (let place = start - num; place < start; place++) {
      if (place >= 0) this.pokeDescriptor(place, { flags: this.usedFlags(place) });
    }
  }

  /** Flags that make a descriptor available, or used, at a place (§2.8.1). */
  availableFlags(place: number): number {
    return wrapAt(place, this.num) === 1 ? F_AVAIL : F_USED;
  }

  usedFlags(place: number): number {
    return wrapAt(place, this.num) === 1 ? F_AVAIL | F_USED : 0;
  }

  get freeDescriptors(): number {
    return this.num - (this.#added - this.#reclaimed);
  }

  /** Chains that the device has not used yet. */
  get outstanding(): number {
    return this.#chains.length;
  }

  get added(): number {
    return this.#added;
  }

  get announced(): number {
    return this.#announced;
  }

  /** What the device needs to know. */
  description(changes: Partial<RingDescription> = {}): RingDescription {
    const { desc, driverEvent, deviceEvent, num } = this;
    const addresses = {
      desc: this.#guest.user(desc),
      avail: this.#guest.user(driverEvent),
      used: this.#guest.user(deviceEvent),
    };
    const word = placeWord(this.#announced, num);
    const base = word * 0x10000 + word;
    return { addresses, num, base, features: this.#features, kick: -1, call: -1, err: -1, ...changes };
  }

  // ---- making buffers available (§2.8.21)

  /** Puts a chain of buffers into descriptors; {@link announce} shows it. Gives its buffer id. */
  add(buffers: TestBuffer[], writable: boolean): number {
    return this.#add(buffers, buffers.length, writable, null);
  }

  /** The same through an indirect table (§2.8.7) at `table`, after `direct` buffers in the ring's own descriptors. */
  addIndirect(buffers: TestBuffer[], writable: boolean, table: number, direct = 0): number {
    return this.#add(buffers, direct, writable, table);
  }

  #add(buffers: TestBuffer[], direct: number, writable: boolean, table: number | null): number {
    const count = table === null ? direct : direct + 1;
    if (count > this.freeDescriptors) {
      throw new Error(`test driver: ${count} descriptors wanted, ${this.freeDescriptors} free`);
    }
    const id = this.#nextId;
    this.#nextId = (this.#nextId + ID_STEP) & 0xffff;
    const direction = writable ? F_WRITE : 0;
    for (let i = 0; i < count; i++) {
      const place = this.#added + i;
      const last = i === count - 1;
      const owner = this.availableFlags(place);
      let descriptor: Required<RawPackedDescriptor>;
      if (i < direct) {
        const { address, length } = buffers[i]!;
        const flags = owner | direction | (last ? 0 : F_NEXT);
        // The id counts in the last descriptor alone (§2.8.6).
        descriptor = { addr: BigInt(address), len: length, id: last ? id : id ^ 0x5555, flags };
      } else {
        const indirect = buffers.slice(direct);
        // Nothing but address, length and WRITE means anything in a table (§2.8.7): the rest is made up.
        for (const [n, { address, length }] of indirect.entries()) {
          const flags = direction | ((n % 2) * F_NEXT) | ((n % 3) * F_AVAIL);
          this.pokeIndirect(table!, n, { addr: BigInt(address), len: length, id: n, flags });
        }
        descriptor = { addr: BigInt(table!), len: indirect.length * DESC_SIZE, id, flags: owner | F_INDIRECT };
      }
      if (i > 0) this.pokeDescriptor(place, descriptor);
      else {
        this.#heads.push({ place, flags: descriptor.flags });
        const { flags: _, ...rest } = descriptor;
        this.#pokeAllButFlags(place, rest);
      }
    }
    this.#added += count;
    this.#chains.push({ id, descriptors: count, buffers });
    return id;
  }

  /** Makes available what was added, head by head. True when the device must be kicked (§2.8.21.3.2). */
  announce(): boolean {
    for (const { place, flags } of this.#heads.splice(0)) this.pokeFlags(place, flags);
    const from = this.#announced;
    this.#announced = this.#added;
    const { flags, word } = this.deviceWish;
    if (flags !== EVENT_DESC) return flags === EVENT_ENABLE;
    if ((this.#features & EVENT_IDX) === 0n) throw new Error('test driver: RING_EVENT_FLAGS_DESC without EVENT_IDX');
    return passes(word, from, this.#announced, this.num);
  }

  /** The device's event suppression as it stands there. */
  get deviceWish(): { flags: number; word: number } {
    return {
      flags: this.#guest.read16(this.deviceEvent + EVENT_FLAGS_AT),
      word: this.#guest.read16(this.deviceEvent),
    };
  }

  // ---- taking back what the device used (§2.8.22)

  /**
   * Chains used since the last time, in order. With VIRTIO_F_IN_ORDER a used descriptor stands for all chains up to its
   * own (§2.8.9), of which only that has a length.
   */
  reclaim(): UsedPackedChain[] {
    const used: UsedPackedChain[] = [];
    while (this.#chains.length > 0) {
      const { flags, id, len } = this.peekDescriptor(this.#reclaimed);
      if ((flags & (F_AVAIL | F_USED)) !== this.usedFlags(this.#reclaimed)) break;
      const at = this.#chains.findIndex((chain) => chain.id === id);
      if (at < 0) throw new Error(`test driver: the device used buffer ${id}, which was not available`);
      const inOrder = (this.#features & IN_ORDER) !== 0n;
      if (at > 0 && !inOrder) throw new Error(`test driver: the device used buffer ${id} before ${at} others`);
      for (const { id, descriptors, buffers } of this.#chains.splice(0, at + 1)) {
        this.#reclaimed += descriptors;
        if (this.#reclaimed > this.#announced) throw new Error(`test driver: buffer ${id} was not announced`);
        used.push({ id, length: 0, buffers });
      }
      if ((flags & F_WRITE) !== 0) used.at(-1)!.length = len;
    }
    return used;
  }

  /** The bytes that the device wrote into a chain. */
  contents({ length, buffers }: UsedPackedChain): Uint8Array {
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

  // ---- calls (§2.8.10)

  /** Flags of the driver's event suppression; with RING_EVENT_FLAGS_DESC, for the descriptor at this place. */
  wish(flags: number, place = 0): void {
    this.#guest.write16(this.driverEvent, placeWord(place, this.num));
    this.#guest.write16(this.driverEvent + EVENT_FLAGS_AT, flags);
  }

  // ---- anything at all, for hostile tests

  #descriptorAt(place: number): number {
    return this.desc + (place % this.num) * DESC_SIZE;
  }

  pokeDescriptor(place: number, { flags = 0, ...rest }: RawPackedDescriptor): void {
    this.#pokeAllButFlags(place, rest);
    this.pokeFlags(place, flags);
  }

  #pokeAllButFlags(place: number, { addr = 0n, len = 0, id = 0 }: RawPackedDescriptor): void {
    const at = this.#descriptorAt(place);
    this.#guest.write64(at, addr);
    this.#guest.write32(at + DESC_LEN_AT, len);
    this.#guest.write16(at + DESC_ID_AT, id);
  }

  pokeFlags(place: number, flags: number): void {
    this.#guest.write16(this.#descriptorAt(place) + DESC_FLAGS_AT, flags);
  }

  /** A descriptor as it stands there. */
  peekDescriptor(place: number): { addr: bigint; len: number; id: number; flags: number } {
    // Flags first: they say whether the rest means anything.
    const flags = this.#guest.read16(this.#descriptorAt(place) + DESC_FLAGS_AT);
    const bytes = this.#guest.read(this.#descriptorAt(place), DESC_SIZE);
    const view = new DataView(bytes.buffer);
    return {
      addr: view.getBigUint64(0, true),
      len: view.getUint32(DESC_LEN_AT, true),
      id: view.getUint16(DESC_ID_AT, true),
      flags,
    };
  }

  /** A descriptor of an indirect table at guest address `table`. */
  pokeIndirect(table: number, index: number, { addr = 0n, len = 0, id = 0, flags = 0 }: RawPackedDescriptor): void {
    const at = table + index * DESC_SIZE;
    this.#guest.write64(at, addr);
    this.#guest.write32(at + DESC_LEN_AT, len);
    this.#guest.write16(at + DESC_ID_AT, id);
    this.#guest.write16(at + DESC_FLAGS_AT, flags);
  }
}

/** Whether some place in [from, to) is the one that an event suppression word names, by index and wrap counter. */
export function passes(word: number, from: number, to: number, num: number): boolean {
  for (let place = from; place < to; place++) if (placeWord(place, num) === word) return true;
  return false;
}
