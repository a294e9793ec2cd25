/** NewReno: RFC 5681, with appropriate byte counting (RFC 3465). */
import type { CongestionControl, Delivery, Window } from './congestion-control.ts';

/** L of RFC 3465 §2.2. */
const SLOW_START_LIMIT = 2;

export class NewReno implements CongestionControl {
  readonly name = 'newreno';
  readonly governsRecovery = false;
  readonly pacingRate = 0;
  /** Bytes acknowledged since cwnd grew last. */
  #counted = 0;

  reset(): void {
    this.#counted = 0;
  }

  delivered(window: Window, { bytes, inRecovery, isWindowLimited }: Delivery): void {
    if (inRecovery || !isWindowLimited) return;
    if (window.cwnd < window.ssthresh) {
      window.cwnd += Math.min(bytes, SLOW_START_LIMIT * window.mss);
      return;
    }
    this.#counted += bytes;
    while (this.#counted >= window.cwnd) {
      this.#counted -= window.cwnd;
      window.cwnd += window.mss;
    }
  }

  /** RFC 5681 equation 4. */
  congested(window: Window, inFlight: number): void {
    window.ssthresh = Math.max(Math.floor(inFlight / 2), 2 * window.mss);
    this.#counted = 0;
  }

  timedOut(): void {
    this.#counted = 0;
  }

  undone(): void {}

  idled(): void {
    this.#counted = 0;
  }
}
