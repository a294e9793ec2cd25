/**
 * ARP (RFC 826) over Ethernet for IPv4: asks and answers for the neighbour cache, and sees to it that our addresses are ours
 * alone (RFC 5227).
 *
 *     acquire ─► wait 0…1 s ─► probe × 3 ─► wait 2 s ─► ours: announce × 2 ─► defend: once in 10 s
 *                                 └── somebody has it: no                         └── again within them: give it up
 *
 * Control path: it may allocate.
 */
import { Deadlines, NONE } from '../deadlines.ts';
import { NO_ROOM } from '../frame-device.ts';
import { wordAt } from '../ip/address-table.ts';
import { read16, write16, write32 } from '../ip/ipv4-header.ts';
import type { LocalAddress } from '../ip/local-table.ts';
import type { NetworkHost } from '../ip/network-layer.ts';
import { MICROSECONDS_PER_SECOND, type Ticking, type Time } from '../network.ts';
import { NOT_LOCAL } from '../packet.ts';
import { BROADCAST_HIGH, BROADCAST_LOW, writeMac } from './ethernet.ts';
import { type NeighbourProtocol, NO_NEIGHBOUR } from './neighbour-cache.ts';

export const ETHERTYPE_ARP = 0x0806;
export const ARP_LENGTH = 28;
// Fields, RFC 826.
const HARDWARE_TYPE = 0;
const PROTOCOL_TYPE = 2;
const LENGTHS = 4;
export const ARP_OPERATION = 6;
export const ARP_SENDER_MAC = 8;
export const ARP_SENDER = 14;
export const ARP_TARGET_MAC = 18;
export const ARP_TARGET = 24;
const HARDWARE_ETHERNET = 1;
const PROTOCOL_IPV4 = 0x0800;
/** 6 and 4 bytes. */
const ETHERNET_IPV4_LENGTHS = 0x0604;
export const ARP_REQUEST = 1;
export const ARP_REPLY = 2;
const GROUP = 0x01;
const FIRST_GROUP = 224;
const LOOPBACK_NETWORK = 127;

// RFC 5227 §1.1, in µs.
export const PROBE_WAIT = MICROSECONDS_PER_SECOND;
export const PROBE_NUM = 3;
export const PROBE_MIN = MICROSECONDS_PER_SECOND;
export const PROBE_MAX = 2 * MICROSECONDS_PER_SECOND;
export const ANNOUNCE_WAIT = 2 * MICROSECONDS_PER_SECOND;
export const ANNOUNCE_NUM = 2;
export const ANNOUNCE_INTERVAL = 2 * MICROSECONDS_PER_SECOND;
export const MAX_CONFLICTS = 10;
export const RATE_LIMIT_INTERVAL = 60 * MICROSECONDS_PER_SECOND;
export const DEFEND_INTERVAL = 10 * MICROSECONDS_PER_SECOND;
const UINT32 = 2 ** 32;
/** Addresses that are tried at once. */
const MAX_CLAIMS = 65_536;

/** What becomes of an address of ours that somebody else uses again within DEFEND_INTERVAL (RFC 5227 §2.4). */
export type ConflictPolicy = 'give-up' | 'defend';

export interface ArpCounters {
  inRequests: number;
  inReplies: number;
  outRequests: number;
  outReplies: number;
  /** Not 28 bytes of Ethernet and IPv4, or addresses that cannot be. */
  inErrors: number;
  /** Others with an address of ours. */
  conflicts: number;
}

/** An address that is being tried out, or announced. */
interface Claim {
  readonly id: number;
  readonly address: Uint8Array;
  readonly word: number;
  /** Packets still to send of what it is doing. */
  left: number;
  announcing: boolean;
  readonly done: ((free: boolean) => void) | null;
}

