/** Two connected descriptors that keep messages apart, as a tun file does; non-blocking. */
import { addressOf, check, libcFunction } from '../../linux/libc.ts';

// <sys/socket.h>
const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const socketpairCall = libcFunction('int socketpair(int domain, int type, int protocol, uintptr_t pair)');

export function messagePair(): [here: number, there: number] {
  const pair = new Int32Array(2);
  const type = SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
  check(socketpairCall(AF_UNIX, type, 0, addressOf(pair)), 'socketpair', { type });
  return [pair[0]!, pair[1]!];
}
