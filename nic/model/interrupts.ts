/**
 * Interrupts (82599 datasheet §7.3, §8.2.3.6): causes become pending, and where they are enabled a message goes to the host.
 *
 *     queue ──► IVAR ──► vector v: pending bit ──┐ EIMS bit, and EITR(v)'s interval is over
 *     other causes (EICR 16 … 30) ──► IVAR_MISC ─┴─► message; auto-clear (EIAC), auto-mask (EIAM)
 *
 * Bits 0 to 15 of EICR, EIMS and EIAM are those of the _EX(0) registers. A message goes when a cause comes, and when one that is
 * pending is enabled: a cause that stays pending does not send another.
 */
import {
  EIAC,
  EIAM,
  EIAM_EX,
  EICR,
  EICR_OTHER,
  EICR_RTX_QUEUES,
  EICR_TCP_TIMER,
  EICS,
  EICS_EX,
  EIMC,
  EIMC_EX,
  EIMS,
  EIMS_EX,
  EITR,
  EITR_CNT_WDIS,
  EITR_COUNTER_MASK,
  EITR_COUNTER_SHIFT,
  EITR_INTERVAL_MASK,
  EITR_INTERVAL_SHIFT,
  GPIE,
  GPIE_EIAME,
  GPIE_MSIX_MODE,
  GPIE_OCD,
  IVAR,
  IVAR_ALLOC_VALID,
  IVAR_MISC,
  PBACL,
} from '../registers.ts';
import type { Clock } from './clock.ts';
import type { HostBus } from './host-bus.ts';
import type { RegisterFile } from './register-file.ts';

/** Vectors of the MSI-X table. */
export const VECTORS = 64;
const WORDS = 2;
const IVARS = 64;
const EITRS = 129;
const EITR_UNIT_US = 2;
/** EITR has the upper seven of the nine bits of its counter. */
const EITR_COUNTER_UNIT_US = 4 * EITR_UNIT_US;
const OTHER_CAUSES = 0x7fff0000;
/** What a read clears with GPIE.OCD: EICR 16 to 29. */
const OTHER_CLEAR_CAUSES = 0x3fff0000;
const VECTOR_MASK = 0x3f;
/** Where there is one message for everything. */
const SINGLE_VECTOR = 0;

export class Interrupts {
  readonly #registers: RegisterFile;
  readonly #bus: HostBus;
  readonly #clock: Clock;
  /** By words of 32 vectors. Without MSI-X mode: by bits of EICR, in the first word. */
  readonly #pending = new Uint32Array(WORDS);
  readonly #enabled = new Uint32Array(WORDS);
  readonly #autoMask = new Uint32Array(WORDS);
  /** EICR, EIMS and EIAM above bit 15. */
  #causes = 0;
  #causesEnabled = 0;
  #causesAutoMask = 0;
  /** When each vector fired last, and what takes its timer back. */
  readonly #firedAt = new Float64Array(VECTORS).fill(Number.NEGATIVE_INFINITY);
  readonly #timers = new Map<number, () => void>();

