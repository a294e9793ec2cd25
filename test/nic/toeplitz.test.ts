/** Against the verification suite that Microsoft published for receive-side scaling. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { RSS_KEY_BYTES, Toeplitz } from '../../nic/toeplitz.ts';

const KEY = Buffer.from('6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa', 'hex');

/** Source, its port, destination, its port, hash of the addresses, hash with the ports. */
const IPV4: [string, number, string, number, number, number][] = [
  ['66.9.149.187', 2794, '161.142.100.80', 1766, 0x323e8fc2, 0x51ccc178],
  ['199.92.111.2', 14230, '65.69.140.83', 4739, 0xd718262a, 0xc626b0ea],
  ['24.19.198.95', 12898, '12.22.207.184', 38024, 0xd2d0a5de, 0x5c2b394a],
  ['38.27.205.30', 48228, '209.142.163.6', 2217, 0x82989176, 0xafc7327f],
  ['153.39.163.191', 44251, '202.188.127.2', 1303, 0x5d1809c5, 0x10e828a2],
];
const IPV6: typeof IPV4 = [
  ['3ffe:2501:200:1fff:0:0:0:7', 2794, '3ffe:2501:200:3:0:0:0:1', 1766, 0x2cc18cd5, 0x40207d3d],
  ['3ffe:501:8:0:260:97ff:fe40:efab', 14230, 'ff02:0:0:0:0:0:0:1', 4739, 0x0f0c461c, 0xdde51bbf],
  ['3ffe:1900:4545:3:200:f8ff:fe21:67cf', 44251, 'fe80:0:0:0:200:f8ff:fe21:67cf', 38024, 0x4b61e985, 0x02d1feef],
];

const ipv4 = (text: string): number[] => text.split('.').map(Number);
const word = (value: number): number[] => [value >> 8, value & 0xff];
const ipv6 = (text: string): number[] => text.split(':').flatMap((part) => word(Number.parseInt(part, 16)));

/** Bit by bit, as the definition has it. */
function slowHash(key: Uint8Array, input: Uint8Array): number {
  const bits = [...key].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  let hash = 0;
  for (let bit = 0; bit < 8 * input.length; bit++) {
    if ((input[bit >> 3]! & (0x80 >> (bit & 7))) !== 0) hash ^= Number.parseInt(bits.slice(bit, bit + 32), 2);
  }
  return hash >>> 0;
}

describe('the Toeplitz hash', () => {
  const toeplitz = new Toeplitz(KEY);
  const cases = [...IPV4.map((row) => ({ row, parse: ipv4 })), ...IPV6.map((row) => ({ row, parse: ipv6 }))];
  for (const { row, parse } of cases) {
    const [source, sourcePort, destination, destinationPort, addresses, ports] = row;
    it(`is as published from ${source} to ${destination}`, () => {
      const input = Uint8Array.from([
        ...[0xff, ...parse(source), ...parse(destination)],
        ...[...word(sourcePort), ...word(destinationPort)],
      ]);
      assert.equal(toeplitz.hash(input, 1, input.length - 5), addresses);
      assert.equal(toeplitz.hash(input, 1, input.length - 1), ports);
    });
  }

  it('is as defined, for any key and input', () => {
    const keys = fc.uint8Array({ minLength: RSS_KEY_BYTES, maxLength: RSS_KEY_BYTES });
    fc.assert(
      fc.property(keys, fc.uint8Array({ maxLength: RSS_KEY_BYTES - 4 }), (key, input) => {
        assert.equal(new Toeplitz(key).hash(input, 0, input.length), slowHash(key, input));
      }),
    );
  });

  it('refuses keys of another length, and bytes that it has no key for or that are not there', () => {
    assert.throws(() => new Toeplitz(KEY.subarray(1)), /RangeError: an RSS key has 40 bytes, not 39/);
    assert.throws(() => toeplitz.hash(new Uint8Array(40), 0, 37), /RangeError: bytes 0 to 37 of 40: .* 36 at the most/);
    assert.throws(() => toeplitz.hash(new Uint8Array(12), 1, 12), RangeError);
    assert.throws(() => toeplitz.hash(new Uint8Array(12), -1, 4), RangeError);
  });
});
