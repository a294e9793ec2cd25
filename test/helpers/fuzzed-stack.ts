/**
 * A whole stack to throw frames at, and the frames: recorded from a dialogue of two stacks, written by hand, and mutated.
 *
 *     const corpus = record();                      // what the second of two stacks got, and when
 *     const victim = new Victim(0xee);              // as that second stack: the same seed, the same time
 *     for (const { at, frames } of corpus.heard) victim.give(at, frames)
 *     mutate(random, corpus.all)                    // { bytes, meta }: one of them, spoiled
 *
 * A victim's frames lie among bytes that are `poison`: two victims that only differ in it must do the same, or one has
 * looked outside of its frames.
 */
import { IPPROTO_TCP, IPPROTO_UDP } from '../../packet/header-fields.ts';
import { IPPROTO_IGMP } from '../../tcpip/ip/ipv4-header.ts';
import { Ipv6 } from '../../tcpip/ipv6/ipv6.ts';
import { Igmp } from '../../tcpip/multicast/igmp.ts';
import type { Random, Time } from '../../tcpip/network.ts';
import { Stack } from '../../tcpip/stack.ts';
import type { Connection, TcpHandler } from '../../tcpip/tcp/api.ts';
import { Tcp } from '../../tcpip/tcp/tcp.ts';
import { UdpError } from '../../tcpip/udp/api.ts';
import { Udp } from '../../tcpip/udp/udp.ts';
import {
  checksum6,
  icmpv6,
  ip,
  ipv6,
  linkLayerOption,
  neighbourAdvertisement,
  neighbourSolicitation,
  prefixOption,
  ROUTER_MAC,
  routerAdvertisement,
  u16,
  u32,
} from './ipv6-host.ts';
import { arpFrame, bytesOf, checksum, frame, icmp, ipv4, udp } from './tcpip-packets.ts';
import { MemoryDevice, type SentFrame, seconds, seeded, Wire } from './tcpip-wire.ts';

const SEED = 5;
const ECHO_PORT = 80;
const UDP_PORT = 5000;
/** Wire's second stack. */
const MAC = [2, 0, 0, 0, 0, 2];
const ADDRESS = [10, 0, 0, 2];
const PEER = [10, 0, 0, 1];
const ADDRESS_6 = 'fd00::2';
const PEER_6 = 'fd00::1';
const GROUP = [239, 1, 2, 3];
const GROUP_6 = 'ff02::1:3';
const LIMITS = { maxConnections: 64, maxTimeWait: 64, receiveMemory: 2 ** 20 };
const ETHERTYPE_IPV6 = 0x86dd;
/** VIRTIO_NET_HDR_F_DATA_VALID: TCP's and UDP's checksums count as right. */
const DATA_VALID = 2;

interface Equipment {
  tcp: Tcp;
  udp: Udp;
  igmp: Igmp;
  ipv6: Ipv6;
}

/** Everything that a stack may have, with an echo server on TCP and UDP, in two groups. */
function equip(stack: Stack, random: Random, clock: () => Time, address6: string): Equipment {
  const tcp = new Tcp(stack, random, { clock, ...LIMITS });
  const sockets = new Udp(stack, random);
  stack.addTransport(IPPROTO_TCP, tcp);
  stack.addTransport(IPPROTO_UDP, sockets);
  const igmp = new Igmp(stack);
  stack.ipv4.groups = igmp;
  stack.addTicking(igmp);
  stack.addTransport(IPPROTO_IGMP, {
    input: (packet, now) => igmp.input(packet, now),
    error: () => false,
    writable() {},
  });
  const six = new Ipv6(stack);
  stack.setIpv6(six);
  six.start(clock());
  six.addresses.add(Uint8Array.from(ip(address6)), 64, clock(), { dad: false });
  igmp.join(Uint8Array.from(GROUP), clock());
  six.groups.join(Uint8Array.from(ip(GROUP_6)), clock());
  const echo: TcpHandler = {
    onConnected() {},
    onWritable() {},
    onData: (c, bytes, start, end) => {
      tcp.write(c, bytes.slice(start, end));
    },
    onEnd: (c) => tcp.shutdown(c),
    onClosed() {},
  };
  tcp.listen({ port: ECHO_PORT, backlog: 16, fastOpen: true, ecn: true, onAccept: () => echo });
  for (const family of [4, 6] as const) {
    sockets.open({
      family,
      port: UDP_PORT,
      ipv6Only: family === 6,
      handler: {
        onMessage: (socket, { bytes, start, end, source, port, family }) => {
          const sender = bytes.slice(source, source + (family === 4 ? 4 : 16));
          try {
            socket.send(bytes.slice(start, end), 0, end - start, sender, port);
          } catch (error) {
            // Forged senders: nobody that there is a way to.
            if (!(error instanceof UdpError)) throw error;
          }
        },
      },
    });
  }
  return { tcp, udp: sockets, igmp, ipv6: six };
}

