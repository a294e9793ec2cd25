/** A card made quiet, and as after power-on (82599 datasheet §4.2, §4.6.3, §5.2.5.3.2). */
import {
  CTRL,
  CTRL_LRST,
  CTRL_PCIE_MASTER_DISABLE,
  CTRL_RST,
  EEC,
  EEC_AUTO_RD,
  RDRXCTL,
  RDRXCTL_DMAIDONE,
  STATUS,
  STATUS_PCIE_MASTER_ENABLE,
} from '../registers.ts';
import { CardGoneError, type CardRegisters } from './card-registers.ts';

/** How long the card may take, in ms: for requests on the bus, for a reset, and for what it does after one by itself. */
const MASTER_MS = 800;
const RESET_MS = 100;
/** The card is not to be touched for 1 ms after a reset at least (§4.2.1.7); Linux gives it longer. */
const SETTLE_MS = 10;
const AUTO_READ_MS = 1000;

/** §5.2.5.3.2: the card makes no request on the bus any more. Throws Error when it does not come to that in time. */
export function disableMaster(registers: CardRegisters): void {
  registers.set(CTRL, CTRL_PCIE_MASTER_DISABLE);
  registers.await(STATUS, STATUS_PCIE_MASTER_ENABLE, 0, MASTER_MS, 'the end of requests on the bus');
}

/**
 * Resets device and link (§4.2.1.7), and waits for what the card does then: it loads registers from its EEPROM, and starts
 * its DMA engine. Throws Error that names what did not happen.
 */
export function resetCard(registers: CardRegisters): void {
  const quiet = isQuiet(registers);
  reset(registers);
  // Completions that were on their way have hit a card that was just reset: a second one clears that up (§5.2.5.3.2).
  if (!quiet) reset(registers);
  registers.await(EEC, EEC_AUTO_RD, EEC_AUTO_RD, AUTO_READ_MS, 'reading the EEPROM');
  registers.await(RDRXCTL, RDRXCTL_DMAIDONE, RDRXCTL_DMAIDONE, AUTO_READ_MS, 'starting the DMA engine');
}

/** Whoever had the card before may have left it running. False: requests are still on the bus. */
function isQuiet(registers: CardRegisters): boolean {
  try {
    disableMaster(registers);
    return true;
  } catch (error) {
    if (error instanceof CardGoneError) throw error;
    return false;
  }
}

function reset(registers: CardRegisters): void {
  registers.set(CTRL, CTRL_RST | CTRL_LRST);
  registers.clock.sleep(SETTLE_MS);
  registers.await(CTRL, CTRL_RST | CTRL_LRST, 0, RESET_MS, 'the reset');
  registers.clock.sleep(SETTLE_MS);
}
