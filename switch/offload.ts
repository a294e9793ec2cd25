/**
 * Offloads on the way through the switch (virtio 1.2 §5.1.6.2).
 *
 * A frame may come without its checksum (NEEDS_CSUM) or longer than any wire takes (GSO). Between ports that both
 * negotiated this it passes untouched. For a port that did not, {@link OffloadAdapter} does the work in software.
 */

import { TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6 } from '../linux/if-tun.ts';
import { type Address, viewMemory } from '../linux/libc.ts';
import type { Arena } from '../memory/arena.ts';
import { FrameBatch, HEADER_BYTES, MAX_FRAME_BYTES } from '../memory/frame-batch.ts';
import { completePartialChecksum, type sum } from '../packet/checksum.ts';
import {
  ETHERNET_TYPE,
  ETHERTYPE_CTAG,
  ETHERTYPE_IPV6,
  ETHERTYPE_STAG,
  VLAN_TAG_LENGTH,
} from '../packet/header-fields.ts';
import { CSUM_BYTES } from '../vhost/net-header.ts';
import {
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_ECN,
  VIRTIO_NET_HDR_GSO_NONE,
  VIRTIO_NET_HDR_GSO_TCPV4,
  VIRTIO_NET_HDR_GSO_TCPV6,
  VIRTIO_NET_HDR_GSO_UDP_L4,
} from '../vhost/virtio.ts';
import { Segmenter } from './segmentation.ts';

/** The EtherType of a frame or behind a VLAN tag. */
const ETHERTYPE_BYTES = 2;

/**
 * Checks the offload fields of frame `i` against the frame, and takes away what only a receiver may say
 * (VIRTIO_NET_HDR_F_DATA_VALID). False: they lie, drop the frame. Hot for frames with offloads only.
 */
export function sanitizeOffloads(batch: FrameBatch, i: number): boolean {
  const length = batch.length[i]!;
  const needsCsum = (batch.flags[i]! & VIRTIO_NET_HDR_F_NEEDS_CSUM) !== 0;
  batch.flags[i] = needsCsum ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0;
  if (needsCsum) {
    if (batch.csumStart[i]! + batch.csumOffset[i]! + CSUM_BYTES > length) return false;
  } else {
    batch.csumStart[i] = 0;
    batch.csumOffset[i] = 0;
  }
  const gso = batch.gsoType[i]! & ~VIRTIO_NET_HDR_GSO_ECN;
  if (gso === VIRTIO_NET_HDR_GSO_NONE) {
    batch.gsoType[i] = 0;
    batch.gsoSize[i] = 0;
    batch.hdrLen[i] = 0;
    return true;
  }
  if (gso !== VIRTIO_NET_HDR_GSO_TCPV4 && gso !== VIRTIO_NET_HDR_GSO_TCPV6 && gso !== VIRTIO_NET_HDR_GSO_UDP_L4)
    return false;
  return needsCsum && batch.gsoSize[i]! > 0 && batch.hdrLen[i]! <= length;
}

/** The TUN_F_… offloads that the receiver of frame `i` must have negotiated to take it as it is. */
export function requiredOffloads(batch: FrameBatch, i: number): number {
  let required = (batch.flags[i]! & VIRTIO_NET_HDR_F_NEEDS_CSUM) !== 0 ? TUN_F_CSUM : 0;
  const type = batch.gsoType[i]!;
  if (type === VIRTIO_NET_HDR_GSO_NONE) return required;
  if ((type & VIRTIO_NET_HDR_GSO_ECN) !== 0) required |= TUN_F_TSO_ECN;
  const gso = type & ~VIRTIO_NET_HDR_GSO_ECN;
  if (gso === VIRTIO_NET_HDR_GSO_TCPV4) required |= TUN_F_TSO4;
  else if (gso === VIRTIO_NET_HDR_GSO_TCPV6) required |= TUN_F_TSO6;
  else required |= isIpv6(batch, i) ? TUN_F_USO6 : TUN_F_USO4;
  return required;
}

