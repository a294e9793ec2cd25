/**
 * The interfaces behind the tun clone: what TUNSETIFF makes and finds by name, as tun.c of Linux does.
 *
 * An interface is a port of the switch; each opened file attached to it is one of its queues. It lives until its last
 * file is closed, or, after TUNSETPERSIST, until that is taken back.
 */
import { E2BIG, EBUSY, EINVAL } from '../linux/errno.ts';
import {
  ARPHRD_ETHER,
  IFF_MULTI_QUEUE,
  IFF_NAPI,
  IFF_NAPI_FRAGS,
  IFF_NO_PI,
  IFF_ONE_QUEUE,
  IFF_PERSIST,
  IFF_TAP,
  IFF_TUN,
  IFF_TUN_EXCL,
  IFF_VNET_HDR,
  IFNAMSIZ,
  MAX_TAP_QUEUES,
} from '../linux/if-tun.ts';
import type { FrameRing } from '../memory/frame-ring.ts';
import type { RingBackend } from '../vhost/vhost-device.ts';
import { VIRTIO_NET_HDR_BYTES } from '../vhost/virtio.ts';
import { FuseError } from './connection.ts';

/** TUN_FEATURES of tun.c: flags that an interface keeps and TUNGETIFF shows. */
export const TUN_FEATURES = IFF_NO_PI | IFF_ONE_QUEUE | IFF_VNET_HDR | IFF_MULTI_QUEUE | IFF_NAPI | IFF_NAPI_FRAGS;
const INT_MAX = 0x7fff_ffff;
/** Name of an interface whose caller gave none. */
const DEFAULT_TEMPLATE = 'tap%d';
/** Numbers that a `%d` template may become. */
const TEMPLATE_LIMIT = 32_768;

/** A queue of a switch port, as the main thread sees it. */
export interface PortQueueHandle extends RingBackend {
  /** Frames from the client to the switch; this side produces. Records: virtio-net header of 12 bytes, frame. */
  readonly inbox: FrameRing;
  /** Frames from the switch to the client; this side consumes. */
  readonly outbox: FrameRing;
  /** Wakes the lane, when {@link FrameRing.commit} said so. */
  wakeLane(): void;
  /** Called when frames have come into the outbox after {@link FrameRing.sleep}. */
  onMail: () => void;
  /** Called when the last running ring has stopped. */
  onIdle: () => void;
  /** TUNSETQUEUE. */
  attach(attached: boolean): Promise<void>;
  close(): Promise<void>;
}

/** A switch port, as the tun clone sees it. */
export interface PortHandle {
  /** Queue `index`, for process `pid`. */
  addQueue(index: number, pid: number): Promise<PortQueueHandle>;
  /** TUN_F_… offloads that the client takes. */
  setOffloads(offloads: number): Promise<void>;
  setCarrier(up: boolean): Promise<void>;
  remove(): Promise<void>;
}

/** The switch, as the tun clone sees it. */
export interface PortFactory {
  /** Whether some port has that name already, or the operator reserves it. */
  isTaken(name: string): boolean;
  createPort(name: string): Promise<PortHandle>;
}

export interface TunInterface {
  readonly name: string;
  readonly port: PortHandle;
  /** IFF_TAP and TUN_FEATURES. */
  flags: number;
  persistent: boolean;
  vnetHdrBytes: number;
  vnetLittleEndian: boolean;
  sndbuf: number;
  /** TUN_F_… as TUNSETOFFLOAD gave them. */
  offloads: number;
  /** Hardware address, 6 bytes, and its type (TUNSETLINK). */
  mac: Buffer;
  linkType: number;
  /** Indices of queues that files hold, attached or not. */
  queues: Set<number>;
  attachedQueues: number;
  /** Queues whose file is closed, and whose rings still run. */
  closingQueues: number;
}

/** A refusal by an interface that is about to go: the same request may succeed in a moment. */
export class ClosingError extends FuseError {}

/** As tun.c: with both flags IFF_TUN wins. */
const isTap = (flags: number): boolean => (flags & (IFF_TUN | IFF_TAP)) === IFF_TAP;

export class TunInterfaces {
  readonly #interfaces = new Map<string, TunInterface>();
  readonly #factory: PortFactory;
  readonly #randomBytes: (count: number) => Buffer;

  /** `randomBytes` makes hardware addresses. */
  constructor(factory: PortFactory, randomBytes: (count: number) => Buffer) {
    this.#factory = factory;
    this.#randomBytes = randomBytes;
  }

  get(name: string): TunInterface | undefined {
    return this.#interfaces.get(name);
  }

  values(): IterableIterator<TunInterface> {
    return this.#interfaces.values();
  }

