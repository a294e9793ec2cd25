/**
 * SipHash-2-4 (Aumasson, Bernstein 2012): a keyed hash of 64 bits, for everything that attackers must not guess. In halves
 * of 32 bits, since BigInt would allocate.
 */
import type { Random } from '../network.ts';

export class SipHash {
  readonly #k0Low: number;
  readonly #k0High: number;
  readonly #k1Low: number;
  readonly #k1High: number;
  /** The last hash. */
  low = 0;
  high = 0;
  // v0 … v3
  #a = 0;
  #A = 0;
  #b = 0;
  #B = 0;
  #c = 0;
  #C = 0;
  #d = 0;
  #D = 0;

  /** @param key four words of 32 bits: the 16 bytes of the key, little-endian */
  constructor(key: readonly [number, number, number, number]) {
    [this.#k0Low, this.#k0High, this.#k1Low, this.#k1High] = key;
  }

  static random(random: Random): SipHash {
    return new SipHash([random(), random(), random(), random()]);
  }

  /** Hashes `bytes[start, end)`; the result is in {@link low} and {@link high}, and the low half is given. */
  hash(bytes: Uint8Array, start = 0, end = bytes.length): number {
    this.#a = 0x7073_6575 ^ this.#k0Low;
    this.#A = 0x736f_6d65 ^ this.#k0High;
    this.#b = 0x6e64_6f6d ^ this.#k1Low;
    this.#B = 0x646f_7261 ^ this.#k1High;
    this.#c = 0x6e65_7261 ^ this.#k0Low;
    this.#C = 0x6c79_6765 ^ this.#k0High;
    this.#d = 0x7974_6573 ^ this.#k1Low;
    this.#D = 0x7465_6462 ^ this.#k1High;
    let at = start;
    for (; at + 8 <= end; at += 8) this.#word(word(bytes, at), word(bytes, at + 4));
    let low = 0;
    let high = ((end - start) & 0xff) << 24;
    for (let i = 0; at + i < end; i++) {
      if (i < 4) low |= bytes[at + i]! << (8 * i);
      else high |= bytes[at + i]! << (8 * (i - 4));
    }
    this.#word(low, high);
    this.#c ^= 0xff;
    for (let i = 0; i < 4; i++) this.#round();
    this.low = (this.#a ^ this.#b ^ this.#c ^ this.#d) >>> 0;
    this.high = (this.#A ^ this.#B ^ this.#C ^ this.#D) >>> 0;
    return this.low;
  }

  #word(low: number, high: number): void {
    this.#d ^= low;
    this.#D ^= high;
    this.#round();
    this.#round();
    this.#a ^= low;
    this.#A ^= high;
  }

  #round(): void {
    let a = this.#a >>> 0;
    let A = this.#A >>> 0;
    let b = this.#b >>> 0;
    let B = this.#B >>> 0;
    let c = this.#c >>> 0;
    let C = this.#C >>> 0;
    let d = this.#d >>> 0;
    let D = this.#D >>> 0;
    let t = a + b;
    A = (A + B + (t > 0xffff_ffff ? 1 : 0)) >>> 0;
    a = t >>> 0;
    t = (b << 13) | (B >>> 19);
    B = ((B << 13) | (b >>> 19)) ^ A;
    b = (t ^ a) >>> 0;
    // v0 and v2 rotate by 32: their halves change places.
    t = a;
    a = A;
    A = t;
    t = c + d;
    C = (C + D + (t > 0xffff_ffff ? 1 : 0)) >>> 0;
    c = t >>> 0;
    t = (d << 16) | (D >>> 16);
    D = ((D << 16) | (d >>> 16)) ^ C;
    d = t ^ c;
    t = a + (d >>> 0);
    A = (A + (D >>> 0) + (t > 0xffff_ffff ? 1 : 0)) >>> 0;
    a = t >>> 0;
    t = (d << 21) | (D >>> 11);
    D = ((D << 21) | (d >>> 11)) ^ A;
    d = t ^ a;
    t = c + (b >>> 0);
    C = (C + (B >>> 0) + (t > 0xffff_ffff ? 1 : 0)) >>> 0;
    c = t >>> 0;
    t = (b << 17) | (B >>> 15);
    B = ((B << 17) | (b >>> 15)) ^ C;
    b = t ^ c;
    t = c;
    c = C;
    C = t;
    this.#a = a;
    this.#A = A;
    this.#b = b;
    this.#B = B;
    this.#c = c;
    this.#C = C;
    this.#d = d;
    this.#D = D;
  }
}

function word(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
}