export class Arp implements NeighbourProtocol, Ticking {
  readonly counters: ArpCounters = {
    inRequests: 0,
    inReplies: 0,
    outRequests: 0,
    outReplies: 0,
    inErrors: 0,
    conflicts: 0,
  };
  /** Default: 'defend', as a host with an address of its own wants it (RFC 5227 §2.4 (c)); DHCP's and link-local ones may give up. */
  policy: ConflictPolicy = 'defend';
  /** Somebody else uses an address of ours; `lost`: it was taken out of our addresses. */
  onConflict: (address: LocalAddress, lost: boolean, now: Time) => void = () => {};
  readonly #host: NetworkHost;
  readonly #claims = new Map<number, Claim>();
  readonly #byWord = new Map<number, Claim>();
  readonly #deadlines = new Deadlines();
  /** When we last defended an address. */
  readonly #defended = new Map<number, Time>();
  #lastId = 0;
  /** Conflicts when trying addresses out; many slow us down (RFC 5227 §2.1.1). */
  #probeConflicts = 0;

  constructor(host: NetworkHost) {
    this.#host = host;
    host.neighbours.setProtocol(4, this);
    host.locals.watch((address, added) => {
      if (!added && address.family === 4) this.#forget(wordAt(address.bytes, 0));
    });
  }

  // ---- addresses of ours

  /**
   * Tries whether an IPv4 address is free (RFC 5227 §2.1): `done(true)` some 4 to 8 s later, or `done(false)` when somebody has it. The
   * caller then puts it into the local table and calls {@link announce}. Gives a function that cancels it. Throws RangeError
   * when the address cannot be one, or is being tried out.
   */
  acquire(address: Uint8Array, now: Time, done: (free: boolean) => void): () => void {
    const wait = this.#probeConflicts >= MAX_CONFLICTS ? RATE_LIMIT_INTERVAL : Math.floor(this.#random() * PROBE_WAIT);
    const claim = this.#claim(address, PROBE_NUM, false, done);
    this.#deadlines.set(claim.id, now + wait);
    return () => this.#drop(claim);
  }

  /** Says twice that an address is ours (RFC 5227 §2.3). It is in the local table. */
  announce(address: Uint8Array, now: Time): void {
    const known = this.#byWord.get(wordAt(address, 0));
    if (known !== undefined) this.#drop(known);
    const claim = this.#claim(address, ANNOUNCE_NUM, true, null);
    this.#deadlines.set(claim.id, now);
  }

  #claim(address: Uint8Array, left: number, announcing: boolean, done: ((free: boolean) => void) | null): Claim {
    if (address.length !== 4 || address[0] === 0 || address[0] === LOOPBACK_NETWORK || address[0]! >= FIRST_GROUP) {
      throw new RangeError(`[${address.join('.')}] is no IPv4 address that a host on a link can have`);
    }
    const word = wordAt(address, 0);
    if (this.#byWord.has(word)) throw new RangeError(`${address.join('.')} is being tried out already`);
    if (this.#claims.size >= MAX_CLAIMS) throw new RangeError(`${MAX_CLAIMS} addresses are being tried out already`);
    let id = this.#lastId;
    while (this.#claims.has(id)) id = (id + 1) % MAX_CLAIMS;
    this.#lastId = id;
    const claim: Claim = { id, address: Uint8Array.from(address), word, left, announcing, done };
    this.#claims.set(id, claim);
    this.#byWord.set(word, claim);
    return claim;
  }

  #drop(claim: Claim): void {
    if (this.#claims.get(claim.id) !== claim) return;
    this.#claims.delete(claim.id);
    this.#byWord.delete(claim.word);
    this.#deadlines.cancel(claim.id);
  }

  #forget(word: number): void {
    this.#defended.delete(word);
    const claim = this.#byWord.get(word);
    if (claim?.announcing) this.#drop(claim);
  }

  get deadline(): Time {
    return this.#deadlines.first;
  }

  tick(now: Time): void {
    for (;;) {
      const id = this.#deadlines.due(now);
      if (id === NONE) return;
      this.#step(this.#claims.get(id)!, now);
    }
  }

  #step(claim: Claim, now: Time): void {
    if (claim.left === 0) {
      this.#drop(claim);
      this.#probeConflicts = 0;
      claim.done?.(true);
      return;
    }
    claim.left--;
    this.#send(ARP_REQUEST, BROADCAST_HIGH, BROADCAST_LOW, claim.announcing ? claim.word : 0, 0, 0, claim.word);
    if (!claim.announcing) {
      const pause = PROBE_MIN + Math.floor(this.#random() * (PROBE_MAX - PROBE_MIN));
      this.#deadlines.set(claim.id, now + (claim.left > 0 ? pause : ANNOUNCE_WAIT));
    } else if (claim.left > 0) this.#deadlines.set(claim.id, now + ANNOUNCE_INTERVAL);
    else this.#drop(claim);
  }

  #random(): number {
    return this.#host.random() / UINT32;
  }

