/**
 * The learning table of an Ethernet switch: which port a MAC address was last seen behind
 * (IEEE 802.1Q §8.7 the learning process, §8.8 the filtering database).
 *
 * Open addressing in one Int32Array: four words an entry, so a probe touches one cache line. No object per entry,
 * and nothing is allocated per frame: `learn` and `lookup` may run for every frame of a lane.
 *
 *   slot i:  | vlan << 16 + MAC bytes 0..1 | MAC bytes 2..5 | port + 1 (0: empty) | second last seen |
 *
 * - Collisions probe linearly; a removal shifts the rest of its cluster back, so no tombstones pile up. At least
 *   half of the slots are always empty.
 * - The hash is simple tabulation with tables drawn from `seed`: no set of addresses collides for every seed, so
 *   a guest that does not know the seed cannot choose addresses that build long clusters.
 * - An entry not refreshed for `agingSeconds` answers no more, at once; its slot comes free when the sweep
 *   (`age`) passes, which the owner calls with a small budget between batches.
 * - Time comes in as an argument: whole seconds of any monotonic clock (fractions are dropped).
 *
 * One table belongs to one lane: nothing here is shared between threads.
 */

/** `learn`: the address was not known, or had aged, and is known now. */
export const LEARNED = 0;
/** `learn`: known behind this port already; its age starts again. */
export const REFRESHED = 1;
/** `learn`: known behind another port, and moved to this one. */
export const MOVED = 2;
/** `learn`: no room in the table, or the port is at `maxPerPort`; what the table held is unchanged. */
export const FULL = 3;
/** `learn`: multicast, broadcast and all-zero addresses are never a station's (IEEE 802.1Q §8.7). */
export const IGNORED = 4;

/** IEEE 802.1Q table 8-6: the default ageing time. */
export const DEFAULT_AGING_SECONDS = 300;
/** IEEE 802.1Q table 8-6: the longest ageing time. */
export const MAX_AGING_SECONDS = 1_000_000;
export const DEFAULT_CAPACITY = 16_384;
export const MAX_CAPACITY = 1 << 22;
/** Highest port number that a table accepts. */
export const MAX_PORT = 0xffff;

export interface LearningTableOptions {
  /** Entries held at most, 1 to MAX_CAPACITY. Default 16,384. */
  capacity?: number;
  /** Seconds without a frame after which an entry answers no more, 1 to 1,000,000. Default 300. */
  agingSeconds?: number;
  /** Entries that one port may hold, so that one guest cannot fill the table for the others. Default: capacity. */
  maxPerPort?: number;
  /** Keys the hash: a non-negative safe integer, to be drawn at random and kept from the guests. */
  seed: number;
}

/** A line of `show fdb`. */
export interface LearnedAddress {
  /** Six lower-case hex bytes, `aa:bb:cc:dd:ee:ff`. */
  mac: string;
  /** What the caller put into bits 16 to 27 of `high`; 0 where it does not tell VLANs apart. */
  vlan: number;
  port: number;
  /** Whole seconds since the last frame from this address. */
  ageSeconds: number;
}

// An entry's words.
const HIGH = 0;
const LOW = 1;
const PORT_PLUS_1 = 2;
const SEEN = 3;
const WORDS_SHIFT = 2;

/** The I/G bit of a MAC address (IEEE 802 §8.2.2), as it lies in `high`: set in group addresses. */
const GROUP_BIT = 0x0100;
const KEY_BYTES = 8;
const INITIAL_PORTS = 64;

export class LearningTable {
  /** Addresses that were not learned because the table was full. */
  refusedTableFull = 0;
  /** Addresses that were not learned because their port held `maxPerPort` already. */
  refusedPortLimit = 0;
  /** Addresses that moved from one port to another. */
  moves = 0;

  #capacity: number;
  #maxPerPort: number;
  /** Whether maxPerPort was asked for: else it follows the capacity. */
  readonly #limitsPorts: boolean;
  #agingSeconds: number;
  readonly #tables: Int32Array;
  #words: Int32Array;
  /** Number of slots - 1; the number of slots is a power of two. */
  #mask: number;
  #size = 0;
  /** The slot that the sweep looks at next. */
  #cursor = 0;
  /** Entries held per port. */
  #counts = new Int32Array(INITIAL_PORTS);

