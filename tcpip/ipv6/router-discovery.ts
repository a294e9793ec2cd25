/**
 * What routers tell (RFC 4861 §6.3), and asking them (§6.3.7, RFC 7559): default routers with their preference (RFC 4191),
 * prefixes that are on the link, hop limit, times, MTU, name servers (RFC 8106, for listing).
 *
 *     start() ─► solicit, 4 s, 8 s, … ─► input(an advertisement) ─► routers, routes, addresses … ─► they expire in tick()
 *
 * Bounded: {@link MAX_ROUTERS}, {@link MAX_PREFIXES}, {@link MAX_NAME_SERVERS}; what is there stays, what is beyond is passed over, but
 * a router that is preferred takes the place of one that is less so. The flags M and O are kept for listing: there is no DHCPv6.
 */
import type { NetworkHost } from '../ip/network-layer.ts';
import { MAX_ROUTES, type Route } from '../ip/route-table.ts';
import { FAILED, INCOMPLETE, NO_NEIGHBOUR } from '../link/neighbour-cache.ts';
import { MICROSECONDS_PER_SECOND, NEVER, type Ticking, type Time } from '../network.ts';
import type { AddressConfiguration } from './address-configuration.ts';
import { ALL_ROUTERS, copyAddress, isLinkLocal, isMulticast, keyOf, sameAddress, UNSPECIFIED } from './addresses.ts';
import {
  INFINITE_LIFETIME,
  LINK_LAYER_OPTION_BYTES,
  MTU_MTU,
  ND_HOP_LIMIT,
  ND_OPTION_UNIT,
  OPTION_SOURCE_LINK_LAYER,
  PREFIX_AUTONOMOUS,
  PREFIX_FLAGS,
  PREFIX_LENGTH,
  PREFIX_ON_LINK,
  PREFIX_PREFERRED,
  PREFIX_PREFIX,
  PREFIX_VALID,
  RA_FLAGS,
  RA_HOP_LIMIT,
  RA_LIFETIME,
  RA_MANAGED,
  RA_OTHER,
  RA_PREFERENCE_MASK,
  RA_PREFERENCE_SHIFT,
  RA_REACHABLE_TIME,
  RA_RETRANS_TIMER,
  RDNSS_ADDRESSES,
  RDNSS_LIFETIME,
  ROUTER_SOLICITATION,
  ROUTER_SOLICITATION_BYTES,
} from './icmpv6-header.ts';
import type { Icmpv6Output } from './icmpv6-output.ts';
import { IPV6_ADDRESS_BYTES, IPV6_MIN_MTU, uint16At, uint32At } from './ipv6-header.ts';
import { type NdOptions, NO_OPTION, preferenceOf } from './nd-options.ts';

export const MAX_ROUTERS = 16;
export const MAX_PREFIXES = 32;
export const MAX_NAME_SERVERS = 8;

/** MAX_RTR_SOLICITATION_DELAY (RFC 4861 §10). */
const MAX_RTR_SOLICITATION_DELAY = MICROSECONDS_PER_SECOND;
/** IRT and MRT of RFC 7559 §2: the first interval, and the longest. */
export const SOLICITATION_INTERVAL = 4 * MICROSECONDS_PER_SECOND;
export const MAX_SOLICITATION_INTERVAL = 3600 * MICROSECONDS_PER_SECOND;
/** RAND of RFC 8415 §15: between -0.1 and 0.1. */
const RANDOM_SHARE = 0.1;
const MICROSECONDS_PER_MS = 1000;
/** AdvReachableTime (RFC 4861 §6.2.1). */
const MAX_REACHABLE_TIME = 3600 * MICROSECONDS_PER_SECOND;
/** RetransTimer has no limit in RFC 4861; without one, a forged advertisement would end all resolution. */
export const MIN_RETRANS_TIMER = 10 * MICROSECONDS_PER_MS;
export const MAX_RETRANS_TIMER = 10 * MICROSECONDS_PER_SECOND;
const DEFAULT_RETRANS_TIMER = MICROSECONDS_PER_SECOND;
const DEFAULT_REACHABLE_TIME = 30 * MICROSECONDS_PER_SECOND;
const UINT32 = 2 ** 32;

export interface DefaultRouter {
  /** Link-local. */
  readonly address: Uint8Array;
  /** 1: high, 0: medium, -1: low. */
  preference: number;
  until: Time;
}

export interface OnLinkPrefix {
  readonly prefix: Uint8Array;
  readonly prefixLength: number;
  readonly route: Route;
  until: Time;
}

