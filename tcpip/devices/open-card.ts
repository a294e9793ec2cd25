/** An 82599 as a frame device: taken, started, watched and given back. */
import { drainEventfd, eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { watchReadable } from '../../linux/watch.ts';
import { Ixgbe } from '../../nic/driver/ixgbe.ts';
import { openPciDevice } from '../../nic/pci/open.ts';
import { CardDevice, FRAME_OVERHEAD_BYTES } from './card-device.ts';
import { checkMacAddress, DEFAULT_MTU } from './device-options.ts';

/** A 32-bit counter of frames wraps in five minutes at 10 Gb/s; the link may change without an interrupt. */
const LOOK_INTERVAL_MS = 1000;
const DEFAULT_DESCRIPTORS = 512;
const NO_FD = -1;

export interface OpenCardOptions {
  /** `0000:01:00.0`, or `vfio-user:/path/of/a/socket` of a software card. */
  device: string;
  /** Another address than the card's own. */
  address?: Uint8Array;
  /** Default 1500. */
  mtu?: number;
  /** Of each ring: a power of two from 128 to 4096. Default 512. */
  descriptors?: number;
  /** Whether a card may be driven that no IOMMU keeps from this machine's memory. */
  withoutIommu?: boolean;
  /** The link has come up, or gone and why. */
  onLink?: (up: boolean, reason: string) => void;
}

/** Takes the card. Throws Error with what opening and starting it failed of; nothing stays behind then. */
export function openCardDevice(options: OpenCardOptions): CardDevice {
  const { device: name, mtu = DEFAULT_MTU, descriptors = DEFAULT_DESCRIPTORS, withoutIommu = false } = options;
  const { onLink = () => {} } = options;
  const pci = openPciDevice(name, { withoutIommu });
  const undo: (() => void)[] = [() => pci.close()];
  const undoAll = (): void => {
    for (const one of undo.splice(0).reverse()) one();
  };
  let made: CardDevice | undefined;
  try {
    const card = Ixgbe.open(pci, {
      queues: 1,
      rxDescriptors: descriptors,
      txDescriptors: descriptors,
      maxFrameBytes: mtu + FRAME_OVERHEAD_BYTES,
      clock: { now: () => performance.now(), sleep: block },
    });
    // The card closes what it was opened on.
    undo.splice(0, 1, () => card.close());
    // Which groups are ours the stack knows.
    card.filters.setAllMulticast(true);
    if (options.address !== undefined) card.filters.addAddress(checkMacAddress(options.address, name));
    // One vector of the queue, and one of everything else.
    const interrupts = pci.interruptVectors >= 2 ? [eventfd(), eventfd()] : [];
    undo.unshift(() => interrupts.forEach(close));
    if (interrupts.length > 0) pci.setInterrupts(interrupts);
    const [interruptFd = NO_FD, otherFd = NO_FD] = interrupts;
    const address = options.address ?? card.macAddress;
    const device = new CardDevice({ name, queue: card.queue(0), interruptFd, address, mtu, onClose: undoAll });
    made = device;
    card.startQueue(0);
    device.start();
    card.start();
    let isUp = false;
    const look = (): void => {
      if (device.gone) return;
      try {
        card.handleInterrupt();
        const { up } = card.link();
        card.statistics();
        if (up !== isUp) onLink(up, up ? '' : 'the link went down');
        isUp = up;
      } catch (error) {
        device.gone = true;
        onLink(false, (error as Error).message);
      }
    };
    const timer = setInterval(look, LOOK_INTERVAL_MS).unref();
    undo.push(() => clearInterval(timer));
    if (otherFd !== NO_FD) {
      const watch = watchReadable(otherFd, () => {
        drainEventfd(otherFd);
        look();
      });
      watch.unref();
      undo.push(() => watch.close());
    }
    look();
    return device;
  } catch (error) {
    if (made === undefined) undoAll();
    else made.close();
    throw error;
  }
}

/** Waits without giving way: a card's reset takes some ms, in which nothing else may touch it. */
function block(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT)), 0, 0, ms);
}
