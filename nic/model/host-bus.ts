/** What the card reaches of its host: memory by bus address, and message-signalled interrupts. */

/** A 64-bit address as the card's host gave it; beyond 2^53 it is not exact, and mapped nowhere. */
export type BusAddress = number;

export interface HostBus {
  /**
   * Fills `into` from the host's memory. False when some byte of the range is not mapped for the card to read: nothing is
   * then to be relied on in `into`.
   */
  read(address: BusAddress, into: Uint8Array): boolean;
  /** Writes `from` to the host's memory. False, with nothing written, when some byte is not mapped for the card to write. */
  write(address: BusAddress, from: Uint8Array): boolean;
  /** Signals MSI-X vector `vector`; nothing happens while the host has not set it up. */
  interrupt(vector: number): void;
}
