/**
 * Statistics (82599 datasheet §8.2.3.23): counters that clear as they are read, and stick at their largest value. Totals (TPR, TOR)
 * have whatever comes, RXNFGPC what is good of it; "good" ones (GPRC, GORC, BPRC, MPRC, PRC…) what passes the filters too. Those of bytes
 * have 36 bits in two words, of which the low one is read first: that latches both, and reading the high one takes what was
 * latched off, so that nothing is lost that comes between. Lengths count the CRC.
 */
import {
  BPRC,
  BPTC,
  CRCERRS,
  ERRBC,
  GORCH,
  GORCL,
  GOTCH,
  GOTCL,
  GPRC,
  GPTC,
  ILLERRC,
  LXOFFRXCNT,
  LXOFFTXC,
  LXONRXCNT,
  LXONTXC,
  MLFC,
  MNGPDC,
  MNGPRC,
  MNGPTC,
  MPC,
  MPRC,
  MPTC,
  MRFC,
  MSPDC,
  PRC64,
  PRC127,
  PRC255,
  PRC511,
  PRC1023,
  PRC1522,
  PTC64,
  PTC127,
  PTC255,
  PTC511,
  PTC1023,
  PTC1522,
  QBRC_H,
  QBRC_L,
  QBTC_H,
  QBTC_L,
  QPRC,
  QPRDC,
  QPTC,
  RFC,
  RJC,
  RLEC,
  RNBC,
  ROC,
  RQSMR,
  RUC,
  RXDGBCH,
  RXDGBCL,
  RXDGPC,
  RXNFGBCH,
  RXNFGBCL,
  RXNFGPC,
  TORH,
  TORL,
  TPR,
  TPT,
  TQSM,
  TXDGBCH,
  TXDGBCL,
  TXDGPC,
  XEC,
} from '../registers.ts';
import type { RegisterFile } from './register-file.ts';

const COUNTERS = [
  ...[CRCERRS, ILLERRC, ERRBC, MSPDC, MLFC, MRFC, RLEC, LXONTXC, LXOFFTXC, LXONRXCNT, LXOFFRXCNT],
  ...[PRC64, PRC127, PRC255, PRC511, PRC1023, PRC1522, GPRC, BPRC, MPRC, GPTC],
  ...[MNGPRC, MNGPDC, MNGPTC, RUC, RFC, ROC, RJC, TPR, TPT],
  ...[PTC64, PTC127, PTC255, PTC511, PTC1023, PTC1522, MPTC, BPTC, XEC],
  ...[RXNFGPC, RXDGPC, TXDGPC],
];
/** The longest frame of each bucket but the last, with its CRC. */
const BUCKETS = [64, 127, 255, 511, 1023];
const RECEIVED = [PRC64, PRC127, PRC255, PRC511, PRC1023, PRC1522];
const TRANSMITTED = [PTC64, PTC127, PTC255, PTC511, PTC1023, PTC1522];
const PACKET_BUFFERS = 8;
const QUEUE_COUNTERS = 16;
const QUEUE_MAPS = 32;
const COUNTER_MASK = 0xf;
const CRC_BYTES = 4;
const WORD = 2 ** 32;
const WIDE_MOST = 2 ** 36 - 1;

export class Statistics {
  readonly #registers: RegisterFile;
  /** Counters of bytes whose low word was read, by its offset, as they stood then. */
  readonly #latched = new Map<number, number>();

  constructor(registers: RegisterFile) {
    this.#registers = registers;
    for (const counter of COUNTERS) this.#define(counter);
    for (let n = 0; n < PACKET_BUFFERS; n++) {
      this.#define(MPC(n));
      this.#define(RNBC(n));
    }
    for (let n = 0; n < QUEUE_COUNTERS; n++) {
      this.#define(QPRC(n));
      this.#define(QPRDC(n));
      this.#define(QPTC(n));
      this.#defineWide(QBRC_L(n), QBRC_H(n));
      this.#defineWide(QBTC_L(n), QBTC_H(n));
    }
    this.#defineWide(GORCL, GORCH);
    this.#defineWide(GOTCL, GOTCH);
    this.#defineWide(TORL, TORH);
    this.#defineWide(RXNFGBCL, RXNFGBCH);
    this.#defineWide(RXDGBCL, RXDGBCH);
    this.#defineWide(TXDGBCL, TXDGBCH);
    for (let n = 0; n < QUEUE_MAPS; n++) {
      registers.define(RQSMR(n));
      registers.define(TQSM(n));
    }
  }

