/**
 * The extension headers of a received packet (RFC 8200 §4), walked in the order they stand in, strictly, up to what they
 * lead to: a transport, a fragment header, or a reason to throw the packet away.
 *
 * Any order is taken, and any of them more than once (§4.1), but for hop-by-hop options, which come first or not at all.
 * Bounded as RFC 8504 §5.3 and RFC 8883 have it: see the limits below. Hot for packets with extension headers; allocates
 * nothing.
 */
import {
  IPPROTO_TCP,
  IPPROTO_UDP,
  IPV6_DESTINATION_OPTIONS,
  IPV6_EXTENSION_LENGTH,
  IPV6_FRAGMENT,
  IPV6_HEADER_LENGTH,
  IPV6_HOP_BY_HOP,
  IPV6_NEXT_HEADER,
  IPV6_ROUTING,
  IPV6_ROUTING_SEGMENTS_LEFT,
  TCP_MIN_HEADER_LENGTH,
  UDP_HEADER_LENGTH,
} from '../../packet/header-fields.ts';
import {
  ICMPV6_HEADER_BYTES,
  PROBLEM_FIELD,
  PROBLEM_NEXT_HEADER,
  PROBLEM_OPTION,
  PROBLEM_TOO_MANY_HEADERS,
  PROBLEM_TOO_MANY_OPTIONS,
} from './icmpv6-header.ts';
import {
  ACTION_DISCARD,
  ACTION_REPORT,
  ACTION_SKIP,
  EXTENSION_UNIT,
  FRAGMENT_HEADER_BYTES,
  IPPROTO_ICMPV6,
  IPV6_NO_NEXT_HEADER,
  OPTION_ACTION_SHIFT,
  OPTION_PAD1,
  OPTION_PADN,
  OPTION_ROUTER_ALERT,
  ROUTER_ALERT_DATA_BYTES,
  ROUTING_TYPE,
  uint16At,
} from './ipv6-header.ts';

// What a walk came to.
/** A transport's header is at `at`, of the protocol `protocol`. */
export const CHAIN_TRANSPORT = 0;
/** A fragment header is at `at`. */
export const CHAIN_FRAGMENT = 1;
/** To be thrown away, and nobody is told. */
export const CHAIN_DISCARD = 2;
/** To be thrown away, with a parameter problem of {@link HeaderChain.code} and {@link HeaderChain.pointer}. */
export const CHAIN_PROBLEM = 3;
/** A header does not fit into the packet. */
export const CHAIN_TRUNCATED = 4;

/** Extension headers of one packet. */
export const MAX_EXTENSION_HEADERS = 8;
/** Options of one header, padding not counted (RFC 8504 §5.3). */
export const MAX_OPTIONS = 8;
/** Bytes of padding in a row: more aligns nothing (RFC 8504 §5.3). */
export const MAX_PADDING = 7;

/** No router alert was there. */
export const NO_ROUTER_ALERT = -1;

export class HeaderChain {
  /** Where the transport's or fragment header begins, and what says so. */
  at = 0;
  protocol = 0;
  /** Where the Next Header field stands that says so. */
  protocolAt = 0;
  /** Of a CHAIN_PROBLEM: ICMPv6 code, and the octet that is to blame, counted from the IPv6 header. */
  code = 0;
  pointer = 0;
  /** Tell the sender though the packet was for a group (action 10 of RFC 8200 §4.2). */
  reportGroup = false;
  /** Value of the router alert option (RFC 2711), or NO_ROUTER_ALERT. */
  routerAlert = NO_ROUTER_ALERT;
  #headers = 0;

  /** Walks from the IPv6 header at `ipAt` on; the packet ends at `end`. */
  walk(bytes: Uint8Array, ipAt: number, end: number): number {
    this.routerAlert = NO_ROUTER_ALERT;
    this.#headers = 0;
    return this.#walk(bytes, ipAt, ipAt + IPV6_NEXT_HEADER, ipAt + IPV6_HEADER_LENGTH, end);
  }

  /** Goes on behind the fragment header of an atomic fragment that the walk came to. */
  resume(bytes: Uint8Array, ipAt: number, end: number): number {
    return this.#walk(bytes, ipAt, this.at, this.at + FRAGMENT_HEADER_BYTES, end);
  }

  #walk(bytes: Uint8Array, ipAt: number, field: number, from: number, end: number): number {
    let protocolAt = field;
    let at = from;
    for (;;) {
      const protocol = bytes[protocolAt];
      this.protocol = protocol;
      this.protocolAt = protocolAt;
      this.at = at;
      switch (protocol) {
        case IPV6_HOP_BY_HOP:
        case IPV6_DESTINATION_OPTIONS:
        case IPV6_ROUTING:
        case IPV6_FRAGMENT:
          break;
        case IPV6_NO_NEXT_HEADER:
          return CHAIN_DISCARD;
        default:
          return CHAIN_TRANSPORT;
      }
      // First or nowhere (RFC 8200 §4.1).
      if (protocol === IPV6_HOP_BY_HOP && protocolAt !== ipAt + IPV6_NEXT_HEADER) {
        return this.#problem(PROBLEM_NEXT_HEADER, protocolAt - ipAt);
      }
      if (++this.#headers > MAX_EXTENSION_HEADERS) return this.#problem(PROBLEM_TOO_MANY_HEADERS, at - ipAt);
      if (end - at < EXTENSION_UNIT) return CHAIN_TRUNCATED;
      if (protocol === IPV6_FRAGMENT) return CHAIN_FRAGMENT;
      const length = (bytes[at + IPV6_EXTENSION_LENGTH] + 1) * EXTENSION_UNIT;
      if (length > end - at) return CHAIN_TRUNCATED;
      if (protocol === IPV6_ROUTING) {
        // No type is known here: type 0 is dangerous (RFC 5095), and the others are for those who asked for them.
        if (bytes[at + IPV6_ROUTING_SEGMENTS_LEFT] !== 0) return this.#problem(PROBLEM_FIELD, at + ROUTING_TYPE - ipAt);
      } else {
        const outcome = this.#options(bytes, ipAt, at + 2, at + length, protocol === IPV6_HOP_BY_HOP);
        if (outcome !== CHAIN_TRANSPORT) return outcome;
      }
      protocolAt = at;
      at += length;
    }
  }

