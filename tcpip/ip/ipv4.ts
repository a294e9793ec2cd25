/**
 * IPv4 (RFC 791, and what RFC 1122 §3 asks of hosts): packets in, the way out, and what is too big cut to pieces.
 *
 *     input ─► header fine? ─► for us? ─► options ─► fragment? ─ Reassembler ─┐
 *                                                        └──────────────────► ICMP, or NetworkHost.deliver
 *
 * Nothing is forwarded. input() is hot and allocates nothing, but for fragments.
 */
import { finish } from '../../packet/checksum.ts';
import {
  IPV4_FRAGMENT,
  IPV4_ID,
  IPV4_MF_AND_OFFSET,
  IPV4_MIN_HEADER_LENGTH,
  IPV4_PROTOCOL,
  IPV4_TOTAL_LENGTH,
} from '../../packet/header-fields.ts';
import { NEVER, type Time } from '../network.ts';
import { NOT_LOCAL, type Packet } from '../packet.ts';
import { wordAt } from './address-table.ts';
import { MIN_PATH_MTU_IPV4 } from './destination-cache.ts';
import { Icmp } from './icmp.ts';
import { Identification } from './identification.ts';
import {
  checkOptions,
  ICMP_PARAMETER_PROBLEM,
  ICMP_TIME_EXCEEDED,
  ICMP_UNREACHABLE,
  IPOPT_COPIED,
  IPOPT_END,
  IPOPT_NOP,
  IPPROTO_ICMP,
  IPV4_DESTINATION,
  IPV4_FRAGMENT_UNIT,
  IPV4_MF,
  IPV4_OFFSET_MASK,
  IPV4_SOURCE,
  IPV4_TTL,
  IPV4_TYPE_OF_SERVICE,
  OPTIONS_FINE,
  OPTIONS_SOURCE_ROUTE,
  REASSEMBLY_TIME_EXCEEDED,
  read16,
  UNREACHABLE_PORT,
  UNREACHABLE_PROTOCOL,
  write16,
  writeIpv4Checksum,
} from './ipv4-header.ts';
import type { LocalAddress } from './local-table.ts';
import {
  type GroupFilter,
  HOP_GROUP,
  HOP_LOOPBACK,
  HOP_NEIGHBOUR,
  type NetworkHost,
  type NetworkLayer,
  type NextHop,
  NO_ROUTE,
} from './network-layer.ts';
import { COMPLETE, type ExpiredFragment, MAX_FRAGMENTS } from './reassembler.ts';
import { matches, type Route } from './route-table.ts';

/** 224.0.0.1, all systems on this subnet (RFC 1112 §4). */
const ALL_SYSTEMS = 0xe000_0001 | 0;
/** 224.0.0/24 (RFC 5771 §4). */
const LINK_GROUPS = 0xe000_0000;
const LIMITED_BROADCAST = -1;
/** Up to here it is faster to look through them than to look them up. */
const FEW_ADDRESSES = 8;
/** First bytes of addresses: RFC 1122 §3.2.1.3, RFC 6890. */
const THIS_NETWORK = 0;
const LOOPBACK_NETWORK = 127;
const FIRST_GROUP = 224;
const FIRST_RESERVED = 240;
/** Prefixes without an address of their own for everybody (RFC 3021). */
const POINT_TO_POINT_BITS = 31;
/** What has to be in a first fragment: TCP's flags (RFC 1858 §3.2.2), which begin at byte 13. */
const IPPROTO_TCP = 6;
const TCP_LEAST_FIRST_FRAGMENT = 16;
const ECN_MASK = 3;

export interface Ipv4Counters {
  inReceives: number;
  /** Header, checksum, version or lengths wrong. */
  inHdrErrors: number;
  /** For no address of ours. */
  inAddrErrors: number;
  /** Sources that no packet can come from. */
  inMartians: number;
  inUnknownProtos: number;
  /** For us alone, but in a frame for everybody (RFC 1122 §3.3.6). */
  inDiscards: number;
  inSourceRouted: number;
  inOptionErrors: number;
  /** Fragments that nobody makes: not in units of 8 bytes, too long, TCP headers in pieces. */
  inBadFragments: number;
  inDelivers: number;
  inMcastPkts: number;
  inBcastPkts: number;
  fragOks: number;
  fragFails: number;
  fragCreates: number;
}

