import assert from 'node:assert/strict';
import { type GsoRun, gsoRatios, parseIperf } from '../../bench/gso.ts';

const run = (name: GsoRun['switch'], tso: GsoRun['tso'], gbps: number): GsoRun => ({
  ...{ switch: name, tso, round: 1, gbps, retransmits: 0, frame_bytes: null },
});

describe('bulk TCP', () => {
  it('is what the receiver of iperf3 got', () => {
    const end = { sum_sent: { retransmits: 3, bytes: 9e9, seconds: 2 }, sum_received: { bytes: 5e9, seconds: 2 } };
    assert.deepEqual(parseIperf(JSON.stringify({ end })), { gbps: 20, retransmits: 3 });
    assert.throws(() => parseIperf('{"error":"unable to connect","end":{}}'), /iperf3: unable to connect/);
    assert.throws(() => parseIperf('{}'), /its report has no end/);
  });

  it('is compared with veth, medians with medians', () => {
    const runs = [
      ...[10, 30, 20].map((gbps) => run('ringswitch', 'both', gbps)),
      run('ringswitch', 'sender', 10),
      run('ringswitch', 'none', 3),
      run('veth', 'both', 40),
      run('veth', 'none', 12),
    ];
    assert.deepEqual(gsoRatios(runs), { both: 0.5, sender: 0.25, none: 0.25 });
    assert.deepEqual(gsoRatios([run('ringswitch', 'both', 1)]), {});
  });
});
