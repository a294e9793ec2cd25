import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { close } from '../../linux/file.ts';
import { addressOf, SystemError, viewMemory } from '../../linux/libc.ts';
import { MAP_FIXED, MAP_SHARED, memfd, mmap, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';
import { memoryAreas } from '../../linux/process.ts';
import { Arena } from '../../memory/arena.ts';
import { ARENAS, plainArena, wasmArena } from '../helpers/arenas.ts';
import { frameBytes } from '../helpers/frame-bytes.ts';
import { WORKER_MARK, type WorkerAnswer, type WorkerFile } from './arena-worker.ts';

const PAGE = 4096;
const MIB = 2 ** 20;

const bytesAt = (address: number, length: number): Uint8Array => new Uint8Array(viewMemory(address, length));
/** A file of `length` bytes mapped over a range, as whoever reserved it does. */
function mapOver(address: number, length: number, content: Uint8Array): void {
  const fd = memfd('arena-test', length);
  try {
    mmap({ address, length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED | MAP_FIXED, fd });
  } finally {
    close(fd);
  }
  bytesAt(address, length).set(content);
}
/** Files of {@link mapOver} that are still mapped. */
const mappedFiles = (): number => memoryAreas(process.pid).filter(({ path }) => path.includes('arena-test')).length;

describe('Arena.open', () => {
  it('works with wasm, and without it when told so', () => {
    assert.notEqual(wasmArena().wasm, null);
    assert.equal(wasmArena().reason, '');
    assert.equal(plainArena().wasm, null);
    assert.equal(plainArena().reason, 'it was told to work without');
  });

  /** Opens an arena with some part of WebAssembly exchanged. */
  function openWith(part: 'Memory' | 'Instance', replacement: unknown): Arena {
    const kept = WebAssembly[part];
    Object.assign(WebAssembly, { [part]: replacement });
    try {
      return Arena.open();
    } finally {
      Object.assign(WebAssembly, { [part]: kept });
    }
  }
  const worksWithout = (arena: Arena): void => {
    assert.equal(arena.wasm, null);
    const from = frameBytes(1000, 1);
    const to = arena.allocate(1000);
    arena.copy(to, addressOf(from), 1000);
    assert.deepEqual(bytesAt(to, 1000).slice(), from);
  };

  it('works without wasm, and says why, where its memory cannot be had', () => {
    const arena = openWith(
      'Memory',
      class {
        constructor() {
          throw new RangeError('could not allocate memory');
        }
      },
    );
    assert.equal(arena.reason, 'a wasm memory of 17179869184 bytes cannot be had: could not allocate memory');
    worksWithout(arena);
  });

  for (const [what, working, complaint] of [
    ['kernels do not see what is mapped', 0, 'what a file holds is not seen'],
    ['what kernels write does not reach the mapping', 1, 'what is written does not reach the file'],
  ] as const) {
    it(`works without wasm, and says why, where ${what}`, () => {
      const { Instance } = WebAssembly;
      let copies = 0;
      const arena = openWith(
        'Instance',
        class {
          exports: object;
          constructor(module: WebAssembly.Module, imports: Record<string, unknown>) {
            const real = new Instance(module, imports).exports as { copy(...ranges: number[]): void };
            this.exports = { ...real, copy: (...ranges: number[]) => copies++ < working && real.copy(...ranges) };
          }
        },
      );
      assert.equal(copies, working + 1);
      assert.equal(arena.reason, `mappings in a wasm memory do not work here: ${complaint}`);
      worksWithout(arena);
    });
  }
});

for (const { name, arena } of ARENAS) {
  describe(`Arena ${name}`, () => {
    it('allocates zeroed scratch at cache lines', () => {
      let end = 0;
      for (const bytes of [1, 63, 64, 65, 100_000]) {
        const address = arena().allocate(bytes);
        assert.equal(address % 64, 0);
        assert(address >= end, 'ranges do not overlap');
        end = address + bytes;
        assert(bytesAt(address, bytes).every((byte) => byte === 0));
        assert.equal(arena().offsetOf(address) - arena().offsetOf(address - 64), 64);
        assert.equal(arena().holds(address), arena().wasm !== null);
      }
    });

    it('holds nothing that lies elsewhere', () => {
      assert.equal(arena().holds(addressOf(new Uint8Array(100))), false);
      const inside = arena().allocate(64);
      assert.equal(arena().holds(inside - arena().offsetOf(inside) - 1), false);
      assert.equal(arena().holds(inside - arena().offsetOf(inside)), arena().wasm !== null);
      assert.equal(arena().holds(inside - arena().offsetOf(inside) + 2 ** 34 - 1), arena().wasm !== null);
      assert.equal(arena().holds(inside - arena().offsetOf(inside) + 2 ** 34), false);
    });

    it('reserves addresses of any alignment and phase, and maps there', () => {
      for (const align of [PAGE, 2 * MIB, 1024 * MIB]) {
        for (const phase of [0, PAGE, 0x7fff_1234_5000, align - PAGE]) {
          const address = arena().reserve(3 * PAGE, align, phase);
          assert.equal(address % align, phase % align, `${align} ${phase}`);
          assert.equal(arena().holds(address), arena().wasm !== null);
          const content = frameBytes(3 * PAGE, phase);
          mapOver(address, 3 * PAGE, content);
          const copied = arena().allocate(3 * PAGE);
          arena().copy(copied, address, 3 * PAGE);
          assert.deepEqual(bytesAt(copied, 3 * PAGE).slice(), content);
          arena().free(address, 3 * PAGE);
          assert.equal(mappedFiles(), 0);
        }
      }
    });

    it('says so when the process has no room', () => {
      assert.throws(
        () => arena().reserve(2 ** 48, PAGE, 0),
        (error) => error instanceof SystemError && error.syscall === 'mmap' && error.code === 'ENOMEM',
      );
    });
  });
}

describe('Arena with little room', () => {
  const PAGES = 64;
  let small: Arena;
  before(() => {
    small = Arena.open({ guestBytes: PAGES * PAGE });
    assert.equal(small.reason, '');
  });

  it('says how much scratch was wanted when it is used up, and goes on with less', () => {
    assert.throws(() => small.allocate(2 ** 26), /^RangeError: arena: 67108864 bytes of scratch wanted, \d+ are left$/);
    assert(bytesAt(small.allocate(100), 100).every((byte) => byte === 0));
  });

  it('gives a range that was freed to the next, and what was there reads as zero', () => {
    const address = small.reserve(2 * PAGE, PAGE, 0);
    mapOver(address, 2 * PAGE, frameBytes(2 * PAGE, 1));
    small.free(address, 2 * PAGE);
    assert(bytesAt(address, 2 * PAGE).every((byte) => byte === 0));
    const scratch = small.allocate(2 * PAGE);
    bytesAt(scratch, 2 * PAGE).fill(1);
    small.copy(scratch, address, 2 * PAGE);
    assert(bytesAt(scratch, 2 * PAGE).every((byte) => byte === 0));
    assert.equal(small.reserve(2 * PAGE, PAGE, 0), address);
    small.free(address, 2 * PAGE);
  });

  it('puts what finds no room elsewhere, where it works as well', () => {
    const whole = small.reserve(PAGES * PAGE, PAGE, 0);
    assert.equal(small.holds(whole), true);
    const far = small.reserve(3 * PAGE, 2 * MIB, 5 * PAGE);
    assert.equal(small.holds(far), false);
    assert.equal(far % (2 * MIB), 5 * PAGE);
    const content = frameBytes(3 * PAGE, 2);
    mapOver(far, 3 * PAGE, content);
    small.copy(whole, far, 3 * PAGE);
    assert.deepEqual(bytesAt(whole, 3 * PAGE).slice(), content);
    assert.equal(small.sum(far, 3 * PAGE), small.sum(whole, 3 * PAGE));
    bytesAt(whole, 3 * PAGE).fill(0x77);
    small.copy(far, whole, 3 * PAGE);
    assert(bytesAt(far, 3 * PAGE).every((byte) => byte === 0x77));
    small.free(far, 3 * PAGE);
    assert.equal(mappedFiles(), 0);
    small.free(whole, PAGES * PAGE);
  });

  it('never gives a page twice, wastes none that is free, and joins what comes back', () => {
    const step = fc.oneof(
      fc.record({ pages: fc.integer({ min: 1, max: PAGES }), log: fc.nat(5), phase: fc.nat(31) }),
      fc.record({ free: fc.nat(20) }),
    );
    const property = fc.property(fc.array(step, { maxLength: 60, size: 'max' }), (steps) => {
      const first = small.reserve(PAGES * PAGE, PAGE, 0);
      assert.equal(small.holds(first), true, 'everything is free');
      small.free(first, PAGES * PAGE);
      const live: { address: number; bytes: number }[] = [];
      const used = new Set<number>();
      const pagesOf = ({ address, bytes }: { address: number; bytes: number }): number[] =>
        Array.from({ length: bytes / PAGE }, (_, i) => (address - first) / PAGE + i);
      const drop = (range: { address: number; bytes: number }): void => {
        small.free(range.address, range.bytes);
        for (const page of pagesOf(range)) used.delete(page);
      };
      for (const each of steps) {
        if ('free' in each) {
          for (const range of live.splice(each.free, 1)) drop(range);
          continue;
        }
        const bytes = each.pages * PAGE;
        const align = PAGE << each.log;
        const address = small.reserve(bytes, align, each.phase * PAGE);
        const range = { address, bytes };
        live.push(range);
        assert.equal(address % align, (each.phase * PAGE) % align);
        const pages = pagesOf(range);
        if (small.holds(address)) {
          assert(pages.every((page) => page >= 0 && page < PAGES && !used.has(page)));
          for (const page of pages) used.add(page);
        } else {
          const fits = (at: number): boolean =>
            (first / PAGE + at - each.phase) % (1 << each.log) === 0 &&
            Array.from({ length: each.pages }, (_, i) => at + i).every((page) => page < PAGES && !used.has(page));
          assert(!Array.from({ length: PAGES }, (_, at) => at).some(fits), 'it would have fitted');
        }
      }
      for (const range of live) drop(range);
    });
    fc.assert(property, { numRuns: 200 });
  });
});

describe('Arenas of two threads', () => {
  it('map the same file', async () => {
    const length = 5 * PAGE;
    const fd = memfd('arena-shared', length);
    const address = wasmArena().reserve(length, PAGE, 0);
    try {
      mmap({ address, length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED | MAP_FIXED, fd });
      const content = frameBytes(length, 1);
      bytesAt(address, length).set(content);
      const file: WorkerFile = { fd, length };
      const worker = new Worker(new URL('./arena-worker.ts', import.meta.url), { workerData: file });
      const [[answer]] = (await Promise.all([once(worker, 'message'), once(worker, 'exit')])) as [
        [WorkerAnswer],
        unknown,
      ];
      assert.equal(answer.reason, '');
      assert.notEqual(answer.address, address);
      assert.deepEqual(answer.seen, content);
      assert(bytesAt(address, length).every((byte) => byte === WORKER_MARK));
    } finally {
      wasmArena().free(address, length);
      close(fd);
    }
  });
});
