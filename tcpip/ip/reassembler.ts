/**
 * Fragments become packets again: for IPv4 (RFC 791 §3.2) and IPv6 (RFC 8200 §4.5) alike.
 *
 *     fragment ─► add() ─► INCOMPLETE … ─► add() ─► COMPLETE: `bytes[0, end)` is header and data
 *                              └── 30 or 60 s: onExpired, with the first fragment, for an ICMP error
 *
 * Fragments that overlap end their packet, and all of it that still comes (RFC 5722; for IPv4 as well); one that is
 * the same as another, byte for byte, is only ignored (RFC 8200 §4.5). Bounded: packets and bytes over all and for each
 * source, the oldest goes; and fragments of a packet.
 */
import { MICROSECONDS_PER_SECOND, NEVER, type Ticking, type Time } from '../network.ts';
import type { Family } from '../packet.ts';

/** Bytes over all packets, and of those of one source. */
export const MAX_BYTES = 4 * 2 ** 20;
export const MAX_SOURCE_BYTES = 2 ** 20;
/** Packets that are incomplete, over all, and of one source. */
export const MAX_PACKETS = 1024;
export const MAX_SOURCE_PACKETS = 64;
/** 64 KiB in the smallest pieces that a path may ask for (552), and some. */
export const MAX_FRAGMENTS = 128;
/** Linux's ipfrag_time; RFC 1122 §3.3.2 asks for a fixed one. */
export const LIFETIME_IPV4 = 30 * MICROSECONDS_PER_SECOND;
/** RFC 8200 §4.5. */
export const LIFETIME_IPV6 = 60 * MICROSECONDS_PER_SECOND;
/** Data of a packet at the most. */
const MAX_DATA = 65_535;
/** What a fragment costs beside its bytes, about. */
const OVERHEAD = 192;

/** What {@link Reassembler.add} says. */
export const INCOMPLETE = 0;
export const COMPLETE = 1;
/** The fragment was dropped, and perhaps the whole packet. */
export const DROPPED = 2;

// ECN (RFC 3168 §2).
const NOT_ECT = 0;
const CE = 3;

/** A fragment at hand; filled by the layer for each. */
export interface Fragment {
  family: Family;
  bytes: Uint8Array;
  /** Everything before its data, from the IP header on. */
  headerAt: number;
  /** Its data begins and ends here. */
  at: number;
  end: number;
  source: number;
  destination: number;
  /** 32 bits for IPv6. */
  id: number;
  /** What makes identifications of their own: IPv4 has the protocol here, IPv6 nothing (0). */
  protocol: number;
  /** Where its data belongs, in bytes. */
  offset: number;
  hasMore: boolean;
  /** The two low bits of the traffic class. */
  ecn: number;
  /** What the sender of the frame is called; kept of the first fragment. */
  senderHigh: number;
  senderLow: number;
}

/** The first fragment of a packet that was never whole. */
export interface ExpiredFragment {
  family: Family;
  /** The packet as it came: header and data. */
  bytes: Uint8Array;
  headerBytes: number;
  senderHigh: number;
  senderLow: number;
}

interface Piece {
  offset: number;
  data: Uint8Array;
}

interface Incomplete {
  key: string;
  source: string;
  family: Family;
  expires: Time;
  /** In order, without overlaps. */
  pieces: Piece[];
  /** Bytes of data that came. */
  received: number;
  /** Bytes of data in all, when the last fragment has come; else -1. */
  total: number;
  /** Header of the first fragment; null: it has not come. */
  header: Uint8Array | null;
  senderHigh: number;
  senderLow: number;
  /** A bit for each ECN code point seen. */
  ecnSeen: number;
  cost: number;
  /** Nothing will come of it: what still comes is thrown away until it expires. */
  ruined: boolean;
}

interface Share {
  packets: number;
  bytes: number;
}

export interface ReassemblyCounters {
  reasmReqds: number;
  reasmOks: number;
  reasmFails: number;
  reasmTimeout: number;
  /** Fragments that overlap others (Linux: ReasmOverlaps). */
  reasmOverlaps: number;
  /** Packets that went for want of room. */
  reasmEvicted: number;
}

