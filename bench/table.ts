/**
 * The learning table by its size, in this process: testpmd's guests have one address each and cannot fill it.
 *
 * - `lookup_ns`, `learn_ns`: LearningTable alone, known addresses in random order.
 * - `engine_ns`: Engine with two ports whose queues are made up: each gives batches of frames of 60 bytes from and to
 *   random known addresses, and takes whatever is for it without a copy. So this is what a frame costs between the rings:
 *   learning, lookup, and the copy of the frame's first bytes. Writing the addresses, two or three ns a frame, is in it.
 */
import { viewMemory } from '../linux/libc.ts';
import { Arena } from '../memory/arena.ts';
import { BATCH_FRAMES, type FrameBatch, VIRTIO_NET_HDR_MRG_RXBUF_BYTES } from '../memory/frame-batch.ts';
import { Engine } from '../switch/engine.ts';
import { LearningTable } from '../switch/learning-table.ts';
import { Port, type PortQueue, TRANSMITTED, type TransmitResult } from '../switch/port.ts';

const SEED = 20_240_229;
/** Bytes 0 and 1 of every address here: locally administered, 02:00. */
const HIGH = 0x0200;
const HIGH_IN_MEMORY = 0x0002;
/** Knuth's multiplier: the bytes 2 to 5 of address i are i times this, different for every i. */
const SPREAD = 2_654_435_761;
const FRAME_BYTES = 60;
/** Ports have ids from 1 on. */
const FIRST_PORT = 1;
/** A frame in memory: its virtio-net header, all 0, then its bytes; 72 of a line and a half. */
const SLOT_WORDS = 24;
const HEADER_WORDS = VIRTIO_NET_HDR_MRG_RXBUF_BYTES / Int32Array.BYTES_PER_ELEMENT;
const NS_PER_MS = 1e6;

export interface TableRun {
  macs: number;
  lookup_ns: number;
  learn_ns: number;
  engine_ns: number;
}

/** Measures a table that holds `macs` addresses, an even number, for `frames` operations of each kind. */
export function measureTable(macs: number, frames: number): TableRun {
  const order = randomOrder(macs);
  const table = new LearningTable({ seed: SEED, capacity: macs });
  for (let i = 0; i < macs; i++) table.learn(HIGH, lowOf(i), FIRST_PORT + (i & 1), 0);
  const learn = timed(frames, (i) =>
    table.learn(HIGH, lowOf(order[i % macs]!), FIRST_PORT + (order[i % macs]! & 1), 0),
  );
  const lookup = timed(frames, (i) => table.lookup(HIGH, lowOf(order[i % macs]!), 0));
  return { macs, lookup_ns: lookup, learn_ns: learn, engine_ns: measureEngine(macs, order, frames) };
}

/** Bytes 2 to 5 of address i, as int32. Even addresses are behind one port, odd ones behind the other. */
function lowOf(i: number): number {
  return Math.imul(i + 1, SPREAD);
}

/** All numbers below `count`, shuffled the same way every time (xorshift32). */
function randomOrder(count: number): Int32Array {
  const order = Int32Array.from({ length: count }, (_, i) => i);
  let state = SEED;
  for (let i = count - 1; i > 0; i--) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    const j = (state >>> 0) % (i + 1);
    const moved = order[i]!;
    order[i] = order[j]!;
    order[j] = moved;
  }
  return order;
}

/** ns of one call. */
function timed(times: number, call: (i: number) => number): number {
  let used = 0;
  for (let i = 0; i < times >> 2; i++) used ^= call(i); // Compiled before the clock runs.
  const start = performance.now();
  for (let i = 0; i < times; i++) used ^= call(i);
  const elapsed = performance.now() - start;
  // A result that nobody looks at may be optimized away with the call.
  if (!Number.isInteger(used)) throw new Error('a call gave no integer');
  return (elapsed * NS_PER_MS) / times;
}

function measureEngine(macs: number, order: Int32Array, frames: number): number {
  const arena = Arena.open();
  const engine = new Engine(arena, { seed: SEED, capacity: macs });
  const queues = [0, 1].map((side) => new MadeUpQueue(arena, side, order));
  for (const [id, queue] of queues.entries()) {
    const port = new Port(FIRST_PORT + id, `side${id}`);
    port.queues[0] = queue;
    engine.addPort(port);
  }
  for (let i = 0; i < macs; i++) engine.table.learn(HIGH, lowOf(i), FIRST_PORT + (i & 1), 0);
  const breathe = (count: number) => {
    for (let moved = 0; moved < count; ) moved += engine.breathe();
  };
  breathe(frames >> 2);
  for (const queue of queues) queue.taken = 0;
  const start = performance.now();
  breathe(frames);
  const elapsed = performance.now() - start;
  const taken = queues[0]!.taken + queues[1]!.taken;
  if (taken < frames)
    throw new Error(`of ${frames} frames ${taken} came through: the table does not know its addresses`);
  return (elapsed * NS_PER_MS) / taken;
}

/** A port that always has a batch of frames, from its own addresses to those of the other side. */
class MadeUpQueue implements PortQueue {
  readonly ready = true;
  readonly malformed = 0;
  readonly refusal: TransmitResult = TRANSMITTED;
  stalledSince = -1;
  taken = 0;
  readonly #side: number;
  readonly #order: Int32Array;
  readonly #address: number;
  readonly #words: Int32Array;
  #next = 0;

  constructor(arena: Arena, side: number, order: Int32Array) {
    this.#side = side;
    this.#order = order;
    const bytes = BATCH_FRAMES * SLOT_WORDS * Int32Array.BYTES_PER_ELEMENT;
    this.#address = arena.allocate(bytes);
    this.#words = new Int32Array(viewMemory(this.#address, bytes));
  }

  receive(batch: FrameBatch): number {
    const order = this.#order;
    for (let i = 0; i < BATCH_FRAMES; i++) {
      // The pair of addresses 2n and 2n + 1 stands on both sides.
      const from = lowOf((order[this.#step()]! & ~1) | this.#side);
      const to = lowOf((order[this.#step()]! & ~1) | (1 - this.#side));
      this.#write(i * SLOT_WORDS + HEADER_WORDS, swap32(to), swap32(from));
      const segment = batch.segments + 1 + 2 * i;
      batch.segmentAddress[segment] = this.#address + i * SLOT_WORDS * Int32Array.BYTES_PER_ELEMENT;
      batch.segmentLength[segment] = VIRTIO_NET_HDR_MRG_RXBUF_BYTES + FRAME_BYTES;
    }
    batch.appendBuffers(BATCH_FRAMES, VIRTIO_NET_HDR_MRG_RXBUF_BYTES);
    return batch.count;
  }

  #step(): number {
    const next = this.#next;
    this.#next = next + 1 === this.#order.length ? 0 : next + 1;
    return next;
  }

  /** Destination and source address; both are given as bytes 2 to 5 lie in memory. */
  #write(at: number, to: number, from: number): void {
    this.#words[at] = HIGH_IN_MEMORY | (to << 16);
    this.#words[at + 1] = (to >>> 16) | (HIGH_IN_MEMORY << 16);
    this.#words[at + 2] = from;
  }

  transmit(_batch: FrameBatch, first: number, end: number): number {
    this.taken += end - first;
    return end - first;
  }

  release(): void {}

  flush(): void {}

  notify(): void {}

  disableNotification(): void {}

  enableNotification(): boolean {
    return true;
  }

  addPollFds(): void {}
}

/** Network order of a 32-bit word. */
function swap32(word: number): number {
  return (word << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24);
}
