/**
 * The impairment of one port on one lane: a wire for each direction, shared by the port's queues, while there is one.
 *
 *     setImpairment ──► impaired ──► cleared: what is under way goes out ──► idle: the lane takes it away
 *
 * A port without it has its queues themselves in the engine, and costs nothing.
 */
import { ImpairedQueue, type ImpairedWires, type ImpairmentScratch } from './impaired-queue.ts';
import { IMPAIRED_DIRECTIONS, type ImpairedDirection, type Impairment, ImpairmentDecisions } from './impairment.ts';
import type { Port, PortQueue } from './port.ts';
import { WireTime } from './wire-time.ts';

/** What a lane is told of one direction. */
export interface ImpairedDirectionDescription {
  impairment: Impairment;
  /** Tells apart what shares a seed. */
  stream: number;
  /** {@link WireTime}'s, shared by the port's lanes. */
  wire: SharedArrayBuffer;
}

/** What changes: null ends the impairment of a direction. */
export type ImpairmentChange = { [Direction in ImpairedDirection]?: ImpairedDirectionDescription | null };

export class PortImpairment implements ImpairedWires {
  readonly port: Port;
  readonly scratch: ImpairmentScratch;
  readonly now: () => number;
  to: ImpairmentDecisions | null = null;
  from: ImpairmentDecisions | null = null;
  /** What the client of the port takes; the port itself has none while a wire leads to it. */
  #offloads: number;
  /** By the queue of the port that each stands before. */
  readonly #queues = new Map<PortQueue, ImpairedQueue>();

  constructor(port: Port, scratch: ImpairmentScratch, now: () => number) {
    this.port = port;
    this.scratch = scratch;
    this.now = now;
    this.#offloads = port.offloads;
  }

  /** What stands before a queue of the port, and before what captures its frames: the same each time. */
  before(queue: PortQueue, inner: PortQueue): PortQueue {
    let impaired = this.#queues.get(queue);
    if (!impaired) {
      impaired = new ImpairedQueue(inner, this);
      for (const direction of IMPAIRED_DIRECTIONS) impaired.renew(direction);
      this.#queues.set(queue, impaired);
    }
    impaired.inner = inner;
    return impaired;
  }

  /** Begins, changes or ends the impairment of a direction, or of both. Throws SystemError when there is no memory. */
  change(change: ImpairmentChange): void {
    for (const direction of IMPAIRED_DIRECTIONS) {
      const description = change[direction];
      if (description === undefined) continue;
      const before = this[direction];
      this[direction] = description && decisionsOf(description);
      try {
        for (const queue of this.#queues.values()) queue.renew(direction);
      } catch (error) {
        // Each queue has the line it had, or a new one of whatever size: either serves.
        this[direction] = before;
        throw error;
      }
    }
    this.#applyOffloads();
  }

  /** The client takes other offloads. */
  setOffloads(offloads: number): void {
    this.#offloads = offloads;
    this.#applyOffloads();
  }

  #applyOffloads(): void {
    this.port.offloads = this.to === null ? this.#offloads : 0;
  }

  /** Whether nothing is impaired, and nothing under way any more. */
  get isIdle(): boolean {
    return this.to === null && this.from === null && [...this.#queues.values()].every((queue) => queue.isThrough);
  }

  /** When it next has something to do, in ms; Infinity when it has not. */
  nextDeadline(nowMs: number): number {
    let deadline = Number.POSITIVE_INFINITY;
    for (const queue of this.#queues.values()) deadline = Math.min(deadline, queue.nextDeadline(nowMs));
    return deadline;
  }

  /** A queue of the port goes; what is under way to it and from it is lost. */
  forget(queue: PortQueue): void {
    this.#queues.get(queue)?.close();
    this.#queues.delete(queue);
  }

  /** The port goes. */
  close(): void {
    for (const queue of [...this.#queues.keys()]) this.forget(queue);
  }
}

function decisionsOf({ impairment, stream, wire }: ImpairedDirectionDescription): ImpairmentDecisions {
  return new ImpairmentDecisions(impairment, stream, new WireTime(wire));
}
