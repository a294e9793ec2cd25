/** Several lanes, joined by their links, in one thread: what one lane would do, all of them do together. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { TUN_F_CSUM, TUN_F_TSO4 } from '../../linux/if-tun.ts';
import { Arena } from '../../memory/arena.ts';
import { BATCH_FRAMES } from '../../memory/frame-batch.ts';
import { newCounters, type PortCounters, readCounters } from '../../switch/counters.ts';
import { Engine, HOLD_MS } from '../../switch/engine.ts';
import type { LaneLink } from '../../switch/lane-link.ts';
import { Port } from '../../switch/port.ts';
import { VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4 } from '../../vhost/virtio.ts';
import { ARENAS } from '../helpers/arenas.ts';
import { BROADCAST, ethernet, FakeQueue, station, type TestFrame } from '../helpers/fake-queue.ts';
import { TestLinks } from '../helpers/lane-links.ts';
import { checksumsVerify, packet } from '../helpers/plain-packet.ts';

/** Not divisible by four: an announcement is not due at a whole second. */
const AGING_SECONDS = 10;
const SEED = 5;
/** How much longer than one lane another may know an address that it was told of: till the next announcement. */
const ANNOUNCED_SECONDS = 3;
/** A frame crosses one link at most, so lanes that are not at rest after as many rounds never will be. */
const ROUNDS = 100_000;
const MAX_FRAME = 65_550;

const nonZero = (counters: PortCounters): Record<string, number> =>
  Object.fromEntries(Object.entries(readCounters(counters)).filter(([, value]) => value !== 0));

/** Engines that are linked with each other, each with ports of its own. */
class Lanes {
  readonly engines: Engine[];
  readonly links: TestLinks;
  /** What each lane sends to each: [from][to]. */
  readonly counters: PortCounters[][];
  readonly ends: LaneLink[][];
  readonly #ports = new Map<number, { port: Port; queues: FakeQueue[]; lane: number }>();
  #now = 0;

  constructor(arena: Arena, lanes: number) {
    this.links = new TestLinks(arena, lanes);
    this.engines = Array.from({ length: lanes }, () => new Engine(arena, { seed: SEED, agingSeconds: AGING_SECONDS }));
    this.counters = this.engines.map(() => this.engines.map(() => newCounters()));
    this.ends = this.engines.map((engine, lane) =>
      this.engines.map((_, other) => {
        const link = this.links.link(lane, other);
        if (other !== lane) engine.addLink(link, this.counters[lane]![other]!);
        return link;
      }),
    );
  }

  add(lane: number, ...ids: number[]): void {
    for (const id of ids) this.addPort(lane, id);
  }

  addPort(lane: number, id: number, queues = 1): Port {
    const port = new Port(id, `port${id}`);
    const made = Array.from({ length: queues }, () => new FakeQueue());
    port.queues.push(...made);
    this.#ports.set(id, { port, queues: made, lane });
    this.engines[lane]!.addPort(port);
    return port;
  }

  /** As the main thread does it: its lane first, then the others. */
  removePort(id: number): void {
    const { lane } = this.#ports.get(id)!;
    this.#ports.delete(id);
    this.engines[lane]!.removePort(id);
    this.forget(id, lane);
  }

  setLink(id: number, up: boolean): void {
    const { lane, port } = this.#ports.get(id)!;
    this.engines[lane]!.setLink(port, up);
    if (!up) this.forget(id, lane);
  }

  forget(id: number, except: number): void {
    for (const [lane, engine] of this.engines.entries()) if (lane !== except) engine.forgetPort(id);
  }

  port(id: number): Port {
    return this.#ports.get(id)!.port;
  }

  get ids(): number[] {
    return [...this.#ports.keys()];
  }

  queue(id: number, index = 0): FakeQueue {
    return this.#ports.get(id)!.queues[index]!;
  }

  put(at: number, ...frames: (Uint8Array | TestFrame)[]): void {
    this.queue(at).inbox.push(...frames.map((frame) => (frame instanceof Uint8Array ? { bytes: frame } : frame)));
  }

  /** Breathes until nothing moves; gives how many frames left their queues, in all lanes. */
  settle(): number {
    let total = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const moved = this.engines.reduce((sum, engine) => sum + engine.breathe(), 0);
      if (moved === 0) return total;
      total += moved;
    }
    return assert.fail(`frames still move after ${ROUNDS} rounds: they go in circles`);
  }

