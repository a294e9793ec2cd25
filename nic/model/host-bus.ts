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
  /**
   * Writes 32-bit words to a multiple of 4: each at once and once only, and word `last` after all others. So a driver that
   * sees a descriptor's DD sees all of it, and may give the descriptor back at once: nothing is written to it any more.
   * (Copying bytes does not do: memcpy(3) stores some of them twice.) False, with nothing written, where not all are mapped.
   */
  writeWords(address: BusAddress, words: Uint32Array, last: number): boolean;
  /** Signals MSI-X vector `vector`; nothing happens while the host has not set it up. */
  interrupt(vector: number): void;
}
