/**
 * A host's TCP/IP on one frame device: link, IPv4, IPv6 and transports put together.
 *
 *                    ┌──────────── Tcp, Udp, … (Transport) ────────────┐
 *          deliver ▲ │ begin, write, send (Network)                    │ settle: what was put off leaves, once a poll
 *     Ipv4, Ipv6 ──┘ ▼                                                 ▼
 *     EthernetLink ◄── Stack: destination ─► neighbour ─► frame      poll(now): receive, tick, settle, flush
 *          ▲                                   └─ not known yet: waits
 *      FrameDevice
 *
 * Whoever runs it calls {@link Stack.poll} when the device has something, when {@link Stack.deadline} has come, and when a
 * transport says that it has work; nothing here reads a clock. One thread; throws nothing for what the network sends.
 *
 * begin() and send() are hot and allocate nothing: addresses and headers go as 32-bit words from typed arrays into the
 * device's memory. Packets that cannot go there at once (they wait for a neighbour, are too big, or are for ourselves) are
 * written to a scratch buffer first.
 */
import { finish, finishUdp, fold, sum as plainSum, type Sum } from '../packet/checksum.ts';
import {
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  IPPROTO_TCP,
  IPPROTO_UDP,
  IPV4_CHECKSUM,
  IPV4_MIN_HEADER_LENGTH,
  IPV4_TOTAL_LENGTH,
  IPV6_HEADER_LENGTH,
  IPV6_PAYLOAD_LENGTH,
} from '../packet/header-fields.ts';
import {
  VIRTIO_NET_HDR_F_DATA_VALID,
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_ECN,
  VIRTIO_NET_HDR_GSO_NONE,
  VIRTIO_NET_HDR_GSO_TCPV4,
  VIRTIO_NET_HDR_GSO_TCPV6,
  VIRTIO_NET_HDR_GSO_UDP_L4,
} from '../vhost/virtio.ts';
import { type FrameDevice, NO_ROOM, TRANSMIT_CHECKSUM, TRANSMIT_TSO4, TRANSMIT_TSO6 } from './frame-device.ts';
import { wordAt } from './ip/address-table.ts';
import {
  DestinationCache,
  type DestinationColumns,
  MIN_PATH_MTU_IPV4,
  TO_GROUP,
  TO_OURSELVES,
  UNRESOLVED,
} from './ip/destination-cache.ts';
import { type EchoCallback, EchoClient, type EchoOptions } from './ip/echo-client.ts';
import { IcmpLimiter } from './ip/icmp-limiter.ts';
import { Ipv4 } from './ip/ipv4.ts';
import { IPPROTO_ICMP, IPPROTO_ICMPV6, IPV4_DF } from './ip/ipv4-header.ts';
import { type LocalAddressOptions, LocalTable } from './ip/local-table.ts';
import {
  HOP_GROUP,
  HOP_LOOPBACK,
  type NetworkHost,
  type NetworkLayer,
  NO_ROUTE,
  newNextHop,
} from './ip/network-layer.ts';
import { Reassembler } from './ip/reassembler.ts';
import { RouteTable } from './ip/route-table.ts';
import { Arp, ETHERTYPE_ARP } from './link/arp.ts';
import { BROADCAST_HIGH, BROADCAST_LOW, EthernetLink } from './link/ethernet.ts';
import { NeighbourCache, type NeighbourHost, STALE, type WaitingFrame } from './link/neighbour-cache.ts';
import { SegmentMerger } from './link/segment-merger.ts';
import {
  BEGUN,
  BUSY,
  ERROR_PACKET_TOO_BIG,
  ERROR_UNREACHABLE_HOST,
  type Network,
  NO_DESTINATION,
  type Random,
  type Ticking,
  type Time,
  type Transport,
  UNREACHABLE,
} from './network.ts';
import { type Family, NOT_LOCAL, newPacket, type Outgoing, type Packet } from './packet.ts';

export interface StackOptions {
  device: FrameDevice;
  /** Where secrets and random times come from. */
  random: Random;
  /** VID of the VLAN to live on; none: frames without a tag. */
  vlan?: number;
  /** How checksums are summed up, where somebody knows a faster way than plain code; for IP packets in the device's memory and others. */
  sum?: Sum;
  maxNeighbours?: number;
  /** Destinations of each family that are remembered though nobody holds them. */
  maxIdleDestinations?: number;
}

export interface StackCounters {
  /** Packets to ourselves that found their queue full. */
  loopbackDrops: number;
  /** Packets that had waited for a neighbour, and then found no room in the device. */
  lateDrops: number;
}

// How the packet that was begun leaves.
const DIRECT = 0;
/** The neighbour is being asked for. */
const WAITING = 1;
/** Too big: in pieces. */
const CUT = 2;
/** To ourselves. */
const LOOPED = 3;

