/**
 * A TCP connection of a stack with the face of Node's `net.Socket`: a Duplex with the same methods, events and errors.
 *
 *     (new) ── connect() ─► opening ── 'connect', 'ready' ─► open ── 'end', end() ─► … ── 'close'
 *
 * Data that comes is copied out of the stack's buffers, and what is written is copied into memory of its own, since Node
 * lets programs write to a buffer again as soon as it was taken. Who wants neither uses TcpUser itself.
 */
import { isIP, type LookupFunction, type OnReadOpts, type SocketConstructorOpts } from 'node:net';
import { Duplex } from 'node:stream';
import { familyName, formatIp, parseIp } from '../packet/ip-text.ts';
import { type Connection, type Endpoint, TcpError, type TcpHandler, type TcpUser } from '../tcpip/tcp/api.ts';
import { connectionError, lookupError, nodeError, socketError } from './errors.ts';
import { checkDuration, checkFunction, checkPort } from './node-arguments.ts';

export const NO_CONNECTION: Connection = -1;
const DEFAULT_HOST = 'localhost';
const MAX_PORT = 65_535;
/** What Linux waits before the first probe where nobody says (tcp_keepalive_time). */
const DEFAULT_KEEP_ALIVE_MS = 7_200_000;
const MS_PER_SECOND = 1000;
/** Of one 'data' event at the most, unless a single piece of the stack is longer; as Node reads. */
const CHUNK_BYTES = 65_536;
const NOTHING = Buffer.alloc(0);

/** What sockets want of the stack that they are of. */
export interface SocketStack {
  readonly tcp: TcpUser;
  /** Finds addresses of names; null: only addresses can be connected to. */
  readonly lookup: LookupFunction | null;
  /** A socket is open that keeps the process alive, and is not any more. */
  hold(): void;
  letGo(): void;
  /** A socket or server is open, and is not any more: the end of the stack is its end. */
  attach(one: StackUser): void;
  detach(one: StackUser): void;
}

/** What ends with its stack. */
export interface StackUser {
  /** The stack is being closed. */
  stackClosed(): void;
}

export interface SocketAddress {
  address: string;
  family: 'IPv4' | 'IPv6';
  port: number;
}

export interface SocketOptions extends Omit<SocketConstructorOpts, 'fd' | 'handle' | 'onread'> {
  noDelay?: boolean;
  keepAlive?: boolean;
  /** In ms. */
  keepAliveInitialDelay?: number;
  highWaterMark?: number;
  signal?: AbortSignal;
}

export interface ConnectOptions {
  port: number | string;
  /** Default: localhost. */
  host?: string;
  localAddress?: string;
  localPort?: number;
  /** 4, 6, or 0 for either: of the address that a name has. */
  family?: number;
  hints?: number;
  lookup?: LookupFunction;
  noDelay?: boolean;
  keepAlive?: boolean;
  keepAliveInitialDelay?: number;
  timeout?: number;
  path?: string;
  onread?: OnReadOpts;
}

type WriteCallback = (error?: Error | null) => void;

/** What the server that a connection came to wants to hear of it. */
export interface SocketOwner {
  socketClosed(): void;
}

export class Socket extends Duplex implements StackUser {
  connecting = false;
  /** As set with {@link setTimeout}; undefined: never. */
  timeout: number | undefined;
  /** The server that accepted it; http.Server puts itself here. */
  server: unknown = null;
  bytesRead = 0;
  readonly #stack: SocketStack;
  #owner: SocketOwner | null = null;
  #connection: Connection = NO_CONNECTION;
  /** For the end of the first poll that knows it: the program has not seen it yet. */
  #accepting = false;
  #remote: Endpoint | null = null;
  #local: Endpoint | null = null;
  #bytesDispatched = 0;
  /** A write that the stack took, though it was enough: waits for room. */
  #written: WriteCallback | null = null;
  #writtenBytes = 0;
  /** Data that came and was not given yet: whole parts, and the one that more may be added to. */
  #parts: Buffer[] = [];
  #tail: Buffer = NOTHING;
  #tailLength = 0;
  #giving = false;
  /** The other side has ended, and the program does not know. */
  #ended = false;
  /** The program wants no more for now; and the stack knows. */
  #full = false;
  #paused = false;
  #reset = false;
  #held = false;
  #referenced = true;
  #timer: NodeJS.Timeout | null = null;
  #noDelay: boolean;
  #keepAliveMs: number;

