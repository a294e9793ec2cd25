/**
 * ping: sends echo requests (RFC 792, RFC 4443 §4.1), and tells what became of each.
 *
 *     const cancel = stack.ping(address, { size: 56 }, (error, reply) => …)
 */

import { Deadlines, NONE } from '../deadlines.ts';
import {
  BEGUN,
  ERROR_PACKET_TOO_BIG,
  ERROR_TIME_EXCEEDED,
  MICROSECONDS_PER_SECOND,
  type Network,
  type Random,
  type Ticking,
  type Time,
} from '../network.ts';
import { type Family, NOT_LOCAL, type Packet } from '../packet.ts';
import {
  ICMP_HEADER_LENGTH,
  ICMP_ID,
  ICMP_SEQUENCE,
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  read16,
  write16,
} from './ipv4-header.ts';

const ECHO_REQUEST_V4 = 8;
const ECHO_REQUEST_V6 = 128;
const CHECKSUM = 2;
const DEFAULT_SIZE = 56;
const MAX_SIZE = 65_507;
const DEFAULT_TIMEOUT = MICROSECONDS_PER_SECOND;
/** Requests that wait for a reply at the most. */
export const MAX_OUTSTANDING = 4096;

export interface EchoOptions {
  /** Bytes of data. Default 56, as ping's. */
  size?: number;
  /** In ms; default 1000. */
  timeoutMs?: number;
  hopLimit?: number;
}

export interface EchoReply {
  /** Round trip, in µs. */
  time: number;
  /** TTL or hop limit that the reply came with. */
  hopLimit: number;
  /** Bytes of data. */
  size: number;
}

/** ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, EMSGSIZE, EBUSY, EINVAL. */
export class EchoError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.name = 'EchoError';
    this.code = code;
  }
}

export type EchoCallback = (error: EchoError | null, reply: EchoReply | null) => void;

interface Outstanding {
  sequence: number;
  destination: number;
  family: Family;
  address: Uint8Array;
  isGroup: boolean;
  sent: Time;
  size: number;
  callback: EchoCallback;
}

export class EchoClient implements Ticking {
  readonly #network: Network;
  readonly #outstanding = new Map<number, Outstanding>();
  readonly #deadlines = new Deadlines();
  /** What tells our requests from those of others (RFC 792). */
  readonly #id: number;
  #sequence = 0;

  constructor(network: Network, random: Random) {
    this.#network = network;
    this.#id = random() & 0xffff;
  }

