import assert from 'node:assert/strict';
import { type Duplex, duplexPair } from 'node:stream';
import { Agent } from '../../lab/agent.ts';

const base64 = (text: string) => Buffer.from(text).toString('base64');

describe("a guest's agent, from the host", () => {
  let guest: Duplex;
  let agent: Agent;
  let asked: string[];

  beforeEach(() => {
    const [host, other] = duplexPair();
    guest = other;
    asked = [];
    guest.setEncoding('latin1').on('data', (text: string) => asked.push(...text.split('\n').filter(Boolean)));
    agent = new Agent(host);
  });

  it('says when the guest is up, and each time again', async () => {
    const first = agent.nextBoot();
    guest.write('\nready 11-22\n');
    assert.equal(await first, '11-22');
    const second = agent.nextBoot();
    guest.write('\nready 33-44\n');
    assert.equal(await second, '33-44');
  });

  it('runs commands at the same time, whichever is done first', async () => {
    const first = agent.run('sleep 1', 1000);
    const second = agent.run("echo 'é'", 1000);
    guest.write(`done 2 0 ${base64('é\n')} .\n`);
    assert.deepEqual(await second, { status: 0, output: 'é\n' });
    guest.write('done 1 3  .\n');
    assert.deepEqual(await first, { status: 3, output: '' });
    assert.deepEqual(asked, [`run 1 ${base64('sleep 1')}`, `run 2 ${base64("echo 'é'")}`]);
  });

  it('puts lines together from pieces', async () => {
    const result = agent.run('x', 1000);
    const output = 'long '.repeat(5000);
    const line = `done 1 0 ${base64(output)} .\n`;
    for (let at = 0; at < line.length; at += 999) guest.write(line.slice(at, at + 999));
    assert.equal((await result).output, output);
  });

  it('takes no answer that a reset cut for a whole one', async () => {
    const result = agent.run('dmesg', 1000);
    guest.write('done 1 0 QUJD');
    guest.write('\nready 5\n');
    await assert.rejects(result, /`dmesg`: the guest was reset/);
  });

  it('kills a command that takes too long, and tells what it had printed', async () => {
    const result = agent.run('sleep 9', 20);
    guest.on('data', (text: string) => {
      if (text.startsWith('kill')) guest.write(`done 1 137 ${base64('half')} .\n`);
    });
    await assert.rejects(result, /`sleep 9`: not done in 20 ms\. It printed:\nhalf$/);
    assert.equal(asked.at(-1), 'kill 1');
  });

  it('gives up on a guest that does not even kill', async () => {
    await assert.rejects(agent.run('sleep 9', 20), /`sleep 9`: not done in 20 ms, and cannot be killed/);
  });

  it('rejects whatever waits, and what is asked later, once the machine is gone', async () => {
    const waiting = [agent.run('a', 1000), agent.nextBoot()];
    agent.fail(new Error('QEMU exited'));
    for (const promise of [...waiting, agent.run('b', 1000), agent.nextBoot()]) {
      await assert.rejects(promise, /QEMU exited/);
    }
  });
});
