/** The system calls of VFIO: one place to stand in for the kernel, since few machines have a card and an IOMMU. */
import { close, O_RDWR, open, pread, pwrite } from '../../linux/file.ts';
import { tryIoctl } from '../../linux/ioctl.ts';
import type { Address } from '../../linux/libc.ts';
import { MAP_SHARED, mmap, munmap, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';

export interface VfioSystem {
  /** open(2) for reading and writing. Throws SystemError. */
  open(path: string): number;
  close(fd: number): void;
  /** ioctl(2): the result, or the negative errno. */
  ioctl(fd: number, request: number, argument: Uint8Array | number): number;
  pread(fd: number, buffer: Uint8Array, offset: number): number;
  pwrite(fd: number, buffer: Uint8Array, offset: number): number;
  /** mmap(2), shared, to read and write. Throws SystemError. */
  map(fd: number, length: number, offset: number): Address;
  unmap(address: Address, length: number): void;
}

export const linuxVfio: VfioSystem = {
  open: (path) => open(path, O_RDWR),
  close,
  ioctl: tryIoctl,
  pread,
  pwrite,
  map: (fd, length, offset) => mmap({ fd, length, offset, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED }),
  unmap: munmap,
};
