/**
 * LISTEN (RFC 9293 §3.10.7.2): who takes new connections, and the two ways to one.
 *
 *     SYN ─► a row in SYN-RECEIVED, SYN-ACK ─► ACK ─► onAccept            as long as the backlog has room
 *     SYN ─► SYN-ACK whose number is a cookie ─► ACK that brings it back ─► a row, onAccept        (RFC 4987 §3.6)
 *
 * So a flood of forged SYNs costs at most the backlog's rows, and honest clients get in meanwhile.
 */
import { IPPROTO_TCP, TCP_CHECKSUM } from '../../packet/header-fields.ts';
import { BEGUN, MICROSECONDS_PER_SECOND, type Time } from '../network.ts';
import { type Family, NOT_LOCAL, type Packet } from '../packet.ts';
import { type Listener, type ListenOptions, TcpError, type TcpHandler } from './api.ts';
import {
  BY_COOKIE,
  ECN,
  ECN_WANTED,
  FAST_OPEN,
  FAST_OPENED,
  KEEP_ALIVE,
  KNOWN,
  NO_CONNECTION,
  NO_DELAY,
  ORPHAN,
  SACK_PERMITTED,
  SYN_RECEIVED,
  TIMESTAMPS,
} from './connections.ts';
import type { TcpCore } from './core.ts';
import type { FastOpenServer } from './fast-open-cookies.ts';
import type { Handshake } from './handshake.ts';
import type { Output } from './output.ts';
import { idleBuffer } from './receive-window.ts';
import {
  ABSENT,
  DEFAULT_MSS_IPV4,
  DEFAULT_MSS_IPV6,
  TCP_ACK,
  TCP_CWR,
  TCP_ECE,
  TCP_FIN,
  TCP_MAX_HEADER_LENGTH,
  TCP_MAX_WINDOW,
  TCP_RST,
  TCP_SYN,
} from './segment.ts';
import { plus } from './sequence.ts';
import { type Settings, settingsOf } from './settings.ts';
import { SynCookies } from './syn-cookies.ts';

/** What Linux allows (somaxconn, less the last one). */
const DEFAULT_BACKLOG = 511;
/** What a SYN-ACK offers that is made without looking at the path: an Ethernet's. */
const ETHERNET_MSS_IPV4 = 1460;
const ETHERNET_MSS_IPV6 = 1440;
/** Cookies are looked for so long after the last one was sent. */
const COOKIE_TIME = 150 * MICROSECONDS_PER_SECOND;
const NEVER_SENT = Number.NEGATIVE_INFINITY;
const MAX_PORT = 65_535;

class PortListener implements Listener {
  readonly id: number;
  readonly address: Uint8Array | null;
  readonly port: number;
  readonly options: ListenOptions;
  readonly settings: Settings;
  /** The settings' number. */
  readonly settingsNumber: number;
  readonly backlog: number;
  readonly ipv6Only: boolean;
  readonly families: readonly Family[];
  waiting = 0;
  /** When a cookie was sent last. */
  cookieSent: Time = NEVER_SENT;
  readonly #close: (listener: PortListener) => void;

  constructor(
    id: number,
    port: number,
    options: ListenOptions,
    settings: Settings,
    settingsNumber: number,
    close: (listener: PortListener) => void,
  ) {
    this.id = id;
    this.address = options.address ?? null;
    this.port = port;
    this.options = options;
    this.settings = settings;
    this.settingsNumber = settingsNumber;
    this.backlog = options.backlog ?? DEFAULT_BACKLOG;
    this.ipv6Only = options.ipv6Only === true;
    this.families = familiesOf(options);
    this.#close = close;
  }

  close(): void {
    this.#close(this);
  }
}

export class Listeners {
  readonly #core: TcpCore;
  readonly #output: Output;
  readonly #handshake: Handshake;
  readonly #cookies: SynCookies;
  readonly #fastOpen: FastOpenServer;
  /** By number, from 1 on; a hole where one was closed. */
  readonly #rows: (PortListener | undefined)[] = [undefined];
  readonly #byPort = new Map<number, PortListener[]>();
  /** The last ACK of a cookie made a row: the segment goes to it. */
  onCookie: (c: number, packet: Packet) => void = () => {};

  constructor(core: TcpCore, output: Output, handshake: Handshake, fastOpen: FastOpenServer) {
    this.#core = core;
    this.#output = output;
    this.#handshake = handshake;
    this.#fastOpen = fastOpen;
    this.#cookies = new SynCookies(core.random);
    core.onHandshakeOver = (listener) => {
      const row = this.#rows[listener];
      if (row !== undefined) row.waiting--;
    };
    handshake.onAccepted = (c) => this.#accept(c, this.#rows[core.connections.handler[c]!]);
  }

