/** A vhost-user back-end that says what a test wants it to say, in the test's own process. */
import { close } from '../../linux/file.ts';
import type { SystemError } from '../../linux/libc.ts';
import { type Received, receiveDescriptors, sendDescriptors } from '../../linux/socket.ts';
import { acceptUnix, bindUnix, listenUnix } from '../../linux/unix-socket.ts';
import { type Watch, watchReadable } from '../../linux/watch.ts';
import { u64Reply, type VhostUserMessage, VhostUserParser } from '../../vhost/vhost-user-messages.ts';

/** What is answered to a message: bytes, a number, nothing, or the end of the connection. */
export type Answer = Buffer | bigint | null | 'hang up';

export class VhostUserBackEnd implements Disposable {
  /** Every message so far, without descriptors. */
  readonly messages: VhostUserMessage[] = [];
  readonly #listener: number;
  readonly #answer: (message: VhostUserMessage) => Answer | undefined;
  readonly #watches = new Map<number, Watch>();

  /** Listens at `path`. `answer`: undefined for what is usual (features are 0, all else succeeds). */
  constructor(path: string, answer: (message: VhostUserMessage) => Answer | undefined) {
    this.#answer = answer;
    this.#listener = bindUnix(path);
    listenUnix(this.#listener);
    this.#watches.set(
      this.#listener,
      watchReadable(this.#listener, () => this.#accept()),
    );
  }

  get names(): string[] {
    return this.messages.map(({ name }) => name.replace('VHOST_USER_', ''));
  }

  #accept(): void {
    const fd = acceptUnix(this.#listener);
    if (fd === null) return;
    const parser = new VhostUserParser();
    const watch = watchReadable(fd, () => this.#read(fd, parser));
    this.#watches.set(fd, watch);
  }

  #read(fd: number, parser: VhostUserParser): void {
    while (this.#watches.has(fd)) {
      let received: Received | null;
      try {
        received = receiveDescriptors(fd, parser.room, 8);
      } catch (error) {
        // It went without reading all that was said.
        if ((error as SystemError).code !== 'ECONNRESET') throw error;
        received = { length: 0, fds: [] };
      }
      if (received === null) return;
      if (received.length === 0) {
        this.#hangUp(fd);
        return;
      }
      const message = parser.take(received.length, received.fds);
      if (!message) continue;
      for (const one of message.fds) close(one);
      this.messages.push(message);
      this.#say(fd, message, this.#answer(message));
    }
  }

  #say(fd: number, { request, needReply }: VhostUserMessage, answer: Answer | undefined): void {
    if (answer === 'hang up') {
      this.#hangUp(fd);
      return;
    }
    if (answer === null || (answer === undefined && !needReply)) return;
    const bytes = Buffer.isBuffer(answer) ? answer : u64Reply(request, answer ?? 0n);
    sendDescriptors(fd, bytes, []);
  }

  #hangUp(fd: number): void {
    this.#watches.get(fd)!.close();
    this.#watches.delete(fd);
    close(fd);
  }

  /** Ends all connections, and listens on. */
  hangUp(): void {
    for (const fd of [...this.#watches.keys()]) if (fd !== this.#listener) this.#hangUp(fd);
  }

  get connections(): number {
    return this.#watches.size - 1;
  }

  [Symbol.dispose](): void {
    for (const fd of [...this.#watches.keys()]) this.#hangUp(fd);
  }
}
