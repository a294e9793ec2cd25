/**
 * Ports that are network cards: each opened, started, watched and given back.
 *
 *     PciDevice ── Ixgbe (registers, queues' memory; this thread) ── lane (descriptors and frames; CardQueue)
 *         link interrupt, and a look every second ──► carrier, statistics, a card that has gone
 */
import type { Log } from '../fuse/log.ts';
import { drainEventfd, eventfd } from '../linux/eventfd.ts';
import { close } from '../linux/file.ts';
import { TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6 } from '../linux/if-tun.ts';
import { type Watch, watchReadable } from '../linux/watch.ts';
import { Ixgbe } from '../nic/driver/ixgbe.ts';
import { wholeName } from '../nic/pci/address.ts';
import { openPciDevice } from '../nic/pci/open.ts';
import type { PciDevice } from '../nic/pci/pci-device.ts';
import type { CardQueueDescription } from '../switch/card-queue.ts';
import { type CardOptions, ControlError, type PortStatus } from './control.ts';
import type { CardPortHandle, SwitchPorts } from './switch-ports.ts';

/** What the card does for frames that leave through it (82599 §7.2.4, §7.2.5). */
const OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6;
/** A 32-bit counter of frames wraps in five minutes at 10 Gb/s; the link may change without an interrupt. */
const LOOK_INTERVAL_MS = 1000;
/** Ethernet header and one VLAN tag. */
const FRAME_OVERHEAD_BYTES = 18;
const NO_FD = -1;

export class CardPorts {
  readonly #ports: SwitchPorts;
  readonly #log: Log;
  readonly #openDevice: typeof openPciDevice;
  readonly #byName = new Map<string, CardPort>();
  /** Names of ports by {@link wholeName} of their cards, from before a card is opened until it is given back. */
  readonly #owners = new Map<string, string>();

  constructor(ports: SwitchPorts, log: Log, openDevice = openPciDevice) {
    this.#ports = ports;
    this.#log = log;
    this.#openDevice = openDevice;
  }

