import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { drainEventfd, eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { POLLIN, PollSet } from '../../linux/poll.ts';
import { FrameRing, frameRingBytes } from '../../memory/frame-ring.ts';
import { SharedBuffer } from '../../memory/shared-buffer.ts';
import type { ProducerData } from './frame-ring-producer.ts';
import { checkRecord, fillRecord, recordLength } from './frame-ring-records.ts';

/** Byte offsets of the two indices that count for ever (the drawing at the top of frame-ring.ts). */
const HEAD_OFFSET = 0;
const TAIL_OFFSET = 64;

describe('FrameRing', () => {
  let buffer: SharedBuffer;
  let memory: Uint8Array;
  beforeEach(() => {
    buffer = new SharedBuffer(frameRingBytes(4096));
    memory = new Uint8Array(buffer.bytes);
  });
  afterEach(() => buffer.free());

  /** Both sides of a ring whose indices start at `start`. */
  const pair = (capacity: number, start = 0): { producer: FrameRing; consumer: FrameRing } => {
    const words = new DataView(buffer.bytes);
    words.setUint32(HEAD_OFFSET, start, true);
    words.setUint32(TAIL_OFFSET, start, true);
    return { producer: new FrameRing(buffer.address, capacity), consumer: new FrameRing(buffer.address, capacity) };
  };
  const push = (ring: FrameRing, length: number, i: number): boolean => {
    const to = ring.reserve(length);
    if (to === 0) return false;
    assert(to >= buffer.address && to + length <= buffer.address + buffer.length, 'a record outside of the ring');
    fillRecord(memory, to - buffer.address, length, i);
    ring.commit(length);
    return true;
  };
  const assertRecord = (ring: FrameRing, length: number, i: number): void => {
    assert.equal(ring.peek(), length);
    assert.equal(checkRecord(memory, ring.address - buffer.address, length, i), -1);
  };

  it('takes powers of two from 64 on as capacity', () => {
    for (const capacity of [0, 1, 32, 63, 65, 96, 4095, -64]) {
      assert.throws(
        () => new FrameRing(buffer.address, capacity),
        new RangeError(`frame ring: capacity ${capacity} is not a power of two of at least 64`),
      );
    }
    assert.equal(new FrameRing(buffer.address, 64).maxRecord, 16);
  });

  it('passes records on in order, empty ones too', () => {
    const { producer, consumer } = pair(4096);
    assert.equal(consumer.peek(), -1);
    const lengths = [10, 0, 1, 15, 16, 17, 1000];
    for (const [i, length] of lengths.entries()) assert.equal(push(producer, length, i), true);
    for (const [i, length] of lengths.entries()) {
      assertRecord(consumer, length, i);
      assertRecord(consumer, length, i);
      consumer.consume(length);
    }
    assert.equal(consumer.peek(), -1);
  });

  it('shows nothing before commit', () => {
    const { producer, consumer } = pair(256);
    assert.notEqual(producer.reserve(10), 0);
    assert.equal(consumer.peek(), -1);
    producer.commit(10);
    assert.equal(consumer.peek(), 10);
  });

  it('shows what was staged when it is published, all of it at once', () => {
    const { producer, consumer } = pair(256);
    for (let round = 0; round < 20; round++) {
      const lengths = [30 + round, 0, 40];
      for (const [i, length] of lengths.entries()) {
        const to = producer.reserve(length);
        assert.notEqual(to, 0);
        fillRecord(memory, to - buffer.address, length, i);
        producer.stage(length);
        assert.equal(consumer.peek(), -1, `record ${i} of round ${round} shows too early`);
      }
      assert.equal(producer.publishStaged(), false);
      for (const [i, length] of lengths.entries()) {
        assertRecord(consumer, length, i);
        consumer.consume(length);
      }
      assert.equal(consumer.peek(), -1);
    }
  });

  it('is full of what was staged, as of what was published; a refusal harms neither', () => {
    const { producer, consumer } = pair(256);
    let staged = 0;
    for (; producer.reserve(48) !== 0; staged++) producer.stage(48);
    assert.equal(staged, 4);
    assert.equal(consumer.peek(), -1);
    producer.publishStaged();
    for (let i = 0; i < staged; i++) {
      assert.equal(consumer.peek(), 48);
      consumer.consume(48);
    }
    assert.equal(consumer.peek(), -1);
    assert.equal(push(producer, 112, 1), true);
    assertRecord(consumer, 112, 1);
  });

  it('publishes what was staged with the next commit', () => {
    const { producer, consumer } = pair(256);
    producer.reserve(10);
    producer.stage(10);
    push(producer, 20, 1);
    assert.equal(consumer.peek(), 10);
    consumer.consume(10);
    assertRecord(consumer, 20, 1);
  });

  it('asks for a signal when staged records are published, not before', () => {
    const { producer, consumer } = pair(256);
    assert.equal(consumer.sleep(), true);
    for (let i = 0; i < 2; i++) {
      producer.reserve(1);
      producer.stage(1);
    }
    assert.equal(consumer.sleep(), true, 'nothing shows yet');
    assert.equal(producer.publishStaged(), true);
    assert.equal(producer.publishStaged(), false, 'once');
  });

  it('takes no record longer than maxRecord, and that one at every place', () => {
    const { producer, consumer } = pair(256);
    assert.equal(producer.maxRecord, 112);
    assert.equal(producer.reserve(113), 0);
    for (let i = 0; i < 50; i++) {
      assert.equal(push(producer, 112, i), true);
      assertRecord(consumer, 112, i);
      consumer.consume(112);
      const small = i % 48;
      assert.equal(push(producer, small, i), true);
      assertRecord(consumer, small, i);
      consumer.consume(small);
    }
  });

  it('is full at its capacity, and has room again when a record was given back', () => {
    const { producer, consumer } = pair(256);
    for (let i = 0; i < 8; i++) assert.equal(push(producer, 16, i), true);
    assert.equal(producer.reserve(0), 0);
    consumer.peek();
    consumer.advance(16);
    assert.equal(producer.reserve(0), 0, 'passed, and not given back yet');
    consumer.publish();
    assert.equal(push(producer, 16, 8), true);
    for (let i = 1; i <= 8; i++) {
      assertRecord(consumer, 16, i);
      consumer.consume(16);
    }
    assert.equal(consumer.peek(), -1);
  });

  it('reads records again after rewind', () => {
    const { producer, consumer } = pair(256);
    // The third does not fit before the end of the ring: padding lies between.
    const lengths = [70, 70, 60];
    for (let round = 0; round < 9; round++) {
      const { mark } = consumer;
      for (const [i, length] of lengths.slice(0, 2).entries()) assert.equal(push(producer, length, i), true);
      for (let again = 0; again < 2; again++) {
        for (const [i, length] of lengths.slice(0, 2).entries()) {
          assertRecord(consumer, length, i);
          consumer.advance(length);
        }
        if (again === 0) consumer.rewind(mark);
      }
      consumer.publish();
    }
  });

  it('asks for a signal once when the consumer sleeps', () => {
    const { producer, consumer } = pair(256);
    const commit = (): boolean => {
      producer.reserve(1);
      return producer.commit(1);
    };
    assert.equal(commit(), false, 'nobody sleeps');
    assert.equal(consumer.sleep(), false, 'a record is there: look again');
    consumer.wake();
    consumer.peek();
    consumer.consume(1);
    assert.equal(consumer.sleep(), true);
    assert.equal(commit(), true);
    assert.equal(commit(), false);
    assert.equal(consumer.sleep(), false);
    consumer.wake();
    assert.equal(commit(), false);
  });

  it('throws everything away with discard', () => {
    const { producer, consumer } = pair(256);
    for (let i = 0; i < 5; i++) push(producer, 16, i);
    consumer.discard();
    assert.equal(consumer.peek(), -1);
    for (let i = 0; i < 8; i++) assert.equal(push(producer, 8, i), true);
    assertRecord(consumer, 8, 0);
  });

  it('goes on where another object left the ring', () => {
    const { producer, consumer } = pair(256);
    for (let i = 0; i < 3; i++) push(producer, 20, i);
    consumer.peek();
    consumer.consume(20);
    const successor = new FrameRing(buffer.address, 256);
    assertRecord(successor, 20, 1);
  });

  it('behaves as an array, over the end of the ring and of 32 bits', () => {
    const operation = fc.oneof(
      { weight: 3, arbitrary: fc.nat(150).map((length) => ({ kind: 'push' as const, length })) },
      { weight: 2, arbitrary: fc.nat(5).map((count) => ({ kind: 'take' as const, count })) },
      { weight: 1, arbitrary: fc.nat(5).map((count) => ({ kind: 'look' as const, count })) },
      { weight: 1, arbitrary: fc.constant({ kind: 'drain' as const }) },
    );
    const start = fc.oneof(
      fc.constant(0),
      fc.integer({ min: 0, max: 64 }).map((n) => 2 ** 32 - 16 * (n + 1)),
    );
    fc.assert(
      fc.property(
        fc.constantFrom(64, 256, 1024),
        start,
        fc.array(operation, { maxLength: 200, size: 'max' }),
        (capacity, start, operations) => {
          const { producer, consumer } = pair(capacity, start);
          const queue: { length: number; i: number }[] = [];
          let i = 0;
          const take = (count: number, give: boolean): void => {
            const { mark } = consumer;
            for (const { length, i } of queue.slice(0, count)) {
              assertRecord(consumer, length, i);
              consumer.advance(length);
            }
            if (count >= queue.length) assert.equal(consumer.peek(), -1);
            if (!give) {
              consumer.rewind(mark);
              return;
            }
            consumer.publish();
            queue.splice(0, count);
          };
          for (const operation of operations) {
            if (operation.kind === 'push') {
              const { length } = operation;
              const pushed = push(producer, length, i);
              // What padding costs is the ring's affair; that an empty ring takes any legal record is not.
              const bytes = queue.reduce((sum, record) => sum + 16 + Math.ceil(record.length / 16) * 16, 0);
              const need = 16 + Math.ceil(length / 16) * 16;
              if (length > producer.maxRecord) assert.equal(pushed, false);
              else if (queue.length === 0) assert.equal(pushed, true);
              if (bytes + need > capacity) assert.equal(pushed, false);
              if (pushed) queue.push({ length, i });
              i++;
            } else if (operation.kind === 'drain') take(queue.length, true);
            else take(operation.count, operation.kind === 'take');
          }
          take(queue.length, true);
        },
      ),
      { numRuns: 200 },
    );
  });

  it('passes 200,000 records from thread to thread', async function () {
    this.timeout(30_000);
    const capacity = 4096;
    const records = 200_000;
    const event = eventfd();
    const consumer = new FrameRing(buffer.address, capacity);
    const workerData: ProducerData = { address: buffer.address, bytes: buffer.length, capacity, records, event };
    const worker = new Worker(new URL('./frame-ring-producer.ts', import.meta.url), { workerData });
    let failure: unknown = null;
    worker.on('error', (error) => {
      failure = error;
    });
    const exit = once(worker, 'exit');
    const poll = new PollSet();
    poll.add(event, POLLIN);
    try {
      // The first wait lets the event loop start the worker; after that it works by itself.
      await once(worker, 'online');
      for (let i = 0; i < records; ) {
        const length = consumer.peek();
        if (length < 0) {
          if (consumer.sleep()) {
            assert(poll.wait(10_000) > 0, `no signal at record ${i}`);
            drainEventfd(event);
          }
          consumer.wake();
          continue;
        }
        if (length !== recordLength(i)) assert.equal(length, recordLength(i), `length of record ${i}`);
        const wrong = checkRecord(memory, consumer.address - buffer.address, length, i);
        if (wrong >= 0) assert.fail(`record ${i}, byte ${wrong}`);
        consumer.consume(length);
        i++;
      }
      await exit;
      assert.equal(failure, null);
      assert.equal(consumer.peek(), -1);
    } finally {
      await worker.terminate();
      close(event);
    }
  });
});
