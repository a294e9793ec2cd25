/**
 * The DHCP client (RFC 2131 §4.4, with the states of figure 5), without any network: what it sends goes to its host, what
 * comes is given to {@link DhcpClient.input}, time is told by tick().
 *
 *                 ┌──────────────────────────── NAK, time ───────────────────────────────┐
 *     start ─► init ─► selecting ─OFFER─► requesting ─ACK─► probing ─free─► bound ─T1─► renewing ─T2─► rebinding ─► init
 *     start with a lease ─► rebooting ──────────────ACK──────┘  └─taken─► DECLINE, init    └──────ACK─► bound
 *
 * Client identifiers are the hardware type and MAC address unless given (RFC 2131 §2; RFC 4361's are not made here). Servers are not
 * believed further than need be: leases are checked (lease.ts), refusals slow us down, an answer has to be of this
 * exchange and of the server that was chosen.
 */
import { formatIp } from '../../packet/ip-text.ts';
import { MICROSECONDS_PER_SECOND, NEVER, type Random, type Ticking, type Time } from '../network.ts';
import {
  DHCPACK,
  DHCPDECLINE,
  DHCPDISCOVER,
  DHCPNAK,
  DHCPOFFER,
  DHCPRELEASE,
  DHCPREQUEST,
  type DhcpReply,
  OPTION_CLASSLESS_ROUTES,
  OPTION_CLIENT_ID,
  OPTION_DNS,
  OPTION_DOMAIN_NAME,
  OPTION_HOST_NAME,
  OPTION_LEASE_TIME,
  OPTION_MAX_MESSAGE_SIZE,
  OPTION_MTU,
  OPTION_PARAMETER_LIST,
  OPTION_REBINDING_TIME,
  OPTION_RENEWAL_TIME,
  OPTION_REQUESTED_ADDRESS,
  OPTION_ROUTERS,
  OPTION_SERVER_ID,
  OPTION_SUBNET_MASK,
  parseDhcpReply,
  writeDhcpRequest,
} from './dhcp-message.ts';
import { INFINITE_LEASE, type Lease, leasedBytes, leaseOf } from './lease.ts';

export type DhcpState =
  | 'stopped'
  | 'init'
  | 'selecting'
  | 'requesting'
  | 'rebooting'
  | 'probing'
  | 'bound'
  | 'renewing'
  | 'rebinding';

/** Waits between retransmissions double from the first to the last, each ± 1 s (RFC 2131 §4.1). */
const FIRST_WAIT = 4 * MICROSECONDS_PER_SECOND;
const LAST_WAIT = 64 * MICROSECONDS_PER_SECOND;
const WAIT_SPREAD = MICROSECONDS_PER_SECOND;
/** Requests without an answer, before we begin anew: 4, 8, 16 and 32 s, "60 seconds" (RFC 2131 §3.1, step 5). */
const MAX_REQUESTS = 4;
/** When rebooting: other clients give up sooner, too. */
const MAX_REBOOT_REQUESTS = 2;
/** Least time between two requests to renew (RFC 2131 §4.4.5). */
const MIN_RENEWAL_WAIT = 60 * MICROSECONDS_PER_SECOND;
/** After a declined address (RFC 2131 §3.1, step 5). */
const DECLINE_WAIT = 10 * MICROSECONDS_PER_SECOND;
const UINT32 = 2 ** 32;
/** Option 57's least (RFC 2132 §9.10). */
const MIN_MAX_MESSAGE_SIZE = 576;
const HTYPE_ETHERNET = 1;

/** What we ask for: classless routes before routers (RFC 3442). */
const PARAMETERS = Uint8Array.of(
  OPTION_SUBNET_MASK,
  OPTION_CLASSLESS_ROUTES,
  OPTION_ROUTERS,
  OPTION_DNS,
  OPTION_DOMAIN_NAME,
  OPTION_MTU,
  OPTION_LEASE_TIME,
  OPTION_SERVER_ID,
  OPTION_RENEWAL_TIME,
  OPTION_REBINDING_TIME,
);

