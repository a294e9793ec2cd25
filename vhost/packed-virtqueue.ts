/**
 * The device side of a packed virtqueue (virtio 1.2 §2.8): the switch serving one ring of a guest.
 *
 *     descriptor ring, num entries
 *     ┌──────────┬───────────┬─────────────────────┬───────────────────┬─────────┐
 *     │ used     │ in flight │ available, seen     │ available         │ driver's│
 *     └──────────┴───────────┴─────────────────────┴───────────────────┴─────────┘
 *                ▲           ▲                     ▲ where #look reads on
 *                #used       #avail                #avail + #seen
 *
 * Driver and device write the same descriptors: the driver makes one available by AVAIL and USED bits in its flags
 * (§2.8.1), the device overwrites it with id, length and flags of what it has used. Chains are used in the order in which
 * they came, so each used descriptor stands where its chain began; where VIRTIO_F_IN_ORDER was negotiated the frames of a
 * batch are given back with a single one that has the id of the last (§2.8.9).
 *
 * Order of memory accesses (x86-64 keeps stores in order with stores and loads in order with loads; what remains is the
 * compiler, which moves no access over an Atomics operation):
 *
 * - Taking: flags are read first, in one word with the id, then everything else. An Atomics.load stands between them, one
 *   for all descriptors that {@link PackedVirtqueue.#look} found at a time. The word is kept; the driver has no second say.
 * - Giving back: the driver looks at used descriptors one after the other, so all but the first may be written at any time
 *   and in any way. The first one's word would show it all of them: it is held back, and goes last, in
 *   {@link PackedVirtqueue.publish}, behind everything else. The driver's wish for calls is read behind a full fence.
 *
 * The kernels read flags by an atomic load and keep to the rest of this as well. They take no notice of what was seen: they
 * read each descriptor anew, once.
 *
 * Hot: allocates nothing per frame.
 */
