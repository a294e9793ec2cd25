/**
 * The switch's ports as the main thread knows them: their names and ids, who uses them, and how to ask their lane.
 *
 * A guest port belongs to the tun clone, which makes and removes it; a tap belongs to the operator, and so does a vhost-user
 * port (vhost-user-ports.ts).
 */

import { randomInt } from 'node:crypto';
import type { Log } from '../fuse/log.ts';
import type { PortFactory, PortHandle, PortQueueHandle } from '../fuse/tun-interfaces.ts';
import { drainEventfd, eventfd } from '../linux/eventfd.ts';
import { close } from '../linux/file.ts';
import { TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6 } from '../linux/if-tun.ts';
import { commandName } from '../linux/process.ts';
import { VHOST_NET_VQ_RX } from '../linux/vhost.ts';
import { type Watch, watchReadable } from '../linux/watch.ts';
import { isPrivate, privateBytes, SHARED_MEMORY_CURE, sharedBytes } from '../memory/client-memory.ts';
import { FrameRing, frameRingBytes } from '../memory/frame-ring.ts';
import { SharedBuffer } from '../memory/shared-buffer.ts';
import type { CardQueueDescription } from '../switch/card-queue.ts';
import { newCounters, type PortCounters, readCounters } from '../switch/counters.ts';
import { INBOX_BYTES, OUTBOX_BYTES } from '../switch/guest-queue.ts';
import { IMPAIRED_DIRECTIONS } from '../switch/impairment.ts';
import type { LaneEvent } from '../switch/lane.ts';
import { MAX_PORT } from '../switch/learning-table.ts';
import { newWireMemory } from '../switch/wire-time.ts';
import { RING_PARTS } from '../vhost/ring-layout.ts';
import type { MemoryTable } from '../vhost/vhost-device.ts';
import type { RingDescription } from '../vhost/virtqueue.ts';
import { ControlError, type PortStatus, type VhostUserMode } from './control.ts';
import { formatImpairment, type ImpairmentRequests, MAX_SEED } from './impairment-options.ts';
import type { LaneClient } from './lane-client.ts';
import type { Lanes } from './lanes.ts';
import { openKernelVhostNet, openTap } from './tap.ts';

const OFFLOAD_NAMES: [bit: number, name: string][] = [
  [TUN_F_CSUM, 'csum'],
  [TUN_F_TSO4, 'tso4'],
  [TUN_F_TSO6, 'tso6'],
  [TUN_F_TSO_ECN, 'tso-ecn'],
  [TUN_F_USO4, 'uso4'],
  [TUN_F_USO6, 'uso6'],
];
/** Names of the rings of a queue pair, by vhost index: the guest receives from rx. */
export const RING_NAMES = ['rx', 'tx'] as const;

const NO_FD = -1;

/** What a vhost-user port knows of its socket. */
export interface VhostUserStatus {
  path: string;
  mode: VhostUserMode;
  connected: boolean;
  /** Of the peer; 0 without one. */
  pid: number;
}

/** What a card's port knows of its card. */
export interface CardStatus {
  device: string;
  queues: number;
  speedMbps: number;
}

/** What the owner of a card does with its port. */
export interface CardPortHandle {
  /** The card's queues are enabled: the lane hands out buffers. */
  start(): Promise<void>;
  setCarrier(up: boolean): Promise<void>;
  /** The card is no longer there; `message` says so to the operator. */
  lose(message: string): Promise<void>;
  remove(): Promise<void>;
}

interface Port {
  id: number;
  name: string;
  kind: PortStatus['kind'];
  /** Where it is: one lane, or for a network card all that have queues of it. */
  lane: LaneClient;
  lanes: LaneClient[];
  /** For each of these lanes. */
  counters: PortCounters[];
  linkUp: boolean;
  carrierUp: boolean;
  impairment: PortStatus['impairment'];
  offloads: number;
  persistent: boolean;
  queues: Map<number, GuestPortQueue>;
  /** The kernel's tun file, for a tap; -1 for a guest. */
  tapFd: number;
  /** The kernel's vhost-net file that serves the tap; -1 without. */
  vhostFd: number;
  vhostUser: (() => VhostUserStatus) | null;
  card: (() => CardStatus) | null;
  error: string | null;
  /** Processes that a warning was given about. */
  warned: Set<number>;
  /** Set when its removal has begun. */
  removed?: Promise<void>;
}

export class SwitchPorts implements PortFactory {
  readonly #lanes: Lanes;
  readonly #log: Log;
  /** By name of port: what a port of that name has from its beginning. */
  readonly #impairments: Record<string, ImpairmentRequests>;
  readonly #ports = new Map<string, Port>();
  readonly #mailFd = eventfd();
  readonly #mail: Watch;
  /** Told of a port that has left its lanes. */
  onRemoved: (id: number) => void = () => {};

