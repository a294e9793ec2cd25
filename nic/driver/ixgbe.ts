/**
 * The driver of Intel's 82599 (and its X520 siblings; X540 as far as one register map serves): everything but the frames,
 * which receive-ring.ts and transmit-ring.ts move on the threads that own the queues.
 *
 *     open() ── reset and init (§4.6.3) ── queue(n): memory for a lane ── startQueue(n) ── start() ──► frames
 *                                              ▲                                             │
 *                                              └─────────────────── stop() ◄─────────────────┘
 *     close(): from anywhere; the card is as it was found
 *
 * All methods wait rather than give way: they take some ms, and nobody else may touch the card meanwhile. A card that vanishes
 * makes them throw CardGoneError; {@link Ixgbe.gone} says so from then on, and only close() makes sense.
 */
import type { DmaMapping, PciDevice, RegisterAccess } from '../pci/pci-device.ts';
import {
  CTRL_EXT,
  CTRL_EXT_DRV_LOAD,
  DEVICE_82599_BACKPLANE,
  DEVICE_82599_CX4,
  DEVICE_82599_SFP,
  DEVICE_82599_T3_LOM,
  DEVICE_82599_XAUI_LOM,
  DEVICE_X540,
  INTEL_VENDOR_ID,
  RDT,
  TDT,
} from '../registers.ts';
import { CardRegisters, type DriverClock } from './card-registers.ts';
import { type FlowControl, setFlowControl } from './flow-control.ts';
import { type CardEvents, disableInterrupts, enableEvents, initializeInterrupts, takeEvents } from './interrupts.ts';
import { Link, type LinkState } from './link.ts';
import { type QueueLayout, queueLayout } from './queue-memory.ts';
import { QueuePair } from './queue-pair.ts';
import { ReceiveFilters } from './receive-filters.ts';
import { disableReceive, enableReceive, initializeReceive } from './receive-path.ts';
import { disableMaster, resetCard } from './reset.ts';
import { setUpRss, symmetricKey } from './rss.ts';
import { CardStatistics } from './statistics.ts';
import { disableTransmit, enableTransmit, initializeTransmit } from './transmit-path.ts';

/** Packet buffer for receiving, in KiB: of the 82599 and of the X540. */
const PACKET_BUFFER_KIB = 512;
const X540_PACKET_BUFFER_KIB = 384;
/** PCI device ids that this register map serves, and the packet buffer of each. */
const DRIVEN: ReadonlyMap<number, number> = new Map([
  [DEVICE_82599_SFP, PACKET_BUFFER_KIB],
  [DEVICE_82599_BACKPLANE, PACKET_BUFFER_KIB],
  [DEVICE_82599_CX4, PACKET_BUFFER_KIB],
  [DEVICE_82599_T3_LOM, PACKET_BUFFER_KIB],
  [DEVICE_82599_XAUI_LOM, PACKET_BUFFER_KIB],
  [DEVICE_X540, X540_PACKET_BUFFER_KIB],
]);
/** Queues that RSS can reach. */
export const MAX_QUEUES = 16;
const DEFAULT_DESCRIPTORS = 512;
/** Without the CRC: what every card takes, and the longest of all (§3.7.3.2 allows for 15.5 KiB). */
const MIN_FRAME_BYTES = 1518;
const MAX_FRAME_BYTES = 9728;

export interface IxgbeOptions {
  /** Queue pairs: 1 to 16. */
  queues: number;
  /** Of each ring: a power of two from 64 to 4096. Default 512. */
  rxDescriptors?: number;
  txDescriptors?: number;
  /** The longest frame without its CRC, a VLAN tag included; 1518 at the least. Default 1518. */
  maxFrameBytes?: number;
  /** Memory of hugepages also where the device could do without. Default false. */
  hugepages?: boolean;
  /** Take every frame, whatever its address. Default false. */
  promiscuous?: boolean;
  /** Pause frames. Default both ways. */
  flowControl?: FlowControl;
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
  /** Its MSI-X vector; the one behind the last queue's is for everything else. */
  vector: number;
}

