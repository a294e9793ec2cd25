/** poll(2) and ppoll(2): `<poll.h>`. */
import { EINTR } from './errno.ts';
import { type Address, addressOf, lastErrno, libcFunction, SystemError } from './libc.ts';

export const POLLIN = 0x1;
export const POLLOUT = 0x4;
export const POLLERR = 0x8;
export const POLLHUP = 0x10;
export const POLLRDNORM = 0x40;
export const POLLWRNORM = 0x100;

/** struct pollfd: int fd; short events; short revents. */
const POLLFD_BYTES = 8;
const EVENTS_OFFSET = 4;
const REVENTS_OFFSET = 6;

/** struct timespec: time_t tv_sec; long tv_nsec. */
const TIMESPEC_BYTES = 16;
const TV_NSEC_OFFSET = 8;
const NS_PER_MS = 1e6;
const MS_PER_SECOND = 1000;

const c = {
  poll: libcFunction('int poll(uintptr_t fds, ulong nfds, int timeout)'),
  ppoll: libcFunction('int ppoll(uintptr_t fds, ulong nfds, uintptr_t timeout, uintptr_t sigmask)'),
};

/** A set of descriptors that one thread sleeps on. Rebuilt with {@link clear} and {@link add}; sleeping allocates nothing. */
export class PollSet {
  #bytes = new DataView(new ArrayBuffer(64 * POLLFD_BYTES));
  #address: Address = addressOf(this.#bytes);
  #count = 0;
  readonly #timeout = new DataView(new ArrayBuffer(TIMESPEC_BYTES));
  readonly #timeoutAddress: Address = addressOf(this.#timeout);

  get size(): number {
    return this.#count;
  }

  clear(): void {
    this.#count = 0;
  }

  /** Adds a descriptor; gives its index. A descriptor that is not open answers POLLNVAL, which is ignored. */
  add(fd: number, events: number): number {
    const at = this.#count * POLLFD_BYTES;
    if (at === this.#bytes.byteLength) {
      const grown = new Uint8Array(2 * at);
      grown.set(new Uint8Array(this.#bytes.buffer));
      this.#bytes = new DataView(grown.buffer);
      this.#address = addressOf(this.#bytes);
    }
    this.#bytes.setInt32(at, fd, true);
    this.#bytes.setInt16(at + EVENTS_OFFSET, events, true);
    this.#bytes.setInt16(at + REVENTS_OFFSET, 0, true);
    return this.#count++;
  }

  /** Sleeps until something happens or the time (in whole ms, -1 for ever) is over: how many descriptors answered. */
  wait(timeoutMs: number): number {
    return answered('poll', c.poll(this.#address, this.#count, timeoutMs), this.#count, timeoutMs);
  }

  /** {@link wait} for a time of which the fractions of a ms count too; 0 or more. */
  waitPrecisely(timeoutMs: number): number {
    const seconds = Math.floor(timeoutMs / MS_PER_SECOND);
    this.#timeout.setBigInt64(0, BigInt(seconds), true);
    this.#timeout.setBigInt64(
      TV_NSEC_OFFSET,
      BigInt(Math.floor((timeoutMs - seconds * MS_PER_SECOND) * NS_PER_MS)),
      true,
    );
    return answered('ppoll', c.ppoll(this.#address, this.#count, this.#timeoutAddress, 0), this.#count, timeoutMs);
  }

  /** The descriptor at `index`. */
  fd(index: number): number {
    return this.#bytes.getInt32(index * POLLFD_BYTES, true);
  }

  /** What happened at `index`: POLLIN and so on. */
  revents(index: number): number {
    return this.#bytes.getInt16(index * POLLFD_BYTES + REVENTS_OFFSET, true);
  }
}

function answered(call: string, result: number, count: number, timeoutMs: number): number {
  if (result >= 0) return result;
  const errno = lastErrno();
  if (errno === EINTR) return 0;
  throw new SystemError(call, errno, { count, timeoutMs });
}
