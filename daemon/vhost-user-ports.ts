/**
 * Ports whose guests come over vhost-user: QEMU's `-netdev vhost-user`, Cloud Hypervisor, DPDK's virtio-user.
 *
 *     port (name, id, learned addresses, counters: as long as the operator has it)
 *      └─ socket path ── server: we listen, one peer at a time      client: we connect, again and again until it is there
 *           └─ VhostUserConnection (as long as its peer stays) ── rings of the port's queues
 *
 * Without a connection frames for the port are dropped, and counted as tx_drop_link_down.
 */
import fs from 'node:fs';
import path from 'node:path';
import type { Log } from '../fuse/log.ts';
import { makeDirectory } from '../fuse/make-directory.ts';
import type { PortHandle, PortQueueHandle } from '../fuse/tun-interfaces.ts';
import { close } from '../linux/file.ts';
import { addressOf, SystemError } from '../linux/libc.ts';
import { memcpy } from '../linux/mman.ts';
import { acceptUnix, bindUnix, connectUnix, listenUnix } from '../linux/unix-socket.ts';
import { VHOST_NET_VQ_RX } from '../linux/vhost.ts';
import { type Watch, watchReadable } from '../linux/watch.ts';
import { rarpRequest } from '../vhost/rarp.ts';
import type { MemoryTable, RingBackend } from '../vhost/vhost-device.ts';
import type { VhostUserTarget } from '../vhost/vhost-user-session.ts';
import { VIRTIO_NET_HDR_MRG_RXBUF_BYTES } from '../vhost/virtio.ts';
import type { RingDescription } from '../vhost/virtqueue.ts';
import { ControlError, type PortStatus, type VhostUserOptions } from './control.ts';
import { freeSocketPath, makePrivately } from './socket-file.ts';
import type { SwitchPorts } from './switch-ports.ts';
import { VhostUserConnection } from './vhost-user-connection.ts';

/** In client mode: how long to wait before the next try, doubled each time up to the most. */
const FIRST_DELAY_MS = 100;
const MAX_DELAY_MS = 2000;

/** Who may connect to a socket that we make. */
export interface SocketOwner {
  uid: number;
  gid: number;
  mode: number;
}

export class VhostUserPorts {
  readonly #ports: SwitchPorts;
  readonly #owner: SocketOwner;
  readonly #log: Log;
  readonly #byName = new Map<string, VhostUserPort>();

  constructor(ports: SwitchPorts, owner: SocketOwner, log: Log) {
    this.#ports = ports;
    this.#owner = owner;
    this.#log = log;
  }

