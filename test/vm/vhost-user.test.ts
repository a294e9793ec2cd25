/** Ports over vhost-user, against front-ends that are not ours: QEMU and DPDK, either of them as server and as client. */
import assert from 'node:assert/strict';
import path from 'node:path';
import type { PortStatus, VhostUserMode } from '../../daemon/control.ts';
import { DaemonProcess } from '../../lab/daemon.ts';
import { guestNetwork, Machine } from '../../lab/machine.ts';
import { Testpmd } from '../../lab/testpmd.ts';
import { virtioNetDevice } from '../../lab/virtio-net.ts';
import { until } from '../helpers/until.ts';
import { assertPings, assertTransfer, bootGuest, ipOf, untilReceived } from './traffic.ts';

const FILE_MIB = 4;
const FRONT_END_MS = 10_000;
/**
 * QEMU 7.2 without KVM dies (a null pointer in kvm_virtio_pci_irqfd_release) when the guest masks an MSI-X vector of a card
 * over vhost-user, whoever the back-end is.
 */
const NO_MSIX = 'vectors=0';

async function addPort(daemon: DaemonProcess, name: string, mode: VhostUserMode, queues = 1): Promise<PortStatus> {
  const options = { kind: 'vhost-user', name, path: path.join(daemon.directory, name), mode, queues };
  return (await daemon.client.post('/v1/ports', options)) as PortStatus;
}

/** None is left running when one cannot be started. */
async function allOrNone(booting: Promise<Machine>[]): Promise<Machine[]> {
  const ends = await Promise.allSettled(booting);
  const up = ends.filter((end) => end.status === 'fulfilled').map(({ value }) => value);
  const failed = ends.find((end) => end.status === 'rejected');
  if (!failed) return up;
  await Promise.all(up.map((machine) => machine.stop()));
  throw failed.reason;
}

/** Waits until a port looks so. */
async function untilPort(
  daemon: DaemonProcess,
  name: string,
  what: string,
  is: (port: PortStatus) => boolean,
): Promise<PortStatus> {
  let port = await daemon.port(name);
  await until(
    `${name} is ${what}`,
    async () => {
      port = await daemon.port(name);
      return is(port);
    },
    {
      timeoutMs: FRONT_END_MS,
      instead: () => JSON.stringify(port),
    },
  );
  return port;
}

