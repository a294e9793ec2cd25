/**
 * What is in flight: a record for each segment, in the order of their numbers, in a ring of columns.
 *
 *     first                                       end
 *       | acked ▓ | SACKED | LOST | in flight | … |          positions only grow; slot = position & mask
 *
 * Those in flight (neither SACKED nor LOST) are also linked by the time of their last transmission, the oldest first: so RACK
 * looks at those alone that it may have to (RFC 8985 §6.2). Hot: allocates only when it has to grow.
 */
import type { Time } from '../../network.ts';
import { atOrAfter, before, distance } from '../sequence.ts';

export const SACKED = 1;
/** To be sent again. */
export const LOST = 2;
/** Sent more than once. */
export const AGAIN = 4;
/** Sent when the program had no more to send (delivery rate estimation). */
export const APP_LIMITED = 8;

/** No record. */
export const NONE = -1;
const FIRST_CAPACITY = 16;

export class Records {
  /** Positions of the first record and behind the last. */
  first = 0;
  end = 0;
  seq = new Uint32Array(FIRST_CAPACITY);
  length = new Uint32Array(FIRST_CAPACITY);
  flags = new Uint8Array(FIRST_CAPACITY);
  sentAt = new Float64Array(FIRST_CAPACITY);
  /** Delivered bytes and times when it was sent: see `delivery-rate.ts`. */
  delivered = new Float64Array(FIRST_CAPACITY);
  deliveredAt = new Float64Array(FIRST_CAPACITY);
  firstSentAt = new Float64Array(FIRST_CAPACITY);
  #older = new Float64Array(FIRST_CAPACITY);
  #newer = new Float64Array(FIRST_CAPACITY);
  #mask = FIRST_CAPACITY - 1;
  /** The record in flight that was sent first, and the one sent last. */
  oldest = NONE;
  #newest = NONE;
  /** Bytes by state. */
  sackedBytes = 0;
  lostBytes = 0;
  bytes = 0;

  clear(): void {
    this.first = 0;
    this.end = 0;
    this.oldest = NONE;
    this.#newest = NONE;
    this.sackedBytes = 0;
    this.lostBytes = 0;
    this.bytes = 0;
  }

  get count(): number {
    return this.end - this.first;
  }

  /** Bytes that are on their way: RFC 6675 calls it the pipe. */
  get inFlight(): number {
    return this.bytes - this.sackedBytes - this.lostBytes;
  }

  slot(position: number): number {
    return position & this.#mask;
  }

