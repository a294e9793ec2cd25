import assert from 'node:assert/strict';
import fs from 'node:fs';
import { NetworkNamespace } from '../../lab/namespace.ts';
import { run } from '../../lab/program.ts';

describe('a network namespace', () => {
  it('holds moved interfaces, addresses and processes, and leaves nothing', async () => {
    const ends = ['rsa', 'rsb'].map((name) => `${name}${process.pid}`) as [string, string];
    const a = await NetworkNamespace.create('test');
    const b = await NetworkNamespace.create('test');
    try {
      assert.notEqual(a.name, b.name);
      await run(['ip', 'link', 'add', ends[0], 'type', 'veth', 'peer', 'name', ends[1]]);
      await a.moveIn(ends[0]);
      await b.moveIn(ends[1]);
      await a.address(ends[0], '10.99.0.1/24');
      await b.address(ends[1], '10.99.0.2/24');
      assert.match(await a.exec(['ping', '-c', '1', '-W', '2', '10.99.0.2']), / 0% packet loss/);
      const program = b.spawn(['sleep', '60']);
      // `ip netns exec` becomes the program: its pid is the one to signal.
      while (fs.readFileSync(`/proc/${program.pid}/comm`, 'utf8') !== 'sleep\n') await new Promise(setImmediate);
      assert.deepEqual(await b.pids(), [program.pid]);
      await b.dispose();
      assert.equal(await program.ended, 'was ended by SIGKILL');
    } finally {
      await a.dispose();
      await b.dispose();
    }
    await b.dispose();
    assert.ok(!fs.existsSync(a.path) && !fs.existsSync(b.path));
  });

  it('passes on what ip complains of', async () => {
    await using namespace = await NetworkNamespace.create('test');
    await assert.rejects(namespace.moveIn('nosuchif0'), /nosuchif0/);
    await assert.rejects(namespace.address('lo', '10.0.0.1/99'), /10\.0\.0\.1\/99/);
    await assert.rejects(namespace.exec(['false']), /exited with status 1/);
  });
});
