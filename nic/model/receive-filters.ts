/**
 * Which frames the card takes (82599 datasheet §7.1.1): by destination address (RAR, MTA, promiscuous modes, broadcast), by
 * VLAN (VFTA), and whether they are MAC control frames.
 */
import {
  FCTRL,
  FCTRL_BAM,
  FCTRL_MPE,
  FCTRL_UPE,
  MCSTCTRL,
  MCSTCTRL_MFE,
  MCSTCTRL_MO_MASK,
  MPSAR,
  MTA,
  MTA_WORDS,
  RAH,
  RAH_AV,
  RAH_LEGACY,
  RAL,
  RAL_LEGACY,
  RAR_ENTRIES,
  RAR_LEGACY_ENTRIES,
  VFTA,
  VFTA_WORDS,
  VLNCTRL,
  VLNCTRL_CFI,
  VLNCTRL_CFIEN,
  VLNCTRL_VET_MASK,
  VLNCTRL_VFE,
} from '../registers.ts';
import { NO_TAG, type PacketHeaders } from './packet-headers.ts';
import type { RegisterFile } from './register-file.ts';

const DEFAULT_TAG_TYPE = 0x8100;
const RAH_WRITABLE = 0xffff | RAH_AV;
/** MTA is indexed by twelve bits of bytes 4 and 5 of the address; MO says from which bit on (§8.2.3.7.7). */
const MULTICAST_SHIFTS = [4, 3, 2, 0] as const;
const MULTICAST_INDEX_MASK = 0xfff;
const VLAN_ID_MASK = 0xfff;
const VLAN_CFI = 0x1000;

export class ReceiveFilters {
  readonly #registers: RegisterFile;

  constructor(registers: RegisterFile) {
    this.#registers = registers;
    registers.define(FCTRL);
    registers.define(VLNCTRL, { initial: DEFAULT_TAG_TYPE });
    registers.define(MCSTCTRL);
    for (let n = 0; n < MTA_WORDS; n++) registers.define(MTA(n));
    for (let n = 0; n < VFTA_WORDS; n++) registers.define(VFTA(n));
    for (let n = 0; n < RAR_ENTRIES; n++) {
      registers.define(RAL(n));
      registers.define(RAH(n), { writable: RAH_WRITABLE });
      registers.define(MPSAR(2 * n));
      registers.define(MPSAR(2 * n + 1));
    }
    for (let n = 0; n < RAR_LEGACY_ENTRIES; n++) {
      registers.alias(RAL_LEGACY(n), RAL(n));
      registers.alias(RAH_LEGACY(n), RAH(n));
    }
  }

  /** Puts the card's own address, six bytes, into the first receive address (the EEPROM's auto-read does, §8.2.3.7.10). */
  load(mac: Uint8Array): void {
    const view = new DataView(mac.buffer, mac.byteOffset, mac.byteLength);
    this.#registers.set(RAL(0), view.getUint32(0, true));
    this.#registers.set(RAH(0), (view.getUint16(4, true) | RAH_AV) >>> 0);
  }

  /** The EtherType of VLAN tags. */
  get tagType(): number {
    return this.#registers.get(VLNCTRL) & VLNCTRL_VET_MASK;
  }

  /** Whether the card takes a frame of at least six bytes. */
  accepts(frame: Uint8Array, headers: PacketHeaders): boolean {
    return this.#acceptsAddress(frame) && this.#acceptsVlan(headers.vlanTag);
  }

  #acceptsAddress(frame: Uint8Array): boolean {
    const control = this.#registers.get(FCTRL);
    const low = (frame[0]! | (frame[1]! << 8) | (frame[2]! << 16) | (frame[3]! << 24)) >>> 0;
    const high = frame[4]! | (frame[5]! << 8);
    if ((frame[0]! & 1) === 0) return (control & FCTRL_UPE) !== 0 || this.#hasAddress(low, high);
    if (low === 0xffffffff && high === 0xffff) return (control & FCTRL_BAM) !== 0;
    return (control & FCTRL_MPE) !== 0 || this.#hasAddress(low, high) || this.#inMulticastTable(high);
  }

  #hasAddress(low: number, high: number): boolean {
    const wanted = (high | RAH_AV) >>> 0;
    for (let n = 0; n < RAR_ENTRIES; n++) {
      if (this.#registers.get(RAL(n)) === low && this.#registers.get(RAH(n)) === wanted) return true;
    }
    return false;
  }

  #inMulticastTable(high: number): boolean {
    const control = this.#registers.get(MCSTCTRL);
    if ((control & MCSTCTRL_MFE) === 0) return false;
    const index = (high >>> MULTICAST_SHIFTS[control & MCSTCTRL_MO_MASK]!) & MULTICAST_INDEX_MASK;
    return (this.#registers.get(MTA(index >>> 5)) & (1 << (index & 31))) !== 0;
  }

  /** Untagged frames pass; tagged ones by their identifier, and by the CFI bit where that is compared (§7.4.3). */
  #acceptsVlan(tag: number): boolean {
    const control = this.#registers.get(VLNCTRL);
    if (tag === NO_TAG || (control & VLNCTRL_VFE) === 0) return true;
    const id = tag & VLAN_ID_MASK;
    if ((this.#registers.get(VFTA(id >>> 5)) & (1 << (id & 31))) === 0) return false;
    return (control & VLNCTRL_CFIEN) === 0 || ((tag & VLAN_CFI) !== 0) === ((control & VLNCTRL_CFI) !== 0);
  }
}
