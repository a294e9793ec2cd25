import assert from 'node:assert/strict';
import { CardGoneError, CardRegisters } from '../../../nic/driver/card-registers.ts';
import { CTRL_EXT, FCTRL, GONE, LINKS, QPRC, RXDCTL, STATUS } from '../../../nic/registers.ts';
import { DriverTime, FakePciDevice } from '../../helpers/fake-pci-device.ts';

describe('CardRegisters', () => {
  let device: FakePciDevice;
  let time: DriverTime;
  let registers: CardRegisters;
  beforeEach(() => {
    device = new FakePciDevice();
    time = new DriverTime();
    registers = new CardRegisters(device, time);
  });

  it('set and clear bits, and leave the others', () => {
    device.set(CTRL_EXT, 0x80000005);
    registers.set(CTRL_EXT, 0x2);
    registers.clear(CTRL_EXT, 0x4);
    assert.deepEqual(device.writes(CTRL_EXT), [0x80000007, 0x80000003]);
  });

  it('take all ones for a value while STATUS is none', () => {
    device.stick(QPRC(0), GONE);
    assert.equal(registers.read(QPRC(0)), GONE);
    assert.equal(registers.gone, false);
  });

  it('notice that the card is gone, name it and the register, and ask it nothing more', () => {
    device.vanish();
    const gone = { name: 'CardGoneError', message: /^0000:01:00\.0: the card no longer answers \(LINKS at 0x42a4 / };
    assert.throws(() => registers.read(LINKS), gone);
    assert.equal(registers.gone, true);
    // It has come back, and knows nothing.
    device.vanishAfter = Number.POSITIVE_INFINITY;
    const { length } = device.accesses;
    assert.throws(() => registers.read(FCTRL), gone);
    assert.throws(() => registers.write(FCTRL, 1), gone);
    assert.throws(() => registers.check(), gone);
    assert.equal(device.accesses.length, length);
  });

  it('wait until bits are as wanted, and no longer', () => {
    let reads = 0;
    const read32 = device.registers.read32;
    device.registers.read32 = (offset) => {
      if (offset === RXDCTL(3) && ++reads === 5) device.set(RXDCTL(3), 0x02000001);
      return read32(offset);
    };
    registers.await(RXDCTL(3), 0x02000000, 0x02000000, 100, 'x');
    assert.equal(time.ms, 4);
  });

  it('give up in time, and name register, bits and value', () => {
    device.stick(RXDCTL(3), 0x80000001);
    assert.throws(() => registers.await(RXDCTL(3), 0x80000000, 0, 20, 'switching off queue 3'), {
      message:
        '0000:01:00.0: switching off queue 3 did not happen in 20 ms: register RXDCTL(3) at 0x10e8 reads 0x80000001, bits ' +
        '0x80000000 should be 0x0; reset the card (ringswitch nic unbind and bind), and look for PCIe errors in the kernel log',
    });
    assert.equal(time.ms, 20);
  });

  it('stop waiting when the card goes', () => {
    device.stick(RXDCTL(0), 0);
    device.vanishAfter = 5;
    assert.throws(() => registers.await(RXDCTL(0), 1, 1, 1000, 'x'), CardGoneError);
    assert.ok(time.ms < 10, `${time.ms} ms`);
    assert.notEqual(device.accesses.at(-1)!.offset, RXDCTL(0), `STATUS (${STATUS}) was not asked`);
  });
});
