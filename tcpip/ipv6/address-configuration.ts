/**
 * Addresses of ours and how they come to be: by hand, link-local ones, and those made from advertised prefixes (RFC 4862).
 *
 *     add() ─► TENTATIVE ──nobody objects──► PREFERRED ──time──► DEPRECATED ──time──► gone
 *                  └──somebody has it──► DUPLICATE ─(made by us: another one, RFC 7217 §6)─► TENTATIVE …
 *
 * An address is in {@link NetworkHost.locals} from PREFERRED on; before, it takes part in duplicate address detection alone
 * (RFC 4862 §5.4), with a nonce, so that an echo of our own question is not taken for somebody else's (RFC 7527).
 * Bounded: {@link MAX_AUTOCONFIGURED} addresses from advertised prefixes. There are no temporary addresses (RFC 8981).
 */
import { MAX_LOCALS } from '../ip/local-table.ts';
import type { NetworkHost } from '../ip/network-layer.ts';
import { MICROSECONDS_PER_SECOND, NEVER, type Ticking, type Time } from '../network.ts';
import {
  isLoopback,
  isMulticast,
  isUnspecified,
  keyOf,
  SUBNET_PREFIX_BITS,
  solicitedNode,
  UNSPECIFIED,
} from './addresses.ts';
import {
  ND_HOP_LIMIT,
  ND_OPTION_UNIT,
  NEIGHBOUR_SOLICITATION,
  NONCE_BYTES,
  NS_OPTIONS,
  NS_TARGET,
  OPTION_NONCE,
} from './icmpv6-header.ts';
import type { Icmpv6Output } from './icmpv6-output.ts';
import { eui64Address, IDGEN_RETRIES, stableAddress } from './interface-id.ts';
import { IPV6_ADDRESS_BYTES } from './ipv6-header.ts';

export type AddressState = 'tentative' | 'preferred' | 'deprecated' | 'duplicate';
export type AddressOrigin = 'manual' | 'link-local' | 'slaac';

/** DupAddrDetectTransmits (RFC 4862 §5.1). */
export const DUP_ADDR_DETECT_TRANSMITS = 1;
/** MAX_MULTICAST_SOLICIT (RFC 4861 §10): as many more when a question came back to us (RFC 7527 §4.1). */
const MAX_MULTICAST_SOLICIT = 3;
/** MAX_RTR_SOLICITATION_DELAY (RFC 4861 §10). */
export const MAX_RTR_SOLICITATION_DELAY = MICROSECONDS_PER_SECOND;
/** IDGEN_DELAY (RFC 7217 §7). */
export const IDGEN_DELAY = MICROSECONDS_PER_SECOND;
/** RFC 4862 §5.5.3 (e). */
export const TWO_HOURS = 2 * 3600 * MICROSECONDS_PER_SECOND;
/** Addresses from advertised prefixes (Linux: max_addresses). */
export const MAX_AUTOCONFIGURED = 16;
const UINT32 = 2 ** 32;

export interface ConfiguredAddress {
  /** Not to be written. */
  readonly bytes: Uint8Array;
  readonly prefixLength: number;
  readonly origin: AddressOrigin;
  state: AddressState;
  /** NEVER: for ever. */
  preferredUntil: Time;
  validUntil: Time;
}

interface Entry extends ConfiguredAddress {
  dadCounter: number;
  /** Questions still to be sent, and when something is to be done next. */
  transmits: number;
  next: Time;
  joined: boolean;
  /** Those of the questions sent. */
  nonces: string[];
  cameBack: boolean;
}

/** How addresses are made. */
export interface AddressConfigurationOptions {
  /** 'stable': opaque ones that stay with the network (RFC 7217), the default; 'eui64': of the MAC address (RFC 4291). */
  interfaceId?: 'stable' | 'eui64';
  /** secret_key of RFC 7217, 16 bytes or more; default: random, so addresses stay as long as the stack does. */
  secret?: Uint8Array;
  /** Net_Iface of RFC 7217: default the device's name. */
  interfaceName?: string;
  /** Network_ID of RFC 7217: default none. */
  networkId?: string;
  /** DupAddrDetectTransmits; 0: no detection. Default 1. */
  dadTransmits?: number;
}

/** Groups that addresses join and leave. */
export interface GroupMembership {
  join(group: Uint8Array, now: Time): void;
  leave(group: Uint8Array, now: Time): void;
}

