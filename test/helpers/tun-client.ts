/**
 * A client of a tun clone that reads and writes its frames itself, as programs do that know no vhost.
 * Its calls are synchronous, so the daemon must be another process.
 */
import { ECONNABORTED, ENOTCONN, errnoName } from '../../linux/errno.ts';
import { close, O_NONBLOCK, O_RDWR, open, tryRead, tryWrite } from '../../linux/file.ts';
import { IFF_NO_PI, IFF_TAP, ifreq, ifreqName, TUNSETIFF, TUNSETVNETHDRSZ } from '../../linux/if-tun.ts';
import { ioctl } from '../../linux/ioctl.ts';
import { SystemError } from '../../linux/libc.ts';
import { POLLIN, PollSet } from '../../linux/poll.ts';
import { frameBytes } from './frame-bytes.ts';

/** How long a frame may take from one client to another, in milliseconds. */
export const DELIVERY_MS = 3000;
/** How long a frame that must not come is waited for. */
const SILENCE_MS = 60;
const BUFFER_BYTES = 1 << 17;

export interface TunClientOptions {
  /** Name or template of the interface; null to open the file and no more. */
  name?: string | null;
  /** Flags of TUNSETIFF. */
  flags?: number;
  /** TUNSETVNETHDRSZ, in bytes. */
  headerBytes?: number;
  /** Opened without O_NONBLOCK. */
  blocking?: boolean;
}

export class TunClient implements Disposable {
  readonly fd: number;
  /** Of the interface; empty when there is none. */
  readonly name: string;
  #open = true;

  constructor(path: string, options: TunClientOptions = {}) {
    const { name = 'client%d', flags = IFF_TAP | IFF_NO_PI, headerBytes, blocking = false } = options;
    this.fd = open(path, blocking ? O_RDWR : O_RDWR | O_NONBLOCK);
    try {
      const argument = ifreq(name ?? '', flags);
      if (name !== null) ioctl(this.fd, TUNSETIFF, argument, 'TUNSETIFF');
      this.name = ifreqName(argument);
      if (headerBytes) ioctl(this.fd, TUNSETVNETHDRSZ, Int32Array.of(headerBytes), 'TUNSETVNETHDRSZ');
    } catch (error) {
      close(this.fd);
      throw error;
    }
  }

  /** write(2) of the parts as one message: bytes written, or the name of the errno. */
  write(...parts: Uint8Array[]): number | string {
    const result = tryWrite(this.fd, Buffer.concat(parts));
    return result < 0 ? errnoName(-result) : result;
  }

  /** read(2) of at most `count` bytes: what came, or the name of the errno. */
  read(count = BUFFER_BYTES): Buffer | string {
    const buffer = Buffer.alloc(count);
    const result = tryRead(this.fd, buffer, count);
    return result < 0 ? errnoName(-result) : buffer.subarray(0, result);
  }

  /** Whether poll(2) says POLLIN within `timeoutMs`. */
  readable(timeoutMs: number): boolean {
    const poll = new PollSet();
    poll.add(this.fd, POLLIN);
    return poll.wait(timeoutMs) > 0 && (poll.revents(0) & POLLIN) !== 0;
  }

  /** The next message, waited for. */
  receive(count = BUFFER_BYTES): Buffer {
    if (!this.readable(DELIVERY_MS)) throw new Error(`${this.name}: no frame in ${DELIVERY_MS} ms`);
    const message = this.read(count);
    if (typeof message === 'string') throw new Error(`${this.name}: read: ${message}`);
    return message;
  }

  /** Whether nothing comes for a while. */
  get silent(): boolean {
    return !this.readable(SILENCE_MS);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    try {
      close(this.fd);
    } catch (error) {
      // The daemon has died and hears no FLUSH; the descriptor is closed all the same.
      if (!(error instanceof SystemError && [ENOTCONN, ECONNABORTED].includes(error.errno))) throw error;
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** A broadcast frame of `length` bytes (14 or more) whose bytes depend on `seed`. */
export function broadcastFrame(length: number, seed = 0): Buffer {
  const frame = Buffer.from(frameBytes(length, seed));
  frame.write('ffffffffffff', 0, 'hex');
  frame.write('020000000000', 6, 'hex');
  frame.writeUInt8(seed & 0xff, 11);
  frame.writeUInt16BE(0x88b5, 12); // IEEE 802 local experimental EtherType 1
  return frame;
}
