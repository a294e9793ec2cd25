/**
 * How long a lane polls on without work before it sleeps: as KVM's halt polling finds it out. A sleep that was over before a
 * longer wait would have been was a mistake, since waking up costs the frame more than the wait: the window doubles. A
 * longer sleep brings it back to where it began.
 *
 *     least ── short sleep ──► × 2 ── short sleep ──► … most           any long sleep ──► least
 */

/** The window begins at this part of the longest. */
const LEAST_PART = 8;

export class SpinWindow {
  /** The window now, in the unit of `most`. */
  length: number;
  readonly #most: number;

  /** @param most the longest window; 0: never wait */
  constructor(most: number) {
    this.#most = most;
    this.length = most / LEAST_PART;
  }

  /** Whether sleeps have been too short lately: somebody is busy with the lane. */
  get hasGrown(): boolean {
    return this.length > this.#most / LEAST_PART;
  }

  /** A sleep is over that lasted so long. */
  slept(duration: number): void {
    this.length = duration < this.#most ? Math.min(2 * this.length, this.#most) : this.#most / LEAST_PART;
  }
}
