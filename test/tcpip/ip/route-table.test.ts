import assert from 'node:assert/strict';
import fc from 'fast-check';
import { matches, RouteTable } from '../../../tcpip/ip/route-table.ts';

const ip = (text: string): Uint8Array => Uint8Array.from(text.split('.'), Number);

describe('routes', () => {
  it('the longest prefix wins, then the smallest metric, then the first (RFC 1812 §5.2.4.3)', () => {
    const routes = new RouteTable();
    const all = routes.add({ prefix: ip('0.0.0.0'), prefixLength: 0, gateway: ip('10.0.0.254') });
    const wide = routes.add({ prefix: ip('10.0.0.0'), prefixLength: 8 });
    const far = routes.add({ prefix: ip('10.1.2.3'), prefixLength: 16, metric: 10, gateway: ip('10.0.0.1') });
    const near = routes.add({ prefix: ip('10.1.0.0'), prefixLength: 16, metric: 5, gateway: ip('10.0.0.2') });
    const late = routes.add({ prefix: ip('10.1.0.0'), prefixLength: 16, metric: 5, gateway: ip('10.0.0.3') });
    assert.deepEqual(routes.list(4), [near, late, far, wide, all]);
    assert.equal(routes.find(4, ip('10.1.9.9'), 0), near);
    assert.equal(routes.find(4, ip('10.2.9.9'), 0), wide);
    assert.equal(routes.find(4, Uint8Array.of(9, 9, 8, 8, 8, 8), 2), all);
    assert.ok(routes.remove(near));
    assert.equal(routes.remove(near), false);
    assert.equal(routes.find(4, ip('10.1.9.9'), 0), late);
    assert.deepEqual(far.prefix, ip('10.1.0.0'));
    assert.equal(routes.find(6, new Uint8Array(16), 0), null);
  });

  it('tell of each change', () => {
    const routes = new RouteTable();
    let changes = 0;
    routes.onChange = () => changes++;
    routes.remove(routes.add({ prefix: ip('10.0.0.0'), prefixLength: 8 }));
    assert.equal(changes, 2);
  });

  it('are checked', () => {
    const routes = new RouteTable();
    assert.throws(() => routes.add({ prefix: ip('10.0.0'), prefixLength: 8 }), /3 bytes/);
    assert.throws(() => routes.add({ prefix: ip('10.0.0.0'), prefixLength: 33 }), /from 0 to 32/);
    const rest = { prefix: ip('10.0.0.0'), prefixLength: 8 };
    assert.throws(() => routes.add({ ...rest, gateway: new Uint8Array(16) }), /gateway of 16 bytes/);
    assert.throws(() => routes.add({ ...rest, source: ip('1.2') }), /source of 2 bytes/);
    assert.deepEqual(routes.list(4), []);
  });

  it('match by whole and broken bytes', () => {
    const bits = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(2).padStart(8, '0')).join('');
    const address = fc.uint8Array({ minLength: 4, maxLength: 4 });
    fc.assert(
      fc.property(address, fc.integer({ min: 0, max: 32 }), fc.integer({ min: 0, max: 31 }), (prefix, length, flip) => {
        const other = prefix.slice();
        other[flip >> 3] = other[flip >> 3]! ^ (0x80 >> (flip & 7));
        for (const candidate of [prefix, other]) {
          const expected = bits(candidate).slice(0, length) === bits(prefix).slice(0, length);
          assert.equal(matches(prefix, length, Uint8Array.of(1, ...candidate), 1), expected);
        }
      }),
    );
  });
});
