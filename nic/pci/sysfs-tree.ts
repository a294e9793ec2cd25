/**
 * What sysfs says of PCI functions, their IOMMU groups and their network interfaces. Reads only; every question looks anew.
 *
 *     bus/pci/devices/0000:01:00.0 → ../../../devices/pci0000:00/…/0000:01:00.0
 *         vendor device class resource numa_node driver_override
 *         driver → bus/pci/drivers/ixgbe           absent without a driver
 *         iommu_group → kernel/iommu_groups/7      absent without an IOMMU
 *     kernel/iommu_groups/7/devices/*              who shares the group
 *     class/net/eth0 → ../../devices/…/0000:01:00.0/net/eth0
 *         upper_br0                                who stands on it: bridge, bond, VLAN, macvlan
 */
import fs from 'node:fs';
import path from 'node:path';
import { isPciAddress, parsePciAddress } from './address.ts';

/** Class codes (PCI Code and ID Assignment Specification §1): the base class is the top byte of three. */
const BASE_CLASS_SHIFT = 16;
const BASE_CLASS_NETWORK = 0x02;
const BASE_CLASS_BRIDGE = 0x06;
/** Flags of a resource (`<linux/ioport.h>`). */
const IORESOURCE_MEM = 0x200;
const UPPER = 'upper_';
/** Name of a group that VFIO made up, because there is no IOMMU and its enable_unsafe_noiommu_mode is set. */
const NOIOMMU_GROUP_NAME = 'vfio-noiommu';

/** One BAR. */
export interface PciResource {
  /** 0 to 5, and 6 for the expansion ROM. */
  index: number;
  kind: 'memory' | 'io';
  /** Bus address that the firmware or the kernel gave it. */
  start: number;
  /** Bytes. */
  length: number;
}

export interface PciFunction {
  /** `0000:01:00.0` */
  address: string;
  vendorId: number;
  deviceId: number;
  /** Base class, sub class, programming interface: 0x020000 is an Ethernet controller. */
  classCode: number;
  driver: string | null;
  /** The only driver that may take it; null: any that knows it. */
  driverOverride: string | null;
  iommuGroup: number | null;
  /** Null where the kernel does not tell. */
  numaNode: number | null;
  /** Network interfaces that its driver made, in this network namespace. */
  interfaces: string[];
  resources: PciResource[];
}

export const isNetwork = ({ classCode }: PciFunction): boolean => classCode >>> BASE_CLASS_SHIFT === BASE_CLASS_NETWORK;
export const isBridge = ({ classCode }: PciFunction): boolean => classCode >>> BASE_CLASS_SHIFT === BASE_CLASS_BRIDGE;

export class SysfsTree {
  /** Where sysfs is mounted. */
  readonly root: string;

  constructor(root = '/sys') {
    this.root = root;
  }

  get devicesFolder(): string {
    return path.join(this.root, 'bus/pci/devices');
  }

  /** The folder of a function; it need not exist. */
  folder(address: string): string {
    return path.join(this.devicesFolder, address);
  }

