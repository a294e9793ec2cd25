import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  formatOf,
  Ipv6Host,
  icmpMessage,
  ip,
  ipv6,
  isIntact,
  type MessageShape,
  ROUTER,
  type Sent,
  u16,
} from '../../helpers/ipv6-host.ts';
import { seconds } from '../../helpers/tcpip-wire.ts';

const GROUP = 'ff15::5';
const OTHER = 'ff15::6';
const S1 = '2001:db8::a1';
const S2 = '2001:db8::a2';
const QUERY = 130;
const V1_REPORT = 131;
const V1_DONE = 132;
const V2_REPORT = 143;
const bytesOf = (address: string): Uint8Array => Uint8Array.from(ip(address));

interface Shape extends MessageShape {
  alert?: number[] | null;
}

/** An MLD message with its router alert (RFC 3810 §5): `05 02 00 00` and a PadN. */
function mld(type: number, body: number[], { alert = [5, 2, 0, 0, 1, 0], ...shape }: Shape = {}): number[] {
  const { source = ROUTER, destination = 'ff02::1', hopLimit = 1 } = shape;
  const message = icmpMessage(type, 0, body, source, destination);
  if (alert === null) return ipv6(message, { source, destination, hopLimit });
  return ipv6([58, 0, ...alert, ...message], { source, destination, hopLimit, nextHeader: 0 });
}

const query2 = (
  maxResponseMs: number,
  group = '::',
  sources: string[] = [],
  { qrv = 2, qqic = 125, ...shape }: Shape & { qrv?: number; qqic?: number } = {},
): number[] =>
  mld(
    QUERY,
    [...u16(maxResponseMs), 0, 0, ...ip(group), qrv, qqic, ...u16(sources.length), ...sources.flatMap(ip)],
    shape,
  );
const query1 = (maxResponseMs: number, group = '::'): number[] =>
  mld(QUERY, [...u16(maxResponseMs), 0, 0, ...ip(group)]);

/** `3 ff15::5 [2001:db8::a1]` for each record of a report of version 2; `131 ff15::5` for the older ones. */
function describeReport(sent: Sent): string[] {
  // Hop-by-hop: router alert, padded (RFC 3810 §5).
  assert.equal(sent.nextHeader, 0);
  assert.deepEqual([...sent.payload.subarray(0, 8)], [58, 0, 5, 2, 0, 0, 1, 0]);
  assert.equal(sent.hopLimit, 1);
  const message = sent.payload.subarray(8);
  assert.ok(isIntact({ ...sent, payload: message }));
  if (message[0] !== V2_REPORT) return [`${message[0]} ${formatOf(message.subarray(8, 24))} to ${sent.destination}`];
  assert.equal(sent.destination, 'ff02::16');
  assert.deepEqual(sent.to, [0x33, 0x33, 0, 0, 0, 0x16]);
  const records: string[] = [];
  let at = 8;
  for (let count = (message[6] << 8) | message[7]; count > 0; count--) {
    const sources = (message[at + 2] << 8) | message[at + 3];
    const list = Array.from({ length: sources }, (_, i) =>
      formatOf(message.subarray(at + 20 + 16 * i, at + 36 + 16 * i)),
    );
    records.push(`${message[at]} ${formatOf(message.subarray(at + 4, at + 20))} [${list}]`);
    at += 20 + 16 * sources;
  }
  assert.equal(at, message.length);
  return records;
}

const reports = (host: Ipv6Host): string[] =>
  host
    .sent()
    .filter(({ nextHeader }) => nextHeader === 0)
    .flatMap(describeReport);

/** A host with a link-local address, whose own joins are over. */
function ready(): Ipv6Host {
  const host = new Ipv6Host({ interfaceId: 'eui64', autoconfigure: false });
  host.run(seconds(10));
  host.sent();
  return host;
}

