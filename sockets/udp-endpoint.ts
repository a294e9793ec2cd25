/**
 * Datagrams by promises and loops:
 *
 *     await using endpoint = udp(stack, { port: 7 });
 *     for await (const { data, address, port } of endpoint) await endpoint.send(data, port, address);
 *
 * Messages wait for the loop, up to {@link UdpEndpointOptions.receiveBuffer} bytes of them; then the stack drops what comes,
 * as kernels do. send() resolves when the device has taken the message.
 */

import { familyName, formatIp, parseIp } from '../packet/ip-text.ts';
import { UdpError, type UdpHandler, type UdpSocket } from '../tcpip/udp/api.ts';
import type { DatagramStack } from './dgram.ts';
import { nodeError, socketError } from './errors.ts';
import type { SocketAddress, StackUser } from './socket.ts';

/** As Linux's rmem_default. */
const DEFAULT_RECEIVE_BUFFER = 212_992;
const IPV4_BYTES = 4;
const IPV6_BYTES = 16;

export interface UdpEndpointOptions {
  /** One of the stack's, or a group; any when not given. */
  address?: string;
  /** 0 or none: a free one. */
  port?: number;
  /** Of the endpoint without an address. Default 4. */
  family?: 4 | 6;
  /** Bytes of messages that may wait. Default 212,992. */
  receiveBuffer?: number;
  reuseAddress?: boolean;
  broadcast?: boolean;
  /** Closes it. */
  signal?: AbortSignal;
}

export interface Datagram extends SocketAddress {
  data: Buffer;
}

/** Binds. Throws EADDRINUSE, EADDRNOTAVAIL and such, as Node's `bind` has them, or the signal's reason. */
export function udp(stack: DatagramStack, options: UdpEndpointOptions = {}): UdpEndpoint {
  options.signal?.throwIfAborted();
  return new UdpEndpoint(stack, options);
}

export class UdpEndpoint implements AsyncIterableIterator<Datagram>, StackUser, AsyncDisposable {
  readonly #stack: DatagramStack;
  readonly #socket: UdpSocket;
  readonly #limit: number;
  readonly #messages: Datagram[] = [];
  #waitingBytes = 0;
  #paused = false;
  /** An ICMP error about what a connected endpoint sent: the next one who asks gets it. */
  #error: Error | null = null;
  readonly #takers: { resolve(result: IteratorResult<Datagram>): void; reject(error: Error): void }[] = [];
  readonly #writers: (() => void)[] = [];
  readonly #signal: AbortSignal | undefined;
  readonly #abort = (): void => this.close();
  #closed = false;

  constructor(stack: DatagramStack, options: UdpEndpointOptions) {
    const { address, port = 0, family = 4, receiveBuffer, reuseAddress, broadcast, signal } = options;
    this.#stack = stack;
    this.#limit = receiveBuffer ?? DEFAULT_RECEIVE_BUFFER;
    const bytes = address === undefined ? null : parseIp(address);
    if (address !== undefined && bytes === null) throw socketError('bind', 'EINVAL', { address, port });
    try {
      this.#socket = stack.udp.open({
        family: bytes === null ? family : bytes.length === IPV4_BYTES ? 4 : 6,
        address: bytes ?? undefined,
        port,
        reuseAddress,
        broadcast,
        receiveBuffer,
        handler: this.#handler,
      });
    } catch (error) {
      throw explained('bind', error, { address: address ?? (family === 4 ? '0.0.0.0' : '::'), port });
    }
    stack.attach(this);
    stack.hold();
    this.#signal = signal;
    signal?.addEventListener('abort', this.#abort, { once: true });
  }

  readonly #handler: UdpHandler = {
    onMessage: (_, { bytes, start, end, source, family, port }) => {
      const data = Buffer.allocUnsafe(end - start);
      data.set(bytes.subarray(start, end));
      const from = bytes.subarray(source, source + (family === 4 ? IPV4_BYTES : IPV6_BYTES));
      const message: Datagram = { data, address: formatIp(from), family: familyName(from), port };
      const taker = this.#takers.shift();
      if (taker !== undefined) taker.resolve({ value: message, done: false });
      else this.#keep(message);
    },
    onError: (_, { code }) => {
      const error = socketError('recvmsg', code);
      const taker = this.#takers.shift();
      if (taker !== undefined) taker.reject(error);
      else this.#error = error;
    },
    onWritable: () => {
      for (const writer of this.#writers.splice(0)) writer();
    },
  };

  #keep(message: Datagram): void {
    this.#messages.push(message);
    this.#waitingBytes += message.data.length;
    if (this.#paused || this.#waitingBytes < this.#limit) return;
    this.#paused = true;
    this.#socket.pause();
  }

  /** Where it is bound. */
  get address(): SocketAddress {
    const { address, family, port } = this.#socket;
    const text = address === null ? (family === 4 ? '0.0.0.0' : '::') : formatIp(address);
    return { address: text, family: family === 4 ? 'IPv4' : 'IPv6', port };
  }

  get port(): number {
    return this.#socket.port;
  }

  /** From now on only this host's messages come, errors of it are told, and send() needs no address. */
  connect(port: number, address: string): void {
    this.#checkOpen();
    const bytes = parseIp(address);
    if (bytes === null) throw socketError('connect', 'EINVAL', { address, port });
    try {
      this.#socket.connect(bytes, port);
    } catch (error) {
      throw explained('connect', error, { address, port });
    }
  }

  /**
   * Sends; resolves when the device has taken the message, which is copied then. Rejects with EMSGSIZE, ENETUNREACH, EACCES
   * and such, or when the endpoint is closed meanwhile.
   */
  async send(data: Uint8Array | string, port?: number, address?: string): Promise<void> {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    const to = address === undefined ? undefined : parseIp(address);
    if (to === null) throw socketError('send', 'EINVAL', { address, port });
    for (;;) {
      this.#checkOpen();
      try {
        if (this.#socket.send(bytes, 0, bytes.length, to, port)) return;
      } catch (error) {
        throw explained('send', error, { address, port });
      }
      await new Promise<void>((resolve) => {
        this.#writers.push(resolve);
      });
    }
  }

  /** The next message. */
  next(): Promise<IteratorResult<Datagram>> {
    const message = this.#messages.shift();
    if (message !== undefined) {
      this.#waitingBytes -= message.data.length;
      if (this.#paused && this.#waitingBytes < this.#limit / 2) {
        this.#paused = false;
        this.#socket.resume();
      }
      return Promise.resolve({ value: message, done: false });
    }
    const error = this.#error;
    if (error !== null) {
      this.#error = null;
      return Promise.reject(error);
    }
    if (this.#closed) return Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve, reject) => {
      this.#takers.push({ resolve, reject });
    });
  }

  /** Leaving a loop closes the endpoint. */
  async return(): Promise<IteratorResult<Datagram>> {
    this.close();
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Takes nothing more; what waits can still be had. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#signal?.removeEventListener('abort', this.#abort);
    this.#socket.close();
    this.#stack.detach(this);
    this.#stack.letGo();
    for (const taker of this.#takers.splice(0)) taker.resolve({ value: undefined, done: true });
    for (const writer of this.#writers.splice(0)) writer();
  }

  stackClosed(): void {
    this.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  #checkOpen(): void {
    if (this.#closed) throw nodeError(new Error('Not running'), 'ERR_SOCKET_DGRAM_NOT_RUNNING');
  }
}

function explained(syscall: string, error: unknown, where: { address?: string; port?: number }): unknown {
  if (!(error instanceof UdpError)) return error;
  const made = socketError(syscall, error.code, where);
  made.cause = error;
  return made;
}
