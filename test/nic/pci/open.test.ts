import assert from 'node:assert/strict';
import fs from 'node:fs';
import { openPciDevice } from '../../../nic/pci/open.ts';
import { SysfsDevice } from '../../../nic/pci/sysfs-device.ts';
import { VfioDevice } from '../../../nic/pci/vfio-device.ts';
import { FakeSysfs } from '../../helpers/fake-sysfs.ts';
import { FakeVfio } from '../../helpers/fake-vfio.ts';

const CARD = '0000:01:00.0';

describe('opening a card by its name', () => {
  let sysfs: FakeSysfs;
  beforeEach(() => {
    sysfs = new FakeSysfs();
  });
  afterEach(() => sysfs[Symbol.dispose]());
  const openCard = (name: string, withoutIommu = false) =>
    openPciDevice(name, { tree: sysfs.tree, dev: sysfs.dev, system: new FakeVfio(sysfs.dev), withoutIommu });

  it('takes VFIO for one that is bound to vfio-pci, whatever else is allowed', () => {
    sysfs.add({ address: CARD, driver: 'vfio-pci', group: 7 });
    for (const [name, withoutIommu] of [
      [CARD, false],
      ['01:00.0', true],
    ] as const) {
      const device = openCard(name, withoutIommu);
      assert.ok(device instanceof VfioDevice);
      assert.equal(device.name, CARD);
      device.close();
    }
  });

  it('takes sysfs for one that no driver has, where that is allowed', () => {
    sysfs.add({ address: CARD });
    const folder = sysfs.tree.folder(CARD);
    fs.writeFileSync(`${folder}/config`, Buffer.alloc(4096));
    fs.writeFileSync(`${folder}/resource0`, Buffer.alloc(2 ** 19));
    fs.writeFileSync(`${folder}/enable`, '0\n');
    const device = openCard(CARD, true);
    assert.ok(device instanceof SysfsDevice);
    device.close();
  });

  it('says how to bind one that is not', () => {
    sysfs.add({ address: CARD, driver: 'ixgbe', group: 7 });
    assert.throws(
      () => openCard('01:00.0'),
      /^Error: 0000:01:00\.0: bound to ixgbe: bind it to vfio-pci \(ringswitch nic bind 0000:01:00\.0\)/,
    );
    assert.throws(() => openCard(CARD, true), /ixgbe drives it: ringswitch nic bind 0000:01:00\.0 --driver none$/);
  });

  it('refuses what is no card', () => {
    assert.throws(() => openCard('01:00.0'), /no such PCI function/);
    assert.throws(() => openCard('eth0'), /"eth0" is no PCI address/);
  });
});
