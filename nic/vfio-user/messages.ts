/**
 * The vfio-user protocol's messages (QEMU's docs/interop/vfio-user.rst): what each has, byte by byte. What they mean is the
 * session's (session.ts) and the client's (client.ts).
 *
 *     id u16 | command u16 | size u32 (with header) | flags u32 | error u32 | body …        all little-endian
 *
 * A header that is wrong ends the connection, for nobody knows then where the next message begins. A body that is wrong is a
 * {@link VfioUserError}: it can be answered with.
 */
import { EINVAL } from '../../linux/errno.ts';

export const VFIO_USER_HEADER_BYTES = 16;
// § "Commands"
export const VFIO_USER_VERSION = 1;
export const VFIO_USER_DMA_MAP = 2;
export const VFIO_USER_DMA_UNMAP = 3;
export const VFIO_USER_DEVICE_GET_INFO = 4;
export const VFIO_USER_DEVICE_GET_REGION_INFO = 5;
export const VFIO_USER_DEVICE_GET_IRQ_INFO = 7;
export const VFIO_USER_DEVICE_SET_IRQS = 8;
export const VFIO_USER_REGION_READ = 9;
export const VFIO_USER_REGION_WRITE = 10;
/** From the server to the client. */
export const VFIO_USER_DMA_READ = 11;
export const VFIO_USER_DMA_WRITE = 12;
export const VFIO_USER_DEVICE_RESET = 13;

/** Those that are not served, too: for messages that tell of them. */
const COMMAND_NAMES: Record<number, string> = {
  [VFIO_USER_VERSION]: 'VERSION',
  [VFIO_USER_DMA_MAP]: 'DMA_MAP',
  [VFIO_USER_DMA_UNMAP]: 'DMA_UNMAP',
  [VFIO_USER_DEVICE_GET_INFO]: 'DEVICE_GET_INFO',
  [VFIO_USER_DEVICE_GET_REGION_INFO]: 'DEVICE_GET_REGION_INFO',
  6: 'DEVICE_GET_REGION_IO_FDS',
  [VFIO_USER_DEVICE_GET_IRQ_INFO]: 'DEVICE_GET_IRQ_INFO',
  [VFIO_USER_DEVICE_SET_IRQS]: 'DEVICE_SET_IRQS',
  [VFIO_USER_REGION_READ]: 'REGION_READ',
  [VFIO_USER_REGION_WRITE]: 'REGION_WRITE',
  [VFIO_USER_DMA_READ]: 'DMA_READ',
  [VFIO_USER_DMA_WRITE]: 'DMA_WRITE',
  [VFIO_USER_DEVICE_RESET]: 'DEVICE_RESET',
  15: 'REGION_WRITE_MULTI',
  16: 'DEVICE_FEATURE',
  17: 'MIG_DATA_READ',
  18: 'MIG_DATA_WRITE',
};

/** Name of a command, such as `DMA_MAP`. */
export const commandName = (command: number): string => COMMAND_NAMES[command] ?? `command ${command}`;

/** Flags of a header: what kind it is, whether a reply is wanted, and whether it tells of an error. */
export const FLAG_TYPE_MASK = 0xf;
export const FLAG_REPLY = 1;
export const FLAG_NO_REPLY = 1 << 4;
export const FLAG_ERROR = 1 << 5;

/** Data of one region access at the most (`max_data_xfer_size`; this is its default), and the longest message that has it. */
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
export const VFIO_IRQ_INFO_MASKABLE = 2;
export const VFIO_IRQ_INFO_NORESIZE = 8;
export const VFIO_IRQ_SET_DATA_NONE = 1;
export const VFIO_IRQ_SET_DATA_BOOL = 2;
export const VFIO_IRQ_SET_DATA_EVENTFD = 4;
export const VFIO_IRQ_SET_ACTION_MASK = 8;
export const VFIO_IRQ_SET_ACTION_UNMASK = 16;
export const VFIO_IRQ_SET_ACTION_TRIGGER = 32;

