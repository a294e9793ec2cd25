/**
 * The way of a frame from the MAC to the host's memory (82599 datasheet §7.1): filters, VLAN, RSS, checksums, a queue.
 *
 *     MAC ──► filters ──► packet buffer (a frame waits here for descriptors) ──► queue ──► interrupt
 */
import { crc32 } from 'node:zlib';
import { VLAN_TAG_LENGTH } from '../../packet/header-fields.ts';
import {
  PKTTYPE_IPV4,
  PKTTYPE_IPV4_OPTIONS,
  PKTTYPE_IPV6,
  PKTTYPE_IPV6_EXTENSIONS,
  PKTTYPE_TCP,
  PKTTYPE_UDP,
  RXD_ERR_IPE,
  RXD_ERR_TCPE,
  RXD_PKTTYPE_SHIFT,
  RXD_STAT_LB,
  RXD_STAT_VP,
} from '../descriptors.ts';
import {
  DCA_RXCTRL,
  EICR_RX_MISS,
  ETQF,
  ETQS,
  HLREG0,
  HLREG0_RXCRCSTRP,
  PSRTYPE,
  QUEUES,
  RDRXCTL,
  RDRXCTL_CRC_STRIP,
  RDRXCTL_DMAIDONE,
  RDT,
  RFCTL,
  RTRUP2TC,
  RXCSUM,
  RXCTRL,
  RXCTRL_RXEN,
  RXDCTL,
  RXPBSIZE,
  RXPBSIZE_SIZE_SHIFT,
  SECRXCTRL,
  SECRXCTRL_RX_DIS,
  SECRXSTAT,
  SECRXSTAT_SECRX_RDY,
  SRRCTL,
  SYNQF,
} from '../registers.ts';
import type { EngineHost } from './engine-host.ts';
import { NO_TAG, PacketHeaders } from './packet-headers.ts';
import { receiveChecksums } from './receive-checksum.ts';
import { ReceiveFilters } from './receive-filters.ts';
import { DELIVERED, NO_DESCRIPTORS, ReceiveQueue, type WriteBack } from './receive-queue.ts';
import { ReceiveSideScaling } from './receive-side-scaling.ts';

/** RXPBSIZE(0) after reset: all 512 KiB in one buffer. */
const PACKET_BUFFER_KIB = 0x200;
const PACKET_BUFFERS = 8;
const KIB = 1024;
const ADDRESSES_BYTES = 12;
const CRC_BYTES = 4;
const MIN_BYTES = 14;
/** Where the 82598 had these registers of the first sixteen queues; drivers of the 82599 use them still. */
const LEGACY_QUEUES = 16;
const SRRCTL_LEGACY = (n: number): number => 0x02100 + 4 * n;
const DCA_RXCTRL_LEGACY = (n: number): number => 0x02200 + 4 * n;
const PSRTYPE_LEGACY = (n: number): number => 0x05480 + 4 * n;
const PSRTYPES = 64;
const ETQFS = 8;

/** A frame that waits for descriptors. */
interface Held {
  frame: Uint8Array;
  back: WriteBack;
  queue: ReceiveQueue;
}

export class ReceiveEngine {
  readonly filters: ReceiveFilters;
  readonly #host: EngineHost;
  readonly #scaling: ReceiveSideScaling;
  readonly #queues: ReceiveQueue[] = [];
  readonly #headers = new PacketHeaders();
  readonly #back: WriteBack = { info: 0, hash: 0, status: 0, vlanTag: 0 };
  /** The packet buffer, in order of arrival. */
  #held: Held[] = [];
  #heldBytes = 0;

