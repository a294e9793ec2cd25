/** Memory mappings: `<sys/mman.h>`. Addresses are numbers, lengths are bytes. */
import { close } from './file.ts';
import { type Address, check, lastErrno, libcFunction, SystemError } from './libc.ts';

export const PROT_NONE = 0x0;
export const PROT_READ = 0x1;
export const PROT_WRITE = 0x2;
export const MAP_SHARED = 0x01;
export const MAP_PRIVATE = 0x02;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_NORESERVE = 0x4000;
export const MFD_CLOEXEC = 0x1;
export const PAGE_SIZE = 4096;

const c = {
  mmap: libcFunction('int64_t mmap(uintptr_t address, size_t length, int prot, int flags, int fd, int64_t offset)'),
  munmap: libcFunction('int munmap(uintptr_t address, size_t length)'),
  memcpy: libcFunction('void memcpy(uintptr_t to, uintptr_t from, size_t count)'),
  memfd_create: libcFunction('int memfd_create(const char *name, unsigned int flags)'),
  ftruncate: libcFunction('int ftruncate(int fd, int64_t length)'),
};

export interface MmapOptions {
  /** Where, with MAP_FIXED; 0 lets the kernel choose. */
  address?: Address;
  length: number;
  prot: number;
  flags: number;
  /** -1 with MAP_ANONYMOUS. */
  fd?: number;
  /** Bytes into the file, a multiple of the page size. */
  offset?: number;
}

/** mmap(2); gives the address. */
export function mmap({ address = 0, length, prot, flags, fd = -1, offset = 0 }: MmapOptions): Address {
  const result = c.mmap(address, length, prot, flags, fd, offset);
  if (result === -1) throw new SystemError('mmap', lastErrno(), { address, length, prot, flags, fd, offset });
  return result;
}

/** munmap(2). */
export function munmap(address: Address, length: number): void {
  check(c.munmap(address, length), 'munmap', { address, length });
}

/** memcpy(3) between addresses of this process. Nothing is checked: the caller has validated both ranges. */
export const memcpy = c.memcpy as unknown as (to: Address, from: Address, count: number) => void;

/** memfd_create(2), close-on-exec, grown to `size` bytes. */
export function memfd(name: string, size: number): number {
  const fd = check(c.memfd_create(name, MFD_CLOEXEC), 'memfd_create', { name });
  if (c.ftruncate(fd, size) === 0) return fd;
  const errno = lastErrno();
  close(fd);
  throw new SystemError('ftruncate', errno, { fd, size });
}
