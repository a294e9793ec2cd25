/**
 * A queue pair of an 82599 as a frame device: the stack stands directly on the card.
 *
 *     stack ── CardDevice ── descriptor rings and packet buffers, in reach of the card ── wire
 *
 * Frames stay in the card's buffers until they are released, and are written where the card reads them: no copy either way. A
 * frame lies in one buffer, so jumbo frames are not received; super-frames to send take several neighbouring buffers, and
 * the card cuts them. What a transmit buffer holds begins at {@link FRAME_OFFSET}, so that the IP header is aligned.
 *
 * Who starts and stops the card is open-card.ts. Hot: allocates nothing.
 */
import { drainEventfd } from '../../linux/eventfd.ts';
import { type Address, viewMemory } from '../../linux/libc.ts';
import { MAP_SHARED, mmap, munmap, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';
import { MAX_FRAME_BYTES, MIN_FRAME_BYTES } from '../../memory/frame-batch.ts';
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
} from '../../nic/descriptors.ts';
import { BufferTable } from '../../nic/driver/buffer-table.ts';
import type { CardQueueAccess } from '../../nic/driver/ixgbe.ts';
import { BUFFER_BYTES, busAddress, rxBufferOffset } from '../../nic/driver/queue-memory.ts';
import { ReceiveRing } from '../../nic/driver/receive-ring.ts';
import { type RegisterWriter, registerWriter } from '../../nic/driver/register-writer.ts';
import { TransmitOffload } from '../../nic/driver/transmit-offload.ts';
import { TransmitRing } from '../../nic/driver/transmit-ring.ts';
import { EIMS_EX } from '../../nic/registers.ts';
import { VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM } from '../../vhost/virtio.ts';
import { NO_ROOM, RECEIVE_BATCH, TRANSMIT_CHECKSUM, TRANSMIT_TSO4, TRANSMIT_TSO6 } from '../frame-device.ts';
import { checkMacAddress, checkMtu, DEFAULT_MTU } from './device-options.ts';
import type { WaitableDevice } from './waitable-device.ts';

/** Ethernet header and one VLAN tag. */
export const FRAME_OVERHEAD_BYTES = 18;
/** In a frame's first transmit buffer. */
const FRAME_OFFSET = 2;
/** The card takes no shorter frames (82599 datasheet §7.2.1.1); it pads to 60 itself (HLREG0.TXPADEN). */
const MIN_WIRE_BYTES = 17;
const DATA = TXD_DTYP_DATA | TXD_CMD_IFCS | TXD_CMD_DEXT;
const VECTORS_PER_WORD = 32;
const NOTHING = -1;
const TWO_32 = 2 ** 32;

export interface CardDeviceOptions {
  /** For messages. */
  name: string;
  /** Of the card; its memory stays the card's. */
  queue: CardQueueAccess;
  /** eventfd that the queue's vector signals; -1: the card cannot interrupt, so it is polled without rest. */
  interruptFd: number;
  address: Uint8Array;
  /** Default 1500; a frame fits a buffer of 2 KiB. */
  mtu?: number;
  /** Gives the card back. */
  onClose?: () => void;
}

export class CardDevice implements WaitableDevice {
  readonly name: string;
  readonly address: Uint8Array;
  readonly mtu: number;
  readonly offloads = TRANSMIT_CHECKSUM | TRANSMIT_TSO4 | TRANSMIT_TSO6;
  /** All of the queue's memory, for both ways. */
  readonly rx: Uint8Array;
  readonly tx: Uint8Array;
  readonly rxOffset = new Uint32Array(RECEIVE_BATCH);
  readonly rxLength = new Uint32Array(RECEIVE_BATCH);
  readonly rxFlags = new Uint8Array(RECEIVE_BATCH);
  readonly rxGsoType = new Uint8Array(RECEIVE_BATCH);
  readonly rxGsoSize = new Uint16Array(RECEIVE_BATCH);
  readonly rxCsumStart = new Uint16Array(RECEIVE_BATCH);
  readonly rxCsumOffset = new Uint16Array(RECEIVE_BATCH);
  /** Received frames with errors, too short, or longer than a buffer. */
  malformed = 0;
  /** Frames that the card could not take as they were. */
  txDropped = 0;
  /** The card is no longer there; its owner says so. */
  gone = false;
  readonly #options: CardDeviceOptions;
  readonly #memory: Address;
  readonly #writer: RegisterWriter;
  readonly #rxRing: ReceiveRing;
  readonly #txRing: TransmitRing;
  readonly #rxOffsets: Uint32Array;
  readonly #txBuffers: number;
  /** Bus addresses of the transmit buffers, where a frame begins in each; low and high word. */
  readonly #txLow: Int32Array;
  readonly #txHigh: Int32Array;
  readonly #bufferMask: number;
  readonly #offload = new TransmitOffload();
  readonly #fds: readonly number[];
  /** Transmit buffers ever taken, counted to 2^32 and again. */
  #taken = 0;
  /** Buffer where the reserved frame begins, and those left empty before it. */
  #held = NOTHING;
  #skipped = 0;
  #received = 0;
  /** reserve() had nothing to give. */
  #starved = false;
  #open = true;

