/** A daemon with several lanes: its threads, where its ports are, and frames between clients on different lanes. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { stringify } from 'yaml';
import type { LaneRow } from '../../daemon/control.ts';
import { DaemonProcess, RINGSWITCH } from '../../lab/daemon.ts';
import { Program, run } from '../../lab/program.ts';
import { frameBytes } from '../helpers/frame-bytes.ts';
import { broadcastFrame, TunClient } from '../helpers/tun-client.ts';
import { until, untilPorts } from '../helpers/until.ts';
import { VhostGuest } from '../helpers/vhost-guest.ts';

/** Every kind of length: the shortest, around what a lane copies once, Ethernet's, the longest that a tun file takes. */
const LENGTHS = [14, 15, 60, 127, 128, 129, 1514, 4096, 9014, 32_768, 65_535, 65_549];
const FRAMES = 300;
/** How long an idle daemon is watched, in ms, and the clock ticks (10 ms) that it may use: one polling lane takes 300. */
const IDLE_MS = 3000;
const IDLE_TICKS = 20;
const END_MS = 10_000;

const station = (last: number): Buffer => Buffer.from([2, 0, 0, 0, 0, last]);

function ethernet(to: Buffer, from: Buffer, length: number, seed: number): Buffer {
  const frame = Buffer.from(frameBytes(length, seed));
  to.copy(frame, 0);
  from.copy(frame, 6);
  frame.writeUInt16BE(0x88b5, 12); // IEEE 802 local experimental EtherType 1
  return frame;
}

/** Processors that this process may run on. */
function allowedCpus(status: string): string {
  return /^Cpus_allowed_list:\s*(\S+)/m.exec(status)?.[1] ?? assert.fail('no Cpus_allowed_list');
}
const expand = (list: string): number[] =>
  list.split(',').flatMap((range) => {
    const [first, last = first] = range.split('-').map(Number) as [number, number?];
    return Array.from({ length: last! - first + 1 }, (_, i) => first + i);
  });
const cpus = expand(allowedCpus(fs.readFileSync('/proc/self/status', 'latin1')));

const start = (lane: object, more: object = {}): Promise<DaemonProcess> =>
  DaemonProcess.start({ config: { lane, ...more } });
const rows = async (daemon: DaemonProcess): Promise<LaneRow[]> => (await daemon.client.get('/v1/lanes')) as LaneRow[];
const portsOf = async (daemon: DaemonProcess): Promise<number[]> => (await rows(daemon)).map(({ ports }) => ports);

/** Clock ticks that a process has used: utime and stime of proc(5). */
function ticks(pid: number): number {
  const fields = fs.readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]!.split(' ');
  return Number(fields[11]) + Number(fields[12]);
}

