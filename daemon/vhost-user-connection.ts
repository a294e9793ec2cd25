/**
 * The socket of one vhost-user connection: bytes and descriptors become messages, one at a time, for its session.
 *
 *     open ── the peer goes, breaks the protocol, or end() ──► rings stop, descriptors are closed ──► onEnded
 *
 * While a message is being carried out the socket is not watched: a front-end that sends faster waits in the kernel.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Log } from '../fuse/log.ts';
import { EAGAIN } from '../linux/errno.ts';
import { close } from '../linux/file.ts';
import { SystemError } from '../linux/libc.ts';
import { POLLERR, POLLHUP, PollSet } from '../linux/poll.ts';
import { commandName } from '../linux/process.ts';
import { receiveDescriptors, sendDescriptors } from '../linux/socket.ts';
import { peerPid } from '../linux/unix-socket.ts';
import { type Watch, watchReadable } from '../linux/watch.ts';
import { VHOST_MEMORY_BASELINE_NREGIONS, VhostUserParser } from '../vhost/vhost-user-messages.ts';
import { VhostUserSession, type VhostUserTarget } from '../vhost/vhost-user-session.ts';

/** Messages after which others have their turn on the event loop. */
const BURST = 16;

/** The peer has closed its side between two messages, as it may. */
class PeerGone extends Error {
  constructor() {
    super('it has closed the connection');
    this.name = 'PeerGone';
  }
}

export interface VhostUserConnectionOptions {
  /** A connected socket, non-blocking; taken over. */
  fd: number;
  /** Name of the port, for the log. */
  name: string;
  target: VhostUserTarget;
  log: Log;
  /** Called once, when nothing of the connection is left. */
  onEnded: () => void;
}

export class VhostUserConnection {
  /** The process on the other side, 0 when it has no number here. */
  readonly pid: number;
  readonly #fd: number;
  readonly #name: string;
  readonly #log: Log;
  readonly #onEnded: () => void;
  readonly #session: VhostUserSession;
  readonly #parser = new VhostUserParser();
  #watch: Watch | null = null;
  #pumping: Promise<void> = Promise.resolve();
  #ended: Promise<void> | undefined;

  constructor({ fd, name, target, log, onEnded }: VhostUserConnectionOptions) {
    this.pid = peerPid(fd);
    this.#fd = fd;
    this.#name = name;
    this.#log = log;
    this.#onEnded = onEnded;
    this.#session = new VhostUserSession(target, this.pid, {
      debug: (message) => log.debug(`${name}: ${message}`, { port: name }),
      warn: (message) => log.warn(`${name}: ${message}`, { port: name }),
    });
    log.info(`${name}: connected to ${this.#peer}`, { port: name });
    this.#listen();
  }

  get #peer(): string {
    return this.pid === 0 ? 'a process of another PID namespace' : `process ${this.pid} (${commandName(this.pid)})`;
  }

  /** Whether the peer has gone, though perhaps not all that it sent has been read. */
  get isDead(): boolean {
    if (this.#ended) return true;
    const poll = new PollSet();
    const index = poll.add(this.#fd, 0);
    return poll.wait(0) > 0 && (poll.revents(index) & (POLLHUP | POLLERR)) !== 0;
  }

  #listen(): void {
    this.#watch = watchReadable(this.#fd, () => {
      this.#watch?.close();
      this.#watch = null;
      this.#pumping = this.#pump();
    });
  }

  async #pump(): Promise<void> {
    try {
      for (let handled = 1; this.#ended === undefined; handled++) {
        const message = this.#read();
        if (message === null) {
          this.#listen();
          return;
        }
        const answer = await this.#session.handle(message);
        if (answer !== null) this.#send(answer);
        if (handled % BURST === 0) await nextTurn();
      }
    } catch (error) {
      void this.end(error as Error);
    }
  }

  /** The next message, or null when it has not come yet. */
  #read() {
    const parser = this.#parser;
    for (;;) {
      const received = receiveDescriptors(this.#fd, parser.room, VHOST_MEMORY_BASELINE_NREGIONS);
      if (received === null) return null;
      if (received.length === 0) {
        throw parser.amidst ? new Error('it has closed the connection in the midst of a message') : new PeerGone();
      }
      const message = parser.take(received.length, received.fds);
      if (message !== null) return message;
    }
  }

  #send(answer: Buffer): void {
    let sent = 0;
    try {
      sent = sendDescriptors(this.#fd, answer, []);
    } catch (error) {
      if (!(error instanceof SystemError) || error.errno !== EAGAIN) throw error;
    }
    if (sent !== answer.length) throw new Error('it does not read the answers that it asked for');
  }

  /** Ends the connection, once, whoever asks; resolves when its rings have stopped. */
  end(reason?: Error): Promise<void> {
    this.#ended ??= this.#end(reason);
    return this.#ended;
  }

  async #end(reason: Error | undefined): Promise<void> {
    this.#watch?.close();
    this.#watch = null;
    await this.#pumping;
    const fields = { port: this.#name, pid: this.pid };
    try {
      await this.#session.close();
    } catch (error) {
      this.#log.error(`${this.#name}: ending a vhost-user connection: ${(error as Error).message}`, fields);
    }
    for (const fd of this.#parser.abandon()) close(fd);
    close(this.#fd);
    if (reason === undefined || reason instanceof PeerGone || isReset(reason)) {
      this.#log.info(`${this.#name}: the vhost-user connection has ended; the port stays`, fields);
    } else {
      this.#log.warn(`${this.#name}: the vhost-user connection to ${this.#peer} ends: ${reason.message}`, fields);
    }
    this.#onEnded();
  }
}

function isReset(error: Error): boolean {
  return error instanceof SystemError && (error.code === 'ECONNRESET' || error.code === 'EPIPE');
}
