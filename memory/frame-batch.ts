/**
 * A batch of frame references: what travels from a receiving port to the transmitting ones.
 *
 * A frame is not an object. It is an index into these arrays, which are made once per lane:
 *
 *     i            length[i]       bytes of the frame, without any virtio-net header
 *     header slot  0 .. 15         room in front, where a port writes its virtio-net header (it ends at 16)
 *                  16 .. 143       the first bytes of the frame, copied once; every decision reads this copy
 *     segments     firstSegment[i] .. firstSegment[i] + segmentCount[i] - 1
 *                  the first is the header slot's copy, the others still lie in the sender's own buffers
 *
 * A guest that rewrites its buffers meanwhile changes its own payload and nothing that was decided on.
 *
 * Hot: allocates nothing after construction.
 */
import { type Address, viewMemory } from '../linux/libc.ts';
import type { Arena } from './arena.ts';
import { CopyList } from './copy-list.ts';

/**
 * Frames of one batch. Whatever waits for lines of the other processor's cache waits a few times a batch, so more is better
 * where the processors are far from each other (64 took a sixth less time a frame than 32), until the caches are too small.
 */
export const BATCH_FRAMES = 64;
/** Bytes at the start of a frame that are copied once and decided on: Ethernet, two VLAN tags, IPv6, TCP with options. */
export const HEADER_BYTES = 128;
/** Room before the copied bytes for a virtio-net header of 10 or 12 bytes. */
export const HEADROOM = 16;
const SLOT_BYTES = HEADROOM + HEADER_BYTES;
/** struct virtio_net_hdr (virtio 1.2 §5.1.6) without and with num_buffers. */
export const VIRTIO_NET_HDR_BYTES = 10;
export const VIRTIO_NET_HDR_MRG_RXBUF_BYTES = 12;
/** Buffers of one frame at the most: UIO_MAXIOV, what Linux's vhost takes too. */
export const MAX_FRAME_SEGMENTS = 1024;
const SEGMENTS = 4 * MAX_FRAME_SEGMENTS;

/** A frame with its Ethernet header is 14 bytes at least; 65,535 + 14 and a VLAN tag or so at the most (GSO). */
export const MIN_FRAME_BYTES = 14;
export const MAX_FRAME_BYTES = 65_550;

// Where the columns stand (kernels.wat has the same figures), in bytes.
const LENGTH = 0;
const FIRST_SEGMENT = LENGTH + 4 * BATCH_FRAMES;
const SEGMENT_COUNT = FIRST_SEGMENT + 4 * BATCH_FRAMES;
const FLAGS = SEGMENT_COUNT + 4 * BATCH_FRAMES;
const GSO_TYPE = FLAGS + BATCH_FRAMES;
const HDR_LEN = GSO_TYPE + BATCH_FRAMES;
const GSO_SIZE = HDR_LEN + 2 * BATCH_FRAMES;
const CSUM_START = GSO_SIZE + 2 * BATCH_FRAMES;
const CSUM_OFFSET = CSUM_START + 2 * BATCH_FRAMES;
const REPEATS = CSUM_OFFSET + 2 * BATCH_FRAMES;
const ADDRESSES = REPEATS + 2 * BATCH_FRAMES;
const PLACE_TO = ADDRESSES + 16 * BATCH_FRAMES;
const HEADS = PLACE_TO + 8 * BATCH_FRAMES;
const BYTES_GATHERED = HEADS + 2 * BATCH_FRAMES;
const SLOTS = BYTES_GATHERED + 64;
const SEGMENT_ADDRESS = SLOTS + SLOT_BYTES * BATCH_FRAMES;
const SEGMENT_LENGTH = SEGMENT_ADDRESS + 8 * SEGMENTS;
const END = SEGMENT_LENGTH + 4 * SEGMENTS;

/** Words of a frame in {@link FrameBatch.addresses}: ADDRESS_WORDS × i + … */
export const ADDRESS_WORDS = 4;
export const TO_HIGH = 0;
export const TO_LOW = 1;
export const FROM_HIGH = 2;
export const FROM_LOW = 3;