  constructor(stack: SocketStack, options: SocketOptions = {}) {
    const { allowHalfOpen = false, noDelay = false, keepAlive = false, keepAliveInitialDelay = 0, ...rest } = options;
    if ('onread' in rest || 'fd' in rest || 'handle' in rest) {
      const error = new TypeError(
        'onread, fd and handle are of sockets of the kernel; this one is of a stack of its own',
      );
      throw nodeError(error, 'ERR_INVALID_ARG_VALUE');
    }
    super({ ...rest, allowHalfOpen, emitClose: false, autoDestroy: true, decodeStrings: false });
    this.#stack = stack;
    this.#noDelay = noDelay;
    this.#keepAliveMs = keepAlive ? keepAliveInitialDelay || DEFAULT_KEEP_ALIVE_MS : 0;
    this.on('end', this.#onReadableEnd);
  }

  // ---- making the connection

  /** `connect(port[, host][, listener])`, `connect(options[, listener])`, as `net.Socket` has it. */
  connect(...args: unknown[]): this {
    const { options, listener } = connectArguments(args);
    const port = checkConnectOptions(options);
    if (this.destroyed) this.#undestroy();
    if (this.write !== Socket.prototype.write) this.write = Socket.prototype.write;
    if (options.noDelay !== undefined) this.#noDelay = options.noDelay;
    if (options.keepAlive === true) this.#keepAliveMs = options.keepAliveInitialDelay || DEFAULT_KEEP_ALIVE_MS;
    if (options.timeout !== undefined) this.setTimeout(options.timeout);
    if (listener !== undefined) this.once('connect', listener);
    this.connecting = true;
    this.#stack.attach(this);
    this.#hold();
    this.#active();
    const host = options.host ?? DEFAULT_HOST;
    if (isIP(host) !== 0) process.nextTick(() => this.#open(host, port, options));
    else this.#lookUp(host, port, options);
    return this;
  }

  /** As new: net.Socket lets programs connect again. */
  #undestroy(): void {
    (this as unknown as { _undestroy(): void })._undestroy();
    this.#remote = null;
    this.#local = null;
    this.bytesRead = 0;
    this.#bytesDispatched = 0;
    this.#parts = [];
    this.#tailLength = 0;
    this.#ended = false;
    this.#full = false;
    this.#paused = false;
    this.#reset = false;
  }

  #lookUp(host: string, port: number, options: ConnectOptions): void {
    const lookup = options.lookup ?? this.#stack.lookup;
    if (lookup === null) {
      process.nextTick(() => this.#failLookup(lookupError(host), host));
      return;
    }
    checkFunction(lookup, 'options.lookup');
    const { family = 0, hints = 0 } = options;
    const found = (error: Error | null, answer: string | { address: string; family: number }[], is?: number): void => {
      const [address = '', addressFamily = 0] = Array.isArray(answer)
        ? [answer[0]?.address, answer[0]?.family]
        : [answer, is];
      this.emit('lookup', error, address, addressFamily, host);
      if (!this.connecting) return;
      if (error) process.nextTick(() => this.destroy(error));
      else if (isIP(address) === 0) process.nextTick(() => this.destroy(lookupError(host)));
      else this.#open(address, port, options);
    };
    lookup(host, { family, hints }, found as Parameters<LookupFunction>[2]);
  }

  #failLookup(error: Error, host: string): void {
    this.emit('lookup', error, undefined, undefined, host);
    if (this.connecting) this.destroy(error);
  }

