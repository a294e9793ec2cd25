/** Mounting and unmounting alone: nobody serves these mounts, so nothing here may look into them. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { makeDirectory } from '../../fuse/make-directory.ts';
import { isMounted, mountFuse, unmount, unmountStale } from '../../fuse/mount.ts';
import { close } from '../../linux/file.ts';

describe('the mount', () => {
  let directory: string;
  let mounted: { fd: number; target: string }[] = [];

  beforeEach(() => {
    directory = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch mount-')));
  });

  afterEach(() => {
    for (const { fd, target } of mounted) {
      unmountStale(target);
      close(fd);
    }
    mounted = [];
    fs.rmSync(directory, { recursive: true, force: true });
  });

  function mountAt(target: string): void {
    mounted.push({ fd: mountFuse({ path: target }), target });
  }
  const lines = (): string[] =>
    fs
      .readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .filter((line) => line.includes(path.basename(directory).replace(' ', '\\040')));

  it('is made with its directories, shown under its type, and found', () => {
    const target = path.join(directory, 'a/b/c');
    mountAt(target);
    assert.equal(lines().length, 1);
    assert.match(
      lines()[0]!,
      /^ringswitch \S+\/a\/b\/c fuse\.ringswitch rw,nosuid,nodev,.*default_permissions,allow_other /,
    );
    assert.ok(isMounted(target));
    assert.ok(!isMounted(path.dirname(target)));
  });

  it('is found by a path with white space and backslashes', () => {
    const target = path.join(directory, 'two  spaces\ttab\nline\\040 é');
    mountAt(target);
    assert.ok(isMounted(target));
    unmount(target);
    assert.ok(!isMounted(target));
  });

  it('is found by a relative path and by one through a symbolic link', () => {
    const target = path.join(directory, 'real/dev');
    mountAt(target);
    fs.symlinkSync('real', path.join(directory, 'link'));
    assert.ok(isMounted(path.join(directory, 'link/dev')));
    assert.ok(isMounted(path.relative(process.cwd(), target)));
    unmountStale(path.join(directory, 'link/dev'));
    assert.equal(lines().length, 0);
  });

  it('replaces one that was left behind', () => {
    const target = path.join(directory, 'dev');
    mountAt(target);
    mountAt(target);
    assert.equal(lines().length, 1);
  });

  it('is taken away however often it is there; without one, nothing happens', () => {
    unmountStale(path.join(directory, 'nothing'));
    unmountStale(directory);
    const target = path.join(directory, 'dev');
    mountAt(target);
    unmountStale(target);
    unmountStale(target);
    assert.equal(lines().length, 0);
    assert.deepEqual(fs.readdirSync(target), []);
  });

  it('of somebody else is not ours', () => {
    assert.ok(!isMounted('/proc'));
    assert.ok(!isMounted('/'));
  });

  it('needs a directory', () => {
    const file = path.join(directory, 'file');
    fs.writeFileSync(file, '');
    for (const target of [file, path.join(file, 'dev')]) {
      assert.throws(() => mountFuse({ path: target }), {
        message: `cannot make the directory ${file} for mount.path: EEXIST; set it to another path`,
      });
    }
    assert.throws(() => mountFuse({ path: '/proc/ringswitch/dev' }), {
      message: 'cannot make the directory /proc/ringswitch for mount.path: ENOENT; set it to another path',
    });
  });
});

describe('makeDirectory', () => {
  it('makes what is missing, and leaves what is there', () => {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-mkdir-'));
    try {
      const target = path.join(directory, 'x/y/z');
      makeDirectory(target, 'a test');
      fs.writeFileSync(path.join(target, 'kept'), '');
      makeDirectory(target, 'a test');
      assert.deepEqual(fs.readdirSync(target), ['kept']);
      fs.symlinkSync('y', path.join(directory, 'x/link'));
      makeDirectory(path.join(directory, 'x/link/more'), 'a test');
      assert.ok(fs.existsSync(path.join(directory, 'x/y/more')));
    } finally {
      fs.rmSync(directory, { recursive: true });
    }
  });
});
