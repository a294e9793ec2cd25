import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

describe('bin/ringswitch', () => {
  let root: string;

  beforeEach(() => {
    root = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch test-'));
    fs.mkdirSync(path.join(root, 'bin'));
    fs.copyFileSync(path.join(import.meta.dirname, '../../bin/ringswitch'), path.join(root, 'bin/ringswitch'));
  });

  afterEach(() => fs.rmSync(root, { recursive: true }));

  it("runs the daemon with the project's own Node, through symbolic links, from anywhere", () => {
    fs.mkdirSync(path.join(root, 'node_modules/.bin'), { recursive: true });
    fs.writeFileSync(path.join(root, 'node_modules/.bin/node'), '#!/bin/sh\nprintf "[%s]" "$0" "$@"\n', {
      mode: 0o755,
    });
    fs.symlinkSync('bin/ringswitch', path.join(root, 'first'));
    fs.symlinkSync(path.join(root, 'first'), path.join(root, 'second'));
    const { stdout, status } = spawnSync(path.join(root, 'second'), ['show', 'a b', ''], {
      cwd: '/',
      encoding: 'utf8',
    });
    assert.equal(
      stdout,
      `[${root}/node_modules/.bin/node][--no-liftoff][--no-wasm-dynamic-tiering][--wasm-inlining-factor=30]` +
        `[${root}/daemon/main.ts][show][a b][]`,
    );
    assert.equal(status, 0);
  });

  it('says what to do when node_modules is missing', () => {
    const { stderr, status } = spawnSync(path.join(root, 'bin/ringswitch'), { encoding: 'utf8' });
    assert.match(stderr, /^ringswitch: there is no .*node_modules\/\.bin\/node: run .*scripts\/setup first\.\n$/);
    assert.equal(status, 1);
  });
});
