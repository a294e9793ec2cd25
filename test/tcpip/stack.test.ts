import assert from 'node:assert/strict';
import { RECEIVE_CHECKSUM, TRANSMIT_CHECKSUM, TRANSMIT_TSO4, TRANSMIT_TSO6 } from '../../tcpip/frame-device.ts';
import type { EchoError, EchoReply } from '../../tcpip/ip/echo-client.ts';
import { Ipv6 } from '../../tcpip/ipv6/ipv6.ts';
import {
  BEGUN,
  BUSY,
  ERROR_UNREACHABLE_HOST,
  NEVER,
  type Time,
  type Transport,
  UNREACHABLE,
} from '../../tcpip/network.ts';
import { NOT_LOCAL, type Packet } from '../../tcpip/packet.ts';
import { Stack, type StackOptions } from '../../tcpip/stack.ts';
import {
  arpFrame,
  bytesOf,
  checksum,
  EVERYBODY,
  frame,
  icmp,
  ipv4,
  OUR_MAC,
  OURS,
  THEIR_MAC,
  THEIRS,
  udp,
} from '../helpers/tcpip-packets.ts';
import { MemoryDevice, type MemoryDeviceOptions, seconds, seeded, Wire } from '../helpers/tcpip-wire.ts';

const TCP = 6;
const UDP = 17;
const NOTED = 200;
const TCP_CHECKSUM = 16;
const UDP_CHECKSUM = 6;
const DF = 0x40;

