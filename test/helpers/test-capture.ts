/** What the daemon and a capturing process are to lanes: the memory that they share, its eventfd, and who reads it. */
import { drainEventfd, eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { MAP_SHARED, memfd, mmap, munmap, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';
import {
  CAPTURE_IN,
  CAPTURE_OUT,
  type CaptureCounters,
  CaptureReader,
  capturePartBytes,
} from '../../memory/capture-ring.ts';
import { MAX_FRAME_BYTES } from '../../memory/frame-batch.ts';
import type { CaptureDescription } from '../../switch/capture.ts';

export interface TakenFrame {
  direction: 'in' | 'out';
  /** ns since 1970. */
  time: bigint;
  length: number;
  bytes: Uint8Array;
}

export class TestCapture {
  readonly #ringBytes: number;
  readonly #lanes: number;
  readonly #memoryFd: number;
  readonly #wakeFd = eventfd();
  readonly #address: number;
  readonly #reader: CaptureReader;

  constructor({ lanes = 1, ringBytes = 2 ** 18 } = {}) {
    this.#lanes = lanes;
    this.#ringBytes = ringBytes;
    this.#memoryFd = memfd('test-capture', this.#length);
    const prot = PROT_READ | PROT_WRITE;
    this.#address = mmap({ length: this.#length, prot, flags: MAP_SHARED, fd: this.#memoryFd });
    this.#reader = new CaptureReader(this.#address, lanes, ringBytes);
  }

  get #length(): number {
    return this.#lanes * capturePartBytes(this.#ringBytes);
  }

  /** For lane `lane`: all of every frame, where not told otherwise. */
  description(lane = 0, options: Partial<CaptureDescription> = {}): CaptureDescription {
    return {
      memoryFd: this.#memoryFd,
      offset: lane * capturePartBytes(this.#ringBytes),
      ringBytes: this.#ringBytes,
      wakeFd: this.#wakeFd,
      snaplen: MAX_FRAME_BYTES,
      directions: CAPTURE_IN | CAPTURE_OUT,
      filter: null,
      ...options,
    };
  }

  /** Everything that waits. */
  taken(): TakenFrame[] {
    const frames: TakenFrame[] = [];
    for (let frame = this.#reader.peek(); frame !== null; frame = this.#reader.peek()) {
      const { high, low, length, bytes, from, captured } = frame;
      frames.push({
        direction: frame.direction === CAPTURE_IN ? 'in' : 'out',
        time: (BigInt(high) << 32n) | BigInt(low),
        length,
        bytes: bytes.slice(from, from + captured),
      });
      this.#reader.release();
    }
    return frames;
  }

  get counters(): CaptureCounters {
    return this.#reader.counters();
  }

  /** Asks for a signal; false when something waits. */
  sleep(): boolean {
    return this.#reader.sleep();
  }

  /** Whether a lane signalled since the last time. */
  signalled(): boolean {
    return drainEventfd(this.#wakeFd);
  }

  dispose(): void {
    munmap(this.#address, this.#length);
    close(this.#memoryFd);
    close(this.#wakeFd);
  }
}
