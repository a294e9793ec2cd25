/** HyStart++ (RFC 9406): slow start ends when round trips grow, and carefully. */
import { atOrAfter } from '../sequence.ts';
import type { Delivery, Window } from './congestion-control.ts';

// RFC 9406 §4.3. Times in µs.
const MIN_RTT_THRESH = 4000;
const MAX_RTT_THRESH = 16_000;
const MIN_RTT_DIVISOR = 8;
const N_RTT_SAMPLE = 8;
const CSS_GROWTH_DIVISOR = 4;
const CSS_ROUNDS = 5;
/** L, for senders that do not pace. */
const LIMIT = 8;
const NO_RTT = Number.POSITIVE_INFINITY;

export class HyStart {
  #lastRoundMin = NO_RTT;
  #currentRoundMin = NO_RTT;
  #samples = 0;
  #windowEnd = 0;
  #hasRound = false;
  /** In conservative slow start. */
  #isConservative = false;
  #baseline = NO_RTT;
  #rounds = 0;

  reset(): void {
    this.#lastRoundMin = NO_RTT;
    this.#currentRoundMin = NO_RTT;
    this.#samples = 0;
    this.#hasRound = false;
    this.#isConservative = false;
    this.#baseline = NO_RTT;
    this.#rounds = 0;
  }

  /** An ACK in slow start: grows cwnd. Leaves slow start by setting ssthresh. */
  delivered(window: Window, { bytes, una, nxt, rtt }: Delivery): void {
    if (!this.#hasRound || atOrAfter(una, this.#windowEnd)) this.#beginRound(window, nxt);
    const step = Math.min(bytes, LIMIT * window.mss);
    window.cwnd += this.#isConservative ? Math.floor(step / CSS_GROWTH_DIVISOR) : step;
    if (rtt < 0) return;
    this.#currentRoundMin = Math.min(this.#currentRoundMin, rtt);
    this.#samples++;
    if (this.#samples < N_RTT_SAMPLE) return;
    if (this.#isConservative) {
      // It was a jitter, no queue.
      if (this.#currentRoundMin < this.#baseline) {
        this.#isConservative = false;
        this.#baseline = NO_RTT;
      }
    } else if (this.#currentRoundMin !== NO_RTT && this.#lastRoundMin !== NO_RTT) {
      const eighth = this.#lastRoundMin / MIN_RTT_DIVISOR;
      const threshold = Math.max(MIN_RTT_THRESH, Math.min(eighth, MAX_RTT_THRESH));
      if (this.#currentRoundMin >= this.#lastRoundMin + threshold) {
        this.#baseline = this.#currentRoundMin;
        this.#isConservative = true;
        this.#rounds = 0;
      }
    }
  }

  #beginRound(window: Window, nxt: number): void {
    this.#hasRound = true;
    this.#windowEnd = nxt;
    this.#lastRoundMin = this.#currentRoundMin;
    this.#currentRoundMin = NO_RTT;
    this.#samples = 0;
    if (this.#isConservative && ++this.#rounds > CSS_ROUNDS) window.ssthresh = window.cwnd;
  }
}
