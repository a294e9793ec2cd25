import assert from 'node:assert/strict';
import {
  CTRL,
  CTRL_EXT,
  CTRL_EXT_DRV_LOAD,
  CTRL_LRST,
  CTRL_PCIE_MASTER_DISABLE,
  CTRL_RST,
  EICR,
  EICR_LSC,
  EICS,
  EIMS,
  EITR,
  FDIRCTRL,
  FDIRCTRL_INIT_DONE,
  FRTIMER,
  GPRC,
  I2CCTL,
  I2CCTL_DATA_IN,
  LEDCTL,
  LINKS,
  LINKS_UP,
  MFLCN,
  MFLCN_RFCE,
  MTA,
  QBRC_H,
  RAH,
  RAH_LEGACY,
  RAL,
  RAL_LEGACY,
  RDRXCTL,
  RDRXCTL_DMAIDONE,
  RTTDQSEL,
  RTTDT1C,
  RTTDT2C,
  RTTUP2TC,
  SECRXSTAT,
  SECRXSTAT_SECRX_RDY,
  SECTXSTAT,
  SECTXSTAT_SECTX_RDY,
  STATUS,
  STATUS_PCIE_MASTER_ENABLE,
} from '../../../nic/registers.ts';
import { newCard, startedCard } from '../../helpers/card-under-test.ts';

const BAR0_BYTES = 0x80000;
const COMMAND = 0x04;
const PCIE_DEVICE_CONTROL = 0xa8;
const FLR = 1 << 15;
const FDIRCMD = 0x0ee2c;

