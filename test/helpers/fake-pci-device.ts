/**
 * A card as its driver sees it, that does what the datasheet promises after each write, at once, and writes down every access.
 * A test scripts what it does else: registers that stick, and a card that vanishes.
 */
import type { DmaMapping, DmaSource, PciDevice, RegisterAccess, RegisterSpace } from '../../nic/pci/pci-device.ts';
import {
  CTRL,
  CTRL_LRST,
  CTRL_PCIE_MASTER_DISABLE,
  CTRL_RST,
  DEVICE_82599_SFP,
  EEC,
  EEC_AUTO_RD,
  GONE,
  INTEL_VENDOR_ID,
  RDRXCTL,
  RDRXCTL_DMAIDONE,
  SECRXSTAT,
  SECRXSTAT_SECRX_RDY,
  STATUS,
  STATUS_PCIE_MASTER_ENABLE,
} from '../../nic/registers.ts';

export interface Access {
  kind: 'read' | 'write';
  offset: number;
  value: number;
}

export class FakePciDevice implements PciDevice {
  readonly name = '0000:01:00.0';
  readonly vendorId: number;
  readonly deviceId: number;
  readonly interruptVectors = 64;
  readonly needsHugepages: boolean;
  readonly registerAccess: RegisterAccess = { kind: 'mapped', address: 0x1000, length: 0x80000 };
  readonly registers: RegisterSpace;
  /** In order. */
  readonly accesses: Access[] = [];
  /** Memory that the card reaches now, by its bus address. */
  readonly mapped = new Map<number, DmaSource>();
  busMaster = false;
  closed = 0;
  /** What mapDma throws; null: nothing. */
  mapError: Error | null = null;
  /** Reads as all ones from this many reads on; Infinity: stays. */
  vanishAfter = Number.POSITIVE_INFINITY;
  /** What configuration space and the kernel throw: the card's bus is gone. */
  busError: Error | null = null;
  readonly #values = new Map<number, number>([
    [EEC, EEC_AUTO_RD],
    [RDRXCTL, RDRXCTL_DMAIDONE],
    [SECRXSTAT, SECRXSTAT_SECRX_RDY],
  ]);
  readonly #stuck = new Map<number, number>();
  #reads = 0;
  #nextAddress = 2 ** 32;

  constructor({ vendorId = INTEL_VENDOR_ID, deviceId = DEVICE_82599_SFP, needsHugepages = false } = {}) {
    this.vendorId = vendorId;
    this.deviceId = deviceId;
    this.needsHugepages = needsHugepages;
    this.registers = { read32: (offset) => this.#read(offset), write32: (offset, value) => this.#write(offset, value) };
  }

  #read(offset: number): number {
    const value = this.#reads++ >= this.vanishAfter ? GONE : this.value(offset);
    this.accesses.push({ kind: 'read', offset, value });
    return value;
  }

  #write(offset: number, value: number): void {
    this.accesses.push({ kind: 'write', offset, value });
    // A reset ends at once, and leaves CTRL as after power-on.
    this.#values.set(offset, offset === CTRL && (value & (CTRL_RST | CTRL_LRST)) !== 0 ? 0 : value);
  }

  /** A register's value, without an access. */
  value(offset: number): number {
    const stuck = this.#stuck.get(offset);
    if (stuck !== undefined) return stuck;
    if (offset === STATUS) {
      return (this.value(CTRL) & CTRL_PCIE_MASTER_DISABLE) === 0 ? STATUS_PCIE_MASTER_ENABLE : 0;
    }
    return this.#values.get(offset) ?? 0;
  }

  /** The card changes a register by itself. */
  set(offset: number, value: number): void {
    this.#values.set(offset, value);
  }

  /** From now on a register reads as `value`, whatever is written. */
  stick(offset: number, value: number): void {
    this.#stuck.set(offset, value);
  }

  release(offset: number): void {
    this.#stuck.delete(offset);
  }

  /** All ones from now on. */
  vanish(): void {
    this.vanishAfter = 0;
  }

  /** What was written to a register, in order. */
  writes(offset: number): number[] {
    return this.accesses.filter(({ kind, offset: at }) => kind === 'write' && at === offset).map(({ value }) => value);
  }

  /** Where in {@link accesses} a register was first written; -1 when it was not. */
  firstWrite(offset: number): number {
    return this.accesses.findIndex(({ kind, offset: at }) => kind === 'write' && at === offset);
  }

  readConfig(): number {
    return 0;
  }

  writeConfig(): void {}

  mapDma(source: DmaSource): DmaMapping {
    if (this.mapError !== null) throw this.mapError;
    const address = this.#nextAddress;
    this.#nextAddress += source.length;
    this.mapped.set(address, source);
    return { pageBytes: source.length, pages: [address] };
  }

  unmapDma({ pages }: DmaMapping): void {
    for (const page of pages) this.mapped.delete(page);
    if (this.busError !== null) throw this.busError;
  }

  setInterrupts(): void {}

  setBusMaster(on: boolean): void {
    if (this.busError !== null) throw this.busError;
    this.busMaster = on;
  }

  reset(): boolean {
    return false;
  }

  close(): void {
    this.closed++;
    if (this.busError !== null) throw this.busError;
  }
}

/** Time that passes only while the driver waits. */
export class DriverTime {
  ms = 0;

  now(): number {
    return this.ms;
  }

  sleep(ms: number): void {
    this.ms += ms;
  }
}
