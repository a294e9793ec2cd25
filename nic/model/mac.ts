/**
 * The MAC (82599 datasheet §3.7.2, §3.7.7, §8.2.3.22): lengths, padding, loopback, and flow control by pause frames (IEEE
 * 802.3 annex 31B).
 */
import {
  FCCFG,
  FCRTH,
  FCRTL,
  FCRTV,
  FCTRL,
  FCTRL_PMCF,
  FCTTV,
  HLREG0,
  HLREG0_JUMBOEN,
  HLREG0_LPBK,
  HLREG0_RXCRCSTRP,
  HLREG0_TXCRCEN,
  HLREG0_TXPADEN,
  HLREG1,
  MACA,
  MAXFRS,
  MAXFRS_MFS_SHIFT,
  MFLCN,
  MFLCN_RFCE,
  MMNGC,
  PAP,
  PFCTOP,
  TFCS,
} from '../registers.ts';
import type { Clock } from './clock.ts';
import type { Link } from './link.ts';
import { word } from './packet-headers.ts';
import type { RegisterFile } from './register-file.ts';
import type { Statistics } from './statistics.ts';
import type { WireEnd } from './wire.ts';

/** Without the CRC: the shortest and longest frame, with and without a VLAN tag. */
const MIN_BYTES = 60;
const MAX_BYTES = 1514;
const TAG_BYTES = 4;
const CRC_BYTES = 4;
const TAG_TYPE = 0x8100;
const ETHERNET_TYPE = 12;
/** MAC control frames: their EtherType, and the opcode of pause. */
const MAC_CONTROL = 0x8808;
const PAUSE = 0x0001;
/** 512 bit times at 10 Gb/s, in µs. */
const QUANTUM_US = 0.0512;
/** Frames that wait while the transmitter is paused; the rest is lost, as in a transmit packet buffer of 160 KiB. */
const PAUSED_FRAMES = 256;
const HLREG0_INITIAL = HLREG0_TXCRCEN | HLREG0_RXCRCSTRP | HLREG0_TXPADEN;

export interface MacOptions {
  registers: RegisterFile;
  wire: WireEnd;
  link: Link;
  statistics: Statistics;
  clock: Clock;
}

export class Mac {
  /** Called for each frame from the wire, or from loopback, that the MAC takes. */
  onFrame: (frame: Uint8Array, loopback: boolean) => void = () => {};
  readonly #registers: RegisterFile;
  readonly #wire: WireEnd;
  readonly #link: Link;
  readonly #statistics: Statistics;
  readonly #clock: Clock;
  readonly #padded = new Uint8Array(MIN_BYTES);
  #paused: Uint8Array[] = [];
  #resume: (() => void) | null = null;

  constructor({ registers, wire, link, statistics, clock }: MacOptions) {
    this.#registers = registers;
    this.#wire = wire;
    this.#link = link;
    this.#statistics = statistics;
    this.#clock = clock;
    registers.define(HLREG0, { initial: HLREG0_INITIAL });
    registers.define(MAXFRS, { initial: (1518 << MAXFRS_MFS_SHIFT) >>> 0 });
    registers.define(MFLCN);
    for (const plain of [HLREG1, PAP, MACA, MMNGC, FCRTV, TFCS, FCCFG, PFCTOP]) registers.define(plain);
    for (let n = 0; n < 8; n++) {
      registers.define(FCRTL(n));
      registers.define(FCRTH(n));
      if (n < 4) registers.define(FCTTV(n));
    }
    wire.onFrame = (frame) => this.#receive(frame);
  }

  /** Sends a whole frame without its CRC, which is the caller's again afterwards. */
  transmit(frame: Uint8Array): void {
    const registers = this.#registers;
    let whole = frame;
    if (frame.length < MIN_BYTES && (registers.get(HLREG0) & HLREG0_TXPADEN) !== 0) {
      whole = this.#padded;
      whole.fill(0);
      whole.set(frame);
    }
    if ((registers.get(HLREG0) & HLREG0_LPBK) !== 0) {
      this.#statistics.transmitted(whole);
      this.#statistics.received(whole);
      this.onFrame(whole, true);
      return;
    }
    if (!this.#link.up) return;
    if (this.#resume !== null) {
      if (this.#paused.length < PAUSED_FRAMES) this.#paused.push(whole.slice());
      return;
    }
    this.#statistics.transmitted(whole);
    this.#wire.send(whole);
  }

  #receive(frame: Uint8Array): void {
    const registers = this.#registers;
    if (!this.#link.up || (registers.get(HLREG0) & HLREG0_LPBK) !== 0) return;
    if (frame.length < MIN_BYTES) {
      this.#statistics.undersized();
      return;
    }
    const tagged = word(frame, ETHERNET_TYPE) === TAG_TYPE;
    const isJumbo = (registers.get(HLREG0) & HLREG0_JUMBOEN) !== 0;
    const most = isJumbo ? (registers.get(MAXFRS) >>> MAXFRS_MFS_SHIFT) - CRC_BYTES : MAX_BYTES;
    if (frame.length > most + (tagged ? TAG_BYTES : 0)) {
      this.#statistics.oversized();
      return;
    }
    if (word(frame, ETHERNET_TYPE) === MAC_CONTROL && this.#control(frame)) return;
    this.#statistics.received(frame);
    this.onFrame(frame, false);
  }

  /** A MAC control frame. False: it passes on, as any frame. */
  #control(frame: Uint8Array): boolean {
    const registers = this.#registers;
    if (word(frame, ETHERNET_TYPE + 2) === PAUSE) {
      const quanta = word(frame, ETHERNET_TYPE + 4);
      this.#statistics.pauseReceived(quanta > 0);
      if ((registers.get(MFLCN) & MFLCN_RFCE) !== 0) this.#pause(quanta);
    }
    return (registers.get(FCTRL) & FCTRL_PMCF) === 0;
  }

  #pause(quanta: number): void {
    this.#resume?.();
    this.#resume = null;
    if (quanta > 0) this.#resume = this.#clock.after(quanta * QUANTUM_US, () => this.#unpause());
    else this.#unpause();
  }

  #unpause(): void {
    this.#resume = null;
    const frames = this.#paused;
    this.#paused = [];
    for (const frame of frames) this.transmit(frame);
  }

  /** Forgets frames that wait. */
  reset(): void {
    this.#resume?.();
    this.#resume = null;
    this.#paused = [];
  }
}
