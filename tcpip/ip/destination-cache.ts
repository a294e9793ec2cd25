/**
 * The destination cache (RFC 4861 §5.1): hosts that we talk to, or did lately, with the way there.
 *
 * A destination is a number, even for IPv4 and odd for IPv6. Everything of one lies in typed arrays: 36 bytes for an IPv4
 * host, 48 for IPv6, so that millions may be held. Those that nobody holds are kept while there is room for them, and
 * the one let go first goes first.
 */
import type { NeighbourCache } from '../link/neighbour-cache.ts';
import {
  type Destinations,
  MICROSECONDS_PER_SECOND,
  NEVER,
  NO_DESTINATION,
  type Random,
  type Ticking,
  type Time,
} from '../network.ts';
import type { Family } from '../packet.ts';
import { ABSENT, AddressTable } from './address-table.ts';

/** {@link DestinationColumns.neighbour}: the way is not known yet, nor needs any neighbour. */
export const UNRESOLVED = -1;
export const TO_GROUP = -2;
export const TO_OURSELVES = -3;

/** When a learnt path MTU is forgotten, and a larger one tried (RFC 1191 §6.3, RFC 8201 §4: 10 minutes). */
export const PATH_MTU_LIFETIME = 600 * MICROSECONDS_PER_SECOND;
/** Not smaller, whatever anybody says: Linux's min_pmtu, and RFC 8200 §5. */
export const MIN_PATH_MTU_IPV4 = 552;
export const MIN_PATH_MTU_IPV6 = 1280;
const MAX_PATH_MTU = 65_535;

const DEFAULT_IDLE = 4096;
const END = -1;

/** The destinations of one family. */
export class DestinationColumns {
  readonly table: AddressTable;
  /** Who holds it; 0: nobody, it is in the list of the idle ones. */
  holders: Uint32Array;
  /** The next hop: a neighbour, to be believed only while {@link version} is the neighbour's; or UNRESOLVED, TO_GROUP, TO_OURSELVES. */
  neighbour: Int32Array;
  version: Int32Array;
  pathMtu: Uint16Array;
  /** Links of the idle ones. */
  next: Int32Array;
  previous: Int32Array;
  oldest = END;
  newest = END;
  idle = 0;
  /** What the link takes, or a router of it asks for (RFC 4861 §4.6.4). */
  linkMtu: number;
  readonly minMtu: number;

  constructor(addressBytes: 4 | 16, random: Random, linkMtu: number, minMtu: number) {
    this.table = new AddressTable(addressBytes, random);
    this.linkMtu = linkMtu;
    this.minMtu = minMtu;
    const { capacity } = this.table;
    this.holders = new Uint32Array(capacity);
    this.neighbour = new Int32Array(capacity);
    this.version = new Int32Array(capacity);
    this.pathMtu = new Uint16Array(capacity);
    this.next = new Int32Array(capacity);
    this.previous = new Int32Array(capacity);
  }

  insert(bytes: Uint8Array, at: number): number {
    const entry = this.table.insert(bytes, at);
    const { capacity } = this.table;
    if (capacity > this.holders.length) {
      this.holders = grown(this.holders, new Uint32Array(capacity));
      this.neighbour = grown(this.neighbour, new Int32Array(capacity));
      this.version = grown(this.version, new Int32Array(capacity));
      this.pathMtu = grown(this.pathMtu, new Uint16Array(capacity));
      this.next = grown(this.next, new Int32Array(capacity));
      this.previous = grown(this.previous, new Int32Array(capacity));
    }
    this.holders[entry] = 0;
    this.neighbour[entry] = UNRESOLVED;
    this.version[entry] = 0;
    this.pathMtu[entry] = this.linkMtu;
    return entry;
  }

  /** Takes one out of the list of the idle ones. */
  unlink(entry: number): void {
    const next = this.next[entry]!;
    const previous = this.previous[entry]!;
    if (previous === END) this.oldest = next;
    else this.next[previous] = next;
    if (next === END) this.newest = previous;
    else this.previous[next] = previous;
    this.idle--;
  }

  /** Puts one at the end of it. */
  link(entry: number): void {
    this.next[entry] = END;
    this.previous[entry] = this.newest;
    if (this.newest === END) this.oldest = entry;
    else this.next[this.newest] = entry;
    this.newest = entry;
    this.idle++;
  }
}

export class DestinationCache implements Destinations, Ticking {
  readonly four: DestinationColumns;
  readonly six: DestinationColumns;
  readonly #neighbours: NeighbourCache;
  readonly #maxIdle: number;
  /** Destinations with a learnt path MTU, and when it is forgotten: all after the same time, so the first is next. */
  readonly #expiry = new Map<number, Time>();

