/**
 * UDP of a stack with the face of `node:dgram`.
 *
 *     const socket = stack.dgram.createSocket('udp4', (message, { address, port }) => socket.send(message, port, address));
 *     socket.bind(7);
 */
import { EventEmitter } from 'node:events';
import { isIP, type LookupFunction } from 'node:net';
import { familyName, formatIp, parseIp } from '../packet/ip-text.ts';
import { UdpError, type UdpHandler, type UdpMessage, type UdpSocket, type UdpUser } from '../tcpip/udp/api.ts';
import { lookupError, nodeError, socketError } from './errors.ts';
import { checkFunction, checkPort } from './node-arguments.ts';
import type { SocketAddress, SocketStack, StackUser } from './socket.ts';

const IPV4_BYTES = 4;
/** ::ffff:0:0/96 (RFC 4291 §2.5.5.2): how an IPv6 socket shows IPv4 addresses. */
const MAPPED = '::ffff:';
const MAX_TTL = 255;

/** What datagram sockets want of their stack. */
export interface DatagramStack extends Omit<SocketStack, 'tcp'> {
  readonly udp: UdpUser;
}

export type DatagramType = 'udp4' | 'udp6';

export interface DatagramOptions {
  type: DatagramType;
  /** Another socket that says so as well may have the same address and port. */
  reuseAddr?: boolean;
  ipv6Only?: boolean;
  /** Bytes that wait for a program that is slow. */
  recvBufferSize?: number;
  lookup?: LookupFunction;
  signal?: AbortSignal;
}

/** Who sent a message. */
export interface RemoteInfo extends SocketAddress {
  /** Bytes of the message. */
  size: number;
}

export type MessageListener = (message: Buffer, info: RemoteInfo) => void;
type SendCallback = (error: Error | null, bytes: number) => void;
type Payload = Uint8Array | string | readonly (Uint8Array | string)[];

interface Waiting {
  bytes: Uint8Array;
  address: Uint8Array | undefined;
  port: number | undefined;
  callback: SendCallback | undefined;
}

export class DatagramSocket extends EventEmitter implements StackUser, AsyncDisposable {
  readonly type: DatagramType;
  readonly #stack: DatagramStack;
  readonly #options: DatagramOptions;
  #socket: UdpSocket | null = null;
  /** bind() was called; the rest comes in a moment. */
  #binding = false;
  #connecting = false;
  #closed = false;
  #held = false;
  #referenced = true;
  /** What the device had no room for. */
  readonly #waiting: Waiting[] = [];
  readonly #abort: () => void = () => {
    if (!this.#closed) this.close();
  };

