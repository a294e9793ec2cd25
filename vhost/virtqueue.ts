/**
 * What the device side of a virtqueue is to a lane, and what split (virtio 1.2 §2.7) and packed ones (§2.8) have in common.
 *
 * Life: a lane makes one when the ring gets its backend, asks {@link Virtqueue.receive} or {@link Virtqueue.deliver} in
 * its poll loop, and drops it when the ring is stopped; {@link Virtqueue.base} is then where a successor goes on. One
 * thread only.
 *
 * Rules against hostile drivers: every word of theirs is read once, into a local, then validated, then used. Chains are
 * bounded by their table and by MAX_FRAME_SEGMENTS, addresses by the mapped memory. What is wrong sets
 * {@link Virtqueue.error}; the ring then takes and gives nothing more.
 *
 * Two speeds: a chain of one buffer, which nearly all are, is dealt with in the loop of receive and deliver itself; every
 * other goes through the general walk. Both check the same things.
 *
 * Where memory is private to the client (memory/mirror.ts), all of this happens on a mirror of it: bytes are pulled before
 * they are looked at, and pushed before they are announced.
 *
 * What writes to the driver's memory: copies of frames, used entries, their publication, and the wish for kicks; nothing
 * else does. A dirty log and in-flight tracking would hook in there.
 */
import { signalEventfd } from '../linux/eventfd.ts';
import { type Address, addressOf } from '../linux/libc.ts';
import { fullFence } from '../memory/fence.ts';
import {
  BATCH_FRAMES,
  type FrameBatch,
  MAX_FRAME_BYTES,
  MAX_FRAME_SEGMENTS,
  MIN_FRAME_BYTES,
} from '../memory/frame-batch.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { type Mirror, Transfer } from '../memory/mirror.ts';
import { type RingError, type RingErrorCode, ringError } from './ring-error.ts';
import type { RingAddresses } from './split-ring.ts';
import {
  type Features,
  hasFeature,
  netHeaderBytes,
  VIRTIO_F_IN_ORDER,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
  VIRTQ_DESC_BYTES,
} from './virtio.ts';

const TWO_32 = 2 ** 32;
/** Addresses at or above this cannot be added to a length exactly in a double; no machine has them. */
const ADDRESS_HIGH_LIMIT = 2 ** 20;
export const NO_FD = -1;

/** Why {@link Virtqueue.deliver} took no more frames. */
export const NO_REFUSAL = 0;
/** The driver has no (or not enough) buffers now. */
export const NO_BUFFERS = 1;
/**
 * The frame is longer than the buffer that the driver gave, without VIRTIO_NET_F_MRG_RXBUF; with it, the buffers are so
 * small that the frame would need more than MAX_FRAME_SEGMENTS of them.
 */
export const BUFFER_TOO_SMALL = 2;
/** The ring is broken: see {@link Virtqueue.error}. */
export const RING_BROKEN = 3;

/** A ring as it was negotiated: plain data that crosses threads. */
export interface RingDescription {
  addresses: RingAddresses;
  /** Entries; a power of two in a split ring. */
  num: number;
  /** Where to start (VHOST_SET_VRING_BASE). */
  base: number;
  features: Features;
  /** eventfds of this process, -1 where there is none. The lane does not close them. */
  kick: number;
  call: number;
  err: number;
}

/** The ring does not lie in memory of the client that a region names, or cannot be reached there. */
export class RingUnmappedError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'RingUnmappedError';
  }

  static of({ num, addresses: { desc, avail, used } }: RingDescription): RingUnmappedError {
    const hex = (n: number): string => `0x${n.toString(16)}`;
    return new RingUnmappedError(
      `virtqueue of ${num} entries (desc ${hex(desc)}, avail ${hex(avail)}, used ${hex(used)}) is not in memory that ` +
        'a region of the memory table names and the client has mapped to read and write',
    );
  }
}

/** Where copies to the private parts of `memory` are noted; null where it has none. */
export function pushesTo({ mirror }: GuestMemory): Transfer | null {
  return mirror === null ? null : Transfer.pushes(mirror);
}

