/**
 * A cable between two cards of this process. Frames arrive in a later turn of the event loop, so that a card that sends does
 * not find itself receiving before it is done. Few are on the way at a time, as on a fibre, so that a pause frame stops the other
 * end soon: the rest waits in the card that sends.
 */
import type { WireEnd } from './wire.ts';

/** Bytes on the way in one direction from which on the cable takes no more. Twice this has to fit above FCRTH. */
const READY_BYTES = 8 * 1024;
/** What is sent all the same is lost beyond this. */
const CAPACITY_BYTES = 4 * 2 ** 20;

/** Both ends of a new cable. */
export function cable(): [WireEnd, WireEnd] {
  const a = new CableEnd();
  const b = new CableEnd();
  a.other = b;
  b.other = a;
  return [a, b];
}

class CableEnd implements WireEnd {
  other: CableEnd | null = null;
  onFrame: (frame: Uint8Array) => void = () => {};
  onReady: () => void = () => {};
  onCarrier: () => void = () => {};
  #transmitting = false;
  /** Frames on the way to this end. */
  #arriving: Uint8Array[] = [];
  #bytes = 0;

  get carrier(): boolean {
    return this.other?.transmitting ?? false;
  }

  get ready(): boolean {
    return (this.other?.bytes ?? 0) < READY_BYTES;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get transmitting(): boolean {
    return this.#transmitting;
  }

  setTransmitting(on: boolean): void {
    if (on === this.#transmitting) return;
    this.#transmitting = on;
    // Not within the register write that switched the laser.
    setImmediate(() => this.other?.onCarrier());
  }

  send(frame: Uint8Array): void {
    if (this.#transmitting) this.other?.arrive(frame);
  }

  arrive(frame: Uint8Array): void {
    if (this.#bytes + frame.length > CAPACITY_BYTES) return;
    if (this.#arriving.length === 0) setImmediate(() => this.#deliver());
    this.#arriving.push(frame.slice());
    this.#bytes += frame.length;
  }

  #deliver(): void {
    const frames = this.#arriving;
    this.#arriving = [];
    this.#bytes = 0;
    for (const frame of frames) this.onFrame(frame);
    this.other?.onReady();
  }
}

/** The end of a cable that is plugged in nowhere. */
export function looseCable(): WireEnd {
  return new CableEnd();
}
