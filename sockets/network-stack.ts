/**
 * A TCP/IP stack that runs in this process's event loop, with everything that programs want of it:
 *
 *     NetworkStack ─┬─ net, dgram               node:net and node:dgram over it
 *                   ├─ connect, listen, openUdp  by promises and loops
 *                   ├─ tcp, udp                 connections as numbers, callbacks: the fastest way
 *                   ├─ Stack (IP), Tcp, Udp     ◄── polled by StackLoop ──► device
 *                   └─ StackControl     `ringswitch sockets`
 *
 * It keeps the process alive while it has open sockets or listening servers that are not unref'd, and not otherwise.
 */
import { randomFillSync } from 'node:crypto';
import type { LookupFunction } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { IPPROTO_TCP, IPPROTO_UDP } from '../packet/header-fields.ts';
import { parseCidr, parseIp } from '../packet/ip-text.ts';
import type { WaitableDevice } from '../tcpip/devices/waitable-device.ts';
import { type AttachedDhcp, attachDhcp } from '../tcpip/dhcp/attach-dhcp.ts';
import type { DhcpOptions } from '../tcpip/dhcp/dhcp-client.ts';
import type { Lease } from '../tcpip/dhcp/lease.ts';
import { IPPROTO_IGMP } from '../tcpip/ip/ipv4-header.ts';
import { Ipv6, type Ipv6Options } from '../tcpip/ipv6/ipv6.ts';
import { Igmp } from '../tcpip/multicast/igmp.ts';
import type { Random, Time } from '../tcpip/network.ts';
import { Stack } from '../tcpip/stack.ts';
import type { TcpUser } from '../tcpip/tcp/api.ts';
import type { TcpOptions } from '../tcpip/tcp/core.ts';
import { Tcp } from '../tcpip/tcp/tcp.ts';
import type { UdpUser } from '../tcpip/udp/api.ts';
import { Udp } from '../tcpip/udp/udp.ts';
import { type DatagramStack, type Dgram, dgramOf } from './dgram.ts';
import { type Net, netOf } from './net.ts';
import { type ConnectPromiseOptions, connect, type Listener, type ListenerOptions, listen } from './promises.ts';
import type { Socket, SocketStack, StackUser } from './socket.ts';
import { StackControl } from './stack-control.ts';
import { StackLoop, type StackLoopOptions } from './stack-loop.ts';
import { type UdpEndpoint, type UdpEndpointOptions, udp } from './udp-endpoint.ts';

const RANDOM_WORDS = 1024;
/** How long the end of a stack waits for other sides to know of it, and how often it looks. */
const DEFAULT_LINGER_MS = 1000;
const LINGER_LOOK_MS = 2;
/** IANA's number. */
const DEFAULT_PREFIX: Record<4 | 6, string> = { 4: '0.0.0.0/0', 6: '::/0' };

export interface RouteText {
  /** `10.1.0.0/16`. */
  to: string;
  /** The router; none: on the link. */
  via?: string;
  metric?: number;
}

export interface NetworkStackOptions extends StackLoopOptions {
  /** For `ringswitch sockets`: letters, digits, and `-_.`. Default `stack`. */
  name?: string;
  /** `10.0.0.2/24`, `fd00::2/64`. */
  addresses?: readonly string[];
  /** Default routers, at most one of each family. */
  gateways?: readonly string[];
  routes?: readonly RouteText[];
  /** False: none. Addresses that routers advertise are taken unless `autoconfigure` is false. */
  ipv6?: boolean | Ipv6Options;
  /** Ask for an IPv4 address by DHCP: true, or with a lease that was kept, a name, … */
  dhcp?: boolean | DhcpOptions;
  /** VID of the VLAN to live on. */
  vlan?: number;
  tcp?: Partial<TcpOptions>;
  /** Finds addresses of names; without, only addresses can be connected to. */
  lookup?: LookupFunction;
  /** Where stacks tell of themselves; false: this one does not. Default: the directory that `ringswitch sockets` looks into, where it can be made. */
  control?: string | false;
  /** 32 random bits at a time. Default: the system's. */
  random?: Random;
}

