/**
 * A VFIO container with one group in it: the IOMMU's side of a card (Linux, Documentation/driver-api/vfio.rst).
 *
 *     open: /dev/vfio/vfio ─ API version, type 1 ─► /dev/vfio/GROUP ─ viable? ─ SET_CONTAINER ─ SET_IOMMU ─ GET_INFO
 *     use:  deviceFd(), mapDma(), unmapDma()
 *     close: mappings, group, container
 *
 * One page of bus addresses covers each mapping, whatever pages its memory has: that is what the IOMMU is for.
 */
import path from 'node:path';
import {
  EACCES,
  EBUSY,
  EEXIST,
  EFAULT,
  EINVAL,
  ENODEV,
  ENOENT,
  ENOMEM,
  ENOSPC,
  EPERM,
  errnoName,
} from '../../linux/errno.ts';
import { SystemError } from '../../linux/libc.ts';
import { PAGE_SIZE } from '../../linux/mman.ts';
import {
  VFIO_API_VERSION,
  VFIO_CHECK_EXTENSION,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_GET_API_VERSION,
  VFIO_GROUP_FLAGS_VIABLE,
  VFIO_GROUP_GET_DEVICE_FD,
  VFIO_GROUP_GET_STATUS,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_GROUP_STATUS_BYTES,
  VFIO_INFO_CAP_HEADER_BYTES,
  VFIO_IOMMU_GET_INFO,
  VFIO_IOMMU_INFO_CAPS,
  VFIO_IOMMU_MAP_DMA,
  VFIO_IOMMU_TYPE1_DMA_MAP_BYTES,
  VFIO_IOMMU_TYPE1_DMA_UNMAP_BYTES,
  VFIO_IOMMU_TYPE1_INFO_BYTES,
  VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
  VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE_BYTES,
  VFIO_IOMMU_UNMAP_DMA,
  VFIO_IOVA_RANGE_BYTES,
  VFIO_SET_IOMMU,
  VFIO_TYPE1_IOMMU,
  VFIO_TYPE1v2_IOMMU,
} from '../../linux/vfio.ts';
import { holdersOf } from './holders.ts';
import { DEFAULT_RANGES, type IovaRange, IovaSpace } from './iova.ts';
import type { DmaMapping, DmaSource } from './pci-device.ts';
import { isBridge, type PciFunction, type SysfsTree } from './sysfs-tree.ts';
import { linuxVfio, type VfioSystem } from './vfio-system.ts';

export interface VfioOptions {
  /** Where device files are. Default `/dev`. */
  dev?: string;
  system?: VfioSystem;
}

/** Drivers that leave a member of the group to whoever holds the group. */
const HARMLESS_DRIVERS = ['vfio-pci', 'pci-stub'];
const NO_IOMMU_ADVICE =
  'switch the IOMMU on: VT-d or AMD-Vi in the firmware, and intel_iommu=on on the kernel command line of Intel machines';

export class VfioContainer {
  readonly #name: string;
  readonly #system: VfioSystem;
  readonly #group: number;
  readonly #groupPath: string;
  #containerFd = -1;
  #groupFd = -1;
  #iova = new IovaSpace();
  readonly #mapped = new Map<number, number>();

  /** Opens the container of the function's group. Throws Error that says what to do; nothing is left open then. */
  static open(fn: PciFunction, tree: SysfsTree, { dev = '/dev', system = linuxVfio }: VfioOptions = {}): VfioContainer {
    const { address, iommuGroup } = fn;
    if (iommuGroup === null) throw new Error(`${address}: it has no IOMMU group: ${NO_IOMMU_ADVICE}`);
    if (tree.isNoIommuGroup(iommuGroup)) {
      throw new Error(
        `${address}: VFIO runs without an IOMMU here (enable_unsafe_noiommu_mode): ${NO_IOMMU_ADVICE}, or take the card ` +
          `from VFIO (ringswitch nic bind ${address} --driver none) and open it without one`,
      );
    }
    const container = new VfioContainer(address, iommuGroup, dev, system);
    try {
      container.#open(path.join(dev, 'vfio/vfio'), fn, tree);
    } catch (error) {
      container.close();
      throw error;
    }
    return container;
  }

  private constructor(name: string, group: number, dev: string, system: VfioSystem) {
    this.#name = name;
    this.#system = system;
    this.#group = group;
    this.#groupPath = path.join(dev, 'vfio', String(group));
  }

