/** The frame engines of the software 82599 with everything around them fake, and a host's side of their rings. */
import type { EngineHost } from '../../nic/model/engine-host.ts';
import { ReceiveEngine } from '../../nic/model/receive-engine.ts';
import { RegisterFile } from '../../nic/model/register-file.ts';
import { TransmitEngine } from '../../nic/model/transmit-engine.ts';
import {
  DMATXCTL,
  DMATXCTL_TE,
  HLREG0,
  HLREG0_RXCRCSTRP,
  RDBAH,
  RDBAL,
  RDH,
  RDLEN,
  RDT,
  RXCSUM,
  RXCSUM_PCSD,
  RXCTRL,
  RXCTRL_RXEN,
  RXDCTL,
  RXDCTL_ENABLE,
  SRRCTL,
  SRRCTL_DESCTYPE_ADVANCED_ONE_BUFFER,
  TDBAH,
  TDBAL,
  TDH,
  TDLEN,
  TDT,
  TXDCTL,
  TXDCTL_ENABLE,
} from '../../nic/registers.ts';
import { FakeBus, FakeClock } from './fake-card-host.ts';
import { onesSum, type Packet } from './plain-packet.ts';

const DESCRIPTOR = 16;
/** What memory holds that nobody has written. */
export const UNTOUCHED = 0xa5;

export class Engines implements EngineHost {
  readonly registers = new RegisterFile();
  readonly bus: FakeBus;
  readonly clock = new FakeClock();
  readonly faults: string[] = [];
  /** Frames for the MAC, copied. */
  readonly sent: Uint8Array[] = [];
  /** Causes that were raised, or-ed. */
  raised = 0;
  /** Interrupts and counts as they came, by name and queue: 'receive 0', 'dropped 1', 'missed'. */
  readonly events: string[] = [];
  /** Called within each interrupt of a queue. */
  onInterrupt: (queue: number) => void = () => {};
  readonly receive: ReceiveEngine;
  readonly transmit: TransmitEngine;
  #free: number;

  readonly interrupts = {
    raise: (causes: number) => {
      this.raised |= causes;
    },
    receive: (queue: number) => {
      this.events.push(`receive ${queue}`);
      this.onInterrupt(queue);
    },
    transmit: (queue: number) => {
      this.events.push(`transmit ${queue}`);
      this.onInterrupt(queue);
    },
    transmitDelay: () => this.transmitDelay,
  };
  /** What the vectors of transmit queues have left. */
  transmitDelay = -1;
  readonly statistics = {
    received: () => {},
    queueReceived: (queue: number, bytes: number) => void this.events.push(`received ${queue}: ${bytes}`),
    queueTransmitted: (queue: number, bytes: number) => void this.events.push(`transmitted ${queue}: ${bytes}`),
    queueDropped: (queue: number) => void this.events.push(`dropped ${queue}`),
    missed: () => void this.events.push('missed'),
    checksumError: () => void this.events.push('checksum error'),
  };
  readonly mac: EngineHost['mac'] & { ready: boolean } = {
    transmit: (frame) => void this.sent.push(frame.slice()),
    ready: true,
    onReady: () => {},
    bufferLevel: (bytes) => {
      this.bufferLevel = bytes;
    },
    onFrame: () => {},
  };
  /** What the packet buffer said last. */
  bufferLevel = 0;
  readonly onFault = (message: string): void => void this.faults.push(message);

  constructor() {
    this.bus = new FakeBus();
    this.bus.memory.fill(UNTOUCHED);
    this.#free = this.bus.base;
    this.registers.define(HLREG0, { initial: HLREG0_RXCRCSTRP });
    this.receive = new ReceiveEngine(this);
    this.transmit = new TransmitEngine(this);
    this.#start();
  }

  /** As new, but for what memory holds: a property has hundreds of them. */
  reset(): void {
    this.registers.reset();
    this.receive.reset();
    this.transmit.reset();
    this.#free = this.bus.base;
    this.raised = 0;
    this.transmitDelay = -1;
    this.mac.ready = true;
    for (const list of [this.faults, this.sent, this.events]) list.length = 0;
    this.#start();
  }

  #start(): void {
    this.write(RXCTRL, RXCTRL_RXEN);
    this.write(RXCSUM, RXCSUM_PCSD);
    this.write(DMATXCTL, this.read(DMATXCTL) | DMATXCTL_TE);
  }

  read(offset: number): number {
    return this.registers.read(offset);
  }

  write(offset: number, value: number): void {
    this.registers.write(offset, value >>> 0);
  }

  /** Sets bits of a register. */
  set(offset: number, bits: number): void {
    this.write(offset, this.read(offset) | bits);
  }

  /** Clears bits of a register. */
  clear(offset: number, bits: number): void {
    this.write(offset, this.read(offset) & ~bits);
  }

  /** A frame comes from the MAC. */
  arrive(frame: Uint8Array, loopback = false): void {
    this.mac.onFrame(frame, loopback);
  }

  /** Events since the last call. */
  takeEvents(): string[] {
    return this.events.splice(0);
  }

  takeFaults(): string[] {
    return this.faults.splice(0);
  }

  takeSent(): Uint8Array[] {
    return this.sent.splice(0);
  }

  /** Bus address of memory that is nobody else's, at a multiple of 128. */
  allocate(bytes: number): number {
    const at = this.#free;
    this.#free += Math.ceil(bytes / 128) * 128;
    if (this.#free > this.end) throw new Error('the fake bus has no more memory');
    return at;
  }

  /** Where memory ends. */
  get end(): number {
    return this.bus.base + this.bus.memory.length;
  }

  bytes(address: number, length: number): Uint8Array {
    const at = address - this.bus.base;
    return this.bus.memory.subarray(at, at + length);
  }

  setWords(address: number, words: number[]): void {
    for (const [i, word] of words.entries()) this.bus.view.setUint32(address - this.bus.base + 4 * i, word, true);
  }

  words(address: number, count = 4): number[] {
    return Array.from({ length: count }, (_, i) => this.bus.view.getUint32(address - this.bus.base + 4 * i, true));
  }
}