describe('software 82599', () => {
  it('clears CTRL.RST and CTRL.LRST by itself', () => {
    for (const bit of [CTRL_RST, CTRL_LRST]) {
      const { card } = newCard();
      card.write(CTRL, bit);
      assert.equal(card.read(CTRL) & bit, 0);
    }
  });

  for (const [name, reset] of [
    ['a device reset', ({ card }: ReturnType<typeof newCard>) => card.write(CTRL, CTRL_RST)],
    ['a function reset', ({ card }: ReturnType<typeof newCard>) => card.reset()],
    [
      'a function-level reset by configuration space',
      ({ card }: ReturnType<typeof newCard>) => card.config.write(PCIE_DEVICE_CONTROL, 2, FLR),
    ],
  ] as const) {
    it(`has its registers as after power-on after ${name}, and its own address again`, () => {
      const all = startedCard();
      const { card, wire, clock, bus } = all;
      card.write(EITR(0), 100 << 3);
      card.write(EIMS, 0x7fffffff);
      card.write(MFLCN, MFLCN_RFCE);
      card.write(MTA(3), 0x55);
      card.write(RAL(0), 0x12345678);
      card.write(CTRL_EXT, CTRL_EXT_DRV_LOAD);
      // Two causes, of which moderation holds back the second, a frame, a pause, half a transfer over I2C.
      card.write(EICS, 1);
      card.write(EICS, 2);
      wire.arrive(new Uint8Array(60));
      wire.arrive(
        Uint8Array.from({ length: 60 }, (_, i) => [1, 0x80, 0xc2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x88, 8, 0, 1, 1][i] ?? 0),
      );
      card.write(I2CCTL, 0);
      assert.equal(card.read(GPRC), 1);
      wire.arrive(new Uint8Array(60));
      assert.equal(clock.pending, 2);
      reset(all);
      bus.takeInterrupts();
      clock.advance(1e6);
      assert.deepEqual(bus.takeInterrupts(), []);
      assert.equal(clock.pending, 0);
      for (const register of [EIMS, MFLCN, MTA(3), CTRL_EXT, GPRC, QBRC_H(0), EITR(0)]) {
        assert.equal(card.read(register), 0, `register 0x${register.toString(16)}`);
      }
      assert.equal(card.read(EICR) & ~EICR_LSC & 0x7fffffff, 0);
      assert.deepEqual([card.read(RAL(0)), card.read(RAH(0))], [0x33221102, 0x80005544]);
      assert.notEqual(card.read(I2CCTL) & I2CCTL_DATA_IN, 0);
    });
  }

  it('keeps configuration space in a device reset, and its link comes back', () => {
    const { card } = startedCard();
    card.write(CTRL, CTRL_RST);
    assert.equal(card.config.busMaster, true);
    assert.notEqual(card.read(LINKS) & LINKS_UP, 0);
  });

  it('loses configuration space in a function reset, and stays dark until it is started', () => {
    const { card, wire } = startedCard();
    card.reset();
    assert.equal(card.config.busMaster, false);
    assert.equal(wire.transmitting, false);
    assert.equal(card.read(EICR), 0, 'nothing of the link that went');
    card.write(CTRL, CTRL_RST);
    assert.equal(wire.transmitting, true);
  });

  it('says in STATUS that it has stopped mastering the bus', () => {
    const { card } = startedCard();
    assert.notEqual(card.read(STATUS) & STATUS_PCIE_MASTER_ENABLE, 0);
    card.write(CTRL, CTRL_PCIE_MASTER_DISABLE);
    assert.equal(card.read(STATUS) & STATUS_PCIE_MASTER_ENABLE, 0);
    card.write(CTRL, 0);
    assert.notEqual(card.read(STATUS) & STATUS_PCIE_MASTER_ENABLE, 0);
  });

  it('sends no interrupts unless it may master the bus', () => {
    const { card, bus } = startedCard();
    card.write(EIMS, 1);
    card.write(EICS, 1);
    assert.deepEqual(bus.takeInterrupts(), [0]);
    card.config.write(COMMAND, 2, 0);
    card.write(EICS, 1);
    assert.deepEqual(bus.takeInterrupts(), []);
  });

  it('has its address where the 82598 had it, too', () => {
    const { card } = newCard();
    assert.deepEqual(
      [RAL_LEGACY(0), RAH_LEGACY(0)].map((offset) => card.read(offset)),
      [0x33221102, 0x80005544],
    );
    card.write(RAL_LEGACY(1), 0x11111111);
    assert.equal(card.read(RAL(1)), 0x11111111);
  });

  it('is done with whatever drivers wait for as they start it', () => {
    const { card } = startedCard();
    for (const [register, bits] of [
      [SECRXSTAT, SECRXSTAT_SECRX_RDY],
      [SECTXSTAT, SECTXSTAT_SECTX_RDY],
      [RDRXCTL, RDRXCTL_DMAIDONE],
      [FDIRCTRL, FDIRCTRL_INIT_DONE],
    ] as const) {
      assert.equal(card.read(register) & bits, bits, `register 0x${register.toString(16)}`);
    }
    card.write(FDIRCMD, 1);
    assert.equal(card.read(FDIRCMD) & 3, 0);
  });

  it('keeps what it has no use for: LEDs, arbiters of data center bridging', () => {
    const { card } = startedCard();
    for (const register of [LEDCTL, RTTDQSEL, RTTDT1C, RTTDT2C(7), RTTUP2TC]) {
      card.write(register, 0x12345);
      assert.equal(card.read(register), 0x12345, `register 0x${register.toString(16)}`);
    }
  });

  it('has a timer that runs', () => {
    const { card, clock } = startedCard();
    const before = card.read(FRTIMER);
    clock.advance(1000);
    assert.equal(card.read(FRTIMER) - before, 1000);
  });

  it('lets all of its registers be read and written, with any value, before and after', () => {
    const { card, faults } = startedCard();
    for (const value of [0xffffffff, 0, 0xaaaaaaaa]) {
      for (let offset = 0; offset < BAR0_BYTES; offset += 4) {
        card.write(offset, value);
        const read = card.read(offset);
        assert.ok(Number.isInteger(read) && read >= 0 && read < 2 ** 32, `0x${offset.toString(16)} reads as ${read}`);
      }
    }
    card.write(CTRL, CTRL_RST);
    assert.notEqual(card.read(LINKS) & LINKS_UP, 0);
    for (const fault of faults) assert.match(fault, /^(transmit|receive) queue \d+ /);
  });

  it('has no timers left when it is switched off', () => {
    const { card, clock } = startedCard();
    card.write(EITR(0), 100 << 3);
    card.write(EIMS, 3);
    card.write(EICS, 1);
    card.write(EICS, 2);
    assert.equal(clock.pending, 1);
    card.close();
    assert.equal(clock.pending, 0);
  });
});
