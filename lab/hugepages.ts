/** Hugepages of 2 MiB for DPDK programs: the system's pool grows while one runs, and shrinks when it ends. */
import fs from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { close, O_RDONLY, open, tryLock } from '../linux/file.ts';

const HUGEPAGE_MIB = 2;
const POOL = '/sys/kernel/mm/hugepages/hugepages-2048kB';
/** Longer than any program takes to occupy its pages. */
const LOCK_TIMEOUT_MS = 60_000;
const LOCK_POLL_MS = 20;

let turn: Promise<unknown> = Promise.resolve();

/**
 * Pages that this process added to the pool.
 *
 *     await using pages = await Hugepages.reserve(512, 'testpmd', async () => { start it; wait for its memory });
 *
 * Disposing gives back as many as were added: whoever uses them must have ended.
 */
export class Hugepages implements AsyncDisposable {
  #added: number;

  /**
   * Makes `mebibytes` free, and runs `take`, which shall occupy them: two that look at once would count the same pages as
   * free. Rejects when the system has no memory left, and with what `take` rejects with; nothing is left added then.
   */
  static async reserve(
    mebibytes: number,
    who: string,
    take: () => Promise<unknown> = async () => {},
  ): Promise<Hugepages> {
    return await oneAtATime(async () => {
      const added = await addHugepages(Math.ceil(mebibytes / HUGEPAGE_MIB), who);
      try {
        await take();
        return new Hugepages(added);
      } catch (error) {
        await returnHugepages(added);
        throw error;
      }
    });
  }

  private constructor(added: number) {
    this.#added = added;
  }

  /** Gives the pages back. Does nothing the second time. */
  async dispose(): Promise<void> {
    const added = this.#added;
    this.#added = 0;
    if (added > 0) await oneAtATime(() => returnHugepages(added));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}

/** Within this process, and by a lock on the pool's own file among all that use this module. */
function oneAtATime<T>(action: () => Promise<T>): Promise<T> {
  const result = turn.then(async () => {
    const lock = open(`${POOL}/nr_hugepages`, O_RDONLY);
    try {
      const deadline = Date.now() + LOCK_TIMEOUT_MS;
      while (!tryLock(lock)) {
        if (Date.now() > deadline) throw new Error('hugepages: another process has kept the pool locked for a minute');
        await delay(LOCK_POLL_MS);
      }
      return await action();
    } finally {
      close(lock);
    }
  });
  turn = result.catch(() => {});
  return result;
}

async function poolNumber(name: string): Promise<number> {
  return Number(await fs.readFile(`${POOL}/${name}`, 'latin1'));
}

/** Makes `needed` hugepages free; gives how many the pool had to grow by. */
async function addHugepages(needed: number, who: string): Promise<number> {
  const unreserved = async () => (await poolNumber('free_hugepages')) - (await poolNumber('resv_hugepages'));
  const missing = Math.max(0, needed - (await unreserved()));
  if (missing === 0) return 0;
  const tooFew = (why: string) =>
    new Error(
      `${who} needs ${missing} more hugepages of ${HUGEPAGE_MIB} MiB, but ${why}: end what takes memory, or give it a smaller memoryMiB.`,
    );
  // Asked for too many, the kernel would first take all that it can get.
  const available = await availableMemory();
  if (missing * HUGEPAGE_MIB > available) throw tooFew(`${available} MiB of memory are available`);
  const before = await ownPages();
  await fs.writeFile(`${POOL}/nr_hugepages`, `${(await poolNumber('nr_hugepages')) + missing}`);
  const added = (await ownPages()) - before;
  if ((await unreserved()) < needed) {
    await returnHugepages(added);
    throw tooFew('the kernel did not find them in its fragmented memory');
  }
  return added;
}

/**
 * Pages that the pool shall have. Those given back while somebody still uses them are surplus: the kernel counts them in
 * nr_hugepages, takes them away when they come free, and makes them the pool's own again when it is told to grow.
 */
async function ownPages(): Promise<number> {
  return (await poolNumber('nr_hugepages')) - (await poolNumber('surplus_hugepages'));
}

/** MemAvailable of proc(5), in MiB. */
async function availableMemory(): Promise<number> {
  const text = await fs.readFile('/proc/meminfo', 'latin1');
  return Math.floor(Number(/^MemAvailable:\s*(\d+) kB/m.exec(text)?.[1]) / 1024);
}

async function returnHugepages(added: number): Promise<void> {
  await fs.writeFile(`${POOL}/nr_hugepages`, `${Math.max(0, (await ownPages()) - added)}`);
}
