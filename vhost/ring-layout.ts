/** What a ring of either kind takes of memory, and where it may start: what is to be checked before a lane runs it. */
import { PACKED_RING_ALIGNMENT, packedRingSizes, unpackBase } from './packed-ring.ts';
import { type RingAddresses, ringSizes } from './split-ring.ts';
import {
  type Features,
  hasFeature,
  VIRTIO_F_RING_PACKED,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTQ_PACKED_NUM_MAX,
} from './virtio.ts';

export const RING_PARTS = ['desc', 'avail', 'used'] as const;

/** Bytes of the three parts of a ring of `num` entries with these features. */
export function ringPartBytes(num: number, features: Features): Record<(typeof RING_PARTS)[number], number> {
  return hasFeature(features, VIRTIO_F_RING_PACKED)
    ? packedRingSizes(num)
    : ringSizes(num, hasFeature(features, VIRTIO_RING_F_EVENT_IDX));
}

/** Whether a ring may have `num` entries: any number in a packed ring (§2.8), a power of two in a split one (§2.7). */
export function isRingSize(num: number, features: Features): boolean {
  if (num < 1 || num > VIRTQ_PACKED_NUM_MAX) return false;
  return hasFeature(features, VIRTIO_F_RING_PACKED) || (num & (num - 1)) === 0;
}

/**
 * Why a ring cannot start, where size, addresses and base do not fit the features; null when they do. Each was checked
 * when it was set, against the features of then. Split rings have no more to check: see VHOST_SET_VRING_ADDR.
 */
export function ringLayoutProblem(
  { num, base, addresses }: { num: number; base: number; addresses: RingAddresses },
  features: Features,
): string | null {
  if (!isRingSize(num, features)) {
    return `${num} entries, no power of two, without VIRTIO_F_RING_PACKED: set features, then sizes`;
  }
  if (!hasFeature(features, VIRTIO_F_RING_PACKED)) return null;
  for (const part of RING_PARTS) {
    const align = PACKED_RING_ALIGNMENT[part];
    if (addresses[part] % align !== 0) {
      return `the ${part} part of a packed ring stands at 0x${addresses[part].toString(16)}, no multiple of ${align}`;
    }
  }
  return unpackBase(base, num) === null
    ? `base 0x${base.toString(16)} lies outside of a packed ring of ${num} entries`
    : null;
}