export abstract class Virtqueue {
  /** What the driver broke, or null. */
  error: RingError | null = null;
  /** Why the last {@link deliver} took fewer frames than it was given. */
  refusal = NO_REFUSAL;
  /** Calls (interrupts) sent and withheld, for `show rings`. */
  calls = 0;
  callsSuppressed = 0;
  /** Frames shorter than an Ethernet header, or longer than any frame, taken from the driver and thrown away. */
  malformed = 0;
  kick: number;
  call: number;
  err: number;

  readonly num: number;
  readonly headerBytes: number;
  /** A chain that holds a frame has this many bytes, header included. */
  protected readonly leastBytes: number;
  protected readonly mostBytes: number;
  protected readonly description: RingDescription;
  protected readonly eventIdx: boolean;
  protected readonly indirect: boolean;
  protected readonly mergeable: boolean;
  protected readonly inOrder: boolean;
  protected memory: GuestMemory;
  /** What lies behind private memory, and the copies that go there; null where all memory is shared. */
  protected mirror: Mirror | null;
  protected pushes: Transfer | null;
  /** Chains taken by {@link receive} and not yet released. */
  protected taken = 0;
  /** Chains that {@link release} returned to the ring, whose bytes are in the mirror if it has them still. */
  protected ahead = 0;
  #aheadTrims = 0;

  /** An indirect table, copied before it is looked at. */
  protected readonly table = new Uint32Array((MAX_FRAME_SEGMENTS * VIRTQ_DESC_BYTES) / 4);
  readonly #tableAddress: Address = addressOf(this.table);
  /** Buffers of the chains of one delivery: the last chain begins before MAX_FRAME_SEGMENTS and is as long at the most. */
  protected readonly toAddress = new Float64Array(2 * MAX_FRAME_SEGMENTS);
  protected readonly toLength = new Int32Array(2 * MAX_FRAME_SEGMENTS);
  /** Where the buffers of each chain of one delivery end in the two arrays above, and the bytes written into it. */
  protected readonly chainEnd = new Uint16Array(MAX_FRAME_SEGMENTS);
  protected readonly chainWritten = new Int32Array(MAX_FRAME_SEGMENTS);
  /** Where {@link appendBuffer} puts buffers next, and the bytes it has found. */
  protected walked = 0;
  protected walkedBytes = 0;

  /** The subclass maps the ring, and throws {@link RingUnmappedError} when it is not in `memory`. */
  constructor(memory: GuestMemory, description: RingDescription) {
    const { num, features } = description;
    this.description = description;
    this.memory = memory;
    this.mirror = memory.mirror;
    this.pushes = pushesTo(memory);
    this.num = num;
    this.headerBytes = netHeaderBytes(features);
    this.leastBytes = MIN_FRAME_BYTES + this.headerBytes;
    this.mostBytes = MAX_FRAME_BYTES + this.headerBytes;
    this.eventIdx = hasFeature(features, VIRTIO_RING_F_EVENT_IDX);
    this.indirect = hasFeature(features, VIRTIO_RING_F_INDIRECT_DESC);
    this.mergeable = hasFeature(features, VIRTIO_NET_F_MRG_RXBUF);
    this.inOrder = hasFeature(features, VIRTIO_F_IN_ORDER);
    this.kick = description.kick;
    this.call = description.call;
    this.err = description.err;
  }

  /** Goes over to another mapping of the client's memory (VHOST_SET_MEM_TABLE on a running ring), between batches. */
  abstract remap(memory: GuestMemory): void;

  /** Where a successor goes on (VHOST_GET_VRING_BASE); frames not released go to it again. */
  abstract get base(): number;

  /** How far the used side has come, for `show rings`. */
  abstract get usedIdx(): number;

  // ---- taking frames from the driver (its transmit ring)

