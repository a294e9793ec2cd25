/** The EEPROM (82599 datasheet §6, §8.2.3.2): what is in it, its reading through EERD, its writing through EEWR. */
import {
  EEC,
  EEC_AUTO_RD,
  EEC_FWE_DISABLED,
  EEC_GNT,
  EEC_PRES,
  EEC_REQ,
  EEC_SIZE_SHIFT,
  EEMNGCTL,
  EEMNGCTL_CFG_DONE0,
  EEMNGCTL_CFG_DONE1,
  EEPROM_CHECKSUM_WORD,
  EEPROM_SUM,
  EERD,
  EERD_ADDR_SHIFT,
  EERD_DATA_SHIFT,
  EERD_DONE,
  EERD_START,
  EEWR,
  FLA,
  FLMNGCTL,
  FLOP,
  GRC,
} from '../registers.ts';
import type { RegisterFile } from './register-file.ts';

/** EEC.SIZE: 2^(5 + 6) words. */
const SIZE = 5;
const WORDS = 2 ** (SIZE + 6);
const ADDRESS_MASK = 0x3fff;
const NO_POINTER = 0xffff;
/** Words with a meaning for drivers (§6.3, §6.4): the firmware's block, the SFP+ initializations, what the card may do. */
const FIRMWARE_POINTER = 0x0f;
const SFP_LIST_POINTER = 0x2b;
const DEVICE_CAPABILITIES = 0x2c;
const MAC_POINTERS = [0x27, 0x28];
const BOARD_ASSEMBLY = 0x15;
/** Any SFP+ module may be used; crosstalk does not feign a link; the card wakes nobody up (bits 2 and 3). */
const CAPABILITIES = (1 << 0) | (1 << 7);
/** Where the blocks lie in this EEPROM. */
const FIRMWARE_BLOCK = 0x100;
const PATCH_BLOCK = 0x110;
const SFP_LIST = 0x120;
const SFP_SEQUENCE = 0x130;
/** In the firmware's block: lengths and pointers to blocks of its own. */
const LESM_POINTER = FIRMWARE_BLOCK + 2;
const PATCH_POINTER = FIRMWARE_BLOCK + 4;
/** Firmware's version in the pass-through patch block; drivers call anything below 6 pre-production. */
const PATCH_VERSION = PATCH_BLOCK + 7;
const FIRMWARE_VERSION = 6;
/** Short- and long-range modules of port 0 and 1, as the list of SFP+ initializations calls them. */
const SRLR_CORES = [5, 6];

export class Eeprom {
  readonly #words = new Uint16Array(WORDS);

  /** `mac`: six bytes. */
  constructor(registers: RegisterFile, mac: Uint8Array) {
    this.#fill(mac);
    const present = EEC_PRES | EEC_AUTO_RD | EEC_FWE_DISABLED | (SIZE << EEC_SIZE_SHIFT);
    registers.define(EEC, {
      initial: present,
      // Access to the chip's pins is granted to whoever asks.
      write: (value) => present | (value & EEC_REQ) | ((value & EEC_REQ) !== 0 ? EEC_GNT : 0),
    });
    registers.define(EERD, {
      write: (value) => {
        if ((value & EERD_START) === 0) return value;
        const address = (value >>> EERD_ADDR_SHIFT) & ADDRESS_MASK;
        const data = this.#words[address] ?? NO_POINTER;
        return ((data << EERD_DATA_SHIFT) | (address << EERD_ADDR_SHIFT) | EERD_DONE) >>> 0;
      },
    });
    registers.define(EEWR, {
      write: (value) => {
        if ((value & EERD_START) === 0) return value;
        const address = (value >>> EERD_ADDR_SHIFT) & ADDRESS_MASK;
        if (address < WORDS) this.#words[address] = value >>> EERD_DATA_SHIFT;
        return ((value & ~EERD_START) | EERD_DONE) >>> 0;
      },
    });
    registers.define(FLA);
    registers.define(FLMNGCTL);
    registers.define(FLOP);
    registers.define(GRC);
    registers.define(EEMNGCTL, { initial: EEMNGCTL_CFG_DONE0 | EEMNGCTL_CFG_DONE1 });
  }

  /** A word. */
  word(address: number): number {
    return this.#words[address] ?? NO_POINTER;
  }

  #fill(mac: Uint8Array): void {
    const words = this.#words;
    for (let i = 0; i < 3; i++) words[i] = mac[2 * i]! | (mac[2 * i + 1]! << 8);
    words[BOARD_ASSEMBLY] = 0xe68a;
    words[BOARD_ASSEMBLY + 1] = 0x0100;
    for (const pointer of MAC_POINTERS) words[pointer] = NO_POINTER;
    words[DEVICE_CAPABILITIES] = CAPABILITIES;
    words[FIRMWARE_POINTER] = FIRMWARE_BLOCK;
    words[LESM_POINTER] = NO_POINTER;
    words[PATCH_POINTER] = PATCH_BLOCK;
    words[PATCH_VERSION] = FIRMWARE_VERSION;
    words[SFP_LIST_POINTER] = SFP_LIST;
    const list = SRLR_CORES.flatMap((core) => [core, SFP_SEQUENCE]);
    // Each block begins with its length.
    words.set([list.length + 1, ...list, NO_POINTER], SFP_LIST);
    words.set([1, NO_POINTER], SFP_SEQUENCE);
    let sum = 0;
    for (let i = 0; i < EEPROM_CHECKSUM_WORD; i++) sum += words[i]!;
    words[EEPROM_CHECKSUM_WORD] = EEPROM_SUM - sum;
  }
}
