/**
 * A network card over somebody's vhost-user back-end: the switch's vhost-user port, or any other, which takes us for a
 * QEMU with `-netdev vhost-user`.
 *
 *                   connect()                     back-end goes, or breaks a ring
 *     (nothing) ─────────────────► running ◄────────────────────────────────────► down      close() from any
 *                                          every `reconnectMs`, rings as new
 *
 * Memory, rings and eventfds stay the same through all connections, and so do the features: a back-end that comes back
 * with fewer is not taken. Frames that were under way when it went are lost. One thread only; only setting up waits.
 */
import { eventfd } from '../linux/eventfd.ts';
import { close } from '../linux/file.ts';
import { VHOST_NET_VQ_RX, VHOST_NET_VQ_TX, VHOST_VRING_ADDR_BYTES } from '../linux/vhost.ts';
import { MAX_FRAME_BYTES } from '../memory/frame-batch.ts';
import { DriverFrames } from './driver-frames.ts';
import { type AddressSpace, DriverMemory } from './driver-memory.ts';
import { DriverVirtqueue } from './driver-virtqueue.ts';
import { VhostUserChannel } from './vhost-user-channel.ts';
import {
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_USER_GET_FEATURES,
  VHOST_USER_GET_PROTOCOL_FEATURES,
  VHOST_USER_GET_QUEUE_NUM,
  VHOST_USER_GET_VRING_BASE,
  VHOST_USER_PROTOCOL_F_MQ,
  VHOST_USER_PROTOCOL_F_REPLY_ACK,
  VHOST_USER_SET_FEATURES,
  VHOST_USER_SET_MEM_TABLE,
  VHOST_USER_SET_OWNER,
  VHOST_USER_SET_PROTOCOL_FEATURES,
  VHOST_USER_SET_VRING_ADDR,
  VHOST_USER_SET_VRING_BASE,
  VHOST_USER_SET_VRING_CALL,
  VHOST_USER_SET_VRING_ENABLE,
  VHOST_USER_SET_VRING_KICK,
  VHOST_USER_SET_VRING_NUM,
} from './vhost-user-messages.ts';
import {
  type Features,
  featureNames,
  featureSet,
  hasFeature,
  VIRTIO_F_VERSION_1,
  VIRTIO_NET_F_CSUM,
  VIRTIO_NET_F_GUEST_CSUM,
  VIRTIO_NET_F_GUEST_ECN,
  VIRTIO_NET_F_GUEST_TSO4,
  VIRTIO_NET_F_GUEST_TSO6,
  VIRTIO_NET_F_HOST_ECN,
  VIRTIO_NET_F_HOST_TSO4,
  VIRTIO_NET_F_HOST_TSO6,
  VIRTIO_NET_HDR_MRG_RXBUF_BYTES,
  VIRTIO_RING_F_EVENT_IDX,
} from './virtio.ts';

/** What this driver makes use of, where the back-end offers it. Receive buffers hold any frame, so none is ever spread. */
export const VHOST_USER_DRIVER_FEATURES: Features = featureSet(
  VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_NET_F_CSUM,
  VIRTIO_NET_F_HOST_TSO4,
  VIRTIO_NET_F_HOST_TSO6,
  VIRTIO_NET_F_HOST_ECN,
  VIRTIO_NET_F_GUEST_CSUM,
  VIRTIO_NET_F_GUEST_TSO4,
  VIRTIO_NET_F_GUEST_TSO6,
  VIRTIO_NET_F_GUEST_ECN,
);
const PROTOCOL_FEATURES: Features = featureSet(VHOST_USER_PROTOCOL_F_MQ, VHOST_USER_PROTOCOL_F_REPLY_ACK);

/** Features that another one is nothing without (virtio 1.2 §5.1.3.1). */
const NEEDS: [feature: number, needed: number][] = [
  [VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM],
  [VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM],
  [VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM],
  [VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM],
];
const DEFAULT_NUM = 256;
const SLOT_BYTES = VIRTIO_NET_HDR_MRG_RXBUF_BYTES + MAX_FRAME_BYTES;
const DEFAULT_RECONNECT_MS = 500;
const RING_NAMES = ['receive', 'transmit'];
const VRING_STATE_BYTES = 8;

export interface DriverVhostUserOptions {
  /** Of the back-end's socket, which listens. */
  path: string;
  /** Where in this process the memory shall lie. */
  space?: AddressSpace;
  /** Entries of each ring: a power of two. Default 256. */
  rxNum?: number;
  txNum?: number;
  /** Features wanted, of {@link VHOST_USER_DRIVER_FEATURES}. */
  features?: Features;
  /** Time between attempts to connect again; 0: do not. Default 500. */
  reconnectMs?: number;
}

