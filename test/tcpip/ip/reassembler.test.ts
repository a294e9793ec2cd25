import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  COMPLETE,
  DROPPED,
  type ExpiredFragment,
  INCOMPLETE,
  LIFETIME_IPV4,
  LIFETIME_IPV6,
  MAX_BYTES,
  MAX_FRAGMENTS,
  MAX_PACKETS,
  MAX_SOURCE_BYTES,
  MAX_SOURCE_PACKETS,
  Reassembler,
} from '../../../tcpip/ip/reassembler.ts';
import { NEVER, type Time } from '../../../tcpip/network.ts';
import { bytesOf } from '../../helpers/tcpip-packets.ts';

interface Piece {
  offset: number;
  data: Uint8Array;
  hasMore: boolean;
  id?: number;
  source?: number;
  ecn?: number;
  protocol?: number;
  family?: 4 | 6;
}

const HEADER = 24;

describe('fragments', () => {
  let reassembler: Reassembler;
  let now: Time;
  let expired: (ExpiredFragment | null)[];

  beforeEach(() => {
    reassembler = new Reassembler();
    now = 1_000_000;
    expired = [];
    reassembler.onExpired = (_family, first) => expired.push(first);
  });

  /** The header tells the offset, so that it shows whose it is. */
  function add(piece: Piece): number {
    const { offset, data, hasMore, id = 1, source = 1, ecn = 0, protocol = 17, family = 4 } = piece;
    const bytes = new Uint8Array(3 + 32 + HEADER + data.length + 2).fill(0xee);
    bytes.fill(0, 0, 35);
    new DataView(bytes.buffer).setUint32(3, source);
    bytes.fill(offset / 8, 35, 35 + HEADER);
    bytes.set(data, 35 + HEADER);
    Object.assign(reassembler.fragment, {
      family,
      bytes,
      headerAt: 35,
      at: 35 + HEADER,
      end: 35 + HEADER + data.length,
      source: 3,
      destination: 19,
      id,
      protocol,
      offset,
      hasMore,
      ecn,
      senderHigh: 7,
      senderLow: 8,
    });
    return reassembler.add(now);
  }

  const data = bytesOf(100);
  const piece = (from: number, to: number, rest: Partial<Piece> = {}): Piece => ({
    offset: from,
    data: data.slice(from, to),
    hasMore: to < data.length,
    ...rest,
  });
  const whole = (): Uint8Array => reassembler.bytes.slice(reassembler.headerBytes, reassembler.end);

  it('make a packet with the first one’s header, in whatever order they come', () => {
    for (const order of [
      [0, 1, 2],
      [2, 1, 0],
      [1, 2, 0],
      [1, 0, 2],
    ]) {
      const pieces = [piece(0, 40), piece(40, 80), piece(80, 100)];
      const results = order.map((i) => add(pieces[i]!));
      assert.deepEqual(results, [INCOMPLETE, INCOMPLETE, COMPLETE]);
      assert.deepEqual(whole(), data);
      assert.deepEqual(reassembler.bytes.slice(0, HEADER), new Uint8Array(HEADER));
      assert.equal(reassembler.count, 0);
      assert.equal(reassembler.memory, 0);
    }
    assert.equal(reassembler.counters.reasmOks, 4);
    assert.equal(reassembler.counters.reasmReqds, 12);
  });

  it('belong together by addresses, identification and protocol (RFC 791 §3.2)', () => {
    add(piece(0, 40));
    assert.equal(add(piece(40, 100, { id: 2 })), INCOMPLETE);
    assert.equal(add(piece(40, 100, { source: 2 })), INCOMPLETE);
    assert.equal(add(piece(40, 100, { protocol: 6 })), INCOMPLETE);
    assert.equal(add(piece(40, 100, { family: 6 })), INCOMPLETE);
    assert.equal(reassembler.count, 5);
    assert.equal(add(piece(40, 100)), COMPLETE);
  });

  it('that are the same as others are ignored (RFC 8200 §4.5)', () => {
    add(piece(0, 40));
    assert.equal(add(piece(0, 40)), INCOMPLETE);
    assert.equal(add(piece(80, 100)), INCOMPLETE);
    assert.equal(add(piece(80, 100)), INCOMPLETE);
    assert.equal(add(piece(40, 80)), COMPLETE);
    assert.deepEqual(whole(), data);
  });

  const overlapping: [string, Piece, Piece][] = [
    ['begins in another', piece(0, 40), piece(32, 80)],
    ['ends in another', piece(40, 80), piece(0, 48)],
    ['covers another', piece(40, 48), piece(32, 80)],
    ['lies in another', piece(0, 80), piece(40, 48)],
    ['has the same place and other bytes', piece(0, 40), { ...piece(0, 40), data: bytesOf(40, 1) }],
    ['has the same place and is shorter', piece(0, 40), piece(0, 32)],
    ['goes beyond the end', piece(80, 100), { ...piece(96, 100), data: bytesOf(8), hasMore: true }],
    ['ends elsewhere', piece(80, 100), { ...piece(40, 48), hasMore: false }],
    ['is last before another', piece(48, 56), { ...piece(0, 8), hasMore: false }],
  ];
  for (const [title, first, second] of overlapping) {
    it(`that overlap end their packet: one ${title} (RFC 5722)`, () => {
      assert.equal(add(first), INCOMPLETE);
      assert.equal(add(second), DROPPED);
      // All of it that still comes goes as well.
      for (const rest of [piece(0, 40), piece(40, 80), piece(80, 100)]) assert.equal(add(rest), DROPPED);
      assert.equal(reassembler.counters.reasmOks, 0);
      now += LIFETIME_IPV4;
      reassembler.tick(now);
      assert.equal(reassembler.count, 0);
      assert.deepEqual(expired, [], 'no word about it');
      assert.equal(reassembler.memory, 0);
    });
  }

  it('longer than a packet can be are dropped', () => {
    assert.equal(add({ offset: 65_528, data: bytesOf(8), hasMore: false }), DROPPED);
    assert.equal(add({ offset: 65_528, data: bytesOf(7), hasMore: false }), INCOMPLETE);
    assert.equal(add({ offset: 0, data: new Uint8Array(0), hasMore: true }), DROPPED);
  });

  it('make a packet of 65,535 bytes of data', () => {
    const long = bytesOf(65_535);
    for (let at = 0; at < long.length; at += 1480) {
      const result = add({ offset: at, data: long.slice(at, at + 1480), hasMore: at + 1480 < long.length });
      assert.equal(result, at + 1480 < long.length ? INCOMPLETE : COMPLETE);
    }
    assert.deepEqual(whole(), long);
  });

  it('that are too many for a packet end it', () => {
    for (let i = 0; i < MAX_FRAGMENTS; i++)
      assert.equal(add({ offset: 16 * i, data: bytesOf(8), hasMore: true }), INCOMPLETE);
    assert.equal(add({ offset: 16 * MAX_FRAGMENTS, data: bytesOf(8), hasMore: true }), DROPPED);
  });

  it('expire together, with the first one to be quoted (RFC 1122 §3.3.2)', () => {
    add(piece(40, 80));
    add(piece(0, 40));
    add(piece(40, 80, { id: 2 }));
    assert.equal(reassembler.deadline, now + LIFETIME_IPV4);
    now += LIFETIME_IPV4 - 1;
    reassembler.tick(now);
    assert.equal(reassembler.count, 2);
    reassembler.tick(now + 1);
    assert.equal(reassembler.count, 0);
    assert.equal(expired.length, 2);
    const [first, second] = expired;
    assert.deepEqual(first!.bytes, Uint8Array.of(...new Uint8Array(HEADER), ...data.slice(0, 40)));
    assert.deepEqual([first!.family, first!.headerBytes, first!.senderHigh, first!.senderLow], [4, HEADER, 7, 8]);
    assert.equal(second, null, 'its first fragment never came');
    assert.equal(reassembler.counters.reasmTimeout, 2);
    assert.equal(reassembler.deadline, NEVER);
  });

  it('of IPv6 wait a minute (RFC 8200 §4.5)', () => {
    add(piece(40, 80, { family: 6 }));
    add(piece(40, 80));
    reassembler.tick(now + LIFETIME_IPV4);
    assert.equal(reassembler.count, 1);
    assert.equal(reassembler.deadline, now + LIFETIME_IPV6);
    reassembler.tick(now + LIFETIME_IPV6);
    assert.equal(reassembler.count, 0);
  });

  const ecns: [string, number[], number | null][] = [
    ['none of them', [0, 0, 0], 0],
    ['ECT(0) all', [2, 2, 2], 2],
    ['ECT(1) all', [1, 1, 1], 1],
    ['one experienced congestion', [2, 3, 2], 3],
    ['congestion of what cannot tell', [0, 3, 0], null],
  ];
  for (const [title, [a, b, c], expected] of ecns) {
    it(`keep what routers say of congestion: ${title} (RFC 3168 §5.3)`, () => {
      add(piece(0, 40, { ecn: a }));
      add(piece(40, 80, { ecn: b }));
      assert.equal(add(piece(80, 100, { ecn: c })), expected === null ? DROPPED : COMPLETE);
      if (expected !== null) assert.equal(reassembler.ecn, expected);
    });
  }

  it('of one source have a bound of their own; its oldest packet goes', () => {
    add(piece(0, 40, { source: 99 }));
    for (let id = 0; id < 10 * MAX_SOURCE_PACKETS; id++) add(piece(0, 40, { id }));
    assert.equal(reassembler.count, MAX_SOURCE_PACKETS + 1);
    assert.equal(add(piece(40, 100, { id: 0 })), INCOMPLETE, 'its beginning is gone');
    assert.equal(add(piece(40, 100, { source: 99 })), COMPLETE);
  });

  it('of one source have so many bytes at the most', () => {
    const long = bytesOf(8192);
    for (let id = 0; id < 60; id++) {
      for (let i = 0; i < 7; i++) add({ offset: i * 8192, data: long, hasMore: true, id });
      assert.ok(reassembler.memory <= MAX_SOURCE_BYTES);
    }
    assert.ok(reassembler.memory > MAX_SOURCE_BYTES / 2);
    assert.ok(reassembler.counters.reasmEvicted > 0);
  });

  it('have so many packets and bytes over all', () => {
    for (let source = 1; source <= 2 * MAX_PACKETS; source++) add(piece(0, 40, { source }));
    assert.equal(reassembler.count, MAX_PACKETS);
    const long = bytesOf(32_768);
    for (let source = 10_000; source < 10_300; source++) {
      add({ offset: 0, data: long, hasMore: true, source });
      assert.ok(reassembler.memory <= MAX_BYTES);
    }
    assert.ok(reassembler.memory > MAX_BYTES / 2);
    reassembler.tick(now + LIFETIME_IPV4);
    assert.equal(reassembler.memory, 0);
    assert.equal(reassembler.count, 0);
  });

  it('give back exactly what was cut, or nothing', () => {
    const cuts = fc.uniqueArray(fc.integer({ min: 1, max: 50 }), { maxLength: 12 });
    fc.assert(
      fc.property(cuts, fc.integer({ min: 1, max: 408 }), fc.infiniteStream(fc.nat()), (places, length, dice) => {
        reassembler = new Reassembler();
        const packet = bytesOf(length, length);
        const edges = [...new Set([0, ...places.map((place) => place * 8).filter((at) => at < length)])].sort(
          (x, y) => x - y,
        );
        const pieces = edges.map((from, i) => ({
          offset: from,
          data: packet.slice(from, edges[i + 1] ?? length),
          hasMore: i + 1 < edges.length,
        }));
        const next = (): number => dice.next().value as number;
        pieces.sort(() => (next() % 2 === 0 ? -1 : 1));
        let completed = 0;
        for (const one of pieces) if (add(one) === COMPLETE) completed++;
        assert.equal(completed, 1);
        assert.deepEqual(whole(), packet);
      }),
    );
  });

  it('may be anything, and memory returns to nothing', () => {
    const any = fc.record({
      offset: fc.nat(40).map((unit) => unit * 8),
      data: fc.uint8Array({ minLength: 1, maxLength: 64 }),
      hasMore: fc.boolean(),
      id: fc.nat(3),
      source: fc.nat(3),
      ecn: fc.nat(3),
    });
    fc.assert(
      fc.property(fc.array(any, { maxLength: 100 }), (pieces) => {
        reassembler = new Reassembler();
        for (const one of pieces) {
          add(one);
          assert.ok(reassembler.memory >= 0);
        }
        reassembler.tick(now + LIFETIME_IPV4);
        assert.equal(reassembler.count, 0);
        assert.equal(reassembler.memory, 0);
      }),
    );
  });
});
