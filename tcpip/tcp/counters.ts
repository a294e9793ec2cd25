/** What a stack's TCP counts, ever. Named as in the MIB (RFC 4022) and in Linux's `nstat`, where they have a name there. */
export interface TcpCounters {
  activeOpens: number;
  passiveOpens: number;
  /** Opens that came to nothing. */
  attemptFails: number;
  /** Established connections that were reset. */
  estabResets: number;
  inSegs: number;
  outSegs: number;
  retransSegs: number;
  /** No segment, or a wrong checksum. */
  inErrs: number;
  inCsumErrors: number;
  outRsts: number;
  /** SYNs that found the backlog full, and got a cookie. */
  syncookiesSent: number;
  syncookiesRecv: number;
  syncookiesFailed: number;
  listenDrops: number;
  /** Segments that PAWS dropped (RFC 7323 §5). */
  pawsDropped: number;
  /** Segments without the timestamps that were agreed on. */
  noTimestamps: number;
  challengeAcks: number;
  /** Challenge ACKs that the rate limit withheld. */
  challengeAcksWithheld: number;
  outOfWindow: number;
  outOfOrder: number;
  /** In the window, but there was no memory for it. */
  receiveDrops: number;
  timeouts: number;
  keepAliveProbes: number;
  zeroWindowProbes: number;
  timeWaits: number;
  /** New connections that took a 4-tuple over from TIME-WAIT (RFC 6191). */
  timeWaitsReused: number;
  fastOpenActive: number;
  fastOpenPassive: number;
  tableFull: number;
}

export function newTcpCounters(): TcpCounters {
  return {
    activeOpens: 0,
    passiveOpens: 0,
    attemptFails: 0,
    estabResets: 0,
    inSegs: 0,
    outSegs: 0,
    retransSegs: 0,
    inErrs: 0,
    inCsumErrors: 0,
    outRsts: 0,
    syncookiesSent: 0,
    syncookiesRecv: 0,
    syncookiesFailed: 0,
    listenDrops: 0,
    pawsDropped: 0,
    noTimestamps: 0,
    challengeAcks: 0,
    challengeAcksWithheld: 0,
    outOfWindow: 0,
    outOfOrder: 0,
    receiveDrops: 0,
    timeouts: 0,
    keepAliveProbes: 0,
    zeroWindowProbes: 0,
    timeWaits: 0,
    timeWaitsReused: 0,
    fastOpenActive: 0,
    fastOpenPassive: 0,
    tableFull: 0,
  };
}
