/**
 * What the parts of TCP share: the tables, the time, who has something to send, and how a connection begins and ends.
 *
 *     segment ─► Arrival ──┐                            ┌─► Output ─► network
 *     timer   ─► Timers  ──┼─► columns, Transfer, touch ─┤  (once for each touched connection, after the batch)
 *     program ─► Tcp     ──┘                            └─► Timers.schedule
 *
 * Whatever happens to a connection changes its row and touches it; what is to be sent follows from the row alone, and is
 * found out by Output when the batch is through. So a batch of segments gets one ACK, and a program that writes ten times
 * one segment. One thread. Hot: allocates nothing for a segment.
 */
import { MICROSECONDS_PER_SECOND, type Network, type Random, type Time } from '../network.ts';
import { newPacket } from '../packet.ts';
import type { TcpError, TcpHandler } from './api.ts';
import {
  ACTIVE_OPEN,
  Connections,
  DIRTY,
  ECN,
  FIN_SENT,
  KNOWN,
  NO_CONNECTION,
  NO_TRANSFER,
  ORPHAN,
  SACK_PERMITTED,
  SYN_RECEIVED,
  TIMESTAMPS,
} from './connections.ts';
import { newTcpCounters, type TcpCounters } from './counters.ts';
import { EphemeralPorts } from './ephemeral-ports.ts';
import { Handlers, NO_HANDLER } from './handlers.ts';
import { InitialSequence } from './initial-sequence.ts';
import { PADDED_TIMESTAMPS_LENGTH, Segment, SegmentWriter } from './segment.ts';
import type { SavedMetrics, SenderOptions } from './send/sender.ts';
import { distance } from './sequence.ts';
import { type Settings, SettingsTable } from './settings.ts';
import { TimeWaitTable } from './time-wait-table.ts';
import { TimerWheel } from './timer-wheel.ts';
import { type Transfer, Transfers } from './transfer.ts';
import { TupleTable } from './tuple-table.ts';

export const MICROSECONDS_PER_MS = 1000;
export const TCP_HEADER_BYTES = 20;
const IPV4_HEADER_BYTES = 20;
const IPV6_HEADER_BYTES = 40;
/** Where buffers begin, as Linux's do (tcp_rmem, tcp_wmem); they grow with what is really moved. */
const INITIAL_RECEIVE_BUFFER = 2 ** 17;
const INITIAL_SEND_BUFFER = 2 ** 18;
/** RFC 9293 §3.7.1: never smaller segments than this, whatever the other side says. */
const MIN_MSS = 88;

export interface TcpOptions {
  /** Connections at the most, those that wait for their handshake included. */
  maxConnections: number;
  /** Connections in TIME-WAIT at the most. */
  maxTimeWait: number;
  /** Bytes that one connection's receive and send buffer may grow to. */
  maxReceiveBuffer: number;
  maxSendBuffer: number;
  /** Bytes that all receive buffers together may hold; beyond, windows close. */
  receiveMemory: number;
  /** Ports for connections that name none, both included (RFC 6056 §3.2). */
  ephemeralPorts: [number, number];
  /** 2 × MSL (RFC 9293 §3.4.2), in ms. */
  timeWaitMs: number;
}

export const TCP_DEFAULTS: TcpOptions = {
  maxConnections: 2 ** 20,
  maxTimeWait: 2 ** 20,
  maxReceiveBuffer: 6 * 2 ** 20,
  maxSendBuffer: 4 * 2 ** 20,
  receiveMemory: 2 ** 30,
  ephemeralPorts: [32_768, 60_999],
  timeWaitMs: 60_000,
};