export class FrameBatch {
  count = 0;
  readonly length: Int32Array;
  readonly firstSegment: Int32Array;
  readonly segmentCount: Int32Array;
  readonly segmentAddress: Float64Array;
  readonly segmentLength: Int32Array;
  /**
   * virtio-net header fields (virtio 1.2 §5.1.6): flags, gso_type, hdr_len, gso_size, csum_start, csum_offset. Where flags
   * and gso_type are 0 the others mean nothing.
   */
  readonly flags: Uint8Array;
  readonly gsoType: Uint8Array;
  readonly hdrLen: Uint16Array;
  readonly gsoSize: Uint16Array;
  readonly csumStart: Uint16Array;
  readonly csumOffset: Uint16Array;
  /** 1 where a frame has the MAC addresses of the one before it, and neither of them has offloads. */
  readonly repeats: Uint8Array;
  /** MAC addresses: of the destination bytes 0 and 1, then 2 to 5, and the same of the source, in network order. */
  readonly addresses: Int32Array;
  /** Where {@link place} is to write a frame. */
  readonly placeTo: Float64Array;
  /** Heads of the chains that frames came in, where a kernel took them from a split virtqueue. */
  readonly heads: Uint16Array;
  /** All header slots; see {@link headerOffset}. */
  readonly headers: Uint8Array;
  readonly headersAddress: Address;
  /** Copies of parts of these frames into receivers' buffers. Whoever notes some runs them. */
  readonly copies: CopyList;
  /** Segments in use, over all frames. */
  segments = 0;
  /** Bytes of all frames. */
  #bytes = 0;
  readonly #arena: Arena;
  /** Bytes of the frames that a kernel appended last. */
  readonly #bytesGathered: Int32Array;
  /** Where the columns stand in the arena, for the kernels. */
  readonly offset: number;
  readonly #headerWords: Uint16Array;

  constructor(arena: Arena) {
    const address = arena.allocate(END);
    const memory = viewMemory(address, END);
    this.#arena = arena;
    this.offset = arena.offsetOf(address);
    this.copies = new CopyList(arena);
    this.length = new Int32Array(memory, LENGTH, BATCH_FRAMES);
    this.firstSegment = new Int32Array(memory, FIRST_SEGMENT, BATCH_FRAMES);
    this.segmentCount = new Int32Array(memory, SEGMENT_COUNT, BATCH_FRAMES);
    this.flags = new Uint8Array(memory, FLAGS, BATCH_FRAMES);
    this.gsoType = new Uint8Array(memory, GSO_TYPE, BATCH_FRAMES);
    this.hdrLen = new Uint16Array(memory, HDR_LEN, BATCH_FRAMES);
    this.gsoSize = new Uint16Array(memory, GSO_SIZE, BATCH_FRAMES);
    this.csumStart = new Uint16Array(memory, CSUM_START, BATCH_FRAMES);
    this.csumOffset = new Uint16Array(memory, CSUM_OFFSET, BATCH_FRAMES);
    this.repeats = new Uint8Array(memory, REPEATS, BATCH_FRAMES);
    this.addresses = new Int32Array(memory, ADDRESSES, ADDRESS_WORDS * BATCH_FRAMES);
    this.placeTo = new Float64Array(memory, PLACE_TO, BATCH_FRAMES);
    this.heads = new Uint16Array(memory, HEADS, BATCH_FRAMES);
    this.#bytesGathered = new Int32Array(memory, BYTES_GATHERED, 1);
    this.headers = new Uint8Array(memory, SLOTS, SLOT_BYTES * BATCH_FRAMES);
    this.#headerWords = new Uint16Array(memory, SLOTS, (SLOT_BYTES * BATCH_FRAMES) / 2);
    this.headersAddress = address + SLOTS;
    this.segmentAddress = new Float64Array(memory, SEGMENT_ADDRESS, SEGMENTS);
    this.segmentLength = new Int32Array(memory, SEGMENT_LENGTH, SEGMENTS);
  }

