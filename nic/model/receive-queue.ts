/**
 * One receive queue (82599 datasheet §7.1.4 to §7.1.9, §8.2.3.8): frames go into the buffers of its ring's descriptors, which
 * are then written back.
 *
 *     RDH … RDT - 1 are the card's. RDH = RDT: there are none, and a frame waits (or is dropped, SRRCTL.DROP_EN).
 */
import { DESCRIPTOR_BYTES } from '../descriptors.ts';
import {
  DCA_RXCTRL,
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

export class ReceiveQueue {
  readonly index: number;
  readonly #host: EngineHost;
  readonly #fetch: DescriptorFetch;
  readonly #descriptor = new Uint32Array(4);
  readonly #descriptorBytes = new Uint8Array(this.#descriptor.buffer);

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

  /**
   * Writes a frame into as many buffers as it takes. NO_DESCRIPTORS: it may come again when RDT has moved;
   * NOT_TAKEN: the queue is off, or the host's ring is broken, which was told then.
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
      this.#compose(back, part.length, done === frame.length, isLegacy);
      if (!bus.write(base + head * DESCRIPTOR_BYTES, this.#descriptorBytes)) {
        return this.#break(`descriptor ${head} at ${hex(base + head * DESCRIPTOR_BYTES)} cannot be written`);
      }
      head = (head + 1) % size;
      available--;
    }
    registers.set(RDH(index), head);
    return DELIVERED;
  }

  /** The write-back format: advanced (§7.1.6.2), or legacy (§7.1.5). */
  #compose({ info, hash, status, vlanTag }: WriteBack, length: number, isLast: boolean, isLegacy: boolean): void {
    const words = this.#descriptor;
    const tag = (vlanTag << 16) >>> 0;
    const done = isLast ? RXD_DONE_LAST : RXD_DONE;
    if (isLegacy) {
      // Length and fragment checksum; then eight bits of status and as many of errors.
      words[2] = length;
      words[3] = (((isLast ? status & 0xff : 0) | done | (isLast ? (status >>> 24) << 8 : 0)) >>> 0) | tag;
      return;
    }
    words[0] = isLast ? info : 0;
    words[1] = isLast ? hash : 0;
    words[2] = ((isLast ? status : 0) | done) >>> 0;
    words[3] = (length | (isLast ? tag : 0)) >>> 0;
  }

  #break(what: string): number {
    const { registers, onFault } = this.#host;
    registers.set(RXDCTL(this.index), registers.get(RXDCTL(this.index)) & ~RXDCTL_ENABLE);
    onFault(`receive queue ${this.index} stops: ${what}`);
    return NOT_TAKEN;
  }
}

/** RXD_STAT_DD, and with it RXD_STAT_EOP. */
const RXD_DONE = 1;
const RXD_DONE_LAST = 3;