export class TcpCore {
  readonly network: Network;
  readonly random: Random;
  readonly options: TcpOptions;
  readonly counters: TcpCounters = newTcpCounters();
  readonly connections: Connections;
  readonly transfers = new Transfers();
  readonly tuples: TupleTable;
  readonly timeWait: TimeWaitTable;
  readonly wheel: TimerWheel;
  readonly handlers = new Handlers();
  readonly settings = new SettingsTable();
  readonly sequence: InitialSequence;
  readonly ports: EphemeralPorts;
  /** The segment at hand, and the packet that it came in. */
  readonly segment = new Segment();
  packet = newPacket();
  readonly writer = new SegmentWriter();
  now: Time = 0;
  /** Bytes that programs have not taken yet, over all connections. */
  receiveMemory = 0;
  /** A connection that waited for the last ACK of its handshake does not any more: its listener has room again. */
  onHandshakeOver: (listener: number) => void = () => {};
  onWork: () => void = () => {};
  /** What a program's handler throws. It ends up where errors of nobody end up: the stack goes on. */
  onError: (error: unknown) => void = (error) => {
    queueMicrotask(() => {
      throw error;
    });
  };
  /** Calls of the stack under way: work that is noted then is done before they are over. */
  depth = 0;
  /** Connections with something to send, first in first out. */
  #dirty: Uint32Array = new Uint32Array(256);
  #dirtyHead = 0;
  #dirtyCount = 0;
  readonly #saved: SavedMetrics = { srtt: 0, rttvar: 0, minRtt: 0, cwnd: 0, ssthresh: 0 };
  readonly #senderOptions: SenderOptions;
  readonly #remote4 = new Uint8Array(4);
  readonly #remote6 = new Uint8Array(16);

