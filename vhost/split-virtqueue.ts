/**
 * The device side of a split virtqueue (virtio 1.2 §2.7): the switch serving one ring of a guest.
 *
 * Life: a lane makes it when the ring gets its backend, asks {@link SplitVirtqueue.receive} or
 * {@link SplitVirtqueue.deliver} in its poll loop, and drops it when the ring is stopped; {@link SplitVirtqueue.base}
 * is then where a successor goes on. One thread only.
 *
 *     driver                          device (here)
 *     avail.ring[idx] = head
 *     avail.idx++          ────────►  #lastAvail … avail.idx: chains to take
 *                                     used.ring[#usedIdx] = (head, length)
 *     reclaims             ◄────────  used.idx = #usedIdx, once a batch; then a call, if asked for
 *
 * Rules against hostile drivers: every word of theirs is read once, into a local, then validated, then used. Chains are
 * bounded by their table and by MAX_FRAME_SEGMENTS, addresses by the mapped memory. What is wrong sets
 * {@link SplitVirtqueue.error}; the ring then takes and gives nothing more.
 *
 * Hot: allocates nothing per frame.
 */
import { signalEventfd } from '../linux/eventfd.ts';
import { type Address, addressOf } from '../linux/libc.ts';
import { memcpy } from '../linux/mman.ts';
import {
  BATCH_FRAMES,
  type FrameBatch,
  MAX_FRAME_BYTES,
  MAX_FRAME_SEGMENTS,
  MIN_FRAME_BYTES,
} from '../memory/frame-batch.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { readNetHeader, writeNetHeader } from './net-header.ts';
import { type RingError, type RingErrorCode, ringError } from './ring-error.ts';
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
  type RingAddresses,
  type SplitRingViews,
} from './split-ring.ts';
import {
  type Features,
  hasFeature,
  netHeaderBytes,
  VIRTIO_F_NOTIFY_ON_EMPTY,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_BYTES,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_USED_F_NO_NOTIFY,
} from './virtio.ts';

const TWO_32 = 2 ** 32;
/** Addresses at or above this cannot be added to a length exactly in a double; no machine has them. */
const ADDRESS_HIGH_LIMIT = 2 ** 20;
const NO_FD = -1;

/** What became of a frame offered to {@link SplitVirtqueue.deliver}. */
export const DELIVERED = 0;
/** The driver has no (or not enough) buffers now. */
export const NO_BUFFERS = 1;
/**
 * The frame is longer than the buffer that the driver gave, without VIRTIO_NET_F_MRG_RXBUF; with it, the buffers are so
 * small that the frame would need more than MAX_FRAME_SEGMENTS of them.
 */
export const BUFFER_TOO_SMALL = 2;
/** The ring is broken: see {@link SplitVirtqueue.error}. */
export const RING_BROKEN = 3;

/** A ring as it was negotiated: plain data that crosses threads. */
export interface RingDescription {
  addresses: RingAddresses;
  /** Entries, a power of two. */
  num: number;
  /** Index in the avail ring to start from (VHOST_SET_VRING_BASE). */
  base: number;
  features: Features;
  /** eventfds of this process, -1 where there is none. The lane does not close them. */
  kick: number;
  call: number;
  err: number;
}

/** The ring does not lie in the shared memory of the client. */
export class RingUnmappedError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'RingUnmappedError';
  }

  static of({ num, addresses: { desc, avail, used } }: RingDescription): RingUnmappedError {
    const hex = (n: number): string => `0x${n.toString(16)}`;
    return new RingUnmappedError(
      `virtqueue of ${num} entries (desc ${hex(desc)}, avail ${hex(avail)}, used ${hex(used)}) is not in memory that ` +
        'the client shares; give its guest shared memory (QEMU: memory-backend-memfd,share=on)',
    );
  }
}

export class SplitVirtqueue {
  /** What the driver broke, or null. */
  error: RingError | null = null;
  /** Calls (interrupts) sent and withheld, and frames that a receive ring refused, for `show rings`. */
  calls = 0;
  callsSuppressed = 0;
  /** Frames shorter than an Ethernet header, or longer than any frame, taken from the driver and thrown away. */
  malformed = 0;
  kick: number;
  call: number;
  err: number;