  constructor(host: EngineHost) {
    this.#host = host;
    const { registers } = host;
    this.filters = new ReceiveFilters(registers);
    this.#scaling = new ReceiveSideScaling(registers);
    for (let n = 0; n < QUEUES; n++) {
      const queue = new ReceiveQueue(n, host);
      registers.onWrite(RDT(n), () => this.#drain());
      registers.onWrite(RXDCTL(n), () => this.#drain());
      this.#queues.push(queue);
    }
    for (let n = 0; n < LEGACY_QUEUES; n++) {
      registers.alias(SRRCTL_LEGACY(n), SRRCTL(n));
      registers.alias(DCA_RXCTRL_LEGACY(n), DCA_RXCTRL(n));
      registers.alias(PSRTYPE_LEGACY(n), PSRTYPE(n));
    }
    for (let n = 0; n < PSRTYPES; n++) registers.define(PSRTYPE(n));
    for (let n = 0; n < ETQFS; n++) {
      registers.define(ETQF(n));
      registers.define(ETQS(n));
    }
    for (let n = 0; n < PACKET_BUFFERS; n++) {
      registers.define(RXPBSIZE(n), { initial: n === 0 ? PACKET_BUFFER_KIB << RXPBSIZE_SIZE_SHIFT : 0 });
    }
    registers.define(RXCTRL);
    registers.define(RXCSUM);
    registers.define(RFCTL);
    registers.define(RTRUP2TC);
    registers.define(SYNQF);
    registers.define(RDRXCTL, { read: (stored) => stored | RDRXCTL_DMAIDONE });
    registers.define(SECRXCTRL);
    registers.define(SECRXSTAT, { read: () => SECRXSTAT_SECRX_RDY });
    host.mac.onFrame = (frame, loopback) => this.#receive(frame, loopback);
  }

  /** As after a reset of the card: the registers are the register file's to reset. */
  reset(): void {
    this.#held = [];
    this.#heldBytes = 0;
    this.#scaling.reset();
    for (const queue of this.#queues) queue.reset();
  }

  #receive(wire: Uint8Array, loopback: boolean): void {
    const { registers, statistics, interrupts } = this.#host;
    if (wire.length < MIN_BYTES || (registers.get(RXCTRL) & RXCTRL_RXEN) === 0) return;
    if ((registers.get(SECRXCTRL) & SECRXCTRL_RX_DIS) !== 0) return;
    const headers = this.#headers;
    headers.parse(wire, this.filters.tagType);
    if (!this.filters.accepts(wire, headers)) return;
    this.#scaling.look(wire, headers);
    const queue = this.#queues[this.#scaling.queue]!;
    this.#describe(wire, loopback);
    const frame = this.#finish(wire, queue);
    if (this.#held.length === 0) {
      const result = queue.deliver(frame, this.#back);
      if (result === DELIVERED) this.#delivered(queue, frame);
      else if (result !== NO_DESCRIPTORS) statistics.queueDropped(queue.index);
      if (result !== NO_DESCRIPTORS) return;
    }
    if (queue.drops) {
      statistics.queueDropped(queue.index);
      return;
    }
    const room = (registers.get(RXPBSIZE(0)) >>> RXPBSIZE_SIZE_SHIFT) * KIB;
    if (this.#heldBytes + frame.length > room) {
      statistics.missed();
      interrupts.raise(EICR_RX_MISS);
      return;
    }
    this.#held.push({ frame: frame.slice(), back: { ...this.#back }, queue });
    this.#heldBytes += frame.length;
  }

  /** Gives frames that wait to their queues, in order, until one has to wait again. */
  #drain(): void {
    let done = 0;
    for (const { frame, back, queue } of this.#held) {
      const result = queue.deliver(frame, back);
      if (result === NO_DESCRIPTORS) break;
      if (result === DELIVERED) this.#delivered(queue, frame);
      else this.#host.statistics.queueDropped(queue.index);
      this.#heldBytes -= frame.length;
      done++;
    }
    if (done > 0) this.#held = this.#held.slice(done);
  }

  #delivered({ index }: ReceiveQueue, frame: Uint8Array): void {
    this.#host.statistics.queueReceived(index, frame.length);
    this.#host.interrupts.receive(index);
  }

  /** Fills the write-back of the frame whose headers were parsed. */
  #describe(frame: Uint8Array, loopback: boolean): void {
    const { hasOptions, isIpv4, isIpv6, isTcp, isUdp } = this.#headers;
    const back = this.#back;
    let type = 0;
    if (isIpv4) type = hasOptions ? PKTTYPE_IPV4 | PKTTYPE_IPV4_OPTIONS : PKTTYPE_IPV4;
    else if (isIpv6) type = hasOptions ? PKTTYPE_IPV6 | PKTTYPE_IPV6_EXTENSIONS : PKTTYPE_IPV6;
    type |= (isTcp ? PKTTYPE_TCP : 0) | (isUdp ? PKTTYPE_UDP : 0);
    back.info = this.#scaling.type | (type << RXD_PKTTYPE_SHIFT);
    back.hash = this.#scaling.hash;
    back.status = receiveChecksums(frame, this.#headers);
    if ((back.status & (RXD_ERR_TCPE | RXD_ERR_IPE)) !== 0) this.#host.statistics.checksumError();
    if (loopback) back.status = (back.status | RXD_STAT_LB) >>> 0;
    back.vlanTag = 0;
  }

  /** What goes into memory: without the VLAN tag where the queue strips it, and with a CRC where that is not stripped. */
  #finish(frame: Uint8Array, queue: ReceiveQueue): Uint8Array {
    const { registers } = this.#host;
    const { vlanTag } = this.#headers;
    let result = frame;
    if (vlanTag !== NO_TAG) {
      this.#back.status = (this.#back.status | RXD_STAT_VP) >>> 0;
      if (queue.strips) {
        this.#back.vlanTag = vlanTag;
        result = new Uint8Array(frame.length - VLAN_TAG_LENGTH);
        result.set(frame.subarray(0, ADDRESSES_BYTES));
        result.set(frame.subarray(ADDRESSES_BYTES + VLAN_TAG_LENGTH), ADDRESSES_BYTES);
      }
    }
    const strips =
      (registers.get(HLREG0) & HLREG0_RXCRCSTRP) !== 0 || (registers.get(RDRXCTL) & RDRXCTL_CRC_STRIP) !== 0;
    if (strips) return result;
    const whole = new Uint8Array(result.length + CRC_BYTES);
    whole.set(result);
    new DataView(whole.buffer).setUint32(result.length, crc32(frame), true);
    return whole;
  }
}
