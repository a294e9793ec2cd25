/**
 * How far two CPUs are from each other: the time that a cache line takes from one to the other and back.
 *
 * A host moves the CPUs of a virtual machine: next to each other below one cache, then to two ends of a chip, for seconds
 * or minutes. Rings are lines that go from CPU to CPU, so every switch has as many speeds as there are such distances, and
 * figures compare only where the distance was the same.
 */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

/** Distances that differ by less than this factor are one. */
const SAME = 1.8;
const WORKER = new URL('./cpu-distance-worker.ts', import.meta.url);

export interface DistanceJob {
  /** The two words that go to and fro, PING and PONG, on cache lines of their own. */
  words: Int32Array;
  cpu: number;
  role: 'asks' | 'answers';
}

/** Places in DistanceJob.words. */
export const PING = 0;
export const PONG = 32;
const WORDS = 64;

/**
 * ns for the way of a line between two CPUs and back: the lower quartile of short batches, so that others may be busy on both
 * CPUs meanwhile. Takes some 100 ms of threads of its own. Rejects when a CPU cannot be had.
 */
export async function cacheLineNs(one: number, other: number): Promise<number> {
  const words = new Int32Array(new SharedArrayBuffer(WORDS * Int32Array.BYTES_PER_ELEMENT));
  const start = (job: DistanceJob) => new Worker(WORKER, { workerData: job });
  const workers = [start({ words, cpu: other, role: 'answers' }), start({ words, cpu: one, role: 'asks' })];
  try {
    const [ns] = await Promise.race(workers.map((worker) => once(worker, 'message')));
    return ns as number;
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

/** Whether all of these are one distance. */
export function sameDistance(distances: number[]): boolean {
  return Math.max(...distances) < SAME * Math.min(...distances);
}

/** Puts together what has no gap of a factor SAME in between, the nearest first; `of` tells an item's distance in ns. */
export function groupByDistance<T>(items: T[], of: (item: T) => number): T[][] {
  const groups: T[][] = [];
  for (const item of items.toSorted((a, b) => of(a) - of(b))) {
    const group = groups.at(-1);
    if (group && sameDistance([of(group.at(-1)!), of(item)])) group.push(item);
    else groups.push([item]);
  }
  return groups;
}
