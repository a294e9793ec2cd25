/**
 * A card through VFIO: bound to vfio-pci, behind an IOMMU, so that it reaches what it was given and nothing else.
 *
 *     VfioDevice.open ─► mapDma, setInterrupts, setBusMaster(true), registers … ─► close
 *
 * Closing the device's last file resets the card and takes its interrupts; closing the container takes its memory. One
 * thread owns this object; other threads have writers of their own over {@link VfioDevice.registerAccess}.
 */
import {
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_INFO_BYTES,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_SET_IRQS,
  VFIO_IRQ_INFO_BYTES,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_BYTES,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_BAR0_REGION_INDEX,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_REGION_INFO_BYTES,
  VFIO_REGION_INFO_FLAG_MMAP,
} from '../../linux/vfio.ts';
import { ConfigSpace, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY } from './config-space.ts';
import { MappedRegisters } from './mapped-registers.ts';
import type { DmaMapping, DmaSource, PciDevice, RegisterAccess, RegisterSpace } from './pci-device.ts';
import { SysfsTree } from './sysfs-tree.ts';
import { bytesOf, struct, VfioContainer, type VfioOptions, vfioError } from './vfio-container.ts';
import { linuxVfio, type VfioSystem } from './vfio-system.ts';

export interface VfioDeviceOptions extends VfioOptions {
  tree?: SysfsTree;
}

interface Region {
  flags: number;
  size: number;
  offset: number;
}

export class VfioDevice implements PciDevice {
  readonly name: string;
  readonly vendorId: number;
  readonly deviceId: number;
  readonly interruptVectors: number;
  readonly needsHugepages = false;
  readonly #system: VfioSystem;
  readonly #container: VfioContainer;
  readonly #fd: number;
  readonly #canReset: boolean;
  readonly #config: ConfigSpace;
  readonly #registers: MappedRegisters;
  #interruptsOn = false;
  #closed = false;

  /** Opens the function at `address`. Throws Error that says what to do; nothing is left open or mapped then. */
  static open(
    address: string,
    { tree = new SysfsTree(), dev, system = linuxVfio }: VfioDeviceOptions = {},
  ): VfioDevice {
    const fn = tree.function(address);
    if (fn.driver !== 'vfio-pci') {
      throw new Error(
        `${fn.address}: bound to ${fn.driver ?? 'no driver'}, not to vfio-pci: ringswitch nic bind ${fn.address}`,
      );
    }
    const container = VfioContainer.open(fn, tree, { dev, system });
    let fd = -1;
    try {
      fd = container.deviceFd();
      return new VfioDevice(fn, system, container, fd);
    } catch (error) {
      if (fd >= 0) system.close(fd);
      container.close();
      throw error;
    }
  }

