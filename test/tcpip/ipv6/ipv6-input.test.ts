import assert from 'node:assert/strict';
import fc from 'fast-check';
import type { Packet } from '../../../tcpip/packet.ts';
import {
  checksum6,
  Ipv6Host,
  type Ipv6Shape,
  icmpMessage,
  icmpv6,
  ip,
  ipv6,
  isIntact,
  PEER,
  routerAdvertisement,
  type Sent,
  u16,
  u32,
} from '../../helpers/ipv6-host.ts';
import { OUR_MAC, THEIR_MAC } from '../../helpers/tcpip-packets.ts';
import { seconds } from '../../helpers/tcpip-wire.ts';

const OURS = '2001:db8::1';
const THEIRS = '2001:db8::2';
const TCP = 6;
const UDP = 17;
const HOP_BY_HOP = 0;
const ROUTING = 43;
const FRAGMENT = 44;
const NO_NEXT = 59;
const DESTINATION = 60;
const ALL_NODES = 'ff02::1';
const UNKNOWN_PROTOCOL = 253;

/** A host with an address, and what it hands to UDP. */
function ready(): { host: Ipv6Host; delivered: { protocol: number; data: number[]; trafficClass: number }[] } {
  const host = new Ipv6Host({ dadTransmits: 0, autoconfigure: false });
  host.add(OURS);
  host.pass(seconds(3));
  host.sent();
  const delivered: { protocol: number; data: number[]; trafficClass: number }[] = [];
  host.stack.addTransport(UDP, {
    input: ({ bytes, at, end, protocol, trafficClass }: Packet) => {
      delivered.push({ protocol, data: [...bytes.subarray(at, end)], trafficClass });
    },
    error: () => false,
    writable: () => {},
  });
  return { host, delivered };
}

const shape: Ipv6Shape = { source: THEIRS, destination: OURS };
const data = [0x12, 0x34, 0x00, 0x35, 0x00, 0x0c, 0x00, 0x00, 1, 2, 3, 4];
const extension = (next: number, content: number[]): number[] => {
  const bytes = [next, 0, ...content];
  while (bytes.length % 8 !== 0) bytes.push(0);
  bytes[1] = bytes.length / 8 - 1;
  return bytes;
};
const fragmentHeader = (next: number, offset: number, more: boolean, id: number): number[] => [
  next,
  0,
  ...u16(offset | (more ? 1 : 0)),
  ...u32(id),
];
const fragment = (
  next: number,
  offset: number,
  more: boolean,
  id: number,
  content: number[],
  own: Ipv6Shape = shape,
): number[] => ipv6([...fragmentHeader(next, offset, more, id), ...content], { ...own, nextHeader: FRAGMENT });

interface Problem {
  type: number;
  code: number;
  pointer: number;
}

function problem(sent: Sent): Problem {
  assert.ok(isIntact(sent));
  assert.equal(sent.destination, THEIRS);
  const { payload } = sent;
  return {
    type: payload[0],
    code: payload[1],
    pointer: new DataView(payload.buffer).getUint32(payload.byteOffset + 4),
  };
}

