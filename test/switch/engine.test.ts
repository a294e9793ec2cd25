import assert from 'node:assert/strict';
import fc from 'fast-check';
import { TUN_F_CSUM, TUN_F_TSO4 } from '../../linux/if-tun.ts';
import { BATCH_FRAMES } from '../../memory/frame-batch.ts';
import {
  readCounters,
  TX_DROP_ERROR,
  TX_DROP_LINK_DOWN,
  TX_DROP_NO_BUFFERS,
  TX_DROP_RING_BROKEN,
  TX_DROP_TOO_BIG,
} from '../../switch/counters.ts';
import { Engine, HOLD_MS } from '../../switch/engine.ts';
import { Port, TRANSMITTED } from '../../switch/port.ts';
import {
  VIRTIO_NET_HDR_F_DATA_VALID,
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_TCPV4,
} from '../../vhost/virtio.ts';
import { wasmArena } from '../helpers/arenas.ts';
import { BROADCAST, ethernet, FakeQueue, station, type TestFrame } from '../helpers/fake-queue.ts';
import { checksumsVerify, packet } from '../helpers/plain-packet.ts';

const AGING_SECONDS = 10;
/** IPv4 multicast 224.0.0.1 (RFC 1112 §6.4). */
const MULTICAST = Uint8Array.of(0x01, 0x00, 0x5e, 0x00, 0x00, 0x01);
/** Numbers of stations; station n lives behind port n, where a test does not say otherwise. */
const [A, B, C, D] = [1, 2, 3, 4] as const;