  // ---- opening

  open(options: ListenOptions): Listener {
    const core = this.#core;
    const { backlog } = options;
    if (!Number.isInteger(options.port) || options.port < 0 || options.port > MAX_PORT) {
      throw new TcpError('EINVAL', `cannot listen on port ${options.port}: a port is a number from 0 to ${MAX_PORT}`);
    }
    if (backlog !== undefined && !(Number.isInteger(backlog) && backlog >= 0)) {
      throw new TcpError('EINVAL', `a backlog of ${backlog}: a whole number, 0 or more`);
    }
    const { address } = options;
    if (address !== undefined) {
      const family = familyOf(address);
      if (core.network.locals.find(family, address, 0) === NOT_LOCAL) {
        throw new TcpError('EADDRNOTAVAIL', `cannot listen on ${address.join('.')}: it is no address of this stack`);
      }
    }
    const settings = settingsOf(options);
    const number = core.settings.intern(settings);
    const port = options.port === 0 ? this.#freePort(options) : options.port;
    if (this.#conflicts(options, port)) {
      throw new TcpError('EADDRINUSE', `port ${port} is listened on already; choose another, or close that listener`);
    }
    const listener = new PortListener(this.#rows.length, port, options, settings, number, (one) => this.#close(one));
    this.#rows.push(listener);
    const others = this.#byPort.get(port);
    if (others === undefined) this.#byPort.set(port, [listener]);
    else others.push(listener);
    return listener;
  }

  forEach(visit: (listener: Listener) => void): void {
    for (const listeners of this.#byPort.values()) for (const listener of listeners) visit(listener);
  }

  #freePort(options: ListenOptions): number {
    const [first, last] = this.#core.options.ephemeralPorts;
    const count = last - first + 1;
    const start = this.#core.random() % count;
    for (let i = 0; i < count; i++) {
      const port = first + ((start + i) % count);
      if (!this.#conflicts(options, port)) return port;
    }
    throw new TcpError('EADDRINUSE', `all ports from ${first} to ${last} are listened on`);
  }

  /** Two listeners may share a port when their addresses differ, or their families. */
  #conflicts(options: ListenOptions, port: number): boolean {
    const families = familiesOf(options);
    return (this.#byPort.get(port) ?? []).some((other) => {
      if (!other.families.some((family) => families.includes(family))) return false;
      if (options.address === undefined || other.address === null)
        return options.address === (other.address ?? undefined);
      return (
        options.address.length === other.address.length && options.address.every((b, i) => b === other.address![i])
      );
    });
  }

  /** Half-open connections of it are reset, as Linux does it: nobody will take them. */
  #close(listener: PortListener): void {
    if (this.#rows[listener.id] !== listener) return;
    const { connections } = this.#core;
    if (listener.waiting > 0) {
      connections.forEach((c) => {
        const isMine = connections.state[c] === SYN_RECEIVED && connections.handler[c] === listener.id;
        if (!isMine || (connections.flags[c]! & KNOWN) !== 0) return;
        this.#output.reset(c);
        this.#core.drop(c, null);
      });
    }
    this.#rows[listener.id] = undefined;
    const others = this.#byPort.get(listener.port)!.filter((other) => other !== listener);
    if (others.length > 0) this.#byPort.set(listener.port, others);
    else this.#byPort.delete(listener.port);
  }

  /** Who listens for such a packet: the one with its address before the one with any. */
  find(packet: Packet, port: number): PortListener | null {
    const listeners = this.#byPort.get(port);
    if (listeners === undefined || packet.local === NOT_LOCAL) return null;
    let any: PortListener | null = null;
    for (const listener of listeners) {
      if (!listener.families.includes(packet.family)) continue;
      const { address } = listener;
      if (address === null) any = listener;
      else if (isAt(address, packet.bytes, packet.destination)) return listener;
    }
    return any;
  }

  // ---- segments

