import assert from 'node:assert/strict';
import { Interrupts } from '../../../nic/model/interrupts.ts';
import { Link } from '../../../nic/model/link.ts';
import { Mac } from '../../../nic/model/mac.ts';
import { RegisterFile } from '../../../nic/model/register-file.ts';
import { Statistics } from '../../../nic/model/statistics.ts';
import {
  FCCFG,
  FCCFG_TFCE_802_3X,
  FCRTH,
  FCRTH_FCEN,
  FCRTL,
  FCRTL_XONE,
  FCRTV,
  FCTTV,
  GPRC,
  GPTC,
  HLREG0,
  HLREG0_JUMBOEN,
  HLREG0_LPBK,
  HLREG0_TXPADEN,
  LXOFFRXCNT,
  LXOFFTXC,
  LXONRXCNT,
  LXONTXC,
  MAXFRS,
  MAXFRS_MFS_SHIFT,
  MFLCN,
  MFLCN_DPF,
  MFLCN_PMCF,
  MFLCN_RFCE,
  RAH,
  RAL,
  ROC,
  RUC,
  RXCTRL,
  RXCTRL_RXEN,
  RXNFGPC,
  TFCS,
  TFCS_TXOFF,
  TPR,
} from '../../../nic/registers.ts';
import { FakeBus, FakeClock, FakeWire } from '../../helpers/fake-card-host.ts';

const TAG_TYPE = 0x8100;
const IPV4 = 0x0800;
/** µs that a pause of 1000 quanta of 512 bit times takes at 10 Gb/s. */
const QUANTA = 1000;
const QUANTA_US = 51.2;
const PAUSE = 1;
const PFC = 0x0101;
const CONTROL_ADDRESS = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x01];
const OWN_ADDRESS = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];

function frame(length: number, type = IPV4): Uint8Array {
  const bytes = new Uint8Array(length).fill(0xa5);
  bytes.set([0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2]);
  if (length >= 14) new DataView(bytes.buffer).setUint16(12, type);
  return bytes;
}

function control(opcode: number, quanta = 0, to = CONTROL_ADDRESS): Uint8Array {
  const bytes = frame(60, 0x8808);
  bytes.set(to);
  const view = new DataView(bytes.buffer);
  view.setUint16(14, opcode);
  view.setUint16(16, quanta);
  return bytes;
}

