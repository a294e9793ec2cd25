/**
 * A lane: an engine with its ports, the memory that its rings lie in, and a poll loop on a thread of its own.
 *
 *     breathe ──► moved something ──► breathe …
 *        └──────► nothing for a while: ask every ring for kicks, look once more, sleep in poll(2)
 *
 * Its methods below the loop are its commands: another thread asks, the lane carries them out between two breaths, and
 * the answer crosses back. Arguments and results are plain data. An idle lane sleeps and uses no CPU.
 */
import { drainEventfd } from '../linux/eventfd.ts';
import { POLLIN, PollSet } from '../linux/poll.ts';
import { yieldProcessor } from '../linux/sched.ts';
import { Arena, type ArenaOptions } from '../memory/arena.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import { PackedVirtqueue } from '../vhost/packed-virtqueue.ts';
import type { RingError } from '../vhost/ring-error.ts';
import { SplitVirtqueue } from '../vhost/split-virtqueue.ts';
import type { MemoryTable } from '../vhost/vhost-device.ts';
import { featureNames, hasFeature, VIRTIO_F_RING_PACKED } from '../vhost/virtio.ts';
import type { RingDescription, Virtqueue } from '../vhost/virtqueue.ts';
import { Capture, type CaptureDescription, CaptureScratch, PortTap } from './capture.ts';
import { CardQueue, type CardQueueDescription } from './card-queue.ts';
import type { PortCounters } from './counters.ts';
import { Engine } from './engine.ts';
import { GuestQueue, type Mailbox } from './guest-queue.ts';
import { ImpairmentScratch } from './impaired-queue.ts';
import { LaneLink, linkMemoryBytes, linkRingOffset } from './lane-link.ts';
import { type FdSink, Port } from './port.ts';
import { type ImpairmentChange, PortImpairment } from './port-impairment.ts';
import { SpinWindow } from './spin-window.ts';
import { TapQueue } from './tap-queue.ts';
import { VhostTapQueue } from './vhost-tap-queue.ts';

/** While a frame waits for its receiver the lane looks again after this many ms. */
const HOLD_POLL_MS = 1;
/** A sleeping lane wakes this often (ms) to age learned addresses. */
const IDLE_POLL_MS = 1000;
const NS_PER_MS = 1e6;
/**
 * After so long without work, whoever waits for this processor may well be the one who has it. Not while there is little
 * to do: whoever yields has no claim to be the next, and what comes would wait for somebody else's time slice.
 */
const YIELD_AFTER_MS = 0.005;
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
  /** How long to poll without traffic before sleeping, in ms, at the most: see spin-window.ts. */
  spinMs: number;
  /** eventfd that wakes the lane for commands and mail. */
  wakeFd: number;
  arena?: ArenaOptions;
  /** The lanes of the switch, when there is more than one. */
  peers?: LanePeers;
  /** Milliseconds of a clock that never goes back. */
  now: () => number;
}

/** The lanes of a switch as one of them sees them. */
export interface LanePeers {
  /** Which one it is itself. */
  index: number;
  /** File of linkMemoryBytes bytes. */
  linkMemory: number;
  /** All lanes: the eventfd that wakes each, and counters of what this one sends to it. */
  lanes: { wakeFd: number; counters: PortCounters }[];
}

/** What a lane tells without being asked. */
export type LaneEvent =
  | { event: 'ring-broken'; port: number; queue: number; index: number; error: RingError }
  | { event: 'tap-gone'; port: number }
  | { event: 'tap-broken'; port: number; message: string };

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

/** What a lane has done since it began. */
export interface LaneLoad {
  /** Rounds over all queues, and those of them that moved nothing. */
  breaths: number;
  emptyBreaths: number;
  /** Frames that left the queues they came from. */
  frames: number;
  /** Time spent in breaths that moved something. */
  busyNs: number;
  /** Times that it asked for kicks and slept. */
  sleeps: number;
  /** Why its memory is no wasm memory; empty when it is. */
  arena: string;
}

