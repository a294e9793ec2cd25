/** The main thread's side of a lane: starts it, asks it, hears from it, stops it. */
import { EventEmitter } from 'node:events';
import { Worker } from 'node:worker_threads';
import { signalEventfd } from '../linux/eventfd.ts';
import type { Lane, LaneCommand, LaneEvent } from '../switch/lane.ts';
import { RingUnmappedError } from '../vhost/virtqueue.ts';
import type { LaneClientOptions, LaneReply, LaneWorkerData } from './lane-messages.ts';

export type LaneArguments<C extends LaneCommand> = Parameters<Lane[C]>;
export type LaneAnswer<C extends LaneCommand> = ReturnType<Lane[C]>;

interface Waiting {
  resolve(result: never): void;
  reject(error: Error): void;
}

/** Emits `event` with each {@link LaneEvent}, and `died` with an Error when the lane's thread fails. */
export class LaneClient extends EventEmitter<{ event: [LaneEvent]; died: [Error] }> {
  readonly #worker: Worker;
  readonly #pending = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  readonly #wakeFd: number;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  readonly #exited: Promise<void>;
  #alive = true;

  /** `wakeFd` stays the caller's: other lanes signal it too, so it is closed when all have stopped. */
  constructor(options: LaneClientOptions) {
    super();
    this.#wakeFd = options.wakeFd;
    const workerData: LaneWorkerData = { ...options, pending: this.#pending };
    this.#worker = new Worker(new URL('./lane-worker.ts', import.meta.url), { workerData });
    this.#worker.on('message', (message: LaneReply | LaneEvent) => this.#hear(message));
    let failure: Error | undefined;
    this.#worker.on('error', (error) => {
      failure = error as Error;
      this.emit('died', failure);
    });
    this.#exited = new Promise((resolve) => {
      this.#worker.on('exit', () => {
        this.#alive = false;
        for (const { reject } of this.#waiting.values()) reject(failure ?? new Error('the lane has stopped'));
        this.#waiting.clear();
        resolve();
      });
    });
  }

  /** Whether its thread runs. */
  get alive(): boolean {
    return this.#alive;
  }

  /** Asks the lane to carry out a command between two breaths; resolves with its answer. */
  call<C extends LaneCommand>(command: C, ...args: LaneArguments<C>): Promise<LaneAnswer<C>> {
    if (!this.#alive) return Promise.reject(new Error(`${command}: the lane has stopped`));
    const id = this.#nextId++;
    const answer = new Promise<LaneAnswer<C>>((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    this.#worker.postMessage({ id, command, args });
    Atomics.store(this.#pending, 0, 1);
    this.wake();
    return answer;
  }

  /** Ends the lane's sleep: mail has come for a port. */
  wake(): void {
    signalEventfd(this.#wakeFd);
  }

  /** Stops all rings and the thread; one that has failed is no trouble. */
  async stop(): Promise<void> {
    if (this.#alive) {
      await this.call('stop').catch((error) => {
        if (this.#alive) throw error;
      });
    }
    await this.#exited;
  }

  #hear(message: LaneReply | LaneEvent): void {
    if ('event' in message) {
      this.emit('event', message);
      return;
    }
    const waiting = this.#waiting.get(message.id);
    this.#waiting.delete(message.id);
    if (!('error' in message)) waiting?.resolve(message.result as never);
    else {
      const { name, message: text } = message.error;
      waiting?.reject(name === 'RingUnmappedError' ? new RingUnmappedError(text) : new Error(text));
    }
  }
}
