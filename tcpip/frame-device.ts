/**
 * What a stack stands on: something that takes and gives whole Ethernet frames, in memory of its own.
 *
 *     receive() ─► frames 0 … n - 1, where the columns say, in `rx` ─► release()
 *     reserve(length) ─► offset in `tx`: write the frame there ─► send(…) ─► … ─► flush()
 *
 * Rings shared with a switch, a tap, and what tests play are such devices. A frame is always in one piece. Offloads are
 * told as in struct virtio_net_hdr (virtio 1.2 §5.1.6): the columns have its fields.
 *
 * Nobody keeps an offset beyond release() or send(). Hot: allocates nothing.
 */

import type { Sum } from '../packet/checksum.ts';

/** What the device takes from us, and what it may give us; bits of {@link FrameDevice.offloads}. */
export const TRANSMIT_CHECKSUM = 1;
export const TRANSMIT_TSO4 = 2;
export const TRANSMIT_TSO6 = 4;
/** Frames may come with a checksum that only covers the pseudo header (VIRTIO_NET_HDR_F_NEEDS_CSUM). */
export const RECEIVE_CHECKSUM = 8;
export const RECEIVE_TSO4 = 16;
export const RECEIVE_TSO6 = 32;

/** {@link FrameDevice.reserve}: the ring is full. */
export const NO_ROOM = -1;

/** Frames of one {@link FrameDevice.receive} at the most. */
export const RECEIVE_BATCH = 64;

export interface FrameDevice {
  /** For messages. */
  readonly name: string;
  /** MAC address, 6 bytes. */
  readonly address: Uint8Array;
  /** Bytes of an IP packet at the most (the Ethernet header not counted), when it is not a super-frame. */
  readonly mtu: number;
  readonly offloads: number;
  /** Sums as `packet/checksum.ts` does, {@link rx} and {@link tx} faster: where a device leaves sums to us. */
  readonly sum?: Sum;
  /** The memory that received frames lie in; below 2 GiB. */
  readonly rx: Uint8Array;
  /** The memory that frames to send are written to. */
  readonly tx: Uint8Array;

  /** Columns of received frames: offset in {@link rx}, bytes of the frame, and the virtio-net header's fields. */
  readonly rxOffset: Uint32Array;
  readonly rxLength: Uint32Array;
  readonly rxFlags: Uint8Array;
  readonly rxGsoType: Uint8Array;
  readonly rxGsoSize: Uint16Array;
  readonly rxCsumStart: Uint16Array;
  readonly rxCsumOffset: Uint16Array;

  /** Looks for frames; gives how many. They stay where they are until {@link release}. */
  receive(): number;
  /** All frames of the last receive are done with. */
  release(): void;

  /**
   * Room for one frame of at most `length` bytes (Ethernet header included): its offset in {@link tx}, even plus 2 or any
   * other; or {@link NO_ROOM}. A second call without send() gives the same room again.
   */
  reserve(length: number): number;
  /**
   * The reserved frame is written and has `length` bytes. With flags NEEDS_CSUM the device completes the checksum from
   * `csumStart` on at `csumStart + csumOffset`; with a `gsoType` it cuts segments of `gsoSize` bytes behind `hdrLen`.
   */
  send(
    length: number,
    flags: number,
    gsoType: number,
    hdrLen: number,
    gsoSize: number,
    csumStart: number,
    csumOffset: number,
  ): void;
  /** Makes everything since the last flush visible to the other side, and wakes it where it asked for that. */
  flush(): void;
}
