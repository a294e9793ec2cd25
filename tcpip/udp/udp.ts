/**
 * UDP (RFC 768, RFC 8085): datagrams to sockets and back.
 *
 *     packet ─► a connected socket of both ends ─► else one bound to the address ─► else one bound to the port
 *               group, broadcast: all that are bound to the port (and take part)    nobody: port unreachable
 *
 * input() and a connected socket's send() allocate nothing, but for copies of large datagrams' ranges.
 */
import { sum as plainSum, type Sum } from '../../packet/checksum.ts';
import { IPPROTO_UDP, UDP_CHECKSUM, UDP_HEADER_LENGTH, UDP_LENGTH } from '../../packet/header-fields.ts';
import { read16, write16 } from '../ip/ipv4-header.ts';
import {
  BEGUN,
  BUSY,
  ERROR_PACKET_TOO_BIG,
  ERROR_PARAMETER_PROBLEM,
  ERROR_PROHIBITED,
  ERROR_UNREACHABLE_NET,
  ERROR_UNREACHABLE_PORT,
  ERROR_UNREACHABLE_PROTOCOL,
  type Network,
  NO_DESTINATION,
  type Random,
  type Time,
  type Transport,
} from '../network.ts';
import { type Family, isIntact, NOT_LOCAL, type Packet } from '../packet.ts';
import {
  type GroupMembership,
  UdpError,
  type UdpHandler,
  type UdpMessage,
  type UdpOptions,
  type UdpSocket,
  type UdpUser,
} from './api.ts';

/** IANA's dynamic ports as Linux has them. */
const FIRST_PORT = 32_768;
const LAST_PORT = 60_999;
const MAX_PORT = 65_535;
export const MAX_SOCKETS = 65_536;
/** Data of a datagram: 65,535 without the headers of IP and UDP. */
export const MAX_DATA_IPV4 = 65_507;
export const MAX_DATA_IPV6 = 65_487;
const IPV4_HEADER = 20;
const IPV6_HEADER = 40;
const DEFAULT_RECEIVE_BUFFER = 212_992;
/** What a waiting datagram costs beside its bytes. */
const WAITING_OVERHEAD = 256;
/** Longer ones are copied by the engine, which costs a view. */
const SHORT_COPY = 192;
const PORTS = 65_536;

export interface UdpCounters {
  inDatagrams: number;
  outDatagrams: number;
  /** Too short, or its length is not the packet's. */
  inErrors: number;
  inCsumErrors: number;
  noPorts: number;
  /** Waiting room of a paused socket was full. */
  rcvbufErrors: number;
  /** Sent while the device had no room. */
  sndbufErrors: number;
}

export interface UdpSettings {
  sum?: Sum;
}

interface Waiting {
  bytes: Uint8Array;
  family: Family;
  source: number;
  destination: number;
  start: number;
  port: number;
  local: number;
  hopLimit: number;
  trafficClass: number;
}

