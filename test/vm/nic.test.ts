/**
 * Our own 82599 driver on the software card, whose cable leads to a machine with Linux's ixgbe: inside a guest by VFIO, and
 * as a port of a whole daemon between Linux's ixgbe and a guest on the clones.
 */
import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
import type { PortStatus } from '../../daemon/control.ts';
import { DaemonProcess } from '../../lab/daemon.ts';
import { guestNetwork, Machine } from '../../lab/machine.ts';
import { CardModel } from '../../lab/model.ts';
import { vfioUserCard } from '../../lab/vfio-user-card.ts';
import { until } from '../helpers/until.ts';
import { SHOW, STOP_DAEMON, startDaemon, untilSucceeds } from './daemon-in-guest.ts';
import { assertPings, assertTransfer, bootGuest, ipOf, serveIperf3 } from './traffic.ts';
import type { VfioReport } from './vfio-child.ts';

const IXGBE = 2;
const FILE_MIB = 8;
const LINK_MS = 15_000;

/** A guest whose network card is a software 82599, driven by Linux's ixgbe. */
async function bootIxgbe(socket: string): Promise<Machine> {
  const machine = await Machine.start({
    name: 'ixgbe',
    qemu: 'fetched',
    memoryMiB: 512,
    netdevs: [vfioUserCard({ socket })],
    modules: ['ixgbe'],
  });
  try {
    await guestNetwork(machine, `${ipOf(IXGBE)}/24`);
    return machine;
  } catch (error) {
    await machine.stop();
    throw error;
  }
}

/** Bulk TCP for a second each way. */
async function assertIperf(from: Machine, to: Machine, number: number): Promise<void> {
  await to.sh(`pidof iperf3 >/dev/null || { ${serveIperf3()}; }`);
  assert.match(await from.sh(`iperf3 -c ${ipOf(number)} -t 1`), /iperf Done/);
  assert.match(await from.sh(`iperf3 -c ${ipOf(number)} -t 1 -R`), /iperf Done/);
}

/** What the card counted, of the daemon's port `card`. */
async function cardStatistics(daemon: DaemonProcess): Promise<Record<string, number>> {
  return (await daemon.client.get('/v1/ports/card/nic')) as Record<string, number>;
}

describe('a nic port over vfio-user', function () {
  this.timeout(180_000);
  let model: CardModel;
  let daemon: DaemonProcess;
  let ixgbe: Machine;
  let guest: Machine;

  before(async () => {
    model = await CardModel.start({ cards: 2 });
    // A queue in each of two lanes: the guest is in one of them.
    const nic = { device: `vfio-user:${model.sockets[0]}`, queues: 2 };
    daemon = await DaemonProcess.start({ config: { lane: { count: 2 }, ports: [{ name: 'card', nic }] } });
    [ixgbe, guest] = await Promise.all([bootIxgbe(model.sockets[1]!), bootGuest(daemon, { name: 'guest', number: 1 })]);
    await untilLink(daemon, 'up');
  });
  after(async () => {
    await Promise.all([ixgbe?.stop(), guest?.stop()]);
    await daemon?.dispose();
    await model?.stop();
  });

  it('is shown with its card, its link and what it offloads', async () => {
    const { kind, path, carrier, queues, nic, offloads } = await daemon.port('card');
    assert.deepEqual(
      { kind, path, carrier, queues, nic },
      {
        kind: 'nic',
        path: 'card',
        carrier: 'up',
        queues: 2,
        nic: { device: `vfio-user:${model.sockets[0]}`, speedMbps: 10_000 },
      },
    );
    assert.deepEqual(offloads, ['csum', 'tso4', 'tso6', 'tso-ecn', 'uso4', 'uso6']);
  });

  it("carries pings and files both ways between a guest on the clones and Linux's ixgbe", async () => {
    await assertPings(guest, IXGBE);
    await assertPings(ixgbe, 1);
    await assertTransfer(guest, 1, ixgbe, FILE_MIB);
    await assertTransfer(ixgbe, IXGBE, guest, FILE_MIB);
    const { counters } = await daemon.port('card');
    // Super-frames leave through the card: far more bytes a frame than the wire takes, and the card cut them.
    assert.ok(counters.tx_bytes! / counters.tx_frames! > 1514, JSON.stringify(counters));
    const { tx_packets: onTheWire } = await cardStatistics(daemon);
    assert.ok(onTheWire! > 2 * counters.tx_frames!, `${onTheWire} frames on the wire`);
  });

  it('spreads flows over its queues, and so over lanes', async () => {
    const queues = ['rx_queue_0_packets', 'rx_queue_1_packets'];
    const before = await cardStatistics(daemon);
    // Other source ports, other flows.
    await ixgbe.sh(`for i in $(seq 24); do nc -w 1 ${ipOf(1)} 8080 </dev/null >/dev/null 2>&1; done; true`);
    const after = await cardStatistics(daemon);
    for (const queue of queues)
      assert.ok(after[queue]! > before[queue]!, `${queue}: ${before[queue]}, ${after[queue]}`);
  });

  for (const [tso, csum] of [
    ['off', 'on'],
    ['off', 'off'],
    ['on', 'on'],
  ]) {
    it(`carries bulk TCP with TSO ${tso} and checksums ${csum} on both sides`, async () => {
      for (const machine of [guest, ixgbe]) await machine.sh(`ethtool -K eth0 tx ${csum} rx ${csum} tso ${tso}`);
      await assertIperf(guest, ixgbe, IXGBE);
      await assertTransfer(guest, 1, ixgbe, 2);
      await assertTransfer(ixgbe, IXGBE, guest, 2);
    });
  }

  it('follows the link as it flaps under load, and frames pass again', async () => {
    const load = guest.run(`iperf3 -c ${ipOf(IXGBE)} -t 6`, { timeoutMs: 60_000 });
    await delay(1000);
    await ixgbe.sh('ip link set eth0 down');
    await untilLink(daemon, 'down');
    await ixgbe.sh('ip link set eth0 up');
    await untilLink(daemon, 'up');
    await load;
    await assertPings(guest, IXGBE);
  });

  it('loses its card with a message, and everybody else goes on', async () => {
    await model.kill();
    await untilLink(daemon, 'down');
    const { error } = await daemon.port('card');
    assert.match(error!, /^vfio-user:.*: the card no longer answers \(\w+ .*reads as all ones\)/);
    await assertPings(guest, 1, 2);
    await daemon.client.delete('/v1/ports/card');
    assert.deepEqual(
      (await daemon.ports()).map(({ name }) => name),
      ['guest'],
    );
  });
});

