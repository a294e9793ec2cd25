/**
 * A packed virtqueue in memory that is private to the client: what is to be copied when (memory/mirror.ts).
 *
 *     before looking          descriptors, twice: the first time shows which are available, and those are whole the second time
 *     before publishing       used descriptors, the first of a batch last
 *     before deciding a call  the driver event area
 *     asking for kicks        the device event area; the look after that is another call
 *
 * The half of a descriptor with length, id and flags is an aligned word of 8 bytes, which the kernel copies in one go. Parts
 * of the ring that are shared after all are left alone.
 */
import { type Address, addressOf } from '../linux/libc.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { Mirror, Transfer } from '../memory/mirror.ts';
import { DESC_ID_FLAGS, DESC_LEN, DESC_WORDS, FLAGS_SHIFT, type PackedRingViews } from './packed-ring.ts';
import { VIRTQ_DESC_BYTES, VIRTQ_DESC_F_AVAIL, VIRTQ_DESC_F_USED, VIRTQ_EVENT_SUPPRESS_BYTES } from './virtio.ts';

const WORD_BYTES = 8;
const OWNER = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED;
const LEN_OFFSET = DESC_LEN * Uint32Array.BYTES_PER_ELEMENT;

export class PackedRingMirror {
  readonly #views: PackedRingViews;
  readonly #num: number;
  readonly #mirror: Mirror;
  readonly #pulls: Transfer;
  readonly #pushes: Transfer;
  readonly #desc: Address;
  readonly #driverEvent: Address;
  readonly #deviceEvent: Address;
  /** Whether {@link pushUsed} shows the driver what was used; else a store to the ring does. */
  readonly publishes: boolean;
  readonly #driverMirrored: boolean;
  readonly #deviceMirrored: boolean;
  /** Descriptors as the first look finds them. */
  readonly #seen: Uint32Array;
  readonly #seenAddress: Address;
  readonly #word = new Uint32Array(new ArrayBuffer(WORD_BYTES));
  readonly #wordAddress: Address = addressOf(this.#word);

  /** The copies for a ring in `memory`, or null where all of it is shared. At most `most` descriptors are pulled at a time. */
  static of(
    memory: GuestMemory,
    views: PackedRingViews,
    pushes: Transfer | null,
    options: { num: number; most: number },
  ): PackedRingMirror | null {
    const { mirror } = memory;
    if (mirror === null || pushes === null) return null;
    const ring = new PackedRingMirror(mirror, views, pushes, options);
    return ring.publishes || ring.#driverMirrored || ring.#deviceMirrored ? ring : null;
  }

  private constructor(
    mirror: Mirror,
    views: PackedRingViews,
    pushes: Transfer,
    { num, most }: { num: number; most: number },
  ) {
    this.#views = views;
    this.#num = num;
    this.#mirror = mirror;
    this.#pulls = mirror.pulls;
    this.#pushes = pushes;
    this.#desc = views.descAddress;
    this.#driverEvent = views.driverEventAddress;
    this.#deviceEvent = views.deviceEventAddress;
    this.publishes = mirror.holds(this.#desc);
    this.#driverMirrored = mirror.holds(this.#driverEvent);
    this.#deviceMirrored = mirror.holds(this.#deviceEvent);
    this.#seen = new Uint32Array(new ArrayBuffer(most * VIRTQ_DESC_BYTES));
    this.#seenAddress = addressOf(this.#seen);
    if (this.publishes) mirror.keep(this.#desc, num * VIRTQ_DESC_BYTES);
    if (this.#driverMirrored) mirror.keep(this.#driverEvent, VIRTQ_EVENT_SUPPRESS_BYTES);
    if (this.#deviceMirrored) mirror.keep(this.#deviceEvent, VIRTQ_EVENT_SUPPRESS_BYTES);
  }

  /**
   * Pulls the descriptors from `index` on that are available, `count` at the most; `wrap` is the driver's wrap counter there.
   * Gives how many may be looked at: `count` where they are shared. -1: they cannot be had.
   */
  pullAvailable(index: number, count: number, wrap: number): number {
    if (!this.publishes) return count;
    const client = this.#mirror.userAddress(this.#desc);
    const upToEnd = Math.min(count, this.#num - index);
    this.#pulls.addPair(this.#seenAddress, client + index * VIRTQ_DESC_BYTES, upToEnd * VIRTQ_DESC_BYTES);
    if (count > upToEnd) {
      const done = upToEnd * VIRTQ_DESC_BYTES;
      this.#pulls.addPair(this.#seenAddress + done, client, (count - upToEnd) * VIRTQ_DESC_BYTES);
    }
    if (!this.#pulls.run()) return -1;
    const available = this.#countAvailable(upToEnd, count, wrap);
    if (available === 0) return 0;
    const whole = Math.min(available, upToEnd);
    this.#pulls.add(this.#desc + index * VIRTQ_DESC_BYTES, whole * VIRTQ_DESC_BYTES);
    if (available > whole) this.#pulls.add(this.#desc, (available - whole) * VIRTQ_DESC_BYTES);
    return this.#pulls.run() ? available : -1;
  }

  /** How many of `count` descriptors seen are available, without a break; after `upToEnd` the ring begins anew. */
  #countAvailable(upToEnd: number, count: number, wrap: number): number {
    let owner = wrap === 1 ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED;
    for (let i = 0; i < count; i++) {
      if (i === upToEnd) owner ^= OWNER;
      const flags = this.#seen[i * DESC_WORDS + DESC_ID_FLAGS]! >>> FLAGS_SHIFT;
      if ((flags & OWNER) !== owner) return i;
    }
    return count;
  }

  /** Notes that descriptor `index` is to be pushed: its length, id and flags. */
  noteUsed(index: number): void {
    if (this.publishes) this.#pushes.add(this.#desc + index * VIRTQ_DESC_BYTES + LEN_OFFSET, WORD_BYTES);
  }

  /** Pushes all that was noted, and behind it used descriptor `first`, which shows the others to the driver. */
  pushUsed(first: number): boolean {
    this.#pushes.split();
    this.noteUsed(first);
    return this.#pushes.run();
  }

  /** Pulls what the driver wishes of calls. */
  pullWish(): boolean {
    if (!this.#driverMirrored) return true;
    const offset = this.#driverEvent % WORD_BYTES;
    this.#pulls.addPair(this.#wordAddress, this.#mirror.userAddress(this.#driverEvent) - offset, WORD_BYTES);
    if (!this.#pulls.run()) return false;
    this.#views.driverEvent[0] = this.#word[offset / VIRTQ_EVENT_SUPPRESS_BYTES]!;
    return true;
  }

  /** Pushes the wish for kicks. Byte by byte at worst: the flags are the last of them. */
  pushWish(): boolean {
    if (!this.#deviceMirrored) return true;
    this.#pushes.add(this.#deviceEvent, VIRTQ_EVENT_SUPPRESS_BYTES);
    return this.#pushes.run();
  }
}
