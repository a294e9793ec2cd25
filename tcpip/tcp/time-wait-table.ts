/**
 * Connections in TIME-WAIT (RFC 9293 §3.6.1): 32 bytes each, in the order in which they end.
 *
 *     oldest ── chunk of 4096 ── chunk ── … ── newest          an entry's number counts from the first ever
 *        expire()                                add()
 *
 * All wait equally long, so the order of coming is the order of going, and no timers are needed: one second is precise
 * enough. Chunks are given back when all in them have gone. A hash over the 4-tuple finds entries by chains.
 * Full: the oldest goes, a little early, and is counted.
 */
import { MICROSECONDS_PER_SECOND, NEVER, type Random, type Time } from '../network.ts';

const CHUNK_BITS = 12;
const CHUNK = 1 << CHUNK_BITS;
const CHUNK_MASK = CHUNK - 1;
/** Chunks kept for later. */
const SPARE_CHUNKS = 16;

// What stands beside the seconds in `ends`.
const SECONDS_MASK = 0x1fff;
const HAS_TIMESTAMPS = 0x2000;
/** Timestamps begin at 0 and not at the offset of the two hosts: it came by a SYN cookie. */
const NO_OFFSET = 0x4000;
const DEAD = 0x8000;

/** No entry. */
export const NO_SLOT = -1;

interface Chunk {
  local: Uint16Array;
  remote: Uint32Array;
  localPort: Uint16Array;
  remotePort: Uint16Array;
  sndNxt: Uint32Array;
  rcvNxt: Uint32Array;
  tsRecent: Uint32Array;
  /** When it ends, in seconds modulo 2^13, and flags. */
  ends: Uint16Array;
  /** The next of its chain: number modulo 2^32, plus 1. */
  next: Uint32Array;
}

export interface TimeWaitOptions {
  /** Entries at the most. */
  capacity: number;
  /** 2 × MSL, in µs. */
  lifetime: Time;
  random: Random;
}

export class TimeWaitTable {
  /** Entries that wait. */
  count = 0;
  /** Entries that went early for want of room. */
  evicted = 0;
  readonly #capacity: number;
  readonly #lifetime: number;
  readonly #seed: number;
  readonly #multiplier: number;
  readonly #heads: Uint32Array;
  readonly #mask: number;
  readonly #chunks: (Chunk | undefined)[];
  readonly #spare: Chunk[] = [];
  /** Numbers of the oldest entry and of the next one. */
  #first = 0;
  #end = 0;
  /** Called for whoever goes to make room. */
  onEvict: (slot: number) => void = () => {};

