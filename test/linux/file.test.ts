import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { eventfd } from '../../linux/eventfd.ts';
import {
  close,
  closeAsync,
  O_NONBLOCK,
  O_RDONLY,
  O_RDWR,
  open,
  pread,
  pwrite,
  read,
  readAddress,
  setCloseOnExec,
  write,
  writeAddress,
  writevAddress,
} from '../../linux/file.ts';
import { addressOf } from '../../linux/libc.ts';
import { failsWith } from '../helpers/system-error.ts';

const EAGAIN = 11;
const EBADF = 9;
const O_CREAT = 0o100;

describe('files', () => {
  let folder: string;
  before(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-test-'));
  });
  after(() => fs.rmSync(folder, { recursive: true }));

  const isCloseOnExec = (fd: number): boolean => {
    const flags = /^flags:\s*([0-7]+)/m.exec(fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))![1]!;
    return (Number.parseInt(flags, 8) & 0o2000000) !== 0;
  };

  it('are opened close-on-exec, written, read and closed', () => {
    const name = path.join(folder, 'file');
    const fd = open(name, O_RDWR | O_CREAT, 0o600);
    assert.equal(isCloseOnExec(fd), true);
    assert.equal(fs.statSync(name).mode & 0o777, 0o600);
    assert.equal(write(fd, Buffer.from('hello, all')), 10);
    assert.equal(write(fd, Buffer.from('xyz'), 1), 1);
    close(fd);
    const again = open(name, O_RDONLY);
    const buffer = Buffer.alloc(20);
    assert.equal(read(again, buffer, 5), 5);
    assert.equal(read(again, buffer.subarray(5)), 6);
    assert.equal(buffer.toString('latin1', 0, 11), 'hello, allx');
    assert.equal(read(again, buffer), 0, 'the end');
    close(again);
  });

  it('name call, arguments and reason when they fail', () => {
    const none = path.join(folder, 'none');
    failsWith('ENOENT', 'open', `path=${JSON.stringify(none)}, flags=0`, () => open(none, O_RDONLY));
    failsWith('EBADF', 'close', 'fd=-1', () => close(-1));
    failsWith('EBADF', 'read', 'fd=-1, count=4', () => read(-1, Buffer.alloc(4)));
    failsWith('EBADF', 'write', 'fd=-1, count=4', () => write(-1, Buffer.alloc(4)));
    failsWith('EBADF', 'fcntl', 'fd=-1, command="F_GETFD"', () => setCloseOnExec(-1, true));
  });

  it('are read and written at an offset, beyond 4 GiB too', () => {
    const far = 2 ** 40 + 3;
    const fd = open(path.join(folder, 'sparse'), O_RDWR | O_CREAT, 0o600);
    assert.equal(pwrite(fd, Buffer.from('far away'), far), 8);
    const buffer = Buffer.alloc(6);
    assert.equal(pread(fd, buffer, far + 4), 4, 'fewer at the end');
    assert.equal(buffer.toString('latin1', 0, 4), 'away');
    assert.equal(pread(fd, buffer, 0), 6, 'a hole');
    assert.deepEqual(buffer, Buffer.alloc(6));
    close(fd);
    failsWith('EBADF', 'pread', 'fd=-1, count=6, offset=7', () => pread(-1, buffer, 7));
    failsWith('EBADF', 'pwrite', 'fd=-1, count=6, offset=7', () => pwrite(-1, buffer, 7));
  });

  it('give -1 where a non-blocking descriptor has nothing', () => {
    const fd = eventfd();
    assert.equal(read(fd, Buffer.alloc(8)), -1);
    close(fd);
  });

  it('are read and written by address, with the negative errno instead of an error', () => {
    const fd = eventfd();
    const counter = BigUint64Array.of(5n);
    assert.equal(readAddress(fd, addressOf(counter), 8), -EAGAIN);
    assert.equal(writeAddress(fd, addressOf(counter), 8), 8);
    const seen = new BigUint64Array(1);
    assert.equal(readAddress(fd, addressOf(seen), 8), 8);
    assert.deepEqual(seen, counter);
    close(fd);
    assert.equal(readAddress(-1, addressOf(seen), 8), -EBADF);
    assert.equal(writeAddress(-1, addressOf(seen), 8), -EBADF);
  });

  it('gather with writev', () => {
    const name = path.join(folder, 'gathered');
    const fd = open(name, O_RDWR | O_CREAT, 0o600);
    const parts = [Buffer.from('one '), Buffer.from('two')];
    const iov = new BigUint64Array(parts.flatMap((part) => [BigInt(addressOf(part)), BigInt(part.length)]));
    assert.equal(writevAddress(fd, addressOf(iov), 2), 7);
    close(fd);
    assert.equal(fs.readFileSync(name, 'latin1'), 'one two');
    assert.equal(writevAddress(-1, addressOf(iov), 2), -EBADF);
  });

  it('keep or lose close-on-exec', () => {
    const fd = open('/dev/null', O_RDWR | O_NONBLOCK);
    setCloseOnExec(fd, false);
    assert.equal(isCloseOnExec(fd), false);
    setCloseOnExec(fd, true);
    assert.equal(isCloseOnExec(fd), true);
    close(fd);
  });

  it('are closed on another thread', async () => {
    const fd = open('/dev/null', O_RDONLY);
    await closeAsync(fd);
    assert.equal(fs.existsSync(`/proc/self/fd/${fd}`), false);
  });
});
