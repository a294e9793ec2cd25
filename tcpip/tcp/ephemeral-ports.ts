/**
 * Ports for connections that name none: RFC 6056 §3.3.4, the double-hash algorithm. Each destination has an offset of its
 * own, and one of a few counters, so that outsiders learn nothing and ports come back late.
 */
import type { Random } from '../network.ts';

/** TABLE_LENGTH of the RFC. */
const COUNTERS = 256;

export class EphemeralPorts {
  readonly #first: number;
  readonly #count: number;
  readonly #keys: [number, number];
  readonly #counters = new Uint32Array(COUNTERS);

  /** Ports are `first` … `last`, both included. */
  constructor(random: Random, first: number, last: number) {
    if (!(Number.isInteger(first) && Number.isInteger(last) && first > 0 && last < 65_536 && first <= last)) {
      throw new RangeError(`ephemeral ports from ${first} to ${last}: give two ports, the lower one first`);
    }
    this.#first = first;
    this.#count = last - first + 1;
    this.#keys = [random(), random()];
    for (let i = 0; i < COUNTERS; i++) this.#counters[i] = random();
  }

  /** A port that `isFree` agrees to, or 0 when there is none. */
  choose(local: number, remote: number, remotePort: number, isFree: (port: number) => boolean): number {
    const offset = mix(local, remote, remotePort, this.#keys[0]);
    const counter = mix(local, remote, remotePort, this.#keys[1]) % COUNTERS;
    for (let i = 0; i < this.#count; i++) {
      const next = this.#counters[counter]!;
      this.#counters[counter] = next + 1;
      const port = this.#first + ((offset + next) % this.#count);
      if (isFree(port)) return port;
    }
    return 0;
  }
}

function mix(a: number, b: number, c: number, key: number): number {
  let h = Math.imul(b ^ key, 0x9e37_79b1) ^ Math.imul(((a << 16) | c) ^ (key >>> 7), 0x85eb_ca6b);
  h = Math.imul(h ^ (h >>> 15) ^ key, 0x2c1b_3c6d);
  h = Math.imul(h ^ (h >>> 12), 0x297a_2d39);
  return (h ^ (h >>> 15)) >>> 0;
}
