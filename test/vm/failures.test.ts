import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
import { isMounted } from '../../fuse/mount.ts';
import { DaemonProcess } from '../../lab/daemon.ts';
import { until } from '../helpers/until.ts';
import { assertPings, assertTransfer, bootGuest, bootGuests, ipOf, serveIperf3, TRAFFIC_MS } from './traffic.ts';

const FLOOD_PORTS = [5202, 5203] as const;
/** More than a connection needs to come up. */
const FULL_TRAFFIC_FRAMES = 200;

describe('guests that fail', function () {
  this.timeout(180_000);

  it('a reset and a SIGKILL in full traffic, and a reboot between them, leave a third guest’s traffic alone', async () => {
    await using daemon = await DaemonProcess.start();
    const [steady, server, victim] = await bootGuests(
      daemon,
      { name: 'steady', number: 1 },
      { name: 'server', number: 2 },
      { name: 'victim', number: 3 },
    );
    try {
      // A server each: after its client is gone the first one waits for it.
      for (const port of FLOOD_PORTS) await server!.sh(serveIperf3('', port));
      const flood = async (port: number): Promise<void> => {
        await victim!.sh(`iperf3 -c ${ipOf(2)} -p ${port} -t 120 > /tmp/flood 2>&1 &`);
        const { rx_frames: before } = (await daemon.port('victim')).counters;
        await until(
          'the victim is in full traffic',
          async () => (await daemon.port('victim')).counters.rx_frames! > before! + FULL_TRAFFIC_FRAMES,
          { timeoutMs: TRAFFIC_MS, instead: () => victim!.sh('cat /tmp/flood') },
        );
      };
      await flood(FLOOD_PORTS[0]);
      // The third guest counts its pings through everything that happens to the victim: none may be lost.
      await steady!.sh(`ping -i 0.2 ${ipOf(2)} > /tmp/pings 2>&1 & echo $! > /tmp/ping.pid`);
      await delay(1000);

      for (const restart of ['reset', 'reboot'] as const) {
        await victim![restart]();
        await victim!.sh(`ip link set eth0 up; ip address add ${ipOf(3)}/24 dev eth0`);
        await assertPings(victim!, 2);
        await assertTransfer(server!, 2, victim!, 1);
      }
      await flood(FLOOD_PORTS[1]);
      await victim!.kill();
      await until('the victim’s port is gone', async () =>
        (await daemon.ports()).every((port) => port.name !== 'victim'),
      );

      await steady!.sh('kill -INT $(cat /tmp/ping.pid); sleep 0.5');
      const summary = await steady!.sh('tail -n 3 /tmp/pings');
      const [, sent, received] = /(\d+) packets transmitted, (\d+) packets received/.exec(summary)!;
      assert.ok(Number(sent) > 20, summary);
      // The last may have been on its way when ping was ended; each of the others has its own line.
      assert.ok(Number(received) >= Number(sent) - 1, summary);
      const lines = await steady!.sh('grep seq= /tmp/pings');
      const numbers = [...lines.matchAll(/seq=(\d+)/g)].map(([, seq]) => Number(seq));
      assert.deepEqual(
        numbers,
        numbers.map((_, i) => i),
        summary,
      );
      assert.equal(numbers.length, Number(received), summary);
      await assertTransfer(server!, 2, steady!, 4);

      // The place of the dead is free again.
      const again = await bootGuest(daemon, { name: 'victim', number: 3 });
      await assertPings(again, 1);
      await again.stop();
      await daemon.stop();
    } finally {
      await Promise.all([steady, server, victim].map((guest) => guest?.stop()));
    }
  });

  it('a daemon that is killed is started again on the same mount, and serves new guests', async () => {
    await using daemon = await DaemonProcess.start();
    const orphan = await bootGuest(daemon, { name: 'orphan', number: 1 });
    try {
      await daemon.kill();
      assert.ok(isMounted(daemon.mount), 'the dead mount is in the way');
      await daemon.restart();
      const [a, b] = await bootGuests(daemon, { name: 'a', number: 2 }, { name: 'b', number: 3 });
      try {
        await assertPings(a!, 3);
        await assertTransfer(a!, 2, b!, 4);
        assert.ok(orphan.running, 'a guest of the dead daemon lost its network, not its life');
      } finally {
        await Promise.all([a?.stop(), b?.stop()]);
      }
      await daemon.stop();
      assert.equal(isMounted(daemon.mount), false);
    } finally {
      await orphan.stop();
    }
  });
});
