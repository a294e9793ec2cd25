/**
 * TCP (RFC 9293): the front of the house. Programs call it ({@link TcpUser}), IP hands it packets ({@link Transport}), and
 * the stack tells it the time ({@link Ticking}); the work is done in the rooms behind.
 *
 *     packet ─► whose is it? ─┬─► Arrival        a connection in any state but SYN-SENT
 *                             ├─► Handshake      SYN-SENT
 *                             ├─► TimeWaiting    an old one
 *                             ├─► Listeners      a new one, or the last ACK of a cookie
 *                             └─► RST
 *
 * One thread. Programs may call anything from within their callbacks.
 */
import { type Sum, sum } from '../../packet/checksum.ts';
import {
  ERROR_PACKET_TOO_BIG,
  ERROR_PROHIBITED,
  ERROR_UNREACHABLE_HOST,
  ERROR_UNREACHABLE_NET,
  ERROR_UNREACHABLE_PORT,
  ERROR_UNREACHABLE_PROTOCOL,
  NEVER,
  type Network,
  NO_DESTINATION,
  type Random,
  type Ticking,
  type Time,
  type Transport,
} from '../network.ts';
import { isIntact, NOT_LOCAL, type Packet } from '../packet.ts';
import {
  type Connection,
  type ConnectOptions,
  type Endpoint,
  type Listener,
  type ListenOptions,
  TcpError,
  type TcpInfo,
  type TcpUser,
} from './api.ts';
import { Arrival } from './arrival.ts';
import {
  ACTIVE_OPEN,
  CORKED,
  DRAINING,
  ECN,
  ECN_WANTED,
  FAST_OPEN,
  FIN_QUEUED,
  KEEP_ALIVE,
  KNOWN,
  NO_CONNECTION,
  NO_DELAY,
  ORPHAN,
  PAUSED,
  SACK_PERMITTED,
  STATE_NAMES,
  SYN_RECEIVED,
  SYN_SENT,
  TIMESTAMPS,
  WANTS_WRITABLE,
} from './connections.ts';
import { TcpCore, type TcpOptions } from './core.ts';
import type { TcpCounters } from './counters.ts';
import { FastOpenClient, FastOpenServer } from './fast-open-cookies.ts';
import { NO_HANDLER } from './handlers.ts';
import { Handshake } from './handshake.ts';
import { applyFlags, familyOf, Listeners } from './listeners.ts';
import { Output } from './output.ts';
import { PathMtu } from './path-mtu.ts';
import { ABSENT, read16, read32, TCP_RST } from './segment.ts';
import { before, distance, plus } from './sequence.ts';
import { settingsOf } from './settings.ts';
import { TimeWaiting } from './time-waiting.ts';
import { Timers } from './timers.ts';

const MAX_PORT = 65_535;
/** Of a header that an ICMP error quotes, ports and number are there at least (RFC 792). */
const QUOTED_BYTES = 8;

export class Tcp implements TcpUser, Transport, Ticking {
  readonly #core: TcpCore;
  readonly #output: Output;
  readonly #handshake: Handshake;
  readonly #arrival: Arrival;
  readonly #listeners: Listeners;
  readonly #timeWaiting: TimeWaiting;
  readonly #timers: Timers;
  readonly #pathMtu: PathMtu;
  readonly #fastOpen: FastOpenClient;
  readonly #sum: Sum;
  /** The time, when a program calls. Without one, the time of the last packet or tick counts. */
  readonly #clock: () => Time;
  /** The 4-tuple that a port is looked for. */
  #local = 0;
  #remote = 0;
  #remotePort = 0;
  #isBlocked = false;

