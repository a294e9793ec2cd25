/**
 * The way of a frame from the MAC to the host's memory (82599 datasheet §7.1): filters, VLAN, which queue, checksums.
 *
 *     MAC ──► filters ──► Flow Director, RSS ──► packet buffer (a frame waits here for descriptors) ──► queue ──► interrupt
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
  RSS_TYPE_FLOW_DIRECTOR,
  RXD_ERR_IPE,
  RXD_ERR_TCPE,
  RXD_PKTTYPE_SHIFT,
  RXD_STAT_FLM,
  RXD_STAT_LB,
  RXD_STAT_VP,
} from '../descriptors.ts';
import {
  DCA_RXCTRL,
  EICR_FLOW_DIRECTOR,
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
  RXCSUM_IPPCSE,
  RXCSUM_PCSD,
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
import { FlowDirector } from './flow-director.ts';
import { defineKeptRegisters } from './kept-registers.ts';
import { PacketBuffer } from './packet-buffer.ts';
import { NO_TAG, PacketHeaders } from './packet-headers.ts';
import { fragmentChecksum, receiveChecksums } from './receive-checksum.ts';
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
/** The longest frame that MAXFRS can allow. */
const SCRATCH_BYTES = 0x10000;

export class ReceiveEngine {
  readonly filters: ReceiveFilters;
  readonly #host: EngineHost;
  readonly #scaling: ReceiveSideScaling;
  readonly #director: FlowDirector;
  readonly #queues: ReceiveQueue[] = [];
  readonly #headers = new PacketHeaders();
  readonly #back: WriteBack = { info: 0, hash: 0, status: 0, vlanTag: 0 };
  readonly #buffer = new PacketBuffer();
  #draining = false;
  /** Where a frame is put together that does not go to memory as it came. */
  #scratch = new Uint8Array(SCRATCH_BYTES);

