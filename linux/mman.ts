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
export const MADV_DONTNEED = 4;
export const MADV_NOHUGEPAGE = 15;
export const MFD_CLOEXEC = 0x1;
const MFD_ALLOW_SEALING = 0x2;
const MFD_HUGETLB = 0x4;
const MFD_HUGE_2MB = 21 << 26;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
const F_SEAL_SHRINK = 0x0002;
export const PAGE_SIZE = 4096;

const c = {
  mmap: libcFunction('int64_t mmap(uintptr_t address, size_t length, int prot, int flags, int fd, int64_t offset)'),
  munmap: libcFunction('int munmap(uintptr_t address, size_t length)'),
  madvise: libcFunction('int madvise(uintptr_t address, size_t length, int advice)'),
  memcpy: libcFunction('void memcpy(uintptr_t to, uintptr_t from, size_t count)'),
  memfd_create: libcFunction('int memfd_create(const char *name, unsigned int flags)'),
  fcntl: libcFunction('int fcntl(int fd, int command, long argument)'),
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

/** madvise(2). */
export function madvise(address: Address, length: number, advice: number): void {
  check(c.madvise(address, length, advice), 'madvise', { address, length, advice });
}

/** memcpy(3) between addresses of this process. Nothing is checked: the caller has validated both ranges. */
export const memcpy = c.memcpy as unknown as (to: Address, from: Address, count: number) => void;

/**
 * Seals a shared file against shrinking (F_SEAL_SHRINK, fcntl(2)). False where that cannot be: it is no memfd, or was
 * made without MFD_ALLOW_SEALING. Whoever maps it then depends on its owner: beyond the end of a file there is SIGBUS.
 */
export function sealAgainstShrinking(fd: number): boolean {
  const seals = c.fcntl(fd, F_GET_SEALS, 0);
  if (seals < 0) return false;
  return (seals & F_SEAL_SHRINK) !== 0 || c.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) === 0;
}

/** memfd_create(2), close-on-exec, grown to `size` bytes; of hugepages of 2 MiB where asked for. */
export function memfd(name: string, size: number, hugepages = false): number {
  return makeMemfd(name, size, hugepages ? MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB : MFD_CLOEXEC);
}

/** {@link memfd} that nobody can shrink any more, so that whoever maps it need not fear SIGBUS. */
export function sealedMemfd(name: string, size: number): number {
  const fd = makeMemfd(name, size, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  sealAgainstShrinking(fd);
  return fd;
}

function makeMemfd(name: string, size: number, flags: number): number {
  const fd = check(c.memfd_create(name, flags), 'memfd_create', { name });
  if (c.ftruncate(fd, size) === 0) return fd;
  const errno = lastErrno();
  close(fd);
  throw new SystemError('ftruncate', errno, { fd, size });
}
