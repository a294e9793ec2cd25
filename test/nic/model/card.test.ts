import assert from 'node:assert/strict';
import { LINK_UP_US } from '../../../nic/model/link.ts';
import {
  BPRC,
  CTRL,
  CTRL_EXT,
  CTRL_EXT_DRV_LOAD,
  CTRL_LRST,
  CTRL_PCIE_MASTER_DISABLE,
  CTRL_RST,
  DMATXCTL,
  DMATXCTL_TE,
  EICR,
  EICR_LSC,
  EICS,
  EIMS,
  EITR,
  FCCFG,
  FCCFG_TFCE_802_3X,
  FCRTH,
  FCRTH_FCEN,
  FCRTL,
  FCRTL_XONE,
  FCTRL,
  FCTRL_BAM,
  FCTRL_MPE,
  FCTRL_UPE,
  FCTTV,
  FDIRCMD,
  FDIRCTRL,
  FDIRCTRL_INIT_DONE,
  FRTIMER,
  GPRC,
  I2CCTL,
  I2CCTL_DATA_IN,
  LEDCTL,
  LINKS,
  LINKS_UP,
  LXOFFTXC,
  LXONTXC,
  MFLCN,
  MFLCN_RFCE,
  MPC,
  MPRC,
  MTA,
  PRC64,
  QBRC_H,
  RAH,
  RAH_LEGACY,
  RAL,
  RAL_LEGACY,
  RDLEN,
  RDRXCTL,
  RDRXCTL_DMAIDONE,
  RDT,
  RTTDQSEL,
  RTTDT1C,
  RTTDT2C,
  RTTUP2TC,
  RXDCTL,
  RXDCTL_ENABLE,
  RXNFGPC,
  RXPBSIZE,
  SECRXSTAT,
  SECRXSTAT_SECRX_RDY,
  SECTXSTAT,
  SECTXSTAT_SECTX_RDY,
  STATUS,
  STATUS_PCIE_MASTER_ENABLE,
  TDBAH,
  TDBAL,
  TDH,
  TDLEN,
  TDT,
  TPR,
  TXDCTL,
  TXDCTL_ENABLE,
} from '../../../nic/registers.ts';
import { newCard, startedCard } from '../../helpers/card-under-test.ts';

