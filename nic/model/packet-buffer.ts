/**
 * The receive packet buffer (82599 datasheet §7.1.3, §8.2.3.8.9): frames that wait for descriptors, in order of arrival. One that
 * waits keeps those behind it waiting, for whichever queue they are: what SRRCTL.DROP_EN is there to avoid.
 */
import type { ReceiveQueue, WriteBack } from './receive-queue.ts';

export interface Held {
  frame: Uint8Array;
  back: WriteBack;
  queue: ReceiveQueue;
}

/** Places of frames taken that are kept until it pays to move the others up. */
const SLACK = 256;

export class PacketBuffer {
  #frames: Held[] = [];
  /** Place of the first one that is still there. */
  #first = 0;
  #bytes = 0;

  /** How many bytes wait. */
  get bytes(): number {
    return this.#bytes;
  }

  get isEmpty(): boolean {
    return this.#first === this.#frames.length;
  }

  /** Keeps a copy of a frame. False, and nothing is kept: with it there would be more than `capacity` bytes. */
  add({ frame, back, queue }: Held, capacity: number): boolean {
    if (this.#bytes + frame.length > capacity) return false;
    this.#frames.push({ frame: frame.slice(), back: { ...back }, queue });
    this.#bytes += frame.length;
    return true;
  }

  /** The frame that has waited longest. */
  get first(): Held | undefined {
    return this.#frames[this.#first];
  }

  /** Takes {@link first} out. */
  take(): void {
    this.#bytes -= this.#frames[this.#first]!.frame.length;
    this.#first++;
    if (this.#first < SLACK && !this.isEmpty) return;
    this.#frames = this.#frames.slice(this.#first);
    this.#first = 0;
  }

  clear(): void {
    this.#frames = [];
    this.#first = 0;
    this.#bytes = 0;
  }
}
