/**
 * What is sent: from a connection's row and its Transfer, the segments that it is time for (RFC 9293 §3.8).
 *
 *     lost ──► again          Sender says what, and how much the path bears
 *     probe ──► last or next  (TLP)
 *     new ──► while cwnd, window and Nagle allow, in super-frames where the device cuts them
 *     ACK ──► if nothing carried it
 *
 * Where the device has no room the connection waits in line until it has. Hot: allocates nothing.
 */
import { IPPROTO_TCP, TCP_CHECKSUM } from '../../packet/header-fields.ts';
import { BEGUN, BUSY, NEVER } from '../network.ts';
import type { Packet } from '../packet.ts';
import {
  ACK_NOW,
  CLOSE_WAIT,
  CORKED,
  ECN,
  ECN_ECHO,
  ESTABLISHED,
  FAST_OPENED,
  FIN_QUEUED,
  FIN_SENT,
  FIN_WAIT_1,
  LAST_ACK,
  NO_CONNECTION,
  NO_DELAY,
  SACK_PERMITTED,
  TIMESTAMPS,
} from './connections.ts';
import { MICROSECONDS_PER_MS, type TcpCore } from './core.ts';
import { advertise } from './receive-window.ts';
import {
  MAX_SACK_BLOCKS,
  PADDED_TIMESTAMPS_LENGTH,
  TCP_ACK,
  TCP_CWR,
  TCP_ECE,
  TCP_FIN,
  TCP_PSH,
  TCP_RST,
  TCP_URG,
} from './segment.ts';
import { after, before, distance, plus } from './sequence.ts';
import type { Transfer } from './transfer.ts';

/** ECT(0): the packet may be marked (RFC 3168 §5). */
const ECT_0 = 2;
/** The longest IP packet, for super-frames. */
const MAX_IP_BYTES = 65_535;
const HEADER_BYTES = 20;
/** TCP_CORK gives in after 200 ms, as tcp(7) says. */
const CORK_MS = 200;
const MAX_URGENT_POINTER = 0xffff;

export class Output {
  readonly #core: TcpCore;
  /** The device is full: who is touched waits for {@link settle} after {@link unblock}. */
  #isBlocked = false;
  readonly #sackStart = new Uint32Array(MAX_SACK_BLOCKS);
  readonly #sackEnd = new Uint32Array(MAX_SACK_BLOCKS);
  /** Called when a connection has been looked at, to set its timer. */
  onDone: (c: number) => void = () => {};

  constructor(core: TcpCore) {
    this.#core = core;
  }

  unblock(): void {
    this.#isBlocked = false;
  }