const MAX_IP_BYTES = 65_535;
const PROTOCOLS = 256;
const IPV4_MULTICAST = 0xe;
/** RFC 1112 §6.4: the low 23 bits of the group behind this. */
const IPV4_GROUP_HIGH = 0x0100;
const IPV4_GROUP_LOW = 0x5e00_0000;
const IPV4_GROUP_MASK = 0x007f_ffff;
/** RFC 2464 §7: the low 32 bits of the group behind this. */
const IPV6_GROUP_HIGH = 0x3333;
const IPV6_VERSION = 0x6000_0000;
const FLOW_LABEL_MASK = 0x000f_ffff;
const GSO_TYPE_MASK = 0x7f;
/** To ourselves, between two polls. */
const MAX_LOOPED_PACKETS = 512;
const MAX_LOOPED_BYTES = 4 * 2 ** 20;

interface LoopedPacket {
  bytes: Uint8Array;
  family: Family;
  gsoSize: number;
}

export class Stack implements Network, NetworkHost, NeighbourHost, Ticking {
  readonly device: FrameDevice;
  readonly network: Network = this;
  readonly random: Random;
  readonly link: EthernetLink;
  readonly locals: LocalTable;
  readonly routes = new RouteTable();
  readonly neighbours: NeighbourCache;
  readonly destinations: DestinationCache;
  readonly reassembler = new Reassembler();
  readonly limiter: IcmpLimiter;
  readonly echoes: EchoClient;
  readonly ipv4: Ipv4;
  readonly arp: Arp;
  readonly outgoing: Outgoing;
  readonly packet: Packet = newPacket();
  readonly quoted: Packet = newPacket();
  readonly counters: StackCounters = { loopbackDrops: 0, lateDrops: 0 };
  /** Something that was begun outside of poll() is to be sent: poll soon. Whoever runs the stack sets it. */
  onWork: () => void = () => {};
  now: Time = 0;
  senderHigh = 0;
  senderLow = 0;
  #ipv6: NetworkLayer | null = null;
  readonly #sum: Sum;
  readonly #canChecksum: boolean;
  readonly #canSegment4: boolean;
  readonly #canSegment6: boolean;
  readonly #byProtocol: (Transport | null)[] = new Array(PROTOCOLS).fill(null);
  readonly #transports: Transport[] = [];
  readonly #tickings: Ticking[] = [];
  /** Ways that need no neighbour are believed as long as this stays the same. */
  #epoch = 1;
  #isBusy = false;
  #isPolling = false;
  readonly #hop = newNextHop();
  readonly #address = new Uint8Array(16);
  readonly #scratch = new Uint8Array(2 ** 16);
  readonly #scratchView = new DataView(this.#scratch.buffer);
  readonly #flowSecret: number;
  #looped: LoopedPacket[] = [];
  #loopedBytes = 0;
  readonly #merger: SegmentMerger;
  /** More than one packet came: those that TCP may merge wait for each other. */
  #isBatch = false;
  /** Whether the packet at hand came from ourselves. */
  #isFromUs = false;
  /** Of the destination of a reply. */
  readonly #replyWords = new Int32Array(4);
  // The packet that was begun.
  #mode = DIRECT;
  #isV4 = true;
  #view: DataView;
  #ipAt = 0;
  #protocol = 0;
  #begunLocal = NOT_LOCAL;
  /** NO_DESTINATION: a reply. */
  #begunDestination = NO_DESTINATION;
  #headerSum = 0;
  #pseudoSum = 0;
  #firstWord = 0;

