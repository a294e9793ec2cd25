/**
 * One vhost-user connection, seen from the back-end: a front-end's messages become calls of the vhost state machine, and
 * what that says becomes answers. Sockets and time stay outside: messages come in, an answer (or none) goes out.
 *
 *     front-end ── messages ──► VhostUserSession.handle ──► VhostDevice ──► RingBackend of each queue pair
 *               ◄── answers ───────────┘
 *
 * Ring states (§ "Ring states" of QEMU's docs/interop/vhost-user.rst). A ring runs while it is started and enabled:
 *
 *     stopped ── SET_VRING_KICK ──► started        disabled ── SET_VRING_ENABLE 1, or SET_FEATURES without
 *        ◄────── GET_VRING_BASE ───┘                  ◄─ 0 ──┘         VHOST_USER_F_PROTOCOL_FEATURES ──► enabled
 *
 * As in DPDK, a disabled ring stands still: frames in it wait, where the document would have them thrown away.
 *
 * What cannot be done is said in the acknowledgement, where one is wanted and was negotiated; else {@link handle} rejects,
 * and whoever owns the connection ends it: there is no other way to say it. Either way the front-end may come back.
 *
 * One message at a time. GET_INFLIGHT_FD, SET_INFLIGHT_FD and SET_LOG_BASE, when they come, are one case each here, and an
 * area for {@link VhostDevice} that is shared by all rings, as the memory table is.
 */
import fs from 'node:fs';
import { EINVAL, EOPNOTSUPP } from '../linux/errno.ts';
import { close, setNonBlocking } from '../linux/file.ts';
import { TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6 } from '../linux/if-tun.ts';
import { SystemError } from '../linux/libc.ts';
import { VHOST_NET_VQ_MAX } from '../linux/vhost.ts';
import { MAX_FRAME_BYTES } from '../memory/frame-batch.ts';
import { type RingBackend, SUPPORTED_FEATURES, VhostDevice, VhostError } from './vhost-device.ts';
import { MAX_MEM_SLOTS, VhostUserMemory } from './vhost-user-memory.ts';
import {
  hasAnswer,
  readMemTable,
  readSingleRegion,
  readU64,
  readVringAddr,
  readVringFile,
  readVringState,
  u64Reply,
  VHOST_USER_ADD_MEM_REG,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_USER_GET_FEATURES,
  VHOST_USER_GET_MAX_MEM_SLOTS,
  VHOST_USER_GET_PROTOCOL_FEATURES,
  VHOST_USER_GET_QUEUE_NUM,
  VHOST_USER_GET_STATUS,
  VHOST_USER_GET_VRING_BASE,
  VHOST_USER_NET_SET_MTU,
  VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  VHOST_USER_PROTOCOL_F_MQ,
  VHOST_USER_PROTOCOL_F_MTU,
  VHOST_USER_PROTOCOL_F_RARP,
  VHOST_USER_PROTOCOL_F_REPLY_ACK,
  VHOST_USER_PROTOCOL_F_RESET_DEVICE,
  VHOST_USER_PROTOCOL_F_STATUS,
  VHOST_USER_REM_MEM_REG,
  VHOST_USER_RESET_DEVICE,
  VHOST_USER_RESET_OWNER,
  VHOST_USER_SEND_RARP,
  VHOST_USER_SET_FEATURES,
  VHOST_USER_SET_MEM_TABLE,
  VHOST_USER_SET_OWNER,
  VHOST_USER_SET_PROTOCOL_FEATURES,
  VHOST_USER_SET_STATUS,
  VHOST_USER_SET_VRING_ADDR,
  VHOST_USER_SET_VRING_BASE,
  VHOST_USER_SET_VRING_CALL,
  VHOST_USER_SET_VRING_ENABLE,
  VHOST_USER_SET_VRING_ERR,
  VHOST_USER_SET_VRING_KICK,
  VHOST_USER_SET_VRING_NUM,
  VhostUserError,
  type VhostUserMessage,
  vringStateReply,
} from './vhost-user-messages.ts';
import {
  type Features,
  featureNames,
  featureSet,
  hasFeature,
  VIRTIO_NET_F_CSUM,
  VIRTIO_NET_F_CTRL_VQ,
  VIRTIO_NET_F_GUEST_ANNOUNCE,
  VIRTIO_NET_F_GUEST_CSUM,
  VIRTIO_NET_F_GUEST_ECN,
  VIRTIO_NET_F_GUEST_TSO4,
  VIRTIO_NET_F_GUEST_TSO6,
  VIRTIO_NET_F_GUEST_USO4,
  VIRTIO_NET_F_GUEST_USO6,
  VIRTIO_NET_F_HOST_ECN,
  VIRTIO_NET_F_HOST_TSO4,
  VIRTIO_NET_F_HOST_TSO6,
  VIRTIO_NET_F_HOST_USO,
  VIRTIO_NET_F_MQ,
  VIRTIO_NET_F_MTU,
} from './virtio.ts';

