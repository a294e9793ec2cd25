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
}

export class VhostClient {
  readonly tun: number;
  readonly vhost: number;
  readonly #fds: number[] = [];
  readonly #memory: number;
  readonly #memoryBytes: number;

  /** Attaches and starts both rings. */
  constructor({ tun, vhostNet, name, memoryBytes = 1 << 20 }: VhostClientOptions) {
    this.tun = open(tun, O_RDWR);
    ioctl(this.tun, TUNSETIFF, ifreq(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR), 'TUNSETIFF');
    this.vhost = open(vhostNet, O_RDWR);
    this.#memoryBytes = memoryBytes;
    const file = memfd('vhost-client', memoryBytes);
    this.#memory = mmap({ length: memoryBytes, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED, fd: file });
    close(file);
    ioctlValue(this.vhost, VHOST_SET_OWNER, 0, 'VHOST_SET_OWNER');
    ioctl(this.vhost, VHOST_SET_FEATURES, new BigUint64Array([FEATURES]), 'VHOST_SET_FEATURES');
    this.#setMemTable();
    for (const index of [0, 1]) this.#startRing(index);
  }

  #setMemTable(): void {
    const table = Buffer.alloc(VHOST_MEMORY_BYTES + VHOST_MEMORY_REGION_BYTES);
    table.writeUInt32LE(1, 0);
    table.writeBigUInt64LE(BigInt(this.#memoryBytes), VHOST_MEMORY_BYTES + 8);
    table.writeBigUInt64LE(BigInt(this.#memory), VHOST_MEMORY_BYTES + 16);
    ioctl(this.vhost, VHOST_SET_MEM_TABLE, table, 'VHOST_SET_MEM_TABLE');
  }

  #startRing(index: number): void {
    const state = (value: number): Uint32Array => Uint32Array.of(index, value);
    const [kick, call] = [eventfd(), eventfd()];
    this.#fds.push(kick, call);
    const base = BigInt(this.#memory + index * RING_BYTES);
    const addr = Buffer.alloc(VHOST_VRING_ADDR_BYTES);
    addr.writeUInt32LE(index, 0);
    addr.writeBigUInt64LE(base, 8);
    addr.writeBigUInt64LE(base + BigInt(USED_OFFSET), 16);
    addr.writeBigUInt64LE(base + BigInt(AVAIL_OFFSET), 24);
    ioctl(this.vhost, VHOST_SET_VRING_NUM, state(RING_ENTRIES), 'VHOST_SET_VRING_NUM');
    ioctl(this.vhost, VHOST_SET_VRING_BASE, state(0), 'VHOST_SET_VRING_BASE');
    ioctl(this.vhost, VHOST_SET_VRING_ADDR, addr, 'VHOST_SET_VRING_ADDR');
    ioctl(this.vhost, VHOST_SET_VRING_KICK, state(kick), 'VHOST_SET_VRING_KICK');
    ioctl(this.vhost, VHOST_SET_VRING_CALL, state(call), 'VHOST_SET_VRING_CALL');
    this.setBackend(index, this.tun);
  }

  /** VHOST_NET_SET_BACKEND; -1 stops the ring. */
  setBackend(index: number, fd: number): void {
    ioctl(this.vhost, VHOST_NET_SET_BACKEND, Int32Array.of(index, fd), 'VHOST_NET_SET_BACKEND');
  }

  /** Closes everything; `first` is closed before the others. */
  close(first: 'tun' | 'vhost' = 'vhost'): void {
    const files = first === 'tun' ? [this.tun, this.vhost] : [this.vhost, this.tun];
    for (const fd of [...files, ...this.#fds]) close(fd);
    munmap(this.#memory, this.#memoryBytes);
  }
}
