/**
 * Groups that we listen to, and what routers are told of it: the host's part that IGMPv3 (RFC 3376 §5) and MLDv2 (RFC 3810 §6)
 * have in common. How a message looks is the protocol's ({@link MembershipProtocol}).
 *
 *     join(), setFilter() ─► the interface's filter changed ─► state-change report, [Robustness Variable] times
 *     query() ─► after a random delay ─► current-state report
 *     an older querier is about ─► older reports, and none where somebody else has just sent one
 *
 * Everything is sent from tick(), so that what changed at one time goes into one message. Bounded: {@link MAX_GROUPS} groups of programs
 * (those of our own addresses have to be), {@link MAX_SOURCES} sources of each.
 */
import { ABSENT, AddressTable } from '../ip/address-table.ts';
import type { GroupFilter } from '../ip/network-layer.ts';
import { MICROSECONDS_PER_SECOND, NEVER, type Random, type Ticking, type Time } from '../network.ts';
import {
  ALLOW_NEW_SOURCES,
  BLOCK_OLD_SOURCES,
  CHANGE_TO_EXCLUDE_MODE,
  CHANGE_TO_INCLUDE_MODE,
  MODE_IS_EXCLUDE,
  MODE_IS_INCLUDE,
} from './membership-header.ts';

/** Robustness Variable (RFC 3376 §8.1), until a querier says otherwise. */
export const ROBUSTNESS = 2;
/** Query Interval (§8.2). */
export const QUERY_INTERVAL = 125 * MICROSECONDS_PER_SECOND;
/** Unsolicited Report Interval (§8.11). */
export const UNSOLICITED_REPORT_INTERVAL = MICROSECONDS_PER_SECOND;
/** The same of the older versions (RFC 2236 §8.10, RFC 2710 §7.10). */
export const OLD_UNSOLICITED_REPORT_INTERVAL = 10 * MICROSECONDS_PER_SECOND;

export const MAX_GROUPS = 65_536;
/** So many fit into one record of the smallest packet (RFC 3376 §4.2.16). */
export const MAX_SOURCES = 64;
const UINT32 = 2 ** 32;

/** Versions: of IGMP 3, 2, 1; of MLD 3 stands for MLDv2, and 2 for MLDv1. */
export type Version = 1 | 2 | 3;

export type FilterMode = 'include' | 'exclude';

/** Whose packets for a group are wanted: of these sources, or of all but these. */
export interface SourceFilter {
  mode: FilterMode;
  /** 4 or 16 bytes each. */
  sources: readonly Uint8Array[];
}

/** One group of a report (RFC 3376 §4.2.4). */
export interface GroupRecord {
  type: number;
  group: Uint8Array;
  sources: readonly Uint8Array[];
}

/** What a querier asks (RFC 3376 §4.1). */
export interface Query {
  version: Version;
  /** µs. */
  maxResponse: number;
  /** null: a general query. */
  group: Uint8Array | null;
  sources: readonly Uint8Array[];
  /** QRV, or 0. */
  robustness: number;
  /** QQI in µs, or 0. */
  interval: number;
}

/** What makes memberships IGMP's or MLD's. */
export interface MembershipProtocol {
  /** Whether routers are told of a group: not of the one that everybody is in. */
  isReported(group: Uint8Array): boolean;
  /** Sends records, in as many messages as they need. */
  report(records: readonly GroupRecord[], now: Time): void;
  /** Sends a report of an older version. */
  reportOld(version: 1 | 2, group: Uint8Array, now: Time): void;
  /** Sends a leave or done message. */
  leaveOld(version: 1 | 2, group: Uint8Array, now: Time): void;
}

interface Merged {
  mode: FilterMode;
  sources: Map<string, Uint8Array>;
}

