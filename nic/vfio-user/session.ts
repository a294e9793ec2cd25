/**
 * One client's conversation with a device over vfio-user: messages in, replies out. Sockets and time stay outside.
 *
 *     VERSION ──► anything else, in any order ──► close()
 *
 * A request that cannot be carried out is answered with an error; a client that breaks the protocol ends with an Error.
 */
import { EINVAL, EOPNOTSUPP } from '../../linux/errno.ts';
import { signalEventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { DmaTable } from './dma-table.ts';
import {
  COMMAND_NAMES,
  composeMessage,
  DMA_READABLE,
  DMA_UNMAP_ALL,
  DMA_WRITABLE,
  FLAG_ERROR,
  FLAG_NO_REPLY,
  FLAG_REPLY,
  FLAG_TYPE_MASK,
  MAX_DATA_BYTES,
  MAX_MESSAGE_FDS,
  readU64,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_INFO_NORESIZE,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_NUM_REGIONS,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
  VFIO_USER_DEVICE_GET_INFO,
  VFIO_USER_DEVICE_GET_IRQ_INFO,
  VFIO_USER_DEVICE_GET_REGION_INFO,
  VFIO_USER_DEVICE_RESET,
  VFIO_USER_DEVICE_SET_IRQS,
  VFIO_USER_DMA_MAP,
  VFIO_USER_DMA_UNMAP,
  VFIO_USER_REGION_READ,
  VFIO_USER_REGION_WRITE,
  VFIO_USER_VERSION,
  type VfioUserMessage,
} from './messages.ts';

const MAJOR = 0;
const MINOR = 1;
const ACCESS_HEADER_BYTES = 16;
const NO_FD = -1;

/** What a session drives. */
export interface VfioUserDevice {
  /** Bytes of each region by its index; 0 or nothing where there is none. */
  readonly regions: readonly number[];
  /** Interrupts of each kind by its index. */
  readonly interrupts: readonly number[];
  /** Fills `into` from a region; the range lies inside. */
  read(region: number, offset: number, into: Buffer): void;
  write(region: number, offset: number, from: Buffer): void;
  reset(): void;
}

/** A request that is answered with an error. */
class Refusal extends Error {
  readonly errno: number;

  constructor(errno: number, message: string) {
    super(message);
    this.errno = errno;
  }
}

export class VfioUserSession {
  /** The client's memory. */
  readonly dma = new DmaTable();
  readonly #device: VfioUserDevice;
  readonly #warn: (message: string) => void;
  /** Eventfds of each kind of interrupt, ours to close. */
  readonly #triggers: Int32Array[];
  #greeted = false;

  constructor(device: VfioUserDevice, warn: (message: string) => void) {
    this.#device = device;
    this.#warn = warn;
    this.#triggers = Array.from({ length: VFIO_PCI_NUM_IRQS }, (_, index) =>
      new Int32Array(device.interrupts[index] ?? 0).fill(NO_FD),
    );
  }

  /** Carries a message out. Gives the reply, or null where none is wanted. Its descriptors are taken over. */
  handle(message: VfioUserMessage): Buffer | null {
    const { id, command, flags, fds } = message;
    const name = COMMAND_NAMES[command] ?? `command ${command}`;
    let reply: Buffer = Buffer.alloc(0);
    let error = 0;
    try {
      if ((flags & FLAG_TYPE_MASK) === FLAG_REPLY) throw new Error(`a reply to ${name}, which was not asked for`);
      if (!this.#greeted && command !== VFIO_USER_VERSION) throw new Error(`${name} comes before VERSION`);
      reply = this.#carryOut(message);
    } catch (cause) {
      if (!(cause instanceof Refusal) && !(cause instanceof RangeError)) throw cause;
      error = cause instanceof Refusal ? cause.errno : EINVAL;
      this.#warn(`${name} is refused: ${cause.message}`);
    } finally {
      for (const fd of fds) if (fd !== NO_FD) close(fd);
    }
    if ((flags & FLAG_NO_REPLY) !== 0) return null;
    return composeMessage(
      id,
      command,
      error === 0 ? FLAG_REPLY : FLAG_REPLY | FLAG_ERROR,
      error === 0 ? reply : Buffer.alloc(0),
      error,
    );
  }

  #carryOut(message: VfioUserMessage): Buffer {
    const { command, body } = message;
    switch (command) {
      case VFIO_USER_VERSION:
        return this.#version(body);
      case VFIO_USER_DMA_MAP:
        return this.#dmaMap(message);
      case VFIO_USER_DMA_UNMAP:
        return this.#dmaUnmap(body);
      case VFIO_USER_DEVICE_GET_INFO:
        return words(16, VFIO_DEVICE_FLAGS_RESET | VFIO_DEVICE_FLAGS_PCI, VFIO_PCI_NUM_REGIONS, VFIO_PCI_NUM_IRQS);
      case VFIO_USER_DEVICE_GET_REGION_INFO:
        return this.#regionInfo(body);
      case VFIO_USER_DEVICE_GET_IRQ_INFO:
        return this.#irqInfo(body);
      case VFIO_USER_DEVICE_SET_IRQS:
        return this.#setIrqs(message);
      case VFIO_USER_REGION_READ:
        return this.#read(body);
      case VFIO_USER_REGION_WRITE:
        return this.#write(body);
      case VFIO_USER_DEVICE_RESET:
        this.#device.reset();
        return Buffer.alloc(0);
      default:
        throw new Refusal(EOPNOTSUPP, 'it is not known here');
    }
  }

  #version(body: Buffer): Buffer {
    const major = body.readUInt16LE(0);
    if (major !== MAJOR) throw new Refusal(EOPNOTSUPP, `version ${major} is not spoken here, ${MAJOR} is`);
    this.#greeted = true;
    const capabilities = { max_msg_fds: MAX_MESSAGE_FDS, max_data_xfer_size: MAX_DATA_BYTES, pgsizes: 4096 };
    const text = Buffer.from(`${JSON.stringify({ capabilities })}\0`);
    const reply = Buffer.alloc(4 + text.length);
    reply.writeUInt16LE(MAJOR, 0);
    reply.writeUInt16LE(Math.min(MINOR, body.readUInt16LE(2)), 2);
    text.copy(reply, 4);
    return reply;
  }

  #dmaMap({ body, fds }: VfioUserMessage): Buffer {
    const flags = body.readUInt32LE(4);
    const range = {
      offset: readU64(body, 8),
      address: readU64(body, 16),
      size: readU64(body, 24),
      readable: (flags & DMA_READABLE) !== 0,
      writable: (flags & DMA_WRITABLE) !== 0,
    };
    refusing(() => this.dma.map(range, fds[0] ?? null));
    return Buffer.alloc(0);
  }

  #dmaUnmap(body: Buffer): Buffer {
    const flags = body.readUInt32LE(4);
    if ((flags & DMA_UNMAP_ALL) !== 0) this.dma.clear();
    else refusing(() => this.dma.unmap(readU64(body, 8), readU64(body, 16)));
    return Buffer.from(body.subarray(0, 24));
  }

  #regionInfo(body: Buffer): Buffer {
    const index = body.readUInt32LE(8);
    if (index >= VFIO_PCI_NUM_REGIONS) throw new Refusal(EINVAL, `there is no region ${index}`);
    const size = this.#device.regions[index] ?? 0;
    const reply = Buffer.alloc(32);
    const flags = size > 0 ? VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE : 0;
    words(32, flags, index, 0).copy(reply);
    reply.writeBigUInt64LE(BigInt(size), 16);
    return reply;
  }

  #irqInfo(body: Buffer): Buffer {
    const index = body.readUInt32LE(8);
    if (index >= VFIO_PCI_NUM_IRQS) throw new Refusal(EINVAL, `there are no interrupts of kind ${index}`);
    const count = this.#device.interrupts[index] ?? 0;
    return words(16, count > 0 ? VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE : 0, index, count);
  }

  #setIrqs({ body, fds }: VfioUserMessage): Buffer {
    const flags = body.readUInt32LE(4);
    const index = body.readUInt32LE(8);
    const start = body.readUInt32LE(12);
    const count = body.readUInt32LE(16);
    const triggers = this.#triggers[index];
    if (!triggers || start + count > triggers.length) {
      throw new Refusal(
        EINVAL,
        `interrupts ${start} to ${start + count} of kind ${index}, of which there are ${triggers?.length ?? 0}`,
      );
    }
    // Masks are the client's business: nobody pends them here.
    if ((flags & VFIO_IRQ_SET_ACTION_TRIGGER) === 0) return Buffer.alloc(0);
    if ((flags & VFIO_IRQ_SET_DATA_NONE) !== 0) {
      if (count === 0) this.#dropTriggers(triggers, 0, triggers.length);
      else for (let n = start; n < start + count; n++) signal(triggers[n]!);
      return Buffer.alloc(0);
    }
    if ((flags & VFIO_IRQ_SET_DATA_EVENTFD) === 0)
      throw new Refusal(EOPNOTSUPP, `interrupts with flags 0x${flags.toString(16)}`);
    this.#dropTriggers(triggers, start, start + count);
    // Those without a descriptor are off; QEMU sends none for all of them.
    for (let n = 0; n < count && n < fds.length; n++) {
      triggers[start + n] = fds[n]!;
      fds[n] = NO_FD;
    }
    return Buffer.alloc(0);
  }

  #dropTriggers(triggers: Int32Array, from: number, to: number): void {
    for (let n = from; n < to; n++) {
      if (triggers[n] !== NO_FD) close(triggers[n]!);
      triggers[n] = NO_FD;
    }
  }

  #read(body: Buffer): Buffer {
    const { region, offset, count } = this.#access(body);
    const reply = Buffer.alloc(ACCESS_HEADER_BYTES + count);
    body.copy(reply, 0, 0, ACCESS_HEADER_BYTES);
    this.#device.read(region, offset, reply.subarray(ACCESS_HEADER_BYTES));
    return reply;
  }

  #write(body: Buffer): Buffer {
    const { region, offset, count } = this.#access(body);
    const data = body.subarray(ACCESS_HEADER_BYTES);
    if (data.length !== count) throw new Refusal(EINVAL, `${count} bytes to be written, ${data.length} came`);
    this.#device.write(region, offset, data);
    return Buffer.from(body.subarray(0, ACCESS_HEADER_BYTES));
  }

  #access(body: Buffer): { region: number; offset: number; count: number } {
    const offset = readU64(body, 0);
    const region = body.readUInt32LE(8);
    const count = body.readUInt32LE(12);
    const size = this.#device.regions[region] ?? 0;
    if (count > MAX_DATA_BYTES || offset + count > size) {
      throw new Refusal(EINVAL, `${count} bytes at 0x${offset.toString(16)} of region ${region}, which has ${size}`);
    }
    return { region, offset, count };
  }

  /** The device sends MSI-X message `vector`; where the client has only MSI or INTx, its first and only. */
  interrupt(vector: number): void {
    const msix = this.#triggers[VFIO_PCI_MSIX_IRQ_INDEX]!;
    const fd = msix[vector] ?? NO_FD;
    if (fd !== NO_FD) {
      signal(fd);
      return;
    }
    if (msix.some((other) => other !== NO_FD)) return;
    for (const index of [VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_INTX_IRQ_INDEX]) signal(this.#triggers[index]![0] ?? NO_FD);
  }

  /** Lets go of the client's memory and descriptors. */
  close(): void {
    this.dma.clear();
    for (const triggers of this.#triggers) this.#dropTriggers(triggers, 0, triggers.length);
  }
}

function signal(fd: number): void {
  if (fd !== NO_FD) signalEventfd(fd);
}

function refusing(action: () => void): void {
  try {
    action();
  } catch (error) {
    throw new Refusal(EINVAL, (error as Error).message);
  }
}

function words(...values: number[]): Buffer {
  const buffer = Buffer.alloc(4 * values.length);
  for (const [i, value] of values.entries()) buffer.writeUInt32LE(value, 4 * i);
  return buffer;
}
