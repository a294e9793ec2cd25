/** Attacks on a whole stack: established connections go on working, honest clients get in, and memory stays bounded. */
import assert from 'node:assert/strict';
import { IPPROTO_TCP } from '../../packet/header-fields.ts';
import type { Connection, TcpHandler } from '../../tcpip/tcp/api.ts';
import { SegmentWriter, TCP_ACK, TCP_FIN, TCP_PSH, TCP_RST, TCP_SYN } from '../../tcpip/tcp/segment.ts';
import { Tcp } from '../../tcpip/tcp/tcp.ts';
import { checksum, frame, ipv4 } from '../helpers/tcpip-packets.ts';
import { seconds, seeded, Wire } from '../helpers/tcpip-wire.ts';

const PORT = 80;
const BACKLOG = 256;
/** Where forged frames come from: what goes back there is lost. */
const FORGER = [2, 0, 0, 0, 0, 0x66];
const SERVER_MAC = [2, 0, 0, 0, 0, 2];
const CLIENT = [10, 0, 0, 1];
const SERVER = [10, 0, 0, 2];
/** VIRTIO_NET_HDR_F_DATA_VALID: so that the forger need not compute checksums. */
const VERIFIED = { flags: 2 };
const BATCH = 64;
const MIB = 2 ** 20;