async function untilLink(daemon: DaemonProcess, carrier: 'up' | 'down'): Promise<void> {
  await until(`the link is ${carrier}`, async () => (await daemon.port('card')).carrier === carrier, {
    timeoutMs: LINK_MS,
    instead: () => daemon.log,
  });
}

describe('the driver in a guest, by VFIO', function () {
  this.timeout(240_000);
  let model: CardModel;
  let ixgbe: Machine;
  let machine: Machine;
  let address: string;
  const run = (command: string, timeoutMs = 60_000): Promise<string> => machine.shInHostRoot(command, { timeoutMs });

  before(async () => {
    model = await CardModel.start({ cards: 2 });
    [ixgbe, machine] = await Promise.all([
      bootIxgbe(model.sockets[1]!),
      Machine.start({
        name: 'vfio',
        qemu: 'fetched',
        iommu: true,
        memoryMiB: 1024,
        smp: 2,
        hostRoot: true,
        netdevs: [vfioUserCard({ socket: model.sockets[0]! })],
        modules: ['vfio-pci', 'vfio_iommu_type1', 'tun', 'fuse', 'ixgbe'],
      }),
    ]);
    const found = await machine.sh('basename $(dirname $(grep -l 0x10fb /sys/bus/pci/devices/*/device))');
    address = found.trim();
  });
  after(async () => {
    await Promise.all([ixgbe?.stop(), machine?.stop()]);
    await model?.stop();
  });

  it('takes the card from the kernel, and refuses one that the machine uses', async () => {
    await machine.sh('ip address add 10.99.0.1/24 dev eth0');
    const refused = await machine.runInHostRoot(`bin/ringswitch nic bind ${address}`, { timeoutMs: 60_000 });
    assert.notEqual(refused.status, 0);
    assert.match(refused.output, /eth0.*10\.99\.0\.1/s);
    await machine.sh('ip address flush dev eth0');
    await run(`bin/ringswitch nic bind ${address}`);
    assert.match(await run('bin/ringswitch nic list'), new RegExp(`${address}.*vfio-pci`));
  });

  it('opens it by VFIO: registers, interrupts, DMA, reset', async () => {
    const output = await run(`node_modules/.bin/node --no-warnings test/vm/vfio-child.ts ${address} 2>/dev/null`);
    const report = JSON.parse(output.trim().split('\n').at(-1)!) as VfioReport;
    assert.deepEqual([report.vendorId, report.deviceId], [0x8086, 0x10fb]);
    assert.equal(report.registerBytes, 512 * 1024);
    assert.equal(report.interruptVectors, 64);
    assert.equal(report.reset, true);
  });

  it("carries frames between a tap and Linux's ixgbe", async () => {
    const config = `taps: [{ name: tap0 }]\nports: [{ name: card, nic: { device: '${address}' } }]`;
    await run(startDaemon(config, 'card: drives'), 120_000);
    try {
      await run('ip address add 10.78.0.1/24 dev tap0; ip link set tap0 up');
      await run(untilSucceeds(`${SHOW} ports | grep -q '"carrier": "up"'`, 20));
      assert.match(await run(`ping -c 5 -i 0.2 -w 20 ${ipOf(IXGBE)}`), / 0% packet loss/);
      await run('mkdir -p /tmp/www; dd if=/dev/urandom of=/tmp/www/file bs=1M count=4 2>/dev/null');
      await run('busybox httpd -p 8080 -h /tmp/www');
      const sent = await run('sha256sum < /tmp/www/file');
      const fetched = `wget -q -O - http://10.78.0.1:8080/file | sha256sum`;
      assert.equal(await ixgbe.sh(fetched, { timeoutMs: 60_000 }), sent);
      const ports = JSON.parse(await run(`${SHOW} ports`)) as PortStatus[];
      const card = ports.find(({ name }) => name === 'card')!;
      assert.deepEqual(card.nic, { device: address, speedMbps: 10_000 });
      assert.ok(card.counters.tx_bytes! > 4 * 2 ** 20);
    } catch (error) {
      (error as Error).message +=
        `\n-- the daemon's log\n${await run('cat /tmp/rs/log')}\n-- the model's\n${model.log}`;
      throw error;
    } finally {
      await run(STOP_DAEMON);
    }
  });

  it('gives the card back to the kernel, whose driver takes it', async () => {
    await run(`bin/ringswitch nic unbind ${address}`);
    assert.match(await run('bin/ringswitch nic list'), new RegExp(`${address}.*ixgbe`));
    await guestNetwork(machine, '10.78.0.3/24');
    assert.match(await machine.sh(`ping -c 3 -i 0.2 -w 20 ${ipOf(IXGBE)}`), / 0% packet loss/);
  });
});
