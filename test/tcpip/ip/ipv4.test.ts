import assert from 'node:assert/strict';
import fc from 'fast-check';
import { plateauBelow } from '../../../tcpip/ip/icmp.ts';
import { PEER_ERROR_BURST } from '../../../tcpip/ip/icmp-limiter.ts';
import {
  ERROR_PACKET_TOO_BIG,
  ERROR_PARAMETER_PROBLEM,
  ERROR_PROHIBITED,
  ERROR_TIME_EXCEEDED,
  ERROR_UNREACHABLE_HOST,
  ERROR_UNREACHABLE_NET,
  ERROR_UNREACHABLE_PORT,
  ERROR_UNREACHABLE_PROTOCOL,
  NO_DESTINATION,
  type Time,
  type Transport,
} from '../../../tcpip/network.ts';
import { NOT_LOCAL, type Packet } from '../../../tcpip/packet.ts';
import { Stack } from '../../../tcpip/stack.ts';
import {
  bytesOf,
  checksum,
  EVERYBODY,
  frame,
  type Ipv4Shape,
  icmp,
  ipv4,
  OURS,
  THEIR_MAC,
  THEIRS,
  takeSent,
} from '../../helpers/tcpip-packets.ts';
import { MemoryDevice, seconds, seeded } from '../../helpers/tcpip-wire.ts';

const ETHERTYPE_IPV4 = 0x0800;
const ICMP = 1;
/** A protocol of our own, for a transport that only notes what it gets. */
const NOTED = 200;
const MORE = 0x2000;
const DF = 0x4000;

interface Noted {
  data: Uint8Array;
  packet: Packet;
}

interface NotedError {
  kind: number;
  quoted: Packet;
  destination: number;
  mtu: number;
}

