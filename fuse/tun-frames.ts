/**
 * Frames of a tun file that its client reads, writes and polls itself: no vhost.
 *
 *     client ── write(2) ──► inbox ──► lane          lane ──► outbox ──► read(2) ── client
 *
 * What a message looks like to the client (tun_get_user, tun_put_user of tun.c): struct tun_pi without IFF_NO_PI, a
 * virtio-net header with IFF_VNET_HDR, the frame. In the rings a record is always a header of 12 bytes and the frame.
 */
import { EAGAIN, EBADFD, EINVAL } from '../linux/errno.ts';
import { IFF_NO_PI, IFF_VNET_HDR, TUN_PI_BYTES, TUN_PKT_STRIP } from '../linux/if-tun.ts';
import { addressOf } from '../linux/libc.ts';
import { memcpy } from '../linux/mman.ts';
import { POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM } from '../linux/poll.ts';
import { MAX_FRAME_BYTES, MIN_FRAME_BYTES } from '../memory/frame-batch.ts';
import { parseNetHeader, tunTakesHeader } from '../vhost/net-header.ts';
import { VIRTIO_NET_HDR_MRG_RXBUF_BYTES } from '../vhost/virtio.ts';
import { FuseError, type Request } from './connection.ts';
import type { PortQueueHandle, TunInterface } from './tun-interfaces.ts';

/** A record of the rings is a header of this many bytes, then the frame. */
const RECORD_HEADER_BYTES = VIRTIO_NET_HDR_MRG_RXBUF_BYTES;
/** A writer that found no room looks again after this many ms. */
const RETRY_MS = 1;
const ETHERTYPE_OFFSET = 12;

export class TunFrames {
  readonly #tun: TunInterface;
  readonly #queue: PortQueueHandle;
  readonly #notifyPoll: (kh: bigint) => void;
  /** Header of a record on its way. */
  readonly #head = Buffer.alloc(RECORD_HEADER_BYTES);
  /** Poll handles to notify when something can be read. */
  readonly #pollers = new Set<bigint>();
  readonly #readers: (() => void)[] = [];
  #closed = false;

  /** Takes the queue's mail over. `notifyPoll` tells the kernel that the readiness of a polled file has changed. */
  constructor(tun: TunInterface, queue: PortQueueHandle, notifyPoll: (kh: bigint) => void) {
    this.#tun = tun;
    this.#queue = queue;
    this.#notifyPoll = notifyPoll;
    queue.onMail = () => this.#mail();
  }

  /** The queue goes: what still waits fails, and touches its memory no more. */
  close(): void {
    this.#closed = true;
    this.#queue.onMail = () => {};
    for (const wake of this.#readers.splice(0)) wake();
  }

  #checkOpen(): void {
    if (this.#closed) throw new FuseError(EBADFD, 'the switch has closed the file');
  }

  get #headerBytes(): number {
    const tun = this.#tun;
    return (tun.flags & IFF_VNET_HDR) !== 0 ? tun.vnetHdrBytes : 0;
  }

  get #piBytes(): number {
    return (this.#tun.flags & IFF_NO_PI) === 0 ? TUN_PI_BYTES : 0;
  }

  /** One message of at most `size` bytes; waits for one unless `nonBlocking` (EAGAIN). */
  read(request: Request, size: number, nonBlocking: boolean): Buffer | Promise<Buffer> {
    this.#checkOpen();
    const queue = this.#queue;
    const waiting = queue.outbox.peek();
    if (waiting >= 0) return this.#take(waiting, size);
    if (nonBlocking) throw new FuseError(EAGAIN, 'no frame waits');
    return request
      .park<void>((resolve) => {
        this.#readers.push(resolve);
        this.#awaitMail();
        return () => {
          const at = this.#readers.indexOf(resolve);
          if (at >= 0) this.#readers.splice(at, 1);
        };
      })
      .then(() => this.read(request, size, false));
  }

