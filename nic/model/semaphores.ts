/** What drivers and firmware share (82599 datasheet §10.5.4): semaphores, and what the firmware says of itself. */
import { FWSM, GSSR, SWSM, SWSM_SMBI } from '../registers.ts';
import type { RegisterFile } from './register-file.ts';

/** Firmware runs, in no mode that matters here. */
const FWSM_VALID = 1 << 15;

export class Semaphores {
  constructor(registers: RegisterFile) {
    registers.define(SWSM, {
      // Reading takes SMBI: whoever reads a 0 has it.
      read: (stored) => {
        registers.set(SWSM, stored | SWSM_SMBI);
        return stored;
      },
    });
    registers.define(FWSM, { initial: FWSM_VALID, writable: 0 });
    registers.define(GSSR);
  }
}
