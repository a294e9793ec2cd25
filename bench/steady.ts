/**
 * Is ringswitch as fast after every start? Many daemons, each with guests of its own, that take turns (turns.ts): they are
 * the same program on the same processors at the same time, so what their figures differ by is ringswitch's own.
 */
import { type ForwardResult, forward } from './forward.ts';
import type { Ring } from './guests.ts';
import { median } from './statistics.ts';

const FRAME_BYTES = 64;

export interface Spread {
  min: number;
  median: number;
  max: number;
  /** The slowest run by the median. */
  slowest_to_median: number;
}

export interface SteadyResult extends ForwardResult, Spread {}

export interface SteadyOptions {
  runs: number;
  seconds: number;
  ring: Ring;
  /** As in ForwardOptions. */
  starved?: number;
  report?: (line: string) => void;
}

/** Rejects when a run gave no figure. */
export async function steady({ runs, ring, ...more }: SteadyOptions): Promise<SteadyResult> {
  const switches = Array.from({ length: runs }, () => 'ringswitch' as const);
  const result = await forward({ sizes: [FRAME_BYTES], rings: [ring], switches, rounds: 1, ...more });
  const [failure] = result.failed;
  if (failure) throw new Error(`${result.failed.length} of ${runs} runs gave no figure: ${failure.reason}`);
  return { ...spreadOf(result.runs.map((run) => run.mpps)), ...result };
}

/** Throws RangeError without any figure. */
export function spreadOf(figures: number[]): Spread {
  const [min, max, middle] = [Math.min(...figures), Math.max(...figures), median(figures)];
  return { min, median: middle, max, slowest_to_median: min / middle };
}

export function spreadLine({ min, median, max, slowest_to_median: share }: Spread): string {
  return `min ${min.toFixed(2)}, median ${median.toFixed(2)}, max ${max.toFixed(2)} Mpps; slowest / median ${share.toFixed(2)}`;
}
