/**
 * Where the headers of a frame lie, as the card's parser sees them (82599 datasheet §7.1.6.2, packet type; §7.1.11, which
 * extension headers of IPv6 it looks beyond).
 */
import {
  ETHERNET_HEADER_LENGTH,
  ETHERNET_TYPE,
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  IPPROTO_TCP,
  IPPROTO_UDP,
  IPV4_FRAGMENT,
  IPV4_MF_AND_OFFSET,
  IPV4_MIN_HEADER_LENGTH,
  IPV4_PROTOCOL,
  IPV4_TOTAL_LENGTH,
  IPV6_DESTINATION_OPTIONS,
  IPV6_EXTENSION_LENGTH,
  IPV6_FRAGMENT,
  IPV6_HEADER_LENGTH,
  IPV6_HOP_BY_HOP,
  IPV6_NEXT_HEADER,
  IPV6_PAYLOAD_LENGTH,
  IPV6_ROUTING,
  TCP_MIN_HEADER_LENGTH,
  UDP_HEADER_LENGTH,
  VLAN_TAG_LENGTH,
} from '../../packet/header-fields.ts';

const EXTENSION_UNIT = 8;
export const NO_TAG = -1;

/** The headers of the frame that was parsed last. One is used again and again. */
export class PacketHeaders {
  /** The tag control information of the outermost 802.1Q tag, or NO_TAG. */
  vlanTag = NO_TAG;
  /** Offset of the IP header; 0 without one. */
  network = 0;
  isIpv4 = false;
  isIpv6 = false;
  /** IPv4 with options, or IPv6 with extension headers. */
  hasOptions = false;
  isFragment = false;
  /** Offset of the transport header, and the end of what the IP header says there is; 0 where there is no such header. */
  transport = 0;
  end = 0;
  isTcp = false;
  isUdp = false;

  /** Looks at a whole frame; `tagType` is the EtherType of a VLAN tag (VLNCTRL.VET). Never looks beyond it. */
  parse(frame: Uint8Array, tagType: number): void {
    this.vlanTag = NO_TAG;
    this.network = 0;
    this.isIpv4 = false;
    this.isIpv6 = false;
    this.hasOptions = false;
    this.isFragment = false;
    this.transport = 0;
    this.end = 0;
    this.isTcp = false;
    this.isUdp = false;
    if (frame.length < ETHERNET_HEADER_LENGTH) return;
    let at = ETHERNET_HEADER_LENGTH;
    let type = word(frame, ETHERNET_TYPE);
    if (type === tagType && frame.length >= at + VLAN_TAG_LENGTH) {
      this.vlanTag = word(frame, at);
      type = word(frame, at + 2);
      at += VLAN_TAG_LENGTH;
    }
    if (type === ETHERTYPE_IPV4) this.#parseIpv4(frame, at);
    else if (type === ETHERTYPE_IPV6) this.#parseIpv6(frame, at);
  }

  #parseIpv4(frame: Uint8Array, at: number): void {
    if (frame.length < at + IPV4_MIN_HEADER_LENGTH || frame[at]! >>> 4 !== 4) return;
    const headerLength = (frame[at]! & 0xf) * 4;
    const end = at + word(frame, at + IPV4_TOTAL_LENGTH);
    if (headerLength < IPV4_MIN_HEADER_LENGTH || at + headerLength > end || end > frame.length) return;
    this.isIpv4 = true;
    this.network = at;
    this.end = end;
    this.hasOptions = headerLength > IPV4_MIN_HEADER_LENGTH;
    this.isFragment = (word(frame, at + IPV4_FRAGMENT) & IPV4_MF_AND_OFFSET) !== 0;
    this.#noteTransport(frame[at + IPV4_PROTOCOL]!, at + headerLength);
  }

  #parseIpv6(frame: Uint8Array, at: number): void {
    if (frame.length < at + IPV6_HEADER_LENGTH || frame[at]! >>> 4 !== 6) return;
    const end = at + IPV6_HEADER_LENGTH + word(frame, at + IPV6_PAYLOAD_LENGTH);
    if (end > frame.length) return;
    this.isIpv6 = true;
    this.network = at;
    this.end = end;
    let next = frame[at + IPV6_NEXT_HEADER]!;
    let header = at + IPV6_HEADER_LENGTH;
    while (
      (next === IPV6_HOP_BY_HOP ||
        next === IPV6_ROUTING ||
        next === IPV6_DESTINATION_OPTIONS ||
        next === IPV6_FRAGMENT) &&
      header + EXTENSION_UNIT <= end
    ) {
      this.hasOptions = true;
      if (next === IPV6_FRAGMENT) {
        this.isFragment = true;
        return;
      }
      // Not looked beyond: its checksum is over the last address that it holds, not over the one in the IPv6 header.
      if (next === IPV6_ROUTING && frame[header + IPV6_EXTENSION_LENGTH] !== 0) return;
      next = frame[header]!;
      header += EXTENSION_UNIT * (1 + frame[header + IPV6_EXTENSION_LENGTH]!);
    }
    this.#noteTransport(next, header);
  }

  #noteTransport(protocol: number, at: number): void {
    if (this.isFragment) return;
    this.isTcp = protocol === IPPROTO_TCP && at + TCP_MIN_HEADER_LENGTH <= this.end;
    this.isUdp = protocol === IPPROTO_UDP && at + UDP_HEADER_LENGTH <= this.end;
    if (this.isTcp || this.isUdp) this.transport = at;
  }
}

/** Sixteen bits in network order. */
export function word(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

/** Writes sixteen bits in network order. */
export function setWord(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}