  /** Forgets all frames. */
  clear(): void {
    this.count = 0;
    this.segments = 0;
    this.#bytes = 0;
  }

  /** Whether one more frame of the longest kind fits. */
  get hasRoom(): boolean {
    return this.count < BATCH_FRAMES && this.segments + MAX_FRAME_SEGMENTS < SEGMENTS;
  }

  /** Frames of one buffer each that fit. */
  get room(): number {
    return BATCH_FRAMES - this.count;
  }

  /** Index in {@link headers} of the first byte of frame `i`. */
  headerOffset(i: number): number {
    return i * SLOT_BYTES + HEADROOM;
  }

  /** Address of the copied first bytes of frame `i`; a virtio-net header may be written right before it. */
  headerAddress(i: number): Address {
    return this.headersAddress + i * SLOT_BYTES + HEADROOM;
  }

  /** Notes `frames` frames of one buffer each that a kernel has appended. */
  appended(frames: number): void {
    this.count += frames;
    this.segments += 2 * frames;
    this.#bytes += this.#bytesGathered[0]!;
  }

  /** Bytes of frames `first` … `end - 1`. */
  bytesOf(first: number, end: number): number {
    if (first === 0 && end === this.count) return this.#bytes;
    let bytes = 0;
    for (let i = first; i < end; i++) bytes += this.length[i]!;
    return bytes;
  }

  /**
   * Takes a frame whose buffers the caller has noted at segments {@link segments} + 1 … + `buffers`: `prefix` bytes of a
   * header of the port's own, then `length` bytes of frame. The caller has validated every range.
   *
   * Reads the frame, once: copies prefix and first bytes into the header slot (the prefix ends where the frame starts),
   * trims the buffers by what was copied, and fills the columns. A prefix of 10 bytes or more begins with a virtio-net
   * header; without one the frame has no offloads.
   */
  append(buffers: number, prefix: number, length: number): void {
    const i = this.count++;
    this.firstSegment[i] = this.segments;
    this.segmentCount[i] = buffers;
    this.length[i] = length;
    this.segments += 1 + buffers;
    this.#bytes += length;
    const { wasm } = this.#arena;
    if (wasm !== null) wasm.gather(this.offset, i, prefix);
    else this.#gather(i, prefix);
  }

  /**
   * {@link append} for `frames` frames of one buffer each, noted at segments {@link segments} + 1, + 3, + 5 …
   * Their lengths follow from the buffers'.
   */
  appendBuffers(frames: number, prefix: number): void {
    if (frames === 0) return;
    const first = this.count;
    const segment = this.segments;
    this.count += frames;
    this.segments += 2 * frames;
    const { wasm } = this.#arena;
    if (wasm !== null) {
      this.#bytes += wasm.gatherBuffers(this.offset, first, this.count, prefix, segment);
      return;
    }
    for (let i = first; i < this.count; i++) {
      const at = segment + 2 * (i - first);
      this.firstSegment[i] = at;
      this.segmentCount[i] = 1;
      this.length[i] = this.segmentLength[at + 1]! - prefix;
      this.#bytes += this.length[i]!;
      this.#gather(i, prefix);
      if (i > first) this.repeats[i] = this.#isRepeated(i) ? 1 : 0;
    }
  }

  // ---- what the kernels do, without them