  /**
   * Takes chains from the driver and appends them to `batch` as frames until it is full or the ring is empty. The
   * frames stay in the driver's buffers until {@link release}. Gives the number of frames appended.
   */
  receive(batch: FrameBatch): number {
    if (this.error !== null) return 0;
    const before = batch.count;
    const takenBefore = this.taken;
    // No more chains than a batch holds, so that a ring full of malformed frames costs others no more than one of good ones.
    let chains = Math.min(this.mostChains(), BATCH_FRAMES);
    while (chains > 0 && batch.hasRoom) {
      chains -= this.receiveBuffers(batch, Math.min(chains, batch.room));
      if (chains === 0 || !batch.hasRoom || this.error !== null || !this.#receiveChain(batch)) break;
      chains--;
    }
    if (takenBefore === 0) this.lend(this.taken);
    return batch.count - before;
  }

  /**
   * Notes in `to`, from {@link taken} on, the heads or ids of the chains that frames `first` … of `batch` came in. A column is
   * copied whole where nothing stands in the way, which is so for the first frames of a breath.
   */
  protected noteHeads(to: Uint16Array, { heads }: FrameBatch, first: number, frames: number): void {
    if (first === 0 && this.taken === 0 && to.length >= BATCH_FRAMES) to.set(heads);
    else for (let i = 0; i < frames; i++) to[this.taken + i] = heads[first + i]!;
  }

  /** Takes any chain; reads its descriptors anew. False: stop here. */
  #receiveChain(batch: FrameBatch): boolean {
    const first = batch.segments + 1;
    this.walked = first;
    this.walkedBytes = 0;
    if (!this.walkNext(batch.segmentAddress, batch.segmentLength, first + MAX_FRAME_SEGMENTS)) return false;
    const bytes = this.walkedBytes;
    const isFrame = bytes >= this.leastBytes && bytes <= this.mostBytes;
    // What is used keeps the order of the ring, so what is no frame waits until the frames before it are released.
    if (!isFrame && this.taken > 0) return false;
    if (isFrame && this.mirror !== null && this.taken >= this.stillAhead(this.mirror)) {
      if (!this.pullBuffers(this.mirror, batch, first, this.walked, 1)) return false;
    }
    this.takeWalked();
    if (isFrame) batch.append(this.walked - first, this.headerBytes, bytes - this.headerBytes);
    else {
      this.malformed++;
      this.ahead = 0;
      this.completeTaken();
    }
    return true;
  }

  /** How many chains wait at the most: a bound, for {@link receive}. 0 with the ring broken. */
  protected abstract mostChains(): number;

  /** Takes chains of one buffer, `end` at the most, until there is one of another kind. Gives how many. */
  protected abstract receiveBuffers(batch: FrameBatch, end: number): number;

  /**
   * Finds the buffers of the next chain, of whatever kind, and appends them from index {@link walked} on, up to `limit`.
   * False: there is none, or the ring is broken.
   */
  protected abstract walkNext(address: Float64Array, length: Int32Array, limit: number): boolean;

  /** Takes the chain that {@link walkNext} found. */
  protected abstract takeWalked(): void;

  /** Gives all chains taken back as used. */
  protected abstract completeTaken(): void;

  /** Gives the first `count` of the frames taken back to the driver as used; the others return to the ring. */
  abstract release(count: number): void;

  // ---- giving frames to the driver (its receive ring)

  /**
   * Copies frames `first` … `end - 1` of `batch`, each with its virtio-net header, into buffers of the driver: one chain a
   * frame, or as many as it takes with VIRTIO_NET_F_MRG_RXBUF. {@link flush} tells the driver. Gives how many frames it
   * took, in order; {@link refusal} says why it took no more, and nothing of the next frame has been taken from the ring
   * then.
   */
  deliver(batch: FrameBatch, first: number, end: number): number {
    this.refusal = NO_REFUSAL;
    if (this.error !== null) {
      this.refusal = RING_BROKEN;
      return 0;
    }
    let next = first;
    for (;;) {
      next = this.deliverBuffers(batch, next, end);
      if (next === end) break;
      this.refusal = this.error === null ? this.deliverChains(batch, next) : RING_BROKEN;
      if (this.refusal !== NO_REFUSAL) break;
      if (++next === end) break;
    }
    return next - first;
  }