  constructor(lanes: Lanes, log: Log, impairments: Record<string, ImpairmentRequests> = {}) {
    this.#lanes = lanes;
    this.#log = log;
    this.#impairments = impairments;
    this.#mail = watchReadable(this.#mailFd, () => {
      drainEventfd(this.#mailFd);
      for (const port of this.#ports.values()) for (const queue of port.queues.values()) queue.onMail();
    });
    lanes.on('event', (event) => this.#hear(event));
  }

  // ---- guests, for the tun clone

  isTaken(name: string): boolean {
    return this.#ports.has(name);
  }

  async createPort(name: string): Promise<PortHandle> {
    return await this.#createGuestPort(this.#newPort(name, 'guest'));
  }

  /** A port whose rings come over vhost-user; `status` tells how its socket is. */
  async createVhostUserPort(name: string, status: () => VhostUserStatus): Promise<PortHandle> {
    const port = this.#newPort(name, 'vhost-user');
    port.vhostUser = status;
    return await this.#createGuestPort(port);
  }

  /** A port of a card's queues, down until the card has a link. Rejects when the lane cannot map their memory. */
  async createCardPort(
    name: string,
    offloads: number,
    queues: CardQueueDescription[],
    status: () => CardStatus,
  ): Promise<CardPortHandle> {
    const port = this.#newPort(name, 'nic', queues.length);
    const { lanes, id } = port;
    port.card = status;
    port.offloads = offloads;
    port.carrierUp = false;
    const added: LaneClient[] = [];
    try {
      for (const [n, lane] of lanes.entries()) {
        const share = queues.filter((_, queue) => queue % lanes.length === n);
        const elsewhere = lanes.filter((other) => other !== lane).map((other) => this.#lanes.all.indexOf(other));
        await lane.call('addCardPort', id, name, port.counters[n]!, offloads, share, { elsewhere, isFirst: n === 0 });
        added.push(lane);
      }
      await this.#impairFirst(port);
    } catch (error) {
      for (const lane of added) await lane.call('removePort', id);
      this.#forget(port);
      throw error;
    }
    const callEach = async (command: 'startCard' | 'loseCard'): Promise<void> => {
      for (const lane of lanes) await lane.call(command, id);
    };
    await this.#applyLink(port);
    return {
      start: () => callEach('startCard'),
      setCarrier: async (up) => {
        port.carrierUp = up;
        await this.#applyLink(port);
      },
      lose: async (message) => {
        port.error = message;
        port.carrierUp = false;
        await callEach('loseCard');
        await this.#applyLink(port);
      },
      remove: () => this.#remove(port),
    };
  }

  async #createGuestPort(port: Port): Promise<PortHandle> {
    const { lane, name } = port;
    await lane.call('addGuestPort', port.id, name, port.counters[0]!);
    await this.#impairFirst(port);
    this.#log.info(`${name}: port ${port.id} made`, { port: name });
    return {
      addQueue: async (index, pid) => {
        const queue = new GuestPortQueue(lane, port.id, index, pid, this.#mailFd);
        await lane.call('addQueue', port.id, index, queue.mailbox);
        port.queues.set(index, queue);
        queue.onClosed = () => port.queues.delete(index);
        queue.onCopied = (pid) => this.#warnOfCopies(port, pid);
        return queue;
      },
      setOffloads: async (offloads) => {
        port.offloads = offloads;
        await lane.call('setOffloads', port.id, offloads);
      },
      setCarrier: async (up) => {
        port.carrierUp = up;
        await this.#applyLink(port);
      },
      remove: () => this.#remove(port),
    };
  }

  /** Once for each port and client. */
  #warnOfCopies({ name, warned }: Port, pid: number): void {
    if (warned.has(pid)) return;
    warned.add(pid);
    this.#log.warn(
      `${name}: the memory of its client (${commandName(pid)}, process ${pid}) is private to it: every batch of frames costs ` +
        `system calls; ${SHARED_MEMORY_CURE}`,
      { port: name, pid },
    );
  }

  // ---- taps and the operator

