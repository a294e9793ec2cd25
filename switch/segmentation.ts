/**
 * Software segmentation (GSO): cuts a super-frame, which a guest sent with a virtio-net header's segmentation
 * fields (virtio 1.2 §5.1.6.2), into frames for a port that did not negotiate to take it whole.
 *
 *   plan(frame, …)            checks everything once; says how many segments, or why not
 *   emit(0, out, outOffset)   writes one segment with complete checksums; says its length
 *   emit(1, …) …              in any order, as often as needed, until the next plan
 *
 * Served are TCP over IPv4 and IPv6 (TSO) and UDP over either (USO), behind up to two VLAN tags, with IPv4 options,
 * IPv6 extension headers and TCP options, all of which each segment repeats.
 *
 * What a guest may do while this runs, and what comes of it: `plan` copies the headers once, and every decision
 * reads the copy. The payload is read once per emit, by the loop that copies and sums it, so a segment's checksum
 * always fits the bytes written, whatever the guest does meanwhile. `hdr_len` is a hint (§5.1.6.2) and not asked for.
 *
 * One Segmenter belongs to one lane; it holds one plan at a time, and `emit` allocates nothing.
 */
import { MAX_FRAME_BYTES } from '../memory/frame-batch.ts';
import { finish, finishUdp, fold, pseudoHeaderSumIpv4, pseudoHeaderSumIpv6, sum } from '../packet/checksum.ts';
import {
  ETHERNET_HEADER_LENGTH,
  ETHERNET_TYPE,
  ETHERTYPE_CTAG,
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  ETHERTYPE_STAG,
  IPPROTO_TCP,
  IPPROTO_UDP,
  IPV4_ADDRESSES,
  IPV4_CHECKSUM,
  IPV4_FRAGMENT,
  IPV4_ID,
  IPV4_MF_AND_OFFSET,
  IPV4_MIN_HEADER_LENGTH,
  IPV4_PROTOCOL,
  IPV4_TOTAL_LENGTH,
  IPV6_ADDRESSES,
  IPV6_DESTINATION_OPTIONS,
  IPV6_EXTENSION_LENGTH,
  IPV6_FRAGMENT,
  IPV6_HEADER_LENGTH,
  IPV6_HOP_BY_HOP,
  IPV6_NEXT_HEADER,
  IPV6_PAYLOAD_LENGTH,
  IPV6_ROUTING,
  IPV6_ROUTING_SEGMENTS_LEFT,
  MAX_VLAN_TAGS,
  TCP_CHECKSUM,
  TCP_CWR,
  TCP_DATA_OFFSET,
  TCP_FIN,
  TCP_FLAGS,
  TCP_MIN_HEADER_LENGTH,
  TCP_PSH,
  TCP_RST,
  TCP_SEQUENCE,
  TCP_SYN,
  TCP_URG,
  TCP_URGENT_POINTER,
  UDP_CHECKSUM,
  UDP_HEADER_LENGTH,
  UDP_LENGTH,
  VLAN_TAG_LENGTH,
} from '../packet/header-fields.ts';
import {
  VIRTIO_NET_HDR_GSO_ECN,
  VIRTIO_NET_HDR_GSO_TCPV4,
  VIRTIO_NET_HDR_GSO_TCPV6,
  VIRTIO_NET_HDR_GSO_UDP_L4,
} from '../vhost/virtio.ts';

/** The longest headers, Ethernet to TCP, that are segmented; the longest without IPv6 extensions are 142 bytes. */
export const MAX_HEADER_LENGTH = 256;
/**
 * Segments that one super-frame may ask for by default: a full one at a gso_size of 32. Without a limit, a guest
 * that says gso_size 1 turns one descriptor into 65,000 frames of work.
 */
export const DEFAULT_MAX_SEGMENTS = 2048;

