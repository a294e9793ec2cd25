import assert from 'node:assert/strict';
import fc from 'fast-check';
import type { Arena } from '../../memory/arena.ts';
import { BATCH_FRAMES, MAX_FRAME_BYTES, MIN_FRAME_BYTES } from '../../memory/frame-batch.ts';
import { TX_DROP_NO_BUFFERS } from '../../switch/counters.ts';
import { type LaneLink, linkMemoryBytes, linkRingOffset, TO_ALL } from '../../switch/lane-link.ts';
import { TRANSMITTED } from '../../switch/port.ts';
import { ARENAS, emptyBatch } from '../helpers/arenas.ts';
import { appendTestFrame, appendTestFrames, type TestFrame, testFrameOf } from '../helpers/fake-queue.ts';
import { appendFrame, cut, frameBytes, join } from '../helpers/frame-bytes.ts';
import { TestLinks } from '../helpers/lane-links.ts';

const PLAIN = { flags: 0, gsoType: 0, hdrLen: 0, gsoSize: 0, csumStart: 0, csumOffset: 0 };
/** Every kind of length: the shortest, around the copied first bytes, Ethernet's, the longest. */
const LENGTHS = [MIN_FRAME_BYTES, 15, 16, 28, 60, 127, 128, 129, 1514, 9014, 0xffff, MAX_FRAME_BYTES];

/** A frame on its way over a link. */
interface Sent extends TestFrame {
  to: number;
  from: number;
}

const frame = (length: number, seed: number, ids = { to: seed & 0xffff, from: (seed * 7) & 0xffff }): Sent => ({
  bytes: frameBytes(length, seed),
  ...ids,
});
const MAC = { high: 0xfe12, low: 0x89ab_cdef | 0 };

