/**
 * A stack with IPv6 on a memory device in virtual time, and packets for it, written out plainly from their standards.
 *
 *     const host = new Ipv6Host();
 *     host.run(seconds(5));                       // addresses are tried out, routers are asked for
 *     host.give(icmpv6(128, 0, […], { … }));      // an echo request …
 *     host.sent()                                 // … and what came of it, with times
 */
import { parseIp } from '../../packet/ip-text.ts';
import { Ipv6, type Ipv6Options } from '../../tcpip/ipv6/ipv6.ts';
import type { Time } from '../../tcpip/network.ts';
import { Stack } from '../../tcpip/stack.ts';
import { checksum, frame, OUR_MAC, THEIR_MAC } from './tcpip-packets.ts';
import { MemoryDevice, type MemoryDeviceOptions, seeded } from './tcpip-wire.ts';

/** A router, and a neighbour. */
export const ROUTER = 'fe80::1';
export const ROUTER_MAC = [2, 0, 0, 0, 0, 0xfe];
export const PEER = 'fe80::2';

export const ip = (text: string): number[] => {
  const bytes = parseIp(text);
  if (bytes === null) throw new Error(`${text} is no address`);
  return [...bytes];
};

export const u16 = (value: number): number[] => [(value >>> 8) & 0xff, value & 0xff];
export const u32 = (value: number): number[] => [
  value >>> 24,
  (value >>> 16) & 0xff,
  (value >>> 8) & 0xff,
  value & 0xff,
];

export interface Ipv6Shape {
  source?: string;
  destination?: string;
  nextHeader?: number;
  hopLimit?: number;
  trafficClass?: number;
  flowLabel?: number;
  payloadLength?: number;
  version?: number;
}

export function ipv6(payload: ArrayLike<number>, shape: Ipv6Shape = {}): number[] {
  const { source = PEER, destination = 'ff02::1', nextHeader = 58, hopLimit = 64, trafficClass = 0 } = shape;
  const { flowLabel = 0, payloadLength = payload.length, version = 6 } = shape;
  const first = ((version << 28) | (trafficClass << 20) | flowLabel) >>> 0;
  return [
    ...u32(first),
    ...u16(payloadLength),
    nextHeader,
    hopLimit,
    ...ip(source),
    ...ip(destination),
    ...Array.from(payload),
  ];
}

/** Checksum over pseudo header (RFC 8200 §8.1) and message. */
export function checksum6(source: string, destination: string, protocol: number, message: ArrayLike<number>): number {
  return checksum([
    ...ip(source),
    ...ip(destination),
    ...u32(message.length),
    0,
    0,
    0,
    protocol,
    ...Array.from(message),
  ]);
}

export interface MessageShape extends Ipv6Shape {
  /** Added to the right checksum. */
  checksumError?: number;
  /** Headers between IPv6's and ICMPv6's. */
  before?: { nextHeader: number; bytes: number[] };
}

export function icmpMessage(
  type: number,
  code: number,
  body: ArrayLike<number>,
  source: string,
  destination: string,
  error = 0,
): number[] {
  const message = [type, code, 0, 0, ...Array.from(body)];
  message.splice(2, 2, ...u16(checksum6(source, destination, 58, message) + error));
  return message;
}

/** An IPv6 packet with an ICMPv6 message; `body` begins behind the checksum. */
export function icmpv6(type: number, code: number, body: ArrayLike<number>, shape: MessageShape = {}): number[] {
  const { source = PEER, destination = 'ff02::1', before, checksumError = 0 } = shape;
  const message = icmpMessage(type, code, body, source, destination, checksumError);
  if (before === undefined) return ipv6(message, { ...shape, source, destination });
  return ipv6([...before.bytes, ...message], { ...shape, source, destination, nextHeader: before.nextHeader });
}

/** Where a packet's frame goes: a group's MAC address follows from the group (RFC 2464 §7). */
export const macFor = (destination: string): number[] => {
  const bytes = ip(destination);
  return bytes[0] === 0xff ? [0x33, 0x33, ...bytes.slice(12)] : OUR_MAC;
};

export const linkLayerOption = (type: number, mac: readonly number[]): number[] => [type, 1, ...mac];

export interface RaShape extends MessageShape {
  curHopLimit?: number;
  /** M, O and preference. */
  flags?: number;
  lifetime?: number;
  reachable?: number;
  retrans?: number;
  options?: number[];
}

/** A router advertisement, valid unless told otherwise. */
export function routerAdvertisement(shape: RaShape = {}): number[] {
  const { curHopLimit = 64, flags = 0, lifetime = 1800, reachable = 0, retrans = 0 } = shape;
  const { options = linkLayerOption(1, ROUTER_MAC), source = ROUTER, hopLimit = 255 } = shape;
  const body = [curHopLimit, flags, ...u16(lifetime), ...u32(reachable), ...u32(retrans), ...options];
  return icmpv6(134, 0, body, { ...shape, source, hopLimit });
}