export const REFUSED_GSO_TYPE = -1;
export const REFUSED_GSO_SIZE_ZERO = -2;
export const REFUSED_LENGTH_BEYOND_BUFFER = -3;
export const REFUSED_FRAME_TOO_LONG = -4;
export const REFUSED_HEADER_TRUNCATED = -5;
export const REFUSED_HEADER_TOO_LONG = -6;
export const REFUSED_NOT_IPV4 = -7;
export const REFUSED_NOT_IPV6 = -8;
export const REFUSED_NOT_IP = -9;
export const REFUSED_IP_HEADER = -10;
export const REFUSED_IP_LENGTH = -11;
export const REFUSED_FRAGMENT = -12;
export const REFUSED_ROUTING_HEADER = -13;
export const REFUSED_NOT_TCP = -14;
export const REFUSED_NOT_UDP = -15;
export const REFUSED_TCP_HEADER = -16;
export const REFUSED_TCP_FLAGS = -17;
export const REFUSED_UDP_LENGTH = -18;
export const REFUSED_CSUM_START = -19;
export const REFUSED_CSUM_OFFSET = -20;
export const REFUSED_TOO_MANY_SEGMENTS = -21;
/** From `emit` only: the segment does not fit behind `outOffset`. */
export const REFUSED_NO_ROOM = -22;

const REFUSALS = new Map<number, string>([
  [REFUSED_GSO_TYPE, 'gso_type is not TCPV4, TCPV6 (with or without ECN) or UDP_L4'],
  [REFUSED_GSO_SIZE_ZERO, 'gso_size is 0'],
  [REFUSED_LENGTH_BEYOND_BUFFER, 'the frame length is beyond the bytes given'],
  [REFUSED_FRAME_TOO_LONG, `the frame is longer than ${MAX_FRAME_BYTES} bytes`],
  [REFUSED_HEADER_TRUNCATED, 'the frame ends inside its headers'],
  [REFUSED_HEADER_TOO_LONG, `the headers are longer than ${MAX_HEADER_LENGTH} bytes`],
  [REFUSED_NOT_IPV4, 'gso_type says TCPV4, the EtherType does not say IPv4'],
  [REFUSED_NOT_IPV6, 'gso_type says TCPV6, the EtherType does not say IPv6'],
  [REFUSED_NOT_IP, 'gso_type says UDP_L4, the EtherType says neither IPv4 nor IPv6'],
  [REFUSED_IP_HEADER, 'the IP version or header length is wrong'],
  [REFUSED_IP_LENGTH, 'the IP length is not what the frame has, or a segment would exceed 65,535 bytes'],
  [REFUSED_FRAGMENT, 'the frame is an IP fragment'],
  [REFUSED_ROUTING_HEADER, 'an IPv6 routing header has segments left'],
  [REFUSED_NOT_TCP, 'gso_type says TCP, the IP header says another protocol'],
  [REFUSED_NOT_UDP, 'gso_type says UDP_L4, the IP header says another protocol'],
  [REFUSED_TCP_HEADER, 'the TCP data offset is less than 5'],
  [REFUSED_TCP_FLAGS, 'the TCP segment has SYN or RST set'],
  [REFUSED_UDP_LENGTH, 'the UDP length is not what the frame has'],
  [REFUSED_CSUM_START, 'csum_start is not where the TCP or UDP header starts'],
  [REFUSED_CSUM_OFFSET, 'csum_offset is not where the TCP or UDP checksum lies'],
  [REFUSED_TOO_MANY_SEGMENTS, 'gso_size is so small that the frame makes too many segments'],
  [REFUSED_NO_ROOM, 'the segment does not fit into the space given'],
]);

/** A log's words for a negative result of `plan` or `emit`. @throws RangeError for any other number. */
export function describeRefusal(refusal: number): string {
  const words = REFUSALS.get(refusal);
  if (words === undefined)
    throw new RangeError(`${refusal} is no refusal of Segmenter: it gives the REFUSED_ constants`);
  return words;
}

/**
 * Copies `length` bytes and returns their partial sum (RFC 1071), as {@link sum} has it. Reading each byte once is what
 * makes the sum fit the copy.
 */
export type CopyAndSum = (
  from: Uint8Array,
  fromOffset: number,
  length: number,
  to: Uint8Array,
  toOffset: number,
) => number;

export interface SegmenterOptions {
  /** Segments that one frame may ask for, 1 to 65,535. Default DEFAULT_MAX_SEGMENTS. */
  maxSegments?: number;
  /** How payload is copied; for arrays of which the caller knows more. */
  copyAndSum?: CopyAndSum;
}

