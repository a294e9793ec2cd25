/**
 * Forwarding between two guests in a closed loop: a testpmd plays both with `macswap`, so that every frame received is
 * sent back to where it came from, and the figure is what the loop sustains. The switch runs on CPU 0, the guests on 1.
 *
 * The switches take turns within a round, since the machine's own speed changes from minute to minute: only figures of one
 * call compare. A round in which a switch did not get its processor is thrown away as a whole and repeated. How far the two
 * CPUs were from each other is measured before and after each run, while the loop goes on, and tells runs apart that do not
 * compare (cpu-distance.ts).
 */
import { tail } from '../lab/words.ts';
import { cpuSeconds, machine } from './cpu.ts';
import { cacheLineNs, groupByDistance, sameDistance } from './cpu-distance.ts';
import { Guests, type LoopCounts, type Ring } from './guests.ts';
import { pause } from './pause.ts';
import { median } from './statistics.ts';
import { type BenchSwitch, type SwitchName, startSwitch } from './switches.ts';

const SWITCH_CPU = 0;
const GUEST_CPU = 1;
const SETTLE_SECONDS = 1;
/** All these switches poll: one that used less than this share of its processor was kept from it. */
export const FULL_CPU = 0.95;
/** Starved rounds that are repeated, for each round asked for. */
const REPEATS = 2;
const BITS = 8;
const MEGA_TO_GIGA = 1e3;

export interface ForwardRun {
  switch: SwitchName;
  /** Bytes of a frame, without the checksum. */
  size: number;
  ring: Ring;
  round: number;
  /** Million frames a second received by both guests together. */
  mpps: number;
  gbps: number;
  /** Processor time of the switch by time measured: 1 is a whole CPU. */
  switch_cpu: number;
  /** Time that the switch spent on a frame, in ns; null when it does not count it. */
  busy_ns_per_frame: number | null;
  /** Frames that the loop was started with; see {@link Guests.firstBurst} for this and the next two. */
  start_frames: number;
  start_dropped: number;
  start_lost: number;
  /** Frames in the loop at the end of the run. */
  circulating: number;
  /** Round trip of a cache line between the switch's CPU and the guests', before and after, in ns. */
  cache_line_ns: [number, number];
}

/** A run that gave no figure. */
export interface FailedRun {
  switch: SwitchName;
  size: number;
  ring: Ring;
  round: number;
  reason: string;
}

export interface ForwardOptions {
  sizes: number[];
  rings: Ring[];
  switches: SwitchName[];
  rounds: number;
  /** Measured for each run. */
  seconds: number;
  /** Share of its processor under which a switch counts as starved. Default FULL_CPU. */
  starved?: number;
  /** Told of each run as it ends. */
  report?: (line: string) => void;
}

/** Median of ringswitch by median of the other, by frame size. */
export type Ratios = Partial<Record<SwitchName, Record<string, number>>>;

export interface DistanceSummary extends Summary {
  /** The shortest and the longest round trip of a cache line among these runs, in ns. */
  cache_line_ns: [number, number];
  runs: number;
}

interface Summary {
  medians: Pick<ForwardRun, 'switch' | 'size' | 'ring' | 'mpps' | 'gbps' | 'busy_ns_per_frame'>[];
  /** With split rings. */
  ratio: Ratios;
  /** With packed rings. */
  ratio_packed?: Ratios;
}

export interface ForwardResult extends Summary {
  machine: ReturnType<typeof machine>;
  runs: ForwardRun[];
  /** The medians and ratios of runs alone before and after which the CPUs were equally far from each other. The nearest first. */
  by_distance: DistanceSummary[];
  /** Rounds thrown away because a switch was starved. */
  discarded: ForwardRun[];
  failed: FailedRun[];
}

