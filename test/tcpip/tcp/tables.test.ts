/** TCP's tables against plain models of them. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { EphemeralPorts } from '../../../tcpip/tcp/ephemeral-ports.ts';
import { Handlers } from '../../../tcpip/tcp/handlers.ts';
import { InitialSequence } from '../../../tcpip/tcp/initial-sequence.ts';
import { SettingsTable, settingsOf } from '../../../tcpip/tcp/settings.ts';
import { SipHash } from '../../../tcpip/tcp/siphash.ts';
import { NO_SLOT, TimeWaitTable } from '../../../tcpip/tcp/time-wait-table.ts';
import { TimerWheel } from '../../../tcpip/tcp/timer-wheel.ts';
import { NOT_FOUND, TupleTable } from '../../../tcpip/tcp/tuple-table.ts';
import { seeded } from '../../helpers/tcpip-fake-network.ts';

const MS = 1000;
const SECOND = 1_000_000;

describe('TimerWheel', () => {
  it('fires everything in its tick, nothing early, in any order of calls (property)', () => {
    const CAPACITY = 20;
    const step = fc.oneof(
      fc.record({
        kind: fc.constant('schedule' as const),
        index: fc.nat(CAPACITY - 1),
        after: fc.oneof(fc.nat(5000), fc.nat(400_000), fc.nat(80_000_000), fc.nat(2 ** 31), fc.nat(2 ** 40)),
      }),
      fc.record({ kind: fc.constant('cancel' as const), index: fc.nat(CAPACITY - 1) }),
      fc.record({
        kind: fc.constant('advance' as const),
        by: fc.oneof(fc.nat(3000), fc.nat(300_000), fc.nat(70_000_000), fc.nat(2 ** 36)),
      }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const wheel = new TimerWheel(CAPACITY);
        const model = new Map<number, number>();
        let now = 12_345_678;
        wheel.advance(now, () => assert.fail('nothing is set'));
        for (const one of steps) {
          if (one.kind === 'schedule') {
            wheel.schedule(one.index, now + one.after);
            model.set(one.index, Math.max(Math.ceil((now + one.after) / MS), Math.floor(now / MS) + 1));
          } else if (one.kind === 'cancel') {
            wheel.cancel(one.index);
            model.delete(one.index);
          } else {
            now += one.by;
            const fired = new Set<number>();
            wheel.advance(now, (index) => fired.add(index));
            for (const [index, tick] of [...model]) {
              assert.equal(fired.has(index), tick <= Math.floor(now / MS), `index ${index} at tick ${tick}`);
              if (fired.has(index)) model.delete(index);
            }
          }
          assert.equal(wheel.count, model.size);
          for (let i = 0; i < CAPACITY; i++) assert.equal(wheel.isPending(i), model.has(i));
          const first = Math.min(...model.values()) * MS;
          assert.ok(wheel.deadline <= first);
        }
      }),
      { numRuns: 500 },
    );
  });

  it('lets what fires schedule and cancel others', () => {
    const wheel = new TimerWheel(4);
    const fired: number[] = [];
    wheel.schedule(0, 5 * MS);
    wheel.schedule(1, 5 * MS);
    wheel.schedule(2, 6 * MS);
    wheel.advance(10 * MS, (index) => {
      fired.push(index);
      if (index === 2) return;
      wheel.cancel(index === 0 ? 1 : 0);
      wheel.schedule(index, 0);
      if (fired.length > 2) wheel.cancel(index);
    });
    assert.equal(fired.filter((index) => index === 2).length, 1);
    assert.equal(wheel.count, 0);
  });
});

describe('TupleTable', () => {
  it('finds what is in it and nothing else, while it grows and shrinks (property)', () => {
    const CAPACITY = 5000;
    for (const seed of [1, 2, 3]) {
      const random = seeded(seed);
      const rows = {
        local: new Uint16Array(CAPACITY),
        remote: new Uint32Array(CAPACITY),
        localPort: new Uint16Array(CAPACITY),
        remotePort: new Uint16Array(CAPACITY),
      };
      const table = new TupleTable(rows, random);
      const model = new Map<string, number>();
      const free = Array.from({ length: CAPACITY }, (_, i) => i);
      const used: number[] = [];
      const find = (row: number): number =>
        table.find(rows.local[row]!, rows.remote[row]!, rows.localPort[row]!, rows.remotePort[row]!);
      for (let i = 0; i < 40_000; i++) {
        // First it fills, then it empties, and again.
        const grows = Math.floor(i / 10_000) % 2 === 0;
        if ((random() % 10 < (grows ? 8 : 2) && free.length > 0) || used.length === 0) {
          const row = free.pop()!;
          rows.local[row] = random() % 2;
          rows.remote[row] = random() % 50;
          rows.localPort[row] = random() % 4;
          rows.remotePort[row] = random() % 65_536;
          const key = `${rows.local[row]} ${rows.remote[row]} ${rows.localPort[row]} ${rows.remotePort[row]}`;
          if (model.has(key)) {
            assert.equal(find(row), model.get(key));
            free.push(row);
            continue;
          }
          assert.equal(find(row), NOT_FOUND);
          table.insert(row);
          model.set(key, row);
          used.push(row);
        } else {
          const [row] = used.splice(random() % used.length, 1) as [number];
          assert.equal(find(row), row);
          table.remove(row);
          const key = `${rows.local[row]} ${rows.remote[row]} ${rows.localPort[row]} ${rows.remotePort[row]}`;
          model.delete(key);
          assert.equal(find(row), NOT_FOUND);
          free.push(row);
        }
        assert.equal(table.count, model.size);
      }
      for (const row of used) assert.equal(find(row), row);
    }
  });

  it('says so when a row is taken out that is not in it', () => {
    const rows = {
      local: new Uint16Array(1),
      remote: new Uint32Array(1),
      localPort: new Uint16Array(1),
      remotePort: new Uint16Array(1),
    };
    assert.throws(() => new TupleTable(rows, seeded(1)).remove(0), /row 0 is not in the table/);
  });
});

describe('TimeWaitTable', () => {
  const LIFETIME = 60 * SECOND;
  const add = (table: TimeWaitTable, i: number, now: number): number =>
    table.add(i % 3, i >>> 4, 80, i & 0xffff, i, i + 1, i + 2, i % 2 === 0, i % 3 === 0, now);
  const find = (table: TimeWaitTable, i: number): number => table.find(i % 3, i >>> 4, 80, i & 0xffff);

  it('keeps each for its time, none longer, and tells what it was given', () => {
    const table = new TimeWaitTable({ capacity: 100_000, lifetime: LIFETIME, random: seeded(1) });
    const COUNT = 50_000;
    for (let i = 0; i < COUNT; i++) add(table, i, i * MS);
    assert.equal(table.count, COUNT);
    for (const i of [0, 1, 4095, 4096, 40_000, COUNT - 1]) {
      const slot = find(table, i);
      assert.deepEqual(
        [table.local(slot), table.remote(slot), table.sndNxt(slot), table.rcvNxt(slot), table.tsRecent(slot)],
        [i % 3, i >>> 4, i, i + 1, i + 2],
      );
      assert.equal(table.hasOffset(slot), i % 2 === 0);
      assert.equal(table.hasTimestamps(slot), i % 3 === 0);
    }
    const ended: number[] = [];
    const note = (slot: number): void => {
      ended.push(table.sndNxt(slot));
    };
    table.expire(59 * SECOND, note);
    assert.deepEqual(ended, []);
    table.expire(85 * SECOND, note);
    // Whole seconds: those of the last one may wait for it.
    assert.ok(ended.length >= 24_000 && ended.length <= 26_001, `${ended.length}`);
    assert.deepEqual(
      ended,
      ended.map((_, i) => i),
    );
    table.expire(200 * SECOND, note);
    assert.equal(ended.length, COUNT);
    assert.equal(table.count, 0);
    assert.equal(table.deadline, Number.POSITIVE_INFINITY);
    assert.equal(find(table, 1), NO_SLOT);
  });

  it('forgets what is removed, and begins anew what is restarted', () => {
    const table = new TimeWaitTable({ capacity: 1000, lifetime: LIFETIME, random: seeded(1) });
    for (let i = 0; i < 100; i++) add(table, i, 0);
    table.remove(find(table, 7));
    assert.equal(find(table, 7), NO_SLOT);
    const again = table.restart(find(table, 8), 30 * SECOND);
    assert.equal(find(table, 8), again);
    assert.equal(table.sndNxt(again), 8);
    let ended = 0;
    table.expire(61 * SECOND, () => ended++);
    assert.equal(ended, 98);
    assert.equal(find(table, 8), again);
    table.expire(91 * SECOND, () => ended++);
    assert.equal(ended, 99);
  });

  it('lets the oldest go when it is full', () => {
    const table = new TimeWaitTable({ capacity: 10, lifetime: LIFETIME, random: seeded(1) });
    const evicted: number[] = [];
    table.onEvict = (slot) => evicted.push(table.sndNxt(slot));
    for (let i = 0; i < 25; i++) add(table, i, 0);
    assert.equal(table.count, 10);
    assert.deepEqual(
      evicted,
      Array.from({ length: 15 }, (_, i) => i),
    );
    assert.equal(table.evicted, 15);
    for (let i = 15; i < 25; i++) assert.notEqual(find(table, i), NO_SLOT);
  });

  it('costs 32 bytes an entry at the most, with its part of the hash', () => {
    const table = new TimeWaitTable({ capacity: 2 ** 16, lifetime: LIFETIME, random: seeded(1) });
    assert.ok(table.bytesPerEntry <= 32, `${table.bytesPerEntry}`);
  });
});

describe('EphemeralPorts (RFC 6056 §3.3.4)', () => {
  it('gives each port once, and 0 when none is left', () => {
    const ports = new EphemeralPorts(seeded(1), 40_000, 40_099);
    const taken = new Set<number>();
    for (let i = 0; i < 100; i++) {
      const port = ports.choose(0, 1, 80, (one) => !taken.has(one));
      assert.ok(port >= 40_000 && port <= 40_099 && !taken.has(port));
      taken.add(port);
    }
    assert.equal(
      ports.choose(0, 1, 80, (one) => !taken.has(one)),
      0,
    );
  });

  it('goes on from a place of its own for each destination', () => {
    const ports = new EphemeralPorts(seeded(1), 1024, 65_535);
    const first = new Set(Array.from({ length: 100 }, (_, remote) => ports.choose(0, remote, 80, () => true)));
    assert.ok(first.size > 95);
    assert.notEqual(
      ports.choose(0, 5, 80, () => true),
      ports.choose(0, 5, 80, () => true),
    );
  });

  it('refuses ranges that are none', () => {
    for (const [first, last] of [
      [0, 10],
      [10, 9],
      [1, 65_536],
    ] as const) {
      assert.throws(() => new EphemeralPorts(seeded(1), first, last), /give two ports/);
    }
  });
});

describe('SipHash-2-4', () => {
  it('agrees with the vectors of its paper', () => {
    const hash = new SipHash([0x0302_0100, 0x0706_0504, 0x0b0a_0908, 0x0f0e_0d0c]);
    const bytes = Uint8Array.from({ length: 64 }, (_, i) => i);
    const of = (length: number): string => {
      hash.hash(bytes, 0, length);
      return hash.high.toString(16).padStart(8, '0') + hash.low.toString(16).padStart(8, '0');
    };
    assert.equal(of(0), '726fdb47dd0e0e31');
    assert.equal(of(15), 'a129ca6149be45e5');
    assert.equal(of(1), '74f839c593dc67fd');
    assert.equal(of(8), '93f5f5799a932462');
  });
});

describe('InitialSequence (RFC 6528)', () => {
  it('goes on with the clock, and from elsewhere for every other connection', () => {
    const sequence = new InitialSequence(seeded(1));
    const [a, b] = [Uint8Array.of(10, 0, 0, 1), Uint8Array.of(10, 0, 0, 2)];
    const first = sequence.isn(a, b, 1000, 80, 0);
    assert.equal((sequence.isn(a, b, 1000, 80, 4000) - first) >>> 0, 1000);
    const others = new Set(Array.from({ length: 1000 }, (_, port) => sequence.isn(a, b, port, 80, 0) >>> 16));
    assert.ok(others.size > 900);
    assert.notEqual(new InitialSequence(seeded(2)).isn(a, b, 1000, 80, 0), first);
    assert.equal(sequence.timestampOffset(a, b), sequence.timestampOffset(a, b));
    assert.notEqual(sequence.timestampOffset(a, b), sequence.timestampOffset(b, a));
  });
});

describe('settings and handlers', () => {
  it('are kept once', () => {
    const settings = new SettingsTable();
    const plain = settings.numberOf({});
    assert.equal(settings.numberOf({ noDelay: false }), plain);
    const quick = settings.numberOf({ noDelay: true });
    assert.notEqual(quick, plain);
    assert.equal(settings.numberOf({ noDelay: true }), quick);
    assert.equal(settings.get(quick).noDelay, true);
  });

  it('refuse what is none', () => {
    assert.throws(() => settingsOf({ congestion: 'vegas' as 'bbr' }), { code: 'EINVAL', message: /"vegas"/ });
    assert.throws(() => settingsOf({ keepAliveMs: -1 }), { code: 'EINVAL', message: /keepAliveMs is -1/ });
    assert.throws(() => settingsOf({ keepAliveProbes: 256 }), { code: 'EINVAL', message: /from 0 to 255/ });
    assert.throws(() => settingsOf({ userTimeoutMs: 0.5 }), { code: 'EINVAL', message: /userTimeoutMs/ });
  });

  it('go with their last connection', () => {
    const handlers = new Handlers();
    const one = { onConnected() {}, onData() {}, onEnd() {}, onWritable() {}, onClosed() {} };
    const other = { ...one };
    const first = handlers.hold(one);
    assert.equal(handlers.hold(one), first);
    const second = handlers.hold(other);
    assert.notEqual(second, first);
    handlers.letGo(first);
    assert.equal(handlers.get(first), one);
    handlers.letGo(first);
    assert.equal(handlers.hold({ ...one }), first);
    assert.equal(handlers.get(second), other);
  });
});