  #open(host: string, port: number, options: ConnectOptions): void {
    if (!this.connecting || this.destroyed) return;
    const address = parseIp(host);
    const localAddress = options.localAddress === undefined ? undefined : parseIp(options.localAddress);
    if (address === null) {
      this.destroy(socketError('connect', 'EINVAL', { address: host, port }));
      return;
    }
    if (localAddress === null) {
      this.destroy(socketError('bind', 'EINVAL', { address: options.localAddress }));
      return;
    }
    this.#remote = { address, port };
    try {
      this.#connection = this.#stack.tcp.connect({
        address,
        port,
        localAddress,
        localPort: options.localPort,
        handler: this.#handler,
        noDelay: this.#noDelay,
        keepAliveMs: this.#keepAliveMs,
      });
    } catch (error) {
      if (!(error instanceof TcpError)) throw error;
      this.destroy(connectFailure(error, host, port, options));
    }
  }

  /** A connection that a listener accepted is this socket's. Gives who serves it. */
  adopt(connection: Connection, owner: SocketOwner, emit: () => void): TcpHandler {
    this.#owner = owner;
    this.server = owner;
    this.#connection = connection;
    this.#stack.attach(this);
    this.#hold();
    if (this.#noDelay) this.#stack.tcp.setNoDelay(connection, true);
    if (this.#keepAliveMs > 0) this.#stack.tcp.setKeepAlive(connection, this.#keepAliveMs);
    this.#accepting = true;
    emit();
    this.#accepting = false;
    return this.#handler;
  }

  /** What the stack calls. */
  readonly #handler: TcpHandler = {
    onConnected: () => {
      this.connecting = false;
      this.#active();
      this.emit('connect');
      this.emit('ready');
      if (this.#connection !== NO_CONNECTION && this.readable && !this.isPaused()) this.read(0);
    },
    onData: (_, bytes, start, end) => this.#take(bytes, start, end),
    onEnd: () => {
      if (this.#connection === NO_CONNECTION) return;
      this.#active();
      this.#ended = true;
      this.#giveSoon();
    },
    onWritable: () => {
      this.#active();
      this.#finishWrite();
    },
    onClosed: (_, error) => this.#onClosed(error),
  };

  #onClosed(error: TcpError | null): void {
    if (this.#connection === NO_CONNECTION) return;
    this.#connection = NO_CONNECTION;
    if (error === null) {
      this.#finishWrite();
      return;
    }
    // What came before is the program's.
    while (!this.#full && (this.#parts.length > 0 || this.#tailLength > 0)) {
      this.#closeTail();
      this.#full = !this.push(this.#parts.shift());
    }
    const { address, port } = this.#remote ?? {};
    const where = address === undefined ? {} : { address: formatIp(address), port };
    this.destroy(connectionError(error, this.connecting, where));
  }

  // ---- reading
  //
  // What comes in one poll of the stack is put together, and given a turn of the event queue later, and its end a turn
  // after that: programs that wait for one event after the other (`await once(socket, 'data')`) miss none, as with Node.

  #take(bytes: Uint8Array, start: number, end: number): void {
    if (this.#connection === NO_CONNECTION) return;
    this.#active();
    const length = end - start;
    this.bytesRead += length;
    const total = this.#tailLength + length;
    if (this.#tailLength > 0 && total <= CHUNK_BYTES) {
      if (total > this.#tail.length) {
        const grown = Buffer.allocUnsafeSlow(CHUNK_BYTES);
        grown.set(this.#tail.subarray(0, this.#tailLength));
        this.#tail = grown;
      }
    } else {
      this.#closeTail();
      this.#tail = Buffer.allocUnsafe(length);
    }
    this.#tail.set(bytes.subarray(start, end), this.#tailLength);
    this.#tailLength += length;
    this.#giveSoon();
  }

  #closeTail(): void {
    if (this.#tailLength === 0) return;
    this.#parts.push(this.#tail.subarray(0, this.#tailLength));
    this.#tail = NOTHING;
    this.#tailLength = 0;
  }

  #giveSoon(): void {
    if (this.#giving) return;
    this.#giving = true;
    process.nextTick(this.#give);
  }

  readonly #give = (): void => {
    this.#giving = false;
    if (this.destroyed) return;
    if (this.#parts.length === 0) this.#closeTail();
    if (this.#parts.length === 0) {
      this.#giveEnd();
      return;
    }
    if (this.#full) return;
    this.#full = !this.push(this.#parts.shift());
    if (this.destroyed) return;
    if (this.#parts.length > 0 || this.#tailLength > 0 || this.#ended) {
      this.#giving = true;
      setImmediate(this.#give);
    }
    if (this.#full) this.#pause();
  };

  #giveEnd(): void {
    if (!this.#ended) return;
    this.#ended = false;
    this.push(null);
    this.read(0);
  }

  #pause(): void {
    if (this.#paused || this.#connection === NO_CONNECTION) return;
    this.#paused = true;
    this.#stack.tcp.pause(this.#connection);
  }

  override _read(): void {
    this.#full = false;
    if (this.#parts.length > 0 || this.#tailLength > 0) this.#giveSoon();
    if (!this.#paused || this.#connection === NO_CONNECTION) return;
    this.#paused = false;
    this.#stack.tcp.resume(this.#connection);
  }

  /** Nobody waits for answers of one who said that it is over, unless told so. */
  #onReadableEnd(): void {
    if (!this.allowHalfOpen) this.write = writeAfterFin as typeof this.write;
  }

  // ---- writing

  override _write(chunk: Uint8Array | string, encoding: BufferEncoding, callback: WriteCallback): void {
    // A copy: the program may write to its buffer again when the callback was called.
    this.#send(typeof chunk === 'string' ? Buffer.from(chunk, encoding) : new Uint8Array(chunk), callback);
  }

  override _writev(chunks: { chunk: Uint8Array | string; encoding: BufferEncoding }[], callback: WriteCallback): void {
    const parts = chunks.map(({ chunk, encoding }) =>
      typeof chunk === 'string' ? Buffer.from(chunk, encoding) : chunk,
    );
    this.#send(Buffer.concat(parts), callback);
  }

  /** Writes bytes that are nobody else's. */
  #send(bytes: Uint8Array, callback: WriteCallback): void {
    if (this.connecting) {
      const onClose = () => callback(closedBeforeConnection());
      this.once('connect', () => {
        this.off('close', onClose);
        this.#send(bytes, callback);
      });
      this.once('close', onClose);
      return;
    }
    if (this.#connection === NO_CONNECTION) {
      callback(nodeError(new Error('Socket is closed'), 'ERR_SOCKET_CLOSED'));
      return;
    }
    this.#active();
    this.#writtenBytes = bytes.length;
    this.#written = callback;
    try {
      if (bytes.length === 0 || this.#stack.tcp.write(this.#connection, bytes)) this.#finishWrite();
    } catch (error) {
      if (!(error instanceof TcpError)) throw error;
      this.#written = null;
      callback(socketError('write', error.code));
    }
  }

  #finishWrite(): void {
    const done = this.#written;
    if (done === null) return;
    this.#written = null;
    this.#bytesDispatched += this.#writtenBytes;
    this.#writtenBytes = 0;
    done(null);
  }

  override _final(callback: WriteCallback): void {
    if (this.connecting) {
      this.once('connect', () => this._final(callback));
      return;
    }
    if (this.#connection !== NO_CONNECTION) this.#stack.tcp.shutdown(this.#connection);
    callback();
  }

  // ---- the end

  override _destroy(error: Error | null, callback: WriteCallback): void {
    this.connecting = false;
    this.#clearTimer();
    const connection = this.#connection;
    this.#connection = NO_CONNECTION;
    this.#parts = [];
    this.#tail = NOTHING;
    this.#tailLength = 0;
    if (connection !== NO_CONNECTION) {
      // The stack wants to know first who serves a connection that it has just accepted.
      if (this.#accepting) queueMicrotask(() => this.#hangUp(connection));
      else this.#hangUp(connection);
    }
    this.#stack.detach(this);
    this.#letGo();
    this.#finishWrite();
    callback(error);
    // Behind the 'error' that the callback has in the queue.
    process.nextTick(() => {
      this.emit('close', error !== null);
      this.#owner?.socketClosed();
    });
  }

  stackClosed(): void {
    this.destroy();
  }

  #hangUp(connection: Connection): void {
    if (this.#reset) this.#stack.tcp.abort(connection);
    else this.#stack.tcp.close(connection);
  }

  /** Ends this side, and destroys the socket when all was handed to the stack. */
  destroySoon(): void {
    if (this.writable) this.end();
    if (this.writableFinished) this.destroy();
    else this.once('finish', () => this.destroy());
  }

  /** Ends the connection with a RST. */
  resetAndDestroy(): this {
    if (this.connecting) this.once('connect', () => this.#resetNow());
    else if (this.#connection !== NO_CONNECTION) this.#resetNow();
    else this.destroy(nodeError(new Error('Socket is closed'), 'ERR_SOCKET_CLOSED'));
    return this;
  }

  #resetNow(): void {
    this.#reset = true;
    this.destroy();
  }

  // ---- time

  /** Emits 'timeout' after so many ms without anything read or written; 0: never. */
  setTimeout(ms: number, listener?: () => void): this {
    if (this.destroyed) return this;
    checkDuration(ms, 'msecs');
    if (listener !== undefined) checkFunction(listener, 'callback');
    this.timeout = ms;
    this.#clearTimer();
    if (ms === 0) {
      if (listener !== undefined) this.off('timeout', listener);
      return this;
    }
    this.#timer = setTimeout(() => this.emit('timeout'), ms).unref();
    if (listener !== undefined) this.once('timeout', listener);
    return this;
  }

  #clearTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #active(): void {
    this.#timer?.refresh();
  }

  /** What Node's own TLS calls on what it runs over. */
  _unrefTimer(): void {
    this.#active();
  }

  // ---- options

  setNoDelay(enable = true): this {
    this.#noDelay = Boolean(enable);
    if (this.#connection !== NO_CONNECTION) this.#stack.tcp.setNoDelay(this.#connection, this.#noDelay);
    return this;
  }

  /** @param initialDelay ms of silence before the first probe, rounded to seconds; 0: leave it */
  setKeepAlive(enable = false, initialDelay = 0): this {
    const delay = Math.trunc(initialDelay / MS_PER_SECOND) * MS_PER_SECOND;
    this.#keepAliveMs = enable ? delay || this.#keepAliveMs || DEFAULT_KEEP_ALIVE_MS : 0;
    if (this.#connection !== NO_CONNECTION) this.#stack.tcp.setKeepAlive(this.#connection, this.#keepAliveMs);
    return this;
  }

  ref(): this {
    this.#referenced = true;
    if (this.connecting || this.#connection !== NO_CONNECTION) this.#hold();
    return this;
  }

  unref(): this {
    this.#referenced = false;
    this.#letGo();
    return this;
  }

  #hold(): void {
    if (this.#held || !this.#referenced) return;
    this.#held = true;
    this.#stack.hold();
  }

  #letGo(): void {
    if (!this.#held) return;
    this.#held = false;
    this.#stack.letGo();
  }

  // ---- what it is

  get pending(): boolean {
    return this.#connection === NO_CONNECTION || this.connecting;
  }

  get readyState(): 'opening' | 'open' | 'readOnly' | 'writeOnly' | 'closed' {
    if (this.connecting) return 'opening';
    if (this.readable && this.writable) return 'open';
    if (this.readable) return 'readOnly';
    return this.writable ? 'writeOnly' : 'closed';
  }

  /** Bytes handed to the stack, and those that wait for it. */
  get bytesWritten(): number {
    return this.#bytesDispatched + this.writableLength;
  }

  /** The connection's number for TcpUser, as long as there is one; -1 otherwise. */
  get connection(): Connection {
    return this.#connection;
  }

  #localEndpoint(): Endpoint | null {
    if (this.#connection !== NO_CONNECTION && !this.connecting) {
      this.#local ??= copyOf(this.#stack.tcp.localEndpoint(this.#connection));
    }
    return this.#local;
  }

  #remoteEndpoint(): Endpoint | null {
    if (this.connecting) return null;
    if (this.#connection !== NO_CONNECTION) {
      this.#remote ??= copyOf(this.#stack.tcp.remoteEndpoint(this.#connection));
    }
    return this.#remote;
  }

  /** Our end; empty where there is none. */
  address(): SocketAddress | Record<string, never> {
    const local = this.#connection === NO_CONNECTION ? null : this.#localEndpoint();
    if (local === null) return {};
    return { address: formatIp(local.address), family: familyName(local.address), port: local.port };
  }

  get remoteAddress(): string | undefined {
    const end = this.#remoteEndpoint();
    return end === null ? undefined : formatIp(end.address);
  }

  get remotePort(): number | undefined {
    return this.#remoteEndpoint()?.port;
  }

  get remoteFamily(): 'IPv4' | 'IPv6' | undefined {
    const end = this.#remoteEndpoint();
    return end === null ? undefined : familyName(end.address);
  }

  get localAddress(): string | undefined {
    const end = this.#localEndpoint();
    return end === null ? undefined : formatIp(end.address);
  }

  get localPort(): number | undefined {
    return this.#localEndpoint()?.port;
  }

  get localFamily(): 'IPv4' | 'IPv6' | undefined {
    const end = this.#localEndpoint();
    return end === null ? undefined : familyName(end.address);
  }
}

/** The stack's own views may change below us. */
function copyOf({ address, port }: Endpoint): Endpoint {
  return { address: address.slice(), port };
}

function closedBeforeConnection(): Error {
  const words = 'Socket closed before the connection was established';
  return nodeError(new Error(words), 'ERR_SOCKET_CLOSED_BEFORE_CONNECTION');
}

/** In place of write(), once the other side has ended and this one does not go on alone. */
function writeAfterFin(this: Socket, _: unknown, encoding?: unknown, callback?: unknown): boolean {
  const done = typeof encoding === 'function' ? encoding : callback;
  const error = nodeError(new Error('This socket has been ended by the other party'), 'EPIPE');
  if (typeof done === 'function') process.nextTick(() => (done as WriteCallback)(error));
  this.destroy(error);
  return false;
}

/** What Node says of a connection that cannot even be begun. */
function connectFailure(error: TcpError, address: string, port: number, options: ConnectOptions): Error {
  const { localAddress, localPort } = options;
  const isLocal = error.code === 'EADDRINUSE' || error.code === 'EADDRNOTAVAIL';
  const made = isLocal
    ? socketError('bind', error.code, { address: localAddress ?? '0.0.0.0', port: localPort })
    : socketError('connect', error.code, { address, port, details: `${localAddress ?? '0.0.0.0'}:${localPort ?? 0}` });
  made.cause = error;
  return made;
}

function connectArguments(args: unknown[]): { options: ConnectOptions; listener?: () => void } {
  const [first, second] = args;
  // net.connect() hands its arguments on as one array.
  if (Array.isArray(first)) return connectArguments(first);
  const last = args.at(-1);
  const listener = typeof last === 'function' ? (last as () => void) : undefined;
  if (typeof first === 'object' && first !== null) return { options: first as ConnectOptions, listener };
  if (typeof first === 'string' && !/^\d+$/.test(first)) {
    return { options: { path: first } as ConnectOptions, listener };
  }
  const host = typeof second === 'string' ? second : undefined;
  return { options: { port: typeof first === 'function' ? undefined : first, host } as ConnectOptions, listener };
}

/** Gives the port. */
function checkConnectOptions({ port, path, localPort }: ConnectOptions): number {
  if (path !== undefined && path !== null) {
    const error = new TypeError(
      `"${path}" is a path: this stack speaks TCP alone; give a port, or use node:net for Unix sockets`,
    );
    throw nodeError(error, 'ERR_INVALID_ARG_VALUE');
  }
  if (port === undefined) {
    throw nodeError(new TypeError('The "options" or "port" or "path" argument must be specified'), 'ERR_MISSING_ARGS');
  }
  if (localPort !== undefined && !(Number.isInteger(localPort) && localPort >= 0 && localPort <= MAX_PORT)) {
    throw nodeError(new RangeError(`options.localPort should be from 0 to ${MAX_PORT}`), 'ERR_SOCKET_BAD_PORT');
  }
  return checkPort(port, 'Port');
}
