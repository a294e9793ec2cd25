/**
 * What a software card has around it, in virtual time and without a host: memory behind a bus, a clock that a test moves, and
 * the end of a cable.
 */
import type { BusAddress, HostBus } from '../../nic/model/host-bus.ts';
import type { WireEnd } from '../../nic/model/wire.ts';

const MIB = 2 ** 20;

/** Memory that the card reaches from bus address `base` on, and the interrupts that it sends. */
export class FakeBus implements HostBus {
  readonly base: BusAddress;
  readonly memory: Uint8Array;
  readonly view: DataView;
  /** Vectors, in the order in which the card sent them. */
  readonly interrupts: number[] = [];

  constructor({ mib = 4, base = 0x1_0000_0000 }: { mib?: number; base?: BusAddress } = {}) {
    this.base = base;
    this.memory = new Uint8Array(mib * MIB);
    this.view = new DataView(this.memory.buffer);
  }

  read(address: BusAddress, into: Uint8Array): boolean {
    if (!this.#has(address, into.length)) return false;
    const at = address - this.base;
    into.set(this.memory.subarray(at, at + into.length));
    return true;
  }

  write(address: BusAddress, from: Uint8Array): boolean {
    if (!this.#has(address, from.length)) return false;
    this.memory.set(from, address - this.base);
    return true;
  }

  writeWords(address: BusAddress, words: Uint32Array): boolean {
    return this.write(address, new Uint8Array(words.buffer, words.byteOffset, words.byteLength));
  }

  interrupt(vector: number): void {
    this.interrupts.push(vector);
  }

  /** The interrupts since the last call. */
  takeInterrupts(): number[] {
    return this.interrupts.splice(0);
  }

  #has(address: BusAddress, length: number): boolean {
    return address >= this.base && address + length <= this.base + this.memory.length;
  }
}

/** A clock that stands until a test moves it. */
export class FakeClock {
  #now = 0;
  #timers: { at: number; callback: () => void }[] = [];

  now(): number {
    return this.#now;
  }

  after(us: number, callback: () => void): () => void {
    const timer = { at: this.#now + us, callback };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer);
    };
  }

  /** Timers that have not fired, nor were taken back. */
  get pending(): number {
    return this.#timers.length;
  }

  /** Moves time on by `us` microseconds; what falls due is called at its time, in order. */
  advance(us: number): void {
    const end = this.#now + us;
    for (;;) {
      const [next] = this.#timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
      if (next === undefined) break;
      this.#timers = this.#timers.filter((timer) => timer !== next);
      this.#now = next.at;
      next.callback();
    }
    this.#now = end;
  }
}

/** The card's end of a cable whose other end is in the hands of the test. */
export class FakeWire implements WireEnd {
  onFrame: (frame: Uint8Array) => void = () => {};
  onCarrier: () => void = () => {};
  onReady: () => void = () => {};
  ready = true;
  /** Copies of the frames that the card sent. */
  readonly sent: Uint8Array[] = [];
  /** Whether the card sends light. */
  transmitting = false;
  /** What happens to what the card does; a pair of wires sets these. */
  onSent: (frame: Uint8Array) => void = () => {};
  onTransmitting: (on: boolean) => void = () => {};
  #carrier: boolean;

  constructor({ carrier = true }: { carrier?: boolean } = {}) {
    this.#carrier = carrier;
  }

  get carrier(): boolean {
    return this.#carrier;
  }

  /** Light from the other end comes or goes. */
  setCarrier(on: boolean): void {
    if (on === this.#carrier) return;
    this.#carrier = on;
    this.onCarrier();
  }

  /** The cable takes frames again, or no more. */
  setReady(on: boolean): void {
    this.ready = on;
    if (on) this.onReady();
  }

  setTransmitting(on: boolean): void {
    if (on === this.transmitting) return;
    this.transmitting = on;
    this.onTransmitting(on);
  }

  send(frame: Uint8Array): void {
    this.sent.push(frame.slice());
    this.onSent(frame);
  }

  /** A frame comes in from the other end. */
  arrive(frame: Uint8Array): void {
    this.onFrame(frame);
  }
}

/** Two ends of one cable, for a card at each. Frames and light arrive within the call that sent them. */
export function wirePair(): [FakeWire, FakeWire] {
  const pair: [FakeWire, FakeWire] = [new FakeWire({ carrier: false }), new FakeWire({ carrier: false })];
  const [a, b] = pair;
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    from.onSent = (frame) => {
      if (from.transmitting) to.arrive(frame);
    };
    from.onTransmitting = (on) => to.setCarrier(on);
  }
  return pair;
}
