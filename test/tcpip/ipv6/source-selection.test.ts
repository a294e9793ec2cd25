import assert from 'node:assert/strict';
import { LocalTable } from '../../../tcpip/ip/local-table.ts';
import { labelOf, selectSource } from '../../../tcpip/ipv6/source-selection.ts';
import { formatOf, ip } from '../../helpers/ipv6-host.ts';
import { seeded } from '../../helpers/tcpip-wire.ts';

const bytesOf = (address: string): Uint8Array => Uint8Array.from(ip(address));

/** Which of the addresses, given as `2001:db8::1/64` with marks behind, packets to an address come from. */
function choose(destination: string, ...addresses: string[]): string | null {
  const orders = [addresses, [...addresses].reverse()].map((order) => {
    const locals = new LocalTable(seeded(1));
    for (const text of order) {
      const [cidr, ...marks] = text.split(' ');
      const [address, prefix] = cidr.split('/');
      locals.add(bytesOf(address), Number(prefix ?? 64), {
        deprecated: marks.includes('deprecated'),
        temporary: marks.includes('temporary'),
        loopback: marks.includes('loopback'),
      });
    }
    const chosen = selectSource(locals.all(), bytesOf(destination), 0);
    return chosen === null ? null : formatOf(chosen.bytes);
  });
  assert.equal(orders[0], orders[1], 'whatever the order');
  return orders[0];
}

describe('source address selection (RFC 6724 §5)', () => {
  it('rule 1: the same address', () => {
    assert.equal(choose('2001:db8::1', '2001:db8::1', '2001:db8::2'), '2001:db8::1');
  });

  it('rule 2: the appropriate scope', () => {
    // The examples of RFC 6724 §10.1.
    assert.equal(choose('2001:db8:1::1', '2001:db8:3::1', 'fe80::1'), '2001:db8:3::1');
    assert.equal(choose('ff05::1', '2001:db8:3::1', 'fe80::1'), '2001:db8:3::1');
    assert.equal(choose('fe80::9', '2001:db8:3::1', 'fe80::1'), 'fe80::1');
    assert.equal(choose('ff02::1', '2001:db8:3::1', 'fe80::1'), 'fe80::1');
  });

  it('rule 3: not a deprecated one; but rule 2 goes before', () => {
    assert.equal(choose('2001:db8:1::1', '2001:db8:1::2 deprecated', '2001:db8:3::1'), '2001:db8:3::1');
    assert.equal(choose('2001:db8:1::1', '2001:db8:1::2 deprecated', 'fe80::1'), '2001:db8:1::2');
  });

  it('rule 6: the same label', () => {
    assert.equal(
      choose('2002:c633:6401::1', '2001:db8::2', '2002:c633:6401:0:d5e3:7953:13eb:22e8'),
      '2002:c633:6401:0:d5e3:7953:13eb:22e8',
    );
    assert.equal(choose('fd00::1', '2001:db8::2', 'fd77::2'), 'fd77::2');
  });

  it('rule 7: a temporary one', () => {
    assert.equal(
      choose('2001:db8:1::d5e3:0:0:1', '2001:db8:1::2', '2001:db8:1:0:d5e3:7953:13eb:22e8 temporary'),
      '2001:db8:1:0:d5e3:7953:13eb:22e8',
    );
  });

  it('rule 8: the longest prefix in common, as far as the prefix of ours goes', () => {
    assert.equal(choose('2001:db8:1::1', '2001:db8:1::2', '2001:db8:3::2'), '2001:db8:1::2');
    assert.equal(choose('2001:db8:1::1', '2001:db8:1::2/128', '2001:db8:3::2/128'), '2001:db8:1::2');
  });

  it('::1 for itself alone', () => {
    assert.equal(choose('2001:db8::1', '::1/128 loopback'), null);
    assert.equal(choose('::1', '::1/128 loopback', '2001:db8::1'), '::1');
  });

  it('labels are those of the default policy table (§2.1)', () => {
    const labels = {
      '::1': 0,
      '2001:db8::1': 1,
      '2002::1': 2,
      '::7': 3,
      '::ffff:1.2.3.4': 4,
      '2001::1': 5,
      'fec0::1': 11,
      '3ffe::1': 12,
      'fd00::1': 13,
    };
    for (const [address, label] of Object.entries(labels)) assert.equal(labelOf(bytesOf(address), 0), label, address);
  });
});
