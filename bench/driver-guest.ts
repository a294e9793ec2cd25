/** A guest played in this thread, over the clones of a daemon: it always sends the same frame, and never sleeps. */
import { close, O_NONBLOCK, O_RDWR, open } from '../linux/file.ts';
import { IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, ifreq, TUNSETIFF } from '../linux/if-tun.ts';
import { ioctl } from '../linux/ioctl.ts';
import { DRIVER_HEADER_BYTES, DriverDevice, openVhostNet } from '../vhost/driver-device.ts';
import { NO_SLOT } from '../vhost/driver-virtqueue.ts';

const FRAME_BYTES = 60;
/** EtherType for local experiments (IEEE 802 table 3). */
const ETHERTYPE = 0x88b5;
const MAC_BYTES = 6;

/** Polls its rings, so that it asks for no calls. The daemon must be another process. */
export class DriverGuest implements Disposable {
  readonly #device: DriverDevice;
  readonly #files: number[] = [];

  /** Opens the clones, makes the interface `name`, and starts. Throws what opening and DriverDevice throw. */
  constructor(clones: { tun: string; vhostNet: string }, name: string, own: Uint8Array, peer: Uint8Array) {
    try {
      const tun = open(clones.tun, O_RDWR | O_NONBLOCK);
      this.#files.push(tun);
      const vhost = openVhostNet(clones.vhostNet);
      this.#files.push(vhost);
      ioctl(tun, TUNSETIFF, ifreq(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR), 'TUNSETIFF');
      this.#device = new DriverDevice({ tun, vhost });
    } catch (error) {
      for (const fd of this.#files) close(fd);
      throw error;
    }
    this.#device.start();
    this.#device.rx.disableCalls();
    this.#device.tx.disableCalls();
    this.#fillSlots(own, peer);
  }

  /** The frame stands in every slot from the start, after an empty virtio-net header. */
  #fillSlots(own: Uint8Array, peer: Uint8Array): void {
    const { memory, tx } = this.#device;
    const bytes = Buffer.from(memory.view(tx.slotAddress(0), tx.slotsBytes));
    for (let slot = 0; slot < tx.num; slot++) {
      const at = tx.slotOffset(slot) + DRIVER_HEADER_BYTES;
      bytes.set(peer, at);
      bytes.set(own, at + MAC_BYTES);
      bytes.writeUInt16BE(ETHERTYPE, at + 2 * MAC_BYTES);
    }
  }

  /** Takes what came, and lets the switch use the buffers again. Gives how many frames. */
  receive(): number {
    const { rx, frames } = this.#device;
    const count = frames.poll();
    if (count === 0) return 0;
    frames.release(count);
    rx.publish();
    return count;
  }

  /** Sends up to `count` frames. Gives how many found a free slot. Kicks where the switch asked for it. */
  send(count: number): number {
    const { tx } = this.#device;
    for (let used = tx.poll(); used > 0; used--) tx.giveBack(tx.shift());
    let sent = 0;
    for (; sent < count; sent++) {
      const slot = tx.take();
      if (slot === NO_SLOT) break;
      tx.offer(slot, DRIVER_HEADER_BYTES + FRAME_BYTES);
    }
    tx.publish();
    return sent;
  }

  /** Kicks sent so far: times that the switch slept, or was about to. */
  get kicks(): number {
    return this.#device.tx.kicks;
  }

  [Symbol.dispose](): void {
    this.#device.close();
    for (const fd of this.#files) close(fd);
  }
}
