/**
 * Rings shared with a switch as a frame device: frames stay in the slots that the other side wrote, and are written to
 * those that it reads. No copy, and no system call but for who sleeps.
 *
 *     stack ── RingDevice ── receive ring: slot [ virtio-net header | frame ] ◄── switch
 *                         └─ transmit ring: slot [ virtio-net header | frame ] ──► switch
 *
 * The rings are a {@link DriverVhostUser}'s (with whatever offloads were negotiated) or a DriverDevice's over somebody's
 * vhost-net, opened without VIRTIO_NET_F_MRG_RXBUF, so that every frame is in one piece.
 *
 * While the other side is away frames to send are dropped, as on a cable that is not plugged in. Hot: allocates nothing.
 */
import { drainEventfd } from '../../linux/eventfd.ts';
import type { Arena } from '../../memory/arena.ts';
import { MIN_FRAME_BYTES } from '../../memory/frame-batch.ts';
import type { Sum } from '../../packet/checksum.ts';
import type { DriverError } from '../../vhost/driver-error.ts';
import type { DriverFrames } from '../../vhost/driver-frames.ts';
import type { DriverMemory } from '../../vhost/driver-memory.ts';
import { type DriverVirtqueue, NO_SLOT } from '../../vhost/driver-virtqueue.ts';
import {
  type Features,
  featureNames,
  hasFeature,
  VIRTIO_F_VERSION_1,
  VIRTIO_NET_F_CSUM,
  VIRTIO_NET_F_GUEST_CSUM,
  VIRTIO_NET_F_GUEST_TSO4,
  VIRTIO_NET_F_GUEST_TSO6,
  VIRTIO_NET_F_HOST_TSO4,
  VIRTIO_NET_F_HOST_TSO6,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_HDR_MRG_RXBUF_BYTES,
} from '../../vhost/virtio.ts';
import {
  NO_ROOM,
  RECEIVE_BATCH,
  RECEIVE_CHECKSUM,
  RECEIVE_TSO4,
  RECEIVE_TSO6,
  TRANSMIT_CHECKSUM,
  TRANSMIT_TSO4,
  TRANSMIT_TSO6,
} from '../frame-device.ts';
import { sumIn } from './device-arena.ts';
import { checkMacAddress, checkMtu, DEFAULT_MTU } from './device-options.ts';
import type { WaitableDevice } from './waitable-device.ts';

/** struct virtio_net_hdr_v1 (virtio 1.2 §5.1.6) before each frame, and its fields by 16-bit words. */
const HEADER_BYTES = VIRTIO_NET_HDR_MRG_RXBUF_BYTES;
const FLAGS_AND_GSO_TYPE = 0;
const HDR_LEN = 1;
const GSO_SIZE = 2;
const CSUM_START = 3;
const CSUM_OFFSET = 4;
const NUM_BUFFERS = 5;
/** "rx and tx are below 2 GiB." */
const MAX_SLOTS_BYTES = 2 ** 31;

const OFFLOADS: [feature: number, offload: number][] = [
  [VIRTIO_NET_F_CSUM, TRANSMIT_CHECKSUM],
  [VIRTIO_NET_F_HOST_TSO4, TRANSMIT_TSO4],
  [VIRTIO_NET_F_HOST_TSO6, TRANSMIT_TSO6],
  [VIRTIO_NET_F_GUEST_CSUM, RECEIVE_CHECKSUM],
  [VIRTIO_NET_F_GUEST_TSO4, RECEIVE_TSO4],
  [VIRTIO_NET_F_GUEST_TSO6, RECEIVE_TSO6],
];

/** A driver's half of a card with one queue pair: DriverVhostUser and DriverDevice are such. */
export interface DriverRings {
  readonly features: Features;
  readonly memory: DriverMemory;
  readonly rx: DriverVirtqueue;
  readonly frames: DriverFrames;
  readonly tx: DriverVirtqueue;
  readonly rxCall: number;
  readonly txCall: number;
  readonly running: boolean;
  /** Called when both rings begin as new. */
  onRestart?: () => void;
  /** Begins anew after the other side broke a ring, where that can be. */
  recover?(): Promise<void>;
  close(): void;
}

