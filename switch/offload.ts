/**
 * Offloads on the way through the switch (virtio 1.2 §5.1.6.2).
 *
 * A frame may come without its checksum (NEEDS_CSUM) or longer than any wire takes (GSO). Between ports that both
 * negotiated this it passes untouched. For a port that did not, {@link OffloadAdapter} does the work in software.
 */

import { TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6 } from '../linux/if-tun.ts';
import { addressOf } from '../linux/libc.ts';
import { FrameBatch, HEADER_BYTES, MAX_FRAME_BYTES } from '../memory/frame-batch.ts';
import { CSUM_BYTES, clearNetHeader } from '../vhost/net-header.ts';
import {
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_ECN,
  VIRTIO_NET_HDR_GSO_NONE,
  VIRTIO_NET_HDR_GSO_TCPV4,
  VIRTIO_NET_HDR_GSO_TCPV6,
  VIRTIO_NET_HDR_GSO_UDP_L4,
} from '../vhost/virtio.ts';
import { completePartialChecksum } from './checksum.ts';
import { ETHERNET_TYPE, ETHERTYPE_CTAG, ETHERTYPE_IPV6, ETHERTYPE_STAG, VLAN_TAG_LENGTH } from './header-fields.ts';
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

/**
 * Does in software what a port did not negotiate: completes the checksum, or cuts a super-frame into segments.
 * One belongs to one lane. Frame by frame: {@link start}, then {@link next} until it is false.
 */
export class OffloadAdapter {
  /** Holds one plain frame at a time, as frame 0. */
  readonly batch = new FrameBatch();
  readonly #whole = new Uint8Array(MAX_FRAME_BYTES);
  readonly #wholeAddress = addressOf(this.#whole);
  readonly #segment = new Uint8Array(MAX_FRAME_BYTES);
  readonly #segmentAddress = addressOf(this.#segment);
  readonly #segmenter = new Segmenter();
  #segments = 0;
  #emitted = 0;
  #length = 0;

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
    return completePartialChecksum(this.#whole, length, csumStart, csumOffset);
  }

  /** Puts the next plain frame into {@link batch}; false when there is no more. */
  next(): boolean {
    if (this.#segments === 0) {
      if (this.#emitted++ > 0) return false;
      this.#put(this.#wholeAddress, this.#length);
      return true;
    }
    if (this.#emitted === this.#segments) return false;
    this.#put(this.#segmentAddress, this.#segmenter.emit(this.#emitted++, this.#segment, 0));
    return true;
  }

  #put(address: number, length: number): void {
    const { batch } = this;
    batch.clear();
    batch.segmentAddress[1] = address;
    batch.segmentLength[1] = length;
    batch.append(0, 1, 0, length);
    clearNetHeader(batch, 0);
  }
}
