import assert from 'node:assert/strict';
import fs from 'node:fs';
import {
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  madvise,
  mmap,
  munmap,
  PAGE_SIZE,
  PROT_READ,
  PROT_WRITE,
} from '../../linux/mman.ts';
import {
  type ClientMemory,
  fetchClientMemory,
  isPrivate,
  isReachable,
  type MemoryRegion,
  privateBytes,
  release,
  sharedBytes,
} from '../../memory/client-memory.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import { wasmArena } from '../helpers/arenas.ts';
import { ClientProcess } from '../helpers/client-process.ts';

/** `<sys/mman.h>`. */
const MADV_DONTFORK = 10;

const openDescriptors = (): number => fs.readdirSync('/proc/self/fd').length;

describe('client memory', () => {
  let client: ClientProcess;
  let base: number;
  let pid: number;
  const fetched: ClientMemory[] = [];

  before(async () => {
    client = await ClientProcess.start();
    ({ base, pid } = client.layout);
  });
  after(() => client.stop());
  afterEach(() => {
    for (const memory of fetched.splice(0)) release(memory);
  });

  const region = (page: number, pages: number, guestAddress = 0): MemoryRegion => ({
    guestAddress,
    size: pages * PAGE_SIZE,
    userAddress: base + page * PAGE_SIZE,
  });
  const fetch = (...regions: MemoryRegion[]): ClientMemory => {
    const memory = fetchClientMemory(pid, regions);
    fetched.push(memory);
    return memory;
  };
  const pagesOf = (memory: ClientMemory): [number, number, number][] =>
    memory.areas.map(({ userAddress, length, offset }) => [
      (userAddress - base) / PAGE_SIZE,
      length / PAGE_SIZE,
      offset / PAGE_SIZE,
    ]);

  it('finds the shared writable mappings, with offsets, and one descriptor for each file', () => {
    const memory = fetch(region(0, 16));
    assert.deepEqual(pagesOf(memory), [
      [0, 2, 0],
      [2, 1, 5],
      [3, 1, 1],
    ]);
    const [first, again, second] = memory.areas.map((area) => area.fd);
    assert.equal(first, again);
    assert.notEqual(first, second);
    assert.equal(sharedBytes(memory), 4 * PAGE_SIZE);
  });

  it('leaves read-only mappings out, and what is none', () => {
    for (const page of [5, 6, 8]) {
      const memory = fetch(region(page, 1));
      assert.deepEqual([memory.areas, memory.copied], [[], undefined], `page ${page}`);
      assert.deepEqual([sharedBytes(memory), privateBytes(memory)], [0, 0]);
    }
  });

  it('notes the pages of private mappings that regions touch', () => {
    const memory = fetch(region(3, 1), { ...region(4, 0), size: 100, userAddress: base + 4 * PAGE_SIZE + 50 });
    assert.deepEqual(memory.copied, { pid, areas: [{ userAddress: base + 4 * PAGE_SIZE, length: PAGE_SIZE }] });
    assert.deepEqual(pagesOf(memory), [[3, 1, 1]]);
    assert.deepEqual([sharedBytes(memory), privateBytes(memory)], [PAGE_SIZE, 100]);
    assert.equal(fetch(region(0, 4)).copied, undefined);
    assert.deepEqual(fetch(region(7, 1)).copied?.areas, [{ userAddress: base + 7 * PAGE_SIZE, length: PAGE_SIZE }]);
  });

  it('joins private parts that touch, and keeps others apart', () => {
    const length = 8 * PAGE_SIZE;
    const start = mmap({ length, prot: PROT_READ | PROT_WRITE, flags: MAP_PRIVATE | MAP_ANONYMOUS });
    try {
      // Another advice makes an area of its own.
      madvise(start + PAGE_SIZE, PAGE_SIZE, MADV_DONTFORK);
      const part = (page: number, pages: number): MemoryRegion => ({
        guestAddress: page * PAGE_SIZE,
        size: pages * PAGE_SIZE,
        userAddress: start + page * PAGE_SIZE,
      });
      const { copied } = fetchClientMemory(process.pid, [part(5, 1), part(0, 3), part(2, 1), part(6, 1)]);
      assert.deepEqual(copied?.areas, [
        { userAddress: start, length: 3 * PAGE_SIZE },
        { userAddress: start + 5 * PAGE_SIZE, length: 2 * PAGE_SIZE },
      ]);
    } finally {
      munmap(start, length);
    }
  });

  it('takes an area whole though a region names one byte of it, and none that it only touches', () => {
    assert.deepEqual(pagesOf(fetch({ guestAddress: 0, size: 1, userAddress: base + 2 * PAGE_SIZE - 1 })), [[0, 2, 0]]);
    assert.deepEqual(pagesOf(fetch(region(2, 1))), [[2, 1, 5]]);
    assert.deepEqual(fetch({ guestAddress: 0, size: 0, userAddress: base }).areas, []);
  });

  it('is mapped with what the client wrote, and the client sees what is written here', () => {
    const memory = new GuestMemory(fetch(region(0, 4, 0x1_0000)), wasmArena());
    try {
      const bytes = new Uint8Array(memory.view(memory.translate(0x1_0000, 4 * PAGE_SIZE), 4 * PAGE_SIZE));
      for (let page = 0; page < 4; page++) {
        assert(
          bytes.subarray(page * PAGE_SIZE, (page + 1) * PAGE_SIZE).every((byte) => byte === 0xa0 + page),
          `page ${page}`,
        );
      }
      bytes[17] = 0x55;
      const seen = fs.openSync(`/proc/${pid}/mem`, 'r');
      try {
        const one = Buffer.alloc(1);
        fs.readSync(seen, one, 0, 1, base + 17);
        assert.equal(one[0], 0x55);
      } finally {
        fs.closeSync(seen);
        bytes[17] = 0xa0;
      }
    } finally {
      memory.unmap();
    }
  });

  it('opens nothing more than it gives, and release closes it, twice too', () => {
    const before = openDescriptors();
    const memory = fetchClientMemory(pid, [region(0, 16)]);
    assert.equal(openDescriptors(), before + 2);
    release(memory);
    assert.equal(openDescriptors(), before);
    assert.deepEqual(memory.areas, []);
    release(memory);
  });

  it('says so when the process is gone', async () => {
    const before = openDescriptors();
    const gone = await ClientProcess.start();
    await gone.stop();
    assert.throws(() => fetchClientMemory(gone.layout.pid, []), { code: /ENOENT|ESRCH/ });
    assert(openDescriptors() <= before, 'no descriptor stays open');
  });

  describe('isReachable', () => {
    const at = (page: number, bytes = 0): number => base + page * PAGE_SIZE + bytes;

    it('wants every byte in some region and in a mapping', () => {
      const memory = fetch(region(0, 1), region(1, 4), region(8, 1));
      assert.equal(
        isReachable(memory, at(0), 5 * PAGE_SIZE),
        true,
        'over regions, areas and files, private memory too',
      );
      assert.equal(isReachable(memory, at(0), 5 * PAGE_SIZE + 1), false, 'into read-only memory');
      assert.equal(isReachable(memory, at(0, -1), 2), false, 'before the first');
      assert.equal(isReachable(memory, at(8), 1), false, 'nothing there');
      assert.equal(isReachable(memory, at(3, PAGE_SIZE - 1), 1), true);
    });

    it('takes regions in any order, overlapping or not', () => {
      const memory = fetch(region(2, 2), region(0, 2), region(1, 2));
      assert.equal(isReachable(memory, base, 4 * PAGE_SIZE), true);
      const gap = fetch(region(3, 1), region(0, 2));
      assert.equal(isReachable(gap, base, 2 * PAGE_SIZE), true);
      assert.equal(isReachable(gap, base, 3 * PAGE_SIZE), false);
      assert.equal(isReachable(gap, base + PAGE_SIZE, 3 * PAGE_SIZE), false);
    });

    it('tells whether a byte of a range is private', () => {
      const memory = fetch(region(0, 5));
      assert.equal(isPrivate(memory, at(0), 4 * PAGE_SIZE), false);
      assert.equal(isPrivate(memory, at(0), 4 * PAGE_SIZE + 1), true);
      assert.equal(isPrivate(memory, at(5), 1), false);
    });
  });
});
