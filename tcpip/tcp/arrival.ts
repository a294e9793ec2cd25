/**
 * A segment arrives for a connection: RFC 9293 §3.10.7.3 (SYN-SENT) and §3.10.7.4 (all later states), in its order, with
 * PAWS (RFC 7323 §5.3) before it and the checks of RFC 5961 against blind attackers in it.
 *
 *     timestamps ─► sequence ─► RST ─► SYN ─► ACK ─► URG ─► data ─► FIN
 *
 * Each step either goes on or ends with the segment dropped, answered, or the connection gone. What is to be sent is left
 * to Output. Hot: allocates nothing.
 */
import { NEVER } from '../network.ts';
import type { Packet } from '../packet.ts';
import { TcpError } from './api.ts';
import { ChallengeLimit } from './challenge.ts';
import {
  ACK_NOW,
  ACTIVE_OPEN,
  BY_COOKIE,
  CLOSE_WAIT,
  CLOSING,
  DRAINING,
  ECN,
  ECN_ECHO,
  END_TOLD,
  ESTABLISHED,
  FIN_RECEIVED,
  FIN_SENT,
  FIN_WAIT_1,
  FIN_WAIT_2,
  LAST_ACK,
  NO_TRANSFER,
  ORPHAN,
  PAUSED,
  SYN_RECEIVED,
  TIME_WAIT_NEXT,
  TIMESTAMPS,
  WANTS_WRITABLE,
} from './connections.ts';
import { MICROSECONDS_PER_MS, type TcpCore } from './core.ts';
import type { Handshake } from './handshake.ts';
import type { Output } from './output.ts';
import { isUpdateDue, tuneBuffer } from './receive-window.ts';
import { TCP_ACK, TCP_CWR, TCP_ECE, TCP_FIN, TCP_RST, TCP_SYN, TCP_URG } from './segment.ts';
import { Acknowledgment } from './send/acknowledgment.ts';
import { after, atOrBefore, before, distance, plus } from './sequence.ts';
import type { Transfer } from './transfer.ts';

/** RFC 7323 §5.5: a TS.Recent older than 24 days says nothing. */
const PAWS_SECONDS = 24 * 24 * 3600;
/** Congestion experienced (RFC 3168 §5). */
const ECN_CE = 3;
const ECN_MASK = 3;
/** An ACK is put off so long at the most (RFC 9293 §3.8.6.3 asks for less than 500 ms; Linux begins with 40). */
const DELAYED_ACK_MS = 40;
/** Full segments at the start of a connection, and after a hole, each of which is acknowledged at once. */
const QUICK_SEGMENTS = 16;

export class Arrival {
  readonly #core: TcpCore;
  readonly #output: Output;
  readonly #handshake: Handshake;
  readonly #challenges: ChallengeLimit;
  readonly #ack = new Acknowledgment();
  /** The connection whose data is being given away, for the callback below. */
  #giving = 0;

  /** Small segments get through, where large ones did not. */
  onNarrowPath: (c: number, transfer: Transfer) => void = () => {};

  constructor(core: TcpCore, output: Output, handshake: Handshake) {
    this.#core = core;
    this.#output = output;
    this.#handshake = handshake;
    this.#challenges = new ChallengeLimit(core.random);
  }

