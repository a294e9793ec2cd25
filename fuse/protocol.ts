/**
 * The FUSE kernel protocol, `<linux/fuse.h>` 7.31 and later: numbers, layouts, and nothing of what they mean.
 * All integers are little-endian here, as the machine's are. 64-bit handles that we make ourselves fit a double.
 */

export const FUSE_KERNEL_VERSION = 7;
/** What we speak: 7.31 has all that is needed (FUSE_MAX_PAGES is 7.28). */
export const FUSE_KERNEL_MINOR_VERSION = 31;
export const FUSE_ROOT_ID = 1;

export const Opcode = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  ACCESS: 34,
  CREATE: 35,
  INTERRUPT: 36,
  DESTROY: 38,
  IOCTL: 39,
  POLL: 40,
  BATCH_FORGET: 42,
  RENAME2: 45,
} as const;

const opcodeNames = new Map<number, string>(Object.entries(Opcode).map(([name, number]) => [number, name]));
export const opcodeName = (opcode: number): string => opcodeNames.get(opcode) ?? `opcode ${opcode}`;

// Flags of INIT.
/** O_TRUNC comes with OPEN, not as a SETATTR before it. */
export const FUSE_ATOMIC_O_TRUNC = 1 << 3;
export const FUSE_BIG_WRITES = 1 << 5;
export const FUSE_MAX_PAGES = 1 << 22;

// Flags of an opened file.
export const FOPEN_DIRECT_IO = 1 << 0;
export const FOPEN_NONSEEKABLE = 1 << 2;
export const FOPEN_STREAM = 1 << 4;
export const FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6;

export const FUSE_POLL_SCHEDULE_NOTIFY = 1 << 0;
/** error field of a reply header that is a notification, with unique 0. */
export const FUSE_NOTIFY_POLL = 1;

// File types and sizes.
export const S_IFDIR = 0o040000;
export const S_IFCHR = 0o020000;
export const S_IFREG = 0o100000;
export const DT_DIR = 4;
export const DT_REG = 8;

export const IN_HEADER_BYTES = 40;
export const OUT_HEADER_BYTES = 16;
export const INIT_OUT_BYTES = 64;
export const ATTR_BYTES = 88;
export const ENTRY_OUT_BYTES = 40 + ATTR_BYTES;
export const ATTR_OUT_BYTES = 16 + ATTR_BYTES;
export const OPEN_OUT_BYTES = 16;
export const WRITE_IN_BYTES = 40;
export const WRITE_OUT_BYTES = 8;
export const IOCTL_IN_BYTES = 32;
export const IOCTL_OUT_BYTES = 16;
export const POLL_OUT_BYTES = 8;
export const STATFS_OUT_BYTES = 80;
const DIRENT_BYTES = 24;
const DIRENT_ALIGN = 8;

/** struct fuse_in_header. */
export interface InHeader {
  length: number;
  opcode: number;
  unique: bigint;
  nodeid: number;
  uid: number;
  gid: number;
  /** Thread id of the caller, in our pid namespace; 0 for the kernel itself. */
  tid: number;
}

export function parseInHeader(bytes: Buffer): InHeader {
  return {
    length: bytes.readUInt32LE(0),
    opcode: bytes.readUInt32LE(4),
    unique: bytes.readBigUInt64LE(8),
    nodeid: Number(bytes.readBigUInt64LE(16)),
    uid: bytes.readUInt32LE(24),
    gid: bytes.readUInt32LE(28),
    tid: bytes.readUInt32LE(32),
  };
}

/** A reply: header and body. `error` is a negative errno, or 0. */
export function emitReply(unique: bigint, error: number, body?: Buffer): Buffer {
  const out = Buffer.allocUnsafe(OUT_HEADER_BYTES + (body?.length ?? 0));
  out.writeUInt32LE(out.length, 0);
  out.writeInt32LE(error, 4);
  out.writeBigUInt64LE(unique, 8);
  body?.copy(out, OUT_HEADER_BYTES);
  return out;
}

/** struct fuse_init_in, as far as it matters. */
export function parseInit(body: Buffer): { major: number; minor: number; flags: number } {
  return { major: body.readUInt32LE(0), minor: body.readUInt32LE(4), flags: body.readUInt32LE(12) };
}

/** struct fuse_init_out. */
export function emitInit(flags: number, maxWrite: number, maxPages: number): Buffer {
  const out = Buffer.alloc(INIT_OUT_BYTES);
  out.writeUInt32LE(FUSE_KERNEL_VERSION, 0);
  out.writeUInt32LE(FUSE_KERNEL_MINOR_VERSION, 4);
  out.writeUInt32LE(flags, 12);
  out.writeUInt32LE(maxWrite, 20);
  out.writeUInt32LE(1, 24); // time_gran, in ns
  out.writeUInt16LE(maxPages, 28);
  return out;
}

export interface Attributes {
  ino: number;
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  rdev: number;
}