interface Membership {
  readonly group: Uint8Array;
  readonly entry: number;
  readonly isReported: boolean;
  /** Listeners for any source that only count. */
  joins: number;
  readonly filters: Map<object, Merged>;
  /** Of all listeners together (RFC 3376 §3.2). */
  merged: Merged;
  /** State-change reports to come: of the mode, and of sources. */
  modeChanges: number;
  readonly sourceChanges: Map<string, { source: Uint8Array; left: number }>;
  /** Response to a query for this group; `asked` null: for all sources. */
  respondAt: Time;
  asked: Map<string, Uint8Array> | null;
}

const NOBODY: Merged = { mode: 'include', sources: new Map() };

export class Memberships implements GroupFilter, Ticking {
  readonly counters = { queries: 0, reports: 0, suppressed: 0 };
  readonly #protocol: MembershipProtocol;
  readonly #random: Random;
  readonly #table: AddressTable;
  /** By the table's number. */
  readonly #memberships: (Membership | undefined)[] = [];
  #robustness = ROBUSTNESS;
  #interval = QUERY_INTERVAL;
  /** When older queriers are forgotten (RFC 3376 §8.12): of version 1 and 2. */
  #version1Until: Time = 0;
  #version2Until: Time = 0;
  #version: Version = 3;
  #respondAt: Time = NEVER;
  #changeAt: Time = NEVER;
  #deadline: Time = NEVER;

  constructor(protocol: MembershipProtocol, addressBytes: 4 | 16, random: Random) {
    this.#protocol = protocol;
    this.#random = random;
    this.#table = new AddressTable(addressBytes, random);
  }

  /** The version that is spoken: the newest that all queriers know. */
  get version(): Version {
    return this.#version;
  }

  /** Groups that somebody listens to. */
  groups(): Uint8Array[] {
    return this.#all()
      .filter(isWanted)
      .map(({ group }) => group);
  }

