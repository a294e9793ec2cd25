/**
 * The vhost-user wire format (QEMU's docs/interop/vhost-user.rst), as the back-end sees it: what a front-end may send, in
 * which shape, and how an answer looks. What messages mean is the session's (vhost-user-session.ts).
 *
 *     | request u32 | flags u32 | size u32 | payload, `size` bytes |        little-endian, descriptors as SCM_RIGHTS
 *
 * A message whose shape is wrong ends the connection ({@link VhostUserError}): where one message ends and the next begins
 * is then nobody's knowledge.
 */

// Message types (§ "Front-end message types").
export const VHOST_USER_GET_FEATURES = 1;
export const VHOST_USER_SET_FEATURES = 2;
export const VHOST_USER_SET_OWNER = 3;
export const VHOST_USER_RESET_OWNER = 4;
export const VHOST_USER_SET_MEM_TABLE = 5;
export const VHOST_USER_SET_LOG_BASE = 6;
export const VHOST_USER_SET_LOG_FD = 7;
export const VHOST_USER_SET_VRING_NUM = 8;
export const VHOST_USER_SET_VRING_ADDR = 9;
export const VHOST_USER_SET_VRING_BASE = 10;
export const VHOST_USER_GET_VRING_BASE = 11;
export const VHOST_USER_SET_VRING_KICK = 12;
export const VHOST_USER_SET_VRING_CALL = 13;
export const VHOST_USER_SET_VRING_ERR = 14;
export const VHOST_USER_GET_PROTOCOL_FEATURES = 15;
export const VHOST_USER_SET_PROTOCOL_FEATURES = 16;
export const VHOST_USER_GET_QUEUE_NUM = 17;
export const VHOST_USER_SET_VRING_ENABLE = 18;
export const VHOST_USER_SEND_RARP = 19;
export const VHOST_USER_NET_SET_MTU = 20;
export const VHOST_USER_RESET_DEVICE = 34;
export const VHOST_USER_GET_MAX_MEM_SLOTS = 36;
export const VHOST_USER_ADD_MEM_REG = 37;
export const VHOST_USER_REM_MEM_REG = 38;
export const VHOST_USER_SET_STATUS = 39;
export const VHOST_USER_GET_STATUS = 40;

/** Bit in the feature word: VHOST_USER_GET_PROTOCOL_FEATURES may be asked. */
export const VHOST_USER_F_PROTOCOL_FEATURES = 30;
// Protocol features, as bit numbers.
export const VHOST_USER_PROTOCOL_F_MQ = 0;
export const VHOST_USER_PROTOCOL_F_RARP = 2;
export const VHOST_USER_PROTOCOL_F_REPLY_ACK = 3;
export const VHOST_USER_PROTOCOL_F_MTU = 4;
export const VHOST_USER_PROTOCOL_F_RESET_DEVICE = 13;
export const VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15;
export const VHOST_USER_PROTOCOL_F_STATUS = 16;

export const VHOST_USER_HEADER_BYTES = 12;
const FLAGS_AT = 4;
const SIZE_AT = 8;
/** Bits 0 and 1 of the flags. */
const VERSION_MASK = 0x3;
export const VHOST_USER_VERSION = 1;
export const VHOST_USER_REPLY = 0x4;
export const VHOST_USER_NEED_REPLY = 0x8;

/** VHOST_MEMORY_BASELINE_NREGIONS: regions of VHOST_USER_SET_MEM_TABLE, and so descriptors of a message, at the most. */
export const VHOST_MEMORY_BASELINE_NREGIONS = 8;
/** Longer than any message of the document. */
export const MAX_PAYLOAD_BYTES = 4096;
const U64_BYTES = 8;
/** index u32, num u32 */
const VRING_STATE_BYTES = 8;
/** index u32, flags u32, then descriptor, used, available, log u64 */
const VRING_ADDR_BYTES = 40;
/** guest address, size, user address, mmap offset: u64 each */
const REGION_BYTES = 32;
/** nregions u32, padding u32 */
const MEMORY_HEADER_BYTES = 8;
/** padding u64, then a region */
const SINGLE_REGION_BYTES = 8 + REGION_BYTES;
/** In the payload of VHOST_USER_SET_VRING_KICK, CALL and ERR. */
const VRING_INDEX_MASK = 0xffn;
const VRING_NOFD_MASK = 1n << 8n;

/** What the protocol forbids: the connection ends. */
export class VhostUserError extends Error {
  constructor(request: string, reason: string) {
    super(`${request}: ${reason}`);
    this.name = 'VhostUserError';
  }
}

