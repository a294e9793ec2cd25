import assert from 'node:assert/strict';
import { RegisterFile } from '../../../nic/model/register-file.ts';
import { Statistics } from '../../../nic/model/statistics.ts';
import {
  BPRC,
  BPTC,
  GORCH,
  GORCL,
  GOTCH,
  GOTCL,
  GPRC,
  GPTC,
  LXOFFRXCNT,
  LXOFFTXC,
  LXONRXCNT,
  LXONTXC,
  MLFC,
  MPC,
  MPRC,
  MPTC,
  PRC64,
  PRC127,
  PRC255,
  PRC511,
  PRC1023,
  PRC1522,
  PTC64,
  PTC127,
  PTC255,
  PTC511,
  PTC1023,
  PTC1522,
  QBRC_H,
  QBRC_L,
  QBTC_H,
  QBTC_L,
  QPRC,
  QPRDC,
  QPTC,
  ROC,
  RQSMR,
  RUC,
  RXDGBCH,
  RXDGBCL,
  RXDGPC,
  RXNFGBCH,
  RXNFGBCL,
  RXNFGPC,
  TORH,
  TORL,
  TPR,
  TPT,
  TQSM,
  TXDGBCH,
  TXDGBCL,
  TXDGPC,
  XEC,
} from '../../../nic/registers.ts';

const CRC_BYTES = 4;
const UNICAST = 0x02;
const MULTICAST = 0x01;
const BROADCAST = 0xff;

/** A frame without its CRC, to an address that begins with `first`. */
function frame(length: number, first = UNICAST): Uint8Array {
  const bytes = new Uint8Array(length);
  bytes[0] = first;
  if (first === BROADCAST) bytes.fill(BROADCAST, 0, 6);
  return bytes;
}

