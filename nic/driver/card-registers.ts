/** The registers of a card that may vanish: reads that notice it, bits set and cleared, and polls that end. */
import type { PciDevice } from '../pci/pci-device.ts';
import { GONE, STATUS } from '../registers.ts';
import { hex, registerName } from './register-names.ts';

/** Time, as the driver needs it. */
export interface DriverClock {
  /** Milliseconds of a clock that never goes back. */
  now(): number;
  /** Waits, without giving way. */
  sleep(ms: number): void;
}

/** The card is no longer there: its registers read as all ones. */
export class CardGoneError extends Error {
  constructor(name: string, offset: number) {
    super(
      `${name}: the card no longer answers (${registerName(offset)} reads as all ones): it was removed, or lost its link to ` +
        'the bus; open it anew when it is back',
    );
    this.name = 'CardGoneError';
  }
}

const POLL_INTERVAL_MS = 1;

export class CardRegisters {
  /** What messages call the card. */
  readonly name: string;
  readonly clock: DriverClock;
  readonly #device: PciDevice;
  /** What did not answer; null as long as everything did. */
  #goneAt: number | null = null;

  constructor(device: PciDevice, clock: DriverClock) {
    this.name = device.name;
    this.clock = clock;
    this.#device = device;
  }

  /** The card did not answer once. It is not asked again: what came back would know nothing of what it was told. */
  get gone(): boolean {
    return this.#goneAt !== null;
  }

  /** Reads a register. Throws {@link CardGoneError}. */
  read(offset: number): number {
    this.#refuseGone();
    const value = this.#device.registers.read32(offset);
    // All ones may be a value; STATUS never is.
    if (value === GONE && this.#device.registers.read32(STATUS) === GONE) {
      this.#goneAt = offset;
      this.#refuseGone();
    }
    return value;
  }

  /** Writes a register. Throws {@link CardGoneError} when the card is known to be gone; a write alone does not find out. */
  write(offset: number, value: number): void {
    this.#refuseGone();
    this.#device.registers.write32(offset, value >>> 0);
  }

  /** Throws {@link CardGoneError} unless the card is there: for what ends with a write. */
  check(): void {
    this.read(STATUS);
  }

  /** Sets bits of a register. */
  set(offset: number, bits: number): void {
    this.write(offset, this.read(offset) | bits);
  }

  /** Clears bits of a register. */
  clear(offset: number, bits: number): void {
    this.write(offset, this.read(offset) & ~bits);
  }

  /**
   * Waits until the bits `mask` of a register are `wanted`. Throws Error that names the register, `what` was awaited, and the
   * value read last, after `ms`.
   */
  await(offset: number, mask: number, wanted: number, ms: number, what: string): void {
    const deadline = this.clock.now() + ms;
    for (;;) {
      const value = this.read(offset);
      if ((value & mask) >>> 0 === wanted >>> 0) return;
      if (this.clock.now() >= deadline) {
        throw new Error(
          `${this.name}: ${what} did not happen in ${ms} ms: register ${registerName(offset)} reads ${hex(value)}, bits ` +
            `${hex(mask >>> 0)} should be ${hex(wanted >>> 0)}; reset the card (ringswitch nic unbind and bind), and look for ` +
            'PCIe errors in the kernel log',
        );
      }
      this.clock.sleep(POLL_INTERVAL_MS);
    }
  }

  #refuseGone(): void {
    if (this.#goneAt !== null) throw new CardGoneError(this.name, this.#goneAt);
  }
}
