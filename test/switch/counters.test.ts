import assert from 'node:assert/strict';
import { Worker } from 'node:worker_threads';
import * as counters from '../../switch/counters.ts';
import { count, newCounters, readCounters } from '../../switch/counters.ts';

describe('port counters', () => {
  it('start at 0, each under a name of its own', () => {
    const named = readCounters(newCounters());
    assert.deepEqual(Object.keys(named), [
      'rx_frames',
      'rx_bytes',
      'tx_frames',
      'tx_bytes',
      'rx_drop_malformed',
      'rx_drop_bad_offload',
      'rx_drop_own_port',
      'rx_drop_link_down',
      'rx_drop_impaired',
      'rx_drop_impaired_queue',
      'tx_drop_no_buffers',
      'tx_drop_too_big',
      'tx_drop_ring_broken',
      'tx_drop_link_down',
      'tx_drop_error',
      'tx_drop_impaired',
      'tx_drop_impaired_queue',
      'rx_impaired_duplicated',
      'rx_impaired_corrupted',
      'rx_impaired_reordered',
      'tx_impaired_duplicated',
      'tx_impaired_corrupted',
      'tx_impaired_reordered',
    ]);
    assert(Object.values(named).every((value) => value === 0));
  });

  it('read back under the name of the constant that counted', () => {
    const constants = Object.entries<unknown>({ ...counters }).filter(
      (entry): entry is [string, number] => typeof entry[1] === 'number',
    );
    const port = newCounters();
    assert.equal(port.length, constants.length);
    for (const [i, [, which]] of constants.entries()) count(port, which, i + 1);
    assert.deepEqual(
      readCounters(port),
      Object.fromEntries(constants.map(([name, which]) => [name.toLowerCase(), port[which]!])),
    );
    assert.deepEqual(new Set(port), new Set(constants.map((_, i) => i + 1)), 'two constants share a counter');
  });

  it('add up, and exactly beyond 32 bits', () => {
    const port = newCounters();
    count(port, counters.RX_BYTES, 2 ** 52);
    count(port, counters.RX_BYTES, 1);
    count(port, counters.RX_BYTES, 2);
    assert.equal(readCounters(port).rx_bytes, 2 ** 52 + 3);
  });

  it('are seen by another thread without being asked for', async () => {
    const port = newCounters();
    const worker = new Worker('const { workerData } = require("node:worker_threads"); workerData[2] += 5;', {
      eval: true,
      workerData: port,
    });
    await new Promise((resolve) => worker.once('exit', resolve));
    assert.equal(readCounters(port).tx_frames, 5);
  });
});
