import assert from 'node:assert/strict';
import fs from 'node:fs';
import { EFAULT, ESRCH } from '../../linux/errno.ts';
import { close } from '../../linux/file.ts';
import { addressOf } from '../../linux/libc.ts';
import { PAGE_SIZE } from '../../linux/mman.ts';
import {
  commandName,
  duplicateFrom,
  IOVEC_BYTES,
  memoryAreas,
  pidfdOpen,
  readProcessMemory,
  readVector,
  tgidOf,
  writeProcessMemory,
  writeVector,
} from '../../linux/process.ts';
import { ClientProcess } from '../helpers/client-process.ts';
import { failsWith } from '../helpers/system-error.ts';

/** No process can have it: above PID_MAX_LIMIT. */
const NO_PID = 2 ** 22 + 1;
const NO_PID_SHOWN = `0x${NO_PID.toString(16)}`;

describe('other processes', () => {
  let client: ClientProcess;
  let pid: number;
  let base: bigint;
  before(async () => {
    client = await ClientProcess.start();
    pid = client.layout.pid;
    base = BigInt(client.layout.base);
  });
  after(() => client.stop());

  const page = (n: number): bigint => base + BigInt(n * PAGE_SIZE);
  const shown = (address: bigint): string => String(address);

  it('have their memory read, over several mappings', () => {
    assert.deepEqual([...readProcessMemory(pid, page(4), 3)], [0xa4, 0xa4, 0xa4]);
    const bytes = readProcessMemory(pid, page(1) - 2n, 2 * PAGE_SIZE);
    assert.equal(bytes.length, 2 * PAGE_SIZE);
    assert.deepEqual([...bytes.subarray(0, 3)], [0xa0, 0xa0, 0xa1]);
    assert.equal(bytes.at(-1), 0xa2);
    assert.equal(readProcessMemory(pid, 0n, 0).length, 0);
  });

  it('have their memory written', () => {
    writeProcessMemory(pid, page(4) + 100n, Uint8Array.of(1, 2, 3));
    assert.deepEqual([...readProcessMemory(pid, page(4) + 99n, 5)], [0xa4, 1, 2, 3, 0xa4]);
    writeProcessMemory(pid, page(4) + 100n, new Uint8Array(3).fill(0xa4));
  });

  it('say EFAULT for memory that is not there, or not all of it', () => {
    const args = (address: bigint, length: number): string => `tid=${pid}, address=${shown(address)}, length=${length}`;
    failsWith('EFAULT', 'process_vm_readv', args(page(6), 1), () => readProcessMemory(pid, page(6), 1));
    failsWith('EFAULT', 'process_vm_readv', args(page(6) - 4n, 8), () => readProcessMemory(pid, page(6) - 4n, 8));
    const bytes = Uint8Array.of(1, 2);
    failsWith('EFAULT', 'process_vm_writev', args(page(5), 2), () => writeProcessMemory(pid, page(5), bytes));
    failsWith('EFAULT', 'process_vm_readv', args(2n ** 63n, 1), () => readProcessMemory(pid, 2n ** 63n, 1));
  });

  describe('by arrays of ranges', () => {
    const here = new Uint8Array(100);
    const iovecs = (...ranges: [address: number | bigint, length: number][]): BigUint64Array =>
      BigUint64Array.from(ranges.flatMap(([address, length]) => [BigInt(address), BigInt(length)]));

    it('have their memory read and written in the order of the arrays', () => {
      const local = iovecs([addressOf(here) + 1, 2], [addressOf(here) + 10, 3]);
      const remote = iovecs([page(4), 2], [page(1), 3]);
      assert.equal(readVector(pid, addressOf(local), addressOf(remote), 2), 5);
      assert.deepEqual([...here.subarray(0, 14)], [0, 0xa4, 0xa4, ...new Array(7).fill(0), 0xa1, 0xa1, 0xa1, 0]);
      here.fill(7);
      assert.equal(writeVector(pid, addressOf(local), addressOf(remote), 2), 5);
      assert.deepEqual([...readProcessMemory(pid, page(4), 3)], [7, 7, 0xa4]);
      writeProcessMemory(pid, page(4), new Uint8Array(2).fill(0xa4));
      writeProcessMemory(pid, page(1), new Uint8Array(3).fill(0xa1));
    });

    it('give fewer bytes where memory ends, and minus the errno where there is none', () => {
      const local = iovecs([addressOf(here), 8], [addressOf(here) + 8, 8]);
      const remote = iovecs([page(4), 8], [page(6), 8]);
      const nowhere = addressOf(remote) + IOVEC_BYTES;
      assert.equal(readVector(pid, addressOf(local), addressOf(remote), 2), 8);
      assert.equal(readVector(pid, addressOf(local), nowhere, 1), -EFAULT);
      assert.equal(writeVector(pid, addressOf(local), nowhere, 1), -EFAULT);
      assert.equal(readVector(NO_PID, addressOf(local), addressOf(remote), 1), -ESRCH);
      assert.equal(writeVector(NO_PID, addressOf(local), addressOf(remote), 1), -ESRCH);
    });
  });

  it('say ESRCH when they are not there', () => {
    failsWith('ESRCH', 'process_vm_readv', `tid=${NO_PID_SHOWN}, address=4096, length=1`, () =>
      readProcessMemory(NO_PID, 4096n, 1),
    );
    failsWith('ESRCH', 'process_vm_writev', `tid=${NO_PID_SHOWN}, address=4096, length=1`, () =>
      writeProcessMemory(NO_PID, 4096n, Uint8Array.of(1)),
    );
    failsWith('ESRCH', 'pidfd_open', `pid=${NO_PID_SHOWN}`, () => pidfdOpen(NO_PID));
  });

  it('share a descriptor', () => {
    const before = fs.readdirSync('/proc/self/fd').length;
    const fd = duplicateFrom(pid, client.layout.fd);
    assert.match(fs.readlinkSync(`/proc/self/fd/${fd}`), /memfd:first/);
    const byte = Buffer.alloc(1);
    fs.readSync(fd, byte, 0, 1, 0);
    assert.equal(byte[0], 0xa0);
    close(fd);
    failsWith('EBADF', 'pidfd_getfd', `pid=${pid}, fd=999`, () => duplicateFrom(pid, 999));
    assert.equal(fs.readdirSync('/proc/self/fd').length, before);
  });

  it('are opened as pidfd', () => {
    const fd = pidfdOpen(pid);
    assert.match(fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'), new RegExp(`^Pid:\\s*${pid}$`, 'm'));
    close(fd);
  });

  it('are found by any of their threads', () => {
    const threads = fs.readdirSync(`/proc/${pid}/task`).map(Number);
    assert(threads.length > 1);
    for (const tid of threads) assert.equal(tgidOf(tid), pid);
    const other = threads.find((tid) => tid !== pid)!;
    assert.deepEqual([...readProcessMemory(other, page(0), 1)], [0xa0]);
    assert.throws(() => tgidOf(NO_PID), { code: 'ENOENT' });
  });

  it('have a name', () => {
    assert.equal(commandName(pid), fs.readFileSync(`/proc/${pid}/comm`, 'latin1').trim());
    assert.equal(commandName(NO_PID), '?');
  });

  it('list their mappings', () => {
    const { base } = client.layout;
    const areas = memoryAreas(pid).filter((one) => one.end > base && one.start < base + 8 * PAGE_SIZE);
    assert.deepEqual(
      areas.map(({ start, end, permissions, offset, path }) => [
        (start - base) / PAGE_SIZE,
        (end - start) / PAGE_SIZE,
        permissions,
        offset / PAGE_SIZE,
        path,
      ]),
      [
        [0, 2, 'rw-s', 0, '/memfd:first (deleted)'],
        [2, 1, 'rw-s', 5, '/memfd:first (deleted)'],
        [3, 1, 'rw-s', 1, '/memfd:second (deleted)'],
        [4, 1, 'rw-p', 0, ''],
        [5, 1, 'r--s', 0, '/memfd:second (deleted)'],
        [6, 1, '---p', 0, ''],
        [7, 1, 'rw-p', 0, '/memfd:second (deleted)'],
      ],
    );
    const [first, further, second] = areas.map((one) => one.file);
    assert.equal(first, further);
    assert.notEqual(first, second);
    assert.throws(() => memoryAreas(NO_PID), { code: 'ENOENT' });
  });
});