/** Frames that come at one time. */
export interface Heard {
  at: Time;
  frames: Mutation[];
}

export interface Corpus {
  /** What the second stack got, and what it sent in return. */
  heard: Heard[];
  answers: Uint8Array[];
  /** Frames to mutate: those, and what only routers, servers and strangers send. */
  all: Uint8Array[];
  /** How long the dialogue lasted. */
  end: Time;
}

/** Two stacks talk about everything: TCP with data both ways over IPv4 and IPv6, UDP in fragments, pings, closed ports. */
export function record(): Corpus {
  const heard: Heard[] = [];
  const answers: Uint8Array[] = [];
  const delay = 100;
  const wire = new Wire({ delay, seed: SEED });
  wire.watch = ({ bytes }, fromA) => {
    const at = wire.now + delay;
    if (!fromA) answers.push(bytes);
    else if (heard.at(-1)?.at === at) heard.at(-1)!.frames.push({ bytes, meta: {} });
    else heard.push({ at, frames: [{ bytes, meta: {} }] });
  };
  const clock = (): Time => wire.now;
  const peer = equip(wire.a, seeded(77), clock, PEER_6);
  equip(wire.b, seeded(SEED + 2), clock, ADDRESS_6);
  const talk: TcpHandler = {
    onConnected: (c) => {
      peer.tcp.write(c, bytesOf(5000));
    },
    onWritable() {},
    onData() {},
    onEnd() {},
    onClosed() {},
  };
  wire.run(wire.now + seconds(3));
  const targets = [Uint8Array.from(ADDRESS), Uint8Array.from(ip(ADDRESS_6))];
  const open: Connection[] = [];
  for (const address of targets) {
    wire.a.ping(address, { size: 40 }, () => {});
    for (const port of [ECHO_PORT, ECHO_PORT, 81]) {
      open.push(peer.tcp.connect({ address, port, handler: talk, ecn: true, fastOpenData: bytesOf(10) }));
      wire.run(wire.now + seconds(1));
    }
    const socket = peer.udp.open({ family: address.length === 4 ? 4 : 6, handler: { onMessage() {} } });
    for (const [bytes, port] of [
      [20, UDP_PORT],
      [4000, UDP_PORT],
      [20, 9],
    ] as const) {
      socket.send(bytesOf(bytes), 0, bytes, address, port);
    }
    wire.run(wire.now + seconds(1));
  }
  peer.tcp.shutdown(open[0]!);
  peer.tcp.abort(open[1]!);
  wire.run(wire.now + seconds(1));
  peer.tcp.shutdown(open[3]!);
  peer.igmp.leave(Uint8Array.from(GROUP), wire.now);
  peer.ipv6.groups.leave(Uint8Array.from(ip(GROUP_6)), wire.now);
  wire.run(wire.now + seconds(2));
  const all = [...heard.flatMap(({ frames }) => frames.map(({ bytes }) => bytes)), ...strangers(answers)];
  return { heard, answers, all, end: wire.now };
}

