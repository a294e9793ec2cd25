/**
 * What a program wrote and the other side has not acknowledged: the program's own arrays, one behind the other, and copies
 * of small ones.
 *
 *     start = SND.UNA                     SND.NXT
 *       |  array  |   array       |  small ones copied  |
 *
 * Hot: `copyTo` remembers where it was, since segments follow one another.
 */
import { distance, plus } from './sequence.ts';

/** Smaller writes are copied together: a hundred of them make one array. */
const SMALL_BYTES = 2048;
const GATHERED_BYTES = 16_384;
/** Copies up to this length are loops: a subarray costs more. */
const LOOP_BYTES = 64;

export class SendBuffer {
  /** Number of the first byte. */
  start = 0;
  length = 0;
  #arrays: Uint8Array[] = [];
  /** Arrays before this one are acknowledged; of it, this many bytes. */
  #first = 0;
  #skipped = 0;
  /** The last array while it is our own and has room: bytes used of it. */
  #gathered = 0;
  #isGathering = false;
  /** Where the last copy ended: an array, and how many bytes from `start` it begins. */
  #at = 0;
  #atOffset = 0;

  reset(start: number): void {
    this.start = start;
    this.length = 0;
    this.#arrays.length = 0;
    this.#first = 0;
    this.#skipped = 0;
    this.#isGathering = false;
    this.#at = 0;
    this.#atOffset = 0;
  }

  /** Adds bytes at the end. Large arrays are kept as they are: nobody may write to them until they are acknowledged. */
  append(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.length += bytes.length;
    if (bytes.length >= SMALL_BYTES) {
      this.#closeGathering();
      this.#arrays.push(bytes);
      return;
    }
    if (this.#isGathering && this.#gathered + bytes.length > GATHERED_BYTES) this.#closeGathering();
    if (!this.#isGathering) {
      // The first small write alone needs no more than its own room.
      const isAlone = this.#arrays.length === this.#first;
      this.#arrays.push(new Uint8Array(isAlone ? Math.max(256, bytes.length) : GATHERED_BYTES));
      this.#gathered = 0;
      this.#isGathering = true;
    }
    let last = this.#arrays[this.#arrays.length - 1]!;
    if (this.#gathered + bytes.length > last.length) {
      const more = new Uint8Array(GATHERED_BYTES);
      more.set(last.subarray(0, this.#gathered));
      this.#arrays[this.#arrays.length - 1] = more;
      last = more;
    }
    last.set(bytes, this.#gathered);
    this.#gathered += bytes.length;
  }

  #closeGathering(): void {
    if (!this.#isGathering) return;
    const last = this.#arrays.length - 1;
    this.#arrays[last] = this.#arrays[last]!.subarray(0, this.#gathered);
    this.#isGathering = false;
  }

  /** Bytes of array `i`. */
  #sizeOf(i: number): number {
    return this.#isGathering && i === this.#arrays.length - 1 ? this.#gathered : this.#arrays[i]!.length;
  }

  /** Copies `length` bytes from number `seq` on to `target[at]`. The range lies in the buffer. */
  copyTo(seq: number, length: number, target: Uint8Array, at: number): void {
    let offset = distance(seq, this.start);
    if (offset < 0 || offset + length > this.length) {
      throw new RangeError(`${length} bytes at ${offset} of a send buffer of ${this.length}`);
    }
    let i = this.#at;
    let begins = this.#atOffset;
    if (i < this.#first || offset < begins || i >= this.#arrays.length) {
      i = this.#first;
      begins = -this.#skipped;
    }
    let left = length;
    let to = at;
    for (;;) {
      const size = this.#sizeOf(i);
      if (offset < begins + size) {
        const from = offset - begins;
        const here = Math.min(size - from, left);
        copy(this.#arrays[i]!, from, here, target, to);
        to += here;
        offset += here;
        left -= here;
        if (left === 0) break;
      }
      begins += size;
      i++;
    }
    this.#at = i;
    this.#atOffset = begins;
  }

  /** Everything before number `seq` has arrived; beyond the end (FIN) is the end. */
  acknowledge(seq: number): void {
    const bytes = Math.min(distance(seq, this.start), this.length);
    if (bytes <= 0) return;
    this.start = plus(this.start, bytes);
    this.length -= bytes;
    this.#atOffset -= bytes;
    let left = this.#skipped + bytes;
    while (this.#first < this.#arrays.length && left >= this.#sizeOf(this.#first)) {
      left -= this.#sizeOf(this.#first);
      if (this.#isGathering && this.#first === this.#arrays.length - 1) this.#isGathering = false;
      this.#arrays[this.#first] = NOTHING;
      this.#first++;
    }
    this.#skipped = left;
    if (this.length === 0) this.reset(this.start);
    else if (this.#first > 32 && 2 * this.#first > this.#arrays.length) {
      this.#arrays.splice(0, this.#first);
      this.#at -= this.#first;
      this.#first = 0;
    }
  }
}

const NOTHING = new Uint8Array(0);

function copy(from: Uint8Array, start: number, length: number, to: Uint8Array, at: number): void {
  if (length > LOOP_BYTES) to.set(from.subarray(start, start + length), at);
  else for (let i = 0; i < length; i++) to[at + i] = from[start + i]!;
}
