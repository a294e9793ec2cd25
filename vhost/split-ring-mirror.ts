/**
 * A split virtqueue in memory that is private to the client: what is to be copied when (memory/mirror.ts).
 *
 *     before looking          avail.idx; where it moved, the new avail entries and the descriptor table
 *     before publishing       used entries, then used.flags and used.idx
 *     before deciding a call  avail.flags, or used_event
 *     asking for kicks        avail_event, or used.flags; the look after that is another call
 *
 * Indices cross in the aligned word of 8 bytes around them: the kernel copies such a word in one go, and fewer bytes one by
 * one, so that the other side could see half of a change. Parts of the ring that are shared after all are left alone.
 */
import { type Address, addressOf } from '../linux/libc.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { Mirror, Transfer } from '../memory/mirror.ts';
import { AVAIL_RING, FLAGS, IDX, type SplitRingViews } from './split-ring.ts';
import {
  VIRTQ_AVAIL_ENTRY_BYTES,
  VIRTQ_AVAIL_HEADER_BYTES,
  VIRTQ_DESC_BYTES,
  VIRTQ_EVENT_BYTES,
  VIRTQ_USED_ENTRY_BYTES,
  VIRTQ_USED_HEADER_BYTES,
} from './virtio.ts';

const WORD_BYTES = 8;
const HALF_BYTES = 2;

export class SplitRingMirror {
  readonly #views: SplitRingViews;
  readonly #num: number;
  readonly #eventIdx: boolean;
  readonly #pulls: Transfer;
  readonly #pushes: Transfer;
  readonly #mirror: Mirror;
  readonly #descMirrored: boolean;
  readonly #availMirrored: boolean;
  /** Whether {@link pushUsed} shows the driver what was used; else a store to the ring does. */
  readonly publishes: boolean;
  /** used.flags and used.idx, and the id after them where all three lie in one word. */
  readonly #usedHeaderBytes: number;
  readonly #word = new Uint16Array(new ArrayBuffer(WORD_BYTES));
  readonly #wordAddress: Address = addressOf(this.#word);
  /** avail.idx up to which entries and descriptors are here. */
  #availIdx: number;

  /** The copies for a ring in `memory`, or null where all of it is shared. `pushes` is the ring's own. */
  static of(
    memory: GuestMemory,
    views: SplitRingViews,
    pushes: Transfer | null,
    options: { num: number; eventIdx: boolean; lastAvail: number },
  ): SplitRingMirror | null {
    const { mirror } = memory;
    if (mirror === null || pushes === null) return null;
    const ring = new SplitRingMirror(mirror, views, pushes, options);
    return ring.#descMirrored || ring.#availMirrored || ring.publishes ? ring : null;
  }

