/**
 * ICMP (RFC 792, RFC 1122 §3.2.2): answers echo requests, tells transports of errors, and sends errors.
 *
 * Control path: it may allocate. How many errors leave is limited ({@link IcmpLimiter}); echo replies are not, as they are never
 * longer than what they answer.
 */
import { finish, sum } from '../../packet/checksum.ts';
import { IPV4_FRAGMENT, IPV4_TOTAL_LENGTH } from '../../packet/header-fields.ts';
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
import { wordAt } from './address-table.ts';
import {
  FRAGMENTATION_NEEDED,
  ICMP_CHECKSUM,
  ICMP_CODE,
  ICMP_ECHO_REPLY,
  ICMP_ECHO_REQUEST,
  ICMP_HEADER_LENGTH,
  ICMP_NEXT_HOP_MTU,
  ICMP_PARAMETER_PROBLEM,
  ICMP_TIME_EXCEEDED,
  ICMP_TYPE,
  ICMP_UNREACHABLE,
  IPPROTO_ICMP,
  IPV4_DF,
  IPV4_OFFSET_MASK,
  read16,
  SOURCE_ROUTE_FAILED,
  UNREACHABLE_HOST_PROHIBITED,
  UNREACHABLE_NET,
  UNREACHABLE_NET_FOR_SERVICE,
  UNREACHABLE_NET_PROHIBITED,
  UNREACHABLE_NET_UNKNOWN,
  UNREACHABLE_PORT,
  UNREACHABLE_PROHIBITED,
  UNREACHABLE_PROTOCOL,
  write16,
  write32,
  writeIpv4Header,
} from './ipv4-header.ts';
import type { NetworkHost, NetworkLayer } from './network-layer.ts';

/** An error with its quote is not longer than what every host takes (RFC 1812 §4.3.2.3). */
const MAX_ERROR_BYTES = 576;
const IP_HEADER = 20;
const TTL = 64;
/** Precedence "internetwork control" (RFC 1812 §4.3.2.5). */
const ERROR_TYPE_OF_SERVICE = 0xc0;
const FIRST_GROUP = 224;
/** MTUs that there are (RFC 1191 §7), for routers that do not tell theirs. */
const PLATEAUS = [65_535, 32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];
const ECHO_TYPE_DIFFERENCE = (ICMP_ECHO_REQUEST - ICMP_ECHO_REPLY) << 8;

export interface IcmpCounters {
  inMsgs: number;
  /** Too short. */
  inErrors: number;
  inCsumErrors: number;
  inEchos: number;
  inEchoReps: number;
  inDestUnreachs: number;
  inTimeExcds: number;
  inParmProbs: number;
  /** Errors that quote nothing of ours. */
  inBadQuotes: number;
  /** Of types that we do nothing about: redirects, source quench (RFC 6633), timestamps, … */
  inIgnored: number;
  outMsgs: number;
  outEchoReps: number;
  outErrors: number;
}

export class Icmp {
  readonly counters: IcmpCounters = {
    inMsgs: 0,
    inErrors: 0,
    inCsumErrors: 0,
    inEchos: 0,
    inEchoReps: 0,
    inDestUnreachs: 0,
    inTimeExcds: 0,
    inParmProbs: 0,
    inBadQuotes: 0,
    inIgnored: 0,
    outMsgs: 0,
    outEchoReps: 0,
    outErrors: 0,
  };
  readonly #host: NetworkHost;
  readonly #layer: NetworkLayer;
  readonly #error = new Uint8Array(MAX_ERROR_BYTES);

  constructor(host: NetworkHost, layer: NetworkLayer) {
    this.#host = host;
    this.#layer = layer;
  }

