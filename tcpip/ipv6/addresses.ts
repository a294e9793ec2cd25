/** Kinds of IPv6 addresses (RFC 4291). Addresses are 16 bytes from `at` on; nothing here allocates but what gives new ones. */
import { IPV6_ADDRESS_BYTES } from './ipv6-header.ts';

export const UNSPECIFIED: Readonly<Uint8Array> = new Uint8Array(IPV6_ADDRESS_BYTES);
/** ::1 */
export const LOOPBACK: Readonly<Uint8Array> = addressOf(0, 1);
/** ff02::1 */
export const ALL_NODES: Readonly<Uint8Array> = addressOf(0xff020000, 1);
/** ff02::2 */
export const ALL_ROUTERS: Readonly<Uint8Array> = addressOf(0xff020000, 2);
/** ff02::16 (RFC 3810 §5.2.14). */
export const ALL_MLDV2_ROUTERS: Readonly<Uint8Array> = addressOf(0xff020000, 0x16);

/** Bits of the prefix of every unicast address that makes its own interface id (RFC 4291 §2.5.1). */
export const SUBNET_PREFIX_BITS = 64;

// Scopes (RFC 4291 §2.7, RFC 6724 §3.1).
export const SCOPE_INTERFACE = 0x1;
export const SCOPE_LINK = 0x2;
export const SCOPE_SITE = 0x5;
export const SCOPE_GLOBAL = 0xe;

/** First two bytes of the MAC address of a group; the group's last four follow (RFC 2464 §7). */
export const GROUP_MAC_HIGH = 0x3333;

function addressOf(first: number, last: number): Uint8Array {
  const bytes = new Uint8Array(IPV6_ADDRESS_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, first);
  view.setUint32(12, last);
  return bytes;
}

export function isMulticast(bytes: Uint8Array, at: number): boolean {
  return bytes[at] === 0xff;
}

export function isUnspecified(bytes: Uint8Array, at: number): boolean {
  return startsWithZeros(bytes, at, 16);
}

/** ::1 */
export function isLoopback(bytes: Uint8Array, at: number): boolean {
  return bytes[at + 15] === 1 && startsWithZeros(bytes, at, 15);
}

/** fe80::/10 */
export function isLinkLocal(bytes: Uint8Array, at: number): boolean {
  return bytes[at] === 0xfe && (bytes[at + 1] & 0xc0) === 0x80;
}

function startsWithZeros(bytes: Uint8Array, at: number, count: number): boolean {
  for (let i = 0; i < count; i++) if (bytes[at + i] !== 0) return false;
  return true;
}

export function sameAddress(a: Uint8Array, aAt: number, b: Uint8Array, bAt: number): boolean {
  for (let i = 0; i < IPV6_ADDRESS_BYTES; i++) if (a[aAt + i] !== b[bAt + i]) return false;
  return true;
}

/** Scope of any address: of a group what it says, ::1 and link-local ones the link's (RFC 6724 §3.1, §3.4). */
export function scopeOf(bytes: Uint8Array, at: number): number {
  if (isMulticast(bytes, at)) return bytes[at + 1] & 0x0f;
  if (isLinkLocal(bytes, at) || isLoopback(bytes, at)) return SCOPE_LINK;
  // fec0::/10, site-local and deprecated.
  if (bytes[at] === 0xfe && (bytes[at + 1] & 0xc0) === 0xc0) return SCOPE_SITE;
  return SCOPE_GLOBAL;
}

/** ff02::1:ff00:0/104 with the last 24 bits of an address (RFC 4291 §2.7.1). */
export function isSolicitedNode(bytes: Uint8Array, at: number): boolean {
  return (
    bytes[at] === 0xff &&
    bytes[at + 1] === 0x02 &&
    startsWithZeros(bytes, at + 2, 9) &&
    bytes[at + 11] === 0x01 &&
    bytes[at + 12] === 0xff
  );
}

/** The solicited-node group of an address (RFC 4291 §2.7.1). */
export function solicitedNode(bytes: Uint8Array, at: number): Uint8Array {
  const group = addressOf(0xff020000, 0);
  group[11] = 0x01;
  group[12] = 0xff;
  for (let i = 13; i < IPV6_ADDRESS_BYTES; i++) group[i] = bytes[at + i];
  return group;
}

/** The lower part of a group's MAC address (RFC 2464 §7), signed. */
export function groupMacLow(bytes: Uint8Array, at: number): number {
  return (bytes[at + 12] << 24) | (bytes[at + 13] << 16) | (bytes[at + 14] << 8) | bytes[at + 15];
}

/** How many bits from the first on two addresses have in common. */
export function commonPrefixBits(a: Uint8Array, aAt: number, b: Uint8Array, bAt: number): number {
  for (let i = 0; i < IPV6_ADDRESS_BYTES; i++) {
    const difference = a[aAt + i] ^ b[bAt + i];
    if (difference !== 0) return 8 * i + Math.clz32(difference) - 24;
  }
  return 8 * IPV6_ADDRESS_BYTES;
}

/** Something to look an address up by in a Map: control paths only. */
export function keyOf(bytes: Uint8Array, at: number, length = IPV6_ADDRESS_BYTES): string {
  let key = '';
  for (let i = 0; i < length; i++) key += String.fromCharCode(bytes[at + i]);
  return key;
}

export function copyAddress(bytes: Uint8Array, at: number): Uint8Array {
  return bytes.slice(at, at + IPV6_ADDRESS_BYTES);
}
