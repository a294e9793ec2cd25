import assert from 'node:assert/strict';
import { median, percentile } from '../../bench/statistics.ts';

describe('the figures of many runs', () => {
  it('have a median, whatever their order', () => {
    assert.equal(median([7]), 7);
    assert.equal(median([9, 1, 5]), 5);
    assert.equal(median([10, 2, 1, 4]), 3);
    assert.equal(median([10, 9, 100]), 10);
    assert.throws(() => median([]), { name: 'RangeError', message: /no median of nothing/ });
  });

  it('have percentiles', () => {
    const values = Array.from({ length: 200 }, (_, i) => 200 - i);
    assert.equal(percentile(values, 0.5), 100);
    assert.equal(percentile(values, 0.99), 198);
    assert.equal(percentile(values, 1), 200);
    assert.equal(percentile([3, 1], 0), 1);
    assert.throws(() => percentile([], 0.5), { name: 'RangeError', message: /no percentile of nothing/ });
  });

  it('stay in their order', () => {
    const values = [3, 1, 2];
    median(values);
    percentile(values, 0.5);
    assert.deepEqual(values, [3, 1, 2]);
  });
});
