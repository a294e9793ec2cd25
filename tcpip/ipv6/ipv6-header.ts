/**
 * IPv6 and its extension headers on the wire (RFC 8200): where fields lie that packet/header-fields.ts does not have, the
 * numbers in them, and how a header is written.
 */

export const IPV6_HOP_LIMIT = 7;
export const IPV6_SOURCE = 8;
export const IPV6_DESTINATION = 24;
export const IPV6_ADDRESS_BYTES = 16;
/** RFC 8200 §5: what every link takes in one piece. */
export const IPV6_MIN_MTU = 1280;
/** Reassembled packets have a payload of 16 bits' worth (RFC 8200 §4.5). */
export const IPV6_MAX_PAYLOAD = 65_535;

// Next Header values that are no transport's (IANA, Assigned Internet Protocol Numbers).
export const IPPROTO_ICMPV6 = 58;
export const IPV6_NO_NEXT_HEADER = 59;

/** Extension headers are whole numbers of these, in bytes. */
export const EXTENSION_UNIT = 8;

// Fragment header, RFC 8200 §4.5.
export const FRAGMENT_HEADER_BYTES = 8;
/** Offset in units of 8 bytes, 13 bits; two reserved bits; M. */
export const FRAGMENT_OFFSET = 2;
export const FRAGMENT_ID = 4;
export const FRAGMENT_OFFSET_MASK = 0xfff8;
export const FRAGMENT_MORE = 0x0001;

// Options of hop-by-hop and destination options headers, RFC 8200 §4.2.
export const OPTION_PAD1 = 0x00;
export const OPTION_PADN = 0x01;
/** RFC 2711. */
export const OPTION_ROUTER_ALERT = 0x05;
export const ROUTER_ALERT_DATA_BYTES = 2;
/** RFC 2711 §2.1: the packet holds a message of Multicast Listener Discovery. */
export const ROUTER_ALERT_MLD = 0;
/** The two highest bits of an option type: what becomes of a packet with an option that nobody knows. */
export const OPTION_ACTION_SHIFT = 6;
export const ACTION_SKIP = 0;
export const ACTION_DISCARD = 1;
/** Tell the sender even when the packet was for a group. */
export const ACTION_REPORT = 2;
export const ACTION_REPORT_UNLESS_GROUP = 3;

/** Type of a routing header, RFC 8200 §4.4. */
export const ROUTING_TYPE = 2;

/** Writes all of a header but the addresses (RFC 8200 §3). `flowLabel` has 20 bits. */
export function writeIpv6Header(
  bytes: Uint8Array,
  at: number,
  trafficClass: number,
  flowLabel: number,
  payloadLength: number,
  nextHeader: number,
  hopLimit: number,
): void {
  bytes[at] = 0x60 | (trafficClass >>> 4);
  bytes[at + 1] = (trafficClass << 4) | ((flowLabel >>> 16) & 0x0f);
  bytes[at + 2] = flowLabel >>> 8;
  bytes[at + 3] = flowLabel;
  bytes[at + 4] = payloadLength >>> 8;
  bytes[at + 5] = payloadLength;
  bytes[at + 6] = nextHeader;
  bytes[at + 7] = hopLimit;
}

/** The big-endian 16 bits at `at`. */
export function uint16At(bytes: Uint8Array, at: number): number {
  return (bytes[at] << 8) | bytes[at + 1];
}

/** The big-endian 32 bits at `at`, not negative. */
export function uint32At(bytes: Uint8Array, at: number): number {
  return ((bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3]) >>> 0;
}

export function writeUint16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}

export function writeUint32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}