describe('IPv6 packets in', () => {
  it('are handed up, whatever padding the link has put behind them', () => {
    const { host, delivered } = ready();
    host.give([...ipv6(data, { ...shape, nextHeader: UDP, trafficClass: 0x2d }), 0, 0, 0, 0, 0]);
    assert.deepEqual(delivered, [{ protocol: UDP, data, trafficClass: 0x2d }]);
  });

  const wrong: [string, number[], string][] = [
    ['shorter than a header', ipv6([], shape).slice(0, 39), 'inHdrErrors'],
    ['of another version', ipv6(data, { ...shape, nextHeader: UDP, version: 4 }), 'inHdrErrors'],
    ['longer than their frame', ipv6(data, { ...shape, nextHeader: UDP, payloadLength: 13 }), 'inTruncatedPkts'],
    ['for somebody else', ipv6(data, { source: THEIRS, destination: '2001:db8::3', nextHeader: UDP }), 'inAddrErrors'],
    [
      'for a group that we are not in',
      ipv6(data, { source: THEIRS, destination: 'ff02::fb', nextHeader: UDP }),
      'inAddrErrors',
    ],
    ['from a group', ipv6(data, { source: ALL_NODES, destination: OURS, nextHeader: UDP }), 'inMartians'],
    ['from ::1', ipv6(data, { source: '::1', destination: OURS, nextHeader: UDP }), 'inMartians'],
    ['for ::1', ipv6(data, { source: THEIRS, destination: '::1', nextHeader: UDP }), 'inMartians'],
    ['for ::', ipv6(data, { source: THEIRS, destination: '::', nextHeader: UDP }), 'inMartians'],
    [
      'for a group of the interface alone',
      ipv6(data, { source: THEIRS, destination: 'ff01::1', nextHeader: UDP }),
      'inMartians',
    ],
    ['from our own address', ipv6(data, { source: OURS, destination: OURS, nextHeader: UDP }), 'inMartians'],
  ];
  for (const [what, packet, counter] of wrong) {
    it(`${what} are dropped and counted (${counter})`, () => {
      const { host, delivered } = ready();
      host.give(packet, { to: OUR_MAC });
      assert.equal(host.ipv6.counters[counter as 'inHdrErrors'], 1);
      assert.equal(delivered.length, 0);
      assert.deepEqual(host.sent(), []);
    });
  }

  describe('with extension headers (RFC 8200 §4)', () => {
    it('in any order, and more than once', () => {
      const { host, delivered } = ready();
      const headers = [
        ...extension(DESTINATION, [5, 2, 0, 0]),
        ...extension(ROUTING, [1, 4, 0, 0, 0, 0]),
        ...extension(DESTINATION, [4, 0, 0, 0, 0, 0]),
        ...extension(UDP, [0x1e, 2, 7, 7]),
      ];
      host.give(ipv6([...headers, ...data], { ...shape, nextHeader: HOP_BY_HOP }));
      assert.deepEqual(
        delivered.map((packet) => packet.data),
        [data],
      );
    });

    it('without a next header are nothing', () => {
      const { host } = ready();
      host.give(ipv6(data, { ...shape, nextHeader: NO_NEXT }));
      assert.equal(host.ipv6.counters.inDiscards, 1);
      assert.deepEqual(host.sent(), []);
    });

    it('with an unknown protocol: parameter problem, code 1, at the field that names it', () => {
      const { host } = ready();
      host.give(ipv6([1, 2, 3, 4], { ...shape, nextHeader: UNKNOWN_PROTOCOL }));
      host.give(
        ipv6([...extension(UNKNOWN_PROTOCOL, [1, 4, 0, 0, 0, 0]), 1, 2], { ...shape, nextHeader: DESTINATION }),
      );
      assert.deepEqual(host.sent().map(problem), [
        { type: 4, code: 1, pointer: 6 },
        { type: 4, code: 1, pointer: 40 },
      ]);
    });

    it('hop-by-hop options that are not the first: parameter problem, code 1', () => {
      const { host, delivered } = ready();
      const headers = [...extension(HOP_BY_HOP, [1, 4, 0, 0, 0, 0]), ...extension(UDP, [1, 4, 0, 0, 0, 0])];
      host.give(ipv6([...headers, ...data], { ...shape, nextHeader: DESTINATION }));
      assert.deepEqual(host.sent().map(problem), [{ type: 4, code: 1, pointer: 40 }]);
      assert.equal(delivered.length, 0);
    });

    for (const [action, name, reportsUnicast, reportsGroup] of [
      [0x1f, '00, skip it', false, false],
      [0x5f, '01, drop the packet', false, false],
      [0x9f, '10, and tell', true, true],
      [0xdf, '11, and tell unless it is for a group', true, false],
    ] as const) {
      it(`an unknown option with action ${name}`, () => {
        for (const [destination, reports] of [
          [OURS, reportsUnicast],
          [ALL_NODES, reportsGroup],
        ] as const) {
          const { host, delivered } = ready();
          const headers = extension(UDP, [1, 0, action, 2, 9, 9]);
          host.give(ipv6([...headers, ...data], { source: THEIRS, destination, nextHeader: DESTINATION }));
          assert.equal(delivered.length, action === 0x1f ? 1 : 0);
          assert.deepEqual(host.sent().map(problem), reports ? [{ type: 4, code: 2, pointer: 44 }] : []);
        }
      });
    }

    for (const type of [0, 2, 4, 253]) {
      it(`routing type ${type} with segments left is refused (RFC 5095), without it is passed over`, () => {
        const { host, delivered } = ready();
        host.give(
          ipv6([...extension(UDP, [type, 1, 0, 0, 0, 0, ...ip('2001:db8::9')]), ...data], {
            ...shape,
            nextHeader: ROUTING,
          }),
        );
        assert.deepEqual(host.sent().map(problem), [{ type: 4, code: 0, pointer: 42 }]);
        assert.equal(delivered.length, 0);
        host.give(
          ipv6([...extension(UDP, [type, 0, 0, 0, 0, 0, ...ip('2001:db8::9')]), ...data], {
            ...shape,
            nextHeader: ROUTING,
          }),
        );
        assert.deepEqual(
          delivered.map((packet) => packet.data),
          [data],
        );
      });
    }

    it('eight of them, and no more (RFC 8883)', () => {
      const chain = (count: number): number[] =>
        Array.from({ length: count }, (_, i) =>
          extension(i === count - 1 ? UDP : DESTINATION, [1, 4, 0, 0, 0, 0]),
        ).flat();
      const { host, delivered } = ready();
      host.give(ipv6([...chain(8), ...data], { ...shape, nextHeader: DESTINATION }));
      assert.equal(delivered.length, 1);
      host.give(ipv6([...chain(9), ...data], { ...shape, nextHeader: DESTINATION }));
      assert.deepEqual(host.sent().map(problem), [{ type: 4, code: 8, pointer: 40 + 64 }]);
    });

    it('eight options in one, and seven bytes of padding in a row (RFC 8504 §5.3)', () => {
      const options = (count: number): number[] => Array.from({ length: count }, () => [0x1e, 0]).flat();
      const { host, delivered } = ready();
      host.give(
        ipv6([...extension(UDP, [...options(8), 1, 4, 0, 0, 0, 0]), ...data], { ...shape, nextHeader: DESTINATION }),
      );
      assert.equal(delivered.length, 1);
      host.give(ipv6([...extension(UDP, [...options(9), 1, 2, 0, 0]), ...data], { ...shape, nextHeader: DESTINATION }));
      assert.deepEqual(host.sent().map(problem), [{ type: 4, code: 9, pointer: 58 }]);
      host.give(
        ipv6([...extension(UDP, [1, 5, 0, 0, 0, 0, 0, 0x1e, 0, 1, 1, 0, 0, 0]), ...data], {
          ...shape,
          nextHeader: DESTINATION,
        }),
      );
      assert.equal(delivered.length, 2);
      host.give(
        ipv6([...extension(UDP, [1, 6, 0, 0, 0, 0, 0, 0, 0x1e, 0, 0, 0, 0, 0]), ...data], {
          ...shape,
          nextHeader: DESTINATION,
        }),
      );
      assert.equal(host.ipv6.counters.inDiscards, 1);
    });

    it('that do not fit are dropped', () => {
      const { host } = ready();
      host.give(ipv6([UDP, 1, 1, 4, 0, 0, 0, 0], { ...shape, nextHeader: DESTINATION }));
      host.give(ipv6([UDP, 0, 1], { ...shape, nextHeader: DESTINATION }));
      host.give(ipv6([], { ...shape, nextHeader: ROUTING }));
      assert.equal(host.ipv6.counters.inHdrErrors, 3);
      assert.deepEqual(host.sent(), []);
    });

    it('an option that does not fit: parameter problem, code 0', () => {
      const { host } = ready();
      host.give(ipv6([UDP, 0, 0x1e, 5, 0, 0, 0, 0, ...data], { ...shape, nextHeader: DESTINATION }));
      assert.deepEqual(host.sent().map(problem), [{ type: 4, code: 0, pointer: 43 }]);
    });
  });

  describe('in fragments (RFC 8200 §4.5)', () => {
    const long = Array.from({ length: 3000 }, (_, i) => (i * 7) & 0xff);

    it('become whole in any order', () => {
      const pieces = [
        fragment(UDP, 0, true, 7, long.slice(0, 1000)),
        fragment(UDP, 1000, true, 7, long.slice(1000, 2000)),
        fragment(UDP, 2000, false, 7, long.slice(2000)),
      ];
      for (const order of [
        [0, 1, 2],
        [2, 1, 0],
        [1, 2, 0],
      ]) {
        const { host, delivered } = ready();
        for (const i of order) host.give(pieces[i]);
        assert.deepEqual(
          delivered.map((packet) => packet.data),
          [long],
        );
      }
    });

    it('and with headers before and behind the fragment header', () => {
      const { host, delivered } = ready();
      const content = [...extension(UDP, [0x1e, 4, 0, 0, 0, 0]), ...long.slice(0, 1024)];
      const before = extension(FRAGMENT, [1, 4, 0, 0, 0, 0]);
      for (const [from, more] of [
        [0, true],
        [512, false],
      ] as const) {
        const part = more ? content.slice(0, 512) : content.slice(512);
        host.give(
          ipv6([...before, ...fragmentHeader(DESTINATION, from, more, 9), ...part], {
            ...shape,
            nextHeader: DESTINATION,
          }),
        );
      }
      assert.deepEqual(
        delivered.map((packet) => packet.data),
        [long.slice(0, 1024)],
      );
    });

    it('that are atomic are whole at once, beside others with their identification (RFC 6946)', () => {
      const { host, delivered } = ready();
      host.give(fragment(UDP, 0, true, 7, long.slice(0, 1000)));
      host.give(fragment(UDP, 0, false, 7, data));
      host.give(fragment(UDP, 1000, false, 7, long.slice(1000)));
      assert.deepEqual(
        delivered.map((packet) => packet.data),
        [data, long],
      );
      assert.equal(host.ipv6.counters.inAtomicFragments, 1);
    });

    it('that overlap end their packet, silently (RFC 5722)', () => {
      const { host, delivered } = ready();
      host.give(fragment(UDP, 0, true, 7, long.slice(0, 1000)));
      host.give(fragment(UDP, 992, true, 7, long.slice(992, 2000)));
      host.give(fragment(UDP, 2000, false, 7, long.slice(2000)));
      host.give(fragment(UDP, 1000, true, 7, long.slice(1000, 2000)));
      assert.equal(delivered.length, 0);
      assert.deepEqual(host.sent(), []);
      assert.equal(host.stack.reassembler.counters.reasmOverlaps, 1);
    });

    it('that are not in units of 8 bytes: parameter problem at the payload length', () => {
      const { host } = ready();
      host.give(fragment(UDP, 0, true, 7, long.slice(0, 1001)));
      assert.deepEqual(host.sent().map(problem), [{ type: 4, code: 0, pointer: 4 }]);
    });

    it('that would make too long a packet: parameter problem at the offset', () => {
      const { host } = ready();
      host.give(fragment(UDP, 65_528, false, 7, long.slice(0, 8)));
      assert.deepEqual(host.sent().map(problem), [{ type: 4, code: 0, pointer: 42 }]);
    });

    it('whose first has not all headers: parameter problem, code 3 (RFC 7112)', () => {
      const cases: [number, number[]][] = [
        [TCP, long.slice(0, 16)],
        [DESTINATION, [UDP, 1, 1, 4, 0, 0, 0, 0]],
        [DESTINATION, [TCP, 0, 1, 4, 0, 0, 0, 0, ...long.slice(0, 16)]],
      ];
      for (const [next, content] of cases) {
        const { host } = ready();
        host.give(fragment(next, 0, true, 7, content));
        assert.deepEqual(host.sent().map(problem), [{ type: 4, code: 3, pointer: 0 }]);
        assert.equal(host.stack.reassembler.count, 0);
      }
    });

    it('in fragments are nothing', () => {
      const { host, delivered } = ready();
      const inner = [...fragmentHeader(UDP, 0, false, 8), ...data];
      host.give(fragment(FRAGMENT, 0, true, 7, inner.slice(0, 16)));
      host.give(fragment(FRAGMENT, 16, false, 7, inner.slice(16)));
      host.give(fragment(FRAGMENT, 0, false, 7, inner));
      assert.equal(delivered.length, 0);
      assert.equal(host.ipv6.counters.inBadFragments, 2);
    });

    it('that do not all come in 60 s: time exceeded, code 1, when the first is there', () => {
      const { host } = ready();
      host.give(fragment(UDP, 0, true, 7, long.slice(0, 1000)));
      host.give(fragment(UDP, 1000, true, 8, long.slice(0, 1000)));
      host.pass(seconds(59.9));
      assert.deepEqual(host.sent(), []);
      host.pass(seconds(0.2));
      const [error, ...more] = host.sent();
      assert.deepEqual(problem(error), { type: 3, code: 1, pointer: 0 });
      assert.deepEqual(more, []);
      assert.deepEqual(error.to, THEIR_MAC);
      assert.equal(host.stack.reassembler.count, 0);
    });

    it('with congestion experienced by one of them tell it (RFC 3168 §5.3)', () => {
      const { host, delivered } = ready();
      host.give(fragment(UDP, 0, true, 7, long.slice(0, 1000), { ...shape, trafficClass: 2 }));
      host.give(fragment(UDP, 1000, false, 7, long.slice(1000), { ...shape, trafficClass: 3 }));
      assert.deepEqual(
        delivered.map(({ trafficClass }) => trafficClass),
        [3],
      );
    });
  });

  it('whatever they are: nothing throws, and an echo request is answered afterwards', () => {
    const { host } = ready();
    const header = fc.constantFrom(
      HOP_BY_HOP,
      ROUTING,
      FRAGMENT,
      DESTINATION,
      NO_NEXT,
      UDP,
      TCP,
      58,
      50,
      UNKNOWN_PROTOCOL,
    );
    const chain = fc.array(
      fc.tuple(header, fc.integer({ min: 0, max: 3 }), fc.uint8Array({ minLength: 6, maxLength: 30 })),
      { maxLength: 11 },
    );
    fc.assert(
      fc.property(
        header,
        chain,
        fc.uint8Array({ maxLength: 80 }),
        fc.integer({ min: -4, max: 4 }),
        (first, headers, rest, cut) => {
          const payload = [...headers.flatMap(([next, units, content]) => [next, units, ...content]), ...rest];
          const payloadLength = Math.max(0, payload.length + cut);
          host.give(ipv6(payload, { source: PEER, destination: OURS, nextHeader: first, payloadLength }), {
            to: OUR_MAC,
          });
        },
      ),
      { numRuns: 3000 },
    );
    host.pass(seconds(61));
    host.sent();
    host.give(icmpv6(128, 0, [0, 1, 0, 1, 5, 5], shape));
    assert.deepEqual(
      host.sent().map(({ payload }) => payload[0]),
      [129],
    );
  });
});

