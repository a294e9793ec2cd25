/**
 * The clone of /dev/net/tun: its files, and what tun.c of Linux answers to their ioctls. Frames are in tun-frames.ts.
 *
 *     TUNSETIFF ──► attached to queue n of an interface ──► TUNSETQUEUE detach ⇄ attach ──► close
 *
 * docs/ioctls.md has the table of all requests. Where a client hands the file to a vhost-net (SET_BACKEND), frames cross
 * virtqueues instead, and this file only waits.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { EADDRNOTAVAIL, EBADFD, EEXIST, EINVAL, ENOTTY, EPERM } from '../linux/errno.ts';
import {
  FLT_EXACT_COUNT,
  IFF_ATTACH_QUEUE,
  IFF_DETACH_QUEUE,
  IFF_MULTI_QUEUE,
  IFF_NAPI,
  IFF_NAPI_FRAGS,
  IFF_NO_CARRIER,
  IFF_NOFILTER,
  IFF_TAP,
  IFF_TUN,
  IFF_VNET_HDR,
  IFNAMSIZ,
  IFR_DATA_OFFSET,
  IFREQ_BYTES,
  ifreqName,
  SIOCGIFHWADDR,
  SIOCGSKNS,
  SIOCSIFHWADDR,
  TUN_F_CSUM,
  TUN_F_TSO_ECN,
  TUN_F_TSO4,
  TUN_F_TSO6,
  TUN_F_UFO,
  TUN_F_USO4,
  TUN_F_USO6,
  TUN_FILTER_BYTES,
  TUN_IOCTL_NAMES,
  TUNGETFEATURES,
  TUNGETIFF,
  TUNGETSNDBUF,
  TUNGETVNETBE,
  TUNGETVNETHDRSZ,
  TUNGETVNETLE,
  TUNSETCARRIER,
  TUNSETDEBUG,
  TUNSETGROUP,
  TUNSETIFF,
  TUNSETIFINDEX,
  TUNSETLINK,
  TUNSETNOCSUM,
  TUNSETOFFLOAD,
  TUNSETOWNER,
  TUNSETPERSIST,
  TUNSETQUEUE,
  TUNSETSNDBUF,
  TUNSETTXFILTER,
  TUNSETVNETBE,
  TUNSETVNETHDRSZ,
  TUNSETVNETLE,
} from '../linux/if-tun.ts';
import { POLLERR } from '../linux/poll.ts';
import { readProcessMemory, writeProcessMemory } from '../linux/process.ts';
import { VIRTIO_NET_HDR_BYTES } from '../vhost/virtio.ts';
import { FuseError, type Request } from './connection.ts';
import type { Device, DeviceFile, IoctlCall, IoctlResult } from './device-tree.ts';
import type { Log } from './log.ts';
import { TunFrames } from './tun-frames.ts';
import {
  ClosingError,
  type PortQueueHandle,
  shownFlags,
  TUN_FEATURES,
  type TunInterface,
  type TunInterfaces,
} from './tun-interfaces.ts';

/** Flags that TUNGETFEATURES shows. */
const SHOWN_FEATURES = IFF_TUN | IFF_TAP | IFF_NO_CARRIER | TUN_FEATURES;
const INT_BYTES = 4;
const MAC_BYTES = 6;
const CLOSING_RETRY_MS = 5;
const CLOSING_TRIES = 10;
/** (uid_t)-1, which no user has. */
const INVALID_ID = -1;

/** Requests whose value stands in the argument: the kernel cannot deliver them, a seccomp notification does. */
export const VALUE_REQUESTS = [
  TUNSETNOCSUM,
  TUNSETDEBUG,
  TUNSETPERSIST,
  TUNSETOWNER,
  TUNSETLINK,
  TUNSETGROUP,
  TUNSETOFFLOAD,
];

const int32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(INT_BYTES);
  bytes.writeInt32LE(value | 0);
  return bytes;
};