  private constructor(
    mirror: Mirror,
    views: SplitRingViews,
    pushes: Transfer,
    { num, eventIdx, lastAvail }: { num: number; eventIdx: boolean; lastAvail: number },
  ) {
    this.#views = views;
    this.#mirror = mirror;
    this.#num = num;
    this.#eventIdx = eventIdx;
    this.#pulls = mirror.pulls;
    this.#pushes = pushes;
    this.#availIdx = lastAvail;
    const used = views.usedRingAddress - VIRTQ_USED_HEADER_BYTES;
    this.#descMirrored = mirror.holds(views.descAddress);
    this.#availMirrored = mirror.holds(views.availRingAddress);
    this.publishes = mirror.holds(used);
    this.#usedHeaderBytes = used % WORD_BYTES === 0 ? WORD_BYTES : VIRTQ_USED_HEADER_BYTES;
    if (this.#descMirrored) mirror.keep(views.descAddress, num * VIRTQ_DESC_BYTES);
    if (this.#availMirrored) {
      const entries = num * VIRTQ_AVAIL_ENTRY_BYTES + VIRTQ_EVENT_BYTES;
      mirror.keep(views.availRingAddress - VIRTQ_AVAIL_HEADER_BYTES, VIRTQ_AVAIL_HEADER_BYTES + entries);
    }
    if (this.publishes) {
      mirror.keep(used, VIRTQ_USED_HEADER_BYTES + num * VIRTQ_USED_ENTRY_BYTES + VIRTQ_EVENT_BYTES);
    }
  }

  /** Pulls the used ring, which the device goes on from. False: it cannot be had. */
  pullUsed(): boolean {
    if (!this.publishes) return true;
    const bytes = VIRTQ_USED_HEADER_BYTES + this.#num * VIRTQ_USED_ENTRY_BYTES;
    this.#pulls.add(this.#views.usedRingAddress - VIRTQ_USED_HEADER_BYTES, bytes);
    return this.#pulls.run();
  }

  /** Pushes used.flags and used.idx. */
  pushHeader(): boolean {
    // Ranges are written in the order of the array, and x86-64 shows stores in theirs.
    this.#pushes.split();
    this.#pushes.add(this.#views.usedRingAddress - VIRTQ_USED_HEADER_BYTES, this.#usedHeaderBytes);
    return this.#pushes.run();
  }

  /** avail.idx as it is now, with the entries before it and all descriptors pulled; -1: they cannot be had. */
  pullAvail(): number {
    const { avail, availRingAddress, descAddress } = this.#views;
    let idx = 0;
    if (this.#availMirrored) {
      idx = this.#pullHalf(availRingAddress - VIRTQ_AVAIL_HEADER_BYTES + IDX * HALF_BYTES);
      if (idx < 0) return -1;
    } else idx = Atomics.load(avail, IDX);
    const from = this.#availIdx;
    if (idx === from) return idx;
    const num = this.#num;
    const first = from & (num - 1);
    // An index that jumped is refused by who asked; here it must only not lead beyond the ring.
    const count = Math.min((idx - from) & 0xffff, num);
    const upToEnd = Math.min(count, num - first);
    const entry = VIRTQ_AVAIL_ENTRY_BYTES;
    this.#pulls.add(availRingAddress + first * entry, upToEnd * entry);
    if (count > upToEnd) this.#pulls.add(availRingAddress, (count - upToEnd) * entry);
    this.#pulls.add(descAddress, num * VIRTQ_DESC_BYTES);
    if (!this.#pulls.run()) return -1;
    this.#availIdx = idx;
    return idx;
  }

  /** Pushes used entries `from` … `to` - 1 behind whatever waits to be pushed, and then flags and idx. */
  pushUsed(from: number, to: number): boolean {
    const { usedRingAddress } = this.#views;
    const num = this.#num;
    const first = from & (num - 1);
    const count = Math.min((to - from) & 0xffff, num);
    const upToEnd = Math.min(count, num - first);
    const entry = VIRTQ_USED_ENTRY_BYTES;
    this.#pushes.add(usedRingAddress + first * entry, upToEnd * entry);
    if (count > upToEnd) this.#pushes.add(usedRingAddress, (count - upToEnd) * entry);
    return this.pushHeader();
  }

  /** Pulls what the driver wishes of calls: avail.flags, or used_event. */
  pullWish(): boolean {
    if (!this.#availMirrored) return true;
    const { avail, availRingAddress } = this.#views;
    const at = this.#eventIdx ? AVAIL_RING + this.#num : FLAGS;
    const half = this.#pullHalf(availRingAddress + (at - AVAIL_RING) * HALF_BYTES);
    if (half < 0) return false;
    avail[at] = half;
    return true;
  }

  /** Pushes the wish for kicks: avail_event, or used.flags. */
  pushWish(): boolean {
    if (!this.publishes) return true;
    if (!this.#eventIdx) return this.pushHeader();
    // Half of a change is no harm here: a driver that saw it has announced its chain before the look that follows.
    this.#pushes.add(this.#views.usedRingAddress + this.#num * VIRTQ_USED_ENTRY_BYTES, VIRTQ_EVENT_BYTES);
    return this.#pushes.run();
  }

  /** 16 bits of the client at an even address, by the word around them; -1: they cannot be had. */
  #pullHalf(address: Address): number {
    const offset = address % WORD_BYTES;
    this.#pulls.addPair(this.#wordAddress, this.#mirror.userAddress(address) - offset, WORD_BYTES);
    return this.#pulls.run() ? this.#word[offset / HALF_BYTES]! : -1;
  }
}
