/** Takes TCP connections of a stack, with the face of Node's `net.Server`. */
import { EventEmitter } from 'node:events';
import { isIP, type LookupFunction } from 'node:net';
import { familyName, formatIp, parseIp } from '../packet/ip-text.ts';
import { type Connection, type Listener, TcpError, type TcpHandler } from '../tcpip/tcp/api.ts';
import { listenError, lookupError, nodeError } from './errors.ts';
import { checkFunction, checkPort } from './node-arguments.ts';
import {
  Socket,
  type SocketAddress,
  type SocketOptions,
  type SocketOwner,
  type SocketStack,
  type StackUser,
} from './socket.ts';

/** Any address of a family. */
const ANY = ['0.0.0.0', '::'];

export interface ServerOptions extends Pick<SocketOptions, 'allowHalfOpen' | 'noDelay' | 'highWaterMark'> {
  /** Nothing is read of a connection before its program says resume(). */
  pauseOnConnect?: boolean;
  keepAlive?: boolean;
  keepAliveInitialDelay?: number;
}

export interface ListenOptions {
  port?: number | string;
  /** An address of the stack; any when not given. */
  host?: string;
  backlog?: number;
  ipv6Only?: boolean;
  signal?: AbortSignal;
  path?: string;
  exclusive?: boolean;
}

/** What is known of a connection that was not taken. */
export interface DropArgument {
  localAddress: string;
  localPort: number;
  localFamily: string;
  remoteAddress: string;
  remotePort: number;
  remoteFamily: string;
}

type ConnectionListener = (socket: Socket) => void;

export class Server extends EventEmitter implements SocketOwner, StackUser, AsyncDisposable {
  /** Connections beyond are refused with a RST, and told by 'drop'. */
  maxConnections: number | undefined;
  /** It takes no new connections any more, whoever saw to that. ('close' waits for those that it has.) */
  onStop: () => void = () => {};
  readonly #stack: SocketStack;
  readonly #options: ServerOptions;
  #listener: Listener | null = null;
  /** As asked for, for address(). */
  #host = '::';
  #starting = false;
  #connections = 0;
  #closing = false;
  #held = false;
  #referenced = true;
  #abort: { signal: AbortSignal; listener: () => void } | null = null;

  constructor(stack: SocketStack, options: ServerOptions | ConnectionListener = {}, listener?: ConnectionListener) {
    super();
    this.#stack = stack;
    const given = typeof options === 'function' ? options : listener;
    this.#options = typeof options === 'function' ? {} : options;
    if (given !== undefined) this.on('connection', given);
  }

  get listening(): boolean {
    return this.#listener !== null;
  }

  get allowHalfOpen(): boolean {
    return this.#options.allowHalfOpen === true;
  }

  /**
   * `listen([port[, host[, backlog]]][, callback])`, `listen(options[, callback])`, as `net.Server` has it, for ports.
   * Emits 'listening', or 'error' with EADDRINUSE or EADDRNOTAVAIL.
   */
  listen(...args: unknown[]): this {
    const { options, callback } = listenArguments(args);
    const port = checkListenOptions(options);
    if (this.#listener !== null || this.#starting) {
      const words = 'Listen method has been called more than once without closing.';
      throw nodeError(new Error(words), 'ERR_SERVER_ALREADY_LISTEN');
    }
    if (callback !== undefined) this.once('listening', callback);
    if (options.signal !== undefined) this.#abortOn(options.signal);
    this.#starting = true;
    this.#closing = false;
    const host = options.host ?? '';
    if (host === '' || isIP(host) !== 0) process.nextTick(() => this.#start(host, port, options));
    else this.#lookUp(host, port, options);
    return this;
  }

  #abortOn(signal: AbortSignal): void {
    const listener = () => this.close();
    if (signal.aborted) process.nextTick(listener);
    else signal.addEventListener('abort', listener, { once: true });
    this.#abort = { signal, listener };
  }

