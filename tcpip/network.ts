/**
 * The two sides that IP and the transports (TCP, UDP) show each other. IPv4 and IPv6 look the same from above: an address
 * of ours is an index, a remote host is an entry of the destination cache (RFC 4861 §5.1), and both are plain numbers.
 *
 * All times are microseconds since the stack began, whole numbers; NEVER is no time.
 */
import type { Family, Outgoing, Packet } from './packet.ts';

export type Time = number;
export const NEVER: Time = Number.POSITIVE_INFINITY;
export const MICROSECONDS_PER_SECOND = 1_000_000;

/** 32 random bits, whole and not negative. Whoever makes the stack says where they come from. */
export type Random = () => number;

/** Something with a clock of its own to keep: called with the time when `deadline` has come, or later. */
export interface Ticking {
  /** When `tick` wants to be called next, or NEVER. */
  readonly deadline: Time;
  tick(now: Time): void;
}

/** No entry of the destination cache. */
export const NO_DESTINATION = -1;

/** Remote hosts that we talk to, or did lately. An entry that somebody holds stays; others go, the oldest first. */
export interface Destinations {
  /** The entry of the address at `at` in `bytes` (4 or 16 bytes), or NO_DESTINATION. Makes none: forged sources cost nothing. */
  find(family: Family, bytes: Uint8Array, at: number): number;
  /** The same, made if need be (never fails), and held once more. The same address has the same entry while it is held. */
  hold(family: Family, bytes: Uint8Array, at: number): number;
  /** Held once more by whoever holds it already. */
  holdAgain(destination: number): void;
  letGo(destination: number): void;
  family(destination: number): Family;
  /** The address, 4 or 16 bytes; a view or copy that the caller must not write. */
  address(destination: number): Uint8Array;
  /** Writes it to `bytes` at `at`, for those who need it for each connection. */
  writeAddress(destination: number, bytes: Uint8Array, at: number): void;
  /** Path MTU: bytes of an IP packet that get there in one piece. Changes by ICMP (RFC 1191, RFC 8201) and by {@link setPathMtu}. */
  pathMtu(destination: number): number;
  /** What TCP found out by itself (RFC 4821). */
  setPathMtu(destination: number, bytes: number, now: Time): void;
  /** Something from the host proves that the way there works: its neighbour entry is fresh (RFC 4861 §7.3.1). */
  confirm(destination: number, now: Time): void;
}

export interface LocalAddresses {
  /** Index of an address of ours that may be used, or NOT_LOCAL. Indices stay while the address does. */
  find(family: Family, bytes: Uint8Array, at: number): number;
  family(local: number): Family;
  address(local: number): Uint8Array;
}

/** {@link Network.begin}: why not. */
export const BEGUN = 0;
/** The device's ring is full: try again when {@link Transport.writable} is called. */
export const BUSY = 1;
/** No route, or no address to send from. */
export const UNREACHABLE = 2;

export interface Network {
  readonly destinations: Destinations;
  readonly locals: LocalAddresses;
  /** Where to write, after {@link begin} gave BEGUN. */
  readonly outgoing: Outgoing;
  /** Whether the device segments TCP super-frames (up to 65,535 bytes of IP packet) for a family. */
  canSegment(family: Family): boolean;
  /** The address of ours to talk to a destination from (RFC 6724 §5 for IPv6), or NOT_LOCAL when there is no way to it. */
  sourceFor(destination: number): number;
  /** Whether there is a route to a destination. */
  hasRoute(destination: number): boolean;
  /** Whether a destination is everybody on the link: 255.255.255.255, or the broadcast address of a prefix of ours. */
  isBroadcast?(destination: number): boolean;

  /**
   * Begins a packet with room for `length` bytes of transport header and data, and writes everything before it. The next
   * hop need not be known yet: the packet waits then (a few do, for each neighbour), and the caller need not care.
   *
   * @param trafficClass with the ECN bits; the flow label of IPv6 is the network's own choice
   * @param hopLimit TTL or hop limit; 0 or nothing: the usual one (for groups 1)
   * @returns BEGUN, BUSY or UNREACHABLE
   */
  begin(
    local: number,
    destination: number,
    protocol: number,
    trafficClass: number,
    length: number,
    hopLimit?: number,
  ): number;
  /**
   * Ends it: `length` bytes were written from {@link outgoing}.at on, of which the checksum field at `checksumOffset` is
   * filled in here, by the device where it can (-1: there is none). `gsoSize` > 0: a TCP super-frame, to be cut behind `headerLength` bytes of TCP header;
   * `hasCwr`: its first segment alone carries CWR (VIRTIO_NET_HDR_GSO_ECN).
   */
  send(length: number, checksumOffset: number, headerLength?: number, gsoSize?: number, hasCwr?: boolean): void;
  /** Sends a packet that answers nothing in particular, e.g. RST to a host without an entry: swaps the addresses of a received one. */
  beginReply(packet: Packet, protocol: number, trafficClass: number, length: number): number;
  /** ICMP destination unreachable, port unreachable, for a received packet (rate limits are the network's). */
  portUnreachable(packet: Packet, now: Time): void;
}

/** What an ICMP or ICMPv6 error says (RFC 1122 §4.2.3.9, RFC 5461, RFC 4443). */
export const ERROR_UNREACHABLE_NET = 1;
export const ERROR_UNREACHABLE_HOST = 2;
export const ERROR_UNREACHABLE_PROTOCOL = 3;
export const ERROR_UNREACHABLE_PORT = 4;
export const ERROR_PACKET_TOO_BIG = 5;
export const ERROR_PROHIBITED = 6;
export const ERROR_TIME_EXCEEDED = 7;
export const ERROR_PARAMETER_PROBLEM = 8;

export interface Transport {
  /** A packet for us. Broadcast and multicast come too, with `packet.local` being NOT_LOCAL. */
  input(packet: Packet, now: Time): void;
  /**
   * An ICMP error quotes a packet that we sent: `quoted.at` is where its transport header begins, of which at least 8
   * bytes are there (`quoted.end`); `quoted.local` and `destination` are the ends of it, the latter NO_DESTINATION when unknown.
   * For ERROR_PACKET_TOO_BIG `mtu` is the next hop's MTU, or 0: the transport believes it only when the quote is of a
   * connection and in its window (RFC 5927), and says so by returning true: then the network lowers the path MTU.
   */
  error(kind: number, quoted: Packet, destination: number, mtu: number, now: Time): boolean;
  /** The device has room again after BUSY. */
  writable(now: Time): void;
  /** A batch of packets was handed over, or a timer ran: what was put off until then is sent now, once. */
  settle?(now: Time): void;
  /** The path MTU of a destination got smaller: send again what was too big. */
  pathMtuChanged?(destination: number, now: Time): void;
}