const VERSION_HEADER_BYTES = 4;
const DMA_MAP_BYTES = 32;
const DMA_UNMAP_BYTES = 24;
const DEVICE_INFO_BYTES = 16;
const REGION_INFO_BYTES = 32;
const IRQ_INFO_BYTES = 16;
const IRQ_SET_BYTES = 20;
const ACCESS_BYTES = 16;
const DMA_ACCESS_BYTES = 16;
/** What replies to DMA_WRITE have: the document's, or with the count as long as in the request. */
const DMA_WRITE_REPLY_BYTES = [12, 16];
const INDEX_AT = 8;

/** A body that says something wrong: answered with `errno`. */
export class VfioUserError extends Error {
  readonly errno: number;

  constructor(message: string, errno = EINVAL) {
    super(message);
    this.name = 'VfioUserError';
    this.errno = errno;
  }
}

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

// ---- bodies: a parser and a composer of each, side by side. Parsers throw VfioUserError.

function exactly(bytes: number, body: Buffer): void {
  if (body.length !== bytes) throw new VfioUserError(`${body.length} bytes of body, not ${bytes}`);
}

function atLeast(bytes: number, body: Buffer): void {
  if (body.length < bytes) throw new VfioUserError(`${body.length} bytes of body, at least ${bytes}`);
}

/** A u64 that a number holds exactly: no memory is beyond. */
function readU64(body: Buffer, at: number, what: string): number {
  const value = body.readBigUInt64LE(at);
  if (value > BigInt(Number.MAX_SAFE_INTEGER))
    throw new VfioUserError(`${what} 0x${value.toString(16)} is out of range`);
  return Number(value);
}

/** A body of u32 words. */
export function words(...values: number[]): Buffer {
  const buffer = Buffer.alloc(4 * values.length);
  for (const [i, value] of values.entries()) buffer.writeUInt32LE(value, 4 * i);
  return buffer;
}

/** What one side can take; what it does not say has the document's default. */
export interface Capabilities {
  max_msg_fds: number;
  max_data_xfer_size: number;
  max_dma_maps: number;
  pgsizes: number;
}

const DEFAULT_CAPABILITIES: Readonly<Capabilities> = {
  max_msg_fds: 1,
  max_data_xfer_size: 2 ** 20,
  max_dma_maps: 65_535,
  pgsizes: 4096,
};

export interface Version {
  major: number;
  minor: number;
  capabilities: Capabilities;
}

/** § VFIO_USER_VERSION, request and reply: two numbers, then JSON that ends with a NUL, or nothing. */
export function parseVersion(body: Buffer): Version {
  atLeast(VERSION_HEADER_BYTES, body);
  const version = { major: body.readUInt16LE(0), minor: body.readUInt16LE(2) };
  return { ...version, capabilities: parseCapabilities(body.subarray(VERSION_HEADER_BYTES)) };
}

function parseCapabilities(data: Buffer): Capabilities {
  if (data.length === 0) return DEFAULT_CAPABILITIES;
  if (data.indexOf(0) !== data.length - 1) throw new VfioUserError('its version data does not end with its only NUL');
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(data.subarray(0, -1)));
  } catch (error) {
    throw new VfioUserError(`its version data is no JSON: ${(error as Error).message}`);
  }
  if (!isObject(json)) throw new VfioUserError('its version data is no JSON object');
  const given = json.capabilities ?? {};
  if (!isObject(given)) throw new VfioUserError('its capabilities are no JSON object');
  const capabilities: Capabilities = { ...DEFAULT_CAPABILITIES };
  for (const name of Object.keys(DEFAULT_CAPABILITIES) as (keyof Capabilities)[]) {
    const value = given[name];
    if (value === undefined) continue;
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
      throw new VfioUserError(`its capability ${name} is ${JSON.stringify(value)}, no number of anything`);
    }
    capabilities[name] = value;
  }
  return capabilities;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

