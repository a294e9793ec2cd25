/**
 * Forwarding between two guests in a closed loop: a testpmd plays both with `macswap`, so that every frame received is
 * sent back to where it came from, and the figure is what the loop sustains. The switch runs on CPU 0, the guests on 1.
 *
 * In a round all switches are started, each with guests of its own, and share the two CPUs in short turns (turns.ts), since the
 * machine's own speed changes from second to second: what they are compared by are the runs of one round. A round in which
 * a switch did not get its processor is thrown away as a whole and repeated.
 */
import { tail } from '../lab/words.ts';
import { machine } from './cpu.ts';
import { groupByDistance } from './cpu-distance.ts';
import { Guests, type Ring, type StartLoss } from './guests.ts';
import { pause } from './pause.ts';
import { median } from './statistics.ts';
import { type BenchSwitch, type SwitchName, startSwitch } from './switches.ts';
import { type Contestant, mppsOf, resume, suspend, TURN_SECONDS, type Turn, takeTurns, total } from './turns.ts';

const SWITCH_CPU = 0;
const GUEST_CPU = 1;
/** All these switches poll: one that used less than this share of its processor was kept from it. */
export const FULL_CPU = 0.95;
/** Starved rounds that are repeated, for each round asked for. */
const REPEATS = 2;
const BITS = 8;
const MEGA_TO_GIGA = 1e3;

/** What is compared: a switch in a place, by the others in the same round, or in the same turn of it. */
interface Figure {
  switch: SwitchName;
  /** Bytes of a frame, without the checksum. */
  size: number;
  ring: Ring;
  round: number;
  /** Million frames a second received by both guests together. */
  mpps: number;
  /** Time that the switch spent on a frame, in ns; null when it does not count it. */
  busy_ns_per_frame: number | null;
}

export interface ForwardTurn extends Pick<Figure, 'mpps' | 'busy_ns_per_frame'> {
  /** Round trip of a cache line between the switch's CPU and the guests', before and after, in ns. */
  cache_line_ns: [number, number];
}

export interface ForwardRun extends Figure {
  gbps: number;
  /** Processor time of the switch by time measured: 1 is a whole CPU. */
  switch_cpu: number;
  /** Frames that the loop was started with; see {@link Guests.firstBurst} for this and the next two. */
  start_frames: number;
  start_dropped: number;
  start_lost: number;
  /** Frames in the loop at the end of the run. */
  circulating: number;
  turns: ForwardTurn[];
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
  /** Measured for each run, in turns of TURN_SECONDS. */
  seconds: number;
  /** Share of its processor under which a switch counts as starved. Default FULL_CPU. */
  starved?: number;
  /** Told of each run as it ends. */
  report?: (line: string) => void;
}

/** How many times faster ringswitch is than another: the median over the rounds, by frame size. */
export type Ratios = Partial<Record<SwitchName, Record<string, number>>>;

