import assert from 'node:assert/strict';
import fc from 'fast-check';
import { ABSENT, AddressTable, wordAt } from '../../../tcpip/ip/address-table.ts';
import { seeded } from '../../helpers/tcpip-wire.ts';

for (const length of [4, 16] as const) {
  describe(`a table of addresses of ${length} bytes`, () => {
    const addressOf = (number: number): Uint8Array => {
      const bytes = new Uint8Array(length).fill(0xfe);
      new DataView(bytes.buffer).setUint32(number % 2 === 0 ? length - 4 : 0, number * 0x9e37);
      return bytes;
    };

    it('does as a map would, and keeps numbers', () => {
      const step = fc.tuple(fc.constantFrom('insert', 'remove', 'find'), fc.nat(60));
      fc.assert(
        fc.property(fc.array(step, { maxLength: 300 }), fc.integer(), (steps, seed) => {
          const table = new AddressTable(length, seeded(seed));
          const model = new Map<number, number>();
          for (const [what, number] of steps) {
            const bytes = Uint8Array.of(9, 9, 9, ...addressOf(number));
            const known = model.get(number);
            assert.equal(table.find(bytes, 3), known ?? ABSENT);
            if (what === 'insert' && known === undefined) {
              const entry = table.insert(bytes, 3);
              assert.ok(![...model.values()].includes(entry), 'the number of another address');
              assert.ok(entry >= 0 && entry < table.capacity);
              model.set(number, entry);
            } else if (what === 'remove' && known !== undefined) {
              table.remove(known);
              model.delete(number);
            }
            assert.equal(table.count, model.size);
          }
          for (const [number, entry] of model) {
            assert.equal(table.find(addressOf(number), 0), entry);
            const back = new Uint8Array(length);
            table.write(entry, back, 0);
            assert.deepEqual(back, addressOf(number));
          }
        }),
      );
    });

    it('holds a hundred thousand', () => {
      const table = new AddressTable(length, seeded(1));
      const bytes = new Uint8Array(16);
      const view = new DataView(bytes.buffer);
      for (let i = 0; i < 100_000; i++) {
        view.setUint32(0, i * 256);
        assert.equal(table.insert(bytes, 0), i);
      }
      for (let i = 0; i < 100_000; i += 997) {
        view.setUint32(0, i * 256);
        assert.equal(table.find(bytes, 0), i);
        view.setUint32(0, i * 256 + 1);
        assert.equal(table.find(bytes, 0), ABSENT);
      }
    });
  });
}

describe('a word of an address', () => {
  it('is big-endian and signed', () => {
    assert.equal(wordAt(Uint8Array.of(0, 1, 2, 3, 4), 1), 0x01020304);
    assert.equal(wordAt(Uint8Array.of(255, 255, 255, 255), 0), -1);
  });
});
