/**
 * The device side of a split virtqueue (virtio 1.2 §2.7): the switch serving one ring of a guest.
 *
 *     driver                          device (here)
 *     avail.ring[idx] = head
 *     avail.idx++          ────────►  #lastAvail … avail.idx: chains to take
 *                                     used.ring[#usedIdx] = (head, length)
 *     reclaims             ◄────────  used.idx = #usedIdx, once a breath; then a call, if asked for
 *
 * Chains are used in the order in which they came, which is all that VIRTIO_F_IN_ORDER asks; where it was negotiated,
 * the frames of a batch are given back with a single used entry (§2.7.9).
 *
 * Hot: allocates nothing per frame.
 */
import { releaseFence } from '../memory/fence.ts';
import { BATCH_FRAMES, type FrameBatch, MAX_FRAME_SEGMENTS } from '../memory/frame-batch.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { WasmKernels } from '../memory/kernels.ts';
import type { Transfer } from '../memory/mirror.ts';
import {
  AVAIL_RING,
  DESC_ADDR_HIGH,
  DESC_ADDR_LOW,
  DESC_FLAGS_NEXT,
  DESC_LEN,
  DESC_WORDS,
  FLAGS,
  IDX,
  mapSplitRing,
  type SplitRingViews,
} from './split-ring.ts';
import { SplitRingMirror } from './split-ring-mirror.ts';
import {
  hasFeature,
  VIRTIO_F_NOTIFY_ON_EMPTY,
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_BYTES,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_USED_F_NO_NOTIFY,
} from './virtio.ts';
import {
  BUFFER_TOO_SMALL,
  NO_BUFFERS,
  NO_REFUSAL,
  pushesTo,
  RING_BROKEN,
  type RingDescription,
  RingUnmappedError,
  Virtqueue,
} from './virtqueue.ts';

const TWO_32 = 2 ** 32;
/** The flags that say how a descriptor is to be read. */
const KIND = VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_INDIRECT;

export class SplitVirtqueue extends Virtqueue {
  readonly #mask: number;
  readonly #notifyOnEmpty: boolean;
  #ring: SplitRingViews;
  /** The copies to and from the ring, where it is private to the client. */
  #copies: SplitRingMirror | null;
  /** The kernels, where they reach ring and buffers. */
  #kernels: WasmKernels | null;

  /** Next avail entry to take; 16 bits. */
  #lastAvail: number;
  /** avail.idx as last read. */
  #availIdx: number;
  /** Next used entry to write, and what used.idx tells the driver. */
  #usedIdx: number;
  #publishedUsedIdx: number;
  /** #publishedUsedIdx at the last decision on a call; with EVENT_IDX the first one always calls. */
  #decidedUsedIdx: number;
  #hasDecided = false;
  #notifying = true;

  /** Head of each chain taken by {@link receive}, in order. */
  readonly #heads: Uint16Array;
  /** Head of the chain that {@link walkNext} found. */
  #walkedHead = 0;
  /** Heads of the chains of one delivery. */
  readonly #chainHead = new Uint16Array(MAX_FRAME_SEGMENTS);
  /** Descriptors that a delivery looked at (empty ones too). */
  #looked = 0;

  /** Throws {@link RingUnmappedError} when the ring is not in `memory`. */
  constructor(memory: GuestMemory, description: RingDescription) {
    super(memory, description);
    this.#mask = this.num - 1;
    this.#notifyOnEmpty = hasFeature(description.features, VIRTIO_F_NOTIFY_ON_EMPTY);
    this.#lastAvail = description.base & 0xffff;
    this.#availIdx = this.#lastAvail;
    this.#ring = this.#map(memory);
    this.#copies = this.#copiesOf(memory, this.#ring, this.pushes);
    this.#kernels = memory.kernels;
    // As vhost_vq_init_access: the used index goes on where the ring's memory says.
    this.#usedIdx = Atomics.load(this.#ring.used, IDX);
    this.#publishedUsedIdx = this.#usedIdx;
    this.#decidedUsedIdx = this.#usedIdx;
    this.#heads = new Uint16Array(this.num);
    this.#ring.used[FLAGS] = 0;
    if (this.#copies?.pushHeader() === false) throw RingUnmappedError.of(description);
  }

  #map(memory: GuestMemory): SplitRingViews {
    const views = mapSplitRing(memory, this.description.addresses, this.num, this.eventIdx);
    if (views === null) throw RingUnmappedError.of(this.description);
    return views;
  }