describe('the stack', () => {
  let device: MemoryDevice;
  let stack: Stack;
  let now: Time;
  let local: number;
  let them: number;
  let got: { data: Uint8Array; packet: Packet }[];
  let errors: [number, number][];
  let writable: number;
  let transport: Transport;

  function make(options: MemoryDeviceOptions = {}, more: Partial<StackOptions> = {}): void {
    device = new MemoryDevice(options);
    stack = new Stack({ device, random: seeded(5), ...more });
    now = seconds(1);
    stack.advance(now);
    local = stack.locals.add(Uint8Array.from(OURS), 24);
    them = stack.destinations.hold(4, Uint8Array.from(THEIRS), 0);
    got = [];
    errors = [];
    writable = 0;
    transport = {
      input: (packet) => got.push({ data: packet.bytes.slice(packet.at, packet.end), packet: { ...packet } }),
      error: (kind, quoted) => {
        errors.push([kind, quoted.protocol]);
        return true;
      },
      writable: () => writable++,
    };
    for (const protocol of [TCP, UDP, NOTED]) stack.addTransport(protocol, transport);
    stack.poll(now);
    device.sent = [];
  }

  /** The neighbour has told its MAC address. */
  const meet = (): void => {
    stack.neighbours.setPermanent(
      stack.neighbours.entry(4, Uint8Array.from(THEIRS), 0),
      Uint8Array.from(THEIR_MAC),
      now,
    );
  };

  /** A transport's packet of `data`, with a checksum field at `field` if there is one. */
  function send(
    data: Uint8Array,
    protocol = NOTED,
    field = -1,
    rest: { to?: number; tos?: number; ttl?: number } = {},
  ): number {
    const { to = them, tos = 0, ttl } = rest;
    const begun = stack.begin(local, to, protocol, tos, data.length, ttl);
    if (begun !== BEGUN) return begun;
    stack.outgoing.bytes.set(data, stack.outgoing.at);
    stack.send(data.length, field);
    return begun;
  }

  /** Whether a UDP or TCP checksum over the pseudo header is right. */
  const isTransportRight = (packet: Uint8Array): boolean => {
    const data = packet.slice(20);
    return checksum([...packet.slice(12, 20), 0, packet[9]!, data.length >> 8, data.length & 0xff, ...data]) === 0;
  };

  beforeEach(() => make());

  describe('sends packets', () => {
    it('with the header that is asked for', () => {
      meet();
      assert.equal(send(bytesOf(11), NOTED, -1, { tos: 0xba, ttl: 9 }), BEGUN);
      const expected = ipv4(bytesOf(11), {
        source: OURS,
        destination: THEIRS,
        protocol: NOTED,
        tos: 0xba,
        ttl: 9,
        fragment: DF << 8,
      });
      assert.deepEqual(device.sent[0]!.bytes, frame(expected, { to: THEIR_MAC, from: OUR_MAC }));
      send(bytesOf(11));
      assert.equal(device.sent[1]!.bytes[14 + 8], 64);
    });

    it('shorter than they were begun', () => {
      meet();
      stack.begin(local, them, NOTED, 0, 100);
      stack.outgoing.bytes.set(bytesOf(7), stack.outgoing.at);
      stack.send(7, -1);
      const { bytes } = device.sent[0]!;
      assert.deepEqual(
        bytes.slice(14),
        ipv4(bytesOf(7), { source: OURS, destination: THEIRS, protocol: NOTED, fragment: DF << 8 }),
      );
    });

    it('with a checksum of its own where the device makes none', () => {
      meet();
      for (const [protocol, field] of [
        [TCP, TCP_CHECKSUM],
        [UDP, UDP_CHECKSUM],
      ] as const) {
        for (const length of [20, 21, 1000, 1479]) {
          send(bytesOf(length, length), protocol, field);
          const { bytes, flags } = device.sent.pop()!;
          assert.equal(flags, 0);
          assert.ok(isTransportRight(bytes.slice(14)));
        }
      }
    });

    it('with what the device needs to make it', () => {
      make({ offloads: TRANSMIT_CHECKSUM });
      meet();
      send(bytesOf(21, 3), UDP, UDP_CHECKSUM);
      const [sent] = device.sent;
      assert.deepEqual([sent!.flags, sent!.csumStart, sent!.csumOffset], [1, 34, UDP_CHECKSUM]);
      const pseudo = [...OURS, ...THEIRS, 0, UDP, 0, 21];
      assert.equal(sent!.bytes[40]! * 256 + sent!.bytes[41]!, 0xffff - checksum(pseudo));
    });

    it('of a checksum of 0 as 0xffff for UDP (RFC 768)', () => {
      meet();
      const data = new Uint8Array(10);
      // The rest of the sum goes into the data, so that all words together are 0xffff.
      const rest = checksum([...OURS, ...THEIRS, 0, UDP, 0, 10]);
      data.set([rest >> 8, rest & 0xff], 8);
      send(data, UDP, UDP_CHECKSUM);
      assert.deepEqual(Array.from(device.sent[0]!.bytes.slice(40, 42)), [0xff, 0xff]);
    });

    it('that are super-frames, where the device cuts them', () => {
      make({ offloads: TRANSMIT_CHECKSUM | TRANSMIT_TSO4 });
      meet();
      assert.equal(stack.canSegment(4), true);
      assert.equal(stack.canSegment(6), false);
      const length = 32 + 20_000;
      assert.equal(stack.begin(local, them, TCP, 2, length), BEGUN);
      stack.outgoing.bytes.set(bytesOf(length), stack.outgoing.at);
      stack.send(length, TCP_CHECKSUM, 32, 1448, true);
      const [sent] = device.sent;
      assert.equal(sent!.bytes.length, 14 + 20 + length);
      assert.deepEqual(
        [sent!.flags, sent!.gsoType, sent!.hdrLen, sent!.gsoSize, sent!.csumStart, sent!.csumOffset],
        [1, 0x81, 14 + 20 + 32, 1448, 34, 16],
      );
      assert.equal(checksum(sent!.bytes.slice(14, 34)), 0);
    });

    it('on a VLAN, with offsets behind the tag', () => {
      make({ offloads: TRANSMIT_CHECKSUM | TRANSMIT_TSO4 }, { vlan: 9 });
      meet();
      send(bytesOf(21), UDP, UDP_CHECKSUM);
      assert.deepEqual(Array.from(device.sent[0]!.bytes.slice(12, 19)), [0x81, 0, 0, 9, 8, 0, 0x45]);
      assert.equal(device.sent[0]!.csumStart, 38);
      device.give(frame(ipv4([1], { protocol: NOTED }), { vid: 9 }));
      device.give(frame(ipv4([2], { protocol: NOTED })));
      stack.poll(now);
      assert.deepEqual(
        got.map(({ data }) => Array.from(data)),
        [[1]],
      );
    });

    it('to everybody and to groups, which need no neighbour (RFC 1112 §6.4)', () => {
      const cases: [number[], number[], number][] = [
        [[255, 255, 255, 255], EVERYBODY, 64],
        [[10, 0, 0, 255], EVERYBODY, 64],
        [[224, 0, 0, 251], [1, 0, 0x5e, 0, 0, 251], 1],
        [[239, 200, 3, 4], [1, 0, 0x5e, 0x48, 3, 4], 1],
      ];
      for (const [address, mac, ttl] of cases) {
        const to = stack.destinations.hold(4, Uint8Array.from(address), 0);
        assert.equal(send(bytesOf(4), NOTED, -1, { to }), BEGUN);
        const { bytes } = device.sent.pop()!;
        assert.deepEqual(Array.from(bytes.slice(0, 6)), mac);
        assert.deepEqual(Array.from(bytes.slice(30, 34)), address);
        assert.equal(bytes[22], ttl);
      }
      assert.equal(stack.neighbours.count, 0);
    });

    it('in pieces where they are too big, with all checksums right', () => {
      make({ offloads: TRANSMIT_CHECKSUM, mtu: 600 });
      meet();
      const data = bytesOf(2001);
      send(data, UDP, UDP_CHECKSUM);
      const pieces = device.sent.map(({ bytes }) => bytes.slice(14));
      assert.equal(pieces.length, 4);
      const ids = new Set(pieces.map((piece) => piece[4]! * 256 + piece[5]!));
      assert.equal(ids.size, 1);
      let offset = 0;
      const collected: number[] = [];
      for (const [i, piece] of pieces.entries()) {
        assert.ok(piece.length <= 600);
        assert.equal(checksum(piece.slice(0, 20)), 0);
        assert.equal(piece[6]! * 256 + piece[7]!, offset / 8 + (i < 3 ? 0x2000 : 0));
        offset += piece.length - 20;
        collected.push(...piece.slice(20));
      }
      const whole = ipv4(collected, { source: OURS, destination: THEIRS, protocol: UDP });
      assert.equal(collected.length, data.length);
      assert.ok(isTransportRight(whole));
      assert.deepEqual(stack.ipv4.counters.fragCreates, 4);
      send(data, UDP, UDP_CHECKSUM);
      const next = device.sent[4]!.bytes;
      assert.notEqual(next[18]! * 256 + next[19]!, [...ids][0]);
    });

    it('by a gateway', () => {
      const gateway = Uint8Array.of(10, 0, 0, 254);
      const far = stack.destinations.hold(4, Uint8Array.of(192, 0, 2, 9), 0);
      assert.equal(send(bytesOf(4), NOTED, -1, { to: far }), UNREACHABLE);
      assert.equal(stack.hasRoute(far), false);
      assert.equal(stack.sourceFor(far), NOT_LOCAL);
      const route = stack.routes.add({ prefix: new Uint8Array(4), prefixLength: 0, gateway, mtu: 1400 });
      stack.neighbours.setPermanent(stack.neighbours.entry(4, gateway, 0), Uint8Array.of(2, 0, 0, 0, 0, 0xfe), now);
      assert.equal(send(bytesOf(4), NOTED, -1, { to: far }), BEGUN);
      assert.deepEqual(Array.from(device.sent[0]!.bytes.slice(0, 6)), [2, 0, 0, 0, 0, 0xfe]);
      assert.ok(stack.hasRoute(far));
      assert.equal(stack.sourceFor(far), local);
      assert.equal(stack.destinations.pathMtu(far), 1400);
      // Another one, and the next packet takes it.
      stack.routes.add({ prefix: Uint8Array.of(192, 0, 2, 0), prefixLength: 24, gateway: Uint8Array.from(THEIRS) });
      meet();
      send(bytesOf(4), NOTED, -1, { to: far });
      assert.deepEqual(Array.from(device.sent[1]!.bytes.slice(0, 6)), THEIR_MAC);
      stack.routes.remove(route);
      assert.equal(send(bytesOf(4), NOTED, -1, { to: far }), BEGUN);
    });

    it('from addresses of ours alone', () => {
      meet();
      stack.removeAddress(local);
      assert.equal(send(bytesOf(4)), UNREACHABLE);
      assert.equal(stack.begin(NOT_LOCAL, them, NOTED, 0, 4), UNREACHABLE);
      const loopback = stack.locals.find(4, Uint8Array.of(127, 0, 0, 1), 0);
      local = stack.locals.add(Uint8Array.from(OURS), 24);
      assert.equal(stack.begin(loopback, them, NOTED, 0, 4), UNREACHABLE, '127/8 is never on the wire');
    });

    it('not to nobody, reserved addresses, nor longer than packets are', () => {
      for (const address of [
        [0, 0, 0, 0],
        [240, 0, 0, 1],
      ]) {
        const to = stack.destinations.hold(4, Uint8Array.from(address), 0);
        assert.equal(send(bytesOf(4), NOTED, -1, { to }), UNREACHABLE);
      }
      assert.throws(() => stack.begin(local, them, NOTED, 0, 65_516), /65536 bytes/);
    });
  });

  describe('waits for a neighbour', () => {
    it('and sends then what waited, as it was', () => {
      make({ offloads: TRANSMIT_CHECKSUM | TRANSMIT_TSO4 });
      send(bytesOf(21, 1), UDP, UDP_CHECKSUM);
      stack.begin(local, them, TCP, 0, 9000);
      stack.outgoing.bytes.set(bytesOf(9000), stack.outgoing.at);
      stack.send(9000, TCP_CHECKSUM, 20, 1460);
      send(bytesOf(4000, 2), UDP, UDP_CHECKSUM);
      assert.equal(device.sent.length, 0);
      stack.poll(now);
      assert.equal(device.sent.length, 1, 'the question');
      device.sent = [];
      device.give(arpFrame({ operation: 2, targetMac: OUR_MAC, to: OUR_MAC }));
      stack.poll(now);
      const waited = device.sent.splice(0);
      assert.equal(waited.length, 2 + 3);
      assert.deepEqual([waited[0]!.flags, waited[0]!.csumStart], [1, 34]);
      assert.deepEqual([waited[1]!.gsoType, waited[1]!.gsoSize, waited[1]!.hdrLen], [1, 1460, 54]);
      assert.ok(waited.slice(2).every(({ flags }) => flags === 0));
      // Once more, now that the neighbour is known: byte by byte the same, but for the fragments' identification.
      send(bytesOf(21, 1), UDP, UDP_CHECKSUM);
      assert.deepEqual(device.sent[0], waited[0]);
    });

    it('and tells the transport when it does not answer', () => {
      send(bytesOf(21), UDP, UDP_CHECKSUM);
      send(bytesOf(21), TCP, TCP_CHECKSUM);
      while (stack.deadline !== NEVER && now < seconds(100)) {
        now = Math.max(now, stack.deadline);
        stack.poll(now);
      }
      assert.deepEqual(errors, [
        [ERROR_UNREACHABLE_HOST, UDP],
        [ERROR_UNREACHABLE_HOST, TCP],
      ]);
      assert.equal(now, seconds(1) + seconds(3));
    });
  });

  describe('when the device is full', () => {
    it('says so, and tells when there is room', () => {
      make({ capacity: 2 });
      meet();
      assert.equal(send(bytesOf(4)), BEGUN);
      assert.equal(send(bytesOf(4)), BEGUN);
      assert.equal(send(bytesOf(4)), BUSY);
      stack.poll(now);
      assert.equal(writable, 0);
      device.room = 5;
      stack.poll(now);
      assert.equal(writable, 1);
      assert.equal(send(bytesOf(4)), BEGUN);
      stack.poll(now);
      assert.equal(writable, 1);
    });

    it('loses answers, questions and what waited, and counts it', () => {
      make({ capacity: 0 });
      device.give(frame(ipv4(icmp(8, 0, [0, 0, 0, 0]), { protocol: 1 })));
      device.give(arpFrame());
      send(bytesOf(4));
      stack.poll(now);
      const other = stack.destinations.hold(4, Uint8Array.of(10, 0, 0, 3), 0);
      send(bytesOf(4), NOTED, -1, { to: other });
      device.give(arpFrame({ operation: 2, sender: [10, 0, 0, 3], targetMac: OUR_MAC, to: OUR_MAC }));
      stack.poll(now);
      assert.equal(device.sent.length, 0);
      assert.equal(stack.counters.lateDrops, 2);
    });
  });

  describe('talks to itself', () => {
    it('by its own address and 127/8, and never on the wire', () => {
      const loopback = stack.locals.find(4, Uint8Array.of(127, 0, 0, 1), 0);
      for (const [address, from] of [
        [OURS, local],
        [[127, 0, 0, 1], loopback],
      ] as const) {
        const to = stack.destinations.hold(4, Uint8Array.from(address), 0);
        assert.equal(stack.sourceFor(to), from);
        assert.equal(stack.begin(from, to, NOTED, 0, 5), BEGUN);
        stack.outgoing.bytes.set(bytesOf(5), stack.outgoing.at);
        stack.send(5, -1);
        assert.equal(got.length, 0, 'not at once');
        assert.ok(stack.deadline <= now);
        assert.equal(stack.poll(now), 1);
        const [{ data, packet }] = got.splice(0) as [{ data: Uint8Array; packet: Packet }];
        assert.deepEqual(data, bytesOf(5));
        assert.deepEqual([packet.local, packet.verified], [from, true]);
      }
      assert.equal(device.sent.length, 0);
    });

    it('and answers itself', () => {
      let answer: EchoReply | null = null;
      stack.ping(Uint8Array.of(127, 0, 0, 1), { size: 10_000 }, (_error, reply) => {
        answer = reply;
      });
      stack.poll(now);
      now += 5;
      stack.poll(now);
      stack.poll(now);
      assert.equal(answer!.size, 10_000);
      assert.equal(device.sent.length, 0);
    });

    it('with a bound', () => {
      const to = stack.destinations.hold(4, Uint8Array.from(OURS), 0);
      for (let i = 0; i < 1000; i++) send(bytesOf(10_000), NOTED, -1, { to });
      assert.ok(stack.counters.loopbackDrops > 500);
      const count = stack.poll(now);
      assert.equal(count + stack.counters.loopbackDrops, 1000);
      assert.equal(stack.deadline, NEVER);
    });
  });

  describe('receives', () => {
    it('batches, and lets the transport settle once for each', () => {
      let settled = 0;
      transport.settle = () => settled++;
      for (let i = 0; i < 100; i++) device.give(frame(ipv4([i], { protocol: NOTED })));
      assert.equal(stack.poll(now), 64);
      assert.deepEqual([got.length, settled], [64, 1]);
      assert.equal(stack.poll(now), 36);
      assert.equal(stack.poll(now), 0);
      assert.deepEqual([got.length, settled], [100, 3]);
    });

    describe('segments that follow each other', () => {
      const MSS = 100;
      /** A plain ACK with data over IPv4, its checksum right. */
      const segment = (seq: number, source = THEIRS, port = 80): Uint8Array => {
        const data = bytesOf(MSS, seq);
        const header = [0x10, 0, 0, port, 0, 0, seq >> 8, seq & 0xff, 0, 0, 0, 7, 0x50, 0x10, 1, 0, 0, 0, 0, 0];
        const pseudo = [...source, ...OURS, 0, TCP, 0, header.length + MSS];
        const sum = checksum([...pseudo, ...header, ...data]);
        header.splice(TCP_CHECKSUM, 2, sum >> 8, sum & 0xff);
        return ipv4([...header, ...data], { protocol: TCP, source });
      };
      const numbersOf = (data: Uint8Array): number => data[6]! * 256 + data[7]!;

      it('as one, and those of others for themselves (GRO)', () => {
        const other = segment(500, [10, 0, 0, 3], 81);
        for (const packet of [segment(0), other, segment(MSS), ipv4([1], { protocol: NOTED }), segment(2 * MSS)]) {
          device.give(frame(packet));
        }
        stack.poll(now);
        const merged = got.find(({ data, packet }) => packet.protocol === TCP && numbersOf(data) === 0)!;
        assert.deepEqual(
          Array.from(merged.data.slice(20)),
          [0, MSS, 2 * MSS].flatMap((seq) => Array.from(bytesOf(MSS, seq))),
        );
        assert.deepEqual([merged.packet.gsoSize, merged.packet.verified], [MSS, true]);
        const single = got.find(({ data, packet }) => packet.protocol === TCP && numbersOf(data) === 500)!;
        assert.deepEqual([single.data.length, single.packet.gsoSize], [20 + MSS, 0]);
        assert.equal(got.length, 3);
      });

      it('but not a wrong one, nor one in fragments', () => {
        const wrong = segment(MSS);
        wrong[wrong.length - 1]! ^= 1;
        const [first, last] = [segment(2 * MSS), segment(3 * MSS)];
        const pieces = [
          ipv4(last.slice(20, 68), { protocol: TCP, id: 9, fragment: 0x2000 }),
          ipv4(last.slice(68), { protocol: TCP, id: 9, fragment: 6 }),
        ];
        for (const packet of [segment(0), wrong, first, ...pieces]) device.give(frame(packet));
        stack.poll(now);
        const seen = got.map(({ data, packet }) => [numbersOf(data), data.length, packet.gsoSize, packet.verified]);
        assert.deepEqual(
          seen.sort(([a], [b]) => Number(a) - Number(b)),
          [0, MSS, 2 * MSS, 3 * MSS].map((seq) => [seq, 20 + MSS, 0, seq === 0 || seq === 2 * MSS]),
        );
      });

      it('and answers where they came from, not where the last frame did', () => {
        transport.input = (packet) => {
          assert.equal(stack.beginReply(packet, TCP, 0, 20), BEGUN);
          stack.send(20, TCP_CHECKSUM);
        };
        const far = { from: [2, 0, 0, 0, 0, 0xfe] };
        for (const seq of [0, MSS]) device.give(frame(segment(seq, [198, 51, 100, 7]), far));
        device.give(frame(ipv4(icmp(0, 0, [0, 0, 0, 0]), { protocol: 1 })));
        stack.poll(now);
        const to = device.sent.map(({ bytes }) => Array.from(bytes.slice(0, 6)));
        assert.deepEqual(to, [far.from]);
      });
    });

    it('nothing of protocols of the link that it does not know', () => {
      device.give(frame([1, 2, 3], { type: 0x88cc }));
      device.give(frame([1, 2, 3], { type: 0x86dd }));
      stack.poll(now);
      assert.equal(stack.link.counters.inUnknownProtos, 2);
    });

    it('timers of transports when they are due', () => {
      const ticks: Time[] = [];
      const ticking = {
        ...transport,
        deadline: seconds(5),
        tick(at: Time) {
          ticks.push(at);
          this.deadline = NEVER;
        },
      };
      stack.addTransport(201, ticking);
      assert.equal(stack.deadline, seconds(5));
      stack.poll(seconds(4));
      stack.poll(seconds(6));
      stack.poll(seconds(7));
      assert.deepEqual(ticks, [seconds(6)]);
      assert.throws(() => stack.addTransport(201, ticking), /already/);
      assert.throws(() => stack.addTransport(256, ticking), /0 to 255/);
    });
  });

  it('says that there is work when it is called from outside', () => {
    let work = 0;
    stack.onWork = () => work++;
    meet();
    send(bytesOf(4));
    assert.equal(work, 1);
    transport.settle = () => void send(bytesOf(4));
    stack.poll(now);
    assert.equal(work, 1);
  });

  describe('replies without knowing anybody', () => {
    it('to where the frame came from, with addresses turned', () => {
      transport.input = (packet) => {
        assert.equal(stack.beginReply(packet, TCP, 4, 20), BEGUN);
        stack.outgoing.bytes.set(bytesOf(20), stack.outgoing.at);
        stack.send(20, TCP_CHECKSUM);
      };
      device.give(
        frame(ipv4(bytesOf(20), { protocol: TCP, source: [198, 51, 100, 7] }), { from: [2, 0, 0, 0, 0, 0xfe] }),
      );
      stack.poll(now);
      const { bytes } = device.sent[0]!;
      assert.deepEqual(Array.from(bytes.slice(0, 6)), [2, 0, 0, 0, 0, 0xfe]);
      assert.deepEqual(Array.from(bytes.slice(26, 34)), [...OURS, 198, 51, 100, 7]);
      assert.ok(isTransportRight(bytes.slice(14)));
      assert.equal(stack.destinations.count, 1);
    });

    it('but not for everybody', () => {
      let begun = BEGUN;
      transport.input = (packet) => {
        begun = stack.beginReply(packet, TCP, 0, 20);
      };
      device.give(frame(ipv4(bytesOf(20), { protocol: TCP, destination: [10, 0, 0, 255] }), { to: EVERYBODY }));
      stack.poll(now);
      assert.equal(begun, UNREACHABLE);
    });
  });

  describe('chooses the address to talk from', () => {
    const sourceOf = (address: number[]): number[] => {
      const destination = stack.destinations.hold(4, Uint8Array.from(address), 0);
      const source = stack.sourceFor(destination);
      stack.destinations.letGo(destination);
      return source === NOT_LOCAL ? [] : Array.from(stack.locals.address(source));
    };

    it('near the next hop, or as the route says (RFC 1122 §3.3.4.3)', () => {
      stack.locals.add(Uint8Array.of(172, 16, 0, 1), 16);
      assert.deepEqual(sourceOf([172, 16, 9, 9]), [172, 16, 0, 1]);
      assert.deepEqual(sourceOf([10, 0, 0, 9]), OURS);
      assert.deepEqual(sourceOf(OURS), OURS);
      assert.deepEqual(sourceOf([8, 8, 8, 8]), []);
      stack.routes.add({ prefix: new Uint8Array(4), prefixLength: 0, gateway: Uint8Array.of(172, 16, 0, 254) });
      assert.deepEqual(sourceOf([8, 8, 8, 8]), [172, 16, 0, 1]);
      const source = Uint8Array.from(OURS);
      stack.routes.add({
        prefix: Uint8Array.of(8, 0, 0, 0),
        prefixLength: 8,
        gateway: Uint8Array.of(172, 16, 0, 254),
        source,
      });
      assert.deepEqual(sourceOf([8, 8, 8, 8]), OURS);
    });

    it('not a deprecated one where there is another', () => {
      stack.locals.add(Uint8Array.from(OURS), 24, { deprecated: true });
      assert.deepEqual(sourceOf(THEIRS), OURS);
      stack.locals.add(Uint8Array.of(10, 0, 0, 8), 24);
      assert.deepEqual(sourceOf(THEIRS), [10, 0, 0, 8]);
    });
  });

  it('has two addresses in one prefix, and takes one out', () => {
    const second = stack.addAddress(Uint8Array.of(10, 0, 0, 5), 24);
    meet();
    assert.equal(send(bytesOf(4)), BEGUN);
    stack.removeAddress(second);
    assert.equal(send(bytesOf(4)), BEGUN, 'the prefix stays');
    assert.equal(stack.routes.list(4).length, 1);
    stack.removeAddress(local);
    assert.equal(stack.routes.list(4).length, 0);
    device.give(frame(ipv4([1], { protocol: NOTED })));
    stack.poll(now);
    assert.equal(got.length, 0);
  });
});