  async addTap(name: string, persistent: boolean): Promise<PortStatus> {
    if (this.#ports.has(name)) throw new ControlError(409, 'EEXIST', `there is a port ${name} already`);
    const port = this.#newPort(name, 'tap');
    port.persistent = persistent;
    try {
      const { fd, offloads } = openTap(name, persistent);
      port.tapFd = fd;
      port.offloads = offloads;
    } catch (error) {
      this.#forget(port);
      const { code = 'EINVAL', message } = error as Error & { code?: string };
      throw new ControlError(400, code, `tap ${name}: ${message}`);
    }
    try {
      await this.#addToLane(port);
    } catch (error) {
      this.#forget(port);
      close(port.tapFd);
      throw error;
    }
    await this.#impairFirst(port);
    const how = port.vhostFd >= 0 ? "the kernel's vhost-net" : 'read and write';
    this.#log.info(`${name}: port ${port.id} made for a Linux tap, over ${how}`, { port: name });
    return this.#status(port);
  }

  /** Over the kernel's vhost-net where that works, else over the tap's own file. */
  async #addToLane(port: Port): Promise<void> {
    const add = (vhostFd: number): Promise<void> =>
      port.lane.call('addTapPort', port.id, port.name, port.counters[0]!, port.tapFd, port.offloads, vhostFd);
    const opened = openKernelVhostNet();
    let reason: string;
    if ('fd' in opened) {
      try {
        await add(opened.fd);
        port.vhostFd = opened.fd;
        return;
      } catch (error) {
        close(opened.fd);
        if (!port.lane.alive) throw error;
        reason = (error as Error).message;
      }
    } else reason = opened.reason;
    this.#log.info(`${port.name}: reads and writes the tap, a system call a frame: ${reason}`, { port: port.name });
    await add(NO_FD);
  }

  /** Removes a tap; a guest's port goes when its files are closed. */
  async removeTap(name: string): Promise<void> {
    const port = this.#get(name);
    if (port.kind !== 'tap') {
      throw new ControlError(409, 'EBUSY', `${name} is a guest's port and in use; it goes when its process closes it`);
    }
    await this.#remove(port);
  }

  async setLink(name: string, up: boolean): Promise<PortStatus> {
    const port = this.#get(name);
    port.linkUp = up;
    await this.#applyLink(port);
    this.#log.info(`${name}: link ${up ? 'up' : 'down'}`, { port: name });
    return this.#status(port);
  }

  /** Begins, changes or ends the impairment of a port. ControlError when there is none, or no memory for it. */
  async setImpairment(name: string, requests: ImpairmentRequests): Promise<PortStatus> {
    const port = this.#get(name);
    await this.#impair(port, requests);
    return this.#status(port);
  }

  /** As the configuration has it; a port whose impairment fails goes on without. */
  async #impairFirst(port: Port): Promise<void> {
    const { name } = port;
    const requests = Object.hasOwn(this.#impairments, name) ? this.#impairments[name] : undefined;
    if (!requests) return;
    await this.#impair(port, requests).catch(({ message }) => this.#log.error(message, { port: name }));
  }

