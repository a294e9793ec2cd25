/**
 * Offload fields of virtio-net headers against the software card: what leaves it, by headers and checksums that plain-packet.ts
 * writes and checks from the RFCs.
 */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { TXD_CMD_TSE } from '../../../nic/descriptors.ts';
import { Ixgbe } from '../../../nic/driver/ixgbe.ts';
import { TransmitOffload } from '../../../nic/driver/transmit-offload.ts';
import {
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_ECN,
  VIRTIO_NET_HDR_GSO_NONE,
  VIRTIO_NET_HDR_GSO_TCPV4,
  VIRTIO_NET_HDR_GSO_TCPV6,
  VIRTIO_NET_HDR_GSO_UDP_L4,
} from '../../../vhost/virtio.ts';
import { CardQueueRings } from '../../helpers/card-queue-rings.ts';
import { FakeWire } from '../../helpers/fake-card-host.ts';
import { DriverTime } from '../../helpers/fake-pci-device.ts';
import { frameBytes, join } from '../../helpers/frame-bytes.ts';
import { ModelPciDevice } from '../../helpers/model-pci-device.ts';
import {
  checksumsVerify,
  onesSum,
  type Packet,
  type PacketShape,
  packet,
  withOptions,
} from '../../helpers/plain-packet.ts';

const HEADER_BYTES = 128;
/** The shortest frame on the wire, without its CRC. */
const WIRE_BYTES = 60;
const CTAG = 0x8100;
const STAG = 0x88a8;
const TCP_FLAGS = 13;
const [FIN, PSH, ACK, CWR] = [0x01, 0x08, 0x10, 0x80];

interface Fields {
  flags?: number;
  gsoType?: number;
  gsoSize?: number;
  csumStart?: number;
  csumOffset?: number;
  shown?: number;
  maxFrameBytes?: number;
}

/** Asks for a packet's offloads, with fields of which a test may have bent some. */
function plan(offload: TransmitOffload, { bytes, transport, csumOffset }: Packet, fields: Fields = {}): boolean {
  return offload.plan(
    bytes,
    0,
    fields.shown ?? Math.min(bytes.length, HEADER_BYTES),
    bytes.length,
    fields.flags ?? VIRTIO_NET_HDR_F_NEEDS_CSUM,
    fields.gsoType ?? VIRTIO_NET_HDR_GSO_NONE,
    fields.gsoSize ?? 0,
    fields.csumStart ?? transport,
    fields.csumOffset ?? csumOffset,
    fields.maxFrameBytes ?? 65_550,
  );
}

const gsoTypeOf = ({ ipVersion, isTcp }: Pick<PacketShape, 'ipVersion' | 'isTcp'>): number =>
  !isTcp ? VIRTIO_NET_HDR_GSO_UDP_L4 : ipVersion === 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;

