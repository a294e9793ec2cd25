/**
 * PCI configuration space of the card (PCI Local Bus 3.0 §6.1, PCI Express 3.0 §7; 82599 datasheet §9): identity, BARs, power
 * management, MSI, MSI-X and PCI Express capabilities. What is not writable keeps its value.
 */
import { DEVICE_82599_SFP, INTEL_VENDOR_ID } from '../registers.ts';

export const CONFIG_BYTES = 4096;
const COMMAND = 0x04;
const COMMAND_BUS_MASTER = 1 << 2;
const COMMAND_WRITABLE = 0x0547;
const STATUS = 0x06;
const STATUS_CAPABILITIES = 1 << 4;
const REVISION = 0x08;
const CLASS = 0x09;
const CLASS_ETHERNET = 0x020000;
const CACHE_LINE = 0x0c;
const BAR = (n: number): number => 0x10 + 4 * n;
const BAR_64BIT = 0x4;
const SUBSYSTEM_VENDOR = 0x2c;
const SUBSYSTEM = 0x2e;
const CAPABILITIES = 0x34;
const INTERRUPT_LINE = 0x3c;
const INTERRUPT_PIN = 0x3d;
/** Where the capabilities stand in the 82599 (§9.3.1). */
const PM = 0x40;
const MSI = 0x50;
const MSIX = 0x70;
const PCIE = 0xa0;
const CAP_PM = 0x01;
const CAP_MSI = 0x05;
const CAP_MSIX = 0x11;
const CAP_PCIE = 0x10;
/** Power state and PME_En; PME_Status, which a write of 1 clears, is never set. */
const PM_CONTROL_WRITABLE = 0x0103;
const MSIX_FUNCTION_WRITABLE = 0xc000;
const DEVICE_CONTROL = PCIE + 0x08;
const DEVICE_CONTROL_FLR = 1 << 15;
const DEVICE_CONTROL_WRITABLE = 0x7fff;
/** Relaxed ordering and no-snoop; reads of up to 512 bytes. */
const DEVICE_CONTROL_INITIAL = 0x2810;
/** Completion timeout: its value, and whether there is none. */
const DEVICE_CONTROL_2 = PCIE + 0x28;
const DEVICE_CONTROL_2_WRITABLE = 0x1f;
/** FLR capable; payloads of up to 512 bytes. */
const DEVICE_CAPABILITIES = (1 << 28) | 0x8000 | 2;
/** 5 GT/s, eight lanes. */
const LINK_CAPABILITIES = 0x2 | (8 << 4);
const LINK_STATUS = 0x2 | (8 << 4);
const DEVICE_82599_REVISION = 1;
const SUBSYSTEM_X520 = 0x0003;

/** BAR 0, the registers. */
export const BAR0_BYTES = 0x80000;
/** BAR 4: the MSI-X table, and its pending bits from here on. */
export const BAR4_BYTES = 0x4000;
export const MSIX_VECTORS = 64;
export const MSIX_PBA_OFFSET = 0x2000;
const MSIX_BIR = 4;

export class ConfigSpace {
  /** A function-level reset was asked for (PCIe §6.6.2). */
  onFunctionReset: () => void = () => {};
  readonly #bytes = new Uint8Array(CONFIG_BYTES);
  readonly #view = new DataView(this.#bytes.buffer);
  /** Bits that software can write, by byte. */
  readonly #writable = new Uint8Array(CONFIG_BYTES);
  readonly #deviceId: number;

  constructor({ deviceId = DEVICE_82599_SFP }: { deviceId?: number } = {}) {
    this.#deviceId = deviceId;
    this.reset();
  }

