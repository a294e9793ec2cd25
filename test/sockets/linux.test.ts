/** A stack of ours and Linux's: curl, TLS and Redis both ways, over everything that a stack can stand on. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import os from 'node:os';
import path from 'node:path';
import type { Duplex } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import tls from 'node:tls';
import { AbstractConnector, Redis } from 'ioredis';
import { DaemonProcess, RINGSWITCH } from '../../lab/daemon.ts';
import { NetworkNamespace } from '../../lab/namespace.ts';
import { Program, run } from '../../lab/program.ts';
import type { NetworkStack } from '../../sockets/network-stack.ts';
import { type OpenStackOptions, openStack } from '../../sockets/open.ts';

const BIG_BYTES = 20_000_000;
const LINUX = '10.7.0.1';
const OURS = '10.7.0.2';
const LINUX_6 = 'fd07::1';
const OURS_6 = 'fd07::2';
const SERVERS_CHILD = new URL('../helpers/linux-servers-child.ts', import.meta.url).pathname;
const READY_MS = 10_000;

/** How a stack and a Linux interface come together. Gives what the stack stands on; `undo` takes away what was made. */
type Cabling = (ifname: string, directory: string, undo: (() => unknown)[]) => Promise<OpenStackOptions>;

async function switchWithTap(ifname: string, undo: (() => unknown)[]): Promise<DaemonProcess> {
  const daemon = await DaemonProcess.start();
  undo.push(() => daemon.dispose());
  await daemon.addTap(ifname);
  return daemon;
}

const CABLINGS: Record<string, Cabling> = {
  'a tap': async (ifname) => ({ tap: ifname }),
  'a tap without offloads': async (ifname) => ({ tap: { name: ifname, offloads: false } }),
  'vhost-user, the switch and a tap': async (ifname, directory, undo) => {
    const daemon = await switchWithTap(ifname, undo);
    const socket = path.join(directory, 'stack.sock');
    await daemon.client.post('/v1/ports', { kind: 'vhost-user', name: 'stack', path: socket });
    return { vhostUser: socket };
  },
  'the clones, the switch and a tap': async (ifname, _, undo) => {
    const { tun, vhostNet } = await switchWithTap(ifname, undo);
    return { vhostNet: { name: 'stack', tun, vhostNet } };
  },
  'a software 82599 and a tap': async (ifname, directory, undo) => {
    const socket = path.join(directory, 'card.sock');
    const model = new Program([RINGSWITCH, 'model', '82599', '--socket', socket, '--tap', ifname]);
    undo.push(() => model.stop());
    await model.waitFor('its socket', READY_MS, () => fs.existsSync(socket) || undefined);
    return { card: `vfio-user:${socket}` };
  },
};

