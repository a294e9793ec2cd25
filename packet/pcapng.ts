/**
 * Blocks of a pcapng file, as Wireshark reads them: draft-ietf-opsawg-pcapng, "PCAP Now Generic (pcapng) Capture File
 * Format". Little-endian; one section, one interface, which is number 0.
 *
 *     block     u32 type, u32 length, body, options, u32 length again; all in units of 4 bytes
 *     option    u16 code, u16 length, value, padded to 4 bytes; opt_endofopt ends them
 *
 * A file is {@link fileHeader}, then packets as {@link writePacket} puts them, then {@link statisticsBlock}.
 */

const SECTION_HEADER_BLOCK = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION_BLOCK = 1;
const INTERFACE_STATISTICS_BLOCK = 5;
const ENHANCED_PACKET_BLOCK = 6;
const BYTE_ORDER_MAGIC = 0x1a2b_3c4d;
const VERSION_MAJOR = 1;
const VERSION_MINOR = 0;
/** The section ends where the file does. */
const UNKNOWN_SECTION_LENGTH = 2n ** 64n - 1n;
const LINKTYPE_ETHERNET = 1;
const INTERFACE = 0;

const OPT_ENDOFOPT = 0;
const OPT_COMMENT = 1;
const SHB_HARDWARE = 2;
const SHB_OS = 3;
const SHB_USERAPPL = 4;
const IF_NAME = 2;
const IF_TSRESOL = 9;
const IF_FILTER = 11;
const ISB_STARTTIME = 2;
const ISB_ENDTIME = 3;
const ISB_IFRECV = 4;
const ISB_IFDROP = 5;
const ISB_FILTERACCEPT = 6;
const ISB_USRDELIV = 8;
const EPB_FLAGS = 2;
/** if_tsresol: timestamps are in units of 10^-9 s. */
const NANOSECONDS = 9;
/** if_filter: its first byte says what follows, here the text of a libpcap filter. */
const FILTER_STRING = 0;
/** The longest value of an option. */
const MAX_OPTION_BYTES = 0xffff;

/** epb_flags, bits 0 and 1: whether a packet was received or transmitted. */
export const EPB_FLAGS_INBOUND = 1;
export const EPB_FLAGS_OUTBOUND = 2;

/** What {@link writePacket} writes besides the packet's bytes: block header, five words, epb_flags, the end. */
export const PACKET_OVERHEAD_BYTES = 44;

export interface FileOptions {
  /** shb_hardware, shb_os, shb_userappl: what the file was written on and by. */
  hardware: string;
  os: string;
  application: string;
  /** if_name. */
  interfaceName: string;
  /** Bytes of a packet that are kept at the most. */
  snaplen: number;
  /** if_filter: the expression that packets were chosen by; none when all were. */
  filter?: string;
}

/** A Section Header Block (§4.1) and an Interface Description Block (§4.2): what stands before the packets. */
export function fileHeader(options: FileOptions): Buffer {
  const { hardware, os, application, interfaceName, snaplen, filter } = options;
  const section = Buffer.alloc(16);
  section.writeUInt32LE(BYTE_ORDER_MAGIC, 0);
  section.writeUInt16LE(VERSION_MAJOR, 4);
  section.writeUInt16LE(VERSION_MINOR, 6);
  section.writeBigUInt64LE(UNKNOWN_SECTION_LENGTH, 8);
  const description = Buffer.alloc(8);
  description.writeUInt16LE(LINKTYPE_ETHERNET, 0);
  description.writeUInt32LE(snaplen, 4);
  const described = [option(IF_NAME, Buffer.from(interfaceName)), option(IF_TSRESOL, Buffer.of(NANOSECONDS))];
  if (filter !== undefined) {
    described.push(option(IF_FILTER, Buffer.concat([Buffer.of(FILTER_STRING), Buffer.from(filter)])));
  }
  return Buffer.concat([
    block(SECTION_HEADER_BLOCK, section, [
      option(SHB_HARDWARE, Buffer.from(hardware)),
      option(SHB_OS, Buffer.from(os)),
      option(SHB_USERAPPL, Buffer.from(application)),
    ]),
    block(INTERFACE_DESCRIPTION_BLOCK, description, described),
  ]);
}

