/**
 * struct virtio_net_hdr (virtio 1.2 §5.1.6) on control paths; the hot path has it in the columns of a frame batch.
 *
 *     0 flags | 1 gso_type | 2 hdr_len | 4 gso_size | 6 csum_start | 8 csum_offset | 10 num_buffers (12-byte form)
 *
 * Bytes are little-endian, as in every device of VIRTIO_F_VERSION_1 and in legacy ones on this machine.
 */
import {
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_ECN,
  VIRTIO_NET_HDR_GSO_NONE,
  VIRTIO_NET_HDR_GSO_TCPV4,
  VIRTIO_NET_HDR_GSO_TCPV6,
  VIRTIO_NET_HDR_GSO_UDP,
  VIRTIO_NET_HDR_GSO_UDP_L4,
} from './virtio.ts';

/** A checksum field of TCP, UDP or IPv4. */
export const CSUM_BYTES = 2;

/** A virtio-net header by its fields. */
export interface NetHeader {
  flags: number;
  gsoType: number;
  hdrLen: number;
  gsoSize: number;
  csumStart: number;
  csumOffset: number;
}

/** Parses a header at the start of `bytes`. */
export function parseNetHeader(bytes: Buffer): NetHeader {
  return {
    flags: bytes.readUInt8(0),
    gsoType: bytes.readUInt8(1),
    hdrLen: bytes.readUInt16LE(2),
    gsoSize: bytes.readUInt16LE(4),
    csumStart: bytes.readUInt16LE(6),
    csumOffset: bytes.readUInt16LE(8),
  };
}

/** Whether Linux's tun takes a header with a frame of `length` bytes (tun_get_user, virtio_net_hdr_to_skb). */
export function tunTakesHeader(
  { flags, gsoType, hdrLen, gsoSize, csumStart, csumOffset }: NetHeader,
  length: number,
): boolean {
  if (hdrLen > length) return false;
  if ((flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) !== 0 && csumStart + csumOffset + CSUM_BYTES > length) return false;
  switch (gsoType & ~VIRTIO_NET_HDR_GSO_ECN) {
    case VIRTIO_NET_HDR_GSO_NONE:
      return true;
    case VIRTIO_NET_HDR_GSO_TCPV4:
    case VIRTIO_NET_HDR_GSO_TCPV6:
    case VIRTIO_NET_HDR_GSO_UDP:
    case VIRTIO_NET_HDR_GSO_UDP_L4:
      return gsoSize > 0;
    default:
      return false;
  }
}
