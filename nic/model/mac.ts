/**
 * The MAC (82599 datasheet §3.7.2, §3.7.7, §8.2.3.22): lengths, padding, loopback, and flow control by pause frames (IEEE
 * 802.3 annex 31B).
 */
import {
  FCCFG,
  FCRTH,
  FCRTL,
  FCRTV,
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
  MFLCN_DPF,
  MFLCN_PMCF,
  MFLCN_RFCE,
  MFLCN_RPFCE,
  MMNGC,
  PAP,
  PFCTOP,
  RAH,
  RAL,
  RXCTRL,
  RXCTRL_RXEN,
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
/** MAC control frames: their EtherType, the address that is theirs alone (01:80:c2:00:00:01), and the opcode of pause. */
const MAC_CONTROL = 0x8808;
const CONTROL_ADDRESS = [0x0180, 0xc200, 0x0001];
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
    if ((registers.get(RXCTRL) & RXCTRL_RXEN) === 0) return;
    if (frame.length < MIN_BYTES) {
      this.#statistics.undersized(frame);
      return;
    }
    const tagged = word(frame, ETHERNET_TYPE) === TAG_TYPE;
    const isJumbo = (registers.get(HLREG0) & HLREG0_JUMBOEN) !== 0;
    const most = isJumbo ? (registers.get(MAXFRS) >>> MAXFRS_MFS_SHIFT) - CRC_BYTES : MAX_BYTES;
    if (frame.length > most + (tagged ? TAG_BYTES : 0)) {
      this.#statistics.oversized(frame);
      return;
    }
    if (word(frame, ETHERNET_TYPE) === MAC_CONTROL && this.#isForControl(frame)) {
      this.#statistics.controlReceived(frame);
      if (this.#control(frame)) this.onFrame(frame, false);
      return;
    }
    this.#statistics.received(frame);
    this.onFrame(frame, false);
  }

  /** Whether it is for this end of the cable: sent to the address of MAC control, or to the card's own. */
  #isForControl(frame: Uint8Array): boolean {
    if (CONTROL_ADDRESS.every((part, i) => word(frame, 2 * i) === part)) return true;
    const low = (frame[0]! | (frame[1]! << 8) | (frame[2]! << 16) | (frame[3]! << 24)) >>> 0;
    const high = frame[4]! | (frame[5]! << 8);
    return this.#registers.get(RAL(0)) === low && (this.#registers.get(RAH(0)) & 0xffff) === high;
  }

  /** A MAC control frame. True: it passes on to the filters, as any frame (§3.7.7.1.2). */
  #control(frame: Uint8Array): boolean {
    const control = this.#registers.get(MFLCN);
    if (word(frame, ETHERNET_TYPE + 2) !== PAUSE) return (control & MFLCN_PMCF) !== 0;
    const quanta = word(frame, ETHERNET_TYPE + 4);
    this.#statistics.pauseReceived(quanta > 0);
    if ((control & MFLCN_RFCE) !== 0) this.#pause(quanta);
    return (control & MFLCN_DPF) === 0 || (control & (MFLCN_RFCE | MFLCN_RPFCE)) === 0;
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
