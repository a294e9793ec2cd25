/** A client process with mappings of every kind; says where they are, and lives until its input ends. */

import { viewMemory } from '../../linux/libc.ts';
import {
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  MAP_SHARED,
  memfd,
  mmap,
  PAGE_SIZE,
  PROT_NONE,
  PROT_READ,
  PROT_WRITE,
} from '../../linux/mman.ts';

export interface ClientLayout {
  pid: number;
  /** Pages: 0, 1 shared; 2 of the same file further on; 3 of another file; 4 private; 5 read-only; 7 private of a file; else none. */
  base: number;
  /** A descriptor of its own, for pidfd_getfd. */
  fd: number;
}

const prot = PROT_READ | PROT_WRITE;
const base = mmap({ length: 16 * PAGE_SIZE, prot: PROT_NONE, flags: MAP_PRIVATE | MAP_ANONYMOUS });
const first = memfd('first', 8 * PAGE_SIZE);
const second = memfd('second', 8 * PAGE_SIZE);
const at = (page: number): number => base + page * PAGE_SIZE;
const shared = MAP_SHARED | MAP_FIXED;
mmap({ address: at(0), length: 2 * PAGE_SIZE, prot, flags: shared, fd: first });
mmap({ address: at(2), length: PAGE_SIZE, prot, flags: shared, fd: first, offset: 5 * PAGE_SIZE });
mmap({ address: at(3), length: PAGE_SIZE, prot, flags: shared, fd: second, offset: PAGE_SIZE });
mmap({ address: at(4), length: PAGE_SIZE, prot, flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED });
mmap({ address: at(5), length: PAGE_SIZE, prot: PROT_READ, flags: shared, fd: second });
mmap({ address: at(7), length: PAGE_SIZE, prot, flags: MAP_PRIVATE | MAP_FIXED, fd: second });
for (const page of [0, 1, 2, 3, 4, 7]) new Uint8Array(viewMemory(at(page), PAGE_SIZE)).fill(0xa0 + page);

const layout: ClientLayout = { pid: process.pid, base, fd: first };
process.stdout.write(`${JSON.stringify(layout)}\n`);
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
