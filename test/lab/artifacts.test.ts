import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fetchedQemu, guestImage, projectRoot } from '../../lab/artifacts.ts';
import { run } from '../../lab/program.ts';

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

describe('the fetched QEMU', () => {
  it('is told from a missing one by the program that starts it', () => {
    const cache = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-test-'));
    try {
      assert.throws(() => fetchedQemu(cache), /no .*qemu\/run: run scripts\/setup first/);
      fs.mkdirSync(path.join(cache, 'qemu'));
      fs.writeFileSync(path.join(cache, 'qemu', 'run'), '');
      assert.equal(fetchedQemu(cache), path.join(cache, 'qemu', 'run'));
    } finally {
      fs.rmSync(cache, { recursive: true });
    }
  });

  it('takes cards that another process serves', async () => {
    const qemu = fetchedQemu();
    assert.match(await run([qemu, '-device', 'vfio-user-pci,help']), /^ *socket=<SocketAddress>/m);
    const major = Number(/version (\d+)\./.exec(await run([qemu, '--version']))?.[1]);
    assert.ok(major >= 11, `QEMU ${major}`);
  });
});
