/**
 * Where captured frames wait for whoever reads them: a frame ring with counters before it, in memory that a lane and
 * another process share. The lane writes and never waits: without room a frame is counted as dropped.
 *
 *     0      f64 frames seen, f64 frames that the filter took, f64 frames of these that were dropped
 *     4096   the ring (memory/frame-ring.ts); a record is
 *            0   u32 lower, u32 upper half of the time, in ns since 1970
 *            8   u32 length of the frame
 *            12  u32 direction, CAPTURE_IN or CAPTURE_OUT
 *            16  the frame's first bytes
 *
 * A frame counts when its record can be read, not before: whoever finds it counted finds it in the ring, even when the lane
 * ended meanwhile. The reader may write what it likes: it loses its own frames, and the lane's writes stay within the ring.
 */
import { type Address, viewMemory } from '../linux/libc.ts';
import { PAGE_SIZE } from '../linux/mman.ts';
import type { FrameBatch } from './frame-batch.ts';
import { FrameRing, frameRingBytes } from './frame-ring.ts';
import { pages } from './shared-buffer.ts';

/** From the port into the switch, and from the switch to the port. Both together as a mask. */
export const CAPTURE_IN = 1;
export const CAPTURE_OUT = 2;

const RING_OFFSET = PAGE_SIZE;
const RECORD_HEADER_BYTES = 16;
const WORD_BYTES = 4;
const SEEN = 0;
const ACCEPTED = 1;
const DROPPED = 2;
const COUNTERS = 3;

/** Bytes of the counters at the start of each part. */
export const CAPTURE_COUNTERS_BYTES = COUNTERS * Float64Array.BYTES_PER_ELEMENT;

export interface CaptureCounters {
  /** Frames that passed the port in the directions that are captured. */
  seen: number;
  /** Those of them that the filter took. */
  accepted: number;
  /** Those of these that found no room. */
  dropped: number;
}

/** Bytes of memory for one lane's part of a capture whose ring has this capacity (a power of two); whole pages. */
export function capturePartBytes(capacity: number): number {
  return RING_OFFSET + pages(frameRingBytes(capacity));
}

/** The counters, of their {@link CAPTURE_COUNTERS_BYTES} bytes. */
export function readCaptureCounters(bytes: ArrayBuffer, offset = 0): CaptureCounters {
  const counters = new Float64Array(bytes, offset, COUNTERS);
  return { seen: counters[SEEN]!, accepted: counters[ACCEPTED]!, dropped: counters[DROPPED]! };
}

/** The lane's side. Hot: allocates nothing. */
export class CaptureRingWriter {
  readonly #counters: Float64Array;
  readonly #ring: FrameRing;
  readonly #words: Uint32Array;
  readonly #base: Address;
  #seen = 0;
  #accepted = 0;
  #dropped = 0;
  #staged = false;

  /** `address`: of a part of {@link capturePartBytes}. */
  constructor(address: Address, capacity: number) {
    this.#base = address;
    this.#counters = new Float64Array(viewMemory(address, CAPTURE_COUNTERS_BYTES));
    this.#ring = new FrameRing(address + RING_OFFSET, capacity);
    this.#words = new Uint32Array(viewMemory(address, capturePartBytes(capacity)));
  }

  /** Counts frames that passed, whether or not the filter takes them. */
  see(frames: number): void {
    this.#seen += frames;
  }

