/**
 * Software cards for a test: `ringswitch model 82599` in a process of its own, with sockets in a folder of its own.
 *
 *     await using model = await CardModel.start({ cards: 2 });
 *     await using a = await Machine.start({ qemu: 'fetched', netdevs: [vfioUserCard({ socket: model.sockets[0] })] });
 */
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { RINGSWITCH } from './daemon.ts';
import { Program } from './program.ts';

/** What the cards are, and where their cable leads. */
export interface CardModelOptions {
  /** One card, or two that are cabled together. Default 1. */
  cards?: 1 | 2;
  /** The tap that a single card is cabled to. Left out, its cable is loose. */
  tap?: string;
  /** What to open for `tap`, such as a daemon's clone. Default `/dev/net/tun`. */
  tun?: string;
  /** The (first) card's address, such as `02:00:00:00:00:01`. */
  mac?: string;
}

/** What it logs once for each card that can be connected to. */
const SERVED = 'an 82599 with address';
const START_TIMEOUT_MS = 15_000;
const STOP_TIMEOUT_MS = 3_000;

/** A running model. It ends with the process that started it at the latest. */
export class CardModel implements AsyncDisposable {
  /** A socket for each card, which one QEMU at a time may connect to. */
  readonly sockets: string[];
  readonly #directory: string;
  readonly #program: Program;

  /** Starts one; resolves when its sockets can be connected to. Rejects, with what it printed, when it ends or takes too long. */
  static async start(options: CardModelOptions = {}): Promise<CardModel> {
    const { cards = 1, tap, tun, mac } = options;
    const directory = await fs.mkdtemp(path.join(os.tmpdir(), 'ringswitch-model-'));
    const sockets = Array.from({ length: cards }, (_, card) => path.join(directory, `card${card}`));
    const words = sockets.flatMap((socket) => ['--socket', socket]);
    if (tap !== undefined) words.push('--tap', tap);
    if (tun !== undefined) words.push('--tun', tun);
    if (mac !== undefined) words.push('--mac', mac);
    const model = new CardModel(directory, sockets, new Program([RINGSWITCH, 'model', '82599', ...words]));
    try {
      await model.#ready();
    } catch (error) {
      await model.stop();
      throw error;
    }
    return model;
  }

  private constructor(directory: string, sockets: string[], program: Program) {
    this.#directory = directory;
    this.sockets = sockets;
    this.#program = program;
  }

  get pid(): number {
    return this.#program.pid!;
  }

  get running(): boolean {
    return this.#program.end === undefined;
  }

  /** What it logged. */
  get log(): string {
    return this.#program.stderr;
  }

  /** An Error that says `what`, and what the model logged last. */
  error(what: string): Error {
    return this.#program.error(what);
  }

  /** Kills it (SIGKILL), as a crash would, and waits until it is gone. Its sockets stay behind. */
  async kill(): Promise<void> {
    await this.#program.stop();
  }

  /** Ends it (SIGTERM, then SIGKILL) and removes its folder. May be called at any time; never rejects. */
  async stop(): Promise<void> {
    this.#program.signal('SIGTERM');
    await this.#program.stop(STOP_TIMEOUT_MS);
    await fs.rm(this.#directory, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #ready(): Promise<void> {
    const { length } = this.sockets;
    const served = () => this.#program.stderr.split(SERVED).length > length;
    await this.#program.waitFor('its cards are served', START_TIMEOUT_MS, served);
  }
}
