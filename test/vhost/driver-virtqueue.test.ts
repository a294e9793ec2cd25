import assert from 'node:assert/strict';
import fc from 'fast-check';
import { drainEventfd, eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { DriverMemory, lines } from '../../vhost/driver-memory.ts';
import { DriverVirtqueue, NO_SLOT } from '../../vhost/driver-virtqueue.ts';
import { RawDevice } from '../helpers/raw-device.ts';
import { crosses, EVENT_IDX, VERSION_1 } from '../helpers/split-driver.ts';

const NUM = 8;
const SLOT_BYTES = 100;

describe('DriverVirtqueue', () => {
  let memory: DriverMemory;
  let queue: DriverVirtqueue;
  let device: RawDevice;
  let kick: number;

  const make = (options: { num?: number; writable?: boolean; features?: bigint } = {}): void => {
    memory?.close();
    const all = { num: NUM, slotBytes: SLOT_BYTES, writable: true, features: VERSION_1, ...options };
    memory = new DriverMemory(DriverVirtqueue.bytes(all));
    queue = new DriverVirtqueue(memory, all);
    queue.kick = kick;
    device = new RawDevice(memory, queue);
  };
  /** Offers a slot and publishes it. */
  const offer = (length = SLOT_BYTES): number => {
    const slot = queue.take();
    queue.offer(slot, length);
    queue.publish();
    return slot;
  };

  before(() => {
    kick = eventfd();
  });
  beforeEach(() => make());
  afterEach(() => {
    drainEventfd(kick);
  });
  after(() => {
    memory.close();
    close(kick);
  });

  it('lays ring and slots out in its memory, without overlaps, and with descriptors for all slots', () => {
    for (const num of [1, 2, 256, 1024]) {
      make({ num });
      const { desc, avail, used } = queue.addresses;
      assert.deepEqual([desc % 16, avail % 2, used % 4], [0, 0, 0]);
      const parts = [
        [desc, 16 * num],
        [avail, 6 + 2 * num],
        [used, 6 + 8 * num],
        ...Array.from({ length: num }, (_, slot) => [queue.slotAddress(slot), SLOT_BYTES]),
      ] as [number, number][];
      parts.sort((a, b) => a[0] - b[0]);
      for (const [i, [start, length]] of parts.entries()) {
        assert(start + length <= (parts[i + 1]?.[0] ?? memory.address + memory.length));
      }
      assert(parts[0]![0] >= memory.address);
      for (let slot = 0; slot < num; slot++) {
        const { addr, flags, next } = device.descriptor(slot);
        assert.deepEqual({ addr, flags, next }, { addr: BigInt(queue.slotAddress(slot)), flags: 2, next: 0 });
      }
    }
    make({ writable: false });
    assert.equal(device.descriptor(3).flags, 0);
  });

  it('refuses options that no ring can have', () => {
    const options = { num: NUM, slotBytes: SLOT_BYTES, writable: true, features: 0n };
    for (const num of [0, 3, 65_536, 1.5, -8]) {
      assert.throws(
        () => new DriverVirtqueue(memory, { ...options, num }),
        /entries: give a power of two from 1 to 32768/,
      );
    }
    for (const slotBytes of [0, 2 ** 31, 0.5]) {
      assert.throws(() => new DriverVirtqueue(memory, { ...options, slotBytes }), /slots of .* bytes: give 1 or more/);
    }
    assert.throws(() => new DriverVirtqueue(memory, { ...options, slotBytes: 5000 }), /bytes wanted, .* are left/);
  });

  it('gives each slot once, and takes back what it gave', () => {
    const slots = Array.from({ length: NUM }, () => queue.take());
    assert.deepEqual([...slots].sort(), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert.equal(queue.take(), NO_SLOT);
    assert.equal(queue.freeSlots, 0);
    for (const slot of slots) queue.giveBack(slot);
    assert.equal(queue.freeSlots, NUM);
  });

  it('refuses slots in the wrong state, and lengths beyond a slot', () => {
    assert.throws(() => queue.offer(0, 1), /cannot offer slot 0: it is free/);
    const slot = queue.take();
    for (const length of [0, -1, SLOT_BYTES + 1, Number.NaN]) {
      assert.throws(() => queue.offer(slot, length), /cannot offer .* bytes of a slot of 100/);
    }
    queue.offer(slot, 1);
    assert.throws(() => queue.offer(slot, 1), /it is staged/);
    queue.publish();
    assert.throws(() => queue.giveBack(slot), /cannot give back slot 0: it is offered/);
    assert.throws(() => queue.giveBack(NUM), /it is not of this ring/);
    assert.throws(() => queue.giveBack(-1), /it is not of this ring/);
  });

  it('shows the device nothing before it is published', () => {
    const [a, b] = [queue.take(), queue.take()];
    queue.offer(b, 7);
    queue.offer(a, 9);
    assert.equal(device.availIdx, 0);
    assert.equal(queue.offered, 0);
    queue.publish();
    assert.equal(device.availIdx, 2);
    assert.equal(queue.offered, 2);
    assert.deepEqual([device.head(0), device.head(1)], [b, a]);
    assert.deepEqual([device.descriptor(b).len, device.descriptor(a).len], [7, 9]);
  });

  it('hands used slots over in the order of the device, with what it wrote', () => {
    const [a, b, c] = [offer(), offer(), offer()];
    assert.equal(queue.poll(), 0);
    device.use(c, 30);
    device.use(a, 0);
    assert.equal(queue.poll(), 2);
    assert.deepEqual([queue.usedSlot(0), queue.usedLength(0), queue.usedSlot(1), queue.usedLength(1)], [c, 30, a, 0]);
    device.use(b, SLOT_BYTES);
    assert.equal(queue.poll(), 3, 'older ones still wait');
    assert.deepEqual([queue.shift(), queue.shift(), queue.shift(), queue.shift()], [c, a, b, NO_SLOT]);
    assert.equal(queue.poll(), 0);
    assert.equal(queue.offered, 0);
  });

  it('is as new after a reset', () => {
    offer();
    device.use(99);
    queue.poll();
    assert.notEqual(queue.error, null);
    queue.reset();
    assert.deepEqual(
      [queue.error, queue.freeSlots, queue.offered, device.availIdx, device.usedIdx],
      [null, NUM, 0, 0, 0],
    );
    const slot = offer();
    device.use(slot, 5);
    assert.equal(queue.poll(), 1);
  });

  describe('kicks', () => {
    it('unless the device says VIRTQ_USED_F_NO_NOTIFY', () => {
      offer();
      assert.equal(drainEventfd(kick), true);
      device.usedFlags = 1;
      offer();
      assert.equal(drainEventfd(kick), false);
      assert.deepEqual([queue.kicks, queue.kicksSuppressed], [1, 1]);
    });

    it('with EVENT_IDX when avail_event is passed, also where the index wraps', () => {
      make({ features: VERSION_1 | EVENT_IDX });
      let published = 0;
      const step = fc.record({ count: fc.integer({ min: 1, max: NUM }), event: fc.integer({ min: -20, max: 20 }) });
      const property = fc.property(fc.array(step, { minLength: 400, maxLength: 400 }), (steps) => {
        for (const { count, event } of steps) {
          device.availEvent = published + event;
          for (let i = 0; i < count; i++) queue.offer(queue.take(), 1);
          drainEventfd(kick);
          queue.publish();
          const wanted = crosses((published + event) & 0xffff, published, published + count);
          assert.equal(drainEventfd(kick), wanted);
          for (let i = 0; i < count; i++) device.use(device.head(published + i), 0);
          for (let used = queue.poll(); used > 0; used--) queue.giveBack(queue.shift());
          published += count;
        }
      });
      fc.assert(property, { numRuns: 60 });
      assert(published > 0x10000, 'it has wrapped');
    });
  });

  describe('calls', () => {
    it('are switched by VIRTQ_AVAIL_F_NO_INTERRUPT', () => {
      queue.disableCalls();
      assert.equal(device.availFlags, 1);
      assert.equal(queue.enableCalls(), false);
      assert.equal(device.availFlags, 0);
      device.use(offer());
      assert.equal(queue.enableCalls(), true, 'look again');
      queue.poll();
      assert.equal(queue.enableCalls(), false);
    });

    it('are asked for by used_event with EVENT_IDX', () => {
      make({ features: VERSION_1 | EVENT_IDX });
      queue.disableCalls();
      assert.equal(device.availFlags, 0);
      device.use(offer());
      queue.poll();
      assert.equal(device.usedEvent, 0);
      assert.equal(queue.enableCalls(), false);
      assert.equal(device.usedEvent, 1);
      device.use(offer());
      assert.equal(queue.enableCalls(), true);
    });
  });

  describe('a hostile device', () => {
    const breaks = (code: string, index: number, value: number): void => {
      queue.poll();
      assert.deepEqual([queue.error?.code, queue.error?.index, queue.error?.value], [code, index, value]);
      assert.match(queue.error!.message, /^the device broke its ring: .+ \(at \d+, value \d+\)$/);
      // Dead: whatever comes then.
      const { availIdx } = device;
      for (let slot = queue.take(); slot !== NO_SLOT; slot = queue.take()) queue.offer(slot, 1);
      queue.publish();
      assert.equal(device.availIdx, availIdx);
      assert.equal(queue.enableCalls(), false);
    };

    it('moves used.idx beyond the slots that it has', () => {
      offer();
      device.usedIdx = 2;
      breaks('USED_IDX_JUMPED', 0, 2);
    });

    it('moves used.idx back', () => {
      device.use(offer());
      queue.poll();
      offer();
      device.usedIdx = 0;
      breaks('USED_IDX_JUMPED', 1, 0);
    });

    it('names a descriptor beyond the ring', () => {
      offer();
      device.use(NUM);
      breaks('USED_ID_OUT_OF_RANGE', 0, NUM);
    });

    it('names a huge descriptor', () => {
      offer();
      device.use(0xffff_ffff);
      breaks('USED_ID_OUT_OF_RANGE', 0, 0xffff_ffff);
    });

    it('names a free slot', () => {
      const slot = offer();
      device.use((slot + 1) % NUM);
      breaks('USED_ID_NOT_OUTSTANDING', 0, (slot + 1) % NUM);
    });

    it('names a slot twice', () => {
      const slot = offer();
      offer();
      device.use(slot);
      device.use(slot);
      breaks('USED_ID_NOT_OUTSTANDING', 1, slot);
      assert.equal(queue.poll(), 1, 'what came before is good');
    });

    it('names a slot that is staged only', () => {
      offer();
      const staged = queue.take();
      queue.offer(staged, 1);
      device.use(staged);
      breaks('USED_ID_NOT_OUTSTANDING', 0, staged);
    });

    it('says that it wrote more than it was offered', () => {
      device.use(offer(10), 11);
      breaks('USED_LENGTH', 0, 11);
    });

    it('may say anything of the length of a buffer that it only reads', () => {
      make({ writable: false });
      device.use(offer(), 0xffff_ffff);
      assert.equal(queue.poll(), 1);
      assert.equal(queue.usedLength(0), 0);
      assert.equal(queue.error, null);
    });

    it('that writes anything anywhere gets an error or a valid slot, never another', () => {
      const words = fc.array(
        fc.record({ id: fc.oneof(fc.nat(NUM), fc.nat(0xffff_ffff)), length: fc.nat(2 * SLOT_BYTES) }),
      );
      const property = fc.property(words, fc.nat(0xffff), (entries, idx) => {
        queue.reset();
        for (let i = 0; i < NUM / 2; i++) offer();
        for (const { id, length } of entries) device.use(id, length);
        if (entries.length === 0) device.usedIdx = idx;
        const seen = new Set<number>();
        for (let used = queue.poll(); used > 0; used--) {
          assert(queue.usedLength(0) <= SLOT_BYTES);
          const slot = queue.shift();
          assert(slot >= 0 && slot < NUM / 2 && !seen.has(slot));
          seen.add(slot);
        }
      });
      fc.assert(property, { numRuns: 500 });
    });
  });
});

describe('DriverMemory', () => {
  it('is zeroed, in whole pages, and parts are apart by whole cache lines', () => {
    const memory = new DriverMemory(5000);
    try {
      assert.equal(memory.length, 8192);
      assert(new Uint8Array(memory.view(memory.address, memory.length)).every((byte) => byte === 0));
      const [a, b] = [memory.allocate(1), memory.allocate(65)];
      assert.deepEqual([a % 64, b - a, memory.allocate(1) - b], [0, 64, 128]);
      assert.throws(() => memory.allocate(8192), /8192 bytes wanted, 7936 of 8192 are left/);
    } finally {
      memory.close();
      memory.close();
    }
    assert.equal(lines(65), 128);
  });

  it('lies where an address space wants it, and goes back there', () => {
    const calls: unknown[] = [];
    const plain = new DriverMemory(4096);
    plain.close();
    const space = {
      reserve: (bytes: number, align: number, phase: number) => {
        calls.push(['reserve', bytes, align, phase]);
        return plain.address;
      },
      free: (address: number, bytes: number) => {
        calls.push(['free', address, bytes]);
      },
    };
    const memory = new DriverMemory(4096, space);
    assert.equal(memory.address, plain.address);
    memory.close();
    assert.deepEqual(calls, [
      ['reserve', 4096, 4096, 0],
      ['free', plain.address, 4096],
    ]);
  });
});