const NO_FRAME = new Uint8Array(0);
/** The largest value of the 16-bit length fields of IPv4, IPv6 and UDP. */
const MAX_LENGTH_FIELD = 0xffff;

export class Segmenter {
  readonly #maxSegments: number;
  readonly #copyAndSum: CopyAndSum;
  /** The planned frame's headers, Ethernet to TCP or UDP: copied by plan, patched by emit. */
  readonly #header = new Uint8Array(MAX_HEADER_LENGTH);
  #frame: Uint8Array = NO_FRAME;
  #segments = 0;
  #gsoSize = 0;
  #isIpv6 = false;
  #isTcp = false;
  #ipOffset = 0;
  /** Where the TCP or UDP header starts. */
  #transportOffset = 0;
  #headerLength = 0;
  #payloadLength = 0;
  // The planned frame's own values of the fields that differ between segments.
  #ipv4Id = 0;
  #tcpSequence = 0;
  #tcpFlags = 0;
  #tcpUrgentPointer = 0;

  /** @throws RangeError for maxSegments outside 1 to 65,535. */
  constructor(options: SegmenterOptions = {}) {
    const { maxSegments = DEFAULT_MAX_SEGMENTS } = options;
    this.#copyAndSum = options.copyAndSum ?? copyAndSum;
    if (!(Number.isInteger(maxSegments) && maxSegments >= 1 && maxSegments <= 0xffff)) {
      throw new RangeError(`segmenter maxSegments is ${maxSegments}: give a whole number from 1 to 65535`);
    }
    this.#maxSegments = maxSegments;
  }

  /**
   * Checks a super-frame against its virtio-net header's fields and remembers how to cut it.
   *
   * The header must have had VIRTIO_NET_HDR_F_NEEDS_CSUM, as §5.1.6.2 demands beside any gso_type. What the checksum
   * field holds does not matter: the pseudo header is summed anew. An IP or UDP length of 0 is taken as "not
   * given", as large-send drivers do; any other must be the frame's.
   *
   * @param frame starts with the Ethernet header; kept until the next plan, and must stay mapped until then
   * @param length bytes of the frame
   * @param gsoSize payload bytes of each segment but the last
   * @returns the number of segments, at least 1, or a negative REFUSED_ constant. Never throws.
   */
  plan(
    frame: Uint8Array,
    length: number,
    gsoType: number,
    gsoSize: number,
    csumStart: number,
    csumOffset: number,
  ): number {
    const result = this.#check(frame, length | 0, gsoType | 0, gsoSize | 0, csumStart | 0, csumOffset | 0);
    this.#segments = Math.max(0, result);
    this.#frame = result < 0 ? NO_FRAME : frame;
    return result;
  }

  /**
   * Length of a planned segment, headers included: what `emit` will need.
   * @throws RangeError for an index that the last plan did not give.
   */
  segmentLength(index: number): number {
    return this.#headerLength + this.#segmentPayload(index);
  }