  /** TUNSETIFF (tun_set_iff): finds or makes the interface for a name and flags. Then {@link claimQueue}. */
  async attach(name: string, flags: number): Promise<TunInterface> {
    const known = this.#interfaces.get(name);
    if (known) {
      try {
        this.#checkKnown(known, flags);
      } catch (error) {
        if (known.closingQueues === 0 || !(error instanceof FuseError)) throw error;
        throw new ClosingError(error.errno, `${error.message}, and its last user is just going`);
      }
      return known;
    }
    if (name !== '' && this.#factory.isTaken(name)) {
      throw new FuseError(flags & IFF_TUN_EXCL ? EBUSY : EINVAL, `TUNSETIFF: ${name} is a port of another kind`);
    }
    if (!isTap(flags)) {
      throw new FuseError(EINVAL, 'TUNSETIFF: a switch port is a tap (IFF_TAP); IFF_TUN has no Ethernet frames');
    }
    return this.#create(this.#freeName(name === '' ? DEFAULT_TEMPLATE : name), flags);
  }

  #checkKnown(known: TunInterface, flags: number): void {
    if (flags & IFF_TUN_EXCL)
      throw new FuseError(EBUSY, `TUNSETIFF: ${known.name} exists, and IFF_TUN_EXCL wants a new one`);
    if (!isTap(flags)) throw new FuseError(EINVAL, `TUNSETIFF: ${known.name} is a tap (IFF_TAP)`);
    if ((flags & IFF_MULTI_QUEUE) !== (known.flags & IFF_MULTI_QUEUE)) {
      throw new FuseError(EINVAL, `TUNSETIFF: IFF_MULTI_QUEUE differs from what ${known.name} was made with`);
    }
    this.checkRoom(known);
  }

  /** tun_attach: whether one more file may attach. */
  checkRoom(tun: TunInterface, detached = false): void {
    if ((tun.flags & IFF_MULTI_QUEUE) === 0 && tun.attachedQueues === 1) {
      throw new FuseError(EBUSY, `${tun.name} is in use; with IFF_MULTI_QUEUE it could be opened more than once`);
    }
    if (!detached && tun.queues.size === MAX_TAP_QUEUES) {
      throw new FuseError(E2BIG, `${tun.name} has ${MAX_TAP_QUEUES} queues already`);
    }
  }

  async #create(name: string, flags: number): Promise<TunInterface> {
    const mac = this.#randomBytes(6);
    mac[0] = (mac[0]! & 0xfe) | 0x02; // unicast, locally administered (IEEE 802 §8.4)
    const tun: TunInterface = {
      name,
      port: await this.#factory.createPort(name),
      flags: IFF_TAP | (flags & TUN_FEATURES),
      persistent: false,
      vnetHdrBytes: VIRTIO_NET_HDR_BYTES,
      vnetLittleEndian: false,
      sndbuf: INT_MAX,
      offloads: 0,
      mac,
      linkType: ARPHRD_ETHER,
      queues: new Set(),
      attachedQueues: 0,
      closingQueues: 0,
    };
    this.#interfaces.set(name, tun);
    return tun;
  }

  /** The first free index. */
  claimQueue(tun: TunInterface): number {
    let index = 0;
    while (tun.queues.has(index)) index++;
    tun.queues.add(index);
    return index;
  }

  /** A file let go of its queue: the interface goes with the last one, unless it is persistent. */
  async releaseQueue(tun: TunInterface, index: number): Promise<void> {
    tun.queues.delete(index);
    await this.collect(tun);
  }

  /** Removes an interface that nobody needs any more. */
  async collect(tun: TunInterface): Promise<void> {
    if (tun.queues.size > 0 || tun.persistent || !this.#interfaces.delete(tun.name)) return;
    await tun.port.remove();
  }

  /** Removes a persistent interface that nobody has open (`port remove`). False when it is open or unknown. */
  async remove(name: string): Promise<boolean> {
    const tun = this.#interfaces.get(name);
    if (!tun || tun.queues.size > 0) return false;
    tun.persistent = false;
    await this.collect(tun);
    return true;
  }

  /** dev_get_valid_name of Linux: checks a name, and fills the `%d` of a template with the first free number. */
  #freeName(name: string): string {
    if (name.length >= IFNAMSIZ || name === '.' || name === '..' || /[/:\s]/.test(name)) {
      throw new FuseError(EINVAL, `TUNSETIFF: ${JSON.stringify(name)} is no interface name`);
    }
    const at = name.indexOf('%');
    if (at < 0) return name;
    if (name[at + 1] !== 'd' || name.indexOf('%', at + 2) >= 0) {
      throw new FuseError(EINVAL, `TUNSETIFF: ${JSON.stringify(name)}: a template has exactly one %d`);
    }
    for (let number = 0; number < TEMPLATE_LIMIT; number++) {
      const candidate = name.slice(0, at) + number + name.slice(at + 2);
      if (candidate.length >= IFNAMSIZ) break;
      if (!this.#interfaces.has(candidate) && !this.#factory.isTaken(candidate)) return candidate;
    }
    throw new FuseError(EINVAL, `TUNSETIFF: no free name for ${JSON.stringify(name)}`);
  }
}

/** The flags that TUNGETIFF shows. */
export function shownFlags(tun: TunInterface): number {
  return tun.flags | (tun.persistent ? IFF_PERSIST : 0);
}