  /** A segment for a connection in SYN-RECEIVED or any later state. */
  synchronized(c: number, packet: Packet): void {
    const { segment, connections, counters } = this.#core;
    const { flags, state, rcvNxt } = connections;
    if ((flags[c]! & TIMESTAMPS) !== 0 && !this.#hasGoodTimestamp(c)) return;
    if (state[c] === SYN_RECEIVED && (flags[c]! & ACTIVE_OPEN) !== 0) this.#forgetSyn(c);
    if (!this.#isAcceptable(c)) {
      if ((segment.flags & TCP_RST) !== 0) return;
      counters.outOfWindow++;
      this.#answerUnacceptable(c);
      return;
    }
    this.#noteTimestamp(c);
    if ((segment.flags & TCP_RST) !== 0) {
      // RFC 5961 §3.2: exactly the next number, or it must be asked about.
      if (segment.seq === rcvNxt[c]) this.#resetByPeer(c);
      else this.challenge(c);
      return;
    }
    if ((segment.flags & TCP_SYN) !== 0) {
      // RFC 5961 §4.2: whatever its number is.
      this.challenge(c);
      return;
    }
    if ((segment.flags & TCP_ACK) === 0) return;
    connections.lastHeard[c] = this.#core.nowMs;
    if (state[c]! >= ESTABLISHED) connections.tries[c] = 0;
    if (state[c] === SYN_RECEIVED && !this.#handshake.completeByAck(c, packet)) return;
    if (!this.#acknowledge(c)) return;
    if ((flags[c]! & ECN) !== 0) this.#noteCongestion(c, packet);
    this.takeData(c, packet);
  }

  // ---- timestamps and numbers

  /** PAWS, RFC 7323 §5.3 R1. */
  #hasGoodTimestamp(c: number): boolean {
    const { segment, connections, counters, nowSeconds } = this.#core;
    const { tsRecent, tsRecentAge } = connections;
    const isReset = (segment.flags & TCP_RST) !== 0;
    if (!segment.hasTimestamps) {
      // §3.2: once agreed on, they are in every segment but RST.
      if (!isReset) counters.noTimestamps++;
      return isReset;
    }
    if (isReset || !before(segment.tsVal, tsRecent[c]!)) return true;
    if ((nowSeconds - tsRecentAge[c]!) >>> 0 > PAWS_SECONDS) return true;
    counters.pawsDropped++;
    this.#acknowledgeNow(c);
    return false;
  }

  /** Both sides opened (§3.5 figure 7): the SYN of their SYN-ACK is known, its ACK is not. */
  #forgetSyn(c: number): void {
    const { segment, connections } = this.#core;
    const isSynAck = (segment.flags & (TCP_SYN | TCP_ACK | TCP_RST)) === (TCP_SYN | TCP_ACK);
    if (!isSynAck || plus(segment.seq, 1) !== connections.rcvNxt[c]) return;
    segment.flags &= ~TCP_SYN;
    segment.seq = connections.rcvNxt[c]!;
  }

  /** RFC 7323 §4.3: from the segment that begins where the last ACK said, or before. */
  #noteTimestamp(c: number): void {
    const { segment, connections, nowSeconds } = this.#core;
    const { tsRecent, tsRecentAge, lastAckSent } = connections;
    if (!segment.hasTimestamps || (connections.flags[c]! & TIMESTAMPS) === 0) return;
    if (after(segment.seq, lastAckSent[c]!)) return;
    if (before(segment.tsVal, tsRecent[c]!) && (nowSeconds - tsRecentAge[c]!) >>> 0 <= PAWS_SECONDS) return;
    tsRecent[c] = segment.tsVal;
    tsRecentAge[c] = nowSeconds;
  }