import { releaseFence } from '../memory/fence.ts';
import { BATCH_FRAMES, type FrameBatch, MAX_FRAME_SEGMENTS } from '../memory/frame-batch.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { WasmKernels } from '../memory/kernels.ts';
import {
  DESC_ADDR_HIGH,
  DESC_ADDR_LOW,
  DESC_ID_FLAGS,
  DESC_LEN,
  DESC_WORDS,
  FLAGS_SHIFT,
  inFlight,
  linearPosition,
  mapPackedRing,
  PACKED_RING_ALIGNMENT,
  type PackedRingViews,
  packBase,
  packPosition,
  unpackBase,
  unpackPosition,
} from './packed-ring.ts';
import { PackedRingMirror } from './packed-ring-mirror.ts';
import {
  RING_EVENT_FLAGS_DESC,
  RING_EVENT_FLAGS_DISABLE,
  RING_EVENT_FLAGS_ENABLE,
  VIRTQ_DESC_BYTES,
  VIRTQ_DESC_F_AVAIL,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_USED,
  VIRTQ_DESC_F_WRITE,
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
/** The flags that say whose a descriptor is. */
const OWNER = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED;
const ID_MASK = 0xffff;
/** Only these bits of the event flags mean something. */
const EVENT_FLAGS_MASK = 3;

export class PackedVirtqueue extends Virtqueue {
  #ring: PackedRingViews;
  /** The copies to and from the ring, where it is private to the client. */
  #copies: PackedRingMirror | null;
  /** The kernels, where they reach ring and buffers. */
  #kernels: WasmKernels | null;

  /** Next descriptor to take, and the driver's wrap counter there. */
  #avail: number;
  #availWrap: number;
  /** Descriptors from there on that are available, and whose words are known. */
  #seen = 0;
  /** id and flags of each descriptor, by its index, as read when it was seen. */
  readonly #words: Uint32Array;

  /** Where the next used descriptor goes, and the device's wrap counter there. */
  #used: number;
  #usedWrap: number;
  /** The same as far as the driver knows, as a {@link linearPosition}. */
  #publishedUsed: number;
  /** #publishedUsed at the last decision on a call; where there is an event to wait for, the first one always calls. */
  #decidedUsed: number;
  /** Descriptors taken, for which the driver has nothing back yet. With those seen never more than the ring has. */
  #outstanding: number;
  #hasDecided = false;
  #notifying = true;

  /** Descriptors of all chains taken and not yet released; of each chain, in order, its buffer id and its descriptors. */
  #takenDescriptors = 0;
  readonly #takenId: Uint16Array;
  readonly #takenCount: Uint16Array;

  /** Whether there is a used descriptor that {@link flush} will write: its index, len, and word of id and flags. */
  #isHeld = false;
  #heldIndex = 0;
  #heldLength = 0;
  #heldWord = 0;

  /** Chains of one delivery. */
  readonly #chainId = new Uint16Array(MAX_FRAME_SEGMENTS);
  readonly #chainCount = new Uint16Array(MAX_FRAME_SEGMENTS);
  /** Descriptors of the chain that {@link walkNext} found. */
  #walkedCount = 0;
  /** Buffer id of the chain walked last. */
  #walkedId = 0;
  /** Descriptors that a delivery looked at (empty ones and those of tables too). */
  #looked = 0;

  /** Throws {@link RingUnmappedError} when the ring is not in `memory`, RangeError for a base beyond the ring. */
  constructor(memory: GuestMemory, description: RingDescription) {
    super(memory, description);
    const { num } = this;
    const start = unpackBase(description.base, num);
    if (start === null) throw new RangeError(`base ${description.base} of a packed ring of ${num} entries`);
    this.#ring = this.#map(memory);
    this.#copies = PackedRingMirror.of(memory, this.#ring, this.pushes, { num, most: BATCH_FRAMES });
    this.#kernels = this.#kernelsFor(memory);
    this.#avail = start.avail.index;
    this.#availWrap = start.avail.wrap;
    this.#used = start.used.index;
    this.#usedWrap = start.used.wrap;
    this.#publishedUsed = linearPosition(this.#used, this.#usedWrap, num);
    this.#decidedUsed = this.#publishedUsed;
    this.#outstanding = inFlight(start.avail, start.used, num);
    this.#words = new Uint32Array(num);
    this.#takenId = new Uint16Array(num);
    this.#takenCount = new Uint16Array(num);
    this.#ring.deviceEvent[0] = RING_EVENT_FLAGS_ENABLE << FLAGS_SHIFT;
    if (this.#copies?.pushWish() === false) throw RingUnmappedError.of(description);
  }

  #map(memory: GuestMemory): PackedRingViews {
    const views = mapPackedRing(memory, this.description.addresses, this.num);
    if (views === null) throw RingUnmappedError.of(this.description);
    return views;
  }

  /** None for a ring that must be pulled. Atomic loads of theirs demand one that is aligned. */
  #kernelsFor(memory: GuestMemory): WasmKernels | null {
    const isAligned = this.#ring.descAddress % PACKED_RING_ALIGNMENT.desc === 0;
    return isAligned && this.#copies === null ? memory.kernels : null;
  }

  override remap(memory: GuestMemory): void {
    // What was used goes to the client by the way that it came.
    this.flush();
    const ring = this.#map(memory);
    const pushes = pushesTo(memory);
    this.#copies = PackedRingMirror.of(memory, ring, pushes, { num: this.num, most: BATCH_FRAMES });
    this.#ring = ring;
    this.#kernels = this.#kernelsFor(memory);
    this.turnTo(memory, pushes);
    this.#seen = 0;
  }

  /** Both positions, each with its wrap counter: see {@link packBase}. */
  override get base(): number {
    const { num } = this;
    const index = this.#avail - this.#takenDescriptors;
    const avail = index < 0 ? packPosition(index + num, this.#availWrap ^ 1) : packPosition(index, this.#availWrap);
    return packBase(avail, this.usedIdx);
  }

  /** Index in the low 15 bits, wrap counter in the one above. */
  override get usedIdx(): number {
    const { num } = this;
    const published = this.#publishedUsed;
    return published < num ? packPosition(published, 1) : packPosition(published - num, 0);
  }

  // ---- taking frames from the driver (its transmit ring)

  /** A chain has one descriptor or more: how many wait is not known before they are walked. */
  protected override mostChains(): number {
    return this.num;
  }

  /** Takes chains of one buffer, `end` at the most, by the kernel; it begins again where the memory has several parts. */
  #receiveByKernel(kernels: WasmKernels, batch: FrameBatch, end: number): number {
    const { memory, num, headerBytes, leastBytes, mostBytes } = this;
    const { descAddress } = this.#ring;
    const limit = Math.min(end, num - this.#outstanding);
    this.#seen = 0;
    let taken = 0;
    while (taken < limit) {
      const first = batch.count;
      const frames = kernels.receivePackedBuffers(
        batch.offset,
        limit - taken,
        descAddress,
        num,
        this.#avail,
        this.#availWrap,
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
      this.noteHeads(this.#takenId, batch, first, frames);
      this.#takenCount.fill(1, this.taken, this.taken + frames);
      this.taken += frames;
      this.#takenDescriptors += frames;
      this.#seen = frames;
      this.#advance(frames);
      taken += frames;
      if (taken < limit && !this.#turnToNext()) break;
    }
    return taken;
  }

  /**
   * Looks at what stopped the kernel, and turns to the part of the memory that it lies in. False when there is nothing, or the
   * kernel would not take it there either; what is seen then is the general walk's.
   */
  #turnToNext(): boolean {
    if (this.#look() === 0) return false;
    const { desc } = this.#ring;
    const at = this.#avail * DESC_WORDS;
    return this.turnToPart(desc[at + DESC_ADDR_LOW]!, desc[at + DESC_ADDR_HIGH]!);
  }

  protected override receiveBuffers(batch: FrameBatch, end: number): number {
    if (this.#kernels !== null) return this.#receiveByKernel(this.#kernels, batch, end);
    const { desc } = this.#ring;
    const { segmentAddress, segmentLength } = batch;
    const { memory, num, headerBytes, leastBytes: least, mostBytes: most } = this;
    const words = this.#words;
    const takenId = this.#takenId;
    const takenCount = this.#takenCount;
    let { start, end: limit, delta } = memory;
    const seen = this.#seen < end ? this.#look() : this.#seen;
    const last = Math.min(end, seen);
    let index = this.#avail;
    let taken = this.taken;
    let segment = batch.segments + 1;
    let frames = 0;
    for (; frames < last; frames++) {
      const word = words[index]!;
      const at = index * DESC_WORDS;
      const len = desc[at + DESC_LEN]!;
      if (((word >>> FLAGS_SHIFT) & KIND) !== 0 || len < least || len > most) break;
      const guest = desc[at + DESC_ADDR_HIGH]! * TWO_32 + desc[at + DESC_ADDR_LOW]!;
      if (guest < start || guest + len > limit) {
        if (memory.translate(guest, len) === 0) break;
        ({ start, end: limit, delta } = memory);
      }
      segmentAddress[segment] = guest + delta;
      segmentLength[segment] = len;
      segment += 2;
      takenId[taken] = word & ID_MASK;
      takenCount[taken] = 1;
      taken++;
      if (++index === num) index = 0;
    }
    if (this.mirror !== null && frames > 0) {
      const first = batch.segments + 1 + 2 * Math.max(this.stillAhead(this.mirror) - this.taken, 0);
      if (!this.pullBuffers(this.mirror, batch, first, segment, 2)) return 0;
    }
    this.taken = taken;
    this.#takenDescriptors += frames;
    this.#advance(frames);
    batch.appendBuffers(frames, headerBytes);
    return frames;
  }

  protected override walkNext(address: Float64Array, length: Int32Array, limit: number): boolean {
    if (this.#seen === 0) return false;
    this.#walkedCount = this.#walk(0, 0, address, length, limit);
    return this.#walkedCount > 0;
  }

  protected override takeWalked(): void {
    const count = this.#walkedCount;
    this.#takenId[this.taken] = this.#walkedId;
    this.#takenCount[this.taken] = count;
    this.taken++;
    this.#takenDescriptors += count;
    this.#advance(count);
  }

  /** Goes on behind `count` descriptors. */
  #advance(count: number): void {
    this.#seen -= count;
    this.#outstanding += count;
    const index = this.#avail + count;
    if (index < this.num) this.#avail = index;
    else {
      this.#avail = index - this.num;
      this.#availWrap ^= 1;
    }
  }

  override release(count: number): void {
    this.takeBack(this.taken, count);
    let returned = 0;
    while (this.taken > count) returned += this.#takenCount[--this.taken]!;
    if (returned > 0) {
      this.#takenDescriptors -= returned;
      // The kernels note no words.
      this.#seen = this.#kernels === null ? this.#seen + returned : 0;
      this.#outstanding -= returned;
      this.#avail -= returned;
      if (this.#avail < 0) {
        this.#avail += this.num;
        this.#availWrap ^= 1;
      }
    }
    this.completeTaken();
  }

  protected override completeTaken(): void {
    const taken = this.taken;
    if (taken === 0) return;
    // In order, the driver knows by the id of the last that those before it are done.
    if (this.inOrder) this.#pushUsed(this.#takenId[taken - 1]!, 0, this.#takenDescriptors);
    else for (let i = 0; i < taken; i++) this.#pushUsed(this.#takenId[i]!, 0, this.#takenCount[i]!);
    this.taken = 0;
    this.#takenDescriptors = 0;
  }

  // ---- giving frames to the driver (its receive ring)

  #deliverByKernel(kernels: WasmKernels, batch: FrameBatch, first: number, end: number): number {
    const { memory, num, headerBytes } = this;
    const { descAddress } = this.#ring;
    const last = Math.min(end, first + num - this.#outstanding);
    this.#seen = 0;
    let next = first;
    while (next < last) {
      const left = kernels.deliverPackedBuffers(
        batch.offset,
        next,
        last,
        descAddress,
        num,
        this.#avail,
        this.#availWrap,
        this.#used,
        this.#usedWrap,
        this.#isHeld ? 0 : 1,
        memory.start,
        memory.sharedEnd,
        memory.delta,
        headerBytes,
      );
      const frames = left - next;
      if (frames > 0 && !this.#isHeld) this.#hold(batch.heads[next]!, batch.length[next]! + headerBytes);
      this.#seen = frames;
      this.#advance(frames);
      this.#advanceUsed(frames);
      next = left;
      if (next < last && !this.#turnToNext()) break;
    }
    return next;
  }

  protected override deliverBuffers(batch: FrameBatch, first: number, end: number): number {
    if (this.#kernels !== null) return this.#deliverByKernel(this.#kernels, batch, first, end);
    const { desc } = this.#ring;
    const { memory, num, headerBytes } = this;
    const { length, placeTo } = batch;
    const words = this.#words;
    let { start, end: limit, delta } = memory;
    const seen = this.#seen < end - first ? this.#look() : this.#seen;
    const last = Math.min(end, first + seen);
    let index = this.#avail;
    let i = first;
    for (; i < last; i++) {
      const word = words[index]!;
      const at = index * DESC_WORDS;
      const len = desc[at + DESC_LEN]!;
      const total = length[i]! + headerBytes;
      if (((word >>> FLAGS_SHIFT) & KIND) !== VIRTQ_DESC_F_WRITE || len < total) break;
      const guest = desc[at + DESC_ADDR_HIGH]! * TWO_32 + desc[at + DESC_ADDR_LOW]!;
      if (guest < start || guest + len > limit) {
        if (memory.translate(guest, len) === 0) break;
        ({ start, end: limit, delta } = memory);
      }
      placeTo[i] = guest + delta;
      this.#pushUsed(word & ID_MASK, total, 1);
      if (++index === num) index = 0;
    }
    this.#advance(i - first);
    if (i > first) batch.place(first, i, headerBytes);
    if (this.pushes !== null) this.pushPlaced(this.pushes, batch, first, i);
    return i;
  }

  protected override deliverChains(batch: FrameBatch, i: number): number {
    const total = batch.length[i]! + this.headerBytes;
    let chains = 0;
    let descriptors = 0;
    let room = 0;
    this.walked = 0;
    this.#looked = 0;
    for (;;) {
      if (descriptors === this.#seen && this.#look() === descriptors) return NO_BUFFERS;
      this.walkedBytes = 0;
      const limit = this.walked + MAX_FRAME_SEGMENTS;
      const count = this.#walk(descriptors, VIRTQ_DESC_F_WRITE, this.toAddress, this.toLength, limit);
      if (count === 0) return RING_BROKEN;
      descriptors += count;
      room += this.walkedBytes;
      this.#chainId[chains] = this.#walkedId;
      this.#chainCount[chains] = count;
      this.chainEnd[chains] = this.walked;
      chains++;
      if (room >= total) break;
      if (!this.mergeable || this.walkedBytes === 0) return BUFFER_TOO_SMALL;
      if (this.walked >= MAX_FRAME_SEGMENTS || this.#looked >= MAX_FRAME_SEGMENTS) return BUFFER_TOO_SMALL;
    }
    batch.writeNetHeader(i, this.headerBytes, chains);
    this.scatter(batch, i, total, chains);
    batch.copies.run();
    if (this.pushes !== null) this.pushScattered(this.pushes, total);
    this.#advance(descriptors);
    for (let chain = 0; chain < chains; chain++) {
      this.#pushUsed(this.#chainId[chain]!, this.chainWritten[chain]!, this.#chainCount[chain]!);
    }
    return NO_REFUSAL;
  }

  // ---- used descriptors and notifications

  /** Writes a used descriptor for one chain, or several in order, of `count` descriptors together, or holds it back. */
  #pushUsed(id: number, length: number, count: number): void {
    if (!this.#isHeld) this.#hold(id, length);
    else {
      const { desc } = this.#ring;
      const at = this.#used * DESC_WORDS;
      desc[at + DESC_LEN] = length;
      desc[at + DESC_ID_FLAGS] = this.#usedWord(id, length);
      this.#copies?.noteUsed(this.#used);
    }
    this.#advanceUsed(count);
  }

  /** Holds the next used descriptor back. */
  #hold(id: number, length: number): void {
    this.#isHeld = true;
    this.#heldIndex = this.#used;
    this.#heldLength = length;
    this.#heldWord = this.#usedWord(id, length);
  }

  /** id and flags of the next used descriptor. §2.8.4: WRITE says that its length means something. */
  #usedWord(id: number, length: number): number {
    return id | (((this.#usedWrap === 1 ? OWNER : 0) | (length > 0 ? VIRTQ_DESC_F_WRITE : 0)) << FLAGS_SHIFT);
  }

  #advanceUsed(count: number): void {
    const index = this.#used + count;
    if (index < this.num) this.#used = index;
    else {
      this.#used = index - this.num;
      this.#usedWrap ^= 1;
    }
  }

  override publish(): void {
    if (!this.#isHeld) return;
    this.#isHeld = false;
    const copies = this.#copies;
    // Frames go to the client before the store that shows them, or by the same call as what shows them.
    if (this.pushes !== null && copies?.publishes !== true && !this.pushes.run()) {
      this.unreachable();
      return;
    }
    const { desc } = this.#ring;
    const at = this.#heldIndex * DESC_WORDS;
    desc[at + DESC_LEN] = this.#heldLength;
    releaseFence();
    desc[at + DESC_ID_FLAGS] = this.#heldWord;

    const old = this.#publishedUsed;
    this.#publishedUsed = linearPosition(this.#used, this.#usedWrap, this.num);
    this.#outstanding -= this.#distance(old, this.#publishedUsed);
    if (copies?.pushUsed(this.#heldIndex) === false) this.unreachable();
  }

  override notify(): void {
    const old = this.#decidedUsed;
    const used = this.#distance(old, this.#publishedUsed);
    if (used === 0) return;
    this.#decidedUsed = this.#publishedUsed;
    if (this.#copies?.pullWish() === false) {
      this.unreachable();
      return;
    }
    if (this.#wantsCall(old, used)) this.signal();
    else this.callsSuppressed++;
    this.mirror?.trim();
  }

  /** Descriptors from one linear position to another. */
  #distance(from: number, to: number): number {
    const laps = 2 * this.num;
    return (to - from + laps) % laps;
  }

  /** Whether the driver asked to be called for one of the `used` descriptors from linear position `old` on (§2.8.10). */
  #wantsCall(old: number, used: number): boolean {
    const first = !this.#hasDecided;
    this.#hasDecided = true;
    const word = Atomics.load(this.#ring.driverEvent, 0);
    const flags = (word >>> FLAGS_SHIFT) & EVENT_FLAGS_MASK;
    if (flags === RING_EVENT_FLAGS_DISABLE) return false;
    if (flags !== RING_EVENT_FLAGS_DESC || !this.eventIdx || first) return true;
    const { index, wrap } = unpackPosition(word);
    return this.#distance(old, linearPosition(index, wrap, this.num)) < used;
  }

  override disableNotification(): void {
    if (!this.#notifying) return;
    this.#notifying = false;
    this.#ring.deviceEvent[0] = RING_EVENT_FLAGS_DISABLE << FLAGS_SHIFT;
    if (this.#copies?.pushWish() === false) this.unreachable();
  }

  override enableNotification(): boolean {
    if (this.error !== null) return false;
    this.#notifying = true;
    const wish = this.eventIdx
      ? packPosition(this.#avail, this.#availWrap) | (RING_EVENT_FLAGS_DESC << FLAGS_SHIFT)
      : RING_EVENT_FLAGS_ENABLE << FLAGS_SHIFT;
    Atomics.store(this.#ring.deviceEvent, 0, wish);
    if (this.#copies !== null && !this.#copies.pushWish()) return this.unreachable();
    return this.#seen > 0 || this.#look() > 0;
  }

  // ---- reading what the driver wrote

  /**
   * Looks for more available descriptors, a batch of them at the most, and gives {@link #seen}. A driver that makes
   * descriptors available which it has not got back is not seen to: the ring ends there.
   */
  #look(): number {
    const { num } = this;
    const { desc } = this.#ring;
    const words = this.#words;
    const seen = this.#seen;
    let limit = Math.min(seen + BATCH_FRAMES, num - this.#outstanding);
    if (seen >= limit) return seen;
    let index = this.#avail + seen;
    let wrap = this.#availWrap;
    if (index >= num) {
      index -= num;
      wrap ^= 1;
    }
    if (this.#copies !== null) {
      const available = this.#copies.pullAvailable(index, limit - seen, wrap);
      if (available < 0) this.unreachable();
      if (available <= 0) return seen;
      limit = seen + available;
    }
    let owner = wrap === 1 ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED;
    let last = index * DESC_WORDS + DESC_ID_FLAGS;
    let word = Atomics.load(desc, last);
    let found = seen;
    while (((word >>> FLAGS_SHIFT) & OWNER) === owner) {
      words[index] = word;
      if (++found === limit) break;
      if (++index === num) {
        index = 0;
        owner ^= OWNER;
      }
      last = index * DESC_WORDS + DESC_ID_FLAGS;
      word = desc[last]!;
    }
    // The plain reads above come before any of what they make readable: see the top.
    if (found > seen) Atomics.load(desc, last);
    this.#seen = found;
    return found;
  }

  /**
   * Follows the chain (§2.8.6) that starts `offset` descriptors behind {@link #avail}, one that is seen, and appends its
   * buffers from index `walked` on, up to index `limit`; all must have the direction `direction` (0 or
   * VIRTQ_DESC_F_WRITE). Adds their bytes to walkedBytes. Gives the number of its descriptors; 0: the ring is broken.
   */
  #walk(offset: number, direction: number, address: Float64Array, length: Int32Array, limit: number): number {
    const { num } = this;
    const { desc } = this.#ring;
    const head = (this.#avail + offset) % num;
    for (let count = 0; ; ) {
      if (offset + count === this.#seen && this.#look() === offset + count) {
        this.fail(count === num ? 'CHAIN_LOOPS' : 'CHAIN_NOT_AVAILABLE', head, count);
        return 0;
      }
      if (count === MAX_FRAME_SEGMENTS) {
        this.fail('CHAIN_TOO_LONG', head, count);
        return 0;
      }
      let index = head + count;
      if (index >= num) index -= num;
      const word = this.#words[index]!;
      const flags = word >>> FLAGS_SHIFT;
      const at = index * DESC_WORDS;
      const low = desc[at + DESC_ADDR_LOW]!;
      const high = desc[at + DESC_ADDR_HIGH]!;
      const len = desc[at + DESC_LEN]!;
      count++;
      if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) {
        if ((flags & VIRTQ_DESC_F_NEXT) !== 0) {
          this.fail('INDIRECT_WITH_NEXT', index, flags);
          return 0;
        }
        if (!this.loadIndirect(index, low, high, len)) return 0;
        if (!this.#walkTable(len / VIRTQ_DESC_BYTES, direction, address, length, limit)) return 0;
      } else {
        if ((flags & VIRTQ_DESC_F_WRITE) !== direction) {
          this.fail('WRONG_DIRECTION', index, flags);
          return 0;
        }
        if (len > 0 && !this.appendBuffer(index, low, high, len, address, length, limit)) return 0;
      }
      if ((flags & VIRTQ_DESC_F_NEXT) === 0) {
        // §2.8.6: the last descriptor of a chain has the buffer id.
        this.#walkedId = word & ID_MASK;
        this.#looked += count;
        return count;
      }
    }
  }

  /** Appends the buffers of the indirect table of `entries` in {@link table}; its flags but WRITE mean nothing (§2.8.7). */
  #walkTable(entries: number, direction: number, address: Float64Array, length: Int32Array, limit: number): boolean {
    const { table } = this;
    for (let i = 0; i < entries; i++) {
      const at = i * DESC_WORDS;
      const flags = table[at + DESC_ID_FLAGS]! >>> FLAGS_SHIFT;
      if ((flags & VIRTQ_DESC_F_WRITE) !== direction) return this.fail('WRONG_DIRECTION', i, flags);
      const len = table[at + DESC_LEN]!;
      if (len === 0) continue;
      const low = table[at + DESC_ADDR_LOW]!;
      if (!this.appendBuffer(i, low, table[at + DESC_ADDR_HIGH]!, len, address, length, limit)) return false;
    }
    this.#looked += entries;
    return true;
  }
}
