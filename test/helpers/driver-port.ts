/** A port of a running daemon by way of our own driver: the clones, opened and attached as any guest would. */
import { drainEventfd } from '../../linux/eventfd.ts';
import { close, O_NONBLOCK, O_RDWR, open } from '../../linux/file.ts';
import { IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, ifreq, TUNSETIFF } from '../../linux/if-tun.ts';
import { ioctl } from '../../linux/ioctl.ts';
import { POLLIN, PollSet } from '../../linux/poll.ts';
import {
  DRIVER_HEADER_BYTES,
  DriverDevice,
  type DriverDeviceOptions,
  openVhostNet,
} from '../../vhost/driver-device.ts';
import { NO_SLOT } from '../../vhost/driver-virtqueue.ts';
import { DELIVERY_MS } from './tun-client.ts';

export interface DriverFiles {
  tun: number;
  vhost: number;
}

/** Opens both clones of a daemon in another process; the tun file with its interface. */
export function openClones({ tun, vhostNet }: { tun: string; vhostNet: string }, name: string): DriverFiles {
  const files = { tun: open(tun, O_RDWR | O_NONBLOCK), vhost: openVhostNet(vhostNet) };
  ioctl(files.tun, TUNSETIFF, ifreq(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR), 'TUNSETIFF');
  return files;
}

export class DriverPort implements Disposable {
  readonly device: DriverDevice;
  readonly files: DriverFiles;
  /** All slots of each ring. */
  readonly #rx: Uint8Array;
  readonly #tx: Uint8Array;
  readonly #received: Buffer[] = [];

  /** Running. */
  constructor(daemon: { tun: string; vhostNet: string }, name: string, options: Partial<DriverDeviceOptions> = {}) {
    this.files = openClones(daemon, name);
    this.device = new DriverDevice({ ...this.files, ...options });
    const { memory, rx, tx } = this.device;
    this.#rx = new Uint8Array(memory.view(rx.slotAddress(0), rx.slotsBytes));
    this.#tx = new Uint8Array(memory.view(tx.slotAddress(0), tx.slotsBytes));
    this.device.start();
  }

  /** Sends a frame with an empty header. */
  send(frame: Uint8Array): void {
    const { tx } = this.device;
    for (let used = tx.poll(); used > 0; used--) tx.giveBack(tx.shift());
    const slot = tx.take();
    if (slot === NO_SLOT) throw new Error('the switch has taken none of the frames sent');
    const at = tx.slotOffset(slot);
    const bytes = this.#tx;
    bytes.fill(0, at, at + DRIVER_HEADER_BYTES);
    bytes.set(frame, at + DRIVER_HEADER_BYTES);
    tx.offer(slot, DRIVER_HEADER_BYTES + frame.length);
    tx.publish();
  }

  /** The next frame, waited for on the call eventfd alone. */
  receive(timeoutMs = DELIVERY_MS): Buffer {
    const { device } = this;
    const poll = new PollSet();
    poll.add(device.rxCall, POLLIN);
    for (const deadline = performance.now() + timeoutMs; ; ) {
      this.#collect();
      const frame = this.#received.shift();
      if (frame) return frame;
      const { error } = device.rx;
      if (error) throw new Error(error.message);
      const leftMs = Math.ceil(deadline - performance.now());
      if (leftMs <= 0) throw new Error(`no frame in ${timeoutMs} ms`);
      if (device.rx.enableCalls()) continue;
      poll.wait(leftMs);
      drainEventfd(device.rxCall);
      device.rx.disableCalls();
    }
  }

  #collect(): void {
    const { rx, frames } = this.device;
    const bytes = this.#rx;
    const waiting = frames.poll();
    let entry = 0;
    for (let f = 0; f < waiting; f++) {
      const parts: Uint8Array[] = [];
      for (let b = frames.buffers(f); b > 0; b--, entry++) {
        const at = rx.slotOffset(rx.usedSlot(entry));
        parts.push(bytes.subarray(at, at + rx.usedLength(entry)));
      }
      this.#received.push(Buffer.concat(parts).subarray(DRIVER_HEADER_BYTES));
    }
    frames.release(waiting);
    rx.publish();
  }

  [Symbol.dispose](): void {
    this.device.close();
    close(this.files.vhost);
    close(this.files.tun);
  }
}
