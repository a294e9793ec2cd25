/**
 * The forwarding engine of one lane: a learning Ethernet switch (IEEE 802.1D §7.8) over the lane's ports.
 *
 * One breath takes a batch of frames from every queue, looks each frame up, and hands it on:
 *
 *     queue.receive ──► learn source, look destination up ──► queue.transmit      (known unicast: one copy)
 *           │                                        └──────► every other port    (broadcast, multicast, unknown)
 *     queue.release ◄── frames done with
 *     queue.flush   ◄── at the end of the breath, once; then a fence for all of them, and queue.notify
 *
 * A frame for a queue that has no buffers *yet* stays in its sender's ring, and the frames behind it: for HOLD_MS at the
 * most, so that a receiver that is only slow loses nothing. For a queue that has taken nothing for HOLD_MS no frame waits,
 * so that a dead one blocks nobody for long. Flooded frames never wait. In a link, frames of all the other lane's ports
 * stand behind the one that waits: there they do so for HOLD_MS together, and again only when LINK_DRAIN_BYTES have passed.
 *
 * Runs on the lane's thread; time is told to it. Hot: allocates nothing per frame.
 */
import { TUN_F_CSUM } from '../linux/if-tun.ts';
import type { Arena } from '../memory/arena.ts';
import { fullFence } from '../memory/fence.ts';
import {
  ADDRESS_WORDS,
  BATCH_FRAMES,
  FROM_HIGH,
  FROM_LOW,
  FrameBatch,
  HEADER_BYTES,
  TO_HIGH,
  TO_LOW,
} from '../memory/frame-batch.ts';
import { VIRTIO_NET_HDR_F_DATA_VALID } from '../vhost/virtio.ts';
import {
  count,
  type PortCounters,
  RX_BYTES,
  RX_DROP_BAD_OFFLOAD,
  RX_DROP_LINK_DOWN,
  RX_DROP_MALFORMED,
  RX_DROP_OWN_PORT,
  RX_FRAMES,
  TX_BYTES,
  TX_DROP_IMPAIRED,
  TX_DROP_IMPAIRED_QUEUE,
  TX_DROP_LINK_DOWN,
  TX_DROP_NO_BUFFERS,
  TX_FRAMES,
} from './counters.ts';
import { flowHash } from './flow-hash.ts';
import { type LaneLink, TO_ALL } from './lane-link.ts';
import { LEARNED, LearningTable, type LearningTableOptions, MOVED } from './learning-table.ts';
import { OffloadAdapter, requiredOffloads, sanitizeOffloads } from './offload.ts';
import { type FdSink, Port, type PortQueue, TRANSMITTED } from './port.ts';

/** How long frames may wait in their sender's ring for a receiver without buffers, in ms. */
export const HOLD_MS = 5;
/** What must pass a link for its frames to wait once more: an eighth of its ring, so 5 ms waits do not add up for long. */
const LINK_DRAIN_BYTES = 1 << 17;
/** Learned addresses looked at for aging, per tick. */
const AGING_BUDGET = 4096;
const NOT_STALLED = -1;
const NOT_HELD = -1;
/** No port has this id: it stands for the ports of another lane. */
const LINK_PORT = 0;
/** How often a lane tells the others what it knows, within the time in which it ages. */
const ANNOUNCEMENTS_PER_AGE = 4;
/** I/G bit of the first byte of a MAC address (IEEE 802 §8.2): group addresses. */
const GROUP_BIT = 0x0100;

// Where a frame goes when it is not to one port.
const FLOOD = -1;
const OWN_PORT = -2;
const LINK_DOWN = -3;
const BAD_OFFLOAD = -4;

interface Source {
  /** Where its frames come from; a link's frames know better. */
  port: Port;
  queue: PortQueue;
  /** The queue, when it is the link to another lane. */
  link: LaneLink | null;
  malformed: number;
  /** Since when its next frame, or in a link some frame, waits for a receiver, in ms; NOT_HELD when none does. */
  heldSince: number;
  /** Bytes that have left a link since its frames began to wait. */
  drained: number;
}

