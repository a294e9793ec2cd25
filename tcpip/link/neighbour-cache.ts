/**
 * Who on the link has which MAC address: one cache for ARP and for neighbour discovery, with the states of RFC 4861 §7.3.2
 * (and of Linux, which keeps ARP's entries so as well).
 *
 *     ready() ─► INCOMPLETE ──advertised──► REACHABLE ──time──► STALE ──ready()──► DELAY ──5 s──► PROBE ──advertised──► REACHABLE
 *                    └──3 questions unanswered──► FAILED ◄──────────3 questions unanswered─────────┘
 *
 * Neighbours are small numbers. How a question is asked is the protocol's ({@link NeighbourProtocol}): ARP and ND plug in
 * there, and tell what they hear by {@link NeighbourCache.advertised} and {@link NeighbourCache.learnt}. Frames for a
 * neighbour that is asked for wait, a few for each; they leave when it answers, or come to nothing when it does not.
 *
 * Questions are sent from tick() alone, so that they keep their distance (RFC 1122 §2.3.2.1: one a second) whoever causes them.
 * Bounded: when the table is full, what was not used for longest goes (a clock's hand finds it), unanswered questions first.
 */

import { Deadlines, NONE } from '../deadlines.ts';
import { ABSENT, AddressTable } from '../ip/address-table.ts';
import { MICROSECONDS_PER_SECOND, type Random, type Ticking, type Time } from '../network.ts';
import type { Family } from '../packet.ts';

export const NO_NEIGHBOUR = -1;

// States, in an order that the hot path likes: above STALE a frame may leave at once.
export const FREE = 0;
export const INCOMPLETE = 1;
export const FAILED = 2;
export const STALE = 3;
export const REACHABLE = 4;
export const DELAY = 5;
export const PROBE = 6;
/** Set by the operator: nobody asks, nothing changes it. */
export const PERMANENT = 7;

// RFC 4861 §10.
export const REACHABLE_TIME = 30 * MICROSECONDS_PER_SECOND;
export const RETRANS_TIMER = MICROSECONDS_PER_SECOND;
export const DELAY_FIRST_PROBE_TIME = 5 * MICROSECONDS_PER_SECOND;
export const MAX_MULTICAST_SOLICIT = 3;
export const MAX_UNICAST_SOLICIT = 3;
/** MIN_RANDOM_FACTOR; MAX_RANDOM_FACTOR is one more. */
const MIN_RANDOM_FACTOR = 0.5;
/** A new random reachable time this often, "at least every few hours" (RFC 4861 §6.3.4). */
const RANDOMISE_INTERVAL = 2 * 3600 * MICROSECONDS_PER_SECOND;

const DEFAULT_CAPACITY = 4096;
/** Frames that wait for one neighbour (a packet of 64 KiB in pieces), and their bytes; the oldest goes. */
export const MAX_WAITING_FRAMES = 64;
export const MAX_WAITING_BYTES = 2 ** 17;
/** Bytes that wait for all neighbours together; beyond, a frame does not get to wait. */
export const MAX_WAITING_TOTAL = 2 ** 22;

const MAC_BYTES = 6;
const IPV6_BYTES = 16;
const UINT32 = 2 ** 32;

/** A frame that waits: whole, but for the destination in its Ethernet header; with what FrameDevice.send wants to know. */
export interface WaitingFrame {
  bytes: Uint8Array;
  flags: number;
  gsoType: number;
  hdrLen: number;
  gsoSize: number;
  csumStart: number;
  csumOffset: number;
}

/** What makes the cache ARP's or ND's. */
export interface NeighbourProtocol {
  /**
   * Asks who has the neighbour's address: everybody (broadcast, solicited-node multicast), or with `unicast` only the one
   * at the MAC address in the cache. `local`: the address of ours that the first waiting packet comes from, or NOT_LOCAL.
   */
  solicit(neighbour: number, local: number, unicast: boolean, now: Time): void;
  /** It did not answer: it is FAILED now. ND looks for another router then (RFC 4861 §7.3.3). */
  failed?(neighbour: number, now: Time): void;
}

/** What the stack does with frames that waited. */
export interface NeighbourHost {
  /** The neighbour's MAC address is known now: the frame leaves. */
  transmit(frame: WaitingFrame, neighbour: number): void;
  /** It has not answered: whoever sent the packet in the frame is told. */
  unreachable(frame: WaitingFrame, now: Time): void;
}

