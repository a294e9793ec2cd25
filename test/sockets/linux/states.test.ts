/** How connections with Linux begin and end, and what they do in between: thousands of them, and the odd ones. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { quote } from '../../../lab/words.ts';
import { parseIp } from '../../../packet/ip-text.ts';
import type { ConnectOptions, TcpHandler } from '../../../tcpip/tcp/api.ts';
import { ECHO, FAMILIES, type Family, hashOf, LinuxStackWorld, SINK, SOURCE } from '../../helpers/linux-stack-world.ts';
import { until } from '../../helpers/until.ts';

const CONNECTIONS = 2000;
const AT_ONCE = 50;
const GREETING = 'hello';
const PATIENTLY = { timeoutMs: 20_000 };
/** Ports of programs that are of one test only. */
const PORT = 2000;
const FILTERED = 3000;
/** None that anybody gets by himself. */
const SAME_PORT = 22_222;
const SMALL_BUFFER = 65_536;
/** Bytes that windows of ours are told in (RFC 7323 §2.2). */
const WINDOW_STEP = 128;

/** Opens connections to HOST, greets, awaits the greeting's echo and the end. Prints how many did, and the first error. */
const MANY = `
  const net = require('node:net');
  const [host, port, count, atOnce, greeting] = process.argv.slice(1);
  let left = Number(count);
  let good = 0;
  const one = () =>
    new Promise((resolve) => {
      let got = '';
      const socket = net.connect(Number(port), host, () => socket.end(greeting));
      socket.on('data', (data) => (got += data)).on('error', (error) => console.log(error.message));
      socket.on('close', () => resolve(got === greeting));
    });
  const worker = async () => {
    while (left-- > 0) if (await one()) good++;
  };
  Promise.all(Array.from({ length: Number(atOnce) }, worker)).then(() => console.log(good + ' good'));
`;