  input(packet: Packet, now: Time): void {
    const { counters } = this;
    const { bytes, at, end } = packet;
    counters.inMsgs++;
    if (end - at < ICMP_HEADER_LENGTH) {
      counters.inErrors++;
      return;
    }
    if (!packet.verified && finish(sum(bytes, at, end, 0)) !== 0) {
      counters.inCsumErrors++;
      return;
    }
    switch (bytes[at + ICMP_TYPE]) {
      case ICMP_ECHO_REQUEST:
        counters.inEchos++;
        this.#answer(packet);
        return;
      case ICMP_ECHO_REPLY:
        counters.inEchoReps++;
        this.#host.echoes.reply(packet, now);
        return;
      case ICMP_UNREACHABLE:
        counters.inDestUnreachs++;
        this.#unreachable(packet, now);
        return;
      case ICMP_TIME_EXCEEDED:
        counters.inTimeExcds++;
        this.#tell(packet, ERROR_TIME_EXCEEDED, 0, now);
        return;
      case ICMP_PARAMETER_PROBLEM:
        counters.inParmProbs++;
        this.#tell(packet, ERROR_PARAMETER_PROBLEM, 0, now);
        return;
      default:
        counters.inIgnored++;
    }
  }

  /** An echo request for everybody gets no answer (RFC 1122 §3.2.2.6 leaves the choice, and smurfs make it). */
  #answer(packet: Packet): void {
    if (packet.local === NOT_LOCAL) {
      this.counters.inIgnored++;
      return;
    }
    const { network } = this.#host;
    const { bytes, at, end } = packet;
    const length = end - at;
    if (network.beginReply(packet, IPPROTO_ICMP, packet.trafficClass, length) !== BEGUN) return;
    const { outgoing } = network;
    outgoing.bytes.set(bytes.subarray(at, end), outgoing.at);
    outgoing.bytes[outgoing.at + ICMP_TYPE] = ICMP_ECHO_REPLY;
    // Only the type changes, and the checksum with it (RFC 1624).
    const checksum = read16(bytes, at + ICMP_CHECKSUM) + ECHO_TYPE_DIFFERENCE;
    write16(outgoing.bytes, outgoing.at + ICMP_CHECKSUM, (checksum & 0xffff) + (checksum >>> 16));
    network.send(length, -1);
    this.counters.outMsgs++;
    this.counters.outEchoReps++;
  }

  #unreachable(packet: Packet, now: Time): void {
    const { bytes, at, end } = packet;
    const code = bytes[at + ICMP_CODE]!;
    if (code !== FRAGMENTATION_NEEDED) {
      this.#tell(packet, kindOf(code), 0, now);
      return;
    }
    let mtu = read16(bytes, at + ICMP_NEXT_HOP_MTU);
    const quoted = at + ICMP_HEADER_LENGTH;
    if (mtu === 0 && quoted + IP_HEADER <= end) mtu = plateauBelow(read16(bytes, quoted + IPV4_TOTAL_LENGTH));
    // Only what may not be cut can have been too big (RFC 1191 §4).
    if (quoted + IP_HEADER <= end && (read16(bytes, quoted + IPV4_FRAGMENT) & IPV4_DF) === 0) {
      this.counters.inBadQuotes++;
      return;
    }
    this.#tell(packet, ERROR_PACKET_TOO_BIG, mtu, now);
  }

  #tell(packet: Packet, kind: number, mtu: number, now: Time): void {
    const { quoted } = this.#host;
    if (!this.#layer.quote(packet.bytes, packet.at + ICMP_HEADER_LENGTH, packet.end, quoted)) {
      this.counters.inBadQuotes++;
      return;
    }
    this.#host.deliverError(kind, quoted, mtu, now);
  }

  /** Sends an error about a packet to the sender of the frame at hand; `word`: the header's second half. */
  sendError(packet: Packet, type: number, code: number, word: number, now: Time): void {
    const { senderHigh, senderLow } = this.#host;
    this.sendErrorTo(senderHigh, senderLow, packet, type, code, word, now);
  }

  /** The same to another MAC address. Says nothing where RFC 1122 §3.2.2 forbids it, and when there was enough of it. */
  sendErrorTo(
    macHigh: number,
    macLow: number,
    packet: Packet,
    type: number,
    code: number,
    word: number,
    now: Time,
  ): void {
    const { limiter, locals } = this.#host;
    const { bytes, ipAt, source, local } = packet;
    if (local === NOT_LOCAL || !mayBeToldOfErrors(bytes, source)) return;
    if ((read16(bytes, ipAt + IPV4_FRAGMENT) & IPV4_OFFSET_MASK) !== 0) return;
    if (packet.protocol === IPPROTO_ICMP && isIcmpError(bytes, packet.at, packet.end)) return;
    if (!limiter.allow(4, bytes, source, now)) return;
    const error = this.#error;
    const quote = Math.min(packet.end - ipAt, MAX_ERROR_BYTES - IP_HEADER - ICMP_HEADER_LENGTH);
    const total = IP_HEADER + ICMP_HEADER_LENGTH + quote;
    writeIpv4Header(
      error,
      0,
      ERROR_TYPE_OF_SERVICE,
      total,
      0,
      IPV4_DF,
      TTL,
      IPPROTO_ICMP,
      wordAt(locals.address(local), 0),
      wordAt(bytes, source),
    );
    error[IP_HEADER + ICMP_TYPE] = type;
    error[IP_HEADER + ICMP_CODE] = code;
    write16(error, IP_HEADER + ICMP_CHECKSUM, 0);
    write32(error, IP_HEADER + 4, word);
    error.set(bytes.subarray(ipAt, ipAt + quote), IP_HEADER + ICMP_HEADER_LENGTH);
    write16(error, IP_HEADER + ICMP_CHECKSUM, finish(sum(error, IP_HEADER, total, 0)));
    if (!this.#host.sendPacketTo(macHigh, macLow, 4, error, 0, total)) return;
    this.counters.outMsgs++;
    this.counters.outErrors++;
  }
}

