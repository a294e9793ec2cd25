/**
 * `node:net` over a stack: the same names, bound to it.
 *
 *     const { connect, createServer } = stack.net;
 *     http.createServer(handler)                               // then: createServer((socket) => web.emit('connection', socket))
 *     http.get({ host, createConnection: stack.net.createConnection })
 *     tls.connect({ socket: stack.net.connect({ port: 443, host: '10.0.0.1', allowHalfOpen: true }) })
 *
 * With `allowHalfOpen`, since Node's TLS ends the stream that it runs over itself, when it has sent all.
 */
import { isIP, isIPv4, isIPv6 } from 'node:net';
import { Server, type ServerOptions } from './server.ts';
import { Socket, type SocketOptions, type SocketStack } from './socket.ts';

/** What a stack has in place of `node:net`. */
export interface Net {
  Socket: new (options?: SocketOptions) => Socket;
  Server: new (options?: ServerOptions | ((socket: Socket) => void), listener?: (socket: Socket) => void) => Server;
  createServer(options?: ServerOptions | ((socket: Socket) => void), listener?: (socket: Socket) => void): Server;
  connect(...args: unknown[]): Socket;
  createConnection(...args: unknown[]): Socket;
  isIP: typeof isIP;
  isIPv4: typeof isIPv4;
  isIPv6: typeof isIPv6;
}

export function netOf(stack: SocketStack): Net {
  class StackSocket extends Socket {
    constructor(options?: SocketOptions) {
      super(stack, options);
    }
  }
  class StackServer extends Server {
    constructor(options?: ServerOptions | ((socket: Socket) => void), listener?: (socket: Socket) => void) {
      super(stack, options, listener);
    }
  }
  const connect = (...args: unknown[]): Socket => {
    const options = typeof args[0] === 'object' && args[0] !== null ? (args[0] as SocketOptions) : {};
    const { allowHalfOpen, highWaterMark, noDelay, keepAlive, keepAliveInitialDelay, signal } = options;
    const made = new StackSocket({ allowHalfOpen, highWaterMark, noDelay, keepAlive, keepAliveInitialDelay, signal });
    return made.connect(...args);
  };
  return {
    Socket: StackSocket,
    Server: StackServer,
    createServer: (options, listener) => new StackServer(options, listener),
    connect,
    createConnection: connect,
    isIP,
    isIPv4,
    isIPv6,
  };
}
