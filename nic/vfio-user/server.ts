/**
 * A device on a Unix socket, for one vfio-user client at a time.
 *
 *     path ── listen ── client ── messages, one at a time ── VfioUserSession ── device
 *                          │   ◄── DMA_READ, DMA_WRITE: waited for, where its memory came without a file
 *                          └── gone: memory and descriptors go, the device is reset, the next may come
 */
import { EAGAIN, errnoName } from '../../linux/errno.ts';
import { close } from '../../linux/file.ts';
import { SystemError } from '../../linux/libc.ts';
import { POLLERR, POLLHUP, POLLIN, POLLOUT, PollSet } from '../../linux/poll.ts';
import { receiveDescriptors, sendDescriptors } from '../../linux/socket.ts';
import { acceptUnix, bindUnix, listenUnix } from '../../linux/unix-socket.ts';
import { type Watch, watchReadable } from '../../linux/watch.ts';
import type { BusAddress, HostBus } from '../model/host-bus.ts';
import {
  commandName,
  composeMessage,
  FLAG_ERROR,
  FLAG_NO_REPLY,
  FLAG_REPLY,
  FLAG_TYPE_MASK,
  MAX_MESSAGE_BYTES,
  MAX_MESSAGE_FDS,
  type VfioUserMessage,
  VfioUserParser,
} from './messages.ts';
import { type VfioUserDevice, VfioUserSession } from './session.ts';

/** Messages after which others have their turn on the event loop. */
const BURST = 64;
/** How long a client may leave replies unread, in ms. */
const SEND_TIMEOUT_MS = 2000;
/** How long a client may take to answer, in ms; and requests that it may send meanwhile. */
const REPLY_TIMEOUT_MS = 2000;
const MAX_DEFERRED = 1024;
const ID_MASK = 0xffff;

export interface ServerLog {
  info(message: string): void;
  warn(message: string): void;
}

/** Serves one device. It is the device's {@link HostBus}, too: the memory of whoever is connected. */
export class VfioUserServer implements HostBus {
  readonly #path: string;
  readonly #log: ServerLog;
  readonly #listener: number;
  readonly #watch: Watch;
  #device: VfioUserDevice | null = null;
  #connection: Connection | null = null;

  /** Listens on `path`, which must be free: SystemError EADDRINUSE. {@link serve} says what is behind it. */
  constructor(path: string, log: ServerLog) {
    this.#path = path;
    this.#log = log;
    this.#listener = bindUnix(path);
    listenUnix(this.#listener);
    this.#watch = watchReadable(this.#listener, () => this.#accept());
  }

  /** The device. */
  serve(device: VfioUserDevice): void {
    this.#device = device;
  }

  read(address: BusAddress, into: Uint8Array): boolean {
    return this.#connection?.session.dma.read(address, into) ?? false;
  }

  write(address: BusAddress, from: Uint8Array): boolean {
    return this.#connection?.session.dma.write(address, from) ?? false;
  }

  writeWords(address: BusAddress, words: Uint32Array, last: number): boolean {
    return this.#connection?.session.dma.writeWords(address, words, last) ?? false;
  }

  interrupt(vector: number): void {
    this.#connection?.session.interrupt(vector);
  }

  #accept(): void {
    for (let fd = acceptUnix(this.#listener); fd !== null; fd = acceptUnix(this.#listener)) {
      // One that has gone may not have been heard out yet.
      this.#connection?.seeOff();
      if (this.#connection !== null || this.#device === null) {
        this.#log.warn(`${this.#path}: a second client was turned away: a card is in one machine at a time`);
        close(fd);
        continue;
      }
      this.#log.info(`${this.#path}: a machine has connected`);
      const device = this.#device;
      const connection = new Connection(fd, device, this.#log, this.#path, () => {
        this.#connection = null;
        device.reset();
      });
      this.#connection = connection;
    }
  }

  /** Stops listening, and sends the client away. The socket's file is the caller's to remove. */
  close(): void {
    this.#watch.close();
    this.#connection?.end();
    close(this.#listener);
  }
}

class Connection {
  readonly session: VfioUserSession;
  readonly #fd: number;
  readonly #log: ServerLog;
  readonly #path: string;
  readonly #onEnded: () => void;
  readonly #parser = new VfioUserParser();
  /** For replies that are waited for while the body of a request is still in use. */
  readonly #replyParser = new VfioUserParser();
  readonly #watch: Watch;
  /** Requests that came while a reply was waited for. */
  #deferred: VfioUserMessage[] = [];
  #deferredBytes = 0;
  #handling = false;
  #nextId = 1;
  /** What is wrong with the client: it is to be seen off when nobody is in the midst of anything. */
  #failure: Error | null = null;
  #pumpPending: NodeJS.Immediate | null = null;
  #ended = false;

  constructor(fd: number, device: VfioUserDevice, log: ServerLog, path: string, onEnded: () => void) {
    this.#fd = fd;
    this.#log = log;
    this.#path = path;
    this.#onEnded = onEnded;
    this.session = new VfioUserSession(
      device,
      (message) => log.warn(`${path}: ${message}`),
      (command, body, take) => this.#ask(command, body, take),
    );
    this.#watch = watchReadable(fd, () => this.#pump());
  }