  /** Looks at all connections that were touched. */
  settle(): void {
    const core = this.#core;
    while (!this.#isBlocked) {
      const c = core.nextTouched();
      if (c === NO_CONNECTION) return;
      if (this.#transmit(c)) this.onDone(c);
      else {
        this.#isBlocked = true;
        core.touch(c);
      }
    }
  }

  /** False: the device has no room. */
  #transmit(c: number): boolean {
    const core = this.#core;
    const { state, flags } = core.connections;
    if (state[c]! < ESTABLISHED && (flags[c]! & FAST_OPENED) === 0) return true;
    const transfer = core.transferOf(c);
    if (transfer !== null) {
      if (!this.#sendAgain(c, transfer)) return false;
      if (!this.#sendNew(c, transfer)) return false;
    } else if ((flags[c]! & (FIN_QUEUED | FIN_SENT)) === FIN_QUEUED) return this.#sendBareFin(c);
    if ((flags[c]! & ACK_NOW) !== 0) return this.acknowledge(c);
    return true;
  }

  // ---- data

  #sendAgain(c: number, transfer: Transfer): boolean {
    const { sender } = transfer;
    const { sndUna } = this.#core.connections;
    while (sender.nextLost(this.#core.now)) {
      const seq = sender.lostSeq;
      // Of a range that was acknowledged meanwhile there is nothing to send.
      if (before(seq, sndUna[c]!)) break;
      const end = sender.lostEnd;
      if (!this.#sendRange(c, transfer, seq, end, true)) return false;
      sender.retransmitted(seq, end, this.#core.now);
      this.#core.counters.retransSegs++;
    }
    return true;
  }

  /** New data, as far as path, window and good manners go; and FIN behind the last. */
  #sendNew(c: number, transfer: Transfer): boolean {
    const { connections, now } = this.#core;
    const { sndNxt, flags } = connections;
    const { sender, sendBuffer } = transfer;
    const mss = this.#payloadRoom(c, transfer);
    sender.wakeFromIdle(now);
    while ((flags[c]! & FIN_SENT) === 0) {
      const nxt = sndNxt[c]!;
      const available = distance(plus(sendBuffer.start, sendBuffer.length), nxt);
      const hasFin = (flags[c]! & FIN_QUEUED) !== 0;
      if (available <= 0 && !hasFin) break;
      const window = this.#window(c);
      const isProbe = sender.probe;
      const allowance = isProbe ? Math.max(mss, sender.allowance(now)) : sender.allowance(now);
      const length = available <= 0 ? 0 : this.#nextLength(c, transfer, mss, available, window, allowance);
      // FIN takes a number of the window, too, but waits for nothing else.
      const fin = hasFin && length >= available && (window > length || connections.sndUna[c] === nxt);
      if (length === 0 && !fin) break;
      const bytes = length + (fin ? 1 : 0);
      if (!this.#sendRange(c, transfer, nxt, plus(nxt, bytes), false)) return false;
      this.#sentNew(c, transfer, nxt, bytes, fin);
      if (length % mss !== 0) {
        transfer.smallEnd = plus(nxt, bytes);
        transfer.hasSmall = true;
      }
      if (isProbe) sender.probeSent(now, true);
    }
    if (sender.probe && !this.#probeAgain(c, transfer)) return false;
    this.#watchWindow(c, transfer);
    return true;
  }

  /** Bytes from SND.NXT on that the other side has room for. */
  #window(c: number): number {
    const { sndUna, sndNxt, sndWnd } = this.#core.connections;
    return Math.max(0, sndWnd[c]! - distance(sndNxt[c]!, sndUna[c]!));
  }

  /**
   * How much of `available` bytes leaves now in one segment or super-frame: the sender's side of silly window avoidance
   * (RFC 9293 §3.8.6.2.1).
   */
  #nextLength(
    c: number,
    transfer: Transfer,
    mss: number,
    available: number,
    window: number,
    allowance: number,
  ): number {
    const { sndUna, sndNxt, maxSndWnd } = this.#core.connections;
    const most = Math.min(available, window, allowance, this.#burst(c, transfer, mss));
    const rest = most % mss;
    if (most === available && (rest === 0 || this.#mayEndSmall(c, transfer))) return most;
    if (most >= mss || most === available) return most - rest;
    // Less than a segment is allowed. Either the receiver never had more to offer, or without it nothing would go on.
    if (window <= allowance) return most >= maxSndWnd[c]! >>> 1 ? most : 0;
    return sndNxt[c] === sndUna[c] ? most : 0;
  }

  #sentNew(c: number, transfer: Transfer, seq: number, bytes: number, fin: boolean): void {
    const { connections, now, nowMs } = this.#core;
    const end = plus(seq, bytes);
    const left = distance(plus(transfer.sendBuffer.start, transfer.sendBuffer.length), end);
    transfer.sender.sent(seq, end, now, left <= 0);
    connections.sndNxt[c] = end;
    connections.bytesSent[c] = connections.bytesSent[c]! + bytes - (fin ? 1 : 0);
    connections.lastSent[c] = nowMs;
    transfer.touched = now;
    if (fin) this.#finSent(c);
  }

  #finSent(c: number): void {
    const { connections } = this.#core;
    const { state } = connections;
    connections.setFlag(c, FIN_SENT);
    state[c] = state[c] === CLOSE_WAIT ? LAST_ACK : FIN_WAIT_1;
  }

  /**
   * FIN of a connection that has nothing else to send or to take: most connections end so, and it costs them no Transfer,
   * unless it is lost ({@link TcpCore.transferFor}).
   */
  #sendBareFin(c: number): boolean {
    const { connections, nowMs } = this.#core;
    const { sndNxt, lastSent } = connections;
    if (!this.acknowledge(c, sndNxt[c]!, TCP_FIN)) return false;
    sndNxt[c] = plus(sndNxt[c]!, 1);
    lastSent[c] = nowMs;
    this.#finSent(c);
    return true;
  }

  /** TLP without new data: the last segment once more (RFC 8985 §7.3). */
  #probeAgain(c: number, transfer: Transfer): boolean {
    const { connections, now, counters } = this.#core;
    const { sender } = transfer;
    const end = connections.sndNxt[c]!;
    const inFlight = distance(end, connections.sndUna[c]!);
    const length = Math.min(inFlight, this.#payloadRoom(c, transfer));
    if (length <= 0) return true;
    const seq = plus(end, -length);
    if (!this.#sendRange(c, transfer, seq, end, true)) return false;
    sender.retransmitted(seq, end, now);
    sender.probeSent(now, false);
    counters.retransSegs++;
    return true;
  }

  /**
   * Whether a last segment that is not full may leave: no cork, and by Minshall's variant of Nagle's algorithm (RFC 9293
   * §3.7.4) no other small one in flight. With FIN behind it there is nothing to wait for.
   */
  #mayEndSmall(c: number, transfer: Transfer): boolean {
    const { now, connections } = this.#core;
    const { flags, sndUna } = connections;
    if ((flags[c]! & FIN_QUEUED) !== 0) return true;
    if ((flags[c]! & CORKED) !== 0) {
      if (transfer.corkDeadline === NEVER) transfer.corkDeadline = now + CORK_MS * MICROSECONDS_PER_MS;
      return transfer.corkOver;
    }
    if ((flags[c]! & NO_DELAY) !== 0) return true;
    return !(transfer.hasSmall && after(transfer.smallEnd, sndUna[c]!));
  }

  /** Data waits, nothing is in flight, and the window has no room for it: somebody must ask (RFC 9293 §3.8.6.1). */
  #watchWindow(c: number, transfer: Transfer): void {
    const { connections, now } = this.#core;
    const { sndUna, sndNxt, sndWnd, maxSndWnd } = connections;
    const { sendBuffer } = transfer;
    const available = distance(plus(sendBuffer.start, sendBuffer.length), sndNxt[c]!);
    if (available <= 0) {
      transfer.corkDeadline = NEVER;
      transfer.corkOver = false;
    }
    const least = Math.min(this.#core.payloadMss(c), available, maxSndWnd[c]! >>> 1);
    const isStuck = available > 0 && sndNxt[c] === sndUna[c] && sndWnd[c]! < Math.max(1, least);
    if (!isStuck) {
      transfer.persistDeadline = NEVER;
      transfer.persistTries = 0;
    } else if (transfer.persistDeadline === NEVER) transfer.persistDeadline = now + transfer.sender.rto;
  }

  /**
   * The persist timer has run out: what fits into a small window after all, else a segment before the window, which the
   * other side answers with an ACK that tells its window (as Linux does; nothing has to be taken back where it is closed).
   */
  probeWindow(c: number, transfer: Transfer): void {
    const { connections, counters } = this.#core;
    const { sndNxt, sndUna } = connections;
    const { sendBuffer } = transfer;
    const available = distance(plus(sendBuffer.start, sendBuffer.length), sndNxt[c]!);
    const bytes = Math.min(available, this.#window(c), this.#payloadRoom(c, transfer));
    counters.zeroWindowProbes++;
    if (bytes <= 0) {
      this.acknowledge(c, plus(sndUna[c]!, -1));
      return;
    }
    const nxt = sndNxt[c]!;
    if (this.#sendRange(c, transfer, nxt, plus(nxt, bytes), false)) this.#sentNew(c, transfer, nxt, bytes, false);
  }

  /** Bytes to send in one go, a whole number of segments: more than one only where the device cuts them. */
  #burst(c: number, transfer: Transfer, mss: number): number {
    const { network, connections } = this.#core;
    const { remote } = connections;
    const { destinations } = network;
    if (transfer.hasSendUrgent || !network.canSegment(destinations.family(remote[c]!))) return mss;
    const most = MAX_IP_BYTES - this.#core.headerBytes(remote[c]!) - (HEADER_BYTES + PADDED_TIMESTAMPS_LENGTH);
    const burst = Math.min(most, transfer.sender.burst(this.#core.now));
    return Math.max(mss, burst - (burst % mss));
  }

  /** Data in a full segment beside the options that go out now. */
  #payloadRoom(c: number, transfer: Transfer): number {
    return this.#core.payloadMss(c) - (this.#optionBytes(c, transfer) - this.#timestampBytes(c));
  }

  // ---- segments

  /** Sends `seq` … `end` - 1, FIN included when the range has it. False: the device has no room. */
  #sendRange(c: number, transfer: Transfer, seq: number, end: number, isAgain: boolean): boolean {
    const core = this.#core;
    const { connections, network, writer } = core;
    const { flags, remote, localPort, remotePort, local, rcvNxt } = connections;
    const { sendBuffer, sender } = transfer;
    const dataEnd = plus(sendBuffer.start, sendBuffer.length);
    const fin = after(end, dataEnd);
    const length = distance(fin ? dataEnd : end, seq);
    const options = this.#optionBytes(c, transfer);
    const isEct = (flags[c]! & ECN) !== 0 && !isAgain && length > 0;
    const begun = network.begin(
      local[c]!,
      remote[c]!,
      IPPROTO_TCP,
      core.settingsOf(c).trafficClass | (isEct ? ECT_0 : 0),
      HEADER_BYTES + options + length,
    );
    if (begun !== BEGUN) return begun !== BUSY;
    let bits = TCP_ACK | this.#echo(c);
    if (fin) bits |= TCP_FIN;
    // The end of what there is: the receiver need not wait for more (RFC 9293 §3.9.1.2).
    if (length > 0 && !before(end, dataEnd)) bits |= TCP_PSH;
    const hasCwr = isEct && sender.needsCwr;
    if (hasCwr) {
      bits |= TCP_CWR;
      sender.cwrSent();
    }
    const isUrgent = transfer.hasSendUrgent && before(seq, transfer.sndUp);
    if (isUrgent) bits |= TCP_URG;
    const { bytes, at } = network.outgoing;
    writer.begin(bytes, at, localPort[c]!, remotePort[c]!, seq, rcvNxt[c]!, bits, advertise(core, c, transfer));
    if (isUrgent) writer.urgent(Math.min(distance(transfer.sndUp, seq), MAX_URGENT_POINTER));
    const header = this.#writeOptions(c, transfer);
    if (length > 0) sendBuffer.copyTo(seq, length, bytes, at + header);
    const mss = core.payloadMss(c) - (options - this.#timestampBytes(c));
    network.send(header + length, TCP_CHECKSUM, header, length > mss ? mss : 0, hasCwr);
    core.counters.outSegs++;
    this.#acknowledged(c, transfer);
    return true;
  }

  /** An ACK and nothing else, or with FIN. False: the device has no room. */
  acknowledge(c: number, seq: number = this.#core.connections.sndNxt[c]!, fin: 0 | typeof TCP_FIN = 0): boolean {
    const core = this.#core;
    const { connections, network, writer } = core;
    const transfer = core.transferOf(c);
    const options = this.#optionBytes(c, transfer);
    const begun = network.begin(
      connections.local[c]!,
      connections.remote[c]!,
      IPPROTO_TCP,
      core.settingsOf(c).trafficClass,
      HEADER_BYTES + options,
    );
    if (begun === BEGUN) {
      const { bytes, at } = network.outgoing;
      writer.begin(
        bytes,
        at,
        connections.localPort[c]!,
        connections.remotePort[c]!,
        seq,
        connections.rcvNxt[c]!,
        TCP_ACK | fin | this.#echo(c),
        advertise(core, c, transfer),
      );
      network.send(this.#writeOptions(c, transfer), TCP_CHECKSUM);
      core.counters.outSegs++;
    } else if (begun === BUSY) return false;
    this.#acknowledged(c, transfer);
    return true;
  }

  /** RST in the middle of the conversation: SND.NXT is what the other side takes (RFC 9293 §3.10.5). */
  reset(c: number): void {
    const { connections, network, writer, counters } = this.#core;
    const begun = network.begin(connections.local[c]!, connections.remote[c]!, IPPROTO_TCP, 0, HEADER_BYTES);
    if (begun !== BEGUN) return;
    const { bytes, at } = network.outgoing;
    writer.begin(
      bytes,
      at,
      connections.localPort[c]!,
      connections.remotePort[c]!,
      connections.sndNxt[c]!,
      connections.rcvNxt[c]!,
      TCP_RST | TCP_ACK,
      0,
    );
    network.send(writer.end(), TCP_CHECKSUM);
    counters.outRsts++;
    counters.outSegs++;
  }

  /** RST for a segment that belongs to nothing (RFC 9293 §3.10.7.1). The caller has seen that it is no RST itself. */
  refuse(packet: Packet): void {
    const { segment, network, writer, counters } = this.#core;
    if (network.beginReply(packet, IPPROTO_TCP, 0, HEADER_BYTES) !== BEGUN) return;
    const { bytes, at } = network.outgoing;
    const hasAck = (segment.flags & TCP_ACK) !== 0;
    const seq = hasAck ? segment.ack : 0;
    const ack = hasAck ? 0 : plus(segment.seq, segment.length);
    const flags = hasAck ? TCP_RST : TCP_RST | TCP_ACK;
    writer.begin(bytes, at, segment.destinationPort, segment.sourcePort, seq, ack, flags, 0);
    network.send(writer.end(), TCP_CHECKSUM);
    counters.outRsts++;
    counters.outSegs++;
  }

  /** ECE, as long as it takes the other side to answer with CWR. */
  #echo(c: number): number {
    return this.#core.connections.flags[c]! & ECN_ECHO ? TCP_ECE : 0;
  }

  #timestampBytes(c: number): number {
    return this.#core.connections.flags[c]! & TIMESTAMPS ? PADDED_TIMESTAMPS_LENGTH : 0;
  }

  #optionBytes(c: number, transfer: Transfer | null): number {
    const isPermitted = (this.#core.connections.flags[c]! & SACK_PERMITTED) !== 0;
    const blocks = transfer === null || !isPermitted ? 0 : transfer.received.sackCount;
    const stamps = this.#timestampBytes(c);
    return stamps + sackBytes(stamps > 0 ? Math.min(blocks, MAX_SACK_BLOCKS - 1) : blocks);
  }

  #writeOptions(c: number, transfer: Transfer | null): number {
    const core = this.#core;
    if (this.#timestampBytes(c) > 0) core.writer.timestamps(core.timestamp(c), core.connections.tsRecent[c]!);
    const isPermitted = (core.connections.flags[c]! & SACK_PERMITTED) !== 0;
    if (isPermitted && transfer !== null && transfer.received.sackCount > 0) {
      const count = transfer.received.sackBlocks(this.#sackStart, this.#sackEnd);
      core.writer.sack(this.#sackStart, this.#sackEnd, count);
    }
    return core.writer.end();
  }

  /** What went out carried an ACK. */
  #acknowledged(c: number, transfer: Transfer | null): void {
    const { connections } = this.#core;
    connections.clearFlag(c, ACK_NOW);
    connections.lastAckSent[c] = connections.rcvNxt[c]!;
    if (transfer === null) return;
    transfer.ackDeadline = NEVER;
    transfer.unacknowledged = 0;
    transfer.received.forgetDuplicate();
  }
}

/** NOP, NOP, kind, length and the blocks. */
function sackBytes(blocks: number): number {
  return blocks === 0 ? 0 : 4 + 8 * blocks;
}
