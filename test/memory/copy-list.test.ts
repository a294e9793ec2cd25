import assert from 'node:assert/strict';
import fc from 'fast-check';
import { addressOf, viewMemory } from '../../linux/libc.ts';
import type { Arena } from '../../memory/arena.ts';
import { CopyList } from '../../memory/copy-list.ts';
import { ARENAS } from '../helpers/arenas.ts';
import { frameBytes } from '../helpers/frame-bytes.ts';

/** More than a list holds. */
const MANY = 3000;
const SPACE = 2 ** 16;

for (const { name, arena } of ARENAS) describe(`CopyList ${name}`, () => suite(arena));

function suite(arena: () => Arena): void {
  let list: CopyList;
  /** A place in the arena and one outside of it. */
  let near: Uint8Array;
  let nearAt: number;
  const far = new Uint8Array(SPACE);
  const farAt = addressOf(far);
  before(() => {
    list = new CopyList(arena());
    nearAt = arena().allocate(SPACE);
    near = new Uint8Array(viewMemory(nearAt, SPACE));
  });
  beforeEach(() => {
    near.fill(0);
    far.set(frameBytes(SPACE, 1));
  });

  it('copies nothing before it runs, and nothing again afterwards', () => {
    list.add(nearAt, farAt, 100);
    assert.deepEqual(near.slice(0, 100), new Uint8Array(100));
    list.run();
    assert.deepEqual(near.slice(0, 100), far.slice(0, 100));
    near.fill(0);
    list.run();
    assert.deepEqual(near.slice(0, 100), new Uint8Array(100));
  });

  it('copies in order: what one copy writes the next one may read', () => {
    near.set(frameBytes(50, 2));
    for (let i = 0; i < 100; i++) list.add(nearAt + 50 * (i + 1), nearAt + 50 * i, 50);
    list.add(nearAt, nearAt + 200, 10);
    list.add(nearAt, farAt, 5);
    list.run();
    for (let i = 1; i <= 100; i++) assert.deepEqual(near.slice(50 * i, 50 * (i + 1)), frameBytes(50, 2));
    assert.deepEqual(near.slice(0, 10), Uint8Array.of(...far.slice(0, 5), ...frameBytes(50, 2).slice(5, 10)));
  });

  it('takes more copies than it holds', () => {
    for (let i = 0; i < MANY; i++) list.add(nearAt + i * 10, farAt + (MANY - 1 - i) * 10, 10);
    list.run();
    for (let i = 0; i < MANY; i++) {
      const from = (MANY - 1 - i) * 10;
      assert.deepEqual(near.slice(i * 10, i * 10 + 10), far.slice(from, from + 10));
    }
  });

  it('does what copying at once does, between near and far, whatever the ranges', () => {
    const half = SPACE / 2;
    const copy = fc.record({
      toFar: fc.boolean(),
      fromFar: fc.boolean(),
      // From the lower half into the upper one: ranges of one copy never overlap, those of several may.
      from: fc.nat(half - 2000),
      to: fc.integer({ min: half, max: SPACE - 2000 }),
      bytes: fc.oneof(fc.nat(40), fc.nat(2000)),
    });
    const property = fc.property(fc.array(copy, { maxLength: 50, size: 'max' }), (copies) => {
      near.set(frameBytes(SPACE, 3));
      far.set(frameBytes(SPACE, 4));
      const model = { near: near.slice(), far: far.slice() };
      for (const { toFar, fromFar, from, to, bytes } of copies) {
        list.add((toFar ? farAt : nearAt) + to, (fromFar ? farAt : nearAt) + from, bytes);
        (toFar ? model.far : model.near).set((fromFar ? model.far : model.near).subarray(from, from + bytes), to);
      }
      list.run();
      assert.deepEqual(near.slice(), model.near);
      assert.deepEqual(far.slice(), model.far);
    });
    fc.assert(property, { numRuns: 50 });
  });
}