  /** Makes a port. ControlError when its name or its path is taken, or the socket cannot be made. */
  async add(options: VhostUserOptions): Promise<PortStatus> {
    const { name, mode } = options;
    if (this.#ports.isTaken(name)) throw new ControlError(409, 'EEXIST', `there is a port ${name} already`);
    let port: VhostUserPort | undefined;
    const handle = await this.#ports.createVhostUserPort(name, () => ({
      path: options.path,
      mode,
      connected: port?.connected ?? false,
      pid: port?.pid ?? 0,
    }));
    try {
      const queues: VhostUserQueue[] = [];
      for (let index = 0; index < options.queues; index++) queues.push(await VhostUserQueue.add(handle, index));
      port = new VhostUserPort(options, handle, queues, this.#log);
      if (mode === 'server') await port.listen(this.#owner);
      else port.connect();
    } catch (error) {
      await port?.close();
      await handle.remove();
      throw error;
    }
    this.#byName.set(name, port);
    this.#log.info(`${name}: vhost-user ${mode} on ${options.path}, ${options.queues} queue pairs`, { port: name });
    return this.#ports.status(name);
  }

  /** Removes a port; false when there is none of that name. */
  async remove(name: string): Promise<boolean> {
    const port = this.#byName.get(name);
    if (!port) return false;
    this.#byName.delete(name);
    await port.close();
    await port.handle.remove();
    return true;
  }

  /** Removes all. */
  async close(): Promise<void> {
    for (const name of [...this.#byName.keys()]) await this.remove(name);
  }
}

/** A queue pair; flows go to it only while its guest can receive from it. */
class VhostUserQueue implements RingBackend {
  readonly handle: PortQueueHandle;

  static async add(port: PortHandle, index: number): Promise<VhostUserQueue> {
    const handle = await port.addQueue(index, 0);
    await handle.attach(false);
    return new VhostUserQueue(handle);
  }

  private constructor(handle: PortQueueHandle) {
    this.handle = handle;
  }

  get running(): ReadonlySet<number> {
    return this.handle.running;
  }

  async startRing(index: number, memory: MemoryTable, ring: RingDescription): Promise<void> {
    await this.handle.startRing(index, memory, ring);
    if (index === VHOST_NET_VQ_RX) await this.handle.attach(true);
  }

  async stopRing(index: number): Promise<number> {
    if (index === VHOST_NET_VQ_RX) await this.handle.attach(false);
    return await this.handle.stopRing(index);
  }

  ringBase(index: number): Promise<number> {
    return this.handle.ringBase(index);
  }

  setMemory(memory: MemoryTable): Promise<void> {
    return this.handle.setMemory(memory);
  }

  setRingFds(index: number, fds: { kick: number; call: number; err: number }): Promise<void> {
    return this.handle.setRingFds(index, fds);
  }
}

class VhostUserPort implements VhostUserTarget {
  readonly handle: PortHandle;
  readonly queues: readonly VhostUserQueue[];
  readonly #name: string;
  readonly #path: string;
  readonly #log: Log;
  #connection: VhostUserConnection | null = null;
  /** Server: the listening socket, and the inode of its path. */
  #listener = -1;
  #inode = 0;
  #watch: Watch | null = null;
  /** A new peer waits until nothing of a dead one is left. */
  #accepting: Promise<void> = Promise.resolve();
  /** Until the next try. */
  #timer: NodeJS.Timeout | undefined;
  /** Client. */
  #delayMs = FIRST_DELAY_MS;
  #connectedAt = 0;
  #complained = '';
  #closed = false;

  constructor({ name, path }: VhostUserOptions, handle: PortHandle, queues: VhostUserQueue[], log: Log) {
    this.handle = handle;
    this.queues = queues;
    this.#name = name;
    this.#path = path;
    this.#log = log;
  }

  get connected(): boolean {
    return this.#connection !== null;
  }

  get pid(): number {
    return this.#connection?.pid ?? 0;
  }

  // ---- for the session

  setOffloads(offloads: number): Promise<void> {
    return this.handle.setOffloads(offloads);
  }

  /** As if the guest had sent it; lost, like any frame may be, when the queue is full. */
  announce(mac: Uint8Array): void {
    const { handle } = this.queues[0]!;
    const frame = rarpRequest(mac);
    const record = Buffer.concat([Buffer.alloc(VIRTIO_NET_HDR_MRG_RXBUF_BYTES), frame]);
    const to = handle.inbox.reserve(record.length);
    if (to === 0) return;
    memcpy(to, addressOf(record), record.length);
    if (handle.inbox.commit(record.length)) handle.wakeLane();
  }

  // ---- server

  async listen({ uid, gid, mode }: SocketOwner): Promise<void> {
    const socket = this.#path;
    await freePortSocket(socket);
    try {
      makeDirectory(path.dirname(socket), 'the vhost-user socket');
      // It gets its own mode before anybody can connect.
      this.#listener = makePrivately(() => bindUnix(socket));
      this.#inode = fs.statSync(socket).ino;
      fs.chownSync(socket, uid, gid);
      fs.chmodSync(socket, mode);
      listenUnix(this.#listener);
    } catch (error) {
      const { code = 'EINVAL', message } = error as Error & { code?: string };
      throw new ControlError(400, code, `cannot listen on ${socket}: ${message}`);
    }
    this.#listen();
  }

  #listen(): void {
    this.#watch = watchReadable(this.#listener, () => {
      try {
        this.#accept();
      } catch (error) {
        // Out of descriptors, say: it would be told so again at once, for as long as somebody waits.
        this.#complain(error as Error);
        this.#watch?.close();
        this.#watch = null;
        this.#timer = setTimeout(() => this.#listen(), MAX_DELAY_MS);
      }
    });
  }

  #complain({ message }: Error): void {
    this.#log.error(`${this.#name}: a peer on ${this.#path} cannot be taken: ${message}`, { port: this.#name });
  }

  #accept(): void {
    for (let fd = acceptUnix(this.#listener); fd !== null; fd = acceptUnix(this.#listener)) {
      const taken = fd;
      this.#accepting = this.#accepting.then(() => this.#admit(taken)).catch((error) => this.#complain(error));
    }
  }

  async #admit(fd: number): Promise<void> {
    if (this.#connection?.isDead) await this.#connection.end();
    if (this.#closed) return close(fd);
    if (this.#connection) {
      this.#log.warn(
        `${this.#name}: a second peer on ${this.#path} is refused: process ${this.pid} is connected; give each guest a port of its own`,
        { port: this.#name },
      );
      return close(fd);
    }
    this.#serve(fd);
  }

  // ---- client

  /** Connects, now or later, and again whenever the connection has ended. */
  connect(): void {
    if (this.#closed) return;
    try {
      const fd = connectUnix(this.#path);
      this.#complained = '';
      this.#connectedAt = performance.now();
      this.#serve(fd, () => this.#connectLater());
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      // Once for each reason: it may be a long wait.
      if (this.#complained !== error.code) {
        this.#complained = error.code;
        this.#log.info(`${this.#name}: nobody listens on ${this.#path} yet (${error.code}); trying on`, {
          port: this.#name,
        });
      }
      this.#connectLater();
    }
  }

  #connectLater(): void {
    // A peer that ends each connection at once is not asked more often than one that is not there.
    const lasted = this.#connectedAt === 0 ? 0 : performance.now() - this.#connectedAt;
    this.#connectedAt = 0;
    if (lasted > MAX_DELAY_MS) this.#delayMs = FIRST_DELAY_MS;
    if (this.#closed) return;
    this.#timer = setTimeout(() => this.connect(), this.#delayMs);
    this.#delayMs = Math.min(2 * this.#delayMs, MAX_DELAY_MS);
  }

  // ---- both

  #serve(fd: number, onEnded: () => void = () => {}): void {
    this.#connection = new VhostUserConnection({
      fd,
      name: this.#name,
      target: this,
      log: this.#log,
      onEnded: () => {
        this.#connection = null;
        onEnded();
      },
    });
  }

  /** Ends the connection, and takes socket and queues away. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#watch?.close();
    if (this.#listener >= 0) {
      // Not somebody else's who has taken the path meanwhile.
      if (fs.statSync(this.#path, { throwIfNoEntry: false })?.ino === this.#inode) fs.unlinkSync(this.#path);
      close(this.#listener);
      this.#listener = -1;
    }
    await this.#accepting;
    await this.#connection?.end();
    for (const { handle } of this.queues) await handle.close();
  }
}

/** Throws ControlError when the socket's place is taken. */
async function freePortSocket(socket: string): Promise<void> {
  const state = await freeSocketPath(socket);
  if (state === 'no socket') {
    throw new ControlError(409, 'EEXIST', `${socket} exists and is no socket; choose another path`);
  }
  if (state === 'alive') {
    const advice = 'choose another path, or let the port connect as a client';
    throw new ControlError(409, 'EADDRINUSE', `another process listens on ${socket}; ${advice}`);
  }
}