  /** Delivers frames into chains of one buffer each, until there is one of another kind. Gives the first frame left. */
  protected abstract deliverBuffers(batch: FrameBatch, first: number, end: number): number;

  /** Delivers frame `i` into any chains, reading their descriptors anew. Gives the refusal. */
  protected abstract deliverChains(batch: FrameBatch, i: number): number;

  // ---- notifications

  /** Shows the driver what was used since the last time. */
  abstract publish(): void;

  /**
   * Calls the driver where it asked for that, for all that was published since the last time. Between the two must be a
   * {@link fullFence}: the driver's wish is read when it can see what was published (§2.7.7, §2.8.10). One does for many rings.
   */
  abstract notify(): void;

  /** Both, for one ring. */
  flush(): void {
    this.publish();
    fullFence();
    this.notify();
  }

  /** Tells the driver that this side polls: no kicks, please. */
  abstract disableNotification(): void;

  /**
   * Asks the driver for a kick with its next buffer. True when one came meanwhile: look again instead of sleeping.
   * A broken ring asks for nothing.
   */
  abstract enableNotification(): boolean;

  // ---- private memory

  /** Goes over to another memory, to whose private parts `pushes` lead. */
  protected turnTo(memory: GuestMemory, pushes: Transfer | null): void {
    this.memory = memory;
    this.mirror = memory.mirror;
    this.pushes = pushes;
    this.ahead = 0;
  }

  /**
   * Pulls the buffers at segments `first`, `first` + `step`, … below `end`, where they are private. Those of chains that
   * were {@link ahead} are there: the caller has left them out. False: they cannot be had.
   */
  protected pullBuffers(mirror: Mirror, batch: FrameBatch, first: number, end: number, step: number): boolean {
    const { pulls } = mirror;
    const { segmentAddress, segmentLength } = batch;
    for (let i = first; i < end; i += step) pulls.add(segmentAddress[i]!, segmentLength[i]!);
    return pulls.run() || this.unreachable();
  }

  /** Chains at the head of the ring that need not be pulled again. */
  protected stillAhead(mirror: Mirror): number {
    if (mirror.trims !== this.#aheadTrims) {
      this.#aheadTrims = mirror.trims;
      this.ahead = 0;
    }
    return this.ahead;
  }

  /** Notes that frames in the mirror are in use, where `taken` chains were taken. */
  protected lend(taken: number): void {
    if (this.mirror !== null && taken > 0) this.mirror.users++;
  }

  /** The end of {@link lend}: of the chains taken `used` were used, and the others return to the ring. */
  protected takeBack(taken: number, used: number): void {
    if (this.mirror === null || taken === 0) return;
    this.mirror.users--;
    this.ahead = Math.max(this.ahead, taken) - used;
  }

  /** Notes frames written by FrameBatch.place, to be pushed. */
  protected pushPlaced(pushes: Transfer, batch: FrameBatch, first: number, end: number): void {
    for (let i = first; i < end; i++) pushes.add(batch.placeTo[i]!, batch.length[i]! + this.headerBytes);
  }

  /** Notes the first `total` bytes of the buffers at {@link toAddress}, to be pushed. */
  protected pushScattered(pushes: Transfer, total: number): void {
    let left = total;
    for (let to = 0; left > 0; to++) {
      const part = Math.min(this.toLength[to]!, left);
      pushes.add(this.toAddress[to]!, part);
      left -= part;
    }
  }

  /** A copy failed. The ring is broken, unless the client has gone: then it just has nothing more. */
  protected unreachable(): false {
    const { faultAddress, errno } = this.mirror!;
    return this.fail('CLIENT_MEMORY_UNREACHABLE', faultAddress, errno);
  }

  // ---- parts

