/**
 * Deadlines of things that have small whole numbers: a binary heap that knows where each of them stands.
 *
 *     set(id, time) … cancel(id)      first: the earliest time      due(now): an id whose time has come, taken out, or NONE
 *
 * Things with the same time come in any order. Allocates only when it grows.
 */
import { NEVER, type Time } from './network.ts';

/** {@link Deadlines.due}: none has come yet. */
export const NONE = -1;

export class Deadlines {
  #heap: Int32Array;
  /** Of each id: its place in the heap, or NONE. */
  #place: Int32Array;
  #times: Float64Array;
  #count = 0;

  /** @param capacity ids to begin with; more make it grow */
  constructor(capacity = 16) {
    this.#heap = new Int32Array(capacity);
    this.#place = new Int32Array(capacity).fill(NONE);
    this.#times = new Float64Array(capacity);
  }

  get count(): number {
    return this.#count;
  }

  /** The earliest of all, or NEVER. */
  get first(): Time {
    return this.#count === 0 ? NEVER : this.#times[this.#heap[0]!]!;
  }

  /** The time of an id, or NEVER. */
  of(id: number): Time {
    return id < this.#place.length && this.#place[id]! >= 0 ? this.#times[id]! : NEVER;
  }

  /** Sets the time of an id, anew if it has one; NEVER takes it out. */
  set(id: number, time: Time): void {
    if (time === NEVER) {
      this.cancel(id);
      return;
    }
    if (id >= this.#place.length) this.#grow(id + 1);
    let place = this.#place[id]!;
    this.#times[id] = time;
    if (place === NONE) {
      place = this.#count++;
      this.#heap[place] = id;
      this.#place[id] = place;
    }
    this.#down(this.#up(place));
  }

  cancel(id: number): void {
    const place = id < this.#place.length ? this.#place[id]! : NONE;
    if (place === NONE) return;
    this.#place[id] = NONE;
    const last = this.#heap[--this.#count]!;
    if (last === id) return;
    this.#heap[place] = last;
    this.#place[last] = place;
    this.#down(this.#up(place));
  }

  /** An id whose time is `now` or earlier, which has none from now on; or NONE. */
  due(now: Time): number {
    if (this.#count === 0) return NONE;
    const id = this.#heap[0]!;
    if (this.#times[id]! > now) return NONE;
    this.cancel(id);
    return id;
  }

  #up(from: number): number {
    const heap = this.#heap;
    const id = heap[from]!;
    const time = this.#times[id]!;
    let place = from;
    while (place > 0) {
      const parent = (place - 1) >> 1;
      const other = heap[parent]!;
      if (this.#times[other]! <= time) break;
      heap[place] = other;
      this.#place[other] = place;
      place = parent;
    }
    heap[place] = id;
    this.#place[id] = place;
    return place;
  }

  #down(from: number): void {
    const heap = this.#heap;
    const id = heap[from]!;
    const time = this.#times[id]!;
    let place = from;
    for (;;) {
      let child = 2 * place + 1;
      if (child >= this.#count) break;
      if (child + 1 < this.#count && this.#times[heap[child + 1]!]! < this.#times[heap[child]!]!) child++;
      const other = heap[child]!;
      if (this.#times[other]! >= time) break;
      heap[place] = other;
      this.#place[other] = place;
      place = child;
    }
    heap[place] = id;
    this.#place[id] = place;
  }

  #grow(least: number): void {
    const capacity = Math.max(least, 2 * this.#place.length);
    const heap = new Int32Array(capacity);
    heap.set(this.#heap);
    const place = new Int32Array(capacity).fill(NONE);
    place.set(this.#place);
    const times = new Float64Array(capacity);
    times.set(this.#times);
    this.#heap = heap;
    this.#place = place;
    this.#times = times;
  }
}