  advance(ms: number): void {
    this.#now += ms;
    for (const engine of this.engines) engine.tick(this.#now);
  }

  /** What a port was given, once: forgotten afterwards. */
  taken(id: number): Uint8Array[] {
    const { queues } = this.#ports.get(id)!;
    return queues.flatMap(({ sent }) => sent.splice(0, Number.POSITIVE_INFINITY).map(({ bytes }) => bytes));
  }

  /** Every port that was given something, with how many frames: forgotten afterwards. */
  takers(): Record<number, number> {
    const taken = this.ids.map((id) => [id, this.taken(id).length] as const);
    return Object.fromEntries(taken.filter(([, frames]) => frames > 0));
  }

  counted(id: number): Record<string, number> {
    return nonZero(this.port(id).counters);
  }

  /** Station n sends a broadcast from port n; nothing of that is left but the tables. */
  learn(...ids: number[]): void {
    for (const id of ids) this.put(id, ethernet(BROADCAST, id));
    this.settle();
    this.clear();
  }

  clear(): void {
    for (const id of this.ids) {
      this.taken(id);
      this.port(id).counters.fill(0);
      for (const queue of this.#ports.get(id)!.queues) queue.runs.length = 0;
    }
    for (const counters of this.counters.flat()) counters.fill(0);
  }

  /** Which ports a frame for station `to` reaches that `from` sends. */
  reached(from: number, to: number, sender = from): number[] {
    this.put(from, ethernet(to, sender));
    this.settle();
    return Object.keys(this.takers()).map(Number);
  }

  dispose(): void {
    this.links.dispose();
  }
}

describe('several lanes', () => {
  let lanes: Lanes;
  /** Of this file's own: each engine takes scratch memory that is never given back, and these are many. */
  let own: Arena;
  before(() => {
    own = Arena.open();
    assert.equal(own.reason, '');
  });
  afterEach(() => lanes.dispose());

  // Ports by lane: 10 and 11 on lane 0, 20 and 21 on lane 1, 30 on lane 2. Station n lives behind port n.
  const [A, A2, B, B2, C] = [10, 11, 20, 21, 30] as const;
  function two(arena = own): void {
    lanes = new Lanes(arena, 2);
    lanes.add(0, A, A2);
    lanes.add(1, B, B2);
  }
  function three(): void {
    lanes = new Lanes(own, 3);
    lanes.add(0, A, A2);
    lanes.add(1, B, B2);
    lanes.add(2, C);
  }

  for (const { name, arena } of ARENAS) {
    it(`carry frames of all sizes to a port of another lane, and only there, in order: ${name}`, () => {
      two(arena());
      lanes.learn(A, B);
      const frames = [14, 60, 127, 128, 129, 1514, 9014, MAX_FRAME].map((length, seed) =>
        ethernet(B, A, { length, seed }),
      );
      lanes.put(A, ...frames);
      const answers = frames.map(({ length }, seed) => ethernet(A, B, { length, seed: seed + 100 }));
      lanes.put(B, ...answers);
      lanes.settle();
      assert.deepEqual(lanes.taken(B), frames);
      assert.deepEqual(lanes.taken(A), answers);
      assert.deepEqual(lanes.takers(), {});
      const bytes = frames.reduce((sum, { length }) => sum + length, 0);
      const expected = { rx_frames: 8, rx_bytes: bytes, tx_frames: 8, tx_bytes: bytes };
      assert.deepEqual(lanes.counted(A), expected);
      assert.deepEqual(lanes.counted(B), expected);
      assert.deepEqual(nonZero(lanes.counters[0]![1]!), expected, 'and both ways over the link');
    });
  }

  describe('flooding', () => {
    for (const [what, to] of [
      ['broadcast', BROADCAST],
      ['multicast', Uint8Array.of(1, 0, 0x5e, 0, 0, 1)],
      ['a station that nobody knows', station(99)],
    ] as const) {
      it(`gives a frame for ${what} to every other port once, over every link once`, () => {
        three();
        const frame = ethernet(to, A, { length: 333 });
        lanes.put(A, frame);
        assert.equal(lanes.settle(), 3, 'out of its ring, and out of two links');
        assert.deepEqual(lanes.takers(), { [A2]: 1, [B]: 1, [B2]: 1, [C]: 1 });
        assert.deepEqual(lanes.counted(A), { rx_frames: 1, rx_bytes: 333 });
        for (const id of [A2, B, B2, C]) assert.deepEqual(lanes.counted(id), { tx_frames: 1, tx_bytes: 333 });
        const sent = lanes.counters.map((row) => row.map((counters) => readCounters(counters).tx_frames));
        assert.deepEqual(sent, [
          [0, 1, 1],
          [0, 0, 0],
          [0, 0, 0],
        ]);
      });
    }

    it('from all sides at once ends', () => {
      three();
      for (const id of lanes.ids) lanes.put(id, ethernet(BROADCAST, id));
      assert.equal(lanes.settle(), 5 + 5 * 2);
      assert.deepEqual(lanes.takers(), { [A]: 4, [A2]: 4, [B]: 4, [B2]: 4, [C]: 4 });
    });
  });

  describe('learning', () => {
    it('from a flooded frame: the answer goes to one port, and past the third lane', () => {
      three();
      lanes.put(A, ethernet(77, A));
      lanes.settle();
      lanes.takers();
      assert.deepEqual(lanes.reached(B, A), [A]);
      assert.deepEqual(lanes.reached(C, A), [A]);
      assert.equal(readCounters(lanes.counters[1]![2]!).tx_frames, 0);
    });

    it('from an announcement: of a station that other lanes get no frame from', () => {
      three();
      lanes.learn(A2);
      lanes.put(A, ethernet(A2, A));
      lanes.settle();
      assert.deepEqual(lanes.takers(), { [A2]: 1 });
      assert.equal(readCounters(lanes.counters[0]![1]!).tx_frames, 0, 'no frame crossed');
      assert.deepEqual(lanes.reached(B, A), [A]);
      assert.deepEqual(lanes.reached(C, A), [A]);
    });

    it('no group address, wherever it comes from', () => {
      two();
      const frame = ethernet(BROADCAST, A);
      frame.set([1, 0, 0x5e, 0, 0, 1], 6);
      lanes.put(A, frame);
      lanes.settle();
      for (const engine of lanes.engines) assert.deepEqual([...engine.table.entries(0)], []);
    });

    it('keeps a frame for a station behind its own port out of every lane', () => {
      two();
      lanes.learn(A);
      assert.deepEqual(lanes.reached(A, A, 55), []);
      assert.deepEqual(lanes.counted(A), { rx_frames: 1, rx_bytes: 60, rx_drop_own_port: 1 });
      assert.deepEqual(nonZero(lanes.counters[0]![1]!), {});
    });

    it('follows a station that moves to another lane, and on, though nobody but its new neighbour hears it', () => {
      three();
      const S = 200;
      lanes.learn(A2, B2, C);
      lanes.put(A, ethernet(BROADCAST, S));
      lanes.settle();
      lanes.takers();
      assert.deepEqual(lanes.reached(C, S), [A]);
      assert.deepEqual(lanes.reached(B, B2, S), [B2]);
      for (const id of [A2, B2, C]) assert.deepEqual(lanes.reached(id, S), [B], `from port ${id}`);
      assert.deepEqual(lanes.reached(A, A2, S), [A2]);
      for (const id of [A2, B2, C]) assert.deepEqual(lanes.reached(id, S), [A], `from port ${id}, back again`);
    });

    it('knows its own ports from those of others', () => {
      two();
      lanes.learn(A, B);
      for (const engine of lanes.engines) {
        assert.deepEqual([...engine.table.entries(0)].map(({ port }) => port).sort(), [A, B]);
      }
      assert.deepEqual([lanes.engines[0]!.has(A), lanes.engines[0]!.has(B)], [true, false]);
      assert.deepEqual(
        lanes.engines[0]!.ports.map(({ id }) => id),
        [A, A2],
        'links are no ports',
      );
    });
  });

  describe('ageing', () => {
    beforeEach(() => {
      two();
      lanes.learn(A, A2);
    });
    const secondsPass = (seconds: number, each: () => void = () => {}): void => {
      for (let second = 0; second < seconds; second++) {
        lanes.advance(1000);
        each();
        lanes.settle();
      }
      lanes.takers();
    };
    const knows = (lane: number, id: number): boolean =>
      [...lanes.engines[lane]!.table.entries(lanes.engines[lane]!.nowSeconds)].some(({ port }) => port === id);

    it('spares a station that only its own lane hears', () => {
      secondsPass(5 * AGING_SECONDS, () => {
        lanes.put(A, ethernet(A2, A));
        assert.equal(knows(1, A), true);
      });
      assert.equal(readCounters(lanes.counters[0]![1]!).tx_frames! < 60, true);
      assert.deepEqual(lanes.reached(B, A), [A]);
    });

    it('spares one that is heard once in a while, whenever that is between two announcements', () => {
      for (let second = ANNOUNCED_SECONDS; second < AGING_SECONDS; second++) {
        lanes.dispose();
        two();
        lanes.learn(A, A2);
        secondsPass(second);
        lanes.put(A, ethernet(A2, A));
        secondsPass(AGING_SECONDS + ANNOUNCED_SECONDS - 1 - second);
        assert.deepEqual([knows(0, A), knows(1, A)], [true, true], `heard in second ${second}`);
      }
    });

    it('comes to a station that is silent, in both lanes: they do not keep it alive for each other', () => {
      secondsPass(AGING_SECONDS);
      assert.equal(knows(0, A), false);
      secondsPass(ANNOUNCED_SECONDS);
      assert.equal(knows(1, A), false);
      assert.deepEqual(lanes.reached(B, A), [A, A2, B2], 'flooded');
      secondsPass(AGING_SECONDS + ANNOUNCED_SECONDS);
      assert.equal(knows(0, A), false);
      assert.equal(knows(1, A), false);
    });

    it('leaves no lane in doubt where a station is, though a third one knows it too', () => {
      lanes.dispose();
      three();
      secondsPass(AGING_SECONDS, () => {
        for (const id of lanes.ids) lanes.put(id, ethernet(BROADCAST, id));
      });
      secondsPass(ANNOUNCED_SECONDS);
      for (const from of lanes.ids) {
        for (const to of lanes.ids) if (to !== from) assert.deepEqual(lanes.reached(from, to), [to], `from ${from}`);
      }
    });

    it('is told of at once after setAging', () => {
      for (const engine of lanes.engines) engine.table.setAging(1000);
      secondsPass(AGING_SECONDS + 5);
      assert.equal(knows(1, A), true);
    });

    it('announces nothing without other lanes', () => {
      const alone = new Engine(own, { seed: SEED, agingSeconds: AGING_SECONDS });
      for (let second = 0; second < 20; second++) alone.tick(1000 * second);
      assert.equal(alone.breathe(), 0);
    });
  });

  describe('ports that go', () => {
    beforeEach(() => {
      three();
      lanes.learn(A, A2, B, B2, C);
    });

    it('are forgotten by all: frames for their stations are flooded', () => {
      lanes.removePort(B);
      assert.deepEqual(lanes.reached(A, B), [A2, B2, C]);
      assert.deepEqual(lanes.reached(C, B), [A, A2, B2]);
      assert.deepEqual(lanes.reached(A, B2), [B2], 'others are not');
    });

    it('while frames for them are on the way: those are lost, and counted at the link', () => {
      lanes.put(A, ethernet(B, A), ethernet(B2, A));
      lanes.engines[0]!.breathe();
      lanes.removePort(B);
      lanes.settle();
      assert.deepEqual(lanes.takers(), { [B2]: 1 });
      assert.equal(nonZero(lanes.counters[1]![0]!).rx_drop_link_down, 1);
    });

    it('while frames of theirs are on the way: a port that takes the id later has none of their stations', () => {
      lanes.put(B, ethernet(A, B));
      lanes.engines[1]!.breathe();
      lanes.removePort(B);
      lanes.settle();
      lanes.takers();
      lanes.addPort(0, B);
      assert.deepEqual(lanes.reached(A2, B), [A, B, B2, C], 'flooded');
    });

    it('while frames of theirs are on the way to a lane where a port has the id by now: that is not theirs', () => {
      lanes.put(B, ethernet(A, B));
      lanes.engines[1]!.breathe();
      lanes.removePort(B);
      lanes.addPort(0, B);
      lanes.settle();
      assert.deepEqual(lanes.takers(), { [A]: 1 }, 'it arrives all the same');
      assert.deepEqual(lanes.reached(A2, B), [A, B, B2, C], 'flooded');
      lanes.learn(B);
      assert.deepEqual(lanes.reached(A2, B), [B]);
    });

    it('whose link goes down: flooded, and dropped there; up again, learned anew', () => {
      lanes.setLink(B, false);
      assert.deepEqual(lanes.reached(A, B), [A2, B2, C]);
      assert.deepEqual(lanes.counted(B), { tx_drop_link_down: 1 });
      lanes.put(B, ethernet(BROADCAST, B));
      lanes.settle();
      assert.deepEqual(lanes.takers(), {}, 'nor does it send');
      assert.equal(lanes.counted(B).rx_drop_link_down, 1);
      lanes.setLink(B, true);
      lanes.learn(B);
      assert.deepEqual(lanes.reached(A, B), [B]);
    });

    it('whose link is down, to a lane that was not told yet: dropped and counted at the port', () => {
      lanes.engines[1]!.setLink(lanes.port(B), false);
      assert.deepEqual(lanes.reached(A, B), []);
      assert.deepEqual(lanes.counted(B), { tx_drop_link_down: 1 });
      assert.deepEqual(lanes.counted(A), { rx_frames: 1, rx_bytes: 60 });
    });

    it('to another lane, with the same id', () => {
      lanes.removePort(B);
      lanes.addPort(2, B);
      lanes.learn(B);
      assert.deepEqual(lanes.reached(A, B), [B]);
      assert.equal(readCounters(lanes.counters[0]![1]!).tx_frames, 0);
      assert.deepEqual(lanes.reached(B2, B), [B]);
    });
  });

  describe('offloads', () => {
    const whole = packet({
      ipVersion: 4,
      isTcp: true,
      payload: new Uint8Array(2500).map((_, i) => i * 3),
      macs: { from: station(A), to: station(B) },
    });
    const offered: TestFrame = {
      bytes: whole.bytes,
      flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
      gsoType: VIRTIO_NET_HDR_GSO_TCPV4,
      gsoSize: 1000,
      hdrLen: whole.payload,
      csumStart: whole.transport,
      csumOffset: whole.csumOffset,
    };
    beforeEach(() => {
      two();
      lanes.learn(A, B);
    });

    it('pass to a port of another lane that negotiated them', () => {
      lanes.port(B).offloads = TUN_F_CSUM | TUN_F_TSO4;
      lanes.put(A, offered);
      lanes.settle();
      assert.deepEqual(lanes.queue(B).sent, [offered]);
    });

    it('are done there for one that did not', () => {
      lanes.put(A, offered);
      lanes.settle();
      assert.equal(readCounters(lanes.counters[0]![1]!).tx_frames, 1, 'it crossed whole');
      const { sent } = lanes.queue(B);
      assert.deepEqual(
        sent.map(({ bytes }) => bytes.length - whole.payload),
        [1000, 1000, 500],
      );
      for (const { bytes, flags, gsoType } of sent) {
        assert.equal(checksumsVerify(bytes, whole, true), true);
        assert.deepEqual([flags, gsoType], [0, 0]);
      }
      assert.deepEqual(lanes.counted(A), { rx_frames: 1, rx_bytes: whole.bytes.length });
      assert.deepEqual(lanes.counted(B), { tx_frames: 3, tx_bytes: whole.bytes.length + 2 * whole.payload });
    });

    it('of a flooded frame are done for each port by itself', () => {
      lanes.port(B2).offloads = TUN_F_CSUM | TUN_F_TSO4;
      const bytes = whole.bytes.slice();
      bytes.set(BROADCAST, 0);
      lanes.put(A, { ...offered, bytes });
      lanes.settle();
      assert.deepEqual(lanes.takers(), { [A2]: 3, [B]: 3, [B2]: 1 });
    });

    it('that lie in their fields never leave the sender, and are learned from nowhere', () => {
      lanes.put(A, { ...offered, csumStart: 0xffff, bytes: ethernet(B, 66) });
      lanes.settle();
      assert.deepEqual(lanes.takers(), {});
      assert.equal(lanes.counted(A).rx_drop_bad_offload, 1);
      assert.deepEqual(nonZero(lanes.counters[0]![1]!), {});
    });

    it('that lie in a way that only doing them shows: counted at the link that they came over', () => {
      lanes.put(A, { ...offered, bytes: ethernet(B, A, { length: 2000 }) });
      lanes.settle();
      assert.deepEqual(lanes.takers(), {});
      assert.equal(nonZero(lanes.counters[1]![0]!).rx_drop_bad_offload, 1);
      assert.deepEqual(lanes.counted(B), {});
    });
  });

  describe('a port with several queues', () => {
    const QUEUES = 4;
    const flow = (from: number, to: number, n: number): Uint8Array =>
      packet({
        ipVersion: 4,
        isTcp: false,
        payload: new Uint8Array(20),
        macs: { from: station(from), to: station(to) },
        ...(from === A
          ? { ports: { from: 1000 + n, to: 80 }, addresses: { from: [10, 0, 0, 1], to: [10, 0, 0, 2] } }
          : { ports: { from: 80, to: 1000 + n }, addresses: { from: [10, 0, 0, 2], to: [10, 0, 0, 1] } }),
      }).bytes;
    const M = 25;
    beforeEach(() => {
      two();
      lanes.addPort(1, M, QUEUES);
      lanes.learn(A, M);
    });
    /** The queue that got the frame. */
    const queueOf = (frame: Uint8Array): number => {
      lanes.put(A, frame);
      lanes.settle();
      const got = Array.from({ length: QUEUES }, (_, i) => lanes.queue(M, i).sent.length);
      lanes.taken(M);
      assert.equal(
        got.reduce((sum, n) => sum + n, 0),
        1,
      );
      return got.indexOf(1);
    };

    it('gets flows of another lane spread over them, each on one', () => {
      const chosen = Array.from({ length: 64 }, (_, n) => queueOf(flow(A, M, n)));
      assert.equal(new Set(chosen).size, QUEUES);
      assert.deepEqual(
        chosen,
        chosen.map((_, n) => queueOf(flow(A, M, n))),
      );
    });

    it('gets them where it sends them from, though they go to another lane', () => {
      for (let n = 0; n < 16; n++) {
        const queue = (n * 7 + 3) % QUEUES;
        lanes.queue(M, queue).inbox.push({ bytes: flow(M, A, n) });
        lanes.settle();
        assert.equal(lanes.taken(A).length, 1);
        assert.equal(queueOf(flow(A, M, n)), queue, `flow ${n}`);
      }
    });

    it('gets a batch of flows in one go, each where it belongs', () => {
      const alone = Array.from({ length: BATCH_FRAMES }, (_, n) => queueOf(flow(A, M, n)));
      lanes.put(A, ...alone.map((_, n) => flow(A, M, n)));
      lanes.settle();
      for (let queue = 0; queue < QUEUES; queue++) {
        assert.deepEqual(
          lanes.queue(M, queue).sent.map(({ bytes }) => bytes),
          alone.flatMap((chosen, n) => (chosen === queue ? [flow(A, M, n)] : [])),
        );
      }
    });
  });

  describe('holding', () => {
    beforeEach(() => {
      two();
      lanes.learn(A, A2, B, B2);
    });

    it('keeps a frame for a slow port of another lane, at its link, and the order of all', () => {
      const frames = Array.from({ length: 100 }, (_, i) => ethernet(B, A, { seed: i, length: 60_000 + i }));
      lanes.put(A, ...frames);
      for (let i = 0; lanes.queue(B).sent.length < frames.length; i++) {
        assert(i < 1000, 'frames got lost');
        lanes.queue(B).buffers = i % 4;
        lanes.settle();
        lanes.advance(1);
      }
      assert.deepEqual(lanes.taken(B), frames);
      assert.equal(lanes.counted(B).tx_drop_no_buffers, undefined);
      assert.equal(lanes.counted(B).tx_frames, 100);
    });

    it('lasts HOLD_MS; then the frame is dropped and counted at its port, and the next one passes', () => {
      lanes.queue(B).buffers = 0;
      lanes.put(A, ethernet(B, A), ethernet(B2, A));
      lanes.settle();
      assert.equal(lanes.engines[1]!.holding, true);
      assert.equal(lanes.engines[0]!.holding, false, 'its sender has it no more');
      assert.deepEqual(lanes.takers(), {});
      lanes.advance(HOLD_MS - 1);
      lanes.settle();
      assert.deepEqual(lanes.takers(), {});
      lanes.advance(1);
      lanes.settle();
      assert.deepEqual(lanes.takers(), { [B2]: 1 });
      assert.deepEqual(lanes.counted(B), { tx_drop_no_buffers: 1 });
      assert.equal(lanes.engines[1]!.holding, false);
      lanes.put(A, ethernet(B, A), ethernet(B2, A));
      lanes.settle();
      assert.deepEqual(lanes.takers(), { [B2]: 1 }, 'a dead port holds nobody up twice');
      assert.deepEqual(lanes.counted(B), { tx_drop_no_buffers: 2 });
    });

    for (const [what, filler] of [
      ['alone', []],
      ['among others', [B2]],
      ['now and then', Array<number>(63).fill(B2)],
    ] as const) {
      it(`by a port that takes a frame every few ms, ${what}, is over soon for everybody else`, () => {
        // As many of its frames as the link has room for, and behind them one for another port.
        lanes.queue(B).buffers = 0;
        const to = [B, ...filler];
        lanes.put(A, ...Array.from({ length: 20_000 }, (_, i) => ethernet(to[i % to.length]!, A, { seed: i })));
        while (lanes.engines[0]!.breathe() > 0);
        lanes.queue(A).inbox.length = 0;
        const last = ethernet(B2, A2, { length: 99 });
        lanes.put(A2, last);
        let ms = 0;
        for (; !lanes.taken(B2).some(({ length }) => length === last.length); ms++) {
          assert(ms < 1000, 'it never comes');
          if (ms % (HOLD_MS - 1) === 0) lanes.queue(B).buffers = 1;
          lanes.settle();
          lanes.advance(1);
        }
        // A megabyte of link, an eighth of it each time.
        assert(ms <= 9 * HOLD_MS, `${ms} ms`);
        assert(ms >= HOLD_MS, 'nothing was held at all');
      });
    }

    it('may begin again once the other lane has caught up, though it never finds the link empty', () => {
      const breathe = (): void => {
        for (const engine of lanes.engines) engine.breathe();
      };
      for (let round = 0; round < 3; round++) {
        lanes.queue(B).buffers = 0;
        const frame = ethernet(B, A, { seed: round });
        lanes.put(A, frame);
        breathe();
        lanes.advance(HOLD_MS - 1);
        lanes.queue(B).buffers = 1;
        lanes.put(A, ethernet(B2, A));
        breathe();
        assert.deepEqual(lanes.taken(B), [frame], `round ${round}`);
      }
      assert.equal(lanes.taken(B2).length, 3);
    });

    it('may begin again once the link was empty', () => {
      for (let round = 0; round < 3; round++) {
        lanes.queue(B).buffers = 0;
        const [one, two] = [ethernet(B, A, { seed: 1 }), ethernet(B, A, { seed: 2 })];
        lanes.put(A, one, two);
        lanes.settle();
        lanes.advance(HOLD_MS - 1);
        lanes.queue(B).buffers = 2;
        lanes.settle();
        assert.deepEqual(lanes.taken(B), [one, two], `round ${round}`);
        lanes.advance(1);
      }
    });

    it('does not hold up what stays within a lane, nor the way back', () => {
      lanes.queue(B).buffers = 0;
      lanes.put(A, ethernet(B, A));
      lanes.settle();
      lanes.put(A, ethernet(A2, A));
      lanes.put(B2, ethernet(A, B2));
      lanes.settle();
      assert.deepEqual(lanes.takers(), { [A]: 1, [A2]: 1 });
    });

    it('a flooded frame waits for nobody', () => {
      lanes.queue(B).buffers = 0;
      lanes.put(A, ethernet(BROADCAST, A));
      lanes.settle();
      assert.deepEqual(lanes.takers(), { [A2]: 1, [B2]: 1 });
      assert.deepEqual(lanes.counted(B), { tx_drop_no_buffers: 1 });
      assert.equal(lanes.engines[1]!.holding, false);
    });

    it('of a sender whose link is full, since the other lane stands still: nothing is lost', () => {
      const frames = Array.from({ length: 40 }, (_, i) => ethernet(B, A, { length: MAX_FRAME, seed: i }));
      lanes.put(A, ...frames);
      while (lanes.engines[0]!.breathe() > 0);
      assert.equal(lanes.engines[0]!.holding, true);
      assert.equal(lanes.engines[0]!.enableNotification(), false, 'it may sleep a moment');
      lanes.engines[0]!.disableNotification();
      lanes.advance(HOLD_MS - 1);
      while (lanes.engines[0]!.breathe() > 0);
      lanes.settle();
      assert.equal(lanes.taken(B).length, 40);
      assert.equal(readCounters(lanes.counters[0]![1]!).tx_drop_no_buffers, 0);
    });

    it('ends when the other lane stands still for HOLD_MS: dropped, and counted at the link', () => {
      const frames = Array.from({ length: 40 }, (_, i) => ethernet(B, A, { length: MAX_FRAME, seed: i }));
      lanes.put(A, ...frames, ethernet(A2, A));
      while (lanes.engines[0]!.breathe() > 0);
      assert.deepEqual(lanes.takers(), {});
      lanes.advance(HOLD_MS);
      while (lanes.engines[0]!.breathe() > 0);
      assert.deepEqual(lanes.takers(), { [A2]: 1 });
      lanes.settle();
      const got = lanes.taken(B);
      assert.deepEqual(got, frames.slice(0, got.length));
      const { tx_frames, tx_drop_no_buffers } = readCounters(lanes.counters[0]![1]!);
      assert.deepEqual([tx_frames, tx_drop_no_buffers], [got.length, 40 - got.length]);
      assert(got.length < 40);
      lanes.put(A, ethernet(B, A));
      lanes.settle();
      assert.deepEqual(lanes.takers(), { [B]: 1 }, 'it goes on');
    });
  });

  describe('runs of frames', () => {
    it('cross together, for ports of the other lane in turn, each to its own', () => {
      two();
      lanes.learn(A, B, B2);
      const to = [B, B, B, B2, B2, B, B, B2];
      lanes.put(A, ...to.map((id, i) => ethernet(id, A, { seed: i })));
      lanes.settle();
      for (const id of [B, B2]) {
        assert.deepEqual(
          lanes.taken(id),
          to.flatMap((other, i) => (other === id ? [ethernet(id, A, { seed: i })] : [])),
        );
      }
    });

    it('from one station to another may go different ways over a link, as the sender knew better or worse', () => {
      two();
      lanes.learn(A, B);
      lanes.put(A, ethernet(B, A, { seed: 1 }));
      lanes.engines[0]!.breathe();
      lanes.engines[0]!.forgetPort(B);
      lanes.put(A, ethernet(B, A, { seed: 2 }));
      lanes.settle();
      assert.deepEqual(lanes.takers(), { [A2]: 1, [B]: 2, [B2]: 1 });
    });

    it('stay apart between lanes, and flooded frames in between keep their place', () => {
      three();
      lanes.learn(A, B, C);
      const to = [B, B, C, C, 99, B, C, B, B];
      const frames = to.map((id, i) => ethernet(id, A, { seed: i }));
      lanes.put(A, ...frames);
      lanes.settle();
      assert.deepEqual(
        lanes.taken(B),
        frames.filter((_, i) => to[i] !== C),
      );
      assert.deepEqual(
        lanes.taken(C),
        frames.filter((_, i) => to[i] !== B),
      );
    });
  });

  describe('sleeping', () => {
    it('ends with a frame, or an announcement, of another lane', () => {
      three();
      lanes.learn(A, A2, B);
      for (const engine of lanes.engines) assert.equal(engine.enableNotification(), false);
      lanes.put(A, ethernet(B, A));
      lanes.engines[0]!.breathe();
      assert.deepEqual([lanes.links.woken(0), lanes.links.woken(1), lanes.links.woken(2)], [false, true, false]);
      lanes.put(A, ethernet(A2, 444));
      lanes.engines[0]!.breathe();
      assert.deepEqual([lanes.links.woken(1), lanes.links.woken(2)], [false, true], 'an announcement; lane 1 is awake');
      for (const engine of lanes.engines) engine.disableNotification();
      lanes.put(A, ethernet(B, A));
      lanes.engines[0]!.breathe();
      assert.equal(lanes.links.woken(1), false, 'it polls');
      assert.equal(lanes.engines[1]!.enableNotification(), true, 'a frame is there: it may not sleep');
    });

    it('ends when another lane tells again what it knows, though no frame moves', () => {
      two();
      lanes.learn(A);
      assert.equal(lanes.engines[1]!.enableNotification(), false);
      lanes.advance(1000 * (ANNOUNCED_SECONDS - 1));
      assert.equal(lanes.links.woken(1), false);
      lanes.advance(1000);
      assert.equal(lanes.links.woken(1), true);
    });

    it('of a lane with a slow port: no wake-up for more frames, it looks by itself', () => {
      two();
      lanes.learn(A, B);
      lanes.queue(B).buffers = 0;
      lanes.put(A, ethernet(B, A));
      lanes.settle();
      assert.equal(lanes.engines[1]!.enableNotification(), false);
      lanes.put(A, ethernet(B, A));
      lanes.settle();
      assert.equal(lanes.links.woken(1), false);
    });
  });

  it('do together what one would', () => {
    const PORTS = [1, 2, 3, 4, 5, 6];
    const STATIONS = 9;
    const frame = fc.record({
      at: fc.constantFrom(...PORTS),
      from: fc.integer({ min: 1, max: STATIONS }),
      to: fc.integer({ min: 0, max: STATIONS }),
      length: fc.integer({ min: 14, max: 200 }),
    });
    const placement = fc.array(fc.nat(2), { minLength: PORTS.length, maxLength: PORTS.length });
    const one = new Lanes(own, 1);
    lanes = new Lanes(own, 3);
    const all = [one, lanes];
    try {
      fc.assert(
        fc.property(placement, fc.array(frame, { maxLength: 60, size: 'max' }), (placed, frames) => {
          for (const id of one.ids) for (const some of all) some.removePort(id);
          for (const [i, id] of PORTS.entries()) {
            one.add(0, id);
            lanes.add(placed[i]!, id);
          }
          for (const [seed, { at, from, to, length }] of frames.entries()) {
            const bytes = ethernet(to === 0 ? BROADCAST : to, from, { length, seed });
            for (const some of all) {
              some.put(at, bytes);
              some.settle();
            }
            for (const id of PORTS) assert.deepEqual(lanes.taken(id), one.taken(id), `frame ${seed} at port ${id}`);
          }
          for (const id of PORTS) assert.deepEqual(lanes.counted(id), one.counted(id), `counters of port ${id}`);
        }),
      );
    } finally {
      one.dispose();
    }
  });
});
