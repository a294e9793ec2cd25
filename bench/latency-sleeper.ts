/** The thread of `bench latency` that sleeps as a lane does, and answers each kick. */
import { parentPort, workerData } from 'node:worker_threads';
import { drainEventfd } from '../linux/eventfd.ts';
import { POLLIN, PollSet } from '../linux/poll.ts';
import { setAffinity } from '../linux/sched.ts';
import type { SleeperJob } from './latency.ts';

const { kick, answers, cpu } = workerData as SleeperJob;
setAffinity([cpu]);
const poll = new PollSet();
poll.add(kick, POLLIN);
parentPort!.postMessage('ready');
while (Atomics.load(answers, 0) >= 0) {
  if (poll.wait(-1) === 0) continue;
  drainEventfd(kick);
  if (Atomics.load(answers, 0) >= 0) Atomics.add(answers, 0, 1);
}
