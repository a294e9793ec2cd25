/**
 * IPv4 and ICMP on the wire (RFC 791, RFC 792): what packet/header-fields.ts does not have of them, and how headers are
 * written and options read.
 */
import { finish, sum } from '../../packet/checksum.ts';
import {
  IPV4_ADDRESSES,
  IPV4_CHECKSUM,
  IPV4_FRAGMENT,
  IPV4_ID,
  IPV4_PROTOCOL,
  IPV4_TOTAL_LENGTH,
} from '../../packet/header-fields.ts';

export const IPV4_TYPE_OF_SERVICE = 1;
export const IPV4_TTL = 8;
export const IPV4_SOURCE = IPV4_ADDRESSES;
export const IPV4_DESTINATION = IPV4_ADDRESSES + 4;
export const IPV4_MAX_HEADER_LENGTH = 60;
export const IPV4_MAX_TOTAL_LENGTH = 65_535;
/** Flags in {@link IPV4_FRAGMENT}. */
export const IPV4_DF = 0x4000;
export const IPV4_MF = 0x2000;
export const IPV4_OFFSET_MASK = 0x1fff;
/** Offsets of fragments count these. */
export const IPV4_FRAGMENT_UNIT = 8;
/** Version 4 and five words of header. */
export const IPV4_VERSION_AND_LENGTH = 0x45;

export const IPPROTO_ICMP = 1;
export const IPPROTO_IGMP = 2;
export const IPPROTO_ICMPV6 = 58;

// Options, RFC 791 §3.1, RFC 2113.
export const IPOPT_END = 0;
export const IPOPT_NOP = 1;
export const IPOPT_RECORD_ROUTE = 7;
export const IPOPT_TIMESTAMP = 68;
export const IPOPT_LOOSE_SOURCE_ROUTE = 131;
export const IPOPT_STRICT_SOURCE_ROUTE = 137;
export const IPOPT_ROUTER_ALERT = 148;
/** An option is to be in every fragment (RFC 791 §3.1, "copied flag"). */
export const IPOPT_COPIED = 0x80;

// ICMP, RFC 792.
export const ICMP_TYPE = 0;
export const ICMP_CODE = 1;
export const ICMP_CHECKSUM = 2;
export const ICMP_ID = 4;
export const ICMP_SEQUENCE = 6;
/** Next-Hop MTU of a fragmentation needed (RFC 1191 §4). */
export const ICMP_NEXT_HOP_MTU = 6;
export const ICMP_HEADER_LENGTH = 8;
export const ICMP_ECHO_REPLY = 0;
export const ICMP_UNREACHABLE = 3;
export const ICMP_SOURCE_QUENCH = 4;
export const ICMP_REDIRECT = 5;
export const ICMP_ECHO_REQUEST = 8;
export const ICMP_TIME_EXCEEDED = 11;
export const ICMP_PARAMETER_PROBLEM = 12;
// Codes of ICMP_UNREACHABLE (RFC 792, RFC 1122 §3.2.2.1, RFC 1812 §5.2.7.1).
export const UNREACHABLE_NET = 0;
export const UNREACHABLE_HOST = 1;
export const UNREACHABLE_PROTOCOL = 2;
export const UNREACHABLE_PORT = 3;
export const FRAGMENTATION_NEEDED = 4;
export const SOURCE_ROUTE_FAILED = 5;
export const UNREACHABLE_NET_UNKNOWN = 6;
export const UNREACHABLE_NET_PROHIBITED = 9;
export const UNREACHABLE_HOST_PROHIBITED = 10;
export const UNREACHABLE_NET_FOR_SERVICE = 11;
export const UNREACHABLE_PROHIBITED = 13;
/** Code of ICMP_TIME_EXCEEDED. */
export const REASSEMBLY_TIME_EXCEEDED = 1;

/** {@link checkOptions}: all well. Else an offset into the header, for ICMP's pointer, or one of these. */
export const OPTIONS_FINE = 0;
export const OPTIONS_SOURCE_ROUTE = -1;

/**
 * Looks through the options in `bytes[at + 20, at + headerLength)`: OPTIONS_FINE, OPTIONS_SOURCE_ROUTE, or where in the
 * header the error is (RFC 1122 §3.2.2.5). Those that nobody knows are ignored (RFC 1122 §3.2.1.8).
 */
export function checkOptions(bytes: Uint8Array, at: number, headerLength: number): number {
  let offset = 20;
  let sourceRouted = false;
  while (offset < headerLength) {
    const type = bytes[at + offset]!;
    if (type === IPOPT_END) break;
    if (type === IPOPT_NOP) {
      offset++;
      continue;
    }
    if (offset + 1 >= headerLength) return offset;
    const length = bytes[at + offset + 1]!;
    if (length < 2 || offset + length > headerLength) return offset + 1;
    switch (type) {
      case IPOPT_LOOSE_SOURCE_ROUTE:
      case IPOPT_STRICT_SOURCE_ROUTE:
        sourceRouted = true;
        break;
      case IPOPT_RECORD_ROUTE:
        if (length < 3 || bytes[at + offset + 2]! < 4) return offset + 2;
        break;
      case IPOPT_TIMESTAMP:
        if (length < 4 || bytes[at + offset + 2]! < 5) return offset + 2;
        break;
      case IPOPT_ROUTER_ALERT:
        if (length !== 4) return offset + 1;
    }
    offset += length;
  }
  return sourceRouted ? OPTIONS_SOURCE_ROUTE : OPTIONS_FINE;
}

/** Writes a header without options, its checksum included. Addresses are signed words. */
export function writeIpv4Header(
  bytes: Uint8Array,
  at: number,
  trafficClass: number,
  totalLength: number,
  id: number,
  fragment: number,
  ttl: number,
  protocol: number,
  source: number,
  destination: number,
): void {
  bytes[at] = IPV4_VERSION_AND_LENGTH;
  bytes[at + IPV4_TYPE_OF_SERVICE] = trafficClass;
  write16(bytes, at + IPV4_TOTAL_LENGTH, totalLength);
  write16(bytes, at + IPV4_ID, id);
  write16(bytes, at + IPV4_FRAGMENT, fragment);
  bytes[at + IPV4_TTL] = ttl;
  bytes[at + IPV4_PROTOCOL] = protocol;
  write32(bytes, at + IPV4_SOURCE, source);
  write32(bytes, at + IPV4_DESTINATION, destination);
  writeIpv4Checksum(bytes, at, 20);
}

/** Fills in the checksum of a header of `headerLength` bytes. */
export function writeIpv4Checksum(bytes: Uint8Array, at: number, headerLength: number): void {
  write16(bytes, at + IPV4_CHECKSUM, 0);
  write16(bytes, at + IPV4_CHECKSUM, finish(sum(bytes, at, at + headerLength, 0)));
}

export function read16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

export function write16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}

export function write32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

/** `10.0.0.1`, for messages. */
export function showIpv4(bytes: Uint8Array, at = 0): string {
  return `${bytes[at]}.${bytes[at + 1]}.${bytes[at + 2]}.${bytes[at + 3]}`;
}

/** The four bytes of `10.0.0.1`. Throws RangeError. */
export function parseIpv4(text: string): Uint8Array {
  const parts = text.split('.');
  if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) <= 255)) {
    throw new RangeError(`"${text}" is no IPv4 address: give four numbers from 0 to 255, as in 10.0.0.1`);
  }
  return Uint8Array.from(parts, Number);
}
