/**
 * The supervisor's side of `ringswitch exec`: answers the ioctls that FUSE cannot bring.
 *
 * TUNSETOFFLOAD and its kin carry their value in the argument itself, which the kernel takes for a pointer of a FUSE
 * file. The launcher's seccomp filter makes them wait; here they are answered for tun clones and let through for
 * everything else.
 */

import type { Log } from '../fuse/log.ts';
import { TunFile } from '../fuse/tun-clone.ts';
import type { Identify } from '../fuse/vhost-net-clone.ts';
import { EIO } from '../linux/errno.ts';
import { close } from '../linux/file.ts';
import { POLLHUP, POLLIN, PollSet } from '../linux/poll.ts';
import { duplicateFrom, tgidOf } from '../linux/process.ts';
import { answerNotification, continueNotification, type Notification, receiveNotification } from '../linux/seccomp.ts';
import { type Watch, watchReadable } from '../linux/watch.ts';

interface Listener {
  fd: number;
  watch: Watch;
}

export class OffloadNotifications {
  readonly #identify: Identify;
  readonly #log: Log;
  readonly #listeners = new Set<Listener>();
  readonly #poll = new PollSet();

  constructor(identify: Identify, log: Log) {
    this.#identify = identify;
    this.#log = log;
  }

  /** Takes over listener `fd` of process `pid`. */
  adopt(pid: number, fd: number): void {
    const ours = duplicateFrom(pid, fd);
    const listener: Listener = { fd: ours, watch: watchReadable(ours, () => this.#readable(listener)) };
    this.#listeners.add(listener);
    this.#log.debug(`process ${pid} runs under exec`, { pid });
  }

  /** Lets all go; waiting calls fail with ENOSYS. */
  close(): void {
    for (const listener of [...this.#listeners]) this.#drop(listener);
  }

  #drop(listener: Listener): void {
    if (!this.#listeners.delete(listener)) return;
    listener.watch.close();
    close(listener.fd);
  }

  #readable(listener: Listener): void {
    this.#poll.clear();
    this.#poll.add(listener.fd, POLLIN);
    this.#poll.wait(0);
    const revents = this.#poll.revents(0);
    if ((revents & POLLIN) !== 0) {
      const notification = receiveNotification(listener.fd);
      if (notification) void this.#answer(listener, notification);
    } else if ((revents & POLLHUP) !== 0) this.#drop(listener); // All its processes have ended.
  }

  async #answer(listener: Listener, { id, tid, fd, request, argument }: Notification): Promise<void> {
    try {
      const file = await this.#identify(tgidOf(tid), fd);
      if (!(file instanceof TunFile)) {
        continueNotification(listener.fd, id);
        return;
      }
      const value = Number(BigInt.asIntN(32, argument));
      const result = await file.ioctlValue(request, value);
      answerNotification(listener.fd, id, result);
    } catch (error) {
      const { errno, message } = error as Error & { errno?: number };
      this.#log.debug(`ioctl 0x${request.toString(16)} of thread ${tid} refused: ${message}`);
      if (this.#listeners.has(listener)) answerNotification(listener.fd, id, -(errno ?? EIO));
    }
  }
}
