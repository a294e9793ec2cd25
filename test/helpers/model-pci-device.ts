/** The software card as a device of this process, without a bus or a socket between: what the driver does, it does at once. */
import { signalEventfd } from '../../linux/eventfd.ts';
import { Card82599 } from '../../nic/model/card.ts';
import type { Clock } from '../../nic/model/clock.ts';
import { systemClock } from '../../nic/model/system-clock.ts';
import type { WireEnd } from '../../nic/model/wire.ts';
import type { DmaMapping, DmaSource, PciDevice, RegisterAccess, RegisterSpace } from '../../nic/pci/pci-device.ts';
import { GONE } from '../../nic/registers.ts';
import { DmaTable } from '../../nic/vfio-user/dma-table.ts';

const VENDOR_ID = 0x00;
const DEVICE_ID = 0x02;
const COMMAND = 0x04;
const COMMAND_MEMORY = 1 << 1;
const COMMAND_BUS_MASTER = 1 << 2;
const FIRST_BUS_ADDRESS = 2 ** 32;

export interface ModelOptions {
  name: string;
  mac: Uint8Array;
  wire: WireEnd;
  /** Default: this process's. */
  clock?: Clock;
}

export class ModelPciDevice implements PciDevice {
  readonly name: string;
  readonly vendorId: number;
  readonly deviceId: number;
  readonly interruptVectors = 64;
  readonly needsHugepages = false;
  readonly registers: RegisterSpace;
  /** Tests take {@link registers} in its place. */
  readonly registerAccess: RegisterAccess = { kind: 'mapped', address: 0, length: 0 };
  /** What the card told of its host. */
  readonly faults: string[] = [];
  /** The card is pulled out: reads give all ones. */
  unplugged = false;
  readonly #card: Card82599;
  readonly #memory = new DmaTable();
  #eventfds: readonly (number | null)[] = [];
  #nextAddress = FIRST_BUS_ADDRESS;

  constructor({ name, mac, wire, clock = systemClock }: ModelOptions) {
    const memory = this.#memory;
    this.#card = new Card82599({
      bus: {
        read: (address, into) => memory.read(address, into),
        write: (address, from) => memory.write(address, from),
        writeWords: (address, words, last) => memory.writeWords(address, words, last),
        interrupt: (vector) => {
          const fd = this.#eventfds[vector] ?? null;
          if (fd !== null) signalEventfd(fd);
        },
      },
      wire,
      clock,
      mac,
      onFault: (message) => this.faults.push(message),
    });
    this.name = name;
    this.vendorId = this.readConfig(VENDOR_ID, 2);
    this.deviceId = this.readConfig(DEVICE_ID, 2);
    this.writeConfig(COMMAND, 2, COMMAND_MEMORY);
    this.registers = {
      read32: (offset) => (this.unplugged ? GONE : this.#card.read(offset)),
      write32: (offset, value) => {
        if (!this.unplugged) this.#card.write(offset, value);
      },
    };
  }

  /** Ranges of memory that the card reaches. */
  get mapped(): number {
    return this.#memory.size;
  }

  get busMaster(): boolean {
    return (this.readConfig(COMMAND, 2) & COMMAND_BUS_MASTER) !== 0;
  }

  readConfig(offset: number, bytes: 1 | 2 | 4): number {
    return this.#card.config.read(offset, bytes);
  }

  writeConfig(offset: number, bytes: 1 | 2 | 4, value: number): void {
    this.#card.config.write(offset, bytes, value);
  }

  mapDma({ fd, length }: DmaSource): DmaMapping {
    const address = this.#nextAddress;
    this.#memory.map({ address, size: length, offset: 0, readable: true, writable: true }, fd);
    this.#nextAddress += length;
    return { pageBytes: length, pages: [address] };
  }

  unmapDma({ pages, pageBytes }: DmaMapping): void {
    for (const page of pages) this.#memory.unmap(page, pageBytes);
  }

  setInterrupts(eventfds: readonly (number | null)[]): void {
    this.#eventfds = eventfds;
  }

  setBusMaster(on: boolean): void {
    const command = this.readConfig(COMMAND, 2);
    this.writeConfig(COMMAND, 2, on ? command | COMMAND_BUS_MASTER : command & ~COMMAND_BUS_MASTER);
  }

  reset(): boolean {
    this.#card.reset();
    return true;
  }

  /** The driver lets go; the card itself is {@link dispose}d of. */
  close(): void {
    this.#eventfds = [];
  }

  dispose(): void {
    this.#card.close();
    this.#memory.clear();
  }
}
