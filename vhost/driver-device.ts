/**
 * A network card over somebody's vhost-net: the kernel's own /dev/vhost-net, or the switch's clone of it.
 *
 *     tap ◄── backend ── vhost-net ── rings and buffers in our memory ── DriverDevice
 *
 *                  start()                stop()
 *     (made) ─────────────────► running ─────────► stopped ── start(): rings as new
 *
 * Made: owner, features and memory table are set. Running: both rings have the tap as their backend. The two descriptors
 * stay the caller's, who closes them after {@link DriverDevice.close}; closing them ends a running device, too.
 *
 * All ioctls are synchronous, so the clones must be another process's. One thread only.
 */
import { eventfd } from '../linux/eventfd.ts';
import { close, O_RDWR, open } from '../linux/file.ts';
import {
  IFF_NO_PI,
  IFF_TAP,
  IFF_VNET_HDR,
  IFR_DATA_OFFSET,
  ifreq,
  ifreqName,
  TUNGETIFF,
  TUNSETVNETHDRSZ,
} from '../linux/if-tun.ts';
import { ioctl, ioctlValue } from '../linux/ioctl.ts';
import type { SystemError } from '../linux/libc.ts';
import {
  VHOST_FILE_UNBIND,
  VHOST_GET_FEATURES,
  VHOST_MEMORY_BYTES,
  VHOST_MEMORY_REGION_BYTES,
  VHOST_NET_SET_BACKEND,
  VHOST_NET_VQ_MAX,
  VHOST_NET_VQ_RX,
  VHOST_NET_VQ_TX,
  VHOST_SET_FEATURES,
  VHOST_SET_MEM_TABLE,
  VHOST_SET_OWNER,
  VHOST_SET_VRING_ADDR,
  VHOST_SET_VRING_BASE,
  VHOST_SET_VRING_CALL,
  VHOST_SET_VRING_KICK,
  VHOST_SET_VRING_NUM,
  VHOST_VRING_ADDR_BYTES,
} from '../linux/vhost.ts';
import { MAX_FRAME_BYTES } from '../memory/frame-batch.ts';
import { DriverFrames } from './driver-frames.ts';
import { type AddressSpace, DriverMemory } from './driver-memory.ts';
import { DriverVirtqueue } from './driver-virtqueue.ts';
import {
  type Features,
  featureNames,
  featureSet,
  hasFeature,
  VIRTIO_F_VERSION_1,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_HDR_MRG_RXBUF_BYTES,
  VIRTIO_RING_F_EVENT_IDX,
} from './virtio.ts';

/** What this driver makes use of, where the device offers it. */
export const DRIVER_FEATURES: Features = featureSet(
  VIRTIO_F_VERSION_1,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_RING_F_EVENT_IDX,
);
/** The header of every frame, both ways: struct virtio_net_hdr_v1 (§5.1.6). */
export const DRIVER_HEADER_BYTES = VIRTIO_NET_HDR_MRG_RXBUF_BYTES;

const DEFAULT_NUM = 256;
/** Receive buffers, with VIRTIO_NET_F_MRG_RXBUF: a full-sized frame fits one, a super-frame takes 17. */
const MERGEABLE_BYTES = 4096;
const WHOLE_FRAME_BYTES = DRIVER_HEADER_BYTES + MAX_FRAME_BYTES;

/** What can go wrong with which request, in words for the log. */
const HINTS: Record<string, string> = {
  'VHOST_SET_OWNER EBUSY': 'this vhost-net file is in use already; open another',
  'VHOST_SET_OWNER ENOTTY': 'the descriptor is no vhost-net file',
  'TUNGETIFF EBADFD': 'the tun file has no interface, or not any more (TUNSETIFF)',
  'TUNGETIFF ENOTTY': 'the descriptor is no tun file',
  'VHOST_NET_SET_BACKEND ENOTSOCK': 'the tun file belongs to another device than this vhost-net file',
};
/** What a tun file must have been opened with: frames with a virtio-net header, and nothing else before them. */
const TUN_FLAGS = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

