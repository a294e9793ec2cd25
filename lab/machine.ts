/**
 * A virtual machine for tests: an unmodified QEMU that boots the image of `lab/guest/build`.
 *
 *     await using machine = await Machine.start({ name: 'a', netdevs: [virtioNet({ id: 'n0', ... })] });
 *     await guestNetwork(machine, '10.0.0.1/24');
 *     console.log(await machine.sh('ping -c 3 10.0.0.2'));
 *
 *     start() --boots--> up --powerOff(), kill(), stop()--> gone
 *                        ^ \
 *                        |  reboot(), reset()
 *                         \_/
 *
 * Commands reach the guest through a virtio-serial port (agent.ts), so they work whatever becomes of its network. A
 * machine ends with the process that started it: QEMU is killed at its exit, and a guest that nobody listens to for two
 * seconds powers itself off.
 */
import { once } from 'node:events';
import fs from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Agent, type CommandResult } from './agent.ts';
import { fetchedQemu, type GuestImage, guestImage, projectRoot } from './artifacts.ts';
import { Program } from './program.ts';
import { quote, tail } from './words.ts';

/** What a machine is made of. */
export interface MachineOptions {
  /** For messages, and QEMU's `-name`. Default `guest`. */
  name?: string;
  /** Default 256. */
  memoryMiB?: number;
  /** Processors. Default 1. */
  smp?: number;
  /** Whether the guest's memory is a memfd that others can map (vhost-user, the clones). Default true. */
  sharedMemory?: boolean;
  /**
   * Which QEMU: the machine's own (Debian 12's), or the newer one that scripts/setup fetches, which cards from another
   * process need. Default `installed`.
   */
  qemu?: 'installed' | 'fetched';
  /** Whether the guest has an IOMMU (Intel VT-d) that it uses for all its devices, as VFIO wants. Default false. */
  iommu?: boolean;
  /** Arguments of QEMU, a list for each card: see `virtioNet`, `vfioUserCard`. The cards are eth0, eth1, ... in this order. */
  netdevs?: string[][];
  /** Words before the QEMU command, such as `['bin/ringswitch', 'exec', '--socket', path, '--']`. */
  launcher?: string[];
  /** Whether runInHostRoot() works: the guest mounts this machine's root over 9p, read-only. Default false. */
  hostRoot?: boolean;
  /** Modules to load once the guest is up, such as `['vhost_net', 'tun', 'fuse']`. */
  modules?: string[];
  /** More words for the kernel's command line. */
  kernelArgs?: string[];
  /** More words for QEMU. */
  extraArgs?: string[];
  /** Descriptors to pass to QEMU: the first is 3 there, and so on. */
  stdio?: (number | 'ignore')[];
  /** More variables for the environment of QEMU and its launcher. */
  env?: Record<string, string>;
  /** QEMU's accelerator. Default `tcg`, which works on any machine. */
  accel?: string;
  /** How long it may take to boot, in milliseconds. Default 60,000, since others may use the processors too. */
  bootTimeoutMs?: number;
}

/** How to run a command. */
export interface RunOptions {
  /** When to kill it, in milliseconds. Default 30,000. */
  timeoutMs?: number;
}

const DEFAULT_BOOT_TIMEOUT_MS = 60_000;
const DEFAULT_COMMAND_TIMEOUT_MS = 30_000;
const POWER_OFF_TIMEOUT_MS = 10_000;
const STOP_TIMEOUT_MS = 3_000;

/** A running QEMU and its guest. */
export class Machine implements AsyncDisposable {
  readonly name: string;
  readonly #options: MachineOptions;
  readonly #qemu: Program;
  readonly #agent: Agent;