export class TunDevice implements Device {
  readonly interfaces: TunInterfaces;
  readonly log: Log;
  readonly notifyPoll: (kh: bigint) => void;
  #last: Promise<unknown> = Promise.resolve();

  /** `notifyPoll`: tells the kernel that the readiness of a polled file has changed. */
  constructor(interfaces: TunInterfaces, log: Log, notifyPoll: (kh: bigint) => void) {
    this.interfaces = interfaces;
    this.log = log;
    this.notifyPoll = notifyPoll;
  }

  open(): TunFile {
    return new TunFile(this);
  }

  /** Requests on all tun files come one at a time, as under the kernel's rtnl lock. */
  exclusively<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(work, work);
    this.#last = done.catch(() => {});
    return done;
  }
}

export class TunFile implements DeviceFile {
  readonly #device: TunDevice;
  #tun: TunInterface | null = null;
  #queue: PortQueueHandle | null = null;
  #frames: TunFrames | null = null;
  #index = -1;
  #attached = false;
  #closed = false;

  constructor(device: TunDevice) {
    this.#device = device;
  }

  /** Where vhost may run the rings of this file, or null before TUNSETIFF. */
  get queue(): PortQueueHandle | null {
    return this.#queue;
  }

  /** Name of the interface, or null before TUNSETIFF. */
  get interfaceName(): string | null {
    return this.#tun?.name ?? null;
  }

  // ---- ioctl

  /**
   * TUNSETIFF of a name whose last user has closed it, and whose rings are just stopping, is tried again for a moment:
   * close(2) does not wait for us.
   */
  async ioctl(call: IoctlCall): Promise<IoctlResult> {
    for (let tries = 1; ; tries++) {
      try {
        return await this.#device.exclusively(() => this.#ioctl(call));
      } catch (error) {
        if (!(error instanceof ClosingError) || tries === CLOSING_TRIES) throw error;
        await delay(CLOSING_RETRY_MS);
      }
    }
  }

  async #ioctl(call: IoctlCall): Promise<IoctlResult> {
    const { cmd, input, request, arg } = call;
    switch (cmd) {
      case TUNGETFEATURES:
        return { result: 0, output: int32(SHOWN_FEATURES) };
      case TUNSETQUEUE:
        await this.#setQueue(this.#readIfreq(call).readUInt16LE(IFR_DATA_OFFSET));
        return { result: 0 };
      case TUNSETIFF:
        await this.#setIff(call);
        return { result: 0 };
      case TUNSETIFINDEX:
        this.#checkIfindex(input.readInt32LE(0));
        return { result: 0 };
    }
    if (!TUN_IOCTL_NAMES.has(cmd) || cmd === SIOCGSKNS) this.#notServed(cmd);
    // Socket requests bring their struct ifreq first, whatever the file's state (tun_chr_ioctl).
    const ifr = cmd === SIOCGIFHWADDR || cmd === SIOCSIFHWADDR ? this.#readIfreq(call) : null;
    const tun = this.#tun;
    if (!tun) throw new FuseError(EBADFD, `${TUN_IOCTL_NAMES.get(cmd)}: TUNSETIFF comes first`);
    switch (cmd) {
      case TUNGETIFF: {
        const ifr = this.#emitIff(tun);
        writeProcessMemory(request.tid, arg, ifr);
        return { result: 0, output: ifr.subarray(0, INT_BYTES) };
      }
      case TUNGETSNDBUF:
        return { result: 0, output: int32(tun.sndbuf) };
      case TUNSETSNDBUF: {
        const sndbuf = input.readInt32LE(0);
        if (sndbuf <= 0) throw new FuseError(EINVAL, `TUNSETSNDBUF: ${sndbuf} is not positive`);
        tun.sndbuf = sndbuf;
        return { result: 0 };
      }
      case TUNGETVNETHDRSZ:
        return { result: 0, output: int32(tun.vnetHdrBytes) };
      case TUNSETVNETHDRSZ: {
        const bytes = input.readInt32LE(0);
        if (bytes < VIRTIO_NET_HDR_BYTES) {
          throw new FuseError(EINVAL, `TUNSETVNETHDRSZ: ${bytes} is less than ${VIRTIO_NET_HDR_BYTES}`);
        }
        tun.vnetHdrBytes = bytes;
        return { result: 0 };
      }
      case TUNGETVNETLE:
        return { result: 0, output: int32(tun.vnetLittleEndian ? 1 : 0) };
      case TUNSETVNETLE:
        tun.vnetLittleEndian = input.readInt32LE(0) !== 0;
        return { result: 0 };
      case TUNGETVNETBE:
      case TUNSETVNETBE:
        throw new FuseError(
          EINVAL,
          'big-endian headers are not served, as in a kernel without CONFIG_TUN_VNET_CROSS_LE',
        );
      case TUNSETCARRIER:
        await tun.port.setCarrier(input.readInt32LE(0) !== 0);
        return { result: 0 };
      case TUNSETTXFILTER:
        // Frames for other addresses never come here once the address is learned; the filter is a saving, not a rule.
        return { result: this.#readTxFilter(call) };
      case SIOCGIFHWADDR:
        this.#getHwaddr(tun, call, ifr!);
        return { result: 0 };
      case SIOCSIFHWADDR:
        this.#setHwaddr(tun, ifr!);
        return { result: 0 };
      default:
        return this.#notServed(cmd);
    }
  }

