/** The driver side of vhost against a distribution kernel's own /dev/vhost-net: alone, and as taps of a whole daemon. */
import assert from 'node:assert/strict';
import type { PortStatus } from '../../daemon/control.ts';
import { Machine } from '../../lab/machine.ts';
import { SHOW, STOP_DAEMON, startDaemon, untilSucceeds } from './daemon-in-guest.ts';
import { serveIperf3 } from './traffic.ts';
import type { VhostDriverReport } from './vhost-driver-child.ts';

const CHILD_MS = 120_000;

describe("the kernel's own vhost-net in a guest", function () {
  this.timeout(240_000);
  let machine: Machine;

  before(async () => {
    machine = await Machine.start({
      name: 'vhost-driver',
      memoryMiB: 1024,
      smp: 2,
      hostRoot: true,
      modules: ['tun', 'vhost_net', 'bridge', 'fuse'],
    });
  });
  after(() => machine?.stop());

  for (const variant of ['event-idx', 'no-event-idx']) {
    it(`carries frames both ways between two drivers, again after the rings were reset (${variant})`, async () => {
      const output = await machine.shInHostRoot(
        `node_modules/.bin/node --no-warnings test/vm/vhost-driver-child.ts ${variant} 2>&1`,
        { timeoutMs: CHILD_MS },
      );
      const line = output.split('\n').find((text) => text.startsWith('{'));
      assert.ok(line, output);
      const { features, rounds, errors, reasons } = JSON.parse(line) as VhostDriverReport;
      assert.ok(features.includes('VERSION_1') && features.includes('MRG_RXBUF'), line);
      assert.equal(features.includes('EVENT_IDX'), variant === 'event-idx');
      assert.equal(rounds.length, 4);
      for (const { sent, received, frames, kicks } of rounds) {
        assert.equal(frames, 600);
        assert.equal(received, sent);
        assert.ok(kicks > 0, 'the kernel slept at the start, and was woken');
      }
      assert.match(errors[0]!, /^vhost-net: VHOST_SET_OWNER failed with EBUSY: this vhost-net file is in use/);
      assert.match(errors[1]!, /^vhost-net: TUNGETIFF failed with EBADFD: the tun file has no interface/);
      assert.deepEqual(reasons, [
        '',
        '/dev/vhost-net cannot be opened: ENOENT',
        "/dev/vhost-net is not the kernel's vhost-net",
        '',
      ]);
    });
  }

  it('serves the taps of a daemon: ping, files and iperf3 between two namespaces', async () => {
    const run = (command: string, timeoutMs = 30_000): Promise<string> => machine.shInHostRoot(command, { timeoutMs });
    await run(startDaemon('taps: [{ name: tapa }, { name: tapb }]', 'tapb: port'), CHILD_MS);
    try {
      for (const [name, ip] of [
        ['tapa', '10.78.0.1'],
        ['tapb', '10.78.0.2'],
      ]) {
        await run(
          `ip netns add ${name}; ip link set ${name} netns ${name}; ip -n ${name} address add ${ip}/24 dev ${name}; ` +
            `ip -n ${name} link set ${name} up`,
        );
      }
      const ports = JSON.parse(await run(`${SHOW} ports`)) as PortStatus[];
      assert.deepEqual(
        ports.map(({ name, path }) => [name, path]),
        [
          ['tapa', 'vhost'],
          ['tapb', 'vhost'],
        ],
      );
      assert.match(await run('ip netns exec tapa ping -c 20 -i 0.05 -w 20 10.78.0.2'), / 0% packet loss/);
      await run('mkdir -p /tmp/www; dd if=/dev/urandom of=/tmp/www/file bs=1M count=8 2>/dev/null');
      await run('ip netns exec tapb busybox httpd -p 8080 -h /tmp/www');
      await run(`ip netns exec tapb sh -c ${JSON.stringify(serveIperf3())}`);
      const got = await run('ip netns exec tapa busybox wget -q -O - http://10.78.0.2:8080/file | sha256sum', 60_000);
      assert.equal(got, await run('sha256sum < /tmp/www/file'));
      assert.match(await run('ip netns exec tapa iperf3 -c 10.78.0.2 -t 2; ', 60_000), /iperf Done/);
      assert.match(await run('ip netns exec tapa iperf3 -c 10.78.0.2 -t 2 -R', 60_000), /iperf Done/);
      // A tap that goes takes nothing with it, and its place is free again.
      await run('ip -n tapb link delete tapb');
      await run(untilSucceeds("grep -q 'tapb: the interface was deleted' /tmp/rs/log", 10));
      await run('bin/ringswitch port remove tapb --socket /tmp/rs/control.sock', 60_000);
      await run('bin/ringswitch port add tap tapb --socket /tmp/rs/control.sock', 60_000);
      await run(
        'ip link set tapb netns tapb; ip -n tapb address add 10.78.0.2/24 dev tapb; ip -n tapb link set tapb up',
      );
      // From the new one, whose address the other does not know yet.
      assert.match(await run('ip netns exec tapb ping -c 5 -i 0.05 -w 20 10.78.0.1'), / 0% packet loss/);
    } catch (error) {
      (error as Error).message += `\n-- the daemon's log\n${await run('cat /tmp/rs/log')}`;
      throw error;
    } finally {
      await run(STOP_DAEMON);
    }
  });
});
