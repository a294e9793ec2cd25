/**
 * TCP and UDP packets written out and checked plainly, from RFC 791, 8200, 9293 and 768: shares no code with switch/.
 */

export interface PacketShape {
  ipVersion: 4 | 6;
  isTcp: boolean;
  /** Tag protocol identifiers of VLAN tags, outermost first. */
  tags?: number[];
  payload: Uint8Array;
  /** TCP's. */
  sequence?: number;
  addresses?: { from: number[]; to: number[] };
  macs?: { from: Uint8Array; to: Uint8Array };
  ports?: { from: number; to: number };
}

export interface Packet {
  bytes: Uint8Array;
  /** Where the headers, and the payload, start. */
  ip: number;
  transport: number;
  payload: number;
  /** csum_offset: the checksum field from `transport` on. */
  csumOffset: number;
}

const u16 = (value: number): number[] => [(value >>> 8) & 0xff, value & 0xff];
const u32 = (value: number): number[] => [...u16(value >>> 16), ...u16(value)];

/** The ones' complement sum of big-endian words, folded to 16 bits (RFC 1071). */
export function onesSum(bytes: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < bytes.length; i++) total += bytes[i]! * (i % 2 === 0 ? 256 : 1);
  while (total > 0xffff) total = (total % 0x1_0000) + Math.floor(total / 0x1_0000);
  return total;
}

/** A packet whose checksum field holds the pseudo header's sum: what NEEDS_CSUM asks for (virtio 1.2 §5.1.6.2). */
export function packet(shape: PacketShape): Packet {
  const { ipVersion, isTcp, tags = [], payload, sequence = 1 } = shape;
  const { from, to } = shape.addresses ?? defaultAddresses(ipVersion);
  const macs = shape.macs ?? { from: Uint8Array.of(2, 0, 0, 0, 0, 1), to: Uint8Array.of(2, 0, 0, 0, 0, 2) };
  const ports = shape.ports ?? { from: 1234, to: 80 };
  const upperLength = (isTcp ? 20 : 8) + payload.length;
  const protocol = isTcp ? 6 : 17;
  const ethernet = [...macs.to, ...macs.from, ...tags.flatMap((tag) => [...u16(tag), 0, 5])];
  ethernet.push(...u16(ipVersion === 4 ? 0x0800 : 0x86dd));
  const ip =
    ipVersion === 4
      ? [0x45, 0, ...u16(20 + upperLength), 0, 7, 0x40, 0, 64, protocol, 0, 0, ...from, ...to]
      : [0x60, 0, 0, 0, ...u16(upperLength), protocol, 64, ...from, ...to];
  if (ipVersion === 4) ip.splice(10, 2, ...u16(0xffff - onesSum(ip)));
  const pseudo = onesSum([...from, ...to, ...u32(upperLength), 0, protocol]);
  const transport = [...u16(ports.from), ...u16(ports.to)];
  if (isTcp) transport.push(...u32(sequence), 0, 0, 0, 9, 0x50, 0x18, 0x10, 0, ...u16(pseudo), 0, 0);
  else transport.push(...u16(upperLength), ...u16(pseudo));
  const head = [...ethernet, ...ip, ...transport];
  const bytes = new Uint8Array(head.length + payload.length);
  bytes.set(head);
  bytes.set(payload, head.length);
  return {
    bytes,
    ip: ethernet.length,
    transport: ethernet.length + ip.length,
    payload: head.length,
    csumOffset: isTcp ? 16 : 6,
  };
}

/** `count` more bytes of IPv4 options, or an IPv6 destination options header of as many, between the headers. */
export function withOptions(of: Packet, { ipVersion }: Pick<PacketShape, 'ipVersion'>, count: number): Packet {
  const at = ipVersion === 4 ? of.ip + 20 : of.ip + 40;
  const extra = new Uint8Array(count).fill(1);
  const bytes = Uint8Array.from([...of.bytes.subarray(0, at), ...extra, ...of.bytes.subarray(at)]);
  const view = new DataView(bytes.buffer);
  if (ipVersion === 4) {
    bytes[of.ip] = 0x40 | ((20 + count) / 4);
    view.setUint16(of.ip + 2, view.getUint16(of.ip + 2) + count);
    view.setUint16(of.ip + 10, 0);
    view.setUint16(of.ip + 10, 0xffff - onesSum(bytes.subarray(of.ip, at + count)));
  } else {
    // Next header, length in units of 8 bytes without the first, and PadN over the rest.
    bytes.set([bytes[of.ip + 6]!, count / 8 - 1, 1, count - 4], at);
    bytes.fill(0, at + 4, at + count);
    bytes[of.ip + 6] = 60;
    view.setUint16(of.ip + 4, view.getUint16(of.ip + 4) + count);
  }
  return { ...of, bytes, transport: of.transport + count, payload: of.payload + count };
}

function defaultAddresses(version: 4 | 6): { from: number[]; to: number[] } {
  if (version === 4) return { from: [10, 0, 0, 1], to: [10, 0, 0, 2] };
  const zeros = new Array<number>(13).fill(0);
  return { from: [0xfd, 0, ...zeros, 1], to: [0xfd, 0, ...zeros, 2] };
}

/** Whether the checksums of a frame shaped like `like` (IPv4's own too) verify for the length that it has. */
export function checksumsVerify(frame: Uint8Array, { ip, transport }: Packet, isTcp: boolean): boolean {
  const isV4 = frame[ip]! >> 4 === 4;
  if (isV4 && onesSum(frame.subarray(ip, transport)) !== 0xffff) return false;
  const addresses = isV4 ? frame.subarray(ip + 12, ip + 20) : frame.subarray(ip + 8, ip + 40);
  const upper = frame.subarray(transport);
  return onesSum([...addresses, ...u32(upper.length), 0, isTcp ? 6 : 17, ...upper]) === 0xffff;
}
