import assert from 'node:assert/strict';
import fc from 'fast-check';
import { MAX_FRAME_BYTES } from '../../memory/frame-batch.ts';
import * as segmentation from '../../switch/segmentation.ts';
import {
  describeRefusal,
  REFUSED_CSUM_OFFSET,
  REFUSED_CSUM_START,
  REFUSED_FRAGMENT,
  REFUSED_FRAME_TOO_LONG,
  REFUSED_GSO_SIZE_ZERO,
  REFUSED_GSO_TYPE,
  REFUSED_HEADER_TOO_LONG,
  REFUSED_HEADER_TRUNCATED,
  REFUSED_IP_HEADER,
  REFUSED_IP_LENGTH,
  REFUSED_LENGTH_BEYOND_BUFFER,
  REFUSED_NO_ROOM,
  REFUSED_NOT_IP,
  REFUSED_NOT_IPV4,
  REFUSED_NOT_IPV6,
  REFUSED_NOT_TCP,
  REFUSED_NOT_UDP,
  REFUSED_ROUTING_HEADER,
  REFUSED_TCP_FLAGS,
  REFUSED_TCP_HEADER,
  REFUSED_TOO_MANY_SEGMENTS,
  REFUSED_UDP_LENGTH,
  Segmenter,
} from '../../switch/segmentation.ts';
import {
  VIRTIO_NET_HDR_GSO_ECN,
  VIRTIO_NET_HDR_GSO_NONE,
  VIRTIO_NET_HDR_GSO_TCPV4,
  VIRTIO_NET_HDR_GSO_TCPV6,
  VIRTIO_NET_HDR_GSO_UDP,
  VIRTIO_NET_HDR_GSO_UDP_L4,
} from '../../vhost/virtio.ts';

const CSUM_OFFSET_TCP = 16;
const CSUM_OFFSET_UDP = 6;
const FIN = 0x01;
const PSH = 0x08;
const ACK = 0x10;
const URG = 0x20;
const CWR = 0x80;

