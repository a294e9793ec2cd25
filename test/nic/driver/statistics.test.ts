/** Counters against a card that clears them as they are read. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { CardRegisters } from '../../../nic/driver/card-registers.ts';
import { CardStatistics } from '../../../nic/driver/statistics.ts';
import {
  CRCERRS,
  GORCH,
  GORCL,
  GOTCL,
  GPRC,
  GPTC,
  LXOFFTXC,
  LXONTXC,
  MPC,
  MPTC,
  PTC64,
  QBRC_H,
  QBRC_L,
  QBTC_H,
  QBTC_L,
  QPRC,
  QPRDC,
  RQSMR,
  TQSM,
} from '../../../nic/registers.ts';
import { DriverTime, FakePciDevice } from '../../helpers/fake-pci-device.ts';

const WIDE: [low: number, high: number][] = [
  [GORCL, GORCH],
  [QBRC_L(0), QBRC_H(0)],
  [QBRC_L(1), QBRC_H(1)],
  [QBTC_L(0), QBTC_H(0)],
];

describe('CardStatistics', () => {
  let device: FakePciDevice;
  let statistics: CardStatistics;

  /** Reading clears: a counter of two words when its high one is read, and only if the low one was read before. */
  function clearOnRead(): void {
    const read32 = device.registers.read32;
    const lowRead = new Set<number>();
    device.registers.read32 = (offset) => {
      const value = read32(offset);
      const wide = WIDE.find((words) => words.includes(offset));
      if (wide === undefined) device.set(offset, 0);
      else if (offset === wide[0]) lowRead.add(offset);
      else {
        assert.ok(lowRead.delete(wide[0]), 'the low word is read first');
        device.set(wide[0], 0);
        device.set(wide[1], 0);
      }
      return value;
    };
  }

  beforeEach(() => {
    device = new FakePciDevice();
    statistics = new CardStatistics(new CardRegisters(device, new DriverTime()), 2);
    clearOnRead();
  });

  it('forget what was counted before', () => {
    device.set(GPRC, 7);
    statistics.reset();
    assert.equal(statistics.poll().rx_packets, 0);
  });

  it('give each queue a counter of its own', () => {
    statistics.reset();
    assert.deepEqual(device.writes(RQSMR(0)), [0x03020100]);
    assert.deepEqual(device.writes(RQSMR(3)), [0x0f0e0d0c]);
    assert.deepEqual(device.writes(TQSM(1)), [0x07060504]);
  });

  it('add up under the names of ethtool', () => {
    statistics.reset();
    for (const [register, value] of [
      [GPRC, 12],
      [CRCERRS, 2],
      [MPC(0), 3],
      [MPC(7), 4],
      [QPRC(1), 9],
      [QPRDC(0), 1],
      [QPRDC(1), 6],
    ] as const) {
      device.set(register, value);
    }
    const first = statistics.poll();
    assert.equal(first.rx_packets, 5);
    assert.equal(first.rx_crc_errors, 2);
    assert.equal(first.rx_missed, 7);
    assert.equal(first.rx_queue_1_packets, 9);
    assert.equal(first.rx_queue_1_drops, 6);
    assert.equal(first.rx_no_dma_resources, 7);
    assert.equal(first.rx_queue_2_packets, undefined, 'there are two queues');
    assert.equal(statistics.poll().rx_packets, 5, 'read is not counted twice');
    device.set(GPRC, 1);
    assert.equal(statistics.poll().rx_packets, 6);
  });

  it('leave out what the card counts besides: frames that it missed, and its own pause frames', () => {
    statistics.reset();
    for (const [register, value] of [
      [GPRC, 10],
      [MPC(0), 3],
      [GPTC, 20],
      [MPTC, 9],
      [PTC64, 8],
      [LXOFFTXC, 4],
      [LXONTXC, 2],
      [GOTCL, 10_000],
    ] as const) {
      device.set(register, value);
    }
    const { rx_packets, tx_packets, tx_multicast, tx_64, tx_bytes, tx_flow_control_xoff, tx_flow_control_xon } =
      statistics.poll();
    assert.deepEqual(
      { rx_packets, tx_packets, tx_multicast, tx_64, tx_bytes, tx_flow_control_xoff, tx_flow_control_xon },
      {
        rx_packets: 7,
        tx_packets: 14,
        tx_multicast: 3,
        tx_64: 2,
        tx_bytes: 10_000 - 6 * 64,
        tx_flow_control_xoff: 4,
        tx_flow_control_xon: 2,
      },
    );
  });

  it('never lose a count, whatever comes between two looks (property)', () => {
    const words = fc.record({
      frames: fc.integer({ min: 0, max: 0xfffffffe }),
      bytes: fc.integer({ min: 0, max: 2 ** 36 - 1 }),
    });
    fc.assert(
      fc.property(fc.array(words, { maxLength: 20 }), (looks) => {
        device = new FakePciDevice();
        statistics = new CardStatistics(new CardRegisters(device, new DriverTime()), 2);
        clearOnRead();
        statistics.reset();
        let frames = 0;
        let bytes = 0;
        let last = statistics.poll();
        for (const look of looks) {
          frames += look.frames;
          bytes += look.bytes;
          device.set(GPRC, look.frames);
          for (const [low, high] of WIDE) {
            device.set(low, look.bytes % 2 ** 32);
            device.set(high, Math.floor(look.bytes / 2 ** 32));
          }
          last = statistics.poll();
        }
        assert.equal(last.rx_packets, frames);
        for (const name of ['rx_bytes', 'rx_queue_0_bytes', 'rx_queue_1_bytes', 'tx_queue_0_bytes']) {
          assert.equal(last[name], bytes, name);
        }
      }),
    );
  });

  it('say that the card is gone', () => {
    statistics.reset();
    device.vanish();
    assert.throws(() => statistics.poll(), { name: 'CardGoneError' });
  });
});
