/**
 * The Toeplitz hash by which network cards spread flows over their queues (receive-side scaling; 82599 datasheet §7.1.2.8.1).
 *
 * The hash is linear: each bit of the input that is set adds (xor) the 32 bits of the key that begin at that bit's place. So
 * one table for each byte of the input, by the byte's value, is all it takes. Hot: hashing allocates nothing.
 */

/** Bytes of a key that every card takes: RSSRK of the 82599 is as long. */
export const RSS_KEY_BYTES = 40;
/** The longest input: two IPv6 addresses and two ports. The hash looks at 32 bits of the key from the last bit on. */
const INPUT_BYTES = RSS_KEY_BYTES - 4;
const BYTE_VALUES = 256;

export class Toeplitz {
  /** What each value of each byte of the input adds. */
  readonly #tables = new Uint32Array(INPUT_BYTES * BYTE_VALUES);

  /** Throws RangeError for a key that has not RSS_KEY_BYTES bytes. */
  constructor(key: Uint8Array) {
    if (key.length !== RSS_KEY_BYTES) {
      throw new RangeError(`an RSS key has ${RSS_KEY_BYTES} bytes, not ${key.length}`);
    }
    const view = new DataView(key.buffer, key.byteOffset, key.byteLength);
    for (let byte = 0; byte < INPUT_BYTES; byte++) {
      const table = this.#tables.subarray(byte * BYTE_VALUES, (byte + 1) * BYTE_VALUES);
      for (let bit = 0; bit < 8; bit++) {
        const next = bit === 0 ? 0 : view.getUint8(byte + 4) >>> (8 - bit);
        const window = (view.getUint32(byte) << bit) | next;
        const value = 0x80 >> bit;
        for (let other = 0; other < BYTE_VALUES; other++) if ((other & value) !== 0) table[other]! ^= window;
      }
    }
  }

  /**
   * Hash of `length` bytes of `bytes` from `at` on, 0 to 2^32 - 1. The input is in network order: source address, destination
   * address, and source and destination port where the card hashes them. Throws RangeError beyond 36 bytes or the array.
   */
  hash(bytes: Uint8Array, at: number, length: number): number {
    if (length > INPUT_BYTES || at < 0 || at + length > bytes.length) {
      throw new RangeError(`bytes ${at} to ${at + length} of ${bytes.length}: a hash takes ${INPUT_BYTES} at the most`);
    }
    const tables = this.#tables;
    let hash = 0;
    for (let i = 0; i < length; i++) hash ^= tables[i * BYTE_VALUES + bytes[at + i]!]!;
    return hash >>> 0;
  }
}