  constructor({ capacity, lifetime, random }: TimeWaitOptions) {
    this.#capacity = Math.max(1, capacity);
    this.#lifetime = Math.ceil(lifetime / MICROSECONDS_PER_SECOND);
    this.#seed = random();
    this.#multiplier = random() | 1;
    const heads = 2 ** Math.ceil(Math.log2(Math.max(CHUNK, this.#capacity)));
    this.#heads = new Uint32Array(heads);
    this.#mask = heads - 1;
    this.#chunks = new Array(2 ** Math.ceil(Math.log2(this.#capacity / CHUNK + 2)));
  }

  /** Bytes of an entry over all columns, with its part of the hash when the table is full. */
  get bytesPerEntry(): number {
    const columns = Object.values(newChunk()) as { BYTES_PER_ELEMENT: number }[];
    const row = columns.reduce((bytes, column) => bytes + column.BYTES_PER_ELEMENT, 0);
    return row + (this.#heads.length * this.#heads.BYTES_PER_ELEMENT) / this.#capacity;
  }

  /** An entry for a connection that has ended now. Gives its slot. */
  add(
    local: number,
    remote: number,
    localPort: number,
    remotePort: number,
    sndNxt: number,
    rcvNxt: number,
    tsRecent: number,
    hasOffset: boolean,
    hasTimestamps: boolean,
    now: Time,
  ): number {
    if (this.#end - this.#first >= this.#capacity) this.#makeRoom();
    const slot = this.#end++;
    const chunk = this.#chunkFor(slot);
    const i = slot & CHUNK_MASK;
    chunk.local[i] = local;
    chunk.remote[i] = remote;
    chunk.localPort[i] = localPort;
    chunk.remotePort[i] = remotePort;
    chunk.sndNxt[i] = sndNxt;
    chunk.rcvNxt[i] = rcvNxt;
    chunk.tsRecent[i] = tsRecent;
    const end = (Math.floor(now / MICROSECONDS_PER_SECOND) + this.#lifetime) & SECONDS_MASK;
    chunk.ends[i] = end | (hasTimestamps ? HAS_TIMESTAMPS : 0) | (hasOffset ? 0 : NO_OFFSET);
    const head = this.#hash(local, remote, localPort, remotePort);
    chunk.next[i] = this.#heads[head]!;
    this.#heads[head] = (slot + 1) >>> 0;
    this.count++;
    return slot;
  }

  /** The entry of a 4-tuple, or NO_SLOT. */
  find(local: number, remote: number, localPort: number, remotePort: number): number {
    let link = this.#heads[this.#hash(local, remote, localPort, remotePort)]!;
    while (link !== 0) {
      const slot = this.#slotOf(link);
      const chunk = this.#chunk(slot);
      const i = slot & CHUNK_MASK;
      if (
        chunk.remotePort[i] === remotePort &&
        chunk.remote[i] === remote &&
        chunk.localPort[i] === localPort &&
        chunk.local[i] === local
      ) {
        return slot;
      }
      link = chunk.next[i]!;
    }
    return NO_SLOT;
  }

  remote(slot: number): number {
    return this.#chunk(slot).remote[slot & CHUNK_MASK]!;
  }

  local(slot: number): number {
    return this.#chunk(slot).local[slot & CHUNK_MASK]!;
  }

  sndNxt(slot: number): number {
    return this.#chunk(slot).sndNxt[slot & CHUNK_MASK]!;
  }

  rcvNxt(slot: number): number {
    return this.#chunk(slot).rcvNxt[slot & CHUNK_MASK]!;
  }

  tsRecent(slot: number): number {
    return this.#chunk(slot).tsRecent[slot & CHUNK_MASK]!;
  }

  hasTimestamps(slot: number): boolean {
    return (this.#chunk(slot).ends[slot & CHUNK_MASK]! & HAS_TIMESTAMPS) !== 0;
  }

  /** Whether its timestamps count from the offset of the two hosts. */
  hasOffset(slot: number): boolean {
    return (this.#chunk(slot).ends[slot & CHUNK_MASK]! & NO_OFFSET) === 0;
  }

  /** Its time begins anew: as a new entry, the slot is another. */
  restart(slot: number, now: Time): number {
    const chunk = this.#chunk(slot);
    const i = slot & CHUNK_MASK;
    const ends = chunk.ends[i]!;
    this.remove(slot);
    return this.add(
      chunk.local[i]!,
      chunk.remote[i]!,
      chunk.localPort[i]!,
      chunk.remotePort[i]!,
      chunk.sndNxt[i]!,
      chunk.rcvNxt[i]!,
      chunk.tsRecent[i]!,
      (ends & NO_OFFSET) === 0,
      (ends & HAS_TIMESTAMPS) !== 0,
      now,
    );
  }

  /** It is over before its time. */
  remove(slot: number): void {
    this.#unlink(slot);
    const chunk = this.#chunk(slot);
    const i = slot & CHUNK_MASK;
    chunk.ends[i] = chunk.ends[i]! | DEAD;
    this.count--;
  }

  /** When the oldest ends, or NEVER. */
  get deadline(): Time {
    return this.#first === this.#end ? NEVER : this.#deadline;
  }

  #deadline: Time = 0;

  /** Ends all whose time has come; calls back before each goes. */
  expire(now: Time, onEnd: (slot: number) => void): void {
    const seconds = Math.floor(now / MICROSECONDS_PER_SECOND);
    while (this.#first < this.#end) {
      const slot = this.#first;
      const ends = this.#chunk(slot).ends[slot & CHUNK_MASK]!;
      if ((ends & DEAD) === 0) {
        const left = ((ends & SECONDS_MASK) - seconds) & SECONDS_MASK;
        if (left > 0 && left <= this.#lifetime) {
          this.#deadline = (seconds + left) * MICROSECONDS_PER_SECOND;
          return;
        }
        onEnd(slot);
        this.#unlink(slot);
        this.count--;
      }
      this.#leave(slot);
    }
    this.#deadline = 0;
  }

  // ---- inside

  #makeRoom(): void {
    const slot = this.#first;
    if ((this.#chunk(slot).ends[slot & CHUNK_MASK]! & DEAD) === 0) {
      this.onEvict(slot);
      this.evicted++;
      this.#unlink(slot);
      this.count--;
    }
    this.#leave(slot);
  }

  /** The oldest slot is free. */
  #leave(slot: number): void {
    this.#first = slot + 1;
    if ((this.#first & CHUNK_MASK) !== 0 && this.#first !== this.#end) return;
    if ((this.#first & CHUNK_MASK) !== 0) return;
    const at = this.#chunkNumber(slot);
    if (this.#spare.length < SPARE_CHUNKS) this.#spare.push(this.#chunks[at]!);
    this.#chunks[at] = undefined;
  }

  #chunkNumber(slot: number): number {
    return Math.floor(slot / CHUNK) % this.#chunks.length;
  }

  #chunk(slot: number): Chunk {
    return this.#chunks[this.#chunkNumber(slot)]!;
  }

  #chunkFor(slot: number): Chunk {
    const at = this.#chunkNumber(slot);
    const known = this.#chunks[at];
    if (known !== undefined) return known;
    const chunk = this.#spare.pop() ?? newChunk();
    this.#chunks[at] = chunk;
    return chunk;
  }

  /** The slot behind a link: numbers in chains are modulo 2^32. */
  #slotOf(link: number): number {
    return this.#end - (((this.#end >>> 0) - (link - 1)) >>> 0);
  }

  #unlink(slot: number): void {
    const chunk = this.#chunk(slot);
    const i = slot & CHUNK_MASK;
    const head = this.#hash(chunk.local[i]!, chunk.remote[i]!, chunk.localPort[i]!, chunk.remotePort[i]!);
    const wanted = (slot + 1) >>> 0;
    if (this.#heads[head] === wanted) {
      this.#heads[head] = chunk.next[i]!;
      return;
    }
    let link = this.#heads[head]!;
    for (;;) {
      const other = this.#slotOf(link);
      const { next } = this.#chunk(other);
      link = next[other & CHUNK_MASK]!;
      if (link !== wanted) continue;
      next[other & CHUNK_MASK] = chunk.next[i]!;
      return;
    }
  }

  #hash(local: number, remote: number, localPort: number, remotePort: number): number {
    let h = Math.imul(remote ^ this.#seed, this.#multiplier) ^ ((localPort << 16) | remotePort);
    h = Math.imul(h ^ (h >>> 15) ^ local, 0x2c1b_3c6d);
    h = Math.imul(h ^ (h >>> 12), this.#multiplier);
    return (h ^ (h >>> 15)) & this.#mask;
  }
}

function newChunk(): Chunk {
  return {
    local: new Uint16Array(CHUNK),
    remote: new Uint32Array(CHUNK),
    localPort: new Uint16Array(CHUNK),
    remotePort: new Uint16Array(CHUNK),
    sndNxt: new Uint32Array(CHUNK),
    rcvNxt: new Uint32Array(CHUNK),
    tsRecent: new Uint32Array(CHUNK),
    ends: new Uint16Array(CHUNK),
    next: new Uint32Array(CHUNK),
  };
}
