import assert from 'node:assert/strict';
import fc from 'fast-check';
import { TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6 } from '../../linux/if-tun.ts';
import { BATCH_FRAMES, type FrameBatch, HEADER_BYTES } from '../../memory/frame-batch.ts';
import { OffloadAdapter, requiredOffloads, sanitizeOffloads } from '../../switch/offload.ts';
import {
  VIRTIO_NET_HDR_F_DATA_VALID,
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_ECN,
  VIRTIO_NET_HDR_GSO_TCPV4,
  VIRTIO_NET_HDR_GSO_TCPV6,
  VIRTIO_NET_HDR_GSO_UDP,
  VIRTIO_NET_HDR_GSO_UDP_L4,
} from '../../vhost/virtio.ts';
import { emptyBatch, wasmArena } from '../helpers/arenas.ts';
import { appendTestFrame, ethernet, type TestFrame, testFrameOf } from '../helpers/fake-queue.ts';
import { appendFrame, cut, frameBytes, join } from '../helpers/frame-bytes.ts';
import { checksumsVerify, type Packet, type PacketShape, packet } from '../helpers/plain-packet.ts';

const NEEDS_CSUM = VIRTIO_NET_HDR_F_NEEDS_CSUM;
const ECN = VIRTIO_NET_HDR_GSO_ECN;
/** VIRTIO_NET_HDR_F_RSC_INFO (virtio 1.2 §5.1.6): a receiver's flag, like DATA_VALID. */
const RSC_INFO = 4;
const CTAG = 0x8100;
const STAG = 0x88a8;

let batch: FrameBatch;
beforeEach(() => {
  batch = emptyBatch();
});

/** Puts a frame behind another one, so that index 0 is nobody's lucky guess; gives its index. */
function put(frame: TestFrame): number {
  appendTestFrame(batch, { bytes: ethernet(9, 9), flags: 3, gsoType: 9, gsoSize: 9, csumStart: 9, csumOffset: 9 });
  appendTestFrame(batch, frame);
  return 1;
}

describe('sanitizeOffloads', () => {
  const bytes = ethernet(2, 1, { length: 100 });
  const tso: TestFrame = {
    bytes,
    flags: NEEDS_CSUM,
    gsoType: VIRTIO_NET_HDR_GSO_TCPV4,
    gsoSize: 20,
    hdrLen: 54,
    csumStart: 34,
    csumOffset: 16,
  };

  const truths: [what: string, frame: TestFrame][] = [
    ['no offload', { bytes }],
    ['a partial checksum', { bytes, flags: NEEDS_CSUM, csumStart: 34, csumOffset: 6 }],
    ['a checksum field in the last two bytes', { bytes, flags: NEEDS_CSUM, csumStart: 90, csumOffset: 8 }],
    ['TSO over IPv4', tso],
    ['TSO over IPv6', { ...tso, gsoType: VIRTIO_NET_HDR_GSO_TCPV6 }],
    ['TSO with ECN', { ...tso, gsoType: VIRTIO_NET_HDR_GSO_TCPV6 | ECN }],
    ['USO', { ...tso, gsoType: VIRTIO_NET_HDR_GSO_UDP_L4 }],
    ['a hdr_len of the whole frame', { ...tso, hdrLen: 100 }],
  ];
  for (const [what, frame] of truths) {
    it(`lets pass as it is: ${what}`, () => {
      const i = put(frame);
      const before = testFrameOf(batch, i);
      assert.equal(sanitizeOffloads(batch, i), true);
      assert.deepEqual(testFrameOf(batch, i), before);
    });
  }

  it('takes away flags that only a device may set, and fields that mean nothing then', () => {
    const i = put({
      bytes,
      flags: VIRTIO_NET_HDR_F_DATA_VALID | RSC_INFO,
      hdrLen: 60_000,
      gsoSize: 7,
      csumStart: 60_000,
      csumOffset: 60_000,
    });
    assert.equal(sanitizeOffloads(batch, i), true);
    assert.deepEqual(testFrameOf(batch, i), testFrameOf(batch, put({ bytes }) + 2));
  });

  it('keeps NEEDS_CSUM of all flags', () => {
    const i = put({ ...tso, flags: 0xff });
    assert.equal(sanitizeOffloads(batch, i), true);
    assert.deepEqual(testFrameOf(batch, i), testFrameOf(batch, put(tso) + 2));
  });

  it('takes the ECN bit of no segmentation for nothing', () => {
    const i = put({ bytes, gsoType: ECN, gsoSize: 1000, hdrLen: 54 });
    assert.equal(sanitizeOffloads(batch, i), true);
    assert.deepEqual(testFrameOf(batch, i), testFrameOf(batch, put({ bytes }) + 2));
  });

  const lies: [what: string, frame: TestFrame][] = [
    ['a checksum field half outside', { bytes, flags: NEEDS_CSUM, csumStart: 91, csumOffset: 8 }],
    ['a csum_start outside', { bytes, flags: NEEDS_CSUM, csumStart: 100, csumOffset: 0 }],
    ['a csum_offset outside', { bytes, flags: NEEDS_CSUM, csumStart: 34, csumOffset: 65 }],
    ['fields whose sum would wrap in 16 bits', { bytes, flags: NEEDS_CSUM, csumStart: 0xffff, csumOffset: 0x23 }],
    ['segmentation without NEEDS_CSUM', { ...tso, flags: 0 }],
    ['segmentation with DATA_VALID only', { ...tso, flags: VIRTIO_NET_HDR_F_DATA_VALID }],
    ['a gso_size of 0', { ...tso, gsoSize: 0 }],
    ['a hdr_len beyond the frame', { ...tso, hdrLen: 101 }],
    ['UFO, which nobody negotiates', { ...tso, gsoType: VIRTIO_NET_HDR_GSO_UDP }],
    ['a gso_type that the specification does not know', { ...tso, gsoType: 2 }],
    ['an unknown gso_type with ECN', { ...tso, gsoType: 0x7f | ECN }],
    ['segmentation with a checksum outside', { ...tso, csumStart: 99 }],
  ];
  for (const [what, frame] of lies) {
    it(`refuses ${what}`, () => {
      assert.equal(sanitizeOffloads(batch, put(frame)), false);
    });
  }
});

