/**
 * What programs see of UDP (RFC 768), at its lowest: sockets with callbacks. `sockets/` builds everything comfortable on it.
 */
import type { Family } from '../packet.ts';

/** Errors have Node's codes: EADDRINUSE, EADDRNOTAVAIL, ECONNREFUSED, EHOSTUNREACH, EMSGSIZE, EACCES, … */
export class UdpError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.name = 'UdpError';
    this.code = code;
  }
}

/** A datagram that came; one object for all, valid during the call only. */
export interface UdpMessage {
  bytes: Uint8Array;
  /** The data. */
  start: number;
  end: number;
  family: Family;
  /** Where in `bytes` the sender's address is, and the one it was sent to; 4 or 16 bytes each. */
  source: number;
  destination: number;
  /** The sender's. */
  port: number;
  /** Our address that it was sent to (a number of LocalAddresses), or NOT_LOCAL: broadcast, multicast. */
  local: number;
  hopLimit: number;
  /** With the ECN bits. */
  trafficClass: number;
}

/** A program's callbacks. All are called from within stack calls. */
export interface UdpHandler {
  onMessage(socket: UdpSocket, message: UdpMessage): void;
  /** An ICMP error about something that a connected socket sent: ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EMSGSIZE, … */
  onError?(socket: UdpSocket, error: UdpError): void;
  /** After {@link UdpSocket.send} gave false: now there is room. */
  onWritable?(socket: UdpSocket): void;
}

export interface UdpOptions {
  family: Family;
  /** One of ours (or a group); any when not given. An IPv6 socket without one also takes IPv4. */
  address?: Uint8Array;
  /** 0 or none: a free one at random (RFC 6056). */
  port?: number;
  /** Only IPv6, for an IPv6 socket without an address. */
  ipv6Only?: boolean;
  /** Another socket that says so as well may have the same address and port; what is for one host goes to the newest. */
  reuseAddress?: boolean;
  /** Whether it may send to everybody; without, that is EACCES. */
  broadcast?: boolean;
  /** False: IPv4 datagrams leave without a checksum (RFC 768). IPv6 always has one (RFC 8200 §8.1). */
  checksum?: boolean;
  /** Datagrams are not cut: what is too big for the path is EMSGSIZE. */
  dontFragment?: boolean;
  /** TTL or hop limit; for groups it is 1 where none is given. */
  hopLimit?: number;
  multicastHopLimit?: number;
  trafficClass?: number;
  /** Bytes that wait while the socket is paused; more are dropped. Default 212,992, as Linux's rmem_default. */
  receiveBuffer?: number;
  handler: UdpHandler;
}

export interface UdpSocket {
  readonly family: Family;
  /** The address it is bound to, or null. */
  readonly address: Uint8Array | null;
  readonly port: number;
  /** Where it sends from: {@link address}, or what was chosen when it was connected; null: not known before. */
  readonly localAddress: Uint8Array | null;
  /** Without an address: whether only IPv6 is taken. */
  readonly ipv6Only: boolean;
  /** Bytes that wait while it is paused, with what keeping them costs. */
  readonly receiveQueue: number;
  /** The other end, of a connected one. */
  readonly remoteAddress: Uint8Array | null;
  readonly remotePort: number;
  broadcast: boolean;
  hopLimit: number;
  multicastHopLimit: number;
  trafficClass: number;
  checksum: boolean;
  dontFragment: boolean;
  /**
   * From now on only datagrams of this host and port come, errors are told, and send() needs no address. Throws UdpError
   * EINVAL, ENETUNREACH, EACCES.
   */
  connect(address: Uint8Array, port: number): void;
  disconnect(): void;
  /**
   * Sends `bytes[start, end)`, which are copied at once. False: the device has no room; nothing was sent, onWritable tells when to
   * try again. Throws UdpError EINVAL, EMSGSIZE, ENETUNREACH, EACCES, EDESTADDRREQ, EADDRNOTAVAIL, EBADF.
   *
   * @param address 4 or 16 bytes; a connected socket needs none
   * @param local our address to send from, where the socket is bound to none: to answer a message, its `local`
   */
  send(bytes: Uint8Array, start: number, end: number, address?: Uint8Array, port?: number, local?: number): boolean;
  /** Datagrams wait, and are dropped when there are too many. */
  pause(): void;
  /** What waited is given now. */
  resume(): void;
  /** Takes part in a group. Throws UdpError EINVAL, EADDRINUSE (it does already), ENODEV (nobody keeps groups here). */
  join(group: Uint8Array): void;
  /** Throws UdpError EADDRNOTAVAIL when it takes no part. */
  leave(group: Uint8Array): void;
  /** No callback is made any more. */
  close(): void;
}

export interface UdpUser {
  /** Throws UdpError EADDRINUSE, EADDRNOTAVAIL, EINVAL, ENFILE. */
  open(options: UdpOptions): UdpSocket;
  /** All sockets, for listings. */
  forEach(visit: (socket: UdpSocket) => void): void;
}

/** Who keeps the groups of a family: IGMP, MLD. A group is joined once, however many sockets take part. */
export interface GroupMembership {
  join(group: Uint8Array): void;
  leave(group: Uint8Array): void;
}
