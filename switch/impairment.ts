/**
 * What an impaired wire does to each frame: decisions only, from the frame's length, the time, and a seed.
 *
 *     frame ──► queue (limit) ──► wire (rate) ──► lost? ──► duplicated? corrupted? ──► delay ± jitter, or none (reorder)
 *
 * The words mean what they mean for Linux's netem (tc-netem(8)), without correlations. Every frame draws the same number of
 * random numbers whatever becomes of it, so the fate of the n-th frame depends on the seed and n alone: the same seed loses
 * the same frames in the next run, and with another delay too. Only when a frame comes, and finds a full queue, is time's.
 *
 * Hot for impaired ports: allocates nothing.
 */
import { ETHERNET_HEADER_LENGTH } from '../packet/header-fields.ts';
import type { WireTime } from './wire-time.ts';

/** The directions of a port, as seen from it: frames that it gets, and frames that it sends. */
export const IMPAIRED_DIRECTIONS = ['to', 'from'] as const;
export type ImpairedDirection = (typeof IMPAIRED_DIRECTIONS)[number];

/** How one direction of a port is impaired. */
export interface Impairment {
  /** Shares of frames, from 0 to 1: lost; given twice; with one bit flipped; given without delay. */
  loss: number;
  duplicate: number;
  corrupt: number;
  reorder: number;
  /** Each frame is late by this time, give or take a uniformly random part of the jitter; in ms. */
  delayMs: number;
  jitterMs: number;
  /** What the wire carries, counted as on Ethernet; 0 for no limit. */
  bitsPerSecond: number;
  /** Frames that are held at the most, for each queue of the port; others are dropped. */
  limit: number;
  /** Of the random numbers, 32 bits. */
  seed: number;
}

/** What netem holds unless told otherwise. */
export const DEFAULT_IMPAIRMENT_LIMIT = 1000;

/** What a frame of these many bytes takes on a wire, with all that Ethernet adds (IEEE 802.3 §3.1.1, §4.4.2). */
export function wireBytes(length: number): number {
  return Math.max(length, MIN_FRAME_BYTES) + PREAMBLE_BYTES + FCS_BYTES + INTERPACKET_GAP_BYTES;
}

/** minFrameSize without the FCS. */
const MIN_FRAME_BYTES = 60;
const FCS_BYTES = 4;
/** Preamble and SFD. */
const PREAMBLE_BYTES = 8;
const INTERPACKET_GAP_BYTES = 12;
const BITS_PER_BYTE = 8;
const MS_PER_SECOND = 1000;
const NONE = -1;

/** What {@link ImpairmentDecisions.decide} gives. */
export const PASSED = 0;
export const LOST = 1;
export const NO_ROOM = 2;

export class ImpairmentDecisions {
  readonly impairment: Impairment;
  /** Whether frames stay a while at all. */
  readonly takesTime: boolean;
  /** Of the frame decided on last, where it passed: when it is to be there, in ms. */
  at = 0;
  /** When a second copy of it, as it was sent, is to be there; -1 for none. */
  copyAt = NONE;
  /** The bit to flip, counted from the first bit of the frame and never in its Ethernet header; -1 for none. */
  corruptBit = NONE;
  /** Whether it went without delay, ahead of others. */
  reordered = false;
  readonly #wire: WireTime;
  readonly #random: RandomWords;

  /** `stream` tells apart what shares a seed: the directions of a port, and its lanes. */
  constructor(impairment: Impairment, stream: number, wire: WireTime) {
    this.impairment = impairment;
    this.takesTime = impairment.delayMs > 0 || impairment.bitsPerSecond > 0;
    this.#wire = wire;
    this.#random = new RandomWords(impairment.seed, stream);
  }

  /**
   * What becomes of the next frame, of `length` bytes, at `nowMs`, when `room` more frames can be held: PASSED, with the
   * fields above; LOST, on the wire; or NO_ROOM, before it.
   */
  decide(length: number, nowMs: number, room: number): number {
    const { loss, duplicate, corrupt, reorder } = this.impairment;
    const random = this.#random;
    const lost = random.next() < loss;
    const doubled = random.next() < duplicate;
    const corrupted = random.next() < corrupt;
    const bit = random.next();
    const early = random.next() < reorder;
    const jitter = random.next();
    const copyJitter = random.next();
    if (room < 1) return NO_ROOM;
    const sent = this.#send(length, nowMs);
    if (lost) return LOST;
    this.reordered = early;
    this.at = early ? sent : this.#arrival(sent, jitter);
    this.corruptBit = corrupted ? bitBehindHeader(length, bit) : NONE;
    // A copy that finds no room is missed by nobody.
    this.copyAt = doubled && room > 1 ? this.#arrival(this.#send(length, nowMs), copyJitter) : NONE;
    return PASSED;
  }

  /** When a frame has left, after those before it. */
  #send(length: number, nowMs: number): number {
    const { bitsPerSecond } = this.impairment;
    if (bitsPerSecond === 0) return nowMs;
    return this.#wire.take(nowMs, (wireBytes(length) * BITS_PER_BYTE * MS_PER_SECOND) / bitsPerSecond);
  }

  #arrival(sent: number, random: number): number {
    const { delayMs, jitterMs } = this.impairment;
    return sent + Math.max(0, delayMs + jitterMs * (2 * random - 1));
  }
}

/** A frame without anything behind its Ethernet header stays whole. */
function bitBehindHeader(length: number, random: number): number {
  const bits = (length - ETHERNET_HEADER_LENGTH) * BITS_PER_BYTE;
  return bits > 0 ? ETHERNET_HEADER_LENGTH * BITS_PER_BYTE + Math.floor(random * bits) : NONE;
}

const UINT32 = 2 ** 32;
/** 2^32 by the golden ratio, as seeds are spread with. */
const SPREAD = 0x9e37_79b9;
/** After these the words of near seeds have nothing in common. */
const WARM_UP = 12;

/** Numbers from 0 to 1 (not 1 itself) that a seed determines: the small fast counting generator (sfc32 of PractRand). */
class RandomWords {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(seed: number, stream: number) {
    this.#a = seed | 0;
    this.#b = Math.imul(stream + 1, SPREAD);
    this.#c = SPREAD | 0;
    for (let i = 0; i < WARM_UP; i++) this.next();
  }

  next(): number {
    const word = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + word) | 0;
    return (word >>> 0) / UINT32;
  }
}
