/**
 * What the card does to a frame on its way out (82599 datasheet §7.2.4 segmentation, §7.2.5 checksums, §7.4.5 VLAN): each a
 * function of the frame and its context, which was validated against the frame.
 */
import { finish, finishUdp, sum } from '../../packet/checksum.ts';
import {
  IPV4_CHECKSUM,
  IPV4_ID,
  IPV4_MIN_HEADER_LENGTH,
  IPV4_TOTAL_LENGTH,
  IPV6_HEADER_LENGTH,
  IPV6_PAYLOAD_LENGTH,
  TCP_CHECKSUM,
  TCP_FLAGS,
  TCP_MIN_HEADER_LENGTH,
  TCP_SEQUENCE,
  UDP_CHECKSUM,
  UDP_HEADER_LENGTH,
  UDP_LENGTH,
  VLAN_TAG_LENGTH,
} from '../../packet/header-fields.ts';
import { CONTEXT_TUCMD_L4T_SCTP, CONTEXT_TUCMD_L4T_TCP, CONTEXT_TUCMD_L4T_UDP } from '../descriptors.ts';
import { crc32c } from './crc32c.ts';
import { setWord, word } from './packet-headers.ts';
import type { TransmitContext } from './transmit-context.ts';

const ADDRESSES_BYTES = 12;
const SCTP_CHECKSUM = 8;
const SCTP_HEADER_LENGTH = 12;

/** What a frame asks for. */
export interface Wishes {
  insertIpChecksum: boolean;
  insertL4Checksum: boolean;
  segment: boolean;
}

/** TCP flags that each segment keeps (DTXTCPFLGL, DTXTCPFLGH). */
export interface FlagMasks {
  first: number;
  middle: number;
  last: number;
}

/** Why a frame cannot be had as its context says; empty when it can. */
export function contradiction(length: number, context: TransmitContext, wishes: Wishes): string {
  const { macLength, ipLength, l4Length, l4Type, isIpv4, mss } = context;
  const transport = macLength + ipLength;
  const isTcp = l4Type === CONTEXT_TUCMD_L4T_TCP;
  const leastIp = isIpv4 ? IPV4_MIN_HEADER_LENGTH : IPV6_HEADER_LENGTH;
  if (wishes.insertIpChecksum && (ipLength < IPV4_MIN_HEADER_LENGTH || transport > length)) {
    return `an IP header of ${ipLength} bytes behind ${macLength} in a frame of ${length}`;
  }
  const knowsL4 = isTcp || l4Type === CONTEXT_TUCMD_L4T_UDP || l4Type === CONTEXT_TUCMD_L4T_SCTP;
  if ((wishes.insertL4Checksum || wishes.segment) && !knowsL4) return 'a transport protocol (L4T) that is reserved';
  if (wishes.insertL4Checksum) {
    const least =
      l4Type === CONTEXT_TUCMD_L4T_SCTP ? SCTP_HEADER_LENGTH : isTcp ? TCP_MIN_HEADER_LENGTH : UDP_HEADER_LENGTH;
    if (transport + least > length) return `a transport header at ${transport} in a frame of ${length} bytes`;
  }
  if (!wishes.segment) return '';
  if (l4Type === CONTEXT_TUCMD_L4T_SCTP) return 'SCTP to be segmented';
  if (ipLength < leastIp) return `an IP header of ${ipLength} bytes`;
  if (mss === 0) return 'an MSS of 0';
  if (l4Length < (isTcp ? TCP_MIN_HEADER_LENGTH : UDP_HEADER_LENGTH)) return `a transport header of ${l4Length} bytes`;
  if (transport + l4Length > length) return `headers of ${transport + l4Length} bytes in a frame of ${length}`;
  return '';
}

