/**
 * What came and the program has not got: bytes in order that it does not want yet, and bytes beyond a hole.
 *
 *        held, in order                      out of order
 *     |  chunk  |  chunk  | RCV.NXT   hole   |  chunk   |  hole  |  chunk  |
 *
 * What came first counts where segments overlap. Everything is bounded by its memory, small pieces by what they really
 * cost; neighbours are put together. Also knows what SACK tells of it (RFC 2018 §4, RFC 2883).
 */
import { after, before, distance, plus } from './sequence.ts';

/** What a chunk costs beside its bytes. */
const CHUNK_COST = 128;
/** Chunks grow to this size when bytes follow bytes. */
const CHUNK_BYTES = 16_384;
/** SACK blocks in a segment at the most. */
const MAX_BLOCKS = 4;

interface Chunk {
  seq: number;
  length: number;
  bytes: Uint8Array;
}

export class ReceiveBuffer {
  /** Bytes in order that wait for the program. */
  held = 0;
  /** Bytes beyond holes. */
  outOfOrder = 0;
  /** What all of it costs. */
  memory = 0;
  readonly #held: Chunk[] = [];
  /** By number; none overlap. */
  readonly #later: Chunk[] = [];
  /** Where the ranges begin that grew last, the last one first. */
  readonly #recent: number[] = [];
  #hasDuplicate = false;
  #duplicateStart = 0;
  #duplicateEnd = 0;

  reset(): void {
    this.held = 0;
    this.outOfOrder = 0;
    this.memory = 0;
    this.#held.length = 0;
    this.#later.length = 0;
    this.#recent.length = 0;
    this.#hasDuplicate = false;
  }

  // ---- in order

