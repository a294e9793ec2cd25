/** CUBIC (RFC 9438), with HyStart++ for its slow start. Windows are in segments inside, as the RFC has them. */
import { MICROSECONDS_PER_SECOND, type Time } from '../../network.ts';
import type { CongestionControl, Delivery, Window } from './congestion-control.ts';
import { HyStart } from './hystart.ts';

// RFC 9438 §4.1 and §4.6.
const C = 0.4;
const BETA = 0.7;
/** α_cubic of §4.3: as fast as Reno with this β. */
const ALPHA = (3 * (1 - BETA)) / (1 + BETA);
const NO_EPOCH = -1;
/** §4.2: the target is at most half a window ahead. */
const MAX_GROWTH = 1.5;

export class Cubic implements CongestionControl {
  readonly name = 'cubic';
  readonly governsRecovery = false;
  readonly pacingRate = 0;
  readonly #hystart = new HyStart();
  /** W_max, cwnd_prior, W_est: in segments. */
  #wMax = 0;
  #prior = 0;
  #estimate = 0;
  /** K, in seconds. */
  #k = 0;
  #epoch: Time = NO_EPOCH;
  /** Fractions of a byte that cwnd has not grown by yet. */
  #fraction = 0;
  /** W_max before the last reduction, should it be undone. */
  #undoWMax = 0;
  #undoPrior = 0;

  reset(): void {
    this.#hystart.reset();
    this.#wMax = 0;
    this.#prior = 0;
    this.#epoch = NO_EPOCH;
    this.#fraction = 0;
  }

  delivered(window: Window, delivery: Delivery, now: Time): void {
    if (delivery.inRecovery || !delivery.isWindowLimited) return;
    if (window.cwnd < window.ssthresh) {
      this.#hystart.delivered(window, delivery);
      return;
    }
    const { mss } = window;
    const cwnd = window.cwnd / mss;
    const acked = delivery.bytes / mss;
    if (this.#epoch === NO_EPOCH) this.#beginEpoch(cwnd, now);
    const t = (now - this.#epoch) / MICROSECONDS_PER_SECOND;
    const rtt = delivery.srtt / MICROSECONDS_PER_SECOND;
    // §4.3: what Reno would have; once it is back where it was, with its own pace.
    const alpha = this.#estimate >= this.#prior ? 1 : ALPHA;
    this.#estimate += (alpha * acked) / cwnd;
    let grown: number;
    if (this.#cubic(t) < this.#estimate) grown = Math.max(cwnd, this.#estimate);
    else {
      const target = Math.min(Math.max(this.#cubic(t + rtt), cwnd), MAX_GROWTH * cwnd);
      grown = cwnd + ((target - cwnd) / cwnd) * acked;
    }
    const bytes = (grown - cwnd) * mss + this.#fraction;
    const whole = Math.floor(bytes);
    this.#fraction = bytes - whole;
    window.cwnd += whole;
  }

  #beginEpoch(cwnd: number, now: Time): void {
    this.#epoch = now;
    if (this.#wMax < cwnd) {
      // §4.8: out of slow start without a loss, or beyond the last one.
      this.#wMax = cwnd;
      this.#k = 0;
    } else this.#k = Math.cbrt((this.#wMax - cwnd) / C);
    this.#estimate = cwnd;
    if (this.#prior === 0) this.#prior = cwnd;
  }

  /** W_cubic(t), §4.2. */
  #cubic(t: number): number {
    return C * (t - this.#k) ** 3 + this.#wMax;
  }

  /** §4.6 and §4.7: multiplicative decrease, and fast convergence. */
  congested(window: Window): void {
    const cwnd = window.cwnd / window.mss;
    this.#undoWMax = this.#wMax;
    this.#undoPrior = this.#prior;
    this.#wMax = cwnd < this.#wMax ? (cwnd * (1 + BETA)) / 2 : cwnd;
    this.#prior = cwnd;
    this.#epoch = NO_EPOCH;
    window.ssthresh = Math.max(Math.floor(window.cwnd * BETA), 2 * window.mss);
  }

  timedOut(): void {
    this.#epoch = NO_EPOCH;
    this.#hystart.reset();
  }

  /** §4.9.1. */
  undone(): void {
    this.#wMax = this.#undoWMax;
    this.#prior = this.#undoPrior;
    this.#epoch = NO_EPOCH;
  }

  /** §4.2: time without sending is no time in which the window grows. */
  idled(): void {
    this.#epoch = NO_EPOCH;
  }
}