export class AddressConfiguration implements Ticking {
  readonly counters = { dadDuplicates: 0, dadLooped: 0, addressConflicts: 0, autoconfigured: 0, autoconfRefused: 0 };
  /** An address became usable, or was given up. For whoever waits for one. */
  onChange: (address: ConfiguredAddress, now: Time) => void = () => {};
  /** RetransTimer, as routers advertise it. */
  retransTimer = MICROSECONDS_PER_SECOND;
  readonly #host: NetworkHost;
  readonly #output: Icmpv6Output;
  readonly #groups: GroupMembership;
  readonly #entries = new Map<string, Entry>();
  readonly #interfaceId: 'stable' | 'eui64';
  readonly #secret: Uint8Array;
  readonly #interfaceName: string;
  readonly #networkId: string;
  readonly #dadTransmits: number;
  #deadline: Time = NEVER;

  constructor(
    host: NetworkHost,
    output: Icmpv6Output,
    groups: GroupMembership,
    options: AddressConfigurationOptions = {},
  ) {
    this.#host = host;
    this.#output = output;
    this.#groups = groups;
    const { interfaceId = 'stable', networkId = '', dadTransmits = DUP_ADDR_DETECT_TRANSMITS } = options;
    if (options.secret !== undefined && options.secret.length < 16) {
      throw new RangeError(
        `a secret of ${options.secret.length} bytes for interface ids: RFC 7217 asks for 16 at least`,
      );
    }
    if (!(Number.isInteger(dadTransmits) && dadTransmits >= 0 && dadTransmits <= 255)) {
      throw new RangeError(
        `${dadTransmits} transmits of duplicate address detection: give a whole number from 0 to 255`,
      );
    }
    this.#interfaceId = interfaceId;
    this.#secret = options.secret ?? randomBytes(32, host.random);
    this.#interfaceName = options.interfaceName ?? host.link.device.name;
    this.#networkId = networkId;
    this.#dadTransmits = dadTransmits;
  }

