/**
 * Identification of packets that are fragments, or may become some (RFC 6864 §4.3, RFC 7739 §5.3): counters that many
 * destinations share by a secret hash, and that take a random step each time, so that nobody learns from his own
 * what others are sent. Nothing is used again soon: a counter has to come round first.
 */
import type { Random } from '../network.ts';

const COUNTERS = 2048;
const COUNTERS_SHIFT = 21;
const MAX_STEP = 4;

export class Identification {
  readonly #random: Random;
  readonly #secret: number;
  readonly #counters: Uint32Array;

  constructor(random: Random) {
    this.#random = random;
    this.#secret = random();
    this.#counters = Uint32Array.from({ length: COUNTERS }, random);
  }

  /** 32 bits for IPv6; IPv4 takes the low 16. */
  next(destination: number): number {
    const mixed = Math.imul(destination ^ this.#secret, 0x9e3779b1);
    const counter = Math.imul(mixed ^ (mixed >>> 15), this.#secret | 1) >>> COUNTERS_SHIFT;
    this.#counters[counter] = this.#counters[counter]! + 1 + (this.#random() % MAX_STEP);
    return this.#counters[counter]!;
  }
}
