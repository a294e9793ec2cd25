/** Round trips and the time-out that follows from them: RFC 6298, and the least of the last minutes. In µs. */
import type { Time } from '../../network.ts';

export const INITIAL_RTO = 1_000_000;
/** RFC 6298 §2.4 says a second; all systems take less, Linux this. */
export const MIN_RTO = 200_000;
export const MAX_RTO = 120_000_000;
/** G of RFC 6298 §2.3: the timer wheel's tick. */
const GRANULARITY = 1000;
/** A path may have become longer: the least round trip counts so long. */
const MIN_RTT_LIFETIME = 300_000_000;

export class RttEstimator {
  /** 0 while there is no sample. */
  srtt = 0;
  rttvar = 0;
  minRtt = 0;
  latest = 0;
  #minRttAt: Time = 0;

  reset(srtt: number, rttvar: number, minRtt: number, now: Time): void {
    this.srtt = srtt;
    this.rttvar = rttvar;
    this.minRtt = minRtt;
    this.latest = srtt;
    this.#minRttAt = now;
  }

  sample(rtt: number, now: Time): void {
    const measured = Math.max(1, rtt);
    this.latest = measured;
    if (this.srtt === 0) {
      this.srtt = measured;
      this.rttvar = measured / 2;
    } else {
      // §2.3: beta 1/4, alpha 1/8.
      this.rttvar += (Math.abs(this.srtt - measured) - this.rttvar) / 4;
      this.srtt += (measured - this.srtt) / 8;
    }
    if (this.minRtt === 0 || measured <= this.minRtt || now - this.#minRttAt > MIN_RTT_LIFETIME) {
      this.minRtt = measured;
      this.#minRttAt = now;
    }
  }

  /** The time-out without any backing off. */
  get rto(): number {
    if (this.srtt === 0) return INITIAL_RTO;
    return Math.min(MAX_RTO, Math.max(MIN_RTO, Math.ceil(this.srtt + Math.max(GRANULARITY, 4 * this.rttvar))));
  }
}
