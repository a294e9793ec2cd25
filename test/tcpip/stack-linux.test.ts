/** The stack on a tap whose other end is Linux, in a network namespace of its own. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { NetworkNamespace } from '../../lab/namespace.ts';
import { openTapDevice } from '../../tcpip/devices/open-tap.ts';
import type { TapDevice } from '../../tcpip/devices/tap-device.ts';
import type { EchoError, EchoReply } from '../../tcpip/ip/echo-client.ts';
import { REACHABLE } from '../../tcpip/link/neighbour-cache.ts';
import { Stack } from '../../tcpip/stack.ts';
import type { UdpSocket } from '../../tcpip/udp/api.ts';
import { Udp } from '../../tcpip/udp/udp.ts';
import { bytesOf } from '../helpers/tcpip-packets.ts';
import { seeded } from '../helpers/tcpip-wire.ts';
import { until } from '../helpers/until.ts';

const MAC = Uint8Array.of(0x52, 0x54, 0, 9, 0, 2);
const OURS = Uint8Array.of(10, 9, 0, 2);
const LINUX = Uint8Array.of(10, 9, 0, 1);
const NOBODY = Uint8Array.of(10, 9, 0, 77);
const ECHO_PORT = 7777;
const DEADLINE_MS = 15_000;
const PATIENTLY = { timeoutMs: DEADLINE_MS };

/** A program for Linux's own UDP: sends datagrams of these sizes to us and prints what becomes of them. */
const CLIENT = `
  const socket = require('node:dgram').createSocket('udp4');
  const [port, ...sizes] = process.argv.slice(1).map(Number);
  const bytesOf = (length) => Buffer.from({ length }, (_, i) => 0).map((_, i) => (i * 13 + length) & 0xff);
  let index = 0;
  const next = () => {
    if (index === sizes.length) process.exit(0);
    socket.send(bytesOf(sizes[index]));
  };
  socket.on('message', (message) => {
    console.log(message.length + (message.equals(bytesOf(sizes[index])) ? ' same' : ' other'));
    index++;
    next();
  });
  socket.on('error', (error) => {
    console.log(error.code);
    process.exit(0);
  });
  socket.connect(port, '10.9.0.2', next);
  setTimeout(() => process.exit(1), 10000);
`;
/** Answers what comes to it, and says its port. */
const SERVER = `
  const socket = require('node:dgram').createSocket('udp4');
  socket.on('message', (message, from) => socket.send(message, from.port, from.address));
  socket.bind(ECHO, () => console.log('ready'));
`.replace('ECHO', String(ECHO_PORT));

