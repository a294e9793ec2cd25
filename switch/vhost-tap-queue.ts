/**
 * A Linux tap as a port, over the kernel's vhost-net: frames cross in shared rings, without a system call for each.
 *
 *     lane ── rings in the lane's arena ── worker of the kernel's vhost-net ── tap
 *
 * Frames received stay in the receive ring's buffers until they are released; frames for the tap are copied into slots of
 * the transmit ring, which come back when the kernel has sent them. Kicks and calls only for who sleeps.
 *
 * What the kernel does not take (the interface is down, a header that it refuses) it drops itself: its counters tell.
 * Hot: allocates nothing.
 */
import { EBADFD } from '../linux/errno.ts';
import { IFREQ_BYTES, TUNGETIFF } from '../linux/if-tun.ts';
import { tryIoctl } from '../linux/ioctl.ts';
import type { Arena } from '../memory/arena.ts';
import { BATCH_FRAMES, type FrameBatch, MAX_FRAME_BYTES, MIN_FRAME_BYTES } from '../memory/frame-batch.ts';
import { DRIVER_HEADER_BYTES, DriverDevice } from '../vhost/driver-device.ts';
import type { DriverError } from '../vhost/driver-error.ts';
import { NUM_BUFFERS_WORD } from '../vhost/driver-frames.ts';
import { NO_SLOT } from '../vhost/driver-virtqueue.ts';
import { TX_DROP_NO_BUFFERS, TX_DROP_RING_BROKEN, TX_DROP_TOO_BIG } from './counters.ts';
import { type FdSink, type PortQueue, TRANSMITTED, type TransmitResult } from './port.ts';

/** Receives between looks at whether the interface is still there, while the lane does not sleep; a power of two. */
const GONE_INTERVAL = 1 << 14;

export class VhostTapQueue implements PortQueue {
  malformed = 0;
  stalledSince = -1;
  refusal: TransmitResult = TRANSMITTED;
  /** The interface was deleted under us. */
  gone = false;
  onGone: () => void = () => {};
  /** Called once for a ring that the kernel broke: the port is dead then. */
  onBroken: (error: DriverError) => void = () => {};
  readonly device: DriverDevice;
  readonly #tun: number;
  readonly #ifreq = new Uint8Array(IFREQ_BYTES);
  /** All slots of the transmit ring, by 16-bit words, and those of the batch at hand by frame. */
  readonly #txWords: Uint16Array;
  readonly #slots = new Uint16Array(BATCH_FRAMES);
  #receives = 0;
  #broken = false;

  /**
   * Starts the rings. `tun`: with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR; `vhost`: a vhost-net file of the same kernel, with
   * nothing set. Both stay the caller's. Throws what {@link DriverDevice} throws.
   */
  constructor(tun: number, vhost: number, arena: Arena) {
    this.#tun = tun;
    this.device = new DriverDevice({ vhost, tun, space: arena });
    try {
      this.device.start();
    } catch (error) {
      this.device.close();
      throw error;
    }
    const { memory, tx } = this.device;
    this.#txWords = new Uint16Array(memory.view(tx.slotAddress(0), tx.slotsBytes));
    this.disableNotification();
  }

  get ready(): boolean {
    return !this.gone && !this.#broken;
  }

  /** Stops the rings and frees the memory; the descriptors are the caller's. */
  close(): void {
    this.device.close();
  }

  receive(batch: FrameBatch): number {
    if ((++this.#receives & (GONE_INTERVAL - 1)) === 0) this.#look();
    const { rx, frames } = this.device;
    const { segmentAddress, segmentLength } = batch;
    const waiting = Math.min(frames.poll(), BATCH_FRAMES);
    // Frames of one buffer that were noted and not appended yet; nearly all are such.
    let noted = 0;
    let entry = 0;
    for (let f = 0; f < waiting && batch.hasRoom; f++) {
      const buffers = frames.buffers(f);
      const first = batch.segments + 2 * noted;
      let total = 0;
      for (let b = 1; b <= buffers; b++, entry++) {
        const length = rx.usedLength(entry);
        segmentAddress[first + b] = rx.slotAddress(rx.usedSlot(entry));
        segmentLength[first + b] = length;
        total += length;
      }
      const length = total - DRIVER_HEADER_BYTES;
      if (length < MIN_FRAME_BYTES || length > MAX_FRAME_BYTES) {
        // Never a frame. Frames are released in order, so it waits until those before it are.
        if (f === 0) {
          this.malformed++;
          frames.release(1);
        }
        break;
      }
      if (buffers === 1) noted++;
      else {
        batch.appendBuffers(noted, DRIVER_HEADER_BYTES);
        noted = 0;
        batch.append(buffers, DRIVER_HEADER_BYTES, length);
      }
    }
    batch.appendBuffers(noted, DRIVER_HEADER_BYTES);
    if (rx.error !== null) this.#break(rx.error);
    return batch.count;
  }

  release(count: number): void {
    this.device.frames.release(count);
  }

  transmit(batch: FrameBatch, first: number, end: number): number {
    const { tx } = this.device;
    this.refusal = TRANSMITTED;
    if (tx.freeSlots < end - first) this.#reclaim();
    if (this.#broken) {
      this.refusal = TX_DROP_RING_BROKEN;
      return 0;
    }
    let i = first;
    for (; i < end; i++) {
      const total = DRIVER_HEADER_BYTES + batch.length[i]!;
      if (total > tx.slotBytes) {
        this.refusal = TX_DROP_TOO_BIG;
        break;
      }
      const slot = tx.take();
      if (slot === NO_SLOT) {
        this.refusal = TX_DROP_NO_BUFFERS;
        break;
      }
      this.#slots[i] = slot;
      batch.placeTo[i] = tx.slotAddress(slot);
      tx.offer(slot, total);
    }
    batch.place(first, i, DRIVER_HEADER_BYTES);
    // §5.1.6.2: num_buffers is 0 in what a driver sends.
    for (let j = first; j < i; j++) this.#txWords[(tx.slotOffset(this.#slots[j]!) >> 1) + NUM_BUFFERS_WORD] = 0;
    return i - first;
  }

  /** Takes back the slots that the kernel has sent. */
  #reclaim(): void {
    const { tx } = this.device;
    for (let used = tx.poll(); used > 0; used--) tx.giveBack(tx.shift());
    if (tx.error !== null) this.#break(tx.error);
  }

  flush(): void {
    this.device.tx.publish();
    this.device.rx.publish();
  }

  notify(): void {}

  disableNotification(): void {
    this.device.rx.disableCalls();
    this.device.tx.disableCalls();
  }

  enableNotification(held: boolean, stalled: boolean): boolean {
    this.#look();
    if (!this.ready) return false;
    const { rx, tx } = this.device;
    const frames = !held && rx.enableCalls();
    const buffers = stalled && tx.enableCalls();
    return frames || buffers;
  }

  addPollFds(sink: FdSink): void {
    if (!this.ready) return;
    sink.addEventfd(this.device.rxCall);
    sink.addEventfd(this.device.txCall);
  }

  /** Asks whether the interface is still there: the rings do not tell. */
  #look(): void {
    if (this.gone || tryIoctl(this.#tun, TUNGETIFF, this.#ifreq) !== -EBADFD) return;
    this.gone = true;
    this.onGone();
  }

  #break(error: DriverError): void {
    if (this.#broken) return;
    this.#broken = true;
    this.onBroken(error);
  }
}
