/** The DHCP client on a stack: its messages are UDP datagrams, leases become an address, routes and an MTU. */
import { finishUdp, pseudoHeaderSumIpv4, sum } from '../../packet/checksum.ts';
import { IPPROTO_UDP, UDP_CHECKSUM, UDP_HEADER_LENGTH, UDP_LENGTH } from '../../packet/header-fields.ts';
import { wordAt } from '../ip/address-table.ts';
import { IPV4_DF, IPV4_SOURCE, write16, writeIpv4Header } from '../ip/ipv4-header.ts';
import { MAX_ROUTES, type Route } from '../ip/route-table.ts';
import { BROADCAST_HIGH, BROADCAST_LOW } from '../link/ethernet.ts';
import type { Time } from '../network.ts';
import { NOT_LOCAL } from '../packet.ts';
import type { Stack } from '../stack.ts';
import type { UdpUser } from '../udp/api.ts';
import { DhcpClient, type DhcpHost, type DhcpOptions } from './dhcp-client.ts';
import { DHCP_CLIENT_PORT, DHCP_SERVER_PORT } from './dhcp-message.ts';
import { type Lease, leasedBytes } from './lease.ts';

const IPV4_HEADER = 20;
const TTL = 64;
/** Precedence "internetwork control", as for all that keeps a network going. */
const TYPE_OF_SERVICE = 0xc0;
const EVERYBODY = 0xffff_ffff | 0;
const ORIGIN = 'dhcp';

export interface AttachedDhcp {
  readonly client: DhcpClient;
  /** Stops the client and closes its socket; a lease that is held is given back if `release`. */
  close(release?: boolean): void;
}

/**
 * Starts a DHCP client for the stack: the address, the routes and the MTU of its lease come and go with it. Throws UdpError
 * EADDRINUSE where port 68 is somebody else's, and RangeError for options that cannot be.
 */
export function attachDhcp(stack: Stack, udp: UdpUser, options: DhcpOptions = {}): AttachedDhcp {
  const host = new StackDhcpHost(stack);
  const client = new DhcpClient(host, { mtu: stack.device.mtu, ...options });
  const socket = udp.open({
    family: 4,
    port: DHCP_CLIENT_PORT,
    handler: {
      onMessage: (_socket, { bytes, start, end, port }) => {
        if (port === DHCP_SERVER_PORT) client.input(bytes, start, end, stack.now);
      },
    },
  });
  stack.addTicking(client);
  const { onConflict } = stack.arp;
  const onOurConflict: typeof onConflict = (address, lost, now) => {
    onConflict(address, lost, now);
    if (address.local === host.local && lost) client.conflict(now);
  };
  stack.arp.onConflict = onOurConflict;
  client.start(stack.now);
  stack.onWork();
  return {
    client,
    close: (release = false) => {
      if (release) client.release(stack.now);
      else client.stop(stack.now);
      socket.close();
      if (stack.arp.onConflict === onOurConflict) stack.arp.onConflict = onConflict;
      stack.onWork();
    },
  };
}

class StackDhcpHost implements DhcpHost {
  readonly random: () => number;
  readonly mac: Uint8Array;
  local = NOT_LOCAL;
  readonly #stack: Stack;
  readonly #routes: Route[] = [];
  #hasMtu = false;

  constructor(stack: Stack) {
    this.#stack = stack;
    this.random = stack.random;
    this.mac = stack.device.address;
  }

  broadcast(message: Uint8Array, source: Uint8Array | null): void {
    const packet = datagram(message, source === null ? 0 : wordAt(source, 0), EVERYBODY);
    this.#stack.sendPacketTo(BROADCAST_HIGH, BROADCAST_LOW, 4, packet, 0, packet.length);
  }

  send(message: Uint8Array, source: Uint8Array, server: Uint8Array): void {
    const { destinations } = this.#stack;
    const packet = datagram(message, wordAt(source, 0), wordAt(server, 0));
    const destination = destinations.hold(4, server, 0);
    this.#stack.sendPacket(destination, this.local, packet, 0, packet.length);
    destinations.letGo(destination);
  }

  probe(address: Uint8Array, now: Time, done: (free: boolean, now: Time) => void): () => void {
    const { arp } = this.#stack;
    try {
      return arp.acquire(address, now, (free) => done(free, this.#stack.now));
    } catch (error) {
      // It is being tried out, or announced, already: by somebody of our own, so it is taken.
      if (!(error instanceof RangeError)) throw error;
      let isWanted = true;
      queueMicrotask(() => {
        if (isWanted) done(false, this.#stack.now);
      });
      return () => {
        isWanted = false;
      };
    }
  }

  bound(lease: Lease): void {
    const stack = this.#stack;
    const address = leasedBytes(lease.address, 'address');
    const known = this.local === NOT_LOCAL ? undefined : stack.locals.get(this.local);
    if (known === undefined || known.prefixLength !== lease.prefixLength) {
      this.local = stack.addAddress(address, lease.prefixLength);
    }
    this.#dropRoutes();
    for (const { prefix, prefixLength, gateway } of lease.routes) {
      if (stack.routes.list(4).length >= MAX_ROUTES) break;
      const via = leasedBytes(gateway, 'gateway');
      this.#routes.push(
        stack.routes.add({
          prefix: leasedBytes(prefix, 'prefix'),
          prefixLength,
          gateway: wordAt(via, 0) === 0 ? undefined : via,
          source: address,
          origin: ORIGIN,
        }),
      );
    }
    if (lease.mtu !== undefined) {
      stack.destinations.setLinkMtu(4, Math.min(lease.mtu, stack.device.mtu));
      this.#hasMtu = true;
    }
  }

  lost(): void {
    const stack = this.#stack;
    this.#dropRoutes();
    stack.removeAddress(this.local);
    this.local = NOT_LOCAL;
    if (this.#hasMtu) stack.destinations.setLinkMtu(4, stack.device.mtu);
    this.#hasMtu = false;
  }

  #dropRoutes(): void {
    for (const route of this.#routes.splice(0)) this.#stack.routes.remove(route);
  }
}

/** A UDP datagram in an IPv4 packet, from a client to a server. */
function datagram(message: Uint8Array, source: number, destination: number): Uint8Array {
  const length = UDP_HEADER_LENGTH + message.length;
  const packet = new Uint8Array(IPV4_HEADER + length);
  writeIpv4Header(packet, 0, TYPE_OF_SERVICE, packet.length, 0, IPV4_DF, TTL, IPPROTO_UDP, source, destination);
  write16(packet, IPV4_HEADER, DHCP_CLIENT_PORT);
  write16(packet, IPV4_HEADER + 2, DHCP_SERVER_PORT);
  write16(packet, IPV4_HEADER + UDP_LENGTH, length);
  packet.set(message, IPV4_HEADER + UDP_HEADER_LENGTH);
  const pseudo = pseudoHeaderSumIpv4(packet, IPV4_SOURCE, IPPROTO_UDP, length);
  write16(packet, IPV4_HEADER + UDP_CHECKSUM, finishUdp(sum(packet, IPV4_HEADER, packet.length, pseudo)));
  return packet;
}
