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
  VLNCTRL_VFE,
} from '../registers.ts';
import type { CardRegisters } from './card-registers.ts';

const ADDRESS_BYTES = 6;
const VLAN_IDS = 4096;
/** MCSTCTRL.MO = 0: bits 4 to 15 of the address's last two bytes (§8.2.3.7.7). */
const MULTICAST_SHIFT = 4;

export class ReceiveFilters {
  readonly #registers: CardRegisters;
  /** Addresses besides the card's own, by the entry that has them. */
  readonly #addresses = new Map<number, string>();

  constructor(registers: CardRegisters) {
    this.#registers = registers;
  }

  /** Only the card's own address and broadcast: multicast, VLAN and other entries are cleared. */
  reset(): void {
    const registers = this.#registers;
    this.#addresses.clear();
    for (let n = 1; n < RAR_ENTRIES; n++) registers.write(RAH(n), 0);
    for (let n = 0; n < MTA_WORDS; n++) registers.write(MTA(n), 0);
    for (let n = 0; n < VFTA_WORDS; n++) registers.write(VFTA(n), 0);
    registers.write(MCSTCTRL, 0);
    registers.write(FCTRL, FCTRL_BAM);
    registers.clear(VLNCTRL, VLNCTRL_VFE);
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
    if (on) this.#registers.set(FCTRL, FCTRL_UPE | FCTRL_MPE);
    else this.#registers.clear(FCTRL, FCTRL_UPE | FCTRL_MPE);
  }

  /** Takes every multicast frame. */
  setAllMulticast(on: boolean): void {
    if (on) this.#registers.set(FCTRL, FCTRL_MPE);
    else this.#registers.clear(FCTRL, FCTRL_MPE);
  }

  /** Takes frames for one more unicast address. Throws Error when all 128 entries are in use. */
  addAddress(address: Uint8Array): void {
    const text = textOf(address);
    if ([...this.#addresses.values()].includes(text)) return;
    for (let n = 1; n < RAR_ENTRIES; n++) {
      if (this.#addresses.has(n)) continue;
      const view = new DataView(address.buffer, address.byteOffset, ADDRESS_BYTES);
      this.#registers.write(RAL(n), view.getUint32(0, true));
      this.#registers.write(RAH(n), view.getUint16(4, true) | RAH_AV);
      this.#addresses.set(n, text);
      return;
    }
    throw new Error(
      `${this.#registers.name}: all ${RAR_ENTRIES} receive addresses are in use; ${text} needs promiscuous mode`,
    );
  }

  /** Takes frames for an address no longer; false when it was not added. */
  removeAddress(address: Uint8Array): boolean {
    const text = textOf(address);
    for (const [n, added] of this.#addresses) {
      if (added !== text) continue;
      this.#registers.write(RAH(n), 0);
      this.#addresses.delete(n);
      return true;
    }
    return false;
  }

  /** Takes frames for these groups, and for whatever else has the same twelve bits. */
  setMulticast(groups: readonly Uint8Array[]): void {
    const table = new Uint32Array(MTA_WORDS);
    for (const group of groups) {
      if ((group[0]! & 1) === 0) throw new RangeError(`${textOf(group)} is no group address`);
      const index = (((group[5]! << 8) | group[4]!) >>> MULTICAST_SHIFT) & 0xfff;
      table[index >>> 5] = table[index >>> 5]! | (1 << (index & 31));
    }
    for (const [n, word] of table.entries()) this.#registers.write(MTA(n), word);
    this.#registers.write(MCSTCTRL, groups.length > 0 ? MCSTCTRL_MFE : 0);
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