function putAttributes(out: Buffer, at: number, attributes: Attributes): void {
  out.writeBigUInt64LE(BigInt(attributes.ino), at);
  out.writeUInt32LE(attributes.mode, at + 60);
  out.writeUInt32LE(attributes.nlink, at + 64);
  out.writeUInt32LE(attributes.uid, at + 68);
  out.writeUInt32LE(attributes.gid, at + 72);
  out.writeUInt32LE(attributes.rdev, at + 76);
  out.writeUInt32LE(4096, at + 80); // blksize
}

/** struct fuse_entry_out; valid for no time, so that every lookup of a name asks again. */
export function emitEntry(attributes: Attributes): Buffer {
  const out = Buffer.alloc(ENTRY_OUT_BYTES);
  out.writeBigUInt64LE(BigInt(attributes.ino), 0);
  putAttributes(out, 40, attributes);
  return out;
}

/** struct fuse_attr_out. */
export function emitAttributes(attributes: Attributes): Buffer {
  const out = Buffer.alloc(ATTR_OUT_BYTES);
  putAttributes(out, 16, attributes);
  return out;
}

/** struct fuse_open_out. */
export function emitOpen(fh: number, flags: number): Buffer {
  const out = Buffer.alloc(OPEN_OUT_BYTES);
  out.writeBigUInt64LE(BigInt(fh), 0);
  out.writeUInt32LE(flags, 8);
  return out;
}

/** struct fuse_open_in. */
export const parseOpen = (body: Buffer): { flags: number } => ({ flags: body.readUInt32LE(0) });
/** The handle that starts fuse_read_in, fuse_write_in, fuse_release_in, fuse_ioctl_in and fuse_poll_in. */
export const parseHandle = (body: Buffer): number => Number(body.readBigUInt64LE(0));

/** struct fuse_read_in. */
export function parseRead(body: Buffer): { offset: number; size: number; flags: number } {
  return { offset: Number(body.readBigUInt64LE(8)), size: body.readUInt32LE(16), flags: body.readUInt32LE(32) };
}

/** struct fuse_write_in and what follows it. The data is part of `body`. */
export function parseWrite(body: Buffer): { data: Buffer; flags: number } {
  const size = body.readUInt32LE(16);
  return { data: body.subarray(WRITE_IN_BYTES, WRITE_IN_BYTES + size), flags: body.readUInt32LE(32) };
}

/** struct fuse_write_out. */
export function emitWrite(size: number): Buffer {
  const out = Buffer.alloc(WRITE_OUT_BYTES);
  out.writeUInt32LE(size, 0);
  return out;
}

/** struct fuse_ioctl_in and the bytes that the kernel copied in. */
export function parseIoctl(body: Buffer): { cmd: number; arg: bigint; input: Buffer; outSize: number } {
  const inSize = body.readUInt32LE(24);
  return {
    cmd: body.readUInt32LE(12),
    arg: body.readBigUInt64LE(16),
    input: body.subarray(IOCTL_IN_BYTES, IOCTL_IN_BYTES + inSize),
    outSize: body.readUInt32LE(28),
  };
}

/** struct fuse_ioctl_out and the bytes that the kernel shall copy out. */
export function emitIoctl(result: number, output: Buffer): Buffer {
  const out = Buffer.alloc(IOCTL_OUT_BYTES + output.length);
  out.writeInt32LE(result, 0);
  output.copy(out, IOCTL_OUT_BYTES);
  return out;
}

/** struct fuse_poll_in. */
export function parsePoll(body: Buffer): { kh: bigint; flags: number; events: number } {
  return { kh: body.readBigUInt64LE(8), flags: body.readUInt32LE(16), events: body.readUInt32LE(20) };
}

/** struct fuse_poll_out. */
export function emitPoll(revents: number): Buffer {
  const out = Buffer.alloc(POLL_OUT_BYTES);
  out.writeUInt32LE(revents, 0);
  return out;
}

/** A whole FUSE_NOTIFY_POLL message for poll handle `kh`. */
export function emitNotifyPoll(kh: bigint): Buffer {
  const body = Buffer.alloc(8);
  body.writeBigUInt64LE(kh, 0);
  return emitReply(0n, FUSE_NOTIFY_POLL, body);
}

/** struct fuse_interrupt_in: the request to interrupt. */
export const parseInterrupt = (body: Buffer): bigint => body.readBigUInt64LE(0);

/** One struct fuse_dirent; `next` is the offset from which a later READDIR goes on. */
export function emitDirent(ino: number, next: number, type: number, name: string): Buffer {
  const bytes = Buffer.from(name);
  const out = Buffer.alloc(Math.ceil((DIRENT_BYTES + bytes.length) / DIRENT_ALIGN) * DIRENT_ALIGN);
  out.writeBigUInt64LE(BigInt(ino), 0);
  out.writeBigUInt64LE(BigInt(next), 8);
  out.writeUInt32LE(bytes.length, 16);
  out.writeUInt32LE(type, 20);
  bytes.copy(out, DIRENT_BYTES);
  return out;
}
