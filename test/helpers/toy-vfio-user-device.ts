/** A PCI device of a few registers, for tests of vfio-user: memory, an interrupt when asked for, and a little DMA. */
import type { HostBus } from '../../nic/model/host-bus.ts';
import type { VfioUserDevice } from '../../nic/vfio-user/session.ts';

export const TOY_VENDOR = 0x8086;
export const TOY_DEVICE = 0x10fb;
export const TOY_VECTORS = 20;
export const TOY_BAR0_BYTES = 4096;
const CONFIG_BYTES = 256;
const CONFIG_REGION = 7;

/** Registers of BAR 0: everything else is memory. */
export const TOY_INTERRUPT = 0x100;
export const TOY_DMA_LOW = 0x200;
export const TOY_DMA_HIGH = 0x204;
/** Writing a length inverts so many bytes of the host's memory at the address. */
export const TOY_DMA_INVERT = 0x208;
export const TOY_DMA_RESULT = 0x20c;
export const TOY_DMA_DONE = 1;
export const TOY_DMA_FAILED = 2;

export class ToyDevice implements VfioUserDevice {
  readonly regions = [TOY_BAR0_BYTES, 0, 0, 0, 0, 0, 0, CONFIG_BYTES];
  readonly interrupts = [1, 1, TOY_VECTORS];
  resets = 0;
  readonly #memory = [Buffer.alloc(TOY_BAR0_BYTES), ...Array(6).fill(Buffer.alloc(0)), Buffer.alloc(CONFIG_BYTES)];
  readonly #bus: HostBus;

  constructor(bus: HostBus) {
    this.#bus = bus;
    this.#powerOn();
  }

  #powerOn(): void {
    for (const memory of this.#memory) memory.fill(0);
    this.#memory[CONFIG_REGION].writeUInt16LE(TOY_VENDOR, 0);
    this.#memory[CONFIG_REGION].writeUInt16LE(TOY_DEVICE, 2);
  }

  read(region: number, offset: number, into: Buffer): void {
    this.#memory[region].copy(into, 0, offset, offset + into.length);
  }

  write(region: number, offset: number, from: Buffer): void {
    from.copy(this.#memory[region], offset);
    if (region !== 0) return;
    if (offset === TOY_INTERRUPT) this.#bus.interrupt(from.readUInt32LE(0));
    if (offset === TOY_DMA_INVERT) this.#invert(from.readUInt32LE(0));
  }

  #invert(length: number): void {
    const bar = this.#memory[0];
    const address = bar.readUInt32LE(TOY_DMA_LOW) + bar.readUInt32LE(TOY_DMA_HIGH) * 2 ** 32;
    const bytes = new Uint8Array(length);
    const done =
      this.#bus.read(address, bytes) &&
      this.#bus.write(
        address,
        bytes.map((byte) => ~byte),
      );
    bar.writeUInt32LE(done ? TOY_DMA_DONE : TOY_DMA_FAILED, TOY_DMA_RESULT);
  }

  reset(): void {
    this.resets++;
    this.#powerOn();
  }
}
