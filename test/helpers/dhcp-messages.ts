/** DHCP messages (RFC 2131 §2), written out plainly: shares no code with tcpip/. */

export interface ReplyShape {
  type?: number;
  xid?: number;
  mac?: number[];
  op?: number;
  htype?: number;
  cookie?: number;
  yiaddr?: number[];
  server?: number[];
  lease?: number;
  t1?: number;
  t2?: number;
  mask?: number[];
  routers?: number[][];
  dns?: number[][];
  extra?: [number, number[]][];
  /** Instead of all options. */
  raw?: number[];
  file?: number[];
  sname?: number[];
}

const u32 = (value: number): number[] => [value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff];
const filled = (bytes: number[], length: number): number[] => [
  ...bytes,
  ...Array<number>(length - bytes.length).fill(0),
];

const DEFAULTS = {
  server: [10, 0, 0, 1],
  lease: 3600,
  mask: [255, 255, 255, 0],
  routers: [[10, 0, 0, 1]],
  dns: [[10, 0, 0, 53]],
};

/** A server's message: a fine one, unless told otherwise; what is undefined on purpose is left out. */
export function reply(shape: ReplyShape): Uint8Array {
  const { type, xid = 0, mac = [], op = 2, htype = 1, cookie = 0x63825363, yiaddr = [10, 0, 0, 5], t1, t2 } = shape;
  const { server, lease, mask, routers, dns } = { ...DEFAULTS, ...shape };
  const { extra = [], file = [], sname = [] } = shape;
  const options: [number, number[] | undefined][] = [
    [53, type === undefined ? undefined : [type]],
    [54, server],
    [51, lease === undefined ? undefined : u32(lease)],
    [58, t1 === undefined ? undefined : u32(t1)],
    [59, t2 === undefined ? undefined : u32(t2)],
    [1, mask],
    [3, routers?.flat()],
    [6, dns?.flat()],
    ...extra,
  ];
  const written = options.flatMap(([number, value]) => (value === undefined ? [] : [number, value.length, ...value]));
  return Uint8Array.from([
    ...[op, htype, 6, 0],
    ...u32(xid),
    ...[0, 0, 0, 0, 0, 0, 0, 0],
    ...yiaddr,
    ...[0, 0, 0, 0, 0, 0, 0, 0],
    ...filled(mac, 16),
    ...filled(sname, 64),
    ...filled(file, 128),
    ...u32(cookie),
    ...(shape.raw ?? [...written, 255]),
  ]);
}

export interface SentRequest {
  type: number;
  xid: number;
  secs: number;
  flags: number;
  ciaddr: number[];
  mac: number[];
  options: Record<number, number[]>;
  length: number;
}

/** Reads what a client sent. */
export function requestOf(message: Uint8Array): SentRequest {
  const view = new DataView(message.buffer, message.byteOffset, message.length);
  const options: Record<number, number[]> = {};
  for (let at = 240; message[at] !== 255; at += 2 + message[at + 1]) {
    if (at >= message.length) throw new Error('the options have no end');
    options[message[at]] = [...message.subarray(at + 2, at + 2 + message[at + 1])];
  }
  if (message[0] !== 1 || view.getUint32(236) !== 0x63825363) throw new Error('no DHCP request');
  return {
    type: options[53][0],
    xid: view.getUint32(4),
    secs: view.getUint16(8),
    flags: view.getUint16(10),
    ciaddr: [...message.subarray(12, 16)],
    mac: [...message.subarray(28, 34)],
    options,
    length: message.length,
  };
}
