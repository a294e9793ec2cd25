/**
 * The link (82599 datasheet §4.6.4, §3.7.4): brought up, and what it has become.
 *
 * An SFP+ card speaks 10G serial, and has a laser to switch. Others speak what their EEPROM says, negotiated by the card; those
 * with a PHY of their own (X540) negotiate there, without the driver.
 */
import {
  AUTOC,
  AUTOC_FLU,
  AUTOC_LMS_10G_SERIAL,
  AUTOC_LMS_MASK,
  AUTOC_LMS_SHIFT,
  AUTOC_RESTART_AN,
  DEVICE_82599_SFP,
  DEVICE_X540,
  ESDP,
  ESDP_SDP3,
  ESDP_SDP3_IODIR,
  LINKS,
  LINKS_SPEED_1G,
  LINKS_SPEED_10G,
  LINKS_SPEED_100M,
  LINKS_SPEED_MASK,
  LINKS_UP,
} from '../registers.ts';
import type { CardRegisters } from './card-registers.ts';

const MBPS: Record<number, number> = { [LINKS_SPEED_10G]: 10_000, [LINKS_SPEED_1G]: 1000, [LINKS_SPEED_100M]: 100 };

export interface LinkState {
  up: boolean;
  /** 0 while it is down. */
  speedMbps: number;
}

export class Link {
  readonly #registers: CardRegisters;
  readonly #hasLaser: boolean;
  readonly #hasPhy: boolean;

  constructor(registers: CardRegisters, deviceId: number) {
    this.#registers = registers;
    this.#hasLaser = deviceId === DEVICE_82599_SFP;
    this.#hasPhy = deviceId === DEVICE_X540;
  }

  /** Switches the transmitter on and starts the link, which comes up some time later if there is another end. */
  setUp(): void {
    const registers = this.#registers;
    if (this.#hasPhy) return;
    let autoc = registers.read(AUTOC);
    if (this.#hasLaser) {
      // SDP3 drives TX_DISABLE of the module.
      registers.write(ESDP, (registers.read(ESDP) | ESDP_SDP3_IODIR) & ~ESDP_SDP3);
      autoc = (autoc & ~(AUTOC_LMS_MASK | AUTOC_FLU)) | (AUTOC_LMS_10G_SERIAL << AUTOC_LMS_SHIFT);
    }
    registers.write(AUTOC, autoc | AUTOC_RESTART_AN);
  }

  /** Switches the transmitter off, so that the other side loses its link. Only a laser can be switched off. */
  setDown(): void {
    if (this.#hasLaser) this.#registers.set(ESDP, ESDP_SDP3 | ESDP_SDP3_IODIR);
  }

  /** What it is now. */
  state(): LinkState {
    const links = this.#registers.read(LINKS);
    const up = (links & LINKS_UP) !== 0;
    return { up, speedMbps: up ? (MBPS[links & LINKS_SPEED_MASK] ?? 0) : 0 };
  }
}
