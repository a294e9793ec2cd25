/** The switches that are compared, each behind the same few words. */
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import type { LaneRow } from '../daemon/control.ts';
import { DaemonProcess } from '../lab/daemon.ts';
import { OvsDpdk } from '../lab/ovs-dpdk.ts';
import { Testpmd } from '../lab/testpmd.ts';

export const SWITCHES = ['ringswitch', 'ovs-dpdk', 'testpmd-io'] as const;
export type SwitchName = (typeof SWITCHES)[number];

const NS_PER_MS = 1e6;
const NS_PER_SECOND = 1e9;

/** Gives the time spent on frames, in ns for each, since it was made; null where the switch does not count it. */
export type BusyMeter = () => Promise<number | null>;

/** A running switch that waits for guests. Disposing ends it. */
export interface BenchSwitch extends AsyncDisposable {
  readonly name: SwitchName;
  /** Of the process that forwards. */
  readonly pid: number;
  /** Words before the guests' command. */
  readonly launcher: string[];
  /** What it said when it has ended by itself; undefined while it runs. */
  lastWords(): string | undefined;
  /** Options of the `net_virtio_user` device that is guest number `port`. */
  vdev(port: number): string;
  /**
   * Busy is the time of polls that brought frames, as each switch counts it itself: a lane's breaths that moved
   * something; cycles of `dpif-netdev/pmd-stats-show`; cycles of testpmd's `--record-core-cycles`.
   */
  startBusyMeter(): Promise<BusyMeter>;
}

export interface BenchSwitchOptions {
  cpu: number;
  /** Guests. Default 2. */
  ports?: number;
}

export interface RingswitchOptions {
  /** Processors as taskset(1) takes them. */
  cpus: string;
  /** More keys of its configuration. */
  config?: Record<string, unknown>;
}

/** Starts a switch. Rejects, with what it printed, when it does not come up; nothing is left of it then. */
export function startSwitch(name: SwitchName, options: BenchSwitchOptions): Promise<BenchSwitch> {
  if (name === 'ringswitch') return startRingswitch({ cpus: `${options.cpu}` });
  return name === 'ovs-dpdk' ? startOvs(options) : startTestpmdIo(options);
}

/** What the port of a guest is called in ringswitch. */
export function guestName(port: number): string {
  return `bench${port}`;
}

/** A daemon, whose guests reach it through its clone of /dev/vhost-net. */
export async function startRingswitch({
  cpus,
  config,
}: RingswitchOptions): Promise<BenchSwitch & { daemon: DaemonProcess }> {
  const daemon = await DaemonProcess.start({
    launcher: ['taskset', '-c', cpus],
    config: { log: { level: 'warn', format: 'text' }, ...config },
  });
  return {
    name: 'ringswitch',
    daemon,
    pid: daemon.pid,
    launcher: daemon.exec,
    lastWords: () => (daemon.running ? undefined : daemon.log),
    vdev: (port) => `path=/dev/vhost-net,iface=${guestName(port)}`,
    startBusyMeter: async () => {
      const before = await readLanes(daemon);
      return async () => {
        const after = await readLanes(daemon);
        return ratio(after.busyNs - before.busyNs, after.frames - before.frames);
      };
    },
    [Symbol.asyncDispose]: () => daemon.dispose(),
  };
}

/** What all lanes of a daemon have done together since its start. */
export async function readLanes(daemon: DaemonProcess): Promise<Pick<LaneRow, 'busyNs' | 'frames' | 'sentToLanes'>> {
  const lanes = (await daemon.client.get('/v1/lanes')) as LaneRow[];
  const sum = (key: 'busyNs' | 'frames' | 'sentToLanes') => lanes.reduce((all, lane) => all + lane[key], 0);
  return { busyNs: sum('busyNs'), frames: sum('frames'), sentToLanes: sum('sentToLanes') };
}

async function startOvs({ cpu, ports = 2 }: BenchSwitchOptions): Promise<BenchSwitch> {
  const ovs = await OvsDpdk.start({ cpu, ports });
  return {
    name: 'ovs-dpdk',
    pid: ovs.pid,
    launcher: [],
    lastWords: () => ovs.lastWords,
    vdev: (port) => `path=${ovs.socket(port)},server=1`,
    startBusyMeter: async () => {
      const [before, start] = [await ovs.stats(), performance.now()];
      return async () => {
        const [after, end] = [await ovs.stats(), performance.now()];
        const processing = after.processingCycles - before.processingCycles;
        // The thread polls all the time, so that its idle and processing cycles together are the time that passed.
        const cycles = processing + after.idleCycles - before.idleCycles;
        return ratio((processing / cycles) * (end - start) * NS_PER_MS, after.packets - before.packets);
      };
    },
    [Symbol.asyncDispose]: () => ovs.stop(),
  };
}

/** testpmd that hands on whatever comes, from one port to the other of a pair: a switch without lookup. */
async function startTestpmdIo({ cpu, ports = 2 }: BenchSwitchOptions): Promise<BenchSwitch> {
  const directory = await fs.mkdtemp(path.join(os.tmpdir(), 'ringswitch-bench-'));
  const socket = (port: number) => path.join(directory, `v${port}`);
  const dispose = async (testpmd?: Testpmd) => {
    await testpmd?.stop();
    await fs.rm(directory, { recursive: true, force: true });
  };
  let testpmd: Testpmd;
  try {
    testpmd = await Testpmd.start({
      cpu,
      vdevs: Array.from({ length: ports }, (_, i) => `net_vhost${i},iface=${socket(i)},queues=1`),
      words: ['--forward-mode=io', '--total-num-mbufs=16384', '--record-core-cycles', '--auto-start'],
    });
  } catch (error) {
    await dispose();
    throw error;
  }
  return {
    name: 'testpmd-io',
    pid: testpmd.pid,
    launcher: [],
    lastWords: () => testpmd.lastWords,
    vdev: (port) => `path=${socket(port)}`,
    startBusyMeter: async () => {
      // Its part about cycles is missing as long as it has seen no frame.
      const { cycles: before = { busy: 0, packets: 0 } } = await testpmd.forwardStats();
      return async () => {
        const { cycles: after } = await testpmd.forwardStats();
        if (after === undefined) return null;
        return ratio(((after.busy - before.busy) * NS_PER_SECOND) / after.hertz, after.packets - before.packets);
      };
    },
    [Symbol.asyncDispose]: () => dispose(testpmd),
  };
}

function ratio(ns: number, frames: number): number | null {
  return frames > 0 ? ns / frames : null;
}