  #copiesOf(memory: GuestMemory, ring: SplitRingViews, pushes: Transfer | null): SplitRingMirror | null {
    const { num, eventIdx } = this;
    const copies = SplitRingMirror.of(memory, ring, pushes, { num, eventIdx, lastAvail: this.#lastAvail });
    if (copies?.pullUsed() === false) throw RingUnmappedError.of(this.description);
    return copies;
  }

  override remap(memory: GuestMemory): void {
    // What was used goes to the client by the way that it came.
    this.flush();
    const ring = this.#map(memory);
    const pushes = pushesTo(memory);
    this.#copies = this.#copiesOf(memory, ring, pushes);
    this.#ring = ring;
    this.turnTo(memory, pushes);
    this.#availIdx = this.#lastAvail;
    this.#kernels = memory.kernels;
  }

  /** Index in the avail ring. */
  override get base(): number {
    return (this.#lastAvail - this.taken) & 0xffff;
  }

  override get usedIdx(): number {
    return this.#publishedUsedIdx;
  }

  // ---- taking frames from the driver (its transmit ring)

  protected override mostChains(): number {
    return this.#refreshAvailable();
  }

  /** Takes chains of one buffer, `end` at the most, by the kernel; it begins again where the memory has several parts. */
  #receiveByKernel(kernels: WasmKernels, batch: FrameBatch, end: number): number {
    const { memory, num, headerBytes, leastBytes, mostBytes } = this;
    const { availRingAddress, descAddress, desc, avail } = this.#ring;
    let taken = 0;
    while (taken < end) {
      const first = batch.count;
      const frames = kernels.receiveBuffers(
        batch.offset,
        end - taken,
        availRingAddress,
        descAddress,
        num,
        this.#lastAvail,
        memory.start,
        memory.sharedEnd,
        memory.delta,
        headerBytes,
        leastBytes,
        mostBytes,
        first,
        batch.segments,
      );
      batch.appended(frames);
      this.noteHeads(this.#heads, batch, first, frames);
      this.taken += frames;
      this.#lastAvail = (this.#lastAvail + frames) & 0xffff;
      taken += frames;
      if (taken < end && !this.#turnTo(avail, desc)) break;
    }
    return taken;
  }

  /** Turns to the part of the memory that the next buffer lies in. False when the kernel would not take it there either. */
  #turnTo(avail: Uint16Array, desc: Uint32Array): boolean {
    const head = avail[AVAIL_RING + (this.#lastAvail & this.#mask)]!;
    if (head >= this.num) return false;
    const word = head * DESC_WORDS;
    return this.turnToPart(desc[word + DESC_ADDR_LOW]!, desc[word + DESC_ADDR_HIGH]!);
  }

  protected override receiveBuffers(batch: FrameBatch, end: number): number {
    if (this.#kernels !== null) return this.#receiveByKernel(this.#kernels, batch, end);
    const { desc, avail } = this.#ring;
    const { segmentAddress, segmentLength } = batch;
    const { memory, num, headerBytes, leastBytes: least, mostBytes: most } = this;
    const heads = this.#heads;
    const mask = this.#mask;
    let { start, end: limit, delta } = memory;
    let at = this.#lastAvail;
    let taken = this.taken;
    let segment = batch.segments + 1;
    let frames = 0;
    for (; frames < end; frames++) {
      const head = avail[AVAIL_RING + (at & mask)]!;
      if (head >= num) break;
      const word = head * DESC_WORDS;
      const len = desc[word + DESC_LEN]!;
      if ((desc[word + DESC_FLAGS_NEXT]! & KIND) !== 0 || len < least || len > most) break;
      const guest = desc[word + DESC_ADDR_HIGH]! * TWO_32 + desc[word + DESC_ADDR_LOW]!;
      if (guest < start || guest + len > limit) {
        if (memory.translate(guest, len) === 0) break;
        ({ start, end: limit, delta } = memory);
      }
      segmentAddress[segment] = guest + delta;
      segmentLength[segment] = len;
      segment += 2;
      heads[taken++] = head;
      at = (at + 1) & 0xffff;
    }
    if (this.mirror !== null && frames > 0) {
      const first = batch.segments + 1 + 2 * Math.max(this.stillAhead(this.mirror) - this.taken, 0);
      if (!this.pullBuffers(this.mirror, batch, first, segment, 2)) return 0;
    }
    this.#lastAvail = at;
    this.taken = taken;
    batch.appendBuffers(frames, headerBytes);
    return frames;
  }

  protected override walkNext(address: Float64Array, length: Int32Array, limit: number): boolean {
    const head = this.#ring.avail[AVAIL_RING + (this.#lastAvail & this.#mask)]!;
    if (head >= this.num) return this.fail('HEAD_OUT_OF_RANGE', this.#lastAvail & this.#mask, head);
    this.#walkedHead = head;
    return this.#walk(head, 0, address, length, limit);
  }

  protected override takeWalked(): void {
    this.#heads[this.taken++] = this.#walkedHead;
    this.#lastAvail = (this.#lastAvail + 1) & 0xffff;
  }

  override release(count: number): void {
    this.takeBack(this.taken, count);
    const returned = this.taken - count;
    if (returned > 0) {
      this.#lastAvail = (this.#lastAvail - returned) & 0xffff;
      this.taken = count;
    }
    this.completeTaken();
  }

  protected override completeTaken(): void {
    const taken = this.taken;
    if (taken === 0) return;
    this.taken = 0;
    if (this.inOrder) {
      // One entry with the last head; the driver knows by the order that those before it are done (§2.7.9).
      this.#pushUsed(this.#heads[taken - 1]!, 0);
      this.#usedIdx = (this.#usedIdx + taken - 1) & 0xffff;
      return;
    }
    const { usedRing } = this.#ring;
    const heads = this.#heads;
    const mask = this.#mask;
    let used = this.#usedIdx;
    for (let i = 0; i < taken; i++) {
      const slot = (used & mask) << 1;
      usedRing[slot] = heads[i]!;
      usedRing[slot + 1] = 0;
      used = (used + 1) & 0xffff;
    }
    this.#usedIdx = used;
  }

  // ---- giving frames to the driver (its receive ring)

  protected override deliverBuffers(batch: FrameBatch, first: number, end: number): number {
    let available = (this.#availIdx - this.#lastAvail) & 0xffff;
    if (available < end - first) available = this.#refreshAvailable();
    const last = Math.min(end, first + available);
    if (this.#kernels !== null) return this.#deliverByKernel(this.#kernels, batch, first, last);
    const { desc, avail, usedRing } = this.#ring;
    const { memory, num, headerBytes } = this;
    const { length, placeTo } = batch;
    const mask = this.#mask;
    let { start, end: limit, delta } = memory;
    let at = this.#lastAvail;
    let used = this.#usedIdx;
    let i = first;
    for (; i < last; i++) {
      const head = avail[AVAIL_RING + (at & mask)]!;
      if (head >= num) break;
      const word = head * DESC_WORDS;
      const len = desc[word + DESC_LEN]!;
      const total = length[i]! + headerBytes;
      if ((desc[word + DESC_FLAGS_NEXT]! & KIND) !== VIRTQ_DESC_F_WRITE || len < total) break;
      const guest = desc[word + DESC_ADDR_HIGH]! * TWO_32 + desc[word + DESC_ADDR_LOW]!;
      if (guest < start || guest + len > limit) {
        if (memory.translate(guest, len) === 0) break;
        ({ start, end: limit, delta } = memory);
      }
      placeTo[i] = guest + delta;
      const slot = (used & mask) << 1;
      usedRing[slot] = head;
      usedRing[slot + 1] = total;
      used = (used + 1) & 0xffff;
      at = (at + 1) & 0xffff;
    }
    this.#lastAvail = at;
    this.#usedIdx = used;
    if (i > first) batch.place(first, i, headerBytes);
    if (this.pushes !== null) this.pushPlaced(this.pushes, batch, first, i);
    return i;
  }

  #deliverByKernel(kernels: WasmKernels, batch: FrameBatch, first: number, last: number): number {
    const { memory, num, headerBytes } = this;
    const { availRingAddress, descAddress, usedRingAddress, desc, avail } = this.#ring;
    let next = first;
    while (next < last) {
      const left = kernels.deliverBuffers(
        batch.offset,
        next,
        last,
        availRingAddress,
        descAddress,
        usedRingAddress,
        num,
        this.#lastAvail,
        this.#usedIdx,
        memory.start,
        memory.sharedEnd,
        memory.delta,
        headerBytes,
      );
      this.#lastAvail = (this.#lastAvail + left - next) & 0xffff;
      this.#usedIdx = (this.#usedIdx + left - next) & 0xffff;
      next = left;
      if (next < last && !this.#turnTo(avail, desc)) break;
    }
    return next;
  }

  protected override deliverChains(batch: FrameBatch, i: number): number {
    const total = batch.length[i]! + this.headerBytes;
    let chains = 0;
    let room = 0;
    let at = this.#lastAvail;
    this.walked = 0;
    this.#looked = 0;
    for (;;) {
      if (at === this.#availIdx && this.#refreshAvailable() <= chains) {
        return this.error === null ? NO_BUFFERS : RING_BROKEN;
      }
      const head = this.#ring.avail[AVAIL_RING + (at & this.#mask)]!;
      if (head >= this.num) {
        this.fail('HEAD_OUT_OF_RANGE', at & this.#mask, head);
        return RING_BROKEN;
      }
      this.walkedBytes = 0;
      const limit = this.walked + MAX_FRAME_SEGMENTS;
      if (!this.#walk(head, VIRTQ_DESC_F_WRITE, this.toAddress, this.toLength, limit)) return RING_BROKEN;
      room += this.walkedBytes;
      this.#chainHead[chains] = head;
      this.chainEnd[chains] = this.walked;
      chains++;
      at = (at + 1) & 0xffff;
      if (room >= total) break;
      if (!this.mergeable || this.walkedBytes === 0) return BUFFER_TOO_SMALL;
      if (this.walked >= MAX_FRAME_SEGMENTS || this.#looked >= MAX_FRAME_SEGMENTS) return BUFFER_TOO_SMALL;
    }
    batch.writeNetHeader(i, this.headerBytes, chains);
    this.scatter(batch, i, total, chains);
    batch.copies.run();
    if (this.pushes !== null) this.pushScattered(this.pushes, total);
    for (let chain = 0; chain < chains; chain++) this.#pushUsed(this.#chainHead[chain]!, this.chainWritten[chain]!);
    this.#lastAvail = at;
    return NO_REFUSAL;
  }

  // ---- used ring and notifications

  #pushUsed(head: number, length: number): void {
    const slot = (this.#usedIdx & this.#mask) << 1;
    this.#ring.usedRing[slot] = head;
    this.#ring.usedRing[slot + 1] = length;
    this.#usedIdx = (this.#usedIdx + 1) & 0xffff;
  }

  override publish(): void {
    const old = this.#publishedUsedIdx;
    const now = this.#usedIdx;
    if (old === now) return;
    const copies = this.#copies;
    // Frames go to the client before the store that shows them, or by the same call as what shows them.
    if (this.pushes !== null && copies?.publishes !== true && !this.pushes.run()) {
      this.unreachable();
      return;
    }
    // The entries are visible before idx.
    releaseFence();
    this.#ring.used[IDX] = now;
    this.#publishedUsedIdx = now;
    if (copies?.pushUsed(old, now) === false) this.unreachable();
  }

  override notify(): void {
    const old = this.#decidedUsedIdx;
    const now = this.#publishedUsedIdx;
    if (old === now) return;
    this.#decidedUsedIdx = now;
    if (this.#copies?.pullWish() === false) {
      this.unreachable();
      return;
    }
    if (this.#wantsCall(old, now)) this.signal();
    else this.callsSuppressed++;
    this.mirror?.trim();
  }

  #wantsCall(old: number, now: number): boolean {
    if (this.#notifyOnEmpty && this.#lastAvail === this.#loadAvailIdx()) return true;
    if (!this.eventIdx) return (Atomics.load(this.#ring.avail, FLAGS) & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0;
    const first = !this.#hasDecided;
    this.#hasDecided = true;
    if (first) return true;
    // vring_need_event (§2.7.7.1): used_event lies in [old, now).
    const usedEvent = Atomics.load(this.#ring.avail, AVAIL_RING + this.num);
    return ((now - usedEvent - 1) & 0xffff) < ((now - old) & 0xffff);
  }

  override disableNotification(): void {
    if (!this.#notifying) return;
    this.#notifying = false;
    // An event right behind the driver is one that it does not come to for 65,535 chains (§2.7.10): left where it was, every
    // ring would kick once after each sleep.
    if (this.eventIdx) this.#ring.availEvent[0] = this.#lastAvail - 1;
    else this.#ring.used[FLAGS] = VIRTQ_USED_F_NO_NOTIFY;
    if (this.#copies?.pushWish() === false) this.unreachable();
  }

  override enableNotification(): boolean {
    if (this.error !== null) return false;
    this.#notifying = true;
    if (this.eventIdx) Atomics.store(this.#ring.availEvent, 0, this.#lastAvail);
    else Atomics.store(this.#ring.used, FLAGS, 0);
    if (this.#copies !== null && !this.#copies.pushWish()) return this.unreachable();
    return this.#loadAvailIdx() !== this.#lastAvail;
  }

  // ---- reading what the driver wrote

  /** avail.idx, behind which entries and descriptors may be read; where they cannot be had, what it was. */
  #loadAvailIdx(): number {
    if (this.#copies === null) return Atomics.load(this.#ring.avail, IDX);
    const idx = this.#copies.pullAvail();
    if (idx >= 0) return idx;
    this.unreachable();
    return this.#lastAvail;
  }

  /** Reads avail.idx: how many chains wait, or 0 with the ring broken. */
  #refreshAvailable(): number {
    // A whole batch is known to wait: the driver's memory need not be asked.
    const known = (this.#availIdx - this.#lastAvail) & 0xffff;
    if (this.#copies !== null && known >= BATCH_FRAMES && known <= this.num) return known;
    const idx = this.#loadAvailIdx();
    const waiting = (idx - this.#lastAvail) & 0xffff;
    // Chains taken and not released are the device's still: the driver cannot have made them available again.
    if (waiting + this.taken > this.num) {
      this.fail('AVAIL_IDX_JUMPED', this.#lastAvail, idx);
      return 0;
    }
    this.#availIdx = idx;
    return waiting;
  }

  /**
   * Follows a chain (§2.7.5) and appends its buffers from index `walked` on, up to index `limit`; all must have the
   * direction `direction` (0 or VIRTQ_DESC_F_WRITE). Adds their bytes to walkedBytes. False: the ring is broken.
   */
  #walk(head: number, direction: number, address: Float64Array, length: Int32Array, limit: number): boolean {
    let table = this.#ring.desc;
    let tableSize = this.num;
    let index = head;
    for (let steps = 0; ; steps++) {
      if (steps === tableSize) return this.fail('CHAIN_LOOPS', head, steps);
      if (steps === MAX_FRAME_SEGMENTS) return this.fail('CHAIN_TOO_LONG', head, steps);
      const word = index * DESC_WORDS;
      const low = table[word + DESC_ADDR_LOW]!;
      const high = table[word + DESC_ADDR_HIGH]!;
      const len = table[word + DESC_LEN]!;
      const flagsNext = table[word + DESC_FLAGS_NEXT]!;
      if ((flagsNext & VIRTQ_DESC_F_INDIRECT) !== 0) {
        if (table !== this.#ring.desc) return this.fail('INDIRECT_NESTED', index, flagsNext & 0xffff);
        if ((flagsNext & VIRTQ_DESC_F_NEXT) !== 0) return this.fail('INDIRECT_WITH_NEXT', index, flagsNext & 0xffff);
        if (!this.loadIndirect(index, low, high, len)) return false;
        table = this.table;
        tableSize = len / VIRTQ_DESC_BYTES;
        index = 0;
        steps = -1;
        continue;
      }
      if ((flagsNext & VIRTQ_DESC_F_WRITE) !== direction) {
        return this.fail('WRONG_DIRECTION', index, flagsNext & 0xffff);
      }
      if (len > 0 && !this.appendBuffer(index, low, high, len, address, length, limit)) return false;
      if ((flagsNext & VIRTQ_DESC_F_NEXT) === 0) {
        this.#looked += steps + 1;
        return true;
      }
      index = flagsNext >>> 16;
      if (index >= tableSize) return this.fail('NEXT_OUT_OF_RANGE', head, index);
    }
  }
}
