/** A software card with everything around it fake. */
import { Card82599 } from '../../nic/model/card.ts';
import { LINK_UP_US } from '../../nic/model/link.ts';
import { CTRL, CTRL_RST, RXCTRL, RXCTRL_RXEN } from '../../nic/registers.ts';
import { FakeBus, FakeClock, FakeWire } from './fake-card-host.ts';

export const CARD_ADDRESS = Uint8Array.of(0x02, 0x11, 0x22, 0x33, 0x44, 0x55);
const COMMAND = 0x04;
const COMMAND_MEMORY_AND_BUS_MASTER = 0x6;

export interface CardUnderTest {
  card: Card82599;
  bus: FakeBus;
  clock: FakeClock;
  wire: FakeWire;
  /** What the card told of its host. */
  faults: string[];
}

/** Switched on, with light on its cable, and untouched by software. */
export function newCard(wire = new FakeWire()): CardUnderTest {
  const bus = new FakeBus();
  const clock = new FakeClock();
  const faults: string[] = [];
  const card = new Card82599({ bus, wire, clock, mac: CARD_ADDRESS, onFault: (message) => faults.push(message) });
  return { card, bus, clock, wire, faults };
}

/** As a driver has it after reset: it may master the bus, its link is up, it receives. */
export function startedCard(wire = new FakeWire()): CardUnderTest {
  const all = newCard(wire);
  all.card.config.write(COMMAND, 2, COMMAND_MEMORY_AND_BUS_MASTER);
  all.card.write(CTRL, CTRL_RST);
  all.clock.advance(LINK_UP_US);
  all.card.write(RXCTRL, RXCTRL_RXEN);
  return all;
}
