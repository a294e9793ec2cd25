/**
 * Neighbour discovery (RFC 4861 §7, §8) over the stack's neighbour cache: asks for neighbours, answers who asks for us, and
 * keeps what routers redirect. Advertised routers are router-discovery.ts's.
 *
 *     cache ─ solicit() ─► NS ─► wire ─► NA ─► input() ─► cache.advertised()
 *
 * Who scans us, or has us scan, costs little (RFC 6583): nothing is kept of questions about others' addresses, senders of
 * questions are learnt {@link LEARN_PER_SECOND} a second at the most (and answered all the same), and the cache is bounded.
 */
import type { NetworkHost } from '../ip/network-layer.ts';
import { type NeighbourProtocol, NO_NEIGHBOUR } from '../link/neighbour-cache.ts';
import { MICROSECONDS_PER_SECOND, type Time } from '../network.ts';
import { NOT_LOCAL, type Packet } from '../packet.ts';
import type { AddressConfiguration } from './address-configuration.ts';
import {
  ALL_NODES,
  copyAddress,
  isLinkLocal,
  isMulticast,
  isSolicitedNode,
  isUnspecified,
  keyOf,
  sameAddress,
  solicitedNode,
} from './addresses.ts';
import {
  ICMPV6_CODE,
  LINK_LAYER_OPTION_BYTES,
  NA_FLAGS,
  NA_OVERRIDE,
  NA_ROUTER,
  NA_SOLICITED,
  ND_HOP_LIMIT,
  ND_OPTION_UNIT,
  NEIGHBOUR_ADVERTISEMENT,
  NEIGHBOUR_SOLICITATION,
  NS_OPTIONS,
  NS_TARGET,
  OPTION_SOURCE_LINK_LAYER,
  OPTION_TARGET_LINK_LAYER,
  RA_OPTIONS,
  REDIRECT,
  REDIRECT_DESTINATION,
  REDIRECT_OPTIONS,
  REDIRECT_TARGET,
  ROUTER_ADVERTISEMENT,
} from './icmpv6-header.ts';
import type { Icmpv6Output } from './icmpv6-output.ts';
import { NdOptions, NO_OPTION } from './nd-options.ts';
import type { RouterDiscovery } from './router-discovery.ts';

/** Redirected destinations that are kept; the oldest goes. */
export const MAX_REDIRECTS = 256;
/** New neighbours that are learnt from their questions. */
export const LEARN_PER_SECOND = 100;
export const LEARN_BURST = 100;

export interface DiscoveryOptions {
  /** Whether router advertisements are heard. Default true. */
  acceptAdvertisements?: boolean;
  /** Whether redirects are heard. Default true. */
  acceptRedirects?: boolean;
}

export class NeighbourDiscovery implements NeighbourProtocol {
  readonly counters = {
    inSolicits: 0,
    inAdvertisements: 0,
    inRedirects: 0,
    outSolicits: 0,
    outAdvertisements: 0,
    /** Messages that are not valid (RFC 4861 §6.1, §7.1, §8.1). */
    inInvalid: 0,
    /** Redirects that nobody asked for: not of the router that we send by. */
    redirectsRefused: 0,
    /** Senders of questions that were answered without being learnt. */
    notLearnt: 0,
  };
  readonly #host: NetworkHost;
  readonly #output: Icmpv6Output;
  readonly #addresses: AddressConfiguration;
  readonly #routers: RouterDiscovery;
  readonly #options = new NdOptions();
  readonly #acceptAdvertisements: boolean;
  readonly #acceptRedirects: boolean;
  /** Next hops of destinations, oldest first. */
  readonly #redirects = new Map<string, Uint8Array>();
  #learnTokens = LEARN_BURST;
  #learnFilled: Time = 0;
  /** Set by IPv6: whom it sends by to the address at `at`, into `hop`. False: there is no way. */
  firstHop: (bytes: Uint8Array, at: number, hop: Uint8Array) => boolean = () => false;
  readonly #hop = new Uint8Array(16);