  /** tun_put_user: packet information, virtio-net header, frame; cut to the size asked for. */
  #take(record: number, size: number): Buffer {
    const { outbox } = this.#queue;
    const header = this.#headerBytes;
    const pi = this.#piBytes;
    if (size < pi + header) {
      outbox.consume(record);
      throw new FuseError(EINVAL, `read: ${size} bytes do not hold the header of ${pi + header}`);
    }
    const frame = record - RECORD_HEADER_BYTES;
    const message = Buffer.alloc(pi + header + frame);
    const at = addressOf(message);
    const from = outbox.address;
    memcpy(at + pi, from, Math.min(header, RECORD_HEADER_BYTES));
    memcpy(at + pi + header, from + RECORD_HEADER_BYTES, frame);
    outbox.consume(record);
    if (pi > 0) {
      message.writeUInt16LE(message.length > size ? TUN_PKT_STRIP : 0, 0);
      message.copy(message, 2, pi + header + ETHERTYPE_OFFSET, pi + header + ETHERTYPE_OFFSET + 2);
    }
    return message.subarray(0, size);
  }

  /** Takes one message; gives its length. EINVAL for what holds no frame. */
  write(request: Request, data: Buffer, nonBlocking: boolean): number | Promise<number> {
    this.#checkOpen();
    const queue = this.#queue;
    const pi = this.#piBytes;
    const header = this.#headerBytes;
    const frame = data.length - pi - header;
    if (frame < MIN_FRAME_BYTES || frame > MAX_FRAME_BYTES) {
      throw new FuseError(EINVAL, `write: ${data.length} bytes with ${pi + header} of headers hold no frame`);
    }
    if (header > 0 && !tunTakesHeader(parseNetHeader(data.subarray(pi)), frame)) {
      throw new FuseError(EINVAL, `write: the virtio-net header contradicts its frame of ${frame} bytes`);
    }
    const record = RECORD_HEADER_BYTES + frame;
    const to = queue.inbox.reserve(record);
    if (to === 0) {
      if (nonBlocking) throw new FuseError(EAGAIN, 'the switch is behind');
      return request
        .park<void>((resolve) => {
          const timer = setTimeout(resolve, RETRY_MS);
          return () => clearTimeout(timer);
        })
        .then(() => this.write(request, data, false));
    }
    this.#head.fill(0);
    data.copy(this.#head, 0, pi, pi + Math.min(header, RECORD_HEADER_BYTES));
    memcpy(to, addressOf(this.#head), RECORD_HEADER_BYTES);
    // `data` is part of the request's message, which lives until the answer.
    memcpy(to + RECORD_HEADER_BYTES, addressOf(data) + pi + header, frame);
    if (queue.inbox.commit(record)) queue.wakeLane();
    return data.length;
  }

  /** POLL… bits that are ready; with `schedule`, `kh` is notified of the next frame. */
  poll(kh: bigint, schedule: boolean): number {
    // The inbox empties in microseconds; a writer that hits it full is told EAGAIN and finds room at its next try.
    const revents = POLLOUT | POLLWRNORM;
    const { outbox } = this.#queue;
    const waiting = outbox.peek() >= 0;
    if (schedule) {
      this.#pollers.add(kh);
      // What waits is told now. Notified of it too, a caller that does not want it (yet) would poll again at once.
      if (waiting) outbox.sleep();
      else this.#awaitMail();
    }
    return waiting ? revents | POLLIN | POLLRDNORM : revents;
  }

  /** Asks for a signal with the next frame; if one came meanwhile, acts at once. */
  #awaitMail(): void {
    if (!this.#queue.outbox.sleep()) queueMicrotask(() => this.#mail());
  }

  #mail(): void {
    if (this.#closed || this.#queue.outbox.peek() < 0) return;
    for (const kh of this.#pollers) this.#notifyPoll(kh);
    this.#pollers.clear();
    const readers = this.#readers.splice(0);
    for (const wake of readers) wake();
  }
}
