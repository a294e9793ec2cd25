/**
 * A queue pair of the network card as a port: frames are copied once, between a guest's buffers and memory that the card
 * reaches.
 *
 *     lane ── descriptor rings and packet buffers, in the lane's arena and in reach of the card ── card
 *
 * Received frames stay in the card's buffers until they are released. Frames for the card are copied into a ring of buffers
 * of their own; longer ones (super-frames too, which the card segments) take several neighbouring ones. Both rings' tails are
 * written once a batch, and buffers come back in batches. What the card cannot do, software does before.
 *
 *     transmit buffers     | header room | frame …       | frame …       | frame …  |     BUFFER_BYTES each
 *
 * Who starts and stops the queue on the card is the main thread, which owns the card. Hot: allocates nothing.
 */
import { type Address, viewMemory } from '../linux/libc.ts';
import { MAP_FIXED, MAP_SHARED, mmap, PROT_READ, PROT_WRITE } from '../linux/mman.ts';
import type { Arena } from '../memory/arena.ts';
import {
  BATCH_FRAMES,
  type FrameBatch,
  HEADER_BYTES,
  HEADROOM,
  MIN_FRAME_BYTES,
  VIRTIO_NET_HDR_BYTES,
} from '../memory/frame-batch.ts';
import {
  DESCRIPTOR_BYTES,
  RXD_ERR_IPE,
  RXD_ERR_TCPE,
  RXD_STAT_L4I,
  TXD_CMD_DEXT,
  TXD_CMD_EOP,
  TXD_CMD_IFCS,
  TXD_DTYP_DATA,
  TXD_PAYLEN_SHIFT,
} from '../nic/descriptors.ts';
import { BufferTable } from '../nic/driver/buffer-table.ts';
import { BUFFER_BYTES, busAddress, type QueueLayout, rxBufferOffset } from '../nic/driver/queue-memory.ts';
import { ReceiveRing } from '../nic/driver/receive-ring.ts';
import { type RegisterWriter, registerWriter } from '../nic/driver/register-writer.ts';
import { ringKernels } from '../nic/driver/ring-kernels.ts';
import { TransmitOffload } from '../nic/driver/transmit-offload.ts';
import { TransmitRing } from '../nic/driver/transmit-ring.ts';
import type { DmaMapping, RegisterAccess } from '../nic/pci/pci-device.ts';
import { EIMS_EX } from '../nic/registers.ts';
import { VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE } from '../vhost/virtio.ts';
import { TX_DROP_ERROR, TX_DROP_LINK_DOWN, TX_DROP_NO_BUFFERS, TX_DROP_TOO_BIG } from './counters.ts';
import { OffloadAdapter } from './offload.ts';
import { type FdSink, type PortQueue, TRANSMITTED, type TransmitResult } from './port.ts';

const HUGE_PAGE_BYTES = 2 ** 21;
/** The card takes no shorter frames (82599 datasheet §7.2.1.1), so these are padded with zeros; it pads to 60 itself (HLREG0.TXPADEN). */
const MIN_WIRE_BYTES = 17;
/** A frame begins here in its first buffer: the kernel that places it writes a virtio-net header in front. */
const FRAME_OFFSET = HEADROOM;
/** The longest frame in one buffer. */
const MAX_PLAIN_BYTES = BUFFER_BYTES - FRAME_OFFSET;
const DATA = TXD_DTYP_DATA | TXD_CMD_IFCS | TXD_CMD_DEXT;
const VECTORS_PER_WORD = 32;

/** A queue pair as the owner of the card describes it to a lane: plain data. */
export interface CardQueueDescription {
  /** The memory of the queue; stays its owner's. */
  fd: number;
  layout: QueueLayout;
  mapping: DmaMapping;
  registerAccess: RegisterAccess;
  /** Offsets of RDT and TDT. */
  rxTail: number;
  txTail: number;
  /** Its interrupt vector, and the eventfd that the vector signals; -1: the card cannot interrupt, so the lane never sleeps. */
  vector: number;
  interruptFd: number;
  /** Longest frame on the wire, in bytes without its CRC. */
  maxFrameBytes: number;
}

