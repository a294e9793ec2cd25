/** DHCP messages on the wire (RFC 2131 §2, RFC 2132): parsed with all that a hostile server may do to them, and written. */

export const DHCP_SERVER_PORT = 67;
export const DHCP_CLIENT_PORT = 68;

// Fixed fields, RFC 2131 figure 1.
const OP = 0;
const HTYPE = 1;
const HLEN = 2;
const XID = 4;
const SECS = 8;
const FLAGS = 10;
const CIADDR = 12;
const YIADDR = 16;
const SIADDR = 20;
const CHADDR = 28;
const SNAME = 44;
const SNAME_BYTES = 64;
const FILE = 108;
const FILE_BYTES = 128;
const COOKIE = 236;
const OPTIONS = 240;
/** 99, 130, 83, 99 (RFC 2131 §3). */
const MAGIC_COOKIE = 0x63825363;
const BOOTREQUEST = 1;
const BOOTREPLY = 2;
const HTYPE_ETHERNET = 1;
const MAC_BYTES = 6;
const BROADCAST_FLAG = 0x8000;
/** Relays may want so many (RFC 1542 §2.1). */
const MIN_MESSAGE_BYTES = 300;

// Message types, RFC 2132 §9.6.
export const DHCPDISCOVER = 1;
export const DHCPOFFER = 2;
export const DHCPREQUEST = 3;
export const DHCPDECLINE = 4;
export const DHCPACK = 5;
export const DHCPNAK = 6;
export const DHCPRELEASE = 7;

// Options, RFC 2132.
const OPTION_PAD = 0;
export const OPTION_SUBNET_MASK = 1;
export const OPTION_ROUTERS = 3;
export const OPTION_DNS = 6;
export const OPTION_HOST_NAME = 12;
export const OPTION_DOMAIN_NAME = 15;
export const OPTION_MTU = 26;
export const OPTION_REQUESTED_ADDRESS = 50;
export const OPTION_LEASE_TIME = 51;
export const OPTION_OVERLOAD = 52;
export const OPTION_MESSAGE_TYPE = 53;
export const OPTION_SERVER_ID = 54;
export const OPTION_PARAMETER_LIST = 55;
export const OPTION_MAX_MESSAGE_SIZE = 57;
export const OPTION_RENEWAL_TIME = 58;
export const OPTION_REBINDING_TIME = 59;
export const OPTION_CLIENT_ID = 61;
/** RFC 3442. */
export const OPTION_CLASSLESS_ROUTES = 121;
const OPTION_END = 255;
const OVERLOAD_FILE = 1;
const OVERLOAD_SNAME = 2;

const MAX_OPTION_BYTES = 255;
const NO_ADDRESS = new Uint8Array(4);

/** A message of a server. */
export interface DhcpReply {
  xid: number;
  type: number;
  /** 'Your' address. */
  yiaddr: Uint8Array;
  siaddr: Uint8Array;
  chaddr: Uint8Array;
  /** By number; several of a number are one (RFC 3396 §5). */
  options: ReadonlyMap<number, Uint8Array>;
}

/** What a client says. */
export interface DhcpRequest {
  type: number;
  xid: number;
  /** Seconds since the client began. */
  secs: number;
  /** Replies shall be for everybody: we cannot take others yet (RFC 2131 §4.1). */
  broadcast: boolean;
  /** The address that we have, and answer at; none: 0.0.0.0. */
  ciaddr?: Uint8Array;
  mac: Uint8Array;
  /** In this order. */
  options: readonly (readonly [number, Uint8Array])[];
}

/**
 * Reads a server's message in `bytes[at, end)`, a UDP datagram's data. Gives null for what is none, or is broken: too
 * short, another cookie, options that do not fit, no message type, another kind of hardware.
 */
export function parseDhcpReply(bytes: Uint8Array, at: number, end: number): DhcpReply | null {
  if (end - at < OPTIONS) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, end - at);
  if (view.getUint8(OP) !== BOOTREPLY || view.getUint8(HTYPE) !== HTYPE_ETHERNET) return null;
  if (view.getUint8(HLEN) !== MAC_BYTES || view.getUint32(COOKIE) !== MAGIC_COOKIE) return null;
  const parts = new Map<number, Uint8Array[]>();
  if (!readOptions(bytes, at + OPTIONS, end, parts)) return null;
  // Where options go on (RFC 2132 §9.3): file first, then sname (RFC 3396 §5).
  const overload = parts.get(OPTION_OVERLOAD)?.[0];
  if (overload?.length === 1) {
    if ((overload[0] & OVERLOAD_FILE) !== 0 && !readOptions(bytes, at + FILE, at + FILE + FILE_BYTES, parts))
      return null;
    if ((overload[0] & OVERLOAD_SNAME) !== 0 && !readOptions(bytes, at + SNAME, at + SNAME + SNAME_BYTES, parts)) {
      return null;
    }
  }
  const options = new Map<number, Uint8Array>();
  for (const [number, values] of parts) options.set(number, new Uint8Array(Buffer.concat(values)));
  const type = options.get(OPTION_MESSAGE_TYPE);
  if (type?.length !== 1) return null;
  return {
    xid: view.getUint32(XID),
    type: type[0],
    yiaddr: bytes.slice(at + YIADDR, at + YIADDR + 4),
    siaddr: bytes.slice(at + SIADDR, at + SIADDR + 4),
    chaddr: bytes.slice(at + CHADDR, at + CHADDR + MAC_BYTES),
    options,
  };
}

/** False: an option does not fit. Without an end option the field's end is one. */
function readOptions(bytes: Uint8Array, from: number, end: number, parts: Map<number, Uint8Array[]>): boolean {
  for (let at = from; at < end; ) {
    const number = bytes[at];
    if (number === OPTION_PAD) {
      at++;
      continue;
    }
    if (number === OPTION_END) return true;
    if (at + 1 >= end) return false;
    const length = bytes[at + 1];
    if (length > end - at - 2) return false;
    const value = bytes.subarray(at + 2, at + 2 + length);
    const known = parts.get(number);
    if (known === undefined) parts.set(number, [value]);
    else known.push(value);
    at += 2 + length;
  }
  return true;
}

/** A message to a server. Throws RangeError for an option longer than 255 bytes. */
export function writeDhcpRequest({ type, xid, secs, broadcast, ciaddr, mac, options }: DhcpRequest): Uint8Array {
  const bytes: number[] = [OPTION_MESSAGE_TYPE, 1, type];
  for (const [number, value] of options) {
    if (value.length > MAX_OPTION_BYTES) {
      throw new RangeError(`DHCP option ${number} of ${value.length} bytes: the longest has ${MAX_OPTION_BYTES}`);
    }
    bytes.push(number, value.length, ...value);
  }
  bytes.push(OPTION_END);
  const message = new Uint8Array(Math.max(MIN_MESSAGE_BYTES, OPTIONS + bytes.length));
  const view = new DataView(message.buffer);
  view.setUint8(OP, BOOTREQUEST);
  view.setUint8(HTYPE, HTYPE_ETHERNET);
  view.setUint8(HLEN, MAC_BYTES);
  view.setUint32(XID, xid);
  view.setUint16(SECS, Math.min(secs, 0xffff));
  view.setUint16(FLAGS, broadcast ? BROADCAST_FLAG : 0);
  message.set(ciaddr ?? NO_ADDRESS, CIADDR);
  message.set(mac, CHADDR);
  view.setUint32(COOKIE, MAGIC_COOKIE);
  message.set(bytes, OPTIONS);
  return message;
}
