/** Receive-side scaling (82599 datasheet §7.1.2.8): flows spread over the queues by their Toeplitz hash. */
import {
  MRQC,
  MRQC_MRQE_RSS,
  MRQC_RSS_FIELD_IPV4,
  MRQC_RSS_FIELD_IPV4_TCP,
  MRQC_RSS_FIELD_IPV4_UDP,
  MRQC_RSS_FIELD_IPV6,
  MRQC_RSS_FIELD_IPV6_TCP,
  MRQC_RSS_FIELD_IPV6_UDP,
  RETA,
  RETA_WORDS,
  RSSRK,
  RSSRK_WORDS,
} from '../registers.ts';
import { RSS_KEY_BYTES } from '../toeplitz.ts';
import type { CardRegisters } from './card-registers.ts';

const FIELDS =
  MRQC_RSS_FIELD_IPV4 |
  MRQC_RSS_FIELD_IPV4_TCP |
  MRQC_RSS_FIELD_IPV4_UDP |
  MRQC_RSS_FIELD_IPV6 |
  MRQC_RSS_FIELD_IPV6_TCP |
  MRQC_RSS_FIELD_IPV6_UDP;
/** Sixteen bits again and again make the hash the same for both directions of a flow. */
const SYMMETRIC = [0x6d, 0x5a];

/** The key that gives both directions of a flow the same hash. */
export function symmetricKey(): Uint8Array {
  return Uint8Array.from({ length: RSS_KEY_BYTES }, (_, i) => SYMMETRIC[i % 2]!);
}

/** Spreads flows over queues 0 … `queues` - 1, 16 at the most. Throws RangeError for a key that has not 40 bytes. */
export function setUpRss(registers: CardRegisters, queues: number, key: Uint8Array): void {
  if (key.length !== RSS_KEY_BYTES) throw new RangeError(`an RSS key has ${RSS_KEY_BYTES} bytes, not ${key.length}`);
  const view = new DataView(key.buffer, key.byteOffset, key.byteLength);
  for (let n = 0; n < RSSRK_WORDS; n++) registers.write(RSSRK(n), view.getUint32(4 * n, true));
  for (let n = 0; n < RETA_WORDS; n++) {
    const queue = (entry: number): number => (4 * n + entry) % queues;
    registers.write(RETA(n), queue(0) | (queue(1) << 8) | (queue(2) << 16) | (queue(3) << 24));
  }
  registers.write(MRQC, queues > 1 ? MRQC_MRQE_RSS | FIELDS : 0);
}
