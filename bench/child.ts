/** A process of a benchmark's own that does tasks: it answers each message with `{ result }` or `{ error }`. */
import { type ChildProcess, fork } from 'node:child_process';

interface Answer {
  result?: unknown;
  error?: string;
}

export class Child implements Disposable {
  readonly #process: ChildProcess;
  #waiting: { resolve: (result: unknown) => void; reject: (error: Error) => void } | null = null;

  /** Starts `file`; resolves with its first answer. */
  static async start(file: URL, words: string[]): Promise<Child> {
    const child = new Child(file, words);
    await child.#answer();
    return child;
  }

  private constructor(file: URL, words: string[]) {
    this.#process = fork(file, words, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    this.#process.on('message', ({ result, error }: Answer) => {
      if (error === undefined) this.#waiting?.resolve(result);
      else this.#waiting?.reject(new Error(error));
    });
    this.#process.on('exit', () => this.#waiting?.reject(new Error(`${file.pathname} has ended: see above`)));
  }

  #answer(): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
  }

  /** One task at a time. Rejects with what went wrong there. */
  async ask<Result>(task: object): Promise<Result> {
    const answer = this.#answer();
    this.#process.send(task);
    return (await answer) as Result;
  }

  [Symbol.dispose](): void {
    this.#process.kill('SIGKILL');
  }
}
