/** Impaired ports of a running daemon: two namespaces of Linux's own TCP/IP behind taps, each on a lane of its own. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import fs from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { DaemonProcess, RINGSWITCH } from '../../lab/daemon.ts';
import { CardModel } from '../../lab/model.ts';
import { NetworkNamespace } from '../../lab/namespace.ts';
import { run } from '../../lab/program.ts';
import { broadcastFrame, TunClient } from '../helpers/tun-client.ts';
import { until, untilPorts } from '../helpers/until.ts';
import { VhostGuest } from '../helpers/vhost-guest.ts';
import { VhostUserFrontEnd, VhostUserGuest } from '../helpers/vhost-user-front-end.ts';

const TRANSFER_BYTES = 4_000_000;
const SERVER_PORT = 7000;

describe('an impaired port of a daemon', function () {
  this.timeout(60_000);

  const hosts: NetworkNamespace[] = [];
  let daemon: DaemonProcess;

  before(async () => {
    const lane = { count: 2, placement: { impleft0: 0, impright0: 1 } };
    // The taps are made here, before they move: their names are this test's own.
    daemon = await DaemonProcess.start({ config: { lane } });
    for (const [i, name] of ['impleft0', 'impright0'].entries()) {
      await daemon.addTap(name);
      const host = await NetworkNamespace.create('impaired');
      hosts.push(host);
      await host.moveIn(name);
      // Nobody speaks here but the tests: fixed seeds then mean fixed outcomes.
      await host.exec(['sysctl', '-qw', `net.ipv6.conf.${name}.disable_ipv6=1`]);
      await host.address(name, `10.77.0.${i + 1}/24`);
    }
    const address = async (i: number, name: string): Promise<string> =>
      (JSON.parse(await hosts[i]!.exec(['ip', '-json', 'link', 'show', name])) as { address: string }[])[0]!.address;
    await hosts[0]!.exec([
      'ip',
      'neigh',
      'add',
      '10.77.0.2',
      'lladdr',
      await address(1, 'impright0'),
      'dev',
      'impleft0',
    ]);
    await hosts[1]!.exec([
      'ip',
      'neigh',
      'add',
      '10.77.0.1',
      'lladdr',
      await address(0, 'impleft0'),
      'dev',
      'impright0',
    ]);
  });
  after(async () => {
    for (const host of hosts) await host.dispose();
    await daemon?.dispose();
  });
  afterEach(async () => {
    for (const name of ['impleft0', 'impright0']) await set(name, '--clear');
  });

  const set = (name: string, ...words: string[]): Promise<string> =>
    run([RINGSWITCH, 'port', 'set', name, '--socket', daemon.socket, ...words]);
  const counters = async (name: string): Promise<Record<string, number>> => (await daemon.port(name)).counters;

  interface Pings {
    received: number;
    duplicates: number;
    rtts: number[];
  }
  /** Sends `count` echo requests from the left to the right, in flight together. */
  async function ping(count: number, interval = 0.005): Promise<Pings> {
    const words = ['ping', '-n', '-c', String(count), '-i', String(interval), '-W', '1', '10.77.0.2'];
    // ping exits with 1 when nothing comes back.
    const out = await hosts[0]!.exec(['sh', '-c', `${words.join(' ')} || true`]);
    const rtts = [...out.matchAll(/time=([\d.]+) ms/g)].map(([, ms]) => Number(ms));
    const [, received] = /(\d+) received/.exec(out)!;
    return { received: Number(received), duplicates: Number(/\+(\d+) duplicates/.exec(out)?.[1] ?? 0), rtts };
  }

  it('delays both ways as long as it was told, never less and hardly longer', async () => {
    // Of half of them: what this machine does besides does not count. A quiet one is late by some 0.3 ms, a busy one by its
    // scheduler's time slices.
    const middle = (rtts: number[]): number => rtts.toSorted((a, b) => a - b)[50]!;
    const without = middle((await ping(100)).rtts);
    await set('impright0', '--delay', '20ms');
    const { received, rtts } = await ping(100);
    assert.equal(received, 100);
    assert(Math.min(...rtts) >= 40, `one came back after ${Math.min(...rtts)} ms`);
    const late = middle(rtts) - without - 40;
    assert(late < 10, `${late} ms later than 40 ms, besides the ${without} ms that it takes without`);
  });

  it('delays in one direction only, evenly around the delay', async () => {
    await set('impright0', '--direction', 'from', '--delay', '10ms', '--jitter', '5ms', '--seed', '1');
    assert.deepEqual((await daemon.port('impright0')).impairment.to, null);
    const { received, rtts } = await ping(100);
    assert.equal(received, 100);
    assert(Math.min(...rtts) >= 5 && Math.min(...rtts) < 7, `${Math.min(...rtts)} ms at the least`);
    const middle = rtts.toSorted((a, b) => a - b)[50]!;
    assert(middle > 8 && middle < 20, `${middle} ms in the middle`);
  });

  it('loses the same pings in every run with the same seed', async () => {
    const losses = async (): Promise<[number, number, number]> => {
      const before = await counters('impright0');
      await set('impright0', '--loss', '10%', '--seed', '11');
      const { received } = await ping(200);
      const after = await counters('impright0');
      return [
        200 - received,
        after.tx_drop_impaired! - before.tx_drop_impaired!,
        after.rx_drop_impaired! - before.rx_drop_impaired!,
      ];
    };
    const [lost, to, from] = await losses();
    assert.equal(lost, to + from);
    assert(lost > 20 && lost < 60, `${lost} of 200 in both directions`);
    assert.deepEqual(await losses(), [lost, to, from]);
  });

  it('gives frames twice, and counts them', async () => {
    const before = await counters('impleft0');
    await set('impleft0', '--direction', 'to', '--duplicate', '50%', '--seed', '3');
    const { received, duplicates } = await ping(100);
    assert.equal(received, 100);
    const doubled = (await counters('impleft0')).tx_impaired_duplicated! - before.tx_impaired_duplicated!;
    // ping leaves when it has all answers: the copy of the last one may come behind that.
    assert(doubled - duplicates === 0 || doubled - duplicates === 1, `${doubled} doubled, ${duplicates} seen`);
    assert(doubled > 30 && doubled < 70);
  });

  it('corrupts frames so that the receiver notices', async () => {
    await set('impright0', '--direction', 'to', '--corrupt', '100%', '--seed', '4');
    assert.equal((await ping(20)).received, 0);
    assert.equal((await counters('impright0')).tx_impaired_corrupted! >= 20, true);
  });

  /** The hash of what the right host got, and the seconds it took. */
  async function transfer(payload: Buffer): Promise<{ hash: string; seconds: number }> {
    const directory = daemon.directory;
    const source = path.join(directory, 'sent');
    const target = path.join(directory, 'received');
    await fs.writeFile(source, payload);
    await fs.rm(target, { force: true });
    const server = hosts[1]!.spawn([process.execPath, '-e', SERVER, String(SERVER_PORT), target]);
    try {
      await server.waitFor('its socket', 10_000, () => server.stdout.includes('listening') || undefined);
      const start = performance.now();
      await hosts[0]!.exec([process.execPath, '-e', CLIENT, '10.77.0.2', String(SERVER_PORT), source], {
        timeoutMs: 40_000,
      });
      await server.waitFor('its end', 20_000, () => server.end);
      const seconds = (performance.now() - start) / 1000;
      return { hash: sha256(await fs.readFile(target)), seconds };
    } finally {
      await server.stop();
    }
  }
  const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

  it('lets TCP through whole, though it loses, reorders, doubles and corrupts segments', async () => {
    const payload = randomBytes(TRANSFER_BYTES);
    const words = ['--loss', '1%', '--delay', '2ms', '--jitter', '1ms', '--reorder', '2%', '--duplicate', '1%'];
    await set('impright0', ...words, '--corrupt', '0.5%', '--seed', '5');
    const before = await counters('impright0');
    const { hash } = await transfer(payload);
    assert.equal(hash, sha256(payload));
    const after = await counters('impright0');
    const segments = TRANSFER_BYTES / 1448;
    for (const [name, share] of [
      ['tx_drop_impaired', 0.01],
      ['tx_impaired_reordered', 0.02],
      ['tx_impaired_duplicated', 0.01],
      ['tx_impaired_corrupted', 0.005],
    ] as const) {
      const found = after[name]! - before[name]!;
      const wanted = segments * share;
      assert(found > wanted / 3 && found < wanted * 3, `${name} is ${found}: of each super-frame every segment counts`);
    }
  });

  it('limits the rate of TCP to that of an Ethernet', async () => {
    const payload = randomBytes(TRANSFER_BYTES);
    await set('impright0', '--rate', '20mbit');
    // 1448 bytes of payload in 1538 bytes of wire.
    const least = (TRANSFER_BYTES * 8 * 1538) / 1448 / 20e6;
    const most = 1.6 * least;
    // A busy machine may hold any transfer up, but not the fastest of several.
    const times: number[] = [];
    while (times.length < 3 && !times.some((seconds) => seconds < most)) {
      const { hash, seconds } = await transfer(payload);
      assert.equal(hash, sha256(payload));
      assert(seconds > least, `${seconds} s, and ${least} s by the rate`);
      times.push(seconds);
    }
    assert(Math.min(...times) < most, `${times} s, and ${least} s by the rate`);
  });

  it('is changed and cleared while a transfer runs, which stays whole', async () => {
    const payload = randomBytes(TRANSFER_BYTES);
    await set('impright0', '--rate', '20mbit', '--delay', '3ms');
    const result = transfer(payload);
    for (const words of [
      ['--delay', '30ms', '--jitter', '10ms'],
      ['--loss', '1%'],
      ['--clear'],
      ['--rate', '30mbit'],
    ]) {
      await delay(300);
      await set('impright0', ...words);
    }
    assert.equal((await result).hash, sha256(payload));
  });

  it('is shown, with the seed that was drawn, and refused where there is none', async () => {
    await set('impright0', '--loss', '1%', '--delay', '20ms', '--jitter', '500us', '--rate', '1.5gbit');
    const { to, from } = (await daemon.port('impright0')).impairment;
    assert.equal(to!.seed, from!.seed);
    const shown = await run([RINGSWITCH, 'show', 'ports', '--socket', daemon.socket]);
    const line = `impright0: impaired in both directions: loss 1%, delay 20ms ±500us, rate 1.5gbit, limit 1000, seed ${to!.seed}`;
    assert(shown.split('\n').includes(line), shown);
    assert(daemon.log.includes('impright0: frames to the port are impaired: loss 1%, delay 20ms'));
    await assert.rejects(set('nobody', '--loss', '1%'), /there is no port nobody; there are: impleft0, impright0/);
  });
});

