/** Node's http and tls, and a Redis client, over sockets of a stack: none of them knows. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { Duplex } from 'node:stream';
import tls from 'node:tls';
import { AbstractConnector, Redis } from 'ioredis';
import type { Server } from '../../sockets/server.ts';
import type { Socket } from '../../sockets/socket.ts';
import { fakeWorld, type SocketHosts, stackWorld } from '../helpers/socket-worlds.ts';
import { serveRedis } from '../helpers/tiny-redis.ts';

const BIG = Buffer.from(Array.from({ length: 3_000_000 }, (_, i) => (i * 17) & 0xff));

const STACKS = [
  stackWorld('sockets of two stacks'),
  stackWorld('sockets of two stacks without offloads', { offloads: 0 }),
];

for (const world of [fakeWorld, ...STACKS]) {
  describe(`over ${world.name}`, function () {
    this.timeout(20_000);
    let hosts: SocketHosts;
    const opened: (() => unknown)[] = [];
    beforeEach(async () => {
      hosts = await world.make();
    });
    afterEach(async () => {
      for (const undo of opened.splice(0).reverse()) await undo();
      await hosts.close();
    });

    async function listen(onConnection: (socket: Socket) => void, options: object = {}): Promise<number> {
      const server: Server = hosts.server.createServer(options, onConnection);
      opened.push(() => server.close());
      server.listen(0, hosts.host);
      await once(server, 'listening');
      return (server.address() as AddressInfo).port;
    }

    describe('http', () => {
      async function web(handler: http.RequestListener): Promise<number> {
        const server = http.createServer(handler);
        const port = await listen((socket) => server.emit('connection', socket));
        opened.push(() => server.closeAllConnections());
        return port;
      }
      const request = (options: http.RequestOptions): http.ClientRequest =>
        http.request({
          host: hosts.host,
          createConnection: (...args) => hosts.client.createConnection(...args) as unknown as Duplex,
          ...options,
        });
      async function ask(options: http.RequestOptions, body?: Buffer): Promise<{ status: number; body: Buffer }> {
        const sent = request(options);
        sent.end(body);
        const [response] = (await once(sent, 'response')) as [http.IncomingMessage];
        return { status: response.statusCode!, body: Buffer.concat(await response.toArray()) };
      }

      it('asks and answers', async () => {
        const port = await web((incoming, response) => {
          response.writeHead(201, { 'content-type': 'text/plain' });
          response.end(`${incoming.method} ${incoming.url} from ${incoming.socket.remoteAddress}`);
        });
        const { status, body } = await ask({ port, path: '/a?b=c' });
        assert.equal(status, 201);
        assert.match(body.toString(), /^GET \/a\?b=c from \d+\.\d+\.\d+\.\d+$/);
      });

      it('moves megabytes both ways, chunked', async () => {
        const port = await web((incoming, response) => void incoming.pipe(response));
        const { body } = await ask({ port, method: 'POST' }, BIG);
        assert.ok(body.equals(BIG));
      });

      it('keeps connections alive, and uses them again', async () => {
        const ports = new Set<number>();
        const port = await web((incoming, response) => {
          ports.add(incoming.socket.remotePort!);
          response.end('ok');
        });
        const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
        agent.createConnection = (...args) => hosts.client.createConnection(...args) as never;
        opened.push(() => agent.destroy());
        for (let i = 0; i < 5; i++) {
          const { body } = await ask({ port, agent, createConnection: undefined });
          assert.equal(body.toString(), 'ok');
        }
        assert.equal(ports.size, 1);
      });

      it('asks many at once', async () => {
        const port = await web((incoming, response) => void setTimeout(() => response.end(incoming.url), 5));
        const answers = await Promise.all(
          Array.from({ length: 30 }, async (_, i) => (await ask({ port, path: `/${i}` })).body.toString()),
        );
        assert.deepEqual(
          answers,
          Array.from({ length: 30 }, (_, i) => `/${i}`),
        );
      });

      it('times out, aborts, and notices an end too early', async () => {
        const port = await web((incoming, response) => {
          if (incoming.url === '/cut') response.socket!.destroy();
        });
        const slow = request({ port, timeout: 30 });
        slow.end();
        await once(slow, 'timeout');
        slow.destroy();
        assert.equal(((await once(slow, 'error')) as [NodeJS.ErrnoException])[0].code, 'ECONNRESET');
        const controller = new AbortController();
        const aborted = request({ port, signal: controller.signal });
        aborted.end();
        setTimeout(() => controller.abort(), 10);
        assert.equal(((await once(aborted, 'error')) as [Error])[0].name, 'AbortError');
        const cut = request({ port, path: '/cut' });
        cut.end();
        assert.match(((await once(cut, 'error')) as [Error])[0].message, /socket hang up/);
      });

      it('upgrades', async () => {
        const server = http.createServer();
        server.on('upgrade', (_, socket) => {
          socket.write('HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\n');
          socket.pipe(socket);
        });
        const port = await listen((socket) => server.emit('connection', socket));
        const sent = request({ port, headers: { connection: 'upgrade', upgrade: 'echo' } });
        sent.end();
        const [, socket] = (await once(sent, 'upgrade')) as [http.IncomingMessage, Duplex];
        socket.end('now raw');
        assert.equal(Buffer.concat(await socket.toArray()).toString(), 'now raw');
      });
    });

    describe('tls', () => {
      let key: string;
      let cert: string;
      before(() => {
        const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-'));
        const [keyFile, certFile] = [path.join(directory, 'key.pem'), path.join(directory, 'cert.pem')];
        const words = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
        words.push('-subj', '/CN=server.test', '-addext', 'subjectAltName=DNS:server.test');
        execFileSync('openssl', [...words, '-keyout', keyFile, '-out', certFile], { stdio: 'pipe' });
        key = fs.readFileSync(keyFile, 'utf8');
        cert = fs.readFileSync(certFile, 'utf8');
        fs.rmSync(directory, { recursive: true });
      });

      it('encrypts both ways, and verifies', async () => {
        const server = tls.createServer({ key, cert }, (socket) => void socket.pipe(socket));
        // TLS over another stream ends that stream itself, and must be let go on after the other side has ended.
        const allowHalfOpen = true;
        const port = await listen((socket) => server.emit('connection', socket), { allowHalfOpen });
        const plain = hosts.client.connect({ port, host: hosts.host, allowHalfOpen });
        const socket = tls.connect({ socket: plain as unknown as Duplex, ca: cert, servername: 'server.test' });
        await once(socket, 'secureConnect');
        assert.ok(socket.authorized);
        socket.end(BIG.subarray(0, 1_000_000));
        assert.ok(Buffer.concat(await socket.toArray()).equals(BIG.subarray(0, 1_000_000)));
      });

      it('serves with TLSSocket, and refuses a wrong name', async () => {
        const secureContext = tls.createSecureContext({ key, cert });
        const port = await listen((socket) => {
          const secure = new tls.TLSSocket(socket as unknown as Duplex as never, { isServer: true, secureContext });
          secure.on('error', () => {});
          secure.end('secret');
        });
        const connect = (servername: string) => {
          const plain = hosts.client.connect(port, hosts.host);
          return tls.connect({ socket: plain as unknown as Duplex, ca: cert, servername });
        };
        assert.equal(Buffer.concat(await connect('server.test').toArray()).toString(), 'secret');
        const [error] = (await once(connect('other.test'), 'error')) as [NodeJS.ErrnoException];
        assert.equal(error.code, 'ERR_TLS_CERT_ALTNAME_INVALID');
      });
    });

    describe('a Redis client', () => {
      function client(port: number): Redis {
        const { client: net, host } = hosts;
        class Connector extends AbstractConnector {
          constructor({ disconnectTimeout }: { disconnectTimeout: number }) {
            super(disconnectTimeout);
          }

          override connect(): Promise<never> {
            this.connecting = true;
            const socket = net.connect(port, host);
            this.stream = socket as never;
            return Promise.resolve(socket as never);
          }
        }
        const redis = new Redis({ Connector: Connector as never, retryStrategy: () => 10, maxRetriesPerRequest: 20 });
        redis.on('error', () => {}); // It says so, and connects again.
        opened.push(() => redis.disconnect());
        return redis;
      }

      it('asks, pipelines, and moves large values', async () => {
        const store = new Map<string, string>();
        const port = await listen((socket) => serveRedis(socket, store));
        const redis = client(port);
        assert.equal(await redis.ping(), 'PONG');
        await redis.set('a', 'ä');
        assert.equal(await redis.get('a'), 'ä');
        assert.equal(await redis.get('b'), null);
        const counts = await Promise.all(Array.from({ length: 200 }, () => redis.incr('n')));
        assert.deepEqual(
          counts,
          Array.from({ length: 200 }, (_, i) => i + 1),
        );
        const large = 'x'.repeat(300_000);
        await redis.set('large', large);
        assert.equal(await redis.get('large'), large);
      });

      it('connects again when the server has hung up', async () => {
        const store = new Map<string, string>();
        const sockets: Socket[] = [];
        const port = await listen((socket) => {
          sockets.push(socket);
          serveRedis(socket, store);
        });
        const redis = client(port);
        await redis.set('a', '1');
        sockets[0]!.resetAndDestroy();
        assert.equal(await redis.get('a'), '1');
        assert.equal(sockets.length, 2);
      });
    });
  });
}