describe('IPv6 packets out', () => {
  it('are cut to the path MTU, in order, with one identification', () => {
    const { host } = ready();
    const destination = host.stack.destinations.hold(6, Uint8Array.from(ip(THEIRS)), 0);
    host.stack.destinations.setPathMtu(destination, 1280, host.now);
    const neighbour = host.stack.neighbours.entry(6, Uint8Array.from(ip(THEIRS)), 0);
    host.stack.neighbours.setPermanent(neighbour, Uint8Array.from(THEIR_MAC), host.now);
    const local = host.stack.sourceFor(destination);
    const length = 4000;
    assert.equal(host.stack.begin(local, destination, UDP, 0, length), 0);
    const { bytes, at } = host.stack.outgoing;
    for (let i = 0; i < length; i++) bytes[at + i] = i & 0xff;
    host.stack.send(length, -1);
    host.settle();
    const pieces = host.sent();
    assert.deepEqual(
      pieces.map(({ packet }) => packet.length),
      [1280, 1280, 1280, 40 + 8 + 304],
    );
    assert.deepEqual(
      pieces.map(({ nextHeader, payload }) => [nextHeader, payload[0]]),
      Array(4).fill([FRAGMENT, UDP]),
    );
    assert.equal(new Set(pieces.map(({ payload }) => payload.subarray(4, 8).join())).size, 1);
    assert.deepEqual(
      pieces.map(({ payload }) => (payload[2] << 8) | payload[3]),
      [1, 1233, 2465, 3696],
    );
    const whole = pieces.flatMap(({ payload }) => [...payload.subarray(8)]);
    assert.deepEqual(
      whole,
      Array.from({ length }, (_, i) => i & 0xff),
    );
    assert.equal(host.ipv6.counters.fragCreates, 4);
  });

  it('of a flow have one label, and others another (RFC 6437); the hop limit is what routers advise', () => {
    const labelOf = (host: Ipv6Host, port: number): { label: number; hopLimit: number } => {
      const destination = host.stack.destinations.hold(6, Uint8Array.from(ip(THEIRS)), 0);
      assert.equal(host.stack.begin(host.stack.sourceFor(destination), destination, UDP, 0, 8), 0);
      const { bytes, at } = host.stack.outgoing;
      bytes.set([port >> 8, port & 0xff, 0, 53, 0, 8, 0, 0], at);
      host.stack.send(8, 6);
      host.stack.destinations.letGo(destination);
      host.settle();
      const [{ packet, hopLimit }] = host.sent();
      return { label: ((packet[1] & 0x0f) << 16) | (packet[2] << 8) | packet[3], hopLimit };
    };
    const labels = [1, 2].map((seed) => {
      const host = new Ipv6Host({ seed, dadTransmits: 0 });
      host.add(OURS);
      const neighbour = host.stack.neighbours.entry(6, Uint8Array.from(ip(THEIRS)), 0);
      host.stack.neighbours.setPermanent(neighbour, Uint8Array.from(THEIR_MAC), host.now);
      host.pass(seconds(1.5));
      host.give(routerAdvertisement({ curHopLimit: 77 }));
      host.sent();
      const each = Array.from({ length: 200 }, (_, i) => labelOf(host, 1000 + i));
      assert.deepEqual(labelOf(host, 1000), each[0]);
      assert.ok(new Set(each.map(({ label }) => label)).size >= 198, 'flows hardly ever share one');
      assert.ok(each.every(({ hopLimit }) => hopLimit === 77));
      return each[0].label;
    });
    assert.notEqual(labels[0], labels[1], 'nobody can tell them beforehand');
  });

  it('packet too big lowers the path MTU, not below 1280, where the sender believes it (RFC 8201)', () => {
    const { host } = ready();
    const told: number[][] = [];
    host.stack.addTransport(TCP, {
      input: () => {},
      error: (kind, quoted, _destination, mtu) => {
        told.push([kind, mtu, ...quoted.bytes.subarray(quoted.at, quoted.at + 4)]);
        return quoted.bytes[quoted.at] === 1;
      },
      writable: () => {},
    });
    const destination = host.stack.destinations.hold(6, Uint8Array.from(ip(THEIRS)), 0);
    const quote = (first: number): number[] =>
      ipv6([first, 2, 3, 4, 5, 6, 7, 8, ...Array(12).fill(0)], { source: OURS, destination: THEIRS, nextHeader: TCP });
    const tooBig = (mtu: number, quoted: number[]): void =>
      host.give(icmpv6(2, 0, [...u32(mtu), ...quoted], { source: '2001:db8::fe', destination: OURS }));
    tooBig(1400, quote(2));
    assert.equal(host.stack.destinations.pathMtu(destination), 1500);
    tooBig(1400, quote(1));
    assert.equal(host.stack.destinations.pathMtu(destination), 1400);
    tooBig(1279, quote(1));
    assert.equal(host.stack.destinations.pathMtu(destination), 1400, 'no path has less than 1280');
    assert.equal(host.ipv6.icmp.counters.inBadMtus, 1);
    tooBig(1280, quote(1));
    assert.equal(host.stack.destinations.pathMtu(destination), 1280);
    assert.deepEqual(told, [
      [5, 1400, 2, 2, 3, 4],
      [5, 1400, 1, 2, 3, 4],
      [5, 1280, 1, 2, 3, 4],
    ]);
    tooBig(1300, ipv6([1, 2, 3, 4, 5, 6, 7, 8], { source: '2001:db8::77', destination: THEIRS, nextHeader: TCP }));
    assert.equal(host.ipv6.icmp.counters.inBadQuotes, 1);
    host.pass(seconds(601));
    assert.equal(host.stack.destinations.pathMtu(destination), 1500, 'forgotten after ten minutes');
  });

  it('a quote is followed through extension headers, to the first fragment alone', () => {
    const { host } = ready();
    const kinds: number[] = [];
    host.stack.addTransport(TCP, {
      input: () => {},
      error: (kind, quoted) => {
        kinds.push(kind, quoted.bytes[quoted.at]);
        return false;
      },
      writable: () => {},
    });
    const tell = (type: number, code: number, payload: number[], nextHeader: number): void => {
      const quoted = ipv6(payload, { source: OURS, destination: THEIRS, nextHeader });
      host.give(icmpv6(type, code, [0, 0, 0, 0, ...quoted], { source: '2001:db8::fe', destination: OURS }));
    };
    const transport = [9, 2, 3, 4, 5, 6, 7, 8];
    tell(
      1,
      0,
      [...extension(FRAGMENT, [1, 4, 0, 0, 0, 0]), ...fragmentHeader(TCP, 0, true, 1), ...transport],
      DESTINATION,
    );
    tell(1, 1, transport, TCP);
    tell(1, 3, transport, TCP);
    tell(1, 4, transport, TCP);
    tell(3, 0, transport, TCP);
    tell(4, 0, transport, TCP);
    tell(4, 1, transport, TCP);
    assert.deepEqual(kinds, [1, 9, 6, 9, 2, 9, 4, 9, 7, 9, 8, 9, 3, 9]);
    tell(1, 0, [...fragmentHeader(TCP, 8, true, 1), ...transport], FRAGMENT);
    tell(1, 0, transport.slice(1), TCP);
    assert.equal(host.ipv6.icmp.counters.inBadQuotes, 2);
  });
});