export class DriverVhostUser {
  /** Negotiated. */
  readonly features: Features;
  readonly memory: DriverMemory;
  readonly rx: DriverVirtqueue;
  readonly frames: DriverFrames;
  readonly tx: DriverVirtqueue;
  readonly rxCall: number;
  readonly txCall: number;
  /** Both rings begin as new: slots that somebody holds are not theirs any more. */
  onRestart: () => void = () => {};
  /** The back-end is there again, or has gone and why. */
  onLink: (up: boolean, reason: string) => void = () => {};
  /** Connections that were made so far. */
  connections = 0;
  readonly #path: string;
  readonly #reconnectMs: number;
  readonly #wanted: Features;
  readonly #eventfds: number[] = [];
  #channel: VhostUserChannel;
  #running = false;
  #closed = false;
  #timer: NodeJS.Timeout | undefined;
  #referenced = true;

  /**
   * Connects to a back-end and starts both rings. Rejects when nobody listens there (SystemError ENOENT, ECONNREFUSED),
   * or with what the back-end refuses or lacks (VhostUserError, Error); nothing stays behind then.
   */
  static async connect(options: DriverVhostUserOptions): Promise<DriverVhostUser> {
    const wanted = (options.features ?? VHOST_USER_DRIVER_FEATURES) & VHOST_USER_DRIVER_FEATURES;
    const channel = new VhostUserChannel(options.path);
    let driver: DriverVhostUser | undefined;
    try {
      const features = await negotiate(channel, wanted, options.path);
      driver = new DriverVhostUser(options, wanted, features, channel);
      await driver.#start(channel);
      return driver;
    } catch (error) {
      channel.close();
      driver?.close();
      throw error;
    }
  }

  private constructor(
    { path, space, rxNum = DEFAULT_NUM, txNum = DEFAULT_NUM, reconnectMs }: DriverVhostUserOptions,
    wanted: Features,
    features: Features,
    channel: VhostUserChannel,
  ) {
    this.#path = path;
    this.#reconnectMs = reconnectMs ?? DEFAULT_RECONNECT_MS;
    this.#wanted = wanted;
    this.#channel = channel;
    this.features = features;
    const rx = { num: rxNum, slotBytes: SLOT_BYTES, writable: true, features };
    const tx = { num: txNum, slotBytes: SLOT_BYTES, writable: false, features };
    this.memory = new DriverMemory(DriverVirtqueue.bytes(rx) + DriverVirtqueue.bytes(tx), space);
    try {
      this.rx = new DriverVirtqueue(this.memory, rx);
      this.tx = new DriverVirtqueue(this.memory, tx);
      this.frames = new DriverFrames(this.rx, this.memory, features);
      this.rx.kick = this.#eventfd();
      this.tx.kick = this.#eventfd();
      this.rxCall = this.#eventfd();
      this.txCall = this.#eventfd();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #eventfd(): number {
    const fd = eventfd();
    this.#eventfds.push(fd);
    return fd;
  }

  /** For messages. */
  get name(): string {
    return `vhost-user:${this.#path}`;
  }

  /** Whether the back-end serves the rings. */
  get running(): boolean {
    return this.#running;
  }

  /** Shares memory and rings, as QEMU does when its guest's driver is ready. */
  async #start(channel: VhostUserChannel): Promise<void> {
    this.rx.reset();
    this.tx.reset();
    this.onRestart();
    this.frames.restart();
    await channel.tell(VHOST_USER_SET_FEATURES, u64(this.features | featureSet(VHOST_USER_F_PROTOCOL_FEATURES)));
    const { address, length, fd } = this.memory;
    const region = [BigInt(address), BigInt(length), BigInt(address), 0n];
    await channel.tell(VHOST_USER_SET_MEM_TABLE, Buffer.concat([u32(1, 0), u64(...region)]), [fd]);
    await this.#startRing(channel, VHOST_NET_VQ_RX, this.rx, this.rxCall);
    await this.#startRing(channel, VHOST_NET_VQ_TX, this.tx, this.txCall);
    for (const index of [VHOST_NET_VQ_RX, VHOST_NET_VQ_TX]) {
      await channel.tell(VHOST_USER_SET_VRING_ENABLE, u32(index, 1));
    }
    // Without acknowledgements: when this is answered, all of it was carried out.
    if (!channel.acknowledges) await channel.askU64(VHOST_USER_GET_FEATURES);
    channel.onEnded = (error) => this.#down(error.message);
    this.#running = true;
    this.connections++;
    this.#applyReference();
    this.onLink(true, '');
  }

