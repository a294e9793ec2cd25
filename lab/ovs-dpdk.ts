/** Open vSwitch with DPDK's user-space datapath: a switch to compare with. Private to its user: see {@link OvsDpdk}. */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { Hugepages } from './hugepages.ts';
import { Program, run } from './program.ts';

/** Debian's build with DPDK; ovs-vswitchd(8) itself may be an alternative without. */
const VSWITCHD = '/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk';
const SCHEMA = '/usr/share/openvswitch/vswitch.ovsschema';
const BRIDGE = 'br-bench';
const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 10_000;

export interface OvsDpdkOptions {
  /** The processor of the poll-mode thread; the others of its threads run there too. */
  cpu: number;
  /** vhost-user ports: guests 0, 1, ... */
  ports: number;
  /** Memory, all in hugepages of 2 MiB. Default 512. */
  memoryMiB?: number;
}

/** What the poll-mode thread has done since {@link OvsDpdk.clearStats}, in cycles of the time stamp counter. */
export interface PmdStatistics {
  packets: number;
  idleCycles: number;
  /** Cycles of polls that brought packets. */
  processingCycles: number;
}

/**
 * ovsdb-server and ovs-vswitchd with one bridge (`datapath_type=netdev`, the default flow NORMAL: MAC learning).
 *
 *     await using ovs = await OvsDpdk.start({ cpu: 0, ports: 2 });
 *     const guests = await Testpmd.start({ vdevs: [0, 1].map((i) => `net_virtio_user${i},path=${ovs.socket(i)},server=1`) });
 *
 * Its ports are `dpdkvhostuserclient`: the guest makes the socket, OVS connects to it. Database, sockets and logs lie in
 * a directory of their own, and its taps in a network namespace of their own, so that an Open vSwitch of the system stays
 * untouched. Memory is anonymous (`--in-memory`): no hugepage file is left behind.
 */
export class OvsDpdk implements AsyncDisposable {
  readonly #directory: string;
  readonly #prefix = `ringswitch-ovs-${randomBytes(4).toString('hex')}`;
  #database: Program | undefined;
  #vswitchd: Program | undefined;
  #pages: Hugepages | undefined;

  /**
   * Starts one; resolves when its ports wait for their guests. Rejects, with what the programs said, when one does not
   * come up or is not installed (scripts/setup peers). Nothing is left running then.
   */
  static async start(options: OvsDpdkOptions): Promise<OvsDpdk> {
    const ovs = new OvsDpdk(await fs.mkdtemp(path.join(os.tmpdir(), 'ringswitch-ovs-')));
    try {
      await ovs.#start(options);
      return ovs;
    } catch (error) {
      await ovs.stop();
      throw error;
    }
  }

  private constructor(directory: string) {
    this.#directory = directory;
  }

  /** The pid of ovs-vswitchd. */
  get pid(): number {
    return this.#vswitchd!.pid!;
  }

  /** Where the guest of a port makes its vhost-user socket. */
  socket(port: number): string {
    return this.#file(`v${port}`);
  }

  /** What ovs-vswitchd said when it has ended by itself; undefined while it runs. */
  get lastWords(): string | undefined {
    return this.#vswitchd?.end === undefined ? undefined : this.#vswitchd.stderr;
  }

