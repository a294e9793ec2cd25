/**
 * A set of IP addresses of one length, each with a small number that stays while it is in: open addressing with linear
 * probing in typed arrays.
 *
 * Who keeps columns beside it makes them at least {@link AddressTable.capacity} long. The hash is tabulation hashing, one
 * table of secret random words a byte: nobody outside can aim at collisions, and linear probing stays short (Pătraşcu and
 * Thorup, "The Power of Simple Tabulation Hashing"). find() allocates nothing.
 */
import type { Random } from '../network.ts';

/** {@link AddressTable.find}: not in. */
export const ABSENT = -1;

const INITIAL_CAPACITY = 16;
const BYTE_VALUES = 256;
/** Slots for each entry, at least: linear probing looks at some 1.5 of them then. */
const SLOTS_PER_ENTRY = 2;
export const MAX_ENTRIES = 2 ** 28;

export class AddressTable {
  /** Bytes of an address: 4 or 16. */
  readonly addressBytes: number;
  /** Words of an address, 1 or 4. */
  readonly words: number;
  /** The addresses: {@link words} big-endian words each, signed. Of an entry that is free, the first word tells the next free one. */
  keys: Int32Array;
  /** Entries that there is room for before it grows. */
  capacity: number;
  count = 0;
  readonly #random: Uint32Array;
  #slots: Int32Array;
  /** First of the freed entries, and the first entry never used. */
  #free = ABSENT;
  #fresh = 0;
  /** What was found last: packets of a batch are much alike. */
  readonly #lastKey: Int32Array;
  #last = ABSENT;

  constructor(addressBytes: 4 | 16, random: Random) {
    this.addressBytes = addressBytes;
    this.words = addressBytes >> 2;
    this.#random = Uint32Array.from({ length: addressBytes * BYTE_VALUES }, random);
    this.capacity = INITIAL_CAPACITY;
    this.keys = new Int32Array(INITIAL_CAPACITY * this.words);
    this.#slots = new Int32Array(INITIAL_CAPACITY * SLOTS_PER_ENTRY).fill(ABSENT);
    this.#lastKey = new Int32Array(this.words);
  }

  /** The number of the address at `at`, or ABSENT. The caller has checked that the bytes are there. */
  find(bytes: Uint8Array, at: number): number {
    const first = wordAt(bytes, at);
    if (this.words === 1) return this.findWord(first);
    return this.#findLong(first, wordAt(bytes, at + 4), wordAt(bytes, at + 8), wordAt(bytes, at + 12));
  }

  /** The same for an address of one word. */
  findWord(word: number): number {
    if (this.#last !== ABSENT && this.#lastKey[0] === word) return this.#last;
    const { keys } = this;
    const slots = this.#slots;
    const mask = slots.length - 1;
    for (let slot = this.#hashWord(word) & mask; ; slot = (slot + 1) & mask) {
      const entry = slots[slot]!;
      if (entry === ABSENT) return ABSENT;
      if (keys[entry] !== word) continue;
      this.#lastKey[0] = word;
      this.#last = entry;
      return entry;
    }
  }

  #findLong(a: number, b: number, c: number, d: number): number {
    const lastKey = this.#lastKey;
    if (this.#last !== ABSENT && lastKey[3] === d && lastKey[2] === c && lastKey[1] === b && lastKey[0] === a) {
      return this.#last;
    }
    const { keys } = this;
    const slots = this.#slots;
    const mask = slots.length - 1;
    for (let slot = this.#hashWords(a, b, c, d) & mask; ; slot = (slot + 1) & mask) {
      const entry = slots[slot]!;
      if (entry === ABSENT) return ABSENT;
      const at = entry * 4;
      if (keys[at + 3] !== d || keys[at + 2] !== c || keys[at + 1] !== b || keys[at] !== a) continue;
      lastKey[0] = a;
      lastKey[1] = b;
      lastKey[2] = c;
      lastKey[3] = d;
      this.#last = entry;
      return entry;
    }
  }

