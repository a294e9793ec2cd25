/** The management bus to a PHY (82599 datasheet §8.2.3.22.11, IEEE 802.3 clause 45). An SFP+ card has no PHY there: all ones. */
import { MSCA, MSCA_MDI_COMMAND, MSRWD, MSRWD_READ_DATA_SHIFT } from '../registers.ts';
import type { RegisterFile } from './register-file.ts';

const NOBODY = 0xffff;
const MSRWD_WRITE_DATA_MASK = 0xffff;

export class Mdio {
  constructor(registers: RegisterFile) {
    registers.define(MSCA, {
      write: (value) => {
        if ((value & MSCA_MDI_COMMAND) === 0) return value;
        registers.set(
          MSRWD,
          ((NOBODY << MSRWD_READ_DATA_SHIFT) | (registers.get(MSRWD) & MSRWD_WRITE_DATA_MASK)) >>> 0,
        );
        return (value & ~MSCA_MDI_COMMAND) >>> 0;
      },
    });
    registers.define(MSRWD);
  }
}
