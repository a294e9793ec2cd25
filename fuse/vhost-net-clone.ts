/**
 * The clone of /dev/vhost-net: decodes its ioctls for the vhost state machine, which answers as Linux does.
 * docs/ioctls.md has the table of all requests.
 */

import fs from 'node:fs';
import { E2BIG, EFAULT, EINVAL, ENOTSOCK, ENOTTY, EOPNOTSUPP, errnoName } from '../linux/errno.ts';
import { close, setNonBlocking } from '../linux/file.ts';
import { SystemError } from '../linux/libc.ts';
import { duplicateFrom, readProcessMemory, writeProcessMemory } from '../linux/process.ts';
import {
  VHOST_FILE_UNBIND,
  VHOST_GET_BACKEND_FEATURES,
  VHOST_GET_FEATURES,
  VHOST_GET_VRING_BASE,
  VHOST_GET_VRING_BUSYLOOP_TIMEOUT,
  VHOST_IOCTL_NAMES,
  VHOST_MAX_MEM_REGIONS,
  VHOST_MEMORY_BYTES,
  VHOST_MEMORY_REGION_BYTES,
  VHOST_NET_SET_BACKEND,
  VHOST_RESET_OWNER,
  VHOST_SET_BACKEND_FEATURES,
  VHOST_SET_FEATURES,
  VHOST_SET_LOG_BASE,
  VHOST_SET_LOG_FD,
  VHOST_SET_MEM_TABLE,
  VHOST_SET_OWNER,
  VHOST_SET_VRING_ADDR,
  VHOST_SET_VRING_BASE,
  VHOST_SET_VRING_BUSYLOOP_TIMEOUT,
  VHOST_SET_VRING_CALL,
  VHOST_SET_VRING_ERR,
  VHOST_SET_VRING_KICK,
  VHOST_SET_VRING_NUM,
} from '../linux/vhost.ts';
import { privateBytes, sharedBytes } from '../memory/client-memory.ts';
import {
  type RawMemoryRegion,
  type RingBackend,
  SUPPORTED_BACKEND_FEATURES,
  SUPPORTED_FEATURES,
  VhostDevice,
  VhostError,
} from '../vhost/vhost-device.ts';
import { FuseError } from './connection.ts';
import type { Device, DeviceFile, IoctlCall, IoctlResult } from './device-tree.ts';
import type { Log } from './log.ts';
import { TunFile } from './tun-clone.ts';

/** Finds the opened file that a descriptor of another process stands for, or null when it is none of ours. */
export type Identify = (pid: number, fd: number) => Promise<DeviceFile | null>;

const u64 = (value: bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
};
const u32Pair = (a: number, b: number): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(a, 0);
  bytes.writeUInt32LE(b, 4);
  return bytes;
};
const DONE: IoctlResult = { result: 0 };

export class VhostNetDevice implements Device {
  readonly identify: Identify;
  readonly log: Log;

  constructor(identify: Identify, log: Log) {
    this.identify = identify;
    this.log = log;
  }

  open(): VhostNetFile {
    return new VhostNetFile(this);
  }
}

export class VhostNetFile implements DeviceFile {
  readonly device = new VhostDevice();
  readonly #clone: VhostNetDevice;
  #last: Promise<unknown> = Promise.resolve();

  constructor(clone: VhostNetDevice) {
    this.#clone = clone;
  }

