/** Clients of a daemon whose memory is private to them: their rings and frames are copied. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { DaemonProcess } from '../../lab/daemon.ts';
import { Program } from '../../lab/program.ts';
import { withDaemon } from '../helpers/daemon-fixture.ts';
import { descriptorsOf } from '../helpers/descriptors.ts';
import { F_WRITE } from '../helpers/split-driver.ts';
import { broadcastFrame } from '../helpers/tun-client.ts';
import { until, untilPorts } from '../helpers/until.ts';
import { VhostGuest } from '../helpers/vhost-guest.ts';

const FLOODING = fileURLToPath(new URL('../helpers/flooding-guest-child.ts', import.meta.url));
const TX = 1;
const WARNING = /.*is private to it: every batch of frames costs system calls.*/g;
/** Longer than an idle lane polls. */
const IDLE_MS = 100;

describe('a client with private memory', function () {
  this.timeout(60_000);
  let daemon: DaemonProcess;

  withDaemon((started) => {
    daemon = started;
  });

  const guest = (name: string, privately: boolean): VhostGuest =>
    new VhostGuest({ tun: daemon.tun, vhostNet: daemon.vhostNet, name, privately });

  async function gone(): Promise<void> {
    await untilPorts(daemon);
    assert.deepEqual(await daemon.client.get('/v1/memory'), []);
  }
  afterEach(gone);

  /** Frames pass both ways, also when the lane has slept. */
  async function assertPass(a: VhostGuest, b: VhostGuest, rounds = 3): Promise<void> {
    for (let round = 0; round < rounds; round++) {
      for (const length of [60, 1514, 3000]) {
        const frame = broadcastFrame(length, length + round);
        a.send(frame);
        assert.deepEqual(b.receive(), frame);
        b.send(frame);
        assert.deepEqual(a.receive(), frame);
      }
      await delay(IDLE_MS);
    }
  }

  it('exchanges frames with one that shares its memory, and with one that does not', async () => {
    using shared = guest('shared', false);
    using a = guest('a', true);
    await assertPass(a, shared);
    using b = guest('b', true);
    // The broadcasts of one reach both others.
    a.send(broadcastFrame(60, 1));
    assert.deepEqual(b.receive(), broadcastFrame(60, 1));
    assert.deepEqual(shared.receive(), broadcastFrame(60, 1));
    const paths = (await daemon.ports()).map(({ name, path }) => [name, path]);
    assert.deepEqual(paths.sort(), [
      ['a', 'vhost-copied'],
      ['b', 'vhost-copied'],
      ['shared', 'vhost'],
    ]);
    for (const { error } of await daemon.rings()) assert.equal(error, null);
  });

  it('goes round its rings many times', async () => {
    using a = guest('a', true);
    using b = guest('b', true);
    await assertPass(a, b, 2);
    for (let i = 0; i < 500; i++) {
      a.send(broadcastFrame(60 + i, i));
      assert.deepEqual(b.receive(), broadcastFrame(60 + i, i));
    }
  });

  it('is warned of once for each port, which names the option that helps', async () => {
    const logged = daemon.log.length;
    using a = guest('warned', true);
    // A guest that starts its driver anew.
    a.client.setBackend(TX, -1);
    a.client.setBackend(TX, a.client.tun);
    using b = guest('quiet', false);
    await assertPass(a, b, 1);
    const warnings = daemon.log.slice(logged).match(WARNING) ?? [];
    assert.equal(warnings.length, 1, warnings.join('\n'));
    assert.match(warnings[0]!, new RegExp(`warned: .*process ${process.pid}.*memory-backend-memfd.*share=on`));
  });

  it('stops its own ring when it breaks it, and nobody else’s', async () => {
    using a = guest('a', true);
    using b = guest('b', true);
    using hostile = guest('hostile', true);
    const { tx } = hostile;
    tx.pokeDescriptor(0, { addr: 0xffff_0000n, len: 100, flags: F_WRITE });
    tx.pokeAvail(tx.announced, 0);
    tx.pokeAvailIdx(tx.announced + 1);
    hostile.kick(TX);
    assert(hostile.errSignalled(TX));
    await assertPass(a, b, 1);
    const broken = (await daemon.rings()).filter(({ error }) => error !== null);
    assert.deepEqual(
      broken.map(({ port, ring, error }) => [port, ring, error!.code]),
      [['hostile', 'tx', 'WRONG_DIRECTION']],
    );
  });

  it('dies in full traffic, and nobody else notices', async () => {
    using a = guest('a', true);
    using b = guest('b', false);
    const logged = daemon.log.length;
    for (let death = 0; death < 3; death++) {
      await using flooding = new Program([process.execPath, FLOODING, daemon.tun, daemon.vhostNet, 'flooding']);
      const sent = async (): Promise<number> => {
        const port = (await daemon.ports()).find(({ name }) => name === 'flooding');
        return port?.counters.rx_frames ?? 0;
      };
      // Who does not read is soon without buffers, and frames for it are dropped.
      await until('200 frames', async () => (await sent()) >= 200, { instead: () => flooding.stderr });
      await flooding.stop();
      await untilPorts(daemon, 2);
      assert.equal((await daemon.rings()).length, 4);
    }
    assert.doesNotMatch(daemon.log.slice(logged), /broke ring/);
    using c = guest('c', true);
    using d = guest('d', false);
    await assertPass(c, d, 1);
    assert.deepEqual(
      (await daemon.rings()).filter(({ error }) => error !== null),
      [],
    );
    void [a, b];
  });

  it('leaves nothing in the daemon when it goes', async () => {
    const visit = async (): Promise<void> => {
      using one = guest('one', true);
      using other = guest('other', true);
      await assertPass(one, other, 1);
    };
    const descriptors = (): string[] => descriptorsOf(daemon.pid);
    const mappings = (): number => fs.readFileSync(`/proc/${daemon.pid}/maps`, 'latin1').split('\n').length;
    await visit();
    await gone();
    const before = [descriptors(), mappings()] as const;
    for (let i = 0; i < 5; i++) {
      await visit();
      await gone();
    }
    assert.deepEqual(descriptors(), before[0]);
    // Heaps come and go in whole chunks.
    assert(mappings() <= before[1] + 8, `${before[1]} mappings, then ${mappings()}`);
  });
});
