import assert from 'node:assert/strict';
import fs from 'node:fs';
import { close } from '../../linux/file.ts';
import { viewMemory } from '../../linux/libc.ts';
import {
  MADV_DONTNEED,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  MAP_SHARED,
  madvise,
  memcpy,
  memfd,
  mmap,
  munmap,
  PAGE_SIZE,
  PROT_READ,
  PROT_WRITE,
} from '../../linux/mman.ts';
import { memoryAreas } from '../../linux/process.ts';
import { failsWith } from '../helpers/system-error.ts';

const prot = PROT_READ | PROT_WRITE;
const hex = (n: number): string => `0x${n.toString(16)}`;

describe('memory mappings', () => {
  it('share a memfd, from its offset, at a fixed place too', () => {
    const fd = memfd('test', 3 * PAGE_SIZE);
    assert.equal(fs.fstatSync(fd).size, 3 * PAGE_SIZE);
    const all = mmap({ length: 3 * PAGE_SIZE, prot, flags: MAP_SHARED, fd });
    const room = mmap({ length: 2 * PAGE_SIZE, prot, flags: MAP_PRIVATE | MAP_ANONYMOUS });
    const fixed = mmap({
      address: room + PAGE_SIZE,
      length: PAGE_SIZE,
      prot,
      flags: MAP_SHARED | MAP_FIXED,
      fd,
      offset: 2 * PAGE_SIZE,
    });
    assert.equal(fixed, room + PAGE_SIZE);
    close(fd);
    new Uint8Array(viewMemory(all + 2 * PAGE_SIZE, 3)).set([1, 2, 3]);
    assert.deepEqual([...new Uint8Array(viewMemory(fixed, 3))], [1, 2, 3]);
    memcpy(room + 10, fixed + 1, 2);
    assert.deepEqual([...new Uint8Array(viewMemory(room + 9, 4))], [0, 2, 3, 0]);
    munmap(all, 3 * PAGE_SIZE);
    munmap(room, 2 * PAGE_SIZE);
    const left = memoryAreas(process.pid).filter((one) => one.start < room + 2 * PAGE_SIZE && one.end > room);
    assert.deepEqual(left, []);
  });

  it('give pages back by advice, and say so when there are none', () => {
    const length = 2 * PAGE_SIZE;
    const address = mmap({ length, prot, flags: MAP_PRIVATE | MAP_ANONYMOUS });
    const bytes = new Uint8Array(viewMemory(address, length)).fill(1);
    madvise(address + PAGE_SIZE, PAGE_SIZE, MADV_DONTNEED);
    assert.deepEqual([bytes[PAGE_SIZE - 1], bytes[PAGE_SIZE]], [1, 0]);
    munmap(address, length);
    failsWith('ENOMEM', 'madvise', `address=${hex(address)}, length=8192, advice=4`, () =>
      madvise(address, length, MADV_DONTNEED),
    );
  });

  it('name call, arguments and reason when they fail', () => {
    failsWith('EBADF', 'mmap', 'address=0, length=4096, prot=3, flags=1, fd=-1, offset=0', () =>
      mmap({ length: PAGE_SIZE, prot, flags: MAP_SHARED }),
    );
    failsWith('EINVAL', 'munmap', 'address=1, length=4096', () => munmap(1, PAGE_SIZE));
    const before = fs.readdirSync('/proc/self/fd').length;
    failsWith('EINVAL', 'memfd_create', `name="${'n'.repeat(250)}"`, () => memfd('n'.repeat(250), 1));
    assert.throws(() => memfd('negative', -1), /^SystemError: ftruncate\(fd=\d+, size=-1\) failed: EINVAL$/);
    assert.equal(fs.readdirSync('/proc/self/fd').length, before, 'the descriptor of a failed memfd is closed');
    failsWith('EINVAL', 'mmap', `address=${hex(PAGE_SIZE * 16 + 1)}, length=0, prot=3, flags=34, fd=-1, offset=0`, () =>
      mmap({ address: PAGE_SIZE * 16 + 1, length: 0, prot, flags: MAP_PRIVATE | MAP_ANONYMOUS }),
    );
  });
});