describe('statistics of the software 82599', () => {
  let registers: RegisterFile;
  let statistics: Statistics;
  const read = (offset: number): number => registers.read(offset);

  beforeEach(() => {
    registers = new RegisterFile();
    statistics = new Statistics(registers);
  });

  it('clear as they are read, and cannot be written', () => {
    statistics.received(frame(60));
    assert.equal(read(GPRC), 1);
    assert.equal(read(GPRC), 0);
    registers.write(GPRC, 5);
    registers.write(GORCL, 5);
    assert.deepEqual([read(GPRC), read(GORCL)], [0, 64]);
  });

  for (const [way, buckets, count] of [
    ['received', [PRC64, PRC127, PRC255, PRC511, PRC1023, PRC1522], (bytes: Uint8Array) => statistics.received(bytes)],
    [
      'transmitted',
      [PTC64, PTC127, PTC255, PTC511, PTC1023, PTC1522],
      (bytes: Uint8Array) => statistics.transmitted(bytes),
    ],
  ] as const) {
    it(`put ${way} frames into buckets by their length with CRC`, () => {
      for (const [length, bucket] of [
        [64, 0],
        [65, 1],
        [127, 1],
        [128, 2],
        [255, 2],
        [256, 3],
        [511, 3],
        [512, 4],
        [1023, 4],
        [1024, 5],
        [1518, 5],
        [9018, 5],
      ] as const) {
        count(frame(length - CRC_BYTES));
        const expected = buckets.map((_, i) => (i === bucket ? 1 : 0));
        assert.deepEqual(buckets.map(read), expected, `${length} bytes`);
      }
    });
  }

  it('count good frames, their bytes with CRC, and what kind of address they go to', () => {
    for (const first of [UNICAST, MULTICAST, BROADCAST]) {
      statistics.received(frame(96, first));
      statistics.transmitted(frame(196, first));
    }
    assert.deepEqual([GPRC, MPRC, BPRC].map(read), [3, 1, 1]);
    assert.deepEqual([GORCL, GORCH].map(read), [300, 0]);
    assert.deepEqual([GPTC, TPT, MPTC, BPTC].map(read), [3, 3, 1, 1]);
    assert.deepEqual([GOTCL, GOTCH].map(read), [600, 0]);
    assert.deepEqual([TPR, RXNFGPC].map(read), [0, 0], 'which the frame had when it arrived');
  });

  it('have what arrives in the totals, whatever the filters say', () => {
    for (const first of [UNICAST, MULTICAST, BROADCAST]) statistics.arrived(frame(96, first));
    assert.deepEqual([TPR, RXNFGPC, GPRC, MPRC, BPRC, PRC127].map(read), [3, 3, 0, 0, 0, 0]);
    assert.deepEqual([TORL, TORH, RXNFGBCL, RXNFGBCH, GORCL].map(read), [300, 0, 300, 0, 0]);
  });

  it('count what goes to and comes from memory', () => {
    statistics.queueReceived(0, 100);
    statistics.queueReceived(5, 200);
    statistics.queueTransmitted(7, 300);
    assert.deepEqual([RXDGPC, RXDGBCL, RXDGBCH].map(read), [2, 300, 0]);
    assert.deepEqual([TXDGPC, TXDGBCL, TXDGBCH].map(read), [1, 300, 0]);
  });

  it('count pause frames that were sent among all that was sent', () => {
    statistics.pauseSent(frame(60, MULTICAST), true);
    statistics.pauseSent(frame(60, MULTICAST), true);
    statistics.pauseSent(frame(60, MULTICAST), false);
    assert.deepEqual([LXOFFTXC, LXONTXC, GPTC, TPT, MPTC, PTC64].map(read), [2, 1, 3, 3, 3, 3]);
  });

  it('have frames of wrong length in the totals only', () => {
    statistics.undersized(frame(40));
    statistics.oversized(frame(2000));
    assert.deepEqual([RUC, ROC, TPR, GPRC].map(read), [1, 1, 2, 0]);
    assert.deepEqual([TORL, GORCL].map(read), [2048, 0]);
  });

  it('count pause frames apart, in the totals only', () => {
    statistics.controlReceived(frame(60));
    statistics.pauseReceived(true);
    statistics.controlReceived(frame(60));
    statistics.pauseReceived(false);
    assert.deepEqual([LXOFFRXCNT, LXONRXCNT, TPR, GPRC].map(read), [1, 1, 2, 0]);
  });

  it('count what was lost, was wrong, or went down', () => {
    statistics.missed();
    statistics.missed();
    statistics.checksumError();
    statistics.localFault();
    assert.deepEqual([MPC(0), XEC, MLFC].map(read), [2, 1, 1]);
  });

  it('count bytes in 36 bits, which the high word clears', () => {
    const bytes = 2 ** 31;
    for (let i = 0; i < 3; i++) statistics.queueReceived(0, bytes);
    assert.equal(read(QBRC_L(0)), bytes);
    // Reading the low word again changes nothing.
    assert.equal(read(QBRC_L(0)), bytes);
    assert.equal(read(QBRC_H(0)), 1);
    assert.deepEqual([read(QBRC_L(0)), read(QBRC_H(0))], [0, 0]);
  });

  it('lose nothing that comes between the reads of the two words', () => {
    statistics.queueTransmitted(0, 2 ** 32 - 1);
    assert.equal(read(QBTC_L(0)), 2 ** 32 - 1);
    statistics.queueTransmitted(0, 100);
    // As it stood when the low word was read.
    assert.equal(read(QBTC_H(0)), 0);
    assert.deepEqual([read(QBTC_L(0)), read(QBTC_H(0))], [100, 0]);
  });

  it('stick at their largest value', () => {
    registers.set(GPRC, 0xfffffffe);
    for (let i = 0; i < 3; i++) statistics.received(frame(60));
    assert.equal(read(GPRC), 0xffffffff);
    registers.set(GORCH, 0xf);
    registers.set(GORCL, 0xfffffff0);
    statistics.received(frame(60));
    assert.deepEqual([read(GORCL), read(GORCH)], [0xffffffff, 0xf]);
  });

  it('count each queue where RQSMR and TQSM say', () => {
    // Queues 4 to 7: into counters 1, 2, 15 and 0.
    registers.write(RQSMR(1), 0x000f0201);
    registers.write(TQSM(1), 0x000f0201);
    for (const [queue, counter] of [
      [4, 1],
      [5, 2],
      [6, 15],
      [7, 0],
    ] as const) {
      statistics.queueReceived(queue, 100);
      statistics.queueTransmitted(queue, 200);
      statistics.queueDropped(queue);
      assert.deepEqual(
        [QPRC, QPRDC, QBRC_L, QPTC, QBTC_L].map((of) => read(of(counter))),
        [1, 1, 100, 1, 200],
      );
      read(QBRC_H(counter));
      read(QBTC_H(counter));
    }
  });

  it('forget in a reset that a low word was read', () => {
    statistics.queueReceived(0, 500);
    read(QBRC_L(0));
    registers.reset();
    statistics.reset();
    statistics.queueReceived(0, 100);
    assert.equal(read(QBRC_H(0)), 0);
    assert.equal(read(QBRC_L(0)), 0);
  });
});
