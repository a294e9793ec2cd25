import assert from 'node:assert/strict';
import fs from 'node:fs';
import { bindFunction, unbindFunction } from '../../../nic/pci/binding.ts';
import type { NetworkState } from '../../../nic/pci/network-state.ts';
import { FakeKernel, FakeSysfs } from '../../helpers/fake-sysfs.ts';

const CARD = '0000:01:00.0';
const NOTHING: NetworkState = { addresses: [], routes: [] };

describe('binding a card', () => {
  let sysfs: FakeSysfs;
  let kernel: FakeKernel;
  let state: NetworkState;
  beforeEach(() => {
    sysfs = new FakeSysfs().driver('ixgbe', 'vfio-pci');
    kernel = new FakeKernel(sysfs, { driver: 'ixgbe', interfaces: ['eth1'] });
    state = NOTHING;
  });
  afterEach(() => sysfs[Symbol.dispose]());

  const options = () => ({ tree: sysfs.tree, writer: kernel, network: () => state, dev: sysfs.dev });
  const card = (more = {}) => sysfs.add({ address: CARD, driver: 'ixgbe', group: 7, interfaces: ['eth1'], ...more });
  const device = (file: string) => `bus/pci/devices/${CARD}/${file}`;

  it('takes it from the kernel and gives it to vfio-pci', () => {
    card();
    const { function: fn, changed, notes } = bindFunction('01:00.0', options());
    assert.deepEqual(
      [fn.driver, fn.driverOverride, fn.interfaces, changed, notes],
      ['vfio-pci', 'vfio-pci', [], true, []],
    );
    assert.deepEqual(kernel.writes, [
      `${device('driver_override')} = vfio-pci`,
      `${device('driver/unbind')} = ${CARD}`,
      `bus/pci/drivers_probe = ${CARD}`,
    ]);
  });

  it('takes one that has no driver', () => {
    card({ driver: undefined, interfaces: [] });
    assert.equal(bindFunction(CARD, options()).function.driver, 'vfio-pci');
    assert.equal(kernel.writes.length, 2);
  });

  it('does nothing the second time', () => {
    card({ driver: 'vfio-pci', interfaces: [] });
    const { changed } = bindFunction(CARD, options());
    assert.deepEqual([changed, kernel.writes], [false, []]);
  });

  it('can leave it without a driver, for use without an IOMMU', () => {
    card({ group: undefined });
    const { function: fn } = bindFunction(CARD, { ...options(), driver: 'none' });
    assert.deepEqual([fn.driver, fn.driverOverride], [null, 'none']);
    assert.equal(bindFunction(CARD, { ...options(), driver: 'none' }).changed, false);
    assert.equal(unbindFunction(CARD, options()).function.driver, 'ixgbe');
  });

  it('keeps drivers that are loaded later from one that has none', () => {
    card({ driver: undefined, interfaces: [] });
    assert.equal(bindFunction(CARD, { ...options(), driver: 'none' }).changed, true);
    assert.deepEqual(kernel.writes, [`${device('driver_override')} = none`]);
  });

  it('says which other members of the group have to follow', () => {
    card().add({ address: '0000:01:00.1', driver: 'ixgbe', group: 7 });
    sysfs.add({ address: '0000:00:1c.0', class: 0x060400, driver: 'pcieport', group: 7 });
    sysfs.add({ address: '0000:01:00.2', group: 7 });
    const note = `0000:01:00.1 (driver ixgbe) shares IOMMU group 7 with it: bind that too before ${CARD} can be used`;
    assert.deepEqual(bindFunction(CARD, options()).notes, [note]);
    assert.deepEqual(bindFunction(CARD, options()).notes, [note]);
  });

  describe('that the machine itself uses', () => {
    const refused = (why: string) => {
      assert.throws(() => bindFunction(CARD, options()), {
        message:
          `${CARD}: refused: the machine itself uses it: ${why}. Move these to another interface first ` +
          '(--force takes the card all the same, and with it whatever goes over it)',
      });
      assert.deepEqual(kernel.writes, []);
      assert.equal(sysfs.tree.function(CARD).driver, 'ixgbe');
    };

    it('is refused for its addresses and routes, by name', () => {
      card();
      state = {
        addresses: [
          { interface: 'eth1', address: '192.0.2.2/24' },
          { interface: 'eth9', address: '10.0.0.1/8' },
        ],
        routes: [{ interface: 'eth1', destination: 'default', gateway: '192.0.2.1' }],
      };
      refused('eth1: 192.0.2.2/24, the default route via 192.0.2.1');
    });

    it('is refused for a route alone', () => {
      card();
      state = { addresses: [], routes: [{ interface: 'eth1', destination: '198.51.100.0/24', gateway: null }] };
      refused('eth1: the route to 198.51.100.0/24');
    });

    it('is refused for what its bridge or VLAN carries', () => {
      card();
      sysfs.addUpper('br0', 'eth1').addUpper('br0.5', 'br0');
      state = { addresses: [{ interface: 'br0.5', address: '192.0.2.2/24' }], routes: [] };
      refused('br0.5 (on eth1): 192.0.2.2/24');
    });

    it('is taken by force', () => {
      card();
      state = { addresses: [{ interface: 'eth1', address: '192.0.2.2/24' }], routes: [] };
      assert.equal(bindFunction(CARD, { ...options(), force: true }).function.driver, 'vfio-pci');
    });

    it('is refused where nobody knows what it carries, and taken by force', () => {
      card();
      const network = (): never => {
        throw new Error('there is no ip(8); install iproute2');
      };
      assert.throws(() => bindFunction(CARD, { ...options(), network }), {
        message: `${CARD}: refused: there is no ip(8); install iproute2 (--force binds it all the same)`,
      });
      assert.deepEqual(kernel.writes, []);
      assert.equal(bindFunction(CARD, { ...options(), network, force: true }).changed, true);
    });
  });

  it('refuses what is no network card, by force too', () => {
    card({ class: 0x010802, driver: 'nvme', interfaces: [] });
    for (const action of [
      () => bindFunction(CARD, { ...options(), force: true }),
      () => unbindFunction(CARD, options()),
    ]) {
      assert.throws(action, { message: `${CARD}: it is no network card (class 010802): its driver is not changed` });
    }
    assert.deepEqual(kernel.writes, []);
  });

  it('refuses drivers that are not there, or no names', () => {
    card();
    assert.throws(() => bindFunction(CARD, { ...options(), driver: 'uio_pci_generic' }), {
      message: `${CARD}: the kernel has no driver uio_pci_generic now: modprobe uio_pci_generic`,
    });
    for (const driver of ['', '../ixgbe', 'a b']) {
      assert.throws(() => bindFunction(CARD, { ...options(), driver }), {
        message: `${JSON.stringify(driver)} is no name of a driver`,
      });
    }
    assert.deepEqual(kernel.writes, []);
  });

  it('refuses vfio-pci without an IOMMU', () => {
    card({ group: undefined });
    assert.throws(() => bindFunction(CARD, options()), /vfio-pci needs an IOMMU.*intel_iommu=on.*--driver none/);
    assert.deepEqual(kernel.writes, []);
  });

  it('gives the card back when the driver does not take it', () => {
    card();
    kernel.failing.push('vfio-pci');
    assert.throws(() => bindFunction(CARD, options()), {
      message: `${CARD}: it should have vfio-pci now, but has none: the kernel's log (dmesg) says why; it has ixgbe again`,
    });
    const { driver, driverOverride, interfaces } = sysfs.tree.function(CARD);
    assert.deepEqual([driver, driverOverride, interfaces], ['ixgbe', null, ['eth1']]);
  });

  it('tells when it cannot be given back either', () => {
    card();
    kernel.failing.push('vfio-pci', 'ixgbe');
    assert.throws(() => bindFunction(CARD, options()), /; it had ixgbe, and has none now$/);
  });

  for (const [file, code, advice] of [
    ['driver_override', 'EACCES', /driver_override failed: EACCES: run as root; nothing was changed$/],
    [
      'driver_override',
      'EROFS',
      /failed: EROFS: sysfs is read-only here, as in a container: run it on the host; nothing/,
    ],
    ['unbind', 'ENODEV', /driver\/unbind failed: ENODEV \(ENODEV: refused\); it has ixgbe again$/],
    [
      'drivers_probe',
      'EINVAL',
      /drivers_probe failed: EINVAL .*; and it could not be given back to ixgbe: .*drivers_probe failed/,
    ],
  ] as const) {
    it(`tells of ${code} from ${file}`, () => {
      card();
      kernel.refuse[file] = code;
      assert.throws(() => bindFunction(CARD, options()), advice);
    });
  }
});

