import assert from 'node:assert/strict';
import fc from 'fast-check';
import { Igmp } from '../../../tcpip/multicast/igmp.ts';
import { Stack } from '../../../tcpip/stack.ts';
import { checksum, frame, ipv4 } from '../../helpers/tcpip-packets.ts';
import { MemoryDevice, seconds, seeded } from '../../helpers/tcpip-wire.ts';

const ALERT = [0x94, 4, 0, 0];
const QUERIER = [10, 0, 0, 254];
const GROUP = [239, 1, 2, 3];
const OTHER = [239, 129, 2, 4];
const S1 = [10, 0, 0, 7];
const S2 = [10, 0, 0, 8];
const ALL_SYSTEMS = [224, 0, 0, 1];
const text = (bytes: ArrayLike<number>): string => Array.from(bytes).join('.');
const of = (address: number[]): Uint8Array => Uint8Array.from(address);

class Host {
  now = seconds(1);
  readonly device = new MemoryDevice();
  readonly stack: Stack;
  readonly igmp: Igmp;

  constructor(withAddress = true) {
    this.stack = new Stack({ device: this.device, random: seeded(1) });
    this.stack.advance(this.now);
    this.igmp = new Igmp(this.stack);
    this.stack.ipv4.groups = this.igmp;
    this.stack.addTransport(2, this.igmp);
    if (withAddress) this.stack.addAddress(Uint8Array.of(10, 0, 0, 1), 24);
    this.pass(seconds(10));
    this.device.sent = [];
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

  give(message: number[], { options = ALERT, destination = ALL_SYSTEMS, checksumError = 0 } = {}): void {
    const whole = [...message];
    const sum = checksum(whole) + checksumError;
    whole.splice(2, 2, sum >> 8, sum & 0xff);
    const packet = ipv4(whole, { source: QUERIER, destination, protocol: 2, ttl: 1, options });
    this.device.give(frame(packet, { to: [1, 0, 0x5e, destination[1] & 0x7f, destination[2], destination[3]] }));
    this.pass(0);
  }

  /** `4 239.1.2.3 []` for each record of a report of version 3; `16 239.1.2.3 to …` (hex type) for the older ones. */
  reports(): string[] {
    const sent = this.device.sent.map(({ bytes }) => bytes).filter((bytes) => bytes[12] === 8 && bytes[13] === 0);
    this.device.sent = [];
    return sent.flatMap(describeReport);
  }
}

function describeReport(bytes: Uint8Array): string[] {
  const packet = bytes.subarray(14);
  const header = (packet[0] & 15) * 4;
  assert.equal(checksum(packet.subarray(0, header)), 0);
  assert.equal(packet[8], 1, 'TTL');
  assert.equal(packet[9], 2);
  const destination = packet.subarray(16, 20);
  assert.deepEqual([...bytes.subarray(0, 6)], [1, 0, 0x5e, destination[1] & 0x7f, destination[2], destination[3]]);
  const message = packet.subarray(header);
  assert.equal(message.length, ((packet[2] << 8) | packet[3]) - header);
  assert.equal(checksum(message), 0);
  if (message[0] !== 0x12) assert.deepEqual([...packet.subarray(20, 24)], ALERT);
  if (message[0] !== 0x22)
    return [`${message[0].toString(16)} ${text(message.subarray(4, 8))} to ${text(destination)}`];
  assert.equal(text(destination), '224.0.0.22');
  const records: string[] = [];
  let at = 8;
  for (let count = (message[6] << 8) | message[7]; count > 0; count--) {
    const sources = (message[at + 2] << 8) | message[at + 3];
    const list = Array.from({ length: sources }, (_, i) => text(message.subarray(at + 8 + 4 * i, at + 12 + 4 * i)));
    records.push(`${message[at]} ${text(message.subarray(at + 4, at + 8))} [${list}]`);
    at += 8 + 4 * sources;
  }
  assert.equal(at, message.length);
  return records;
}

const query3 = (code: number, group = [0, 0, 0, 0], sources: number[][] = []): number[] => [
  0x11,
  code,
  0,
  0,
  ...group,
  2,
  125,
  0,
  sources.length,
  ...sources.flat(),
];
const queryOld = (code: number, group = [0, 0, 0, 0]): number[] => [0x11, code, 0, 0, ...group];

describe('IGMP', () => {
  it('tells of a join and a leave twice each (RFC 3376 §5.1)', () => {
    const host = new Host();
    host.igmp.join(of(GROUP), host.now);
    host.pass(0);
    assert.deepEqual(host.reports(), ['4 239.1.2.3 []']);
    host.pass(seconds(1));
    assert.deepEqual(host.reports(), ['4 239.1.2.3 []']);
    host.igmp.leave(of(GROUP), host.now);
    host.pass(seconds(5));
    assert.deepEqual(host.reports(), ['3 239.1.2.3 []', '3 239.1.2.3 []']);
  });

  it('from 0.0.0.0 as long as there is no address, and never of 224.0.0.1', () => {
    const host = new Host(false);
    host.igmp.join(of(ALL_SYSTEMS), host.now);
    host.pass(seconds(5));
    assert.equal(host.device.sent.length, 0);
    host.igmp.join(of(GROUP), host.now);
    host.pass(0);
    assert.deepEqual([...host.device.sent[0].bytes.subarray(26, 30)], [0, 0, 0, 0]);
  });

  it('lets in what somebody listens to', () => {
    const host = new Host();
    let count = 0;
    host.stack.addTransport(200, { input: () => count++, error: () => false, writable: () => {} });
    const give = (source: number[]): void => {
      host.device.give(frame(ipv4([1], { source, destination: GROUP, protocol: 200 }), { to: [1, 0, 0x5e, 1, 2, 3] }));
      host.pass(0);
    };
    give(S1);
    assert.equal(count, 0);
    host.igmp.join(of(GROUP), host.now);
    give(S1);
    assert.equal(count, 1);
    host.igmp.leave(of(GROUP), host.now);
    host.igmp.setFilter(of(GROUP), host, { mode: 'include', sources: [of(S1)] }, host.now);
    give(S1);
    give(S2);
    assert.equal(count, 2);
  });

  describe('queries', () => {
    const joined = (): Host => {
      const host = new Host();
      host.igmp.join(of(GROUP), host.now);
      host.igmp.setFilter(of(OTHER), host, { mode: 'include', sources: [of(S1), of(S2)] }, host.now);
      host.pass(seconds(3));
      host.reports();
      return host;
    };

    it('are answered: general, about a group, about sources', () => {
      const host = joined();
      const ask = (message: number[], destination = ALL_SYSTEMS, time = seconds(5)): string[] => {
        host.give(message, { destination });
        assert.deepEqual(host.reports(), []);
        host.pass(time);
        return host.reports();
      };
      const all = ['2 239.1.2.3 []', '1 239.129.2.4 [10.0.0.7,10.0.0.8]'];
      assert.deepEqual(ask(query3(50)), all);
      assert.deepEqual(ask(query3(10, GROUP), GROUP), ['2 239.1.2.3 []']);
      assert.deepEqual(ask(query3(10, OTHER, [S2]), OTHER), ['1 239.129.2.4 [10.0.0.8]']);
      // 0x80: 16 << 3 tenths of a second (§4.1.1).
      assert.deepEqual(ask(query3(0x80), ALL_SYSTEMS, seconds(12.9)), all);
    });

    for (const [what, message, options] of [
      ['no router alert', query3(10), { options: [] }],
      ['a wrong checksum', query3(10), { checksumError: 1 }],
      ['nine bytes', [...queryOld(10), 0], {}],
      ['seven bytes', queryOld(10).slice(0, 7), {}],
      ['more sources told than there', [...query3(10, OTHER).slice(0, 11), 1], {}],
    ] as const) {
      it(`are not heard with ${what} (§9.1, §7.1)`, () => {
        const host = joined();
        host.give([...message], { ...options } as { options?: number[] });
        host.pass(seconds(5));
        assert.deepEqual(host.reports(), []);
        assert.equal(host.igmp.version, 3);
        assert.equal(host.igmp.counters.inInvalid + host.igmp.counters.inCsumErrors, 1);
      });
    }

    it('of version 2 are answered in kind (RFC 2236), and suppressed by others', () => {
      const host = joined();
      host.give(queryOld(50));
      assert.equal(host.igmp.version, 2);
      host.pass(seconds(5));
      assert.deepEqual(host.reports().sort(), ['16 239.1.2.3 to 239.1.2.3', '16 239.129.2.4 to 239.129.2.4']);
      host.give(queryOld(100, GROUP), { destination: GROUP });
      host.give([0x16, 0, 0, 0, ...GROUP], { destination: GROUP });
      host.pass(seconds(11));
      assert.deepEqual(host.reports(), []);
      host.igmp.leave(of(GROUP), host.now);
      host.pass(0);
      assert.deepEqual(host.reports(), ['17 239.1.2.3 to 224.0.0.2']);
      host.pass(seconds(260));
      assert.equal(host.igmp.version, 3);
    });

    it('of version 1 too (RFC 1112): no router alert, no leave', () => {
      const host = joined();
      host.give(queryOld(0), { options: [] });
      assert.equal(host.igmp.version, 1);
      host.pass(seconds(10));
      assert.deepEqual(host.reports().sort(), ['12 239.1.2.3 to 239.1.2.3', '12 239.129.2.4 to 239.129.2.4']);
      host.igmp.leave(of(GROUP), host.now);
      host.pass(seconds(20));
      assert.deepEqual(host.reports(), []);
      // A newer querier does not end it.
      host.give(query3(10));
      assert.equal(host.igmp.version, 1);
    });
  });

  it('reports of many groups are cut into packets of 576 bytes', () => {
    const host = new Host();
    for (let i = 0; i < 300; i++) host.igmp.join(Uint8Array.of(239, 5, i >> 8, i & 0xff), host.now);
    host.pass(0);
    assert.ok(host.device.sent.every(({ bytes }) => bytes.length <= 14 + 576));
    assert.equal(host.reports().length, 300);
  });

  it('whatever comes: nothing throws', () => {
    const host = new Host();
    host.igmp.join(of(GROUP), host.now);
    fc.assert(
      fc.property(
        fc.constantFrom(0x11, 0x12, 0x16, 0x17, 0x22, 0x99),
        fc.uint8Array({ maxLength: 60 }),
        fc.nat(2_000_000),
        (type, rest, time) => {
          host.give([type, rest[0] ?? 0, 0, 0, ...rest.subarray(1)], { destination: GROUP });
          host.pass(time);
        },
      ),
      { numRuns: 1000 },
    );
    host.pass(seconds(100_000));
    host.reports();
    host.give(query3(10));
    host.pass(seconds(2));
    assert.deepEqual(host.reports(), ['2 239.1.2.3 []']);
  });
});