/** What the client stands on. */
export interface DhcpHost {
  readonly random: Random;
  /** 6 bytes. */
  readonly mac: Uint8Array;
  /** Sends a message to everybody (255.255.255.255), from an address of ours or, null, 0.0.0.0. */
  broadcast(message: Uint8Array, source: Uint8Array | null): void;
  /** Sends a message to a server, from an address of ours. */
  send(message: Uint8Array, source: Uint8Array, server: Uint8Array): void;
  /** Tries whether an address is free (RFC 5227); gives a function that cancels it. */
  probe(address: Uint8Array, now: Time, done: (free: boolean, now: Time) => void): () => void;
  /** The lease is ours: to be used from now on. Also when it was renewed, maybe with other parameters. */
  bound(lease: Lease, now: Time): void;
  /** It is not ours any more. */
  lost(lease: Lease, now: Time): void;
}

export interface DhcpOptions {
  /** A lease that was kept: its address is asked for first (INIT-REBOOT). */
  lease?: Lease;
  /** Called with each lease that is ours, and with null when it is not any more. */
  saveLease?: (lease: Lease | null) => void;
  /** Option 61, 2 to 255 bytes; default: hardware type and MAC address. */
  clientId?: Uint8Array;
  /** Option 12, up to 255 characters. */
  hostName?: string;
  /** Bytes of an IP packet at the most, for option 57. Default 1500. */
  mtu?: number;
  /** The first message waits for a random time up to this (RFC 2131 §4.4.1 has 1 to 10 s, for hosts that start all at once). Default 1000. */
  startDelayMs?: number;
}

export class DhcpClient implements Ticking {
  readonly counters = {
    outDiscovers: 0,
    outRequests: 0,
    outDeclines: 0,
    outReleases: 0,
    inOffers: 0,
    inAcks: 0,
    inNaks: 0,
    /** No message of a server, or broken. */
    inErrors: 0,
    /** Of another exchange, client or server, or of a type that does not belong here. */
    inIgnored: 0,
    /** Leases that cannot be. */
    inBadLeases: 0,
    expired: 0,
  };
  state: DhcpState = 'stopped';
  readonly #host: DhcpHost;
  readonly #saveLease: (lease: Lease | null) => void;
  readonly #clientId: Uint8Array;
  readonly #hostName: Uint8Array | null;
  readonly #maxMessageSize: number;
  readonly #startDelay: number;
  /** What is asked for, being tried, or ours. */
  #lease: Lease | null = null;
  /** Whether {@link DhcpHost.bound} was called for it. */
  #isOurs = false;
  #kept: Lease | null;
  #xid = 0;
  #began: Time = 0;
  /** When the request was sent that the lease counts from. */
  #requested: Time = 0;
  #sent = 0;
  /** Refusals in a row. */
  #refusals = 0;
  #next: Time = NEVER;
  #renewAt: Time = NEVER;
  #rebindAt: Time = NEVER;
  #expireAt: Time = NEVER;
  #cancelProbe: (() => void) | null = null;

  /** Throws RangeError for options that cannot be. */
  constructor(host: DhcpHost, options: DhcpOptions = {}) {
    this.#host = host;
    const { lease = null, saveLease = () => {}, clientId, hostName, mtu = 1500, startDelayMs = 1000 } = options;
    if (clientId !== undefined && (clientId.length < 2 || clientId.length > 255)) {
      throw new RangeError(`a DHCP client identifier of ${clientId.length} bytes: it has 2 to 255`);
    }
    if (hostName !== undefined && !/^[\x21-\x7e]{1,255}$/.test(hostName)) {
      throw new RangeError(`the host name ${JSON.stringify(hostName)}: give 1 to 255 printable ASCII characters`);
    }
    if (lease !== null) leasedBytes(lease.address, 'address');
    this.#kept = lease;
    this.#saveLease = saveLease;
    this.#clientId = clientId ?? Uint8Array.of(HTYPE_ETHERNET, ...host.mac);
    this.#hostName = hostName === undefined ? null : Buffer.from(hostName, 'latin1');
    this.#maxMessageSize = Math.max(MIN_MAX_MESSAGE_SIZE, Math.min(mtu, 0xffff));
    this.#startDelay = startDelayMs * 1000;
  }

