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
import { type Address, addressOf } from '../linux/libc.ts';
import { memcpy } from '../linux/mman.ts';

/** Frames of one batch. 32 beat 64 and 256 in measurements. */
export const BATCH_FRAMES = 32;
/** Bytes at the start of a frame that are copied once and decided on: Ethernet, two VLAN tags, IPv6, TCP with options. */
export const HEADER_BYTES = 128;
/** Room before the copied bytes for a virtio-net header of 10 or 12 bytes. */
export const HEADROOM = 16;
const SLOT_BYTES = HEADROOM + HEADER_BYTES;
/** Buffers of one frame at the most: UIO_MAXIOV, what Linux's vhost takes too. */
export const MAX_FRAME_SEGMENTS = 1024;
const SEGMENTS = 4 * MAX_FRAME_SEGMENTS;

/** A frame with its Ethernet header is 14 bytes at least; 65,535 + 14 and a VLAN tag or so at the most (GSO). */
export const MIN_FRAME_BYTES = 14;
export const MAX_FRAME_BYTES = 65_550;

export class FrameBatch {
  count = 0;
  readonly length = new Int32Array(BATCH_FRAMES);
  readonly firstSegment = new Int32Array(BATCH_FRAMES);
  readonly segmentCount = new Int32Array(BATCH_FRAMES);
  readonly segmentAddress = new Float64Array(SEGMENTS);
  readonly segmentLength = new Int32Array(SEGMENTS);
  /** virtio-net header fields (virtio 1.2 §5.1.6): flags, gso_type, hdr_len, gso_size, csum_start, csum_offset. */
  readonly flags = new Uint8Array(BATCH_FRAMES);
  readonly gsoType = new Uint8Array(BATCH_FRAMES);
  readonly hdrLen = new Uint16Array(BATCH_FRAMES);
  readonly gsoSize = new Uint16Array(BATCH_FRAMES);
  readonly csumStart = new Uint16Array(BATCH_FRAMES);
  readonly csumOffset = new Uint16Array(BATCH_FRAMES);
  /** All header slots; see {@link headerOffset}. */
  readonly headers = new Uint8Array(BATCH_FRAMES * SLOT_BYTES);
  readonly headersAddress: Address = addressOf(this.headers);
  /** Segments in use, over all frames. */
  segments = 0;

  /** Forgets all frames. */
  clear(): void {
    this.count = 0;
    this.segments = 0;
  }

  /** Whether one more frame of the longest kind fits. */
  get hasRoom(): boolean {
    return this.count < BATCH_FRAMES && this.segments + MAX_FRAME_SEGMENTS < SEGMENTS;
  }

  /** Index in {@link headers} of the first byte of frame `i`. */
  headerOffset(i: number): number {
    return i * SLOT_BYTES + HEADROOM;
  }

  /** Address of the copied first bytes of frame `i`; a virtio-net header may be written right before it. */
  headerAddress(i: number): Address {
    return this.headersAddress + i * SLOT_BYTES + HEADROOM;
  }

  /**
   * Ends the frame that a port has gathered: its buffers stand at segments `first + 1` … `first + buffers` and hold
   * `prefix` bytes of a header of the port's own, then `length` bytes of frame. Copies the prefix and the first bytes
   * of the frame into the header slot (the prefix ends where the frame starts) and trims the buffers by what was
   * copied. The caller has validated every range. Fields of the virtio-net header are the caller's to set.
   */
  append(first: number, buffers: number, prefix: number, length: number): void {
    const i = this.count++;
    const { segmentAddress, segmentLength } = this;
    const copied = Math.min(length, HEADER_BYTES);
    let to = this.headersAddress + i * SLOT_BYTES + HEADROOM - prefix;
    let left = prefix + copied;
    let read = first + 1;
    const end = read + buffers;
    while (left > 0) {
      const here = segmentLength[read]!;
      if (here > left) {
        memcpy(to, segmentAddress[read]!, left);
        segmentAddress[read] = segmentAddress[read]! + left;
        segmentLength[read] = here - left;
        break;
      }
      memcpy(to, segmentAddress[read]!, here);
      to += here;
      left -= here;
      read++;
    }
    segmentAddress[read - 1] = this.headerAddress(i);
    segmentLength[read - 1] = copied;
    this.firstSegment[i] = read - 1;
    this.segmentCount[i] = end - read + 1;
    this.length[i] = length;
    this.segments = end;
  }

  /** Copies `count` bytes of frame `i` to `address`, or the whole frame when it is shorter. Gives the bytes copied. */
  copyOut(i: number, address: Address, count: number): number {
    let left = Math.min(count, this.length[i]!);
    const total = left;
    let to = address;
    for (let s = this.firstSegment[i]!; left > 0; s++) {
      const n = Math.min(this.segmentLength[s]!, left);
      memcpy(to, this.segmentAddress[s]!, n);
      to += n;
      left -= n;
    }
    return total;
  }
}
