/** The registers of a card that may vanish: reads that notice it, bits set and cleared, and polls that end. */
import type { PciDevice } from '../pci/pci-device.ts';
import { GONE, STATUS } from '../registers.ts';

/** Time, as the driver needs it. */
export interface DriverClock {
  /** Milliseconds of a clock that never goes back. */
  now(): number;
  /** Waits, without giving way. */
  sleep(ms: number): void;
}

/** The card is no longer there: its registers read as all ones. */
export class CardGoneError extends Error {
  constructor(name: string, register: string) {
    super(
      `${name}: the card no longer answers (${register} reads as all ones): it was removed, or lost its link to the bus`,
    );
    this.name = 'CardGoneError';
  }
}

const POLL_INTERVAL_MS = 1;

export class CardRegisters {
  /** What messages call the card. */
  readonly name: string;
  readonly clock: DriverClock;
  /** Set once the card did not answer. */
  gone = false;
  readonly #device: PciDevice;

  constructor(device: PciDevice, clock: DriverClock) {
    this.name = device.name;
    this.clock = clock;
    this.#device = device;
  }

  /** Reads a register. Throws {@link CardGoneError}. */
  read(offset: number): number {
    const value = this.#device.registers.read32(offset);
    // All ones may be a value; STATUS never is.
    if (value === GONE && (this.gone || this.#device.registers.read32(STATUS) === GONE)) {
      this.gone = true;
      throw new CardGoneError(this.name, hex(offset));
    }
    return value;
  }

  write(offset: number, value: number): void {
    this.#device.registers.write32(offset, value >>> 0);
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
   * Waits until `mask` of a register is `wanted`. Throws Error that names the register, `what` was awaited, and the value
   * read last, after `ms`.
   */
  await(offset: number, mask: number, wanted: number, ms: number, what: string): void {
    const deadline = this.clock.now() + ms;
    for (;;) {
      const value = this.read(offset);
      if ((value & mask) >>> 0 === wanted >>> 0) return;
      if (this.clock.now() >= deadline) {
        throw new Error(
          `${this.name}: ${what} did not happen in ${ms} ms: register ${hex(offset)} reads ${hex(value)}, bits ` +
            `${hex(mask >>> 0)} should be ${hex(wanted >>> 0)}; reset the card (ringswitch nic unbind and bind), and look for ` +
            'PCIe errors in the kernel log',
        );
      }
      this.clock.sleep(POLL_INTERVAL_MS);
    }
  }
}

export const hex = (n: number): string => `0x${n.toString(16)}`;
