/** The way of frames into the card's queues (82599 datasheet §4.6.7), all but what each queue has of its own. */
import {
  CTRL_EXT,
  CTRL_EXT_NS_DIS,
  HLREG0,
  HLREG0_JUMBOEN,
  HLREG0_RXCRCSTRP,
  MAXFRS,
  MAXFRS_MFS_SHIFT,
  RDRXCTL,
  RDRXCTL_CRC_STRIP,
  RDRXCTL_FCOE_WRFIX,
  RDRXCTL_RSC_FRST_SIZE_MASK,
  RDRXCTL_RSCACKC,
  RXCSUM,
  RXCSUM_IPPCSE,
  RXCSUM_PCSD,
  RXCTRL,
  RXCTRL_RXEN,
  RXPBSIZE,
  RXPBSIZE_SIZE_SHIFT,
  SECRXCTRL,
  SECRXCTRL_RX_DIS,
  SECRXSTAT,
  SECRXSTAT_SECRX_RDY,
} from '../registers.ts';
import type { CardRegisters } from './card-registers.ts';

const PACKET_BUFFERS = 8;
const CRC_BYTES = 4;
const EMPTY_MS = 100;

/** One packet buffer of `packetBufferKib` for all; frames of `maxFrameBytes` without their CRC, which the card takes off. */
export function initializeReceive(registers: CardRegisters, packetBufferKib: number, maxFrameBytes: number): void {
  disableReceive(registers);
  registers.write(RXPBSIZE(0), packetBufferKib << RXPBSIZE_SIZE_SHIFT);
  for (let n = 1; n < PACKET_BUFFERS; n++) registers.write(RXPBSIZE(n), 0);
  registers.set(HLREG0, HLREG0_RXCRCSTRP | HLREG0_JUMBOEN);
  registers.write(MAXFRS, (maxFrameBytes + CRC_BYTES) * 2 ** MAXFRS_MFS_SHIFT);
  // What the datasheet asks software to set, also without RSC and FCoE (§8.2.3.8.8).
  const rdrxctl = registers.read(RDRXCTL) & ~RDRXCTL_RSC_FRST_SIZE_MASK;
  registers.write(RDRXCTL, rdrxctl | RDRXCTL_CRC_STRIP | RDRXCTL_RSCACKC | RDRXCTL_FCOE_WRFIX);
  registers.write(RXCSUM, RXCSUM_PCSD | RXCSUM_IPPCSE);
  registers.set(CTRL_EXT, CTRL_EXT_NS_DIS);
}

/** Lets frames in, after the last ones from before have gone (§4.6.7.1). */
export function enableReceive(registers: CardRegisters): void {
  registers.set(SECRXCTRL, SECRXCTRL_RX_DIS);
  registers.await(SECRXSTAT, SECRXSTAT_SECRX_RDY, SECRXSTAT_SECRX_RDY, EMPTY_MS, 'emptying the receive path');
  registers.set(RXCTRL, RXCTRL_RXEN);
  registers.clear(SECRXCTRL, SECRXCTRL_RX_DIS);
}

export function disableReceive(registers: CardRegisters): void {
  registers.clear(RXCTRL, RXCTRL_RXEN);
}
