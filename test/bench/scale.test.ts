import assert from 'node:assert/strict';
import { demandWay, placement, switchCpus } from '../../bench/scale.ts';

describe("the processors of the switch's lanes", () => {
  it('are one for each lane, and never the last, which is the guests', () => {
    assert.deepEqual(
      [1, 2, 4].map((lanes) => switchCpus(lanes, 8)),
      ['0', '0-1', '0-3'],
    );
    assert.deepEqual(
      [1, 2, 4].map((lanes) => switchCpus(lanes, 4)),
      ['0', '0-1', '0-2'],
    );
    assert.deepEqual(
      [1, 2, 4].map((lanes) => switchCpus(lanes, 2)),
      ['0', '0', '0'],
    );
    assert.equal(switchCpus(1, 1), '0');
  });
});

describe('the lanes of the guests', () => {
  const lanes = (ports: number, count: number, crossing: boolean) =>
    Object.values(placement({ ports, lanes: count, crossing }));

  it('are the same for both of a pair, and the pairs take turns', () => {
    assert.deepEqual(placement({ ports: 2, lanes: 2, crossing: false }), { bench0: 0, bench1: 0 });
    assert.deepEqual(lanes(8, 2, false), [0, 0, 1, 1, 0, 0, 1, 1]);
    assert.deepEqual(lanes(8, 4, false), [0, 0, 1, 1, 2, 2, 3, 3]);
  });

  it('are different for the two of a pair where frames shall cross', () => {
    assert.deepEqual(lanes(4, 2, true), [0, 1, 1, 0]);
    assert.deepEqual(lanes(8, 4, true), [0, 1, 1, 2, 2, 3, 3, 0]);
  });
});

describe('the way of the frames', () => {
  it('is the one that the run is named after, or there is no result', () => {
    for (const [crossing, share] of [
      [true, 1],
      [true, 0.99],
      [true, 1.01],
      [false, 0],
      [false, 0.01],
    ] as const) {
      demandWay({ crossing }, share);
    }
    assert.throws(
      () => demandWay({ crossing: true }, 0.5),
      /^Error: 50 % of the frames crossed .*, and all should have$/,
    );
    assert.throws(
      () => demandWay({ crossing: false }, 1),
      /^Error: 100 % of the frames crossed .*, and none should have$/,
    );
  });
});