  /** Maps the memory and fills the receive ring; the card must not receive yet. Throws SystemError, RangeError. */
  constructor(options: CardDeviceOptions) {
    const { name, queue, interruptFd, address, mtu = DEFAULT_MTU } = options;
    this.#options = options;
    this.name = name;
    this.address = checkMacAddress(address, name);
    this.mtu = checkMtu(mtu, name);
    if (mtu + FRAME_OVERHEAD_BYTES > BUFFER_BYTES - FRAME_OFFSET) {
      const most = BUFFER_BYTES - FRAME_OFFSET - FRAME_OVERHEAD_BYTES;
      throw new RangeError(
        `${name}: an MTU of ${mtu}; a frame must fit one of the card's buffers: ${most} at the most`,
      );
    }
    const { fd, layout, mapping, registerAccess, rxTail, txTail } = queue;
    const { length, rxDescriptors, txDescriptors } = layout;
    if (txDescriptors <= 2 * buffersOf(MAX_FRAME_BYTES)) {
      throw new RangeError(
        `${name}: ${txDescriptors} transmit descriptors are too few for super-frames; give 128 or more`,
      );
    }
    this.#writer = registerWriter(registerAccess);
    this.#memory = mmap({ length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED, fd });
    const memory = viewMemory(this.#memory, length);
    this.rx = new Uint8Array(memory);
    this.tx = this.rx;
    this.#rxOffsets = Uint32Array.from({ length: rxDescriptors }, (_, i) => rxBufferOffset(layout, i));
    this.#txBuffers = layout.txBuffers;
    const busOf = (i: number): number => busAddress(mapping, layout.txBuffers + i * BUFFER_BYTES);
    this.#txLow = Int32Array.from({ length: txDescriptors }, (_, i) => busOf(i) | 0);
    this.#txHigh = Int32Array.from({ length: txDescriptors }, (_, i) => Math.floor(busOf(i) / TWO_32));
    this.#bufferMask = txDescriptors - 1;
    const part = (offset: number, bytes: number): ArrayBuffer => viewMemory(this.#memory + offset, bytes);
    this.#rxRing = new ReceiveRing({
      descriptors: part(layout.rxRing, rxDescriptors * DESCRIPTOR_BYTES),
      buffers: new BufferTable(rxDescriptors, (i) => busAddress(mapping, rxBufferOffset(layout, i))),
      bufferBytes: BUFFER_BYTES,
      writer: this.#writer,
      tail: rxTail,
    });
    this.#txRing = new TransmitRing({
      descriptors: part(layout.txRing, txDescriptors * DESCRIPTOR_BYTES),
      writer: this.#writer,
      tail: txTail,
    });
    this.#fds = interruptFd < 0 ? [] : [interruptFd];
  }

  /** The card may receive: hands it the buffers. */
  start(): void {
    this.#rxRing.publish();
  }

  get #ready(): boolean {
    return this.#open && !this.gone;
  }

  receive(): number {
    if (!this.#ready) return 0;
    const ring = this.#rxRing;
    const waiting = ring.poll(RECEIVE_BATCH);
    let count = 0;
    let d = 0;
    for (let f = 0; f < waiting; f++) {
      const descriptors = ring.descriptors(f);
      // What is no frame has an unknown number of them: it waits until those before it were released.
      if (descriptors === 0) break;
      const i = ring.index(d);
      d += descriptors;
      this.#received++;
      const length = ring.buffers.lengths[i]!;
      if (descriptors > 1 || length < MIN_FRAME_BYTES) {
        this.malformed++;
        continue;
      }
      const isVerified = (ring.status(i) & (RXD_STAT_L4I | RXD_ERR_TCPE | RXD_ERR_IPE)) === RXD_STAT_L4I;
      this.rxOffset[count] = this.#rxOffsets[i]!;
      this.rxLength[count] = length;
      this.rxFlags[count] = isVerified ? VIRTIO_NET_HDR_F_DATA_VALID : 0;
      count++;
    }
    if (waiting > 0 && this.#received === 0) {
      this.malformed++;
      this.#received = 1;
      this.release();
    }
    return count;
  }

  release(): void {
    if (this.#received === 0 || !this.#ready) return;
    this.#rxRing.release(this.#received);
    this.#received = 0;
    this.#rxRing.publish();
  }

  reserve(length: number): number {
    if (length > MAX_FRAME_BYTES) {
      throw new RangeError(`${this.name}: a frame of ${length} bytes; the longest has ${MAX_FRAME_BYTES}`);
    }
    if (!this.#ready) return NO_ROOM;
    const size = this.#bufferMask + 1;
    const buffers = buffersOf(length);
    const start = this.#taken & this.#bufferMask;
    // A frame lies in neighbouring buffers, so those before the end of the ring may stay empty.
    const skipped = start + buffers > size ? size - start : 0;
    // One descriptor more for the context, and one that always stays free.
    const wanted = skipped + buffers + 1;
    if (this.#room() < wanted) {
      this.#txRing.reclaim();
      if (this.#room() < wanted) {
        this.#starved = true;
        return NO_ROOM;
      }
    }
    this.#starved = false;
    this.#skipped = skipped;
    this.#held = (start + skipped) & this.#bufferMask;
    return this.#txBuffers + this.#held * BUFFER_BYTES + FRAME_OFFSET;
  }

  #room(): number {
    const buffers = this.#bufferMask + 1 - ((this.#taken - this.#txRing.done) | 0);
    return Math.min(this.#txRing.free, buffers);
  }

  send(
    length: number,
    flags: number,
    gsoType: number,
    _hdrLen: number,
    gsoSize: number,
    csumStart: number,
    csumOffset: number,
  ): void {
    if (!this.#ready) {
      this.txDropped++;
      return;
    }
    const first = this.#held;
    if (first === NOTHING) throw new RangeError(`${this.name}: a frame was sent that was not reserved`);
    this.#held = NOTHING;
    const at = this.#txBuffers + first * BUFFER_BYTES + FRAME_OFFSET;
    const bytes = this.tx;
    const offload = this.#offload;
    let wire = length;
    if (wire < MIN_WIRE_BYTES) {
      bytes.fill(0, at + wire, at + MIN_WIRE_BYTES);
      wire = MIN_WIRE_BYTES;
    }
    let options = wire << TXD_PAYLEN_SHIFT;
    let command = 0;
    if (((flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) | gsoType) !== 0) {
      if (
        !offload.plan(
          bytes,
          at,
          length,
          length,
          flags,
          gsoType,
          gsoSize,
          csumStart,
          csumOffset,
          this.mtu + FRAME_OVERHEAD_BYTES,
        )
      ) {
        this.txDropped++;
        return;
      }
      offload.prepare(bytes, at);
      if (offload.takeContext()) this.#txRing.post(offload.context0, 0, offload.context2, offload.context3);
      options = offload.options;
      command = offload.command;
    }
    const buffers = buffersOf(wire);
    this.#taken = (this.#taken + this.#skipped + buffers) | 0;
    this.#post(first, buffers, wire, options, command);
  }

  /** The descriptors of a frame in neighbouring buffers; the first has the options, the last the end. */
  #post(first: number, buffers: number, wire: number, options: number, command: number): void {
    const ring = this.#txRing;
    let left = wire;
    for (let b = 0; b < buffers; b++) {
      const offset = b === 0 ? FRAME_OFFSET : 0;
      const bytes = Math.min(left, BUFFER_BYTES - offset);
      // Buffers begin at multiples of their size: the offset never carries.
      const low = this.#txLow[first + b]! | offset;
      const high = this.#txHigh[first + b]!;
      const word2 = bytes | DATA | command;
      const word3 = b === 0 ? options : 0;
      left -= bytes;
      if (left > 0) ring.post(low, high, word2, word3);
      else ring.postLast(low, high, word2 | TXD_CMD_EOP, word3, this.#taken);
    }
  }

  flush(): void {
    if (!this.#ready) return;
    this.#txRing.publish();
  }

  get fds(): readonly number[] {
    return this.#open ? this.#fds : NO_FDS;
  }

  enableNotification(): boolean {
    if (!this.#ready) return false;
    const { queue, interruptFd } = this.#options;
    // A card that cannot interrupt is polled; nor does it interrupt for room.
    if (interruptFd < 0 || this.#starved) return true;
    const { vector } = queue;
    this.#writer.write32(EIMS_EX(Math.floor(vector / VECTORS_PER_WORD)), 1 << (vector % VECTORS_PER_WORD));
    return this.#rxRing.poll(1) > 0;
  }

  /** Interrupts mask themselves as they come (EIAM). */
  disableNotification(): void {
    if (this.#open && this.#options.interruptFd >= 0) drainEventfd(this.#options.interruptFd);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#options.onClose?.();
    munmap(this.#memory, this.#options.queue.layout.length);
  }
}

/** Transmit buffers of a frame. */
function buffersOf(length: number): number {
  return Math.ceil((FRAME_OFFSET + Math.max(length, MIN_WIRE_BYTES)) / BUFFER_BYTES);
}

const NO_FDS: readonly number[] = [];
