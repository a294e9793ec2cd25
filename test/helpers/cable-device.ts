/** Two frame devices of one process, with a cable between them: what one sends the other receives, as it was sent. */
import { drainEventfd, eventfd, signalEventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import type { WaitableDevice } from '../../tcpip/devices/waitable-device.ts';
import { NO_ROOM, RECEIVE_BATCH } from '../../tcpip/frame-device.ts';

const SLOT_BYTES = 65_600;
/** TRANSMIT_… and RECEIVE_… of tcpip/frame-device.ts, all of them. */
export const ALL_OFFLOADS = 0b11_1111;
/** Frames on the way at the most. */
const ROOM = 256;

interface Frame {
  bytes: Uint8Array;
  fields: readonly number[];
}

export interface CableOptions {
  offloads?: number;
  mtu?: number;
  /** Sees every frame; false: it is lost. */
  passes?: (bytes: Uint8Array, from: CableDevice) => boolean;
}

export class CableDevice implements WaitableDevice {
  readonly name: string;
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
  readonly fds: readonly number[];
  peer: CableDevice | null = null;
  passes: NonNullable<CableOptions['passes']> = () => true;
  readonly #call = eventfd();
  readonly #arrived: Frame[] = [];
  readonly #staged: Frame[] = [];
  #armed = false;
  #starved = false;
  closed = false;

  static pair({ offloads = ALL_OFFLOADS, mtu = 1500, passes }: CableOptions = {}): [CableDevice, CableDevice] {
    const a = new CableDevice('cable-a', 1, offloads, mtu);
    const b = new CableDevice('cable-b', 2, offloads, mtu);
    a.peer = b;
    b.peer = a;
    if (passes !== undefined) {
      a.passes = passes;
      b.passes = passes;
    }
    return [a, b];
  }

  constructor(name: string, last: number, offloads: number, mtu: number) {
    this.name = name;
    this.address = Uint8Array.of(0x52, 0x54, 0, 0, 0, last);
    this.offloads = offloads;
    this.mtu = mtu;
    this.fds = [this.#call];
  }

  receive(): number {
    const frames = this.#arrived.splice(0, RECEIVE_BATCH);
    for (const [i, { bytes, fields }] of frames.entries()) {
      this.rx.set(bytes, i * SLOT_BYTES);
      this.rxOffset[i] = i * SLOT_BYTES;
      this.rxLength[i] = bytes.length;
      [this.rxFlags[i], this.rxGsoType[i], , this.rxGsoSize[i], this.rxCsumStart[i], this.rxCsumOffset[i]] = fields as [
        number,
        number,
        number,
        number,
        number,
        number,
      ];
    }
    if (frames.length > 0) this.peer?.wake(true);
    return frames.length;
  }

  release(): void {}

  reserve(): number {
    const { peer } = this;
    if (peer !== null && peer.#arrived.length + this.#staged.length >= ROOM) {
      this.#starved = true;
      return NO_ROOM;
    }
    return 2;
  }

  send(length: number, ...fields: number[]): void {
    const bytes = this.tx.slice(2, 2 + length);
    if (this.peer !== null && this.passes(bytes, this)) this.#staged.push({ bytes, fields });
  }

  flush(): void {
    if (this.#staged.length === 0 || this.peer === null) return;
    this.peer.#arrived.push(...this.#staged.splice(0));
    this.peer.wake(false);
  }

  wake(room: boolean): void {
    if (!this.#armed || this.closed || (room && !this.#starved)) return;
    this.#armed = false;
    signalEventfd(this.#call);
  }

  enableNotification(): boolean {
    this.#armed = true;
    return this.#arrived.length > 0;
  }

  disableNotification(): void {
    this.#armed = false;
    this.#starved = false;
    if (!this.closed) drainEventfd(this.#call);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    if (this.peer !== null) this.peer.peer = null;
    close(this.#call);
  }
}
