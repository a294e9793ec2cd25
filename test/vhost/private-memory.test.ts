/** Rings of clients that share nothing: what differs from shared memory. What does not, the rings' own tests show. */
import assert from 'node:assert/strict';
import { setImmediate as turn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Program } from '../../lab/program.ts';
import { EFAULT } from '../../linux/errno.ts';
import { eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { viewMemory } from '../../linux/libc.ts';
import { MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, mmap, munmap, PAGE_SIZE, PROT_READ } from '../../linux/mman.ts';
import { fetchClientMemory } from '../../memory/client-memory.ts';
import type { FrameBatch } from '../../memory/frame-batch.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import { PackedVirtqueue } from '../../vhost/packed-virtqueue.ts';
import { SplitVirtqueue } from '../../vhost/split-virtqueue.ts';
import { type RingDescription, RingUnmappedError, type Virtqueue } from '../../vhost/virtqueue.ts';
import { emptyBatch, wasmArena } from '../helpers/arenas.ts';
import type { EchoOrders, EchoResult, EchoRings } from '../helpers/echo-driver-child.ts';
import { appendFrame, frameBytes, frameOf, join } from '../helpers/frame-bytes.ts';
import { deliverOne } from '../helpers/one-frame.ts';
import { PackedDriver, RING_PACKED } from '../helpers/packed-driver.ts';
import {
  EVENT_IDX,
  IN_ORDER,
  INDIRECT_DESC,
  MRG_RXBUF,
  SplitDriver,
  TestGuest,
  VERSION_1,
} from '../helpers/split-driver.ts';

const CHILD = fileURLToPath(new URL('../helpers/echo-driver-child.ts', import.meta.url));
const START_MS = 10_000;
const MIB = 2 ** 20;
const HEADER = new Uint8Array(12);
const USER = 0x7000_0000_0000;
const KINDS = [
  { kind: 'split', packed: false },
  { kind: 'packed', packed: true },
] as const;

const newRing = (memory: GuestMemory, description: RingDescription): Virtqueue =>
  (description.features & RING_PACKED) === 0n
    ? new SplitVirtqueue(memory, description)
    : new PackedVirtqueue(memory, description);

/** A client process with its driver, and the device side of its rings here. */
class Echo implements AsyncDisposable {
  readonly program: Program;
  readonly memory: GuestMemory;
  readonly rx: Virtqueue;
  readonly tx: Virtqueue;
  /** Of the transmit ring. */
  readonly description: RingDescription;
  readonly #batch = emptyBatch();

  static async start(orders: EchoOrders): Promise<Echo> {
    const program = new Program([process.execPath, CHILD, JSON.stringify(orders)]);
    try {
      const line = await program.waitFor('its rings', START_MS, () => program.stdout.includes('\n') && program.stdout);
      return new Echo(program, JSON.parse(line.split('\n')[0]!) as EchoRings);
    } catch (error) {
      await program.stop();
      throw error;
    }
  }

  private constructor(program: Program, { pid, regions, rings }: EchoRings) {
    this.program = program;
    const client = fetchClientMemory(pid, regions);
    assert.deepEqual([client.areas, client.copied?.pid], [[], pid]);
    this.memory = new GuestMemory(client, wasmArena());
    const [rx, tx] = rings.map((ring) => ({ ...ring, features: BigInt(ring.features) }));
    this.rx = newRing(this.memory, rx!);
    this.tx = newRing(this.memory, tx!);
    this.description = tx!;
  }

  /** One breath: what was sent is given back. */
  breathe(): number {
    const batch = this.#batch;
    batch.clear();
    const received = this.tx.receive(batch);
    const done = this.rx.deliver(batch, 0, received);
    this.tx.release(done);
    this.rx.flush();
    this.tx.flush();
    return done;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.memory.unmap();
    await this.program.stop();
  }
}

describe('rings of another process in private memory', function () {
  this.timeout(60_000);
  const modern = VERSION_1 | INDIRECT_DESC | EVENT_IDX;
  const cases: [name: string, orders: Omit<EchoOrders, 'frames'>][] = [
    ['split', { num: 64, features: String(modern | MRG_RXBUF), base: 0xffe0, bigEvery: 29 }],
    ['split, in order', { num: 64, features: String(modern | MRG_RXBUF | IN_ORDER), base: 0, bigEvery: 29 }],
    ['split, no mergeable buffers, no indirect tables', { num: 32, features: String(VERSION_1), base: 3, bigEvery: 0 }],
    ['packed', { num: 61, features: String(modern | MRG_RXBUF | RING_PACKED), base: 0, bigEvery: 29 }],
    [
      'packed, in order',
      { num: 64, features: String(modern | MRG_RXBUF | RING_PACKED | IN_ORDER), base: 0, bigEvery: 29 },
    ],
    ['packed, no mergeable buffers', { num: 33, features: String(VERSION_1 | RING_PACKED), base: 0, bigEvery: 0 }],
  ];

  for (const [name, orders] of cases) {
    it(`carry frames both ways while the driver runs: ${name}`, async () => {
      await using echo = await Echo.start({ ...orders, frames: 5000 });
      let ended = false;
      void echo.program.ended.then(() => {
        ended = true;
      });
      while (!ended) {
        for (let i = 0; i < 100; i++) echo.breathe();
        await turn();
      }
      assert.deepEqual([echo.rx.error, echo.tx.error], [null, null]);
      const lines = echo.program.stdout.trim().split('\n');
      assert.equal(lines.length, 2, echo.program.stderr);
      assert.deepEqual(JSON.parse(lines[1]!) as EchoResult, { received: 5000, problem: null });
    });

    it(`stop quietly when the process dies: ${name}`, async () => {
      await using echo = await Echo.start({ ...orders, frames: 1e9 });
      for (let frames = 0; frames < 500; ) frames += echo.breathe();
      // Its frames are taken, and not given back.
      const batch = emptyBatch(wasmArena(), 1);
      while (echo.tx.receive(batch) === 0) await turn();
      await echo.program.stop();
      echo.rx.deliver(batch, 0, batch.count);
      echo.tx.release(batch.count);
      for (let i = 0; i < 10; i++) echo.breathe();
      for (const ring of [echo.rx, echo.tx]) {
        assert.equal(ring.enableNotification(), false);
        ring.disableNotification();
        assert.equal(ring.error, null);
      }
      assert.equal(echo.breathe(), 0);
      assert.equal(echo.memory.mirror?.gone, true);
      assert.throws(() => newRing(echo.memory, echo.description), RingUnmappedError);
    });
  }
});

for (const { kind, packed } of KINDS) {
  describe(`${kind} rings in private memory`, () => {
    const features = VERSION_1 | INDIRECT_DESC | MRG_RXBUF | (packed ? RING_PACKED : 0n);
    /** Rings in the first region, buffers in the second. */
    const BUFFERS = 4 * MIB;
    let guest: TestGuest;
    let memory: GuestMemory;
    let batch: FrameBatch;
    let err: number;

    beforeEach(() => {
      guest = new TestGuest(
        [
          { guestAddress: 0, size: MIB, userAddress: USER },
          { guestAddress: BUFFERS, size: 128 * MIB, userAddress: USER + 0x1_0000_0000 },
        ],
        () => true,
      );
      memory = guest.map(wasmArena());
      batch = emptyBatch();
      err = eventfd();
    });
    afterEach(() => {
      guest.dispose();
      close(err);
    });

    const newDriver = (at = 0, num = 16): SplitDriver | PackedDriver =>
      packed ? new PackedDriver(guest, { num, features, at }) : new SplitDriver(guest, { num, features, at });
    const send = (driver: SplitDriver | PackedDriver, at: number, frame: Uint8Array): void => {
      guest.write(at, join([HEADER, frame]));
      driver.add([{ address: at, length: HEADER.length + frame.length }], false);
      driver.announce();
    };
    const unmap = (address: number, length = PAGE_SIZE): void => munmap(guest.user(address), length);
    const assertUnreachable = (ring: Virtqueue, address: number): void => {
      const { code, index, value, message } = ring.error!;
      assert.deepEqual({ code, index, value }, { code: 'CLIENT_MEMORY_UNREACHABLE', index: address, value: EFAULT });
      assert.match(message, /private memory of the client cannot be .* \(at 0x70[0-9a-f]+, EFAULT\)/);
    };

    it('stop with an error when a buffer to send from is unmapped; frames in other rings go on', () => {
      const driver = newDriver();
      const ring = newRing(memory, driver.description({ err }));
      const other = newDriver(0x1_0000);
      const otherRing = newRing(memory, other.description());
      send(driver, BUFFERS, frameBytes(100, 1));
      send(driver, BUFFERS + PAGE_SIZE, frameBytes(100, 2));
      unmap(BUFFERS + PAGE_SIZE);
      assert.equal(ring.receive(batch), 0);
      assertUnreachable(ring, guest.user(BUFFERS + PAGE_SIZE));
      assert.equal(ring.receive(batch), 0);
      send(other, BUFFERS + 2 * PAGE_SIZE, frameBytes(100, 3));
      assert.equal(otherRing.receive(batch), 1);
      assert.deepEqual(frameOf(batch, 0), frameBytes(100, 3));
    });

    it('stop with an error when a part of a chain is unmapped', () => {
      const driver = newDriver();
      const ring = newRing(memory, driver.description({ err }));
      unmap(BUFFERS + PAGE_SIZE);
      driver.add(
        [
          { address: BUFFERS, length: 12 },
          { address: BUFFERS + PAGE_SIZE, length: 100 },
        ],
        false,
      );
      driver.announce();
      assert.equal(ring.receive(batch), 0);
      assertUnreachable(ring, guest.user(BUFFERS + PAGE_SIZE));
    });

    it('stop with an error when an indirect table is unmapped', () => {
      const driver = newDriver();
      const ring = newRing(memory, driver.description({ err }));
      driver.addIndirect([{ address: BUFFERS, length: 100 }], false, BUFFERS + PAGE_SIZE);
      driver.announce();
      unmap(BUFFERS + PAGE_SIZE);
      assert.equal(ring.receive(batch), 0);
      assert.equal(ring.error?.code, 'INDIRECT_UNMAPPED');
    });

    it('stop with an error when a buffer to receive in is unmapped, and announce nothing', () => {
      const driver = newDriver();
      const ring = newRing(memory, driver.description({ err }));
      driver.add([{ address: BUFFERS + PAGE_SIZE, length: 2000 }], true);
      driver.announce();
      unmap(BUFFERS + PAGE_SIZE);
      appendFrame(batch, [frameBytes(100, 1)]);
      deliverOne(ring, batch);
      ring.flush();
      assertUnreachable(ring, guest.user(BUFFERS + PAGE_SIZE));
      assert.deepEqual(driver.reclaim(), []);
    });

    it('stop with an error when the ring itself is unmapped', () => {
      const driver = newDriver();
      const ring = newRing(memory, driver.description({ err }));
      unmap(0);
      assert.equal(ring.receive(batch), 0);
      assert.equal(ring.error?.code, 'CLIENT_MEMORY_UNREACHABLE');
      assert.equal(ring.enableNotification(), false);
    });

    it('do not start where the client cannot be written to', () => {
      const driver = newDriver();
      const description = driver.description();
      mmap({
        ...{ address: guest.user(0), length: PAGE_SIZE, prot: PROT_READ },
        flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
      });
      assert.throws(() => newRing(memory, description), RingUnmappedError);
    });

    it('keep what was pulled of frames that wait in the ring', () => {
      const driver = newDriver();
      const ring = newRing(memory, driver.description());
      const frames = [1, 2, 3].map((seed) => frameBytes(1000, seed));
      for (const [i, frame] of frames.entries()) send(driver, BUFFERS + i * PAGE_SIZE, frame);
      assert.equal(ring.receive(batch), 3);
      ring.release(1);
      ring.flush();
      // A driver that writes to what it has given away: nobody looks there again.
      for (let i = 0; i < 3; i++) guest.write(BUFFERS + i * PAGE_SIZE, new Uint8Array(1012).fill(0x99));
      send(driver, BUFFERS + 3 * PAGE_SIZE, frameBytes(500, 4));
      batch.clear();
      assert.equal(ring.receive(batch), 3);
      for (const [i, frame] of [frames[1]!, frames[2]!, frameBytes(500, 4)].entries()) {
        assert.deepEqual(frameOf(batch, i), frame);
      }
    });

    it('give pages back that they have touched, but those of rings and of frames in use', () => {
      const toGuest = newDriver(0);
      const fromGuest = newDriver(0x1_0000);
      const rx = newRing(memory, toGuest.description());
      const tx = newRing(memory, fromGuest.description());
      const mirror = memory.mirror!;
      const BIG = 60_000;
      let most = 0;
      let zeroed = 0;
      for (let i = 0; i < 1500; i++) {
        const from = BUFFERS + (i % 1000) * 0x1_0000;
        const to = from + 64 * MIB >= BUFFERS + 128 * MIB ? from - 32 * MIB : from + 64 * MIB;
        const frame = frameBytes(BIG, i);
        send(fromGuest, from, frame);
        toGuest.add([{ address: to, length: BIG + HEADER.length }], true);
        toGuest.announce();
        batch.clear();
        assert.equal(tx.receive(batch), 1);
        const trims = mirror.trims;
        // Frames are in use: nothing may go, whoever flushes.
        rx.flush();
        assert.equal(mirror.trims, trims);
        assert.equal(rx.deliver(batch, 0, 1), 1);
        tx.release(1);
        tx.flush();
        rx.flush();
        most = Math.max(most, mirror.touchedBytes);
        if (mirror.trims > trims) {
          const here = viewMemory(memory.translate(from, BIG), BIG);
          assert(
            new Uint8Array(here).every((byte) => byte === 0),
            'pages are given back',
          );
          zeroed++;
        }
        assert.equal(fromGuest.reclaim().length, 1);
        const [used] = toGuest.reclaim();
        assert.deepEqual(toGuest.contents(used as never).subarray(HEADER.length), frame);
      }
      assert(zeroed >= 2, `${zeroed} times in 1500 frames of 60 kB`);
      assert(most < 34 * MIB, `${most} bytes`);
      assert.deepEqual([rx.error, tx.error], [null, null]);
    });
  });
}
