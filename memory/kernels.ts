/**
 * The wasm kernels: the loops over bytes, which JavaScript does more slowly than a vector unit (kernels/kernels.wat).
 *
 * The text is the source; the assembled bytes lie beside it, and a test compares the two. `npm run kernels` assembles.
 */
import fs from 'node:fs';
import type { Address } from '../linux/libc.ts';

/** What the assembled module exports. Addresses are absolute; `list` and `batch` are offsets in the arena, below 2^31. */
export interface WasmKernels {
  /** memcpy. */
  copy(to: Address, from: Address, bytes: number): void;
  /** The first `count` copies of a CopyList. */
  copyList(list: number, count: number): void;
  /** See FrameBatch.appendBuffers: frames `first` … `end - 1`, whose buffers stand at segments `segment` + 1, + 3, … */
  gatherBuffers(batch: number, first: number, end: number, prefix: number, segment: number): number;
  /** See FrameBatch.append. */
  gather(batch: number, frame: number, prefix: number): void;
  /** See FrameBatch.place. */
  place(batch: number, first: number, end: number, headerBytes: number): void;
  /**
   * Takes chains of one buffer from a split virtqueue as frames `first` … of a FrameBatch: see SplitVirtqueue. `avail` and
   * `desc` are addresses of avail.ring and of the table, `at` the avail entry to begin with; guest addresses `start` …
   * `end` - 1 stand at the same address plus `delta`; buffers have `least` to `most` bytes. Gives how many frames.
   */
  receiveBuffers(
    batch: number,
    limit: number,
    avail: Address,
    desc: Address,
    num: number,
    at: number,
    start: number,
    end: number,
    delta: number,
    prefix: number,
    least: number,
    most: number,
    first: number,
    segment: number,
  ): number;
  /** Writes frames into chains of one buffer each, and their entries into used.ring: see SplitVirtqueue. Gives the first left. */
  deliverBuffers(
    batch: number,
    first: number,
    last: number,
    avail: Address,
    desc: Address,
    used: Address,
    num: number,
    at: number,
    usedIdx: number,
    start: number,
    end: number,
    delta: number,
    headerBytes: number,
  ): number;
  /**
   * receiveBuffers for a packed virtqueue: see PackedVirtqueue. `desc` is the address of the ring, a multiple of 16, `at` the
   * index to begin with and `wrap` the driver's wrap counter there.
   */
  receivePackedBuffers(
    batch: number,
    limit: number,
    desc: Address,
    num: number,
    at: number,
    wrap: number,
    start: number,
    end: number,
    delta: number,
    prefix: number,
    least: number,
    most: number,
    first: number,
    segment: number,
  ): number;
  /**
   * deliverBuffers for a packed virtqueue: used descriptors go to `usedAt`, where the device's wrap counter is `usedWrap`, and
   * so on; with `hold` = 1 all but the first.
   */
  deliverPackedBuffers(
    batch: number,
    first: number,
    last: number,
    desc: Address,
    num: number,
    at: number,
    wrap: number,
    usedAt: number,
    usedWrap: number,
    hold: number,
    start: number,
    end: number,
    delta: number,
    headerBytes: number,
  ): number;
  /**
   * Looks at up to `most` receive descriptors of a card from `scan` on, in a ring of `mask` + 1: see ReceiveRing. Notes the
   * lengths of whole frames, 16 bits each by descriptor. Gives how many there are in a row.
   */
  receiveDescriptors(
    ring: Address,
    mask: number,
    scan: number,
    most: number,
    bufferBytes: number,
    lengths: Address,
  ): number;
  /** Gives receive descriptors their buffers again: see ReceiveRing. `addresses`: 64 bits each, by descriptor. */
  offerDescriptors(ring: Address, mask: number, first: number, count: number, addresses: Address): void;
  /** Posts frames of one buffer each: see TransmitRing. `addresses` and `lengths` by buffer, of `bufferMask` + 1. */
  postDescriptors(
    ring: Address,
    mask: number,
    next: number,
    addresses: Address,
    lengths: Address,
    bufferMask: number,
    first: number,
    count: number,
    command: number,
  ): void;
  /** Ones' complement sum (RFC 1071) of bytes from an even place of a packet: 16 bits, in network order. */
  sum(address: Address, bytes: number): number;
  /** memcpy, and the sum of what was written. */
  copySum(to: Address, from: Address, bytes: number): number;
}

/** What the kernels ask for when an address lies outside of the arena. */
export interface FarKernels {
  farCopy(to: Address, from: Address, bytes: number): void;
  farSum(address: Address, bytes: number): number;
}

/** The bits of the double 2^52. */
const TWO_52_BITS = 0x4330_0000_0000_0000n;

let compiled: WebAssembly.Module | undefined;

/** Instantiates the kernels over `memory`, which stands at `base` in this process. */
export function instantiateKernels(memory: WebAssembly.Memory, base: Address, far: FarKernels): WasmKernels {
  compiled ??= new WebAssembly.Module(fs.readFileSync(new URL('./kernels/kernels.wasm', import.meta.url)));
  const constant = (value: bigint) => new WebAssembly.Global({ value: 'i64' }, value);
  const arena = { memory, base: constant(BigInt(base)), origin: constant(BigInt(base) + TWO_52_BITS), ...far };
  return new WebAssembly.Instance(compiled, { arena }).exports as WasmKernels;
}