export class CardQueue implements PortQueue {
  malformed = 0;
  stalledSince = -1;
  refusal: TransmitResult = TRANSMITTED;
  /** The card is no longer there; its owner says so. */
  gone = false;
  readonly #description: CardQueueDescription;
  readonly #arena: Arena;
  readonly #address: Address;
  readonly #writer: RegisterWriter;
  readonly #rx: ReceiveRing;
  readonly #tx: TransmitRing;
  /** Where each receive buffer stands. */
  readonly #rxAddresses: Float64Array;
  readonly #txBuffers: Address;
  /** All transmit buffers, by bytes. */
  readonly #txBytes: Uint8Array;
  /** The receive buffers; and of the transmit buffers where a frame begins in each, and the length of one that fits. */
  readonly #rxTable: BufferTable;
  readonly #txTable: BufferTable;
  /** Transmit buffers of the ring, minus one. */
  readonly #bufferMask: number;
  /** The longest frame that {@link #transmitPlain} takes. */
  readonly #maxPlain: number;
  /** Transmit buffers ever taken, counted to 2^32 and again; what the transmit ring calls done are those that came back. */
  #taken = 0;
  readonly #offloads = new TransmitOffload();
  /** For frames that the card cannot send as they are; made for the first of them. */
  #adapter: OffloadAdapter | null = null;
  #closed = false;

  /** Maps the memory and fills the receive ring; the card must not receive yet. Throws SystemError. */
  constructor(description: CardQueueDescription, arena: Arena) {
    const { fd, layout, mapping, registerAccess, rxTail, txTail, maxFrameBytes } = description;
    this.#description = description;
    this.#arena = arena;
    this.#address = arena.reserve(layout.length, HUGE_PAGE_BYTES, 0);
    try {
      const prot = PROT_READ | PROT_WRITE;
      mmap({ address: this.#address, length: layout.length, prot, flags: MAP_SHARED | MAP_FIXED, fd });
    } catch (error) {
      arena.free(this.#address, layout.length);
      throw error;
    }
    const part = (offset: number, bytes: number): ArrayBuffer => viewMemory(this.#address + offset, bytes);
    this.#writer = registerWriter(registerAccess);
    this.#rxAddresses = Float64Array.from(
      { length: layout.rxDescriptors },
      (_, i) => this.#address + rxBufferOffset(layout, i),
    );
    this.#txBuffers = this.#address + layout.txBuffers;
    this.#txBytes = new Uint8Array(part(layout.txBuffers, layout.txDescriptors * BUFFER_BYTES));
    this.#bufferMask = layout.txDescriptors - 1;
    this.#maxPlain = Math.min(MAX_PLAIN_BYTES, maxFrameBytes);
    this.#rxTable = new BufferTable(layout.rxDescriptors, (i) => busAddress(mapping, rxBufferOffset(layout, i)), arena);
    this.#txTable = new BufferTable(
      layout.txDescriptors,
      (i) => busAddress(mapping, layout.txBuffers + i * BUFFER_BYTES + FRAME_OFFSET),
      arena,
    );
    this.#rx = new ReceiveRing({
      descriptors: part(layout.rxRing, layout.rxDescriptors * DESCRIPTOR_BYTES),
      buffers: this.#rxTable,
      bufferBytes: BUFFER_BYTES,
      kernels: ringKernels(arena, this.#address + layout.rxRing, this.#rxTable.addressesAt),
      writer: this.#writer,
      tail: rxTail,
    });
    this.#tx = new TransmitRing({
      descriptors: part(layout.txRing, layout.txDescriptors * DESCRIPTOR_BYTES),
      kernels: ringKernels(arena, this.#address + layout.txRing, this.#txTable.addressesAt),
      writer: this.#writer,
      tail: txTail,
    });
  }

