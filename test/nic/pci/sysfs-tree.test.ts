import assert from 'node:assert/strict';
import fs from 'node:fs';
import { parsePciAddress } from '../../../nic/pci/address.ts';
import { isBridge, isNetwork, parseResources, SysfsTree } from '../../../nic/pci/sysfs-tree.ts';
import { FakeSysfs, X520_RESOURCE } from '../../helpers/fake-sysfs.ts';

describe('PCI addresses', () => {
  it('are made whole', () => {
    assert.equal(parsePciAddress('0000:01:00.0'), '0000:01:00.0');
    assert.equal(parsePciAddress('0A:1f.7'), '0000:0a:1f.7');
    assert.equal(parsePciAddress('10000:e1:00.1'), '10000:e1:00.1');
  });

  for (const bad of [
    '',
    '01:00',
    '01:00.8',
    '01:20.0',
    '1:00.0',
    '0000:01:00.0 ',
    '../0000:01:00.0',
    'eth0',
    '0000:0g:00.0',
  ]) {
    it(`are not ${JSON.stringify(bad)}`, () => {
      assert.throws(() => parsePciAddress(bad), {
        message: `${JSON.stringify(bad)} is no PCI address: expected one such as 0000:01:00.0 or 01:00.0`,
      });
    });
  }
});

describe('the sysfs tree', () => {
  let sysfs: FakeSysfs;
  beforeEach(() => {
    sysfs = new FakeSysfs();
  });
  afterEach(() => sysfs[Symbol.dispose]());

  it('tells all of a function', () => {
    sysfs.add({ address: '0000:01:00.0', driver: 'ixgbe', group: 7, numaNode: 1, interfaces: ['eth1', 'eth0'] });
    assert.deepEqual(sysfs.tree.function('01:00.0'), {
      address: '0000:01:00.0',
      vendorId: 0x8086,
      deviceId: 0x10fb,
      classCode: 0x020000,
      driver: 'ixgbe',
      driverOverride: null,
      iommuGroup: 7,
      numaNode: 1,
      interfaces: ['eth0', 'eth1'],
      resources: [
        { index: 0, kind: 'memory', start: 0xdf800000, length: 0x80000 },
        { index: 2, kind: 'io', start: 0xecc0, length: 0x20 },
        { index: 4, kind: 'memory', start: 0xdfa00000, length: 0x4000 },
      ],
    });
  });

  it('tells what is not there', () => {
    sysfs.add({ address: '0000:01:00.0', override: 'vfio-pci', resource: '' });
    const { driver, driverOverride, iommuGroup, numaNode, interfaces, resources } = sysfs.tree.function('01:00.0');
    assert.deepEqual(
      { driver, driverOverride, iommuGroup, numaNode, interfaces, resources },
      { driver: null, driverOverride: 'vfio-pci', iommuGroup: null, numaNode: null, interfaces: [], resources: [] },
    );
    fs.writeFileSync(`${sysfs.tree.folder('0000:01:00.0')}/driver_override`, '\n');
    assert.equal(sysfs.tree.function('01:00.0').driverOverride, null);
    fs.rmSync(`${sysfs.tree.folder('0000:01:00.0')}/driver_override`);
    assert.equal(sysfs.tree.function('01:00.0').driverOverride, null);
  });

  it('tells interfaces of a device below the function, and not of a bridge above it', () => {
    sysfs.add({ address: '0000:00:1c.0', class: 0x060400, driver: 'pcieport' });
    sysfs.add({
      address: '0000:01:00.0',
      behind: '0000:00:1c.0',
      vendor: 0x1af4,
      device: 0x1041,
      driver: 'virtio-pci',
    });
    const virtio = `${fs.realpathSync(sysfs.tree.folder('0000:01:00.0'))}/virtio2/net/eth0`;
    fs.mkdirSync(virtio, { recursive: true });
    fs.symlinkSync(virtio, sysfs.path('class/net/eth0'));
    sysfs.addUpper('lo');
    fs.symlinkSync(sysfs.path('nowhere'), sysfs.path('class/net/gone0'));
    const [bridge, card] = sysfs.tree.functions();
    assert.deepEqual([bridge!.interfaces, card!.interfaces], [[], ['eth0']]);
    assert.deepEqual(
      [isBridge(bridge!), isNetwork(bridge!), isBridge(card!), isNetwork(card!)],
      [true, false, false, true],
    );
  });

  it('follows what stands on an interface, in rings too', () => {
    sysfs.add({ address: '0000:01:00.0', driver: 'ixgbe', interfaces: ['eth0'] });
    sysfs.addUpper('bond0', 'eth0').addUpper('br0', 'bond0').addUpper('vlan5', 'bond0', 'br0');
    fs.symlinkSync(sysfs.path('class/net/eth0'), sysfs.path('class/net/br0/upper_eth0'));
    assert.deepEqual(sysfs.tree.withUppers('eth0').sort(), ['bond0', 'br0', 'eth0', 'vlan5']);
    assert.deepEqual(sysfs.tree.withUppers('none0'), ['none0']);
  });

  it('lists functions and groups by address', () => {
    sysfs
      .add({ address: '0000:02:00.0', group: 3 })
      .add({ address: '0000:01:00.1', group: 3 })
      .add({ address: '0000:01:00.0' });
    assert.deepEqual(
      sysfs.tree.functions().map(({ address }) => address),
      ['0000:01:00.0', '0000:01:00.1', '0000:02:00.0'],
    );
    assert.deepEqual(
      sysfs.tree.groupMembers(3).map(({ address }) => address),
      ['0000:01:00.1', '0000:02:00.0'],
    );
    assert.deepEqual(sysfs.tree.groupMembers(4), []);
    fs.writeFileSync(sysfs.path('kernel/iommu_groups/3/type'), 'DMA-FQ\n');
    assert.deepEqual([sysfs.tree.groupType(3), sysfs.tree.groupType(4)], ['DMA-FQ', null]);
  });

  it('names the network functions when one is asked for that is not there', () => {
    assert.throws(
      () => sysfs.tree.function('03:00.0'),
      /^Error: 0000:03:00\.0: no such PCI function in .*; network functions here: none$/,
    );
    sysfs.add({ address: '0000:01:00.0' }).add({ address: '0000:00:1f.0', class: 0x060100 });
    assert.throws(() => sysfs.tree.function('03:00.0'), /network functions here: 0000:01:00\.0$/);
  });

  it('has nothing on a machine without PCI', () => {
    assert.deepEqual(new SysfsTree(sysfs.path('nowhere')).functions(), []);
  });

  it('names the file that holds no number', () => {
    sysfs.add({ address: '0000:01:00.0' });
    const file = `${sysfs.tree.folder('0000:01:00.0')}/vendor`;
    fs.writeFileSync(file, 'Intel\n');
    assert.throws(() => sysfs.tree.functions(), { message: `${file}: expected a hexadecimal number, got "Intel"` });
  });

  it('reads BARs beyond 4 GiB, with flags beyond 32 bits, and skips what stands behind the ROM', () => {
    assert.deepEqual(parseResources('0x0000380000000000 0x00003800000fffff 0x0000010000140204'), [
      { index: 0, kind: 'memory', start: 0x380000000000, length: 0x100000 },
    ]);
    const window = '0x0000000000001000 0x0000000000001fff 0x0000000000000101';
    assert.equal(parseResources(`${X520_RESOURCE}\n${window}`).length, 3);
    assert.deepEqual(parseResources(''), []);
  });
});