describe('connections with Linux', function () {
  this.timeout(60_000);
  let world: LinuxStackWorld;

  before(async () => {
    world = await LinuxStackWorld.create();
    world.serve();
  });
  after(() => world?.dispose());

  /** The connection's end, as a code; null for an orderly one. */
  function ending(family: Family, options: Partial<ConnectOptions>, more: Partial<TcpHandler> = {}) {
    const { tcp } = world.stack;
    const { promise, resolve } = Promise.withResolvers<string | null>();
    world.stack.hold();
    const connection = tcp.connect({
      ...options,
      address: options.address ?? parseIp(world.linux[family])!,
      port: options.port ?? ECHO,
      handler: {
        onConnected() {},
        onData() {},
        onEnd() {},
        onWritable() {},
        onClosed: (_, error) => resolve(error?.code ?? null),
        ...more,
      },
    });
    return { connection, ended: promise.finally(() => world.stack.letGo()) };
  }

  for (const family of FAMILIES) {
    it(`takes thousands of Linux’s, one after the other, IPv${family}`, async () => {
      const words = [world.ours[family], ECHO, CONNECTIONS, AT_ONCE, GREETING].map(String);
      const said = await world.host.exec([process.execPath, '-e', MANY, '--', ...words]);
      assert.equal(said, `${CONNECTIONS} good\n`);
    });

    it(`makes thousands to Linux, one after the other, IPv${family}`, async () => {
      const { attemptFails, estabResets } = world.counters;
      let left = CONNECTIONS;
      const worker = async (): Promise<void> => {
        while (left-- > 0) {
          const { received } = await world.exchange(family, ECHO, Buffer.from(GREETING));
          assert.equal(received.toString(), GREETING);
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE }, worker));
      assert.deepEqual([world.counters.attemptFails, world.counters.estabResets], [attemptFails, estabResets]);
    });

    it(`takes a port of Linux’s out of TIME-WAIT (RFC 6191), IPv${family}`, async () => {
      const { timeWaitsReused } = world.counters;
      for (let i = 0; i < 5; i++) {
        const got = path.join(world.directory, 'got');
        await world.shell(`nc -d -p ${SAME_PORT} ${world.ours[family]} ${SOURCE} </dev/null >${quote(got)}`);
        assert.equal(hashOf(fs.readFileSync(got)), world.hash);
        // Until our ACK of its FIN came, the port is taken on Linux, too.
        const isTaken = () => world.host.exec(['ss', '-tanH', `sport = :${SAME_PORT}`]);
        await until('the end on Linux', async () => (await isTaken()) === '', PATIENTLY);
      }
      assert.equal(world.counters.timeWaitsReused, timeWaitsReused + 4);
    });

    it(`connects again from a port that is in TIME-WAIT on Linux, IPv${family}`, async () => {
      for (let i = 0; i < 5; i++) {
        // Ends when Linux has ended, and not before: TIME-WAIT is there.
        const options = { host: world.linux[family], port: SOURCE, localPort: SAME_PORT };
        const socket = await world.stack.connect(options);
        assert.equal(hashOf(Buffer.concat(await socket.toArray())), world.hash);
        const waiting = await world.host.exec(['ss', '-tanH', 'state', 'time-wait', `dport = :${SAME_PORT}`]);
        assert.match(waiting, new RegExp(`:${SAME_PORT}\\b`));
      }
    });

    it(`sends and takes much after the other side’s FIN, IPv${family}`, async () => {
      const { stack, bytes, hash } = world;
      const server = stack.net.createServer({ allowHalfOpen: true }, (socket) => {
        socket.resume().on('end', () => socket.end(bytes));
      });
      server.listen(PORT);
      await once(server, 'listening');
      const got = await world.shell(`echo please | nc -N ${world.ours[family]} ${PORT} | sha256sum`);
      assert.equal(got.slice(0, 64), hash);
      server.close();
      const program = `
        const file = require('node:fs').readFileSync(process.argv[1]);
        const answer = (socket) => socket.resume().on('end', () => socket.end(file));
        require('node:net').createServer({ allowHalfOpen: true }, answer).listen(${PORT}, '::', () => console.log('ready'));
      `;
      const linux = await world.program(program, world.file);
      const { received } = await world.exchange(family, PORT, Buffer.from('please'));
      assert.equal(hashOf(received), hash);
      await linux.stop();
    });

    it(`waits while Linux’s window is closed, and goes on, IPv${family}`, async () => {
      const program = `
        const hash = require('node:crypto').createHash('sha256');
        const serve = (socket) => {
          socket.pause().on('data', (data) => hash.update(data)).on('end', () => socket.end(hash.digest('hex')));
          process.stdin.once('data', () => socket.resume());
        };
        const server = require('node:net').createServer({ allowHalfOpen: true, pauseOnConnect: true }, serve);
        server.listen(${PORT}, '::', () => console.log('ready'));
      `;
      const linux = await world.program(program);
      const big = Buffer.concat(Array.from({ length: 10 }, () => world.bytes));
      const { zeroWindowProbes } = world.counters;
      const exchanged = world.exchange(family, PORT, big);
      await until('two probes', () => world.counters.zeroWindowProbes >= zeroWindowProbes + 2, PATIENTLY);
      linux.stdin.write('go on\n');
      assert.equal((await exchanged).received.toString(), hashOf(big));
      await linux.stop();
    });

    it(`closes its window, and opens it again, IPv${family}`, async () => {
      const { tcp } = world.stack;
      const parts: Buffer[] = [];
      const probes = await world.nstat('TcpExtTCPWinProbe');
      const { connection, ended } = ending(
        family,
        { port: SOURCE, receiveBuffer: SMALL_BUFFER },
        {
          onConnected: (c) => tcp.pause(c),
          onData: (_, bytes, start, end) => void parts.push(Buffer.from(bytes.slice(start, end))),
          onEnd: (c) => tcp.shutdown(c),
        },
      );
      await until('Linux’s probes', async () => (await world.nstat('TcpExtTCPWinProbe')) >= probes + 2, PATIENTLY);
      const { receiveWindow, receiveQueue } = world.stack.tcp.info(connection);
      assert.ok(receiveWindow < WINDOW_STEP, `a window of ${receiveWindow}`);
      assert.ok(receiveQueue <= SMALL_BUFFER + WINDOW_STEP, `${receiveQueue} bytes wait`);
      assert.ok(receiveQueue > SMALL_BUFFER - WINDOW_STEP, `${receiveQueue} bytes wait`);
      assert.equal(parts.length, 0);
      world.stack.tcp.resume(connection);
      assert.equal(await ended, null);
      assert.equal(hashOf(Buffer.concat(parts)), world.hash);
    });

    it(`gives and gets ECONNRESET, IPv${family}`, async () => {
      const program = `
        const serve = (socket) => socket.once('data', () => socket.resetAndDestroy());
        require('node:net').createServer(serve).listen(${PORT}, '::', () => console.log('ready'));
      `;
      const linux = await world.program(program);
      const socket = await world.stack.connect({ host: world.linux[family], port: PORT });
      socket.write('reset me');
      const [error] = await once(socket, 'error');
      assert.equal(error.message, 'read ECONNRESET');
      await linux.stop();

      const server = world.stack.net.createServer((one) => one.once('data', () => one.resetAndDestroy()));
      server.listen(PORT);
      await once(server, 'listening');
      const client = `
        const socket = require('node:net').connect(${PORT}, process.argv[1], () => socket.write('reset me'));
        socket.on('error', (error) => console.log(error.message));
      `;
      const said = await world.host.exec([process.execPath, '-e', client, '--', world.ours[family]]);
      assert.equal(said, 'read ECONNRESET\n');
      server.close();
    });

    it(`says EHOSTUNREACH where there is nobody, IPv${family}`, async () => {
      const host = family === 4 ? '10.11.0.99' : 'fd11::99';
      await assert.rejects(world.stack.connect({ host, port: 1 }), { code: 'EHOSTUNREACH', address: host });
    });

    it(`says what became of SYNs that Linux filters, IPv${family}`, async () => {
      const verdicts = [
        ['drop', 'ETIMEDOUT'],
        ['reject with tcp reset', 'ECONNREFUSED'],
        ['reject with icmpx port-unreachable', 'ECONNREFUSED'],
        ['reject with icmpx admin-prohibited', 'EHOSTUNREACH'],
        ['reject with icmpx host-unreachable', 'EHOSTUNREACH'],
        ['reject with icmpx no-route', 'ENETUNREACH'],
      ] as const;
      const rules = verdicts.map(([verdict], i) => `tcp dport ${FILTERED + i} ${verdict}`);
      await world.nft(`{\nchain in {\ntype filter hook input priority 0\n${rules.join('\n')}\n}\n}`);
      try {
        const options = (port: number) => ({ port, userTimeoutMs: 1000 });
        const ends = await Promise.all(verdicts.map((_, i) => ending(family, options(FILTERED + i)).ended));
        assert.deepEqual(
          ends,
          verdicts.map(([, code]) => code),
        );
      } finally {
        await world.forgetNft();
      }
    });

    it(`gives up on a Linux that fell silent, by its data and by keepalive, IPv${family}`, async () => {
      const connected = [Promise.withResolvers<void>(), Promise.withResolvers<void>()] as const;
      const writer = ending(family, { userTimeoutMs: 1000 }, { onConnected: () => connected[0].resolve() });
      const listener = ending(
        family,
        { keepAliveMs: 200, keepAliveIntervalMs: 200, keepAliveProbes: 8 },
        { onConnected: () => connected[1].resolve() },
      );
      await Promise.all(connected.map(({ promise }) => promise));
      // Answered as long as Linux is there.
      const { keepAliveProbes } = world.counters;
      await until('two probes', () => world.counters.keepAliveProbes >= keepAliveProbes + 2, PATIENTLY);
      await world.nft('{\nchain in {\ntype filter hook input priority 0\nmeta l4proto tcp drop\n}\n}');
      try {
        world.stack.tcp.write(writer.connection, Buffer.from(GREETING));
        assert.deepEqual(await Promise.all([writer.ended, listener.ended]), ['ETIMEDOUT', 'ETIMEDOUT']);
      } finally {
        await world.forgetNft();
      }
    });
  }

  it('waits no longer for a connection than a signal allows', async () => {
    await world.nft(`{\nchain in {\ntype filter hook input priority 0\ntcp dport ${FILTERED} drop\n}\n}`);
    try {
      const connecting = world.stack.connect({
        host: world.linux[4],
        port: FILTERED,
        signal: AbortSignal.timeout(300),
      });
      await assert.rejects(connecting, { name: 'AbortError' });
    } finally {
      await world.forgetNft();
    }
  });

  it('answers Linux with SYN cookies where the backlog is full (RFC 4987 §3.6)', async () => {
    const services = world.serve({ backlog: 0 }, PORT);
    const { syncookiesRecv, syncookiesFailed } = world.counters;
    for (const family of FAMILIES) {
      assert.equal(await world.linuxUploads(family, PORT + SINK), world.hash);
      assert.equal(await world.linuxDownloads(family, PORT + SOURCE), world.hash);
      assert.match(world.sunk.at(-1)!.options.join(','), /^ts,sack,wscale:\d+,\d+$/);
    }
    assert.equal(world.counters.syncookiesRecv, syncookiesRecv + 4);
    assert.equal(world.counters.syncookiesFailed, syncookiesFailed);
    services.close();
  });
});
