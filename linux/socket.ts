/**
 * Unix sockets that carry descriptors: sendmsg(2) and recvmsg(2) with SCM_RIGHTS, `<sys/socket.h>`, cmsg(3).
 *
 *     struct msghdr { void *name; socklen_t namelen; struct iovec *iov; size_t iovlen; void *control; size_t controllen; int flags; }
 *     struct cmsghdr { size_t len; int level; int type; } then the descriptors, each an int
 */
import { EAGAIN, EINTR } from './errno.ts';
import { close } from './file.ts';
import { check, lastErrno, libcFunction, SystemError, structure } from './libc.ts';

export const AF_UNIX = 1;
export const SOCK_STREAM = 1;
export const SOCK_CLOEXEC = 0o2000000;
export const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_CTRUNC = 0x8;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
/** Descriptors of one message at the most: SCM_MAX_FD of the kernel. */
export const SCM_MAX_FD = 253;
const CMSGHDR_BYTES = 16;
const CMSG_TYPE_OFFSET = 12;
const CMSG_LEVEL_OFFSET = 8;
const CMSG_ALIGN = 8;
const INT_BYTES = 4;

structure('msg_iovec', { iov_base: 'void *', iov_len: 'size_t' });
structure('msghdr', {
  msg_name: 'void *',
  msg_namelen: 'uint32_t',
  msg_iov: 'msg_iovec *',
  msg_iovlen: 'size_t',
  msg_control: 'void *',
  msg_controllen: 'size_t',
  msg_flags: 'int',
});

const c = {
  socketpair: libcFunction('int socketpair(int domain, int type, int protocol, void *pair)'),
  sendmsg: libcFunction('int64_t sendmsg(int fd, const msghdr *message, int flags)'),
  recvmsg: libcFunction('int64_t recvmsg(int fd, _Inout_ msghdr *message, int flags)'),
};

/** Two connected stream sockets, close-on-exec. */
export function socketPair(): [number, number] {
  const pair = new Int32Array(2);
  check(c.socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 'socketpair', {});
  return [pair[0]!, pair[1]!];
}

/** Sends `bytes` with descriptors, which stay ours too. Gives the bytes sent, which may be fewer on a stream. */
export function sendDescriptors(socket: number, bytes: Uint8Array, fds: readonly number[]): number {
  if (bytes.length === 0) throw new RangeError('sendDescriptors: descriptors travel with at least one byte');
  if (fds.length > SCM_MAX_FD)
    throw new RangeError(`sendDescriptors: ${fds.length} descriptors, at most ${SCM_MAX_FD}`);
  const length = CMSGHDR_BYTES + fds.length * INT_BYTES;
  const control = Buffer.alloc(Math.ceil(length / CMSG_ALIGN) * CMSG_ALIGN);
  control.writeBigUInt64LE(BigInt(length), 0);
  control.writeInt32LE(SOL_SOCKET, CMSG_LEVEL_OFFSET);
  control.writeInt32LE(SCM_RIGHTS, CMSG_TYPE_OFFSET);
  for (const [i, fd] of fds.entries()) control.writeInt32LE(fd, CMSGHDR_BYTES + i * INT_BYTES);
  const message = header(bytes, fds.length > 0 ? control : null);
  return check(c.sendmsg(socket, message, MSG_NOSIGNAL), 'sendmsg', { socket, bytes: bytes.length, fds });
}

export interface Received {
  /** Bytes read; 0 when the peer has closed. */
  length: number;
  /** Descriptors that came along, ours to close; close-on-exec. */
  fds: number[];
}

/**
 * Receives into `bytes`, with up to `maxFds` descriptors; null where a non-blocking socket has nothing. Throws when
 * more descriptors came than asked for; those that did arrive are closed.
 */
export function receiveDescriptors(socket: number, bytes: Uint8Array, maxFds: number): Received | null {
  const room = Math.ceil((CMSGHDR_BYTES + maxFds * INT_BYTES) / CMSG_ALIGN) * CMSG_ALIGN;
  const control = Buffer.alloc(room);
  const message = header(bytes, control);
  const length = c.recvmsg(socket, message, MSG_CMSG_CLOEXEC);
  if (length < 0) {
    const errno = lastErrno();
    if (errno === EAGAIN || errno === EINTR) return null;
    throw new SystemError('recvmsg', errno, { socket, bytes: bytes.length });
  }
  const fds = parseRights(control.subarray(0, Number(message.msg_controllen)));
  if ((message.msg_flags & MSG_CTRUNC) !== 0 || fds.length > maxFds) {
    for (const fd of fds) close(fd);
    throw new Error(`recvmsg on socket ${socket}: more descriptors came than the ${maxFds} expected`);
  }
  return { length, fds };
}

function header(bytes: Uint8Array, control: Buffer | null) {
  return {
    msg_name: null,
    msg_namelen: 0,
    msg_iov: [{ iov_base: bytes, iov_len: bytes.length }],
    msg_iovlen: 1,
    msg_control: control,
    msg_controllen: control?.length ?? 0,
    msg_flags: 0,
  };
}

function parseRights(control: Buffer): number[] {
  const fds: number[] = [];
  for (let at = 0; at + CMSGHDR_BYTES <= control.length; ) {
    const length = Number(control.readBigUInt64LE(at));
    if (length < CMSGHDR_BYTES) break;
    const rights =
      control.readInt32LE(at + CMSG_LEVEL_OFFSET) === SOL_SOCKET &&
      control.readInt32LE(at + CMSG_TYPE_OFFSET) === SCM_RIGHTS;
    const end = Math.min(at + length, control.length);
    if (rights) for (let i = at + CMSGHDR_BYTES; i + INT_BYTES <= end; i += INT_BYTES) fds.push(control.readInt32LE(i));
    at += Math.ceil(length / CMSG_ALIGN) * CMSG_ALIGN;
  }
  return fds;
}