export class Ipv4 implements NetworkLayer {
  readonly family = 4;
  readonly minMtu = MIN_PATH_MTU_IPV4;
  /** RFC 1700's default; the operator may set another one. */
  hopLimit = 64;
  readonly counters: Ipv4Counters = {
    inReceives: 0,
    inHdrErrors: 0,
    inAddrErrors: 0,
    inMartians: 0,
    inUnknownProtos: 0,
    inDiscards: 0,
    inSourceRouted: 0,
    inOptionErrors: 0,
    inBadFragments: 0,
    inDelivers: 0,
    inMcastPkts: 0,
    inBcastPkts: 0,
    fragOks: 0,
    fragFails: 0,
    fragCreates: 0,
  };
  readonly icmp: Icmp;
  /** Of fragments. */
  readonly identification: Identification;
  /** Groups beside 224.0.0.1: IGMP's business. */
  groups: GroupFilter = { has: () => false };
  readonly #host: NetworkHost;
  /** Addresses for everybody in our prefixes. */
  #broadcasts = new Int32Array(0);
  /** What no packet comes from: the same, and our own addresses while they are few. */
  #noSources = new Int32Array(0);
  #hasMany = false;
  /** Routes to the prefixes of our addresses, by address number. */
  readonly #connected = new Map<number, Route>();
  readonly #piece = new Uint8Array(2 ** 16);

  constructor(host: NetworkHost) {
    this.#host = host;
    this.icmp = new Icmp(host, this);
    this.identification = new Identification(host.random);
    host.locals.watch((address, added) => {
      if (address.family === 4) this.#addressChanged(address, added);
    });
  }

  input(
    bytes: Uint8Array,
    at: number,
    end: number,
    isGroup: boolean,
    onWire: boolean,
    verified: boolean,
    gsoSize: number,
    now: Time,
  ): void {
    const { counters } = this;
    counters.inReceives++;
    // RFC 1122 §3.2.1.1, §3.2.1.2.
    if (end - at < IPV4_MIN_HEADER_LENGTH || bytes[at]! >>> 4 !== 4) {
      counters.inHdrErrors++;
      return;
    }
    const view = this.#host.link.viewOf(bytes);
    const first = view.getInt32(at);
    const headerLength = (first >>> 22) & 0x3c;
    const total = first & 0xffff;
    if (headerLength < IPV4_MIN_HEADER_LENGTH || total < headerLength || total > end - at) {
      counters.inHdrErrors++;
      return;
    }
    const second = view.getInt32(at + IPV4_ID);
    const third = view.getInt32(at + IPV4_TTL);
    const source = view.getInt32(at + IPV4_SOURCE);
    const destination = view.getInt32(at + IPV4_DESTINATION);
    let sum = halves(first) + halves(second) + halves(third) + halves(source) + halves(destination);
    for (let i = at + IPV4_MIN_HEADER_LENGTH; i < at + headerLength; i += 4) sum += halves(view.getInt32(i));
    if (finish(sum) !== 0) {
      counters.inHdrErrors++;
      return;
    }
    if (onWire && !this.#isPossible(source, destination)) {
      counters.inMartians++;
      return;
    }
    const local = this.#host.locals.findWord(destination);
    if (local === NOT_LOCAL) {
      if (!this.#isForGroup(bytes, at, destination)) {
        counters.inAddrErrors++;
        return;
      }
    } else if (isGroup) {
      counters.inDiscards++;
      return;
    }
    const { packet } = this.#host;
    packet.bytes = bytes;
    packet.ipAt = at;
    packet.at = at + headerLength;
    packet.end = at + total;
    packet.family = 4;
    packet.source = at + IPV4_SOURCE;
    packet.destination = at + IPV4_DESTINATION;
    packet.local = local;
    packet.protocol = (third >>> 16) & 0xff;
    packet.hopLimit = third >>> 24;
    packet.trafficClass = (first >>> 16) & 0xff;
    packet.verified = verified;
    packet.gsoSize = gsoSize;
    if (headerLength > IPV4_MIN_HEADER_LENGTH && !this.#takesOptions(packet, headerLength, now)) return;
    if ((second & IPV4_MF_AND_OFFSET) !== 0 && !this.#reassemble(packet, now)) return;
    this.#deliver(packet, now);
  }

  #deliver(packet: Packet, now: Time): void {
    this.counters.inDelivers++;
    if (packet.protocol === IPPROTO_ICMP) this.icmp.input(packet, now);
    else if (!this.#host.deliver(packet, now)) {
      this.counters.inUnknownProtos++;
      this.protocolUnreachable(packet, now);
    }
  }

  /** Whether a packet on the wire can have these addresses (RFC 1122 §3.2.1.3). */
  #isPossible(source: number, destination: number): boolean {
    const first = source >>> 24;
    const to = destination >>> 24;
    if (to === LOOPBACK_NETWORK || to === THIS_NETWORK || first === LOOPBACK_NETWORK || first >= FIRST_GROUP)
      return false;
    if (first === THIS_NETWORK) {
      // Who has no address yet talks to everybody, or to the groups of the link (224.0.0/24).
      return source === 0 && (destination === LIMITED_BROADCAST || destination >> 8 === LINK_GROUPS >> 8);
    }
    const noSources = this.#noSources;
    for (let i = 0; i < noSources.length; i++) if (noSources[i] === source) return false;
    return !this.#hasMany || this.#host.locals.findWord(source) === NOT_LOCAL;
  }

