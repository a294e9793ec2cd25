/**
 * A card through sysfs (`resource0`, `config`), where there is no IOMMU: it is told physical addresses, and nothing keeps it
 * to them. So its memory is hugepages, which stay where they are, and it has to be asked for: {@link WITHOUT_IOMMU_RISK}.
 *
 * No interrupts: whoever drives it polls.
 */
import fs from 'node:fs';
import path from 'node:path';
import { close, O_RDONLY, O_RDWR, open, pread, pwrite, tryLock } from '../../linux/file.ts';
import { SystemError, viewMemory } from '../../linux/libc.ts';
import { MAP_SHARED, mmap, munmap, PAGE_SIZE, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';
import { ConfigSpace, PCI_COMMAND_INTX_DISABLE, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY } from './config-space.ts';
import { MappedRegisters } from './mapped-registers.ts';
import type { DmaMapping, DmaSource, PciDevice, RegisterAccess, RegisterSpace } from './pci-device.ts';
import { type PciFunction, SysfsTree } from './sysfs-tree.ts';

export const WITHOUT_IOMMU_RISK =
  'without an IOMMU a bug, or a hostile card, can read and write anywhere in the memory of this host';

/** The drivers that do not drive: a card of theirs is free. */
const IDLE_DRIVERS = ['uio_pci_generic', 'igb_uio', 'pci-stub'];
/** Its bus addresses are physical ones (`type` of an IOMMU group). */
const GROUP_TYPE_IDENTITY = 'identity';
export const HUGEPAGE_BYTES = 2 ** 21;
const SMALL_PAGES = HUGEPAGE_BYTES / PAGE_SIZE;
/** Entries of /proc/PID/pagemap (Linux, Documentation/admin-guide/mm/pagemap.rst). */
const PAGEMAP_ENTRY_BYTES = 8;
const PAGEMAP_PRESENT = 1n << 63n;
const PAGEMAP_PFN = (1n << 55n) - 1n;
/** HUGETLBFS_MAGIC (`<linux/magic.h>`). */
const HUGETLBFS_MAGIC = 0x958458f6;

export interface SysfsDeviceOptions {
  /** Must be true: see {@link WITHOUT_IOMMU_RISK}. */
  withoutIommu?: boolean;
  tree?: SysfsTree;
  /** Where this process's page frames are told. Default `/proc/self/pagemap`. */
  pagemap?: string;
}

export class SysfsDevice implements PciDevice {
  readonly name: string;
  readonly vendorId: number;
  readonly deviceId: number;
  readonly interruptVectors = 0;
  readonly needsHugepages = true;
  readonly #folder: string;
  readonly #pagemap: string;
  readonly #configFd: number;
  readonly #config: ConfigSpace;
  readonly #registers: MappedRegisters;
  readonly #mapped = new Set<number>();
  /** What to write to give the card back as it was. */
  readonly #enabledHere: boolean;
  #closed = false;

  /** Opens the function at `address`. Throws Error that says what to do; nothing is left open or mapped then. */
  static open(
    address: string,
    { withoutIommu = false, tree = new SysfsTree(), pagemap = '/proc/self/pagemap' }: SysfsDeviceOptions = {},
  ): SysfsDevice {
    const fn = tree.function(address);
    if (!withoutIommu) {
      throw new Error(
        `${fn.address}: refused: ${WITHOUT_IOMMU_RISK}. Bind it to vfio-pci (ringswitch nic bind ${fn.address}), or ask for ` +
          'it: withoutIommu: true',
      );
    }
    if (fn.driver !== null && !IDLE_DRIVERS.includes(fn.driver)) {
      throw new Error(`${fn.address}: ${fn.driver} drives it: ringswitch nic bind ${fn.address} --driver none`);
    }
    const type = fn.iommuGroup === null ? GROUP_TYPE_IDENTITY : tree.groupType(fn.iommuGroup);
    if (type !== GROUP_TYPE_IDENTITY) {
      throw new Error(
        `${fn.address}: an IOMMU stands before it (group ${fn.iommuGroup}, ${type ?? 'type not told'}) that does not know ` +
          `physical addresses: bind it to vfio-pci instead (ringswitch nic bind ${fn.address})`,
      );
    }
    const folder = tree.folder(fn.address);
    let configFd = -1;
    let enabledHere = false;
    try {
      configFd = openFile(fn.address, path.join(folder, 'config'));
      if (!tryLock(configFd)) throw new Error(`${fn.address}: another process has it: stop that`);
      enabledHere = enable(folder);
      return new SysfsDevice(fn, folder, pagemap, configFd, enabledHere);
    } catch (error) {
      if (enabledHere) fs.writeFileSync(path.join(folder, 'enable'), '0');
      if (configFd >= 0) close(configFd);
      throw error;
    }
  }

  private constructor(fn: PciFunction, folder: string, pagemap: string, configFd: number, enabledHere: boolean) {
    const { address } = fn;
    this.name = address;
    this.vendorId = fn.vendorId;
    this.deviceId = fn.deviceId;
    this.#folder = folder;
    this.#pagemap = pagemap;
    this.#configFd = configFd;
    this.#enabledHere = enabledHere;
    const bar = fn.resources.find(({ index, kind }) => index === 0 && kind === 'memory');
    if (bar === undefined || bar.length % PAGE_SIZE !== 0) {
      throw new Error(
        `${address}: its BAR 0, of ${bar?.length ?? 0} bytes, cannot be mapped: this is no card of the 82599's family`,
      );
    }
    this.#config = new ConfigSpace(
      address,
      {
        pread: (buffer, offset) => pread(configFd, buffer, offset),
        pwrite: (buffer, offset) => pwrite(configFd, buffer, offset),
      },
      fs.statSync(path.join(folder, 'config')).size,
    );
    // A card whose last owner was killed may still be writing to memory that is no longer its own.
    this.#config.changeCommand(PCI_COMMAND_MASTER, false);
    // A pin interrupt would have nobody to take it.
    this.#config.changeCommand(PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE, true);
    this.#registers = new MappedRegisters(
      address,
      mapBar(address, path.join(folder, 'resource0'), bar.length),
      bar.length,
    );
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

  /** The physical address of each hugepage. They do not move, and are never written to swap. */
  mapDma({ fd, address, length }: DmaSource): DmaMapping {
    this.#checkOpen();
    const tried = `${this.name}: ${length} bytes at 0x${address.toString(16)} cannot be used for DMA`;
    if (length <= 0 || length % HUGEPAGE_BYTES !== 0 || address % HUGEPAGE_BYTES !== 0) {
      throw new Error(`${tried}: expected whole hugepages of ${HUGEPAGE_BYTES} bytes`);
    }
    const { type, bsize } = fs.statfsSync(`/proc/self/fd/${fd}`);
    if (type !== HUGETLBFS_MAGIC || bsize !== HUGEPAGE_BYTES) {
      throw new Error(
        `${tried}: without an IOMMU it must be hugepages of 2 MiB, and this file's pages have ${bsize} bytes: ` +
          'give the machine hugepages (sysctl vm.nr_hugepages)',
      );
    }
    const bytes = new Uint8Array(viewMemory(address, length));
    // A page is there once it was touched; an addition of nothing keeps what others have written meanwhile.
    for (let at = 0; at < length; at += HUGEPAGE_BYTES) Atomics.add(bytes, at, 0);
    const pages = physicalPages(this.#pagemap, address, length, tried);
    for (const page of pages) this.#mapped.add(page);
    return { pageBytes: HUGEPAGE_BYTES, pages };
  }

  /** Forgets the pages. Without an IOMMU nothing can be taken from the card: it must have been stopped. */
  unmapDma({ pages }: DmaMapping): void {
    this.#checkOpen();
    const unknown = pages.find((page) => !this.#mapped.has(page));
    if (unknown !== undefined)
      throw new Error(`${this.name}: physical address 0x${unknown.toString(16)} is not mapped`);
    for (const page of pages) this.#mapped.delete(page);
  }

  setInterrupts(eventfds: readonly (number | null)[]): void {
    this.#checkOpen();
    if (eventfds.some((fd) => fd !== null)) {
      throw new Error(`${this.name}: it has no interrupts without VFIO: poll it, or bind it to vfio-pci`);
    }
  }

  setBusMaster(on: boolean): void {
    this.#checkOpen();
    this.#config.changeCommand(PCI_COMMAND_MASTER, on);
  }

  /** By sysfs's own `reset`, which keeps the configuration space as it was. */
  reset(): boolean {
    this.#checkOpen();
    const file = path.join(this.#folder, 'reset');
    if (!fs.existsSync(file)) return false;
    fs.writeFileSync(file, '1');
    return true;
  }

  close(): void {
    if (this.#closed) return;
    try {
      this.#config.changeCommand(PCI_COMMAND_MASTER, false);
    } catch {
      // The card is gone.
    }
    this.#closed = true;
    const { address, length } = this.#registers.access;
    this.#registers.detach();
    munmap(address, length);
    if (this.#enabledHere) {
      try {
        fs.writeFileSync(path.join(this.#folder, 'enable'), '0');
      } catch {
        // The card is gone.
      }
    }
    close(this.#configFd);
  }

  #checkOpen(): void {
    if (this.#closed) throw new Error(`${this.name}: the card is closed`);
  }
}

function openFile(name: string, file: string): number {
  try {
    return open(file, O_RDWR);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    throw new Error(
      `${name}: ${file} cannot be opened: ${error.code}: run as root, in a container that may write sysfs`,
    );
  }
}

/** Has the kernel switch the function on: true when it was off. It counts, so what is on stays on at the end. */
function enable(folder: string): boolean {
  const file = path.join(folder, 'enable');
  if (fs.readFileSync(file, 'latin1').trim() !== '0') return false;
  fs.writeFileSync(file, '1');
  return true;
}

function mapBar(name: string, file: string, length: number): number {
  let fd = -1;
  try {
    fd = openFile(name, file);
    return mmap({ fd, length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED });
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    throw new Error(
      `${name}: ${file} cannot be mapped: ${error.code}: a kernel that is locked down (Secure Boot) refuses it: use vfio-pci`,
    );
  } finally {
    if (fd >= 0) close(fd);
  }
}

/** Where each hugepage of a range stands. Throws Error where the kernel hides that, or a page is not in one piece. */
function physicalPages(pagemap: string, address: number, length: number, tried: string): number[] {
  const fd = open(pagemap, O_RDONLY);
  try {
    const entries = new BigUint64Array(SMALL_PAGES);
    const pages: number[] = [];
    for (let at = address; at < address + length; at += HUGEPAGE_BYTES) {
      const done = pread(fd, new Uint8Array(entries.buffer), (at / PAGE_SIZE) * PAGEMAP_ENTRY_BYTES);
      if (done !== entries.byteLength) throw new Error(`${tried}: ${pagemap} ends before it`);
      if (entries.some((entry) => (entry & PAGEMAP_PRESENT) === 0n)) throw new Error(`${tried}: it is not in memory`);
      const first = entries[0]! & PAGEMAP_PFN;
      // Frame 0 is the first of the machine's memory, and never a process's.
      if (first === 0n) {
        throw new Error(`${tried}: ${pagemap} hides the frame numbers: run as root, or with CAP_SYS_ADMIN`);
      }
      if (entries.some((entry, i) => (entry & PAGEMAP_PFN) !== first + BigInt(i))) {
        throw new Error(`${tried}: it is not in one piece`);
      }
      pages.push(Number(first) * PAGE_SIZE);
    }
    return pages;
  } finally {
    close(fd);
  }
}
