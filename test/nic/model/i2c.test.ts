import assert from 'node:assert/strict';
import { I2cBus } from '../../../nic/model/i2c.ts';
import { RegisterFile } from '../../../nic/model/register-file.ts';
import { I2CCTL, I2CCTL_CLK_IN, I2CCTL_CLK_OUT, I2CCTL_DATA_IN, I2CCTL_DATA_OUT } from '../../../nic/registers.ts';

const [MODULE, DIAGNOSTICS, NOBODY] = [0xa0, 0xa2, 0xa4];
const READ = 1;
const PAGE_BYTES = 256;

describe('I2C bus of the software 82599', () => {
  let registers: RegisterFile;
  let bus: I2cBus;

  beforeEach(() => {
    registers = new RegisterFile();
    bus = new I2cBus(registers);
  });

  /** A master that has nothing but I2CCTL. */
  const drive = (clock: boolean, data: boolean): void =>
    registers.write(I2CCTL, (clock ? I2CCTL_CLK_OUT : 0) | (data ? I2CCTL_DATA_OUT : 0));
  const sda = (): boolean => (registers.read(I2CCTL) & I2CCTL_DATA_IN) !== 0;

  function start(): void {
    drive(false, true);
    drive(true, true);
    drive(true, false);
    drive(false, false);
  }

  function stop(): void {
    drive(false, false);
    drive(true, false);
    drive(true, true);
  }

  /** Gives the bit that stood on the line while SCL was high. */
  function clockBit(data: boolean): boolean {
    drive(false, data);
    drive(true, data);
    const seen = sda();
    drive(false, data);
    return seen;
  }

  /** Sends a byte; true: it was acknowledged. */
  function send(byte: number): boolean {
    for (let bit = 7; bit >= 0; bit--) clockBit(((byte >>> bit) & 1) !== 0);
    return !clockBit(true);
  }

  function receive(acknowledge: boolean): number {
    let byte = 0;
    for (let bit = 0; bit < 8; bit++) byte = (byte << 1) | Number(clockBit(true));
    clockBit(!acknowledge);
    return byte;
  }

  /** `count` bytes from `offset` on: a write that says where, a repeated start, a read. */
  function readFrom(address: number, offset: number, count: number): number[] {
    start();
    assert.ok(send(address) && send(offset), 'not acknowledged');
    start();
    assert.ok(send(address | READ), 'not acknowledged');
    const bytes = Array.from({ length: count }, (_, i) => receive(i < count - 1));
    stop();
    return bytes;
  }

  const textAt = (offset: number, length: number): string =>
    String.fromCharCode(...readFrom(MODULE, offset, length)).trimEnd();

  const sum = (bytes: number[]): number => bytes.reduce((total, byte) => total + byte, 0) & 0xff;

  it('floats high when nobody drives it, and shows what software drives', () => {
    assert.equal(registers.read(I2CCTL) & (I2CCTL_CLK_IN | I2CCTL_DATA_IN), I2CCTL_CLK_IN | I2CCTL_DATA_IN);
    drive(false, true);
    assert.equal(registers.read(I2CCTL) & (I2CCTL_CLK_IN | I2CCTL_DATA_IN), I2CCTL_DATA_IN);
    drive(false, false);
    assert.equal(registers.read(I2CCTL) & (I2CCTL_CLK_IN | I2CCTL_DATA_IN), 0);
  });

  it('has an SFP+ module for short range, with checksums that are right (SFF-8472 §5)', () => {
    const page = readFrom(MODULE, 0, 128);
    assert.equal(page[0], 0x03, 'identifier');
    assert.equal(page[3]! & 0x10, 0x10, '10GBASE-SR');
    assert.equal(textAt(20, 16), 'Intel Corp');
    assert.deepEqual(page.slice(37, 40), [0x00, 0x1b, 0x21], 'vendor OUI');
    assert.equal(page[63], sum(page.slice(0, 63)));
    assert.equal(page[95], sum(page.slice(64, 95)));
    assert.equal(page[92]! & 0x40, 0x40, 'diagnostics');
  });

  it('has diagnostics within their thresholds at 0xA2 (SFF-8472 §9)', () => {
    const page = Buffer.from(readFrom(DIAGNOSTICS, 0, PAGE_BYTES));
    assert.equal(page[95], sum([...page.subarray(0, 95)]));
    assert.equal(page.readFloatBE(68), 1);
    for (let n = 0; n < 5; n++) {
      const at = (offset: number): number => (n === 0 ? page.readInt16BE(offset) : page.readUInt16BE(offset));
      const [highAlarm, lowAlarm, high, low] = [0, 2, 4, 6].map((i) => at(8 * n + i)) as [
        number,
        number,
        number,
        number,
      ];
      const reading = at(96 + 2 * n);
      const order = [lowAlarm, low, reading, high, highAlarm];
      assert.deepEqual(
        order,
        order.toSorted((a, b) => a - b),
        `measurement ${n}`,
      );
    }
    assert.equal(page.readInt16BE(96) / 256, 35);
  });

  it('reads on from where it was, and wraps at the end of the page', () => {
    const [last, first] = readFrom(MODULE, PAGE_BYTES - 1, 2);
    assert.equal(last, 0);
    assert.equal(first, 0x03);
    // The current address read: no offset is said.
    start();
    assert.ok(send(MODULE | READ));
    assert.equal(receive(false), readFrom(MODULE, 1, 1)[0]);
    stop();
  });

  it('takes another offset after a repeated start', () => {
    start();
    assert.ok(send(MODULE) && send(20));
    start();
    assert.ok(send(MODULE) && send(0));
    start();
    assert.ok(send(MODULE | READ));
    assert.equal(receive(false), 0x03);
    stop();
  });

  it('does not acknowledge addresses at which nobody is, nor what follows', () => {
    start();
    assert.equal(send(NOBODY), false);
    assert.equal(send(0), false);
    stop();
    assert.equal(readFrom(MODULE, 0, 1)[0], 0x03);
  });

  it('cannot be written', () => {
    start();
    assert.ok(send(MODULE) && send(0) && send(0x55));
    stop();
    assert.equal(readFrom(MODULE, 0, 1)[0], 0x03);
  });

  it('waits for a start after a transfer that was left in the middle', () => {
    start();
    send(MODULE);
    send(0);
    start();
    send(MODULE | READ);
    clockBit(true);
    // Nine clocks with SDA high, as software clears a bus.
    for (let i = 0; i < 9; i++) clockBit(true);
    stop();
    assert.equal(textAt(20, 16), 'Intel Corp');
  });

  it('lets go of the lines in a reset', () => {
    start();
    send(MODULE | READ);
    registers.reset();
    bus.reset();
    assert.equal(sda(), true);
    assert.equal(readFrom(MODULE, 0, 1)[0], 0x03);
  });
});
