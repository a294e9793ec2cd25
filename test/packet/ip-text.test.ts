import assert from 'node:assert/strict';
import { isIP } from 'node:net';
import fc from 'fast-check';
import { familyName, formatIp, parseCidr, parseIp } from '../../packet/ip-text.ts';

describe('IP addresses as text', () => {
  it('parse in all forms of RFC 4291 §2.2', () => {
    const cases: [string, number[]][] = [
      ['10.0.0.1', [10, 0, 0, 1]],
      ['::', Array<number>(16).fill(0)],
      ['::1', [...Array<number>(15).fill(0), 1]],
      ['2001:DB8::8:800:200C:417A', [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 8, 8, 0, 0x20, 0xc, 0x41, 0x7a]],
      ['1:2:3:4:5:6:7:8', [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8]],
      ['fe80::', [0xfe, 0x80, ...Array<number>(14).fill(0)]],
      ['::ffff:129.144.52.38', [...Array<number>(10).fill(0), 0xff, 0xff, 129, 144, 52, 38]],
      ['1::8', [0, 1, ...Array<number>(13).fill(0), 8]],
    ];
    for (const [text, bytes] of cases) assert.deepEqual([...(parseIp(text) ?? [])], bytes, text);
    for (const text of ['', 'host', '1.2.3', '256.0.0.1', '01.2.3.4', '1::2::3', 'fe80::1%eth0', '12345::', '1:2:3']) {
      assert.equal(parseIp(text), null, text);
    }
  });

  it('format as RFC 5952 §4 has it', () => {
    const cases: [string, string][] = [
      ['2001:0db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
      ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
      ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
      ['0:0:0:0:0:0:0:0', '::'],
      ['1:0:0:0:0:0:0:0', '1::'],
      ['::ffff:1.2.3.4', '::ffff:1.2.3.4'],
      ['2001:DB8::A', '2001:db8::a'],
    ];
    for (const [text, expected] of cases) assert.equal(formatIp(parseIp(text)!), expected, text);
  });

  it('come back as they went, in the form that URLs have too', () => {
    const group = fc.oneof(fc.constant(0), fc.nat(0xffff));
    fc.assert(
      fc.property(fc.array(group, { minLength: 8, maxLength: 8 }), (groups) => {
        const bytes = Uint8Array.from(groups.flatMap((value) => [value >> 8, value & 0xff]));
        const text = formatIp(bytes);
        assert.equal(isIP(text), 6);
        assert.deepEqual(parseIp(text), bytes);
        if (!text.includes('.')) assert.equal(new URL(`http://[${text}]`).hostname, `[${text}]`);
      }),
    );
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 4, maxLength: 4 }), (bytes) => {
        assert.deepEqual(parseIp(formatIp(bytes)), bytes);
      }),
    );
    fc.assert(fc.property(fc.string(), (text) => void parseIp(text)));
  });

  it('have a prefix length where one is wanted', () => {
    assert.deepEqual(parseCidr('10.0.0.1/24', 'address'), { address: Uint8Array.of(10, 0, 0, 1), prefix: 24 });
    assert.equal(parseCidr('fd00::1/128', 'address').prefix, 128);
    for (const text of ['10.0.0.1', '10.0.0.1/33', 'fd00::1/129', '/24', '10.0.0.1/', '10.0.0.1/2/4', '10.0.0.1/-1']) {
      assert.throws(() => parseCidr(text, 'address'), /^RangeError: address: ".*" is no address with a prefix length/);
    }
    assert.deepEqual([familyName(new Uint8Array(4)), familyName(new Uint8Array(16))], ['IPv4', 'IPv6']);
  });
});
