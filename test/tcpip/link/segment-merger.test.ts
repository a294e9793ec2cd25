import assert from 'node:assert/strict';
import fc from 'fast-check';
import { pseudoHeaderSumIpv4, sum } from '../../../packet/checksum.ts';
import { SegmentMerger } from '../../../tcpip/link/segment-merger.ts';
import { NOT_LOCAL, newPacket, type Packet } from '../../../tcpip/packet.ts';
import { bytesOf } from '../../helpers/tcpip-packets.ts';

const ACK = 0x10;
const PSH = 0x08;
const FIN = 0x01;
const MSS = 1000;
const MAC = [0x0200, 7] as const;

interface Shape {
  port?: number;
  seq?: number;
  ack?: number;
  flags?: number;
  window?: number;
  /** Whole words. */
  options?: number[];
  length?: number;
  source?: number[];
  verified?: boolean;
  local?: number;
  trafficClass?: number;
  hopLimit?: number;
  gsoSize?: number;
  ipOptions?: number;
}

const u32 = (value: number): number[] => [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255];

/** A packet over IPv4, among other bytes. */
function packetOf(shape: Shape): Packet {
  const { port = 5000, seq = 1, ack = 9, flags = ACK, window = 500, options = [], length = MSS } = shape;
  const { source = [10, 0, 0, 1], verified = true, local = 2, trafficClass = 0, hopLimit = 64 } = shape;
  const { gsoSize = 0, ipOptions = 0 } = shape;
  const ip = [
    0x45,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    hopLimit,
    6,
    0,
    0,
    ...source,
    10,
    0,
    0,
    2,
    ...Array<number>(ipOptions).fill(1),
  ];
  const ports = [port >> 8, port & 255, 0, 80];
  const offset = (5 + options.length / 4) << 4;
  const tcp = [...ports, ...u32(seq), ...u32(ack), offset, flags, window >> 8, window & 255, 0, 0, 0, 0, ...options];
  const before = [9, 9, 9];
  const bytes = Uint8Array.from([...before, ...ip, ...tcp, ...bytesOf(length, seq), 9, 9]);
  const at = before.length + ip.length;
  const end = bytes.length - 2;
  const right = 0xffff - fold(sum(bytes, at, end, pseudoHeaderSumIpv4(bytes, before.length + 12, 6, end - at)));
  bytes[at + 16] = right >> 8;
  bytes[at + 17] = right & 255;
  return {
    ...newPacket(),
    ...{ bytes, at, end, ipAt: before.length, family: 4, source: before.length + 12, destination: before.length + 16 },
    ...{ local, protocol: 6, hopLimit, trafficClass, verified, gsoSize },
  };
}

const fold = (partial: number): number =>
  partial > 0xffff ? fold((partial & 0xffff) + Math.floor(partial / 65_536)) : partial;

interface Seen {
  port: number;
  seq: number;
  rest: string;
  data: string;
  gsoSize: number;
}

/** What TCP sees of a packet, cut into the segments that it stands for. */
function segmentsOf(packet: Packet): Seen[] {
  const { bytes, at, end, gsoSize } = packet;
  const header = (bytes[at + 12]! >> 4) * 4;
  const size = gsoSize || Math.max(1, end - at - header);
  const segments: Seen[] = [];
  for (let from = at + header; from < end || segments.length === 0; from += size) {
    const rest = bytes.slice(at + 8, at + header);
    const isLast = from + size >= end;
    if (!isLast) rest[5] = rest[5]! & ~PSH;
    rest.fill(0, 8, 10);
    const seq = Buffer.from(bytes).readUInt32BE(at + 4) + segments.length * size;
    const data = Buffer.from(bytes.slice(from, Math.min(end, from + size))).toString('hex');
    segments.push({
      port: Buffer.from(bytes).readUInt16BE(at),
      seq,
      rest: Buffer.from(rest).toString('hex'),
      data,
      gsoSize,
    });
  }
  return segments;
}

/** Gives a batch to a merger: what TCP sees, packet by packet. */
function merge(shapes: readonly Shape[]): Packet[] {
  const seen: Packet[] = [];
  const see = (packet: Packet): void => {
    seen.push({ ...packet, bytes: packet.bytes.slice() });
  };
  const merger = new SegmentMerger(sum, (packet, high, low) => {
    assert.deepEqual([high, low], MAC);
    see(packet);
  });
  for (const shape of shapes) {
    const packet = packetOf(shape);
    if (!merger.take(packet, ...MAC)) see(packet);
  }
  merger.flush();
  merger.flush();
  return seen;
}

/** Segments of one flow, each where the one before it ended. */
const row = (count: number, shape: Shape = {}): Shape[] =>
  Array.from({ length: count }, (_, i) => ({ ...shape, seq: 1 + i * (shape.length ?? MSS) }));
const lengths = (packets: Packet[]): number[] =>
  packets.map(({ at, end, bytes }) => end - at - (bytes[at + 12]! >> 4) * 4);

