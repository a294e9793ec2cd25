/** What sockets of a stack do beyond what Node's do, and what they ask of the stack. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { type Net, netOf } from '../../sockets/net.ts';
import { Socket, type SocketStack } from '../../sockets/socket.ts';
import type { TcpHandler } from '../../tcpip/tcp/api.ts';
import { TcpError } from '../../tcpip/tcp/api.ts';
import { FakeNetwork, type FakeTcpUser } from '../helpers/fake-tcp-user.ts';

describe('sockets of a stack', () => {
  let network: FakeNetwork;
  let tcp: FakeTcpUser;
  let holders: number;
  let net: Net;
  let there: Net;
  const host = '10.0.0.2';
  beforeEach(() => {
    network = new FakeNetwork();
    tcp = network.host(10, 0, 0, 1);
    holders = 0;
    net = netOf({
      tcp,
      lookup: null,
      hold: () => void holders++,
      letGo: () => void holders--,
      attach() {},
      detach() {},
    });
    there = netOf({ tcp: network.host(10, 0, 0, 2), lookup: null, hold() {}, letGo() {}, attach() {}, detach() {} });
  });

  it('hand options on, before the connection and later', async () => {
    const server = there.createServer({ noDelay: true, keepAlive: true, keepAliveInitialDelay: 5000 });
    server.listen(80);
    await once(server, 'listening');
    const socket = net.connect(80, host);
    await once(socket, 'connect');
    await delay(2);
    assert.deepEqual(network.asked.splice(0), ['noDelay true', 'keepAlive 5000']);
    assert.equal(socket.setNoDelay().setNoDelay(false).setKeepAlive(true, 9999).setKeepAlive(false), socket);
    socket.setKeepAlive(true);
    assert.deepEqual(network.asked, [
      'noDelay true',
      'noDelay false',
      'keepAlive 9000',
      'keepAlive 0',
      'keepAlive 7200000',
    ]);
    const asked: object[] = [];
    tcp.connect = ({ noDelay, keepAliveMs, localPort }) => {
      asked.push({ noDelay, keepAliveMs, localPort });
      throw new TcpError('ENETUNREACH', 'no');
    };
    const other = net.connect({
      port: 80,
      host,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: 2000,
      localPort: 77,
    });
    const [error] = (await once(other, 'error')) as [NodeJS.ErrnoException];
    assert.deepEqual(asked, [{ noDelay: true, keepAliveMs: 2000, localPort: 77 }]);
    assert.equal(error.message, `connect ENETUNREACH ${host}:80 - Local (0.0.0.0:77)`);
    assert.ok(error.cause instanceof TcpError);
  });

  it('keep the process alive while they are open, unless they need not', async () => {
    const server = there.createServer((socket) => socket.pipe(socket));
    server.listen(80);
    const socket = new net.Socket();
    assert.equal(holders, 0);
    socket.connect(80, host);
    assert.equal(holders, 1);
    await once(socket, 'connect');
    assert.equal(holders, 1);
    socket.unref();
    assert.equal(holders, 0);
    socket.ref().ref();
    assert.equal(holders, 1);
    socket.end().resume();
    await once(socket, 'close');
    assert.equal(holders, 0);
    const listening = net.createServer();
    listening.listen(81);
    await once(listening, 'listening');
    assert.equal(holders, 1);
    listening.unref();
    listening.ref();
    listening.close();
    await once(listening, 'close');
    assert.equal(holders, 0);
    const refused = net.connect(9, host);
    await once(refused, 'error');
    assert.equal(holders, 0);
  });

  it('put together what comes at once, and give the end a turn later', async () => {
    let handler!: TcpHandler;
    const calls: string[] = [];
    const stack = {
      tcp: {
        connect: (options: { handler: TcpHandler }) => {
          handler = options.handler;
          return 1;
        },
        pause: () => void calls.push('pause'),
        resume: () => void calls.push('resume'),
        shutdown() {},
        close() {},
      },
      lookup: null,
      hold() {},
      letGo() {},
      attach() {},
      detach() {},
    } as unknown as SocketStack;
    const socket = new Socket(stack, { highWaterMark: 1000 }).connect(80, host);
    await delay(1);
    handler.onConnected(1);
    const bytes = Uint8Array.from({ length: 100_000 }, (_, i) => i);
    const give = (start: number, end: number) => handler.onData(1, bytes, start, end);
    give(10, 20);
    give(20, 30);
    give(40, 45);
    handler.onEnd(1);
    bytes.fill(0, 0, 100);
    const [first] = (await once(socket, 'data')) as [Buffer];
    assert.deepEqual([...first], [...Array.from({ length: 20 }, (_, i) => i + 10), 40, 41, 42, 43, 44]);
    await once(socket, 'end');
    // Larger than one read of Node's: several events, each with the others in between.
    const next = new Socket(stack, { highWaterMark: 1000 }).connect(80, host);
    await delay(1);
    handler.onConnected(1);
    for (let at = 0; at < 100_000; at += 10_000) give(at, at + 10_000);
    const parts: number[] = [];
    while (parts.reduce((sum, n) => sum + n, 0) < 100_000) {
      const [part] = (await once(next, 'data')) as [Buffer];
      parts.push(part.length);
    }
    assert.deepEqual(parts, [60_000, 40_000]);
    assert.equal(next.bytesRead, 100_000);
    // And backpressure: nobody reads, so the stack is told; once, until somebody does.
    next.pause();
    calls.length = 0;
    give(0, 70_000);
    give(0, 70_000);
    await delay(2);
    assert.deepEqual(calls, ['pause']);
    give(0, 5);
    await delay(2);
    assert.equal(next.readableLength, 70_000);
    let length = 0;
    next.on('data', (part: Buffer) => {
      length += part.length;
    });
    next.resume();
    await delay(5);
    assert.equal(length, 140_005);
    assert.ok(calls.includes('resume'));
    // What came before a reset is given before the error.
    give(0, 7);
    handler.onClosed(1, new TcpError('ECONNRESET', 'reset'));
    const [error] = (await once(next, 'error')) as [NodeJS.ErrnoException];
    assert.deepEqual([length, error.message], [140_012, 'read ECONNRESET']);
  });

  it('refuse what only sockets of the kernel can do', async () => {
    const code = 'ERR_INVALID_ARG_VALUE';
    assert.throws(() => new net.Socket({ onread: {} } as never), {
      code,
      message: /onread, fd and handle are of sockets/,
    });
    assert.throws(() => net.connect('/run/x.sock'), {
      code,
      message: /^"\/run\/x.sock" is a path: this stack speaks TCP/,
    });
    assert.throws(() => net.connect({ path: '/run/x.sock' }), { code });
    assert.throws(() => net.createServer().listen('/run/x.sock'), {
      code,
      message: /^cannot listen on "\/run\/x.sock"/,
    });
    assert.throws(() => net.createServer().listen({ fd: 3 }), { code, message: /^cannot listen on a descriptor/ });
    const bad = 'ERR_SOCKET_BAD_PORT';
    assert.throws(() => net.connect({ port: 80, host, localPort: 70_000 }), {
      code: bad,
      message: /options.localPort/,
    });
    assert.throws(() => net.connect({ port: 80, host: 'a', lookup: 5 as never }), { code: 'ERR_INVALID_ARG_TYPE' });
    const nowhere = net.connect({ port: 80, host, localAddress: 'here' });
    assert.equal(((await once(nowhere, 'error')) as [Error])[0].message, 'bind EINVAL here');
  });

  it('find names where the stack has a way to, and say so where it has none', async () => {
    const server = there.createServer((socket) => socket.end('x'));
    server.listen(80);
    const socket = net.connect(80, 'name.test');
    const told = once(socket, 'lookup') as Promise<[Error]>;
    const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException & { hostname: string }];
    assert.deepEqual(
      [error.message, error.code, error.errno, error.syscall, error.hostname],
      ['getaddrinfo ENOTFOUND name.test', 'ENOTFOUND', -3008, 'getaddrinfo', 'name.test'],
    );
    assert.equal((await told)[0], error);
    const asked: string[] = [];
    const lookup: SocketStack['lookup'] = (name, _, found) => {
      asked.push(name);
      setImmediate(found, null, name === 'broken' ? 'no address' : host, 4);
    };
    const named = netOf({ tcp, lookup, hold() {}, letGo() {}, attach() {}, detach() {} });
    assert.equal(Buffer.concat(await named.connect(80).toArray()).toString(), 'x');
    const [broken] = (await once(named.connect(80, 'broken'), 'error')) as [NodeJS.ErrnoException];
    assert.deepEqual([broken.code, asked], ['ENOTFOUND', ['localhost', 'broken']]);
    const listening = named.createServer();
    listening.listen(80, 'somewhere');
    assert.equal(((await once(listening, 'error')) as [NodeJS.ErrnoException])[0].code, 'EADDRNOTAVAIL');
    const nameless = net.createServer();
    nameless.listen(80, 'somewhere');
    assert.equal(((await once(nameless, 'error')) as [NodeJS.ErrnoException])[0].code, 'ENOTFOUND');
  });

  it('leave no connection behind', async () => {
    const server = there.createServer((socket) => socket.pipe(socket));
    server.listen(80);
    await once(server, 'listening');
    for (let i = 0; i < 20; i++) {
      const socket = net.connect(80, host);
      await once(socket, 'connect');
      if (i % 2 === 0) socket.end('x').resume();
      else socket.destroy();
      await once(socket, 'close');
    }
    await delay(5);
    assert.deepEqual([tcp.open, network.hosts.get(host)!.open], [0, 0]);
  });
});