  /** The lease that is ours, or null. */
  get lease(): Lease | null {
    return this.#isOurs ? this.#lease : null;
  }

  /** When the lease ends, or NEVER. */
  get expiresAt(): Time {
    return this.#isOurs ? this.#expireAt : NEVER;
  }

  /** Begins. Does nothing when it has begun. */
  start(now: Time): void {
    if (this.state !== 'stopped') return;
    this.#began = now;
    this.#refusals = 0;
    this.#init(now + this.#spread(this.#startDelay));
  }

  /** Gives the lease back (RFC 2131 §4.4.6), and stops. */
  release(now: Time): void {
    const lease = this.#lease;
    if (this.#isOurs && lease !== null) {
      this.counters.outReleases++;
      this.#xid = this.#host.random() >>> 0;
      const address = leasedBytes(lease.address, 'address');
      const server = leasedBytes(lease.server, 'server');
      const options = [[OPTION_SERVER_ID, server] as const, [OPTION_CLIENT_ID, this.#clientId] as const];
      this.#host.send(this.#message(DHCPRELEASE, now, false, address, options), address, server);
      this.#kept = null;
    }
    this.#stop(now, true);
  }

  /** Stops without a word: the lease may be asked for again by the next client. */
  stop(now: Time): void {
    if (this.#isOurs) this.#kept = this.#lease;
    this.#stop(now, false);
  }

  /** Somebody else uses our address (RFC 5227 §2.4): it is declined, and another one asked for. */
  conflict(now: Time): void {
    if (this.#isOurs) this.#decline(now);
  }

  /** A datagram from a server's port is in `bytes[at, end)`. */
  input(bytes: Uint8Array, at: number, end: number, now: Time): void {
    const reply = parseDhcpReply(bytes, at, end);
    if (reply === null) {
      this.counters.inErrors++;
      return;
    }
    const isOurs =
      reply.xid === this.#xid && isSame(reply.chaddr, this.#host.mac) && this.#isForOurId(reply) && this.#sent > 0;
    if (!isOurs) {
      this.counters.inIgnored++;
      return;
    }
    if (reply.type === DHCPOFFER && this.state === 'selecting') this.#offer(reply, now);
    else if (reply.type === DHCPACK && this.#isAsking) this.#acknowledge(reply, now);
    else if (reply.type === DHCPNAK && this.#isAsking) this.#refuse(reply, now);
    else this.counters.inIgnored++;
  }

  get deadline(): Time {
    return Math.min(this.#next, this.#renewAt, this.#rebindAt, this.#expireAt);
  }

  tick(now: Time): void {
    if (now >= this.#expireAt) {
      this.counters.expired++;
      this.#lose(now);
      this.#init(now);
    } else if (now >= this.#rebindAt) this.#enter('rebinding', now);
    else if (now >= this.#renewAt) this.#enter('renewing', now);
    if (now < this.#next) return;
    this.#next = NEVER;
    switch (this.state) {
      case 'init':
        this.#begin(now);
        return;
      case 'selecting':
        this.#discover(now);
        return;
      case 'requesting':
      case 'rebooting':
        if (this.#sent < (this.state === 'requesting' ? MAX_REQUESTS : MAX_REBOOT_REQUESTS)) this.#request(now);
        else {
          this.#lose(now);
          this.#init(now);
        }
        return;
      case 'renewing':
      case 'rebinding':
        this.#request(now);
    }
  }

  // ---- states

  /** To begin anew at a time. */
  #init(when: Time): void {
    this.state = 'init';
    this.#sent = 0;
    this.#next = when;
    this.#renewAt = this.#rebindAt = this.#expireAt = NEVER;
  }

  #begin(now: Time): void {
    this.#xid = this.#host.random() >>> 0;
    this.#sent = 0;
    const kept = this.#kept;
    this.#kept = null;
    if (kept === null) {
      this.state = 'selecting';
      this.#discover(now);
      return;
    }
    this.state = 'rebooting';
    this.#lease = kept;
    this.#request(now);
  }

  /** Renewing or rebinding begins. */
  #enter(state: 'renewing' | 'rebinding', now: Time): void {
    this.state = state;
    this.#renewAt = NEVER;
    if (state === 'rebinding') this.#rebindAt = NEVER;
    this.#xid = this.#host.random() >>> 0;
    this.#sent = 0;
    this.#next = now;
  }

  get #isAsking(): boolean {
    return (
      this.state === 'requesting' ||
      this.state === 'rebooting' ||
      this.state === 'renewing' ||
      this.state === 'rebinding'
    );
  }

  #stop(now: Time, forget: boolean): void {
    this.#lose(now, forget);
    this.#init(NEVER);
    this.state = 'stopped';
  }

  /** The lease, if there is one, is not ours any more. */
  #lose(now: Time, forget = true): void {
    this.#cancelProbe?.();
    this.#cancelProbe = null;
    const lease = this.#lease;
    this.#lease = null;
    if (!this.#isOurs || lease === null) return;
    this.#isOurs = false;
    this.#host.lost(lease, now);
    if (forget) this.#saveLease(null);
  }

  // ---- what comes

  #offer(reply: DhcpReply, now: Time): void {
    this.counters.inOffers++;
    const lease = leaseOf(reply);
    if (lease === null) {
      this.counters.inBadLeases++;
      return;
    }
    this.state = 'requesting';
    this.#lease = lease;
    this.#sent = 0;
    this.#request(now);
  }

  #acknowledge(reply: DhcpReply, now: Time): void {
    this.counters.inAcks++;
    const asked = this.#lease!;
    const lease = leaseOf(reply);
    const isAnswer =
      lease !== null &&
      lease.address === asked.address &&
      (this.state === 'rebooting' || this.state === 'rebinding' || lease.server === asked.server);
    if (!isAnswer) {
      this.counters.inBadLeases++;
      return;
    }
    this.#refusals = 0;
    this.#lease = lease;
    this.#sent = 0;
    this.#next = NEVER;
    this.#setTimes(lease);
    if (this.#isOurs) {
      this.state = 'bound';
      this.#host.bound(lease, now);
      this.#saveLease(lease);
      return;
    }
    this.state = 'probing';
    this.#renewAt = this.#rebindAt = NEVER;
    this.#cancelProbe = this.#host.probe(leasedBytes(lease.address, 'address'), now, (free, when) => {
      this.#cancelProbe = null;
      if (this.state === 'probing') this.#probed(free, when);
    });
  }

  #probed(free: boolean, now: Time): void {
    const lease = this.#lease!;
    if (!free) {
      this.#decline(now);
      return;
    }
    this.state = 'bound';
    this.#isOurs = true;
    this.#setTimes(lease);
    this.#host.bound(lease, now);
    this.#saveLease(lease);
  }

  /** Of the server that was chosen; whoever it is when any may answer. */
  #refuse(reply: DhcpReply, now: Time): void {
    const server = reply.options.get(OPTION_SERVER_ID);
    const isOfServer =
      server?.length === 4 &&
      (this.state === 'rebooting' || this.state === 'rebinding' || formatIp(server) === this.#lease?.server);
    if (!isOfServer) {
      this.counters.inIgnored++;
      return;
    }
    this.counters.inNaks++;
    // What was kept is worth nothing either.
    if (this.state === 'rebooting') this.#saveLease(null);
    this.#lose(now);
    this.#init(now + this.#refusalWait(0));
  }

  #decline(now: Time): void {
    const lease = this.#lease!;
    this.counters.outDeclines++;
    const options = [
      [OPTION_REQUESTED_ADDRESS, leasedBytes(lease.address, 'address')] as const,
      [OPTION_SERVER_ID, leasedBytes(lease.server, 'server')] as const,
      [OPTION_CLIENT_ID, this.#clientId] as const,
    ];
    this.#lose(now);
    this.#xid = this.#host.random() >>> 0;
    this.#host.broadcast(this.#message(DHCPDECLINE, now, false, undefined, options), null);
    this.#init(now + this.#refusalWait(DECLINE_WAIT));
  }

  /** At once the first time, then longer and longer: a server that refuses all cannot make us flood the link. */
  #refusalWait(least: number): number {
    const wait = this.#refusals === 0 ? 0 : Math.min(LAST_WAIT, MICROSECONDS_PER_SECOND * 2 ** this.#refusals);
    this.#refusals++;
    return Math.max(least, wait);
  }