  async #impair(port: Port, requests: ImpairmentRequests): Promise<void> {
    const { name, id, lanes } = port;
    const drawn = randomInt(MAX_SEED + 1);
    for (const [stream, direction] of IMPAIRED_DIRECTIONS.entries()) {
      const request = requests[direction];
      if (request === undefined) continue;
      const impairment = request && { ...request, seed: request.seed ?? drawn };
      const wire = newWireMemory();
      try {
        for (const [n, lane] of lanes.entries()) {
          const own = stream + n * IMPAIRED_DIRECTIONS.length;
          await lane.call('setImpairment', id, { [direction]: impairment && { impairment, stream: own, wire } });
        }
      } catch (error) {
        throw new ControlError(400, 'EIO', `${name} cannot be impaired: ${(error as Error).message}`);
      }
      port.impairment[direction] = impairment;
      const what = impairment ? `impaired: ${formatImpairment(impairment)}` : 'not impaired any more';
      this.#log.info(`${name}: frames ${direction} the port are ${what}`, { port: name });
    }
  }

  /** Where a port is. ControlError when there is none, or no longer. */
  placeOf(name: string): { id: number; lanes: readonly LaneClient[] } {
    const { id, lanes, removed } = this.#get(name);
    if (removed) throw new ControlError(404, 'ENODEV', `port ${name} is being removed`);
    return { id, lanes };
  }

  status(name: string): PortStatus {
    return this.#status(this.#get(name));
  }

  list(): PortStatus[] {
    return [...this.#ports.values()].map((port) => this.#status(port));
  }

  /** Name of the port with an id; `port N` when it has just gone. */
  nameOf(id: number): string {
    for (const port of this.#ports.values()) if (port.id === id) return port.name;
    return `port ${id}`;
  }

  /** Removes the taps that are left; the guests' ports have gone with their files. */
  async close(): Promise<void> {
    for (const port of [...this.#ports.values()]) await this.#remove(port);
    this.#mail.close();
    close(this.#mailFd);
  }

  // ---- parts

  /** `queues`: of a network card, which may be of as many lanes; others are of one. */
  #newPort(name: string, kind: Port['kind'], queues = 0): Port {
    const taken = new Set([...this.#ports.values()].map((port) => port.id));
    let id = 1;
    while (taken.has(id)) id++;
    if (id > MAX_PORT) throw new ControlError(409, 'ENOSPC', `all ${MAX_PORT} ports are taken`);
    const lanes = queues === 0 ? [this.#lanes.join(name)] : this.#lanes.joinAll(name, queues);
    const port: Port = {
      id,
      name,
      kind,
      lane: lanes[0]!,
      lanes,
      counters: lanes.map(() => newCounters()),
      linkUp: true,
      carrierUp: true,
      impairment: { to: null, from: null },
      offloads: 0,
      persistent: false,
      queues: new Map(),
      tapFd: NO_FD,
      vhostFd: NO_FD,
      vhostUser: null,
      card: null,
      error: null,
      warned: new Set(),
    };
    this.#ports.set(name, port);
    return port;
  }

  #forget(port: Port): void {
    this.#ports.delete(port.name);
    for (const lane of port.lanes) this.#lanes.leave(lane);
  }

  #get(name: string): Port {
    const port = this.#ports.get(name);
    if (port) return port;
    const known = [...this.#ports.keys()].join(', ') || 'none';
    throw new ControlError(404, 'ENODEV', `there is no port ${name}; there are: ${known}`);
  }

  async #applyLink(port: Port): Promise<void> {
    const up = port.linkUp && port.carrierUp;
    for (const lane of port.lanes) await lane.call('setLink', port.id, up);
    if (!up) await this.#lanes.callAll('forgetPort', [port.id], port.lanes);
  }

  /** Once, whoever asks: its client that goes, the operator, or the end of the daemon. */
  #remove(port: Port): Promise<void> {
    port.removed ??= this.#removeNow(port);
    return port.removed;
  }

  async #removeNow(port: Port): Promise<void> {
    if (port.lane.alive) {
      for (const lane of port.lanes) await lane.call('removePort', port.id);
      await this.#lanes.callAll('forgetPort', [port.id], port.lanes);
    }
    this.onRemoved(port.id);
    this.#forget(port);
    if (port.vhostFd >= 0) close(port.vhostFd);
    if (port.tapFd >= 0) close(port.tapFd);
    this.#log.info(`${port.name}: port ${port.id} removed`, { port: port.name });
  }

  #hear(event: LaneEvent): void {
    const port = [...this.#ports.values()].find(({ id }) => id === event.port);
    if (!port) return;
    if (event.event === 'tap-gone') {
      port.error = 'the interface was deleted; remove the port';
      this.#log.warn(`${port.name}: ${port.error}`, { port: port.name });
      return;
    }
    if (event.event === 'tap-broken') {
      port.error = `${event.message}; remove the port and add it again`;
      this.#log.error(`${port.name}: ${port.error}`, { port: port.name });
      return;
    }
    const { queue, index, error } = event;
    const ring = RING_NAMES[index];
    this.#log.warn(`${port.name}: its guest broke ring ${ring} of queue ${queue}, which stops: ${error.message}`, {
      port: port.name,
      queue,
      ring,
      code: error.code,
    });
  }

  #status(port: Port): PortStatus {
    const queues = [...port.queues.values()];
    const { pid: peer = 0, ...vhostUser } = port.vhostUser?.() ?? {};
    const pids = new Set([...queues.map((queue) => queue.pid), peer].filter((pid) => pid > 0));
    const card = port.card?.() ?? null;
    const path = pathOf(port.kind, queues, port.vhostFd >= 0);
    const carrierUp = port.carrierUp && port.error === null && (port.kind !== 'vhost-user' || path !== 'none');
    return {
      id: port.id,
      name: port.name,
      kind: port.kind,
      link: port.linkUp ? 'up' : 'down',
      carrier: carrierUp ? 'up' : 'down',
      offloads: OFFLOAD_NAMES.filter(([bit]) => (port.offloads & bit) !== 0).map(([, name]) => name),
      queues: port.kind === 'tap' ? 1 : (card?.queues ?? queues.length),
      path,
      vhostUser: port.vhostUser ? (vhostUser as PortStatus['vhostUser']) : null,
      nic: card ? { device: card.device, speedMbps: card.speedMbps } : null,
      impairment: { ...port.impairment },
      persistent: port.persistent,
      clients: [...pids].map((pid) => ({ pid, command: commandName(pid) })),
      mac: null,
      counters: sumCounters(port.counters),
      error: port.error,
    };
  }
}

