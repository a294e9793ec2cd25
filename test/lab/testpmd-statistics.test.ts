import assert from 'node:assert/strict';
import { parseForwardStatistics, parsePortStatistics } from '../../lab/testpmd-statistics.ts';

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

const forward = (cycles = '') => `
  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 5              RX-dropped: 0             RX-total: 5
  TX-packets: 4              TX-dropped: 1             TX-total: 5
  ----------------------------------------------------------------------------

  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++
  RX-packets: 3708892        RX-dropped: 0             RX-total: 3708892
  TX-packets: 3709260        TX-dropped: 16            TX-total: 3709276
  ++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++
${cycles}`;
const CYCLES = '\n  CPU cycles/packet=340.04 (total cycles=565728352 / total io packets=1663712) at 2450 MHz Clock\n';

describe("testpmd's forward statistics", () => {
  it('are those of all ports together', () => {
    const expected = { rxPackets: 3708892, txPackets: 3709260, txDropped: 16 };
    assert.deepEqual(parseForwardStatistics(forward()), expected);
    const cycles = { busy: 565728352, packets: 1663712, hertz: 2.45e9 };
    assert.deepEqual(parseForwardStatistics(forward(CYCLES)), { ...expected, cycles });
  });

  it('name what is missing', () => {
    const without = forward().replaceAll('TX-dropped', 'TX-other');
    assert.throws(() => parseForwardStatistics(without), /forward statistics have no TX-dropped/);
    assert.throws(() => parseForwardStatistics('Done.\n'), /no accumulated forward statistics, but:\nDone/);
  });
});
