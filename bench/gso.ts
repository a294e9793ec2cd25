/**
 * Bulk TCP (iperf3, one stream) between two network namespaces: through ringswitch and two taps, and over a veth pair.
 *
 * - `both`: both ends have TCP segmentation offload. Frames of up to 64 KB cross the switch as they are.
 * - `sender`: the receiver's port takes no offloads (TUNSETOFFLOAD 0), so that the switch segments and sums in software. A
 *   tap of Linux takes every offload whatever it said, so it is the switch that is told so, by a command to its lane; for
 *   that it runs in this process, on the lane's own thread, of the daemon's own parts but without a mount.
 * - `none`: the sender's stack segments (`ethtool -K DEV tso off`); the other direction, only acknowledgements, likewise.
 *
 * Three busy threads share the processors: sender, switch, receiver. None is pinned, with veth neither.
 */

import { Lanes } from '../daemon/lanes.ts';
import { SwitchPorts } from '../daemon/switch-ports.ts';
import { DaemonProcess } from '../lab/daemon.ts';
import { NetworkNamespace } from '../lab/namespace.ts';
import { run } from '../lab/program.ts';
import { machine } from './cpu.ts';
import { pause } from './pause.ts';
import { median } from './statistics.ts';

const SENDER = { device: 'gso0', address: '10.78.0.1' };
const RECEIVER = { device: 'gso1', address: '10.78.0.2' };
const PREFIX = 24;
const SERVER_START_MS = 5000;
/** What iperf3 may take beyond the seconds asked for. */
const SLACK_MS = 15_000;
const BITS = 8;

export const TSO_MODES = ['both', 'sender', 'none'] as const;
export type TsoMode = (typeof TSO_MODES)[number];

export interface GsoRun {
  switch: 'ringswitch' | 'veth';
  tso: TsoMode;
  round: number;
  /** What the receiver's application got. */
  gbps: number;
  retransmits: number;
  /** Mean length of the frames that the sender gave to the switch; null for veth. */
  frame_bytes: number | null;
}

export interface GsoOptions {
  rounds: number;
  seconds: number;
  report?: (line: string) => void;
}

export interface GsoResult {
  machine: ReturnType<typeof machine>;
  runs: GsoRun[];
  /** Medians of ringswitch by those of veth with as little offload at the sender; `sender` is compared with `both`. */
  ratio: Partial<Record<TsoMode, number>>;
}

/** What joins the two namespaces. */
interface Link extends AsyncDisposable {
  /** Counters of the sender's port so far; null where nobody counts. */
  sent(): Promise<{ frames: number; bytes: number } | null>;
}

/** Rejects when a program fails, with what it said. Nothing is left behind. */
export async function gso({ rounds, seconds, report = () => {} }: GsoOptions): Promise<GsoResult> {
  const runs: GsoRun[] = [];
  for (let round = 1; round <= rounds; round++) {
    for (const name of ['ringswitch', 'veth'] as const) {
      for (const tso of TSO_MODES) {
        // A veth has no switch that could segment for its peer.
        if (name === 'veth' && tso === 'sender') continue;
        const result = { switch: name, tso, round, ...(await runOne(name, tso, seconds)) };
        runs.push(result);
        const frames = result.frame_bytes === null ? '' : `, frames of ${result.frame_bytes.toFixed(0)} bytes`;
        const line = `${name.padEnd(10)} TSO ${tso.padEnd(6)} ${result.gbps.toFixed(2).padStart(6)} Gbit/s`;
        report(`${round}. ${line}, ${result.retransmits} retransmits${frames}`);
      }
    }
  }
  return { machine: machine(), runs, ratio: gsoRatios(runs) };
}

/** See {@link GsoResult.ratio}. */
export function gsoRatios(runs: GsoRun[]): GsoResult['ratio'] {
  const figure = (name: GsoRun['switch'], tso: TsoMode): number | undefined => {
    const figures = runs.filter((run) => run.switch === name && run.tso === tso).map((run) => run.gbps);
    return figures.length > 0 ? median(figures) : undefined;
  };
  const ratios: GsoResult['ratio'] = {};
  for (const tso of TSO_MODES) {
    const own = figure('ringswitch', tso);
    const peer = figure('veth', tso === 'sender' ? 'both' : tso);
    if (own !== undefined && peer !== undefined) ratios[tso] = own / peer;
  }
  return ratios;
}

