/**
 * Registers of filters and of virtualization that drivers write at start, and that the model only keeps: all of them are off
 * after a reset, and a frame that they would steer takes the queue that RSS gives it.
 */
import {
  DAQF,
  DRECCCTL,
  FTQF,
  L34TIMIR,
  LLITHRESH,
  PFQDE,
  PFUTA,
  PFUTA_WORDS,
  PFVLVF,
  PFVLVF_ENTRIES,
  PFVLVFB,
  PFVML2FLT,
  PFVML2FLT_ENTRIES,
  QUEUE_FILTERS,
  RQTC,
  SAQF,
  SDPQF,
} from '../registers.ts';
import type { RegisterFile } from './register-file.ts';

export function defineKeptRegisters(registers: RegisterFile): void {
  for (const offset of [PFQDE, DRECCCTL, RQTC, LLITHRESH]) registers.define(offset);
  for (let n = 0; n < QUEUE_FILTERS; n++) {
    for (const filter of [SAQF, DAQF, SDPQF, FTQF, L34TIMIR]) registers.define(filter(n));
  }
  for (let n = 0; n < PFVLVF_ENTRIES; n++) {
    registers.define(PFVLVF(n));
    registers.define(PFVLVFB(2 * n));
    registers.define(PFVLVFB(2 * n + 1));
  }
  for (let n = 0; n < PFVML2FLT_ENTRIES; n++) registers.define(PFVML2FLT(n));
  for (let n = 0; n < PFUTA_WORDS; n++) registers.define(PFUTA(n));
}
