/** Is ringswitch as fast every time? The same run again and again, each with a daemon and guests of its own. */
import { type ForwardResult, forward } from './forward.ts';
import type { Ring } from './guests.ts';
import { median } from './statistics.ts';

const FRAME_BYTES = 64;

export interface SteadyResult extends ForwardResult {
  min: number;
  median: number;
  max: number;
  /** The slowest run by the median. */
  slowest_to_median: number;
}

export interface SteadyOptions {
  runs: number;
  seconds: number;
  ring: Ring;
  /** As in ForwardOptions. */
  starved?: number;
  report?: (line: string) => void;
}

/** Rejects when no run gave a figure. */
export async function steady({ runs, ring, ...more }: SteadyOptions): Promise<SteadyResult> {
  const options = { sizes: [FRAME_BYTES], rings: [ring], switches: ['ringswitch' as const], rounds: runs };
  const result = await forward({ ...options, ...more });
  const figures = result.runs.map((run) => run.mpps);
  if (figures.length === 0) throw new Error(`no run gave a figure; the first: ${result.failed[0]?.reason}`);
  const [min, max, middle] = [Math.min(...figures), Math.max(...figures), median(figures)];
  return { ...result, min, median: middle, max, slowest_to_median: min / middle };
}
