/**
 * Frame devices in memory, and a cable between two of them, in virtual time.
 *
 *     const wire = new Wire();                             // two stacks: wire.a has 10.0.0.1/24, wire.b 10.0.0.2/24
 *     wire.run(seconds(1));                                // both are polled whenever something is to be done
 *
 *     const device = new MemoryDevice();                   // or one alone: give it frames, and look at what it sent
 *     device.give(frame); stack.poll(now); device.sent
 */

import { completePartialChecksum } from '../../packet/checksum.ts';
import {
  type FrameDevice,
  NO_ROOM,
  RECEIVE_BATCH,
  RECEIVE_CHECKSUM,
  TRANSMIT_CHECKSUM,
} from '../../tcpip/frame-device.ts';
import { MICROSECONDS_PER_SECOND, NEVER, type Random, type Time } from '../../tcpip/network.ts';
import { Stack, type StackOptions } from '../../tcpip/stack.ts';

const SLOT_BYTES = 65_600;
const NEEDS_CSUM = 1;

export const seconds = (count: number): Time => count * MICROSECONDS_PER_SECOND;

/** The same numbers for the same seed (mulberry32). */
export function seeded(seed: number): Random {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
}

/** A frame and what struct virtio_net_hdr says of it. */
export interface SentFrame {
  bytes: Uint8Array;
  flags: number;
  gsoType: number;
  hdrLen: number;
  gsoSize: number;
  csumStart: number;
  csumOffset: number;
}

export interface MemoryDeviceOptions {
  address?: Uint8Array;
  mtu?: number;
  offloads?: number;
  /** Frames to send between two flushes at the most. */
  capacity?: number;
  /** What lies around received frames; default 0xee. */
  poison?: number;
}

export class MemoryDevice implements FrameDevice {
  readonly name = 'memory';
  readonly address: Uint8Array;
  readonly mtu: number;
  readonly offloads: number;
  readonly rx = new Uint8Array(RECEIVE_BATCH * SLOT_BYTES);
  readonly tx = new Uint8Array(SLOT_BYTES);
  readonly rxOffset = new Uint32Array(RECEIVE_BATCH);
  readonly rxLength = new Uint32Array(RECEIVE_BATCH);
  readonly rxFlags = new Uint8Array(RECEIVE_BATCH);
  readonly rxGsoType = new Uint8Array(RECEIVE_BATCH);
  readonly rxGsoSize = new Uint16Array(RECEIVE_BATCH);
  readonly rxCsumStart = new Uint16Array(RECEIVE_BATCH);
  readonly rxCsumOffset = new Uint16Array(RECEIVE_BATCH);
  /** What was sent, oldest first; for tests to empty. */
  sent: SentFrame[] = [];
  /** Called for each frame instead of keeping it in {@link sent}. */
  onSent: ((frame: SentFrame) => void) | null = null;
  /** Frames that there is room for now; Infinity unless told otherwise. */
  room: number;
  readonly #inbox: SentFrame[] = [];
  #held = 0;
  readonly #poison: number;

  constructor({
    address = Uint8Array.of(2, 0, 0, 0, 0, 1),
    mtu = 1500,
    offloads = 0,
    capacity,
    poison = 0xee,
  }: MemoryDeviceOptions = {}) {
    this.#poison = poison;
    this.address = address;
    this.mtu = mtu;
    this.offloads = offloads;
    this.room = capacity ?? Number.POSITIVE_INFINITY;
  }

