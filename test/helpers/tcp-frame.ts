/** TCP over IPv4 with offloads left to do, and the checksums that show whether they were done. */
import {
  VIRTIO_NET_HDR_BYTES,
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_NONE,
  VIRTIO_NET_HDR_GSO_TCPV4,
} from '../../vhost/virtio.ts';
import { frameBytes } from './frame-bytes.ts';

const ETH_HLEN = 14;
const IP_HLEN = 20;
const TCP_HLEN = 20;
const TCP_AT = ETH_HLEN + IP_HLEN;
const TCP_CHECK_OFFSET = 16;
export const TCP_FRAME_HEADERS = TCP_AT + TCP_HLEN;
const IPPROTO_TCP = 6;

/** One's complement sum of 16-bit words (RFC 1071), folded; odd lengths end with a zero. */
function sum(bytes: Uint8Array, initial = 0): number {
  let total = initial;
  for (let i = 0; i < bytes.length; i += 2) total += (bytes[i]! << 8) | (bytes[i + 1] ?? 0);
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 0x10000);
  return total;
}

function pseudoHeaderSum(frame: Buffer): number {
  const length = frame.readUInt16BE(ETH_HLEN + 2) - IP_HLEN;
  return sum(frame.subarray(ETH_HLEN + 12, ETH_HLEN + 20), IPPROTO_TCP + length);
}

/** A broadcast frame whose TCP checksum holds only the pseudo header's sum, as a sender with offloads leaves it. */
export function tcpFrame(payload: number, seed = 0): Buffer {
  const frame = Buffer.alloc(TCP_FRAME_HEADERS + payload);
  frame.write('ffffffffffff' + '020000000001' + '0800', 0, 'hex');
  frame.write('4500' + '0000' + '1234' + '4000' + '4006' + '0000' + '0a000001' + '0a000002', ETH_HLEN, 'hex');
  frame.writeUInt16BE(frame.length - ETH_HLEN, ETH_HLEN + 2);
  frame.writeUInt16BE(~sum(frame.subarray(ETH_HLEN, TCP_AT)) & 0xffff, ETH_HLEN + 10);
  frame.write('04d20050' + '00000001' + '00000000' + '5010ffff' + '0000' + '0000', TCP_AT, 'hex'); // ACK
  frame.set(frameBytes(payload, seed), TCP_FRAME_HEADERS);
  frame.writeUInt16BE(pseudoHeaderSum(frame), TCP_AT + TCP_CHECK_OFFSET);
  return frame;
}

/** struct virtio_net_hdr for {@link tcpFrame}: checksum missing, and segments of `gsoSize` bytes if there is one. */
export function tcpNetHeader(gsoSize = 0): Buffer {
  const header = Buffer.alloc(VIRTIO_NET_HDR_BYTES);
  header.writeUInt8(VIRTIO_NET_HDR_F_NEEDS_CSUM, 0);
  header.writeUInt8(gsoSize > 0 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_NONE, 1);
  header.writeUInt16LE(gsoSize > 0 ? TCP_FRAME_HEADERS : 0, 2);
  header.writeUInt16LE(gsoSize, 4);
  header.writeUInt16LE(TCP_AT, 6);
  header.writeUInt16LE(TCP_CHECK_OFFSET, 8);
  return header;
}

/** Whether both checksums of a frame are right. */
export function checksumsRight(frame: Buffer): boolean {
  return (
    sum(frame.subarray(ETH_HLEN, TCP_AT)) === 0xffff && sum(frame.subarray(TCP_AT), pseudoHeaderSum(frame)) === 0xffff
  );
}

/** The TCP sequence number. */
export const sequenceOf = (frame: Buffer): number => frame.readUInt32BE(TCP_AT + 4);
