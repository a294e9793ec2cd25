/** Worker thread of frame-ring.test.ts: pushes records of known content as fast as there is room. */
import { workerData } from 'node:worker_threads';
import { signalEventfd } from '../../linux/eventfd.ts';
import { viewMemory } from '../../linux/libc.ts';
import { FrameRing } from '../../memory/frame-ring.ts';
import { fillRecord, recordLength } from './frame-ring-records.ts';

export interface ProducerData {
  address: number;
  bytes: number;
  capacity: number;
  records: number;
  event: number;
}

const { address, bytes, capacity, records, event } = workerData as ProducerData;
const ring = new FrameRing(address, capacity);
const memory = new Uint8Array(viewMemory(address, bytes));
for (let i = 0; i < records; i++) {
  const length = recordLength(i);
  let to = ring.reserve(length);
  while (to === 0) to = ring.reserve(length);
  fillRecord(memory, to - address, length, i);
  if (ring.commit(length)) signalEventfd(event);
}
