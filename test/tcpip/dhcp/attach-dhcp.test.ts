import assert from 'node:assert/strict';
import { type AttachedDhcp, attachDhcp } from '../../../tcpip/dhcp/attach-dhcp.ts';
import type { DhcpOptions } from '../../../tcpip/dhcp/dhcp-client.ts';
import { Stack } from '../../../tcpip/stack.ts';
import { Udp } from '../../../tcpip/udp/udp.ts';
import { type ReplyShape, reply, requestOf, type SentRequest } from '../../helpers/dhcp-messages.ts';
import { arpFrame, checksum, EVERYBODY, frame, ipv4, OUR_MAC, THEIR_MAC, udp } from '../../helpers/tcpip-packets.ts';
import { MemoryDevice, seconds, seeded } from '../../helpers/tcpip-wire.ts';

const SERVER = [10, 0, 0, 1];
const OURS = Uint8Array.of(10, 0, 0, 5);
const [OFFER, ACK] = [2, 5];

interface Sent {
  to: number[];
  source: string;
  destination: string;
  request: SentRequest;
}

/** A stack without an address, and its DHCP messages. */
class Host {
  now = seconds(1);
  readonly device = new MemoryDevice();
  readonly stack: Stack;
  readonly udp: Udp;
  readonly dhcp: AttachedDhcp;
  probes = 0;
  #sent: Sent[] = [];

  constructor(options: DhcpOptions = {}) {
    const random = seeded(3);
    this.stack = new Stack({ device: this.device, random });
    this.stack.advance(this.now);
    this.udp = new Udp(this.stack, random);
    this.stack.addTransport(17, this.udp);
    this.device.onSent = ({ bytes }) => this.#note(bytes);
    this.dhcp = attachDhcp(this.stack, this.udp, { startDelayMs: 0, ...options });
    this.pass(0);
  }

  #note(bytes: Uint8Array): void {
    if (bytes[12] === 8 && bytes[13] === 6) {
      this.probes++;
      return;
    }
    const packet = bytes.subarray(14);
    if (packet[9] !== 17) return;
    assert.equal(checksum(packet.subarray(0, 20)), 0);
    const datagram = packet.subarray(20);
    assert.deepEqual([...datagram.subarray(0, 4)], [0, 68, 0, 67]);
    assert.equal((datagram[4] << 8) | datagram[5], datagram.length);
    const pseudo = [...packet.subarray(12, 20), 0, 17, datagram[4], datagram[5]];
    assert.equal(checksum([...pseudo, ...datagram]), 0);
    this.#sent.push({
      to: [...bytes.subarray(0, 6)],
      source: packet.subarray(12, 16).join('.'),
      destination: packet.subarray(16, 20).join('.'),
      request: requestOf(datagram.subarray(8)),
    });
  }

  sent(): Sent[] {
    return this.#sent.splice(0);
  }

  pass(time: number): void {
    const until = this.now + time;
    for (;;) {
      while (this.stack.poll(this.now) > 0 || this.stack.deadline <= this.now);
      if (this.stack.deadline > until) break;
      this.now = this.stack.deadline;
    }
    this.now = until;
    this.stack.advance(until);
  }

  /** To everybody, as we ask for it; or to an address. */
  answer({ request }: Sent, shape: ReplyShape, { port = 67, destination = [255, 255, 255, 255] } = {}): void {
    const message = reply({ xid: request.xid, mac: OUR_MAC, ...shape });
    const datagram = udp(message, { from: port, to: 68, source: SERVER, destination });
    const to = destination[0] === 255 ? EVERYBODY : OUR_MAC;
    this.device.give(frame(ipv4(datagram, { source: SERVER, destination }), { to }));
    this.pass(0);
  }

  get hasAddress(): boolean {
    return this.stack.locals.find(4, OURS, 0) !== -1;
  }

  bind(shape: Partial<ReplyShape> = {}): void {
    const [discover] = this.sent();
    this.answer(discover, { type: OFFER, ...shape });
    const [request] = this.sent();
    this.answer(request, { type: ACK, ...shape });
    this.pass(seconds(9));
  }
}