async function runOne(
  name: GsoRun['switch'],
  tso: TsoMode,
  seconds: number,
): Promise<Pick<GsoRun, 'gbps' | 'retransmits' | 'frame_bytes'>> {
  await pause(0);
  // Disposed of in the reverse order: the programs in the namespaces first.
  await using link = await makeLink(name, tso);
  await using sender = await NetworkNamespace.create('gso-sender');
  await using receiver = await NetworkNamespace.create('gso-receiver');
  for (const [host, { device, address }] of [
    [sender, SENDER],
    [receiver, RECEIVER],
  ] as const) {
    await host.moveIn(device);
    await host.address(device, `${address}/${PREFIX}`);
    await host.exec(['ethtool', '-K', device, 'tso', tso === 'none' ? 'off' : 'on']);
  }
  await using server = receiver.spawn(['iperf3', '--server', '--one-off', '--forceflush']);
  await server.waitFor('its socket', SERVER_START_MS, () => server.stdout.includes('Server listening'));
  const before = await link.sent();
  const words = ['--client', RECEIVER.address, '--time', `${seconds}`, '--omit', '1', '--json'];
  const report = await sender.exec(['iperf3', ...words], { timeoutMs: seconds * 1000 + SLACK_MS });
  const after = await link.sent();
  const frames = after && before ? (after.bytes - before.bytes) / (after.frames - before.frames) : null;
  return { ...parseIperf(report), frame_bytes: frames };
}

/** Reads `iperf3 --json` of a client. Throws an Error with iperf3's own words. */
export function parseIperf(text: string): { gbps: number; retransmits: number } {
  const report = JSON.parse(text) as {
    error?: string;
    end?: { sum_sent?: { retransmits?: number }; sum_received?: { bytes: number; seconds: number } };
  };
  const received = report.end?.sum_received;
  if (report.error !== undefined || !received) throw new Error(`iperf3: ${report.error ?? 'its report has no end'}`);
  return {
    gbps: (received.bytes * BITS) / received.seconds / 1e9,
    retransmits: report.end?.sum_sent?.retransmits ?? 0,
  };
}

function makeLink(name: GsoRun['switch'], tso: TsoMode): Promise<Link> {
  if (name === 'veth') return makeVeth();
  return tso === 'sender' ? makeOwnSwitch() : makeDaemon();
}

async function makeVeth(): Promise<Link> {
  await run(['ip', 'link', 'add', SENDER.device, 'type', 'veth', 'peer', 'name', RECEIVER.device]);
  return {
    sent: async () => null,
    // It goes with its namespaces, unless it never came into them.
    [Symbol.asyncDispose]: async () => void (await run(['ip', 'link', 'delete', SENDER.device]).catch(() => {})),
  };
}

async function makeDaemon(): Promise<Link> {
  const daemon = await DaemonProcess.start({ config: { log: { level: 'warn', format: 'text' } } });
  try {
    for (const { device } of [SENDER, RECEIVER]) await daemon.addTap(device);
  } catch (error) {
    await daemon.dispose();
    throw error;
  }
  return {
    sent: async () => sentBy((await daemon.port(SENDER.device)).counters),
    [Symbol.asyncDispose]: () => daemon.dispose(),
  };
}

/** The daemon's lane and ports in this process; the receiver's port takes no offloads. */
async function makeOwnSwitch(): Promise<Link> {
  const silent = { debug() {}, info() {}, warn() {}, error() {} };
  const options = { agingSeconds: 300, fdbCapacity: 1024, fdbPerPort: 1024, spinMs: 0.05 };
  const lanes = new Lanes({ ...options, seed: 1, count: 1, cpus: [], placement: {} });
  const died = Promise.withResolvers<never>();
  lanes.on('died', died.reject);
  died.promise.catch(() => {});
  const ports = new SwitchPorts(lanes, silent);
  const stop = async () => {
    await ports.close();
    await lanes.stop();
  };
  try {
    await ports.addTap(SENDER.device, false);
    const { id } = await ports.addTap(RECEIVER.device, false);
    await lanes.callAll('setOffloads', [id, 0]);
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    sent: () => Promise.race([died.promise, sentBy(ports.status(SENDER.device).counters)]),
    [Symbol.asyncDispose]: stop,
  };
}

function sentBy(counters: Record<string, number>): { frames: number; bytes: number } {
  return { frames: counters.rx_frames!, bytes: counters.rx_bytes! };
}