  /** Puts a frame where the next receive() finds it. */
  give(bytes: Uint8Array, meta: Partial<SentFrame> = {}): void {
    this.#inbox.push({
      flags: 0,
      gsoType: 0,
      hdrLen: 0,
      gsoSize: 0,
      csumStart: 0,
      csumOffset: 0,
      ...meta,
      bytes: Uint8Array.from(bytes),
    });
  }

  get waiting(): number {
    return this.#inbox.length;
  }

  receive(): number {
    const count = Math.min(RECEIVE_BATCH, this.#inbox.length);
    for (let i = 0; i < count; i++) {
      const { bytes, flags, gsoType, gsoSize, csumStart, csumOffset } = this.#inbox[i]!;
      // At an odd place, with rubbish before and behind.
      const at = i * SLOT_BYTES + 13;
      this.rx.fill(this.#poison, i * SLOT_BYTES, i * SLOT_BYTES + 14 + bytes.length + 64);
      this.rx.set(bytes, at);
      this.rxOffset[i] = at;
      this.rxLength[i] = bytes.length;
      this.rxFlags[i] = flags;
      this.rxGsoType[i] = gsoType;
      this.rxGsoSize[i] = gsoSize;
      this.rxCsumStart[i] = csumStart;
      this.rxCsumOffset[i] = csumOffset;
    }
    this.#held = count;
    return count;
  }

  release(): void {
    this.#inbox.splice(0, this.#held);
    this.#held = 0;
  }

  reserve(length: number): number {
    if (length > SLOT_BYTES - 10) throw new RangeError(`a frame of ${length} bytes`);
    return this.room > 0 ? 10 : NO_ROOM;
  }

  send(
    length: number,
    flags: number,
    gsoType: number,
    hdrLen: number,
    gsoSize: number,
    csumStart: number,
    csumOffset: number,
  ): void {
    if (this.room <= 0) throw new Error('send without room');
    this.room--;
    const frame = {
      bytes: this.tx.slice(10, 10 + length),
      flags,
      gsoType,
      hdrLen,
      gsoSize,
      csumStart,
      csumOffset,
    };
    this.tx.fill(0xdd);
    if (this.onSent !== null) this.onSent(frame);
    else this.sent.push(frame);
  }

  flush(): void {}
}

export interface WireOptions {
  /** One way, in µs. */
  delay?: number;
  mtu?: number;
  offloads?: number;
  seed?: number;
  stack?: Partial<StackOptions>;
  /** Whether a frame gets through. */
  passes?: (frame: SentFrame, fromA: boolean) => boolean;
}

interface Flying {
  at: Time;
  order: number;
  to: MemoryDevice;
  frame: SentFrame;
}

/** Two stacks and the cable between them. */
export class Wire {
  now: Time = seconds(1);
  readonly a: Stack;
  readonly b: Stack;
  readonly deviceA: MemoryDevice;
  readonly deviceB: MemoryDevice;
  /** Sees every frame that is sent. */
  watch: (frame: SentFrame, fromA: boolean) => void = () => {};
  passes: (frame: SentFrame, fromA: boolean) => boolean;
  #flying: Flying[] = [];
  #order = 0;
  #work = false;
  readonly #delay: number;

  constructor(options: WireOptions = {}) {
    const { delay = 100, mtu = 1500, offloads = 0, seed = 1, stack = {}, passes = () => true } = options;
    this.#delay = delay;
    this.passes = passes;
    this.deviceA = new MemoryDevice({ address: Uint8Array.of(2, 0, 0, 0, 0, 1), mtu, offloads });
    this.deviceB = new MemoryDevice({ address: Uint8Array.of(2, 0, 0, 0, 0, 2), mtu, offloads });
    this.a = new Stack({ device: this.deviceA, random: seeded(seed), ...stack });
    this.b = new Stack({ device: this.deviceB, random: seeded(seed + 1), ...stack });
    this.deviceA.onSent = (frame) => this.#sent(frame, true);
    this.deviceB.onSent = (frame) => this.#sent(frame, false);
    for (const end of [this.a, this.b]) {
      end.advance(this.now);
      end.onWork = () => {
        this.#work = true;
      };
    }
    this.a.addAddress(Uint8Array.of(10, 0, 0, 1), 24);
    this.b.addAddress(Uint8Array.of(10, 0, 0, 2), 24);
  }

  #sent(frame: SentFrame, fromA: boolean): void {
    this.watch(frame, fromA);
    if (!this.passes(frame, fromA)) return;
    const to = fromA ? this.deviceB : this.deviceA;
    const isChecksumMissing = (frame.flags & NEEDS_CSUM) !== 0 && (to.offloads & RECEIVE_CHECKSUM) === 0;
    if (isChecksumMissing) {
      completePartialChecksum(frame.bytes, frame.bytes.length, frame.csumStart, frame.csumOffset);
      frame.flags = 0;
    }
    this.#flying.push({ at: this.now + this.#delay, order: this.#order++, to, frame });
  }

  /** Both are polled until nothing is to be done at this time any more. */
  settle(): void {
    for (let rounds = 0; ; rounds++) {
      if (rounds > 10_000) throw new Error('the stacks never come to rest');
      this.#work = false;
      const count = this.a.poll(this.now) + this.b.poll(this.now);
      if (count > 0 || this.#work) continue;
      if (this.deviceA.waiting + this.deviceB.waiting > 0) continue;
      if (Math.min(this.a.deadline, this.b.deadline) <= this.now) continue;
      return;
    }
  }

  /** Time goes on until `until`, event by event. */
  run(until: Time): void {
    for (;;) {
      this.settle();
      const due = Math.min(this.a.deadline, this.b.deadline, ...this.#flying.map(({ at }) => at));
      if (due === NEVER || due > until) break;
      this.now = Math.max(this.now, due);
      const landing = this.#flying.filter(({ at }) => at <= this.now).sort((x, y) => x.at - y.at || x.order - y.order);
      this.#flying = this.#flying.filter(({ at }) => at > this.now);
      for (const { to, frame } of landing) to.give(frame.bytes, frame);
    }
    this.now = until;
    this.a.advance(until);
    this.b.advance(until);
  }
}

/** Every offload of checksums. */
export const CHECKSUM_OFFLOADS = TRANSMIT_CHECKSUM | RECEIVE_CHECKSUM;

/** The bytes of `02 00 …`, however it is spaced. */
export function hex(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text.replace(/\s|#.*$/gm, ''), 'hex'));
}