describe('a stack under attack', function () {
  this.timeout(60_000);
  let wire: Wire;
  let client: Tcp;
  let server: Tcp;
  let random: () => number;
  /** The established connection, seen from both sides. */
  let ours: Connection;
  let theirs: Connection;
  let answered: number;
  let accepted: number;
  let ends: string[];

  beforeEach(() => {
    wire = new Wire({ passes: ({ bytes }) => bytes[5] !== FORGER[5] });
    random = seeded(99);
    const clock = (): number => wire.now;
    const limits = { maxConnections: 4096, maxTimeWait: 4096 };
    client = new Tcp(wire.a, seeded(3), { clock, ...limits });
    server = new Tcp(wire.b, seeded(4), { clock, ...limits });
    wire.a.addTransport(IPPROTO_TCP, client);
    wire.b.addTransport(IPPROTO_TCP, server);
    wire.b.routes.add({
      prefix: new Uint8Array(4),
      prefixLength: 0,
      gateway: Uint8Array.from(CLIENT),
    });
    answered = 0;
    accepted = 0;
    ends = [];
    server.listen({
      port: PORT,
      backlog: BACKLOG,
      onAccept: (c) => {
        accepted++;
        theirs = c;
        return echo;
      },
    });
    ours = connect();
    wire.run(wire.now + seconds(1));
    assert.equal(accepted, 1);
  });

  const nothing = (): void => {};
  const echo: TcpHandler = {
    onConnected: nothing,
    onWritable: nothing,
    onData: (c, bytes, start, end) => {
      server.write(c, bytes.slice(start, end));
    },
    onEnd: nothing,
    onClosed: (_c, error) => ends.push(`server: ${error?.code}`),
  };
  const asking: TcpHandler = {
    ...echo,
    onData: (_c, _bytes, start, end) => {
      answered += end - start;
    },
    onClosed: (_c, error) => ends.push(`client: ${error?.code}`),
  };

  function connect(): Connection {
    return client.connect({ address: Uint8Array.from(SERVER), port: PORT, handler: asking });
  }

  /** A message goes to the server and back. */
  function assertWorks(c = ours): void {
    const before = answered;
    client.write(c, new Uint8Array(100));
    wire.run(wire.now + seconds(2));
    assert.equal(answered - before, 100);
    assert.deepEqual(ends, []);
  }

  /** A frame of the forger's, whose fields {@link forge} changes. */
  const writer = new SegmentWriter();
  const segment = new Uint8Array(20);
  const forged = frame(ipv4(segment, { source: CLIENT, destination: SERVER, protocol: IPPROTO_TCP }), {
    to: SERVER_MAC,
    from: FORGER,
  });
  const IP = 14;

  function forge(source: number, port: number, seq: number, ack: number, flags: number, to = PORT): void {
    forged[IP + 12] = source >>> 24;
    forged[IP + 13] = source >>> 16;
    forged[IP + 14] = source >>> 8;
    forged[IP + 15] = source;
    forged[IP + 10] = 0;
    forged[IP + 11] = 0;
    const sum = checksum(forged.subarray(IP, IP + 20));
    forged[IP + 10] = sum >> 8;
    forged[IP + 11] = sum;
    writer.begin(forged, IP + 20, port, to, seq >>> 0, ack >>> 0, flags, 1000);
    writer.end();
    wire.deviceB.give(forged, VERIFIED);
  }

  function flood(count: number, one: (i: number) => void): void {
    for (let i = 0; i < count; ) {
      for (let n = 0; n < BATCH && i < count; n++) one(i++);
      wire.now += BATCH;
      wire.b.poll(wire.now);
    }
  }

  /** Addresses of the internet that may be ours to answer: 1.0.0.0 to 9.255.255.255. */
  const address = (): number => (((1 + (random() % 9)) << 24) | (random() & 0xffffff)) >>> 0;
  const port = (): number => 1024 + (random() % 60_000);

  function heapMib(): number {
    const { heapUsed, arrayBuffers } = process.memoryUsage();
    return (heapUsed + arrayBuffers) / MIB;
  }

  it('survives a million forged SYNs: connections go on, and clients get in by cookies', () => {
    const before = heapMib();
    flood(1_000_000, () => forge(address(), port(), random(), 0, TCP_SYN));
    assert.ok(server.connectionCount <= BACKLOG + 1, `${server.connectionCount} connections`);
    assert.ok(server.counters.syncookiesSent > 990_000);
    assert.ok(wire.b.destinations.count < 10_000, `${wire.b.destinations.count} destinations`);
    assert.ok(wire.b.neighbours.count <= 4, `${wire.b.neighbours.count} neighbours`);
    assert.ok(heapMib() - before < 200, `${heapMib() - before} MiB more`);
    assertWorks();
    const late = connect();
    wire.run(wire.now + seconds(1));
    assert.equal(accepted, 2);
    assert.ok(server.counters.syncookiesRecv >= 1);
    assertWorks(late);
    wire.run(wire.now + seconds(100));
    assert.equal(server.connectionCount, 2);
  });

  it('survives a flood of forged ACKs and FINs', () => {
    flood(200_000, (i) => forge(address(), port(), random(), random(), i % 2 === 0 ? TCP_ACK : TCP_FIN | TCP_ACK));
    assert.equal(server.connectionCount, 1);
    assert.equal(accepted, 1);
    assertWorks();
  });

  it('is not reset by guesses, though the forger knows addresses and ports (RFC 5961)', () => {
    const { port: clientPort } = client.localEndpoint(ours);
    const from = 0x0a00_0001;
    flood(200_000, () => forge(from, clientPort, random(), random(), random() % 2 === 0 ? TCP_RST : TCP_RST | TCP_ACK));
    flood(50_000, () => forge(from, clientPort, random(), 0, TCP_SYN));
    assert.ok(server.counters.challengeAcks < 20_000);
    assertWorks();
  });

  it('is not fed data by guesses', () => {
    const { port: clientPort } = client.localEndpoint(ours);
    flood(200_000, () => forge(0x0a00_0001, clientPort, random(), random(), TCP_ACK | TCP_PSH));
    assertWorks();
  });

  it('keeps no more of tiny segments with holes between than two windows', () => {
    const { port: clientPort } = client.localEndpoint(ours);
    // The forger has seen the numbers: it is the other side itself.
    let next = 0;
    let acknowledged = 0;
    let stamp = 0;
    wire.watch = ({ bytes }, fromA) => {
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      if (fromA && bytes[IP + 9] === IPPROTO_TCP && bytes.length > IP + 60) {
        next = view.getUint32(IP + 24) + bytes.length - IP - 52;
        acknowledged = view.getUint32(IP + 28);
        stamp = view.getUint32(IP + 44);
      }
    };
    assertWorks();
    wire.watch = () => {};
    const stamped = new Uint8Array(33);
    for (let i = 0; i < 60_000; i++) {
      writer.begin(stamped, 0, clientPort, PORT, (next + 2 + 2 * i) >>> 0, (acknowledged + 100) >>> 0, TCP_ACK, 1000);
      writer.timestamps(stamp, 0);
      writer.end();
      const bytes = frame(ipv4(stamped, { source: CLIENT, destination: SERVER, protocol: IPPROTO_TCP }), {
        to: SERVER_MAC,
        from: FORGER,
      });
      wire.deviceB.give(bytes, VERIFIED);
      if (wire.deviceB.waiting >= BATCH) wire.b.poll(wire.now);
    }
    wire.b.poll(wire.now);
    const { receiveMemory } = server;
    assert.ok(receiveMemory > 200_000 && receiveMemory < MIB, `${receiveMemory} bytes`);
  });

  it('survives fragments that are tiny, overlap, and never become whole', () => {
    const payload = new Uint8Array(8);
    for (let i = 0; i < 50_000; i++) {
      const bytes = frame(
        ipv4(payload, {
          source: [1 + (random() % 9), random() & 0xff, random() & 0xff, random() & 0xff],
          destination: SERVER,
          protocol: IPPROTO_TCP,
          id: random() & 0xffff,
          fragment: 0x2000 | (random() % 100),
        }),
        { to: SERVER_MAC, from: FORGER },
      );
      wire.deviceB.give(bytes);
      if (wire.deviceB.waiting >= BATCH) wire.b.poll(wire.now);
    }
    assert.ok(wire.b.reassembler.memory < 8 * MIB, `${wire.b.reassembler.memory} bytes`);
    assertWorks();
    wire.run(wire.now + seconds(100));
    assert.equal(wire.b.reassembler.count, 0);
  });

  it('keeps connections whose windows stay closed, within their buffers', () => {
    client.pause(ours);
    const slow: TcpHandler = { ...asking };
    const open: Connection[] = [];
    for (let i = 0; i < 200; i++) {
      open.push(client.connect({ address: Uint8Array.from(SERVER), port: PORT, handler: slow, receiveBuffer: 1000 }));
    }
    wire.run(wire.now + seconds(1));
    assert.equal(accepted, 201);
    for (const c of open) {
      client.pause(c);
      client.write(c, new Uint8Array(20_000));
    }
    wire.run(wire.now + seconds(30));
    assert.equal(server.connectionCount, 201);
    client.resume(ours);
    assertWorks();
    for (const c of open) client.abort(c);
    wire.run(wire.now + seconds(10));
    assert.equal(server.connectionCount, 1);
    assert.equal(server.receiveMemory, 0);
    assert.ok(theirs >= 0);
  });
});
