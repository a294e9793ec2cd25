/**
 * The link (82599 datasheet §3.7.4, §8.2.3.22): up when this side sends light and some comes in.
 *
 *     laser on (ESDP.SDP3 low) ──► light to the other end        light from there + laser on ──► LINKS, STATUS, EICR.LSC
 *
 * A reset by CTRL takes the light away, which the other end sees, and gives it back {@link LINK_UP_US} later.
 */
import {
  ANLP1,
  ANLP2,
  AUTOC,
  AUTOC_10G_PMA_PMD_SHIFT,
  AUTOC_LMS_10G_SERIAL,
  AUTOC_LMS_SHIFT,
  AUTOC_RESTART_AN,
  AUTOC2,
  CORECTL,
  EICR_LSC,
  ESDP,
  ESDP_SDP2,
  ESDP_SDP3,
  ESDP_SDP3_IODIR,
  LINKS,
  LINKS_SPEED_10G,
  LINKS_STATUS,
  LINKS_UP,
  MACC,
  PCS1GANA,
  PCS1GANLP,
  PCS1GLCTL,
  PCS1GLSTA,
  PCSS1GC,
} from '../registers.ts';
import type { Clock } from './clock.ts';
import type { Interrupts } from './interrupts.ts';
import type { RegisterFile } from './register-file.ts';
import type { WireEnd } from './wire.ts';

/** The auto-negotiation state machine runs: drivers wait for it to leave 0 when they restart it. */
const AN_STATE = 1 << 16;
/** From a reset to a link, of the order of what transceivers at 10 Gb/s take to lock. */
export const LINK_UP_US = 1000;
const AUTOC_INITIAL = (AUTOC_LMS_10G_SERIAL << AUTOC_LMS_SHIFT) | (1 << AUTOC_10G_PMA_PMD_SHIFT);

export class Link {
  /** Whether frames pass. */
  up = false;
  /** Told of each change. */
  onChange: () => void = () => {};
  readonly #registers: RegisterFile;
  readonly #wire: WireEnd;
  readonly #interrupts: Interrupts;
  readonly #clock: Clock;
  /** Takes the start after a reset back; null when none is to come. */
  #cancelStart: (() => void) | null = null;
  /** The host has started the card since it was switched on. */
  #started = false;
  /** AUTOC.Restart_AN was written. */
  #restarted = false;
  /** LINKS was not read since the link was last down. */
  #wasDown = true;

  constructor(registers: RegisterFile, wire: WireEnd, interrupts: Interrupts, clock: Clock) {
    this.#registers = registers;
    this.#wire = wire;
    this.#interrupts = interrupts;
    this.#clock = clock;
    // The module is in its cage.
    registers.define(ESDP, { initial: ESDP_SDP3_IODIR, read: (stored) => stored | ESDP_SDP2 });
    registers.onWrite(ESDP, () => this.refresh());
    registers.define(AUTOC, {
      initial: AUTOC_INITIAL,
      write: (value) => {
        this.#restarted = (value & AUTOC_RESTART_AN) !== 0;
        return (value & ~AUTOC_RESTART_AN) >>> 0;
      },
    });
    registers.onWrite(AUTOC, () => {
      // After a reset it comes by itself, and no sooner.
      if (this.#restarted && this.#cancelStart === null) this.start();
    });
    registers.define(LINKS, {
      read: () => {
        const status = this.#wasDown ? 0 : LINKS_STATUS;
        this.#wasDown = !this.up;
        return this.up ? LINKS_UP | LINKS_SPEED_10G | status : 0;
      },
    });
    registers.define(ANLP1, { read: () => AN_STATE });
    for (const plain of [ANLP2, AUTOC2, CORECTL, MACC, PCSS1GC, PCS1GLCTL, PCS1GLSTA, PCS1GANA, PCS1GANLP]) {
      registers.define(plain);
    }
    wire.onCarrier = () => this.refresh();
  }

  /** The host has reset the card: the link goes down, and comes up again if there is light. */
  restart(): void {
    this.stop();
    this.#cancelStart = this.#clock.after(LINK_UP_US, () => {
      this.#cancelStart = null;
      this.start();
    });
  }

  /** The host has started the link: from now on the laser is as ESDP says. */
  start(): void {
    this.#started = true;
    this.refresh();
  }

  /** Looks at laser and light. */
  refresh(): void {
    const laser = this.#started && (this.#registers.get(ESDP) & ESDP_SDP3) === 0;
    this.#wire.setTransmitting(laser);
    const up = laser && this.#wire.carrier;
    if (up === this.up) return;
    this.up = up;
    this.#wasDown = true;
    this.onChange();
    this.#interrupts.raise(EICR_LSC);
  }

  /** The card was switched off, or its function reset: no light. */
  stop(): void {
    this.#cancelStart?.();
    this.#cancelStart = null;
    this.#started = false;
    this.refresh();
  }
}