export class Reassembler implements Ticking {
  readonly counters: ReassemblyCounters = {
    reasmReqds: 0,
    reasmOks: 0,
    reasmFails: 0,
    reasmTimeout: 0,
    reasmOverlaps: 0,
    reasmEvicted: 0,
  };
  /** For the caller to fill before {@link add}. */
  readonly fragment: Fragment = {
    family: 4,
    bytes: new Uint8Array(0),
    headerAt: 0,
    at: 0,
    end: 0,
    source: 0,
    destination: 0,
    id: 0,
    protocol: 0,
    offset: 0,
    hasMore: false,
    ecn: 0,
    senderHigh: 0,
    senderLow: 0,
  };
  /** After COMPLETE: header and data of the packet, until the next one; the header is the first fragment's. */
  bytes = new Uint8Array(2 ** 16);
  /** Bytes of the header, and where the data ends. */
  headerBytes = 0;
  end = 0;
  /** The two ECN bits that the packet has (RFC 3168 §5.3). */
  ecn = 0;
  /** A packet of a family was not whole in time; `first` is null when its first fragment never came. */
  onExpired: (family: Family, first: ExpiredFragment | null, now: Time) => void = () => {};
  /** In the order they began; so of each family the first expires first. */
  readonly #packets = new Map<string, Incomplete>();
  readonly #shares = new Map<string, Share>();
  #bytes = 0;
  #nextExpiry: Time = NEVER;

  /** Packets that wait for more. */
  get count(): number {
    return this.#packets.size;
  }

  /** Bytes that they cost. */
  get memory(): number {
    return this.#bytes;
  }

  /**
   * Adds {@link fragment}. The caller has checked that the ranges lie in its bytes and that all but a last fragment have a multiple
   * of 8 bytes of data.
   */
  add(now: Time): number {
    const { fragment, counters } = this;
    counters.reasmReqds++;
    const length = fragment.end - fragment.at;
    if (length <= 0 || fragment.offset + length > MAX_DATA) return this.#refuse();
    const source = keyOf(fragment.family, fragment.bytes, fragment.source);
    const key = `${source}${keyOf(fragment.family, fragment.bytes, fragment.destination)}${fragment.id},${fragment.protocol}`;
    const packet = this.#packets.get(key) ?? this.#begin(key, source, now);
    if (packet.ruined) return this.#refuse();
    const added = this.#insert(packet, length);
    if (added !== COMPLETE) return added;
    this.#assemble(packet);
    this.#remove(packet);
    return this.#close(packet) ? COMPLETE : this.#refuse();
  }

  get deadline(): Time {
    return this.#nextExpiry;
  }

  tick(now: Time): void {
    if (now < this.#nextExpiry) return;
    this.#nextExpiry = NEVER;
    for (const packet of this.#packets.values()) {
      if (packet.expires > now) this.#nextExpiry = Math.min(this.#nextExpiry, packet.expires);
      else this.#expire(packet, now);
    }
  }

  #refuse(): number {
    this.counters.reasmFails++;
    return DROPPED;
  }

  #begin(key: string, source: string, now: Time): Incomplete {
    const { family } = this.fragment;
    const share = this.#shares.get(source) ?? { packets: 0, bytes: 0 };
    if (share.packets >= MAX_SOURCE_PACKETS) this.#evict(source);
    if (this.#packets.size >= MAX_PACKETS) this.#evict(null);
    const packet: Incomplete = {
      key,
      source,
      family,
      expires: now + (family === 4 ? LIFETIME_IPV4 : LIFETIME_IPV6),
      pieces: [],
      received: 0,
      total: -1,
      header: null,
      senderHigh: 0,
      senderLow: 0,
      ecnSeen: 0,
      cost: 0,
      ruined: false,
    };
    this.#packets.set(key, packet);
    const kept = this.#shares.get(source) ?? { packets: 0, bytes: 0 };
    kept.packets++;
    this.#shares.set(source, kept);
    this.#nextExpiry = Math.min(this.#nextExpiry, packet.expires);
    this.#charge(packet, OVERHEAD);
    return packet;
  }