  #gather(i: number, prefix: number): void {
    this.#gatherFrame(i, prefix);
    this.#readNetHeader(i, prefix);
    this.#readAddresses(i);
    this.repeats[i] = 0;
  }

  #gatherFrame(i: number, prefix: number): void {
    const { segmentAddress, segmentLength } = this;
    const copied = Math.min(this.length[i]!, HEADER_BYTES);
    let read = this.firstSegment[i]! + 1;
    const end = read + this.segmentCount[i]!;
    let to = this.headerAddress(i) - prefix;
    let left = prefix + copied;
    while (left > 0) {
      const here = segmentLength[read]!;
      const part = Math.min(here, left);
      this.#arena.copy(to, segmentAddress[read]!, part);
      to += part;
      left -= part;
      if (here > part) {
        segmentAddress[read] = segmentAddress[read]! + part;
        segmentLength[read] = here - part;
      } else read++;
    }
    segmentAddress[read - 1] = this.headerAddress(i);
    segmentLength[read - 1] = copied;
    this.firstSegment[i] = read - 1;
    this.segmentCount[i] = end - read + 1;
  }

  #readNetHeader(i: number, prefix: number): void {
    const words = this.#headerWords;
    const at = (this.headerOffset(i) - prefix) >> 1;
    const kind = prefix >= VIRTIO_NET_HDR_BYTES ? words[at]! : 0;
    this.flags[i] = kind;
    this.gsoType[i] = kind >> 8;
    if (kind === 0) return;
    this.hdrLen[i] = words[at + 1]!;
    this.gsoSize[i] = words[at + 2]!;
    this.csumStart[i] = words[at + 3]!;
    this.csumOffset[i] = words[at + 4]!;
  }

  #readAddresses(i: number): void {
    const { addresses, headers } = this;
    const from = this.headerOffset(i);
    const to = ADDRESS_WORDS * i;
    const half = (at: number): number => (headers[at]! << 8) | headers[at + 1]!;
    addresses[to + TO_HIGH] = half(from);
    addresses[to + TO_LOW] = (half(from + 2) << 16) | half(from + 4);
    addresses[to + FROM_HIGH] = half(from + 6);
    addresses[to + FROM_LOW] = (half(from + 8) << 16) | half(from + 10);
  }

  #isRepeated(i: number): boolean {
    const { addresses, flags, gsoType } = this;
    if ((flags[i]! | gsoType[i]! | flags[i - 1]! | gsoType[i - 1]!) !== 0) return false;
    for (let w = ADDRESS_WORDS * i; w < ADDRESS_WORDS * (i + 1); w++) {
      if (addresses[w] !== addresses[w - ADDRESS_WORDS]) return false;
    }
    return true;
  }

  // ---- giving frames away

  /**
   * Writes whole frames `first` … `end - 1` to where {@link placeTo} says, each with a virtio-net header of `headerBytes`
   * (10 or 12) from its columns in front, num_buffers being 1. The caller has validated the ranges.
   */
  place(first: number, end: number, headerBytes: number): void {
    const { wasm } = this.#arena;
    if (wasm !== null) {
      wasm.place(this.offset, first, end, headerBytes);
      return;
    }
    for (let i = first; i < end; i++) {
      const to = this.placeTo[i]!;
      this.writeNetHeader(i, headerBytes, 1);
      this.#arena.copy(to, this.headerAddress(i) - headerBytes, headerBytes);
      this.copyOut(i, to + headerBytes, this.length[i]!);
    }
  }

  /** Writes the columns of frame `i` as a header of 10 or 12 bytes right before its slot; num_buffers in the latter only. */
  writeNetHeader(i: number, headerBytes: number, numBuffers: number): void {
    const words = this.#headerWords;
    const at = (this.headerOffset(i) - headerBytes) >> 1;
    const kind = this.flags[i]! | (this.gsoType[i]! << 8);
    const plain = kind === 0;
    words[at] = kind;
    words[at + 1] = plain ? 0 : this.hdrLen[i]!;
    words[at + 2] = plain ? 0 : this.gsoSize[i]!;
    words[at + 3] = plain ? 0 : this.csumStart[i]!;
    words[at + 4] = plain ? 0 : this.csumOffset[i]!;
    if (headerBytes >= VIRTIO_NET_HDR_MRG_RXBUF_BYTES) words[at + 5] = numBuffers;
  }

  /** Copies `count` bytes of frame `i` to `address`, or the whole frame when it is shorter. Gives the bytes copied. */
  copyOut(i: number, address: Address, count: number): number {
    let left = Math.min(count, this.length[i]!);
    const total = left;
    let to = address;
    for (let s = this.firstSegment[i]!; left > 0; s++) {
      const n = Math.min(this.segmentLength[s]!, left);
      this.#arena.copy(to, this.segmentAddress[s]!, n);
      to += n;
      left -= n;
    }
    return total;
  }
}