  /** Puts in an address that is not in yet; gives its number. Throws RangeError when there are {@link MAX_ENTRIES}. */
  insert(bytes: Uint8Array, at: number): number {
    if (this.count === this.capacity) this.#grow();
    let entry = this.#free;
    if (entry === ABSENT) entry = this.#fresh++;
    else this.#free = this.keys[entry * this.words]!;
    for (let i = 0; i < this.words; i++) this.keys[entry * this.words + i] = wordAt(bytes, at + 4 * i);
    this.#place(entry);
    this.count++;
    return entry;
  }

  /** Takes out an entry that is in. Its number may be another address's from now on. */
  remove(entry: number): void {
    const slots = this.#slots;
    const mask = slots.length - 1;
    let hole = this.#hash(entry) & mask;
    while (slots[hole] !== entry) hole = (hole + 1) & mask;
    // Whoever stands behind the hole and would rather stand in it, or before it, moves up.
    for (let slot = (hole + 1) & mask; slots[slot] !== ABSENT; slot = (slot + 1) & mask) {
      const home = this.#hash(slots[slot]!) & mask;
      if (((slot - home) & mask) < ((slot - hole) & mask)) continue;
      slots[hole] = slots[slot]!;
      hole = slot;
    }
    slots[hole] = ABSENT;
    this.keys[entry * this.words] = this.#free;
    this.#free = entry;
    this.#last = ABSENT;
    this.count--;
  }

  /** Writes the address of an entry. */
  write(entry: number, bytes: Uint8Array, at: number): void {
    for (let i = 0; i < this.words; i++) {
      const word = this.keys[entry * this.words + i]!;
      bytes[at + 4 * i] = word >>> 24;
      bytes[at + 4 * i + 1] = word >>> 16;
      bytes[at + 4 * i + 2] = word >>> 8;
      bytes[at + 4 * i + 3] = word;
    }
  }

  #hash(entry: number): number {
    const { keys } = this;
    if (this.words === 1) return this.#hashWord(keys[entry]!);
    const at = entry * 4;
    return this.#hashWords(keys[at]!, keys[at + 1]!, keys[at + 2]!, keys[at + 3]!);
  }

  #hashWord(word: number): number {
    const random = this.#random;
    return (
      random[word >>> 24]! ^
      random[256 | ((word >>> 16) & 0xff)]! ^
      random[512 | ((word >>> 8) & 0xff)]! ^
      random[768 | (word & 0xff)]!
    );
  }

  #hashWords(a: number, b: number, c: number, d: number): number {
    return this.#hashAt(a, 0) ^ this.#hashAt(b, 1024) ^ this.#hashAt(c, 2048) ^ this.#hashAt(d, 3072);
  }

  #hashAt(word: number, base: number): number {
    const random = this.#random;
    return (
      random[base | (word >>> 24)]! ^
      random[base | 256 | ((word >>> 16) & 0xff)]! ^
      random[base | 512 | ((word >>> 8) & 0xff)]! ^
      random[base | 768 | (word & 0xff)]!
    );
  }

  #place(entry: number): void {
    const slots = this.#slots;
    const mask = slots.length - 1;
    let slot = this.#hash(entry) & mask;
    while (slots[slot] !== ABSENT) slot = (slot + 1) & mask;
    slots[slot] = entry;
  }

  /** Only when all entries are in use. */
  #grow(): void {
    const capacity = 2 * this.capacity;
    if (capacity > MAX_ENTRIES) throw new RangeError(`${this.count} addresses are held: there is no room for more`);
    const keys = new Int32Array(capacity * this.words);
    keys.set(this.keys);
    this.keys = keys;
    this.#slots = new Int32Array(capacity * SLOTS_PER_ENTRY).fill(ABSENT);
    for (let entry = 0; entry < this.capacity; entry++) this.#place(entry);
    this.capacity = capacity;
  }
}

/** The big-endian 32-bit word at `at`, signed: so it is one of V8's small integers wherever it goes. */
export function wordAt(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;
}
