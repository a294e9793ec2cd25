/**
 * A FUSE connection: reads requests from /dev/fuse, hands them to a file system, writes its answers back.
 *
 * Main thread, without blocking: an answer may come at any later time, so a slow request holds nobody up. What the
 * connection serves must never be touched synchronously by this process, which would wait for itself.
 */

import { EINTR, EIO, ENOENT, ENOSYS, errnoName } from '../linux/errno.ts';
import { close, read, write } from '../linux/file.ts';
import { SystemError } from '../linux/libc.ts';
import { tgidOf } from '../linux/process.ts';
import { type Watch, watchReadable } from '../linux/watch.ts';
import type { Log } from './log.ts';
import {
  emitInit,
  emitNotifyPoll,
  emitReply,
  FUSE_ATOMIC_O_TRUNC,
  FUSE_BIG_WRITES,
  FUSE_KERNEL_VERSION,
  FUSE_MAX_PAGES,
  IN_HEADER_BYTES,
  type InHeader,
  Opcode,
  opcodeName,
  parseInHeader,
  parseInit,
  parseInterrupt,
} from './protocol.ts';

/** Longest write(2) that arrives in one piece: the longest frame with every header. */
const MAX_WRITE = 1 << 17;
const PAGE_BYTES = 4096;
const READ_BUFFER_BYTES = MAX_WRITE + 2 * PAGE_BYTES;

/** An answer that is an error: the errno for the caller, and the reason for the log. */
export class FuseError extends Error {
  readonly errno: number;

  constructor(errno: number, message: string) {
    super(`${message} (${errnoName(errno)})`);
    this.name = 'FuseError';
    this.errno = errno;
  }
}

/** One request of the kernel, with the process behind it. */
export class Request {
  readonly header: InHeader;
  readonly body: Buffer;
  #pid = 0;
  #onInterrupt: (() => void) | null = null;

  constructor(header: InHeader, body: Buffer) {
    this.header = header;
    this.body = body;
  }

  /** The calling thread. */
  get tid(): number {
    return this.header.tid;
  }

  /** The calling process (thread group). */
  get pid(): number {
    this.#pid ||= tgidOf(this.header.tid);
    return this.#pid;
  }

  /** What to do when a signal interrupts the caller. Answer then, with EINTR. */
  set onInterrupt(callback: () => void) {
    this.#onInterrupt = callback;
  }

  interrupt(): void {
    this.#onInterrupt?.();
  }

  /** Resolves with what `park` gives its callback, or rejects with EINTR when the caller is interrupted. */
  park<T>(park: (resolve: (value: T) => void, reject: (error: Error) => void) => () => void): Promise<T> {
    return new Promise((resolve, reject) => {
      const cancel = park(resolve, reject);
      this.onInterrupt = () => {
        cancel();
        reject(new FuseError(EINTR, 'interrupted'));
      };
    });
  }
}

/** What a connection serves. Answers a request with its body, or throws an error with an errno. */
export interface FileSystem {
  handle(request: Request): Buffer | Promise<Buffer>;
}

export class FuseConnection {
  readonly #fd: number;
  readonly #fileSystem: FileSystem;
  readonly #log: Log;
  readonly #buffer = Buffer.alloc(READ_BUFFER_BYTES);
  readonly #inFlight = new Map<bigint, Request>();
  readonly #onGone: () => void;
  #watch: Watch | null;

  /** Serves the connection `fd` (see mountFuse), which it takes over. `onGone`: the mount was taken away from outside. */
  constructor(fd: number, fileSystem: FileSystem, log: Log, onGone: () => void = () => {}) {
    this.#fd = fd;
    this.#fileSystem = fileSystem;
    this.#log = log;
    this.#onGone = onGone;
    this.#watch = watchReadable(fd, () => this.#readAll());
  }

  /** Wakes a caller that polls: its poll is asked again. */
  notifyPoll(kh: bigint): void {
    this.#write(emitNotifyPoll(kh), 'NOTIFY_POLL');
  }

