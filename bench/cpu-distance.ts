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
  /** The two words that go to and fro, PING and PONG, and END, all on cache lines of their own. */
  words: Int32Array;
  cpu: number;
  role: 'asks' | 'answers';
}

/** Places in DistanceJob.words. */
export const PING = 0;
export const PONG = 32;
/** Other than 0: both threads shall end. */
export const END = 64;
const WORDS = 96;

/**
 * ns for the way of a line between two CPUs and back: the lower quartile of short batches, so that others may be busy on both
 * CPUs meanwhile. Takes some 100 ms of threads of its own. Rejects when a CPU cannot be had.
 */
export async function cacheLineNs(one: number, other: number): Promise<number> {
  const words = new Int32Array(new SharedArrayBuffer(WORDS * Int32Array.BYTES_PER_ELEMENT));
  const start = (job: DistanceJob) => new Worker(WORKER, { workerData: job });
  const workers = [start({ words, cpu: other, role: 'answers' }), start({ words, cpu: one, role: 'asks' })];
  const exits = workers.map((worker) => new Promise((resolve) => worker.once('exit', resolve)));
  try {
    const [ns] = await Promise.race(workers.map((worker) => once(worker, 'message')));
    return ns as number;
  } finally {
    // Not terminate(): a thread that is ended while it loads koffi takes the whole process with it (napi_throw fails there).
    Atomics.store(words, END, 1);
    await Promise.all(exits);
  }
}

/**
 * Items with near CPUs, and with far ones: `timesOf` tells the ns that lines took while each was measured. Far is what took
 * longer than the geometric mean of the shortest and the longest time of all; an item during which that changed is neither.
 * Where all times are one distance, so are the items. No group is empty.
 */
export function groupByDistance<T>(items: T[], timesOf: (item: T) => number[]): T[][] {
  const all = items.flatMap(timesOf);
  const [shortest, longest] = [Math.min(...all), Math.max(...all)];
  const border = longest < SAME * shortest ? Number.POSITIVE_INFINITY : Math.sqrt(shortest * longest);
  const near = items.filter((item) => timesOf(item).every((ns) => ns < border));
  const far = items.filter((item) => timesOf(item).every((ns) => ns >= border));
  return [near, far].filter((group) => group.length > 0);
}