  constructor(network: Network, random: Random, options: Partial<TcpOptions> & { sum?: Sum; clock?: () => Time } = {}) {
    const core = new TcpCore(network, random, options);
    this.#core = core;
    this.#sum = options.sum ?? sum;
    this.#clock = options.clock ?? (() => 0);
    this.#output = new Output(core);
    this.#fastOpen = new FastOpenClient();
    this.#handshake = new Handshake(core, this.#output, this.#fastOpen);
    this.#arrival = new Arrival(core, this.#output, this.#handshake);
    this.#timeWaiting = new TimeWaiting(core);
    this.#timers = new Timers(core, this.#output, this.#handshake);
    this.#listeners = new Listeners(core, this.#output, this.#handshake, new FastOpenServer(random));
    this.#pathMtu = new PathMtu(core);
    this.#output.onDone = (c) => this.#timers.schedule(c);
    this.#handshake.onData = (c, packet) => this.#arrival.takeData(c, packet);
    this.#listeners.onCookie = (c, packet) => this.#arrival.synchronized(c, packet);
    this.#arrival.onNarrowPath = (c, transfer) => this.#pathMtu.retryFull(c, transfer);
    this.#pathMtu.onNarrow = (destination) => this.pathMtuChanged(destination, core.now);
    this.#timers.onBlackHole = (c, transfer) => this.#pathMtu.blackHole(c, transfer);
  }

  get counters(): Readonly<TcpCounters> {
    return this.#core.counters;
  }

  /** Connections, those that wait for their handshake included. */
  get connectionCount(): number {
    return this.#core.connections.count;
  }

  get timeWaitCount(): number {
    return this.#core.timeWait.count;
  }

  /** Bytes that wait for programs, or for what comes before them, over all connections. */
  get receiveMemory(): number {
    return this.#core.receiveMemory;
  }

  set onWork(callback: () => void) {
    this.#core.onWork = callback;
  }

  get onWork(): () => void {
    return this.#core.onWork;
  }

  /** Where goes what a program's handler throws; unless set, it is thrown where nobody catches it. */
  set onError(callback: (error: unknown) => void) {
    this.#core.onError = callback;
  }

  // ---- packets

  input(packet: Packet, now: Time): void {
    const core = this.#core;
    const { segment, counters } = core;
    core.now = now;
    counters.inSegs++;
    if (packet.local === NOT_LOCAL || !segment.parse(packet.bytes, packet.at, packet.end)) {
      counters.inErrs++;
      return;
    }
    if (!packet.verified && !isIntact(packet, packet.end, this.#sum)) {
      counters.inErrs++;
      counters.inCsumErrors++;
      return;
    }
    core.depth++;
    this.#dispatch(packet);
    core.depth--;
  }

  #dispatch(packet: Packet): void {
    const { segment, network, tuples, timeWait, connections } = this.#core;
    const { local } = packet;
    const remote = network.destinations.find(packet.family, packet.bytes, packet.source);
    if (remote !== NO_DESTINATION) {
      const c = tuples.find(local, remote, segment.destinationPort, segment.sourcePort);
      if (c >= 0) {
        if (connections.state[c] === SYN_SENT) this.#handshake.synSent(c, packet);
        else this.#arrival.synchronized(c, packet);
        return;
      }
    }
    const listener = this.#listeners.find(packet, segment.destinationPort);
    let reused = ABSENT;
    if (remote !== NO_DESTINATION && timeWait.count > 0) {
      const slot = timeWait.find(local, remote, segment.destinationPort, segment.sourcePort);
      if (slot >= 0) {
        reused = this.#timeWaiting.input(slot, packet, listener !== null);
        if (reused === ABSENT) return;
      }
    }
    if (listener !== null) this.#listeners.input(listener, packet, reused);
    else if ((segment.flags & TCP_RST) === 0) this.#output.refuse(packet);
  }

