import os from 'node:os';

/** errno numbers of Linux on x86-64, by the names of `<asm-generic/errno.h>`. */
export const EPERM = 1;
export const ENOENT = 2;
export const ESRCH = 3;
export const EINTR = 4;
export const EIO = 5;
export const E2BIG = 7;
export const EBADF = 9;
export const EAGAIN = 11;
export const ENOMEM = 12;
export const EACCES = 13;
export const EFAULT = 14;
export const EBUSY = 16;
export const EEXIST = 17;
export const ENODEV = 19;
export const ENOTDIR = 20;
export const EISDIR = 21;
export const EINVAL = 22;
export const ENOTTY = 25;
export const ENOSPC = 28;
export const ENOSYS = 38;
export const EBADFD = 77;
export const ENOTSOCK = 88;
export const EMSGSIZE = 90;
export const EOPNOTSUPP = 95;
export const EADDRNOTAVAIL = 99;
export const ENOBUFS = 105;
export const ECONNABORTED = 103;
export const ENOTCONN = 107;

const names = new Map<number, string>();
// Some numbers have two names (EAGAIN and EWOULDBLOCK, EOPNOTSUPP and ENOTSUP): those of this file win.
names.set(EAGAIN, 'EAGAIN').set(EOPNOTSUPP, 'EOPNOTSUPP').set(EBADFD, 'EBADFD');
for (const [name, number] of Object.entries(os.constants.errno)) if (!names.has(number)) names.set(number, name);

/** The name of an errno number, such as `EINVAL` for 22; `errno N` for one without a name. */
export function errnoName(errno: number): string {
  return names.get(errno) ?? `errno ${errno}`;
}
