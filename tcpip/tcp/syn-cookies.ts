/**
 * SYN cookies (RFC 4987 §3.6, as Linux makes them): a SYN-ACK whose number holds all that must be known of the SYN.
 *
 *     cookie = F1(ends) + SEG.SEQ + minute · 2^24 + (F2(ends, minute) + index of the MSS) mod 2^24
 *
 * What there is no room for stands in the low bits of the timestamp, where the other side has timestamps:
 *
 *     | clock of ms, coarse | ECN 1 | SACK 1 | window scale 4, 15 being none |
 */
import { MICROSECONDS_PER_SECOND, type Random, type Time } from '../network.ts';
import type { Packet } from '../packet.ts';
import { ABSENT, type Segment } from './segment.ts';
import { SipHash } from './siphash.ts';

/** Values of the MSS that a cookie can tell, as Linux has them: most clients have one of these. */
const MSS_TABLE = [536, 1220, 1300, 1440, 1460, 4312, 8960];
const MINUTE = 60 * MICROSECONDS_PER_SECOND;
/** A cookie serves for this many minutes. */
const LIFETIME_MINUTES = 2;
const COOKIE_BITS = 24;
const COOKIE_MASK = (1 << COOKIE_BITS) - 1;

const NO_SCALE = 15;
const SCALE_MASK = 15;
const SACK_BIT = 16;
const OPTION_BITS = 6;
const OPTIONS_MASK = (1 << OPTION_BITS) - 1;
/** Two IPv6 addresses, two ports, the minute. */
const KEY_BYTES = 40;

export class SynCookies {
  readonly #secret: SipHash;
  readonly #minuteSecret: SipHash;
  readonly #ends = new Uint8Array(KEY_BYTES);
  #endsLength = 0;
  /** What {@link readTimestamp} found; ABSENT without window scale. */
  windowScale = ABSENT;
  sackPermitted = false;

  constructor(random: Random) {
    this.#secret = SipHash.random(random);
    this.#minuteSecret = SipHash.random(random);
  }

  /** The number for the SYN-ACK that answers a SYN. */
  make(packet: Packet, segment: Segment, mss: number, now: Time): number {
    let index = MSS_TABLE.length - 1;
    while (index > 0 && MSS_TABLE[index]! > mss) index--;
    const minute = Math.floor(now / MINUTE) & 0xff;
    this.#noteEnds(packet, segment);
    const low = (this.#minuteHash(minute) + index) & COOKIE_MASK;
    return (this.#endsHash() + segment.seq + (minute << COOKIE_BITS) + low) >>> 0;
  }

  /** The MSS that the cookie in an ACK tells, or 0 when it is none of ours or too old. */
  check(packet: Packet, segment: Segment, now: Time): number {
    this.#noteEnds(packet, segment);
    const cookie = (segment.ack - 1 - (segment.seq - 1) - this.#endsHash()) >>> 0;
    const minute = cookie >>> COOKIE_BITS;
    const age = (Math.floor(now / MINUTE) - minute) & 0xff;
    if (age > LIFETIME_MINUTES) return 0;
    const index = ((cookie & COOKIE_MASK) - this.#minuteHash(minute)) & COOKIE_MASK;
    return MSS_TABLE[index] ?? 0;
  }

  /** Our timestamp for the SYN-ACK: never later than the clock. */
  timestamp(segment: Segment, nowMs: number): number {
    const scale = segment.windowScale === ABSENT ? NO_SCALE : segment.windowScale;
    const options = scale | (segment.sackPermitted ? SACK_BIT : 0);
    const stamp = (nowMs & ~OPTIONS_MASK) | options;
    return (stamp >>> 0 > nowMs ? stamp - OPTIONS_MASK - 1 : stamp) >>> 0;
  }

  /** Reads what {@link timestamp} wrote, from its echo. */
  readTimestamp(tsEcr: number): void {
    const scale = tsEcr & SCALE_MASK;
    this.windowScale = scale === NO_SCALE ? ABSENT : scale;
    this.sackPermitted = (tsEcr & SACK_BIT) !== 0;
  }

  #noteEnds({ bytes, source, destination, family }: Packet, { sourcePort, destinationPort }: Segment): void {
    const ends = this.#ends;
    const size = family === 4 ? 4 : 16;
    for (let i = 0; i < size; i++) {
      ends[i] = bytes[source + i]!;
      ends[size + i] = bytes[destination + i]!;
    }
    ends[2 * size] = sourcePort >> 8;
    ends[2 * size + 1] = sourcePort;
    ends[2 * size + 2] = destinationPort >> 8;
    ends[2 * size + 3] = destinationPort;
    this.#endsLength = 2 * size + 4;
  }

  #endsHash(): number {
    return this.#secret.hash(this.#ends, 0, this.#endsLength);
  }

  #minuteHash(minute: number): number {
    this.#ends[this.#endsLength] = minute;
    return this.#minuteSecret.hash(this.#ends, 0, this.#endsLength + 1) & COOKIE_MASK;
  }
}