export class Udp implements UdpUser, Transport {
  readonly counters: UdpCounters = {
    inDatagrams: 0,
    outDatagrams: 0,
    inErrors: 0,
    inCsumErrors: 0,
    noPorts: 0,
    rcvbufErrors: 0,
    sndbufErrors: 0,
  };
  /** What a program's handler throws. It ends up where errors of nobody end up: the stack goes on. */
  onError: (error: unknown) => void = (error) => {
    queueMicrotask(() => {
      throw error;
    });
  };
  readonly network: Network;
  readonly #random: Random;
  readonly #sum: Sum;
  /** Sockets that are not connected, by port; the newest first. */
  readonly #bound = new Map<number, Socket[]>();
  /** Connected ones, by the other end: destination and port. */
  readonly #connected = new Map<number, Socket[]>();
  readonly #sockets = new Set<Socket>();
  readonly #blocked = new Set<Socket>();
  readonly #memberships: Record<Family, GroupMembership | null> = { 4: null, 6: null };
  readonly #groups = new Map<string, number>();
  readonly #message: UdpMessage = {
    bytes: new Uint8Array(0),
    start: 0,
    end: 0,
    family: 4,
    source: 0,
    destination: 0,
    port: 0,
    local: NOT_LOCAL,
    hopLimit: 0,
    trafficClass: 0,
  };

  constructor(network: Network, random: Random, { sum = plainSum }: UdpSettings = {}) {
    this.network = network;
    this.#random = random;
    this.#sum = sum;
  }

  /** Who keeps the groups of a family; without, there is no {@link UdpSocket.join}. */
  setGroups(family: Family, membership: GroupMembership): void {
    this.#memberships[family] = membership;
  }

  get socketCount(): number {
    return this.#sockets.size;
  }

  forEach(visit: (socket: UdpSocket) => void): void {
    for (const socket of this.#sockets) visit(socket);
  }

  // ---- sockets

  open(options: UdpOptions): UdpSocket {
    const { family, address = null, port = 0, ipv6Only = false, reuseAddress = false } = options;
    if (!(Number.isInteger(port) && port >= 0 && port <= MAX_PORT)) {
      throw new UdpError('EINVAL', `udp: port ${port}: give a whole number from 0 to ${MAX_PORT}`);
    }
    if (this.#sockets.size >= MAX_SOCKETS) {
      throw new UdpError('ENFILE', `udp: ${MAX_SOCKETS} sockets are open: close one first`);
    }
    if (address !== null) this.#checkBindable(family, address);
    const socket = new Socket(this, options, address, ipv6Only, reuseAddress);
    if (port !== 0) {
      if (!this.#isFree(socket, port)) throw new UdpError('EADDRINUSE', `udp: port ${port} is in use`);
      socket.port = port;
    } else socket.port = this.#choosePort(socket);
    this.#sockets.add(socket);
    this.enter(socket);
    return socket;
  }

  #checkBindable(family: Family, address: Uint8Array): void {
    if (address.length !== (family === 4 ? 4 : 16)) {
      throw new UdpError('EINVAL', `udp: an address of ${address.length} bytes for IPv${family}`);
    }
    if (isMulticast(address) || this.network.locals.find(family, address, 0) !== NOT_LOCAL) return;
    throw new UdpError('EADDRNOTAVAIL', `udp: [${address.join('.')}] is no address of this stack`);
  }

  /** Whether a port can be a socket's, beside those that have it. */
  #isFree(socket: Socket, port: number): boolean {
    for (const other of this.#sockets) {
      if (other.port === port && other.clashes(socket)) return false;
    }
    return true;
  }

  /** RFC 6056 §3.3.1: a random port, and from there on the next free one. */
  #choosePort(socket: Socket): number {
    const taken = new Uint8Array(PORTS);
    for (const other of this.#sockets) if (other.clashes(socket)) taken[other.port] = 1;
    const count = LAST_PORT - FIRST_PORT + 1;
    const from = this.#random() % count;
    for (let i = 0; i < count; i++) {
      const port = FIRST_PORT + ((from + i) % count);
      if (taken[port] === 0) return port;
    }
    throw new UdpError('EADDRINUSE', `udp: all ports from ${FIRST_PORT} to ${LAST_PORT} are in use`);
  }

  /** Puts a socket into the table that fits it. */
  enter(socket: Socket): void {
    const { table, key } = this.#placeOf(socket);
    const list = table.get(key);
    if (list === undefined) table.set(key, [socket]);
    else list.unshift(socket);
  }

  take(socket: Socket): void {
    const { table, key } = this.#placeOf(socket);
    const list = table.get(key)!;
    list.splice(list.indexOf(socket), 1);
    if (list.length === 0) table.delete(key);
  }

  #placeOf(socket: Socket): { table: Map<number, Socket[]>; key: number } {
    if (socket.destination === NO_DESTINATION) return { table: this.#bound, key: socket.port };
    return { table: this.#connected, key: socket.destination * PORTS + socket.remotePort };
  }

  closed(socket: Socket): void {
    this.take(socket);
    this.#sockets.delete(socket);
    this.#blocked.delete(socket);
  }

  block(socket: Socket): void {
    this.#blocked.add(socket);
    this.counters.sndbufErrors++;
  }

  joinGroup(group: Uint8Array): void {
    const membership = this.#memberships[group.length === 4 ? 4 : 6];
    if (membership === null) throw new UdpError('ENODEV', 'udp: nobody keeps multicast groups in this stack');
    const key = group.join('.');
    const count = this.#groups.get(key) ?? 0;
    if (count === 0) membership.join(group);
    this.#groups.set(key, count + 1);
  }

  leaveGroup(group: Uint8Array): void {
    const key = group.join('.');
    const count = this.#groups.get(key)!;
    if (count > 1) this.#groups.set(key, count - 1);
    else {
      this.#groups.delete(key);
      this.#memberships[group.length === 4 ? 4 : 6]!.leave(group);
    }
  }

  // ---- packets

  input(packet: Packet, now: Time): void {
    const { counters } = this;
    const { bytes, at, family } = packet;
    if (packet.end - at < UDP_HEADER_LENGTH) {
      counters.inErrors++;
      return;
    }
    const length = read16(bytes, at + UDP_LENGTH);
    if (length < UDP_HEADER_LENGTH || length > packet.end - at) {
      counters.inErrors++;
      return;
    }
    const checksum = read16(bytes, at + UDP_CHECKSUM);
    // RFC 768: 0 is none. IPv6 must have one (RFC 8200 §8.1).
    if (
      checksum === 0 ? family === 6 && !packet.verified : !packet.verified && !isIntact(packet, at + length, this.#sum)
    ) {
      counters.inErrors++;
      counters.inCsumErrors++;
      return;
    }
    const message = this.#message;
    message.bytes = bytes;
    message.start = at + UDP_HEADER_LENGTH;
    message.end = at + length;
    message.family = family;
    message.source = packet.source;
    message.destination = packet.destination;
    message.port = read16(bytes, at);
    message.local = packet.local;
    message.hopLimit = packet.hopLimit;
    message.trafficClass = packet.trafficClass;
    const port = read16(bytes, at + 2);
    if (packet.local === NOT_LOCAL) {
      this.#toGroup(message, port, packet.gsoSize);
      return;
    }
    const socket = this.#find(family, bytes, packet.source, message.port, packet.local, port);
    if (socket === null) {
      counters.noPorts++;
      this.network.portUnreachable(packet, now);
      return;
    }
    this.#give(socket, message, packet.gsoSize);
  }

  /** The socket for a datagram from `bytes[remote…]` and `remotePort` to an address of ours and `port`. */
  #find(
    family: Family,
    bytes: Uint8Array,
    remote: number,
    remotePort: number,
    local: number,
    port: number,
  ): Socket | null {
    if (this.#connected.size > 0) {
      const destination = this.network.destinations.find(family, bytes, remote);
      const socket = destination === NO_DESTINATION ? null : this.#findConnected(destination, remotePort, local, port);
      if (socket !== null) return socket;
    }
    const list = this.#bound.get(port);
    if (list === undefined) return null;
    let anywhere: Socket | null = null;
    for (let i = 0; i < list.length; i++) {
      const socket = list[i]!;
      if (socket.local === local) return socket;
      if (anywhere === null && socket.address === null && socket.takes(family)) anywhere = socket;
    }
    return anywhere;
  }

  #findConnected(destination: number, remotePort: number, local: number, port: number): Socket | null {
    const list = this.#connected.get(destination * PORTS + remotePort);
    if (list === undefined) return null;
    for (let i = 0; i < list.length; i++) {
      const socket = list[i]!;
      if (socket.port === port && socket.local === local) return socket;
    }
    return null;
  }

  #toGroup(message: UdpMessage, port: number, gsoSize: number): void {
    const list = this.#bound.get(port);
    if (list === undefined) {
      this.counters.noPorts++;
      return;
    }
    const { bytes, destination, family } = message;
    const isGroup = family === 6 || (bytes[destination]! >= 224 && bytes[destination]! < 240);
    const length = family === 4 ? 4 : 16;
    const key = isGroup ? bytes.subarray(destination, destination + length).join('.') : '';
    // Handlers may open and close sockets.
    for (const socket of [...list]) {
      if (!socket.takes(family) || socket.isClosed) continue;
      if (isGroup ? !socket.groups.has(key) : socket.address !== null) continue;
      if (socket.address !== null && !isAt(socket.address, bytes, destination)) continue;
      this.#give(socket, message, gsoSize);
    }
  }

  /** A super-frame stands for several datagrams (VIRTIO_NET_HDR_GSO_UDP_L4). */
  #give(socket: Socket, message: UdpMessage, gsoSize: number): void {
    const { start, end } = message;
    const step = gsoSize > 0 ? gsoSize : Math.max(1, end - start);
    let at = start;
    do {
      message.start = at;
      message.end = Math.min(at + step, end);
      this.counters.inDatagrams++;
      if (!socket.isPaused) this.hand(socket, message);
      else if (!socket.keep(message)) this.counters.rcvbufErrors++;
      at += step;
    } while (at < end && !socket.isClosed);
    message.start = start;
    message.end = end;
  }

  hand(socket: Socket, message: UdpMessage): void {
    try {
      socket.handler.onMessage(socket, message);
    } catch (error) {
      this.onError(error);
    }
  }

  error(kind: number, quoted: Packet, destination: number, _mtu: number): boolean {
    const { bytes, at, local } = quoted;
    const port = read16(bytes, at);
    const remotePort = read16(bytes, at + 2);
    const connected = destination === NO_DESTINATION ? null : this.#findConnected(destination, remotePort, local, port);
    if (connected !== null) {
      if (kind !== ERROR_PACKET_TOO_BIG || connected.dontFragment) this.#tell(connected, kind);
      return true;
    }
    // Somebody may have sent it who is not connected: he is not told, but the path is what it is.
    return (this.#bound.get(port) ?? NO_SOCKETS).some((socket) => socket.local === local || socket.address === null);
  }

  #tell(socket: Socket, kind: number): void {
    const code = codeOf(kind);
    const to = `[${socket.remoteAddress!.join('.')}] port ${socket.remotePort}`;
    try {
      socket.handler.onError?.(socket, new UdpError(code, `udp: ${to}: ${MEANINGS[code]}`));
    } catch (error) {
      this.onError(error);
    }
  }

  writable(): void {
    const sockets = [...this.#blocked];
    this.#blocked.clear();
    for (const socket of sockets) {
      if (socket.isClosed) continue;
      try {
        socket.handler.onWritable?.(socket);
      } catch (error) {
        this.onError(error);
      }
    }
  }
}

