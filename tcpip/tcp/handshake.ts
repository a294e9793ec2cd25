/**
 * The three-way handshake, seen from a connection's row: SYN and SYN-ACK out, again when they are lost, and what the other
 * side's SYN agrees to (RFC 9293 §3.5, options of RFC 7323, 2018, 3168, 7413).
 *
 *     SYN-SENT ── SYN-ACK ──► ESTABLISHED            SYN-RECEIVED ── ACK ──► ESTABLISHED
 *        └─────── SYN ──► SYN-RECEIVED (simultaneous open)
 */
import { IPPROTO_TCP, TCP_CHECKSUM } from '../../packet/header-fields.ts';
import { BEGUN } from '../network.ts';
import type { Packet } from '../packet.ts';
import { TcpError } from './api.ts';
import {
  ACK_NOW,
  ACTIVE_OPEN,
  ECN,
  ECN_WANTED,
  ESTABLISHED,
  FAST_OPEN,
  FAST_OPENED,
  KNOWN,
  NO_TRANSFER,
  ORPHAN,
  SACK_PERMITTED,
  SYN_RECEIVED,
  SYN_RETRANSMITTED,
  SYN_SENT,
  TIMESTAMPS,
} from './connections.ts';
import { MICROSECONDS_PER_MS, type TcpCore } from './core.ts';
import type { FastOpenClient } from './fast-open-cookies.ts';
import type { Output } from './output.ts';
import { idleBuffer } from './receive-window.ts';
import {
  ABSENT,
  DEFAULT_MSS_IPV4,
  DEFAULT_MSS_IPV6,
  MAX_WINDOW_SCALE,
  TCP_ACK,
  TCP_AE,
  TCP_CWR,
  TCP_ECE,
  TCP_MAX_HEADER_LENGTH,
  TCP_MAX_OPTIONS_LENGTH,
  TCP_MAX_WINDOW,
  TCP_RST,
  TCP_SYN,
} from './segment.ts';
import { after, atOrBefore, distance, plus } from './sequence.ts';

/** RFC 6298 §2.1: the first time-out; it doubles from then on. */
const INITIAL_RTO_MS = 1000;
/** What Linux does (tcp_syn_retries, tcp_synack_retries): the last wait ends after 127 and 63 s. */
const SYN_RETRIES = 6;
const SYN_ACK_RETRIES = 5;
const NO_COOKIE = new Uint8Array(0);

export class Handshake {
  readonly #core: TcpCore;
  readonly #output: Output;
  readonly #fastOpen: FastOpenClient;
  /** A connection of a listener is established: offers it to the program. False: it is gone. */
  onAccepted: (c: number) => boolean = () => false;
  /** The SYN-ACK, or the ACK, of a connection carried data: it goes the way of all data. */
  onData: (c: number, packet: Packet) => void = () => {};

  constructor(core: TcpCore, output: Output, fastOpen: FastOpenClient) {
    this.#core = core;
    this.#output = output;
    this.#fastOpen = fastOpen;
  }

  /** The shift that lets the largest receive buffer be told (RFC 7323 §2.3). */
  get windowScale(): number {
    const most = this.#core.options.maxReceiveBuffer;
    let shift = 0;
    while (TCP_MAX_WINDOW << shift < most && shift < MAX_WINDOW_SCALE) shift++;
    return shift;
  }

  // ---- out

  /** The row is in SYN-SENT or SYN-RECEIVED, with SND.UNA being its ISS: sends SYN or SYN-ACK, and sets the timer. */
  sendSyn(c: number): void {
    const { connections, nowMs } = this.#core;
    connections.lastSent[c] = nowMs;
    this.#sendSyn(c);
    this.schedule(c);
  }

  sendSynAgain(c: number): void {
    const { connections, network } = this.#core;
    if (connections.hasFlag(c, FAST_OPEN)) this.#fastOpen.forget(network.destinations.address(connections.remote[c]!));
    this.#core.connections.setFlag(c, SYN_RETRANSMITTED);
    this.#core.counters.retransSegs++;
    this.#sendSyn(c);
  }