  constructor(stack: DatagramStack, options: DatagramType | DatagramOptions, listener?: MessageListener) {
    super();
    this.#stack = stack;
    this.#options = typeof options === 'string' ? { type: options } : options;
    const { type, signal } = this.#options;
    if (type !== 'udp4' && type !== 'udp6') {
      const error = new TypeError('Bad socket type specified. Valid types are: udp4, udp6');
      throw nodeError(error, 'ERR_SOCKET_BAD_TYPE');
    }
    this.type = type;
    if (listener !== undefined) this.on('message', listener as (...args: unknown[]) => void);
    if (signal?.aborted) process.nextTick(this.#abort);
    else signal?.addEventListener('abort', this.#abort, { once: true });
  }

  // ---- binding

  /** `bind([port][, address][, callback])`, `bind(options[, callback])`. Emits 'listening', or 'error' with EADDRINUSE and such. */
  bind(...args: unknown[]): this {
    this.#checkOpen();
    if (this.#socket !== null || this.#binding) {
      throw nodeError(new Error('Socket is already bound'), 'ERR_SOCKET_ALREADY_BOUND');
    }
    const last = args.at(-1);
    const callback = typeof last === 'function' ? (last as () => void) : undefined;
    const [first, second] = args;
    const isOptions = typeof first === 'object' && first !== null;
    const { port, address } = (isOptions ? first : { port: first, address: second }) as Record<string, unknown>;
    const wanted = port === undefined || typeof port === 'function' ? 0 : checkPort(port, 'Port');
    if (callback !== undefined) this.once('listening', callback);
    this.#binding = true;
    const host = typeof address === 'string' ? address : '';
    this.#resolve(host, (error, found) => {
      if (this.#closed) return;
      if (error === null) this.#open(found, wanted);
      else this.#failBind(error);
    });
    return this;
  }

  /** Calls back, always later, with an address of this socket's family; null: any. */
  #resolve(host: string, found: (error: Error | null, address: Uint8Array | null) => void): void {
    const isV4 = this.type === 'udp4';
    if (host === '' || host === '0.0.0.0' || host === '::') {
      process.nextTick(found, null, null);
      return;
    }
    const address = this.#own(host);
    if (address !== null) {
      process.nextTick(found, null, address);
      return;
    }
    const lookup = this.#options.lookup ?? this.#stack.lookup;
    if (lookup === null || isIP(host) !== 0) {
      process.nextTick(found, lookupError(host), null);
      return;
    }
    const answered = (error: Error | null, text: string | { address: string }[]): void => {
      const one = Array.isArray(text) ? text[0]?.address : text;
      if (error) found(error, null);
      else found(this.#own(one ?? '') === null ? lookupError(host) : null, this.#own(one ?? ''));
    };
    lookup(host, { family: isV4 ? 4 : 6 }, answered as Parameters<LookupFunction>[2]);
  }

  /** An address that this socket can talk to; IPv6 sockets can, to IPv4 hosts, by mapped addresses. */
  #own(host: string): Uint8Array | null {
    const isMapped = this.type === 'udp6' && host.toLowerCase().startsWith(MAPPED);
    const bytes = parseIp(isMapped ? host.slice(MAPPED.length) : host);
    if (bytes === null) return null;
    return isMapped || (bytes.length === IPV4_BYTES) === (this.type === 'udp4') ? bytes : null;
  }

