import assert from 'node:assert/strict';
import { Interrupts } from '../../../nic/model/interrupts.ts';
import { RegisterFile } from '../../../nic/model/register-file.ts';
import {
  EIAC,
  EIAM,
  EIAM_EX,
  EICR,
  EICR_LSC,
  EICR_OTHER,
  EICR_RX_MISS,
  EICR_TCP_TIMER,
  EICS,
  EICS_EX,
  EIMC,
  EIMC_EX,
  EIMS,
  EIMS_EX,
  EITR,
  EITR_CNT_WDIS,
  EITR_INTERVAL_SHIFT,
  GPIE,
  GPIE_EIAME,
  GPIE_MSIX_MODE,
  GPIE_OCD,
  IVAR,
  IVAR_ALLOC_VALID,
  IVAR_MISC,
} from '../../../nic/registers.ts';
import { FakeBus, FakeClock } from '../../helpers/fake-card-host.ts';

/** Vectors that the tests give to receive and transmit of queue 0, to receive of queue 1, and to other causes. */
const [RX, TX, HIGH, MISC] = [1, 3, 40, 5];
const HIGH_BIT = 1 << (HIGH - 32);
/** In units of 2 µs. */
const INTERVAL = 10;
const INTERVAL_US = 20;

describe('interrupts of the software 82599', () => {
  let registers: RegisterFile;
  let bus: FakeBus;
  let clock: FakeClock;
  let interrupts: Interrupts;
  const read = (offset: number): number => registers.read(offset);
  const write = (offset: number, value: number): void => registers.write(offset, value);
  const fired = (): number[] => bus.takeInterrupts();

  beforeEach(() => {
    registers = new RegisterFile();
    bus = new FakeBus({ mib: 1 });
    clock = new FakeClock();
    interrupts = new Interrupts(registers, bus, clock);
    clock.advance(1000);
  });

  /** Vectors of their own for each cause, all enabled. */
  function useMsix(gpie = 0): void {
    write(GPIE, (GPIE_MSIX_MODE | gpie) >>> 0);
    write(IVAR(0), RX | IVAR_ALLOC_VALID | ((TX | IVAR_ALLOC_VALID) << 8) | ((HIGH | IVAR_ALLOC_VALID) << 16));
    write(IVAR_MISC, (MISC | IVAR_ALLOC_VALID) << 8);
    write(EIMS, (1 << RX) | (1 << TX) | EICR_LSC);
    write(EIMS_EX(1), HIGH_BIT);
  }

  describe('with a vector for each cause', () => {
    it('sends the vector that IVAR gives to receive and transmit of a queue', () => {
      useMsix();
      interrupts.receive(0);
      assert.deepEqual(fired(), [RX]);
      interrupts.transmit(0);
      assert.deepEqual(fired(), [TX]);
      interrupts.receive(1);
      assert.deepEqual(fired(), [HIGH]);
    });

    it('tells how long a transmit queue has until the interval of its vector is over', () => {
      useMsix();
      assert.equal(interrupts.transmitDelay(0), -1, 'there is no interval');
      assert.equal(interrupts.transmitDelay(1), -1, 'there is no vector');
      write(EITR(TX), INTERVAL << EITR_INTERVAL_SHIFT);
      assert.equal(interrupts.transmitDelay(0), INTERVAL_US);
      clock.advance(INTERVAL_US);
      interrupts.transmit(0);
      clock.advance(5);
      assert.equal(interrupts.transmitDelay(0), INTERVAL_US - 5);
      clock.advance(INTERVAL_US);
      assert.equal(interrupts.transmitDelay(0), INTERVAL_US);
      write(GPIE, 0);
      assert.equal(interrupts.transmitDelay(0), -1, 'all have vector 0');
    });

    it('sends nothing for an entry of IVAR that is not valid', () => {
      useMsix();
      interrupts.transmit(1);
      assert.deepEqual(fired(), []);
      assert.equal(read(EICR), 0);
    });

    it('keeps a masked cause until EIMS has it', () => {
      useMsix();
      write(EIMC, 1 << RX);
      interrupts.receive(0);
      assert.deepEqual(fired(), []);
      assert.equal(read(EICS), 1 << RX);
      write(EIMS, 1 << RX);
      assert.deepEqual(fired(), [RX]);
    });

    it('masks vectors above 15 through the extended registers alone', () => {
      useMsix();
      write(EIMC_EX(1), HIGH_BIT);
      assert.equal(read(EIMS_EX(1)), 0);
      interrupts.receive(1);
      assert.deepEqual(fired(), []);
      write(EIMS_EX(1), HIGH_BIT);
      assert.deepEqual(fired(), [HIGH]);
      // These clear by themselves: enabling again finds nothing.
      write(EIMS_EX(1), HIGH_BIT);
      assert.deepEqual(fired(), []);
    });

    it('shows bits 0 to 15 of the mask in EIMS and in EIMS_EX(0)', () => {
      write(EIMS_EX(0), 1 << RX);
      assert.equal(read(EIMS), 1 << RX);
      write(EIMC, 1 << RX);
      assert.equal(read(EIMS_EX(0)), 0);
    });

    it('clears what EIAC names as the message goes, and nothing else', () => {
      useMsix();
      write(EIAC, 1 << RX);
      interrupts.receive(0);
      interrupts.transmit(0);
      assert.equal(read(EICS), 1 << TX);
    });

    it('masks what EIAM names as the message goes, where GPIE.EIAME says so', () => {
      useMsix(GPIE_EIAME);
      write(EIAM_EX(0), 0xffffffff);
      write(EIAC, 0xffff);
      interrupts.receive(0);
      interrupts.receive(0);
      assert.deepEqual(fired(), [RX]);
      assert.equal(read(EIMS), ((1 << TX) | EICR_LSC) >>> 0);
      write(EIMS, 1 << RX);
      assert.deepEqual(fired(), [RX]);
    });

    it('sends other causes to the vector of IVAR_MISC, once each', () => {
      useMsix();
      interrupts.raise(EICR_LSC);
      assert.deepEqual(fired(), [MISC]);
      assert.equal(read(EICS), (EICR_LSC | EICR_OTHER) >>> 0);
      // That nobody has looked at it yet does not make frames send it again.
      interrupts.receive(0);
      assert.deepEqual(fired(), [RX]);
      interrupts.raise(EICR_RX_MISS);
      assert.deepEqual(fired(), []);
    });

    it('sends the TCP timer to the low entry of IVAR_MISC', () => {
      useMsix();
      write(IVAR_MISC, TX | IVAR_ALLOC_VALID | ((MISC | IVAR_ALLOC_VALID) << 8));
      write(EIMS, EICR_TCP_TIMER);
      write(EICS, EICR_TCP_TIMER);
      assert.deepEqual(fired(), [TX]);
    });

    it('sends other causes again when they are enabled again without being cleared', () => {
      useMsix();
      interrupts.raise(EICR_LSC);
      fired();
      write(EIMS, EICR_LSC);
      assert.deepEqual(fired(), [MISC]);
      write(EICR, EICR_LSC);
      write(EIMS, EICR_LSC);
      assert.deepEqual(fired(), []);
      assert.equal(read(EICS), 0);
    });

    it('is set off by software through EICS and EICS_EX', () => {
      useMsix();
      write(EICS, (1 << RX) | EICR_LSC);
      assert.deepEqual(fired().sort(), [RX, MISC]);
      write(EICS_EX(1), HIGH_BIT);
      assert.deepEqual(fired(), [HIGH]);
    });
  });

  describe('reading EICR', () => {
    it('clears all of it', () => {
      interrupts.raise(EICR_LSC);
      write(EICS, 1 << RX);
      assert.equal(read(EICR), ((1 << RX) | EICR_LSC | EICR_OTHER) >>> 0);
      assert.equal(read(EICR), 0);
    });

    it('with GPIE.OCD clears other causes only', () => {
      write(GPIE, GPIE_MSIX_MODE | GPIE_OCD);
      interrupts.raise(EICR_LSC);
      write(EICS, 1 << RX);
      assert.equal(read(EICR), ((1 << RX) | EICR_LSC | EICR_OTHER) >>> 0);
      assert.equal(read(EICR), 1 << RX);
      write(EICR, 1 << RX);
      assert.equal(read(EICR), 0);
    });
  });

  describe('with one vector for everything', () => {
    beforeEach(() => {
      write(IVAR(0), RX | IVAR_ALLOC_VALID | ((TX | IVAR_ALLOC_VALID) << 8));
      write(EIMS, (1 << RX) | (1 << TX) | EICR_LSC);
    });

    it('sends vector 0, and EICR says what it was for', () => {
      interrupts.receive(0);
      interrupts.raise(EICR_LSC);
      assert.deepEqual(fired(), [0, 0]);
      assert.equal(read(EICR), ((1 << RX) | EICR_LSC | EICR_OTHER) >>> 0);
    });

    it('keeps masked causes to itself', () => {
      write(EIMC, 0x7fffffff);
      interrupts.receive(0);
      interrupts.raise(EICR_LSC);
      assert.deepEqual(fired(), []);
      assert.equal(read(EIMS), 0);
    });

    it('masks what EIAM names as EICR is read', () => {
      write(EIAM, 1 << RX);
      interrupts.receive(0);
      assert.equal(read(EIMS), ((1 << RX) | (1 << TX) | EICR_LSC) >>> 0);
      read(EICR);
      assert.equal(read(EIMS), ((1 << TX) | EICR_LSC) >>> 0);
    });

    it('masks what EIAM names and a write of EICR clears', () => {
      write(EIAM, (1 << RX) | (1 << TX));
      write(EICR, 1 << TX);
      assert.equal(read(EIMS), ((1 << RX) | EICR_LSC) >>> 0);
    });

    it('enables what EIAM names and a write of EICS sets', () => {
      write(EIAM, 1 << RX);
      write(EIMC, 0x7fffffff);
      write(EICS, (1 << RX) | (1 << TX));
      assert.deepEqual(fired(), [0]);
      assert.equal(read(EIMS), 1 << RX);
    });
  });

  describe('moderation', () => {
    beforeEach(() => {
      useMsix();
      write(EIAC, 0xffff);
      write(EITR(RX), (INTERVAL << EITR_INTERVAL_SHIFT) | EITR_CNT_WDIS);
    });

    it('sends what comes within the interval when that is over, once', () => {
      interrupts.receive(0);
      assert.deepEqual(fired(), [RX]);
      clock.advance(INTERVAL_US / 2);
      interrupts.receive(0);
      interrupts.receive(0);
      clock.advance(INTERVAL_US / 2 - 1);
      assert.deepEqual(fired(), []);
      clock.advance(1);
      assert.deepEqual(fired(), [RX]);
      clock.advance(10 * INTERVAL_US);
      assert.deepEqual(fired(), []);
      interrupts.receive(0);
      assert.deepEqual(fired(), [RX]);
    });

    it('holds back no other vector', () => {
      interrupts.receive(0);
      interrupts.transmit(0);
      interrupts.transmit(0);
      assert.deepEqual(fired(), [RX, TX, TX]);
    });

    it('sends nothing at its end for a cause that was masked or cleared meanwhile', () => {
      for (const [register, bits] of [
        [EIMC, 1 << RX],
        [EICR, 1 << RX],
      ] as const) {
        write(EIMS, 1 << RX);
        interrupts.receive(0);
        interrupts.receive(0);
        fired();
        write(register, bits);
        clock.advance(INTERVAL_US);
        assert.deepEqual(fired(), []);
        write(EICR, 1 << RX);
        clock.advance(INTERVAL_US);
      }
    });

    it('has its counter set by a write without CNT_WDIS, and left alone by one with it', () => {
      interrupts.receive(0);
      write(EITR(RX), (INTERVAL << EITR_INTERVAL_SHIFT) | EITR_CNT_WDIS);
      interrupts.receive(0);
      assert.deepEqual(fired(), [RX]);
      clock.advance(INTERVAL_US);
      assert.deepEqual(fired(), [RX]);
      // Its counter is 0 now: nothing has to wait.
      write(EITR(RX), INTERVAL << EITR_INTERVAL_SHIFT);
      interrupts.receive(0);
      assert.deepEqual(fired(), [RX]);
    });

    it('reads back its interval, without CNT_WDIS', () => {
      assert.equal(read(EITR(RX)), INTERVAL << EITR_INTERVAL_SHIFT);
    });
  });

  it('forgets everything in a reset, and takes its timers back', () => {
    useMsix();
    write(EITR(RX), INTERVAL << EITR_INTERVAL_SHIFT);
    interrupts.receive(0);
    interrupts.receive(0);
    interrupts.raise(EICR_LSC);
    fired();
    assert.equal(clock.pending, 1);
    registers.reset();
    interrupts.reset();
    assert.equal(clock.pending, 0);
    assert.equal(read(EICS), 0);
    assert.equal(read(EIMS), 0);
    write(EIMS, 0x7fffffff);
    assert.deepEqual(fired(), []);
  });
});