  /** @throws RangeError where an option is outside its range (see LearningTableOptions). */
  constructor(options: LearningTableOptions) {
    const { capacity = DEFAULT_CAPACITY, agingSeconds = DEFAULT_AGING_SECONDS, seed } = options;
    const maxPerPort = options.maxPerPort ?? capacity;
    demand('learning table capacity', capacity, 1, MAX_CAPACITY);
    demand('learning table agingSeconds', agingSeconds, 1, MAX_AGING_SECONDS);
    demand('learning table maxPerPort', maxPerPort, 1, MAX_CAPACITY);
    demand('learning table seed', seed, 0, Number.MAX_SAFE_INTEGER);
    this.#capacity = capacity;
    this.#maxPerPort = maxPerPort;
    this.#limitsPorts = options.maxPerPort !== undefined;
    this.#agingSeconds = agingSeconds;
    this.#tables = tabulationTables(seed);
    this.#words = emptySlots(capacity);
    this.#mask = (this.#words.length >> WORDS_SHIFT) - 1;
  }

  /** Entries held, with the aged ones that the sweep has yet to remove. */
  get size(): number {
    return this.#size;
  }

  get capacity(): number {
    return this.#capacity;
  }

  get agingSeconds(): number {
    return this.#agingSeconds;
  }

  /** Entries that `port` holds, with aged ones not yet removed. */
  countOf(port: number): number {
    return this.#counts[port] ?? 0;
  }

