/**
 * Round trips between two guests: a frame of 60 bytes to the other guest, and one back.
 *
 * Both guests are played by this thread with our own virtqueue driver, and poll: what is measured is twice the way from
 * a ring through the switch to a ring, with the switch's wake-up where it slept, and without any guest's interrupt. The
 * switch runs on CPU 0, this thread on 1.
 *
 * - `idle`: a frame every 10 ms. The lane sleeps meanwhile, so a kick has to wake it.
 * - `paced`: a frame every 200 µs. The lane spins for a while and then sleeps, as it is configured (lane.spin).
 * - `loaded`: back to back, while two more guests, played by the same thread, keep a closed loop of LOAD_FRAMES going.
 *   `load_mpps` is what they got through. The lane serves them before or after, in batches.
 *
 * What waking costs on this machine is measured beside them: `bare` is a thread on CPU 0 that sleeps in poll(2) and does
 * nothing but answer, kicked as often as `idle` kicks the lane. An idle round trip wakes the lane once.
 */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { eventfd, signalEventfd } from '../linux/eventfd.ts';
import { close } from '../linux/file.ts';
import { setAffinity } from '../linux/sched.ts';
import { machine } from './cpu.ts';
import { DriverGuest } from './driver-guest.ts';
import { pause } from './pause.ts';
import { percentile } from './statistics.ts';
import { startRingswitch } from './switches.ts';

const SWITCH_CPU = 0;
const GUEST_CPU = 1;
/** Frames that the closed loop of the other two guests is started with. */
const LOAD_FRAMES = 128;
/** How long the loop runs before anything else does. */
const LOAD_START_MS = 50;
const WARM_UP = 200;
/** A frame that has not come back by then, in ms, is lost. */
const TIMEOUT_MS = 100;
/** Round trips between two looks at whether the benchmark was interrupted, in ms. */
const SLICE_MS = 500;
const US_PER_MS = 1000;

export const LATENCY_MODES = ['idle', 'paced', 'loaded'] as const;
export type LatencyMode = (typeof LATENCY_MODES)[number];
/** From one frame to the next, in ms. */
const INTERVAL_MS: Record<LatencyMode, number> = { idle: 10, paced: 0.2, loaded: 0 };

export interface LatencyRun {
  mode: LatencyMode;
  round_trips: number;
  lost: number;
  p50_us: number;
  p99_us: number;
  max_us: number;
  /** Kicks for each round trip, of both guests: 2 when the lane slept each time. */
  kicks: number;
  /** What the closed loop of the other guests carried; 0 without one. */
  load_mpps: number;
}

/** What latency-sleeper.ts is given: it counts up the first word at each kick, until that word is negative. */
export interface SleeperJob {
  kick: number;
  answers: Int32Array;
  cpu: number;
}

export interface LatencyOptions {
  modes: LatencyMode[];
  /** Measured in each mode. */
  seconds: number;
  report?: (line: string) => void;
}

export interface LatencyResult {
  machine: ReturnType<typeof machine>;
  /** From the kick of a sleeping thread to its answer. */
  bare: Pick<LatencyRun, 'p50_us' | 'p99_us' | 'max_us'>;
  runs: LatencyRun[];
}

/** Rejects when the daemon does not come up, when frames do not come back, and when it is interrupted. */
export async function latency({ modes, seconds, report = () => {} }: LatencyOptions): Promise<LatencyResult> {
  const runs: LatencyRun[] = [];
  for (const mode of modes) {
    await using bench = await startRingswitch({ cpus: `${SWITCH_CPU}` });
    // After the daemon's start, which would inherit it.
    setAffinity([GUEST_CPU]);
    const run = await measureMode(bench.daemon, mode, seconds);
    runs.push(run);
    const load = run.load_mpps > 0 ? `, beside ${run.load_mpps.toFixed(2)} Mpps` : '';
    report(
      `${mode.padEnd(6)} ${timesLine(run)}; ${run.round_trips} round trips, ${run.lost} lost, ${run.kicks.toFixed(2)} kicks each${load}`,
    );
  }
  const bare = await measureBare(seconds);
  report(`bare   ${timesLine(bare)}: a thread that sleeps and answers, and nothing else`);
  return { machine: machine(), bare, runs };
}

function timesLine({ p50_us: p50, p99_us: p99, max_us: max }: LatencyResult['bare']): string {
  return `p50 ${p50.toFixed(1)} µs, p99 ${p99.toFixed(1)} µs, max ${max.toFixed(0)} µs`;
}