for (const { name, arena: open } of ARENAS) {
  describe(`LaneLink, ${name}`, () => {
    let arena: Arena;
    let links: TestLinks;
    let here: LaneLink;
    let there: LaneLink;
    let heard: number[][];

    beforeEach(() => {
      arena = open();
      links = new TestLinks(arena, 2);
      here = links.link(0, 1);
      there = links.link(1, 0);
      heard = [];
      there.onAnnouncement = (...announcement) => heard.push(announcement);
    });
    afterEach(() => links.dispose());

    /** Gives how many it took. */
    function transmit(frames: Sent[], link = here): number {
      const batch = emptyBatch(arena, 0);
      appendTestFrames(batch, frames);
      for (const [i, { to, from }] of frames.entries()) {
        link.to[i] = to;
        link.from[i] = from;
      }
      return link.transmit(batch, 0, frames.length);
    }

    function receive(link = there): Sent[] {
      const batch = emptyBatch(arena, 1);
      const count = link.receive(batch);
      assert.equal(batch.count, count);
      return Array.from({ length: count }, (_, i) => ({
        ...testFrameOf(batch, i),
        to: link.to[i]!,
        from: link.from[i]!,
      }));
    }

    function assertSame(got: Sent[], expected: Sent[]): void {
      assert.equal(got.length, expected.length);
      for (const [i, { bytes, ...fields }] of expected.entries()) {
        const { bytes: gotBytes, ...gotFields } = got[i]!;
        assert.deepEqual(gotFields, { ...PLAIN, ...fields }, `fields of frame ${i}`);
        assert.equal(Buffer.compare(gotBytes, bytes), 0, `bytes of frame ${i}, ${bytes.length} long`);
      }
    }

    it('carries frames of all lengths, in order, with where they go and come from', () => {
      for (const [i, length] of LENGTHS.entries()) {
        const frames = [
          frame(length, 3 * i, { to: 0xffff, from: 1 }),
          frame(60, 3 * i + 1, { to: 0x0100, from: 0xfffe }),
        ];
        assert.equal(transmit(frames), 2);
        assert.equal(here.refusal, TRANSMITTED);
        here.flush();
        assertSame(receive(), frames);
        there.release(2);
      }
      assert.deepEqual(receive(), []);
    });

    it('carries both directions at a time', () => {
      transmit([frame(100, 1)], here);
      transmit([frame(200, 2)], there);
      here.flush();
      there.flush();
      assertSame(receive(there), [frame(100, 1)]);
      assertSame(receive(here), [frame(200, 2)]);
    });

    it('carries offloads as they are, and none where there are none', () => {
      const offloads = { flags: 1, gsoType: 0x84, hdrLen: 66, gsoSize: 1448, csumStart: 0x1234, csumOffset: 0xfedc };
      const frames = [
        { ...frame(5000, 1), ...offloads },
        frame(60, 2),
        { ...frame(60, 3), flags: 1, csumStart: 34, csumOffset: 16 },
      ];
      transmit(frames);
      here.flush();
      assertSame(receive(), frames);
    });

    it('carries frames of several buffers, and any part of a batch', () => {
      const frames = [frame(60, 1), frame(9000, 2), frame(700, 3), frame(60, 4)];
      const batch = emptyBatch(arena, 0);
      appendTestFrame(batch, frames[0]!);
      const whole = join([new Uint8Array(12), frames[1]!.bytes]);
      appendFrame(batch, cut(whole, [5, 100, 1, 4096]), 12);
      appendFrame(batch, cut(join([new Uint8Array(12), frames[2]!.bytes]), [200]), 12);
      appendTestFrame(batch, frames[3]!);
      for (const [i, { to, from }] of frames.entries()) {
        here.to[i] = to;
        here.from[i] = from;
      }
      assert.equal(here.transmit(batch, 1, 3), 2);
      assert.equal(here.transmit(batch, 3, 4), 1);
      here.flush();
      assertSame(receive(), frames.slice(1));
    });

    it('shows nothing before flush', () => {
      transmit([frame(60, 1)]);
      assert.deepEqual(receive(), []);
      here.announce(MAC.high, MAC.low, 5);
      receive();
      assert.deepEqual(heard, []);
      here.flush();
      assertSame(receive(), [frame(60, 1)]);
    });

    it('gives at most a batch, and the rest with the next one', () => {
      const frames = Array.from({ length: BATCH_FRAMES + 3 }, (_, i) => frame(60 + i, i));
      transmit(frames.slice(0, BATCH_FRAMES));
      transmit(frames.slice(BATCH_FRAMES));
      here.flush();
      assertSame(receive(), frames.slice(0, BATCH_FRAMES));
      there.release(BATCH_FRAMES);
      assertSame(receive(), frames.slice(BATCH_FRAMES));
    });

    it('gives again what was not released', () => {
      const frames = Array.from({ length: 10 }, (_, i) => frame(1000 * (i + 1), i));
      transmit(frames);
      here.flush();
      assertSame(receive(), frames);
      there.release(0);
      assertSame(receive(), frames);
      there.release(4);
      transmit([frame(77, 99)]);
      here.flush();
      assertSame(receive(), [...frames.slice(4), frame(77, 99)]);
      there.release(7);
      assert.deepEqual(receive(), []);
    });

    it('refuses what a full ring has no room for, and loses nothing', () => {
      const sent: Sent[] = [];
      for (let i = 0; ; i++) {
        const pair = [frame(MAX_FRAME_BYTES, 2 * i), frame(MAX_FRAME_BYTES, 2 * i + 1)];
        const taken = transmit(pair);
        sent.push(...pair.slice(0, taken));
        here.flush();
        if (taken < 2) break;
        assert.equal(here.refusal, TRANSMITTED);
        assert(i < 100, 'the ring has no end');
      }
      assert.equal(here.refusal, TX_DROP_NO_BUFFERS);
      assert(sent.length >= 8, `room for ${sent.length} of the longest frames`);
      assertSame(receive(), sent);
      assert.equal(transmit([frame(MAX_FRAME_BYTES, 1)]), 0, 'received, and not released');
      there.release(2);
      const late = frame(MAX_FRAME_BYTES, 1000);
      assert.equal(transmit([late]), 1);
      assert.equal(here.refusal, TRANSMITTED);
      here.flush();
      assertSame(receive(), [...sent.slice(2), late]);
    });

    describe('announcements', () => {
      it('come in order, all that stand in front at once, and the frames behind them with the same receive', () => {
        const addresses = [
          [0x0200, 5, 1],
          [MAC.high, MAC.low, 0xfffe],
          [0, -1, 0x0102],
        ];
        for (const [high, low, port] of addresses) here.announce(high!, low!, port!);
        transmit([frame(60, 1)]);
        here.flush();
        assertSame(receive(), [frame(60, 1)]);
        assert.deepEqual(heard, addresses);
        there.release(0);
        assertSame(receive(), [frame(60, 1)]);
        assert.equal(heard.length, 3, 'once each');
      });

      it('between frames wait until those before them are released', () => {
        transmit([frame(60, 1), frame(61, 2)]);
        here.announce(MAC.high, MAC.low, 9);
        transmit([frame(62, 3)]);
        here.flush();
        assertSame(receive(), [frame(60, 1), frame(61, 2)]);
        there.release(1);
        assertSame(receive(), [frame(61, 2)]);
        assert.deepEqual(heard, []);
        there.release(1);
        assertSame(receive(), [frame(62, 3)]);
        assert.deepEqual(heard, [[MAC.high, MAC.low, 9]]);
        there.release(1);
        assert.deepEqual(receive(), []);
      });

      it('alone are no frames', () => {
        here.announce(MAC.high, MAC.low, 9);
        here.flush();
        assert.deepEqual(receive(), []);
        assert.equal(heard.length, 1);
        assert.deepEqual(receive(), []);
        assert.equal(heard.length, 1);
      });

      it('are lost where the ring is full, and nothing else is', () => {
        let announced = 0;
        let frames = 0;
        while (transmit([frame(9000, frames)]) === 1) frames++;
        for (; announced < 1000; announced++) here.announce(0x0200, announced, 3);
        here.flush();
        for (let seen = 0; seen < frames; ) {
          const got = receive();
          assertSame(
            got,
            got.map((_, i) => frame(9000, seen + i)),
          );
          seen += got.length;
          assert(got.length > 0, `${seen} of ${frames}`);
          there.release(got.length);
        }
        receive();
        assert(heard.length < 1000, 'the ring was not full');
        assert.deepEqual(
          heard,
          heard.map((_, i) => [0x0200, i, 3]),
        );
        assertSame(receive(), []);
        transmit([frame(60, 5)]);
        here.flush();
        assertSame(receive(), [frame(60, 5)]);
      });

      it('have room: a ring takes those of a table of the usual size', () => {
        for (let i = 0; i < 16_384; i++) here.announce(0x0200, i, 3);
        here.flush();
        receive();
        assert.equal(heard.length, 16_384);
      });
    });

    describe('wakes the other lane', () => {
      it('only while it sleeps, once, and only for something', () => {
        transmit([frame(60, 1)]);
        here.flush();
        assert.equal(links.woken(1), false, 'it is awake');
        assert.equal(there.enableNotification(false), true, 'a frame waits: look again');
        there.disableNotification();
        transmit([frame(60, 2)]);
        here.flush();
        assert.equal(links.woken(1), false, 'it is awake again');
        receive();
        there.release(2);
        assert.equal(there.enableNotification(false), false);
        here.flush();
        assert.equal(links.woken(1), false, 'nothing was sent');
        transmit([frame(60, 3)]);
        assert.equal(links.woken(1), false, 'not before flush');
        here.flush();
        assert.equal(links.woken(1), true);
        transmit([frame(60, 4)]);
        here.flush();
        assert.equal(links.woken(1), false, 'once');
        assert.equal(links.woken(0), false, 'never its own lane');
      });

      it('for an announcement too', () => {
        assert.equal(there.enableNotification(false), false);
        here.announce(MAC.high, MAC.low, 1);
        here.flush();
        assert.equal(links.woken(1), true);
      });

      it('not while a frame is held there: that lane looks again by itself', () => {
        transmit([frame(60, 1)]);
        here.flush();
        receive();
        there.release(0);
        assert.equal(there.enableNotification(true), false);
        transmit([frame(60, 2)]);
        here.flush();
        assert.equal(links.woken(1), false);
      });

      it('by its own eventfd: a link has none to poll', () => {
        const fds: number[] = [];
        here.addPollFds({ addEventfd: (fd) => fds.push(fd), addReadable: (fd) => fds.push(fd) });
        assert.deepEqual(fds, []);
      });
    });

    it('behaves as a queue of frames and announcements', () => {
      const length = fc.oneof(fc.integer({ min: MIN_FRAME_BYTES, max: 200 }), fc.constantFrom(...LENGTHS));
      const operation = fc.oneof(
        { weight: 4, arbitrary: fc.array(length, { minLength: 1, maxLength: 8 }).map((lengths) => ({ lengths })) },
        { weight: 2, arbitrary: fc.nat(8).map((announce) => ({ announce })) },
        { weight: 4, arbitrary: fc.nat(BATCH_FRAMES).map((release) => ({ release })) },
      );
      fc.assert(
        fc.property(fc.array(operation, { maxLength: 60, size: 'max' }), (operations) => {
          links.dispose();
          links = new TestLinks(arena, 2);
          here = links.link(0, 1);
          there = links.link(1, 0);
          const told: number[][] = [];
          there.onAnnouncement = (...announcement) => told.push(announcement);
          /** What is in the ring: frames, and announcements as arrays. */
          const queue: (Sent | number[])[] = [];
          const toldExpected: number[][] = [];
          let seed = 0;
          const take = (release: number): void => {
            while (Array.isArray(queue[0])) toldExpected.push(queue.shift() as number[]);
            const border = queue.findIndex((item) => Array.isArray(item));
            const expected = queue.slice(0, Math.min(border < 0 ? queue.length : border, BATCH_FRAMES)) as Sent[];
            assertSame(receive(), expected);
            assert.deepEqual(told, toldExpected);
            const released = Math.min(release, expected.length);
            if (expected.length > 0) there.release(released);
            queue.splice(0, released);
          };
          for (const operation of operations) {
            if ('lengths' in operation) {
              const frames = operation.lengths.map((length) => frame(length, seed++));
              const taken = transmit(frames);
              if (queue.length === 0) assert.equal(taken, frames.length, 'an empty ring takes eight frames');
              assert.equal(here.refusal, taken === frames.length ? TRANSMITTED : TX_DROP_NO_BUFFERS);
              here.flush();
              queue.push(...frames.slice(0, taken));
            } else if ('announce' in operation) {
              // Only where there is room: whether an announcement was lost, nobody is told.
              if (queue.length > 5) continue;
              for (let i = 0; i < operation.announce; i++) {
                const announcement = [0x0200, seed++, i + 1];
                here.announce(announcement[0]!, announcement[1]!, announcement[2]!);
                queue.push(announcement);
              }
              here.flush();
            } else take(operation.release);
          }
          while (queue.length > 0) take(BATCH_FRAMES);
          take(0);
        }),
        { numRuns: 60 },
      );
    });
  });
}

describe('the memory of links', () => {
  it('has a ring of its own for each ordered pair of lanes', () => {
    for (const lanes of [2, 3, 16]) {
      const offsets: number[] = [];
      for (let from = 0; from < lanes; from++) {
        for (let to = 0; to < lanes; to++) offsets.push(linkRingOffset(lanes, from, to));
      }
      const ring = linkMemoryBytes(lanes) / lanes ** 2;
      assert.equal(ring % 4096, 0);
      assert.deepEqual(
        offsets.sort((a, b) => a - b),
        offsets.map((_, i) => i * ring),
      );
    }
  });

  it('has no port with the id that stands for all', () => {
    assert.equal(TO_ALL, 0);
  });
});
