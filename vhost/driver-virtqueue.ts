/**
 * The driver side of a split virtqueue (virtio 1.2 §2.7): addresses and lengths, and nothing of what they mean.
 *
 * The ring has a buffer of fixed size for each of its descriptors, a *slot*: descriptor i is slot i, in chains of one.
 *
 *              take()            offer()              publish()             poll()
 *     free ──────────► held ──────────────► staged ──────────────► offered ─────────┐
 *      ▲                ▲ │                             (the device's)              │
 *      └──── giveBack() ──┘ ◄───────────────── used entries, oldest first ◄─────────┘
 *
 * A transmit ring takes a slot, fills it, offers it, and gives it back when it was used; a receive ring offers all of its
 * slots, and each again when what stands in it was dealt with.
 *
 *     const queue = new DriverVirtqueue(memory, { num: 256, slotBytes: 2048, writable: false, features });
 *     const slot = queue.take();                    // -1: all are on their way
 *     queue.offer(slot, length);                    // filled by the caller, at queue.slotAddress(slot)
 *     queue.publish();                              // once a batch; kicks where the device wants it
 *     for (let i = queue.poll(); i > 0; i--) queue.giveBack(queue.shift());
 *
 * What the device writes is read once, into this side's own memory, then validated, then used. What is wrong sets
 * {@link DriverVirtqueue.error}; the ring is dead then until {@link DriverVirtqueue.reset}. Never is anything read back
 * that this side wrote itself. One thread only. Hot: allocates nothing.
 */
import { signalEventfd } from '../linux/eventfd.ts';
import type { Address } from '../linux/libc.ts';
import { type DriverError, type DriverErrorCode, driverError } from './driver-error.ts';
import { type DriverMemory, lines } from './driver-memory.ts';
import {
  AVAIL_RING,
  DESC_ADDR_HIGH,
  DESC_ADDR_LOW,
  DESC_FLAGS_NEXT,
  DESC_LEN,
  DESC_WORDS,
  FLAGS,
  IDX,
  type RingAddresses,
  ringSizes,
} from './split-ring.ts';
import {
  type Features,
  hasFeature,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_USED_ENTRY_BYTES,
  VIRTQ_USED_F_NO_NOTIFY,
  VIRTQ_USED_HEADER_BYTES,
} from './virtio.ts';

const TWO_32 = 2 ** 32;
const NO_FD = -1;
/** Entries of a split virtqueue at the most (§2.7). */
const MAX_NUM = 32_768;
/** No slot: the answer of {@link DriverVirtqueue.take} when there is none. */
export const NO_SLOT = -1;

// What a slot is.
const FREE = 0;
const HELD = 1;
const STAGED = 2;
const OFFERED = 3;
const STATE_NAMES = ['free', 'held', 'staged', 'offered'];

export interface DriverVirtqueueOptions {
  /** Entries, and slots: a power of two up to 32,768. */
  num: number;
  /** Bytes of each slot. */
  slotBytes: number;
  /** Whether the device writes (a receive ring) or reads. */
  writable: boolean;
  /** As negotiated; VIRTIO_RING_F_EVENT_IDX matters here. */
  features: Features;
}

export class DriverVirtqueue {
  /** What the device broke, or null. */
  error: DriverError | null = null;
  /** eventfd that wakes the device; -1: there is none. The caller's to close. */
  kick = NO_FD;
  /** Kicks sent and withheld. */
  kicks = 0;
  kicksSuppressed = 0;

  readonly num: number;
  readonly slotBytes: number;
  readonly writable: boolean;
  /** Where the three parts stand (struct vhost_vring_addr). */
  readonly addresses: RingAddresses;
  readonly #mask: number;
  readonly #eventIdx: boolean;
  readonly #slots: Address;
  readonly #stride: number;
  readonly #desc: Uint32Array;
  /** flags, idx, ring[num], used_event. */
  readonly #avail: Uint16Array;
  readonly #used: Uint16Array;
  readonly #usedRing: Uint32Array;
  readonly #availEvent: Uint16Array;

