/**
 * The mounted tree: directories, and device files that clients open.
 *
 *     /            node 1
 *     /net         node 2
 *     /net/tun     node 3 regular, node 5 its twin that looks like the character device 10:200
 *     /vhost-net   node 4 regular, node 6 its twin that looks like the character device 10:238
 *
 * FUSE serves opened regular files only, but some programs (DPDK) refuse a vhost-net that is no character device when
 * they stat it. So a lookup that comes from the stat family gets the twin, and every other one, open(2) before all, the
 * regular file. Entries are valid for no time, so each lookup comes here.
 */
import fs from 'node:fs';
import { EACCES, EBADF, ENOENT, ENOSYS, ENOTTY, EPERM } from '../linux/errno.ts';
import { closeAsync } from '../linux/file.ts';
import { IO, ioctlAsync } from '../linux/ioctl.ts';
import { duplicateFrom } from '../linux/process.ts';
import { type FileSystem, FuseError, type Request } from './connection.ts';
import {
  type Attributes,
  DT_DIR,
  DT_REG,
  emitAttributes,
  emitDirent,
  emitEntry,
  emitIoctl,
  emitOpen,
  emitPoll,
  emitWrite,
  FOPEN_DIRECT_IO,
  FOPEN_NONSEEKABLE,
  FOPEN_PARALLEL_DIRECT_WRITES,
  FOPEN_STREAM,
  FUSE_ROOT_ID,
  Opcode,
  opcodeName,
  parseHandle,
  parseIoctl,
  parsePoll,
  parseRead,
  parseWrite,
  S_IFCHR,
  S_IFDIR,
  S_IFREG,
  STATFS_OUT_BYTES,
} from './protocol.ts';

/** An ioctl as it arrived: the bytes that the kernel copied in, and the raw argument for all that it did not. */
export interface IoctlCall {
  request: Request;
  cmd: number;
  arg: bigint;
  input: Buffer;
  outSize: number;
}

export interface IoctlResult {
  /** What ioctl(2) returns, 0 or more. */
  result: number;
  /** Copied to the caller. */
  output?: Buffer;
}

/** An opened device. Methods throw errors with an errno. */
export interface DeviceFile {
  ioctl(call: IoctlCall): IoctlResult | Promise<IoctlResult>;
  /** One message. `nonBlocking`: EAGAIN rather than waiting. */
  read(request: Request, size: number, nonBlocking: boolean): Buffer | Promise<Buffer>;
  /** One message; gives the bytes taken. `data` is the callee's. */
  write(request: Request, data: Buffer, nonBlocking: boolean): number | Promise<number>;
  /** POLL… bits that are ready now. `kh`: whom to notify of a change, where asked for. */
  poll(kh: bigint, schedule: boolean): number;
  /** Nobody has it open any more. Resolves when nothing of it is left. Never rejects. */
  release(): Promise<void>;
}

/** A kind of device: what opening it gives. */
export interface Device {
  open(): DeviceFile;
}

/** Device numbers that the twins show: misc devices (`<linux/miscdevice.h>`). */
const MISC_MAJOR = 10;
const TUN_MINOR = 200;
const VHOST_NET_MINOR = 238;
const rdev = (major: number, minor: number): number => (major << 8) | minor;

/** stat, lstat, newfstatat and statx on x86-64. */
const STAT_FAMILY = new Set([4, 6, 262, 332]);
const O_NONBLOCK = 0o4000;
const FUSE_POLL_SCHEDULE_NOTIFY = 1;

/** Our own ioctl, from ourselves only: which opened file is this descriptor? `arg` is a cookie. */
const IDENTIFY = IO('r'.charCodeAt(0), 0x7f);

interface Node {
  attributes: Attributes;
  parent: number;
  name: string;
  device?: Device;
  /** Node that the stat family sees in its place. */
  twin?: number;
}

export interface TreeOptions {
  tun: Device;
  vhostNet: Device;
  /** Owner and permission bits of both devices. */
  uid: number;
  gid: number;
  mode: number;
}

export class DeviceTree implements FileSystem {
  readonly #nodes = new Map<number, Node>();
  readonly #files = new Map<number, DeviceFile>();
  readonly #identifying = new Map<bigint, (file: DeviceFile) => void>();
  #nextHandle = 1;
  #nextCookie = 1n;

