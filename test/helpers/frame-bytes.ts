/** Frames for tests: bytes that tell where they belong, in and out of batches. */
import { addressOf } from '../../linux/libc.ts';
import type { FrameBatch } from '../../memory/frame-batch.ts';

/** `length` bytes that depend on `seed` and on their place, so that no mix-up goes unseen. */
export function frameBytes(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = (Math.imul(seed + 1, 0x9e3779b1) ^ length) >>> 0;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

/** Cuts `bytes` into pieces of these lengths; the last takes what is left. */
export function cut(bytes: Uint8Array, lengths: number[]): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let at = 0;
  for (const length of lengths) {
    if (at >= bytes.length && length > 0) break;
    pieces.push(bytes.subarray(at, at + length));
    at = Math.min(at + length, bytes.length);
  }
  if (at < bytes.length || pieces.length === 0) pieces.push(bytes.subarray(at));
  return pieces;
}

export function join(pieces: Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(pieces));
}

/** Pieces that a batch refers to by address: they live as long as it. */
const kept = new WeakMap<FrameBatch, Uint8Array[]>();

function keep(batch: FrameBatch, pieces: Uint8Array[]): Uint8Array[] {
  const copies = pieces.map((piece) => Uint8Array.from(piece));
  kept.set(batch, batch.count === 0 ? copies : [...(kept.get(batch) ?? []), ...copies]);
  return copies;
}

/** Appends a frame, after `prefix` bytes of a header, to a batch from copies of these buffers. */
export function appendFrame(batch: FrameBatch, pieces: Uint8Array[], prefix = 0): void {
  let at = batch.segments;
  for (const copy of keep(batch, pieces)) {
    at++;
    batch.segmentAddress[at] = copy.length > 0 ? addressOf(copy) : 0;
    batch.segmentLength[at] = copy.length;
  }
  const total = pieces.reduce((sum, piece) => sum + piece.length, 0);
  batch.append(pieces.length, prefix, total - prefix);
}

/** Appends frames together, each after `prefix` bytes of a header and from a copy of its only buffer. */
export function appendFrames(batch: FrameBatch, frames: Uint8Array[], prefix = 0): void {
  for (const [i, copy] of keep(batch, frames).entries()) {
    const at = batch.segments + 1 + 2 * i;
    batch.segmentAddress[at] = addressOf(copy);
    batch.segmentLength[at] = copy.length;
  }
  batch.appendBuffers(frames.length, prefix);
}

/** The whole frame `i` of a batch. */
export function frameOf(batch: FrameBatch, i: number): Uint8Array {
  const bytes = new Uint8Array(batch.length[i]!);
  batch.copyOut(i, addressOf(bytes), bytes.length);
  return bytes;
}