const NO_SOCKETS: Socket[] = [];

class Socket implements UdpSocket {
  readonly family: Family;
  readonly address: Uint8Array | null;
  readonly ipv6Only: boolean;
  port = 0;
  broadcast: boolean;
  hopLimit: number;
  multicastHopLimit: number;
  trafficClass: number;
  checksum: boolean;
  dontFragment: boolean;
  remoteAddress: Uint8Array | null = null;
  remotePort = 0;
  readonly handler: UdpHandler;
  /** Number of our address, bound or connected to; NOT_LOCAL: any. */
  local: number = NOT_LOCAL;
  /** Of a connected one: held. */
  destination = NO_DESTINATION;
  readonly groups = new Set<string>();
  isPaused = false;
  isClosed = false;
  readonly #udp: Udp;
  readonly #reuseAddress: boolean;
  readonly #receiveBuffer: number;
  #waiting: Waiting[] = [];
  #waitingBytes = 0;

  constructor(udp: Udp, options: UdpOptions, address: Uint8Array | null, ipv6Only: boolean, reuseAddress: boolean) {
    this.#udp = udp;
    this.family = options.family;
    this.address = address === null ? null : Uint8Array.from(address);
    if (address !== null) this.local = udp.network.locals.find(this.family, address, 0);
    this.ipv6Only = ipv6Only;
    this.#reuseAddress = reuseAddress;
    this.handler = options.handler;
    this.broadcast = options.broadcast ?? false;
    this.hopLimit = options.hopLimit ?? 0;
    this.multicastHopLimit = options.multicastHopLimit ?? 0;
    this.trafficClass = options.trafficClass ?? 0;
    this.checksum = options.checksum ?? true;
    this.dontFragment = options.dontFragment ?? false;
    this.#receiveBuffer = options.receiveBuffer ?? DEFAULT_RECEIVE_BUFFER;
  }

