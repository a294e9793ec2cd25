import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { close, O_RDONLY, open } from '../../linux/file.ts';
import { CLONE_NEWNET, mount, setns, umount, unshare } from '../../linux/mount.ts';
import { failsWith } from '../helpers/system-error.ts';
import type { MountReport } from './mount-child.ts';

const CHILD = fileURLToPath(new URL('./mount-child.ts', import.meta.url));

describe('mounts and namespaces', () => {
  let folder: string;
  before(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-mount-'));
  });
  after(() => fs.rmdirSync(folder));

  it('come and go in a namespace of their own', () => {
    const report = JSON.parse(execFileSync(process.execPath, [CHILD, folder], { encoding: 'utf8' })) as MountReport;
    assert.match(report.tmpfs, /nosuid,nodev.*size=64k/);
    assert.equal(report.bound, 'content');
    assert.equal(report.gone, true);
    const { first, unshared, back } = report.namespaces;
    assert.notEqual(first, unshared);
    assert.equal(first, back);
    assert.equal(first, fs.readlinkSync('/proc/self/ns/net'));
    assert.deepEqual(fs.readdirSync(folder), [], 'nothing of it is seen here');
  });

  it('name call, arguments and reason when they fail', () => {
    const none = path.join(folder, 'none');
    const quoted = JSON.stringify(none);
    failsWith('ENOENT', 'mount', `source="tmpfs", target=${quoted}, type="tmpfs", flags=0, data=null`, () =>
      mount('tmpfs', none, 'tmpfs', 0, null),
    );
    failsWith('ENOENT', 'umount2', `target=${quoted}, flags=0`, () => umount(none, 0));
    failsWith('EINVAL', 'umount2', `target=${JSON.stringify(folder)}, flags=0`, () => umount(folder, 0));
    failsWith('EINVAL', 'unshare', 'flags=1', () => unshare(1));
    const fd = open('/dev/null', O_RDONLY);
    failsWith('EINVAL', 'setns', `fd=${fd}, type=0x${CLONE_NEWNET.toString(16)}`, () => setns(fd, CLONE_NEWNET));
    close(fd);
  });
});