describe('a port of each kind can be impaired:', function () {
  this.timeout(60_000);
  const DELAY_MS = 40;

  let daemon: DaemonProcess;
  before(async () => {
    daemon = await DaemonProcess.start({ config: { lane: { count: 2, placement: { peer: 0, odd: 1 } } } });
  });
  after(async () => {
    await daemon?.stop();
    await daemon?.dispose();
  });

  const set = (name: string, ...words: string[]): Promise<string> =>
    run([RINGSWITCH, 'port', 'set', name, '--socket', daemon.socket, ...words]);

  interface Guest extends Disposable {
    send(frame: Uint8Array): void;
    receive(): Buffer;
  }
  const fileGuest = (name: string): Guest => {
    const client = new TunClient(daemon.tun, { name });
    return {
      send: (frame) => void client.write(frame),
      receive: () => client.receive(),
      [Symbol.dispose]: () => client.close(),
    };
  };
  const kinds: Record<string, () => Promise<Guest>> = {
    'a tun file': async () => fileGuest('odd'),
    'rings by way of the clones': async () =>
      new VhostGuest({ tun: daemon.tun, vhostNet: daemon.vhostNet, name: 'odd' }),
    'rings in private memory': async () =>
      new VhostGuest({ tun: daemon.tun, vhostNet: daemon.vhostNet, name: 'odd', privately: true }),
    'rings over vhost-user': async () => {
      const socket = path.join(daemon.directory, 'odd.sock');
      await daemon.client.post('/v1/ports', { kind: 'vhost-user', name: 'odd', path: socket });
      return new VhostUserGuest(VhostUserFrontEnd.connect(socket));
    },
  };
  for (const [what, open] of Object.entries(kinds)) {
    it(what, async () => {
      await untilPorts(daemon);
      using guest = await open();
      using peer = fileGuest('peer');
      // Until its rings run, it may have to be waited for.
      guest.send(broadcastFrame(60, 0));
      assert.deepEqual(peer.receive(), broadcastFrame(60, 0));
      await set('odd', '--delay', `${DELAY_MS}ms`, '--duplicate', '100%');
      for (const [from, to] of [
        [guest, peer],
        [peer, guest],
      ] as const) {
        const times: number[] = [];
        for (const length of [60, 1514, 4000]) {
          const start = performance.now();
          from.send(broadcastFrame(length, length));
          for (let copies = 0; copies < 2; copies++) {
            assert.deepEqual(to.receive(), broadcastFrame(length, length));
            const took = performance.now() - start;
            assert(took >= DELAY_MS, `${took} ms`);
            times.push(took);
          }
        }
        // A busy machine may delay any frame more, but not the fastest of several.
        assert(Math.min(...times) < 10 * DELAY_MS, `${times} ms`);
      }
      await set('odd', '--clear');
      const times = Array.from({ length: 10 }, (_, seed) => {
        const start = performance.now();
        peer.send(broadcastFrame(77, seed));
        assert.deepEqual(guest.receive(), broadcastFrame(77, seed));
        return performance.now() - start;
      });
      assert(Math.min(...times) < DELAY_MS, `${times} ms`);
    });
  }

  it('forgets what is under way to and from a guest that goes, and is not there when it comes again', async () => {
    using peer = fileGuest('peer');
    for (let i = 0; i < 3; i++) {
      using guest = fileGuest('gone');
      await set('gone', '--delay', '300ms', '--limit', '100000');
      guest.send(broadcastFrame(60, 1));
      peer.send(broadcastFrame(60, 2));
    }
    using guest = fileGuest('gone');
    assert.deepEqual((await daemon.port('gone')).impairment, { to: null, from: null });
    guest.send(broadcastFrame(60, 3));
    assert.deepEqual(peer.receive(), broadcastFrame(60, 3));
  });

  it('a network card with queues on both lanes', async () => {
    await using host = await NetworkNamespace.create('impaired');
    await using far = await NetworkNamespace.create('impaired');
    await using model = await CardModel.start({ tap: 'impcard0' });
    await far.moveIn('impcard0');
    await daemon.addTap('imptap0');
    await host.moveIn('imptap0');
    const device = `vfio-user:${model.sockets[0]}`;
    await daemon.client.post('/v1/ports', { kind: 'nic', name: 'impnic0', device, queues: 2 });
    await host.address('imptap0', '10.78.0.1/24');
    await far.address('impcard0', '10.78.0.2/24');
    await until('a link', async () => (await daemon.port('impnic0')).carrier === 'up');
    await host.exec(['ping', '-c', '1', '-W', '5', '10.78.0.2']);
    await set('impnic0', '--delay', `${DELAY_MS}ms`, '--rate', '1gbit');
    const out = await host.exec(['ping', '-n', '-c', '10', '-i', '0.01', '-W', '5', '10.78.0.2']);
    const rtts = [...out.matchAll(/time=([\d.]+) ms/g)].map(([, ms]) => Number(ms));
    assert.equal(rtts.length, 10);
    assert(Math.min(...rtts) >= 2 * DELAY_MS && Math.min(...rtts) < 3 * DELAY_MS, `${rtts.join(', ')} ms`);
    await daemon.client.delete('/v1/ports/impnic0');
    await daemon.client.delete('/v1/ports/imptap0');
  });
});

describe('impairment in the configuration', function () {
  this.timeout(30_000);

  it('is there as soon as a port of that name is', async () => {
    const impairment = { early0: { to: { loss: '1%', seed: 9 }, from: { rate: '10mbit' } } };
    await using host = await NetworkNamespace.create('impaired');
    await using daemon = await DaemonProcess.start({
      config: { impairment, taps: [{ name: 'early0' }] },
      launcher: ['nsenter', `--net=${host.path}`],
    });
    const { to, from } = (await daemon.port('early0')).impairment;
    assert.deepEqual([to!.loss, to!.seed, from!.bitsPerSecond], [0.01, 9, 1e7]);
  });
});

const SERVER = `
const [port, file] = process.argv.slice(1);
const server = require('node:net').createServer((socket) => {
  socket.pipe(require('node:fs').createWriteStream(file)).on('finish', () => server.close());
}).listen(Number(port), () => console.log('listening'));
`;
const CLIENT = `
const [host, port, file] = process.argv.slice(1);
require('node:fs').createReadStream(file).pipe(require('node:net').connect(Number(port), host));
`;
