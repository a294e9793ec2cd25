/** node:net's own behaviour, asked of Node's sockets first and then of ours: both must answer alike. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { Server } from '../../sockets/server.ts';
import type { Socket } from '../../sockets/socket.ts';
import { fakeWorld, nodeWorld, type SocketHosts, stackWorld } from '../helpers/socket-worlds.ts';

const EVENTS = ['lookup', 'connect', 'ready', 'end', 'finish', 'timeout', 'error', 'close'];

const STACKS = [
  stackWorld('sockets of two stacks'),
  stackWorld('sockets of two stacks without offloads', { offloads: 0 }),
];

for (const world of [nodeWorld, fakeWorld, ...STACKS]) {
  describe(world.name, () => {
    let hosts: SocketHosts;
    const open: { destroy(): void }[] = [];
    const servers: Server[] = [];
    beforeEach(async () => {
      hosts = await world.make();
    });
    afterEach(async () => {
      for (const socket of open.splice(0)) socket.destroy();
      for (const server of servers.splice(0)) server.close();
      await hosts.close();
    });

    async function listen(
      onConnection: (socket: Socket) => void,
      options: object = {},
    ): Promise<{ server: Server; port: number }> {
      const server = hosts.server.createServer(options, (socket) => {
        open.push(socket);
        onConnection(socket);
      });
      servers.push(server);
      server.listen(0, hosts.host);
      await once(server, 'listening');
      return { server, port: (server.address() as AddressInfo).port };
    }
    function connect(port: number, options: object = {}): Socket {
      const socket = hosts.client.connect({ port, host: hosts.host, ...options });
      open.push(socket);
      return socket;
    }
    function track(socket: Socket): string[] {
      const log: string[] = [];
      for (const event of EVENTS) {
        socket.on(event, (...args: unknown[]) => {
          if (event === 'close') log.push(`close ${args[0]}`);
          else log.push(event === 'error' ? `error ${(args[0] as { code?: string }).code}` : event);
        });
      }
      return log;
    }
    const closed = (socket: Socket): Promise<unknown> =>
      new Promise((resolve) => {
        socket.on('close', resolve);
      });
    const fieldsOf = (error: unknown): object => {
      const { message, code, errno, syscall, address, port } = error as NodeJS.ErrnoException & Record<string, unknown>;
      return { message, code, errno, syscall, address, port };
    };

    it('carry data both ways, and end in good order', async () => {
      const logs: string[][] = [];
      const accepted: Promise<unknown>[] = [];
      const { port } = await listen((socket) => {
        logs.push(track(socket));
        accepted.push(closed(socket));
        socket.pipe(socket);
      });
      const socket = connect(port);
      const log = track(socket);
      const got: Buffer[] = [];
      socket.on('data', (chunk: Buffer) => got.push(chunk));
      socket.end('hello');
      await closed(socket);
      await accepted[0];
      assert.equal(Buffer.concat(got).toString(), 'hello');
      assert.deepEqual(log, ['connect', 'ready', 'finish', 'end', 'close false']);
      assert.deepEqual(logs, [['end', 'finish', 'close false']]);
      assert.deepEqual([socket.bytesRead, socket.bytesWritten, socket.destroyed], [5, 5, true]);
    });

    it('say who they are', async () => {
      const { port, server } = await listen((socket) => {
        socket.end(JSON.stringify([socket.remotePort, socket.localPort, socket.remoteAddress, socket.localAddress]));
      });
      const socket = connect(port);
      assert.deepEqual([socket.connecting, socket.pending, socket.readyState], [true, true, 'opening']);
      assert.deepEqual([socket.address(), socket.remoteAddress], [{}, undefined]);
      await once(socket, 'connect');
      assert.deepEqual([socket.connecting, socket.pending, socket.readyState], [false, false, 'open']);
      assert.equal(socket.remoteAddress, hosts.host);
      assert.equal(socket.remotePort, port);
      assert.equal(socket.remoteFamily, 'IPv4');
      assert.equal(socket.localFamily, 'IPv4');
      const { localAddress, localPort } = socket;
      assert.deepEqual(socket.address(), { address: localAddress, family: 'IPv4', port: localPort });
      const parts = await socket.toArray();
      assert.deepEqual(JSON.parse(Buffer.concat(parts).toString()), [localPort, port, localAddress, hosts.host]);
      assert.deepEqual(server.address(), { address: hosts.host, family: 'IPv4', port });
    });

    it('move a megabyte with backpressure', async () => {
      const sent = Buffer.from(Array.from({ length: 1 << 20 }, (_, i) => (i * 31) & 0xff));
      const { promise, resolve } = Promise.withResolvers<Buffer>();
      const { port } = await listen((socket) => void socket.toArray().then((parts) => resolve(Buffer.concat(parts))));
      const socket = connect(port);
      let refused = 0;
      for (let at = 0; at < sent.length; at += 16_384) {
        if (!socket.write(sent.subarray(at, at + 16_384))) {
          refused++;
          await once(socket, 'drain');
        }
      }
      socket.end();
      assert.ok((await promise).equals(sent));
      assert.ok(refused > 0);
      assert.equal(socket.bytesWritten, sent.length);
    });

    it('let a program write to its buffer again after the callback', async () => {
      const { promise, resolve } = Promise.withResolvers<Buffer>();
      const { port } = await listen((socket) => void socket.toArray().then((parts) => resolve(Buffer.concat(parts))));
      const socket = connect(port);
      const buffer = Buffer.alloc(40_000);
      const expected: Buffer[] = [];
      for (let round = 1; round <= 5; round++) {
        buffer.fill(round);
        expected.push(Buffer.from(buffer));
        await new Promise<void>((done) => socket.write(buffer, () => done()));
      }
      socket.end();
      assert.ok((await promise).equals(Buffer.concat(expected)));
    });

    it('stop taking data while nobody reads', async () => {
      const { promise, resolve } = Promise.withResolvers<Socket>();
      const { port } = await listen(resolve, { pauseOnConnect: true });
      const socket = connect(port);
      const reader = await promise;
      assert.ok(reader.isPaused());
      let written = 0;
      const chunk = Buffer.alloc(1 << 20, 7);
      while (written < 64 && (await Promise.race([writeOne(), delay(100, false)]))) written++;
      async function writeOne(): Promise<boolean> {
        await new Promise<void>((done) => socket.write(chunk, () => done()));
        return true;
      }
      assert.ok(written < 64, 'it takes without end');
      let read = 0;
      reader.on('data', (part: Buffer) => {
        read += part.length;
      });
      reader.resume();
      socket.end();
      await closed(socket);
      assert.equal(read, (written + 1) * chunk.length);
    });

    it('go through pipelines', async () => {
      const { port } = await listen((socket) => void pipeline(socket, socket));
      const socket = connect(port);
      const got: Buffer[] = [];
      await Promise.all([
        pipeline([Buffer.alloc(100_000, 1), Buffer.alloc(100_000, 2)], socket),
        socket.forEach((part: Buffer) => void got.push(part)),
      ]);
      const all = Buffer.concat(got);
      assert.deepEqual([all.length, all[0], all.at(-1)], [200_000, 1, 2]);
    });

    it('cork', async () => {
      const { promise, resolve } = Promise.withResolvers<string>();
      const { port } = await listen((socket) => {
        void socket.toArray().then((parts) => resolve(Buffer.concat(parts).toString()));
      });
      const socket = connect(port);
      await once(socket, 'connect');
      socket.cork();
      socket.write('a');
      socket.write(Buffer.from('b'));
      socket.write('63', 'hex');
      assert.equal(socket.writableLength, 4, 'strings count by their characters');
      process.nextTick(() => socket.uncork());
      await delay(5);
      socket.end('\u00e9', 'latin1');
      assert.equal(await promise, 'abc\ufffd');
    });

    it('go on alone where half-open connections are allowed', async () => {
      const { port } = await listen(
        (socket) => {
          socket.resume();
          socket.on('end', () => setTimeout(() => socket.end('late'), 10));
        },
        { allowHalfOpen: true },
      );
      const socket = connect(port, { allowHalfOpen: true });
      const log = track(socket);
      socket.end('x');
      assert.equal(Buffer.concat(await socket.toArray()).toString(), 'late');
      await delay(10);
      assert.deepEqual(log, ['connect', 'ready', 'finish', 'end', 'close false']);
    });

    it('end with the other side where they are not', async () => {
      const ends: Promise<unknown>[] = [];
      const { port } = await listen((socket) => {
        ends.push(closed(socket));
        socket.resume();
        socket.end('bye');
      });
      const socket = connect(port);
      const log = track(socket);
      socket.resume();
      await closed(socket);
      await Promise.all(ends);
      assert.deepEqual(log, ['connect', 'ready', 'end', 'finish', 'close false']);
    });

    it('tell of a reset', async () => {
      const { port } = await listen((socket) => {
        socket.on('data', () => socket.resetAndDestroy());
      });
      const socket = connect(port);
      const log = track(socket);
      socket.write('x');
      const [error] = (await once(socket, 'error')) as [Error];
      assert.deepEqual(fieldsOf(error), {
        message: 'read ECONNRESET',
        code: 'ECONNRESET',
        errno: -104,
        syscall: 'read',
        address: undefined,
        port: undefined,
      });
      await delay(5);
      assert.deepEqual(log, ['connect', 'ready', 'error ECONNRESET', 'close true']);
    });

    it('tell of a refusal', async () => {
      const { port, server } = await listen(() => {});
      server.close();
      await once(server, 'close');
      const socket = connect(port);
      const log = track(socket);
      const [error] = (await once(socket, 'error')) as [Error];
      assert.deepEqual(fieldsOf(error), {
        message: `connect ECONNREFUSED ${hosts.host}:${port}`,
        code: 'ECONNREFUSED',
        errno: -111,
        syscall: 'connect',
        address: hosts.host,
        port,
      });
      await delay(5);
      assert.deepEqual(log, ['error ECONNREFUSED', 'close true']);
    });

    it('tell of an address that is not theirs', async () => {
      const { port } = await listen(() => {});
      const [error] = (await once(connect(port, { localAddress: '203.0.113.9' }), 'error')) as [Error];
      assert.deepEqual(fieldsOf(error), {
        message: 'bind EADDRNOTAVAIL 203.0.113.9',
        code: 'EADDRNOTAVAIL',
        errno: -99,
        syscall: 'bind',
        address: '203.0.113.9',
        port: undefined,
      });
      const server = hosts.server.createServer();
      server.listen(5555, '203.0.113.9');
      const [refused] = (await once(server, 'error')) as [Error];
      assert.deepEqual(fieldsOf(refused), {
        message: 'listen EADDRNOTAVAIL: address not available 203.0.113.9:5555',
        code: 'EADDRNOTAVAIL',
        errno: -99,
        syscall: 'listen',
        address: '203.0.113.9',
        port: 5555,
      });
    });

    it('tell of a port that is taken', async () => {
      const { port } = await listen(() => {});
      const server = hosts.server.createServer();
      server.listen({ port, host: hosts.host });
      const [error] = (await once(server, 'error')) as [Error];
      assert.deepEqual(fieldsOf(error), {
        message: `listen EADDRINUSE: address already in use ${hosts.host}:${port}`,
        code: 'EADDRINUSE',
        errno: -98,
        syscall: 'listen',
        address: hosts.host,
        port,
      });
      assert.equal(server.listening, false);
    });

    it('tell of names that nobody knows', async () => {
      const lookup = (name: string, _: object, found: (error: Error) => void) =>
        setImmediate(found, Object.assign(new Error(`getaddrinfo ENOTFOUND ${name}`), { code: 'ENOTFOUND' }));
      const socket = connect(1, { host: 'nobody.invalid', lookup });
      const log = track(socket);
      const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException];
      assert.equal(error.message, 'getaddrinfo ENOTFOUND nobody.invalid');
      await delay(5);
      assert.deepEqual(log, ['lookup', 'error ENOTFOUND', 'close true']);
    });

    it('look names up', async () => {
      const { port } = await listen((socket) => socket.end('found'));
      const asked: unknown[] = [];
      const lookup = (name: string, { all }: { all?: boolean }, found: (...answer: unknown[]) => void) => {
        asked.push(name);
        if (all) setImmediate(found, null, [{ address: hosts.host, family: 4 }]);
        else setImmediate(found, null, hosts.host, 4);
      };
      const socket = connect(port, { host: 'server.test', lookup });
      const told = once(socket, 'lookup');
      assert.equal(Buffer.concat(await socket.toArray()).toString(), 'found');
      assert.deepEqual(asked, ['server.test']);
      assert.deepEqual(await told, [null, hosts.host, 4, 'server.test']);
    });

    it('destroy with and without an error', async () => {
      const { port } = await listen((socket) => void socket.resume());
      const socket = connect(port);
      const log = track(socket);
      await once(socket, 'connect');
      socket.destroy(Object.assign(new Error('mine'), { code: 'MINE' }));
      await closed(socket);
      assert.deepEqual(log, ['connect', 'ready', 'error MINE', 'close true']);
      const early = connect(port);
      const earlyLog = track(early);
      early.destroy();
      await closed(early);
      assert.deepEqual(earlyLog, ['close false']);
    });

    it('give callbacks of writes that come too late an error', async () => {
      const { port } = await listen((socket) => void socket.resume());
      const never = new hosts.client.Socket();
      const [unconnected] = await Promise.all([
        once(never, 'error') as Promise<[NodeJS.ErrnoException]>,
        new Promise<void>((done) => never.write('x', () => done())),
      ]);
      assert.deepEqual([unconnected[0].code, unconnected[0].message], ['ERR_SOCKET_CLOSED', 'Socket is closed']);
      const socket = connect(port);
      const told = new Promise<NodeJS.ErrnoException>((resolve) =>
        socket.write('x', (error) => resolve(error as Error)),
      );
      socket.destroy();
      const error = await told;
      assert.ok(error instanceof Error);
      assert.match(error.code!, /^ERR_(SOCKET_CLOSED_BEFORE_CONNECTION|STREAM_DESTROYED)$/);
    });

    it('refuse to write to one who has ended', async () => {
      const { port } = await listen((socket) => {
        socket.resume();
        socket.end();
      });
      const socket = connect(port);
      socket.resume();
      const told = new Promise<NodeJS.ErrnoException>((resolve) => {
        socket.prependListener('end', () => setImmediate(() => socket.write('x', (error) => resolve(error as Error))));
      });
      socket.on('error', () => {});
      assert.match((await told).code!, /^(EPIPE|ERR_STREAM_WRITE_AFTER_END|ERR_STREAM_DESTROYED)$/);
    });

    it('notice that nothing happens', async () => {
      const { port } = await listen((socket) => void socket.resume());
      const socket = connect(port);
      const log = track(socket);
      const gone = closed(socket);
      const began = performance.now();
      assert.equal(
        socket.setTimeout(300, () => socket.destroy()),
        socket,
      );
      assert.equal(socket.timeout, 300);
      const writes = setInterval(() => socket.write('x'), 50);
      await delay(500);
      clearInterval(writes);
      await gone;
      assert.ok(performance.now() - began >= 700);
      assert.deepEqual(log, ['connect', 'ready', 'timeout', 'close false']);
    });

    it('forget a timeout', async () => {
      const { port } = await listen((socket) => void socket.resume());
      const socket = connect(port, { timeout: 20 });
      assert.equal(socket.timeout, 20);
      socket.on('timeout', () => assert.fail('it was taken back'));
      socket.setTimeout(0);
      await delay(40);
    });

    it('obey signals', async () => {
      const { port } = await listen((socket) => void socket.resume());
      const controller = new AbortController();
      const socket = connect(port, { signal: controller.signal });
      await once(socket, 'connect');
      controller.abort();
      const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException];
      assert.deepEqual([error.name, error.code], ['AbortError', 'ABORT_ERR']);
      const stop = new AbortController();
      const server = hosts.server.createServer();
      server.listen({ port: 0, host: hosts.host, signal: stop.signal });
      await once(server, 'listening');
      stop.abort();
      await once(server, 'close');
      assert.equal(server.listening, false);
    });

    it('connect again after their end', async () => {
      const { port } = await listen((socket) => void socket.pipe(socket));
      const socket = connect(port);
      for (let round = 0; round < 2; round++) {
        if (round > 0) socket.connect(port, hosts.host);
        await once(socket, 'connect');
        socket.end(`round ${round}`);
        const [data] = (await once(socket, 'data')) as [Buffer];
        assert.equal(data.toString(), `round ${round}`);
        await once(socket, 'close');
      }
    });

    it('take all forms of connect() and listen()', async () => {
      const server = hosts.server.createServer((socket) => socket.end());
      servers.push(server);
      await new Promise<void>((done) => server.listen(done));
      const { port } = server.address() as AddressInfo;
      assert.ok(port > 0);
      for (const args of [[port, hosts.host], [String(port), hosts.host], [{ port: String(port), host: hosts.host }]]) {
        // The other side may hear of it later, and resets what is half open when the server closes.
        const accepted = once(server, 'connection');
        const socket = await new Promise<Socket>((done) => {
          const made: Socket = hosts.client.connect(...args, () => done(made));
        });
        open.push(socket);
        await accepted;
      }
      server.close();
      await once(server, 'close');
      for (const args of [[0], ['0'], [0, hosts.host], [0, hosts.host, 5], [{ port: 0 }], [null], []]) {
        await new Promise<void>((done) => server.listen(...args, done));
        assert.ok(server.listening);
        server.close();
        await once(server, 'close');
      }
    });

    it('throw at wrong arguments', () => {
      const { client, server } = hosts;
      const code = (what: () => unknown, expected: string, words: RegExp) => {
        assert.throws(what, (error: NodeJS.ErrnoException) => {
          assert.equal(error.code, expected);
          assert.match(`${error.name}: ${error.message}`, words);
          return true;
        });
      };
      const socket = new client.Socket();
      code(
        () => client.connect(),
        'ERR_MISSING_ARGS',
        /^TypeError: The "options" or "port" or "path" argument must be/,
      );
      code(() => client.connect({}), 'ERR_MISSING_ARGS', /argument must be specified$/);
      const bad = 'ERR_SOCKET_BAD_PORT';
      code(
        () => client.connect(70_000),
        bad,
        /^RangeError: Port should be >= 0 and < 65536. Received type number \(70000\).$/,
      );
      code(() => client.connect({ port: 'x' }), bad, /Received type string \('x'\)/);
      code(() => client.connect({ port: -1 }), bad, /Received type number \(-1\)/);
      code(() => server.createServer().listen(70_000), bad, /^RangeError: options.port should be >= 0 and < 65536/);
      code(() => server.createServer().listen({}), 'ERR_INVALID_ARG_VALUE', /must have the property "port"/);
      const type = 'ERR_INVALID_ARG_TYPE';
      code(() => socket.setTimeout('x' as never), type, /^TypeError: The "msecs" argument must be of type number/);
      code(() => socket.setTimeout(1, 'x' as never), type, /"callback" argument must be of type function. Received/);
      code(() => socket.setTimeout(-1), 'ERR_OUT_OF_RANGE', /^RangeError: The value of "msecs" is out of range/);
      socket.destroy();
    });

    it('refuse what is beyond maxConnections', async () => {
      const { port, server } = await listen((socket) => void socket.resume());
      server.maxConnections = 1;
      const first = connect(port);
      await once(first, 'connect');
      const told = once(server, 'drop');
      const second = connect(port);
      second.on('error', () => {});
      second.resume();
      await closed(second);
      const [dropped] = (await told) as [Record<string, unknown>];
      assert.deepEqual([dropped.localPort, dropped.localFamily, dropped.remoteFamily], [port, 'IPv4', 'IPv4']);
      assert.equal(await new Promise((done) => server.getConnections((_, count) => done(count))), 1);
    });

    it('close a server when its connections are over', async () => {
      const { port, server } = await listen((socket) => void socket.resume());
      const socket = connect(port);
      await once(socket, 'connect');
      await delay(5);
      const seen: string[] = [];
      server.on('close', () => seen.push('close'));
      server.close((error) => seen.push(`callback ${error}`));
      await delay(10);
      assert.deepEqual([seen, server.listening, server.address()], [[], false, null]);
      socket.end();
      await once(server, 'close');
      assert.deepEqual(seen, ['close', 'callback undefined']);
      const refused = await new Promise<NodeJS.ErrnoException>((done) => server.close((error) => done(error as Error)));
      assert.deepEqual([refused.code, refused.message], ['ERR_SERVER_NOT_RUNNING', 'Server is not running.']);
    });

    it('refuse to listen twice', async () => {
      const { server } = await listen(() => {});
      assert.throws(() => server.listen(0), { code: 'ERR_SERVER_ALREADY_LISTEN' });
    });

    it('may be destroyed by whoever gets them first', async () => {
      const { port } = await listen((socket) => {
        socket.end('so long');
        socket.destroySoon();
      });
      const socket = connect(port);
      assert.equal(Buffer.concat(await socket.toArray()).toString(), 'so long');
    });
  });
}
