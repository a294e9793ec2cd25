/**
 * SipHash-2-4 (Aumasson, Bernstein 2012): a keyed hash of 64 bits, for everything that attackers must not guess. In halves
 * of 32 bits, since BigInt would allocate, and in one function, so that the state stays in registers.
 */
import type { Random } from '../network.ts';

/** Rounds for each word (the 2 of 2-4), and at the end (the 4). */
const C_ROUNDS = 2;
const D_ROUNDS = 4;

export class SipHash {
  readonly #k0Low: number;
  readonly #k0High: number;
  readonly #k1Low: number;
  readonly #k1High: number;
  /** The last hash. */
  low = 0;
  high = 0;

  /** @param key four words of 32 bits: the 16 bytes of the key, little-endian */
  constructor(key: readonly [number, number, number, number]) {
    [this.#k0Low, this.#k0High, this.#k1Low, this.#k1High] = key;
  }

  static random(random: Random): SipHash {
    return new SipHash([random(), random(), random(), random()]);
  }

  /** Hashes `bytes[start, end)`; the result is in {@link low} and {@link high}, and the low half is given. */
  hash(bytes: Uint8Array, start = 0, end = bytes.length): number {
    // v0 … v3, the low halves in small letters.
    let a = 0x7073_6575 ^ this.#k0Low;
    let A = 0x736f_6d65 ^ this.#k0High;
    let b = 0x6e64_6f6d ^ this.#k1Low;
    let B = 0x646f_7261 ^ this.#k1High;
    let c = 0x6e65_7261 ^ this.#k0Low;
    let C = 0x6c79_6765 ^ this.#k0High;
    let d = 0x7974_6573 ^ this.#k1Low;
    let D = 0x7465_6462 ^ this.#k1High;
    const wholeEnd = start + ((end - start) & ~7);
    for (let at = start; ; at += 8) {
      const isLast = at === wholeEnd;
      let low = 0;
      let high = 0;
      if (!isLast) {
        low = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
        high = bytes[at + 4]! | (bytes[at + 5]! << 8) | (bytes[at + 6]! << 16) | (bytes[at + 7]! << 24);
      } else {
        // What is left over, and the length.
        for (let i = 0; at + i < end; i++) {
          if (i < 4) low |= bytes[at + i]! << (8 * i);
          else high |= bytes[at + i]! << (8 * (i - 4));
        }
        high |= ((end - start) & 0xff) << 24;
      }
      d ^= low;
      D ^= high;
      for (let rounds = isLast ? C_ROUNDS + D_ROUNDS : C_ROUNDS; rounds > 0; rounds--) {
        if (isLast && rounds === D_ROUNDS) {
          a ^= low;
          A ^= high;
          c ^= 0xff;
        }
        // An addition carries when the sum, unsigned, is less than what was added.
        a = (a + b) | 0;
        A = (A + B + (a >>> 0 < b >>> 0 ? 1 : 0)) | 0;
        let t = (b << 13) | (B >>> 19);
        B = ((B << 13) | (b >>> 19)) ^ A;
        b = t ^ a;
        // v0 and v2 rotate by 32: their halves change places.
        t = a;
        a = A;
        A = t;
        c = (c + d) | 0;
        C = (C + D + (c >>> 0 < d >>> 0 ? 1 : 0)) | 0;
        t = (d << 16) | (D >>> 16);
        D = ((D << 16) | (d >>> 16)) ^ C;
        d = t ^ c;
        a = (a + d) | 0;
        A = (A + D + (a >>> 0 < d >>> 0 ? 1 : 0)) | 0;
        t = (d << 21) | (D >>> 11);
        D = ((D << 21) | (d >>> 11)) ^ A;
        d = t ^ a;
        c = (c + b) | 0;
        C = (C + B + (c >>> 0 < b >>> 0 ? 1 : 0)) | 0;
        t = (b << 17) | (B >>> 15);
        B = ((B << 17) | (b >>> 15)) ^ C;
        b = t ^ c;
        t = c;
        c = C;
        C = t;
      }
      if (isLast) break;
      a ^= low;
      A ^= high;
    }
    this.low = (a ^ b ^ c ^ d) >>> 0;
    this.high = (A ^ B ^ C ^ D) >>> 0;
    return this.low;
  }
}
