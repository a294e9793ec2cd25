/**
 * Deadlines of all connections: a hierarchical timer wheel (Varghese and Lauck 1987), one deadline a connection.
 *
 *     level 0   256 slots of 1 ms        ─┐  a slot is a list of connections, linked by their numbers;
 *     level 1   256 slots of 256 ms       │  when a wheel has gone round, the next slot of the one above
 *     level 2   256 slots of 65 s         │  is spread over it
 *     level 3   256 slots of 4.6 h       ─┘
 *
 * Setting and cancelling cost the same however many there are. Nothing fires early, and nothing is later than a tick.
 * 13 bytes a connection, in memory that costs nothing before it is used. Hot: allocates nothing.
 */
import { NEVER, type Time } from '../network.ts';

const TICK = 1000;
const LEVELS = 4;
const SLOT_BITS = 8;
const SLOTS = 1 << SLOT_BITS;
const SLOT_MASK = SLOTS - 1;
/** In `prev`: the first of a slot's list; the slot's number is in the other bits. */
const FIRST = 0x8000_0000;
/** Further deadlines are looked at again when this has passed. */
const HORIZON = 2 ** 32 - 2 ** 24;

export class TimerWheel {
  /** Connections in the wheel. */
  count = 0;
  /** List heads by level and slot, and links: numbers plus 1, so that 0 is nobody. */
  readonly #heads = new Uint32Array(LEVELS * SLOTS);
  readonly #next: Uint32Array;
  readonly #prev: Uint32Array;
  /** Ticks modulo 2^32. */
  readonly #ticks: Uint32Array;
  readonly #levels: Uint8Array;
  readonly #levelCounts = new Uint32Array(LEVELS);
  /** The tick that was looked at last. */
  #current = 0;
  /** No deadline comes before this tick. */
  #earliest = Number.POSITIVE_INFINITY;

  /** @param capacity connections are 0 … capacity - 1 */
  constructor(capacity: number) {
    this.#next = new Uint32Array(capacity);
    this.#prev = new Uint32Array(capacity);
    this.#ticks = new Uint32Array(capacity);
    this.#levels = new Uint8Array(capacity);
  }

  /** Not later than the first deadline; perhaps earlier. NEVER when there is none. */
  get deadline(): Time {
    return this.count === 0 ? NEVER : this.#earliest * TICK;
  }

  isPending(index: number): boolean {
    return this.#prev[index] !== 0;
  }

  /** Sets the deadline, in µs, in place of any other. One that has passed comes with the next tick. */
  schedule(index: number, deadline: Time): void {
    let tick = Math.ceil(deadline / TICK);
    if (tick <= this.#current) tick = this.#current + 1;
    else if (tick - this.#current > HORIZON) tick = this.#current + HORIZON;
    if (this.#prev[index] !== 0) {
      if (this.#ticks[index] === tick >>> 0) return;
      this.#unlink(index);
    } else this.count++;
    this.#link(index, tick >>> 0);
    if (tick < this.#earliest) this.#earliest = tick;
  }

  cancel(index: number): void {
    if (this.#prev[index] === 0) return;
    this.#unlink(index);
    this.count--;
  }

  /** Time is `now`: calls `expire` for every connection whose deadline has come. It may schedule and cancel what it likes. */
  advance(now: Time, expire: (index: number) => void): void {
    const last = Math.floor(now / TICK);
    while (this.#current < last) {
      if (this.count === 0) {
        this.#current = last;
        break;
      }
      this.#current = Math.min(this.#nextBusy(), last);
      this.#cascade();
      const slot = this.#current & SLOT_MASK;
      while (this.#heads[slot] !== 0) {
        const index = this.#heads[slot]! - 1;
        this.#unlink(index);
        this.count--;
        expire(index);
      }
    }
    this.#earliest = this.count === 0 ? Number.POSITIVE_INFINITY : this.#nextBusy();
  }

  /** The next tick at which there may be something to do: a deadline, or a slot of a higher level to spread. */
  #nextBusy(): number {
    const from = this.#current + 1;
    if (this.#levelCounts[0]! > 0) {
      for (let tick = from; ; tick++) {
        if ((tick & SLOT_MASK) === 0 && tick !== this.#current) return tick;
        if (this.#heads[tick & SLOT_MASK] !== 0) return tick;
      }
    }
    let span = SLOTS;
    for (let level = 1; level < LEVELS; level++) {
      if (this.#levelCounts[level]! > 0) return (Math.floor(this.#current / span) + 1) * span;
      span *= SLOTS;
    }
    return from;
  }

  /** Where wheels have gone round, spreads the slots above that begin now. */
  #cascade(): void {
    let span = SLOTS;
    for (let level = 1; level < LEVELS && this.#current % span === 0; level++, span *= SLOTS) {
      const slot = level * SLOTS + (Math.floor(this.#current / span) & SLOT_MASK);
      let index = this.#heads[slot]!;
      this.#heads[slot] = 0;
      while (index !== 0) {
        const next = this.#next[index - 1]!;
        this.#levelCounts[level]!--;
        this.#link(index - 1, this.#ticks[index - 1]!);
        index = next;
      }
    }
  }

  #link(index: number, tick: number): void {
    const ahead = (tick - (this.#current >>> 0)) >>> 0;
    let level = 0;
    while (level < LEVELS - 1 && ahead >>> (SLOT_BITS * (level + 1)) !== 0) level++;
    const slot = level * SLOTS + ((tick >>> (SLOT_BITS * level)) & SLOT_MASK);
    const head = this.#heads[slot]!;
    this.#ticks[index] = tick;
    this.#next[index] = head;
    this.#prev[index] = (FIRST | slot) >>> 0;
    if (head !== 0) this.#prev[head - 1] = index + 1;
    this.#heads[slot] = index + 1;
    this.#levels[index] = level;
    this.#levelCounts[level]!++;
  }

  #unlink(index: number): void {
    const next = this.#next[index]!;
    const prev = this.#prev[index]!;
    if (next !== 0) this.#prev[next - 1] = prev;
    if (prev >= FIRST) this.#heads[prev & ~FIRST] = next;
    else this.#next[prev - 1] = next;
    this.#levelCounts[this.#levels[index]!]!--;
    this.#prev[index] = 0;
  }
}
