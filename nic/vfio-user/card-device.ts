/** The software card as vfio-user knows devices: its regions and interrupts by the indices of <linux/vfio.h>. */
import type { Card82599 } from '../model/card.ts';
import { BAR0_BYTES, BAR4_BYTES, CONFIG_BYTES, MSIX_VECTORS } from '../model/config-space.ts';
import { VFIO_PCI_CONFIG_REGION_INDEX } from './messages.ts';
import type { VfioUserDevice } from './session.ts';

const BAR0 = 0;
const BAR4 = 4;
const REGISTER_BYTES = 4;

export class CardDevice implements VfioUserDevice {
  readonly regions = [BAR0_BYTES, 0, 0, 0, BAR4_BYTES, 0, 0, CONFIG_BYTES];
  /** INTx, MSI, MSI-X, and errors of the bus, of which none ever comes but QEMU asks for. */
  readonly interrupts = [1, 1, MSIX_VECTORS, 1];
  readonly #card: Card82599;
  /** The MSI-X table and pending bits: the client keeps its own, which this only remembers. */
  readonly #msix = Buffer.alloc(BAR4_BYTES);

  constructor(card: Card82599) {
    this.#card = card;
  }

  read(region: number, offset: number, into: Buffer): void {
    if (region === VFIO_PCI_CONFIG_REGION_INDEX) {
      for (let i = 0; i < into.length; i++) into[i] = this.#card.config.read(offset + i, 1);
      return;
    }
    if (region === BAR4) {
      this.#msix.copy(into, 0, offset);
      return;
    }
    // Registers are read whole, once each, whatever part of them is wanted.
    const first = Math.floor(offset / REGISTER_BYTES) * REGISTER_BYTES;
    const whole = Buffer.alloc(Math.ceil((offset + into.length - first) / REGISTER_BYTES) * REGISTER_BYTES);
    for (let at = 0; at < whole.length; at += REGISTER_BYTES) whole.writeUInt32LE(this.#card.read(first + at), at);
    whole.copy(into, 0, offset - first);
  }

  write(region: number, offset: number, from: Buffer): void {
    if (region === VFIO_PCI_CONFIG_REGION_INDEX) {
      this.#writeConfig(offset, from);
      return;
    }
    if (region === BAR4) {
      from.copy(this.#msix, offset);
      return;
    }
    // Registers take whole words only (§8.1.1.1).
    if (region !== BAR0 || offset % REGISTER_BYTES !== 0 || from.length % REGISTER_BYTES !== 0) return;
    for (let at = 0; at < from.length; at += REGISTER_BYTES) this.#card.write(offset + at, from.readUInt32LE(at));
  }

  #writeConfig(offset: number, from: Buffer): void {
    const { config } = this.#card;
    if (from.length === 4) config.write(offset, 4, from.readUInt32LE(0));
    else if (from.length === 2) config.write(offset, 2, from.readUInt16LE(0));
    else for (let i = 0; i < from.length; i++) config.write(offset + i, 1, from[i]!);
  }

  reset(): void {
    this.#msix.fill(0);
    this.#card.reset();
  }
}