describe('the DHCP client on a stack', () => {
  it('asks from 0.0.0.0, tries the address out by ARP, and takes it with its routes and MTU', () => {
    const host = new Host();
    const [discover] = host.sent();
    assert.deepEqual(discover.to, EVERYBODY);
    assert.equal(`${discover.source} > ${discover.destination}`, '0.0.0.0 > 255.255.255.255');
    host.answer(discover, { type: OFFER });
    const [request] = host.sent();
    host.answer(request, { type: ACK, extra: [[26, [0x05, 0x14]]] });
    assert.ok(!host.hasAddress, 'it is being tried out');
    host.pass(seconds(9));
    assert.ok(host.hasAddress);
    assert.equal(host.probes, 3 + 2, 'three probes, two announcements (RFC 5227)');
    assert.equal(host.stack.destinations.four.linkMtu, 1300);
    const routes = host.stack.routes
      .list(4)
      .map(
        ({ prefix, prefixLength, gateway, origin }) =>
          `${prefix.join('.')}/${prefixLength} ${gateway?.join('.')} ${origin}`,
      );
    assert.deepEqual(routes, ['10.0.0.0/24 undefined connected', '0.0.0.0/0 10.0.0.1 dhcp']);
  });

  it('declines an address that somebody answers for', () => {
    const host = new Host();
    const [discover] = host.sent();
    host.answer(discover, { type: OFFER });
    const [request] = host.sent();
    host.answer(request, { type: ACK });
    host.pass(seconds(2));
    host.device.give(
      arpFrame({ operation: 2, sender: [...OURS], target: [0, 0, 0, 0], targetMac: OUR_MAC, to: OUR_MAC }),
    );
    host.pass(0);
    const [decline] = host.sent();
    assert.equal(decline.request.type, 4);
    assert.ok(!host.hasAddress);
  });

  it('renews by unicast from its address, and takes other routes', () => {
    const host = new Host();
    host.bind();
    const neighbour = host.stack.neighbours.entry(4, Uint8Array.from(SERVER), 0);
    host.stack.neighbours.setPermanent(neighbour, Uint8Array.from(THEIR_MAC), host.now);
    host.pass(seconds(1800));
    const [renewal] = host.sent();
    assert.deepEqual(renewal.to, THEIR_MAC);
    assert.equal(`${renewal.source} > ${renewal.destination}`, '10.0.0.5 > 10.0.0.1');
    host.answer(renewal, { type: ACK, routers: [[10, 0, 0, 9]] }, { destination: [...OURS] });
    assert.equal(host.dhcp.client.state, 'bound');
    assert.deepEqual(
      host.stack.routes
        .list(4)
        .filter(({ origin }) => origin === 'dhcp')
        .map(({ gateway }) => gateway?.join('.')),
      ['10.0.0.9'],
    );
  });

  it('gives everything up at the end of the lease', () => {
    const host = new Host();
    host.bind({ lease: 60, extra: [[26, [0x05, 0x14]]] });
    assert.ok(host.hasAddress);
    host.pass(seconds(60));
    assert.ok(!host.hasAddress);
    assert.deepEqual(host.stack.routes.list(4), []);
    assert.equal(host.stack.destinations.four.linkMtu, 1500);
  });

  it('does not listen to other ports than a server has', () => {
    const host = new Host();
    const [discover] = host.sent();
    host.answer(discover, { type: OFFER }, { port: 6767 });
    assert.equal(host.dhcp.client.state, 'selecting');
  });

  it('closes with or without a word, and frees the port', () => {
    const host = new Host();
    host.bind();
    host.dhcp.close(true);
    host.pass(seconds(5));
    assert.ok(!host.hasAddress);
    assert.equal(host.udp.socketCount, 0);
    const again = attachDhcp(host.stack, host.udp, { startDelayMs: 0 });
    assert.throws(() => attachDhcp(host.stack, host.udp), { code: 'EADDRINUSE' });
    again.close();
  });
});
