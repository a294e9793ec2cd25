/** System calls of another process: one that runs under `ringswitch exec`, waits in a read, is sent signals or dies. */
import { fileURLToPath } from 'node:url';
import { Program } from '../../lab/program.ts';
import { errnoName } from '../../linux/errno.ts';
import { O_NONBLOCK, O_RDWR } from '../../linux/file.ts';
import { IFF_NO_PI, IFF_TAP, ifreq, ifreqName, TUNSETIFF } from '../../linux/if-tun.ts';

const CHILD = fileURLToPath(new URL('remote-calls-child.ts', import.meta.url));
const TIMEOUT_MS = 10_000;

/** Result of a call: a number, or the name of the errno; and the bytes that it brought. */
export interface Answer {
  result: number | string;
  bytes: Buffer;
}

/**
 *     await using client = await RemoteCalls.start(daemon.exec);
 *     const fd = await client.open('/dev/net/tun');
 */
export class RemoteCalls implements AsyncDisposable {
  readonly program: Program;
  #asked = 0;

  /** Starts the process; `launcher` are words before its command. */
  static async start(launcher: string[] = []): Promise<RemoteCalls> {
    const remote = new RemoteCalls(new Program([...launcher, process.execPath, CHILD], { interactive: true }));
    try {
      await remote.#line(0);
    } catch (error) {
      await remote.program.stop();
      throw error;
    }
    return remote;
  }

  private constructor(program: Program) {
    this.program = program;
  }

  async call(name: string, ...args: unknown[]): Promise<Answer> {
    const number = ++this.#asked;
    this.program.stdin.write(`${JSON.stringify([name, ...args])}\n`);
    const { result, bytes } = JSON.parse(await this.#line(number)) as { result: number; bytes: string };
    return { result: result < 0 ? errnoName(-result) : result, bytes: Buffer.from(bytes, 'hex') };
  }

  #line(number: number): Promise<string> {
    return this.program.waitFor(`answer ${number}`, TIMEOUT_MS, () => {
      const lines = this.program.stdout.split('\n');
      return lines.length > number + 1 && lines[number];
    });
  }

  /** A descriptor. Rejects when the file cannot be opened. */
  async open(path: string, flags = O_RDWR | O_NONBLOCK): Promise<number> {
    const { result } = await this.call('open', path, flags);
    if (typeof result === 'string') throw new Error(`open ${path}: ${result}`);
    return result;
  }

  async ioctl(fd: number, request: number, argument: Buffer | number): Promise<Answer> {
    return await this.call('ioctl', fd, request, typeof argument === 'number' ? argument : argument.toString('hex'));
  }

  /** TUNSETIFF: the interface's name. Rejects when it is refused. */
  async attach(fd: number, name: string, flags = IFF_TAP | IFF_NO_PI): Promise<string> {
    const { result, bytes } = await this.ioctl(fd, TUNSETIFF, ifreq(name, flags));
    if (result !== 0) throw new Error(`TUNSETIFF ${name}: ${result}`);
    return ifreqName(bytes);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.program.stop();
  }
}