  /** Asks ovs-vswitchd, as `ovs-appctl` does; gives its answer. */
  appctl(...words: string[]): Promise<string> {
    return run(['ovs-appctl', '-t', this.#file('vswitchd.ctl'), ...words]);
  }

  /** Sets the counters of {@link stats} to 0. */
  async clearStats(): Promise<void> {
    await this.appctl('dpif-netdev/pmd-stats-clear');
  }

  async stats(): Promise<PmdStatistics> {
    return parsePmdStatistics(await this.appctl('dpif-netdev/pmd-stats-show'));
  }

  /** Ends both programs and removes what they left. May be called at any time. */
  async stop(): Promise<void> {
    for (const program of [this.#vswitchd, this.#database]) {
      program?.signal('SIGTERM');
      await program?.stop(STOP_TIMEOUT_MS);
    }
    await fs.rm(this.#directory, { recursive: true, force: true });
    await fs.rm(`/var/run/dpdk/${this.#prefix}`, { recursive: true, force: true });
    await this.#pages?.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  #file(name: string): string {
    return path.join(this.#directory, name);
  }

  async #start({ cpu, ports, memoryMiB = 512 }: OvsDpdkOptions): Promise<void> {
    await demandInstalled();
    const directory = this.#directory;
    const env = { OVS_RUNDIR: directory, OVS_LOGDIR: directory, OVS_DBDIR: directory, OVS_SYSCONFDIR: directory };
    const socket = this.#file('db.sock');
    await run(['ovsdb-tool', 'create', this.#file('conf.db'), SCHEMA], { env });
    this.#database = new Program(
      ['ovsdb-server', this.#file('conf.db'), `--remote=punix:${socket}`, `--unixctl=${this.#file('ovsdb.ctl')}`],
      { env },
    );
    const database = this.#database;
    const vsctl = (...words: string[]) =>
      run(['ovs-vsctl', '--retry', '--timeout=20', `--db=unix:${socket}`, ...words], { env });
    await Promise.race([vsctl('--no-wait', 'init'), database.ended.then((end) => Promise.reject(database.error(end)))]);
    const mask = `0x${(1n << BigInt(cpu)).toString(16)}`;
    const eal = `--in-memory --single-file-segments --no-pci --no-telemetry --file-prefix=${this.#prefix}`;
    await vsctl(
      ...['--no-wait', 'set', 'Open_vSwitch', '.', 'other_config:dpdk-init=true', `other_config:pmd-cpu-mask=${mask}`],
      ...[`other_config:dpdk-lcore-mask=${mask}`, `other_config:dpdk-socket-mem="${memoryMiB}"`],
      `other_config:dpdk-extra="${eal}"`,
    );
    this.#pages = await Hugepages.reserve(memoryMiB, 'Open vSwitch', async () => {
      const words = [VSWITCHD, `unix:${socket}`, `--unixctl=${this.#file('vswitchd.ctl')}`, '-vconsole:info'];
      const vswitchd = new Program(['unshare', '--net', 'taskset', '-c', `${cpu}`, ...words], { env });
      this.#vswitchd = vswitchd;
      try {
        await vswitchd.waitFor('its memory', START_TIMEOUT_MS, () =>
          /DPDK Enabled - initialized/.test(vswitchd.stderr),
        );
      } catch (error) {
        await vswitchd.stop();
        throw error;
      }
    });
    const addPorts = Array.from({ length: ports }, (_, i) => [
      ...['--', 'add-port', BRIDGE, `vhost${i}`],
      ...['--', 'set', 'Interface', `vhost${i}`, 'type=dpdkvhostuserclient'],
      `options:vhost-server-path=${this.socket(i)}`,
    ]);
    await vsctl('add-br', BRIDGE, '--', 'set', 'bridge', BRIDGE, 'datapath_type=netdev', ...addPorts.flat());
    const error = await vsctl('--columns=name,error', '--bare', 'find', 'Interface', 'error!=[]');
    if (error.trim()) throw this.#vswitchd!.error(`a port could not be made: ${error.trim()}`);
  }
}

async function demandInstalled(): Promise<void> {
  for (const file of [VSWITCHD, SCHEMA]) {
    try {
      await fs.access(file);
    } catch {
      throw new Error(
        `Open vSwitch with DPDK cannot be started: there is no ${file}; run "scripts/setup peers" first.`,
      );
    }
  }
}

/** The first poll-mode thread in `ovs-appctl dpif-netdev/pmd-stats-show`. Throws an Error that names what is missing. */
export function parsePmdStatistics(text: string): PmdStatistics {
  const part = /^pmd thread .*\n((?: .*\n?)*)/m.exec(text)?.[1];
  if (part === undefined) throw new Error(`Open vSwitch shows no pmd thread, but:\n${text}`);
  const value = (label: string): number => {
    const found = new RegExp(`^\\s*${label}: (\\d+)`, 'm').exec(part)?.[1];
    if (found === undefined) throw new Error(`Open vSwitch's pmd thread has no ${label}:\n${part}`);
    return Number(found);
  };
  return {
    packets: value('packets received'),
    idleCycles: value('idle cycles'),
    processingCycles: value('processing cycles'),
  };
}
