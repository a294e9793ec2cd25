/**
 * The forwarding engine of one lane: a learning Ethernet switch (IEEE 802.1D §7.8) over the lane's ports.
 *
 * One breath takes a batch of frames from every queue, looks each frame up, and hands it on:
 *
 *     queue.receive ──► learn source, look destination up ──► queue.transmit      (known unicast: one copy)
 *           │                                        └──────► every other port    (broadcast, multicast, unknown)
 *     queue.release ◄── frames done with
 *     queue.flush   ◄── at the end of the breath, once
 *
 * A frame for a queue that has no buffers *yet* stays in its sender's ring, and the frames behind it: for HOLD_MS at the
 * most, so that a receiver that is only slow loses nothing. For a queue that has taken nothing for HOLD_MS no frame waits,
 * so that a dead one blocks nobody for long. Flooded frames never wait.
 *
 * Runs on the lane's thread; time is told to it. Hot: allocates nothing per frame.
 */
import { FrameBatch, HEADER_BYTES } from '../memory/frame-batch.ts';
import {
  count,
  RX_BYTES,
  RX_DROP_BAD_OFFLOAD,
  RX_DROP_LINK_DOWN,
  RX_DROP_MALFORMED,
  RX_DROP_OWN_PORT,
  RX_FRAMES,
  TX_BYTES,
  TX_DROP_LINK_DOWN,
  TX_DROP_NO_BUFFERS,
  TX_FRAMES,
} from './counters.ts';
import { flowHash } from './flow-hash.ts';
import { LearningTable, type LearningTableOptions } from './learning-table.ts';
import { OffloadAdapter, requiredOffloads, sanitizeOffloads } from './offload.ts';
import { type FdSink, type Port, type PortQueue, TRANSMITTED } from './port.ts';

/** How long frames may wait in their sender's ring for a receiver without buffers, in ms. */
export const HOLD_MS = 5;
/** Learned addresses looked at for aging, per tick. */
const AGING_BUDGET = 4096;
const NOT_STALLED = -1;
const NOT_HELD = -1;
/** I/G bit of the first byte of a MAC address (IEEE 802 §8.2): group addresses. */
const GROUP_BIT = 0x0100;

interface Source {
  port: Port;
  queue: PortQueue;
  malformed: number;
  /** Since when its next frame waits for a receiver, in ms; NOT_HELD when it does not. */
  heldSince: number;
}

export class Engine {
  readonly table: LearningTable;
  readonly #ports = new Map<number, Port>();
  /** The ports again, by id, for the lookup of a learned address. */
  readonly #byId: (Port | undefined)[] = [];
  #portList: Port[] = [];
  #sources: Source[] = [];
  readonly #batch = new FrameBatch();
  readonly #adapter = new OffloadAdapter();
  readonly #hashSeed: number;
  #nowMs = 0;
  #nowSeconds = 0;
  #holding = false;

  constructor(options: Partial<LearningTableOptions> & { seed: number }) {
    this.table = new LearningTable(options as LearningTableOptions);
    this.#hashSeed = options.seed;
  }

