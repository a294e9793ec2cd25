/** Programs of Linux that nobody wrote for us, with a stack of ours on the other side: nginx, nmap, iperf3, nc. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { quote } from '../../../lab/words.ts';
import type { Socket } from '../../../sockets/socket.ts';
import { FAMILIES, type Family, hashOf, LinuxStackWorld } from '../../helpers/linux-stack-world.ts';

const BYTES = 8_000_000;
const READY_MS = 10_000;
const NGINX = 8080;
const PROXY = 8081;
const HTTP = 80;
const FORWARDER = 5201;
const IPERF3 = 5202;
const NC = 4000;
const REQUESTS = 100;
const IPERF3_BYTES = 20_000_000;

describe('a stack and programs on Linux', function () {
  this.timeout(60_000);
  let world: LinuxStackWorld;

  before(async () => {
    world = await LinuxStackWorld.create({ bytes: BYTES });
    await serveHttp();
  });
  after(() => world?.dispose());

  /** Of the stack: the file to who gets it, and its SHA-256 to who puts one. */
  async function serveHttp(): Promise<void> {
    const server = http.createServer(async (request, response) => {
      if (request.method === 'GET') response.end(world.bytes);
      else response.end(hashOf(Buffer.concat(await request.toArray())));
    });
    const listening = world.stack.net.createServer({ allowHalfOpen: true }, (one) => server.emit('connection', one));
    listening.listen(HTTP);
    await once(listening, 'listening');
  }

  const url = (family: Family, host: Record<Family, string>, port: number): string =>
    `http://${family === 4 ? host[4] : `[${host[6]}]`}:${port}/`;

  describe('nginx', () => {
    before(async () => {
      const { directory, ours, file } = world;
      const configuration = `
        daemon off;
        pid ${directory}/nginx.pid;
        error_log stderr notice;
        user root;
        worker_processes 1;
        events {}
        http {
          access_log off;
          client_max_body_size 0;
          keepalive_requests ${REQUESTS * 10};
          ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((one) => `${one}_temp_path ${directory}/${one};`).join('\n')}
          upstream ours {
            server ${ours[4]}:${HTTP};
            server [${ours[6]}]:${HTTP};
            keepalive 4;
          }
          server {
            listen ${NGINX};
            listen [::]:${NGINX};
            root ${path.dirname(file)};
            sendfile on;
            location = /small { return 200 "small"; }
          }
          server {
            listen ${PROXY};
            listen [::]:${PROXY};
            location / {
              proxy_pass http://ours;
              proxy_http_version 1.1;
              proxy_set_header Connection "";
            }
          }
        }
      `;
      const name = path.join(directory, 'nginx.conf');
      fs.writeFileSync(name, configuration);
      const nginx = world.host.spawn(['nginx', '-p', directory, '-c', name, '-e', 'stderr']);
      world.undo(() => {
        // So it ends its worker itself.
        nginx.signal('SIGTERM');
        return nginx.stop(READY_MS);
      });
      await nginx.waitFor('its worker', READY_MS, () => nginx.stderr.includes('start worker process') || undefined);
    });

    for (const family of FAMILIES) {
      it(`serves us files and many requests on one connection, IPv${family}`, async () => {
        const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
        const sockets = new Set<Socket>();
        agent.createConnection = () => {
          const socket = world.stack.net.connect({ host: world.linux[family], port: NGINX });
          sockets.add(socket);
          return socket as never;
        };
        const get = async (name: string): Promise<Buffer> => {
          const request = http.get({ host: world.linux[family], port: NGINX, path: name, agent });
          const [response] = (await once(request, 'response')) as [http.IncomingMessage];
          assert.equal(response.statusCode, 200);
          return Buffer.concat(await response.toArray());
        };
        for (let i = 0; i < REQUESTS; i++) assert.equal((await get('/small')).toString(), 'small');
        for (let i = 0; i < 3; i++) assert.equal(hashOf(await get('/file')), world.hash);
        assert.equal(sockets.size, 1);
        agent.destroy();
      });

      it(`stands before our server, IPv${family}`, async () => {
        const address = url(family, world.linux, PROXY);
        for (let i = 0; i < 4; i++) {
          const down = await world.shell(`curl -sS --fail ${address} | sha256sum`);
          assert.equal(down.slice(0, 64), world.hash);
          assert.equal(await world.shell(`curl -sS --fail -T ${quote(world.file)} ${address}`), world.hash);
        }
      });
    }
  });

  describe('nmap', () => {
    const OPEN = [21, 22, HTTP];
    const UDP_ECHO = 7000;
    const UDP_SILENT = 7001;

    before(async () => {
      for (const port of OPEN.filter((one) => one !== HTTP)) {
        const server = world.stack.net.createServer((socket) => void socket.on('error', () => {}).end('hello\r\n'));
        server.listen(port);
        await once(server, 'listening');
      }
      for (const family of FAMILIES) {
        const echo = world.stack.openUdp({ port: UDP_ECHO, address: world.ours[family] });
        void (async () => {
          for await (const { data, address, port } of echo) await echo.send(data, port, address);
        })();
        world.undo(() => echo.close());
        const silent = world.stack.openUdp({ port: UDP_SILENT, address: world.ours[family] });
        world.undo(() => silent.close());
      }
    });

    function nmap(family: Family, words: string[]): Promise<string> {
      const six = family === 6 ? ['-6'] : [];
      const common = ['-n', '-Pn', '-T4', '--max-retries', '3'];
      return world.host.exec(['nmap', ...six, ...common, ...words, world.ours[family]], { timeoutMs: 50_000 });
    }

    /** The state of each port. */
    async function scan(family: Family, words: string[], ports: string): Promise<Record<string, string>> {
      const said = await nmap(family, [...words, '-oG', '-', '-p', ports]);
      const line = /Ports: ([^\t\n]*)/.exec(said)?.[1] ?? '';
      const states = line
        .split(', ')
        .filter(Boolean)
        .map((one) => one.trim().split('/').slice(0, 2));
      return Object.fromEntries(states);
    }

    const expected = (open: string, closed: string): Record<string, string> =>
      Object.fromEntries([20, 21, 22, 23, HTTP].map((port) => [port, OPEN.includes(port) ? open : closed]));

    const SCANS: Record<string, [string, string, string]> = {
      'a connect scan': ['-sT', 'open', 'closed'],
      'a SYN scan': ['-sS', 'open', 'closed'],
      'a FIN scan': ['-sF', 'open|filtered', 'closed'],
      'a NULL scan': ['-sN', 'open|filtered', 'closed'],
      'an Xmas scan': ['-sX', 'open|filtered', 'closed'],
      'an ACK scan': ['-sA', 'unfiltered', 'unfiltered'],
      'a Maimon scan': ['-sM', 'closed', 'closed'],
      'a window scan': ['-sW', 'closed', 'closed'],
    };
    for (const family of FAMILIES) {
      for (const [name, [word, open, closed]] of Object.entries(SCANS)) {
        it(`sees by ${name} what is open, IPv${family}`, async () => {
          assert.deepEqual(await scan(family, [word], '20-23,80'), expected(open, closed));
        });
      }

      it(`sees by a UDP scan what is open, IPv${family}`, async () => {
        const ports = `${UDP_ECHO}-${UDP_SILENT + 1}`;
        assert.deepEqual(await scan(family, ['-sU', '--data-string', 'hello'], ports), {
          [UDP_ECHO]: 'open',
          [UDP_SILENT]: 'open|filtered',
          [UDP_SILENT + 1]: 'closed',
        });
      });

      it(`goes on after probes for the operating system and its services, IPv${family}`, async () => {
        const said = await nmap(family, ['-sS', '-sV', '-O', '--max-os-tries', '1', '-v', '-p', '20-23']);
        assert.match(said, /22\/tcp +open/);
        // What it makes of our initial sequence numbers (RFC 6528); it does not say for IPv6.
        if (family === 4) assert.match(said, /TCP Sequence Prediction: Difficulty=\d+ \(Good luck!\)/);
        const down = await world.shell(`curl -sS --fail ${url(family, world.ours, HTTP)} | sha256sum`);
        assert.equal(down.slice(0, 64), world.hash);
      });
    }
  });

  describe('iperf3', () => {
    /** Two sockets of the stack between Linux and Linux: what comes on one leaves on the other. */
    async function forward(family: Family): Promise<void> {
      const server = world.stack.net.createServer({ allowHalfOpen: true }, (one) => {
        const two = world.stack.net.connect({ host: world.linux[family], port: IPERF3, allowHalfOpen: true });
        one.pipe(two).pipe(one);
        // iperf3 closes what it has not read to the end: the forwarder gets a RST.
        one.on('error', () => two.destroy());
        two.on('error', () => one.destroy());
      });
      server.listen(FORWARDER, world.ours[family]);
      await once(server, 'listening');
    }

    for (const family of FAMILIES) {
      it(`measures through a forwarder of ours, both ways and at once, IPv${family}`, async () => {
        await forward(family);
        for (const more of [[], ['-R'], ['--bidir'], ['-P', '4']]) {
          const server = world.host.spawn(['iperf3', '-s', '-1', '-p', String(IPERF3), '--forceflush']);
          await server.waitFor('listening', READY_MS, () => server.stdout.includes('listening') || undefined);
          const words = ['-c', world.ours[family], '-p', String(FORWARDER), '-n', String(IPERF3_BYTES), '-J', ...more];
          const said = JSON.parse(await world.host.exec(['iperf3', ...words]));
          assert.equal(said.error, undefined);
          const { sum_sent, sum_received } = said.end;
          assert.ok(sum_sent.bytes >= IPERF3_BYTES, `${sum_sent.bytes} bytes sent`);
          assert.ok(sum_received.bytes > 0);
          await server.stop(READY_MS);
        }
      });
    }
  });

  describe('nc', () => {
    for (const family of FAMILIES) {
      it(`ends its half, and gets the answer, IPv${family}`, async () => {
        const server = world.stack.net.createServer({ allowHalfOpen: true }, (socket) => {
          const parts: Buffer[] = [];
          socket.on('data', (data) => parts.push(data)).on('end', () => socket.end(hashOf(Buffer.concat(parts))));
        });
        server.listen(NC);
        await once(server, 'listening');
        assert.equal(await world.shell(`nc -N ${world.ours[family]} ${NC} <${quote(world.file)}`), world.hash);
        server.close();
      });

      it(`listens to us, for a file and with one, IPv${family}`, async () => {
        const got = path.join(world.directory, 'got');
        const listen = async (redirection: string) => {
          const line = `exec nc -nNvl ${world.linux[family]} ${NC} ${redirection}`;
          const listener = world.host.spawn(['sh', '-ec', line]);
          await listener.waitFor('listening', READY_MS, () => listener.stderr.includes('Listening') || undefined);
          return listener;
        };
        const taker = await listen(`</dev/null >${quote(got)}`);
        await world.exchange(family, NC, world.bytes);
        await taker.ended;
        assert.equal(hashOf(fs.readFileSync(got)), world.hash);

        // Its FIN comes first: it sends nothing more when ours has.
        const giver = await listen(`<${quote(world.file)}`);
        const socket = await world.stack.connect({ host: world.linux[family], port: NC });
        assert.equal(hashOf(Buffer.concat(await socket.toArray())), world.hash);
        await giver.ended;
      });

      it(`exchanges datagrams, both ways, IPv${family}`, async () => {
        const endpoint = world.stack.openUdp({ address: world.ours[family], port: NC });
        const client = world.host.spawn(['nc', '-nu', world.ours[family], String(NC)], { interactive: true });
        client.stdin.write('from nc\n');
        const { value } = await endpoint.next();
        assert.equal(value.data.toString(), 'from nc\n');
        await endpoint.send('from us\n', value.port, value.address);
        await client.waitFor('the answer', READY_MS, () => client.stdout === 'from us\n' || undefined);
        await client.stop();

        const server = world.host.spawn(['nc', '-nuvl', world.linux[family], String(NC)], {
          interactive: true,
        });
        await server.waitFor('bound', READY_MS, () => server.stderr.includes('Bound') || undefined);
        await endpoint.send('from us, first\n', NC, world.linux[family]);
        await server.waitFor('it', READY_MS, () => server.stdout === 'from us, first\n' || undefined);
        server.stdin.write('from nc, second\n');
        const second = await endpoint.next();
        assert.equal(second.value.data.toString(), 'from nc, second\n');
        await server.stop();
        endpoint.close();
      });
    }
  });
});
