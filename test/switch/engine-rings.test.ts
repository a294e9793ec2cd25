/** The engine between guests with real rings: every receiver finds each frame with a header of its own form. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { TUN_F_CSUM } from '../../linux/if-tun.ts';
import type { Arena } from '../../memory/arena.ts';
import { readCounters } from '../../switch/counters.ts';
import { Engine } from '../../switch/engine.ts';
import { GuestQueue } from '../../switch/guest-queue.ts';
import { Port } from '../../switch/port.ts';
import { SplitVirtqueue } from '../../vhost/split-virtqueue.ts';
import { VIRTIO_NET_HDR_F_NEEDS_CSUM } from '../../vhost/virtio.ts';
import { ARENAS } from '../helpers/arenas.ts';
import { BROADCAST, ethernet, netHeaderOf, type TestFrame } from '../helpers/fake-queue.ts';
import { cut, join } from '../helpers/frame-bytes.ts';
import { checksumsVerify, packet } from '../helpers/plain-packet.ts';
import {
  ANY_LAYOUT,
  EVENT_IDX,
  IN_ORDER,
  INDIRECT_DESC,
  MRG_RXBUF,
  SplitDriver,
  TestGuest,
  VERSION_1,
} from '../helpers/split-driver.ts';
import { TestMailbox } from '../helpers/test-mailbox.ts';

const MIB = 2 ** 20;
const NUM = 64;
const RX_AT = 0;
const TX_AT = 16 * 1024;
const RX_BUFFERS_AT = MIB;
const TX_BUFFERS_AT = 6 * MIB;
/** A frame takes many of them. */
const SMALL_BUFFER_BYTES = 300;
const TX_BUFFER_BYTES = 16 * 1024;

interface Received {
  /** The virtio-net header, as long as the guest negotiated it. */
  header: Uint8Array;
  frame: Uint8Array;
}

/** A guest with a pair of rings behind a port. */
class Guest {
  readonly port: Port;
  readonly headerBytes: number;
  readonly #memory = new TestGuest([{ guestAddress: 0, size: 8 * MIB, userAddress: 0x7000_0000_0000 }]);
  readonly #mail = new TestMailbox();
  readonly #rx: SplitDriver;
  readonly #tx: SplitDriver;
  readonly #bufferBytes: number;
  #given = 0;
  #sent = 0;

