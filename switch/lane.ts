/**
 * A lane: an engine with its ports, the memory that its rings lie in, and a poll loop on a thread of its own.
 *
 *     breathe ──► moved something ──► breathe …
 *        └──────► nothing for `spinMs`: ask every ring for kicks, look once more, sleep in poll(2)
 *
 * Its methods below the loop are its commands: another thread asks, the lane carries them out between two breaths, and
 * the answer crosses back. Arguments and results are plain data. An idle lane sleeps and uses no CPU.
 */
import { drainEventfd } from '../linux/eventfd.ts';
import { POLLIN, PollSet } from '../linux/poll.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import type { RingError } from '../vhost/ring-error.ts';
import { type RingDescription, SplitVirtqueue } from '../vhost/split-virtqueue.ts';
import type { MemoryTable } from '../vhost/vhost-device.ts';
import { featureNames } from '../vhost/virtio.ts';
import type { PortCounters } from './counters.ts';
import { Engine } from './engine.ts';
import { GuestQueue, type Mailbox } from './guest-queue.ts';
import { type FdSink, Port } from './port.ts';
import { TapQueue } from './tap-queue.ts';

/** While a frame waits for its receiver the lane looks again after this many ms. */
const HOLD_POLL_MS = 1;
/** A sleeping lane wakes this often (ms) to age learned addresses. */
const IDLE_POLL_MS = 1000;
/** Breaths between looks at the commands while there is traffic, a power of two. */
const COMMAND_INTERVAL = 64;

export interface LaneOptions {
  /** Seed of the lane's hashes. */
  seed: number;
  agingSeconds: number;
  /** Learned addresses at the most. */
  fdbCapacity: number;
  /** Learned addresses of one port at the most. */
  fdbPerPort: number;
  /** How long to poll without traffic before sleeping, in ms. */
  spinMs: number;
  /** eventfd that wakes the lane for commands and mail. */
  wakeFd: number;
  /** Milliseconds of a clock that never goes back. */
  now: () => number;
}

/** What a lane tells without being asked. */
export type LaneEvent =
  | { event: 'ring-broken'; port: number; queue: number; index: number; error: RingError }
  | { event: 'tap-gone'; port: number };

export interface RingStatus {
  port: number;
  queue: number;
  /** 0: the guest receives from it; 1: the guest transmits to it. */
  index: number;
  num: number;
  base: number;
  usedIdx: number;
  headerBytes: number;
  features: string[];
  calls: number;
  callsSuppressed: number;
  error: RingError | null;
}

export interface FdbEntry {
  mac: string;
  port: number;
  ageSeconds: number;
}

interface MappedMemory {
  memory: GuestMemory;
  /** Rings that use it. */
  rings: number;
}