describe('requiredOffloads', () => {
  const payload = new Uint8Array(100);
  const udp = (ipVersion: 4 | 6, tags: number[] = []): Uint8Array =>
    packet({ ipVersion, isTcp: false, tags, payload }).bytes;
  const USO = VIRTIO_NET_HDR_GSO_UDP_L4;
  const combinations: [what: string, frame: TestFrame, required: number][] = [
    ['nothing', { bytes: udp(4) }, 0],
    ['DATA_VALID', { bytes: udp(4), flags: VIRTIO_NET_HDR_F_DATA_VALID }, 0],
    ['a checksum', { bytes: udp(6), flags: NEEDS_CSUM }, TUN_F_CSUM],
    ['TSO4', { bytes: udp(4), flags: NEEDS_CSUM, gsoType: VIRTIO_NET_HDR_GSO_TCPV4 }, TUN_F_CSUM | TUN_F_TSO4],
    ['TSO6', { bytes: udp(6), flags: NEEDS_CSUM, gsoType: VIRTIO_NET_HDR_GSO_TCPV6 }, TUN_F_CSUM | TUN_F_TSO6],
    [
      'TSO4 with ECN',
      { bytes: udp(4), flags: NEEDS_CSUM, gsoType: VIRTIO_NET_HDR_GSO_TCPV4 | ECN },
      TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO_ECN,
    ],
    [
      'TSO6 with ECN',
      { bytes: udp(6), flags: NEEDS_CSUM, gsoType: VIRTIO_NET_HDR_GSO_TCPV6 | ECN },
      TUN_F_CSUM | TUN_F_TSO6 | TUN_F_TSO_ECN,
    ],
  ];
  for (const tags of [[], [CTAG], [STAG], [STAG, CTAG]]) {
    const behind = tags.length === 0 ? '' : ` behind tags ${tags.map((tag) => tag.toString(16))}`;
    combinations.push(
      [`USO4${behind}`, { bytes: udp(4, tags), flags: NEEDS_CSUM, gsoType: USO }, TUN_F_CSUM | TUN_F_USO4],
      [`USO6${behind}`, { bytes: udp(6, tags), flags: NEEDS_CSUM, gsoType: USO }, TUN_F_CSUM | TUN_F_USO6],
    );
  }
  for (const [what, frame, required] of combinations) {
    it(what, () => {
      assert.equal(requiredOffloads(batch, put(frame)), required);
    });
  }

  it('reads no further than the frame for the type behind a tag', () => {
    // Ends inside the second tag; what an earlier frame left in the slot says IPv6.
    const whole = udp(6, [CTAG, CTAG]);
    appendTestFrame(batch, { bytes: whole });
    batch.clear();
    appendTestFrame(batch, { bytes: whole.slice(0, 18), flags: NEEDS_CSUM, gsoType: USO });
    assert.equal(requiredOffloads(batch, 0), TUN_F_CSUM | TUN_F_USO4);
  });

  it('ends though every byte that it may look at says VLAN', () => {
    const bytes = new Uint8Array(400).map((_, i) => (i % 2 === 0 ? 0x81 : 0x00));
    assert.equal(requiredOffloads(batch, put({ bytes, flags: NEEDS_CSUM, gsoType: USO })), TUN_F_CSUM | TUN_F_USO4);
  });
});

