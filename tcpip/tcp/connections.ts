/**
 * All connections of a stack: a table of columns (struct of arrays), a row each; a {@link Connection} is a row's index.
 *
 *     row    | state | who with whom | SND.* | RCV.* | timestamps | round trip, cwnd | timer | transfer ─┐
 *     c = 7  | ESTAB.| 0:80 – 12:3391| …     | …     | …          | …                | …     | 3         │
 *                                                                                                        ▼
 *     A row is all that an idle connection has. What data needs (buffers, what is in flight) is a Transfer,
 *     which a row has only while there is data (`transfer.ts`).
 *
 * The columns have room for all connections that there may ever be; memory that no row has touched yet costs nothing.
 * Rows that are freed serve again after {@link Connections.recycle}: so nobody meets a new connection under an old number
 * within one call. Variables have their names of RFC 9293 §3.3.1. Hot: allocates nothing.
 */

// States: RFC 9293 §3.3.2. TIME-WAIT has a table of its own (`time-wait-table.ts`), LISTEN too (`listeners.ts`).
export const CLOSED = 0;
export const SYN_SENT = 1;
export const SYN_RECEIVED = 2;
export const ESTABLISHED = 3;
export const FIN_WAIT_1 = 4;
export const FIN_WAIT_2 = 5;
export const CLOSE_WAIT = 6;
export const CLOSING = 7;
export const LAST_ACK = 8;
/** Both sides are done, but the program has not taken all data yet: a state of ours, before TIME-WAIT or CLOSED. */
export const DRAINING = 9;

export const STATE_NAMES = [
  'CLOSED',
  'SYN-SENT',
  'SYN-RECEIVED',
  'ESTABLISHED',
  'FIN-WAIT-1',
  'FIN-WAIT-2',
  'CLOSE-WAIT',
  'CLOSING',
  'LAST-ACK',
  'LAST-ACK',
] as const;

// Bits of `flags`.
/** Both sides have sent timestamps (RFC 7323 §3.2). */
export const TIMESTAMPS = 1 << 0;
export const SACK_PERMITTED = 1 << 1;
/** ECN was negotiated (RFC 3168 §6.1.1). */
export const ECN = 1 << 2;
/** CE was seen: ACKs carry ECE until the other side answers with CWR (RFC 3168 §6.1.3). */
export const ECN_ECHO = 1 << 3;
export const NO_DELAY = 1 << 4;
export const CORKED = 1 << 5;
/** The program wants no data now. */
export const PAUSED = 1 << 6;
/** The program sends no more: FIN goes out behind what is queued. */
export const FIN_QUEUED = 1 << 7;
/** FIN has been sent at least once: SND.NXT counts it. */
export const FIN_SENT = 1 << 8;
/** The other side's FIN is in order: RCV.NXT counts it. */
export const FIN_RECEIVED = 1 << 9;
/** onEnd was called. */
export const END_TOLD = 1 << 10;
/** The program has closed it: nobody to call back. */
export const ORPHAN = 1 << 11;
/** An ACK is to be sent with the next output, whatever else is. */
export const ACK_NOW = 1 << 12;
/** It stands in the list of those that have something to send. */
export const DIRTY = 1 << 13;
/** The program was told to wait (write gave false). */
export const WANTS_WRITABLE = 1 << 14;
/** SYN-RECEIVED came from SYN-SENT: by simultaneous open, not from a listener. */
export const ACTIVE_OPEN = 1 << 15;
/** The program knows of it: onAccept or connect. */
export const KNOWN = 1 << 16;
/** SYN or SYN-ACK were sent again: their round trip says nothing, and the window starts small (RFC 5681 §3.1). */
export const SYN_RETRANSMITTED = 1 << 17;
/** The SYN carried data that was taken (RFC 7413). */
export const FAST_OPENED = 1 << 18;
/** ECN is asked for or taken. */
export const ECN_WANTED = 1 << 19;
/** Keepalive probes are wanted. */
export const KEEP_ALIVE = 1 << 21;
/** DRAINING goes on to TIME-WAIT. */
export const TIME_WAIT_NEXT = 1 << 22;
/** The SYN carries a TFO cookie, or the wish for one (RFC 7413). */
export const FAST_OPEN = 1 << 23;

/** It came by a SYN cookie: its timestamps count from 0. */
export const BY_COOKIE = 1 << 24;

/** {@link Connections.allocate}: the table is full. */
export const NO_CONNECTION = -1;
/** {@link Connections.transfer}: none. */
export const NO_TRANSFER = 0;

export class Connections {
  readonly capacity: number;
  /** Rows in use. */
  count = 0;

  readonly state: Uint8Array;
  readonly flags: Uint32Array;
  // Who with whom: an address of ours, an entry of the destination cache, ports.
  readonly local: Uint16Array;
  readonly remote: Uint32Array;
  readonly localPort: Uint16Array;
  readonly remotePort: Uint16Array;

  // RFC 9293 §3.3.1. ISS and IRS are not needed once SYN is acknowledged.
  readonly sndUna: Uint32Array;
  readonly sndNxt: Uint32Array;
  /** SND.WND, scaled. */
  readonly sndWnd: Uint32Array;
  readonly sndWl1: Uint32Array;
  readonly sndWl2: Uint32Array;
  /** MAX.SND.WND: the largest window that the other side has offered (RFC 5961 §5, RFC 9293 §3.8.6.2.1). */
  readonly maxSndWnd: Uint32Array;
  readonly rcvNxt: Uint32Array;
  /** RCV.NXT + RCV.WND as it was advertised last: the right edge, which never moves back. */
  readonly rcvEdge: Uint32Array;
  /** RCV.NXT of the last ACK that was sent: Last.ACK.sent of RFC 7323 §4.3. */
  readonly lastAckSent: Uint32Array;
  readonly sndScale: Uint8Array;
  readonly rcvScale: Uint8Array;
  /** Bytes of a segment that we send, with its options, without the header (RFC 9293 §3.7.1, RFC 6691). */
  readonly mss: Uint16Array;

