/**
 * struct virtio_net_hdr (virtio 1.2 §5.1.6), between a frame batch's columns and the bytes before a frame.
 *
 *     0 flags | 1 gso_type | 2 hdr_len | 4 gso_size | 6 csum_start | 8 csum_offset | 10 num_buffers (12-byte form)
 *
 * Bytes are little-endian, as in every device of VIRTIO_F_VERSION_1 and in legacy ones on this machine.
 * Hot: allocates nothing.
 */
import type { FrameBatch } from '../memory/frame-batch.ts';
import {
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_ECN,
  VIRTIO_NET_HDR_GSO_NONE,
  VIRTIO_NET_HDR_GSO_TCPV4,
  VIRTIO_NET_HDR_GSO_TCPV6,
  VIRTIO_NET_HDR_GSO_UDP,
  VIRTIO_NET_HDR_GSO_UDP_L4,
  VIRTIO_NET_HDR_MRG_RXBUF_BYTES,
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

/** Parses a header at the start of `bytes`. For control paths; the hot path uses {@link readNetHeader}. */
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

/** Reads the header of `headerBytes` (10 or more) that stands right before frame `i` in its slot into the columns. */
export function readNetHeader(batch: FrameBatch, i: number, headerBytes: number): void {
  const { headers } = batch;
  const at = batch.headerOffset(i) - headerBytes;
  batch.flags[i] = headers[at]!;
  batch.gsoType[i] = headers[at + 1]!;
  batch.hdrLen[i] = headers[at + 2]! | (headers[at + 3]! << 8);
  batch.gsoSize[i] = headers[at + 4]! | (headers[at + 5]! << 8);
  batch.csumStart[i] = headers[at + 6]! | (headers[at + 7]! << 8);
  batch.csumOffset[i] = headers[at + 8]! | (headers[at + 9]! << 8);
}

/** No offload: the columns of a frame that came without a header. */
export function clearNetHeader(batch: FrameBatch, i: number): void {
  batch.flags[i] = 0;
  batch.gsoType[i] = 0;
  batch.hdrLen[i] = 0;
  batch.gsoSize[i] = 0;
  batch.csumStart[i] = 0;
  batch.csumOffset[i] = 0;
}

/** Writes the columns of frame `i` as a header of 10 or 12 bytes right before it; num_buffers only in the 12-byte form. */
export function writeNetHeader(batch: FrameBatch, i: number, headerBytes: number, numBuffers: number): void {
  const { headers } = batch;
  const at = batch.headerOffset(i) - headerBytes;
  headers[at] = batch.flags[i]!;
  headers[at + 1] = batch.gsoType[i]!;
  headers[at + 2] = batch.hdrLen[i]!;
  headers[at + 3] = batch.hdrLen[i]! >> 8;
  headers[at + 4] = batch.gsoSize[i]!;
  headers[at + 5] = batch.gsoSize[i]! >> 8;
  headers[at + 6] = batch.csumStart[i]!;
  headers[at + 7] = batch.csumStart[i]! >> 8;
  headers[at + 8] = batch.csumOffset[i]!;
  headers[at + 9] = batch.csumOffset[i]! >> 8;
  if (headerBytes >= VIRTIO_NET_HDR_MRG_RXBUF_BYTES) {
    headers[at + 10] = numBuffers;
    headers[at + 11] = numBuffers >> 8;
  }
}
