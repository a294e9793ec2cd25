/**
 * Addresses of ours. Any number of them, put in and taken out at run time; each has a number, even for IPv4 and odd for
 * IPv6, which stays the address's own: it comes back with it, and no other address gets it while there are fresh ones.
 *
 * What is here may be used: an address whose uniqueness is still being tried out (RFC 4862 §5.4, RFC 5227 §2.1) is not.
 * The lookup is hot and allocates nothing.
 */
import type { LocalAddresses, Random } from '../network.ts';
import { type Family, NOT_LOCAL } from '../packet.ts';
import { ABSENT, AddressTable, wordAt } from './address-table.ts';

/** Addresses of each family, ever and of now; a number fits into 16 bits. */
export const MAX_LOCALS = 2 ** 15;

export interface LocalAddress {
  /** Its number. */
  readonly local: number;
  readonly family: Family;
  /** 4 or 16 bytes, not to be written. */
  readonly bytes: Uint8Array;
  /** Bits of the prefix that is on the link. */
  prefixLength: number;
  /** Not for new conversations where there is another one (RFC 4862 §5.5.4). */
  deprecated: boolean;
  /** IPv6: a temporary address (RFC 8981). */
  temporary: boolean;
  /** 127/8, ::1: for talks with ourselves. */
  readonly loopback: boolean;
}

export interface LocalAddressOptions {
  deprecated?: boolean;
  temporary?: boolean;
  loopback?: boolean;
}

export class LocalTable implements LocalAddresses {
  /** 1 for each number in use. */
  readonly #inUse4 = new Uint8Array(MAX_LOCALS);
  readonly #inUse6 = new Uint8Array(MAX_LOCALS);
  /** Words of the IPv4 address with a number. */
  readonly table4: AddressTable;
  readonly table6: AddressTable;
  readonly #entries = new Map<number, LocalAddress>();
  /** Numbers whose addresses are gone, oldest first. */
  readonly #gone = new Set<number>();
  readonly #watchers: ((address: LocalAddress, added: boolean) => void)[] = [];

  constructor(random: Random) {
    this.table4 = new AddressTable(4, random);
    this.table6 = new AddressTable(16, random);
  }

  /** Calls back whenever an address came or goes; when it goes it is out already. */
  watch(watcher: (address: LocalAddress, added: boolean) => void): void {
    this.#watchers.push(watcher);
  }

  get count(): number {
    return this.#entries.size;
  }

  /**
   * Puts an address in, or changes what is known of one. Throws RangeError for a wrong length or prefix, and when the table
   * is full.
   *
   * @param bytes 4 or 16 bytes
   */
  add(bytes: Uint8Array, prefixLength: number, options: LocalAddressOptions = {}): number {
    if (bytes.length !== 4 && bytes.length !== 16) {
      throw new RangeError(`an address of ${bytes.length} bytes: IPv4 has 4 and IPv6 has 16`);
    }
    if (!(Number.isInteger(prefixLength) && prefixLength >= 0 && prefixLength <= bytes.length * 8)) {
      throw new RangeError(`a prefix of ${prefixLength} bits: give a whole number from 0 to ${bytes.length * 8}`);
    }
    const { deprecated = false, temporary = false, loopback = false } = options;
    const isV6 = bytes.length === 16;
    const table = isV6 ? this.table6 : this.table4;
    let entry = table.find(bytes, 0);
    if (entry === ABSENT) {
      this.#makeRoom(isV6);
      entry = table.insert(bytes, 0);
    }
    const local = 2 * entry + (isV6 ? 1 : 0);
    this.#gone.delete(local);
    const known = this.#entries.get(local);
    const address: LocalAddress = {
      local,
      family: isV6 ? 6 : 4,
      bytes: known?.bytes ?? Uint8Array.from(bytes),
      prefixLength,
      deprecated,
      temporary,
      loopback,
    };
    this.#entries.set(local, address);
    (isV6 ? this.#inUse6 : this.#inUse4)[entry] = 1;
    for (const watcher of this.#watchers) watcher(address, true);
    return local;
  }

  /** Takes an address out. Does nothing when it is not in. */
  remove(local: number): void {
    const address = this.#entries.get(local);
    if (address === undefined) return;
    this.#entries.delete(local);
    this.#gone.add(local);
    (address.family === 6 ? this.#inUse6 : this.#inUse4)[local >> 1] = 0;
    for (const watcher of this.#watchers) watcher(address, false);
  }

  find(family: Family, bytes: Uint8Array, at: number): number {
    if (family === 4) return this.findWord(wordAt(bytes, at));
    const entry = this.table6.find(bytes, at);
    return entry !== ABSENT && this.#inUse6[entry] === 1 ? 2 * entry + 1 : NOT_LOCAL;
  }

  /** {@link find} of an IPv4 address as a signed word. */
  findWord(word: number): number {
    const entry = this.table4.findWord(word);
    return entry !== ABSENT && this.#inUse4[entry] === 1 ? 2 * entry : NOT_LOCAL;
  }

  /** Whether a number is an address of ours now. */
  has(local: number): boolean {
    if (local < 0) return false;
    return ((local & 1) === 0 ? this.#inUse4 : this.#inUse6)[local >> 1] === 1;
  }

  family(local: number): Family {
    return (local & 1) === 0 ? 4 : 6;
  }

  /** Also of one that is gone, as long as nobody else has its number. */
  address(local: number): Uint8Array {
    const known = this.#entries.get(local);
    if (known !== undefined) return known.bytes;
    const isV6 = (local & 1) === 1;
    const bytes = new Uint8Array(isV6 ? 16 : 4);
    (isV6 ? this.table6 : this.table4).write(local >> 1, bytes, 0);
    return bytes;
  }

  get(local: number): LocalAddress | undefined {
    return this.#entries.get(local);
  }

  /** All addresses, in the order they came. */
  all(): IterableIterator<LocalAddress> {
    return this.#entries.values();
  }

  #makeRoom(isV6: boolean): void {
    const table = isV6 ? this.table6 : this.table4;
    if (table.count < MAX_LOCALS) return;
    for (const local of this.#gone) {
      if ((local & 1) !== (isV6 ? 1 : 0)) continue;
      this.#gone.delete(local);
      table.remove(local >> 1);
      return;
    }
    throw new RangeError(`there are ${MAX_LOCALS} addresses of IPv${isV6 ? 6 : 4} already: take one out first`);
  }
}
