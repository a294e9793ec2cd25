/** The software card's regions as vfio-user reaches them: by bytes, wherever they begin and end. */
import assert from 'node:assert/strict';
import { looseCable } from '../../../nic/model/cable.ts';
import { Card82599 } from '../../../nic/model/card.ts';
import { BAR0_BYTES, BAR4_BYTES, CONFIG_BYTES } from '../../../nic/model/config-space.ts';
import { systemClock } from '../../../nic/model/system-clock.ts';
import { GPRC, RAL, TDBAL } from '../../../nic/registers.ts';
import { CardDevice } from '../../../nic/vfio-user/card-device.ts';

const [BAR0, BAR4, CONFIG] = [0, 4, 7];
const COMMAND = 0x04;
const COMMAND_MEMORY_AND_MASTER = 0x06;
const INTERRUPT_LINE = 0x3c;
const BASE_ADDRESS_4 = 0x20;

describe('the software card behind vfio-user', () => {
  let card: Card82599;
  let device: CardDevice;
  const reads: number[] = [];

  beforeEach(() => {
    const bus = { read: () => false, write: () => false, writeWords: () => false, interrupt: () => {} };
    const mac = Uint8Array.of(2, 0, 0, 0, 0x0a, 0xff);
    card = new Card82599({ bus, wire: looseCable(), clock: systemClock, mac });
    device = new CardDevice(card);
    const read = card.read.bind(card);
    reads.length = 0;
    card.read = (offset) => {
      reads.push(offset);
      return read(offset);
    };
  });
  afterEach(() => card.close());

  const read = (region: number, offset: number, bytes: number): string => {
    const into = Buffer.alloc(bytes, 0xee);
    device.read(region, offset, into);
    return into.toString('hex');
  };
  const write = (region: number, offset: number, hex: string): void =>
    device.write(region, offset, Buffer.from(hex, 'hex'));

  it('has BAR 0, BAR 4 and configuration space, INTx, MSI, MSI-X and errors', () => {
    assert.deepEqual(device.regions, [BAR0_BYTES, 0, 0, 0, BAR4_BYTES, 0, 0, CONFIG_BYTES]);
    assert.deepEqual(device.interrupts, [1, 1, 64, 1]);
  });

  it('reads each register once and whole, whatever part of it is wanted', () => {
    const cases: [offset: number, bytes: number, wanted: string, registers: number[]][] = [
      [RAL(0), 4, '02000000', [RAL(0)]],
      [RAL(0), 8, '020000000aff0080', [RAL(0), RAL(0) + 4]],
      [RAL(0) + 4, 1, '0a', [RAL(0) + 4]],
      [RAL(0) + 5, 1, 'ff', [RAL(0) + 4]],
      [RAL(0) + 3, 3, '000aff', [RAL(0), RAL(0) + 4]],
    ];
    for (const [offset, bytes, wanted, registers] of cases) {
      reads.length = 0;
      assert.equal(read(BAR0, offset, bytes), wanted);
      assert.deepEqual(reads, registers, 'GPRC and its like clear as they are read');
    }
    assert.equal(read(BAR0, GPRC, 4), '00000000');
    assert.equal(read(BAR0, BAR0_BYTES - 4, 4).length, 8, 'the last one');
  });

  it('writes registers whole or not at all (§8.1.1.1)', () => {
    write(BAR0, TDBAL(0), '80010203');
    assert.equal(read(BAR0, TDBAL(0), 4), '80010203');
    for (const [offset, hex] of [
      [TDBAL(0), 'ff'],
      [TDBAL(0), 'ffff'],
      [TDBAL(0) + 2, 'ffffffff'],
      [TDBAL(0) + 1, 'ff'],
      [TDBAL(0), 'ffffffffff'],
    ] as const) {
      write(BAR0, offset, hex);
      assert.equal(read(BAR0, TDBAL(0), 4), '80010203', `${hex} at ${offset.toString(16)}`);
    }
    write(BAR0, TDBAL(0), '0011223344556677');
    assert.equal(read(BAR0, TDBAL(0), 8), '0011223344556677', 'two at once');
  });

  it('has no registers in other regions', () => {
    const before = read(BAR0, TDBAL(0), 4);
    for (const region of [1, 2, 3, 5, 6, 8]) write(region, TDBAL(0), '80000000');
    assert.equal(read(BAR0, TDBAL(0), 4), before);
  });

  it('remembers the MSI-X table, byte by byte, until it is reset', () => {
    write(BAR4, 0, '0000e0fe00000000');
    write(BAR4, 8, '21400000');
    write(BAR4, 5, 'aa');
    write(BAR4, BAR4_BYTES - 1, '77');
    assert.equal(read(BAR4, 0, 12), '0000e0fe00aa000021400000');
    assert.equal(read(BAR4, BAR4_BYTES - 2, 2), '0077');
    device.reset();
    assert.equal(read(BAR4, 0, 12), '00'.repeat(12));
    assert.equal(read(BAR4, BAR4_BYTES - 2, 2), '0000');
  });

  it('reads and writes configuration space by bytes, words and double words', () => {
    assert.equal(read(CONFIG, 0, 4), '8680fb10');
    assert.equal(read(CONFIG, 1, 2), '80fb');
    write(CONFIG, COMMAND, '0600');
    assert.equal(card.config.read(COMMAND, 2), COMMAND_MEMORY_AND_MASTER);
    assert.equal(card.config.busMaster, true);
    write(CONFIG, COMMAND, '02');
    assert.equal(card.config.busMaster, false, 'a byte');
    write(CONFIG, INTERRUPT_LINE, '0b');
    assert.equal(read(CONFIG, INTERRUPT_LINE, 1), '0b');
    write(CONFIG, BASE_ADDRESS_4, 'ffffffff');
    assert.equal(Number.parseInt(read(CONFIG, BASE_ADDRESS_4, 4).slice(0, 2), 16) & 0xf, 0x4, 'a BAR of 64 bits');
    write(CONFIG, BASE_ADDRESS_4, '000000fe01');
    assert.equal(read(CONFIG, BASE_ADDRESS_4, 5), '040000fe01', 'five bytes, one by one');
  });

  it('is as after power-on when it is reset', () => {
    write(BAR0, TDBAL(0), '80010203');
    write(CONFIG, COMMAND, '0600');
    device.reset();
    assert.equal(read(BAR0, TDBAL(0), 4), '00000000');
    assert.equal(card.config.busMaster, false);
  });
});
