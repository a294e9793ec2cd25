/** Where a connection's numbers begin: RFC 6528 §3, and its timestamps: RFC 7323 §5.4, both keyed. */
import type { Random, Time } from '../network.ts';
import { SipHash } from './siphash.ts';

/** The clock of RFC 9293 §3.4.1 ticks every 4 µs. */
const ISN_TICK = 4;
/** Two IPv6 addresses and two ports. */
const KEY_BYTES = 36;

export class InitialSequence {
  readonly #isn: SipHash;
  readonly #stamps: SipHash;
  readonly #ends = new Uint8Array(KEY_BYTES);

  constructor(random: Random) {
    this.#isn = SipHash.random(random);
    this.#stamps = SipHash.random(random);
  }

  /** ISN = M + F(local address, local port, remote address, remote port, secret). */
  isn(local: Uint8Array, remote: Uint8Array, localPort: number, remotePort: number, now: Time): number {
    const end = this.#addresses(local, remote);
    const ends = this.#ends;
    ends[end] = localPort >> 8;
    ends[end + 1] = localPort;
    ends[end + 2] = remotePort >> 8;
    ends[end + 3] = remotePort;
    const clock = Math.floor(now / ISN_TICK) % 2 ** 32;
    return (clock + this.#isn.hash(ends, 0, end + 4)) >>> 0;
  }

  /** What is added to our clock of ms in timestamps: one for each pair of hosts, so that it goes on from one connection to the next. */
  timestampOffset(local: Uint8Array, remote: Uint8Array): number {
    return this.#stamps.hash(this.#ends, 0, this.#addresses(local, remote));
  }

  #addresses(local: Uint8Array, remote: Uint8Array): number {
    const { length } = local;
    for (let i = 0; i < length; i++) {
      this.#ends[i] = local[i]!;
      this.#ends[length + i] = remote[i]!;
    }
    return 2 * length;
  }
}
