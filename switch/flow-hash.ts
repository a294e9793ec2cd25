/**
 * The flow hash that spreads frames over a port's queues, as Linux's tun driver does: the same for both directions
 * of a flow, so the queue that a guest sends a flow from is the queue to give it the answers on.
 *
 * Hashed are, where the header bytes given show them:
 * - TCP or UDP over IPv4 or IPv6: protocol, addresses and ports;
 * - other protocols, and every fragment (the first too, which alone has the ports: so that a datagram's fragments
 *   stay together): protocol and addresses;
 * - other frames: the two MAC addresses.
 *
 * Pure arithmetic on numbers: nothing is allocated. The value is an int32, since a uint32 above 2^31 - 1 would
 * be a heap number in V8.
 */
import {
  ETHERNET_DESTINATION,
  ETHERNET_HEADER_LENGTH,
  ETHERNET_SOURCE,
  ETHERNET_TYPE,
  ETHERTYPE_CTAG,
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  ETHERTYPE_STAG,
  IPPROTO_TCP,
  IPPROTO_UDP,
  IPV4_ADDRESSES,
  IPV4_FRAGMENT,
  IPV4_MF_AND_OFFSET,
  IPV4_MIN_HEADER_LENGTH,
  IPV4_PROTOCOL,
  IPV6_ADDRESSES,
  IPV6_DESTINATION_OPTIONS,
  IPV6_EXTENSION_LENGTH,
  IPV6_FRAGMENT,
  IPV6_HEADER_LENGTH,
  IPV6_HOP_BY_HOP,
  IPV6_NEXT_HEADER,
  IPV6_ROUTING,
  MAX_VLAN_TAGS,
  VLAN_TAG_LENGTH,
} from '../packet/header-fields.ts';

/** Bytes of a frame that the hash looks at, at most. */
export const FLOW_HASH_HEADER_LENGTH = 128;

/** Source and destination port. */
const PORTS_LENGTH = 4;
/** The smallest part of an extension header that tells its length, and its unit (RFC 8200 §4.3 to §4.6). */
const EXTENSION_UNIT = 8;

/**
 * Hashes the flow of the Ethernet frame whose first bytes are `header[offset, offset + length)`.
 *
 * @param length bytes of the frame to be seen there; those past the 128th are not read
 * @param seed any int32, the same for both directions
 * @returns int32; pick a queue with `queueForHash`
 */
export function flowHash(header: Uint8Array, offset: number, length: number, seed = 0): number {
  const end = Math.min(offset + Math.min(length, FLOW_HASH_HEADER_LENGTH), header.length);
  if (offset + ETHERNET_HEADER_LENGTH > end) return finalize(seed);
  let type = word16(header, offset + ETHERNET_TYPE);
  let at = offset + ETHERNET_HEADER_LENGTH;
  for (let tags = 0; tags < MAX_VLAN_TAGS && (type === ETHERTYPE_CTAG || type === ETHERTYPE_STAG); tags++) {
    if (at + VLAN_TAG_LENGTH > end) break;
    type = word16(header, at + VLAN_TAG_LENGTH - 2); // a tag's TCI, then the type of what follows
    at += VLAN_TAG_LENGTH;
  }
  if (type === ETHERTYPE_IPV4 && at + IPV4_MIN_HEADER_LENGTH <= end && header[at] >>> 4 === 4) {
    return hashIpv4(header, at, end, seed);
  }
  if (type === ETHERTYPE_IPV6 && at + IPV6_HEADER_LENGTH <= end && header[at] >>> 4 === 6) {
    return hashIpv6(header, at, end, seed);
  }
  return combine(
    hashMac(header, offset + ETHERNET_SOURCE, seed),
    hashMac(header, offset + ETHERNET_DESTINATION, seed),
    0,
  );
}

/** The queue, 0 to `queues` - 1, that a hash selects: its high bits decide, as in Linux's reciprocal_scale. */
export function queueForHash(hash: number, queues: number): number {
  return Math.floor(((hash >>> 0) * queues) / 2 ** 32);
}