async function measureBare(seconds: number): Promise<LatencyResult['bare']> {
  setAffinity([GUEST_CPU]);
  const kick = eventfd();
  const answers = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  const workerData: SleeperJob = { kick, answers, cpu: SWITCH_CPU };
  const worker = new Worker(new URL('./latency-sleeper.ts', import.meta.url), { workerData });
  try {
    await once(worker, 'message');
    const times: number[] = [];
    for (let trip = 1; trip <= Math.ceil((seconds * 1000) / INTERVAL_MS.idle); trip++) {
      await pause(0);
      spend(INTERVAL_MS.idle, () => {});
      const start = performance.now();
      signalEventfd(kick);
      while (Atomics.load(answers, 0) !== trip);
      times.push((performance.now() - start) * US_PER_MS);
    }
    return { p50_us: percentile(times, 0.5), p99_us: percentile(times, 0.99), max_us: percentile(times, 1) };
  } finally {
    Atomics.store(answers, 0, -1);
    signalEventfd(kick);
    await worker.terminate();
    close(kick);
  }
}

async function measureMode(
  clones: { tun: string; vhostNet: string },
  mode: LatencyMode,
  seconds: number,
): Promise<LatencyRun> {
  using stack = new DisposableStack();
  // The loop first: until its guests are known their frames go to everybody, and would be taken for replies.
  const load = mode === 'loaded' ? new Loop(...pair(stack, clones, 2)) : undefined;
  const work = load === undefined ? () => {} : () => load.turn();
  if (load) spend(LOAD_START_MS, work);
  if (load?.received === 0) throw new Error(`${mode}: the closed loop of the other guests does not start`);
  const [client, server] = pair(stack, clones, 0);
  const discard = () => {
    work();
    server.receive();
    client.receive();
  };
  const trip = (): number => {
    const time = roundTrip(client, server, work);
    // What comes late must not be taken for the next reply.
    if (time < 0) spend(TIMEOUT_MS, discard);
    return time;
  };
  for (let i = 0; i < WARM_UP; i++) {
    if (trip() < 0)
      throw new Error(`${mode}: a frame did not come back in ${TIMEOUT_MS} ms, before anything was measured`);
  }
  const times: number[] = [];
  let lost = 0;
  const kicksBefore = client.kicks + server.kicks;
  const [start, loadBefore] = [performance.now(), load?.received ?? 0];
  const end = start + seconds * 1000;
  for (let next = start; next < end; ) {
    const slice = Math.min(end, performance.now() + SLICE_MS);
    while (next < slice) {
      spend(next - performance.now(), work);
      const time = trip();
      if (time < 0) lost++;
      else times.push(time * US_PER_MS);
      next = Math.max(next + INTERVAL_MS[mode], performance.now());
    }
    await pause(0);
  }
  const elapsed = performance.now() - start;
  if (times.length === 0) throw new Error(`${mode}: no frame came back`);
  return {
    ...{ mode, round_trips: times.length, lost, p50_us: percentile(times, 0.5), p99_us: percentile(times, 0.99) },
    ...{ max_us: percentile(times, 1), kicks: (client.kicks + server.kicks - kicksBefore) / (times.length + lost) },
    load_mpps: ((load?.received ?? 0) - loadBefore) / (elapsed * US_PER_MS),
  };
}

/** Does something again and again, for so many ms. */
function spend(ms: number, work: () => void): void {
  for (const end = performance.now() + ms; performance.now() < end; ) work();
}

/** Guests number `first` and `first + 1`, each other's peers. */
function pair(
  stack: DisposableStack,
  clones: { tun: string; vhostNet: string },
  first: number,
): [DriverGuest, DriverGuest] {
  const mac = (number: number) => Uint8Array.of(0x02, 0, 0, 0, 0, number + 1);
  const guest = (number: number, peer: number) =>
    stack.use(new DriverGuest(clones, `latency${number}`, mac(number), mac(peer)));
  return [guest(first, first + 1), guest(first + 1, first)];
}

/** The ms that a frame took to the server and back; -1 when it was lost. */
function roundTrip(client: DriverGuest, server: DriverGuest, work: () => void): number {
  const start = performance.now();
  client.send(1);
  for (;;) {
    server.send(server.receive());
    if (client.receive() > 0) return performance.now() - start;
    work();
    if (performance.now() - start > TIMEOUT_MS) return -1;
  }
}

/** Two guests that send back whatever they receive. */
class Loop {
  /** Frames received by both. */
  received = 0;
  readonly #guests: [DriverGuest, DriverGuest];

  constructor(...guests: [DriverGuest, DriverGuest]) {
    this.#guests = guests;
    // The first frame teaches the switch where its sender is; the loop starts when both are known.
    for (const guest of guests) guest.send(LOAD_FRAMES / guests.length);
  }

  turn(): void {
    for (const guest of this.#guests) {
      const count = guest.receive();
      this.received += count;
      guest.send(count);
    }
  }
}
