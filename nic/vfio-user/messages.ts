/**
 * The vfio-user protocol's messages (QEMU's docs/interop/vfio-user.rst): a header, a body, and descriptors beside it.
 *
 *     id u16 | command u16 | size u32 (with header) | flags u32 | error u32 | body …        all little-endian
 */

export const VFIO_USER_HEADER_BYTES = 16;
export const VFIO_USER_VERSION = 1;
export const VFIO_USER_DMA_MAP = 2;
export const VFIO_USER_DMA_UNMAP = 3;
export const VFIO_USER_DEVICE_GET_INFO = 4;
export const VFIO_USER_DEVICE_GET_REGION_INFO = 5;
export const VFIO_USER_DEVICE_GET_IRQ_INFO = 7;
export const VFIO_USER_DEVICE_SET_IRQS = 8;
export const VFIO_USER_REGION_READ = 9;
export const VFIO_USER_REGION_WRITE = 10;
export const VFIO_USER_DEVICE_RESET = 13;

export const COMMAND_NAMES: Record<number, string> = {
  [VFIO_USER_VERSION]: 'VERSION',
  [VFIO_USER_DMA_MAP]: 'DMA_MAP',
  [VFIO_USER_DMA_UNMAP]: 'DMA_UNMAP',
  [VFIO_USER_DEVICE_GET_INFO]: 'DEVICE_GET_INFO',
  [VFIO_USER_DEVICE_GET_REGION_INFO]: 'DEVICE_GET_REGION_INFO',
  [VFIO_USER_DEVICE_GET_IRQ_INFO]: 'DEVICE_GET_IRQ_INFO',
  [VFIO_USER_DEVICE_SET_IRQS]: 'DEVICE_SET_IRQS',
  [VFIO_USER_REGION_READ]: 'REGION_READ',
  [VFIO_USER_REGION_WRITE]: 'REGION_WRITE',
  [VFIO_USER_DEVICE_RESET]: 'DEVICE_RESET',
};

/** Flags of a header: what kind it is, whether a reply is wanted, and whether it tells of an error. */
export const FLAG_TYPE_MASK = 0xf;
export const FLAG_REPLY = 1;
export const FLAG_NO_REPLY = 1 << 4;
export const FLAG_ERROR = 1 << 5;

/** Data of one region access at the most, and the longest message that has it. */
export const MAX_DATA_BYTES = 2 ** 20;
export const MAX_MESSAGE_BYTES = MAX_DATA_BYTES + 4096;
/** Descriptors beside one message: the most that QEMU lets be agreed on. */
export const MAX_MESSAGE_FDS = 16;

/** Of a DMA_MAP, and of a DMA_UNMAP that means everything. */
export const DMA_READABLE = 1;
export const DMA_WRITABLE = 2;
export const DMA_UNMAP_ALL = 2;

/** <linux/vfio.h>: regions and interrupts of a PCI device by index. */
export const VFIO_PCI_CONFIG_REGION_INDEX = 7;
export const VFIO_PCI_NUM_REGIONS = 9;
export const VFIO_PCI_INTX_IRQ_INDEX = 0;
export const VFIO_PCI_MSI_IRQ_INDEX = 1;
export const VFIO_PCI_MSIX_IRQ_INDEX = 2;
export const VFIO_PCI_NUM_IRQS = 5;
export const VFIO_DEVICE_FLAGS_RESET = 1;
export const VFIO_DEVICE_FLAGS_PCI = 2;
export const VFIO_REGION_INFO_FLAG_READ = 1;
export const VFIO_REGION_INFO_FLAG_WRITE = 2;
export const VFIO_IRQ_INFO_EVENTFD = 1;
export const VFIO_IRQ_INFO_NORESIZE = 8;
export const VFIO_IRQ_SET_DATA_NONE = 1;
export const VFIO_IRQ_SET_DATA_EVENTFD = 4;
export const VFIO_IRQ_SET_ACTION_TRIGGER = 32;

export interface VfioUserMessage {
  id: number;
  command: number;
  flags: number;
  /** errno of a reply with FLAG_ERROR. */
  error: number;
  body: Buffer;
  /** The receiver's to close. */
  fds: number[];
}

/** Composes a message; `flags` and `error` as in the header. */
export function composeMessage(id: number, command: number, flags: number, body: Uint8Array, error = 0): Buffer {
  const message = Buffer.alloc(VFIO_USER_HEADER_BYTES + body.length);
  message.writeUInt16LE(id, 0);
  message.writeUInt16LE(command, 2);
  message.writeUInt32LE(message.length, 4);
  message.writeUInt32LE(flags >>> 0, 8);
  message.writeUInt32LE(error, 12);
  message.set(body, VFIO_USER_HEADER_BYTES);
  return message;
}

/** A u64 of a body. Throws RangeError for one that no number holds exactly. */
export function readU64(body: Buffer, at: number): number {
  const value = body.readBigUInt64LE(at);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new RangeError(`0x${value.toString(16)} is out of range`);
  return Number(value);
}

/**
 * Puts messages together from what a socket gives: {@link room} says where the next bytes go, and {@link take} that they
 * have come. It never asks for bytes beyond a message, so that descriptors are the message's that they came with.
 */
export class VfioUserParser {
  #buffer = Buffer.alloc(4096);
  #length = 0;
  #wanted = VFIO_USER_HEADER_BYTES;
  #fds: number[] = [];

  /** Where the next bytes go. */
  get room(): Buffer {
    return this.#buffer.subarray(this.#length, this.#wanted);
  }

  /** Whether a message has begun. */
  get amidst(): boolean {
    return this.#length > 0;
  }

  /**
   * `length` bytes have come into {@link room}, with descriptors. Gives the message that they complete, whose body is valid
   * until the next call, or null. Throws Error for a size that no message has.
   */
  take(length: number, fds: number[]): VfioUserMessage | null {
    this.#length += length;
    this.#fds.push(...fds);
    if (this.#length < this.#wanted) return null;
    const buffer = this.#buffer;
    const size = buffer.readUInt32LE(4);
    if (size < VFIO_USER_HEADER_BYTES || size > MAX_MESSAGE_BYTES) {
      throw new Error(
        `a message says that it has ${size} bytes; ${VFIO_USER_HEADER_BYTES} to ${MAX_MESSAGE_BYTES} are possible`,
      );
    }
    if (this.#length < size) {
      this.#wanted = size;
      if (size > buffer.length) {
        this.#buffer = Buffer.alloc(MAX_MESSAGE_BYTES);
        buffer.copy(this.#buffer, 0, 0, this.#length);
      }
      return null;
    }
    const message: VfioUserMessage = {
      id: buffer.readUInt16LE(0),
      command: buffer.readUInt16LE(2),
      flags: buffer.readUInt32LE(8),
      error: buffer.readUInt32LE(12),
      body: buffer.subarray(VFIO_USER_HEADER_BYTES, size),
      fds: this.#fds,
    };
    this.#fds = [];
    this.#length = 0;
    this.#wanted = VFIO_USER_HEADER_BYTES;
    return message;
  }

  /** Gives up the descriptors of a message that will not be completed. */
  abandon(): number[] {
    const fds = this.#fds;
    this.#fds = [];
    return fds;
  }
}
