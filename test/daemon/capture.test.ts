/** `ringswitch capture` on a whole daemon, read by tshark and capinfos. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import type { CaptureRow } from '../../daemon/control.ts';
import { DaemonProcess, RINGSWITCH } from '../../lab/daemon.ts';
import { CardModel } from '../../lab/model.ts';
import { NetworkNamespace } from '../../lab/namespace.ts';
import { Program, run } from '../../lab/program.ts';
import { broadcastFrame, TunClient } from '../helpers/tun-client.ts';
import { until } from '../helpers/until.ts';

const START_MS = 15_000;
const INTERFACE_STATISTICS_BLOCK = 5;

interface Statistics {
  received: number;
  dropped: number;
  accepted: number;
  delivered: number;
  comment: string;
}

/** What the Interface Statistics Block at a file's end says. */
function statisticsOf(bytes: Buffer): Statistics {
  const start = bytes.length - bytes.readUInt32LE(bytes.length - 4);
  assert.equal(bytes.readUInt32LE(start), INTERFACE_STATISTICS_BLOCK, 'the last block');
  const options = new Map<number, Buffer>();
  for (let at = start + 20; ; ) {
    const [code, length] = [bytes.readUInt16LE(at), bytes.readUInt16LE(at + 2)];
    if (code === 0) break;
    options.set(code, bytes.subarray(at + 4, at + 4 + length));
    at += 4 + Math.ceil(length / 4) * 4;
  }
  const counter = (code: number): number => Number(options.get(code)!.readBigUInt64LE());
  return {
    received: counter(4),
    dropped: counter(5),
    accepted: counter(6),
    delivered: counter(8),
    comment: options.get(1)?.toString() ?? '',
  };
}

