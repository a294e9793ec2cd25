/**
 * The daemon: mounts the device tree, runs the lanes, and wires the floors together. It decides nothing about frames.
 *
 *     kernel ── /dev/fuse ──► FuseConnection ──► DeviceTree ──► TunDevice, VhostNetDevice
 *                                                                   │  PortFactory, RingBackend
 *     peers ── vhost-user sockets ──► VhostUserPorts ──────────┤
 *     network cards ── PCI ──► CardPorts ──────────────────────┤
 *     operator ── control socket ──► Control ──────────────► SwitchPorts ──► LaneClient ══► lane thread
 */
import { randomBytes, randomInt } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import type { Logger } from 'winston';
import { FuseConnection } from '../fuse/connection.ts';
import { DeviceTree } from '../fuse/device-tree.ts';
import { makeDirectory } from '../fuse/make-directory.ts';
import { mountFuse, unmount } from '../fuse/mount.ts';
import { TunDevice } from '../fuse/tun-clone.ts';
import { TunInterfaces } from '../fuse/tun-interfaces.ts';
import { type Identify, VhostNetDevice } from '../fuse/vhost-net-clone.ts';
import { close, O_CREAT, O_RDWR, open, tryLock } from '../linux/file.ts';
import packageJson from '../package.json' with { type: 'json' };
import { Captures } from './captures.ts';
import { CardPorts } from './card-ports.ts';
import type { Config } from './config.ts';
import {
  type CaptureOptions,
  type CaptureRow,
  type CardOptions,
  type Control,
  ControlError,
  type FdbRow,
  type LaneRow,
  type LiveAnswer,
  type MemoryRow,
  type PortChange,
  type PortStatus,
  type RingRow,
  type Status,
  type VhostUserOptions,
} from './control.ts';
import { Lanes } from './lanes.ts';
import { OffloadNotifications } from './offload-notifications.ts';
import { RING_NAMES, SwitchPorts } from './switch-ports.ts';
import { VhostUserPorts } from './vhost-user-ports.ts';

const UINT32 = 2 ** 32;

export class Daemon implements Control {
  /** Told when the daemon cannot go on: a lane failed, or its mount was taken away. */
  onFatal: (error: Error) => void = () => {};
  readonly #config: Config;
  readonly #log: Logger;
  readonly #startedAt = Date.now();
  readonly #lockFd: number;
  readonly #lanes: Lanes;
  readonly #ports: SwitchPorts;
  readonly #vhostUser: VhostUserPorts;
  readonly #cards: CardPorts;
  readonly #captures: Captures;
  readonly #interfaces: TunInterfaces;
  readonly #tun: TunDevice;
  readonly #tree: DeviceTree;
  readonly #notifications: OffloadNotifications;
  readonly #connection: FuseConnection;
  #aging: number;
  #stopping = false;

  /** Starts everything; rejects with one clear error, and leaves nothing behind, when some part fails. */
  static async start(config: Config, log: Logger): Promise<Daemon> {
    const lockFd = lockMount(config.mount.path);
    let daemon: Daemon;
    try {
      daemon = new Daemon(config, log, lockFd);
    } catch (error) {
      close(lockFd);
      throw error;
    }
    try {
      await daemon.#lanes.started;
      for (const tap of config.taps) await daemon.addTap(tap);
      for (const { name, vhostUser, nic } of config.ports) {
        if (vhostUser) await daemon.addVhostUser({ name, ...vhostUser });
        if (nic) await daemon.addCard({ name, ...nic });
      }
    } catch (error) {
      await daemon.stop();
      throw error;
    }
    return daemon;
  }