  /** RFC 5927: believed only of a connection, and of a number that is in flight. */
  error(kind: number, quoted: Packet, destination: number, mtu: number, now: Time): boolean {
    const core = this.#core;
    const { connections } = core;
    core.now = now;
    if (destination === NO_DESTINATION || quoted.local === NOT_LOCAL) return false;
    if (quoted.end - quoted.at < QUOTED_BYTES) return false;
    const { bytes, at } = quoted;
    const c = core.tuples.find(quoted.local, destination, read16(bytes, at), read16(bytes, at + 2));
    if (c < 0) return false;
    const seq = read32(bytes, at + 4);
    const { sndUna, sndNxt, state } = connections;
    if (before(seq, sndUna[c]!) || !before(seq, sndNxt[c]!)) return false;
    if (kind === ERROR_PACKET_TOO_BIG) {
      core.depth++;
      const isSmaller = this.#pathMtu.tooBig(c, mtu);
      core.depth--;
      return isSmaller;
    }
    // RFC 5461: while a connection is made, it comes to nothing at once; later such errors are no reason to end it.
    if (state[c] !== SYN_SENT && state[c] !== SYN_RECEIVED) return false;
    const code = ERRORS.get(kind);
    if (code === undefined) return false;
    core.counters.attemptFails++;
    core.depth++;
    core.drop(c, new TcpError(code[0], code[1]));
    core.depth--;
    return false;
  }

  /** One connection heard of it: all others that are sending there need not lose anything first. Idle ones learn it as they begin. */
  pathMtuChanged(destination: number, now: Time): void {
    const core = this.#core;
    const { connections, network, transfers } = core;
    core.now = now;
    core.depth++;
    const mtu = network.destinations.pathMtu(destination);
    transfers.forEach(({ connection }) => {
      if (connections.remote[connection] === destination) this.#pathMtu.tooBig(connection, mtu);
    });
    core.depth--;
  }

  // ---- time

