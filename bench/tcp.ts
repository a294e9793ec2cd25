/**
 * Our TCP and Linux's over the same switch, in one run:
 *
 *     stack ══ rings ══ switch ══ rings ══ stack        two processes and the daemon
 *     stack ══ rings ══ switch ── tap ── Linux          both directions
 *     Linux ── tap ── switch ── tap ── Linux            two network namespaces
 *
 * Bulk by one stream and by a hundred, round trips of 64 bytes one at a time, and connections opened and closed. Each kind
 * runs unmeasured first, on all paths alike: what is compared are sides that have been running for a while, with code that
 * V8 has seen and windows that are open.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { DaemonProcess } from '../lab/daemon.ts';
import { NetworkNamespace } from '../lab/namespace.ts';
import { Child } from './child.ts';
import { median } from './statistics.ts';
import type { Task } from './tcp-plan.ts';

export const PATHS = ['stack-stack', 'stack-linux', 'linux-stack', 'linux-linux'] as const;
export type Path = (typeof PATHS)[number];

export interface TcpRun {
  path: Path;
  /** Bits a second. */
  bulk_1_gbps: number;
  bulk_100_gbps: number;
  echo_p50_us: number;
  echo_p99_us: number;
  connections_per_s: number;
}

export interface TcpResult {
  runs: TcpRun[];
  /** Of medians: stack-stack to linux-linux. For times less is better. Null when one was not asked for. */
  ratio: Record<'bulk_1' | 'bulk_100' | 'echo_p50' | 'connections', number | null>;
}

export interface TcpOptions {
  rounds: number;
  seconds: number;
  paths: readonly Path[];
  report: (line: string) => void;
}

const STREAMS = 100;
const END = new URL('./tcp-end.ts', import.meta.url);
const C_FILE = new URL('./tcp-linux.c', import.meta.url).pathname;
const READY_MS = 10_000;
const WARM_UP_SECONDS = 3;
/** All 4-tuples that there are, and room for them in TIME-WAIT. */
const SYSCTLS = ['net.ipv4.ip_local_port_range=1024 65535', 'net.ipv4.tcp_max_tw_buckets=2000000'];

/** One side: has servers, and does tasks as a client. */
interface Side {
  readonly address: string;
  run(task: Task): Promise<number[]>;
}

/** Builds `tcp-linux.c`. Rejects when there is no C compiler. */
async function build(directory: string): Promise<string> {
  const program = path.join(directory, 'tcp-linux');
  try {
    execFileSync('gcc', ['-O2', '-o', program, C_FILE]);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new Error('gcc is not there, which builds bench/tcp-linux.c: run scripts/setup peers', { cause: error });
  }
  return program;
}

async function linuxSide(
  undo: AsyncDisposableStack,
  daemon: DaemonProcess,
  program: string,
  name: string,
  address: string,
): Promise<Side> {
  const host = undo.use(await NetworkNamespace.create(name));
  await daemon.addTap(name);
  await host.moveIn(name);
  await host.address(name, `${address}/24`);
  for (const setting of SYSCTLS) await host.exec(['sysctl', '-qw', setting]).catch(() => {});
  const server = host.spawn([program, 'server']);
  undo.defer(() => server.stop());
  await server.waitFor('its ports', READY_MS, () => server.stdout.includes('ready') || undefined);
  return {
    address,
    async run(task) {
      const words =
        task.what === 'bulk'
          ? ['bulk', task.address, `${task.streams}`, `${task.seconds}`]
          : [task.what, task.address, `${task.seconds}`];
      const text = await host.exec([program, ...words], { timeoutMs: 60_000 });
      return text.trim().split(' ').map(Number);
    },
  };
}

async function stackSide(
  undo: AsyncDisposableStack,
  daemon: DaemonProcess,
  name: string,
  address: string,
): Promise<Side> {
  const socket = path.join(daemon.directory, `${name}.sock`);
  await daemon.client.post('/v1/ports', { kind: 'vhost-user', name, path: socket });
  const child = undo.use(await Child.start(END, [socket, address]));
  return {
    address,
    run: async (task) => [await child.ask<number | number[]>(task)].flat(),
  };
}

async function measure(way: Path, seconds: number, program: string): Promise<TcpRun> {
  await using undo = new AsyncDisposableStack();
  const daemon = undo.use(await DaemonProcess.start({ config: { log: { level: 'warn' } } }));
  const [from, to] = way.split('-');
  const side = (kind: string, name: string, address: string): Promise<Side> =>
    kind === 'stack' ? stackSide(undo, daemon, name, address) : linuxSide(undo, daemon, program, name, address);
  const client = await side(from!, 'tcpa', '10.3.0.1');
  const { address } = await side(to!, 'tcpb', '10.3.0.2');
  const warmUp = { address, seconds: WARM_UP_SECONDS };
  await client.run({ ...warmUp, what: 'bulk', streams: 1 });
  await client.run({ ...warmUp, what: 'echo' });
  await client.run({ ...warmUp, what: 'connect' });
  const bulk = async (streams: number): Promise<number> => {
    const [bytes] = await client.run({ what: 'bulk', address, streams, seconds });
    return (bytes! * 8) / 1e9;
  };
  const one = await bulk(1);
  const many = await bulk(STREAMS);
  const [p50, p99] = await client.run({ what: 'echo', address, seconds });
  const [connections] = await client.run({ what: 'connect', address, seconds });
  return {
    path: way,
    bulk_1_gbps: one,
    bulk_100_gbps: many,
    echo_p50_us: p50!,
    echo_p99_us: p99!,
    connections_per_s: connections!,
  };
}

/** Measures all paths in turn, `rounds` times. */
export async function tcp({ rounds, seconds, paths, report }: TcpOptions): Promise<TcpResult> {
  const directory = await fs.mkdtemp(path.join(os.tmpdir(), 'ringswitch-tcp-'));
  const runs: TcpRun[] = [];
  try {
    const program = await build(directory);
    for (let round = 0; round < rounds; round++) {
      for (const way of paths) {
        const run = await measure(way, seconds, program);
        runs.push(run);
        report(
          `${way.padEnd(12)} ${run.bulk_1_gbps.toFixed(1)} and ${run.bulk_100_gbps.toFixed(1)} Gbit/s by 1 and ${STREAMS} streams, ` +
            `${run.echo_p50_us.toFixed(0)} µs (p99 ${run.echo_p99_us.toFixed(0)}), ${run.connections_per_s.toFixed(0)} connections/s`,
        );
      }
    }
  } finally {
    await fs.rm(directory, { recursive: true, force: true });
  }
  const ratio = (key: Exclude<keyof TcpRun, 'path'>): number | null => {
    if (!paths.includes('stack-stack') || !paths.includes('linux-linux')) return null;
    const of = (way: Path): number => median(runs.filter((run) => run.path === way).map((run) => run[key]));
    return of('stack-stack') / of('linux-linux');
  };
  return {
    runs,
    ratio: {
      bulk_1: ratio('bulk_1_gbps'),
      bulk_100: ratio('bulk_100_gbps'),
      echo_p50: ratio('echo_p50_us'),
      connections: ratio('connections_per_s'),
    },
  };
}