  get localAddress(): Uint8Array | null {
    return this.local === NOT_LOCAL ? this.address : this.#udp.network.locals.address(this.local);
  }

  get receiveQueue(): number {
    return this.#waitingBytes;
  }

  /** Whether packets of a family can be for it. */
  takes(family: Family): boolean {
    return family === this.family || (this.family === 6 && this.address === null && !this.ipv6Only);
  }

  /** Whether it and another one cannot have the same port. */
  clashes(other: Socket): boolean {
    if (this.#reuseAddress && other.#reuseAddress) return false;
    if (!this.takes(other.family) && !other.takes(this.family)) return false;
    return this.address === null || other.address === null || isAt(this.address, other.address, 0);
  }

  connect(address: Uint8Array, port: number): void {
    this.#checkOpen();
    if (!(Number.isInteger(port) && port >= 1 && port <= MAX_PORT)) {
      throw new UdpError('EINVAL', `udp: connect to port ${port}: give a whole number from 1 to ${MAX_PORT}`);
    }
    const family = this.#familyOf(address);
    const { network } = this.#udp;
    const { destinations } = network;
    this.disconnect();
    const destination = destinations.hold(family, address, 0);
    try {
      this.#checkBroadcast(address, destination);
      const local = this.local !== NOT_LOCAL ? this.local : network.sourceFor(destination);
      if (local === NOT_LOCAL) throw noRoute(address);
      this.#udp.take(this);
      this.local = local;
    } catch (error) {
      destinations.letGo(destination);
      throw error;
    }
    this.destination = destination;
    this.remoteAddress = Uint8Array.from(address);
    this.remotePort = port;
    this.#udp.enter(this);
  }

  disconnect(): void {
    if (this.destination === NO_DESTINATION) return;
    const { network } = this.#udp;
    this.#udp.take(this);
    network.destinations.letGo(this.destination);
    this.destination = NO_DESTINATION;
    this.remoteAddress = null;
    this.remotePort = 0;
    this.local = this.address === null ? NOT_LOCAL : network.locals.find(this.family, this.address, 0);
    this.#udp.enter(this);
  }

  send(
    bytes: Uint8Array,
    start: number,
    end: number,
    address?: Uint8Array,
    port?: number,
    local: number = NOT_LOCAL,
  ): boolean {
    this.#checkOpen();
    if (!(start >= 0 && start <= end && end <= bytes.length)) {
      throw new UdpError('EINVAL', `udp: bytes ${start} to ${end} of ${bytes.length}`);
    }
    if (address === undefined) {
      if (this.destination === NO_DESTINATION) {
        throw new UdpError('EDESTADDRREQ', 'udp: give an address and a port, or connect the socket first');
      }
      return this.#transmit(bytes, start, end, this.destination, this.remotePort, this.local);
    }
    if (port === undefined || !(Number.isInteger(port) && port >= 1 && port <= MAX_PORT)) {
      throw new UdpError('EINVAL', `udp: send to port ${port}: give a whole number from 1 to ${MAX_PORT}`);
    }
    const { network } = this.#udp;
    const destination = network.destinations.hold(this.#familyOf(address), address, 0);
    try {
      this.#checkBroadcast(address, destination);
      let from = this.local !== NOT_LOCAL ? this.local : local;
      if (from === NOT_LOCAL) from = network.sourceFor(destination);
      if (from === NOT_LOCAL) throw noRoute(address);
      return this.#transmit(bytes, start, end, destination, port, from);
    } finally {
      network.destinations.letGo(destination);
    }
  }

  #transmit(bytes: Uint8Array, start: number, end: number, destination: number, port: number, local: number): boolean {
    const { network, counters } = this.#udp;
    const { destinations } = network;
    const isV4 = destinations.family(destination) === 4;
    const length = UDP_HEADER_LENGTH + end - start;
    if (end - start > (isV4 ? MAX_DATA_IPV4 : MAX_DATA_IPV6)) {
      throw new UdpError('EMSGSIZE', `udp: a datagram of ${end - start} bytes: send several`);
    }
    if (this.dontFragment && length + (isV4 ? IPV4_HEADER : IPV6_HEADER) > destinations.pathMtu(destination)) {
      const mtu = destinations.pathMtu(destination);
      throw new UdpError('EMSGSIZE', `udp: a datagram of ${end - start} bytes does not go whole into an MTU of ${mtu}`);
    }
    const isGroup = this.multicastHopLimit > 0 && isMulticast(destinations.address(destination));
    const hopLimit = isGroup ? this.multicastHopLimit : this.hopLimit;
    const begun = network.begin(local, destination, IPPROTO_UDP, this.trafficClass, length, hopLimit);
    if (begun === BUSY) {
      this.#udp.block(this);
      return false;
    }
    if (begun !== BEGUN) throw noRoute(destinations.address(destination));
    const { bytes: out, at } = network.outgoing;
    write16(out, at, this.port);
    write16(out, at + 2, port);
    write16(out, at + UDP_LENGTH, length);
    write16(out, at + UDP_CHECKSUM, 0);
    if (end - start > SHORT_COPY) out.set(bytes.subarray(start, end), at + UDP_HEADER_LENGTH);
    else for (let i = 0; i < end - start; i++) out[at + UDP_HEADER_LENGTH + i] = bytes[start + i]!;
    network.send(length, this.checksum || !isV4 ? UDP_CHECKSUM : -1);
    counters.outDatagrams++;
    return true;
  }

  #familyOf(address: Uint8Array): Family {
    const family = address.length === 4 ? 4 : address.length === 16 ? 6 : null;
    if (family === null) throw new UdpError('EINVAL', `udp: an address of ${address.length} bytes: give 4 or 16`);
    if (this.takes(family)) return family;
    throw new UdpError('EINVAL', `udp: an IPv${family} address for a socket of IPv${this.family}`);
  }

