/**
 * A received IP packet on its way up, and one on its way down: two objects a stack, filled anew for each packet.
 *
 * Offsets are into `bytes`. Nothing here may be kept beyond the call that got it.
 */

import { fold, pseudoHeaderSumIpv4, pseudoHeaderSumIpv6, type Sum } from '../packet/checksum.ts';

export type Family = 4 | 6;

const WHOLE_SUM = 0xffff;

/** What a local address index of a packet says that was sent to no address of ours. */
export const NOT_LOCAL = -1;

/** What an IP layer hands to a transport: the packet is whole (reassembled), for us, and its IP header is valid. */
export interface Packet {
  bytes: Uint8Array;
  /** The transport's header begins here, and its data ends there. */
  at: number;
  end: number;
  /** Where the IP header begins: what an ICMP error quotes. */
  ipAt: number;
  family: Family;
  /** Where the addresses are, 4 or 16 bytes each. */
  source: number;
  destination: number;
  /** Index of the destination among our addresses ({@link LocalAddresses}), or NOT_LOCAL: broadcast, multicast. */
  local: number;
  protocol: number;
  /** TTL or hop limit. */
  hopLimit: number;
  /** Type of service or traffic class; its two low bits are ECN's (RFC 3168 §5). */
  trafficClass: number;
  /** Whether the transport's checksum was verified, or need not be (it never went over a wire). */
  verified: boolean;
  /** Payload bytes of the segments that a super-frame stands for; 0 for a packet that is one segment. */
  gsoSize: number;
}

/**
 * Whether the checksum over pseudo header and `bytes[at, end)`, which ends where the transport says, is right (RFC 1071; RFC
 * 9293 §3.1, RFC 768, RFC 8200 §8.1).
 */
export function isIntact({ bytes, at, family, source, protocol }: Packet, end: number, sum: Sum): boolean {
  const pseudo =
    family === 4
      ? pseudoHeaderSumIpv4(bytes, source, protocol, end - at)
      : pseudoHeaderSumIpv6(bytes, source, protocol, end - at);
  return fold(sum(bytes, at, end, pseudo)) === WHOLE_SUM;
}

/** Where the transport writes its packet, between {@link Network.begin} and {@link Network.send}. */
export interface Outgoing {
  bytes: Uint8Array;
  /** The transport's header begins here. */
  at: number;
}

export function newPacket(): Packet {
  return {
    bytes: new Uint8Array(0),
    at: 0,
    end: 0,
    ipAt: 0,
    family: 4,
    source: 0,
    destination: 0,
    local: NOT_LOCAL,
    protocol: 0,
    hopLimit: 0,
    trafficClass: 0,
    verified: false,
    gsoSize: 0,
  };
}
