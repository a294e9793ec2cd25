/**
 * A queue of an impaired port: between the engine and the queue itself, a wire of its own for each direction.
 *
 *     engine ── transmit ──► decide ──► DelayLine ──► queue.transmit      "to" the port
 *     engine ◄── receive ─── DelayLine ◄── decide ◄── queue.receive       "from" the port
 *
 * Each frame is decided on once, when it gets here. When its time has come it is handed on, and waits for buffers as frames
 * in their senders' rings do: HOLD_MS at the most. A wire without delay and rate holds few frames, and leaves the others
 * where they are, so back-pressure is as without it; one that takes time takes what comes, and drops what is beyond its limit.
 *
 * A direction that is not impaired goes through untouched. One that no longer is sends what it holds at once, in order, and
 * then goes through: nothing is lost, and nothing overtakes. The wire takes plain frames only, as wires do: for the port the
 * engine has undone offloads (the port has none while it is impaired), from the port they are undone here.
 *
 * Runs on the lane's thread. Hot for impaired ports: allocates nothing per frame.
 */
import type { Address } from '../linux/libc.ts';
import type { Arena } from '../memory/arena.ts';
import { fullFence } from '../memory/fence.ts';
import { BATCH_FRAMES, FrameBatch } from '../memory/frame-batch.ts';
import { VIRTIO_NET_HDR_F_DATA_VALID } from '../vhost/virtio.ts';
import {
  count,
  RX_DROP_BAD_OFFLOAD,
  RX_DROP_IMPAIRED,
  RX_DROP_IMPAIRED_QUEUE,
  RX_IMPAIRED_CORRUPTED,
  RX_IMPAIRED_DUPLICATED,
  RX_IMPAIRED_REORDERED,
  TX_DROP_IMPAIRED,
  TX_DROP_IMPAIRED_QUEUE,
  TX_DROP_LINK_DOWN,
  TX_DROP_NO_BUFFERS,
  TX_IMPAIRED_CORRUPTED,
  TX_IMPAIRED_DUPLICATED,
  TX_IMPAIRED_REORDERED,
} from './counters.ts';
import { DelayLine, MAX_RECORD_BYTES } from './delay-line.ts';
import { HOLD_MS } from './engine.ts';
import { type ImpairmentDecisions, LOST, NO_ROOM } from './impairment.ts';
import { OffloadAdapter, requiredOffloads, sanitizeOffloads } from './offload.ts';
import { type FdSink, type Port, type PortQueue, TRANSMITTED, type TransmitResult } from './port.ts';

const NEVER = Number.POSITIVE_INFINITY;
const NOT_BLOCKED = -1;
const NO_BIT = -1;
/** Frames for a queue without buffers are offered again after this time. */
const RETRY_MS = 1;
/** A wire that takes no time holds no more than this, and what one frame more is segmented into. */
const UNTIMED_FRAMES = BATCH_FRAMES;
const UNTIMED_LIMIT = 2048;

/** What all impaired queues of a lane share: none needs it from one call to the next. */
export class ImpairmentScratch {
  readonly arena: Arena;
  readonly batch: FrameBatch;
  readonly adapter: OffloadAdapter;
  readonly record: Address;

  constructor(arena: Arena) {
    this.arena = arena;
    this.batch = new FrameBatch(arena);
    this.adapter = new OffloadAdapter(arena);
    this.record = arena.allocate(MAX_RECORD_BYTES);
  }
}

/** What the queues of a port have in common; see PortImpairment. */
export interface ImpairedWires {
  readonly port: Port;
  /** What becomes of frames in each direction; null where it is not impaired. */
  readonly to: ImpairmentDecisions | null;
  readonly from: ImpairmentDecisions | null;
  readonly scratch: ImpairmentScratch;
  /** Milliseconds of a clock that never goes back. */
  readonly now: () => number;
}

export class ImpairedQueue implements PortQueue {
  /** What stands behind it: the port's queue, or what captures its frames. */
  inner: PortQueue;
  stalledSince = -1;
  refusal: TransmitResult = TRANSMITTED;
  readonly #wires: ImpairedWires;
  /** Frames under way; null where a direction goes through. */
  #to: DelayLine | null = null;
  #from: DelayLine | null = null;
  /** Since when the queue refuses frames that are due, in ms. */
  #blockedSince = NOT_BLOCKED;
  /** The last receive was the queue's own. */
  #receivedThrough = true;
  /** Something was handed to the queue, or released, that it has not flushed. */
  #unflushed = false;

  constructor(inner: PortQueue, wires: ImpairedWires) {
    this.inner = inner;
    this.#wires = wires;
  }

  // ---- changes

  /** The impairment of a direction has changed; what was under way in it goes on at once. Throws SystemError without memory. */
  renew(direction: 'to' | 'from'): void {
    const { to, from } = this.#wires;
    if (direction === 'to') this.#to = this.#renewed(this.#to, to);
    else this.#from = this.#renewed(this.#from, from);
  }