  /** The card may receive: hands it the buffers. */
  start(): void {
    this.#rx.publish();
  }

  get ready(): boolean {
    return !this.gone && !this.#closed;
  }

  /** Unmaps the memory; the card must not use the queue any more. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#rxTable.close();
    this.#txTable.close();
    this.#arena.free(this.#address, this.#description.layout.length);
  }

  receive(batch: FrameBatch): number {
    if (!this.ready) return 0;
    const rx = this.#rx;
    const waiting = rx.poll(BATCH_FRAMES);
    if (waiting === 0) return 0;
    const noted = rx.plain ? this.#receivePlain(batch, waiting) : this.#receiveAny(batch, waiting);
    // Never a frame. Frames are released in order, so it waits until those before it are.
    if (noted === 0) {
      rx.release(1);
      this.malformed++;
    }
    return batch.count;
  }

  /** Frames of one buffer each. */
  #receivePlain(batch: FrameBatch, waiting: number): number {
    const { segmentAddress, segmentLength } = batch;
    const { lengths } = this.#rx.buffers;
    const addresses = this.#rxAddresses;
    let f = 0;
    let segment = batch.segments + 1;
    for (; f < waiting; f++, segment += 2) {
      const i = this.#rx.index(f);
      const length = lengths[i]!;
      if (length < MIN_FRAME_BYTES) break;
      segmentAddress[segment] = addresses[i]!;
      segmentLength[segment] = length;
    }
    batch.appendBuffers(f, 0);
    for (let i = 0; i < f; i++) this.#noteVerified(batch, i, this.#rx.index(i));
    return f;
  }

  /** Passes on that the card found a frame's checksums right; `last` is its last descriptor. */
  #noteVerified(batch: FrameBatch, i: number, last: number): void {
    if ((this.#rx.status(last) & (RXD_STAT_L4I | RXD_ERR_TCPE | RXD_ERR_IPE)) !== RXD_STAT_L4I) return;
    batch.flags[i] = VIRTIO_NET_HDR_F_DATA_VALID;
    batch.hdrLen[i] = 0;
    batch.gsoSize[i] = 0;
    batch.csumStart[i] = 0;
    batch.csumOffset[i] = 0;
  }

  #receiveAny(batch: FrameBatch, waiting: number): number {
    const { segmentAddress, segmentLength } = batch;
    const rx = this.#rx;
    let d = 0;
    for (let f = 0; f < waiting && batch.hasRoom; f++) {
      const descriptors = rx.descriptors(f);
      const first = batch.segments;
      let length = 0;
      for (let n = 1; n <= descriptors; n++, d++) {
        const i = rx.index(d);
        segmentAddress[first + n] = this.#rxAddresses[i]!;
        segmentLength[first + n] = rx.buffers.lengths[i]!;
        length += rx.buffers.lengths[i]!;
      }
      if (length < MIN_FRAME_BYTES) break;
      batch.append(descriptors, 0, length);
      this.#noteVerified(batch, f, rx.index(d - 1));
    }
    return batch.count;
  }

  release(count: number): void {
    this.#rx.release(count);
  }

  transmit(batch: FrameBatch, first: number, end: number): number {
    this.refusal = TRANSMITTED;
    if (!this.ready) {
      this.refusal = TX_DROP_LINK_DOWN;
      return 0;
    }
    let next = first;
    while (next < end) {
      const before = next;
      next = this.#transmitPlain(batch, next, end);
      if (next < end && this.refusal === TRANSMITTED) next += this.#transmitOther(batch, next);
      if (next === before) break;
    }
    return next - first;
  }

  /** Frames of one buffer without offloads, until there is one of another kind. Gives the first that is left. */
  #transmitPlain(batch: FrameBatch, first: number, end: number): number {
    const { length, flags, gsoType, placeTo } = batch;
    const most = Math.min(end - first, this.#room(end - first));
    const mask = this.#bufferMask;
    const taken = this.#taken;
    const maxPlain = this.#maxPlain;
    const { lengths } = this.#txTable;
    let n = 0;
    for (; n < most; n++) {
      const i = first + n;
      const bytes = length[i]!;
      const other = (flags[i]! & VIRTIO_NET_HDR_F_NEEDS_CSUM) | gsoType[i]!;
      if (other !== 0 || bytes > maxPlain || bytes < MIN_WIRE_BYTES) break;
      const buffer = (taken + n) & mask;
      lengths[buffer] = bytes;
      placeTo[i] = this.#txBuffers + buffer * BUFFER_BYTES + FRAME_OFFSET - VIRTIO_NET_HDR_BYTES;
    }
    if (n === most && first + n < end) this.refusal = TX_DROP_NO_BUFFERS;
    if (n === 0) return first;
    batch.place(first, first + n, VIRTIO_NET_HDR_BYTES);
    this.#tx.postBuffers(this.#txTable, taken & mask, n, taken);
    this.#taken = (taken + n) | 0;
    return first + n;
  }

  /** Buffers, each with a descriptor, that are free; asks the card for more where `wanted` are not. */
  #room(wanted: number): number {
    const tx = this.#tx;
    if (Math.min(tx.free, this.#freeBuffers) < wanted) tx.reclaim();
    return Math.min(tx.free, this.#freeBuffers);
  }

  get #freeBuffers(): number {
    return this.#bufferMask + 1 - ((this.#taken - this.#tx.done) | 0);
  }

  /** A frame that needs several buffers, padding, or the card's offloads. Gives 1 when it was taken. */
  #transmitOther(batch: FrameBatch, i: number): number {
    const plain = ((batch.flags[i]! & VIRTIO_NET_HDR_F_NEEDS_CSUM) | batch.gsoType[i]!) === 0;
    const offloads = this.#offloads;
    if (!plain && !this.#plan(batch, i)) return this.#transmitAdapted(batch, i);
    const length = batch.length[i]!;
    if (batch.gsoType[i] === VIRTIO_NET_HDR_GSO_NONE && length > this.#description.maxFrameBytes) {
      this.refusal = TX_DROP_TOO_BIG;
      return 0;
    }
    const wire = Math.max(length, MIN_WIRE_BYTES);
    const buffers = Math.ceil((FRAME_OFFSET + wire) / BUFFER_BYTES);
    const mask = this.#bufferMask;
    // A frame lies in neighbouring buffers, so those that are left before the end of the ring may stay empty.
    const start = this.#taken & mask;
    const skipped = start + buffers > mask + 1 ? mask + 1 - start : 0;
    if (skipped + buffers > mask) {
      this.refusal = TX_DROP_TOO_BIG;
      return 0;
    }
    if (this.#room(skipped + buffers + 1) < skipped + buffers + 1) {
      this.refusal = TX_DROP_NO_BUFFERS;
      return 0;
    }
    const buffer = (start + skipped) & mask;
    const at = buffer * BUFFER_BYTES + FRAME_OFFSET;
    batch.placeTo[i] = this.#txBuffers + at - VIRTIO_NET_HDR_BYTES;
    batch.place(i, i + 1, VIRTIO_NET_HDR_BYTES);
    if (wire > length) this.#txBytes.fill(0, at + length, at + wire);
    if (!plain) {
      offloads.prepare(this.#txBytes, at);
      if (offloads.takeContext()) this.#tx.post(offloads.context0, 0, offloads.context2, offloads.context3);
    }
    this.#taken = (this.#taken + skipped + buffers) | 0;
    this.#postFrame(
      buffer,
      buffers,
      wire,
      plain ? wire << TXD_PAYLEN_SHIFT : offloads.options,
      plain ? 0 : offloads.command,
    );
    return 1;
  }

  /** Whether the card can do what frame `i` asks for. */
  #plan(batch: FrameBatch, i: number): boolean {
    return this.#offloads.plan(
      batch.headers,
      batch.headerOffset(i),
      Math.min(batch.length[i]!, HEADER_BYTES),
      batch.length[i]!,
      batch.flags[i]!,
      batch.gsoType[i]!,
      batch.gsoSize[i]!,
      batch.csumStart[i]!,
      batch.csumOffset[i]!,
      this.#description.maxFrameBytes,
    );
  }

  /** Posts the descriptors of a frame in neighbouring buffers; the first has the options, the last the end. */
  #postFrame(buffer: number, buffers: number, wire: number, options: number, command: number): void {
    const { layout, mapping } = this.#description;
    let left = wire;
    for (let b = 0; b < buffers; b++) {
      const offset = b === 0 ? FRAME_OFFSET : 0;
      const bytes = Math.min(left, BUFFER_BYTES - offset);
      const address = busAddress(mapping, layout.txBuffers + (buffer + b) * BUFFER_BYTES + offset);
      const low = address | 0;
      const high = Math.floor(address / 2 ** 32) | 0;
      const word2 = bytes | DATA | command;
      const word3 = b === 0 ? options : 0;
      left -= bytes;
      if (left > 0) this.#tx.post(low, high, word2, word3);
      else this.#tx.postLast(low, high, word2 | TXD_CMD_EOP, word3, this.#taken);
    }
  }

  /** What the card cannot offload, done by software. All of it or nothing. */
  #transmitAdapted(batch: FrameBatch, i: number): number {
    this.#adapter ??= new OffloadAdapter(this.#arena);
    const adapter = this.#adapter;
    if (!adapter.start(batch, i)) {
      this.refusal = TX_DROP_ERROR;
      return 0;
    }
    const { frames, longestBytes } = adapter;
    const each = Math.ceil((FRAME_OFFSET + Math.max(longestBytes, MIN_WIRE_BYTES)) / BUFFER_BYTES);
    // One more: what the one at the end of the ring may leave empty there, and the descriptor that each wants to spare.
    const buffers = (frames + 1) * each;
    if (longestBytes > this.#description.maxFrameBytes || buffers > this.#bufferMask) {
      this.refusal = TX_DROP_TOO_BIG;
      return 0;
    }
    if (this.#room(buffers) < buffers) {
      this.refusal = TX_DROP_NO_BUFFERS;
      return 0;
    }
    for (let made = adapter.next(); made > 0; made = adapter.next()) {
      const { batch: segments } = adapter;
      for (let next = 0; next < made; ) {
        next = this.#transmitPlain(segments, next, made);
        // There is room for all of them, and each may go on the wire.
        if (next < made) next += Math.max(1, this.#transmitOther(segments, next));
      }
    }
    this.refusal = TRANSMITTED;
    return 1;
  }

  flush(): void {
    if (!this.ready) return;
    this.#tx.publish();
    this.#rx.publish();
  }

  notify(): void {}

  /** Interrupts mask themselves as they come (EIAM), so there is nothing to do. */
  disableNotification(): void {}

  enableNotification(held: boolean, stalled: boolean): boolean {
    if (!this.ready) return false;
    const { vector, interruptFd } = this.#description;
    // A card that cannot interrupt is polled.
    if (interruptFd < 0) return true;
    this.#writer.write32(EIMS_EX(Math.floor(vector / VECTORS_PER_WORD)), 1 << (vector % VECTORS_PER_WORD));
    const { free } = this.#tx;
    if (stalled && this.#tx.reclaim() > free) return true;
    return !held && this.#rx.poll(1) > 0;
  }

  addPollFds(sink: FdSink): void {
    if (this.ready && this.#description.interruptFd >= 0) sink.addEventfd(this.#description.interruptFd);
  }
}
