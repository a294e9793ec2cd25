/**
 * What TCP stands on, without any IP: segments come out as bytes, with their ends beside them, and go in the same way.
 * Addresses are IPv4, or IPv6 where a test asks for it; everything has a route.
 */
import { finish, pseudoHeaderSumIpv4, pseudoHeaderSumIpv6, sum } from '../../packet/checksum.ts';
import { IPPROTO_TCP } from '../../packet/header-fields.ts';
import {
  BEGUN,
  BUSY,
  type Destinations,
  type LocalAddresses,
  type Network,
  NO_DESTINATION,
} from '../../tcpip/network.ts';
import { type Family, NOT_LOCAL, newPacket, type Outgoing, type Packet } from '../../tcpip/packet.ts';

export interface Sent {
  /** Addresses, in network order. */
  source: Uint8Array;
  destination: Uint8Array;
  /** TCP header and data. */
  bytes: Uint8Array;
  trafficClass: number;
  gsoSize: number;
  headerLength: number;
  hasCwr: boolean;
}

class FakeDestinations implements Destinations {
  mtu = 1500;
  readonly #rows: { address: Uint8Array; users: number; mtu: number }[] = [];

  find(family: Family, bytes: Uint8Array, at: number): number {
    const wanted = bytes.subarray(at, at + (family === 4 ? 4 : 16));
    return this.#rows.findIndex((row) => row.users > 0 && Buffer.compare(row.address, wanted) === 0);
  }

  hold(family: Family, bytes: Uint8Array, at: number): number {
    const known = this.find(family, bytes, at);
    if (known !== NO_DESTINATION) {
      this.#rows[known]!.users++;
      return known;
    }
    const free = this.#rows.findIndex((row) => row.users === 0);
    const row = { address: bytes.slice(at, at + (family === 4 ? 4 : 16)), users: 1, mtu: this.mtu };
    if (free < 0) return this.#rows.push(row) - 1;
    this.#rows[free] = row;
    return free;
  }

  holdAgain(destination: number): void {
    this.#rows[destination]!.users++;
  }

  letGo(destination: number): void {
    if (--this.#rows[destination]!.users < 0) throw new Error(`destination ${destination} was let go too often`);
  }

  /** How often destinations are held, all together. */
  get held(): number {
    return this.#rows.reduce((users, row) => users + row.users, 0);
  }

  family(destination: number): Family {
    return this.#rows[destination]!.address.length === 4 ? 4 : 6;
  }

  address(destination: number): Uint8Array {
    return this.#rows[destination]!.address;
  }

  writeAddress(destination: number, bytes: Uint8Array, at: number): void {
    bytes.set(this.address(destination), at);
  }

  pathMtu(destination: number): number {
    return this.#rows[destination]!.mtu;
  }

  setPathMtu(destination: number, bytes: number): void {
    this.#rows[destination]!.mtu = bytes;
  }

  confirm(): void {}
}

export class FakeNetwork implements Network {
  readonly destinations = new FakeDestinations();
  readonly locals: LocalAddresses;
  readonly outgoing: Outgoing = { bytes: new Uint8Array(2 ** 17), at: 64 };
  readonly addresses: Uint8Array[];
  /** Whether super-frames are taken. */
  segments = false;
  /** Packets that the device takes before it is full. */
  room = Number.POSITIVE_INFINITY;
  onSent: (sent: Sent) => void = () => {};
  #local: Uint8Array = new Uint8Array(0);
  #remote: Uint8Array = new Uint8Array(0);
  #trafficClass = 0;
  #length = 0;

  constructor(addresses: Uint8Array[]) {
    this.addresses = addresses;
    this.locals = {
      find: (family, bytes, at) =>
        addresses.findIndex((own) => Buffer.compare(own, bytes.subarray(at, at + (family === 4 ? 4 : 16))) === 0),
      family: (local) => (addresses[local]!.length === 4 ? 4 : 6),
      address: (local) => addresses[local]!,
    };
  }

  canSegment(): boolean {
    return this.segments;
  }

  sourceFor(destination: number): number {
    const { length } = this.destinations.address(destination);
    return this.addresses.findIndex((own) => own.length === length);
  }

  hasRoute(): boolean {
    return true;
  }

  begin(local: number, destination: number, _protocol: number, trafficClass: number, length: number): number {
    return this.#begin(this.addresses[local]!, this.destinations.address(destination), trafficClass, length);
  }

  beginReply(packet: Packet, _protocol: number, trafficClass: number, length: number): number {
    const bytes = packet.family === 4 ? 4 : 16;
    const local = packet.bytes.slice(packet.destination, packet.destination + bytes);
    return this.#begin(local, packet.bytes.slice(packet.source, packet.source + bytes), trafficClass, length);
  }

  #begin(local: Uint8Array, remote: Uint8Array, trafficClass: number, length: number): number {
    if (this.room <= 0) return BUSY;
    this.#local = local;
    this.#remote = remote;
    this.#trafficClass = trafficClass;
    this.#length = length;
    this.outgoing.bytes.fill(0xaa, this.outgoing.at, this.outgoing.at + length);
    return BEGUN;
  }

  send(length: number, checksumOffset: number, headerLength = 0, gsoSize = 0, hasCwr = false): void {
    if (length > this.#length) throw new Error(`${length} bytes were written into room for ${this.#length}`);
    this.room--;
    const { at } = this.outgoing;
    const bytes = this.outgoing.bytes.slice(at, at + length);
    bytes.fill(0, checksumOffset, checksumOffset + 2);
    const partial = sum(bytes, 0, length, pseudoSum(this.#local, this.#remote, length));
    const checksum = finish(partial);
    bytes[checksumOffset] = checksum >> 8;
    bytes[checksumOffset + 1] = checksum;
    this.onSent({
      source: this.#local,
      destination: this.#remote,
      bytes,
      trafficClass: this.#trafficClass,
      gsoSize,
      headerLength,
      hasCwr,
    });
  }

  portUnreachable(): void {}
}

function pseudoSum(source: Uint8Array, destination: Uint8Array, length: number): number {
  const both = new Uint8Array([...source, ...destination]);
  return source.length === 4
    ? pseudoHeaderSumIpv4(both, 0, IPPROTO_TCP, length)
    : pseudoHeaderSumIpv6(both, 0, IPPROTO_TCP, length);
}

/** A packet as IP would hand it up: `sent` by the other side, to `network`. */
export function packetOf(sent: Sent, network: FakeNetwork): Packet {
  const size = sent.source.length;
  const bytes = new Uint8Array(2 * size + sent.bytes.length);
  bytes.set(sent.source, 0);
  bytes.set(sent.destination, size);
  bytes.set(sent.bytes, 2 * size);
  const packet = newPacket();
  packet.bytes = bytes;
  packet.at = 2 * size;
  packet.end = bytes.length;
  packet.family = size === 4 ? 4 : 6;
  packet.source = 0;
  packet.destination = size;
  packet.local = network.locals.find(packet.family, bytes, size);
  packet.protocol = IPPROTO_TCP;
  packet.hopLimit = 64;
  packet.trafficClass = sent.trafficClass;
  packet.gsoSize = sent.gsoSize;
  if (packet.local < 0) packet.local = NOT_LOCAL;
  return packet;
}

/** Numbers that look random and repeat: xorshift32. */
export function seeded(seed: number): () => number {
  let x = seed >>> 0 || 1;
  return () => {
    x ^= x << 13;
    x >>>= 0;
    x ^= x >>> 17;
    x ^= x << 5;
    x >>>= 0;
    return x;
  };
}
