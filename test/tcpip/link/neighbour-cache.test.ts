import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  DELAY,
  DELAY_FIRST_PROBE_TIME,
  FAILED,
  FREE,
  INCOMPLETE,
  MAX_WAITING_BYTES,
  MAX_WAITING_FRAMES,
  MAX_WAITING_TOTAL,
  NeighbourCache,
  NO_NEIGHBOUR,
  PERMANENT,
  PROBE,
  REACHABLE,
  REACHABLE_TIME,
  RETRANS_TIMER,
  STALE,
  type WaitingFrame,
} from '../../../tcpip/link/neighbour-cache.ts';
import { NEVER, type Time } from '../../../tcpip/network.ts';
import { seconds, seeded } from '../../helpers/tcpip-wire.ts';

const MAC = Uint8Array.of(0x52, 0x54, 0xff, 0x01, 0x02, 0x83);
const OTHER_MAC = Uint8Array.of(0x52, 0x54, 0xff, 0x01, 0x02, 0x84);
const HOST = Uint8Array.of(10, 0, 0, 9);
const T0: Time = 1_000_000;

const frameOf = (length: number): WaitingFrame => ({
  bytes: new Uint8Array(length),
  flags: 0,
  gsoType: 0,
  hdrLen: 0,
  gsoSize: 0,
  csumStart: 0,
  csumOffset: 0,
});

function newCache(capacity = 8) {
  const asked: { neighbour: number; local: number; unicast: boolean; now: Time }[] = [];
  const left: WaitingFrame[] = [];
  const lost: WaitingFrame[] = [];
  const failed: number[] = [];
  const cache = new NeighbourCache(
    seeded(1),
    { transmit: (frame) => left.push(frame), unreachable: (frame) => lost.push(frame) },
    capacity,
  );
  const protocol = {
    solicit: (neighbour: number, local: number, unicast: boolean, now: Time) =>
      void asked.push({ neighbour, local, unicast, now }),
    failed: (neighbour: number) => void failed.push(neighbour),
  };
  cache.setProtocol(4, protocol);
  cache.setProtocol(6, protocol);
  return { cache, asked, left, lost, failed };
}

/** Ticks whenever something is due. */
function run(cache: NeighbourCache, until: Time): void {
  while (cache.deadline <= until) cache.tick(cache.deadline);
}

