/** The link (82599 datasheet §4.6.4, §3.7.4): brought up, and what it has become. */
import {
  AUTOC,
  AUTOC_FLU,
  AUTOC_LMS_10G_SERIAL,
  AUTOC_LMS_MASK,
  AUTOC_LMS_SHIFT,
  AUTOC_RESTART_AN,
  DEVICE_82599_SFP,
  ESDP,
  LINKS,
  LINKS_SPEED_1G,
  LINKS_SPEED_10G,
  LINKS_SPEED_100M,
  LINKS_SPEED_MASK,
  LINKS_UP,
} from '../registers.ts';
import type { CardRegisters } from './card-registers.ts';

/** SDP3 and its direction: high, the module's transmitter is off. */
const ESDP_SDP3 = 1 << 3;
const ESDP_SDP3_OUT = 1 << 11;
const MBPS: Record<number, number> = {
  [LINKS_SPEED_10G >>> 28]: 10_000,
  [LINKS_SPEED_1G >>> 28]: 1000,
  [LINKS_SPEED_100M >>> 28]: 100,
};

export interface LinkState {
  up: boolean;
  /** 0 while it is down. */
  speedMbps: number;
}

export class Link {
  readonly #registers: CardRegisters;
  readonly #hasLaser: boolean;

  constructor(registers: CardRegisters, deviceId: number) {
    this.#registers = registers;
    this.#hasLaser = deviceId === DEVICE_82599_SFP;
  }

  /** Switches the transmitter on and starts the link: 10G serial on an SFP+ card, else as the EEPROM has it. */
  start(): void {
    const registers = this.#registers;
    if (this.#hasLaser) {
      registers.write(ESDP, (registers.read(ESDP) | ESDP_SDP3_OUT) & ~ESDP_SDP3);
      const autoc = registers.read(AUTOC) & ~(AUTOC_LMS_MASK | AUTOC_FLU);
      registers.write(AUTOC, autoc | (AUTOC_LMS_10G_SERIAL << AUTOC_LMS_SHIFT));
    }
    registers.set(AUTOC, AUTOC_RESTART_AN);
  }

  /** Switches the transmitter off: the other side loses its link. */
  stop(): void {
    if (this.#hasLaser) this.#registers.set(ESDP, ESDP_SDP3 | ESDP_SDP3_OUT);
  }

  /** What it is now. */
  state(): LinkState {
    const links = this.#registers.read(LINKS);
    const up = (links & LINKS_UP) !== 0;
    return { up, speedMbps: up ? (MBPS[(links & LINKS_SPEED_MASK) >>> 28] ?? 0) : 0 };
  }
}