export class Lane {
  readonly #engine: Engine;
  readonly #options: LaneOptions;
  readonly #emit: (event: LaneEvent) => void;
  readonly #poll = new PollSet();
  /** Indices in the poll set that are eventfds, to be drained. */
  readonly #eventfds = new Set<number>();
  readonly #sink: FdSink = {
    addEventfd: (fd) => {
      this.#eventfds.add(this.#poll.add(fd, POLLIN));
    },
    addReadable: (fd) => {
      this.#poll.add(fd, POLLIN);
    },
  };
  readonly #mapped = new Map<number, MappedMemory>();
  /** Memory table and description of each running ring. */
  readonly #running = new Map<SplitVirtqueue, { table: number; description: RingDescription }>();
  #stopped = false;

  constructor(options: LaneOptions, emit: (event: LaneEvent) => void) {
    this.#options = options;
    this.#emit = emit;
    this.#engine = new Engine({
      seed: options.seed,
      agingSeconds: options.agingSeconds,
      capacity: options.fdbCapacity,
      maxPerPort: options.fdbPerPort,
    });
    this.#engine.tick(options.now());
  }

  /** Runs until {@link stop}. `runCommands` carries out the commands that wait; it is cheap when there are none. */
  run(runCommands: () => void): void {
    const { now, spinMs } = this.#options;
    let idleSince = now();
    let breaths = 0;
    while (!this.#stopped) {
      const time = now();
      this.#engine.tick(time);
      if (this.#engine.breathe() > 0) {
        idleSince = time;
        if ((++breaths & (COMMAND_INTERVAL - 1)) === 0) runCommands();
        continue;
      }
      runCommands();
      if (this.#stopped || time - idleSince < spinMs) continue;
      this.#sleep();
      idleSince = now();
    }
  }

  /** One breath without a loop, for tests. */
  breathe(): number {
    this.#engine.tick(this.#options.now());
    return this.#engine.breathe();
  }

  #sleep(): void {
    const engine = this.#engine;
    const poll = this.#poll;
    if (!engine.enableNotification()) {
      poll.clear();
      this.#eventfds.clear();
      this.#sink.addEventfd(this.#options.wakeFd);
      engine.addPollFds(this.#sink);
      if (poll.wait(engine.holding ? HOLD_POLL_MS : IDLE_POLL_MS) > 0) {
        for (const index of this.#eventfds) if (poll.revents(index) !== 0) drainEventfd(poll.fd(index));
      }
    }
    engine.disableNotification();
  }

  // ---- commands

  stop(): void {
    this.#stopped = true;
    for (const port of [...this.#engine.ports]) this.removePort(port.id);
  }

  addGuestPort(id: number, name: string, counters: PortCounters): void {
    this.#engine.addPort(new Port(id, name, counters));
  }

  /** `fd`: see {@link TapQueue}; it stays the caller's, who closes it after {@link removePort}. */
  addTapPort(id: number, name: string, counters: PortCounters, fd: number, offloads: number): void {
    const port = new Port(id, name, counters);
    port.offloads = offloads;
    const queue = new TapQueue(fd);
    queue.onGone = () => {
      this.#engine.refreshPorts();
      this.#emit({ event: 'tap-gone', port: id });
    };
    port.queues[0] = queue;
    this.#engine.addPort(port);
  }

  removePort(id: number): void {
    for (const queue of this.#engine.port(id).queues) {
      if (queue instanceof TapQueue) queue.close();
      else if (queue instanceof GuestQueue) this.#stopRings(queue);
    }
    this.#engine.removePort(id);
  }

  /** TUN_F_… offloads that the client of a port takes. */
  setOffloads(id: number, offloads: number): void {
    this.#engine.port(id).offloads = offloads;
  }

  setLink(id: number, up: boolean): void {
    this.#engine.setLink(this.#engine.port(id), up);
  }

  addQueue(id: number, index: number, mailbox: Mailbox): void {
    const queue = new GuestQueue(mailbox);
    queue.onBroken = (ring, error) => this.#emit({ event: 'ring-broken', port: id, queue: index, index: ring, error });
    this.#engine.port(id).queues[index] = queue;
    this.#engine.refreshPorts();
  }

  removeQueue(id: number, index: number): void {
    this.#stopRings(this.#guestQueue(id, index));
    this.#engine.port(id).queues[index] = undefined;
    this.#engine.refreshPorts();
  }

  /** TUNSETQUEUE: a detached queue takes no frames. */
  attachQueue(id: number, index: number, attached: boolean): void {
    this.#guestQueue(id, index).attached = attached;
    this.#engine.refreshPorts();
  }

  /** Starts ring `ring` (0 receive, 1 transmit) of a queue. Throws RingUnmappedError. */
  startRing(id: number, index: number, ring: number, table: MemoryTable, description: RingDescription): void {
    const queue = this.#guestQueue(id, index);
    const memory = this.#acquire(table);
    let virtqueue: SplitVirtqueue;
    try {
      virtqueue = new SplitVirtqueue(memory, description);
    } catch (error) {
      this.#release(table.id);
      throw error;
    }
    this.#running.set(virtqueue, { table: table.id, description });
    queue.setRing(ring, virtqueue);
  }

  /** Stops a ring; gives its base. Nothing touches its memory after that. */
  stopRing(id: number, index: number, ring: number): number {
    const queue = this.#guestQueue(id, index);
    const virtqueue = queue.ring(ring);
    if (!virtqueue) throw new Error(`ring ${ring} of queue ${index} of port ${id} does not run`);
    virtqueue.flush();
    this.#dropRing(queue, ring, virtqueue);
    return virtqueue.base;
  }

  ringBase(id: number, index: number, ring: number): number {
    const queue = this.#guestQueue(id, index);
    return queue.ring(ring)?.base ?? 0;
  }

  /** Goes over to another memory table with all running rings of a queue, or with none (RingUnmappedError). */
  setMemory(id: number, index: number, table: MemoryTable): void {
    const queue = this.#guestQueue(id, index);
    const rings = [queue.rx, queue.tx].filter((ring) => ring !== null);
    for (const [done, ring] of rings.entries()) {
      const memory = this.#acquire(table);
      try {
        ring.remap(memory);
      } catch (error) {
        this.#release(table.id);
        for (const back of rings.slice(0, done)) {
          back.remap(this.#mapped.get(this.#running.get(back)!.table)!.memory);
          this.#release(table.id);
        }
        throw error;
      }
    }
    for (const ring of rings) {
      const state = this.#running.get(ring)!;
      this.#release(state.table);
      state.table = table.id;
    }
  }

  /** Exchanges the eventfds of a running ring. */
  setRingFds(id: number, index: number, ring: number, fds: { kick: number; call: number; err: number }): void {
    const queue = this.#guestQueue(id, index);
    const virtqueue = queue.ring(ring);
    if (!virtqueue) return;
    virtqueue.kick = fds.kick;
    virtqueue.call = fds.call;
    virtqueue.err = fds.err;
  }

  setAging(seconds: number): void {
    this.#engine.table.setAging(seconds);
  }

  fdb(): FdbEntry[] {
    return [...this.#engine.table.entries(this.#engine.nowSeconds)];
  }

  rings(): RingStatus[] {
    const rings: RingStatus[] = [];
    for (const port of this.#engine.ports) {
      for (const [index, queue] of port.queues.entries()) {
        if (!(queue instanceof GuestQueue)) continue;
        for (const [ring, virtqueue] of [queue.rx, queue.tx].entries()) {
          if (virtqueue) rings.push(this.#ringStatus(port.id, index, ring, virtqueue));
        }
      }
    }
    return rings;
  }

  #ringStatus(port: number, queue: number, index: number, ring: SplitVirtqueue): RingStatus {
    const { num, base, usedIdx, headerBytes, calls, callsSuppressed, error } = ring;
    const features = featureNames(this.#running.get(ring)!.description.features);
    return { port, queue, index, num, base, usedIdx, headerBytes, features, calls, callsSuppressed, error };
  }

  /** Mapped memory tables: their id, bytes, and how many rings use them. */
  memory(): { table: number; mappedBytes: number; rings: number }[] {
    return [...this.#mapped].map(([table, { memory, rings }]) => ({ table, mappedBytes: memory.mappedBytes, rings }));
  }

  // ---- parts

  #guestQueue(id: number, index: number): GuestQueue {
    const queue = this.#engine.port(id).queues[index];
    if (!(queue instanceof GuestQueue)) throw new Error(`port ${id} has no guest queue ${index}`);
    return queue;
  }

  #stopRings(queue: GuestQueue): void {
    for (const [index, ring] of [queue.rx, queue.tx].entries()) {
      if (ring) this.#dropRing(queue, index, ring);
    }
  }

  /** Takes a ring out of its queue, and lets go of its memory. */
  #dropRing(queue: GuestQueue, index: number, ring: SplitVirtqueue): void {
    queue.setRing(index, null);
    this.#release(this.#running.get(ring)!.table);
    this.#running.delete(ring);
  }

  #acquire(table: MemoryTable): GuestMemory {
    let mapped = this.#mapped.get(table.id);
    if (!mapped) {
      mapped = { memory: new GuestMemory(table), rings: 0 };
      this.#mapped.set(table.id, mapped);
    }
    mapped.rings++;
    return mapped.memory;
  }

  #release(table: number): void {
    const mapped = this.#mapped.get(table)!;
    if (--mapped.rings > 0) return;
    this.#mapped.delete(table);
    mapped.memory.unmap();
  }
}

/** The commands of a lane, as another thread may ask for them. */
export type LaneCommand = Exclude<keyof Lane, 'run' | 'breathe'>;