  #renewed(line: DelayLine | null, decisions: ImpairmentDecisions | null): DelayLine | null {
    const { arena, record } = this.#wires.scratch;
    if (decisions === null) return closedIfEmpty(line);
    const limit = decisions.takesTime ? decisions.impairment.limit : UNTIMED_LIMIT;
    return new DelayLine(arena, record, limit, line);
  }

  /** Whether it does nothing any more. */
  get isThrough(): boolean {
    return this.#to === null && this.#from === null;
  }

  /** When it next has something to do, in ms; Infinity when it has not. */
  nextDeadline(nowMs: number): number {
    return Math.min(this.#nextTo(nowMs), this.#nextFrom(nowMs));
  }

  #nextTo(nowMs: number): number {
    if (this.#to === null || this.#to.count === 0) return NEVER;
    if (this.#blockedSince !== NOT_BLOCKED) return nowMs + RETRY_MS;
    return this.#wires.to === null ? nowMs : this.#to.nextAt;
  }

  /** For those that the engine did not take it looks again by itself. */
  #nextFrom(nowMs: number): number {
    if (this.#from === null || this.#from.count === 0 || this.#from.presented > 0) return NEVER;
    return this.#wires.from === null ? nowMs : this.#from.nextAt;
  }

  /** Forgets what is under way, and gives the memory back. */
  close(): void {
    this.#to?.close();
    this.#from?.close();
    this.#to = null;
    this.#from = null;
  }

  // ---- from the port

  /** Also hands on what is due for the port: the engine comes here with every breath. */
  receive(batch: FrameBatch): number {
    const now = this.#wires.now();
    this.#deliver(now);
    if (this.#wires.from === null) this.#from = closedIfEmpty(this.#from);
    const line = this.#from;
    this.#receivedThrough = line === null;
    if (line !== null && this.#takesMore(line)) this.#pull(line, this.#wires.from!, now);
    this.#flushInner();
    if (line === null) return this.inner.receive(batch);
    return line.present(batch, this.#wires.from === null ? NEVER : now);
  }

  release(count: number): void {
    if (this.#receivedThrough) this.inner.release(count);
    else this.#from!.release(count);
  }

  /** Not while the engine has no place for what is due, nor while older frames must go first. */
  #takesMore(line: DelayLine): boolean {
    const { from } = this.#wires;
    if (from === null || line.presented >= BATCH_FRAMES) return false;
    return from.takesTime || line.count < UNTIMED_FRAMES;
  }

  #pull(line: DelayLine, decisions: ImpairmentDecisions, now: number): void {
    const { batch } = this.#wires.scratch;
    batch.clear();
    const received = this.inner.receive(batch);
    if (received === 0) return;
    let i = 0;
    while (i < received && (decisions.takesTime || line.count < UNTIMED_FRAMES)) {
      this.#take(line, decisions, batch, i++, now);
    }
    this.inner.release(i);
    this.#unflushed = true;
  }

  /** Undoes the offloads of frame `i`, and sends what comes of it. */
  #take(line: DelayLine, decisions: ImpairmentDecisions, batch: FrameBatch, i: number, now: number): void {
    const { port, scratch } = this.#wires;
    const { adapter } = scratch;
    const verified = port.verifies && batch.flags[i] === VIRTIO_NET_HDR_F_DATA_VALID && batch.gsoType[i] === 0;
    const honest = verified || sanitizeOffloads(batch, i);
    if (honest && requiredOffloads(batch, i) === 0) {
      this.#send(line, decisions, batch, i, now);
      return;
    }
    if (!honest || !adapter.start(batch, i)) {
      count(port.counters, RX_DROP_BAD_OFFLOAD, 1);
      return;
    }
    for (let frames = adapter.next(); frames > 0; frames = adapter.next()) {
      for (let k = 0; k < frames; k++) this.#send(line, decisions, adapter.batch, k, now);
    }
  }

  #send(line: DelayLine, decisions: ImpairmentDecisions, batch: FrameBatch, i: number, now: number): void {
    const { counters } = this.#wires.port;
    const length = batch.length[i]!;
    const verdict = decisions.decide(length, now, line.roomFor(length));
    if (verdict === NO_ROOM) count(counters, RX_DROP_IMPAIRED_QUEUE, 1);
    else if (verdict === LOST) count(counters, RX_DROP_IMPAIRED, 1);
    else {
      pushDecided(line, decisions, batch, i);
      if (decisions.corruptBit >= 0) count(counters, RX_IMPAIRED_CORRUPTED, 1);
      if (decisions.copyAt >= 0) count(counters, RX_IMPAIRED_DUPLICATED, 1);
      if (decisions.reordered) count(counters, RX_IMPAIRED_REORDERED, 1);
    }
  }

  // ---- to the port

  transmit(batch: FrameBatch, first: number, end: number): number {
    const { to, now } = this.#wires;
    if (to === null && this.#to !== null) this.#deliver(now());
    const line = this.#to;
    if (line === null) {
      const taken = this.inner.transmit(batch, first, end);
      this.refusal = this.inner.refusal;
      return taken;
    }
    const nowMs = now();
    for (let i = first; i < end; i++) {
      this.refusal = to === null ? follow(line, batch, i) : this.#admit(line, to, batch, i, nowMs);
      if (this.refusal !== TRANSMITTED) return i - first;
    }
    return end - first;
  }

  #admit(line: DelayLine, decisions: ImpairmentDecisions, batch: FrameBatch, i: number, now: number): TransmitResult {
    if (!decisions.takesTime && line.count >= UNTIMED_FRAMES) {
      this.#deliver(now);
      if (line.count >= UNTIMED_FRAMES) return TX_DROP_NO_BUFFERS;
    }
    const { counters } = this.#wires.port;
    const length = batch.length[i]!;
    const verdict = decisions.decide(length, now, line.roomFor(length));
    if (verdict === NO_ROOM) return TX_DROP_IMPAIRED_QUEUE;
    if (verdict === LOST) return TX_DROP_IMPAIRED;
    pushDecided(line, decisions, batch, i);
    if (decisions.corruptBit >= 0) count(counters, TX_IMPAIRED_CORRUPTED, 1);
    if (decisions.copyAt >= 0) count(counters, TX_IMPAIRED_DUPLICATED, 1);
    if (decisions.reordered) count(counters, TX_IMPAIRED_REORDERED, 1);
    return TRANSMITTED;
  }

  /** Hands on what is due. */
  #deliver(now: number): void {
    const line = this.#to;
    if (line === null) return;
    const { port, scratch, to } = this.#wires;
    const { batch } = scratch;
    const { inner } = this;
    for (;;) {
      batch.clear();
      const due = line.present(batch, to === null ? NEVER : now);
      if (due === 0) break;
      if (!port.linkUp || !inner.ready) {
        count(port.counters, TX_DROP_LINK_DOWN, due);
        line.release(due);
        continue;
      }
      const taken = inner.transmit(batch, 0, due);
      line.release(taken);
      if (taken > 0) {
        this.#unflushed = true;
        this.#blockedSince = NOT_BLOCKED;
      }
      if (taken === due) continue;
      if (inner.refusal === TX_DROP_NO_BUFFERS) {
        if (this.#blockedSince === NOT_BLOCKED) this.#blockedSince = now;
        // After that no frame waits, until it takes one: as in the engine.
        if (now - this.#blockedSince < HOLD_MS) return;
      }
      count(port.counters, inner.refusal, 1);
      line.release(1);
    }
    if (to === null) this.#to = closedIfEmpty(line);
  }

  // ---- what the engine does with any queue

  flush(): void {
    this.#deliver(this.#wires.now());
    this.#unflushed = false;
    this.inner.flush();
  }

  notify(): void {
    this.inner.notify();
  }

  #flushInner(): void {
    if (!this.#unflushed) return;
    this.#unflushed = false;
    this.inner.flush();
    fullFence();
    this.inner.notify();
  }

  get ready(): boolean {
    return this.inner.ready;
  }

  get malformed(): number {
    return this.inner.malformed;
  }

  disableNotification(): void {
    this.inner.disableNotification();
  }

  enableNotification(held: boolean, stalled: boolean): boolean {
    const refusesMore = this.#from === null ? held : !this.#takesMore(this.#from);
    const waits = this.#blockedSince !== NOT_BLOCKED && this.#to !== null && this.#to.count > 0;
    return this.inner.enableNotification(refusesMore, stalled || waits);
  }

  addPollFds(sink: FdSink): void {
    this.inner.addPollFds(sink);
  }
}

/** A frame that comes behind what still waits for buffers at the end of a wire that is no more. */
function follow(line: DelayLine, batch: FrameBatch, i: number): TransmitResult {
  if (line.roomFor(batch.length[i]!) === 0) return TX_DROP_NO_BUFFERS;
  line.push(batch, i, NEVER, NO_BIT);
  return TRANSMITTED;
}

/** A frame that has passed, and its copy behind it. */
function pushDecided(
  line: DelayLine,
  { at, copyAt, corruptBit }: ImpairmentDecisions,
  batch: FrameBatch,
  i: number,
): void {
  line.push(batch, i, at, corruptBit);
  if (copyAt >= 0) line.push(batch, i, copyAt, NO_BIT);
}

function closedIfEmpty(line: DelayLine | null): DelayLine | null {
  if (line !== null && line.count > 0) return line;
  line?.close();
  return null;
}
