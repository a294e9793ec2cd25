/**
 * TCP segments on the wire: the header and its options (RFC 9293 §3.1), read and written.
 *
 *     0      4          8      12     13     14      16        18       20 … data offset
 *     | ports | SEQ     | ACK  | off  | flags | window | checksum | urgent | options … |
 *
 * One {@link Segment} serves all that arrive: `parse` fills it anew. Hot: allocates nothing.
 */
import {
  TCP_ACK,
  TCP_CWR,
  TCP_DATA_OFFSET,
  TCP_FIN,
  TCP_FLAGS,
  TCP_MIN_HEADER_LENGTH,
  TCP_PSH,
  TCP_RST,
  TCP_SEQUENCE,
  TCP_SYN,
  TCP_URG,
  TCP_URGENT_POINTER,
} from '../../packet/header-fields.ts';

export { TCP_ACK, TCP_CWR, TCP_FIN, TCP_PSH, TCP_RST, TCP_SYN, TCP_URG };
/** ECN-Echo, RFC 3168 §6.1. */
export const TCP_ECE = 0x40;
/** The bit of Accurate ECN (RFC 9768), beside the data offset; once the nonce sum's. */
export const TCP_AE = 0x100;

export const TCP_SOURCE_PORT = 0;
export const TCP_DESTINATION_PORT = 2;
export const TCP_ACKNOWLEDGMENT = 8;
export const TCP_WINDOW = 14;
/** The data offset counts words of 4 bytes. */
export const TCP_MAX_HEADER_LENGTH = 60;
export const TCP_MAX_OPTIONS_LENGTH = TCP_MAX_HEADER_LENGTH - TCP_MIN_HEADER_LENGTH;

// Option kinds (RFC 9293 §3.2, 7323, 2018, 7413).
export const OPTION_END = 0;
export const OPTION_NOP = 1;
export const OPTION_MSS = 2;
export const OPTION_WINDOW_SCALE = 3;
export const OPTION_SACK_PERMITTED = 4;
export const OPTION_SACK = 5;
export const OPTION_TIMESTAMPS = 8;
export const OPTION_FAST_OPEN = 34;

const MSS_LENGTH = 4;
const WINDOW_SCALE_LENGTH = 3;
const SACK_PERMITTED_LENGTH = 2;
const TIMESTAMPS_LENGTH = 10;
const SACK_BLOCK_LENGTH = 8;
/** Kind and length of an option. */
const OPTION_HEADER_LENGTH = 2;
/** NOP, NOP, timestamps: how everybody writes them (RFC 7323 appendix A). */
export const PADDED_TIMESTAMPS_LENGTH = 12;
const PADDED_TIMESTAMPS_WORD = 0x0101_080a;

/** What the window field holds. */
export const TCP_MAX_WINDOW = 0xffff;
/** RFC 7323 §2.3: a larger shift is taken for this. */
export const MAX_WINDOW_SCALE = 14;
/** RFC 9293 §3.7.1: what a side that names none takes; over IPv6 1220. */
export const DEFAULT_MSS_IPV4 = 536;
export const DEFAULT_MSS_IPV6 = 1220;
/** SACK blocks that one segment has room for. */
export const MAX_SACK_BLOCKS = 4;
/** RFC 7413 §2: a cookie has 4 to 16 bytes, and none asks for one. */
export const FAST_OPEN_MIN_COOKIE = 4;
export const FAST_OPEN_MAX_COOKIE = 16;

/** An option that the segment did not have. */
export const ABSENT = -1;

export class Segment {
  bytes: Uint8Array = new Uint8Array(0);
  sourcePort = 0;
  destinationPort = 0;
  /** SEG.SEQ, SEG.ACK. */
  seq = 0;
  ack = 0;
  /** TCP_… bits, TCP_AE included. */
  flags = 0;
  /** SEG.WND as it stands in the header, not scaled. */
  window = 0;
  urgentPointer = 0;
  /** The data: `bytes[dataAt, dataEnd)`. */
  dataAt = 0;
  dataEnd = 0;
  mss = ABSENT;
  windowScale = ABSENT;
  sackPermitted = false;
  hasTimestamps = false;
  tsVal = 0;
  tsEcr = 0;
  sackCount = 0;
  readonly sackStart = new Uint32Array(MAX_SACK_BLOCKS);
  readonly sackEnd = new Uint32Array(MAX_SACK_BLOCKS);
  /** Where a TFO cookie is in `bytes`, and its length; ABSENT without the option, 0 where one is asked for. */
  cookieAt = 0;
  cookieLength = ABSENT;

  /** Bytes of data. */
  get dataLength(): number {
    return this.dataEnd - this.dataAt;
  }

