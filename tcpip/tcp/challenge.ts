/**
 * The rate limit of challenge ACKs (RFC 5961 §7): so many a second for the whole stack, and how many exactly changes by
 * chance every second. Otherwise whoever can count them learns about connections of others (CVE-2016-5696).
 */
import { MICROSECONDS_PER_SECOND, type Random, type Time } from '../network.ts';

const CHALLENGES_PER_SECOND = 1000;

export class ChallengeLimit {
  readonly #random: Random;
  #second = -1;
  #left = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  /** Whether one may be sent now. */
  allows(now: Time): boolean {
    const second = Math.floor(now / MICROSECONDS_PER_SECOND);
    if (second !== this.#second) {
      this.#second = second;
      const half = CHALLENGES_PER_SECOND >>> 1;
      this.#left = half + (this.#random() % CHALLENGES_PER_SECOND);
    }
    if (this.#left === 0) return false;
    this.#left--;
    return true;
  }
}
