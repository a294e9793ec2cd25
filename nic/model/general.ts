/** General control (82599 datasheet §8.2.3.1): resets, what the card is, and registers that only keep what is written. */
import {
  CTRL,
  CTRL_EXT,
  CTRL_LRST,
  CTRL_PCIE_MASTER_DISABLE,
  CTRL_RST,
  EXVET,
  FRTIMER,
  GCR,
  GCR_EXT,
  GSCL,
  LEDCTL,
  PCIE_DIAG0,
  PFDTXGSWC,
  PFVFRE,
  PFVFTE,
  PFVTCTL,
  RTRPCS,
  RTRPT4C,
  RTTBCNRC,
  RTTDQSEL,
  RTTDT1C,
  RTTDT2C,
  RTTDTECC,
  RTTPCS,
  RTTPT2C,
  RTTUP2TC,
  STATUS,
  STATUS_LINK_UP,
  STATUS_PCIE_MASTER_ENABLE,
  TCPTIMER,
} from '../registers.ts';
import type { Link } from './link.ts';
import type { RegisterFile } from './register-file.ts';

const EXVET_INITIAL = 0x81000000;
const US_PER_TICK = 1;
const TRAFFIC_CLASSES = 8;

export class General {
  /** A device reset was asked for: CTRL.RST or CTRL.LRST. */
  onReset: () => void = () => {};

  constructor(registers: RegisterFile, link: Link, now: () => number) {
    registers.define(CTRL, {
      write: (value) => {
        if ((value & (CTRL_RST | CTRL_LRST)) !== 0) this.#reset = true;
        return (value & ~(CTRL_RST | CTRL_LRST)) >>> 0;
      },
    });
    registers.onWrite(CTRL, () => {
      if (!this.#reset) return;
      this.#reset = false;
      this.onReset();
    });
    registers.define(STATUS, {
      read: () =>
        (link.up ? STATUS_LINK_UP : 0) |
        ((registers.get(CTRL) & CTRL_PCIE_MASTER_DISABLE) === 0 ? STATUS_PCIE_MASTER_ENABLE : 0),
    });
    registers.define(FRTIMER, { read: () => now() / US_PER_TICK });
    registers.define(EXVET, { initial: EXVET_INITIAL });
    const plain = [CTRL_EXT, LEDCTL, TCPTIMER, GCR, GCR_EXT, PCIE_DIAG0, PFVTCTL, PFDTXGSWC, RTRPCS, RTTPCS];
    for (const offset of [...plain, RTTDQSEL, RTTDT1C, RTTBCNRC, RTTDTECC, RTTUP2TC]) registers.define(offset);
    for (let n = 0; n < TRAFFIC_CLASSES; n++) {
      for (const offset of [RTTDT2C(n), RTTPT2C(n), RTRPT4C(n)]) registers.define(offset);
    }
    for (let n = 0; n < 4; n++) registers.define(GSCL(n));
    for (let n = 0; n < 2; n++) {
      registers.define(PFVFRE(n));
      registers.define(PFVFTE(n));
    }
  }

  #reset = false;
}
