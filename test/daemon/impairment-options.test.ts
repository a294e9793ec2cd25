import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  formatImpairment,
  formatImpairments,
  IMPAIRMENT_NAMES,
  IMPAIRMENT_WORDS,
  type ImpairmentWord,
  impairmentOf,
  NO_IMPAIRMENT,
  parseRate,
  parseShare,
  parseTime,
  problemOf,
} from '../../daemon/impairment-options.ts';
import { impairment } from '../helpers/impairments.ts';

describe('an impairment in words', () => {
  const taken: [parse: (text: string) => number | undefined, ...values: [text: string, value: number][]][] = [
    [parseShare, ['1%', 0.01], ['0.1%', 0.001], ['0.01%', 0.0001], ['0%', 0], ['100%', 1], ['33.3%', 0.333]],
    [parseTime, ['20ms', 20], ['5us', 0.005], ['1s', 1000], ['1.5s', 1500], ['0ms', 0], ['60s', 60_000], ['7MS', 7]],
    [parseRate, ['100mbit', 1e8], ['1gbit', 1e9], ['1.5Gbit', 1.5e9], ['64kbit', 64_000], ['1000bit', 1000]],
    [IMPAIRMENT_WORDS.limit.parse, ['1', 1], ['100000', 100_000]],
    [IMPAIRMENT_WORDS.seed.parse, ['0', 0], ['4294967295', 0xffff_ffff]],
  ];
  for (const [parse, ...values] of taken) {
    for (const [text, value] of values) it(`takes ${text}`, () => assert.equal(parse(text), value));
  }

  const refused: [parse: (text: string) => number | undefined, ...texts: string[]][] = [
    [parseShare, '1', '', '%', '-1%', '101%', '100.1%', '1 %', '1%%', '.5%', '1e1%', '0x1%', 'NaN%', '1,5%'],
    [parseTime, '20', '', 'ms', '-1ms', '1 ms', '61s', '1h', '1ns', '1e3ms', '1ms1', 'toString', '1constructor'],
    [parseRate, '100', '0mbit', '999bit', '1001gbit', '1mbyte', '1mbps', '-1mbit', 'fast', ''],
    [IMPAIRMENT_WORDS.limit.parse, '0', '100001', '1.5', '-1', ''],
    [IMPAIRMENT_WORDS.seed.parse, '4294967296', '-1', '1.5', 'x', ''],
  ];
  for (const [parse, ...texts] of refused) {
    for (const text of texts) it(`refuses "${text}" as ${parse.name}`, () => assert.equal(parse(text), undefined));
  }

  it('sets what was given, and nothing else', () => {
    assert.deepEqual(impairmentOf({}), NO_IMPAIRMENT);
    assert.deepEqual(impairmentOf({ rate: 1e6, seed: 0 }), { ...NO_IMPAIRMENT, bitsPerSecond: 1e6, seed: 0 });
  });

  it('tells what does not go together', () => {
    const problem = (values: Parameters<typeof impairmentOf>[0]): string | null => problemOf(impairmentOf(values));
    assert.equal(problem({ loss: 0.1 }), null);
    assert.equal(problem({ delay: 5, jitter: 5, reorder: 1 }), null);
    assert.match(problem({ delay: 5, jitter: 5.1 })!, /^a jitter of 5.1ms is too much where the delay is 5ms/);
    assert.match(problem({ jitter: 0.1 })!, /^a jitter of 100us is too much where there is no delay/);
    assert.match(problem({ reorder: 0.1, loss: 0.1 })!, /^reorder needs a delay/);
    for (const values of [{}, { seed: 1 }, { limit: 5, loss: 0 }]) {
      assert.match(problem(values)!, /^it impairs nothing: give at least one of loss, delay, reorder, dup/);
    }
  });

  it('says what it parses again (fast-check)', () => {
    const percent = fc.integer({ min: 1, max: 10_000 }).map((n) => n / 1e4);
    const some = fc.record({
      loss: percent,
      duplicate: percent,
      corrupt: percent,
      reorder: percent,
      delayMs: fc.integer({ min: 2, max: 60_000_000 }).map((us) => us / 1000),
      jitterMs: fc.constantFrom(0, 0.001, 0.002),
      bitsPerSecond: fc.integer({ min: 1000, max: 1e12 }),
      limit: fc.integer({ min: 1, max: 100_000 }),
      seed: fc.nat(0xffff_ffff),
    });
    fc.assert(
      fc.property(some, (given) => {
        const values: { [Word in ImpairmentWord]?: number } = {};
        for (const part of formatImpairment(given).split(', ')) {
          const [word, text, jitter] = part.split(' ') as [ImpairmentWord, string, string | undefined];
          values[word] = IMPAIRMENT_WORDS[word].parse(text);
          if (jitter) values.jitter = parseTime(jitter.slice(1));
        }
        assert.deepEqual(impairmentOf(values), { ...given });
        assert.deepEqual(
          Object.keys(values).sort(),
          IMPAIRMENT_NAMES.filter((n) => n !== 'jitter' || given.jitterMs).sort(),
        );
      }),
    );
  });

  it('is said of both directions together, where they are alike', () => {
    const one = impairment({ loss: 0.5 });
    assert.deepEqual(formatImpairments({ to: null, from: null }), []);
    assert.deepEqual(formatImpairments({ to: one, from: { ...one } }), [
      'impaired in both directions: loss 50%, limit 1000, seed 1',
    ]);
    assert.deepEqual(formatImpairments({ to: null, from: one }), [
      'impaired from the port: loss 50%, limit 1000, seed 1',
    ]);
  });
});