/** Times that a router may advertise (RFC 4861 §6.3.4). */
interface Timing {
  baseReachable: number;
  reachable: number;
  reachableUntil: Time;
  retrans: number;
}

export interface NeighbourCounters {
  /** Neighbours that did not answer. */
  failed: number;
  /** Entries that went for want of room. */
  evicted: number;
  /** Waiting frames that went for want of room (Linux: unresolved_discards). */
  unresolvedDiscards: number;
}

export class NeighbourCache implements Ticking {
  /** FREE, INCOMPLETE, … of each neighbour. */
  readonly state: Uint8Array;
  /** The MAC address: its first two bytes, and the other four (signed). */
  readonly macHigh: Uint16Array;
  readonly macLow: Int32Array;
  /**
   * Changes when the number begins to stand for another address, and when routes change: who kept number and version looks
   * whether they still belong together. Never 0.
   */
  readonly version: Int32Array;
  /** Set to 1 whenever something is sent to it: it stays then, when another has to go. */
  readonly used: Uint8Array;
  readonly family: Uint8Array;
  /** ND's IsRouter flag (RFC 4861 §5.1), for ND to set. */
  readonly isRouter: Uint8Array;
  readonly counters: NeighbourCounters = { failed: 0, evicted: 0, unresolvedDiscards: 0 };
  readonly capacity: number;
  readonly #random: Random;
  readonly #host: NeighbourHost;
  readonly #table: AddressTable;
  readonly #deadlines: Deadlines;
  readonly #confirmed: Float64Array;
  readonly #lastAsked: Float64Array;
  readonly #probes: Uint8Array;
  readonly #local: Int32Array;
  readonly #queues = new Map<number, WaitingFrame[]>();
  #waitingBytes = 0;
  #protocol4: NeighbourProtocol | null = null;
  #protocol6: NeighbourProtocol | null = null;
  readonly #timing4 = newTiming();
  readonly #timing6 = newTiming();
  #lastVersion = 0;
  #hand = 0;
  /** IPv4 addresses are kept as ::ffff:a.b.c.d (RFC 4291 §2.5.5.2), which no link has for a neighbour. */
  readonly #key = new Uint8Array(IPV6_BYTES);

  constructor(random: Random, host: NeighbourHost, capacity = DEFAULT_CAPACITY) {
    if (!(Number.isInteger(capacity) && capacity >= 1)) {
      throw new RangeError(`a neighbour cache of ${capacity} entries: give a whole number from 1`);
    }
    this.#random = random;
    this.#host = host;
    this.capacity = capacity;
    this.#table = new AddressTable(IPV6_BYTES, random);
    this.#deadlines = new Deadlines(capacity);
    this.state = new Uint8Array(capacity);
    this.macHigh = new Uint16Array(capacity);
    this.macLow = new Int32Array(capacity);
    this.version = new Int32Array(capacity);
    this.used = new Uint8Array(capacity);
    this.family = new Uint8Array(capacity);
    this.isRouter = new Uint8Array(capacity);
    this.#confirmed = new Float64Array(capacity);
    this.#lastAsked = new Float64Array(capacity);
    this.#probes = new Uint8Array(capacity);
    this.#local = new Int32Array(capacity);
  }

  /** Whoever asks for a family's neighbours: ARP for 4, ND for 6. */
  setProtocol(family: Family, protocol: NeighbourProtocol): void {
    if (family === 4) this.#protocol4 = protocol;
    else this.#protocol6 = protocol;
  }

  /** BaseReachableTime and RetransTimer, as routers advertise them (RFC 4861 §6.3.4), in µs. */
  setTiming(family: Family, baseReachable: number, retrans: number): void {
    const timing = this.#timing(family);
    if (timing.baseReachable !== baseReachable) timing.reachableUntil = Number.NEGATIVE_INFINITY;
    timing.baseReachable = baseReachable;
    timing.retrans = retrans;
  }

  get count(): number {
    return this.#table.count;
  }

  /** The neighbour with the address at `at` (4 or 16 bytes), or NO_NEIGHBOUR. */
  find(family: Family, bytes: Uint8Array, at: number): number {
    this.#setKey(family, bytes, at);
    return this.#table.find(this.#key, 0);
  }