/** Measures; rejects only when it is interrupted. */
export async function forward(options: ForwardOptions): Promise<ForwardResult> {
  const { sizes, rings, rounds, starved: least = FULL_CPU, report = () => {} } = options;
  const runs: ForwardRun[] = [];
  const discarded: ForwardRun[] = [];
  const failed: FailedRun[] = [];
  for (let round = 1; round <= rounds; round++) {
    for (const size of sizes) {
      for (const ring of rings) {
        for (let repeat = 0; ; repeat++) {
          const result = await runRound(options, { size, ring, round });
          const starved = result.runs.filter((run) => run.switch_cpu < least);
          if (starved.length === 0) {
            runs.push(...result.runs);
            failed.push(...result.failed);
            break;
          }
          discarded.push(...result.runs);
          const names = starved.map((run) => `${run.switch} at ${percent(run.switch_cpu)}`).join(', ');
          report(`round ${round} of ${size} B ${ring} is discarded: ${names} of a CPU`);
          if (repeat < REPEATS) continue;
          const reason = `a switch was starved in all of ${REPEATS + 1} tries; free CPU ${SWITCH_CPU} for it`;
          failed.push(
            ...result.runs.map((run) => ({ switch: run.switch, size, ring, round, reason })),
            ...result.failed,
          );
          break;
        }
      }
    }
  }
  return { machine: machine(), runs, ...summarize(runs), by_distance: summarizeByDistance(runs), discarded, failed };
}

interface Cell {
  size: number;
  ring: Ring;
  round: number;
}

async function runRound(
  { switches, seconds, report = () => {} }: ForwardOptions,
  cell: Cell,
): Promise<{ runs: ForwardRun[]; failed: FailedRun[] }> {
  const runs: ForwardRun[] = [];
  const failed: FailedRun[] = [];
  for (const name of switches) {
    await pause(0);
    try {
      const run = await runOne(name, cell, seconds);
      runs.push(run);
      report(runLine(run));
    } catch (error) {
      await pause(0); // An interruption is no result.
      const reason = (error as Error).message;
      failed.push({ switch: name, ...cell, reason });
      report(`${name} ${cell.size} B ${cell.ring} failed: ${reason}`);
    }
  }
  return { runs, failed };
}

async function runOne(name: SwitchName, cell: Cell, seconds: number): Promise<ForwardRun> {
  await using bench = await startSwitch(name, { cpu: SWITCH_CPU });
  try {
    return await runLoop(bench, cell, seconds);
  } catch (error) {
    const words = bench.lastWords();
    if (words === undefined) throw error;
    throw new Error(`${name} ended during the run. It said:\n${tail(words)}`, { cause: error });
  }
}

async function runLoop(bench: BenchSwitch, { size, ring, round }: Cell, seconds: number): Promise<ForwardRun> {
  await using guests = await Guests.start(bench, { cpu: GUEST_CPU, ring });
  const start = await guests.firstBurst(size);
  await guests.startLoop(size);
  await pause(SETTLE_SECONDS);
  const before = await cacheLineNs(SWITCH_CPU, GUEST_CPU);
  const { mpps, switchCpu, busy } = await measure(bench, [guests], seconds);
  const after = await cacheLineNs(SWITCH_CPU, GUEST_CPU);
  const circulating = await guests.stopLoop();
  if (mpps === 0) throw new Error(`no frame came round in ${seconds} seconds; ${circulating} were still in the rings`);
  return {
    ...{ switch: bench.name, size, ring, round, mpps, gbps: (mpps * size * BITS) / MEGA_TO_GIGA },
    ...{ switch_cpu: switchCpu, busy_ns_per_frame: busy },
    ...{ start_frames: start.frames, start_dropped: start.dropped, start_lost: start.lost, circulating },
    cache_line_ns: [before, after],
  };
}

/** What running loops carry together, and what their switch spends on it. */
export async function measure(
  bench: BenchSwitch,
  loops: Guests[],
  seconds: number,
): Promise<{ mpps: number; switchCpu: number; busy: number | null }> {
  const readBusy = await bench.startBusyMeter();
  const before = await countAll(loops);
  const [cpuBefore, cpuTime] = [cpuSeconds(bench.pid), performance.now()];
  await pause(seconds);
  const after = await countAll(loops);
  const switchCpu = ((cpuSeconds(bench.pid) - cpuBefore) * 1000) / (performance.now() - cpuTime);
  const busy = await readBusy();
  let mpps = 0;
  for (const [i, { time, received }] of after.entries()) {
    mpps += (received - before[i]!.received) / ((time - before[i]!.time) * 1000);
  }
  return { mpps, switchCpu, busy };
}

async function countAll(loops: Guests[]): Promise<LoopCounts[]> {
  const counts: LoopCounts[] = [];
  for (const loop of loops) counts.push(await loop.counts());
  return counts;
}

