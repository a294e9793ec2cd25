/** Which frames the card takes (82599 datasheet §7.1.1): addresses, multicast, promiscuous modes, VLANs. */
import {
  FCTRL,
  FCTRL_BAM,
  FCTRL_MPE,
  FCTRL_UPE,
  MCSTCTRL,
  MCSTCTRL_MFE,
  MTA,
  MTA_WORDS,
  RAH,
  RAH_AV,
  RAL,
  RAR_ENTRIES,
  RXDCTL,
  RXDCTL_VME,
  VFTA,
  VFTA_WORDS,
  VLNCTRL,
  VLNCTRL_CFIEN,
  VLNCTRL_VFE,
} from '../registers.ts';
import type { CardRegisters } from './card-registers.ts';

const ADDRESS_BYTES = 6;
const VLAN_IDS = 4096;
/** MCSTCTRL.MO = 0: bits 4 to 15 of the address's last two bytes (§8.2.3.7.7). */
const MULTICAST_SHIFT = 4;

export class ReceiveFilters {
  readonly #registers: CardRegisters;
  /** Addresses besides the card's own, by the entry that has them; and those for which there was none left. */
  readonly #addresses = new Map<number, string>();
  readonly #overflow = new Set<string>();
  #promiscuous = false;
  #allMulticast = false;

  constructor(registers: CardRegisters) {
    this.#registers = registers;
  }

  /** Only the card's own address and broadcast: multicast, VLAN and other entries are cleared. */
  reset(): void {
    const registers = this.#registers;
    this.#addresses.clear();
    this.#overflow.clear();
    this.#promiscuous = false;
    this.#allMulticast = false;
    for (let n = 1; n < RAR_ENTRIES; n++) this.#clearEntry(n);
    for (let n = 0; n < MTA_WORDS; n++) registers.write(MTA(n), 0);
    for (let n = 0; n < VFTA_WORDS; n++) registers.write(VFTA(n), 0);
    registers.write(MCSTCTRL, 0);
    this.#setModes();
    registers.clear(VLNCTRL, VLNCTRL_VFE | VLNCTRL_CFIEN);
  }

  /** The card's own address: six bytes. */
  get macAddress(): Uint8Array {
    const address = new Uint8Array(ADDRESS_BYTES);
    const view = new DataView(address.buffer);
    view.setUint32(0, this.#registers.read(RAL(0)), true);
    view.setUint16(4, this.#registers.read(RAH(0)) & 0xffff, true);
    return address;
  }

  /** Takes every frame. */
  setPromiscuous(on: boolean): void {
    this.#promiscuous = on;
    this.#setModes();
  }

  /** Takes every multicast frame. */
  setAllMulticast(on: boolean): void {
    this.#allMulticast = on;
    this.#setModes();
  }

  /** All three reasons to take more than the tables say, in one register. */
  #setModes(): void {
    const unicast = this.#promiscuous || this.#overflow.size > 0;
    const multicast = this.#promiscuous || this.#allMulticast;
    this.#registers.write(FCTRL, FCTRL_BAM | (unicast ? FCTRL_UPE : 0) | (multicast ? FCTRL_MPE : 0));
    this.#registers.check();
  }

  /**
   * Takes frames for one more unicast address. With all 128 entries in use the card takes every unicast frame, until enough
   * addresses are removed. Throws RangeError for a group address.
   */
  addAddress(address: Uint8Array): void {
    const text = textOf(address);
    if ((address[0]! & 1) !== 0) throw new RangeError(`${text} is a group address: setMulticast takes those`);
    if (this.#overflow.has(text) || [...this.#addresses.values()].includes(text)) return;
    let n = 1;
    while (n < RAR_ENTRIES && this.#addresses.has(n)) n++;
    if (n < RAR_ENTRIES) this.#setEntry(n, text);
    else {
      this.#overflow.add(text);
      this.#setModes();
    }
  }

  /** Takes frames for an address no longer; false when it was not added. */
  removeAddress(address: Uint8Array): boolean {
    const text = textOf(address);
    if (this.#overflow.delete(text)) {
      this.#setModes();
      return true;
    }
    for (const [n, added] of this.#addresses) {
      if (added !== text) continue;
      this.#addresses.delete(n);
      const [waiting] = this.#overflow;
      if (waiting === undefined) {
        this.#clearEntry(n);
        this.#registers.check();
      } else {
        this.#overflow.delete(waiting);
        this.#setEntry(n, waiting);
        this.#setModes();
      }
      return true;
    }
    return false;
  }

  #setEntry(n: number, text: string): void {
    const bytes = text.split(':').map((part) => Number.parseInt(part, 16));
    const view = new DataView(Uint8Array.from(bytes).buffer);
    this.#addresses.set(n, text);
    this.#registers.write(RAL(n), view.getUint32(0, true));
    this.#registers.write(RAH(n), view.getUint16(4, true) | RAH_AV);
    this.#registers.check();
  }

  /** AV goes first: half an address must match nothing. */
  #clearEntry(n: number): void {
    this.#registers.write(RAH(n), 0);
    this.#registers.write(RAL(n), 0);
  }

  /** Takes frames for these groups, and for whatever else has the same twelve bits; for no others that were set before. */
  setMulticast(groups: readonly Uint8Array[]): void {
    const table = new Uint32Array(MTA_WORDS);
    for (const group of groups) {
      const text = textOf(group);
      if ((group[0]! & 1) === 0) throw new RangeError(`${text} is no group address`);
      const index = (((group[5]! << 8) | group[4]!) >>> MULTICAST_SHIFT) & 0xfff;
      table[index >>> 5] = table[index >>> 5]! | (1 << (index & 31));
    }
    for (const [n, word] of table.entries()) this.#registers.write(MTA(n), word);
    this.#registers.write(MCSTCTRL, groups.length > 0 ? MCSTCTRL_MFE : 0);
    this.#registers.check();
  }

  /** Whether tagged frames pass only with an identifier that was added. */
  setVlanFilter(on: boolean): void {
    if (on) this.#registers.set(VLNCTRL, VLNCTRL_VFE);
    else this.#registers.clear(VLNCTRL, VLNCTRL_VFE);
  }

  addVlan(id: number): void {
    this.#setVlan(id, true);
  }

  removeVlan(id: number): void {
    this.#setVlan(id, false);
  }

  #setVlan(id: number, on: boolean): void {
    if (!Number.isInteger(id) || id < 0 || id >= VLAN_IDS)
      throw new RangeError(`${id} is no VLAN: 0 to ${VLAN_IDS - 1}`);
    const bit = 1 << (id & 31);
    if (on) this.#registers.set(VFTA(id >>> 5), bit);
    else this.#registers.clear(VFTA(id >>> 5), bit);
  }

  /** Whether a queue takes VLAN tags off, and gives them in the descriptor (ReceiveRing.vlanTag). */
  setVlanStrip(queue: number, on: boolean): void {
    if (on) this.#registers.set(RXDCTL(queue), RXDCTL_VME);
    else this.#registers.clear(RXDCTL(queue), RXDCTL_VME);
  }
}

function textOf(address: Uint8Array): string {
  if (address.length !== ADDRESS_BYTES)
    throw new RangeError(`an address has ${ADDRESS_BYTES} bytes, not ${address.length}`);
  return Array.from(address, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}
