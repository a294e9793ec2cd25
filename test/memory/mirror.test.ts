import assert from 'node:assert/strict';
import fs from 'node:fs';
import { EFAULT, ESRCH } from '../../linux/errno.ts';
import { addressOf, viewMemory } from '../../linux/libc.ts';
import { MAP_ANONYMOUS, MAP_PRIVATE, mmap, munmap, PAGE_SIZE, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';
import { readProcessMemory, UIO_MAXIOV } from '../../linux/process.ts';
import { Mirror, Transfer } from '../../memory/mirror.ts';
import { ClientProcess } from '../helpers/client-process.ts';
import { failsWith } from '../helpers/system-error.ts';

const PAGES = 8;
const LENGTH = PAGES * PAGE_SIZE;

describe('Mirror', () => {
  let client: ClientProcess;
  let pid: number;
  let base: number;
  let address: number;
  let here: Uint8Array;
  const mirrors: Mirror[] = [];

  before(async () => {
    client = await ClientProcess.start();
    ({ pid, base } = client.layout);
  });
  after(() => client.stop());
  beforeEach(() => {
    address = mmap({ length: LENGTH, prot: PROT_READ | PROT_WRITE, flags: MAP_PRIVATE | MAP_ANONYMOUS });
    here = new Uint8Array(viewMemory(address, LENGTH));
  });
  afterEach(() => {
    for (const mirror of mirrors.splice(0)) mirror.close();
    munmap(address, LENGTH);
  });

  /** The client's pages from 0 on; of them 0 to 4 and 7 can be written, 5 read, 6 nothing. */
  const open = (ranges = [{ userAddress: base, address, length: LENGTH }], residentBytes?: number): Mirror => {
    const mirror = new Mirror(pid, ranges, residentBytes);
    mirrors.push(mirror);
    return mirror;
  };
  const there = (page: number, offset: number, length: number): number[] => [
    ...readProcessMemory(pid, BigInt(base + page * PAGE_SIZE + offset), length),
  ];

  it('pulls ranges from the client, over pages and mappings of any kind', () => {
    const { pulls } = open();
    pulls.add(address + 4 * PAGE_SIZE + 10, 2);
    pulls.add(address + PAGE_SIZE - 1, 2);
    assert(
      here.every((byte) => byte === 0),
      'noted only',
    );
    assert.equal(pulls.run(), true);
    assert.deepEqual([...here.subarray(4 * PAGE_SIZE + 9, 4 * PAGE_SIZE + 13)], [0, 0xa4, 0xa4, 0]);
    assert.deepEqual([...here.subarray(PAGE_SIZE - 2, PAGE_SIZE + 2)], [0, 0xa0, 0xa1, 0]);
    assert.equal(pulls.run(), true, 'nothing to do');
  });

  it('pushes ranges to the client', () => {
    const pushes = Transfer.pushes(open());
    here.set([1, 2, 3], 4 * PAGE_SIZE + 100);
    pushes.add(address + 4 * PAGE_SIZE + 100, 3);
    assert.deepEqual(there(4, 100, 3), [0xa4, 0xa4, 0xa4], 'noted only');
    assert.equal(pushes.run(), true);
    assert.deepEqual(there(4, 99, 5), [0xa4, 1, 2, 3, 0xa4]);
    here.fill(0xa4, 4 * PAGE_SIZE, 5 * PAGE_SIZE);
    pushes.add(address + 4 * PAGE_SIZE, PAGE_SIZE);
    assert.equal(pushes.run(), true);
  });

  it('copies of a range what it mirrors of it', () => {
    const mirror = open([
      { userAddress: base + 4 * PAGE_SIZE, address: address + PAGE_SIZE, length: PAGE_SIZE },
      { userAddress: base + 2 * PAGE_SIZE, address: address + 3 * PAGE_SIZE, length: PAGE_SIZE },
    ]);
    mirror.pulls.add(address, LENGTH);
    assert.equal(mirror.pulls.run(), true);
    for (let page = 0; page < PAGES; page++) {
      const expected = page === 1 ? 0xa4 : page === 3 ? 0xa2 : 0;
      const bytes = here.subarray(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
      assert(
        bytes.every((byte) => byte === expected),
        `page ${page}`,
      );
    }
    assert.deepEqual(
      [0, 1, 2, 3, 4].map((page) => mirror.holds(address + page * PAGE_SIZE + 5)),
      [false, true, false, true, false],
    );
    assert.equal(mirror.userAddress(address + 3 * PAGE_SIZE + 5), base + 2 * PAGE_SIZE + 5);
  });

  it('copies between any range here and there', () => {
    const { pulls } = open();
    const bytes = new Uint8Array(new ArrayBuffer(4));
    pulls.addPair(addressOf(bytes), base + 3 * PAGE_SIZE, 4);
    assert.equal(pulls.run(), true);
    assert.deepEqual([...bytes], [0xa3, 0xa3, 0xa3, 0xa3]);
  });

  it('takes more ranges than a call does', () => {
    const { pulls } = open();
    const count = 2 * UIO_MAXIOV + 3;
    // Every other byte of page 4, from its end to its start: no two ranges continue each other.
    const places = Array.from({ length: count }, (_, i) => 4 * PAGE_SIZE + ((2 * (count - 1 - i)) % PAGE_SIZE));
    for (const at of places) pulls.add(address + at, 1);
    assert.equal(pulls.run(), true);
    for (const at of places) assert.equal(here[at], 0xa4);
    assert.equal(here[4 * PAGE_SIZE + 1], 0);
  });

  it('keeps ranges apart that are split, though one continues the other', () => {
    const pushes = Transfer.pushes(open());
    here.fill(9);
    pushes.add(address + 5 * PAGE_SIZE - 4, 4);
    pushes.split();
    // Page 5 can only be read: what was noted before has been written then.
    pushes.add(address + 5 * PAGE_SIZE, 4);
    assert.equal(pushes.run(), false);
    assert.deepEqual(there(4, PAGE_SIZE - 5, 5), [0xa4, 9, 9, 9, 9]);
    here.fill(0xa4);
    pushes.add(address + 5 * PAGE_SIZE - 4, 4);
    assert.equal(pushes.run(), true);
  });

  it('says which range of the client could not be copied, and makes no copy after it', () => {
    const mirror = open();
    const { pulls } = mirror;
    pulls.add(address, 8);
    pulls.add(address + 6 * PAGE_SIZE + 16, 8);
    pulls.add(address + PAGE_SIZE, 8);
    assert.equal(pulls.run(), false);
    assert.deepEqual([mirror.errno, mirror.faultAddress], [EFAULT, base + 6 * PAGE_SIZE + 16]);
    assert.equal(mirror.gone, false);
    assert.equal(here[0], 0xa0);
    assert.equal(here[PAGE_SIZE], 0);
    // The next run begins anew.
    pulls.add(address + PAGE_SIZE, 8);
    assert.equal(pulls.run(), true);
  });

  it('makes no copy after one that failed while there was no room to note more', () => {
    const mirror = open();
    const pushes = Transfer.pushes(mirror);
    pushes.add(address + 6 * PAGE_SIZE, 8);
    for (let i = 0; i < UIO_MAXIOV; i++) pushes.add(address + 4 * PAGE_SIZE + 2 * i, 1);
    assert.equal(pushes.run(), false);
    assert.equal(mirror.faultAddress, base + 6 * PAGE_SIZE);
    assert(there(4, 0, PAGE_SIZE).every((byte) => byte === 0xa4));
    assert.equal(mirror.users, 0);
  });

  it('counts pages touched, and gives them back when there are many', () => {
    const mirror = open(undefined, 2 * PAGE_SIZE);
    const pull = (page: number, length: number): void => {
      mirror.pulls.add(address + page * PAGE_SIZE, length);
      assert.equal(mirror.pulls.run(), true);
    };
    mirror.keep(address + PAGE_SIZE + 100, 8);
    pull(0, 1);
    pull(1, PAGE_SIZE);
    pull(0, 2);
    assert.equal(mirror.touchedBytes, 2 * PAGE_SIZE);
    mirror.trim();
    assert.equal(mirror.trims, 0);
    pull(2, PAGE_SIZE + 1);
    assert.equal(mirror.touchedBytes, 4 * PAGE_SIZE);
    const pushes = Transfer.pushes(mirror);
    pushes.add(address + 4 * PAGE_SIZE, 0);
    mirror.trim();
    assert.deepEqual([mirror.trims, here[0]], [0, 0xa0], 'a copy waits');
    pushes.run();
    mirror.trim();
    assert.deepEqual([mirror.trims, mirror.touchedBytes], [1, 0]);
    assert.deepEqual(
      [0, 1, 2, 3].map((page) => here[page * PAGE_SIZE]),
      [0, 0xa1, 0, 0],
    );
    pull(0, 1);
    assert.equal(here[0], 0xa0);
  });

  it('refuses a process that is not there, and opens nothing then', () => {
    const before = fs.readdirSync('/proc/self/fd').length;
    failsWith('ESRCH', 'pidfd_open', 'pid=0x400001', () => new Mirror(2 ** 22 + 1, []));
    assert.equal(fs.readdirSync('/proc/self/fd').length, before);
  });

  it('copies nothing when the process has ended, though its id may be another’s', async () => {
    const mortal = await ClientProcess.start();
    const mirror = new Mirror(mortal.layout.pid, [{ userAddress: mortal.layout.base, address, length: LENGTH }]);
    mirrors.push(mirror);
    mirror.pulls.add(address, 1);
    assert.equal(mirror.pulls.run(), true);
    await mortal.stop();
    const before = performance.now();
    while (performance.now() - before < 2);
    assert.equal(mirror.alive(), false);
    mirror.pulls.add(address + 1, 1);
    assert.equal(mirror.pulls.run(), false);
    assert.deepEqual([mirror.gone, mirror.errno, here[1]], [true, ESRCH, 0]);
  });

  it('copies nothing and holds no descriptor when it is closed, twice too', () => {
    const before = fs.readdirSync('/proc/self/fd').length;
    const mirror = open();
    assert.equal(fs.readdirSync('/proc/self/fd').length, before + 1);
    mirror.close();
    mirror.close();
    assert.equal(fs.readdirSync('/proc/self/fd').length, before);
    mirror.pulls.add(address, 1);
    assert.equal(mirror.pulls.run(), false);
    assert.equal(here[0], 0);
  });
});
