/** The mounted tree as file tools see it. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { DaemonProcess } from '../../lab/daemon.ts';
import { Program, run } from '../../lab/program.ts';
import { ENOTTY } from '../../linux/errno.ts';
import { close, O_RDONLY, O_RDWR, open } from '../../linux/file.ts';
import { IFF_TAP, ifreq, TUNGETFEATURES, TUNSETIFF } from '../../linux/if-tun.ts';
import { tryIoctl } from '../../linux/ioctl.ts';
import { descriptorsOf } from '../helpers/descriptors.ts';
import { untilPorts } from '../helpers/until.ts';

const NOBODY = 65_534;
const FILES = 500;

const MISC_MAJOR = 10;
const TUN_MINOR = 200;
const VHOST_NET_MINOR = 238;

describe('the device tree', () => {
  let daemon: DaemonProcess;

  before(async () => {
    daemon = await DaemonProcess.start({ config: { mount: { uid: NOBODY, gid: 4711, mode: '0640' } } });
  });

  after(async () => {
    try {
      await daemon?.stop();
    } finally {
      await daemon?.dispose();
    }
  });

  const at = (name: string): string => path.join(daemon.mount, name);
  const refused = (code: string, act: () => unknown): void => {
    assert.throws(act, (error: NodeJS.ErrnoException) => {
      assert.equal(error.code, code, error.message);
      return true;
    });
  };

  it('lists a directory with the tun clone, and the vhost-net clone', () => {
    assert.deepEqual(fs.readdirSync(daemon.mount).sort(), ['net', 'vhost-net']);
    assert.deepEqual(fs.readdirSync(at('net')), ['tun']);
  });

  for (const [name, minor] of [
    ['net/tun', TUN_MINOR],
    ['vhost-net', VHOST_NET_MINOR],
  ] as const) {
    it(`shows ${name} as the character device ${MISC_MAJOR}:${minor}, owned as configured`, () => {
      for (const look of [fs.statSync, fs.lstatSync]) {
        const { mode, uid, gid, rdev, nlink } = look(at(name));
        assert.equal(mode, 0o020640);
        assert.deepEqual([uid, gid, nlink], [NOBODY, 4711, 1]);
        assert.equal(rdev, (MISC_MAJOR << 8) | minor);
      }
    });

    it(`serves ${name} as a regular file once it is open`, () => {
      const fd = fs.openSync(at(name), 'r+');
      try {
        assert.ok(fs.fstatSync(fd).isFile());
        assert.equal(fs.fstatSync(fd).mode & 0o777, 0o640);
      } finally {
        fs.closeSync(fd);
      }
    });
  }

  it('shows the same to programs that use other calls of the stat family', async () => {
    assert.match(
      await run(['stat', '-c', '%F %t:%T', daemon.tun, daemon.vhostNet]),
      /^(character special file a:\w+\n){2}$/,
    );
    assert.match(await run(['busybox', 'stat', '-c', '%F', daemon.vhostNet]), /^character special file$/m);
    await run(['test', '-c', daemon.vhostNet]);
  });

  it('opens a device in every access mode, and with O_TRUNC and O_CREAT', () => {
    for (const flags of ['r', 'r+', 'w', 'a+'] as const) {
      const fd = fs.openSync(daemon.tun, flags);
      assert.equal(tryIoctl(fd, TUNGETFEATURES, Buffer.alloc(4)), 0, flags);
      fs.closeSync(fd);
    }
  });

  it('does not seek', () => {
    const fd = fs.openSync(daemon.vhostNet, 'r+');
    try {
      refused('ESPIPE', () => fs.readSync(fd, Buffer.alloc(1), 0, 1, 1));
    } finally {
      fs.closeSync(fd);
    }
  });

  it('lets in whom owner and mode let in, and nobody else', async () => {
    fs.chmodSync(daemon.directory, 0o755); // Only for them to get as far as the mount.
    const as = async (id: number, words: string[]): Promise<Program> => {
      const program = new Program(['setpriv', `--reuid=${id}`, `--regid=${id}`, '--clear-groups', ...words]);
      await program.ended;
      return program;
    };
    // Opened, it says that TUNSETIFF comes first.
    assert.match((await as(NOBODY, ['cat', daemon.tun])).stderr, /descriptor in bad state/);
    assert.match((await as(1234, ['cat', daemon.tun])).stderr, /Permission denied/);
    assert.match((await as(1234, ['cat', daemon.vhostNet])).stderr, /Permission denied/);
  });

  it('has nothing else: ENOENT', () => {
    for (const name of ['tun', 'vhost', 'net/tun0', 'net/tu', 'vhost-net2', '-', 'é'.repeat(100)]) {
      refused('ENOENT', () => fs.statSync(at(name)));
      refused('ENOENT', () => fs.openSync(at(name), 'r+'));
    }
    refused('ENOTDIR', () => fs.statSync(at('vhost-net/tun')));
  });

  it('cannot be changed', () => {
    const changes: Record<string, () => void> = {
      unlink: () => fs.unlinkSync(daemon.tun),
      create: () => fs.writeFileSync(at('new'), ''),
      mkdir: () => fs.mkdirSync(at('new')),
      rmdir: () => fs.rmdirSync(at('net')),
      symlink: () => fs.symlinkSync('vhost-net', at('new')),
      link: () => fs.linkSync(daemon.vhostNet, at('new')),
      rename: () => fs.renameSync(daemon.tun, at('new')),
      'rename a directory': () => fs.renameSync(at('net'), at('new')),
      chmod: () => fs.chmodSync(daemon.tun, 0o777),
      chown: () => fs.chownSync(daemon.vhostNet, 0, 0),
      utimes: () => fs.utimesSync(daemon.tun, 0, 0),
      truncate: () => fs.truncateSync(daemon.tun),
    };
    for (const [name, change] of Object.entries(changes)) {
      assert.throws(change, { code: 'EPERM' }, name);
    }
    assert.deepEqual(fs.readdirSync(daemon.mount).sort(), ['net', 'vhost-net']);
    assert.equal(fs.statSync(daemon.tun).mode, 0o020640);
  });

  it('refuses reading, writing and ioctls of directories', () => {
    refused('EISDIR', () => fs.readFileSync(at('net')));
    refused('EISDIR', () => fs.openSync(at('net'), 'r+'));
    const fd = open(at('net'), O_RDONLY);
    try {
      assert.equal(tryIoctl(fd, TUNGETFEATURES, Buffer.alloc(4)), -ENOTTY);
    } finally {
      close(fd);
    }
  });

  it('keeps no trace of files that are closed', async () => {
    const settled = async (): Promise<string[]> => {
      await untilPorts(daemon);
      return descriptorsOf(daemon.pid);
    };
    const before = await settled();
    for (const device of [daemon.tun, daemon.vhostNet]) {
      const files = Array.from({ length: FILES }, () => open(device, O_RDWR));
      for (const fd of files) close(fd);
    }
    assert.deepEqual(await settled(), before);
    const attached = Array.from({ length: 100 }, () => open(daemon.tun, O_RDWR));
    for (const fd of attached) assert.equal(tryIoctl(fd, TUNSETIFF, ifreq('tree%d', IFF_TAP)), 0);
    assert.equal((await daemon.ports()).length, attached.length);
    for (const fd of attached) close(fd);
    assert.deepEqual(await settled(), before);
  });
});
