import assert from 'node:assert/strict';
import { EAGAIN, EBADF, EBADFD, EINVAL, ENOTSOCK, EOPNOTSUPP, errnoName } from '../../linux/errno.ts';
import {
  addressOf,
  callAsync,
  check,
  lastErrno,
  libcFunction,
  permanentAddressOf,
  SystemError,
  viewMemory,
} from '../../linux/libc.ts';

const close = libcFunction('int close(int fd)');
const getpid = libcFunction('int getpid()');

describe('errnoName', () => {
  it('knows the names, also the one that Node does not', () => {
    assert.deepEqual([EINVAL, ENOTSOCK, EBADFD].map(errnoName), ['EINVAL', 'ENOTSOCK', 'EBADFD']);
    assert.equal(errnoName(4095), 'errno 4095');
    // Two names each; these are the usual ones.
    assert.deepEqual([EAGAIN, EOPNOTSUPP].map(errnoName), ['EAGAIN', 'EOPNOTSUPP']);
  });
});

describe('libc', () => {
  it('passes results through, and makes errors of -1', () => {
    assert.equal(check(getpid(), 'getpid', {}), process.pid);
    assert.throws(
      () => check(close(-1), 'close', { fd: -1 }),
      (error: unknown) => {
        assert(error instanceof SystemError);
        const { name, code, errno, syscall, args, message } = error;
        assert.deepEqual(
          { name, code, errno, syscall, args, message },
          {
            name: 'SystemError',
            code: 'EBADF',
            errno: EBADF,
            syscall: 'close',
            args: { fd: -1 },
            message: 'close(fd=-1) failed: EBADF',
          },
        );
        return true;
      },
    );
    assert.equal(lastErrno(), EBADF);
  });

  it('shows large numbers in hexadecimal, and strings in quotes', () => {
    const error = new SystemError('x', EINVAL, { a: 0xffff, b: 0x1_0000, c: 'p q', d: 1n, e: null, f: -1 });
    assert.equal(error.message, 'x(a=65535, b=0x10000, c="p q", d=1, e=null, f=-1) failed: EINVAL');
  });

  it('calls on another thread', async () => {
    assert.equal(await callAsync(getpid), process.pid);
    assert.equal(await callAsync(close, -1), -1);
    await assert.rejects(callAsync(close, 'no number'));
  });

  it('views memory at the address of an array, in both directions', () => {
    for (const array of [new Uint8Array(1), new Uint8Array(64), new Uint8Array(10_000), Buffer.alloc(20)]) {
      const view = new Uint8Array(viewMemory(addressOf(array), array.length));
      view[0] = 7;
      assert.equal(array[0], 7);
      array[array.length - 1] = 9;
      assert.equal(view[array.length - 1], 9);
    }
    const words = new Uint32Array(16);
    assert.equal(addressOf(words.subarray(4)), addressOf(words) + 16);
    assert.equal(addressOf(new DataView(words.buffer, 8)), addressOf(words) + 8);
  });

  it('keeps what permanentAddressOf was given', () => {
    const address = permanentAddressOf(Uint8Array.of(1, 2, 3, 4));
    for (let i = 0; i < 2000; i++) new Uint8Array(10_000).fill(0xff);
    assert.deepEqual([...new Uint8Array(viewMemory(address, 4))], [1, 2, 3, 4]);
  });
});
