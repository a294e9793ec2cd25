import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { close, open, pread, pwrite } from '../../../linux/file.ts';
import { libcFunction } from '../../../linux/libc.ts';
import { memfd } from '../../../linux/mman.ts';
import { DmaTable, MAX_DMA_RANGES } from '../../../nic/vfio-user/dma-table.ts';
import { type DmaRange, VfioUserError } from '../../../nic/vfio-user/messages.ts';
import { HUGEPAGE_BYTES, withHugepages } from '../../helpers/hugepages.ts';

const memfdCreate = libcFunction('int memfd_create(const char *name, unsigned int flags)');
const MFD_ALLOW_SEALING = 2;
const PAGE = 4096;
const PAGES = 16;
const GIB = 2 ** 30;
const EINVAL = 22;
const EEXIST = 17;
const ENOSPC = 28;

const range = (address: number, size: number, more: Partial<DmaRange> = {}): DmaRange => ({
  address,
  size,
  offset: 0,
  readable: true,
  writable: true,
  ...more,
});

function refuses(errno: number, told: RegExp, act: () => void): void {
  assert.throws(act, (error: unknown) => {
    assert.ok(error instanceof VfioUserError, String(error));
    assert.match(error.message, told);
    assert.equal(error.errno, errno);
    return true;
  });
}

/** How many mappings of our memfds this process has. */
const mappings = (): number => fs.readFileSync('/proc/self/maps', 'utf8').split('/memfd:dma-table').length - 1;

