/**
 * Reaching into other processes: pidfd_open(2), pidfd_getfd(2), process_vm_readv(2), `/proc`.
 *
 * Needs CAP_SYS_PTRACE over the other process. A `tid` may be any thread of it; `/proc` and process_vm_* take threads,
 * pidfd_open takes only the leader, whose id is the Tgid.
 */
import fs from 'node:fs';
import { EFAULT } from './errno.ts';
import { close } from './file.ts';
import { type Address, check, lastErrno, libcFunction, SystemError, structure } from './libc.ts';

const SYS_pidfd_open = 434;
const SYS_pidfd_getfd = 438;

structure('iovec', { iov_base: 'void *', iov_len: 'size_t' });
const iovec = (base: Uint8Array | bigint, length: number): object => ({ iov_base: base, iov_len: length });

const c = {
  syscall2: libcFunction('long syscall(long number, long a, long b)'),
  syscall3: libcFunction('long syscall(long number, long a, long b, long c)'),
  process_vm_readv: libcFunction(
    'int64_t process_vm_readv(int pid, iovec *local, ulong liovcnt, iovec *remote, ulong riovcnt, ulong flags)',
  ),
  process_vm_writev: libcFunction(
    'int64_t process_vm_writev(int pid, iovec *local, ulong liovcnt, iovec *remote, ulong riovcnt, ulong flags)',
  ),
  process_vm_readv_at: libcFunction(
    'int64_t process_vm_readv(int pid, uintptr_t local, ulong liovcnt, uintptr_t remote, ulong riovcnt, ulong flags)',
  ),
  process_vm_writev_at: libcFunction(
    'int64_t process_vm_writev(int pid, uintptr_t local, ulong liovcnt, uintptr_t remote, ulong riovcnt, ulong flags)',
  ),
};

/** Entries of an iovec array that one call takes at the most (`<linux/uio.h>`). */
export const UIO_MAXIOV = 1024;
/** struct iovec: void *iov_base; size_t iov_len. */
export const IOVEC_BYTES = 16;

/** The process (thread group) that a thread belongs to, from `/proc/TID/status`. ENOENT when it is gone. */
export function tgidOf(tid: number): number {
  const status = fs.readFileSync(`/proc/${tid}/status`, 'latin1');
  return Number(/^Tgid:\s*(\d+)/m.exec(status)?.[1] ?? tid);
}

/** pidfd_open(2) of a process (not of a thread that is no leader). */
export function pidfdOpen(pid: number): number {
  return check(c.syscall2(SYS_pidfd_open, pid, 0), 'pidfd_open', { pid });
}

/** Duplicates descriptor `fd` of the process `pid` into this one, close-on-exec (pidfd_getfd(2)). EBADF if it has none. */
export function duplicateFrom(pid: number, fd: number): number {
  const pidfd = pidfdOpen(pid);
  try {
    return check(c.syscall3(SYS_pidfd_getfd, pidfd, fd, 0), 'pidfd_getfd', { pid, fd });
  } finally {
    close(pidfd);
  }
}

/** Reads `length` bytes at `address` of another process. EFAULT when they cannot all be read. */
export function readProcessMemory(tid: number, address: bigint, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  if (length === 0) return bytes;
  const done = c.process_vm_readv(tid, iovec(bytes, length), 1, iovec(address, length), 1, 0);
  if (done !== length) throw fault('process_vm_readv', done, { tid, address, length });
  return bytes;
}

/** Writes `bytes` at `address` of another process. EFAULT when they cannot all be written. */
export function writeProcessMemory(tid: number, address: bigint, bytes: Uint8Array): void {
  const length = bytes.byteLength;
  const done = c.process_vm_writev(tid, iovec(bytes, length), 1, iovec(address, length), 1, 0);
  if (done !== length) throw fault('process_vm_writev', done, { tid, address, length });
}

/**
 * Copies between this process and another one: `count` ranges here, an iovec array at address `local`, and as many there,
 * an iovec array (of this process) at address `remote`. Gives the bytes copied, fewer where the other process has no memory,
 * or minus an errno.
 */
export type VectorCopy = (pid: number, local: Address, remote: Address, count: number) => number;

/** process_vm_readv(2): from there to here, range by range in the order of the arrays. Allocates nothing. */
export const readVector: VectorCopy = (pid, local, remote, count) => {
  const done = c.process_vm_readv_at(pid, local, count, remote, count, 0);
  return done < 0 ? -lastErrno() : done;
};

/** process_vm_writev(2): from here to there. */
export const writeVector: VectorCopy = (pid, local, remote, count) => {
  const done = c.process_vm_writev_at(pid, local, count, remote, count, 0);
  return done < 0 ? -lastErrno() : done;
};

function fault(syscall: string, done: number, args: Record<string, unknown>): SystemError {
  return new SystemError(syscall, done < 0 ? lastErrno() : EFAULT, args);
}

/** One area of `/proc/PID/maps`. */
export interface MemoryArea {
  start: Address;
  end: Address;
  /** Such as `rw-s`. */
  permissions: string;
  /** Bytes into the file. */
  offset: number;
  /** Device and inode, such as `00:01 1042`: what tells files apart, whatever their names are. */
  file: string;
  /** The file, or what the kernel calls the area; empty for anonymous memory. */
  path: string;
}

/** All areas of a process, in address order. Parsed in one go: it is the slow part of fetching a client's memory. */
export function memoryAreas(pid: number): MemoryArea[] {
  const areas: MemoryArea[] = [];
  for (const line of fs.readFileSync(`/proc/${pid}/maps`, 'latin1').split('\n')) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) (\S+ \d+)\s*(.*)$/.exec(line);
    if (!match) continue;
    const [, start, end, permissions, offset, file, path] = match as unknown as string[];
    areas.push({
      start: Number.parseInt(start!, 16),
      end: Number.parseInt(end!, 16),
      permissions: permissions!,
      offset: Number.parseInt(offset!, 16),
      file: file!,
      path: path!,
    });
  }
  return areas;
}

/** Name of a process, from `/proc/PID/comm`; `?` when it is gone. */
export function commandName(pid: number): string {
  try {
    return fs.readFileSync(`/proc/${pid}/comm`, 'latin1').trim();
  } catch {
    return '?';
  }
}