  /** All addresses, the tentative and duplicate ones too. */
  list(): readonly ConfiguredAddress[] {
    return [...this.#entries.values()];
  }

  get(bytes: Uint8Array, at: number): ConfiguredAddress | undefined {
    return this.#entries.get(keyOf(bytes, at));
  }

  isTentative(bytes: Uint8Array, at: number): boolean {
    return this.#entries.get(keyOf(bytes, at))?.state === 'tentative';
  }

  /** Whether there is an address of an origin, tentative or usable. */
  has(origin: AddressOrigin): boolean {
    for (const entry of this.#entries.values()) if (entry.origin === origin && entry.state !== 'duplicate') return true;
    return false;
  }

  /**
   * Adds an address by hand; it may be used when duplicate address detection is through, unless `dad` is false. One that
   * is there already stays. Throws RangeError for what cannot be an address of ours.
   */
  add(bytes: Uint8Array, prefixLength: number, now: Time, { dad = true }: { dad?: boolean } = {}): ConfiguredAddress {
    if (bytes.length !== IPV6_ADDRESS_BYTES) {
      throw new RangeError(`an IPv6 address of ${bytes.length} bytes: it has ${IPV6_ADDRESS_BYTES}`);
    }
    if (isMulticast(bytes, 0) || isUnspecified(bytes, 0)) {
      throw new RangeError("a multicast or the unspecified address cannot be a host's own: give a unicast address");
    }
    if (!(Number.isInteger(prefixLength) && prefixLength >= 0 && prefixLength <= 8 * IPV6_ADDRESS_BYTES)) {
      throw new RangeError(`a prefix of ${prefixLength} bits: give a whole number from 0 to 128`);
    }
    const known = this.#entries.get(keyOf(bytes, 0));
    if (known !== undefined && known.state !== 'duplicate') return known;
    return this.#begin(bytes, prefixLength, 'manual', NEVER, NEVER, 0, dad && !isLoopback(bytes, 0), now, now);
  }

  /** Removes an address, however it came. False: there is none. */
  remove(bytes: Uint8Array, now: Time): boolean {
    const entry = this.#entries.get(keyOf(bytes, 0));
    if (entry === undefined) return false;
    this.#drop(entry, now);
    return true;
  }

  /** Makes the link-local address (RFC 4862 §5.3), after a random delay (§5.4.2). */
  addLinkLocal(now: Time): void {
    const prefix = new Uint8Array(IPV6_ADDRESS_BYTES);
    prefix[0] = 0xfe;
    prefix[1] = 0x80;
    this.#make(prefix, 'link-local', NEVER, NEVER, 0, now, now + this.#randomDelay(MAX_RTR_SOLICITATION_DELAY));
  }

  /**
   * An autonomous prefix was advertised (RFC 4862 §5.5.3). Lifetimes are in µs, NEVER for infinite ones.
   *
   * @param prefix 16 bytes
   */
  autoconfigure(prefix: Uint8Array, prefixLength: number, valid: Time, preferred: Time, now: Time): void {
    // (c); (d): prefix and interface id have to make an address.
    if (preferred > valid || prefixLength !== SUBNET_PREFIX_BITS) {
      this.counters.autoconfRefused++;
      return;
    }
    const known = this.#autoconfigured(prefix);
    if (known !== undefined) {
      known.preferredUntil = now + preferred;
      const remaining = known.validUntil - now;
      // (e): a forged advertisement cannot end an address at once.
      if (valid > TWO_HOURS || valid > remaining) known.validUntil = now + valid;
      else if (remaining > TWO_HOURS) known.validUntil = now + TWO_HOURS;
      this.#age(known, now);
      this.#findDeadline();
      return;
    }
    if (valid === 0) return;
    let count = 0;
    for (const { origin } of this.#entries.values()) if (origin === 'slaac') count++;
    if (count >= MAX_AUTOCONFIGURED || this.#host.locals.count >= MAX_LOCALS) {
      this.counters.autoconfRefused++;
      return;
    }
    this.counters.autoconfigured++;
    const delay = this.#randomDelay(MAX_RTR_SOLICITATION_DELAY);
    this.#make(prefix, 'slaac', now + preferred, now + valid, 0, now, now + delay);
  }

  /**
   * Somebody solicits a tentative address of ours. From the unspecified address he tries it out as well, unless it is our own
   * question that came back (RFC 4862 §5.4.3, RFC 7527 §4.2).
   *
   * @param nonce where it is in `bytes`, or -1
   */
  solicited(
    bytes: Uint8Array,
    target: number,
    fromUnspecified: boolean,
    nonce: number,
    nonceBytes: number,
    now: Time,
  ): void {
    const entry = this.#entries.get(keyOf(bytes, target));
    if (entry?.state !== 'tentative' || !fromUnspecified) return;
    if (nonce >= 0 && entry.nonces.includes(keyOf(bytes, nonce, nonceBytes))) {
      this.counters.dadLooped++;
      entry.cameBack = true;
      return;
    }
    this.#isDuplicate(entry, now);
  }

  /** Somebody advertises an address of ours (RFC 4862 §5.4.4). Gives whether it is one. */
  advertised(bytes: Uint8Array, target: number, now: Time): boolean {
    const entry = this.#entries.get(keyOf(bytes, target));
    if (entry === undefined) return false;
    if (entry.state === 'tentative') this.#isDuplicate(entry, now);
    else if (entry.state !== 'duplicate') this.counters.addressConflicts++;
    return true;
  }

  get deadline(): Time {
    return this.#deadline;
  }

  tick(now: Time): void {
    if (now < this.#deadline) return;
    for (const entry of [...this.#entries.values()]) {
      if (entry.state === 'tentative') {
        if (entry.next <= now) this.#probe(entry, now);
      }
      this.#age(entry, now);
    }
    this.#findDeadline();
  }

  #autoconfigured(prefix: Uint8Array): Entry | undefined {
    const key = keyOf(prefix, 0, SUBNET_PREFIX_BITS / 8);
    for (const entry of this.#entries.values()) {
      if (entry.origin === 'slaac' && keyOf(entry.bytes, 0, SUBNET_PREFIX_BITS / 8) === key) return entry;
    }
    return undefined;
  }

  #make(
    prefix: Uint8Array,
    origin: AddressOrigin,
    preferredUntil: Time,
    validUntil: Time,
    dadCounter: number,
    now: Time,
    when: Time,
  ): void {
    const bytes =
      this.#interfaceId === 'eui64'
        ? eui64Address(prefix, this.#host.link.device.address)
        : stableAddress({
            prefix,
            interfaceName: this.#interfaceName,
            networkId: this.#networkId,
            dadCounter,
            secret: this.#secret,
          });
    const known = this.#entries.get(keyOf(bytes, 0));
    // Somebody has added it by hand, or knows already that it is taken.
    if (known !== undefined && known.origin !== origin) return;
    // A prefix that we make addresses of need not be on the link: routes say so (RFC 5942 §4). fe80::/64 is.
    const prefixLength = origin === 'link-local' ? SUBNET_PREFIX_BITS : 8 * IPV6_ADDRESS_BYTES;
    this.#begin(bytes, prefixLength, origin, preferredUntil, validUntil, dadCounter, true, now, when);
  }

  #begin(
    bytes: Uint8Array,
    prefixLength: number,
    origin: AddressOrigin,
    preferredUntil: Time,
    validUntil: Time,
    dadCounter: number,
    dad: boolean,
    now: Time,
    when: Time,
  ): Entry {
    const entry: Entry = {
      bytes: Uint8Array.from(bytes),
      prefixLength,
      origin,
      state: 'tentative',
      preferredUntil,
      validUntil,
      dadCounter,
      transmits: dad ? this.#dadTransmits : 0,
      next: when,
      joined: false,
      nonces: [],
      cameBack: false,
    };
    this.#entries.set(keyOf(bytes, 0), entry);
    if (entry.transmits === 0) this.#assign(entry, now);
    this.#findDeadline();
    return entry;
  }

  /** The next question, or after the last one the address is ours. */
  #probe(entry: Entry, now: Time): void {
    if (entry.transmits === 0) {
      if (!entry.cameBack) {
        this.#assign(entry, now);
        return;
      }
      entry.cameBack = false;
      entry.transmits = MAX_MULTICAST_SOLICIT;
    }
    this.#join(entry, now);
    entry.transmits--;
    entry.next = now + this.retransTimer;
    const nonce = randomBytes(NONCE_BYTES, this.#host.random);
    entry.nonces.push(keyOf(nonce, 0, NONCE_BYTES));
    if (entry.nonces.length > 2 * MAX_MULTICAST_SOLICIT) entry.nonces.shift();
    const output = this.#output;
    const at = output.begin(NEIGHBOUR_SOLICITATION, 0);
    output.bytes.set(entry.bytes, at + NS_TARGET);
    output.bytes[at + NS_OPTIONS] = OPTION_NONCE;
    output.bytes[at + NS_OPTIONS + 1] = 1;
    output.bytes.set(nonce, at + NS_OPTIONS + 2);
    output.finish(UNSPECIFIED, 0, solicitedNode(entry.bytes, 0), 0, ND_HOP_LIMIT, NS_OPTIONS + ND_OPTION_UNIT);
    output.toGroup();
  }

  #assign(entry: Entry, now: Time): void {
    this.#join(entry, now);
    entry.next = NEVER;
    entry.nonces = [];
    entry.state = entry.preferredUntil > now ? 'preferred' : 'deprecated';
    this.#host.locals.add(entry.bytes, entry.prefixLength, {
      deprecated: entry.state === 'deprecated',
      loopback: isLoopback(entry.bytes, 0),
    });
    this.onChange(entry, now);
  }