describe('a table of DMA ranges', () => {
  let table: DmaTable;
  let fd: number;

  beforeEach(() => {
    table = new DmaTable();
    fd = memfd('dma-table', PAGES * PAGE);
  });

  afterEach(() => {
    table.clear();
    close(fd);
    assert.equal(mappings(), 0, 'nothing stays mapped');
  });

  const file = (at: number, length: number): Buffer => {
    const bytes = Buffer.alloc(length);
    pread(fd, bytes, at);
    return bytes;
  };

  it('reaches the bytes of the file behind a range', () => {
    table.map(range(4 * GIB, 2 * PAGE, { offset: PAGE }), fd);
    pwrite(fd, Buffer.from('there'), PAGE + 100);
    const bytes = Buffer.alloc(5);
    assert.ok(table.read(4 * GIB + 100, bytes));
    assert.equal(bytes.toString(), 'there');
    assert.ok(table.write(4 * GIB + 2 * PAGE - 4, Buffer.from('back')));
    assert.equal(file(3 * PAGE - 4, 4).toString(), 'back');
  });

  it('reaches no byte outside of its ranges, and writes all or nothing', () => {
    table.map(range(4 * GIB, PAGE, { offset: PAGE }), fd);
    const bytes = Buffer.alloc(8, 1);
    for (const address of [0, 4 * GIB - 1, 4 * GIB - 8, 4 * GIB + PAGE - 7, 4 * GIB + PAGE, 2 ** 60]) {
      assert.equal(table.read(address, Buffer.alloc(8)), false, String(address));
      assert.equal(table.write(address, bytes), false, String(address));
    }
    assert.deepEqual(file(0, PAGES * PAGE), Buffer.alloc(PAGES * PAGE));
  });

  it('reaches across neighbours, whatever file is behind each', () => {
    const other = memfd('dma-table', PAGE);
    try {
      table.map(range(2 * PAGE, PAGE, { offset: 5 * PAGE }), fd);
      table.map(range(PAGE, PAGE), other);
      table.map(range(3 * PAGE, PAGE, { offset: 2 * PAGE }), fd);
      const bytes = Buffer.from(Array.from({ length: PAGE + 6 }, (_, i) => i % 251));
      assert.ok(table.write(2 * PAGE - 3, bytes));
      const back = Buffer.alloc(bytes.length);
      assert.ok(table.read(2 * PAGE - 3, back));
      assert.deepEqual(back, bytes);
      assert.deepEqual(file(5 * PAGE, PAGE), bytes.subarray(3, 3 + PAGE));
      assert.deepEqual(file(2 * PAGE, 3), bytes.subarray(3 + PAGE));
    } finally {
      table.clear();
      close(other);
    }
  });

  it('writes words to their place, where all of them may be written', () => {
    table.map(range(4 * GIB, PAGE, { offset: PAGE }), fd);
    table.map(range(0, PAGE, { writable: false }), fd);
    const words = Uint32Array.of(0x04030201, 0x08070605, 0x0c0b0a09);
    assert.ok(table.writeWords(4 * GIB + PAGE - 12, words, 1));
    assert.equal(file(2 * PAGE - 12, 13).toString('hex'), '0102030405060708090a0b0c00');
    for (const address of [4 * GIB + PAGE - 8, 4 * GIB + 2, 4 * GIB - 4, 4 * GIB + PAGE, 0, 2 ** 60]) {
      assert.equal(table.writeWords(address, words, 0), false, String(address));
    }
    assert.deepEqual(file(0, 2 * PAGE - 12), Buffer.alloc(2 * PAGE - 12));
  });

  it('knows what may be read and what written', () => {
    table.map(range(0, PAGE, { writable: false }), fd);
    table.map(range(PAGE, PAGE, { readable: false, offset: PAGE }), fd);
    table.map(range(2 * PAGE, PAGE, { readable: false, writable: false }), fd);
    const bytes = Buffer.alloc(1);
    assert.deepEqual(
      [0, PAGE, 2 * PAGE].map((at) => table.read(at, bytes)),
      [true, false, false],
    );
    assert.deepEqual(
      [0, PAGE, 2 * PAGE].map((at) => table.write(at, bytes)),
      [false, true, false],
    );
    assert.equal(table.write(PAGE - 1, Buffer.from('xy')), false, 'nothing is written when the second byte may not be');
  });

  it('remembers a range without a file as one that nobody reaches', () => {
    table.map(range(0, PAGE), null);
    assert.equal(table.read(0, Buffer.alloc(1)), false);
    assert.equal(table.write(0, Buffer.alloc(1)), false);
    refuses(EEXIST, /overlaps/, () => table.map(range(0, PAGE), fd));
    table.unmap(0, PAGE);
    table.map(range(0, PAGE), fd);
    assert.ok(table.read(0, Buffer.alloc(1)));
  });

  it('forgets what is unmapped, also what it used last', () => {
    for (const n of [0, 1, 2, 4]) table.map(range(n * PAGE, PAGE, { offset: n * PAGE }), fd);
    assert.ok(table.read(PAGE, Buffer.alloc(1)));
    table.unmap(PAGE, 2 * PAGE);
    assert.equal(table.read(PAGE, Buffer.alloc(1)), false);
    assert.equal(table.read(2 * PAGE, Buffer.alloc(1)), false);
    assert.ok(table.read(0, Buffer.alloc(1)));
    assert.ok(table.read(4 * PAGE, Buffer.alloc(1)));
    table.unmap(0, 2 ** 48);
    assert.equal(table.size, 0);
    table.unmap(0, 2 ** 48);
  });

  it('refuses to unmap a part of a range', () => {
    table.map(range(4 * PAGE, 4 * PAGE), fd);
    for (const [address, size] of [
      [4, 1],
      [5, 2],
      [6, 2],
      [3, 2],
      [7, 2],
    ]) {
      refuses(EINVAL, /16384 bytes at 0x4000 lie across an end/, () => table.unmap(address! * PAGE, size! * PAGE));
    }
    assert.equal(table.size, 1);
    assert.ok(table.read(4 * PAGE, Buffer.alloc(4 * PAGE)));
  });

  it('refuses what cannot be', () => {
    table.map(range(8 * PAGE, 2 * PAGE), fd);
    const refused: [range: DmaRange, errno: number, told: RegExp][] = [
      [range(0, 0), EINVAL, /0 bytes at 0x0: there is nothing to map/],
      [range(1, PAGE), EINVAL, /address 0x1 is no multiple of 4096/],
      [range(0, 100), EINVAL, /size 0x64 is no multiple of 4096/],
      [range(0, PAGE, { offset: 12 }), EINVAL, /offset 0xc is no multiple/],
      [range(2 ** 53 - PAGE, 2 * PAGE), EINVAL, /no memory is there/],
      [range(7 * PAGE, 2 * PAGE), EEXIST, /it overlaps the one of 8192 bytes at 0x8000/],
      [range(9 * PAGE, PAGE), EEXIST, /overlaps/],
      [range(9 * PAGE, 4 * PAGE), EEXIST, /overlaps/],
      [range(0, 2 ** 40 * 8), EEXIST, /overlaps/],
      [range(0, PAGE, { offset: PAGES * PAGE }), EINVAL, /its file has 65536 bytes, and it needs those up to 69632/],
      [range(2 ** 40, (PAGES + 1) * PAGE), EINVAL, /its file has 65536 bytes/],
      [range(2 ** 40, PAGE, { offset: 2 ** 52 }), EINVAL, /its file has 65536 bytes/],
    ];
    for (const [what, errno, told] of refused) refuses(errno, told, () => table.map(what, fd));
    assert.equal(table.size, 1);
    assert.equal(mappings(), 1);
  });

  it('refuses descriptors that are no memory', () => {
    const nothing = open('/dev/null', 2);
    try {
      refuses(EINVAL, /no file that can be mapped; share the memory as a memfd/, () =>
        table.map(range(0, PAGE), nothing),
      );
    } finally {
      close(nothing);
    }
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'dma-table-'));
    try {
      const name = path.join(directory, 'memory');
      fs.writeFileSync(name, Buffer.alloc(PAGE));
      const readOnly = open(name, 0);
      try {
        refuses(13, /mmap\(.*failed: EACCES/, () => table.map(range(0, PAGE), readOnly));
        table.map(range(0, PAGE, { writable: false }), readOnly);
      } finally {
        close(readOnly);
      }
    } finally {
      fs.rmSync(directory, { recursive: true });
    }
  });

  it('seals memory against shrinking where that can be, so that none of it goes from under it', () => {
    const sealable = memfdCreate('dma-table', MFD_ALLOW_SEALING);
    try {
      fs.ftruncateSync(sealable, 2 * PAGE);
      table.map(range(0, 2 * PAGE), sealable);
      assert.throws(() => fs.ftruncateSync(sealable, PAGE), { code: 'EPERM' });
      assert.ok(table.read(PAGE, Buffer.alloc(PAGE)));
    } finally {
      table.clear();
      close(sealable);
    }
  });

  it('seals memory before it is measured, so that it cannot shrink in between', () => {
    const sealable = memfdCreate('dma-table', MFD_ALLOW_SEALING);
    try {
      fs.ftruncateSync(sealable, 2 * PAGE);
      refuses(EINVAL, /its file has 8192 bytes/, () => table.map(range(0, 3 * PAGE), sealable));
      assert.throws(() => fs.ftruncateSync(sealable, PAGE), { code: 'EPERM' });
    } finally {
      close(sealable);
    }
  });

  it('maps a part of a hugepage, as QEMU cuts ranges', () => {
    withHugepages(1, (huge) => {
      try {
        table.map(range(0xc0000, 0x8000, { offset: 0xc0000 }), huge);
        table.map(range(0, 0xa0000), huge);
        assert.ok(table.write(0xc0000, Buffer.from('above')));
        assert.ok(table.write(0x9fffb, Buffer.from('below')));
        assert.equal(table.write(0x9fffc, Buffer.from('below')), false);
        table.unmap(0xc0000, 0x8000);
        table.map(range(2 * HUGEPAGE_BYTES, HUGEPAGE_BYTES), huge);
        const bytes = Buffer.alloc(5);
        assert.ok(table.read(2 * HUGEPAGE_BYTES + 0xc0000, bytes));
        assert.equal(bytes.toString(), 'above');
        assert.ok(table.read(2 * HUGEPAGE_BYTES + 0x9fffb, bytes));
        assert.equal(bytes.toString(), 'below');
      } finally {
        table.clear();
      }
    });
  });

  it('takes so many ranges and no more', () => {
    for (let n = 0; n < MAX_DMA_RANGES; n++) table.map(range(n * 2 * PAGE, PAGE), null);
    refuses(ENOSPC, /all 24576 ranges are taken/, () => table.map(range(2 ** 40, PAGE), null));
    table.unmap(0, PAGE);
    table.map(range(2 ** 40, PAGE), null);
  });

  it('maps so many bytes and no more', () => {
    const huge = memfd('dma-table', 2 ** 43);
    try {
      table.map(range(0, 2 ** 43), huge);
      table.map(range(2 ** 43, 2 ** 43), huge);
      refuses(ENOSPC, /with 17592186044416 mapped already, it goes beyond/, () => table.map(range(2 ** 44, PAGE), fd));
      table.unmap(0, 2 ** 43);
      table.map(range(2 ** 44, PAGE), fd);
      assert.ok(table.write(2 ** 44 - 1, Buffer.from('ab')));
    } finally {
      table.clear();
      close(huge);
    }
  });

  it('does what an array of bytes does, whatever is mapped and unmapped', () => {
    const page = fc.nat(PAGES - 1);
    const step = fc.oneof(
      fc.record({ op: fc.constant('map' as const), at: page, pages: fc.nat(4), writable: fc.boolean() }),
      fc.record({ op: fc.constant('unmap' as const), at: page, pages: fc.integer({ min: 1, max: PAGES }) }),
      fc.record({
        op: fc.constant('write' as const),
        at: fc.nat(PAGES * PAGE),
        length: fc.nat(3 * PAGE),
        byte: fc.nat(255),
      }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const mine = new DmaTable();
        /** Of each page: the range it belongs to, and whether it can be written. */
        let pages: ({ first: number; count: number; writable: boolean } | null)[] = Array(PAGES + 8).fill(null);
        const memory = file(0, PAGES * PAGE);
        try {
          for (const one of steps) {
            if (one.op === 'write') {
              const bytes = Buffer.alloc(one.length, one.byte);
              const last = one.at + Math.max(one.length, 1) - 1;
              const touched =
                one.length === 0 ? [] : pages.slice(Math.floor(one.at / PAGE), Math.floor(last / PAGE) + 1);
              const may = touched.every((p) => p?.writable) && (one.length === 0 || last < pages.length * PAGE);
              assert.equal(mine.write(one.at, bytes), may);
              if (may) bytes.copy(memory, one.at);
            } else if (one.op === 'map') {
              const count = one.pages;
              const fits =
                count > 0 && one.at + count <= PAGES && pages.slice(one.at, one.at + count).every((p) => p === null);
              const what = range(one.at * PAGE, count * PAGE, { offset: one.at * PAGE, writable: one.writable });
              if (fits) {
                mine.map(what, fd);
                pages.fill({ first: one.at, count, writable: one.writable }, one.at, one.at + count);
              } else assert.throws(() => mine.map(what, fd), VfioUserError);
            } else {
              const end = one.at + one.pages;
              const whole = pages
                .slice(one.at, end)
                .every((p) => p === null || (p.first >= one.at && p.first + p.count <= end));
              if (whole) {
                mine.unmap(one.at * PAGE, one.pages * PAGE);
                pages = pages.map((p, n) => (n >= one.at && n < end ? null : p));
              } else assert.throws(() => mine.unmap(one.at * PAGE, one.pages * PAGE), VfioUserError);
            }
          }
          assert.deepEqual(file(0, PAGES * PAGE), memory);
          for (const [n, p] of pages.entries()) {
            assert.equal(mine.read(n * PAGE, Buffer.alloc(PAGE)), p !== null);
          }
        } finally {
          mine.clear();
        }
      }),
      { numRuns: 200 },
    );
  });
});