function isIpv6(batch: FrameBatch, i: number): boolean {
  const { headers } = batch;
  let at = batch.headerOffset(i) + ETHERNET_TYPE;
  const end = batch.headerOffset(i) + Math.min(batch.length[i]!, HEADER_BYTES) - ETHERTYPE_BYTES;
  let type = (headers[at]! << 8) | headers[at + 1]!;
  while ((type === ETHERTYPE_CTAG || type === ETHERTYPE_STAG) && at + VLAN_TAG_LENGTH <= end) {
    at += VLAN_TAG_LENGTH;
    type = (headers[at]! << 8) | headers[at + 1]!;
  }
  return type === ETHERTYPE_IPV6;
}

/** Room for the segments of one batch: full ones of an Ethernet frame, or at least one of any length. */
const SEGMENT_BYTES = 1 << 17;

/**
 * Does in software what a port did not negotiate: completes the checksum, or cuts a super-frame into segments.
 * One belongs to one lane. {@link start} with a frame, then {@link next} until it gives 0. Hot: allocates nothing.
 */
export class OffloadAdapter {
  /** Holds plain frames, as many as {@link next} said. */
  readonly batch: FrameBatch;
  readonly #whole: Uint8Array;
  readonly #wholeAddress: Address;
  readonly #out: Uint8Array;
  readonly #outAddress: Address;
  readonly #segmenter: Segmenter;
  readonly #sumWhole: typeof sum;
  /** Segments planned, 0 for a frame that is whole, and how many of them have been made. */
  #segments = 0;
  #emitted = 0;
  #length = 0;

  constructor(arena: Arena) {
    this.batch = new FrameBatch(arena);
    this.#wholeAddress = arena.allocate(MAX_FRAME_BYTES);
    this.#whole = new Uint8Array(viewMemory(this.#wholeAddress, MAX_FRAME_BYTES));
    this.#outAddress = arena.allocate(SEGMENT_BYTES);
    this.#out = new Uint8Array(viewMemory(this.#outAddress, SEGMENT_BYTES));
    // The arrays are always the two above, of which the kernels know the addresses.
    this.#segmenter = new Segmenter({
      copyAndSum: (_from, at, length, _to, to) => arena.copySum(this.#outAddress + to, this.#wholeAddress + at, length),
    });
    this.#sumWhole = (_bytes, start, end, initial) => arena.sum(this.#wholeAddress + start, end - start) + initial;
  }

  /** Takes frame `i` of `batch`. False when its headers contradict its offload fields: drop it. */
  start(batch: FrameBatch, i: number): boolean {
    const length = batch.copyOut(i, this.#wholeAddress, MAX_FRAME_BYTES);
    const csumStart = batch.csumStart[i]!;
    const csumOffset = batch.csumOffset[i]!;
    this.#emitted = 0;
    this.#length = length;
    if (batch.gsoType[i] !== VIRTIO_NET_HDR_GSO_NONE) {
      const { gsoType, gsoSize } = batch;
      this.#segments = this.#segmenter.plan(this.#whole, length, gsoType[i]!, gsoSize[i]!, csumStart, csumOffset);
      return this.#segments > 0;
    }
    this.#segments = 0;
    return completePartialChecksum(this.#whole, length, csumStart, csumOffset, this.#sumWhole);
  }

  /** Plain frames that {@link next} will give of the frame that was started, all in all. */
  get frames(): number {
    return Math.max(1, this.#segments);
  }

  /** Bytes of the longest of them. */
  get longestBytes(): number {
    return this.#segments === 0 ? this.#length : this.#segmenter.segmentLength(0);
  }

  /** Fills {@link batch} with the next plain frames, and gives how many; 0 when there is no more. */
  next(): number {
    const { batch } = this;
    batch.clear();
    if (this.#segments === 0) {
      if (this.#emitted++ > 0) return 0;
      this.#note(0, this.#wholeAddress, this.#length);
      batch.appendBuffers(1, 0);
      return 1;
    }
    let frames = 0;
    let used = 0;
    while (frames < batch.room && this.#emitted < this.#segments) {
      const length = this.#segmenter.emit(this.#emitted, this.#out, used);
      if (length < 0) break;
      this.#note(frames++, this.#outAddress + used, length);
      used += length;
      this.#emitted++;
    }
    batch.appendBuffers(frames, 0);
    return frames;
  }

  #note(frame: number, address: Address, length: number): void {
    this.batch.segmentAddress[1 + 2 * frame] = address;
    this.batch.segmentLength[1 + 2 * frame] = length;
  }
}