  #notServed(cmd: number): never {
    const name = TUN_IOCTL_NAMES.get(cmd) ?? `ioctl 0x${cmd.toString(16)}`;
    throw new FuseError(ENOTTY, `/dev/net/tun: ${name} is not served`);
  }

  /** A request of {@link VALUE_REQUESTS} with its value, from a seccomp notification. */
  ioctlValue(cmd: number, value: number): Promise<number> {
    return this.#device.exclusively(async () => {
      const tun = this.#tun;
      if (!tun) throw new FuseError(EBADFD, `${TUN_IOCTL_NAMES.get(cmd)}: TUNSETIFF comes first`);
      switch (cmd) {
        case TUNSETOFFLOAD:
          await this.#setOffload(tun, value);
          return 0;
        case TUNSETPERSIST:
          tun.persistent = value !== 0;
          return 0;
        case TUNSETLINK:
          tun.linkType = value;
          return 0;
        case TUNSETOWNER:
        case TUNSETGROUP:
          if (value === INVALID_ID) throw new FuseError(EINVAL, `${TUN_IOCTL_NAMES.get(cmd)}: -1 is nobody`);
          return 0; // Who may open the device is the mount's business (configuration: mount).
        case TUNSETNOCSUM: // Ignored by the kernel too.
        case TUNSETDEBUG:
          return 0;
        default:
          return this.#notServed(cmd);
      }
    });
  }

  /** update_filter of tun.c: what it returns is how many addresses are filtered exactly. */
  #readTxFilter({ request, arg }: IoctlCall): number {
    const count = readProcessMemory(request.tid, arg, TUN_FILTER_BYTES).readUInt16LE(2);
    const addresses = readProcessMemory(request.tid, arg + BigInt(TUN_FILTER_BYTES), count * MAC_BYTES);
    // Beyond the exact ones only groups can be filtered (by hash); with another address there is no filter at all.
    for (let i = FLT_EXACT_COUNT; i < count; i++) if ((addresses[i * MAC_BYTES]! & 1) === 0) return 0;
    return Math.min(count, FLT_EXACT_COUNT);
  }

  /** A struct ifreq of the caller: the kernel brought at most its first 4 bytes. */
  #readIfreq({ request, arg }: IoctlCall): Buffer {
    return readProcessMemory(request.tid, arg, IFREQ_BYTES);
  }

  async #setIff(call: IoctlCall): Promise<void> {
    const ifr = this.#readIfreq(call);
    if (this.#tun) throw new FuseError(EEXIST, `TUNSETIFF: the file is attached to ${this.#tun.name} already`);
    ifr[IFNAMSIZ - 1] = 0;
    const flags = ifr.readUInt16LE(IFR_DATA_OFFSET);
    if ((flags & IFF_NAPI_FRAGS) !== 0 && ((flags & IFF_NAPI) === 0 || (flags & IFF_TAP) === 0)) {
      throw new FuseError(EINVAL, 'TUNSETIFF: IFF_NAPI_FRAGS wants IFF_NAPI and IFF_TAP');
    }
    const { interfaces } = this.#device;
    const tun = await interfaces.attach(ifreqName(ifr), flags);
    const index = interfaces.claimQueue(tun);
    try {
      this.#queue = await tun.port.addQueue(index, call.request.pid);
    } catch (error) {
      await interfaces.releaseQueue(tun, index);
      throw error;
    }
    this.#frames = new TunFrames(tun, this.#queue, this.#device.notifyPoll);
    this.#index = index;
    this.#tun = tun;
    this.#attached = true;
    tun.attachedQueues++;
    if (tun.queues.size === 1) await this.#reflag(tun, flags);
    await tun.port.setCarrier((flags & IFF_NO_CARRIER) === 0);
    this.#device.log.info(`${tun.name}: queue ${index} opened by process ${call.request.pid}`, { port: tun.name });
    ifr.write(tun.name.padEnd(IFNAMSIZ, '\0'), 0, 'latin1');
    writeProcessMemory(call.request.tid, call.arg, ifr);
    if (this.#closed) await this.#detachAll();
  }

  /** The first file to attach decides the flags, and with them whether offloads can be told. */
  async #reflag(tun: TunInterface, flags: number): Promise<void> {
    tun.flags = (tun.flags & ~TUN_FEATURES) | (flags & TUN_FEATURES);
    await this.#applyOffloads(tun);
  }

  /** TUNSETIFINDEX: a switch port has no interface index, so a wish for one is checked and forgotten. */
  #checkIfindex(ifindex: number): void {
    if (this.#tun) throw new FuseError(EPERM, 'TUNSETIFINDEX: the file is attached already');
    if (ifindex < 0) throw new FuseError(EINVAL, `TUNSETIFINDEX: ${ifindex} is negative`);
  }

  async #setQueue(flags: number): Promise<void> {
    const tun = this.#tun;
    if ((flags & IFF_ATTACH_QUEUE) !== 0) {
      if (!tun || this.#attached) throw new FuseError(EINVAL, 'TUNSETQUEUE: IFF_ATTACH_QUEUE wants a detached queue');
      this.#device.interfaces.checkRoom(tun, true);
      await this.#setAttached(tun, true);
    } else if ((flags & IFF_DETACH_QUEUE) !== 0) {
      if (!tun || (tun.flags & IFF_MULTI_QUEUE) === 0 || !this.#attached) {
        throw new FuseError(EINVAL, 'TUNSETQUEUE: IFF_DETACH_QUEUE wants an attached queue of a multi-queue interface');
      }
      await this.#setAttached(tun, false);
    } else throw new FuseError(EINVAL, 'TUNSETQUEUE: neither IFF_ATTACH_QUEUE nor IFF_DETACH_QUEUE');
  }

  async #setAttached(tun: TunInterface, attached: boolean): Promise<void> {
    await this.#queue!.attach(attached);
    this.#attached = attached;
    tun.attachedQueues += attached ? 1 : -1;
  }

  #emitIff(tun: TunInterface): Buffer {
    const ifr = Buffer.alloc(IFREQ_BYTES);
    ifr.write(tun.name, 0, 'latin1');
    const flags = shownFlags(tun) | IFF_NOFILTER | (this.#attached ? 0 : IFF_DETACH_QUEUE);
    ifr.writeUInt16LE(flags, IFR_DATA_OFFSET);
    return ifr;
  }

  /** set_offload of tun.c. */
  async #setOffload(tun: TunInterface, value: number): Promise<void> {
    let unknown = value;
    let offloads = 0;
    if (value & TUN_F_CSUM) {
      offloads = TUN_F_CSUM;
      unknown &= ~(TUN_F_CSUM | TUN_F_UFO);
      if (value & (TUN_F_TSO4 | TUN_F_TSO6)) {
        offloads |= value & (TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN);
        unknown &= ~(TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN);
      }
      if ((value & TUN_F_USO4) !== 0 && (value & TUN_F_USO6) !== 0) {
        offloads |= TUN_F_USO4 | TUN_F_USO6;
        unknown &= ~(TUN_F_USO4 | TUN_F_USO6);
      }
    }
    if (unknown !== 0)
      throw new FuseError(EINVAL, `TUNSETOFFLOAD: cannot do 0x${unknown.toString(16)} of 0x${value.toString(16)}`);
    tun.offloads = offloads;
    await this.#applyOffloads(tun);
  }

  /** Without IFF_VNET_HDR there is no header to say anything in. */
  async #applyOffloads(tun: TunInterface): Promise<void> {
    await tun.port.setOffloads((tun.flags & IFF_VNET_HDR) !== 0 ? tun.offloads : 0);
  }

  #getHwaddr(tun: TunInterface, call: IoctlCall, ifr: Buffer): void {
    ifr.writeUInt16LE(tun.linkType, IFR_DATA_OFFSET);
    tun.mac.copy(ifr, IFR_DATA_OFFSET + 2);
    writeProcessMemory(call.request.tid, call.arg, ifr);
  }

  #setHwaddr(tun: TunInterface, ifr: Buffer): void {
    const family = ifr.readUInt16LE(IFR_DATA_OFFSET);
    const mac = ifr.subarray(IFR_DATA_OFFSET + 2, IFR_DATA_OFFSET + 2 + MAC_BYTES);
    if (family !== tun.linkType) throw new FuseError(EINVAL, `SIOCSIFHWADDR: family ${family} is not ${tun.linkType}`);
    if ((mac[0]! & 1) !== 0 || mac.every((byte) => byte === 0)) {
      throw new FuseError(EADDRNOTAVAIL, `SIOCSIFHWADDR: ${mac.toString('hex')} is no unicast address`);
    }
    tun.mac = Buffer.from(mac);
  }

  // ---- frames

  #opened(): TunFrames {
    if (!this.#frames) throw new FuseError(EBADFD, 'TUNSETIFF comes first');
    return this.#frames;
  }

  read(request: Request, size: number, nonBlocking: boolean): Buffer | Promise<Buffer> {
    return this.#opened().read(request, size, nonBlocking);
  }

  write(request: Request, data: Buffer, nonBlocking: boolean): number | Promise<number> {
    return this.#opened().write(request, data, nonBlocking);
  }

  poll(kh: bigint, schedule: boolean): number {
    return this.#frames?.poll(kh, schedule) ?? POLLERR;
  }

  // ---- the end

  /** vhost keeps a tap whose rings run, as it holds a reference to the file in the kernel: the last ring lets it go. */
  async release(): Promise<void> {
    this.#closed = true;
    const queue = this.#queue;
    const tun = this.#tun;
    if (tun && queue && queue.running.size > 0) {
      tun.closingQueues++;
      await new Promise<void>((resolve) => {
        queue.onIdle = resolve;
      });
      tun.closingQueues--;
    }
    await this.#device
      .exclusively(() => this.#detachAll())
      .catch((error) => this.#device.log.error(`closing a tun file: ${(error as Error).message}`));
  }

  async #detachAll(): Promise<void> {
    const tun = this.#tun;
    const queue = this.#queue;
    if (!tun || !queue) return;
    this.#tun = null;
    this.#queue = null;
    this.#frames?.close();
    this.#frames = null;
    if (this.#attached) tun.attachedQueues--;
    await queue.close();
    await this.#device.interfaces.releaseQueue(tun, this.#index);
    this.#device.log.info(`${tun.name}: queue ${this.#index} closed`, { port: tun.name });
  }
}
