/**
 * What the stack asks of IPv4 and IPv6, and what it offers them: so both are rooms of one house.
 *
 *     frames ─► Stack ─► NetworkLayer.input ─► NetworkHost.deliver ─► transport
 *     transport ─► Stack.begin ─(who is next?)─► NetworkLayer.route … the Stack writes the fixed headers itself
 *
 * A layer also is the Ticking of its family, answers and sends its control messages (ICMP, ND), and cuts what is too big.
 */
import type { EthernetLink } from '../link/ethernet.ts';
import type { NeighbourCache } from '../link/neighbour-cache.ts';
import type { Network, Random, Ticking, Time } from '../network.ts';
import type { Family, Packet } from '../packet.ts';
import type { DestinationCache } from './destination-cache.ts';
import type { EchoClient } from './echo-client.ts';
import type { IcmpLimiter } from './icmp-limiter.ts';
import type { LocalTable } from './local-table.ts';
import type { ExpiredFragment, Reassembler } from './reassembler.ts';
import type { RouteTable } from './route-table.ts';

/** Where a packet goes next: kinds of {@link NextHop}. */
export const NO_ROUTE = 0;
/** To the neighbour with the address in {@link NextHop.address}. */
export const HOP_NEIGHBOUR = 1;
/** To everybody, or a group: the MAC address follows from the destination. */
export const HOP_GROUP = 2;
/** To ourselves: never on the wire. */
export const HOP_LOOPBACK = 3;

/** Filled by {@link NetworkLayer.route}. */
export interface NextHop {
  kind: number;
  /** HOP_NEIGHBOUR: its address, 4 or 16 bytes from the start. */
  readonly address: Uint8Array;
  /** What the route or link takes in one piece; 0: the device's MTU. */
  mtu: number;
}

export function newNextHop(): NextHop {
  return { kind: NO_ROUTE, address: new Uint8Array(16), mtu: 0 };
}

/** Multicast groups that we listen to: IGMP and MLD keep them. */
export interface GroupFilter {
  /** Whether packets of the source at `source` for the group at `group` are for us. */
  has(bytes: Uint8Array, group: number, source: number): boolean;
}

export interface NetworkLayer extends Ticking {
  readonly family: Family;
  /** The smallest MTU that a path may have: RFC 8200 §5; for IPv4 what Linux takes for one, 552. */
  readonly minMtu: number;
  /** TTL or hop limit of packets for single hosts, where nobody asks for another one. */
  readonly hopLimit: number;
  /**
   * A packet lies in `bytes[at, end)`, perhaps with padding of the link behind it. `verified` and `gsoSize` are for
   * {@link Packet}; `isGroup`: the frame was for everybody or a group; `onWire` false: from ourselves.
   */
  input(
    bytes: Uint8Array,
    at: number,
    end: number,
    isGroup: boolean,
    onWire: boolean,
    verified: boolean,
    gsoSize: number,
    now: Time,
  ): void;
  /** Where packets for the address at `at` go next. */
  route(bytes: Uint8Array, at: number, hop: NextHop): void;
  /** Our address for packets to the address at `at` (a route is there), or NOT_LOCAL. */
  selectSource(bytes: Uint8Array, at: number): number;
  /**
   * Sends `bytes[at, end)`, which is too big, in pieces of at most `mtu`: a whole IP packet as the stack writes it. Gives
   * it back to the stack by {@link NetworkHost.sendPacket}, piece by piece. What is left when the device has no room is lost.
   */
  fragment(bytes: Uint8Array, at: number, end: number, mtu: number, destination: number): void;
  /**
   * Reads the IP header at `at` of a packet that we sent, of which `bytes[at, end)` is there: fills `quoted` for
   * {@link NetworkHost.deliverError}. False: it is none, has no transport header, or is not from us.
   */
  quote(bytes: Uint8Array, at: number, end: number, quoted: Packet): boolean;
  /** A packet was not whole in time; `first` is null when its first fragment never came: time exceeded. */
  fragmentsExpired(first: ExpiredFragment | null, now: Time): void;
  /** Destination unreachable, port unreachable. */
  portUnreachable(packet: Packet, now: Time): void;
  /** Destination unreachable, protocol unreachable (IPv6: parameter problem, unrecognized next header). */
  protocolUnreachable(packet: Packet, now: Time): void;
}

/** What the stack offers to its layers, and to protocols beside them (ARP, ND, IGMP, MLD). */
export interface NetworkHost {
  readonly network: Network;
  readonly link: EthernetLink;
  readonly neighbours: NeighbourCache;
  readonly locals: LocalTable;
  readonly routes: RouteTable;
  readonly destinations: DestinationCache;
  readonly reassembler: Reassembler;
  /** Takes echo replies, and errors about echo requests, of both families. */
  readonly echoes: EchoClient;
  /** One for all ICMP and ICMPv6 errors. */
  readonly limiter: IcmpLimiter;
  readonly random: Random;
  /** For the layer at work to fill: what is delivered, and what an error quotes. */
  readonly packet: Packet;
  readonly quoted: Packet;
  /** The time of the call under way. */
  readonly now: Time;
  /** The MAC address that the frame at hand came from, in {@link EthernetLink}'s two parts. */
  readonly senderHigh: number;
  readonly senderLow: number;
  /** Hands a packet up. False: nobody speaks its protocol. */
  deliver(packet: Packet, now: Time): boolean;
  /** Hands an error for `quoted` up, and lowers the path MTU where the transport believes it. */
  deliverError(kind: number, quoted: Packet, mtu: number, now: Time): void;
  /** Sends a whole IP packet from other memory to a destination. False: it was lost for want of room or way. */
  sendPacket(destination: number, local: number, bytes: Uint8Array, at: number, end: number): boolean;
  /**
   * Sends a whole IP packet from other memory to a MAC address: answers that need no state. False: the device has no room.
   */
  sendPacketTo(macHigh: number, macLow: number, family: Family, bytes: Uint8Array, at: number, end: number): boolean;
  /** Something else that has deadlines, or less of them: {@link Ticking} of protocols beside the layers. */
  addTicking(ticking: Ticking): void;
}