  #checkBroadcast(address: Uint8Array, destination: number): void {
    if (this.broadcast || address.length !== 4 || isMulticast(address)) return;
    const { network } = this.#udp;
    const isEverybody = address.every((byte) => byte === 255) || (network.isBroadcast?.(destination) ?? false);
    if (isEverybody) {
      throw new UdpError('EACCES', `udp: ${address.join('.')} is for everybody: open the socket with broadcast`);
    }
  }

  pause(): void {
    this.isPaused = true;
  }

  resume(): void {
    this.isPaused = false;
    while (!this.isPaused && !this.isClosed) {
      const waiting = this.#waiting.shift();
      if (waiting === undefined) return;
      this.#waitingBytes -= waiting.bytes.length + WAITING_OVERHEAD;
      this.#udp.hand(this, { ...waiting, end: waiting.bytes.length });
    }
  }

  /** Keeps a copy of a datagram. False: there is no room. */
  keep(message: UdpMessage): boolean {
    const { bytes, start, end, family, source, destination, port, local, hopLimit, trafficClass } = message;
    const length = family === 4 ? 4 : 16;
    const cost = 2 * length + end - start + WAITING_OVERHEAD;
    if (this.#waitingBytes + cost > this.#receiveBuffer) return false;
    const copy = new Uint8Array(cost - WAITING_OVERHEAD);
    copy.set(bytes.subarray(source, source + length));
    copy.set(bytes.subarray(destination, destination + length), length);
    copy.set(bytes.subarray(start, end), 2 * length);
    this.#waiting.push({
      bytes: copy,
      family,
      source: 0,
      destination: length,
      start: 2 * length,
      port,
      local,
      hopLimit,
      trafficClass,
    });
    this.#waitingBytes += cost;
    return true;
  }

  join(group: Uint8Array): void {
    this.#checkOpen();
    this.#familyOf(group);
    if (!isMulticast(group)) throw new UdpError('EINVAL', `udp: [${group.join('.')}] is no multicast group`);
    const key = group.join('.');
    if (this.groups.has(key)) throw new UdpError('EADDRINUSE', `udp: the socket takes part in [${key}] already`);
    this.#udp.joinGroup(group);
    this.groups.add(key);
  }

  leave(group: Uint8Array): void {
    if (!this.groups.delete(group.join('.'))) {
      throw new UdpError('EADDRNOTAVAIL', `udp: the socket takes no part in [${group.join('.')}]`);
    }
    this.#udp.leaveGroup(group);
  }

  close(): void {
    if (this.isClosed) return;
    for (const key of [...this.groups]) this.leave(Uint8Array.from(key.split('.'), Number));
    this.disconnect();
    this.isClosed = true;
    this.#waiting = [];
    this.#udp.closed(this);
  }

  #checkOpen(): void {
    if (this.isClosed) throw new UdpError('EBADF', 'udp: the socket is closed');
  }
}

