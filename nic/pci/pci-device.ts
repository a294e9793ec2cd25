/**
 * A PCI function that this process owns: what a driver needs of it, however it is reached (VFIO, sysfs, vfio-user).
 *
 * Addresses that the card uses are bus addresses: what {@link PciDevice.mapDma} gives, not addresses of this process.
 */
import type { Address } from '../../linux/libc.ts';

/** 32-bit registers of a memory BAR, by byte offset. Reading a card that is gone gives all ones. */
export interface RegisterSpace {
  read32(offset: number): number;
  write32(offset: number, value: number): void;
}

/** How another thread of this process reaches the registers of BAR 0: plain data that a message can carry. */
export type RegisterAccess =
  | { kind: 'mapped'; address: Address; length: number }
  /** A connected vfio-user socket: 32-bit writes only, each one message without a reply. */
  | { kind: 'vfio-user'; socket: number };

/** Shared memory that a card is to reach: a memfd (or hugetlbfs memfd), mapped in this process at `address`. */
export interface DmaSource {
  fd: number;
  address: Address;
  /** A multiple of the page size. */
  length: number;
}

/**
 * Where the card sees a {@link DmaSource}: `pageBytes` at each of these bus addresses. One page that covers all, behind an
 * IOMMU; a hugepage each without.
 */
export interface DmaMapping {
  pageBytes: number;
  pages: number[];
}

export interface PciDevice {
  /** `0000:01:00.0`, or what was asked for, for messages. */
  readonly name: string;
  readonly vendorId: number;
  readonly deviceId: number;
  /** BAR 0. */
  readonly registers: RegisterSpace;
  readonly registerAccess: RegisterAccess;
  /** Vectors of the MSI-X capability; 0 when it has none. */
  readonly interruptVectors: number;
  /** The memory for {@link mapDma} must come from hugepages of 2 MiB: there is no IOMMU. */
  readonly needsHugepages: boolean;
  /** Reads 1, 2 or 4 bytes of configuration space. */
  readConfig(offset: number, bytes: 1 | 2 | 4): number;
  writeConfig(offset: number, bytes: 1 | 2 | 4, value: number): void;
  /** Lets the card reach memory. Throws Error that says why it cannot. */
  mapDma(source: DmaSource): DmaMapping;
  /** Takes memory back; the card must not use it any more. */
  unmapDma(mapping: DmaMapping): void;
  /** Has MSI-X vector i signal eventfd `eventfds[i]`; null leaves it out. Replaces what was set before. */
  setInterrupts(eventfds: readonly (number | null)[]): void;
  /** Lets the card master the bus (Command register bit 2), or no longer. */
  setBusMaster(on: boolean): void;
  /** Resets the function (FLR, or VFIO_DEVICE_RESET) where that is possible; false where it is not. */
  reset(): boolean;
  /** Gives the card back: no DMA, no interrupts, nothing mapped. May be called twice. */
  close(): void;
}