  readonly num: number;
  readonly headerBytes: number;
  readonly #mask: number;
  readonly #eventIdx: boolean;
  readonly #indirect: boolean;
  readonly #mergeable: boolean;
  readonly #notifyOnEmpty: boolean;
  readonly #description: RingDescription;
  #memory: GuestMemory;
  #ring: SplitRingViews;

  /** Next avail entry to take; 16 bits. */
  #lastAvail: number;
  /** Avail entries taken by {@link receive} and not yet released. */
  #taken = 0;
  /** avail.idx as last read. */
  #availIdx: number;
  /** Next used entry to write, and what used.idx tells the driver. */
  #usedIdx: number;
  #publishedUsedIdx: number;
  /** used.idx at the last decision on a call; the first decision always calls. */
  #signalledUsed = -1;
  #notifying = true;

  /** Head of each chain taken by {@link receive}, in order. */
  readonly #heads: Uint16Array;
  /** An indirect table, copied before it is looked at. */
  readonly #table = new Uint32Array((MAX_FRAME_SEGMENTS * VIRTQ_DESC_BYTES) / 4);
  readonly #tableAddress: Address = addressOf(this.#table);
  /** Buffers of the chains of one delivery: the last chain begins before MAX_FRAME_SEGMENTS and is as long at the most. */
  readonly #toAddress = new Float64Array(2 * MAX_FRAME_SEGMENTS);
  readonly #toLength = new Int32Array(2 * MAX_FRAME_SEGMENTS);
  /** Chains of one delivery: head, and where its buffers end in the two arrays above. */
  readonly #chainHead = new Uint16Array(MAX_FRAME_SEGMENTS);
  readonly #chainEnd = new Uint16Array(MAX_FRAME_SEGMENTS);
  /** Where {@link #walk} puts buffers, the bytes it found, and the descriptors it looked at (empty ones too). */
  #walked = 0;
  #walkedBytes = 0;
  #looked = 0;

  /** Throws {@link RingUnmappedError} when the ring is not in `memory`. */
  constructor(memory: GuestMemory, description: RingDescription) {
    const { num, base, features } = description;
    this.#description = description;
    this.num = num;
    this.#mask = num - 1;
    this.headerBytes = netHeaderBytes(features);
    this.#eventIdx = hasFeature(features, VIRTIO_RING_F_EVENT_IDX);
    this.#indirect = hasFeature(features, VIRTIO_RING_F_INDIRECT_DESC);
    this.#mergeable = hasFeature(features, VIRTIO_NET_F_MRG_RXBUF);
    this.#notifyOnEmpty = hasFeature(features, VIRTIO_F_NOTIFY_ON_EMPTY);
    this.kick = description.kick;
    this.call = description.call;
    this.err = description.err;
    this.#memory = memory;
    this.#ring = this.#map(memory);
    this.#lastAvail = base & 0xffff;
    this.#availIdx = this.#lastAvail;
    // As vhost_vq_init_access: the used index goes on where the ring's memory says.
    this.#usedIdx = Atomics.load(this.#ring.used, IDX);
    this.#publishedUsedIdx = this.#usedIdx;
    this.#heads = new Uint16Array(num);
    this.#ring.used[FLAGS] = 0;
  }

