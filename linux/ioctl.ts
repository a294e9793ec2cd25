/** ioctl(2) and the layout of its request numbers: `<asm-generic/ioctl.h>`. */
import { type Address, callAsync, check, lastErrno, libcFunction } from './libc.ts';

const NRBITS = 8;
const TYPEBITS = 8;
const SIZESHIFT = NRBITS + TYPEBITS;
const DIRSHIFT = SIZESHIFT + 14;
const SIZEMASK = 0x3fff;
const IOC_WRITE = 1;
const IOC_READ = 2;

const compose = (dir: number, type: number, nr: number, size: number): number =>
  ((dir << DIRSHIFT) | (size << SIZESHIFT) | (type << NRBITS) | nr) >>> 0;

/** `_IO(type, nr)`: no argument, or a value in the argument itself. */
export const IO = (type: number, nr: number): number => compose(0, type, nr, 0);
/** `_IOW(type, nr, size)`: the caller writes, the kernel reads. */
export const IOW = (type: number, nr: number, size: number): number => compose(IOC_WRITE, type, nr, size);
/** `_IOR(type, nr, size)`: the kernel writes, the caller reads. */
export const IOR = (type: number, nr: number, size: number): number => compose(IOC_READ, type, nr, size);
/** `_IOWR(type, nr, size)`. */
export const IOWR = (type: number, nr: number, size: number): number => compose(IOC_READ | IOC_WRITE, type, nr, size);
/** `_IOC_SIZE(request)` in bytes. */
export const ioctlSize = (request: number): number => (request >>> SIZESHIFT) & SIZEMASK;
/** `_IOC_TYPE(request)`, the letter. */
export const ioctlType = (request: number): number => (request >>> NRBITS) & 0xff;

const c = {
  ioctl: libcFunction('int ioctl(int fd, ulong request, uintptr_t argument)'),
  /** With a buffer, which must stay alive through the call: its address alone would not keep it. */
  ioctlBuffer: libcFunction('int ioctl(int fd, ulong request, void *argument)'),
};

/** ioctl(2) with a buffer. Throws {@link SystemError}; `name` is what the error calls the request. */
export function ioctl(fd: number, request: number, argument: ArrayBufferView, name = 'ioctl'): number {
  return check(c.ioctlBuffer(fd, request, argument), name, { fd, request });
}

/** ioctl(2) whose argument is a value or a raw address. */
export function ioctlValue(fd: number, request: number, argument: Address, name = 'ioctl'): number {
  return check(c.ioctl(fd, request, argument), name, { fd, request, argument });
}

/** ioctl(2): the result, or the negative errno. Throws nothing. */
export function tryIoctl(fd: number, request: number, argument: ArrayBufferView | Address): number {
  const result = typeof argument === 'number' ? c.ioctl(fd, request, argument) : c.ioctlBuffer(fd, request, argument);
  return result < 0 ? -lastErrno() : result;
}

/** ioctl(2) on another thread: the result, or -1. For our own mount, and for calls that wait. */
export function ioctlAsync(fd: number, request: number, argument: Address): Promise<number> {
  return callAsync(c.ioctl, fd, request, argument);
}
