/**
 * A thread that writes into guest memory without end, while a device works on it: words that are near enough to sense to
 * get far. Its orders come as workerData; it ends when the word shared with it is 1.
 */
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import { viewMemory } from '../../linux/libc.ts';
import { MAP_SHARED, mmap, munmap, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';

interface Orders {
  /** A file to map, or without one an address of this process; and the range of 32-bit words in it to write to. */
  memory: { fd?: number; userAddress: number; length: number };
  from: number;
  to: number;
  /** Values for words at byte offset 0, 4, 8 and 12 modulo 16: a descriptor's. */
  values: number[][];
  state: SharedArrayBuffer;
}

export class Scribbler {
  readonly #worker: Worker;
  readonly #state = new Int32Array(new SharedArrayBuffer(8));

  constructor(orders: Omit<Orders, 'state'>) {
    this.#worker = new Worker(new URL(import.meta.url), {
      workerData: { ...orders, state: this.#state.buffer } satisfies Orders,
    });
  }

  /** Resolves when it has begun. */
  async started(): Promise<void> {
    const { async, value } = Atomics.waitAsync(this.#state, 1, 0, 10_000);
    if (async && (await value) === 'timed-out') throw new Error('the scribbler does not start');
  }

  async stop(): Promise<void> {
    Atomics.store(this.#state, 0, 1);
    const ended = new Promise<void>((resolve) => this.#worker.once('exit', () => resolve()));
    await ended;
  }
}

function scribble({ memory: { fd, userAddress, length }, from, to, values, state }: Orders): void {
  const address =
    fd === undefined ? userAddress : mmap({ length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED, fd });
  const words = new Uint32Array(viewMemory(address, length));
  const stop = new Int32Array(state);
  const next = (n: number): number => Math.floor(Math.random() * n);
  Atomics.store(stop, 1, 1);
  Atomics.notify(stop, 1);
  while (Atomics.load(stop, 0) === 0) {
    for (let i = 0; i < 1000; i++) {
      const word = from / 4 + next((to - from) / 4);
      const choice = values[word % 4]!;
      words[word] = choice[next(choice.length)]!;
    }
  }
  if (fd !== undefined) munmap(address, length);
}

if (!isMainThread && workerData !== null && typeof workerData === 'object' && 'values' in workerData) {
  scribble(workerData as Orders);
}
