import assert from 'node:assert/strict';
import { drainEventfd, eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import type { Arena } from '../../memory/arena.ts';
import { BATCH_FRAMES, type FrameBatch, MAX_FRAME_BYTES, MAX_FRAME_SEGMENTS } from '../../memory/frame-batch.ts';
import { SplitVirtqueue } from '../../vhost/split-virtqueue.ts';
import { BUFFER_TOO_SMALL, NO_BUFFERS, NO_REFUSAL, RING_BROKEN, RingUnmappedError } from '../../vhost/virtqueue.ts';
import { emptyBatch } from '../helpers/arenas.ts';
import { appendFrame, appendFrames, cut, frameBytes, frameOf, join } from '../helpers/frame-bytes.ts';
import { deliverOne } from '../helpers/one-frame.ts';
import {
  ANY_LAYOUT,
  EVENT_IDX,
  IN_ORDER,
  INDIRECT_DESC,
  MEMORIES,
  MRG_RXBUF,
  NOTIFY_ON_EMPTY,
  type PrivateRegions,
  SplitDriver,
  type TestBuffer,
  TestGuest,
  VERSION_1,
} from '../helpers/split-driver.ts';

const MIB = 2 ** 20;
/** Two regions that touch in the guest and not in the client: a buffer may cross BORDER. */
const BORDER = 8 * MIB;
const REGIONS = [
  { guestAddress: 0, size: BORDER, userAddress: 0x7000_0000_0000 },
  { guestAddress: BORDER, size: 8 * MIB, userAddress: 0x7100_0000_0000 },
];
const RING_AT = 0;
const DATA_AT = 2 * MIB;
const LEGACY = ANY_LAYOUT;
const MODERN = ANY_LAYOUT | VERSION_1;

/** The virtio-net header of 10 or 12 bytes (§5.1.6) with every field different. */
function netHeader(bytes: number): Uint8Array {
  return Uint8Array.from([0x01, 0x04, 0x36, 0x12, 0xb4, 0x05, 0x22, 0x01, 0x10, 0x02, 0x00, 0x00].slice(0, bytes));
}

const headerBytes = (features: bigint): number => ((features & (MRG_RXBUF | VERSION_1)) === 0n ? 10 : 12);

for (const { name, arena, isPrivate } of MEMORIES) describe(`SplitVirtqueue ${name}`, () => suite(arena, isPrivate));

function suite(arena: () => Arena, isPrivate?: PrivateRegions): void {
  let guest: TestGuest;
  let batch: FrameBatch;
  let data: number;
  const eventfds: number[] = [];

  beforeEach(() => {
    guest = new TestGuest(REGIONS, isPrivate);
    batch = emptyBatch(arena());
    data = DATA_AT;
  });
  afterEach(() => {
    guest.dispose();
    for (const fd of eventfds.splice(0)) close(fd);
  });

  const newEventfd = (): number => {
    const fd = eventfd();
    eventfds.push(fd);
    return fd;
  };

  /** Buffers one after the other, with a gap, holding these pieces. */
  const place = (pieces: Uint8Array[]): TestBuffer[] =>
    pieces.map((piece) => {
      const buffer = { address: data, length: piece.length };
      guest.write(data, piece);
      data += piece.length + 3;
      return buffer;
    });
  const room = (...lengths: number[]): TestBuffer[] =>
    place(lengths.map((length) => new Uint8Array(length).fill(0xee)));

  const newDriver = (features: bigint, num = 16, base = 0, at = RING_AT): SplitDriver =>
    new SplitDriver(guest, { num, features, at, base });

  /** Posts header and frame, cut as told, and announces it. */
  const send = (driver: SplitDriver, features: bigint, frame: Uint8Array, lengths: number[] = []): void => {
    driver.add(place(cut(join([netHeader(headerBytes(features)), frame]), lengths)), false);
    driver.announce();
  };

  const assertFrame = (i: number, expected: Uint8Array): void => {
    assert.equal(batch.length[i], expected.length);
    assert.deepEqual(frameOf(batch, i), expected);
  };

  const assertHeader = (i: number): void => {
    assert.deepEqual(
      [batch.flags, batch.gsoType, batch.hdrLen, batch.gsoSize, batch.csumStart, batch.csumOffset].map(
        (column) => column[i],
      ),
      [0x01, 0x04, 0x1236, 0x05b4, 0x0122, 0x0210],
    );
  };

  describe('construction', () => {
    it('names the ring when a part is in no memory of the client', () => {
      const driver = newDriver(MODERN);
      const memory = guest.map(arena());
      for (const part of ['desc', 'avail', 'used'] as const) {
        const description = driver.description();
        const addresses = { ...description.addresses, [part]: 0x1234_0000 };
        assert.throws(
          () => new SplitVirtqueue(memory, { ...description, addresses }),
          (error: unknown) => {
            assert(error instanceof RingUnmappedError);
            assert.match(error.message, /virtqueue of 16 entries/);
            assert.match(error.message, new RegExp(`${part} 0x12340000`));
            assert.match(error.message, /is not in memory that a region of the memory table names/);
            return true;
          },
        );
      }
    });

    it('refuses a ring whose last byte lies outside, and takes one that ends with the region', () => {
      const num = 256;
      const usedBytes = 6 + 8 * num;
      const memory = guest.map(arena());
      const driver = newDriver(MODERN | EVENT_IDX, num);
      const description = driver.description();
      const end = REGIONS[0]!.userAddress + BORDER;
      const at = (used: number) => ({ ...description, addresses: { ...description.addresses, used } });
      assert.throws(() => new SplitVirtqueue(memory, at(end - usedBytes + 2)), RingUnmappedError);
      assert.equal(new SplitVirtqueue(memory, at(end - usedBytes)).error, null);
    });

    it('goes on at the used index that the memory has, and clears used.flags', () => {
      const driver = new SplitDriver(guest, { num: 4, features: MODERN, at: RING_AT, base: 7, usedBase: 5 });
      guest.write16(driver.used, 1);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      assert.equal(queue.base, 7);
      assert.equal(queue.usedIdx, 5);
      assert.equal(guest.read16(driver.used), 0);
    });

    it('takes a descriptor table at an odd address, as Linux does', () => {
      const driver = newDriver(MODERN, 16, 0, RING_AT + 1);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const frame = frameBytes(64, 1);
      send(driver, MODERN, frame);
      assert.equal(queue.receive(batch), 1);
      assertFrame(0, frame);
    });
  });

  describe('receive', () => {
    for (const features of [LEGACY, MODERN, LEGACY | MRG_RXBUF]) {
      const header = headerBytes(features);
      it(`takes the ${header}-byte header cut at every place (features 0x${features.toString(16)})`, () => {
        const driver = newDriver(features, 64);
        const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
        for (let at = 0; at <= header + 3; at++) {
          const frame = frameBytes(200, at);
          send(driver, features, frame, [at, 5, 1]);
          batch.clear();
          assert.equal(queue.receive(batch), 1);
          assertFrame(0, frame);
          assertHeader(0);
          queue.release(1);
          queue.flush();
          assert.deepEqual(
            driver.reclaim().map((used) => used.length),
            [0],
          );
        }
        assert.equal(queue.error, null);
      });
    }

    it('takes header and frame byte by byte over descriptors', () => {
      const driver = newDriver(MODERN, 256);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const frame = frameBytes(200, 3);
      send(driver, MODERN, frame, new Array(211).fill(1));
      assert.equal(queue.receive(batch), 1);
      assertFrame(0, frame);
      assertHeader(0);
    });

    it('skips empty buffers wherever they stand', () => {
      const driver = newDriver(MODERN);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const frame = frameBytes(300, 4);
      send(driver, MODERN, frame, [0, 12, 0, 0, 100, 0, 200, 0]);
      assert.equal(queue.receive(batch), 1);
      assertFrame(0, frame);
    });

    it('asks no address of an empty buffer', () => {
      const driver = newDriver(MODERN);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const frame = frameBytes(60, 4);
      const [buffer] = place([join([netHeader(12), frame])]);
      driver.add([{ address: 2 ** 45, length: 0 }, buffer!], false);
      driver.announce();
      assert.equal(queue.receive(batch), 1);
      assertFrame(0, frame);
    });

    it('takes a chain of as many buffers as a frame may have, and as many as the ring', () => {
      const driver = newDriver(MODERN, MAX_FRAME_SEGMENTS);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const frame = frameBytes(10_000, 5);
      send(driver, MODERN, frame, new Array(MAX_FRAME_SEGMENTS - 1).fill(1));
      assert.equal(driver.freeDescriptors, 0);
      assert.equal(queue.receive(batch), 1);
      assertFrame(0, frame);
    });

    it('takes indirect tables, alone and at the end of a chain', () => {
      const features = MODERN | INDIRECT_DESC;
      const driver = newDriver(features);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const frames = [frameBytes(900, 6), frameBytes(901, 7)];
      for (const [direct, frame] of frames.entries()) {
        const pieces = place(cut(join([netHeader(12), frame]), [5, 10, 0, 300, 1]));
        const [table] = room(16 * 16);
        driver.addIndirect(pieces, false, table!.address, 2 * direct);
      }
      driver.announce();
      assert.equal(queue.receive(batch), 2);
      for (const [i, frame] of frames.entries()) assertFrame(i, frame);
      queue.release(2);
      queue.flush();
      assert.equal(driver.reclaim().length, 2);
      assert.equal(driver.freeDescriptors, 16);
    });

    it('takes an indirect table and buffers that lie across two mapped regions', () => {
      const features = MODERN | INDIRECT_DESC;
      const driver = newDriver(features);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const frame = frameBytes(1000, 8);
      const whole = join([netHeader(12), frame]);
      for (const before of [1, 12, 13, 500, 1011]) {
        guest.write(BORDER - before, whole);
        const table = BORDER + 4096;
        driver.addIndirect([{ address: BORDER - before, length: whole.length }], false, table);
        driver.announce();
        batch.clear();
        assert.equal(queue.receive(batch), 1);
        assertFrame(0, frame);
        queue.release(1);
        queue.flush();
        driver.reclaim();
      }
      const pieces = place(cut(whole, [20, 30, 40]));
      driver.addIndirect(pieces, false, BORDER - 24);
      driver.announce();
      batch.clear();
      assert.equal(queue.receive(batch), 1);
      assertFrame(0, frame);
    });

    for (const length of [14, 15, 59, 60, 115, 116, 127, 128, 129, 1514, 9014, 65_535, MAX_FRAME_BYTES]) {
      it(`takes a frame of ${length} bytes`, () => {
        const driver = newDriver(MODERN);
        const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
        const frame = frameBytes(length, 9);
        send(driver, MODERN, frame);
        assert.equal(queue.receive(batch), 1);
        assertFrame(0, frame);
      });
    }

    it('throws frames of wrong length away, counts them, and keeps the order of used entries', () => {
      const driver = newDriver(MODERN);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const good = [frameBytes(100, 1), frameBytes(101, 2), frameBytes(102, 3)];
      const bad = [0, 1, 13, MAX_FRAME_BYTES + 1].map((length) => frameBytes(length, 4));
      const order = [good[0]!, good[1]!, bad[0]!, bad[1]!, bad[2]!, good[2]!, bad[3]!];
      const heads = order.map((frame) => driver.add(place([join([netHeader(12), frame])]), false));
      // Shorter than the header itself, and a chain of nothing.
      heads.push(driver.add(place([netHeader(11)]), false), driver.add(place([new Uint8Array(0)]), false));
      driver.announce();
      const got: Uint8Array[] = [];
      for (let round = 0; round < 10; round++) {
        batch.clear();
        const frames = queue.receive(batch);
        for (let i = 0; i < frames; i++) got.push(frameOf(batch, i));
        queue.release(frames);
      }
      queue.flush();
      assert.deepEqual(got, good);
      assert.equal(queue.malformed, 6);
      assert.deepEqual(
        driver.reclaim().map((used) => used.head),
        heads,
      );
      assert.equal(queue.error, null);
    });

    it('looks at no more chains in one go than a batch has frames, though all are malformed', () => {
      const driver = newDriver(MODERN, 256);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      for (let i = 0; i < 100; i++) driver.add(place([new Uint8Array(5)]), false);
      driver.announce();
      assert.equal(queue.receive(batch), 0);
      assert.equal(queue.malformed, BATCH_FRAMES);
      assert.equal(queue.enableNotification(), true, 'there is more: it must not sleep');
      for (let i = 0; i < 3; i++) queue.receive(batch);
      assert.equal(queue.malformed, 100);
    });

    it('fills a batch and leaves the rest for the next', () => {
      const driver = newDriver(MODERN, 256);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const count = BATCH_FRAMES + 18;
      const frames = Array.from({ length: count }, (_, i) => frameBytes(60 + i, i));
      for (const frame of frames) send(driver, MODERN, frame);
      assert.equal(queue.receive(batch), BATCH_FRAMES);
      queue.release(BATCH_FRAMES);
      for (let i = 0; i < BATCH_FRAMES; i++) assertFrame(i, frames[i]!);
      batch.clear();
      assert.equal(queue.receive(batch), count - BATCH_FRAMES);
      for (let i = BATCH_FRAMES; i < count; i++) assertFrame(i - BATCH_FRAMES, frames[i]!);
    });

    it('appends to what is in the batch already', () => {
      const driver = newDriver(MODERN);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const mine = frameBytes(777, 1);
      appendFrame(batch, [mine]);
      const theirs = frameBytes(500, 2);
      send(driver, MODERN, theirs, [30, 200]);
      assert.equal(queue.receive(batch), 1);
      assertFrame(0, mine);
      assertFrame(1, theirs);
    });

    it('decides on its copy of the first bytes, whatever the driver writes later', () => {
      const driver = newDriver(MODERN);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const frame = frameBytes(128, 1);
      const [buffer] = place([join([netHeader(12), frame])]);
      driver.add([buffer!], false);
      driver.announce();
      queue.receive(batch);
      guest.write(buffer!.address, new Uint8Array(buffer!.length).fill(0xff));
      assertFrame(0, frame);
    });

    it('gives back what was not released, in order', () => {
      const driver = newDriver(MODERN);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const frames = Array.from({ length: 6 }, (_, i) => frameBytes(60 + i, i));
      for (const frame of frames) send(driver, MODERN, frame);
      const seen: number[] = [];
      for (const count of [0, 2, 1, 0, 3]) {
        batch.clear();
        const received = queue.receive(batch);
        assert.equal(received, 6 - seen.length);
        for (let i = 0; i < received; i++) assertFrame(i, frames[seen.length + i]!);
        assert.equal(queue.base, seen.length, 'a successor would start with what is not released');
        queue.release(count);
        assert.equal(queue.base, seen.length + count);
        queue.flush();
        seen.push(...driver.reclaim().map((used) => used.head));
      }
      assert.deepEqual(seen, [0, 1, 2, 3, 4, 5]);
    });
  });

  describe('deliver', () => {
    const load = (frame: Uint8Array, lengths: number[] = []): void => {
      batch.clear();
      appendFrame(batch, cut(frame, lengths));
      batch.flags[0] = 0x01;
      batch.gsoType[0] = 0x04;
      batch.hdrLen[0] = 0x1236;
      batch.gsoSize[0] = 0x05b4;
      batch.csumStart[0] = 0x0122;
      batch.csumOffset[0] = 0x0210;
    };
    const withBuffers = (features: bigint, count: number): Uint8Array =>
      Uint8Array.from([...netHeader(10), ...(headerBytes(features) === 12 ? [count & 0xff, count >> 8] : [])]);

    for (const features of [LEGACY, MODERN, MODERN | MRG_RXBUF]) {
      const header = headerBytes(features);
      it(`writes a ${header}-byte header over buffers of any cut (features 0x${features.toString(16)})`, () => {
        const driver = newDriver(features, 512);
        const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
        const frame = frameBytes(300, 1);
        for (const lengths of [[header + 300], [1, 1, 5, 0, 400], [header, 300], [0, 900], new Array(400).fill(1)]) {
          load(frame, [100, 0, 29]);
          driver.add(room(...lengths), true);
          driver.announce();
          assert.equal(deliverOne(queue, batch), NO_REFUSAL);
          queue.flush();
          const [used] = driver.reclaim();
          assert.equal(used!.length, header + 300);
          assert.deepEqual(driver.contents(used!), join([withBuffers(features, 1), frame]));
        }
      });
    }

    it('touches nothing behind the frame in the buffers', () => {
      const driver = newDriver(MODERN);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const buffers = room(50, 100, 40);
      driver.add(buffers, true);
      driver.announce();
      load(frameBytes(60, 1));
      assert.equal(deliverOne(queue, batch), NO_REFUSAL);
      assert.deepEqual(guest.read(buffers[1]!.address + 22, 78), new Uint8Array(78).fill(0xee));
      assert.deepEqual(guest.read(buffers[2]!.address, 40), new Uint8Array(40).fill(0xee));
    });

    it('gathers buffers with MRG_RXBUF: num_buffers, and a used length for each', () => {
      const features = MODERN | MRG_RXBUF;
      const driver = newDriver(features);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      for (const lengths of [[20], [300, 5], [300], [9000]]) driver.add(room(...lengths), true);
      driver.announce();
      const frame = frameBytes(1000, 2);
      load(frame, [500]);
      assert.equal(deliverOne(queue, batch), NO_REFUSAL);
      queue.flush();
      const used = driver.reclaim();
      assert.deepEqual(
        used.map(({ length }) => length),
        [20, 305, 300, 1012 - 625],
      );
      assert.deepEqual(join(used.map((chain) => driver.contents(chain))), join([withBuffers(features, 4), frame]));
    });

    it('fills the last gathered buffer exactly, and then does not take another', () => {
      const features = MODERN | MRG_RXBUF;
      const driver = newDriver(features);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      for (let i = 0; i < 3; i++) driver.add(room(56), true);
      driver.announce();
      load(frameBytes(100, 2));
      assert.equal(deliverOne(queue, batch), NO_REFUSAL);
      queue.flush();
      assert.deepEqual(
        driver.reclaim().map(({ length }) => length),
        [56, 56],
      );
      assert.equal(queue.base, 2);
    });

    it('spreads the longest frame over as many buffers as a frame may have', () => {
      const features = MODERN | MRG_RXBUF;
      const driver = newDriver(features, 2048);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const frame = frameBytes(MAX_FRAME_BYTES, 3);
      for (let i = 0; i < MAX_FRAME_SEGMENTS; i++) driver.add(room(65), true);
      driver.announce();
      load(frame);
      assert.equal(deliverOne(queue, batch), NO_REFUSAL);
      queue.flush();
      const used = driver.reclaim();
      const needed = Math.ceil((frame.length + 12) / 65);
      assert.equal(used.length, needed);
      assert.deepEqual(join(used.map((chain) => driver.contents(chain))), join([withBuffers(features, needed), frame]));
    });

    it('gathers a long chain after another that is nearly as long as a chain may be', () => {
      const features = MODERN | MRG_RXBUF;
      const driver = newDriver(features, 2048);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const frame = frameBytes(30_000, 3);
      for (const [count, length] of [
        [1000, 1],
        [500, 100],
      ] as const) {
        driver.add(room(...new Array(count).fill(length)), true);
      }
      driver.announce();
      load(frame);
      assert.equal(deliverOne(queue, batch), NO_REFUSAL);
      queue.flush();
      const used = driver.reclaim();
      assert.deepEqual(join(used.map((chain) => driver.contents(chain))), join([withBuffers(features, 2), frame]));
    });

    it('refuses a frame that would need too many tiny buffers, and the ring lives on', () => {
      const features = MODERN | MRG_RXBUF;
      const driver = newDriver(features, 4096);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      for (let i = 0; i < 4096; i++) driver.add(room(20), true);
      driver.announce();
      load(frameBytes(MAX_FRAME_BYTES, 3));
      assert.equal(deliverOne(queue, batch), BUFFER_TOO_SMALL);
      assert.equal(queue.error, null);
      load(frameBytes(60, 3));
      assert.equal(deliverOne(queue, batch), NO_REFUSAL);
    });

    it('says BUFFER_TOO_SMALL without MRG_RXBUF and takes nothing', () => {
      const driver = newDriver(MODERN);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const buffers = room(40, 31);
      driver.add(buffers, true);
      driver.add(room(500), true);
      driver.announce();
      load(frameBytes(60, 1));
      assert.equal(deliverOne(queue, batch), BUFFER_TOO_SMALL);
      queue.flush();
      assert.deepEqual(driver.reclaim(), []);
      assert.equal(queue.base, 0);
      assert.deepEqual(guest.read(buffers[0]!.address, 40), new Uint8Array(40).fill(0xee));
      load(frameBytes(59, 1));
      assert.equal(deliverOne(queue, batch), NO_REFUSAL, 'a frame that fits goes into the same buffer');
    });

    it('says NO_BUFFERS until they have arrived', () => {
      const driver = newDriver(MODERN | MRG_RXBUF);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      load(frameBytes(100, 1));
      assert.equal(deliverOne(queue, batch), NO_BUFFERS);
      driver.add(room(100), true);
      driver.announce();
      assert.equal(deliverOne(queue, batch), NO_BUFFERS, 'one of two buffers is not enough');
      driver.add(room(100), true);
      assert.equal(deliverOne(queue, batch), NO_BUFFERS, 'the second is not announced');
      driver.announce();
      assert.equal(deliverOne(queue, batch), NO_REFUSAL);
      queue.flush();
      assert.equal(driver.reclaim().length, 2);
    });

    it('delivers into buffers across two mapped regions and through indirect tables', () => {
      const features = MODERN | INDIRECT_DESC;
      const driver = newDriver(features);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const frame = frameBytes(1000, 1);
      for (const before of [1, 11, 12, 13, 600, 1011]) {
        load(frame);
        const [table] = room(64);
        driver.addIndirect([{ address: BORDER - before, length: 1012 }], true, table!.address);
        driver.announce();
        assert.equal(deliverOne(queue, batch), NO_REFUSAL);
        queue.flush();
        const [used] = driver.reclaim();
        assert.deepEqual(driver.contents(used!), join([withBuffers(features, 1), frame]));
      }
    });

    it('delivers one frame to several rings, each with its own header form', () => {
      const rings = [LEGACY, MODERN | MRG_RXBUF].map((features, i) => {
        const driver = newDriver(features, 16, 0, RING_AT + i * 4096);
        return { features, driver, queue: new SplitVirtqueue(guest.map(arena()), driver.description()) };
      });
      const frame = frameBytes(200, 1);
      load(frame);
      for (const { features, driver, queue } of rings) {
        for (let i = 0; i < 3; i++) driver.add(room(features === LEGACY ? 400 : 100), true);
        driver.announce();
        assert.equal(deliverOne(queue, batch), NO_REFUSAL);
        queue.flush();
        const used = driver.reclaim();
        assert.deepEqual(
          join(used.map((chain) => driver.contents(chain))),
          join([withBuffers(features, used.length), frame]),
        );
      }
      assertFrame(0, frame);
    });

    it('carries a received frame from ring to ring', () => {
      const from = newDriver(MODERN);
      const to = newDriver(MODERN, 16, 0, RING_AT + 4096);
      const memory = guest.map(arena());
      const tx = new SplitVirtqueue(memory, from.description());
      const rx = new SplitVirtqueue(memory, to.description());
      const frame = frameBytes(MAX_FRAME_BYTES, 1);
      send(from, MODERN, frame, [7, 3000, 0, 17, 20000]);
      to.add(room(30, 40_000, 40_000), true);
      to.announce();
      assert.equal(tx.receive(batch), 1);
      assert.equal(deliverOne(rx, batch), NO_REFUSAL);
      rx.flush();
      const [used] = to.reclaim();
      assert.deepEqual(to.contents(used!), join([withBuffers(MODERN, 1), frame]));
    });
  });

  describe('several frames in one deliver', () => {
    const FRAMES = 6;
    const frames = Array.from({ length: FRAMES }, (_, i) => frameBytes(100 + 300 * i, i));
    const header = Uint8Array.of(...new Uint8Array(10), 1, 0);
    /** How a buffer of this many bytes is given. */
    const kinds: Record<string, (driver: SplitDriver, bytes: number, i: number) => TestBuffer[]> = {
      'one buffer': (driver, bytes) => giveBuffers(driver, [bytes]),
      'two buffers': (driver, bytes) => giveBuffers(driver, [30, bytes - 30]),
      'an indirect table': (driver, bytes) => {
        const buffers = room(bytes - 5, 5);
        driver.addIndirect(buffers, true, room(32)[0]!.address);
        return buffers;
      },
      'one buffer and two by turns': (driver, bytes, i) =>
        giveBuffers(driver, i % 2 === 0 ? [bytes] : [20, bytes - 20]),
    };
    const giveBuffers = (driver: SplitDriver, lengths: number[]): TestBuffer[] => {
      const buffers = room(...lengths);
      driver.add(buffers, true);
      return buffers;
    };
    const loadAll = (): void => {
      batch.clear();
      appendFrames(batch, frames);
    };
    const assertUntouched = (buffers: TestBuffer[]): void => {
      for (const { address, length } of buffers) {
        assert.deepEqual(guest.read(address, length), new Uint8Array(length).fill(0xee));
      }
    };
    /** The driver finds exactly these frames, one a chain. */
    const assertUsed = (driver: SplitDriver, queue: SplitVirtqueue, expected: Uint8Array[]): void => {
      assert.equal(driver.usedIdx, queue.usedIdx, 'nothing is published before flush');
      queue.flush();
      const used = driver.reclaim();
      assert.deepEqual(
        used.map((chain) => driver.contents(chain)),
        expected.map((frame) => join([header, frame])),
      );
    };

    for (const [kind, give] of Object.entries(kinds)) {
      for (let k = 0; k <= FRAMES; k++) {
        it(`takes the first ${k} into ${kind} each: then there are NO_BUFFERS`, () => {
          const features = MODERN | INDIRECT_DESC;
          const driver = newDriver(features, 64, 0xfffd);
          const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
          for (let i = 0; i < k; i++) give(driver, 3000, i);
          driver.announce();
          loadAll();
          assert.equal(queue.deliver(batch, 0, FRAMES), k);
          assert.equal(queue.refusal, k === FRAMES ? NO_REFUSAL : NO_BUFFERS);
          assertUsed(driver, queue, frames.slice(0, k));
          if (k === FRAMES) return;
          for (let i = k; i < FRAMES; i++) give(driver, 3000, i);
          driver.announce();
          assert.equal(queue.deliver(batch, k, FRAMES), FRAMES - k);
          assert.equal(queue.refusal, NO_REFUSAL);
          assertUsed(driver, queue, frames.slice(k));
          assert.equal(queue.base, (0xfffd + FRAMES) & 0xffff);
        });

        if (k === FRAMES) continue;
        it(`takes the first ${k} into ${kind} each: then the BUFFER_TOO_SMALL`, () => {
          const features = MODERN | INDIRECT_DESC;
          const driver = newDriver(features, 64);
          const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
          for (let i = 0; i < k; i++) give(driver, 3000, i);
          const small = give(driver, 12 + frames[k]!.length - 1, k);
          const behind = give(driver, 3000, k + 1);
          driver.announce();
          loadAll();
          assert.equal(queue.deliver(batch, 0, FRAMES), k);
          assert.equal(queue.refusal, BUFFER_TOO_SMALL);
          assertUsed(driver, queue, frames.slice(0, k));
          assertUntouched([...small, ...behind]);
          assert.equal(queue.base, k);
          assert.equal(queue.error, null);
        });

        it(`takes the first ${k} into ${kind} each: then the RING_BROKEN`, () => {
          const features = MODERN | INDIRECT_DESC;
          const driver = newDriver(features, 64);
          const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
          for (let i = 0; i < k; i++) give(driver, 3000, i);
          driver.add([{ address: 2 ** 40, length: 3000 }], true);
          const behind = give(driver, 3000, k + 1);
          driver.announce();
          loadAll();
          assert.equal(queue.deliver(batch, 0, FRAMES), k);
          assert.equal(queue.refusal, RING_BROKEN);
          assert.equal(queue.error?.code, 'BUFFER_UNMAPPED');
          assert.equal(queue.deliver(batch, k + 1, FRAMES), 0);
          assert.equal(queue.refusal, RING_BROKEN);
          assertUsed(driver, queue, frames.slice(0, k));
          assertUntouched(behind);
          assert.equal(queue.base, k);
        });
      }
    }

    it('gives each its buffers with MRG_RXBUF, and the next one the rest', () => {
      const features = MODERN | MRG_RXBUF;
      const driver = newDriver(features, 64);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      for (let i = 0; i < 20; i++) giveBuffers(driver, [500]);
      driver.announce();
      loadAll();
      const needed = frames.map((frame) => Math.ceil((12 + frame.length) / 500));
      assert.deepEqual(needed, [1, 1, 2, 3, 3, 4]);
      assert.equal(queue.deliver(batch, 0, FRAMES), FRAMES);
      queue.flush();
      const used = driver.reclaim();
      for (const [i, frame] of frames.entries()) {
        const mine = used.splice(0, needed[i]!);
        const numBuffers = Uint8Array.of(...new Uint8Array(10), needed[i]!, 0);
        assert.deepEqual(join(mine.map((chain) => driver.contents(chain))), join([numBuffers, frame]));
      }
      assert.deepEqual(used, []);
    });
  });

  describe('in order (VIRTIO_F_IN_ORDER, §2.7.9)', () => {
    const features = MODERN | IN_ORDER;
    const base = 0xfffd;

    it('gives the frames of a batch back with one used entry: at the slot of the first, with the head of the last', () => {
      const driver = newDriver(features, 8, base);
      guest.write(driver.used + 4, new Uint8Array(8 * 8).fill(0xee));
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const heads: number[] = [];
      for (let i = 0; i < 8; i++) {
        // Chains of one descriptor and of two: heads are not just numbers in a row.
        heads.push(driver.add(place(cut(join([netHeader(12), frameBytes(60, i)]), i < 3 ? [12] : [])), false));
        if (driver.freeDescriptors < 2) break;
      }
      driver.announce();
      const untouched = { id: 0xeeee_eeee, length: 0xeeee_eeee };
      let done = 0;
      for (const count of [2, 0, 1, heads.length - 3]) {
        batch.clear();
        assert.equal(queue.receive(batch), heads.length - done);
        assertFrame(0, frameBytes(60, done));
        queue.release(count);
        queue.flush();
        const slot = base + done;
        if (count > 0) assert.deepEqual(driver.usedEntry(slot), { id: heads[done + count - 1], length: 0 });
        for (let skipped = 1; skipped < count; skipped++) assert.deepEqual(driver.usedEntry(slot + skipped), untouched);
        done += count;
        assert.equal(driver.usedIdx, (base + done) & 0xffff);
        assert.equal(queue.usedIdx, (base + done) & 0xffff);
      }
      assert.deepEqual(
        driver.reclaim().map(({ head }) => head),
        heads,
      );
      assert.equal(queue.enableNotification(), false);
    });

    it('counts what is no frame in as well', () => {
      const driver = newDriver(features, 16, base);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      for (const length of [5, 60, 61, 3, 62]) {
        driver.add(place([join([netHeader(12), frameBytes(length, length)])]), false);
      }
      driver.announce();
      const got: number[] = [];
      for (let round = 0; round < 5; round++) {
        batch.clear();
        const received = queue.receive(batch);
        for (let i = 0; i < received; i++) got.push(batch.length[i]!);
        queue.release(received);
      }
      queue.flush();
      assert.deepEqual(got, [60, 61, 62]);
      assert.equal(queue.malformed, 2);
      assert.deepEqual(
        driver.reclaim().map(({ head }) => head),
        [0, 1, 2, 3, 4],
      );
    });

    it('calls when used_event is among the entries that were skipped', () => {
      const driver = newDriver(features | EVENT_IDX, 16);
      const call = newEventfd();
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description({ call }));
      for (const [usedEvent, expected] of [
        [0, true],
        [4, true],
        [9, false],
        [10, true],
      ] as const) {
        driver.setUsedEvent(usedEvent);
        for (let i = 0; i < 3; i++) send(driver, features, frameBytes(60, i));
        batch.clear();
        assert.equal(queue.receive(batch), 3);
        queue.release(3);
        queue.flush();
        assert.equal(drainEventfd(call), expected, `${usedEvent}`);
        assert.equal(driver.reclaim().length, 3);
      }
    });

    it('says the length of every buffer in a receive ring, batch or not', () => {
      const driver = newDriver(features | MRG_RXBUF, 8, base);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const heads = [100, 500, 50, 50].map((length) => driver.add(room(length), true));
      driver.announce();
      batch.clear();
      appendFrames(batch, [frameBytes(60, 1), frameBytes(300, 2), frameBytes(88, 3)]);
      assert.equal(queue.deliver(batch, 0, 3), 3);
      queue.flush();
      assert.deepEqual(
        [0, 1, 2, 3].map((i) => driver.usedEntry(base + i)),
        [72, 312, 50, 50].map((length, i) => ({ id: heads[i], length })),
      );
    });
  });

  describe('ring sizes and indices', () => {
    for (let num = 1; num <= 32_768; num *= 2) {
      it(`works with ${num} entries, from full to empty, over the wrap of the index`, () => {
        const features = MODERN | EVENT_IDX;
        const base = 0x10000 - Math.ceil(num / 2);
        const driver = newDriver(features, num, base);
        const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
        const frame = frameBytes(60, num);
        const [buffer] = place([join([netHeader(12), frame])]);
        for (let i = 0; i < num; i++) driver.add([buffer!], false);
        driver.announce();
        let received = 0;
        while (received < num) {
          batch.clear();
          const frames = queue.receive(batch);
          assert(frames > 0, `stuck at ${received}`);
          assertFrame(0, frame);
          queue.release(frames);
          queue.flush();
          received += frames;
        }
        assert.equal(driver.reclaim().length, num);
        assert.equal(queue.base, (base + num) % 0x10000);
        assert.equal(queue.usedIdx, (base + num) % 0x10000);
        assert.equal(queue.error, null);
      });
    }

    for (const base of [0, 1, 255, 256, 32_767, 65_534, 65_535]) {
      it(`starts and restarts at base ${base}`, () => {
        const driver = newDriver(MODERN, 4, base);
        let queue = new SplitVirtqueue(guest.map(arena()), driver.description());
        for (let i = 0; i < 10; i++) {
          const frame = frameBytes(70, i);
          send(driver, MODERN, frame);
          send(driver, MODERN, frameBytes(80, i));
          batch.clear();
          assert.equal(queue.receive(batch), 2);
          assertFrame(0, frame);
          queue.release(1);
          queue.flush();
          queue = new SplitVirtqueue(guest.map(arena()), driver.description({ base: queue.base }));
          batch.clear();
          assert.equal(queue.receive(batch), 1);
          assertFrame(0, frameBytes(80, i));
          queue.release(1);
          queue.flush();
          assert.equal(driver.reclaim().length, 2);
        }
        assert.equal(queue.base, (base + 20) % 0x10000);
      });
    }
  });

  describe('calls (§2.7.7)', () => {
    const one = (features: bigint, base = 0) => {
      const driver = newDriver(features, 16, base);
      const call = newEventfd();
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description({ call }));
      const use = (frames = 1): boolean => {
        for (let i = 0; i < frames; i++) send(driver, features, frameBytes(60, i));
        batch.clear();
        assert.equal(queue.receive(batch), frames);
        queue.release(frames);
        queue.flush();
        driver.reclaim();
        return drainEventfd(call);
      };
      return { driver, queue, call, use };
    };

    it('calls once a flush unless NO_INTERRUPT is set, and counts both', () => {
      const { driver, queue, use } = one(MODERN);
      assert.equal(use(), true);
      driver.setNoInterrupt(true);
      assert.equal(use(3), false);
      driver.setNoInterrupt(false);
      assert.equal(use(3), true);
      assert.deepEqual([queue.calls, queue.callsSuppressed], [2, 1]);
    });

    it('does nothing in flush when nothing was used', () => {
      const { queue, call } = one(MODERN);
      queue.flush();
      assert.equal(drainEventfd(call), false);
      assert.deepEqual([queue.calls, queue.callsSuppressed], [0, 0]);
    });

    it('publishes used.idx in flush only', () => {
      const { driver, queue } = one(MODERN);
      send(driver, MODERN, frameBytes(60, 0));
      queue.receive(batch);
      queue.release(1);
      assert.equal(driver.usedIdx, 0);
      assert.equal(queue.usedIdx, 0);
      queue.flush();
      assert.equal(driver.usedIdx, 1);
      assert.equal(queue.usedIdx, 1);
    });

    it('works without a call eventfd', () => {
      const { queue, use } = one(MODERN);
      queue.call = -1;
      assert.equal(use(), false);
      assert.equal(queue.calls, 1);
    });

    it('always calls first with EVENT_IDX, then only when used_event is crossed', () => {
      const { driver, use } = one(MODERN | EVENT_IDX, 65_530);
      driver.setUsedEvent(1000);
      assert.equal(use(), true, 'the first decision');
      assert.equal(use(), false);
      driver.setUsedEvent(65_533);
      assert.equal(use(), false, 'entry 65532 is not the one');
      assert.equal(use(), true, 'entry 65533 is');
      assert.equal(use(), false);
      driver.setUsedEvent(2);
      assert.equal(use(3), false, '65535, 0, 1');
      assert.equal(use(3), true, '2, 3, 4');
      driver.setUsedEvent(4);
      assert.equal(use(5), false, 'it is behind');
    });

    it('ignores NO_INTERRUPT with EVENT_IDX (§2.7.7.2)', () => {
      const { driver, use } = one(MODERN | EVENT_IDX);
      driver.setNoInterrupt(true);
      driver.setUsedEvent(1);
      use();
      assert.equal(use(), true);
    });

    it('calls when the ring is empty with NOTIFY_ON_EMPTY, though NO_INTERRUPT is set', () => {
      const features = MODERN | NOTIFY_ON_EMPTY;
      const { driver, queue, call, use } = one(features);
      driver.setNoInterrupt(true);
      assert.equal(use(2), true);
      for (let i = 0; i < 2; i++) send(driver, features, frameBytes(60, i));
      batch.clear();
      queue.receive(batch);
      queue.release(1);
      queue.flush();
      assert.equal(drainEventfd(call), false, 'one chain waits still');
    });
  });

  describe('kicks (§2.7.10)', () => {
    const post = (driver: SplitDriver): boolean => {
      driver.add(place([join([netHeader(12), frameBytes(60, 0)])]), false);
      return driver.announce();
    };
    const drain = (queue: SplitVirtqueue): number => {
      batch.clear();
      const frames = queue.receive(batch);
      queue.release(frames);
      queue.flush();
      return frames;
    };

    it('sets and clears NO_NOTIFY without EVENT_IDX', () => {
      const driver = newDriver(MODERN);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      assert.equal(post(driver), true, 'a ring starts asking for kicks');
      queue.disableNotification();
      assert.equal(post(driver), false);
      assert.equal(drain(queue), 2);
      assert.equal(queue.enableNotification(), false);
      assert.equal(post(driver), true);
    });

    it('moves avail_event with EVENT_IDX', () => {
      const driver = newDriver(MODERN | EVENT_IDX, 16, 65_534);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      assert.equal(queue.enableNotification(), false);
      assert.equal(post(driver), true);
      queue.disableNotification();
      assert.equal(post(driver), false);
      assert.equal(post(driver), false);
      assert.equal(guest.read16(driver.used), 0, 'used.flags stays 0 with EVENT_IDX');
      assert.equal(drain(queue), 3);
      assert.equal(queue.enableNotification(), false);
      driver.add(place([join([netHeader(12), frameBytes(60, 0)])]), false);
      driver.add(place([join([netHeader(12), frameBytes(60, 0)])]), false);
      assert.equal(driver.announce(), true, 'a burst that crosses avail_event');
    });

    it('is not kicked while it polls, with EVENT_IDX neither, whether the driver went on meanwhile or not', () => {
      for (const waiting of [0, 1, 16]) {
        const driver = newDriver(MODERN | EVENT_IDX, 16, 65_534);
        const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
        assert.equal(queue.enableNotification(), false);
        for (let i = 0; i < waiting; i++) driver.add(place([join([netHeader(12), frameBytes(60, 0)])]), false);
        driver.announce();
        queue.disableNotification();
        for (let rounds = 0; rounds < 100; rounds++) {
          drain(queue);
          driver.reclaim();
          assert.equal(post(driver), false);
        }
      }
    });

    for (const features of [MODERN, MODERN | EVENT_IDX]) {
      it(`says to look again when a buffer came before the wish was seen (0x${features.toString(16)})`, () => {
        const driver = newDriver(features);
        const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
        queue.disableNotification();
        post(driver);
        assert.equal(queue.enableNotification(), true);
        assert.equal(drain(queue), 1);
        assert.equal(queue.enableNotification(), false);
      });
    }

    it('clears NO_NOTIFY for a successor', () => {
      const driver = newDriver(MODERN);
      new SplitVirtqueue(guest.map(arena()), driver.description()).disableNotification();
      assert.equal(guest.read16(driver.used), 1);
      new SplitVirtqueue(guest.map(arena()), driver.description());
      assert.equal(post(driver), true);
    });
  });

  describe('remap', () => {
    it('goes on in another mapping of the memory, with the old one gone', () => {
      const driver = newDriver(MODERN);
      const old = guest.map(arena());
      const queue = new SplitVirtqueue(old, driver.description());
      send(driver, MODERN, frameBytes(60, 1));
      queue.receive(batch);
      queue.release(1);
      queue.remap(guest.map(arena()));
      old.unmap();
      queue.flush();
      assert.equal(driver.reclaim().length, 1);
      send(driver, MODERN, frameBytes(61, 2), [5, 20]);
      batch.clear();
      assert.equal(queue.receive(batch), 1);
      assertFrame(0, frameBytes(61, 2));
    });

    it('keeps the old memory when the ring is not in the new one', () => {
      const driver = newDriver(MODERN);
      const queue = new SplitVirtqueue(guest.map(arena()), driver.description());
      const other = new TestGuest([{ guestAddress: 0, size: 4096, userAddress: 0x1_0000 }], isPrivate);
      try {
        assert.throws(() => queue.remap(other.map(arena())), RingUnmappedError);
      } finally {
        other.dispose();
      }
      send(driver, MODERN, frameBytes(60, 1));
      assert.equal(queue.receive(batch), 1);
      assertFrame(0, frameBytes(60, 1));
    });
  });
}
