import assert from 'node:assert/strict';
import fc from 'fast-check';
import { NdOptions } from '../../../tcpip/ipv6/nd-options.ts';
import { FAILED, INCOMPLETE, NO_NEIGHBOUR, PROBE, REACHABLE, STALE } from '../../../tcpip/link/neighbour-cache.ts';
import {
  formatOf,
  Ipv6Host,
  icmpv6,
  ip,
  ipv6,
  isIntact,
  linkLayerOption,
  neighbourAdvertisement,
  neighbourSolicitation,
  PEER,
  prefixOption,
  ROUTER,
  ROUTER_MAC,
  routerAdvertisement,
  solicitedNodeOf,
} from '../../helpers/ipv6-host.ts';
import { OUR_MAC, THEIR_MAC } from '../../helpers/tcpip-packets.ts';
import { seconds } from '../../helpers/tcpip-wire.ts';

const OURS = '2001:db8::1';
const THEIRS = '2001:db8::2';
const FAR = '2001:db8:ffff::9';
const NS = 135;
const NA = 136;
const UNKNOWN_PROTOCOL = 253;
const OTHER_MAC = [2, 0, 0, 0, 0, 0x33];
const SOLICITED = 0x40;
const OVERRIDE = 0x20;
const IS_ROUTER = 0x80;
const sllao = linkLayerOption(1, THEIR_MAC);
const tllao = (mac = THEIR_MAC): number[] => linkLayerOption(2, mac);
const bytesOf = (address: string): Uint8Array => Uint8Array.from(ip(address));

/** A host with the addresses fe80::ff:fe00:1 and 2001:db8::1/64. */
function ready(options = {}): Ipv6Host {
  const host = new Ipv6Host({ dadTransmits: 0, interfaceId: 'eui64', ...options });
  host.add(OURS);
  host.pass(seconds(2));
  host.sent();
  return host;
}

/** Sends a packet to an address; gives whether there was a way. */
function send(host: Ipv6Host, to: string): boolean {
  const destination = host.stack.destinations.hold(6, bytesOf(to), 0);
  const local = host.stack.sourceFor(destination);
  const begun = local === -1 ? 2 : host.stack.begin(local, destination, UNKNOWN_PROTOCOL, 0, 8);
  if (begun === 0) host.stack.send(8, -1);
  host.stack.destinations.letGo(destination);
  host.settle();
  return begun === 0;
}

const stateOf = (host: Ipv6Host, address: string): number => {
  const neighbour = host.stack.neighbours.find(6, bytesOf(address), 0);
  return neighbour === NO_NEIGHBOUR ? NO_NEIGHBOUR : host.stack.neighbours.state[neighbour];
};
const macOf = (host: Ipv6Host, address: string): number[] => [
  ...host.stack.neighbours.mac(host.stack.neighbours.find(6, bytesOf(address), 0)),
];