export function composeVersion(version: { major: number; minor: number; capabilities: Partial<Capabilities> }): Buffer {
  const numbers = Buffer.alloc(VERSION_HEADER_BYTES);
  numbers.writeUInt16LE(version.major, 0);
  numbers.writeUInt16LE(version.minor, 2);
  return Buffer.concat([numbers, Buffer.from(`${JSON.stringify({ capabilities: version.capabilities })}\0`)]);
}

/** Memory of the client that the device may reach. */
export interface DmaRange {
  /** Bus address. */
  address: number;
  /** Bytes. */
  size: number;
  /** Bytes into the file that comes along. */
  offset: number;
  readable: boolean;
  writable: boolean;
}

/** § VFIO_USER_DMA_MAP: argsz, flags, offset, address, size. */
export function parseDmaMap(body: Buffer): DmaRange {
  exactly(DMA_MAP_BYTES, body);
  const flags = body.readUInt32LE(4);
  if ((flags & ~(DMA_READABLE | DMA_WRITABLE)) !== 0) throw new VfioUserError(`flags 0x${flags.toString(16)}`);
  return {
    offset: readU64(body, 8, 'offset'),
    address: readU64(body, 16, 'address'),
    size: readU64(body, 24, 'size'),
    readable: (flags & DMA_READABLE) !== 0,
    writable: (flags & DMA_WRITABLE) !== 0,
  };
}

export function composeDmaMap({ address, size, offset, readable, writable }: DmaRange): Buffer {
  const body = Buffer.alloc(DMA_MAP_BYTES);
  words(DMA_MAP_BYTES, (readable ? DMA_READABLE : 0) | (writable ? DMA_WRITABLE : 0)).copy(body);
  body.writeBigUInt64LE(BigInt(offset), 8);
  body.writeBigUInt64LE(BigInt(address), 16);
  body.writeBigUInt64LE(BigInt(size), 24);
  return body;
}

/** § VFIO_USER_DMA_UNMAP, request and reply: argsz, flags, address, size. Gives null for everything. */
export function parseDmaUnmap(body: Buffer): { address: number; size: number } | null {
  exactly(DMA_UNMAP_BYTES, body);
  const flags = body.readUInt32LE(4);
  if (flags !== 0 && flags !== DMA_UNMAP_ALL) throw new VfioUserError(`flags 0x${flags.toString(16)}`);
  const range = { address: readU64(body, 8, 'address'), size: readU64(body, 16, 'size') };
  if (flags === 0) return range;
  if (range.address !== 0 || range.size !== 0) throw new VfioUserError('everything, and a range besides');
  return null;
}

export function composeDmaUnmap({ address, size }: { address: number; size: number }): Buffer {
  const body = Buffer.alloc(DMA_UNMAP_BYTES);
  body.writeUInt32LE(DMA_UNMAP_BYTES, 0);
  body.writeBigUInt64LE(BigInt(address), 8);
  body.writeBigUInt64LE(BigInt(size), 16);
  return body;
}

/** § VFIO_USER_DEVICE_GET_INFO, request: its fields are the reply's. */
export const checkDeviceInfoRequest = (body: Buffer): void => atLeast(DEVICE_INFO_BYTES, body);

/** The reply: argsz, flags, num_regions, num_irqs. */
export const composeDeviceInfo = (): Buffer =>
  words(DEVICE_INFO_BYTES, VFIO_DEVICE_FLAGS_RESET | VFIO_DEVICE_FLAGS_PCI, VFIO_PCI_NUM_REGIONS, VFIO_PCI_NUM_IRQS);

/** § VFIO_USER_DEVICE_GET_REGION_INFO, request: which region. */
export function parseRegionInfoRequest(body: Buffer): number {
  atLeast(REGION_INFO_BYTES, body);
  return body.readUInt32LE(INDEX_AT);
}

/** The reply: argsz, flags, index, cap_offset, size, offset. */
export function composeRegionInfo({ index, flags, size }: { index: number; flags: number; size: number }): Buffer {
  const body = Buffer.alloc(REGION_INFO_BYTES);
  words(REGION_INFO_BYTES, flags, index, 0).copy(body);
  body.writeBigUInt64LE(BigInt(size), 16);
  return body;
}