  constructor(
    host: NetworkHost,
    output: Icmpv6Output,
    addresses: AddressConfiguration,
    routers: RouterDiscovery,
    { acceptAdvertisements = true, acceptRedirects = true }: DiscoveryOptions = {},
  ) {
    this.#host = host;
    this.#output = output;
    this.#addresses = addresses;
    this.#routers = routers;
    this.#acceptAdvertisements = acceptAdvertisements;
    this.#acceptRedirects = acceptRedirects;
    host.neighbours.setProtocol(6, this);
  }

  /** Redirected destinations. */
  get redirects(): number {
    return this.#redirects.size;
  }

  /** Where a redirect sends packets for the address at `at`, or undefined. */
  redirected(bytes: Uint8Array, at: number): Uint8Array | undefined {
    return this.#redirects.size === 0 ? undefined : this.#redirects.get(keyOf(bytes, at));
  }

  // What the cache asks for (RFC 4861 §7.2.2).
  solicit(neighbour: number, local: number, unicast: boolean, _now: Time): void {
    const { neighbours } = this.#host;
    const target = neighbours.address(neighbour);
    const source = this.#sourceOf(local, target);
    if (source === null) return;
    this.counters.outSolicits++;
    const output = this.#output;
    const at = output.begin(NEIGHBOUR_SOLICITATION, 0);
    output.bytes.set(target, at + NS_TARGET);
    this.#putMac(at + NS_OPTIONS, OPTION_SOURCE_LINK_LAYER);
    const destination = unicast ? target : solicitedNode(target, 0);
    output.finish(source, 0, destination, 0, ND_HOP_LIMIT, NS_OPTIONS + LINK_LAYER_OPTION_BYTES);
    if (unicast) output.toMac(neighbours.macHigh[neighbour], neighbours.macLow[neighbour]);
    else output.toGroup();
  }

