/**
 * A client of the clones in a few lines: what QEMU does at DRIVER_OK, and nothing with the rings.
 * Its ioctls are synchronous, so the daemon must be another process.
 */
import { eventfd } from '../../linux/eventfd.ts';
import { close, O_RDWR, open } from '../../linux/file.ts';
import { IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, ifreq, TUNSETIFF } from '../../linux/if-tun.ts';
import { ioctl, ioctlValue } from '../../linux/ioctl.ts';
import { MAP_SHARED, memfd, mmap, munmap, PROT_READ, PROT_WRITE } from '../../linux/mman.ts';
import {
  VHOST_MEMORY_BYTES,
  VHOST_MEMORY_REGION_BYTES,
  VHOST_NET_SET_BACKEND,
  VHOST_SET_FEATURES,
  VHOST_SET_MEM_TABLE,
  VHOST_SET_OWNER,
  VHOST_SET_VRING_ADDR,
  VHOST_SET_VRING_BASE,
  VHOST_SET_VRING_CALL,
  VHOST_SET_VRING_ERR,
  VHOST_SET_VRING_KICK,
  VHOST_SET_VRING_NUM,
  VHOST_VRING_ADDR_BYTES,
} from '../../linux/vhost.ts';
import { featureSet, VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF } from '../../vhost/virtio.ts';

const FEATURES = featureSet(VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF);
const RING_ENTRIES = 256;
const RING_BYTES = 0x4000;
const AVAIL_OFFSET = 0x1000;
const USED_OFFSET = 0x2000;

export interface VhostClientOptions {
  tun: string;
  vhostNet: string;
  /** Name or template of the interface. */
  name: string;
  /** Shared memory, in bytes. */
  memoryBytes?: number;
  /** A memfd of that size to share, rather than one of its own, or -1 for memory at `memoryAddress`. The caller's it stays. */
  memoryFd?: number;
  memoryAddress?: number;
  features?: bigint;
  /** Where the receive and the transmit ring lie in the memory. */
  rings?: RingPlace[];
  /** Called before each request: where it stands on the way. */
  onStep?: (request: string) => void;
}

/** Offsets in the memory, in bytes, and entries. */
export interface RingPlace {
  num: number;
  desc: number;
  avail: number;
  used: number;
}

/** The eventfds of a ring. */
interface RingFds {
  kick: number;
  call: number;
  err: number;
}

const defaultPlace = (index: number): RingPlace => ({
  num: RING_ENTRIES,
  desc: index * RING_BYTES,
  avail: index * RING_BYTES + AVAIL_OFFSET,
  used: index * RING_BYTES + USED_OFFSET,
});

export class VhostClient {
  readonly tun: number;
  readonly vhost: number;
  /** By ring. */
  readonly fds: RingFds[] = [];
  readonly #memory: number;
  readonly #memoryBytes: number;
  readonly #memoryOwned: boolean;
  readonly #onStep: (request: string) => void;

  /** Attaches and starts both rings. */
  constructor({ tun, vhostNet, name, memoryBytes = 1 << 20, ...options }: VhostClientOptions) {
    const {
      memoryFd,
      memoryAddress = 0,
      features = FEATURES,
      rings = [defaultPlace(0), defaultPlace(1)],
      onStep = () => {},
    } = options;
    this.#onStep = onStep;
    onStep('open tun');
    this.tun = open(tun, O_RDWR);
    this.#ioctl(this.tun, 'TUNSETIFF', TUNSETIFF, ifreq(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR));
    onStep('open vhost-net');
    this.vhost = open(vhostNet, O_RDWR);
    this.#memoryBytes = memoryBytes;
    this.#memoryOwned = memoryFd !== -1;
    this.#memory = this.#memoryOwned ? mapShared(memoryBytes, memoryFd) : memoryAddress;
    onStep('VHOST_SET_OWNER');
    ioctlValue(this.vhost, VHOST_SET_OWNER, 0, 'VHOST_SET_OWNER');
    this.#ioctl(this.vhost, 'VHOST_SET_FEATURES', VHOST_SET_FEATURES, new BigUint64Array([features]));
    this.#setMemTable();
    for (const [index, place] of rings.entries()) this.#startRing(index, place);
  }

  #ioctl(fd: number, name: string, request: number, argument: ArrayBufferView): void {
    this.#onStep(name);
    ioctl(fd, request, argument, name);
  }

  #setMemTable(): void {
    const table = Buffer.alloc(VHOST_MEMORY_BYTES + VHOST_MEMORY_REGION_BYTES);
    table.writeUInt32LE(1, 0);
    table.writeBigUInt64LE(BigInt(this.#memoryBytes), VHOST_MEMORY_BYTES + 8);
    table.writeBigUInt64LE(BigInt(this.#memory), VHOST_MEMORY_BYTES + 16);
    this.#ioctl(this.vhost, 'VHOST_SET_MEM_TABLE', VHOST_SET_MEM_TABLE, table);
  }

  #startRing(index: number, { num, desc, avail, used }: RingPlace): void {
    const { vhost } = this;
    const state = (value: number): Uint32Array => Uint32Array.of(index, value);
    const [kick, call, err] = [eventfd(), eventfd(), eventfd()];
    this.fds.push({ kick, call, err });
    const addr = Buffer.alloc(VHOST_VRING_ADDR_BYTES);
    addr.writeUInt32LE(index, 0);
    addr.writeBigUInt64LE(BigInt(this.#memory + desc), 8);
    addr.writeBigUInt64LE(BigInt(this.#memory + used), 16);
    addr.writeBigUInt64LE(BigInt(this.#memory + avail), 24);
    this.#ioctl(vhost, 'VHOST_SET_VRING_NUM', VHOST_SET_VRING_NUM, state(num));
    this.#ioctl(vhost, 'VHOST_SET_VRING_BASE', VHOST_SET_VRING_BASE, state(0));
    this.#ioctl(vhost, 'VHOST_SET_VRING_ADDR', VHOST_SET_VRING_ADDR, addr);
    this.#ioctl(vhost, 'VHOST_SET_VRING_KICK', VHOST_SET_VRING_KICK, state(kick));
    this.#ioctl(vhost, 'VHOST_SET_VRING_CALL', VHOST_SET_VRING_CALL, state(call));
    this.#ioctl(vhost, 'VHOST_SET_VRING_ERR', VHOST_SET_VRING_ERR, state(err));
    this.setBackend(index, this.tun);
  }

  /** VHOST_NET_SET_BACKEND; -1 stops the ring. */
  setBackend(index: number, fd: number): void {
    this.#ioctl(this.vhost, 'VHOST_NET_SET_BACKEND', VHOST_NET_SET_BACKEND, Int32Array.of(index, fd));
  }

  /** Closes everything; `first` is closed before the others. */
  close(first: 'tun' | 'vhost' = 'vhost'): void {
    const files = first === 'tun' ? [this.tun, this.vhost] : [this.vhost, this.tun];
    for (const fd of [...files, ...this.fds.flatMap(Object.values)]) close(fd);
    if (this.#memoryOwned) munmap(this.#memory, this.#memoryBytes);
  }
}

/** A mapping of a file, or of one of its own. */
function mapShared(length: number, file?: number): number {
  const fd = file ?? memfd('vhost-client', length);
  const address = mmap({ length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED, fd });
  if (file === undefined) close(fd);
  return address;
}
