/**
 * A Linux tap as a port: the kernel's own /dev/net/tun, opened with IFF_VNET_HDR, read and written by the lane.
 *
 * One system call a frame. Frames read and not yet released wait in their slots here. Hot: allocates nothing.
 */
import { EAGAIN, EBADFD, EIO } from '../linux/errno.ts';
import { readAddress, writevAddress } from '../linux/file.ts';
import { addressOf } from '../linux/libc.ts';
import {
  BATCH_FRAMES,
  type FrameBatch,
  MAX_FRAME_BYTES,
  MAX_FRAME_SEGMENTS,
  MIN_FRAME_BYTES,
} from '../memory/frame-batch.ts';
import { SharedBuffer } from '../memory/shared-buffer.ts';
import { VIRTIO_NET_HDR_MRG_RXBUF_BYTES } from '../vhost/virtio.ts';
import { TX_DROP_ERROR, TX_DROP_LINK_DOWN, TX_DROP_NO_BUFFERS } from './counters.ts';
import { type FdSink, type PortQueue, TRANSMITTED, type TransmitResult } from './port.ts';

/** TUNSETVNETHDRSZ of the tap: the 12-byte header. */
export const TAP_HEADER_BYTES = VIRTIO_NET_HDR_MRG_RXBUF_BYTES;
const SLOT_BYTES = 1 << 17;
/** struct iovec { void *iov_base; size_t iov_len; } as two 64-bit words. */
const IOVEC_WORDS = 2;

export class TapQueue implements PortQueue {
  malformed = 0;
  stalledSince = -1;
  refusal: TransmitResult = TRANSMITTED;
  /** The interface was deleted under us. */
  gone = false;
  onGone: () => void = () => {};
  readonly #fd: number;
  readonly #slots = new SharedBuffer(BATCH_FRAMES * SLOT_BYTES);
  readonly #lengths = new Int32Array(BATCH_FRAMES);
  /** Frames read and not released: `#waiting` slots from `#first` on, round the ring of slots. */
  #first = 0;
  #waiting = 0;
  readonly #iov = new Float64Array(IOVEC_WORDS * (MAX_FRAME_SEGMENTS + 1));
  readonly #iovWords = new Uint32Array(this.#iov.buffer);
  readonly #iovAddress = addressOf(this.#iov);

  /** `fd`: non-blocking, with IFF_TAP, IFF_NO_PI, IFF_VNET_HDR and a header of TAP_HEADER_BYTES. */
  constructor(fd: number) {
    this.#fd = fd;
  }

  get ready(): boolean {
    return !this.gone;
  }

  /** Frees the memory; the descriptor is the caller's. */
  close(): void {
    this.#slots.free();
  }

  receive(batch: FrameBatch): number {
    while (this.#waiting < BATCH_FRAMES && !this.gone) {
      const slot = (this.#first + this.#waiting) % BATCH_FRAMES;
      const length = readAddress(this.#fd, this.#slots.address + slot * SLOT_BYTES, SLOT_BYTES);
      if (length < 0) {
        if (length === -EBADFD && !this.gone) {
          this.gone = true;
          this.onGone();
        }
        break;
      }
      if (length < TAP_HEADER_BYTES + MIN_FRAME_BYTES || length > TAP_HEADER_BYTES + MAX_FRAME_BYTES) {
        this.malformed++;
        continue;
      }
      this.#lengths[slot] = length;
      this.#waiting++;
    }
    for (let i = 0; i < this.#waiting && batch.hasRoom; i++) {
      const slot = (this.#first + i) % BATCH_FRAMES;
      batch.segmentAddress[batch.segments + 1] = this.#slots.address + slot * SLOT_BYTES;
      batch.segmentLength[batch.segments + 1] = this.#lengths[slot]!;
      batch.append(1, TAP_HEADER_BYTES, this.#lengths[slot]! - TAP_HEADER_BYTES);
    }
    return batch.count;
  }

  release(count: number): void {
    this.#first = (this.#first + count) % BATCH_FRAMES;
    this.#waiting -= count;
  }

  transmit(batch: FrameBatch, first: number, end: number): number {
    for (let i = first; i < end; i++) {
      this.refusal = this.#write(batch, i);
      if (this.refusal !== TRANSMITTED) return i - first;
    }
    return end - first;
  }

  #write(batch: FrameBatch, i: number): TransmitResult {
    batch.writeNetHeader(i, TAP_HEADER_BYTES, 0);
    const start = batch.firstSegment[i]!;
    const segments = batch.segmentCount[i]!;
    for (let s = 0; s < segments; s++) {
      const header = s === 0 ? TAP_HEADER_BYTES : 0;
      this.#setIovec(s, batch.segmentAddress[start + s]! - header, batch.segmentLength[start + s]! + header);
    }
    const written = writevAddress(this.#fd, this.#iovAddress, segments);
    if (written >= 0) return TRANSMITTED;
    if (written === -EAGAIN) return TX_DROP_NO_BUFFERS;
    // tun.c answers EIO while the interface is down.
    return written === -EIO ? TX_DROP_LINK_DOWN : TX_DROP_ERROR;
  }

  #setIovec(index: number, base: number, length: number): void {
    const word = index * 2 * IOVEC_WORDS;
    this.#iovWords[word] = base >>> 0;
    this.#iovWords[word + 1] = base / 2 ** 32;
    this.#iovWords[word + 2] = length;
    this.#iovWords[word + 3] = 0;
  }

  flush(): void {}

  notify(): void {}

  disableNotification(): void {}

  /** The descriptor itself tells; frames already read but held wait for their receiver. */
  enableNotification(): boolean {
    return false;
  }

  addPollFds(sink: FdSink): void {
    if (this.#waiting < BATCH_FRAMES && !this.gone) sink.addReadable(this.#fd);
  }
}