  /** Turns to the part of the memory that a guest address lies in. False: the kernels reach it not, or had turned to it already. */
  protected turnToPart(low: number, high: number): boolean {
    const { memory } = this;
    const { start } = memory;
    return (
      memory.translate(high * TWO_32 + low, 1) !== 0 && memory.start !== start && memory.sharedEnd !== memory.start
    );
  }

  protected signal(): void {
    this.calls++;
    if (this.call !== NO_FD) signalEventfd(this.call);
  }

  /** Notes the copies of header and frame into the chains gathered, and what each gets in {@link chainWritten}. */
  protected scatter(batch: FrameBatch, i: number, total: number, chains: number): void {
    const { segmentAddress, segmentLength, copies } = batch;
    let segment = batch.firstSegment[i]!;
    let from = segmentAddress[segment]! - this.headerBytes;
    let fromLeft = segmentLength[segment]! + this.headerBytes;
    let left = total;
    let to = 0;
    for (let chain = 0; chain < chains; chain++) {
      const end = this.chainEnd[chain]!;
      let written = 0;
      for (; to < end && left > 0; to++) {
        let address = this.toAddress[to]!;
        let space = this.toLength[to]!;
        while (space > 0 && left > 0) {
          const n = Math.min(fromLeft, space, left);
          copies.add(address, from, n);
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
      this.chainWritten[chain] = written;
    }
  }

  /** Copies an indirect table (§2.7.5.3, §2.8.7) into {@link table}, out of the guest's reach. */
  protected loadIndirect(index: number, low: number, high: number, len: number): boolean {
    if (!this.indirect) return this.fail('INDIRECT_NOT_NEGOTIATED', index, len);
    if (len === 0 || len % VIRTQ_DESC_BYTES !== 0) return this.fail('INDIRECT_LENGTH', index, len);
    if (len > this.table.byteLength) return this.fail('INDIRECT_LENGTH', index, len);
    const guest = high * TWO_32 + low;
    if (high < ADDRESS_HIGH_LIMIT && this.memory.read(guest, len, this.#tableAddress)) return true;
    return this.fail('INDIRECT_UNMAPPED', index, guest);
  }

  /**
   * Appends one buffer of `len` > 0 bytes at index {@link walked}, in as many parts as the mapped memory is broken into at
   * that place, up to index `limit`. False: the ring is broken.
   */
  protected appendBuffer(
    index: number,
    low: number,
    high: number,
    len: number,
    address: Float64Array,
    length: Int32Array,
    limit: number,
  ): boolean {
    const guest = high * TWO_32 + low;
    if (high >= ADDRESS_HIGH_LIMIT) return this.fail('BUFFER_UNMAPPED', index, guest);
    if (this.walked === limit) return this.fail('CHAIN_TOO_LONG', index, limit);
    // A chain of absurd buffers must not overflow the sum: no frame needs more than this.
    if (this.walkedBytes + len > 0x7fff_ffff) return this.fail('CHAIN_TOO_LONG', index, len);
    const here = this.memory.translate(guest, len);
    if (here !== 0) {
      address[this.walked] = here;
      length[this.walked] = len;
      this.walked++;
      this.walkedBytes += len;
      return true;
    }
    let at = guest;
    let left = len;
    while (left > 0) {
      const part = Math.min(left, this.memory.contiguous(at));
      if (part === 0) return this.fail('BUFFER_UNMAPPED', index, guest);
      if (this.walked === limit) return this.fail('CHAIN_TOO_LONG', index, limit);
      address[this.walked] = this.memory.translate(at, part);
      length[this.walked] = part;
      this.walked++;
      at += part;
      left -= part;
    }
    this.walkedBytes += len;
    return true;
  }

  /** Breaks the ring, for the first reason that there is. A client that has ended has broken nothing. */
  protected fail(code: RingErrorCode, index: number, value: number): false {
    if (this.error !== null || this.mirror?.gone) return false;
    this.error = ringError(code, index, value);
    if (this.err !== NO_FD) signalEventfd(this.err);
    return false;
  }
}
