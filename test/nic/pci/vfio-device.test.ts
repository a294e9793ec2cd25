import assert from 'node:assert/strict';
import fs from 'node:fs';
import * as errno from '../../../linux/errno.ts';
import { viewMemory } from '../../../linux/libc.ts';
import * as vfio from '../../../linux/vfio.ts';
import { VfioDevice } from '../../../nic/pci/vfio-device.ts';
import { FakeSysfs } from '../../helpers/fake-sysfs.ts';
import { FakeVfio } from '../../helpers/fake-vfio.ts';

const CARD = '0000:01:00.0';
const GIB = 2 ** 30;
const MIB = 2 ** 20;
const OPENING = ['open /vfio/vfio', 'open /vfio/7', 'SET_CONTAINER', 'SET_IOMMU 3', 'GET_DEVICE_FD', 'config 4 = 2'];

describe('a card through VFIO', () => {
  let sysfs: FakeSysfs;
  let kernel: FakeVfio;
  let device: VfioDevice | null;
  beforeEach(() => {
    sysfs = new FakeSysfs().add({ address: CARD, driver: 'vfio-pci', group: 7 });
    kernel = new FakeVfio(sysfs.dev);
    device = null;
  });
  afterEach(() => {
    device?.close();
    sysfs[Symbol.dispose]();
    assert.deepEqual([[...kernel.open_], kernel.mapped], [[], 0], 'nothing stays open or mapped');
  });

  function openCard(): VfioDevice {
    device = VfioDevice.open('01:00.0', { tree: sysfs.tree, dev: sysfs.dev, system: kernel });
    return device;
  }

  it('is opened in the order that the kernel wants, and closed in the other', () => {
    const card = openCard();
    assert.deepEqual(kernel.log.splice(0), OPENING);
    assert.deepEqual(
      [card.name, card.vendorId, card.deviceId, card.interruptVectors, card.needsHugepages],
      [CARD, 0x8086, 0x10fb, 64, false],
    );
    card.setBusMaster(true);
    card.setInterrupts([5]);
    kernel.log.length = 0;
    card.close();
    card.close();
    assert.deepEqual(kernel.log, [
      'config 4 = 2',
      'interrupts off',
      'unmap',
      'close device',
      'close group',
      'close container',
    ]);
  });

  it('does with a type 1 IOMMU of the first version', () => {
    kernel.extensions = [vfio.VFIO_TYPE1_IOMMU];
    openCard();
    assert.equal(kernel.iommu, vfio.VFIO_TYPE1_IOMMU);
  });

  it('has its registers mapped', () => {
    const card = openCard();
    const access = card.registerAccess;
    assert.ok(access.kind === 'mapped');
    assert.equal(access.length, 2 ** 19);
    const words = new Uint32Array(viewMemory(access.address, access.length));
    card.registers.write32(0x5400, 0xfedcba98);
    assert.equal(words[0x5400 / 4], 0xfedcba98);
    words[2] = 0x80080;
    assert.equal(card.registers.read32(8), 0x80080);
    for (const bad of [-4, 2, 2 ** 19, Number.NaN, 0.5]) {
      assert.throws(
        () => card.registers.read32(bad),
        /^Error: 0000:01:00\.0: register 0x.* is not a word of BAR 0, which has 524288 bytes$/,
      );
      assert.throws(() => card.registers.write32(bad, 1), /is not a word of BAR 0/);
    }
  });

  it('reads and writes its configuration space', () => {
    const card = openCard();
    assert.deepEqual([card.readConfig(0, 4), card.readConfig(2, 2), card.readConfig(1, 1)], [0x10fb8086, 0x10fb, 0x80]);
    card.writeConfig(0xffc, 4, 0xcafe0123);
    assert.equal(kernel.config.readUInt32LE(0xffc), 0xcafe0123);
    card.setBusMaster(true);
    assert.equal(card.readConfig(4, 2), 6);
    card.setBusMaster(false);
    assert.equal(card.readConfig(4, 2), 2);
    for (const [offset, bytes] of [
      [4096, 1],
      [4094, 4],
      [-4, 4],
      [2, 4],
      [0, 3],
    ] as [number, 4][]) {
      assert.throws(() => card.readConfig(offset, bytes), /of a configuration space of 4096 bytes$/);
    }
    for (const value of [0x10000, -1, 0.5]) assert.throws(() => card.writeConfig(0, 2, value), /is not of 2 bytes$/);
  });

  it('is refused as a bus master when it has gone', () => {
    const card = openCard();
    kernel.gone = true;
    assert.throws(() => card.setBusMaster(true), {
      message: `${CARD}: the card does not answer: its Command register reads as all ones`,
    });
  });

  it('can be closed when it has gone', () => {
    openCard();
    kernel.gone = true;
    kernel.refuse.set(vfio.VFIO_DEVICE_SET_IRQS, errno.EIO);
  });

  it('reaches memory at bus addresses from 4 GiB upward, each at 2 MiB', () => {
    const card = openCard();
    const a = card.mapDma({ fd: -1, address: 0x7f0000001000, length: 3 * 4096 });
    const b = card.mapDma({ fd: -1, address: 0x7f0000200000, length: 5 * MIB - 4096 });
    const c = card.mapDma({ fd: -1, address: 0x7f0001000000, length: 4096 });
    assert.deepEqual(a, { pageBytes: 3 * 4096, pages: [4 * GIB] });
    assert.deepEqual(b, { pageBytes: 5 * MIB - 4096, pages: [4 * GIB + 2 * MIB] });
    assert.deepEqual(c.pages, [4 * GIB + 8 * MIB]);
    assert.deepEqual(kernel.mappings.get(BigInt(b.pages[0]!)), {
      vaddr: 0x7f0000200000n,
      size: BigInt(5 * MIB - 4096),
    });
    card.unmapDma(b);
    assert.deepEqual([...kernel.mappings.keys()].map(Number), [a.pages[0], c.pages[0]]);
    // What was given back is used again, where it fits.
    assert.deepEqual(card.mapDma({ fd: -1, address: 0x7f0000200000, length: 8 * MIB }).pages, [4 * GIB + 10 * MIB]);
    assert.deepEqual(card.mapDma({ fd: -1, address: 0x7f0000200000, length: 6 * MIB }).pages, [4 * GIB + 2 * MIB]);
    assert.throws(() => card.unmapDma(b), /bus address 0x100200000 is not mapped$/, 'another mapping has it now');
    kernel.refuse.set(vfio.VFIO_IOMMU_UNMAP_DMA, errno.EINVAL);
    assert.throws(() => card.unmapDma(a), { message: `${CARD}: VFIO_IOMMU_UNMAP_DMA failed: EINVAL` });
  });

  it('keeps to the bus addresses that the IOMMU has', () => {
    kernel.ranges = [
      [0n, 4n * BigInt(GIB) - 1n],
      [5n * BigInt(GIB) + 4096n, 5n * BigInt(GIB) + 6n * BigInt(MIB) - 1n],
    ];
    const card = openCard();
    const at = (length: number) => card.mapDma({ fd: -1, address: 4096, length }).pages[0];
    assert.equal(at(4 * MIB), 5 * GIB + 2 * MIB);
    assert.equal(at(4096), 2 * MIB, 'below 4 GiB where there is nothing above, and never 0');
    assert.throws(
      () => at(4 * GIB),
      /the IOMMU has no 4294967296 bytes of bus addresses left \(0x0-0xffffffff, .*; 2 mappings\)/,
    );
  });

  it('takes 39 bits for granted where the kernel does not tell', () => {
    kernel.ranges = null;
    const card = openCard();
    assert.equal(card.mapDma({ fd: -1, address: 4096, length: 4096 }).pages[0], 4 * GIB);
    assert.throws(
      () => card.mapDma({ fd: -1, address: 4096, length: 2 ** 39 }),
      /no 549755813888 bytes of bus addresses left/,
    );
  });

  it('tells why memory cannot be mapped, and keeps no bus addresses for it', () => {
    const card = openCard();
    const source = { fd: -1, address: 0x7f0000000000, length: 4096 };
    for (const [code, advice] of [
      ['ENOMEM', /ENOMEM: .*raise RLIMIT_MEMLOCK \(ulimit -l, LimitMEMLOCK= of systemd\) or run as root$/],
      ['ENOSPC', /ENOSPC: .*dma_entry_limit/],
      ['EFAULT', /EFAULT: no memory is mapped there$/],
      ['EINVAL', /EINVAL: the IOMMU does not reach bus address 0x100000000$/],
      ['EIO', /failed: EIO$/],
    ] as const) {
      kernel.refuse.set(vfio.VFIO_IOMMU_MAP_DMA, { ...errno, EIO: 5 }[code]);
      assert.throws(
        () => card.mapDma(source),
        (error: Error) => {
          assert.match(error.message, /^0000:01:00\.0: VFIO_IOMMU_MAP_DMA of 4096 bytes at 0x7f0000000000 failed: /);
          assert.match(error.message, advice);
          return true;
        },
      );
    }
    kernel.refuse.clear();
    assert.equal(card.mapDma(source).pages[0], 4 * GIB);
    for (const bad of [{ length: 0 }, { length: 4097 }, { length: -4096 }, { address: 1 }]) {
      assert.throws(
        () => card.mapDma({ ...source, ...bad }),
        /cannot be mapped for DMA: expected whole pages of 4096 bytes$/,
      );
    }
    for (const pages of [[], [0], [4 * GIB, 0]]) {
      assert.throws(() => card.unmapDma({ pageBytes: 4096, pages }), /bus address .* is not mapped$/);
    }
  });

  it('signals eventfds, of which each setting replaces the one before', () => {
    const card = openCard();
    kernel.log.length = 0;
    card.setInterrupts([10, null, 12]);
    assert.deepEqual(kernel.interrupts, [10, -1, 12]);
    card.setInterrupts([13, 14, 15, 16]);
    card.setInterrupts([null]);
    card.setInterrupts([]);
    assert.deepEqual(kernel.log, ['interrupts 10 -1 12', 'interrupts off', 'interrupts 13 14 15 16', 'interrupts off']);
    assert.throws(() => card.setInterrupts(Array(65).fill(1)), {
      message: `${CARD}: 65 interrupts asked for, but it has 64 vectors`,
    });
    for (const bad of [-1, 1.5, Number.NaN]) {
      assert.throws(() => card.setInterrupts([1, bad]), { message: `${CARD}: ${bad} is no eventfd for an interrupt` });
    }
    kernel.refuse.set(vfio.VFIO_DEVICE_SET_IRQS, errno.EBADF);
    assert.throws(() => card.setInterrupts([99]), {
      message: `${CARD}: VFIO_DEVICE_SET_IRQS of 1 vectors failed: EBADF`,
    });
  });

  it('has no vectors when it has no MSI-X', () => {
    kernel.vectors = 0;
    assert.equal(openCard().interruptVectors, 0);
  });

  it('is reset where that is possible', () => {
    const card = openCard();
    assert.deepEqual([card.reset(), kernel.resets], [true, 1]);
    kernel.refuse.set(vfio.VFIO_DEVICE_RESET, errno.EAGAIN);
    assert.throws(() => card.reset(), { message: `${CARD}: VFIO_DEVICE_RESET failed: EAGAIN` });
    card.close();
    kernel.deviceFlags = vfio.VFIO_DEVICE_FLAGS_PCI;
    assert.deepEqual([openCard().reset(), kernel.resets], [false, 1]);
  });

  it('refuses everything after it was closed', () => {
    const card = openCard();
    card.close();
    const closed = /the card is closed$/;
    assert.throws(() => card.registers.read32(0), closed);
    assert.throws(() => card.registers.write32(0, 0), closed);
    assert.throws(() => card.readConfig(0, 4), closed);
    assert.throws(() => card.writeConfig(0, 4, 0), closed);
    assert.throws(() => card.mapDma({ fd: -1, address: 0, length: 4096 }), closed);
    assert.throws(() => card.unmapDma({ pageBytes: 4096, pages: [0] }), closed);
    assert.throws(() => card.setInterrupts([]), closed);
    assert.throws(() => card.setBusMaster(false), closed);
    assert.throws(() => card.reset(), closed);
  });

  describe('is not opened', () => {
    const refused = (message: RegExp) =>
      assert.throws(openCard, (error: Error) => {
        assert.match(error.message, message);
        assert.ok(error.message.startsWith(`${CARD}: `));
        return true;
      });

    it('with another driver, or none', () => {
      fs.rmSync(`${sysfs.tree.folder(CARD)}/driver`);
      refused(/bound to no driver, not to vfio-pci: ringswitch nic bind 0000:01:00\.0$/);
      sysfs.setDriver(CARD, 'ixgbe');
      refused(/bound to ixgbe, not to vfio-pci/);
      assert.deepEqual(kernel.log, []);
    });

    it('without an IOMMU', () => {
      fs.rmSync(`${sysfs.tree.folder(CARD)}/iommu_group`);
      refused(/no IOMMU group: switch the IOMMU on: .*intel_iommu=on/);
    });

    it("in VFIO's no-IOMMU mode", () => {
      fs.writeFileSync(sysfs.path('kernel/iommu_groups/7/name'), 'vfio-noiommu\n');
      refused(/enable_unsafe_noiommu_mode.*--driver none/);
    });

    const files: [file: string, code: number, message: RegExp][] = [
      ['/vfio/vfio', errno.ENOENT, /vfio\/vfio cannot be opened: ENOENT: load the module: modprobe vfio-pci$/],
      ['/vfio/vfio', errno.EACCES, /EACCES: run as root, or give this user the file$/],
      ['/vfio/vfio', errno.EMSGSIZE, /cannot be opened: EMSGSIZE$/],
      ['/vfio/7', errno.ENOENT, /vfio\/7 cannot be opened: ENOENT: bind the card: ringswitch nic bind 0000:01:00\.0$/],
      ['/vfio/7', errno.EPERM, /EPERM: run as root$/],
      ['/vfio/7', errno.EBUSY, /EBUSY: it is open already, by another process: stop that$/],
    ];
    for (const [file, code, message] of files) {
      it(`when ${file} fails with ${errno.errnoName(code)}`, () => {
        kernel.refuseOpen.set(file, code);
        refused(message);
      });
    }

    it('when its group is open, whose holder is named', () => {
      const fd = fs.openSync(`${sysfs.dev}/vfio/7`, 'w');
      try {
        kernel.refuseOpen.set('/vfio/7', errno.EBUSY);
        refused(new RegExp(`by \\S+ \\(${process.pid}\\): stop that$`));
      } finally {
        fs.closeSync(fd);
      }
    });

    it('while others of its group are with the kernel', () => {
      kernel.viable = false;
      refused(/IOMMU group 7 is not all user space's: the kernel does not say which/);
      sysfs.add({ address: '0000:01:00.1', driver: 'ixgbe', group: 7 });
      sysfs.add({ address: '0000:01:00.2', driver: 'vfio-pci', group: 7 });
      sysfs.add({ address: '0000:01:00.3', group: 7 });
      sysfs.add({ address: '0000:00:1c.0', class: 0x060400, driver: 'pcieport', group: 7 });
      refused(
        /user space's: 0000:01:00\.1 \(driver ixgbe\) shares it\. Bind that to vfio-pci too, or to no driver: ringswitch nic bind 0000:01:00\.1$/,
      );
    });

    const steps: [what: string, request: number, code: number, message: RegExp][] = [
      ['GET_API_VERSION', vfio.VFIO_GET_API_VERSION, errno.ENOTTY, /VFIO_GET_API_VERSION failed: ENOTTY$/],
      ['GROUP_GET_STATUS', vfio.VFIO_GROUP_GET_STATUS, errno.EINVAL, /VFIO_GROUP_GET_STATUS failed: EINVAL$/],
      [
        'SET_CONTAINER',
        vfio.VFIO_GROUP_SET_CONTAINER,
        errno.EBUSY,
        /EBUSY: another program has the group in a container/,
      ],
      ['SET_IOMMU', vfio.VFIO_SET_IOMMU, errno.EPERM, /VFIO_SET_IOMMU failed: EPERM: .*allow_unsafe_interrupts=1/],
      ['SET_IOMMU', vfio.VFIO_SET_IOMMU, errno.ENODEV, /ENODEV: switch the IOMMU on/],
      ['IOMMU_GET_INFO', vfio.VFIO_IOMMU_GET_INFO, errno.EINVAL, /VFIO_IOMMU_GET_INFO failed: EINVAL$/],
      [
        'GET_DEVICE_FD',
        vfio.VFIO_GROUP_GET_DEVICE_FD,
        errno.ENODEV,
        /ENODEV: it is not bound to vfio-pci: ringswitch nic bind/,
      ],
      ['GET_DEVICE_FD', vfio.VFIO_GROUP_GET_DEVICE_FD, errno.EBUSY, /EBUSY: another program has it open/],
      ['DEVICE_GET_INFO', vfio.VFIO_DEVICE_GET_INFO, errno.EINVAL, /VFIO_DEVICE_GET_INFO failed: EINVAL$/],
      [
        'GET_IRQ_INFO',
        vfio.VFIO_DEVICE_GET_IRQ_INFO,
        errno.EINVAL,
        /VFIO_DEVICE_GET_IRQ_INFO of MSI-X failed: EINVAL$/,
      ],
      [
        'GET_REGION_INFO',
        vfio.VFIO_DEVICE_GET_REGION_INFO,
        errno.EINVAL,
        /GET_REGION_INFO of region 7 failed: EINVAL$/,
      ],
    ];
    for (const [what, request, code, message] of steps) {
      it(`when ${what} fails with ${errno.errnoName(code)}`, () => {
        kernel.refuse.set(request, code);
        refused(message);
      });
    }

    it('by a VFIO of another version, or without type 1', () => {
      kernel.version = 1;
      refused(/VFIO has version 1, expected 0$/);
      kernel.version = 0;
      kernel.extensions = [];
      refused(/no type 1 IOMMU: modprobe vfio_iommu_type1$/);
    });

    it('when it is no PCI function, has gone, or has no BAR 0 to map', () => {
      kernel.deviceFlags = 0;
      refused(/VFIO says that it is no PCI function$/);
      kernel.deviceFlags = vfio.VFIO_DEVICE_FLAGS_PCI;
      kernel.gone = true;
      refused(/the card does not answer/);
      kernel.gone = false;
      kernel.barFlags = vfio.VFIO_REGION_INFO_FLAG_READ;
      refused(/its BAR 0, of 524288 bytes, cannot be mapped/);
      kernel.barFlags = vfio.VFIO_REGION_INFO_FLAG_MMAP;
      kernel.barBytes = 0;
      refused(/its BAR 0, of 0 bytes, cannot be mapped/);
    });
  });
});
