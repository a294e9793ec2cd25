/**
 * ICMPv6 that comes in (RFC 4443): answers echo requests, tells transports of errors, and hands neighbour discovery and
 * multicast listener discovery on.
 *
 * Control path: it may allocate.
 */
import { finish, pseudoHeaderSumIpv6, sum } from '../../packet/checksum.ts';
import type { NetworkHost, NetworkLayer } from '../ip/network-layer.ts';
import {
  BEGUN,
  ERROR_PACKET_TOO_BIG,
  ERROR_PARAMETER_PROBLEM,
  ERROR_PROHIBITED,
  ERROR_TIME_EXCEEDED,
  ERROR_UNREACHABLE_HOST,
  ERROR_UNREACHABLE_NET,
  ERROR_UNREACHABLE_PORT,
  ERROR_UNREACHABLE_PROTOCOL,
  type Time,
} from '../network.ts';
import { NOT_LOCAL, type Packet } from '../packet.ts';
import { isMulticast, isUnspecified } from './addresses.ts';
import {
  DESTINATION_UNREACHABLE,
  ECHO_REPLY,
  ECHO_REQUEST,
  ICMPV6_CHECKSUM,
  ICMPV6_CODE,
  ICMPV6_ERROR_WORD,
  ICMPV6_HEADER_BYTES,
  ICMPV6_INFORMATIONAL,
  MLD_QUERY,
  MLDV1_DONE,
  MLDV1_REPORT,
  MLDV2_REPORT,
  NEIGHBOUR_ADVERTISEMENT,
  NEIGHBOUR_SOLICITATION,
  PACKET_TOO_BIG,
  PARAMETER_PROBLEM,
  PROBLEM_NEXT_HEADER,
  REDIRECT,
  ROUTER_ADVERTISEMENT,
  ROUTER_SOLICITATION,
  TIME_EXCEEDED,
  UNREACHABLE_ADDRESS,
  UNREACHABLE_NO_ROUTE,
  UNREACHABLE_POLICY,
  UNREACHABLE_PORT,
  UNREACHABLE_PROHIBITED,
  UNREACHABLE_REJECT_ROUTE,
} from './icmpv6-header.ts';
import type { Icmpv6Output } from './icmpv6-output.ts';
import { IPPROTO_ICMPV6, IPV6_MIN_MTU, uint32At } from './ipv6-header.ts';

/** What {@link Icmpv6} hands packets on to. */
export interface Icmpv6Users {
  /** Neighbour discovery. */
  discovery(packet: Packet, now: Time): void;
  /** Multicast listener discovery: `routerAlert` as the packet's hop-by-hop header has it. */
  listeners(packet: Packet, now: Time): void;
  /** An address of ours to answer the one at `at` from. */
  sourceFor(bytes: Uint8Array, at: number): Uint8Array | null;
}

export class Icmpv6 {
  readonly counters = {
    inMsgs: 0,
    /** Too short. */
    inErrors: 0,
    inCsumErrors: 0,
    inEchos: 0,
    inEchoReplies: 0,
    inDestUnreachs: 0,
    inPktTooBigs: 0,
    inTimeExcds: 0,
    inParmProblems: 0,
    /** Errors that quote nothing of ours. */
    inBadQuotes: 0,
    /** Packet too big, with an MTU that no path of IPv6 has (RFC 8201 §4). */
    inBadMtus: 0,
    /** Types that we do nothing about. */
    inIgnored: 0,
    outEchoReplies: 0,
  };
  readonly #host: NetworkHost;
  readonly #layer: NetworkLayer;
  readonly #output: Icmpv6Output;
  readonly #users: Icmpv6Users;

  constructor(host: NetworkHost, layer: NetworkLayer, output: Icmpv6Output, users: Icmpv6Users) {
    this.#host = host;
    this.#layer = layer;
    this.#output = output;
    this.#users = users;
  }

