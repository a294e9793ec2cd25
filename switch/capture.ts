/**
 * Capturing the frames of a port while they pass: what a lane does for `ringswitch capture`.
 *
 *     engine ── CaptureQueue ── the port's queue          one for each queue of the port, only while it is captured
 *                    │
 *                PortTap ──► Capture ──► ring ══► the capturing process
 *                       └──► Capture ──► …              as many as like; each with its own filter and ring
 *
 * A port without a capture has its queue itself there, and costs nothing. A frame is captured when it has passed: one from
 * the port when the engine is done with it (it may have waited before), one for the port when the queue has taken it. What
 * a queue refused is not seen, and super-frames are as they pass. A full ring loses the frame for the capture alone.
 *
 * Hot: allocates nothing per frame.
 */
import { realTimeNs } from '../linux/clock.ts';
import { signalEventfd } from '../linux/eventfd.ts';
import { viewMemory } from '../linux/libc.ts';
import { MAP_FIXED, MAP_SHARED, mmap, PAGE_SIZE, PROT_READ, PROT_WRITE } from '../linux/mman.ts';
import type { Arena } from '../memory/arena.ts';
import { CAPTURE_IN, CAPTURE_OUT, CaptureRingWriter, capturePartBytes } from '../memory/capture-ring.ts';
import { type FrameBatch, HEADER_BYTES, MAX_FRAME_BYTES } from '../memory/frame-batch.ts';
import { type BpfInstruction, BpfProgram, MORE } from '../packet/bpf.ts';
import type { FdSink, PortQueue, TransmitResult } from './port.ts';

/** What the lane is told of a capture. */
export interface CaptureDescription {
  /** The memory that it shares with the capturing process, and where the lane's part of it begins. */
  memoryFd: number;
  offset: number;
  /** Capacity of the ring in it, a power of two. */
  ringBytes: number;
  /** eventfd that wakes the capturing process. */
  wakeFd: number;
  /** Bytes of a frame that are kept at the most. */
  snaplen: number;
  /** CAPTURE_IN, CAPTURE_OUT, or both. */
  directions: number;
  /** Which frames; all without. */
  filter: BpfInstruction[] | null;
}

/** A read past the first bytes that are at hand fetches at least this many times as many. */
const GROWTH = 8;
const NS_PER_MS = 1e6;
const WORD = 2 ** 32;

/** The time as captures want it, told from a clock that never goes back and was set once. */
class CaptureClock {
  high = 0;
  low = 0;
  readonly #now: () => number;
  readonly #anchorMs: number;
  readonly #anchorHigh: number;
  readonly #anchorLow: number;

  /** `now`: milliseconds of a clock that never goes back. */
  constructor(now: () => number) {
    this.#now = now;
    const before = now();
    const anchor = realTimeNs();
    this.#anchorMs = (before + now()) / 2;
    this.#anchorHigh = Number(anchor >> 32n);
    this.#anchorLow = Number(anchor & 0xffff_ffffn);
  }

