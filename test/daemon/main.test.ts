import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { ControlServer } from '../../daemon/control-server.ts';
import { NO_IMPAIRMENT } from '../../daemon/impairment-options.ts';
import { Program } from '../../lab/program.ts';
import packageJson from '../../package.json' with { type: 'json' };
import { FakeControl, goodRing, guestPort } from '../helpers/fake-control.ts';

const RINGSWITCH = path.join(import.meta.dirname, '../../bin/ringswitch');
const START_MS = 8000;

describe('the command line', function () {
  this.timeout(30_000);
  let directory: string;
  let socket: string;
  let control: FakeControl;
  let server: ControlServer;

  before(async () => {
    directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-main-'));
    socket = path.join(directory, 'control.sock');
    control = new FakeControl();
    const log = { debug() {}, info() {}, warn() {}, error() {} };
    server = await ControlServer.start(socket, control, log);
  });

  beforeEach(() => {
    control.asked.length = 0;
  });

  after(async () => {
    await server.stop();
    fs.rmSync(directory, { recursive: true });
  });

  async function ringswitch(words: string[], env: Record<string, string> = {}) {
    await using program = new Program([RINGSWITCH, ...words], { env: { RINGSWITCH_SOCKET: '', ...env } });
    const end = await program.ended;
    return { status: Number(end.replace('exited with status ', '')), stdout: program.stdout, stderr: program.stderr };
  }

  it('tells its version', async () => {
    assert.deepEqual(await ringswitch(['--version']), { status: 0, stdout: `${packageJson.version}\n`, stderr: '' });
  });

  const usage: [words: string[], message: RegExp][] = [
    [[], /^Usage: ringswitch /],
    [['nonsense'], /^ringswitch: unknown command 'nonsense'/],
    [['show', 'nope'], /^ringswitch: .*'nope' is invalid.*one of status, ports, fdb, rings, memory, lanes/],
    [['show', '--nope'], /^ringswitch: unknown option '--nope'/],
    [['daemon', 'extra'], /^ringswitch: too many arguments for 'daemon'/],
    [['--socket', '/x', 'daemon'], /^ringswitch: --socket is for clients; the daemon's is control\.socket/],
    [['exec'], /^ringswitch: missing required argument 'command'/],
    [['port'], /^Usage: ringswitch port /],
    [['port', 'add', 'veth', 'x'], /^ringswitch: .*'veth' is invalid.*Allowed choices are tap/],
    [['port', 'add', 'tap'], /^ringswitch: missing required argument 'name'/],
    [['port', 'add', 'nic', 'x'], /^ringswitch: a nic port needs --device, the card/],
    [
      ['port', 'add', 'nic', 'x', '--device', '01:00.0', '--path', '/x'],
      /^ringswitch: --path is not for a nic port; it takes --device, --queues, --descriptors, --mtu, --without-iommu$/m,
    ],
    [
      ['port', 'add', 'tap', 'x', '--without-iommu'],
      /^ringswitch: --without-iommu is not for a tap port; it takes --persistent$/m,
    ],
    [['port', 'add', 'nic', 'x', '--device', '01:00.0', '--mtu', '-1'], /'-1' is invalid. It is a number of bytes/],
    [
      ['port', 'add', 'nic', 'x', '--device', '01:00.0', '--descriptors', '1k'],
      /'1k' is invalid. It is a number of descriptors/,
    ],
    [['port', 'set', 'x'], /^ringswitch: nothing to set: give --link, or --loss, --delay/],
    [
      ['port', 'set', 'x', '--loss', '1'],
      /^ringswitch: option '--loss <share>' argument '1' is invalid. It is a share/,
    ],
    [['port', 'set', 'x', '--jitter', '5ms'], /^ringswitch: --jitter: a jitter of 5ms is too much where there is no/],
    [['port', 'set', 'x', '--link', 'sideways'], /^ringswitch: .*'sideways' is invalid.*Allowed choices are up, down/],
    [['log', 'loud'], /^ringswitch: .*'loud' is invalid.*Allowed choices are error, warn, info, debug/],
    [['fdb'], /^ringswitch: required option '--aging <seconds>' not specified/],
    [['fdb', '--aging', 'soon'], /^ringswitch: .*'soon' is invalid. It is a number of seconds/],
  ];
  for (const [words, message] of usage) {
    it(`refuses "${['ringswitch', ...words].join(' ')}" with status 2`, async () => {
      const { status, stdout, stderr } = await ringswitch(words);
      assert.match(stderr, message);
      assert.deepEqual([status, stdout], [2, '']);
    });
  }

  it('asks the daemon for what it shows', async () => {
    const { status, stdout } = await ringswitch(['show', '--socket', socket]);
    assert.equal(status, 0);
    assert.match(
      stdout,
      /^ringswitch 0\.1\.0, process 1042, .*\nPORT .*\nweb1 .*\nweb1: dropped 2 tx_drop_no_buffers\n$/s,
    );
    assert.deepEqual(control.asked, [['status'], ['ports']]);
    for (const [what, row] of [
      ['status', /^ringswitch 0\.1\.0/],
      ['ports', /\nweb1 /],
      ['fdb', /\n52:54:00:12:34:56 {2}web1 {2}3 s\n/],
      ['rings', /\nweb1 .* running /],
      ['memory', /\n.*1\.0 GiB/],
      ['lanes', /NS\/FRAME.*\n.*100.*wasm/],
    ] as const) {
      assert.match((await ringswitch(['show', what, '--socket', socket])).stdout, row);
    }
  });

  it('shows the JSON as it comes', async () => {
    const json = async (...words: string[]) => JSON.parse((await ringswitch([...words, '--json'])).stdout);
    assert.deepEqual(await json('--socket', socket, 'show', 'ports'), [guestPort()]);
    assert.deepEqual(await json('--socket', socket, 'show', 'rings'), [goodRing()]);
    assert.deepEqual(await json('--socket', socket, 'show'), [guestPort()]);
  });

  it('takes the nearest socket: behind the command, before it, from the environment', async () => {
    const elsewhere = path.join(directory, 'elsewhere.sock');
    assert.equal((await ringswitch(['show'], { RINGSWITCH_SOCKET: socket })).status, 0);
    assert.equal((await ringswitch(['--socket', socket, 'show'], { RINGSWITCH_SOCKET: elsewhere })).status, 0);
    assert.equal((await ringswitch(['--socket', elsewhere, 'show', '--socket', socket])).status, 0);
    assert.match((await ringswitch(['--socket', elsewhere, 'show'])).stderr, /elsewhere\.sock/);
  });

  it('asks the daemon for changes, and keeps quiet about them', async () => {
    for (const words of [
      ['port', 'add', 'tap', 'host0'],
      ['port', 'add', 'tap', 'host1', '--persistent'],
      ['port', 'add', 'nic', 'up0', '--device', '01:00.0'],
      [
        ...['port', 'add', 'nic', 'up1', '--device', 'vfio-user:/run/card', '--queues', '2'],
        ...['--descriptors', '1024', '--mtu', '9000', '--without-iommu'],
      ],
      ['port', 'set', 'web1', '--link', 'down'],
      [
        ...['port', 'set', 'web1', '--loss', '1%', '--delay', '20ms', '--jitter', '5ms', '--reorder', '1%'],
        ...['--duplicate', '0.1%', '--corrupt', '0.01%', '--rate', '100mbit', '--limit', '500', '--seed', '7'],
      ],
      ['port', 'set', 'web1', '--loss', '100%', '--direction', 'from', '--link', 'up'],
      ['port', 'set', 'web1', '--clear', '--direction', 'to'],
      ['port', 'set', 'web1', '--clear'],
      ['port', 'remove', 'a#b'],
      ['log', 'debug'],
      ['fdb', '--aging', '60'],
    ]) {
      const done = await ringswitch(words, { RINGSWITCH_SOCKET: socket });
      assert.deepEqual(done, { status: 0, stdout: '', stderr: '' }, words.join(' '));
    }
    const shares = { loss: 0.01, reorder: 0.01, duplicate: 0.001, corrupt: 0.0001 };
    const everything = { ...shares, delayMs: 20, jitterMs: 5, bitsPerSecond: 1e8, limit: 500, seed: 7 };
    assert.deepEqual(control.asked, [
      ['addTap', { name: 'host0', persistent: false }],
      ['addTap', { name: 'host1', persistent: true }],
      ['addCard', { name: 'up0', device: '01:00.0', queues: 1, descriptors: 512, mtu: 1500, withoutIommu: false }],
      [
        'addCard',
        {
          ...{ name: 'up1', device: 'vfio-user:/run/card', queues: 2 },
          ...{ descriptors: 1024, mtu: 9000, withoutIommu: true },
        },
      ],
      ['setPort', 'web1', { link: 'down' }],
      ['setPort', 'web1', { impairment: { to: everything, from: everything } }],
      ['setPort', 'web1', { link: 'up', impairment: { from: { ...NO_IMPAIRMENT, loss: 1 } } }],
      ['setPort', 'web1', { impairment: { to: null } }],
      ['setPort', 'web1', { impairment: { to: null, from: null } }],
      ['removePort', 'a#b'],
      ['setLogLevel', 'debug'],
      ['setAging', 60],
    ]);
  });

  it("tells the daemon's refusal with status 1", async () => {
    const { status, stderr } = await ringswitch(['port', 'add', 'tap', 'web1', '--socket', socket]);
    assert.deepEqual([status, stderr], [1, 'ringswitch: there is a port web1 already\n']);
    const card = await ringswitch(['port', 'add', 'nic', 'x', '--device', 'eth0', '--socket', socket]);
    assert.equal(card.status, 1);
    assert.match(
      card.stderr,
      /^ringswitch: device: expected a PCI address such as 0000:01:00\.0, or vfio-user: and the/,
    );
    const aging = await ringswitch(['fdb', '--aging', '1', '--socket', socket]);
    assert.deepEqual(
      [aging.status, aging.stderr],
      [1, 'ringswitch: aging: expected a number of seconds from 10 to 1000000\n'],
    );
  });

  it('tells that no daemon runs with status 1', async () => {
    const nowhere = path.join(directory, 'nowhere.sock');
    for (const words of [['show'], ['log', 'info'], ['exec', '--', 'true']]) {
      const { status, stderr } = await ringswitch(['--socket', nowhere, ...words]);
      assert.deepEqual(
        [status, stderr.split(': start')[0]],
        [1, `ringswitch: no daemon answers at the control socket ${nowhere}`],
      );
    }
  });

  it("leaves a command's own options alone", async () => {
    const nowhere = path.join(directory, 'nowhere.sock');
    for (const command of [
      ['ls', '--socket', socket],
      ['--', 'ls', '--socket', socket, '--', '--version'],
    ]) {
      // The socket that is asked is exec's own, not the command's.
      const { status, stderr } = await ringswitch(['exec', '--socket', nowhere, ...command]);
      assert.equal(status, 1);
      assert.match(stderr, /nowhere\.sock/);
    }
    const { status, stderr } = await ringswitch(['exec', '--socket', socket, 'no-such-program', '--version']);
    assert.deepEqual([status, stderr], [127, 'ringswitch: no-such-program: no such program in PATH\n']);
  });

  describe('as daemon', () => {
    let place: string;
    let config: string;

    beforeEach(() => {
      place = fs.mkdtempSync(path.join(directory, 'daemon-'));
      config = path.join(place, 'ringswitch.yaml');
      fs.writeFileSync(
        config,
        `{mount: {path: ${place}/dev}, control: {socket: ${place}/control.sock}, log: {format: json}}`,
      );
    });

    const isMounted = (): boolean => fs.readFileSync('/proc/self/mounts', 'utf8').includes(place);

    it('refuses a bad configuration, a line for each thing that is wrong', async () => {
      fs.writeFileSync(config, 'fdb: {aging: soon}\nspin: 1\n');
      const { status, stderr } = await ringswitch(['daemon', '--config', config]);
      assert.equal(
        stderr,
        `ringswitch: ${config}:1:14: fdb.aging: expected a number of seconds from 10 to 1000000, got "soon"\n` +
          `ringswitch: ${config}:2:1: spin: unknown key; known are mount, control, log, fdb, lane, taps, ports, impairment\n`,
      );
      assert.equal(status, 2);
      const missing = await ringswitch(['daemon', '--config', path.join(place, 'nowhere.yaml')]);
      assert.match(missing.stderr, /^ringswitch: .*nowhere\.yaml: cannot be read: ENOENT/);
    });

    it('leaves nothing behind when its control socket is taken', async () => {
      const other = net.createServer().listen(path.join(place, 'control.sock'));
      await once(other, 'listening');
      try {
        const { status, stderr } = await ringswitch(['daemon', '--config', config]);
        assert.equal(status, 1);
        assert.equal(
          stderr,
          `ringswitch: another daemon listens on ${place}/control.sock; stop it, or set control.socket to another path\n`,
        );
        assert.ok(!isMounted());
      } finally {
        other.close();
      }
    });

    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      it(`runs until ${signal}, and leaves nothing behind`, async () => {
        await using daemon = new Program([
          process.execPath,
          path.join(RINGSWITCH, '../../daemon/main.ts'),
          'daemon',
          '--config',
          config,
        ]);
        await daemon.waitFor('ready', START_MS, () => daemon.stderr.includes('"ready: devices in '));
        assert.ok(isMounted());
        const own = { RINGSWITCH_SOCKET: `${place}/control.sock` };
        const { pid, mount, logLevel } = JSON.parse((await ringswitch(['show', 'status', '--json'], own)).stdout);
        assert.deepEqual([pid, mount, logLevel], [daemon.pid, `${place}/dev`, 'info']);
        daemon.signal(signal);
        assert.equal(await daemon.ended, 'exited with status 0', daemon.stderr);
        assert.match(daemon.stderr, new RegExp(`"message":"stopping: ${signal}"`));
        assert.ok(!isMounted());
        assert.ok(!fs.existsSync(`${place}/control.sock`));
      });
    }
  });
});
