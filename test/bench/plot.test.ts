import assert from 'node:assert/strict';
import type { ForwardResult } from '../../bench/forward.ts';
import { plotForward } from '../../bench/plot.ts';

const machine = { cpu: 'AMD <EPYC> & more', kernel: '6.1', node: 'v26' };
const row = (name: 'ringswitch' | 'ovs-dpdk', size: number, mpps: number, busy: number | null = 90) =>
  ({
    switch: name,
    size,
    ring: 'split',
    mpps,
    gbps: 1,
    busy_ns_per_frame: busy,
  }) satisfies ForwardResult['medians'][number];

/** Heights of the bars of one colour. */
function bars(svg: string, color: string): number[] {
  return [...svg.matchAll(/<rect [^>]*width="26" height="([\d.]+)"[^>]* fill="(#\w+)"/g)]
    .filter(([, , fill]) => fill === color)
    .map(([, height]) => Number(height));
}

describe('the chart of forward', () => {
  const medians = [row('ringswitch', 64, 12), row('ovs-dpdk', 64, 6, null), row('ovs-dpdk', 1514, 3)];
  const svg = plotForward({ machine, medians });

  it('has a bar for each median, as high as its figure within its size', () => {
    const [own] = bars(svg, '#2f81f7');
    const [small, large] = bars(svg, '#d9730d');
    assert.ok(Math.abs(own! / small! - 2) < 0.01, `${own} and ${small}`);
    assert.equal(large, own, 'the highest of each size fills its panel');
  });

  it('writes the figures, and the busy time where it is known', () => {
    for (const words of ['12.0', '6.0', '3.0', '64 B', '1514 B', 'split', 'ringswitch', 'ovs-dpdk']) {
      assert.ok(svg.includes(`>${words}</text>`), words);
    }
    assert.equal(svg.match(/>90<\/text>/g)?.length, 2);
    assert.ok(!svg.includes('testpmd-io'), 'what did not run has no place');
  });

  it('is well-formed whatever the machine is called', () => {
    assert.ok(svg.includes('AMD &lt;EPYC&gt; &amp; more, Linux 6.1'));
    assert.equal(svg.match(/<text /g)?.length, svg.match(/<\/text>/g)?.length);
    assert.ok(svg.startsWith('<svg ') && svg.endsWith('</svg>\n'));
    assert.ok(!/NaN|undefined|Infinity/.test(svg));
  });

  it('refuses results without medians', () => {
    assert.throws(() => plotForward({ machine, medians: [] }), /no medians: nothing to draw/);
  });
});
