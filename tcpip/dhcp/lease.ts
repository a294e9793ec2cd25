/** What a DHCP server leases, checked, in a form that can be kept as JSON. */
import { formatIp, parseIp } from '../../packet/ip-text.ts';
import {
  type DhcpReply,
  OPTION_CLASSLESS_ROUTES,
  OPTION_DNS,
  OPTION_DOMAIN_NAME,
  OPTION_LEASE_TIME,
  OPTION_MTU,
  OPTION_REBINDING_TIME,
  OPTION_RENEWAL_TIME,
  OPTION_ROUTERS,
  OPTION_SERVER_ID,
  OPTION_SUBNET_MASK,
} from './dhcp-message.ts';

/** Shorter leases would keep us busy with nothing else. */
export const MIN_LEASE_SECONDS = 30;
/** A lease for ever (RFC 2131 §3.3). */
export const INFINITE_LEASE = 0xffff_ffff;
/** Of each, at the most. */
export const MAX_ROUTES = 64;
export const MAX_SERVERS = 8;
/** RFC 2132 §5.1 has 68; what every host takes is more use (RFC 791 §3.1). */
const MIN_MTU = 576;
/** T1 and T2 where the server tells none, or nonsense (RFC 2131 §4.4.5). */
const RENEWAL_SHARE = 0.5;
const REBINDING_SHARE = 0.875;

export interface LeasedRoute {
  prefix: string;
  prefixLength: number;
  /** '0.0.0.0': the prefix is on the link (RFC 3442). */
  gateway: string;
}

/** Addresses as text, times in seconds from when the request was sent. */
export interface Lease {
  address: string;
  prefixLength: number;
  /** The server's identifier. */
  server: string;
  routes: LeasedRoute[];
  dns: string[];
  domain?: string;
  mtu?: number;
  /** {@link INFINITE_LEASE}: it does not end. */
  leaseSeconds: number;
  renewalSeconds: number;
  rebindingSeconds: number;
}

/**
 * The lease that an offer or acknowledgement tells, or null when it makes none: no server or lease time, or an address that no
 * host can have. What else is wrong in it is left out.
 */
export function leaseOf(reply: DhcpReply): Lease | null {
  const { yiaddr, options } = reply;
  const server = options.get(OPTION_SERVER_ID);
  const leaseSeconds = secondsOf(options.get(OPTION_LEASE_TIME));
  if (server?.length !== 4 || !isHost(server) || leaseSeconds === null || leaseSeconds < MIN_LEASE_SECONDS) return null;
  if (!isHost(yiaddr)) return null;
  const prefixLength = prefixLengthOf(options.get(OPTION_SUBNET_MASK), yiaddr);
  // The network's own address, and everybody's, are nobody's.
  if (prefixLength < 31) {
    const host = wordOf(yiaddr) & (0xffff_ffff >>> prefixLength);
    if (host === 0 || host === 0xffff_ffff >>> prefixLength) return null;
  }
  const mtu = options.get(OPTION_MTU);
  const mtuBytes = mtu?.length === 2 ? (mtu[0] << 8) | mtu[1] : 0;
  const domain = options.get(OPTION_DOMAIN_NAME);
  const { renewalSeconds, rebindingSeconds } = timesOf(reply, leaseSeconds);
  const lease: Lease = {
    address: formatIp(yiaddr),
    prefixLength,
    server: formatIp(server),
    routes: routesOf(reply),
    dns: addressesOf(options.get(OPTION_DNS)).slice(0, MAX_SERVERS).map(formatIp),
    leaseSeconds,
    renewalSeconds,
    rebindingSeconds,
  };
  if (mtuBytes >= MIN_MTU) lease.mtu = mtuBytes;
  if (domain !== undefined && isName(domain)) lease.domain = Buffer.from(domain).toString('latin1');
  return lease;
}

/** The bytes of an address of a lease. Throws RangeError for what is none: a kept lease may be anything. */
export function leasedBytes(text: string, what: string): Uint8Array {
  const bytes = typeof text === 'string' ? parseIp(text) : null;
  if (bytes?.length !== 4) throw new RangeError(`the lease's ${what} is ${JSON.stringify(text)}: it has to be IPv4`);
  return bytes;
}