for (const offloads of [false, true]) {
  describe(`the stack and Linux, ${offloads ? 'with' : 'without'} offloads`, function () {
    this.timeout(60_000);
    let device: TapDevice;
    let host: NetworkNamespace;
    let stack: Stack;
    let udp: Udp;
    let isRunning = false;
    let running: Promise<void>;
    const start = process.hrtime.bigint();
    const clock = (): number => Number((process.hrtime.bigint() - start) / 1000n);

    /** Polls all the time, in turns with everything else. */
    async function run(): Promise<void> {
      while (isRunning) {
        stack.poll(clock());
        await nextTurn();
      }
    }

    before(async () => {
      const name = `rs${randomBytes(4).toString('hex')}`;
      device = openTapDevice({ name, address: MAC, offloads });
      host = await NetworkNamespace.create('stack');
      await host.moveIn(name);
      await host.address(name, '10.9.0.1/24');
      stack = new Stack({ device, random: seeded(Date.now()) });
      udp = new Udp(stack, seeded(Date.now()));
      stack.addTransport(17, udp);
      stack.advance(clock());
      stack.addAddress(OURS, 24);
      isRunning = true;
      running = run();
    });

    after(async () => {
      isRunning = false;
      await running;
      await host?.dispose();
      device?.close();
    });

    function ping(address: Uint8Array, size: number): Promise<{ error: EchoError | null; reply: EchoReply | null }> {
      stack.advance(clock());
      return new Promise((resolve) => {
        stack.ping(address, { size, timeoutMs: 8000 }, (error, reply) => resolve({ error, reply }));
      });
    }

    it('answers ping of any size, and arping by it', async () => {
      for (const size of ['0', '56', '1472', '4000', '20000', '65507']) {
        const said = await host.exec(['ping', '-c', '2', '-i', '0.2', '-W', '5', '-s', size, '10.9.0.2']);
        assert.match(said, / 2 received, 0% packet loss/);
      }
      const neighbours = await host.exec(['ip', 'neigh', 'show', '10.9.0.2']);
      assert.match(neighbours, /52:54:00:09:00:02/);
      assert.equal(stack.ipv4.counters.inHdrErrors + stack.ipv4.icmp.counters.inCsumErrors, 0);
      assert.ok(stack.reassembler.counters.reasmOks >= 6);
    });

    it('pings Linux', async () => {
      for (const size of [0, 56, 1472, 1473, 4000, 65_507]) {
        const { error, reply } = await ping(LINUX, size);
        assert.equal(error, null);
        assert.equal(reply!.size, size);
        assert.equal(reply!.hopLimit, 64);
      }
      const neighbour = stack.neighbours.find(4, LINUX, 0);
      assert.ok(stack.neighbours.isUsable(neighbour));
    });

    it('finds nobody where there is nobody', async () => {
      assert.equal((await ping(NOBODY, 8)).error!.code, 'EHOSTUNREACH');
    });

    it('learns that Linux has an address, and that nobody has another', async () => {
      const tried = (address: Uint8Array): Promise<boolean> => {
        stack.advance(clock());
        return new Promise((resolve) => void stack.arp.acquire(address, clock(), resolve));
      };
      assert.deepEqual(await Promise.all([tried(LINUX), tried(NOBODY)]), [false, true]);
    });

    it('echoes datagrams of Linux’s sockets', async () => {
      const socket = udp.open({
        family: 4,
        port: 6000,
        handler: {
          onMessage: (self, { bytes, start, end, source, port, local }) => {
            self.send(bytes, start, end, bytes.slice(source, source + 4), port, local);
          },
        },
      });
      const sizes = ['1', '100', '1472', '1473', '9000', '65507'];
      const said = await host.exec([process.execPath, '-e', CLIENT, '6000', ...sizes], { timeoutMs: 30_000 });
      assert.deepEqual(
        said.trim().split('\n'),
        sizes.map((size) => `${size} same`),
      );
      socket.close();
      assert.equal(udp.counters.inCsumErrors, 0);
    });

    it('tells Linux’s sockets where nobody listens', async () => {
      const said = await host.exec([process.execPath, '-e', CLIENT, '6001', '10']);
      assert.equal(said.trim(), 'ECONNREFUSED');
    });

    it('is told so by Linux, and gets its own datagrams back', async () => {
      const server = host.spawn([process.execPath, '-e', SERVER]);
      try {
        await server.waitFor('the echo server', DEADLINE_MS, () => server.stdout.includes('ready'));
        const got: Buffer[] = [];
        const errors: string[] = [];
        const socket = udp.open({
          family: 4,
          handler: {
            onMessage: (_self, { bytes, start, end }) => void got.push(Buffer.from(bytes.slice(start, end))),
            onError: (_self, error) => void errors.push(error.code),
          },
        });
        const send = (self: UdpSocket, size: number): void => {
          stack.advance(clock());
          assert.ok(self.send(bytesOf(size), 0, size));
        };
        socket.connect(LINUX, ECHO_PORT);
        for (const size of [0, 1, 1472, 1473, 30_000, 65_507]) {
          send(socket, size);
          await until(`${size} bytes`, () => got.length > 0, PATIENTLY);
          assert.deepEqual(new Uint8Array(got.shift()!), bytesOf(size));
        }
        assert.equal(stack.neighbours.state[stack.neighbours.find(4, LINUX, 0)]! >= REACHABLE, true);
        socket.connect(LINUX, ECHO_PORT + 1);
        send(socket, 10);
        await until('ECONNREFUSED', () => errors.length > 0, PATIENTLY);
        assert.deepEqual(errors, ['ECONNREFUSED']);
        socket.close();
      } finally {
        await server.stop();
      }
    });

    it('gets what is for everybody on the link', async () => {
      const got: string[] = [];
      const socket = udp.open({
        family: 4,
        port: 6002,
        handler: {
          onMessage: (_self, { bytes, start, end }) => void got.push(Buffer.from(bytes.slice(start, end)).toString()),
        },
      });
      const program = `
        const socket = require('node:dgram').createSocket('udp4');
        socket.bind(() => {
          socket.setBroadcast(true);
          socket.send('all', 6002, '10.9.0.255', () => socket.close());
        });
      `;
      await host.exec([process.execPath, '-e', program]);
      await until('the broadcast', () => got.length > 0, PATIENTLY);
      assert.deepEqual(got, ['all']);
      socket.close();
    });
  });
}
