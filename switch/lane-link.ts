/**
 * The way to another lane: two bounded rings with one producer and one consumer each (memory/frame-ring.ts), in memory that
 * both lanes have mapped into their arenas.
 *
 *     record   0 .. 11  virtio-net header (virtio 1.2 §5.1.6), offloads not yet done
 *              12       le16 id of the port it goes to, TO_ALL for every port of the other lane
 *              14       le16 id of the port it came from
 *              16 ..    the frame; only its two MAC addresses in an announcement
 *
 * A lane tells the others of each address that it learns (an announcement), so that all lanes know as much as one would.
 *
 * To the engine a link is a queue like any other, whose frames know where they go. Hot: allocates nothing per frame.
 */
import { signalEventfd } from '../linux/eventfd.ts';
import { viewMemory } from '../linux/libc.ts';
import { BATCH_FRAMES, type FrameBatch } from '../memory/frame-batch.ts';
import { FrameRing, frameRingBytes } from '../memory/frame-ring.ts';
import { pages } from '../memory/shared-buffer.ts';
import { TX_DROP_NO_BUFFERS } from './counters.ts';
import { type FdSink, type PortQueue, TRANSMITTED, type TransmitResult } from './port.ts';

/** Bytes of one ring's data; a power of two, and more than twice the longest record. */
const RING_BYTES = 1 << 20;
/** Memory of one direction, in bytes: whole pages. */
const LINK_RING_BYTES = pages(frameRingBytes(RING_BYTES));
/** Before the frame in a record. */
const RECORD_HEADER_BYTES = 16;
const ID_BYTES = 4;
const MAC_ADDRESSES_BYTES = 12;
/** Instead of a port's id: every port of the lane. */
export const TO_ALL = 0;

/** Bytes of the memory that `lanes` lanes share for their links: a ring for each ordered pair, and unused ones. */
export function linkMemoryBytes(lanes: number): number {
  return lanes * lanes * LINK_RING_BYTES;
}

/** Where in that memory the ring stands that lane `from` fills for lane `to`. */
export function linkRingOffset(lanes: number, from: number, to: number): number {
  return (from * lanes + to) * LINK_RING_BYTES;
}

/** What {@link LaneLink.onAnnouncement} is told: the address as LearningTable.learn takes it, and the port. */
type Announcement = (high: number, low: number, port: number) => void;

export interface LaneLinkOptions {
  /** Addresses of the rings, LINK_RING_BYTES each: what this lane receives from and transmits to. */
  receiveRing: number;
  transmitRing: number;
  /** The other lane: its index, and the eventfd that wakes it. */
  peer: number;
  wakeFd: number;
}

export class LaneLink implements PortQueue {
  readonly ready = true;
  readonly malformed = 0;
  stalledSince = -1;
  refusal: TransmitResult = TRANSMITTED;
  /** For each frame of the batch that is being forwarded: the port that it goes to, and the port it came from. */
  readonly to = new Uint16Array(BATCH_FRAMES);
  readonly from = new Uint16Array(BATCH_FRAMES);
  onAnnouncement: Announcement = () => {};
  /** Index of the other lane. */
  readonly peer: number;
  readonly #in: FrameRing;
  readonly #out: FrameRing;
  readonly #inBytes: Uint8Array;
  readonly #inAddress: number;
  readonly #outBytes: Uint8Array;
  readonly #outAddress: number;
  readonly #wakeFd: number;
  #staged = false;
  #mark = 0;

  constructor({ receiveRing, transmitRing, peer, wakeFd }: LaneLinkOptions) {
    this.peer = peer;
    this.#in = new FrameRing(receiveRing, RING_BYTES);
    this.#out = new FrameRing(transmitRing, RING_BYTES);
    this.#inBytes = new Uint8Array(viewMemory(receiveRing, LINK_RING_BYTES));
    this.#inAddress = receiveRing;
    this.#outBytes = new Uint8Array(viewMemory(transmitRing, LINK_RING_BYTES));
    this.#outAddress = transmitRing;
    this.#wakeFd = wakeFd;
  }