function isMulticast(address: Uint8Array): boolean {
  return address.length === 4 ? address[0]! >>> 4 === 0xe : address[0] === 0xff;
}

function isAt(address: Uint8Array, bytes: Uint8Array, at: number): boolean {
  for (let i = 0; i < address.length; i++) if (bytes[at + i] !== address[i]) return false;
  return true;
}

function noRoute(address: Uint8Array): UdpError {
  return new UdpError('ENETUNREACH', `udp: no route to [${address.join('.')}], or no address to send from`);
}

/** As Linux's icmp_err_convert does. */
function codeOf(kind: number): keyof typeof MEANINGS {
  switch (kind) {
    case ERROR_UNREACHABLE_PORT:
      return 'ECONNREFUSED';
    case ERROR_UNREACHABLE_NET:
      return 'ENETUNREACH';
    case ERROR_UNREACHABLE_PROTOCOL:
      return 'ENOPROTOOPT';
    case ERROR_PACKET_TOO_BIG:
      return 'EMSGSIZE';
    case ERROR_PROHIBITED:
      return 'EACCES';
    case ERROR_PARAMETER_PROBLEM:
      return 'EPROTO';
    default:
      return 'EHOSTUNREACH';
  }
}

const MEANINGS = {
  ECONNREFUSED: 'nobody listens there',
  ENETUNREACH: 'no router knows a way',
  ENOPROTOOPT: 'the host does not speak UDP',
  EMSGSIZE: 'too big for the path',
  EACCES: 'somebody on the way forbids it',
  EPROTO: 'somebody found the packet wrong',
  EHOSTUNREACH: 'the host cannot be reached',
} as const;
