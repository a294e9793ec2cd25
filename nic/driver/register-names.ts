/** Names of registers for messages, as the datasheet has them (§8.2.3). */
import {
  AUTOC,
  CTRL,
  CTRL_EXT,
  DCA_RXCTRL,
  DMATXCTL,
  EEC,
  EICR,
  EICS,
  ESDP,
  FCTRL,
  HLREG0,
  LINKS,
  QUEUES,
  RAH,
  RAL,
  RAR_ENTRIES,
  RDRXCTL,
  RTTDCS,
  RXCTRL,
  RXDCTL,
  SECRXCTRL,
  SECRXSTAT,
  STATUS,
  TXDCTL,
  VFTA,
  VFTA_WORDS,
  VLNCTRL,
} from '../registers.ts';

const SINGLE = {
  CTRL,
  STATUS,
  CTRL_EXT,
  ESDP,
  EEC,
  EICR,
  EICS,
  FCTRL,
  VLNCTRL,
  HLREG0,
  RDRXCTL,
  RXCTRL,
  SECRXCTRL,
  SECRXSTAT,
  RTTDCS,
  DMATXCTL,
  AUTOC,
  LINKS,
};
/** Those of which there are many, and how many. */
const MANY = [
  ['RXDCTL', RXDCTL, QUEUES],
  ['TXDCTL', TXDCTL, QUEUES],
  ['DCA_RXCTRL', DCA_RXCTRL, QUEUES],
  ['RAL', RAL, RAR_ENTRIES],
  ['RAH', RAH, RAR_ENTRIES],
  ['VFTA', VFTA, VFTA_WORDS],
] as const;

const names = new Map<number, string>(Object.entries(SINGLE).map(([name, offset]) => [offset, name]));
for (const [name, offset, count] of MANY) {
  for (let n = 0; n < count; n++) names.set(offset(n), `${name}(${n})`);
}

/** `RXDCTL(3) at 0x10e8`; the offset alone where messages are not expected to name the register. */
export function registerName(offset: number): string {
  const name = names.get(offset);
  return name === undefined ? hex(offset) : `${name} at ${hex(offset)}`;
}

export const hex = (n: number): string => `0x${n.toString(16)}`;
