/**
 * IPv6 (RFC 8200): packets in, the way out, and what is too big cut to pieces; with all that an interface does by itself:
 * addresses (RFC 4862), neighbours and routers (RFC 4861), groups (RFC 3810).
 *
 *     input ─► header fine? ─► for us? ─► HeaderChain ─► fragment? ─ Reassembler ─┐
 *                                                            └────────────────────► ICMPv6, or NetworkHost.deliver
 *
 *     start() ─► link-local address, tried out ─► router solicitation ─► advertisement ─► addresses, routes
 *
 * Nothing is forwarded. input() is hot and allocates nothing, but for fragments and control messages.
 */
import {
  IPV6_FRAGMENT,
  IPV6_HEADER_LENGTH,
  IPV6_HOP_BY_HOP,
  IPV6_NEXT_HEADER,
  IPV6_PAYLOAD_LENGTH,
} from '../../packet/header-fields.ts';
import { Identification } from '../ip/identification.ts';
import type { LocalAddress } from '../ip/local-table.ts';
import {
  HOP_GROUP,
  HOP_LOOPBACK,
  HOP_NEIGHBOUR,
  type NetworkHost,
  type NetworkLayer,
  type NextHop,
  NO_ROUTE,
} from '../ip/network-layer.ts';
import { COMPLETE, type ExpiredFragment, MAX_FRAGMENTS } from '../ip/reassembler.ts';
import type { Route } from '../ip/route-table.ts';
import { Mld } from '../multicast/mld.ts';
import type { Time } from '../network.ts';
import { NOT_LOCAL, type Packet } from '../packet.ts';
import {
  AddressConfiguration,
  type AddressConfigurationOptions,
  type ConfiguredAddress,
  type GroupMembership,
} from './address-configuration.ts';
import {
  ALL_NODES,
  isLinkLocal,
  isLoopback,
  isMulticast,
  isUnspecified,
  SCOPE_INTERFACE,
  scopeOf,
} from './addresses.ts';
import {
  CHAIN_DISCARD,
  CHAIN_FRAGMENT,
  CHAIN_PROBLEM,
  CHAIN_TRANSPORT,
  CHAIN_TRUNCATED,
  HeaderChain,
  isChainWhole,
  quotedTransport,
} from './header-chain.ts';
import { Icmpv6 } from './icmpv6.ts';
import { Icmpv6Errors } from './icmpv6-errors.ts';
import {
  DESTINATION_UNREACHABLE,
  MLD_QUERY,
  PARAMETER_PROBLEM,
  PROBLEM_FIELD,
  PROBLEM_FIRST_FRAGMENT,
  PROBLEM_NEXT_HEADER,
  TIME_EXCEEDED,
  TIME_REASSEMBLY,
  UNREACHABLE_PORT,
} from './icmpv6-header.ts';
import { Icmpv6Output } from './icmpv6-output.ts';
import {
  FRAGMENT_HEADER_BYTES,
  FRAGMENT_ID,
  FRAGMENT_MORE,
  FRAGMENT_OFFSET,
  FRAGMENT_OFFSET_MASK,
  IPPROTO_ICMPV6,
  IPV6_DESTINATION,
  IPV6_HOP_LIMIT,
  IPV6_MAX_PAYLOAD,
  IPV6_MIN_MTU,
  IPV6_SOURCE,
  uint16At,
  uint32At,
  writeUint16,
  writeUint32,
} from './ipv6-header.ts';
import { type DiscoveryOptions, NeighbourDiscovery } from './neighbour-discovery.ts';
import { RouterDiscovery } from './router-discovery.ts';
import { selectSource } from './source-selection.ts';

const VERSION = 6;
/** Units of fragment offsets. */
const FRAGMENT_UNIT = 8;
const ECN_MASK = 3;
/** Longest prefix: a host of its own. */
const HOST_BITS = 128;

export interface Ipv6Options extends AddressConfigurationOptions, DiscoveryOptions {
  /** Whether {@link Ipv6.start} asks routers for prefixes; default true. Without, addresses come by hand alone, but for the link-local one. */
  autoconfigure?: boolean;
}

