import assert from 'node:assert/strict';
import fc from 'fast-check';
import { RXD_ERR_TCPE, RXD_STAT_IPCS, RXD_STAT_L4I, RXD_STAT_UDPCS } from '../../../nic/descriptors.ts';
import { NO_TAG, PacketHeaders } from '../../../nic/model/packet-headers.ts';
import { receiveChecksums } from '../../../nic/model/receive-checksum.ts';
import { finished } from '../../helpers/engines-under-test.ts';
import { frameBytes } from '../../helpers/frame-bytes.ts';
import { packet } from '../../helpers/plain-packet.ts';

const TAG_TYPE = 0x8100;
const [HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, ESP] = [0, 43, 44, 60, 50];
const TCP = 6;

const parse = (frame: Uint8Array): PacketHeaders => {
  const headers = new PacketHeaders();
  headers.parse(frame, TAG_TYPE);
  return headers;
};

/** TCP over IPv6 behind these extension headers, each of 8 bytes times its length. */
function extended(extensions: [type: number, units: number][]): Uint8Array {
  const shape = packet({ ipVersion: 6, isTcp: true, payload: frameBytes(33, 1) });
  const frame = finished(shape);
  const types = [...extensions.map(([type]) => type), TCP];
  const headers = extensions.flatMap(([, units], i) => {
    const header = new Array<number>(8 * units).fill(0);
    header[0] = types[i + 1]!;
    header[1] = units - 1;
    return header;
  });
  const bytes = Buffer.concat([frame.subarray(0, shape.transport), Buffer.from(headers), frame.subarray(54)]);
  bytes[shape.ip + 6] = types[0]!;
  bytes.writeUInt16BE(bytes.length - shape.transport, shape.ip + 4);
  return bytes;
}

