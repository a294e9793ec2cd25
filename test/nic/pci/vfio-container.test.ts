import assert from 'node:assert/strict';
import fc from 'fast-check';
import { IovaSpace } from '../../../nic/pci/iova.ts';
import { parseIovaRanges } from '../../../nic/pci/vfio-container.ts';

describe('struct vfio_iommu_type1_info', () => {
  /** The struct, then capabilities as [id, next, nr_iovas, ranges...]. */
  function info(bytes: number, flags: number, capOffset: number, ...words: [at: number, value: number][]): DataView {
    const view = new DataView(new ArrayBuffer(bytes));
    view.setUint32(4, flags, true);
    view.setUint32(16, capOffset, true);
    for (const [at, value] of words) view.setUint32(at, value, true);
    return view;
  }

  it('tells its ranges', () => {
    const words: [number, number][] = [
      [24, 0x1_0001],
      [32, 2],
      [40, 4096],
      [48, 0xffff],
      [56, 0],
      [60, 1],
      [64, 0xffffffff],
      [68, 0xffff],
    ];
    assert.deepEqual(parseIovaRanges(info(72, 3, 24, ...words)), [
      { start: 4096n, end: 0xffffn },
      { start: 2n ** 32n, end: 2n ** 48n - 1n },
    ]);
  });

  for (const [what, view] of [
    ['has no capabilities', info(24, 1, 24)],
    ['has a chain that starts before its end', info(72, 3, 8)],
    ['has a chain that starts behind it', info(72, 3, 68)],
    ['has a chain that ends', info(72, 3, 24, [24, 2], [28, 0])],
    ['has a chain that turns back', info(72, 3, 32, [32, 2], [36, 24], [24, 2], [28, 32])],
    ['has a chain that stands still', info(72, 3, 32, [32, 2], [36, 32])],
    ['has a capability that it cuts off', info(36, 3, 24, [24, 1])],
    ['has no room for its ranges', info(40, 3, 24, [24, 1], [32, 0xffffffff])],
  ] as const) {
    it(`tells none when it ${what}`, () => assert.equal(parseIovaRanges(view), null));
  }
});

describe('bus addresses', () => {
  it('never overlap, stand at 2 MiB within the ranges, and are used again', () => {
    const ranges = [
      { start: 0n, end: 0xfedfffffn },
      { start: 0x1_0000_1000n, end: 0x1_03ff_ffffn },
      { start: 0x2_0000_0000n, end: 0x2_0fff_ffffn },
    ];
    const step = fc.record({ pages: fc.integer({ min: 1, max: 4096 }), free: fc.boolean(), which: fc.nat() });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const space = new IovaSpace(ranges);
        const taken: { start: number; length: number }[] = [];
        for (const { pages, free, which } of steps) {
          if (free && taken.length > 0) {
            space.free(taken.splice(which % taken.length, 1)[0]!.start);
            continue;
          }
          const length = 4096 * pages;
          const start = space.allocate(length);
          assert.equal(start % 2 ** 21, 0);
          assert.notEqual(start, 0);
          assert.ok(ranges.some((range) => range.start <= BigInt(start) && BigInt(start + length) - 1n <= range.end));
          assert.ok(taken.every((other) => other.start + other.length <= start || start + length <= other.start));
          taken.push({ start, length });
        }
        for (const { start } of taken) space.free(start);
        assert.equal(space.allocate(4096), 0x1_0020_0000, 'the first again');
      }),
    );
  });
});
