/**
 * One transmit queue (82599 datasheet §7.2.3, §8.2.3.9): descriptors from TDH to TDT become frames, as soon as TDT moves.
 *
 *     fetch ──► context: keep it   data: gather ──► EOP: offloads, segments, MAC ──► write back, interrupt
 *
 * Written back (§7.2.3.5) is, with TXDCTL.WTHRESH = 0, each descriptor that has RS. Else all of them, RS or not: when WTHRESH have
 * accumulated, when the interval of the queue's interrupt (EITR) is over, or when TXDCTL.SWFLSH asks for it. Where TDH is written to
 * memory (TDWBAL) WTHRESH means nothing, for it has to be 0 then.
 */

import { finish, sum } from '../../packet/checksum.ts';
import {
  DESCRIPTOR_BYTES,
  LEGACY_CMD_IC,
  LEGACY_CSO_SHIFT,
  TXD_CMD_DEXT,
  TXD_CMD_EOP,
  TXD_CMD_RS,
  TXD_CMD_TSE,
  TXD_CMD_VLE,
  TXD_DTALEN_MASK,
  TXD_DTYP_CONTEXT,
  TXD_DTYP_DATA,
  TXD_DTYP_MASK,
  TXD_IDX_SHIFT,
  TXD_PAYLEN_MASK,
  TXD_PAYLEN_SHIFT,
  TXD_POPTS_IXSM,
  TXD_POPTS_TXSM,
  TXD_STAT_DD,
} from '../descriptors.ts';
import {
  DCA_TXCTRL,
  DMATXCTL,
  DMATXCTL_TE,
  DMATXCTL_VT_SHIFT,
  DTXTCPFLGH,
  DTXTCPFLGL,
  EICR_PCI_EXCEPTION,
  TDBAH,
  TDBAL,
  TDH,
  TDLEN,
  TDT,
  TDWBAH,
  TDWBAL,
  TDWBAL_HEAD_WB_EN,
  TXDCTL,
  TXDCTL_ENABLE,
  TXDCTL_SWFLSH,
  TXDCTL_THRESH_MASK,
  TXDCTL_WTHRESH_SHIFT,
} from '../registers.ts';
import type { EngineHost } from './engine-host.ts';
import { setWord } from './packet-headers.ts';
import { busAddressOf, DescriptorFetch, hex } from './queue-memory.ts';
import { TransmitContext } from './transmit-context.ts';
import { contradiction, insertChecksums, insertTag, segment, type Wishes } from './transmit-offloads.ts';

const ALIGNMENT = 128;
/** The longest frame that is gathered: the width of PAYLEN. */
const MAX_BYTES = TXD_PAYLEN_MASK;
const MIN_BYTES = 14;
const CONTEXTS = 2;
const CSUM_BYTES = 2;
const FLAGS_MASK = 0xff;
const MIDDLE_SHIFT = 16;
const STATUS_OFFSET = 12;
const NOTHING = new Uint8Array(0);

export class TransmitQueue {
  readonly index: number;
  readonly #host: EngineHost;
  readonly #fetch: DescriptorFetch;
  readonly #contexts = Array.from({ length: CONTEXTS }, () => new TransmitContext());
  readonly #none = new TransmitContext();
  /** The frame at hand. Most of the 128 queues never have one, and no memory for it. */
  #frame = NOTHING;
  readonly #done = new Uint32Array(1);
  #length = 0;
  /** Of the frame at hand: its first descriptor's words, and whether something about it is wrong. */
  #command = 0;
  #options = 0;
  #started = false;
  #bad = '';
  /** Descriptors that it has taken so far. */
  #descriptors = 0;
  /** Whether a bad frame was told of: a host that sends nothing else is not to fill the log. */
  #toldBad = false;
  #running = false;
  readonly #onStall: (queue: TransmitQueue) => void;
  /** Descriptors before TDH that are done and not written back. */
  #accumulated = 0;
  /** Takes the timer back that writes them back. */
  #cancelFlush: (() => void) | null = null;

