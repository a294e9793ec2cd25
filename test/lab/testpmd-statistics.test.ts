import assert from 'node:assert/strict';
import { parsePortStatistics } from '../../lab/testpmd-statistics.ts';

// As DPDK 22.11 prints it.
const port = (n: number, rx: number) => `
  ######################## NIC statistics for port ${n}  ########################
  RX-packets: ${rx}    RX-missed: 7          RX-bytes:  296062976
  RX-errors: 1
  RX-nombuf:  2         
  TX-packets: 4626176    TX-errors: 3          TX-bytes:  296075264

  Throughput (since last show)
  Rx-pps:       999298          Rx-bps:    511640808
  Tx-pps:       999290          Tx-bps:    511640800
  ############################################################################
`;

describe("testpmd's port statistics", () => {
  it('are read port by port', () => {
    const [first, second, ...more] = parsePortStatistics(port(0, 4625984) + port(1, 18446744));
    assert.deepEqual(first, {
      port: 0,
      rxPackets: 4625984,
      rxMissed: 7,
      rxBytes: 296062976,
      rxErrors: 1,
      rxNombuf: 2,
      txPackets: 4626176,
      txErrors: 3,
      txBytes: 296075264,
      rxPps: 999298,
      rxBps: 511640808,
      txPps: 999290,
      txBps: 511640800,
    });
    assert.equal(second?.port, 1);
    assert.equal(second?.rxPackets, 18446744);
    assert.deepEqual(more, []);
  });

  it('name what is missing', () => {
    assert.throws(() => parsePortStatistics(port(3, 1).replace('RX-nombuf', 'RX-other')), /port 3 have no RX-nombuf/);
    assert.throws(() => parsePortStatistics('Invalid port 9\n'), /no port, but:\nInvalid port 9/);
  });
});
