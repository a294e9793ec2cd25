/** Ports of an engine with impaired wires, in virtual time. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { TUN_F_CSUM, TUN_F_TSO4 } from '../../linux/if-tun.ts';
import { BATCH_FRAMES, type FrameBatch } from '../../memory/frame-batch.ts';
import { readCounters, TX_DROP_ERROR } from '../../switch/counters.ts';
import { Engine, HOLD_MS } from '../../switch/engine.ts';
import { ImpairmentScratch } from '../../switch/impaired-queue.ts';
import type { ImpairedDirection, Impairment } from '../../switch/impairment.ts';
import { Port, type PortQueue } from '../../switch/port.ts';
import { PortImpairment } from '../../switch/port-impairment.ts';
import { newWireMemory } from '../../switch/wire-time.ts';
import {
  VIRTIO_NET_HDR_F_DATA_VALID,
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_TCPV4,
} from '../../vhost/virtio.ts';
import { wasmArena } from '../helpers/arenas.ts';
import { BROADCAST, ethernet, FakeQueue, station, type TestFrame } from '../helpers/fake-queue.ts';
import { impairment } from '../helpers/impairments.ts';
import { checksumsVerify, packet } from '../helpers/plain-packet.ts';

const [A, B, C] = [1, 2, 3] as const;

describe('an impaired port', () => {
  let engine: Engine;
  let scratch: ImpairmentScratch | undefined;
  let now: number;
  const ports = new Map<number, { port: Port; queue: FakeQueue; impairment: PortImpairment | null }>();

  beforeEach(() => {
    now = 1000;
    ports.clear();
    engine = new Engine(wasmArena(), { seed: 5, agingSeconds: 300 });
    engine.tick(now);
    for (const id of [A, B, C]) {
      const port = new Port(id, `port${id}`);
      const queue = new FakeQueue(100 + id);
      port.queues.push(queue);
      ports.set(id, { port, queue, impairment: null });
      engine.addPort(port);
      queue.inbox.push({ bytes: ethernet(BROADCAST, id) });
    }
    engine.breathe();
    for (const { port, queue } of ports.values()) {
      port.counters.fill(0);
      queue.sent.length = 0;
      queue.released.length = 0;
    }
  });
  afterEach(() => {
    for (const { impairment } of ports.values()) impairment?.close();
  });

  /** As a lane does it. */
  function impair(id: number, direction: ImpairedDirection, given: Partial<Impairment> | null): PortImpairment {
    const entry = ports.get(id)!;
    scratch ??= new ImpairmentScratch(wasmArena());
    if (!entry.impairment) {
      const made = new PortImpairment(entry.port, scratch, () => now);
      entry.impairment = made;
      entry.port.impairment = (queue, inner) => made.before(queue, inner);
      engine.refreshPorts();
    }
    const description = given && { impairment: impairment(given), stream: 0, wire: newWireMemory() };
    entry.impairment.change({ [direction]: description });
    return entry.impairment;
  }

  const queue = (id: number): FakeQueue => ports.get(id)!.queue;
  const port = (id: number): Port => ports.get(id)!.port;
  const deadline = (id: number): number => ports.get(id)!.impairment!.nextDeadline(now);
  /** What a port was given since the last time. */
  const taken = (id: number): Uint8Array[] =>
    queue(id)
      .sent.splice(0)
      .map(({ bytes }) => bytes);
  const counted = (id: number): Record<string, number> =>
    Object.fromEntries(Object.entries(readCounters(port(id).counters)).filter(([, value]) => value !== 0));
  const put = (at: number, ...frames: (Uint8Array | TestFrame)[]): void => {
    queue(at).inbox.push(...frames.map((frame) => (frame instanceof Uint8Array ? { bytes: frame } : frame)));
  };
  const breatheAt = (ms: number): void => {
    now = ms;
    engine.tick(now);
    while (engine.breathe() > 0);
  };
  const numbered = (to: number, from: number, count: number, length = 100): Uint8Array[] =>
    Array.from({ length: count }, (_, i) => ethernet(to, from, { length, seed: i }));
  /** Both ways are the same wire, seen from one of its ends: what A sends gets to B. */
  const WAYS = [
    { name: 'to the port', id: B, direction: 'to' as const },
    { name: 'from the port', id: A, direction: 'from' as const },
  ];

  for (const { name, id, direction } of WAYS) {
    describe(name, () => {
      it('delays each frame by the same time, and says when it will be there', () => {
        impair(id, direction, { delayMs: 20 });
        const frames = numbered(B, A, 3);
        put(A, frames[0]!, frames[1]!);
        breatheAt(1000);
        assert.equal(queue(A).inbox.length, 0, 'what is under way is not the sender’s any more');
        assert.equal(deadline(id), 1020);
        put(A, frames[2]!);
        breatheAt(1010);
        breatheAt(1019.9);
        assert.deepEqual(taken(B), []);
        breatheAt(1020);
        assert.deepEqual(taken(B), frames.slice(0, 2));
        assert.equal(deadline(id), 1030);
        breatheAt(1030);
        assert.deepEqual(taken(B), frames.slice(2));
        assert.equal(deadline(id), Number.POSITIVE_INFINITY);
        assert.equal(counted(A).rx_frames, 3);
        assert.equal(counted(B).tx_frames, 3);
      });

      it('flushes at once what it hands on or takes, though nothing moves for the engine', () => {
        impair(id, direction, { delayMs: 20 });
        put(A, ethernet(B, A));
        breatheAt(1000);
        const before = queue(id).flushes;
        if (direction === 'to') {
          breatheAt(1020);
          assert(queue(id).flushes > before);
        } else {
          put(A, ethernet(B, A));
          engine.breathe();
          assert.equal(queue(id).flushes, before + 1);
        }
      });

      it('loses as many as it shall, the same ones with the same seed, and counts them', () => {
        const survivors = (): string[] => {
          impair(id, direction, { loss: 0.3, seed: 42 });
          put(A, ...numbered(B, A, 200));
          breatheAt(now);
          return taken(B).map((frame) => String(frame[20]));
        };
        const first = survivors();
        const lost = 200 - first.length;
        assert(lost > 30 && lost < 90, `${lost} of 200`);
        assert.deepEqual(survivors(), first);
        assert.equal(counted(id)[direction === 'to' ? 'tx_drop_impaired' : 'rx_drop_impaired'], 2 * lost);
        assert.equal(counted(B).tx_frames, 2 * first.length);
        assert.equal(counted(A).rx_frames, direction === 'to' ? 400 : 2 * first.length);
        assert.equal(queue(A).inbox.length, 0);
      });

      it('gives frames twice', () => {
        impair(id, direction, { duplicate: 1 });
        const frames = numbered(B, A, 3);
        put(A, ...frames);
        breatheAt(now);
        assert.deepEqual(
          taken(B),
          frames.flatMap((frame) => [frame, frame]),
        );
        assert.equal(counted(id)[direction === 'to' ? 'tx_impaired_duplicated' : 'rx_impaired_duplicated'], 3);
      });

      it('flips a bit behind the addresses', () => {
        impair(id, direction, { corrupt: 1 });
        const frames = numbered(B, A, 50);
        put(A, ...frames);
        breatheAt(now);
        for (const [i, frame] of taken(B).entries()) {
          const different = [...frame].flatMap((byte, at) => (byte === frames[i]![at] ? [] : [at]));
          assert.equal(different.length, 1);
          const at = different[0]!;
          assert(at >= 14 && [1, 2, 4, 8, 16, 32, 64, 128].includes(frame[at]! ^ frames[i]![at]!));
        }
        assert.equal(counted(id)[direction === 'to' ? 'tx_impaired_corrupted' : 'rx_impaired_corrupted'], 50);
      });

      it('lets some overtake', () => {
        impair(id, direction, { delayMs: 10, reorder: 0.5, seed: 2 });
        const frames = numbered(B, A, 20);
        put(A, ...frames);
        breatheAt(1000);
        const early = taken(B);
        breatheAt(1010);
        const late = taken(B);
        const count = counted(id)[direction === 'to' ? 'tx_impaired_reordered' : 'rx_impaired_reordered'];
        assert.equal(early.length, count);
        assert(early.length > 3 && late.length > 3);
        const inOrder = (some: Uint8Array[]): Uint8Array[] =>
          frames.filter((frame) => some.some((one) => Buffer.compare(one, frame) === 0));
        assert.deepEqual(early, inOrder(early));
        assert.deepEqual(late, inOrder(late));
        assert.equal(early.length + late.length, 20);
      });

      it('sends at a rate, holds as many frames as it may, and drops the others', () => {
        // 1226 bytes and Ethernet's 24 take 10 ms.
        impair(id, direction, { bitsPerSecond: 1e6, limit: 5 });
        const frames = numbered(B, A, 8, 1226);
        put(A, ...frames);
        breatheAt(1000);
        for (let i = 0; i < 5; i++) {
          breatheAt(1000 + 10 * i + 9.9);
          assert.deepEqual(taken(B), []);
          breatheAt(1000 + 10 * i + 10.1);
          assert.deepEqual(taken(B), [frames[i]]);
        }
        assert.equal(counted(id)[direction === 'to' ? 'tx_drop_impaired_queue' : 'rx_drop_impaired_queue'], 3);
        assert.equal(deadline(id), Number.POSITIVE_INFINITY);
      });

      it('does what was asked for to the segments of a super-frame, as a wire would', () => {
        port(B).offloads = TUN_F_CSUM | TUN_F_TSO4;
        impair(id, direction, { loss: 0.3, seed: 5 });
        const payload = new Uint8Array(64 * 500).map((_, i) => i >> 6);
        const made = packet({ ipVersion: 4, isTcp: true, payload, macs: { from: station(A), to: station(B) } });
        put(A, {
          bytes: made.bytes,
          flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
          gsoType: VIRTIO_NET_HDR_GSO_TCPV4,
          gsoSize: 500,
          hdrLen: made.payload,
          csumStart: made.transport,
          csumOffset: made.csumOffset,
        });
        breatheAt(now);
        const lost = counted(id)[direction === 'to' ? 'tx_drop_impaired' : 'rx_drop_impaired']!;
        assert(lost > 5 && lost < 40, `${lost} of 64`);
        const sent = queue(B).sent.splice(0);
        assert.equal(sent.length, 64 - lost);
        for (const { bytes, flags, gsoType } of sent) {
          assert.equal(flags | gsoType, 0);
          assert.equal(bytes.length, made.payload + 500);
          assert(checksumsVerify(bytes, made, true));
        }
        if (direction === 'to') assert.equal(counted(B).tx_frames, 64 - lost);
      });

      it('completes a checksum before it corrupts what it covers', () => {
        port(B).offloads = TUN_F_CSUM;
        impair(id, direction, { corrupt: 1 });
        const payload = new Uint8Array(1000).fill(7);
        const made = packet({ ipVersion: 4, isTcp: true, payload, macs: { from: station(A), to: station(B) } });
        const { transport: csumStart, csumOffset } = made;
        put(A, { bytes: made.bytes, flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csumStart, csumOffset });
        breatheAt(now);
        const [frame] = queue(B).sent.splice(0);
        assert.equal(frame!.flags, 0);
        assert.equal(checksumsVerify(frame!.bytes, made, true), false);
      });

      it('changes while traffic runs, and loses and reorders nothing', () => {
        const frames = numbered(B, A, 60);
        const got: Uint8Array[] = [];
        let next = 0;
        const step = (given: Partial<Impairment> | null): void => {
          impair(id, direction, given);
          put(A, ...frames.slice(next, next + 10));
          next += 10;
          breatheAt(now + 5);
          got.push(...taken(B));
        };
        step({ delayMs: 50 });
        step({ delayMs: 2 });
        assert.deepEqual(got, frames.slice(0, got.length), 'what was under way goes on before the new ones');
        step({ bitsPerSecond: 1e5, limit: 1000 });
        step({ delayMs: 100, limit: 1 });
        step(null);
        step({ delayMs: 30 });
        breatheAt(now + 1000);
        got.push(...taken(B));
        // A limit of 1 has cost nine of the ten that came with it.
        assert.equal(counted(id)[direction === 'to' ? 'tx_drop_impaired_queue' : 'rx_drop_impaired_queue'], 9);
        assert.deepEqual(got, [...frames.slice(0, 31), ...frames.slice(40)]);
      });

      it('once cleared sends what is under way at once, in order, and then does nothing', () => {
        impair(id, direction, { delayMs: 500, jitterMs: 500 });
        put(A, ...numbered(B, A, 100));
        breatheAt(1000);
        const early = taken(B).length;
        const cleared = impair(id, direction, null);
        assert.equal(cleared.isIdle, false);
        assert(deadline(id) <= now);
        put(A, ...numbered(B, A, 40, 77));
        breatheAt(1001);
        const sent = taken(B);
        assert.equal(sent.length, 140 - early);
        assert.deepEqual(sent.slice(-40), numbered(B, A, 40, 77), 'new frames come behind the old ones');
        breatheAt(1002);
        assert.equal(cleared.isIdle, true);
        port(id).impairment = null;
        engine.refreshPorts();
        put(A, ...numbered(B, A, 3));
        breatheAt(1003);
        assert.deepEqual(taken(B), numbered(B, A, 3));
      });

      it('without delay keeps the back-pressure: a slow receiver loses nothing', () => {
        impair(id, direction, { corrupt: 1e-9 });
        queue(B).buffers = 3;
        const frames = numbered(B, A, 200);
        put(A, ...frames);
        breatheAt(1000);
        assert(queue(A).inbox.length > 200 - 3 * BATCH_FRAMES, 'most frames still wait with their sender');
        for (let ms = 1001; queue(B).sent.length < 200 && ms < 1200; ms += 2) {
          queue(B).buffers = 3;
          breatheAt(ms);
        }
        assert.deepEqual(taken(B), frames);
        assert.deepEqual(
          Object.keys(counted(B)).filter((name) => name.includes('drop')),
          [],
        );
      });

      it('loses and reorders nothing that was not asked for, whatever the traffic (fast-check)', () => {
        const steps = fc.array(
          fc.record({ frames: fc.nat(50), ms: fc.nat(4), buffers: fc.integer({ min: 1, max: 60 }) }),
          { minLength: 1, maxLength: 30 },
        );
        const wires = fc.record({ delayMs: fc.constantFrom(0, 3, 20), bitsPerSecond: fc.constantFrom(0, 1e9) });
        fc.assert(
          fc.property(steps, wires, (traffic, wire) => {
            impair(id, direction, { ...wire, limit: 100_000 });
            const frames: Uint8Array[] = [];
            for (const { frames: count, ms, buffers } of traffic) {
              const some = Array.from({ length: count }, (_, i) =>
                ethernet(B, A, { seed: frames.length + i, length: 60 + i }),
              );
              frames.push(...some);
              put(A, ...some);
              queue(B).buffers = buffers;
              breatheAt(now + ms);
            }
            queue(B).buffers = Number.POSITIVE_INFINITY;
            for (let i = 0; i < 20; i++) breatheAt(now + 2);
            impair(id, direction, null);
            breatheAt(now + 1);
            assert.deepEqual(taken(B), frames);
          }),
          { numRuns: 50 },
        );
      });
    });
  }

  it('is impaired in one direction, and in the other it is as if there were nothing', () => {
    impair(A, 'to', { delayMs: 1000 });
    put(A, ethernet(B, A));
    put(B, ethernet(A, B));
    breatheAt(1000);
    assert.equal(taken(B).length, 1);
    assert.deepEqual(queue(A).released, [1]);
    assert.deepEqual(taken(A), []);
    breatheAt(2000);
    assert.equal(taken(A).length, 1);
  });

  it('gets plain frames while the wire to it is impaired, and again what it negotiated afterwards', () => {
    port(B).offloads = TUN_F_CSUM;
    const impaired = impair(B, 'to', { delayMs: 1 });
    assert.equal(port(B).offloads, 0);
    impaired.setOffloads(TUN_F_CSUM | TUN_F_TSO4);
    assert.equal(port(B).offloads, 0);
    impair(B, 'from', { delayMs: 1 });
    impair(B, 'to', null);
    assert.equal(port(B).offloads, TUN_F_CSUM | TUN_F_TSO4);
    impaired.setOffloads(TUN_F_CSUM);
    assert.equal(port(B).offloads, TUN_F_CSUM);
  });

  it('floods over the wire too, and not beyond it', () => {
    impair(B, 'to', { delayMs: 5 });
    put(A, ethernet(BROADCAST, A));
    breatheAt(1000);
    assert.equal(taken(C).length, 1);
    assert.equal(taken(B).length, 0);
    breatheAt(1005);
    assert.equal(taken(B).length, 1);
  });

  it('drops frames from it with offloads that lie, and counts them', () => {
    impair(A, 'from', { delayMs: 5 });
    put(
      A,
      { bytes: ethernet(B, A), flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csumStart: 59, csumOffset: 0 },
      { bytes: ethernet(B, A), flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, gsoType: VIRTIO_NET_HDR_GSO_TCPV4, gsoSize: 10 },
      { bytes: ethernet(B, A), gsoType: 99 },
      ethernet(B, A),
    );
    breatheAt(1005);
    breatheAt(1010);
    assert.equal(taken(B).length, 1);
    assert.equal(counted(A).rx_drop_bad_offload, 3);
  });

  it('believes a card, and a guest not, that checksums are right', () => {
    port(B).offloads = TUN_F_CSUM;
    impair(A, 'from', { delayMs: 5 });
    for (const verifies of [true, false]) {
      (port(A) as { verifies: boolean }).verifies = verifies;
      put(A, { bytes: ethernet(B, A), flags: VIRTIO_NET_HDR_F_DATA_VALID });
      breatheAt(now);
      breatheAt(now + 5);
      assert.equal(queue(B).sent.splice(0)[0]!.flags, verifies ? VIRTIO_NET_HDR_F_DATA_VALID : 0);
    }
  });

  it('drops what arrives when its link is down, or its queue refuses', () => {
    impair(B, 'to', { delayMs: 5 });
    put(A, ...numbered(B, A, 2));
    breatheAt(1000);
    engine.setLink(port(B), false);
    breatheAt(1005);
    engine.setLink(port(B), true);
    put(A, ...numbered(B, A, 3));
    breatheAt(1006);
    let refused = 0;
    queue(B).refuses = () => (refused++ === 0 ? TX_DROP_ERROR : 0);
    breatheAt(1011);
    assert.equal(taken(B).length, 2);
    const { tx_drop_link_down, tx_drop_error } = counted(B);
    assert.deepEqual([tx_drop_link_down, tx_drop_error], [2, 1]);
  });

  it('waits for buffers as long as the engine would, and drops when there are none', () => {
    impair(B, 'to', { delayMs: 20 });
    queue(B).buffers = 0;
    put(A, ...numbered(B, A, 4));
    breatheAt(1000);
    breatheAt(1020);
    assert(deadline(B) > now && deadline(B) <= now + 1, 'it looks again soon');
    queue(B).buffers = 1;
    breatheAt(1021);
    assert.equal(taken(B).length, 1);
    breatheAt(1021 + HOLD_MS - 0.1);
    assert.equal(counted(B).tx_drop_no_buffers, undefined);
    breatheAt(1021 + HOLD_MS);
    assert.equal(counted(B).tx_drop_no_buffers, 3);
    assert.equal(deadline(B), Number.POSITIVE_INFINITY);
  });

  it('asks its queue for what it needs before the lane sleeps', () => {
    impair(B, 'to', { delayMs: 1 });
    impair(B, 'from', { delayMs: 100 });
    put(B, ...numbered(A, B, 3));
    breatheAt(1000);
    engine.enableNotification();
    assert.deepEqual(queue(B).enabled.at(-1), { held: false, stalled: false });
    queue(B).buffers = 0;
    put(A, ethernet(B, A));
    breatheAt(1001);
    breatheAt(1002);
    engine.enableNotification();
    assert.deepEqual(queue(B).enabled.at(-1), { held: false, stalled: true });
    engine.disableNotification();
    assert.equal(queue(B).disabled, 1);
    const fds: number[] = [];
    engine.addPollFds({ addEventfd: (fd) => fds.push(fd), addReadable: (fd) => fds.push(fd) });
    assert.deepEqual(fds, [101, 102, 103]);
  });

  it('stands before what captures its frames: that sees what the port gets and sends', () => {
    const seen: string[] = [];
    const tap = (queue: PortQueue): PortQueue =>
      new Proxy(queue, {
        get: (target, key) => {
          const value = Reflect.get(target, key, target);
          if (key === 'transmit') {
            return (batch: FrameBatch, first: number, end: number) => {
              seen.push(`${end - first} at ${now}`);
              return target.transmit(batch, first, end);
            };
          }
          return typeof value === 'function' ? value.bind(target) : value;
        },
        set: (target, key, value) => Reflect.set(target, key, value, target),
      });
    impair(B, 'to', { delayMs: 5 });
    put(A, ethernet(B, A));
    breatheAt(1000);
    port(B).tap = tap;
    engine.refreshPorts();
    breatheAt(1005);
    assert.deepEqual(seen, ['1 at 1005'], 'one that was under way when the capture began');
    port(B).tap = null;
    engine.refreshPorts();
    put(A, ethernet(B, A));
    breatheAt(1005);
    breatheAt(1010);
    assert.equal(seen.length, 1);
    assert.equal(taken(B).length, 2);
  });

  it('has one wire for all its queues', () => {
    const second = new FakeQueue(202);
    port(A).queues.push(second);
    engine.refreshPorts();
    const impaired = impair(A, 'from', { bitsPerSecond: 1e6 });
    put(A, ethernet(B, A, { length: 1226 }));
    second.inbox.push({ bytes: ethernet(B, A, { length: 1226 }) });
    breatheAt(1000);
    breatheAt(1011);
    assert.equal(taken(B).length, 1);
    breatheAt(1021);
    assert.equal(taken(B).length, 1);
    second.inbox.push({ bytes: ethernet(B, A) });
    breatheAt(1021);
    impaired.forget(second);
    port(A).queues.pop();
    engine.refreshPorts();
    breatheAt(2000);
    assert.equal(taken(B).length, 0, 'a queue that goes takes with it what is under way');
  });
});