  has(bytes: Uint8Array, group: number, source: number): boolean {
    const entry = this.#table.find(bytes, group);
    if (entry === ABSENT) return false;
    const { merged } = this.#memberships[entry]!;
    if (merged.sources.size === 0) return merged.mode === 'exclude';
    return merged.sources.has(keyOf(bytes, source, this.#table.addressBytes)) === (merged.mode === 'include');
  }

  /** Whether anybody listens to the group at `group`, to whatever sources. */
  isIn(bytes: Uint8Array, group: number): boolean {
    const entry = this.#table.find(bytes, group);
    return entry !== ABSENT && isWanted(this.#memberships[entry]!);
  }

  /** One more listens to a group, whatever the source. Throws RangeError when there are `most` groups already. */
  join(group: Uint8Array, now: Time, most = MAX_GROUPS): void {
    const membership = this.#membership(group, most);
    membership.joins++;
    this.#changed(membership, now);
  }

  /** One less of those that {@link join} counted. */
  leave(group: Uint8Array, now: Time): void {
    const membership = this.#find(group);
    if (membership === undefined || membership.joins === 0) return;
    membership.joins--;
    this.#changed(membership, now);
  }

  /**
   * What `listener` (a socket, say) wants of a group (RFC 3376 §2): it replaces what it wanted before; include with no
   * sources is nothing. Throws RangeError for too many sources or groups.
   */
  setFilter(group: Uint8Array, listener: object, { mode, sources }: SourceFilter, now: Time): void {
    if (sources.length > MAX_SOURCES) {
      throw new RangeError(`a filter of ${sources.length} sources for a group; there may be ${MAX_SOURCES}`);
    }
    for (const source of sources) this.#check(source, 'source');
    if (mode === 'include' && sources.length === 0) {
      const known = this.#find(group);
      if (known === undefined || !known.filters.delete(listener)) return;
      this.#changed(known, now);
      return;
    }
    const membership = this.#membership(group);
    membership.filters.set(listener, {
      mode,
      sources: new Map(sources.map((source) => [keyOf(source, 0, source.length), Uint8Array.from(source)])),
    });
    this.#changed(membership, now);
  }

  /** Tells of all groups anew: what was told before came from no address that counts (RFC 3590 §4). */
  reportAll(now: Time): void {
    for (const membership of this.#all()) {
      if (!membership.isReported || !isWanted(membership)) continue;
      membership.modeChanges = this.#robustness;
      this.#changeAt = now;
    }
    this.#findDeadline();
  }

  /** A querier asks (RFC 3376 §5.2). */
  query(query: Query, now: Time): void {
    this.counters.queries++;
    if (query.robustness > 0) this.#robustness = query.robustness;
    if (query.interval > 0) this.#interval = query.interval;
    const forget = now + this.#robustness * this.#interval + query.maxResponse;
    if (query.version === 1) this.#version1Until = forget;
    else if (query.version === 2) this.#version2Until = forget;
    this.#takeVersion(now);
    const delay = this.#delay(query.maxResponse);
    if (this.#version < 3) this.#queryOld(query, now);
    else if (this.#respondAt > now + delay) this.#queryNew(query, now + delay);
    this.#findDeadline();
  }

  /** Somebody else reports a group in an older version: ours need not (RFC 2236 §3). */
  othersReport(bytes: Uint8Array, group: number): void {
    const entry = this.#table.find(bytes, group);
    const membership = entry === ABSENT ? undefined : this.#memberships[entry];
    if (membership === undefined || this.#version === 3 || membership.respondAt === NEVER) return;
    this.counters.suppressed++;
    membership.respondAt = NEVER;
    this.#findDeadline();
  }

  get deadline(): Time {
    return this.#deadline;
  }

  tick(now: Time): void {
    if (now < this.#deadline) return;
    this.#takeVersion(now);
    if (this.#changeAt <= now) {
      this.#changeAt = NEVER;
      if (this.#version < 3) this.#tellChangesOld(this.#version as 1 | 2, now);
      else this.#tellChanges(now);
    }
    this.#respond(now);
    this.#findDeadline();
  }

  // ---- changes

  #membership(group: Uint8Array, most = MAX_GROUPS): Membership {
    this.#check(group, 'group');
    const known = this.#find(group);
    if (known !== undefined) return known;
    if (this.#table.count >= most) {
      throw new RangeError(`there are ${most} groups already: leave one first`);
    }
    const entry = this.#table.insert(group, 0);
    const copy = Uint8Array.from(group);
    const membership: Membership = {
      group: copy,
      entry,
      isReported: this.#protocol.isReported(copy),
      joins: 0,
      filters: new Map(),
      merged: NOBODY,
      modeChanges: 0,
      sourceChanges: new Map(),
      respondAt: NEVER,
      asked: null,
    };
    this.#memberships[entry] = membership;
    return membership;
  }

  #check(address: Uint8Array, what: string): void {
    if (address.length === this.#table.addressBytes) return;
    throw new RangeError(`a ${what} of ${address.length} bytes: give an address of ${this.#table.addressBytes} bytes`);
  }

  #find(group: Uint8Array): Membership | undefined {
    this.#check(group, 'group');
    const entry = this.#table.find(group, 0);
    return entry === ABSENT ? undefined : this.#memberships[entry];
  }

  #changed(membership: Membership, now: Time): void {
    const before = membership.merged;
    const after = merge(membership);
    membership.merged = after;
    if (!membership.isReported) {
      if (!isWanted(membership)) this.#remove(membership);
      return;
    }
    if (before.mode !== after.mode) {
      membership.modeChanges = this.#robustness;
      membership.sourceChanges.clear();
      this.#changeAt = now;
    } else {
      for (const [key, source] of [...before.sources, ...after.sources]) {
        if (before.sources.has(key) === after.sources.has(key)) continue;
        membership.sourceChanges.set(key, { source, left: this.#robustness });
        this.#changeAt = now;
      }
    }
    if (!isWanted(membership)) this.#removeIfTold(membership);
    this.#findDeadline();
  }

  #tellChanges(now: Time): void {
    const records: GroupRecord[] = [];
    let isMore = false;
    for (const membership of this.#all()) {
      records.push(...changesOf(membership));
      if (hasChanges(membership)) isMore = true;
      else this.#removeIfTold(membership);
    }
    if (isMore) this.#changeAt = now + this.#delay(UNSOLICITED_REPORT_INTERVAL);
    this.#report(records, now);
  }

  #tellChangesOld(version: 1 | 2, now: Time): void {
    let isMore = false;
    for (const membership of this.#all()) {
      if (!hasChanges(membership)) continue;
      membership.sourceChanges.clear();
      this.counters.reports++;
      if (isWanted(membership)) {
        this.#protocol.reportOld(version, membership.group, now);
        if (membership.modeChanges > 0) membership.modeChanges--;
        if (membership.modeChanges > 0) isMore = true;
      } else {
        membership.modeChanges = 0;
        this.#protocol.leaveOld(version, membership.group, now);
        this.#removeIfTold(membership);
      }
    }
    if (isMore) this.#changeAt = now + this.#delay(OLD_UNSOLICITED_REPORT_INTERVAL);
  }

  #removeIfTold(membership: Membership): void {
    if (!isWanted(membership) && !hasChanges(membership)) this.#remove(membership);
  }

  #remove(membership: Membership): void {
    this.#table.remove(membership.entry);
    this.#memberships[membership.entry] = undefined;
  }

  // ---- responses

  /** RFC 3376 §5.2, rules 2 to 5. */
  #queryNew({ group, sources }: Query, when: Time): void {
    if (group === null) {
      this.#respondAt = when;
      return;
    }
    const membership = this.#find(group);
    if (membership === undefined || !membership.isReported) return;
    const isPending = membership.respondAt !== NEVER;
    if (sources.length === 0) membership.asked = null;
    else if (!isPending || membership.asked !== null) {
      const asked = isPending && membership.asked !== null ? membership.asked : new Map<string, Uint8Array>();
      for (const source of sources) asked.set(keyOf(source, 0, source.length), source);
      // More than we would answer for: then for all.
      membership.asked = asked.size > 4 * MAX_SOURCES ? null : asked;
    }
    membership.respondAt = Math.min(membership.respondAt, when);
  }

  /** RFC 2236 §3: each group has its own delay. */
  #queryOld({ group, maxResponse }: Query, now: Time): void {
    for (const membership of this.#all()) {
      if (!membership.isReported || !isWanted(membership)) continue;
      if (group !== null && keyOf(group, 0, group.length) !== keyOf(membership.group, 0, membership.group.length))
        continue;
      membership.asked = null;
      membership.respondAt = Math.min(membership.respondAt, now + this.#delay(maxResponse));
    }
  }

  #respond(now: Time): void {
    const records: GroupRecord[] = [];
    const isGeneral = this.#respondAt <= now;
    if (isGeneral) this.#respondAt = NEVER;
    for (const membership of this.#all()) {
      const isAsked = membership.respondAt <= now;
      if (isAsked) membership.respondAt = NEVER;
      if (!isWanted(membership) || !membership.isReported) continue;
      if (this.#version < 3) {
        if (!isAsked) continue;
        this.counters.reports++;
        this.#protocol.reportOld(this.#version as 1 | 2, membership.group, now);
      } else if (isGeneral) records.push(stateOf(membership, null));
      else if (isAsked) {
        const record = stateOf(membership, membership.asked);
        if (membership.asked === null || record.sources.length > 0) records.push(record);
      }
    }
    this.#report(records, now);
  }

  #report(records: readonly GroupRecord[], now: Time): void {
    if (records.length === 0) return;
    this.counters.reports++;
    this.#protocol.report(records, now);
  }