export interface Ipv6Counters {
  inReceives: number;
  /** Version, lengths or extension headers wrong. */
  inHdrErrors: number;
  /** Longer than the frame. */
  inTruncatedPkts: number;
  /** For no address or group of ours. */
  inAddrErrors: number;
  /** Sources and destinations that no packet on a link can have. */
  inMartians: number;
  inUnknownProtos: number;
  /** Thrown away on request: unknown options, no next header, too much padding. */
  inDiscards: number;
  /** Fragments that nobody makes: not in units of 8 bytes, too long, headers in pieces. */
  inBadFragments: number;
  inAtomicFragments: number;
  inDelivers: number;
  inMcastPkts: number;
  fragOks: number;
  fragFails: number;
  fragCreates: number;
}

export class Ipv6 implements NetworkLayer {
  readonly family = 6;
  readonly minMtu = IPV6_MIN_MTU;
  readonly counters: Ipv6Counters = {
    inReceives: 0,
    inHdrErrors: 0,
    inTruncatedPkts: 0,
    inAddrErrors: 0,
    inMartians: 0,
    inUnknownProtos: 0,
    inDiscards: 0,
    inBadFragments: 0,
    inAtomicFragments: 0,
    inDelivers: 0,
    inMcastPkts: 0,
    fragOks: 0,
    fragFails: 0,
    fragCreates: 0,
  };
  readonly output: Icmpv6Output;
  readonly icmp: Icmpv6;
  readonly groups: Mld;
  readonly addresses: AddressConfiguration;
  readonly routers: RouterDiscovery;
  readonly discovery: NeighbourDiscovery;
  /** Of fragments. */
  readonly identification: Identification;
  readonly #host: NetworkHost;
  readonly #errors: Icmpv6Errors;
  readonly #autoconfigure: boolean;
  readonly #chain = new HeaderChain();
  /** Routes to the prefixes of our addresses, by address number. */
  readonly #connected = new Map<number, Route>();
  readonly #piece = new Uint8Array(2 ** 16);
  // Of the packet at hand:
  #isGroupFrame = false;
  #isOnlyForMld = false;
  /** Where its Next Header field stands that names the transport, from the IPv6 header on. */
  #protocolPointer = IPV6_NEXT_HEADER;

  /** Throws RangeError for options that cannot be, and for a device that takes less than IPv6 asks of a link. */
  constructor(host: NetworkHost, options: Ipv6Options = {}) {
    const { name, mtu } = host.link.device;
    if (mtu < IPV6_MIN_MTU) {
      throw new RangeError(`${name} has an MTU of ${mtu}: IPv6 needs ${IPV6_MIN_MTU} at least (RFC 8200 §5)`);
    }
    this.#host = host;
    this.#autoconfigure = options.autoconfigure ?? true;
    this.output = new Icmpv6Output(host);
    this.identification = new Identification(host.random);
    this.groups = new Mld(host, this.output);
    const groups: GroupMembership = {
      join: (group, now) => this.groups.joinOwn(group, now),
      leave: (group, now) => this.groups.leave(group, now),
    };
    this.addresses = new AddressConfiguration(host, this.output, groups, options);
    this.routers = new RouterDiscovery(host, this.output, this.addresses);
    const sourceFor = (bytes: Uint8Array, at: number): Uint8Array | null =>
      selectSource(host.locals.all(), bytes, at)?.bytes ?? null;
    this.discovery = new NeighbourDiscovery(host, this.output, this.addresses, this.routers, options);
    this.discovery.firstHop = (bytes, at, hop) => this.#nextHop(bytes, at, hop);
    this.discovery.sourceFor = sourceFor;
    this.#errors = new Icmpv6Errors(host, this.output);
    this.#errors.sourceFor = sourceFor;
    this.icmp = new Icmpv6(host, this, this.output, {
      discovery: (packet, now) => this.discovery.input(packet, now),
      listeners: (packet, now) => this.groups.input(packet, this.#chain.routerAlert, now),
      sourceFor,
    });
    host.locals.watch((address, added) => {
      if (address.family === 6) this.#addressChanged(address, added);
    });
    this.addresses.onChange = (address, now) => this.#configured(address, now);
  }

  /** Hop limit of packets for single hosts, as routers advise (RFC 4861 §6.3.2). */
  get hopLimit(): number {
    return this.routers.hopLimit;
  }

  /** The interface is up: a link-local address, and what routers tell. */
  start(now: Time): void {
    this.groups.joinOwn(ALL_NODES, now);
    this.addresses.addLinkLocal(now);
  }

  // ---- packets in

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
    if (end - at < IPV6_HEADER_LENGTH || bytes[at] >>> 4 !== VERSION) {
      counters.inHdrErrors++;
      return;
    }
    const packetEnd = at + IPV6_HEADER_LENGTH + uint16At(bytes, at + IPV6_PAYLOAD_LENGTH);
    if (packetEnd > end) {
      counters.inTruncatedPkts++;
      return;
    }
    const source = at + IPV6_SOURCE;
    const destination = at + IPV6_DESTINATION;
    const local = this.#host.locals.find(6, bytes, destination);
    if (onWire && !this.#isPossible(bytes, source, destination)) {
      counters.inMartians++;
      return;
    }
    if (local === NOT_LOCAL) {
      if (!isMulticast(bytes, destination) || !this.#isForGroup(bytes, at, destination, source)) {
        counters.inAddrErrors++;
        return;
      }
      counters.inMcastPkts++;
    } else this.#isOnlyForMld = false;
    this.#isGroupFrame = isGroup;
    const { packet } = this.#host;
    packet.bytes = bytes;
    packet.ipAt = at;
    packet.at = at + IPV6_HEADER_LENGTH;
    packet.end = packetEnd;
    packet.family = 6;
    packet.source = source;
    packet.destination = destination;
    packet.local = local;
    packet.hopLimit = bytes[at + IPV6_HOP_LIMIT];
    packet.trafficClass = ((bytes[at] & 0x0f) << 4) | (bytes[at + 1] >>> 4);
    packet.verified = verified;
    packet.gsoSize = gsoSize;
    this.#follow(packet, this.#chain.walk(bytes, at, packetEnd), now);
  }

