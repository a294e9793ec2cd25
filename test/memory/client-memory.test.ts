import assert from 'node:assert/strict';
import fs from 'node:fs';
import { PAGE_SIZE } from '../../linux/mman.ts';
import {
  type ClientMemory,
  fetchClientMemory,
  isShared,
  type MemoryRegion,
  release,
  sharedBytes,
} from '../../memory/client-memory.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import { wasmArena } from '../helpers/arenas.ts';
import { ClientProcess } from '../helpers/client-process.ts';

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

  it('leaves private and read-only mappings out', () => {
    for (const page of [4, 5, 6, 7]) {
      const memory = fetch(region(page, 1));
      assert.deepEqual(memory.areas, [], `page ${page}`);
      assert.equal(sharedBytes(memory), 0);
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

  describe('isShared', () => {
    it('wants every byte in some region and in a shared mapping', () => {
      const memory = fetch(region(0, 1), region(1, 4), region(8, 1));
      const at = (page: number, bytes = 0): number => base + page * PAGE_SIZE + bytes;
      assert.equal(isShared(memory, at(0), 4 * PAGE_SIZE), true, 'over regions, areas and files');
      assert.equal(isShared(memory, at(0), 4 * PAGE_SIZE + 1), false, 'into private memory');
      assert.equal(isShared(memory, at(0, -1), 2), false, 'before the first');
      assert.equal(isShared(memory, at(4), 1), false, 'private');
      assert.equal(isShared(memory, at(8), 1), false, 'nothing there');
      assert.equal(isShared(memory, at(3, PAGE_SIZE - 1), 1), true);
    });

    it('takes regions in any order, overlapping or not', () => {
      const memory = fetch(region(2, 2), region(0, 2), region(1, 2));
      assert.equal(isShared(memory, base, 4 * PAGE_SIZE), true);
      const gap = fetch(region(3, 1), region(0, 2));
      assert.equal(isShared(gap, base, 2 * PAGE_SIZE), true);
      assert.equal(isShared(gap, base, 3 * PAGE_SIZE), false);
      assert.equal(isShared(gap, base + PAGE_SIZE, 3 * PAGE_SIZE), false);
    });
  });
});