  /** RFC 9293 §3.10.7.4, first: whether some of it is in the window. */
  #isAcceptable(c: number): boolean {
    const { segment, connections } = this.#core;
    const { rcvNxt, rcvEdge } = connections;
    const window = Math.max(0, distance(rcvEdge[c]!, rcvNxt[c]!));
    const offset = distance(segment.seq, rcvNxt[c]!);
    const { length } = segment;
    // With a closed window the next number still brings ACK, URG and RST; its data is not taken.
    if (offset === 0) return true;
    if (length === 0) return offset > 0 && offset <= window;
    return offset < window && offset + length > 0;
  }

  #answerUnacceptable(c: number): void {
    const core = this.#core;
    const { segment, connections } = core;
    const { state, rcvNxt } = connections;
    const isSyn = (segment.flags & TCP_SYN) !== 0;
    if (state[c] === SYN_RECEIVED && isSyn && plus(segment.seq, 1) === rcvNxt[c]) {
      // Our SYN-ACK was lost.
      this.#handshake.sendSynAgain(c);
      return;
    }
    const { dataLength } = segment;
    if (dataLength > 0 && before(segment.seq, rcvNxt[c]!) && !isSyn) {
      // Known already: D-SACK says so (RFC 2883 §4).
      core.transferFor(c).received.noteDuplicate(segment.seq, plus(segment.seq, dataLength));
      this.#acknowledgeNow(c);
      return;
    }
    // Keepalive and window probes ask one number before the window.
    if (plus(segment.seq, 1) === rcvNxt[c] && !isSyn) this.#acknowledgeNow(c);
    else this.challenge(c);
  }

  /** An ACK that shows an honest peer where we are, and an attacker nothing (RFC 5961). */
  challenge(c: number): void {
    const { counters, now } = this.#core;
    if (!this.#challenges.allows(now)) {
      counters.challengeAcksWithheld++;
      return;
    }
    counters.challengeAcks++;
    if (this.#core.connections.state[c]! < ESTABLISHED) this.#output.acknowledge(c);
    else this.#acknowledgeNow(c);
  }

  #acknowledgeNow(c: number): void {
    this.#core.connections.setFlag(c, ACK_NOW);
    this.#core.touch(c);
  }

  // ---- RST

  #resetByPeer(c: number): void {
    const { connections, counters } = this.#core;
    const { state, flags } = connections;
    if (state[c] === SYN_RECEIVED) {
      counters.attemptFails++;
      const isActive = (flags[c]! & ACTIVE_OPEN) !== 0;
      this.#core.drop(c, isActive ? new TcpError('ECONNREFUSED', 'the other side refused the connection') : null);
      return;
    }
    if (state[c] === DRAINING) return;
    counters.estabResets++;
    this.#core.drop(c, new TcpError('ECONNRESET', 'the other side reset the connection'));
  }

  // ---- ACK

  /** RFC 9293 §3.10.7.4, fifth. False: the segment, or the connection, is done with. */
  #acknowledge(c: number): boolean {
    const core = this.#core;
    const { segment, connections } = core;
    const { sndUna, sndNxt, maxSndWnd } = connections;
    const { ack } = segment;
    const una = sndUna[c]!;
    const advance = distance(ack, una);
    if (distance(ack, sndNxt[c]!) > 0 || advance < -maxSndWnd[c]!) {
      // RFC 5961 §5.2: for what was never sent, or long ago.
      this.challenge(c);
      return false;
    }
    const windowChanged = advance >= 0 && this.#updateWindow(c);
    const transfer = core.transferOf(c);
    if (transfer === null) {
      if (windowChanged || advance > 0) core.touch(c);
      if (advance <= 0) return true;
      // Without a Transfer nothing but a FIN can have been in flight.
      sndUna[c] = ack;
      return this.#finAcknowledged(c);
    }
    if (advance > 0) {
      sndUna[c] = ack;
      transfer.sendBuffer.acknowledge(ack);
      transfer.blackHoleTries = 0;
      if (transfer.fullMss > 0 && core.now >= transfer.retryFullAt) this.onNarrowPath(c, transfer);
      if (transfer.hasSendUrgent && !before(ack, transfer.sndUp)) transfer.hasSendUrgent = false;
    }
    this.#tellSender(c, transfer, windowChanged);
    core.touch(c);
    if (advance <= 0) return true;
    this.#tellWritable(c, transfer);
    if (!connections.has(c)) return false;
    return (connections.flags[c]! & FIN_SENT) === 0 || sndUna[c] !== sndNxt[c] || this.#finAcknowledged(c);
  }

  /** RFC 9293 §3.10.7.4: from the newest segment only. */
  #updateWindow(c: number): boolean {
    const { segment, connections } = this.#core;
    const { sndWl1, sndWl2, sndWnd, sndScale, maxSndWnd } = connections;
    const newer = distance(segment.seq, sndWl1[c]!);
    if (newer < 0 || (newer === 0 && before(segment.ack, sndWl2[c]!))) return false;
    sndWl1[c] = segment.seq;
    sndWl2[c] = segment.ack;
    const window = segment.window << sndScale[c]!;
    if (window === sndWnd[c]) return false;
    sndWnd[c] = window;
    if (window > maxSndWnd[c]!) maxSndWnd[c] = window;
    return true;
  }

  #tellSender(c: number, transfer: Transfer, windowChanged: boolean): void {
    const core = this.#core;
    const { segment, connections, nowMs } = core;
    const ack = this.#ack;
    ack.una = segment.ack;
    ack.hasData = segment.length > 0;
    ack.windowChanged = windowChanged;
    ack.ece = (segment.flags & TCP_ECE) !== 0 && (connections.flags[c]! & ECN) !== 0;
    // The echo of a clock of milliseconds: a bound, where the sender does not know better.
    const stamped = segment.hasTimestamps && segment.tsEcr !== 0;
    const age = stamped ? (nowMs + connections.tsOffset[c]! - segment.tsEcr) | 0 : -1;
    ack.rtt = age < 0 ? -1 : Math.max(1, age) * MICROSECONDS_PER_MS;
    ack.sackCount = segment.sackCount;
    for (let i = 0; i < segment.sackCount; i++) {
      ack.sackStart[i] = segment.sackStart[i]!;
      ack.sackEnd[i] = segment.sackEnd[i]!;
    }
    // RFC 2883 §4: the first block tells of a duplicate where it lies before the ACK, or inside the second.
    ack.dsack =
      segment.sackCount > 0 &&
      (before(ack.sackStart[0]!, segment.ack) ||
        (segment.sackCount > 1 &&
          !before(ack.sackStart[0]!, ack.sackStart[1]!) &&
          !after(ack.sackEnd[0]!, ack.sackEnd[1]!)));
    transfer.sender.acknowledged(ack, core.now);
    // The buffer for a window twice as large as the path's now: so that it is never the buffer that holds the sender up.
    const wanted = Math.min(2 * transfer.sender.cwnd, core.options.maxSendBuffer);
    if (wanted > transfer.sendBufferBytes && core.settingsOf(c).sendBuffer === 0) transfer.sendBufferBytes = wanted;
  }

  #tellWritable(c: number, transfer: Transfer): void {
    const core = this.#core;
    const { connections } = core;
    if ((connections.flags[c]! & WANTS_WRITABLE) === 0) return;
    if (transfer.sendBuffer.length > transfer.sendBufferBytes >>> 1) return;
    connections.clearFlag(c, WANTS_WRITABLE);
    if (!core.hasProgram(c)) return;
    try {
      core.handlerOf(c).onWritable(c);
    } catch (thrown) {
      core.onError(thrown);
    }
  }

  /** All that we sent has arrived, FIN included. False: the connection is over. */
  #finAcknowledged(c: number): boolean {
    const core = this.#core;
    const { state } = core.connections;
    switch (state[c]) {
      case FIN_WAIT_1:
        state[c] = FIN_WAIT_2;
        return true;
      case CLOSING:
      case LAST_ACK:
        this.#bothDone(c);
        return false;
      default:
        return true;
    }
  }

  /** Both sides have sent FIN and know of the other's. */
  #bothDone(c: number): void {
    const { connections } = this.#core;
    const { state, flags } = connections;
    const wasLastAck = state[c] === LAST_ACK;
    if ((flags[c]! & (END_TOLD | ORPHAN)) === 0) {
      // The program has still something to take.
      if (!wasLastAck) this.#output.acknowledge(c);
      state[c] = DRAINING;
      if (!wasLastAck) connections.setFlag(c, TIME_WAIT_NEXT);
      return;
    }
    if (wasLastAck) this.#core.drop(c, null);
    else this.#enterTimeWait(c);
  }

  /** RFC 9293 §3.6.1: 2 × MSL in a small table. */
  #enterTimeWait(c: number): void {
    const core = this.#core;
    const { connections, timeWait } = core;
    if ((connections.flags[c]! & ACK_NOW) !== 0) this.#output.acknowledge(c);
    timeWait.add(
      connections.local[c]!,
      connections.remote[c]!,
      connections.localPort[c]!,
      connections.remotePort[c]!,
      connections.sndNxt[c]!,
      connections.rcvNxt[c]!,
      connections.tsRecent[c]!,
      (connections.flags[c]! & BY_COOKIE) === 0,
      (connections.flags[c]! & TIMESTAMPS) !== 0,
      core.now,
    );
    core.counters.timeWaits++;
    core.drop(c, null, false);
  }

  // ---- data

  #noteCongestion(c: number, packet: Packet): void {
    const { segment, connections } = this.#core;
    if ((segment.flags & TCP_CWR) !== 0) connections.clearFlag(c, ECN_ECHO);
    if ((packet.trafficClass & ECN_MASK) === ECN_CE) {
      connections.setFlag(c, ECN_ECHO | ACK_NOW);
      this.#core.touch(c);
    }
  }

  /** RFC 9293 §3.10.7.4, sixth to eighth: URG, data, FIN. */
  takeData(c: number, packet: Packet): void {
    const core = this.#core;
    const { segment, connections } = core;
    const { flags, rcvNxt, rcvEdge } = connections;
    const { length } = segment;
    if (length === 0) return;
    if ((flags[c]! & FIN_RECEIVED) !== 0) {
      // Nothing comes behind FIN: an old one again.
      this.#acknowledgeNow(c);
      return;
    }
    let { dataAt } = segment;
    // SYN has the first number (RFC 7413, and a SYN-ACK with data).
    let seq = (segment.flags & TCP_SYN) !== 0 ? plus(segment.seq, 1) : segment.seq;
    let end = plus(seq, segment.dataLength);
    let fin = (segment.flags & TCP_FIN) !== 0;
    if ((flags[c]! & ORPHAN) !== 0 && segment.dataLength > 0 && after(end, rcvNxt[c]!)) {
      // RFC 1122 §4.2.2.13: nobody will read it, and the other side must know.
      this.#output.refuse(packet);
      core.drop(c, null);
      return;
    }
    // Most connections end so: with nothing to take but FIN, which needs no Transfer.
    if (fin && segment.dataLength === 0 && seq === rcvNxt[c] && connections.transfer[c] === NO_TRANSFER) {
      core.touch(c);
      this.#takeFin(c);
      return;
    }
    const transfer = core.transferFor(c);
    if (before(seq, rcvNxt[c]!)) {
      const known = Math.min(distance(rcvNxt[c]!, seq), segment.dataLength);
      if (known > 0) transfer.received.noteDuplicate(seq, plus(seq, known));
      seq = plus(seq, known);
      dataAt += known;
      connections.setFlag(c, ACK_NOW);
    }
    if (after(end, rcvEdge[c]!)) {
      // Beyond the window. A full receive memory looks like this, too.
      end = before(rcvEdge[c]!, seq) ? seq : rcvEdge[c]!;
      fin = false;
      connections.setFlag(c, ACK_NOW);
    }
    const bytes = distance(end, seq);
    if (packet.gsoSize > transfer.receiveMss) transfer.receiveMss = packet.gsoSize;
    else if (packet.gsoSize === 0 && bytes > transfer.receiveMss) transfer.receiveMss = bytes;
    if ((segment.flags & TCP_URG) !== 0) this.#noteUrgent(c, transfer);
    if (fin) transfer.finAt(end);
    if (bytes > 0) {
      if (seq === rcvNxt[c]) this.#takeInOrder(c, transfer, dataAt, bytes);
      else this.#takeOutOfOrder(c, transfer, seq, dataAt, bytes);
      if (!connections.has(c)) return;
    }
    core.touch(c);
    if (transfer.hasFin && transfer.finSeq === rcvNxt[c]) this.#takeFin(c);
    else if (fin) connections.setFlag(c, ACK_NOW);
  }

  /** The bytes that were waited for: straight to the program, when it wants them; and what was waiting behind them. */
  #takeInOrder(c: number, transfer: Transfer, at: number, bytes: number): void {
    const core = this.#core;
    const { segment, connections } = core;
    const { rcvNxt, bytesReceived, flags } = connections;
    const { received } = transfer;
    const fills = received.outOfOrder > 0;
    const quick = bytesReceived[c]! < QUICK_SEGMENTS * transfer.receiveMss;
    const start = rcvNxt[c]!;
    rcvNxt[c] = plus(start, bytes);
    transfer.unacknowledged += bytes;
    if (received.held === 0 && (flags[c]! & PAUSED) === 0) {
      this.#give(c, segment.bytes, at, at + bytes);
      if (!connections.has(c)) return;
    } else {
      const before = received.memory;
      received.hold(start, segment.bytes, at, at + bytes);
      core.receiveMemory += received.memory - before;
    }
    if (fills) this.#takeWaiting(c, transfer);
    if (!connections.has(c)) return;
    bytesReceived[c] = bytesReceived[c]! + distance(rcvNxt[c]!, start);
    if (segment.hasTimestamps) this.#measureRtt(c, transfer);
    tuneBuffer(core, c, transfer);
    // RFC 9293 §3.8.6.3: every second full segment; RFC 5681 §4.2: at once when a hole is filled, or was.
    if (fills || quick || transfer.unacknowledged >= 2 * transfer.receiveMss) connections.setFlag(c, ACK_NOW);
    else if (transfer.ackDeadline === NEVER) transfer.ackDeadline = core.now + DELAYED_ACK_MS * MICROSECONDS_PER_MS;
  }

  /** What had come before its turn, and has it now. */
  #takeWaiting(c: number, transfer: Transfer): void {
    const core = this.#core;
    const { rcvNxt } = core.connections;
    const { received } = transfer;
    const memory = received.memory;
    rcvNxt[c] = received.joinInOrder(rcvNxt[c]!);
    core.receiveMemory += received.memory - memory;
    this.giveHeld(c, transfer);
  }

  #takeOutOfOrder(c: number, transfer: Transfer, seq: number, at: number, bytes: number): void {
    const core = this.#core;
    const { segment, connections, counters } = core;
    const { received } = transfer;
    counters.outOfOrder++;
    const memory = received.memory;
    // Small pieces cost more than they are: their sender may not make us pay for more than two windows.
    const hasRoom = memory < 2 * transfer.receiveBuffer && core.receiveMemory < core.options.receiveMemory;
    if (hasRoom) received.insert(seq, segment.bytes, at, at + bytes);
    else counters.receiveDrops++;
    core.receiveMemory += received.memory - memory;
    connections.setFlag(c, ACK_NOW);
  }

  /** Gives the program what it has not got yet, as long as it wants it; then the end, if that has come. */
  giveHeld(c: number, transfer: Transfer): void {
    const core = this.#core;
    const { connections } = core;
    const { received } = transfer;
    this.#giving = c;
    while (received.held > 0 && !connections.hasFlag(c, PAUSED)) {
      const memory = received.memory;
      received.takeHeld(this.#giveHeldBytes);
      if (!connections.has(c)) return;
      core.receiveMemory += received.memory - memory;
    }
    tuneBuffer(core, c, transfer);
    if (isUpdateDue(core, c, transfer)) this.#acknowledgeNow(c);
  }

  readonly #giveHeldBytes = (bytes: Uint8Array, start: number, end: number): void => {
    this.#give(this.#giving, bytes, start, end);
  };

  #give(c: number, bytes: Uint8Array, start: number, end: number): void {
    const core = this.#core;
    if (!core.hasProgram(c)) return;
    try {
      core.handlerOf(c).onData(c, bytes, start, end);
    } catch (thrown) {
      core.onError(thrown);
    }
  }

  /** Round trip as a receiver sees it: from an ACK to the data that echoes its timestamp (RFC 7323 §4). */
  #measureRtt(c: number, transfer: Transfer): void {
    const { segment, connections, nowMs } = this.#core;
    if (segment.tsEcr === 0) return;
    const age = (nowMs + connections.tsOffset[c]! - segment.tsEcr) | 0;
    if (age < 0) return;
    const sample = Math.max(1, age) * MICROSECONDS_PER_MS;
    const old = transfer.receiverRtt;
    transfer.receiverRtt = old === 0 ? sample : old - (old >>> 3) + (sample >>> 3);
  }

  /** RFC 9293 §3.8.5; the pointer means the byte behind the urgent ones, as everybody takes it (RFC 6093 §3.1). */
  #noteUrgent(c: number, transfer: Transfer): void {
    const core = this.#core;
    const { segment, connections } = core;
    const up = plus(segment.seq, segment.urgentPointer);
    if (atOrBefore(up, connections.rcvNxt[c]!)) return;
    if (transfer.hasUrgent && atOrBefore(up, transfer.rcvUp)) return;
    transfer.rcvUp = up;
    transfer.hasUrgent = true;
    if (!core.hasProgram(c)) return;
    const bytes = distance(up, connections.rcvNxt[c]!) + transfer.received.held;
    try {
      core.handlerOf(c).onUrgent?.(c, bytes);
    } catch (thrown) {
      core.onError(thrown);
    }
  }

  // ---- FIN

  #takeFin(c: number): void {
    const core = this.#core;
    const { connections } = core;
    const { state, rcvNxt, sndUna, sndNxt, flags } = connections;
    rcvNxt[c] = plus(rcvNxt[c]!, 1);
    connections.setFlag(c, FIN_RECEIVED | ACK_NOW);
    const finAcknowledged = (flags[c]! & FIN_SENT) !== 0 && sndUna[c] === sndNxt[c];
    switch (state[c]) {
      case SYN_RECEIVED:
      case ESTABLISHED:
        state[c] = CLOSE_WAIT;
        break;
      case FIN_WAIT_1:
        state[c] = finAcknowledged ? FIN_WAIT_2 : CLOSING;
        break;
    }
    const done = state[c] === FIN_WAIT_2;
    this.tellEnd(c);
    if (done && connections.has(c)) this.#bothDone(c);
  }

  /** The program has taken everything, and FIN has come: tells it so, once. */
  tellEnd(c: number): void {
    const core = this.#core;
    const { connections } = core;
    const { flags, state } = connections;
    if ((flags[c]! & (FIN_RECEIVED | END_TOLD)) !== FIN_RECEIVED) return;
    const transfer = core.transferOf(c);
    if ((flags[c]! & PAUSED) !== 0 || (transfer !== null && transfer.received.held > 0)) return;
    connections.setFlag(c, END_TOLD);
    if (core.hasProgram(c)) {
      try {
        core.handlerOf(c).onEnd(c);
      } catch (thrown) {
        core.onError(thrown);
      }
    }
    if (!connections.has(c) || state[c] !== DRAINING) return;
    if ((flags[c]! & TIME_WAIT_NEXT) !== 0) this.#enterTimeWait(c);
    else core.drop(c, null);
  }
}