  get deadline(): Time {
    const { wheel, timeWait, dirtyCount } = this.#core;
    if (dirtyCount > 0 && !this.#isBlocked) return 0;
    return Math.min(wheel.deadline, timeWait.deadline);
  }

  tick(now: Time): void {
    const core = this.#core;
    core.now = now;
    core.depth++;
    core.wheel.advance(now, this.#expire);
    core.timeWait.expire(now, this.#endTimeWait);
    core.depth--;
  }

  readonly #expire = (c: number): void => {
    if (this.#core.connections.has(c)) this.#timers.expire(c);
  };

  readonly #endTimeWait = (slot: number): void => {
    this.#core.network.destinations.letGo(this.#core.timeWait.remote(slot));
  };

  settle(now: Time): void {
    const core = this.#core;
    core.now = now;
    core.depth++;
    this.#output.settle();
    this.#isBlocked = core.dirtyCount > 0;
    core.depth--;
    core.connections.recycle();
  }

  writable(now: Time): void {
    this.#output.unblock();
    this.settle(now);
  }

  // ---- programs

  connect(options: ConnectOptions): Connection {
    const core = this.#core;
    const { connections, network, counters } = core;
    const { destinations } = network;
    this.#look();
    const settings = core.settings.numberOf(options);
    const family = familyOf(options.address);
    if (!Number.isInteger(options.port) || options.port < 1 || options.port > MAX_PORT) {
      throw new TcpError('EINVAL', `cannot connect to port ${options.port}: a port is a number from 1 to ${MAX_PORT}`);
    }
    const remote = destinations.hold(family, options.address, 0);
    try {
      const local = this.#localFor(options, remote);
      const localPort = this.#portFor(options, local, remote);
      const c = connections.allocate();
      if (c === NO_CONNECTION) {
        counters.tableFull++;
        throw new TcpError('ENFILE', `there are ${connections.capacity} connections already: raise maxConnections`);
      }
      connections.state[c] = SYN_SENT;
      connections.local[c] = local;
      connections.remote[c] = remote;
      connections.localPort[c] = localPort;
      connections.remotePort[c] = options.port;
      connections.settings[c] = settings;
      connections.handler[c] = core.handlers.hold(options.handler);
      connections.setFlag(c, KNOWN | ACTIVE_OPEN | (options.ecn === true ? ECN_WANTED : 0));
      applyFlags(connections, c, core.settings.get(settings));
      connections.rcvScale[c] = this.#handshake.windowScale;
      core.tuples.insert(c);
      connections.tsOffset[c] = core.timestampOffset(c);
      connections.sndUna[c] = core.initialSequence(c);
      connections.sndNxt[c] = plus(connections.sndUna[c]!, 1);
      core.limitMss(c, core.pathMss(remote));
      counters.activeOpens++;
      if (options.fastOpenData !== undefined) {
        connections.setFlag(c, FAST_OPEN);
        core.transferFor(c).sendBuffer.append(options.fastOpenData);
      }
      this.#handshake.sendSyn(c);
      if (core.depth === 0) core.onWork();
      return c;
    } catch (error) {
      destinations.letGo(remote);
      throw error;
    }
  }

  #localFor({ localAddress }: ConnectOptions, remote: number): number {
    const { network } = this.#core;
    if (localAddress !== undefined) {
      const local = network.locals.find(familyOf(localAddress), localAddress, 0);
      if (local === NOT_LOCAL) {
        throw new TcpError('EADDRNOTAVAIL', `cannot connect from ${localAddress.join('.')}: no address of this stack`);
      }
      if (network.hasRoute(remote)) return local;
    }
    const local = localAddress === undefined ? network.sourceFor(remote) : NOT_LOCAL;
    if (local !== NOT_LOCAL) return local;
    throw new TcpError('ENETUNREACH', 'there is no route to that address: add an address, or a gateway, to the stack');
  }

  #portFor({ localPort, port }: ConnectOptions, local: number, remote: number): number {
    this.#local = local;
    this.#remote = remote;
    this.#remotePort = port;
    if (localPort === undefined || localPort === 0) {
      const chosen = this.#core.ports.choose(local, remote, port, this.#isFree);
      if (chosen !== 0) return chosen;
      const [first, last] = this.#core.options.ephemeralPorts;
      throw new TcpError(
        'EADDRNOTAVAIL',
        `all ports from ${first} to ${last} have a connection to that address and port`,
      );
    }
    if (!Number.isInteger(localPort) || localPort < 0 || localPort > MAX_PORT) {
      throw new TcpError('EINVAL', `cannot connect from port ${localPort}: a port is a number from 0 to ${MAX_PORT}`);
    }
    if (this.#isFree(localPort)) return localPort;
    throw new TcpError('EADDRINUSE', `port ${localPort} has a connection to that address and port already`);
  }

  readonly #isFree = (localPort: number): boolean => {
    const { tuples, timeWait } = this.#core;
    if (tuples.find(this.#local, this.#remote, localPort, this.#remotePort) >= 0) return false;
    return timeWait.count === 0 || timeWait.find(this.#local, this.#remote, localPort, this.#remotePort) < 0;
  };

  listen(options: ListenOptions): Listener {
    return this.#listeners.open(options);
  }

  write(c: Connection, bytes: Uint8Array): boolean {
    const core = this.#core;
    const { connections } = core;
    this.#check(c, 'write');
    if ((connections.flags[c]! & FIN_QUEUED) !== 0) {
      throw new TcpError('EPIPE', 'the connection was shut down: nothing can be written any more');
    }
    const transfer = core.transferFor(c);
    transfer.sendBuffer.append(bytes);
    core.touch(c);
    if (transfer.sendBuffer.length < transfer.sendBufferBytes) return true;
    connections.setFlag(c, WANTS_WRITABLE);
    return false;
  }

  writeUrgent(c: Connection, bytes: Uint8Array): boolean {
    const isEnough = this.write(c, bytes);
    const transfer = this.#core.transferFor(c);
    transfer.sndUp = plus(transfer.sendBuffer.start, transfer.sendBuffer.length);
    transfer.hasSendUrgent = true;
    return isEnough;
  }

  shutdown(c: Connection): void {
    this.#check(c, 'shut down');
    this.#queueFin(c);
  }

  #queueFin(c: number): void {
    const { connections } = this.#core;
    const { state } = connections;
    if (state[c] === SYN_SENT) {
      // Data that was written shall still get there: FIN follows it when there is a connection.
      connections.setFlag(c, FIN_QUEUED);
      return;
    }
    connections.setFlag(c, FIN_QUEUED);
    this.#core.touch(c);
  }

  close(c: Connection): void {
    this.#check(c, 'close');
    const core = this.#core;
    const { connections, handlers } = core;
    const { flags, state, handler } = connections;
    const transfer = core.transferOf(c);
    const hasUnread = transfer !== null && transfer.received.memory > 0;
    handlers.letGo(handler[c]!);
    handler[c] = NO_HANDLER;
    flags[c] = (flags[c]! & ~(KNOWN | PAUSED | WANTS_WRITABLE)) | ORPHAN;
    if (state[c] === SYN_SENT && (transfer === null || transfer.sendBuffer.length === 0)) {
      core.drop(c, null);
      return;
    }
    if (hasUnread && state[c] !== DRAINING) {
      // RFC 1122 §4.2.2.13: the other side must know that what it sent was not read.
      this.#output.reset(c);
      core.drop(c, null);
      this.#afterCall();
      return;
    }
    connections.lastHeard[c] = core.nowMs;
    if (state[c] === DRAINING) {
      if (transfer !== null) transfer.received.reset();
      this.#arrival.tellEnd(c);
    } else this.#queueFin(c);
    if (connections.has(c)) core.touch(c);
  }

  abort(c: Connection): void {
    this.#check(c, 'abort');
    const core = this.#core;
    const { connections, handlers } = core;
    if (connections.state[c] !== SYN_SENT && connections.state[c] !== DRAINING) this.#output.reset(c);
    handlers.letGo(connections.handler[c]!);
    connections.handler[c] = NO_HANDLER;
    connections.flags[c] = (connections.flags[c]! & ~KNOWN) | ORPHAN;
    core.drop(c, null);
    this.#afterCall();
  }

  /** Something was put into the device's ring, and no poll is under way that would show it. */
  #afterCall(): void {
    if (this.#core.depth === 0) this.#core.onWork();
  }

  pause(c: Connection): void {
    this.#check(c, 'pause');
    this.#core.connections.setFlag(c, PAUSED);
  }

  resume(c: Connection): void {
    this.#check(c, 'resume');
    const core = this.#core;
    const { connections } = core;
    if (!connections.hasFlag(c, PAUSED)) return;
    connections.clearFlag(c, PAUSED);
    const transfer = core.transferOf(c);
    if (transfer !== null) this.#arrival.giveHeld(c, transfer);
    if (connections.has(c)) this.#arrival.tellEnd(c);
    if (connections.has(c)) core.touch(c);
  }

  setNoDelay(c: Connection, on: boolean): void {
    this.#setFlag(c, NO_DELAY, on);
  }

  setCork(c: Connection, on: boolean): void {
    this.#setFlag(c, CORKED, on);
    const transfer = this.#core.transferOf(c);
    if (transfer === null) return;
    transfer.corkDeadline = NEVER;
    transfer.corkOver = false;
  }

  #setFlag(c: number, flag: number, on: boolean): void {
    this.#check(c, 'set options of');
    const { connections } = this.#core;
    if (on) connections.setFlag(c, flag);
    else connections.clearFlag(c, flag);
    this.#core.touch(c);
  }

  setKeepAlive(c: Connection, afterMs: number, intervalMs?: number, probes?: number): void {
    this.#setFlag(c, KEEP_ALIVE, afterMs > 0);
    const { connections, settings } = this.#core;
    const old = settings.get(connections.settings[c]!);
    const wanted = settingsOf({
      ...old,
      keepAliveMs: afterMs,
      keepAliveIntervalMs: intervalMs ?? old.keepAliveIntervalMs,
      keepAliveProbes: probes ?? old.keepAliveProbes,
    });
    connections.settings[c] = settings.intern(wanted);
  }

  setUserTimeout(c: Connection, ms: number): void {
    this.#check(c, 'set options of');
    const { connections, settings } = this.#core;
    connections.settings[c] = settings.intern(
      settingsOf({ ...settings.get(connections.settings[c]!), userTimeoutMs: ms }),
    );
    this.#core.touch(c);
  }

  #look(): void {
    const core = this.#core;
    if (core.depth === 0) core.now = Math.max(core.now, this.#clock());
  }

  // ---- questions

  localEndpoint(c: Connection): Endpoint {
    this.#check(c, 'ask about');
    const { network, connections } = this.#core;
    return { address: network.locals.address(connections.local[c]!), port: connections.localPort[c]! };
  }

  remoteEndpoint(c: Connection): Endpoint {
    this.#check(c, 'ask about');
    const { network, connections } = this.#core;
    return { address: network.destinations.address(connections.remote[c]!), port: connections.remotePort[c]! };
  }

  forEach(visit: (connection: Connection) => void): void {
    this.#core.connections.forEach(visit);
  }

  forEachListener(visit: (listener: Listener) => void): void {
    this.#listeners.forEach(visit);
  }

  info(c: Connection): TcpInfo {
    this.#check(c, 'ask about');
    const core = this.#core;
    const { connections, network } = core;
    const { flags } = connections;
    const transfer = core.transferOf(c);
    const sender = transfer?.sender;
    const ms = (microseconds: number): number => microseconds / 1000;
    const options: string[] = [];
    if ((flags[c]! & TIMESTAMPS) !== 0) options.push('ts');
    if ((flags[c]! & SACK_PERMITTED) !== 0) options.push('sack');
    if ((flags[c]! & ECN) !== 0) options.push('ecn');
    if (connections.rcvScale[c]! > 0) options.push(`wscale:${connections.sndScale[c]},${connections.rcvScale[c]}`);
    const inFlight = distance(connections.sndNxt[c]!, connections.sndUna[c]!);
    return {
      state: STATE_NAMES[connections.state[c]!]!,
      local: this.localEndpoint(c),
      remote: this.remoteEndpoint(c),
      congestion: core.settingsOf(c).congestion,
      options,
      rto: ms(sender?.rto ?? 0),
      rtt: ms(sender?.srtt ?? connections.srtt[c]!),
      rttVariation: ms(sender?.rttvar ?? connections.rttvar[c]!),
      minRtt: ms(sender?.minRtt ?? connections.minRtt[c]!),
      mss: connections.mss[c]!,
      pathMtu: network.destinations.pathMtu(connections.remote[c]!),
      cwnd: sender?.cwnd ?? connections.cwnd[c]!,
      ssthresh: sender?.ssthresh ?? connections.ssthresh[c]!,
      inFlight,
      sendQueue: transfer?.sendBuffer.length ?? 0,
      receiveQueue: transfer?.received.held ?? 0,
      sendWindow: connections.sndWnd[c]!,
      receiveWindow: Math.max(0, distance(connections.rcvEdge[c]!, connections.rcvNxt[c]!)),
      retransmitted: sender?.retransmissions ?? 0,
      lost: sender?.losses ?? 0,
      bytesSent: connections.bytesSent[c]!,
      bytesAcknowledged: Math.max(0, connections.bytesSent[c]! - inFlight),
      bytesReceived: connections.bytesReceived[c]!,
      pacingRate: sender?.pacingRate ?? 0,
    };
  }

  /** A program calls: from outside of the stack's own calls the time of the last one may be long ago. */
  #check(c: Connection, what: string): void {
    this.#look();
    if (this.#core.connections.has(c)) return;
    throw new TcpError('ENOTCONN', `cannot ${what} connection ${c}: there is none of this number (any more)`);
  }
}

const ERRORS = new Map<number, [string, string]>([
  [ERROR_UNREACHABLE_NET, ['ENETUNREACH', 'a router has no way to that network']],
  [ERROR_UNREACHABLE_HOST, ['EHOSTUNREACH', 'the host does not answer, or a router has no way to it']],
  [ERROR_UNREACHABLE_PROTOCOL, ['ENOPROTOOPT', 'the host does not speak TCP']],
  [ERROR_UNREACHABLE_PORT, ['ECONNREFUSED', 'the host refuses connections to that port']],
  [ERROR_PROHIBITED, ['EHOSTUNREACH', 'a router or the host prohibits the connection']],
]);