  constructor(registers: RegisterFile, bus: HostBus, clock: Clock) {
    this.#registers = registers;
    this.#bus = bus;
    this.#clock = clock;
    const low = (value: number): number => value & EICR_RTX_QUEUES;
    const high = (value: number): number => (value & OTHER_CAUSES) >>> 0;
    registers.define(EICR, {
      read: () => {
        const value = this.#eicr();
        const cleared = this.#has(GPIE_OCD) ? OTHER_CLEAR_CAUSES : EICR_RTX_QUEUES | OTHER_CAUSES;
        this.#clear(cleared);
        if (!this.#masksByMessage) this.#mask(cleared);
        return value;
      },
      write: (value) => {
        this.#clear(value);
        if (!this.#masksByMessage) this.#mask(value);
        return 0;
      },
    });
    registers.define(EICS, {
      read: () => this.#eicr(),
      write: (value) => {
        if (!this.#masksByMessage) {
          this.#enabled[0] = this.#enabled[0]! | (low(value) & this.#autoMask[0]!);
          this.#causesEnabled |= high(value) & this.#causesAutoMask;
        }
        this.#causes |= high(value);
        this.#set(0, low(value));
        this.#fireCauses(high(value));
        return 0;
      },
    });
    registers.define(EIMS, {
      read: () => (this.#enabled[0]! & EICR_RTX_QUEUES) | this.#causesEnabled,
      write: (value) => {
        this.#causesEnabled |= high(value);
        this.#enable(0, low(value));
        this.#fireCauses(high(value));
        return 0;
      },
    });
    registers.define(EIMC, {
      write: (value) => {
        this.#causesEnabled &= ~value;
        this.#enabled[0] = this.#enabled[0]! & ~low(value);
        return 0;
      },
    });
    registers.define(EIAM, {
      read: () => (this.#autoMask[0]! & EICR_RTX_QUEUES) | this.#causesAutoMask,
      write: (value) => {
        this.#causesAutoMask = high(value);
        this.#autoMask[0] = (this.#autoMask[0]! & ~EICR_RTX_QUEUES) | low(value);
        return 0;
      },
    });
    for (let n = 0; n < WORDS; n++) this.#defineExtended(n);
    registers.define(EIAC);
    registers.define(GPIE);
    registers.define(IVAR_MISC);
    for (let n = 0; n < IVARS; n++) registers.define(IVAR(n));
    for (let n = 0; n < EITRS; n++) {
      registers.define(EITR(n), {
        write: (value) => {
          if ((value & EITR_CNT_WDIS) === 0 && n < VECTORS) this.#setCounter(n, value);
          return (value & ~(EITR_CNT_WDIS | EITR_COUNTER_MASK)) >>> 0;
        },
      });
    }
    registers.define(PBACL(0));
    registers.define(PBACL(1));
  }

  #defineExtended(n: number): void {
    const registers = this.#registers;
    registers.define(EICS_EX(n), {
      write: (value) => {
        this.#set(n, value);
        return 0;
      },
    });
    registers.define(EIMS_EX(n), {
      read: () => this.#enabled[n]!,
      write: (value) => {
        this.#enable(n, value);
        return 0;
      },
    });
    registers.define(EIMC_EX(n), {
      write: (value) => {
        this.#enabled[n] = this.#enabled[n]! & ~value;
        return 0;
      },
    });
    registers.define(EIAM_EX(n), {
      read: () => this.#autoMask[n]!,
      write: (value) => {
        this.#autoMask[n] = value;
        return 0;
      },
    });
  }

  #has(bit: number): boolean {
    return (this.#registers.get(GPIE) & bit) !== 0;
  }

  #eicr(): number {
    const causes = (this.#pending[0]! & EICR_RTX_QUEUES) | this.#causes;
    return (this.#causes !== 0 ? causes | EICR_OTHER : causes) >>> 0;
  }

  /** Whether EIAM masks as a message goes, or as software reads or clears EICR (§7.3.1.5). */
  get #masksByMessage(): boolean {
    return this.#has(GPIE_MSIX_MODE) && this.#has(GPIE_EIAME);
  }

  /** Clears bits of EICR. */
  #clear(bits: number): void {
    this.#pending[0] = this.#pending[0]! & ~(bits & EICR_RTX_QUEUES);
    this.#causes &= ~bits;
  }

  /** Takes those of EIAM out of EIMS. */
  #mask(bits: number): void {
    this.#enabled[0] = this.#enabled[0]! & ~(bits & this.#autoMask[0]! & EICR_RTX_QUEUES);
    this.#causesEnabled &= ~(bits & this.#causesAutoMask);
  }

  #enable(word: number, bits: number): void {
    this.#enabled[word] = this.#enabled[word]! | bits;
    this.#fire(word, bits);
  }

