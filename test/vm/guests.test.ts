import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { RingRow } from '../../daemon/control.ts';
import { DaemonProcess } from '../../lab/daemon.ts';
import { guestNetwork, Machine } from '../../lab/machine.ts';
import { NetworkNamespace } from '../../lab/namespace.ts';
import { virtioNetDevice } from '../../lab/virtio-net.ts';
import { close, O_NONBLOCK, O_RDWR, open } from '../../linux/file.ts';
import { IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, ifreq, TUNSETIFF } from '../../linux/if-tun.ts';
import { ioctl } from '../../linux/ioctl.ts';
import { assertPings, assertTransfer, bootGuests, type GuestOptions, ipOf } from './traffic.ts';

const FILE_MIB = 8;

/** What the second guest of each pair is started with; the first is always plain, with vhost. */
const VARIANTS: Record<string, Partial<GuestOptions>> = {
  'vhost=on': {},
  'vhost=off': { vhost: false },
  'queues=4': { queues: 4, machine: { smp: 2 } },
  'queues=4, vhost=off': { queues: 4, vhost: false, machine: { smp: 2 } },
  'mrg_rxbuf=off': { device: 'mrg_rxbuf=off' },
  'event_idx=off': { device: 'event_idx=off' },
  'indirect_desc=off': { device: 'indirect_desc=off' },
  'packed=off': { device: 'packed=off' },
  'packed=on': { device: 'packed=on' },
  'all of them off': { device: 'mrg_rxbuf=off,event_idx=off,indirect_desc=off,packed=off' },
  'legacy (disable-modern=on)': { device: 'disable-modern=on,disable-legacy=off' },
  'no offloads': {
    device: 'csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off',
  },
};

describe('QEMU guests', function () {
  this.timeout(120_000);
  let daemon: DaemonProcess;
  before(async () => {
    daemon = await DaemonProcess.start();
  });
  after(async () => {
    await daemon?.dispose();
  });

  for (const [name, variant] of Object.entries(VARIANTS)) {
    it(`ping and exchange files both ways: ${name}`, async () => {
      const [plain, other] = await bootGuests(
        daemon,
        { name: 'plain', number: 1 },
        { name: 'other', number: 2, ...variant },
      );
      try {
        const queues = variant.queues ?? 1;
        if (queues > 1) await other!.sh(`ethtool -L eth0 combined ${queues}`);
        const port = await daemon.port('other');
        assert.equal(port.queues, queues);
        if (variant.vhost === false) assert.equal(port.path, 'file');
        else assert.notEqual(port.path, 'file');
        await assertPings(plain!, 2);
        await assertPings(other!, 1);
        await assertTransfer(plain!, 1, other!, FILE_MIB);
        await assertTransfer(other!, 2, plain!, FILE_MIB);
        const rings = await daemon.rings();
        assert.deepEqual(
          rings.filter((ring) => ring.error !== null),
          [],
        );
        const served = rings.filter((ring) => ring.port === 'other');
        assert.equal(served.length, variant.vhost === false ? 0 : 2 * queues);
        for (const { features } of served) assertFeatures(features, variant.device ?? '');
        if (queues > 1) await assertQueuesUsed(other!, queues);
      } finally {
        await Promise.all([plain, other].map((guest) => guest?.stop()));
      }
      await assertNoGuestPorts(daemon);
    });
  }

  it('go on where their packed rings stood when QEMU stops and continues', async () => {
    const monitor = path.join(daemon.directory, 'monitor');
    const [plain, other] = await bootGuests(
      daemon,
      { name: 'plain', number: 1 },
      {
        name: 'other',
        number: 2,
        device: 'packed=on',
        machine: { extraArgs: ['-monitor', `unix:${monitor},server=on,wait=off`] },
      },
    );
    try {
      const served = async (): Promise<RingRow[]> => (await daemon.rings()).filter(({ port }) => port === 'other');
      // Each transfer is some laps of rings of 256, so that both wrap counters have their turn.
      for (let round = 0; round < 3; round++) {
        await assertTransfer(plain!, 1, other!, 1);
        await assertTransfer(other!, 2, plain!, 1);
        await tellQemu(monitor, 'stop', async () => (await served()).length === 0);
        await tellQemu(monitor, 'cont', async () => (await served()).length === 2);
        await assertPings(plain!, 2);
      }
      for (const { error } of await served()) assert.equal(error, null);
    } finally {
      await Promise.all([plain, other].map((guest) => guest?.stop()));
    }
    await assertNoGuestPorts(daemon);
  });

  for (const device of ['packed=off', 'packed=on', 'mrg_rxbuf=off,indirect_desc=off,event_idx=off']) {
    it(`exchange files without shared memory, with one warning (${device})`, async () => {
      const logged = daemon.log.length;
      const [plain, secret] = await bootGuests(
        daemon,
        { name: 'plain', number: 1 },
        { name: 'secret', number: 2, device, machine: { sharedMemory: false } },
      );
      try {
        assert.equal((await daemon.port('plain')).path, 'vhost');
        assert.equal((await daemon.port('secret')).path, 'vhost-copied');
        await assertPings(plain!, 2);
        await assertPings(secret!, 1);
        await assertTransfer(plain!, 1, secret!, FILE_MIB);
        await assertTransfer(secret!, 2, plain!, FILE_MIB);
        const rings = (await daemon.rings()).filter(({ port }) => port === 'secret');
        assert.deepEqual(
          rings.map(({ error }) => error),
          [null, null],
        );
        const warnings = daemon.log.slice(logged).match(/.*is private to it: every batch of frames costs .*/g) ?? [];
        assert.equal(warnings.length, 1, warnings.join('\n'));
        assert.match(warnings[0]!, /secret: .*qemu.*memory-backend-memfd.*share=on/);
      } finally {
        await Promise.all([plain, secret].map((guest) => guest?.stop()));
      }
      await assertNoGuestPorts(daemon);
    });
  }

  it('run on descriptors that somebody else opened (fd=, vhostfd=)', async () => {
    const tun = open(daemon.tun, O_RDWR | O_NONBLOCK);
    const vhostNet = open(daemon.vhostNet, O_RDWR);
    try {
      ioctl(tun, TUNSETIFF, ifreq('handed', IFF_TAP | IFF_NO_PI | IFF_VNET_HDR), 'TUNSETIFF');
      const handed = await Machine.start({
        name: 'handed',
        stdio: [tun, vhostNet],
        netdevs: [['-netdev', 'tap,id=net0,fd=3,vhost=on,vhostfd=4', ...virtioNetDevice('net0', '52:54:00:78:00:02')]],
      });
      const [plain] = await bootGuests(daemon, { name: 'plain', number: 1 });
      try {
        await guestNetwork(handed, `${ipOf(2)}/24`);
        // Nobody could tell the switch of offloads (TUNSETOFFLOAD needs exec), so it does them for this port.
        const { path, offloads } = await daemon.port('handed');
        assert.deepEqual({ path, offloads }, { path: 'vhost', offloads: [] });
        await assertPings(plain!, 2);
        await assertTransfer(plain!, 1, handed, FILE_MIB);
        await assertTransfer(handed, 2, plain!, FILE_MIB);
      } finally {
        await Promise.all([handed.stop(), plain!.stop()]);
      }
    } finally {
      close(tun);
      close(vhostNet);
    }
    await assertNoGuestPorts(daemon);
  });

  it('exchange files with a Linux tap in a network namespace', async () => {
    await using namespace = await NetworkNamespace.create('guests');
    await daemon.addTap('rstap0');
    await namespace.moveIn('rstap0');
    await namespace.address('rstap0', `${ipOf(9)}/24`);
    const [guest] = await bootGuests(daemon, { name: 'guest', number: 1 });
    try {
      await assertPings(guest!, 9);
      await guest!.sh(`mkdir -p /tmp/www && dd if=/dev/urandom of=/tmp/www/file bs=1M count=${FILE_MIB} 2>/dev/null`);
      await guest!.sh('httpd -p 8080 -h /tmp/www');
      const url = `http://${ipOf(1)}:8080/file`;
      const got = await namespace.exec(['sh', '-c', `busybox wget -q -O - ${url} | busybox sha256sum`]);
      assert.equal(got, await guest!.sh('sha256sum < /tmp/www/file'));
      await using server = namespace.spawn(['iperf3', '-s', '-1', '--forceflush']);
      await server.waitFor('its socket', 5000, () => server.stdout.includes('listening'));
      const report = await guest!.sh(`iperf3 -c ${ipOf(9)} -t 2`, { timeoutMs: 20_000 });
      assert.match(report, /iperf Done/);
    } finally {
      await guest!.stop();
      await daemon.client.delete('/v1/ports/rstap0');
    }
  });
});