  /** Takes the first `bytes` bytes of frame `i`, or counts it as dropped. */
  put(batch: FrameBatch, i: number, bytes: number, direction: number, high: number, low: number): void {
    this.#accepted++;
    const length = batch.length[i]!;
    const captured = Math.min(bytes, length);
    const record = RECORD_HEADER_BYTES + captured;
    const address = this.#ring.reserve(record);
    if (address === 0) {
      this.#dropped++;
      return;
    }
    const words = this.#words;
    const at = (address - this.#base) / WORD_BYTES;
    words[at] = low;
    words[at + 1] = high;
    words[at + 2] = length;
    words[at + 3] = direction;
    batch.copyOut(i, address + RECORD_HEADER_BYTES, captured);
    this.#ring.stage(record);
    this.#staged = true;
  }

  /** Shows the reader what was put, and then the counters. True when it sleeps and must be signalled. */
  publish(): boolean {
    const signal = this.#staged && this.#ring.publishStaged();
    this.#staged = false;
    const counters = this.#counters;
    counters[SEEN] = this.#seen;
    counters[ACCEPTED] = this.#accepted;
    counters[DROPPED] = this.#dropped;
    return signal;
  }
}

/** A captured frame, where {@link CaptureReader} found it. */
export interface CapturedFrame {
  /** Of the time in ns since 1970. */
  high: number;
  low: number;
  /** Of the frame, of which the first `captured` bytes stand in `bytes` from `from` on. */
  length: number;
  direction: number;
  bytes: Uint8Array;
  from: number;
  captured: number;
}

/** The reader's side: the parts of all lanes, whose frames come in the order of their times. Not thread-safe. */
export class CaptureReader {
  readonly #parts: PartReader[];
  #next: PartReader | null = null;

  /** `address`: of `parts` parts of {@link capturePartBytes}, one after the other. */
  constructor(address: Address, parts: number, capacity: number) {
    const bytes = capturePartBytes(capacity);
    this.#parts = Array.from({ length: parts }, (_, part) => new PartReader(address + part * bytes, capacity));
  }

  /** The earliest frame that waits, or null. The same object each time, good until {@link release}. */
  peek(): CapturedFrame | null {
    this.#next = null;
    let earliest: CapturedFrame | null = null;
    for (const part of this.#parts) {
      const frame = part.peek();
      if (frame === null || (earliest !== null && !isBefore(frame, earliest))) continue;
      earliest = frame;
      this.#next = part;
    }
    return earliest;
  }

  /** The frame of the last {@link peek} is done with. */
  release(): void {
    this.#next?.release();
  }

  /** Asks for a signal with the next frame. False: one came meanwhile. */
  sleep(): boolean {
    let empty = true;
    for (const { ring } of this.#parts) if (!ring.sleep()) empty = false;
    return empty;
  }

  /** No signals, please. */
  wake(): void {
    for (const { ring } of this.#parts) ring.wake();
  }

  /** Of all lanes together. */
  counters(): CaptureCounters {
    const sum = { seen: 0, accepted: 0, dropped: 0 };
    for (const part of this.#parts) {
      const { seen, accepted, dropped } = readCaptureCounters(part.bytes.buffer as ArrayBuffer);
      sum.seen += seen;
      sum.accepted += accepted;
      sum.dropped += dropped;
    }
    return sum;
  }
}

class PartReader {
  readonly ring: FrameRing;
  readonly bytes: Uint8Array;
  readonly #base: Address;
  readonly #words: Uint32Array;
  readonly #frame: CapturedFrame;
  /** Bytes of the record that waits; -1 when none was seen yet. */
  #record = -1;

  constructor(address: Address, capacity: number) {
    const memory = viewMemory(address, capturePartBytes(capacity));
    this.#base = address;
    this.ring = new FrameRing(address + RING_OFFSET, capacity);
    this.bytes = new Uint8Array(memory);
    this.#words = new Uint32Array(memory);
    this.#frame = { high: 0, low: 0, length: 0, direction: 0, bytes: this.bytes, from: 0, captured: 0 };
  }

  peek(): CapturedFrame | null {
    if (this.#record >= 0) return this.#frame;
    const record = this.ring.peek();
    if (record < 0) return null;
    this.#record = record;
    const words = this.#words;
    const from = this.ring.address - this.#base;
    const at = from / WORD_BYTES;
    const frame = this.#frame;
    frame.low = words[at]!;
    frame.high = words[at + 1]!;
    frame.length = words[at + 2]!;
    frame.direction = words[at + 3]!;
    frame.from = from + RECORD_HEADER_BYTES;
    frame.captured = record - RECORD_HEADER_BYTES;
    return frame;
  }

  release(): void {
    this.ring.consume(this.#record);
    this.#record = -1;
  }
}

function isBefore(a: CapturedFrame, b: CapturedFrame): boolean {
  return a.high < b.high || (a.high === b.high && a.low < b.low);
}
