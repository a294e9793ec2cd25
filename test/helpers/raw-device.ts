/** The device's half of a split ring, byte by byte: layouts written down a second time, from virtio 1.2 §2.7.5 to §2.7.8. */
import type { DriverMemory } from '../../vhost/driver-memory.ts';
import type { DriverVirtqueue } from '../../vhost/driver-virtqueue.ts';

export class RawDevice {
  readonly #num: number;
  readonly #desc: DataView;
  readonly #avail: DataView;
  readonly #used: DataView;

  constructor(memory: DriverMemory, { num, addresses }: DriverVirtqueue) {
    this.#num = num;
    this.#desc = new DataView(memory.view(addresses.desc, 16 * num));
    this.#avail = new DataView(memory.view(addresses.avail, 6 + 2 * num));
    this.#used = new DataView(memory.view(addresses.used, 6 + 8 * num));
  }

  get availFlags(): number {
    return this.#avail.getUint16(0, true);
  }

  get availIdx(): number {
    return this.#avail.getUint16(2, true);
  }

  get usedEvent(): number {
    return this.#avail.getUint16(4 + 2 * this.#num, true);
  }

  set usedFlags(flags: number) {
    this.#used.setUint16(0, flags, true);
  }

  set availEvent(index: number) {
    this.#used.setUint16(4 + 8 * this.#num, index & 0xffff, true);
  }

  get usedIdx(): number {
    return this.#used.getUint16(2, true);
  }

  set usedIdx(idx: number) {
    this.#used.setUint16(2, idx & 0xffff, true);
  }

  /** Head of the avail entry that index `idx` has. */
  head(idx: number): number {
    return this.#avail.getUint16(4 + 2 * (idx % this.#num), true);
  }

  descriptor(i: number): { addr: bigint; len: number; flags: number; next: number } {
    return {
      addr: this.#desc.getBigUint64(16 * i, true),
      len: this.#desc.getUint32(16 * i + 8, true),
      flags: this.#desc.getUint16(16 * i + 12, true),
      next: this.#desc.getUint16(16 * i + 14, true),
    };
  }

  /** Writes a used entry and publishes it. */
  use(id: number, length = 0): void {
    const at = 4 + 8 * (this.usedIdx % this.#num);
    this.#used.setUint32(at, id, true);
    this.#used.setUint32(at + 4, length, true);
    this.usedIdx += 1;
  }
}
