/** One of two threads that store to a word of their own and then load the other's: see test/memory/fence.test.ts. */
import { workerData } from 'node:worker_threads';
import { fullFence } from '../../memory/fence.ts';

/** Places in the shared words, a cache line or more from each other. */
export const [MINE, OTHERS, ROUND, READY, DONE, SEEN] = [0, 64, 128, 192, 256, 320];
export const WORDS = 384;
export const END = -1;

/** Stores to one place, and gives what stands at the other, with or without a fence in between. */
export function storeAndLoad(words: Int32Array, store: number, load: number, fenced: boolean): number {
  words[store] = 1;
  if (fenced) fullFence();
  return words[load]!;
}

if (workerData?.fenceWords) {
  const { fenceWords: words, fenced } = workerData as { fenceWords: Int32Array; fenced: boolean };
  for (let before = 0; ; ) {
    const round = Atomics.load(words, ROUND);
    if (round === END) break;
    if (round === before) continue;
    before = round;
    Atomics.store(words, READY, round);
    words[SEEN] = storeAndLoad(words, OTHERS, MINE, fenced);
    Atomics.store(words, DONE, round);
  }
}
