import assert from 'node:assert/strict';
import { cacheLineNs, groupByDistance, sameDistance } from '../../bench/cpu-distance.ts';
import { type ForwardRun, groupRuns } from '../../bench/forward.ts';
import { anyRun } from './any-run.ts';

describe('the distance of CPUs', () => {
  it('is measured between two threads', async () => {
    const ns = await cacheLineNs(0, 1);
    assert.ok(ns > 1 && ns < 1e6, `${ns}`);
  });

  it('cannot be measured from a CPU that is not there', async () => {
    await assert.rejects(cacheLineNs(0, 1000), /sched_setaffinity\(cpus="1000"\) failed: EINVAL/);
    await assert.rejects(cacheLineNs(1000, 0), /sched_setaffinity\(cpus="1000"\) failed: EINVAL/);
  });

  it('is the same within a factor of 1.8', () => {
    assert.ok(sameDistance([140]));
    assert.ok(sameDistance([140, 251, 200]));
    assert.ok(!sameDistance([140, 252]));
    assert.ok(!sameDistance([252, 140]));
  });

  it('puts together what is the same, the nearest first', () => {
    assert.deepEqual(
      groupByDistance([700, 140, 200, 650, 1500, 320], (ns) => ns),
      [[140, 200, 320], [650, 700], [1500]],
    );
    assert.deepEqual(
      groupByDistance([], () => 0),
      [],
    );
  });

  it('leaves out runs during which it changed', () => {
    const runs = [
      [140, 150],
      [700, 140],
      [600, 700],
      [200, 150],
    ].map((times, round) => anyRun({ round, cache_line_ns: times as ForwardRun['cache_line_ns'] }));
    assert.deepEqual(
      groupRuns(runs).map((group) => group.map(({ round }) => round)),
      [[0, 3], [2]],
    );
  });
});
