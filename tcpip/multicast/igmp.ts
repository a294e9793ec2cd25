/**
 * IGMP, version 3 (RFC 3376) and, where older queriers are about, 2 (RFC 2236) and 1 (RFC 1112): the host's part.
 *
 * Every message has a TTL of 1 and, but for version 1, a router alert. 224.0.0.1 is everybody's, and never told of.
 */
import { finish, sum } from '../../packet/checksum.ts';
import { IPV4_PROTOCOL } from '../../packet/header-fields.ts';
import { wordAt } from '../ip/address-table.ts';
import { IPV4_DESTINATION, IPV4_DF, IPV4_SOURCE, writeIpv4Checksum, writeIpv4Header } from '../ip/ipv4-header.ts';
import type { GroupFilter, NetworkHost } from '../ip/network-layer.ts';
import { uint16At, writeUint16 } from '../ipv6/ipv6-header.ts';
import { MICROSECONDS_PER_SECOND, type Ticking, type Time, type Transport } from '../network.ts';
import type { Packet } from '../packet.ts';
import {
  codeOf8,
  IGMP_BYTES,
  IGMP_CHECKSUM,
  IGMP_GROUP,
  IGMP_MAX_RESPONSE,
  IGMP_QUERY,
  IGMPV1_REPORT,
  IGMPV2_LEAVE,
  IGMPV2_REPORT,
  IGMPV3_FLAGS,
  IGMPV3_QQIC,
  IGMPV3_QUERY_BYTES,
  IGMPV3_REPORT,
  IGMPV3_SOURCES,
  IPPROTO_IGMP,
  QRV_MASK,
  RECORD_BYTES,
  RECORD_SOURCES,
  REPORT_BYTES,
  REPORT_RECORDS,
} from './membership-header.ts';
import {
  type GroupRecord,
  type MembershipProtocol,
  Memberships,
  type SourceFilter,
  type Version,
} from './memberships.ts';

const ADDRESS_BYTES = 4;
const IPV4_HEADER = 20;
/** IPv4's router alert option (RFC 2113 §2.1). */
const ROUTER_ALERT = [0x94, 0x04, 0x00, 0x00];
const IPOPT_END = 0;
const IPOPT_NOP = 1;
/** Precedence "internetwork control" (RFC 3376 §4). */
const TYPE_OF_SERVICE = 0xc0;
const TTL = 1;
const ALL_SYSTEMS = 0xe000_0001 | 0;
const ALL_ROUTERS = 0xe000_0002 | 0;
/** 224.0.0.22 (RFC 3376 §4.2.14). */
const ALL_IGMPV3_ROUTERS = 0xe000_0016 | 0;
const TENTH_OF_A_SECOND = MICROSECONDS_PER_SECOND / 10;
/** Of a query of version 1, which tells none (RFC 3376 §7.2.1: "100", in tenths of a second). */
const VERSION_1_MAX_RESPONSE = 10 * MICROSECONDS_PER_SECOND;
/** Room for records in what every link takes (RFC 791 §3.2: 576). */
const MAX_BYTES = 576;
/** A group's MAC address: 01:00:5e and its last 23 bits (RFC 1112 §6.4). */
const MAC_HIGH = 0x0100;
const MAC_LOW = 0x5e00_0000;
const MAC_MASK = 0x007f_ffff;

export class Igmp implements GroupFilter, Ticking, MembershipProtocol, Transport {
  readonly counters = {
    /** Too short, no router alert, or more sources told than there. */
    inInvalid: 0,
    inCsumErrors: 0,
    outReports: 0,
    outLeaves: 0,
  };
  readonly memberships: Memberships;
  readonly #host: NetworkHost;
  readonly #bytes = new Uint8Array(MAX_BYTES);

  constructor(host: NetworkHost) {
    this.#host = host;
    this.memberships = new Memberships(this, ADDRESS_BYTES, host.random);
  }

  get version(): Version {
    return this.memberships.version;
  }