  constructor(network: Network, random: Random, options: Partial<TcpOptions> = {}) {
    this.network = network;
    this.random = random;
    this.options = { ...TCP_DEFAULTS, ...options };
    const { maxConnections, maxTimeWait, timeWaitMs } = this.options;
    this.#senderOptions = {
      congestion: 'cubic',
      pacing: false,
      mss: 0,
      una: 0,
      sack: false,
      timestamps: false,
      ecn: false,
      random,
    };
    this.connections = new Connections(maxConnections);
    this.tuples = new TupleTable(this.connections, random);
    this.timeWait = new TimeWaitTable({
      capacity: maxTimeWait,
      lifetime: timeWaitMs * MICROSECONDS_PER_MS,
      random,
    });
    this.timeWait.onEvict = (slot) => network.destinations.letGo(this.timeWait.remote(slot));
    this.wheel = new TimerWheel(maxConnections);
    this.sequence = new InitialSequence(random);
    this.ports = new EphemeralPorts(random, ...this.options.ephemeralPorts);
  }

  /** Bytes that a connection offers to take before anything is known of it. */
  get initialReceiveBuffer(): number {
    return Math.min(INITIAL_RECEIVE_BUFFER, this.options.maxReceiveBuffer);
  }

  get nowMs(): number {
    return Math.floor(this.now / MICROSECONDS_PER_MS) >>> 0;
  }

  get nowSeconds(): number {
    return Math.floor(this.now / MICROSECONDS_PER_SECOND) >>> 0;
  }

  // ---- rows

  settingsOf(c: number): Settings {
    return this.settings.get(this.connections.settings[c]!);
  }

  handlerOf(c: number): TcpHandler {
    return this.handlers.get(this.connections.handler[c]!);
  }

  /** Whether the program is to be called back. */
  hasProgram(c: number): boolean {
    return (this.connections.flags[c]! & KNOWN) !== 0;
  }

  transferOf(c: number): Transfer | null {
    const number = this.connections.transfer[c]!;
    return number === NO_TRANSFER ? null : this.transfers.get(number);
  }

  /** The connection's Transfer, a new one if it is idle. */
  transferFor(c: number): Transfer {
    const { connections } = this;
    const number = connections.transfer[c]!;
    if (number !== NO_TRANSFER) {
      const transfer = this.transfers.get(number);
      transfer.touched = this.now;
      return transfer;
    }
    // A FIN may be in flight, which until now was nothing but two numbers: the Sender's from now on.
    const isFinInFlight = this.isBareFinInFlight(c);
    const made = this.transfers.acquire(c, this.now);
    connections.transfer[c] = made;
    const transfer = this.transfers.get(made);
    const settings = this.settingsOf(c);
    const offered = Math.max(0, distance(connections.rcvEdge[c]!, connections.rcvNxt[c]!));
    transfer.receiveBuffer = settings.receiveBuffer || Math.max(this.initialReceiveBuffer, offered);
    transfer.sendBufferBytes = settings.sendBuffer || Math.min(INITIAL_SEND_BUFFER, this.options.maxSendBuffer);
    const una = isFinInFlight ? connections.sndUna[c]! : connections.sndNxt[c]!;
    transfer.sendBuffer.reset(una);
    transfer.measuredFrom = connections.rcvNxt[c]!;
    this.startSender(c, transfer, una);
    if (isFinInFlight) transfer.sender.sent(una, connections.sndNxt[c]!, this.bareFinSent(c), true);
    return transfer;
  }

  /** FIN was sent without a Transfer, and is not acknowledged yet. */
  isBareFinInFlight(c: number): boolean {
    const { flags, transfer, sndUna, sndNxt } = this.connections;
    return transfer[c] === NO_TRANSFER && (flags[c]! & FIN_SENT) !== 0 && sndUna[c] !== sndNxt[c];
  }

  /** When that was, as precisely as the row knows. */
  bareFinSent(c: number): Time {
    return this.now - ((this.nowMs - this.connections.lastSent[c]!) >>> 0) * MICROSECONDS_PER_MS;
  }

  /** What is sent is the Sender's from SND.NXT on, or from an earlier number. */
  startSender(c: number, transfer: Transfer, una = this.connections.sndNxt[c]!): void {
    const { connections } = this;
    const { flags } = connections;
    const settings = this.settingsOf(c);
    this.#saved.srtt = connections.srtt[c]!;
    this.#saved.rttvar = connections.rttvar[c]!;
    this.#saved.minRtt = connections.minRtt[c]!;
    this.#saved.cwnd = connections.cwnd[c]!;
    this.#saved.ssthresh = connections.ssthresh[c]!;
    // While it was idle the path may have become narrower.
    connections.mss[c] = Math.min(connections.mss[c]!, this.pathMss(connections.remote[c]!));
    this.#senderOptions.congestion = settings.congestion;
    this.#senderOptions.pacing = settings.pacing;
    this.#senderOptions.mss = this.payloadMss(c);
    this.#senderOptions.una = una;
    this.#senderOptions.sack = (flags[c]! & SACK_PERMITTED) !== 0;
    this.#senderOptions.timestamps = (flags[c]! & TIMESTAMPS) !== 0;
    this.#senderOptions.ecn = (flags[c]! & ECN) !== 0;
    transfer.sender.reset(this.#senderOptions, this.now, this.#saved);
  }

  /** The connection is idle again: keeps of its Transfer what a row has room for. */
  endTransfer(c: number): void {
    const { connections } = this;
    const number = connections.transfer[c]!;
    if (number === NO_TRANSFER) return;
    const transfer = this.transfers.get(number);
    const saved = this.#saved;
    transfer.sender.save(saved);
    connections.srtt[c] = saved.srtt;
    connections.rttvar[c] = saved.rttvar;
    connections.minRtt[c] = saved.minRtt;
    connections.cwnd[c] = saved.cwnd;
    connections.ssthresh[c] = saved.ssthresh;
    this.receiveMemory -= transfer.received.memory;
    connections.mss[c] = Math.max(connections.mss[c]!, transfer.fullMss);
    connections.transfer[c] = NO_TRANSFER;
    this.transfers.release(number);
  }

  /** Bytes of IP and TCP header without options, for what goes to a destination. */
  headerBytes(destination: number): number {
    const isV4 = this.network.destinations.family(destination) === 4;
    return (isV4 ? IPV4_HEADER_BYTES : IPV6_HEADER_BYTES) + TCP_HEADER_BYTES;
  }

  /** The largest segment, with options, that a path takes in one piece (RFC 9293 §3.7.1). */
  pathMss(destination: number): number {
    const mss = this.network.destinations.pathMtu(destination) - this.headerBytes(destination);
    return Math.max(MIN_MSS, mss);
  }

  /** Notes the other side's MSS option: SendMSS, RFC 9293 §3.7.1. */
  limitMss(c: number, theirs: number): void {
    const { mss, remote } = this.connections;
    mss[c] = Math.max(MIN_MSS, Math.min(theirs, this.pathMss(remote[c]!)));
  }

  /** Bytes of data in a full segment: timestamps cost 12 of the MSS (RFC 6691). */
  payloadMss(c: number): number {
    const { mss, flags } = this.connections;
    return mss[c]! - (flags[c]! & TIMESTAMPS ? PADDED_TIMESTAMPS_LENGTH : 0);
  }

  /** Our timestamp clock: milliseconds, from an offset of the connection's own (RFC 7323 §5.4, §7.1). */
  timestamp(c: number): number {
    return (this.nowMs + this.connections.tsOffset[c]!) >>> 0;
  }

  /** ISN of a row whose ends are known (RFC 6528). */
  initialSequence(c: number): number {
    const { local, remote, localPort, remotePort } = this.connections;
    const ours = this.network.locals.address(local[c]!);
    return this.sequence.isn(ours, this.#remoteAddress(remote[c]!), localPort[c]!, remotePort[c]!, this.now);
  }

  /** Offset of our timestamps: the same for the same two hosts, so that RFC 6191 works, and unlike all others. */
  timestampOffset(c: number): number {
    return this.timestampOffsetOf(this.connections.local[c]!, this.connections.remote[c]!);
  }

  timestampOffsetOf(local: number, remote: number): number {
    return this.sequence.timestampOffset(this.network.locals.address(local), this.#remoteAddress(remote));
  }

  /** Good until the next call. */
  #remoteAddress(destination: number): Uint8Array {
    const { destinations } = this.network;
    const bytes = destinations.family(destination) === 4 ? this.#remote4 : this.#remote6;
    destinations.writeAddress(destination, bytes, 0);
    return bytes;
  }

  // ---- what is to be sent

  /** Something changed: Output looks at the connection before the stack's call is over, or soon. */
  touch(c: number): void {
    const { flags } = this.connections;
    if ((flags[c]! & DIRTY) !== 0) return;
    flags[c] = flags[c]! | DIRTY;
    if (this.#dirtyCount === this.#dirty.length) this.#growDirty();
    this.#dirty[(this.#dirtyHead + this.#dirtyCount) & (this.#dirty.length - 1)] = c;
    this.#dirtyCount++;
    if (this.depth === 0 && this.#dirtyCount === 1) this.onWork();
  }

  get dirtyCount(): number {
    return this.#dirtyCount;
  }

  /** The connection that was touched first and is still one, or NO_CONNECTION. */
  nextTouched(): number {
    const { flags } = this.connections;
    while (this.#dirtyCount > 0) {
      const c = this.#dirty[this.#dirtyHead]!;
      this.#dirtyHead = (this.#dirtyHead + 1) & (this.#dirty.length - 1);
      this.#dirtyCount--;
      flags[c] = flags[c]! & ~DIRTY;
      if (this.connections.has(c)) return c;
    }
    return NO_CONNECTION;
  }

  #growDirty(): void {
    const { length } = this.#dirty;
    const more = new Uint32Array(2 * length);
    for (let i = 0; i < this.#dirtyCount; i++) more[i] = this.#dirty[(this.#dirtyHead + i) & (length - 1)]!;
    this.#dirty = more;
    this.#dirtyHead = 0;
  }

  // ---- an end

  /**
   * Takes the connection out of all tables, without a word to the other side, and tells the program. `letGo` false: the
   * destination stays held, by whoever goes on with it.
   */
  drop(c: number, error: TcpError | null, letGo = true): void {
    const { connections, network } = this;
    const { flags, state, handler, remote } = connections;
    const number = handler[c]!;
    const isKnown = (flags[c]! & KNOWN) !== 0;
    const waits = state[c] === SYN_RECEIVED && (flags[c]! & (KNOWN | ORPHAN | ACTIVE_OPEN)) === 0;
    this.tuples.remove(c);
    this.wheel.cancel(c);
    this.endTransfer(c);
    if (letGo) network.destinations.letGo(remote[c]!);
    handler[c] = NO_HANDLER;
    connections.release(c);
    if (waits) this.onHandshakeOver(number);
    if (!isKnown) return;
    const program = this.handlers.get(number);
    this.handlers.letGo(number);
    try {
      program.onClosed(c, error);
    } catch (thrown) {
      this.onError(thrown);
    }
  }
}
