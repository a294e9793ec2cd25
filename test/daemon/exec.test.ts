/** `ringswitch exec`: what the command sees, and that it is otherwise the command that it always was. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { isMounted } from '../../fuse/mount.ts';
import { DaemonProcess, RINGSWITCH } from '../../lab/daemon.ts';
import { NetworkNamespace } from '../../lab/namespace.ts';
import { Program, run } from '../../lab/program.ts';
import { IFF_TAP, TUN_F_CSUM, TUN_F_TSO4, TUNGETFEATURES, TUNSETOFFLOAD, TUNSETPERSIST } from '../../linux/if-tun.ts';
import { withDaemon } from '../helpers/daemon-fixture.ts';
import { RemoteCalls } from '../helpers/remote-calls.ts';
import { until } from '../helpers/until.ts';

const END_MS = 10_000;
const DEAD = ['ECONNABORTED', 'ENOTCONN'];
const UNKNOWN_OFFLOAD = 0x8000;

describe('ringswitch exec', function () {
  this.timeout(20_000);
  let daemon: DaemonProcess;

  withDaemon((started) => {
    daemon = started;
  });

  const exec = (...command: string[]): Promise<string> => run([...daemon.exec, ...command]);
  async function ended(words: string[]): Promise<Program> {
    const program = new Program(words);
    try {
      await program.waitFor('its end', END_MS, () => program.end);
    } finally {
      await program.stop();
    }
    return program;
  }
  const staged = (): string[] => fs.readdirSync(os.tmpdir()).filter((name) => name.startsWith('ringswitch-exec-'));

  describe('the command', () => {
    it('sees the clones', async () => {
      assert.match(await exec('stat', '-c', '%n %i', '/dev/net/tun'), /^\/dev\/net\/tun \d+\n$/);
      assert.equal(await exec('stat', '-L', '-c', '%F %t:%T', '/dev/vhost-net'), 'character special file a:ee\n');
      assert.equal(await exec('readlink', '/dev/vhost-net'), `${daemon.vhostNet}\n`);
    });

    it('sees all else of /dev as it is, and can use it', async () => {
      // Standard input and output are links to what this very process has.
      const look =
        'cd /dev; for f in *; do case $f in net|vhost-net|std*|fd) ;; *) stat -L -c "%n %F %t:%T %a %u:%g" $f; esac; done';
      assert.equal(await exec('sh', '-c', look), await run(['sh', '-c', look]));
      assert.equal(await exec('sh', '-c', 'echo gone >/dev/null; head -c 4 /dev/zero | wc -c; ls /dev/shm >&2'), '4\n');
      assert.match(await exec('sh', '-c', 'echo x >/dev/stdout | cat'), /^x$/m);
    });

    it('is the only one to see them, with its children', async () => {
      // But for other daemons' mounts, which come and go as they like.
      const isOthers = (line: string) => line.startsWith('ringswitch ') && !line.includes(daemon.mount);
      const mounts = () =>
        fs
          .readFileSync('/proc/self/mounts', 'utf8')
          .split('\n')
          .filter((line) => !isOthers(line));
      const before = [fs.existsSync('/dev/vhost-net'), mounts()];
      await using remote = await RemoteCalls.start(daemon.exec);
      await remote.open('/dev/vhost-net');
      assert.deepEqual([fs.existsSync('/dev/vhost-net'), mounts()], before);
      assert.ok(!isMounted('/dev/net/tun'));
      assert.deepEqual(staged(), []);
    });

    it('gets its arguments as they are', async () => {
      const words = ['a b', '', '--config', '-x', '--socket=/nowhere', '--', '$HOME', "'", 'é\n'];
      assert.equal(await exec('printf', '%s|', ...words), words.map((word) => `${word}|`).join(''));
    });

    it('gets environment, directory and standard input', async () => {
      const command = [...daemon.exec, 'sh', '-c', 'pwd; echo "$RINGSWITCH_TEST"; cat'];
      await using program = new Program(command, {
        cwd: '/usr',
        env: { RINGSWITCH_TEST: 'two words' },
        interactive: true,
      });
      program.stdin.end('input');
      await program.ended;
      assert.equal(program.stdout, '/usr\ntwo words\ninput');
    });

    it('leaves no descriptor of ours open in it', async () => {
      const list = ['ls', '/proc/self/fd'];
      assert.equal(await exec(...list), await run(list));
    });

    it('keeps its process id, and ends as it ends', async () => {
      const seven = await ended([...daemon.exec, 'sh', '-c', 'echo $$; exit 7']);
      assert.equal(seven.end, 'exited with status 7');
      assert.equal(seven.stdout, `${seven.pid}\n`);
      assert.equal((await ended([...daemon.exec, 'sh', '-c', 'kill -KILL $$'])).end, 'was ended by SIGKILL');
    });

    it('gets signals', async () => {
      await using program = new Program([
        ...daemon.exec,
        'sh',
        '-c',
        'trap "echo told; exit 3" TERM; echo up; while :; do sleep 0.05; done',
      ]);
      await program.waitFor('its start', END_MS, () => program.stdout.includes('up'));
      program.signal('SIGTERM');
      await program.ended;
      assert.equal(program.end, 'exited with status 3');
      assert.equal(program.stdout, 'up\ntold\n');
    });
  });

  describe('ioctls whose value stands in the argument', () => {
    it('reach the switch from the command and from its children', async () => {
      const launchers = [daemon.exec, [...daemon.exec, 'sh', '-c', '"$@"; exit', 'sh']];
      for (const [number, launcher] of launchers.entries()) {
        await using remote = await RemoteCalls.start(launcher);
        const name = `value${number}`;
        const fd = await remote.open('/dev/net/tun');
        assert.equal((await remote.ioctl(fd, TUNSETOFFLOAD, 0)).result, 'EBADFD');
        await remote.attach(fd, name);
        assert.equal((await remote.ioctl(fd, TUNSETOFFLOAD, UNKNOWN_OFFLOAD)).result, 'EINVAL');
        assert.equal((await remote.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)).result, 0);
        assert.equal((await remote.ioctl(fd, TUNSETPERSIST, 1)).result, 0);
        assert.ok((await daemon.port(name)).persistent);
        assert.equal((await remote.ioctl(fd, TUNSETPERSIST, 0)).result, 0);
        // A descriptor that is no tun file, and none at all, are the kernel's to answer.
        assert.equal((await remote.ioctl(0, TUNSETPERSIST, 0)).result, 'ENOTTY');
        assert.equal((await remote.ioctl(4711, TUNSETPERSIST, 0)).result, 'EBADF');
        assert.equal((await remote.ioctl(await remote.open('/dev/vhost-net'), TUNSETPERSIST, 0)).result, 'EFAULT');
      }
    });

    it('reach it from a program in C that knows nothing of us: ip tuntap', async () => {
      await exec('ip', 'tuntap', 'add', 'dev', 'made0', 'mode', 'tap');
      const { kind, persistent } = await daemon.port('made0');
      assert.deepEqual({ kind, persistent }, { kind: 'guest', persistent: true });
      // Its file is closed some time after the command has ended.
      await until('no queue', async () => (await daemon.port('made0')).queues === 0);
      await exec('ip', 'tuntap', 'del', 'dev', 'made0', 'mode', 'tap');
      await until('no port', async () => (await daemon.ports()).every(({ name }) => name !== 'made0'));
      await assert.rejects(daemon.port('made0'), /no port made0/);
    });

    it('reach the kernel for its own tun files, which the command has by another path', async () => {
      const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-node-'));
      const host = await NetworkNamespace.create('exec');
      try {
        for (const name of ['tun', 'another']) {
          const node = path.join(directory, name);
          await run(['mknod', node, 'c', '10', '200']);
          await using remote = await RemoteCalls.start(['nsenter', `--net=${host.path}`, ...daemon.exec]);
          const fd = await remote.open(node);
          assert.equal(await remote.attach(fd, 'real0', IFF_TAP), 'real0');
          assert.match(await host.exec(['ip', 'link', 'show', 'real0']), /real0/);
          assert.equal((await remote.ioctl(fd, TUNSETOFFLOAD, UNKNOWN_OFFLOAD)).result, 'EINVAL');
          assert.equal((await remote.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM)).result, 0);
          assert.equal((await remote.ioctl(fd, TUNSETPERSIST, 1)).result, 0);
          await remote.call('close', fd);
          assert.match(await host.exec(['ip', 'link', 'show', 'real0']), /real0/);
          await host.exec(['ip', 'link', 'del', 'real0']);
          assert.ok((await daemon.ports()).every(({ name }) => name !== 'real0'));
        }
      } finally {
        await host.dispose();
        fs.rmSync(directory, { recursive: true, force: true });
      }
    });
  });

  it('refuses a command that is not there, or is no program', async () => {
    const file = path.join(daemon.directory, 'data');
    fs.writeFileSync(file, 'x', { mode: 0o644 });
    for (const [command, message] of [
      ['no-such-program', 'no-such-program: no such program in PATH'],
      ['/no/such/program', '/no/such/program: no such program in that place'],
      [file, `${file}: no such program in that place`],
      ['/usr', '/usr: no such program in that place'],
    ] as const) {
      const { end, stderr } = await ended([...daemon.exec, command]);
      assert.equal(end, 'exited with status 127');
      assert.equal(stderr, `ringswitch: ${message}\n`);
    }
    assert.deepEqual(staged(), []);
  });

  it('does not run under itself', async () => {
    const { end, stderr } = await ended([...daemon.exec, ...daemon.exec, 'true']);
    assert.equal(end, 'exited with status 1');
    assert.match(stderr, /^ringswitch: a supervisor watches the system calls here already/);
  });

  it('needs a daemon', async () => {
    const socket = path.join(daemon.directory, 'nobody.sock');
    const { end, stderr } = await ended([RINGSWITCH, 'exec', '--socket', socket, '--', 'true']);
    assert.equal(end, 'exited with status 1');
    assert.match(stderr, new RegExp(`^ringswitch: no daemon answers at the control socket ${socket}: start one`));
  });

  it('lets the command live on when the daemon dies; its calls fail, and none hangs', async () => {
    await using mortal = await DaemonProcess.start();
    await using remote = await RemoteCalls.start(mortal.exec);
    const fd = await remote.open('/dev/net/tun');
    await remote.attach(fd, 'orphan');
    assert.equal((await remote.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM)).result, 0);
    await mortal.kill();
    assert.ok(DEAD.includes(String((await remote.ioctl(fd, TUNGETFEATURES, Buffer.alloc(4))).result)));
    assert.equal((await remote.ioctl(fd, TUNSETOFFLOAD, 0)).result, 'ENOSYS', 'seccomp: the listener is gone');
    await assert.rejects(remote.open('/dev/net/tun'), /ENOTCONN|ECONNABORTED/);
    await remote.open('/dev/null');
    remote.program.stdin.end();
    await remote.program.waitFor('its end', END_MS, () => remote.program.end);
    assert.equal(remote.program.end, 'exited with status 0');
  });
});