/** Gives QEMU's monitor a command, and waits for what follows from it. */
async function tellQemu(monitor: string, command: string, done: () => Promise<boolean>): Promise<void> {
  const socket = net.connect(monitor);
  try {
    await once(socket, 'connect');
    socket.write(`${command}\n`);
    for (const deadline = Date.now() + 5000; !(await done()); await delay(50)) {
      assert.ok(Date.now() < deadline, `QEMU's \`${command}\` had no effect`);
    }
  } finally {
    socket.destroy();
  }
}

/** The features of a ring are what the card's properties allow. */
function assertFeatures(features: string[], device: string): void {
  const expected = [
    ['MRG_RXBUF', 'mrg_rxbuf=off'],
    ['EVENT_IDX', 'event_idx=off'],
    ['INDIRECT_DESC', 'indirect_desc=off'],
    ['VERSION_1', 'disable-modern=on'],
  ] as const;
  for (const [feature, off] of expected) assert.equal(features.includes(feature), !device.includes(off), feature);
  assert.equal(features.includes('RING_PACKED'), device.includes('packed=on'), 'RING_PACKED');
}

/** More than one of the guest's receive queues has seen frames: flows are spread. */
async function assertQueuesUsed(guest: Machine, queues: number): Promise<void> {
  const statistics = await guest.sh('ethtool -S eth0');
  let used = 0;
  for (let queue = 0; queue < queues; queue++) {
    const packets = new RegExp(`rx_queue_${queue}_packets: (\\d+)|rx${queue}_packets: (\\d+)`).exec(statistics);
    assert.ok(packets, `no packet counter of queue ${queue} in: ${statistics}`);
    if (Number(packets[1] ?? packets[2]) > 0) used++;
  }
  assert.ok(used > 1, `all frames came to one queue of ${queues}: ${statistics}`);
}

/** Ports go with their QEMU, a moment after it. */
async function assertNoGuestPorts(daemon: DaemonProcess): Promise<void> {
  const deadline = Date.now() + 5000;
  for (;;) {
    const guests = (await daemon.ports()).filter((port) => port.kind === 'guest');
    if (guests.length === 0) return;
    assert.ok(Date.now() < deadline, `ports are left: ${guests.map((port) => port.name)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
