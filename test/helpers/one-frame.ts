/** Offers a single frame to a ring or a queue, as most tests do. */
import assert from 'node:assert/strict';
import type { FrameBatch } from '../../memory/frame-batch.ts';
import { type PortQueue, TRANSMITTED } from '../../switch/port.ts';
import { NO_REFUSAL, type Virtqueue } from '../../vhost/virtqueue.ts';

/** Delivers frame `i` alone. Gives NO_REFUSAL when the ring took it, else why not. */
export function deliverOne(ring: Virtqueue, batch: FrameBatch, i = 0): number {
  const taken = ring.deliver(batch, i, i + 1);
  assert.equal(taken, ring.refusal === NO_REFUSAL ? 1 : 0);
  return ring.refusal;
}

/** Transmits frame `i` alone. Gives TRANSMITTED when the queue took it, else the TX_DROP_… counter that says why not. */
export function transmitOne(queue: PortQueue, batch: FrameBatch, i = 0): number {
  const taken = queue.transmit(batch, i, i + 1);
  assert.equal(taken, queue.refusal === TRANSMITTED ? 1 : 0);
  return queue.refusal;
}
