/** Ethernet frames and IPv4 packets, written out plainly from their standards: shares no code with tcpip/. */
import type { MemoryDevice } from './tcpip-wire.ts';

export const OUR_MAC = [2, 0, 0, 0, 0, 1];
export const THEIR_MAC = [2, 0, 0, 0, 0, 2];
export const EVERYBODY = [255, 255, 255, 255, 255, 255];
export const OURS = [10, 0, 0, 1];
export const THEIRS = [10, 0, 0, 2];

const u16 = (value: number): number[] => [(value >>> 8) & 0xff, value & 0xff];

/** RFC 1071, slowly. */
export function checksum(bytes: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += bytes[i]! * 256 + (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum % 65_536) + Math.floor(sum / 65_536);
  return 0xffff - sum;
}

export interface FrameShape {
  to?: number[];
  from?: number[];
  type?: number;
  /** VID of a tag. */
  vid?: number;
}

export function frame(payload: ArrayLike<number>, shape: FrameShape = {}): Uint8Array {
  const { to = OUR_MAC, from = THEIR_MAC, type = 0x0800, vid } = shape;
  const tag = vid === undefined ? [] : [0x81, 0x00, ...u16(vid)];
  return Uint8Array.from([...to, ...from, ...tag, ...u16(type), ...Array.from(payload)]);
}

export interface Ipv4Shape {
  source?: number[];
  destination?: number[];
  protocol?: number;
  ttl?: number;
  tos?: number;
  id?: number;
  /** Flags and offset, the whole field. */
  fragment?: number;
  /** A whole number of words. */
  options?: number[];
  totalLength?: number;
  version?: number;
  headerWords?: number;
  /** Added to the right checksum. */
  checksumError?: number;
}

export function ipv4(payload: ArrayLike<number>, shape: Ipv4Shape = {}): Uint8Array {
  const { source = THEIRS, destination = OURS, protocol = 17, ttl = 64, tos = 0, id = 0, fragment = 0 } = shape;
  const { options = [], version = 4, checksumError = 0 } = shape;
  const length = 20 + options.length;
  const { totalLength = length + payload.length, headerWords = length / 4 } = shape;
  const header = [(version << 4) | headerWords, tos, ...u16(totalLength), ...u16(id), ...u16(fragment)];
  header.push(ttl, protocol, 0, 0, ...source, ...destination, ...options);
  header.splice(10, 2, ...u16(checksum(header) + checksumError));
  return Uint8Array.from([...header, ...Array.from(payload)]);
}

export function icmp(type: number, code: number, rest: number[], data: ArrayLike<number> = []): Uint8Array {
  const message = [type, code, 0, 0, ...rest, ...Array.from(data)];
  message.splice(2, 2, ...u16(checksum(message)));
  return Uint8Array.from(message);
}

export interface UdpShape {
  from?: number;
  to?: number;
  source?: number[];
  destination?: number[];
  /** Of the field; undefined: the right one. */
  checksum?: number;
  length?: number;
}

export function udp(data: ArrayLike<number>, shape: UdpShape = {}): Uint8Array {
  const { from = 4000, to = 5000, source = THEIRS, destination = OURS, length = 8 + data.length } = shape;
  const message = [...u16(from), ...u16(to), ...u16(length), 0, 0, ...Array.from(data)];
  const pseudo = [
    ...source,
    ...destination,
    ...(source.length === 4 ? [0, 17, ...u16(length)] : [0, 0, ...u16(length), 0, 0, 0, 17]),
  ];
  const right = checksum([...pseudo, ...message]) || 0xffff;
  message.splice(6, 2, ...u16(shape.checksum ?? right));
  return Uint8Array.from(message);
}

export interface ArpShape {
  operation?: number;
  senderMac?: number[];
  sender?: number[];
  targetMac?: number[];
  target?: number[];
}

export function arp(shape: ArpShape = {}): Uint8Array {
  const {
    operation = 1,
    senderMac = THEIR_MAC,
    sender = THEIRS,
    targetMac = [0, 0, 0, 0, 0, 0],
    target = OURS,
  } = shape;
  return Uint8Array.from([0, 1, 8, 0, 6, 4, ...u16(operation), ...senderMac, ...sender, ...targetMac, ...target]);
}

export const arpFrame = (shape: ArpShape & { to?: number[] } = {}): Uint8Array =>
  frame(arp(shape), { to: shape.to ?? EVERYBODY, from: shape.senderMac ?? THEIR_MAC, type: 0x0806 });

/** Takes what a device has sent: the payload of each frame of a type, in order. */
export function takeSent(device: MemoryDevice, type: number): Uint8Array[] {
  const payloads = device.sent.filter(({ bytes }) => bytes[12]! * 256 + bytes[13]! === type);
  device.sent = [];
  return payloads.map(({ bytes }) => bytes.slice(14));
}

export const bytesOf = (length: number, seed = 0): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (i * 7 + (i >> 8) + seed) & 0xff);
