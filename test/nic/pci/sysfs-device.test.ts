import assert from 'node:assert/strict';
import fs from 'node:fs';
import { close, O_RDWR, open, tryLock } from '../../../linux/file.ts';
import { viewMemory } from '../../../linux/libc.ts';
import { MAP_SHARED, memfd, mmap, munmap, PROT_READ, PROT_WRITE } from '../../../linux/mman.ts';
import { HUGEPAGE_BYTES, SysfsDevice } from '../../../nic/pci/sysfs-device.ts';
import { FakeSysfs } from '../../helpers/fake-sysfs.ts';
import { withHugepages } from '../../helpers/hugepages.ts';

const CARD = '0000:01:00.0';
const PRESENT = 1n << 63n;
const PAGEMAP_BYTES_PER_HUGEPAGE = 8 * 512;

describe('a card without an IOMMU', () => {
  let sysfs: FakeSysfs;
  let device: SysfsDevice | null;
  beforeEach(() => {
    sysfs = new FakeSysfs().add({ address: CARD });
    device = null;
    const config = Buffer.alloc(4096);
    config.writeUInt32LE(0x10fb8086, 0);
    fs.writeFileSync(file('config'), config);
    fs.writeFileSync(file('resource0'), Buffer.alloc(2 ** 19));
    fs.writeFileSync(file('enable'), '0\n');
  });
  afterEach(() => {
    device?.close();
    sysfs[Symbol.dispose]();
  });

  const file = (name: string): string => `${sysfs.tree.folder(CARD)}/${name}`;
  const text = (name: string): string => fs.readFileSync(file(name), 'latin1').trim();
  function openCard(more = {}): SysfsDevice {
    device = SysfsDevice.open('01:00.0', { withoutIommu: true, tree: sysfs.tree, ...more });
    return device;
  }

  /** Runs `use` with `pages` mapped hugepages. */
  function withMappedHugepages(pages: number, use: (fd: number, address: number, bytes: number) => void): void {
    withHugepages(pages, (fd, length) => {
      const address = mmap({ fd, length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED });
      try {
        use(fd, address, length);
      } finally {
        munmap(address, length);
      }
    });
  }

  it('is refused unless it is asked for, with the risk', () => {
    for (const withoutIommu of [false, undefined]) {
      assert.throws(
        () => openCard({ withoutIommu }),
        /refused: without an IOMMU a bug, or a hostile card, can read and write anywhere in the memory of this host\. Bind it to vfio-pci/,
      );
    }
    assert.equal(text('enable'), '0');
  });

  it('is switched on while it is open, and given back as it was', () => {
    const card = openCard();
    assert.equal(text('enable'), '1');
    assert.deepEqual(
      [card.name, card.vendorId, card.deviceId, card.interruptVectors, card.needsHugepages],
      [CARD, 0x8086, 0x10fb, 0, true],
    );
    assert.deepEqual([card.readConfig(0, 4), card.readConfig(4, 2)], [0x10fb8086, 0x402], 'memory on, INTx off');
    card.setBusMaster(true);
    assert.equal(card.readConfig(4, 2), 0x406);
    card.close();
    card.close();
    assert.equal(text('enable'), '0');
    assert.equal(fs.readFileSync(file('config')).readUInt16LE(4) & 4, 0, 'no bus master any more');
  });

  it('stays on when it was on before', () => {
    fs.writeFileSync(file('enable'), '1\n');
    sysfs.setDriver(CARD, 'uio_pci_generic');
    openCard().close();
    assert.equal(text('enable'), '1');
  });

  it('has its registers mapped', () => {
    const card = openCard();
    card.registers.write32(0x2018, 0x12345678);
    assert.equal(fs.readFileSync(file('resource0')).readUInt32LE(0x2018), 0x12345678);
    fs.writeFileSync(file('resource0'), Uint8Array.of(1, 2, 3, 0x84), { flag: 'r+' });
    assert.equal(card.registers.read32(0), 0x84030201);
    assert.throws(() => card.registers.read32(2 ** 19), /is not a word of BAR 0/);
    const access = card.registerAccess;
    assert.ok(access.kind === 'mapped');
    assert.equal(new Uint32Array(viewMemory(access.address, access.length))[0], 0x84030201);
  });

  it('is no bus master when it is opened, whatever its last owner left', () => {
    const config = fs.readFileSync(file('config'));
    config.writeUInt16LE(0x7, 4);
    fs.writeFileSync(file('config'), config);
    assert.equal(openCard().readConfig(4, 2), 0x403);
  });

  it('is reset where sysfs can', () => {
    const card = openCard();
    assert.equal(card.reset(), false);
    fs.writeFileSync(file('reset'), '');
    assert.deepEqual([card.reset(), text('reset')], [true, '1']);
  });

  it('has no interrupts', () => {
    const card = openCard();
    card.setInterrupts([]);
    card.setInterrupts([null, null]);
    assert.throws(() => card.setInterrupts([null, 5]), {
      message: `${CARD}: it has no interrupts without VFIO: poll it, or bind it to vfio-pci`,
    });
  });

  it('reaches hugepages where they really are, as they were written', () => {
    const card = openCard();
    withMappedHugepages(2, (fd, address, length) => {
      const bytes = new Uint8Array(viewMemory(address, length));
      bytes[0] = 77;
      const mapping = card.mapDma({ fd, address, length });
      assert.equal(mapping.pageBytes, HUGEPAGE_BYTES);
      assert.equal(new Set(mapping.pages).size, 2);
      for (const page of mapping.pages) assert.ok(page > 0 && page % HUGEPAGE_BYTES === 0, `0x${page.toString(16)}`);
      assert.equal(bytes[0], 77);
      // The same pages, seen through another mapping.
      const again = mmap({ fd, length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED });
      assert.deepEqual(card.mapDma({ fd, address: again, length }), mapping);
      munmap(again, length);
      card.unmapDma(mapping);
      assert.throws(() => card.unmapDma(mapping), /physical address 0x.* is not mapped$/);
    });
  });

  it('refuses memory that may move', () => {
    const card = openCard();
    const fd = memfd('small', 2 * HUGEPAGE_BYTES);
    const address = mmap({ fd, length: 2 * HUGEPAGE_BYTES, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED });
    try {
      const aligned = Math.ceil(address / HUGEPAGE_BYTES) * HUGEPAGE_BYTES;
      assert.throws(
        () => card.mapDma({ fd, address: aligned, length: HUGEPAGE_BYTES }),
        /without an IOMMU it must be hugepages of 2 MiB, and this file's pages have 4096 bytes: .*sysctl vm\.nr_hugepages/,
      );
      for (const bad of [{ length: 0 }, { length: 4096 }, { address: aligned + 4096 }]) {
        assert.throws(
          () => card.mapDma({ fd, address: aligned, length: HUGEPAGE_BYTES, ...bad }),
          /cannot be used for DMA: expected whole hugepages of 2097152 bytes$/,
        );
      }
    } finally {
      munmap(address, 2 * HUGEPAGE_BYTES);
      close(fd);
    }
  });

  const pagemaps: [what: string, entry: (i: number) => bigint, message: RegExp][] = [
    ['hides the frames', () => PRESENT, /hides the frame numbers: run as root, or with CAP_SYS_ADMIN$/],
    ['says that a page is not there', (i) => (i === 511 ? 0n : PRESENT | BigInt(4096 + i)), /it is not in memory$/],
    ['says that a page is in pieces', (i) => PRESENT | BigInt(i === 300 ? 9 : 4096 + i), /it is not in one piece$/],
    ['ends', () => -1n, /pagemap ends before it$/],
  ];
  for (const [what, entry, message] of pagemaps) {
    it(`refuses memory of which the kernel's pagemap ${what}`, () => {
      const pagemap = sysfs.path('pagemap');
      fs.writeFileSync(pagemap, '');
      const card = openCard({ pagemap });
      withMappedHugepages(1, (fd, address, length) => {
        const entries = BigUint64Array.from({ length: 512 }, (_, i) => BigInt.asUintN(64, entry(i)));
        if (entry(0) >= 0n) {
          const out = fs.openSync(pagemap, 'r+');
          const at = (address / HUGEPAGE_BYTES) * PAGEMAP_BYTES_PER_HUGEPAGE;
          fs.writeSync(out, new Uint8Array(entries.buffer), 0, entries.byteLength, at);
          fs.closeSync(out);
        }
        assert.throws(() => card.mapDma({ fd, address, length }), message);
      });
    });
  }

  it('refuses everything after it was closed', () => {
    const card = openCard();
    card.close();
    const closed = /the card is closed$/;
    assert.throws(() => card.registers.read32(0), closed);
    assert.throws(() => card.readConfig(0, 4), closed);
    assert.throws(() => card.writeConfig(0, 4, 0), closed);
    assert.throws(() => card.mapDma({ fd: -1, address: 0, length: HUGEPAGE_BYTES }), closed);
    assert.throws(() => card.unmapDma({ pageBytes: HUGEPAGE_BYTES, pages: [] }), closed);
    assert.throws(() => card.setInterrupts([]), closed);
    assert.throws(() => card.setBusMaster(false), closed);
    assert.throws(() => card.reset(), closed);
  });

  describe('is not opened', () => {
    const refused = (message: RegExp) => {
      assert.throws(openCard, message);
      assert.equal(text('enable'), '0', 'switched off again');
      const fd = open(file('config'), O_RDWR);
      assert.equal(tryLock(fd), true, 'and free');
      close(fd);
    };

    it('while a driver has it', () => {
      sysfs.setDriver(CARD, 'ixgbe');
      refused(/ixgbe drives it: ringswitch nic bind 0000:01:00\.0 --driver none$/);
    });

    it('behind an IOMMU that translates', () => {
      sysfs.add({ address: '0000:02:00.0', group: 7 });
      fs.writeFileSync(sysfs.path('kernel/iommu_groups/7/type'), 'DMA-FQ\n');
      assert.throws(
        () => SysfsDevice.open('02:00.0', { withoutIommu: true, tree: sysfs.tree }),
        /an IOMMU stands before it \(group 7, DMA-FQ\) that does not know physical addresses: bind it to vfio-pci instead/,
      );
    });

    it('twice', () => {
      openCard();
      assert.throws(() => SysfsDevice.open(CARD, { withoutIommu: true, tree: sysfs.tree }), {
        message: `${CARD}: another process has it: stop that`,
      });
    });

    it('without a BAR 0 to map', () => {
      fs.writeFileSync(file('resource'), '0x000000000000ecc0 0x000000000000ecdf 0x0000000000040101\n');
      refused(/its BAR 0, of 0 bytes, cannot be mapped: this is no card of the 82599's family$/);
    });

    it('when it has gone', () => {
      fs.writeFileSync(file('config'), Buffer.alloc(4096, 0xff));
      refused(/the card does not answer: its Command register reads as all ones$/);
    });

    it('when the kernel gives no BAR away', () => {
      fs.rmSync(file('resource0'));
      fs.mkdirSync(file('resource0'));
      refused(/resource0 cannot be opened: EISDIR/);
      fs.rmdirSync(file('resource0'));
      fs.symlinkSync('/proc/self/environ', file('resource0'));
      refused(/resource0 cannot be (mapped|opened): E/);
    });
  });
});
