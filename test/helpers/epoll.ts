/** epoll(7): `<sys/epoll.h>`, as far as a test of edge-triggered readiness needs it. */
import { close } from '../../linux/file.ts';
import { check, libcFunction } from '../../linux/libc.ts';
import { POLLIN } from '../../linux/poll.ts';

const EPOLL_CTL_ADD = 1;
const EPOLLET = 2 ** 31;
/** struct epoll_event { uint32_t events; uint64_t data; }, packed on x86-64. */
const EVENT_BYTES = 12;

const c = {
  epoll_create1: libcFunction('int epoll_create1(int flags)'),
  epoll_ctl: libcFunction('int epoll_ctl(int epfd, int op, int fd, void *event)'),
  epoll_wait: libcFunction('int epoll_wait(int epfd, void *events, int maxevents, int timeout)'),
};

/** One descriptor watched with EPOLLIN | EPOLLET. */
export class EdgeTriggered implements Disposable {
  readonly #epoll: number;

  constructor(fd: number) {
    this.#epoll = check(c.epoll_create1(0), 'epoll_create1', {});
    const event = Buffer.alloc(EVENT_BYTES);
    event.writeUInt32LE(EPOLLET + POLLIN, 0);
    check(c.epoll_ctl(this.#epoll, EPOLL_CTL_ADD, fd, event), 'epoll_ctl', { fd });
  }

  /** Whether the descriptor becomes readable within `timeoutMs`. */
  wait(timeoutMs: number): boolean {
    const event = Buffer.alloc(EVENT_BYTES);
    return check(c.epoll_wait(this.#epoll, event, 1, timeoutMs), 'epoll_wait', { timeoutMs }) === 1;
  }

  [Symbol.dispose](): void {
    close(this.#epoll);
  }
}