interface MappedMemory {
  memory: GuestMemory;
  /** Rings that use it. */
  rings: number;
}

export class Lane {
  readonly #arena: Arena;
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
  readonly #load: LaneLoad = { breaths: 0, emptyBreaths: 0, frames: 0, busyNs: 0, sleeps: 0, arena: '' };
  /** Memory table and description of each running ring. */
  readonly #running = new Map<Virtqueue, { table: number; description: RingDescription }>();
  /** By the number that the daemon gave them. */
  readonly #captures = new Map<number, { port: number; capture: Capture }>();
  readonly #taps = new Map<number, PortTap>();
  #captureScratch: CaptureScratch | null = null;
  /** By port; none of the others costs anything. */
  readonly #impairments = new Map<number, PortImpairment>();
  #impairmentScratch: ImpairmentScratch | null = null;
  #stopped = false;

  constructor(options: LaneOptions, emit: (event: LaneEvent) => void) {
    this.#options = options;
    this.#emit = emit;
    this.#arena = Arena.open(options.arena);
    this.#load.arena = this.#arena.reason;
    this.#engine = new Engine(this.#arena, {
      seed: options.seed,
      agingSeconds: options.agingSeconds,
      capacity: options.fdbCapacity,
      maxPerPort: options.fdbPerPort,
    });
    this.#engine.tick(options.now());
    if (options.peers) this.#connect(options.peers);
  }

  #connect({ index, linkMemory, lanes }: LanePeers): void {
    const base = this.#arena.mapFile(linkMemory, linkMemoryBytes(lanes.length));
    for (const [other, { wakeFd, counters }] of lanes.entries()) {
      if (other === index) continue;
      const receiveRing = base + linkRingOffset(lanes.length, other, index);
      const transmitRing = base + linkRingOffset(lanes.length, index, other);
      this.#engine.addLink(new LaneLink({ receiveRing, transmitRing, peer: other, wakeFd }), counters);
    }
  }

  /** Runs until {@link stop}. `runCommands` carries out the commands that wait; it is cheap when there are none. */
  run(runCommands: () => void): void {
    const { now } = this.#options;
    const spin = new SpinWindow(this.#options.spinMs);
    const load = this.#load;
    let time = now();
    let idleSince = time;
    while (!this.#stopped) {
      this.#engine.tick(time);
      const moved = this.#engine.breathe();
      const after = now();
      load.breaths++;
      if (moved > 0) {
        load.frames += moved;
        load.busyNs += (after - time) * NS_PER_MS;
        time = after;
        idleSince = after;
        if ((load.breaths & (COMMAND_INTERVAL - 1)) === 0) {
          runCommands();
          this.#endImpairments();
        }
        continue;
      }
      load.emptyBreaths++;
      time = after;
      runCommands();
      if (this.#stopped || time - idleSince < spin.length) {
        if (spin.hasGrown && time - idleSince > YIELD_AFTER_MS) yieldProcessor();
        continue;
      }
      this.#sleep();
      time = now();
      spin.slept(time - after);
      idleSince = time;
    }
  }

  /** One breath without a loop, for tests. */
  breathe(): number {
    this.#engine.tick(this.#options.now());
    return this.#engine.breathe();
  }

  /** What the lane has done so far. */
  load(): LaneLoad {
    return this.#load;
  }

  #sleep(): void {
    this.#load.sleeps++;
    this.#endImpairments();
    const engine = this.#engine;
    const poll = this.#poll;
    if (!engine.enableNotification()) {
      poll.clear();
      this.#eventfds.clear();
      this.#sink.addEventfd(this.#options.wakeFd);
      engine.addPollFds(this.#sink);
      const longest = engine.holding ? HOLD_POLL_MS : IDLE_POLL_MS;
      if ((this.#impairments.size === 0 ? poll.wait(longest) : poll.waitPrecisely(this.#untilDue(longest))) > 0) {
        for (const index of this.#eventfds) if (poll.revents(index) !== 0) drainEventfd(poll.fd(index));
      }
    }
    engine.disableNotification();
  }

  /** How long it may sleep for frames that are under way on impaired wires, in ms; `longest` at the most. */
  #untilDue(longest: number): number {
    const now = this.#options.now();
    let deadline = now + longest;
    for (const impairment of this.#impairments.values()) deadline = Math.min(deadline, impairment.nextDeadline(now));
    return Math.max(0, deadline - now);
  }

  /** Takes away impairments that have ended, with nothing under way any more. */
  #endImpairments(): void {
    for (const [id, impairment] of this.#impairments) {
      if (!impairment.isIdle) continue;
      impairment.close();
      this.#impairments.delete(id);
      this.#engine.port(id).impairment = null;
      this.#engine.refreshPorts();
    }
  }

  // ---- commands

  stop(): void {
    this.#stopped = true;
    for (const port of [...this.#engine.ports]) this.removePort(port.id);
  }

  addGuestPort(id: number, name: string, counters: PortCounters): void {
    this.#engine.addPort(new Port(id, name, counters));
  }

  /**
   * `fd`: see {@link TapQueue}; `vhostFd`: see {@link VhostTapQueue}, or -1 to read and write the tap instead. Both stay the
   * caller's, who closes them after {@link removePort}. Throws what {@link VhostTapQueue} throws; there is no port then.
   */
  addTapPort(id: number, name: string, counters: PortCounters, fd: number, offloads: number, vhostFd: number): void {
    const port = new Port(id, name, counters);
    port.offloads = offloads;
    const queue = vhostFd < 0 ? new TapQueue(fd) : new VhostTapQueue(fd, vhostFd, this.#arena);
    queue.onGone = () => {
      this.#engine.refreshPorts();
      this.#emit({ event: 'tap-gone', port: id });
    };
    if (queue instanceof VhostTapQueue) {
      queue.onBroken = ({ message }) => {
        this.#engine.refreshPorts();
        this.#emit({ event: 'tap-broken', port: id, message });
      };
    }
    port.queues[0] = queue;
    this.#engine.addPort(port);
  }

  /**
   * Adds queues of a network card as one port: maps their memory and fills their receive rings. The card gets the buffers
   * with {@link startCard}. Other lanes may have more queues of the same port. Throws SystemError; there is no port then.
   */
  addCardPort(
    id: number,
    name: string,
    counters: PortCounters,
    offloads: number,
    descriptions: CardQueueDescription[],
    lanes: { elsewhere: number[]; isFirst: boolean },
  ): void {
    const port = new Port(id, name, counters);
    port.offloads = offloads;
    port.verifies = true;
    port.elsewhere = new Set(lanes.elsewhere);
    port.isFirst = lanes.isFirst;
    try {
      for (const description of descriptions) port.queues.push(new CardQueue(description, this.#arena));
    } catch (error) {
      for (const queue of port.queues) (queue as CardQueue).close();
      throw error;
    }
    this.#engine.addPort(port);
  }

  /** The card's queues are enabled: it gets their receive buffers. */
  startCard(id: number): void {
    for (const queue of this.#engine.port(id).queues) (queue as CardQueue).start();
  }

  /** The card is no longer there: nothing more is written to it. */
  loseCard(id: number): void {
    for (const queue of this.#engine.port(id).queues) (queue as CardQueue).gone = true;
    this.#engine.refreshPorts();
  }

  removePort(id: number): void {
    for (const [number, { port }] of this.#captures) if (port === id) this.stopCapture(number);
    this.#impairments.get(id)?.close();
    this.#impairments.delete(id);
    for (const queue of this.#engine.port(id).queues) {
      if (queue instanceof TapQueue || queue instanceof VhostTapQueue || queue instanceof CardQueue) queue.close();
      else if (queue instanceof GuestQueue) this.#stopRings(queue);
    }
    this.#engine.removePort(id);
  }

  /** A port of another lane has gone, or its link is down. */
  forgetPort(id: number): void {
    this.#engine.forgetPort(id);
  }

  /** TUN_F_… offloads that the client of a port takes. */
  setOffloads(id: number, offloads: number): void {
    const impairment = this.#impairments.get(id);
    if (impairment) impairment.setOffloads(offloads);
    else this.#engine.port(id).offloads = offloads;
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
    const queue = this.#guestQueue(id, index);
    this.#impairments.get(id)?.forget(queue);
    this.#stopRings(queue);
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
    let virtqueue: Virtqueue;
    try {
      const packed = hasFeature(description.features, VIRTIO_F_RING_PACKED);
      virtqueue = packed ? new PackedVirtqueue(memory, description) : new SplitVirtqueue(memory, description);
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

  /** Captures the frames of a port until {@link stopCapture} or its removal. Throws BpfError, SystemError. */
  startCapture(number: number, id: number, description: CaptureDescription): void {
    const port = this.#engine.port(id);
    this.#captureScratch ??= new CaptureScratch(this.#arena);
    const capture = new Capture(description, this.#arena, this.#captureScratch, this.#options.now);
    this.#captures.set(number, { port: id, capture });
    let tap = this.#taps.get(id);
    if (!tap) {
      const made = new PortTap();
      tap = made;
      this.#taps.set(id, made);
      port.tap = (queue) => made.before(queue);
      this.#engine.refreshPorts();
    }
    tap.captures.push(capture);
  }

  /** Ends a capture; nothing happens when it has ended with its port. */
  stopCapture(number: number): void {
    const running = this.#captures.get(number);
    if (!running) return;
    const { port: id, capture } = running;
    this.#captures.delete(number);
    const tap = this.#taps.get(id)!;
    tap.captures.splice(tap.captures.indexOf(capture), 1);
    if (tap.captures.length === 0) {
      this.#taps.delete(id);
      this.#engine.port(id).tap = null;
      this.#engine.refreshPorts();
    }
    capture.close();
  }

  /**
   * Begins, changes or ends the impairment of a port's directions. What is under way in a direction that changes goes on at
   * once, in order. Throws SystemError when there is no memory.
   */
  setImpairment(id: number, change: ImpairmentChange): void {
    const port = this.#engine.port(id);
    let impairment = this.#impairments.get(id);
    if (!impairment) {
      this.#impairmentScratch ??= new ImpairmentScratch(this.#arena);
      const made = new PortImpairment(port, this.#impairmentScratch, this.#options.now);
      impairment = made;
      this.#impairments.set(id, made);
      port.impairment = (queue, inner) => made.before(queue, inner);
      this.#engine.refreshPorts();
    }
    try {
      impairment.change(change);
    } finally {
      this.#endImpairments();
    }
  }

  setAging(seconds: number): void {
    this.#engine.table.setAging(seconds);
  }

  fdb(): FdbEntry[] {
    const entries = [...this.#engine.table.entries(this.#engine.nowSeconds)];
    // Other lanes tell what they know themselves.
    return entries.filter(({ port }) => this.#engine.has(port));
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

  #ringStatus(port: number, queue: number, index: number, ring: Virtqueue): RingStatus {
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
  #dropRing(queue: GuestQueue, index: number, ring: Virtqueue): void {
    queue.setRing(index, null);
    this.#release(this.#running.get(ring)!.table);
    this.#running.delete(ring);
  }

  #acquire(table: MemoryTable): GuestMemory {
    let mapped = this.#mapped.get(table.id);
    if (!mapped) {
      mapped = { memory: new GuestMemory(table, this.#arena), rings: 0 };
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
