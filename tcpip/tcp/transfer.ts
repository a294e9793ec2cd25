/**
 * What a connection has only while there is something to do for it: buffers, what is in flight, an ACK that is owed.
 *
 *     idle ── write, data, SYN ──► Transfer (from the pool) ── all acknowledged, given and quiet for a while ──► idle
 *
 * So millions of idle connections cost a row each, and nothing else.
 */
import { NEVER, type Time } from '../network.ts';
import { ReceiveBuffer } from './receive-buffer.ts';
import { Sender } from './send/sender.ts';
import { SendBuffer } from './send-buffer.ts';

/** Transfers kept for the next connections. */
const POOL = 16_384;

export class Transfer {
  connection = -1;
  readonly sender = new Sender();
  /** What the program wrote and nobody acknowledged; begins at SND.UNA. */
  readonly sendBuffer = new SendBuffer();
  /** What came and the program did not get: paused, or beyond a hole. */
  readonly received = new ReceiveBuffer();

  // ---- receiving
  /** When an ACK that was put off goes out (RFC 9293 §3.8.6.3). */
  ackDeadline: Time = NEVER;
  /** Bytes that came since the last ACK. */
  unacknowledged = 0;
  /** ACKs that go out at once, at the start and after holes, so that the other side's window opens. */
  quickAcks = 0;
  /** Bytes of a full segment of the other side, as far as seen. */
  receiveMss = 0;
  /** Bytes of the receive buffer; grows with what the program takes in a round trip. */
  receiveBuffer = 0;
  /** Since when, from which RCV.NXT, and how much the program took in the round trip before. */
  measuredSince: Time = 0;
  measuredFrom = 0;
  /** Round trip as the receiver sees it, in µs; 0 while unknown. */
  receiverRtt = 0;
  /** Urgent data ends here (RCV.UP), while hasUrgent. */
  rcvUp = 0;
  hasUrgent = false;
  /** The other side's FIN stands here, once hasFin: perhaps beyond a hole. */
  finSeq = 0;
  hasFin = false;

  // ---- sending
  /** Zero-window probes (RFC 9293 §3.8.6.1): when the next one goes, and how many went. */
  persistDeadline: Time = NEVER;
  persistTries = 0;
  /** While corked: when what waits goes out all the same. */
  corkDeadline: Time = NEVER;
  corkOver = false;
  /** Where the last segment ended that was not full: Minshall's variant of Nagle's algorithm. */
  smallEnd = 0;
  hasSmall = false;
  /** SND.UP, while hasSendUrgent. */
  sndUp = 0;
  hasSendUrgent = false;
  /** Bytes of the send buffer; grows with the window. */
  sendBufferBytes = 0;
  /** Retransmission time-outs in a row at the present segment size, for black holes (RFC 4821 §7.7). */
  blackHoleTries = 0;
  /** The segment size before it was made smaller for a black hole, or 0; how often that was; when the old one is tried again. */
  fullMss = 0;
  blackHoles = 0;
  retryFullAt: Time = NEVER;

  /** Nothing has happened since, in µs: to be idle again. */
  touched: Time = 0;

  reset(connection: number, now: Time): void {
    this.connection = connection;
    this.ackDeadline = NEVER;
    this.unacknowledged = 0;
    this.quickAcks = 0;
    this.receiveMss = 0;
    this.receiveBuffer = 0;
    this.measuredSince = now;
    this.measuredFrom = 0;
    this.receiverRtt = 0;
    this.hasUrgent = false;
    this.hasFin = false;
    this.persistDeadline = NEVER;
    this.persistTries = 0;
    this.corkDeadline = NEVER;
    this.corkOver = false;
    this.hasSmall = false;
    this.hasSendUrgent = false;
    this.sendBufferBytes = 0;
    this.blackHoleTries = 0;
    this.fullMss = 0;
    this.blackHoles = 0;
    this.retryFullAt = NEVER;
    this.touched = now;
  }

  /** FIN stands behind the number before `seq`. The first one counts: what else would come later? */
  finAt(seq: number): void {
    if (this.hasFin) return;
    this.hasFin = true;
    this.finSeq = seq;
  }
}

/** The Transfers in use, by number from 1 on, and a pool of used ones. */
export class Transfers {
  readonly #rows: (Transfer | null)[] = [null];
  readonly #free: number[] = [];
  readonly #pool: Transfer[] = [];

  get inUse(): number {
    return this.#rows.length - 1 - this.#free.length;
  }

  get(number: number): Transfer {
    return this.#rows[number]!;
  }

  forEach(visit: (transfer: Transfer) => void): void {
    for (const transfer of this.#rows) if (transfer !== null) visit(transfer);
  }

  /** A Transfer for a connection; its buffers and sender are the caller's to set up. Gives its number. */
  acquire(connection: number, now: Time): number {
    const transfer = this.#pool.pop() ?? new Transfer();
    transfer.reset(connection, now);
    const number = this.#free.pop() ?? this.#rows.length;
    this.#rows[number] = transfer;
    return number;
  }

  release(number: number): void {
    const transfer = this.#rows[number]!;
    this.#rows[number] = null;
    this.#free.push(number);
    transfer.sendBuffer.reset(0);
    transfer.received.reset();
    if (this.#pool.length < POOL) this.#pool.push(transfer);
  }
}