/** Medians over the rounds, and the ratios of ringswitch's to the others'. */
export function summarize(runs: ForwardRun[]): Summary {
  const groups = Map.groupBy(runs, (run) => `${run.switch} ${run.size} ${run.ring}`);
  const medians = [...groups.values()].map((group) => {
    const { switch: name, size, ring } = group[0]!;
    const busy = group.map((run) => run.busy_ns_per_frame).filter((ns) => ns !== null);
    return {
      ...{ switch: name, size, ring, mpps: median(group.map((run) => run.mpps)) },
      gbps: median(group.map((run) => run.gbps)),
      busy_ns_per_frame: busy.length > 0 ? median(busy) : null,
    };
  });
  const ratios = (ring: Ring): Ratios => {
    const result: Ratios = {};
    const of = medians.filter((row) => row.ring === ring);
    for (const peer of of) {
      const own = of.find((row) => row.switch === 'ringswitch' && row.size === peer.size);
      if (peer.switch === 'ringswitch' || !own) continue;
      result[peer.switch] = { ...result[peer.switch], [peer.size]: own.mpps / peer.mpps };
    }
    return result;
  };
  const packed = runs.some((run) => run.ring === 'packed');
  return { medians, ratio: ratios('split'), ...(packed ? { ratio_packed: ratios('packed') } : {}) };
}

/** Runs that compare: those before and after which a line took the same time, apart from those of other times. */
export function groupRuns(runs: ForwardRun[]): ForwardRun[][] {
  const still = runs.filter((run) => sameDistance(run.cache_line_ns));
  return groupByDistance(still, (run) => Math.max(...run.cache_line_ns));
}

function summarizeByDistance(runs: ForwardRun[]): DistanceSummary[] {
  return groupRuns(runs).map((group) => {
    const times = group.flatMap((run) => run.cache_line_ns);
    return { cache_line_ns: [Math.min(...times), Math.max(...times)], runs: group.length, ...summarize(group) };
  });
}

export function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}

function nanoseconds(busy: number | null): string {
  return busy === null ? 'busy time unknown' : `${busy.toFixed(0)} ns a frame`;
}

export function runLine(run: ForwardRun): string {
  const { size, ring, mpps, gbps, switch_cpu: cpu, busy_ns_per_frame: busy } = run;
  const distance = run.cache_line_ns.map((ns) => ns.toFixed(0)).join(' and ');
  return (
    `${run.round}. ${run.switch.padEnd(10)} ${String(size).padStart(4)} B ${ring.padEnd(6)} ${mpps.toFixed(2).padStart(6)} Mpps ` +
    `${gbps.toFixed(2).padStart(6)} Gbit/s  ${nanoseconds(busy)}, ${percent(cpu)} CPU, ` +
    `${distance} ns a line, ` +
    `start lost ${run.start_lost} and dropped ${run.start_dropped} of ${run.start_frames}, ${run.circulating} at the end`
  );
}

function linesOf({ medians, ratio, ratio_packed: packed }: Summary): string[] {
  const lines = medians.map(
    ({ switch: name, size, ring, mpps, gbps, busy_ns_per_frame: busy }) =>
      `median ${name.padEnd(10)} ${String(size).padStart(4)} B ${ring.padEnd(6)} ${mpps.toFixed(2).padStart(6)} Mpps ` +
      `${gbps.toFixed(2).padStart(6)} Gbit/s  ${nanoseconds(busy)}`,
  );
  const all: [Ring, Ratios | undefined][] = [
    ['split', ratio],
    ['packed', packed],
  ];
  for (const [ring, ratios = {}] of all) {
    for (const [peer, sizes] of Object.entries(ratios)) {
      const words = Object.entries(sizes).map(([size, value]) => `${value.toFixed(2)} at ${size} B`);
      lines.push(`ringswitch / ${peer}, ${ring}: ${words.join(', ')}`);
    }
  }
  return lines;
}

/** The medians and ratios, a line each: of all runs, and of those that compare. */
export function summaryLines(result: ForwardResult): string[] {
  const lines = linesOf(result);
  for (const { cache_line_ns: times, runs, ...summary } of result.by_distance) {
    const [shortest, longest] = times.map((ns) => ns.toFixed(0));
    lines.push(`where a cache line took ${shortest} to ${longest} ns there and back (${runs} runs):`);
    lines.push(...linesOf(summary).map((line) => `  ${line}`));
  }
  const starved = result.discarded.length;
  if (starved > 0) lines.push(`${starved} runs belong to rounds that were discarded, since a switch was starved`);
  for (const { switch: name, size, ring, round, reason } of result.failed) {
    lines.push(`no figure: ${round}. ${name} ${size} B ${ring}: ${reason.split('\n')[0]}`);
  }
  return lines;
}