  #open(containerPath: string, fn: PciFunction, tree: SysfsTree): void {
    const system = this.#system;
    this.#containerFd = this.#openFile(containerPath, 'load the module: modprobe vfio-pci');
    const version = this.#check('VFIO_GET_API_VERSION', system.ioctl(this.#containerFd, VFIO_GET_API_VERSION, 0));
    if (version !== VFIO_API_VERSION) {
      throw new Error(`${this.#name}: the kernel's VFIO has version ${version}, expected ${VFIO_API_VERSION}`);
    }
    const type = [VFIO_TYPE1v2_IOMMU, VFIO_TYPE1_IOMMU].find(
      (extension) => system.ioctl(this.#containerFd, VFIO_CHECK_EXTENSION, extension) > 0,
    );
    if (type === undefined) {
      throw new Error(`${this.#name}: the kernel's VFIO has no type 1 IOMMU: modprobe vfio_iommu_type1`);
    }
    this.#groupFd = this.#openFile(this.#groupPath, `bind the card: ringswitch nic bind ${this.#name}`);
    this.#checkViable(fn, tree);
    const container = new Uint8Array(Int32Array.of(this.#containerFd).buffer);
    this.#check(
      'VFIO_GROUP_SET_CONTAINER',
      system.ioctl(this.#groupFd, VFIO_GROUP_SET_CONTAINER, container),
      new Map([[EBUSY, 'another program has the group in a container: stop it']]),
    );
    this.#check(
      'VFIO_SET_IOMMU',
      system.ioctl(this.#containerFd, VFIO_SET_IOMMU, type),
      new Map([
        [
          EPERM,
          'the IOMMU cannot remap interrupts, so that a card could forge them: switch interrupt remapping on in the firmware ' +
            '(or accept that: modprobe vfio_iommu_type1 allow_unsafe_interrupts=1)',
        ],
        [ENODEV, NO_IOMMU_ADVICE],
      ]),
    );
    this.#iova = new IovaSpace(this.#iovaRanges());
  }

  #openFile(file: string, whenMissing: string): number {
    try {
      return this.#system.open(file);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      const { errno } = error;
      const advice = new Map([
        [ENOENT, whenMissing],
        [ENODEV, whenMissing],
        [EACCES, 'run as root, or give this user the file'],
        [EPERM, 'run as root'],
        [EBUSY, `it is open already, by ${holdersOf(file).join(', ') || 'another process'}: stop that`],
      ]).get(errno);
      throw new Error(`${this.#name}: ${file} cannot be opened: ${errnoName(errno)}${advice ? `: ${advice}` : ''}`);
    }
  }

  /** A group belongs to user space as a whole or not at all. */
  #checkViable(fn: PciFunction, tree: SysfsTree): void {
    const status = struct(VFIO_GROUP_STATUS_BYTES);
    this.#check('VFIO_GROUP_GET_STATUS', this.#system.ioctl(this.#groupFd, VFIO_GROUP_GET_STATUS, bytesOf(status)));
    if ((status.getUint32(4, true) & VFIO_GROUP_FLAGS_VIABLE) !== 0) return;
    const kept = tree.groupMembers(this.#group).filter((member) => keepsGroup(member) && member.address !== fn.address);
    const named = kept.map(({ address, driver }) => `${address} (driver ${driver})`).join(', ');
    const commands = kept.map(({ address }) => `ringswitch nic bind ${address}`).join('; ');
    throw new Error(
      `${this.#name}: IOMMU group ${this.#group} is not all user space's: ` +
        (kept.length === 0
          ? `the kernel does not say which member holds it back; see ${tree.root}/kernel/iommu_groups/${this.#group}/devices`
          : `${named} shares it. Bind that to vfio-pci too, or to no driver: ${commands}`),
    );
  }

  /** What VFIO_IOMMU_GET_INFO says can be translated; a guest's IOMMU has 39 or 48 bits. */
  #iovaRanges(): readonly IovaRange[] {
    let info = struct(VFIO_IOMMU_TYPE1_INFO_BYTES);
    this.#check('VFIO_IOMMU_GET_INFO', this.#system.ioctl(this.#containerFd, VFIO_IOMMU_GET_INFO, bytesOf(info)));
    const needed = info.getUint32(0, true);
    if (needed > info.byteLength) {
      info = struct(needed);
      this.#check('VFIO_IOMMU_GET_INFO', this.#system.ioctl(this.#containerFd, VFIO_IOMMU_GET_INFO, bytesOf(info)));
    }
    return parseIovaRanges(info) ?? DEFAULT_RANGES;
  }