  /**
   * @param mtu the device's
   * @param maxIdle destinations of each family that are kept though nobody holds them; one is in any case
   */
  constructor(random: Random, neighbours: NeighbourCache, mtu: number, maxIdle = DEFAULT_IDLE) {
    this.#neighbours = neighbours;
    this.#maxIdle = Math.max(1, maxIdle);
    const linkMtu = Math.min(mtu, MAX_PATH_MTU);
    this.four = new DestinationColumns(4, random, linkMtu, Math.min(MIN_PATH_MTU_IPV4, linkMtu));
    this.six = new DestinationColumns(16, random, linkMtu, MIN_PATH_MTU_IPV6);
  }

  /** All destinations, held and idle ones. */
  get count(): number {
    return this.four.table.count + this.six.table.count;
  }

  find(family: Family, bytes: Uint8Array, at: number): number {
    if (family === 4) {
      const entry = this.four.table.find(bytes, at);
      return entry === ABSENT ? NO_DESTINATION : 2 * entry;
    }
    const entry = this.six.table.find(bytes, at);
    return entry === ABSENT ? NO_DESTINATION : 2 * entry + 1;
  }

  hold(family: Family, bytes: Uint8Array, at: number): number {
    const columns = family === 4 ? this.four : this.six;
    let entry = columns.table.find(bytes, at);
    if (entry === ABSENT) entry = columns.insert(bytes, at);
    else if (columns.holders[entry] === 0) columns.unlink(entry);
    columns.holders[entry] = columns.holders[entry]! + 1;
    return 2 * entry + (family === 4 ? 0 : 1);
  }

  holdAgain(destination: number): void {
    const columns = this.columns(destination);
    const entry = destination >> 1;
    if (columns.holders[entry] === 0) throw new Error(`destination ${destination} is held by nobody`);
    columns.holders[entry] = columns.holders[entry]! + 1;
  }

  letGo(destination: number): void {
    const columns = this.columns(destination);
    const entry = destination >> 1;
    if (columns.holders[entry] === 0) throw new Error(`destination ${destination} is held by nobody`);
    columns.holders[entry] = columns.holders[entry]! - 1;
    if (columns.holders[entry] !== 0) return;
    columns.link(entry);
    if (columns.idle > this.#maxIdle) this.#forget(columns, columns.oldest, destination & 1);
  }

  family(destination: number): Family {
    return (destination & 1) === 0 ? 4 : 6;
  }

  /** A copy. */
  address(destination: number): Uint8Array {
    const { table } = this.columns(destination);
    const bytes = new Uint8Array(table.addressBytes);
    table.write(destination >> 1, bytes, 0);
    return bytes;
  }

  writeAddress(destination: number, bytes: Uint8Array, at: number): void {
    this.columns(destination).table.write(destination >> 1, bytes, at);
  }

  pathMtu(destination: number): number {
    return this.columns(destination).pathMtu[destination >> 1]!;
  }

  setPathMtu(destination: number, bytes: number, now: Time): void {
    const columns = this.columns(destination);
    const mtu = Math.max(columns.minMtu, Math.min(bytes, columns.linkMtu));
    columns.pathMtu[destination >> 1] = mtu;
    this.#expiry.delete(destination);
    if (mtu < columns.linkMtu) this.#expiry.set(destination, now + PATH_MTU_LIFETIME);
  }

  /** The MTU of the link for a family, where it is not the device's (RFC 4861 §6.3.4): nothing larger leaves from now on. */
  setLinkMtu(family: Family, mtu: number): void {
    const columns = family === 4 ? this.four : this.six;
    const linkMtu = Math.min(Math.max(mtu, columns.minMtu), MAX_PATH_MTU);
    const { pathMtu, linkMtu: before } = columns;
    for (let entry = 0; entry < pathMtu.length; entry++) {
      if (pathMtu[entry]! > linkMtu || pathMtu[entry] === before) pathMtu[entry] = linkMtu;
    }
    columns.linkMtu = linkMtu;
  }

  confirm(destination: number, now: Time): void {
    const columns = this.columns(destination);
    const entry = destination >> 1;
    const neighbour = columns.neighbour[entry]!;
    if (neighbour < 0 || columns.version[entry] !== this.#neighbours.version[neighbour]) return;
    this.#neighbours.confirm(neighbour, now);
  }

  /** The family's columns of a destination. */
  columns(destination: number): DestinationColumns {
    return (destination & 1) === 0 ? this.four : this.six;
  }

  get deadline(): Time {
    for (const expiry of this.#expiry.values()) return expiry;
    return NEVER;
  }

  /** Learnt path MTUs get old. */
  tick(now: Time): void {
    for (const [destination, expiry] of this.#expiry) {
      if (expiry > now) return;
      this.#expiry.delete(destination);
      const columns = this.columns(destination);
      columns.pathMtu[destination >> 1] = columns.linkMtu;
      // The route may have an MTU of its own: it is looked up anew.
      columns.version[destination >> 1] = 0;
    }
  }

  #forget(columns: DestinationColumns, entry: number, odd: number): void {
    columns.unlink(entry);
    this.#expiry.delete(2 * entry + odd);
    columns.table.remove(entry);
  }
}

function grown<T extends Uint32Array | Int32Array | Uint16Array>(from: T, to: T): T {
  to.set(from);
  return to;
}