  #set(word: number, bits: number): void {
    this.#pending[word] = this.#pending[word]! | bits;
    this.#fire(word, bits);
  }

  /** Causes of EICR that do not come from a queue. */
  raise(causes: number): void {
    this.#causes |= causes & OTHER_CAUSES;
    this.#fireCauses(causes);
  }

  /** A frame came in on a queue. */
  receive(queue: number): void {
    this.#queueCause(queue, 0);
  }

  /** A frame of a queue was sent, and that was written back. */
  transmit(queue: number): void {
    this.#queueCause(queue, 1);
  }

  /** µs from now to when the throttling counter of a queue's transmit vector is 0 next; -1 without a vector, or an interval. */
  transmitDelay(queue: number): number {
    const entry = this.#registers.get(IVAR(queue >>> 1)) >>> (16 * (queue & 1) + 8);
    if ((entry & IVAR_ALLOC_VALID) === 0) return -1;
    const vector = this.#has(GPIE_MSIX_MODE) ? entry & VECTOR_MASK : SINGLE_VECTOR;
    const interval = this.#interval(this.#registers.get(EITR(vector)));
    if (interval === 0) return -1;
    const left = this.#firedAt[vector]! + interval - this.#clock.now();
    return left > 0 ? left : interval;
  }

  #queueCause(queue: number, isTransmit: number): void {
    const entry = this.#registers.get(IVAR(queue >>> 1)) >>> (16 * (queue & 1) + 8 * isTransmit);
    if ((entry & IVAR_ALLOC_VALID) === 0) return;
    const vector = entry & VECTOR_MASK;
    this.#set(vector >>> 5, 1 << (vector & 31));
  }

  /** Sends those of these vectors that are pending and enabled. */
  #fire(word: number, bits: number): void {
    let ready = (this.#pending[word]! & this.#enabled[word]! & bits) >>> 0;
    if (!this.#has(GPIE_MSIX_MODE)) {
      if (word === 0 && (ready & EICR_RTX_QUEUES) !== 0) this.#fireVector(SINGLE_VECTOR);
      return;
    }
    while (ready !== 0) {
      const bit = 31 - Math.clz32(ready);
      ready = (ready & ~(1 << bit)) >>> 0;
      this.#fireVector(32 * word + bit);
    }
  }

  /** Sends what stands for those of these causes that are pending and enabled. */
  #fireCauses(bits: number): void {
    const ready = this.#causes & this.#causesEnabled & bits;
    if (ready === 0) return;
    if (!this.#has(GPIE_MSIX_MODE)) {
      this.#fireVector(SINGLE_VECTOR);
      return;
    }
    const misc = this.#registers.get(IVAR_MISC);
    const timer = (ready & EICR_TCP_TIMER) !== 0 ? misc & 0xff : 0;
    const other = (ready & ~EICR_TCP_TIMER) !== 0 ? (misc >>> 8) & 0xff : 0;
    if ((timer & IVAR_ALLOC_VALID) !== 0) this.#fireVector(timer & VECTOR_MASK);
    if ((other & IVAR_ALLOC_VALID) !== 0) this.#fireVector(other & VECTOR_MASK);
  }

  /** Whether there still is something for a vector to tell. */
  #isReady(vector: number): boolean {
    const causes = this.#causes & this.#causesEnabled;
    if (!this.#has(GPIE_MSIX_MODE)) {
      return (this.#pending[0]! & this.#enabled[0]! & EICR_RTX_QUEUES) !== 0 || causes !== 0;
    }
    const word = vector >>> 5;
    if ((this.#pending[word]! & this.#enabled[word]! & (1 << (vector & 31))) !== 0) return true;
    const isOf = (entry: number): boolean => (entry & IVAR_ALLOC_VALID) !== 0 && (entry & VECTOR_MASK) === vector;
    const misc = this.#registers.get(IVAR_MISC);
    if ((causes & EICR_TCP_TIMER) !== 0 && isOf(misc)) return true;
    return (causes & ~EICR_TCP_TIMER) !== 0 && isOf(misc >>> 8);
  }

  /** Software has set the counter of a vector, which counts down to its next message. */
  #setCounter(vector: number, eitr: number): void {
    const interval = this.#interval(eitr);
    const counter = ((eitr & EITR_COUNTER_MASK) >>> EITR_COUNTER_SHIFT) * EITR_COUNTER_UNIT_US;
    this.#firedAt[vector] = this.#clock.now() + counter - interval;
    const cancel = this.#timers.get(vector);
    if (cancel === undefined) return;
    cancel();
    this.#wait(vector, counter);
  }

  #interval(eitr: number): number {
    return ((eitr & EITR_INTERVAL_MASK) >>> EITR_INTERVAL_SHIFT) * EITR_UNIT_US;
  }

  #fireVector(vector: number): void {
    if (this.#timers.has(vector)) return;
    const interval = this.#interval(this.#registers.get(EITR(vector)));
    const wait = this.#firedAt[vector]! + interval - this.#clock.now();
    if (wait > 0) this.#wait(vector, wait);
    else this.#send(vector);
  }

  #wait(vector: number, us: number): void {
    const over = (): void => {
      this.#timers.delete(vector);
      if (this.#isReady(vector)) this.#fireVector(vector);
    };
    this.#timers.set(vector, this.#clock.after(us, over));
  }

  #send(vector: number): void {
    this.#firedAt[vector] = this.#clock.now();
    this.#acknowledge(vector);
    this.#bus.interrupt(vector);
  }

  /** What the card does itself as a message goes out (§7.3.1.4, §7.3.1.5). */
  #acknowledge(vector: number): void {
    if (!this.#has(GPIE_MSIX_MODE)) return;
    const word = vector >>> 5;
    const bit = 1 << (vector & 31);
    const isExtended = vector > 15;
    if (isExtended || (this.#registers.get(EIAC) & bit) !== 0) this.#pending[word] = this.#pending[word]! & ~bit;
    if (!this.#masksByMessage) return;
    this.#enabled[word] = this.#enabled[word]! & ~(bit & this.#autoMask[word]!);
    const misc = this.#registers.get(IVAR_MISC) >>> 8;
    if ((misc & VECTOR_MASK) === vector) this.#causesEnabled &= ~this.#causesAutoMask;
  }

  /** As after a reset of the card: the registers are the register file's to reset. */
  reset(): void {
    this.#pending.fill(0);
    this.#enabled.fill(0);
    this.#autoMask.fill(0);
    this.#causes = 0;
    this.#causesEnabled = 0;
    this.#causesAutoMask = 0;
    this.#firedAt.fill(Number.NEGATIVE_INFINITY);
    this.close();
  }

  /** Takes its timers back. */
  close(): void {
    for (const cancel of this.#timers.values()) cancel();
    this.#timers.clear();
  }
}