  readonly #state: Uint8Array;
  /** Bytes of each slot that the device was offered. */
  readonly #length: Uint32Array;
  /** Free slots, the last given back on top: it is the warmest. */
  readonly #free: Uint16Array;
  #freeCount = 0;
  /** Slots staged since the last publish. */
  readonly #staged: Uint16Array;
  #stagedCount = 0;
  /** avail.idx as published; 16 bits. */
  #availIdx = 0;
  /** Slots that the device has. */
  #offered = 0;
  /** Used entries read and not yet shifted, from #usedFirst on; index and length of the slot, round the ring. */
  readonly #usedSlot: Uint16Array;
  readonly #usedLength: Uint32Array;
  #usedFirst = 0;
  #usedCount = 0;
  /** used.idx up to which entries were read; 16 bits. */
  #usedIdx = 0;
  #wantsCalls = true;

  /** Bytes of {@link DriverMemory} that a ring of these options takes. */
  static bytes({ num, slotBytes }: { num: number; slotBytes: number }): number {
    const { desc, avail, used } = ringSizes(num, true);
    return lines(desc) + lines(avail) + lines(used) + num * strideOf(slotBytes);
  }

  /** Lays the ring out in `memory` and resets it. Throws RangeError for options that no ring can have. */
  constructor(memory: DriverMemory, { num, slotBytes, writable, features }: DriverVirtqueueOptions) {
    if (!Number.isInteger(num) || num < 1 || num > MAX_NUM || (num & (num - 1)) !== 0) {
      throw new RangeError(`virtqueue of ${num} entries: give a power of two from 1 to ${MAX_NUM}`);
    }
    if (!Number.isInteger(slotBytes) || slotBytes < 1 || slotBytes > 0x7fff_ffff) {
      throw new RangeError(`virtqueue with slots of ${slotBytes} bytes: give 1 or more, below 2 GiB`);
    }
    this.num = num;
    this.#mask = num - 1;
    this.slotBytes = slotBytes;
    this.writable = writable;
    this.#eventIdx = hasFeature(features, VIRTIO_RING_F_EVENT_IDX);
    const sizes = ringSizes(num, true);
    const addresses = {
      desc: memory.allocate(sizes.desc),
      avail: memory.allocate(sizes.avail),
      used: memory.allocate(sizes.used),
    };
    this.addresses = addresses;
    this.#stride = strideOf(slotBytes);
    this.#slots = memory.allocate(num * this.#stride);
    this.#desc = new Uint32Array(memory.view(addresses.desc, sizes.desc));
    this.#avail = new Uint16Array(memory.view(addresses.avail, sizes.avail));
    const used = memory.view(addresses.used, sizes.used);
    const ringBytes = num * VIRTQ_USED_ENTRY_BYTES;
    this.#used = new Uint16Array(used, 0, 2);
    this.#usedRing = new Uint32Array(used, VIRTQ_USED_HEADER_BYTES, 2 * num);
    this.#availEvent = new Uint16Array(used, VIRTQ_USED_HEADER_BYTES + ringBytes, 1);
    this.#state = new Uint8Array(num);
    this.#length = new Uint32Array(num);
    this.#free = new Uint16Array(num);
    this.#staged = new Uint16Array(num);
    this.#usedSlot = new Uint16Array(num);
    this.#usedLength = new Uint32Array(num);
    this.reset();
  }