function sumCounters(all: PortCounters[]): Record<string, number> {
  const sums = readCounters(all[0]!);
  for (const counters of all.slice(1)) {
    for (const [name, value] of Object.entries(readCounters(counters))) sums[name] = sums[name]! + value;
  }
  return sums;
}

function pathOf(kind: Port['kind'], queues: GuestPortQueue[], kernelVhost: boolean): PortStatus['path'] {
  if (kind === 'nic') return 'card';
  if (kind === 'tap') return kernelVhost ? 'vhost' : 'file';
  const served = queues.filter((queue) => queue.running.size > 0).length;
  if (kind === 'vhost-user') return served === 0 ? 'none' : 'vhost-user';
  if (queues.length === 0) return 'none';
  if (served === 0) return 'file';
  if (served < queues.length) return 'mixed';
  return queues.some((queue) => queue.copied) ? 'vhost-copied' : 'vhost';
}

/** A queue of a guest's port: its mailbox memory, and its rings by way of the lane. */
class GuestPortQueue implements PortQueueHandle {
  readonly pid: number;
  readonly inbox: FrameRing;
  readonly outbox: FrameRing;
  /** Rings that vhost runs here. */
  readonly running = new Set<number>();
  /** Frames or rings are copied by system calls: the client does not share that memory. */
  copied = false;
  /** Told of the process whose memory it is. */
  onCopied: (pid: number) => void = () => {};
  onMail: () => void = () => {};
  onClosed: () => void = () => {};
  onIdle: () => void = () => {};
  readonly mailbox: { inbox: number; outbox: number; mailFd: number };
  readonly #lane: LaneClient;
  readonly #port: number;
  readonly #index: number;
  readonly #memory: SharedBuffer;

  constructor(lane: LaneClient, port: number, index: number, pid: number, mailFd: number) {
    this.#lane = lane;
    this.#port = port;
    this.#index = index;
    this.pid = pid;
    this.#memory = new SharedBuffer(frameRingBytes(INBOX_BYTES) + frameRingBytes(OUTBOX_BYTES));
    const inbox = this.#memory.address;
    const outbox = inbox + frameRingBytes(INBOX_BYTES);
    this.inbox = new FrameRing(inbox, INBOX_BYTES);
    this.outbox = new FrameRing(outbox, OUTBOX_BYTES);
    this.mailbox = { inbox, outbox, mailFd };
  }

  wakeLane(): void {
    this.#lane.wake();
  }

  async attach(attached: boolean): Promise<void> {
    await this.#lane.call('attachQueue', this.#port, this.#index, attached);
  }

  async close(): Promise<void> {
    this.onMail = () => {};
    await this.#lane.call('removeQueue', this.#port, this.#index);
    this.onClosed();
    this.#memory.free();
  }

  async startRing(ring: number, memory: MemoryTable, description: RingDescription): Promise<void> {
    this.running.add(ring);
    // Frames that waited for a read(2) are old: the guest shall not see them when vhost stops again.
    if (ring === VHOST_NET_VQ_RX) this.outbox.discard();
    try {
      await this.#lane.call('startRing', this.#port, this.#index, ring, memory, description);
    } catch (error) {
      this.running.delete(ring);
      throw error;
    }
    const privateRing = RING_PARTS.some((part) => isPrivate(memory, description.addresses[part], 1));
    this.#noteMemory(memory, privateRing || (this.copied && this.running.size > 1));
  }

  #noteMemory(memory: MemoryTable, privateRings: boolean): void {
    this.copied = privateRings || privateBytes(memory) > sharedBytes(memory);
    if (this.copied && memory.copied) this.onCopied(memory.copied.pid);
  }

  async stopRing(ring: number): Promise<number> {
    try {
      return await this.#lane.call('stopRing', this.#port, this.#index, ring);
    } finally {
      this.running.delete(ring);
      if (this.running.size === 0) this.onIdle();
    }
  }

  async ringBase(ring: number): Promise<number> {
    return await this.#lane.call('ringBase', this.#port, this.#index, ring);
  }

  async setMemory(memory: MemoryTable): Promise<void> {
    await this.#lane.call('setMemory', this.#port, this.#index, memory);
    this.#noteMemory(memory, false);
  }

  async setRingFds(ring: number, fds: { kick: number; call: number; err: number }): Promise<void> {
    await this.#lane.call('setRingFds', this.#port, this.#index, ring, fds);
    // A kick given to the old eventfd while nobody listened must not be lost.
    this.#lane.wake();
  }
}
