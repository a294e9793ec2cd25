/**
 * Unix stream sockets by path, non-blocking and close-on-exec: `<sys/socket.h>`, `<sys/un.h>`, unix(7).
 *
 * For protocols that send descriptors (socket.ts), which Node's own sockets cannot receive.
 */
import { EAGAIN, ECONNABORTED, EINTR } from './errno.ts';
import { close } from './file.ts';
import { check, lastErrno, libcFunction, SystemError } from './libc.ts';
import { AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET } from './socket.ts';

const SOCK_NONBLOCK = 0o4000;
const SO_PEERCRED = 17;
/** struct sockaddr_un { sa_family_t family; char path[108]; } */
const SUN_PATH_OFFSET = 2;
const SUN_PATH_BYTES = 108;
/** struct ucred { pid_t pid; uid_t uid; gid_t gid; } */
const UCRED_BYTES = 12;
const BACKLOG = 8;

const c = {
  socket: libcFunction('int socket(int domain, int type, int protocol)'),
  bind: libcFunction('int bind(int fd, const void *address, uint32_t length)'),
  listen: libcFunction('int listen(int fd, int backlog)'),
  accept4: libcFunction('int accept4(int fd, void *address, void *length, int flags)'),
  connect: libcFunction('int connect(int fd, const void *address, uint32_t length)'),
  getsockopt: libcFunction('int getsockopt(int fd, int level, int name, void *value, void *length)'),
};

function unixAddress(path: string): Buffer {
  const bytes = Buffer.from(path);
  if (bytes.length === 0 || bytes.length >= SUN_PATH_BYTES || bytes.includes(0)) {
    throw new RangeError(
      `${JSON.stringify(path)} is no path of a socket: 1 to ${SUN_PATH_BYTES - 1} bytes without NUL`,
    );
  }
  const address = Buffer.alloc(SUN_PATH_OFFSET + bytes.length + 1);
  address.writeUInt16LE(AF_UNIX, 0);
  bytes.copy(address, SUN_PATH_OFFSET);
  return address;
}

function withSocket(path: string, use: (fd: number, address: Buffer) => void): number {
  const address = unixAddress(path);
  const fd = check(c.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'socket', {});
  try {
    use(fd, address);
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}

/** A socket bound to `path`, which nobody can connect to before {@link listenUnix}. EADDRINUSE when the path is there. */
export function bindUnix(path: string): number {
  return withSocket(path, (fd, address) => check(c.bind(fd, address, address.length), 'bind', { path }));
}

/** listen(2). */
export function listenUnix(fd: number): void {
  check(c.listen(fd, BACKLOG), 'listen', { fd });
}

/** Takes a connection, or gives null when none waits. */
export function acceptUnix(listener: number): number | null {
  const fd = c.accept4(listener, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) return fd;
  const errno = lastErrno();
  if (errno === EAGAIN || errno === EINTR || errno === ECONNABORTED) return null;
  throw new SystemError('accept4', errno, { listener });
}

/**
 * Connects to a listening socket. SystemError ENOENT: there is no such path; ECONNREFUSED: nobody listens there any more;
 * EAGAIN: too many wait to be accepted.
 */
export function connectUnix(path: string): number {
  return withSocket(path, (fd, address) => check(c.connect(fd, address, address.length), 'connect', { path }));
}

/** The process that connected or listens on the other side (SO_PEERCRED); 0 when it has no number here. */
export function peerPid(fd: number): number {
  const credentials = Buffer.alloc(UCRED_BYTES);
  const length = Uint32Array.of(UCRED_BYTES);
  check(c.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, length), 'getsockopt', { fd, name: 'SO_PEERCRED' });
  return credentials.readInt32LE(0);
}