/** Not nobody, ourselves, groups and everybody (RFC 1122 §3.2.2). */
function mayBeToldOfErrors(bytes: Uint8Array, source: number): boolean {
  const first = bytes[source]!;
  return first !== 0 && first < FIRST_GROUP;
}

/** Types that are no errors: RFC 792, RFC 950, RFC 1256. Of any other type, it may be one. */
function isIcmpError(bytes: Uint8Array, at: number, end: number): boolean {
  if (at >= end) return true;
  const type = bytes[at]!;
  return !(
    type === ICMP_ECHO_REPLY ||
    type === ICMP_ECHO_REQUEST ||
    (type >= 9 && type <= 10) ||
    (type >= 13 && type <= 18)
  );
}

/** RFC 1122 §4.2.3.9, RFC 5461 §2, RFC 1812 §5.2.7.1. */
function kindOf(code: number): number {
  switch (code) {
    case UNREACHABLE_NET:
    case SOURCE_ROUTE_FAILED:
    case UNREACHABLE_NET_UNKNOWN:
    case UNREACHABLE_NET_FOR_SERVICE:
      return ERROR_UNREACHABLE_NET;
    case UNREACHABLE_PROTOCOL:
      return ERROR_UNREACHABLE_PROTOCOL;
    case UNREACHABLE_PORT:
      return ERROR_UNREACHABLE_PORT;
    case UNREACHABLE_NET_PROHIBITED:
    case UNREACHABLE_HOST_PROHIBITED:
    case UNREACHABLE_PROHIBITED:
      return ERROR_PROHIBITED;
    default:
      return ERROR_UNREACHABLE_HOST;
  }
}

/** The next smaller MTU that there is (RFC 1191 §5). */
export function plateauBelow(bytes: number): number {
  return PLATEAUS.find((plateau) => plateau < bytes) ?? PLATEAUS[PLATEAUS.length - 1]!;
}