function timesOf({ options }: DhcpReply, lease: number): { renewalSeconds: number; rebindingSeconds: number } {
  const renewal = secondsOf(options.get(OPTION_RENEWAL_TIME));
  const rebinding = secondsOf(options.get(OPTION_REBINDING_TIME));
  const rebindingSeconds =
    rebinding !== null && rebinding > 0 && rebinding < lease ? rebinding : Math.floor(lease * REBINDING_SHARE);
  const renewalSeconds =
    renewal !== null && renewal > 0 && renewal < rebindingSeconds
      ? renewal
      : Math.min(Math.floor(lease * RENEWAL_SHARE), rebindingSeconds);
  return { renewalSeconds, rebindingSeconds };
}

/** Classless routes (RFC 3442), and without them the first router. */
function routesOf({ options }: DhcpReply): LeasedRoute[] {
  const classless = options.get(OPTION_CLASSLESS_ROUTES);
  if (classless !== undefined) {
    const routes = classlessRoutes(classless);
    if (routes !== null) return routes;
  }
  return addressesOf(options.get(OPTION_ROUTERS))
    .slice(0, 1)
    .map((gateway) => ({ prefix: '0.0.0.0', prefixLength: 0, gateway: formatIp(gateway) }));
}

/** RFC 3442's descriptors; null when they do not fit. */
export function classlessRoutes(bytes: Uint8Array): LeasedRoute[] | null {
  const routes: LeasedRoute[] = [];
  for (let at = 0; at < bytes.length; ) {
    const prefixLength = bytes[at];
    const significant = Math.ceil(prefixLength / 8);
    if (prefixLength > 32 || at + 1 + significant + 4 > bytes.length) return null;
    const prefix = new Uint8Array(4);
    prefix.set(bytes.subarray(at + 1, at + 1 + significant));
    for (let i = 0; i < 4; i++) prefix[i] &= 0xff00 >> Math.min(8, Math.max(0, prefixLength - 8 * i));
    const gateway = bytes.slice(at + 1 + significant, at + 5 + significant);
    at += 5 + significant;
    if (!isHost(gateway) && wordOf(gateway) !== 0) continue;
    if (routes.length < MAX_ROUTES) routes.push({ prefix: formatIp(prefix), prefixLength, gateway: formatIp(gateway) });
  }
  return routes.length > 0 ? routes : null;
}

/** Prefix length of a mask; where it is none, the one that the address had by its class (RFC 791 §2.3). */
function prefixLengthOf(mask: Uint8Array | undefined, address: Uint8Array): number {
  if (mask?.length === 4) {
    const word = wordOf(mask);
    const length = Math.clz32(~word);
    if (length > 0 && word === (length === 32 ? -1 : ~(0xffff_ffff >>> length))) return length;
  }
  return address[0] < 128 ? 8 : address[0] < 192 ? 16 : 24;
}

/** The addresses of an option that hosts can have. */
function addressesOf(bytes: Uint8Array | undefined): Uint8Array[] {
  const addresses: Uint8Array[] = [];
  if (bytes === undefined || bytes.length % 4 !== 0) return addresses;
  for (let at = 0; at < bytes.length; at += 4) {
    const address = bytes.slice(at, at + 4);
    if (isHost(address)) addresses.push(address);
  }
  return addresses;
}

/** Not this network, ourselves, a group, the reserved ones, everybody. */
function isHost(address: Uint8Array): boolean {
  return address[0] !== 0 && address[0] !== 127 && address[0] < 224;
}

function isName(bytes: Uint8Array): boolean {
  return bytes.length > 0 && bytes.every((byte) => byte > 0x20 && byte < 0x7f);
}

function secondsOf(bytes: Uint8Array | undefined): number | null {
  return bytes?.length === 4 ? wordOf(bytes) >>> 0 : null;
}

function wordOf(bytes: Uint8Array): number {
  return (bytes[0] << 24) | (bytes[1] << 16) | (bytes[2] << 8) | bytes[3];
}