/** § VFIO_USER_DEVICE_GET_IRQ_INFO, request and reply: argsz, flags, index, count. */
export interface IrqInfo {
  flags: number;
  index: number;
  count: number;
}

export function parseIrqInfo(body: Buffer): IrqInfo {
  atLeast(IRQ_INFO_BYTES, body);
  return { flags: body.readUInt32LE(4), index: body.readUInt32LE(INDEX_AT), count: body.readUInt32LE(12) };
}

export const composeIrqInfo = ({ flags, index, count }: IrqInfo): Buffer => words(IRQ_INFO_BYTES, flags, index, count);

/** § VFIO_USER_DEVICE_SET_IRQS: argsz, flags, index, start, count, and a byte for each with DATA_BOOL. */
export interface IrqSet {
  /** One of VFIO_IRQ_SET_DATA_… */
  data: number;
  /** One of VFIO_IRQ_SET_ACTION_… */
  action: number;
  index: number;
  start: number;
  count: number;
  /** With VFIO_IRQ_SET_DATA_BOOL: which of them. */
  chosen: readonly boolean[];
}

const IRQ_SET_DATA = [VFIO_IRQ_SET_DATA_NONE, VFIO_IRQ_SET_DATA_BOOL, VFIO_IRQ_SET_DATA_EVENTFD];
const IRQ_SET_ACTIONS = [VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_ACTION_TRIGGER];
const IRQ_SET_DATA_MASK = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_DATA_EVENTFD;

export function parseIrqSet(body: Buffer): IrqSet {
  atLeast(IRQ_SET_BYTES, body);
  const flags = body.readUInt32LE(4);
  const data = flags & IRQ_SET_DATA_MASK;
  const action = (flags & ~IRQ_SET_DATA_MASK) >>> 0;
  if (!IRQ_SET_DATA.includes(data) || !IRQ_SET_ACTIONS.includes(action)) {
    throw new VfioUserError(`flags 0x${flags.toString(16)}: one kind of data and one action are possible`);
  }
  const count = body.readUInt32LE(16);
  exactly(IRQ_SET_BYTES + (data === VFIO_IRQ_SET_DATA_BOOL ? count : 0), body);
  const chosen = Array.from(body.subarray(IRQ_SET_BYTES), (byte) => byte !== 0);
  return { data, action, index: body.readUInt32LE(INDEX_AT), start: body.readUInt32LE(12), count, chosen };
}

export function composeIrqSet({ data, action, index, start, count, chosen = [] }: Partial<IrqSet>): Buffer {
  const size = IRQ_SET_BYTES + chosen.length;
  return Buffer.concat([words(size, data! | action!, index!, start!, count!), Buffer.from(chosen.map(Number))]);
}

/** § VFIO_USER_REGION_READ and WRITE: offset u64, region u32, count u32, data. */
export interface RegionAccess {
  /** Bytes into the region. */
  offset: number;
  region: number;
  /** Bytes. */
  count: number;
}

/** A REGION_READ. */
export function parseRegionRead(body: Buffer): RegionAccess {
  exactly(ACCESS_BYTES, body);
  return parseAccess(body);
}

/** A REGION_WRITE, or the reply to a REGION_READ. */
export function parseRegionData(body: Buffer): RegionAccess & { data: Buffer } {
  atLeast(ACCESS_BYTES, body);
  const access = parseAccess(body);
  const data = body.subarray(ACCESS_BYTES);
  if (data.length !== access.count) {
    throw new VfioUserError(`${access.count} bytes of data announced, and ${data.length} came`);
  }
  return { ...access, data };
}

function parseAccess(body: Buffer): RegionAccess {
  const count = body.readUInt32LE(12);
  if (count > MAX_DATA_BYTES) throw new VfioUserError(`${count} bytes of data, at most ${MAX_DATA_BYTES}`);
  return { offset: readU64(body, 0, 'offset'), region: body.readUInt32LE(8), count };
}