/** Frames that no host sends by itself. */
function strangers(answers: Uint8Array[]): Uint8Array[] {
  const four = (payload: Uint8Array, shape: object = {}): Uint8Array =>
    frame(ipv4(payload, { source: PEER, destination: ADDRESS, ...shape }), { to: MAC, from: MAC_OF_PEER });
  const six = (packet: number[], to = MAC): Uint8Array => frame(packet, { to, from: ROUTER_MAC, type: ETHERTYPE_IPV6 });
  const direct = { source: PEER_6, destination: ADDRESS_6 };
  const local = { source: 'fe80::1', hopLimit: 255 };
  const quoted = answers
    .filter((bytes) => bytes[12] === 8 && bytes[13] === 0)
    .slice(-6)
    .map((bytes) => bytes.slice(14, 14 + 60));
  const quoted6 = answers
    .filter((bytes) => bytes[12] === 0x86 && bytes[13] === 0xdd)
    .slice(-6)
    .map((bytes) => [...bytes.slice(14, 14 + 120)]);
  return [
    arpFrame({ to: MAC }),
    ...quoted.flatMap((packet) => [
      four(icmp(3, 4, [0, 0, 2, 88], packet), { protocol: 1 }),
      four(icmp(3, 1, [0, 0, 0, 0], packet), { protocol: 1 }),
      four(icmp(5, 1, [10, 0, 0, 9], packet), { protocol: 1 }),
      four(icmp(12, 0, [4, 0, 0, 0], packet), { protocol: 1 }),
    ]),
    four(icmp(13, 0, [0, 1, 0, 2], new Uint8Array(12)), { protocol: 1 }),
    four(icmp(8, 0, [0, 1, 0, 2], new Uint8Array(12)), { protocol: 1, options: [7, 7, 4, 0, 0, 0, 0, 1] }),
    four(icmp(17, 0, [100, 0, 0, 0], [239, 1, 2, 3]), { protocol: 2, options: [148, 4, 0, 0], ttl: 1 }),
    four(icmp(17, 10, [239, 1, 2, 3], [2, 20, 0, 1, 10, 0, 0, 1]), { protocol: 2, ttl: 1 }),
    frame([0x60, ...u16(ETHERTYPE_IPV6)], { to: MAC, vid: 7 }),
    six(
      routerAdvertisement({
        options: [
          ...linkLayerOption(1, ROUTER_MAC),
          ...[5, 1, 0, 0, ...u32(1400)],
          ...prefixOption('fd00:5::'),
          ...[24, 2, 48, 8, ...u32(600), ...ip('fd00:9::').slice(0, 8)],
          ...[25, 3, 0, 0, ...u32(600), ...ip('fd00::53')],
        ],
      }),
    ),
    six(neighbourSolicitation(ADDRESS_6, linkLayerOption(1, ROUTER_MAC), { ...local, destination: ADDRESS_6 })),
    six(neighbourAdvertisement(PEER_6, 0x60, linkLayerOption(2, ROUTER_MAC), { ...local, destination: ADDRESS_6 })),
    six(icmpv6(130, 0, [0x27, 0x10, 0, 0, ...ip('::')], { ...local, hopLimit: 1 })),
    six(icmpv6(130, 0, [0x27, 0x10, 0, 0, ...ip(GROUP_6), 2, 125, 0, 1, ...ip(PEER_6)], { ...local, hopLimit: 1 })),
    six(icmpv6(128, 0, [0, 1, 0, 2, 3, 4], direct)),
    six(icmpv6(137, 0, [...u32(0), ...ip('fe80::9'), ...ip(PEER_6)], { ...local, destination: ADDRESS_6 })),
    ...quoted6.flatMap((packet) => [
      six(icmpv6(2, 0, [...u32(1280), ...packet], direct)),
      six(icmpv6(1, 4, [...u32(0), ...packet], direct)),
    ]),
    six(ipv6([59, 0, 5, 2, 0, 0, 1, 0], { ...direct, nextHeader: 0 })),
    six(ipv6([17, 0, 0, 1, 0, 0, 0, 9, ...bytesOf(64)], { ...direct, nextHeader: 44 })),
    six(ipv6([6, 2, 0, 1, ...bytesOf(20)], { ...direct, nextHeader: 43 })),
    four(udp(bytesOf(30), { from: 4000, to: UDP_PORT, source: PEER, destination: ADDRESS })),
  ];
}