  /** Tells the time, in ms of a clock that never goes back. Ages learned addresses as it passes. */
  tick(nowMs: number): void {
    this.#nowMs = nowMs;
    const seconds = Math.floor(nowMs / 1000);
    if (seconds === this.#nowSeconds) return;
    this.#nowSeconds = seconds;
    this.table.age(seconds, AGING_BUDGET);
  }

  get nowSeconds(): number {
    return this.#nowSeconds;
  }

  /** Whether some frame waits for its receiver: look again soon, kick or not. */
  get holding(): boolean {
    return this.#holding;
  }

  // ---- ports

  addPort(port: Port): void {
    this.#ports.set(port.id, port);
    this.#byId[port.id] = port;
    this.refreshPorts();
  }

  /** Takes a port away with everything learned on it. */
  removePort(id: number): void {
    this.#ports.delete(id);
    this.#byId[id] = undefined;
    this.table.flushPort(id);
    this.refreshPorts();
  }

  port(id: number): Port {
    const port = this.#ports.get(id);
    if (!port) throw new Error(`the lane has no port ${id}`);
    return port;
  }

  get ports(): readonly Port[] {
    return this.#portList;
  }

  /** Notes that ports, or queues of ports, came, went, or became ready or not. */
  refreshPorts(): void {
    this.#portList = [...this.#ports.values()];
    const known = new Map(this.#sources.map((source) => [source.queue, source]));
    this.#sources = [];
    for (const port of this.#portList) {
      port.refreshQueues();
      for (const queue of port.queues) {
        if (!queue) continue;
        this.#sources.push(known.get(queue) ?? { port, queue, malformed: queue.malformed, heldSince: NOT_HELD });
      }
    }
  }

  /** Link up or down by the operator's word. Down: frames from and for the port are dropped and counted. */
  setLink(port: Port, up: boolean): void {
    port.linkUp = up;
    if (!up) this.table.flushPort(port.id);
  }

  // ---- breathing

  /** One round over all queues. Gives the number of frames that left their queues. */
  breathe(): number {
    const batch = this.#batch;
    let moved = 0;
    this.#holding = false;
    for (const source of this.#sources) {
      const { queue, port } = source;
      batch.clear();
      const received = queue.receive(batch);
      if (queue.malformed !== source.malformed) {
        count(port.counters, RX_DROP_MALFORMED, queue.malformed - source.malformed);
        source.malformed = queue.malformed;
        moved++;
      }
      if (received === 0) {
        source.heldSince = NOT_HELD;
        continue;
      }
      const done = this.#forward(source, batch);
      queue.release(done);
      if (done === received) source.heldSince = NOT_HELD;
      else {
        this.#holding = true;
        if (done > 0 || source.heldSince === NOT_HELD) source.heldSince = this.#nowMs;
      }
      moved += done;
    }
    if (moved > 0) for (const { queue } of this.#sources) queue.flush();
    return moved;
  }

  /** Hands the frames of a batch on. Gives how many are done with; fewer than all when one must wait. */
  #forward(source: Source, batch: FrameBatch): number {
    const { counters } = source.port;
    const frames = batch.count;
    let bytes = 0;
    let i = 0;
    for (; i < frames && this.#forwardFrame(source, batch, i); i++) bytes += batch.length[i]!;
    if (i > 0) {
      count(counters, RX_FRAMES, i);
      count(counters, RX_BYTES, bytes);
    }
    return i;
  }

  /** False: the frame shall wait. */
  #forwardFrame(source: Source, batch: FrameBatch, i: number): boolean {
    const from = source.port;
    const { headers } = batch;
    if (!from.linkUp) {
      count(from.counters, RX_DROP_LINK_DOWN, 1);
      return true;
    }
    if ((batch.flags[i]! | batch.gsoType[i]!) !== 0 && !sanitizeOffloads(batch, i)) {
      count(from.counters, RX_DROP_BAD_OFFLOAD, 1);
      return true;
    }
    const at = batch.headerOffset(i);
    const toHigh = (headers[at]! << 8) | headers[at + 1]!;
    const toLow = (headers[at + 2]! << 24) | (headers[at + 3]! << 16) | (headers[at + 4]! << 8) | headers[at + 5]!;
    const fromHigh = (headers[at + 6]! << 8) | headers[at + 7]!;
    const fromLow = (headers[at + 8]! << 24) | (headers[at + 9]! << 16) | (headers[at + 10]! << 8) | headers[at + 11]!;
    this.table.learn(fromHigh, fromLow, from.id, this.#nowSeconds);
    const to = (toHigh & GROUP_BIT) !== 0 ? -1 : this.table.lookup(toHigh, toLow, this.#nowSeconds);
    if (to >= 0 && to !== from.id) return this.#unicast(source, this.#byId[to]!, batch, i);
    if (to === from.id) count(from.counters, RX_DROP_OWN_PORT, 1);
    else this.#flood(from, batch, i);
    return true;
  }

  /** False: the port has no buffers yet, the frame shall wait. */
  #unicast(source: Source, to: Port, batch: FrameBatch, i: number): boolean {
    const result = this.#transmit(to, batch, i);
    if (result === TRANSMITTED) return true;
    if (result === TX_DROP_NO_BUFFERS && this.#mayWait(source, this.#queueFor(to, batch, i)!, i)) return false;
    this.#drop(source.port, to, result);
    return true;
  }

  /** Neither a frame at the head of its ring nor a queue without buffers has used up HOLD_MS. */
  #mayWait(source: Source, queue: PortQueue, i: number): boolean {
    if (queue.stalledSince === NOT_STALLED) queue.stalledSince = this.#nowMs;
    if (this.#nowMs - queue.stalledSince >= HOLD_MS) return false;
    return i > 0 || source.heldSince === NOT_HELD || this.#nowMs - source.heldSince < HOLD_MS;
  }

  /** A lie in the offload fields is the sender's; everything else is the receiver's loss. */
  #drop(from: Port, to: Port, reason: number): void {
    count(reason === RX_DROP_BAD_OFFLOAD ? from.counters : to.counters, reason, 1);
  }

  #flood(from: Port, batch: FrameBatch, i: number): void {
    let lies = false;
    for (const to of this.#portList) {
      if (to === from) continue;
      const result = this.#transmit(to, batch, i);
      if (result === RX_DROP_BAD_OFFLOAD) lies = true;
      else if (result !== TRANSMITTED) this.#drop(from, to, result);
    }
    // One frame, one drop, however many ports found it out.
    if (lies) count(from.counters, RX_DROP_BAD_OFFLOAD, 1);
  }

  /** Offers a frame to a port, with its offloads done in software where the port did not negotiate them. */
  #transmit(to: Port, batch: FrameBatch, i: number): number {
    if (!to.linkUp) return TX_DROP_LINK_DOWN;
    const queue = this.#queueFor(to, batch, i);
    if (queue === undefined) return TX_DROP_LINK_DOWN;
    if ((batch.flags[i]! | batch.gsoType[i]!) !== 0 && (requiredOffloads(batch, i) & ~to.offloads) !== 0) {
      return this.#transmitAdapted(to, queue, batch, i);
    }
    const result = queue.transmit(batch, i);
    if (result === TRANSMITTED) {
      queue.stalledSince = NOT_STALLED;
      count(to.counters, TX_FRAMES, 1);
      count(to.counters, TX_BYTES, batch.length[i]!);
    }
    return result;
  }

  #queueFor(to: Port, batch: FrameBatch, i: number): PortQueue | undefined {
    return to.readyQueues < 2 ? to.queueFor(0) : to.queueFor(this.#hash(batch, i));
  }

  #hash(batch: FrameBatch, i: number): number {
    return flowHash(batch.headers, batch.headerOffset(i), Math.min(batch.length[i]!, HEADER_BYTES), this.#hashSeed);
  }

  /** Once the first segment has found room the others follow or are lost, as on any wire. */
  #transmitAdapted(to: Port, queue: PortQueue, batch: FrameBatch, i: number): number {
    const adapter = this.#adapter;
    if (!adapter.start(batch, i)) return RX_DROP_BAD_OFFLOAD;
    let sent = 0;
    while (adapter.next()) {
      const result = queue.transmit(adapter.batch, 0);
      if (result === TRANSMITTED) {
        sent++;
        queue.stalledSince = NOT_STALLED;
        count(to.counters, TX_FRAMES, 1);
        count(to.counters, TX_BYTES, adapter.batch.length[0]!);
      } else {
        if (sent === 0) return result;
        count(to.counters, result, 1);
      }
    }
    return TRANSMITTED;
  }

  // ---- sleeping

  /** The lane polls again. */
  disableNotification(): void {
    for (const { queue } of this.#sources) queue.disableNotification();
  }

  /** The lane is about to sleep. True: something came meanwhile, breathe instead. */
  enableNotification(): boolean {
    let more = false;
    for (const { queue, heldSince } of this.#sources) {
      // Where no frame waits, buffers are no news: a few that are too few for the last frame would keep the lane awake.
      const stalled = this.#holding && queue.stalledSince !== NOT_STALLED;
      if (queue.enableNotification(heldSince !== NOT_HELD, stalled)) more = true;
    }
    return more;
  }

  addPollFds(sink: FdSink): void {
    for (const { queue } of this.#sources) queue.addPollFds(sink);
  }
}