  /** CHAIN_TRANSPORT: nothing stands in the way. */
  #options(bytes: Uint8Array, ipAt: number, from: number, end: number, isHopByHop: boolean): number {
    let padding = 0;
    let options = 0;
    for (let at = from; at < end; ) {
      const type = bytes[at];
      if (type === OPTION_PAD1) {
        if (++padding > MAX_PADDING) return CHAIN_DISCARD;
        at++;
        continue;
      }
      if (end - at < 2) return this.#problem(PROBLEM_FIELD, at - ipAt);
      const length = bytes[at + 1];
      if (length > end - at - 2) return this.#problem(PROBLEM_FIELD, at + 1 - ipAt);
      if (type === OPTION_PADN) {
        padding += 2 + length;
        if (padding > MAX_PADDING) return CHAIN_DISCARD;
        at += 2 + length;
        continue;
      }
      padding = 0;
      if (++options > MAX_OPTIONS) return this.#problem(PROBLEM_TOO_MANY_OPTIONS, at - ipAt);
      if (type === OPTION_ROUTER_ALERT && isHopByHop) {
        if (length !== ROUTER_ALERT_DATA_BYTES) return this.#problem(PROBLEM_FIELD, at + 1 - ipAt);
        this.routerAlert = uint16At(bytes, at + 2);
      } else {
        const action = type >>> OPTION_ACTION_SHIFT;
        if (action === ACTION_DISCARD) return CHAIN_DISCARD;
        if (action !== ACTION_SKIP) {
          this.#problem(PROBLEM_OPTION, at - ipAt);
          this.reportGroup = action === ACTION_REPORT;
          return CHAIN_PROBLEM;
        }
      }
      at += 2 + length;
    }
    return CHAIN_TRANSPORT;
  }

  #problem(code: number, pointer: number): number {
    this.code = code;
    this.pointer = pointer;
    this.reportGroup = false;
    return CHAIN_PROBLEM;
  }
}

/**
 * Whether a first fragment has all headers up to the transport's (RFC 7112), beginning with one of `protocol` at `at`: else
 * nobody on the way could tell what it is. Options are not looked into; they are when the packet is whole.
 */
export function isChainWhole(bytes: Uint8Array, protocol: number, from: number, end: number): boolean {
  let next = protocol;
  let at = from;
  while (
    next === IPV6_DESTINATION_OPTIONS ||
    next === IPV6_ROUTING ||
    next === IPV6_HOP_BY_HOP ||
    next === IPV6_FRAGMENT
  ) {
    if (end - at < EXTENSION_UNIT) return false;
    const length =
      next === IPV6_FRAGMENT ? FRAGMENT_HEADER_BYTES : (bytes[at + IPV6_EXTENSION_LENGTH] + 1) * EXTENSION_UNIT;
    if (length > end - at) return false;
    next = bytes[at];
    at += length;
  }
  return end - at >= leastHeader(next);
}

/**
 * Walks the headers of a packet of our own that an error quotes, cut off anywhere. Gives where its transport's header
 * begins, or -1 when that is not there; the protocol is in `chain`.
 */
export function quotedTransport(bytes: Uint8Array, ipAt: number, end: number, chain: HeaderChain): number {
  let protocol = bytes[ipAt + IPV6_NEXT_HEADER];
  let at = ipAt + IPV6_HEADER_LENGTH;
  for (let headers = 0; headers <= MAX_EXTENSION_HEADERS; headers++) {
    switch (protocol) {
      case IPV6_HOP_BY_HOP:
      case IPV6_DESTINATION_OPTIONS:
      case IPV6_ROUTING: {
        if (end - at < EXTENSION_UNIT) return -1;
        const length = (bytes[at + IPV6_EXTENSION_LENGTH] + 1) * EXTENSION_UNIT;
        protocol = bytes[at];
        at += length;
        break;
      }
      case IPV6_FRAGMENT:
        if (end - at < FRAGMENT_HEADER_BYTES) return -1;
        // Only the first one has the transport's header.
        if (uint16At(bytes, at + 2) >>> 3 !== 0) return -1;
        protocol = bytes[at];
        at += FRAGMENT_HEADER_BYTES;
        break;
      default:
        chain.protocol = protocol;
        return at <= end ? at : -1;
    }
  }
  return -1;
}

function leastHeader(protocol: number): number {
  switch (protocol) {
    case IPPROTO_TCP:
      return TCP_MIN_HEADER_LENGTH;
    case IPPROTO_UDP:
      return UDP_HEADER_LENGTH;
    case IPPROTO_ICMPV6:
      return ICMPV6_HEADER_BYTES;
    default:
      return 0;
  }
}
