/**
 * A receive and a transmit queue of the card: their memory, which the card and the lane that owns the queue both reach, and
 * their registers (82599 datasheet §4.6.7.1, §4.6.8.1). The descriptors are the lane's.
 */
import { close } from '../../linux/file.ts';
import { MAP_SHARED, memfd, mmap, munmap, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';
import { DESCRIPTOR_BYTES } from '../descriptors.ts';
import type { DmaMapping, PciDevice } from '../pci/pci-device.ts';
import {
  DCA_RXCTRL,
  RDBAH,
  RDBAL,
  RDH,
  RDLEN,
  RDT,
  RXDCTL,
  RXDCTL_ENABLE,
  SRRCTL,
  SRRCTL_DESCTYPE_ADVANCED_ONE_BUFFER,
  SRRCTL_DROP_EN,
  TDBAH,
  TDBAL,
  TDH,
  TDLEN,
  TDT,
  TXDCTL,
  TXDCTL_ENABLE,
  TXDCTL_HTHRESH_SHIFT,
  TXDCTL_PTHRESH_SHIFT,
} from '../registers.ts';
import type { CardRegisters } from './card-registers.ts';
import { BUFFER_BYTES, busAddress, type QueueLayout } from './queue-memory.ts';

const KIB = 1024;
const WORD = 2 ** 32;
const HUGE_PAGE_BYTES = 2 ** 21;
/** Reserved, 1 after reset, to be cleared (§4.6.7). */
const DCA_RXCTRL_RESERVED = 1 << 12;
/** Fetch descriptors early and by eights (§7.2.3.4); write back each that asks for it (WTHRESH 0). */
const PREFETCH = 32;
const HOST_THRESHOLD = 8;
/** How long a queue takes to go on and off, in ms; and what its memory is left alone for afterwards (100 µs, §4.6.7.1.2). */
const SWITCH_MS = 100;
const DRAIN_MS = 1;

export interface QueuePairOptions {
  device: PciDevice;
  registers: CardRegisters;
  index: number;
  layout: QueueLayout;
  /** Frames without a descriptor are dropped, rather than holding up those of other queues. */
  drop: boolean;
  hugepages: boolean;
}

export class QueuePair {
  readonly fd: number;
  readonly mapping: DmaMapping;
  readonly #address: number;
  readonly #options: QueuePairOptions;
  #started = false;
  #freed = false;

  /** Makes the memory, and tells the card of it. Both queues are off. Throws Error that says what to do where there is none. */
  constructor(options: QueuePairOptions) {
    const { device, layout, index, hugepages } = options;
    const { length } = layout;
    this.#options = options;
    let fd = -1;
    let address = -1;
    try {
      fd = memfd(`ringswitch-nic-${index}`, length, hugepages);
      address = mmap({ length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED, fd });
    } catch (error) {
      if (fd >= 0) close(fd);
      if (!hugepages) throw error;
      throw new Error(
        `${device.name}: queue ${index} wants ${length / HUGE_PAGE_BYTES} hugepages of 2 MiB: ${(error as Error).message}; ` +
          'reserve as many for each queue in /proc/sys/vm/nr_hugepages',
      );
    }
    try {
      this.mapping = device.mapDma({ fd, address, length });
    } catch (error) {
      munmap(address, length);
      close(fd);
      throw error;
    }
    this.fd = fd;
    this.#address = address;
    try {
      this.#program();
    } catch (error) {
      this.free();
      throw error;
    }
  }

  #program(): void {
    const { registers, index: n, layout, drop } = this.#options;
    const rx = busAddress(this.mapping, layout.rxRing);
    registers.write(RDBAL(n), rx % WORD);
    registers.write(RDBAH(n), Math.floor(rx / WORD));
    registers.write(RDLEN(n), layout.rxDescriptors * DESCRIPTOR_BYTES);
    registers.write(SRRCTL(n), BUFFER_BYTES / KIB + SRRCTL_DESCTYPE_ADVANCED_ONE_BUFFER + (drop ? SRRCTL_DROP_EN : 0));
    registers.clear(DCA_RXCTRL(n), DCA_RXCTRL_RESERVED);
    const tx = busAddress(this.mapping, layout.txRing);
    registers.write(TDBAL(n), tx % WORD);
    registers.write(TDBAH(n), Math.floor(tx / WORD));
    registers.write(TDLEN(n), layout.txDescriptors * DESCRIPTOR_BYTES);
    registers.write(TXDCTL(n), (PREFETCH << TXDCTL_PTHRESH_SHIFT) | (HOST_THRESHOLD << TXDCTL_HTHRESH_SHIFT));
  }

  /**
   * Switches both queues on, empty: whoever has filled the descriptors writes RDT afterwards. Nothing, when they are on.
   * Throws Error that names the queue that did not go on; then both are off.
   */
  start(): void {
    if (this.#started) return;
    const { registers, index: n } = this.#options;
    for (const offset of [RDH(n), RDT(n), TDH(n), TDT(n)]) registers.write(offset, 0);
    this.#started = true;
    try {
      registers.set(TXDCTL(n), TXDCTL_ENABLE);
      registers.await(TXDCTL(n), TXDCTL_ENABLE, TXDCTL_ENABLE, SWITCH_MS, `switching on transmit queue ${n}`);
      registers.set(RXDCTL(n), RXDCTL_ENABLE);
      registers.await(RXDCTL(n), RXDCTL_ENABLE, RXDCTL_ENABLE, SWITCH_MS, `switching on receive queue ${n}`);
    } catch (error) {
      // Half of a pair is of no use, and whoever tries again must find it off.
      if (!registers.gone) this.requestStop();
      throw error;
    }
  }

  /** Switches both queues off; {@link awaitStopped} says when they are. What was not sent yet is lost. */
  requestStop(): void {
    const { registers, index: n } = this.#options;
    this.#started = false;
    registers.clear(RXDCTL(n), RXDCTL_ENABLE);
    registers.clear(TXDCTL(n), TXDCTL_ENABLE);
  }

  /** Waits until the card does not touch the memory any more. */
  awaitStopped(): void {
    const { registers, index: n } = this.#options;
    registers.await(RXDCTL(n), RXDCTL_ENABLE, 0, SWITCH_MS, `switching off receive queue ${n}`);
    registers.await(TXDCTL(n), TXDCTL_ENABLE, 0, SWITCH_MS, `switching off transmit queue ${n}`);
    registers.clock.sleep(DRAIN_MS);
  }

  /** Gives the memory back: the card must not reach for it any more. May be called twice. */
  free(): void {
    if (this.#freed) return;
    this.#freed = true;
    const { device, layout } = this.#options;
    try {
      device.unmapDma(this.mapping);
    } finally {
      munmap(this.#address, layout.length);
      close(this.fd);
    }
  }
}
