/**
 * A tap as the other end of a cable: the kernel's /dev/net/tun, or a switch's clone of it. There is always light.
 *
 * A card's model sends and takes plain frames: checksums are whole, and nothing is longer than the wire takes.
 */
import { EAGAIN, EBADFD, EIO } from '../../linux/errno.ts';
import { close, O_NONBLOCK, O_RDWR, open, tryRead, tryWrite } from '../../linux/file.ts';
import { IFF_NO_PI, IFF_TAP, ifreq, TUNSETIFF } from '../../linux/if-tun.ts';
import { ioctl } from '../../linux/ioctl.ts';
import { type Watch, watchReadable } from '../../linux/watch.ts';
import type { WireEnd } from './wire.ts';

const MAX_FRAME_BYTES = 65_536;
/** Frames after which others have their turn on the event loop. */
const BURST = 64;

export class TapWire implements WireEnd {
  onFrame: (frame: Uint8Array) => void = () => {};
  onCarrier: () => void = () => {};
  readonly carrier = true;
  readonly #fd: number;
  readonly #watch: Watch;
  readonly #buffer = new Uint8Array(MAX_FRAME_BYTES);
  #transmitting = false;

  /** Creates or attaches to tap `name` of device file `device`. Throws SystemError. */
  constructor(name: string, device = '/dev/net/tun') {
    this.#fd = open(device, O_RDWR | O_NONBLOCK);
    try {
      ioctl(this.#fd, TUNSETIFF, ifreq(name, IFF_TAP | IFF_NO_PI), `TUNSETIFF ${name}`);
      this.#watch = watchReadable(this.#fd, () => this.#read());
    } catch (error) {
      close(this.#fd);
      throw error;
    }
  }

  setTransmitting(on: boolean): void {
    this.#transmitting = on;
  }

  /** Lost where the interface is down, or its queue is full, as on any wire. */
  send(frame: Uint8Array): void {
    if (!this.#transmitting) return;
    const written = tryWrite(this.#fd, frame);
    if (written < 0 && written !== -EAGAIN && written !== -EIO && written !== -EBADFD) {
      throw new Error(`a frame of ${frame.length} bytes cannot be written to the tap: errno ${-written}`);
    }
  }

  #read(): void {
    for (let n = 0; n < BURST; n++) {
      const length = tryRead(this.#fd, this.#buffer);
      if (length <= 0) {
        // The interface was deleted under us: there is nothing more to hear.
        if (length === -EBADFD) this.#watch.close();
        return;
      }
      this.onFrame(this.#buffer.subarray(0, length));
    }
  }

  /** Lets go of the tap; one that is not persistent goes. */
  close(): void {
    this.#watch.close();
    close(this.#fd);
  }
}