export interface RingDeviceOptions {
  /** For messages. */
  name: string;
  /** Whose half it is; it becomes this device's to close. */
  rings: DriverRings;
  /** Of our side. */
  address: Uint8Array;
  /** Default 1500. */
  mtu?: number;
  /** Where features do not tell, as behind a vhost-net, whose tun file has them: bits of {@link FrameDevice.offloads}. */
  offloads?: number;
  /** What the rings' memory lies in, for {@link RingDevice.sum}. */
  arena?: Arena;
}

export class RingDevice implements WaitableDevice {
  readonly name: string;
  readonly address: Uint8Array;
  readonly mtu: number;
  readonly offloads: number;
  readonly rx: Uint8Array;
  readonly tx: Uint8Array;
  readonly sum: Sum | undefined;
  readonly rxOffset = new Uint32Array(RECEIVE_BATCH);
  readonly rxLength = new Uint32Array(RECEIVE_BATCH);
  readonly rxFlags = new Uint8Array(RECEIVE_BATCH);
  readonly rxGsoType = new Uint8Array(RECEIVE_BATCH);
  readonly rxGsoSize = new Uint16Array(RECEIVE_BATCH);
  readonly rxCsumStart = new Uint16Array(RECEIVE_BATCH);
  readonly rxCsumOffset = new Uint16Array(RECEIVE_BATCH);
  /** Received frames too short to be any. */
  malformed = 0;
  /** Frames that went nowhere, since the other side is away. */
  txDropped = 0;
  /** Called once for a ring that the other side broke, unless it can begin anew. */
  onBroken: (error: DriverError) => void = () => {};
  readonly #rings: DriverRings;
  readonly #rxRing: DriverVirtqueue;
  readonly #txRing: DriverVirtqueue;
  readonly #frames: DriverFrames;
  /** All slots of each ring by 16-bit words: their headers. */
  readonly #rxWords: Uint16Array;
  readonly #txWords: Uint16Array;
  readonly #longest: number;
  readonly #fds: readonly number[];
  /** Slot that was reserved and not sent. */
  #held = NO_SLOT;
  /** Frames of the last receive; they may be fewer than those released then: some are no frames. */
  #received = 0;
  /** reserve() had nothing to give since the last sleep. */
  #starved = false;
  #broken = false;
  #open = true;

  constructor({ name, rings, address, mtu = DEFAULT_MTU, offloads, arena }: RingDeviceOptions) {
    this.name = name;
    this.address = checkMacAddress(address, name);
    this.mtu = checkMtu(mtu, name);
    const { features, memory, rx, tx } = rings;
    if (!hasFeature(features, VIRTIO_F_VERSION_1) || hasFeature(features, VIRTIO_NET_F_MRG_RXBUF)) {
      const names = featureNames(features).join(', ');
      throw new RangeError(`${name}: rings with ${names}; a frame device needs VERSION_1, and no MRG_RXBUF`);
    }
    for (const ring of [rx, tx]) {
      if (ring.slotsBytes < MAX_SLOTS_BYTES) continue;
      throw new RangeError(`${name}: ${ring.num} slots of ${ring.slotBytes} bytes are 2 GiB or more; give fewer`);
    }
    this.#rings = rings;
    this.#rxRing = rx;
    this.#txRing = tx;
    this.#frames = rings.frames;
    const rxBytes = memory.view(rx.slotAddress(0), rx.slotsBytes);
    const txBytes = memory.view(tx.slotAddress(0), tx.slotsBytes);
    this.rx = new Uint8Array(rxBytes);
    this.tx = new Uint8Array(txBytes);
    this.sum = arena && sumIn(arena, this.rx, rx.slotAddress(0), this.tx, tx.slotAddress(0));
    this.#rxWords = new Uint16Array(rxBytes);
    this.#txWords = new Uint16Array(txBytes);
    this.#longest = tx.slotBytes - HEADER_BYTES;
    this.#fds = [rings.rxCall, rings.txCall];
    this.offloads = offloads ?? offloadsOf(features);
    if ('onRestart' in rings) rings.onRestart = () => this.#restart();
    this.disableNotification();
  }