  /** `onStall` is told when the MAC has no room: {@link run} is to be called when it has. */
  constructor(index: number, host: EngineHost, onStall: (queue: TransmitQueue) => void) {
    this.#onStall = onStall;
    this.index = index;
    this.#host = host;
    this.#fetch = new DescriptorFetch(host.bus);
    const { registers } = host;
    const moved = (value: number): number => {
      this.#fetch.clear();
      this.#endFrame();
      this.#forgetDone();
      return value;
    };
    registers.define(TDBAL(index), { writable: ~(ALIGNMENT - 1), write: moved });
    registers.define(TDBAH(index), { write: moved });
    registers.define(TDLEN(index), { writable: 0xfff80, write: moved });
    registers.define(DCA_TXCTRL(index));
    registers.define(TDH(index), { writable: 0xffff, write: moved });
    registers.define(TDT(index), { writable: 0xffff });
    registers.define(TXDCTL(index), {
      write: (written) => {
        const flushed = (written & TXDCTL_SWFLSH) === 0 || this.#flush();
        const value = (written & ~(flushed ? TXDCTL_SWFLSH : TXDCTL_SWFLSH | TXDCTL_ENABLE)) >>> 0;
        if ((value & TXDCTL_ENABLE) !== 0) return value;
        this.#toldBad = false;
        return moved(value);
      },
    });
    registers.define(TDWBAL(index));
    registers.define(TDWBAH(index));
    registers.onWrite(TDT(index), () => this.run());
    registers.onWrite(TXDCTL(index), () => this.run());
  }

  /** Forgets frames and contexts: the card was reset. */
  reset(): void {
    this.#fetch.clear();
    this.#endFrame();
    this.#forgetDone();
    this.#toldBad = false;
    for (const context of this.#contexts) context.load(0, 0, 0);
  }

  /** Sends what there is. What is sent may lead to writes of TDT: they are seen in the same run. */
  run(): void {
    if (this.#running) return;
    this.#running = true;
    try {
      while (this.#step());
    } finally {
      this.#running = false;
    }
  }

  /** Takes a descriptor. False: there is none, or the queue is off. */
  #step(): boolean {
    const { registers } = this.#host;
    const { index } = this;
    if ((registers.get(TXDCTL(index)) & TXDCTL_ENABLE) === 0 || (registers.get(DMATXCTL) & DMATXCTL_TE) === 0)
      return false;
    const head = registers.get(TDH(index));
    const tail = registers.get(TDT(index));
    if (head === tail) return false;
    if (!this.#started && !this.#host.mac.ready) {
      this.#onStall(this);
      return false;
    }
    const size = registers.get(TDLEN(index)) / DESCRIPTOR_BYTES;
    if (head >= size || tail >= size) return this.#break(`TDH ${head} and TDT ${tail} in a ring of ${size}`);
    const base = busAddressOf(registers.get(TDBAL(index)), registers.get(TDBAH(index)));
    const at = this.#fetch.at(base, head, tail > head ? tail - head : size - head);
    if (at < 0) return this.#break(`no memory at ${hex(base + head * DESCRIPTOR_BYTES)}, descriptor ${head}`);
    const { words } = this.#fetch;
    const [word0, word1, word2, word3] = [words[at]!, words[at + 1]!, words[at + 2]!, words[at + 3]!];
    registers.set(TDH(index), (head + 1) % size);
    const isAdvanced = (word2 & TXD_CMD_DEXT) !== 0;
    if (isAdvanced && (word2 & TXD_DTYP_MASK) === TXD_DTYP_CONTEXT) {
      this.#contexts[(word3 >>> TXD_IDX_SHIFT) & 1]!.load(word0, word2, word3);
      return this.#finish(base, head, false);
    }
    if (isAdvanced && (word2 & TXD_DTYP_MASK) !== TXD_DTYP_DATA) {
      return this.#break(`descriptor ${head} is of no type (${hex(word2)})`);
    }
    if (!this.#started) {
      this.#started = true;
      this.#command = word2;
      this.#options = word3;
    }
    this.#descriptors++;
    if (this.#descriptors >= size && (word2 & TXD_CMD_EOP) === 0) {
      return this.#break(`descriptors ${head} and ${size - 1} before it are of one frame that does not end`);
    }
    if (!this.#gather(busAddressOf(word0, word1), word2 & TXD_DTALEN_MASK)) {
      return this.#break(`no memory at ${hex(busAddressOf(word0, word1))}, the buffer of descriptor ${head}`);
    }
    if ((word2 & TXD_CMD_EOP) !== 0) {
      this.#send(head, isAdvanced, word2, word3);
      this.#endFrame();
    }
    return this.#finish(base, head, (word2 & TXD_CMD_RS) !== 0);
  }

  /** Descriptor `head` is done. False: the queue has stopped. */
  #finish(base: number, head: number, hasRs: boolean): boolean {
    const { registers, interrupts, clock } = this.#host;
    const { index } = this;
    const threshold = (registers.get(TXDCTL(index)) >>> TXDCTL_WTHRESH_SHIFT) & TXDCTL_THRESH_MASK;
    const byHead = (registers.get(TDWBAL(index)) & TDWBAL_HEAD_WB_EN) !== 0;
    if (threshold === 0 || byHead) return hasRs ? this.#writeBack(base, head) : true;
    this.#accumulated++;
    // A ring that is smaller than the threshold has to go on, too.
    const size = registers.get(TDLEN(index)) / DESCRIPTOR_BYTES;
    if (this.#accumulated >= Math.min(threshold, size - 1)) return this.#flush();
    if (this.#cancelFlush !== null) return true;
    const us = interrupts.transmitDelay(index);
    if (us >= 0) {
      this.#cancelFlush = clock.after(us, () => {
        this.#cancelFlush = null;
        this.#flush();
      });
    }
    return true;
  }

  /** Writes back what has accumulated, in order, and interrupts. False: the queue has stopped. */
  #flush(): boolean {
    const count = this.#accumulated;
    if (count === 0) return true;
    const { registers, bus, interrupts } = this.#host;
    const { index } = this;
    this.#forgetDone();
    const size = registers.get(TDLEN(index)) / DESCRIPTOR_BYTES;
    const base = busAddressOf(registers.get(TDBAL(index)), registers.get(TDBAH(index)));
    const head = registers.get(TDH(index));
    this.#done[0] = TXD_STAT_DD;
    for (let n = count; n > 0; n--) {
      const at = (head - n + size) % size;
      const address = base + at * DESCRIPTOR_BYTES + STATUS_OFFSET;
      if (!bus.writeWords(address, this.#done, 0)) {
        return this.#break(`the write-back of descriptor ${at} to ${hex(address)} finds no memory`);
      }
    }
    interrupts.transmit(index);
    return true;
  }

  #forgetDone(): void {
    this.#accumulated = 0;
    this.#cancelFlush?.();
    this.#cancelFlush = null;
  }