  #lookUp(host: string, port: number, options: ListenOptions): void {
    const { lookup } = this.#stack;
    if (lookup === null) {
      process.nextTick(() => this.#fail(lookupError(host)));
      return;
    }
    const found = (error: Error | null, answer: string | { address: string }[]): void => {
      const address = Array.isArray(answer) ? answer[0]?.address : answer;
      if (!this.#starting) return;
      if (error) this.#fail(error);
      else this.#start(address ?? '', port, options);
    };
    lookup(host, {}, found as Parameters<LookupFunction>[2]);
  }

  #start(host: string, port: number, { backlog, ipv6Only }: ListenOptions): void {
    if (!this.#starting) return;
    this.#host = host === '' ? '::' : host;
    const address = host === '' || ANY.includes(host) ? undefined : (parseIp(host) ?? undefined);
    try {
      const onAccept = (connection: Connection): TcpHandler | null => this.#accept(connection);
      this.#listener = this.#stack.tcp.listen({ address, port, backlog, ipv6Only, onAccept });
    } catch (error) {
      if (!(error instanceof TcpError)) throw error;
      const made = listenError(error.code, this.#host, port);
      made.cause = error;
      this.#fail(made);
      return;
    }
    this.#starting = false;
    this.#stack.attach(this);
    if (this.#referenced) this.#hold();
    this.emit('listening');
  }

  #fail(error: Error): void {
    this.#starting = false;
    this.#forgetSignal();
    this.emit('error', error);
  }

  #forgetSignal(): void {
    this.#abort?.signal.removeEventListener('abort', this.#abort.listener);
    this.#abort = null;
  }

  #accept(connection: Connection): TcpHandler | null {
    if (this.maxConnections !== undefined && this.#connections >= this.maxConnections) {
      this.emit('drop', this.#describe(connection));
      return null;
    }
    const { allowHalfOpen, noDelay, keepAlive, keepAliveInitialDelay, highWaterMark, pauseOnConnect } = this.#options;
    const socket = new Socket(this.#stack, { allowHalfOpen, noDelay, keepAlive, keepAliveInitialDelay, highWaterMark });
    this.#connections++;
    return socket.adopt(connection, this, () => {
      if (pauseOnConnect === true) socket.pause();
      this.emit('connection', socket);
    });
  }

  #describe(connection: Connection): DropArgument {
    const { tcp } = this.#stack;
    const local = tcp.localEndpoint(connection);
    const remote = tcp.remoteEndpoint(connection);
    return {
      localAddress: formatIp(local.address),
      localPort: local.port,
      localFamily: familyName(local.address),
      remoteAddress: formatIp(remote.address),
      remotePort: remote.port,
      remoteFamily: familyName(remote.address),
    };
  }

  /** A connection of this server is over; for its socket to call. */
  socketClosed(): void {
    this.#connections--;
    this.#closeIfDrained();
  }

  /**
   * Takes no new connections. 'close' is emitted, and the callback called, when those that there are have ended; the
   * callback gets ERR_SERVER_NOT_RUNNING when it was not listening.
   */
  close(callback?: (error?: Error) => void): this {
    const running = this.#listener !== null || this.#starting;
    if (callback !== undefined) {
      const refused = () => callback(nodeError(new Error('Server is not running.'), 'ERR_SERVER_NOT_RUNNING'));
      this.once('close', running ? () => callback() : refused);
    }
    this.#listener?.close();
    this.#listener = null;
    this.#starting = false;
    this.#closing = true;
    this.#forgetSignal();
    this.#stack.detach(this);
    this.#letGo();
    if (running) this.onStop();
    this.#closeIfDrained();
    return this;
  }

  stackClosed(): void {
    this.close();
  }

  #closeIfDrained(): void {
    if (!this.#closing || this.#connections > 0) return;
    this.#closing = false;
    process.nextTick(() => this.emit('close'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#listener === null) return;
    await new Promise<void>((resolve, reject) => this.close((error) => (error ? reject(error) : resolve())));
  }

  /** Where it listens; null before 'listening'. */
  address(): SocketAddress | null {
    if (this.#listener === null) return null;
    const { address, port } = this.#listener;
    const host = address === null ? this.#host : formatIp(address);
    return { address: host, family: host.includes(':') ? 'IPv6' : 'IPv4', port };
  }

  /** Calls back with the number of connections that it took and that are not over. */
  getConnections(callback: (error: Error | null, count: number) => void): this {
    checkFunction(callback, 'callback');
    process.nextTick(() => callback(null, this.#connections));
    return this;
  }

  ref(): this {
    this.#referenced = true;
    if (this.#listener !== null) this.#hold();
    return this;
  }

  unref(): this {
    this.#referenced = false;
    this.#letGo();
    return this;
  }

  #hold(): void {
    if (this.#held) return;
    this.#held = true;
    this.#stack.hold();
  }

  #letGo(): void {
    if (!this.#held) return;
    this.#held = false;
    this.#stack.letGo();
  }
}

function listenArguments(args: unknown[]): { options: ListenOptions; callback?: () => void } {
  const last = args.at(-1);
  const callback = typeof last === 'function' ? (last as () => void) : undefined;
  const [first, second, third] = callback === undefined ? args : args.slice(0, -1);
  if (typeof first === 'object' && first !== null) return { options: first as ListenOptions, callback };
  if (first === undefined || first === null) return { options: { port: 0 }, callback };
  if (typeof first === 'string' && !/^\d+$/.test(first)) return { options: { path: first }, callback };
  const host = typeof second === 'string' ? second : undefined;
  const backlog = [second, third].find((one) => typeof one === 'number');
  return { options: { port: first as number, host, backlog }, callback };
}

/** Gives the port. */
function checkListenOptions(options: ListenOptions): number {
  if (options.path !== undefined || 'fd' in options || '_handle' in options) {
    const what = options.path === undefined ? 'a descriptor' : `"${options.path}"`;
    const error = new TypeError(`cannot listen on ${what}: this stack speaks TCP alone; give a port, or use node:net`);
    throw nodeError(error, 'ERR_INVALID_ARG_VALUE');
  }
  if (!('port' in options) || options.port === null) {
    const error = new TypeError('The argument \'options\' must have the property "port"');
    throw nodeError(error, 'ERR_INVALID_ARG_VALUE');
  }
  return options.port === undefined ? 0 : checkPort(options.port, 'options.port');
}
