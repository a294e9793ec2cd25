/**
 * Two threads each store to a word of their own and then load the other's. Without a full fence both may find nothing, since a
 * store waits in its processor's store buffer while the load goes ahead; with one, one of them finds the other's.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { DONE, END, MINE, OTHERS, READY, ROUND, SEEN, storeAndLoad, WORDS } from '../helpers/fence-worker.ts';

const SECONDS = 1;
/** How far the threads are apart when they begin is different in each round. */
const LONGEST_WAIT = 97;

/** Rounds that were played in SECONDS, and those in which both threads found nothing. */
async function play(fenced: boolean): Promise<{ rounds: number; missed: number }> {
  const words = new Int32Array(new SharedArrayBuffer(WORDS * Int32Array.BYTES_PER_ELEMENT));
  const worker = new Worker(new URL('../helpers/fence-worker.ts', import.meta.url), {
    workerData: { fenceWords: words, fenced },
  });
  await once(worker, 'online');
  let [rounds, missed] = [0, 0];
  for (const end = performance.now() + SECONDS * 1000; performance.now() < end; ) {
    rounds++;
    words[MINE] = 0;
    words[OTHERS] = 0;
    Atomics.store(words, ROUND, rounds);
    for (let wait = rounds % LONGEST_WAIT; wait > 0; wait--) Atomics.load(words, MINE);
    while (Atomics.load(words, READY) !== rounds);
    const seen = storeAndLoad(words, MINE, OTHERS, fenced);
    while (Atomics.load(words, DONE) !== rounds);
    if (seen + words[SEEN]! === 0) missed++;
  }
  Atomics.store(words, ROUND, END);
  await once(worker, 'exit');
  return { rounds, missed };
}

describe('a full fence', function () {
  this.timeout(30_000);

  it('stands between a store and a load, for two processors', async () => {
    const { rounds, missed } = await play(true);
    assert.ok(rounds > 0);
    assert.equal(missed, 0, `of ${rounds} rounds`);
  });
});