  /** All functions, by address; empty on a machine without PCI. One that is removed meanwhile is left out. */
  functions(): PciFunction[] {
    const interfaces = this.#interfaces();
    const found: PciFunction[] = [];
    for (const address of list(this.devicesFolder).filter(isPciAddress).sort()) {
      try {
        found.push(this.#read(address, interfaces));
      } catch (error) {
        if (fs.existsSync(this.folder(address))) throw error;
      }
    }
    return found;
  }

  /** One function, by an address as people write it. Throws Error that names the network functions that there are. */
  function(text: string): PciFunction {
    const address = parsePciAddress(text);
    if (!fs.existsSync(this.folder(address))) {
      const network = this.functions().filter(isNetwork);
      const known = network.map((fn) => fn.address).join(', ') || 'none';
      throw new Error(`${address}: no such PCI function in ${this.devicesFolder}; network functions here: ${known}`);
    }
    return this.#read(address, this.#interfaces());
  }

  /** Everything in an IOMMU group, by address. */
  groupMembers(group: number): PciFunction[] {
    const interfaces = this.#interfaces();
    return list(path.join(this.root, 'kernel/iommu_groups', String(group), 'devices'))
      .filter((address) => isPciAddress(address) && fs.existsSync(this.folder(address)))
      .sort()
      .map((address) => this.#read(address, interfaces));
  }

  /** Whether the group stands for no IOMMU at all: VFIO's no-IOMMU mode. */
  isNoIommuGroup(group: number): boolean {
    return this.#groupFile(group, 'name') === NOIOMMU_GROUP_NAME;
  }

  /** How the kernel runs the group's IOMMU: `identity`, `DMA`, `DMA-FQ`, `blocked`; null where it does not tell. */
  groupType(group: number): string | null {
    return this.#groupFile(group, 'type');
  }

  #groupFile(group: number, name: string): string | null {
    return readOptional(path.join(this.root, 'kernel/iommu_groups', String(group), name));
  }

  /** Whether the kernel has this PCI driver now. */
  hasDriver(name: string): boolean {
    return fs.existsSync(path.join(this.root, 'bus/pci/drivers', name));
  }

  /** What VFIO calls a function of its own, such as `vfio0`: the name of its file for iommufd. */
  vfioNames(address: string): string[] {
    return list(path.join(this.folder(address), 'vfio-dev'));
  }

  /** What modprobe(8) finds a function's driver by. */
  modalias(address: string): string | null {
    return readOptional(path.join(this.folder(address), 'modalias'));
  }

  /** The interface itself and all that stand on it: its bridge, its VLANs, and so on upwards. */
  withUppers(name: string): string[] {
    const all = [name];
    for (const lower of all) {
      for (const entry of list(path.join(this.root, 'class/net', lower))) {
        const upper = entry.slice(UPPER.length);
        if (entry.startsWith(UPPER) && !all.includes(upper)) all.push(upper);
      }
    }
    return all;
  }

  /** Interfaces by the function that has them: the last PCI function on the way to the interface. */
  #interfaces(): Map<string, string[]> {
    const folder = path.join(this.root, 'class/net');
    const byFunction = new Map<string, string[]>();
    for (const name of list(folder).sort()) {
      let place: string;
      try {
        place = fs.realpathSync(path.join(folder, name));
      } catch {
        continue; // It has gone meanwhile.
      }
      const address = place.split(path.sep).findLast(isPciAddress);
      if (address !== undefined) byFunction.set(address, [...(byFunction.get(address) ?? []), name]);
    }
    return byFunction;
  }

  #read(address: string, interfaces: Map<string, string[]>): PciFunction {
    const folder = this.folder(address);
    const override = readOptional(path.join(folder, 'driver_override'));
    const group = linkName(path.join(folder, 'iommu_group'));
    const node = Number(readOptional(path.join(folder, 'numa_node')) ?? -1);
    return {
      address,
      vendorId: readHex(folder, 'vendor'),
      deviceId: readHex(folder, 'device'),
      classCode: readHex(folder, 'class'),
      driver: linkName(path.join(folder, 'driver')),
      // The kernel prints a pointer that is not set as (null).
      driverOverride: override === '' || override === '(null)' ? null : override,
      iommuGroup: group === null ? null : Number(group),
      numaNode: node < 0 ? null : node,
      interfaces: interfaces.get(address) ?? [],
      resources: parseResources(readOptional(path.join(folder, 'resource')) ?? ''),
    };
  }
}

/** `resource` of sysfs: a line `start end flags` for each BAR, all zero where there is none. */
export function parseResources(text: string): PciResource[] {
  const resources: PciResource[] = [];
  for (const [index, line] of text.trim().split('\n').entries()) {
    const [start = 0, end = 0, flags = 0] = line.trim().split(/\s+/).map(Number);
    // The ROM is the last of these; bridges' windows follow it.
    if (index > 6 || flags === 0 || end <= start) continue;
    // Flags of a 64-bit BAR go beyond 32 bits.
    const kind = ((flags % 2 ** 32) & IORESOURCE_MEM) === 0 ? 'io' : 'memory';
    resources.push({ index, kind, start, length: end - start + 1 });
  }
  return resources;
}

function list(folder: string): string[] {
  try {
    return fs.readdirSync(folder);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return [];
    throw error;
  }
}

function readOptional(file: string): string | null {
  try {
    return fs.readFileSync(file, 'latin1').trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

function readHex(folder: string, name: string): number {
  const file = path.join(folder, name);
  const text = fs.readFileSync(file, 'latin1').trim();
  if (!/^0x[0-9a-f]+$/i.test(text))
    throw new Error(`${file}: expected a hexadecimal number, got ${JSON.stringify(text)}`);
  return Number(text);
}

/** The last part of what a link points to; null without a link. */
function linkName(file: string): string | null {
  try {
    return path.basename(fs.readlinkSync(file));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}