  /** Sets {@link high} and {@link low}: ns since 1970. */
  read(): void {
    const since = Math.max(0, Math.round((this.#now() - this.#anchorMs) * NS_PER_MS));
    const high = Math.floor(since / WORD);
    const low = this.#anchorLow + (since - high * WORD);
    this.high = this.#anchorHigh + high + (low >= WORD ? 1 : 0);
    this.low = low % WORD;
  }
}

/** Room for the bytes of a frame that a filter asks for beyond its header slot. One belongs to one lane. */
export class CaptureScratch {
  readonly address: number;
  readonly bytes: Uint8Array;

  constructor(arena: Arena) {
    this.address = arena.allocate(MAX_FRAME_BYTES);
    this.bytes = new Uint8Array(viewMemory(this.address, MAX_FRAME_BYTES));
  }
}

/** One capture of one port, as far as this lane has queues of it. */
export class Capture {
  readonly #description: CaptureDescription;
  readonly #arena: Arena;
  readonly #address: number;
  readonly #ring: CaptureRingWriter;
  readonly #filter: BpfProgram | null;
  readonly #clock: CaptureClock;
  readonly #scratch: CaptureScratch;

  /** Maps the shared memory. Throws BpfError for the filter, SystemError for the memory. */
  constructor(description: CaptureDescription, arena: Arena, scratch: CaptureScratch, now: () => number) {
    const { memoryFd, offset, ringBytes, filter } = description;
    this.#description = description;
    this.#arena = arena;
    this.#scratch = scratch;
    this.#filter = filter === null ? null : new BpfProgram(filter);
    this.#clock = new CaptureClock(now);
    const length = capturePartBytes(ringBytes);
    const address = arena.reserve(length, PAGE_SIZE, 0);
    try {
      mmap({ address, length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED | MAP_FIXED, fd: memoryFd, offset });
    } catch (error) {
      arena.free(address, length);
      throw error;
    }
    this.#address = address;
    this.#ring = new CaptureRingWriter(address, ringBytes);
  }

  /** Frames `first` … `end - 1` have passed in a direction. */
  take(batch: FrameBatch, first: number, end: number, direction: number): void {
    const { directions, snaplen } = this.#description;
    if ((directions & direction) === 0) return;
    this.#ring.see(end - first);
    const clock = this.#clock;
    clock.read();
    for (let i = first; i < end; i++) {
      const wanted = this.#filter === null ? snaplen : Math.min(this.#match(this.#filter, batch, i), snaplen);
      if (wanted > 0) this.#ring.put(batch, i, wanted, direction, clock.high, clock.low);
    }
  }

  /** How many bytes of frame `i` the filter wants. */
  #match(filter: BpfProgram, batch: FrameBatch, i: number): number {
    const length = batch.length[i]!;
    let present = Math.min(length, HEADER_BYTES);
    let wanted = filter.run(batch.headers, batch.headerOffset(i), present, length);
    while (wanted === MORE) {
      const { address, bytes } = this.#scratch;
      present = batch.copyOut(i, address, Math.max(filter.needed, GROWTH * present));
      wanted = filter.run(bytes, 0, present, length);
    }
    return wanted;
  }

  /** Shows the capturing process what there is. */
  publish(): void {
    if (this.#ring.publish()) signalEventfd(this.#description.wakeFd);
  }

  /** Shows the rest, and unmaps the memory. */
  close(): void {
    this.publish();
    // Whoever drains the ring after the end is not to wait for a signal that nobody gives.
    signalEventfd(this.#description.wakeFd);
    this.#arena.free(this.#address, capturePartBytes(this.#description.ringBytes));
  }
}

/** The captures of one port on one lane. */
export class PortTap {
  readonly captures: Capture[] = [];
  readonly #queues = new WeakMap<PortQueue, CaptureQueue>();

  /** What stands before a queue of the port: the same each time. */
  before(queue: PortQueue): PortQueue {
    let captured = this.#queues.get(queue);
    if (!captured) {
      captured = new CaptureQueue(queue, this);
      this.#queues.set(queue, captured);
    }
    return captured;
  }

  take(batch: FrameBatch, first: number, end: number, direction: number): void {
    for (const capture of this.captures) capture.take(batch, first, end, direction);
  }

  publish(): void {
    for (const capture of this.captures) capture.publish();
  }
}

/** A queue of a captured port: the queue itself does everything, and the port's captures see it. */
class CaptureQueue implements PortQueue {
  readonly #queue: PortQueue;
  readonly #tap: PortTap;
  /** Of the last receive. */
  #batch: FrameBatch | null = null;

  constructor(queue: PortQueue, tap: PortTap) {
    this.#queue = queue;
    this.#tap = tap;
  }

  receive(batch: FrameBatch): number {
    this.#batch = batch;
    return this.#queue.receive(batch);
  }

  /** Not before: what is not released comes again, and would be captured twice. */
  release(count: number): void {
    if (count > 0) this.#tap.take(this.#batch!, 0, count, CAPTURE_IN);
    this.#queue.release(count);
  }

  transmit(batch: FrameBatch, first: number, end: number): number {
    const taken = this.#queue.transmit(batch, first, end);
    if (taken > 0) this.#tap.take(batch, first, first + taken, CAPTURE_OUT);
    return taken;
  }

  get refusal(): TransmitResult {
    return this.#queue.refusal;
  }

  flush(): void {
    this.#queue.flush();
    this.#tap.publish();
  }

  notify(): void {
    this.#queue.notify();
  }

  get ready(): boolean {
    return this.#queue.ready;
  }

  get malformed(): number {
    return this.#queue.malformed;
  }

  get stalledSince(): number {
    return this.#queue.stalledSince;
  }

  set stalledSince(ms: number) {
    this.#queue.stalledSince = ms;
  }

  disableNotification(): void {
    this.#queue.disableNotification();
  }

  enableNotification(held: boolean, stalled: boolean): boolean {
    return this.#queue.enableNotification(held, stalled);
  }

  addPollFds(sink: FdSink): void {
    this.#queue.addPollFds(sink);
  }
}