export interface NameServer {
  readonly address: Uint8Array;
  until: Time;
}

export class RouterDiscovery implements Ticking {
  readonly counters = {
    inAdvertisements: 0,
    inAdvertsRefused: 0,
    outSolicits: 0,
    routersRefused: 0,
    prefixesRefused: 0,
  };
  /** What packets leave with (CurHopLimit). */
  hopLimit = 64;
  /** What routers say the link takes, or 0. */
  linkMtu = 0;
  managed = false;
  otherConfiguration = false;
  /** The preferred ones first. */
  readonly routers: DefaultRouter[] = [];
  readonly prefixes: OnLinkPrefix[] = [];
  readonly nameServers: NameServer[] = [];
  readonly #host: NetworkHost;
  readonly #output: Icmpv6Output;
  readonly #addresses: AddressConfiguration;
  #turn = 0;
  #reachableTime = DEFAULT_REACHABLE_TIME;
  #retransTimer = DEFAULT_RETRANS_TIMER;
  #solicitAt: Time = NEVER;
  #interval = 0;
  #deadline: Time = NEVER;

  constructor(host: NetworkHost, output: Icmpv6Output, addresses: AddressConfiguration) {
    this.#host = host;
    this.#output = output;
    this.#addresses = addresses;
  }

  /** Begins to ask for routers, after a random delay. */
  start(now: Time): void {
    this.#interval = 0;
    this.#solicitAt = now + Math.floor(this.#random() * MAX_RTR_SOLICITATION_DELAY);
    this.#findDeadline();
  }

  /** Asks no more. */
  stop(): void {
    this.#solicitAt = NEVER;
    this.#findDeadline();
  }

  /**
   * A router advertisement, which is valid (RFC 4861 §6.1.2): its ICMPv6 header is at `at`, its sender's address at `source`,
   * and its options are in `options`.
   */
  input(bytes: Uint8Array, at: number, source: number, options: NdOptions, now: Time): void {
    this.counters.inAdvertisements++;
    const flags = bytes[at + RA_FLAGS];
    this.managed = (flags & RA_MANAGED) !== 0;
    this.otherConfiguration = (flags & RA_OTHER) !== 0;
    if (bytes[at + RA_HOP_LIMIT] !== 0) this.hopLimit = bytes[at + RA_HOP_LIMIT];
    this.#takeTimes(uint32At(bytes, at + RA_REACHABLE_TIME), uint32At(bytes, at + RA_RETRANS_TIMER));
    const lifetime = uint16At(bytes, at + RA_LIFETIME) * MICROSECONDS_PER_SECOND;
    this.#takeRouter(bytes, source, lifetime, preferenceOf((flags >>> RA_PREFERENCE_SHIFT) & RA_PREFERENCE_MASK), now);
    if (options.sourceMac !== NO_OPTION) {
      const { neighbours } = this.#host;
      const neighbour = neighbours.entry(6, bytes, source);
      const wasUsable = neighbours.isUsable(neighbour);
      neighbours.learnt(neighbour, bytes, options.sourceMac, now);
      neighbours.isRouter[neighbour] = 1;
      // It is one to choose again.
      if (!wasUsable && this.routers.length > 1) this.#host.routes.onChange();
    }
    if (options.mtu !== NO_OPTION) this.#takeMtu(uint32At(bytes, options.mtu + MTU_MTU));
    for (let i = 0; i < options.prefixCount; i++) this.#takePrefix(bytes, options.prefixes[i], now);
    for (let i = 0; i < options.rdnssCount; i++) this.#takeNameServers(bytes, options.rdnss[i], now);
    // RFC 7559 §2: asked and answered, by one that will route for us.
    if (lifetime > 0) this.#solicitAt = NEVER;
    this.#findDeadline();
  }

