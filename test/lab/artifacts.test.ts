import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { guestImage, projectRoot } from '../../lab/artifacts.ts';

describe('the guest image', () => {
  it('is told from a missing one by its files', () => {
    const cache = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-test-'));
    try {
      assert.throws(() => guestImage(cache), /no .*vmlinux: run scripts\/setup first/);
      fs.mkdirSync(path.join(cache, 'guest'));
      fs.writeFileSync(path.join(cache, 'guest', 'vmlinux'), '');
      assert.throws(() => guestImage(cache), /no .*initramfs: run scripts\/setup first/);
      fs.writeFileSync(path.join(cache, 'guest', 'initramfs'), '');
      assert.equal(guestImage(cache).kernel, path.join(cache, 'guest', 'vmlinux'));
    } finally {
      fs.rmSync(cache, { recursive: true });
    }
  });

  it('belongs to this project', () => {
    assert.ok(fs.existsSync(path.join(projectRoot, 'package.json')));
  });
});
