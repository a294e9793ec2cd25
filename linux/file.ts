/** Files and descriptors: `<fcntl.h>`, `<unistd.h>`, `<sys/uio.h>`. Lengths are in bytes. */
import { EAGAIN, EINTR } from './errno.ts';
import { type Address, callAsync, check, lastErrno, libcFunction, SystemError } from './libc.ts';

export const O_RDONLY = 0;
export const O_RDWR = 0o2;
export const O_NONBLOCK = 0o4000;
export const O_CREAT = 0o100;
export const O_CLOEXEC = 0o2000000;
const LOCK_EX = 2;
const LOCK_NB = 4;
const F_GETFD = 1;
const F_SETFD = 2;
const FD_CLOEXEC = 1;
const F_GETFL = 3;
const F_SETFL = 4;

const c = {
  open: libcFunction('int open(const char *path, int flags, unsigned int mode)'),
  close: libcFunction('int close(int fd)'),
  read: libcFunction('int64_t read(int fd, void *buffer, size_t count)'),
  write: libcFunction('int64_t write(int fd, const void *buffer, size_t count)'),
  readAt: libcFunction('int64_t read(int fd, uintptr_t buffer, size_t count)'),
  writeAt: libcFunction('int64_t write(int fd, uintptr_t buffer, size_t count)'),
  pread: libcFunction('int64_t pread(int fd, void *buffer, size_t count, int64_t offset)'),
  pwrite: libcFunction('int64_t pwrite(int fd, const void *buffer, size_t count, int64_t offset)'),
  writev: libcFunction('int64_t writev(int fd, uintptr_t iov, int iovcnt)'),
  flock: libcFunction('int flock(int fd, int operation)'),
  fcntl: libcFunction('int fcntl(int fd, int command, long argument)'),
};

/** open(2). Close-on-exec is always set. */
export function open(path: string, flags: number, mode = 0): number {
  return check(c.open(path, flags | O_CLOEXEC, mode), 'open', { path, flags });
}

/** close(2). */
export function close(fd: number): void {
  check(c.close(fd), 'close', { fd });
}

/** close(2) on another thread: for descriptors of our own FUSE mount, whose FLUSH this thread must answer. */
export async function closeAsync(fd: number): Promise<void> {
  await callAsync(c.close, fd);
}

/** read(2) into `buffer`: bytes read, 0 at the end, or -1 where a non-blocking descriptor has nothing. */
export function read(fd: number, buffer: Uint8Array, count = buffer.byteLength): number {
  const result = c.read(fd, buffer, count);
  if (result >= 0) return result;
  const errno = lastErrno();
  if (errno === EAGAIN || errno === EINTR) return -1;
  throw new SystemError('read', errno, { fd, count });
}

/** write(2) of the first `count` bytes of `buffer`. */
export function write(fd: number, buffer: Uint8Array, count = buffer.byteLength): number {
  return check(c.write(fd, buffer, count), 'write', { fd, count });
}

/** pread(2) at `offset` into all of `buffer`: bytes read, fewer at the end. */
export function pread(fd: number, buffer: Uint8Array, offset: number): number {
  const count = buffer.byteLength;
  return check(c.pread(fd, buffer, count, offset), 'pread', { fd, count, offset });
}

/** pwrite(2) of all of `buffer` at `offset`: bytes written. */
export function pwrite(fd: number, buffer: Uint8Array, offset: number): number {
  const count = buffer.byteLength;
  return check(c.pwrite(fd, buffer, count, offset), 'pwrite', { fd, count, offset });
}

/** read(2) into `buffer`: bytes read, or the negative errno. Throws nothing. */
export function tryRead(fd: number, buffer: Uint8Array, count = buffer.byteLength): number {
  const result = c.read(fd, buffer, count);
  return result < 0 ? -lastErrno() : result;
}

/** write(2) of `buffer`: bytes written, or the negative errno. Throws nothing. */
export function tryWrite(fd: number, buffer: Uint8Array): number {
  const result = c.write(fd, buffer, buffer.byteLength);
  return result < 0 ? -lastErrno() : result;
}

/** read(2) to an address: bytes read, or the negative errno. Throws nothing: for polling loops. */
export function readAddress(fd: number, address: Address, count: number): number {
  const result = c.readAt(fd, address, count);
  return result < 0 ? -lastErrno() : result;
}

/** write(2) from an address: bytes written, or the negative errno. Throws nothing: for polling loops. */
export function writeAddress(fd: number, address: Address, count: number): number {
  const result = c.writeAt(fd, address, count);
  return result < 0 ? -lastErrno() : result;
}

/** writev(2) of `count` entries of struct iovec at `iov`: bytes written, or the negative errno. Throws nothing. */
export function writevAddress(fd: number, iov: Address, count: number): number {
  const result = c.writev(fd, iov, count);
  return result < 0 ? -lastErrno() : result;
}

/** Sets or clears close-on-exec. */
export function setCloseOnExec(fd: number, on: boolean): void {
  const flags = check(c.fcntl(fd, F_GETFD, 0), 'fcntl', { fd, command: 'F_GETFD' });
  const wanted = on ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC;
  check(c.fcntl(fd, F_SETFD, wanted), 'fcntl', { fd, command: 'F_SETFD', wanted });
}

/** Sets O_NONBLOCK on the open file behind `fd`, which other processes may share. */
export function setNonBlocking(fd: number): void {
  const flags = check(c.fcntl(fd, F_GETFL, 0), 'fcntl', { fd, command: 'F_GETFL' });
  if ((flags & O_NONBLOCK) !== 0) return;
  check(c.fcntl(fd, F_SETFL, flags | O_NONBLOCK), 'fcntl', { fd, command: 'F_SETFL', flags: 'O_NONBLOCK' });
}

/** flock(2), exclusive: true when this open file has the lock now, false when another holds it. Ends with its holder. */
export function tryLock(fd: number): boolean {
  if (c.flock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  const errno = lastErrno();
  if (errno === EAGAIN) return false;
  throw new SystemError('flock', errno, { fd });
}