  // ---- neighbours

  solicit(neighbour: number, local: number, unicast: boolean): void {
    const { neighbours, locals } = this.#host;
    const target = neighbours.address(neighbour);
    const word = wordAt(target, 0);
    const source = locals.has(local) && (local & 1) === 0 ? local : this.#sourceFor(target);
    if (source === NOT_LOCAL) return;
    const sender = wordAt(locals.address(source), 0);
    const high = neighbours.macHigh[neighbour]!;
    const low = neighbours.macLow[neighbour]!;
    if (unicast) this.#send(ARP_REQUEST, high, low, sender, 0, 0, word);
    else this.#send(ARP_REQUEST, BROADCAST_HIGH, BROADCAST_LOW, sender, 0, 0, word);
  }

  #sourceFor(target: Uint8Array): number {
    for (const address of this.#host.locals.all()) {
      if (address.family !== 4 || address.loopback) continue;
      const { bytes, prefixLength } = address;
      const mask = prefixLength === 0 ? 0 : -1 << (32 - prefixLength);
      if (((wordAt(bytes, 0) ^ wordAt(target, 0)) & mask) === 0) return address.local;
    }
    for (const address of this.#host.locals.all()) {
      if (address.family === 4 && !address.loopback) return address.local;
    }
    return NOT_LOCAL;
  }

  // ---- what comes

  /** An ARP packet in `bytes[at, end)`, perhaps with padding behind it. */
  input(bytes: Uint8Array, at: number, end: number, now: Time): void {
    const { counters } = this;
    const { locals, link } = this.#host;
    const isWellFormed =
      end - at >= ARP_LENGTH &&
      read16(bytes, at + HARDWARE_TYPE) === HARDWARE_ETHERNET &&
      read16(bytes, at + PROTOCOL_TYPE) === PROTOCOL_IPV4 &&
      read16(bytes, at + LENGTHS) === ETHERNET_IPV4_LENGTHS;
    const operation = isWellFormed ? read16(bytes, at + ARP_OPERATION) : 0;
    const mac = at + ARP_SENDER_MAC;
    const first = bytes[at + ARP_SENDER]!;
    if (
      (operation !== ARP_REQUEST && operation !== ARP_REPLY) ||
      (bytes[mac]! & GROUP) !== 0 ||
      first >= FIRST_GROUP ||
      first === LOOPBACK_NETWORK
    ) {
      counters.inErrors++;
      return;
    }
    if (operation === ARP_REQUEST) counters.inRequests++;
    else counters.inReplies++;
    const senderHigh = read16(bytes, mac);
    const senderLow = wordAt(bytes, mac + 2);
    if (senderHigh === link.macHigh && senderLow === link.macLow) return;
    const sender = wordAt(bytes, at + ARP_SENDER);
    const target = wordAt(bytes, at + ARP_TARGET);
    if (this.#isClaimLost(sender, target, operation)) return;
    if (sender !== 0) {
      const ours = locals.find(4, bytes, at + ARP_SENDER);
      if (ours !== NOT_LOCAL) {
        this.#defend(ours, now);
        return;
      }
    }
    const local = locals.find(4, bytes, at + ARP_TARGET);
    const isForUs = local !== NOT_LOCAL && !locals.get(local)!.loopback;
    if (sender !== 0) this.#learn(bytes, at, operation, isForUs, now);
    if (operation !== ARP_REQUEST || !isForUs) return;
    this.#send(ARP_REPLY, senderHigh, senderLow, target, senderHigh, senderLow, sender);
  }

  /** Whether this ends the trial of an address: somebody has it, or tries it as well (RFC 5227 §2.1.1). */
  #isClaimLost(sender: number, target: number, operation: number): boolean {
    const rival = sender !== 0 ? sender : operation === ARP_REQUEST ? target : 0;
    const claim = this.#byWord.get(rival);
    if (claim === undefined || claim.announcing) return false;
    this.#drop(claim);
    this.#probeConflicts++;
    this.counters.conflicts++;
    claim.done?.(false);
    return true;
  }

  /** Somebody uses our address (RFC 5227 §2.4). */
  #defend(local: number, now: Time): void {
    this.counters.conflicts++;
    const address = this.#host.locals.get(local)!;
    const word = wordAt(address.bytes, 0);
    const last = this.#defended.get(word) ?? Number.NEGATIVE_INFINITY;
    const isAgain = now - last < DEFEND_INTERVAL;
    if (!isAgain) {
      this.#defended.set(word, now);
      this.#send(ARP_REQUEST, BROADCAST_HIGH, BROADCAST_LOW, word, 0, 0, word);
    }
    const lost = isAgain && this.policy === 'give-up';
    if (lost) this.#host.locals.remove(local);
    this.onConflict(address, lost, now);
  }

  /**
   * RFC 826: what is known of the sender is brought up to date; who asks for us, or answers us, is put in. Whoever only
   * announces himself is not: nobody fills our table for us.
   */
  #learn(bytes: Uint8Array, at: number, operation: number, isForUs: boolean, now: Time): void {
    const { neighbours, routes, link } = this.#host;
    const mac = at + ARP_SENDER_MAC;
    let neighbour = neighbours.find(4, bytes, at + ARP_SENDER);
    if (neighbour === NO_NEIGHBOUR) {
      if (!isForUs || operation !== ARP_REQUEST) return;
      // Who is not on our link by any route cannot be a next hop.
      const route = routes.find(4, bytes, at + ARP_SENDER);
      if (route === null || route.gateway !== null) return;
      neighbour = neighbours.entry(4, bytes, at + ARP_SENDER);
    }
    const isAnswer =
      operation === ARP_REPLY &&
      isForUs &&
      read16(bytes, at + ARP_TARGET_MAC) === link.macHigh &&
      wordAt(bytes, at + ARP_TARGET_MAC + 2) === link.macLow;
    if (isAnswer) neighbours.advertised(neighbour, bytes, mac, true, true, now);
    else neighbours.learnt(neighbour, bytes, mac, now);
  }

  #send(
    operation: number,
    macHigh: number,
    macLow: number,
    sender: number,
    targetHigh: number,
    targetLow: number,
    target: number,
  ): void {
    const { link } = this.#host;
    const at = link.begin(macHigh, macLow, ETHERTYPE_ARP, ARP_LENGTH);
    if (at === NO_ROOM) return;
    const bytes = link.device.tx;
    write16(bytes, at + HARDWARE_TYPE, HARDWARE_ETHERNET);
    write16(bytes, at + PROTOCOL_TYPE, PROTOCOL_IPV4);
    write16(bytes, at + LENGTHS, ETHERNET_IPV4_LENGTHS);
    write16(bytes, at + ARP_OPERATION, operation);
    writeMac(bytes, at + ARP_SENDER_MAC, link.macHigh, link.macLow);
    write32(bytes, at + ARP_SENDER, sender);
    writeMac(bytes, at + ARP_TARGET_MAC, targetHigh, targetLow);
    write32(bytes, at + ARP_TARGET, target);
    link.send(ARP_LENGTH);
    if (operation === ARP_REQUEST) this.counters.outRequests++;
    else this.counters.outReplies++;
  }
}