  /** The router to send by, or null when there is none: reachable ones first, then preferred ones (RFC 4191 §3.2). */
  choose(): DefaultRouter | null {
    const { routers } = this;
    if (routers.length <= 1) return routers[0] ?? null;
    for (const router of routers) if (this.#isReachable(router)) return router;
    // Each in its turn, so that all are tried (RFC 4861 §6.3.6).
    return routers[this.#turn++ % routers.length];
  }

  isRouter(bytes: Uint8Array, at: number): boolean {
    return this.#find(bytes, at) !== undefined;
  }

  /** It says that it is no router any more (RFC 4861 §7.2.5). */
  removeRouter(bytes: Uint8Array, at: number, now: Time): void {
    const router = this.#find(bytes, at);
    if (router !== undefined) this.#dropRouter(router, now);
    this.#findDeadline();
  }

  get deadline(): Time {
    return this.#deadline;
  }

  tick(now: Time): void {
    if (now < this.#deadline) return;
    for (const router of [...this.routers]) if (router.until <= now) this.#dropRouter(router, now);
    for (const prefix of [...this.prefixes]) if (prefix.until <= now) this.#dropPrefix(prefix);
    for (const server of [...this.nameServers]) if (server.until <= now) remove(this.nameServers, server);
    if (this.#solicitAt <= now) this.#solicit(now);
    this.#findDeadline();
  }

  #isReachable({ address }: DefaultRouter): boolean {
    const { neighbours } = this.#host;
    const neighbour = neighbours.find(6, address, 0);
    if (neighbour === NO_NEIGHBOUR) return false;
    const state = neighbours.state[neighbour];
    return state !== FAILED && state !== INCOMPLETE;
  }

  #find(bytes: Uint8Array, at: number): DefaultRouter | undefined {
    return this.routers.find(({ address }) => sameAddress(address, 0, bytes, at));
  }

  #takeTimes(reachableMs: number, retransMs: number): void {
    if (reachableMs !== 0) this.#reachableTime = Math.min(reachableMs * MICROSECONDS_PER_MS, MAX_REACHABLE_TIME);
    if (retransMs !== 0) {
      this.#retransTimer = Math.min(Math.max(retransMs * MICROSECONDS_PER_MS, MIN_RETRANS_TIMER), MAX_RETRANS_TIMER);
    }
    if (reachableMs === 0 && retransMs === 0) return;
    this.#host.neighbours.setTiming(6, this.#reachableTime, this.#retransTimer);
    this.#addresses.retransTimer = this.#retransTimer;
  }

  #takeRouter(bytes: Uint8Array, source: number, lifetime: number, preference: number, now: Time): void {
    const { routers } = this;
    const known = this.#find(bytes, source);
    if (lifetime === 0) {
      if (known !== undefined) this.#dropRouter(known, now);
      return;
    }
    if (known !== undefined) {
      known.until = now + lifetime;
      if (known.preference === preference) return;
      remove(routers, known);
    } else if (routers.length >= MAX_ROUTERS) {
      const least = routers[routers.length - 1];
      if (least.preference >= preference) {
        this.counters.routersRefused++;
        return;
      }
      remove(routers, least);
    }
    const place = routers.findIndex((other) => other.preference < preference);
    const router = { address: copyAddress(bytes, source), preference, until: now + lifetime };
    routers.splice(place < 0 ? routers.length : place, 0, router);
    this.#host.routes.onChange();
  }

  #dropRouter(router: DefaultRouter, now: Time): void {
    remove(this.routers, router);
    this.#host.routes.onChange();
    if (this.routers.length === 0 && this.#solicitAt === NEVER) this.start(now);
  }

