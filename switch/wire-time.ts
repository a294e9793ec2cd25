/**
 * Until when a wire of limited rate is taken: one word of shared memory, since the queues of a network card, which share
 * their wire, may be of several lanes. All of them tell the time by the same clock.
 */
const NS_PER_MS = 1e6;
const MS_PER_NS = 1e-6;
const BUSY_UNTIL = 0;

/** Memory of a wire that nobody has used. */
export function newWireMemory(): SharedArrayBuffer {
  return new SharedArrayBuffer(BigInt64Array.BYTES_PER_ELEMENT);
}

export class WireTime {
  readonly #words: BigInt64Array<SharedArrayBuffer>;

  constructor(memory: SharedArrayBuffer = newWireMemory()) {
    this.#words = new BigInt64Array(memory);
  }

  /** Takes the wire for a time, from now on or when those before have left it. Gives when it is free again, in ms. */
  take(nowMs: number, durationMs: number): number {
    const words = this.#words;
    const now = BigInt(Math.round(nowMs * NS_PER_MS));
    const duration = BigInt(Math.round(durationMs * NS_PER_MS));
    for (;;) {
      const busyUntil = Atomics.load(words, BUSY_UNTIL);
      const end = (busyUntil > now ? busyUntil : now) + duration;
      if (Atomics.compareExchange(words, BUSY_UNTIL, busyUntil, end) === busyUntil) return Number(end) * MS_PER_NS;
    }
  }
}