export class Engine {
  readonly table: LearningTable;
  readonly #ports = new Map<number, Port>();
  /** The ports again, by id, for the lookup of a learned address; for a port of another lane, the link's. */
  readonly #byId: (Port | undefined)[] = [];
  #portList: Port[] = [];
  /** The other lanes; each stands as a port of its own, with the link as its only queue. */
  readonly #links: { link: LaneLink; port: Port }[] = [];
  #sources: Source[] = [];
  readonly #batch: FrameBatch;
  readonly #adapter: OffloadAdapter;
  readonly #hashSeed: number;
  #nowMs = 0;
  #nowSeconds = 0;
  #announcedSeconds = 0;
  #holding = false;

  constructor(arena: Arena, options: Partial<LearningTableOptions> & { seed: number }) {
    this.#batch = new FrameBatch(arena);
    this.#adapter = new OffloadAdapter(arena);
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
    const sinceAnnounced = seconds - this.#announcedSeconds;
    if (sinceAnnounced < this.table.agingSeconds / ANNOUNCEMENTS_PER_AGE) return;
    this.#announcedSeconds = seconds;
    this.#announceHeard(sinceAnnounced);
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
    // What came late from a port of another lane that had this id.
    this.table.flushPort(port.id);
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

  /** Whether the port is one of this lane. */
  has(id: number): boolean {
    return this.#ports.has(id);
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
        const tapped = port.tapped(queue);
        this.#sources.push(known.get(tapped) ?? newSource(port, tapped, null));
      }
    }
    for (const { link, port } of this.#links) this.#sources.push(known.get(link) ?? newSource(port, link, link));
  }

  /** Adds the way to another lane; `counters` hold what goes over it, and what is lost where it is full. */
  addLink(link: LaneLink, counters: PortCounters): void {
    const port = new Port(LINK_PORT, 'link', counters);
    port.queues[0] = link;
    // Whatever a frame needs is done where its port is known.
    port.offloads = -1;
    port.refreshQueues();
    this.#links.push({ link, port });
    link.onAnnouncement = (high, low, from) => this.#learnRemote(port, high, low, from);
    this.refreshPorts();
  }