for (const [name, cabling] of Object.entries(CABLINGS)) {
  describe(`a stack over ${name}`, function () {
    this.timeout(60_000);
    let directory: string;
    let host: NetworkNamespace;
    let stack: NetworkStack;
    let key: string;
    let cert: string;
    const undo: (() => unknown)[] = [];
    const big = randomBytes(BIG_BYTES);
    const hash = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

    before(async () => {
      directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-'));
      undo.push(() => fs.rmSync(directory, { recursive: true }));
      key = path.join(directory, 'key.pem');
      cert = path.join(directory, 'cert.pem');
      const words = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
      words.push('-subj', '/CN=server.test', '-addext', `subjectAltName=DNS:server.test,IP:${LINUX},IP:${OURS}`);
      execFileSync('openssl', [...words, '-keyout', key, '-out', cert], { stdio: 'pipe' });
      host = await NetworkNamespace.create('stack');
      undo.push(() => host.dispose());
      const ifname = `rs${randomBytes(4).toString('hex')}`;
      const device = await cabling(ifname, directory, undo);
      stack = await openStack({
        ...device,
        name: 'under-test',
        addresses: [`${OURS}/24`, `${OURS_6}/64`],
        gateways: [LINUX],
        ipv6: { dadTransmits: 0 },
        control: path.join(directory, 'stacks'),
      });
      undo.push(() => stack.close());
      await host.moveIn(ifname);
      await host.exec(['ip', 'address', 'add', `${LINUX_6}/64`, 'dev', ifname, 'nodad']);
      await host.address(ifname, `${LINUX}/24`);
      const servers = host.spawn([process.execPath, SERVERS_CHILD, key, cert]);
      await servers.waitFor('ready', READY_MS, () => servers.stdout.includes('ready') || undefined);
    });
    after(async () => {
      for (const one of undo.splice(0).reverse()) await one();
    });

    const createConnection = (...args: unknown[]) => stack.net.createConnection(...args) as unknown as Duplex;
    async function upload(module: typeof http | typeof https, options: https.RequestOptions): Promise<Buffer> {
      const request = module.request({ method: 'POST', ...options });
      request.end(big);
      const [response] = (await once(request, 'response')) as [http.IncomingMessage];
      return Buffer.concat(await response.toArray());
    }
    function serve(server: http.Server | https.Server | tls.Server, port: number): Promise<unknown> {
      const listening = stack.net.createServer({ allowHalfOpen: true }, (socket) => server.emit('connection', socket));
      undo.push(() => listening.close());
      listening.listen(port);
      return once(listening, 'listening');
    }

    it('answers and sends pings', async () => {
      assert.match(await host.exec(['ping', '-c', '2', '-i', '0.2', OURS]), / 2 received/);
      assert.match(await host.exec(['ping', '-c', '2', '-i', '0.2', OURS_6]), / 2 received/);
    });

    it('serves HTTP to curl, both ways, over IPv4 and IPv6', async () => {
      const server = http.createServer((request, response) => {
        if (request.method === 'GET') response.end(request.url === '/' ? big : 'small');
        else request.pipe(response);
      });
      await serve(server, 80);
      const file = path.join(directory, 'big');
      fs.writeFileSync(file, big);
      for (const address of [OURS, `[${OURS_6}]`]) {
        const got = path.join(directory, 'got');
        await host.exec(['curl', '-sS', '--fail', '-o', got, `http://${address}/`]);
        assert.equal(hash(fs.readFileSync(got)), hash(big));
        fs.rmSync(got);
        await host.exec(['curl', '-sS', '--fail', '-T', file, '-o', got, `http://${address}/`]);
        assert.equal(hash(fs.readFileSync(got)), hash(big));
      }
      const many = await host.exec([
        'curl',
        '-sS',
        '--parallel',
        '-o',
        '/dev/null',
        '-w',
        '%{http_code} ',
        `http://${OURS}/[1-20]`,
      ]);
      assert.equal(many.trim().split(' ').length, 20);
    });

    it('is a client of Linux’s HTTP', async () => {
      for (const address of [LINUX, LINUX_6]) {
        const got = await upload(http, { host: address, port: 8080, createConnection });
        assert.equal(hash(got), hash(big));
      }
    });

    it('speaks TLS, both ways', async () => {
      const ca = fs.readFileSync(cert);
      const https_ = https.createServer({ key: fs.readFileSync(key), cert: ca }, (_, response) => response.end(big));
      await serve(https_, 443);
      const got = path.join(directory, 'got-tls');
      await host.exec(['curl', '-sS', '--fail', '--cacert', cert, '-o', got, `https://${OURS}/`]);
      assert.equal(hash(fs.readFileSync(got)), hash(big));
      const answer = await upload(https, {
        host: LINUX,
        port: 8443,
        createConnection: () => {
          const socket = stack.net.connect({ port: 8443, host: LINUX, allowHalfOpen: true });
          return tls.connect({ socket: socket as unknown as Duplex, ca, servername: 'server.test' });
        },
      });
      assert.equal(hash(answer), hash(big));
    });

    it('is a Redis client', async () => {
      class Connector extends AbstractConnector {
        constructor({ disconnectTimeout }: { disconnectTimeout: number }) {
          super(disconnectTimeout);
        }

        override async connect(): Promise<never> {
          this.stream = stack.net.connect(6379, LINUX) as never;
          return this.stream as never;
        }
      }
      const redis = new Redis({ Connector: Connector as never });
      try {
        await redis.set('key', 'x'.repeat(1_000_000));
        assert.equal((await redis.get('key'))?.length, 1_000_000);
        assert.equal((await Promise.all(Array.from({ length: 100 }, () => redis.incr('n')))).at(-1), 100);
      } finally {
        redis.disconnect();
      }
    });

    it('gets Linux’s refusals and resets', async () => {
      await assert.rejects(stack.connect({ host: LINUX, port: 1 }), {
        code: 'ECONNREFUSED',
        message: `connect ECONNREFUSED ${LINUX}:1`,
      });
      await assert.rejects(host.exec(['curl', '-sS', `http://${OURS}:1/`]), /Failed to connect|Connection refused/);
      // 10.7.0.99 is on the link, and nobody there.
      await assert.rejects(stack.connect({ host: '10.7.0.99', port: 1 }), { code: 'EHOSTUNREACH' });
    });

    it('shows its connections', async () => {
      const socket = await stack.connect({ host: LINUX, port: 8080 });
      const words = await run([RINGSWITCH, 'sockets', '--tcp', '--directory', path.join(directory, 'stacks')]);
      assert.match(words, /^under-test, process \d+: \d+ sockets?\n/);
      const line = words.split('\n').find((one) => one.includes(`${OURS}:${socket.localPort} `));
      assert.match(line ?? '', new RegExp(`^ESTAB +0 +0 +${OURS}:${socket.localPort} +${LINUX}:8080$`));
      assert.match(words, /cubic rto:\d/);
      socket.destroy();
    });

    it('sleeps when there is nothing to do', async () => {
      await delay(500);
      const { polls } = stack.loop;
      await delay(500);
      assert.ok(stack.loop.polls - polls < 200, `${stack.loop.polls - polls} polls in half a second`);
    });
  });
}

describe('opening a stack', () => {
  it('wants exactly one thing to stand on', async () => {
    await assert.rejects(openStack({}), /^RangeError: a stack stands on one of vhostUser, .* device; none was given$/);
    await assert.rejects(openStack({ tap: 'a', card: 'b' }), /these were given: tap, card$/);
  });

  it('says what is wrong with an option, and leaves nothing open', async () => {
    const name = `rs${randomBytes(4).toString('hex')}`;
    const open = (options: Partial<OpenStackOptions>) => openStack({ tap: name, control: false, ...options });
    await assert.rejects(open({ mac: '1:2' }), /^RangeError: "1:2" is no MAC address/);
    await assert.rejects(
      open({ addresses: ['10.0.0.1'] }),
      /^RangeError: address: "10.0.0.1" is no address with a prefix/,
    );
    await assert.rejects(
      open({ addresses: ['fd00::1/64'], ipv6: false }),
      /is an IPv6 address, and this stack has no IPv6/,
    );
    await assert.rejects(open({ gateways: ['router'] }), /^RangeError: gateway: "router" is no address of a router/);
    await assert.rejects(open({ routes: [{ to: 'x' }] }), /^RangeError: route: "x" is no address with a prefix length/);
    await assert.rejects(open({ name: 'a b', control: '/tmp' }), /"a b" is no name for a stack/);
    // The tap went each time, or its name would be taken.
    await (await open({})).close();
    assert.throws(() => execFileSync('ip', ['link', 'show', name], { stdio: 'pipe' }), /does not exist/);
  });
});