interface Shape {
  name: string;
  /** Bytes of payload, exactly. */
  bytes: number;
  /** Descriptors that come along, at least and at most. */
  fds: [least: number, most: number];
  /** It has an answer of its own, and no acknowledgement besides. */
  answered: boolean;
}

const SHAPES = new Map<number, Shape>();
function shape(
  request: number,
  name: string,
  bytes: number,
  rest: Partial<Pick<Shape, 'fds' | 'answered'>> = {},
): void {
  SHAPES.set(request, { name: `VHOST_USER_${name}`, bytes, fds: [0, 0], answered: false, ...rest });
}
const answered = { answered: true };
shape(VHOST_USER_GET_FEATURES, 'GET_FEATURES', 0, answered);
shape(VHOST_USER_SET_FEATURES, 'SET_FEATURES', U64_BYTES);
shape(VHOST_USER_SET_OWNER, 'SET_OWNER', 0);
shape(VHOST_USER_RESET_OWNER, 'RESET_OWNER', 0);
shape(VHOST_USER_SET_MEM_TABLE, 'SET_MEM_TABLE', Number.NaN, { fds: [0, VHOST_MEMORY_BASELINE_NREGIONS] });
shape(VHOST_USER_SET_VRING_NUM, 'SET_VRING_NUM', VRING_STATE_BYTES);
shape(VHOST_USER_SET_VRING_ADDR, 'SET_VRING_ADDR', VRING_ADDR_BYTES);
shape(VHOST_USER_SET_VRING_BASE, 'SET_VRING_BASE', VRING_STATE_BYTES);
shape(VHOST_USER_GET_VRING_BASE, 'GET_VRING_BASE', VRING_STATE_BYTES, answered);
shape(VHOST_USER_SET_VRING_KICK, 'SET_VRING_KICK', U64_BYTES, { fds: [0, 1] });
shape(VHOST_USER_SET_VRING_CALL, 'SET_VRING_CALL', U64_BYTES, { fds: [0, 1] });
shape(VHOST_USER_SET_VRING_ERR, 'SET_VRING_ERR', U64_BYTES, { fds: [0, 1] });
shape(VHOST_USER_GET_PROTOCOL_FEATURES, 'GET_PROTOCOL_FEATURES', 0, answered);
shape(VHOST_USER_SET_PROTOCOL_FEATURES, 'SET_PROTOCOL_FEATURES', U64_BYTES);
shape(VHOST_USER_GET_QUEUE_NUM, 'GET_QUEUE_NUM', 0, answered);
shape(VHOST_USER_SET_VRING_ENABLE, 'SET_VRING_ENABLE', VRING_STATE_BYTES);
shape(VHOST_USER_SEND_RARP, 'SEND_RARP', U64_BYTES);
shape(VHOST_USER_NET_SET_MTU, 'NET_SET_MTU', U64_BYTES);
shape(VHOST_USER_RESET_DEVICE, 'RESET_DEVICE', 0);
shape(VHOST_USER_GET_MAX_MEM_SLOTS, 'GET_MAX_MEM_SLOTS', 0, answered);
shape(VHOST_USER_ADD_MEM_REG, 'ADD_MEM_REG', SINGLE_REGION_BYTES, { fds: [1, 1] });
// "For compatibility with existing incorrect implementations": a descriptor may come, and is closed.
shape(VHOST_USER_REM_MEM_REG, 'REM_MEM_REG', SINGLE_REGION_BYTES, { fds: [0, 1] });
shape(VHOST_USER_SET_STATUS, 'SET_STATUS', U64_BYTES);
shape(VHOST_USER_GET_STATUS, 'GET_STATUS', 0, answered);

/** Messages of protocol features that are not offered: their names, for the log. */
const OTHERS: Record<number, string> = {
  [VHOST_USER_SET_LOG_BASE]: 'SET_LOG_BASE',
  [VHOST_USER_SET_LOG_FD]: 'SET_LOG_FD',
  21: 'SET_BACKEND_REQ_FD',
  22: 'IOTLB_MSG',
  23: 'SET_VRING_ENDIAN',
  24: 'GET_CONFIG',
  25: 'SET_CONFIG',
  26: 'CREATE_CRYPTO_SESSION',
  27: 'CLOSE_CRYPTO_SESSION',
  28: 'POSTCOPY_ADVISE',
  29: 'POSTCOPY_LISTEN',
  30: 'POSTCOPY_END',
  31: 'GET_INFLIGHT_FD',
  32: 'SET_INFLIGHT_FD',
  33: 'GPU_SET_SOCKET',
  35: 'VRING_KICK',
  41: 'GET_SHARED_OBJECT',
  42: 'SET_DEVICE_STATE_FD',
  43: 'CHECK_DEVICE_STATE',
};

