/**
 * The MAC (82599 datasheet §3.7.2, §3.7.7, §8.2.3.22): lengths, padding, loopback, and MAC control frames (IEEE 802.3 annex 31).
 *
 *     queues ──► transmit() ──► packet buffer (while paused, or the cable is full) ──► wire
 */
import {
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
  RAH,
  RAL,
  RXCTRL,
  RXCTRL_RXEN,
} from '../registers.ts';
import type { Clock } from './clock.ts';
import { FlowControl } from './flow-control.ts';
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
/** Bytes that wait to be sent from which on the queues have to wait: the transmit packet buffer. */
const BUFFER_BYTES = 160 * 1024;
const HLREG0_INITIAL = HLREG0_TXCRCEN | HLREG0_RXCRCSTRP | HLREG0_TXPADEN;

export interface MacOptions {
  registers: RegisterFile;
  wire: WireEnd;
  link: Link;
  statistics: Statistics;
  clock: Clock;
}

export class Mac {
  /** Called for each frame from the wire, or from loopback, that the MAC takes; MAC control frames may be among them. */
  onFrame: (frame: Uint8Array, loopback: boolean, isControl?: boolean) => void = () => {};
  readonly #registers: RegisterFile;
  readonly #wire: WireEnd;
  readonly #link: Link;
  readonly #statistics: Statistics;
  readonly #flow: FlowControl;
  readonly #padded = new Uint8Array(MIN_BYTES);
  /** Frames that wait to be sent, and their bytes. */
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  #draining = false;
  /** Called when {@link ready} is true again. */
  onReady: () => void = () => {};

  constructor({ registers, wire, link, statistics, clock }: MacOptions) {
    this.#registers = registers;
    this.#wire = wire;
    this.#link = link;
    this.#statistics = statistics;
    registers.define(HLREG0, { initial: HLREG0_INITIAL });
    registers.define(MAXFRS, { initial: (1518 << MAXFRS_MFS_SHIFT) >>> 0 });
    registers.define(MFLCN);
    for (const plain of [HLREG1, PAP, MACA, MMNGC]) registers.define(plain);
    this.#flow = new FlowControl(registers, clock);
    this.#flow.onResume = () => this.#drain();
    this.#flow.onPauseFrame = (frame, isXoff) => {
      if (!link.up || (registers.get(HLREG0) & HLREG0_LPBK) !== 0) return;
      statistics.pauseSent(frame, isXoff);
      wire.send(frame);
    };
    wire.onFrame = (frame) => this.#receive(frame);
    wire.onReady = () => this.#drain();
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
      this.#statistics.arrived(whole);
      this.onFrame(whole, true);
      return;
    }
    if (!this.#link.up) return;
    if (this.#flow.paused || this.#waiting.length > 0 || !this.#wire.ready) {
      this.#waiting.push(whole.slice());
      this.#waitingBytes += whole.length;
      return;
    }
    this.#statistics.transmitted(whole);
    this.#wire.send(whole);
  }

  /** Whether frames may come. The frame (the segments of a super-frame) that comes then waits whole, if it has to. */
  get ready(): boolean {
    return this.#waitingBytes < BUFFER_BYTES;
  }

  /** See {@link FlowControl.bufferLevel}. */
  bufferLevel(bytes: number): void {
    this.#flow.bufferLevel(bytes);
  }

  /** The link came up, or went down: then what waits is lost, and no pause counts any more. */
  linkChanged(): void {
    if (this.#link.up) return;
    this.#flow.reset();
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.onReady();
  }

  /** Sends what waits, as far as it may go. */
  #drain(): void {
    // Queues that are told of room send from within here: frames stay in order, for some may still wait.
    if (this.#draining) return;
    this.#draining = true;
    const wasReady = this.ready;
    let sent = 0;
    while (sent < this.#waiting.length && !this.#flow.paused && this.#wire.ready) {
      const frame = this.#waiting[sent++]!;
      this.#waitingBytes -= frame.length;
      this.#statistics.transmitted(frame);
      this.#wire.send(frame);
    }
    if (sent > 0) this.#waiting = this.#waiting.slice(sent);
    this.#draining = false;
    if (!wasReady && this.ready) this.onReady();
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
      if (this.#control(frame)) this.onFrame(frame, false, true);
      return;
    }
    this.#statistics.arrived(frame);
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
    if ((control & MFLCN_RFCE) !== 0) this.#flow.pause(quanta);
    return (control & MFLCN_DPF) === 0 || (control & (MFLCN_RFCE | MFLCN_RPFCE)) === 0;
  }

  /** As after a reset: what waits is forgotten. */
  reset(): void {
    this.#flow.reset();
    this.#waiting = [];
    this.#waitingBytes = 0;
  }
}