describe('ringswitch capture', function () {
  this.timeout(60_000);

  let directory: string;
  let daemon: DaemonProcess;
  let a: NetworkNamespace;
  let b: NetworkNamespace;

  before(async () => {
    directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-capture-'));
    a = await NetworkNamespace.create('capture-a');
    b = await NetworkNamespace.create('capture-b');
    daemon = await DaemonProcess.start({
      config: { taps: [{ name: 'cap0' }, { name: 'cap1' }], lane: { count: 2, placement: { 'cap*': 0, card: 1 } } },
      launcher: ['nsenter', `--net=${a.path}`],
    });
  });

  after(async () => {
    await daemon?.dispose();
    await a?.dispose();
    await b?.dispose();
    fs.rmSync(directory, { recursive: true, force: true });
  });

  // Also of a test that failed, and of a pipeline whose shell was killed: the next one asks for the only capture.
  afterEach(async () => {
    for (const { id } of await captures()) await daemon.client.delete(`/v1/captures/${id}`).catch(() => {});
    await until('no capture is left', async () => (await captures()).length === 0);
  });

  /** Gives the two taps to two hosts, 10.99.0.1 and 10.99.0.2. */
  async function connectHosts(): Promise<void> {
    await run(['ip', '-n', a.name, 'link', 'set', 'cap1', 'netns', b.name]);
    for (const [host, tap] of [
      [a, 'cap0'],
      [b, 'cap1'],
    ] as const) {
      await host.exec(['sysctl', '-qw', `net.ipv6.conf.${tap}.disable_ipv6=1`]);
    }
    await a.address('cap0', '10.99.0.1/24');
    await b.address('cap1', '10.99.0.2/24');
  }

  const words = (port: string, ...more: string[]): string[] => [
    RINGSWITCH,
    'capture',
    port,
    '--socket',
    daemon.socket,
    ...more,
  ];
  const file = (name: string): string => path.join(directory, name);
  /** Starts one, and waits until it captures. */
  async function capture(port: string, ...more: string[]): Promise<Program> {
    const program = new Program(words(port, ...more));
    await program.waitFor('capturing', START_MS, () => program.stderr.includes('capturing'));
    return program;
  }
  async function end(program: Program, signal?: NodeJS.Signals): Promise<string> {
    if (signal) program.signal(signal);
    await program.waitFor('its end', START_MS, () => program.end);
    return program.end!;
  }
  const captures = async (): Promise<CaptureRow[]> => (await daemon.client.get('/v1/captures')) as CaptureRow[];
  const fields = async (name: string, ...fields: string[]): Promise<string[][]> =>
    (await run(['tshark', '-r', name, '-T', 'fields', ...fields.flatMap((field) => ['-e', field])]))
      .trim()
      .split('\n')
      .map((line) => line.split('\t'));

  it('writes pings to a file, while tshark shows them live', async () => {
    await connectHosts();
    const live = `${words('cap1').join(' ')} | tshark -l -i - -T fields -e frame.packet_flags_direction -e icmp.type`;
    await using shown = new Program(['sh', '-c', live]);
    await shown.waitFor('both to start', START_MS, () =>
      ['capturing\n', 'Capturing on'].every((word) => shown.stderr.includes(word)),
    );
    await using written = await capture('cap0', '-w', file('icmp'), '--filter', 'icmp', '--snaplen', '64');
    const before = Date.now() / 1000;
    await a.exec(['ping', '-c', '3', '-i', '0.2', '10.99.0.2']);
    const lines = (): string[] => shown.stdout.split('\n').filter((line) => /\t\d/.test(line));
    await shown.waitFor('six frames', START_MS, () => lines().length === 6);
    // To cap1 and from it.
    assert.deepEqual(
      lines(),
      [1, 2, 3].flatMap(() => ['0x00000002\t8', '0x00000001\t0']),
    );
    assert.deepEqual(
      (await captures()).map(({ port, filtered, snaplen, accepted }) => ({ port, filtered, snaplen, accepted })),
      [
        { port: 'cap1', filtered: false, snaplen: 65_550, accepted: (await captures())[0]!.accepted },
        { port: 'cap0', filtered: true, snaplen: 64, accepted: 6 },
      ],
    );
    const [{ id }] = (await captures()).filter(({ port }) => port === 'cap1') as [CaptureRow];
    await daemon.client.delete(`/v1/captures/${id}`);
    assert.equal(await end(shown), 'exited with status 0', 'tshark read up to the end');
    assert.equal(await end(written, 'SIGINT'), 'exited with status 0');
    assert.match(written.stderr, /^ringswitch: cap0: capturing\nringswitch: cap0: 6 frames captured, 0 dropped\n$/);
    const read = await fields(file('icmp'), 'frame.packet_flags_direction', 'icmp.type', 'frame.len', 'frame.cap_len');
    assert.deepEqual(
      read,
      [1, 2, 3].flatMap(() => [
        ['0x00000001', '8', '98', '64'],
        ['0x00000002', '0', '98', '64'],
      ]),
    );
    const times = (await fields(file('icmp'), 'frame.time_epoch')).map(([time]) => Number(time));
    assert.deepEqual(
      times,
      [...times].sort((x, y) => x - y),
    );
    assert.ok(times[0]! > before - 1 && times[5]! < Date.now() / 1000 + 1, `${before}: ${times}`);
    const { received, ...statistics } = statisticsOf(fs.readFileSync(file('icmp')));
    assert.deepEqual(statistics, { dropped: 0, accepted: 6, delivered: 6, comment: '' });
    assert.ok(received >= 6);
    const infos = await run(['capinfos', file('icmp')]);
    assert.match(infos, /Filter string = icmp$/m);
    assert.match(infos, /Name = cap0$/m);
    assert.match(infos, /Strict time order: {3}True/);
  });

  it('never slows the switch: a reader that sleeps loses frames, which are counted', async () => {
    using from = new TunClient(daemon.tun, { name: 'from' });
    using to = new TunClient(daemon.tun, { name: 'to' });
    // Its own frames alone: the hosts of the tests before may still have something to say to each other.
    const sees = words('from', '--buffer', '0.25', '--filter', 'ether proto 0x88b5');
    const child = spawn(RINGSWITCH, sees.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    try {
      await until('it captures', () => said.includes('capturing'));
      const frames = 1500;
      for (let i = 0; i < frames; i++) {
        const frame = broadcastFrame(1000, i);
        assert.equal(from.write(frame), 1000);
        assert.deepEqual(to.receive(), frame);
      }
      const [row] = await captures();
      assert.equal(row!.accepted, frames);
      assert.ok(row!.dropped > frames / 2, `${row!.dropped} dropped`);
      child.kill('SIGTERM');
      // Asked to end it waits for its reader, who has all in order now.
      const file_ = file('slow');
      fs.writeFileSync(file_, await buffer(child.stdout));
      if (child.exitCode === null) await once(child, 'exit');
      assert.equal(child.exitCode, 0);
      const [, captured, dropped] = /from: (\d+) frames captured, (\d+) dropped\n$/.exec(said)!.map(Number);
      assert.equal(captured! + dropped!, frames);
      const bytes = fs.readFileSync(file_);
      const { received, ...statistics } = statisticsOf(bytes);
      assert.ok(received >= frames);
      assert.deepEqual(statistics, {
        accepted: frames,
        dropped: dropped!,
        delivered: captured!,
        comment: '',
      });
      const read = await fields(file_, 'frame.len', 'data.data');
      assert.equal(read.length, captured!);
      const inOrder = read.every(([length, data], i) => {
        return length === '1000' && data === broadcastFrame(1000, i).subarray(14).toString('hex');
      });
      assert.ok(inOrder, 'the first ones, whole');
    } finally {
      child.kill('SIGKILL');
    }
  });

  it('gives up at once when it is asked to end for the second time', async () => {
    using from = new TunClient(daemon.tun, { name: 'given' });
    const child = spawn(RINGSWITCH, words('given').slice(1), { stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    try {
      await until('it captures', () => said.includes('capturing'));
      for (let i = 0; i < 300; i++) from.write(broadcastFrame(1000, i));
      await until('all were seen', async () => (await captures())[0]!.seen === 300);
      const exited = once(child, 'exit');
      child.kill('SIGINT');
      await delay(300);
      assert.equal(child.exitCode, null, 'it has something left for its reader');
      child.kill('SIGINT');
      assert.deepEqual(await exited, [1, null]);
      await until('the capture has ended', async () => (await captures()).length === 0);
    } finally {
      child.kill('SIGKILL');
    }
  });

  it('ends after a number of frames, and after a time', async () => {
    using client = new TunClient(daemon.tun, { name: 'quiet' });
    await using counted = await capture('quiet', '-w', file('counted'), '-c', '3');
    await using timed = await capture('quiet', '-w', file('timed'), '--duration', '1', '--direction', 'out');
    for (let i = 0; i < 10; i++) client.write(broadcastFrame(100, i));
    assert.equal(await end(counted), 'exited with status 0');
    assert.match(counted.stderr, /quiet: 3 frames captured, 0 dropped\n$/);
    assert.equal((await fields(file('counted'), 'frame.len')).length, 3);
    assert.equal(await end(timed), 'exited with status 0');
    assert.match(timed.stderr, /quiet: 0 frames captured, 0 dropped\n$/);
    assert.deepEqual(await captures(), []);
  });

  it('ends with its reader, also while no frame comes', async () => {
    using _client = new TunClient(daemon.tun, { name: 'still' });
    // Takes the header, and goes.
    const line = `(${words('still').join(' ')}; echo "status $?" >&2) | head -c 8 | od -A n -t x1`;
    await using program = new Program(['sh', '-c', line]);
    assert.equal(await end(program), 'exited with status 0');
    assert.match(program.stdout, /^ 0a 0d 0d 0a/);
    assert.match(program.stderr, /still: 0 frames captured, 0 dropped\nstatus 0\n$/);
    assert.deepEqual(await captures(), []);
  });

  it('ends with its port, says so, and leaves a whole file', async () => {
    const client = new TunClient(daemon.tun, { name: 'goes' });
    using _other = new TunClient(daemon.tun, { name: 'stays' });
    await using program = await capture('goes', '-w', file('gone'));
    client.write(broadcastFrame(100));
    await until('it was seen', async () => (await captures())[0]!.seen === 1);
    client.close();
    assert.equal(await end(program), 'exited with status 1');
    assert.match(program.stderr, /goes: the port was removed\nringswitch: goes: 1 frames captured, 0 dropped\n$/);
    assert.equal((await fields(file('gone'), 'frame.len')).length, 1);
    assert.equal(statisticsOf(fs.readFileSync(file('gone'))).comment, 'the port was removed');
    await until('nothing is left', async () => (await captures()).length === 0);
  });

  it('leaves nothing behind in the daemon when it is killed', async () => {
    using client = new TunClient(daemon.tun, { name: 'kept' });
    using other = new TunClient(daemon.tun, { name: 'other' });
    /** Descriptors of captures, of which there are eventfds too; and mappings of their memory. */
    const usage = (): [number, number] => {
      const descriptors = fs.readdirSync(`/proc/${daemon.pid}/fd`).map((fd) => {
        try {
          return fs.readlinkSync(`/proc/${daemon.pid}/fd/${fd}`);
        } catch {
          return 'gone'; // Closed meanwhile: a control connection.
        }
      });
      return [
        descriptors.filter((name) => /ringswitch-capture|eventfd/.test(name)).length,
        fs.readFileSync(`/proc/${daemon.pid}/maps`, 'latin1').split('memfd:ringswitch-capture').length - 1,
      ];
    };
    const before = usage();
    await using program = await capture('kept', '-w', file('killed'));
    await using second = await capture('kept', '-w', file('second'));
    client.write(broadcastFrame(100, 1));
    assert.deepEqual(usage(), [before[0] + 4, 2]);
    assert.match(await end(program, 'SIGKILL'), /SIGKILL/);
    await until('the first is gone', async () => (await captures()).length === 1);
    client.write(broadcastFrame(100, 2));
    assert.match(await end(second, 'SIGINT'), /status 0/);
    assert.match(second.stderr, /2 frames captured, 0 dropped/);
    await until('both are gone', async () => (await captures()).length === 0);
    await until('all is given back', () => usage().join() === before.join());
    client.write(broadcastFrame(100, 3));
    for (const seed of [1, 2, 3]) assert.deepEqual(other.receive(), broadcastFrame(100, seed));
    assert.match(daemon.log, /kept: capture \d+ ended, \d+ frames captured, 0 dropped/);
  });

  it('captures a network card whole, on all its lanes', async () => {
    await using model = await CardModel.start({ tap: 'capcard0' });
    await run(['ip', 'link', 'set', 'capcard0', 'netns', b.name]);
    await b.exec(['sysctl', '-qw', 'net.ipv6.conf.capcard0.disable_ipv6=1']);
    await daemon.client.post('/v1/ports', {
      kind: 'nic',
      name: 'nic0',
      device: `vfio-user:${model.sockets[0]}`,
      queues: 2,
    });
    await b.address('capcard0', '10.99.1.2/24');
    await until('the card has its link', async () => (await daemon.port('nic0')).carrier === 'up');
    await b.exec(['ip', 'neighbor', 'add', '10.99.1.1', 'lladdr', '02:00:00:00:00:99', 'dev', 'capcard0']);
    await using program = await capture('nic0', '-w', file('card'), '--filter', 'udp port 9', '--direction', 'in');
    // Other source ports, other flows: the card spreads them over its queues.
    const send = `for (let port = 20000; port < 20040; port++) {
      const socket = require('node:dgram').createSocket('udp4');
      socket.bind(port, '10.99.1.2', () => socket.send('x', 9, '10.99.1.1', () => socket.close()));
    }`;
    await b.exec([process.execPath, '-e', send]);
    await until('all were seen', async () => (await captures())[0]!.accepted === 40);
    const statistics = (await daemon.client.get('/v1/ports/nic0/nic')) as Record<string, number>;
    for (const queue of [0, 1]) assert.ok(statistics[`rx_queue_${queue}_packets`]! > 0, `nothing on queue ${queue}`);
    assert.equal(await end(program, 'SIGINT'), 'exited with status 0');
    const ports = (await fields(file('card'), 'udp.srcport')).map(([port]) => Number(port));
    assert.deepEqual(
      ports.sort(),
      Array.from({ length: 40 }, (_, i) => 20_000 + i),
    );
  });

  describe('refuses', () => {
    const refusal = async (...more: string[]): Promise<string> => {
      await using program = new Program(more);
      assert.notEqual(await end(program), 'exited with status 0');
      return program.stderr;
    };

    it('a port that is not there, and leaves the file alone', async () => {
      fs.writeFileSync(file('precious'), 'data');
      const said = await refusal(...words('nowhere', '-w', file('precious')));
      assert.equal(said, 'ringswitch: there is no port nowhere; there are: cap0, cap1\n');
      assert.equal(fs.readFileSync(file('precious'), 'utf8'), 'data');
    });

    it("a bad filter, in libpcap's words", async () => {
      const said = await refusal(...words('cap0', '-w', file('x'), '--filter', 'icmp nad tcp'));
      assert.match(said, /^ringswitch: filter "icmp nad tcp": .*syntax error.*; pcap-filter\(7\)/);
      assert.match(await refusal(...words('cap0', '-w', file('x'), '--filter', 'inbound')), /there is --direction\n$/);
    });

    it('a terminal', async () => {
      const line = words('cap0').join(' ');
      await using program = new Program(['script', '-qec', line, '/dev/null'], { interactive: true });
      await end(program);
      assert.match(
        program.stdout,
        /ringswitch: a capture is no text for a terminal: give a file \(-w FILE\), or pipe it/,
      );
      await until('nothing is left', async () => (await captures()).length === 0);
    });

    it('a file that cannot be made or written', async () => {
      const said = await refusal(...words('cap0', '-w', file('no/such')));
      assert.match(said, /^ringswitch: -w .*no\/such: ENOENT/);
      const full = await refusal(...words('cap0', '-w', '/dev/full'));
      assert.match(
        full,
        /\nringswitch: -w \/dev\/full: ENOSPC: no space left on device, write; what is there so far stays\n$/,
      );
      await until('nothing is left', async () => (await captures()).length === 0);
    });

    it('a capture of no frames, of no time, and in no direction', async () => {
      assert.match(await refusal(...words('cap0', '-c', '0')), /It is a number of frames, more than 0/);
      assert.match(await refusal(...words('cap0', '--duration', 'soon')), /It is a number of seconds, more than 0/);
      assert.match(await refusal(...words('cap0', '--direction', 'up')), /Allowed choices are in, out, both/);
      assert.match(
        await refusal(...words('cap0', '-w', file('x'), '--snaplen', '999999')),
        /snaplen: expected a number of/,
      );
      assert.match(
        await refusal(...words('cap0', '-w', file('x'), '--buffer', '4096')),
        /ringBytes: expected a power of/,
      );
    });

    it('to end a capture that is not there', async () => {
      await assert.rejects(daemon.client.delete('/v1/captures/9'), {
        message: 'there is no capture 9; there are: none',
      });
    });
  });

  // The last one: what taps the hosts had are gone.
  it('ends with the daemon, however that ends, and leaves a whole file', async () => {
    for (const [name, stop] of [
      ['stopped', () => daemon.stop()],
      ['killed', () => daemon.kill()],
    ] as const) {
      const client = new TunClient(daemon.tun, { name: 'vm' });
      await using program = await capture('vm', '-w', file(name));
      client.write(broadcastFrame(100));
      await until('it was seen', async () => (await captures())[0]!.seen === 1);
      try {
        await stop();
        client.close();
        assert.equal(await end(program), 'exited with status 1');
      } finally {
        await daemon.restart();
      }
      assert.match(program.stderr, /vm: the daemon has ended\nringswitch: vm: 1 frames captured, 0 dropped\n$/);
      assert.deepEqual(await fields(file(name), 'frame.len'), [['100']]);
      assert.equal(statisticsOf(fs.readFileSync(file(name))).comment, 'the daemon has ended');
    }
  });
});