  constructor(host: EngineHost) {
    this.#host = host;
    const { registers } = host;
    this.filters = new ReceiveFilters(registers);
    this.#scaling = new ReceiveSideScaling(registers);
    this.#director = new FlowDirector(registers, () => host.interrupts.raise(EICR_FLOW_DIRECTOR));
    for (let n = 0; n < QUEUES; n++) {
      const queue = new ReceiveQueue(n, host);
      registers.onWrite(RDT(n), () => {
        queue.checkTail();
        this.#drain();
      });
      registers.onWrite(RXDCTL(n), () => this.#drain());
      registers.onWrite(SRRCTL(n), () => this.#drain());
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
    defineKeptRegisters(registers);
    host.mac.onFrame = (frame, loopback, isControl = false) => this.#receive(frame, loopback, isControl);
  }

  /** As after a reset of the card: the registers are the register file's to reset. */
  reset(): void {
    this.#buffer.clear();
    this.#scaling.reset();
    this.#director.reset();
    for (const queue of this.#queues) queue.reset();
  }

  #receive(wire: Uint8Array, loopback: boolean, isControl: boolean): void {
    const { registers, statistics, interrupts } = this.#host;
    if (wire.length < MIN_BYTES || (registers.get(RXCTRL) & RXCTRL_RXEN) === 0) return;
    if ((registers.get(SECRXCTRL) & SECRXCTRL_RX_DIS) !== 0) return;
    const headers = this.#headers;
    headers.parse(wire, this.filters.tagType);
    if (!this.filters.accepts(wire, headers)) return;
    if (!isControl) statistics.received(wire);
    this.#scaling.look(wire, headers);
    this.#director.look(wire, headers);
    const { queue: directed, drops } = this.#director;
    const queue = this.#queues[directed < 0 ? this.#scaling.queue : directed]!;
    // Where it drops there is no queue, by custom. (One that is there takes it.)
    if (drops && !queue.enabled) return;
    this.#describe(wire, loopback);
    const frame = this.#finish(wire, queue);
    if (this.#buffer.isEmpty) {
      const result = queue.deliver(frame, this.#back);
      if (result !== NO_DESCRIPTORS || queue.drops) {
        this.#tell(result, queue, frame.length);
        return;
      }
    }
    const room = (registers.get(RXPBSIZE(0)) >>> RXPBSIZE_SIZE_SHIFT) * KIB;
    if (this.#buffer.add({ frame, back: this.#back, queue }, room)) {
      this.#host.mac.bufferLevel(this.#buffer.bytes);
      return;
    }
    statistics.missed();
    interrupts.raise(EICR_RX_MISS);
  }

  /** Gives frames that wait to their queues, in order, until one has to wait again. */
  #drain(): void {
    // An interrupt may lead the host here again: the loop that is there goes on with what it changed.
    if (this.#draining) return;
    this.#draining = true;
    try {
      for (let held = this.#buffer.first; held !== undefined; held = this.#buffer.first) {
        const { frame, back, queue } = held;
        const result = queue.deliver(frame, back);
        if (result === NO_DESCRIPTORS && !queue.drops) return;
        this.#buffer.take();
        this.#host.mac.bufferLevel(this.#buffer.bytes);
        this.#tell(result, queue, frame.length);
      }
    } finally {
      this.#draining = false;
    }
  }

  #tell(result: number, { index }: ReceiveQueue, bytes: number): void {
    const { statistics, interrupts } = this.#host;
    if (result === DELIVERED) {
      statistics.queueReceived(index, bytes);
      interrupts.receive(index);
    } else statistics.queueDropped(index);
  }

  /** Fills the write-back of the frame whose headers were parsed. */
  #describe(frame: Uint8Array, loopback: boolean): void {
    const { hasOptions, isIpv4, isIpv6, isTcp, isUdp } = this.#headers;
    const back = this.#back;
    let type = 0;
    if (isIpv4) type = hasOptions ? PKTTYPE_IPV4 | PKTTYPE_IPV4_OPTIONS : PKTTYPE_IPV4;
    else if (isIpv6) type = hasOptions ? PKTTYPE_IPV6 | PKTTYPE_IPV6_EXTENSIONS : PKTTYPE_IPV6;
    type |= (isTcp ? PKTTYPE_TCP : 0) | (isUdp ? PKTTYPE_UDP : 0);
    const { reports, matched } = this.#director;
    back.info = (reports ? RSS_TYPE_FLOW_DIRECTOR : this.#scaling.type) | (type << RXD_PKTTYPE_SHIFT);
    back.hash = this.#hashOrFragment(frame);
    back.status = receiveChecksums(frame, this.#headers) | (matched ? RXD_STAT_FLM : 0);
    if ((back.status & (RXD_ERR_TCPE | RXD_ERR_IPE)) !== 0) this.#host.statistics.checksumError();
    if (loopback) back.status = (back.status | RXD_STAT_LB) >>> 0;
    back.vlanTag = 0;
  }

  /** The second word of a write-back: the RSS hash, or what helps to check a datagram in fragments (§7.1.6.2, §7.1.8). */
  #hashOrFragment(frame: Uint8Array): number {
    const control = this.#host.registers.get(RXCSUM);
    if ((control & RXCSUM_PCSD) !== 0) return this.#director.reports ? this.#director.report : this.#scaling.hash;
    const { isIpv4, isFragment } = this.#headers;
    return (control & RXCSUM_IPPCSE) !== 0 && isIpv4 && isFragment ? fragmentChecksum(frame, this.#headers) : 0;
  }

  /** What goes into memory, which is the caller's until the next frame: without the VLAN tag where the queue strips it, and with a CRC where that is not stripped. */
  #finish(frame: Uint8Array, queue: ReceiveQueue): Uint8Array {
    const { registers } = this.#host;
    const { vlanTag } = this.#headers;
    const stripsTag = vlanTag !== NO_TAG && queue.strips;
    const stripsCrc =
      (registers.get(HLREG0) & HLREG0_RXCRCSTRP) !== 0 || (registers.get(RDRXCTL) & RDRXCTL_CRC_STRIP) !== 0;
    if (vlanTag !== NO_TAG) this.#back.status = (this.#back.status | RXD_STAT_VP) >>> 0;
    if (stripsTag) this.#back.vlanTag = vlanTag;
    if (!stripsTag && stripsCrc) return frame;
    if (this.#scratch.length < frame.length + CRC_BYTES) this.#scratch = new Uint8Array(frame.length + CRC_BYTES);
    const scratch = this.#scratch;
    let length = frame.length;
    if (stripsTag) {
      scratch.set(frame.subarray(0, ADDRESSES_BYTES));
      scratch.set(frame.subarray(ADDRESSES_BYTES + VLAN_TAG_LENGTH), ADDRESSES_BYTES);
      length -= VLAN_TAG_LENGTH;
    } else scratch.set(frame);
    if (!stripsCrc) {
      // As it was on the wire: over the tag too. Its lowest byte goes first (IEEE 802.3 §3.2.9).
      new DataView(scratch.buffer).setUint32(length, crc32(frame), true);
      length += CRC_BYTES;
    }
    return scratch.subarray(0, length);
  }
}
