import assert from 'node:assert/strict';
import { RegisterFile } from '../../../nic/model/register-file.ts';
import { Semaphores } from '../../../nic/model/semaphores.ts';
import { FWSM, SW_FW_SYNC, SWSM, SWSM_SMBI, SWSM_SWESMBI } from '../../../nic/registers.ts';

/** Bits of FWSM: valid, its mode, its errors. */
const FWSM_VALID = 1 << 15;
const FWSM_MODE = 0xe;
const FWSM_ERRORS = 0x01f80000;

describe('semaphores of the software 82599', () => {
  let registers: RegisterFile;

  beforeEach(() => {
    registers = new RegisterFile();
    new Semaphores(registers);
  });

  it('gives SMBI to the first who reads, until it is given back', () => {
    assert.equal(registers.read(SWSM) & SWSM_SMBI, 0);
    assert.equal(registers.read(SWSM) & SWSM_SMBI, SWSM_SMBI);
    registers.write(SWSM, registers.read(SWSM) & ~SWSM_SMBI);
    assert.equal(registers.read(SWSM) & SWSM_SMBI, 0);
  });

  it('gives SWESMBI to who asks, for no firmware has it', () => {
    registers.read(SWSM);
    registers.write(SWSM, SWSM_SMBI | SWSM_SWESMBI);
    assert.equal(registers.read(SWSM), SWSM_SMBI | SWSM_SWESMBI);
    registers.write(SWSM, 0);
    assert.equal(registers.read(SWSM), 0);
  });

  it('keeps what SW_FW_SYNC says', () => {
    registers.write(SW_FW_SYNC, 0x5);
    assert.equal(registers.read(SW_FW_SYNC), 0x5);
  });

  it('has firmware that runs, without errors and without management, and cannot be told otherwise', () => {
    for (const value of [0, 0xffffffff]) {
      assert.equal(registers.read(FWSM) & (FWSM_VALID | FWSM_MODE | FWSM_ERRORS), FWSM_VALID);
      registers.write(FWSM, value);
    }
  });
});
