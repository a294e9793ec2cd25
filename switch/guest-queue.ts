/**
 * One queue pair of a guest's port: a tun file, whose two directions each run over a virtqueue or over the file.
 *
 *     client ── write ──► inbox  ──┐                       ┌── outbox ── read ──► client
 *     guest  ── tx ring (1) ───────┴─► receive   transmit ─┴── rx ring (0) ─────► guest
 *
 * While vhost serves a direction, its ring is used; otherwise frames cross between the lane and the main thread, which
 * answers the file's reads and writes, in two frame rings. A record there is a virtio-net header of 12 bytes, then
 * the frame. A client may write to the file while vhost serves its ring (QEMU announces a migrated guest so): that goes
 * out first.
 */
import { signalEventfd } from '../linux/eventfd.ts';
import { memcpy } from '../linux/mman.ts';
import type { FrameBatch } from '../memory/frame-batch.ts';
import { FrameRing } from '../memory/frame-ring.ts';
import type { RingError } from '../vhost/ring-error.ts';
import { VIRTIO_NET_HDR_MRG_RXBUF_BYTES } from '../vhost/virtio.ts';
import { BUFFER_TOO_SMALL, NO_BUFFERS, type Virtqueue } from '../vhost/virtqueue.ts';
import { TX_DROP_NO_BUFFERS, TX_DROP_RING_BROKEN, TX_DROP_TOO_BIG } from './counters.ts';
import { type FdSink, type PortQueue, TRANSMITTED, type TransmitResult } from './port.ts';

/** Bytes before the frame in a mailbox record. */
export const MAILBOX_HEADER_BYTES = VIRTIO_NET_HDR_MRG_RXBUF_BYTES;
/** Capacities in bytes: a record of the longest frame takes less than half of either. */
export const INBOX_BYTES = 1 << 18;
export const OUTBOX_BYTES = 1 << 20;

/** Where the mailbox of a queue stands, in memory of this process. */
export interface Mailbox {
  inbox: number;
  outbox: number;
  /** eventfd that tells the main thread of frames in the outbox. */
  mailFd: number;
}

export class GuestQueue implements PortQueue {
  /** Ring that the guest receives from (index 0) and the one it transmits to (index 1), while vhost serves them. */
  rx: Virtqueue | null = null;
  tx: Virtqueue | null = null;
  /** The client has attached the queue (TUNSETQUEUE). */
  attached = true;
  stalledSince = -1;
  refusal: TransmitResult = TRANSMITTED;
  onBroken: (index: number, error: RingError) => void = () => {};

  readonly #inbox: FrameRing;
  readonly #outbox: FrameRing;
  readonly #mailFd: number;
  #mailSignal = false;
  /** The last receive was from the inbox, whose head stood here. */
  #fromInbox = false;
  #mark = 0;
  /** Malformed frames of rings that are gone. */
  #malformedBefore = 0;
  #rxBroken = false;
  #txBroken = false;

  constructor({ inbox, outbox, mailFd }: Mailbox) {
    this.#inbox = new FrameRing(inbox, INBOX_BYTES);
    this.#outbox = new FrameRing(outbox, OUTBOX_BYTES);
    this.#mailFd = mailFd;
  }

  get ready(): boolean {
    return this.attached;
  }

  get malformed(): number {
    return this.#malformedBefore + (this.tx?.malformed ?? 0);
  }

  /** The ring that runs in a direction (0 receive, 1 transmit), or null. */
  ring(index: number): Virtqueue | null {
    return index === 0 ? this.rx : this.tx;
  }

  /** Puts a ring in place (0 receive, 1 transmit), or takes it away with null. What waits in the file stays there. */
  setRing(index: number, ring: Virtqueue | null): void {
    if (index === 0) {
      this.rx = ring;
      this.#rxBroken = false;
      ring?.disableNotification();
    } else {
      this.#malformedBefore += this.tx?.malformed ?? 0;
      this.tx = ring;
      this.#txBroken = false;
      ring?.disableNotification();
    }
  }

