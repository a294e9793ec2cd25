import assert from 'node:assert/strict';
import fc from 'fast-check';
import { type Impairment, ImpairmentDecisions, LOST, NO_ROOM, PASSED, wireBytes } from '../../switch/impairment.ts';
import { newWireMemory, WireTime } from '../../switch/wire-time.ts';
import { impairment } from '../helpers/impairments.ts';

const PLENTY = 2;
const HEADER_BITS = 14 * 8;
const FRAMES = 100_000;

interface Fate {
  verdict: number;
  at: number;
  copyAt: number;
  corruptBit: number;
  reordered: boolean;
}

const decisions = (given: Partial<Impairment>, stream = 0): ImpairmentDecisions =>
  new ImpairmentDecisions(impairment(given), stream, new WireTime());

function fate(decided: ImpairmentDecisions, length: number, now: number, room = PLENTY): Fate {
  const verdict = decided.decide(length, now, room);
  if (verdict !== PASSED) return { verdict, at: 0, copyAt: -1, corruptBit: -1, reordered: false };
  const { at, copyAt, corruptBit, reordered } = decided;
  return { verdict, at, copyAt, corruptBit, reordered };
}

/** What becomes of `frames` frames, one each ms. */
const fates = (decided: ImpairmentDecisions, frames: number, length = 1000): Fate[] =>
  Array.from({ length: frames }, (_, i) => fate(decided, length, i));

const shares = fc.double({ min: 0, max: 1, noNaN: true });
const anyImpairment: fc.Arbitrary<Impairment> = fc
  .record({
    loss: shares,
    duplicate: shares,
    corrupt: shares,
    reorder: shares,
    delayMs: fc.double({ min: 0, max: 1000, noNaN: true }),
    jitterShare: shares,
    bitsPerSecond: fc.oneof(fc.constant(0), fc.integer({ min: 1000, max: 1e11 })),
    limit: fc.integer({ min: 1, max: 1000 }),
    seed: fc.integer({ min: 0, max: 0xffff_ffff }),
  })
  .map(({ jitterShare, ...rest }) => ({ ...rest, jitterMs: rest.delayMs * jitterShare }));

