/** Files of hugepages: the kernel is asked for a few, and gets them back. */
import fs from 'node:fs';
import { close } from '../../linux/file.ts';
import { check, libcFunction } from '../../linux/libc.ts';

export const HUGEPAGE_BYTES = 2 ** 21;
const POOL = '/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages';

// <sys/mman.h>, <linux/memfd.h>
const MFD_CLOEXEC = 1;
const MFD_HUGETLB = 4;
const MFD_HUGE_2MB = 21 << 26;
const memfdCreate = libcFunction('int memfd_create(const char *name, unsigned int flags)');
const ftruncate = libcFunction('int ftruncate(int fd, int64_t length)');

const pool = (): number => Number(fs.readFileSync(POOL, 'latin1'));

/** Runs `use` with a file of `pages` hugepages of 2 MiB, which the pool grows by meanwhile. */
export function withHugepages(pages: number, use: (fd: number, bytes: number) => void): void {
  const before = pool();
  fs.writeFileSync(POOL, String(before + pages));
  try {
    if (pool() < before + pages) {
      throw new Error(`the kernel has no ${pages} hugepages of 2 MiB (${POOL} stays at ${pool()}): free some memory`);
    }
    const bytes = pages * HUGEPAGE_BYTES;
    const fd = check(memfdCreate('huge', MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB), 'memfd_create', { pages });
    try {
      check(ftruncate(fd, bytes), 'ftruncate', { fd, bytes });
      use(fd, bytes);
    } finally {
      close(fd);
    }
  } finally {
    fs.writeFileSync(POOL, String(Math.max(0, pool() - pages)));
  }
}