  /**
   * Boots a machine; resolves when it takes commands.
   *
   * Rejects, with what the console and QEMU said last, when QEMU cannot be started or ends, when the kernel panics, and
   * after `bootTimeoutMs`. Nothing is left running then.
   */
  static async start(options: MachineOptions = {}): Promise<Machine> {
    const image = guestImage();
    const { name = 'guest', launcher = [], env, stdio } = options;
    const directory = await fs.mkdtemp(path.join(os.tmpdir(), 'ringswitch-machine-'));
    const server = net.createServer();
    try {
      // QEMU is the client of its agent's socket: it has connected before the guest runs, and the file may go then.
      const socketPath = path.join(directory, 'agent');
      server.listen(socketPath);
      await once(server, 'listening');
      const connection: Promise<net.Socket[]> = once(server, 'connection');
      const qemu = new Program([...launcher, ...qemuCommand(options, image, socketPath)], { env, stdio });
      try {
        const boot = { name, qemu, consoleStart: 0, deadline: Date.now() + bootTimeoutMs(options) };
        const [socket] = await whileBooting(boot, connection);
        const machine = new Machine(options, qemu, new Agent(socket!));
        await machine.#untilBooted(boot);
        return machine;
      } catch (error) {
        await qemu.stop();
        throw error;
      }
    } finally {
      server.close();
      await fs.rm(directory, { recursive: true, force: true });
    }
  }

  private constructor(options: MachineOptions, qemu: Program, agent: Agent) {
    this.name = options.name ?? 'guest';
    this.#options = options;
    this.#qemu = qemu;
    this.#agent = agent;
    qemu.ended.then((end) => agent.fail(machineError(this.name, qemu, `QEMU ${end}.`)));
  }

  /** QEMU's process. With a launcher that replaces itself by QEMU (exec) it is the launcher's, too. */
  get pid(): number {
    return this.#qemu.pid!;
  }

  /** All that the guest's console and the firmware have printed. */
  get console(): string {
    return this.#qemu.stdout;
  }

  /** What QEMU and its launcher have complained of. */
  get stderr(): string {
    return this.#qemu.stderr;
  }

  /** Whether QEMU runs. */
  get running(): boolean {
    return this.#qemu.end === undefined;
  }

  /**
   * Runs a shell script in the guest and resolves with its end, whatever its status. Any number at a time.
   *
   * What it starts in the background lives on. Rejects when it is not done in time (it is then killed with its
   * children), when the guest is reset meanwhile, and when QEMU ends.
   */
  run(command: string, { timeoutMs = DEFAULT_COMMAND_TIMEOUT_MS }: RunOptions = {}): Promise<CommandResult> {
    return this.#agent.run(command, timeoutMs);
  }

  /** Like run(), but gives the output alone, and rejects with it when the status is not 0. */
  async sh(command: string, options?: RunOptions): Promise<string> {
    const { status, output } = await this.run(command, options);
    if (status === 0) return output;
    throw new Error(`In the guest ${this.name}, \`${command}\` exited with status ${status}:\n${tail(output)}`);
  }

