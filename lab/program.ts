/** A program that a test starts, listens to, and leaves nothing of. */
import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import type { Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { tail } from './words.ts';

/** What a program is started with. */
export interface ProgramOptions {
  /** More variables for its environment. */
  env?: Record<string, string>;
  cwd?: string;
  /** Whether `stdin` can be written. Otherwise it reads as ended. Default false. */
  interactive?: boolean;
  /** Descriptors to pass: the first is 3 there, and so on. */
  stdio?: (number | 'ignore')[];
}

/** How long output may be held open, by whoever inherited it, after the program itself has ended. In milliseconds. */
const OUTPUT_GRACE_MS = 500;

const alive = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of alive) child.kill('SIGKILL');
});

/** A running program. It is killed at the exit of this process at the latest. */
export class Program implements AsyncDisposable {
  /** Resolves, with how it ended, once it is gone and what it wrote was read. Never rejects. */
  readonly ended: Promise<string>;
  readonly #command: string[];
  readonly #child: ChildProcess;
  readonly #stdout: string[] = [];
  readonly #stderr: string[] = [];
  readonly #listeners = new Set<() => void>();
  #end: string | undefined;

  constructor(command: string[], options: ProgramOptions = {}) {
    this.#command = command;
    const stdio: StdioOptions = [options.interactive ? 'pipe' : 'ignore', 'pipe', 'pipe', ...(options.stdio ?? [])];
    const child = spawn(command[0]!, command.slice(1), {
      stdio,
      cwd: options.cwd,
      env: { ...process.env, ...options.env },
    });
    this.#child = child;
    alive.add(child);
    child.stdout!.setEncoding('utf8').on('data', (text: string) => this.#collect(this.#stdout, text));
    child.stderr!.setEncoding('utf8').on('data', (text: string) => this.#collect(this.#stderr, text));
    // Writing to a program that has just ended is no error of its own: `ended` tells.
    child.stdin?.on('error', () => {});
    const { promise, resolve } = Promise.withResolvers<string>();
    this.ended = promise;
    const finish = (end: string) => {
      alive.delete(child);
      this.#end ??= end;
      for (const listener of this.#listeners) listener();
      resolve(this.#end);
    };
    child.on('error', (error) => {
      if (child.pid === undefined)
        finish(`could not be started (${error.message}); scripts/setup installs what is missing`);
    });
    child.on('exit', async (code, signal) => {
      alive.delete(child);
      const closed = new Promise((done) => child.once('close', done));
      await Promise.race([closed, delay(OUTPUT_GRACE_MS)]);
      child.stdout!.destroy();
      child.stderr!.destroy();
      finish(signal ? `was ended by ${signal}` : `exited with status ${code}`);
    });
  }

  /** Undefined when it could not be started. */
  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** How it ended; undefined as long as it runs. */
  get end(): string | undefined {
    return this.#end;
  }

  /** All of standard output so far. */
  get stdout(): string {
    return join(this.#stdout);
  }

  /** All of standard error so far. */
  get stderr(): string {
    return join(this.#stderr);
  }

  /** Standard input of an interactive program. */
  get stdin(): Writable {
    if (!this.#child.stdin) throw new Error(`${this.#command[0]} was not started as an interactive program.`);
    return this.#child.stdin;
  }

  /**
   * Waits until `condition` gives something else than undefined or false; asked at each output.
   *
   * Rejects when the program ends before, and after `timeoutMs`. The message says that it waited for `what`.
   */
  async waitFor<T>(what: string, timeoutMs: number, condition: () => T | undefined | false): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const look = () => {
      const found = condition();
      if (found !== undefined && found !== false) resolve(found);
      else if (this.#end !== undefined) reject(this.error(`${this.#end} before ${what}.`));
    };
    const timer = setTimeout(() => reject(this.error(`${what} did not come in ${timeoutMs} ms.`)), timeoutMs);
    this.#listeners.add(look);
    look();
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#listeners.delete(look);
    }
  }

  /** An Error about this program: its command, `what`, and what it printed last. */
  error(what: string): Error {
    return new Error(
      `${this.#command.join(' ')}: ${what}\n-- stdout\n${tail(this.stdout)}\n-- stderr\n${tail(this.stderr)}`,
    );
  }

  /** Sends a signal; nothing happens when it is gone. */
  signal(signal: NodeJS.Signals): void {
    if (this.#end === undefined) this.#child.kill(signal);
  }

  /** Waits up to `timeoutMs` for its end, then kills it; resolves when it is gone. Never rejects. */
  async stop(timeoutMs = 0): Promise<void> {
    const timer = setTimeout(() => this.signal('SIGKILL'), timeoutMs);
    await this.ended;
    clearTimeout(timer);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  #collect(texts: string[], text: string): void {
    texts.push(text);
    for (const listener of this.#listeners) listener();
  }
}

/** The pieces as one text, kept as one, so that asking often costs little. */
function join(texts: string[]): string {
  if (texts.length > 1) texts.splice(0, texts.length, texts.join(''));
  return texts[0] ?? '';
}

/**
 * Runs a program to its end and gives its standard output. Rejects, with what it printed, unless it exits with 0, and
 * when that takes more than `timeoutMs` (default 30 seconds).
 */
export async function run(command: string[], options: ProgramOptions & { timeoutMs?: number } = {}): Promise<string> {
  const { timeoutMs = 30_000 } = options;
  await using program = new Program(command, options);
  await program.waitFor('its end', timeoutMs, () => program.end);
  if (program.end !== 'exited with status 0') throw program.error(`${program.end}.`);
  return program.stdout;
}