export interface DistanceSummary extends Summary {
  /** The shortest and the longest round trip of a cache line among these turns, in ns. */
  cache_line_ns: [number, number];
  turns: number;
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
  /** The same of turns with near CPUs alone, and of those with far ones. */
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

type Cell = Pick<ForwardRun, 'size' | 'ring' | 'round'>;

/** A switch with its loop, and what became of the frames that this began with. */
interface Started extends Contestant {
  start: StartLoss;
}

/** The runs of a round, and why others are missing: of a switch that does not start or moves nothing, and of all when one ends. */
async function runRound(
  { switches, seconds, report = () => {} }: ForwardOptions,
  cell: Cell,
): Promise<{ runs: ForwardRun[]; failed: FailedRun[] }> {
  const failed: FailedRun[] = [];
  const fail = (name: SwitchName, error: unknown) => {
    const reason = (error as Error).message;
    failed.push({ switch: name, ...cell, reason });
    report(`${name} ${cell.size} B ${cell.ring} failed: ${reason}`);
  };
  await using stack = new AsyncDisposableStack();
  const started: Started[] = [];
  for (const name of switches) {
    await pause(0);
    try {
      started.push(await startOne(name, cell, stack));
    } catch (error) {
      await pause(0); // An interruption is no result.
      fail(name, error);
    }
  }
  const runs: ForwardRun[] = [];
  let results: Turn[][];
  try {
    const turns = Math.ceil(seconds / TURN_SECONDS);
    results = await takeTurns(started, { turns, cpus: [SWITCH_CPU, GUEST_CPU] });
  } catch (error) {
    await pause(0);
    for (const { bench } of started) fail(bench.name, withLastWords(bench, error));
    return { runs, failed };
  }
  for (const [i, contestant] of started.entries()) {
    try {
      resume(contestant);
      const run = runOf(contestant, cell, results[i]!, await contestant.guests.stopLoop());
      runs.push(run);
      report(runLine(run));
    } catch (error) {
      await pause(0);
      fail(contestant.bench.name, withLastWords(contestant.bench, error));
    }
    suspend(contestant);
  }
  return { runs, failed };
}

/** What it starts is suspended, and ended by `stack`, or at once when it is not started whole. */
async function startOne(name: SwitchName, { size, ring }: Cell, stack: AsyncDisposableStack): Promise<Started> {
  await using parts = new AsyncDisposableStack();
  const bench = parts.use(await startSwitch(name, { cpu: SWITCH_CPU }));
  try {
    const guests = parts.use(await Guests.start(bench, { cpu: GUEST_CPU, ring }));
    const start = await guests.firstBurst(size);
    await guests.startLoop(size);
    const started = { bench, guests, start };
    suspend(started);
    parts.defer(() => resume(started));
    stack.use(parts.move());
    return started;
  } catch (error) {
    throw withLastWords(bench, error);
  }
}

function withLastWords(bench: BenchSwitch, error: unknown): Error {
  const words = bench.lastWords();
  if (words === undefined) return error as Error;
  return new Error(`${bench.name} ended during the run. It said:\n${tail(words)}`, { cause: error });
}

function runOf({ bench, start }: Started, cell: Cell, turns: Turn[], circulating: number): ForwardRun {
  const all = total(turns);
  if (all.frames === 0) {
    throw new Error(`no frame came round in ${turns.length} turns; ${circulating} were still in the rings`);
  }
  const mpps = mppsOf(all);
  return {
    ...{ switch: bench.name, ...cell, mpps, gbps: gbps(mpps, cell.size) },
    ...{ switch_cpu: all.cpuSeconds / all.seconds, busy_ns_per_frame: all.busy },
    ...{ start_frames: start.frames, start_dropped: start.dropped, start_lost: start.lost, circulating },
    turns: turns.map((turn) => ({
      mpps: mppsOf(turn),
      busy_ns_per_frame: turn.busy,
      cache_line_ns: turn.cache_line_ns,
    })),
  };
}

function gbps(mpps: number, size: number): number {
  return (mpps * size * BITS) / MEGA_TO_GIGA;
}

/** Medians, and the medians of ringswitch's by each other's figure of the same round and turn. */
export function summarize(figures: (Figure & { turn?: number })[]): Summary {
  const groups = Map.groupBy(figures, (figure) => `${figure.switch} ${figure.size} ${figure.ring}`);
  const medians = [...groups.values()].map((group) => {
    const { switch: name, size, ring } = group[0]!;
    const busy = group.map((figure) => figure.busy_ns_per_frame).filter((ns) => ns !== null);
    const mpps = median(group.map((figure) => figure.mpps));
    return {
      ...{ switch: name, size, ring, mpps, gbps: gbps(mpps, size) },
      busy_ns_per_frame: busy.length > 0 ? median(busy) : null,
    };
  });
  const ratios = (ring: Ring): Ratios => {
    const own = new Map<string, number>();
    const place = ({ size, round, turn }: (typeof figures)[number]) => `${size} ${round} ${turn}`;
    const ofRing = figures.filter((figure) => figure.ring === ring);
    for (const figure of ofRing) if (figure.switch === 'ringswitch') own.set(place(figure), figure.mpps);
    const pairs = ofRing.filter((figure) => figure.switch !== 'ringswitch' && own.has(place(figure)));
    const result: Ratios = {};
    for (const group of Map.groupBy(pairs, (peer) => `${peer.switch} ${peer.size}`).values()) {
      const { switch: name, size } = group[0]!;
      result[name] = { ...result[name], [size]: median(group.map((peer) => own.get(place(peer))! / peer.mpps)) };
    }
    return result;
  };
  const packed = figures.some((figure) => figure.ring === 'packed');
  return { medians, ratio: ratios('split'), ...(packed ? { ratio_packed: ratios('packed') } : {}) };
}

/** Turns with near CPUs apart from those with far ones. */
export function summarizeByDistance(runs: ForwardRun[]): DistanceSummary[] {
  const all = runs.flatMap(({ turns, ...run }) => turns.map((turn, i) => ({ ...run, ...turn, turn: i })));
  return groupByDistance(all, (turn) => turn.cache_line_ns).map((group) => {
    const times = group.flatMap((turn) => turn.cache_line_ns);
    return { cache_line_ns: [Math.min(...times), Math.max(...times)], turns: group.length, ...summarize(group) };
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
  const lines = run.turns.flatMap((turn) => turn.cache_line_ns);
  return (
    `${run.round}. ${run.switch.padEnd(10)} ${String(size).padStart(4)} B ${ring.padEnd(6)} ${mpps.toFixed(2).padStart(6)} Mpps ` +
    `${gbps.toFixed(2).padStart(6)} Gbit/s  ${nanoseconds(busy)}, ${percent(cpu)} CPU, ` +
    `${Math.min(...lines).toFixed(0)} to ${Math.max(...lines).toFixed(0)} ns a line, ` +
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
  for (const { cache_line_ns: times, turns, ...summary } of result.by_distance) {
    const [shortest, longest] = times.map((ns) => ns.toFixed(0));
    lines.push(`where a cache line took ${shortest} to ${longest} ns there and back (${turns} turns):`);
    lines.push(...linesOf(summary).map((line) => `  ${line}`));
  }
  const starved = result.discarded.length;
  if (starved > 0) lines.push(`${starved} runs belong to rounds that were discarded, since a switch was starved`);
  for (const { switch: name, size, ring, round, reason } of result.failed) {
    lines.push(`no figure: ${round}. ${name} ${size} B ${ring}: ${reason.split('\n')[0]}`);
  }
  return lines;
}
