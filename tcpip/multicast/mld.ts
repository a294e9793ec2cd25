/**
 * Multicast listener discovery, version 2 (RFC 3810) and, where an older querier is about, version 1 (RFC 2710): the host's part.
 *
 * Every message has a hop-by-hop header with a router alert, a hop limit of 1, and a link-local source (:: as long as
 * there is none, RFC 3590).
 */
import type { GroupFilter, NetworkHost } from '../ip/network-layer.ts';
import {
  ALL_MLDV2_ROUTERS,
  ALL_NODES,
  ALL_ROUTERS,
  isLinkLocal,
  isUnspecified,
  UNSPECIFIED,
} from '../ipv6/addresses.ts';
import { MLD_QUERY, MLDV1_DONE, MLDV1_REPORT, MLDV2_REPORT } from '../ipv6/icmpv6-header.ts';
import type { Icmpv6Output } from '../ipv6/icmpv6-output.ts';
import { IPV6_ADDRESS_BYTES, IPV6_MIN_MTU, ROUTER_ALERT_MLD, uint16At, writeUint16 } from '../ipv6/ipv6-header.ts';
import { MICROSECONDS_PER_SECOND, type Ticking, type Time } from '../network.ts';
import type { Packet } from '../packet.ts';
import {
  codeOf8,
  codeOf16,
  MLD_BYTES,
  MLD_GROUP,
  MLD_MAX_RESPONSE,
  MLDV2_FLAGS,
  MLDV2_QQIC,
  MLDV2_QUERY_BYTES,
  MLDV2_SOURCES,
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

const HOP_LIMIT = 1;
const MICROSECONDS_PER_MS = 1000;
/** Room for records: the smallest packet less IPv6 and hop-by-hop header and the report's own. */
const RECORDS_BYTES = IPV6_MIN_MTU - 40 - 8 - REPORT_BYTES;

export class Mld implements GroupFilter, Ticking, MembershipProtocol {
  readonly counters = {
    /** No router alert, hop limit not 1, no link-local source, or a length that no version has. */
    inInvalid: 0,
    outReports: 0,
    outDones: 0,
  };
  readonly memberships: Memberships;
  readonly #host: NetworkHost;
  readonly #output: Icmpv6Output;

  constructor(host: NetworkHost, output: Icmpv6Output) {
    this.#host = host;
    this.#output = output;
    this.memberships = new Memberships(this, IPV6_ADDRESS_BYTES, host.random);
  }

  /** MLD's version that is spoken. */
  get version(): 1 | 2 {
    return this.memberships.version === 3 ? 2 : 1;
  }

  join(group: Uint8Array, now: Time): void {
    this.memberships.join(group, now);
  }

  /** A group of one of our addresses: there are as many as there have to be. */
  joinOwn(group: Uint8Array, now: Time): void {
    this.memberships.join(group, now, Number.POSITIVE_INFINITY);
  }

  leave(group: Uint8Array, now: Time): void {
    this.memberships.leave(group, now);
  }

  setFilter(group: Uint8Array, listener: object, filter: SourceFilter, now: Time): void {
    this.memberships.setFilter(group, listener, filter, now);
  }

  has(bytes: Uint8Array, group: number, source: number): boolean {
    return this.memberships.has(bytes, group, source);
  }

  /** Whether we listen to the group at `group`, to whatever sources. */
  isIn(bytes: Uint8Array, group: number): boolean {
    return this.memberships.isIn(bytes, group);
  }

  /** There is a link-local address now: all is told anew from it (RFC 3590 §4). */
  linkLocalReady(now: Time): void {
    this.memberships.reportAll(now);
  }

  get deadline(): Time {
    return this.memberships.deadline;
  }

  tick(now: Time): void {
    this.memberships.tick(now);
  }

  /** A query, or a report of version 1, with a right checksum; `routerAlert`: the packet's, or -1. */
  input(packet: Packet, routerAlert: number, now: Time): void {
    const { bytes, at, end, source, hopLimit } = packet;
    const length = end - at;
    const isReport = bytes[at] === MLDV1_REPORT;
    // RFC 3810 §6.2; RFC 2710 §4 for reports, which RFC 3590 allows from nobody.
    const isValid =
      hopLimit === HOP_LIMIT &&
      routerAlert === ROUTER_ALERT_MLD &&
      (isLinkLocal(bytes, source) || (isReport && isUnspecified(bytes, source))) &&
      (length === MLD_BYTES || (!isReport && length >= MLDV2_QUERY_BYTES));
    if (!isValid || (bytes[at] !== MLD_QUERY && !isReport)) {
      this.counters.inInvalid++;
      return;
    }
    const group = at + MLD_GROUP;
    if (isReport) {
      this.memberships.othersReport(bytes, group);
      return;
    }
    const code = uint16At(bytes, at + MLD_MAX_RESPONSE);
    const version: Version = length === MLD_BYTES ? 2 : 3;
    const sources: Uint8Array[] = [];
    if (version === 3) {
      const count = uint16At(bytes, at + MLDV2_SOURCES);
      if (count * IPV6_ADDRESS_BYTES > length - MLDV2_QUERY_BYTES) {
        this.counters.inInvalid++;
        return;
      }
      for (let i = 0; i < count; i++) sources.push(addressAt(bytes, at + MLDV2_QUERY_BYTES + IPV6_ADDRESS_BYTES * i));
    }
    this.memberships.query(
      {
        version,
        maxResponse: (version === 3 ? codeOf16(code) : code) * MICROSECONDS_PER_MS,
        group: isUnspecified(bytes, group) ? null : addressAt(bytes, group),
        sources,
        robustness: version === 3 ? bytes[at + MLDV2_FLAGS] & QRV_MASK : 0,
        interval: version === 3 ? codeOf8(bytes[at + MLDV2_QQIC]) * MICROSECONDS_PER_SECOND : 0,
      },
      now,
    );
  }

  /** Not of ff02::1, nor of groups that stay within the interface, nor of the reserved scope 0 (RFC 3810 §6). */
  isReported(group: Uint8Array): boolean {
    if ((group[1] & 0x0f) < 2) return false;
    return group.some((byte, i) => byte !== ALL_NODES[i]);
  }

  /** RFC 3810 §5.2. */
  report(records: readonly GroupRecord[]): void {
    const output = this.#output;
    for (let next = 0; next < records.length; ) {
      const at = output.begin(MLDV2_REPORT, 0, true);
      let length = REPORT_BYTES;
      let count = 0;
      while (next < records.length) {
        const { type, group, sources } = records[next];
        const bytes = RECORD_BYTES + IPV6_ADDRESS_BYTES * (1 + sources.length);
        if (count > 0 && length + bytes > RECORDS_BYTES + REPORT_BYTES) break;
        const record = at + length;
        output.bytes[record] = type;
        output.bytes[record + 1] = 0;
        writeUint16(output.bytes, record + RECORD_SOURCES, sources.length);
        output.bytes.set(group, record + RECORD_BYTES);
        for (let i = 0; i < sources.length; i++) {
          output.bytes.set(sources[i], record + RECORD_BYTES + IPV6_ADDRESS_BYTES * (1 + i));
        }
        length += bytes;
        count++;
        next++;
      }
      writeUint16(output.bytes, at + REPORT_RECORDS, count);
      output.finish(this.#source(), 0, ALL_MLDV2_ROUTERS, 0, HOP_LIMIT, length);
      this.counters.outReports++;
      output.toGroup();
    }
  }

  reportOld(_version: 1 | 2, group: Uint8Array): void {
    this.counters.outReports++;
    this.#old(MLDV1_REPORT, group, group);
  }

  leaveOld(_version: 1 | 2, group: Uint8Array): void {
    this.counters.outDones++;
    this.#old(MLDV1_DONE, group, ALL_ROUTERS);
  }

  #old(type: number, group: Uint8Array, destination: Uint8Array): void {
    const output = this.#output;
    const at = output.begin(type, 0, true);
    output.bytes.set(group, at + MLD_GROUP);
    output.finish(this.#source(), 0, destination, 0, HOP_LIMIT, MLD_BYTES);
    output.toGroup();
  }

  #source(): Uint8Array {
    for (const { family, bytes } of this.#host.locals.all()) if (family === 6 && isLinkLocal(bytes, 0)) return bytes;
    return UNSPECIFIED;
  }
}

function addressAt(bytes: Uint8Array, at: number): Uint8Array {
  return bytes.slice(at, at + IPV6_ADDRESS_BYTES);
}