  #gather(address: number, length: number): boolean {
    if (this.#length + length > MAX_BYTES) {
      this.#bad = `it is longer than ${MAX_BYTES} bytes`;
      return true;
    }
    if (length === 0) return true;
    if (this.#frame === NOTHING) this.#frame = new Uint8Array(MAX_BYTES);
    if (!this.#host.bus.read(address, this.#frame.subarray(this.#length, this.#length + length))) return false;
    this.#length += length;
    return true;
  }

  #endFrame(): void {
    this.#length = 0;
    this.#started = false;
    this.#bad = '';
    this.#descriptors = 0;
  }

  #send(head: number, isAdvanced: boolean, last: number, options: number): void {
    const frame = this.#frame.subarray(0, this.#length);
    if (frame.length < MIN_BYTES) this.#bad ||= `it has ${frame.length} bytes`;
    if (this.#bad === '') this.#bad = isAdvanced ? this.#sendAdvanced(frame) : this.#sendLegacy(frame, last, options);
    if (this.#bad === '') return;
    this.#host.interrupts.raise(EICR_PCI_EXCEPTION);
    if (this.#toldBad) return;
    this.#toldBad = true;
    const what = `transmit queue ${this.index}: the frame that ends in descriptor ${head} is dropped: ${this.#bad}`;
    this.#host.onFault(`${what}; more such frames go without a word until the queue is disabled`);
  }

  /** Gives why it cannot be sent, or ''. */
  #sendAdvanced(frame: Uint8Array): string {
    const options = this.#options;
    const wishes: Wishes = {
      insertIpChecksum: (options & TXD_POPTS_IXSM) !== 0,
      insertL4Checksum: (options & TXD_POPTS_TXSM) !== 0,
      segment: (this.#command & TXD_CMD_TSE) !== 0,
    };
    const tags = (this.#command & TXD_CMD_VLE) !== 0;
    const needsContext = wishes.insertIpChecksum || wishes.insertL4Checksum || wishes.segment || tags;
    const context = needsContext ? this.#contexts[(options >>> TXD_IDX_SHIFT) & 1]! : this.#none;
    const wrong = contradiction(frame.length, context, wishes);
    if (wrong !== '') return wrong;
    const { macLength, ipLength, l4Length } = context;
    const payload = wishes.segment ? frame.length - macLength - ipLength - l4Length : frame.length;
    const said = (options >>> TXD_PAYLEN_SHIFT) & TXD_PAYLEN_MASK;
    if (said !== payload) return `PAYLEN is ${said}, and its buffers have ${payload} bytes`;
    if (wishes.segment)
      segment(frame, context, wishes, this.#flagMasks(), (part) => this.#emit(part, tags, context.vlanTag));
    else {
      insertChecksums(frame, context, wishes);
      this.#emit(frame, tags, context.vlanTag);
    }
    return '';
  }

  /** A legacy descriptor's checksum goes from CSS to the end, into CSO (§7.2.3.2.1). */
  #sendLegacy(frame: Uint8Array, last: number, options: number): string {
    if ((last & LEGACY_CMD_IC) !== 0) {
      const offset = (last >>> LEGACY_CSO_SHIFT) & 0xff;
      const start = (options >>> 8) & 0xff;
      if (offset + CSUM_BYTES > frame.length || start >= frame.length) {
        return `a checksum from ${start} into ${offset} of ${frame.length} bytes`;
      }
      setWord(frame, offset, finish(sum(frame, start, frame.length, 0)));
    }
    this.#emit(frame, (last & TXD_CMD_VLE) !== 0, options >>> 16);
    return '';
  }

  #emit(frame: Uint8Array, tag: boolean, vlanTag: number): void {
    const tagType = this.#host.registers.get(DMATXCTL) >>> DMATXCTL_VT_SHIFT;
    const whole = tag ? insertTag(frame, tagType, vlanTag) : frame;
    this.#host.statistics.queueTransmitted(this.index, whole.length);
    this.#host.mac.transmit(whole);
  }

  #flagMasks(): { first: number; middle: number; last: number } {
    const { registers } = this.#host;
    const low = registers.get(DTXTCPFLGL);
    return {
      first: low & FLAGS_MASK,
      middle: (low >>> MIDDLE_SHIFT) & FLAGS_MASK,
      last: registers.get(DTXTCPFLGH) & FLAGS_MASK,
    };
  }

  /** Says that descriptor `head` and those before it are done: by its DD, or where the driver wants it by TDH in memory. */
  #writeBack(base: number, head: number): boolean {
    const { registers, bus, interrupts } = this.#host;
    const { index } = this;
    const low = registers.get(TDWBAL(index));
    const byHead = (low & TDWBAL_HEAD_WB_EN) !== 0;
    this.#done[0] = byHead ? registers.get(TDH(index)) : TXD_STAT_DD;
    const address = byHead
      ? busAddressOf(low & ~3, registers.get(TDWBAH(index)))
      : base + head * DESCRIPTOR_BYTES + STATUS_OFFSET;
    if (!bus.writeWords(address, this.#done, 0)) {
      return this.#break(`the write-back of descriptor ${head} to ${hex(address)} finds no memory`);
    }
    interrupts.transmit(index);
    return true;
  }

  /** The ring is not to be believed: the queue stops. */
  #break(what: string): false {
    const { registers, interrupts, onFault } = this.#host;
    registers.set(TXDCTL(this.index), registers.get(TXDCTL(this.index)) & ~TXDCTL_ENABLE);
    this.#fetch.clear();
    this.#endFrame();
    this.#forgetDone();
    interrupts.raise(EICR_PCI_EXCEPTION);
    onFault(`transmit queue ${this.index} stops: ${what}`);
    return false;
  }
}