  #takeMtu(mtu: number): void {
    const { mtu: device } = this.#host.link;
    // Too small a one is no link of IPv6, too large a one none of ours (RFC 4861 §6.3.4).
    if (mtu < IPV6_MIN_MTU || mtu > device || mtu === (this.linkMtu || device)) return;
    this.linkMtu = mtu;
    this.#host.destinations.setLinkMtu(6, mtu);
  }

  #takePrefix(bytes: Uint8Array, option: number, now: Time): void {
    const prefix = option + PREFIX_PREFIX;
    const prefixLength = bytes[option + PREFIX_LENGTH];
    const flags = bytes[option + PREFIX_FLAGS];
    const valid = lifetimeOf(uint32At(bytes, option + PREFIX_VALID));
    const preferred = lifetimeOf(uint32At(bytes, option + PREFIX_PREFERRED));
    if (prefixLength > 8 * IPV6_ADDRESS_BYTES || isLinkLocal(bytes, prefix) || isMulticast(bytes, prefix)) return;
    // Nothing, as a prefix on the link: then the whole world would be.
    if ((flags & PREFIX_ON_LINK) !== 0 && prefixLength > 0) this.#takeOnLink(bytes, prefix, prefixLength, valid, now);
    if ((flags & PREFIX_AUTONOMOUS) !== 0) {
      this.#addresses.autoconfigure(copyAddress(bytes, prefix), prefixLength, valid, preferred, now);
    }
  }

  /** RFC 4861 §6.3.4. */
  #takeOnLink(bytes: Uint8Array, at: number, prefixLength: number, valid: Time, now: Time): void {
    const prefix = copyAddress(bytes, at);
    clearBehind(prefix, prefixLength);
    const key = keyOf(prefix, 0);
    const known = this.prefixes.find((other) => other.prefixLength === prefixLength && keyOf(other.prefix, 0) === key);
    if (known !== undefined) {
      if (valid === 0) this.#dropPrefix(known);
      else known.until = now + valid;
      return;
    }
    if (valid === 0) return;
    if (this.prefixes.length >= MAX_PREFIXES || this.#host.routes.list(6).length >= MAX_ROUTES) {
      this.counters.prefixesRefused++;
      return;
    }
    const route = this.#host.routes.add({ prefix, prefixLength, origin: 'ra' });
    this.prefixes.push({ prefix, prefixLength, route, until: now + valid });
  }

  #dropPrefix(prefix: OnLinkPrefix): void {
    remove(this.prefixes, prefix);
    this.#host.routes.remove(prefix.route);
  }

  #takeNameServers(bytes: Uint8Array, option: number, now: Time): void {
    const lifetime = lifetimeOf(uint32At(bytes, option + RDNSS_LIFETIME));
    const end = option + bytes[option + 1] * ND_OPTION_UNIT;
    for (let at = option + RDNSS_ADDRESSES; at < end; at += IPV6_ADDRESS_BYTES) {
      if (isMulticast(bytes, at)) continue;
      const known = this.nameServers.find(({ address }) => sameAddress(address, 0, bytes, at));
      if (known !== undefined) {
        if (lifetime === 0) remove(this.nameServers, known);
        else known.until = now + lifetime;
      } else if (lifetime > 0 && this.nameServers.length < MAX_NAME_SERVERS) {
        this.nameServers.push({ address: copyAddress(bytes, at), until: now + lifetime });
      }
    }
  }

  /** RFC 7559 §2, with the intervals of RFC 8415 §15. */
  #solicit(now: Time): void {
    const share = 2 * RANDOM_SHARE * this.#random() - RANDOM_SHARE;
    if (this.#interval === 0) this.#interval = SOLICITATION_INTERVAL * (1 + share);
    else this.#interval *= 2 + share;
    if (this.#interval > MAX_SOLICITATION_INTERVAL) this.#interval = MAX_SOLICITATION_INTERVAL * (1 + share);
    this.#solicitAt = now + Math.round(this.#interval);
    this.counters.outSolicits++;
    const output = this.#output;
    const source = this.#linkLocal();
    const at = output.begin(ROUTER_SOLICITATION, 0);
    let length = ROUTER_SOLICITATION_BYTES;
    if (source !== null) {
      const option = at + length;
      output.bytes[option] = OPTION_SOURCE_LINK_LAYER;
      output.bytes[option + 1] = LINK_LAYER_OPTION_BYTES / ND_OPTION_UNIT;
      output.bytes.set(this.#host.link.device.address, option + 2);
      length += LINK_LAYER_OPTION_BYTES;
    }
    output.finish(source ?? UNSPECIFIED, 0, ALL_ROUTERS, 0, ND_HOP_LIMIT, length);
    output.toGroup();
  }

  #linkLocal(): Uint8Array | null {
    for (const { family, bytes } of this.#host.locals.all()) if (family === 6 && isLinkLocal(bytes, 0)) return bytes;
    return null;
  }

  #findDeadline(): void {
    let deadline = this.#solicitAt;
    for (const list of [this.routers, this.prefixes, this.nameServers]) {
      for (const { until } of list) deadline = Math.min(deadline, until);
    }
    this.#deadline = deadline;
  }

  /** From 0 to less than 1. */
  #random(): number {
    return this.#host.random() / UINT32;
  }
}

function lifetimeOf(seconds: number): number {
  return seconds === INFINITE_LIFETIME ? NEVER : seconds * MICROSECONDS_PER_SECOND;
}

function remove<T>(list: T[], item: T): void {
  const place = list.indexOf(item);
  if (place >= 0) list.splice(place, 1);
}

/** Bits behind a prefix do not matter (RFC 4861 §4.6.2). */
function clearBehind(prefix: Uint8Array, bits: number): void {
  for (let i = 0; i < prefix.length; i++) {
    const rest = Math.min(8, Math.max(0, bits - 8 * i));
    prefix[i] &= 0xff00 >> rest;
  }
}