  #map(memory: GuestMemory): SplitRingViews {
    const views = mapSplitRing(memory, this.#description.addresses, this.num, this.#eventIdx);
    if (views === null) throw RingUnmappedError.of(this.#description);
    return views;
  }

  /** Goes over to another mapping of the client's memory (VHOST_SET_MEM_TABLE on a running ring), between batches. */
  remap(memory: GuestMemory): void {
    this.#ring = this.#map(memory);
    this.#memory = memory;
  }

  /** Index in the avail ring where a successor goes on (VHOST_GET_VRING_BASE); frames not released go to it again. */
  get base(): number {
    return (this.#lastAvail - this.#taken) & 0xffff;
  }

  get usedIdx(): number {
    return this.#publishedUsedIdx;
  }

  // ---- taking frames from the driver (its transmit ring)

  /**
   * Takes chains from the driver and appends them to `batch` as frames until it is full or the ring is empty. The
   * frames stay in the driver's buffers until {@link release}. Gives the number of frames appended.
   */
  receive(batch: FrameBatch): number {
    if (this.error !== null) return 0;
    const before = batch.count;
    // No more chains than a batch holds, so that a ring full of malformed frames costs others no more than one of good ones.
    let available = Math.min(this.#refreshAvailable(), BATCH_FRAMES);
    for (; available > 0 && batch.hasRoom; available--) {
      const head = this.#head(this.#lastAvail);
      if (head < 0) break;
      const first = batch.segments;
      this.#walked = first + 1;
      this.#walkedBytes = 0;
      if (!this.#walk(head, 0, batch.segmentAddress, batch.segmentLength, first + 1 + MAX_FRAME_SEGMENTS)) break;
      const length = this.#walkedBytes - this.headerBytes;
      if (length < MIN_FRAME_BYTES || length > MAX_FRAME_BYTES) {
        // Never a frame. Used entries keep the order of the ring, so it waits until the frames before it are released.
        if (this.#taken > 0) break;
        this.malformed++;
        this.#take(head);
        this.#completeTaken();
        continue;
      }
      this.#take(head);
      batch.append(first, this.#walked - first - 1, this.headerBytes, length);
      readNetHeader(batch, batch.count - 1, this.headerBytes);
    }
    return batch.count - before;
  }

  #take(head: number): void {
    this.#heads[this.#taken++] = head;
    this.#lastAvail = (this.#lastAvail + 1) & 0xffff;
  }

  /** Gives the first `count` of the frames taken back to the driver as used; the others return to the avail ring. */
  release(count: number): void {
    const returned = this.#taken - count;
    if (returned > 0) {
      this.#lastAvail = (this.#lastAvail - returned) & 0xffff;
      this.#taken = count;
    }
    this.#completeTaken();
  }

  #completeTaken(): void {
    for (let i = 0; i < this.#taken; i++) this.#pushUsed(this.#heads[i]!, 0);
    this.#taken = 0;
  }

  // ---- giving frames to the driver (its receive ring)

  /**
   * Copies frame `i` of `batch` with its virtio-net header into buffers of the driver: one chain, or as many as it
   * takes with VIRTIO_NET_F_MRG_RXBUF. Gives DELIVERED, or why not; nothing is taken from the ring then.
   * {@link flush} tells the driver.
   */
  deliver(batch: FrameBatch, i: number): number {
    if (this.error !== null) return RING_BROKEN;
    const total = batch.length[i]! + this.headerBytes;
    let chains = 0;
    let room = 0;
    let at = this.#lastAvail;
    this.#walked = 0;
    this.#looked = 0;
    for (;;) {
      if (at === this.#availIdx && this.#refreshAvailable() <= chains) {
        return this.error === null ? NO_BUFFERS : RING_BROKEN;
      }
      const head = this.#head(at);
      if (head < 0) return RING_BROKEN;
      this.#walkedBytes = 0;
      const limit = this.#walked + MAX_FRAME_SEGMENTS;
      if (!this.#walk(head, VIRTQ_DESC_F_WRITE, this.#toAddress, this.#toLength, limit)) return RING_BROKEN;
      room += this.#walkedBytes;
      this.#chainHead[chains] = head;
      this.#chainEnd[chains] = this.#walked;
      chains++;
      at = (at + 1) & 0xffff;
      if (room >= total) break;
      if (!this.#mergeable || this.#walkedBytes === 0) return BUFFER_TOO_SMALL;
      if (this.#walked >= MAX_FRAME_SEGMENTS || this.#looked >= MAX_FRAME_SEGMENTS) return BUFFER_TOO_SMALL;
    }
    writeNetHeader(batch, i, this.headerBytes, chains);
    this.#scatter(batch, i, total, chains);
    this.#lastAvail = at;
    return DELIVERED;
  }

  /** Copies header and frame into the chains gathered, and marks them used. */
  #scatter(batch: FrameBatch, i: number, total: number, chains: number): void {
    const { segmentAddress, segmentLength } = batch;
    let segment = batch.firstSegment[i]!;
    let from = segmentAddress[segment]! - this.headerBytes;
    let fromLeft = segmentLength[segment]! + this.headerBytes;
    let left = total;
    let to = 0;
    for (let chain = 0; chain < chains; chain++) {
      const end = this.#chainEnd[chain]!;
      let written = 0;
      for (; to < end && left > 0; to++) {
        let address = this.#toAddress[to]!;
        let space = this.#toLength[to]!;
        while (space > 0 && left > 0) {
          const n = Math.min(fromLeft, space, left);
          memcpy(address, from, n);
          address += n;
          from += n;
          space -= n;
          fromLeft -= n;
          left -= n;
          written += n;
          if (fromLeft === 0 && left > 0) {
            segment++;
            from = segmentAddress[segment]!;
            fromLeft = segmentLength[segment]!;
          }
        }
      }
      to = end;
      this.#pushUsed(this.#chainHead[chain]!, written);
    }
  }

  // ---- used ring and notifications

  #pushUsed(head: number, length: number): void {
    const slot = (this.#usedIdx & this.#mask) << 1;
    this.#ring.usedRing[slot] = head;
    this.#ring.usedRing[slot + 1] = length;
    this.#usedIdx = (this.#usedIdx + 1) & 0xffff;
  }

  /** Publishes used entries written since the last time, and calls the driver where it asked for that (§2.7.7). */
  flush(): void {
    const old = this.#publishedUsedIdx;
    const now = this.#usedIdx;
    if (old === now) return;
    // A full fence: the entries are visible before idx, and idx before the driver's wish is read.
    Atomics.store(this.#ring.used, IDX, now);
    this.#publishedUsedIdx = now;
    if (this.#wantsCall(old, now)) {
      this.calls++;
      if (this.call !== NO_FD) signalEventfd(this.call);
    } else this.callsSuppressed++;
  }

  #wantsCall(old: number, now: number): boolean {
    if (this.#notifyOnEmpty && this.#lastAvail === Atomics.load(this.#ring.avail, IDX)) return true;
    if (!this.#eventIdx) return (Atomics.load(this.#ring.avail, FLAGS) & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0;
    const first = this.#signalledUsed < 0;
    this.#signalledUsed = now;
    if (first) return true;
    // vring_need_event (§2.7.7.1): used_event lies in [old, now).
    const usedEvent = Atomics.load(this.#ring.avail, AVAIL_RING + this.num);
    return ((now - usedEvent - 1) & 0xffff) < ((now - old) & 0xffff);
  }

  /** Tells the driver that this side polls: no kicks, please (§2.7.10). */
  disableNotification(): void {
    if (!this.#notifying) return;
    this.#notifying = false;
    // With EVENT_IDX avail_event just stays where it was, behind the driver.
    if (!this.#eventIdx) this.#ring.used[FLAGS] = VIRTQ_USED_F_NO_NOTIFY;
  }

  /**
   * Asks the driver for a kick with its next buffer. True when one came meanwhile: look again instead of sleeping.
   * A broken ring asks for nothing.
   */
  enableNotification(): boolean {
    if (this.error !== null) return false;
    this.#notifying = true;
    if (this.#eventIdx) Atomics.store(this.#ring.availEvent, 0, this.#lastAvail);
    else Atomics.store(this.#ring.used, FLAGS, 0);
    return Atomics.load(this.#ring.avail, IDX) !== this.#lastAvail;
  }

  // ---- reading what the driver wrote

  /** Reads avail.idx: how many chains wait, or 0 with the ring broken. */
  #refreshAvailable(): number {
    const idx = Atomics.load(this.#ring.avail, IDX);
    const waiting = (idx - this.#lastAvail) & 0xffff;
    // Chains taken and not released are the device's still: the driver cannot have made them available again.
    if (waiting + this.#taken > this.num) {
      this.#fail('AVAIL_IDX_JUMPED', this.#lastAvail, idx);
      return 0;
    }
    this.#availIdx = idx;
    return waiting;
  }

  /** Head of the chain at avail entry `at`, or -1 with the ring broken. */
  #head(at: number): number {
    const head = this.#ring.avail[AVAIL_RING + (at & this.#mask)]!;
    if (head < this.num) return head;
    this.#fail('HEAD_OUT_OF_RANGE', at & this.#mask, head);
    return -1;
  }

  /**
   * Follows a chain (§2.7.5) and appends its buffers from index #walked on, up to index `limit`; all must have the
   * direction `direction` (0 or VIRTQ_DESC_F_WRITE). Adds their bytes to #walkedBytes. False: the ring is broken.
   */
  #walk(head: number, direction: number, address: Float64Array, length: Int32Array, limit: number): boolean {
    let table = this.#ring.desc;
    let tableSize = this.num;
    let index = head;
    for (let steps = 0; ; steps++) {
      if (steps === tableSize) return this.#fail('CHAIN_LOOPS', head, steps);
      if (steps === MAX_FRAME_SEGMENTS) return this.#fail('CHAIN_TOO_LONG', head, steps);
      const word = index * DESC_WORDS;
      const low = table[word + DESC_ADDR_LOW]!;
      const high = table[word + DESC_ADDR_HIGH]!;
      const len = table[word + DESC_LEN]!;
      const flagsNext = table[word + DESC_FLAGS_NEXT]!;
      if ((flagsNext & VIRTQ_DESC_F_INDIRECT) !== 0) {
        if (table !== this.#ring.desc) return this.#fail('INDIRECT_NESTED', index, flagsNext & 0xffff);
        if ((flagsNext & VIRTQ_DESC_F_NEXT) !== 0) return this.#fail('INDIRECT_WITH_NEXT', index, flagsNext & 0xffff);
        if (!this.#loadIndirect(index, low, high, len)) return false;
        table = this.#table;
        tableSize = len / VIRTQ_DESC_BYTES;
        index = 0;
        steps = -1;
        continue;
      }
      if ((flagsNext & VIRTQ_DESC_F_WRITE) !== direction) {
        return this.#fail('WRONG_DIRECTION', index, flagsNext & 0xffff);
      }
      if (len > 0 && !this.#append(index, low, high, len, address, length, limit)) return false;
      if ((flagsNext & VIRTQ_DESC_F_NEXT) === 0) {
        this.#looked += steps + 1;
        return true;
      }
      index = flagsNext >>> 16;
      if (index >= tableSize) return this.#fail('NEXT_OUT_OF_RANGE', head, index);
    }
  }

  /** Copies an indirect table (§2.7.5.3) out of the guest's reach. */
  #loadIndirect(index: number, low: number, high: number, len: number): boolean {
    if (!this.#indirect) return this.#fail('INDIRECT_NOT_NEGOTIATED', index, len);
    if (len === 0 || len % VIRTQ_DESC_BYTES !== 0) return this.#fail('INDIRECT_LENGTH', index, len);
    if (len > this.#table.byteLength) return this.#fail('INDIRECT_LENGTH', index, len);
    if (high >= ADDRESS_HIGH_LIMIT || !this.#memory.read(high * TWO_32 + low, len, this.#tableAddress)) {
      return this.#fail('INDIRECT_UNMAPPED', index, high * TWO_32 + low);
    }
    return true;
  }

  /** Appends one buffer, in as many parts as the mapped memory is broken into at that place. */
  #append(
    index: number,
    low: number,
    high: number,
    len: number,
    address: Float64Array,
    length: Int32Array,
    limit: number,
  ): boolean {
    const guest = high * TWO_32 + low;
    if (high >= ADDRESS_HIGH_LIMIT) return this.#fail('BUFFER_UNMAPPED', index, guest);
    if (this.#walked === limit) return this.#fail('CHAIN_TOO_LONG', index, limit);
    // A chain of absurd buffers must not overflow the sum: no frame needs more than this.
    if (this.#walkedBytes + len > 0x7fff_ffff) return this.#fail('CHAIN_TOO_LONG', index, len);
    const here = this.#memory.translate(guest, len);
    if (here !== 0) {
      address[this.#walked] = here;
      length[this.#walked] = len;
      this.#walked++;
      this.#walkedBytes += len;
      return true;
    }
    let at = guest;
    let left = len;
    while (left > 0) {
      const part = Math.min(left, this.#memory.contiguous(at));
      if (part === 0) return this.#fail('BUFFER_UNMAPPED', index, guest);
      if (this.#walked === limit) return this.#fail('CHAIN_TOO_LONG', index, limit);
      address[this.#walked] = this.#memory.translate(at, part);
      length[this.#walked] = part;
      this.#walked++;
      at += part;
      left -= part;
    }
    this.#walkedBytes += len;
    return true;
  }

  #fail(code: RingErrorCode, index: number, value: number): false {
    this.error = ringError(code, index, value);
    if (this.err !== NO_FD) signalEventfd(this.err);
    return false;
  }
}
