import assert from 'node:assert/strict';
import fc from 'fast-check';
import { FLOW_HASH_HEADER_LENGTH, flowHash, queueForHash } from '../../switch/flow-hash.ts';

const MACS = '02aaaaaaaa01 02bbbbbbbb02';
const MACS_BACK = '02bbbbbbbb02 02aaaaaaaa01';

function hex(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text.replace(/\s/g, ''), 'hex'));
}

function hash(text: string, seed = 0): number {
  const frame = hex(text);
  return flowHash(frame, 0, frame.length, seed);
}

/** An Ethernet frame with an IPv4 header of `protocol`; `fragment` is flags and offset. */
function ipv4(
  macs: string,
  source: string,
  destination: string,
  l4: string,
  protocol = '06',
  fragment = '4000',
): string {
  return `${macs} 0800 4500 0028 1234 ${fragment} 40 ${protocol} 0000 ${source} ${destination} ${l4}`;
}

const A = '0a000001';
const B = '0a000002';
const A6 = 'fd00000000000000 0000000000000001';
const B6 = 'fd00000000000000 0000000000000002';

describe('flowHash', () => {
  const forth = ipv4(MACS, A, B, '1234 0050 00000001');

  it('is the same for both directions of a TCP or UDP flow, and differs by port, address, protocol and seed', () => {
    assert.equal(hash(forth), hash(ipv4(MACS_BACK, B, A, '0050 1234 99999999')));
    const others = [
      hash(ipv4(MACS, A, B, '1235 0050 00000001')),
      hash(ipv4(MACS, A, '0a000003', '1234 0050 00000001')),
      hash(ipv4(MACS, A, B, '1234 0050 00000001', '11')),
      hash(ipv4(MACS, A, B, '0050 1234 00000001')), // the same ports, swapped between the same addresses
      hash(forth, 1),
    ];
    assert.equal(new Set([hash(forth), ...others]).size, 6);
  });

  it('follows a flow, not its MAC addresses, tags or IP ID', () => {
    assert.equal(hash(forth), hash(forth.replace(MACS, '020000000009 020000000008').replace('1234 4000', '4321 4000')));
    assert.equal(hash(forth), hash(forth.replace(' 0800', ' 8100 0005 0800')));
    assert.equal(hash(forth), hash(forth.replace(' 0800', ' 88a8 0005 8100 0006 0800')));
    const options = forth.replace(' 4500', ' 4600').replace(`${A} ${B}`, `${A} ${B} 01010101`);
    assert.equal(hash(forth), hash(options));
  });

  it('hashes every fragment by addresses and protocol only', () => {
    const first = hash(ipv4(MACS, A, B, '1234 0050 00000001', '11', '2000'));
    assert.equal(first, hash(ipv4(MACS, A, B, 'dead beef 00000001', '11', '2010')));
    assert.equal(first, hash(ipv4(MACS, B, A, 'aaaa bbbb 00000001', '11', '0020')));
    assert.notEqual(first, hash(ipv4(MACS, A, '0a000003', 'aaaa bbbb 00000001', '11', '0020')));
  });

  it('hashes other protocols by addresses', () => {
    const ping = hash(ipv4(MACS, A, B, '0800 1111 2222', '01'));
    assert.equal(ping, hash(ipv4(MACS_BACK, B, A, '0000 3333 4444', '01')));
  });

  it('hashes IPv6 flows, also behind extension headers', () => {
    const header = `${MACS} 86dd 6000 0000 0014`;
    const tcp = hash(`${header} 06 40 ${A6} ${B6} 1234 0050`);
    assert.equal(tcp, hash(`${header} 06 40 ${B6} ${A6} 0050 1234`));
    // Hop-by-hop of 8 bytes, then destination options of 16.
    const extensions = `3c 00 010400000000 06 01 010c000000000000 000000000000`;
    assert.equal(tcp, hash(`${header} 00 40 ${A6} ${B6} ${extensions} 1234 0050`));
    assert.notEqual(tcp, hash(`${header} 06 40 ${A6} ${B6} 1234 0051`));
    const fragment = hash(`${header} 2c 40 ${A6} ${B6} 06 00 0001 00000007 1234 0050`);
    assert.equal(fragment, hash(`${header} 2c 40 ${B6} ${A6} 06 00 0100 00000008 ffff ffff`));
    assert.notEqual(fragment, tcp);
  });

  it('hashes other frames by MAC addresses', () => {
    const arp = hash(`${MACS} 0806 0001080006040001`);
    assert.equal(arp, hash(`${MACS_BACK} 0806 ffffffff`));
    assert.notEqual(arp, hash(`${MACS.replace('01 ', '03 ')} 0806 0001`));
  });

  it('takes what a truncated header shows: addresses without ports, MACs without addresses, or nothing', () => {
    const bytes = hex(forth);
    const byAddresses = flowHash(bytes, 0, 37);
    assert.notEqual(byAddresses, flowHash(bytes, 0, 38));
    assert.equal(byAddresses, flowHash(bytes, 0, 34));
    assert.equal(flowHash(bytes, 0, 33), flowHash(bytes, 0, 14));
    assert.equal(flowHash(bytes, 0, 13), flowHash(bytes, 0, 0));
  });

  it('reads at an offset, and never outside the bytes given nor past the 128th', () => {
    const property = fc.property(
      fc.constantFrom(
        '',
        MACS,
        `${MACS}0800`,
        `${MACS}0800 45`,
        `${MACS}86dd 60`,
        `${MACS}8100000186dd 6000000000140000`,
      ),
      fc.uint8Array({ maxLength: 200, size: 'max' }),
      fc.nat(10),
      fc.nat(220),
      fc.integer(),
      (start, rest, offset, length, seed) => {
        const frame = Uint8Array.from([...hex(start), ...rest]);
        const held = new Uint8Array(offset + frame.length + 20);
        held.set(frame, offset);
        const end = Math.min(offset + Math.min(length, FLOW_HASH_HEADER_LENGTH), held.length);
        const watched = new Proxy(held, {
          get(target, key) {
            if (typeof key === 'string' && /^-?\d+$/.test(key)) {
              assert.ok(Number(key) >= offset && Number(key) < end, `read of byte ${key} outside ${offset} to ${end}`);
            }
            return Reflect.get(target, key, target);
          },
        });
        const value = flowHash(watched, offset, length, seed);
        assert.equal(value, value | 0);
        assert.equal(value, flowHash(held.slice(offset), 0, length, seed));
      },
    );
    fc.assert(property, { numRuns: 500 });
  });

  it('is symmetric for any addresses and ports', () => {
    const word = fc.integer({ min: 0, max: 0xffff_ffff }).map((value) => value.toString(16).padStart(8, '0'));
    const port = fc.integer({ min: 0, max: 0xffff }).map((value) => value.toString(16).padStart(4, '0'));
    const property = fc.property(word, word, port, port, fc.integer(), (a, b, p, q, seed) => {
      assert.equal(hash(ipv4(MACS, a, b, p + q), seed), hash(ipv4(MACS_BACK, b, a, q + p), seed));
      const v6 = (from: string, to: string, ports: string) =>
        `${MACS} 86dd 60000000 0014 11 40 ${A6.slice(0, -8)}${from} ${B6.slice(0, -8)}${to} ${ports}`;
      const back = `${MACS} 86dd 60000000 0014 11 40 ${B6.slice(0, -8)}${b} ${A6.slice(0, -8)}${a} ${q}${p}`;
      assert.equal(hash(v6(a, b, p + q), seed), hash(back, seed));
    });
    fc.assert(property, { numRuns: 200 });
  });

  it('spreads flows that differ in one port evenly over queues', () => {
    for (const queues of [2, 3, 8]) {
      const counts = new Array<number>(queues).fill(0);
      const flows = 4000;
      for (let port = 0; port < flows; port++) {
        const ports = `${(10_000 + port).toString(16).padStart(4, '0')} 0050`;
        counts[queueForHash(hash(ipv4(MACS, A, B, ports)), queues)]++;
      }
      // Five standard deviations of the binomial distribution.
      const tolerance = 5 * Math.sqrt((flows / queues) * (1 - 1 / queues));
      for (const count of counts) assert.ok(Math.abs(count - flows / queues) < tolerance, counts.join());
    }
  });

  it('picks the first queue for the lowest hash and the last for the highest', () => {
    assert.equal(queueForHash(0, 4), 0);
    assert.equal(queueForHash(0x7fff_ffff, 4), 1);
    assert.equal(queueForHash(-1, 4), 3);
    assert.equal(queueForHash(-1, 1), 0);
  });
});
