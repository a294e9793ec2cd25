/**
 * From the two ends of a connection to its row: an open-addressed hash table of row numbers, whose keys are the rows' own
 * columns.
 *
 *     slot   | tag (32 bits of the hash) | row + 1 |      8 bytes; a wrong tag spares a look at the row
 *
 * The hash is keyed, since attackers choose ports and addresses. The table grows by moving a few slots with every insert, so
 * that no packet waits for millions of them. Hot: allocates nothing but new tables.
 */
import type { Random } from '../network.ts';

/** Columns of the rows' ends. */
export interface Tuples {
  readonly local: Uint16Array;
  readonly remote: Uint32Array;
  readonly localPort: Uint16Array;
  readonly remotePort: Uint16Array;
}

export const NOT_FOUND = -1;

const FIRST_SLOTS = 1024;
/** Slots moved from the old table with every insert and remove: the new one is twice as large, so it never fills before. */
const MOVED = 8;
/** Fill, in quarters, at which the table grows. */
const MOST_QUARTERS = 3;
const EMPTY = 0;
/** Where a row was taken out: probes go on behind it. */
const GONE = 0xffff_ffff;

export class TupleTable {
  /** Rows in the table. */
  count = 0;
  readonly #rows: Tuples;
  /** The hash's secrets: two odd multipliers, two to add. */
  readonly #m0: number;
  readonly #m1: number;
  readonly #a0: number;
  readonly #a1: number;
  #slots = new Uint32Array(2 * FIRST_SLOTS);
  #mask = FIRST_SLOTS - 1;
  /** Slots that are not EMPTY. */
  #used = 0;
  /** The table before, as long as rows are left in it, and how far it has been moved. */
  #old: Uint32Array | null = null;
  #oldMask = 0;
  #moved = 0;

  constructor(rows: Tuples, random: Random) {
    this.#rows = rows;
    this.#m0 = random() | 1;
    this.#m1 = random() | 1;
    this.#a0 = random();
    this.#a1 = random();
  }

  /** Adds a row, whose ends are no other row's. */
  insert(row: number): void {
    const { local, remote, localPort, remotePort } = this.#rows;
    this.#move();
    this.#put(this.#hash(local[row]!, remote[row]!, localPort[row]!, remotePort[row]!), row);
    this.count++;
    if (4 * this.#used >= MOST_QUARTERS * (this.#mask + 1)) this.#grow();
  }

  /** Takes a row out, whose ends are still what they were. */
  remove(row: number): void {
    const { local, remote, localPort, remotePort } = this.#rows;
    const hash = this.#hash(local[row]!, remote[row]!, localPort[row]!, remotePort[row]!);
    this.#move();
    this.count--;
    if (this.#takeOut(this.#slots, this.#mask, hash, row)) {
      // Behind it is nothing: then it need not be probed over.
      this.#sweep(hash);
    } else if (this.#old === null || !this.#takeOut(this.#old, this.#oldMask, hash, row)) {
      throw new Error(`row ${row} is not in the table of connections`);
    }
  }

  /** The row with these ends, or NOT_FOUND. */
  find(local: number, remote: number, localPort: number, remotePort: number): number {
    const hash = this.#hash(local, remote, localPort, remotePort);
    const row = this.#find(this.#slots, this.#mask, hash, local, remote, localPort, remotePort);
    if (row !== NOT_FOUND || this.#old === null) return row;
    return this.#find(this.#old, this.#oldMask, hash, local, remote, localPort, remotePort);
  }

  #find(
    slots: Uint32Array,
    mask: number,
    hash: number,
    local: number,
    remote: number,
    localPort: number,
    remotePort: number,
  ): number {
    const rows = this.#rows;
    for (let at = hash & mask; ; at = (at + 1) & mask) {
      const entry = slots[2 * at + 1]!;
      if (entry === EMPTY) return NOT_FOUND;
      if (slots[2 * at] !== hash || entry === GONE) continue;
      const row = entry - 1;
      if (
        rows.remotePort[row] === remotePort &&
        rows.remote[row] === remote &&
        rows.localPort[row] === localPort &&
        rows.local[row] === local
      ) {
        return row;
      }
    }
  }

  #put(hash: number, row: number): void {
    const slots = this.#slots;
    let at = hash & this.#mask;
    while (slots[2 * at + 1] !== EMPTY && slots[2 * at + 1] !== GONE) at = (at + 1) & this.#mask;
    if (slots[2 * at + 1] === EMPTY) this.#used++;
    slots[2 * at] = hash;
    slots[2 * at + 1] = row + 1;
  }

  #takeOut(slots: Uint32Array, mask: number, hash: number, row: number): boolean {
    for (let at = hash & mask; slots[2 * at + 1] !== EMPTY; at = (at + 1) & mask) {
      if (slots[2 * at + 1] !== row + 1) continue;
      slots[2 * at + 1] = GONE;
      return true;
    }
    return false;
  }

  /** Makes GONE slots EMPTY again, from the end of the run that `hash` begins in. */
  #sweep(hash: number): void {
    const slots = this.#slots;
    let at = hash & this.#mask;
    while (slots[2 * at + 1] !== EMPTY) at = (at + 1) & this.#mask;
    for (at = (at - 1) & this.#mask; slots[2 * at + 1] === GONE; at = (at - 1) & this.#mask) {
      slots[2 * at + 1] = EMPTY;
      this.#used--;
    }
  }

  /** Twice as large, or as large as before where most slots are only GONE. */
  #grow(): void {
    while (this.#old !== null) this.#move();
    const slots = this.#mask + 1;
    const wanted = 2 * this.count >= slots ? 2 * slots : slots;
    this.#old = this.#slots;
    this.#oldMask = this.#mask;
    this.#moved = 0;
    this.#slots = new Uint32Array(2 * wanted);
    this.#mask = wanted - 1;
    this.#used = 0;
  }

  #move(): void {
    const old = this.#old;
    if (old === null) return;
    const end = Math.min(this.#moved + MOVED, this.#oldMask + 1);
    for (; this.#moved < end; this.#moved++) {
      const entry = old[2 * this.#moved + 1]!;
      if (entry === EMPTY || entry === GONE) continue;
      this.#put(old[2 * this.#moved]!, entry - 1);
      old[2 * this.#moved + 1] = GONE;
    }
    if (this.#moved > this.#oldMask) this.#old = null;
  }

  /** Keyed multiply and mix; 32 bits. */
  #hash(local: number, remote: number, localPort: number, remotePort: number): number {
    let h = Math.imul(remote ^ this.#a0, this.#m0) ^ Math.imul(((localPort << 16) | remotePort) ^ this.#a1, this.#m1);
    h = Math.imul(h ^ (h >>> 15) ^ local, 0x2c1b_3c6d);
    h = Math.imul(h ^ (h >>> 12), 0x297a_2d39);
    return (h ^ (h >>> 15)) >>> 0;
  }
}
