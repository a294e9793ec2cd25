/**
 * Interrupts (82599 datasheet §7.3, §8.2.3.6): causes become pending, and where they are enabled a message goes to the host.
 *
 *     queue ──► IVAR ──► vector v: pending bit ──┐ EIMS bit, and EITR(v)'s interval is over
 *     other causes (EICR 16 … 30) ──► IVAR_MISC ─┴─► message; auto-clear (EIAC), auto-mask (EIAM)
 *
 * Bits 0 to 15 of EICR, EIMS and EIAM are those of the _EX(0) registers.
 */
import {
  EIAC,
  EIAM,
  EIAM_EX,
  EICR,
  EICR_OTHER,
  EICR_RTX_QUEUES,
  EICS,
  EICS_EX,
  EIMC,
  EIMC_EX,
  EIMS,
  EIMS_EX,
  EITR,
  EITR_CNT_WDIS,
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
const OTHER_CAUSES = 0x7fff0000;
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
        // With other-clear-disable in MSI-X mode a read clears queues' causes only (§8.2.3.6.1).
        this.#pending[0] = this.#pending[0]! & ~EICR_RTX_QUEUES;
        if (!this.#has(GPIE_OCD)) this.#causes = 0;
        return value;
      },
      write: (value) => {
        this.#pending[0] = this.#pending[0]! & ~low(value);
        this.#causes &= ~value;
        return 0;
      },
    });
    registers.define(EICS, {
      read: () => this.#eicr(),
      write: (value) => {
        this.#pending[0] = this.#pending[0]! | low(value);
        this.#causes |= high(value);
        this.#fire();
        return 0;
      },
    });
    registers.define(EIMS, {
      read: () => (this.#enabled[0]! & EICR_RTX_QUEUES) | this.#causesEnabled,
      write: (value) => {
        this.#causesEnabled |= high(value);
        this.#enable(0, low(value));
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
      // CNT_WDIS says that the counter is not written; it reads as 0.
      registers.define(EITR(n), { write: (value) => (value & ~EITR_CNT_WDIS) >>> 0 });
    }
    registers.define(PBACL(0));
    registers.define(PBACL(1));
  }

  #defineExtended(n: number): void {
    const registers = this.#registers;
    registers.define(EICS_EX(n), {
      write: (value) => {
        this.#pending[n] = this.#pending[n]! | value;
        this.#fire();
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

  #enable(word: number, bits: number): void {
    this.#enabled[word] = this.#enabled[word]! | bits;
    this.#fire();
  }

  /** Causes of EICR that do not come from a queue. */
  raise(causes: number): void {
    this.#causes |= causes & OTHER_CAUSES;
    this.#fire();
  }

  /** A frame came in on a queue. */
  receive(queue: number): void {
    this.#queueCause(queue, 0);
  }

  /** A frame of a queue was sent, and that was written back. */
  transmit(queue: number): void {
    this.#queueCause(queue, 1);
  }

  #queueCause(queue: number, isTransmit: number): void {
    const entry = this.#registers.get(IVAR(queue >>> 1)) >>> (16 * (queue & 1) + 8 * isTransmit);
    if ((entry & IVAR_ALLOC_VALID) === 0) return;
    const vector = entry & VECTOR_MASK;
    this.#pending[vector >>> 5] = this.#pending[vector >>> 5]! | (1 << (vector & 31));
    this.#fire();
  }

  /** Sends what is pending and enabled. */
  #fire(): void {
    if (!this.#has(GPIE_MSIX_MODE)) {
      const queues = this.#pending[0]! & this.#enabled[0]! & EICR_RTX_QUEUES;
      if (queues !== 0 || (this.#causes & this.#causesEnabled) !== 0) this.#fireVector(SINGLE_VECTOR);
      return;
    }
    for (let word = 0; word < WORDS; word++) {
      let ready = (this.#pending[word]! & this.#enabled[word]!) >>> 0;
      while (ready !== 0) {
        const bit = 31 - Math.clz32(ready);
        ready = (ready & ~(1 << bit)) >>> 0;
        this.#fireVector(32 * word + bit);
      }
    }
    const misc = this.#registers.get(IVAR_MISC) >>> 8;
    if ((misc & IVAR_ALLOC_VALID) !== 0 && (this.#causes & this.#causesEnabled) !== 0)
      this.#fireVector(misc & VECTOR_MASK);
  }

  #fireVector(vector: number): void {
    if (this.#timers.has(vector)) return;
    const interval = ((this.#registers.get(EITR(vector)) & EITR_INTERVAL_MASK) >>> EITR_INTERVAL_SHIFT) * EITR_UNIT_US;
    const wait = this.#firedAt[vector]! + interval - this.#clock.now();
    if (wait > 0) {
      this.#timers.set(
        vector,
        this.#clock.after(wait, () => {
          this.#timers.delete(vector);
          this.#fire();
        }),
      );
      return;
    }
    this.#firedAt[vector] = this.#clock.now();
    this.#acknowledge(vector);
    this.#bus.interrupt(vector);
  }

  /** What the card does itself as a message goes out (§7.3.1.4, §7.3.1.5). */
  #acknowledge(vector: number): void {
    const autoMask = this.#has(GPIE_EIAME);
    if (!this.#has(GPIE_MSIX_MODE)) {
      if (!autoMask) return;
      this.#enabled[0] = this.#enabled[0]! & ~(this.#autoMask[0]! & EICR_RTX_QUEUES);
      this.#causesEnabled &= ~this.#causesAutoMask;
      return;
    }
    const word = vector >>> 5;
    const bit = 1 << (vector & 31);
    const isExtended = vector > 15;
    if (isExtended || (this.#registers.get(EIAC) & bit) !== 0) this.#pending[word] = this.#pending[word]! & ~bit;
    if (!autoMask) return;
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