describe('the stack with IPv6', () => {
  const SIX_OURS = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
  const SIX_THEIRS = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0xff, 0xff, 0, 0, 0, 2];
  const ALL_OFFLOADS = TRANSMIT_CHECKSUM | TRANSMIT_TSO4 | TRANSMIT_TSO6;

  function make(offloads: number): { device: MemoryDevice; stack: Stack; local: number; them: number } {
    const device = new MemoryDevice({ offloads });
    const stack = new Stack({ device, random: seeded(3) });
    stack.setIpv6(new Ipv6(stack));
    const local = stack.locals.add(Uint8Array.from(SIX_OURS), 64);
    const them = stack.destinations.hold(6, Uint8Array.from(SIX_THEIRS), 0);
    stack.routes.add({ prefix: Uint8Array.from(SIX_THEIRS), prefixLength: 64 });
    const neighbour = stack.neighbours.entry(6, Uint8Array.from(SIX_THEIRS), 0);
    stack.neighbours.setPermanent(neighbour, Uint8Array.from(THEIR_MAC), 0);
    return { device, stack, local, them };
  }

  it('writes headers (RFC 8200 §3), with a flow label for each flow (RFC 6437)', () => {
    const { device, stack, local, them } = make(0);
    const labels: number[] = [];
    for (const port of [1, 1, 2]) {
      const data = Uint8Array.of(0, port, 0, 9, ...bytesOf(40));
      assert.equal(stack.begin(local, them, TCP, 0xb9, 44, 7), BEGUN);
      stack.outgoing.bytes.set(data, stack.outgoing.at);
      stack.send(44, TCP_CHECKSUM);
      const { bytes, flags } = device.sent.pop()!;
      assert.deepEqual(Array.from(bytes.slice(0, 14)), [...THEIR_MAC, ...OUR_MAC, 0x86, 0xdd]);
      const header = bytes.slice(14, 54);
      const first = new DataView(header.buffer).getUint32(0);
      assert.equal(first >>> 20, 0x6b9);
      labels.push(first & 0xfffff);
      assert.deepEqual(Array.from(header.slice(4)), [0, 44, TCP, 7, ...SIX_OURS, ...SIX_THEIRS]);
      assert.equal(flags, 0);
      assert.equal(checksum([...header.slice(8), 0, 0, 0, 44, 0, 0, 0, TCP, ...bytes.slice(54)]), 0);
    }
    assert.equal(labels[0], labels[1]);
    assert.notEqual(labels[0], labels[2]);
  });

  it('leaves checksums and segments to the device', () => {
    const { device, stack, local, them } = make(ALL_OFFLOADS);
    assert.ok(stack.canSegment(6));
    stack.begin(local, them, TCP, 0, 8020);
    stack.outgoing.bytes.set(bytesOf(8020), stack.outgoing.at);
    stack.send(8020, TCP_CHECKSUM, 20, 1440);
    const [sent] = device.sent;
    assert.deepEqual(
      [sent!.flags, sent!.gsoType, sent!.hdrLen, sent!.gsoSize, sent!.csumStart, sent!.csumOffset],
      [1, 4, 74, 1440, 54, 16],
    );
    const pseudo = [...SIX_OURS, ...SIX_THEIRS, 0, 0, 8020 >> 8, 8020 & 0xff, 0, 0, 0, TCP];
    assert.equal(sent!.bytes[70]! * 256 + sent!.bytes[71]!, 0xffff - checksum(pseudo));
  });

  it('pings itself by ::1, and never on the wire', () => {
    const { device, stack } = make(0);
    let answer: EchoReply | null = null;
    const loopback = new Uint8Array(16);
    loopback[15] = 1;
    stack.ping(loopback, { size: 3000 }, (_error, reply) => {
      answer = reply;
    });
    for (let i = 0; i < 3; i++) stack.poll(0);
    assert.equal(answer!.size, 3000);
    assert.ok(
      device.sent.every(({ bytes }) => bytes[20] === 58 || bytes[20] === 0),
      'but for ND and MLD',
    );
  });

  it('has none without it', () => {
    const stack = new Stack({ device: new MemoryDevice(), random: seeded(3) });
    const them = stack.destinations.hold(6, Uint8Array.from(SIX_THEIRS), 0);
    const local = stack.locals.add(Uint8Array.from(SIX_OURS), 64);
    assert.equal(stack.begin(local, them, TCP, 0, 20), UNREACHABLE);
    assert.equal(stack.hasRoute(them), false);
    assert.equal(stack.sourceFor(them), NOT_LOCAL);
  });
});