/** An access with as much room for data behind it as asked for. */
export function composeRegionAccess({ offset, region, count }: RegionAccess, dataBytes = 0): Buffer {
  const body = Buffer.alloc(ACCESS_BYTES + dataBytes);
  body.writeBigUInt64LE(BigInt(offset), 0);
  body.writeUInt32LE(region, 8);
  body.writeUInt32LE(count, 12);
  return body;
}

/** The data of a body that {@link composeRegionAccess} made. */
export const regionDataOf = (body: Buffer): Buffer => body.subarray(ACCESS_BYTES);

/** § VFIO_USER_DMA_READ and WRITE, requests: address u64, count u64, and what is to be written. */
export function composeDmaAccess(address: number, count: number, data: Uint8Array = new Uint8Array(0)): Buffer {
  const body = Buffer.alloc(DMA_ACCESS_BYTES + data.length);
  body.writeBigUInt64LE(BigInt(address), 0);
  body.writeBigUInt64LE(BigInt(count), 8);
  body.set(data, DMA_ACCESS_BYTES);
  return body;
}

/** The reply to a DMA_READ of so many bytes at an address: what was read. */
export function parseDmaReadReply(body: Buffer, address: number, count: number): Buffer {
  exactly(DMA_ACCESS_BYTES + count, body);
  checkEcho(address, count, readU64(body, 0, 'address'), readU64(body, 8, 'count'));
  return body.subarray(DMA_ACCESS_BYTES);
}

/** The reply to a DMA_WRITE. */
export function checkDmaWriteReply(body: Buffer, address: number, count: number): void {
  if (!DMA_WRITE_REPLY_BYTES.includes(body.length)) exactly(DMA_WRITE_REPLY_BYTES[0]!, body);
  checkEcho(address, count, readU64(body, 0, 'address'), body.readUInt32LE(8));
}

function checkEcho(address: number, count: number, repliedAddress: number, repliedCount: number): void {
  if (repliedAddress === address && repliedCount === count) return;
  throw new VfioUserError(
    `it is about ${repliedCount} bytes at 0x${repliedAddress.toString(16)}, asked were ${count} at 0x${address.toString(16)}`,
  );
}

/** § VFIO_USER_DEVICE_RESET has no body. */
export const checkResetRequest = (body: Buffer): void => exactly(0, body);

/**
 * Puts messages together from what a socket gives: {@link room} says where the next bytes go, and {@link take} that they
 * have come. It never asks for bytes beyond a message, so that descriptors are the message's that they came with.
 */
export class VfioUserParser {
  #buffer = Buffer.alloc(4096);
  #length = 0;
  #wanted = VFIO_USER_HEADER_BYTES;
  #fds: number[] = [];

  /** Where the next bytes go, never empty. */
  get room(): Buffer {
    return this.#buffer.subarray(this.#length, this.#wanted);
  }

  /** Whether a message has begun. */
  get amidst(): boolean {
    return this.#length > 0;
  }

  /**
   * `length` bytes have come into {@link room}, with descriptors. Gives the message that they complete, whose body is valid
   * until the next call, or null. Throws Error for a size that no message has, and for too many descriptors; those that came
   * are {@link abandon}'s to give then.
   */
  take(length: number, fds: number[]): VfioUserMessage | null {
    this.#length += length;
    this.#fds.push(...fds);
    // A message may come in as many pieces as it has bytes, each with descriptors.
    if (this.#fds.length > MAX_MESSAGE_FDS) {
      throw new Error(`a message came with ${this.#fds.length} descriptors; at most ${MAX_MESSAGE_FDS} are possible`);
    }
    if (this.#length < this.#wanted) return null;
    const buffer = this.#buffer;
    const size = buffer.readUInt32LE(4);
    if (size < VFIO_USER_HEADER_BYTES || size > MAX_MESSAGE_BYTES) {
      throw new Error(
        `${commandName(buffer.readUInt16LE(2))}: it says that it has ${size} bytes; ${VFIO_USER_HEADER_BYTES} to ` +
          `${MAX_MESSAGE_BYTES} are possible`,
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
