/**
 * What happens to a connection when nothing comes: one deadline a connection, the earliest of all its reasons, in the
 * timer wheel. Which reason it was is found out when it has come.
 *
 *     SYN, SYN-ACK  ─► again (Handshake)         retransmission, probe, pacing ─► Sender
 *     delayed ACK   ─► now                       closed window, cork, keepalive, user time-out, FIN-WAIT-2 ─► here
 *     quiet         ─► the Transfer goes, the row stays
 */
import { NEVER, type Time } from '../network.ts';
import { TcpError } from './api.ts';
import {
  ACK_NOW,
  DRAINING,
  ESTABLISHED,
  FIN_WAIT_2,
  KEEP_ALIVE,
  NO_TRANSFER,
  ORPHAN,
  PAUSED,
  WANTS_WRITABLE,
} from './connections.ts';
import { MICROSECONDS_PER_MS, type TcpCore } from './core.ts';
import type { Handshake } from './handshake.ts';
import type { Output } from './output.ts';
import { plus } from './sequence.ts';
import type { Transfer } from './transfer.ts';

/** A connection without news keeps its Transfer so long: the next request may come soon. */
const LINGER_MS = 200;
/** An orphan waits so long for the other side's FIN (tcp_fin_timeout of Linux). */
const FIN_WAIT_2_MS = 60_000;
/** R2 of RFC 9293 §3.8.3, as Linux counts it (tcp_retries2): some 15 minutes. Orphans get fewer (tcp_orphan_retries). */
const RETRIES = 15;
const ORPHAN_RETRIES = 8;
/** Not sooner is a FIN without a Transfer looked at: the clock of its row has milliseconds. */
const MIN_BARE_FIN_MS = 10;
const MAX_PERSIST_MS = 60_000;
/** RFC 4821 §7.7: so many time-outs in a row at one segment size may be a black hole for it. */
const BLACK_HOLE_TRIES = 3;

export class Timers {
  readonly #core: TcpCore;
  readonly #output: Output;
  readonly #handshake: Handshake;
  /** Time-outs in a row: perhaps such segments never get through. */
  onBlackHole: (c: number, transfer: Transfer) => void = () => {};

  constructor(core: TcpCore, output: Output, handshake: Handshake) {
    this.#core = core;
    this.#output = output;
    this.#handshake = handshake;
  }

  /** Sets the connection's timer by all that it may be waiting for. */
  schedule(c: number): void {
    const core = this.#core;
    const { state, flags, transfer } = core.connections;
    if (state[c]! < ESTABLISHED) return;
    let deadline = NEVER;
    if (transfer[c] !== NO_TRANSFER) deadline = this.#transferDeadline(c, core.transfers.get(transfer[c]!));
    else if (core.isBareFinInFlight(c)) deadline = this.#bareFinDeadline(c);
    if ((flags[c]! & KEEP_ALIVE) !== 0) deadline = Math.min(deadline, this.#keepAliveDeadline(c));
    if (state[c] === FIN_WAIT_2 && (flags[c]! & ORPHAN) !== 0) {
      deadline = Math.min(deadline, this.#after(core.connections.lastHeard[c]!, FIN_WAIT_2_MS));
    }
    if (deadline === NEVER) core.wheel.cancel(c);
    else core.wheel.schedule(c, deadline);
  }

  #transferDeadline(c: number, transfer: Transfer): Time {
    const { sender } = transfer;
    let deadline = Math.min(sender.deadline, transfer.ackDeadline, transfer.persistDeadline, transfer.corkDeadline);
    const limit = this.#core.settingsOf(c).userTimeoutMs;
    if (limit > 0 && sender.unansweredSince !== NEVER) {
      deadline = Math.min(deadline, sender.unansweredSince + limit * MICROSECONDS_PER_MS);
    }
    return this.#isQuiet(c, transfer)
      ? Math.min(deadline, transfer.touched + LINGER_MS * MICROSECONDS_PER_MS)
      : deadline;
  }

  /** When a Sender would do something about it first: two round trips (PTO, RFC 8985 §7.2). */
  #bareFinDeadline(c: number): Time {
    const core = this.#core;
    return core.bareFinSent(c) + Math.max(2 * core.connections.srtt[c]!, MIN_BARE_FIN_MS * MICROSECONDS_PER_MS);
  }

