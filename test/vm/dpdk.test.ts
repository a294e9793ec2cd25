import assert from 'node:assert/strict';
import { DaemonProcess } from '../../lab/daemon.ts';
import { Testpmd } from '../../lab/testpmd.ts';
import { untilReceived } from './traffic.ts';

const MACS = ['52:54:00:79:00:01', '52:54:00:79:00:02'];
const RING = 256;
const FIRST_BURSTS = 4;
const BURST = 32;

describe('DPDK virtio-user with the vhost-kernel backend', function () {
  this.timeout(60_000);

  /** Two virtio-user ports in one testpmd: two guests. */
  async function startGuests(daemon: DaemonProcess, options = ''): Promise<Testpmd> {
    return await Testpmd.start({
      cpu: 1,
      launcher: daemon.exec,
      vdevs: MACS.map(
        (mac, i) => `net_virtio_user${i},path=/dev/vhost-net,iface=dpdk${i},queue_size=${RING},mac=${mac}${options}`,
      ),
      words: [
        ...['--forward-mode=macswap', '--port-topology=loop', '--total-num-mbufs=8192'],
        ...[`--txd=${RING}`, `--rxd=${RING}`, `--eth-peer=0,${MACS[1]}`, `--eth-peer=1,${MACS[0]}`],
      ],
    });
  }

  const cases: [options: string, size: number][] = [
    ['', 64],
    ['', 1514],
    [',mrg_rxbuf=0', 1514],
    [',in_order=0', 64],
    [',packed_vq=0', 1514],
    [',packed_vq=1', 64],
    [',packed_vq=1', 1514],
    [',packed_vq=1,in_order=0', 64],
    [',packed_vq=1,in_order=0,mrg_rxbuf=0', 1514],
    // Buffers of a batch written and read with vector instructions, where the processor has them.
    [',packed_vq=1,in_order=1,mrg_rxbuf=0,vectorized=1', 64],
    [',packed_vq=1,in_order=1,mrg_rxbuf=0,vectorized=1', 1514],
  ];
  for (const [options, size] of cases) {
    it(`moves frames of ${size} bytes both ways in a closed loop${options}`, async () => {
      await using daemon = await DaemonProcess.start();
      await using guests = await startGuests(daemon, options);
      await guests.command(`set txpkts ${size}`);
      await guests.command(`start tx_first ${FIRST_BURSTS}`);
      await untilReceived(guests, 10 * FIRST_BURSTS * BURST);
      await guests.command('stop');
      for (const { port, rxPackets, rxBytes, txPackets } of await guests.portStats()) {
        assert.equal(rxBytes, rxPackets * size, 'every frame has the length that was sent');
        assert.ok(txPackets >= rxPackets, `port ${port} sent ${txPackets}, received ${rxPackets}`);
      }
      const ports = await daemon.ports();
      assert.deepEqual(ports.map(({ name, path }) => [name, path]).sort(), [
        ['dpdk0', 'vhost'],
        ['dpdk1', 'vhost'],
      ]);
      const rings = await daemon.rings();
      assert.deepEqual(
        rings.filter((ring) => ring.error),
        [],
      );
      for (const { features } of rings) {
        assert.equal(features.includes('RING_PACKED'), options.includes('packed_vq=1'));
        assert.equal(features.includes('IN_ORDER'), !options.includes('in_order=0'));
        assert.equal(features.includes('MRG_RXBUF'), !options.includes('mrg_rxbuf=0'));
      }
      await guests.stop();
      await daemon.stop();
    });
  }
});
