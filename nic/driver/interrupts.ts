/**
 * Interrupts (82599 datasheet §7.3): MSI-X vector n for both directions of queue n, and the next one for everything else.
 *
 * A queue's vector masks and clears itself as it fires (EIAM, EIAC); the lane that owns the queue enables it again before it
 * sleeps. The other causes are the main thread's: it asks which, clears them, and enables them again.
 */
import {
  EIAC,
  EIAM_EX,
  EICR,
  EICR_ECC,
  EICR_LSC,
  EICR_PCI_EXCEPTION,
  EICS,
  EIMC,
  EIMC_EX,
  EIMS,
  EITR,
  EITR_INTERVAL_SHIFT,
  GPIE,
  GPIE_EIAME,
  GPIE_MSIX_MODE,
  GPIE_OCD,
  GPIE_PBA_SUPPORT,
  IVAR,
  IVAR_ALLOC_VALID,
  IVAR_MISC,
} from '../registers.ts';
import type { CardRegisters } from './card-registers.ts';

const ALL_CAUSES = 0x7fffffff;
const ALL_VECTORS = 0xffffffff;
const EXTENDED_WORDS = 2;
/** Causes in EICR that are no queue's. */
const OTHER_CAUSES = 0x7fff0000;
const WANTED_CAUSES = EICR_LSC | EICR_ECC | EICR_PCI_EXCEPTION;
/** Interrupts of a vector are this far apart at least, in units of 2 µs. */
const INTERVAL = 5;
/** IVAR has two queues a register; IVAR_MISC has the TCP timer below the other causes. */
const SECOND_QUEUE = 2 ** 16;
const TRANSMIT_SHIFT = 8;
const OTHER_CAUSES_SHIFT = 8;

export interface CardEvents {
  linkChanged: boolean;
  /** What went wrong in the card, for the log; null when nothing did. */
  fault: string | null;
}

/** No interrupt comes any more, and none is pending. */
export function disableInterrupts(registers: CardRegisters): void {
  registers.write(EIMC, ALL_CAUSES);
  for (let n = 0; n < EXTENDED_WORDS; n++) registers.write(EIMC_EX(n), ALL_VECTORS);
  registers.read(EICR);
}

/** Assigns vectors, and how often they may fire (§7.3.4.3). All stay disabled. */
export function initializeInterrupts(registers: CardRegisters, queues: number): void {
  registers.write(GPIE, GPIE_MSIX_MODE + GPIE_OCD + GPIE_EIAME + GPIE_PBA_SUPPORT);
  for (let n = 0; n < queues; n += 2) {
    registers.write(IVAR(n / 2), ivarEntry(n) + (n + 1 < queues ? ivarEntry(n + 1) * SECOND_QUEUE : 0));
  }
  registers.write(IVAR_MISC, (queues | IVAR_ALLOC_VALID) << OTHER_CAUSES_SHIFT);
  for (let n = 0; n <= queues; n++) registers.write(EITR(n), INTERVAL << EITR_INTERVAL_SHIFT);
  const vectors = 2 ** queues - 1;
  registers.write(EIAC, vectors);
  registers.write(EIAM_EX(0), vectors);
}

/** Receive and transmit of queue `n` go to vector `n`. */
function ivarEntry(n: number): number {
  return n | IVAR_ALLOC_VALID | ((n | IVAR_ALLOC_VALID) << TRANSMIT_SHIFT);
}

/** Lets the causes interrupt that are no queue's. */
export function enableEvents(registers: CardRegisters): void {
  registers.write(EIMS, WANTED_CAUSES);
}

/** What has happened since the last call, besides frames. */
export function takeEvents(registers: CardRegisters): CardEvents {
  // EICS reads as EICR does and clears nothing: the queues' causes are their lanes'.
  const causes = registers.read(EICS) & OTHER_CAUSES;
  registers.write(EICR, causes);
  enableEvents(registers);
  return { linkChanged: (causes & EICR_LSC) !== 0, fault: faultOf(causes) };
}

function faultOf(causes: number): string | null {
  if ((causes & EICR_ECC) !== 0) {
    return 'the card found an error in its memory (EICR.ECC): frames may be lost; reset it';
  }
  if ((causes & EICR_PCI_EXCEPTION) !== 0) {
    return 'the card could not carry out a transfer (EICR.PCI): a descriptor or buffer was refused';
  }
  return null;
}