describe('ImpairmentDecisions', () => {
  it('without any impairment passes every frame now', () => {
    const decided = decisions({});
    assert.equal(decided.takesTime, false);
    for (const [i, one] of fates(decided, 100).entries()) {
      assert.deepEqual(one, { verdict: PASSED, at: i, copyAt: -1, corruptBit: -1, reordered: false });
    }
  });

  it('decides the same with the same seed, and otherwise with another seed or stream', () => {
    const all = { loss: 0.1, duplicate: 0.1, corrupt: 0.1, reorder: 0.1, delayMs: 20, jitterMs: 5 };
    const run = (seed: number, stream: number): string =>
      JSON.stringify(fates(decisions({ ...all, seed }, stream), 500));
    const first = run(7, 0);
    assert.equal(run(7, 0), first);
    const others = [run(8, 0), run(7, 1), run(0, 7), run(0xffff_ffff, 0)];
    assert.equal(new Set([first, ...others]).size, 5);
  });

  it('is replayed exactly, whatever the impairment (fast-check)', () => {
    const traffic = fc.array(fc.record({ length: fc.nat(65_550), gap: fc.nat(50), room: fc.nat(2) }), {
      maxLength: 60,
    });
    fc.assert(
      fc.property(anyImpairment, traffic, (given, frames) => {
        const run = (): Fate[] => {
          const decided = decisions(given);
          let now = 1000;
          return frames.map(({ length, gap, room }) => {
            now += gap;
            const one = fate(decided, length, now, room);
            if (one.verdict !== PASSED) return one;
            assert(one.at >= now, 'a frame arrives before it is sent');
            assert(one.copyAt === -1 || (one.copyAt >= now && room > 1));
            assert(one.corruptBit === -1 || (one.corruptBit >= HEADER_BITS && one.corruptBit < 8 * length));
            return one;
          });
        };
        assert.deepEqual(run(), run());
      }),
    );
  });

  it('loses the same frames whatever else it does, and however long they are', () => {
    const lost = (given: Partial<Impairment>, length: number): number[] =>
      fates(decisions({ loss: 0.05, seed: 3, ...given }), 2000, length).flatMap(({ verdict }, i) =>
        verdict === LOST ? [i] : [],
      );
    const alone = lost({}, 60);
    assert(alone.length > 50);
    assert.deepEqual(lost({ delayMs: 10, jitterMs: 10, duplicate: 0.5, corrupt: 1, reorder: 0.3 }, 1500), alone);
    assert.deepEqual(lost({ bitsPerSecond: 1e6 }, 9000), alone);
  });

  describe('does as often as it is told', () => {
    // Five standard deviations of a binomial distribution; the seed is fixed, so this passes always or never.
    const near = (found: number, share: number): void => {
      const margin = 5 * Math.sqrt(FRAMES * share * (1 - share));
      assert(Math.abs(found - FRAMES * share) <= margin, `${found} of ${FRAMES}, not about ${share}`);
    };
    for (const share of [0.0001, 0.001, 0.01, 0.25, 0.5, 0.99]) {
      it(`what has a share of ${share}`, () => {
        const lost = fates(decisions({ loss: share }), FRAMES).filter(({ verdict }) => verdict === LOST).length;
        near(lost, share);
        const others = fates(decisions({ duplicate: share, corrupt: share, reorder: share, delayMs: 1 }), FRAMES);
        near(others.filter(({ copyAt }) => copyAt >= 0).length, share);
        near(others.filter(({ corruptBit }) => corruptBit >= 0).length, share);
        near(others.filter(({ reordered }) => reordered).length, share);
      });
    }

    it('always, or never', () => {
      assert(fates(decisions({ loss: 1 }), 1000).every(({ verdict }) => verdict === LOST));
      for (const one of fates(decisions({ duplicate: 1, corrupt: 1, reorder: 1, delayMs: 5 }), 1000)) {
        assert(one.copyAt >= 0 && one.corruptBit >= 0 && one.reordered);
      }
    });

    it('independently of each other, and of the frame before', () => {
      const both = fates(decisions({ duplicate: 0.1, corrupt: 0.1 }), FRAMES);
      near(both.filter(({ copyAt, corruptBit }) => copyAt >= 0 && corruptBit >= 0).length, 0.01);
      near(both.filter(({ copyAt }, i) => copyAt >= 0 && i > 0 && both[i - 1]!.copyAt >= 0).length, 0.01);
      const streams = [0, 1].map((stream) => fates(decisions({ loss: 0.1 }, stream), FRAMES));
      near(streams[0]!.filter(({ verdict }, i) => verdict === LOST && streams[1]![i]!.verdict === LOST).length, 0.01);
    });
  });

  describe('delays', () => {
    it('by the delay, and evenly within the jitter around it', () => {
      const delays = fates(decisions({ delayMs: 20, jitterMs: 5 }), FRAMES).map(({ at }, i) => at - i);
      const mean = delays.reduce((sum, delay) => sum + delay, 0) / FRAMES;
      assert(delays.every((delay) => delay >= 15 && delay <= 25));
      assert(Math.abs(mean - 20) < 0.05, `the mean is ${mean}`);
      for (let from = 15; from < 25; from++) {
        const share = delays.filter((delay) => delay >= from && delay < from + 1).length / FRAMES;
        assert(Math.abs(share - 0.1) < 0.005, `${share} of the frames within ${from} and ${from + 1} ms`);
      }
    });

    it('none of those that are reordered', () => {
      for (const [i, { reordered, at }] of fates(decisions({ delayMs: 20, reorder: 0.5 }), 1000).entries()) {
        assert.equal(at, reordered ? i : i + 20);
      }
    });

    it('a copy by a jitter of its own', () => {
      const copies = fates(decisions({ duplicate: 1, delayMs: 20, jitterMs: 20 }), 1000);
      assert(copies.some(({ at, copyAt }) => copyAt < at) && copies.some(({ at, copyAt }) => copyAt > at));
      for (const { at, copyAt } of fates(decisions({ duplicate: 1, delayMs: 20 }), 100)) assert.equal(copyAt, at);
    });
  });

  describe('limits the rate', () => {
    const MBIT = 1e6;
    it('to what Ethernet takes for each frame: preamble, FCS, gap and padding too', () => {
      assert.equal(wireBytes(1514), 1538);
      assert.equal(wireBytes(42), 84, 'the shortest frame (64 bytes with its FCS), and 20 around it');
      const decided = decisions({ bitsPerSecond: 10 * MBIT });
      assert.equal(decided.takesTime, true);
      const near = (found: number, ms: number): void => assert(Math.abs(found - ms) < 1e-4, `${found}, not ${ms}`);
      near(fate(decided, 1514, 100).at, 100 + 1.2304);
      near(fate(decided, 1514, 100).at, 100 + 2 * 1.2304);
      near(fate(decided, 42, 101).at, 100 + 2 * 1.2304 + 0.0672);
      near(fate(decided, 42, 200).at, 200 + 0.0672);
    });

    it('before it delays, so that frames follow each other at the rate', () => {
      const decided = decisions({ bitsPerSecond: 10 * MBIT, delayMs: 20 });
      const times = Array.from({ length: 10 }, () => fate(decided, 1514, 0).at);
      for (const [i, at] of times.entries()) assert(Math.abs(at - (20 + (i + 1) * 1.2304)) < 1e-3);
    });

    it('of lost frames and of copies too, and not of those that found no room', () => {
      const secondAt = (given: Partial<Impairment>, room = PLENTY): number => {
        const decided = decisions({ bitsPerSecond: MBIT, ...given });
        fate(decided, 1226, 0, room);
        return Math.round(decided.decide(1226, 0, PLENTY) === PASSED ? decided.at : -1);
      };
      assert.equal(secondAt({}), 20);
      assert.equal(secondAt({ duplicate: 1 }), 30);
      assert.equal(secondAt({}, 0), 10);
      const lossy = decisions({ bitsPerSecond: MBIT, loss: 0.5 });
      let passed = 0;
      for (let i = 0; i < 10; i++) if (fate(lossy, 1226, 0).verdict === PASSED) passed = i + 1;
      assert(Math.abs(lossy.at - 10 * passed) < 1e-3, 'each frame before it took 10 ms, the lost ones too');
    });

    it('of all that share the wire together', () => {
      const memory = newWireMemory();
      const [a, b] = [0, 1].map(
        (stream) => new ImpairmentDecisions(impairment({ bitsPerSecond: MBIT }), stream, new WireTime(memory)),
      );
      assert.deepEqual(
        [a!, b!, a!].map((one) => Math.round(fate(one, 1226, 0).at)),
        [10, 20, 30],
      );
    });
  });

  describe('with little room', () => {
    it('says so, without losing its place in the random numbers', () => {
      const given = { loss: 0.1, delayMs: 5, jitterMs: 5 };
      const free = fates(decisions(given), 100);
      const full = decisions(given);
      for (let i = 0; i < 100; i++) {
        const one = fate(full, 1000, i, i % 3 === 0 ? 0 : PLENTY);
        if (i % 3 === 0) assert.equal(one.verdict, NO_ROOM);
        else assert.deepEqual(one, free[i]);
      }
    });

    it('makes no copy', () => {
      assert.equal(fate(decisions({ duplicate: 1 }), 1000, 0, 1).copyAt, -1);
    });
  });

  it('corrupts any bit behind the Ethernet header, and none of a frame that is nothing else', () => {
    const decided = decisions({ corrupt: 1 });
    const bits = new Set(Array.from({ length: 2000 }, () => fate(decided, 18, 0).corruptBit));
    assert.deepEqual(
      [...bits].sort((a, b) => a - b),
      Array.from({ length: 32 }, (_, i) => HEADER_BITS + i),
    );
    assert.equal(fate(decided, 14, 0).corruptBit, -1);
  });
});
