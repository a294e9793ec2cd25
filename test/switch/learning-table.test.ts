import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  FULL,
  IGNORED,
  LEARNED,
  LearningTable,
  type LearningTableOptions,
  MAX_PORT,
  MOVED,
  REFRESHED,
} from '../../switch/learning-table.ts';

/** Bytes 0 and 1 of every address here: locally administered, unicast. */
const HIGH = 0x0200;

function makeTable(options: Partial<LearningTableOptions> = {}): LearningTable {
  return new LearningTable({ seed: 1, ...options });
}

function formatMac(high: number, low: number): string {
  const bytes = [high >>> 8, high, low >>> 24, low >>> 16, low >>> 8, low];
  return bytes.map((byte) => (byte & 0xff).toString(16).padStart(2, '0')).join(':');
}

describe('LearningTable', () => {
  it('learns an address, answers with its port, and says -1 for others', () => {
    const table = makeTable();
    assert.equal(table.lookup(HIGH, 1, 0), -1);
    assert.equal(table.learn(HIGH, 1, 7, 0), LEARNED);
    assert.equal(table.learn(HIGH, 1, 7, 1), REFRESHED);
    assert.equal(table.lookup(HIGH, 1, 1), 7);
    assert.equal(table.lookup(HIGH, 2, 1), -1);
    assert.equal(table.lookup(HIGH + 1, 1, 1), -1);
    assert.equal(table.size, 1);
    assert.equal(table.countOf(7), 1);
  });

  it('takes the low word as int32 or uint32', () => {
    const table = makeTable();
    table.learn(HIGH, 0xffff_fff0, 3, 0);
    assert.equal(table.lookup(HIGH, 0xffff_fff0 | 0, 0), 3);
    assert.equal(table.learn(HIGH, -16, 3, 0), REFRESHED);
  });

  it('learns port 0', () => {
    const table = makeTable();
    assert.equal(table.learn(HIGH, 1, 0, 0), LEARNED);
    assert.equal(table.lookup(HIGH, 1, 0), 0);
  });

  it('moves an address that shows up behind another port', () => {
    const table = makeTable();
    table.learn(HIGH, 1, 7, 0);
    assert.equal(table.learn(HIGH, 1, 8, 0), MOVED);
    assert.equal(table.lookup(HIGH, 1, 0), 8);
    assert.equal(table.moves, 1);
    assert.deepEqual([table.size, table.countOf(7), table.countOf(8)], [1, 0, 1]);
  });

  it('never learns multicast, broadcast or all-zero addresses', () => {
    const table = makeTable();
    assert.equal(table.learn(0x0100, 0x5e00_0001, 1, 0), IGNORED);
    assert.equal(table.learn(0x3333, 1, 1, 0), IGNORED);
    assert.equal(table.learn(0xffff, -1, 1, 0), IGNORED);
    assert.equal(table.learn(0, 0, 1, 0), IGNORED);
    assert.equal(table.learn(5 << 16, 0, 1, 0), IGNORED, 'all-zero in VLAN 5');
    assert.equal(table.size, 0);
    assert.equal(table.learn(0, 1, 1, 0), LEARNED, '00:00:00:00:00:01 is a station');
  });

  it('keeps an address apart per VLAN where the caller puts the VLAN into the high bits', () => {
    const table = makeTable();
    table.learn((4094 << 16) | HIGH, 1, 7, 0);
    table.learn((5 << 16) | HIGH, 1, 8, 0);
    assert.equal(table.lookup((4094 << 16) | HIGH, 1, 0), 7);
    assert.equal(table.lookup((5 << 16) | HIGH, 1, 0), 8);
    assert.equal(table.lookup(HIGH, 1, 0), -1);
    assert.deepEqual([...table.entries(0)].map((entry) => entry.vlan).sort(), [4094, 5]);
  });

  it('stops answering at the ageing time, and a frame makes the entry young again', () => {
    const table = makeTable({ agingSeconds: 10 });
    table.learn(HIGH, 1, 7, 100);
    assert.equal(table.lookup(HIGH, 1, 109.9), 7);
    table.learn(HIGH, 1, 7, 109);
    assert.equal(table.lookup(HIGH, 1, 118), 7);
    assert.equal(table.lookup(HIGH, 1, 119), -1);
    assert.equal(table.size, 1, 'held until the sweep');
    assert.equal(table.learn(HIGH, 1, 8, 119), LEARNED, 'an aged entry is no move');
    assert.equal(table.moves, 0);
    assert.equal(table.lookup(HIGH, 1, 119), 8);
  });

  it('does not age entries when the clock goes back', () => {
    const table = makeTable({ agingSeconds: 10 });
    table.learn(HIGH, 1, 7, 100);
    assert.equal(table.lookup(HIGH, 1, 50), 7);
    assert.deepEqual([...table.entries(50)][0].ageSeconds, 0);
  });

  it('sweeps aged entries piece by piece', () => {
    const table = makeTable({ capacity: 64, agingSeconds: 10 });
    for (let i = 0; i < 40; i++) table.learn(HIGH, i, i % 4, i < 25 ? 0 : 5);
    let removed = 0;
    for (let looks = 0; looks < table.slots; looks += 8) {
      const before = table.size;
      const now = table.age(10, 8);
      assert.equal(table.size, before - now);
      removed += now;
    }
    assert.equal(removed, 25);
    assert.equal(table.age(10, table.slots), 0);
    for (let i = 25; i < 40; i++) assert.equal(table.lookup(HIGH, i, 10), i % 4);
    assert.equal(table.age(10, 0), 0);
    assert.equal(table.age(15, Number.MAX_SAFE_INTEGER), 15);
    assert.equal(table.size, 0);
  });

  it('floods new addresses when full, counts them, and keeps serving what it has', () => {
    const table = makeTable({ capacity: 4, agingSeconds: 10 });
    for (let i = 1; i <= 4; i++) assert.equal(table.learn(HIGH, i, i, 0), LEARNED);
    assert.equal(table.learn(HIGH, 5, 5, 0), FULL);
    assert.equal(table.lookup(HIGH, 5, 0), -1);
    assert.equal(table.refusedTableFull, 1);
    assert.equal(table.learn(HIGH, 1, 1, 5), REFRESHED);
    assert.equal(table.learn(HIGH, 2, 9, 5), MOVED);
    assert.equal(table.age(10, table.slots), 2);
    assert.equal(table.learn(HIGH, 5, 5, 10), LEARNED);
  });

  it('keeps one port from filling the table for the others', () => {
    const table = makeTable({ capacity: 100, maxPerPort: 3 });
    for (let i = 0; i < 50; i++) assert.equal(table.learn(HIGH, i, 1, 0), i < 3 ? LEARNED : FULL);
    assert.equal(table.refusedPortLimit, 47);
    assert.equal(table.refusedTableFull, 0);
    assert.equal(table.learn(HIGH, 1000, 2, 0), LEARNED);
    assert.equal(table.learn(HIGH, 1000, 1, 0), FULL, 'nor by taking over the addresses of others');
    assert.equal(table.lookup(HIGH, 1000, 0), 2);
    assert.equal(table.learn(HIGH, 2, 1, 0), REFRESHED);
  });

  it('flushes one port and no other', () => {
    const table = makeTable({ capacity: 512 });
    for (let i = 0; i < 500; i++) table.learn(HIGH, i, i % 5, 0);
    assert.equal(table.flushPort(3), 100);
    assert.equal(table.flushPort(3), 0);
    assert.equal(table.flushPort(MAX_PORT), 0);
    assert.equal(table.size, 400);
    for (let i = 0; i < 500; i++) assert.equal(table.lookup(HIGH, i, 0), i % 5 === 3 ? -1 : i % 5);
  });

  it('changes the ageing time for the entries held', () => {
    const table = makeTable({ agingSeconds: 10 });
    table.learn(HIGH, 1, 7, 0);
    table.setAging(20);
    assert.equal(table.lookup(HIGH, 1, 15), 7);
    table.setAging(5);
    assert.equal(table.lookup(HIGH, 1, 15), -1);
    assert.equal(table.agingSeconds, 5);
  });

  it('changes its capacity and keeps its entries', () => {
    const table = makeTable({ capacity: 10 });
    for (let i = 0; i < 10; i++) table.learn(HIGH, i, i, 0);
    table.setCapacity(1000);
    for (let i = 10; i < 1000; i++) assert.equal(table.learn(HIGH, i, i % 10, 0), LEARNED);
    assert.equal(table.learn(HIGH, 1000, 0, 0), FULL);
    for (let i = 0; i < 1000; i++) assert.equal(table.lookup(HIGH, i, 0), i % 10);
    assert.throws(() => table.setCapacity(999), /RangeError: .*capacity 999 is less than the 1000 entries held/);
    table.flushPort(0);
    table.setCapacity(900);
    assert.equal(table.capacity, 900);
    for (let i = 0; i < 1000; i++) assert.equal(table.lookup(HIGH, i, 0), i % 10 === 0 ? -1 : i % 10);
  });

  it('keeps a per-port limit that was asked for when its capacity changes, and lifts the default with it', () => {
    const limited = makeTable({ capacity: 4, maxPerPort: 4 });
    const free = makeTable({ capacity: 4 });
    limited.setCapacity(8);
    free.setCapacity(8);
    for (let i = 0; i < 8; i++) {
      assert.equal(limited.learn(HIGH, i, 1, 0), i < 4 ? LEARNED : FULL);
      assert.equal(free.learn(HIGH, i, 1, 0), LEARNED);
    }
  });

  it('lists entries for show fdb, without aged ones', () => {
    const table = makeTable({ agingSeconds: 10 });
    table.learn(0x0a0b, 0x0c0d_0e0f, 3, 95);
    table.learn(HIGH, 1, 4, 90);
    assert.deepEqual([...table.entries(100)], [{ mac: '0a:0b:0c:0d:0e:0f', vlan: 0, port: 3, ageSeconds: 5 }]);
  });

  it('serves high port numbers, and refuses those outside its range', () => {
    const table = makeTable();
    assert.equal(table.learn(HIGH, 1, MAX_PORT, 0), LEARNED);
    assert.equal(table.lookup(HIGH, 1, 0), MAX_PORT);
    assert.throws(() => table.learn(HIGH, 2, MAX_PORT + 1, 0), /port is 65536: give a whole number from 0 to 65535/);
    assert.throws(() => table.learn(HIGH, 2, -1, 0), /port is -1/);
  });

  it('refuses options outside their ranges, by name', () => {
    assert.throws(() => makeTable({ capacity: 0 }), /RangeError: learning table capacity is 0: give/);
    assert.throws(() => makeTable({ agingSeconds: 0 }), /agingSeconds is 0/);
    assert.throws(() => makeTable({ maxPerPort: 1.5 }), /maxPerPort is 1.5/);
    assert.throws(() => makeTable({ seed: -1 }), /seed is -1/);
    assert.throws(() => makeTable().setAging(1_000_001), /agingSeconds is 1000001/);
    assert.throws(() => makeTable().setCapacity(Number.NaN), /capacity is NaN/);
  });

  it('orders its slots by all of the seed, so that collisions cannot be prepared', () => {
    const order = (seed: number) => {
      const table = makeTable({ seed, capacity: 256 });
      for (let i = 0; i < 100; i++) table.learn(HIGH, i, 0, 0);
      return [...table.entries(0)].map((entry) => entry.mac).join();
    };
    assert.equal(order(42), order(42), 'a seed replays');
    assert.notEqual(order(42), order(43));
    assert.notEqual(order(42), order(42 + 2 ** 40));
  });

  it('does what a plain Map does, whatever happens in whatever order', () => {
    // Few addresses and a small table: clusters, wraps, full tables and removals inside clusters are common.
    const address = fc.tuple(fc.constantFrom(0x0200, 0x0202, 0x0300, 0), fc.integer({ min: -6, max: 12 }));
    const port = fc.integer({ min: 0, max: 3 });
    const step = fc.oneof(
      { weight: 8, arbitrary: fc.record({ kind: fc.constant('learn' as const), address, port }) },
      {
        weight: 3,
        arbitrary: fc.record({ kind: fc.constant('wait' as const), seconds: fc.integer({ min: 1, max: 9 }) }),
      },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('flush' as const), port }) },
      {
        weight: 2,
        arbitrary: fc.record({ kind: fc.constant('age' as const), budget: fc.integer({ min: 0, max: 9 }) }),
      },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('sweep' as const) }) },
      {
        weight: 1,
        arbitrary: fc.record({ kind: fc.constant('aging' as const), seconds: fc.integer({ min: 5, max: 30 }) }),
      },
      {
        weight: 1,
        arbitrary: fc.record({ kind: fc.constant('capacity' as const), capacity: fc.integer({ min: 1, max: 40 }) }),
      },
    );
    const property = fc.property(
      fc.nat(),
      fc.integer({ min: 1, max: 24 }),
      fc.integer({ min: 1, max: 12 }),
      fc.array(step, { maxLength: 120, size: 'max' }),
      (seed, firstCapacity, maxPerPort, steps) => {
        let capacity = firstCapacity;
        let aging = 20;
        let now = 1000;
        const table = new LearningTable({ seed, capacity, maxPerPort, agingSeconds: aging });
        const model = new Map<string, { high: number; low: number; port: number; seen: number }>();
        const hasAged = (entry: { seen: number }) => now - entry.seen >= aging;
        const held = (at: number) => [...model.values()].filter((entry) => entry.port === at).length;
        const expectedStatus = (high: number, low: number, at: number): number => {
          if ((high >>> 8) % 2 === 1 || (high === 0 && low === 0)) return IGNORED;
          const known = model.get(`${high}/${low}`);
          if (known === undefined && model.size >= capacity) return FULL;
          if (known?.port !== at && held(at) >= maxPerPort) return FULL;
          if (known === undefined || hasAged(known)) return LEARNED;
          return known.port === at ? REFRESHED : MOVED;
        };
        for (const event of steps) {
          if (event.kind === 'learn') {
            const [high, low] = event.address;
            const expected = expectedStatus(high, low, event.port);
            assert.equal(table.learn(high, low, event.port, now), expected);
            if (expected !== IGNORED && expected !== FULL) {
              model.set(`${high}/${low}`, { high, low, port: event.port, seen: now });
            }
          } else if (event.kind === 'wait') now += event.seconds;
          else if (event.kind === 'flush') {
            const expected = held(event.port);
            assert.equal(table.flushPort(event.port), expected);
            for (const [key, entry] of model) if (entry.port === event.port) model.delete(key);
          } else if (event.kind === 'sweep') {
            const aged = [...model].filter(([, entry]) => hasAged(entry));
            // Twice round: a removal at the array's end may pull an entry past the sweep.
            assert.equal(table.age(now, table.slots) + table.age(now, table.slots), aged.length);
            for (const [key] of aged) model.delete(key);
          } else if (event.kind === 'age') {
            // Which of the aged entries a partial sweep finds is the table's affair: it must take no others, and
            // a capacity or limit counts what is left, so the model sweeps the rest along.
            const aged = [...model].filter(([, entry]) => hasAged(entry));
            const removed = table.age(now, event.budget);
            assert.ok(removed <= aged.length);
            assert.equal(table.size, model.size - removed);
            table.age(now, 2 * table.slots);
            table.age(now, 2 * table.slots);
            for (const [key] of aged) model.delete(key);
          } else if (event.kind === 'aging') {
            aging = event.seconds;
            table.setAging(aging);
          } else if (event.capacity < model.size) assert.throws(() => table.setCapacity(event.capacity), RangeError);
          else {
            capacity = event.capacity;
            table.setCapacity(capacity);
          }
          assert.equal(table.size, model.size);
          for (let at = 0; at < 4; at++) assert.equal(table.countOf(at), held(at));
          for (const entry of model.values()) {
            assert.equal(table.lookup(entry.high, entry.low, now), hasAged(entry) ? -1 : entry.port);
          }
        }
        const listed = [...table.entries(now)].map((entry) => `${entry.mac} ${entry.port} ${entry.ageSeconds}`).sort();
        const expected = [...model.values()]
          .filter((entry) => !hasAged(entry))
          .map((entry) => `${formatMac(entry.high, entry.low)} ${entry.port} ${now - entry.seen}`)
          .sort();
        assert.deepEqual(listed, expected);
      },
    );
    fc.assert(property, { numRuns: 400 });
  });
});
