import assert from 'node:assert/strict';
import {
  formatOf,
  Ipv6Host,
  ip,
  isIntact,
  neighbourAdvertisement,
  neighbourSolicitation,
  prefixOption,
  routerAdvertisement,
  solicitedNodeOf,
} from '../../helpers/ipv6-host.ts';
import { OUR_MAC, THEIR_MAC } from '../../helpers/tcpip-packets.ts';
import { seconds } from '../../helpers/tcpip-wire.ts';

const SECRET = Uint8Array.from({ length: 16 }, (_, i) => i);
const ALL_NODES = 'ff02::1';
const NS = 135;

const states = (host: Ipv6Host): string[] =>
  host.ipv6.addresses.list().map(({ bytes, state, origin }) => `${formatOf(bytes)} ${state} ${origin}`);

describe('address configuration', () => {
  describe('the link-local address', () => {
    it('is tried out from :: with a nonce, and ours a second later (RFC 4862 §5.4, RFC 7527)', () => {
      const host = new Ipv6Host({ interfaceId: 'eui64' });
      host.run(seconds(3));
      const [ns, ...more] = host.sentOf(NS);
      assert.equal(more.length, 0);
      assert.equal(ns.source, '::');
      assert.equal(ns.destination, 'ff02::1:ff00:1');
      assert.deepEqual(ns.to, [0x33, 0x33, 0xff, 0, 0, 1]);
      assert.equal(ns.hopLimit, 255);
      assert.ok(isIntact(ns));
      // Modified EUI-64 of 02:00:00:00:00:01: the universal/local bit turned, ff:fe in the middle.
      assert.deepEqual([...ns.payload.subarray(8, 24)], ip('fe80::ff:fe00:1'));
      assert.deepEqual(
        [...ns.payload.subarray(24, 26)],
        [14, 1],
        'a nonce option of one unit, and no link-layer address',
      );
      assert.equal(ns.payload.length, 32);
      assert.deepEqual(states(host), ['fe80::ff:fe00:1 preferred link-local']);
      assert.ok(ns.at >= seconds(1) && ns.at < seconds(2), 'after up to a second');
    });

    it('is not used before: nothing is answered for it', () => {
      const host = new Ipv6Host({ interfaceId: 'eui64' });
      host.give(neighbourSolicitation('fe80::ff:fe00:1', [1, 1, ...THEIR_MAC], { destination: ALL_NODES }));
      assert.deepEqual(host.sentOf(136), []);
      assert.match(states(host)[0], /tentative/);
    });

    it('has an opaque identifier that comes back with the secret (RFC 7217), and another one on another network', () => {
      const once = new Ipv6Host({ secret: SECRET, seed: 1 });
      const again = new Ipv6Host({ secret: SECRET, seed: 2 });
      const elsewhere = new Ipv6Host({ secret: SECRET, networkId: 'guests', seed: 2 });
      for (const host of [once, again, elsewhere]) host.run(seconds(4));
      assert.deepEqual(states(once), states(again));
      assert.notDeepEqual(states(once), states(elsewhere));
    });

    it('that somebody has gives way to another one, three times (RFC 7217 §6), and then to none', () => {
      const host = new Ipv6Host({ secret: SECRET });
      const tried = new Set<string>();
      for (let round = 0; round < 6; round++) {
        while (host.ipv6.addresses.list().some(({ state }) => state === 'tentative')) {
          const [ns] = host.sentOf(NS);
          if (ns !== undefined) {
            const target = formatOf(ns.payload.subarray(8, 24));
            tried.add(target);
            host.give(
              neighbourAdvertisement(target, 0x20, [2, 1, ...THEIR_MAC], { source: target, destination: ALL_NODES }),
            );
          } else host.pass(seconds(0.1));
        }
      }
      assert.equal(tried.size, 4);
      assert.equal(host.ipv6.addresses.counters.dadDuplicates, 4);
      assert.match(states(host).join(), /^fe80:[^ ]* duplicate link-local$/);
      host.pass(seconds(60));
      assert.deepEqual(host.sentOf(133), [], 'no router is asked without a link-local address');
    });
  });

  describe('duplicate address detection', () => {
    const target = 'fe80::ff:fe00:1';
    const begin = (): { host: Ipv6Host; nonce: number[] } => {
      const host = new Ipv6Host({ interfaceId: 'eui64' });
      for (;;) {
        const [ns] = host.sentOf(NS);
        if (ns !== undefined) return { host, nonce: [...ns.payload.subarray(26, 32)] };
        host.pass(seconds(0.01));
      }
    };
    const group = solicitedNodeOf(target);

    it('fails when another host tries the same address out at the same time', () => {
      const { host } = begin();
      host.give(neighbourSolicitation(target, [14, 1, 1, 2, 3, 4, 5, 6], { source: '::', destination: group }));
      assert.deepEqual(states(host), [`${target} duplicate link-local`]);
    });

    it('does not fail for its own question that comes back, and asks thrice more (RFC 7527 §4.1)', () => {
      const { host, nonce } = begin();
      host.give(neighbourSolicitation(target, [14, 1, ...nonce], { source: '::', destination: group }));
      assert.match(states(host)[0], /tentative/);
      host.pass(seconds(1.5));
      assert.match(states(host)[0], /tentative/, 'not yet: there is a loop');
      host.pass(seconds(5));
      const more = host.sentOf(NS);
      assert.equal(more.length, 3);
      assert.equal(new Set(more.map(({ payload }) => payload.subarray(26, 32).join())).size, 3, 'with new nonces');
      assert.match(states(host)[0], /preferred/);
      assert.equal(host.ipv6.addresses.counters.dadLooped, 1);
    });

    it('does not mind who wants to talk to the address already', () => {
      const { host } = begin();
      host.give(neighbourSolicitation(target, [1, 1, ...THEIR_MAC], { destination: group }));
      host.pass(seconds(2));
      assert.match(states(host)[0], /preferred/);
    });

    it('does not take a word from afar: hop limit 254', () => {
      const { host } = begin();
      host.give(
        neighbourAdvertisement(target, 0x20, [2, 1, ...THEIR_MAC], {
          source: target,
          destination: ALL_NODES,
          hopLimit: 254,
        }),
      );
      host.pass(seconds(2));
      assert.match(states(host)[0], /preferred/);
      assert.equal(host.ipv6.discovery.counters.inInvalid, 1);
    });

    it('is left out on demand, and sends as often as it is told to', () => {
      const none = new Ipv6Host({ dadTransmits: 0 });
      assert.match(states(none)[0], /preferred/);
      const thrice = new Ipv6Host({ dadTransmits: 3 });
      thrice.run(seconds(6));
      assert.equal(thrice.sentOf(NS).length, 3);
    });

    it('defends the address later: to all, not solicited', () => {
      const host = new Ipv6Host({ dadTransmits: 0, interfaceId: 'eui64' });
      host.give(neighbourSolicitation(target, [14, 1, 1, 2, 3, 4, 5, 6], { source: '::', destination: group }));
      const [na] = host.sentOf(136);
      assert.equal(na.destination, ALL_NODES);
      assert.equal(na.payload[4], 0x20, 'override alone');
      assert.deepEqual([...na.payload.subarray(24)], [2, 1, ...OUR_MAC]);
    });
  });

  describe('prefixes (RFC 4862 §5.5)', () => {
    const ready = (): Ipv6Host => {
      const host = new Ipv6Host({ interfaceId: 'eui64' });
      host.run(seconds(4));
      return host;
    };
    const advertise = (host: Ipv6Host, valid: number, preferred: number, prefix = '2001:db8::', length = 64): void =>
      host.give(routerAdvertisement({ options: prefixOption(prefix, { valid, preferred, length }) }));
    const address = '2001:db8::ff:fe00:1';
    const find = (host: Ipv6Host) => host.ipv6.addresses.get(Uint8Array.from(ip(address)), 0);

    it('make an address, which is tried out first', () => {
      const host = ready();
      advertise(host, 86_400, 14_400);
      assert.equal(find(host)?.state, 'tentative');
      host.pass(seconds(3));
      assert.equal(find(host)?.state, 'preferred');
      assert.notEqual(host.stack.locals.find(6, Uint8Array.from(ip(address)), 0), -1);
    });

    it('end: deprecated, then gone', () => {
      const host = ready();
      advertise(host, 20_000, 100);
      host.pass(seconds(101));
      assert.equal(find(host)?.state, 'deprecated');
      const local = host.stack.locals.find(6, Uint8Array.from(ip(address)), 0);
      assert.equal(host.stack.locals.get(local)?.deprecated, true);
      host.pass(seconds(20_000));
      assert.equal(find(host), undefined);
      assert.equal(host.stack.locals.find(6, Uint8Array.from(ip(address)), 0), -1);
    });

    it('never end when they are infinite', () => {
      const host = ready();
      advertise(host, 0xffff_ffff, 0xffff_ffff);
      host.pass(seconds(365 * 86_400));
      assert.equal(find(host)?.state, 'preferred');
    });

    it('cannot be ended at once by anybody: two hours are left (§5.5.3 e)', () => {
      const host = ready();
      advertise(host, 86_400, 14_400);
      host.pass(seconds(3));
      advertise(host, 1, 1);
      assert.equal(find(host)?.validUntil, host.now + seconds(7200));
      advertise(host, 0, 0);
      assert.equal(find(host)?.validUntil, host.now + seconds(7200));
      assert.equal(find(host)?.state, 'deprecated', 'the preferred lifetime is believed');
    });

    it('below two hours are only lengthened', () => {
      const host = ready();
      advertise(host, 3600, 3600);
      const until = find(host)!.validUntil;
      host.pass(seconds(10));
      advertise(host, 1800, 1800);
      assert.equal(find(host)?.validUntil, until);
      advertise(host, 5000, 1800);
      assert.equal(find(host)?.validUntil, host.now + seconds(5000));
    });

    for (const [what, options] of [
      ['is preferred longer than valid', { valid: 100, preferred: 200 }],
      ['has not 64 bits', { length: 56 }],
      ['is of no time', { valid: 0, preferred: 0 }],
      ['is not autonomous', { flags: 0x80 }],
    ] as const) {
      it(`make none when it ${what}`, () => {
        const host = ready();
        host.give(routerAdvertisement({ options: prefixOption('2001:db8::', options) }));
        assert.equal(find(host), undefined);
      });
    }

    it('make none of the link-local prefix, nor of a group', () => {
      const host = ready();
      const before = host.ipv6.addresses.list().length;
      host.give(routerAdvertisement({ options: [...prefixOption('fe80::'), ...prefixOption('ff05::')] }));
      assert.equal(host.ipv6.addresses.list().length, before);
      assert.equal(host.ipv6.routers.prefixes.length, 0);
    });

    it('make 16 addresses at the most', () => {
      const host = ready();
      for (let i = 0; i < 20; i++) advertise(host, 86_400, 14_400, `2001:db8:${i.toString(16)}::`);
      assert.equal(host.ipv6.addresses.list().filter(({ origin }) => origin === 'slaac').length, 16);
      assert.equal(host.ipv6.addresses.counters.autoconfRefused, 4);
    });
  });

  describe('addresses by hand', () => {
    it('are tried out, used, and given up', () => {
      const host = new Ipv6Host();
      const bytes = Uint8Array.from(ip('2001:db8::5'));
      host.ipv6.addresses.add(bytes, 64, host.now);
      host.settle();
      assert.equal(host.stack.locals.find(6, bytes, 0), -1);
      host.pass(seconds(1));
      assert.notEqual(host.stack.locals.find(6, bytes, 0), -1);
      assert.deepEqual(
        host.stack.routes.list(6).map(({ origin, prefixLength }) => [origin, prefixLength]),
        [['connected', 64]],
      );
      assert.ok(host.ipv6.addresses.remove(bytes, host.now));
      assert.equal(host.stack.locals.find(6, bytes, 0), -1);
      assert.deepEqual(host.stack.routes.list(6), []);
      assert.ok(!host.ipv6.addresses.remove(bytes, host.now));
    });

    it('that cannot be are refused', () => {
      const host = new Ipv6Host();
      const add = (bytes: number[], prefixLength = 64) =>
        host.ipv6.addresses.add(Uint8Array.from(bytes), prefixLength, host.now);
      assert.throws(() => add([10, 0, 0, 1]), { name: 'RangeError', message: /IPv6 address of 4 bytes: it has 16/ });
      assert.throws(() => add(ip('ff02::1')), { name: 'RangeError', message: /multicast or the unspecified/ });
      assert.throws(() => add(ip('::')), { name: 'RangeError', message: /multicast or the unspecified/ });
      assert.throws(() => add(ip('2001:db8::1'), 129), {
        name: 'RangeError',
        message: /129 bits: give a whole number from 0 to 128/,
      });
    });
  });

  it('refuses options that cannot be', () => {
    assert.throws(() => new Ipv6Host({ secret: new Uint8Array(8) }), {
      name: 'RangeError',
      message: /secret of 8 bytes/,
    });
    assert.throws(() => new Ipv6Host({ dadTransmits: -1 }), { name: 'RangeError', message: /-1 transmits/ });
    assert.throws(() => new Ipv6Host({ device: { mtu: 1000 } }), {
      name: 'RangeError',
      message: /MTU of 1000: IPv6 needs 1280/,
    });
  });
});