  /** T1, T2 and the end, from when the request was sent (RFC 2131 §4.4.5). */
  #setTimes({ leaseSeconds, renewalSeconds, rebindingSeconds }: Lease): void {
    if (leaseSeconds === INFINITE_LEASE) {
      this.#renewAt = this.#rebindAt = this.#expireAt = NEVER;
      return;
    }
    this.#renewAt = this.#requested + renewalSeconds * MICROSECONDS_PER_SECOND;
    this.#rebindAt = this.#requested + rebindingSeconds * MICROSECONDS_PER_SECOND;
    this.#expireAt = this.#requested + leaseSeconds * MICROSECONDS_PER_SECOND;
  }

  // ---- what goes

  #discover(now: Time): void {
    this.counters.outDiscovers++;
    this.#host.broadcast(this.#message(DHCPDISCOVER, now, true, undefined, this.#wishes()), null);
    this.#next = now + this.#wait();
    this.#sent++;
  }

  /** What it holds depends on the state (RFC 2131 table 4, §4.3.2). */
  #request(now: Time): void {
    this.counters.outRequests++;
    const lease = this.#lease!;
    const address = leasedBytes(lease.address, 'address');
    if (this.#sent === 0) this.#requested = now;
    const options: (readonly [number, Uint8Array])[] = [];
    if (this.state === 'renewing' || this.state === 'rebinding') {
      const message = this.#message(DHCPREQUEST, now, false, address, this.#wishes());
      if (this.state === 'renewing') this.#host.send(message, address, leasedBytes(lease.server, 'server'));
      else this.#host.broadcast(message, address);
      // Half of what is left until the next state (§4.4.5).
      const left = (this.state === 'renewing' ? this.#rebindAt : this.#expireAt) - now;
      this.#next = now + Math.max(MIN_RENEWAL_WAIT, Math.floor(left / 2));
    } else {
      options.push([OPTION_REQUESTED_ADDRESS, address]);
      if (this.state === 'requesting') options.push([OPTION_SERVER_ID, leasedBytes(lease.server, 'server')]);
      this.#host.broadcast(this.#message(DHCPREQUEST, now, true, undefined, [...options, ...this.#wishes()]), null);
      this.#next = now + this.#wait();
    }
    this.#sent++;
  }

  #message(
    type: number,
    now: Time,
    broadcast: boolean,
    ciaddr: Uint8Array | undefined,
    options: readonly (readonly [number, Uint8Array])[],
  ): Uint8Array {
    return writeDhcpRequest({
      type,
      xid: this.#xid,
      secs: Math.floor((now - this.#began) / MICROSECONDS_PER_SECOND),
      broadcast,
      ciaddr,
      mac: this.#host.mac,
      options,
    });
  }

  #wishes(): (readonly [number, Uint8Array])[] {
    const wishes: (readonly [number, Uint8Array])[] = [
      [OPTION_CLIENT_ID, this.#clientId],
      [OPTION_MAX_MESSAGE_SIZE, Uint8Array.of(this.#maxMessageSize >> 8, this.#maxMessageSize)],
      [OPTION_PARAMETER_LIST, PARAMETERS],
    ];
    if (this.#hostName !== null) wishes.push([OPTION_HOST_NAME, this.#hostName]);
    return wishes;
  }

  /** A server that tells a client identifier tells ours (RFC 6842 §3). */
  #isForOurId({ options }: DhcpReply): boolean {
    const id = options.get(OPTION_CLIENT_ID);
    return id === undefined || isSame(id, this.#clientId);
  }

  #wait(): number {
    const wait = Math.min(LAST_WAIT, FIRST_WAIT * 2 ** this.#sent);
    return wait - WAIT_SPREAD + this.#spread(2 * WAIT_SPREAD);
  }

  #spread(most: number): number {
    return Math.floor((this.#host.random() / UINT32) * most);
  }
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