  /** As new: all slots free, both indices 0. The device must not run the ring, and starts at base 0 then. */
  reset(): void {
    this.error = null;
    this.#avail.fill(0);
    this.#used.fill(0);
    this.#usedRing.fill(0);
    this.#availEvent[0] = 0;
    this.#state.fill(FREE);
    for (let slot = 0; slot < this.num; slot++) {
      const address = this.slotAddress(slot);
      const word = slot * DESC_WORDS;
      this.#desc[word + DESC_ADDR_LOW] = address % TWO_32;
      this.#desc[word + DESC_ADDR_HIGH] = Math.floor(address / TWO_32);
      this.#desc[word + DESC_LEN] = this.slotBytes;
      this.#desc[word + DESC_FLAGS_NEXT] = this.writable ? VIRTQ_DESC_F_WRITE : 0;
      // Slot 0 comes first.
      this.#free[slot] = this.num - 1 - slot;
    }
    this.#freeCount = this.num;
    this.#stagedCount = 0;
    this.#availIdx = 0;
    this.#offered = 0;
    this.#usedFirst = 0;
    this.#usedCount = 0;
    this.#usedIdx = 0;
    this.#wantsCalls = true;
  }

  // ---- slots

  /** Where a slot's bytes stand, here and for the device. */
  slotAddress(slot: number): Address {
    return this.#slots + slot * this.#stride;
  }

  /** Where slot `slot` stands in memory that begins at slot 0. */
  slotOffset(slot: number): number {
    return slot * this.#stride;
  }

  /** Bytes from slot 0 to the end of the last one. */
  get slotsBytes(): number {
    return this.num * this.#stride;
  }

  /** Slots that {@link take} can give. */
  get freeSlots(): number {
    return this.#freeCount;
  }

  /** Slots that the device has. */
  get offered(): number {
    return this.#offered;
  }

