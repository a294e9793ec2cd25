/**
 * How many ICMP errors leave (RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f)): a token bucket for all together, and one for each peer.
 *
 * Peers share a fixed number of buckets by a secret hash. What the bucket for all holds is made uncertain, so that nobody
 * can read from it what others are sent (as Linux does since "SAD DNS", CVE-2020-25705).
 */
import { MICROSECONDS_PER_SECOND, type Random, type Time } from '../network.ts';
import type { Family } from '../packet.ts';
import { wordAt } from './address-table.ts';

/** Errors a second over all, and at once (Linux: icmp_msgs_per_sec, icmp_msgs_burst). */
export const ERRORS_PER_SECOND = 1000;
export const ERROR_BURST = 50;
/** The same for one peer. */
export const PEER_ERRORS_PER_SECOND = 10;
export const PEER_ERROR_BURST = 10;

const BUCKETS = 1024;
/** Tokens that may be thought gone, at random. */
const UNCERTAINTY = 3;

export class IcmpLimiter {
  /** Errors that did not leave (Linux: icmp_out_rate_limit_global, …_host). */
  readonly counters = { limitedGlobal: 0, limitedPeer: 0 };
  readonly #random: Random;
  readonly #secret: number;
  #tokens = ERROR_BURST;
  #filled: Time = 0;
  readonly #peerTokens = new Float64Array(BUCKETS).fill(PEER_ERROR_BURST);
  readonly #peerFilled = new Float64Array(BUCKETS);

  constructor(random: Random) {
    this.#random = random;
    this.#secret = random() | 1;
  }

  /** Whether an error to the peer with the address at `at` may leave now; if so it is counted. */
  allow(family: Family, bytes: Uint8Array, at: number, now: Time): boolean {
    this.#tokens = filled(this.#tokens, this.#filled, now, ERRORS_PER_SECOND, ERROR_BURST);
    this.#filled = now;
    if (this.#tokens < 1 + (this.#random() % UNCERTAINTY)) {
      this.counters.limitedGlobal++;
      return false;
    }
    let hash = this.#secret;
    for (let i = 0; i < (family === 4 ? 4 : 16); i += 4) {
      hash = Math.imul(hash ^ wordAt(bytes, at + i), 0x9e3779b1);
      hash ^= hash >>> 15;
    }
    const bucket = Math.imul(hash, this.#secret) >>> 22;
    const tokens = filled(
      this.#peerTokens[bucket]!,
      this.#peerFilled[bucket]!,
      now,
      PEER_ERRORS_PER_SECOND,
      PEER_ERROR_BURST,
    );
    this.#peerFilled[bucket] = now;
    this.#peerTokens[bucket] = tokens;
    if (tokens < 1) {
      this.counters.limitedPeer++;
      return false;
    }
    this.#peerTokens[bucket] = tokens - 1;
    this.#tokens--;
    return true;
  }
}

function filled(tokens: number, since: Time, now: Time, perSecond: number, burst: number): number {
  return Math.min(burst, tokens + ((now - since) * perSecond) / MICROSECONDS_PER_SECOND);
}
