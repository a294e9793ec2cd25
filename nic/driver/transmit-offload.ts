/**
 * From the offload fields of a virtio-net header (virtio 1.2 §5.1.6.2) to the words of a context and a data descriptor
 * (82599 datasheet §7.2.3.2.3, §7.2.3.2.4): checksums that the card inserts, and frames that it segments (TSO, and UDP's).
 *
 * {@link TransmitOffload.plan} looks at a frame's first bytes; what the card cannot do it refuses, and software does that.
 * {@link TransmitOffload.prepare} then changes the copy of the headers that the card will read, as it wants them for
 * segmentation: lengths of 0, and a pseudo-header sum without the length (§7.2.4.5). Hot: allocates nothing.
 */
import { fold } from '../../packet/checksum.ts';
import {
  ETHERNET_HEADER_LENGTH,
  ETHERNET_TYPE,
  ETHERTYPE_CTAG,
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  ETHERTYPE_STAG,
  IPPROTO_TCP,
  IPPROTO_UDP,
  IPV4_CHECKSUM,
  IPV4_FRAGMENT,
  IPV4_IHL_MASK,
  IPV4_MF_AND_OFFSET,
  IPV4_MIN_HEADER_LENGTH,
  IPV4_PROTOCOL,
  IPV4_TOTAL_LENGTH,
  IPV6_DESTINATION_OPTIONS,
  IPV6_EXTENSION_LENGTH,
  IPV6_HEADER_LENGTH,
  IPV6_HOP_BY_HOP,
  IPV6_NEXT_HEADER,
  IPV6_PAYLOAD_LENGTH,
  IPV6_ROUTING,
  MAX_VLAN_TAGS,
  TCP_CHECKSUM,
  TCP_DATA_OFFSET,
  TCP_MIN_HEADER_LENGTH,
  UDP_CHECKSUM,
  UDP_HEADER_LENGTH,
  VLAN_TAG_LENGTH,
} from '../../packet/header-fields.ts';
import {
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_ECN,
  VIRTIO_NET_HDR_GSO_NONE,
  VIRTIO_NET_HDR_GSO_TCPV4,
  VIRTIO_NET_HDR_GSO_TCPV6,
  VIRTIO_NET_HDR_GSO_UDP_L4,
} from '../../vhost/virtio.ts';
import {
  CONTEXT_IPLEN_MASK,
  CONTEXT_L4LEN_MASK,
  CONTEXT_L4LEN_SHIFT,
  CONTEXT_MACLEN_SHIFT,
  CONTEXT_MSS_SHIFT,
  CONTEXT_TUCMD_IPV4,
  CONTEXT_TUCMD_L4T_TCP,
  CONTEXT_TUCMD_L4T_UDP,
  TXD_CC,
  TXD_CMD_DEXT,
  TXD_CMD_TSE,
  TXD_DTYP_CONTEXT,
  TXD_PAYLEN_SHIFT,
  TXD_POPTS_IXSM,
  TXD_POPTS_TXSM,
} from '../descriptors.ts';

/** One segment carries this much at least: a card that cut a frame into crumbs would choke (DPDK asks for as much). */
const MIN_MSS = 64;
/** The version in the first four bits of an IP header (RFC 791 §3.1, RFC 8200 §3). */
const IPV4 = 4;
const IPV6 = 6;
const NONE = -1;

export class TransmitOffload {
  /** Words 0, 2 and 3 of the context descriptor; word 1 is 0. */
  context0 = 0;
  context2 = 0;
  context3 = 0;
  /** What the data descriptors' third word gets besides; and the first one's fourth word. */
  command = 0;
  options = 0;
  #postedWord0 = NONE;
  #postedWord2 = NONE;
  #postedWord3 = NONE;
  #network = 0;
  #transport = 0;
  #isIpv4 = false;
  #checksumAt = 0;
  /** Bytes from the transport header on, of a frame to be segmented; 0 of others. */
  #transportLength = 0;