  receive(batch: FrameBatch): number {
    const { tx } = this;
    this.#fromInbox = tx === null || this.#inbox.peek() >= 0;
    if (tx === null || this.#fromInbox) return this.#receiveMail(batch);
    const received = tx.receive(batch);
    if (tx.error !== null && !this.#txBroken) {
      this.#txBroken = true;
      this.onBroken(1, tx.error);
    }
    return received;
  }

  #receiveMail(batch: FrameBatch): number {
    const inbox = this.#inbox;
    this.#mark = inbox.mark;
    while (batch.hasRoom) {
      const length = inbox.peek();
      if (length < 0) break;
      batch.segmentAddress[batch.segments + 1] = inbox.address;
      batch.segmentLength[batch.segments + 1] = length;
      batch.append(1, MAILBOX_HEADER_BYTES, length - MAILBOX_HEADER_BYTES);
      inbox.advance(length);
    }
    return batch.count;
  }

  release(count: number): void {
    if (!this.#fromInbox) {
      this.tx?.release(count);
      return;
    }
    this.#inbox.rewind(this.#mark);
    for (let i = 0; i < count; i++) this.#inbox.advance(this.#inbox.peek());
    this.#inbox.publish();
  }

  transmit(batch: FrameBatch, first: number, end: number): number {
    const { rx } = this;
    if (rx === null) return this.#post(batch, first, end);
    const taken = rx.deliver(batch, first, end);
    this.refusal = taken === end - first ? TRANSMITTED : this.#refusalOf(rx);
    return taken;
  }

  #refusalOf(rx: Virtqueue): TransmitResult {
    if (rx.refusal === NO_BUFFERS) return TX_DROP_NO_BUFFERS;
    if (rx.refusal === BUFFER_TOO_SMALL) return TX_DROP_TOO_BIG;
    if (!this.#rxBroken && rx.error !== null) {
      this.#rxBroken = true;
      this.onBroken(0, rx.error);
    }
    return TX_DROP_RING_BROKEN;
  }

  #post(batch: FrameBatch, first: number, end: number): number {
    this.refusal = TRANSMITTED;
    for (let i = first; i < end; i++) {
      const length = batch.length[i]! + MAILBOX_HEADER_BYTES;
      const to = this.#outbox.reserve(length);
      if (to === 0) {
        this.refusal = TX_DROP_NO_BUFFERS;
        return i - first;
      }
      batch.writeNetHeader(i, MAILBOX_HEADER_BYTES, 1);
      memcpy(to, batch.headerAddress(i) - MAILBOX_HEADER_BYTES, MAILBOX_HEADER_BYTES);
      batch.copyOut(i, to + MAILBOX_HEADER_BYTES, batch.length[i]!);
      if (this.#outbox.commit(length)) this.#mailSignal = true;
    }
    return end - first;
  }

  flush(): void {
    this.tx?.publish();
    this.rx?.publish();
    if (this.#mailSignal) {
      this.#mailSignal = false;
      signalEventfd(this.#mailFd);
    }
  }

  notify(): void {
    this.tx?.notify();
    this.rx?.notify();
  }

  disableNotification(): void {
    this.tx?.disableNotification();
    this.rx?.disableNotification();
    this.#inbox.wake();
  }

  enableNotification(held: boolean, stalled: boolean): boolean {
    let more = false;
    if (stalled && this.rx?.enableNotification() === true) more = true;
    if (held) return more;
    if (this.tx?.enableNotification() === true) more = true;
    return !this.#inbox.sleep() || more;
  }

  addPollFds(sink: FdSink): void {
    if (this.tx !== null && this.tx.kick >= 0) sink.addEventfd(this.tx.kick);
    if (this.rx !== null && this.rx.kick >= 0) sink.addEventfd(this.rx.kick);
  }
}