  join(group: Uint8Array, now: Time): void {
    this.memberships.join(group, now);
  }

  leave(group: Uint8Array, now: Time): void {
    this.memberships.leave(group, now);
  }

  setFilter(group: Uint8Array, listener: object, filter: SourceFilter, now: Time): void {
    this.memberships.setFilter(group, listener, filter, now);
  }

  /**
   * Both addresses lie in an IPv4 header. Queries about a group are for its listeners even where they want nothing else of
   * the querier (RFC 3376 §5.2).
   */
  has(bytes: Uint8Array, group: number, source: number): boolean {
    if (bytes[source - IPV4_SOURCE + IPV4_PROTOCOL] === IPPROTO_IGMP) return this.memberships.isIn(bytes, group);
    return this.memberships.has(bytes, group, source);
  }

  get deadline(): Time {
    return this.memberships.deadline;
  }

  tick(now: Time): void {
    this.memberships.tick(now);
  }

  /** A packet of IGMP. */
  input(packet: Packet, now: Time): void {
    const { bytes, at, end } = packet;
    const length = end - at;
    if (length < IGMP_BYTES) {
      this.counters.inInvalid++;
      return;
    }
    if (finish(sum(bytes, at, end, 0)) !== 0) {
      this.counters.inCsumErrors++;
      return;
    }
    switch (bytes[at]) {
      case IGMP_QUERY:
        this.#query(packet, length, now);
        return;
      case IGMPV1_REPORT:
      case IGMPV2_REPORT:
        this.memberships.othersReport(bytes, at + IGMP_GROUP);
        return;
      // What others tell routers; and messages that nobody knows (RFC 3376 §4).
    }
  }