  /** Stops serving. Unmount first, so that nobody waits for an answer. */
  close(): void {
    if (!this.#watch) return;
    this.#watch.close();
    this.#watch = null;
    close(this.#fd);
  }

  #readAll(): void {
    while (this.#watch) {
      let length: number;
      try {
        length = read(this.#fd, this.#buffer);
      } catch (error) {
        // ENOENT: a request vanished between its arrival and this read.
        if (error instanceof SystemError && error.errno === ENOENT) continue;
        // ENODEV: unmounted.
        this.close();
        this.#onGone();
        return;
      }
      if (length < 0) return;
      this.#dispatch(Buffer.from(this.#buffer.subarray(0, length)));
    }
  }

  #dispatch(message: Buffer): void {
    const header = parseInHeader(message);
    const body = message.subarray(IN_HEADER_BYTES);
    switch (header.opcode) {
      case Opcode.INIT:
        this.#init(header, body);
        return;
      case Opcode.FORGET:
      case Opcode.BATCH_FORGET:
        return; // Nodes are few and live for ever; no answer is wanted.
      case Opcode.INTERRUPT:
        this.#inFlight.get(parseInterrupt(body))?.interrupt();
        return;
      case Opcode.FLUSH:
        // Said once, and the kernel never asks again: closing a file needs no answer of ours.
        this.#write(emitReply(header.unique, -ENOSYS), 'FLUSH');
        return;
      case Opcode.DESTROY:
        this.#write(emitReply(header.unique, 0), 'DESTROY');
        return;
    }
    const request = new Request(header, body);
    this.#inFlight.set(header.unique, request);
    void this.#answer(request);
  }

  async #answer(request: Request): Promise<void> {
    const { unique, opcode } = request.header;
    let reply: Buffer;
    try {
      const answer = this.#fileSystem.handle(request);
      reply = emitReply(unique, 0, answer instanceof Promise ? await answer : answer);
    } catch (error) {
      reply = emitReply(unique, -this.#errnoOf(error, opcodeName(opcode), request.tid));
    }
    this.#inFlight.delete(unique);
    this.#write(reply, opcodeName(opcode));
  }

  #errnoOf(error: unknown, what: string, tid: number): number {
    const { errno, message, stack } = error as Error & { errno?: number };
    if (typeof errno === 'number' && !(error instanceof SystemError)) {
      this.#log.debug(`${what} of thread ${tid} refused: ${message}`);
      return Math.abs(errno);
    }
    // A system call failed on the way: usually the client is gone or gave a bad pointer.
    if (error instanceof SystemError) {
      this.#log.debug(`${what} of thread ${tid} failed: ${message}`);
      return error.errno;
    }
    this.#log.error(`${what} of thread ${tid} failed inside the daemon: ${message}`, { stack });
    return EIO;
  }

  #init(header: InHeader, body: Buffer): void {
    const { major, minor, flags } = parseInit(body);
    this.#log.debug(`FUSE ${major}.${minor}`);
    if (major !== FUSE_KERNEL_VERSION) {
      this.#log.error(`the kernel speaks FUSE ${major}.${minor}; ${FUSE_KERNEL_VERSION}.x is needed`);
      this.#write(emitReply(header.unique, -EIO), 'INIT');
      return;
    }
    // Opening a device with O_TRUNC truncates nothing and is no error.
    const wanted = (FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_MAX_PAGES) & flags;
    const out = emitInit(wanted, MAX_WRITE, MAX_WRITE / PAGE_BYTES + 1);
    this.#write(emitReply(header.unique, 0, out), 'INIT');
  }

  #write(reply: Buffer, what: string): void {
    if (!this.#watch) return;
    try {
      write(this.#fd, reply);
    } catch (error) {
      // ENOENT: the caller was interrupted or died meanwhile, or nobody polls any more.
      if (!(error instanceof SystemError) || error.errno !== ENOENT) {
        this.#log.warn(`answer to ${what} was not taken: ${(error as Error).message}`);
      }
    }
  }
}
