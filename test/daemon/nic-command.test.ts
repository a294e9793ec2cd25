import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { ControlError, type PortStatus } from '../../daemon/control.ts';
import { ControlClient } from '../../daemon/control-client.ts';
import { ControlServer } from '../../daemon/control-server.ts';
import { askDaemon, bindNic, formatNic, formatNics, listNics, showNic, unbindNic } from '../../daemon/nic-command.ts';
import { Program } from '../../lab/program.ts';
import type { NetworkState } from '../../nic/pci/network-state.ts';
import { cardPort, FakeControl, guestPort } from '../helpers/fake-control.ts';
import { FakeKernel, FakeSysfs } from '../helpers/fake-sysfs.ts';

const RINGSWITCH = path.join(import.meta.dirname, '../../bin/ringswitch');
const CARD = '0000:01:00.0';

describe('ringswitch nic', function () {
  this.timeout(30_000);
  let sysfs: FakeSysfs;
  beforeEach(() => {
    sysfs = new FakeSysfs().driver('vfio-pci');
    sysfs.add({ address: '0000:00:1f.2', class: 0x010601, driver: 'ahci' });
    sysfs.add({ address: '0000:00:1c.0', class: 0x060400, driver: 'pcieport', group: 7 });
    sysfs.add({ address: CARD, driver: 'ixgbe', group: 7, numaNode: 0, interfaces: ['eth1'] });
    sysfs.add({ address: '0000:02:00.0', vendor: 0x1af4, device: 0x1041 });
  });
  afterEach(() => sysfs[Symbol.dispose]());

  const state: NetworkState = {
    addresses: [{ interface: 'eth1', address: '192.0.2.2/24' }],
    routes: [{ interface: 'eth1', destination: 'default', gateway: '192.0.2.1' }],
  };
  const options = () => ({ tree: sysfs.tree, network: () => state });

  async function ringswitch(...words: string[]) {
    await using program = new Program([RINGSWITCH, 'nic', ...words]);
    const end = await program.ended;
    return { status: Number(end.replace('exited with status ', '')), stdout: program.stdout, stderr: program.stderr };
  }

  it('lists network cards alone', () => {
    assert.deepEqual(listNics(options()), [
      {
        address: CARD,
        id: '8086:10fb',
        name: '82599ES SFP+ (X520)',
        driver: 'ixgbe',
        iommuGroup: 7,
        interfaces: ['eth1'],
        uses: ['eth1: 192.0.2.2/24, the default route via 192.0.2.1'],
      },
      {
        address: '0000:02:00.0',
        id: '1af4:1041',
        name: null,
        driver: null,
        iommuGroup: null,
        interfaces: [],
        uses: [],
      },
    ]);
    assert.equal(
      formatNics(listNics(options())),
      [
        'ADDRESS       ID         NAME                 DRIVER  GROUP  INTERFACES  IN USE',
        '0000:01:00.0  8086:10fb  82599ES SFP+ (X520)  ixgbe   7      eth1        eth1: 192.0.2.2/24, the default route via 192.0.2.1',
        '0000:02:00.0  1af4:1041  -                    -       -      -           -',
      ].join('\n'),
    );
    assert.equal(formatNics([]), 'no network cards on this machine');
  });

  it('lists them where nobody knows what they carry', () => {
    const network = (): never => {
      throw new Error('there is no ip(8)');
    };
    const rows = listNics({ tree: sysfs.tree, network });
    assert.deepEqual(
      rows.map(({ uses }) => uses),
      [null, null],
    );
    assert.match(formatNics(rows), /eth1 {8}unknown\n/);
  });

  it('shows one card', () => {
    sysfs.add({ address: '0000:01:00.1', driver: 'ixgbe', group: 7 });
    assert.equal(
      formatNic(showNic('01:00.0', options())),
      [
        'address      0000:01:00.0',
        'id           8086:10fb 82599ES SFP+ (X520), class 020000',
        'driver       ixgbe',
        'interfaces   eth1',
        'in use       eth1: 192.0.2.2/24, the default route via 192.0.2.1',
        'numa node    0',
        'iommu group  7',
        '  with       0000:00:1c.0 8086:10fb, driver pcieport',
        '  with       0000:01:00.1 8086:10fb, driver ixgbe',
        'bar 0        512.0 KiB of memory at 0xdf800000',
        'bar 2        32 B of io at 0xecc0',
        'bar 4        16.0 KiB of memory at 0xdfa00000',
      ].join('\n'),
    );
    sysfs.add({ address: '0000:01:00.2', driver: 'vfio-pci', override: 'vfio-pci', group: 7 });
    const details = showNic('01:00.2', options());
    assert.match(formatNic(details), /\ndriver {7}vfio-pci \(only vfio-pci may take it\)\n/);
    assert.match(
      formatNic(details),
      /\nnote {9}0000:01:00\.0 \(driver ixgbe\) shares IOMMU group 7 with it: bind that too/,
    );
    assert.throws(() => showNic('00:1f.2', options()), {
      message: '0000:00:1f.2: it is no network card (class 010601)',
    });
    assert.throws(() => showNic('09:00.0', options()), /no such PCI function.*here: 0000:01:00\.0, /);
  });

  describe('asks a daemon', () => {
    let directory: string;
    let control: FakeControl;
    let server: ControlServer;
    let client: ControlClient;
    let ports: PortStatus[];

    beforeEach(async () => {
      directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-nic-'));
      const socket = path.join(directory, 'control.sock');
      ports = [guestPort(), portOf('up0', '0000:02:00.0')];
      control = Object.assign(new FakeControl(), { ports: () => ports });
      server = await ControlServer.start(socket, control, { debug() {}, info() {}, warn() {}, error() {} });
      client = new ControlClient(socket);
    });
    afterEach(async () => {
      await server.stop();
      fs.rmSync(directory, { recursive: true });
    });

    function portOf(name: string, device: string, speedMbps = 0, error: string | null = null): PortStatus {
      const asked = { name, device, queues: 2, descriptors: 512, mtu: 1500, withoutIommu: false };
      return { ...cardPort(asked), nic: { device, speedMbps }, error };
    }
    const show = () => askDaemon(showNic(CARD, options()), client);
    /** What it prints behind what is known without a daemon. */
    const printed = async (): Promise<string> => formatNic(await show()).split(/at 0xdfa00000\n/)[1] ?? '';

    for (const device of [CARD, '01:00.0']) {
      it(`for the link and the counters of a card that it has as ${device}`, async () => {
        ports.push(portOf('up1', device, 10_000));
        assert.deepEqual((await show()).port, {
          name: 'up1',
          queues: 2,
          link: 'up',
          speedMbps: 10_000,
          error: null,
          statistics: { rx_packets: 3, rx_bytes: 192, rx_missed: 0 },
        });
        assert.deepEqual(control.asked.at(-1), ['cardStatistics', 'up1']);
        const text = await printed();
        assert.deepEqual(
          text.split('\n').map((line) => line.split(/ {2,}(?=\S)/)),
          [
            ['port', 'up1, queue pairs: 2'],
            ['link', 'up at 10000 Mb/s'],
            ['', 'rx_packets', '3'],
            ['', 'rx_bytes', '192'],
          ],
        );
      });
    }

    it('which has a card without a link', async () => {
      ports.push(portOf('up1', CARD));
      assert.match(await printed(), /^port +up1, .*\nlink +down\n/);
    });

    it('which has lost the card, and counts no more', async () => {
      const lost = 'the card does not answer any more: its registers read as all ones';
      ports.push(portOf('up1', CARD, 0, lost));
      assert.equal((await show()).port?.statistics, null);
      assert.match(await printed(), /^port .*\nlink +down\nerror +the card does not answer any more: .*$/);
      assert.deepEqual(control.asked, []);
    });

    it('which has other cards only', async () => {
      assert.deepEqual(await show(), showNic(CARD, options()));
      assert.equal(await printed(), '');
    });

    it('which does not answer, and shows the rest', async () => {
      const nobody = new ControlClient(path.join(directory, 'nobody'));
      const details = await askDaemon(showNic(CARD, options()), nobody);
      assert.equal(details.port, null);
      assert.match(
        formatNic(details),
        /^address +0000:01:00\.0\n(?:.*\n)+note +no daemon answers at the control socket .*nobody/,
      );
    });

    it('which refuses, and shows the rest', async () => {
      ports.push(portOf('up1', CARD, 10_000));
      control.fault = new ControlError(409, 'ENODEV', 'up1: the card has gone');
      assert.match(await printed(), /^note +up1: the card has gone$/);
    });
  });

  it('binds and unbinds, and says what it did', () => {
    const writer = new FakeKernel(sysfs, { driver: 'ixgbe', interfaces: ['eth1'] });
    const binding = { tree: sysfs.tree, writer, dev: sysfs.dev, network: () => state };
    assert.throws(() => bindNic(CARD, binding), /refused: the machine itself uses it: eth1: 192\.0\.2\.2\/24/);
    assert.equal(unbindNic(CARD, binding), `${CARD}: already bound to ixgbe, interfaces eth1`);
    assert.equal(bindNic('01:00.0', { ...binding, force: true }), `${CARD}: bound to vfio-pci`);
    sysfs.add({ address: '0000:01:00.1', driver: 'ixgbe', group: 7 });
    assert.equal(
      bindNic(CARD, binding),
      `${CARD}: already bound to vfio-pci\nnote: 0000:01:00.1 (driver ixgbe) shares IOMMU group 7 with it: ` +
        `bind that too before ${CARD} can be used`,
    );
    assert.equal(bindNic(CARD, { ...binding, driver: 'none' }), `${CARD}: has no driver (none)`);
    assert.equal(unbindNic(CARD, binding), `${CARD}: bound to ixgbe, interfaces eth1`);
  });

  it('lists the cards of this machine, as a table and as JSON', async () => {
    const { status, stdout, stderr } = await ringswitch('list', '--json');
    assert.deepEqual([status, stderr], [0, '']);
    assert.deepEqual(JSON.parse(stdout), listNics());
    assert.equal((await ringswitch('list')).stdout, `${formatNics(listNics())}\n`);
  });

  // Nothing here may name a card that this machine could have.
  const refused: [words: string[], status: number, message: RegExp][] = [
    [[], 2, /^Usage: ringswitch nic /],
    [['show'], 2, /^ringswitch: missing required argument 'address'/],
    [['bind', '--driver'], 2, /^ringswitch: option '--driver <driver>' argument missing/],
    [['list', 'extra'], 2, /^ringswitch: too many arguments for 'list'/],
    [['show', 'eth0'], 1, /^ringswitch: "eth0" is no PCI address: expected one such as 0000:01:00\.0 or 01:00\.0\n$/],
    [['bind', 'ffff0000:ff:1f.7'], 1, /^ringswitch: ffff0000:ff:1f\.7: no such PCI function/],
    [['bind', '01:00', '--force'], 1, /^ringswitch: "01:00" is no PCI address/],
    [['unbind', 'ffff0000:ff:1f.7'], 1, /^ringswitch: ffff0000:ff:1f\.7: no such PCI function/],
  ];
  for (const [words, wanted, message] of refused) {
    it(`refuses "${['nic', ...words].join(' ')}" with status ${wanted}`, async () => {
      const { status, stdout, stderr } = await ringswitch(...words);
      assert.match(stderr, message);
      assert.deepEqual([status, stdout], [wanted, '']);
    });
  }
});
