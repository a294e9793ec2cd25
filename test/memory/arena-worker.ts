/** Worker thread of arena.test.ts: maps a file into an arena of its own, says what it finds, and leaves its own mark. */
import { parentPort, workerData } from 'node:worker_threads';
import { viewMemory } from '../../linux/libc.ts';
import { MAP_FIXED, MAP_SHARED, mmap, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';
import { Arena } from '../../memory/arena.ts';

export interface WorkerFile {
  fd: number;
  length: number;
}
export interface WorkerAnswer {
  reason: string;
  address: number;
  seen: Uint8Array;
}
/** What the worker writes over the whole file, by its kernels. */
export const WORKER_MARK = 0x5a;

if (parentPort) {
  const { fd, length } = workerData as WorkerFile;
  const arena = Arena.open();
  const address = arena.reserve(length, 4096, 0);
  mmap({ address, length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED | MAP_FIXED, fd });
  const scratch = arena.allocate(length);
  const bytes = new Uint8Array(viewMemory(scratch, length));
  arena.copy(scratch, address, length);
  const seen = bytes.slice();
  bytes.fill(WORKER_MARK);
  arena.copy(address, scratch, length);
  arena.free(address, length);
  parentPort.postMessage({ reason: arena.reason, address, seen } satisfies WorkerAnswer);
}