function hashIpv4(header: Uint8Array, ip: number, end: number, seed: number): number {
  const protocol = header[ip + IPV4_PROTOCOL];
  const ports = ip + (header[ip] & 0xf) * 4;
  const whole = (word16(header, ip + IPV4_FRAGMENT) & IPV4_MF_AND_OFFSET) === 0;
  const hasPorts = whole && ports >= ip + IPV4_MIN_HEADER_LENGTH && portsShow(protocol, ports, end);
  const source = mix(seed, word32(header, ip + IPV4_ADDRESSES));
  const destination = mix(seed, word32(header, ip + IPV4_ADDRESSES + 4));
  return combineEndpoints(header, source, destination, protocol, hasPorts ? ports : -1);
}

function hashIpv6(header: Uint8Array, ip: number, end: number, seed: number): number {
  let protocol = header[ip + IPV6_NEXT_HEADER];
  let at = ip + IPV6_HEADER_LENGTH;
  while (protocol === IPV6_HOP_BY_HOP || protocol === IPV6_ROUTING || protocol === IPV6_DESTINATION_OPTIONS) {
    if (at + EXTENSION_UNIT > end) break;
    protocol = header[at];
    at += EXTENSION_UNIT * (1 + header[at + IPV6_EXTENSION_LENGTH]);
  }
  const hasPorts = portsShow(protocol, at, end);
  if (protocol === IPV6_FRAGMENT && at + EXTENSION_UNIT <= end) protocol = header[at];
  let source = seed;
  let destination = seed;
  for (let word = 0; word < 16; word += 4) {
    source = mix(source, word32(header, ip + IPV6_ADDRESSES + word));
    destination = mix(destination, word32(header, ip + IPV6_ADDRESSES + 16 + word));
  }
  return combineEndpoints(header, source, destination, protocol, hasPorts ? at : -1);
}

function portsShow(protocol: number, ports: number, end: number): boolean {
  return (protocol === IPPROTO_TCP || protocol === IPPROTO_UDP) && ports + PORTS_LENGTH <= end;
}

/** `ports`: where the two ports lie, or -1 where they have no part in the hash. */
function combineEndpoints(
  header: Uint8Array,
  source: number,
  destination: number,
  protocol: number,
  ports: number,
): number {
  if (ports < 0) return combine(source, destination, protocol);
  return combine(mix(source, word16(header, ports)), mix(destination, word16(header, ports + 2)), protocol);
}

function hashMac(header: Uint8Array, at: number, seed: number): number {
  return mix(mix(seed, word32(header, at)), word16(header, at + 4));
}

/** Symmetric in its first two arguments: both the sum and the exclusive or are. */
function combine(one: number, other: number, protocol: number): number {
  return finalize(mix(mix(one + other, one ^ other), protocol));
}

// The multipliers and shifts of MurmurHash3_x86_32 (A. Appleby, public domain), under their names there.
const C1 = 0xcc9e2d51;
const C2 = 0x1b873593;
const BLOCK_ADDEND = 0xe6546b64;
const FMIX_1 = 0x85ebca6b;
const FMIX_2 = 0xc2b2ae35;

function mix(hash: number, word: number): number {
  let k = Math.imul(word, C1);
  k = Math.imul((k << 15) | (k >>> 17), C2);
  const h = hash ^ k;
  return (Math.imul((h << 13) | (h >>> 19), 5) + BLOCK_ADDEND) | 0;
}

function finalize(hash: number): number {
  let h = hash;
  h = Math.imul(h ^ (h >>> 16), FMIX_1);
  h = Math.imul(h ^ (h >>> 13), FMIX_2);
  return h ^ (h >>> 16);
}

function word16(bytes: Uint8Array, at: number): number {
  return (bytes[at] << 8) | bytes[at + 1];
}

function word32(bytes: Uint8Array, at: number): number {
  return (bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
}
