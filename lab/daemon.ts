/** A daemon of its own for a test, the demo or a benchmark: private mount, private socket, nothing left behind. */
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { stringify } from 'yaml';
import type { PortStatus, RingRow, Status } from '../daemon/control.ts';
import { ControlClient } from '../daemon/control-client.ts';
import { unmountStale } from '../fuse/mount.ts';
import { projectRoot } from './artifacts.ts';
import { Program } from './program.ts';

export const RINGSWITCH = path.join(projectRoot, 'bin/ringswitch');
const START_TIMEOUT_MS = 15_000;
const STOP_TIMEOUT_MS = 10_000;

export interface DaemonOptions {
  /** More keys of the configuration, besides the mount's path and the control socket. */
  config?: Record<string, unknown>;
  /** Words before the command, such as `['taskset', '-c', '0']`. */
  launcher?: string[];
  /** A directory of an earlier daemon to start again in. */
  directory?: string;
}

/**
 *     await using daemon = await DaemonProcess.start();
 *     const guest = await Machine.start({ launcher: daemon.exec, ... });
 */
export class DaemonProcess implements AsyncDisposable {
  readonly directory: string;
  readonly client: ControlClient;
  readonly #options: DaemonOptions;
  #program: Program;

  /** Starts one; resolves when its control socket answers. Rejects with what it logged when it does not come up. */
  static async start(options: DaemonOptions = {}): Promise<DaemonProcess> {
    const directory = options.directory ?? (await fs.mkdtemp(path.join(os.tmpdir(), 'ringswitch-')));
    const { mount = {}, control = {}, ...more } = (options.config ?? {}) as Record<string, object>;
    const config = {
      mount: { path: path.join(directory, 'dev'), ...mount },
      control: { socket: path.join(directory, 'control.sock'), ...control },
      log: { level: 'debug', format: 'text' },
      ...more,
    };
    await fs.writeFile(path.join(directory, 'ringswitch.yaml'), stringify(config));
    const daemon = new DaemonProcess(directory, options);
    try {
      await daemon.#ready();
    } catch (error) {
      await daemon.dispose();
      throw error;
    }
    return daemon;
  }

  private constructor(directory: string, options: DaemonOptions) {
    this.directory = directory;
    this.#options = options;
    this.client = new ControlClient(this.socket);
    this.#program = this.#spawn();
  }

  #spawn(): Program {
    const words = [RINGSWITCH, 'daemon', '--config', path.join(this.directory, 'ringswitch.yaml')];
    return new Program([...(this.#options.launcher ?? []), ...words]);
  }

  async #ready(): Promise<void> {
    const deadline = Date.now() + START_TIMEOUT_MS;
    for (;;) {
      if (this.#program.end !== undefined) throw this.#program.error(`${this.#program.end} before it was ready.`);
      try {
        await this.client.get('/v1/status');
        return;
      } catch (error) {
        if (Date.now() > deadline) throw this.#program.error(`not ready: ${(error as Error).message}`);
        await delay(20);
      }
    }
  }

  get pid(): number {
    return this.#program.pid!;
  }

  get socket(): string {
    return path.join(this.directory, 'control.sock');
  }

  get mount(): string {
    return path.join(this.directory, 'dev');
  }

  /** Where the clones are. */
  get tun(): string {
    return path.join(this.mount, 'net/tun');
  }

  get vhostNet(): string {
    return path.join(this.mount, 'vhost-net');
  }

  /** Words that run a command with our clones as its /dev/net/tun and /dev/vhost-net. */
  get exec(): string[] {
    return [RINGSWITCH, 'exec', '--socket', this.socket, '--'];
  }

  /** What it logged. */
  get log(): string {
    return this.#program.stderr;
  }

  get running(): boolean {
    return this.#program.end === undefined;
  }

  async status(): Promise<Status> {
    return (await this.client.get('/v1/status')) as Status;
  }

  async ports(): Promise<PortStatus[]> {
    return (await this.client.get('/v1/ports')) as PortStatus[];
  }

  async port(name: string): Promise<PortStatus> {
    return (await this.client.get(`/v1/ports/${name}`)) as PortStatus;
  }

  async rings(): Promise<RingRow[]> {
    return (await this.client.get('/v1/rings')) as RingRow[];
  }

  async addTap(name: string): Promise<PortStatus> {
    return (await this.client.post('/v1/ports', { kind: 'tap', name })) as PortStatus;
  }

  /** Ends it with a signal. Rejects unless it exits with 0. */
  async stop(signal: 'SIGTERM' | 'SIGINT' = 'SIGTERM'): Promise<void> {
    this.#program.signal(signal);
    await this.#program.waitFor('its end', STOP_TIMEOUT_MS, () => this.#program.end);
    if (this.#program.end !== 'exited with status 0')
      throw this.#program.error(`${this.#program.end} after ${signal}.`);
  }

  /** Ends it with SIGKILL, as a crash would; its mount stays behind. */
  async kill(): Promise<void> {
    this.#program.signal('SIGKILL');
    await this.#program.ended;
  }

  /** Starts it again, after {@link stop} or {@link kill}. */
  async restart(): Promise<void> {
    this.#program = this.#spawn();
    await this.#ready();
  }

  /** Kills it if it runs, and removes all that it left. */
  async dispose(): Promise<void> {
    this.#program.signal('SIGTERM');
    await this.#program.stop(STOP_TIMEOUT_MS);
    unmountStale(this.mount);
    await fs.rm(this.directory, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}