  /** Requests come one at a time, as under the kernel's device mutex. */
  #exclusively<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(work, work);
    this.#last = done.catch(() => {});
    return done;
  }

  ioctl(call: IoctlCall): Promise<IoctlResult> {
    return this.#exclusively(async () => {
      try {
        return await this.#ioctl(call);
      } catch (error) {
        // What a client cannot run with is worth a warning: QEMU falls back to its own slower path without a word.
        if (error instanceof VhostError && call.cmd === VHOST_NET_SET_BACKEND && error.errno === EFAULT) {
          this.#clone.log.warn(error.message, { pid: call.request.pid });
        }
        throw error;
      }
    });
  }

  async #ioctl(call: IoctlCall): Promise<IoctlResult> {
    const { cmd, input, request } = call;
    const { device } = this;
    switch (cmd) {
      case VHOST_GET_FEATURES:
        return { result: 0, output: u64(SUPPORTED_FEATURES) };
      case VHOST_SET_FEATURES:
        device.setFeatures(input.readBigUInt64LE(0));
        return DONE;
      case VHOST_GET_BACKEND_FEATURES:
        return { result: 0, output: u64(SUPPORTED_BACKEND_FEATURES) };
      case VHOST_SET_BACKEND_FEATURES:
        device.setBackendFeatures(input.readBigUInt64LE(0));
        return DONE;
      case VHOST_SET_OWNER:
        device.setOwner(request.pid);
        return DONE;
    }
    const name = VHOST_IOCTL_NAMES.get(cmd) ?? `ioctl 0x${cmd.toString(16)}`;
    device.checkOwner(request.pid, name);
    switch (cmd) {
      case VHOST_RESET_OWNER:
        await device.resetOwner();
        return DONE;
      case VHOST_SET_MEM_TABLE:
        await device.setMemTable(request.pid, this.#readMemTable(call));
        this.#clone.log.debug(`memory table of process ${request.pid}`, {
          regions: device.memory!.regions.length,
          sharedBytes: sharedBytes(device.memory!),
          privateBytes: privateBytes(device.memory!),
        });
        return DONE;
      case VHOST_SET_LOG_BASE:
      case VHOST_SET_LOG_FD:
        throw new FuseError(EOPNOTSUPP, `${name}: no dirty log (VHOST_F_LOG_ALL is not offered)`);
      case VHOST_NET_SET_BACKEND: {
        const fd = input.readInt32LE(4);
        await device.setBackend(input.readUInt32LE(0), () => this.#backend(request.pid, fd));
        this.#clone.log.debug(`rings of process ${request.pid}`, device.describe());
        return DONE;
      }
    }
    return this.#vringIoctl(call, name);
  }

  async #vringIoctl(call: IoctlCall, name: string): Promise<IoctlResult> {
    const { cmd, request } = call;
    const { device } = this;
    // For what the kernel did not bring (unknown requests), the index stands where the argument points.
    const input = call.input.length >= 4 ? call.input : readProcessMemory(request.tid, call.arg, 4);
    const index = input.readUInt32LE(0);
    device.checkIndex(index, name);
    switch (cmd) {
      case VHOST_SET_VRING_NUM:
        device.setVringNum(index, input.readUInt32LE(4));
        return DONE;
      case VHOST_SET_VRING_BASE:
        device.setVringBase(index, input.readUInt32LE(4));
        return DONE;
      case VHOST_GET_VRING_BASE:
        return { result: 0, output: u32Pair(index, await device.getVringBase(index)) };
      case VHOST_SET_VRING_ADDR:
        device.setVringAddr(index, {
          flags: input.readUInt32LE(4),
          desc: input.readBigUInt64LE(8),
          used: input.readBigUInt64LE(16),
          avail: input.readBigUInt64LE(24),
          log: input.readBigUInt64LE(32),
        });
        return DONE;
      case VHOST_SET_VRING_KICK:
        await device.setVringFd(index, 'kick', this.#eventfd(request.pid, input.readInt32LE(4), name));
        return DONE;
      case VHOST_SET_VRING_CALL:
        await device.setVringFd(index, 'call', this.#eventfd(request.pid, input.readInt32LE(4), name));
        return DONE;
      case VHOST_SET_VRING_ERR:
        await device.setVringFd(index, 'err', this.#eventfd(request.pid, input.readInt32LE(4), name));
        return DONE;
      case VHOST_SET_VRING_BUSYLOOP_TIMEOUT:
        device.setBusyloopTimeout(index, input.readUInt32LE(4));
        return DONE;
      case VHOST_GET_VRING_BUSYLOOP_TIMEOUT: {
        // Numbered _IOW by mistake in <linux/vhost.h>, so the kernel brings nothing back: write it there.
        writeProcessMemory(request.tid, call.arg, u32Pair(index, device.getBusyloopTimeout(index)));
        return DONE;
      }
      default:
        throw new FuseError(ENOTTY, `/dev/vhost-net: ${name} is not served`);
    }
  }

  #readMemTable({ request, arg, input }: IoctlCall): RawMemoryRegion[] {
    const count = input.readUInt32LE(0);
    const padding = input.readUInt32LE(4);
    if (padding !== 0) throw new FuseError(EOPNOTSUPP, `VHOST_SET_MEM_TABLE: padding is ${padding}, not 0`);
    if (count > VHOST_MAX_MEM_REGIONS) {
      throw new FuseError(E2BIG, `VHOST_SET_MEM_TABLE: ${count} regions, at most ${VHOST_MAX_MEM_REGIONS}`);
    }
    const bytes = readProcessMemory(request.tid, arg + BigInt(VHOST_MEMORY_BYTES), count * VHOST_MEMORY_REGION_BYTES);
    return Array.from({ length: count }, (_, i) => {
      const at = i * VHOST_MEMORY_REGION_BYTES;
      return {
        guestAddress: bytes.readBigUInt64LE(at),
        size: bytes.readBigUInt64LE(at + 8),
        userAddress: bytes.readBigUInt64LE(at + 16),
      };
    });
  }

  /** An eventfd of the client as ours; EBADF when it has none by that number, EINVAL when it is something else. */
  #eventfd(pid: number, fd: number, name: string): number {
    if (fd === VHOST_FILE_UNBIND) return -1;
    const ours = duplicateFrom(pid, fd);
    try {
      if (fs.readlinkSync(`/proc/self/fd/${ours}`) !== 'anon_inode:[eventfd]') {
        throw new FuseError(EINVAL, `${name}: descriptor ${fd} of process ${pid} is no eventfd`);
      }
      // The lane must never wait for a client in read(2) or write(2).
      setNonBlocking(ours);
      return ours;
    } catch (error) {
      close(ours);
      throw error;
    }
  }

  /** The queue behind the tun descriptor that the client gives, or null for -1. */
  async #backend(pid: number, fd: number): Promise<RingBackend | null> {
    if (fd === VHOST_FILE_UNBIND) return null;
    let file: DeviceFile | null;
    try {
      file = await this.#clone.identify(pid, fd);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      throw new FuseError(
        ENOTSOCK,
        `VHOST_NET_SET_BACKEND: descriptor ${fd} of process ${pid}: ${errnoName(error.errno)}`,
      );
    }
    const what = `VHOST_NET_SET_BACKEND: descriptor ${fd} of process ${pid}`;
    if (!(file instanceof TunFile)) throw new FuseError(ENOTSOCK, `${what} is no tun file of this switch`);
    if (!file.queue) throw new FuseError(EINVAL, `${what} is a tun file without an interface: TUNSETIFF comes first`);
    return file.queue;
  }

  /** Messages are for a device IOTLB, which is not offered: there are none. */
  read(): Buffer {
    return Buffer.alloc(0);
  }

  write(): never {
    throw new FuseError(EINVAL, 'vhost-net: writing is for a device IOTLB, which is not offered');
  }

  poll(): number {
    return 0;
  }

  async release(): Promise<void> {
    await this.#exclusively(() => this.device.destroy()).catch((error) =>
      this.#clone.log.error(`closing a vhost-net file: ${(error as Error).message}`),
    );
  }
}
