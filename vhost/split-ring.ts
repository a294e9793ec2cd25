/**
 * The memory of a split virtqueue (virtio 1.2 §2.7): where everything stands, and nothing of what it means.
 *
 *     descriptor table   num × { addr le64 | len le32 | flags le16 | next le16 }            driver writes
 *     avail ring         flags le16 | idx le16 | ring[num] le16 | used_event le16           driver writes
 *     used ring          flags le16 | idx le16 | ring[num] { id le32 | len le32 } | avail_event le16   device writes
 */
import type { Address } from '../linux/libc.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import {
  VIRTQ_AVAIL_ENTRY_BYTES,
  VIRTQ_AVAIL_HEADER_BYTES,
  VIRTQ_DESC_BYTES,
  VIRTQ_EVENT_BYTES,
  VIRTQ_USED_ENTRY_BYTES,
  VIRTQ_USED_HEADER_BYTES,
} from './virtio.ts';

/** Where the three parts stand in the client's own address space (struct vhost_vring_addr). */
export interface RingAddresses {
  desc: number;
  avail: number;
  used: number;
}

/** Bytes of the three parts of a ring of `num` entries. */
export function ringSizes(num: number, eventIdx: boolean): { desc: number; avail: number; used: number } {
  const event = eventIdx ? VIRTQ_EVENT_BYTES : 0;
  return {
    desc: num * VIRTQ_DESC_BYTES,
    avail: VIRTQ_AVAIL_HEADER_BYTES + num * VIRTQ_AVAIL_ENTRY_BYTES + event,
    used: VIRTQ_USED_HEADER_BYTES + num * VIRTQ_USED_ENTRY_BYTES + event,
  };
}

/** Index of `flags` and `idx` in a Uint16Array over the avail or the used ring, and of the first avail entry. */
export const FLAGS = 0;
export const IDX = 1;
export const AVAIL_RING = 2;

/** Words of a descriptor in a Uint32Array: DESC_WORDS × index + … */
export const DESC_WORDS = 4;
export const DESC_ADDR_LOW = 0;
export const DESC_ADDR_HIGH = 1;
export const DESC_LEN = 2;
/** flags in the low half, next in the high half. */
export const DESC_FLAGS_NEXT = 3;

/** Small views exactly over a ring's parts: indices stay small, which is what makes them fast. */
export interface SplitRingViews {
  desc: Uint32Array;
  /** flags, idx, ring[num], and used_event with VIRTIO_RING_F_EVENT_IDX. */
  avail: Uint16Array;
  /** flags, idx. */
  used: Uint16Array;
  /** id, len pairs. */
  usedRing: Uint32Array;
  /** avail_event; empty without VIRTIO_RING_F_EVENT_IDX. */
  availEvent: Uint16Array;
  /** Addresses of desc, of avail.ring and of usedRing. */
  descAddress: Address;
  availRingAddress: Address;
  usedRingAddress: Address;
}

/** Views of a ring, or null when part of it lies outside the mapped memory. */
export function mapSplitRing(
  memory: GuestMemory,
  addresses: RingAddresses,
  num: number,
  eventIdx: boolean,
): SplitRingViews | null {
  const sizes = ringSizes(num, eventIdx);
  const desc = memory.translateUser(addresses.desc, sizes.desc);
  const avail = memory.translateUser(addresses.avail, sizes.avail);
  const used = memory.translateUser(addresses.used, sizes.used);
  if (desc === 0 || avail === 0 || used === 0) return null;
  const usedBytes = memory.view(used, sizes.used);
  const ringBytes = num * VIRTQ_USED_ENTRY_BYTES;
  return {
    descAddress: desc,
    availRingAddress: avail + VIRTQ_AVAIL_HEADER_BYTES,
    usedRingAddress: used + VIRTQ_USED_HEADER_BYTES,
    desc: new Uint32Array(memory.view(desc, sizes.desc)),
    avail: new Uint16Array(memory.view(avail, sizes.avail)),
    used: new Uint16Array(usedBytes, 0, 2),
    usedRing: new Uint32Array(usedBytes, VIRTQ_USED_HEADER_BYTES, 2 * num),
    availEvent: new Uint16Array(usedBytes, VIRTQ_USED_HEADER_BYTES + ringBytes, eventIdx ? 1 : 0),
  };
}