  /** Takes a card. ControlError when the name is taken, or with what opening and starting the card failed of. */
  async add(options: CardOptions): Promise<PortStatus> {
    const { name, device } = options;
    if (this.#ports.isTaken(name) || [...this.#owners.values()].includes(name)) {
      throw new ControlError(409, 'EEXIST', `there is a port ${name} already`);
    }
    const card = wholeName(device);
    const owner = this.#owners.get(card);
    if (owner !== undefined) throw new ControlError(409, 'EBUSY', `${device} is the card of port ${owner}`);
    this.#owners.set(card, name);
    let port: CardPort;
    try {
      port = await CardPort.open(options, this.#ports, this.#log, this.#openDevice);
    } catch (error) {
      this.#owners.delete(card);
      const { code = 'EIO', message } = error as Error & { code?: string };
      throw new ControlError(400, code, `${name}: ${message}`);
    }
    this.#byName.set(name, port);
    this.#log.info(`${name}: drives ${device}, ${options.queues} queue pairs`, { port: name });
    return this.#ports.status(name);
  }

  /** The card's own counters. ControlError when there is no such card. */
  statistics(name: string): Record<string, number> {
    const port = this.#byName.get(name);
    if (port) return port.statistics();
    const known = [...this.#byName.keys()].join(', ') || 'none';
    throw new ControlError(404, 'ENODEV', `there is no network card ${name}; there are: ${known}`);
  }

  /** Gives a card back; false when there is none of that name. */
  async remove(name: string): Promise<boolean> {
    const port = this.#byName.get(name);
    if (!port) return false;
    this.#byName.delete(name);
    try {
      await port.close();
    } finally {
      this.#owners.delete(wholeName(port.device));
    }
    return true;
  }

  /** Gives all cards back. */
  async close(): Promise<void> {
    for (const name of [...this.#byName.keys()]) await this.remove(name);
  }
}

class CardPort {
  readonly device: string;
  readonly #name: string;
  readonly #log: Log;
  readonly #card: Ixgbe;
  /** One of each queue, and the last of everything else; empty when the card cannot interrupt. */
  readonly #interrupts: number[];
  #handle!: CardPortHandle;
  #watch: Watch | null = null;
  #timer: NodeJS.Timeout | undefined;
  #speedMbps = 0;
  #up = false;
  /** Set once: no register is touched any more but to let go. */
  #lost = false;

  static async open(
    options: CardOptions,
    ports: SwitchPorts,
    log: Log,
    openDevice: typeof openPciDevice,
  ): Promise<CardPort> {
    const { device: name, queues, descriptors, mtu, withoutIommu } = options;
    const device = openDevice(name, { withoutIommu });
    let card: Ixgbe;
    try {
      card = Ixgbe.open(device, {
        queues,
        rxDescriptors: descriptors,
        txDescriptors: descriptors,
        maxFrameBytes: mtu + FRAME_OVERHEAD_BYTES,
        promiscuous: true,
        clock: { now: () => performance.now(), sleep: block },
      });
    } catch (error) {
      device.close();
      throw error;
    }
    const port = new CardPort(options, card, device, log);
    try {
      await port.#start(options, ports);
    } catch (error) {
      await port.close();
      throw error;
    }
    return port;
  }

  private constructor({ name, device, queues }: CardOptions, card: Ixgbe, pci: PciDevice, log: Log) {
    this.device = device;
    this.#name = name;
    this.#log = log;
    this.#card = card;
    const vectors = queues + 1;
    this.#interrupts = pci.interruptVectors >= vectors ? Array.from({ length: vectors }, () => eventfd()) : [];
    if (this.#interrupts.length > 0) pci.setInterrupts(this.#interrupts);
    else log.warn(`${name}: ${device} cannot interrupt, so its lane polls it without rest`, { port: name });
  }

  async #start({ name, queues, mtu }: CardOptions, ports: SwitchPorts): Promise<void> {
    const card = this.#card;
    const descriptions: CardQueueDescription[] = Array.from({ length: queues }, (_, n) => ({
      ...card.queue(n),
      interruptFd: this.#interrupts[n] ?? NO_FD,
      maxFrameBytes: mtu + FRAME_OVERHEAD_BYTES,
    }));
    const status = () => ({ device: this.device, queues, speedMbps: this.#speedMbps });
    this.#handle = await ports.createCardPort(name, OFFLOADS, descriptions, status);
    for (let n = 0; n < queues; n++) card.startQueue(n);
    await this.#handle.start();
    card.start();
    const other = this.#interrupts[queues];
    if (other !== undefined) {
      this.#watch = watchReadable(other, () => {
        drainEventfd(other);
        this.#look();
      });
    }
    this.#timer = setInterval(() => this.#look(), LOOK_INTERVAL_MS);
    this.#look();
  }

  /** What has become of the card, its link and its counters. */
  #look(): void {
    if (this.#lost) return;
    try {
      const { fault } = this.#card.handleInterrupt();
      if (fault !== null) this.#log.warn(`${this.#name}: ${fault}`, { port: this.#name });
      const { up, speedMbps } = this.#card.link();
      this.#card.statistics();
      this.#speedMbps = up ? speedMbps : 0;
      if (up !== this.#up) this.#noteLink(up);
    } catch (error) {
      this.#lose(error as Error);
    }
  }

  #noteLink(up: boolean): void {
    this.#up = up;
    this.#log.info(`${this.#name}: link ${up ? `up at ${this.#speedMbps} Mb/s` : 'down'}`, { port: this.#name });
    this.#handle.setCarrier(up).catch((error) => this.#log.error(`${this.#name}: ${error.message}`));
  }

  #lose({ message }: Error): void {
    this.#lost = true;
    this.#speedMbps = 0;
    this.#log.error(`${this.#name}: ${message}; remove the port, and add it when the card is back`, {
      port: this.#name,
    });
    this.#handle.lose(message).catch((error) => this.#log.error(`${this.#name}: ${error.message}`));
  }

  statistics(): Record<string, number> {
    if (this.#lost) throw new ControlError(409, 'ENODEV', `${this.#name}: the card has gone`);
    return this.#card.statistics();
  }

  /** Stops the card, then the lane's part, and gives both back. */
  async close(): Promise<void> {
    this.#watch?.close();
    clearInterval(this.#timer);
    const failure = this.#card.stop();
    if (failure !== null && !this.#lost) this.#log.warn(`${this.#name}: ${failure.message}`, { port: this.#name });
    // The handle is missing when the lane never got the queues.
    await this.#handle?.remove();
    this.#card.close();
    for (const fd of this.#interrupts) close(fd);
  }
}

/** Waits without giving way: a card's reset takes some ms, in which nothing else may touch it. */
function block(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT)), 0, 0, ms);
}