describe('two stacks', () => {
  const B = Uint8Array.of(10, 0, 0, 2);

  function ping(wire: Wire, address: Uint8Array, size: number): { error: EchoError | null; reply: EchoReply | null } {
    const outcome: { error: EchoError | null; reply: EchoReply | null } = { error: null, reply: null };
    wire.a.ping(address, { size, timeoutMs: 10_000 }, (error, reply) => Object.assign(outcome, { error, reply }));
    wire.run(wire.now + seconds(20));
    return outcome;
  }

  for (const offloads of [0, TRANSMIT_CHECKSUM | RECEIVE_CHECKSUM]) {
    it(`ping each other with any size${offloads === 0 ? '' : ', with offloads'}`, () => {
      const wire = new Wire({ offloads, delay: 250 });
      wire.run(seconds(5));
      for (const size of [0, 56, 1472, 1473, 4000, 65_507]) {
        assert.deepEqual(ping(wire, B, size).reply, { time: size === 0 ? 1000 : 500, hopLimit: 64, size });
      }
    });
  }

  it('on a VLAN', () => {
    const wire = new Wire({ stack: { vlan: 100 } });
    assert.equal(ping(wire, B, 4000).reply!.size, 4000);
  });

  it('say what became of a ping', () => {
    const wire = new Wire();
    assert.equal(ping(wire, Uint8Array.of(10, 0, 0, 3), 8).error!.code, 'EHOSTUNREACH');
    assert.equal(ping(wire, Uint8Array.of(11, 0, 0, 3), 8).error!.code, 'ENETUNREACH');
    assert.equal(ping(wire, Uint8Array.of(11, 0, 0), 8).error!.code, 'EINVAL');
    assert.equal(ping(wire, B, 65_508).error!.code, 'EINVAL');
    wire.passes = (sent, fromA) => fromA || sent.bytes[23] !== 1;
    assert.equal(ping(wire, B, 8).error!.code, 'ETIMEDOUT');
    assert.equal(ping(wire, B, 8).reply, null);
  });

  it('need no question a second time while they talk', () => {
    const wire = new Wire();
    wire.run(seconds(10));
    let questions = 0;
    wire.watch = ({ bytes }) => {
      if (bytes[12] === 8 && bytes[13] === 6 && bytes[21] === 1) questions++;
    };
    for (let i = 0; i < 5; i++) ping(wire, B, 8);
    assert.ok(questions > 0 && questions <= 8, `${questions}`);
  });

  it('come to rest', () => {
    const wire = new Wire();
    ping(wire, B, 100);
    wire.run(seconds(1000));
    assert.equal(Math.min(wire.a.deadline, wire.b.deadline), NEVER);
  });

  it('with udp() frames of the helpers', () => {
    // The helper's checksum is the stack's: otherwise tests of UDP would show nothing.
    const packet = udp([1, 2, 3]);
    assert.equal(checksum([...THEIRS, ...OURS, 0, 17, 0, packet.length, ...packet]), 0);
  });
});