  constructor({ device, random, vlan = 0, sum = plainSum, maxNeighbours, maxIdleDestinations }: StackOptions) {
    this.device = device;
    this.random = random;
    this.#sum = sum;
    this.#merger = new SegmentMerger(sum, this.#deliverMerged);
    this.link = new EthernetLink(device, vlan);
    this.#view = this.link.view;
    this.outgoing = { bytes: device.tx, at: 0 };
    this.#canChecksum = (device.offloads & TRANSMIT_CHECKSUM) !== 0;
    this.#canSegment4 = this.#canChecksum && (device.offloads & TRANSMIT_TSO4) !== 0;
    this.#canSegment6 = this.#canChecksum && (device.offloads & TRANSMIT_TSO6) !== 0;
    this.#flowSecret = random() | 0;
    this.locals = new LocalTable(random);
    this.neighbours = new NeighbourCache(random, this, maxNeighbours);
    this.destinations = new DestinationCache(random, this.neighbours, device.mtu, maxIdleDestinations);
    this.limiter = new IcmpLimiter(random);
    this.echoes = new EchoClient(this, random);
    this.ipv4 = new Ipv4(this);
    this.arp = new Arp(this);
    this.routes.onChange = () => this.#routesChanged();
    this.locals.watch(() => this.#routesChanged());
    this.reassembler.onExpired = (family, first, now) => this.#layer(family)?.fragmentsExpired(first, now);
    this.locals.add(Uint8Array.of(127, 0, 0, 1), 8, { loopback: true });
    this.#tickings.push(this.reassembler, this.destinations, this.echoes, this.arp);
  }

  // ---- parts

  /** IPv6, which is a module of its own. */
  setIpv6(layer: NetworkLayer): void {
    this.#ipv6 = layer;
    this.#tickings.push(layer);
    const loopback = new Uint8Array(16);
    loopback[15] = 1;
    this.locals.add(loopback, 128, { loopback: true });
  }

  get ipv6(): NetworkLayer | null {
    return this.#ipv6;
  }

  /** Packets of a protocol (IANA's number) are the transport's from now on; its timers run if it has any. */
  addTransport(protocol: number, transport: Transport & Partial<Ticking>): void {
    if (!(Number.isInteger(protocol) && protocol >= 0 && protocol < PROTOCOLS)) {
      throw new RangeError(`protocol ${protocol}: give a number from 0 to ${PROTOCOLS - 1}`);
    }
    if (this.#byProtocol[protocol] !== null) throw new RangeError(`protocol ${protocol} has a transport already`);
    this.#byProtocol[protocol] = transport;
    if (this.#transports.includes(transport)) return;
    this.#transports.push(transport);
    if (isTicking(transport)) this.#tickings.push(transport);
  }

  addTicking(ticking: Ticking): void {
    this.#tickings.push(ticking);
  }

  /**
   * Takes an address, at once; whether somebody has it already is {@link Arp.acquire}'s to find out, or IPv6's. Gives its number.
   * An IPv4 address is announced (RFC 5227 §2.3). Throws RangeError.
   */
  addAddress(address: Uint8Array, prefixLength: number, options: LocalAddressOptions = {}): number {
    const local = this.locals.add(address, prefixLength, options);
    if (address.length === 4 && !options.loopback) {
      this.arp.announce(address, this.now);
      this.#noteWork();
    }
    return local;
  }

  /** Gives an address up. Connections from it get nowhere any more. */
  removeAddress(local: number): void {
    this.locals.remove(local);
  }

  /** ping(8): see {@link EchoClient.send}. */
  ping(address: Uint8Array, options: EchoOptions, callback: EchoCallback): () => void {
    const cancel = this.echoes.send(address, options, this.now, callback);
    this.#noteWork();
    return cancel;
  }

  #layer(family: Family): NetworkLayer | null {
    return family === 4 ? this.ipv4 : this.#ipv6;
  }

  #routesChanged(): void {
    this.#epoch = (this.#epoch + 1) | 0 || 1;
    this.neighbours.renewAll();
  }

  #noteWork(): void {
    if (!this.#isPolling) this.onWork();
  }

  // ---- time

  /** The time goes on, without anything being done: before calls from outside of poll(), where timers begin. */
  advance(now: Time): void {
    if (now > this.now) this.now = now;
  }

  get deadline(): Time {
    if (this.#looped.length > 0) return this.now;
    let first = this.neighbours.deadline;
    for (const ticking of this.#tickings) {
      const { deadline } = ticking;
      if (deadline < first) first = deadline;
    }
    return first;
  }

  /** Timers that are due. poll() does it too. */
  tick(now: Time): void {
    for (const ticking of this.#tickings) {
      if (ticking.deadline <= now) ticking.tick(now);
    }
  }

  /**
   * Takes a batch of frames from the device and whatever is due, and sends what follows from it. Gives how many packets came;
   * while there are any, more may wait.
   */
  poll(now: Time): number {
    this.advance(now);
    this.#isPolling = true;
    const { device } = this;
    this.link.refresh();
    const count = device.receive();
    this.#isBatch = count > 1;
    for (let i = 0; i < count; i++) this.#frame(i);
    this.#merger.flush();
    this.#isBatch = false;
    if (count > 0) device.release();
    const looped = this.#takeLooped();
    this.tick(this.now);
    if (this.#isBusy && device.reserve(this.link.headerBytes + device.mtu) !== NO_ROOM) {
      this.#isBusy = false;
      for (const transport of this.#transports) transport.writable(this.now);
    }
    if (this.neighbours.deadline <= this.now) this.neighbours.tick(this.now);
    for (const transport of this.#transports) transport.settle?.(this.now);
    // Once more: what was begun just now asks for its neighbours.
    if (this.neighbours.deadline <= this.now) this.neighbours.tick(this.now);
    device.flush();
    this.#isPolling = false;
    return count + looped;
  }

  // ---- in

  #frame(i: number): void {
    const { device, link } = this;
    const bytes = device.rx;
    const frame = device.rxOffset[i]!;
    const length = device.rxLength[i]!;
    const at = link.accept(frame, length);
    if (at < 0) return;
    this.senderHigh = link.senderHigh;
    this.senderLow = link.senderLow;
    const end = frame + length;
    const { type } = link;
    if (type === ETHERTYPE_ARP) {
      this.arp.input(bytes, at, end, this.now);
      return;
    }
    const layer = type === ETHERTYPE_IPV4 ? this.ipv4 : type === ETHERTYPE_IPV6 ? this.#ipv6 : null;
    if (layer === null) {
      link.counters.inUnknownProtos++;
      return;
    }
    const isVerified = (device.rxFlags[i]! & (VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID)) !== 0;
    const gsoType = device.rxGsoType[i]! & GSO_TYPE_MASK;
    const isCut =
      gsoType === VIRTIO_NET_HDR_GSO_TCPV4 ||
      gsoType === VIRTIO_NET_HDR_GSO_TCPV6 ||
      gsoType === VIRTIO_NET_HDR_GSO_UDP_L4;
    const gsoSize = isCut ? device.rxGsoSize[i]! : 0;
    layer.input(bytes, at, end, link.isGroup, true, isVerified, gsoSize, this.now);
  }

  #takeLooped(): number {
    const packets = this.#looped;
    if (packets.length === 0) return 0;
    this.#looped = [];
    this.#loopedBytes = 0;
    this.#isFromUs = true;
    this.senderHigh = this.link.macHigh;
    this.senderLow = this.link.macLow;
    for (const { bytes, family, gsoSize } of packets) {
      this.#layer(family)?.input(bytes, 0, bytes.length, false, false, true, gsoSize, this.now);
    }
    this.#isFromUs = false;
    return packets.length;
  }

  deliver(packet: Packet, now: Time): boolean {
    const transport = this.#byProtocol[packet.protocol]!;
    if (transport === null) return false;
    // What was put together from fragments lies in memory that does not last.
    const mayWait = this.#isBatch && packet.protocol === IPPROTO_TCP && packet.bytes === this.device.rx;
    if (mayWait && this.#merger.take(packet, this.senderHigh, this.senderLow)) return true;
    transport.input(packet, now);
    return true;
  }

  readonly #deliverMerged = (packet: Packet, senderHigh: number, senderLow: number): void => {
    const { senderHigh: high, senderLow: low } = this;
    this.senderHigh = senderHigh;
    this.senderLow = senderLow;
    this.#byProtocol[IPPROTO_TCP]!.input(packet, this.now);
    this.senderHigh = high;
    this.senderLow = low;
  };

  deliverError(kind: number, quoted: Packet, mtu: number, now: Time): void {
    const { protocol } = quoted;
    const destination = this.destinations.find(quoted.family, quoted.bytes, quoted.destination);
    const isEcho = protocol === (quoted.family === 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
    const isBelieved = isEcho
      ? this.echoes.error(kind, quoted)
      : (this.#byProtocol[protocol]?.error(kind, quoted, destination, mtu, now) ?? false);
    if (kind !== ERROR_PACKET_TOO_BIG || !isBelieved || destination === NO_DESTINATION || mtu === 0) return;
    const before = this.destinations.pathMtu(destination);
    if (mtu >= before) return;
    this.destinations.setPathMtu(destination, mtu, now);
    if (this.destinations.pathMtu(destination) >= before) return;
    for (const transport of this.#transports) transport.pathMtuChanged?.(destination, now);
  }

  portUnreachable(packet: Packet, now: Time): void {
    this.#layer(packet.family)?.portUnreachable(packet, now);
  }

  // ---- ways

  canSegment(family: Family): boolean {
    return family === 4 ? this.#canSegment4 : this.#canSegment6;
  }

  sourceFor(destination: number): number {
    const layer = this.#layer(this.destinations.family(destination));
    if (layer === null) return NOT_LOCAL;
    const address = this.#addressOf(destination);
    layer.route(address, 0, this.#hop);
    return this.#hop.kind === NO_ROUTE ? NOT_LOCAL : layer.selectSource(address, 0);
  }

  hasRoute(destination: number): boolean {
    const layer = this.#layer(this.destinations.family(destination));
    if (layer === null) return false;
    layer.route(this.#addressOf(destination), 0, this.#hop);
    return this.#hop.kind !== NO_ROUTE;
  }

  isBroadcast(destination: number): boolean {
    return (destination & 1) === 0 && this.ipv4.isBroadcast(this.destinations.four.table.keys[destination >> 1]!);
  }

  #addressOf(destination: number): Uint8Array {
    this.destinations.columns(destination).table.write(destination >> 1, this.#address, 0);
    return this.#address;
  }

  /** Finds out where packets for a destination go: its column `neighbour` is good then. False: there is no way. */
  #resolve(destination: number): boolean {
    const { destinations, neighbours } = this;
    const columns = destinations.columns(destination);
    const entry = destination >> 1;
    const known = columns.neighbour[entry]!;
    if (known !== UNRESOLVED) {
      const version = known >= 0 ? neighbours.version[known]! : this.#epoch;
      if (columns.version[entry] === version) return true;
    }
    const family = destinations.family(destination);
    const layer = this.#layer(family);
    if (layer === null) return false;
    const hop = this.#hop;
    layer.route(this.#addressOf(destination), 0, hop);
    columns.neighbour[entry] = UNRESOLVED;
    if (hop.kind === NO_ROUTE) return false;
    if (hop.kind === HOP_GROUP || hop.kind === HOP_LOOPBACK) {
      columns.neighbour[entry] = hop.kind === HOP_GROUP ? TO_GROUP : TO_OURSELVES;
      columns.version[entry] = this.#epoch;
      return true;
    }
    const neighbour = neighbours.entry(family, hop.address, 0);
    columns.neighbour[entry] = neighbour;
    columns.version[entry] = neighbours.version[neighbour]!;
    if (hop.mtu > 0 && hop.mtu < columns.pathMtu[entry]!) columns.pathMtu[entry] = hop.mtu;
    return true;
  }

  // ---- out

  begin(
    local: number,
    destination: number,
    protocol: number,
    trafficClass: number,
    length: number,
    hopLimit = 0,
  ): number {
    const isV4 = (destination & 1) === 0;
    const entry = destination >> 1;
    const { neighbours, link } = this;
    const columns = isV4 ? this.destinations.four : this.destinations.six;
    const neighbour = columns.neighbour[entry]!;
    if (
      neighbour < 0 ||
      columns.version[entry] !== neighbours.version[neighbour] ||
      neighbours.state[neighbour]! <= STALE ||
      !this.locals.has(local)
    ) {
      return this.#beginSlowly(local, destination, protocol, trafficClass, length, hopLimit);
    }
    neighbours.used[neighbour] = 1;
    const header = isV4 ? IPV4_MIN_HEADER_LENGTH : IPV6_HEADER_LENGTH;
    const total = header + length;
    if (total > columns.pathMtu[entry]! && !this.#leavesWhole(isV4, protocol, total)) {
      return this.#beginElsewhere(CUT, local, destination, protocol, trafficClass, length, hopLimit);
    }
    const at = link.begin(
      neighbours.macHigh[neighbour]!,
      neighbours.macLow[neighbour]!,
      isV4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6,
      total,
    );
    if (at === NO_ROOM) return this.#busy();
    this.#beginAt(DIRECT, link.view, at, local, destination, protocol);
    this.outgoing.bytes = this.device.tx;
    this.outgoing.at = at + header;
    this.#writeHeader(columns, entry, trafficClass, hopLimit);
    return BEGUN;
  }

  /** Begun by somebody who does not know a neighbour yet, or has to look again. */
  #beginSlowly(
    local: number,
    destination: number,
    protocol: number,
    trafficClass: number,
    length: number,
    hopLimit: number,
  ): number {
    if (!this.locals.has(local) || !this.#resolve(destination)) return UNREACHABLE;
    const { neighbours } = this;
    const columns = this.destinations.columns(destination);
    const entry = destination >> 1;
    const neighbour = columns.neighbour[entry]!;
    if (neighbour === TO_OURSELVES) {
      return this.#beginElsewhere(LOOPED, local, destination, protocol, trafficClass, length, hopLimit);
    }
    // 127/8 and ::1 are never on the wire (RFC 1122 §3.2.1.3 (g), RFC 4291 §2.5.3).
    if (this.locals.get(local)!.loopback) return UNREACHABLE;
    if (neighbour === TO_GROUP) {
      return this.#beginToGroup(local, destination, protocol, trafficClass, length, hopLimit);
    }
    if (neighbours.ready(neighbour, local, this.now)) {
      return this.begin(local, destination, protocol, trafficClass, length, hopLimit);
    }
    return this.#beginElsewhere(WAITING, local, destination, protocol, trafficClass, length, hopLimit);
  }

  #beginToGroup(
    local: number,
    destination: number,
    protocol: number,
    trafficClass: number,
    length: number,
    hopLimit: number,
  ): number {
    const isV4 = (destination & 1) === 0;
    const columns = this.destinations.columns(destination);
    const entry = destination >> 1;
    const header = isV4 ? IPV4_MIN_HEADER_LENGTH : IPV6_HEADER_LENGTH;
    const hops = hopLimit === 0 && this.#isMulticast(columns, entry) ? 1 : hopLimit;
    if (header + length > columns.pathMtu[entry]!) {
      return this.#beginElsewhere(CUT, local, destination, protocol, trafficClass, length, hops);
    }
    const at = this.#beginGroupFrame(destination, header + length);
    if (at === NO_ROOM) return this.#busy();
    this.#beginAt(DIRECT, this.link.view, at, local, destination, protocol);
    this.outgoing.bytes = this.device.tx;
    this.outgoing.at = at + header;
    this.#writeHeader(columns, entry, trafficClass, hops);
    return BEGUN;
  }

  /** Not at once in the device: in the scratch buffer. */
  #beginElsewhere(
    mode: number,
    local: number,
    destination: number,
    protocol: number,
    trafficClass: number,
    length: number,
    hopLimit: number,
  ): number {
    const isV4 = (destination & 1) === 0;
    const header = isV4 ? IPV4_MIN_HEADER_LENGTH : IPV6_HEADER_LENGTH;
    checkTotal(header + length);
    this.#beginAt(mode, this.#scratchView, 0, local, destination, protocol);
    this.outgoing.bytes = this.#scratch;
    this.outgoing.at = header;
    this.#writeHeader(this.destinations.columns(destination), destination >> 1, trafficClass, hopLimit);
    return BEGUN;
  }

  beginReply(packet: Packet, protocol: number, trafficClass: number, length: number): number {
    const { local, family, bytes, source } = packet;
    if (!this.locals.has(local)) return UNREACHABLE;
    const isV4 = family === 4;
    const header = isV4 ? IPV4_MIN_HEADER_LENGTH : IPV6_HEADER_LENGTH;
    const total = header + length;
    const known = this.destinations.find(family, bytes, source);
    const columns = isV4 ? this.destinations.four : this.destinations.six;
    const mtu = known === NO_DESTINATION ? columns.linkMtu : columns.pathMtu[known >> 1]!;
    if (total > mtu || this.#isFromUs) {
      // What has to be cut needs a destination; that lasts no longer than it is idle.
      const destination = this.destinations.hold(family, bytes, source);
      const begun = this.#isFromUs
        ? this.begin(local, destination, protocol, trafficClass, length)
        : this.#beginElsewhere(CUT, local, destination, protocol, trafficClass, length, 0);
      this.destinations.letGo(destination);
      return begun;
    }
    const type = isV4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6;
    const at = this.link.begin(this.senderHigh, this.senderLow, type, total);
    if (at === NO_ROOM) return this.#busy();
    this.#beginAt(DIRECT, this.link.view, at, local, NO_DESTINATION, protocol);
    this.#isV4 = isV4;
    this.outgoing.bytes = this.device.tx;
    this.outgoing.at = at + header;
    const words = this.#replyWords;
    for (let i = 0; i < (isV4 ? 1 : 4); i++) words[i] = wordAt(bytes, source + 4 * i);
    if (isV4) this.#writeHeader4(words, 0, trafficClass, this.ipv4.hopLimit, IPV4_DF, 0);
    else this.#writeHeader6(words, 0, trafficClass, this.#ipv6!.hopLimit);
    return BEGUN;
  }

  #beginAt(mode: number, view: DataView, ipAt: number, local: number, destination: number, protocol: number): void {
    this.#mode = mode;
    this.#isV4 = (destination & 1) === 0;
    this.#view = view;
    this.#ipAt = ipAt;
    this.#begunLocal = local;
    this.#begunDestination = destination;
    this.#protocol = protocol;
  }

  #busy(): number {
    this.#isBusy = true;
    return BUSY;
  }

  /** A super-frame, or an error of ours. */
  #leavesWhole(isV4: boolean, protocol: number, total: number): boolean {
    checkTotal(total);
    return protocol === IPPROTO_TCP && (isV4 ? this.#canSegment4 : this.#canSegment6);
  }

  #isMulticast(columns: DestinationColumns, entry: number): boolean {
    return columns.table.words > 1 || columns.table.keys[entry]! >>> 28 === IPV4_MULTICAST;
  }

  #beginGroupFrame(destination: number, length: number): number {
    const { table } = this.destinations.columns(destination);
    const entry = destination >> 1;
    const { link } = this;
    if (table.words > 1) {
      return link.begin(IPV6_GROUP_HIGH, table.keys[4 * entry + 3]!, ETHERTYPE_IPV6, length);
    }
    const word = table.keys[entry]!;
    if (word >>> 28 !== IPV4_MULTICAST) return link.begin(BROADCAST_HIGH, BROADCAST_LOW, ETHERTYPE_IPV4, length);
    return link.begin(IPV4_GROUP_HIGH, IPV4_GROUP_LOW | (word & IPV4_GROUP_MASK), ETHERTYPE_IPV4, length);
  }

  #writeHeader(columns: DestinationColumns, entry: number, trafficClass: number, hopLimit: number): void {
    const { keys } = columns.table;
    if (!this.#isV4) {
      this.#writeHeader6(keys, 4 * entry, trafficClass, hopLimit === 0 ? this.#ipv6!.hopLimit : hopLimit);
      return;
    }
    const ttl = hopLimit === 0 ? this.ipv4.hopLimit : hopLimit;
    // Where the path takes less than we ever send, routers have to cut: then the packet needs a name (RFC 6864 §4.1, §4.3).
    const mayBeCut = this.#mode === CUT || columns.pathMtu[entry]! <= MIN_PATH_MTU_IPV4;
    const id = mayBeCut ? this.ipv4.identification.next(2 * entry) & 0xffff : 0;
    this.#writeHeader4(keys, entry, trafficClass, ttl, mayBeCut ? 0 : IPV4_DF, id);
  }