describe('multicast listener discovery', () => {
  it('tells of the solicited-node group from :: first, then from the link-local address (RFC 3590)', () => {
    const host = new Ipv6Host({ interfaceId: 'eui64', autoconfigure: false });
    host.run(seconds(10));
    const sent = host.sent().filter(({ nextHeader }) => nextHeader === 0);
    assert.deepEqual([...new Set(sent.flatMap(describeReport))], ['4 ff02::1:ff00:1 []']);
    assert.equal(sent[0].source, '::');
    assert.deepEqual(
      sent.slice(-2).map(({ source }) => source),
      ['fe80::ff:fe00:1', 'fe80::ff:fe00:1'],
    );
  });

  it('a join is told at once and once more within a second; so is a leave', () => {
    const host = ready();
    host.ipv6.groups.join(bytesOf(GROUP), host.now);
    host.settle();
    assert.deepEqual(reports(host), [`4 ${GROUP} []`]);
    host.pass(seconds(1));
    assert.deepEqual(reports(host), [`4 ${GROUP} []`]);
    host.pass(seconds(100));
    assert.deepEqual(reports(host), []);
    host.ipv6.groups.leave(bytesOf(GROUP), host.now);
    host.pass(seconds(2));
    assert.deepEqual(reports(host), [`3 ${GROUP} []`, `3 ${GROUP} []`]);
    assert.ok(!host.ipv6.groups.memberships.groups().some((group) => formatOf(group) === GROUP));
  });

  it('what changes at one time is told in one message, and a group is joined once', () => {
    const host = ready();
    for (const group of [GROUP, OTHER, GROUP]) host.ipv6.groups.join(bytesOf(group), host.now);
    host.settle();
    const [sent, ...more] = host.sent();
    assert.deepEqual(more, []);
    assert.deepEqual(describeReport(sent), [`4 ${GROUP} []`, `4 ${OTHER} []`]);
    host.ipv6.groups.leave(bytesOf(GROUP), host.now);
    host.pass(seconds(3));
    assert.ok(!reports(host).some((record) => record.startsWith('3')), 'somebody still listens');
  });

  it('source filters are merged (RFC 3810 §4.2) and their changes told', () => {
    const host = ready();
    const [a, b] = [{}, {}];
    const set = (listener: object, mode: 'include' | 'exclude', ...sources: string[]): string[] => {
      host.ipv6.groups.setFilter(bytesOf(GROUP), listener, { mode, sources: sources.map(bytesOf) }, host.now);
      host.settle();
      const told = reports(host);
      host.pass(seconds(3));
      host.sent();
      return told;
    };
    assert.deepEqual(set(a, 'include', S1), [`5 ${GROUP} [${S1}]`]);
    assert.deepEqual(set(a, 'include', S2), [`5 ${GROUP} [${S2}]`, `6 ${GROUP} [${S1}]`]);
    assert.deepEqual(set(b, 'include', S1, S2), [`5 ${GROUP} [${S1}]`]);
    assert.deepEqual(set(b, 'exclude', S1, S2), [`4 ${GROUP} [${S1}]`]);
    assert.deepEqual(set(a, 'include'), [`6 ${GROUP} [${S2}]`]);
    assert.deepEqual(set(b, 'exclude'), [`5 ${GROUP} [${S1},${S2}]`]);
    assert.deepEqual(set(b, 'include'), [`3 ${GROUP} []`]);
  });

  it('only packets that somebody wants get in', () => {
    const host = ready();
    const bytes = Uint8Array.from([...ip(S1), ...ip(S2), ...ip(GROUP)]);
    const gets = (source: number): boolean => host.ipv6.groups.has(bytes, 32, source);
    assert.deepEqual([gets(0), gets(16)], [false, false]);
    host.ipv6.groups.setFilter(bytesOf(GROUP), host, { mode: 'include', sources: [bytesOf(S1)] }, host.now);
    assert.deepEqual([gets(0), gets(16)], [true, false]);
    host.ipv6.groups.setFilter(bytesOf(GROUP), host, { mode: 'exclude', sources: [bytesOf(S1)] }, host.now);
    assert.deepEqual([gets(0), gets(16)], [false, true]);
    host.ipv6.groups.join(bytesOf(GROUP), host.now);
    assert.deepEqual([gets(0), gets(16)], [true, true]);
  });

  describe('queries', () => {
    const joined = (): Ipv6Host => {
      const host = ready();
      host.ipv6.groups.join(bytesOf(GROUP), host.now);
      host.ipv6.groups.setFilter(
        bytesOf(OTHER),
        host,
        { mode: 'include', sources: [bytesOf(S1), bytesOf(S2)] },
        host.now,
      );
      host.pass(seconds(3));
      host.sent();
      return host;
    };
    const all = ['2 ff02::1:ff00:1 []', `2 ${GROUP} []`, `1 ${OTHER} [${S1},${S2}]`];

    it('general ones are answered with all groups, within the time', () => {
      const host = joined();
      host.give(query2(5000));
      assert.deepEqual(reports(host), [], 'not at once');
      host.pass(seconds(5));
      assert.deepEqual(reports(host), all);
      host.pass(seconds(20));
      assert.deepEqual(reports(host), []);
    });

    it('at a time that differs from host to host', () => {
      const times = [1, 2, 3, 4, 5].map((seed) => {
        const host = new Ipv6Host({ seed });
        host.run(seconds(10));
        host.sent();
        host.give(query2(10_000));
        host.pass(seconds(10));
        return host.sent().find(({ nextHeader }) => nextHeader === 0)!.at;
      });
      assert.ok(new Set(times).size >= 4, `${times}`);
    });

    it('about a group are answered for that one; about sources, for those', () => {
      const host = joined();
      const ask = (packet: number[]): string[] => {
        host.give(packet);
        host.pass(seconds(2));
        return reports(host);
      };
      assert.deepEqual(ask(query2(1000, GROUP, [], { destination: GROUP })), [`2 ${GROUP} []`]);
      assert.deepEqual(ask(query2(1000, GROUP, [S1], { destination: GROUP })), [`1 ${GROUP} [${S1}]`]);
      assert.deepEqual(ask(query2(1000, OTHER, [S2, '2001:db8::99'], { destination: OTHER })), [`1 ${OTHER} [${S2}]`]);
      assert.deepEqual(ask(query2(1000, OTHER, ['2001:db8::99'], { destination: OTHER })), []);
      assert.deepEqual(ask(query2(1000, 'ff15::99')), []);
    });

    it('that come together have one answer (RFC 3810 §6.2)', () => {
      const host = joined();
      host.give(query2(1000, OTHER, [S1], { destination: OTHER }));
      host.give(query2(1000, OTHER, [S2], { destination: OTHER }));
      host.pass(seconds(2));
      assert.deepEqual(reports(host), [`1 ${OTHER} [${S1},${S2}]`]);
      host.give(query2(1000, OTHER, [S1], { destination: OTHER }));
      host.give(query2(1000, OTHER, [], { destination: OTHER }));
      host.pass(seconds(2));
      assert.deepEqual(reports(host), [`1 ${OTHER} [${S1},${S2}]`]);
    });

    it('set the robustness', () => {
      const host = joined();
      host.give(query2(1000, '::', [], { qrv: 5 }));
      host.pass(seconds(2));
      host.sent();
      host.ipv6.groups.leave(bytesOf(GROUP), host.now);
      host.pass(seconds(20));
      assert.deepEqual(reports(host), Array(5).fill(`3 ${GROUP} []`));
    });

    it('with a code from 32768 on have an exponent (§5.1.3)', () => {
      const host = joined();
      // 0x8001: (0x1001) << 3 = 32,776 ms.
      host.give(query2(0x8001));
      host.pass(seconds(32.777));
      assert.deepEqual(reports(host), all);
    });

    for (const [what, packet] of [
      ['no router alert', query2(1000, '::', [], { alert: null })],
      ['another router alert', query2(1000, '::', [], { alert: [5, 2, 0, 1, 1, 0] })],
      ['a hop limit of 2', query2(1000, '::', [], { hopLimit: 2 })],
      ['no link-local source', query2(1000, '::', [], { source: '2001:db8::fe' })],
      ['more sources told than there', mld(QUERY, [...u16(1000), 0, 0, ...ip(OTHER), 2, 125, 0, 2, ...ip(S1)])],
      ['a length of no version', mld(QUERY, [...u16(1000), 0, 0, ...ip('::'), 2, 125])],
    ] as const) {
      it(`are not heard with ${what}`, () => {
        const host = joined();
        host.give([...packet]);
        host.pass(seconds(5));
        assert.deepEqual(reports(host), []);
        assert.equal(host.ipv6.groups.counters.inInvalid, 1);
      });
    }
  });

  describe('of version 1 (RFC 3810 §8)', () => {
    const old = (): Ipv6Host => {
      const host = ready();
      host.give(query1(1000));
      host.pass(seconds(2));
      return host;
    };

    it('are answered in kind, for a while', () => {
      const host = old();
      assert.deepEqual(reports(host), ['131 ff02::1:ff00:1 to ff02::1:ff00:1']);
      assert.equal(host.ipv6.groups.version, 1);
      host.ipv6.groups.join(bytesOf(GROUP), host.now);
      host.pass(seconds(15));
      assert.deepEqual(reports(host), Array(2).fill(`131 ${GROUP} to ${GROUP}`));
      host.ipv6.groups.leave(bytesOf(GROUP), host.now);
      host.pass(seconds(15));
      assert.deepEqual(reports(host), [`132 ${GROUP} to ff02::2`]);
      // Older Version Querier Present Timeout: 2 × 125 s and the response time.
      host.pass(seconds(251));
      assert.equal(host.ipv6.groups.version, 2);
      host.ipv6.groups.join(bytesOf(GROUP), host.now);
      host.settle();
      assert.deepEqual(reports(host), [`4 ${GROUP} []`]);
    });

    it('need no report where somebody else has just sent one', () => {
      const host = old();
      host.ipv6.groups.join(bytesOf(GROUP), host.now);
      host.pass(seconds(15));
      host.sent();
      host.give(query1(10_000, GROUP));
      host.give(mld(V1_REPORT, [0, 0, 0, 0, ...ip(GROUP)], { destination: GROUP }));
      host.pass(seconds(11));
      assert.deepEqual(reports(host), []);
      assert.equal(host.ipv6.groups.memberships.counters.suppressed, 1);
    });
  });

  it('reports of many groups are cut into packets of 1280 bytes', () => {
    const host = ready();
    for (let i = 1; i <= 200; i++) host.ipv6.groups.join(bytesOf(`ff15::1:${i.toString(16)}`), host.now);
    host.settle();
    const sent = host.sent();
    assert.ok(sent.length >= 4 && sent.every(({ packet }) => packet.length <= 1280));
    assert.equal(sent.flatMap(describeReport).length, 200);
  });

  it('filters that cannot be are refused', () => {
    const host = ready();
    const sources = Array.from({ length: 65 }, (_, i) => bytesOf(`2001:db8::${i.toString(16)}`));
    const { groups } = host.ipv6;
    assert.throws(() => groups.setFilter(bytesOf(GROUP), host, { mode: 'include', sources }, host.now), {
      name: 'RangeError',
      message: /65 sources/,
    });
    assert.throws(() => groups.join(Uint8Array.of(224, 0, 0, 5), host.now), {
      name: 'RangeError',
      message: /group of 4 bytes/,
    });
  });

  it('whatever comes and goes: nothing throws, and what we listen to in the end is told', () => {
    const change = fc.oneof(
      fc.record({
        kind: fc.constant('query'),
        body: fc.uint8Array({ maxLength: 60 }),
        type: fc.constantFrom(QUERY, V1_REPORT, V1_DONE, V2_REPORT),
      }),
      fc.record({
        kind: fc.constant('filter'),
        mode: fc.constantFrom('include' as const, 'exclude' as const),
        sources: fc.subarray([S1, S2]),
        group: fc.constantFrom(GROUP, OTHER),
        listener: fc.nat(2),
      }),
      fc.record({ kind: fc.constant('time'), time: fc.nat(3_000_000) }),
    );
    fc.assert(
      fc.property(fc.array(change, { maxLength: 30 }), (changes) => {
        const host = ready();
        const listeners = [{}, {}, {}];
        for (const each of changes) {
          if ('body' in each) host.give(mld(each.type, [...each.body]));
          else if ('mode' in each) {
            host.ipv6.groups.setFilter(
              bytesOf(each.group),
              listeners[each.listener],
              { mode: each.mode, sources: each.sources.map(bytesOf) },
              host.now,
            );
          } else host.pass((each as { time: number }).time);
        }
        host.pass(seconds(40_000));
        host.sent();
        host.give(query2(1000));
        host.pass(seconds(2));
        const told = reports(host).map((record) => record.split(' ')[1]);
        assert.deepEqual(
          told.sort(),
          host.ipv6.groups.memberships
            .groups()
            .map(formatOf)
            .filter((group) => group !== 'ff02::1')
            .sort(),
        );
      }),
      { numRuns: 60 },
    );
  });
});
