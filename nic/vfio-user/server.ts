/**
 * A device on a Unix socket, for one vfio-user client at a time.
 *
 *     path ── listen ── client ── messages, one at a time ── VfioUserSession ── device
 *                          └── gone: memory and descriptors go, the device is reset, the next may come
 */
import { EAGAIN } from '../../linux/errno.ts';
import { close } from '../../linux/file.ts';
import { SystemError } from '../../linux/libc.ts';
import { POLLERR, POLLHUP, POLLOUT, PollSet } from '../../linux/poll.ts';
import { receiveDescriptors, sendDescriptors } from '../../linux/socket.ts';
import { acceptUnix, bindUnix, listenUnix } from '../../linux/unix-socket.ts';
import { type Watch, watchReadable } from '../../linux/watch.ts';
import type { BusAddress, HostBus } from '../model/host-bus.ts';
import { MAX_MESSAGE_FDS, VfioUserParser } from './messages.ts';
import { type VfioUserDevice, VfioUserSession } from './session.ts';

/** Messages after which others have their turn on the event loop. */
const BURST = 64;
/** How long a client may leave replies unread, in ms. */
const SEND_TIMEOUT_MS = 2000;

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
  readonly #watch: Watch;
  #ended = false;

  constructor(fd: number, device: VfioUserDevice, log: ServerLog, path: string, onEnded: () => void) {
    this.#fd = fd;
    this.#log = log;
    this.#path = path;
    this.#onEnded = onEnded;
    this.session = new VfioUserSession(device, (message) => log.warn(`${path}: ${message}`));
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
        const received = receiveDescriptors(this.#fd, this.#parser.room, MAX_MESSAGE_FDS);
        if (received === null) return;
        if (received.length === 0) {
          if (this.#parser.amidst) this.#log.warn(`${this.#path}: the machine went in the midst of a message`);
          this.end();
          return;
        }
        const message = this.#parser.take(received.length, received.fds);
        if (message === null) continue;
        n++;
        const reply = this.session.handle(message);
        if (reply !== null) this.#send(reply);
      }
    } catch (error) {
      if (!(error instanceof SystemError && (error.code === 'ECONNRESET' || error.code === 'EPIPE'))) {
        this.#log.warn(`${this.#path}: the connection ends: ${(error as Error).message}`);
      }
      this.end();
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
    for (const fd of this.#parser.abandon()) close(fd);
    // First the device stops, then its memory goes.
    this.#onEnded();
    this.session.close();
    close(this.#fd);
    this.#log.info(`${this.#path}: the machine has gone`);
  }
}