  private constructor(
    { address, vendorId, deviceId }: { address: string; vendorId: number; deviceId: number },
    system: VfioSystem,
    container: VfioContainer,
    fd: number,
  ) {
    this.name = address;
    this.vendorId = vendorId;
    this.deviceId = deviceId;
    this.#system = system;
    this.#container = container;
    this.#fd = fd;
    const info = struct(VFIO_DEVICE_INFO_BYTES);
    this.#ask('VFIO_DEVICE_GET_INFO', VFIO_DEVICE_GET_INFO, info);
    const flags = info.getUint32(4, true);
    if ((flags & VFIO_DEVICE_FLAGS_PCI) === 0) throw new Error(`${address}: VFIO says that it is no PCI function`);
    this.#canReset = (flags & VFIO_DEVICE_FLAGS_RESET) !== 0;
    this.interruptVectors = this.#msixVectors();
    const config = this.#region(VFIO_PCI_CONFIG_REGION_INDEX);
    this.#config = new ConfigSpace(
      address,
      {
        pread: (buffer, offset) => system.pread(fd, buffer, config.offset + offset),
        pwrite: (buffer, offset) => system.pwrite(fd, buffer, config.offset + offset),
      },
      config.size,
    );
    // A BAR that the card does not decode is not to be touched: the kernel answers with SIGBUS.
    this.#config.changeCommand(PCI_COMMAND_MEMORY, true);
    const bar = this.#region(VFIO_PCI_BAR0_REGION_INDEX);
    if (bar.size === 0 || (bar.flags & VFIO_REGION_INFO_FLAG_MMAP) === 0) {
      throw new Error(
        `${address}: its BAR 0, of ${bar.size} bytes, cannot be mapped: this is no card of the 82599's family`,
      );
    }
    this.#registers = new MappedRegisters(address, system.map(fd, bar.size, bar.offset), bar.size);
  }

  #region(index: number): Region {
    const info = struct(VFIO_REGION_INFO_BYTES);
    info.setUint32(8, index, true);
    this.#ask(`VFIO_DEVICE_GET_REGION_INFO of region ${index}`, VFIO_DEVICE_GET_REGION_INFO, info);
    return {
      flags: info.getUint32(4, true),
      size: Number(info.getBigUint64(16, true)),
      offset: Number(info.getBigUint64(24, true)),
    };
  }

  #msixVectors(): number {
    const info = struct(VFIO_IRQ_INFO_BYTES);
    info.setUint32(8, VFIO_PCI_MSIX_IRQ_INDEX, true);
    this.#ask('VFIO_DEVICE_GET_IRQ_INFO of MSI-X', VFIO_DEVICE_GET_IRQ_INFO, info);
    return (info.getUint32(4, true) & VFIO_IRQ_INFO_EVENTFD) === 0 ? 0 : info.getUint32(12, true);
  }

  get registers(): RegisterSpace {
    return this.#registers;
  }

  get registerAccess(): RegisterAccess {
    return this.#registers.access;
  }

  readConfig(offset: number, bytes: 1 | 2 | 4): number {
    this.#checkOpen();
    return this.#config.read(offset, bytes);
  }

  writeConfig(offset: number, bytes: 1 | 2 | 4, value: number): void {
    this.#checkOpen();
    this.#config.write(offset, bytes, value);
  }

  mapDma(source: DmaSource): DmaMapping {
    this.#checkOpen();
    return this.#container.mapDma(source);
  }

  unmapDma(mapping: DmaMapping): void {
    this.#checkOpen();
    this.#container.unmapDma(mapping);
  }

  setInterrupts(eventfds: readonly (number | null)[]): void {
    this.#checkOpen();
    if (eventfds.length > this.interruptVectors) {
      throw new Error(
        `${this.name}: ${eventfds.length} interrupts asked for, but it has ${this.interruptVectors} vectors`,
      );
    }
    const bad = eventfds.find((fd) => fd !== null && !(Number.isInteger(fd) && fd >= 0));
    if (bad !== undefined) throw new Error(`${this.name}: ${bad} is no eventfd for an interrupt`);
    // The number of vectors does not change while they are on (VFIO_IRQ_INFO_NORESIZE).
    if (this.#interruptsOn) this.#setIrqs(VFIO_IRQ_SET_DATA_NONE, []);
    this.#interruptsOn = false;
    if (eventfds.every((fd) => fd === null)) return;
    this.#setIrqs(
      VFIO_IRQ_SET_DATA_EVENTFD,
      eventfds.map((fd) => fd ?? -1),
    );
    this.#interruptsOn = true;
  }

  /** No descriptors with DATA_NONE: all off. */
  #setIrqs(data: number, eventfds: readonly number[]): void {
    const set = struct(VFIO_IRQ_SET_BYTES + 4 * eventfds.length);
    set.setUint32(4, data | VFIO_IRQ_SET_ACTION_TRIGGER, true);
    set.setUint32(8, VFIO_PCI_MSIX_IRQ_INDEX, true);
    set.setUint32(16, eventfds.length, true);
    for (const [i, fd] of eventfds.entries()) set.setInt32(VFIO_IRQ_SET_BYTES + 4 * i, fd, true);
    this.#ask(`VFIO_DEVICE_SET_IRQS of ${eventfds.length} vectors`, VFIO_DEVICE_SET_IRQS, set);
  }

  setBusMaster(on: boolean): void {
    this.#checkOpen();
    this.#config.changeCommand(PCI_COMMAND_MASTER, on);
  }

  reset(): boolean {
    this.#checkOpen();
    if (!this.#canReset) return false;
    const result = this.#system.ioctl(this.#fd, VFIO_DEVICE_RESET, 0);
    if (result < 0) throw vfioError(this.name, 'VFIO_DEVICE_RESET', -result);
    return true;
  }

  close(): void {
    if (this.#closed) return;
    // First nothing moves any more, then nothing is reachable. A card that is gone refuses, and needs none of it.
    for (const step of [() => this.setBusMaster(false), () => this.setInterrupts([])]) {
      try {
        step();
      } catch {
        // The descriptors that are closed below end both.
      }
    }
    this.#closed = true;
    const { address, length } = this.#registers.access;
    this.#registers.detach();
    this.#system.unmap(address, length);
    this.#system.close(this.#fd);
    this.#container.close();
  }

  #checkOpen(): void {
    if (this.#closed) throw new Error(`${this.name}: the card is closed`);
  }

  #ask(what: string, request: number, argument: DataView): void {
    const result = this.#system.ioctl(this.#fd, request, bytesOf(argument));
    if (result < 0) throw vfioError(this.name, what, -result);
  }
}