  /** As after power-on: what software wrote is gone. */
  reset(): void {
    const view = this.#view;
    this.#bytes.fill(0);
    this.#writable.fill(0);
    view.setUint16(0, INTEL_VENDOR_ID, true);
    view.setUint16(2, this.#deviceId, true);
    view.setUint16(STATUS, STATUS_CAPABILITIES, true);
    view.setUint8(REVISION, DEVICE_82599_REVISION);
    view.setUint8(CLASS, CLASS_ETHERNET & 0xff);
    view.setUint16(CLASS + 1, CLASS_ETHERNET >>> 8, true);
    view.setUint32(BAR(0), BAR_64BIT, true);
    view.setUint32(BAR(4), BAR_64BIT, true);
    view.setUint16(SUBSYSTEM_VENDOR, INTEL_VENDOR_ID, true);
    view.setUint16(SUBSYSTEM, SUBSYSTEM_X520, true);
    view.setUint8(CAPABILITIES, PM);
    view.setUint8(INTERRUPT_PIN, 1);
    this.#allow(COMMAND, 2, COMMAND_WRITABLE);
    this.#allow(CACHE_LINE, 1, 0xff);
    this.#allow(INTERRUPT_LINE, 1, 0xff);
    this.#allowBar(0, BAR0_BYTES);
    this.#allowBar(4, BAR4_BYTES);
    this.#capability(PM, CAP_PM, MSI);
    view.setUint16(PM + 2, 0x3, true);
    this.#allow(PM + 4, 2, PM_CONTROL_WRITABLE);
    this.#capability(MSI, CAP_MSI, MSIX);
    view.setUint16(MSI + 2, 0x0080, true);
    this.#allow(MSI + 2, 2, 0x1);
    this.#allow(MSI + 4, 4, 0xfffffffc);
    this.#allow(MSI + 8, 4, 0xffffffff);
    this.#allow(MSI + 12, 2, 0xffff);
    this.#capability(MSIX, CAP_MSIX, PCIE);
    view.setUint16(MSIX + 2, MSIX_VECTORS - 1, true);
    this.#allow(MSIX + 2, 2, MSIX_FUNCTION_WRITABLE);
    view.setUint32(MSIX + 4, MSIX_BIR, true);
    view.setUint32(MSIX + 8, MSIX_PBA_OFFSET | MSIX_BIR, true);
    this.#capability(PCIE, CAP_PCIE, 0);
    view.setUint16(PCIE + 2, 0x2, true);
    view.setUint32(PCIE + 4, DEVICE_CAPABILITIES, true);
    view.setUint16(DEVICE_CONTROL, DEVICE_CONTROL_INITIAL, true);
    this.#allow(DEVICE_CONTROL, 2, DEVICE_CONTROL_WRITABLE);
    this.#allow(DEVICE_CONTROL_2, 2, DEVICE_CONTROL_2_WRITABLE);
    view.setUint32(PCIE + 0x0c, LINK_CAPABILITIES, true);
    this.#allow(PCIE + 0x10, 2, 0x01fb);
    view.setUint16(PCIE + 0x12, LINK_STATUS, true);
  }

  #capability(at: number, id: number, next: number): void {
    this.#view.setUint8(at, id);
    this.#view.setUint8(at + 1, next);
  }

  #allow(at: number, bytes: number, mask: number): void {
    for (let i = 0; i < bytes; i++) this.#writable[at + i] = (mask >>> (8 * i)) & 0xff;
  }

  /** A 64-bit BAR: its size shows in the bits that cannot be written. */
  #allowBar(n: number, bytes: number): void {
    this.#allow(BAR(n), 4, ~(bytes - 1));
    this.#allow(BAR(n + 1), 4, 0xffffffff);
  }

  /** Whether the card may reach the host's memory. */
  get busMaster(): boolean {
    return (this.#view.getUint16(COMMAND, true) & COMMAND_BUS_MASTER) !== 0;
  }

  /** Reads 1, 2 or 4 bytes; beyond the end there are ones. */
  read(offset: number, bytes: 1 | 2 | 4): number {
    if (offset + bytes > CONFIG_BYTES) return 0xffffffff >>> (32 - 8 * bytes);
    if (bytes === 1) return this.#view.getUint8(offset);
    return bytes === 2 ? this.#view.getUint16(offset, true) : this.#view.getUint32(offset, true);
  }

  /** Writes 1, 2 or 4 bytes. */
  write(offset: number, bytes: 1 | 2 | 4, value: number): void {
    if (offset + bytes > CONFIG_BYTES) return;
    for (let i = 0; i < bytes; i++) {
      const at = offset + i;
      const byte = (value >>> (8 * i)) & 0xff;
      const mask = this.#writable[at]!;
      this.#bytes[at] = (this.#bytes[at]! & ~mask) | (byte & mask);
      if (at === DEVICE_CONTROL + 1 && (byte & (DEVICE_CONTROL_FLR >>> 8)) !== 0) this.onFunctionReset();
    }
  }
}
