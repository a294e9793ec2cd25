/**
 * Counters of one port, in memory that the lane writes and any thread reads: showing them costs the data plane nothing.
 * "rx" is what the switch received from the port, "tx" what it transmitted to it. Doubles count exactly to 2^53.
 */
export const RX_FRAMES = 0;
export const RX_BYTES = 1;
export const TX_FRAMES = 2;
export const TX_BYTES = 3;
/** Received, and shorter or longer than any frame. */
export const RX_DROP_MALFORMED = 4;
/** Received, with offload fields (checksum, segmentation) that contradict the frame. */
export const RX_DROP_BAD_OFFLOAD = 5;
/** Received, and its destination is the port that it came from. */
export const RX_DROP_OWN_PORT = 6;
/** Received while the link of the port was down. */
export const RX_DROP_LINK_DOWN = 7;
/** For the port, which gave no buffers in time. */
export const TX_DROP_NO_BUFFERS = 8;
/** For the port, whose buffers were too small (no VIRTIO_NET_F_MRG_RXBUF). */
export const TX_DROP_TOO_BIG = 9;
/** For the port, whose ring its guest broke. */
export const TX_DROP_RING_BROKEN = 10;
/** For the port, while its link was down or nobody had it open. */
export const TX_DROP_LINK_DOWN = 11;
/** For the port, and the system call to hand it over failed. */
export const TX_DROP_ERROR = 12;
/** Received, and lost on the impaired wire from the port, as was asked for. */
export const RX_DROP_IMPAIRED = 13;
/** Received, and the impaired wire from the port held as many frames as it may. */
export const RX_DROP_IMPAIRED_QUEUE = 14;
/** For the port, and lost on the impaired wire to it, as was asked for. */
export const TX_DROP_IMPAIRED = 15;
/** For the port, and the impaired wire to it held as many frames as it may. */
export const TX_DROP_IMPAIRED_QUEUE = 16;
/** What else the impaired wires did to frames, as was asked for: given twice, with a bit flipped, without delay. */
export const RX_IMPAIRED_DUPLICATED = 17;
export const RX_IMPAIRED_CORRUPTED = 18;
export const RX_IMPAIRED_REORDERED = 19;
export const TX_IMPAIRED_DUPLICATED = 20;
export const TX_IMPAIRED_CORRUPTED = 21;
export const TX_IMPAIRED_REORDERED = 22;
const COUNTERS = 23;

const NAMES: Record<string, number> = {
  rx_frames: RX_FRAMES,
  rx_bytes: RX_BYTES,
  tx_frames: TX_FRAMES,
  tx_bytes: TX_BYTES,
  rx_drop_malformed: RX_DROP_MALFORMED,
  rx_drop_bad_offload: RX_DROP_BAD_OFFLOAD,
  rx_drop_own_port: RX_DROP_OWN_PORT,
  rx_drop_link_down: RX_DROP_LINK_DOWN,
  rx_drop_impaired: RX_DROP_IMPAIRED,
  rx_drop_impaired_queue: RX_DROP_IMPAIRED_QUEUE,
  tx_drop_no_buffers: TX_DROP_NO_BUFFERS,
  tx_drop_too_big: TX_DROP_TOO_BIG,
  tx_drop_ring_broken: TX_DROP_RING_BROKEN,
  tx_drop_link_down: TX_DROP_LINK_DOWN,
  tx_drop_error: TX_DROP_ERROR,
  tx_drop_impaired: TX_DROP_IMPAIRED,
  tx_drop_impaired_queue: TX_DROP_IMPAIRED_QUEUE,
  rx_impaired_duplicated: RX_IMPAIRED_DUPLICATED,
  rx_impaired_corrupted: RX_IMPAIRED_CORRUPTED,
  rx_impaired_reordered: RX_IMPAIRED_REORDERED,
  tx_impaired_duplicated: TX_IMPAIRED_DUPLICATED,
  tx_impaired_corrupted: TX_IMPAIRED_CORRUPTED,
  tx_impaired_reordered: TX_IMPAIRED_REORDERED,
};

export type PortCounters = Float64Array<SharedArrayBuffer>;

/** Fresh counters, all 0. */
export function newCounters(): PortCounters {
  return new Float64Array(new SharedArrayBuffer(COUNTERS * Float64Array.BYTES_PER_ELEMENT));
}

/** Adds to a counter. */
export function count(counters: PortCounters, which: number, by: number): void {
  counters[which] = counters[which]! + by;
}

/** The counters by name, as `show ports --json` gives them. */
export function readCounters(counters: PortCounters): Record<string, number> {
  return Object.fromEntries(Object.entries(NAMES).map(([name, which]) => [name, counters[which]!]));
}
