import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Testpmd } from '../../lab/testpmd.ts';
import { untilReceived } from './traffic.ts';

const pool = () => fs.readFileSync('/proc/sys/vm/nr_hugepages', 'utf8');

describe('testpmd', function () {
  this.timeout(60_000);

  it('switches for guests that another testpmd plays, and leaves nothing behind', async () => {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-test-'));
    const before = pool();
    const mac = (port: number) => `52:54:00:00:00:0${port + 1}`;
    const small = { memoryMiB: 128 };
    try {
      await using bridge = await Testpmd.start({
        ...small,
        cpu: 0,
        vdevs: [0, 1].map((port) => `net_vhost${port},iface=${directory}/v${port},queues=1`),
        words: ['--forward-mode=io', '--total-num-mbufs=4096', '--auto-start'],
      });
      await using guests = await Testpmd.start({
        ...small,
        cpu: 1,
        vdevs: [0, 1].map(
          (port) => `net_virtio_user${port},path=${directory}/v${port},queue_size=256,mac=${mac(port)}`,
        ),
        words: ['--forward-mode=macswap', '--port-topology=loop', '--total-num-mbufs=4096', '--txd=256', '--rxd=256'],
        launcher: ['nice', '-n', '1'],
      });
      assert.equal(fs.readFileSync(`/proc/${guests.pid}/comm`, 'utf8'), 'dpdk-testpmd\n');
      await guests.command('start tx_first 1');
      await untilReceived(guests, 1);
      await guests.command('stop');
      const [first, second, ...more] = await guests.portStats();
      assert.deepEqual(more, []);
      for (const [index, port] of [first!, second!].entries()) {
        assert.equal(port.port, index);
        assert.ok(
          port.rxPackets > 0 && port.txPackets > 0 && port.rxBytes === port.rxPackets * 64,
          JSON.stringify(port),
        );
      }
      await assert.rejects(guests.command('bogus'), /it refused "bogus": Command not found/);
      await assert.rejects(guests.command('show port stats nonsense'), /it refused .*: Bad arguments/);
      assert.match(bridge.log, /virtio is now ready for processing/);
      await guests.stop();
      await guests.stop();
      await assert.rejects(guests.portStats(), /exited with status 0/);
      await bridge.kill();
    } finally {
      fs.rmSync(directory, { recursive: true });
    }
    assert.equal(pool(), before);
  });

  it('tells why it did not start', async () => {
    const before = pool();
    const start = (vdev: string, memoryMiB = 64) => Testpmd.start({ cpu: 0, memoryMiB, vdevs: [vdev] });
    await assert.rejects(start('net_nosuch0'), /exited with status \d+ before its first prompt|EAL: .*net_nosuch0/);
    await assert.rejects(
      start('net_null0', 1 << 30),
      /testpmd needs \d+ more hugepages of 2 MiB, but \d+ MiB of memory are available: end/,
    );
    assert.equal(pool(), before);
  });
});
