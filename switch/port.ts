/**
 * What a port is to the engine: a name, counters, and queues that take and give frames.
 *
 * A queue is one pair of directions: a queue pair of a guest, or a tap. All of it belongs to one lane's thread.
 */
import type { FrameBatch } from '../memory/frame-batch.ts';
import { newCounters, type PortCounters } from './counters.ts';
import { FlowSteering } from './flow-steering.ts';

/** The descriptors that wake a sleeping lane. */
export interface FdSink {
  /** An eventfd, which the lane drains when it wakes. */
  addEventfd(fd: number): void;
  /** Anything else: its owner reads it in the next breath. */
  addReadable(fd: number): void;
}

/** What became of a frame for a queue: 0, or the TX_DROP_… counter that says why not. */
export type TransmitResult = number;
export const TRANSMITTED: TransmitResult = 0;

export interface PortQueue {
  /**
   * Appends frames that came from the port to an empty batch. They stay the queue's until {@link release}, and the
   * batch refers to its memory.
   */
  receive(batch: FrameBatch): number;
  /** The first `count` frames of the last receive are done with; the others come again with the next receive. */
  release(count: number): void;
  /**
   * Hands frames `first` … `end - 1` to the port, in order. Gives how many it took; {@link refusal} says why it took no
   * more: with TX_DROP_NO_BUFFERS the same frame may be tried again later.
   */
  transmit(batch: FrameBatch, first: number, end: number): number;
  /** Why the last {@link transmit} refused a frame; TRANSMITTED when it did not. */
  readonly refusal: TransmitResult;
  /** Makes everything since the last flush visible to the other side. */
  flush(): void;
  /** Wakes the other side where it asked for that, after {@link flush} and a fence. Whoever needs no fence may wake in flush. */
  notify(): void;
  /** Whether frames for the port can go to this queue now. */
  readonly ready: boolean;
  /** Frames that it took from the port and threw away as malformed, ever. */
  readonly malformed: number;
  /** When the queue first had no buffers since it last took a frame, in ms; -1 when it has not run out. The engine's. */
  stalledSince: number;
  /** The lane polls: no wake-ups, please. */
  disableNotification(): void;
  /**
   * The lane is about to sleep: wake it for frames (unless `held`, when they are waiting for somebody else anyway), and
   * for buffers where `stalled`. True: there is something already, look again.
   */
  enableNotification(held: boolean, stalled: boolean): boolean;
  addPollFds(sink: FdSink): void;
}

export class Port {
  readonly id: number;
  readonly name: string;
  readonly counters: PortCounters;
  /** Queues by number; a hole where one was taken away. */
  readonly queues: (PortQueue | undefined)[] = [];
  /** TUN_F_… offloads that frames for this port may carry. */
  offloads = 0;
  linkUp = true;
  /** Whether VIRTIO_NET_HDR_F_DATA_VALID on frames from the port is to be believed: a network card says it, never a guest. */
  verifies = false;
  /** The other lanes that have queues of the same port, by index: of a network card. Empty for all others. */
  elsewhere: ReadonlySet<number> = new Set();
  /** Whether this lane is the first of those: it alone gives the port what a lane without such a queue floods. */
  isFirst = true;
  /** What stands between the engine and a queue of the port while its frames are captured; the same for a queue each time. */
  tap: ((queue: PortQueue) => PortQueue) | null = null;
  /** What stands before that while the port is impaired, told of the queue and of what captures it; the same each time. */
  impairment: ((queue: PortQueue, inner: PortQueue) => PortQueue) | null = null;
  #ready: PortQueue[] = [];
  readonly #steering = new FlowSteering();

  constructor(id: number, name: string, counters: PortCounters = newCounters()) {
    this.id = id;
    this.name = name;
    this.counters = counters;
  }

  /** Notes that queues came, went, or became ready or not. */
  refreshQueues(): void {
    const ready = this.queues.filter((queue): queue is PortQueue => queue?.ready === true);
    this.#ready = ready.map((queue) => this.tapped(queue));
  }

  /** A queue of {@link queues} as the engine has to do with it. */
  tapped(queue: PortQueue): PortQueue {
    const inner = this.tap === null ? queue : this.tap(queue);
    return this.impairment === null ? inner : this.impairment(queue, inner);
  }

  /** How many queues can take frames. */
  get readyQueues(): number {
    return this.#ready.length;
  }

  /** The only queue that can take frames, or the first of several; undefined while there is none. */
  get firstQueue(): PortQueue | undefined {
    return this.#ready[0];
  }

  /** The queue for a flow, by its hash; undefined while there is none. */
  queueFor(hash: number, nowSeconds: number): PortQueue | undefined {
    const ready = this.#ready;
    return ready[this.#steering.queueOf(hash, ready.length, nowSeconds)];
  }

  /** A frame of the flow with this hash came from `queue`: the flow's answers go there too. */
  noteFlow(hash: number, queue: PortQueue, nowSeconds: number): void {
    const index = this.#ready.indexOf(queue);
    if (index >= 0) this.#steering.note(hash, index, nowSeconds);
  }
}
