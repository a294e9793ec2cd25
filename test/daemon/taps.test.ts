/** Taps of the host as ports: made, kept, deleted under the daemon. In a network namespace, so that nobody sees them. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { DaemonProcess, RINGSWITCH } from '../../lab/daemon.ts';
import { NetworkNamespace } from '../../lab/namespace.ts';
import { run } from '../../lab/program.ts';
import { broadcastFrame, TunClient } from '../helpers/tun-client.ts';
import { until } from '../helpers/until.ts';

describe('a daemon with taps', function () {
  this.timeout(30_000);

  let host: NetworkNamespace;

  beforeEach(async () => {
    host = await NetworkNamespace.create('lifecycle');
  });

  afterEach(async () => {
    await host.dispose();
  });

  const links = async (): Promise<string[]> =>
    (JSON.parse(await host.exec(['ip', '-json', 'link', 'show'])) as { ifname: string }[])
      .map(({ ifname }) => ifname)
      .filter((name) => name !== 'lo')
      .sort();
  /** Its network is the namespace; mounts are everybody's, so that clients here reach it. */
  const start = (taps: object[]): Promise<DaemonProcess> =>
    DaemonProcess.start({ config: { taps }, launcher: ['nsenter', `--net=${host.path}`] });

  it('in its configuration makes them, and removes all but the persistent ones', async () => {
    await using daemon = await start([{ name: 'goes0' }, { name: 'stays0', persistent: true }]);
    assert.deepEqual(await links(), ['goes0', 'stays0']);
    // Whether this machine's kernel has a vhost-net of its own.
    const path = fs.existsSync('/dev/vhost-net') ? 'vhost' : 'file';
    assert.deepEqual(
      (await daemon.ports()).map(({ name, kind, persistent, path }) => [name, kind, persistent, path]),
      [
        ['goes0', 'tap', false, path],
        ['stays0', 'tap', true, path],
      ],
    );
    if (path === 'file') {
      assert.match(
        daemon.log,
        /goes0: reads and writes the tap, a system call a frame: \/dev\/vhost-net cannot be opened: ENOENT/,
      );
    }
    await daemon.stop();
    assert.deepEqual(await links(), ['stays0']);
    await daemon.restart();
    assert.deepEqual(await links(), ['goes0', 'stays0'], 'attaches to the one that is there');
    await daemon.kill();
    assert.deepEqual(await links(), ['stays0']);
  });

  it('carries frames between a tap and a client', async () => {
    await using daemon = await start([{ name: 'wire0' }]);
    await host.exec(['sysctl', '-qw', 'net.ipv6.conf.wire0.disable_ipv6=1']);
    await host.address('wire0', '10.99.0.1/24');
    using client = new TunClient(daemon.tun);
    await using _ping = host.spawn(['ping', '-c', '1', '-W', '1', '10.99.0.2']);
    const request = client.receive();
    assert.equal(request.readUInt16BE(12), 0x0806, 'ARP');
    assert.equal(request.readUInt32BE(14 + 24), 0x0a63_0002, 'who has 10.99.0.2?');
  });

  it('shows one that was deleted under it as an error, and lets it be removed and made again', async () => {
    await using daemon = await start([{ name: 'gone0' }, { name: 'kept0' }]);
    await host.exec(['ip', 'link', 'del', 'gone0']);
    await until('an error', async () => (await daemon.port('gone0')).error);
    const { error, carrier } = await daemon.port('gone0');
    assert.match(error ?? '', /the interface was deleted; remove the port/);
    assert.equal(carrier, 'down');
    const shown = await run([RINGSWITCH, 'show', 'ports', '--socket', daemon.socket]);
    assert.match(shown, /^gone0: the interface was deleted/m);
    assert.equal((await daemon.port('kept0')).error, null);
    {
      using a = new TunClient(daemon.tun);
      using b = new TunClient(daemon.tun);
      const frame = broadcastFrame(60);
      a.write(frame);
      assert.deepEqual(b.receive(), frame, 'the others go on');
    }
    await run([RINGSWITCH, 'port', 'remove', 'gone0', '--socket', daemon.socket]);
    await run([RINGSWITCH, 'port', 'add', 'tap', 'gone0', '--socket', daemon.socket]);
    assert.deepEqual(await links(), ['gone0', 'kept0']);
    assert.equal((await daemon.port('gone0')).error, null);
    await daemon.stop();
    assert.deepEqual(await links(), []);
  });
});