  /** Keeps `bytes[start, end)`, which begin at RCV.NXT `seq`, until the program wants them. */
  hold(seq: number, bytes: Uint8Array, start: number, end: number): void {
    const last = this.#held.at(-1);
    this.held += end - start;
    if (last !== undefined && this.#extend(last, bytes, start, end)) return;
    this.#held.push(this.#newChunk(seq, bytes, start, end));
  }

  /** Gives the oldest bytes away: to `deliver`, which gets them once. */
  takeHeld(deliver: (bytes: Uint8Array, start: number, end: number) => void): void {
    const chunk = this.#held.shift();
    if (chunk === undefined) return;
    this.held -= chunk.length;
    this.memory -= cost(chunk);
    deliver(chunk.bytes, 0, chunk.length);
  }

  // ---- out of order

  /** Keeps `bytes[start, end)` from number `seq` on, which lies beyond RCV.NXT, as far as they are new. */
  insert(seq: number, bytes: Uint8Array, start: number, end: number): void {
    const chunks = this.#later;
    let at = this.#place(seq);
    let from = seq;
    const last = plus(seq, end - start);
    const isKnown = (i: number): boolean => i >= 0 && i < chunks.length;
    // What begins before may reach into it.
    if (isKnown(at - 1)) {
      const reach = endOf(chunks[at - 1]!);
      if (after(reach, from)) {
        this.noteDuplicate(from, before(reach, last) ? reach : last);
        from = reach;
      }
    }
    while (before(from, last)) {
      const next = isKnown(at) ? chunks[at]! : null;
      const until = next !== null && before(next.seq, last) ? next.seq : last;
      if (after(until, from))
        at = this.#insertAt(at, from, bytes, start + distance(from, seq), start + distance(until, seq));
      if (next === null || !before(next.seq, last)) break;
      const reach = endOf(next);
      this.noteDuplicate(next.seq, before(reach, last) ? reach : last);
      from = reach;
      at++;
    }
    this.#noteRecent(seq);
  }

  /** New bytes that fit between two chunks; gives where the next chunk stands. */
  #insertAt(at: number, seq: number, bytes: Uint8Array, start: number, end: number): number {
    this.outOfOrder += end - start;
    const last = this.#later[at - 1];
    if (last !== undefined && endOf(last) === seq && this.#extend(last, bytes, start, end)) return at;
    this.#later.splice(at, 0, this.#newChunk(seq, bytes, start, end));
    return at + 1;
  }

  /** The first chunk that begins at `seq` or behind it. */
  #place(seq: number): number {
    let low = 0;
    let high = this.#later.length;
    // Most come behind all others.
    if (high > 0 && before(this.#later[high - 1]!.seq, seq)) return high;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (before(this.#later[middle]!.seq, seq)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** RCV.NXT is `next`: what follows it without a hole is in order now. Gives the new RCV.NXT. */
  joinInOrder(next: number): number {
    const chunks = this.#later;
    let joined = 0;
    let nxt = next;
    while (joined < chunks.length && !after(chunks[joined]!.seq, nxt)) {
      const chunk = chunks[joined++]!;
      const known = Math.min(distance(nxt, chunk.seq), chunk.length);
      this.outOfOrder -= chunk.length;
      if (known === chunk.length) {
        this.memory -= cost(chunk);
        continue;
      }
      const memory = cost(chunk);
      if (known > 0) {
        chunk.bytes = chunk.bytes.slice(known, chunk.length);
        chunk.length -= known;
        chunk.seq = nxt;
      }
      this.memory += cost(chunk) - memory;
      this.held += chunk.length;
      nxt = plus(nxt, chunk.length);
      this.#held.push(chunk);
    }
    if (joined > 0) chunks.splice(0, joined);
    return nxt;
  }

  // ---- SACK

  /** Numbers `start` … `end` - 1 came again: the next ACK tells so (RFC 2883 §4). */
  noteDuplicate(start: number, end: number): void {
    this.#hasDuplicate = true;
    this.#duplicateStart = start;
    this.#duplicateEnd = end;
  }

  /** An ACK has told of it. */
  forgetDuplicate(): void {
    this.#hasDuplicate = false;
  }

  #noteRecent(seq: number): void {
    const recent = this.#recent;
    if (recent[0] === seq) return;
    recent.unshift(seq);
    if (recent.length > 2 * MAX_BLOCKS) recent.length = 2 * MAX_BLOCKS;
  }

  /** Blocks that there are to tell of, at the most 4. */
  get sackCount(): number {
    const duplicate = this.#hasDuplicate ? 1 : 0;
    const chunks = this.#later;
    let ranges = 0;
    for (let i = 0; i < chunks.length && ranges + duplicate < MAX_BLOCKS; i++) {
      if (i === 0 || endOf(chunks[i - 1]!) !== chunks[i]!.seq) ranges++;
    }
    return ranges + duplicate;
  }

  /** Writes them: a duplicate first, then the ranges that grew last (RFC 2018 §4). Gives their number. */
  sackBlocks(start: Uint32Array, end: Uint32Array): number {
    let count = 0;
    if (this.#hasDuplicate) {
      start[0] = this.#duplicateStart;
      end[0] = this.#duplicateEnd;
      count = 1;
    }
    const first = count;
    for (const seq of this.#recent) {
      if (count === MAX_BLOCKS) return count;
      count = this.#addRange(seq, start, end, first, count);
    }
    for (let i = 0; i < this.#later.length && count < MAX_BLOCKS; i++) {
      count = this.#addRange(this.#later[i]!.seq, start, end, first, count);
    }
    return count;
  }

  /** The range around `seq`, unless it stands there already. */
  #addRange(seq: number, start: Uint32Array, end: Uint32Array, first: number, count: number): number {
    const chunks = this.#later;
    let low = this.#place(plus(seq, 1)) - 1;
    if (low < 0 || !after(endOf(chunks[low]!), seq)) return count;
    let high = low;
    while (low > 0 && endOf(chunks[low - 1]!) === chunks[low]!.seq) low--;
    while (high + 1 < chunks.length && endOf(chunks[high]!) === chunks[high + 1]!.seq) high++;
    for (let i = first; i < count; i++) if (start[i] === chunks[low]!.seq) return count;
    start[count] = chunks[low]!.seq;
    end[count] = endOf(chunks[high]!);
    return count + 1;
  }

  // ---- chunks

  #newChunk(seq: number, bytes: Uint8Array, start: number, end: number): Chunk {
    const chunk = { seq, length: end - start, bytes: bytes.slice(start, end) };
    this.memory += cost(chunk);
    return chunk;
  }

  /** Appends to a chunk, unless it would become too long. */
  #extend(chunk: Chunk, bytes: Uint8Array, start: number, end: number): boolean {
    const length = chunk.length + end - start;
    if (length > chunk.bytes.length) {
      if (length > CHUNK_BYTES) return false;
      const more = new Uint8Array(Math.min(CHUNK_BYTES, Math.max(length, 2 * chunk.bytes.length)));
      more.set(chunk.bytes.subarray(0, chunk.length));
      this.memory += more.length - chunk.bytes.length;
      chunk.bytes = more;
    }
    chunk.bytes.set(bytes.subarray(start, end), chunk.length);
    chunk.length = length;
    return true;
  }
}

function endOf(chunk: Chunk): number {
  return plus(chunk.seq, chunk.length);
}

function cost(chunk: Chunk): number {
  return chunk.bytes.length + CHUNK_COST;
}