  /** The oldest version whose queriers are about; with another one all that was pending is void (RFC 3376 §7.2.1). */
  #takeVersion(now: Time): void {
    const version = this.#version1Until > now ? 1 : this.#version2Until > now ? 2 : 3;
    if (version === this.#version) return;
    this.#version = version;
    this.#respondAt = NEVER;
    this.#changeAt = NEVER;
    for (const membership of this.#all()) {
      membership.respondAt = NEVER;
      membership.modeChanges = 0;
      membership.sourceChanges.clear();
      this.#removeIfTold(membership);
    }
  }

  #all(): Membership[] {
    return this.#memberships.filter((membership) => membership !== undefined);
  }

  #findDeadline(): void {
    let deadline = Math.min(this.#respondAt, this.#changeAt);
    for (const membership of this.#memberships) {
      if (membership !== undefined) deadline = Math.min(deadline, membership.respondAt);
    }
    if (this.#version === 1) deadline = Math.min(deadline, this.#version1Until);
    if (this.#version === 2) deadline = Math.min(deadline, this.#version2Until);
    this.#deadline = deadline;
  }

  /** Uniformly from 0 to `most`, but not 0. */
  #delay(most: number): number {
    return 1 + Math.floor((this.#random() / UINT32) * Math.max(0, most - 1));
  }
}

/** The filter of all listeners together (RFC 3376 §3.2). */
function merge({ joins, filters }: Membership): Merged {
  if (joins > 0) return { mode: 'exclude', sources: new Map() };
  const excluding = [...filters.values()].filter(({ mode }) => mode === 'exclude');
  const included = new Map<string, Uint8Array>();
  for (const { mode, sources } of filters.values()) {
    if (mode === 'include') for (const [key, source] of sources) included.set(key, source);
  }
  if (excluding.length === 0) {
    // More than a record holds: then whoever wants to is heard, and the listeners choose.
    if (included.size > MAX_SOURCES) return { mode: 'exclude', sources: new Map() };
    return { mode: 'include', sources: included };
  }
  const excluded = new Map(excluding[0].sources);
  for (const key of excluded.keys()) {
    if (included.has(key) || excluding.some(({ sources }) => !sources.has(key))) excluded.delete(key);
  }
  return { mode: 'exclude', sources: excluded };
}

function isWanted({ merged }: Membership): boolean {
  return merged.mode === 'exclude' || merged.sources.size > 0;
}

function hasChanges({ modeChanges, sourceChanges }: Membership): boolean {
  return modeChanges > 0 || sourceChanges.size > 0;
}

/** Records of the state changes still to be told; they are told once less then (RFC 3376 §5.1). */
function changesOf(membership: Membership): GroupRecord[] {
  const { group, merged, sourceChanges } = membership;
  const allowed: Uint8Array[] = [];
  const blocked: Uint8Array[] = [];
  for (const [key, change] of sourceChanges) {
    const isAllowed = merged.sources.has(key) === (merged.mode === 'include');
    (isAllowed ? allowed : blocked).push(change.source);
    if (--change.left === 0) sourceChanges.delete(key);
  }
  if (membership.modeChanges > 0) {
    membership.modeChanges--;
    const type = merged.mode === 'include' ? CHANGE_TO_INCLUDE_MODE : CHANGE_TO_EXCLUDE_MODE;
    return [{ type, group, sources: [...merged.sources.values()] }];
  }
  const records: GroupRecord[] = [];
  // Changes that piled up may be more than one record holds.
  for (const [type, sources] of [
    [ALLOW_NEW_SOURCES, allowed],
    [BLOCK_OLD_SOURCES, blocked],
  ] as const) {
    for (let from = 0; from < sources.length; from += MAX_SOURCES) {
      records.push({ type, group, sources: sources.slice(from, from + MAX_SOURCES) });
    }
  }
  return records;
}

/** Current-state record (RFC 3376 §5.2), of the sources asked for. */
function stateOf({ group, merged }: Membership, asked: Map<string, Uint8Array> | null): GroupRecord {
  if (asked === null) {
    const type = merged.mode === 'include' ? MODE_IS_INCLUDE : MODE_IS_EXCLUDE;
    return { type, group, sources: [...merged.sources.values()] };
  }
  const sources: Uint8Array[] = [];
  for (const [key, source] of asked) {
    if (merged.sources.has(key) === (merged.mode === 'include') && sources.length < MAX_SOURCES) sources.push(source);
  }
  return { type: MODE_IS_INCLUDE, group, sources };
}

function keyOf(bytes: Uint8Array, at: number, length: number): string {
  let key = '';
  for (let i = 0; i < length; i++) key += String.fromCharCode(bytes[at + i]);
  return key;
}