describe('vhost-user', function () {
  this.timeout(180_000);

  describe('with QEMU', () => {
    /** `mode` is the daemon's. */
    async function boot(daemon: DaemonProcess, name: string, number: number, mode: VhostUserMode, queues: number) {
      const socket = path.join(daemon.directory, name);
      const chardev = `socket,id=chr0,path=${socket},${mode === 'server' ? 'reconnect=1' : 'server=on,wait=off'}`;
      const mac = `52:54:00:78:00:${number.toString(16).padStart(2, '0')}`;
      const netdev = ['-netdev', `vhost-user,id=net0,chardev=chr0,queues=${queues}`];
      const card = ['-chardev', chardev, ...netdev, ...virtioNetDevice('net0', mac, queues, NO_MSIX)];
      const machine = await Machine.start({ name, netdevs: [card], smp: queues });
      try {
        await guestNetwork(machine, `${ipOf(number)}/24`);
        if (queues > 1) await machine.sh(`ethtool -L eth0 combined ${queues}`);
      } catch (error) {
        await machine.stop();
        throw error;
      }
      return machine;
    }

    it('carries files between guests, whoever makes the socket, and a guest of the clones', async () => {
      await using daemon = await DaemonProcess.start();
      const { id } = await addPort(daemon, 'serves', 'server', 2);
      await addPort(daemon, 'connects', 'client');
      const guests = await allOrNone([
        bootGuest(daemon, { name: 'clone', number: 1 }),
        boot(daemon, 'serves', 2, 'server', 2),
        boot(daemon, 'connects', 3, 'client', 1),
      ]);
      try {
        const [clone, one, two] = guests as [Machine, Machine, Machine];
        await assertPings(one, 1);
        await assertPings(two, 2);
        await assertTransfer(clone, 1, one, FILE_MIB);
        await assertTransfer(one, 2, clone, FILE_MIB);
        await assertTransfer(two, 3, one, FILE_MIB);
        await assertTransfer(one, 2, two, FILE_MIB);

        const port = await daemon.port('serves');
        assert.equal(port.path, 'vhost-user');
        assert.deepEqual(
          port.clients.map(({ pid }) => pid),
          [one.pid],
        );
        for (const offload of ['csum', 'tso4', 'tso6']) assert.ok(port.offloads.includes(offload), offload);
        const rings = (await daemon.rings()).filter((ring) => ring.port === 'serves');
        assert.equal(rings.length, 4, 'two queue pairs run');
        assert.deepEqual(
          rings.filter((ring) => ring.error !== null),
          [],
        );

        await one.sh('ethtool -L eth0 combined 1');
        await assertPings(clone, 2);
        assert.equal((await daemon.rings()).filter((ring) => ring.port === 'serves').length, 2, 'one is disabled');

        await one.kill();
        const left = await untilPort(daemon, 'serves', 'left', (port) => port.path === 'none');
        assert.deepEqual(left.clients, []);
        const again = await boot(daemon, 'serves', 2, 'server', 2);
        guests.push(again);
        await assertPings(again, 1);
        const found = await daemon.port('serves');
        assert.equal(found.id, id);
        assert.ok(found.counters.rx_frames! > left.counters.rx_frames!, 'the counters go on');

        await again.reboot();
        await guestNetwork(again, `${ipOf(2)}/24`);
        await assertPings(again, 1);
      } finally {
        await Promise.all(guests.map((guest) => guest.stop()));
      }
      await daemon.stop();
    });

    it('goes on with its guests when the switch was killed and started again', async () => {
      const names = { serves: 'server', connects: 'client' } as const;
      await using daemon = await DaemonProcess.start();
      for (const [name, mode] of Object.entries(names)) await addPort(daemon, name, mode);
      const guests = await allOrNone([
        boot(daemon, 'serves', 1, 'server', 1),
        boot(daemon, 'connects', 2, 'client', 1),
      ]);
      try {
        const [one, two] = guests as [Machine, Machine];
        await assertTransfer(one, 1, two, 1);
        await daemon.kill();
        await daemon.restart();
        for (const [name, mode] of Object.entries(names)) await addPort(daemon, name, mode);
        for (const name of Object.keys(names)) {
          await untilPort(daemon, name, 'found again', (port) => port.path === 'vhost-user');
        }
        await assertPings(one, 2);
        await assertTransfer(one, 1, two, 1);
        await assertTransfer(two, 2, one, 1);
      } finally {
        await Promise.all(guests.map((guest) => guest.stop()));
      }
      await daemon.stop();
    });
  });

  describe('with DPDK virtio-user', () => {
    const MACS = ['52:54:00:79:00:01', '52:54:00:79:00:02'];
    const RING = 256;
    const FIRST_BURSTS = 4;
    const BURST = 32;

    const start = (daemon: DaemonProcess, options: string): Promise<Testpmd> =>
      Testpmd.start({
        cpu: 1,
        memoryMiB: 256,
        vdevs: MACS.map(
          (mac, i) =>
            `net_virtio_user${i},path=${path.join(daemon.directory, `dpdk${i}`)},queue_size=${RING},mac=${mac}${options}`,
        ),
        words: [
          ...['--forward-mode=macswap', '--port-topology=loop', '--total-num-mbufs=4096'],
          ...[`--txd=${RING}`, `--rxd=${RING}`, `--eth-peer=0,${MACS[1]}`, `--eth-peer=1,${MACS[0]}`],
        ],
      });

    for (const [mode, options] of [
      ['server', ''],
      ['client', ',server=1'],
      ['server', ',packed_vq=1'],
    ] as const) {
      it(`moves frames in a closed loop, twice: the switch is the ${mode}${options}`, async () => {
        await using daemon = await DaemonProcess.start();
        for (const i of MACS.keys()) await addPort(daemon, `dpdk${i}`, mode);
        for (let round = 0; round < 2; round++) {
          await using guests = await start(daemon, options);
          await guests.command('set txpkts 1514');
          await guests.command(`start tx_first ${FIRST_BURSTS}`);
          await untilReceived(guests, 10 * FIRST_BURSTS * BURST);
          await guests.command('stop');
          for (const { port, rxPackets, rxBytes } of await guests.portStats()) {
            assert.equal(rxBytes, rxPackets * 1514, `port ${port}: every frame has the length that was sent`);
          }
          const rings = await daemon.rings();
          assert.equal(rings.length, 4);
          for (const { features, error } of rings) {
            assert.equal(error, null);
            assert.equal(features.includes('RING_PACKED'), options.includes('packed_vq=1'));
          }
          await guests.stop();
          for (const i of MACS.keys())
            await untilPort(daemon, `dpdk${i}`, 'left', (port) => !port.vhostUser!.connected);
          assert.deepEqual(await daemon.client.get('/v1/memory'), [], 'no memory of the guest stays mapped');
        }
        await daemon.stop();
      });
    }
  });
});