describe('ICMPv6', () => {
  it('errors with whatever they quote: nothing throws, and a transport gets 8 bytes at least', () => {
    const { host } = ready();
    let told = 0;
    for (const protocol of [TCP, 132]) {
      host.stack.addTransport(protocol, {
        input: () => {},
        error: (_kind, quoted) => {
          assert.ok(quoted.end - quoted.at >= 8 && quoted.end <= quoted.bytes.length);
          told++;
          return true;
        },
        writable: () => {},
      });
    }
    const next = fc.constantFrom(HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, NO_NEXT, TCP, UDP, 58, 132);
    const quote = fc
      .tuple(next, fc.uint8Array({ maxLength: 60 }), fc.integer({ min: 0, max: 100 }))
      .map(([nextHeader, payload, cut]) =>
        ipv6(payload, {
          source: OURS,
          destination: THEIRS,
          nextHeader,
          payloadLength: payload.length + (cut % 7),
        }).slice(0, cut),
      );
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 6 }),
        fc.integer({ min: 0, max: 9 }),
        fc.nat(70_000),
        quote,
        (type, code, word, quoted) => {
          host.give(icmpv6(type, code, [...u32(word), ...quoted], shape));
        },
      ),
      { numRuns: 3000 },
    );
    assert.ok(told > 30, `${told} errors were told`);
    host.sent();
    host.give(icmpv6(128, 0, [0, 1, 0, 1], shape));
    assert.equal(host.sent().length, 1);
  });

  it('answers an echo request with what it held, from the address it was for (RFC 4443 §4.2)', () => {
    const { host } = ready();
    host.give(icmpv6(128, 0, [0x12, 0x34, 0, 1, 9, 8, 7], shape));
    const [reply] = host.sent();
    assert.equal(reply.source, OURS);
    assert.equal(reply.destination, THEIRS);
    assert.deepEqual([...reply.payload.subarray(4)], [0x12, 0x34, 0, 1, 9, 8, 7]);
    assert.equal(reply.payload[0], 129);
    assert.ok(isIntact(reply));
  });

  it('answers one for all nodes from its own address', () => {
    const { host } = ready();
    host.give(icmpv6(128, 0, [0, 1, 0, 1], { source: PEER, destination: ALL_NODES }));
    const [reply] = host.sent();
    assert.match(reply.source, /^fe80::/);
    assert.equal(reply.destination, PEER);
    assert.ok(isIntact(reply));
  });

  it('answers a large one in fragments', () => {
    const { host } = ready();
    const neighbour = host.stack.neighbours.entry(6, Uint8Array.from(ip(THEIRS)), 0);
    host.stack.neighbours.setPermanent(neighbour, Uint8Array.from(THEIR_MAC), host.now);
    const message = icmpMessage(128, 0, [0, 1, 0, 1, ...Array(3000).fill(3)], THEIRS, OURS);
    for (const [from, to] of [
      [0, 1400],
      [1400, 2800],
      [2800, message.length],
    ] as const) {
      host.give(fragment(58, from, to !== message.length, 5, message.slice(from, to)));
    }
    const pieces = host.sent();
    assert.deepEqual(
      pieces.map(({ nextHeader }) => nextHeader),
      [FRAGMENT, FRAGMENT, FRAGMENT],
    );
    const whole = pieces.flatMap(({ payload }) => [...payload.subarray(8)]);
    assert.equal(whole[0], 129);
    assert.equal(checksum6(OURS, THEIRS, 58, whole), 0);
    assert.equal(whole.length, message.length);
  });

  it('drops what is too short or has a wrong checksum', () => {
    const { host } = ready();
    host.give(icmpv6(128, 0, [0, 1, 0, 1], { ...shape, checksumError: 1 }));
    host.give(icmpv6(128, 0, [0], shape));
    assert.deepEqual(host.sent(), []);
    const { inCsumErrors, inErrors } = host.ipv6.icmp.counters;
    assert.deepEqual([inCsumErrors, inErrors], [1, 1]);
  });

  describe('errors are never sent (RFC 4443 §2.4 e)', () => {
    const never: [string, number[], { to?: number[] }][] = [
      [
        'about an error',
        icmpv6(1, 77, [0, 0, 0, 0], { ...shape, before: { nextHeader: DESTINATION, bytes: extension(58, [0xdf, 0]) } }),
        {},
      ],
      [
        'about a redirect',
        icmpv6(137, 0, [0, 0, 0, 0], {
          ...shape,
          before: { nextHeader: DESTINATION, bytes: extension(58, [0xdf, 0]) },
        }),
        {},
      ],
      [
        'about a packet for a group',
        ipv6([1, 2], { source: THEIRS, destination: ALL_NODES, nextHeader: UNKNOWN_PROTOCOL }),
        {},
      ],
      [
        'about a frame for a group',
        ipv6([1, 2], { ...shape, nextHeader: UNKNOWN_PROTOCOL }),
        { to: [0x33, 0x33, 0, 0, 0, 1] },
      ],
      ['to nobody', ipv6([1, 2], { source: '::', destination: OURS, nextHeader: UNKNOWN_PROTOCOL }), {}],
    ];
    for (const [what, packet, options] of never) {
      it(what, () => {
        const { host } = ready();
        host.give(packet, options);
        assert.deepEqual(host.sent(), []);
      });
    }
  });

  it('errors quote as much as fits into 1280 bytes, and go where the frame came from', () => {
    const { host } = ready();
    const packet = ipv6(Array(1400).fill(5), { ...shape, nextHeader: UNKNOWN_PROTOCOL });
    host.give(packet);
    const [error] = host.sent();
    assert.equal(error.packet.length, 1280);
    assert.deepEqual([...error.payload.subarray(8)], packet.slice(0, 1280 - 48));
    assert.equal(error.source, OURS);
    assert.deepEqual(error.to, THEIR_MAC);
  });

  it('errors are limited', () => {
    const { host } = ready();
    for (let i = 0; i < 100; i++) host.give(ipv6([1, 2], { ...shape, nextHeader: UNKNOWN_PROTOCOL }));
    const count = host.sent().length;
    assert.ok(count > 0 && count <= 10, `${count} errors`);
    assert.equal(host.stack.limiter.counters.limitedGlobal + host.stack.limiter.counters.limitedPeer, 100 - count);
  });
});