  /** Whether there is nothing that a row has no room for. */
  #isQuiet(c: number, transfer: Transfer): boolean {
    const { sndUna, sndNxt, state, flags } = this.#core.connections;
    return (
      sndUna[c] === sndNxt[c] &&
      transfer.sendBuffer.length === 0 &&
      transfer.received.memory === 0 &&
      transfer.ackDeadline === NEVER &&
      !transfer.hasFin &&
      state[c] !== DRAINING &&
      (flags[c]! & (WANTS_WRITABLE | PAUSED)) === 0
    );
  }

  #keepAliveDeadline(c: number): Time {
    const { lastHeard, tries } = this.#core.connections;
    const settings = this.#core.settingsOf(c);
    return this.#after(lastHeard[c]!, settings.keepAliveMs + tries[c]! * settings.keepAliveIntervalMs);
  }

  /** `ms` after a time in the columns' wrapping milliseconds. */
  #after(then: number, ms: number): Time {
    const { nowMs, now } = this.#core;
    return now + (ms - ((nowMs - then) >>> 0)) * MICROSECONDS_PER_MS;
  }

  /** The connection's deadline has come. */
  expire(c: number): void {
    const core = this.#core;
    const { state, flags, transfer } = core.connections;
    if (state[c]! < ESTABLISHED) {
      this.#handshake.expire(c);
      return;
    }
    // It was not acknowledged in time: from now on it is in a Sender's hands.
    if (core.isBareFinInFlight(c)) core.transferFor(c);
    if (transfer[c] !== NO_TRANSFER && !this.#expireTransfer(c, core.transfers.get(transfer[c]!))) return;
    if ((flags[c]! & KEEP_ALIVE) !== 0 && !this.#keepAlive(c)) return;
    const isOrphan = (flags[c]! & ORPHAN) !== 0;
    if (state[c] === FIN_WAIT_2 && isOrphan && this.#after(core.connections.lastHeard[c]!, FIN_WAIT_2_MS) <= core.now) {
      core.drop(c, null);
      return;
    }
    core.touch(c);
  }

  /** False: the connection is gone. */
  #expireTransfer(c: number, transfer: Transfer): boolean {
    const core = this.#core;
    const { now } = core;
    const { sender } = transfer;
    if (sender.deadline <= now) {
      const before = sender.timeouts;
      sender.tick(now);
      if (sender.timeouts !== before) {
        core.counters.timeouts++;
        if (++transfer.blackHoleTries >= BLACK_HOLE_TRIES) this.onBlackHole(c, transfer);
      }
    }
    if (this.#isHopeless(c, transfer)) {
      core.drop(c, new TcpError('ETIMEDOUT', 'the other side does not acknowledge what was sent'));
      return false;
    }
    if (transfer.ackDeadline <= now) {
      transfer.ackDeadline = NEVER;
      core.connections.setFlag(c, ACK_NOW);
    }
    if (transfer.corkDeadline <= now) {
      transfer.corkDeadline = NEVER;
      transfer.corkOver = true;
    }
    if (transfer.persistDeadline <= now && !this.#persist(c, transfer)) return false;
    if (this.#isQuiet(c, transfer) && transfer.touched + LINGER_MS * MICROSECONDS_PER_MS <= now) core.endTransfer(c);
    return true;
  }

  #isHopeless(c: number, transfer: Transfer): boolean {
    const core = this.#core;
    const { sender } = transfer;
    const limit = core.settingsOf(c).userTimeoutMs * MICROSECONDS_PER_MS;
    if (limit > 0) return sender.unansweredSince !== NEVER && core.now - sender.unansweredSince >= limit;
    const isOrphan = (core.connections.flags[c]! & ORPHAN) !== 0;
    return sender.backoffs > (isOrphan ? ORPHAN_RETRIES : RETRIES);
  }

  /** A window that stays closed is asked about for ever, as long as somebody answers (RFC 9293 §3.8.6.1); orphans do not. */
  #persist(c: number, transfer: Transfer): boolean {
    const core = this.#core;
    const { lastHeard, flags } = core.connections;
    const limit = core.settingsOf(c).userTimeoutMs;
    const silence = (core.nowMs - lastHeard[c]!) >>> 0;
    const isOrphan = (flags[c]! & ORPHAN) !== 0;
    const isSilent = transfer.persistTries > RETRIES && silence > MAX_PERSIST_MS * 2;
    if ((limit > 0 && silence >= limit) || isSilent || (isOrphan && transfer.persistTries > ORPHAN_RETRIES)) {
      if (isOrphan) this.#output.reset(c);
      core.drop(c, new TcpError('ETIMEDOUT', 'the other side does not answer probes of its window'));
      return false;
    }
    const wait = Math.min(
      transfer.sender.rto * 2 ** Math.min(transfer.persistTries + 1, 16),
      MAX_PERSIST_MS * MICROSECONDS_PER_MS,
    );
    transfer.persistTries++;
    transfer.persistDeadline = core.now + wait;
    this.#output.probeWindow(c, transfer);
    return true;
  }

  /** RFC 9293 §3.8.4. False: the connection is gone. */
  #keepAlive(c: number): boolean {
    const core = this.#core;
    const { connections } = core;
    const { tries, sndUna, sndNxt, lastHeard } = connections;
    if (this.#keepAliveDeadline(c) > core.now) return true;
    const settings = core.settingsOf(c);
    if (sndUna[c] !== sndNxt[c]) {
      // What is in flight asks by itself.
      lastHeard[c] = core.nowMs;
      tries[c] = 0;
      return true;
    }
    if (tries[c]! >= settings.keepAliveProbes) {
      this.#output.reset(c);
      core.drop(c, new TcpError('ETIMEDOUT', 'the other side does not answer keepalive probes'));
      return false;
    }
    tries[c] = tries[c]! + 1;
    core.counters.keepAliveProbes++;
    this.#output.acknowledge(c, plus(sndNxt[c]!, -1));
    return true;
  }
}
