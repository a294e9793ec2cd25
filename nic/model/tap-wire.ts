/**
 * A tap as the other end of a cable: the kernel's /dev/net/tun, or a switch's clone of it. There is light as long as the tap
 * is there.
 *
 * A card's model sends and takes plain frames: checksums are whole, and nothing is longer than the wire takes.
 */
import { EAGAIN, EINTR, EINVAL, EIO, ENOBUFS, ENOMEM, errnoName } from '../../linux/errno.ts';
import { close, O_NONBLOCK, O_RDWR, open, tryRead, tryWrite } from '../../linux/file.ts';
import { IFF_NO_PI, IFF_TAP, IFNAMSIZ, ifreq, TUNSETIFF } from '../../linux/if-tun.ts';
import { ioctl } from '../../linux/ioctl.ts';
import { type Watch, watchReadable } from '../../linux/watch.ts';
import type { WireEnd } from './wire.ts';

const MAX_FRAME_BYTES = 65_536;
/** minFrameSize of IEEE 802.3 §4.4.2 without the CRC: whoever sends on a cable pads to it, and a tap does not. */
const MIN_FRAME_BYTES = 60;
/** Frames after which others have their turn on the event loop. */
const BURST = 64;

/** Of a write: the frame is lost, and the tap is well. EIO: the interface is down; EINVAL: no frame is that short. */
const LOST = [EAGAIN, EINTR, EIO, EINVAL, ENOBUFS, ENOMEM];

export class TapWire implements WireEnd {
  onFrame: (frame: Uint8Array) => void = () => {};
  /** What the tap does not take is lost at its other side. */
  readonly ready = true;
  onReady: () => void = () => {};
  onCarrier: () => void = () => {};
  /** Told once when the tap goes away: its interface was deleted, or the switch that it belongs to has ended. */
  onGone: (message: string) => void = () => {};
  readonly #name: string;
  readonly #fd: number;
  readonly #watch: Watch;
  readonly #buffer = new Uint8Array(MAX_FRAME_BYTES);
  #transmitting = false;
  #gone = false;
  #closed = false;

  /** Creates or attaches to tap `name` of device file `device`. Throws SystemError, and RangeError for what is no name. */
  constructor(name: string, device = '/dev/net/tun') {
    const bytes = Buffer.byteLength(name);
    if (bytes === 0 || bytes >= IFNAMSIZ) throw new RangeError(`a tap's name has 1 to ${IFNAMSIZ - 1} bytes`);
    this.#name = name;
    this.#fd = open(device, O_RDWR | O_NONBLOCK);
    try {
      ioctl(this.#fd, TUNSETIFF, ifreq(name, IFF_TAP | IFF_NO_PI), `TUNSETIFF ${name}`);
      this.#watch = watchReadable(this.#fd, () => this.#read());
    } catch (error) {
      close(this.#fd);
      throw error;
    }
  }

  get carrier(): boolean {
    return !this.#gone;
  }

  setTransmitting(on: boolean): void {
    this.#transmitting = on;
  }

  /** Lost where the interface is down, or its queue is full, as on any wire. */
  send(frame: Uint8Array): void {
    if (!this.#transmitting || this.#gone || this.#closed) return;
    const written = tryWrite(this.#fd, frame);
    if (written < 0 && !LOST.includes(-written)) this.#end(-written);
  }

  #read(): void {
    for (let n = 0; n < BURST && !this.#gone && !this.#closed; n++) {
      const length = tryRead(this.#fd, this.#buffer);
      if (length === -EAGAIN || length === -EINTR) return;
      if (length <= 0) {
        this.#end(-length);
        return;
      }
      this.#buffer.fill(0, length, MIN_FRAME_BYTES);
      this.onFrame(this.#buffer.subarray(0, Math.max(length, MIN_FRAME_BYTES)));
    }
  }

  /** There is nothing more to hear, and poll(2) would say so for ever. */
  #end(errno: number): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#watch.close();
    this.onGone(`the tap ${this.#name} is gone (${errnoName(errno)}): the card has no cable any more`);
    // Not within the register write whose frame found out.
    setImmediate(() => this.onCarrier());
  }

  /** Lets go of the tap; one that is not persistent goes. May be called twice. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (!this.#gone) this.#watch.close();
    close(this.#fd);
  }
}
