/**
 * The vhost state machine: what a client has told about its memory and its rings, and when they run.
 *
 * It stands for one vhost-net file (a receive and a transmit ring) or one vhost-user connection (such a pair for each
 * queue): rings, a memory table, an owner. Front doors decode their own messages and call it; it knows neither ioctls nor
 * sockets. Each method answers as vhost/vhost.c and vhost/net.c of Linux do, with the same errno for the same misuse
 * ({@link VhostError}).
 *
 *     no owner ── setOwner ──► owned ── setMemTable, setVring… ──► set up ── setBackend ──► running
 *        ▲                       │                                   ▲            │
 *        └────── resetOwner ─────┴───────────────────────────────────┴── setBackend(null)
 *
 * Main thread; the caller runs one method at a time. A ring runs in a lane, behind {@link RingBackend}: starting and
 * stopping are questions to the lane, so those methods are asynchronous.
 *
 * Dirty logging and in-flight tracking, when they come, are areas that all rings share, as the memory table is: kept
 * here, mapped by the lane, and told to each ring in its {@link RingDescription}.
 */
import { E2BIG, EBUSY, EFAULT, EINVAL, ENOBUFS, EOPNOTSUPP, EPERM, errnoName } from '../linux/errno.ts';
import { close } from '../linux/file.ts';
import {
  VHOST_BACKEND_F_IOTLB_MSG_V2,
  VHOST_MAX_MEM_REGIONS,
  VHOST_NET_VQ_MAX,
  VHOST_VRING_F_LOG,
} from '../linux/vhost.ts';
import {
  type ClientMemory,
  fetchClientMemory,
  isReachable,
  type MemoryRegion,
  release,
  SHARED_MEMORY_CURE,
} from '../memory/client-memory.ts';
import { isRingSize, RING_PARTS, ringLayoutProblem, ringPartBytes } from './ring-layout.ts';
import type { RingAddresses } from './split-ring.ts';
import {
  type Features,
  featureNames,
  featureSet,
  hasFeature,
  VIRTIO_F_ANY_LAYOUT,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_NOTIFY_ON_EMPTY,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
} from './virtio.ts';
import { type RingDescription, RingUnmappedError } from './virtqueue.ts';

/** What the rings can do. No dirty log (VHOST_F_LOG_ALL): QEMU then blocks live migration and says so. */
export const SUPPORTED_FEATURES: Features = featureSet(
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_F_NOTIFY_ON_EMPTY,
  VIRTIO_F_ANY_LAYOUT,
  VIRTIO_RING_F_INDIRECT_DESC,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_F_VERSION_1,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_IN_ORDER,
);
export const SUPPORTED_BACKEND_FEATURES: Features = featureSet(VHOST_BACKEND_F_IOTLB_MSG_V2);

/** User addresses end here on x86-64; access_ok() of the kernel refuses what lies beyond. */
const TASK_SIZE_MAX = 2 ** 47 - 4096;
/** Of a split ring; that of a packed one has 32 bits. */
const VRING_BASE_MAX = 0xffff;
/** VRING_AVAIL_ALIGN_SIZE and VRING_USED_ALIGN_SIZE (virtio 1.2 §2.7). */
const VRING_AVAIL_ALIGN = 2;
const VRING_USED_ALIGN = 4;
const NO_FD = -1;

/** A refused request: the errno for the client, and the reason for the log. */
export class VhostError extends Error {
  readonly errno: number;
  /** The message without the request's name, for front doors whose requests have other names. */
  readonly reason: string;

  constructor(errno: number, request: string, reason: string) {
    super(`${request}: ${reason} (${errnoName(errno)})`);
    this.name = 'VhostError';
    this.errno = errno;
    this.reason = `${reason} (${errnoName(errno)})`;
  }
}

/** A memory table that can be told from others: lanes map each only once. */
export interface MemoryTable extends ClientMemory {
  id: number;
}

