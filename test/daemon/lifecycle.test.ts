/** How a daemon starts, ends, and starts again, with clients that do not know. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { stringify } from 'yaml';
import { isMounted, unmountStale } from '../../fuse/mount.ts';
import { DaemonProcess, RINGSWITCH } from '../../lab/daemon.ts';
import { Program, run } from '../../lab/program.ts';
import { ECONNABORTED, ENOTCONN } from '../../linux/errno.ts';
import { O_RDWR } from '../../linux/file.ts';
import { IFF_TAP, ifreq, TUNSETIFF } from '../../linux/if-tun.ts';
import { tryIoctl } from '../../linux/ioctl.ts';
import { POLLERR, POLLIN, PollSet } from '../../linux/poll.ts';
import { RemoteCalls } from '../helpers/remote-calls.ts';
import { broadcastFrame, TunClient } from '../helpers/tun-client.ts';
import { until } from '../helpers/until.ts';
import { VhostGuest } from '../helpers/vhost-guest.ts';

const END_MS = 10_000;
/** What clients of a dead daemon are told: calls in flight the one, later ones the other. */
const DEAD = ['ECONNABORTED', 'ENOTCONN'];

const mountsUnder = (directory: string): string[] =>
  fs
    .readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .filter((line) => line.includes(directory));

/** Frames pass from a new client to another. */
function assertServes(daemon: DaemonProcess): void {
  using a = new TunClient(daemon.tun);
  using b = new TunClient(daemon.tun);
  const frame = broadcastFrame(60, daemon.pid);
  assert.equal(a.write(frame), frame.length);
  assert.deepEqual(b.receive(), frame);
}