  /** A free slot, held from now on; NO_SLOT when there is none. */
  take(): number {
    if (this.#freeCount === 0) return NO_SLOT;
    const slot = this.#free[--this.#freeCount]!;
    this.#state[slot] = HELD;
    return slot;
  }

  /** Gives a held slot back to the free ones. */
  giveBack(slot: number): void {
    this.#expectHeld(slot, 'give back');
    this.#state[slot] = FREE;
    this.#free[this.#freeCount++] = slot;
  }

  #expectHeld(slot: number, what: string): void {
    if (this.#state[slot] === HELD) return;
    const state = STATE_NAMES[this.#state[slot] ?? -1] ?? 'not of this ring';
    throw new RangeError(`cannot ${what} slot ${slot}: it is ${state}`);
  }

  // ---- to the device (§2.7.13)

  /** Stages a held slot for the device: its first `length` bytes are to be read, or may be written. */
  offer(slot: number, length: number): void {
    this.#expectHeld(slot, 'offer');
    if (!(length >= 1 && length <= this.slotBytes)) {
      throw new RangeError(`cannot offer ${length} bytes of a slot of ${this.slotBytes}`);
    }
    this.#desc[slot * DESC_WORDS + DESC_LEN] = length;
    this.#length[slot] = length;
    this.#avail[AVAIL_RING + ((this.#availIdx + this.#stagedCount) & this.#mask)] = slot;
    this.#staged[this.#stagedCount++] = slot;
    this.#state[slot] = STAGED;
  }

  /** Shows the device what was staged, and kicks it where it asked for that (§2.7.13.3, §2.7.13.4). */
  publish(): void {
    const count = this.#stagedCount;
    if (count === 0 || this.error !== null) return;
    for (let i = 0; i < count; i++) this.#state[this.#staged[i]!] = OFFERED;
    this.#stagedCount = 0;
    this.#offered += count;
    const old = this.#availIdx;
    const now = (old + count) & 0xffff;
    this.#availIdx = now;
    // A full fence: the entries are visible before idx, and idx before the device's wish is read.
    Atomics.store(this.#avail, IDX, now);
    if (this.#wantsKick(old, now)) {
      this.kicks++;
      if (this.kick !== NO_FD) signalEventfd(this.kick);
    } else this.kicksSuppressed++;
  }

  #wantsKick(old: number, now: number): boolean {
    if (!this.#eventIdx) return (Atomics.load(this.#used, FLAGS) & VIRTQ_USED_F_NO_NOTIFY) === 0;
    // vring_need_event (§2.7.10): avail_event lies in [old, now). All 65,536 entries are never published at once.
    const availEvent = Atomics.load(this.#availEvent, 0);
    return ((now - availEvent - 1) & 0xffff) < ((now - old) & 0xffff);
  }

  // ---- from the device (§2.7.14)

  /**
   * Reads the used entries that are new: their slots are held again. Gives how many wait to be {@link shift}ed, older
   * ones among them; those stay good when the ring breaks.
   */
  poll(): number {
    if (this.error !== null) return this.#usedCount;
    const idx = Atomics.load(this.#used, IDX);
    const fresh = (idx - this.#usedIdx) & 0xffff;
    if (fresh === 0) return this.#usedCount;
    if (fresh > this.#offered) this.#fail('USED_IDX_JUMPED', this.#usedIdx, idx);
    else for (let i = 0; i < fresh && this.#readUsed(); i++);
    return this.#usedCount;
  }

  #readUsed(): boolean {
    const at = this.#usedIdx & this.#mask;
    const id = this.#usedRing[2 * at]!;
    const length = this.#usedRing[2 * at + 1]!;
    if (id >= this.num) return this.#fail('USED_ID_OUT_OF_RANGE', this.#usedIdx, id);
    if (this.#state[id] !== OFFERED) return this.#fail('USED_ID_NOT_OUTSTANDING', this.#usedIdx, id);
    // The length of a buffer that the device only reads means nothing (§2.7.8.2).
    if (this.writable && length > this.#length[id]!) return this.#fail('USED_LENGTH', this.#usedIdx, length);
    this.#state[id] = HELD;
    this.#offered--;
    const place = (this.#usedFirst + this.#usedCount++) & this.#mask;
    this.#usedSlot[place] = id;
    this.#usedLength[place] = this.writable ? length : 0;
    this.#usedIdx = (this.#usedIdx + 1) & 0xffff;
    return true;
  }

  /** Slot of the `i`-th used entry that waits, 0 being the oldest; i is below what {@link poll} gave. */
  usedSlot(i: number): number {
    return this.#usedSlot[(this.#usedFirst + i) & this.#mask]!;
  }

  /** Bytes that the device wrote into the slot of the `i`-th used entry; 0 in a ring that it reads. */
  usedLength(i: number): number {
    return this.#usedLength[(this.#usedFirst + i) & this.#mask]!;
  }

  /** Takes the oldest used entry away: its slot, which stays held; NO_SLOT when none waits. */
  shift(): number {
    if (this.#usedCount === 0) return NO_SLOT;
    const slot = this.#usedSlot[this.#usedFirst]!;
    this.#usedFirst = (this.#usedFirst + 1) & this.#mask;
    this.#usedCount--;
    return slot;
  }

  // ---- calls (§2.7.7)

  /** Tells the device that this side polls: no calls, please. */
  disableCalls(): void {
    if (!this.#wantsCalls) return;
    this.#wantsCalls = false;
    // With EVENT_IDX used_event just stays where it was, behind the device.
    if (!this.#eventIdx) this.#avail[FLAGS] = VIRTQ_AVAIL_F_NO_INTERRUPT;
  }

  /** Asks for a call with the next used entry. True when there is one already: poll again instead of sleeping. */
  enableCalls(): boolean {
    if (this.error !== null) return false;
    this.#wantsCalls = true;
    if (this.#eventIdx) Atomics.store(this.#avail, AVAIL_RING + this.num, this.#usedIdx);
    else Atomics.store(this.#avail, FLAGS, 0);
    return Atomics.load(this.#used, IDX) !== this.#usedIdx;
  }

  /** For what a device breaks above the ring, too: `index` and `value` go into the message. */
  fail(code: DriverErrorCode, index: number, value: number): void {
    this.#fail(code, index, value);
  }

  #fail(code: DriverErrorCode, index: number, value: number): false {
    this.error ??= driverError(code, index, value);
    return false;
  }
}

/** An odd number of cache lines, so that slots do not all begin in the same set of a cache. */
function strideOf(slotBytes: number): number {
  const stride = lines(slotBytes);
  return (stride / lines(1)) % 2 === 1 ? stride : stride + lines(1);
}