  // RFC 7323.
  readonly tsRecent: Uint32Array;
  /** When TS.Recent was taken, in seconds. */
  readonly tsRecentAge: Uint32Array;
  readonly tsOffset: Uint32Array;

  // What outlives a Transfer: round trip in µs, window in bytes.
  readonly srtt: Uint32Array;
  readonly rttvar: Uint32Array;
  readonly minRtt: Uint32Array;
  readonly cwnd: Uint32Array;
  readonly ssthresh: Uint32Array;

  /** When something last came, in ms; in SYN-SENT and SYN-RECEIVED when the SYN was sent first. */
  readonly lastHeard: Uint32Array;
  /** When something last went, in ms: for the restart window (RFC 5681 §4.1). */
  readonly lastSent: Uint32Array;
  /** SYN retransmissions, or keepalive probes, without an answer. */
  readonly tries: Uint8Array;
  readonly bytesSent: Float64Array;
  readonly bytesReceived: Float64Array;
  /** Number of the settings (`settings.ts`), of the program's handler, of the Transfer. */
  readonly settings: Uint16Array;
  readonly handler: Uint32Array;
  readonly transfer: Uint32Array;

  /** Rows that were never used begin here. */
  #fresh = 0;
  #free: Uint32Array = new Uint32Array(64);
  #freeCount = 0;
  #freed: number[] = [];

  /** @param capacity connections at the most */
  constructor(capacity: number) {
    this.capacity = capacity;
    const words = (): Uint32Array => new Uint32Array(capacity);
    this.state = new Uint8Array(capacity);
    this.flags = words();
    this.local = new Uint16Array(capacity);
    this.remote = words();
    this.localPort = new Uint16Array(capacity);
    this.remotePort = new Uint16Array(capacity);
    this.sndUna = words();
    this.sndNxt = words();
    this.sndWnd = words();
    this.sndWl1 = words();
    this.sndWl2 = words();
    this.maxSndWnd = words();
    this.rcvNxt = words();
    this.rcvEdge = words();
    this.lastAckSent = words();
    this.sndScale = new Uint8Array(capacity);
    this.rcvScale = new Uint8Array(capacity);
    this.mss = new Uint16Array(capacity);
    this.tsRecent = words();
    this.tsRecentAge = words();
    this.tsOffset = words();
    this.srtt = words();
    this.rttvar = words();
    this.minRtt = words();
    this.cwnd = words();
    this.ssthresh = words();
    this.lastHeard = words();
    this.lastSent = words();
    this.tries = new Uint8Array(capacity);
    this.bytesSent = new Float64Array(capacity);
    this.bytesReceived = new Float64Array(capacity);
    this.settings = new Uint16Array(capacity);
    this.handler = words();
    this.transfer = words();
  }

  /** A row of zeros, or NO_CONNECTION. */
  allocate(): number {
    let c: number;
    if (this.#freeCount > 0) c = this.#free[--this.#freeCount]!;
    else if (this.#fresh < this.capacity) c = this.#fresh++;
    else return NO_CONNECTION;
    this.count++;
    this.flags[c] = 0;
    this.sndWnd[c] = 0;
    this.maxSndWnd[c] = 0;
    this.rcvNxt[c] = 0;
    this.rcvEdge[c] = 0;
    this.lastAckSent[c] = 0;
    this.sndScale[c] = 0;
    this.rcvScale[c] = 0;
    this.tsRecent[c] = 0;
    this.tsRecentAge[c] = 0;
    this.srtt[c] = 0;
    this.rttvar[c] = 0;
    this.minRtt[c] = 0;
    this.cwnd[c] = 0;
    this.ssthresh[c] = 0;
    this.tries[c] = 0;
    this.bytesSent[c] = 0;
    this.bytesReceived[c] = 0;
    this.transfer[c] = NO_TRANSFER;
    return c;
  }

  /** The row is free from now on, and serves again after {@link recycle}. */
  release(c: number): void {
    this.state[c] = CLOSED;
    this.count--;
    this.#freed.push(c);
  }

  /** Lets the rows serve again that were released before: when no call of a program is under way. */
  recycle(): void {
    if (this.#freed.length === 0) return;
    for (const c of this.#freed) {
      if (this.#freeCount === this.#free.length) {
        const more = new Uint32Array(2 * this.#freeCount);
        more.set(this.#free);
        this.#free = more;
      }
      this.#free[this.#freeCount++] = c;
    }
    this.#freed.length = 0;
  }

  /** Whether `c` is a row in use. */
  has(c: number): boolean {
    return c >= 0 && c < this.#fresh && this.state[c] !== CLOSED;
  }

  hasFlag(c: number, flag: number): boolean {
    return (this.flags[c]! & flag) !== 0;
  }

  setFlag(c: number, flag: number): void {
    this.flags[c] = this.flags[c]! | flag;
  }

  clearFlag(c: number, flag: number): void {
    this.flags[c] = this.flags[c]! & ~flag;
  }

  /** All rows in use. */
  forEach(visit: (c: number) => void): void {
    for (let c = 0; c < this.#fresh; c++) if (this.state[c] !== CLOSED) visit(c);
  }
}