  /**
   * Writes segment `index` to `out[outOffset, …)`, which must not overlap the planned frame.
   *
   * @returns its length, or REFUSED_NO_ROOM, with nothing written, where `out` ends too early
   * @throws RangeError for an index that the last plan did not give
   */
  emit(index: number, out: Uint8Array, outOffset: number): number {
    const payload = this.#segmentPayload(index);
    const headerLength = this.#headerLength;
    if (!(outOffset >= 0 && outOffset + headerLength + payload <= out.length)) return REFUSED_NO_ROOM;
    const start = index * this.#gsoSize;
    const payloadSum = this.#copyAndSum(this.#frame, headerLength + start, payload, out, outOffset + headerLength);
    const upperLayerLength = headerLength - this.#transportOffset + payload;
    if (this.#isIpv6) this.#patchIpv6(upperLayerLength);
    else this.#patchIpv4(upperLayerLength, index);
    if (this.#isTcp) this.#patchTcp(start, index);
    else putWord16(this.#header, this.#transportOffset + UDP_LENGTH, upperLayerLength);
    this.#patchTransportChecksum(upperLayerLength, payloadSum);
    const header = this.#header;
    for (let i = 0; i < headerLength; i++) out[outOffset + i] = header[i];
    return headerLength + payload;
  }

  #check(
    frame: Uint8Array,
    length: number,
    gsoType: number,
    gsoSize: number,
    csumStart: number,
    csumOffset: number,
  ): number {
    const isTcpv4 = (gsoType & ~VIRTIO_NET_HDR_GSO_ECN) === VIRTIO_NET_HDR_GSO_TCPV4;
    const isTcpv6 = (gsoType & ~VIRTIO_NET_HDR_GSO_ECN) === VIRTIO_NET_HDR_GSO_TCPV6;
    if (!isTcpv4 && !isTcpv6 && gsoType !== VIRTIO_NET_HDR_GSO_UDP_L4) return REFUSED_GSO_TYPE;
    if (gsoSize <= 0) return REFUSED_GSO_SIZE_ZERO;
    if (length > frame.length) return REFUSED_LENGTH_BEYOND_BUFFER;
    if (length > MAX_FRAME_BYTES) return REFUSED_FRAME_TOO_LONG;

    // The one read of the headers. `limit` is what of them there is to read.
    const header = this.#header;
    const limit = Math.min(length, MAX_HEADER_LENGTH);
    for (let i = 0; i < limit; i++) header[i] = frame[i];
    const tooShort = length > MAX_HEADER_LENGTH ? REFUSED_HEADER_TOO_LONG : REFUSED_HEADER_TRUNCATED;

    let ip = ETHERNET_HEADER_LENGTH;
    if (ip > limit) return REFUSED_HEADER_TRUNCATED;
    let etherType = word16(header, ETHERNET_TYPE);
    for (let tags = 0; tags < MAX_VLAN_TAGS && (etherType === ETHERTYPE_CTAG || etherType === ETHERTYPE_STAG); tags++) {
      if (ip + VLAN_TAG_LENGTH > limit) return tooShort;
      ip += VLAN_TAG_LENGTH;
      etherType = word16(header, ip - 2); // the type after a tag is its last two bytes
    }
    if (isTcpv4 && etherType !== ETHERTYPE_IPV4) return REFUSED_NOT_IPV4;
    if (isTcpv6 && etherType !== ETHERTYPE_IPV6) return REFUSED_NOT_IPV6;
    if (etherType !== ETHERTYPE_IPV4 && etherType !== ETHERTYPE_IPV6) return REFUSED_NOT_IP;

    this.#ipOffset = ip;
    this.#isIpv6 = etherType === ETHERTYPE_IPV6;
    this.#isTcp = isTcpv4 || isTcpv6;
    const protocol = this.#isTcp ? IPPROTO_TCP : IPPROTO_UDP;
    const transport = this.#isIpv6
      ? this.#checkIpv6(length, limit, tooShort, protocol)
      : this.#checkIpv4(length, limit, tooShort, protocol);
    if (transport < 0) return transport;
    this.#transportOffset = transport;
    const headerEnd = this.#isTcp ? this.#checkTcp(limit, tooShort) : this.#checkUdp(length, limit, tooShort);
    if (headerEnd < 0) return headerEnd;
    if (csumStart !== transport) return REFUSED_CSUM_START;
    if (csumOffset !== (this.#isTcp ? TCP_CHECKSUM : UDP_CHECKSUM)) return REFUSED_CSUM_OFFSET;

    const payload = length - headerEnd;
    // Only where the frame's own IP length was 0: else this was checked against the frame.
    const ipLengthStart = this.#isIpv6 ? ip + IPV6_HEADER_LENGTH : ip;
    if (headerEnd - ipLengthStart + Math.min(payload, gsoSize) > MAX_LENGTH_FIELD) return REFUSED_IP_LENGTH;
    const segments = Math.max(1, Math.ceil(payload / gsoSize));
    if (segments > this.#maxSegments) return REFUSED_TOO_MANY_SEGMENTS;
    this.#gsoSize = gsoSize;
    this.#headerLength = headerEnd;
    this.#payloadLength = payload;
    return segments;
  }

  /** Returns where the transport header starts, or a refusal. RFC 791 §3.1. */
  #checkIpv4(length: number, limit: number, tooShort: number, protocol: number): number {
    const header = this.#header;
    const ip = this.#ipOffset;
    if (ip + IPV4_MIN_HEADER_LENGTH > limit) return tooShort;
    const headerLength = (header[ip] & 0xf) * 4;
    if (header[ip] >>> 4 !== 4 || headerLength < IPV4_MIN_HEADER_LENGTH) return REFUSED_IP_HEADER;
    const totalLength = word16(header, ip + IPV4_TOTAL_LENGTH);
    if (totalLength !== 0 && totalLength !== length - ip) return REFUSED_IP_LENGTH;
    if ((word16(header, ip + IPV4_FRAGMENT) & IPV4_MF_AND_OFFSET) !== 0) return REFUSED_FRAGMENT;
    if (header[ip + IPV4_PROTOCOL] !== protocol) return this.#isTcp ? REFUSED_NOT_TCP : REFUSED_NOT_UDP;
    this.#ipv4Id = word16(header, ip + IPV4_ID);
    return ip + headerLength;
  }

  /** Returns where the transport header starts, behind the extension headers, or a refusal. RFC 8200 §3 and §4. */
  #checkIpv6(length: number, limit: number, tooShort: number, protocol: number): number {
    const header = this.#header;
    const ip = this.#ipOffset;
    let at = ip + IPV6_HEADER_LENGTH;
    if (at > limit) return tooShort;
    if (header[ip] >>> 4 !== 6) return REFUSED_IP_HEADER;
    const payloadLength = word16(header, ip + IPV6_PAYLOAD_LENGTH);
    if (payloadLength !== 0 && payloadLength !== length - at) return REFUSED_IP_LENGTH;
    let next = header[ip + IPV6_NEXT_HEADER];
    // Behind a length of 0, a hop-by-hop header means a jumbogram (RFC 2675), whose segments would lie.
    if (payloadLength === 0 && next === IPV6_HOP_BY_HOP) return REFUSED_IP_LENGTH;
    // Ends: every extension header is at least 8 bytes long.
    while (next === IPV6_HOP_BY_HOP || next === IPV6_ROUTING || next === IPV6_DESTINATION_OPTIONS) {
      if (at + 8 > limit) return tooShort;
      // The pseudo header would need the last address of the routing header (RFC 8200 §8.1).
      if (next === IPV6_ROUTING && header[at + IPV6_ROUTING_SEGMENTS_LEFT] !== 0) return REFUSED_ROUTING_HEADER;
      next = header[at];
      at += 8 * (1 + header[at + IPV6_EXTENSION_LENGTH]);
    }
    if (next === IPV6_FRAGMENT) return REFUSED_FRAGMENT;
    if (next !== protocol) return this.#isTcp ? REFUSED_NOT_TCP : REFUSED_NOT_UDP;
    return at;
  }

  /** Returns where the payload starts, or a refusal. RFC 9293 §3.1. */
  #checkTcp(limit: number, tooShort: number): number {
    const header = this.#header;
    const tcp = this.#transportOffset;
    if (tcp + TCP_MIN_HEADER_LENGTH > limit) return tooShort;
    const headerLength = (header[tcp + TCP_DATA_OFFSET] >>> 4) * 4;
    if (headerLength < TCP_MIN_HEADER_LENGTH) return REFUSED_TCP_HEADER;
    if (tcp + headerLength > limit) return tooShort;
    const flags = header[tcp + TCP_FLAGS];
    // A SYN takes a sequence number itself, and a connection has but one.
    if ((flags & (TCP_SYN | TCP_RST)) !== 0) return REFUSED_TCP_FLAGS;
    this.#tcpFlags = flags;
    this.#tcpSequence = (word16(header, tcp + TCP_SEQUENCE) << 16) | word16(header, tcp + TCP_SEQUENCE + 2);
    this.#tcpUrgentPointer = word16(header, tcp + TCP_URGENT_POINTER);
    return tcp + headerLength;
  }

  /** Returns where the payload starts, or a refusal. RFC 768. */
  #checkUdp(length: number, limit: number, tooShort: number): number {
    const udp = this.#transportOffset;
    if (udp + UDP_HEADER_LENGTH > limit) return tooShort;
    const udpLength = word16(this.#header, udp + UDP_LENGTH);
    if (udpLength !== 0 && udpLength !== length - udp) return REFUSED_UDP_LENGTH;
    return udp + UDP_HEADER_LENGTH;
  }

  #segmentPayload(index: number): number {
    if (!(Number.isInteger(index) && index >= 0 && index < this.#segments)) {
      throw new RangeError(
        `segment ${index} of a plan of ${this.#segments}: emit 0 to the count that plan returned, less 1`,
      );
    }
    return Math.min(this.#gsoSize, this.#payloadLength - index * this.#gsoSize);
  }

  #patchIpv4(upperLayerLength: number, index: number): void {
    const header = this.#header;
    const ip = this.#ipOffset;
    putWord16(header, ip + IPV4_TOTAL_LENGTH, this.#transportOffset - ip + upperLayerLength);
    putWord16(header, ip + IPV4_ID, this.#ipv4Id + index);
    putWord16(header, ip + IPV4_CHECKSUM, 0);
    putWord16(header, ip + IPV4_CHECKSUM, finish(sum(header, ip, this.#transportOffset, 0)));
  }

  #patchIpv6(upperLayerLength: number): void {
    const extensions = this.#transportOffset - this.#ipOffset - IPV6_HEADER_LENGTH;
    putWord16(this.#header, this.#ipOffset + IPV6_PAYLOAD_LENGTH, extensions + upperLayerLength);
  }

  /** `start`: how many payload bytes of the super-frame come before this segment's. */
  #patchTcp(start: number, index: number): void {
    const header = this.#header;
    const tcp = this.#transportOffset;
    const sequence = (this.#tcpSequence + start) | 0;
    putWord16(header, tcp + TCP_SEQUENCE, sequence >>> 16);
    putWord16(header, tcp + TCP_SEQUENCE + 2, sequence);
    let flags = this.#tcpFlags;
    let urgent = this.#tcpUrgentPointer;
    if (index !== this.#segments - 1) flags &= ~(TCP_FIN | TCP_PSH);
    if (index !== 0) {
      flags &= ~TCP_CWR; // sent once for each reduction: RFC 3168 §6.1.2
      // The urgent pointer counts from the segment's own sequence number (RFC 9293 §3.1).
      urgent = Math.max(0, urgent - start);
      if (urgent === 0) flags &= ~TCP_URG;
    }
    header[tcp + TCP_FLAGS] = flags;
    putWord16(header, tcp + TCP_URGENT_POINTER, urgent);
  }

  #patchTransportChecksum(upperLayerLength: number, payloadSum: number): void {
    const header = this.#header;
    const ip = this.#ipOffset;
    const protocol = this.#isTcp ? IPPROTO_TCP : IPPROTO_UDP;
    const pseudo = this.#isIpv6
      ? pseudoHeaderSumIpv6(header, ip + IPV6_ADDRESSES, protocol, upperLayerLength)
      : pseudoHeaderSumIpv4(header, ip + IPV4_ADDRESSES, protocol, upperLayerLength);
    const field = this.#transportOffset + (this.#isTcp ? TCP_CHECKSUM : UDP_CHECKSUM);
    putWord16(header, field, 0);
    const partial = sum(header, this.#transportOffset, this.#headerLength, pseudo + payloadSum);
    putWord16(header, field, this.#isTcp ? finish(partial) : finishUdp(partial));
  }
}

/** Unfolded, the payload of a frame of MAX_FRAME_BYTES sums to less than 2^31. */
function copyAndSum(from: Uint8Array, fromOffset: number, length: number, to: Uint8Array, toOffset: number): number {
  let total = 0;
  let i = 0;
  for (; i + 1 < length; i += 2) {
    const high = from[fromOffset + i];
    const low = from[fromOffset + i + 1];
    to[toOffset + i] = high;
    to[toOffset + i + 1] = low;
    total += (high << 8) | low;
  }
  if (i < length) {
    const last = from[fromOffset + i];
    to[toOffset + i] = last;
    total += last << 8;
  }
  return fold(total);
}

function word16(bytes: Uint8Array, at: number): number {
  return (bytes[at] << 8) | bytes[at + 1];
}

function putWord16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}
