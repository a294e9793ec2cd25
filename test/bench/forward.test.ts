import assert from 'node:assert/strict';
import {
  type DistanceSummary,
  type ForwardRun,
  summarize,
  summarizeByDistance,
  summaryLines,
} from '../../bench/forward.ts';
import { anyRun } from './any-run.ts';

const run = (name: ForwardRun['switch'], mpps: number, more: Partial<ForwardRun> = {}): ForwardRun =>
  anyRun({ switch: name, mpps, ...more });

describe('the summary of forward', () => {
  const runs = [
    ...[12, 9, 11].map((mpps, round) => run('ringswitch', mpps, { round, busy_ns_per_frame: mpps })),
    ...[5, 4.5, 100].map((mpps, round) => run('ovs-dpdk', mpps, { round })),
    run('testpmd-io', 18, { round: 1 }),
    run('ringswitch', 4, { size: 1514 }),
    run('ovs-dpdk', 2, { size: 1514 }),
  ];

  it('has the median of each switch, size and ring', () => {
    const { medians } = summarize(runs);
    assert.deepEqual(
      medians.map((row) => [row.switch, row.size, row.mpps, row.gbps, row.busy_ns_per_frame]),
      [
        ['ringswitch', 64, 11, 5.632, 11],
        ['ovs-dpdk', 64, 5, 2.56, 100],
        ['testpmd-io', 64, 18, 9.216, 100],
        ['ringswitch', 1514, 4, 48.448, 100],
        ['ovs-dpdk', 1514, 2, 24.224, 100],
      ],
    );
  });

  it('compares runs of the same round, size and ring', () => {
    const { ratio, ratio_packed: packed } = summarize(runs);
    assert.deepEqual(ratio, { 'ovs-dpdk': { 64: 2, 1514: 2 }, 'testpmd-io': { 64: 0.5 } });
    assert.equal(packed, undefined);
  });

  it('compares packed rings apart', () => {
    const both = [...runs, run('ringswitch', 15, { ring: 'packed' }), run('ovs-dpdk', 5, { ring: 'packed' })];
    const { ratio, ratio_packed: packed } = summarize(both);
    assert.equal(ratio['ovs-dpdk']?.['64'], 2);
    assert.deepEqual(packed, { 'ovs-dpdk': { 64: 3 } });
  });

  it('has no ratio where one of the two is missing', () => {
    assert.deepEqual(summarize([run('ovs-dpdk', 5)]).ratio, {});
    assert.deepEqual(summarize([run('ringswitch', 5)]).ratio, {});
    assert.deepEqual(summarize([run('ringswitch', 5, { round: 1 }), run('ovs-dpdk', 5, { round: 2 })]).ratio, {});
    assert.deepEqual(summarize([]), { medians: [], ratio: {} });
  });

  it('knows no busy time where no run has one, and leaves out the runs without', () => {
    const busy = (values: (number | null)[]) =>
      summarize(values.map((ns) => run('ringswitch', 1, { busy_ns_per_frame: ns }))).medians[0]!.busy_ns_per_frame;
    assert.equal(busy([null, null]), null);
    assert.equal(busy([null, 80, 90]), 85);
  });

  it('compares turns of one distance with each other, and leaves out those during which it changed', () => {
    const distances: [number, number][] = [
      [140, 150],
      [700, 140],
      [600, 700],
      [200, 150],
    ];
    const turns = (mpps: number[]) =>
      mpps.map((each, i) => ({ mpps: each, busy_ns_per_frame: 100, cache_line_ns: distances[i]! }));
    const [near, far, ...more] = summarizeByDistance([
      run('ringswitch', 0, { turns: turns([12, 99, 6, 10]) }),
      run('ovs-dpdk', 0, { turns: turns([6, 99, 2, 5]) }),
    ]);
    assert.deepEqual(more, []);
    assert.deepEqual(near!.cache_line_ns, [140, 200]);
    assert.equal(near!.turns, 4);
    assert.deepEqual(near!.ratio, { 'ovs-dpdk': { 64: 2 } });
    assert.deepEqual(far!.cache_line_ns, [600, 700]);
    assert.deepEqual(far!.ratio, { 'ovs-dpdk': { 64: 3 } });
  });

  it('tells what gave no figure, and why', () => {
    const machine = { cpu: 'x', kernel: 'y', node: 'z' };
    const failure = { switch: 'ringswitch' as const, size: 64, ring: 'packed' as const, round: 2, reason: 'why\nmore' };
    const far: DistanceSummary = { cache_line_ns: [600, 700], turns: 4, ...summarize(runs.slice(0, 6)) };
    const result = {
      machine,
      runs,
      ...summarize(runs),
      by_distance: [far],
      discarded: [run('ovs-dpdk', 1)],
      failed: [failure],
    };
    const lines = summaryLines(result);
    assert.ok(lines.includes('ringswitch / ovs-dpdk, split: 2.00 at 64 B, 2.00 at 1514 B'), lines.join('\n'));
    const at = lines.indexOf('where a cache line took 600 to 700 ns there and back (4 turns):');
    assert.ok(at > 0 && lines.slice(at).includes('  ringswitch / ovs-dpdk, split: 2.00 at 64 B'), lines.join('\n'));
    assert.ok(lines.includes('no figure: 2. ringswitch 64 B packed: why'), lines.join('\n'));
    assert.ok(lines.some((line) => line.startsWith('1 runs belong to rounds that were discarded')));
  });
});
