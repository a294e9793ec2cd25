/**
 * The front-end's half of a vhost-user connection: requests go out one by one, and each waits for its answer or, with
 * VHOST_USER_PROTOCOL_F_REPLY_ACK, for its acknowledgement.
 *
 * The socket is the channel's own. What the back-end sends without being asked, or in another shape than the protocol
 * has it, ends the connection.
 */
import { close } from '../linux/file.ts';
import { receiveDescriptors, sendDescriptors } from '../linux/socket.ts';
import { connectUnix } from '../linux/unix-socket.ts';
import { type Watch, watchReadable } from '../linux/watch.ts';
import {
  encodeMessage,
  MAX_PAYLOAD_BYTES,
  readU64,
  requestName,
  VHOST_USER_HEADER_BYTES,
  VHOST_USER_NEED_REPLY,
  VHOST_USER_REPLY,
  VHOST_USER_VERSION,
  VhostUserError,
} from './vhost-user-messages.ts';

const FLAGS_AT = 4;
const SIZE_AT = 8;
const VERSION_MASK = 0x3;
const U64_BYTES = 8;
const EMPTY = Buffer.alloc(0);
const NO_FD = -1;
/** A back-end that says nothing for so long says nothing any more. */
const ANSWER_TIMEOUT_MS = 10_000;

interface Waiting {
  request: number;
  resolve: (payload: Buffer) => void;
  reject: (error: Error) => void;
  timer: NodeJS.Timeout;
}

export class VhostUserChannel {
  /** Whether requests are acknowledged: VHOST_USER_PROTOCOL_F_REPLY_ACK was negotiated. */
  acknowledges = false;
  /** The connection has ended, by itself; called once, and not after {@link close}. */
  onEnded: (error: Error) => void = () => {};
  #fd: number;
  readonly #watch: Watch;
  readonly #header = Buffer.alloc(VHOST_USER_HEADER_BYTES);
  #payload: Buffer | null = null;
  #filled = 0;
  #waiting: Waiting | null = null;
  /** Why the connection has ended by itself. */
  #reason: Error | null = null;

  /** Connects to a listening back-end. Throws SystemError: ENOENT, ECONNREFUSED, EACCES. */
  constructor(path: string) {
    this.#fd = connectUnix(path);
    this.#watch = watchReadable(this.#fd, () => this.#read());
  }

  get open(): boolean {
    return this.#fd !== NO_FD;
  }

  unref(): void {
    this.#watch.unref();
  }

  ref(): void {
    this.#watch.ref();
  }

  /** Sends a request that has an answer, and resolves with its payload. */
  async ask(request: number, payload: Uint8Array = EMPTY, bytes = U64_BYTES): Promise<Buffer> {
    const answer = await this.#send(request, payload, [], 0);
    if (answer.length !== bytes) throw this.#fail(request, `an answer of ${answer.length} bytes, not ${bytes}`);
    return answer;
  }

  /** {@link ask} for an answer of one number. */
  async askU64(request: number): Promise<bigint> {
    return readU64(await this.ask(request));
  }

  /** Sends a request that has none. Rejects when the back-end refuses it, where it says so. */
  async tell(request: number, payload: Uint8Array = EMPTY, fds: readonly number[] = []): Promise<void> {
    if (!this.acknowledges) {
      this.#write(request, encodeMessage(request, payload, 0), fds);
      return;
    }
    const answer = await this.#send(request, payload, fds, VHOST_USER_NEED_REPLY);
    if (answer.length !== U64_BYTES) throw this.#fail(request, `acknowledged with ${answer.length} bytes`);
    const status = readU64(answer);
    if (status !== 0n) throw new VhostUserError(requestName(request), `the back-end refuses it (${status})`);
  }

  #send(request: number, payload: Uint8Array, fds: readonly number[], flags: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const late = () => this.#fail(request, `no answer in ${ANSWER_TIMEOUT_MS / 1000} s`);
      const timer = setTimeout(late, ANSWER_TIMEOUT_MS);
      this.#waiting = { request, resolve, reject, timer };
      this.#write(request, encodeMessage(request, payload, flags), fds);
    });
  }

  #write(request: number, bytes: Buffer, fds: readonly number[]): void {
    if (!this.open) throw this.#reason ?? new VhostUserError(requestName(request), 'the connection was closed before');
    try {
      const sent = sendDescriptors(this.#fd, bytes, fds);
      if (sent !== bytes.length) throw new Error(`only ${sent} of ${bytes.length} bytes were taken`);
    } catch (error) {
      throw this.#fail(request, (error as Error).message);
    }
  }

  /** Ends the connection: whoever waits for an answer gets the error, which is given. */
  #fail(request: number | null, reason: string): Error {
    const error = new VhostUserError(request === null ? 'vhost-user' : requestName(request), reason);
    this.#end(error);
    return error;
  }

  #end(error: Error): void {
    if (!this.open) return;
    this.#reason = error;
    this.#shut();
    const waiting = this.#settle();
    waiting?.reject(error);
    this.onEnded(error);
  }

  #settle(): Waiting | null {
    const waiting = this.#waiting;
    this.#waiting = null;
    if (waiting) clearTimeout(waiting.timer);
    return waiting;
  }

  #shut(): void {
    this.#watch.close();
    close(this.#fd);
    this.#fd = NO_FD;
  }

  #read(): void {
    while (this.open) {
      try {
        const room = (this.#payload ?? this.#header).subarray(this.#filled);
        const received = receiveDescriptors(this.#fd, room, 1);
        if (received === null) return;
        for (const fd of received.fds) close(fd);
        if (received.length === 0) this.#fail(null, 'the back-end has closed the connection');
        else this.#take(received.length);
      } catch (error) {
        this.#end(error as Error);
      }
    }
  }

  #take(length: number): void {
    this.#filled += length;
    const asked = this.#waiting?.request ?? null;
    if (this.#payload === null) {
      if (this.#filled < VHOST_USER_HEADER_BYTES) return;
      const request = this.#header.readUInt32LE(0);
      const flags = this.#header.readUInt32LE(FLAGS_AT);
      const size = this.#header.readUInt32LE(SIZE_AT);
      if (asked === null || request !== asked) {
        const instead = asked === null ? 'nothing was asked' : `${requestName(asked)} was asked`;
        this.#fail(request, `an answer, though ${instead}`);
        return;
      }
      if ((flags & VERSION_MASK) !== VHOST_USER_VERSION || (flags & VHOST_USER_REPLY) === 0) {
        this.#fail(request, `no answer: flags 0x${flags.toString(16)}`);
        return;
      }
      if (size > MAX_PAYLOAD_BYTES) {
        this.#fail(request, `an answer of ${size} bytes, at most ${MAX_PAYLOAD_BYTES}`);
        return;
      }
      this.#payload = Buffer.alloc(size);
      this.#filled = 0;
    }
    if (this.#filled < this.#payload.length) return;
    const payload = this.#payload;
    this.#payload = null;
    this.#filled = 0;
    this.#settle()?.resolve(payload);
  }

  /** Ends the connection. Whoever waits for an answer is told so. */
  close(): void {
    if (!this.open) return;
    this.#shut();
    const waiting = this.#settle();
    waiting?.reject(new VhostUserError(requestName(waiting.request), 'the connection was closed meanwhile'));
  }
}
