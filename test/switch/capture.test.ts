import assert from 'node:assert/strict';
import fs from 'node:fs';
import { eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { TUN_F_CSUM, TUN_F_TSO4 } from '../../linux/if-tun.ts';
import { compileFilter } from '../../linux/pcap.ts';
import { CAPTURE_IN, CAPTURE_OUT } from '../../memory/capture-ring.ts';
import { MAX_FRAME_BYTES } from '../../memory/frame-batch.ts';
import type { BpfInstruction } from '../../packet/bpf.ts';
import { Capture, type CaptureDescription, CaptureScratch, PortTap } from '../../switch/capture.ts';
import { newCounters, readCounters } from '../../switch/counters.ts';
import { Engine, HOLD_MS } from '../../switch/engine.ts';
import { Lane } from '../../switch/lane.ts';
import { Port } from '../../switch/port.ts';
import { VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4 } from '../../vhost/virtio.ts';
import { ARENAS } from '../helpers/arenas.ts';
import { BROADCAST, ethernet, FakeQueue } from '../helpers/fake-queue.ts';
import { packet } from '../helpers/plain-packet.ts';
import { TestCapture } from '../helpers/test-capture.ts';
import { TestMailbox } from '../helpers/test-mailbox.ts';

const [A, B, C] = [1, 2, 3] as const;
const filterOf = (expression: string): BpfInstruction[] => compileFilter(expression, MAX_FRAME_BYTES);

for (const { name, arena } of ARENAS) {
  describe(`captures of an engine's ports, ${name}`, () => {
    let engine: Engine;
    let now: number;
    let scratch: CaptureScratch;
    let ports: Map<number, { port: Port; queues: FakeQueue[] }>;
    const made: { test: TestCapture; running: Capture[] }[] = [];

    before(() => {
      scratch = new CaptureScratch(arena());
    });

    beforeEach(() => {
      now = 1000;
      ports = new Map();
      engine = new Engine(arena(), { seed: 5, agingSeconds: 300 });
      for (const id of [A, B, C]) add(id, [new FakeQueue()]);
      // Each station is known behind its port.
      for (const id of [A, B, C]) put(id, ethernet(BROADCAST, id));
      breathe();
      for (const { queues } of ports.values()) for (const queue of queues) queue.sent.length = 0;
    });

    afterEach(() => {
      for (const { test, running } of made.splice(0)) {
        for (const capture of running) capture.close();
        test.dispose();
      }
    });

    function add(id: number, queues: FakeQueue[]): void {
      const port = new Port(id, `port${id}`);
      port.queues.push(...queues);
      ports.set(id, { port, queues });
      engine.addPort(port);
    }

    function put(id: number, ...frames: Uint8Array[]): void {
      ports.get(id)!.queues[0]!.inbox.push(...frames.map((bytes) => ({ bytes })));
    }

    const breathe = (): number => {
      engine.tick(now);
      return engine.breathe();
    };
    const sent = (id: number): Uint8Array[] =>
      ports.get(id)!.queues.flatMap((queue) => queue.sent.map(({ bytes }) => bytes));

    /** Captures at a port, as a lane does. */
    function capture(id: number, options: Partial<CaptureDescription> & { ringBytes?: number } = {}): TestCapture {
      const test = new TestCapture(options);
      const running = new Capture(test.description(0, options), arena(), scratch, () => now);
      made.push({ test, running: [running] });
      const { port } = ports.get(id)!;
      const tap = taps.get(port) ?? new PortTap();
      taps.set(port, tap);
      tap.captures.push(running);
      port.tap = (queue) => tap.before(queue);
      engine.refreshPorts();
      return test;
    }
    const taps = new WeakMap<Port, PortTap>();
    const seen = (test: TestCapture): [string, Uint8Array][] =>
      test.taken().map(({ direction, bytes }) => [direction, bytes]);

    it('see what passes the port, both ways, and nothing else', () => {
      const test = capture(A);
      const question = ethernet(B, A, { length: 1514, seed: 1 });
      const answer = ethernet(A, B, { length: 60, seed: 2 });
      put(A, question);
      breathe();
      put(B, answer, ethernet(C, B));
      put(C, ethernet(BROADCAST, C, { length: 333 }));
      breathe();
      assert.deepEqual(seen(test), [
        ['in', question],
        ['out', answer],
        ['out', ethernet(BROADCAST, C, { length: 333 })],
      ]);
      assert.deepEqual(test.counters, { seen: 3, accepted: 3, dropped: 0 });
      assert.deepEqual(sent(B), [question, ethernet(BROADCAST, C, { length: 333 })]);
    });

    it('see one way where that is asked for', () => {
      const [inwards, outwards] = [capture(A, { directions: CAPTURE_IN }), capture(A, { directions: CAPTURE_OUT })];
      put(A, ethernet(B, A));
      put(B, ethernet(A, B));
      breathe();
      assert.deepEqual(seen(inwards), [['in', ethernet(B, A)]]);
      assert.deepEqual(seen(outwards), [['out', ethernet(A, B)]]);
      assert.deepEqual([inwards.counters.seen, outwards.counters.seen], [1, 1]);
    });

    it('see a frame that waited for its receiver once, and not what a queue refused', () => {
      const [from, to] = [capture(A), capture(B)];
      const [first, second] = [ethernet(B, A, { seed: 1 }), ethernet(B, A, { seed: 2 })];
      const [queue] = ports.get(B)!.queues;
      queue!.buffers = 1;
      put(A, first, second);
      breathe();
      now += 1;
      for (let i = 0; i < 3; i++) breathe();
      assert.deepEqual(seen(from), [['in', first]]);
      assert.deepEqual(seen(to), [['out', first]]);
      queue!.buffers = 1;
      breathe();
      assert.deepEqual(seen(from), [['in', second]]);
      assert.deepEqual(seen(to), [['out', second]]);
      // A queue without buffers for good: what is dropped came from A all the same.
      put(A, first);
      breathe();
      now += 2 * HOLD_MS;
      breathe();
      assert.deepEqual(seen(from), [['in', first]]);
      assert.deepEqual(seen(to), []);
      assert.equal(readCounters(ports.get(B)!.port.counters).tx_drop_no_buffers, 1);
    });

    it('keep the first bytes, the length, and the time', () => {
      const test = capture(A, { snaplen: 200 });
      const before = BigInt(Date.now()) * 1_000_000n;
      put(A, ethernet(B, A, { length: 1514 }), ethernet(B, A, { length: 60 }));
      breathe();
      now += 2.5;
      put(A, ethernet(B, A, { length: 100 }));
      breathe();
      const frames = test.taken();
      assert.deepEqual(
        frames.map(({ length, bytes }) => [length, bytes]),
        [
          [1514, ethernet(B, A, { length: 1514 }).slice(0, 200)],
          [60, ethernet(B, A, { length: 60 })],
          [100, ethernet(B, A, { length: 100 })],
        ],
      );
      const [first, second, third] = frames.map(({ time }) => time);
      assert.equal(first, second);
      assert.equal(third! - first!, 2_500_000n);
      // The clock was set at the capture's start.
      const off = Number(first! - before) / 1e9;
      assert.ok(Math.abs(off) < 60, `${off} s off`);
    });

    it('tell the time across the carry of its halves', () => {
      const test = capture(A);
      let last = 0n;
      for (let i = 0; i < 12; i++) {
        put(A, ethernet(B, A));
        breathe();
        const { time } = test.taken()[0]!;
        if (i > 0) assert.equal(time - last, 1_000_000_000n, 'a second, wherever 2^32 ns end');
        last = time;
        now += 1000;
      }
    });

    it('run beside each other, each with its own filter, and end alone', () => {
      const all = capture(A);
      const udp = capture(A, { filter: filterOf('udp'), snaplen: 50 });
      const other = capture(B, { filter: filterOf('tcp') });
      const macs = { from: ethernet(B, A).slice(6, 12), to: ethernet(B, A).slice(0, 6) };
      const datagram = packet({ ipVersion: 4, isTcp: false, payload: new Uint8Array(40), macs }).bytes;
      const segment = packet({ ipVersion: 6, isTcp: true, payload: new Uint8Array(40), macs }).bytes;
      put(A, datagram, segment);
      breathe();
      assert.deepEqual(seen(all), [
        ['in', datagram],
        ['in', segment],
      ]);
      assert.deepEqual(seen(udp), [['in', datagram.slice(0, 50)]]);
      assert.deepEqual(udp.counters, { seen: 2, accepted: 1, dropped: 0 });
      assert.deepEqual(seen(other), [['out', segment]]);
      taps.get(ports.get(A)!.port)!.captures.shift();
      put(A, datagram);
      breathe();
      assert.deepEqual(seen(all), []);
      assert.deepEqual(seen(udp), [['in', datagram.slice(0, 50)]]);
    });

    it('look as far into a frame as the filter does', () => {
      const test = capture(A, { filter: filterOf('ether[2999] = 7 and ether[1200] = 9') });
      const frame = ethernet(B, A, { length: 3000 });
      frame[2999] = 7;
      frame[1200] = 9;
      const other = frame.slice();
      other[2999] = 8;
      put(A, frame, other, ethernet(B, A, { length: 2000 }));
      breathe();
      assert.deepEqual(seen(test), [['in', frame]]);
      assert.deepEqual(test.counters, { seen: 3, accepted: 1, dropped: 0 });
    });

    it('lose what a full ring cannot hold, and the switch loses nothing', () => {
      const test = capture(A, { ringBytes: 2 ** 18 });
      const small = capture(A, { ringBytes: 2 ** 18, snaplen: 60 });
      const frames = Array.from({ length: 1000 }, (_, seed) => ethernet(B, A, { length: 1000, seed }));
      put(A, ...frames);
      while (breathe() > 0);
      assert.deepEqual(sent(B), frames);
      const { accepted, dropped } = test.counters;
      assert.equal(accepted, 1000);
      const kept = seen(test);
      assert.equal(kept.length, 1000 - dropped);
      assert.ok(dropped > 700 && dropped < 800, `${dropped}`);
      assert.deepEqual(
        kept,
        frames.slice(0, kept.length).map((frame) => ['in', frame]),
      );
      assert.equal(small.counters.dropped, 0, 'a reader that is slow harms itself alone');
      put(A, frames[0]!);
      breathe();
      assert.deepEqual(seen(test), [['in', frames[0]]], 'goes on when there is room');
    });

    it('see super-frames as they pass, and segments where the switch made them', () => {
      const [from, with_, without] = [capture(A), capture(B), capture(C)];
      ports.get(B)!.port.offloads = TUN_F_CSUM | TUN_F_TSO4;
      const macs = { from: ethernet(B, A).slice(6, 12), to: BROADCAST };
      const whole = packet({ ipVersion: 4, isTcp: true, payload: new Uint8Array(5000).fill(3), macs });
      ports.get(A)!.queues[0]!.inbox.push({
        bytes: whole.bytes,
        flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
        gsoType: VIRTIO_NET_HDR_GSO_TCPV4,
        hdrLen: whole.payload,
        gsoSize: 1460,
        csumStart: whole.transport,
        csumOffset: whole.csumOffset,
      });
      breathe();
      assert.deepEqual(seen(from), [['in', whole.bytes]]);
      assert.deepEqual(seen(with_), [['out', whole.bytes]]);
      assert.deepEqual(
        without.taken().map(({ length }) => length),
        [1514, 1514, 1514, 54 + 5000 - 3 * 1460],
      );
    });

    it('see all queues of a port, and those that come later', () => {
      const queues = [new FakeQueue(), new FakeQueue()];
      add(4, queues);
      const test = capture(4);
      for (const [n, queue] of queues.entries()) queue.inbox.push({ bytes: ethernet(A, 40 + n) });
      breathe();
      assert.deepEqual(
        seen(test).map(([, bytes]) => bytes[11]),
        [40, 41],
      );
      const late = new FakeQueue();
      ports.get(4)!.port.queues.push(late);
      engine.refreshPorts();
      late.inbox.push({ bytes: ethernet(A, 42) });
      queues[0]!.ready = false;
      engine.refreshPorts();
      put(A, ethernet(40, A), ethernet(41, A), ethernet(42, A));
      breathe();
      assert.equal(seen(test).length, 4);
      assert.equal(queues[1]!.sent.length + late.sent.length, 3);
    });

    it('count what the queue calls malformed as ever', () => {
      capture(A);
      ports.get(A)!.queues[0]!.malformed = 3;
      breathe();
      assert.equal(readCounters(ports.get(A)!.port.counters).rx_drop_malformed, 3);
    });

    it('signal a reader that sleeps, at the end of the breath', () => {
      const test = capture(A);
      put(A, ethernet(B, A));
      breathe();
      assert.equal(test.signalled(), false, 'it did not ask');
      test.taken();
      assert.equal(test.sleep(), true);
      put(A, ethernet(B, A), ethernet(B, A));
      breathe();
      assert.equal(test.signalled(), true);
      put(A, ethernet(B, A));
      breathe();
      assert.equal(test.signalled(), false);
    });

    it('leave the queue itself in place of the port when the last has ended', () => {
      const test = capture(A);
      const { port, queues } = ports.get(A)!;
      assert.notEqual(port.firstQueue, queues[0]);
      port.tap = null;
      engine.refreshPorts();
      assert.equal(port.firstQueue, queues[0]);
      put(A, ethernet(B, A));
      breathe();
      assert.deepEqual(seen(test), []);
      assert.deepEqual(sent(B), [ethernet(B, A)]);
    });
  });

  describe(`captures of a lane, ${name}`, () => {
    let lane: Lane;
    let wakeFd: number;
    let now: number;
    let a: TestMailbox;
    let b: TestMailbox;
    let test: TestCapture;

    beforeEach(() => {
      now = 0;
      wakeFd = eventfd();
      const options = { seed: 3, agingSeconds: 300, fdbCapacity: 1000, fdbPerPort: 500, spinMs: 0, wakeFd };
      lane = new Lane({ ...options, arena: { wasm: arena().wasm !== null }, now: () => now }, () => {});
      a = addPort(A);
      b = addPort(B);
      test = new TestCapture();
    });

    afterEach(() => {
      lane.stop();
      assert.equal(mappings(), 1, 'only the reader has it mapped');
      test.dispose();
      a.dispose();
      b.dispose();
      close(wakeFd);
    });

    function addPort(id: number): TestMailbox {
      const mail = new TestMailbox();
      lane.addGuestPort(id, `vm${id}`, newCounters());
      lane.addQueue(id, 0, mail.mailbox);
      return mail;
    }
    const mappings = (): number => fs.readFileSync('/proc/self/maps', 'latin1').split('memfd:test-capture').length - 1;
    const send = (from: TestMailbox, frame: Uint8Array): void => {
      from.write({ header: new Uint8Array(12), frame });
      lane.breathe();
    };

    it('begin and end at any time', () => {
      send(a, ethernet(BROADCAST, A));
      lane.startCapture(7, A, test.description());
      lane.startCapture(8, A, test.description(0, { directions: CAPTURE_OUT, ringBytes: 2 ** 17 }));
      assert.equal(mappings(), 3);
      send(a, ethernet(BROADCAST, A, { seed: 1 }));
      lane.stopCapture(8);
      assert.equal(mappings(), 2);
      send(a, ethernet(BROADCAST, A, { seed: 2 }));
      assert.equal(test.signalled(), true, 'whoever waits is told of the end');
      lane.stopCapture(7);
      lane.stopCapture(7);
      assert.equal(mappings(), 1);
      send(a, ethernet(BROADCAST, A, { seed: 3 }));
      assert.deepEqual(
        test.taken().map(({ bytes }) => bytes),
        [1, 2].map((seed) => ethernet(BROADCAST, A, { seed })),
      );
      assert.equal(b.readAll().length, 4);
    });

    it('end with their port, and let go of the memory', () => {
      lane.startCapture(1, A, test.description());
      send(b, ethernet(BROADCAST, B));
      lane.removePort(A);
      assert.equal(mappings(), 1);
      assert.equal(test.signalled(), true);
      assert.deepEqual(
        test.taken().map(({ direction }) => direction),
        ['out'],
      );
      lane.stopCapture(1);
      // The same port again has no capture.
      a.dispose();
      a = addPort(A);
      send(a, ethernet(BROADCAST, A));
      assert.deepEqual(test.taken(), []);
    });

    it('are refused for a port that is not there, a filter that is none, and memory that cannot be mapped', () => {
      assert.throws(() => lane.startCapture(1, 9, test.description()), /the lane has no port 9/);
      const bad = test.description(0, { filter: [[0xff, 0, 0, 0]] });
      assert.throws(() => lane.startCapture(1, A, bad), /instruction 0 of the filter: there is no code 0xff/);
      assert.throws(() => lane.startCapture(1, A, test.description(0, { memoryFd: wakeFd })), /mmap\(.*ENODEV/);
      send(a, ethernet(BROADCAST, A));
      assert.equal(b.readAll().length, 1);
    });
  });
}
