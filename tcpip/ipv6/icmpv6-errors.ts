/** ICMPv6 errors that we send (RFC 4443 §3), and when we must not (§2.4 (e), (f)). */
import { IPV6_HEADER_LENGTH } from '../../packet/header-fields.ts';
import type { NetworkHost } from '../ip/network-layer.ts';
import type { Time } from '../network.ts';
import { NOT_LOCAL } from '../packet.ts';
import { isMulticast, isUnspecified } from './addresses.ts';
import { HeaderChain, quotedTransport } from './header-chain.ts';
import {
  ICMPV6_ERROR_WORD,
  ICMPV6_HEADER_BYTES,
  ICMPV6_INFORMATIONAL,
  PARAMETER_PROBLEM,
  PROBLEM_OPTION,
  REDIRECT,
} from './icmpv6-header.ts';
import type { Icmpv6Output } from './icmpv6-output.ts';
import { IPPROTO_ICMPV6, IPV6_DESTINATION, IPV6_MIN_MTU, IPV6_SOURCE, writeUint32 } from './ipv6-header.ts';

export class Icmpv6Errors {
  readonly #host: NetworkHost;
  readonly #output: Icmpv6Output;
  readonly #chain = new HeaderChain();
  /** Hop limit of what we send. */
  hopLimit = 64;

  constructor(host: NetworkHost, output: Icmpv6Output) {
    this.#host = host;
    this.#output = output;
  }

  /**
   * Sends an error about the packet in `bytes[ipAt, end)`, unless a rule forbids it or the rate limit is reached.
   *
   * @param word the 32 bits behind the checksum: the pointer of a parameter problem
   * @param wasGroupFrame its frame was for everybody or a group of stations
   * @param allowGroup whether the packet may have been for a group: RFC 4443 §2.4 (e.3) has two such cases
   * @param macHigh where the frame came from; the answer goes there
   */
  send(
    type: number,
    code: number,
    word: number,
    bytes: Uint8Array,
    ipAt: number,
    end: number,
    wasGroupFrame: boolean,
    allowGroup: boolean,
    macHigh: number,
    macLow: number,
    now: Time,
  ): boolean {
    const host = this.#host;
    const source = ipAt + IPV6_SOURCE;
    const destination = ipAt + IPV6_DESTINATION;
    const isGroup = wasGroupFrame || isMulticast(bytes, destination);
    // (e.3) to (e.5).
    if (isGroup && !(allowGroup && type === PARAMETER_PROBLEM && code === PROBLEM_OPTION)) return false;
    // (e.6): nobody could be told.
    if (isUnspecified(bytes, source) || isMulticast(bytes, source)) return false;
    // (e.1), (e.2).
    if (this.#isAboutError(bytes, ipAt, end)) return false;
    const local = host.locals.find(6, bytes, destination);
    const from = local === NOT_LOCAL ? this.sourceFor(bytes, source) : host.locals.address(local);
    if (from === null) return false;
    if (!host.limiter.allow(6, bytes, source, now)) return false;
    const quoted = Math.min(end - ipAt, IPV6_MIN_MTU - IPV6_HEADER_LENGTH - ICMPV6_HEADER_BYTES);
    const output = this.#output;
    const at = output.begin(type, code);
    writeUint32(output.bytes, at + ICMPV6_ERROR_WORD, word);
    output.bytes.set(bytes.subarray(ipAt, ipAt + quoted), at + ICMPV6_HEADER_BYTES);
    output.finish(from, 0, bytes, source, this.hopLimit, ICMPV6_HEADER_BYTES + quoted);
    output.counters.outErrors++;
    return output.toMac(macHigh, macLow);
  }

  /** Set by IPv6: an address of ours to answer the one at `at` from. */
  sourceFor: (bytes: Uint8Array, at: number) => Uint8Array | null = () => null;

  /** Whether it is an ICMPv6 error or a redirect itself, as far as its headers can be followed. */
  #isAboutError(bytes: Uint8Array, ipAt: number, end: number): boolean {
    const chain = this.#chain;
    const at = quotedTransport(bytes, ipAt, end, chain);
    if (at < 0) return false;
    if (chain.protocol !== IPPROTO_ICMPV6) return false;
    if (at >= end) return true;
    const type = bytes[at];
    return type < ICMPV6_INFORMATIONAL || type === REDIRECT;
  }
}
