/**
 * One receive queue (82599 datasheet §7.1.4 to §7.1.9, §8.2.3.8): frames go into the buffers of its ring's descriptors, which
 * are then written back.
 *
 *     RDH … RDT - 1 are the card's. RDH = RDT: there are none, and a frame waits (or is dropped, SRRCTL.DROP_EN).
 *
 * Descriptor types that split headers off are taken as one buffer: the whole frame goes to the packet's address, SPH stays 0,
 * which a driver has to expect of any frame that is not split. Nothing is coalesced (RSC): RSCCTL allows it, and asks for none.
 */
import { DESCRIPTOR_BYTES, RXD_STAT_DD, RXD_STAT_EOP } from '../descriptors.ts';
import {
  DCA_RXCTRL,
  EICR_PCI_EXCEPTION,
  RDBAH,
  RDBAL,
  RDH,
  RDLEN,
  RDT,
  RSCCTL,
  RXDCTL,
  RXDCTL_ENABLE,
  RXDCTL_VME,
  SRRCTL,
  SRRCTL_BSIZEPACKET_MASK,
  SRRCTL_DESCTYPE_MASK,
  SRRCTL_DROP_EN,
} from '../registers.ts';
import type { EngineHost } from './engine-host.ts';
import { busAddressOf, DescriptorFetch, hex } from './queue-memory.ts';

/** SRRCTL after reset: buffers of 2 KiB, legacy descriptors (§8.2.3.8.7). */
const SRRCTL_INITIAL = 0x2;
const KIB = 1024;
const ALIGNMENT = 128;

/** The word of a write-back that has DD. */
const DONE_WORD = 2;
const LEGACY_DONE_WORD = 3;

/** What a write-back says of a whole frame. */
export interface WriteBack {
  /** First and second word: packet and RSS type, and the hash. */
  info: number;
  hash: number;
  /** Status and errors, without DD and EOP. */
  status: number;
  vlanTag: number;
}

/** What became of a frame. */
export const DELIVERED = 0;
export const NO_DESCRIPTORS = 1;
export const NOT_TAKEN = 2;

/** RXD_STAT_DD, and with it RXD_STAT_EOP. */
const RXD_DONE = RXD_STAT_DD;
const RXD_DONE_LAST = RXD_STAT_DD | RXD_STAT_EOP;

export class ReceiveQueue {
  readonly index: number;
  readonly #host: EngineHost;
  readonly #fetch: DescriptorFetch;
  readonly #descriptor = new Uint32Array(4);

  constructor(index: number, host: EngineHost) {
    this.index = index;
    this.#host = host;
    this.#fetch = new DescriptorFetch(host.bus);
    const { registers } = host;
    const moved = (value: number): number => {
      this.#fetch.clear();
      return value;
    };
    registers.define(RDBAL(index), { writable: ~(ALIGNMENT - 1), write: moved });
    registers.define(RDBAH(index), { write: moved });
    registers.define(RDLEN(index), { writable: 0xfff80, write: moved });
    registers.define(DCA_RXCTRL(index));
    registers.define(RDH(index), { writable: 0xffff, write: moved });
    registers.define(SRRCTL(index), { initial: SRRCTL_INITIAL });
    registers.define(RDT(index), { writable: 0xffff });
    registers.define(RXDCTL(index), { write: moved });
    registers.define(RSCCTL(index));
  }

  /** Forgets what was fetched: the card was reset. */
  reset(): void {
    this.#fetch.clear();
  }