export class Ixgbe {
  readonly filters: ReceiveFilters;
  readonly #device: PciDevice;
  readonly #registers: CardRegisters;
  readonly #link: Link;
  readonly #statistics: CardStatistics;
  readonly #layout: QueueLayout;
  readonly #packetBufferKib: number;
  readonly #maxFrameBytes: number;
  readonly #queueCount: number;
  readonly #queues: QueuePair[] = [];
  #stopped = false;
  #closed = false;

  /**
   * Takes a card: resets and initializes it, and starts its link. Throws Error for a card that this does not drive, for options
   * out of range, when memory cannot be had, and when the card does not do what it should; `device` is the caller's to close
   * then.
   */
  static open(device: PciDevice, options: IxgbeOptions): Ixgbe {
    const { vendorId, deviceId, name } = device;
    const packetBufferKib = vendorId === INTEL_VENDOR_ID ? DRIVEN.get(deviceId) : undefined;
    if (packetBufferKib === undefined) {
      const known = [...DRIVEN.keys()].map((id) => `${pciId(INTEL_VENDOR_ID)}:${pciId(id)}`).join(', ');
      throw new Error(
        `${name} is ${pciId(vendorId)}:${pciId(deviceId)}, which this driver does not know; it knows ${known}`,
      );
    }
    const card = new Ixgbe(device, packetBufferKib, options);
    try {
      card.#initialize(options);
      return card;
    } catch (error) {
      card.#closed = true;
      attempt(() => card.#link.setDown());
      card.#letGo();
      throw error;
    }
  }

  private constructor(device: PciDevice, packetBufferKib: number, options: IxgbeOptions) {
    const { queues, rxDescriptors = DEFAULT_DESCRIPTORS, txDescriptors = DEFAULT_DESCRIPTORS, clock } = options;
    const { maxFrameBytes = MIN_FRAME_BYTES } = options;
    if (!Number.isInteger(queues) || queues < 1 || queues > MAX_QUEUES) {
      throw new RangeError(`${device.name}: 1 to ${MAX_QUEUES} queues, not ${queues}`);
    }
    if (!Number.isInteger(maxFrameBytes) || maxFrameBytes < 0 || maxFrameBytes > MAX_FRAME_BYTES) {
      throw new RangeError(`${device.name}: frames of ${MAX_FRAME_BYTES} bytes at the most, not ${maxFrameBytes}`);
    }
    this.#device = device;
    this.#packetBufferKib = packetBufferKib;
    this.#queueCount = queues;
    this.#layout = queueLayout(rxDescriptors, txDescriptors);
    this.#maxFrameBytes = Math.max(maxFrameBytes, MIN_FRAME_BYTES);
    this.#registers = new CardRegisters(device, clock);
    this.#link = new Link(this.#registers, device.deviceId);
    this.#statistics = new CardStatistics(this.#registers, queues);
    this.filters = new ReceiveFilters(this.#registers);
  }

  /** The order of §4.6.3; receiving and interrupts begin with {@link start}. */
  #initialize({ promiscuous = false, rssKey = symmetricKey(), flowControl, hugepages = false }: IxgbeOptions): void {
    const registers = this.#registers;
    this.#device.setBusMaster(true);
    disableInterrupts(registers);
    resetCard(registers);
    disableInterrupts(registers);
    registers.set(CTRL_EXT, CTRL_EXT_DRV_LOAD);
    this.#link.setUp();
    this.#statistics.reset();
    this.filters.reset();
    this.filters.setPromiscuous(promiscuous);
    initializeReceive(registers, this.#packetBufferKib, this.#maxFrameBytes);
    setUpRss(registers, this.#queueCount, rssKey);
    this.setFlowControl(flowControl ?? { receive: true, send: true });
    initializeTransmit(registers);
    for (let n = 0; n < this.#queueCount; n++) this.#queues.push(this.#makeQueue(n, hugepages));
    initializeInterrupts(registers, this.#queueCount);
    registers.check();
  }

  #makeQueue(index: number, hugepages: boolean): QueuePair {
    return new QueuePair({
      device: this.#device,
      registers: this.#registers,
      index,
      layout: this.#layout,
      // With several queues, one whose lane is slow must not hold up the others.
      drop: this.#queueCount > 1,
      hugepages: hugepages || this.#device.needsHugepages,
    });
  }

  /** What a thread needs to run queue `n`. Throws RangeError where there is none. */
  queue(n: number): CardQueueAccess {
    const { fd, mapping } = this.#pair(n);
    const { registerAccess } = this.#device;
    return { fd, layout: this.#layout, mapping, registerAccess, rxTail: RDT(n), txTail: TDT(n), vector: n };
  }

  #pair(n: number): QueuePair {
    const pair = this.#queues[n];
    if (pair !== undefined) return pair;
    const why = this.#closed ? 'the card is closed' : `its queues are 0 to ${this.#queueCount - 1}`;
    throw new RangeError(`${this.#device.name}: there is no queue ${n}: ${why}`);
  }

  /**
   * Switches both rings of a queue on, with RDT and TDT 0. Its owner has filled the descriptors, and writes RDT afterwards.
   * Nothing, when they are on.
   */
  startQueue(n: number): void {
    const pair = this.#pair(n);
    if (this.#stopped) {
      this.#stopped = false;
      this.#device.setBusMaster(true);
      enableTransmit(this.#registers);
      this.#link.setUp();
    }
    pair.start();
  }

  /** Switches both rings of a queue off: when it returns the card does not touch its memory any more. */
  stopQueue(n: number): void {
    const pair = this.#pair(n);
    pair.requestStop();
    pair.awaitStopped();
  }

  /** Lets frames in, and link changes interrupt. Queues that were started may receive from now on. */
  start(): void {
    enableReceive(this.#registers);
    enableEvents(this.#registers);
  }

  /** What has happened besides frames; call it at each interrupt of the last vector, or now and then. */
  handleInterrupt(): CardEvents {
    return takeEvents(this.#registers);
  }

  /** The link as it is now. Throws CardGoneError when the card does not answer. */
  link(): LinkState {
    this.#registers.check();
    return this.#link.state();
  }

  /** Has the link come up, or go, for the other side too; see link.ts for cards that cannot let it go. */
  setLink(up: boolean): void {
    if (up) this.#link.setUp();
    else this.#link.setDown();
    this.#registers.check();
  }

  /** Which way pause frames go. */
  setFlowControl(flowControl: FlowControl): void {
    setFlowControl(this.#registers, this.#packetBufferKib, flowControl);
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

  /**
   * No more frames, either way, and the link goes: when it returns the card does not touch the queues' memory. Never throws. A
   * card that does not stop when asked is taken off the bus, and the Error says what it did not do. {@link startQueue} and
   * {@link start} bring everything back.
   */
  stop(): Error | null {
    if (this.#closed || this.#stopped || this.gone) return null;
    this.#stopped = true;
    const registers = this.#registers;
    const failed = [
      attempt(() => {
        disableInterrupts(registers);
        disableReceive(registers);
        for (const pair of this.#queues) pair.requestStop();
        for (const pair of this.#queues) pair.awaitStopped();
        disableTransmit(registers);
      }),
      attempt(() => this.#link.setDown()),
    ].find((error) => error !== null);
    if (failed === undefined || this.gone) return null;
    attempt(() => this.#device.setBusMaster(false));
    return failed;
  }

  /** Stops the card and gives it back; the queues' memory goes. May be called at any time, twice too, and never throws. */
  close(): void {
    if (this.#closed) return;
    this.stop();
    this.#closed = true;
    this.#letGo();
    attempt(() => this.#device.close());
  }

  /** Each step, whatever became of those before: a card that does not do what it is asked to is stopped by taking it off the bus. */
  #letGo(): void {
    const registers = this.#registers;
    if (!this.gone) {
      attempt(() => disableMaster(registers));
      attempt(() => registers.clear(CTRL_EXT, CTRL_EXT_DRV_LOAD));
    }
    attempt(() => this.#device.setBusMaster(false));
    for (const pair of this.#queues.splice(0)) attempt(() => pair.free());
  }
}

/** What `step` threw; null when it did not. */
function attempt(step: () => void): Error | null {
  try {
    step();
    return null;
  } catch (error) {
    return error as Error;
  }
}

function pciId(id: number): string {
  return id.toString(16).padStart(4, '0');
}
