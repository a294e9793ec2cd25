/**
 * The receive ring of a network device as its driver sees it (virtio 1.2 §5.1.6.4): used buffers put together into
 * frames, which VIRTIO_NET_F_MRG_RXBUF may spread over several.
 *
 *     used entries    [0] [1] [2] [3] [4] [5]          oldest first
 *     frames           0   └── 1 ──┘   2   └ 3 …       num_buffers stands in the header of each frame's first buffer
 *
 * All slots are offered from the start. A frame's slots stay held until {@link DriverFrames.release}, which offers them
 * again. A frame whose buffers are not all used yet waits for them. One thread only. Hot: allocates nothing.
 */

import type { DriverMemory } from './driver-memory.ts';
import { type DriverVirtqueue, NO_SLOT } from './driver-virtqueue.ts';
import { type Features, hasFeature, netHeaderBytes, VIRTIO_NET_F_MRG_RXBUF } from './virtio.ts';

/** Index of num_buffers in the header, in 16-bit words: flags and gso_type, hdr_len, gso_size, csum_start, csum_offset. */
export const NUM_BUFFERS_WORD = 5;

export class DriverFrames {
  /** Bytes of virtio-net header before each frame, in its first buffers. */
  readonly headerBytes: number;
  readonly #queue: DriverVirtqueue;
  readonly #mergeable: boolean;
  /** All slots, by 16-bit words. */
  readonly #words: Uint16Array;
  /** Buffers of each frame that waits, round the ring. */
  readonly #buffers: Uint16Array;
  readonly #mask: number;
  #first = 0;
  #count = 0;
  /** Used entries that belong to these frames. */
  #grouped = 0;

  /** `queue` lies in `memory`, is writable and reset. {@link restart} offers its slots. */
  constructor(queue: DriverVirtqueue, memory: DriverMemory, features: Features) {
    this.#queue = queue;
    this.headerBytes = netHeaderBytes(features);
    this.#mergeable = hasFeature(features, VIRTIO_NET_F_MRG_RXBUF);
    this.#words = new Uint16Array(memory.view(queue.slotAddress(0), queue.slotsBytes));
    this.#buffers = new Uint16Array(queue.num);
    this.#mask = queue.num - 1;
  }

  /** Forgets all frames, and offers all slots of a ring that was just reset. */
  restart(): void {
    this.#first = 0;
    this.#count = 0;
    this.#grouped = 0;
    const queue = this.#queue;
    for (let slot = queue.take(); slot !== NO_SLOT; slot = queue.take()) queue.offer(slot, queue.slotBytes);
    queue.publish();
  }

  /** Looks for new frames. Gives how many wait, older ones among them. */
  poll(): number {
    const queue = this.#queue;
    const used = queue.poll();
    while (this.#grouped < used) {
      const buffers = this.#numBuffers(this.#grouped);
      if (buffers === 0 || this.#grouped + buffers > used) break;
      this.#buffers[(this.#first + this.#count++) & this.#mask] = buffers;
      this.#grouped += buffers;
    }
    return this.#count;
  }

  /** num_buffers of the frame that begins at a used entry; 0 with the ring broken. */
  #numBuffers(entry: number): number {
    const queue = this.#queue;
    // Without a whole header there is no num_buffers: a frame of one buffer, which its length tells to be none.
    if (!this.#mergeable || queue.usedLength(entry) < this.headerBytes) return 1;
    const slot = queue.usedSlot(entry);
    const buffers = this.#words[(queue.slotOffset(slot) >> 1) + NUM_BUFFERS_WORD]!;
    if (buffers >= 1 && buffers <= queue.num) return buffers;
    queue.fail('NUM_BUFFERS', slot, buffers);
    return 0;
  }

  /**
   * Buffers of the `i`-th frame that waits, 0 being the oldest. They are the used entries of the queue that follow those of
   * the frames before it.
   */
  buffers(i: number): number {
    return this.#buffers[(this.#first + i) & this.#mask]!;
  }

  /** The oldest `count` frames are done with: their slots are offered again, and shown at the next publish. */
  release(count: number): void {
    const queue = this.#queue;
    for (let i = 0; i < count; i++) {
      const buffers = this.#buffers[this.#first]!;
      this.#first = (this.#first + 1) & this.#mask;
      this.#grouped -= buffers;
      for (let b = 0; b < buffers; b++) queue.offer(queue.shift(), queue.slotBytes);
    }
    this.#count -= count;
  }
}