  /** Puts the fragment in its place. */
  #insert(packet: Incomplete, length: number): number {
    const { fragment } = this;
    const { bytes, at, end, offset } = fragment;
    const { pieces } = packet;
    let place = pieces.length;
    while (place > 0 && pieces[place - 1]!.offset > offset) place--;
    const before = pieces[place - 1];
    const after = pieces[place];
    if (before !== undefined && before.offset === offset && isSame(before.data, bytes, at, end)) return INCOMPLETE;
    const overlaps =
      (before !== undefined && before.offset + before.data.length > offset) ||
      (after !== undefined && after.offset < offset + length);
    if (overlaps) this.counters.reasmOverlaps++;
    const beyond = packet.total >= 0 && offset + length > packet.total;
    const last = pieces[pieces.length - 1];
    const endsAgain =
      !fragment.hasMore &&
      ((packet.total >= 0 && packet.total !== offset + length) ||
        (last !== undefined && last.offset + last.data.length > offset + length));
    if (overlaps || beyond || endsAgain || pieces.length >= MAX_FRAGMENTS) {
      this.#ruin(packet);
      return this.#refuse();
    }
    pieces.splice(place, 0, { offset, data: bytes.slice(at, end) });
    packet.received += length;
    packet.ecnSeen |= 1 << fragment.ecn;
    if (!fragment.hasMore) packet.total = offset + length;
    let cost = length + OVERHEAD;
    if (offset === 0) {
      packet.header = bytes.slice(fragment.headerAt, at);
      packet.senderHigh = fragment.senderHigh;
      packet.senderLow = fragment.senderLow;
      cost += at - fragment.headerAt;
    }
    if (packet.received === packet.total) return COMPLETE;
    return this.#charge(packet, cost) ? INCOMPLETE : this.#refuse();
  }

  #assemble(packet: Incomplete): void {
    const header = packet.header!;
    const end = header.length + packet.total;
    if (this.bytes.length < end) this.bytes = new Uint8Array(end);
    this.bytes.set(header, 0);
    for (const { offset, data } of packet.pieces) this.bytes.set(data, header.length + offset);
    this.headerBytes = header.length;
    this.end = end;
  }

  /** What the packet's ECN bits are (RFC 3168 §5.3). False: congestion was experienced by what cannot tell. */
  #close(packet: Incomplete): boolean {
    const seen = packet.ecnSeen;
    if ((seen & (1 << CE)) !== 0) {
      if ((seen & (1 << NOT_ECT)) !== 0) return false;
      this.ecn = CE;
    } else if ((seen & (1 << NOT_ECT)) !== 0) this.ecn = NOT_ECT;
    else this.ecn = (seen & 2) !== 0 ? 1 : 2;
    this.counters.reasmOks++;
    return true;
  }

  /** Takes room for a packet, from the oldest if need be. False: that was the packet itself. */
  #charge(packet: Incomplete, bytes: number): boolean {
    const share = this.#shares.get(packet.source)!;
    packet.cost += bytes;
    share.bytes += bytes;
    this.#bytes += bytes;
    while (share.bytes > MAX_SOURCE_BYTES && this.#packets.has(packet.key)) this.#evict(packet.source);
    while (this.#bytes > MAX_BYTES && this.#packets.has(packet.key)) this.#evict(null);
    return this.#packets.has(packet.key);
  }

  /** The oldest packet goes; of a source, if one is named. */
  #evict(source: string | null): void {
    for (const packet of this.#packets.values()) {
      if (source !== null && packet.source !== source) continue;
      this.counters.reasmEvicted++;
      this.#remove(packet);
      return;
    }
  }

  /** Keeps the packet's name, and nothing else. */
  #ruin(packet: Incomplete): void {
    const freed = packet.cost - OVERHEAD;
    packet.ruined = true;
    packet.pieces = [];
    packet.header = null;
    packet.cost = OVERHEAD;
    this.#bytes -= freed;
    this.#shares.get(packet.source)!.bytes -= freed;
  }

  #remove(packet: Incomplete): void {
    this.#packets.delete(packet.key);
    this.#bytes -= packet.cost;
    const share = this.#shares.get(packet.source)!;
    share.bytes -= packet.cost;
    if (--share.packets === 0) this.#shares.delete(packet.source);
  }

  #expire(packet: Incomplete, now: Time): void {
    this.#remove(packet);
    if (packet.ruined) return;
    this.counters.reasmTimeout++;
    this.counters.reasmFails++;
    const { header, family, senderHigh, senderLow } = packet;
    if (header === null) {
      this.onExpired(family, null, now);
      return;
    }
    const { data } = packet.pieces[0]!;
    const bytes = new Uint8Array(header.length + data.length);
    bytes.set(header);
    bytes.set(data, header.length);
    this.onExpired(family, { family, bytes, headerBytes: header.length, senderHigh, senderLow }, now);
  }
}

/** The address's bytes as a string of as many characters. */
function keyOf(family: Family, bytes: Uint8Array, at: number): string {
  let key = '';
  for (let i = 0; i < (family === 4 ? 4 : 16); i++) key += String.fromCharCode(bytes[at + i]!);
  return key;
}

function isSame(data: Uint8Array, bytes: Uint8Array, at: number, end: number): boolean {
  if (data.length !== end - at) return false;
  for (let i = 0; i < data.length; i++) {
    if (data[i] !== bytes[at + i]) return false;
  }
  return true;
}