const BAR0_BYTES = 0x80000;
const COMMAND = 0x04;
const PCIE_DEVICE_CONTROL = 0xa8;
const FLR = 1 << 15;

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
      card.write(FCTRL, FCTRL_UPE);
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
    const { card, clock } = startedCard();
    card.write(CTRL, CTRL_RST);
    clock.advance(LINK_UP_US);
    assert.equal(card.config.busMaster, true);
    assert.notEqual(card.read(LINKS) & LINKS_UP, 0);
  });

  it('loses configuration space in a function reset, and stays dark until it is started', () => {
    const { card, wire, clock } = startedCard();
    card.reset();
    assert.equal(card.config.busMaster, false);
    assert.equal(wire.transmitting, false);
    assert.equal(card.read(EICR), 0, 'nothing of the link that went');
    card.write(CTRL, CTRL_RST);
    clock.advance(LINK_UP_US);
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

  it('counts frames before its filters in TPR and RXNFGPC, and those that pass them in GPRC, MPRC and BPRC', () => {
    const { card, wire } = startedCard();
    const to = (...address: number[]): void => {
      const frame = new Uint8Array(60);
      frame.set(address);
      wire.arrive(frame);
    };
    const own = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];
    const send = (): void => {
      to(...own);
      to(2, 9, 9, 9, 9, 9);
      to(1, 0, 0x5e, 0, 0, 1);
      to(255, 255, 255, 255, 255, 255);
    };
    const counts = (): number[] => [TPR, RXNFGPC, GPRC, MPRC, BPRC, PRC64].map((register) => card.read(register));
    send();
    assert.deepEqual(counts(), [4, 4, 1, 0, 0, 1]);
    card.write(FCTRL, FCTRL_BAM | FCTRL_MPE);
    send();
    assert.deepEqual(counts(), [4, 4, 3, 1, 1, 3]);
    card.write(FCTRL, FCTRL_BAM | FCTRL_MPE | FCTRL_UPE);
    send();
    assert.deepEqual(counts(), [4, 4, 4, 1, 1, 4]);
  });

  it('has MAC control frames that pass its filters in no counter of good ones', () => {
    const { card, wire } = startedCard();
    card.write(FCTRL, FCTRL_UPE | FCTRL_MPE);
    wire.arrive(
      Uint8Array.from({ length: 60 }, (_, i) => [1, 0x80, 0xc2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x88, 8, 0, 1][i] ?? 0),
    );
    assert.deepEqual(
      [TPR, GPRC, MPRC, PRC64, RXNFGPC].map((register) => card.read(register)),
      [1, 0, 0, 0, 0],
    );
  });

  it('reads no descriptors as it is reset or switched off while its cable is full', () => {
    for (const end of ['reset', 'close', 'CTRL.RST'] as const) {
      const { card, wire, bus, faults } = startedCard();
      const DATA = 0x2b300000;
      const length = 16_000;
      // Frames of 16,000 bytes from memory that reads as zeros, as many as the ring has.
      for (let n = 0; n < 63; n++) {
        const at = 0x1000 + 16 * n;
        bus.view.setBigUint64(at, BigInt(bus.base), true);
        bus.view.setUint32(at + 8, DATA | length, true);
        bus.view.setUint32(at + 12, length * 2 ** 14, true);
      }
      card.write(DMATXCTL, DMATXCTL_TE);
      card.write(TDBAL(0), 0x1000);
      card.write(TDBAH(0), 1);
      card.write(TDLEN(0), 64 * 16);
      card.write(TXDCTL(0), TXDCTL_ENABLE);
      wire.ready = false;
      card.write(TDT(0), 63);
      const head = card.read(TDH(0));
      assert.ok(head > 0 && head < 63, `${head}`);
      bus.memory.fill(0xff, 0x1000 + 16 * head, 0x1000 + 16 * 63);
      if (end === 'CTRL.RST') card.write(CTRL, CTRL_RST);
      else card[end]();
      wire.setReady(true);
      assert.deepEqual(faults, [], end);
      assert.deepEqual(wire.sent, []);
      assert.equal(bus.view.getUint32(0x1000 + 16 * head, true), 0xffffffff);
    }
  });

  it('asks for a pause when frames wait for descriptors, and loses what does not fit', () => {
    const { card, wire, clock } = startedCard();
    card.write(RXPBSIZE(0), 64 << 10);
    card.write(FCTRL, FCTRL_UPE);
    card.write(FCCFG, FCCFG_TFCE_802_3X);
    card.write(FCTTV(0), 0xffff);
    card.write(FCRTL(0), 0x2000 + FCRTL_XONE);
    card.write(FCRTH(0), 0x4000 + FCRTH_FCEN);
    card.write(RDLEN(0), 128);
    card.write(RXDCTL(0), RXDCTL_ENABLE);
    const arrive = (frames: number): void => {
      for (let n = 0; n < frames; n++) wire.arrive(new Uint8Array(1024));
    };
    arrive(16);
    assert.equal(card.read(LXOFFTXC), 0);
    arrive(1);
    assert.deepEqual([card.read(LXOFFTXC), wire.sent.length], [1, 1]);
    arrive(48);
    assert.deepEqual([card.read(MPC(0)), card.read(GPRC)], [1, 65]);
    card.write(RXDCTL(0), 0);
    card.write(RDT(0), 1);
    assert.deepEqual([card.read(LXONTXC), wire.sent.length], [1, 2], 'a queue that is off keeps nobody waiting');
    assert.equal(clock.pending, 0);
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
    const { card, clock, faults } = startedCard();
    for (const value of [0xffffffff, 0, 0xaaaaaaaa]) {
      for (let offset = 0; offset < BAR0_BYTES; offset += 4) {
        card.write(offset, value);
        const read = card.read(offset);
        assert.ok(Number.isInteger(read) && read >= 0 && read < 2 ** 32, `0x${offset.toString(16)} reads as ${read}`);
      }
    }
    card.write(CTRL, CTRL_RST);
    clock.advance(LINK_UP_US);
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
