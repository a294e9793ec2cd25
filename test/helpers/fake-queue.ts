/** A PortQueue by script: frames to receive, a record of everything that the engine did. */
import { BATCH_FRAMES, type FrameBatch } from '../../memory/frame-batch.ts';
import { TX_DROP_NO_BUFFERS } from '../../switch/counters.ts';
import { type FdSink, type PortQueue, TRANSMITTED, type TransmitResult } from '../../switch/port.ts';
import { appendFrame, appendFrames, frameOf, join } from './frame-bytes.ts';

/** A frame with the fields of its virtio-net header (virtio 1.2 §5.1.6); all 0 where not given. */
export interface TestFrame {
  bytes: Uint8Array;
  flags?: number;
  gsoType?: number;
  hdrLen?: number;
  gsoSize?: number;
  csumStart?: number;
  csumOffset?: number;
}

const NET_HEADER_BYTES = 12;

/** The virtio-net header that says so, with num_buffers (0). */
export function netHeaderOf(frame: TestFrame): Uint8Array {
  const { flags = 0, gsoType = 0, hdrLen = 0, gsoSize = 0, csumStart = 0, csumOffset = 0 } = frame;
  const view = new DataView(new ArrayBuffer(NET_HEADER_BYTES));
  view.setUint8(0, flags);
  view.setUint8(1, gsoType);
  for (const [i, field] of [hdrLen, gsoSize, csumStart, csumOffset].entries()) view.setUint16(2 + 2 * i, field, true);
  return new Uint8Array(view.buffer);
}

/** Appends frames behind their virtio-net headers together, as a ring does. */
export function appendTestFrames(batch: FrameBatch, frames: TestFrame[]): void {
  const buffers = frames.map((frame) => join([netHeaderOf(frame), frame.bytes]));
  appendFrames(batch, buffers, NET_HEADER_BYTES);
}

export function appendTestFrame(batch: FrameBatch, frame: TestFrame): void {
  appendFrame(batch, [netHeaderOf(frame), frame.bytes], NET_HEADER_BYTES);
}

/** Frame `i` of a batch with its columns; those that mean nothing (without flags and gso_type) as 0. */
export function testFrameOf(batch: FrameBatch, i: number): Required<TestFrame> {
  const { flags, gsoType, hdrLen, gsoSize, csumStart, csumOffset } = batch;
  const plain = flags[i] === 0 && gsoType[i] === 0;
  const field = (column: Uint16Array): number => (plain ? 0 : column[i]!);
  return {
    bytes: frameOf(batch, i),
    flags: flags[i]!,
    gsoType: gsoType[i]!,
    hdrLen: field(hdrLen),
    gsoSize: field(gsoSize),
    csumStart: field(csumStart),
    csumOffset: field(csumOffset),
  };
}

export class FakeQueue implements PortQueue {
  ready = true;
  malformed = 0;
  stalledSince = -1;
  /** Frames that the port has for the switch. */
  readonly inbox: TestFrame[] = [];
  /** Frames that the switch gave to the port. */
  readonly sent: Required<TestFrame>[] = [];
  /** Buffers that it has for frames. */
  buffers = Number.POSITIVE_INFINITY;
  /** Why it takes no frame, though it has buffers: the same for all, or by frame. */
  refuses: TransmitResult | ((frame: Uint8Array) => TransmitResult) = TRANSMITTED;
  refusal: TransmitResult = TRANSMITTED;
  /** What enableNotification answers. */
  more = false;
  readonly pollFd: number;
  readonly released: number[] = [];
  readonly offered: Uint8Array[] = [];
  /** How many frames each transmit was for. */
  readonly runs: number[] = [];
  readonly enabled: { held: boolean; stalled: boolean }[] = [];
  flushes = 0;
  notified = 0;
  disabled = 0;

  constructor(pollFd = -1) {
    this.pollFd = pollFd;
  }

  receive(batch: FrameBatch): number {
    appendTestFrames(batch, this.inbox.slice(0, BATCH_FRAMES));
    return batch.count;
  }

  release(count: number): void {
    this.released.push(count);
    this.inbox.splice(0, count);
  }

  transmit(batch: FrameBatch, first: number, end: number): number {
    this.runs.push(end - first);
    for (let i = first; i < end; i++) {
      const bytes = frameOf(batch, i);
      this.offered.push(bytes);
      this.refusal = this.#refusalOf(bytes);
      if (this.refusal !== TRANSMITTED) return i - first;
      this.buffers--;
      this.sent.push(testFrameOf(batch, i));
    }
    return end - first;
  }

  #refusalOf(bytes: Uint8Array): TransmitResult {
    if (this.buffers === 0) return TX_DROP_NO_BUFFERS;
    return typeof this.refuses === 'number' ? this.refuses : this.refuses(bytes);
  }

  flush(): void {
    this.flushes++;
  }

  notify(): void {
    this.notified++;
  }

  disableNotification(): void {
    this.disabled++;
  }

  enableNotification(held: boolean, stalled: boolean): boolean {
    this.enabled.push({ held, stalled });
    return this.more;
  }

  addPollFds(sink: FdSink): void {
    sink.addEventfd(this.pollFd);
  }
}

/** A frame of `length` bytes between two stations, by the last byte of their addresses 02:00:00:00:00:xx. */
export function ethernet(to: number | Uint8Array, from: number, { length = 60, seed = 0 } = {}): Uint8Array {
  const bytes = new Uint8Array(length).map((_, i) => i * 31 + seed);
  bytes.set(typeof to === 'number' ? station(to) : to, 0);
  bytes.set(station(from), 6);
  bytes.set([0x88, 0xb5], 12); // EtherType for local experiments, IEEE 802 table 3
  return bytes;
}

export const station = (last: number): Uint8Array => Uint8Array.of(2, 0, 0, 0, last >> 8, last & 0xff);
export const BROADCAST = new Uint8Array(6).fill(0xff);