  /** Where the client has gone: carries out what it still sent, and ends. */
  seeOff(): void {
    const poll = new PollSet();
    const index = poll.add(this.#fd, 0);
    if (poll.wait(0) === 0 || (poll.revents(index) & (POLLHUP | POLLERR)) === 0) return;
    // Nothing comes any more, so this ends.
    while (!this.#ended) this.#pump();
  }

  #pump(): void {
    try {
      for (let n = 0; n < BURST && !this.#ended; ) {
        if (this.#failure !== null) throw this.#failure;
        let message = this.#takeDeferred();
        if (message === null) {
          const received = receiveDescriptors(this.#fd, this.#parser.room, MAX_MESSAGE_FDS);
          if (received === null) return;
          if (received.length === 0) {
            if (this.#parser.amidst) this.#log.warn(`${this.#path}: the machine went in the midst of a message`);
            this.end();
            return;
          }
          message = this.#parser.take(received.length, received.fds);
          if (message === null) continue;
        }
        n++;
        this.#handling = true;
        const reply = this.session.handle(message);
        this.#handling = false;
        if (reply !== null && this.#failure === null) this.#send(reply);
      }
      if (this.#deferred.length > 0) this.#pumpSoon();
    } catch (error) {
      this.#handling = false;
      if (!(error instanceof SystemError && (error.code === 'ECONNRESET' || error.code === 'EPIPE'))) {
        this.#log.warn(`${this.#path}: the connection ends: ${(error as Error).message}`);
      }
      this.end();
    }
  }

  #takeDeferred(): VfioUserMessage | null {
    const message = this.#deferred.shift();
    if (message === undefined) return null;
    this.#deferredBytes -= message.body.length;
    return message;
  }

  #pumpSoon(): void {
    this.#pumpPending ??= setImmediate(() => {
      this.#pumpPending = null;
      if (!this.#ended) this.#pump();
    });
  }

  /**
   * Sends the client a request, and waits for its reply; its own requests are carried out later, in order. See {@link AskClient}.
   * A client that does not answer, or not as it should, is seen off as soon as the device is done with what it does.
   */
  #ask(command: number, body: Buffer, take: (reply: Buffer) => void): boolean {
    if (this.#ended || this.#failure !== null) return false;
    const id = this.#nextId;
    this.#nextId = (this.#nextId + 1) & ID_MASK;
    try {
      this.#send(composeMessage(id, command, 0, body));
      const { flags, error, body: reply } = this.#awaitReply(id, command);
      if ((flags & FLAG_ERROR) === 0) {
        take(reply);
        return true;
      }
      this.#log.warn(`${this.#path}: ${commandName(command)} was refused: ${errnoName(error)}`);
    } catch (error) {
      this.#failure = new Error(`${commandName(command)}: ${(error as Error).message}`);
    } finally {
      if (this.#failure !== null || this.#deferred.length > 0) this.#pumpSoon();
    }
    return false;
  }

  #awaitReply(id: number, command: number): VfioUserMessage {
    const deadline = performance.now() + REPLY_TIMEOUT_MS;
    const parser = this.#handling ? this.#replyParser : this.#parser;
    const poll = new PollSet();
    poll.add(this.#fd, POLLIN);
    for (;;) {
      const left = Math.ceil(deadline - performance.now());
      if (left <= 0 || poll.wait(left) === 0) throw this.#noReply();
      const received = receiveDescriptors(this.#fd, parser.room, MAX_MESSAGE_FDS);
      if (received === null) continue;
      if (received.length === 0) throw new Error('the machine has gone');
      const message = parser.take(received.length, received.fds);
      if (message === null) continue;
      if ((message.flags & FLAG_TYPE_MASK) !== FLAG_REPLY) {
        this.#defer(message);
        continue;
      }
      for (const fd of message.fds.splice(0)) close(fd);
      if (message.id === id && message.command === command) return message;
      throw new Error(
        `a reply to ${commandName(message.command)} (id ${message.id}) came in place of that with id ${id}`,
      );
    }
  }

  /** A client that holds a lock until its own request is answered (QEMU does) answers none meanwhile. */
  #noReply(): Error {
    const waiting = this.#deferred.find(({ flags }) => (flags & FLAG_NO_REPLY) === 0);
    const why =
      waiting === undefined
        ? ''
        : `: it waits for its own ${commandName(waiting.command)}. Share its memory (QEMU: a memory backend with share=on)`;
    return new Error(`no reply in ${REPLY_TIMEOUT_MS} ms${why}`);
  }

  #defer(message: VfioUserMessage): void {
    this.#deferred.push({ ...message, body: Buffer.from(message.body) });
    this.#deferredBytes += message.body.length;
    if (this.#deferred.length > MAX_DEFERRED || this.#deferredBytes > MAX_MESSAGE_BYTES) {
      throw new Error(`${this.#deferred.length} requests came, and no reply`);
    }
  }

  /** A client that does not read is waited for, for a while: replies are small. */
  #send(reply: Buffer): void {
    const deadline = performance.now() + SEND_TIMEOUT_MS;
    for (let sent = 0; sent < reply.length; ) {
      try {
        sent += sendDescriptors(this.#fd, reply.subarray(sent), []);
      } catch (error) {
        if (!(error instanceof SystemError) || error.errno !== EAGAIN) throw error;
        const poll = new PollSet();
        poll.add(this.#fd, POLLOUT);
        const left = deadline - performance.now();
        if (left <= 0 || poll.wait(left) === 0) throw new Error('it does not read the replies that it asked for');
      }
    }
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#watch.close();
    if (this.#pumpPending !== null) clearImmediate(this.#pumpPending);
    const abandoned = [...this.#parser.abandon(), ...this.#replyParser.abandon()];
    for (const { fds } of this.#deferred.splice(0)) abandoned.push(...fds);
    for (const fd of abandoned) close(fd);
    // First the device stops, then its memory goes.
    this.#onEnded();
    this.session.close();
    close(this.#fd);
    this.#log.info(`${this.#path}: the machine has gone`);
  }
}