  /** Fills {@link to} and {@link from} for the frames that it appends. */
  receive(batch: FrameBatch): number {
    const ring = this.#in;
    this.#mark = ring.mark;
    let segment = batch.segments + 1;
    let frames = 0;
    while (frames < BATCH_FRAMES) {
      const length = ring.peek();
      if (length < 0) break;
      if (length === RECORD_HEADER_BYTES + MAC_ADDRESSES_BYTES) {
        // Only at the front: what is released goes back to the ring in one piece.
        if (frames > 0) break;
        this.#hear(length);
        continue;
      }
      batch.segmentAddress[segment] = ring.address;
      batch.segmentLength[segment] = length;
      segment += 2;
      frames++;
      ring.advance(length);
    }
    batch.appendBuffers(frames, RECORD_HEADER_BYTES);
    const { headers } = batch;
    for (let i = 0; i < frames; i++) {
      const at = batch.headerOffset(i) - ID_BYTES;
      this.to[i] = headers[at]! | (headers[at + 1]! << 8);
      this.from[i] = headers[at + 2]! | (headers[at + 3]! << 8);
    }
    return frames;
  }

  #hear(length: number): void {
    const bytes = this.#inBytes;
    const at = this.#in.address - this.#inAddress + RECORD_HEADER_BYTES;
    const half = (i: number): number => (bytes[at + i]! << 8) | bytes[at + i + 1]!;
    this.onAnnouncement(half(6), (half(8) << 16) | half(10), bytes[at - 2]! | (bytes[at - 1]! << 8));
    this.#in.consume(length);
    this.#mark = this.#in.mark;
  }

  release(count: number): void {
    this.#in.rewind(this.#mark);
    for (let i = 0; i < count; i++) this.#in.advance(this.#in.peek());
    this.#in.publish();
  }

  /** Sends frames to the ports in {@link to}, as from those in {@link from}. */
  transmit(batch: FrameBatch, first: number, end: number): number {
    this.refusal = TRANSMITTED;
    let i = first;
    for (; i < end; i++) {
      const length = RECORD_HEADER_BYTES + batch.length[i]!;
      const address = this.#out.reserve(length);
      if (address === 0) {
        this.refusal = TX_DROP_NO_BUFFERS;
        break;
      }
      batch.placeTo[i] = address;
      this.#out.stage(length);
    }
    if (i > first) {
      batch.place(first, i, RECORD_HEADER_BYTES);
      // Afterwards: without the kernel the room between virtio-net header and frame is written as well.
      for (let k = first; k < i; k++) this.#writeIds(batch.placeTo[k]!, this.to[k]!, this.from[k]!);
      this.#staged = true;
    }
    return i - first;
  }

  #writeIds(address: number, to: number, from: number): void {
    const bytes = this.#outBytes;
    const at = address - this.#outAddress + RECORD_HEADER_BYTES - ID_BYTES;
    bytes[at] = to;
    bytes[at + 1] = to >> 8;
    bytes[at + 2] = from;
    bytes[at + 3] = from >> 8;
  }

  /** Tells the other lane that an address was seen at a port here; lost where the ring is full. */
  announce(high: number, low: number, port: number): void {
    const length = RECORD_HEADER_BYTES + MAC_ADDRESSES_BYTES;
    const address = this.#out.reserve(length);
    if (address === 0) return;
    this.#writeIds(address, TO_ALL, port);
    const bytes = this.#outBytes;
    const at = address - this.#outAddress + RECORD_HEADER_BYTES + 6;
    bytes[at] = high >> 8;
    bytes[at + 1] = high;
    for (let byte = 0; byte < 4; byte++) bytes[at + 2 + byte] = low >> (24 - 8 * byte);
    this.#out.stage(length);
    this.#staged = true;
  }

  flush(): void {
    if (!this.#staged) return;
    this.#staged = false;
    if (this.#out.publishStaged()) signalEventfd(this.#wakeFd);
  }

  notify(): void {}

  disableNotification(): void {
    this.#in.wake();
  }

  /** A full ring empties by itself, and what waits here is looked at again soon. */
  enableNotification(held: boolean): boolean {
    return !held && !this.#in.sleep();
  }

  addPollFds(_: FdSink): void {
    // The other lane signals this lane's own eventfd.
  }
}