  input(packet: Packet, now: Time): void {
    const { counters } = this;
    const { bytes, at, end, source } = packet;
    counters.inMsgs++;
    if (end - at < ICMPV6_HEADER_BYTES) {
      counters.inErrors++;
      return;
    }
    if (!packet.verified) {
      const partial = pseudoHeaderSumIpv6(bytes, source, IPPROTO_ICMPV6, end - at);
      if (finish(sum(bytes, at, end, partial)) !== 0) {
        counters.inCsumErrors++;
        return;
      }
    }
    switch (bytes[at]) {
      case ECHO_REQUEST:
        counters.inEchos++;
        this.#answer(packet, now);
        return;
      case ECHO_REPLY:
        counters.inEchoReplies++;
        this.#host.echoes.reply(packet, now);
        return;
      case NEIGHBOUR_SOLICITATION:
      case NEIGHBOUR_ADVERTISEMENT:
      case ROUTER_ADVERTISEMENT:
      case REDIRECT:
        this.#users.discovery(packet, now);
        return;
      case MLD_QUERY:
      case MLDV1_REPORT:
        this.#users.listeners(packet, now);
        return;
      // What hosts tell routers.
      case MLDV1_DONE:
      case MLDV2_REPORT:
      case ROUTER_SOLICITATION:
        counters.inIgnored++;
        return;
      case DESTINATION_UNREACHABLE:
        counters.inDestUnreachs++;
        this.#tell(packet, unreachableKind(bytes[at + ICMPV6_CODE]), 0, now);
        return;
      case PACKET_TOO_BIG:
        counters.inPktTooBigs++;
        this.#tooBig(packet, now);
        return;
      case TIME_EXCEEDED:
        counters.inTimeExcds++;
        this.#tell(packet, ERROR_TIME_EXCEEDED, 0, now);
        return;
      case PARAMETER_PROBLEM: {
        counters.inParmProblems++;
        const isProtocol = bytes[at + ICMPV6_CODE] === PROBLEM_NEXT_HEADER;
        this.#tell(packet, isProtocol ? ERROR_UNREACHABLE_PROTOCOL : ERROR_PARAMETER_PROBLEM, 0, now);
        return;
      }
      default:
        counters.inIgnored++;
        // Unknown errors are the transport's as well (RFC 4443 §2.4 (a)); of others nobody knows anything (b).
        if (bytes[at] < ICMPV6_INFORMATIONAL) this.#tell(packet, ERROR_PARAMETER_PROBLEM, 0, now);
    }
  }

  /** RFC 4443 §4.2: a request for a group is answered as well, but only so often. */
  #answer(packet: Packet, now: Time): void {
    const { bytes, at, end, source, local } = packet;
    if (isUnspecified(bytes, source) || isMulticast(bytes, source)) return;
    const length = end - at;
    if (local !== NOT_LOCAL) {
      const { network } = this.#host;
      if (network.beginReply(packet, IPPROTO_ICMPV6, packet.trafficClass, length) !== BEGUN) return;
      const { outgoing } = network;
      for (let i = 0; i < length; i++) outgoing.bytes[outgoing.at + i] = bytes[at + i];
      outgoing.bytes[outgoing.at] = ECHO_REPLY;
      outgoing.bytes[outgoing.at + ICMPV6_CODE] = 0;
      network.send(length, ICMPV6_CHECKSUM);
      this.counters.outEchoReplies++;
      return;
    }
    const from = this.#users.sourceFor(bytes, source);
    if (from === null || length > this.#host.link.mtu - 40 || !this.#host.limiter.allow(6, bytes, source, now)) return;
    const output = this.#output;
    output.reserve(length);
    const reply = output.begin(ECHO_REPLY, 0);
    output.bytes.set(bytes.subarray(at + 4, end), reply + 4);
    output.finish(from, 0, bytes, source, 64, length);
    output.toMac(this.#host.senderHigh, this.#host.senderLow);
    this.counters.outEchoReplies++;
  }

  #tooBig(packet: Packet, now: Time): void {
    const mtu = uint32At(packet.bytes, packet.at + ICMPV6_ERROR_WORD);
    if (mtu < IPV6_MIN_MTU) {
      this.counters.inBadMtus++;
      return;
    }
    this.#tell(packet, ERROR_PACKET_TOO_BIG, mtu, now);
  }

  #tell(packet: Packet, kind: number, mtu: number, now: Time): void {
    const { quoted } = this.#host;
    if (!this.#layer.quote(packet.bytes, packet.at + ICMPV6_HEADER_BYTES, packet.end, quoted)) {
      this.counters.inBadQuotes++;
      return;
    }
    this.#host.deliverError(kind, quoted, mtu, now);
  }
}

/** RFC 4443 §3.1. */
function unreachableKind(code: number): number {
  switch (code) {
    case UNREACHABLE_NO_ROUTE:
      return ERROR_UNREACHABLE_NET;
    case UNREACHABLE_PROHIBITED:
    case UNREACHABLE_POLICY:
    case UNREACHABLE_REJECT_ROUTE:
      return ERROR_PROHIBITED;
    case UNREACHABLE_PORT:
      return ERROR_UNREACHABLE_PORT;
    case UNREACHABLE_ADDRESS:
      return ERROR_UNREACHABLE_HOST;
    default:
      return ERROR_UNREACHABLE_HOST;
  }
}
