/** Names of registers for messages, as the datasheet has them (§8.2.3). */
import * as registers from '../registers.ts';

const SINGLE = [
  'CTRL',
  'STATUS',
  'CTRL_EXT',
  'ESDP',
  'EEC',
  'EICR',
  'EICS',
  'FCTRL',
  'VLNCTRL',
  'HLREG0',
  'RDRXCTL',
  'RXCTRL',
  'SECRXCTRL',
  'SECRXSTAT',
  'RTTDCS',
  'DMATXCTL',
  'AUTOC',
  'LINKS',
] as const;
/** Those of which there are many, and how many. */
const MANY = {
  RXDCTL: registers.QUEUES,
  TXDCTL: registers.QUEUES,
  DCA_RXCTRL: registers.QUEUES,
  RAL: registers.RAR_ENTRIES,
  RAH: registers.RAR_ENTRIES,
  VFTA: registers.VFTA_WORDS,
} as const;

const names = new Map<number, string>(SINGLE.map((name) => [registers[name], name]));
for (const [name, count] of Object.entries(MANY)) {
  const offset = registers[name as keyof typeof MANY];
  for (let n = 0; n < count; n++) names.set(offset(n), `${name}(${n})`);
}

/** `RXDCTL(3) at 0x10e8`; the offset alone where messages are not expected to name the register. */
export function registerName(offset: number): string {
  const name = names.get(offset);
  return name === undefined ? hex(offset) : `${name} at ${hex(offset)}`;
}

export const hex = (n: number): string => `0x${n.toString(16)}`;