  constructor({ tun, vhostNet, uid, gid, mode }: TreeOptions) {
    const directory = (ino: number, parent: number, name: string): void => {
      const attributes = { ino, mode: S_IFDIR | 0o755, nlink: 2, uid: 0, gid: 0, rdev: 0 };
      this.#nodes.set(ino, { attributes, parent, name });
    };
    const device = (ino: number, twin: number, parent: number, name: string, minor: number, device: Device): void => {
      const attributes = { ino, mode: S_IFREG | mode, nlink: 1, uid, gid, rdev: 0 };
      this.#nodes.set(ino, { attributes, parent, name, device, twin });
      const looks = { ...attributes, ino: twin, mode: S_IFCHR | mode, rdev: rdev(MISC_MAJOR, minor) };
      this.#nodes.set(twin, { attributes: looks, parent: 0, name });
    };
    directory(FUSE_ROOT_ID, 0, '');
    directory(2, FUSE_ROOT_ID, 'net');
    device(3, 5, 2, 'tun', TUN_MINOR, tun);
    device(4, 6, FUSE_ROOT_ID, 'vhost-net', VHOST_NET_MINOR, vhostNet);
  }

  /** Files that are open now. */
  get openFiles(): number {
    return this.#files.size;
  }

  /** Nobody will ask any more: everything open is released. */
  async closeAll(): Promise<void> {
    const files = [...this.#files.values()];
    this.#files.clear();
    await Promise.all(files.map((file) => file.release()));
  }

  handle(request: Request): Buffer | Promise<Buffer> {
    const { opcode } = request.header;
    switch (opcode) {
      case Opcode.LOOKUP:
        return this.#lookup(request);
      case Opcode.GETATTR:
        return emitAttributes(this.#node(request).attributes);
      case Opcode.SETATTR:
        throw new FuseError(EPERM, 'owner and mode of the devices come from the configuration (mount)');
      case Opcode.CREATE:
      case Opcode.MKNOD:
      case Opcode.MKDIR:
      case Opcode.SYMLINK:
      case Opcode.LINK:
      case Opcode.UNLINK:
      case Opcode.RMDIR:
      case Opcode.RENAME:
      case Opcode.RENAME2:
        throw new FuseError(EPERM, `${opcodeName(opcode)}: the device tree is what it is`);
      case Opcode.OPEN:
        return this.#open(request);
      case Opcode.OPENDIR:
        return emitOpen(0, 0);
      case Opcode.READDIR:
        return this.#readdir(request);
      case Opcode.RELEASEDIR:
        return Buffer.alloc(0);
      case Opcode.STATFS:
        return Buffer.alloc(STATFS_OUT_BYTES);
      case Opcode.READ:
        return this.#read(request);
      case Opcode.WRITE:
        return this.#write(request);
      case Opcode.IOCTL:
        return this.#ioctl(request);
      case Opcode.POLL:
        return this.#poll(request);
      case Opcode.RELEASE:
        return this.#release(request);
      default:
        throw new FuseError(ENOSYS, `${opcodeName(opcode)} is not served`);
    }
  }

  /**
   * Which opened file a descriptor of another process stands for, or null when it is none of ours. Duplicates the
   * descriptor and asks ourselves through it, on another thread: nothing else tells.
   */
  async identify(pid: number, fd: number): Promise<DeviceFile | null> {
    const duplicate = duplicateFrom(pid, fd);
    try {
      // A cheap look first, so that no stranger's device ever sees our ioctl. It does not touch the mount.
      if (!/\/(tun|vhost-net)$/.test(fs.readlinkSync(`/proc/self/fd/${duplicate}`))) return null;
      const cookie = this.#nextCookie++;
      let found: DeviceFile | null = null;
      this.#identifying.set(cookie, (file) => {
        found = file;
      });
      await ioctlAsync(duplicate, IDENTIFY, Number(cookie));
      this.#identifying.delete(cookie);
      return found;
    } finally {
      await closeAsync(duplicate);
    }
  }