  /** The same, made if need be; a new one is FAILED until somebody wants to send to it. */
  entry(family: Family, bytes: Uint8Array, at: number): number {
    const found = this.find(family, bytes, at);
    if (found !== ABSENT) return found;
    if (this.#table.count === this.capacity) this.#evict();
    const neighbour = this.#table.insert(this.#key, 0);
    this.state[neighbour] = FAILED;
    this.family[neighbour] = family;
    this.isRouter[neighbour] = 0;
    this.used[neighbour] = 0;
    this.macHigh[neighbour] = 0;
    this.macLow[neighbour] = 0;
    this.#confirmed[neighbour] = Number.NEGATIVE_INFINITY;
    this.#lastAsked[neighbour] = Number.NEGATIVE_INFINITY;
    this.#local[neighbour] = -1;
    this.#renew(neighbour);
    return neighbour;
  }

  /** Its address, 4 or 16 bytes; a copy. */
  address(neighbour: number): Uint8Array {
    const whole = new Uint8Array(IPV6_BYTES);
    this.#table.write(neighbour, whole, 0);
    return this.family[neighbour] === 4 ? whole.slice(IPV6_BYTES - 4) : whole;
  }

  /** Its MAC address; a copy. Of an INCOMPLETE or FAILED one it means nothing. */
  mac(neighbour: number): Uint8Array {
    const high = this.macHigh[neighbour]!;
    const low = this.macLow[neighbour]!;
    return Uint8Array.of(high >>> 8, high, low >>> 24, low >>> 16, low >>> 8, low);
  }

  /** Whether frames may leave to it as they are. */
  isUsable(neighbour: number): boolean {
    return this.state[neighbour]! >= STALE;
  }

  /**
   * Something is about to be sent to it. True: it may leave at once. False: it is being asked for; give the frame to
   * {@link wait}.
   *
   * @param local the address of ours that the packet comes from, or NOT_LOCAL
   */
  ready(neighbour: number, local: number, now: Time): boolean {
    this.used[neighbour] = this.state[neighbour]! >= STALE ? 1 : 0;
    switch (this.state[neighbour]) {
      case STALE:
        this.state[neighbour] = DELAY;
        this.#deadlines.set(neighbour, now + DELAY_FIRST_PROBE_TIME);
        return true;
      case INCOMPLETE:
        return false;
      case FAILED: {
        this.state[neighbour] = INCOMPLETE;
        this.#probes[neighbour] = 0;
        this.#local[neighbour] = local;
        const { retrans } = this.#timing(this.family[neighbour] as Family);
        this.#deadlines.set(neighbour, Math.max(now, this.#lastAsked[neighbour]! + retrans));
        return false;
      }
      default:
        return true;
    }
  }

  /** Keeps a frame until the neighbour, for which ready() was false, has answered. */
  wait(neighbour: number, frame: WaitingFrame): void {
    let queue = this.#queues.get(neighbour);
    if (queue === undefined) {
      queue = [];
      this.#queues.set(neighbour, queue);
    }
    let bytes = frame.bytes.length;
    for (const { bytes: waiting } of queue) bytes += waiting.length;
    while (queue.length > 0 && (queue.length >= MAX_WAITING_FRAMES || bytes > MAX_WAITING_BYTES)) {
      const { length } = queue.shift()!.bytes;
      bytes -= length;
      this.#waitingBytes -= length;
      this.counters.unresolvedDiscards++;
    }
    if (this.#waitingBytes + frame.bytes.length > MAX_WAITING_TOTAL) {
      this.counters.unresolvedDiscards++;
      return;
    }
    queue.push(frame);
    this.#waitingBytes += frame.bytes.length;
  }

  /** Frames that wait for a neighbour. */
  waiting(neighbour: number): number {
    return this.#queues.get(neighbour)?.length ?? 0;
  }

  /**
   * A neighbour advertisement (RFC 4861 §7.2.5), or an ARP reply, which is a solicited one that overrides.
   *
   * @param mac where in `bytes` the MAC address is; -1: none was given
   */
  advertised(
    neighbour: number,
    bytes: Uint8Array,
    mac: number,
    solicited: boolean,
    override: boolean,
    now: Time,
  ): void {
    const { state } = this;
    if (state[neighbour] === PERMANENT) return;
    if (state[neighbour] === INCOMPLETE || state[neighbour] === FAILED) {
      if (mac < 0) return;
      this.#setMac(neighbour, bytes, mac);
      if (solicited) this.#setReachable(neighbour, now);
      else this.#setStale(neighbour);
      this.#sendWaiting(neighbour, now);
      return;
    }
    const isOther = mac >= 0 && !this.#hasMac(neighbour, bytes, mac);
    if (isOther && !override) {
      if (state[neighbour] === REACHABLE) this.#setStale(neighbour);
      return;
    }
    if (isOther) this.#setMac(neighbour, bytes, mac);
    if (solicited) this.#setReachable(neighbour, now);
    else if (isOther) this.#setStale(neighbour);
  }

  /**
   * A packet of the neighbour's that is no answer tells its MAC address at `mac` in `bytes`: a solicitation, an ARP request,
   * an advertised router, a redirect (RFC 4861 §7.2.3, §6.3.4). That says nothing about the way there.
   */
  learnt(neighbour: number, bytes: Uint8Array, mac: number, now: Time): void {
    const { state } = this;
    if (state[neighbour] === PERMANENT) return;
    if (state[neighbour]! >= STALE && this.#hasMac(neighbour, bytes, mac)) return;
    this.#setMac(neighbour, bytes, mac);
    this.#setStale(neighbour);
    this.#sendWaiting(neighbour, now);
  }

  /** Something from behind the neighbour shows that what we send arrives (RFC 4861 §7.3.1). Hot. */
  confirm(neighbour: number, now: Time): void {
    const state = this.state[neighbour]!;
    if (state === REACHABLE) this.#confirmed[neighbour] = now;
    else if (state >= STALE && state !== PERMANENT) this.#setReachable(neighbour, now);
  }

  /** The operator's own entry. Frames that waited leave. Throws RangeError for an address that is none of a station. */
  setPermanent(neighbour: number, mac: Uint8Array, now: Time): void {
    if (mac.length !== MAC_BYTES || (mac[0]! & 1) !== 0) {
      throw new RangeError(`[${mac.join(', ')}] is no MAC address of a neighbour: give 6 bytes that are no group's`);
    }
    this.#setMac(neighbour, mac, 0);
    this.#deadlines.cancel(neighbour);
    this.state[neighbour] = PERMANENT;
    this.#sendWaiting(neighbour, now);
  }

  /** Forgets a neighbour; what waits for it is lost. */
  remove(neighbour: number): void {
    this.#drop(neighbour);
    this.#deadlines.cancel(neighbour);
    this.#table.remove(neighbour);
    this.state[neighbour] = FREE;
    this.#renew(neighbour);
  }

  /** Routes have changed: nobody's number and version belong together any more. */
  renewAll(): void {
    for (let neighbour = 0; neighbour < this.capacity; neighbour++) this.#renew(neighbour);
  }

  /** All neighbours, for listings. */
  forEach(visit: (neighbour: number) => void): void {
    for (let neighbour = 0; neighbour < this.capacity; neighbour++) {
      if (this.state[neighbour] !== FREE) visit(neighbour);
    }
  }

  get deadline(): Time {
    return this.#deadlines.first;
  }

  tick(now: Time): void {
    for (;;) {
      const neighbour = this.#deadlines.due(now);
      if (neighbour === NONE) return;
      this.#timeHasCome(neighbour, now);
    }
  }

  #timeHasCome(neighbour: number, now: Time): void {
    switch (this.state[neighbour]) {
      case REACHABLE: {
        const until = this.#confirmed[neighbour]! + this.#reachableTime(neighbour, now);
        if (until > now) this.#deadlines.set(neighbour, until);
        else this.state[neighbour] = STALE;
        return;
      }
      case INCOMPLETE:
        if (this.#probes[neighbour]! < MAX_MULTICAST_SOLICIT) this.#ask(neighbour, false, now);
        else this.#fail(neighbour, now);
        return;
      case DELAY:
        this.state[neighbour] = PROBE;
        this.#probes[neighbour] = 0;
        this.#ask(neighbour, true, now);
        return;
      case PROBE:
        if (this.#probes[neighbour]! < MAX_UNICAST_SOLICIT) this.#ask(neighbour, true, now);
        else this.#fail(neighbour, now);
    }
  }

  #ask(neighbour: number, unicast: boolean, now: Time): void {
    const family = this.family[neighbour] as Family;
    this.#probes[neighbour] = this.#probes[neighbour]! + 1;
    this.#lastAsked[neighbour] = now;
    this.#deadlines.set(neighbour, now + this.#timing(family).retrans);
    const protocol = family === 4 ? this.#protocol4 : this.#protocol6;
    protocol?.solicit(neighbour, this.#local[neighbour]!, unicast, now);
  }

  #fail(neighbour: number, now: Time): void {
    this.state[neighbour] = FAILED;
    this.used[neighbour] = 0;
    this.counters.failed++;
    const frames = this.#drop(neighbour);
    const protocol = this.family[neighbour] === 4 ? this.#protocol4 : this.#protocol6;
    protocol?.failed?.(neighbour, now);
    for (const frame of frames) this.#host.unreachable(frame, now);
  }

  #sendWaiting(neighbour: number, now: Time): void {
    const frames = this.#drop(neighbour);
    if (frames.length > 0) this.ready(neighbour, -1, now);
    for (const frame of frames) this.#host.transmit(frame, neighbour);
  }

  /** Takes the waiting frames out. */
  #drop(neighbour: number): readonly WaitingFrame[] {
    const frames = this.#queues.get(neighbour);
    if (frames === undefined) return NO_FRAMES;
    this.#queues.delete(neighbour);
    for (const { bytes } of frames) this.#waitingBytes -= bytes.length;
    return frames;
  }

