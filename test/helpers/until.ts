/** Waiting, in tests, for what will be so: as long as a busy machine may need, and then with words about it. */
import { setTimeout as delay } from 'node:timers/promises';
import type { DaemonProcess } from '../../lab/daemon.ts';

/** Far longer than anything takes that a machine of its own does at once; less than mocha gives a test. */
const PATIENCE_MS = 8000;

export interface Patience {
  /** Default 8 s. */
  timeoutMs?: number;
  /** Between two looks. Default 5. */
  everyMs?: number;
  /** What else to say when it was in vain: a log, or what was there instead. */
  instead?: () => string | Promise<string>;
}

/**
 * Looks again and again until `look` gives something true, which it resolves to.
 *
 * Rejects when that has not come in time, with "`what`: not within ... ms", and with what `look` threw.
 */
export async function until<T>(
  what: string,
  look: () => T | Promise<T>,
  { timeoutMs = PATIENCE_MS, everyMs = 5, instead }: Patience = {},
): Promise<Exclude<T, null | undefined | false | 0 | ''>> {
  for (const deadline = performance.now() + timeoutMs; ; await delay(everyMs)) {
    const found = await look();
    if (found) return found as Exclude<T, null | undefined | false | 0 | ''>;
    if (performance.now() > deadline) {
      throw new Error(`${what}: not within ${timeoutMs} ms${instead ? `; ${await instead()}` : ''}`);
    }
  }
}

/** Waits until a daemon has no more than `count` ports: they go some time after the files of their clients. */
export async function untilPorts(daemon: DaemonProcess, count = 0): Promise<void> {
  let names: string[] = [];
  await until(
    `${count} ports`,
    async () => {
      names = (await daemon.ports()).map(({ name }) => name);
      return names.length <= count;
    },
    { instead: () => `there are ${names.join(', ')}` },
  );
}
