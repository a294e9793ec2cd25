/**
 * ringswitch by the number of its ports, of its lanes, and of the addresses it knows.
 *
 * - Ports and lanes: pairs of guests in closed loops of 64 bytes, as in `forward`; with several lanes once with both of a
 *   pair on the same lane, and once with every frame crossing to another. A testpmd has at most 32 ports, so 64
 *   are two of them that share the guests' processor. The switch gets a processor for each lane as long as there are
 *   enough, without the last one, which is the guests'. On a machine with two, all lanes share one: then the figures tell
 *   what lanes cost, and not what they bring.
 * - Addresses: see table.ts.
 */
import os from 'node:os';
import { machine } from './cpu.ts';
import { Guests } from './guests.ts';
import { pause } from './pause.ts';
import { guestName, readLanes, startRingswitch } from './switches.ts';
import { measureTable, type TableRun } from './table.ts';
import { measure, mppsOf } from './turns.ts';

const FRAME_BYTES = 64;
const SETTLE_SECONDS = 1;
/** RTE_MAX_ETHPORTS of Debian's DPDK. */
const TESTPMD_PORTS = 32;
/** Buffers in testpmd's pool: for its caches, and for each port two rings of 256 and some on the way. */
const BASE_MBUFS = 4096;
const PORT_MBUFS = 1024;
const MBUF_KIB = 2.5;
const BASE_MIB = 64;
const TABLE_FRAMES = 10_000_000;
/** Lanes and guests are asked one after the other, so that their counts are of moments some ms apart. */
const WAY_TOLERANCE = 0.1;

export interface PortsRun {
  ports: number;
  lanes: number;
  /** Whether the guests of a pair are on different lanes. */
  crossing: boolean;
  /** Processors that the switch could use. */
  cpus: string;
  /** Received by all guests together. */
  mpps: number;
  switch_cpu: number;
  busy_ns_per_frame: number | null;
}

export interface ScaleOptions {
  ports: number[];
  lanes: number[];
  macs: number[];
  seconds: number;
  report?: (line: string) => void;
}

export interface ScaleResult {
  machine: ReturnType<typeof machine>;
  ports: PortsRun[];
  table: TableRun[];
  failed: { ports: number; lanes: number; crossing: boolean; reason: string }[];
}

/** Measures; what cannot be started is told in `failed`. */
export async function scale(options: ScaleOptions): Promise<ScaleResult> {
  const { ports, lanes, macs, seconds, report = () => {} } = options;
  const result: ScaleResult = { machine: machine(), ports: [], table: [], failed: [] };
  for (const cell of cells(ports, lanes)) {
    await pause(0);
    const name = `${cell.ports} ports, lanes ${cell.lanes}${cell.crossing ? ', crossing' : ''}`;
    try {
      const run = await measurePorts(cell, seconds);
      result.ports.push(run);
      const busy = run.busy_ns_per_frame === null ? '' : `, ${run.busy_ns_per_frame.toFixed(0)} ns a frame`;
      const cpu = `${Math.round(run.switch_cpu * 100)} % CPU (of ${run.cpus})`;
      report(`${name}: ${run.mpps.toFixed(2)} Mpps${busy}, ${cpu}`);
    } catch (error) {
      await pause(0); // An interruption is no result.
      const reason = (error as Error).message;
      result.failed.push({ ...cell, reason });
      report(`${name}: ${reason}`);
    }
  }
  for (const count of macs) {
    await pause(0);
    const run = measureTable(count, TABLE_FRAMES);
    result.table.push(run);
    const parts = `lookup ${run.lookup_ns.toFixed(1)} ns, learn ${run.learn_ns.toFixed(1)} ns`;
    report(`${count} addresses: ${parts}, a frame in the engine ${run.engine_ns.toFixed(1)} ns`);
  }
  return result;
}

type Cell = Pick<PortsRun, 'ports' | 'lanes' | 'crossing'>;

function cells(ports: number[], lanes: number[]): Cell[] {
  return lanes.flatMap((laneCount) =>
    [false, true]
      .filter((crossing) => !crossing || laneCount > 1)
      .flatMap((crossing) => ports.map((portCount) => ({ ports: portCount, lanes: laneCount, crossing }))),
  );
}

/** The lane of each port, by name: pairs take turns; the second of a crossing pair is one lane further. */
export function placement({ ports, lanes, crossing }: Cell): Record<string, number> {
  const lane = (port: number) => ((port >> 1) + (crossing ? port & 1 : 0)) % lanes;
  return Object.fromEntries(Array.from({ length: ports }, (_, port) => [guestName(port), lane(port)]));
}

/** Processors for the lanes, as taskset(1) takes them: all but the last, one for each lane at the most. */
export function switchCpus(lanes: number, processors: number): string {
  const last = Math.min(lanes, Math.max(1, processors - 1)) - 1;
  return last === 0 ? '0' : `0-${last}`;
}

async function measurePorts(cell: Cell, seconds: number): Promise<PortsRun> {
  const { ports, lanes } = cell;
  const processors = os.cpus().length;
  const cpus = switchCpus(lanes, processors);
  await using bench = await startRingswitch({ cpus, config: { lane: { count: lanes, placement: placement(cell) } } });
  await using stack = new AsyncDisposableStack();
  const loops: Guests[] = [];
  for (let first = 0; first < ports; first += TESTPMD_PORTS) {
    const count = Math.min(TESTPMD_PORTS, ports - first);
    const mbufs = BASE_MBUFS + count * PORT_MBUFS;
    const memoryMiB = BASE_MIB + Math.ceil((mbufs * MBUF_KIB) / 1024) * 2;
    loops.push(stack.use(await Guests.start(bench, { cpu: processors - 1, ports: count, first, mbufs, memoryMiB })));
  }
  for (const loop of loops) await loop.introduce();
  for (const loop of loops) await loop.startLoop(FRAME_BYTES);
  await pause(SETTLE_SECONDS);
  const before = await readLanes(bench.daemon);
  const measured = await measure(bench, loops, seconds);
  if (measured.frames === 0) throw new Error(`no frame came round in ${seconds} seconds`);
  const crossed = (await readLanes(bench.daemon)).sentToLanes - before.sentToLanes;
  demandWay(cell, crossed / measured.frames);
  const switchCpu = measured.cpuSeconds / measured.seconds;
  return { ...cell, cpus, mpps: mppsOf(measured), switch_cpu: switchCpu, busy_ns_per_frame: measured.busy };
}

/** Throws unless the frames took the way that the run is named after; `share` of them crossed from lane to lane. */
export function demandWay({ crossing }: Pick<Cell, 'crossing'>, share: number): void {
  if (crossing ? share > 1 - WAY_TOLERANCE : share < WAY_TOLERANCE) return;
  const percent = Math.round(share * 100);
  throw new Error(`${percent} % of the frames crossed from lane to lane, and ${crossing ? 'all' : 'none'} should have`);
}