  /** A router that is gone is no way any more, nor is what it redirected to (RFC 4861 §7.3.3). */
  failed(neighbour: number, _now: Time): void {
    const { neighbours, routes } = this.#host;
    const address = neighbours.address(neighbour);
    const isRouter = this.#routers.isRouter(address, 0) && this.#routers.routers.length > 1;
    if (this.#dropRedirectsTo(address, 0) || isRouter) routes.onChange();
  }

  /** One of the five messages: checksum and length of the ICMPv6 header are right. Its type is at `packet.at`. */
  input(packet: Packet, now: Time): void {
    const { bytes, at, end } = packet;
    const type = bytes[at];
    if (packet.hopLimit !== ND_HOP_LIMIT || bytes[at + ICMPV6_CODE] !== 0) {
      this.counters.inInvalid++;
      return;
    }
    const options = at + optionsOf(type);
    if (options > end || !this.#options.parse(bytes, options, end)) {
      this.counters.inInvalid++;
      return;
    }
    switch (type) {
      case NEIGHBOUR_SOLICITATION:
        this.#solicitation(packet, now);
        return;
      case NEIGHBOUR_ADVERTISEMENT:
        this.#advertisement(packet, now);
        return;
      case ROUTER_ADVERTISEMENT:
        if (!isLinkLocal(bytes, packet.source)) this.counters.inInvalid++;
        else if (this.#acceptAdvertisements) this.#routers.input(bytes, at, packet.source, this.#options, now);
        return;
      case REDIRECT:
        this.#redirect(packet, now);
        return;
    }
  }

  /** RFC 4861 §7.1.1, §7.2.3; RFC 4862 §5.4.3. */
  #solicitation({ bytes, at, source, destination }: Packet, now: Time): void {
    const target = at + NS_TARGET;
    const options = this.#options;
    const fromUnspecified = isUnspecified(bytes, source);
    const isInvalid =
      isMulticast(bytes, target) ||
      (fromUnspecified && (options.sourceMac !== NO_OPTION || !isSolicitedNode(bytes, destination)));
    if (isInvalid) {
      this.counters.inInvalid++;
      return;
    }
    this.counters.inSolicits++;
    const local = this.#host.locals.find(6, bytes, target);
    if (local === NOT_LOCAL) {
      this.#addresses.solicited(bytes, target, fromUnspecified, options.nonce, options.nonceBytes, now);
      return;
    }
    if (this.#host.locals.get(local)?.loopback === true) return;
    // Its own question about an address of ours would be the work of a forger.
    if (!fromUnspecified && this.#host.locals.find(6, bytes, source) !== NOT_LOCAL) return;
    if (!fromUnspecified && options.sourceMac !== NO_OPTION) this.#learn(bytes, source, options.sourceMac, now);
    this.#advertise(bytes, target, bytes, source, fromUnspecified);
  }

  #learn(bytes: Uint8Array, source: number, mac: number, now: Time): void {
    const { neighbours } = this.#host;
    let neighbour = neighbours.find(6, bytes, source);
    if (neighbour === NO_NEIGHBOUR) {
      const earned = ((now - this.#learnFilled) * LEARN_PER_SECOND) / MICROSECONDS_PER_SECOND;
      this.#learnTokens = Math.min(LEARN_BURST, this.#learnTokens + earned);
      this.#learnFilled = now;
      if (this.#learnTokens < 1) {
        this.counters.notLearnt++;
        return;
      }
      this.#learnTokens--;
      neighbour = neighbours.entry(6, bytes, source);
    }
    neighbours.learnt(neighbour, bytes, mac, now);
  }

  /** RFC 4861 §7.2.4. To the station that the question came from: no state is needed for it. */
  #advertise(target: Uint8Array, targetAt: number, to: Uint8Array, toAt: number, toAll: boolean): void {
    this.counters.outAdvertisements++;
    const output = this.#output;
    const at = output.begin(NEIGHBOUR_ADVERTISEMENT, 0);
    output.bytes[at + NA_FLAGS] = NA_OVERRIDE | (toAll ? 0 : NA_SOLICITED);
    for (let i = 0; i < 16; i++) output.bytes[at + NS_TARGET + i] = target[targetAt + i];
    this.#putMac(at + NS_OPTIONS, OPTION_TARGET_LINK_LAYER);
    const length = NS_OPTIONS + LINK_LAYER_OPTION_BYTES;
    if (toAll) {
      output.finish(target, targetAt, ALL_NODES, 0, ND_HOP_LIMIT, length);
      output.toGroup();
      return;
    }
    output.finish(target, targetAt, to, toAt, ND_HOP_LIMIT, length);
    output.toMac(this.#host.senderHigh, this.#host.senderLow);
  }

  /** RFC 4861 §7.1.2, §7.2.5. */
  #advertisement({ bytes, at, destination }: Packet, now: Time): void {
    const target = at + NS_TARGET;
    const flags = bytes[at + NA_FLAGS];
    const solicited = (flags & NA_SOLICITED) !== 0;
    if (isMulticast(bytes, target) || (solicited && isMulticast(bytes, destination))) {
      this.counters.inInvalid++;
      return;
    }
    this.counters.inAdvertisements++;
    if (this.#addresses.advertised(bytes, target, now)) return;
    const { neighbours } = this.#host;
    const neighbour = neighbours.find(6, bytes, target);
    if (neighbour === NO_NEIGHBOUR) return;
    const { targetMac } = this.#options;
    const override = (flags & NA_OVERRIDE) !== 0;
    const wasIncomplete = !neighbours.isUsable(neighbour);
    if (wasIncomplete && targetMac === NO_OPTION) return;
    neighbours.advertised(neighbour, bytes, targetMac, solicited, override, now);
    // Another one says that it has the address, and does not override: nothing it says counts (§7.2.5, I.).
    const isRefused =
      !wasIncomplete && !override && targetMac !== NO_OPTION && !this.#hasMac(neighbour, bytes, targetMac);
    if (isRefused) return;
    const isRouter = (flags & NA_ROUTER) !== 0;
    const wasRouter = neighbours.isRouter[neighbour] === 1;
    neighbours.isRouter[neighbour] = isRouter ? 1 : 0;
    if (wasRouter && !isRouter) {
      this.#routers.removeRouter(bytes, target, now);
      if (this.#dropRedirectsTo(bytes, target)) this.#host.routes.onChange();
    } else if (wasIncomplete && isRouter && this.#routers.routers.length > 1) this.#host.routes.onChange();
  }

  /** RFC 4861 §8.1, §8.3. */
  #redirect({ bytes, at, source }: Packet, now: Time): void {
    const target = at + REDIRECT_TARGET;
    const destination = at + REDIRECT_DESTINATION;
    const isToItself = sameAddress(bytes, target, bytes, destination);
    if (
      !isLinkLocal(bytes, source) ||
      isMulticast(bytes, destination) ||
      (!isToItself && !isLinkLocal(bytes, target)) ||
      isMulticast(bytes, target) ||
      isUnspecified(bytes, target)
    ) {
      this.counters.inInvalid++;
      return;
    }
    this.counters.inRedirects++;
    const isFromRouter =
      this.#acceptRedirects &&
      this.firstHop(bytes, destination, this.#hop) &&
      sameAddress(this.#hop, 0, bytes, source) &&
      this.#host.locals.find(6, bytes, target) === NOT_LOCAL;
    if (!isFromRouter) {
      this.counters.redirectsRefused++;
      return;
    }
    const key = keyOf(bytes, destination);
    this.#redirects.delete(key);
    if (this.#redirects.size >= MAX_REDIRECTS) {
      for (const oldest of this.#redirects.keys()) {
        this.#redirects.delete(oldest);
        break;
      }
    }
    this.#redirects.set(key, copyAddress(bytes, target));
    const { neighbours } = this.#host;
    const neighbour = neighbours.entry(6, bytes, target);
    if (this.#options.targetMac !== NO_OPTION) neighbours.learnt(neighbour, bytes, this.#options.targetMac, now);
    if (!isToItself) neighbours.isRouter[neighbour] = 1;
    this.#host.routes.onChange();
  }

  #dropRedirectsTo(bytes: Uint8Array, at: number): boolean {
    let isChanged = false;
    for (const [key, target] of this.#redirects) {
      if (!sameAddress(target, 0, bytes, at)) continue;
      this.#redirects.delete(key);
      isChanged = true;
    }
    return isChanged;
  }

  #hasMac(neighbour: number, bytes: Uint8Array, at: number): boolean {
    const mac = this.#host.neighbours.mac(neighbour);
    for (let i = 0; i < mac.length; i++) if (mac[i] !== bytes[at + i]) return false;
    return true;
  }

  /** The address that asks: the one of the packet that waits, else the best for the neighbour. */
  #sourceOf(local: number, target: Uint8Array): Uint8Array | null {
    const { locals } = this.#host;
    if (local !== NOT_LOCAL && locals.has(local) && locals.family(local) === 6) {
      if (locals.get(local)?.loopback !== true) return locals.address(local);
    }
    return this.sourceFor(target, 0);
  }

  /** Set by IPv6: an address of ours for the one at `at`. */
  sourceFor: (bytes: Uint8Array, at: number) => Uint8Array | null = () => null;

  #putMac(at: number, type: number): void {
    const { bytes } = this.#output;
    bytes[at] = type;
    bytes[at + 1] = LINK_LAYER_OPTION_BYTES / ND_OPTION_UNIT;
    bytes.set(this.#host.link.device.address, at + 2);
  }
}

function optionsOf(type: number): number {
  if (type === ROUTER_ADVERTISEMENT) return RA_OPTIONS;
  if (type === REDIRECT) return REDIRECT_OPTIONS;
  return NS_OPTIONS;
}