  /** SEG.LEN: data, SYN and FIN. */
  get length(): number {
    return this.dataEnd - this.dataAt + (this.flags & TCP_SYN ? 1 : 0) + (this.flags & TCP_FIN);
  }

  /** Reads the segment in `bytes[at, end)`. False when it is none: the header does not fit. */
  parse(bytes: Uint8Array, at: number, end: number): boolean {
    const length = end - at;
    if (length < TCP_MIN_HEADER_LENGTH) return false;
    const offset = (bytes[at + TCP_DATA_OFFSET]! >> 4) << 2;
    if (offset < TCP_MIN_HEADER_LENGTH || offset > length) return false;
    this.bytes = bytes;
    this.sourcePort = read16(bytes, at + TCP_SOURCE_PORT);
    this.destinationPort = read16(bytes, at + TCP_DESTINATION_PORT);
    this.seq = read32(bytes, at + TCP_SEQUENCE);
    this.ack = read32(bytes, at + TCP_ACKNOWLEDGMENT);
    this.flags = bytes[at + TCP_FLAGS]! | ((bytes[at + TCP_DATA_OFFSET]! & 1) << 8);
    this.window = read16(bytes, at + TCP_WINDOW);
    this.urgentPointer = read16(bytes, at + TCP_URGENT_POINTER);
    this.dataAt = at + offset;
    this.dataEnd = end;
    this.mss = ABSENT;
    this.windowScale = ABSENT;
    this.sackPermitted = false;
    this.hasTimestamps = false;
    this.sackCount = 0;
    this.cookieLength = ABSENT;
    const options = at + TCP_MIN_HEADER_LENGTH;
    if (offset === TCP_MIN_HEADER_LENGTH) return true;
    if (
      offset === TCP_MIN_HEADER_LENGTH + PADDED_TIMESTAMPS_LENGTH &&
      read32(bytes, options) === PADDED_TIMESTAMPS_WORD
    ) {
      this.#takeTimestamps(bytes, options + 4);
      return true;
    }
    this.#parseOptions(bytes, options, at + offset);
    return true;
  }

  /** RFC 9293 §3.1: an option that does not fit ends the list; what is malformed or unknown is skipped (MUST-6). */
  #parseOptions(bytes: Uint8Array, start: number, end: number): void {
    let at = start;
    while (at < end) {
      const kind = bytes[at]!;
      if (kind === OPTION_END) return;
      if (kind === OPTION_NOP) {
        at++;
        continue;
      }
      if (at + OPTION_HEADER_LENGTH > end) return;
      const length = bytes[at + 1]!;
      if (length < OPTION_HEADER_LENGTH || at + length > end) return;
      this.#takeOption(bytes, at, kind, length);
      at += length;
    }
  }

  #takeOption(bytes: Uint8Array, at: number, kind: number, length: number): void {
    const value = at + OPTION_HEADER_LENGTH;
    switch (kind) {
      case OPTION_MSS:
        if (length === MSS_LENGTH) this.mss = read16(bytes, value);
        break;
      case OPTION_WINDOW_SCALE:
        if (length === WINDOW_SCALE_LENGTH) this.windowScale = Math.min(bytes[value]!, MAX_WINDOW_SCALE);
        break;
      case OPTION_SACK_PERMITTED:
        if (length === SACK_PERMITTED_LENGTH) this.sackPermitted = true;
        break;
      case OPTION_TIMESTAMPS:
        if (length === TIMESTAMPS_LENGTH) this.#takeTimestamps(bytes, value);
        break;
      case OPTION_SACK:
        this.#takeSack(bytes, value, length - OPTION_HEADER_LENGTH);
        break;
      case OPTION_FAST_OPEN:
        this.#takeCookie(value, length - OPTION_HEADER_LENGTH);
        break;
    }
  }

  #takeTimestamps(bytes: Uint8Array, at: number): void {
    this.hasTimestamps = true;
    this.tsVal = read32(bytes, at);
    this.tsEcr = read32(bytes, at + 4);
  }

  #takeSack(bytes: Uint8Array, at: number, length: number): void {
    if (length % SACK_BLOCK_LENGTH !== 0) return;
    this.sackCount = Math.min(length / SACK_BLOCK_LENGTH, MAX_SACK_BLOCKS);
    for (let i = 0; i < this.sackCount; i++) {
      this.sackStart[i] = read32(bytes, at + SACK_BLOCK_LENGTH * i);
      this.sackEnd[i] = read32(bytes, at + SACK_BLOCK_LENGTH * i + 4);
    }
  }

  #takeCookie(at: number, length: number): void {
    const isCookie = length >= FAST_OPEN_MIN_COOKIE && length <= FAST_OPEN_MAX_COOKIE && length % 2 === 0;
    if (length !== 0 && !isCookie) return;
    this.cookieAt = at;
    this.cookieLength = length;
  }
}

