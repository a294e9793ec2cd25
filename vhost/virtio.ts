/** Names and numbers of the virtio 1.2 specification that the rings and the network device need. */

import { VIRTIO_NET_HDR_BYTES, VIRTIO_NET_HDR_MRG_RXBUF_BYTES } from '../memory/frame-batch.ts';

// Feature bits, as bit numbers (§5.1.3, §6).
export const VIRTIO_NET_F_CSUM = 0;
export const VIRTIO_NET_F_GUEST_CSUM = 1;
export const VIRTIO_NET_F_MTU = 3;
export const VIRTIO_NET_F_GUEST_TSO4 = 7;
export const VIRTIO_NET_F_GUEST_TSO6 = 8;
export const VIRTIO_NET_F_GUEST_ECN = 9;
export const VIRTIO_NET_F_HOST_TSO4 = 11;
export const VIRTIO_NET_F_HOST_TSO6 = 12;
export const VIRTIO_NET_F_HOST_ECN = 13;
export const VIRTIO_NET_F_MRG_RXBUF = 15;
export const VIRTIO_NET_F_CTRL_VQ = 17;
export const VIRTIO_NET_F_GUEST_ANNOUNCE = 21;
export const VIRTIO_NET_F_MQ = 22;
export const VIRTIO_NET_F_GUEST_USO4 = 54;
export const VIRTIO_NET_F_GUEST_USO6 = 55;
export const VIRTIO_NET_F_HOST_USO = 56;
export const VIRTIO_F_NOTIFY_ON_EMPTY = 24;
export const VIRTIO_F_ANY_LAYOUT = 27;
export const VIRTIO_RING_F_INDIRECT_DESC = 28;
export const VIRTIO_RING_F_EVENT_IDX = 29;
export const VIRTIO_F_VERSION_1 = 32;
export const VIRTIO_F_ACCESS_PLATFORM = 33;
export const VIRTIO_F_RING_PACKED = 34;
export const VIRTIO_F_IN_ORDER = 35;

const FEATURE_NAMES: Record<number, string> = {
  0: 'CSUM',
  1: 'GUEST_CSUM',
  3: 'MTU',
  7: 'GUEST_TSO4',
  8: 'GUEST_TSO6',
  9: 'GUEST_ECN',
  11: 'HOST_TSO4',
  12: 'HOST_TSO6',
  13: 'HOST_ECN',
  15: 'MRG_RXBUF',
  17: 'CTRL_VQ',
  21: 'GUEST_ANNOUNCE',
  22: 'MQ',
  24: 'NOTIFY_ON_EMPTY',
  26: 'LOG_ALL',
  27: 'ANY_LAYOUT',
  28: 'INDIRECT_DESC',
  29: 'EVENT_IDX',
  30: 'PROTOCOL_FEATURES',
  32: 'VERSION_1',
  33: 'ACCESS_PLATFORM',
  34: 'RING_PACKED',
  35: 'IN_ORDER',
  54: 'GUEST_USO4',
  55: 'GUEST_USO6',
  56: 'HOST_USO',
};

/** A set of features; bit n of the word is feature number n. */
export type Features = bigint;

export const featureSet = (...bits: number[]): Features => bits.reduce((set, bit) => set | (1n << BigInt(bit)), 0n);
export const hasFeature = (features: Features, bit: number): boolean => ((features >> BigInt(bit)) & 1n) === 1n;

/** Names of the features in a set, without the VIRTIO_F_ and such before them; `bit N` for unknown ones. */
export function featureNames(features: Features): string[] {
  const names: string[] = [];
  for (let bit = 0; bit < 64; bit++) if (hasFeature(features, bit)) names.push(FEATURE_NAMES[bit] ?? `bit ${bit}`);
  return names;
}

// Split virtqueues (§2.7). All sizes in bytes.
/** struct virtq_desc { le64 addr; le32 len; le16 flags; le16 next; } (§2.7.5) */
export const VIRTQ_DESC_BYTES = 16;
export const VIRTQ_DESC_F_NEXT = 1;
export const VIRTQ_DESC_F_WRITE = 2;
export const VIRTQ_DESC_F_INDIRECT = 4;
/** struct virtq_avail { le16 flags; le16 idx; le16 ring[num]; le16 used_event; } (§2.7.6) */
export const VIRTQ_AVAIL_HEADER_BYTES = 4;
export const VIRTQ_AVAIL_ENTRY_BYTES = 2;
export const VIRTQ_AVAIL_F_NO_INTERRUPT = 1;
/** struct virtq_used { le16 flags; le16 idx; struct { le32 id; le32 len; } ring[num]; le16 avail_event; } (§2.7.8) */
export const VIRTQ_USED_HEADER_BYTES = 4;
export const VIRTQ_USED_ENTRY_BYTES = 8;
export const VIRTQ_USED_F_NO_NOTIFY = 1;
/** used_event and avail_event (§2.7.10). */
export const VIRTQ_EVENT_BYTES = 2;

// Packed virtqueues (§2.8).
/** Entries of a packed ring at the most (§2.8.14: an index in it has 15 bits). */
export const VIRTQ_PACKED_NUM_MAX = 32_768;
export const VIRTQ_DESC_F_AVAIL = 1 << 7;
export const VIRTQ_DESC_F_USED = 1 << 15;
/** struct pvirtq_event_suppress { le16 { desc_event_off : 15; desc_event_wrap : 1; }; le16 flags; } (§2.8.14) */
export const VIRTQ_EVENT_SUPPRESS_BYTES = 4;
export const RING_EVENT_FLAGS_ENABLE = 0;
export const RING_EVENT_FLAGS_DISABLE = 1;
export const RING_EVENT_FLAGS_DESC = 2;

// struct virtio_net_hdr (virtio 1.2 §5.1.6): u8 flags, u8 gso_type, le16 hdr_len, gso_size, csum_start, csum_offset, and
// num_buffers with VIRTIO_NET_F_MRG_RXBUF or VIRTIO_F_VERSION_1.
export { VIRTIO_NET_HDR_BYTES, VIRTIO_NET_HDR_MRG_RXBUF_BYTES };
export const VIRTIO_NET_HDR_F_NEEDS_CSUM = 1;
export const VIRTIO_NET_HDR_F_DATA_VALID = 2;
export const VIRTIO_NET_HDR_GSO_NONE = 0;
export const VIRTIO_NET_HDR_GSO_TCPV4 = 1;
export const VIRTIO_NET_HDR_GSO_UDP = 3;
export const VIRTIO_NET_HDR_GSO_TCPV6 = 4;
export const VIRTIO_NET_HDR_GSO_UDP_L4 = 5;
export const VIRTIO_NET_HDR_GSO_ECN = 0x80;

/** Length of the virtio-net header in the buffers of a ring with these features (§5.1.6.1). */
export function netHeaderBytes(features: Features): number {
  return hasFeature(features, VIRTIO_NET_F_MRG_RXBUF) || hasFeature(features, VIRTIO_F_VERSION_1)
    ? VIRTIO_NET_HDR_MRG_RXBUF_BYTES
    : VIRTIO_NET_HDR_BYTES;
}