export class NetworkStack implements SocketStack, DatagramStack, AsyncDisposable {
  readonly name: string;
  readonly device: WaitableDevice;
  /** IP, and what is below. */
  readonly stack: Stack;
  readonly lookup: LookupFunction | null;
  /** `node:net` over this stack. */
  readonly net: Net;
  /** `node:dgram` over this stack. */
  readonly dgram: Dgram;
  readonly loop: StackLoop;
  readonly #tcp: Tcp;
  readonly #udp: Udp;
  readonly #users = new Set<StackUser>();
  #control: StackControl | null = null;
  #dhcp: AttachedDhcp | null = null;
  #closing: Promise<void> | null = null;
  #destroyed = false;

  /**
   * Starts a stack on a device, which becomes the stack's to close. Rejects with what is wrong with an option (RangeError);
   * the device is closed then.
   */
  static async start(device: WaitableDevice, options: NetworkStackOptions = {}): Promise<NetworkStack> {
    let made: NetworkStack | undefined;
    try {
      made = new NetworkStack(device, options);
      await made.#tell(options.control);
      return made;
    } catch (error) {
      if (made === undefined) device.close();
      else made.destroy();
      throw error;
    }
  }

  private constructor(device: WaitableDevice, options: NetworkStackOptions) {
    const {
      name = 'stack',
      lookup = null,
      random = systemRandom(),
      vlan,
      tcp,
      ipv6 = true,
      spinMicroseconds,
    } = options;
    this.name = name;
    this.device = device;
    this.lookup = lookup;
    const { sum } = device;
    this.stack = new Stack({ device, random, vlan, sum });
    this.#tcp = new Tcp(this.stack, random, { ...tcp, sum, clock: () => this.loop.now });
    this.#udp = new Udp(this.stack, random, { sum });
    this.stack.addTransport(IPPROTO_TCP, this.#tcp);
    this.stack.addTransport(IPPROTO_UDP, this.#udp);
    this.loop = new StackLoop(this.stack, device, { spinMicroseconds });
    this.net = netOf(this);
    this.dgram = dgramOf(this);
    this.stack.onWork = () => this.loop.wake();
    this.#tcp.onWork = () => this.loop.wake();
    this.#configure(options, ipv6);
    const { dhcp = false } = options;
    if (dhcp !== false) {
      this.stack.advance(this.now);
      this.#dhcp = attachDhcp(this.stack, this.#udp, dhcp === true ? {} : dhcp);
    }
    this.loop.wake();
  }

  #configure({ addresses = [], gateways = [], routes = [] }: NetworkStackOptions, ipv6: boolean | Ipv6Options): void {
    const { stack } = this;
    const now = this.now;
    const layer = ipv6 === false ? null : new Ipv6(stack, ipv6 === true ? {} : ipv6);
    this.#joinGroups();
    if (layer !== null) {
      stack.setIpv6(layer);
      layer.start(now);
      const { groups } = layer;
      this.#udp.setGroups(6, {
        join: (group) => this.#report(() => groups.join(group, stack.now)),
        leave: (group) => this.#report(() => groups.leave(group, stack.now)),
      });
    }
    for (const text of addresses) {
      const { address, prefix } = parseCidr(text, 'address');
      if (address.length === 4) stack.addAddress(address, prefix);
      else if (layer === null) throw new RangeError(`address: ${text} is an IPv6 address, and this stack has no IPv6`);
      else layer.addresses.add(address, prefix, now);
    }
    for (const gateway of gateways) {
      const family = gateway.includes(':') ? 6 : 4;
      this.#addRoute({ to: DEFAULT_PREFIX[family], via: gateway }, 'gateway');
    }
    for (const route of routes) this.#addRoute(route, 'route');
  }

  /** IPv4's groups: IGMP hears of them, and says which are ours. */
  #joinGroups(): void {
    const { stack } = this;
    const igmp = new Igmp(stack);
    stack.ipv4.groups = igmp;
    stack.addTicking(igmp);
    stack.addTransport(IPPROTO_IGMP, {
      input: (packet, now) => igmp.input(packet, now),
      error: () => false,
      writable() {},
    });
    this.#udp.setGroups(4, {
      join: (group) => this.#report(() => igmp.join(group, stack.now)),
      leave: (group) => this.#report(() => igmp.leave(group, stack.now)),
    });
  }

  /** What a group's routers are to hear leaves with the next poll. */
  #report<Result>(change: () => Result): Result {
    const result = change();
    this.loop.wake();
    return result;
  }

  #addRoute({ to, via, metric }: RouteText, what: string): void {
    const { address, prefix } = parseCidr(to, what);
    const gateway = via === undefined ? undefined : parseIp(via);
    if (gateway === null || (gateway !== undefined && gateway.length !== address.length)) {
      throw new RangeError(`${what}: "${via}" is no address of a router for ${to}`);
    }
    this.stack.routes.add({ prefix: address, prefixLength: prefix, gateway, metric });
  }

  async #tell(directory: string | false | undefined): Promise<void> {
    if (directory === false) return;
    try {
      this.#control = await StackControl.start({ name: this.name, tcp: this.#tcp, udp: this.#udp, directory });
    } catch (error) {
      // Whoever may not write there by default runs all the same, unseen.
      if (directory !== undefined || error instanceof RangeError) throw error;
    }
  }

  /** The lease that DHCP holds, or null. */
  get lease(): Lease | null {
    return this.#dhcp?.client.lease ?? null;
  }

  /** Microseconds since it was started. */
  get now(): Time {
    return this.loop.now;
  }

  /**
   * TCP at its fastest: connections are numbers, and data comes by callbacks. Ask for it anew for each burst of calls: the
   * stack learns the time so.
   */
  get tcp(): TcpUser {
    this.#learnTime();
    return this.#tcp;
  }

  /** UDP at its fastest. Ask for it anew for each burst of calls, as for {@link tcp}. */
  get udp(): UdpUser {
    this.#learnTime();
    return this.#udp;
  }

  /** A stack reads no clock; what begins outside of its polls must not begin in the past. */
  #learnTime(): void {
    if (this.loop.polling || this.#destroyed) return;
    const { now } = this;
    this.stack.advance(now);
    this.#tcp.settle(now);
  }

  /** Connects. Rejects with the errors that Node's sockets have, or the signal's reason. */
  connect(options: ConnectPromiseOptions): Promise<Socket> {
    return connect(this, options);
  }

  /** Listens; `for await` gives the connections. */
  listen(options: ListenerOptions = {}): Promise<Listener> {
    return listen(this, options);
  }

  /** Binds; `for await` gives the datagrams. Throws the errors that Node's sockets have. */
  openUdp(options: UdpEndpointOptions = {}): UdpEndpoint {
    return udp(this, options);
  }

  // ---- who uses it

  hold(): void {
    this.loop.hold();
  }

  letGo(): void {
    this.loop.letGo();
  }

  attach(one: StackUser): void {
    if (this.#closing !== null || this.#destroyed)
      throw new Error(`the stack ${this.name} was closed: nothing can be opened on it any more`);
    this.#users.add(one);
  }

  detach(one: StackUser): void {
    this.#users.delete(one);
  }

  /**
   * Ends all sockets and servers as if their programs had, and waits until the other sides know, `lingerMs` at the most; then
   * {@link destroy}s the stack.
   */
  close(lingerMs = DEFAULT_LINGER_MS): Promise<void> {
    this.#closing ??= this.#close(lingerMs);
    return this.#closing;
  }

  async #close(lingerMs: number): Promise<void> {
    if (this.#destroyed) return;
    for (const one of [...this.#users]) one.stackClosed();
    this.loop.hold();
    const until = performance.now() + lingerMs;
    // Once more when all is over: the device shall take the last of it.
    do await delay(LINGER_LOOK_MS);
    while (!this.#destroyed && this.#tcp.connectionCount > 0 && performance.now() < until);
    this.loop.letGo();
    this.destroy();
  }

  /** Ends everything at once, without a word to anybody, and lets go of the device. */
  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    for (const one of [...this.#users]) one.stackClosed();
    this.loop.close();
    this.#control?.close();
    this.device.close();
  }

  /** {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** The system's generator, a page at a time. */
function systemRandom(): Random {
  const words = new Uint32Array(RANDOM_WORDS);
  let next = RANDOM_WORDS;
  return () => {
    if (next === RANDOM_WORDS) {
      randomFillSync(words);
      next = 0;
    }
    return words[next++]!;
  };
}
