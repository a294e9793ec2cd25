import assert from 'node:assert/strict';
import { LocalTable, MAX_LOCALS } from '../../../tcpip/ip/local-table.ts';
import { NOT_LOCAL } from '../../../tcpip/packet.ts';
import { seeded } from '../../helpers/tcpip-wire.ts';

const FOUR = Uint8Array.of(10, 0, 0, 1);
const SIX = Uint8Array.of(0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);

describe('addresses of ours', () => {
  it('come and go, and keep their numbers', () => {
    const locals = new LocalTable(seeded(1));
    assert.equal(locals.find(4, FOUR, 0), NOT_LOCAL);
    const four = locals.add(FOUR, 24);
    const six = locals.add(SIX, 64, { temporary: true });
    assert.equal(locals.find(4, Uint8Array.of(9, ...FOUR), 1), four);
    assert.equal(locals.find(6, SIX, 0), six);
    assert.deepEqual([locals.family(four), locals.family(six)], [4, 6]);
    assert.deepEqual([locals.address(four), locals.address(six)], [FOUR, SIX]);
    assert.equal(locals.get(six)!.temporary, true);
    locals.remove(four);
    assert.equal(locals.has(four), false);
    assert.equal(locals.find(4, FOUR, 0), NOT_LOCAL);
    assert.deepEqual(locals.address(four), FOUR, 'whoever still has the number');
    const other = locals.add(Uint8Array.of(10, 0, 0, 2), 24);
    assert.notEqual(other, four);
    assert.equal(locals.add(FOUR, 25), four);
    assert.equal(locals.get(four)!.prefixLength, 25);
    locals.remove(77_777);
    assert.equal(locals.has(NOT_LOCAL), false);
  });

  it('tell who watches', () => {
    const locals = new LocalTable(seeded(1));
    const seen: [number, boolean, boolean][] = [];
    locals.watch(({ local }, added) => seen.push([local, added, locals.has(local)]));
    const local = locals.add(FOUR, 24);
    locals.add(FOUR, 16, { deprecated: true });
    locals.remove(local);
    locals.remove(local);
    assert.deepEqual(seen, [
      [local, true, true],
      [local, true, true],
      [local, false, false],
    ]);
  });

  it('are bounded, and gone ones make room, the first first', () => {
    const locals = new LocalTable(seeded(1));
    const addressOf = (i: number): Uint8Array => Uint8Array.of(10, 1, i >> 8, i);
    for (let i = 0; i < MAX_LOCALS; i++) assert.ok(locals.add(addressOf(i), 16) < 65_536);
    assert.throws(() => locals.add(FOUR, 24), /32768 addresses/);
    const [first, second] = [locals.find(4, addressOf(5), 0), locals.find(4, addressOf(3), 0)];
    locals.remove(first);
    locals.remove(second);
    assert.equal(locals.add(FOUR, 24), first);
    assert.equal(locals.find(4, addressOf(5), 0), NOT_LOCAL);
    assert.equal(locals.add(addressOf(3), 24), second);
    assert.ok(locals.add(SIX, 64) >= 0, 'IPv6 has room of its own');
  });

  it('have 4 or 16 bytes, and a prefix within them', () => {
    const locals = new LocalTable(seeded(1));
    assert.throws(() => locals.add(Uint8Array.of(1, 2, 3), 8), /3 bytes/);
    for (const wrong of [-1, 33, 1.5]) assert.throws(() => locals.add(FOUR, wrong), /from 0 to 32/);
    assert.throws(() => locals.add(SIX, 129), /from 0 to 128/);
    assert.equal(locals.count, 0);
  });
});
