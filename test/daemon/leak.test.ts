import assert from 'node:assert/strict';
import fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { DaemonProcess } from '../../lab/daemon.ts';
import { untilPorts } from '../helpers/until.ts';
import { VhostClient } from '../helpers/vhost-client.ts';

const WARM_UP_ROUNDS = 800;
const ROUNDS = 1000;
/** Node's heap breathes; a mapping or buffer lost in each round would be far more. */
const RSS_SLACK_BYTES = 24 << 20;

interface Usage {
  descriptors: number;
  mappings: number;
  rssBytes: number;
}

function usage(pid: number): Usage {
  const rssKib = /^VmRSS:\s+(\d+) kB/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'latin1'))![1];
  return {
    descriptors: fs.readdirSync(`/proc/${pid}/fd`).length,
    // Anonymous areas are split and merged by the allocator at its will; what a client shares has a name.
    mappings: fs.readFileSync(`/proc/${pid}/maps`, 'latin1').match(/vhost-client|\/dev\/zero/g)?.length ?? 0,
    rssBytes: Number(rssKib) * 1024,
  };
}

describe('attach and detach', function () {
  this.timeout(120_000);

  it(`${ROUNDS} rounds leave no descriptor, mapping or memory behind`, async () => {
    await using daemon = await DaemonProcess.start({ config: { log: { level: 'warn', format: 'text' } } });
    const round = (number: number): void => {
      const client = new VhostClient({ tun: daemon.tun, vhostNet: daemon.vhostNet, name: 'leak%d' });
      // Clients end in every way: rings stopped first, or either file closed under running rings.
      if (number % 3 === 0) for (const index of [0, 1]) client.setBackend(index, -1);
      client.close(number % 2 === 0 ? 'tun' : 'vhost');
    };
    const settle = async (): Promise<Usage> => {
      await untilPorts(daemon);
      await delay(200);
      return usage(daemon.pid);
    };
    const fresh = await settle();
    for (let number = 0; number < WARM_UP_ROUNDS; number++) round(number);
    const before = await settle();
    for (let number = 0; number < ROUNDS; number++) round(number);
    const after = await settle();
    assert.equal(after.descriptors, fresh.descriptors, 'descriptors');
    assert.equal(after.mappings, fresh.mappings, 'mappings of clients and mailboxes');
    assert.ok(
      after.rssBytes - before.rssBytes < RSS_SLACK_BYTES,
      `memory grew from ${before.rssBytes} to ${after.rssBytes} bytes in ${ROUNDS} rounds`,
    );
    assert.deepEqual(await daemon.client.get('/v1/memory'), []);
    await daemon.stop();
  });
});
