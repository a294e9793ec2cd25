import assert from 'node:assert/strict';
import fc from 'fast-check';
import { DestinationCache, PATH_MTU_LIFETIME, UNRESOLVED } from '../../../tcpip/ip/destination-cache.ts';
import { NeighbourCache, REACHABLE, STALE } from '../../../tcpip/link/neighbour-cache.ts';
import { NEVER, NO_DESTINATION } from '../../../tcpip/network.ts';
import { seeded } from '../../helpers/tcpip-wire.ts';

const addressOf = (family: 4 | 6, number: number): Uint8Array => {
  const bytes = new Uint8Array(family === 4 ? 4 : 16).fill(0x20);
  new DataView(bytes.buffer).setUint32(bytes.length - 4, number);
  return bytes;
};

function newCache(maxIdle = 4) {
  const random = seeded(1);
  const neighbours = new NeighbourCache(random, { transmit: () => {}, unreachable: () => {} });
  return { neighbours, cache: new DestinationCache(random, neighbours, 1500, maxIdle) };
}

describe('the destination cache', () => {
  it('makes entries when they are held, and not when they are looked for', () => {
    const { cache } = newCache();
    const bytes = Uint8Array.of(0, 0, ...addressOf(4, 7));
    assert.equal(cache.find(4, bytes, 2), NO_DESTINATION);
    assert.equal(cache.count, 0);
    const destination = cache.hold(4, bytes, 2);
    assert.equal(cache.find(4, bytes, 2), destination);
    assert.equal(cache.hold(4, bytes, 2), destination);
    assert.equal(cache.family(destination), 4);
    assert.deepEqual(cache.address(destination), addressOf(4, 7));
    const six = cache.hold(6, addressOf(6, 7), 0);
    assert.equal(cache.family(six), 6);
    assert.deepEqual(cache.address(six), addressOf(6, 7));
    assert.notEqual(six, destination);
  });

  it('keeps what nobody holds while there is room; the first let go goes first', () => {
    const { cache } = newCache(3);
    const held = [1, 2, 3, 4, 5].map((number) => cache.hold(4, addressOf(4, number), 0));
    for (const destination of [held[2]!, held[0]!, held[1]!]) cache.letGo(destination);
    assert.equal(cache.count, 5);
    // One comes back, and goes to the end of the line.
    assert.equal(cache.hold(4, addressOf(4, 3), 0), held[2]);
    cache.letGo(held[2]!);
    cache.letGo(held[3]!);
    assert.equal(cache.find(4, addressOf(4, 1), 0), NO_DESTINATION);
    assert.equal(cache.find(4, addressOf(4, 3), 0), held[2]);
    assert.equal(cache.find(4, addressOf(4, 5), 0), held[4]);
  });

  it('does not let go what is not held', () => {
    const { cache } = newCache();
    const destination = cache.hold(4, addressOf(4, 1), 0);
    cache.holdAgain(destination);
    cache.letGo(destination);
    cache.letGo(destination);
    assert.throws(() => cache.letGo(destination), /held by nobody/);
    assert.throws(() => cache.holdAgain(destination), /held by nobody/);
  });

  it('does as a map would', () => {
    const step = fc.tuple(fc.constantFrom('hold', 'letGo'), fc.nat(15), fc.constantFrom<4 | 6>(4, 6));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
        const { cache } = newCache(3);
        const holders = new Map<string, { destination: number; count: number }>();
        for (const [what, number, family] of steps) {
          const key = `${family} ${number}`;
          const known = holders.get(key);
          if (what === 'hold') {
            const destination = cache.hold(family, addressOf(family, number), 0);
            if (known !== undefined) assert.equal(destination, known.destination);
            else for (const other of holders.values()) assert.notEqual(other.destination, destination);
            holders.set(key, { destination, count: (known?.count ?? 0) + 1 });
          } else if (known !== undefined) {
            cache.letGo(known.destination);
            if (--known.count === 0) holders.delete(key);
          }
          assert.ok(cache.count <= holders.size + 6);
          for (const [name, { destination }] of holders) {
            const [ofFamily, ofNumber] = name.split(' ').map(Number) as [4 | 6, number];
            assert.deepEqual(cache.address(destination), addressOf(ofFamily, ofNumber));
          }
        }
      }),
      { numRuns: 50 },
    );
  });

  it('holds a million', () => {
    const { cache } = newCache();
    const bytes = new Uint8Array(4);
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < 1_000_000; i++) {
      view.setUint32(0, i);
      assert.equal(cache.hold(4, bytes, 0), 2 * i);
    }
    view.setUint32(0, 765_432);
    assert.equal(cache.find(4, bytes, 0), 2 * 765_432);
    for (let i = 0; i < 1_000_000; i++) cache.letGo(2 * i);
    assert.equal(cache.count, 4);
  });

  it('keeps path MTUs within bounds, and forgets them after ten minutes (RFC 8201 §4)', () => {
    const { cache } = newCache();
    const four = cache.hold(4, addressOf(4, 1), 0);
    const six = cache.hold(6, addressOf(6, 1), 0);
    assert.deepEqual([cache.pathMtu(four), cache.pathMtu(six)], [1500, 1500]);
    cache.setPathMtu(four, 100, 1000);
    cache.setPathMtu(six, 100, 2000);
    assert.deepEqual([cache.pathMtu(four), cache.pathMtu(six)], [552, 1280]);
    cache.setPathMtu(four, 9000, 3000);
    assert.equal(cache.pathMtu(four), 1500);
    cache.setPathMtu(four, 1400, 4000);
    assert.equal(cache.deadline, 2000 + PATH_MTU_LIFETIME);
    cache.tick(2000 + PATH_MTU_LIFETIME);
    assert.deepEqual([cache.pathMtu(four), cache.pathMtu(six)], [1400, 1500]);
    assert.equal(cache.deadline, 4000 + PATH_MTU_LIFETIME);
    cache.tick(4000 + PATH_MTU_LIFETIME);
    assert.equal(cache.pathMtu(four), 1500);
    assert.equal(cache.deadline, NEVER);
  });

  it('does not give what it learnt of one host to the next with its number', () => {
    const { cache } = newCache(1);
    const first = cache.hold(4, addressOf(4, 1), 0);
    cache.setPathMtu(first, 600, 0);
    cache.four.neighbour[first >> 1] = 3;
    cache.letGo(first);
    cache.letGo(cache.hold(4, addressOf(4, 2), 0));
    const again = cache.hold(4, addressOf(4, 3), 0);
    assert.equal(again, first);
    assert.equal(cache.pathMtu(again), 1500);
    assert.equal(cache.four.neighbour[again >> 1], UNRESOLVED);
    assert.equal(cache.deadline, NEVER);
  });

  it('knows a smaller MTU of the link', () => {
    const { cache } = newCache();
    const untouched = cache.hold(6, addressOf(6, 1), 0);
    const small = cache.hold(6, addressOf(6, 2), 0);
    cache.setPathMtu(small, 1300, 0);
    cache.setLinkMtu(6, 1400);
    assert.deepEqual([cache.pathMtu(untouched), cache.pathMtu(small)], [1400, 1300]);
    assert.equal(cache.pathMtu(cache.hold(6, addressOf(6, 3), 0)), 1400);
    assert.equal(cache.pathMtu(cache.hold(4, addressOf(4, 3), 0)), 1500);
    cache.setLinkMtu(6, 10);
    assert.equal(cache.pathMtu(untouched), 1280);
  });

  it('passes on that the way works, if it still is the way', () => {
    const { cache, neighbours } = newCache();
    const destination = cache.hold(4, addressOf(4, 1), 0);
    cache.confirm(destination, 5);
    const neighbour = neighbours.entry(4, addressOf(4, 9), 0);
    neighbours.learnt(neighbour, Uint8Array.of(2, 0, 0, 0, 0, 7), 0, 5);
    cache.four.neighbour[destination >> 1] = neighbour;
    cache.confirm(destination, 5);
    assert.equal(neighbours.state[neighbour], STALE);
    cache.four.version[destination >> 1] = neighbours.version[neighbour]!;
    cache.confirm(destination, 5);
    assert.equal(neighbours.state[neighbour], REACHABLE);
  });
});
