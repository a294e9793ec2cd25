import assert from 'node:assert/strict';
import { cacheLineNs, groupByDistance } from '../../bench/cpu-distance.ts';

describe('the distance of CPUs', () => {
  it('is measured between two threads', async () => {
    const ns = await cacheLineNs(0, 1);
    assert.ok(ns > 1 && ns < 1e6, `${ns}`);
  });

  it('cannot be measured from a CPU that is not there', async () => {
    await assert.rejects(cacheLineNs(0, 1000), /sched_setaffinity\(cpus="1000"\) failed: EINVAL/);
    await assert.rejects(cacheLineNs(1000, 0), /sched_setaffinity\(cpus="1000"\) failed: EINVAL/);
  });

  it('parts items with near CPUs from those with far ones, and leaves out those during which it changed', () => {
    const times = [
      [140, 150],
      [700, 140],
      [600, 700],
      [200, 150],
    ];
    assert.deepEqual(
      groupByDistance([0, 1, 2, 3], (i) => times[i]!),
      [[0, 3], [2]],
    );
    assert.deepEqual(
      groupByDistance([1], (i) => times[i]!),
      [],
    );
  });

  it('is one within a factor of 1.8', () => {
    const group = (...times: number[]) => groupByDistance(times, (ns) => [ns]);
    assert.deepEqual(group(140), [[140]]);
    assert.deepEqual(group(251, 140, 200), [[251, 140, 200]]);
    assert.deepEqual(group(252, 140), [[140], [252]]);
    assert.deepEqual(group(), []);
  });
});