  /**
   * A segment for a listener. `reused`: its 4-tuple was in TIME-WAIT until now, and the connection's numbers begin beyond
   * this one (RFC 6191 §2); ABSENT otherwise.
   */
  input(listener: PortListener, packet: Packet, reused: number): void {
    const { segment, now } = this.#core;
    if ((segment.flags & TCP_RST) !== 0) return;
    if ((segment.flags & TCP_ACK) !== 0) {
      if (now - listener.cookieSent <= COOKIE_TIME && (segment.flags & TCP_SYN) === 0)
        this.#takeCookie(listener, packet);
      else this.#output.refuse(packet);
      return;
    }
    // Nobody begins with SYN and FIN but scanners; Linux is silent, too.
    if ((segment.flags & (TCP_SYN | TCP_FIN)) !== TCP_SYN) return;
    if (listener.waiting >= listener.backlog) {
      this.#sendCookie(listener, packet);
      return;
    }
    const c = this.#newRow(listener, packet);
    if (c === NO_CONNECTION) {
      this.#sendCookie(listener, packet);
      return;
    }
    const { connections } = this.#core;
    const { sndUna, sndNxt, rcvNxt, rcvEdge } = connections;
    rcvNxt[c] = plus(segment.seq, 1);
    rcvEdge[c] = plus(rcvNxt[c]!, Math.min(idleBuffer(this.#core, c), TCP_MAX_WINDOW));
    sndUna[c] = reused === ABSENT ? this.#core.initialSequence(c) : reused;
    sndNxt[c] = plus(sndUna[c]!, 1);
    this.#handshake.takeOptions(c);
    // RFC 3168 §6.1.1: ECE and CWR ask for it. AccECN (RFC 9768) asks with AE, too, and hears that it is the classic one.
    const asksEcn = (segment.flags & (TCP_ECE | TCP_CWR)) === (TCP_ECE | TCP_CWR);
    if (asksEcn && listener.settings.ecn !== false) connections.setFlag(c, ECN | ECN_WANTED);
    listener.waiting++;
    const isEarly = this.#offerFastOpen(c, listener, packet);
    // Its data first: the SYN-ACK acknowledges that, too (RFC 7413 §4.2.2).
    if (isEarly && !this.#acceptEarly(c, listener, packet)) return;
    this.#handshake.sendSyn(c);
  }

  /** A row for a connection of this listener, with what the packet says of its ends. */
  #newRow(listener: PortListener, packet: Packet): number {
    const core = this.#core;
    const { connections, segment, network, counters, nowMs } = core;
    const c = connections.allocate();
    if (c === NO_CONNECTION) {
      counters.tableFull++;
      return c;
    }
    connections.state[c] = SYN_RECEIVED;
    connections.local[c] = packet.local;
    connections.remote[c] = network.destinations.hold(packet.family, packet.bytes, packet.source);
    connections.localPort[c] = segment.destinationPort;
    connections.remotePort[c] = segment.sourcePort;
    connections.settings[c] = listener.settingsNumber;
    connections.handler[c] = listener.id;
    connections.lastHeard[c] = nowMs;
    connections.tsOffset[c] = core.timestampOffset(c);
    applyFlags(connections, c, listener.settings);
    core.tuples.insert(c);
    return c;
  }

  #accept(c: number, listener: PortListener | undefined): boolean {
    const core = this.#core;
    const { connections } = core;
    connections.handler[c] = 0;
    let program: TcpHandler | null = null;
    try {
      program = listener?.options.onAccept(c, listener) ?? null;
    } catch (thrown) {
      core.onError(thrown);
    }
    // It may have been closed by the program meanwhile.
    if (!connections.has(c)) return false;
    if (connections.hasFlag(c, ORPHAN)) return true;
    if (program === null) {
      this.#output.reset(c);
      core.drop(c, null);
      return false;
    }
    connections.handler[c] = core.handlers.hold(program);
    connections.setFlag(c, KNOWN);
    return true;
  }

  // ---- TCP Fast Open, RFC 7413 §4.2

  /** Whether the SYN's data is to be taken; a cookie is given in any case where it was asked for. */
  #offerFastOpen(c: number, listener: PortListener, packet: Packet): boolean {
    const { segment, connections, now } = this.#core;
    if (listener.options.fastOpen !== true || segment.cookieLength === ABSENT) return false;
    const isValid =
      segment.cookieLength > 0 &&
      this.#fastOpen.check(packet.bytes, packet.source, packet.family, segment.cookieAt, segment.cookieLength, now);
    if (isValid) return segment.dataLength > 0;
    connections.setFlag(c, FAST_OPEN);
    this.#handshake.serverCookie = this.#fastOpen.make(packet.bytes, packet.source, packet.family, now);
    return false;
  }

  /** False: the connection is gone. */
  #acceptEarly(c: number, listener: PortListener, packet: Packet): boolean {
    const core = this.#core;
    core.counters.fastOpenPassive++;
    core.connections.setFlag(c, FAST_OPENED);
    listener.waiting--;
    if (!this.#accept(c, listener)) return false;
    this.#handshake.onData(c, packet);
    return core.connections.has(c);
  }

  // ---- SYN cookies, RFC 4987 §3.6

  #sendCookie(listener: PortListener, packet: Packet): void {
    const core = this.#core;
    const { segment, network, writer, counters, now } = core;
    if (network.beginReply(packet, IPPROTO_TCP, 0, TCP_MAX_HEADER_LENGTH) !== BEGUN) {
      counters.listenDrops++;
      return;
    }
    const isV4 = packet.family === 4;
    const mss = segment.mss === ABSENT ? (isV4 ? DEFAULT_MSS_IPV4 : DEFAULT_MSS_IPV6) : segment.mss;
    const cookie = this.#cookies.make(packet, segment, mss, now);
    const { bytes, at } = network.outgoing;
    const window = Math.min(listener.settings.receiveBuffer || core.initialReceiveBuffer, TCP_MAX_WINDOW);
    const ack = plus(segment.seq, 1);
    const flags = TCP_SYN | TCP_ACK;
    writer.begin(bytes, at, segment.destinationPort, segment.sourcePort, cookie, ack, flags, window);
    writer.mss(isV4 ? ETHERNET_MSS_IPV4 : ETHERNET_MSS_IPV6);
    if (segment.hasTimestamps) {
      // What the cookie has no room for goes into the timestamp, and comes back in its echo.
      if (segment.sackPermitted) writer.sackPermitted();
      writer.timestamps(this.#cookies.timestamp(segment, core.nowMs), segment.tsVal);
      if (segment.windowScale !== ABSENT) writer.windowScale(this.#handshake.windowScale);
    }
    network.send(writer.end(), TCP_CHECKSUM);
    counters.outSegs++;
    counters.syncookiesSent++;
    listener.cookieSent = now;
  }

  /** An ACK of nothing that we know: perhaps of a cookie. */
  #takeCookie(listener: PortListener, packet: Packet): void {
    const core = this.#core;
    const { segment, counters, connections, now } = core;
    const mss = this.#cookies.check(packet, segment, now);
    if (mss === 0) {
      counters.syncookiesFailed++;
      this.#output.refuse(packet);
      return;
    }
    counters.syncookiesRecv++;
    const c = this.#newRow(listener, packet);
    if (c === NO_CONNECTION) {
      counters.listenDrops++;
      return;
    }
    listener.waiting++;
    connections.rcvNxt[c] = segment.seq;
    connections.lastAckSent[c] = segment.seq;
    connections.rcvEdge[c] = plus(segment.seq, Math.min(idleBuffer(core, c), TCP_MAX_WINDOW));
    connections.sndUna[c] = plus(segment.ack, -1);
    connections.sndNxt[c] = segment.ack;
    if (segment.hasTimestamps) {
      const cookies = this.#cookies;
      cookies.readTimestamp(segment.tsEcr);
      connections.setFlag(c, TIMESTAMPS);
      connections.tsOffset[c] = 0;
      connections.setFlag(c, BY_COOKIE);
      connections.tsRecent[c] = segment.tsVal;
      connections.tsRecentAge[c] = core.nowSeconds;
      if (cookies.sackPermitted) connections.setFlag(c, SACK_PERMITTED);
      if (cookies.windowScale !== ABSENT) {
        connections.sndScale[c] = cookies.windowScale;
        connections.rcvScale[c] = this.#handshake.windowScale;
      }
    }
    core.limitMss(c, mss);
    this.onCookie(c, packet);
  }
}

/** What of the settings stands in the flags. */
export function applyFlags(connections: TcpCore['connections'], c: number, settings: Settings): void {
  if (settings.noDelay) connections.setFlag(c, NO_DELAY);
  if (settings.keepAliveMs > 0) connections.setFlag(c, KEEP_ALIVE);
}

function familiesOf({ address, ipv6Only }: ListenOptions): readonly Family[] {
  if (address !== undefined) return [familyOf(address)];
  return ipv6Only ? [6] : [4, 6];
}

/** Throws TcpError EINVAL for what is no address. */
export function familyOf(address: Uint8Array): Family {
  if (address.length === 4) return 4;
  if (address.length === 16) return 6;
  throw new TcpError('EINVAL', `an address of ${address.length} bytes: 4 for IPv4, 16 for IPv6`);
}

function isAt(address: Uint8Array, bytes: Uint8Array, at: number): boolean {
  for (let i = 0; i < address.length; i++) if (address[i] !== bytes[at + i]) return false;
  return true;
}