  /** RFC 3376 §7.1 tells the versions apart. */
  #query(packet: Packet, length: number, now: Time): void {
    const { bytes, at } = packet;
    const code = bytes[at + IGMP_MAX_RESPONSE];
    const version: Version = length >= IGMPV3_QUERY_BYTES ? 3 : code === 0 ? 1 : 2;
    const isValid = length === IGMP_BYTES || length >= IGMPV3_QUERY_BYTES;
    // §9.1: forged queries from outside of the link have none.
    if (!isValid || (version > 1 && !hasRouterAlert(packet))) {
      this.counters.inInvalid++;
      return;
    }
    const sources: Uint8Array[] = [];
    if (version === 3) {
      const count = uint16At(bytes, at + IGMPV3_SOURCES);
      if (count * ADDRESS_BYTES > length - IGMPV3_QUERY_BYTES) {
        this.counters.inInvalid++;
        return;
      }
      for (let i = 0; i < count; i++) {
        const source = at + IGMPV3_QUERY_BYTES + ADDRESS_BYTES * i;
        sources.push(bytes.slice(source, source + ADDRESS_BYTES));
      }
    }
    const group = at + IGMP_GROUP;
    this.memberships.query(
      {
        version,
        maxResponse:
          version === 1 ? VERSION_1_MAX_RESPONSE : (version === 3 ? codeOf8(code) : code) * TENTH_OF_A_SECOND,
        group: wordAt(bytes, group) === 0 ? null : bytes.slice(group, group + ADDRESS_BYTES),
        sources,
        robustness: version === 3 ? bytes[at + IGMPV3_FLAGS] & QRV_MASK : 0,
        interval: version === 3 ? codeOf8(bytes[at + IGMPV3_QQIC]) * MICROSECONDS_PER_SECOND : 0,
      },
      now,
    );
  }

  /** Nothing of ours can be unreachable: it does not leave the link. */
  error(): boolean {
    return false;
  }

  /** Reports that found no room are sent again anyway. */
  writable(): void {}

  isReported(group: Uint8Array): boolean {
    return wordAt(group, 0) !== ALL_SYSTEMS;
  }

  /** RFC 3376 §4.2. */
  report(records: readonly GroupRecord[]): void {
    const bytes = this.#bytes;
    const at = IPV4_HEADER + ROUTER_ALERT.length;
    for (let next = 0; next < records.length; ) {
      bytes.fill(0, at, at + REPORT_BYTES);
      bytes[at] = IGMPV3_REPORT;
      let length = REPORT_BYTES;
      let count = 0;
      while (next < records.length) {
        const { type, group, sources } = records[next];
        const recordBytes = RECORD_BYTES + ADDRESS_BYTES * (1 + sources.length);
        if (at + length + recordBytes > bytes.length) break;
        const record = at + length;
        bytes[record] = type;
        bytes[record + 1] = 0;
        writeUint16(bytes, record + RECORD_SOURCES, sources.length);
        bytes.set(group, record + RECORD_BYTES);
        for (let i = 0; i < sources.length; i++) bytes.set(sources[i], record + RECORD_BYTES + ADDRESS_BYTES * (1 + i));
        length += recordBytes;
        count++;
        next++;
      }
      writeUint16(bytes, at + REPORT_RECORDS, count);
      this.counters.outReports++;
      this.#send(ALL_IGMPV3_ROUTERS, at, length);
    }
  }

  reportOld(version: 1 | 2, group: Uint8Array): void {
    this.counters.outReports++;
    this.#old(version === 1 ? IGMPV1_REPORT : IGMPV2_REPORT, version === 2, group, wordAt(group, 0));
  }

  /** Version 1 goes without a word (RFC 1112 appendix I). */
  leaveOld(version: 1 | 2, group: Uint8Array): void {
    if (version === 1) return;
    this.counters.outLeaves++;
    this.#old(IGMPV2_LEAVE, true, group, ALL_ROUTERS);
  }

  #old(type: number, alert: boolean, group: Uint8Array, destination: number): void {
    const at = IPV4_HEADER + (alert ? ROUTER_ALERT.length : 0);
    const bytes = this.#bytes;
    bytes.fill(0, at, at + IGMP_BYTES);
    bytes[at] = type;
    bytes.set(group, at + IGMP_GROUP);
    this.#send(destination, at, IGMP_BYTES);
  }

  /** Completes the message of `length` bytes at `at`, and sends it. */
  #send(destination: number, at: number, length: number): void {
    const bytes = this.#bytes;
    const end = at + length;
    writeUint16(bytes, at + IGMP_CHECKSUM, 0);
    writeUint16(bytes, at + IGMP_CHECKSUM, finish(sum(bytes, at, end, 0)));
    writeIpv4Header(bytes, 0, TYPE_OF_SERVICE, end, 0, IPV4_DF, TTL, IPPROTO_IGMP, this.#source(), destination);
    if (at > IPV4_HEADER) {
      bytes[0] = 0x40 | (at >> 2);
      bytes.set(ROUTER_ALERT, IPV4_HEADER);
      writeIpv4Checksum(bytes, 0, at);
    }
    const macLow = MAC_LOW | (wordAt(bytes, IPV4_DESTINATION) & MAC_MASK);
    this.#host.sendPacketTo(MAC_HIGH, macLow, 4, bytes, 0, end);
  }

  /** The interface's address, or 0.0.0.0 as long as there is none (RFC 3376 §4.2.13). */
  #source(): number {
    for (const { family, bytes, loopback } of this.#host.locals.all())
      if (family === 4 && !loopback) return wordAt(bytes, 0);
    return 0;
  }
}

/** Whether the IPv4 header has a router alert. The layer has checked its options' lengths. */
function hasRouterAlert({ bytes, ipAt }: Packet): boolean {
  const end = ipAt + ((bytes[ipAt] & 0x0f) << 2);
  for (let at = ipAt + IPV4_HEADER; at < end && bytes[at] !== IPOPT_END; ) {
    if (bytes[at] === ROUTER_ALERT[0]) return true;
    if (bytes[at] === IPOPT_NOP) at++;
    else if (at + 1 < end && bytes[at + 1] >= 2) at += bytes[at + 1];
    else return false;
  }
  return false;
}