  #learnRemote(link: Port, high: number, low: number, port: number): void {
    // A port of several lanes is this lane's, too, whichever of them hears of a station there.
    if (!this.#ports.has(port)) this.#byId[port] = link;
    else if (this.#ports.get(port)!.elsewhere.size === 0) return;
    this.table.learn(high, low, port, this.#nowSeconds);
  }

  /** A port of another lane has gone, or its link is down: forgets what was learned of it. */
  forgetPort(id: number): void {
    this.#byId[id] = undefined;
    this.table.flushPort(id);
  }

  /** Tells the other lanes what this lane has heard of so lately from ports of its own, so that it does not age there. */
  #announceHeard(withinSeconds: number): void {
    if (this.#links.length === 0) return;
    this.table.forEach(this.#nowSeconds, (high, low, port, ageSeconds) => {
      if (ageSeconds <= withinSeconds && this.#ports.has(port)) this.#announce(high, low, port);
    });
    for (const { link } of this.#links) link.flush();
  }

  #announce(high: number, low: number, port: number): void {
    for (const { link } of this.#links) link.announce(high, low, port);
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
      if (port.readyQueues > 1) this.#noteFlows(port, queue, batch);
      const done = this.#forward(source, batch);
      queue.release(done);
      const bytes = batch.bytesOf(0, done);
      if (done > 0) {
        count(port.counters, RX_FRAMES, done);
        count(port.counters, RX_BYTES, bytes);
      }
      if (done < received) this.#holding = true;
      if (source.link === null) this.#noteHeld(source, received, done);
      else this.#noteLinkHeld(source, received, done, bytes);
      moved += done;
    }
    if (moved > 0) this.#flush();
    return moved;
  }

  /** A fence waits for lines of other processors: one for all rings waits for all of them at once. */
  #flush(): void {
    for (const { queue } of this.#sources) queue.flush();
    fullFence();
    for (const { queue } of this.#sources) queue.notify();
  }

  /** Each frame that comes to stand first may wait anew: only its own sender's frames stand behind it. */
  #noteHeld(source: Source, received: number, done: number): void {
    if (done === received) source.heldSince = NOT_HELD;
    else if (done > 0 || source.heldSince === NOT_HELD) source.heldSince = this.#nowMs;
  }

  /** Frames of many ports stand behind: a receiver that takes one every few ms must not hold them up again and again. */
  #noteLinkHeld(source: Source, received: number, done: number, bytes: number): void {
    source.drained += bytes;
    if (done === received && received < BATCH_FRAMES) source.heldSince = NOT_HELD;
    else if (source.heldSince === NOT_HELD ? done < received : source.drained >= LINK_DRAIN_BYTES) {
      source.heldSince = this.#nowMs;
      source.drained = 0;
    }
  }

  /** A port with several queues gets the answers to a flow on the queue that it sends the flow from. */
  #noteFlows(port: Port, queue: PortQueue, batch: FrameBatch): void {
    for (let i = 0; i < batch.count; i++) port.noteFlow(this.#hash(batch, i), queue, this.#nowSeconds);
  }

  /**
   * Hands the frames of a batch on: neighbours for the same queue together, and every other frame alone. Gives how many
   * are done with; fewer than all when one must wait.
   */
  #forward(source: Source, batch: FrameBatch): number {
    const frames = batch.count;
    const { link } = source;
    // Frames `start` … `i - 1` go to `queue` of port `to`.
    let start = 0;
    let to: Port | undefined;
    let queue: PortQueue | undefined;
    for (let i = 0; i < frames; i++) {
      if (queue !== undefined && batch.repeats[i] === 1) {
        i = this.#endOfRun(source, to!, batch, i);
        if (i === frames) break;
      }
      const destination =
        link === null ? this.#destination(source.port, batch, i) : this.#linkDestination(link, source.port, batch, i);
      let next: Port | undefined;
      let nextQueue: PortQueue | undefined;
      if (destination >= 0) {
        next = this.#byId[destination]!;
        if (next.id === LINK_PORT) this.#address(next, i, destination, source.port.id);
        if (next.linkUp && (isPlain(batch, i) || (requiredOffloads(batch, i) & ~next.offloads) === 0)) {
          nextQueue = this.#queueFor(next, batch, i);
        }
      }
      if (nextQueue !== undefined && nextQueue === queue) continue;
      if (queue !== undefined) {
        start += this.#transmitRun(source, to!, queue, batch, start, i);
        if (start < i) return start;
      }
      if (nextQueue === undefined) {
        if (!this.#forwardAlone(source, destination, batch, i)) return i;
        start = i + 1;
      }
      to = next;
      queue = nextQueue;
    }
    if (queue !== undefined) start += this.#transmitRun(source, to!, queue, batch, start, frames);
    return start;
  }

  /**
   * The end of the run of frames from `i` on that have the addresses of the one before them and no offloads, and follow that
   * one to port `to` without being looked at: none where the flow's hash decides, or a record of its own says where each goes.
   */
  #endOfRun(source: Source, to: Port, batch: FrameBatch, i: number): number {
    if (source.link !== null || to.readyQueues > 1) return i;
    const { repeats, count: frames } = batch;
    let end = i + 1;
    while (end < frames && repeats[end] === 1) end++;
    if (to.id === LINK_PORT) {
      const link = to.queues[0] as LaneLink;
      for (let k = i; k < end; k++) this.#address(to, k, link.to[i - 1]!, source.port.id);
    }
    return end;
  }