describe('OffloadAdapter', () => {
  const adapter = new OffloadAdapter(wasmArena());

  const offered = (from: Packet, changes: Partial<TestFrame> = {}): TestFrame => ({
    bytes: from.bytes,
    flags: NEEDS_CSUM,
    csumStart: from.transport,
    csumOffset: from.csumOffset,
    ...changes,
  });
  /** All plain frames that it makes; they carry no offload. */
  const all = (): Uint8Array[] => {
    const frames: Uint8Array[] = [];
    for (let made = adapter.next(); made > 0; made = adapter.next()) {
      assert.equal(adapter.batch.count, made);
      for (let i = 0; i < made; i++) {
        const { bytes, flags, gsoType } = testFrameOf(adapter.batch, i);
        assert.deepEqual({ flags, gsoType }, { flags: 0, gsoType: 0 });
        frames.push(bytes);
      }
    }
    assert.equal(adapter.next(), 0, 'stays at its end');
    return frames;
  };
  const gsoOf = ({ ipVersion, isTcp }: PacketShape): number => {
    if (!isTcp) return VIRTIO_NET_HDR_GSO_UDP_L4;
    return ipVersion === 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
  };

  for (const ipVersion of [4, 6] as const) {
    for (const isTcp of [true, false]) {
      const name = `${isTcp ? 'TCP' : 'UDP'} over IPv${ipVersion}`;

      it(`completes the checksum of ${name}, and changes nothing else`, () => {
        for (const length of [0, 1, 60, 1400, 1401]) {
          const from = packet({ ipVersion, isTcp, payload: frameBytes(length, 3) });
          assert.equal(checksumsVerify(from.bytes, from, isTcp), false, 'nothing to do');
          assert.equal(adapter.start(batch, put(offered(from))), true);
          const [frame, ...more] = all();
          assert.equal(more.length, 0);
          assert.equal(checksumsVerify(frame!, from, isTcp), true);
          const field = from.transport + from.csumOffset;
          from.bytes.set(frame!.subarray(field, field + 2), field);
          assert.deepEqual(frame, from.bytes);
          batch.clear();
        }
      });

      it(`segments ${name}`, () => {
        const shape: PacketShape = { ipVersion, isTcp, tags: [CTAG], payload: frameBytes(3001, 4) };
        const from = packet(shape);
        const frame = offered(from, { gsoType: gsoOf(shape), gsoSize: 1000, hdrLen: from.payload });
        assert.equal(adapter.start(batch, put(frame)), true);
        const frames = all();
        assert.deepEqual(
          frames.map(({ length }) => length - from.payload),
          [1000, 1000, 1000, 1],
        );
        for (const segment of frames) assert.equal(checksumsVerify(segment, from, isTcp), true);
        assert.deepEqual(join(frames.map((segment) => segment.subarray(from.payload))), shape.payload);
      });
    }
  }

  it('refuses segmentation fields that contradict the headers, and works on after it', () => {
    const v4 = packet({ ipVersion: 4, isTcp: true, payload: frameBytes(2000, 1) });
    const tso = { gsoType: VIRTIO_NET_HDR_GSO_TCPV4, gsoSize: 500 };
    const refused: Partial<TestFrame>[] = [
      { ...tso, gsoType: VIRTIO_NET_HDR_GSO_TCPV6 },
      { ...tso, gsoType: VIRTIO_NET_HDR_GSO_UDP_L4 },
      { ...tso, csumStart: v4.transport + 2 },
      { ...tso, csumOffset: 6 },
      { ...tso, gsoSize: 0 },
      { ...tso, bytes: v4.bytes.subarray(0, v4.transport + 10) },
      { ...tso, bytes: ethernet(2, 1, { length: 200 }) },
    ];
    for (const changes of refused) {
      batch.clear();
      assert.equal(adapter.start(batch, put(offered(v4, changes))), false, JSON.stringify(Object.keys(changes)));
    }
    batch.clear();
    assert.equal(adapter.start(batch, put(offered(v4, tso))), true);
    assert.equal(all().length, 4);
  });

  it('refuses a checksum field outside of the frame', () => {
    const bytes = ethernet(2, 1);
    assert.equal(adapter.start(batch, put({ bytes, flags: NEEDS_CSUM, csumStart: 59, csumOffset: 0 })), false);
  });

  it('drops the rest of a frame when the next one starts', () => {
    const shape: PacketShape = { ipVersion: 4, isTcp: true, payload: frameBytes(2000, 1) };
    const from = packet(shape);
    assert.equal(adapter.start(batch, put(offered(from, { gsoType: gsoOf(shape), gsoSize: 500 }))), true);
    assert.equal(adapter.next(), 4);
    batch.clear();
    assert.equal(adapter.start(batch, put(offered(from))), true);
    assert.equal(all().length, 1);
  });

  it('cuts frames up to 64 KB, in any buffers, into segments that make up the same bytes', () => {
    const property = fc.property(
      fc.constantFrom(4 as const, 6 as const),
      fc.oneof(fc.constant(65_000), fc.integer({ min: 1, max: 65_000 })),
      fc.integer({ min: 500, max: 9000 }),
      fc.array(fc.nat(5000), { maxLength: 20 }),
      fc.nat(0xffff_ffff),
      fc.constantFrom<number[]>([], [CTAG], [STAG, CTAG]),
      (ipVersion, length, gsoSize, cuts, sequence, tags) => {
        const payload = frameBytes(length, gsoSize);
        const shape: PacketShape = { ipVersion, isTcp: true, tags, payload, sequence };
        const from = packet(shape);
        batch.clear();
        appendFrame(batch, cut(from.bytes, cuts));
        batch.flags[0] = NEEDS_CSUM;
        batch.gsoType[0] = gsoOf(shape);
        batch.gsoSize[0] = gsoSize;
        batch.csumStart[0] = from.transport;
        batch.csumOffset[0] = from.csumOffset;
        assert.equal(adapter.start(batch, 0), true);
        const frames = all();
        assert.equal(frames.length, Math.ceil(length / gsoSize));
        for (const [i, frame] of frames.entries()) {
          assert.equal(checksumsVerify(frame, from, true), true, `checksums of segment ${i}`);
          const view = new DataView(frame.buffer);
          assert.equal(view.getUint32(from.transport + 4), (sequence + i * gsoSize) % 2 ** 32);
        }
        assert.deepEqual(join(frames.map((frame) => frame.subarray(from.payload))), payload);
      },
    );
    fc.assert(property, { numRuns: 60 });
  });

  it('hands over as many segments at once as a batch holds', () => {
    const shape: PacketShape = { ipVersion: 6, isTcp: true, payload: frameBytes(60_000, 1) };
    assert.equal(adapter.start(batch, put(offered(packet(shape), { gsoType: gsoOf(shape), gsoSize: 600 }))), true);
    assert.deepEqual([adapter.next(), adapter.next(), adapter.next()], [BATCH_FRAMES, 100 - BATCH_FRAMES, 0]);
    // Jumbo segments: as many as the room for them holds.
    batch.clear();
    const jumbo: PacketShape = { ...shape, payload: frameBytes(60_000, 2) };
    assert.equal(adapter.start(batch, put(offered(packet(jumbo), { gsoType: gsoOf(jumbo), gsoSize: 30_000 }))), true);
    assert.equal(all().length, 2);
  });

  it('takes a frame shorter than the copied header bytes as well as a longer one', () => {
    for (const length of [0, HEADER_BYTES - 60, HEADER_BYTES, HEADER_BYTES + 1]) {
      const from = packet({ ipVersion: 4, isTcp: false, payload: frameBytes(length, 2) });
      batch.clear();
      assert.equal(adapter.start(batch, put(offered(from))), true);
      assert.equal(checksumsVerify(all()[0]!, from, false), true);
    }
  });
});