/** A request of the vhost-net or tun file that failed: `code` is the errno's name. */
export class DriverDeviceError extends Error {
  readonly code: string;

  constructor(request: string, cause: SystemError) {
    const hint = HINTS[`${request} ${cause.code}`];
    super(`vhost-net: ${request} failed with ${cause.code}${hint === undefined ? '' : `: ${hint}`}`, { cause });
    this.name = 'DriverDeviceError';
    this.code = cause.code;
  }
}

export interface DriverDeviceOptions {
  /** Opened vhost-net file, with nothing set: see {@link openVhostNet}. */
  vhost: number;
  /** Opened tun file with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR (TUNSETIFF). Its header becomes 12 bytes long. */
  tun: number;
  /** Where in this process the memory shall lie. */
  space?: AddressSpace;
  /** Entries of each ring. Default 256. */
  rxNum?: number;
  txNum?: number;
  /** Features wanted, of {@link DRIVER_FEATURES}. */
  features?: Features;
}

/** Opens a vhost-net file. Throws SystemError. */
export function openVhostNet(path = '/dev/vhost-net'): number {
  return open(path, O_RDWR);
}

export class DriverDevice {
  /** Negotiated. */
  readonly features: Features;
  readonly memory: DriverMemory;
  /** The ring that we receive from, its frames, and the ring that we transmit to, whose slots hold any frame. */
  readonly rx: DriverVirtqueue;
  readonly frames: DriverFrames;
  readonly tx: DriverVirtqueue;
  /** eventfds by which the device calls. */
  readonly rxCall: number;
  readonly txCall: number;
  readonly #vhost: number;
  readonly #tun: number;
  readonly #eventfds: number[] = [];
  #running = false;

