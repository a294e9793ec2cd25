import assert from 'node:assert/strict';
import fs from 'node:fs';
import { openTap } from '../../daemon/tap.ts';
import { NetworkNamespace } from '../../lab/namespace.ts';
import { drainEventfd, eventfd, signalEventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { TUN_F_CSUM } from '../../linux/if-tun.ts';
import type { ClientMemory } from '../../memory/client-memory.ts';
import { newCounters, type PortCounters, readCounters } from '../../switch/counters.ts';
import { HOLD_MS } from '../../switch/engine.ts';
import { Lane, type LaneEvent } from '../../switch/lane.ts';
import type { MemoryTable } from '../../vhost/vhost-device.ts';
import { RingUnmappedError } from '../../vhost/virtqueue.ts';
import { BROADCAST, ethernet, station } from '../helpers/fake-queue.ts';
import { join } from '../helpers/frame-bytes.ts';
import { checksumsVerify, packet } from '../helpers/plain-packet.ts';
import { EVENT_IDX, SplitDriver, TestGuest, VERSION_1 } from '../helpers/split-driver.ts';
import { TestMailbox } from '../helpers/test-mailbox.ts';

const MIB = 2 ** 20;
/** Two pieces of memory, the second as a hot-plugged one. */
const LOW = { guestAddress: 0, size: 4 * MIB, userAddress: 0x7000_0000_0000 };
const HIGH = { guestAddress: 4 * MIB, size: 4 * MIB, userAddress: 0x7100_0000_0000 };
const NUM = 16;
const FEATURES = VERSION_1 | EVENT_IDX;
const HEADER_BYTES = 12;
const BUFFER_BYTES = 2048;
const RX = 0;
const TX = 1;
const RX_RING_AT = 0;
const TX_RING_AT = 64 * 1024;
const RX_BUFFERS_AT = MIB;
const TX_BUFFERS_AT = 2 * MIB;

/** A guest with a driver for each ring of its one queue pair. */
class Guest {
  readonly memory = new TestGuest([LOW, HIGH]);
  readonly mail = new TestMailbox();
  rx: SplitDriver;
  tx: SplitDriver;
  #rxBuffers = 0;
  #txBuffers = 0;

  constructor({ rxRingAt = RX_RING_AT, txRingAt = TX_RING_AT, base = 0 } = {}) {
    this.rx = new SplitDriver(this.memory, { num: NUM, features: FEATURES, at: rxRingAt, base });
    this.tx = new SplitDriver(this.memory, { num: NUM, features: FEATURES, at: txRingAt, base });
  }

  /** A memory table of all its memory, or of the pieces named. */
  table(id: number, pieces = [LOW, HIGH]): MemoryTable {
    const of = <T extends { userAddress: number }>(list: T[]): T[] =>
      list.filter(({ userAddress }) => pieces.some((piece) => piece.userAddress === userAddress));
    const { regions, areas }: ClientMemory = this.memory.client;
    return { id, regions: of(regions), areas: of(areas) };
  }

  /** Fills the receive ring with buffers, of which the guest has `pieces` in this place. */
  fill(at = RX_BUFFERS_AT): void {
    while (this.rx.freeDescriptors > 0) {
      this.rx.add([{ address: at + (this.#rxBuffers++ % NUM) * BUFFER_BYTES, length: BUFFER_BYTES }], true);
    }
    this.rx.announce();
  }

  send(frame: Uint8Array, { at = TX_BUFFERS_AT, header = new Uint8Array(HEADER_BYTES) } = {}): void {
    this.tx.reclaim();
    const bytes = join([header, frame]);
    const address = at + (this.#txBuffers++ % NUM) * BUFFER_BYTES;
    this.memory.write(address, bytes);
    this.tx.add([{ address, length: bytes.length }], false);
    this.tx.announce();
  }

  /** Frames that came since the last time. */
  received(): Uint8Array[] {
    return this.rx.reclaim().map((used) => this.rx.contents(used).subarray(HEADER_BYTES));
  }

  dispose(): void {
    this.memory.dispose();
    this.mail.dispose();
  }
}

describe('Lane', () => {
  /** Guests behind the ports 1 and 2. */
  const [A, B] = [1, 2] as const;
  let lane: Lane;
  let now: number;
  let wakeFd: number;
  let events: LaneEvent[];
  let a: Guest;
  let b: Guest;
  const counters = new Map<number, PortCounters>();

  let mappingsBefore: number;
  /** Mappings of guest memory in this process. */
  const guestMappings = (): number => fs.readFileSync('/proc/self/maps', 'latin1').split('memfd:test-guest').length - 1;

  beforeEach(() => {
    mappingsBefore = guestMappings();
    now = 0;
    events = [];
    wakeFd = eventfd();
    const options = { seed: 3, agingSeconds: 300, fdbCapacity: 1000, fdbPerPort: 500, spinMs: 0, wakeFd };
    lane = new Lane({ ...options, now: () => now }, (event) => events.push(event));
    counters.clear();
    a = addGuest(A);
    b = addGuest(B);
  });
  afterEach(() => {
    lane.stop();
    assert.deepEqual(lane.memory(), []);
    assert.equal(guestMappings(), mappingsBefore + 2 * guests.length, 'only what the guests map themselves');
    for (const guest of guests.splice(0)) guest.dispose();
    close(wakeFd);
  });

  const guests: Guest[] = [];
  function addGuest(id: number, options = {}): Guest {
    const guest = new Guest(options);
    guests.push(guest);
    counters.set(id, newCounters());
    lane.addGuestPort(id, `vm${id}`, counters.get(id)!);
    lane.addQueue(id, 0, guest.mail.mailbox);
    return guest;
  }
  const start = (id: number, guest: Guest, ring: number, table = guest.table(id)): void =>
    lane.startRing(id, 0, ring, table, (ring === RX ? guest.rx : guest.tx).description());
  const startAll = (): void => {
    for (const [id, guest] of [
      [A, a],
      [B, b],
    ] as const) {
      start(id, guest, RX);
      start(id, guest, TX);
      guest.fill();
    }
  };
  const counted = (id: number): Record<string, number> =>
    Object.fromEntries(Object.entries(readCounters(counters.get(id)!)).filter(([, value]) => value !== 0));
  const broadcast = (from: number, seed = 0): Uint8Array => ethernet(BROADCAST, from, { length: 100, seed });

  describe('frames', () => {
    it('pass between the rings of two guests, both ways', () => {
      startAll();
      const [question, answer] = [broadcast(A, 1), ethernet(A, B, { length: 1514, seed: 2 })];
      a.send(question);
      assert.equal(lane.breathe(), 1);
      assert.deepEqual(b.received(), [question]);
      b.send(answer);
      assert.equal(lane.breathe(), 1);
      assert.deepEqual(a.received(), [answer]);
      assert.equal(a.tx.reclaim().length, 1);
      assert.equal(b.tx.reclaim().length, 1);
      assert.deepEqual(counted(A), { rx_frames: 1, rx_bytes: 100, tx_frames: 1, tx_bytes: 1514 });
      assert.deepEqual(counted(B), { rx_frames: 1, rx_bytes: 1514, tx_frames: 1, tx_bytes: 100 });
      assert.equal(lane.breathe(), 0);
      assert.deepEqual(events, []);
    });

    it('pass between a file and rings', () => {
      start(B, b, RX);
      start(B, b, TX);
      b.fill();
      const [question, answer] = [broadcast(A, 1), ethernet(A, B, { seed: 2 })];
      a.mail.write({ header: new Uint8Array(HEADER_BYTES), frame: question });
      lane.breathe();
      assert.deepEqual(b.received(), [question]);
      b.send(answer);
      lane.breathe();
      assert.deepEqual(a.mail.read()?.frame, answer);
    });

    it('wait in their ring for a receiver without buffers, for HOLD_MS', () => {
      start(B, b, RX);
      start(A, a, RX);
      start(A, a, TX);
      a.fill();
      b.mail.write({ header: new Uint8Array(HEADER_BYTES), frame: broadcast(B) });
      lane.breathe();
      const frame = ethernet(B, A, { seed: 7 });
      a.send(frame);
      assert.equal(lane.breathe(), 0);
      assert.equal(a.tx.reclaim().length, 0);
      now = HOLD_MS - 1;
      b.fill();
      assert.equal(lane.breathe(), 1);
      assert.deepEqual(b.received(), [frame]);
      assert.equal(a.tx.reclaim().length, 1);
    });

    it('get their checksum where the receiver did not negotiate it', () => {
      startAll();
      const whole = packet({ ipVersion: 4, isTcp: false, payload: new Uint8Array(50).fill(7) });
      const header = Uint8Array.of(1, 0, 0, 0, 0, 0, whole.transport, 0, whole.csumOffset, 0, 0, 0);
      lane.setOffloads(B, TUN_F_CSUM);
      a.send(whole.bytes, { header });
      lane.breathe();
      assert.deepEqual(b.received(), [whole.bytes]);
      lane.setOffloads(B, 0);
      a.send(whole.bytes, { header });
      lane.breathe();
      assert.equal(checksumsVerify(b.received()[0]!, whole, false), true);
    });

    it('do not pass a link that is down, nor a queue that is detached', () => {
      startAll();
      lane.setLink(B, false);
      a.send(broadcast(A));
      b.send(broadcast(B));
      assert.equal(lane.breathe(), 2);
      assert.deepEqual(counted(B), { rx_frames: 1, rx_bytes: 100, rx_drop_link_down: 1, tx_drop_link_down: 1 });
      lane.setLink(B, true);
      lane.attachQueue(B, 0, false);
      a.send(broadcast(A));
      lane.breathe();
      assert.equal(counted(B).tx_drop_link_down, 2);
      lane.attachQueue(B, 0, true);
      a.send(broadcast(A));
      lane.breathe();
      assert.deepEqual(b.received(), [broadcast(A)]);
    });
  });

  describe('stopping and starting rings', () => {
    it('gives the base, and a successor goes on exactly there', () => {
      startAll();
      const sent = Array.from({ length: 5 }, (_, i) => broadcast(A, i));
      for (const frame of sent.slice(0, 3)) a.send(frame);
      lane.breathe();
      assert.equal(lane.ringBase(A, 0, TX), 3);
      for (const frame of sent.slice(3)) a.send(frame);
      assert.equal(lane.stopRing(A, 0, TX), 3, 'of five made available');
      assert.equal(lane.ringBase(A, 0, TX), 0, 'none runs');
      assert.equal(lane.breathe(), 0);
      lane.startRing(A, 0, TX, a.table(A), a.tx.description({ base: 3 }));
      assert.equal(lane.breathe(), 2);
      assert.equal(lane.stopRing(B, 0, RX), 5);
      assert.deepEqual(b.received(), sent);
      lane.startRing(B, 0, RX, b.table(B), b.rx.description({ base: 5 }));
      a.send(sent[0]!);
      lane.breathe();
      assert.deepEqual(b.received(), [sent[0]]);
      assert.equal(lane.stopRing(B, 0, RX), 6);
    });

    it('does so where the indices wrap', () => {
      lane.removePort(A);
      a = addGuest(A, { base: 0xfffe });
      startAll();
      for (let i = 0; i < 4; i++) a.send(broadcast(A, i));
      lane.breathe();
      assert.equal(lane.stopRing(A, 0, TX), 2);
      lane.startRing(A, 0, TX, a.table(A), a.tx.description({ base: 2 }));
      a.send(broadcast(A, 9));
      lane.breathe();
      assert.deepEqual(
        b.received(),
        [0, 1, 2, 3, 9].map((seed) => broadcast(A, seed)),
      );
    });

    it('leaves a frame that waits in its ring for the successor', () => {
      startAll();
      b.send(broadcast(B));
      lane.breathe();
      lane.stopRing(B, 0, RX);
      b.rx = new SplitDriver(b.memory, { num: NUM, features: FEATURES, at: RX_RING_AT });
      start(B, b, RX);
      const frame = ethernet(B, A, { seed: 1 });
      a.send(frame);
      assert.equal(lane.breathe(), 0, 'no buffers');
      assert.equal(lane.stopRing(A, 0, TX), 0);
      start(A, a, TX, a.table(A));
      // The driver's description starts where it stands: one further than the device took.
      assert.equal(lane.stopRing(A, 0, TX), 1);
      lane.startRing(A, 0, TX, a.table(A), a.tx.description({ base: 0 }));
      b.fill();
      assert.equal(lane.breathe(), 1);
      assert.deepEqual(b.received(), [frame]);
    });

    it('says which ring does not run', () => {
      assert.throws(() => lane.stopRing(A, 0, TX), /ring 1 of queue 0 of port 1 does not run/);
      assert.throws(() => lane.stopRing(A, 3, TX), /port 1 has no guest queue 3/);
      assert.throws(() => lane.stopRing(9, 0, TX), /the lane has no port 9/);
    });

    it('exchanges the eventfds of a running ring', () => {
      const [before, after] = [eventfd(), eventfd()];
      try {
        startAll();
        lane.setRingFds(B, 0, RX, { kick: -1, call: before, err: -1 });
        a.send(broadcast(A));
        lane.breathe();
        assert.equal(drainEventfd(before), true);
        lane.setRingFds(B, 0, RX, { kick: -1, call: after, err: -1 });
        b.rx.setUsedEvent(1);
        a.send(broadcast(A));
        lane.breathe();
        assert.equal(drainEventfd(before), false);
        assert.equal(drainEventfd(after), true);
        lane.stopRing(B, 0, RX);
        lane.setRingFds(B, 0, RX, { kick: -1, call: before, err: -1 });
      } finally {
        close(before);
        close(after);
      }
    });
  });

  describe('memory', () => {
    it('is mapped once a table, as long as a ring uses it', () => {
      const table = a.table(7, [LOW]);
      assert.deepEqual(lane.memory(), []);
      start(A, a, RX, table);
      assert.deepEqual(lane.memory(), [{ table: 7, mappedBytes: LOW.size, rings: 1 }]);
      start(A, a, TX, table);
      start(B, b, TX);
      assert.deepEqual(lane.memory(), [
        { table: 7, mappedBytes: LOW.size, rings: 2 },
        { table: B, mappedBytes: LOW.size + HIGH.size, rings: 1 },
      ]);
      lane.stopRing(A, 0, RX);
      lane.stopRing(A, 0, TX);
      assert.deepEqual(
        lane.memory().map(({ table }) => table),
        [B],
      );
    });

    it('stays as it was when a ring cannot start', () => {
      assert.throws(() => start(A, a, TX, a.table(7, [HIGH])), RingUnmappedError);
      assert.deepEqual(lane.memory(), []);
      const table = a.table(8);
      const noFile = { ...table, areas: table.areas.map((area) => ({ ...area, fd: -1 })) };
      assert.throws(() => start(A, a, TX, noFile), /mmap\(.*EBADF/);
      assert.deepEqual(lane.memory(), []);
      assert.deepEqual(lane.rings(), []);
      start(A, a, TX);
    });

    it('changes under running rings: they go on where they were, in the new table', () => {
      startAll();
      lane.setMemory(A, 0, a.table(20, [LOW]));
      lane.setMemory(B, 0, b.table(21));
      assert.deepEqual(lane.memory(), [
        { table: 20, mappedBytes: LOW.size, rings: 2 },
        { table: 21, mappedBytes: LOW.size + HIGH.size, rings: 2 },
      ]);
      a.send(broadcast(A, 1));
      lane.breathe();
      lane.setMemory(A, 0, a.table(22));
      // Memory that the first table of A did not have.
      a.send(broadcast(A, 2), { at: HIGH.guestAddress });
      a.send(broadcast(A, 3));
      assert.equal(lane.breathe(), 2);
      assert.deepEqual(
        b.received(),
        [1, 2, 3].map((seed) => broadcast(A, seed)),
      );
      assert.equal(lane.stopRing(A, 0, TX), 3);
      assert.deepEqual(events, []);
    });

    it('takes the same table again', () => {
      startAll();
      lane.setMemory(A, 0, a.table(A));
      assert.deepEqual(
        lane.memory().map(({ rings }) => rings),
        [2, 2],
      );
      a.send(broadcast(A));
      assert.equal(lane.breathe(), 1);
    });

    it('stays the old one for all rings when one of them is not in the new one', () => {
      lane.removePort(A);
      a = addGuest(A, { txRingAt: HIGH.guestAddress });
      startAll();
      const before = lane.memory();
      // The receive ring lies in it, the transmit ring does not.
      assert.throws(() => lane.setMemory(A, 0, a.table(30, [LOW])), RingUnmappedError);
      assert.throws(() => lane.setMemory(A, 0, a.table(31, [HIGH])), RingUnmappedError);
      assert.deepEqual(lane.memory(), before);
      a.send(broadcast(A));
      b.send(broadcast(B));
      assert.equal(lane.breathe(), 2);
      assert.deepEqual(a.received(), [broadcast(B)]);
      assert.deepEqual(b.received(), [broadcast(A)]);
    });

    it('of a queue without running rings is nothing to map', () => {
      lane.setMemory(A, 0, a.table(40));
      assert.deepEqual(lane.memory(), []);
    });
  });

  describe('removing', () => {
    it('a port stops its rings, and frees memory and addresses', () => {
      startAll();
      a.send(broadcast(A));
      b.send(broadcast(B));
      lane.breathe();
      lane.removePort(A);
      assert.deepEqual(
        lane.memory().map(({ table }) => table),
        [B],
      );
      assert.deepEqual(
        lane.rings().map(({ port }) => port),
        [B, B],
      );
      assert.deepEqual(
        lane.fdb().map(({ port }) => port),
        [B],
      );
      assert.throws(() => lane.removePort(A), /the lane has no port 1/);
      b.send(ethernet(A, B));
      assert.equal(lane.breathe(), 1);
    });

    it('a queue stops its rings; the port stays, and takes another queue', () => {
      startAll();
      lane.removeQueue(A, 0);
      assert.deepEqual(
        lane.memory().map(({ table }) => table),
        [B],
      );
      b.send(broadcast(B));
      lane.breathe();
      assert.deepEqual(counted(A), { tx_drop_link_down: 1 });
      assert.throws(() => lane.removeQueue(A, 0), /port 1 has no guest queue 0/);
      lane.addQueue(A, 0, a.mail.mailbox);
      b.send(broadcast(B));
      lane.breathe();
      assert.deepEqual(a.mail.read()?.frame, broadcast(B));
    });
  });

  describe('a hostile ring', () => {
    it('is told of once, signals its err eventfd, and the others go on', () => {
      const err = eventfd();
      try {
        startAll();
        const c = addGuest(3);
        lane.setRingFds(A, 0, TX, { kick: -1, call: -1, err });
        a.send(broadcast(A));
        a.tx.pokeAvailIdx(5000);
        b.send(broadcast(B, 1));
        for (let i = 0; i < 3; i++) lane.breathe();
        assert.equal(drainEventfd(err), true);
        assert.deepEqual(
          events.map((event) => ({ ...event, error: 'error' in event && event.error.code })),
          [{ event: 'ring-broken', port: A, queue: 0, index: TX, error: 'AVAIL_IDX_JUMPED' }],
        );
        assert.deepEqual(c.mail.read()?.frame, broadcast(B, 1));
        assert.deepEqual(a.received(), [broadcast(B, 1)], 'its other ring too');
        const status = lane.rings().filter(({ port, index }) => port === A && index === TX)[0]!;
        assert.equal(status.error?.code, 'AVAIL_IDX_JUMPED');
        assert.equal(lane.stopRing(A, 0, TX), 0);
        b.send(broadcast(B, 2));
        assert.equal(lane.breathe(), 1);
      } finally {
        close(err);
      }
    });

    it('that receives: frames for it are dropped and counted, nobody waits', () => {
      startAll();
      b.send(broadcast(B));
      lane.breathe();
      b.rx.pokeAvailIdx(5000);
      for (const seed of [1, 2, 3]) a.send(ethernet(B, A, { seed }));
      assert.equal(lane.breathe(), 3);
      assert.equal(a.tx.reclaim().length, 3);
      assert.deepEqual(counted(B), { rx_frames: 1, rx_bytes: 100, tx_drop_ring_broken: 3 });
      assert.deepEqual(
        events.map((event) => ({ ...event, error: 'error' in event && event.error.code })),
        [{ event: 'ring-broken', port: B, queue: 0, index: RX, error: 'AVAIL_IDX_JUMPED' }],
      );
      b.send(broadcast(B, 4));
      lane.breathe();
      assert.deepEqual(a.received(), [broadcast(B), broadcast(B, 4)], 'its other ring goes on');
    });
  });

  describe('status', () => {
    it('fdb() has every learned address with its port and age', () => {
      startAll();
      a.send(broadcast(A));
      lane.breathe();
      now = 5000;
      b.send(broadcast(B));
      lane.breathe();
      now = 7000;
      lane.breathe();
      const sorted = lane.fdb().sort((one, other) => one.port - other.port);
      assert.deepEqual(
        sorted.map(({ mac, port, ageSeconds }) => ({ mac, port, ageSeconds })),
        [
          { mac: '02:00:00:00:00:01', port: A, ageSeconds: 7 },
          { mac: '02:00:00:00:00:02', port: B, ageSeconds: 2 },
        ],
      );
      assert.deepEqual(station(A), Uint8Array.of(2, 0, 0, 0, 0, 1), 'the address meant');
      lane.setAging(3);
      assert.deepEqual(
        lane.fdb().map(({ port }) => port),
        [B],
      );
    });

    it('fdb() holds no more of a port than it may', () => {
      startAll();
      for (let i = 0; i < 600; i++) {
        a.send(ethernet(BROADCAST, 1000 + i));
        lane.breathe();
        b.rx.reclaim();
        b.fill();
      }
      assert.equal(lane.fdb().length, 500);
    });

    it('rings() tells what was negotiated and how far each ring is', () => {
      startAll();
      b.rx.setUsedEvent(0xffff);
      for (let i = 0; i < 3; i++) {
        a.send(broadcast(A, i));
        lane.breathe();
      }
      const rings = lane.rings();
      assert.deepEqual(
        rings.map(({ port, queue, index }) => [port, queue, index]),
        [
          [A, 0, RX],
          [A, 0, TX],
          [B, 0, RX],
          [B, 0, TX],
        ],
      );
      assert.deepEqual(rings[2], {
        port: B,
        queue: 0,
        index: RX,
        num: NUM,
        base: 3,
        usedIdx: 3,
        headerBytes: HEADER_BYTES,
        features: ['EVENT_IDX', 'VERSION_1'],
        calls: 1, // the first one is always made
        callsSuppressed: 2,
        error: null,
      });
      assert.deepEqual([rings[1]!.base, rings[1]!.usedIdx], [3, 3]);
      assert.deepEqual([rings[0]!.base, rings[0]!.calls], [0, 0]);
    });
  });

  describe('run', () => {
    it('sleeps until it is woken, kicked, or finds a frame after all, and ends at once with stop', () => {
      const kick = eventfd();
      try {
        startAll();
        lane.setRingFds(A, 0, TX, { kick, call: -1, err: -1 });
        const frame = broadcast(A, 3);
        const began = performance.now();
        // Each turn comes after a breath without frames, and a sleep of up to a second follows it.
        const turns = [
          () => signalEventfd(wakeFd),
          () => {
            assert.equal(drainEventfd(wakeFd), false, 'drained by the lane');
            signalEventfd(kick);
          },
          () => {
            assert.equal(drainEventfd(kick), false, 'drained by the lane');
            a.send(frame);
          },
          () => {
            assert.deepEqual(b.received(), [frame]);
            lane.stop();
          },
        ];
        lane.run(() => turns.shift()!());
        assert.deepEqual(turns, []);
        assert(performance.now() - began < 900, 'it slept on');
        assert.deepEqual(lane.rings(), []);
      } finally {
        close(kick);
      }
    });
  });

  describe('with a tap', () => {
    it('carries frames, and tells once when its interface is deleted', async () => {
      const TAP = 5;
      const NO_VHOST = -1;
      const name = `rsl${process.pid}`.slice(0, 15);
      await using host = await NetworkNamespace.create('lane');
      await host.exec(['sh', '-c', 'echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6']);
      const { fd, offloads } = openTap(name, false);
      try {
        startAll();
        counters.set(TAP, newCounters());
        lane.addTapPort(TAP, name, counters.get(TAP)!, fd, offloads, NO_VHOST);
        assert.throws(() => lane.stopRing(TAP, 0, RX), /port 5 has no guest queue 0/);
        await host.moveIn(name);
        a.send(broadcast(A, 1));
        lane.breathe();
        assert.deepEqual(counted(TAP), { tx_drop_link_down: 1 }, 'not up yet');
        await host.address(name, '10.0.0.1/24');
        a.send(broadcast(A, 2));
        lane.breathe();
        assert.deepEqual(counted(TAP), { tx_frames: 1, tx_bytes: 100, tx_drop_link_down: 1 });
        await host.exec(['ip', 'link', 'delete', name]);
        for (let i = 0; i < 3; i++) lane.breathe();
        assert.deepEqual(events, [{ event: 'tap-gone', port: TAP }]);
        a.send(broadcast(A, 3));
        lane.breathe();
        assert.deepEqual(counted(TAP), { tx_frames: 1, tx_bytes: 100, tx_drop_link_down: 2 });
        assert.deepEqual(b.received().length, 3);
        lane.removePort(TAP);
      } finally {
        close(fd);
      }
    });
  });
});