describe('a daemon with several lanes', function () {
  this.timeout(60_000);

  for (const count of [2, 3]) {
    for (const wasm of [true, false]) {
      it(`carries frames of all sizes between clients on ${count} lanes${wasm ? '' : ', without wasm'}`, async () => {
        const placement = Object.fromEntries(Array.from({ length: count }, (_, lane) => [`on${lane}`, lane]));
        await using daemon = await start({ count, placement, wasm });
        const clients = Array.from({ length: count }, (_, lane) => new TunClient(daemon.tun, { name: `on${lane}` }));
        try {
          for (const [lane, client] of clients.entries()) {
            client.write(ethernet(Buffer.alloc(6, 0xff), station(lane + 1), 60, lane));
            for (const other of clients) if (other !== client) assert.equal(other.receive().length, 60);
          }
          for (const [a, from] of clients.entries()) {
            for (const [b, to] of clients.entries()) {
              if (a === b) continue;
              const [sent, got] = [createHash('sha256'), createHash('sha256')];
              for (let i = 0; i < FRAMES; i++) {
                const frame = ethernet(station(b + 1), station(a + 1), LENGTHS[i % LENGTHS.length]!, i);
                assert.equal(from.write(frame), frame.length);
                sent.update(frame);
                got.update(to.receive());
              }
              assert.equal(got.digest('hex'), sent.digest('hex'), `from lane ${a} to lane ${b}`);
            }
          }
          for (const client of clients) assert.equal(client.silent, true, `${client.name} got what is not for it`);
          const peers = count - 1;
          for (const { sentToLanes, lostToLanes, ports, sleeps } of await rows(daemon)) {
            assert.deepEqual([sentToLanes, lostToLanes, ports], [FRAMES * peers + peers, 0, 1]);
            assert.ok(sleeps > 0);
          }
          for (const { name, counters } of await daemon.ports()) {
            const { rx_frames, tx_frames } = counters;
            assert.deepEqual([rx_frames, tx_frames], [FRAMES * peers + 1, FRAMES * peers + peers], name);
            const drops = Object.entries(counters).filter(([name, value]) => name.includes('drop') && value > 0);
            assert.deepEqual(drops, [], name);
          }
        } finally {
          for (const client of clients) client.close();
        }
        await daemon.stop();
      });
    }
  }

  it('carries frames between rings and files on different lanes', async () => {
    await using daemon = await start({ count: 2, placement: { rings: 1, file: 0 } });
    using guest = new VhostGuest({ tun: daemon.tun, vhostNet: daemon.vhostNet, name: 'rings' });
    using client = new TunClient(daemon.tun, { name: 'file' });
    for (let i = 0; i < 50; i++) {
      const frame = broadcastFrame(60 + i, i);
      guest.send(frame);
      assert.deepEqual(client.receive(), frame);
      const answer = ethernet(frame.subarray(6, 12), station(99), 1514 - i, i);
      client.write(answer);
      assert.deepEqual(Buffer.from(guest.receive()), answer);
    }
    const [first, second] = await rows(daemon);
    assert.deepEqual([first!.sentToLanes, second!.sentToLanes], [50, 50]);
  });

  it('learns and forgets in all lanes: fdb shows each address once, at its own port', async () => {
    await using daemon = await start({ count: 3 });
    const clients = ['a0', 'b0', 'c0'].map((name) => new TunClient(daemon.tun, { name }));
    try {
      for (const [i, client] of clients.entries()) client.write(ethernet(Buffer.alloc(6, 0xff), station(i + 1), 60, i));
      for (const client of clients) for (let i = 0; i < 2; i++) client.receive();
      const fdb = async (): Promise<string[]> =>
        ((await daemon.client.get('/v1/fdb')) as { mac: string; port: string }[])
          .map(({ mac, port }) => `${mac} ${port}`)
          .sort();
      assert.deepEqual(await fdb(), ['02:00:00:00:00:01 a0', '02:00:00:00:00:02 b0', '02:00:00:00:00:03 c0']);
      clients[1]!.close();
      await untilPorts(daemon, 2);
      clients[0]!.write(ethernet(station(2), station(1), 77, 5));
      assert.equal(clients[2]!.receive().length, 77, 'flooded: nobody knows it any more');
      assert.deepEqual(await fdb(), ['02:00:00:00:00:01 a0', '02:00:00:00:00:03 c0']);
    } finally {
      for (const client of clients) client.close();
    }
  });

  it('drops and counts what is for a port of another lane whose link is down', async () => {
    await using daemon = await start({ count: 2, placement: { here: 0, there: 1 } });
    using here = new TunClient(daemon.tun, { name: 'here' });
    using there = new TunClient(daemon.tun, { name: 'there' });
    await daemon.client.patch('/v1/ports/there', { link: 'down' });
    here.write(broadcastFrame(60));
    assert.equal(there.silent, true);
    assert.equal((await daemon.port('there')).counters.tx_drop_link_down, 1);
    await daemon.client.patch('/v1/ports/there', { link: 'up' });
    here.write(broadcastFrame(60));
    assert.equal(there.receive().length, 60);
  });

  describe('places ports', () => {
    it('by name, by the longest prefix, else where the fewest are', async () => {
      const placement = { vm7: 0, 'vm*': 2, 'vm1*': 1 };
      await using daemon = await start({ count: 3, placement });
      const clients: TunClient[] = [];
      const add = async (name: string): Promise<number[]> => {
        clients.push(new TunClient(daemon.tun, { name }));
        return await portsOf(daemon);
      };
      try {
        assert.deepEqual(await portsOf(daemon), [0, 0, 0]);
        assert.deepEqual(await add('vm20'), [0, 0, 1]);
        assert.deepEqual(await add('vm7'), [1, 0, 1]);
        assert.deepEqual(await add('vm70'), [1, 0, 2]);
        assert.deepEqual(await add('vm12'), [1, 1, 2]);
        assert.deepEqual(await add('vm1'), [1, 2, 2]);
        assert.deepEqual(await add('other'), [2, 2, 2]);
        assert.deepEqual(await add('vm'), [2, 2, 3]);
        assert.deepEqual(await add('vn1'), [3, 2, 3]);
        assert.deepEqual(await add('xvm1'), [3, 3, 3]);
      } finally {
        for (const client of clients) client.close();
      }
    });

    it('evenly without a word, and fills gaps that others leave', async () => {
      await using daemon = await start({ count: 3 });
      const clients = Array.from({ length: 7 }, (_, i) => new TunClient(daemon.tun, { name: `p${i}` }));
      try {
        assert.deepEqual(await portsOf(daemon), [3, 2, 2]);
        for (const i of [1, 4]) clients[i]!.close();
        await until('no port on lane 1', async () => (await portsOf(daemon))[1] === 0);
        for (const name of ['q1', 'q2']) clients.push(new TunClient(daemon.tun, { name }));
        assert.deepEqual(await portsOf(daemon), [3, 2, 2]);
      } finally {
        for (const client of clients) client.close();
      }
    });

    it('refuses a lane that there is none of, and a list of processors of another length', async () => {
      await fails({ count: 2, placement: { vm1: 2 } }, 2, /lane\.placement\.vm1: expected a lane below 2, got 2/);
      await fails({ count: 2, cpus: [0] }, 2, /lane\.cpus: expected a processor for each of the 2 lanes, got \[0\]/);
    });
  });

  describe('pins its lanes', () => {
    it('to their processors, and nothing else', async () => {
      const [first, second = first] = cpus as [number, number?];
      await using daemon = await start({ count: 2, cpus: [second, first] });
      const shown = await rows(daemon);
      assert.deepEqual(
        shown.map(({ lane, cpu }) => [lane, cpu]),
        [
          [0, second],
          [1, first],
        ],
      );
      const tasks = fs.readdirSync(`/proc/${daemon.pid}/task`);
      const lists = tasks.map((tid) =>
        allowedCpus(fs.readFileSync(`/proc/${daemon.pid}/task/${tid}/status`, 'latin1')),
      );
      const main = allowedCpus(fs.readFileSync(`/proc/${daemon.pid}/status`, 'latin1'));
      assert.deepEqual(expand(main), cpus, 'the main thread goes where it likes');
      if (cpus.length > 1) {
        assert.deepEqual(lists.filter((list) => list !== main).sort(), [`${first}`, `${second}`].sort());
      }
    });

    it('leaves them alone without a word', async () => {
      await using daemon = await start({ count: 2 });
      assert.deepEqual(
        (await rows(daemon)).map(({ cpu }) => cpu),
        [null, null],
      );
      for (const tid of fs.readdirSync(`/proc/${daemon.pid}/task`)) {
        const status = fs.readFileSync(`/proc/${daemon.pid}/task/${tid}/status`, 'latin1');
        assert.deepEqual(expand(allowedCpus(status)), cpus);
      }
    });

    it('says which processor is not there, does not start, and leaves nothing', async () => {
      const online = fs.readFileSync('/sys/devices/system/cpu/online', 'latin1').trim();
      await fails(
        { count: 2, cpus: [cpus[0], 1023] },
        1,
        new RegExp(
          `^ringswitch: lane.cpus: a lane cannot run on processor 1023: .*EINVAL.*; this machine has ${online}, and`,
        ),
      );
    });
  });

  it('shows its lanes', async () => {
    await using daemon = await start({ count: 2, placement: { one: 0, two: 1 }, wasm: false });
    using one = new TunClient(daemon.tun, { name: 'one' });
    using two = new TunClient(daemon.tun, { name: 'two' });
    for (let i = 0; i < 5; i++) {
      one.write(broadcastFrame(60, i));
      two.receive();
    }
    const shown = await run([RINGSWITCH, 'show', 'lanes', '--socket', daemon.socket]);
    const [header, ...lines] = shown.trim().split('\n');
    assert.match(header!, /^LANE +CPU +PORTS +FRAMES .* TO LANES +LOST +COPIES$/);
    assert.equal(lines.length, 2);
    // Lane, processor, ports, frames … to lanes, lost.
    assert.match(lines[0]!, /^ *0 +- +1 +5 .* 5 +0 +libc: /);
    assert.match(lines[1]!, /^ *1 +- +1 +5 .* 0 +0 +libc: /);
  });

  it('sleeps when there is nothing to do, all lanes, and wakes for a frame of another one', async () => {
    await using daemon = await start({ count: 3, placement: { a: 0, b: 2 } });
    using a = new TunClient(daemon.tun, { name: 'a' });
    using b = new TunClient(daemon.tun, { name: 'b' });
    a.write(broadcastFrame(60));
    b.receive();
    await delay(200);
    const before = await rows(daemon);
    const used = ticks(daemon.pid);
    await delay(IDLE_MS);
    const idle = ticks(daemon.pid) - used;
    assert.ok(idle <= IDLE_TICKS, `${idle} ticks of CPU in ${IDLE_MS} ms without frames`);
    for (let i = 0; i < 20; i++) {
      // Far longer than `lane.spin`: all lanes sleep again.
      await delay(10);
      const frame = broadcastFrame(100, i);
      a.write(frame);
      assert.deepEqual(b.receive(), frame);
    }
    for (const [lane, { sleeps }] of (await rows(daemon)).entries()) {
      const slept = sleeps - before[lane]!.sleeps;
      assert.ok(slept >= 20, `lane ${lane} slept ${slept} times, with a frame for each`);
    }
  });
});

/** A daemon with these lanes ends with that status and message, and leaves no mount. */
async function fails(lane: object, status: number, message: RegExp): Promise<void> {
  const directory = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-lanes-')));
  try {
    const file = path.join(directory, 'config.yaml');
    const own = { mount: { path: path.join(directory, 'dev') }, control: { socket: path.join(directory, 'socket') } };
    fs.writeFileSync(file, stringify({ ...own, lane }));
    await using program = new Program([RINGSWITCH, 'daemon', '--config', file]);
    await program.waitFor('its end', END_MS, () => program.end);
    assert.equal(program.end, `exited with status ${status}`, program.stderr);
    assert.match(program.stderr, message);
    assert.ok(!program.stderr.includes('    at '), `a stack for the operator: ${program.stderr}`);
    assert.ok(!fs.readFileSync('/proc/self/mounts', 'utf8').includes(directory));
    assert.ok(!fs.existsSync(own.control.socket));
  } finally {
    fs.rmSync(directory, { recursive: true, force: true });
  }
}