/** The two words of an address. */
export const split = (address: number): [number, number] => [address >>> 0, Math.floor(address / 2 ** 32)];

interface ReceiveRingShape {
  queue?: number;
  size?: number;
  bufferKib?: number;
  /** SRRCTL besides the buffers' size. */
  srrctl?: number;
}

/** A receive ring of which the first descriptors are not given to the card yet. */
export class HostReceiveRing {
  readonly queue: number;
  readonly size: number;
  readonly base: number;
  readonly buffers: number[];
  readonly bufferBytes: number;
  readonly #engines: Engines;
  #tail = 0;
  #next = 0;

  constructor(engines: Engines, shape: ReceiveRingShape = {}) {
    const { queue = 0, size = 8, bufferKib = 2, srrctl = SRRCTL_DESCTYPE_ADVANCED_ONE_BUFFER } = shape;
    this.#engines = engines;
    this.queue = queue;
    this.size = size;
    this.bufferBytes = bufferKib * 1024;
    this.base = engines.allocate(size * DESCRIPTOR);
    this.buffers = Array.from({ length: size }, () => engines.allocate(this.bufferBytes));
    const [low, high] = split(this.base);
    engines.write(RDBAL(queue), low);
    engines.write(RDBAH(queue), high);
    engines.write(RDLEN(queue), size * DESCRIPTOR);
    engines.write(RDH(queue), 0);
    engines.write(RDT(queue), 0);
    engines.write(SRRCTL(queue), srrctl | bufferKib);
    engines.write(RXDCTL(queue), RXDCTL_ENABLE);
  }

  descriptor(index: number): number {
    return this.base + index * DESCRIPTOR;
  }

  /** Gives the card so many more descriptors. */
  provide(count: number): void {
    for (let i = 0; i < count; i++) {
      this.#engines.setWords(this.descriptor(this.#tail), [...split(this.buffers[this.#tail]!), 0, 0]);
      this.#tail = (this.#tail + 1) % this.size;
    }
    this.#engines.write(RDT(this.queue), this.#tail);
  }

  /** What the card has written since the last call, up to what is not done. */
  take(): { words: number[]; bytes: Uint8Array }[] {
    const found = [];
    while (this.#next !== this.#tail) {
      const words = this.#engines.words(this.descriptor(this.#next));
      if ((words[2]! & 1) === 0) break;
      const length = words[3]! & 0xffff;
      found.push({ words, bytes: this.#engines.bytes(this.buffers[this.#next]!, length).slice() });
      this.#next = (this.#next + 1) % this.size;
    }
    return found;
  }

  /** The only frame, which is in one buffer. */
  takeOne(): { info: number; hash: number; status: number; tag: number; bytes: Uint8Array } {
    const all = this.take();
    if (all.length !== 1) throw new Error(`${all.length} descriptors are done`);
    const { words, bytes } = all[0]!;
    return { info: words[0]!, hash: words[1]!, status: words[2]!, tag: words[3]! >>> 16, bytes };
  }
}

/** A transmit ring. Descriptors are put into it, and TDT tells of them at the end of a test's step. */
export class HostTransmitRing {
  readonly queue: number;
  readonly size: number;
  readonly base: number;
  readonly #engines: Engines;
  tail = 0;

  constructor(engines: Engines, { queue = 0, size = 64 } = {}) {
    this.#engines = engines;
    this.queue = queue;
    this.size = size;
    this.base = engines.allocate(size * DESCRIPTOR);
    const [low, high] = split(this.base);
    engines.write(TDBAL(queue), low);
    engines.write(TDBAH(queue), high);
    engines.write(TDLEN(queue), size * DESCRIPTOR);
    engines.write(TDH(queue), 0);
    engines.write(TDT(queue), 0);
    engines.write(TXDCTL(queue), TXDCTL_ENABLE);
  }

  descriptor(index: number): number {
    return this.base + index * DESCRIPTOR;
  }

  /** Puts a descriptor into the ring. Gives its index. */
  put(words: number[]): number {
    const index = this.tail;
    this.#engines.setWords(this.descriptor(index), words);
    this.tail = (index + 1) % this.size;
    return index;
  }

  /** Puts one for a copy of these bytes: the words from the third on are given without the length. */
  putBytes(bytes: Uint8Array, word2: number, word3: number): number {
    const address = this.#engines.allocate(bytes.length);
    this.#engines.bytes(address, bytes.length).set(bytes);
    return this.put([...split(address), word2 | bytes.length, word3]);
  }

  /** Tells the card. */
  kick(): void {
    this.#engines.write(TDT(this.queue), this.tail);
  }

  /** Whether DD of a descriptor is set. */
  isDone(index: number): boolean {
    return (this.#engines.words(this.descriptor(index))[3]! & 1) !== 0;
  }
}

/** The same packet with its transport checksum done, as it is on a wire. */
export function finished({ bytes, transport, csumOffset }: Packet): Uint8Array {
  const whole = bytes.slice();
  const sum = 0xffff - onesSum(whole.subarray(transport));
  const value = sum === 0 && csumOffset === 6 ? 0xffff : sum;
  whole[transport + csumOffset] = value >>> 8;
  whole[transport + csumOffset + 1] = value;
  return whole;
}