describe('the neighbour cache', () => {
  it('asks three times, a second apart, and then gives up (RFC 4861 §7.2.2, RFC 1122 §2.3.2.1)', () => {
    const { cache, asked, lost, failed } = newCache();
    const neighbour = cache.entry(4, HOST, 0);
    assert.equal(cache.ready(neighbour, 6, T0), false);
    const frame = frameOf(60);
    cache.wait(neighbour, frame);
    assert.equal(cache.state[neighbour], INCOMPLETE);
    assert.equal(asked.length, 0, 'questions are sent by tick()');
    run(cache, T0 + seconds(2.9));
    assert.deepEqual(
      asked.map(({ now }) => now),
      [T0, T0 + RETRANS_TIMER, T0 + 2 * RETRANS_TIMER],
    );
    assert.ok(asked.every(({ unicast, local }) => !unicast && local === 6));
    assert.equal(lost.length, 0);
    run(cache, T0 + seconds(3));
    assert.deepEqual(lost, [frame]);
    assert.deepEqual(failed, [neighbour]);
    assert.equal(cache.state[neighbour], FAILED);
    assert.equal(cache.deadline, NEVER);
  });

  it('never asks twice within a second, however often it fails', () => {
    const { cache, asked } = newCache();
    const neighbour = cache.entry(4, HOST, 0);
    for (let now = T0; now < T0 + seconds(30); now += 50_000) {
      cache.ready(neighbour, 0, now);
      cache.tick(now);
    }
    assert.ok(asked.length >= 20);
    for (let i = 1; i < asked.length; i++) assert.ok(asked[i]!.now - asked[i - 1]!.now >= RETRANS_TIMER);
  });

  it('sends what waited when the answer comes, in order, and believes it for a while', () => {
    const { cache, left } = newCache();
    const neighbour = cache.entry(4, HOST, 0);
    cache.ready(neighbour, 0, T0);
    const frames = [frameOf(60), frameOf(61)];
    for (const frame of frames) cache.wait(neighbour, frame);
    cache.advertised(neighbour, MAC, 0, true, true, T0 + 10);
    assert.deepEqual(left, frames);
    assert.equal(cache.waiting(neighbour), 0);
    assert.equal(cache.state[neighbour], REACHABLE);
    assert.deepEqual(cache.mac(neighbour), MAC);
    assert.deepEqual(cache.address(neighbour), HOST);
    assert.ok(cache.ready(neighbour, 0, T0 + 11));
    run(cache, T0 + 0.5 * REACHABLE_TIME);
    assert.equal(cache.state[neighbour], REACHABLE);
    run(cache, T0 + 10 + 1.5 * REACHABLE_TIME);
    assert.equal(cache.state[neighbour], STALE);
  });

  it('draws the reachable time from half to one and a half of the base (RFC 4861 §6.3.2)', () => {
    const times = new Set<number>();
    for (let seed = 1; seed <= 20; seed++) {
      const cache = new NeighbourCache(seeded(seed), { transmit: () => {}, unreachable: () => {} });
      const neighbour = cache.entry(4, HOST, 0);
      cache.advertised(neighbour, MAC, 0, true, true, 0);
      assert.ok(cache.deadline >= 0.5 * REACHABLE_TIME && cache.deadline <= 1.5 * REACHABLE_TIME);
      times.add(cache.deadline);
    }
    assert.ok(times.size > 15);
  });

  it('takes a router at its word about times (RFC 4861 §6.3.4)', () => {
    const { cache, asked } = newCache();
    cache.setTiming(6, seconds(2), 200_000);
    const six = cache.entry(6, new Uint8Array(16).fill(7), 0);
    cache.advertised(six, MAC, 0, true, true, T0);
    assert.ok(cache.deadline - T0 <= seconds(3));
    run(cache, T0 + seconds(3));
    assert.equal(cache.state[six], STALE);
    const lonely = cache.entry(6, new Uint8Array(16).fill(8), 0);
    cache.ready(lonely, 0, T0 + seconds(3));
    run(cache, T0 + seconds(4));
    assert.deepEqual(
      asked.map(({ now }) => now - T0),
      [3_000_000, 3_200_000, 3_400_000],
    );
  });

  it('goes by DELAY and PROBE from STALE when it is used, and not before (RFC 4861 §7.3.3)', () => {
    const { cache, asked } = newCache();
    const neighbour = cache.entry(4, HOST, 0);
    cache.learnt(neighbour, MAC, 0, T0);
    assert.equal(cache.state[neighbour], STALE);
    assert.equal(cache.deadline, NEVER);
    assert.ok(cache.ready(neighbour, 0, T0));
    assert.equal(cache.state[neighbour], DELAY);
    run(cache, T0 + DELAY_FIRST_PROBE_TIME - 1);
    assert.equal(asked.length, 0);
    run(cache, T0 + DELAY_FIRST_PROBE_TIME);
    assert.equal(cache.state[neighbour], PROBE);
    assert.deepEqual(
      asked.map(({ unicast }) => unicast),
      [true],
    );
    assert.ok(cache.ready(neighbour, 0, T0 + DELAY_FIRST_PROBE_TIME), 'frames leave meanwhile');
    run(cache, T0 + DELAY_FIRST_PROBE_TIME + seconds(2.9));
    assert.equal(asked.length, 3);
    assert.ok(asked.every(({ unicast }) => unicast));
    run(cache, T0 + DELAY_FIRST_PROBE_TIME + seconds(3));
    assert.equal(cache.state[neighbour], FAILED);
    assert.equal(cache.ready(neighbour, 0, T0 + seconds(60)), false);
  });

  it('is REACHABLE again when it answers a probe, or when the transport confirms it (RFC 4861 §7.3.1)', () => {
    const { cache, asked } = newCache();
    const neighbour = cache.entry(4, HOST, 0);
    cache.learnt(neighbour, MAC, 0, T0);
    cache.ready(neighbour, 0, T0);
    cache.confirm(neighbour, T0 + seconds(1));
    assert.equal(cache.state[neighbour], REACHABLE);
    for (let now = T0 + seconds(2); now < T0 + seconds(200); now += seconds(1)) {
      cache.confirm(neighbour, now);
      cache.tick(now);
      assert.equal(cache.state[neighbour], REACHABLE);
    }
    assert.equal(asked.length, 0);
    run(cache, T0 + seconds(300));
    assert.equal(cache.state[neighbour], STALE);
    cache.ready(neighbour, 0, T0 + seconds(300));
    run(cache, T0 + seconds(306));
    assert.equal(cache.state[neighbour], PROBE);
    cache.advertised(neighbour, MAC, 0, true, true, T0 + seconds(306));
    assert.equal(cache.state[neighbour], REACHABLE);
  });

  it('is not confirmed before it has ever answered', () => {
    const { cache } = newCache();
    const neighbour = cache.entry(4, HOST, 0);
    cache.confirm(neighbour, T0);
    assert.equal(cache.state[neighbour], FAILED);
    cache.ready(neighbour, 0, T0);
    cache.confirm(neighbour, T0);
    assert.equal(cache.state[neighbour], INCOMPLETE);
  });

  describe('with an advertisement (RFC 4861 §7.2.5)', () => {
    const cases: [
      title: string,
      state: number,
      mac: Uint8Array | null,
      solicited: boolean,
      override: boolean,
      then: number,
      taken: boolean,
    ][] = [
      ['solicited, the same address', STALE, MAC, true, false, REACHABLE, false],
      ['solicited, no address', STALE, null, true, false, REACHABLE, false],
      ['unsolicited, the same address', REACHABLE, MAC, false, true, REACHABLE, false],
      ['another address, not to override', REACHABLE, OTHER_MAC, true, false, STALE, false],
      ['another address, not to override, of a stale one', STALE, OTHER_MAC, true, false, STALE, false],
      ['another address, to override, solicited', REACHABLE, OTHER_MAC, true, true, REACHABLE, true],
      ['another address, to override, unsolicited', REACHABLE, OTHER_MAC, false, true, STALE, true],
    ];
    for (const [title, state, mac, solicited, override, then, taken] of cases) {
      it(title, () => {
        const { cache } = newCache();
        const neighbour = cache.entry(6, new Uint8Array(16).fill(1), 0);
        cache.learnt(neighbour, MAC, 0, T0);
        if (state === REACHABLE) cache.confirm(neighbour, T0);
        assert.equal(cache.state[neighbour], state);
        cache.advertised(neighbour, mac ?? MAC, mac === null ? -1 : 0, solicited, override, T0);
        assert.equal(cache.state[neighbour], then);
        assert.deepEqual(cache.mac(neighbour), taken ? OTHER_MAC : MAC);
      });
    }

    it('an incomplete one without an address says nothing', () => {
      const { cache } = newCache();
      const neighbour = cache.entry(6, new Uint8Array(16).fill(1), 0);
      cache.ready(neighbour, 0, T0);
      cache.advertised(neighbour, MAC, -1, true, true, T0);
      assert.equal(cache.state[neighbour], INCOMPLETE);
      cache.advertised(neighbour, MAC, 0, false, false, T0);
      assert.equal(cache.state[neighbour], STALE);
    });
  });

  it('learns from questions of the neighbour, without believing in the way there', () => {
    const { cache, left } = newCache();
    const neighbour = cache.entry(4, HOST, 0);
    cache.ready(neighbour, 0, T0);
    cache.wait(neighbour, frameOf(60));
    cache.learnt(neighbour, MAC, 0, T0);
    assert.equal(left.length, 1);
    assert.equal(cache.state[neighbour], DELAY, 'something was sent');
    cache.confirm(neighbour, T0);
    cache.learnt(neighbour, MAC, 0, T0);
    assert.equal(cache.state[neighbour], REACHABLE, 'nothing new');
    cache.learnt(neighbour, OTHER_MAC, 0, T0);
    assert.equal(cache.state[neighbour], STALE);
  });

  it('keeps a few frames for each neighbour; the oldest go', () => {
    const { cache, left } = newCache();
    const neighbour = cache.entry(4, HOST, 0);
    cache.ready(neighbour, 0, T0);
    const frames = Array.from({ length: MAX_WAITING_FRAMES + 3 }, (_, i) => frameOf(60 + i));
    for (const frame of frames) cache.wait(neighbour, frame);
    assert.equal(cache.waiting(neighbour), MAX_WAITING_FRAMES);
    assert.equal(cache.counters.unresolvedDiscards, 3);
    cache.advertised(neighbour, MAC, 0, true, true, T0);
    assert.deepEqual(left, frames.slice(3));
  });

  it('bounds the bytes for each neighbour and over all', () => {
    const { cache } = newCache(64);
    const size = 50_000;
    for (let host = 0; host < 64; host++) {
      const neighbour = cache.entry(4, Uint8Array.of(10, 0, 1, host), 0);
      cache.ready(neighbour, 0, T0);
      for (let i = 0; i < 10; i++) cache.wait(neighbour, frameOf(size));
      assert.ok(cache.waiting(neighbour) * size <= MAX_WAITING_BYTES);
    }
    let total = 0;
    cache.forEach((neighbour) => {
      total += cache.waiting(neighbour) * size;
    });
    assert.ok(total <= MAX_WAITING_TOTAL && total > MAX_WAITING_TOTAL / 2);
    run(cache, T0 + seconds(10));
    const again = cache.entry(4, Uint8Array.of(10, 0, 1, 1), 0);
    cache.ready(again, 0, T0 + seconds(10));
    cache.wait(again, frameOf(size));
    assert.equal(cache.waiting(again), 1, 'the room is free again');
  });

  it('bounds the table: unanswered questions go first, then what was not used', () => {
    const { cache } = newCache(4);
    const used = cache.entry(4, Uint8Array.of(10, 0, 0, 1), 0);
    cache.advertised(used, MAC, 0, true, true, T0);
    cache.ready(used, 0, T0);
    const version = cache.version[used];
    for (let host = 2; host < 100; host++) {
      const neighbour = cache.entry(4, Uint8Array.of(10, 0, 0, host), 0);
      cache.ready(neighbour, 0, T0);
      cache.wait(neighbour, frameOf(60));
      cache.used[used] = 1;
    }
    assert.equal(cache.count, 4);
    assert.equal(cache.find(4, Uint8Array.of(10, 0, 0, 1), 0), used);
    assert.equal(cache.version[used], version);
    assert.equal(cache.counters.evicted, 95);
    assert.equal(cache.counters.unresolvedDiscards, 95);
  });

  it('gives way even when all are in use', () => {
    const { cache } = newCache(2);
    for (let host = 1; host < 6; host++) {
      const neighbour = cache.entry(4, Uint8Array.of(10, 0, 0, host), 0);
      cache.setPermanent(neighbour, MAC, T0);
      cache.ready(neighbour, 0, T0);
    }
    assert.equal(cache.count, 2);
  });

  it('changes the version of a number that means another address, and of all when routes change', () => {
    const { cache } = newCache(1);
    const neighbour = cache.entry(4, HOST, 0);
    const first = cache.version[neighbour]!;
    cache.entry(4, Uint8Array.of(10, 0, 0, 10), 0);
    const second = cache.version[neighbour]!;
    assert.notEqual(first, second);
    cache.renewAll();
    assert.notEqual(cache.version[neighbour], second);
    assert.notEqual(cache.version[neighbour], 0);
  });

  it('keeps what the operator set', () => {
    const { cache, left } = newCache();
    const neighbour = cache.entry(4, HOST, 0);
    cache.ready(neighbour, 0, T0);
    cache.wait(neighbour, frameOf(60));
    cache.setPermanent(neighbour, MAC, T0);
    assert.equal(left.length, 1);
    cache.advertised(neighbour, OTHER_MAC, 0, true, true, T0);
    cache.learnt(neighbour, OTHER_MAC, 0, T0);
    cache.confirm(neighbour, T0);
    assert.equal(cache.state[neighbour], PERMANENT);
    assert.deepEqual(cache.mac(neighbour), MAC);
    assert.equal(cache.deadline, NEVER);
    assert.throws(() => cache.setPermanent(neighbour, Uint8Array.of(1, 0, 0, 0, 0, 0), T0), /group/);
    assert.throws(() => cache.setPermanent(neighbour, Uint8Array.of(2), T0), /6 bytes/);
  });

  it('knows IPv4 and IPv6 addresses apart', () => {
    const { cache } = newCache();
    const mapped = new Uint8Array(16);
    mapped.set([0xff, 0xff, ...HOST], 10);
    mapped[0] = 0xfe;
    const four = cache.entry(4, HOST, 0);
    const six = cache.entry(6, mapped, 0);
    assert.notEqual(four, six);
    assert.deepEqual([cache.family[four], cache.family[six]], [4, 6]);
    assert.deepEqual(cache.address(six), mapped);
    cache.remove(four);
    assert.equal(cache.find(4, HOST, 0), NO_NEIGHBOUR);
    assert.equal(cache.state[four], FREE);
  });

  it('refuses a capacity that is none', () => {
    assert.throws(() => newCache(0), /from 1/);
    assert.throws(() => newCache(1.5), /from 1/);
  });

  it('stays within its bounds, whatever happens', () => {
    const host = fc.nat(20);
    const step = fc.tuple(
      fc.constantFrom('ready', 'wait', 'advertised', 'learnt', 'confirm', 'time', 'remove', 'permanent'),
      host,
      fc.nat(5_000_000),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const { cache, left, lost } = newCache(5);
        let now = T0;
        let given = 0;
        for (const [what, number, amount] of steps) {
          const address = Uint8Array.of(10, 0, 0, number);
          if (what === 'time') {
            now += amount;
            cache.tick(now);
            continue;
          }
          const known = cache.find(4, address, 0);
          if (what === 'remove') {
            if (known !== NO_NEIGHBOUR && cache.waiting(known) === 0) cache.remove(known);
            continue;
          }
          const neighbour = cache.entry(4, address, 0);
          if (what === 'ready' || what === 'wait') {
            const isReady = cache.ready(neighbour, 0, now);
            assert.equal(isReady, cache.isUsable(neighbour));
            if (!isReady) {
              cache.wait(neighbour, frameOf(60));
              given++;
            }
          } else if (what === 'advertised') {
            cache.advertised(
              neighbour,
              amount % 2 ? MAC : OTHER_MAC,
              amount % 3 ? 0 : -1,
              amount % 5 > 1,
              amount % 7 > 2,
              now,
            );
          } else if (what === 'learnt') cache.learnt(neighbour, amount % 2 ? MAC : OTHER_MAC, 0, now);
          else if (what === 'permanent' && amount % 10 === 0) cache.setPermanent(neighbour, MAC, now);
          else cache.confirm(neighbour, now);
          assert.ok(cache.count <= 5);
        }
        run(cache, now + seconds(1000));
        let waiting = 0;
        cache.forEach((neighbour) => {
          waiting += cache.waiting(neighbour);
        });
        assert.equal(waiting, 0, 'nobody waits for ever');
        assert.equal(left.length + lost.length + cache.counters.unresolvedDiscards, given);
      }),
    );
  });
});