/** Annotated hex: what stands after a `#` is a comment. */
function hex(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text.replace(/#.*$/gm, '').replace(/\s/g, ''), 'hex'));
}

function emitAll(segmenter: Segmenter, count: number): Uint8Array[] {
  const guard = 0xee;
  return Array.from({ length: count }, (_, index) => {
    const expected = segmenter.segmentLength(index);
    const out = new Uint8Array(expected + 10).fill(guard);
    assert.equal(segmenter.emit(index, out.subarray(0, expected + 5), 5), expected);
    assert.ok(
      [...out.subarray(0, 5), ...out.subarray(expected + 5)].every((byte) => byte === guard),
      'writes outside its segment',
    );
    return out.slice(5, expected + 5);
  });
}

describe('Segmenter, frame by frame', () => {
  it('cuts TCP over IPv4: lengths, IDs, sequence numbers, flags and checksums', () => {
    const frame = hex(`
      02 00 00 00 00 02  02 00 00 00 00 01  08 00
      45 00 00 2d  ff ff 40 00  40 06 00 00         # IPv4: 45 bytes, ID ffff, DF; TCP
      0a 00 00 01  0a 00 00 02
      04 d2 00 50  ff ff ff fe  00 00 00 01         # 1234 to 80; SEQ 2^32 - 2
      50 99 01 00  14 22 00 00                      # CWR ACK PSH FIN; pseudo header's sum
      68 65 6c 6c 6f                                # "hello"`);
    const segmenter = new Segmenter();
    const gsoType = VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN;
    assert.equal(segmenter.plan(frame, frame.length, gsoType, 2, 34, CSUM_OFFSET_TCP), 3);
    const [first, second, third] = emitAll(segmenter, 3);
    assert.deepEqual(
      first,
      hex(`
      02 00 00 00 00 02  02 00 00 00 00 01  08 00
      45 00 00 2a  ff ff 40 00  40 06 26 cc         # 42 bytes, ID ffff
      0a 00 00 01  0a 00 00 02
      04 d2 00 50  ff ff ff fe  00 00 00 01
      50 90 01 00  2c c9 00 00                      # CWR ACK
      68 65`),
    );
    assert.deepEqual(
      second,
      hex(`
      02 00 00 00 00 02  02 00 00 00 00 01  08 00
      45 00 00 2a  00 00 40 00  40 06 26 cc         # ID wraps; ffff and 0000 sum alike
      0a 00 00 01  0a 00 00 02
      04 d2 00 50  00 00 00 00  00 00 00 01         # SEQ wraps
      50 10 01 00  29 41 00 00                      # ACK
      6c 6c`),
    );
    assert.deepEqual(
      third,
      hex(`
      02 00 00 00 00 02  02 00 00 00 00 01  08 00
      45 00 00 29  00 01 40 00  40 06 26 cc         # one byte less, the ID one more
      0a 00 00 01  0a 00 00 02
      04 d2 00 50  00 00 00 02  00 00 00 01
      50 19 01 00  26 a3 00 00                      # ACK PSH FIN
      6f`),
    );
  });

  it('cuts UDP over IPv6 into datagrams', () => {
    const frame = hex(`
      02 00 00 00 00 02  02 00 00 00 00 01  86 dd
      60 00 00 00  00 0b 11 40                      # IPv6: 11 bytes, UDP
      fd 00 00 00 00 00 00 00  00 00 00 00 00 00 00 01
      fd 00 00 00 00 00 00 00  00 00 00 00 00 00 00 02
      03 e8 07 d0  00 0b 00 00                      # 1000 to 2000, 11 bytes
      61 62 63                                      # "abc"`);
    const segmenter = new Segmenter();
    assert.equal(segmenter.plan(frame, frame.length, VIRTIO_NET_HDR_GSO_UDP_L4, 2, 54, CSUM_OFFSET_UDP), 2);
    const [first, second] = emitAll(segmenter, 2);
    // fd00+0001+fd00+0002+0011+000a, +03e8+07d0+000a+6162 folds to 6744; with 9 bytes and 6300 to 68e0.
    const header = hex(`02 00 00 00 00 02  02 00 00 00 00 01  86 dd  60 00 00 00`);
    const addresses = frame.subarray(22, 54);
    assert.deepEqual(
      first,
      Uint8Array.from([...header, ...hex('000a1140'), ...addresses, ...hex('03e807d0 000a98bb 6162')]),
    );
    assert.deepEqual(
      second,
      Uint8Array.from([...header, ...hex('00091140'), ...addresses, ...hex('03e807d0 0009971f 63')]),
    );
  });
});

// ---- any frame: built and checked by plain code that shares nothing with the segmenter ----

interface Shape {
  ipVersion: 4 | 6;
  isTcp: boolean;
  tags: number[];
  /** Bytes of IPv4 options, or of a destination options extension. */
  ipOptions: number;
  tcpOptions: number;
  flags: number;
  sequence: number;
  urgentPointer: number;
  id: number;
  givesLengths: boolean;
  payload: Uint8Array;
}

interface Frame {
  bytes: Uint8Array;
  ip: number;
  transport: number;
  payload: number;
  gsoType: number;
  csumOffset: number;
}

function u16(value: number): number[] {
  return [(value >>> 8) & 0xff, value & 0xff];
}

function build(shape: Shape): Frame {
  const tcpLength = 20 + shape.tcpOptions;
  const transportLength = (shape.isTcp ? tcpLength : 8) + shape.payload.length;
  const given = (length: number) => u16(shape.givesLengths ? length : 0);
  const protocol = shape.isTcp ? 6 : 17;
  const ethernet = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
  for (const tag of shape.tags) ethernet.push(...u16(tag), 0x20, 0x05);
  ethernet.push(...u16(shape.ipVersion === 4 ? 0x0800 : 0x86dd));
  let ip: number[];
  if (shape.ipVersion === 4) {
    const headerLength = 20 + shape.ipOptions;
    ip = [
      0x40 | (headerLength / 4),
      0,
      ...given(headerLength + transportLength),
      ...u16(shape.id),
      0x40,
      0,
      64,
      protocol,
    ];
    ip.push(0xba, 0xad, 10, 0, 0, 1, 10, 0, 0, 2, ...new Array<number>(shape.ipOptions).fill(1));
  } else {
    // The extension, where there is one: Next Header, Hdr Ext Len, then PadN.
    const extension = new Array<number>(shape.ipOptions).fill(0);
    if (shape.ipOptions > 0) extension.splice(0, 4, protocol, shape.ipOptions / 8 - 1, 1, shape.ipOptions - 4);
    ip = [0x60, 0, 0, 0, ...given(extension.length + transportLength), shape.ipOptions > 0 ? 60 : protocol, 64];
    ip.push(...hex('fd00000000000000 00000000000000a1 fd00000000000000 00000000000000b2'), ...extension);
  }
  const transport = [0x04, 0xd2, 0x00, 0x50];
  if (shape.isTcp) {
    transport.push(
      ...u16(shape.sequence >>> 16),
      ...u16(shape.sequence),
      9,
      8,
      7,
      6,
      (tcpLength / 4) << 4,
      shape.flags,
    );
    transport.push(1, 0, 0xba, 0xad, ...u16(shape.urgentPointer), ...new Array<number>(shape.tcpOptions).fill(1));
  } else transport.push(...given(transportLength), 0xba, 0xad);
  const headers = [...ethernet, ...ip, ...transport];
  const bytes = new Uint8Array(headers.length + shape.payload.length);
  bytes.set(headers);
  bytes.set(shape.payload, headers.length);
  const tcpType = shape.ipVersion === 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
  return {
    bytes,
    ip: ethernet.length,
    transport: ethernet.length + ip.length,
    payload: headers.length,
    gsoType: shape.isTcp ? tcpType : VIRTIO_NET_HDR_GSO_UDP_L4,
    csumOffset: shape.isTcp ? CSUM_OFFSET_TCP : CSUM_OFFSET_UDP,
  };
}

/** Whether big-endian words sum to all ones (RFC 1071): one big number, modulo 2^16 - 1. */
function verifies(bytes: Iterable<number>): boolean {
  let total = 0;
  let weight = 256;
  for (const byte of bytes) {
    total += byte * weight;
    weight = 257 - weight;
  }
  return total > 0 && total % 0xffff === 0;
}

function planOf(segmenter: Segmenter, frame: Frame, gsoSize: number): number {
  const { bytes, gsoType, transport, csumOffset } = frame;
  return segmenter.plan(bytes, bytes.length, gsoType, gsoSize, transport, csumOffset);
}

/** Checks one segment of `frame` in every field, and returns its payload. */
function checkSegment(shape: Shape, frame: Frame, segment: Uint8Array, index: number, count: number, gsoSize: number) {
  const view = new DataView(segment.buffer, segment.byteOffset, segment.length);
  const { ip, transport } = frame;
  const payload = segment.subarray(frame.payload);
  const start = index * gsoSize;
  const upperLength = segment.length - transport;
  // The header with the differing fields put back must be the super-frame's.
  const expected = frame.bytes.slice(0, frame.payload);
  const expectedView = new DataView(expected.buffer);
  const addressLength = shape.ipVersion === 4 ? 4 : 16;
  const addresses = ip + (shape.ipVersion === 4 ? 12 : 8);
  const pseudo = [
    ...segment.subarray(addresses, addresses + 2 * addressLength),
    0,
    shape.isTcp ? 6 : 17,
    ...u16(upperLength),
  ];
  assert.ok(verifies([...pseudo, ...segment.subarray(transport)]), `checksum of segment ${index}`);
  if (shape.ipVersion === 4) {
    assert.ok(verifies(segment.subarray(ip, transport)), `IPv4 checksum of segment ${index}`);
    expectedView.setUint16(ip + 2, segment.length - ip);
    expectedView.setUint16(ip + 4, (shape.id + index) % 0x1_0000);
    expectedView.setUint16(ip + 10, view.getUint16(ip + 10));
  } else expectedView.setUint16(ip + 4, segment.length - ip - 40);
  const checksum = transport + frame.csumOffset;
  expectedView.setUint16(checksum, view.getUint16(checksum));
  if (shape.isTcp) {
    const isFirst = index === 0;
    const isLast = index === count - 1;
    const urgentPointer = isFirst ? shape.urgentPointer : Math.max(0, shape.urgentPointer - start);
    let flags = shape.flags;
    if (!isFirst) flags &= ~CWR;
    if (!isLast) flags &= ~(FIN | PSH);
    if (!isFirst && urgentPointer === 0) flags &= ~URG;
    expectedView.setUint32(transport + 4, (shape.sequence + start) % 2 ** 32);
    expectedView.setUint8(transport + 13, flags);
    expectedView.setUint16(transport + 18, urgentPointer);
  } else {
    expectedView.setUint16(transport + 4, upperLength);
    assert.notEqual(view.getUint16(checksum), 0, 'a UDP checksum of 0 says none');
  }
  assert.deepEqual(segment.subarray(0, frame.payload), expected);
  if (index < count - 1) assert.equal(payload.length, gsoSize);
  else assert.ok(payload.length <= gsoSize);
  return payload;
}

const anyShape: fc.Arbitrary<Shape> = fc
  .record({
    ipVersion: fc.constantFrom(4 as const, 6 as const),
    isTcp: fc.boolean(),
    tags: fc.constantFrom<number[]>([], [0x8100], [0x88a8, 0x8100]),
    optionUnits: fc.nat(5),
    tcpOptions: fc.nat(10).map((words) => words * 4),
    flags: fc.nat(0xff).map((flags) => (flags | ACK) & ~0x06),
    sequence: fc.oneof(fc.nat(0xffff_ffff), fc.integer({ min: 0xffff_ff00, max: 0xffff_ffff })),
    urgentPointer: fc.oneof(fc.nat(0xffff), fc.nat(300)),
    id: fc.oneof(fc.nat(0xffff), fc.constant(0xffff)),
    givesLengths: fc.boolean(),
    payload: fc.oneof(
      fc.uint8Array({ maxLength: 700, size: 'max' }),
      fc.nat(700).map((length) => new Uint8Array(length).fill(0xff)),
    ),
  })
  .map(({ optionUnits, ...shape }) => ({ ...shape, ipOptions: optionUnits * 8 }));

const PLAIN: Shape = {
  ipVersion: 4,
  isTcp: true,
  tags: [],
  ipOptions: 0,
  tcpOptions: 12,
  flags: ACK | PSH,
  sequence: 1000,
  urgentPointer: 0,
  id: 7,
  givesLengths: true,
  payload: new Uint8Array(3000).map((_, i) => i * 7),
};

describe('Segmenter, any frame', () => {
  it('gives segments that are right in every field and make up the whole payload', () => {
    const property = fc.property(anyShape, fc.integer({ min: 1, max: 300 }), (shape, gsoSize) => {
      const frame = build(shape);
      const segmenter = new Segmenter();
      const original = frame.bytes.slice();
      const count = planOf(segmenter, frame, gsoSize);
      assert.equal(count, Math.max(1, Math.ceil(shape.payload.length / gsoSize)));
      const segments = emitAll(segmenter, count);
      const payloads = segments.map((segment, index) => checkSegment(shape, frame, segment, index, count, gsoSize));
      assert.deepEqual(Buffer.concat(payloads), Buffer.from(shape.payload));
      assert.deepEqual(frame.bytes, original, 'the super-frame is only read');
    });
    fc.assert(property, { numRuns: 500 });
  });

  it('serves the longest frames, with the heaviest payload', () => {
    for (const isTcp of [true, false]) {
      // Without VLAN tag, and with an IP length of 0: 65,536 is more than the field holds.
      const headerLength = 14 + 20 + (isTcp ? 20 : 8);
      const payload = new Uint8Array(MAX_FRAME_BYTES - headerLength).fill(0xff);
      const shape = { ...PLAIN, isTcp, tcpOptions: 0, payload, givesLengths: false };
      const frame = build(shape);
      assert.equal(frame.bytes.length, MAX_FRAME_BYTES);
      const segmenter = new Segmenter();
      for (const gsoSize of [1448, 9001, 65_400]) {
        const count = planOf(segmenter, frame, gsoSize);
        assert.equal(count, Math.ceil(payload.length / gsoSize));
        emitAll(segmenter, count).forEach((segment, index) => {
          checkSegment(shape, frame, segment, index, count, gsoSize);
        });
      }
      assert.equal(planOf(segmenter, frame, 65_535), REFUSED_IP_LENGTH, 'one segment of 65,536 bytes');
    }
  });

  it('writes a UDP checksum that comes out as 0 as 0xffff, and a TCP one as 0', () => {
    for (const isTcp of [true, false]) {
      const shape = { ...PLAIN, isTcp, payload: new Uint8Array(2) };
      const frame = build(shape);
      const field = frame.transport + frame.csumOffset;
      const segmenter = new Segmenter();
      planOf(segmenter, frame, 1000);
      const [withZeros] = emitAll(segmenter, 1);
      // A payload of the checksum itself makes the sum all ones.
      frame.bytes.set(withZeros.subarray(field, field + 2), frame.payload);
      const [segment] = emitAll(segmenter, 1);
      assert.deepEqual([...segment.subarray(field, field + 2)], isTcp ? [0, 0] : [0xff, 0xff]);
      checkSegment({ ...shape, payload: frame.bytes.subarray(frame.payload) }, frame, segment, 0, 1, 1000);
    }
  });

  it('emits in any order and again, and serves frame after frame', () => {
    const segmenter = new Segmenter();
    const frame = build(PLAIN);
    const count = planOf(segmenter, frame, 1000);
    const inOrder = emitAll(segmenter, count);
    for (const index of [2, 0, 1, 2, 1]) {
      const out = new Uint8Array(2000);
      const length = segmenter.emit(index, out, 0);
      assert.deepEqual(out.subarray(0, length), inOrder[index]);
    }
    const other: Shape = { ...PLAIN, ipVersion: 6, isTcp: false, tags: [0x8100], payload: new Uint8Array(100) };
    const otherFrame = build(other);
    assert.equal(planOf(segmenter, otherFrame, 60), 2);
    emitAll(segmenter, 2).forEach((segment, index) => {
      checkSegment(other, otherFrame, segment, index, 2, 60);
    });
  });

  it('decides by the headers that plan saw, whatever a guest writes there afterwards', () => {
    const frame = build(PLAIN);
    const segmenter = new Segmenter();
    const count = planOf(segmenter, frame, 1000);
    const before = emitAll(segmenter, count);
    frame.bytes.fill(0xff, 0, frame.payload);
    assert.deepEqual(emitAll(segmenter, count), before);
  });

  it('sums the payload that it wrote, even while a guest rewrites it', () => {
    const frame = build(PLAIN);
    let noise = 0;
    const restless = new Proxy(frame.bytes, {
      get(target, key) {
        if (typeof key === 'string' && /^\d+$/.test(key) && Number(key) >= frame.payload) {
          noise += 89;
          return noise & 0xff;
        }
        return Reflect.get(target, key, target);
      },
    });
    const segmenter = new Segmenter();
    const count = planOf(segmenter, { ...frame, bytes: restless }, 1000);
    emitAll(segmenter, count).forEach((segment, index) => {
      checkSegment(PLAIN, frame, segment, index, count, 1000);
    });
  });

  it('writes nothing where there is no room', () => {
    const segmenter = new Segmenter();
    assert.equal(planOf(segmenter, build(PLAIN), 1000), 3);
    const length = segmenter.segmentLength(0);
    const out = new Uint8Array(length);
    for (const offset of [1, length, -1, Number.NaN]) {
      assert.equal(segmenter.emit(0, out, offset), REFUSED_NO_ROOM);
      assert.ok(out.every((byte) => byte === 0));
    }
    assert.equal(segmenter.emit(0, out, 0), length);
  });

  it('throws for segments that are not planned', () => {
    const segmenter = new Segmenter();
    const out = new Uint8Array(2000);
    assert.throws(() => segmenter.emit(0, out, 0), /RangeError: segment 0 of a plan of 0/);
    const frame = build(PLAIN);
    assert.equal(planOf(segmenter, frame, 1000), 3);
    for (const index of [3, -1, 0.5, Number.NaN]) {
      assert.throws(() => segmenter.emit(index, out, 0), RangeError);
      assert.throws(() => segmenter.segmentLength(index), /of a plan of 3/);
    }
    assert.equal(planOf(segmenter, frame, 0), REFUSED_GSO_SIZE_ZERO);
    assert.throws(() => segmenter.emit(0, out, 0), /of a plan of 0/, 'a refused plan leaves none behind');
  });

  it('refuses options outside their range', () => {
    for (const maxSegments of [0, 1.5, 65_536]) {
      assert.throws(() => new Segmenter({ maxSegments }), new RegExp(`RangeError: .*maxSegments is ${maxSegments}:`));
    }
  });
});

describe('Segmenter refuses', () => {
  interface Plan {
    length: number;
    gsoType: number;
    gsoSize: number;
    csumStart: number;
    csumOffset: number;
  }
  /** Plans `shape` with one thing changed, which must be refused, after seeing that it is served as it is. */
  function refusal(shape: Partial<Shape>, change: (frame: Frame, plan: Plan) => void): number {
    const frame = build({ ...PLAIN, ...shape });
    const segmenter = new Segmenter();
    const plan = {
      length: frame.bytes.length,
      gsoType: frame.gsoType,
      gsoSize: 1000,
      csumStart: frame.transport,
      csumOffset: frame.csumOffset,
    };
    const attempt = () =>
      segmenter.plan(frame.bytes, plan.length, plan.gsoType, plan.gsoSize, plan.csumStart, plan.csumOffset);
    assert.ok(attempt() > 0, 'as built, the frame is served');
    change(frame, plan);
    return attempt();
  }

  it('an unknown gso_type', () => {
    const types = [VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_UDP, 2, 6, 0x81 | 0x40, 0xff, -1];
    for (const gsoType of [...types, VIRTIO_NET_HDR_GSO_UDP_L4 | VIRTIO_NET_HDR_GSO_ECN]) {
      assert.equal(
        refusal({}, (_, plan) => {
          plan.gsoType = gsoType;
        }),
        REFUSED_GSO_TYPE,
        `gso_type ${gsoType}`,
      );
    }
  });

  it('a gso_size of 0, or one that makes too many segments', () => {
    const sized = (gsoSize: number, length: number) =>
      refusal({ payload: new Uint8Array(length) }, (_, plan) => {
        plan.gsoSize = gsoSize;
      });
    assert.equal(sized(0, 3000), REFUSED_GSO_SIZE_ZERO);
    assert.equal(sized(1, 2049), REFUSED_TOO_MANY_SEGMENTS);
    assert.equal(sized(1, 2048), 2048);
    const strict = new Segmenter({ maxSegments: 2 });
    assert.equal(planOf(strict, build(PLAIN), 1500), 2);
    assert.equal(planOf(strict, build(PLAIN), 1499), REFUSED_TOO_MANY_SEGMENTS);
  });

  it('a length beyond the buffer or the limit', () => {
    const beyond = refusal({}, (frame, plan) => {
      plan.length = frame.bytes.length + 1;
    });
    assert.equal(beyond, REFUSED_LENGTH_BEYOND_BUFFER);
    const frame = build({ ...PLAIN, payload: new Uint8Array(MAX_FRAME_BYTES), givesLengths: false });
    assert.equal(planOf(new Segmenter(), frame, 1448), REFUSED_FRAME_TOO_LONG);
  });

  it('headers that the frame ends inside of', () => {
    const shapes: Partial<Shape>[] = [
      { tags: [0x88a8, 0x8100], ipOptions: 8 },
      { ipVersion: 6, ipOptions: 16 },
      { isTcp: false },
      { ipVersion: 6, isTcp: false },
    ];
    for (const change of shapes) {
      const frame = build({ ...PLAIN, ...change, givesLengths: false });
      const segmenter = new Segmenter();
      for (let length = 0; length < frame.payload; length++) {
        const result = segmenter.plan(frame.bytes, length, frame.gsoType, 1000, frame.transport, frame.csumOffset);
        assert.equal(result, REFUSED_HEADER_TRUNCATED, `${length} bytes`);
      }
      assert.equal(
        planOf(segmenter, { ...frame, bytes: frame.bytes.subarray(0, frame.payload) }, 1000),
        1,
        'no payload',
      );
      assert.equal(segmenter.plan(frame.bytes, -1, frame.gsoType, 1000, 0, 0), REFUSED_HEADER_TRUNCATED);
    }
  });

  it('headers that are too long', () => {
    const frame = build({ ...PLAIN, ipVersion: 6, ipOptions: 256 });
    assert.equal(planOf(new Segmenter(), frame, 1000), REFUSED_HEADER_TOO_LONG);
  });

  it('an EtherType that contradicts gso_type', () => {
    const typed = (shape: Partial<Shape>, etherType: number) =>
      refusal(shape, ({ bytes, ip }) => {
        bytes.set(u16(etherType), ip - 2);
      });
    assert.equal(typed({}, 0x86dd), REFUSED_NOT_IPV4);
    assert.equal(typed({ tags: [0x88a8, 0x8100] }, 0x8100), REFUSED_NOT_IPV4, 'a third tag');
    assert.equal(typed({ ipVersion: 6 }, 0x0800), REFUSED_NOT_IPV6);
    assert.equal(typed({ isTcp: false }, 0x0806), REFUSED_NOT_IP);
  });

  it('a wrong IP version or header length', () => {
    const first = (shape: Partial<Shape>, byte: number) =>
      refusal(shape, ({ bytes, ip }) => {
        bytes[ip] = byte;
      });
    assert.equal(first({}, 0x65), REFUSED_IP_HEADER);
    assert.equal(first({}, 0x44), REFUSED_IP_HEADER);
    assert.equal(first({ ipVersion: 6 }, 0x45), REFUSED_IP_HEADER);
  });

  it("an IP length that is not the frame's", () => {
    for (const change of [1, -1]) {
      const shorter = refusal({}, ({ bytes, ip }) => {
        bytes[ip + 3] += change;
      });
      assert.equal(shorter, REFUSED_IP_LENGTH);
      const v6 = refusal({ ipVersion: 6 }, ({ bytes, ip }) => {
        bytes[ip + 5] += change;
      });
      assert.equal(v6, REFUSED_IP_LENGTH);
    }
    const jumbogram = refusal({ ipVersion: 6, ipOptions: 8 }, ({ bytes, ip }) => {
      bytes.set([0, 0, 0], ip + 4); // payload length 0, Next Header hop-by-hop
    });
    assert.equal(jumbogram, REFUSED_IP_LENGTH);
  });

  it('fragments', () => {
    for (const field of [0x2000, 0x0001, 0x1fff]) {
      const v4 = refusal({}, ({ bytes, ip }) => {
        bytes.set(u16(field), ip + 6);
      });
      assert.equal(v4, REFUSED_FRAGMENT);
    }
    const v6 = refusal({ ipVersion: 6 }, ({ bytes, ip }) => {
      bytes[ip + 6] = 44;
    });
    assert.equal(v6, REFUSED_FRAGMENT);
  });

  it('a routing header with segments left, but none without', () => {
    const routed = (segmentsLeft: number) =>
      refusal({ ipVersion: 6, ipOptions: 24 }, ({ bytes, ip }) => {
        bytes[ip + 6] = 43;
        bytes[ip + 40 + 3] = segmentsLeft;
      });
    assert.equal(routed(1), REFUSED_ROUTING_HEADER);
    assert.equal(routed(0), 3);
  });

  it('another protocol than gso_type says', () => {
    const protocol = (shape: Partial<Shape>, at: number, value: number) =>
      refusal(shape, ({ bytes, ip }) => {
        bytes[ip + at] = value;
      });
    assert.equal(protocol({}, 9, 17), REFUSED_NOT_TCP);
    assert.equal(protocol({ ipVersion: 6 }, 6, 58), REFUSED_NOT_TCP);
    assert.equal(protocol({ isTcp: false }, 9, 6), REFUSED_NOT_UDP);
    assert.equal(protocol({ isTcp: false, ipVersion: 6 }, 6, 51), REFUSED_NOT_UDP, 'an authentication header');
  });

  it('a TCP header that is too short, and SYN or RST', () => {
    const at = (offset: number, value: number) =>
      refusal({}, ({ bytes, transport }) => {
        bytes[transport + offset] = value;
      });
    assert.equal(at(12, 0x40), REFUSED_TCP_HEADER);
    assert.equal(at(13, 0x12), REFUSED_TCP_FLAGS);
    assert.equal(at(13, 0x14), REFUSED_TCP_FLAGS);
  });

  it("a UDP length that is not the frame's", () => {
    for (const change of [1, -1]) {
      const result = refusal({ isTcp: false }, ({ bytes, transport }) => {
        bytes[transport + 5] += change;
      });
      assert.equal(result, REFUSED_UDP_LENGTH);
    }
  });

  it('checksum fields that do not fit the headers', () => {
    for (const change of [1, -1, 20, 0xffff]) {
      const started = refusal({}, (_, plan) => {
        plan.csumStart += change;
      });
      assert.equal(started, REFUSED_CSUM_START);
      const offset = refusal({ isTcp: false }, (_, plan) => {
        plan.csumOffset += change;
      });
      assert.equal(offset, REFUSED_CSUM_OFFSET);
    }
  });

  it('each with its own number and words', () => {
    const refusals = Object.entries(segmentation).filter(([name]) => name.startsWith('REFUSED_'));
    assert.equal(refusals.length, 22);
    const numbers = refusals.map(([, value]) => value as number);
    assert.ok(numbers.every((value) => value < 0));
    assert.equal(new Set(numbers).size, numbers.length);
    assert.equal(new Set(numbers.map(describeRefusal)).size, numbers.length);
    assert.throws(() => describeRefusal(3), /RangeError: 3 is no refusal/);
  });
});

describe('Segmenter, fuzzed', () => {
  /** A frame of which only `[0, length)` may be read. */
  function watch(bytes: Uint8Array, length: number): Uint8Array {
    return new Proxy(bytes, {
      get(target, key) {
        if (typeof key === 'string' && /^-?\d+$/.test(key)) {
          assert.ok(Number(key) >= 0 && Number(key) < length, `read of byte ${key} of ${length}`);
        }
        return Reflect.get(target, key, target);
      },
    });
  }

  function planAndEmit(bytes: Uint8Array, length: number, fields: [number, number, number, number]): boolean {
    const segmenter = new Segmenter();
    const count = segmenter.plan(watch(bytes, length), length, ...fields);
    assert.ok(Number.isInteger(count) && count !== 0);
    if (count < 0) {
      assert.ok(describeRefusal(count).length > 0);
      return false;
    }
    const segments = emitAll(segmenter, count);
    const headerLength = segments.length === 1 ? segments[0].length : segments[0].length - fields[1];
    const total = segments.reduce((sum, segment) => sum + segment.length, 0);
    if (segments.length > 1) assert.equal(total, length + (count - 1) * headerLength);
    else assert.equal(total, length);
    return true;
  }

  const gsoType = fc.constantFrom(1, 4, 5, 0x81, 0x84, 0, 3);
  const small = fc.nat(90);

  it('never throws nor reads outside, on random bytes', () => {
    const property = fc.property(
      fc.uint8Array({ maxLength: 300, size: 'max' }),
      fc.integer({ min: -5, max: 320 }),
      fc.oneof(gsoType, fc.integer()),
      fc.oneof(small, fc.integer()),
      fc.oneof(small, fc.integer()),
      fc.oneof(small, fc.integer()),
      (bytes, length, ...fields) => {
        planAndEmit(bytes, length, fields);
      },
    );
    fc.assert(property, { numRuns: 1000 });
  });

  it('never throws nor reads or writes outside, on frames with a few bytes spoilt', () => {
    let served = 0;
    let refused = 0;
    const property = fc.property(
      anyShape,
      fc.array(fc.tuple(fc.nat(120), fc.nat(255)), { maxLength: 3 }),
      fc.nat(3),
      fc.integer({ min: 1, max: 400 }),
      (shape, spoilt, cut, gsoSize) => {
        const frame = build(shape);
        for (const [at, value] of spoilt) if (at < frame.bytes.length) frame.bytes[at] = value;
        const length = Math.max(0, frame.bytes.length - cut);
        if (planAndEmit(frame.bytes, length, [frame.gsoType, gsoSize, frame.transport, frame.csumOffset])) served++;
        else refused++;
      },
    );
    fc.assert(property, { numRuns: 800 });
    assert.ok(served > 50 && refused > 50, `${served} served, ${refused} refused: the fuzz must reach both`);
  });
});
