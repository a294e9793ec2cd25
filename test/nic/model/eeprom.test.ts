import assert from 'node:assert/strict';
import { Eeprom } from '../../../nic/model/eeprom.ts';
import { RegisterFile } from '../../../nic/model/register-file.ts';
import {
  EEC,
  EEC_AUTO_RD,
  EEC_GNT,
  EEC_PRES,
  EEC_REQ,
  EEC_SIZE_SHIFT,
  EEMNGCTL,
  EEMNGCTL_CFG_DONE0,
  EEMNGCTL_CFG_DONE1,
  EEPROM_CHECKSUM_WORD,
  EEPROM_SUM,
  EERD,
  EERD_ADDR_SHIFT,
  EERD_DATA_SHIFT,
  EERD_DONE,
  EERD_START,
  EEWR,
} from '../../../nic/registers.ts';
import { CARD_ADDRESS } from '../../helpers/card-under-test.ts';

/** Words by their addresses (82599 datasheet §6.3). */
const FIRMWARE = 0x0f;
const SFP_LIST = 0x2b;
const CAPABILITIES = 0x2c;
const SAN_ADDRESS = 0x28;
const ALTERNATE_ADDRESS = 0x27;
const NO_POINTER = 0xffff;
/** Pointers to blocks that the checksum covers. */
const CHECKED_POINTERS = [3, FIRMWARE] as const;
const SRLR_CORE0 = 5;

describe('EEPROM of the software 82599', () => {
  let registers: RegisterFile;

  beforeEach(() => {
    registers = new RegisterFile();
    new Eeprom(registers, CARD_ADDRESS);
  });

  function word(address: number): number {
    registers.write(EERD, (address << EERD_ADDR_SHIFT) | EERD_START);
    const value = registers.read(EERD);
    assert.notEqual(value & EERD_DONE, 0);
    return value >>> EERD_DATA_SHIFT;
  }

  it('is there, was read, and says its size', () => {
    const eec = registers.read(EEC);
    assert.equal(eec & (EEC_PRES | EEC_AUTO_RD), EEC_PRES | EEC_AUTO_RD);
    assert.equal(2 ** (((eec >>> EEC_SIZE_SHIFT) & 0xf) + 6), 2048);
    const done = EEMNGCTL_CFG_DONE0 | EEMNGCTL_CFG_DONE1;
    assert.equal(registers.read(EEMNGCTL) & done, done);
  });

  it('grants its pins to who asks, until that is done', () => {
    registers.write(EEC, registers.read(EEC) | EEC_REQ);
    assert.notEqual(registers.read(EEC) & EEC_GNT, 0);
    registers.write(EEC, registers.read(EEC) & ~EEC_REQ);
    assert.equal(registers.read(EEC) & EEC_GNT, 0);
    assert.notEqual(registers.read(EEC) & EEC_PRES, 0);
  });

  it('has a checksum that is right (§6.3.5)', () => {
    let sum = 0;
    for (let address = 0; address <= EEPROM_CHECKSUM_WORD; address++) sum += word(address);
    for (let pointer = CHECKED_POINTERS[0]; pointer < CHECKED_POINTERS[1]; pointer++) {
      const block = word(pointer);
      if (block === 0 || block === NO_POINTER) continue;
      const length = word(block);
      for (let i = 1; i <= length; i++) sum += word(block + i);
    }
    assert.equal(sum & 0xffff, EEPROM_SUM);
  });

  it('has the address of the card, and no others', () => {
    const bytes = [0, 1, 2].flatMap((address) => [word(address) & 0xff, word(address) >>> 8]);
    assert.deepEqual(bytes, [...CARD_ADDRESS]);
    assert.deepEqual([word(SAN_ADDRESS), word(ALTERNATE_ADDRESS)], [NO_POINTER, NO_POINTER]);
  });

  it('lets any module be used, needs no guard against crosstalk, and wakes nobody', () => {
    assert.equal(word(CAPABILITIES), 0x0081);
  });

  it('has firmware that is in production, without management of the link', () => {
    const block = word(FIRMWARE);
    assert.ok(block !== 0 && block !== NO_POINTER);
    assert.equal(word(block + 2), NO_POINTER);
    // Below 6, drivers call the card pre-production.
    assert.ok(word(word(block + 4) + 7) > 5);
  });

  it('has an initialization for modules of short and long range', () => {
    const list = word(SFP_LIST);
    const entries: number[] = [];
    for (let at = list + 1; word(at) !== NO_POINTER; at += 2) entries.push(word(at), word(at + 1));
    const sequence = entries[entries.indexOf(SRLR_CORE0) + 1]!;
    assert.ok(sequence !== 0 && sequence !== NO_POINTER, `${entries}`);
    assert.equal(word(sequence + 1), NO_POINTER, 'it ends');
  });

  it('reads as ones beyond its end', () => {
    assert.equal(word(2048), 0xffff);
    assert.equal(word(0x3fff), 0xffff);
  });

  it('keeps what EEWR writes, and takes nothing beyond its end', () => {
    const address = 0x200;
    registers.write(EEWR, ((0x1234 << EERD_DATA_SHIFT) | (address << EERD_ADDR_SHIFT) | EERD_START) >>> 0);
    assert.equal(registers.read(EEWR) & (EERD_DONE | EERD_START), EERD_DONE);
    assert.equal(word(address), 0x1234);
    registers.write(EEWR, ((0x1234 << EERD_DATA_SHIFT) | (2048 << EERD_ADDR_SHIFT) | EERD_START) >>> 0);
    assert.notEqual(registers.read(EEWR) & EERD_DONE, 0);
    assert.equal(word(2048), 0xffff);
  });

  it('does nothing for a write of EERD without START', () => {
    registers.write(EERD, 1 << EERD_ADDR_SHIFT);
    assert.equal(registers.read(EERD) & EERD_DONE, 0);
  });
});