/** What VHOST_USER_GET_FEATURES answers. The control queue is the front-end's own, which only needs our leave to have it. */
export const OFFERED_FEATURES: Features =
  SUPPORTED_FEATURES |
  featureSet(
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GUEST_ANNOUNCE,
    VIRTIO_NET_F_MQ,
    VHOST_USER_F_PROTOCOL_FEATURES,
  );

/** What VHOST_USER_GET_PROTOCOL_FEATURES answers. */
export const OFFERED_PROTOCOL_FEATURES: Features = featureSet(
  VHOST_USER_PROTOCOL_F_MQ,
  VHOST_USER_PROTOCOL_F_RARP,
  VHOST_USER_PROTOCOL_F_REPLY_ACK,
  VHOST_USER_PROTOCOL_F_MTU,
  VHOST_USER_PROTOCOL_F_RESET_DEVICE,
  VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  VHOST_USER_PROTOCOL_F_STATUS,
);

/** What the guest takes (VIRTIO_NET_F_GUEST_…), as a port has it. */
const OFFLOADS: [feature: number, offload: number][] = [
  [VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM],
  [VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4],
  [VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6],
  [VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN],
  [VIRTIO_NET_F_GUEST_USO4, TUN_F_USO4],
  [VIRTIO_NET_F_GUEST_USO6, TUN_F_USO6],
];

const SUCCESS = 0n;
const FAILURE = 1n;
/** Of VHOST_USER_SET_STATUS: the driver resets the device (virtio 1.2 §2.1.2). */
const STATUS_RESET = 0n;
/** The smallest MTU of IPv4 (RFC 791), and what an Ethernet header with a VLAN tag leaves of the longest frame. */
const MIN_MTU = 68n;
const MAX_MTU = BigInt(MAX_FRAME_BYTES - 18);
const MAC_BYTES = 6;
/** A front-end whose process has no number here (another PID namespace) owns the device all the same. */
const UNKNOWN_PID = -1;

/** The switch port that a connection serves. */
export interface VhostUserTarget {
  /** Where the rings of each queue pair run. */
  readonly queues: readonly RingBackend[];
  /** TUN_F_… offloads that the guest takes. */
  setOffloads(offloads: number): Promise<void>;
  /** VHOST_USER_SEND_RARP: tells the network that the guest with this MAC address is here now. */
  announce(mac: Uint8Array): void;
}

/** What the session wants of a logger. */
export interface SessionLog {
  debug(message: string): void;
  warn(message: string): void;
}

interface RingState {
  started: boolean;
  enabled: boolean;
}

export class VhostUserSession {
  readonly #target: VhostUserTarget;
  readonly #pid: number;
  readonly #log: SessionLog;
  readonly #device: VhostDevice;
  readonly #rings: RingState[];
  #memory = new VhostUserMemory();
  #protocolFeatures: Features = 0n;
  #status = STATUS_RESET;