describe('MAC of the software 82599', () => {
  let registers: RegisterFile;
  let wire: FakeWire;
  let clock: FakeClock;
  let link: Link;
  let mac: Mac;
  /** Lengths of the frames that passed the MAC; those of loopback negative. */
  let passed: number[];
  const read = (offset: number): number => registers.read(offset);
  const set = (offset: number, bits: number): void => registers.write(offset, (read(offset) | bits) >>> 0);
  const clear = (offset: number, bits: number): void => registers.write(offset, (read(offset) & ~bits) >>> 0);
  const sent = (): number[] => wire.sent.splice(0).map(({ length }) => length);
  const arrived = (bytes: Uint8Array): number[] => {
    passed.length = 0;
    wire.arrive(bytes);
    return passed;
  };

  beforeEach(() => {
    registers = new RegisterFile();
    wire = new FakeWire();
    clock = new FakeClock();
    link = new Link(registers, wire, new Interrupts(registers, new FakeBus({ mib: 1 }), clock), clock);
    link.onChange = () => mac.linkChanged();
    mac = new Mac({ registers, wire, link, statistics: new Statistics(registers), clock });
    passed = [];
    mac.onFrame = ({ length }, loopback) => passed.push(loopback ? -length : length);
    // What the receive engine would define.
    for (const offset of [RXCTRL, RAL(0), RAH(0)]) registers.define(offset);
    registers.write(RXCTRL, RXCTRL_RXEN);
    link.start();
  });

  describe('sending', () => {
    it('pads to 60 bytes, with zeros, where TXPADEN is set', () => {
      mac.transmit(frame(60));
      mac.transmit(frame(14));
      assert.deepEqual(wire.sent[0], frame(60));
      assert.deepEqual([...wire.sent[1]!.subarray(14)], new Array(46).fill(0));
      assert.deepEqual(sent(), [60, 60]);
      clear(HLREG0, HLREG0_TXPADEN);
      mac.transmit(frame(14));
      assert.deepEqual(sent(), [14]);
    });

    it('sends and counts nothing while the link is down', () => {
      wire.setCarrier(false);
      mac.transmit(frame(60));
      assert.deepEqual(sent(), []);
      assert.equal(read(GPTC), 0);
      wire.setCarrier(true);
      mac.transmit(frame(60));
      assert.deepEqual(sent(), [60]);
      assert.equal(read(GPTC), 1);
    });

    it('gives frames back in loopback, link or not, and sends none', () => {
      set(HLREG0, HLREG0_LPBK);
      wire.setCarrier(false);
      mac.transmit(frame(20));
      assert.deepEqual(sent(), []);
      assert.deepEqual(passed, [-60]);
      assert.deepEqual([GPTC, TPR, RXNFGPC].map(read), [1, 1, 1]);
      wire.setCarrier(true);
      assert.deepEqual(arrived(frame(60)), [], 'the wire is cut off meanwhile');
    });
  });

  describe('receiving', () => {
    it('takes 64 to 1518 bytes with CRC, and a VLAN tag more', () => {
      assert.deepEqual(arrived(frame(60)), [60]);
      assert.deepEqual(arrived(frame(1514)), [1514]);
      assert.deepEqual(arrived(frame(1518, TAG_TYPE)), [1518]);
      assert.deepEqual([RXNFGPC, GPRC, RUC, ROC].map(read), [3, 0, 0, 0], 'GPRC is for what passes the filters');
    });

    it('counts what is shorter or longer, and drops it', () => {
      assert.deepEqual(arrived(frame(59)), []);
      assert.deepEqual(arrived(frame(1515)), []);
      assert.deepEqual(arrived(frame(1519, TAG_TYPE)), []);
      assert.deepEqual([GPRC, RUC, ROC, TPR].map(read), [0, 1, 2, 3]);
    });

    it('takes up to MAXFRS with JUMBOEN only', () => {
      registers.write(MAXFRS, (9018 << MAXFRS_MFS_SHIFT) >>> 0);
      assert.deepEqual(arrived(frame(9014)), []);
      set(HLREG0, HLREG0_JUMBOEN);
      assert.deepEqual(arrived(frame(9014)), [9014]);
      assert.deepEqual(arrived(frame(9018, TAG_TYPE)), [9018]);
      assert.deepEqual(arrived(frame(9015)), []);
      assert.equal(read(ROC), 2);
    });

    it('takes and counts nothing while the link is down, or the receiver off', () => {
      wire.setCarrier(false);
      assert.deepEqual(arrived(frame(60)), []);
      wire.setCarrier(true);
      clear(RXCTRL, RXCTRL_RXEN);
      assert.deepEqual(arrived(frame(60)), []);
      assert.deepEqual([GPRC, TPR].map(read), [0, 0]);
    });
  });

  describe('flow control', () => {
    it('holds frames for the quanta of a pause frame, and sends them in order', () => {
      set(MFLCN, MFLCN_RFCE);
      wire.arrive(control(PAUSE, QUANTA));
      for (const length of [60, 61, 62]) mac.transmit(frame(length));
      clock.advance(QUANTA_US - 1);
      assert.deepEqual(sent(), []);
      clock.advance(1);
      assert.deepEqual(sent(), [60, 61, 62]);
      mac.transmit(frame(63));
      assert.deepEqual(sent(), [63]);
      assert.deepEqual([LXOFFRXCNT, LXONRXCNT, GPTC].map(read), [1, 0, 4]);
    });

    it('goes on at once when a pause of no quanta comes', () => {
      set(MFLCN, MFLCN_RFCE);
      wire.arrive(control(PAUSE, QUANTA));
      mac.transmit(frame(60));
      wire.arrive(control(PAUSE, 0));
      assert.deepEqual(sent(), [60]);
      assert.equal(clock.pending, 0);
      assert.deepEqual([LXOFFRXCNT, LXONRXCNT].map(read), [1, 1]);
    });

    it('counts the time from the last pause frame', () => {
      set(MFLCN, MFLCN_RFCE);
      wire.arrive(control(PAUSE, QUANTA));
      mac.transmit(frame(60));
      clock.advance(QUANTA_US - 1);
      wire.arrive(control(PAUSE, QUANTA));
      clock.advance(QUANTA_US - 1);
      assert.deepEqual(sent(), []);
      clock.advance(1);
      assert.deepEqual(sent(), [60]);
    });

    it('takes no more frames than its packet buffer has room for, and says when it takes them again', () => {
      let told = 0;
      mac.onReady = () => told++;
      set(MFLCN, MFLCN_RFCE);
      wire.arrive(control(PAUSE, QUANTA));
      let count = 0;
      for (; mac.ready; count++) mac.transmit(frame(1024));
      assert.equal(count, 160);
      mac.transmit(frame(1024));
      assert.deepEqual([sent(), told], [[], 0]);
      clock.advance(QUANTA_US);
      assert.equal(sent().length, 161, 'what comes all the same, as segments of a frame do, is not lost');
      assert.deepEqual([mac.ready, told], [true, 1]);
    });

    it('holds frames while the cable takes none, and sends them in order', () => {
      wire.ready = false;
      for (const length of [60, 61]) mac.transmit(frame(length));
      assert.deepEqual(sent(), []);
      wire.onSent = ({ length }) => {
        if (length === 60) wire.ready = false;
      };
      wire.setReady(true);
      assert.deepEqual(sent(), [60]);
      mac.transmit(frame(62));
      wire.setReady(true);
      assert.deepEqual(sent(), [61, 62]);
      assert.equal(read(GPTC), 3);
    });

    it('keeps the order when it is given frames as it says that it takes them again', () => {
      set(MFLCN, MFLCN_RFCE);
      wire.arrive(control(PAUSE, QUANTA));
      let length = 1000;
      while (mac.ready) mac.transmit(frame(length++));
      const held = length - 1000;
      mac.onReady = () => mac.transmit(frame(length++));
      clock.advance(QUANTA_US);
      assert.deepEqual(
        sent(),
        Array.from({ length: held + 1 }, (_, i) => 1000 + i),
      );
    });

    it('loses what waits as the link goes, and the pause with it', () => {
      let told = 0;
      mac.onReady = () => told++;
      set(MFLCN, MFLCN_RFCE);
      wire.arrive(control(PAUSE, QUANTA));
      while (mac.ready) mac.transmit(frame(1000));
      assert.equal(read(TFCS), TFCS_TXOFF);
      wire.setCarrier(false);
      assert.deepEqual([mac.ready, told > 0, clock.pending, read(TFCS)], [true, true, 0, 0]);
      wire.setCarrier(true);
      mac.transmit(frame(61));
      assert.deepEqual(sent(), [61]);
    });

    it('obeys no pause without RFCE, nor one to somebody else', () => {
      wire.arrive(control(PAUSE, QUANTA));
      mac.transmit(frame(60));
      assert.deepEqual(sent(), [60]);
      set(MFLCN, MFLCN_RFCE);
      assert.deepEqual(arrived(control(PAUSE, QUANTA, [0x02, 9, 9, 9, 9, 9])), [60], 'a frame as any other');
      mac.transmit(frame(60));
      assert.deepEqual(sent(), [60]);
      assert.equal(read(LXOFFRXCNT), 1);
    });

    it('obeys a pause to its own address', () => {
      set(MFLCN, MFLCN_RFCE);
      registers.write(RAL(0), 0x33221102);
      registers.write(RAH(0), 0x80005544);
      wire.arrive(control(PAUSE, QUANTA, OWN_ADDRESS));
      mac.transmit(frame(60));
      assert.deepEqual(sent(), []);
    });

    it('passes pause frames on, unless DPF is set and flow control on', () => {
      for (const [bits, expected] of [
        [0, [60]],
        [MFLCN_DPF, [60]],
        [MFLCN_RFCE, [60]],
        [MFLCN_DPF | MFLCN_RFCE, []],
      ] as const) {
        registers.write(MFLCN, bits);
        assert.deepEqual(arrived(control(PAUSE)), expected, `MFLCN ${bits}`);
      }
    });

    it('passes other MAC control frames on with PMCF only, and counts no pause', () => {
      assert.deepEqual(arrived(control(PFC)), []);
      set(MFLCN, MFLCN_PMCF);
      assert.deepEqual(arrived(control(PFC)), [60]);
      assert.deepEqual([GPRC, TPR, LXOFFRXCNT, LXONRXCNT].map(read), [0, 2, 0, 0]);
    });

    it('forgets in a reset what it held, and its timer', () => {
      set(MFLCN, MFLCN_RFCE);
      wire.arrive(control(PAUSE, QUANTA));
      mac.transmit(frame(60));
      mac.reset();
      assert.equal(clock.pending, 0);
      mac.transmit(frame(61));
      assert.deepEqual(sent(), [61]);
    });
  });

  describe('asking for a pause', () => {
    const HIGH = 64 * 1024;
    const LOW = 32 * 1024;
    const TIME = 1000;
    const REFRESH = 400;
    /** Quanta of the pause frames since the last call. */
    const pauses = (): number[] =>
      wire.sent.splice(0).map((bytes) => {
        const view = new DataView(bytes.buffer);
        assert.equal(bytes.length, 60);
        assert.deepEqual([...bytes.subarray(0, 6)], CONTROL_ADDRESS);
        assert.deepEqual([...bytes.subarray(6, 12)], OWN_ADDRESS);
        assert.deepEqual([view.getUint16(12), view.getUint16(14)], [0x8808, PAUSE]);
        assert.ok(bytes.subarray(18).every((byte) => byte === 0));
        return view.getUint16(16);
      });

    beforeEach(() => {
      registers.write(RAL(0), 0x33221102);
      registers.write(RAH(0), 0x80005544);
      registers.write(FCCFG, FCCFG_TFCE_802_3X);
      registers.write(FCTTV(0), TIME * 0x10001);
      registers.write(FCRTV, REFRESH);
      registers.write(FCRTL(0), LOW + FCRTL_XONE);
      registers.write(FCRTH(0), HIGH + FCRTH_FCEN);
    });

    it('sends XOFF above FCRTH, once, and XON below FCRTL', () => {
      mac.bufferLevel(HIGH);
      assert.deepEqual(pauses(), []);
      for (const level of [HIGH + 1, HIGH + 2, HIGH, LOW]) mac.bufferLevel(level);
      assert.deepEqual(pauses(), [TIME]);
      mac.bufferLevel(LOW - 1);
      mac.bufferLevel(0);
      assert.deepEqual(pauses(), [0]);
      assert.equal(clock.pending, 0);
      mac.bufferLevel(HIGH + 1);
      assert.deepEqual(pauses(), [TIME]);
      assert.deepEqual([LXOFFTXC, LXONTXC, GPTC].map(read), [2, 1, 3]);
    });

    it('sends it again when FCRTV quanta of it are left, as long as the buffer is not below FCRTL', () => {
      mac.bufferLevel(HIGH + 1);
      mac.bufferLevel(LOW);
      const us = (TIME - REFRESH) * 0.0512;
      clock.advance(us);
      clock.advance(us);
      assert.deepEqual(pauses(), [TIME, TIME, TIME]);
      mac.bufferLevel(0);
      clock.advance(10 * us);
      assert.deepEqual(pauses(), [0]);
    });

    it('sends it again without FCRTV with the next frame only that comes when it is over', () => {
      registers.write(FCRTV, 0);
      mac.bufferLevel(HIGH + 1);
      clock.advance(TIME * 0.0512);
      assert.deepEqual(pauses(), [TIME]);
      mac.bufferLevel(HIGH + 2);
      assert.deepEqual(pauses(), [TIME]);
    });

    it('sends no XON without XONE', () => {
      registers.write(FCRTL(0), LOW);
      mac.bufferLevel(HIGH + 1);
      mac.bufferLevel(0);
      assert.deepEqual(pauses(), [TIME]);
      assert.equal(clock.pending, 0);
    });

    it('sends nothing without TFCE, without FCEN, or while the link is down', () => {
      for (const off of [
        () => registers.write(FCCFG, 0),
        () => registers.write(FCCFG, 2 << 3),
        () => registers.write(FCRTH(0), HIGH),
        () => wire.setCarrier(false),
      ]) {
        registers.write(FCCFG, FCCFG_TFCE_802_3X);
        registers.write(FCRTH(0), HIGH + FCRTH_FCEN);
        off();
        mac.bufferLevel(HIGH + 1);
        mac.bufferLevel(0);
        assert.deepEqual(pauses(), []);
      }
      assert.deepEqual([LXOFFTXC, LXONTXC].map(read), [0, 0]);
    });

    it('goes before frames that wait, paused as it may be itself', () => {
      set(MFLCN, MFLCN_RFCE);
      wire.arrive(control(PAUSE, QUANTA));
      mac.transmit(frame(100));
      mac.bufferLevel(HIGH + 1);
      assert.deepEqual(pauses(), [TIME]);
    });

    it('is forgotten in a reset', () => {
      mac.bufferLevel(HIGH + 1);
      mac.reset();
      assert.equal(clock.pending, 0);
      mac.bufferLevel(0);
      assert.deepEqual(pauses(), [TIME]);
    });
  });
});