  #open(address: Uint8Array | null, port: number): void {
    const { reuseAddr, ipv6Only, recvBufferSize } = this.#options;
    try {
      this.#socket = this.#stack.udp.open({
        family: this.type === 'udp4' ? 4 : 6,
        address: address ?? undefined,
        port,
        reuseAddress: reuseAddr,
        ipv6Only,
        receiveBuffer: recvBufferSize,
        handler: this.#handler,
      });
    } catch (error) {
      if (!(error instanceof UdpError)) throw error;
      const shown = address === null ? (this.type === 'udp4' ? '0.0.0.0' : '::') : formatIp(address);
      this.#failBind(withCause(socketError('bind', error.code, { address: shown, port }), error));
      return;
    }
    this.#binding = false;
    this.#stack.attach(this);
    if (this.#referenced) this.#hold();
    this.emit('listening');
  }

  #failBind(error: Error): void {
    this.#binding = false;
    this.emit('error', error);
    // What was sent meanwhile goes nowhere.
    this.emit(UNBOUND, error);
  }

  /** Calls back when there is a bound socket, which is bound to any port if nobody asked for one. */
  #whenBound(then: (error: Error | null) => void): void {
    if (this.#socket !== null) {
      then(null);
      return;
    }
    if (!this.#binding) this.bind(0);
    const done = (error: Error | null): void => {
      this.off('listening', onListening);
      this.off(UNBOUND, done);
      then(error);
    };
    const onListening = (): void => done(null);
    this.once('listening', onListening);
    this.once(UNBOUND, done);
  }

  /** What the stack calls. */
  readonly #handler: UdpHandler = {
    onMessage: (_, message) => this.#take(message),
    onError: (_, { code }) => {
      if (!this.#closed) this.emit('error', socketError('recvmsg', code));
    },
    onWritable: () => this.#sendWaiting(),
  };

  #take({ bytes, start, end, family, source, port }: UdpMessage): void {
    if (this.#closed) return;
    const message = Buffer.allocUnsafe(end - start);
    message.set(bytes.subarray(start, end));
    const sender = formatIp(bytes.subarray(source, source + (family === 4 ? IPV4_BYTES : 16)));
    const isMapped = family === 4 && this.type === 'udp6';
    const info: RemoteInfo = {
      address: isMapped ? MAPPED + sender : sender,
      family: this.type === 'udp4' ? 'IPv4' : 'IPv6',
      port,
      size: message.length,
    };
    this.emit('message', message, info);
  }

  // ---- sending

  /**
   * `send(message[, offset, length][, port][, address][, callback])`, as `dgram.Socket` has it. The callback comes when the
   * message was handed to the device. Without one, a name that is not found is an 'error' event, and what else fails is lost.
   */
  send(message: Payload, ...rest: unknown[]): void {
    this.#checkOpen();
    const { bytes, port, address, callback } = this.#sendArguments(message, rest);
    this.#whenBound((unbound) => {
      if (unbound !== null) {
        callback?.(unbound, 0);
        return;
      }
      if (this.#closed) return;
      if (port === undefined) {
        this.#sendNow({ bytes, address: undefined, port: undefined, callback });
        return;
      }
      const own = address === undefined ? parseIp(this.type === 'udp4' ? '127.0.0.1' : '::1') : this.#own(address);
      if (own !== null) {
        this.#sendNow({ bytes, address: own, port, callback });
        return;
      }
      this.#resolve(address ?? '', (error, found) => {
        if (this.#closed) return;
        if (error !== null || found === null) this.#failSend(error ?? lookupError(address ?? ''), callback);
        else this.#sendNow({ bytes, address: found, port, callback });
      });
    });
  }

  #sendArguments(message: Payload, rest: unknown[]) {
    const last = rest.at(-1);
    const callback = typeof last === 'function' ? (last as SendCallback) : undefined;
    const given = callback === undefined ? rest : rest.slice(0, -1);
    let bytes = payloadBytes(message);
    const isConnected = this.#connecting || (this.#socket !== null && this.#socket.remoteAddress !== null);
    // With offset and length there are two numbers more.
    const hasRange = typeof given[1] === 'number' && (isConnected || given.length >= 3) && !Array.isArray(message);
    const [port, address] = hasRange ? given.slice(2) : given;
    if (hasRange) {
      const [offset, length] = given as [number, number];
      if (offset < 0 || length < 0 || offset + length > bytes.length) {
        const words = `offset ${offset} and length ${length} are outside of a message of ${bytes.length} bytes`;
        throw nodeError(new RangeError(words), 'ERR_BUFFER_OUT_OF_BOUNDS');
      }
      bytes = bytes.subarray(offset, offset + length);
    }
    if (isConnected && port !== undefined)
      throw nodeError(new Error('Already connected'), 'ERR_SOCKET_DGRAM_IS_CONNECTED');
    const to = isConnected ? undefined : checkPort(port, 'Port');
    if (to === 0)
      throw nodeError(
        new RangeError('Port should be > 0 and < 65536. Received type number (0).'),
        'ERR_SOCKET_BAD_PORT',
      );
    if (address !== undefined && address !== null && typeof address !== 'string') {
      const error = new TypeError(`The "address" argument must be of type string. Received ${typeof address}`);
      throw nodeError(error, 'ERR_INVALID_ARG_TYPE');
    }
    return { bytes, port: to, address: address ? (address as string) : undefined, callback };
  }

  #sendNow(one: Waiting): void {
    if (this.#waiting.length > 0 || !this.#transmit(one)) this.#waiting.push(one);
  }

  /** False: there is no room. */
  #transmit({ bytes, address, port, callback }: Waiting): boolean {
    try {
      if (!this.#socket!.send(bytes, 0, bytes.length, address, port)) return false;
    } catch (error) {
      if (!(error instanceof UdpError)) throw error;
      const shown = address ?? this.#socket!.remoteAddress;
      const where = { address: shown === null ? undefined : formatIp(shown), port: port ?? this.#socket!.remotePort };
      // As Node has it: without a callback nobody wants to know.
      if (callback !== undefined) this.#failSend(withCause(socketError('send', error.code, where), error), callback);
      return true;
    }
    if (callback !== undefined) process.nextTick(callback, null, bytes.length);
    return true;
  }

  #failSend(error: Error, callback: SendCallback | undefined): void {
    if (callback !== undefined) process.nextTick(callback, error, 0);
    else process.nextTick(() => this.emit('error', error));
  }

  #sendWaiting(): void {
    while (!this.#closed && this.#waiting.length > 0) {
      if (!this.#transmit(this.#waiting[0]!)) return;
      this.#waiting.shift();
    }
  }

  /** Messages that wait for room in the device. */
  getSendQueueCount(): number {
    return this.#waiting.length;
  }

  getSendQueueSize(): number {
    return this.#waiting.reduce((sum, { bytes }) => sum + bytes.length, 0);
  }

  // ---- one other end

  /** From now on only this host's messages come, and send() needs no address. Emits 'connect', or 'error'. */
  connect(port: number, ...rest: unknown[]): void {
    this.#checkOpen();
    const wanted = checkPort(port, 'Port');
    const last = rest.at(-1);
    const callback = typeof last === 'function' ? (last as (error?: Error) => void) : undefined;
    const address = typeof rest[0] === 'string' && rest[0] !== '' ? rest[0] : undefined;
    if (this.#connecting || this.#socket?.remoteAddress) {
      throw nodeError(new Error('Already connected'), 'ERR_SOCKET_DGRAM_IS_CONNECTED');
    }
    this.#connecting = true;
    this.#whenBound((unbound) => {
      if (unbound !== null) {
        this.#connecting = false;
        return;
      }
      this.#resolve(address ?? (this.type === 'udp4' ? '127.0.0.1' : '::1'), (error, found) => {
        if (this.#closed) return;
        this.#connecting = false;
        const failed = error ?? this.#connectTo(found!, wanted);
        if (failed === null) {
          if (callback !== undefined) this.once('connect', callback);
          this.emit('connect');
        } else if (callback !== undefined) callback(failed);
        else this.emit('error', failed);
      });
    });
  }

  #connectTo(address: Uint8Array, port: number): Error | null {
    try {
      this.#socket!.connect(address, port);
      return null;
    } catch (error) {
      if (!(error instanceof UdpError)) throw error;
      return withCause(socketError('connect', error.code, { address: formatIp(address), port }), error);
    }
  }

  disconnect(): void {
    this.#connected().disconnect();
  }

  remoteAddress(): SocketAddress {
    const { remoteAddress, remotePort } = this.#connected();
    return { address: formatIp(remoteAddress!), family: familyName(remoteAddress!), port: remotePort };
  }

  #connected(): UdpSocket {
    if (this.#socket?.remoteAddress) return this.#socket;
    throw nodeError(new Error('Not connected'), 'ERR_SOCKET_DGRAM_NOT_CONNECTED');
  }

  // ---- options

  setBroadcast(on: boolean): void {
    this.#bound('setBroadcast').broadcast = Boolean(on);
  }

  setTTL(ttl: number): number {
    this.#bound('setTTL').hopLimit = checkTtl('setTTL', ttl);
    return ttl;
  }

  setMulticastTTL(ttl: number): number {
    this.#bound('setMulticastTTL').multicastHopLimit = checkTtl('setMulticastTTL', ttl);
    return ttl;
  }

  /** Takes part in a group; once the socket is bound. Throws EINVAL, EADDRINUSE, ENODEV, EBADF. */
  addMembership(group: string): void {
    this.#checkOpen();
    this.#group('addMembership', group, (socket, address) => socket.join(address));
  }

  dropMembership(group: string): void {
    this.#group('dropMembership', group, (socket, address) => socket.leave(address));
  }

  #group(syscall: string, group: string, change: (socket: UdpSocket, address: Uint8Array) => void): void {
    const address = this.#own(group);
    if (address === null) throw socketError(syscall, 'EINVAL');
    try {
      change(this.#bound(syscall), address);
    } catch (error) {
      if (!(error instanceof UdpError)) throw error;
      throw withCause(socketError(syscall, error.code), error);
    }
  }

  #bound(syscall: string): UdpSocket {
    this.#checkOpen();
    if (this.#socket === null) throw socketError(syscall, 'EBADF');
    return this.#socket;
  }

  /** Where it is bound. Throws EBADF before 'listening'. */
  address(): SocketAddress {
    const { address, port } = this.#bound('getsockname');
    const any = this.type === 'udp4' ? '0.0.0.0' : '::';
    const family = this.type === 'udp4' ? 'IPv4' : 'IPv6';
    return { address: address === null ? any : formatIp(address), family, port };
  }

  ref(): this {
    this.#referenced = true;
    if (this.#socket !== null) this.#hold();
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

  // ---- the end

  close(callback?: () => void): this {
    this.#checkOpen();
    if (callback !== undefined) this.once('close', callback);
    this.#closed = true;
    this.#options.signal?.removeEventListener('abort', this.#abort);
    this.#socket?.close();
    this.#socket = null;
    this.#waiting.length = 0;
    this.#stack.detach(this);
    this.#letGo();
    process.nextTick(() => this.emit('close'));
    return this;
  }

  stackClosed(): void {
    if (!this.#closed) this.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#closed) await new Promise<void>((resolve) => this.close(resolve));
  }

  #checkOpen(): void {
    if (this.#closed) throw nodeError(new Error('Not running'), 'ERR_SOCKET_DGRAM_NOT_RUNNING');
  }
}

/** Told to those who wait for a socket to be bound when it cannot be. */
const UNBOUND = Symbol('unbound');

/** What a stack has in place of `node:dgram`. */
export interface Dgram {
  Socket: new (options: DatagramType | DatagramOptions, listener?: MessageListener) => DatagramSocket;
  createSocket(options: DatagramType | DatagramOptions, listener?: MessageListener): DatagramSocket;
}

export function dgramOf(stack: DatagramStack): Dgram {
  class StackDatagramSocket extends DatagramSocket {
    constructor(options: DatagramType | DatagramOptions, listener?: MessageListener) {
      super(stack, options, listener);
    }
  }
  return {
    Socket: StackDatagramSocket,
    createSocket: (options, listener) => {
      if (listener !== undefined) checkFunction(listener, 'callback');
      return new StackDatagramSocket(options, listener);
    },
  };
}

function payloadBytes(message: Payload): Uint8Array {
  if (typeof message === 'string') return Buffer.from(message);
  if (message instanceof Uint8Array) return message;
  if (Array.isArray(message)) return Buffer.concat(message.map((part) => payloadBytes(part as Payload)));
  if (ArrayBuffer.isView(message)) {
    const { buffer, byteOffset, byteLength } = message as ArrayBufferView;
    return new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
  }
  const words =
    'The "msg" argument must be of type string or an instance of Buffer, TypedArray, DataView or an array of them.';
  throw nodeError(new TypeError(`${words} Received ${typeof message}`), 'ERR_INVALID_ARG_TYPE');
}

function checkTtl(syscall: string, ttl: number): number {
  if (typeof ttl !== 'number') {
    throw nodeError(
      new TypeError(`The "ttl" argument must be of type number. Received ${typeof ttl}`),
      'ERR_INVALID_ARG_TYPE',
    );
  }
  if (ttl >= 1 && ttl <= MAX_TTL) return ttl;
  throw socketError(syscall, 'EINVAL');
}

function withCause(error: NodeJS.ErrnoException, cause: Error): NodeJS.ErrnoException {
  error.cause = cause;
  return error;
}