describe('giving a card back', () => {
  let sysfs: FakeSysfs;
  let kernel: FakeKernel;
  beforeEach(() => {
    sysfs = new FakeSysfs().driver('ixgbe', 'vfio-pci');
    kernel = new FakeKernel(sysfs, { driver: 'ixgbe', interfaces: ['eth1'] });
  });
  afterEach(() => sysfs[Symbol.dispose]());
  const options = () => ({ tree: sysfs.tree, writer: kernel, dev: sysfs.dev });

  it("lets the kernel's driver take it", () => {
    sysfs.add({ address: CARD, driver: 'vfio-pci', override: 'vfio-pci', group: 7 });
    const { function: fn, changed } = unbindFunction('01:00.0', options());
    assert.deepEqual([fn.driver, fn.driverOverride, fn.interfaces, changed], ['ixgbe', null, ['eth1'], true]);
  });

  it('does nothing the second time', () => {
    sysfs.add({ address: CARD, driver: 'ixgbe', interfaces: ['eth1'] });
    assert.deepEqual([unbindFunction(CARD, options()).changed, kernel.writes], [false, []]);
  });

  it('takes away the mark that is left of a binding', () => {
    sysfs.add({ address: CARD, driver: 'ixgbe', override: 'vfio-pci', interfaces: ['eth1'] });
    const { function: fn, changed } = unbindFunction(CARD, options());
    assert.deepEqual([fn.driver, fn.driverOverride, changed], ['ixgbe', null, true]);
  });

  it('tells when no driver takes it', () => {
    sysfs.add({ address: CARD, driver: 'vfio-pci', override: 'vfio-pci', group: 7 });
    sysfs.add({ address: '0000:02:00.0', vendor: 1, device: 2, driver: 'vfio-pci', override: 'vfio-pci', group: 8 });
    kernel.failing.push('ixgbe');
    assert.throws(() => unbindFunction(CARD, options()), {
      message: `${CARD}: no driver of the kernel took it: it has none now. Load its driver (modprobe ixgbe), which takes it then`,
    });
    assert.throws(() => unbindFunction('02:00.0', options()), /\(modprobe -a pci:v1d2\)/);
  });

  for (const file of ['vfio/7', 'vfio/devices/vfio3']) {
    it(`refuses one that a program has open as ${file}, and does not wait`, () => {
      sysfs.add({ address: CARD, driver: 'vfio-pci', override: 'vfio-pci', group: 7 });
      fs.mkdirSync(`${sysfs.tree.folder(CARD)}/vfio-dev/vfio3`, { recursive: true });
      fs.mkdirSync(`${sysfs.dev}/vfio/devices`);
      const fd = fs.openSync(`${sysfs.dev}/${file}`, 'w');
      try {
        const inUse = new RegExp(
          `^Error: ${CARD}: in use by \\S+ \\(${process.pid}\\): stop that, or remove its port, first$`,
        );
        assert.throws(() => unbindFunction(CARD, options()), inUse);
        assert.throws(() => bindFunction(CARD, { ...options(), driver: 'none' }), inUse);
        assert.deepEqual(kernel.writes, []);
      } finally {
        fs.closeSync(fd);
      }
      assert.equal(unbindFunction(CARD, options()).changed, true);
    });
  }
});