  /**
   * Sends a request to a host of 4 or 16 bytes' address; `callback` is called once, later, or by itself when the request cannot be sent:
   * with an error, or a reply. Gives a function that cancels it.
   */
  send(address: Uint8Array, options: EchoOptions, now: Time, callback: EchoCallback): () => void {
    const { size = DEFAULT_SIZE, timeoutMs = DEFAULT_TIMEOUT / 1000, hopLimit = 0 } = options;
    const refuse = (code: string, message: string): (() => void) => {
      callback(new EchoError(code, message), null);
      return () => {};
    };
    if (address.length !== 4 && address.length !== 16) {
      return refuse('EINVAL', `ping: an address of ${address.length} bytes: IPv4 has 4 and IPv6 has 16`);
    }
    if (!(Number.isInteger(size) && size >= 0 && size <= MAX_SIZE)) {
      return refuse('EINVAL', `ping: ${size} bytes of data: give a whole number from 0 to ${MAX_SIZE}`);
    }
    if (this.#outstanding.size >= MAX_OUTSTANDING) {
      return refuse('EBUSY', `ping: ${MAX_OUTSTANDING} requests wait for a reply already`);
    }
    const { destinations } = this.#network;
    const family = address.length === 4 ? 4 : 6;
    const destination = destinations.hold(family, address, 0);
    while (this.#outstanding.has(this.#sequence)) this.#sequence = (this.#sequence + 1) & 0xffff;
    const sequence = this.#sequence;
    this.#sequence = (sequence + 1) & 0xffff;
    const problem = this.#transmit(family, destination, sequence, size, hopLimit);
    if (problem !== null) {
      destinations.letGo(destination);
      return refuse(...problem);
    }
    const isGroup = family === 4 ? address[0]! >= 224 : address[0] === 0xff;
    const copy = Uint8Array.from(address);
    this.#outstanding.set(sequence, {
      sequence,
      destination,
      family,
      address: copy,
      isGroup,
      sent: now,
      size,
      callback,
    });
    this.#deadlines.set(sequence, now + timeoutMs * 1000);
    return () => this.#end(sequence);
  }

  #transmit(
    family: Family,
    destination: number,
    sequence: number,
    size: number,
    hopLimit: number,
  ): [string, string] | null {
    const network = this.#network;
    const local = network.sourceFor(destination);
    const length = ICMP_HEADER_LENGTH + size;
    if (local === NOT_LOCAL) return ['ENETUNREACH', 'ping: there is no route, or no address to send from'];
    const protocol = family === 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
    const begun = network.begin(local, destination, protocol, 0, length, hopLimit);
    if (begun !== BEGUN) return ['ENETUNREACH', 'ping: the packet cannot be sent: no route, or no room in the device'];
    const { bytes, at } = network.outgoing;
    bytes[at] = family === 4 ? ECHO_REQUEST_V4 : ECHO_REQUEST_V6;
    bytes[at + 1] = 0;
    write16(bytes, at + CHECKSUM, 0);
    write16(bytes, at + ICMP_ID, this.#id);
    write16(bytes, at + ICMP_SEQUENCE, sequence);
    for (let i = 0; i < size; i++) bytes[at + ICMP_HEADER_LENGTH + i] = i;
    network.send(length, CHECKSUM);
    return null;
  }

  /** An echo reply, its checksum being right: `packet.at` is where ICMP begins, and it has at least 8 bytes. */
  reply(packet: Packet, now: Time): void {
    const { bytes, at, source, hopLimit, end } = packet;
    if (read16(bytes, at + ICMP_ID) !== this.#id) return;
    const sequence = read16(bytes, at + ICMP_SEQUENCE);
    const request = this.#outstanding.get(sequence);
    if (request === undefined || request.family !== packet.family) return;
    if (!request.isGroup && !request.address.every((byte, i) => byte === bytes[source + i])) return;
    this.#end(sequence);
    request.callback(null, { time: now - request.sent, hopLimit, size: end - at - ICMP_HEADER_LENGTH });
  }

  /** An ICMP error about an echo request: {@link Transport.error}. */
  error(kind: number, quoted: Packet): boolean {
    const { bytes, at, destination } = quoted;
    if (read16(bytes, at + ICMP_ID) !== this.#id) return false;
    const sequence = read16(bytes, at + ICMP_SEQUENCE);
    const request = this.#outstanding.get(sequence);
    if (request === undefined || request.family !== quoted.family) return false;
    if (!request.address.every((byte, i) => byte === bytes[destination + i])) return false;
    this.#end(sequence);
    if (kind === ERROR_PACKET_TOO_BIG) {
      request.callback(new EchoError('EMSGSIZE', 'ping: too big for the path; the next one is cut'), null);
      return true;
    }
    const what = kind === ERROR_TIME_EXCEEDED ? 'its hop limit was used up' : 'destination unreachable';
    request.callback(new EchoError('EHOSTUNREACH', `ping: ${what}`), null);
    return false;
  }

  get deadline(): Time {
    return this.#deadlines.first;
  }

  tick(now: Time): void {
    for (;;) {
      const sequence = this.#deadlines.due(now);
      if (sequence === NONE) return;
      const request = this.#outstanding.get(sequence)!;
      this.#end(sequence);
      request.callback(new EchoError('ETIMEDOUT', 'ping: no reply in time'), null);
    }
  }

  #end(sequence: number): void {
    const request = this.#outstanding.get(sequence);
    if (request === undefined) return;
    this.#outstanding.delete(sequence);
    this.#deadlines.cancel(sequence);
    this.#network.destinations.letGo(request.destination);
  }
}