  /**
   * Notes that a frame with this source address came in from `port`.
   *
   * @param high bytes 0 and 1 of the address, 0 to 0xffff; a switch that learns per VLAN adds `vlan << 16`
   * @param low bytes 2 to 5, as int32 or uint32
   * @param port 0 to MAX_PORT
   * @returns LEARNED, REFRESHED, MOVED, FULL or IGNORED
   * @throws RangeError for a port outside 0 to MAX_PORT
   */
  learn(high: number, low: number, port: number, nowSeconds: number): number {
    high |= 0;
    low |= 0;
    if ((high & GROUP_BIT) !== 0 || ((high & 0xffff) === 0 && low === 0)) return IGNORED;
    if (port >>> 0 >= this.#counts.length) this.#growCounts(port);
    const counts = this.#counts;
    const words = this.#words;
    const now = nowSeconds | 0;
    const at = this.#find(high, low);
    if (words[at + PORT_PLUS_1] === 0) {
      if (this.#size >= this.#capacity) {
        this.refusedTableFull++;
        return FULL;
      }
      if (counts[port] >= this.#maxPerPort) {
        this.refusedPortLimit++;
        return FULL;
      }
      words[at + HIGH] = high;
      words[at + LOW] = low;
      words[at + PORT_PLUS_1] = port + 1;
      words[at + SEEN] = now;
      counts[port]++;
      this.#size++;
      return LEARNED;
    }
    const known = words[at + PORT_PLUS_1] - 1;
    const aged = this.#hasAged(at, now);
    if (known !== port) {
      if (counts[port] >= this.#maxPerPort) {
        this.refusedPortLimit++;
        return FULL;
      }
      counts[known]--;
      counts[port]++;
      words[at + PORT_PLUS_1] = port + 1;
    }
    words[at + SEEN] = now;
    if (aged) return LEARNED;
    if (known === port) return REFRESHED;
    this.moves++;
    return MOVED;
  }

  /**
   * The port behind which the address was last seen, or -1 where it is unknown or has aged: flood.
   * `high` and `low` as in `learn`.
   */
  lookup(high: number, low: number, nowSeconds: number): number {
    const at = this.#find(high | 0, low | 0);
    const portPlus1 = this.#words[at + PORT_PLUS_1];
    if (portPlus1 === 0 || this.#hasAged(at, nowSeconds | 0)) return -1;
    return portPlus1 - 1;
  }

  /** Forgets every address behind `port` (link down, port removed). Returns how many. Looks at every slot. */
  flushPort(port: number): number {
    let removed = 0;
    const left = this.countOf(port);
    for (let slot = 0; slot <= this.#mask && removed < left; ) {
      // A removal may shift another entry into this very slot: look again.
      if (this.#words[(slot << WORDS_SHIFT) + PORT_PLUS_1] === port + 1) {
        this.#remove(slot);
        removed++;
      } else slot++;
    }
    return removed;
  }

  /**
   * A part of the sweep: looks at up to `budget` slots, from where the last call stopped, and removes what has
   * aged. A whole sweep is `slots` looks. Returns how many entries were removed.
   */
  age(nowSeconds: number, budget: number): number {
    const now = nowSeconds | 0;
    let removed = 0;
    for (let looks = Math.min(budget, this.slots); looks > 0 && this.#size > 0; ) {
      const at = this.#cursor << WORDS_SHIFT;
      if (this.#words[at + PORT_PLUS_1] !== 0 && this.#hasAged(at, now)) {
        // Another entry may have been shifted into this slot, so it is looked at again, which costs no budget:
        // removals are bounded by the entries there are.
        this.#remove(this.#cursor);
        removed++;
      } else {
        this.#cursor = (this.#cursor + 1) & this.#mask;
        looks--;
      }
    }
    return removed;
  }

  /** Slots there are: the budget of a whole sweep. */
  get slots(): number {
    return this.#mask + 1;
  }

  /** Changes the ageing time, for the entries held too. @throws RangeError outside 1 to 1,000,000 seconds. */
  setAging(seconds: number): void {
    demand('learning table agingSeconds', seconds, 1, MAX_AGING_SECONDS);
    this.#agingSeconds = seconds;
  }

  /**
   * Changes how many entries the table may hold, keeping those it has. Allocates and rehashes: not for the hot path.
   * @throws RangeError outside 1 to MAX_CAPACITY, or below the number of entries held.
   */
  setCapacity(capacity: number): void {
    demand('learning table capacity', capacity, 1, MAX_CAPACITY);
    if (capacity < this.#size) {
      throw new RangeError(
        `learning table capacity ${capacity} is less than the ${this.#size} entries held: ` +
          'flush a port or let entries age first, or choose more',
      );
    }
    const old = this.#words;
    this.#words = emptySlots(capacity);
    this.#mask = (this.#words.length >> WORDS_SHIFT) - 1;
    this.#capacity = capacity;
    if (!this.#limitsPorts) this.#maxPerPort = capacity;
    this.#cursor = 0;
    for (let from = 0; from < old.length; from += 1 << WORDS_SHIFT) {
      if (old[from + PORT_PLUS_1] === 0) continue;
      const at = this.#find(old[from + HIGH], old[from + LOW]);
      for (let word = 0; word < 1 << WORDS_SHIFT; word++) this.#words[at + word] = old[from + word];
    }
  }

  /**
   * What the table answers at `nowSeconds`, in no particular order: aged entries are left out. For `show fdb`: it
   * makes an object per entry. Do not change the table between two steps.
   */
  *entries(nowSeconds: number): Generator<LearnedAddress, void, undefined> {
    for (const at of this.#living(nowSeconds)) {
      const [high, low] = [this.#words[at + HIGH], this.#words[at + LOW]];
      const port = this.#words[at + PORT_PLUS_1] - 1;
      yield { mac: formatMac(high, low), vlan: high >>> 16, port, ageSeconds: this.#ageOf(at, nowSeconds) };
    }
  }

  /** {@link entries} without an object for each: the key's words as {@link learn} takes them, the port, the age in seconds. */
  forEach(nowSeconds: number, visit: (high: number, low: number, port: number, ageSeconds: number) => void): void {
    const words = this.#words;
    for (const at of this.#living(nowSeconds)) {
      visit(words[at + HIGH], words[at + LOW], words[at + PORT_PLUS_1] - 1, this.#ageOf(at, nowSeconds));
    }
  }

  /** First words of the entries that have not aged. */
  *#living(nowSeconds: number): Generator<number, void, undefined> {
    for (let at = 0; at < this.#words.length; at += 1 << WORDS_SHIFT) {
      if (this.#words[at + PORT_PLUS_1] !== 0 && !this.#hasAged(at, nowSeconds | 0)) yield at;
    }
  }

  #ageOf(at: number, nowSeconds: number): number {
    return Math.max(0, ((nowSeconds | 0) - this.#words[at + SEEN]) | 0);
  }

  /** Index of the first word of the entry with this key, or of the empty slot where it belongs. */
  #find(high: number, low: number): number {
    const words = this.#words;
    const mask = this.#mask;
    let slot = this.#hash(high, low) & mask;
    // Ends: at least half of the slots are empty.
    for (;;) {
      const at = slot << WORDS_SHIFT;
      if (words[at + PORT_PLUS_1] === 0 || (words[at + LOW] === low && words[at + HIGH] === high)) return at;
      slot = (slot + 1) & mask;
    }
  }

  /** Simple tabulation: one random word per value of each of the key's eight bytes, all xored. */
  #hash(high: number, low: number): number {
    const tables = this.#tables;
    return (
      tables[low & 0xff] ^
      tables[0x100 + ((low >>> 8) & 0xff)] ^
      tables[0x200 + ((low >>> 16) & 0xff)] ^
      tables[0x300 + (low >>> 24)] ^
      tables[0x400 + (high & 0xff)] ^
      tables[0x500 + ((high >>> 8) & 0xff)] ^
      tables[0x600 + ((high >>> 16) & 0xff)] ^
      tables[0x700 + (high >>> 24)]
    );
  }

  #hasAged(at: number, now: number): boolean {
    // A clock that went back makes the difference negative: not aged.
    return ((now - this.#words[at + SEEN]) | 0) >= this.#agingSeconds;
  }

  /**
   * Empties a slot, and closes the gap: an entry further on in the cluster moves back into it unless that would
   * put it before its home slot, where no search would find it.
   */
  #remove(slot: number): void {
    const words = this.#words;
    const mask = this.#mask;
    this.#counts[words[(slot << WORDS_SHIFT) + PORT_PLUS_1] - 1]--;
    this.#size--;
    let gap = slot;
    for (let next = (gap + 1) & mask; ; next = (next + 1) & mask) {
      const from = next << WORDS_SHIFT;
      if (words[from + PORT_PLUS_1] === 0) break;
      const home = this.#hash(words[from + HIGH], words[from + LOW]) & mask;
      // Distances, not indices: the cluster may wrap round the end of the array.
      if (((next - home) & mask) < ((next - gap) & mask)) continue;
      const to = gap << WORDS_SHIFT;
      words[to + HIGH] = words[from + HIGH];
      words[to + LOW] = words[from + LOW];
      words[to + PORT_PLUS_1] = words[from + PORT_PLUS_1];
      words[to + SEEN] = words[from + SEEN];
      gap = next;
    }
    words[(gap << WORDS_SHIFT) + PORT_PLUS_1] = 0;
  }

  #growCounts(port: number): void {
    demand('learning table port', port, 0, MAX_PORT);
    let length = this.#counts.length;
    while (length <= port) length *= 2;
    const counts = new Int32Array(length);
    counts.set(this.#counts);
    this.#counts = counts;
  }
}

function demand(what: string, value: number, least: number, most: number): void {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return;
  throw new RangeError(`${what} is ${value}: give a whole number from ${least} to ${most}`);
}

function emptySlots(capacity: number): Int32Array {
  let slots = 2;
  while (slots < 2 * capacity) slots *= 2;
  return new Int32Array(slots << WORDS_SHIFT);
}

/** KEY_BYTES tables of 256 words, drawn from sfc32 (the generator of PractRand's author, C. Doty-Humphrey). */
function tabulationTables(seed: number): Int32Array {
  const tables = new Int32Array(KEY_BYTES * 256);
  let a = seed | 0;
  let b = Math.floor(seed / 2 ** 32) | 0;
  let c = 0;
  let counter = 1;
  const warmUp = 16; // steps until every bit of the seed has reached every bit of the state
  for (let i = -warmUp; i < tables.length; i++) {
    const word = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + word) | 0;
    if (i >= 0) tables[i] = word;
  }
  return tables;
}

function formatMac(high: number, low: number): string {
  const digits = (high & 0xffff).toString(16).padStart(4, '0') + (low >>> 0).toString(16).padStart(8, '0');
  return digits.match(/../g)!.join(':');
}