const MAC_OF_PEER = [2, 0, 0, 0, 0, 1];

export class Victim {
  /** What it sent, oldest first. */
  readonly sent: Uint8Array[] = [];
  readonly tcp: Tcp;
  readonly stack: Stack;
  now: Time = seconds(1);
  readonly #device: MemoryDevice;
  #work = false;

  /** @param poison what lies around its frames */
  constructor(poison: number) {
    this.#device = new MemoryDevice({ address: Uint8Array.from(MAC), poison });
    this.#device.onSent = ({ bytes }) => this.sent.push(bytes);
    this.stack = new Stack({ device: this.#device, random: seeded(SEED + 1) });
    this.stack.advance(this.now);
    this.stack.onWork = () => {
      this.#work = true;
    };
    this.stack.addAddress(Uint8Array.from(ADDRESS), 24);
    this.tcp = equip(this.stack, seeded(SEED + 2), () => this.now, ADDRESS_6).tcp;
  }

  /** Frames come at that time, in one batch. Whatever is due before happens first. */
  give(at: Time, frames: readonly Mutation[]): void {
    this.run(at);
    for (const { bytes, meta } of frames) this.#device.give(bytes, meta);
    this.#settle();
  }

  run(until: Time): void {
    for (;;) {
      this.#settle();
      const { deadline } = this.stack;
      if (deadline > until) break;
      this.now = Math.max(this.now, deadline);
    }
    this.now = Math.max(this.now, until);
    this.stack.advance(this.now);
  }

  #settle(): void {
    for (let rounds = 0; ; rounds++) {
      if (rounds > 1000) throw new Error('the stack never comes to rest');
      this.#work = false;
      if (this.stack.poll(this.now) > 0 || this.#work || this.#device.waiting > 0) continue;
      if (this.stack.deadline > this.now) return;
    }
  }
}

/** A frame, and what its virtio-net header says. */
export interface Mutation {
  bytes: Uint8Array;
  meta: Partial<SentFrame>;
}

/** One of the frames, spoiled in one or a few ways; mostly with right checksums again, so that it gets further, unless `mends` is false. */
export function mutate(random: Random, frames: readonly Uint8Array[], mends = true): Mutation {
  const any = (count: number): number => random() % count;
  let bytes: Uint8Array = Uint8Array.from(frames[any(frames.length)]!);
  for (let i = any(3); i >= 0; i--) bytes = spoil(bytes, any, frames);
  if (!mends) return { bytes, meta: {} };
  if (any(8) > 0) {
    const to = bytes.subarray(0, 6);
    // Mostly for us, or nobody looks at it.
    if (bytes.length >= 6 && (to[0]! & 1) === 0) to.set(MAC);
  }
  if (any(5) > 0) mend(bytes);
  const meta: Partial<SentFrame> = { flags: any(4) > 0 ? DATA_VALID : 0 };
  if (any(10) === 0) Object.assign(meta, { flags: any(256), gsoType: any(256), gsoSize: any(65_536) });
  return { bytes, meta };
}

function spoil(bytes: Uint8Array, any: (count: number) => number, frames: readonly Uint8Array[]): Uint8Array {
  const at = any(Math.max(1, bytes.length));
  switch (any(7)) {
    case 0:
      bytes[at] = bytes[at]! ^ (1 << any(8));
      return bytes;
    case 1:
      bytes[at] = any(256);
      return bytes;
    case 2:
      // Lengths, offsets, counts.
      bytes.set(
        [
          [0, 0],
          [0, 1],
          [0xff, 0xff],
          [0x80, 0],
          [0, any(64)],
        ][any(5)]!.slice(0, bytes.length - at),
        at,
      );
      return bytes;
    case 3:
      return bytes.slice(0, at);
    case 4:
      return Uint8Array.from([...bytes, ...bytesOf(any(200), any(256))]);
    case 5: {
      const other = frames[any(frames.length)]!;
      return Uint8Array.from([...bytes.slice(0, at), ...other.slice(any(Math.max(1, other.length)))]);
    }
    default: {
      // A piece twice.
      const length = any(24);
      return Uint8Array.from([...bytes.slice(0, at + length), ...bytes.slice(at)]);
    }
  }
}

/** Puts the checksums right that are not marked as verified: of IPv4's header, ICMP, IGMP and ICMPv6. */
function mend(bytes: Uint8Array): void {
  const type = (bytes[12]! << 8) | bytes[13]!;
  if (type === 0x0800 && bytes.length >= 34) {
    const header = 4 * (bytes[14]! & 15);
    if (bytes.length < 14 + header || header < 20) return;
    bytes.set([0, 0], 24);
    bytes.set(u16(checksum(bytes.subarray(14, 14 + header))), 24);
    const end = Math.min(bytes.length, 14 + ((bytes[16]! << 8) | bytes[17]!));
    const at = 14 + header;
    if ((bytes[23] !== 1 && bytes[23] !== 2) || end < at + 4) return;
    bytes.set([0, 0], at + 2);
    bytes.set(u16(checksum(bytes.subarray(at, end))), at + 2);
  }
  if (type !== ETHERTYPE_IPV6 || bytes.length < 58 || bytes[20] !== 58) return;
  const end = Math.min(bytes.length, 54 + ((bytes[18]! << 8) | bytes[19]!));
  if (end < 58) return;
  bytes.set([0, 0], 56);
  const text = (from: number): string => groups(bytes.subarray(from, from + 16));
  bytes.set(u16(checksum6(text(22), text(38), 58, bytes.subarray(54, end))), 56);
}

function groups(address: Uint8Array): string {
  return Array.from({ length: 8 }, (_, i) => ((address[2 * i]! << 8) | address[2 * i + 1]!).toString(16)).join(':');
}

/** An echo request from the peer, for afterwards. */
export function pingFrame(sequence: number): Uint8Array {
  const message = icmp(8, 0, [9, 9, ...u16(sequence)], bytesOf(8));
  return frame(ipv4(message, { source: PEER, destination: ADDRESS, protocol: 1 }), { to: MAC, from: MAC_OF_PEER });
}

const toVictim = (payload: Uint8Array, protocol: number): Uint8Array =>
  frame(ipv4(payload, { source: PEER, destination: ADDRESS, protocol }), { to: MAC, from: MAC_OF_PEER });

/** Where the peer is, said once more. */
export function neighbourFrame(): Uint8Array {
  return arpFrame({
    operation: 2,
    senderMac: MAC_OF_PEER,
    sender: PEER,
    targetMac: MAC,
    target: ADDRESS,
    to: MAC,
  });
}

/** For the echo server on UDP. */
export function datagramFrame(data: Uint8Array): Uint8Array {
  const message = udp(data, { from: 4321, to: UDP_PORT, source: PEER, destination: ADDRESS });
  return toVictim(message, IPPROTO_UDP);
}

/** A segment for the echo server on TCP, from a port that nobody used. */
export function segmentFrame(seq: number, ack: number, flags: number, data: Uint8Array): Uint8Array {
  const ports = [...u16(4321), ...u16(ECHO_PORT)];
  const segment = [...ports, ...u32(seq), ...u32(ack), 0x50, flags, ...u16(60_000), 0, 0, 0, 0, ...data];
  const pseudo = [...PEER, ...ADDRESS, 0, IPPROTO_TCP, ...u16(segment.length)];
  segment.splice(16, 2, ...u16(checksum([...pseudo, ...segment])));
  return toVictim(Uint8Array.from(segment), IPPROTO_TCP);
}