/** Where rings run: one queue pair of a switch port. `index` is 0 for the receive ring and 1 for the transmit ring. */
export interface RingBackend {
  /** Rings that run here, by index. */
  readonly running: ReadonlySet<number>;
  /** Starts a ring. Rejects with {@link RingUnmappedError} when it is not in the memory. */
  startRing(index: number, memory: MemoryTable, ring: RingDescription): Promise<void>;
  /** Stops a ring; resolves with its base when nothing touches its memory any more. */
  stopRing(index: number): Promise<number>;
  /** The base of a running ring. */
  ringBase(index: number): Promise<number>;
  /** Goes over to another memory table. */
  setMemory(memory: MemoryTable): Promise<void>;
  /** Exchanges the descriptors of a running ring. Resolves when the old ones are out of use. */
  setRingFds(index: number, fds: { kick: number; call: number; err: number }): Promise<void>;
}

/** A region as the wire has it, before it is believed. */
export interface RawMemoryRegion {
  guestAddress: bigint;
  size: bigint;
  userAddress: bigint;
}

export interface RawVringAddresses {
  flags: number;
  desc: bigint;
  used: bigint;
  avail: bigint;
  log: bigint;
}

type FdKind = 'kick' | 'call' | 'err';

interface Vring {
  num: number;
  base: number;
  addresses: RingAddresses;
  kick: number;
  call: number;
  err: number;
  busyloopTimeout: number;
  backend: RingBackend | null;
}

const newVring = (): Vring => ({
  num: 1,
  base: 0,
  addresses: { desc: 0, avail: 0, used: 0 },
  kick: NO_FD,
  call: NO_FD,
  err: NO_FD,
  busyloopTimeout: 0,
  backend: null,
});

let nextMemoryId = 1;

/** Which ring of its queue pair a ring is: VHOST_NET_VQ_RX or VHOST_NET_VQ_TX. */
const ringOfPair = (index: number): number => index % VHOST_NET_VQ_MAX;

export class VhostDevice {
  #owner = 0;
  #features: Features = 0n;
  #backendFeatures: Features = 0n;
  #memory: MemoryTable | null = null;
  /** The memory's descriptors are ours to close. */
  #memoryOwned = false;
  /** Some region lies where no user memory can be. */
  #absurdRegion = false;
  readonly #vrings: Vring[];

  /** Rings 0 and 1 are the first queue pair's, 2 and 3 the second's, and so on. */
  constructor(pairs = 1) {
    this.#vrings = Array.from({ length: pairs * VHOST_NET_VQ_MAX }, newVring);
  }

  get features(): Features {
    return this.#features;
  }

  get backendFeatures(): Features {
    return this.#backendFeatures;
  }

  get memory(): MemoryTable | null {
    return this.#memory;
  }

  /** Process that owns the device, 0 for none. */
  get owner(): number {
    return this.#owner;
  }

