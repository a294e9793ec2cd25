import assert from 'node:assert/strict';
import { parsePmdStatistics } from '../../lab/ovs-dpdk.ts';

// As Open vSwitch 3.1 prints it.
const thread = (name: string, packets: number) => `${name}
  packets received: ${packets}
  packet recirculations: 0
  avg. datapath passes per packet: 1.00
  emc hits: ${packets}
  idle cycles: 66233253 (5.23%)
  processing cycles: 1198985285 (94.77%)
  avg cycles per packet: 513.20 (1265218538/2465344)
`;
const pmd = thread('pmd thread numa_id 0 core_id 0:', 2465344);

describe("Open vSwitch's poll-mode statistics", () => {
  it('are those of the poll-mode thread', () => {
    const expected = { packets: 2465344, idleCycles: 66233253, processingCycles: 1198985285 };
    assert.deepEqual(parsePmdStatistics(pmd + thread('main thread:', 7)), expected);
    assert.deepEqual(parsePmdStatistics(thread('main thread:', 7) + pmd), expected);
  });

  it('name what is missing', () => {
    assert.throws(() => parsePmdStatistics(thread('main thread:', 7)), /no pmd thread, but:\nmain thread/);
    assert.throws(() => parsePmdStatistics(pmd.replace('idle cycles', 'cycles')), /pmd thread has no idle cycles/);
  });
});