describe('Engine', () => {
  let engine: Engine;
  let now: number;
  const ports = new Map<number, { port: Port; queue: FakeQueue }>();

  beforeEach(() => {
    now = 0;
    ports.clear();
    engine = new Engine(wasmArena(), { seed: 5, agingSeconds: AGING_SECONDS });
    for (const id of [A, B, C, D]) addPort(id);
  });

  function addPort(id: number, queues = [new FakeQueue(100 + id)]): Port {
    const port = new Port(id, `port${id}`);
    port.queues.push(...queues);
    ports.set(id, { port, queue: queues[0]! });
    engine.addPort(port);
    return port;
  }

  const queue = (id: number): FakeQueue => ports.get(id)!.queue;
  const port = (id: number): Port => ports.get(id)!.port;
  /** What a port was given, once: forgotten afterwards. */
  const taken = (id: number): Uint8Array[] =>
    queue(id)
      .sent.splice(0, Number.POSITIVE_INFINITY)
      .map((f) => f.bytes);
  /** Counters that are not 0. */
  const counted = (id: number): Record<string, number> =>
    Object.fromEntries(Object.entries(readCounters(port(id).counters)).filter(([, value]) => value !== 0));
  const clearCounters = (): void => {
    for (const { port } of ports.values()) port.counters.fill(0);
  };
  const put = (at: number, ...frames: (Uint8Array | TestFrame)[]): void => {
    queue(at).inbox.push(...frames.map((frame) => (frame instanceof Uint8Array ? { bytes: frame } : frame)));
  };
  const advance = (ms: number): void => {
    now += ms;
    engine.tick(now);
  };
  /** The engine sees each station behind its port; nothing of that is left but the table. */
  const learnAll = (...stations: number[]): void => {
    for (const id of stations) put(id, ethernet(BROADCAST, id));
    engine.breathe();
    for (const id of ports.keys()) taken(id);
    clearCounters();
    for (const { queue } of ports.values()) {
      queue.released.length = 0;
      queue.offered.length = 0;
      queue.flushes = 0;
    }
  };

  describe('learning and forwarding', () => {
    for (const [what, to] of [
      ['an unknown station', station(77)],
      ['broadcast', BROADCAST],
      ['multicast', MULTICAST],
    ] as const) {
      it(`floods a frame for ${what} to every port but its own`, () => {
        const frame = ethernet(to, A, { length: 333 });
        put(A, frame);
        assert.equal(engine.breathe(), 1);
        assert.deepEqual(taken(A), []);
        for (const id of [B, C, D]) assert.deepEqual(taken(id), [frame]);
        assert.deepEqual(counted(A), { rx_frames: 1, rx_bytes: 333 });
        for (const id of [B, C, D]) assert.deepEqual(counted(id), { tx_frames: 1, tx_bytes: 333 });
      });
    }

    it('gives a frame for a learned station to its port alone', () => {
      learnAll(A, B);
      const frame = ethernet(A, B, { length: 1514, seed: 9 });
      put(B, frame);
      assert.equal(engine.breathe(), 1);
      assert.deepEqual(taken(A), [frame]);
      assert.deepEqual(taken(C), []);
      assert.deepEqual(taken(D), []);
      assert.deepEqual(counted(B), { rx_frames: 1, rx_bytes: 1514 });
      assert.deepEqual(counted(A), { tx_frames: 1, tx_bytes: 1514 });
      assert.deepEqual(counted(C), {});
    });

    it('never learns a group address: frames for it stay flooded', () => {
      const frame = ethernet(B, A);
      frame.set(MULTICAST, 6);
      put(A, frame);
      engine.breathe();
      assert.deepEqual([...engine.table.entries(0)], []);
      put(A, ethernet(MULTICAST, A));
      engine.breathe();
      assert.equal(taken(C).length, 2);
    });

    it('gives no frame back out of its own port, and counts it', () => {
      learnAll(A);
      put(A, ethernet(7, A), ethernet(A, 7, { length: 99 }));
      assert.equal(engine.breathe(), 2);
      assert.deepEqual(taken(A), []);
      assert.equal(taken(B).length, 1, 'the one for 7, unknown until it sent');
      assert.deepEqual(counted(A), { rx_frames: 2, rx_bytes: 159, rx_drop_own_port: 1 });
    });

    it('follows a station that moves to another port', () => {
      learnAll(A, B);
      put(C, ethernet(BROADCAST, A));
      engine.breathe();
      for (const id of [A, B, D]) taken(id);
      put(B, ethernet(A, B));
      engine.breathe();
      assert.equal(taken(C).length, 1);
      assert.equal(taken(A).length, 0);
    });

    it('takes a batch of each queue a breath, the rest with the next ones', () => {
      learnAll(A, B);
      const frames = Array.from({ length: BATCH_FRAMES + 5 }, (_, i) => ethernet(B, A, { seed: i }));
      put(A, ...frames);
      assert.equal(engine.breathe(), BATCH_FRAMES);
      assert.equal(engine.breathe(), 5);
      assert.equal(engine.breathe(), 0);
      assert.deepEqual(taken(B), frames);
      assert.deepEqual(queue(A).released, [BATCH_FRAMES, 5]);
    });
  });

  describe('forgetting', () => {
    const isKnown = (id: number): boolean => {
      put(D, ethernet(id, D));
      engine.breathe();
      const elsewhere = [A, B, C].filter((other) => other !== id && ports.has(other));
      const flooded = elsewhere.map((other) => taken(other).length);
      if (ports.has(id)) taken(id);
      return flooded.every((n) => n === 0);
    };

    it('floods again when a station was silent for the ageing time', () => {
      learnAll(A);
      advance(AGING_SECONDS * 1000 - 1);
      assert.equal(isKnown(A), true);
      advance(1);
      assert.equal(isKnown(A), false);
    });

    it('counts the ageing time from the last frame', () => {
      learnAll(A);
      advance(AGING_SECONDS * 1000 - 1000);
      learnAll(A);
      advance(AGING_SECONDS * 1000 - 1000);
      assert.equal(isKnown(A), true);
    });

    it('sweeps aged addresses out of the table as time passes', () => {
      learnAll(A, B);
      assert.equal(engine.table.size, 2);
      for (let second = 0; second < AGING_SECONDS + 10; second++) advance(1000);
      assert.equal(engine.table.size, 0);
    });

    it('forgets the stations of a port that is removed, and gives it nothing more', () => {
      learnAll(A, B);
      const gone = queue(A);
      engine.removePort(A);
      ports.delete(A);
      assert.equal(isKnown(A), false);
      assert.equal(gone.sent.length, 0);
      assert.equal(isKnown(B), true);
      gone.inbox.push({ bytes: ethernet(B, A) });
      assert.equal(engine.breathe(), 0);
      assert.throws(() => engine.port(A), /the lane has no port 1/);
      assert.deepEqual(
        engine.ports.map(({ id }) => id),
        [B, C, D],
      );
    });

    it('forgets the stations of a port whose link goes down', () => {
      learnAll(A, B);
      engine.setLink(port(A), false);
      assert.equal(isKnown(A), false);
      assert.equal(isKnown(B), true);
    });
  });

  describe('counters', () => {
    it('link down: drops and counts what comes from the port, and learns nothing from it', () => {
      engine.setLink(port(A), false);
      put(A, ethernet(B, A, { length: 100 }), ethernet(BROADCAST, A, { length: 60 }));
      assert.equal(engine.breathe(), 2);
      for (const id of [B, C, D]) assert.deepEqual(taken(id), []);
      assert.deepEqual(counted(A), { rx_frames: 2, rx_bytes: 160, rx_drop_link_down: 2 });
      assert.equal(engine.table.size, 0);
    });

    it('link down: drops and counts what is for the port; up again, frames pass', () => {
      engine.setLink(port(A), false);
      put(B, ethernet(BROADCAST, B));
      engine.breathe();
      assert.deepEqual(counted(A), { tx_drop_link_down: 1 });
      assert.deepEqual(taken(A), []);
      assert.equal(taken(C).length, 1);
      engine.setLink(port(A), true);
      put(B, ethernet(BROADCAST, B));
      engine.breathe();
      assert.equal(taken(A).length, 1);
    });

    it('a port without a ready queue: the same as a link that is down', () => {
      learnAll(A);
      queue(A).ready = false;
      engine.refreshPorts();
      put(B, ethernet(A, B), ethernet(BROADCAST, B));
      assert.equal(engine.breathe(), 2);
      assert.deepEqual(counted(A), { tx_drop_link_down: 2 });
    });

    for (const [name, reason] of [
      ['tx_drop_too_big', TX_DROP_TOO_BIG],
      ['tx_drop_ring_broken', TX_DROP_RING_BROKEN],
      ['tx_drop_link_down', TX_DROP_LINK_DOWN],
      ['tx_drop_error', TX_DROP_ERROR],
    ] as const) {
      it(`${name}: counted at the receiver, unicast and flooded, and nobody waits`, () => {
        learnAll(A, B);
        queue(A).refuses = reason;
        put(B, ethernet(A, B), ethernet(BROADCAST, B));
        assert.equal(engine.breathe(), 2);
        assert.deepEqual(counted(A), { [name]: 2 });
        assert.deepEqual(counted(B), { rx_frames: 2, rx_bytes: 120 });
        assert.equal(taken(C).length, 1);
        assert.equal(engine.holding, false);
      });
    }

    it('tx_drop_no_buffers: a flooded frame never waits', () => {
      queue(A).buffers = 0;
      put(B, ethernet(BROADCAST, B), ethernet(MULTICAST, B), ethernet(99, B));
      assert.equal(engine.breathe(), 3);
      assert.deepEqual(counted(A), { tx_drop_no_buffers: 3 });
      assert.equal(taken(C).length, 3);
      assert.equal(engine.holding, false);
    });

    it('rx_drop_malformed: what the queue says, at the port that it came from', () => {
      queue(A).malformed = 3;
      assert.equal(engine.breathe(), 1, 'the queue may have something to publish');
      assert.deepEqual(counted(A), { rx_drop_malformed: 3 });
      assert.equal(queue(A).flushes, 1);
      assert.equal(engine.breathe(), 0);
      queue(A).malformed = 5;
      put(A, ethernet(B, A));
      engine.breathe();
      assert.deepEqual(counted(A), { rx_frames: 1, rx_bytes: 60, rx_drop_malformed: 5 });
    });

    it('rx_drop_malformed: counted once, however often ports come and go', () => {
      queue(A).malformed = 3;
      engine.refreshPorts();
      engine.breathe();
      addPort(9);
      engine.breathe();
      assert.deepEqual(counted(A), { rx_drop_malformed: 3 });
    });

    it('rx_drop_bad_offload: fields that lie drop the frame before anything is learned', () => {
      put(A, { bytes: ethernet(B, A), flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csumStart: 58, csumOffset: 1 });
      assert.equal(engine.breathe(), 1);
      assert.deepEqual(counted(A), { rx_frames: 1, rx_bytes: 60, rx_drop_bad_offload: 1 });
      assert.equal(engine.table.size, 0);
      assert.deepEqual(taken(B), []);
    });

    it('rx_drop_bad_offload: once for a flooded frame, however many ports cannot take it', () => {
      const lie: TestFrame = {
        bytes: ethernet(BROADCAST, A),
        flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
        gsoType: VIRTIO_NET_HDR_GSO_TCPV4,
        gsoSize: 10,
      };
      port(D).offloads = TUN_F_CSUM | TUN_F_TSO4;
      put(A, lie);
      engine.breathe();
      assert.deepEqual(counted(A), { rx_frames: 1, rx_bytes: 60, rx_drop_bad_offload: 1 });
      assert.deepEqual(counted(B), {});
      assert.equal(taken(D).length, 1, 'who negotiated the offloads may judge for itself');
    });
  });

  describe('offloads', () => {
    const whole = packet({ ipVersion: 4, isTcp: true, payload: new Uint8Array(2500).map((_, i) => i * 3) });
    const offered: TestFrame = {
      bytes: whole.bytes,
      flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
      gsoType: VIRTIO_NET_HDR_GSO_TCPV4,
      gsoSize: 1000,
      hdrLen: whole.payload,
      csumStart: whole.transport,
      csumOffset: whole.csumOffset,
    };

    it('pass untouched to a port that negotiated them, and are done for one that did not', () => {
      port(B).offloads = TUN_F_CSUM | TUN_F_TSO4;
      put(A, offered);
      assert.equal(engine.breathe(), 1);
      assert.deepEqual(queue(B).sent, [offered]);
      const segments = queue(C).sent;
      assert.deepEqual(
        segments.map(({ bytes }) => bytes.length - whole.payload),
        [1000, 1000, 500],
      );
      for (const { bytes, flags, gsoType } of segments) {
        assert.equal(checksumsVerify(bytes, whole, true), true);
        assert.deepEqual([flags, gsoType], [0, 0]);
      }
      assert.deepEqual(counted(B), { tx_frames: 1, tx_bytes: whole.bytes.length });
      assert.deepEqual(counted(C), { tx_frames: 3, tx_bytes: whole.bytes.length + 2 * whole.payload });
    });

    it('a word that checksums are right is passed on from a network card, to ports that negotiated it alone', () => {
      learnAll(B, C, D);
      for (const id of [B, D]) port(id).offloads = TUN_F_CSUM;
      port(A).verifies = true;
      const verified = (to: number): TestFrame => ({
        bytes: ethernet(station(to), A),
        flags: VIRTIO_NET_HDR_F_DATA_VALID,
      });
      const flood: TestFrame = { bytes: ethernet(BROADCAST, A), flags: VIRTIO_NET_HDR_F_DATA_VALID };
      // Two each, of which the second travels in the first one's run.
      put(A, verified(B), verified(B), verified(C), verified(C), flood, verified(B));
      assert.equal(engine.breathe(), 6);
      const flags = (id: number) => queue(id).sent.map((frame) => frame.flags);
      assert.deepEqual(flags(B), [
        VIRTIO_NET_HDR_F_DATA_VALID,
        VIRTIO_NET_HDR_F_DATA_VALID,
        0,
        VIRTIO_NET_HDR_F_DATA_VALID,
      ]);
      assert.deepEqual(flags(C), [0, 0, 0]);
      assert.deepEqual(flags(D), [0]);
      // A guest may say what it likes.
      put(B, verified(D));
      engine.breathe();
      assert.deepEqual(flags(D), [0, 0]);
    });

    it('hold the whole frame while there is no room for its first segment', () => {
      learnAll(B);
      queue(B).buffers = 0;
      put(A, offered);
      assert.equal(engine.breathe(), 0);
      queue(B).buffers = 3;
      assert.equal(engine.breathe(), 1);
      assert.equal(taken(B).length, 3);
    });

    it('lose the segments that find no room behind the first', () => {
      // The packet goes to 02:…:02.
      learnAll(B);
      queue(B).buffers = 2;
      put(A, offered);
      assert.equal(engine.breathe(), 1);
      assert.equal(taken(B).length, 2);
      assert.deepEqual(counted(B), { tx_frames: 2, tx_bytes: 2 * (whole.payload + 1000), tx_drop_no_buffers: 1 });
    });
  });

  describe('holding', () => {
    beforeEach(() => {
      learnAll(A, B, C);
      queue(B).buffers = 0;
    });

    it('keeps a frame in its ring while its receiver has no buffers, and the frames behind it', () => {
      const frames = [ethernet(C, A, { seed: 1 }), ethernet(B, A, { seed: 2 }), ethernet(C, A, { seed: 3 })];
      put(A, ...frames);
      assert.equal(engine.breathe(), 1);
      assert.equal(engine.holding, true);
      assert.deepEqual(queue(A).released, [1]);
      assert.deepEqual(taken(C), [frames[0]]);
      assert.deepEqual(counted(A), { rx_frames: 1, rx_bytes: 60 }, 'what waits is not received yet');
      advance(HOLD_MS - 1);
      assert.equal(engine.breathe(), 0);
      queue(B).buffers = 1;
      assert.equal(engine.breathe(), 2);
      assert.equal(engine.holding, false);
      assert.deepEqual(taken(B), [frames[1]]);
      assert.deepEqual(taken(C), [frames[2]]);
      assert.deepEqual(queue(A).released, [1, 0, 2]);
      assert.deepEqual(counted(A), { rx_frames: 3, rx_bytes: 180 });
      assert.deepEqual(counted(B), { tx_frames: 1, tx_bytes: 60 });
    });

    it('drops it after HOLD_MS, then every other one at once until the receiver takes a frame', () => {
      put(A, ethernet(B, A, { seed: 1 }));
      engine.breathe();
      advance(HOLD_MS);
      assert.equal(engine.breathe(), 1);
      assert.deepEqual(counted(B), { tx_drop_no_buffers: 1 });
      put(A, ethernet(B, A, { seed: 2 }));
      put(C, ethernet(B, C, { seed: 3 }));
      assert.equal(engine.breathe(), 2);
      assert.deepEqual(counted(B), { tx_drop_no_buffers: 3 });
      advance(10_000);
      put(A, ethernet(B, A, { seed: 4 }));
      assert.equal(engine.breathe(), 1);
      assert.deepEqual(counted(B), { tx_drop_no_buffers: 4 });
      learnAll(A, B, C); // addresses have aged meanwhile
      queue(B).buffers = 1;
      const taking = ethernet(B, A, { seed: 5 });
      put(A, taking, ethernet(B, A, { seed: 6 }));
      assert.equal(engine.breathe(), 1);
      assert.equal(engine.holding, true, 'it may wait again');
      assert.deepEqual(taken(B), [taking]);
    });

    it('a flooded frame that the receiver takes counts as well', () => {
      put(A, ethernet(B, A));
      engine.breathe();
      advance(HOLD_MS);
      assert.equal(engine.breathe(), 1);
      queue(B).buffers = 1;
      put(C, ethernet(BROADCAST, C));
      engine.breathe();
      put(A, ethernet(B, A));
      assert.equal(engine.breathe(), 0);
      assert.equal(engine.holding, true);
    });

    it('does not keep other senders waiting, nor floods', () => {
      put(A, ethernet(B, A));
      put(C, ethernet(A, C, { seed: 1 }), ethernet(BROADCAST, C, { seed: 2 }));
      put(D, ethernet(C, D, { seed: 3 }));
      assert.equal(engine.breathe(), 3);
      assert.equal(taken(A).length, 2);
      assert.equal(taken(C).length, 1);
      assert.equal(taken(D).length, 1);
      assert.deepEqual(counted(B), { tx_drop_no_buffers: 1 }, 'the broadcast');
    });

    it('keeps the order of frames, however buffers trickle in', () => {
      const frames = Array.from({ length: 100 }, (_, i) => ethernet(B, A, { seed: i, length: 60 + i }));
      put(A, ...frames);
      for (let i = 0; queue(B).sent.length < frames.length; i++) {
        assert(i < 1000, 'frames got lost');
        queue(B).buffers = i % 4;
        engine.breathe();
        advance(1);
      }
      assert.deepEqual(taken(B), frames);
      assert.deepEqual(queue(A).inbox, []);
      assert.equal(counted(B).tx_drop_no_buffers, undefined);
    });

    it('ends when others keep taking the buffers that a large frame needs', () => {
      // As a ring does that has room for small frames only.
      queue(B).buffers = Number.POSITIVE_INFINITY;
      queue(B).refuses = ({ length }) => (length > 1000 ? TX_DROP_NO_BUFFERS : TRANSMITTED);
      put(A, ethernet(B, A, { length: 9000 }), ethernet(C, A));
      for (let ms = 0; ms < HOLD_MS; ms++) {
        put(C, ethernet(B, C));
        assert.equal(engine.breathe(), 1, 'the small one');
        advance(1);
      }
      put(C, ethernet(B, C));
      assert.equal(engine.breathe(), 3);
      assert.equal(counted(B).tx_drop_no_buffers, 1);
      assert.equal(taken(C).length, 1);
    });

    it('starts anew for the frame behind a dropped one, for another receiver', () => {
      queue(C).buffers = 0;
      put(A, ethernet(B, A), ethernet(C, A));
      engine.breathe();
      advance(HOLD_MS);
      assert.equal(engine.breathe(), 1);
      assert.deepEqual(counted(B), { tx_drop_no_buffers: 1 });
      assert.deepEqual(counted(C), {});
      advance(HOLD_MS - 1);
      assert.equal(engine.breathe(), 0);
      advance(1);
      assert.equal(engine.breathe(), 1);
      assert.deepEqual(counted(C), { tx_drop_no_buffers: 1 });
    });

    it('ends when the link of the receiver or the sender goes down', () => {
      put(A, ethernet(B, A));
      engine.breathe();
      assert.equal(engine.holding, true);
      engine.setLink(port(A), false);
      assert.equal(engine.breathe(), 1);
      assert.deepEqual(counted(A), { rx_frames: 1, rx_bytes: 60, rx_drop_link_down: 1 });
      assert.equal(engine.holding, false);
      put(C, ethernet(B, C));
      assert.equal(engine.breathe(), 0);
      engine.setLink(port(B), false);
      assert.equal(engine.breathe(), 1, 'flooded, since its address is forgotten');
      assert.deepEqual(counted(B), { tx_drop_link_down: 1 });
    });
  });

  describe('runs of frames', () => {
    beforeEach(() => {
      learnAll(A, B, C);
      clearRuns();
    });
    /** Frames from A to these stations, each of its own length and content. */
    const putFrames = (...to: number[]): Uint8Array[] => {
      const frames = to.map((station, i) => ethernet(station, A, { seed: i, length: 60 + i }));
      put(A, ...frames);
      return frames;
    };
    const clearRuns = (): void => {
      for (const { queue } of ports.values()) queue.runs.length = 0;
    };

    it('go to a queue together, and to several in turn', () => {
      const frames = putFrames(B, B, B, C, C, B, C);
      assert.equal(engine.breathe(), 7);
      assert.deepEqual(
        [queue(B).runs, queue(C).runs],
        [
          [3, 1],
          [2, 1],
        ],
      );
      const to = (indices: number[]): Uint8Array[] => indices.map((i) => frames[i]!);
      assert.deepEqual(taken(B), to([0, 1, 2, 5]));
      assert.deepEqual(taken(C), to([3, 4, 6]));
      assert.deepEqual(queue(A).released, [7]);
      assert.deepEqual(counted(A), { rx_frames: 7, rx_bytes: 7 * 60 + 21 });
      assert.deepEqual(counted(B), { tx_frames: 4, tx_bytes: 4 * 60 + 8 });
      assert.deepEqual(counted(C), { tx_frames: 3, tx_bytes: 3 * 60 + 13 });
    });

    it('are of one queue though senders and destinations behind its port change', () => {
      put(B, ethernet(BROADCAST, 77));
      engine.breathe();
      for (const id of ports.keys()) taken(id);
      clearRuns();
      put(A, ethernet(B, A), ethernet(77, A), ethernet(B, 55), ethernet(B, 55), ethernet(77, A));
      assert.equal(engine.breathe(), 5);
      assert.deepEqual(queue(B).runs, [5]);
      put(D, ethernet(55, D));
      engine.breathe();
      assert.equal(taken(A).length, 1, 'a sender in the middle of a run is learned as well');
    });

    it('end at a frame that is flooded, and go on behind it', () => {
      const frames = putFrames(B, B, 99, B);
      put(A, ethernet(BROADCAST, A), ethernet(B, A));
      assert.equal(engine.breathe(), 6);
      assert.deepEqual(queue(B).runs, [2, 1, 1, 1, 1]);
      assert.deepEqual(taken(B), [...frames, ethernet(BROADCAST, A), ethernet(B, A)]);
      assert.deepEqual(taken(C), [frames[2], ethernet(BROADCAST, A)]);
    });

    it('end at a frame that must be cut for its receiver, and go on behind it: the order stays', () => {
      const whole = packet({
        ipVersion: 4,
        isTcp: true,
        payload: new Uint8Array(1500),
        macs: { from: station(A), to: station(B) },
      });
      const tso: TestFrame = {
        bytes: whole.bytes,
        flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
        gsoType: VIRTIO_NET_HDR_GSO_TCPV4,
        gsoSize: 1000,
        hdrLen: whole.payload,
        csumStart: whole.transport,
        csumOffset: whole.csumOffset,
      };
      const [first, last] = [ethernet(B, A, { seed: 1 }), ethernet(B, A, { seed: 2, length: 90 })];
      put(A, first, tso, last);
      assert.equal(engine.breathe(), 3);
      assert.deepEqual(
        queue(B).sent.map(({ bytes }) => bytes.length),
        [60, whole.payload + 1000, whole.payload + 500, 90],
      );
      queue(B).sent.length = 0;
      clearRuns();
      port(B).offloads = TUN_F_CSUM | TUN_F_TSO4;
      put(A, first, tso, last);
      assert.equal(engine.breathe(), 3);
      assert.deepEqual(queue(B).runs, [3], 'who takes it as it is gets all of them together');
      assert.deepEqual(queue(B).sent[1], tso);
    });

    it('lose the frame that the queue refuses, and no other', () => {
      queue(B).refuses = ({ length }) => (length === 62 || length === 64 ? TX_DROP_TOO_BIG : TRANSMITTED);
      const frames = putFrames(B, B, B, B, B, B);
      assert.equal(engine.breathe(), 6);
      assert.deepEqual(queue(B).runs, [6, 3, 1]);
      assert.deepEqual(taken(B), [frames[0], frames[1], frames[3], frames[5]]);
      assert.deepEqual(counted(B), { tx_frames: 4, tx_bytes: 4 * 60 + 9, tx_drop_too_big: 2 });
      queue(B).refuses = TX_DROP_RING_BROKEN;
      clearCounters();
      putFrames(B, B, B);
      assert.equal(engine.breathe(), 3);
      assert.deepEqual(counted(B), { tx_drop_ring_broken: 3 });
    });

    it('wait from the first frame without a buffer on, and go on there', () => {
      queue(B).buffers = 2;
      const frames = putFrames(B, B, B, B, C, B);
      assert.equal(engine.breathe(), 2);
      assert.equal(engine.holding, true);
      assert.deepEqual(queue(A).released, [2]);
      assert.deepEqual(taken(C), [], 'what stands behind waits');
      queue(B).buffers = 1;
      assert.equal(engine.breathe(), 1);
      queue(B).buffers = 0;
      assert.equal(engine.breathe(), 0);
      queue(B).buffers = 10;
      assert.equal(engine.breathe(), 3);
      assert.deepEqual(queue(A).released, [2, 1, 0, 3]);
      assert.deepEqual(taken(B), [frames[0], frames[1], frames[2], frames[3], frames[5]]);
      assert.deepEqual(taken(C), [frames[4]]);
      assert.deepEqual(counted(A), { rx_frames: 6, rx_bytes: 6 * 60 + 15 });
      assert.deepEqual(counted(B), { tx_frames: 5, tx_bytes: 5 * 60 + 11 });
    });

    it('are dropped one by one when the time is over, and those for others pass', () => {
      queue(B).buffers = 0;
      putFrames(B, B, B, C, B);
      assert.equal(engine.breathe(), 0);
      advance(HOLD_MS);
      assert.equal(engine.breathe(), 5);
      assert.deepEqual(counted(B), { tx_drop_no_buffers: 4 });
      assert.equal(taken(C).length, 1);
    });

    it('count every reason to drop once, however often frames before and behind are held and tried again', () => {
      queue(B).buffers = 0;
      queue(C).refuses = TX_DROP_TOO_BIG;
      const lie: TestFrame = {
        bytes: ethernet(C, A),
        flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
        csumStart: 58,
        csumOffset: 1,
      };
      const others = [ethernet(A, A), lie, ethernet(C, A), ethernet(C, A)];
      put(A, ...others, ethernet(B, A), ...others);
      const first = { rx_frames: 4, rx_bytes: 240, rx_drop_own_port: 1, rx_drop_bad_offload: 1 };
      assert.equal(engine.breathe(), 4);
      for (let ms = 0; ms < HOLD_MS - 1; ms++) {
        assert.deepEqual(counted(A), first);
        assert.deepEqual([counted(B), counted(C)], [{}, { tx_drop_too_big: 2 }]);
        advance(1);
        assert.equal(engine.breathe(), 0);
      }
      advance(1);
      assert.equal(engine.breathe(), 5);
      assert.deepEqual(counted(A), { rx_frames: 9, rx_bytes: 540, rx_drop_own_port: 2, rx_drop_bad_offload: 2 });
      assert.deepEqual(counted(B), { tx_drop_no_buffers: 1 });
      assert.deepEqual(counted(C), { tx_drop_too_big: 4 });
    });

    it('keep the order of every flow, lose nothing but what is flooded, and count all of it', () => {
      // Frames from A: for B, C, everybody, or nobody.
      const frames = fc.array(fc.constantFrom(B, B, B, C, C, 99, A), { minLength: 1, maxLength: 150, size: 'max' });
      const property = fc.property(frames, fc.nat(3), (to, phase) => {
        clearCounters();
        for (const id of ports.keys()) taken(id);
        const sent = to.map((station, i) => ethernet(station, A, { length: 60 + i, seed: i }));
        put(A, ...sent);
        for (let i = phase; queue(A).inbox.length > 0; i++) {
          assert(i < 2000, 'it does not end');
          // Now and then none, but never for HOLD_MS.
          queue(B).buffers = i % 4;
          queue(C).buffers = (i >> 1) % 3;
          engine.breathe();
          advance(1);
        }
        for (const id of [B, C]) {
          const got = taken(id).filter((bytes) => bytes[11] === A);
          const meant = sent.filter((_, i) => to[i] === id || to[i] === 99);
          let next = 0;
          for (const bytes of got) {
            while (next < meant.length && Buffer.compare(meant[next]!, bytes) !== 0) {
              assert.equal(meant[next]![5], 99, 'only flooded frames may be lost');
              next++;
            }
            assert(next < meant.length, 'a frame came twice, or late');
            next++;
          }
          const lost = meant.length - got.length;
          assert.equal(counted(id).tx_drop_no_buffers ?? 0, lost);
        }
        assert.equal(counted(A).rx_frames, to.length);
        assert.equal(counted(A).rx_drop_own_port ?? 0, to.filter((station) => station === A).length);
        assert.deepEqual(
          taken(D).filter((bytes) => bytes[11] === A),
          sent.filter((_, i) => to[i] === 99),
        );
      });
      fc.assert(property, {
        numRuns: 100,
        beforeEach: () => {
          queue(B).buffers = queue(C).buffers = Number.POSITIVE_INFINITY;
          learnAll(A, B, C);
        },
      } as fc.Parameters<[number[], number]>);
    });

    it('tell stations apart by every bit of their addresses', () => {
      const mac = Uint8Array.of(0x82, 0x80, 0xff, 0x01, 0x7f, 0x80);
      const learn = ethernet(BROADCAST, B);
      learn.set(mac, 6);
      put(B, learn);
      engine.breathe();
      for (const id of ports.keys()) taken(id);
      for (let bit = 0; bit < 48; bit++) {
        const other = Uint8Array.from(mac);
        other[bit >> 3] = other[bit >> 3]! ^ (1 << (bit & 7));
        put(A, ethernet(mac, A), ethernet(other, A));
        engine.breathe();
        assert.deepEqual([taken(B).length, taken(C).length, taken(D).length], [2, 1, 1], `bit ${bit}`);
      }
      const known = [...engine.table.entries(0)].find((entry) => entry.port === B && entry.mac.startsWith('82'));
      assert.equal(known?.mac, '82:80:ff:01:7f:80');
    });
  });

  describe('several queues', () => {
    const flow = (n: number): Uint8Array =>
      packet({
        ipVersion: 4,
        isTcp: false,
        payload: new Uint8Array(20),
        macs: { from: station(A), to: station(B) },
        ports: { from: 1000 + n, to: 53 },
      }).bytes;
    let queues: FakeQueue[];
    let others: FakeQueue[];

    beforeEach(() => {
      engine.removePort(B);
      queues = [new FakeQueue(), new FakeQueue(), new FakeQueue(), new FakeQueue()];
      addPort(B, queues);
      learnAll(A, B);
      others = queues.slice(1);
      for (const { sent } of queues) sent.length = 0;
    });

    /** Which queue takes each of 40 flows. */
    const spread = (): number[] =>
      Array.from({ length: 40 }, (_, n) => {
        put(A, flow(n));
        engine.breathe();
        const takers = queues.flatMap(({ sent }, i) => (sent.length > 0 ? [i] : []));
        assert.equal(takers.length, 1, 'one queue takes a frame');
        queues[takers[0]!]!.sent.length = 0;
        return takers[0]!;
      });

    it('the same flow always goes to the same queue, and flows go to all of them', () => {
      const first = spread();
      assert.deepEqual(new Set(first), new Set([0, 1, 2, 3]));
      assert.deepEqual(spread(), first);
    });

    it('frames of many flows in one batch each go to the queue of their flow, in order', () => {
      const goesTo = spread();
      const sent = Array.from({ length: 120 }, (_, i) => {
        const frame = flow((i * 7) % 40);
        frame[frame.length - 1] = i;
        return frame;
      });
      put(A, ...sent);
      assert.equal(engine.breathe(), BATCH_FRAMES);
      queues[goesTo[(BATCH_FRAMES * 7) % 40]!]!.buffers = 0;
      assert.equal(engine.breathe(), 0, 'the next frame waits, and those behind it');
      queues[goesTo[(BATCH_FRAMES * 7) % 40]!]!.buffers = Number.POSITIVE_INFINITY;
      while (engine.breathe() > 0);
      for (const [i, { sent: got }] of queues.entries()) {
        const mine = sent.filter((_, n) => goesTo[(n * 7) % 40] === i);
        assert.deepEqual(
          got.map(({ bytes }) => bytes),
          mine,
        );
      }
      assert.equal(counted(B).tx_drop_no_buffers, undefined);
    });

    it('frames of one flow in one batch go together', () => {
      const [taker] = spread();
      for (const { runs } of queues) runs.length = 0;
      put(A, ...Array.from({ length: 10 }, () => flow(0)));
      assert.equal(engine.breathe(), 10);
      assert.deepEqual(queues[taker!]!.runs, [10]);
    });

    it('a queue that is detached, or gone, gets nothing', () => {
      queues[1]!.ready = false;
      port(B).queues[2] = undefined;
      engine.refreshPorts();
      const without = spread();
      assert.deepEqual(new Set(without), new Set([0, 3]));
      assert.deepEqual(spread(), without);
      queues[0]!.ready = false;
      engine.refreshPorts();
      assert.deepEqual(new Set(spread()), new Set([3]));
    });

    it('frames come from all of them', () => {
      for (const [i, each] of queues.entries()) each.inbox.push({ bytes: ethernet(A, B, { seed: i }) });
      assert.equal(engine.breathe(), 4);
      assert.equal(taken(A).length, 4);
      assert.deepEqual(counted(B), { rx_frames: 4, rx_bytes: 240 });
    });

    it('one without buffers holds a sender up once, though the others go on taking frames', () => {
      const goesTo = spread();
      const dead = goesTo.indexOf(0);
      const live = goesTo.findIndex((taker) => taker !== 0);
      clearCounters();
      queues[0]!.buffers = 0;
      learnAll(C);
      for (const { sent } of queues) sent.length = 0;
      const toLive = flow(live);
      toLive.set(station(C), 6);
      put(A, flow(dead));
      for (let ms = 0; ms < HOLD_MS; ms++) {
        put(C, toLive);
        assert.equal(engine.breathe(), 1);
        advance(1);
      }
      assert.equal(engine.breathe(), 1, 'the hold is over');
      assert.equal(
        others.reduce((sum, { sent }) => sum + sent.length, 0),
        HOLD_MS,
      );
      put(C, toLive);
      engine.breathe();
      put(A, flow(dead));
      assert.equal(engine.breathe(), 1, 'dropped at once: that queue has still taken nothing');
      assert.equal(counted(B).tx_drop_no_buffers, 2);
    });
  });

  describe('a breath and sleep', () => {
    it('flushes every queue once, and only after something moved', () => {
      assert.equal(engine.breathe(), 0);
      put(A, ...Array.from({ length: 20 }, () => ethernet(BROADCAST, A)));
      put(B, ethernet(A, B));
      engine.breathe();
      for (const { queue } of ports.values()) assert.deepEqual([queue.flushes, queue.notified], [1, 1]);
      engine.breathe();
      for (const { queue } of ports.values()) assert.equal(queue.flushes, 1);
    });

    it('asks every queue for frames, the sender of a waiting one for none, and its receiver for buffers', () => {
      learnAll(A, B, C);
      assert.equal(engine.enableNotification(), false);
      for (const { queue } of ports.values()) assert.deepEqual(queue.enabled.pop(), { held: false, stalled: false });
      queue(B).buffers = 0;
      put(A, ethernet(B, A));
      engine.breathe();
      engine.enableNotification();
      assert.deepEqual(queue(A).enabled.pop(), { held: true, stalled: false });
      assert.deepEqual(queue(B).enabled.pop(), { held: false, stalled: true });
      assert.deepEqual(queue(C).enabled.pop(), { held: false, stalled: false });
    });

    it('asks for no buffers when no frame waits for them: a few left over must not keep the lane awake', () => {
      learnAll(A, B);
      queue(B).buffers = 0;
      put(A, ethernet(B, A));
      engine.breathe();
      advance(HOLD_MS);
      assert.equal(engine.breathe(), 1, 'dropped');
      assert.equal(engine.breathe(), 0);
      engine.enableNotification();
      for (const { queue } of ports.values()) assert.deepEqual(queue.enabled.pop(), { held: false, stalled: false });
    });

    it('asks all of them, though the first has something already', () => {
      queue(A).more = true;
      assert.equal(engine.enableNotification(), true);
      for (const { queue } of ports.values()) assert.equal(queue.enabled.length, 1);
      engine.disableNotification();
      for (const { queue } of ports.values()) assert.equal(queue.disabled, 1);
    });

    it('collects the descriptors of all queues', () => {
      const fds: number[] = [];
      engine.addPollFds({ addEventfd: (fd) => fds.push(fd), addReadable: () => assert.fail('no tap here') });
      assert.deepEqual(fds, [101, 102, 103, 104]);
    });

    it('reads the time that it is told, in whole seconds', () => {
      engine.tick(2999);
      assert.equal(engine.nowSeconds, 2);
      engine.tick(3000);
      assert.equal(engine.nowSeconds, 3);
    });
  });
});
