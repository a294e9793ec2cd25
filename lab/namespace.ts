/** Network namespaces of a test's own: hosts without the machine. */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { Program, type ProgramOptions, run } from './program.ts';

/** How long killed processes may take to go, in milliseconds. */
const KILL_TIMEOUT_MS = 5000;

/**
 * A named network namespace with its loopback up.
 *
 *     await using host = await NetworkNamespace.create('host');
 *     await host.moveIn('vs0');
 *     await host.address('vs0', '10.0.0.1/24');
 *     await host.exec(['ping', '-c', '1', '10.0.0.2']);
 *
 * Disposing it kills the processes in it and deletes it; the kernel removes what virtual devices it holds.
 */
export class NetworkNamespace implements AsyncDisposable {
  /** What `ip netns` calls it: the given name and a random suffix. */
  readonly name: string;

  /** Makes one. Rejects, with what `ip` said, without the right to (root, or CAP_SYS_ADMIN). */
  static async create(name = 'ringswitch'): Promise<NetworkNamespace> {
    const namespace = new NetworkNamespace(`${name}-${randomBytes(4).toString('hex')}`);
    await run(['ip', 'netns', 'add', namespace.name]);
    try {
      await run(['ip', '-n', namespace.name, 'link', 'set', 'lo', 'up']);
    } catch (error) {
      await namespace.dispose();
      throw error;
    }
    return namespace;
  }

  private constructor(name: string) {
    this.name = name;
  }

  /** The file that setns(2) takes. */
  get path(): string {
    return `/run/netns/${this.name}`;
  }

  /** Runs a command in it and gives its standard output. Rejects, with what it printed, unless it exits with 0. */
  exec(command: string[], options: ProgramOptions & { timeoutMs?: number } = {}): Promise<string> {
    return run(this.#inside(command), options);
  }

  /** Starts a program in it. Its pid is the program's own. */
  spawn(command: string[], options: ProgramOptions = {}): Program {
    return new Program(this.#inside(command), options);
  }

  /** Moves an interface of this process's namespace into it. Addresses are lost, as always. */
  async moveIn(ifname: string): Promise<void> {
    await run(['ip', 'link', 'set', ifname, 'netns', this.name]);
  }

  /** Gives an interface in it an address such as `10.0.0.1/24`, and brings it up. */
  async address(ifname: string, cidr: string): Promise<void> {
    await run(['ip', '-n', this.name, 'address', 'add', cidr, 'dev', ifname]);
    await run(['ip', '-n', this.name, 'link', 'set', ifname, 'up']);
  }

  /** The processes that run in it. */
  async pids(): Promise<number[]> {
    const words = await run(['ip', 'netns', 'pids', this.name]);
    return words.split('\n').filter(Boolean).map(Number);
  }

  /** Kills (SIGKILL) what runs in it, and deletes it. Does nothing the second time. */
  async dispose(): Promise<void> {
    if (!fs.existsSync(this.path)) return;
    const deadline = Date.now() + KILL_TIMEOUT_MS;
    for (let pids = await this.pids(); pids.length > 0; pids = await this.pids()) {
      for (const pid of pids) kill(pid);
      if (Date.now() > deadline) {
        throw new Error(
          `The processes ${pids.join(', ')} in the namespace ${this.name} outlive SIGKILL: look at their state (ps).`,
        );
      }
      await delay(10);
    }
    await run(['ip', 'netns', 'delete', this.name]);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #inside(command: string[]): string[] {
    return ['ip', 'netns', 'exec', this.name, ...command];
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    // It has ended by itself.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