  /** RFC 791 §3.1, without the total length and what depends on it. */
  #writeHeader4(
    words: Int32Array,
    word: number,
    trafficClass: number,
    ttl: number,
    fragment: number,
    id: number,
  ): void {
    const view = this.#view;
    const at = this.#ipAt;
    const source = this.locals.table4.keys[this.#begunLocal >> 1]!;
    const destination = words[word]!;
    const protocol = this.#protocol;
    const first = 0x4500 | trafficClass;
    view.setInt32(at, first << 16);
    view.setInt32(at + 4, (id << 16) | fragment);
    view.setInt32(at + 8, (ttl << 24) | (protocol << 16));
    view.setInt32(at + 12, source);
    view.setInt32(at + 16, destination);
    const addresses = (source >>> 16) + (source & 0xffff) + (destination >>> 16) + (destination & 0xffff);
    this.#headerSum = first + id + fragment + ((ttl << 8) | protocol) + addresses;
    this.#pseudoSum = addresses + protocol;
  }

  /** RFC 8200 §3, without the payload length and the flow label. */
  #writeHeader6(words: Int32Array, word: number, trafficClass: number, hopLimit: number): void {
    const view = this.#view;
    const at = this.#ipAt;
    const { keys } = this.locals.table6;
    const from = (this.#begunLocal >> 1) * 4;
    const protocol = this.#protocol;
    let pseudo = protocol;
    for (let i = 0; i < 4; i++) {
      const source = keys[from + i]!;
      const destination = words[word + i]!;
      view.setInt32(at + 8 + 4 * i, source);
      view.setInt32(at + 24 + 4 * i, destination);
      pseudo += (source >>> 16) + (source & 0xffff) + (destination >>> 16) + (destination & 0xffff);
    }
    this.#firstWord = IPV6_VERSION | (trafficClass << 20);
    view.setInt32(at + 4, (protocol << 8) | hopLimit);
    this.#pseudoSum = pseudo;
  }

  send(length: number, checksumOffset: number, headerLength = 0, gsoSize = 0, hasCwr = false): void {
    const { outgoing, link } = this;
    const { bytes, at } = outgoing;
    const view = this.#view;
    const ipAt = this.#ipAt;
    const isV4 = this.#isV4;
    const header = at - ipAt;
    const total = header + length;
    if (isV4) {
      view.setUint16(ipAt + IPV4_TOTAL_LENGTH, total);
      view.setUint16(ipAt + IPV4_CHECKSUM, finish(this.#headerSum + total));
    } else {
      // One label for a flow, and nobody can guess it (RFC 6437 §3).
      const ports = length >= 4 ? view.getInt32(at) : 0;
      const mixed = Math.imul(ports ^ this.#flowSecret, 0x9e3779b1) ^ this.#pseudoSum;
      const label = (Math.imul(mixed ^ (mixed >>> 15), 0x85ebca6b) >>> 12) & FLOW_LABEL_MASK;
      view.setInt32(ipAt, this.#firstWord | label);
      view.setUint16(ipAt + IPV6_PAYLOAD_LENGTH, length);
    }
    const mode = this.#mode;
    let flags = 0;
    let csumStart = 0;
    let csumOffset = 0;
    if (checksumOffset >= 0 && mode !== LOOPED) {
      const protocol = this.#protocol;
      // RFC 792's checksum is the only one without a pseudo header.
      const pseudo = protocol === IPPROTO_ICMP ? 0 : fold(this.#pseudoSum + length);
      const isDevices = this.#canChecksum && mode !== CUT && (protocol === IPPROTO_TCP || protocol === IPPROTO_UDP);
      const field = at + checksumOffset;
      if (isDevices) {
        view.setUint16(field, pseudo);
        flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        csumStart = link.headerBytes + header;
        csumOffset = checksumOffset;
      } else {
        view.setUint16(field, 0);
        const partial = this.#sum(bytes, at, at + length, pseudo);
        view.setUint16(field, protocol === IPPROTO_UDP ? finishUdp(partial) : finish(partial));
      }
    }
    let gsoType = VIRTIO_NET_HDR_GSO_NONE;
    let hdrLen = 0;
    if (gsoSize > 0) {
      gsoType = isV4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
      if (hasCwr) gsoType |= VIRTIO_NET_HDR_GSO_ECN;
      hdrLen = link.headerBytes + header + headerLength;
    }
    if (mode === DIRECT) link.send(total, flags, gsoType, hdrLen, gsoSize, csumStart, csumOffset);
    else this.#sendFromScratch(total, flags, gsoType, hdrLen, gsoSize, csumStart, csumOffset);
    if (!this.#isPolling) this.onWork();
  }

  #sendFromScratch(
    total: number,
    flags: number,
    gsoType: number,
    hdrLen: number,
    gsoSize: number,
    csumStart: number,
    csumOffset: number,
  ): void {
    const destination = this.#begunDestination;
    const family = this.destinations.family(destination);
    if (this.#mode === LOOPED) {
      this.#loop(family, this.#scratch, 0, total, gsoSize);
      return;
    }
    const columns = this.destinations.columns(destination);
    const entry = destination >> 1;
    if (gsoSize === 0 && total > columns.pathMtu[entry]!) {
      const needsChecksum = (flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) !== 0;
      if (needsChecksum) this.#completeChecksum(csumStart - this.link.headerBytes, csumOffset, total);
      this.#layer(family)?.fragment(this.#scratch, 0, total, columns.pathMtu[entry]!, destination);
      return;
    }
    // It was begun too big, but became small enough; or it waits.
    if (this.#mode === CUT) {
      this.sendPacket(destination, this.#begunLocal, this.#scratch, 0, total);
      return;
    }
    const bytes = new Uint8Array(this.link.headerBytes + total);
    this.link.writeHeader(bytes, 0, 0, 0, family === 4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6);
    bytes.set(this.#scratch.subarray(0, total), this.link.headerBytes);
    this.neighbours.wait(columns.neighbour[entry]!, {
      bytes,
      flags,
      gsoType,
      hdrLen,
      gsoSize,
      csumStart,
      csumOffset,
    });
  }

  #completeChecksum(start: number, offset: number, end: number): void {
    const partial = this.#sum(this.#scratch, start, end, 0);
    const checksum = this.#protocol === IPPROTO_UDP ? finishUdp(partial) : finish(partial);
    this.#scratchView.setUint16(start + offset, checksum);
  }

  sendPacket(destination: number, local: number, bytes: Uint8Array, at: number, end: number): boolean {
    if (!this.#resolve(destination)) return false;
    const { neighbours, link } = this;
    const isV4 = (destination & 1) === 0;
    const neighbour = this.destinations.columns(destination).neighbour[destination >> 1]!;
    if (neighbour === TO_OURSELVES) return this.#loop(isV4 ? 4 : 6, bytes, at, end, 0);
    if (neighbour === TO_GROUP) {
      const to = this.#beginGroupFrame(destination, end - at);
      return this.#copyAndSend(to, bytes, at, end);
    }
    if (neighbours.ready(neighbour, local, this.now)) {
      return this.sendPacketTo(
        neighbours.macHigh[neighbour]!,
        neighbours.macLow[neighbour]!,
        isV4 ? 4 : 6,
        bytes,
        at,
        end,
      );
    }
    const frame = new Uint8Array(link.headerBytes + end - at);
    link.writeHeader(frame, 0, 0, 0, isV4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6);
    frame.set(bytes.subarray(at, end), link.headerBytes);
    neighbours.wait(neighbour, plainFrame(frame));
    return true;
  }

  sendPacketTo(macHigh: number, macLow: number, family: Family, bytes: Uint8Array, at: number, end: number): boolean {
    const { link } = this;
    if (macHigh === link.macHigh && macLow === link.macLow) return this.#loop(family, bytes, at, end, 0);
    const type = family === 4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6;
    return this.#copyAndSend(link.begin(macHigh, macLow, type, end - at), bytes, at, end);
  }

  #copyAndSend(to: number, bytes: Uint8Array, at: number, end: number): boolean {
    if (to === NO_ROOM) return false;
    this.device.tx.set(bytes.subarray(at, end), to);
    this.link.send(end - at);
    return true;
  }

  #loop(family: Family, bytes: Uint8Array, at: number, end: number, gsoSize: number): boolean {
    if (this.#looped.length >= MAX_LOOPED_PACKETS || this.#loopedBytes + end - at > MAX_LOOPED_BYTES) {
      this.counters.loopbackDrops++;
      return false;
    }
    this.#looped.push({ bytes: bytes.slice(at, end), family, gsoSize });
    this.#loopedBytes += end - at;
    return true;
  }

  transmit(frame: WaitingFrame, neighbour: number): void {
    const { device, link, neighbours } = this;
    const { bytes, flags, gsoType, hdrLen, gsoSize, csumStart, csumOffset } = frame;
    const at = device.reserve(bytes.length);
    if (at === NO_ROOM) {
      this.counters.lateDrops++;
      return;
    }
    device.tx.set(bytes, at);
    link.view.setUint16(at, neighbours.macHigh[neighbour]!);
    link.view.setInt32(at + 2, neighbours.macLow[neighbour]!);
    link.send(bytes.length - link.headerBytes, flags, gsoType, hdrLen, gsoSize, csumStart, csumOffset);
  }

  unreachable(frame: WaitingFrame, now: Time): void {
    const { bytes } = frame;
    const at = this.link.headerBytes;
    const layer = this.#layer(bytes[at]! >>> 4 === 4 ? 4 : 6);
    if (!layer?.quote(bytes, at, bytes.length, this.quoted)) return;
    this.deliverError(ERROR_UNREACHABLE_HOST, this.quoted, 0, now);
  }
}

function checkTotal(total: number): void {
  if (total > MAX_IP_BYTES) throw new RangeError(`an IP packet of ${total} bytes: the longest has ${MAX_IP_BYTES}`);
}

function plainFrame(bytes: Uint8Array): WaitingFrame {
  return { bytes, flags: 0, gsoType: 0, hdrLen: 0, gsoSize: 0, csumStart: 0, csumOffset: 0 };
}

function isTicking(transport: Transport & Partial<Ticking>): transport is Transport & Ticking {
  return typeof transport.tick === 'function';
}