describe('neighbour discovery', () => {
  describe('address resolution (RFC 4861 §7.2)', () => {
    it('asks the solicited-node group, sends when it is answered', () => {
      const host = ready();
      assert.ok(send(host, THEIRS));
      const [ns, ...more] = host.sent();
      assert.deepEqual(more, []);
      assert.equal(ns.source, OURS);
      assert.equal(ns.destination, solicitedNodeOf(THEIRS));
      assert.deepEqual(ns.to, [0x33, 0x33, 0xff, 0, 0, 2]);
      assert.equal(ns.hopLimit, 255);
      assert.ok(isIntact(ns));
      assert.deepEqual(
        [...ns.payload],
        [NS, 0, ns.payload[2], ns.payload[3], 0, 0, 0, 0, ...ip(THEIRS), 1, 1, ...OUR_MAC],
      );
      host.give(neighbourAdvertisement(THEIRS, SOLICITED | OVERRIDE, tllao(), { source: THEIRS, destination: OURS }));
      const [packet] = host.sent();
      assert.deepEqual(packet.to, THEIR_MAC);
      assert.equal(packet.nextHeader, UNKNOWN_PROTOCOL);
      assert.equal(stateOf(host, THEIRS), REACHABLE);
    });

    it('asks thrice, a second apart, and gives up', () => {
      const host = ready();
      send(host, THEIRS);
      const begun = host.now;
      host.pass(seconds(10));
      assert.deepEqual(
        host.sentOf(NS).map(({ at }) => at - begun),
        [0, seconds(1), seconds(2)],
      );
      assert.equal(stateOf(host, THEIRS), FAILED);
    });

    it('keeps nothing of who answers without being asked', () => {
      const host = ready();
      host.give(neighbourAdvertisement(THEIRS, OVERRIDE, tllao(), { source: THEIRS }));
      assert.equal(stateOf(host, THEIRS), NO_NEIGHBOUR);
    });

    it('does not take an answer without a link-layer address', () => {
      const host = ready();
      send(host, THEIRS);
      host.give(neighbourAdvertisement(THEIRS, SOLICITED | OVERRIDE, [], { source: THEIRS, destination: OURS }));
      assert.equal(stateOf(host, THEIRS), INCOMPLETE);
    });

    it('override and solicited flags mean what §7.2.5 says', () => {
      const host = ready();
      const tell = (flags: number, mac: number[]): void =>
        host.give(neighbourAdvertisement(THEIRS, flags, tllao(mac), { source: THEIRS, destination: OURS }));
      send(host, THEIRS);
      tell(SOLICITED, THEIR_MAC);
      assert.equal(stateOf(host, THEIRS), REACHABLE);
      tell(SOLICITED, OTHER_MAC);
      assert.equal(stateOf(host, THEIRS), STALE, 'another one without override: doubt');
      assert.deepEqual(macOf(host, THEIRS), THEIR_MAC);
      tell(SOLICITED | OVERRIDE, OTHER_MAC);
      assert.equal(stateOf(host, THEIRS), REACHABLE);
      assert.deepEqual(macOf(host, THEIRS), OTHER_MAC);
      tell(OVERRIDE, THEIR_MAC);
      assert.equal(stateOf(host, THEIRS), STALE, 'not asked for: not known to be reachable');
      assert.deepEqual(macOf(host, THEIRS), THEIR_MAC);
    });

    it('probes a neighbour that is in doubt, at its address (§7.3)', () => {
      const host = ready();
      send(host, THEIRS);
      host.give(neighbourAdvertisement(THEIRS, SOLICITED | OVERRIDE, tllao(), { source: THEIRS, destination: OURS }));
      host.pass(seconds(60));
      assert.equal(stateOf(host, THEIRS), STALE);
      host.sent();
      send(host, THEIRS);
      host.pass(seconds(5.5));
      assert.equal(stateOf(host, THEIRS), PROBE);
      const [probe] = host.sentOf(NS);
      assert.equal(probe.destination, THEIRS);
      assert.deepEqual(probe.to, THEIR_MAC);
      host.pass(seconds(3));
      assert.equal(stateOf(host, THEIRS), FAILED);
    });
  });

  describe('answers (§7.2.4)', () => {
    it('a question about an address of ours, and learns who asked', () => {
      const host = ready();
      host.give(neighbourSolicitation(OURS, sllao, { source: THEIRS, destination: solicitedNodeOf(OURS) }));
      const [na] = host.sent();
      assert.equal(na.source, OURS);
      assert.equal(na.destination, THEIRS);
      assert.deepEqual(na.to, THEIR_MAC);
      assert.equal(na.hopLimit, 255);
      assert.ok(isIntact(na));
      assert.deepEqual([...na.payload.subarray(4)], [SOLICITED | OVERRIDE, 0, 0, 0, ...ip(OURS), 2, 1, ...OUR_MAC]);
      assert.equal(stateOf(host, THEIRS), STALE);
    });

    it('to the sender of the frame when he tells no link-layer address', () => {
      const host = ready();
      host.give(neighbourSolicitation(OURS, [], { source: THEIRS, destination: OURS }));
      assert.deepEqual(
        host.sentOf(NA).map(({ to }) => to),
        [THEIR_MAC],
      );
      assert.equal(stateOf(host, THEIRS), NO_NEIGHBOUR);
    });

    it('a hundred new ones are learnt a second, all are answered (RFC 6583)', () => {
      const host = ready();
      for (let i = 0; i < 300; i++) {
        const source = `2001:db8::1:${i.toString(16)}`;
        host.give(neighbourSolicitation(OURS, sllao, { source, destination: solicitedNodeOf(OURS) }));
      }
      assert.equal(host.sentOf(NA).length, 300);
      assert.equal(host.ipv6.discovery.counters.notLearnt, 200);
    });

    it('nothing about others, and keeps nothing of it', () => {
      const host = ready();
      for (let i = 0; i < 300; i++) {
        const target = `2001:db8::2:${i.toString(16)}`;
        host.give(neighbourSolicitation(target, sllao, { source: THEIRS, destination: OURS }));
      }
      assert.deepEqual(host.sent(), []);
      assert.equal(host.stack.neighbours.count, 0);
    });
  });

  describe('drops what is not valid (§6.1, §7.1, §8.1)', () => {
    const us = { source: THEIRS, destination: OURS };
    const invalid: [string, number[]][] = [
      ['a hop limit of 254', neighbourSolicitation(OURS, sllao, { ...us, hopLimit: 254 })],
      ['a code', icmpv6(NS, 1, [0, 0, 0, 0, ...ip(OURS)], { ...us, hopLimit: 255 })],
      ['23 bytes', icmpv6(NS, 0, [0, 0, 0, 0, ...ip(OURS).slice(1)], { ...us, hopLimit: 255 })],
      ['an option of length 0', neighbourSolicitation(OURS, [1, 0, ...THEIR_MAC], us)],
      ['an option that does not fit', neighbourSolicitation(OURS, [1, 2, ...THEIR_MAC], us)],
      ['half an option', neighbourSolicitation(OURS, [1, 1, 2, 0], us)],
      ['the MAC address of a group', neighbourSolicitation(OURS, [1, 1, 1, 0, 0, 0, 0, 2], us)],
      ['a target that is a group', neighbourSolicitation('ff02::1', sllao, us)],
      [
        'a link-layer address of nobody',
        neighbourSolicitation(OURS, sllao, { source: '::', destination: solicitedNodeOf(OURS) }),
      ],
      [
        'a question of nobody that is not for the group',
        neighbourSolicitation(OURS, [], { source: '::', destination: OURS }),
      ],
      ['a solicited answer to all', neighbourAdvertisement(THEIRS, SOLICITED, tllao(), { source: THEIRS })],
      ['an advertised router without a link-local address', routerAdvertisement({ source: THEIRS })],
      ['an advertised router from afar', routerAdvertisement({ hopLimit: 64 })],
      ['an advertisement of 15 bytes', icmpv6(134, 0, Array(11).fill(0), { source: ROUTER, hopLimit: 255 })],
    ];
    for (const [what, packet] of invalid) {
      it(what, () => {
        const host = ready();
        host.give(packet);
        assert.deepEqual(host.sent(), []);
        assert.equal(host.ipv6.discovery.counters.inInvalid, 1);
        assert.equal(stateOf(host, THEIRS), NO_NEIGHBOUR);
        assert.equal(host.ipv6.routers.routers.length, 0);
      });
    }
  });

  describe('redirects (§8)', () => {
    const redirect = (target: string, destination: string, options: number[], shape = {}): number[] =>
      icmpv6(137, 0, [0, 0, 0, 0, ...ip(target), ...ip(destination), ...options], {
        source: ROUTER,
        destination: OURS,
        hopLimit: 255,
        ...shape,
      });
    const routed = (): Ipv6Host => {
      const host = ready();
      host.give(routerAdvertisement());
      assert.ok(send(host, FAR));
      assert.deepEqual(
        host.sent().map(({ to }) => to),
        [ROUTER_MAC],
      );
      return host;
    };
    const wayTo = (host: Ipv6Host, address = FAR): number[] | undefined => {
      host.sent();
      send(host, address);
      return host.sent().find(({ nextHeader }) => nextHeader === UNKNOWN_PROTOCOL)?.to;
    };

    it('of our router are followed to another router', () => {
      const host = routed();
      host.give(redirect('fe80::33', FAR, tllao(OTHER_MAC)));
      assert.deepEqual(wayTo(host), OTHER_MAC);
      assert.deepEqual(wayTo(host, '2001:db8:ffff::a'), ROUTER_MAC, 'others are not');
    });

    it('and to a host on the link', () => {
      const host = routed();
      host.give(redirect(FAR, FAR, tllao(OTHER_MAC)));
      assert.deepEqual(wayTo(host), OTHER_MAC);
    });

    it('are forgotten when their target does not answer', () => {
      const host = routed();
      host.give(redirect('fe80::33', FAR, tllao(OTHER_MAC)));
      wayTo(host);
      host.pass(seconds(9));
      assert.equal(host.ipv6.discovery.redirects, 0);
      // Nor has the router answered; it is there again.
      host.give(routerAdvertisement());
      assert.deepEqual(wayTo(host), ROUTER_MAC);
    });

    for (const [what, packet] of [
      ['of a host that is no router of ours', redirect('fe80::33', FAR, tllao(OTHER_MAC), { source: PEER })],
      ['from afar', redirect('fe80::33', FAR, tllao(OTHER_MAC), { hopLimit: 254 })],
      ['of no link-local address', redirect('fe80::33', FAR, tllao(OTHER_MAC), { source: '2001:db8::fe' })],
      ['for a group', redirect('fe80::33', 'ff05::5', tllao(OTHER_MAC))],
      ['to a router that is not link-local', redirect('2001:db8::33', FAR, tllao(OTHER_MAC))],
      ['to ourselves', redirect('fe80::ff:fe00:1', FAR, tllao(OTHER_MAC))],
      ['for a neighbour', redirect('fe80::33', THEIRS, tllao(OTHER_MAC))],
      [
        'too short',
        icmpv6(137, 0, [0, 0, 0, 0, ...ip('fe80::33')], { source: ROUTER, destination: OURS, hopLimit: 255 }),
      ],
    ] as const) {
      it(`are not heard: ${what}`, () => {
        const host = routed();
        host.give([...packet]);
        assert.equal(host.ipv6.discovery.redirects, 0);
        assert.deepEqual(wayTo(host), ROUTER_MAC);
      });
    }

    it('are kept for 256 destinations; the oldest goes', () => {
      const host = routed();
      for (let i = 0; i < 300; i++)
        host.give(redirect('fe80::33', `2001:db8:ffff::${i.toString(16)}`, tllao(OTHER_MAC)));
      assert.equal(host.ipv6.discovery.redirects, 256);
      assert.deepEqual(wayTo(host, '2001:db8:ffff::0'), ROUTER_MAC);
      assert.deepEqual(wayTo(host, '2001:db8:ffff::12b'), OTHER_MAC);
    });

    it('can be switched off', () => {
      const host = ready({ acceptRedirects: false });
      host.give(routerAdvertisement());
      host.give(redirect('fe80::33', FAR, tllao(OTHER_MAC)));
      assert.equal(host.ipv6.discovery.counters.redirectsRefused, 1);
    });
  });

  describe('routers (§6.3)', () => {
    const RS = 133;

    it('are asked from the link-local address, again after 4, 8, 16 s … an hour at the most (RFC 7559)', () => {
      const host = new Ipv6Host({ interfaceId: 'eui64' });
      host.run(seconds(5 * 3600));
      const sent = host.sentOf(RS);
      const [first] = sent;
      assert.equal(first.source, 'fe80::ff:fe00:1');
      assert.equal(first.destination, 'ff02::2');
      assert.deepEqual(first.to, [0x33, 0x33, 0, 0, 0, 2]);
      assert.equal(first.hopLimit, 255);
      assert.deepEqual([...first.payload.subarray(4)], [0, 0, 0, 0, 1, 1, ...OUR_MAC]);
      assert.ok(isIntact(first));
      const gaps = sent.slice(1).map(({ at }, i) => (at - sent[i].at) / seconds(1));
      assert.ok(gaps[0] >= 3.6 && gaps[0] <= 4.4, `${gaps[0]}`);
      for (let i = 1; i < gaps.length; i++) {
        const ratio = gaps[i] / gaps[i - 1];
        assert.ok((ratio >= 1.9 && ratio <= 2.1) || (gaps[i] >= 3240 && gaps[i] <= 3960), `${gaps}`);
      }
      assert.ok(gaps[gaps.length - 1] >= 3240);
    });

    it('are asked no more when one has told, and again when it is gone', () => {
      const host = new Ipv6Host();
      host.run(seconds(4));
      host.sent();
      host.give(routerAdvertisement({ lifetime: 100 }));
      host.pass(seconds(99));
      assert.deepEqual(host.sentOf(RS), []);
      host.pass(seconds(3));
      assert.ok(host.sentOf(RS).length > 0);
    });

    it('are not asked when told so', () => {
      const host = new Ipv6Host({ autoconfigure: false });
      host.run(seconds(100));
      assert.deepEqual(host.sentOf(RS), []);
    });

    it('are not heard when told so', () => {
      const host = ready({ acceptAdvertisements: false });
      host.give(routerAdvertisement());
      assert.ok(!send(host, FAR));
    });

    it('are used as long as they live, and known by the link-layer address that they tell', () => {
      const host = ready();
      assert.ok(!send(host, FAR), 'no router, no way');
      host.give(routerAdvertisement({ lifetime: 60 }));
      assert.ok(send(host, FAR));
      assert.deepEqual(
        host.sent().map(({ to }) => to),
        [ROUTER_MAC],
      );
      host.pass(seconds(61));
      host.sent();
      assert.ok(!send(host, FAR));
    });

    it('that say 0 seconds are none any more', () => {
      const host = ready();
      host.give(routerAdvertisement());
      host.give(routerAdvertisement({ lifetime: 0 }));
      assert.ok(!send(host, FAR));
    });

    it('that become hosts are none any more (§7.2.5)', () => {
      const host = ready();
      host.give(routerAdvertisement());
      host.give(neighbourAdvertisement(ROUTER, OVERRIDE | IS_ROUTER, tllao(ROUTER_MAC), { source: ROUTER }));
      assert.ok(send(host, FAR));
      host.give(neighbourAdvertisement(ROUTER, OVERRIDE, tllao(ROUTER_MAC), { source: ROUTER }));
      assert.ok(!send(host, FAR));
    });

    it('with the higher preference go first (RFC 4191), the reachable ones before all', () => {
      const host = ready();
      const HIGH = 0x08;
      const LOW = 0x18;
      const RESERVED = 0x10;
      const advertise = (address: string, last: number, flags: number): void =>
        host.give(routerAdvertisement({ source: address, flags, options: linkLayerOption(1, [2, 0, 0, 0, 1, last]) }));
      advertise('fe80::a', 0xa, LOW);
      advertise('fe80::b', 0xb, RESERVED);
      advertise('fe80::c', 0xc, HIGH);
      advertise('fe80::d', 0xd, 0);
      assert.deepEqual(
        host.ipv6.routers.routers.map(({ address, preference }) => [formatOf(address), preference]),
        [
          ['fe80::c', 1],
          ['fe80::b', 0],
          ['fe80::d', 0],
          ['fe80::a', -1],
        ],
      );
      host.sent();
      send(host, FAR);
      assert.equal(host.sent()[0].to[5], 0xc);
      // It does not answer when it is probed: the next one takes over, for old destinations too.
      host.pass(seconds(9));
      host.sent();
      send(host, FAR);
      assert.equal(host.sent().find(({ nextHeader }) => nextHeader === UNKNOWN_PROTOCOL)?.to[5], 0xb);
      advertise('fe80::c', 0xc, HIGH);
      host.sent();
      send(host, FAR);
      assert.equal(host.sent().find(({ nextHeader }) => nextHeader === UNKNOWN_PROTOCOL)?.to[5], 0xc, 'it is back');
    });

    it('are 16 at the most; a preferred one takes the place of one that is less so', () => {
      const host = ready();
      for (let i = 0; i < 20; i++) host.give(routerAdvertisement({ source: `fe80::1:${i.toString(16)}` }));
      assert.equal(host.ipv6.routers.routers.length, 16);
      assert.equal(host.ipv6.routers.counters.routersRefused, 4);
      host.give(routerAdvertisement({ source: 'fe80::2', flags: 0x08 }));
      assert.equal(host.ipv6.routers.routers.length, 16);
      assert.equal(formatOf(host.ipv6.routers.routers[0].address), 'fe80::2');
    });

    it('tell which prefixes are on the link, for how long', () => {
      const host = ready();
      host.give(
        routerAdvertisement({
          options: [...linkLayerOption(1, ROUTER_MAC), ...prefixOption('2001:db8:5::', { flags: 0x80, valid: 100 })],
        }),
      );
      host.sent();
      send(host, '2001:db8:5::7');
      assert.deepEqual(
        host.sent().map(({ destination }) => destination),
        [solicitedNodeOf('2001:db8:5::7')],
      );
      host.pass(seconds(101));
      host.sent();
      send(host, '2001:db8:5::8');
      assert.deepEqual(
        host.sent().map(({ to }) => to),
        [ROUTER_MAC],
      );
    });

    it('a prefix that only makes addresses is not on the link (RFC 5942)', () => {
      const host = ready();
      host.give(
        routerAdvertisement({
          options: [...linkLayerOption(1, ROUTER_MAC), ...prefixOption('2001:db8:5::', { flags: 0x40 })],
        }),
      );
      host.pass(seconds(2));
      host.sent();
      send(host, '2001:db8:5::7');
      const [packet] = host.sent();
      assert.deepEqual(packet.to, ROUTER_MAC);
      assert.match(packet.source, /^2001:db8:5::/);
    });

    it('end a prefix with a valid lifetime of 0, and have 32 at the most', () => {
      const host = ready();
      const advertise = (prefix: string, valid: number): void =>
        host.give(routerAdvertisement({ options: prefixOption(prefix, { flags: 0x80, valid, preferred: 0 }) }));
      for (let i = 0; i < 40; i++) advertise(`2001:db8:${i.toString(16)}::`, 1000);
      assert.equal(host.ipv6.routers.prefixes.length, 32);
      assert.equal(host.ipv6.routers.counters.prefixesRefused, 8);
      advertise('2001:db8:3::', 0);
      assert.equal(host.ipv6.routers.prefixes.length, 31);
    });

    it('set hop limit, MTU and times, within limits', () => {
      const host = ready();
      const mtu = (bytes: number): number[] => [5, 1, 0, 0, 0, 0, bytes >> 8, bytes & 0xff];
      host.give(routerAdvertisement({ curHopLimit: 33, options: mtu(1400) }));
      assert.equal(host.ipv6.hopLimit, 33);
      assert.equal(host.stack.destinations.six.linkMtu, 1400);
      host.give(routerAdvertisement({ curHopLimit: 0, options: mtu(1279) }));
      host.give(routerAdvertisement({ curHopLimit: 0, options: mtu(1501) }));
      assert.equal(host.ipv6.hopLimit, 33);
      assert.equal(host.stack.destinations.six.linkMtu, 1400);
      host.give(routerAdvertisement({ curHopLimit: 0, retrans: 200 }));
      host.sent();
      send(host, THEIRS);
      host.pass(seconds(0.5));
      assert.equal(host.sentOf(NS).length, 3, 'three questions within half a second');
      host.give(routerAdvertisement({ curHopLimit: 0, retrans: 0xffffffff }));
      send(host, '2001:db8::3');
      host.pass(seconds(21));
      assert.equal(host.sentOf(NS).length, 3, 'no router can end resolution for good');
    });

    it('tell name servers, for listing (RFC 8106)', () => {
      const host = ready();
      const rdnss = (lifetime: number, ...addresses: string[]): number[] => [
        25,
        1 + 2 * addresses.length,
        0,
        0,
        0,
        0,
        lifetime >> 8,
        lifetime & 0xff,
        ...addresses.flatMap(ip),
      ];
      host.give(routerAdvertisement({ options: rdnss(600, '2001:db8::53', '2001:db8::54', 'ff02::1') }));
      const list = (): string[] => host.ipv6.routers.nameServers.map(({ address }) => formatOf(address));
      assert.deepEqual(list(), ['2001:db8::53', '2001:db8::54']);
      host.give(routerAdvertisement({ options: rdnss(0, '2001:db8::53') }));
      assert.deepEqual(list(), ['2001:db8::54']);
      host.pass(seconds(601));
      assert.deepEqual(list(), []);
    });
  });

  describe('options', () => {
    it('of any bytes: nothing throws, nothing beyond them is read', () => {
      const options = new NdOptions();
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 120 }), fc.nat(8), (bytes, before) => {
          const padded = Uint8Array.from([...Array(before).fill(0xff), ...bytes]);
          const watched = new Proxy(padded, {
            get(target, key) {
              if (typeof key === 'string' && /^\d+$/.test(key)) {
                assert.ok(Number(key) >= before && Number(key) < padded.length, `byte ${key} is outside`);
              }
              return Reflect.get(target, key);
            },
          });
          if (!options.parse(watched, before, padded.length)) return;
          for (const found of [options.sourceMac, options.targetMac])
            assert.ok(found < 0 || found + 6 <= padded.length);
          for (let i = 0; i < options.prefixCount; i++) assert.ok(options.prefixes[i] + 32 <= padded.length);
          for (let i = 0; i < options.rdnssCount; i++) assert.ok(options.rdnss[i] + 24 <= padded.length);
          assert.ok(options.nonce < 0 || options.nonce + options.nonceBytes <= padded.length);
        }),
      );
    });
  });

  it('whatever comes: nothing throws, tables stay within bounds, and questions are answered afterwards', () => {
    const host = ready();
    const option = fc.oneof(
      fc
        .tuple(fc.constantFrom(1, 2, 3, 5, 14, 25, 99), fc.nat(4), fc.uint8Array({ minLength: 6, maxLength: 30 }))
        .map(([type, length, rest]) => [type, length, ...rest]),
      fc.uint8Array({ minLength: 6, maxLength: 6 }).map((mac) => [1, 1, ...mac]),
      fc.uint8Array({ minLength: 30, maxLength: 30 }).map((rest) => [3, 4, ...rest]),
    );
    const source = fc.constantFrom(ROUTER, PEER, THEIRS, '::', 'fe80::7777');
    const destination = fc.constantFrom(OURS, 'ff02::1', solicitedNodeOf(OURS));
    const message = fc.tuple(
      fc.integer({ min: 130, max: 143 }),
      fc.uint8Array({ maxLength: 40 }),
      fc.array(option, { maxLength: 4 }),
    );
    fc.assert(
      fc.property(source, destination, message, (from, to, [type, fixed, options]) => {
        host.give(icmpv6(type, 0, [...fixed, ...options.flat()], { source: from, destination: to, hopLimit: 255 }));
        host.pass(1000);
      }),
      { numRuns: 3000 },
    );
    assert.ok(host.ipv6.routers.routers.length <= 16 && host.ipv6.routers.prefixes.length <= 32);
    assert.ok(host.ipv6.addresses.list().length <= 20);
    host.pass(seconds(30));
    host.sent();
    host.give(neighbourSolicitation(OURS, sllao, { source: THEIRS, destination: OURS }));
    assert.equal(host.sentOf(NA).length, 1);
  });

  it('a packet for somebody unknown by way of ourselves is not forwarded', () => {
    const host = ready();
    host.give(ipv6([1], { source: THEIRS, destination: FAR, nextHeader: UNKNOWN_PROTOCOL }), { to: OUR_MAC });
    assert.deepEqual(host.sent(), []);
  });
});