  constructor(arena: Arena, id: number, features: bigint, { bufferBytes = 16 * 1024, offloads = 0 } = {}) {
    this.headerBytes = (features & (MRG_RXBUF | VERSION_1)) === 0n ? 10 : 12;
    this.#bufferBytes = bufferBytes;
    this.#rx = new SplitDriver(this.#memory, { num: NUM, features, at: RX_AT });
    this.#tx = new SplitDriver(this.#memory, { num: NUM, features, at: TX_AT });
    const queue = new GuestQueue(this.#mail.mailbox);
    const memory = this.#memory.map(arena);
    queue.setRing(0, new SplitVirtqueue(memory, this.#rx.description()));
    queue.setRing(1, new SplitVirtqueue(memory, this.#tx.description()));
    this.port = new Port(id, `guest${id}`);
    this.port.offloads = offloads;
    this.port.queues.push(queue);
    this.give();
  }

  /** Fills the receive ring up with buffers. */
  give(count = Number.POSITIVE_INFINITY): void {
    for (let i = 0; i < count && this.#rx.freeDescriptors > 0; i++) {
      const address = RX_BUFFERS_AT + (this.#given++ % NUM) * this.#bufferBytes;
      this.#rx.add([{ address, length: this.#bufferBytes }], true);
    }
    this.#rx.announce();
  }

  /** Makes a frame available, its buffers cut as told. False: no descriptors left. */
  send(frame: TestFrame, cuts: number[] = []): boolean {
    this.#tx.reclaim();
    const pieces = cut(join([netHeaderOf(frame).subarray(0, this.headerBytes), frame.bytes]), cuts);
    if (this.#tx.freeDescriptors < pieces.length) return false;
    let address = TX_BUFFERS_AT + (this.#sent++ % NUM) * TX_BUFFER_BYTES;
    const buffers = pieces.map((piece) => {
      this.#memory.write(address, piece);
      const buffer = { address, length: piece.length };
      address += piece.length;
      return buffer;
    });
    this.#tx.add(buffers, false);
    this.#tx.announce();
    return true;
  }

  /** Frames that came since the last time, put together from as many buffers as their num_buffers says. */
  received(): Received[] {
    const used = this.#rx.reclaim();
    const found: Received[] = [];
    while (used.length > 0) {
      const first = this.#rx.contents(used[0]!);
      const buffers = this.headerBytes === 12 ? first[10]! | (first[11]! << 8) : 1;
      assert(buffers > 0 && buffers <= used.length, `num_buffers ${buffers} of ${used.length}`);
      const bytes = join(used.splice(0, buffers).map((chain) => this.#rx.contents(chain)));
      found.push({ header: bytes.slice(0, this.headerBytes), frame: bytes.slice(this.headerBytes) });
    }
    return found;
  }

  /** What {@link received} finds of a frame that it takes as it is. */
  expected(frame: TestFrame): Received {
    const header = netHeaderOf(frame);
    const total = frame.bytes.length + this.headerBytes;
    header[10] = Math.ceil(total / this.#bufferBytes);
    return { header: header.slice(0, this.headerBytes), frame: frame.bytes };
  }

  dispose(): void {
    this.#memory.dispose();
    this.#mail.dispose();
  }
}

/** deepEqual of many long frames, with a difference that can be read. */
function assertSame(got: Received[], expected: Received[], what: string): void {
  for (const [i, { header, frame }] of expected.entries()) {
    assert.deepEqual(got[i]?.header, header, `header of frame ${i} from ${what}`);
    assert.equal(got[i]?.frame.length, frame.length, `length of frame ${i} from ${what}`);
    assert.equal(Buffer.compare(got[i]!.frame, frame), 0, `bytes of frame ${i} from ${what}`);
  }
  assert.equal(got.length, expected.length, `frames from ${what}`);
}

for (const { name, arena } of ARENAS) {
  describe(`Engine between guests with rings, ${name}`, () => {
    const LEGACY = ANY_LAYOUT;
    const MODERN = ANY_LAYOUT | VERSION_1;
    /** Every form of header; small buffers, of which a frame takes many; all that a ring can do otherwise. */
    const [A, LONG, SHORT, MERGED, ORDERED] = [1, 2, 3, 4, 5] as const;
    let guests: Map<number, Guest>;
    let engine: Engine;
    const guest = (id: number): Guest => guests.get(id)!;

    beforeEach(() => {
      engine = new Engine(arena(), { seed: 7, agingSeconds: 300 });
      guests = new Map([
        [A, new Guest(arena(), A, MODERN | INDIRECT_DESC)],
        [LONG, new Guest(arena(), LONG, MODERN)],
        [SHORT, new Guest(arena(), SHORT, LEGACY)],
        [
          MERGED,
          new Guest(arena(), MERGED, LEGACY | MRG_RXBUF, { bufferBytes: SMALL_BUFFER_BYTES, offloads: TUN_F_CSUM }),
        ],
        [ORDERED, new Guest(arena(), ORDERED, MODERN | MRG_RXBUF | IN_ORDER | EVENT_IDX, { bufferBytes: 1500 })],
      ]);
      for (const { port } of guests.values()) engine.addPort(port);
    });
    afterEach(() => {
      for (const each of guests.values()) each.dispose();
    });
    const learnAll = (): void => {
      for (const [id, from] of guests) assert(from.send({ bytes: ethernet(BROADCAST, id) }));
      engine.breathe();
      for (const each of guests.values()) {
        each.received();
        each.give();
        each.port.counters.fill(0);
      }
    };

    it('gives every port a broadcast with its own length of header and num_buffers', () => {
      const frames = [60, 128, 129, 289, 301, 1514, 9000].map((length): TestFrame => {
        return { bytes: ethernet(BROADCAST, A, { length, seed: length }) };
      });
      for (const [i, frame] of frames.entries()) guest(A).send(frame, [[], [12], [5, 100], [12, 14, 1]][i % 4]);
      assert.equal(engine.breathe(), frames.length);
      assert.deepEqual(guest(A).received(), []);
      for (const id of [LONG, SHORT, MERGED, ORDERED]) {
        const { port } = guest(id);
        assert.deepEqual(
          guest(id).received(),
          frames.map((frame) => guest(id).expected(frame)),
          port.name,
        );
        const bytes = frames.reduce((sum, frame) => sum + frame.bytes.length, 0);
        assert.equal(readCounters(port.counters).tx_frames, frames.length);
        assert.equal(readCounters(port.counters).tx_bytes, bytes);
      }
      assert.equal(guest(MERGED).expected(frames.at(-1)!).header[10], 31);
    });

    it('gives who negotiated it the partial checksum of a broadcast, and everybody else a whole one', () => {
      const whole = packet({
        ipVersion: 4,
        isTcp: false,
        payload: new Uint8Array(700).map((_, i) => i),
        macs: { from: Uint8Array.of(2, 0, 0, 0, 0, A), to: BROADCAST },
      });
      const partial: TestFrame = {
        bytes: whole.bytes,
        flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
        csumStart: whole.transport,
        csumOffset: whole.csumOffset,
      };
      const plain: TestFrame = { bytes: ethernet(BROADCAST, A, { length: 500 }) };
      for (const frame of [plain, partial, plain, partial]) guest(A).send(frame, [12]);
      assert.equal(engine.breathe(), 4);
      for (const id of [LONG, SHORT, MERGED, ORDERED]) {
        const got = guest(id).received();
        assert.equal(got.length, 4);
        for (const i of [0, 2]) assert.deepEqual(got[i], guest(id).expected(plain));
        for (const i of [1, 3]) {
          if (id === MERGED) assert.deepEqual(got[i], guest(id).expected(partial));
          else {
            assert.equal(checksumsVerify(got[i]!.frame, whole, false), true);
            assert.deepEqual(got[i]!.header, guest(id).expected({ bytes: whole.bytes }).header);
          }
        }
      }
    });

    it('carries frames of random guests to random guests, in order and whole', () => {
      const station = fc.constantFrom(A, LONG, SHORT, MERGED, ORDERED);
      const frame = fc.record({
        from: station,
        to: fc.oneof({ weight: 5, arbitrary: station }, { weight: 1, arbitrary: fc.constant(99) }),
        /** As many in a row. */
        times: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 12 })),
        length: fc.oneof(fc.integer({ min: 60, max: 300 }), fc.integer({ min: 60, max: 2500 })),
        cuts: fc.oneof(fc.constant<number[]>([]), fc.array(fc.nat(300), { maxLength: 3 })),
        breathe: fc.boolean(),
      });
      learnAll();
      const property = fc.property(fc.array(frame, { maxLength: 40, size: 'max' }), (frames) => {
        /** By sender and receiver, which is what keeps its order. */
        const expected = new Map<string, Received[]>();
        const got = new Map<string, Received[]>();
        const note = (map: Map<string, Received[]>, from: number, to: number, what: Received): void => {
          const key = `${from} to ${to}`;
          map.set(key, [...(map.get(key) ?? []), what]);
        };
        const breathe = (): void => {
          while (engine.breathe() > 0);
          waiting = 0;
          for (const [id, each] of guests) {
            for (const one of each.received()) note(got, one.frame[11]!, id, one);
            each.give();
          }
        };
        let seed = 0;
        /** Small buffers that the frames not yet forwarded may take. */
        let waiting = 0;
        for (const { from, to, times, length, cuts, breathe: now } of frames) {
          for (let i = 0; i < times; i++) {
            const needed = Math.ceil((length + 12) / SMALL_BUFFER_BYTES);
            if (waiting + needed > NUM) breathe();
            waiting += needed;
            const frame: TestFrame = { bytes: ethernet(to === 99 ? BROADCAST : to, from, { length, seed: seed++ }) };
            if (!guest(from).send(frame, cuts)) break;
            for (const [id, receiver] of guests) {
              if (id !== from && (id === to || to === 99)) note(expected, from, id, receiver.expected(frame));
            }
          }
          if (now) breathe();
        }
        breathe();
        for (const [key, frames] of expected) assertSame(got.get(key) ?? [], frames, key);
        assert.deepEqual([...got.keys()].sort(), [...expected.keys()].sort());
      });
      fc.assert(property, { numRuns: 60 });
      for (const { port } of guests.values()) {
        const { tx_drop_too_big, tx_drop_ring_broken, rx_drop_malformed } = readCounters(port.counters);
        assert.deepEqual([tx_drop_too_big, tx_drop_ring_broken, rx_drop_malformed], [0, 0, 0]);
      }
    });

    it('holds frames in their ring until the receiver has buffers, from the middle of a run on', () => {
      learnAll();
      const sent: TestFrame[] = Array.from({ length: 20 }, (_, seed) => ({
        bytes: ethernet(MERGED, ORDERED, { length: 700 + seed, seed }),
      }));
      // 64 buffers of 300 bytes, three for a frame: 21 frames. Another sender takes 11 of those.
      for (let i = 0; i < 11; i++) guest(A).send({ bytes: ethernet(MERGED, A, { length: 700 }) });
      for (const frame of sent) guest(ORDERED).send(frame);
      assert.equal(engine.breathe(), 11 + 10);
      assert.equal(engine.holding, true);
      assert.equal(engine.breathe(), 0);
      const first = guest(MERGED).received();
      assert.equal(first.length, 21);
      guest(MERGED).give();
      assert.equal(engine.breathe(), 10);
      assert.equal(engine.holding, false);
      assert.deepEqual(
        [...first.slice(11), ...guest(MERGED).received()],
        sent.map((frame) => guest(MERGED).expected(frame)),
      );
      const { rx_frames } = readCounters(guest(ORDERED).port.counters);
      assert.equal(rx_frames, 20);
      assert.equal(readCounters(guest(MERGED).port.counters).tx_drop_no_buffers, 0);
    });
  });
}