  #sendSyn(c: number): void {
    const core = this.#core;
    const { connections, network, writer } = core;
    const { flags, state, remote, rcvNxt, rcvEdge, sndUna, sndNxt } = connections;
    const isAnswer = state[c] === SYN_RECEIVED;
    const isFirst = (flags[c]! & SYN_RETRANSMITTED) === 0;
    const data = isFirst && !isAnswer && (flags[c]! & FAST_OPEN) !== 0 ? this.#earlyData(c) : 0;
    const begun = network.begin(
      connections.local[c]!,
      remote[c]!,
      IPPROTO_TCP,
      core.settingsOf(c).trafficClass,
      TCP_MAX_HEADER_LENGTH + data,
    );
    // Where it cannot leave now it is lost, and the timer sends it again.
    if (begun !== BEGUN) return;
    let bits = TCP_SYN;
    if (isAnswer) bits |= TCP_ACK;
    if ((flags[c]! & ECN_WANTED) !== 0) {
      // RFC 3168 §6.1.1.1, without ECN when it was lost: some drop it.
      if (!isAnswer && isFirst) bits |= TCP_ECE | TCP_CWR;
      else if (isAnswer && (flags[c]! & ECN) !== 0) bits |= TCP_ECE;
    }
    // RFC 7323 §2.2: the window of a SYN is not scaled.
    const window = Math.min(idleBuffer(core, c), TCP_MAX_WINDOW);
    if (isAnswer && distance(rcvEdge[c]!, rcvNxt[c]!) < window) rcvEdge[c] = plus(rcvNxt[c]!, window);
    const { bytes, at } = network.outgoing;
    const ack = isAnswer ? rcvNxt[c]! : 0;
    writer.begin(bytes, at, connections.localPort[c]!, connections.remotePort[c]!, sndUna[c]!, ack, bits, window);
    writer.mss(core.pathMss(remote[c]!));
    if (!isAnswer || (flags[c]! & SACK_PERMITTED) !== 0) writer.sackPermitted();
    if (!isAnswer || (flags[c]! & TIMESTAMPS) !== 0) writer.timestamps(core.timestamp(c), connections.tsRecent[c]!);
    if (!isAnswer || connections.rcvScale[c]! > 0) writer.windowScale(this.windowScale);
    if ((flags[c]! & FAST_OPEN) !== 0 && isFirst) this.#writeCookie(c, isAnswer);
    const header = writer.end();
    if (data > 0) {
      core.transferFor(c).sendBuffer.copyTo(plus(sndUna[c]!, 1), data, bytes, at + header);
      sndNxt[c] = plus(sndUna[c]!, 1 + data);
      core.counters.fastOpenActive++;
    }
    network.send(header + data, TCP_CHECKSUM);
    core.counters.outSegs++;
    if (isAnswer) {
      connections.lastAckSent[c] = rcvNxt[c]!;
      connections.clearFlag(c, ACK_NOW);
    }
  }

  /** Bytes to send in the SYN, where a cookie is known. */
  #earlyData(c: number): number {
    const core = this.#core;
    const { remote, transfer } = core.connections;
    const known = this.#fastOpen.find(core.network.destinations.address(remote[c]!));
    if (transfer[c] === NO_TRANSFER || known === null) return 0;
    const room = Math.min(known.mss, core.pathMss(remote[c]!)) - TCP_MAX_OPTIONS_LENGTH;
    return Math.max(0, Math.min(room, core.transferFor(c).sendBuffer.length));
  }

  /** A SYN carries what is known, or asks; a SYN-ACK a new one, where it was asked for. */
  #writeCookie(c: number, isAnswer: boolean): void {
    const { connections, writer, network } = this.#core;
    const address = network.destinations.address(connections.remote[c]!);
    const cookie = isAnswer ? this.serverCookie : (this.#fastOpen.find(address)?.cookie ?? NO_COOKIE);
    writer.fastOpen(cookie, cookie.length);
  }

  /** What the next SYN-ACK with FAST_OPEN gives its client. */
  serverCookie: Uint8Array = new Uint8Array(0);

  // ---- in

  /** A segment for a connection in SYN-SENT: RFC 9293 §3.10.7.3. */
  synSent(c: number, packet: Packet): void {
    const core = this.#core;
    const { segment, connections, counters } = core;
    const { sndUna, sndNxt, rcvNxt, rcvEdge, state, flags } = connections;
    const hasAck = (segment.flags & TCP_ACK) !== 0;
    if (hasAck && (atOrBefore(segment.ack, sndUna[c]!) || after(segment.ack, sndNxt[c]!))) {
      if ((segment.flags & TCP_RST) === 0) this.#output.refuse(packet);
      return;
    }
    if ((segment.flags & TCP_RST) !== 0) {
      if (!hasAck) return;
      counters.attemptFails++;
      core.drop(c, new TcpError('ECONNREFUSED', 'the other side refused the connection'));
      return;
    }
    if ((segment.flags & TCP_SYN) === 0) return;
    rcvNxt[c] = plus(segment.seq, 1);
    rcvEdge[c] = plus(rcvNxt[c]!, Math.min(idleBuffer(core, c), TCP_MAX_WINDOW));
    this.takeOptions(c);
    if (!hasAck) {
      // Simultaneous open: our SYN again, with an ACK.
      state[c] = SYN_RECEIVED;
      connections.clearFlag(c, FAST_OPEN);
      sndNxt[c] = plus(sndUna[c]!, 1);
      connections.tries[c] = 0;
      this.sendSyn(c);
      return;
    }
    // RFC 3168 §6.1.1.1: ECE alone says yes, ECE and CWR are an echo of somebody who does not understand.
    const ecn = segment.flags & (TCP_ECE | TCP_CWR | TCP_AE);
    if ((flags[c]! & ECN_WANTED) !== 0 && ecn === TCP_ECE) connections.setFlag(c, ECN);
    if (segment.cookieLength > 0) {
      const cookie = segment.bytes.slice(segment.cookieAt, segment.cookieAt + segment.cookieLength);
      this.#fastOpen.learn(core.network.destinations.address(connections.remote[c]!), cookie, connections.mss[c]!);
    }
    this.#established(c);
    connections.setFlag(c, ACK_NOW);
    if (!this.#tellConnected(c)) return;
    if (segment.dataLength > 0) this.onData(c, packet);
    core.touch(c);
  }

  /** An acceptable ACK for a connection in SYN-RECEIVED. False: it was none, or the connection is gone. */
  completeByAck(c: number, packet: Packet): boolean {
    const core = this.#core;
    const { segment, connections } = core;
    const { sndUna, sndNxt, flags, handler } = connections;
    if (atOrBefore(segment.ack, sndUna[c]!) || after(segment.ack, sndNxt[c]!)) {
      this.#output.refuse(packet);
      return false;
    }
    const listener = handler[c]!;
    const isNew = (flags[c]! & (KNOWN | ORPHAN | ACTIVE_OPEN)) === 0;
    this.#established(c);
    if ((flags[c]! & ACTIVE_OPEN) !== 0) return this.#tellConnected(c);
    core.counters.passiveOpens++;
    if (!isNew) return true;
    core.onHandshakeOver(listener);
    return this.onAccepted(c);
  }

  /** What both sides can do: from the other side's SYN, against what we offer. */
  takeOptions(c: number): void {
    const core = this.#core;
    const { segment, connections, network, nowSeconds } = core;
    const { remote } = connections;
    const isV4 = network.destinations.family(remote[c]!) === 4;
    // Timestamps first: they cost room in every segment.
    if (segment.hasTimestamps) {
      connections.setFlag(c, TIMESTAMPS);
      connections.tsRecent[c] = segment.tsVal;
      connections.tsRecentAge[c] = nowSeconds;
    }
    if (segment.sackPermitted) connections.setFlag(c, SACK_PERMITTED);
    const scales = segment.windowScale !== ABSENT;
    connections.sndScale[c] = scales ? segment.windowScale : 0;
    connections.rcvScale[c] = scales ? this.windowScale : 0;
    core.limitMss(c, segment.mss === ABSENT ? (isV4 ? DEFAULT_MSS_IPV4 : DEFAULT_MSS_IPV6) : segment.mss);
    connections.sndWnd[c] = segment.window;
    connections.maxSndWnd[c] = segment.window;
    connections.sndWl1[c] = segment.seq;
    connections.sndWl2[c] = segment.ack;
  }

  #established(c: number): void {
    const core = this.#core;
    const { segment, connections, nowMs } = core;
    const { sndUna, sndNxt, sndWnd, maxSndWnd, sndWl1, sndWl2, sndScale, state, flags, tries } = connections;
    const isSynAck = (segment.flags & TCP_SYN) !== 0;
    state[c] = ESTABLISHED;
    tries[c] = 0;
    connections.lastHeard[c] = nowMs;
    this.#measure(c);
    const first = plus(sndUna[c]!, 1);
    const isFastOpened = (flags[c]! & FAST_OPENED) !== 0;
    if (!isFastOpened) {
      sndUna[c] = segment.ack;
      // What a SYN carried beyond what was taken goes again (RFC 7413 §4.2.2).
      sndNxt[c] = segment.ack;
      const transfer = core.transferOf(c);
      if (transfer !== null) {
        if (after(segment.ack, first)) transfer.sendBuffer.acknowledge(segment.ack);
        core.startSender(c, transfer);
        transfer.measuredFrom = connections.rcvNxt[c]!;
      }
    } else sndUna[c] = first;
    sndWnd[c] = isSynAck ? segment.window : segment.window << sndScale[c]!;
    maxSndWnd[c] = Math.max(maxSndWnd[c]!, sndWnd[c]!);
    sndWl1[c] = segment.seq;
    sndWl2[c] = segment.ack;
    core.wheel.cancel(c);
    this.#output.onDone(c);
  }

  /** The handshake's round trip is the first sample (RFC 6298 §2.2), unless a SYN was sent twice (Karn). */
  #measure(c: number): void {
    const { connections, nowMs } = this.#core;
    const { flags, srtt, rttvar, minRtt, lastSent } = connections;
    if ((flags[c]! & SYN_RETRANSMITTED) !== 0) return;
    const sample = Math.max(1, (nowMs - lastSent[c]!) >>> 0) * MICROSECONDS_PER_MS;
    srtt[c] = sample;
    rttvar[c] = sample >>> 1;
    minRtt[c] = sample;
  }

  #tellConnected(c: number): boolean {
    const core = this.#core;
    if (!core.hasProgram(c)) return core.connections.has(c);
    try {
      core.handlerOf(c).onConnected(c);
    } catch (thrown) {
      core.onError(thrown);
    }
    return core.connections.has(c);
  }

  // ---- time

  schedule(c: number): void {
    const { connections, wheel, now } = this.#core;
    wheel.schedule(c, now + (INITIAL_RTO_MS << connections.tries[c]!) * MICROSECONDS_PER_MS);
  }

  /** No answer yet. */
  expire(c: number): void {
    const core = this.#core;
    const { connections, counters } = core;
    const { state, tries, flags } = connections;
    const isActive = (flags[c]! & ACTIVE_OPEN) !== 0 || state[c] === SYN_SENT;
    const limit = core.settingsOf(c).userTimeoutMs;
    const waited = INITIAL_RTO_MS * (2 ** (tries[c]! + 1) - 1);
    if (tries[c]! >= (isActive ? SYN_RETRIES : SYN_ACK_RETRIES) || (limit > 0 && waited >= limit)) {
      counters.attemptFails++;
      core.drop(c, isActive ? new TcpError('ETIMEDOUT', 'no answer to SYN') : null);
      return;
    }
    tries[c] = tries[c]! + 1;
    counters.timeouts++;
    this.sendSynAgain(c);
    this.schedule(c);
  }
}