/** Bytes of the block of a packet of which `captured` bytes are kept. */
export function packetBlockBytes(captured: number): number {
  return PACKET_OVERHEAD_BYTES + padded(captured);
}

/** A packet to write: the `captured` bytes at `from` of `bytes`, which are the first of its `length`. */
export interface Packet {
  /** Upper and lower 32 bits of its time, in ns since 1970. */
  high: number;
  low: number;
  length: number;
  bytes: Uint8Array;
  from: number;
  captured: number;
}

/**
 * Writes an Enhanced Packet Block (§4.3) at `at` of `to`, which `view` shows too and which has room for it
 * ({@link packetBlockBytes}); `flags` is epb_flags. Gives where the block ends.
 */
export function writePacket(to: Uint8Array, view: DataView, at: number, packet: Packet, flags: number): number {
  const { bytes, from, captured } = packet;
  const total = packetBlockBytes(captured);
  view.setUint32(at, ENHANCED_PACKET_BLOCK, true);
  view.setUint32(at + 4, total, true);
  view.setUint32(at + 8, INTERFACE, true);
  view.setUint32(at + 12, packet.high, true);
  view.setUint32(at + 16, packet.low, true);
  view.setUint32(at + 20, captured, true);
  view.setUint32(at + 24, packet.length, true);
  const end = at + 28 + captured;
  const options = at + 28 + padded(captured);
  to.set(bytes.subarray(from, from + captured), at + 28);
  to.fill(0, end, options);
  view.setUint16(options, EPB_FLAGS, true);
  view.setUint16(options + 2, 4, true);
  view.setUint32(options + 4, flags, true);
  view.setUint32(options + 8, OPT_ENDOFOPT, true);
  view.setUint32(options + 12, total, true);
  return options + 16;
}

export interface Statistics {
  /** When the capture began and ended, in ns since 1970. */
  start: bigint;
  end: bigint;
  /** Packets that came by; those of them that the filter took; and those of these that were lost or are in the file. */
  received: number;
  accepted: number;
  dropped: number;
  delivered: number;
  /** Why the capture ended, where that is worth a word. */
  comment?: string;
}

/** An Interface Statistics Block (§4.6), of the time at the capture's end. */
export function statisticsBlock(statistics: Statistics): Buffer {
  const { start, end, received, accepted, dropped, delivered, comment } = statistics;
  const body = Buffer.alloc(12);
  body.writeUInt32LE(INTERFACE, 0);
  timestamp(end).copy(body, 4);
  const options = comment === undefined ? [] : [option(OPT_COMMENT, Buffer.from(comment))];
  options.push(
    option(ISB_STARTTIME, timestamp(start)),
    option(ISB_ENDTIME, timestamp(end)),
    option(ISB_IFRECV, counter(received)),
    option(ISB_IFDROP, counter(dropped)),
    option(ISB_FILTERACCEPT, counter(accepted)),
    option(ISB_USRDELIV, counter(delivered)),
  );
  return block(INTERFACE_STATISTICS_BLOCK, body, options);
}

function block(type: number, body: Buffer, options: Buffer[]): Buffer {
  const content = Buffer.concat([body, ...options, option(OPT_ENDOFOPT, Buffer.alloc(0))]);
  const total = 12 + content.length;
  const head = Buffer.alloc(8);
  head.writeUInt32LE(type, 0);
  head.writeUInt32LE(total, 4);
  return Buffer.concat([head, content, head.subarray(4)]);
}

function option(code: number, value: Buffer): Buffer {
  const kept = value.subarray(0, MAX_OPTION_BYTES);
  const bytes = Buffer.alloc(4 + padded(kept.length));
  bytes.writeUInt16LE(code, 0);
  bytes.writeUInt16LE(kept.length, 2);
  kept.copy(bytes, 4);
  return bytes;
}

/** The upper 32 bits first (§4.3), whatever the byte order. */
function timestamp(ns: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(Number(ns >> 32n), 0);
  bytes.writeUInt32LE(Number(ns & 0xffff_ffffn), 4);
  return bytes;
}

function counter(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value), 0);
  return bytes;
}

function padded(length: number): number {
  return (length + 3) & ~3;
}
