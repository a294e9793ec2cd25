/**
 * Which interfaces carry the machine's own addresses and routes, as ip(8) tells it: that knows all address families, all
 * routing tables, and interfaces that are down.
 */
import { execFileSync } from 'node:child_process';

export interface InterfaceAddress {
  interface: string;
  /** `192.0.2.2/24` */
  address: string;
}

export interface InterfaceRoute {
  interface: string;
  /** `default`, or `198.51.100.0/24`. */
  destination: string;
  gateway: string | null;
}

export interface NetworkState {
  /** Without those that every interface gives itself (IPv6 link-local). */
  addresses: InterfaceAddress[];
  /** Without those that follow from addresses. */
  routes: InterfaceRoute[];
}

/** Runs `ip -j` with more words and gives its standard output. */
export type RunIp = (words: string[]) => string;

const runIp: RunIp = (words) =>
  execFileSync('ip', ['-j', ...words], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 2 ** 28 });

interface IpAddr {
  ifname?: string;
  addr_info?: { family?: string; local?: string; prefixlen?: number; scope?: string }[];
}

interface IpRoute {
  type?: string;
  dst?: string;
  dev?: string;
  gateway?: string;
  via?: { host?: string };
  protocol?: string;
  nexthops?: { dev?: string; gateway?: string }[];
}

/** The state of this network namespace. Throws Error where ip(8) is missing or fails. */
export function readNetworkState(run: RunIp = runIp): NetworkState {
  const addresses = (ask(run, ['addr', 'show']) as IpAddr[]).flatMap(({ ifname, addr_info = [] }) =>
    addr_info
      .filter(({ family, scope }) => !(family === 'inet6' && scope === 'link'))
      .map(({ local, prefixlen }) => ({ interface: ifname ?? '', address: `${local}/${prefixlen}` })),
  );
  const routes = ['-4', '-6']
    .flatMap((family) => ask(run, [family, 'route', 'show', 'table', 'all']) as IpRoute[])
    .filter(({ protocol, type = 'unicast' }) => protocol !== 'kernel' && type === 'unicast')
    .flatMap(({ dst = '', dev, gateway, via, nexthops }) =>
      (nexthops ?? [{ dev, gateway: gateway ?? via?.host }]).map((hop) => ({
        interface: hop.dev ?? '',
        destination: dst,
        gateway: hop.gateway ?? null,
      })),
    );
  return { addresses, routes };
}

function ask(run: RunIp, words: string[]): unknown[] {
  const tried = `ip -j ${words.join(' ')}`;
  let text: string;
  try {
    text = run(words);
  } catch (error) {
    const { code, stderr, message } = error as NodeJS.ErrnoException & { stderr?: string };
    const why = code === 'ENOENT' ? 'there is no ip(8); install iproute2' : stderr?.trim() || message;
    throw new Error(`cannot tell which addresses and routes this machine has: ${tried}: ${why}`);
  }
  if (text.trim() === '') return []; // Some versions print nothing for an empty table.
  try {
    const parsed: unknown = JSON.parse(text);
    if (Array.isArray(parsed)) return parsed;
  } catch {
    // Told below.
  }
  throw new Error(
    `cannot tell which addresses and routes this machine has: ${tried} printed no JSON list: ${JSON.stringify(text.slice(0, 80))}`,
  );
}

/** In words what an interface carries, such as `192.0.2.2/24`, `the default route via 192.0.2.1`. */
export function carriedBy(state: NetworkState, name: string): string[] {
  const routes = state.routes.filter((route) => route.interface === name);
  return [
    ...state.addresses.filter((address) => address.interface === name).map(({ address }) => address),
    ...routes.map(({ destination, gateway }) => {
      const what = destination === 'default' ? 'the default route' : `the route to ${destination}`;
      return gateway === null ? what : `${what} via ${gateway}`;
    }),
  ];
}
