/** A PortQueue by script: frames to receive, a record of everything that the engine did. */
import { BATCH_FRAMES, type FrameBatch } from '../../memory/frame-batch.ts';
import { TX_DROP_NO_BUFFERS } from '../../switch/counters.ts';
import { type FdSink, type PortQueue, TRANSMITTED, type TransmitResult } from '../../switch/port.ts';
import { appendFrame, frameOf } from './frame-bytes.ts';

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

/** Appends a frame with all its columns: the batch may hold older ones. */
export function appendTestFrame(batch: FrameBatch, frame: TestFrame): void {
  const i = batch.count;
  appendFrame(batch, [frame.bytes]);
  batch.flags[i] = frame.flags ?? 0;
  batch.gsoType[i] = frame.gsoType ?? 0;
  batch.hdrLen[i] = frame.hdrLen ?? 0;
  batch.gsoSize[i] = frame.gsoSize ?? 0;
  batch.csumStart[i] = frame.csumStart ?? 0;
  batch.csumOffset[i] = frame.csumOffset ?? 0;
}

/** Frame `i` of a batch with its columns. */
export function testFrameOf(batch: FrameBatch, i: number): Required<TestFrame> {
  const { flags, gsoType, hdrLen, gsoSize, csumStart, csumOffset } = batch;
  return {
    bytes: frameOf(batch, i),
    flags: flags[i]!,
    gsoType: gsoType[i]!,
    hdrLen: hdrLen[i]!,
    gsoSize: gsoSize[i]!,
    csumStart: csumStart[i]!,
    csumOffset: csumOffset[i]!,
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
  /** What it answers instead of taking a frame, when it has buffers. */
  refusal: TransmitResult = TRANSMITTED;
  /** What enableNotification answers. */
  more = false;
  readonly pollFd: number;
  readonly released: number[] = [];
  readonly offered: Uint8Array[] = [];
  readonly enabled: { held: boolean; stalled: boolean }[] = [];
  flushes = 0;
  disabled = 0;

  constructor(pollFd = -1) {
    this.pollFd = pollFd;
  }

  receive(batch: FrameBatch): number {
    for (const frame of this.inbox.slice(0, BATCH_FRAMES)) appendTestFrame(batch, frame);
    return batch.count;
  }

  release(count: number): void {
    this.released.push(count);
    this.inbox.splice(0, count);
  }

  transmit(batch: FrameBatch, i: number): TransmitResult {
    this.offered.push(frameOf(batch, i));
    if (this.buffers === 0) return TX_DROP_NO_BUFFERS;
    if (this.refusal !== TRANSMITTED) return this.refusal;
    this.buffers--;
    this.sent.push(testFrameOf(batch, i));
    return TRANSMITTED;
  }

  flush(): void {
    this.flushes++;
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