/** Writes header and options of segments, one after the other, into whatever memory they are sent from. */
export class SegmentWriter {
  bytes: Uint8Array = new Uint8Array(0);
  /** Where the header begins, and where the next option goes. */
  #header = 0;
  #next = 0;

  /** Begins a segment at `at`: everything of the header but data offset, checksum and urgent pointer. */
  begin(
    bytes: Uint8Array,
    at: number,
    sourcePort: number,
    destinationPort: number,
    seq: number,
    ack: number,
    flags: number,
    window: number,
  ): void {
    this.bytes = bytes;
    this.#header = at;
    this.#next = at + TCP_MIN_HEADER_LENGTH;
    write16(bytes, at + TCP_SOURCE_PORT, sourcePort);
    write16(bytes, at + TCP_DESTINATION_PORT, destinationPort);
    write32(bytes, at + TCP_SEQUENCE, seq);
    write32(bytes, at + TCP_ACKNOWLEDGMENT, ack);
    bytes[at + TCP_FLAGS] = flags;
    write16(bytes, at + TCP_WINDOW, window);
    write32(bytes, at + TCP_WINDOW + 2, 0);
  }

  urgent(pointer: number): void {
    write16(this.bytes, this.#header + TCP_URGENT_POINTER, pointer);
  }

  timestamps(tsVal: number, tsEcr: number): void {
    const { bytes } = this;
    const at = this.#next;
    write32(bytes, at, PADDED_TIMESTAMPS_WORD);
    write32(bytes, at + 4, tsVal);
    write32(bytes, at + 8, tsEcr);
    this.#next = at + PADDED_TIMESTAMPS_LENGTH;
  }

  mss(mss: number): void {
    const { bytes } = this;
    const at = this.#option(OPTION_MSS, MSS_LENGTH);
    write16(bytes, at, mss);
  }

  windowScale(shift: number): void {
    this.#pad(1);
    this.bytes[this.#option(OPTION_WINDOW_SCALE, WINDOW_SCALE_LENGTH)] = shift;
  }

  sackPermitted(): void {
    this.#pad(2);
    this.#option(OPTION_SACK_PERMITTED, SACK_PERMITTED_LENGTH);
  }

  /** `count` blocks, as many as fit (RFC 2018 §3): four, or three beside timestamps. */
  sack(start: Uint32Array, end: Uint32Array, count: number): void {
    const room = TCP_MAX_OPTIONS_LENGTH - (this.#next - this.#header - TCP_MIN_HEADER_LENGTH) - 4;
    const blocks = Math.min(count, Math.floor(room / SACK_BLOCK_LENGTH));
    if (blocks <= 0) return;
    this.#pad(2);
    const at = this.#option(OPTION_SACK, OPTION_HEADER_LENGTH + SACK_BLOCK_LENGTH * blocks);
    for (let i = 0; i < blocks; i++) {
      write32(this.bytes, at + SACK_BLOCK_LENGTH * i, start[i]!);
      write32(this.bytes, at + SACK_BLOCK_LENGTH * i + 4, end[i]!);
    }
  }

  /** A TFO cookie, or with 0 bytes the wish for one. */
  fastOpen(cookie: Uint8Array, length: number): void {
    const at = this.#option(OPTION_FAST_OPEN, OPTION_HEADER_LENGTH + length);
    for (let i = 0; i < length; i++) this.bytes[at + i] = cookie[i]!;
  }

  #option(kind: number, length: number): number {
    const at = this.#next;
    this.bytes[at] = kind;
    this.bytes[at + 1] = length;
    this.#next = at + length;
    return at + OPTION_HEADER_LENGTH;
  }

  #pad(count: number): void {
    for (let i = 0; i < count; i++) this.bytes[this.#next++] = OPTION_NOP;
  }

  /** Ends the options; gives the header's length, where the data goes. */
  end(): number {
    while ((this.#next - this.#header) % 4 !== 0) this.bytes[this.#next++] = OPTION_END;
    const length = this.#next - this.#header;
    this.bytes[this.#header + TCP_DATA_OFFSET] = length << 2;
    return length;
  }
}

export function read16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

export function read32(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}

export function write16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >> 8;
  bytes[at + 1] = value;
}

export function write32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >> 24;
  bytes[at + 1] = value >> 16;
  bytes[at + 2] = value >> 8;
  bytes[at + 3] = value;
}