  /** RFC 4862 §5.4.5. */
  #isDuplicate(entry: Entry, now: Time): void {
    this.counters.dadDuplicates++;
    this.#leave(entry, now);
    entry.state = 'duplicate';
    entry.next = NEVER;
    this.onChange(entry, now);
    if (entry.origin !== 'manual' && this.#interfaceId === 'stable' && entry.dadCounter < IDGEN_RETRIES) {
      const { bytes, origin, preferredUntil, validUntil, dadCounter } = entry;
      this.#entries.delete(keyOf(bytes, 0));
      this.#make(bytes, origin, preferredUntil, validUntil, dadCounter + 1, now, now + this.#randomDelay(IDGEN_DELAY));
    }
    this.#findDeadline();
  }

  /** Lifetimes (RFC 4862 §5.5.4). */
  #age(entry: Entry, now: Time): void {
    if (entry.validUntil <= now) {
      this.#drop(entry, now);
      return;
    }
    if (entry.state !== 'preferred' && entry.state !== 'deprecated') return;
    const state = entry.preferredUntil > now ? 'preferred' : 'deprecated';
    if (state === entry.state) return;
    entry.state = state;
    this.#host.locals.add(entry.bytes, entry.prefixLength, { deprecated: state === 'deprecated' });
    this.onChange(entry, now);
  }

  #drop(entry: Entry, now: Time): void {
    this.#entries.delete(keyOf(entry.bytes, 0));
    this.#leave(entry, now);
    if (entry.state === 'preferred' || entry.state === 'deprecated') {
      this.#host.locals.remove(this.#host.locals.find(6, entry.bytes, 0));
    }
    this.#findDeadline();
  }

  #join(entry: Entry, now: Time): void {
    if (entry.joined || isLoopback(entry.bytes, 0)) return;
    entry.joined = true;
    this.#groups.join(solicitedNode(entry.bytes, 0), now);
  }

  #leave(entry: Entry, now: Time): void {
    if (!entry.joined) return;
    entry.joined = false;
    this.#groups.leave(solicitedNode(entry.bytes, 0), now);
  }

  #findDeadline(): void {
    let deadline = NEVER;
    for (const entry of this.#entries.values()) {
      deadline = Math.min(deadline, entry.validUntil);
      if (entry.state === 'tentative') deadline = Math.min(deadline, entry.next);
      else if (entry.state === 'preferred') deadline = Math.min(deadline, entry.preferredUntil);
    }
    this.#deadline = deadline;
  }

  /** Uniformly from 0 to `most`. */
  #randomDelay(most: number): number {
    return Math.floor((this.#host.random() / UINT32) * most);
  }
}

function randomBytes(count: number, random: () => number): Uint8Array {
  return Uint8Array.from({ length: count }, () => random() & 0xff);
}
