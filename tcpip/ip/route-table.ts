/**
 * Routes: the longest prefix that fits says where a packet goes, among equals the smallest metric (RFC 1812 §5.2.4.3), then
 * the one that came first.
 *
 * Looked at only when something about a destination is not known or has changed, so a plain list in order does.
 */
import type { Family } from '../packet.ts';

/** Routes at the most; what a router advertises is bounded before. */
export const MAX_ROUTES = 65_536;

export interface RouteOptions {
  /** 4 or 16 bytes; those behind the prefix do not matter. */
  prefix: Uint8Array;
  /** Bits of it; 0: the default route. */
  prefixLength: number;
  /** The next hop, of the same family; none: the destinations are on the link. */
  gateway?: Uint8Array;
  /** The smaller one wins. Default 0. */
  metric?: number;
  /** What it takes in one piece; default: what the device does. */
  mtu?: number;
  /** Address of ours to send from, when the program has no wish. */
  source?: Uint8Array;
  /** For listings: who made it. Default 'static'. */
  origin?: string;
}

export interface Route {
  readonly family: Family;
  readonly prefix: Uint8Array;
  readonly prefixLength: number;
  readonly gateway: Uint8Array | null;
  readonly metric: number;
  readonly mtu: number;
  readonly source: Uint8Array | null;
  readonly origin: string;
}

export class RouteTable {
  /** Longest prefixes first, then smallest metrics. */
  readonly #routes4: Route[] = [];
  readonly #routes6: Route[] = [];
  /** Called after each change. */
  onChange: () => void = () => {};

  /** Adds a route. Throws RangeError when a length is wrong or the table is full. */
  add(options: RouteOptions): Route {
    const { prefix, prefixLength, gateway = null, metric = 0, mtu = 0, source = null, origin = 'static' } = options;
    const bytes = prefix.length;
    if (bytes !== 4 && bytes !== 16) {
      throw new RangeError(`a route to a prefix of ${bytes} bytes: IPv4 has 4 and IPv6 has 16`);
    }
    if (!(Number.isInteger(prefixLength) && prefixLength >= 0 && prefixLength <= 8 * bytes)) {
      throw new RangeError(`a route to a prefix of ${prefixLength} bits: give a whole number from 0 to ${8 * bytes}`);
    }
    for (const [what, address] of [
      ['gateway', gateway],
      ['source', source],
    ] as const) {
      if (address !== null && address.length !== bytes) {
        throw new RangeError(`a route of ${bytes}-byte addresses with a ${what} of ${address.length} bytes`);
      }
    }
    const list = this.#list(bytes === 4 ? 4 : 6);
    if (list.length >= MAX_ROUTES) throw new RangeError(`there are ${MAX_ROUTES} routes already: remove one first`);
    const route: Route = {
      family: bytes === 4 ? 4 : 6,
      prefix: masked(prefix, prefixLength),
      prefixLength,
      gateway: gateway === null ? null : Uint8Array.from(gateway),
      metric,
      mtu,
      source: source === null ? null : Uint8Array.from(source),
      origin,
    };
    const place = list.findIndex(
      (other) => other.prefixLength < prefixLength || (other.prefixLength === prefixLength && other.metric > metric),
    );
    list.splice(place < 0 ? list.length : place, 0, route);
    this.onChange();
    return route;
  }

  /** Removes a route that add() gave. False: it was gone. */
  remove(route: Route): boolean {
    const list = this.#list(route.family);
    const place = list.indexOf(route);
    if (place < 0) return false;
    list.splice(place, 1);
    this.onChange();
    return true;
  }

  /** The route for the address at `at`, or null. */
  find(family: Family, bytes: Uint8Array, at: number): Route | null {
    for (const route of this.#list(family)) {
      if (matches(route.prefix, route.prefixLength, bytes, at)) return route;
    }
    return null;
  }

  list(family: Family): readonly Route[] {
    return this.#list(family);
  }

  #list(family: Family): Route[] {
    return family === 4 ? this.#routes4 : this.#routes6;
  }
}

/** Whether the address at `at` begins with the first `bits` of `prefix`. */
export function matches(prefix: Uint8Array, bits: number, bytes: Uint8Array, at: number): boolean {
  const whole = bits >> 3;
  for (let i = 0; i < whole; i++) {
    if (prefix[i] !== bytes[at + i]) return false;
  }
  const rest = bits & 7;
  return rest === 0 || (prefix[whole]! ^ bytes[at + whole]!) >> (8 - rest) === 0;
}

function masked(prefix: Uint8Array, bits: number): Uint8Array {
  return prefix.map((byte, i) => {
    const rest = Math.min(8, Math.max(0, bits - 8 * i));
    return byte & (0xff00 >> rest);
  });
}
