import assert from 'node:assert/strict';
import fc from 'fast-check';
import { eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { BATCH_FRAMES, type FrameBatch, MAX_FRAME_BYTES } from '../../memory/frame-batch.ts';
import { TX_DROP_NO_BUFFERS, TX_DROP_RING_BROKEN, TX_DROP_TOO_BIG } from '../../switch/counters.ts';
import { GuestQueue, INBOX_BYTES, OUTBOX_BYTES } from '../../switch/guest-queue.ts';
import { TRANSMITTED } from '../../switch/port.ts';
import type { RingError } from '../../vhost/ring-error.ts';
import { SplitVirtqueue } from '../../vhost/split-virtqueue.ts';
import { emptyBatch, wasmArena } from '../helpers/arenas.ts';
import { appendTestFrame, testFrameOf } from '../helpers/fake-queue.ts';
import { frameBytes, join } from '../helpers/frame-bytes.ts';
import { transmitOne } from '../helpers/one-frame.ts';
import { MRG_RXBUF, SplitDriver, TestGuest, VERSION_1 } from '../helpers/split-driver.ts';
import { type MailRecord, TestMailbox } from '../helpers/test-mailbox.ts';

const MIB = 2 ** 20;
const REGIONS = [{ guestAddress: 0, size: 8 * MIB, userAddress: 0x7000_0000_0000 }];
const RX_RING_AT = 0;
const TX_RING_AT = 64 * 1024;
const DATA_AT = MIB;
const HEADER = 12;
/** A virtio-net header (virtio 1.2 §5.1.6) with every field different; num_buffers is 0. */
const FIELDS = { flags: 1, gsoType: 4, hdrLen: 0x1236, gsoSize: 0x05b4, csumStart: 0x0122, csumOffset: 0x0210 };
const NET_HEADER = Uint8Array.of(0x01, 0x04, 0x36, 0x12, 0xb4, 0x05, 0x22, 0x01, 0x10, 0x02, 0, 0);
const EMPTY_HEADER = new Uint8Array(HEADER);
/** What a receiver finds: one buffer (num_buffers is 1). */
const received = (header: Uint8Array): Uint8Array => Uint8Array.of(...header.subarray(0, 10), 1, 0);

const plain = (frame: Uint8Array): MailRecord => ({ header: EMPTY_HEADER, frame });

describe('GuestQueue', () => {
  let mail: TestMailbox;
  let queue: GuestQueue;
  let batch: FrameBatch;
  let guest: TestGuest;
  let data: number;
  let broken: { index: number; error: RingError }[];

  beforeEach(() => {
    mail = new TestMailbox();
    queue = new GuestQueue(mail.mailbox);
    broken = [];
    queue.onBroken = (index, error) => broken.push({ index, error });
    batch = emptyBatch();
    guest = new TestGuest(REGIONS);
    data = DATA_AT;
  });
  afterEach(() => {
    guest.dispose();
    mail.dispose();
  });

  /** Frames that the queue has now; `release` of them is the caller's. */
  const receive = (): Uint8Array[] => {
    batch.clear();
    const count = queue.receive(batch);
    assert.equal(count, batch.count);
    return Array.from({ length: count }, (_, i) => testFrameOf(batch, i).bytes);
  };
  const transmit = (frame: Uint8Array, fields = {}): number => {
    const one = emptyBatch(wasmArena(), 1);
    appendTestFrame(one, { bytes: frame, ...fields });
    return transmitOne(queue, one);
  };

  const newDriver = (at: number, features = VERSION_1, num = 16): SplitDriver =>
    new SplitDriver(guest, { num, features, at });
  /** Starts a ring (0 receive, 1 transmit) of the queue with this driver. */
  const start = (index: number, driver: SplitDriver, kick = -1): SplitVirtqueue => {
    const ring = new SplitVirtqueue(guest.map(), driver.description({ kick }));
    queue.setRing(index, ring);
    return ring;
  };
  /** Puts a frame with its header into a chain of one buffer. */
  const post = (driver: SplitDriver, frame: Uint8Array, header = EMPTY_HEADER): void => {
    const bytes = join([header, frame]);
    guest.write(data, bytes);
    driver.add([{ address: data, length: bytes.length }], false);
    driver.announce();
    data += bytes.length;
  };
  const giveBuffer = (driver: SplitDriver, length = 2048): void => {
    driver.add([{ address: data, length }], true);
    driver.announce();
    data += length;
  };
  const reclaimed = (driver: SplitDriver): Uint8Array[] => driver.reclaim().map((used) => driver.contents(used));

  describe('over the file', () => {
    it('receives what the client writes, with the fields of its header', () => {
      const frame = frameBytes(700, 1);
      mail.write({ header: NET_HEADER, frame });
      assert.deepEqual(receive(), [frame]);
      assert.deepEqual(testFrameOf(batch, 0), { bytes: frame, ...FIELDS });
      queue.release(1);
      assert.deepEqual(receive(), []);
    });

    it('transmits to where the client reads, with the fields of the frame', () => {
      const frame = frameBytes(700, 2);
      assert.equal(transmit(frame, FIELDS), TRANSMITTED);
      assert.deepEqual(mail.readAll(), [{ header: received(NET_HEADER), frame }]);
    });

    it('carries the shortest and the longest frame both ways', () => {
      for (const length of [14, MAX_FRAME_BYTES]) {
        const frame = frameBytes(length, length);
        assert.equal(mail.write(plain(frame)), true);
        assert.deepEqual(receive(), [frame]);
        queue.release(1);
        assert.equal(transmit(frame), TRANSMITTED);
        assert.deepEqual(mail.read(), { header: received(EMPTY_HEADER), frame });
      }
    });

    it('gives at most a batch, and again what was not released, in order', () => {
      const frames = Array.from({ length: BATCH_FRAMES + 8 }, (_, i) => frameBytes(60 + i, i));
      for (const frame of frames) mail.write(plain(frame));
      assert.deepEqual(receive(), frames.slice(0, BATCH_FRAMES));
      queue.release(3);
      assert.deepEqual(receive(), frames.slice(3, 3 + BATCH_FRAMES));
      queue.release(0);
      assert.deepEqual(receive(), frames.slice(3, 3 + BATCH_FRAMES));
      queue.release(BATCH_FRAMES);
      assert.deepEqual(receive(), frames.slice(3 + BATCH_FRAMES));
      queue.release(5);
      assert.deepEqual(receive(), []);
    });

    it('gives room back with release only', () => {
      const frame = frameBytes(MAX_FRAME_BYTES, 1);
      let room = 0;
      while (mail.write(plain(frame))) room++;
      assert.equal(room, Math.floor(INBOX_BYTES / (MAX_FRAME_BYTES + HEADER)));
      receive();
      assert.equal(mail.write(plain(frame)), false);
      queue.release(0);
      assert.equal(mail.write(plain(frame)), false);
      receive();
      queue.release(2);
      assert.equal(mail.write(plain(frame)), true);
    });

    it('has no buffers when the outbox is full, until the client reads', () => {
      const frame = frameBytes(MAX_FRAME_BYTES, 1);
      let sent = 0;
      while (transmit(frame) === TRANSMITTED) sent++;
      assert.equal(sent, Math.floor(OUTBOX_BYTES / (MAX_FRAME_BYTES + HEADER)));
      assert.equal(transmit(frame), TX_DROP_NO_BUFFERS);
      mail.read();
      assert.equal(transmit(frame), TRANSMITTED);
      assert.equal(mail.readAll().length, sent);
    });

    it('signals mail to a client that sleeps, once and with the flush', () => {
      transmit(frameBytes(60, 1));
      queue.flush();
      assert.equal(mail.signalled(), false, 'nobody sleeps');
      mail.readAll();
      assert.equal(mail.outbox.sleep(), true);
      transmit(frameBytes(60, 2));
      transmit(frameBytes(60, 3));
      assert.equal(mail.signalled(), false, 'before the flush');
      queue.flush();
      assert.equal(mail.signalled(), true);
      queue.flush();
      assert.equal(mail.signalled(), false, 'once');
      transmit(frameBytes(60, 4));
      queue.flush();
      assert.equal(mail.signalled(), false, 'it is awake');
    });

    it('is woken by the next write while the lane sleeps, and only then', () => {
      assert.equal(queue.enableNotification(false, false), false);
      mail.write(plain(frameBytes(60, 1)));
      assert.equal(mail.signal, true);
      assert.equal(queue.enableNotification(false, false), true, 'a frame is there: look again');
      queue.disableNotification();
      mail.write(plain(frameBytes(60, 2)));
      assert.equal(mail.signal, false);
    });

    it('does not ask for frames while the ones it has are held', () => {
      mail.write(plain(frameBytes(60, 1)));
      receive();
      queue.release(0);
      assert.equal(queue.enableNotification(true, false), false);
      mail.write(plain(frameBytes(60, 2)));
      assert.equal(mail.signal, false);
    });

    it('has no descriptor to wait for', () => {
      queue.addPollFds({ addEventfd: () => assert.fail(), addReadable: () => assert.fail() });
    });
  });

  describe('over rings', () => {
    it('receives from the transmit ring and gives its chains back', () => {
      const driver = newDriver(TX_RING_AT);
      start(1, driver);
      const frames = [frameBytes(60, 1), frameBytes(1514, 2), frameBytes(300, 3)];
      for (const frame of frames) post(driver, frame, NET_HEADER);
      assert.deepEqual(receive(), frames);
      assert.deepEqual(testFrameOf(batch, 1), { bytes: frames[1], ...FIELDS });
      queue.release(2);
      queue.flush();
      assert.equal(driver.reclaim().length, 2);
      assert.deepEqual(receive(), frames.slice(2));
    });

    it('transmits to the receive ring, and publishes with the flush', () => {
      const driver = newDriver(RX_RING_AT);
      start(0, driver);
      giveBuffer(driver);
      const frame = frameBytes(1514, 4);
      assert.equal(transmit(frame, FIELDS), TRANSMITTED);
      assert.deepEqual(reclaimed(driver), []);
      queue.flush();
      assert.deepEqual(reclaimed(driver), [join([received(NET_HEADER), frame])]);
      assert.deepEqual(mail.readAll(), []);
    });

    it('says why a frame cannot be taken', () => {
      const driver = newDriver(RX_RING_AT);
      start(0, driver);
      assert.equal(transmit(frameBytes(60, 1)), TX_DROP_NO_BUFFERS);
      giveBuffer(driver, 100);
      assert.equal(transmit(frameBytes(100, 1)), TX_DROP_TOO_BIG);
      assert.equal(transmit(frameBytes(88, 1)), TRANSMITTED);
    });

    it('each direction on its own', () => {
      const rx = newDriver(RX_RING_AT);
      start(0, rx);
      giveBuffer(rx);
      mail.write(plain(frameBytes(60, 1)));
      assert.equal(receive().length, 1);
      queue.release(1);
      assert.equal(transmit(frameBytes(60, 2)), TRANSMITTED);
      queue.setRing(0, null);
      const tx = newDriver(TX_RING_AT);
      start(1, tx);
      post(tx, frameBytes(70, 3));
      assert.deepEqual(receive(), [frameBytes(70, 3)]);
      queue.release(1);
      assert.equal(transmit(frameBytes(60, 4)), TRANSMITTED);
      assert.equal(mail.readAll().length, 1);
    });

    it('what the client writes to the file meanwhile goes out too, first', () => {
      const driver = newDriver(TX_RING_AT);
      const [first, second, third] = [frameBytes(60, 1), frameBytes(61, 2), frameBytes(62, 3)] as const;
      mail.write(plain(first));
      start(1, driver);
      post(driver, third);
      mail.write(plain(second));
      assert.deepEqual(receive(), [first, second]);
      queue.release(1);
      assert.deepEqual(receive(), [second]);
      queue.release(1);
      assert.deepEqual(receive(), [third]);
      queue.release(1);
      queue.flush();
      assert.equal(driver.reclaim().length, 1);
      queue.setRing(1, null);
      assert.deepEqual(receive(), []);
    });

    it('wakes the lane for what is written to the file meanwhile', () => {
      start(1, newDriver(TX_RING_AT));
      assert.equal(queue.enableNotification(false, false), false);
      mail.write(plain(frameBytes(60, 1)));
      assert.equal(mail.signal, true);
      assert.equal(queue.enableNotification(false, false), true);
    });

    it('frames that were not released go to the next ring that starts at its base', () => {
      const driver = newDriver(TX_RING_AT);
      const first = start(1, driver);
      for (const seed of [1, 2, 3]) post(driver, frameBytes(60, seed));
      receive();
      queue.release(1);
      queue.flush();
      queue.setRing(1, null);
      assert.deepEqual(receive(), [], 'the file has nothing');
      queue.setRing(1, new SplitVirtqueue(guest.map(), { ...driver.description(), base: first.base }));
      assert.deepEqual(receive(), [frameBytes(60, 2), frameBytes(60, 3)]);
    });

    it('asks for kicks of the transmit ring, and of the receive ring where the engine stalls', () => {
      const rx = newDriver(RX_RING_AT);
      const tx = newDriver(TX_RING_AT);
      start(0, rx);
      start(1, tx);
      const wantsKick = (driver: SplitDriver): boolean => driver.announce();
      assert.deepEqual([wantsKick(rx), wantsKick(tx)], [false, false], 'the lane polls');
      assert.equal(queue.enableNotification(false, false), false);
      assert.deepEqual([wantsKick(rx), wantsKick(tx)], [false, true]);
      queue.disableNotification();
      assert.equal(queue.enableNotification(true, true), false);
      assert.deepEqual([wantsKick(rx), wantsKick(tx)], [true, false]);
      queue.disableNotification();
      assert.deepEqual([wantsKick(rx), wantsKick(tx)], [false, false]);
    });

    it('says that something came meanwhile: frames, or buffers for the one that waits', () => {
      const rx = newDriver(RX_RING_AT);
      const tx = newDriver(TX_RING_AT);
      start(0, rx);
      start(1, tx);
      giveBuffer(rx);
      assert.equal(queue.enableNotification(false, false), false);
      assert.equal(queue.enableNotification(false, true), true);
      assert.equal(queue.enableNotification(true, true), true);
      post(tx, frameBytes(60, 1));
      assert.equal(queue.enableNotification(true, false), false);
      assert.equal(queue.enableNotification(false, false), true);
    });

    it('waits for the kick descriptors of its rings', () => {
      const kicks = [eventfd(), eventfd()] as const;
      try {
        start(0, newDriver(RX_RING_AT), kicks[0]);
        start(1, newDriver(TX_RING_AT), kicks[1]);
        const fds: number[] = [];
        const sink = { addEventfd: (fd: number) => fds.push(fd), addReadable: () => assert.fail() };
        queue.addPollFds(sink);
        assert.deepEqual(new Set(fds), new Set(kicks));
        queue.setRing(0, null);
        fds.length = 0;
        queue.addPollFds(sink);
        assert.deepEqual(fds, [kicks[1]]);
      } finally {
        for (const kick of kicks) close(kick);
      }
    });

    it('counts malformed frames over all the rings that it has had', () => {
      const driver = newDriver(TX_RING_AT);
      start(1, driver);
      post(driver, frameBytes(13, 1));
      assert.deepEqual(receive(), []);
      queue.release(0);
      assert.equal(queue.malformed, 1);
      queue.setRing(1, null);
      assert.equal(queue.malformed, 1);
      const next = newDriver(TX_RING_AT);
      start(1, next);
      assert.equal(queue.malformed, 1);
      post(next, frameBytes(5, 1));
      post(next, frameBytes(60, 1));
      assert.equal(receive().length, 1);
      assert.equal(queue.malformed, 2);
    });
  });

  describe('a broken ring', () => {
    it('reports the transmit ring once, and gives nothing more', () => {
      const driver = newDriver(TX_RING_AT);
      start(1, driver);
      post(driver, frameBytes(60, 1));
      driver.pokeAvail(0, 99);
      assert.deepEqual(receive(), []);
      queue.release(0);
      assert.deepEqual(receive(), []);
      assert.deepEqual(
        broken.map(({ index, error }) => [index, error.code, error.value]),
        [[1, 'HEAD_OUT_OF_RANGE', 99]],
      );
    });

    it('still hands on the frames before the broken one', () => {
      const driver = newDriver(TX_RING_AT);
      start(1, driver);
      post(driver, frameBytes(60, 1));
      post(driver, frameBytes(60, 2));
      driver.pokeAvail(1, 99);
      assert.deepEqual(receive(), [frameBytes(60, 1)]);
      queue.release(1);
      queue.flush();
      assert.equal(driver.reclaim().length, 1);
      assert.equal(broken.length, 1);
    });

    it('reports the receive ring once, and takes nothing more', () => {
      const driver = newDriver(RX_RING_AT);
      start(0, driver);
      giveBuffer(driver);
      driver.pokeDescriptor(0, { addr: 0x7fff_0000_0000n, len: 2000, flags: 2 });
      for (let i = 0; i < 3; i++) assert.equal(transmit(frameBytes(60, 1)), TX_DROP_RING_BROKEN);
      assert.deepEqual(
        broken.map(({ index, error }) => [index, error.code]),
        [[0, 'BUFFER_UNMAPPED']],
      );
    });

    it('is forgotten with the next ring, whose own break is reported again', () => {
      for (let i = 1; i <= 2; i++) {
        const rx = newDriver(RX_RING_AT);
        const tx = newDriver(TX_RING_AT);
        start(0, rx);
        start(1, tx);
        rx.pokeAvailIdx(1000);
        tx.pokeAvailIdx(1000);
        receive();
        transmit(frameBytes(60, 1));
        assert.equal(broken.length, 2 * i);
      }
      assert(broken.every(({ error }) => error.code === 'AVAIL_IDX_JUMPED'));
    });

    it('leaves the other direction alone', () => {
      const rx = newDriver(RX_RING_AT);
      const tx = newDriver(TX_RING_AT);
      start(0, rx);
      start(1, tx);
      tx.pokeAvailIdx(1000);
      receive();
      giveBuffer(rx);
      assert.equal(transmit(frameBytes(60, 1)), TRANSMITTED);
    });
  });

  it('does what a plain model does, whatever comes in whatever order', () => {
    type Step =
      | { do: 'write' | 'post' | 'transmit'; length: number }
      | { do: 'breathe'; done: number }
      | { do: 'give' | 'read' | 'startRx' | 'stopRx' | 'startTx' | 'stopTx' };
    const lengths = fc.integer({ min: 14, max: 3000 });
    const step: fc.Arbitrary<Step> = fc.oneof(
      { weight: 3, arbitrary: fc.record({ do: fc.constantFrom('write', 'post', 'transmit'), length: lengths }) },
      { weight: 3, arbitrary: fc.record({ do: fc.constant('breathe' as const), done: fc.nat(12) }) },
      {
        weight: 2,
        arbitrary: fc.record({ do: fc.constantFrom('give', 'read', 'startRx', 'stopRx', 'startTx', 'stopTx') }),
      },
    ) as fc.Arbitrary<Step>;
    const num = 8;
    const features = VERSION_1 | MRG_RXBUF;
    const bufferBytes = 1000;

    const property = fc.property(fc.array(step, { minLength: 20, maxLength: 300, size: 'max' }), (steps) => {
      const box = new TestMailbox();
      const memory = guest.map();
      const subject = new GuestQueue(box.mailbox);
      const rx = new SplitDriver(guest, { num, features, at: RX_RING_AT });
      const tx = new SplitDriver(guest, { num, features, at: TX_RING_AT });
      // The model: what waits on each way into the switch, and what was sent on each way out and not yet read.
      const written: Uint8Array[] = [];
      const posted: Uint8Array[] = [];
      const toFile: Uint8Array[] = [];
      const toRing: Uint8Array[] = [];
      let outboxUsed = 0;
      let buffers = 0;
      const base = { rx: 0, tx: 0 };
      let seed = 0;
      /** Each slot of a ring has its place in memory. */
      const slotAt = (driver: SplitDriver, slot: number): number => DATA_AT + ((driver === rx ? 0 : num) + slot) * 8192;
      const run = (driver: SplitDriver, from: number): SplitVirtqueue =>
        new SplitVirtqueue(memory, driver.description({ base: from }));
      let posts = 0;
      let gives = 0;

      const readRing = (): void => {
        for (let used = rx.reclaim(); used.length > 0; ) {
          const first = rx.contents(used[0]!);
          const chains = first[10]! | (first[11]! << 8);
          const bytes = join(used.splice(0, chains).map((chain) => rx.contents(chain)));
          assert.deepEqual(bytes.subarray(HEADER), toRing.shift());
        }
        assert.equal(toRing.length, 0, 'a frame was not published');
      };
      try {
        for (const each of steps) {
          switch (each.do) {
            case 'write': {
              const frame = frameBytes(each.length, seed++);
              if (box.write(plain(frame))) written.push(frame);
              break;
            }
            case 'post': {
              tx.reclaim();
              if (tx.freeDescriptors === 0) break;
              const frame = frameBytes(each.length, seed++);
              const address = slotAt(tx, posts++ % num);
              guest.write(address, join([EMPTY_HEADER, frame]));
              tx.add([{ address, length: HEADER + frame.length }], false);
              tx.announce();
              posted.push(frame);
              break;
            }
            case 'give':
              if (rx.freeDescriptors === 0) break;
              rx.add([{ address: slotAt(rx, gives++ % num), length: bufferBytes }], true);
              rx.announce();
              buffers++;
              break;
            case 'transmit': {
              const frame = frameBytes(each.length, seed++);
              const one = emptyBatch(wasmArena(), 1);
              appendTestFrame(one, { bytes: frame });
              const result = transmitOne(subject, one);
              if (subject.rx !== null) {
                const need = Math.ceil((HEADER + frame.length) / bufferBytes);
                assert.equal(result, need <= buffers ? TRANSMITTED : TX_DROP_NO_BUFFERS);
                if (result !== TRANSMITTED) break;
                buffers -= need;
                toRing.push(frame);
              } else {
                assert(result === TRANSMITTED || outboxUsed > OUTBOX_BYTES / 2, 'the outbox has room');
                if (result !== TRANSMITTED) break;
                toFile.push(frame);
                outboxUsed += frame.length + HEADER;
              }
              break;
            }
            case 'breathe': {
              const from = subject.tx !== null && written.length === 0 ? posted : written;
              const got = emptyBatch();
              const count = subject.receive(got);
              assert.deepEqual(
                Array.from({ length: count }, (_, i) => testFrameOf(got, i).bytes),
                from.slice(0, BATCH_FRAMES),
              );
              const done = Math.min(each.done, count);
              subject.release(done);
              from.splice(0, done);
              subject.flush();
              readRing();
              break;
            }
            case 'read':
              for (const { frame } of box.readAll()) assert.deepEqual(frame, toFile.shift());
              assert.equal(toFile.length, 0, 'a frame is missing');
              outboxUsed = 0;
              break;
            case 'startRx':
              if (subject.rx === null) subject.setRing(0, run(rx, base.rx));
              break;
            case 'startTx':
              if (subject.tx === null) subject.setRing(1, run(tx, base.tx));
              break;
            case 'stopRx':
              if (subject.rx === null) break;
              subject.flush();
              base.rx = subject.rx.base;
              subject.setRing(0, null);
              readRing();
              break;
            case 'stopTx':
              if (subject.tx === null) break;
              subject.flush();
              base.tx = subject.tx.base;
              subject.setRing(1, null);
              break;
          }
        }
      } finally {
        box.dispose();
      }
    });
    fc.assert(property, { numRuns: 60 });
  });
});