  /** For the front-end in process `pid`, 0 when that is not known. */
  constructor(target: VhostUserTarget, pid: number, log: SessionLog) {
    this.#target = target;
    this.#pid = pid;
    this.#log = log;
    this.#device = new VhostDevice(target.queues.length);
    this.#rings = Array.from({ length: target.queues.length * VHOST_NET_VQ_MAX }, () => ({
      started: false,
      enabled: false,
    }));
  }

  /**
   * Carries a message out, and takes its descriptors over. Resolves with the answer, or with null where the protocol has
   * none. Rejects when the connection must end: with {@link VhostUserError}, or with what a lane failed with.
   */
  async handle(message: VhostUserMessage): Promise<Buffer | null> {
    const { request, name, fds } = message;
    const acknowledged =
      message.needReply && hasFeature(this.#protocolFeatures, VHOST_USER_PROTOCOL_F_REPLY_ACK) && !hasAnswer(request);
    try {
      const answer = await this.#carryOut(message);
      return answer ?? (acknowledged ? u64Reply(request, SUCCESS) : null);
    } catch (error) {
      // What the state machine refuses. With anything else (a lane that cannot map the memory) this connection is over.
      if (!(error instanceof VhostError)) throw error;
      if (!acknowledged) throw new VhostUserError(name, error.reason);
      this.#log.warn(`${name}: ${error.reason}; the front-end is told so`);
      return u64Reply(request, FAILURE);
    } finally {
      for (const fd of fds.splice(0)) close(fd);
    }
  }

  /** The connection has ended: stops all rings and forgets everything. */
  async close(): Promise<void> {
    try {
      await this.#device.destroy();
    } finally {
      this.#memory.release();
      this.#memory = new VhostUserMemory();
    }
  }

  async #carryOut(message: VhostUserMessage): Promise<Buffer | null> {
    const { request, name, payload } = message;
    const device = this.#device;
    switch (request) {
      case VHOST_USER_GET_FEATURES:
        return u64Reply(request, OFFERED_FEATURES);
      case VHOST_USER_SET_FEATURES:
        await this.#setFeatures(readU64(payload), name);
        return null;
      case VHOST_USER_GET_PROTOCOL_FEATURES:
        return u64Reply(request, OFFERED_PROTOCOL_FEATURES);
      case VHOST_USER_SET_PROTOCOL_FEATURES:
        this.#setProtocolFeatures(readU64(payload), name);
        return null;
      case VHOST_USER_GET_QUEUE_NUM:
        return u64Reply(request, BigInt(this.#target.queues.length));
      case VHOST_USER_SET_OWNER:
        if (device.owner === 0) device.setOwner(this.#pid || UNKNOWN_PID);
        return null;
      case VHOST_USER_RESET_OWNER:
        // "It is recommended that back-ends either ignore this message, or use it to disable all rings."
        return null;
      case VHOST_USER_RESET_DEVICE:
        await this.#reset(name);
        for (const ring of this.#rings) ring.enabled = false;
        return null;
      case VHOST_USER_SET_STATUS:
        this.#status = readU64(payload);
        if (this.#status === STATUS_RESET) await this.#reset(name);
        return null;
      case VHOST_USER_GET_STATUS:
        return u64Reply(request, this.#status);
      case VHOST_USER_GET_MAX_MEM_SLOTS:
        return u64Reply(request, BigInt(MAX_MEM_SLOTS));
      case VHOST_USER_SET_MEM_TABLE:
      case VHOST_USER_ADD_MEM_REG:
      case VHOST_USER_REM_MEM_REG:
        await this.#setMemory(message);
        return null;
      case VHOST_USER_SEND_RARP:
        this.#target.announce(payload.subarray(0, MAC_BYTES));
        return null;
      case VHOST_USER_NET_SET_MTU:
        checkMtu(readU64(payload), name);
        return null;
    }
    return await this.#vringMessage(message);
  }

  async #vringMessage(message: VhostUserMessage): Promise<Buffer | null> {
    const { request, name, payload } = message;
    const device = this.#device;
    switch (request) {
      case VHOST_USER_SET_VRING_NUM: {
        const { index, num } = readVringState(payload);
        device.setVringNum(index, num);
        return null;
      }
      case VHOST_USER_SET_VRING_BASE: {
        const { index, num } = readVringState(payload);
        device.setVringBase(index, num);
        return null;
      }
      case VHOST_USER_SET_VRING_ADDR: {
        const { index, ...addresses } = readVringAddr(payload);
        device.setVringAddr(index, addresses);
        return null;
      }
      case VHOST_USER_GET_VRING_BASE: {
        const { index } = readVringState(payload);
        device.checkIndex(index, name);
        await this.#stop(index, name);
        return vringStateReply(request, { index, num: await device.getVringBase(index) });
      }
      case VHOST_USER_SET_VRING_ENABLE: {
        const { index, num } = readVringState(payload);
        device.checkIndex(index, name);
        if (num > 1) throw new VhostError(EINVAL, name, `ring ${index}: ${num} is neither 0 nor 1`);
        this.#rings[index]!.enabled = num === 1;
        await this.#apply(index, name);
        return null;
      }
      case VHOST_USER_SET_VRING_KICK:
      case VHOST_USER_SET_VRING_CALL:
      case VHOST_USER_SET_VRING_ERR:
        await this.#setVringFile(message);
        return null;
      default:
        throw new VhostError(EOPNOTSUPP, name, 'is not served: it belongs to a feature that was not offered');
    }
  }

  async #setFeatures(features: Features, name: string): Promise<void> {
    const unknown = features & ~OFFERED_FEATURES;
    if (unknown !== 0n) {
      throw new VhostError(EOPNOTSUPP, name, `not offered: ${featureNames(unknown).join(', ')}`);
    }
    this.#device.setFeatures(features & SUPPORTED_FEATURES);
    let offloads = 0;
    for (const [feature, offload] of OFFLOADS) if (hasFeature(features, feature)) offloads |= offload;
    await this.#target.setOffloads(offloads);
    if (hasFeature(features, VHOST_USER_F_PROTOCOL_FEATURES)) return;
    for (const [index, ring] of this.#rings.entries()) {
      ring.enabled = true;
      await this.#apply(index, name);
    }
  }

  #setProtocolFeatures(features: Features, name: string): void {
    const unknown = features & ~OFFERED_PROTOCOL_FEATURES;
    if (unknown !== 0n) throw new VhostError(EOPNOTSUPP, name, `not offered: bits 0x${unknown.toString(16)}`);
    this.#protocolFeatures = features;
  }

  async #setMemory({ request, name, payload, fds }: VhostUserMessage): Promise<void> {
    const old = this.#memory;
    if (request === VHOST_USER_SET_MEM_TABLE) {
      let memory = new VhostUserMemory();
      for (const [i, region] of readMemTable(payload).entries()) {
        const more = memory.with(region, fds[i]!, name);
        if (more.unused !== null) throw new VhostError(EINVAL, name, 'it has one region twice');
        memory = more.memory;
      }
      await this.#device.setMemory(memory.client, name);
      this.#memory = memory;
      fds.length = 0; // They are the table's now.
      old.release();
    } else {
      const region = readSingleRegion(payload);
      const adding = request === VHOST_USER_ADD_MEM_REG;
      const { memory, unused } = adding ? old.with(region, fds[0]!, name) : old.without(region, name);
      if (memory.regions !== old.regions) await this.#device.setMemory(memory.client, name);
      this.#memory = memory;
      if (adding) fds.length = 0;
      if (unused !== null) close(unused);
    }
    this.#log.debug(`${name}: now ${this.#memory.regions} regions, ${this.#memory.bytes} bytes`);
  }

  async #setVringFile(message: VhostUserMessage): Promise<void> {
    const { request, name, fds } = message;
    const { index, hasFd } = readVringFile(message);
    this.#device.checkIndex(index, name);
    if (hasFd) checkEventfd(fds[0]!, index, name);
    const fd = fds.shift() ?? -1;
    if (request === VHOST_USER_SET_VRING_CALL) return await this.#device.setVringFd(index, 'call', fd);
    if (request === VHOST_USER_SET_VRING_ERR) return await this.#device.setVringFd(index, 'err', fd);
    await this.#device.setVringFd(index, 'kick', fd);
    if (!hasFd) this.#log.warn(`${name}: ring ${index} has no kick: a sleeping lane looks at it only once a second`);
    this.#rings[index]!.started = true;
    await this.#apply(index, name);
  }

  /** Lets a ring run, or stand still, as its state has it. */
  async #apply(index: number, name: string): Promise<void> {
    const { started, enabled } = this.#rings[index]!;
    const device = this.#device;
    if (!started || !enabled) return await device.stopRing(index, name);
    if (device.isRunning(index)) return;
    const queue = this.#target.queues[Math.floor(index / VHOST_NET_VQ_MAX)]!;
    try {
      await device.setBackend(index, async () => queue, name);
    } catch (error) {
      this.#rings[index]!.started = false;
      throw error;
    }
    this.#log.debug(`${name}: ring ${index} runs`);
  }

  /** Stops a ring until it is started with another kick. */
  async #stop(index: number, name: string): Promise<void> {
    this.#rings[index]!.started = false;
    await this.#apply(index, name);
    await this.#device.setVringFd(index, 'kick', -1);
  }

  /** Stops all rings, which begin anew. What the front-end may not say again (memory, call eventfds) is kept. */
  async #reset(name: string): Promise<void> {
    this.#status = STATUS_RESET;
    for (const index of this.#rings.keys()) {
      await this.#stop(index, name);
      this.#device.setVringBase(index, 0);
    }
  }
}

function checkMtu(mtu: bigint, name: string): void {
  if (mtu < MIN_MTU || mtu > MAX_MTU) throw new VhostError(EINVAL, name, `${mtu} is not from ${MIN_MTU} to ${MAX_MTU}`);
}

/** Also sees to it that the lane never waits in read(2) or write(2) for the front-end. */
function checkEventfd(fd: number, index: number, name: string): void {
  const what = fs.readlinkSync(`/proc/self/fd/${fd}`);
  if (what !== 'anon_inode:[eventfd]')
    throw new VhostError(EINVAL, name, `ring ${index}: the descriptor is no eventfd (${what})`);
  try {
    setNonBlocking(fd);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    throw new VhostError(EINVAL, name, `ring ${index}: ${error.message}`);
  }
}
