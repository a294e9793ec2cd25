/**
 * Switches that share two processors in turns, each with guests of its own: all are started, then each runs for a fraction
 * of a second while the others stand still (SIGSTOP), again and again. What the host does to the machine meanwhile, it does to
 * all of them alike: cpu-distance.ts tells why runs of some seconds, one after the other, do not compare.
 */
import { cpuSeconds } from './cpu.ts';
import { cacheLineNs } from './cpu-distance.ts';
import type { Guests, LoopCounts } from './guests.ts';
import { pause } from './pause.ts';
import type { BenchSwitch } from './switches.ts';

/** How long a turn is measured. */
export const TURN_SECONDS = 0.25;
/** How long it runs before: until the caches are its own again. */
const SETTLE_SECONDS = 0.05;

/** A switch whose guests' loop has been started. */
export interface Contestant {
  bench: BenchSwitch;
  guests: Guests;
}

/** What loops carried together while they were watched. */
export interface Measurement {
  frames: number;
  seconds: number;
  /** Processor time of the switch. */
  cpuSeconds: number;
  /** Time that the switch spent on a frame, in ns; null when it does not count it. */
  busy: number | null;
}

export interface Turn extends Measurement {
  /** Round trip of a cache line between the two processors, before and after all of this round of turns, in ns. */
  cache_line_ns: [number, number];
}

/**
 * Gives the turns of each contestant, `turns` of them. They are suspended before, and after. Rejects when one of them does not
 * answer, with its name, and when it is interrupted.
 */
export async function takeTurns(
  contestants: readonly Contestant[],
  { turns, cpus }: { turns: number; cpus: [number, number] },
): Promise<Turn[][]> {
  const results: Turn[][] = contestants.map(() => []);
  let before = await cacheLineNs(...cpus);
  for (let turn = 0; turn < turns; turn++) {
    const measurements: Measurement[] = [];
    for (const contestant of contestants) {
      const { bench, guests } = contestant;
      resume(contestant);
      await pause(SETTLE_SECONDS);
      try {
        measurements.push(await measure(bench, [guests], TURN_SECONDS));
      } catch (error) {
        throw new Error(`${bench.name} failed in its turn: ${(error as Error).message}`, { cause: error });
      }
      suspend(contestant);
    }
    const after = await cacheLineNs(...cpus);
    for (const [i, measurement] of measurements.entries()) {
      results[i]!.push({ ...measurement, cache_line_ns: [before, after] });
    }
    before = after;
  }
  return results;
}

/**
 * Makes it stand still, so that others have the processors. The switch first: while it runs its guests must, too, or it takes
 * them for dead, and drops what is for them.
 */
export function suspend({ bench, guests }: Contestant): void {
  signal(bench.pid, 'SIGSTOP');
  signal(guests.pid, 'SIGSTOP');
}

/** Lets it go on. What stands still cannot be ended but by force. */
export function resume({ bench, guests }: Contestant): void {
  signal(guests.pid, 'SIGCONT');
  signal(bench.pid, 'SIGCONT');
}

/** Who has ended is noticed when he is asked for his counters. */
function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Watches loops that run on one switch. */
export async function measure(bench: BenchSwitch, loops: Guests[], seconds: number): Promise<Measurement> {
  const readBusy = await bench.startBusyMeter();
  const before = await countAll(loops);
  const [cpuBefore, cpuTime] = [cpuSeconds(bench.pid), performance.now()];
  await pause(seconds);
  const after = await countAll(loops);
  const cpuShare = ((cpuSeconds(bench.pid) - cpuBefore) * 1000) / (performance.now() - cpuTime);
  const busy = await readBusy();
  // Each loop is asked in its own moment.
  let rate = 0;
  for (const [i, { time, received }] of after.entries()) {
    rate += ((received - before[i]!.received) * 1000) / (time - before[i]!.time);
  }
  const elapsed = (after[0]!.time - before[0]!.time) / 1000;
  return { frames: rate * elapsed, seconds: elapsed, cpuSeconds: cpuShare * elapsed, busy };
}

async function countAll(loops: Guests[]): Promise<LoopCounts[]> {
  const counts: LoopCounts[] = [];
  for (const loop of loops) counts.push(await loop.counts());
  return counts;
}

/** All that was measured in several turns. */
export function total(turns: readonly Measurement[]): Measurement {
  const sum = (of: (turn: Measurement) => number) => turns.reduce((all, turn) => all + of(turn), 0);
  const frames = sum((turn) => turn.frames);
  const busy = turns.some((turn) => turn.busy === null) ? null : sum((turn) => turn.busy! * turn.frames) / frames;
  return { frames, seconds: sum((turn) => turn.seconds), cpuSeconds: sum((turn) => turn.cpuSeconds), busy };
}

/** Million frames a second. */
export function mppsOf({ frames, seconds }: Measurement): number {
  return frames / seconds / 1e6;
}
