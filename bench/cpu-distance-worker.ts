/** The two threads of cacheLineNs(): one asks and measures, the other answers. Both go on until they are told to end. */
import { parentPort, workerData } from 'node:worker_threads';
import { setAffinity } from '../linux/sched.ts';
import { type DistanceJob, END, PING, PONG } from './cpu-distance.ts';
import { percentile } from './statistics.ts';

const BATCHES = 41;
const TRIPS = 200;
/** Batches in which one of the threads waited for its CPU, or for the other's start, are slower by far. */
const SHARE = 0.25;
const NS_PER_MS = 1e6;

const { words, cpu, role } = workerData as DistanceJob;
setAffinity([cpu]);
if (role === 'answers') {
  for (let seen = 0; Atomics.load(words, END) === 0; ) {
    const ping = Atomics.load(words, PING);
    if (ping !== seen) Atomics.store(words, PONG, ping);
    seen = ping;
  }
} else {
  const batches = Array.from({ length: BATCHES }, (_, batch) => roundTripNs(batch * TRIPS));
  parentPort!.postMessage(percentile(batches, SHARE));
}

function roundTripNs(before: number): number {
  const start = performance.now();
  for (let trip = before + 1; trip <= before + TRIPS; trip++) {
    Atomics.store(words, PING, trip);
    while (Atomics.load(words, PONG) !== trip) if (Atomics.load(words, END) !== 0) process.exit();
  }
  return ((performance.now() - start) * NS_PER_MS) / TRIPS;
}
