/** Waiting that an interrupted benchmark gives up, so that everything it started is taken down. */
import { setTimeout as delay } from 'node:timers/promises';

const interruption = new AbortController();

/** Makes every {@link pause} reject, now and from now on: what waits unwinds, and disposes of what it holds. */
export function interrupt(signal: string): void {
  interruption.abort(new Error(`interrupted by ${signal}`));
}

/** Rejects when the benchmark is interrupted. */
export async function pause(seconds: number): Promise<void> {
  interruption.signal.throwIfAborted();
  try {
    await delay(seconds * 1000, undefined, { signal: interruption.signal });
  } catch {
    interruption.signal.throwIfAborted();
  }
}