  /** VHOST_SET_OWNER by process `pid`. */
  setOwner(pid: number): void {
    if (this.#owner !== 0)
      throw new VhostError(EBUSY, 'VHOST_SET_OWNER', `process ${this.#owner} owns the device already`);
    this.#owner = pid;
  }

  /** Refuses everybody but the owner. */
  checkOwner(pid: number, request: string): void {
    if (this.#owner === 0) throw new VhostError(EPERM, request, 'the device has no owner; VHOST_SET_OWNER comes first');
    if (this.#owner !== pid) {
      throw new VhostError(EPERM, request, `process ${pid} is not the owner, which is ${this.#owner}`);
    }
  }

  /** VHOST_RESET_OWNER: stops everything and forgets it. */
  async resetOwner(): Promise<void> {
    await this.#clear();
    this.#owner = 0;
  }

  /** The file was closed or the client died. */
  async destroy(): Promise<void> {
    await this.#clear();
    this.#owner = 0;
  }

  async #clear(): Promise<void> {
    for (let index = 0; index < this.#vrings.length; index++) {
      await this.#stop(index);
      const vring = this.#vrings[index]!;
      for (const fd of [vring.kick, vring.call, vring.err]) if (fd !== NO_FD) close(fd);
      this.#vrings[index] = newVring();
    }
    this.#replaceMemory(null, false);
    this.#absurdRegion = false;
    this.#features = 0n;
    this.#backendFeatures = 0n;
  }

  /** VHOST_SET_FEATURES. Rings that run keep what they were started with. */
  setFeatures(features: Features): void {
    const unknown = features & ~SUPPORTED_FEATURES;
    if (unknown !== 0n) {
      throw new VhostError(EOPNOTSUPP, 'VHOST_SET_FEATURES', `not supported: ${featureNames(unknown).join(', ')}`);
    }
    this.#features = features;
  }

  /** VHOST_SET_BACKEND_FEATURES. */
  setBackendFeatures(features: Features): void {
    const unknown = features & ~SUPPORTED_BACKEND_FEATURES;
    if (unknown !== 0n) {
      throw new VhostError(EOPNOTSUPP, 'VHOST_SET_BACKEND_FEATURES', `unknown bits 0x${unknown.toString(16)}`);
    }
    this.#backendFeatures = features;
  }

  /**
   * VHOST_SET_MEM_TABLE, for process `pid`, whose mappings are looked up now. Rings that run go over to it.
   * As in the kernel, regions may overlap and may lie nowhere: what matters is checked when a ring starts.
   */
  async setMemTable(pid: number, raw: RawMemoryRegion[]): Promise<void> {
    if (raw.length > VHOST_MAX_MEM_REGIONS) {
      throw new VhostError(E2BIG, 'VHOST_SET_MEM_TABLE', `${raw.length} regions, at most ${VHOST_MAX_MEM_REGIONS}`);
    }
    const regions: MemoryRegion[] = [];
    let absurd = false;
    for (const { guestAddress, size, userAddress } of raw) {
      if (guestAddress + size > 1n << 64n || (size === 0n && guestAddress !== 0n)) {
        throw new VhostError(
          EFAULT,
          'VHOST_SET_MEM_TABLE',
          `region at 0x${guestAddress.toString(16)} has ${size} bytes: empty, or past the end of 64 bits`,
        );
      }
      if (userAddress + size > BigInt(TASK_SIZE_MAX)) {
        absurd = true;
        continue;
      }
      if (guestAddress + size > BigInt(Number.MAX_SAFE_INTEGER)) continue;
      regions.push({ guestAddress: Number(guestAddress), size: Number(size), userAddress: Number(userAddress) });
    }
    const memory = fetchClientMemory(pid, regions);
    try {
      await this.#useMemory(memory, true, 'VHOST_SET_MEM_TABLE');
    } catch (error) {
      release(memory);
      throw error;
    }
    this.#absurdRegion = absurd;
  }

  /**
   * The memory table, as descriptors that came with it (VHOST_USER_SET_MEM_TABLE). They stay the caller's, who keeps them
   * open until another table is in force or the device is destroyed. Rings that run go over to it; where one cannot, the
   * request is refused, and the old table stays.
   */
  async setMemory(memory: ClientMemory, request: string): Promise<void> {
    await this.#useMemory(memory, false, request);
    this.#absurdRegion = false;
  }

  async #useMemory(client: ClientMemory, owned: boolean, request: string): Promise<void> {
    const memory: MemoryTable = { id: nextMemoryId++, ...client };
    const moved: RingBackend[] = [];
    try {
      for (const backend of new Set(this.#vrings.map((vring) => vring.backend))) {
        await backend?.setMemory(memory);
        if (backend) moved.push(backend);
      }
    } catch (error) {
      for (const backend of moved) await backend.setMemory(this.#memory!);
      if (!(error instanceof RingUnmappedError)) throw error;
      throw new VhostError(EFAULT, request, error.message);
    }
    this.#replaceMemory(memory, owned);
  }

  #replaceMemory(memory: MemoryTable | null, owned: boolean): void {
    if (this.#memory && this.#memoryOwned) release(this.#memory);
    this.#memory = memory;
    this.#memoryOwned = owned;
  }

  /** Whether rings are packed (virtio 1.2 §2.8). */
  get #packed(): boolean {
    return hasFeature(this.#features, VIRTIO_F_RING_PACKED);
  }

  #vring(index: number, request: string): Vring {
    if (index >= this.#vrings.length) {
      throw new VhostError(ENOBUFS, request, `ring ${index} of ${this.#vrings.length}`);
    }
    return this.#vrings[index]!;
  }

  /** Whether a ring has that index; else the kernel's answer. */
  checkIndex(index: number, request: string): void {
    this.#vring(index, request);
  }

  /** VHOST_SET_VRING_NUM. */
  setVringNum(index: number, num: number): void {
    const vring = this.#vring(index, 'VHOST_SET_VRING_NUM');
    if (vring.backend) throw new VhostError(EBUSY, 'VHOST_SET_VRING_NUM', `ring ${index} is running`);
    if (!isRingSize(num, this.#features)) {
      const legal = this.#packed ? '1 to 32768' : 'a power of two up to 32768';
      throw new VhostError(EINVAL, 'VHOST_SET_VRING_NUM', `ring ${index} of ${num} entries: not ${legal}`);
    }
    vring.num = num;
  }

  /** VHOST_SET_VRING_BASE. */
  setVringBase(index: number, base: number): void {
    const vring = this.#vring(index, 'VHOST_SET_VRING_BASE');
    if (vring.backend) throw new VhostError(EBUSY, 'VHOST_SET_VRING_BASE', `ring ${index} is running`);
    if (base > VRING_BASE_MAX && !this.#packed) {
      throw new VhostError(EINVAL, 'VHOST_SET_VRING_BASE', `ring ${index}: ${base} exceeds 65535`);
    }
    vring.base = base;
  }

  /** VHOST_GET_VRING_BASE. */
  async getVringBase(index: number): Promise<number> {
    const vring = this.#vring(index, 'VHOST_GET_VRING_BASE');
    return vring.backend ? await vring.backend.ringBase(ringOfPair(index)) : vring.base;
  }

  /** VHOST_SET_VRING_ADDR: checked against memory when the ring starts. */
  setVringAddr(index: number, raw: RawVringAddresses): void {
    const vring = this.#vring(index, 'VHOST_SET_VRING_ADDR');
    if ((raw.flags & ~(1 << VHOST_VRING_F_LOG)) !== 0) {
      throw new VhostError(
        EOPNOTSUPP,
        'VHOST_SET_VRING_ADDR',
        `ring ${index}: unknown flags 0x${raw.flags.toString(16)}`,
      );
    }
    const misaligned = (address: bigint, align: number): boolean => (address & BigInt(align - 1)) !== 0n;
    if (
      misaligned(raw.avail, VRING_AVAIL_ALIGN) ||
      misaligned(raw.used, VRING_USED_ALIGN) ||
      misaligned(raw.log, VRING_USED_ALIGN)
    ) {
      throw new VhostError(EINVAL, 'VHOST_SET_VRING_ADDR', `ring ${index}: avail, used or log is misaligned`);
    }
    const addresses = { desc: Number(raw.desc), avail: Number(raw.avail), used: Number(raw.used) };
    if (vring.backend) {
      // A running ring does not move; the kernel lets it, and no client does it.
      const same = RING_PARTS.every((part) => addresses[part] === vring.addresses[part]);
      if (!same) throw new VhostError(EINVAL, 'VHOST_SET_VRING_ADDR', `ring ${index} is running and cannot move`);
    }
    vring.addresses = addresses;
  }

  /** VHOST_SET_VRING_KICK, CALL or ERR. Takes over `fd`, an eventfd of this process, or -1 for none. */
  async setVringFd(index: number, kind: FdKind, fd: number): Promise<void> {
    const vring = this.#vring(index, `VHOST_SET_VRING_${kind.toUpperCase()}`);
    const old = vring[kind];
    vring[kind] = fd;
    if (vring.backend) {
      await vring.backend.setRingFds(ringOfPair(index), { kick: vring.kick, call: vring.call, err: vring.err });
    }
    if (old !== NO_FD) close(old);
  }

  /** VHOST_SET_VRING_BUSYLOOP_TIMEOUT: kept and given back; lanes have their own way of spinning. */
  setBusyloopTimeout(index: number, microseconds: number): void {
    this.#vring(index, 'VHOST_SET_VRING_BUSYLOOP_TIMEOUT').busyloopTimeout = microseconds;
  }

  getBusyloopTimeout(index: number): number {
    return this.#vring(index, 'VHOST_GET_VRING_BUSYLOOP_TIMEOUT').busyloopTimeout;
  }

  /**
   * VHOST_NET_SET_BACKEND. `resolve` finds the backend of the descriptor given (it may refuse with ENOTSOCK), and is
   * asked only after the checks that the kernel makes first; null stops the ring. Errors name `request`.
   */
  async setBackend(
    index: number,
    resolve: () => Promise<RingBackend | null>,
    request = 'VHOST_NET_SET_BACKEND',
  ): Promise<void> {
    const vring = this.#vring(index, request);
    this.#checkAccess(vring, index, request);
    const backend = await resolve();
    if (backend === vring.backend) return;
    await this.#stop(index);
    if (backend === null) return;
    if (backend.running.has(ringOfPair(index))) {
      throw new VhostError(EBUSY, request, `ring ${index} of that tap is run by another vhost-net file`);
    }
    const problem = ringLayoutProblem(vring, this.#features);
    if (problem !== null) throw new VhostError(EINVAL, request, `ring ${index}: ${problem}`);
    this.#checkRingReachable(vring, index, request);
    try {
      await backend.startRing(ringOfPair(index), this.#memory!, this.#description(vring));
    } catch (error) {
      if (!(error instanceof RingUnmappedError)) throw error;
      throw new VhostError(EFAULT, request, `ring ${index}: ${error.message}`);
    }
    vring.backend = backend;
  }

  /** Stops a ring if it runs; its base is kept. */
  async stopRing(index: number, request: string): Promise<void> {
    this.#vring(index, request);
    await this.#stop(index);
  }

  /** Whether a ring has its backend. */
  isRunning(index: number): boolean {
    return this.#vrings[index]?.backend != null;
  }

  #description(vring: Vring): RingDescription {
    const { addresses, num, base, kick, call, err } = vring;
    return { addresses, num, base, features: this.#features, kick, call, err };
  }

  /** vhost_vq_access_ok(): a memory table, and everything within user space. */
  #checkAccess({ addresses, num }: Vring, index: number, request: string): void {
    if (!this.#memory) {
      throw new VhostError(EFAULT, request, `ring ${index}: a memory table comes first`);
    }
    const sizes = ringPartBytes(num, this.#features);
    const outside = RING_PARTS.some((part) => addresses[part] + sizes[part] > TASK_SIZE_MAX);
    if (outside || this.#absurdRegion) {
      throw new VhostError(EFAULT, request, `ring ${index} or a memory region lies outside of user space`);
    }
  }

  #checkRingReachable(vring: Vring, index: number, request: string): void {
    const sizes = ringPartBytes(vring.num, this.#features);
    for (const part of RING_PARTS) {
      const address = vring.addresses[part];
      if (isReachable(this.#memory!, address, sizes[part])) continue;
      const what = `the ${part} part of ring ${index} at 0x${address.toString(16)} is not in memory of a region`;
      const cure = this.#memoryOwned
        ? ' that the client has mapped to read and write'
        : `, of those that came with a descriptor; ${SHARED_MEMORY_CURE}`;
      throw new VhostError(EFAULT, request, what + cure);
    }
  }

  async #stop(index: number): Promise<void> {
    const vring = this.#vrings[index]!;
    if (!vring.backend) return;
    const backend = vring.backend;
    vring.backend = null;
    vring.base = await backend.stopRing(ringOfPair(index));
  }

  /** The state for a log: plain data. */
  describe(): { owner: number; features: string[]; rings: { num: number; base: number; running: boolean }[] } {
    return {
      owner: this.#owner,
      features: featureNames(this.#features),
      rings: this.#vrings.map(({ num, base, backend }) => ({ num, base, running: backend !== null })),
    };
  }
}
