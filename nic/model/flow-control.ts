/**
 * Flow control by pause frames (82599 datasheet §3.7.7; IEEE 802.3 annex 31B), for the one packet buffer that there is.
 *
 *     packet buffer above FCRTH ──► XOFF, again while it stays above FCRTL ──► below FCRTL: XON
 *     a pause frame came ──► {@link FlowControl.paused} until its quanta are over
 */
import {
  FCCFG,
  FCCFG_TFCE_802_3X,
  FCCFG_TFCE_MASK,
  FCRTH,
  FCRTH_FCEN,
  FCRTH_RTH_MASK,
  FCRTL,
  FCRTL_RTL_MASK,
  FCRTL_XONE,
  FCRTV,
  FCTTV,
  PFCTOP,
  RAH,
  RAL,
  TFCS,
  TFCS_TXOFF,
} from '../registers.ts';
import type { Clock } from './clock.ts';
import { setWord } from './packet-headers.ts';
import type { RegisterFile } from './register-file.ts';

/** 512 bit times at 10 Gb/s, in µs. */
const QUANTUM_US = 0.0512;
const QUANTA_MASK = 0xffff;
/** A pause frame: 01:80:c2:00:00:01, the card's address, MAC control, opcode 1, quanta, and zeros. */
const FRAME_BYTES = 60;
const DESTINATION = [0x0180, 0xc200, 0x0001];
const SOURCE_AT = 6;
const TYPE_AT = 12;
const MAC_CONTROL = 0x8808;
const PAUSE = 0x0001;
const BUFFERS = 8;
const TIMER_WORDS = 4;

export class FlowControl {
  /** A pause frame is to go out, whatever else waits. It is the receiver's during the call only. */
  onPauseFrame: (frame: Uint8Array, isXoff: boolean) => void = () => {};
  /** {@link paused} is false again. */
  onResume: () => void = () => {};
  readonly #registers: RegisterFile;
  readonly #clock: Clock;
  readonly #frame = new Uint8Array(FRAME_BYTES);
  /** Takes the end of a pause back; null while there is none. */
  #cancelPause: (() => void) | null = null;
  /** The other end was asked to pause, and not to go on; takes back what is to be done when that is nearly over. */
  #hasPausedOther = false;
  #cancelRefresh: (() => void) | null = null;

  constructor(registers: RegisterFile, clock: Clock) {
    this.#registers = registers;
    this.#clock = clock;
    for (const plain of [FCRTV, FCCFG, PFCTOP]) registers.define(plain);
    registers.define(TFCS, { writable: 0, read: () => (this.paused ? TFCS_TXOFF : 0) });
    for (let n = 0; n < BUFFERS; n++) {
      registers.define(FCRTL(n));
      registers.define(FCRTH(n));
    }
    for (let n = 0; n < TIMER_WORDS; n++) registers.define(FCTTV(n));
    for (const [i, part] of DESTINATION.entries()) setWord(this.#frame, 2 * i, part);
    setWord(this.#frame, TYPE_AT, MAC_CONTROL);
    setWord(this.#frame, TYPE_AT + 2, PAUSE);
  }

  /** The other end has asked to send nothing. */
  get paused(): boolean {
    return this.#cancelPause !== null;
  }

  /** It asks for a pause of so many quanta from now on; of none: it is over. */
  pause(quanta: number): void {
    this.#cancelPause?.();
    this.#cancelPause = null;
    if (quanta > 0) this.#cancelPause = this.#clock.after(quanta * QUANTUM_US, () => this.#expire());
    else this.onResume();
  }

  /** Where time is late, a pause frame that came in time may still be on its way within this process: it is let in first. */
  #expire(): void {
    this.#cancelPause = this.#clock.after(0, () => {
      this.#cancelPause = null;
      this.onResume();
    });
  }

  /** So many bytes wait in the packet buffer: told after each change. */
  bufferLevel(bytes: number): void {
    const registers = this.#registers;
    const high = registers.get(FCRTH(0));
    const low = registers.get(FCRTL(0));
    const isOn = (registers.get(FCCFG) & FCCFG_TFCE_MASK) === FCCFG_TFCE_802_3X && (high & FCRTH_FCEN) !== 0;
    if (isOn && bytes > (high & FCRTH_RTH_MASK)) {
      if (!this.#hasPausedOther) this.#sendXoff();
      return;
    }
    if (!this.#hasPausedOther || (isOn && bytes >= (low & FCRTL_RTL_MASK))) return;
    this.#forgetOther();
    if (isOn && (low & FCRTL_XONE) !== 0) this.#send(0);
  }

  /** Asks for a pause, and again as FCRTV quanta of it are left (0: not again, but when the next frame finds it full). */
  #sendXoff(): void {
    const quanta = this.#registers.get(FCTTV(0)) & QUANTA_MASK;
    const refresh = this.#registers.get(FCRTV) & QUANTA_MASK;
    this.#hasPausedOther = true;
    this.#send(quanta);
    const isRefreshed = refresh > 0 && refresh < quanta;
    this.#cancelRefresh = this.#clock.after((isRefreshed ? quanta - refresh : quanta) * QUANTUM_US, () => {
      this.#forgetOther();
      if (isRefreshed) this.#sendXoff();
    });
  }

  #forgetOther(): void {
    this.#hasPausedOther = false;
    this.#cancelRefresh?.();
    this.#cancelRefresh = null;
  }

  #send(quanta: number): void {
    const low = this.#registers.get(RAL(0));
    const high = this.#registers.get(RAH(0));
    const frame = this.#frame;
    for (let i = 0; i < 4; i++) frame[SOURCE_AT + i] = low >>> (8 * i);
    for (let i = 0; i < 2; i++) frame[SOURCE_AT + 4 + i] = high >>> (8 * i);
    setWord(frame, TYPE_AT + 4, quanta);
    this.onPauseFrame(frame, quanta > 0);
  }

  /** Forgets pauses of both ends. */
  reset(): void {
    this.#cancelPause?.();
    this.#cancelPause = null;
    this.#forgetOther();
  }
}