  #setReachable(neighbour: number, now: Time): void {
    this.state[neighbour] = REACHABLE;
    this.#confirmed[neighbour] = now;
    this.#deadlines.set(neighbour, now + this.#reachableTime(neighbour, now));
  }

  #setStale(neighbour: number): void {
    this.state[neighbour] = STALE;
    this.#deadlines.cancel(neighbour);
  }

  #setMac(neighbour: number, bytes: Uint8Array, at: number): void {
    this.macHigh[neighbour] = (bytes[at]! << 8) | bytes[at + 1]!;
    this.macLow[neighbour] = lowOf(bytes, at);
  }

  #hasMac(neighbour: number, bytes: Uint8Array, at: number): boolean {
    return (
      this.macLow[neighbour] === lowOf(bytes, at) && this.macHigh[neighbour] === ((bytes[at]! << 8) | bytes[at + 1]!)
    );
  }

  #renew(neighbour: number): void {
    this.#lastVersion = (this.#lastVersion + 1) | 0 || 1;
    this.version[neighbour] = this.#lastVersion;
  }

  /** Second chance: whoever was used since the hand came by stays. Never the PERMANENT ones, unless there are no others. */
  #evict(): void {
    const { used, state, capacity } = this;
    for (let steps = 0; ; steps++) {
      const neighbour = this.#hand;
      this.#hand = (this.#hand + 1) % capacity;
      if (state[neighbour] === PERMANENT && steps < 2 * capacity) continue;
      if (used[neighbour] === 1 && steps < 2 * capacity) {
        used[neighbour] = 0;
        continue;
      }
      this.counters.evicted++;
      this.counters.unresolvedDiscards += this.waiting(neighbour);
      this.remove(neighbour);
      return;
    }
  }

  #timing(family: Family): Timing {
    return family === 4 ? this.#timing4 : this.#timing6;
  }

  /** Uniformly between 0.5 and 1.5 times BaseReachableTime (RFC 4861 §6.3.2). */
  #reachableTime(neighbour: number, now: Time): number {
    const timing = this.#timing(this.family[neighbour] as Family);
    if (now >= timing.reachableUntil) {
      timing.reachable = Math.round(timing.baseReachable * (MIN_RANDOM_FACTOR + this.#random() / UINT32));
      timing.reachableUntil = now + RANDOMISE_INTERVAL;
    }
    return timing.reachable;
  }

  #setKey(family: Family, bytes: Uint8Array, at: number): void {
    const key = this.#key;
    if (family === 4) {
      key.fill(0, 0, 10);
      key.fill(0xff, 10, 12);
      for (let i = 0; i < 4; i++) key[12 + i] = bytes[at + i]!;
    } else {
      for (let i = 0; i < IPV6_BYTES; i++) key[i] = bytes[at + i]!;
    }
  }
}

const NO_FRAMES: readonly WaitingFrame[] = [];

function lowOf(bytes: Uint8Array, at: number): number {
  return (bytes[at + 2]! << 24) | (bytes[at + 3]! << 16) | (bytes[at + 4]! << 8) | bytes[at + 5]!;
}

function newTiming(): Timing {
  return {
    baseReachable: REACHABLE_TIME,
    reachable: REACHABLE_TIME,
    reachableUntil: Number.NEGATIVE_INFINITY,
    retrans: RETRANS_TIMER,
  };
}