describe('the packet parser of the software 82599', () => {
  it('finds headers, behind a tag too', () => {
    for (const tags of [[], [TAG_TYPE]]) {
      for (const ipVersion of [4, 6] as const) {
        for (const isTcp of [true, false]) {
          const shape = packet({ ipVersion, isTcp, tags, payload: frameBytes(9, 2) });
          const headers = parse(shape.bytes);
          assert.equal(headers.vlanTag, tags.length === 0 ? NO_TAG : 5);
          assert.deepEqual([headers.isIpv4, headers.isIpv6], [ipVersion === 4, ipVersion === 6]);
          assert.deepEqual([headers.isTcp, headers.isUdp], [isTcp, !isTcp]);
          assert.deepEqual(
            [headers.network, headers.transport, headers.end],
            [shape.ip, shape.transport, shape.bytes.length],
          );
          assert.deepEqual([headers.hasOptions, headers.isFragment], [false, false]);
        }
      }
    }
  });

  it('remembers nothing of the frame before', () => {
    const headers = new PacketHeaders();
    headers.parse(packet({ ipVersion: 6, isTcp: true, tags: [TAG_TYPE], payload: new Uint8Array(4) }).bytes, TAG_TYPE);
    headers.parse(new Uint8Array(60), TAG_TYPE);
    assert.deepEqual({ ...headers }, { ...new PacketHeaders() });
  });

  it('looks beyond options of IPv4', () => {
    const { bytes, ip, transport } = packet({ ipVersion: 4, isTcp: true, payload: frameBytes(20, 2) });
    const frame = Buffer.concat([bytes.subarray(0, transport), Buffer.alloc(8, 1), bytes.subarray(transport)]);
    frame[ip] = 0x47;
    frame.writeUInt16BE(frame.length - ip, ip + 2);
    const headers = parse(frame);
    assert.deepEqual([headers.hasOptions, headers.isTcp, headers.transport], [true, true, transport + 8]);
  });

  const beyond: [string, [number, number][], boolean][] = [
    ['hop-by-hop options', [[HOP_BY_HOP, 1]], true],
    ['destination options of some length', [[DESTINATION, 4]], true],
    ['a routing header without addresses', [[ROUTING, 1]], true],
    [
      'several',
      [
        [HOP_BY_HOP, 2],
        [DESTINATION, 1],
        [ROUTING, 1],
      ],
      true,
    ],
    ['a routing header with addresses', [[ROUTING, 3]], false],
    ['a fragment header', [[FRAGMENT, 1]], false],
    ['what it does not know', [[ESP, 1]], false],
  ];
  for (const [name, extensions, isLookedBeyond] of beyond) {
    it(`${isLookedBeyond ? 'looks' : 'does not look'} beyond ${name} of IPv6`, () => {
      const frame = extended(extensions);
      const headers = parse(frame);
      assert.equal(headers.isIpv6, true);
      assert.equal(headers.isTcp, isLookedBeyond);
      assert.equal(
        headers.isFragment,
        extensions.some(([type]) => type === FRAGMENT),
      );
      // Whether or not it is checked, it is never said to be wrong.
      assert.equal(receiveChecksums(frame, headers), isLookedBeyond ? RXD_STAT_L4I : 0);
    });
  }

  it('takes a datagram without a checksum for one that has none to check', () => {
    const shape = packet({ ipVersion: 4, isTcp: false, payload: frameBytes(20, 3) });
    shape.bytes.fill(0, shape.transport + 6, shape.transport + 8);
    assert.equal(receiveChecksums(shape.bytes, parse(shape.bytes)), RXD_STAT_IPCS);
    shape.bytes[shape.transport + 7] = 1;
    const wrong = (RXD_STAT_IPCS | RXD_STAT_L4I | RXD_STAT_UDPCS | RXD_ERR_TCPE) >>> 0;
    assert.equal(receiveChecksums(shape.bytes, parse(shape.bytes)), wrong);
  });

  it('believes no length: what is cut anywhere is looked at to its end and no further', () => {
    const extensions: [number, number][] = [
      [HOP_BY_HOP, 1],
      [DESTINATION, 2],
    ];
    const udp = packet({ ipVersion: 4, isTcp: false, payload: frameBytes(20, 3) }).bytes;
    for (const whole of [extended(extensions), udp]) {
      for (let length = 0; length < whole.length; length++) {
        const headers = parse(whole.subarray(0, length));
        assert.deepEqual([headers.isIpv4, headers.isIpv6, headers.transport], [false, false, 0]);
      }
    }
  });

  it('keeps within any frame', () => {
    const frames = fc.tuple(
      fc.constantFrom('', '81000003'),
      fc.constantFrom('0800', '86dd'),
      // Of all lengths: fast-check would keep to some ten bytes.
      fc.uint8Array({ minLength: 40, maxLength: 120, size: 'max' }),
      fc.constantFrom(0x45, 0x4f, 0x60, 0x40),
      fc.nat(130),
      fc.constantFrom(HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, TCP, 17),
      fc.boolean(),
    );
    let withTransport = 0;
    fc.assert(
      fc.property(frames, ([tag, type, body, version, length, next, isWhole]) => {
        const frame = Buffer.concat([Buffer.alloc(12), Buffer.from(tag + type, 'hex'), body]);
        const ip = 14 + tag.length / 2;
        frame[ip] = version;
        frame.writeUInt16BE(length, version === 0x60 ? ip + 4 : ip + 2);
        if (isWhole && version !== 0x60) frame.fill(0, ip + 6, ip + 8);
        frame[version === 0x60 ? ip + 6 : ip + 9] = next;
        const headers = parse(frame);
        assert.ok(headers.end <= frame.length);
        const least = headers.isTcp ? 20 : 8;
        if (headers.isTcp || headers.isUdp) {
          withTransport++;
          assert.ok(headers.transport + least <= headers.end);
        }
        assert.ok(Number.isInteger(receiveChecksums(frame, headers)));
      }),
      { numRuns: 5000 },
    );
    assert.ok(withTransport > 0, 'none of the frames was worth a look');
  });
});