  get enabled(): boolean {
    return (this.#host.registers.get(RXDCTL(this.index)) & RXDCTL_ENABLE) !== 0;
  }

  get strips(): boolean {
    return (this.#host.registers.get(RXDCTL(this.index)) & RXDCTL_VME) !== 0;
  }

  get drops(): boolean {
    return (this.#host.registers.get(SRRCTL(this.index)) & SRRCTL_DROP_EN) !== 0;
  }

  /** Looks at a new RDT: one beyond the ring stops the queue. */
  checkTail(): void {
    const { registers } = this.#host;
    const tail = registers.get(RDT(this.index));
    const size = registers.get(RDLEN(this.index)) / DESCRIPTOR_BYTES;
    if (this.enabled && tail >= size) this.#break(`RDT ${tail} in a ring of ${size}`);
  }

  /**
   * Writes a frame into as many buffers as it takes. NO_DESCRIPTORS: it may come again when RDT has moved; NOT_TAKEN: the queue
   * is off, or its ring is too small for the frame however empty it is, or the host's ring is broken, which was told then.
   */
  deliver(frame: Uint8Array, back: WriteBack): number {
    if (!this.enabled) return NOT_TAKEN;
    const { registers, bus } = this.#host;
    const { index } = this;
    const size = registers.get(RDLEN(index)) / DESCRIPTOR_BYTES;
    let head = registers.get(RDH(index));
    const tail = registers.get(RDT(index));
    if (head >= size || tail >= size) return this.#break(`RDH ${head} and RDT ${tail} in a ring of ${size}`);
    const bufferBytes = (registers.get(SRRCTL(index)) & SRRCTL_BSIZEPACKET_MASK) * KIB;
    if (bufferBytes === 0) return this.#break('SRRCTL.BSIZEPACKET is 0');
    let available = (tail - head + size) % size;
    if ((size - 1) * bufferBytes < frame.length) return NOT_TAKEN;
    if (available * bufferBytes < frame.length) return NO_DESCRIPTORS;
    const base = busAddressOf(registers.get(RDBAL(index)), registers.get(RDBAH(index)));
    const isLegacy = (registers.get(SRRCTL(index)) & SRRCTL_DESCTYPE_MASK) === 0;
    for (let done = 0; done < frame.length; ) {
      const at = this.#fetch.at(base, head, Math.min(available, size - head));
      if (at < 0) return this.#break(`no memory at ${hex(base + head * DESCRIPTOR_BYTES)}, descriptor ${head}`);
      const address = busAddressOf(this.#fetch.words[at]!, this.#fetch.words[at + 1]!);
      const part = frame.subarray(done, done + bufferBytes);
      done += part.length;
      if (!bus.write(address, part))
        return this.#break(`no memory at ${hex(address)}, the buffer of descriptor ${head}`);
      if (isLegacy) this.#composeLegacy(at, back, part.length, done === frame.length);
      else this.#compose(back, part.length, done === frame.length);
      const doneWord = isLegacy ? LEGACY_DONE_WORD : DONE_WORD;
      if (!bus.writeWords(base + head * DESCRIPTOR_BYTES, this.#descriptor, doneWord)) {
        return this.#break(`descriptor ${head} at ${hex(base + head * DESCRIPTOR_BYTES)} cannot be written`);
      }
      head = (head + 1) % size;
      available--;
    }
    registers.set(RDH(index), head);
    return DELIVERED;
  }

  /** The advanced write-back format (§7.1.6.2): of a frame in several buffers, only the last descriptor says all. */
  #compose({ info, hash, status, vlanTag }: WriteBack, length: number, isLast: boolean): void {
    const words = this.#descriptor;
    words[0] = isLast ? info : 0;
    words[1] = isLast ? hash : 0;
    words[2] = isLast ? status | RXD_DONE_LAST : RXD_DONE;
    words[3] = isLast ? length | (vlanTag << 16) : length;
  }

  /** The legacy one (§7.1.5): the address stays; length; eight bits of status, as many of errors, and the VLAN tag. */
  #composeLegacy(at: number, { status, vlanTag }: WriteBack, length: number, isLast: boolean): void {
    const words = this.#descriptor;
    words[0] = this.#fetch.words[at]!;
    words[1] = this.#fetch.words[at + 1]!;
    words[2] = length;
    const errors = (status >>> 24) << 8;
    words[3] = isLast ? (status & 0xff) | RXD_DONE_LAST | errors | (vlanTag << 16) : RXD_DONE;
  }

  /** The ring is not to be believed: the queue stops, until the host enables it again. */
  #break(what: string): number {
    const { registers, interrupts, onFault } = this.#host;
    registers.set(RXDCTL(this.index), registers.get(RXDCTL(this.index)) & ~RXDCTL_ENABLE);
    this.#fetch.clear();
    interrupts.raise(EICR_PCI_EXCEPTION);
    onFault(`receive queue ${this.index} stops: ${what}`);
    return NOT_TAKEN;
  }
}