describe('a daemon', function () {
  this.timeout(30_000);

  describe('that cannot start says why, exits, and leaves nothing', () => {
    let daemon: DaemonProcess;
    let directory: string;

    before(async () => {
      daemon = await DaemonProcess.start();
      directory = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-fails-')));
    });

    after(async () => {
      fs.rmSync(directory, { recursive: true, force: true });
      await daemon.dispose();
    });

    async function fails(config: object | string, status: number, message: RegExp): Promise<void> {
      const own = { mount: { path: path.join(directory, 'dev') }, control: { socket: path.join(directory, 'socket') } };
      const file = path.join(directory, 'config.yaml');
      fs.writeFileSync(file, typeof config === 'string' ? config : stringify({ ...own, ...config }));
      await using program = new Program([RINGSWITCH, 'daemon', '--config', file]);
      await program.waitFor('its end', END_MS, () => program.end);
      assert.equal(program.end, `exited with status ${status}`, program.stderr);
      assert.match(program.stderr, message);
      assert.deepEqual(mountsUnder(directory), []);
      assert.ok(!fs.existsSync(own.control.socket));
    }

    it('for a mount that another one serves, which goes on', async () => {
      const mount = { path: daemon.mount };
      await fails(
        { mount },
        1,
        new RegExp(
          `^ringswitch: another ringswitch daemon \\(process ${daemon.pid}\\) serves ${daemon.mount}; stop it`,
        ),
      );
      assertServes(daemon);
    });

    it('for a control socket that another one listens on, which goes on', async () => {
      const control = { socket: daemon.socket };
      await fails({ control }, 1, /^ringswitch: another daemon listens on \S+control\.sock; stop it/);
      assert.equal((await daemon.status()).pid, daemon.pid);
      assertServes(daemon);
    });

    it('for a mount below something that is no directory', async () => {
      const file = path.join(directory, 'file');
      fs.writeFileSync(file, '');
      await fails({ mount: { path: `${file}/dev` } }, 1, /cannot make the directory \S+file for mount\.path: EEXIST/);
    });

    it('for directories that cannot be made', async () => {
      await fails({ mount: { path: '/proc/nothing/dev' } }, 1, /\/proc\/nothing for mount\.path: ENOENT/);
      await fails({ control: { socket: '/proc/nothing/socket' } }, 1, /\/proc\/nothing for control\.socket: ENOENT/);
    });

    it('for a file where its socket should be', async () => {
      const socket = path.join(directory, 'no-socket');
      fs.writeFileSync(socket, 'kept');
      await fails({ control: { socket } }, 1, /no-socket exists and is no socket/);
      assert.equal(fs.readFileSync(socket, 'utf8'), 'kept');
    });

    it('for a tap that cannot be', async () => {
      await fails({ taps: [{ name: 'lo' }] }, 1, /^ringswitch: tap lo: TUNSETIFF lo/);
    });

    it('for a configuration that is wrong, with file, line and column', async () => {
      await fails('mount:\n  path: /tmp/x\n  colour: red\n', 2, /config\.yaml:3:3: mount\.colour: unknown key/);
    });
  });

  it('that is told to end while it starts leaves nothing', async () => {
    const directory = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-early-')));
    const file = path.join(directory, 'config.yaml');
    const mount = path.join(directory, 'dev');
    fs.writeFileSync(file, stringify({ mount: { path: mount }, control: { socket: path.join(directory, 'socket') } }));
    try {
      for (const afterMs of [200, 350]) {
        await using program = new Program([RINGSWITCH, 'daemon', '--config', file]);
        await delay(afterMs);
        program.signal('SIGTERM');
        await program.waitFor('its end', END_MS, () => program.end);
        // Before it listens for signals, SIGTERM does what it always does.
        assert.match(program.end!, /^(exited with status 0|was ended by SIGTERM)$/, program.stderr);
        assert.deepEqual(mountsUnder(directory), [], `after ${afterMs} ms`);
        assert.ok(!fs.existsSync(path.join(directory, 'socket')));
      }
    } finally {
      unmountStale(mount);
      fs.rmSync(directory, { recursive: true, force: true });
    }
  });

  it('serves a mount with spaces in its path, also through exec', async () => {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch with spaces '));
    await using daemon = await DaemonProcess.start({ directory });
    assertServes(daemon);
    await using remote = await RemoteCalls.start(daemon.exec);
    assert.equal(await remote.attach(await remote.open('/dev/net/tun'), 'spaced'), 'spaced');
    await remote.open('/dev/vhost-net');
    await daemon.stop();
    assert.deepEqual(mountsUnder('with\\040spaces'), []);
  });

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    it(`ends on ${signal} with status 0 while clients hold files open and rings run`, async () => {
      await using daemon = await DaemonProcess.start();
      using guest = new VhostGuest({ tun: daemon.tun, vhostNet: daemon.vhostNet, name: 'guest' });
      using file = new TunClient(daemon.tun, { name: 'file' });
      await using remote = await RemoteCalls.start();
      const fd = await remote.open(daemon.tun, O_RDWR);
      await remote.attach(fd, 'reader');
      const reading = remote.call('read', fd, 2000);
      const frame = broadcastFrame(60);
      guest.send(frame);
      assert.deepEqual(file.receive(), frame);
      assert.deepEqual((await reading).bytes, frame);
      const waiting = remote.call('read', fd, 2000);
      await delay(50);
      const stopped = daemon.stop(signal);
      stopped.catch(() => {}); // Awaited below.
      assert.ok(DEAD.includes(String((await waiting).result)));
      const answer = file.write(frame);
      assert.ok(DEAD.includes(String(answer)), String(answer));
      await stopped;
      assert.deepEqual(mountsUnder(daemon.directory), []);
      assert.ok(!fs.existsSync(daemon.socket));
      assert.match(daemon.log, new RegExp(`stopping: ${signal}`));
      assert.doesNotMatch(daemon.log, / error /);
    });
  }

  describe('that was killed', () => {
    it('starts again on its mount, and serves new clients, while old ones get errors and do not hang', async () => {
      await using daemon = await DaemonProcess.start();
      using guest = new VhostGuest({ tun: daemon.tun, vhostNet: daemon.vhostNet, name: 'old' });
      using file = new TunClient(daemon.tun, { name: 'file' });
      await using remote = await RemoteCalls.start();
      const fd = await remote.open(daemon.tun, O_RDWR);
      await remote.attach(fd, 'reader');
      const reading = remote.call('read', fd, 2000);
      await delay(50);

      await daemon.kill();
      assert.ok(isMounted(daemon.mount), 'nobody could unmount');
      assert.ok(DEAD.includes(String((await reading).result)));
      const dead = (): void => {
        assert.ok(DEAD.includes(String(file.write(broadcastFrame(60)))));
        assert.ok(DEAD.includes(String(file.read())));
        assert.ok([-ECONNABORTED, -ENOTCONN].includes(tryIoctl(file.fd, TUNSETIFF, ifreq('x', IFF_TAP))));
        assert.throws(() => guest.client.setBackend(0, -1), /ENOTCONN|ECONNABORTED/);
        const poll = new PollSet();
        poll.add(file.fd, POLLIN);
        assert.equal(poll.wait(1000), 1);
        assert.ok(poll.revents(0) & POLLERR);
      };
      dead();
      assert.throws(() => fs.statSync(daemon.tun), { code: 'ENOTCONN' });

      await daemon.restart();
      assert.equal(mountsUnder(daemon.directory).length, 1);
      assert.deepEqual(await daemon.ports(), []);
      dead(); // They belong to the old connection for ever.
      assertServes(daemon);
      // The old clients may come back by opening the devices again, under their old names.
      using again = new VhostGuest({ tun: daemon.tun, vhostNet: daemon.vhostNet, name: 'old' });
      using other = new TunClient(daemon.tun);
      const frame = broadcastFrame(100);
      again.send(frame);
      assert.deepEqual(other.receive(), frame);
      other.write(frame);
      assert.deepEqual(again.receive(), frame);
      await daemon.stop();
      assert.deepEqual(mountsUnder(daemon.directory), []);
    });

    it('again and again', async () => {
      await using daemon = await DaemonProcess.start();
      for (let times = 0; times < 2; times++) {
        using _file = new TunClient(daemon.tun);
        await daemon.kill();
        await daemon.restart();
      }
      assertServes(daemon);
      assert.equal(mountsUnder(daemon.directory).length, 1);
    });
  });

  it('whose mount is taken away from outside ends with status 1, and says so', async () => {
    for (const [command, hold] of [
      [['umount'], false],
      [['umount', '-f', '-l'], true],
    ] as const) {
      await using daemon = await DaemonProcess.start();
      const file = hold ? new TunClient(daemon.tun) : undefined;
      try {
        await run([...command, daemon.mount]);
        await until('the end of the daemon', () => !daemon.running);
        await assert.rejects(daemon.stop(), /exited with status 1/);
        assert.match(daemon.log, /error the mount on \S+ was taken away/);
        assert.match(daemon.log, /stopping: it cannot go on/);
        assert.ok(!fs.existsSync(daemon.socket));
      } finally {
        file?.close();
      }
    }
  });
});
