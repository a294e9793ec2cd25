/** The child process of test/memory/client-child.ts, started and stopped. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { ClientLayout } from '../memory/client-child.ts';

const CHILD = fileURLToPath(new URL('../memory/client-child.ts', import.meta.url));

export class ClientProcess {
  readonly layout: ClientLayout;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, layout: ClientLayout) {
    this.#child = child;
    this.layout = layout;
  }

  static async start(): Promise<ClientProcess> {
    const child = spawn(process.execPath, [CHILD], { stdio: ['pipe', 'pipe', 'inherit'] });
    const lines = createInterface({ input: child.stdout });
    const line = await Promise.race([
      once(lines, 'line'),
      once(child, 'exit').then(([code]) => {
        throw new Error(`${CHILD} exited with ${code} before it said where its memory is`);
      }),
    ]);
    return new ClientProcess(child, JSON.parse(line[0]));
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exit = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exit;
  }
}