  /** The rings begin as new: what was held is theirs no more. */
  #restart(): void {
    this.#held = NO_SLOT;
    this.#received = 0;
    this.#broken = false;
    this.#rxRing.disableCalls();
    this.#txRing.disableCalls();
  }

  receive(): number {
    if (!this.#open) return 0;
    const ring = this.#rxRing;
    const waiting = Math.min(this.#frames.poll(), RECEIVE_BATCH);
    const words = this.#rxWords;
    let count = 0;
    for (let f = 0; f < waiting; f++) {
      const at = ring.slotOffset(ring.usedSlot(f));
      const length = ring.usedLength(f) - HEADER_BYTES;
      if (length < MIN_FRAME_BYTES) {
        this.malformed++;
        continue;
      }
      // The header is read once: the other side may write it again at any time.
      const word = at >> 1;
      const first = words[word + FLAGS_AND_GSO_TYPE]!;
      this.rxOffset[count] = at + HEADER_BYTES;
      this.rxLength[count] = length;
      this.rxFlags[count] = first;
      this.rxGsoType[count] = first >> 8;
      this.rxGsoSize[count] = words[word + GSO_SIZE]!;
      this.rxCsumStart[count] = words[word + CSUM_START]!;
      this.rxCsumOffset[count] = words[word + CSUM_OFFSET]!;
      count++;
    }
    this.#received = waiting;
    if (ring.error !== null) this.#break(ring.error);
    return count;
  }

  release(): void {
    if (this.#received === 0 || !this.#open) return;
    this.#frames.release(this.#received);
    this.#received = 0;
    this.#rxRing.publish();
  }

  reserve(length: number): number {
    if (length > this.#longest) {
      throw new RangeError(`${this.name}: a frame of ${length} bytes; the longest has ${this.#longest}`);
    }
    if (!this.#open) return NO_ROOM;
    const ring = this.#txRing;
    if (this.#held === NO_SLOT) {
      if (ring.freeSlots === 0) this.#reclaim();
      this.#held = ring.take();
      if (this.#held === NO_SLOT) {
        this.#starved = true;
        return NO_ROOM;
      }
    }
    return ring.slotOffset(this.#held) + HEADER_BYTES;
  }

  send(
    length: number,
    flags: number,
    gsoType: number,
    hdrLen: number,
    gsoSize: number,
    csumStart: number,
    csumOffset: number,
  ): void {
    if (!this.#open) return;
    const ring = this.#txRing;
    const slot = this.#held;
    if (slot === NO_SLOT) throw new RangeError(`${this.name}: a frame was sent that was not reserved`);
    this.#held = NO_SLOT;
    if (!this.#rings.running || this.#broken) {
      ring.giveBack(slot);
      this.txDropped++;
      return;
    }
    const words = this.#txWords;
    const word = ring.slotOffset(slot) >> 1;
    words[word + FLAGS_AND_GSO_TYPE] = flags | (gsoType << 8);
    words[word + HDR_LEN] = hdrLen;
    words[word + GSO_SIZE] = gsoSize;
    words[word + CSUM_START] = csumStart;
    words[word + CSUM_OFFSET] = csumOffset;
    words[word + NUM_BUFFERS] = 0;
    ring.offer(slot, HEADER_BYTES + length);
  }

  flush(): void {
    if (!this.#open) return;
    const ring = this.#txRing;
    ring.publish();
    // What was sent meanwhile comes back soon, so that few slots go round, and stay in the cache.
    if (ring.offered > 0) this.#reclaim();
  }

  #reclaim(): void {
    const ring = this.#txRing;
    for (let used = ring.poll(); used > 0; used--) ring.giveBack(ring.shift());
    if (ring.error !== null) this.#break(ring.error);
  }

  #break(error: DriverError): void {
    if (this.#broken) return;
    this.#broken = true;
    if (this.#rings.recover) void this.#rings.recover();
    else this.onBroken(error);
  }

  get fds(): readonly number[] {
    return this.#open ? this.#fds : NO_FDS;
  }

  enableNotification(): boolean {
    if (!this.#open) return false;
    const frames = this.#rxRing.enableCalls();
    if (!this.#starved) return frames;
    this.#starved = false;
    return this.#txRing.enableCalls() || frames;
  }

  disableNotification(): void {
    if (!this.#open) return;
    this.#rxRing.disableCalls();
    this.#txRing.disableCalls();
    drainEventfd(this.#rings.rxCall);
    drainEventfd(this.#rings.txCall);
  }

  /** Closes the rings too. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#rings.close();
  }
}

function offloadsOf(features: Features): number {
  let offloads = 0;
  for (const [feature, offload] of OFFLOADS) if (hasFeature(features, feature)) offloads |= offload;
  return offloads;
}

const NO_FDS: readonly number[] = [];
