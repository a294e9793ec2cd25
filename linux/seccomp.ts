/**
 * Seccomp user notification: `<linux/seccomp.h>`, seccomp(2).
 *
 * A filter on this thread makes chosen ioctls wait until the holder of the listener says what they give. It survives
 * execve(2), so a launcher installs it, hands the listener to a supervisor and becomes the program.
 */

import { tryIoctl } from './ioctl.ts';
import { check, libcFunction, structure } from './libc.ts';

const SYS_seccomp = 317;
const SYS_ioctl = 16;
const SECCOMP_SET_MODE_FILTER = 1;
const SECCOMP_FILTER_FLAG_NEW_LISTENER = 8;
const SECCOMP_RET_USER_NOTIF = 0x7fc00000;
const SECCOMP_RET_ALLOW = 0x7fff0000;
const SECCOMP_IOCTL_NOTIF_RECV = 0xc0502100;
const SECCOMP_IOCTL_NOTIF_SEND = 0xc0182101;
const SECCOMP_USER_NOTIF_FLAG_CONTINUE = 1;
const AUDIT_ARCH_X86_64 = 0xc000003e;

// struct seccomp_data { int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]; }
const DATA_NR = 0;
const DATA_ARCH = 4;
const DATA_ARGS = 16;
/** struct seccomp_notif { __u64 id; __u32 pid; __u32 flags; struct seccomp_data data; } */
const NOTIF_BYTES = 80;
const NOTIF_DATA = 16;
/** struct seccomp_notif_resp { __u64 id; __s64 val; __s32 error; __u32 flags; } */
const NOTIF_RESP_BYTES = 24;

// Classic BPF: load a word of seccomp_data, compare, return. struct sock_filter { u16 code; u8 jt, jf; u32 k; }
const BPF_LD_W_ABS = 0x20;
const BPF_JEQ_K = 0x15;
const BPF_RET_K = 0x06;
const SOCK_FILTER_BYTES = 8;

structure('sock_fprog', { len: 'uint16_t', filter: 'void *' });
const c = {
  syscall: libcFunction('long syscall(long number, long a, long b, sock_fprog *c)'),
};

/**
 * Installs a filter on the calling thread (and what it becomes or starts) that notifies of ioctl(2) with one of the
 * `requests`. Gives the listener's descriptor. Needs CAP_SYS_ADMIN (or no_new_privs, which would break set-uid programs). More than 250 requests do not fit the jumps.
 */
export function notifyIoctls(requests: readonly number[]): number {
  const n = requests.length;
  const program: [code: number, jt: number, jf: number, k: number][] = [
    [BPF_LD_W_ABS, 0, 0, DATA_ARCH],
    [BPF_JEQ_K, 0, n + 3, AUDIT_ARCH_X86_64],
    [BPF_LD_W_ABS, 0, 0, DATA_NR],
    [BPF_JEQ_K, 0, n + 1, SYS_ioctl],
    [BPF_LD_W_ABS, 0, 0, DATA_ARGS + 8],
    ...requests.map((request, i): [number, number, number, number] => [BPF_JEQ_K, n - i, 0, request]),
    [BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW],
    [BPF_RET_K, 0, 0, SECCOMP_RET_USER_NOTIF],
  ];
  const filter = Buffer.alloc(program.length * SOCK_FILTER_BYTES);
  for (const [i, [code, jt, jf, k]] of program.entries()) {
    filter.writeUInt16LE(code, i * SOCK_FILTER_BYTES);
    filter.writeUInt8(jt, i * SOCK_FILTER_BYTES + 2);
    filter.writeUInt8(jf, i * SOCK_FILTER_BYTES + 3);
    filter.writeUInt32LE(k, i * SOCK_FILTER_BYTES + 4);
  }
  const fprog = { len: program.length, filter };
  const flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
  return check(c.syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, fprog), 'seccomp', { flags: 'NEW_LISTENER' });
}

/** A waiting system call. */
export interface Notification {
  id: bigint;
  /** Thread that waits. */
  tid: number;
  /** Arguments of the ioctl. */
  fd: number;
  request: number;
  argument: bigint;
}

/** Takes one notification from a readable listener; null when its caller has gone meanwhile. */
export function receiveNotification(listener: number): Notification | null {
  const notif = Buffer.alloc(NOTIF_BYTES);
  if (tryIoctl(listener, SECCOMP_IOCTL_NOTIF_RECV, notif) < 0) return null;
  const args = NOTIF_DATA + DATA_ARGS;
  return {
    id: notif.readBigUInt64LE(0),
    tid: notif.readUInt32LE(8),
    fd: notif.readInt32LE(args),
    request: notif.readUInt32LE(args + 8),
    argument: notif.readBigUInt64LE(args + 16),
  };
}

/** Ends a waiting system call with a result (0 or more) or a negative errno. */
export function answerNotification(listener: number, id: bigint, result: number): void {
  const response = Buffer.alloc(NOTIF_RESP_BYTES);
  response.writeBigUInt64LE(id, 0);
  if (result < 0) response.writeInt32LE(result, 16);
  else response.writeBigInt64LE(BigInt(result), 8);
  tryIoctl(listener, SECCOMP_IOCTL_NOTIF_SEND, response);
}

/** Lets the kernel carry the waiting system call out as if nothing had been. */
export function continueNotification(listener: number, id: bigint): void {
  const response = Buffer.alloc(NOTIF_RESP_BYTES);
  response.writeBigUInt64LE(id, 0);
  response.writeUInt32LE(SECCOMP_USER_NOTIF_FLAG_CONTINUE, 20);
  tryIoctl(listener, SECCOMP_IOCTL_NOTIF_SEND, response);
}