  /** Whether a packet on the wire can have these addresses (RFC 4291 §2.5.3, §2.7). */
  #isPossible(bytes: Uint8Array, source: number, destination: number): boolean {
    if (isMulticast(bytes, source) || isLoopback(bytes, source)) return false;
    if (isLoopback(bytes, destination) || isUnspecified(bytes, destination)) return false;
    // Scope 0 is reserved, and the interface's own never leaves it.
    if (isMulticast(bytes, destination) && scopeOf(bytes, destination) <= SCOPE_INTERFACE) return false;
    return this.#host.locals.find(6, bytes, source) === NOT_LOCAL;
  }

  /** Queries about a group are for its listeners even where they want nothing else of the querier (RFC 3810 §6.2). */
  #isForGroup(bytes: Uint8Array, at: number, destination: number, source: number): boolean {
    this.#isOnlyForMld = !this.groups.has(bytes, destination, source);
    if (!this.#isOnlyForMld) return true;
    return bytes[at + IPV6_NEXT_HEADER] === IPV6_HOP_BY_HOP && this.groups.isIn(bytes, destination);
  }

  /** Goes on with what the walk through the packet's headers came to. */
  #follow(packet: Packet, walked: number, now: Time): void {
    const chain = this.#chain;
    let outcome = walked;
    if (outcome === CHAIN_FRAGMENT) {
      outcome = this.#fragment(packet, now);
      if (outcome === CHAIN_FRAGMENT) return;
    }
    switch (outcome) {
      case CHAIN_TRANSPORT:
        packet.at = chain.at;
        packet.protocol = chain.protocol;
        this.#protocolPointer = chain.protocolAt - packet.ipAt;
        this.#deliver(packet, now);
        return;
      case CHAIN_DISCARD:
        this.counters.inDiscards++;
        return;
      case CHAIN_TRUNCATED:
        this.counters.inHdrErrors++;
        return;
      case CHAIN_PROBLEM:
        this.counters.inHdrErrors++;
        this.#problem(packet, chain.code, chain.pointer, chain.reportGroup, now);
    }
  }

  #deliver(packet: Packet, now: Time): void {
    if (this.#isOnlyForMld && (packet.protocol !== IPPROTO_ICMPV6 || packet.bytes[packet.at] !== MLD_QUERY)) {
      this.counters.inAddrErrors++;
      return;
    }
    this.counters.inDelivers++;
    if (packet.protocol === IPPROTO_ICMPV6) this.icmp.input(packet, now);
    else if (!this.#host.deliver(packet, now)) {
      this.counters.inUnknownProtos++;
      this.protocolUnreachable(packet, now);
    }
  }

  // ---- fragments

  /** At a fragment header. Gives what the walk comes to behind it, or CHAIN_FRAGMENT: that was all for now. */
  #fragment(packet: Packet, now: Time): number {
    const chain = this.#chain;
    const field = uint16At(packet.bytes, chain.at + FRAGMENT_OFFSET);
    const offset = field & FRAGMENT_OFFSET_MASK;
    const hasMore = (field & FRAGMENT_MORE) !== 0;
    // Atomic ones are whole, whatever else has their identification (RFC 6946 §4).
    if (offset === 0 && !hasMore) this.counters.inAtomicFragments++;
    else if (!this.#reassemble(packet, chain.at, offset, hasMore, now)) return CHAIN_FRAGMENT;
    const outcome = chain.resume(packet.bytes, packet.ipAt, packet.end);
    // A packet is in pieces once.
    if (outcome === CHAIN_FRAGMENT) this.counters.inBadFragments++;
    return outcome;
  }

  /** True: `packet` is whole now, and the walk can go on in it, as if behind an atomic fragment's header. */
  #reassemble(packet: Packet, header: number, offset: number, hasMore: boolean, now: Time): boolean {
    const { reassembler, senderHigh, senderLow } = this.#host;
    const { bytes, ipAt, end } = packet;
    const data = header + FRAGMENT_HEADER_BYTES;
    const length = end - data;
    // RFC 8200 §4.5: the errors, in its order.
    if (hasMore && length % FRAGMENT_UNIT !== 0) {
      return this.#badFragment(packet, PROBLEM_FIELD, IPV6_PAYLOAD_LENGTH, now);
    }
    if (header - ipAt - IPV6_HEADER_LENGTH + offset + length > IPV6_MAX_PAYLOAD) {
      return this.#badFragment(packet, PROBLEM_FIELD, header + FRAGMENT_OFFSET - ipAt, now);
    }
    if (offset === 0 && !isChainWhole(bytes, bytes[header], data, end)) {
      return this.#badFragment(packet, PROBLEM_FIRST_FRAGMENT, 0, now);
    }
    const { fragment } = reassembler;
    fragment.family = 6;
    fragment.bytes = bytes;
    fragment.headerAt = ipAt;
    fragment.at = data;
    fragment.end = end;
    fragment.source = packet.source;
    fragment.destination = packet.destination;
    fragment.id = uint32At(bytes, header + FRAGMENT_ID);
    fragment.protocol = 0;
    fragment.offset = offset;
    fragment.hasMore = hasMore;
    fragment.ecn = packet.trafficClass & ECN_MASK;
    fragment.senderHigh = senderHigh;
    fragment.senderLow = senderLow;
    if (reassembler.add(now) !== COMPLETE) return false;
    const whole = reassembler.bytes;
    const payload = reassembler.end - IPV6_HEADER_LENGTH;
    if (payload - FRAGMENT_HEADER_BYTES > IPV6_MAX_PAYLOAD) {
      this.counters.inBadFragments++;
      return false;
    }
    const wholeHeader = reassembler.headerBytes - FRAGMENT_HEADER_BYTES;
    writeUint16(whole, IPV6_PAYLOAD_LENGTH, Math.min(payload, IPV6_MAX_PAYLOAD));
    writeUint16(whole, wholeHeader + FRAGMENT_OFFSET, 0);
    packet.trafficClass = (packet.trafficClass & ~ECN_MASK) | reassembler.ecn;
    whole[1] = (whole[1] & 0xcf) | (reassembler.ecn << 4);
    packet.bytes = whole;
    packet.ipAt = 0;
    packet.end = reassembler.end;
    packet.source = IPV6_SOURCE;
    packet.destination = IPV6_DESTINATION;
    packet.hopLimit = whole[IPV6_HOP_LIMIT];
    packet.verified = false;
    packet.gsoSize = 0;
    // The options before the fragment header were seen to with each fragment.
    this.#chain.at = wholeHeader;
    return true;
  }

  #badFragment(packet: Packet, code: number, pointer: number, now: Time): false {
    this.counters.inBadFragments++;
    this.#problem(packet, code, pointer, false, now);
    return false;
  }

  /** A packet of IPv6 was not whole in time: ICMPv6 time exceeded, if its first fragment is there (RFC 8200 §4.5). */
  fragmentsExpired(first: ExpiredFragment | null, now: Time): void {
    if (first === null) return;
    const { bytes, senderHigh, senderLow } = first;
    this.#errors.send(
      TIME_EXCEEDED,
      TIME_REASSEMBLY,
      0,
      bytes,
      0,
      bytes.length,
      false,
      false,
      senderHigh,
      senderLow,
      now,
    );
  }

  fragment(bytes: Uint8Array, at: number, end: number, mtu: number, destination: number): void {
    const { counters } = this;
    const piece = this.#piece;
    const local = this.#host.locals.find(6, bytes, at + IPV6_SOURCE);
    const data = at + IPV6_HEADER_LENGTH;
    const most = (mtu - IPV6_HEADER_LENGTH - FRAGMENT_HEADER_BYTES) & ~(FRAGMENT_UNIT - 1);
    if (most < FRAGMENT_UNIT || Math.ceil((end - data) / most) > MAX_FRAGMENTS) {
      counters.fragFails++;
      return;
    }
    const begin = IPV6_HEADER_LENGTH + FRAGMENT_HEADER_BYTES;
    const id = this.identification.next(destination);
    for (let i = 0; i < IPV6_HEADER_LENGTH; i++) piece[i] = bytes[at + i];
    piece[IPV6_HEADER_LENGTH] = piece[IPV6_NEXT_HEADER];
    piece[IPV6_HEADER_LENGTH + 1] = 0;
    piece[IPV6_NEXT_HEADER] = IPV6_FRAGMENT;
    writeUint32(piece, IPV6_HEADER_LENGTH + FRAGMENT_ID, id);
    for (let from = data; from < end; from += most) {
      const length = Math.min(most, end - from);
      const hasMore = from + length < end;
      writeUint16(piece, IPV6_PAYLOAD_LENGTH, FRAGMENT_HEADER_BYTES + length);
      writeUint16(piece, IPV6_HEADER_LENGTH + FRAGMENT_OFFSET, (from - data) | (hasMore ? FRAGMENT_MORE : 0));
      for (let i = 0; i < length; i++) piece[begin + i] = bytes[from + i];
      if (!this.#host.sendPacket(destination, local, piece, 0, begin + length)) {
        counters.fragFails++;
        return;
      }
      counters.fragCreates++;
    }
    counters.fragOks++;
  }

  // ---- ways

  route(bytes: Uint8Array, at: number, hop: NextHop): void {
    hop.mtu = 0;
    hop.kind = NO_ROUTE;
    if (isMulticast(bytes, at)) {
      hop.kind = HOP_GROUP;
      return;
    }
    if (isUnspecified(bytes, at)) return;
    if (this.#host.locals.find(6, bytes, at) !== NOT_LOCAL || isLoopback(bytes, at)) {
      hop.kind = HOP_LOOPBACK;
      return;
    }
    if (!this.#nextHop(bytes, at, hop.address)) return;
    hop.kind = HOP_NEIGHBOUR;
    hop.mtu = this.#routeMtu;
  }

  #routeMtu = 0;

  /** Next-hop determination (RFC 4861 §5.2): the neighbour's address into `hop`. False: there is no way. */
  #nextHop(bytes: Uint8Array, at: number, hop: Uint8Array): boolean {
    this.#routeMtu = 0;
    const redirected = this.discovery.redirected(bytes, at);
    if (redirected !== undefined) {
      hop.set(redirected);
      return true;
    }
    if (isLinkLocal(bytes, at)) return onLink(bytes, at, hop);
    const route = this.#host.routes.find(6, bytes, at);
    if (route === null) {
      const router = this.routers.choose();
      if (router === null) return false;
      hop.set(router.address);
      return true;
    }
    this.#routeMtu = route.mtu;
    if (route.gateway === null) return onLink(bytes, at, hop);
    hop.set(route.gateway);
    return true;
  }

  selectSource(bytes: Uint8Array, at: number): number {
    const { locals, routes } = this.#host;
    const route = isMulticast(bytes, at) ? null : routes.find(6, bytes, at);
    if (route?.source) {
      const wished = locals.find(6, route.source, 0);
      if (wished !== NOT_LOCAL) return wished;
    }
    return selectSource(locals.all(), bytes, at)?.local ?? NOT_LOCAL;
  }

  // ---- errors

  quote(bytes: Uint8Array, at: number, end: number, quoted: Packet): boolean {
    if (end - at < IPV6_HEADER_LENGTH || bytes[at] >>> 4 !== VERSION) return false;
    const local = this.#host.locals.find(6, bytes, at + IPV6_SOURCE);
    if (local === NOT_LOCAL) return false;
    const packetEnd = at + IPV6_HEADER_LENGTH + uint16At(bytes, at + IPV6_PAYLOAD_LENGTH);
    const quotedEnd = Math.min(end, packetEnd);
    const transport = quotedTransport(bytes, at, quotedEnd, this.#quotedChain);
    if (transport < 0 || transport + LEAST_QUOTE > quotedEnd) return false;
    quoted.bytes = bytes;
    quoted.ipAt = at;
    quoted.at = transport;
    quoted.end = quotedEnd;
    quoted.family = 6;
    quoted.source = at + IPV6_SOURCE;
    quoted.destination = at + IPV6_DESTINATION;
    quoted.local = local;
    quoted.protocol = this.#quotedChain.protocol;
    quoted.hopLimit = bytes[at + IPV6_HOP_LIMIT];
    quoted.trafficClass = ((bytes[at] & 0x0f) << 4) | (bytes[at + 1] >>> 4);
    quoted.verified = false;
    quoted.gsoSize = 0;
    return true;
  }

  readonly #quotedChain = new HeaderChain();

  portUnreachable(packet: Packet, now: Time): void {
    this.#error(packet, DESTINATION_UNREACHABLE, UNREACHABLE_PORT, 0, false, now);
  }

  protocolUnreachable(packet: Packet, now: Time): void {
    this.#error(packet, PARAMETER_PROBLEM, PROBLEM_NEXT_HEADER, this.#protocolPointer, false, now);
  }

  #problem(packet: Packet, code: number, pointer: number, reportGroup: boolean, now: Time): void {
    this.#error(packet, PARAMETER_PROBLEM, code, pointer, reportGroup, now);
  }

  #error(packet: Packet, type: number, code: number, word: number, allowGroup: boolean, now: Time): void {
    const { senderHigh, senderLow } = this.#host;
    const { bytes, ipAt, end } = packet;
    const isGroup = this.#isGroupFrame;
    this.#errors.hopLimit = this.hopLimit;
    this.#errors.send(type, code, word, bytes, ipAt, end, isGroup, allowGroup, senderHigh, senderLow, now);
  }

  // ---- time, and addresses

  get deadline(): Time {
    return Math.min(this.addresses.deadline, this.routers.deadline, this.groups.deadline);
  }

  tick(now: Time): void {
    this.addresses.tick(now);
    this.routers.tick(now);
    this.groups.tick(now);
  }

  #configured(address: ConfiguredAddress, now: Time): void {
    const isUsable = address.state === 'preferred';
    if (!isUsable || address.origin !== 'link-local') return;
    // Reports and solicitations are right only from here on (RFC 3590 §4).
    this.groups.linkLocalReady(now);
    if (this.#autoconfigure) this.routers.start(now);
  }

  #addressChanged(address: LocalAddress, added: boolean): void {
    const { routes } = this.#host;
    const known = this.#connected.get(address.local);
    if (known !== undefined) {
      this.#connected.delete(address.local);
      routes.remove(known);
    }
    const { bytes, prefixLength, loopback } = address;
    if (added && !loopback && prefixLength < HOST_BITS && !isLinkLocal(bytes, 0)) {
      this.#connected.set(address.local, routes.add({ prefix: bytes, prefixLength, origin: 'connected' }));
    } else routes.onChange();
  }
}

/** Of a transport's header in a quote: ports, at least. */
const LEAST_QUOTE = 8;

function onLink(bytes: Uint8Array, at: number, hop: Uint8Array): true {
  for (let i = 0; i < 16; i++) hop[i] = bytes[at + i];
  return true;
}