describe('SegmentMerger', () => {
  it('makes one of segments that follow each other', () => {
    const [merged, ...more] = merge(row(10));
    assert.deepEqual(more, []);
    assert.deepEqual(lengths([merged!]), [10 * MSS]);
    assert.equal(merged!.gsoSize, MSS);
    assert.equal(merged!.verified, true);
    assert.equal(merged!.local, 2);
    assert.deepEqual([...merged!.bytes.slice(merged!.source, merged!.source + 4)], [10, 0, 0, 1]);
  });

  it('leaves a single one where it is', () => {
    const [only, ...more] = merge(row(1));
    assert.deepEqual(more, []);
    assert.equal(only!.gsoSize, 0);
    assert.deepEqual(only!.bytes, packetOf({}).bytes);
  });

  it('ends with a short one, and with PSH, which the whole has then', () => {
    const short = { seq: 1 + 2 * MSS, length: 10 };
    const packets = merge([...row(2), short, { seq: 1 + 2 * MSS + 10 }]);
    assert.deepEqual(lengths(packets), [2 * MSS + 10, MSS]);
    const pushed = merge([...row(2), { seq: 1 + 2 * MSS, flags: ACK | PSH }, { seq: 1 + 3 * MSS }]);
    assert.deepEqual(lengths(pushed), [3 * MSS, MSS]);
    assert.equal(pushed[0]!.bytes[pushed[0]!.at + 13], ACK | PSH);
  });

  it('keeps to the longest IP packet', () => {
    const packets = merge(row(100));
    assert.deepEqual(lengths(packets), [65 * MSS, 35 * MSS]);
  });

  const others: Record<string, Shape> = {
    'a hole': { seq: 2 + MSS },
    'a longer one': { length: MSS + 1 },
    'another acknowledgment': { ack: 10 },
    'another window': { window: 501 },
    'other options': { options: [1, 1, 1, 1] },
    FIN: { flags: ACK | FIN },
    'no data': { length: 0 },
    'another source': { source: [10, 0, 0, 9] },
    'another port': { port: 5001 },
    'another port in the same place': { port: 5000 + 256 },
    'another mark of congestion': { trafficClass: 3 },
    'another hop limit': { hopLimit: 63 },
    'another address of ours': { local: 4 },
    'none of our addresses': { local: NOT_LOCAL },
    'a super-frame': { gsoSize: 500 },
    'IP options': { ipOptions: 4 },
  };
  for (const [name, other] of Object.entries(others)) {
    it(`does not merge with ${name}`, () => {
      const packets = merge([{}, { seq: 1 + MSS, ...other }]);
      assert.equal(packets.length, 2);
      const timestamps = packets.map(({ bytes, at }) => Buffer.from(bytes).readUInt32BE(at + 4));
      if (other.port === undefined) assert.deepEqual(timestamps, [1, other.seq ?? 1 + MSS], 'in order');
    });
  }

  it('merges what has the same options', () => {
    const options = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    assert.deepEqual(lengths(merge(row(3, { options }))), [3 * MSS]);
  });

  it('looks at checksums that nobody looked at, and leaves wrong ones to TCP', () => {
    assert.deepEqual(lengths(merge(row(3, { verified: false }))), [3 * MSS]);
    const seen: Packet[] = [];
    const merger = new SegmentMerger(sum, (packet) => seen.push({ ...packet }));
    const wrong = packetOf({ seq: 1 + MSS, verified: false });
    wrong.bytes[wrong.end - 1]! ^= 1;
    assert.equal(merger.take(packetOf({}), ...MAC), true);
    assert.equal(merger.take(wrong, ...MAC), false);
    assert.equal(seen.length, 1);
    assert.equal(wrong.verified, false);
  });

  it('passes what is no segment', () => {
    const merger = new SegmentMerger(sum, () => assert.fail());
    for (const end of [0, 3, 19]) {
      const packet = packetOf({});
      packet.end = packet.at + end;
      assert.equal(merger.take(packet, ...MAC), false);
    }
    const packet = packetOf({});
    packet.bytes[packet.at + 12] = 0x40;
    assert.equal(merger.take(packet, ...MAC), false);
    packet.bytes[packet.at + 12] = 0xf0;
    packet.end = packet.at + 40;
    assert.equal(merger.take(packet, ...MAC), false);
  });

  it('gives each flow what it sent, in order, whatever it is (fast-check)', () => {
    const step = fc.record({
      flow: fc.nat(3),
      jump: fc.oneof({ weight: 6, arbitrary: fc.constant(0) }, fc.integer({ min: -1500, max: 1500 })),
      length: fc.oneof({ weight: 6, arbitrary: fc.constant(MSS) }, fc.nat(MSS + 5)),
      flags: fc.oneof({ weight: 8, arbitrary: fc.constant(ACK) }, fc.constantFrom(ACK | PSH, ACK | FIN, 2, 4, 0)),
      window: fc.oneof({ weight: 8, arbitrary: fc.constant(500) }, fc.constant(501)),
      verified: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 90 }), (steps) => {
        const next = [1, 1, 1, 1];
        const shapes = steps.map(({ flow, jump, length, ...rest }): Shape => {
          const seq = Math.max(0, next[flow]! + jump);
          next[flow] = seq + length;
          // Two flows share a place.
          return { port: 5000 + [0, 1, 2, 256][flow]!, seq, length, ...rest };
        });
        const seen = merge(shapes);
        const sent = shapes.flatMap((shape) => segmentsOf(packetOf(shape)));
        const got = seen.flatMap(segmentsOf);
        for (const port of new Set(shapes.map(({ port }) => port))) {
          const of = (segments: Seen[]): object[] =>
            segments.filter((one) => one.port === port).map(({ seq, rest, data }) => ({ seq, rest, data }));
          assert.deepEqual(of(got), of(sent));
        }
        assert.equal(got.length, sent.length);
      }),
      { numRuns: 300 },
    );
  });
});