  /**
   * Runs a shell script in the guest with this machine's root as its own (read-only but for /tmp and /run), in the
   * project's folder: its programs, its Node and this tree, on the guest's kernel. Needs `hostRoot`.
   */
  async runInHostRoot(command: string, options?: RunOptions): Promise<CommandResult> {
    return await this.run(this.#inHostRoot(command), options);
  }

  /** Like runInHostRoot(), but gives the output alone, and rejects with it when the status is not 0. */
  async shInHostRoot(command: string, options?: RunOptions): Promise<string> {
    const { status, output } = await this.runInHostRoot(command, options);
    if (status === 0) return output;
    throw new Error(
      `In the guest ${this.name}, on the host's root, \`${command}\` exited with ${status}:\n${tail(output)}`,
    );
  }

  /**
   * Has the guest's kernel shut its devices down and restart (`reboot -f`); resolves when it takes commands again.
   * QEMU stays.
   *
   * Not for a guest in full traffic: since 6.1.192 Linux marks the queues of virtio devices as broken first, and
   * virtio_net's start_xmit() may then wait for ever for what the device, which runs beside it, has used meanwhile.
   */
  reboot(): Promise<void> {
    return this.#restart('reboot -f');
  }

  /** Restarts the machine as its reset button would, whatever the guest does and has open; otherwise like reboot(). */
  reset(): Promise<void> {
    return this.#restart('echo b > /proc/sysrq-trigger');
  }

  async #restart(command: string): Promise<void> {
    const deadline = Date.now() + bootTimeoutMs(this.#options);
    const boot = { name: this.name, qemu: this.#qemu, consoleStart: this.console.length, deadline };
    const up = this.#untilBooted(boot);
    this.#command(command);
    await up;
  }

  /** Powers the guest off; resolves when QEMU has exited. Rejects, with the console, when it does not in 10 seconds. */
  async powerOff(timeoutMs: number = POWER_OFF_TIMEOUT_MS): Promise<void> {
    this.#command('poweroff -f');
    await this.#qemu.waitFor('its power-off', timeoutMs, () => this.#qemu.end);
  }

  /** Kills QEMU (SIGKILL), as a crash would, and waits until it is gone. */
  async kill(): Promise<void> {
    await this.#qemu.stop();
  }

  /** Ends the machine: powers it off, or kills it if that takes long. May be called at any time; never rejects. */
  async stop(): Promise<void> {
    if (this.running) this.#command('poweroff -f');
    await this.#qemu.stop(STOP_TIMEOUT_MS);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  /** Gives a command whose answer, if any, is no matter: the machine goes down with it. */
  #command(command: string): void {
    this.run(command).catch(() => {});
  }

  async #untilBooted(boot: Boot): Promise<void> {
    await whileBooting(boot, this.#agent.nextBoot());
    const { modules = [], hostRoot } = this.#options;
    if (modules.length > 0) await this.sh(`modprobe -a ${modules.map(quote).join(' ')}`);
    if (hostRoot) await this.sh(MOUNT_HOST_ROOT);
  }

  #inHostRoot(command: string): string {
    if (!this.#options.hostRoot) {
      throw new Error(`The guest ${this.name} has no root of the host: start it with hostRoot: true.`);
    }
    // What Node has made of the same files on this machine spares an emulated processor most of a start.
    const cache = `export NODE_COMPILE_CACHE=${quote(`${projectRoot}/.cache/node`)}`;
    return `exec chroot /host /bin/sh -c ${quote(`cd ${quote(projectRoot)} && ${cache} && { ${command}\n}`)}`;
  }
}

/** A machine on its way up. */
interface Boot {
  name: string;
  qemu: Program;
  /** Where the console of this boot starts in all that was printed. */
  consoleStart: number;
  /** When to give up, as Date.now() tells time. */
  deadline: number;
}

/** How often a booting guest's console is looked at, in milliseconds. */
const CONSOLE_INTERVAL_MS = 200;

/** Waits for something that a booting guest does; rejects when it has died instead, or takes too long. */
async function whileBooting<T>({ name, qemu, consoleStart, deadline }: Boot, event: Promise<T>): Promise<T> {
  const nothing = Symbol();
  // It rejects only as QEMU ends, which is seen below.
  const happened = event.catch(() => nothing);
  const ended = qemu.ended.then(() => nothing);
  for (;;) {
    const first = await Promise.race([happened, ended, delay(CONSOLE_INTERVAL_MS, nothing)]);
    if (first !== nothing) return first as T;
    if (qemu.end !== undefined) throw machineError(name, qemu, `QEMU ${qemu.end} before the guest was up.`);
    if (/Kernel panic - /.test(qemu.stdout.slice(consoleStart)))
      throw machineError(name, qemu, "the guest's kernel panicked.");
    if (Date.now() > deadline) throw machineError(name, qemu, 'the guest was not up in time (bootTimeoutMs).');
  }
}

function bootTimeoutMs(options: MachineOptions): number {
  return options.bootTimeoutMs ?? DEFAULT_BOOT_TIMEOUT_MS;
}

function machineError(name: string, qemu: Program, what: string): Error {
  return new Error(`The machine ${name}: ${what}\n-- console\n${tail(qemu.stdout)}\n-- stderr\n${tail(qemu.stderr)}`);
}

/** The mount tag of the host's root (virtio 1.2 §5.11.4). */
const HOST_ROOT_TAG = 'host';

/**
 * Lays the host's root over /host, with the guest's own devices and processes, and room to write in /tmp and /run. A
 * project that lies in one of these is laid back over them.
 */
const MOUNT_HOST_ROOT = `
set -e
modprobe -a 9pnet_virtio 9p
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,ro,cache=loose ${HOST_ROOT_TAG} /host
mkdir -p /project
mount --bind /host${quote(projectRoot)} /project
for directory in proc sys dev; do mount --rbind /$directory /host/$directory; done
for directory in tmp run; do mount -t tmpfs tmpfs /host/$directory; done
if [ ! -e /host${quote(projectRoot)} ]; then
  mkdir -p /host${quote(projectRoot)}
  mount --bind /project /host${quote(projectRoot)}
fi
`;

/** Spares an emulated processor the checks and calibrations that cost it most: a quarter of the boot. */
const FAST_BOOT = [
  'cryptomgr.notests',
  'mitigations=off',
  'no_timer_check',
  'rcupdate.rcu_expedited=1',
  'tsc=reliable',
];

/**
 * An IOMMU for the guest: before all devices, which it has to know from their start. VFIO on it needs caching mode (the
 * guest announces new mappings too) and interrupt remapping, which in turn wants the I/O APIC outside the accelerator.
 */
const VIRTUAL_IOMMU = [
  ...['-machine', 'kernel-irqchip=split'],
  ...['-device', 'intel-iommu,intremap=on,caching-mode=on'],
];

/** QEMU's whole command. */
function qemuCommand(options: MachineOptions, image: GuestImage, agentSocket: string): string[] {
  const { name = 'guest', memoryMiB = 256, smp = 1, sharedMemory = true, accel = 'tcg', iommu = false } = options;
  const memory = ['-m', `${memoryMiB}M`];
  if (sharedMemory) {
    memory.push(
      '-object',
      `memory-backend-memfd,id=mem0,size=${memoryMiB}M,share=on`,
      '-machine',
      'memory-backend=mem0',
    );
  }
  const kernelArgs = ['console=ttyS0', 'loglevel=4', ...FAST_BOOT, ...(options.kernelArgs ?? [])];
  if (iommu) kernelArgs.push('intel_iommu=on');
  return [
    options.qemu === 'fetched' ? fetchedQemu() : 'qemu-system-x86_64',
    ...['-name', name, '-nodefaults', '-no-user-config', '-display', 'none'],
    ...['-machine', 'q35', '-accel', accel, '-cpu', 'max', '-smp', `${smp}`, ...memory],
    ...(iommu ? VIRTUAL_IOMMU : []),
    ...['-kernel', image.kernel, '-initrd', image.initramfs, '-append', kernelArgs.join(' ')],
    ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
    ...['-chardev', `socket,id=agent,path=${agentSocket}`, '-device', 'virtio-serial-pci'],
    ...['-device', 'virtserialport,chardev=agent,name=ringswitch.agent', '-device', 'virtio-rng-pci'],
    ...(options.netdevs ?? []).flat(),
    ...(options.hostRoot
      ? ['-virtfs', `local,path=/,mount_tag=${HOST_ROOT_TAG},security_model=none,readonly=on,multidevs=remap`]
      : []),
    ...(options.extraArgs ?? []),
  ];
}

/** Gives a card of the guest an address such as `10.0.0.1/24` (/24 unless told) and brings it up. */
export async function guestNetwork(machine: Machine, ip: string, ifname = 'eth0'): Promise<void> {
  const address = ip.includes('/') ? ip : `${ip}/24`;
  await machine.sh(`ip address add ${quote(address)} dev ${quote(ifname)} && ip link set ${quote(ifname)} up`);
}
