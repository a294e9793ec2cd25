import assert from 'node:assert/strict';
import fs from 'node:fs';
import fc from 'fast-check';
import { close } from '../../linux/file.ts';
import { addressOf, SystemError, viewMemory } from '../../linux/libc.ts';
import { MAP_ANONYMOUS, MAP_PRIVATE, memfd, mmap, munmap, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';
import { memoryAreas } from '../../linux/process.ts';
import type { Arena } from '../../memory/arena.ts';
import type { ClientMemory, MemoryRegion, SharedArea } from '../../memory/client-memory.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import { ARENAS } from '../helpers/arenas.ts';
import { frameBytes } from '../helpers/frame-bytes.ts';
import { HUGEPAGE_BYTES, withHugepages } from '../helpers/hugepages.ts';

const PAGE = 4096;
const USER = 0x7000_0000_0000;

for (const { name, arena } of ARENAS) describe(`GuestMemory ${name}`, () => suite(arena));

function suite(arena: () => Arena): void {
  const descriptors: number[] = [];
  const memories: GuestMemory[] = [];
  afterEach(() => {
    for (const memory of memories.splice(0)) memory.unmap();
    for (const fd of descriptors.splice(0)) close(fd);
  });

  /** A file whose byte at offset n is content[n]. */
  const newFile = (content: Uint8Array): number => {
    const fd = memfd('guest', content.length);
    descriptors.push(fd);
    fs.writeSync(fd, content, 0, content.length, 0);
    return fd;
  };
  const area = (userAddress: number, content: Uint8Array, offset = 0): SharedArea => ({
    userAddress,
    length: content.length - offset,
    fd: newFile(content),
    offset,
  });
  const map = (regions: MemoryRegion[], areas: SharedArea[]): GuestMemory => {
    const memory = new GuestMemory({ regions, areas }, arena());
    memories.push(memory);
    return memory;
  };
  const bytesAt = (memory: GuestMemory, address: number, length: number): Uint8Array =>
    new Uint8Array(memory.view(address, length)).slice();

  it('translates at every border of a region', () => {
    const content = frameBytes(4 * PAGE, 1);
    const region = { guestAddress: 0x10_0000, size: 2 * PAGE, userAddress: USER + PAGE };
    const memory = map([region], [area(USER, content)]);
    const start = region.guestAddress;
    const end = start + region.size;
    const base = memory.translate(start, 1);
    assert.notEqual(base, 0);
    for (const [guest, length, offset] of [
      [start, 0, 0],
      [start, 2 * PAGE, 0],
      [start + 1, 2 * PAGE - 1, 1],
      [end - 1, 1, 2 * PAGE - 1],
      [start + PAGE - 1, 2, PAGE - 1],
    ] as const) {
      assert.equal(memory.translate(guest, length), base + offset, `${guest}+${length}`);
    }
    for (const [guest, length] of [
      [start - 1, 1],
      [start - 1, 2 * PAGE],
      [start, 2 * PAGE + 1],
      [end - 1, 2],
      [end, 0],
      [end, 1],
      [0, 1],
      [2 ** 52, 1],
      [start, 2 ** 32 - 1],
    ] as const) {
      assert.equal(memory.translate(guest, length), 0, `${guest}+${length}`);
    }
    assert.deepEqual(
      [start - 1, start, start + 1, end - 1, end].map((guest) => memory.contiguous(guest)),
      [0, 2 * PAGE, 2 * PAGE - 1, 1, 0],
    );
    assert.deepEqual(bytesAt(memory, base, 2 * PAGE), content.slice(PAGE, 3 * PAGE));
  });

  it('maps adjacent areas of separate files as one range, in any order', () => {
    const contents = [frameBytes(PAGE, 1), frameBytes(2 * PAGE, 2), frameBytes(PAGE, 3)];
    const areas = [area(USER + 3 * PAGE, contents[2]!), area(USER, contents[0]!), area(USER + PAGE, contents[1]!)];
    const memory = map([{ guestAddress: 0, size: 4 * PAGE, userAddress: USER }], areas);
    const address = memory.translate(0, 4 * PAGE);
    assert.notEqual(address, 0);
    assert.deepEqual(bytesAt(memory, address, 4 * PAGE), Uint8Array.from(Buffer.concat(contents)));
    assert.equal(memory.translateUser(USER + PAGE - 8, 16), address + PAGE - 8);
    assert.equal(memory.mappedBytes, 4 * PAGE);
  });

  it('maps an area from its offset in the file', () => {
    const content = frameBytes(3 * PAGE, 1);
    const memory = map([{ guestAddress: 0, size: PAGE, userAddress: USER + PAGE }], [area(USER, content, PAGE)]);
    assert.deepEqual(bytesAt(memory, memory.translate(0, PAGE), PAGE), content.slice(2 * PAGE));
  });

  it('joins regions that touch in the guest and here, and no others', () => {
    const content = frameBytes(4 * PAGE, 1);
    const regions = [
      { guestAddress: 2 * PAGE, size: PAGE, userAddress: USER + 3 * PAGE },
      { guestAddress: 0, size: PAGE, userAddress: USER },
      { guestAddress: PAGE, size: PAGE, userAddress: USER + PAGE },
    ];
    const memory = map(regions, [area(USER, content)]);
    assert.equal(memory.contiguous(0), 2 * PAGE);
    assert.equal(memory.contiguous(2 * PAGE), PAGE);
    assert.notEqual(memory.translate(0, 2 * PAGE), 0);
    assert.equal(memory.translate(PAGE, PAGE + 1), 0, 'adjacent in the guest only');
    const bytes = new Uint8Array(3 * PAGE);
    assert.equal(memory.read(0, 3 * PAGE, addressOf(bytes)), true);
    assert.deepEqual(bytes.subarray(0, 2 * PAGE), content.subarray(0, 2 * PAGE));
    assert.deepEqual(bytes.subarray(2 * PAGE), content.subarray(3 * PAGE));
  });

  it('leaves holes where a region has no shared memory', () => {
    const areas = [area(USER, frameBytes(PAGE, 1)), area(USER + 2 * PAGE, frameBytes(PAGE, 2))];
    const memory = map([{ guestAddress: 0, size: 4 * PAGE, userAddress: USER }], areas);
    assert.deepEqual(
      [0, PAGE - 1, PAGE, 2 * PAGE - 1, 2 * PAGE, 3 * PAGE - 1, 3 * PAGE].map((guest) => memory.contiguous(guest)),
      [PAGE, 1, 0, 0, PAGE, 1, 0],
    );
    const bytes = new Uint8Array(4 * PAGE);
    assert.equal(memory.read(PAGE - 8, 16, addressOf(bytes)), false);
    assert.equal(memory.read(2 * PAGE, PAGE, addressOf(bytes)), true);
    assert.equal(memory.read(3 * PAGE, 0, addressOf(bytes)), true, 'nothing is everywhere');
    assert.equal(memory.translateUser(USER + PAGE, 1), 0);
    assert.equal(memory.translateUser(USER + PAGE - 1, 2), 0);
    assert.equal(memory.translateUser(USER - 1, 1), 0);
    assert.notEqual(memory.translateUser(USER + 3 * PAGE - 1, 1), 0);
  });

  it('translates user addresses of a whole area, beyond its regions', () => {
    const memory = map(
      [{ guestAddress: 0, size: 16, userAddress: USER + PAGE }],
      [area(USER, frameBytes(4 * PAGE, 1))],
    );
    const base = memory.translateUser(USER, 4 * PAGE);
    assert.notEqual(base, 0);
    assert.equal(memory.translateUser(USER, 4 * PAGE + 1), 0);
    assert.equal(memory.translate(0, 16), base + PAGE);
    assert.equal(memory.contiguous(0), 16);
  });

  it('answers from mapped memory when regions overlap', () => {
    const content = frameBytes(4 * PAGE, 1);
    const regions = [
      { guestAddress: 0, size: 3 * PAGE, userAddress: USER },
      { guestAddress: PAGE, size: 3 * PAGE, userAddress: USER },
    ];
    const memory = map(regions, [area(USER, content)]);
    const base = memory.translateUser(USER, 1);
    for (let guest = 0; guest < 4 * PAGE; guest += 512) {
      const address = memory.translate(guest, 16);
      assert([base + guest, base + guest - PAGE].includes(address), `at ${guest}`);
      assert(address >= base && address + memory.contiguous(guest) <= base + 4 * PAGE);
    }
    assert.equal(memory.contiguous(4 * PAGE), 0);
  });

  it('shares its writes with the client', () => {
    const one = area(USER, frameBytes(PAGE, 1));
    const memory = map([{ guestAddress: 0, size: PAGE, userAddress: USER }], [one]);
    new Uint8Array(memory.view(memory.translate(100, 4), 4)).set([1, 2, 3, 4]);
    const bytes = new Uint8Array(4);
    fs.readSync(one.fd, bytes, 0, 4, 100);
    assert.deepEqual([...bytes], [1, 2, 3, 4]);
  });

  it('keeps the client address modulo the largest page of its files', () => {
    const HUGE = 2 ** 30;
    const areas = [area(USER + 0x1234_5000, frameBytes(PAGE, 1)), area(USER + 0x1234_6000, frameBytes(PAGE, 2))];
    const fstat = fs.fstatSync;
    const huge = areas[1]!.fd;
    fs.fstatSync = ((fd: number) => {
      const stats = fstat(fd);
      if (fd === huge) stats.blksize = HUGE;
      return stats;
    }) as typeof fs.fstatSync;
    try {
      const memory = map([{ guestAddress: 0, size: 2 * PAGE, userAddress: USER + 0x1234_5000 }], areas);
      assert.equal(memory.translate(0, 2 * PAGE) % HUGE, (USER + 0x1234_5000) % HUGE);
      assert.deepEqual(bytesAt(memory, memory.translate(PAGE, PAGE), PAGE), frameBytes(PAGE, 2));
    } finally {
      fs.fstatSync = fstat;
    }
  });

  it('maps hugepages of 2 MiB next to pages of 4 KiB', () => {
    withHugepages(2, (fd, bytes) => {
      const small = area(USER + HUGEPAGE_BYTES - PAGE, frameBytes(PAGE, 1));
      const areas = [small, { userAddress: USER + HUGEPAGE_BYTES, length: bytes, fd, offset: 0 }];
      const size = PAGE + bytes;
      const memory = map([{ guestAddress: 0, size, userAddress: small.userAddress }], areas);
      const address = memory.translate(0, size);
      assert.equal((address + PAGE) % HUGEPAGE_BYTES, 0);
      assert.equal(arena().holds(address), arena().wasm !== null);
      const from = frameBytes(9000, 3);
      arena().copy(memory.translate(PAGE + HUGEPAGE_BYTES - 4500, 9000), addressOf(from), 9000);
      const back = new Uint8Array(9000);
      assert.equal(memory.read(PAGE + HUGEPAGE_BYTES - 4500, 9000, addressOf(back)), true);
      assert.deepEqual(back, from);
      memory.unmap();
      // The same place with pages of 4 KiB, as if nothing had been there.
      const next = map([{ guestAddress: 0, size: PAGE, userAddress: USER }], [area(USER, frameBytes(PAGE, 5))]);
      assert.deepEqual(bytesAt(next, next.translate(0, PAGE), PAGE), frameBytes(PAGE, 5));
    });
  });

  it('stays mapped when the descriptors are closed', () => {
    const content = frameBytes(PAGE, 1);
    const one = area(USER, content);
    const memory = map([{ guestAddress: 0, size: PAGE, userAddress: USER }], [one]);
    close(one.fd);
    descriptors.splice(descriptors.indexOf(one.fd), 1);
    assert.deepEqual(bytesAt(memory, memory.translate(0, PAGE), PAGE), content);
  });

  it('maps nothing from nothing', () => {
    const memory = map([], []);
    assert.equal(memory.mappedBytes, 0);
    assert.equal(memory.translate(0, 0), 0);
    assert.equal(memory.contiguous(0), 0);
    assert.equal(memory.translateUser(0, 0), 0);
  });

  /** Whether a file of the client is mapped at an address: an arena puts memory of its own into the place of one. */
  const isMapped = (address: number): boolean =>
    memoryAreas(process.pid).some(
      ({ start, end, path }) => start <= address && address < end && path.includes('memfd:guest'),
    );

  it('takes everything away with unmap, and answers 0 afterwards; twice is no harm', () => {
    const memory = map([{ guestAddress: 0, size: PAGE, userAddress: USER }], [area(USER, frameBytes(PAGE, 1))]);
    const address = memory.translate(0, 1);
    assert.equal(isMapped(address), true);
    memory.unmap();
    assert.equal(isMapped(address), false);
    assert.equal(memory.translate(0, 1), 0);
    assert.equal(memory.contiguous(0), 0);
    assert.equal(memory.translateUser(USER, 1), 0);
    memory.unmap();
  });

  it('gives its place in the arena to the next', () => {
    const one = area(USER, frameBytes(8 * PAGE, 1));
    const regions = [{ guestAddress: 0, size: 8 * PAGE, userAddress: USER }];
    const first = map(regions, [one]);
    const address = first.translate(0, 1);
    assert.equal(arena().holds(address), arena().wasm !== null);
    first.unmap();
    const second = map(regions, [one]);
    if (arena().wasm !== null) assert.equal(second.translate(0, 1), address);
    assert.deepEqual(bytesAt(second, second.translate(0, 8 * PAGE), 8 * PAGE), frameBytes(8 * PAGE, 1));
  });

  it('leaves nothing mapped when the kernel refuses an area, and says which call', () => {
    const memfds = (): number => memoryAreas(process.pid).filter((one) => one.path.includes('memfd:guest')).length;
    const before = memfds();
    const good = area(USER, frameBytes(PAGE, 1));
    const client: ClientMemory = { regions: [], areas: [good, { ...good, userAddress: USER + PAGE, fd: 0xffff }] };
    assert.throws(
      () => new GuestMemory(client, arena()),
      (error: unknown) => {
        assert(error instanceof SystemError);
        assert.equal(error.code, 'EBADF');
        assert.equal(error.syscall, 'mmap');
        assert.match(error.message, /^mmap\(.*fd=65535, offset=0\) failed: EBADF$/);
        return true;
      },
    );
    assert.equal(memfds(), before);
  });

  describe('of which parts are private to the client', () => {
    /** Three pages of this process, the client: all private, holding 1, 2 and 3. */
    let base: number;
    const descriptorsNow = (): number => fs.readdirSync('/proc/self/fd').length;
    const copied = (...pages: number[]): ClientMemory['copied'] => ({
      pid: process.pid,
      areas: pages.map((page) => ({ userAddress: base + page * PAGE, length: PAGE })),
    });
    const mapCopied = (client: ClientMemory): GuestMemory => {
      const memory = new GuestMemory(client, arena());
      memories.push(memory);
      return memory;
    };
    const region = (pages: number): MemoryRegion => ({ guestAddress: 0, size: pages * PAGE, userAddress: base });

    beforeEach(() => {
      base = mmap({ length: 3 * PAGE, prot: PROT_READ | PROT_WRITE, flags: MAP_PRIVATE | MAP_ANONYMOUS });
      const bytes = new Uint8Array(viewMemory(base, 3 * PAGE));
      for (const page of [0, 1, 2]) bytes.fill(page + 1, page * PAGE, (page + 1) * PAGE);
    });
    afterEach(() => munmap(base, 3 * PAGE));

    it('mirrors them, empty until something is pulled', () => {
      const memory = mapCopied({ regions: [region(3)], areas: [], copied: copied(0, 2) });
      const address = memory.translate(0, PAGE);
      assert.equal(memory.translateUser(base, PAGE), address);
      assert.deepEqual([memory.contiguous(PAGE), memory.translateUser(base + PAGE, 1)], [0, 0]);
      assert.equal(address % PAGE, base % PAGE);
      assert.deepEqual(bytesAt(memory, address, PAGE), new Uint8Array(PAGE));
      memory.mirror!.pulls.add(address, 5);
      assert.equal(memory.mirror!.pulls.run(), true);
      assert.deepEqual([...bytesAt(memory, address, 6)], [1, 1, 1, 1, 1, 0]);
      assert.equal(memory.mappedBytes, 0);
    });

    it('reads them, and says when they are not there any more', () => {
      const memory = mapCopied({ regions: [region(3)], areas: [], copied: copied(1, 2) });
      const back = new Uint8Array(10);
      assert.equal(memory.read(2 * PAGE - 5, 10, addressOf(back)), true);
      assert.deepEqual([...back], [2, 2, 2, 2, 2, 3, 3, 3, 3, 3]);
      munmap(base + 2 * PAGE, PAGE);
      assert.equal(memory.read(2 * PAGE - 5, 10, addressOf(back)), false);
    });

    it('keeps them out of what kernels may touch, and takes no kernels where most is private', () => {
      const shared = area(base + PAGE, frameBytes(PAGE, 9));
      const half = mapCopied({ regions: [region(2)], areas: [shared], copied: copied(0) });
      assert.equal(half.kernels, arena().wasm);
      assert.notEqual(half.translate(PAGE + 7, 1), 0);
      assert.deepEqual([half.start, half.end, half.sharedEnd], [PAGE, 2 * PAGE, 2 * PAGE]);
      assert.notEqual(half.translate(7, 1), 0);
      assert.deepEqual([half.start, half.end, half.sharedEnd], [0, PAGE, 0]);
      assert.equal(half.translate(PAGE - 1, 2), 0, 'a border between the two');
      const most = mapCopied({ regions: [region(3)], areas: [shared], copied: copied(0, 2) });
      assert.equal(most.kernels, null);
    });

    it('takes the mirror away with unmap, and holds nothing of the process then', () => {
      const before = descriptorsNow();
      const memory = mapCopied({ regions: [region(3)], areas: [], copied: copied(0) });
      assert.equal(descriptorsNow(), before + 1);
      memory.unmap();
      assert.equal(descriptorsNow(), before);
      assert.deepEqual([memory.translate(0, 1), memory.translateUser(base, 1), memory.sharedEnd], [0, 0, 0]);
    });

    it('leaves nothing when the process is gone', () => {
      const before = descriptorsNow();
      const gone = { ...copied(0)!, pid: 2 ** 22 + 1 };
      assert.throws(() => new GuestMemory({ regions: [region(3)], areas: [], copied: gone }, arena()), {
        code: 'ESRCH',
      });
      assert.equal(descriptorsNow(), before);
    });
  });

  it('agrees with a page table, byte by byte', () => {
    const PAGES = 8;
    const regions = fc.array(
      fc.record({ guest: fc.nat(PAGES), pages: fc.integer({ min: 1, max: 3 }), user: fc.nat(PAGES) }),
      { maxLength: 5 },
    );
    const shared = fc.array(fc.boolean(), { minLength: PAGES, maxLength: PAGES });
    const probes = fc.array(
      fc.record({ at: fc.nat((PAGES + 4) * PAGE), length: fc.integer({ min: 1, max: 3 * PAGE }) }),
      {
        maxLength: 20,
      },
    );
    const contents = Array.from({ length: PAGES }, (_, page) => frameBytes(PAGE, page));
    fc.assert(
      fc.property(regions, shared, probes, (picked, shared, probes) => {
        // Regions that do not overlap in the guest: those that come later and would are left out.
        const user = new Map<number, number>();
        const regions: MemoryRegion[] = [];
        for (const { guest, pages, user: at } of picked) {
          const range = Array.from({ length: pages }, (_, i) => i);
          if (range.some((i) => user.has(guest + i))) continue;
          for (const i of range) user.set(guest + i, at + i);
          regions.push({ guestAddress: guest * PAGE, size: pages * PAGE, userAddress: USER + at * PAGE });
        }
        const areas = shared.flatMap((on, page) => (on ? [area(USER + page * PAGE, contents[page]!)] : []));
        const memory = map(regions, areas);
        const expected = (at: number): number | null => {
          const page = user.get(Math.floor(at / PAGE));
          return page === undefined || !shared[page] ? null : contents[page]![at % PAGE]!;
        };
        for (const { at, length } of probes) {
          const plain = Array.from({ length }, (_, i) => expected(at + i));
          const bytes = new Uint8Array(length);
          assert.equal(memory.read(at, length, addressOf(bytes)), !plain.includes(null));
          if (!plain.includes(null)) assert.deepEqual([...bytes], plain);
          const contiguous = memory.contiguous(at);
          assert.equal(contiguous > 0, plain[0] !== null);
          assert.equal(memory.translate(at, length) !== 0, length <= contiguous);
          const seen = Math.min(contiguous, length);
          if (seen > 0) assert.deepEqual([...bytesAt(memory, memory.translate(at, seen), seen)], plain.slice(0, seen));
        }
        memory.unmap();
        for (const fd of descriptors.splice(0)) close(fd);
      }),
      { numRuns: 200 },
    );
  });
}