  /** Writes on frame `i` where it goes and whence it comes, for the lane behind a link. */
  #address(link: Port, i: number, to: number, from: number): void {
    const queue = link.queues[0] as LaneLink;
    queue.to[i] = to;
    queue.from[i] = from;
  }

  /** {@link #destination} of a frame from another lane: the way was decided there. */
  #linkDestination(link: LaneLink, port: Port, batch: FrameBatch, i: number): number {
    const at = ADDRESS_WORDS * i;
    this.#learnRemote(port, batch.addresses[at + FROM_HIGH]!, batch.addresses[at + FROM_LOW]!, link.from[i]!);
    const to = link.to[i]!;
    if (to === TO_ALL) return FLOOD;
    return this.#ports.has(to) ? to : LINK_DOWN;
  }

  /** The port that frame `i` goes to, or FLOOD, or why it goes nowhere. Learns its source. */
  #destination(from: Port, batch: FrameBatch, i: number): number {
    if (!from.linkUp) return LINK_DOWN;
    const verified = from.verifies && isVerified(batch, i);
    if (!verified && !isPlain(batch, i) && !sanitizeOffloads(batch, i)) return BAD_OFFLOAD;
    const { addresses } = batch;
    const at = ADDRESS_WORDS * i;
    const fromHigh = addresses[at + FROM_HIGH]!;
    const fromLow = addresses[at + FROM_LOW]!;
    const learned = this.table.learn(fromHigh, fromLow, from.id, this.#nowSeconds);
    if (learned === LEARNED || learned === MOVED) this.#announce(fromHigh, fromLow, from.id);
    const high = addresses[at + TO_HIGH]!;
    if ((high & GROUP_BIT) !== 0) return FLOOD;
    const to = this.table.lookup(high, addresses[at + TO_LOW]!, this.#nowSeconds);
    return to === from.id ? OWN_PORT : to;
  }

  /** Offers frames to one queue as they are. Gives how many are done with: fewer than all when one shall wait. */
  #transmitRun(source: Source, to: Port, queue: PortQueue, batch: FrameBatch, start: number, end: number): number {
    let next = start;
    if (source.port.verifies) for (let i = start; i < end; i++) forgetVerified(to, batch, i);
    for (;;) {
      const taken = queue.transmit(batch, next, end);
      if (taken > 0) this.#countTransmitted(to, queue, batch, next, next + taken);
      next += taken;
      if (next === end) break;
      if (queue.refusal === TX_DROP_NO_BUFFERS && this.#mayWait(source, queue, next)) break;
      count(to.counters, queue.refusal, 1);
      next++;
      if (next === end) break;
    }
    return next - start;
  }

  #countTransmitted(to: Port, queue: PortQueue, batch: FrameBatch, first: number, end: number): void {
    queue.stalledSince = NOT_STALLED;
    count(to.counters, TX_FRAMES, end - first);
    count(to.counters, TX_BYTES, batch.bytesOf(first, end));
  }

  /** Whatever is not a plain unicast. False: the frame shall wait. */
  #forwardAlone(source: Source, destination: number, batch: FrameBatch, i: number): boolean {
    const { counters } = source.port;
    if (destination === FLOOD) this.#flood(source, batch, i);
    else if (destination >= 0) return this.#unicast(source, this.#byId[destination]!, batch, i);
    else if (destination === OWN_PORT) count(counters, RX_DROP_OWN_PORT, 1);
    else if (destination === LINK_DOWN) count(counters, RX_DROP_LINK_DOWN, 1);
    else count(counters, RX_DROP_BAD_OFFLOAD, 1);
    return true;
  }

  /** False: the port has no buffers yet, the frame shall wait. */
  #unicast(source: Source, to: Port, batch: FrameBatch, i: number): boolean {
    forgetVerified(to, batch, i);
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

  /** To every other port of this lane, and to every other lane, unless the frame comes from one. */
  #flood({ port: from, link: fromLink }: Source, batch: FrameBatch, i: number): void {
    let lies = false;
    if (from.verifies) batch.flags[i] = batch.flags[i]! & ~VIRTIO_NET_HDR_F_DATA_VALID;
    for (const to of this.#portList) {
      if (to === from || (fromLink !== null && !isFloodedHere(to, fromLink))) continue;
      const result = this.#transmit(to, batch, i);
      if (result === RX_DROP_BAD_OFFLOAD) lies = true;
      else if (result !== TRANSMITTED) this.#drop(from, to, result);
    }
    if (fromLink === null) {
      for (const { link, port } of this.#links) {
        this.#address(port, i, TO_ALL, from.id);
        const result = this.#transmitOne(port, link, batch, i);
        if (result !== TRANSMITTED) this.#drop(from, port, result);
      }
    }
    // One frame, one drop, however many ports found it out.
    if (lies) count(from.counters, RX_DROP_BAD_OFFLOAD, 1);
  }

  /** Offers one frame to a port, with its offloads done in software where the port did not negotiate them. */
  #transmit(to: Port, batch: FrameBatch, i: number): number {
    if (!to.linkUp) return TX_DROP_LINK_DOWN;
    const queue = this.#queueFor(to, batch, i);
    if (queue === undefined) return TX_DROP_LINK_DOWN;
    if (!isPlain(batch, i) && (requiredOffloads(batch, i) & ~to.offloads) !== 0) {
      return this.#transmitAdapted(to, queue, batch, i);
    }
    return this.#transmitOne(to, queue, batch, i);
  }

  #transmitOne(to: Port, queue: PortQueue, batch: FrameBatch, i: number): number {
    if (queue.transmit(batch, i, i + 1) === 0) return queue.refusal;
    this.#countTransmitted(to, queue, batch, i, i + 1);
    return TRANSMITTED;
  }

  #queueFor(to: Port, batch: FrameBatch, i: number): PortQueue | undefined {
    return to.readyQueues < 2 ? to.firstQueue : to.queueFor(this.#hash(batch, i), this.#nowSeconds);
  }

  #hash(batch: FrameBatch, i: number): number {
    return flowHash(batch.headers, batch.headerOffset(i), Math.min(batch.length[i]!, HEADER_BYTES), this.#hashSeed);
  }

  /** Once the first segment has found room the others follow or are lost, as on any wire. */
  #transmitAdapted(to: Port, queue: PortQueue, batch: FrameBatch, i: number): number {
    const adapter = this.#adapter;
    if (!adapter.start(batch, i)) return RX_DROP_BAD_OFFLOAD;
    let sent = false;
    for (let frames = adapter.next(); frames > 0; frames = adapter.next()) {
      let next = 0;
      while (next < frames) {
        const taken = queue.transmit(adapter.batch, next, frames);
        if (taken > 0) this.#countTransmitted(to, queue, adapter.batch, next, next + taken);
        next += taken;
        if (next === frames) break;
        // An impaired wire loses one segment, and takes the next.
        const onWire = queue.refusal === TX_DROP_IMPAIRED || queue.refusal === TX_DROP_IMPAIRED_QUEUE;
        if (!sent && next === 0 && !onWire) return queue.refusal;
        const lost = onWire ? 1 : frames - next;
        count(to.counters, queue.refusal, lost);
        next += lost;
        sent = true;
      }
      sent = true;
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

/** Whether a frame comes without any offload. */
function isPlain(batch: FrameBatch, i: number): boolean {
  return (batch.flags[i]! | batch.gsoType[i]!) === 0;
}

/** Whether a frame comes without any offload, and its checksums were found to be right. */
function isVerified(batch: FrameBatch, i: number): boolean {
  return batch.flags[i] === VIRTIO_NET_HDR_F_DATA_VALID && batch.gsoType[i] === 0;
}

/** Whether a frame that another lane floods goes to a port here: not when that lane, or another one, gives it to the port. */
function isFloodedHere(to: Port, from: LaneLink): boolean {
  return to.elsewhere.size === 0 || (to.isFirst && !to.elsewhere.has(from.peer));
}

/** Takes DATA_VALID from a frame for a port that did not negotiate it, or that another lane has (virtio 1.2 §5.1.6.4.1). */
function forgetVerified(to: Port, batch: FrameBatch, i: number): void {
  if ((to.offloads & TUN_F_CSUM) !== 0 && to.id !== LINK_PORT) return;
  batch.flags[i] = batch.flags[i]! & ~VIRTIO_NET_HDR_F_DATA_VALID;
}

function newSource(port: Port, queue: PortQueue, link: LaneLink | null): Source {
  return { port, queue, link, malformed: queue.malformed, heldSince: NOT_HELD, drained: 0 };
}