  #isForGroup(bytes: Uint8Array, at: number, destination: number): boolean {
    const first = destination >>> 24;
    if (first >= FIRST_GROUP && first < FIRST_RESERVED) {
      const isMember = destination === ALL_SYSTEMS || this.groups.has(bytes, at + IPV4_DESTINATION, at + IPV4_SOURCE);
      if (isMember) this.counters.inMcastPkts++;
      return isMember;
    }
    if (!this.isBroadcast(destination)) return false;
    this.counters.inBcastPkts++;
    return true;
  }

  /** For everybody on the link, by the limited address or by a prefix of ours; the address as a signed word. */
  isBroadcast(word: number): boolean {
    return word === LIMITED_BROADCAST || this.#broadcasts.includes(word);
  }

  /** Source routes are refused (RFC 7126 §4.3), router alerts are for routers, routes and timestamps are not recorded. */
  #takesOptions(packet: Packet, headerLength: number, now: Time): boolean {
    const problem = checkOptions(packet.bytes, packet.ipAt, headerLength);
    if (problem === OPTIONS_FINE) return true;
    if (problem === OPTIONS_SOURCE_ROUTE) {
      this.counters.inSourceRouted++;
      return false;
    }
    this.counters.inOptionErrors++;
    this.icmp.sendError(packet, ICMP_PARAMETER_PROBLEM, 0, problem << 24, now);
    return false;
  }

  // ---- fragments

  /** True: `packet` is whole now. */
  #reassemble(packet: Packet, now: Time): boolean {
    const { reassembler, senderHigh, senderLow } = this.#host;
    const { bytes, ipAt, at, end } = packet;
    const { fragment } = reassembler;
    const field = read16(bytes, ipAt + IPV4_FRAGMENT);
    fragment.offset = (field & IPV4_OFFSET_MASK) * IPV4_FRAGMENT_UNIT;
    fragment.hasMore = (field & IPV4_MF) !== 0;
    const length = end - at;
    const isTinyTcp =
      packet.protocol === IPPROTO_TCP &&
      (fragment.offset === 0 ? length < TCP_LEAST_FIRST_FRAGMENT : fragment.offset < TCP_LEAST_FIRST_FRAGMENT);
    if ((fragment.hasMore && length % IPV4_FRAGMENT_UNIT !== 0) || isTinyTcp) {
      this.counters.inBadFragments++;
      return false;
    }
    fragment.family = 4;
    fragment.bytes = bytes;
    fragment.headerAt = ipAt;
    fragment.at = at;
    fragment.end = end;
    fragment.source = packet.source;
    fragment.destination = packet.destination;
    fragment.id = read16(bytes, ipAt + IPV4_ID);
    fragment.protocol = packet.protocol;
    fragment.ecn = packet.trafficClass & ECN_MASK;
    fragment.senderHigh = senderHigh;
    fragment.senderLow = senderLow;
    if (reassembler.add(now) !== COMPLETE) return false;
    const whole = reassembler.bytes;
    if (reassembler.end > 0xffff) {
      this.counters.inBadFragments++;
      return false;
    }
    const trafficClass = (whole[IPV4_TYPE_OF_SERVICE]! & ~ECN_MASK) | reassembler.ecn;
    whole[IPV4_TYPE_OF_SERVICE] = trafficClass;
    write16(whole, IPV4_TOTAL_LENGTH, reassembler.end);
    write16(whole, IPV4_FRAGMENT, 0);
    writeIpv4Checksum(whole, 0, reassembler.headerBytes);
    packet.bytes = whole;
    packet.ipAt = 0;
    packet.at = reassembler.headerBytes;
    packet.end = reassembler.end;
    packet.source = IPV4_SOURCE;
    packet.destination = IPV4_DESTINATION;
    packet.trafficClass = trafficClass;
    packet.verified = false;
    packet.gsoSize = 0;
    return true;
  }

  /** A packet of IPv4 was not whole in time: ICMP time exceeded, if its first fragment is there (RFC 1122 §3.3.2). */
  fragmentsExpired(first: ExpiredFragment | null, now: Time): void {
    if (first === null) return;
    const { packet } = this.#host;
    const { bytes, headerBytes } = first;
    packet.bytes = bytes;
    packet.ipAt = 0;
    packet.at = headerBytes;
    packet.end = bytes.length;
    packet.family = 4;
    packet.source = IPV4_SOURCE;
    packet.destination = IPV4_DESTINATION;
    packet.local = this.#host.locals.find(4, bytes, IPV4_DESTINATION);
    packet.protocol = bytes[IPV4_PROTOCOL]!;
    const { senderHigh, senderLow } = first;
    this.icmp.sendErrorTo(senderHigh, senderLow, packet, ICMP_TIME_EXCEEDED, REASSEMBLY_TIME_EXCEEDED, 0, now);
  }

  fragment(bytes: Uint8Array, at: number, end: number, mtu: number, destination: number): void {
    const { counters } = this;
    const headerLength = (bytes[at]! & 0xf) << 2;
    const local = this.#host.locals.find(4, bytes, at + IPV4_SOURCE);
    const piece = this.#piece;
    for (let i = 0; i < headerLength; i++) piece[i] = bytes[at + i]!;
    let pieceHeader = headerLength;
    const most = (mtu - headerLength) & ~(IPV4_FRAGMENT_UNIT - 1);
    const data = end - at - headerLength;
    if (most < IPV4_FRAGMENT_UNIT || Math.ceil(data / most) > 2 * MAX_FRAGMENTS) {
      counters.fragFails++;
      return;
    }
    const id = this.identification.next(destination);
    for (let offset = 0; offset < data; ) {
      const length = Math.min(data - offset, (mtu - pieceHeader) & ~(IPV4_FRAGMENT_UNIT - 1));
      const hasMore = offset + length < data;
      write16(piece, IPV4_TOTAL_LENGTH, pieceHeader + length);
      write16(piece, IPV4_ID, id);
      write16(piece, IPV4_FRAGMENT, (offset / IPV4_FRAGMENT_UNIT) | (hasMore ? IPV4_MF : 0));
      writeIpv4Checksum(piece, 0, pieceHeader);
      for (let i = 0; i < length; i++) piece[pieceHeader + i] = bytes[at + headerLength + offset + i]!;
      if (!this.#host.sendPacket(destination, local, piece, 0, pieceHeader + length)) {
        counters.fragFails++;
        return;
      }
      counters.fragCreates++;
      offset += length;
      if (hasMore && pieceHeader > IPV4_MIN_HEADER_LENGTH) pieceHeader = keepCopied(piece, pieceHeader);
    }
    counters.fragOks++;
  }

  // ---- ways

  route(bytes: Uint8Array, at: number, hop: NextHop): void {
    hop.mtu = 0;
    const first = bytes[at]!;
    if (first === LOOPBACK_NETWORK || this.#host.locals.find(4, bytes, at) !== NOT_LOCAL) {
      hop.kind = HOP_LOOPBACK;
      return;
    }
    const word = wordAt(bytes, at);
    if ((first >= FIRST_GROUP && first < FIRST_RESERVED) || this.isBroadcast(word)) {
      hop.kind = HOP_GROUP;
      return;
    }
    hop.kind = NO_ROUTE;
    if (first === THIS_NETWORK || first >= FIRST_RESERVED) return;
    const route = this.#host.routes.find(4, bytes, at);
    if (route === null) return;
    const { gateway } = route;
    for (let i = 0; i < 4; i++) hop.address[i] = gateway === null ? bytes[at + i]! : gateway[i]!;
    hop.kind = HOP_NEIGHBOUR;
    hop.mtu = route.mtu;
  }

  /** The route's wish; else an address whose prefix has the next hop; else the first one (RFC 1122 §3.3.4.3). */
  selectSource(bytes: Uint8Array, at: number): number {
    const { locals, routes } = this.#host;
    const itself = locals.find(4, bytes, at);
    if (itself !== NOT_LOCAL) return itself;
    const isLoopback = bytes[at] === LOOPBACK_NETWORK;
    const route = isLoopback ? null : routes.find(4, bytes, at);
    if (route?.source) {
      const wished = locals.find(4, route.source, 0);
      if (wished !== NOT_LOCAL) return wished;
    }
    const gateway = route?.gateway ?? null;
    let best = NOT_LOCAL;
    let bestRank = -1;
    for (const address of locals.all()) {
      if (address.family !== 4 || address.loopback !== isLoopback) continue;
      const isNear =
        gateway === null
          ? matches(address.bytes, address.prefixLength, bytes, at)
          : matches(address.bytes, address.prefixLength, gateway, 0);
      const rank = (isNear ? 2 : 0) + (address.deprecated ? 0 : 1);
      if (rank <= bestRank) continue;
      best = address.local;
      bestRank = rank;
    }
    return best;
  }

  quote(bytes: Uint8Array, at: number, end: number, quoted: Packet): boolean {
    if (end - at < IPV4_MIN_HEADER_LENGTH || bytes[at]! >>> 4 !== 4) return false;
    const headerLength = (bytes[at]! & 0xf) << 2;
    if (headerLength < IPV4_MIN_HEADER_LENGTH || at + headerLength + 8 > end) return false;
    if ((read16(bytes, at + IPV4_FRAGMENT) & IPV4_OFFSET_MASK) !== 0) return false;
    const local = this.#host.locals.find(4, bytes, at + IPV4_SOURCE);
    if (local === NOT_LOCAL) return false;
    quoted.bytes = bytes;
    quoted.ipAt = at;
    quoted.at = at + headerLength;
    quoted.end = Math.min(end, at + Math.max(headerLength + 8, read16(bytes, at + IPV4_TOTAL_LENGTH)));
    quoted.family = 4;
    quoted.source = at + IPV4_SOURCE;
    quoted.destination = at + IPV4_DESTINATION;
    quoted.local = local;
    quoted.protocol = bytes[at + IPV4_PROTOCOL]!;
    quoted.hopLimit = bytes[at + IPV4_TTL]!;
    quoted.trafficClass = bytes[at + IPV4_TYPE_OF_SERVICE]!;
    quoted.verified = false;
    quoted.gsoSize = 0;
    return true;
  }

  portUnreachable(packet: Packet, now: Time): void {
    this.icmp.sendError(packet, ICMP_UNREACHABLE, UNREACHABLE_PORT, 0, now);
  }

  protocolUnreachable(packet: Packet, now: Time): void {
    this.icmp.sendError(packet, ICMP_UNREACHABLE, UNREACHABLE_PROTOCOL, 0, now);
  }

  /** The layer itself waits for nothing: fragments, routes and neighbours keep their own time. */
  readonly deadline = NEVER;

  tick(): void {}

  // ---- addresses

  #addressChanged(address: LocalAddress, added: boolean): void {
    const { routes, locals } = this.#host;
    const known = this.#connected.get(address.local);
    if (known !== undefined) {
      this.#connected.delete(address.local);
      routes.remove(known);
    }
    const { bytes, prefixLength, loopback } = address;
    if (added && !loopback && prefixLength < 32) {
      this.#connected.set(address.local, routes.add({ prefix: bytes, prefixLength, origin: 'connected' }));
    } else routes.onChange();
    const broadcasts = new Set<number>();
    for (const { family, bytes: own, prefixLength: bits, loopback: isOurs } of locals.all()) {
      if (family !== 4 || isOurs || bits >= POINT_TO_POINT_BITS || bits === 0) continue;
      broadcasts.add(wordAt(own, 0) | (-1 >>> bits));
      // All zeros was everybody's once, and is nobody's (RFC 1122 §3.3.6).
      broadcasts.add(wordAt(own, 0) & ~(-1 >>> bits));
    }
    this.#broadcasts = Int32Array.from(broadcasts);
    const own = [...locals.all()].filter(({ family, loopback: isOurs }) => family === 4 && !isOurs);
    this.#hasMany = own.length > FEW_ADDRESSES;
    const few = this.#hasMany ? [] : own.map(({ bytes: address4 }) => wordAt(address4, 0));
    this.#noSources = Int32Array.of(...broadcasts, ...few);
  }
}

/** Leaves the options that every fragment has (RFC 791 §3.1), for the fragments after the first; gives the header's new length. */
function keepCopied(header: Uint8Array, headerLength: number): number {
  let to = IPV4_MIN_HEADER_LENGTH;
  for (let from = IPV4_MIN_HEADER_LENGTH; from < headerLength; ) {
    const type = header[from]!;
    if (type === IPOPT_END) break;
    if (type === IPOPT_NOP) {
      from++;
      continue;
    }
    const length = header[from + 1]!;
    if (length < 2 || from + length > headerLength) break;
    if ((type & IPOPT_COPIED) !== 0) {
      header.copyWithin(to, from, from + length);
      to += length;
    }
    from += length;
  }
  while ((to & 3) !== 0) header[to++] = IPOPT_END;
  header[0] = 0x40 | (to >> 2);
  return to;
}

/** Both 16-bit halves of a word together. */
function halves(word: number): number {
  return (word >>> 16) + (word & 0xffff);
}