  /** Throws {@link DriverDeviceError}, or Error for a device that lacks what is needed; nothing stays behind then. */
  constructor({ vhost, tun, space, rxNum = DEFAULT_NUM, txNum = DEFAULT_NUM, ...options }: DriverDeviceOptions) {
    this.#vhost = vhost;
    this.#tun = tun;
    this.#checkTun();
    request(vhost, 'VHOST_SET_OWNER', VHOST_SET_OWNER, 0);
    this.features = this.#negotiate(options.features ?? DRIVER_FEATURES);
    request(tun, 'TUNSETVNETHDRSZ', TUNSETVNETHDRSZ, Int32Array.of(DRIVER_HEADER_BYTES));
    const { features } = this;
    const mergeable = hasFeature(features, VIRTIO_NET_F_MRG_RXBUF);
    const rx = { num: rxNum, slotBytes: mergeable ? MERGEABLE_BYTES : WHOLE_FRAME_BYTES, writable: true, features };
    const tx = { num: txNum, slotBytes: WHOLE_FRAME_BYTES, writable: false, features };
    this.memory = new DriverMemory(DriverVirtqueue.bytes(rx) + DriverVirtqueue.bytes(tx), space);
    try {
      this.rx = new DriverVirtqueue(this.memory, rx);
      this.tx = new DriverVirtqueue(this.memory, tx);
      this.frames = new DriverFrames(this.rx, this.memory, features);
      this.#setMemTable();
      this.rx.kick = this.#eventfd();
      this.tx.kick = this.#eventfd();
      this.rxCall = this.#eventfd();
      this.txCall = this.#eventfd();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #checkTun(): void {
    const bytes = ifreq('');
    request(this.#tun, 'TUNGETIFF', TUNGETIFF, bytes);
    const flags = bytes.readUInt16LE(IFR_DATA_OFFSET);
    if ((flags & TUN_FLAGS) === TUN_FLAGS) return;
    throw new Error(
      `vhost-net: ${ifreqName(bytes)} has the flags 0x${flags.toString(16)}; open it with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR`,
    );
  }

  #eventfd(): number {
    const fd = eventfd();
    this.#eventfds.push(fd);
    return fd;
  }

  #negotiate(wanted: Features): Features {
    const word = new BigUint64Array(1);
    request(this.#vhost, 'VHOST_GET_FEATURES', VHOST_GET_FEATURES, word);
    const offered = word[0]!;
    const features = wanted & DRIVER_FEATURES & offered;
    if (!hasFeature(features, VIRTIO_F_VERSION_1)) {
      const names = (set: Features): string => featureNames(set).join(', ') || 'nothing';
      throw new Error(`vhost-net: VERSION_1 is needed; wanted: ${names(wanted)}; offered: ${names(offered)}`);
    }
    request(this.#vhost, 'VHOST_SET_FEATURES', VHOST_SET_FEATURES, BigUint64Array.of(features));
    return features;
  }

  /** struct vhost_memory with one struct vhost_memory_region: guest_phys_addr, memory_size, userspace_addr, flags. */
  #setMemTable(): void {
    const { address, length } = this.memory;
    const table = new BigUint64Array((VHOST_MEMORY_BYTES + VHOST_MEMORY_REGION_BYTES) / 8);
    table.set([1n, BigInt(address), BigInt(length), BigInt(address), 0n]);
    request(this.#vhost, 'VHOST_SET_MEM_TABLE', VHOST_SET_MEM_TABLE, table);
  }

  get running(): boolean {
    return this.#running;
  }

  /** Starts both rings as new, with all receive buffers offered. Throws {@link DriverDeviceError}; it is stopped then. */
  start(): void {
    if (this.#running) return;
    this.#checkTun();
    this.rx.reset();
    this.tx.reset();
    this.frames.restart();
    this.#running = true;
    try {
      this.#startRing(VHOST_NET_VQ_RX, this.rx, this.rxCall);
      this.#startRing(VHOST_NET_VQ_TX, this.tx, this.txCall);
    } catch (error) {
      this.stop();
      throw error;
    }
  }

  #startRing(index: number, { num, addresses, kick }: DriverVirtqueue, call: number): void {
    const state = (value: number): Uint32Array => Uint32Array.of(index, value);
    // struct vhost_vring_addr: index and flags, then desc, used, avail, log.
    const addr = new BigUint64Array(VHOST_VRING_ADDR_BYTES / 8);
    addr.set([BigInt(index), BigInt(addresses.desc), BigInt(addresses.used), BigInt(addresses.avail), 0n]);
    request(this.#vhost, 'VHOST_SET_VRING_NUM', VHOST_SET_VRING_NUM, state(num));
    request(this.#vhost, 'VHOST_SET_VRING_BASE', VHOST_SET_VRING_BASE, state(0));
    request(this.#vhost, 'VHOST_SET_VRING_ADDR', VHOST_SET_VRING_ADDR, addr);
    request(this.#vhost, 'VHOST_SET_VRING_KICK', VHOST_SET_VRING_KICK, state(kick));
    request(this.#vhost, 'VHOST_SET_VRING_CALL', VHOST_SET_VRING_CALL, state(call));
    this.#setBackend(index, this.#tun);
  }

  #setBackend(index: number, fd: number): void {
    request(this.#vhost, 'VHOST_NET_SET_BACKEND', VHOST_NET_SET_BACKEND, Int32Array.of(index, fd));
  }

  /** Stops both rings: the device touches the memory no more. Frames that are under way are lost. */
  stop(): void {
    if (!this.#running) return;
    this.#running = false;
    for (let index = 0; index < VHOST_NET_VQ_MAX; index++) this.#setBackend(index, VHOST_FILE_UNBIND);
  }

  /** Stops, and lets go of the memory. The vhost-net file cannot be used again. */
  close(): void {
    this.stop();
    for (const fd of this.#eventfds.splice(0)) close(fd);
    this.memory.close();
  }
}

function request(fd: number, name: string, number: number, argument: ArrayBufferView | number): void {
  try {
    if (typeof argument === 'number') ioctlValue(fd, number, argument, name);
    else ioctl(fd, number, argument, name);
  } catch (error) {
    throw new DriverDeviceError(name, error as SystemError);
  }
}