  async #startRing(channel: VhostUserChannel, index: number, ring: DriverVirtqueue, call: number): Promise<void> {
    const { desc, avail, used } = ring.addresses;
    const addr = Buffer.alloc(VHOST_VRING_ADDR_BYTES);
    addr.writeUInt32LE(index, 0);
    for (const [i, address] of [desc, used, avail].entries()) addr.writeBigUInt64LE(BigInt(address), 8 * (i + 1));
    await channel.tell(VHOST_USER_SET_VRING_NUM, u32(index, ring.num));
    await channel.tell(VHOST_USER_SET_VRING_BASE, u32(index, 0));
    await channel.tell(VHOST_USER_SET_VRING_ADDR, addr);
    await channel.tell(VHOST_USER_SET_VRING_CALL, u64(BigInt(index)), [call]);
    await channel.tell(VHOST_USER_SET_VRING_KICK, u64(BigInt(index)), [ring.kick]);
  }

  #down(reason: string): void {
    if (!this.#running) return;
    this.#running = false;
    this.#channel.close();
    this.onLink(false, reason);
    this.#retryLater();
  }

  #retryLater(): void {
    if (this.#closed || this.#reconnectMs === 0) return;
    this.#timer = setTimeout(() => void this.#retry(), this.#reconnectMs);
    if (!this.#referenced) this.#timer.unref();
  }

  async #retry(): Promise<void> {
    let channel: VhostUserChannel | undefined;
    try {
      channel = new VhostUserChannel(this.#path);
      this.#channel = channel;
      this.#applyReference();
      const features = await negotiate(channel, this.#wanted, this.#path);
      if (features !== this.features) {
        const lost = featureNames(this.features & ~features).join(', ');
        throw new Error(
          `${this.name}: the back-end came back ${lost === '' ? 'with more features' : `without ${lost}`}`,
        );
      }
      if (this.#closed) return;
      await this.#start(channel);
    } catch (error) {
      channel?.close();
      if (this.#closed) return;
      this.onLink(false, (error as Error).message);
      this.#retryLater();
    }
  }

  /** After a ring has broken: ends the connection in good order, and begins anew. */
  async recover(): Promise<void> {
    if (!this.#running) return;
    const reason = this.rx.error?.message ?? this.tx.error?.message ?? 'it was asked to';
    this.#running = false;
    const channel = this.#channel;
    channel.onEnded = () => {};
    try {
      for (const [index, ring] of RING_NAMES.entries()) {
        const state = await channel.ask(VHOST_USER_GET_VRING_BASE, u32(index, 0), VRING_STATE_BYTES);
        if (state.readUInt32LE(0) !== index) throw new Error(`the answer is not about the ${ring} ring`);
      }
    } catch {
      // It has gone, or does not stop: the connection ends in any case.
    }
    channel.close();
    if (this.#closed) return;
    this.onLink(false, reason);
    this.#retryLater();
  }

  /** Lets the process end though the card is there; {@link ref} takes that back. */
  unref(): void {
    this.#referenced = false;
    this.#applyReference();
  }

  ref(): void {
    this.#referenced = true;
    this.#applyReference();
  }

  #applyReference(): void {
    if (this.#referenced) {
      this.#timer?.ref();
      if (this.#channel.open) this.#channel.ref();
    } else {
      this.#timer?.unref();
      if (this.#channel.open) this.#channel.unref();
    }
  }

  /** Ends the connection, and lets go of the memory. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#running = false;
    clearTimeout(this.#timer);
    this.#channel.close();
    for (const fd of this.#eventfds.splice(0)) close(fd);
    this.memory.close();
  }
}

/** Owner, features and protocol features of a new connection. */
async function negotiate(channel: VhostUserChannel, wanted: Features, path: string): Promise<Features> {
  const offered = await channel.askU64(VHOST_USER_GET_FEATURES);
  if (!hasFeature(offered, VHOST_USER_F_PROTOCOL_FEATURES)) {
    throw new Error(`vhost-user:${path}: the back-end has no protocol features (VHOST_USER_F_PROTOCOL_FEATURES)`);
  }
  const protocol = PROTOCOL_FEATURES & (await channel.askU64(VHOST_USER_GET_PROTOCOL_FEATURES));
  await channel.tell(VHOST_USER_SET_PROTOCOL_FEATURES, u64(protocol));
  channel.acknowledges = hasFeature(protocol, VHOST_USER_PROTOCOL_F_REPLY_ACK);
  if (hasFeature(protocol, VHOST_USER_PROTOCOL_F_MQ)) {
    const pairs = await channel.askU64(VHOST_USER_GET_QUEUE_NUM);
    if (pairs < 1n) throw new Error(`vhost-user:${path}: the back-end has no queue pair`);
  }
  await channel.tell(VHOST_USER_SET_OWNER);
  let features = wanted & offered;
  for (const [feature, needed] of NEEDS) if (!hasFeature(features, needed)) features &= ~featureSet(feature);
  if (!hasFeature(features, VIRTIO_F_VERSION_1)) {
    const names = (set: Features): string => featureNames(set).join(', ') || 'nothing';
    throw new Error(`vhost-user:${path}: VERSION_1 is needed; wanted: ${names(wanted)}; offered: ${names(offered)}`);
  }
  return features;
}

function u32(...numbers: number[]): Buffer {
  return Buffer.from(Uint32Array.from(numbers).buffer);
}

function u64(...numbers: bigint[]): Buffer {
  return Buffer.from(BigUint64Array.from(numbers).buffer);
}