  #node({ header: { nodeid } }: Request): Node {
    const node = this.#nodes.get(nodeid);
    if (!node) throw new FuseError(ENOENT, `no node ${nodeid}`);
    return node;
  }

  #lookup(request: Request): Buffer {
    const parent = request.header.nodeid;
    const name = request.body.subarray(0, request.body.indexOf(0)).toString();
    for (const [, node] of this.#nodes) {
      if (node.parent !== parent || node.name !== name) continue;
      const seen = node.twin && looksOnly(request.tid) ? this.#nodes.get(node.twin)! : node;
      return emitEntry(seen.attributes);
    }
    throw new FuseError(ENOENT, `no ${JSON.stringify(name)} in the device tree`);
  }

  #readdir(request: Request): Buffer {
    const parent = request.header.nodeid;
    const { offset, size } = parseRead(request.body);
    const entries = [
      { ino: parent, type: DT_DIR, name: '.' },
      { ino: this.#node(request).parent || FUSE_ROOT_ID, type: DT_DIR, name: '..' },
    ];
    for (const [ino, node] of this.#nodes) {
      if (node.parent === parent) entries.push({ ino, type: node.device ? DT_REG : DT_DIR, name: node.name });
    }
    const parts: Buffer[] = [];
    let room = size;
    for (const [index, { ino, type, name }] of entries.entries()) {
      if (index < offset) continue;
      const dirent = emitDirent(ino, index + 1, type, name);
      if (dirent.length > room) break;
      room -= dirent.length;
      parts.push(dirent);
    }
    return Buffer.concat(parts);
  }

  #open(request: Request): Buffer {
    const { device } = this.#node(request);
    if (!device) throw new FuseError(EACCES, 'only /net/tun and /vhost-net can be opened');
    const handle = this.#nextHandle++;
    this.#files.set(handle, device.open());
    const flags = FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE | FOPEN_STREAM | FOPEN_PARALLEL_DIRECT_WRITES;
    return emitOpen(handle, flags);
  }

  #file(request: Request): DeviceFile {
    const file = this.#files.get(parseHandle(request.body));
    if (!file) throw new FuseError(EBADF, 'the file is not open');
    return file;
  }

  #read(request: Request): Buffer | Promise<Buffer> {
    const { size, flags } = parseRead(request.body);
    return this.#file(request).read(request, size, (flags & O_NONBLOCK) !== 0);
  }

  #write(request: Request): Buffer | Promise<Buffer> {
    const { data, flags } = parseWrite(request.body);
    const written = this.#file(request).write(request, data, (flags & O_NONBLOCK) !== 0);
    return typeof written === 'number' ? emitWrite(written) : written.then(emitWrite);
  }

  async #ioctl(request: Request): Promise<Buffer> {
    const { cmd, arg, input, outSize } = parseIoctl(request.body);
    // Directories have no ioctls.
    if (this.#node(request).device === undefined) throw new FuseError(ENOTTY, 'ioctl on a directory');
    const file = this.#file(request);
    if (cmd === IDENTIFY) {
      if (request.pid !== process.pid) throw new FuseError(ENOTTY, 'IDENTIFY is the daemon’s own');
      this.#identifying.get(arg)?.(file);
      return emitIoctl(0, Buffer.alloc(0));
    }
    const { result, output = Buffer.alloc(0) } = await file.ioctl({ request, cmd, arg, input, outSize });
    return emitIoctl(result, output.subarray(0, outSize));
  }

  #poll(request: Request): Buffer {
    const { kh, flags } = parsePoll(request.body);
    return emitPoll(this.#file(request).poll(kh, (flags & FUSE_POLL_SCHEDULE_NOTIFY) !== 0));
  }

  #release(request: Request): Buffer {
    const handle = parseHandle(request.body);
    const file = this.#files.get(handle);
    this.#files.delete(handle);
    void file?.release();
    return Buffer.alloc(0);
  }
}

/** Whether the thread is inside a system call of the stat family: the first word of /proc/TID/syscall says which. */
function looksOnly(tid: number): boolean {
  try {
    return STAT_FAMILY.has(Number.parseInt(fs.readFileSync(`/proc/${tid}/syscall`, 'latin1'), 10));
  } catch {
    return false; // It has died.
  }
}