  /** The device's descriptor (VFIO_GROUP_GET_DEVICE_FD); the caller closes it before the container. */
  deviceFd(): number {
    const name = Buffer.from(`${this.#name}\0`, 'latin1');
    return this.#check(
      'VFIO_GROUP_GET_DEVICE_FD',
      this.#system.ioctl(this.#groupFd, VFIO_GROUP_GET_DEVICE_FD, name),
      new Map([
        [ENODEV, `it is not bound to vfio-pci: ringswitch nic bind ${this.#name}`],
        [EINVAL, `it is not bound to vfio-pci: ringswitch nic bind ${this.#name}`],
        [EBUSY, 'another program has it open: stop that'],
      ]),
    );
  }

  /** VFIO_IOMMU_MAP_DMA, for reading and writing. The kernel pins the memory. */
  mapDma({ address, length }: DmaSource): DmaMapping {
    const tried = `${length} bytes at 0x${address.toString(16)}`;
    if (length <= 0 || length % PAGE_SIZE !== 0 || address % PAGE_SIZE !== 0) {
      throw new Error(`${this.#name}: ${tried} cannot be mapped for DMA: expected whole pages of ${PAGE_SIZE} bytes`);
    }
    const iova = this.#iova.allocate(length);
    const map = struct(VFIO_IOMMU_TYPE1_DMA_MAP_BYTES);
    map.setUint32(4, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE, true);
    map.setBigUint64(8, BigInt(address), true);
    map.setBigUint64(16, BigInt(iova), true);
    map.setBigUint64(24, BigInt(length), true);
    const result = this.#system.ioctl(this.#containerFd, VFIO_IOMMU_MAP_DMA, bytesOf(map));
    if (result < 0) {
      this.#iova.free(iova);
      const advice = new Map([
        [
          ENOMEM,
          'this process may not lock so much memory: raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK= of systemd) or run as root',
        ],
        [ENOSPC, 'the kernel takes no more mappings: raise dma_entry_limit of the module vfio_iommu_type1'],
        [EFAULT, 'no memory is mapped there'],
        [EEXIST, 'the bus addresses are in use: this is a bug of ringswitch'],
        [EINVAL, `the IOMMU does not reach bus address 0x${iova.toString(16)}`],
      ]);
      this.#check(`VFIO_IOMMU_MAP_DMA of ${tried}`, result, advice);
    }
    this.#mapped.set(iova, length);
    return { pageBytes: length, pages: [iova] };
  }

  /** VFIO_IOMMU_UNMAP_DMA of what {@link VfioContainer.mapDma} gave. */
  unmapDma({ pages, pageBytes }: DmaMapping): void {
    const iova = pages[0] ?? -1;
    const length = this.#mapped.get(iova);
    if (pages.length !== 1 || length !== pageBytes) {
      throw new Error(`${this.#name}: bus address 0x${iova.toString(16)} is not mapped`);
    }
    const unmap = struct(VFIO_IOMMU_TYPE1_DMA_UNMAP_BYTES);
    unmap.setBigUint64(8, BigInt(iova), true);
    unmap.setBigUint64(16, BigInt(length), true);
    this.#check('VFIO_IOMMU_UNMAP_DMA', this.#system.ioctl(this.#containerFd, VFIO_IOMMU_UNMAP_DMA, bytesOf(unmap)));
    this.#mapped.delete(iova);
    this.#iova.free(iova);
  }

  /** Closes group and container, with all that is mapped. May be called twice. */
  close(): void {
    // The kernel takes the mappings away with the last file of the container.
    this.#mapped.clear();
    for (const fd of [this.#groupFd, this.#containerFd]) if (fd >= 0) this.#system.close(fd);
    this.#groupFd = -1;
    this.#containerFd = -1;
  }

  #check(what: string, result: number, advice = new Map<number, string>()): number {
    if (result >= 0) return result;
    throw vfioError(this.#name, what, -result, advice.get(-result));
  }
}

/** `0000:01:00.0: VFIO_SET_IOMMU failed: EPERM: what to do` */
export function vfioError(name: string, what: string, errno: number, advice?: string): Error {
  return new Error(`${name}: ${what} failed: ${errnoName(errno)}${advice ? `: ${advice}` : ''}`);
}

/** A struct of so many bytes whose first word, argsz, says so. */
export function struct(bytes: number): DataView {
  const view = new DataView(new ArrayBuffer(bytes));
  view.setUint32(0, bytes, true);
  return view;
}

export const bytesOf = ({ buffer, byteOffset, byteLength }: DataView): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

/** Whether a member of a group keeps the group from user space: one that a driver of the kernel has. Bridges do not. */
export const keepsGroup = (member: PciFunction): boolean =>
  member.driver !== null && !HARMLESS_DRIVERS.includes(member.driver) && !isBridge(member);

/** The ranges in struct vfio_iommu_type1_info; null where the kernel does not tell. */
export function parseIovaRanges(info: DataView): IovaRange[] | null {
  if ((info.getUint32(4, true) & VFIO_IOMMU_INFO_CAPS) === 0) return null;
  let at = info.getUint32(16, true);
  // Each capability is further on than the one before: a chain that turns back would not end.
  while (at >= VFIO_IOMMU_TYPE1_INFO_BYTES && at + VFIO_INFO_CAP_HEADER_BYTES <= info.byteLength) {
    const next = info.getUint32(at + 4, true);
    if (info.getUint16(at, true) === VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE) return rangesAt(info, at);
    if (next <= at) return null;
    at = next;
  }
  return null;
}

function rangesAt(info: DataView, at: number): IovaRange[] | null {
  const first = at + VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE_BYTES;
  if (first > info.byteLength) return null;
  const count = info.getUint32(at + VFIO_INFO_CAP_HEADER_BYTES, true);
  const ranges: IovaRange[] = [];
  for (let i = 0; i < count && first + (i + 1) * VFIO_IOVA_RANGE_BYTES <= info.byteLength; i++) {
    const range = first + i * VFIO_IOVA_RANGE_BYTES;
    ranges.push({ start: info.getBigUint64(range, true), end: info.getBigUint64(range + 8, true) });
  }
  return ranges.length > 0 ? ranges : null;
}