describe('IPv4', () => {
  let device: MemoryDevice;
  let stack: Stack;
  let now: Time;
  let local: number;
  let got: Noted[];
  let errors: NotedError[];
  let believes: boolean;

  beforeEach(() => {
    device = new MemoryDevice();
    stack = new Stack({ device, random: seeded(5) });
    now = seconds(1);
    stack.advance(now);
    local = stack.locals.add(Uint8Array.from(OURS), 24);
    got = [];
    errors = [];
    believes = true;
    const transport: Transport = {
      input: (packet) => got.push({ data: packet.bytes.slice(packet.at, packet.end), packet: { ...packet } }),
      error: (kind, quoted, destination, mtu) => {
        errors.push({ kind, quoted: { ...quoted }, destination, mtu });
        return believes;
      },
      writable: () => {},
    };
    stack.addTransport(NOTED, transport);
    stack.poll(now);
    device.sent = [];
  });

  /** Gives IPv4 packets; what is sent for them. */
  function give(...packets: Uint8Array[]): Uint8Array[] {
    for (const packet of packets) device.give(frame(packet));
    stack.poll(now);
    return takeSent(device, ETHERTYPE_IPV4);
  }

  const noted = (data: ArrayLike<number> = bytesOf(12), shape: Ipv4Shape = {}): Uint8Array =>
    ipv4(data, { protocol: NOTED, ...shape });

  describe('takes packets', () => {
    it('for us, and says all that is in the header', () => {
      const data = bytesOf(12);
      give(noted(data, { tos: 0xb9, ttl: 17 }));
      assert.equal(got.length, 1);
      const [{ data: received, packet }] = got as [Noted];
      assert.deepEqual(received, data);
      assert.equal(packet.family, 4);
      assert.equal(packet.local, local);
      assert.deepEqual([packet.protocol, packet.hopLimit, packet.trafficClass], [NOTED, 17, 0xb9]);
      assert.deepEqual([packet.verified, packet.gsoSize], [false, 0]);
      assert.equal(packet.destination - packet.source, 4);
      assert.equal(packet.at - packet.ipAt, 20);
    });

    it('with padding of the link behind them', () => {
      device.give(frame(Uint8Array.from([...noted(bytesOf(3)), 9, 9, 9])));
      stack.poll(now);
      assert.deepEqual(got[0]!.data, bytesOf(3));
    });

    it('with options: routes and times are not recorded, router alerts and unknown ones do not matter (RFC 1122 §3.2.1.8)', () => {
      const all = [
        [7, 7, 4, 0, 0, 0, 0, 0],
        [68, 8, 5, 0, 0, 0, 0, 0],
        [148, 4, 0, 0],
        [1, 1, 1, 0],
        [0x9e, 4, 1, 2],
        [0, 99, 99, 99],
      ];
      for (const options of all) give(noted([1], { options }));
      assert.equal(got.length, all.length);
      assert.equal(got[0]!.packet.at - got[0]!.packet.ipAt, 28);
    });

    it('for everybody, and for all systems', () => {
      for (const destination of [
        [255, 255, 255, 255],
        [10, 0, 0, 255],
        [224, 0, 0, 1],
      ]) {
        device.give(frame(noted([1], { destination }), { to: EVERYBODY }));
      }
      stack.poll(now);
      assert.equal(got.length, 3);
      assert.ok(got.every(({ packet }) => packet.local === NOT_LOCAL));
      assert.deepEqual([stack.ipv4.counters.inBcastPkts, stack.ipv4.counters.inMcastPkts], [2, 1]);
    });

    it('for a group that somebody keeps', () => {
      const destination = [239, 1, 2, 3];
      give(noted([1], { destination }));
      assert.equal(got.length, 0);
      stack.ipv4.groups = {
        has: (bytes, group, source) => bytes[group] === 239 && bytes[group + 3] === 3 && bytes[source + 3] === 2,
      };
      give(noted([1], { destination }));
      assert.equal(got.length, 1);
    });

    it('from hosts that have no address yet, for everybody and groups of the link', () => {
      const source = [0, 0, 0, 0];
      for (const destination of [[255, 255, 255, 255], [224, 0, 0, 1], OURS, [10, 0, 0, 255]]) {
        give(noted([1], { source, destination }));
      }
      assert.equal(got.length, 2);
    });

    it('and says what the device says of checksums and segments', () => {
      device.give(frame(noted()), { flags: 1 });
      device.give(frame(noted()), { flags: 2 });
      device.give(frame(noted()), { flags: 1, gsoType: 1 | 0x80, gsoSize: 1448 });
      stack.poll(now);
      assert.deepEqual(
        got.map(({ packet }) => [packet.verified, packet.gsoSize]),
        [
          [true, 0],
          [true, 0],
          [true, 1448],
        ],
      );
    });
  });

  describe('drops, and counts', () => {
    const wrong: [string, () => Uint8Array][] = [
      ['another version', () => noted([1], { version: 5 })],
      ['a header of less than five words', () => noted([1], { headerWords: 4 })],
      ['a header longer than the packet', () => noted([1], { headerWords: 7 })],
      ['a packet longer than the frame', () => noted([1], { totalLength: 22 })],
      ['a packet shorter than its header', () => noted([1], { totalLength: 19 })],
      ['a wrong checksum', () => noted([1], { checksumError: 1 })],
      ['a piece of a header', () => noted([]).slice(0, 19)],
    ];
    for (const [title, make] of wrong) {
      it(`${title} (RFC 1122 §3.2.1)`, () => {
        assert.deepEqual(give(make()), []);
        assert.equal(got.length, 0);
        assert.equal(stack.ipv4.counters.inHdrErrors, 1);
      });
    }

    const martians = [
      [127, 0, 0, 1],
      [224, 0, 0, 9],
      [255, 255, 255, 255],
      [240, 0, 0, 1],
      [0, 1, 2, 3],
      [10, 0, 0, 255],
      [10, 0, 0, 0],
      OURS,
    ];
    for (const source of martians) {
      it(`what comes from ${source.join('.')} (RFC 1122 §3.2.1.3)`, () => {
        assert.deepEqual(give(noted([1], { source })), []);
        assert.equal(got.length, 0);
        assert.equal(stack.ipv4.counters.inMartians, 1);
      });
    }

    for (const destination of [
      [127, 0, 0, 1],
      [0, 0, 0, 0],
    ]) {
      it(`what goes to ${destination.join('.')}`, () => {
        give(noted([1], { destination }));
        assert.equal(stack.ipv4.counters.inMartians, 1);
        assert.equal(got.length, 0);
      });
    }

    it('what is for others', () => {
      assert.deepEqual(give(noted([1], { destination: [10, 0, 0, 3] })), []);
      assert.equal(stack.ipv4.counters.inAddrErrors, 1);
    });

    it('what is for us alone and came to everybody (RFC 1122 §3.3.6)', () => {
      device.give(frame(noted(), { to: EVERYBODY }));
      stack.poll(now);
      assert.equal(got.length, 0);
      assert.equal(stack.ipv4.counters.inDiscards, 1);
    });

    it('source routes, loose and strict, even used up ones', () => {
      for (const type of [131, 137]) {
        assert.deepEqual(give(noted([1], { options: [type, 7, 4, 1, 2, 3, 4, 0] })), []);
        assert.deepEqual(give(noted([1], { options: [type, 7, 8, 1, 2, 3, 4, 0] })), []);
      }
      assert.equal(got.length, 0);
      assert.equal(stack.ipv4.counters.inSourceRouted, 4);
    });

    const brokenOptions: [number[], number][] = [
      [[7, 0, 0, 0], 21],
      [[7, 1, 0, 0], 21],
      [[7, 9, 4, 0], 21],
      [[1, 1, 1, 7], 23],
      [[1, 7, 3, 3], 23],
      [[68, 4, 4, 0], 22],
      [[148, 3, 0, 0], 21],
    ];
    for (const [options, pointer] of brokenOptions) {
      it(`options [${options}], and says where the error is (RFC 1122 §3.2.2.5)`, () => {
        const packet = noted([1, 2], { options });
        const [answer] = give(packet);
        assert.equal(got.length, 0);
        assert.equal(stack.ipv4.counters.inOptionErrors, 1);
        assert.deepEqual(answer!.slice(20), icmp(12, 0, [pointer, 0, 0, 0], packet));
      });
    }
  });

  describe('puts fragments together', () => {
    const data = bytesOf(100);
    const piece = (from: number, to: number, shape: Ipv4Shape = {}): Uint8Array =>
      noted(data.slice(from, to), { id: 77, fragment: (from / 8) | (to < data.length ? MORE : 0), ...shape });

    it('and hands up the whole, with a header that is right', () => {
      give(piece(40, 80), piece(80, 100), piece(0, 40, { options: [1, 1, 1, 0] }));
      assert.equal(got.length, 1);
      const { packet, data: received } = got[0]!;
      assert.deepEqual(received, data);
      assert.equal(packet.local, local);
      const header = packet.bytes.slice(packet.ipAt, packet.at);
      assert.equal(header.length, 24);
      assert.equal(checksum(header), 0);
      assert.equal(header[2]! * 256 + header[3]!, 124);
      assert.deepEqual([header[6], header[7]], [0, 0]);
    });

    it('but not those that nobody makes', () => {
      give(piece(0, 43, { fragment: MORE }));
      // Headers of TCP in pieces (RFC 1858 §3, RFC 3128).
      give(ipv4(bytesOf(8), { protocol: 6, fragment: MORE }), ipv4(bytesOf(8), { protocol: 6, fragment: 1 }));
      assert.equal(stack.ipv4.counters.inBadFragments, 3);
      assert.equal(stack.reassembler.count, 0);
    });

    it('and says so when some are missing (RFC 1122 §3.3.2)', () => {
      const first = piece(0, 40);
      give(piece(40, 80), first);
      now += seconds(30);
      stack.poll(now);
      const [answer, ...more] = takeSent(device, ETHERTYPE_IPV4);
      assert.deepEqual(answer!.slice(20), icmp(11, 1, [0, 0, 0, 0], first));
      assert.deepEqual(more, []);
    });

    it('and says nothing when the first is missing', () => {
      give(piece(40, 80));
      now += seconds(30);
      stack.poll(now);
      assert.deepEqual(takeSent(device, ETHERTYPE_IPV4), []);
      assert.equal(stack.reassembler.counters.reasmTimeout, 1);
    });
  });

  describe('answers', () => {
    it('echo requests with the same data, type of service and addresses turned (RFC 1122 §3.2.2.6)', () => {
      const [answer] = give(ipv4(icmp(8, 0, [1, 2, 3, 4], bytesOf(56)), { protocol: ICMP, tos: 0x20 }));
      const expected = ipv4(icmp(0, 0, [1, 2, 3, 4], bytesOf(56)), {
        protocol: ICMP,
        tos: 0x20,
        source: OURS,
        destination: THEIRS,
        fragment: DF,
      });
      assert.deepEqual(answer, expected);
      assert.equal(stack.neighbours.count, 0, 'that needs no state');
    });

    it('echo requests of any size', () => {
      for (const size of [0, 1, 2, 33, 1472]) {
        const [answer] = give(ipv4(icmp(8, 0, [0, 1, 0, size & 0xff], bytesOf(size)), { protocol: ICMP }));
        assert.deepEqual(answer!.slice(20), icmp(0, 0, [0, 1, 0, size & 0xff], bytesOf(size)));
      }
    });

    it('no echo request for everybody, none with a wrong checksum, none that is too short', () => {
      const request = icmp(8, 0, [1, 2, 3, 4], bytesOf(56));
      assert.deepEqual(give(ipv4(request, { protocol: ICMP, destination: [255, 255, 255, 255] })), []);
      assert.deepEqual(
        give(
          ipv4(
            request.map((byte, i) => (i === 9 ? byte + 1 : byte)),
            { protocol: ICMP },
          ),
        ),
        [],
      );
      assert.deepEqual(give(ipv4(request.slice(0, 7), { protocol: ICMP })), []);
      const { inIgnored, inCsumErrors, inErrors } = stack.ipv4.icmp.counters;
      assert.deepEqual([inIgnored, inCsumErrors, inErrors], [1, 1, 1]);
    });

    it('a protocol that nobody speaks with protocol unreachable', () => {
      const packet = ipv4(bytesOf(30), { protocol: 201 });
      const [answer] = give(packet);
      assert.deepEqual(answer!.slice(20), icmp(3, 2, [0, 0, 0, 0], packet));
      assert.deepEqual([answer![1], answer![9]], [0xc0, ICMP]);
      assert.deepEqual(Array.from(answer!.slice(12, 20)), [...OURS, ...THEIRS]);
      assert.equal(checksum(answer!.slice(0, 20)), 0);
      assert.deepEqual(Array.from(device.address), [2, 0, 0, 0, 0, 1]);
    });

    it('with errors of 576 bytes at the most (RFC 1812 §4.3.2.3)', () => {
      const packet = ipv4(bytesOf(1400), { protocol: 201 });
      const [answer] = give(packet);
      assert.equal(answer!.length, 576);
      assert.deepEqual(answer!.slice(20), icmp(3, 2, [0, 0, 0, 0], packet.slice(0, 548)));
    });

    it('to whom the frame came from', () => {
      device.give(frame(ipv4(bytesOf(30), { protocol: 201, source: [192, 0, 2, 1] })));
      stack.poll(now);
      assert.deepEqual(Array.from(device.sent[0]!.bytes.slice(0, 6)), THEIR_MAC);
    });

    const silent: [string, () => Uint8Array][] = [
      ['an ICMP error', () => ipv4(icmp(3, 3, [0, 0, 0, 0], bytesOf(28)), { protocol: ICMP, options: [7, 0, 0, 0] })],
      [
        'ICMP of an unknown type',
        () => ipv4(icmp(77, 3, [0, 0, 0, 0], bytesOf(28)), { protocol: ICMP, options: [7, 0, 0, 0] }),
      ],
      ['what was for everybody', () => ipv4(bytesOf(30), { protocol: 201, destination: [10, 0, 0, 255] })],
      ['what was for a group', () => ipv4(bytesOf(30), { protocol: 201, destination: [224, 0, 0, 1] })],
      [
        'what came from nobody',
        () => ipv4(bytesOf(30), { protocol: 201, source: [0, 0, 0, 0], destination: [255, 255, 255, 255] }),
      ],
      ['a fragment that is not the first', () => ipv4(bytesOf(32), { options: [7, 0, 0, 0], fragment: MORE | 4 })],
    ];
    for (const [title, make] of silent) {
      it(`nothing to ${title} (RFC 1122 §3.2.2)`, () => assert.deepEqual(give(make()), []));
    }

    it('an echo request with a broken option with an error: it is none itself', () => {
      assert.equal(give(ipv4(icmp(8, 0, [0, 0, 0, 0]), { protocol: ICMP, options: [7, 0, 0, 0] })).length, 1);
    });

    it('so many errors a second to one host, and to all (RFC 1812 §4.3.2.8)', () => {
      const packet = ipv4(bytesOf(30), { protocol: 201 });
      const first = give(...new Array<Uint8Array>(30).fill(packet));
      assert.equal(first.length, PEER_ERROR_BURST);
      now += seconds(0.5);
      assert.equal(give(...new Array<Uint8Array>(30).fill(packet)).length, 5);
      assert.ok(stack.limiter.counters.limitedPeer > 0);
      let count = 0;
      for (let host = 0; host < 120; host++) {
        count += give(ipv4(bytesOf(30), { protocol: 201, source: [10, 0, 1, host] })).length;
      }
      assert.ok(count >= 40 && count <= 50, `${count}`);
      assert.ok(stack.limiter.counters.limitedGlobal >= 70);
    });
  });

  describe('tells transports of errors', () => {
    const quoted = (shape: Ipv4Shape = {}): Uint8Array =>
      ipv4(bytesOf(8, 1), {
        source: OURS,
        destination: THEIRS,
        protocol: NOTED,
        fragment: DF,
        totalLength: 1400,
        ...shape,
      });
    const error = (
      type: number,
      code: number,
      rest: number[] = [0, 0, 0, 0],
      quote: Uint8Array = quoted(),
    ): Uint8Array => ipv4(icmp(type, code, rest, quote), { protocol: ICMP, source: [192, 0, 2, 1] });

    const kinds: [number, number, number][] = [
      [3, 0, ERROR_UNREACHABLE_NET],
      [3, 1, ERROR_UNREACHABLE_HOST],
      [3, 2, ERROR_UNREACHABLE_PROTOCOL],
      [3, 3, ERROR_UNREACHABLE_PORT],
      [3, 5, ERROR_UNREACHABLE_NET],
      [3, 6, ERROR_UNREACHABLE_NET],
      [3, 7, ERROR_UNREACHABLE_HOST],
      [3, 9, ERROR_PROHIBITED],
      [3, 10, ERROR_PROHIBITED],
      [3, 11, ERROR_UNREACHABLE_NET],
      [3, 12, ERROR_UNREACHABLE_HOST],
      [3, 13, ERROR_PROHIBITED],
      [11, 0, ERROR_TIME_EXCEEDED],
      [12, 0, ERROR_PARAMETER_PROBLEM],
    ];
    for (const [type, code, kind] of kinds) {
      it(`ICMP type ${type} code ${code} (RFC 1122 §4.2.3.9)`, () => {
        const destination = stack.destinations.hold(4, Uint8Array.from(THEIRS), 0);
        assert.deepEqual(give(error(type, code)), []);
        assert.equal(errors.length, 1);
        const [told] = errors as [NotedError];
        assert.equal(told.kind, kind);
        assert.equal(told.destination, destination);
        assert.equal(told.quoted.local, local);
        assert.deepEqual(told.quoted.bytes.slice(told.quoted.at, told.quoted.end), bytesOf(8, 1));
      });
    }

    it('also about hosts that we do not know', () => {
      give(error(3, 1));
      assert.equal(errors[0]!.destination, NO_DESTINATION);
    });

    it('but not when the quote is not ours, too short, a later fragment, or no IPv4', () => {
      const wrongs = [
        quoted({ source: THEIRS }),
        quoted().slice(0, 27),
        quoted().slice(0, 5),
        quoted({ fragment: 9 }),
        quoted({ version: 6 }),
        quoted({ headerWords: 4 }),
        quoted({ headerWords: 15 }),
        new Uint8Array(0),
      ];
      for (const wrong of wrongs) give(error(3, 1, [0, 0, 0, 0], wrong));
      assert.deepEqual(errors, []);
      assert.equal(stack.ipv4.icmp.counters.inBadQuotes, wrongs.length);
    });

    it('not of source quench (RFC 6633) and redirects', () => {
      give(error(4, 0), error(5, 1, [10, 0, 0, 9]));
      assert.deepEqual(errors, []);
      assert.equal(stack.ipv4.icmp.counters.inIgnored, 2);
    });

    describe('and finds out path MTUs (RFC 1191)', () => {
      let destination: number;
      const tooBig = (mtu: number, quote?: Uint8Array): Uint8Array => error(3, 4, [0, 0, mtu >> 8, mtu & 0xff], quote);
      const pathMtu = (): number => stack.destinations.pathMtu(destination);

      beforeEach(() => {
        destination = stack.destinations.hold(4, Uint8Array.from(THEIRS), 0);
      });

      it('that routers tell', () => {
        assert.equal(pathMtu(), 1500);
        give(tooBig(1300));
        assert.equal(pathMtu(), 1300);
        assert.deepEqual([errors[0]!.kind, errors[0]!.mtu], [ERROR_PACKET_TOO_BIG, 1300]);
        give(tooBig(1400));
        assert.equal(pathMtu(), 1300, 'it never grows so');
      });

      it('that they do not tell, by what there is (§5, §7)', () => {
        give(tooBig(0));
        assert.equal(pathMtu(), 1006);
        assert.deepEqual([1492, 1491, 68, 20].map(plateauBelow), [1006, 1006, 68, 68]);
        assert.equal(plateauBelow(1500), 1492);
      });

      it('not below 552', () => {
        give(tooBig(68));
        assert.equal(pathMtu(), 552);
        const source = local;
        stack.neighbours.setPermanent(
          stack.neighbours.entry(4, Uint8Array.from(THEIRS), 0),
          Uint8Array.from(THEIR_MAC),
          now,
        );
        stack.begin(source, destination, NOTED, 0, 8);
        stack.send(8, -1);
        const [packet] = takeSent(device, ETHERTYPE_IPV4);
        assert.equal(packet![6], 0, 'routers may cut it now');
      });

      it('when the transport believes it, and when it was not to be cut', () => {
        believes = false;
        give(tooBig(1300));
        assert.equal(pathMtu(), 1500);
        believes = true;
        give(tooBig(1300, quoted({ fragment: 0 })));
        assert.equal(pathMtu(), 1500);
        assert.equal(errors.length, 1);
      });

      it('and forgets them after ten minutes (§6.3)', () => {
        give(tooBig(1300));
        now += seconds(599);
        stack.poll(now);
        assert.equal(pathMtu(), 1300);
        assert.ok(stack.deadline <= now + seconds(1));
        now += seconds(1);
        stack.poll(now);
        assert.equal(pathMtu(), 1500);
      });
    });
  });

  it('does not throw, and answers at most once, whatever comes', () => {
    const shape = fc.record(
      {
        protocol: fc.constantFrom(1, 6, 17, NOTED, 201),
        fragment: fc.constantFrom(0, DF, MORE, MORE | 1, 2, 0x1fff),
        options: fc
          .uint8Array({ maxLength: 40 })
          .map((bytes) => [...bytes, 0, 0, 0].slice(0, Math.ceil(bytes.length / 4) * 4)),
        totalLength: fc.nat(80),
        headerWords: fc.nat(15),
        destination: fc.constantFrom(OURS, [255, 255, 255, 255], [224, 0, 0, 1]),
      },
      { requiredKeys: ['protocol'] },
    );
    const icmpOf = fc
      .tuple(fc.nat(20), fc.nat(16), fc.uint8Array({ maxLength: 60 }))
      .map(([type, code, data]) => icmp(type, code, [0, 0, 0, 0], data));
    const quoting = fc
      .tuple(fc.constantFrom(3, 11, 12), fc.nat(16), fc.uint8Array({ maxLength: 20 }), fc.nat(60))
      .map(([type, code, data, cut]) =>
        icmp(
          type,
          code,
          [0, 0, 0, 0],
          ipv4(data, { source: OURS, destination: THEIRS, protocol: NOTED }).slice(0, cut),
        ),
      );
    fc.assert(
      fc.property(shape, fc.oneof(fc.uint8Array({ maxLength: 60 }), icmpOf, quoting), (header, data) => {
        assert.ok(give(ipv4(data, header)).length <= 1);
        now += seconds(60);
      }),
      { numRuns: 1000 },
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 90 }), (bytes) => {
        give(bytes);
      }),
    );
  });
});
