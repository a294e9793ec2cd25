/**
 * Is ringswitch as fast every time? The same run again and again, each with a daemon and guests of its own; told of all, and
 * of those apart in which the CPUs were equally far from each other (cpu-distance.ts).
 */
import { type ForwardResult, type ForwardRun, forward, groupRuns } from './forward.ts';
import type { Ring } from './guests.ts';
import { median } from './statistics.ts';

const FRAME_BYTES = 64;

export interface Spread {
  runs: number;
  min: number;
  median: number;
  max: number;
  /** The slowest run by the median. */
  slowest_to_median: number;
}

export interface SteadyResult extends ForwardResult, Omit<Spread, 'runs'> {
  /** The nearest CPUs first; `cache_line_ns` is the median of the runs. */
  spreads: (Spread & { cache_line_ns: number })[];
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
  if (result.runs.length === 0) throw new Error(`no run gave a figure; the first: ${result.failed[0]?.reason}`);
  const spreads = groupRuns(result.runs).map((group) => ({
    ...spread(group),
    cache_line_ns: median(group.flatMap((run) => run.cache_line_ns)),
  }));
  return { ...spread(result.runs), ...result, spreads };
}

function spread(runs: ForwardRun[]): Spread {
  const figures = runs.map((run) => run.mpps);
  const [min, max, middle] = [Math.min(...figures), Math.max(...figures), median(figures)];
  return { runs: runs.length, min, median: middle, max, slowest_to_median: min / middle };
}

export function spreadLine({ min, median, max, slowest_to_median: share }: Omit<Spread, 'runs'>): string {
  return `min ${min.toFixed(2)}, median ${median.toFixed(2)}, max ${max.toFixed(2)} Mpps; slowest / median ${share.toFixed(2)}`;
}