  #define(offset: number): void {
    const registers = this.#registers;
    registers.define(offset, {
      writable: 0,
      read: (stored) => {
        registers.set(offset, 0);
        return stored;
      },
    });
  }

  #defineWide(low: number, high: number): void {
    const registers = this.#registers;
    registers.define(low, {
      writable: 0,
      read: (stored) => {
        this.#latched.set(low, this.#wide(low, high));
        return stored;
      },
    });
    registers.define(high, {
      writable: 0,
      read: () => {
        const sum = this.#wide(low, high);
        const latched = this.#latched.get(low) ?? sum;
        this.#latched.delete(low);
        this.#setWide(low, high, sum - latched);
        return Math.floor(latched / WORD);
      },
    });
  }

  #wide(low: number, high: number): number {
    return this.#registers.get(high) * WORD + this.#registers.get(low);
  }

  #setWide(low: number, high: number, value: number): void {
    this.#registers.set(low, value % WORD);
    this.#registers.set(high, Math.floor(value / WORD));
  }

  /** As after a reset of the card: the registers are the register file's to reset. */
  reset(): void {
    this.#latched.clear();
  }

  #count(offset: number, by = 1): void {
    this.#registers.set(offset, Math.min(this.#registers.get(offset) + by, WORD - 1));
  }

  #countWide(low: number, high: number, by: number): void {
    this.#setWide(low, high, Math.min(this.#wide(low, high) + by, WIDE_MOST));
  }

  /** A good frame came from the wire: whatever the filters will say of it. */
  arrived(frame: Uint8Array): void {
    const bytes = frame.length + CRC_BYTES;
    this.#count(RXNFGPC);
    this.#countWide(RXNFGBCL, RXNFGBCH, bytes);
    this.#total(bytes);
  }

  /**
   * It passed the filters. Whether it finds room in the packet buffer does not matter: those counted in MPC are counted here too,
   * which Linux's ixgbe knows and subtracts.
   */
  received(frame: Uint8Array): void {
    const bytes = frame.length + CRC_BYTES;
    this.#count(GPRC);
    this.#count(RECEIVED[bucket(bytes)]!);
    this.#countWide(GORCL, GORCH, bytes);
    if (isBroadcast(frame)) this.#count(BPRC);
    else if ((frame[0]! & 1) !== 0) this.#count(MPRC);
  }

  #total(bytes: number): void {
    this.#count(TPR);
    this.#countWide(TORL, TORH, bytes);
  }

  /** A frame went out to the wire. */
  transmitted(frame: Uint8Array): void {
    const bytes = frame.length + CRC_BYTES;
    this.#count(GPTC);
    this.#count(TPT);
    this.#count(TRANSMITTED[bucket(bytes)]!);
    this.#countWide(GOTCL, GOTCH, bytes);
    if (isBroadcast(frame)) this.#count(BPTC);
    else if ((frame[0]! & 1) !== 0) this.#count(MPTC);
  }

  /** A frame from the wire was too short, or too long. */
  undersized(frame: Uint8Array): void {
    this.#count(RUC);
    this.#total(frame.length + CRC_BYTES);
  }

  oversized(frame: Uint8Array): void {
    this.#count(ROC);
    this.#total(frame.length + CRC_BYTES);
  }

  /** A MAC control frame came: it is in the totals only. */
  controlReceived(frame: Uint8Array): void {
    this.#total(frame.length + CRC_BYTES);
  }

  /** It was a pause frame, with or without time. */
  pauseReceived(isXoff: boolean): void {
    this.#count(isXoff ? LXOFFRXCNT : LXONRXCNT);
  }

  /** A pause frame was sent, which the counters of what was sent have too (so ixgbe subtracts these). */
  pauseSent(frame: Uint8Array, isXoff: boolean): void {
    this.#count(isXoff ? LXOFFTXC : LXONTXC);
    this.transmitted(frame);
  }

  /** The link had a fault. */
  localFault(): void {
    this.#count(MLFC);
  }

  /** A frame found no room in the packet buffer. */
  missed(): void {
    this.#count(MPC(0));
  }

  /** A checksum was wrong. */
  checksumError(): void {
    this.#count(XEC);
  }

  queueReceived(queue: number, bytes: number): void {
    const counter = this.#counterOf(RQSMR, queue);
    this.#count(QPRC(counter));
    this.#countWide(QBRC_L(counter), QBRC_H(counter), bytes);
    this.#count(RXDGPC);
    this.#countWide(RXDGBCL, RXDGBCH, bytes);
  }

  queueTransmitted(queue: number, bytes: number): void {
    const counter = this.#counterOf(TQSM, queue);
    this.#count(QPTC(counter));
    this.#countWide(QBTC_L(counter), QBTC_H(counter), bytes);
    this.#count(TXDGPC);
    this.#countWide(TXDGBCL, TXDGBCH, bytes);
  }

  /** A queue had no descriptors, and drops rather than waits. */
  queueDropped(queue: number): void {
    this.#count(QPRDC(this.#counterOf(RQSMR, queue)));
  }

  /** Four queues a register say which of the sixteen counters they count in. */
  #counterOf(map: (n: number) => number, queue: number): number {
    return (this.#registers.get(map(queue >>> 2)) >>> (8 * (queue & 3))) & COUNTER_MASK;
  }
}

function bucket(bytes: number): number {
  const found = BUCKETS.findIndex((most) => bytes <= most);
  return found < 0 ? BUCKETS.length : found;
}

function isBroadcast(frame: Uint8Array): boolean {
  for (let i = 0; i < 6; i++) if (frame[i] !== 0xff) return false;
  return true;
}
