import assert from 'node:assert/strict';
import { viewMemory } from '../../../linux/libc.ts';
import { BufferTable } from '../../../nic/driver/buffer-table.ts';
import { ARENAS } from '../../helpers/arenas.ts';

const HIGHEST = 2 ** 52 - 1;
const bitsOf = (table: BufferTable): bigint[] => [...new BigUint64Array(table.addresses.buffer, 0, table.count)];

describe('BufferTable', () => {
  for (const { name, arena } of [{ name: 'without an arena', arena: () => null }, ...ARENAS]) {
    it(`has the addresses as a descriptor takes them, ${name}`, () => {
      const given = [0, 1, 2 ** 32, HIGHEST];
      const table = new BufferTable(4, (i) => given[i]!, arena());
      try {
        assert.deepEqual(bitsOf(table), given.map(BigInt));
        assert.deepEqual([...table.lengths], [0, 0, 0, 0]);
        // Moved as doubles, they stay the bits that they are.
        const moved = new Float64Array(4);
        for (let i = 0; i < 4; i++) moved[i] = table.addresses[i]!;
        assert.deepEqual([...new BigUint64Array(moved.buffer)], given.map(BigInt));
        table.lengths.fill(0xffff);
        assert.deepEqual(bitsOf(table), given.map(BigInt), 'lengths lie elsewhere');
      } finally {
        table.close();
      }
    });

    it(`refuses what is no address, and keeps no memory then, ${name}`, () => {
      for (const bad of [-1, 0.5, 2 ** 52, Number.NaN, Number.POSITIVE_INFINITY]) {
        assert.throws(() => new BufferTable(4, (i) => (i === 2 ? bad : 0), arena()), {
          name: 'RangeError',
          message: `buffer 2: ${bad} is no bus address; they are whole numbers below 2^52`,
        });
      }
    });
  }

  it('lies in the arena where kernels find it', () => {
    for (const { arena } of ARENAS) {
      const table = new BufferTable(64, (i) => i * 2048, arena());
      try {
        assert.equal(new BigUint64Array(viewMemory(table.addressesAt, 64 * 8))[63], 63n * 2048n);
        table.lengths[63] = 1514;
        assert.equal(new Uint16Array(viewMemory(table.lengthsAt, 64 * 2))[63], 1514);
      } finally {
        table.close();
      }
    }
  });
});
