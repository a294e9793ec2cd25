/** The way of frames out of the card (82599 datasheet §4.6.8), all but what each queue has of its own. */
import {
  DMATXCTL,
  DMATXCTL_TE,
  DTXMXSZRQ,
  DTXTCPFLGH,
  DTXTCPFLGL,
  HLREG0,
  HLREG0_TXCRCEN,
  HLREG0_TXPADEN,
  RTTDCS,
  RTTDCS_ARBDIS,
  TXPBSIZE,
} from '../registers.ts';
import type { CardRegisters } from './card-registers.ts';

/** One packet buffer (§4.6.11.3.4): 160 KiB, in KiB from bit 10 on. */
const TX_PACKET_BUFFER = 0xa0 << 10;
const PACKET_BUFFERS = 8;
/** Without DCB a queue may have as many bytes requested as there can be (§8.2.3.9.15). */
const MAX_REQUESTS = 0xfff;
/** TCP flags of a segment (§8.2.3.9.3): FIN and PSH are the last one's; CWR is the first one's (RFC 3168 §6.1.2). */
const TCP_FLAGS = 0xfff;
const FIN = 0x01;
const PSH = 0x08;
const CWR = 0x80;
const MIDDLE_SHIFT = 16;

export function initializeTransmit(registers: CardRegisters): void {
  registers.set(HLREG0, HLREG0_TXCRCEN | HLREG0_TXPADEN);
  registers.set(RTTDCS, RTTDCS_ARBDIS);
  registers.write(TXPBSIZE(0), TX_PACKET_BUFFER);
  for (let n = 1; n < PACKET_BUFFERS; n++) registers.write(TXPBSIZE(n), 0);
  registers.write(DTXMXSZRQ, MAX_REQUESTS);
  registers.clear(RTTDCS, RTTDCS_ARBDIS);
  // As after reset; said here since guests that segment with ECN rely on it.
  const first = TCP_FLAGS & ~(FIN | PSH);
  const middle = TCP_FLAGS & ~(FIN | PSH | CWR);
  registers.write(DTXTCPFLGL, first | (middle << MIDDLE_SHIFT));
  registers.write(DTXTCPFLGH, TCP_FLAGS & ~CWR);
  enableTransmit(registers);
}

/** Queues can be switched on from now on. */
export function enableTransmit(registers: CardRegisters): void {
  registers.set(DMATXCTL, DMATXCTL_TE);
}

export function disableTransmit(registers: CardRegisters): void {
  registers.clear(DMATXCTL, DMATXCTL_TE);
}
