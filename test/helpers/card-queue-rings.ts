/** A queue pair of a card in the hands of a test: rings and buffers by descriptor, one frame a buffer. */
import { viewMemory } from '../../linux/libc.ts';
import { MAP_SHARED, mmap, munmap, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';
import {
  DESCRIPTOR_BYTES,
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
import type { RegisterWriter } from '../../nic/driver/register-writer.ts';
import { TransmitRing } from '../../nic/driver/transmit-ring.ts';

const DATA = TXD_DTYP_DATA | TXD_CMD_IFCS | TXD_CMD_DEXT;

export interface ReceivedFrame {
  bytes: Uint8Array;
  /** Status and error word, and VLAN tag, of its last descriptor. */
  status: number;
  vlanTag: number;
}

export class CardQueueRings implements Disposable {
  readonly rx: ReceiveRing;
  readonly tx: TransmitRing;
  readonly #access: CardQueueAccess;
  readonly #address: number;
  #nextBuffer = 0;

  constructor(access: CardQueueAccess, writer: RegisterWriter) {
    const { fd, layout, mapping, rxTail, txTail } = access;
    this.#access = access;
    this.#address = mmap({ length: layout.length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED, fd });
    this.rx = new ReceiveRing({
      descriptors: this.#part(layout.rxRing, layout.rxDescriptors * DESCRIPTOR_BYTES).buffer as ArrayBuffer,
      buffers: new BufferTable(layout.rxDescriptors, (i) => busAddress(mapping, rxBufferOffset(layout, i))),
      bufferBytes: BUFFER_BYTES,
      writer,
      tail: rxTail,
    });
    this.tx = new TransmitRing({
      descriptors: this.#part(layout.txRing, layout.txDescriptors * DESCRIPTOR_BYTES).buffer as ArrayBuffer,
      writer,
      tail: txTail,
    });
  }

  #part(offset: number, bytes: number): Uint8Array {
    return new Uint8Array(viewMemory(this.#address + offset, bytes));
  }

  /** Hands all buffers to the card, which may receive then. */
  start(): void {
    this.rx.publish();
  }

  /**
   * Sends a frame at once. With `options` and `command` of offloads, its context was posted before. It lies in neighbouring
   * buffers.
   */
  send(frame: Uint8Array, options = frame.length << TXD_PAYLEN_SHIFT, command = 0): void {
    const { layout, mapping } = this.#access;
    const buffers = Math.ceil(frame.length / BUFFER_BYTES);
    if (this.#nextBuffer + buffers > layout.txDescriptors) this.#nextBuffer = 0;
    for (let b = 0; b < buffers; b++) {
      const part = frame.subarray(b * BUFFER_BYTES, (b + 1) * BUFFER_BYTES);
      const offset = layout.txBuffers + this.#nextBuffer++ * BUFFER_BYTES;
      this.#part(offset, BUFFER_BYTES).set(part);
      const address = busAddress(mapping, offset);
      const words: [number, number, number, number] = [
        address | 0,
        Math.floor(address / 2 ** 32),
        part.length | DATA | command,
        b === 0 ? options : 0,
      ];
      if (b < buffers - 1) this.tx.post(...words);
      else this.tx.postLast(words[0], words[1], words[2] | TXD_CMD_EOP, words[3], 0);
    }
    this.tx.publish();
    this.tx.reclaim();
  }

  /** Takes the frames that have come, and gives their buffers back. */
  receive(): ReceivedFrame[] {
    const { layout } = this.#access;
    const waiting = this.rx.poll(layout.rxDescriptors);
    const frames: ReceivedFrame[] = [];
    let d = 0;
    for (let f = 0; f < waiting; f++) {
      const parts: Uint8Array[] = [];
      let last = 0;
      for (let n = this.rx.descriptors(f); n > 0; n--) {
        last = this.rx.index(d++);
        parts.push(this.#part(rxBufferOffset(layout, last), this.rx.buffers.lengths[last]!));
      }
      const bytes = Uint8Array.from(Buffer.concat(parts));
      frames.push({ bytes, status: this.rx.status(last), vlanTag: this.rx.vlanTag(last) });
    }
    this.rx.release(waiting);
    this.rx.publish();
    return frames;
  }

  [Symbol.dispose](): void {
    munmap(this.#address, this.#access.layout.length);
  }
}
