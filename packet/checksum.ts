/**
 * The Internet checksum (RFC 1071) over ranges of a Uint8Array.
 *
 * A sum is built up in steps and closed once:
 *
 *   const partial = sum(frame, ipOffset, ipOffset + headerLength, 0);
 *   const checksum = finish(partial);
 *
 * - Partial sums are small non-negative integers (below 2^17), so they never leave V8's small integers: nothing
 *   here allocates.
 * - Words are big-endian, as on the wire. A range of odd length is padded with a zero byte, so only the last range
 *   of a checksum may be odd (RFC 1071 §2 (A)); where a range starts in memory does not matter.
 */
import { UDP_CHECKSUM } from './header-fields.ts';

/** Bytes summed between two folds: 2^14 words of at most 0xffff, plus what came before, stay below 2^31. */
const FOLD_INTERVAL = 0x8000;

/** A 16-bit checksum field's length. */
const CHECKSUM_LENGTH = 2;

/** {@link sum}, or a faster one that gives the same. */
export type Sum = (bytes: Uint8Array, start: number, end: number, initial: number) => number;

/**
 * Adds the 16-bit big-endian words of `bytes[start, end)` to a partial sum.
 *
 * @param initial a partial sum to go on from, 0 to begin with
 * @returns a partial sum, below 2^17
 */
export function sum(bytes: Uint8Array, start: number, end: number, initial: number): number {
  let total = foldOnce(initial);
  let at = start;
  while (at < end) {
    const stop = Math.min(at + FOLD_INTERVAL, end);
    for (; at + 1 < stop; at += 2) total += (bytes[at] << 8) | bytes[at + 1];
    if (at < stop) total += bytes[at++] << 8;
    total = foldOnce(total);
  }
  return total;
}

/** Folds a partial sum, at most 0xffff_ffff, to 16 bits with end-around carry (RFC 1071 §4.1). */
export function fold(partial: number): number {
  return foldOnce(foldOnce(partial));
}

/** Closes a partial sum: the value of the checksum field, 0 to 0xffff. */
export function finish(partial: number): number {
  return ~fold(partial) & 0xffff;
}

/** The checksum field of a UDP header: a computed 0 is sent as 0xffff, since 0 says "none" (RFC 768). */
export function finishUdp(partial: number): number {
  return finish(partial) || 0xffff;
}

/**
 * Partial sum of the pseudo header of TCP or UDP over IPv4 (RFC 9293 §3.1, RFC 768).
 *
 * @param addressesOffset where the source address lies in `bytes`; the destination follows it
 * @param protocol IPPROTO_TCP or IPPROTO_UDP
 * @param upperLayerLength bytes of the transport header and its data
 */
export function pseudoHeaderSumIpv4(
  bytes: Uint8Array,
  addressesOffset: number,
  protocol: number,
  upperLayerLength: number,
): number {
  return sum(bytes, addressesOffset, addressesOffset + 8, protocol + upperLayerLength);
}

/**
 * Partial sum of the pseudo header of TCP or UDP over IPv6 (RFC 8200 §8.1). Where a routing header has segments
 * left, the destination meant is its last address: not the one in the IPv6 header.
 *
 * @param addressesOffset where the source address lies in `bytes`; the destination follows it
 * @param protocol IPPROTO_TCP or IPPROTO_UDP, not the IPv6 header's Next Header
 * @param upperLayerLength bytes of the transport header and its data
 */
export function pseudoHeaderSumIpv6(
  bytes: Uint8Array,
  addressesOffset: number,
  protocol: number,
  upperLayerLength: number,
): number {
  return sum(bytes, addressesOffset, addressesOffset + 32, protocol + foldOnce(upperLayerLength));
}

/**
 * Does what VIRTIO_NET_HDR_F_NEEDS_CSUM asks (virtio 1.2 §5.1.6.2): sums from `csumStart` to the end of the frame,
 * and writes the checksum `csumOffset` bytes after `csumStart`, where the driver left the pseudo header's sum.
 * A result of 0 for UDP, which is told by its `csum_offset` of 6, is written as 0xffff.
 *
 * @param frame starts with the Ethernet header
 * @param length bytes of the frame
 * @param sumOf how the frame is summed; for arrays of which the caller knows more
 * @returns false, with nothing written, where the fields do not lie inside the frame
 */
export function completePartialChecksum(
  frame: Uint8Array,
  length: number,
  csumStart: number,
  csumOffset: number,
  sumOf: typeof sum = sum,
): boolean {
  if (!(length <= frame.length && csumStart >= 0 && csumOffset >= 0)) return false;
  const field = csumStart + csumOffset;
  if (!(field + CHECKSUM_LENGTH <= length)) return false;
  const partial = sumOf(frame, csumStart, length, 0);
  const checksum = csumOffset === UDP_CHECKSUM ? finishUdp(partial) : finish(partial);
  frame[field] = checksum >>> 8;
  frame[field + 1] = checksum;
  return true;
}

function foldOnce(partial: number): number {
  return (partial & 0xffff) + (partial >>> 16);
}