/** Name of a message type, such as `VHOST_USER_SET_OWNER`. */
export function requestName(request: number): string {
  const other = OTHERS[request];
  return SHAPES.get(request)?.name ?? (other === undefined ? `vhost-user message ${request}` : `VHOST_USER_${other}`);
}

/** Whether a message has an answer of its own, and no acknowledgement besides. */
export function hasAnswer(request: number): boolean {
  return SHAPES.get(request)?.answered ?? false;
}

/** A message whose shape is right, or one of a type that is not served. */
export interface VhostUserMessage {
  request: number;
  name: string;
  /** An acknowledgement is wanted (VHOST_USER_PROTOCOL_F_REPLY_ACK). */
  needReply: boolean;
  payload: Buffer;
  /** Descriptors that came along; whoever takes the message takes them over. */
  fds: number[];
}

/**
 * Puts messages together from what a stream brings. Reads must not go beyond the message (see {@link room}), so that the
 * descriptors that come with its bytes are its own.
 */
export class VhostUserParser {
  readonly #header = Buffer.alloc(VHOST_USER_HEADER_BYTES);
  #payload: Buffer | null = null;
  #filled = 0;
  #fds: number[] = [];

  /** Where the next bytes of the message belong, never empty: read into it, then say so with {@link take}. */
  get room(): Buffer {
    return (this.#payload ?? this.#header).subarray(this.#filled);
  }

  /** Whether a message has begun and not ended. */
  get amidst(): boolean {
    return this.#filled > 0 || this.#payload !== null;
  }

  /** Takes note of `length` bytes in {@link room}, and of `fds`. Gives the message that they complete, or null. */
  take(length: number, fds: readonly number[] = []): VhostUserMessage | null {
    this.#fds.push(...fds);
    this.#filled += length;
    if (this.#payload === null) {
      if (this.#filled < VHOST_USER_HEADER_BYTES) return null;
      this.#payload = Buffer.alloc(this.#payloadBytes());
      this.#filled = 0;
    }
    if (this.#filled < this.#payload.length) return null;
    const request = this.#header.readUInt32LE(0);
    const needReply = (this.#header.readUInt32LE(FLAGS_AT) & VHOST_USER_NEED_REPLY) !== 0;
    const message = { request, name: requestName(request), needReply, payload: this.#payload, fds: this.#fds };
    checkShape(message);
    this.#payload = null;
    this.#filled = 0;
    this.#fds = [];
    return message;
  }

  #payloadBytes(): number {
    const name = requestName(this.#header.readUInt32LE(0));
    const flags = this.#header.readUInt32LE(FLAGS_AT);
    const size = this.#header.readUInt32LE(SIZE_AT);
    if ((flags & VERSION_MASK) !== VHOST_USER_VERSION) {
      throw new VhostUserError(
        name,
        `version ${flags & VERSION_MASK}, not ${VHOST_USER_VERSION} (flags 0x${flags.toString(16)})`,
      );
    }
    if ((flags & VHOST_USER_REPLY) !== 0) throw new VhostUserError(name, 'an answer, though nothing was asked');
    if (size > MAX_PAYLOAD_BYTES) {
      throw new VhostUserError(name, `${size} bytes of payload, at most ${MAX_PAYLOAD_BYTES}`);
    }
    return size;
  }

  /** Descriptors of a message that will never be complete, for the caller to close. */
  abandon(): number[] {
    return this.#fds.splice(0);
  }
}

function checkShape({ request, name, payload, fds }: VhostUserMessage): void {
  const shape = SHAPES.get(request);
  if (!shape) return;
  const bytes = request === VHOST_USER_SET_MEM_TABLE ? memTableBytes(name, payload) : shape.bytes;
  // Some front-ends send the table with room for all regions.
  const fits = request === VHOST_USER_SET_MEM_TABLE ? payload.length >= bytes : payload.length === bytes;
  if (!fits) throw new VhostUserError(name, `${payload.length} bytes of payload, not ${bytes}`);
  const [least, most] = request === VHOST_USER_SET_MEM_TABLE ? exactly(regionCount(payload)) : shape.fds;
  if (fds.length < least || fds.length > most) {
    throw new VhostUserError(
      name,
      `came with ${fds.length} descriptors, not ${least === most ? least : `${least} to ${most}`}`,
    );
  }
}

const exactly = (n: number): [number, number] => [n, n];
const regionCount = (payload: Buffer): number => payload.readUInt32LE(0);

function memTableBytes(name: string, payload: Buffer): number {
  if (payload.length < MEMORY_HEADER_BYTES) return MEMORY_HEADER_BYTES;
  const count = regionCount(payload);
  if (count > VHOST_MEMORY_BASELINE_NREGIONS) {
    throw new VhostUserError(name, `${count} regions, at most ${VHOST_MEMORY_BASELINE_NREGIONS}`);
  }
  return MEMORY_HEADER_BYTES + count * REGION_BYTES;
}

// ---- payloads; their lengths have been checked

export interface VringState {
  index: number;
  num: number;
}

export interface VringAddr {
  index: number;
  flags: number;
  desc: bigint;
  used: bigint;
  avail: bigint;
  log: bigint;
}

/** A memory region as the wire has it, before it is believed; all in bytes. */
export interface VhostUserRegion {
  guestAddress: bigint;
  size: bigint;
  userAddress: bigint;
  /** Where the region begins in its file. */
  mmapOffset: bigint;
}

/** Payload of VHOST_USER_SET_VRING_KICK, CALL and ERR. */
export interface VringFile {
  index: number;
  /** False: the invalid FD flag (bit 8) is set, and no descriptor comes along. */
  hasFd: boolean;
}

export const readU64 = (payload: Buffer): bigint => payload.readBigUInt64LE(0);

export const readVringState = (payload: Buffer): VringState => ({
  index: payload.readUInt32LE(0),
  num: payload.readUInt32LE(4),
});

export const readVringAddr = (payload: Buffer): VringAddr => ({
  index: payload.readUInt32LE(0),
  flags: payload.readUInt32LE(4),
  desc: payload.readBigUInt64LE(8),
  used: payload.readBigUInt64LE(16),
  avail: payload.readBigUInt64LE(24),
  log: payload.readBigUInt64LE(32),
});

/** Throws {@link VhostUserError} when flag and descriptors contradict each other. */
export function readVringFile({ name, payload, fds }: VhostUserMessage): VringFile {
  const word = readU64(payload);
  const index = Number(word & VRING_INDEX_MASK);
  const hasFd = (word & VRING_NOFD_MASK) === 0n;
  if (hasFd !== (fds.length === 1)) {
    throw new VhostUserError(
      name,
      `ring ${index}: ${hasFd ? 'no descriptor, and no' : 'a descriptor, though there is the'} invalid FD flag`,
    );
  }
  return { index, hasFd };
}

const readRegion = (payload: Buffer, at: number): VhostUserRegion => ({
  guestAddress: payload.readBigUInt64LE(at),
  size: payload.readBigUInt64LE(at + 8),
  userAddress: payload.readBigUInt64LE(at + 16),
  mmapOffset: payload.readBigUInt64LE(at + 24),
});

/** Payload of VHOST_USER_ADD_MEM_REG and REM_MEM_REG. */
export const readSingleRegion = (payload: Buffer): VhostUserRegion => readRegion(payload, U64_BYTES);

/** Payload of VHOST_USER_SET_MEM_TABLE: as many regions as there are descriptors. */
export function readMemTable(payload: Buffer): VhostUserRegion[] {
  return Array.from({ length: regionCount(payload) }, (_, i) =>
    readRegion(payload, MEMORY_HEADER_BYTES + i * REGION_BYTES),
  );
}

// ---- writing

/** A message. `flags` besides the version: VHOST_USER_REPLY for an answer. */
export function encodeMessage(request: number, payload: Uint8Array, flags: number): Buffer {
  const bytes = Buffer.alloc(VHOST_USER_HEADER_BYTES + payload.length);
  bytes.writeUInt32LE(request, 0);
  bytes.writeUInt32LE(VHOST_USER_VERSION | flags, FLAGS_AT);
  bytes.writeUInt32LE(payload.length, SIZE_AT);
  bytes.set(payload, VHOST_USER_HEADER_BYTES);
  return bytes;
}

/** An answer of one number, or an acknowledgement. */
export function u64Reply(request: number, value: bigint): Buffer {
  const payload = Buffer.alloc(U64_BYTES);
  payload.writeBigUInt64LE(value);
  return encodeMessage(request, payload, VHOST_USER_REPLY);
}

export function vringStateReply(request: number, { index, num }: VringState): Buffer {
  const payload = Buffer.alloc(VRING_STATE_BYTES);
  payload.writeUInt32LE(index, 0);
  payload.writeUInt32LE(num, 4);
  return encodeMessage(request, payload, VHOST_USER_REPLY);
}
