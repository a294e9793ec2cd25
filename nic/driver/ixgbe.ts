/**
 * The driver of Intel's 82599 (and its X520 siblings; X540 as far as one register map serves): everything but the frames,
 * which receive-ring.ts and transmit-ring.ts move on the threads that own the queues.
 *
 *     open() ── reset and init (§4.6.3) ── queue(n): memory for a lane ── startQueue(n) ── start() ──► frames
 *                                                                   stop() ── close(): the card is as it was found
 *
 * All methods wait rather than give way: they take some ms, and nobody else may touch the card meanwhile.
 */
import { close } from '../../linux/file.ts';
import { MAP_SHARED, memfd, mmap, munmap, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';
import { DESCRIPTOR_BYTES } from '../descriptors.ts';
import type { DmaMapping, PciDevice, RegisterAccess } from '../pci/pci-device.ts';
import {
  CTRL,
  CTRL_EXT,
  CTRL_EXT_DRV_LOAD,
  CTRL_LRST,
  CTRL_PCIE_MASTER_DISABLE,
  CTRL_RST,
  DEVICE_82599_BACKPLANE,
  DEVICE_82599_CX4,
  DEVICE_82599_SFP,
  DEVICE_82599_T3_LOM,
  DEVICE_82599_XAUI_LOM,
  DEVICE_X540,
  DMATXCTL,
  DMATXCTL_TE,
  DTXMXSZRQ,
  EEC,
  EEC_AUTO_RD,
  EIAC,
  EIAM_EX,
  EICR,
  EICR_ECC,
  EICR_LSC,
  EICR_PCI_EXCEPTION,
  EICS,
  EIMC,
  EIMC_EX,
  EIMS,
  EITR,
  EITR_INTERVAL_SHIFT,
  FCCFG,
  FCCFG_TFCE_802_3X,
  FCRTH,
  FCRTH_FCEN,
  FCRTL,
  FCTTV,
  GONE,
  GPIE,
  GPIE_EIAME,
  GPIE_MSIX_MODE,
  GPIE_OCD,
  GPIE_PBA_SUPPORT,
  HLREG0,
  HLREG0_JUMBOEN,
  HLREG0_RXCRCSTRP,
  HLREG0_TXCRCEN,
  HLREG0_TXPADEN,
  INTEL_VENDOR_ID,
  IVAR,
  IVAR_ALLOC_VALID,
  IVAR_MISC,
  MAXFRS,
  MAXFRS_MFS_SHIFT,
  MFLCN,
  MFLCN_RFCE,
  RDBAH,
  RDBAL,
  RDH,
  RDLEN,
  RDRXCTL,
  RDRXCTL_CRC_STRIP,
  RDRXCTL_DMAIDONE,
  RDRXCTL_RSC_FRST_SIZE_MASK,
  RDRXCTL_RSCACKC,
  RDT,
  RTTDCS,
  RTTDCS_ARBDIS,
  RXCSUM,
  RXCSUM_IPPCSE,
  RXCSUM_PCSD,
  RXCTRL,
  RXCTRL_RXEN,
  RXDCTL,
  RXDCTL_ENABLE,
  RXPBSIZE,
  RXPBSIZE_SIZE_SHIFT,
  SECRXCTRL,
  SECRXCTRL_RX_DIS,
  SECRXSTAT,
  SECRXSTAT_SECRX_RDY,
  SRRCTL,
  SRRCTL_DESCTYPE_ADVANCED_ONE_BUFFER,
  SRRCTL_DROP_EN,
  STATUS,
  STATUS_PCIE_MASTER_ENABLE,
  TDBAH,
  TDBAL,
  TDH,
  TDLEN,
  TDT,
  TXDCTL,
  TXDCTL_ENABLE,
  TXDCTL_HTHRESH_SHIFT,
  TXDCTL_PTHRESH_SHIFT,
  TXPBSIZE,
} from '../registers.ts';
import { CardRegisters, type DriverClock, hex } from './card-registers.ts';
import { Link, type LinkState } from './link.ts';
import { BUFFER_BYTES, busAddress, type QueueLayout, queueLayout } from './queue-memory.ts';
import { ReceiveFilters } from './receive-filters.ts';
import { setUpRss, symmetricKey } from './rss.ts';
import { CardStatistics } from './statistics.ts';

/** PCI device ids that this register map serves. */
const DRIVEN: ReadonlySet<number> = new Set([
  DEVICE_82599_SFP,
  DEVICE_82599_BACKPLANE,
  DEVICE_82599_CX4,
  DEVICE_82599_T3_LOM,
  DEVICE_82599_XAUI_LOM,
  DEVICE_X540,
]);
/** Queues that RSS can reach. */
export const MAX_QUEUES = 16;
const DEFAULT_DESCRIPTORS = 512;
/** Without the CRC: what every card takes, and the longest of all (§3.7.3.2 allows for 15.5 KiB). */
const MIN_FRAME_BYTES = 1518;
const MAX_FRAME_BYTES = 9728;
const CRC_BYTES = 4;
/** Queues and bits of registers. */
const ALL_QUEUES = 0x7fffffff;
const EXTENDED_WORDS = 2;
/** Causes in EICR that are no queue's. */
const OTHER_CAUSES = 0x7fff0000;
/** How long the card may take, in ms: for a reset, for what it reads from its EEPROM, for a queue, for requests on the bus. */
const RESET_MS = 100;
const RESET_SETTLE_MS = 10;
const AUTO_READ_MS = 1000;
const QUEUE_MS = 100;
const MASTER_MS = 800;
/** Interrupts of a queue are this far apart at least, in units of 2 µs. */
const INTERRUPT_INTERVAL = 5;
/** One packet buffer for all (§4.6.11.3.4): 512 KiB to receive, 160 KiB to send, the latter in KiB from bit 10 on. */
const RX_PACKET_BUFFER_KIB = 512;
const TX_PACKET_BUFFER = 0xa0 << 10;
const PACKET_BUFFERS = 8;
const MAX_REQUESTS = 0xfff;
/** Fetch descriptors early and by eights (§7.2.3.4); write back each that asks for it (WTHRESH 0). */
const PREFETCH = 32;
const HOST_THRESHOLD = 8;
/** Pause frames: the longest time, and the fill of the packet buffer that they are sent at and taken back at, in bytes. */
const PAUSE_QUANTA = 0xffff;
const PAUSE_HIGH_BYTES = (RX_PACKET_BUFFER_KIB - 64) * 1024;
const PAUSE_LOW_BYTES = (RX_PACKET_BUFFER_KIB - 128) * 1024;

export interface IxgbeOptions {
  /** Queue pairs: 1 to 16. */
  queues: number;
  /** Of each ring: a power of two from 64 to 4096. Default 512. */
  rxDescriptors?: number;
  txDescriptors?: number;
  /** The longest frame without its CRC, a VLAN tag included. Default 1518. */
  maxFrameBytes?: number;
  /** Take every frame, whatever its address. */
  promiscuous?: boolean;
  /** 40 bytes; by default one that gives both directions of a flow the same queue. */
  rssKey?: Uint8Array;
  clock: DriverClock;
}

/** What a thread needs to run a queue pair. */
export interface CardQueueAccess {
  /** The queue's memory, the card's to close. */
  fd: number;
  layout: QueueLayout;
  mapping: DmaMapping;
  registerAccess: RegisterAccess;
  /** Offsets of RDT and TDT. */
  rxTail: number;
  txTail: number;
  /** Its MSI-X vector. */
  vector: number;
}

interface Queue {
  fd: number;
  address: number;
  mapping: DmaMapping;
}

export class Ixgbe {
  readonly filters: ReceiveFilters;
  readonly #device: PciDevice;
  readonly #registers: CardRegisters;
  readonly #link: Link;
  readonly #statistics: CardStatistics;
  readonly #layout: QueueLayout;
  readonly #maxFrameBytes: number;
  readonly #queueCount: number;
  readonly #queues: Queue[] = [];
  #closed = false;

  /**
   * Takes a card: resets and initializes it. Throws Error for a card that this does not drive, for options out of range, when
   * memory cannot be had, and when the card does not do what it should; `device` is the caller's to close then.
   */
  static open(device: PciDevice, options: IxgbeOptions): Ixgbe {
    const { vendorId, deviceId, name } = device;
    if (vendorId !== INTEL_VENDOR_ID || !DRIVEN.has(deviceId)) {
      const known = [...DRIVEN].map((id) => `8086:${id.toString(16)}`).join(', ');
      throw new Error(
        `${name} is ${pciId(vendorId)}:${pciId(deviceId)}, which this driver does not know; it knows ${known}`,
      );
    }
    const card = new Ixgbe(device, options);
    try {
      card.#initialize(options);
      return card;
    } catch (error) {
      card.#letGo();
      throw error;
    }
  }

  private constructor(device: PciDevice, options: IxgbeOptions) {
    const { queues, rxDescriptors = DEFAULT_DESCRIPTORS, txDescriptors = DEFAULT_DESCRIPTORS, clock } = options;
    const { maxFrameBytes = MIN_FRAME_BYTES } = options;
    if (!Number.isInteger(queues) || queues < 1 || queues > MAX_QUEUES) {
      throw new RangeError(`${device.name}: 1 to ${MAX_QUEUES} queues, not ${queues}`);
    }
    if (!(maxFrameBytes >= 64 && maxFrameBytes <= MAX_FRAME_BYTES)) {
      throw new RangeError(`${device.name}: frames of 64 to ${MAX_FRAME_BYTES} bytes, not ${maxFrameBytes}`);
    }
    this.#device = device;
    this.#queueCount = queues;
    this.#layout = queueLayout(rxDescriptors, txDescriptors);
    this.#maxFrameBytes = Math.max(maxFrameBytes, MIN_FRAME_BYTES);
    this.#registers = new CardRegisters(device, clock);
    this.#link = new Link(this.#registers, device.deviceId);
    this.#statistics = new CardStatistics(this.#registers, queues);
    this.filters = new ReceiveFilters(this.#registers);
  }

  // ---- the order of §4.6.3

  #initialize({ promiscuous = false, rssKey = symmetricKey() }: IxgbeOptions): void {
    this.#device.setBusMaster(true);
    this.#disableInterrupts();
    this.#reset();
    this.#disableInterrupts();
    const registers = this.#registers;
    registers.await(EEC, EEC_AUTO_RD, EEC_AUTO_RD, AUTO_READ_MS, 'reading the EEPROM');
    registers.await(RDRXCTL, RDRXCTL_DMAIDONE, RDRXCTL_DMAIDONE, AUTO_READ_MS, 'starting the DMA engine');
    registers.set(CTRL_EXT, CTRL_EXT_DRV_LOAD);
    this.filters.reset();
    this.filters.setPromiscuous(promiscuous);
    this.#initializeFlowControl();
    this.#initializeReceive(rssKey);
    this.#initializeTransmit();
    this.#initializeInterrupts();
    this.#statistics.reset();
    for (let n = 0; n < this.#queueCount; n++) this.#makeQueue(n);
    this.#link.start();
  }

  /** Device and link reset (§4.2.1.7); the card answers nothing for a moment. */
  #reset(): void {
    const registers = this.#registers;
    registers.set(CTRL, CTRL_RST | CTRL_LRST);
    registers.clock.sleep(RESET_SETTLE_MS);
    registers.await(CTRL, CTRL_RST | CTRL_LRST, 0, RESET_MS, 'the reset');
    registers.clock.sleep(RESET_SETTLE_MS);
  }

  #disableInterrupts(): void {
    const registers = this.#registers;
    registers.write(EIMC, ALL_QUEUES);
    for (let n = 0; n < EXTENDED_WORDS; n++) registers.write(EIMC_EX(n), GONE);
    registers.read(EICR);
  }

  /** 802.3x pause frames both ways (§3.7.7.3). */
  #initializeFlowControl(): void {
    const registers = this.#registers;
    registers.write(MFLCN, MFLCN_RFCE);
    registers.write(FCCFG, FCCFG_TFCE_802_3X);
    registers.write(FCTTV(0), PAUSE_QUANTA);
    registers.write(FCRTL(0), PAUSE_LOW_BYTES);
    registers.write(FCRTH(0), PAUSE_HIGH_BYTES + FCRTH_FCEN);
  }

  /** §4.6.7, with the packet buffer in one piece. */
  #initializeReceive(rssKey: Uint8Array): void {
    const registers = this.#registers;
    registers.clear(RXCTRL, RXCTRL_RXEN);
    registers.write(RXPBSIZE(0), RX_PACKET_BUFFER_KIB << RXPBSIZE_SIZE_SHIFT);
    for (let n = 1; n < PACKET_BUFFERS; n++) registers.write(RXPBSIZE(n), 0);
    registers.set(HLREG0, HLREG0_RXCRCSTRP | HLREG0_TXCRCEN | HLREG0_TXPADEN | HLREG0_JUMBOEN);
    registers.write(MAXFRS, (this.#maxFrameBytes + CRC_BYTES) * 2 ** MAXFRS_MFS_SHIFT);
    const rdrxctl = registers.read(RDRXCTL) & ~RDRXCTL_RSC_FRST_SIZE_MASK;
    registers.write(RDRXCTL, rdrxctl | RDRXCTL_CRC_STRIP | RDRXCTL_RSCACKC);
    registers.write(RXCSUM, RXCSUM_PCSD | RXCSUM_IPPCSE);
    setUpRss(registers, this.#queueCount, rssKey);
  }

  /** §4.6.8. */
  #initializeTransmit(): void {
    const registers = this.#registers;
    registers.set(RTTDCS, RTTDCS_ARBDIS);
    registers.write(TXPBSIZE(0), TX_PACKET_BUFFER);
    for (let n = 1; n < PACKET_BUFFERS; n++) registers.write(TXPBSIZE(n), 0);
    registers.write(DTXMXSZRQ, MAX_REQUESTS);
    registers.clear(RTTDCS, RTTDCS_ARBDIS);
    registers.set(DMATXCTL, DMATXCTL_TE);
  }

  /** Vector n for both directions of queue n, and the next one for everything else (§7.3.4.3). */
  #initializeInterrupts(): void {
    const registers = this.#registers;
    registers.write(GPIE, GPIE_MSIX_MODE + GPIE_OCD + GPIE_EIAME + GPIE_PBA_SUPPORT);
    for (let n = 0; n < this.#queueCount; n += 2) {
      registers.write(IVAR(n / 2), ivarEntry(n) | (n + 1 < this.#queueCount ? ivarEntry(n + 1) * 2 ** 16 : 0));
    }
    for (let n = 0; n <= this.#queueCount; n++) registers.write(EITR(n), INTERRUPT_INTERVAL << EITR_INTERVAL_SHIFT);
    registers.write(IVAR_MISC, (this.#queueCount | IVAR_ALLOC_VALID) << 8);
    const vectors = 2 ** this.#queueCount - 1;
    registers.write(EIAC, vectors);
    registers.write(EIAM_EX(0), vectors);
  }

  #makeQueue(n: number): void {
    const { length } = this.#layout;
    const fd = memfd(`ringswitch-nic-${n}`, length, this.#device.needsHugepages);
    let address: number;
    try {
      address = mmap({ length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED, fd });
    } catch (error) {
      close(fd);
      const { message } = error as Error;
      if (!this.#device.needsHugepages) throw error;
      throw new Error(
        `${this.#device.name}: ${length / 2 ** 21} hugepages of 2 MiB are wanted for queue ${n}: ${message}; reserve them in ` +
          '/proc/sys/vm/nr_hugepages',
      );
    }
    try {
      this.#queues.push({ fd, address, mapping: this.#device.mapDma({ fd, address, length }) });
    } catch (error) {
      munmap(address, length);
      close(fd);
      throw error;
    }
    this.#programQueue(n);
  }

  /** Tells the card where a queue's rings lie; they are still off. */
  #programQueue(n: number): void {
    const registers = this.#registers;
    const { rxRing, txRing, rxDescriptors, txDescriptors } = this.#layout;
    const { mapping } = this.#queues[n]!;
    const rx = busAddress(mapping, rxRing);
    registers.write(RDBAL(n), rx % 2 ** 32);
    registers.write(RDBAH(n), Math.floor(rx / 2 ** 32));
    registers.write(RDLEN(n), rxDescriptors * DESCRIPTOR_BYTES);
    registers.write(RDH(n), 0);
    registers.write(RDT(n), 0);
    // With several queues, one whose lane is slow must not hold up the others.
    const drop = this.#queueCount > 1 ? SRRCTL_DROP_EN : 0;
    registers.write(SRRCTL(n), BUFFER_BYTES / 1024 + SRRCTL_DESCTYPE_ADVANCED_ONE_BUFFER + drop);
    const tx = busAddress(mapping, txRing);
    registers.write(TDBAL(n), tx % 2 ** 32);
    registers.write(TDBAH(n), Math.floor(tx / 2 ** 32));
    registers.write(TDLEN(n), txDescriptors * DESCRIPTOR_BYTES);
    registers.write(TDH(n), 0);
    registers.write(TDT(n), 0);
    registers.write(TXDCTL(n), (PREFETCH << TXDCTL_PTHRESH_SHIFT) | (HOST_THRESHOLD << TXDCTL_HTHRESH_SHIFT));
  }

  // ---- running

  /** What a thread needs to run queue `n`. */
  queue(n: number): CardQueueAccess {
    const { fd, mapping } = this.#queues[n]!;
    const { registerAccess } = this.#device;
    return { fd, layout: this.#layout, mapping, registerAccess, rxTail: RDT(n), txTail: TDT(n), vector: n };
  }

  /** Switches both rings of a queue on. Its owner has filled the descriptors, and writes RDT afterwards. */
  startQueue(n: number): void {
    const registers = this.#registers;
    registers.set(TXDCTL(n), TXDCTL_ENABLE);
    registers.await(TXDCTL(n), TXDCTL_ENABLE, TXDCTL_ENABLE, QUEUE_MS, `switching on transmit queue ${n}`);
    registers.set(RXDCTL(n), RXDCTL_ENABLE);
    registers.await(RXDCTL(n), RXDCTL_ENABLE, RXDCTL_ENABLE, QUEUE_MS, `switching on receive queue ${n}`);
  }

  /** Switches both rings of a queue off: when it returns the card does not touch its memory any more. */
  stopQueue(n: number): void {
    const registers = this.#registers;
    registers.clear(RXDCTL(n), RXDCTL_ENABLE);
    registers.clear(TXDCTL(n), TXDCTL_ENABLE);
    registers.await(RXDCTL(n), RXDCTL_ENABLE, 0, QUEUE_MS, `switching off receive queue ${n}`);
    registers.await(TXDCTL(n), TXDCTL_ENABLE, 0, QUEUE_MS, `switching off transmit queue ${n}`);
  }

  /** Lets frames in, and link changes interrupt. Queues that were started may receive from now on. */
  start(): void {
    const registers = this.#registers;
    registers.set(SECRXCTRL, SECRXCTRL_RX_DIS);
    registers.await(SECRXSTAT, SECRXSTAT_SECRX_RDY, SECRXSTAT_SECRX_RDY, QUEUE_MS, 'emptying the receive path');
    registers.set(RXCTRL, RXCTRL_RXEN);
    registers.clear(SECRXCTRL, SECRXCTRL_RX_DIS);
    registers.write(EIMS, EICR_LSC | EICR_ECC | EICR_PCI_EXCEPTION);
  }

  /** What has happened besides frames; call it at each interrupt of the last vector, or now and then. */
  handleInterrupt(): { linkChanged: boolean; fault: string | null } {
    const registers = this.#registers;
    // EICS reads as EICR does and clears nothing: the queues' causes are their lanes'.
    const causes = registers.read(EICS) & OTHER_CAUSES;
    registers.write(EICR, causes);
    registers.write(EIMS, EICR_LSC | EICR_ECC | EICR_PCI_EXCEPTION);
    let fault: string | null = null;
    if ((causes & EICR_ECC) !== 0)
      fault = 'the card found an error in its memory (EICR.ECC): frames may be lost; reset it';
    else if ((causes & EICR_PCI_EXCEPTION) !== 0) {
      fault = 'the card could not carry out a transfer (EICR.PCI): a descriptor or buffer was refused';
    }
    return { linkChanged: (causes & EICR_LSC) !== 0, fault };
  }

  /** The link as it is now. Throws CardGoneError when the card does not answer. */
  link(): LinkState {
    this.#registers.read(STATUS);
    return this.#link.state();
  }

  /** The card's counters, added up since it was opened: names as `ethtool -S` has them. Call it every minute or so. */
  statistics(): Record<string, number> {
    return this.#statistics.poll();
  }

  /** The card's own address: six bytes. */
  get macAddress(): Uint8Array {
    return this.filters.macAddress;
  }

  /** The card did not answer: nothing but {@link close} makes sense. */
  get gone(): boolean {
    return this.#registers.gone;
  }

  /** No more frames, either way; the link goes. May be called at any time; what a card that is gone does not do is no matter. */
  stop(): void {
    if (this.#closed || this.gone) return;
    try {
      this.#disableInterrupts();
      this.#registers.clear(RXCTRL, RXCTRL_RXEN);
      for (let n = 0; n < this.#queues.length; n++) this.stopQueue(n);
      this.#registers.clear(DMATXCTL, DMATXCTL_TE);
      this.#link.stop();
    } catch (error) {
      if (!this.gone) throw error;
    }
  }

  /** Stops the card and gives it back; the queues' memory goes. May be called twice, and never throws. */
  close(): void {
    if (this.#closed) return;
    try {
      this.stop();
      this.#quiesce();
    } catch {
      // A card that does not stop in time is stopped by taking the bus from it, below.
    }
    this.#letGo();
    this.#closed = true;
    this.#device.close();
  }

  /** §5.2.5.3.2: no request of the card is on the bus any more. */
  #quiesce(): void {
    if (this.gone) return;
    const registers = this.#registers;
    registers.clear(CTRL_EXT, CTRL_EXT_DRV_LOAD);
    registers.set(CTRL, CTRL_PCIE_MASTER_DISABLE);
    registers.await(STATUS, STATUS_PCIE_MASTER_ENABLE, 0, MASTER_MS, 'the end of requests on the bus');
  }

  #letGo(): void {
    this.#device.setBusMaster(false);
    for (const { fd, address, mapping } of this.#queues.splice(0)) {
      this.#device.unmapDma(mapping);
      munmap(address, this.#layout.length);
      close(fd);
    }
  }
}

/** Receive and transmit of queue `n` go to vector `n`: the lower half of an IVAR register. */
function ivarEntry(n: number): number {
  return n | IVAR_ALLOC_VALID | ((n | IVAR_ALLOC_VALID) << 8);
}

function pciId(id: number): string {
  return hex(id).slice(2).padStart(4, '0');
}
