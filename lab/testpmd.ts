/** DPDK's `dpdk-testpmd`: a guest's network driver, a traffic generator, or a switch to compare with. */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs/promises';
import { Hugepages } from './hugepages.ts';
import { Program } from './program.ts';
import {
  type ForwardStatistics,
  type PortStatistics,
  parseForwardStatistics,
  parsePortStatistics,
} from './testpmd-statistics.ts';

/** What a testpmd is started with. */
export interface TestpmdOptions {
  /** The processor to run on. Both of its threads do: one forwards, one reads commands. */
  cpu: number;
  /** Virtual devices, such as `net_virtio_user0,path=/tmp/v0,queue_size=256,mac=52:54:00:00:00:01`: ports 0, 1, ... */
  vdevs: string[];
  /** Words for testpmd itself, such as `['--forward-mode=macswap', '--txd=256']`. */
  words?: string[];
  /** More words for DPDK's environment abstraction layer (EAL). */
  eal?: string[];
  /** Memory, all in hugepages of 2 MiB. Default 512, enough for `--total-num-mbufs=16384`. */
  memoryMiB?: number;
  /** Words before the command, such as `['bin/ringswitch', 'exec', '--socket', path, '--']`. */
  launcher?: string[];
  /** More variables for its environment. */
  env?: Record<string, string>;
  /** How long it may take to its first prompt, in milliseconds. Default 30,000. */
  startTimeoutMs?: number;
}

const PROMPT = 'testpmd> ';
const COMMAND_TIMEOUT_MS = 10_000;
const QUIT_TIMEOUT_MS = 5_000;

/**
 * An interactive testpmd. It polls, so it takes its processor whole while it forwards.
 *
 *     await using guests = await Testpmd.start({ cpu: 1, vdevs: [...], words: ['--forward-mode=macswap', ...] });
 *     await guests.command('start tx_first 6');
 *     const [port0, port1] = await guests.portStats();
 *
 * Its memory is anonymous (`--in-memory`), so that no file or mount of hugepages is left behind; a vhost-user peer gets
 * it as memfds. It needs free hugepages: what the system's pool lacks is added for its life.
 */
export class Testpmd implements AsyncDisposable {
  readonly #program: Program;
  readonly #prefix: string;
  #pages: Hugepages | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #stopped: Promise<void> | undefined;

  /**
   * Starts one; resolves at its first prompt, with its ports made.
   *
   * Rejects, with what it printed, when it ends before or takes too long, and when there is no memory for hugepages.
   * Nothing is left running then.
   */
  static async start(options: TestpmdOptions): Promise<Testpmd> {
    const { cpu, vdevs, words = [], eal = [], memoryMiB = 512, launcher = [], env, startTimeoutMs = 30_000 } = options;
    const prefix = `ringswitch-${randomBytes(4).toString('hex')}`;
    const command = [
      // It does not flush standard output before its prompt unless that is a terminal.
      ...[...launcher, 'stdbuf', '-o0', 'dpdk-testpmd'],
      ...['--lcores', `0@${cpu},1@${cpu}`, '--no-pci', '--no-telemetry', '--in-memory', '--single-file-segments'],
      ...['-m', `${memoryMiB}`, '--file-prefix', prefix, ...vdevs.flatMap((vdev) => ['--vdev', vdev]), ...eal],
      ...['--', '-i', ...words],
    ];
    let testpmd: Testpmd | undefined;
    const pages = await Hugepages.reserve(memoryMiB, 'testpmd', async () => {
      testpmd = new Testpmd(new Program(command, { env, interactive: true }), prefix);
      try {
        await testpmd.#program.waitFor('its first prompt', startTimeoutMs, () => testpmd!.output.includes(PROMPT));
      } catch (error) {
        await testpmd.stop();
        throw error;
      }
    });
    testpmd!.#pages = pages;
    return testpmd!;
  }

  private constructor(program: Program, prefix: string) {
    this.#program = program;
    this.#prefix = prefix;
  }

  /** The pid, that of the launcher when that does not replace itself by testpmd (exec). */
  get pid(): number {
    return this.#program.pid!;
  }

  /** All that it printed. */
  get output(): string {
    return this.#program.stdout;
  }

  /** What EAL and its drivers said: the vhost-user negotiation, for instance. */
  get log(): string {
    return this.#program.stderr;
  }

  /** What EAL and its drivers said when it has ended; undefined while it runs. */
  get lastWords(): string | undefined {
    return this.#program.end === undefined ? undefined : this.log;
  }

  /**
   * Gives a command and resolves with its answer. Commands queue up.
   *
   * Rejects when testpmd does not know it or its arguments, ends, or does not come back to its prompt in `timeoutMs`.
   */
  command(command: string, timeoutMs: number = COMMAND_TIMEOUT_MS): Promise<string> {
    const answer = this.#last.then(async () => {
      const start = this.output.length;
      this.#program.stdin.write(`${command}\n`);
      const text = await this.#program.waitFor(`its answer to "${command}"`, timeoutMs, () => {
        return answerTo(command, this.output.slice(start));
      });
      if (/^(Command not found|Bad arguments|Ambiguous command)/m.test(text)) {
        throw this.#program.error(`it refused "${command}": ${text.trim()}`);
      }
      return text;
    });
    this.#last = answer.catch(() => {});
    return answer;
  }

  /** Waits until its log says what `condition` looks for: it comes by another pipe than its answers. Rejects as {@link command}. */
  async waitForLog(what: string, condition: (log: string) => boolean): Promise<void> {
    await this.#program.waitFor(what, COMMAND_TIMEOUT_MS, () => condition(this.log));
  }

  /** `show port stats all`: an element for each port. The rates are those since the last call. */
  async portStats(): Promise<PortStatistics[]> {
    return parsePortStatistics(await this.command('show port stats all'));
  }

  /** `show fwd stats all`: what was forwarded since `start`, while it runs or after `stop`. */
  async forwardStats(): Promise<ForwardStatistics> {
    return parseForwardStatistics(await this.command('show fwd stats all'));
  }

  /** Kills it (SIGKILL), as a crash would, and cleans up after it. */
  async kill(): Promise<void> {
    this.#program.signal('SIGKILL');
    await this.stop();
  }

  /** Ends it (`quit`, or SIGKILL if that takes long) and cleans up after it. May be called at any time. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    if (this.#program.end === undefined) this.#program.stdin.write('quit\n');
    await this.#program.stop(QUIT_TIMEOUT_MS);
    await fs.rm(`/var/run/dpdk/${this.#prefix}`, { recursive: true, force: true });
    await this.#pages?.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}

/** What testpmd printed between the echo of a command and the next prompt; undefined until that has come. */
export function answerTo(command: string, output: string): string | undefined {
  const echo = `${command}\r\n`;
  const start = output.indexOf(echo);
  if (start < 0) return undefined;
  const rest = output.slice(start + echo.length);
  if (rest.startsWith(PROMPT)) return '';
  const end = rest.indexOf(`\n${PROMPT}`);
  return end < 0 ? undefined : rest.slice(0, end + 1);
}
