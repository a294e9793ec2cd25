/**
 * The memory of a packed virtqueue (virtio 1.2 §2.8): where everything stands, and what its words are made of.
 *
 *     descriptor ring     num × { addr le64 | len le32 | id le16 | flags le16 }      driver and device write
 *     driver event area   desc_event_off, desc_event_wrap le16 | flags le16          driver writes: wish for calls
 *     device event area   desc_event_off, desc_event_wrap le16 | flags le16          device writes: wish for kicks
 *
 * vhost has one set of names for both kinds of ring: `desc`, `avail` and `used` are these three, in this order.
 */
import type { Address } from '../linux/libc.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { RingAddresses } from './split-ring.ts';
import { VIRTQ_DESC_BYTES, VIRTQ_EVENT_SUPPRESS_BYTES } from './virtio.ts';

/** Bytes of the three parts of a ring of `num` entries. */
export function packedRingSizes(num: number): { desc: number; avail: number; used: number } {
  return { desc: num * VIRTQ_DESC_BYTES, avail: VIRTQ_EVENT_SUPPRESS_BYTES, used: VIRTQ_EVENT_SUPPRESS_BYTES };
}

/** What the addresses of the three parts must be multiples of (§2.8). */
export const PACKED_RING_ALIGNMENT = { desc: 16, avail: 4, used: 4 } as const;

/** Words of a descriptor in a Uint32Array: DESC_WORDS × index + … */
export const DESC_WORDS = 4;
export const DESC_ADDR_LOW = 0;
export const DESC_ADDR_HIGH = 1;
export const DESC_LEN = 2;
/** id in the low half, flags in the high half. */
export const DESC_ID_FLAGS = 3;
/** Shift of flags in that word, and in a word of event suppression. */
export const FLAGS_SHIFT = 16;

/** Small views exactly over a ring's parts: indices stay small, which is what makes them fast. */
export interface PackedRingViews {
  desc: Uint32Array;
  /** One word each: desc_event_off and desc_event_wrap in the low half, flags in the high half. */
  driverEvent: Uint32Array;
  deviceEvent: Uint32Array;
  /** Addresses of the three. */
  descAddress: Address;
  driverEventAddress: Address;
  deviceEventAddress: Address;
}

/** Views of a ring, or null when part of it lies outside the mapped memory. */
export function mapPackedRing(memory: GuestMemory, addresses: RingAddresses, num: number): PackedRingViews | null {
  const sizes = packedRingSizes(num);
  const desc = memory.translateUser(addresses.desc, sizes.desc);
  const avail = memory.translateUser(addresses.avail, sizes.avail);
  const used = memory.translateUser(addresses.used, sizes.used);
  if (desc === 0 || avail === 0 || used === 0) return null;
  return {
    desc: new Uint32Array(memory.view(desc, sizes.desc)),
    driverEvent: new Uint32Array(memory.view(avail, sizes.avail)),
    deviceEvent: new Uint32Array(memory.view(used, sizes.used)),
    descAddress: desc,
    driverEventAddress: avail,
    deviceEventAddress: used,
  };
}

/** desc_event_off and the vring base: 15 bits of index, then the wrap counter. */
const INDEX_MASK = 0x7fff;
const WRAP_SHIFT = 15;
const USED_SHIFT = 16;

/** A place in the ring: an index, and the wrap counter (0 or 1) of whoever comes by. */
export interface RingPosition {
  index: number;
  wrap: number;
}

/** 16 bits: index and wrap counter, as in desc_event_off and desc_event_wrap. */
export function packPosition(index: number, wrap: number): number {
  return index | (wrap << WRAP_SHIFT);
}

export function unpackPosition(word: number): RingPosition {
  return { index: word & INDEX_MASK, wrap: (word >>> WRAP_SHIFT) & 1 };
}

/**
 * How many steps it is from the start of two laps to a position: 0 … 2 × num - 1. The lap with wrap counter 1 comes
 * first, as at the start of a ring's life. Differences modulo 2 × num count descriptors.
 */
export function linearPosition(index: number, wrap: number, num: number): number {
  return wrap === 1 ? index : index + num;
}

/** The base of a packed ring (VHOST_SET_VRING_BASE): next descriptor to take in the low half, next to use in the high. */
export function packBase(avail: number, used: number): number {
  return (avail | (used << USED_SHIFT)) >>> 0;
}

/**
 * The two positions of a base, or null when they do not fit a ring of `num` entries. A high half of 0 means that nothing
 * is in flight: DPDK's virtio-user sends the low half alone (and its vhost library never looks at the high one).
 */
export function unpackBase(base: number, num: number): { avail: RingPosition; used: RingPosition } | null {
  const low = base & 0xffff;
  const high = base >>> USED_SHIFT;
  const avail = unpackPosition(low);
  const used = unpackPosition(high === 0 ? low : high);
  if (avail.index >= num || used.index >= num) return null;
  return inFlight(avail, used, num) <= num ? { avail, used } : null;
}

/** Descriptors taken from the driver and not used yet. */
export function inFlight(avail: RingPosition, used: RingPosition, num: number): number {
  const laps = 2 * num;
  return (linearPosition(avail.index, avail.wrap, num) - linearPosition(used.index, used.wrap, num) + laps) % laps;
}
