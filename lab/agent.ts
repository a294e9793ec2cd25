/**
 * The host's end of `lab/guest/agent`: runs shell commands in a guest, any number at a time.
 *
 * The two talk in lines over a virtio-serial port; a command and its output travel in base64:
 *
 *     guest  ready BOOT_ID               after each boot
 *     host   run ID BASE64
 *     guest  done ID STATUS BASE64 .     the full stop tells a whole line from one that a reset cut
 *     host   kill ID
 */
import type { Duplex } from 'node:stream';
import { tail } from './words.ts';

/** How a command in a guest ended. */
export interface CommandResult {
  /** Exit status as a shell tells it: 128 + N after signal N. */
  status: number;
  /** What it printed on standard output and standard error, as it came. */
  output: string;
}

/** How long a killed command may take to report, in milliseconds. */
const KILL_GRACE_MS = 2000;

interface Pending {
  command: string;
  timer: NodeJS.Timeout;
  /** Set once the command was killed for its slowness. */
  overdue: boolean;
  timeoutMs: number;
  resolve(result: CommandResult): void;
  reject(error: Error): void;
}

/** One guest's agent, across its reboots. */
export class Agent {
  readonly #stream: Duplex;
  readonly #pending = new Map<number, Pending>();
  #boots: PromiseWithResolvers<string>[] = [];
  #lastId = 0;
  #partial: string[] = [];
  #failure: Error | undefined;

  constructor(stream: Duplex) {
    this.#stream = stream;
    stream.setEncoding('latin1');
    stream.on('data', (text: string) => this.#receive(text));
    // A guest that is killed resets the connection. Its machine says so better, through fail().
    stream.on('error', () => {});
  }

  /** Resolves with the kernel's boot id when the guest says, from now on, that it is up. Rejects after fail(). */
  nextBoot(): Promise<string> {
    if (this.#failure) return Promise.reject(this.#failure);
    const boot = Promise.withResolvers<string>();
    this.#boots.push(boot);
    return boot.promise;
  }

  /**
   * Runs a shell script in the guest and resolves with its end, whatever its status.
   *
   * Rejects when it is not done in `timeoutMs` (it is then killed with its children, and the message ends with what it
   * had printed), when the guest is reset meanwhile, and after fail().
   */
  run(command: string, timeoutMs: number): Promise<CommandResult> {
    if (this.#failure) return Promise.reject(this.#failure);
    const id = ++this.#lastId;
    const { promise, resolve, reject } = Promise.withResolvers<CommandResult>();
    const timer = setTimeout(() => this.#kill(id), timeoutMs);
    this.#pending.set(id, { command, timer, overdue: false, timeoutMs, resolve, reject });
    this.#stream.write(`run ${id} ${Buffer.from(command).toString('base64')}\n`);
    return promise;
  }

  /** The machine is gone: everything that waits for it, and whatever is asked later, rejects with `error`. */
  fail(error: Error): void {
    this.#failure ??= error;
    for (const boot of this.#boots.splice(0)) boot.reject(error);
    for (const [id, pending] of this.#pending) this.#settle(id).reject(this.#during(pending, error.message));
  }

  #kill(id: number): void {
    const pending = this.#pending.get(id)!;
    pending.overdue = true;
    pending.timer = setTimeout(() => {
      this.#settle(id).reject(this.#during(pending, `not done in ${pending.timeoutMs} ms, and cannot be killed.`));
    }, KILL_GRACE_MS);
    this.#stream.write(`kill ${id}\n`);
  }

  #receive(text: string): void {
    const lines = text.split('\n');
    this.#partial.push(lines[0]!);
    if (lines.length === 1) return;
    lines[0] = this.#partial.join('');
    this.#partial = [lines.pop()!];
    for (const line of lines) this.#line(line);
  }

  #line(line: string): void {
    const [word, id, status, output, end] = line.split(' ');
    if (word === 'ready' && id !== undefined) {
      for (const [lost, pending] of this.#pending) {
        this.#settle(lost).reject(this.#during(pending, 'the guest was reset.'));
      }
      for (const boot of this.#boots.splice(0)) boot.resolve(id);
    } else if (word === 'done' && end === '.' && this.#pending.has(Number(id))) {
      const pending = this.#settle(Number(id));
      const result = { status: Number(status), output: Buffer.from(output!, 'base64').toString() };
      if (!pending.overdue) pending.resolve(result);
      else
        pending.reject(
          this.#during(pending, `not done in ${pending.timeoutMs} ms. It printed:\n${tail(result.output)}`),
        );
    }
  }

  #settle(id: number): Pending {
    const pending = this.#pending.get(id)!;
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    return pending;
  }

  #during(pending: Pending, what: string): Error {
    return new Error(`In the guest, \`${pending.command}\`: ${what}`);
  }
}