  /**
   * Looks at a frame of `length` bytes, of which `shown` are at `headers[at]`, with its offload fields. False: the card cannot
   * do this. No segment may be longer than `maxFrameBytes`.
   */
  plan(
    headers: Uint8Array,
    at: number,
    shown: number,
    length: number,
    flags: number,
    gsoType: number,
    gsoSize: number,
    csumStart: number,
    csumOffset: number,
    maxFrameBytes: number,
  ): boolean {
    if ((flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) === 0) return false;
    let network = ETHERNET_HEADER_LENGTH;
    let type = word(headers, at + ETHERNET_TYPE);
    for (let tags = 0; tags < MAX_VLAN_TAGS && (type === ETHERTYPE_CTAG || type === ETHERTYPE_STAG); tags++) {
      network += VLAN_TAG_LENGTH;
      if (network > shown) return false;
      type = word(headers, at + network - 2);
    }
    this.#isIpv4 = type === ETHERTYPE_IPV4;
    if (!this.#isIpv4 && type !== ETHERTYPE_IPV6) return false;
    const isTcp = csumOffset === TCP_CHECKSUM;
    if (!isTcp && csumOffset !== UDP_CHECKSUM) return false;
    const ipLength = csumStart - network;
    if (ipLength < (this.#isIpv4 ? IPV4_MIN_HEADER_LENGTH : IPV6_HEADER_LENGTH) || ipLength > CONTEXT_IPLEN_MASK)
      return false;
    this.#network = network;
    this.#transport = csumStart;
    this.#checksumAt = csumStart + csumOffset;
    this.#transportLength = 0;
    this.context0 = ipLength | (network << CONTEXT_MACLEN_SHIFT);
    this.context2 =
      TXD_DTYP_CONTEXT |
      TXD_CMD_DEXT |
      (isTcp ? CONTEXT_TUCMD_L4T_TCP : CONTEXT_TUCMD_L4T_UDP) |
      (this.#isIpv4 ? CONTEXT_TUCMD_IPV4 : 0);
    this.context3 = 0;
    this.command = 0;
    this.options = TXD_CC | TXD_POPTS_TXSM | (length << TXD_PAYLEN_SHIFT);
    const gso = gsoType & ~VIRTIO_NET_HDR_GSO_ECN;
    return (
      gso === VIRTIO_NET_HDR_GSO_NONE ||
      this.#planSegments(headers, at, shown, length, gso, gsoSize, isTcp, maxFrameBytes)
    );
  }

  #planSegments(
    headers: Uint8Array,
    at: number,
    shown: number,
    length: number,
    gso: number,
    gsoSize: number,
    isTcp: boolean,
    maxFrameBytes: number,
  ): boolean {
    const transport = this.#transport;
    const wanted = isTcp ? TCP_MIN_HEADER_LENGTH : UDP_HEADER_LENGTH;
    if (transport + wanted > shown || gsoSize < MIN_MSS) return false;
    const fits = isTcp
      ? gso === (this.#isIpv4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6)
      : gso === VIRTIO_NET_HDR_GSO_UDP_L4;
    if (!fits || !this.#leadsToTransport(headers, at, isTcp)) return false;
    const l4Length = isTcp ? (headers[at + transport + TCP_DATA_OFFSET]! >>> 4) * 4 : UDP_HEADER_LENGTH;
    if (l4Length < wanted || l4Length > CONTEXT_L4LEN_MASK || transport + l4Length >= length) return false;
    if (transport + l4Length + gsoSize > maxFrameBytes) return false;
    this.#transportLength = length - transport;
    this.context3 = (l4Length << CONTEXT_L4LEN_SHIFT) | (gsoSize << CONTEXT_MSS_SHIFT);
    this.command = TXD_CMD_TSE | 0;
    // PAYLEN counts what is to be segmented (§7.2.3.2.4).
    this.options =
      TXD_CC |
      TXD_POPTS_TXSM |
      (this.#isIpv4 ? TXD_POPTS_IXSM : 0) |
      ((length - transport - l4Length) << TXD_PAYLEN_SHIFT);
    return true;
  }

  /**
   * Whether the IP header leads to the transport's, and to no other IP header: the card changes lengths in one alone. Fragments
   * are none of a super-frame. Shown is all up to the transport header.
   */
  #leadsToTransport(headers: Uint8Array, at: number, isTcp: boolean): boolean {
    const ip = at + this.#network;
    const protocol = isTcp ? IPPROTO_TCP : IPPROTO_UDP;
    const length = this.#transport - this.#network;
    if (this.#isIpv4) {
      const isWhole = (word(headers, ip + IPV4_FRAGMENT) & IPV4_MF_AND_OFFSET) === 0;
      const fits = headers[ip]! >>> 4 === IPV4 && (headers[ip]! & IPV4_IHL_MASK) * 4 === length;
      return fits && isWhole && headers[ip + IPV4_PROTOCOL] === protocol;
    }
    if (headers[ip]! >>> 4 !== IPV6) return false;
    let next = headers[ip + IPV6_NEXT_HEADER]!;
    let offset = IPV6_HEADER_LENGTH;
    while (offset < length && isExtension(next)) {
      next = headers[ip + offset]!;
      offset += (headers[ip + offset + IPV6_EXTENSION_LENGTH]! + 1) * 8;
    }
    return offset === length && next === protocol;
  }

  /** Makes the headers of the frame at `bytes[at]`, which the card will read, what it wants them to be. */
  prepare(bytes: Uint8Array, at: number): void {
    const length = this.#transportLength;
    if (length === 0) return;
    if (this.#isIpv4) {
      setWord(bytes, at + this.#network + IPV4_TOTAL_LENGTH, 0);
      setWord(bytes, at + this.#network + IPV4_CHECKSUM, 0);
    } else setWord(bytes, at + this.#network + IPV6_PAYLOAD_LENGTH, 0);
    // Ones' complement: subtracting is adding the complement. A length has more than 16 bits at times.
    const field = at + this.#checksumAt;
    setWord(bytes, field, fold(word(bytes, field) + (~fold(length) & 0xffff)));
  }

  /** Whether the context must be posted: it is not the one that the queue has. It counts as posted then. */
  takeContext(): boolean {
    if (
      this.context0 === this.#postedWord0 &&
      this.context2 === this.#postedWord2 &&
      this.context3 === this.#postedWord3
    ) {
      return false;
    }
    this.#postedWord0 = this.context0;
    this.#postedWord2 = this.context2;
    this.#postedWord3 = this.context3;
    return true;
  }
}

/** Whether an IPv6 header of that number stands before a transport header and is repeated in each segment. */
function isExtension(header: number): boolean {
  return header === IPV6_HOP_BY_HOP || header === IPV6_ROUTING || header === IPV6_DESTINATION_OPTIONS;
}

function word(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

function setWord(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}