  private constructor(config: Config, log: Logger, lockFd: number) {
    const { mount, fdb, lane } = config;
    this.#config = config;
    this.#log = log;
    this.#lockFd = lockFd;
    this.#aging = fdb.aging;
    const fuseFd = mountFuse({ path: mount.path });
    this.#lanes = new Lanes({
      seed: randomInt(UINT32),
      agingSeconds: fdb.aging,
      fdbCapacity: fdb.capacity,
      fdbPerPort: fdb.perPort,
      spinMs: lane.spin / 1000,
      arena: { wasm: lane.wasm },
      count: lane.count,
      cpus: lane.cpus,
      placement: lane.placement,
    });
    this.#lanes.on('died', (error) => this.#fatal(new Error(`a lane failed: ${error.stack}`)));
    this.#ports = new SwitchPorts(this.#lanes, log, config.impairment);
    this.#vhostUser = new VhostUserPorts(this.#ports, mount, log);
    this.#cards = new CardPorts(this.#ports, log);
    this.#captures = new Captures(this.#ports, log);
    this.#interfaces = new TunInterfaces(this.#ports, randomBytes);
    this.#tun = new TunDevice(this.#interfaces, log, (kh) => this.#connection.notifyPoll(kh));
    const identify: Identify = (pid, fd) => this.#tree.identify(pid, fd);
    this.#notifications = new OffloadNotifications(identify, log);
    this.#tree = new DeviceTree({ tun: this.#tun, vhostNet: new VhostNetDevice(identify, log), ...mount });
    this.#connection = new FuseConnection(fuseFd, this.#tree, log, () =>
      this.#fatal(new Error(`the mount on ${mount.path} was taken away`)),
    );
  }

  #fatal(error: Error): void {
    if (!this.#stopping) this.onFatal(error);
  }

  /** Unmounts, closes what clients have open, stops the lanes. Taps go unless they are persistent. */
  async stop(): Promise<void> {
    this.#stopping = true;
    unmount(this.#config.mount.path);
    this.#connection.close();
    this.#notifications.close();
    await this.#tree.closeAll();
    await this.#cards.close();
    await this.#vhostUser.close();
    await this.#ports.close();
    await this.#lanes.stop();
    close(this.#lockFd);
  }

  // ---- Control

  status(): Status {
    return {
      version: packageJson.version,
      pid: process.pid,
      uptimeSeconds: Math.floor((Date.now() - this.#startedAt) / 1000),
      mount: path.resolve(this.#config.mount.path),
      ports: this.#ports.list().length,
      logLevel: this.#log.level,
      fdb: { aging: this.#aging, capacity: this.#config.fdb.capacity },
    };
  }

  ports(): PortStatus[] {
    return this.#ports.list().map((port) => this.#withInterface(port));
  }

  /** What the tun clone knows of a guest's port. */
  #withInterface(port: PortStatus): PortStatus {
    const tun = this.#interfaces.get(port.name);
    if (!tun) return port;
    return { ...port, persistent: tun.persistent, mac: tun.mac.toString('hex').replace(/..(?=.)/g, '$&:') };
  }

  async fdb(): Promise<FdbRow[]> {
    const entries = (await this.#lanes.callAll('fdb', [])).flat();
    // Lanes that share a port (a network card) may each have heard of a station there: whoever heard last counts.
    const youngest = new Map<string, FdbRow>();
    for (const { mac, port, ageSeconds } of entries) {
      const known = youngest.get(mac);
      if (known && known.ageSeconds <= ageSeconds) continue;
      youngest.set(mac, { mac, port: this.#ports.nameOf(port), ageSeconds });
    }
    return [...youngest.values()];
  }

  async rings(): Promise<RingRow[]> {
    const rings = await this.#lanes.callAll('rings', []);
    return rings.flat().map(({ port, index, ...ring }) => ({
      ...ring,
      port: this.#ports.nameOf(port),
      ring: RING_NAMES[index]!,
    }));
  }

  async memory(): Promise<MemoryRow[]> {
    return (await this.#lanes.callAll('memory', [])).flat();
  }

  async lanes(): Promise<LaneRow[]> {
    return await this.#lanes.load();
  }

  async addTap({ name, persistent }: { name: string; persistent: boolean }): Promise<PortStatus> {
    return await this.#ports.addTap(name, persistent);
  }

  async addVhostUser(options: VhostUserOptions): Promise<PortStatus> {
    return await this.#vhostUser.add(options);
  }

  async addCard(options: CardOptions): Promise<PortStatus> {
    return await this.#cards.add(options);
  }

  cardStatistics(name: string): Record<string, number> {
    return this.#cards.statistics(name);
  }

  async removePort(name: string): Promise<void> {
    if (await this.#cards.remove(name)) return;
    if (await this.#vhostUser.remove(name)) return;
    const tun = this.#interfaces.get(name);
    if (tun?.persistent && (await this.#tun.exclusively(() => this.#interfaces.remove(name)))) return;
    await this.#ports.removeTap(name);
  }

  async setPort(name: string, { link, impairment }: PortChange): Promise<PortStatus> {
    if (link !== undefined) await this.#ports.setLink(name, link === 'up');
    if (impairment !== undefined) await this.#ports.setImpairment(name, impairment);
    return this.#withInterface(this.#ports.status(name));
  }

  async capture(port: string, options: CaptureOptions): Promise<LiveAnswer> {
    return await this.#captures.start(port, options);
  }

  captures(): CaptureRow[] {
    return this.#captures.list();
  }

  async stopCapture(id: string): Promise<void> {
    await this.#captures.stop(id);
  }

  setLogLevel(level: string): void {
    this.#log.level = level;
  }

  async setAging(seconds: number): Promise<void> {
    await this.#lanes.callAll('setAging', [seconds]);
    this.#aging = seconds;
  }

  async adoptListener(pid: number, fd: number): Promise<void> {
    try {
      this.#notifications.adopt(pid, fd);
    } catch (error) {
      throw new ControlError(400, 'EBADF', `listener ${fd} of process ${pid}: ${(error as Error).message}`);
    }
  }
}

/** One daemon a mount: holds a lock beside it, which ends with the process however it ends. */
function lockMount(mountPath: string): number {
  const lockPath = `${path.resolve(mountPath)}.lock`;
  makeDirectory(path.dirname(lockPath), 'mount.path');
  const fd = open(lockPath, O_RDWR | O_CREAT, 0o600);
  if (!tryLock(fd)) {
    close(fd);
    const pid = fs.readFileSync(lockPath, 'utf8').trim() || 'unknown';
    throw new Error(
      `another ringswitch daemon (process ${pid}) serves ${mountPath}; stop it, or give this one another mount.path ` +
        'and control.socket in its configuration',
    );
  }
  fs.ftruncateSync(fd);
  fs.writeSync(fd, `${process.pid}\n`, 0);
  return fd;
}