  has(position: number, flag: number): boolean {
    return (this.flags[position & this.#mask]! & flag) !== 0;
  }

  /** A segment was sent for the first time. Gives its position. */
  push(seq: number, length: number, now: Time): number {
    if (this.count === this.#mask + 1) this.#grow();
    const position = this.end++;
    const slot = position & this.#mask;
    this.seq[slot] = seq;
    this.length[slot] = length;
    this.flags[slot] = 0;
    this.sentAt[slot] = now;
    this.bytes += length;
    this.#append(position);
    return position;
  }

  /** The first record has arrived: it is no record any more. */
  shift(): void {
    const position = this.first++;
    const slot = position & this.#mask;
    const length = this.length[slot]!;
    this.bytes -= length;
    const flags = this.flags[slot]!;
    if ((flags & SACKED) !== 0) this.sackedBytes -= length;
    else if ((flags & LOST) !== 0) this.lostBytes -= length;
    else this.#unlink(position);
  }

  /** The first `bytes` of the first record have arrived. */
  trim(bytes: number): void {
    const slot = this.first & this.#mask;
    this.seq[slot] = (this.seq[slot]! + bytes) >>> 0;
    this.length[slot] = this.length[slot]! - bytes;
    this.bytes -= bytes;
    const flags = this.flags[slot]!;
    if ((flags & SACKED) !== 0) this.sackedBytes -= bytes;
    else if ((flags & LOST) !== 0) this.lostBytes -= bytes;
  }

  markSacked(position: number): void {
    const slot = position & this.#mask;
    const flags = this.flags[slot]!;
    const length = this.length[slot]!;
    if ((flags & LOST) !== 0) this.lostBytes -= length;
    else this.#unlink(position);
    this.flags[slot] = (flags & ~LOST) | SACKED;
    this.sackedBytes += length;
  }

  markLost(position: number): void {
    const slot = position & this.#mask;
    this.flags[slot] = this.flags[slot]! | LOST;
    this.lostBytes += this.length[slot]!;
    this.#unlink(position);
  }

  /** It is on its way again. */
  markSentAgain(position: number, now: Time): void {
    const slot = position & this.#mask;
    const flags = this.flags[slot]!;
    if ((flags & LOST) !== 0) this.lostBytes -= this.length[slot]!;
    else if ((flags & SACKED) === 0) this.#unlink(position);
    else return;
    this.flags[slot] = (flags & ~LOST) | AGAIN;
    this.sentAt[slot] = now;
    this.#append(position);
  }

  /** It was not lost after all: as it was before. */
  markNotLost(position: number): void {
    const slot = position & this.#mask;
    this.flags[slot] = this.flags[slot]! & ~LOST;
    this.lostBytes -= this.length[slot]!;
    this.#append(position);
  }

  /** SACK was taken back (RFC 2018 §8): it is lost like the others. */
  forgetSack(position: number): void {
    const slot = position & this.#mask;
    this.flags[slot] = (this.flags[slot]! & ~SACKED) | LOST;
    this.sackedBytes -= this.length[slot]!;
    this.lostBytes += this.length[slot]!;
  }

  /** The record in flight that was sent next after this one. */
  newer(position: number): number {
    return this.#newer[position & this.#mask]!;
  }

  /** The first record that begins at `seq` or behind. */
  find(seq: number): number {
    let low = this.first;
    let high = this.end;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (before(this.seq[middle & this.#mask]!, seq)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Whether the record's last number is before `seq`. */
  endsBy(position: number, seq: number): boolean {
    const slot = position & this.#mask;
    return atOrAfter(seq, (this.seq[slot]! + this.length[slot]!) >>> 0);
  }

  /** Cuts all records to `most` bytes: what is sent again must be smaller now. */
  recut(most: number): void {
    const all: { seq: number; length: number; flags: number; sentAt: number; slot: number }[] = [];
    for (let position = this.first; position < this.end; position++) {
      const slot = position & this.#mask;
      all.push({
        seq: this.seq[slot]!,
        length: this.length[slot]!,
        flags: this.flags[slot]!,
        sentAt: this.sentAt[slot]!,
        slot,
      });
    }
    const stamps = all.map(({ slot }) => [this.delivered[slot]!, this.deliveredAt[slot]!, this.firstSentAt[slot]!]);
    this.clear();
    for (const [i, { seq, length, flags, sentAt }] of all.entries()) {
      for (let done = 0; done < length; done += most) {
        const here = Math.min(most, length - done);
        const position = this.push((seq + done) >>> 0, here, sentAt);
        const slot = this.slot(position);
        [this.delivered[slot], this.deliveredAt[slot], this.firstSentAt[slot]] = stamps[i] as [number, number, number];
        this.flags[slot] = flags & ~(SACKED | LOST);
        if ((flags & SACKED) !== 0) this.markSacked(position);
        else if ((flags & LOST) !== 0) this.markLost(position);
      }
    }
  }

  /** Throws where the sums are not what the records say: for tests. */
  check(): void {
    let sacked = 0;
    let lost = 0;
    let bytes = 0;
    for (let position = this.first; position < this.end; position++) {
      const slot = position & this.#mask;
      if ((this.flags[slot]! & SACKED) !== 0) sacked += this.length[slot]!;
      else if ((this.flags[slot]! & LOST) !== 0) lost += this.length[slot]!;
      bytes += this.length[slot]!;
      const next = (position + 1) & this.#mask;
      if (position + 1 < this.end && distance(this.seq[next]!, this.seq[slot]!) !== this.length[slot]) {
        throw new Error(`records are not contiguous at position ${position}`);
      }
    }
    if (sacked !== this.sackedBytes || lost !== this.lostBytes || bytes !== this.bytes) {
      throw new Error(`sums ${this.sackedBytes} ${this.lostBytes} ${this.bytes} are ${sacked} ${lost} ${bytes}`);
    }
    let linked = 0;
    for (let position = this.oldest; position !== NONE; position = this.newer(position)) {
      linked += this.length[this.slot(position)]!;
    }
    if (linked !== this.inFlight) throw new Error(`${linked} bytes are linked, ${this.inFlight} are in flight`);
  }

  #append(position: number): void {
    const slot = position & this.#mask;
    this.#older[slot] = this.#newest;
    this.#newer[slot] = NONE;
    if (this.#newest === NONE) this.oldest = position;
    else this.#newer[this.#newest & this.#mask] = position;
    this.#newest = position;
  }

  #unlink(position: number): void {
    const slot = position & this.#mask;
    const older = this.#older[slot]!;
    const newer = this.#newer[slot]!;
    if (older === NONE) this.oldest = newer;
    else this.#newer[older & this.#mask] = newer;
    if (newer === NONE) this.#newest = older;
    else this.#older[newer & this.#mask] = older;
  }

  #grow(): void {
    const capacity = 2 * (this.#mask + 1);
    const mask = capacity - 1;
    const moveTo = <Column extends Uint8Array | Uint32Array | Float64Array>(from: Column, to: Column): Column => {
      for (let position = this.first; position < this.end; position++) {
        to[position & mask] = from[position & this.#mask]!;
      }
      return to;
    };
    this.seq = moveTo(this.seq, new Uint32Array(capacity));
    this.length = moveTo(this.length, new Uint32Array(capacity));
    this.flags = moveTo(this.flags, new Uint8Array(capacity));
    this.sentAt = moveTo(this.sentAt, new Float64Array(capacity));
    this.delivered = moveTo(this.delivered, new Float64Array(capacity));
    this.deliveredAt = moveTo(this.deliveredAt, new Float64Array(capacity));
    this.firstSentAt = moveTo(this.firstSentAt, new Float64Array(capacity));
    this.#older = moveTo(this.#older, new Float64Array(capacity));
    this.#newer = moveTo(this.#newer, new Float64Array(capacity));
    this.#mask = mask;
  }
}
