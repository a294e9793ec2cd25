import assert from 'node:assert/strict';
import fs from 'node:fs';
import { Program, run } from '../../lab/program.ts';

describe('a program that a test starts', () => {
  it('is listened to', async () => {
    await using program = new Program(['sh', '-c', 'read word; echo "got $word"; echo oops >&2; exit 3'], {
      interactive: true,
    });
    program.stdin.write('it\n');
    assert.equal(await program.waitFor('"got"', 5000, () => /got (.*)\n/.exec(program.stdout)?.[1]), 'it');
    assert.equal(await program.ended, 'exited with status 3');
    assert.equal(program.stderr, 'oops\n');
  });

  it('gets descriptors and variables', async () => {
    const fd = fs.openSync('/dev/null', 'r');
    try {
      const output = await run(['sh', '-c', 'readlink /proc/self/fd/3; echo $RINGSWITCH_TEST'], {
        stdio: [fd],
        env: { RINGSWITCH_TEST: 'x y' },
      });
      assert.equal(output, '/dev/null\nx y\n');
    } finally {
      fs.closeSync(fd);
    }
  });

  it('is killed when it does not end', async () => {
    const program = new Program(['sleep', '60']);
    await program.stop(20);
    assert.equal(program.end, 'was ended by SIGKILL');
    assert.throws(() => process.kill(program.pid!, 0), { code: 'ESRCH' });
    await program.stop();
  });

  it('ends though a child of it holds its output', async () => {
    await using program = new Program(['sh', '-c', 'sleep 3 & exit 0']);
    const start = performance.now();
    assert.equal(await program.ended, 'exited with status 0');
    assert.ok(performance.now() - start < 2500);
  });

  it('says what it waited for in vain, and what was printed', async () => {
    await using ended = new Program(['sh', '-c', 'echo bye; exit 1']);
    await assert.rejects(
      ended.waitFor('the prompt', 5000, () => false),
      /exited with status 1 before the prompt\.\n-- stdout\nbye\n-- stderr\n\(nothing/,
    );
    await using slow = new Program(['sleep', '60']);
    await assert.rejects(
      slow.waitFor('the prompt', 20, () => false),
      /sleep 60: the prompt did not come in 20 ms/,
    );
  });

  it('tells that it cannot be started', async () => {
    await assert.rejects(run(['/nonexistent/program']), /nonexistent\/program: could not be started \(.*ENOENT/);
  });

  it('rejects a status other than 0, and slowness', async () => {
    await assert.rejects(run(['sh', '-c', 'echo why >&2; exit 2']), /exited with status 2\.\n[\s\S]*why/);
    await assert.rejects(run(['sleep', '60'], { timeoutMs: 20 }), /20 ms/);
  });

  it('has a standard input only when interactive', async () => {
    await using program = new Program(['true']);
    assert.throws(() => program.stdin, /true was not started as an interactive program/);
  });
});