describe('TransmitOffload', () => {
  let device: ModelPciDevice;
  let wire: FakeWire;
  let card: Ixgbe;
  let rings: CardQueueRings;

  before(() => {
    wire = new FakeWire();
    device = new ModelPciDevice({ name: 'card', mac: Uint8Array.of(2, 0, 0, 0, 0, 1), wire });
    card = Ixgbe.open(device, { queues: 1, maxFrameBytes: 9728, clock: new DriverTime() });
    rings = new CardQueueRings(card.queue(0), device.registers);
    card.startQueue(0);
    card.start();
  });
  after(() => {
    rings[Symbol.dispose]();
    card.close();
    device.dispose();
  });
  afterEach(() => assert.deepEqual(device.faults, []));

  /** What leaves the card of a packet that was planned. */
  function send(offload: TransmitOffload, { bytes }: Packet): Uint8Array[] {
    const copy = bytes.slice();
    offload.prepare(copy, 0);
    if (offload.takeContext()) rings.tx.post(offload.context0, 0, offload.context2, offload.context3);
    rings.send(copy, offload.options, offload.command);
    return wire.sent.splice(0);
  }

  const shapes = fc.record({
    ipVersion: fc.constantFrom<4 | 6>(4, 6),
    isTcp: fc.boolean(),
    tags: fc.constantFrom<number[][]>([], [CTAG], [STAG, CTAG]),
    sequence: fc.oneof(fc.nat(0xffffffff), fc.constant(0xffffff00)),
  });

  it('has the card insert checksums (property)', () => {
    const offload = new TransmitOffload();
    const options = fc.constantFrom(0, 8, 16, 24, 40);
    fc.assert(
      fc.property(shapes, fc.oneof(fc.nat(20), fc.nat(1400)), options, (shape, length, count) => {
        const plain = { ...shape, payload: frameBytes(length, length) };
        const of = count === 0 ? packet(plain) : withOptions(packet(plain), plain, count);
        assert.equal(plan(offload, of), true);
        assert.equal(offload.command, 0);
        const [wired, ...more] = send(offload, of);
        assert.equal(more.length, 0);
        // The MAC pads what is short, behind the checksum.
        assert.equal(wired!.length, Math.max(of.bytes.length, WIRE_BYTES));
        const sent = wired!.slice(0, of.bytes.length);
        assert.equal(checksumsVerify(sent, of, shape.isTcp), true);
        // Nothing else was changed.
        const field = of.transport + of.csumOffset;
        sent.set(of.bytes.subarray(field, field + 2), field);
        assert.deepEqual(sent, of.bytes);
      }),
      { numRuns: 200 },
    );
  });

  it('has the card segment (property)', () => {
    const offload = new TransmitOffload();
    const lengths = fc.oneof(fc.integer({ min: 100, max: 3000 }), fc.integer({ min: 60_000, max: 65_400 }));
    const options = fc.constantFrom(0, 8, 24);
    fc.assert(
      fc.property(shapes, lengths, fc.integer({ min: 64, max: 9000 }), options, (shape, length, mss, count) => {
        const plain = { ...shape, payload: frameBytes(length, mss) };
        const of = count === 0 ? packet(plain) : withOptions(packet(plain), plain, count);
        assert.equal(plan(offload, of, { gsoType: gsoTypeOf(shape), gsoSize: mss }), true);
        const segments = send(offload, of);
        assert.equal(segments.length, Math.ceil(length / mss));
        let at = 0;
        for (const [n, wired] of segments.entries()) {
          // The MAC pads what is short, behind the segment.
          const segment = wired.subarray(0, of.payload + Math.min(mss, length - at));
          assert.equal(wired.length, Math.max(segment.length, WIRE_BYTES));
          const part = segment.subarray(of.payload);
          const view = new DataView(segment.buffer, segment.byteOffset);
          assert.deepEqual(part, plain.payload.subarray(at, at + mss), `payload of segment ${n}`);
          assert.equal(checksumsVerify(segment, of, shape.isTcp), true, `checksums of segment ${n}`);
          const ipLength = shape.ipVersion === 4 ? view.getUint16(of.ip + 2) : view.getUint16(of.ip + 4) + 40;
          assert.equal(ipLength, segment.length - of.ip, `length of segment ${n}`);
          if (shape.isTcp) assert.equal(view.getUint32(of.transport + 4), (shape.sequence + at) % 2 ** 32);
          else assert.equal(view.getUint16(of.transport + 4), segment.length - of.transport);
          at += part.length;
        }
        assert.equal(at, length);
      }),
      { numRuns: 60 },
    );
  });

  it('has FIN and PSH on the last segment, and CWR on the first, as ECN wants it', () => {
    const offload = new TransmitOffload();
    const of = packet({ ipVersion: 4, isTcp: true, payload: frameBytes(400, 1) });
    of.bytes[of.transport + TCP_FLAGS] = FIN | PSH | ACK | CWR;
    assert.equal(plan(offload, of, { gsoType: VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, gsoSize: 100 }), true);
    assert.deepEqual(
      send(offload, of).map((segment) => segment[of.transport + TCP_FLAGS]),
      [ACK | CWR, ACK, ACK, ACK | FIN | PSH],
    );
  });

  it('changes nothing but what segmentation needs, and nothing for a checksum', () => {
    const offload = new TransmitOffload();
    for (const ipVersion of [4, 6] as const) {
      const of = packet({ ipVersion, isTcp: true, payload: frameBytes(300, 1) });
      const copy = Uint8Array.from([...new Uint8Array(10), ...of.bytes]);
      plan(offload, of);
      offload.prepare(copy, 10);
      assert.deepEqual(copy.subarray(10), of.bytes);
      plan(offload, of, { gsoType: gsoTypeOf({ ipVersion, isTcp: true }), gsoSize: 100 });
      offload.prepare(copy, 10);
      const changed = [...of.bytes.keys()].filter((i) => copy[10 + i] !== of.bytes[i]);
      const field = of.transport + 16;
      const allowed = ipVersion === 4 ? [16, 17, 24, 25, field, field + 1] : [18, 19, field, field + 1];
      assert.ok(
        changed.every((i) => allowed.includes(i)),
        `${changed}`,
      );
      assert.deepEqual(copy.subarray(0, 10), new Uint8Array(10));
      const addresses = ipVersion === 4 ? of.bytes.subarray(26, 34) : of.bytes.subarray(22, 54);
      assert.equal(
        new DataView(copy.buffer).getUint16(10 + field),
        onesSum([...addresses, 0, 6]),
        'a sum without length',
      );
    }
  });

  it('posts a context only when it is another', () => {
    const offload = new TransmitOffload();
    const tcp = packet({ ipVersion: 4, isTcp: true, payload: frameBytes(300, 1) });
    const udp = packet({ ipVersion: 4, isTcp: false, payload: frameBytes(300, 1) });
    const takes = (of: Packet, fields: Fields = {}): boolean => {
      assert.equal(plan(offload, of, fields), true);
      return offload.takeContext();
    };
    assert.deepEqual([takes(tcp), takes(tcp), takes(udp), takes(tcp)], [true, false, true, true]);
    const gsoType = VIRTIO_NET_HDR_GSO_TCPV4;
    assert.deepEqual(
      [100, 100, 101].map((gsoSize) => takes(tcp, { gsoType, gsoSize })),
      [true, false, true],
    );
    assert.equal((offload.command & TXD_CMD_TSE) !== 0, true);
  });

  describe('leaves to software', () => {
    const tcp4 = packet({ ipVersion: 4, isTcp: true, payload: frameBytes(300, 1) });
    const gso = { gsoType: VIRTIO_NET_HDR_GSO_TCPV4, gsoSize: 100 };
    const cases: [name: string, of: Packet, fields: Fields][] = [
      ['frames that ask for nothing', tcp4, { flags: 0 }],
      ['checksums of protocols that it does not know', tcp4, { csumOffset: 2 }],
      ['a transport header within the IP header', tcp4, { csumStart: 30 }],
      ['a transport header before the IP header', tcp4, { csumStart: 0 }],
      [
        'IP headers longer than IPLEN has bits for',
        packet({ ipVersion: 6, isTcp: true, payload: frameBytes(900, 1) }),
        { csumStart: 14 + 512 },
      ],
      ['segmenting behind an IP header that ends before', tcp4, { ...gso, csumStart: tcp4.transport + 2 }],
      ['TCP over another IP than the GSO type says', tcp4, { ...gso, gsoType: VIRTIO_NET_HDR_GSO_TCPV6 }],
      ['a GSO type of UDP for TCP', tcp4, { ...gso, gsoType: VIRTIO_NET_HDR_GSO_UDP_L4 }],
      ['a GSO type that nobody knows', tcp4, { ...gso, gsoType: 9 }],
      ['segments of crumbs', tcp4, { ...gso, gsoSize: 63 }],
      ['segments of nothing', tcp4, { ...gso, gsoSize: 0 }],
      ['segmenting headers that it is not shown', tcp4, { ...gso, shown: 50 }],
      ['segmenting without a checksum', tcp4, { ...gso, flags: 0 }],
    ];
    for (const [name, of, fields] of cases) {
      it(name, () => assert.equal(plan(new TransmitOffload(), of, fields), false));
    }

    it('what is neither IPv4 nor IPv6', () => {
      const bytes = tcp4.bytes.slice();
      bytes.set([0x88, 0x47], 12);
      assert.equal(plan(new TransmitOffload(), { ...tcp4, bytes }), false);
    });

    it('more VLAN tags than a frame should have', () => {
      const of = packet({ ipVersion: 4, isTcp: true, tags: [CTAG, CTAG, CTAG], payload: frameBytes(100, 1) });
      assert.equal(plan(new TransmitOffload(), of), false);
    });

    it('a VLAN tag that is cut off', () => {
      const of = packet({ ipVersion: 4, isTcp: true, tags: [CTAG, STAG], payload: frameBytes(100, 1) });
      const plannedOf = [15, 17, 19, 21, 22].map((shown) => plan(new TransmitOffload(), of, { shown }));
      assert.deepEqual(plannedOf, [false, false, false, false, true]);
    });

    it('segments that are longer than the wire takes', () => {
      const plannedOf = [100, 99].map((room) =>
        plan(new TransmitOffload(), tcp4, { ...gso, maxFrameBytes: tcp4.payload + room }),
      );
      assert.deepEqual(plannedOf, [true, false]);
    });

    it('segmenting IP in IP, in which it would change one header of two', () => {
      for (const [version, encapsulation] of [
        [4, 4],
        [6, 41],
      ] as const) {
        const inner = packet({ ipVersion: version, isTcp: true, payload: frameBytes(300, 1) });
        const { bytes, ip, transport } = inner;
        const outer = bytes.slice(ip, transport);
        outer[version === 4 ? 9 : 6] = encapsulation;
        const tunnel = join([bytes.subarray(0, ip), outer, bytes.subarray(ip)]);
        const of = { ...inner, bytes: tunnel, transport: transport + outer.length };
        const gsoType = version === 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
        assert.equal(plan(new TransmitOffload(), of, { gsoType, gsoSize: 100 }), false, `IPv${version}`);
        assert.equal(plan(new TransmitOffload(), of), true, 'a checksum is where the fields say, whatever is before');
      }
    });

    const bent4: [name: string, at: number, value: number][] = [
      ['another protocol', tcp4.ip + 9, 17],
      ['a longer IPv4 header', tcp4.ip, 0x46],
      ['another IP version', tcp4.ip, 0x65],
      ['the first fragment of several', tcp4.ip + 6, 0x20],
      ['a later fragment', tcp4.ip + 7, 1],
    ];
    for (const [name, at, value] of bent4) {
      it(`segmenting what has ${name}`, () => {
        const bytes = tcp4.bytes.slice();
        bytes[at] = value;
        assert.equal(plan(new TransmitOffload(), { ...tcp4, bytes }, gso), false);
      });
    }

    it('segmenting behind IPv6 headers that lead elsewhere', () => {
      const shape = { ipVersion: 6, isTcp: true, payload: frameBytes(300, 1) } as const;
      const of = withOptions(packet(shape), shape, 16);
      const fields = { gsoType: VIRTIO_NET_HDR_GSO_TCPV6, gsoSize: 100 };
      assert.equal(plan(new TransmitOffload(), of, fields), true);
      const bent: [name: string, at: number, value: number][] = [
        ['another version', of.ip, 0x40],
        ['a fragment header', of.ip + 6, 44],
        ['UDP behind the options', of.ip + 40, 17],
        ['options that end before the transport header', of.ip + 41, 0],
        ['options that end behind it', of.ip + 41, 2],
        ['TCP in the place of the options', of.ip + 6, 6],
      ];
      for (const [name, at, value] of bent) {
        const bytes = of.bytes.slice();
        bytes[at] = value;
        assert.equal(plan(new TransmitOffload(), { ...of, bytes }, fields), false, name);
      }
    });

    it('segmenting TCP headers that are too short, or longer than the frame', () => {
      for (const dataOffset of [0x00, 0x40]) {
        const bytes = tcp4.bytes.slice();
        bytes[tcp4.transport + 12] = dataOffset;
        assert.equal(plan(new TransmitOffload(), { ...tcp4, bytes }, gso), false);
      }
      const short = packet({ ipVersion: 4, isTcp: true, payload: frameBytes(10, 1) });
      short.bytes[short.transport + 12] = 0xf0;
      assert.equal(plan(new TransmitOffload(), short, gso), false);
    });
  });

  it('never plans what the card faults on, whatever the fields and bytes (property)', () => {
    const offload = new TransmitOffload();
    const fields = fc.record({
      gsoType: fc.oneof(fc.constantFrom(0, 1, 4, 5, 0x81, 0x84), fc.nat(255)),
      gsoSize: fc.oneof(fc.nat(3000), fc.nat(0xffff)),
      csumStart: fc.option(fc.oneof(fc.constantFrom(34, 54, 38, 58), fc.nat(600)), { nil: undefined, freq: 1 }),
      csumOffset: fc.option(fc.oneof(fc.constantFrom(16, 6), fc.nat(40)), { nil: undefined, freq: 1 }),
    });
    const bent = fc.array(fc.tuple(fc.nat(70), fc.nat(255)), { maxLength: 4 });
    let planned = 0;
    fc.assert(
      fc.property(shapes, fc.integer({ min: 40, max: 2500 }), fields, bent, (shape, length, bend, changes) => {
        const of = packet({ ...shape, payload: frameBytes(length, 1) });
        for (const [at, value] of changes) of.bytes[at] = value;
        // The engine drops frames whose checksum field is outside of them (sanitizeOffloads).
        const { csumStart = of.transport, csumOffset = of.csumOffset } = bend;
        if (csumStart + csumOffset + 2 > of.bytes.length) return;
        if (!plan(offload, of, bend)) return;
        planned++;
        send(offload, of);
        assert.deepEqual(device.faults, []);
      }),
      { numRuns: 2000 },
    );
    assert.ok(planned > 50, `only ${planned} were planned`);
  });
});
