/**
 * Connections by promises and loops, over the sockets of net.ts:
 *
 *     const socket = await connect(stack, { host: '10.0.0.1', port: 80, signal });
 *     await using listener = await listen(stack, { port: 80 });
 *     for await (const socket of listener) void serve(socket);
 *
 * A loop that is slow to take connections is what a full backlog is: those beyond {@link ListenerOptions.pending} are
 * refused.
 */
import { once } from 'node:events';
import { type ListenOptions, Server, type ServerOptions } from './server.ts';
import { type ConnectOptions, Socket, type SocketAddress, type SocketOptions, type SocketStack } from './socket.ts';

/** As Node's own backlog (net.Server.listen()). */
const DEFAULT_PENDING = 511;

export interface ConnectPromiseOptions extends ConnectOptions, Pick<SocketOptions, 'allowHalfOpen' | 'highWaterMark'> {
  /** Ends the attempt, and later the connection. */
  signal?: AbortSignal;
}

/** Connects. Rejects with the socket's error (ECONNREFUSED, ETIMEDOUT, …) or the signal's reason (AbortError). */
export async function connect(stack: SocketStack, options: ConnectPromiseOptions): Promise<Socket> {
  const { signal, allowHalfOpen, highWaterMark } = options;
  signal?.throwIfAborted();
  const socket = new Socket(stack, { signal, allowHalfOpen, highWaterMark });
  socket.connect(options);
  try {
    await once(socket, 'connect');
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

export interface ListenerOptions extends ListenOptions, ServerOptions {
  /** Connections that may wait to be taken; beyond, they are reset. Default 511. */
  pending?: number;
}

/** Listens. Rejects with EADDRINUSE, EADDRNOTAVAIL, or the signal's reason; later the signal closes it. */
export async function listen(stack: SocketStack, options: ListenerOptions = {}): Promise<Listener> {
  const { port = 0, host, backlog, ipv6Only, signal, pending = DEFAULT_PENDING, ...rest } = options;
  signal?.throwIfAborted();
  const server = new Server(stack, rest);
  const listener = new Listener(server, pending);
  server.listen({ port, host, backlog, ipv6Only });
  await once(server, 'listening');
  signal?.addEventListener('abort', () => listener.close(), { once: true });
  if (signal?.aborted) listener.close();
  return listener;
}

/** Gives connections in the order in which they came. Ends with {@link Listener.close}. */
export class Listener implements AsyncIterableIterator<Socket>, AsyncDisposable {
  readonly #server: Server;
  readonly #waiting: Socket[] = [];
  readonly #takers: ((result: IteratorResult<Socket>) => void)[] = [];
  #closed = false;
  /** Connections that were refused, since too many waited. */
  dropped = 0;

  constructor(server: Server, pending: number) {
    this.#server = server;
    server.onStop = () => this.#end();
    server.on('connection', (socket: Socket) => {
      const taker = this.#takers.shift();
      if (taker !== undefined) taker({ value: socket, done: false });
      else if (this.#waiting.length < pending) this.#wait(socket);
      else {
        this.dropped++;
        socket.resetAndDestroy();
      }
    });
  }

  #wait(socket: Socket): void {
    this.#waiting.push(socket);
    // Nobody listens to it yet: its error is for whoever takes it, who finds it destroyed.
    socket.on('error', ignore);
  }

  get address(): SocketAddress {
    return this.#server.address() ?? { address: '::', family: 'IPv6', port: 0 };
  }

  get port(): number {
    return this.address.port;
  }

  /** The next connection. */
  next(): Promise<IteratorResult<Socket>> {
    const socket = this.#waiting.shift();
    if (socket !== undefined) {
      socket.off('error', ignore);
      return Promise.resolve({ value: socket, done: false });
    }
    if (this.#closed) return Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve) => {
      this.#takers.push(resolve);
    });
  }

  /** Leaving a loop closes the listener. */
  async return(): Promise<IteratorResult<Socket>> {
    this.close();
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Takes no new connections; those that were taken stay, and those that wait are reset. */
  close(): void {
    this.#server.close();
  }

  #end(): void {
    this.#closed = true;
    for (const taker of this.#takers.splice(0)) taker({ value: undefined, done: true });
    for (const socket of this.#waiting.splice(0)) socket.resetAndDestroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

function ignore(): void {}