/** Inserts the checksums that are wished for; the driver left the pseudo header's sum in the transport's field. */
export function insertChecksums(frame: Uint8Array, context: TransmitContext, wishes: Wishes): void {
  const { macLength, ipLength, l4Type } = context;
  const transport = macLength + ipLength;
  if (wishes.insertIpChecksum) {
    setWord(frame, macLength + IPV4_CHECKSUM, 0);
    setWord(frame, macLength + IPV4_CHECKSUM, finish(sum(frame, macLength, transport, 0)));
  }
  if (!wishes.insertL4Checksum) return;
  if (l4Type === CONTEXT_TUCMD_L4T_SCTP) {
    const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
    view.setUint32(transport + SCTP_CHECKSUM, 0);
    view.setUint32(transport + SCTP_CHECKSUM, crc32c(frame, transport, frame.length), true);
    return;
  }
  const partial = sum(frame, transport, frame.length, 0);
  if (l4Type === CONTEXT_TUCMD_L4T_TCP) setWord(frame, transport + TCP_CHECKSUM, finish(partial));
  else setWord(frame, transport + UDP_CHECKSUM, finishUdp(partial));
}

/** Cuts a frame into segments of `mss` bytes of payload, and hands each to `send`, which must be done with it at once. */
export function segment(
  frame: Uint8Array,
  context: TransmitContext,
  wishes: Wishes,
  masks: FlagMasks,
  send: (segment: Uint8Array) => void,
): void {
  const { macLength, ipLength, l4Length, l4Type, isIpv4, mss } = context;
  const transport = macLength + ipLength;
  const headerLength = transport + l4Length;
  const payload = frame.length - headerLength;
  const segments = Math.max(1, Math.ceil(payload / mss));
  const isTcp = l4Type === CONTEXT_TUCMD_L4T_TCP;
  const out = new Uint8Array(headerLength + Math.min(mss, payload));
  const view = new DataView(out.buffer);
  const id = word(frame, macLength + IPV4_ID);
  const sequence = new DataView(frame.buffer, frame.byteOffset).getUint32(transport + TCP_SEQUENCE);
  for (let n = 0; n < segments; n++) {
    const part = Math.min(mss, payload - n * mss);
    const whole = out.subarray(0, headerLength + part);
    whole.set(frame.subarray(0, headerLength));
    whole.set(frame.subarray(headerLength + n * mss, headerLength + n * mss + part), headerLength);
    if (isIpv4) {
      setWord(whole, macLength + IPV4_TOTAL_LENGTH, ipLength + l4Length + part);
      setWord(whole, macLength + IPV4_ID, id + n);
    } else setWord(whole, macLength + IPV6_PAYLOAD_LENGTH, ipLength - IPV6_HEADER_LENGTH + l4Length + part);
    if (isTcp) {
      view.setUint32(transport + TCP_SEQUENCE, sequence + n * mss);
      const mask = segments === 1 ? 0xff : n === 0 ? masks.first : n < segments - 1 ? masks.middle : masks.last;
      whole[transport + TCP_FLAGS] = whole[transport + TCP_FLAGS]! & mask;
    } else setWord(whole, transport + UDP_LENGTH, l4Length + part);
    // The field holds the pseudo header's sum without the length, which differs from segment to segment.
    if (wishes.insertL4Checksum) addLength(whole, transport + (isTcp ? TCP_CHECKSUM : UDP_CHECKSUM), l4Length + part);
    insertChecksums(whole, context, wishes);
    send(whole);
  }
}

/** Adds to a partial sum. */
function addLength(bytes: Uint8Array, field: number, length: number): void {
  const total = word(bytes, field) + length;
  setWord(bytes, field, (total & 0xffff) + (total >>> 16));
}

/** The frame with a VLAN tag behind its addresses. */
export function insertTag(frame: Uint8Array, tagType: number, tag: number): Uint8Array {
  const tagged = new Uint8Array(frame.length + VLAN_TAG_LENGTH);
  tagged.set(frame.subarray(0, ADDRESSES_BYTES));
  setWord(tagged, ADDRESSES_BYTES, tagType);
  setWord(tagged, ADDRESSES_BYTES + 2, tag);
  tagged.set(frame.subarray(ADDRESSES_BYTES), ADDRESSES_BYTES + VLAN_TAG_LENGTH);
  return tagged;
}