export function prefixOption(
  prefix: string,
  { length = 64, flags = 0xc0, valid = 86_400, preferred = 14_400 } = {},
): number[] {
  return [3, 4, length, flags, ...u32(valid), ...u32(preferred), 0, 0, 0, 0, ...ip(prefix)];
}

export function neighbourSolicitation(target: string, options: number[], shape: MessageShape = {}): number[] {
  return icmpv6(135, 0, [0, 0, 0, 0, ...ip(target), ...options], { hopLimit: 255, ...shape });
}

export function neighbourAdvertisement(
  target: string,
  flags: number,
  options: number[],
  shape: MessageShape = {},
): number[] {
  return icmpv6(136, 0, [flags, 0, 0, 0, ...ip(target), ...options], { hopLimit: 255, ...shape });
}

/** The solicited-node group of an address. */
export const solicitedNodeOf = (address: string): string => {
  const [a, b, c] = ip(address).slice(13);
  return `ff02::1:ff${a.toString(16).padStart(2, '0')}:${((b << 8) | c).toString(16)}`;
};

export interface Sent {
  at: Time;
  to: number[];
  /** The IPv6 packet. */
  packet: Uint8Array;
  source: string;
  destination: string;
  nextHeader: number;
  hopLimit: number;
  /** Behind the IPv6 header. */
  payload: Uint8Array;
}

export interface Ipv6HostOptions extends Ipv6Options {
  device?: MemoryDeviceOptions;
  seed?: number;
}

export class Ipv6Host {
  now: Time = 1_000_000;
  readonly device: MemoryDevice;
  readonly stack: Stack;
  readonly ipv6: Ipv6;
  readonly #sent: Sent[] = [];

  constructor({ device = {}, seed = 1, ...options }: Ipv6HostOptions = {}) {
    this.device = new MemoryDevice(device);
    this.device.onSent = ({ bytes }) => {
      if (bytes[12] === 0x86 && bytes[13] === 0xdd) this.#sent.push(describe(bytes, this.now));
    };
    this.stack = new Stack({ device: this.device, random: seeded(seed) });
    this.stack.advance(this.now);
    this.ipv6 = new Ipv6(this.stack, options);
    this.stack.setIpv6(this.ipv6);
    this.ipv6.start(this.now);
  }

  /** A packet on the wire: it is taken at once. */
  give(packet: readonly number[], { from = THEIR_MAC, to }: { from?: number[]; to?: number[] } = {}): void {
    const destination = formatOf(packet.slice(24, 40));
    this.device.give(frame(packet, { to: to ?? macFor(destination), from, type: 0x86dd }));
    this.settle();
  }

  settle(): void {
    for (let rounds = 0; ; rounds++) {
      if (rounds > 1000) throw new Error('the stack never comes to rest');
      if (this.stack.poll(this.now) === 0 && this.stack.deadline > this.now) return;
    }
  }

  /** Time goes on until `until`, deadline by deadline. */
  run(until: Time): void {
    for (;;) {
      this.settle();
      const { deadline } = this.stack;
      if (deadline > until) break;
      this.now = Math.max(this.now, deadline);
    }
    this.now = until;
    this.stack.advance(until);
  }

  /** Time goes on by so much. */
  pass(time: Time): void {
    this.run(this.now + time);
  }

  /** What was sent since the last time it was asked for. */
  sent(): Sent[] {
    return this.#sent.splice(0);
  }

  /** The same, of one ICMPv6 type. */
  sentOf(type: number): Sent[] {
    return this.sent().filter(({ nextHeader, payload }) => nextHeader === 58 && payload[0] === type);
  }

  /** Adds an address without trying it out. */
  add(address: string, prefixLength = 64): void {
    this.ipv6.addresses.add(Uint8Array.from(ip(address)), prefixLength, this.now, { dad: false });
    this.settle();
  }
}

export function formatOf(bytes: ArrayLike<number>): string {
  return canonical(
    Array.from({ length: 8 }, (_, i) => ((bytes[2 * i] << 8) | bytes[2 * i + 1]).toString(16)).join(':'),
  );
}

/** RFC 5952, by way of the URL parser: no code of ours. */
export function canonical(address: string): string {
  return new URL(`http://[${address}]/`).hostname.slice(1, -1);
}

function describe(bytes: Uint8Array, at: Time): Sent {
  const packet = bytes.slice(14);
  return {
    at,
    to: [...bytes.subarray(0, 6)],
    packet,
    source: formatOf(packet.subarray(8, 24)),
    destination: formatOf(packet.subarray(24, 40)),
    nextHeader: packet[6],
    hopLimit: packet[7],
    payload: packet.slice(40),
  };
}

/** Whether an ICMPv6 message that was sent has a right checksum. */
export function isIntact({ source, destination, payload }: Sent): boolean {
  return checksum6(source, destination, 58, payload) === 0;
}
