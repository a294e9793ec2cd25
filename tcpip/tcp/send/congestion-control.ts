/**
 * How much may be in flight: what the congestion controls have in common. The Sender finds out what was delivered and what
 * was lost; the control turns that into a window, and perhaps a rate.
 */
import type { Time } from '../../network.ts';

/** RFC 6928 §2. */
export function initialWindow(mss: number): number {
  return Math.min(10 * mss, Math.max(2 * mss, 14_600));
}

/** The window that Sender and control share. In bytes. */
export interface Window {
  mss: number;
  cwnd: number;
  ssthresh: number;
}

/** One ACK, as a control sees it. */
export interface Delivery {
  /** Bytes that were acknowledged, or selectively, by it for the first time. */
  bytes: number;
  /** Bytes delivered since the connection's Sender began, and bytes delivered when the newest of these was sent. */
  delivered: number;
  priorDelivered: number;
  /** Bytes in flight before and after it. */
  priorInFlight: number;
  inFlight: number;
  /** Round trip of the newest of them in µs, or -1. */
  rtt: number;
  srtt: number;
  minRtt: number;
  /** Bytes per second, or 0 when it says nothing; and whether the program had nothing more to send then. */
  rate: number;
  isAppLimited: boolean;
  /** The window was in full use: it may grow (RFC 7661). */
  isWindowLimited: boolean;
  /** Bytes found lost with it. */
  lost: number;
  /** Loss is being repaired: the Sender governs the window (PRR), unless the control does. */
  inRecovery: boolean;
  /** SND.UNA and SND.NXT, for rounds. */
  una: number;
  nxt: number;
}

export interface CongestionControl {
  readonly name: string;
  /** Whether it sets cwnd by itself also while loss is repaired. */
  readonly governsRecovery: boolean;
  /** Bytes per second to send with, or 0: as the window allows. */
  readonly pacingRate: number;
  reset(window: Window, now: Time): void;
  /** Something was delivered. */
  delivered(window: Window, delivery: Delivery, now: Time): void;
  /** Loss, or ECN's mark, once a round: sets ssthresh. */
  congested(window: Window, inFlight: number, now: Time): void;
  /** The retransmission timer ran out: ssthresh was set by {@link congested}, cwnd is the Sender's. */
  timedOut(window: Window, now: Time): void;
  /** It was no congestion: the Sender has put cwnd and ssthresh back. */
  undone(window: Window, now: Time): void;
  /** Nothing was sent for longer than the time-out. */
  idled(window: Window, now: Time): void;
}
