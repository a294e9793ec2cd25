/** Cases for /dev/net/tun. The answers are Linux's (drivers/net/tun.c). */
import {
  ARPHRD_ETHER,
  IFF_ATTACH_QUEUE,
  IFF_DETACH_QUEUE,
  IFF_MULTI_QUEUE,
  IFF_NAPI,
  IFF_NAPI_FRAGS,
  IFF_NO_PI,
  IFF_ONE_QUEUE,
  IFF_TAP,
  IFF_TUN,
  IFF_TUN_EXCL,
  IFF_VNET_HDR,
  MAX_TAP_QUEUES,
  TUN_F_CSUM,
  TUN_F_TSO_ECN,
  TUN_F_TSO4,
  TUN_F_TSO6,
  TUN_F_UFO,
  TUN_F_USO4,
  TUN_F_USO6,
} from '../../linux/if-tun.ts';
import type { Case, Expected, Row } from './case.ts';
import { IFF_NO_CARRIER, send, setUp, TCGETS, TunFile, UNTERMINATED_NAME } from './tun-steps.ts';

const a = new TunFile('a');
const b = new TunFile('b');
const c = new TunFile('c');

const TAP = IFF_TAP | IFF_NO_PI;
const QUEUE = TAP | IFF_MULTI_QUEUE;
/** A bit of ifr_flags that means nothing to TUNSETIFF. */
const UNKNOWN_FLAG = 0x0008;
const MAC = '52:54:00:12:34:56';
const OTHER_MAC = '52:54:00:12:34:57';

const NO_LAYER_3 = 'a switch has no layer 3 ports';
const NO_KERNEL_FACILITY = 'needs a facility of the kernel that a user-space switch has not';
const ONLY_KNOWN = 'an ioctl that the clone does not know says so';
const ALWAYS_UP = 'a port of the switch is always up';

/** Refused by the clones, whatever Linux answers. */
const missing = (kernel: string | string[]): Expected => ({ kernel, clone: 'ENOTTY', why: NO_KERNEL_FACILITY });

/** An Ethernet frame: broadcast, from MAC, of an experimental EtherType (IEEE 802 local experimental 1), 60 bytes. */
const ETH_HLEN = 14;
const frame = Buffer.alloc(60);
frame.write('ffffffffffff525400123456' + '88b5', 'hex');
frame.fill('ringswitch', ETH_HLEN);
const frameHex = frame.toString('hex');

/** struct virtio_net_hdr (virtio 1.2 §5.1.6), 10 bytes: legacy, without num_buffers. */
interface NetHeader {
  flags?: number;
  gsoType?: number;
  hdrLen?: number;
  gsoSize?: number;
  csumStart?: number;
  csumOffset?: number;
}
function netHeader({
  flags = 0,
  gsoType = 0,
  hdrLen = 0,
  gsoSize = 0,
  csumStart = 0,
  csumOffset = 0,
}: NetHeader): Buffer {
  const bytes = Buffer.alloc(10);
  bytes.writeUInt8(flags, 0);
  bytes.writeUInt8(gsoType, 1);
  bytes.writeUInt16LE(hdrLen, 2);
  bytes.writeUInt16LE(gsoSize, 4);
  bytes.writeUInt16LE(csumStart, 6);
  bytes.writeUInt16LE(csumOffset, 8);
  return bytes;
}
const withHeader = (header: NetHeader): Buffer => Buffer.concat([netHeader(header), frame]);
const VIRTIO_NET_HDR_F_NEEDS_CSUM = 1;
const VIRTIO_NET_HDR_GSO_TCPV4 = 1;
const VIRTIO_NET_HDR_GSO_UNKNOWN = 7;

/** A frame read with a vnet header of more bytes than struct virtio_net_hdr has. `count` and what is read of the frame. */
function readBehind(headerBytes: number, count: number, frameBytes: string): Expected {
  const more = headerBytes - netHeader({}).length;
  const start = `${count} ${netHeader({}).toString('hex')}`;
  return {
    kernel: [`${start}${'00'.repeat(more)}${frameBytes}`, `${start}${'ee'.repeat(more)}${frameBytes}`],
    clone: `${start}0100${'00'.repeat(more - 2)}${frameBytes}`,
    why:
      'Linux 6.1 leaves the bytes behind struct virtio_net_hdr as the reader had them, 6.18 clears them; the clone sets ' +
      'num_buffers, which stands there, to 1 (virtio 1.2 §5.1.6.4.1)',
  };
}

/** Each offload bit with what else it needs. */
const OFFLOADS: [string, number, Expected][] = [
  ['none', 0, '0'],
  ['CSUM', TUN_F_CSUM, '0'],
  ['TSO4 without CSUM', TUN_F_TSO4, 'EINVAL'],
  ['TSO6 without CSUM', TUN_F_TSO6, 'EINVAL'],
  ['TSO_ECN without CSUM', TUN_F_TSO_ECN, 'EINVAL'],
  ['UFO without CSUM', TUN_F_UFO, 'EINVAL'],
  ['USO4 without CSUM', TUN_F_USO4, 'EINVAL'],
  ['CSUM|TSO4', TUN_F_CSUM | TUN_F_TSO4, '0'],
  ['CSUM|TSO6', TUN_F_CSUM | TUN_F_TSO6, '0'],
  ['CSUM|TSO_ECN', TUN_F_CSUM | TUN_F_TSO_ECN, 'EINVAL'],
  ['CSUM|TSO4|TSO_ECN', TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO_ECN, '0'],
  ['CSUM|UFO', TUN_F_CSUM | TUN_F_UFO, '0'],
  ['CSUM|USO4', TUN_F_CSUM | TUN_F_USO4, 'EINVAL'],
  ['CSUM|USO6', TUN_F_CSUM | TUN_F_USO6, 'EINVAL'],
  [
    'CSUM|USO4|USO6',
    TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6,
    { kernel: ['0', 'EINVAL'], why: 'Linux knows USO since 6.2; the clone may either take it or not' },
  ],
  ['CSUM and an unknown bit', TUN_F_CSUM | 0x80, 'EINVAL'],
  ['everything', 0xffff, 'EINVAL'],
];

const attached = (flags = TAP): Row => [a.setIff('cf0', flags), 'cf0'];
const up: Row = [setUp('cf0', true), '0'];

export const tunCases: Case[] = [
  // --- Before TUNSETIFF
  {
    name: 'tun: TUNGETFEATURES',
    rows: [[a.getFeatures(), 'TUN|TAP|NAPI|NAPI_FRAGS|NO_CARRIER|MULTI_QUEUE|NO_PI|ONE_QUEUE|VNET_HDR']],
  },
  ...[
    'TUNGETIFF',
    'TUNGETSNDBUF',
    'TUNGETVNETHDRSZ',
    'TUNGETVNETLE',
    'TUNGETVNETBE',
    'TUNSETSNDBUF',
    'TUNSETVNETHDRSZ',
    'TUNSETVNETLE',
    'TUNSETVNETBE',
    'TUNSETCARRIER',
    'TUNSETTXFILTER',
    'SIOCGIFHWADDR',
    'SIOCSIFHWADDR',
  ].map((request) => ({
    name: `tun: ${request} before TUNSETIFF`,
    rows: [[a.withZeros(request), 'EBADFD']] as Row[],
  })),
  ...['TUNSETOFFLOAD', 'TUNSETPERSIST', 'TUNSETOWNER', 'TUNSETGROUP', 'TUNSETLINK', 'TUNSETNOCSUM', 'TUNSETDEBUG'].map(
    (request) => ({
      name: `tun: ${request} before TUNSETIFF`,
      needsExec: true,
      rows: [[a.setValue(request, 0), 'EBADFD']] as Row[],
    }),
  ),
  ...['TUNATTACHFILTER', 'TUNDETACHFILTER', 'TUNGETFILTER', 'TUNSETSTEERINGEBPF', 'TUNSETFILTEREBPF'].map(
    (request) => ({
      name: `tun: ${request} before TUNSETIFF`,
      rows: [[a.withZeros(request), 'EBADFD']] as Row[],
    }),
  ),
  { name: 'tun: TUNGETDEVNETNS before TUNSETIFF', rows: [[a.getDescriptor('TUNGETDEVNETNS'), 'EBADFD']] },
  { name: 'tun: SIOCGSKNS before TUNSETIFF', rows: [[a.getDescriptor('SIOCGSKNS'), missing('a descriptor')]] },
  {
    name: 'tun: unknown ioctls before TUNSETIFF',
    rows: [
      [a.unknown(0x400454f0), { kernel: 'EBADFD', clone: 'ENOTTY', why: ONLY_KNOWN }],
      [a.unknown(TCGETS), { kernel: 'EBADFD', clone: 'ENOTTY', why: ONLY_KNOWN }],
    ],
  },
  {
    name: 'tun: read, write and poll before TUNSETIFF',
    rows: [
      [a.read(), 'EBADFD'],
      [a.write('a frame', frame), 'EBADFD'],
      [a.poll(), 'ERR'],
    ],
  },
  {
    name: 'tun: TUNSETQUEUE before TUNSETIFF',
    rows: [
      [a.setQueue(IFF_ATTACH_QUEUE), 'EINVAL'],
      [a.setQueue(IFF_DETACH_QUEUE), 'EINVAL'],
      [a.setQueue(0), 'EINVAL'],
    ],
  },
  {
    name: 'tun: addresses at which nothing is',
    rows: [
      [a.withNowhere('TUNGETFEATURES'), 'EFAULT'],
      [a.withNowhere('TUNSETIFF'), 'EFAULT'],
      [a.withNowhere('TUNSETQUEUE'), 'EFAULT'],
      [a.withNowhere('TUNSETIFINDEX'), 'EFAULT'],
      [a.withNowhere('SIOCGIFHWADDR'), 'EFAULT'],
      attached(),
      [a.withNowhere('TUNSETIFF'), 'EFAULT'],
      [a.withNowhere('TUNGETIFF'), 'EFAULT'],
      [a.withNowhere('TUNGETSNDBUF'), 'EFAULT'],
      [a.withNowhere('TUNSETSNDBUF'), 'EFAULT'],
      [a.withNowhere('TUNGETVNETHDRSZ'), 'EFAULT'],
      [a.withNowhere('TUNSETVNETHDRSZ'), 'EFAULT'],
      [a.withNowhere('TUNSETVNETLE'), 'EFAULT'],
      [a.withNowhere('TUNGETVNETLE'), 'EFAULT'],
      [a.withNowhere('TUNSETCARRIER'), 'EFAULT'],
      [a.withNowhere('TUNSETTXFILTER'), 'EFAULT'],
      [a.withNowhere('SIOCGIFHWADDR'), 'EFAULT'],
      [a.withNowhere('SIOCSIFHWADDR'), 'EFAULT'],
    ],
  },

  // --- TUNSETIFF: flags
  { name: 'tun: TUNSETIFF without IFF_TUN and IFF_TAP', rows: [[a.setIff('cf0', IFF_NO_PI), 'EINVAL']] },
  {
    name: 'tun: TUNSETIFF with IFF_TUN',
    rows: [[a.setIff('cf0', IFF_TUN | IFF_NO_PI), { kernel: 'cf0', clone: 'EINVAL', why: NO_LAYER_3 }]],
  },
  {
    name: 'tun: TUNSETIFF with IFF_TUN and IFF_TAP',
    rows: [[a.setIff('cf0', IFF_TUN | TAP), { kernel: 'cf0', clone: 'EINVAL', why: NO_LAYER_3 }]],
  },
  {
    name: 'tun: a refused TUNSETIFF leaves the file usable',
    rows: [
      [a.setIff('cf0', 0), 'EINVAL'],
      [a.getIff(), 'EBADFD'],
      [a.setIff('cf0', TAP), 'cf0'],
    ],
  },
  {
    name: 'tun: TUNSETIFF twice',
    rows: [
      [a.setIff('cf0', TAP), 'cf0'],
      [a.setIff('cf0', TAP), 'EEXIST'],
      [a.setIff('cf1', TAP), 'EEXIST'],
      [a.setIff('cf0', 0), 'EEXIST'],
    ],
  },
  {
    name: 'tun: TUNSETIFF ignores unknown flags',
    rows: [
      [a.setIff('cf0', TAP | UNKNOWN_FLAG), 'cf0'],
      [a.getIff(), 'cf0 TAP|NO_PI'],
    ],
  },
  {
    name: 'tun: TUNSETIFF with IFF_NO_CARRIER',
    rows: [
      [a.setIff('cf0', TAP | IFF_NO_CARRIER), 'cf0'],
      [a.getIff(), 'cf0 TAP|NO_PI'],
    ],
  },
  {
    name: 'tun: TUNSETIFF with IFF_ONE_QUEUE',
    rows: [
      [a.setIff('cf0', TAP | IFF_ONE_QUEUE), 'cf0'],
      [a.getIff(), 'cf0 TAP|NO_PI|ONE_QUEUE'],
    ],
  },
  {
    name: 'tun: TUNSETIFF with IFF_NAPI',
    rows: [
      [a.setIff('cf0', TAP | IFF_NAPI), 'cf0'],
      [a.getIff(), 'cf0 TAP|NAPI|NO_PI'],
    ],
  },
  {
    name: 'tun: TUNSETIFF with IFF_NAPI and IFF_NAPI_FRAGS',
    rows: [
      [a.setIff('cf0', TAP | IFF_NAPI | IFF_NAPI_FRAGS), 'cf0'],
      [a.getIff(), 'cf0 TAP|NAPI|NAPI_FRAGS|NO_PI'],
    ],
  },
  {
    name: 'tun: TUNSETIFF with IFF_NAPI_FRAGS alone',
    rows: [[a.setIff('cf0', TAP | IFF_NAPI_FRAGS), 'EINVAL']],
  },

  // --- TUNSETIFF: names
  {
    name: 'tun: an empty name is a template',
    rows: [
      [a.setIff('', TAP), 'tap0'],
      [b.setIff('', TAP), 'tap1'],
    ],
  },
  {
    name: 'tun: a template takes the first free number',
    rows: [
      [a.setIff('cf%d', TAP), 'cf0'],
      [b.setIff('cf%d', TAP), 'cf1'],
      [c.setIff('cf%dx', TAP), 'cf0x'],
      [a.close(), '0'],
      [a.setIff('cf%d', TAP), 'cf0'],
    ],
  },
  {
    name: 'tun: a template counts past names taken by hand',
    rows: [
      [a.setIff('cf0', TAP), 'cf0'],
      [b.setIff('cf%d', TAP), 'cf1'],
    ],
  },
  ...[
    ['cf%s', 'EINVAL'],
    ['cf%d%d', 'EINVAL'],
    ['cf%', 'EINVAL'],
    ['cf%%', 'EINVAL'],
    ['%d', '0'],
    ['.', 'EINVAL'],
    ['..', 'EINVAL'],
    ['...', '...'],
    ['c/f', 'EINVAL'],
    ['c f', 'EINVAL'],
    ['c\tf', 'EINVAL'],
    ['c:f', 'EINVAL'],
    ['c.f-0_@', 'c.f-0_@'],
    ['c\xe9', 'c\xe9'],
    ['cf0123456789abc', 'cf0123456789abc'],
  ].map(([name, answer]) => ({
    name: `tun: the name ${JSON.stringify(name)}`,
    rows: [[a.setIff(name!, TAP), answer!]] as Row[],
  })),
  {
    name: 'tun: a name of 16 bytes without a final 0 is cut to 15',
    rows: [
      [a.setIff(UNTERMINATED_NAME, TAP), 'cf0123456789abc'],
      [a.getIff(), 'cf0123456789abc TAP|NO_PI'],
    ],
  },
  {
    name: 'tun: a template is cut to 15 bytes before its number is filled in',
    rows: [
      [a.setIff('cf0123456789a%d', TAP), 'cf0123456789a0'],
      [b.setIff('cf0123456789ab%d', TAP), 'EINVAL'],
    ],
  },
  {
    name: 'tun: a name that another file has',
    rows: [
      [a.setIff('cf0', TAP), 'cf0'],
      [b.setIff('cf0', TAP), 'EBUSY'],
      [b.getIff(), 'EBADFD'],
      [a.close(), '0'],
      [b.setIff('cf0', TAP), 'cf0'],
    ],
  },
  {
    name: 'tun: IFF_TUN_EXCL',
    rows: [
      [a.setIff('cf0', TAP | IFF_TUN_EXCL), 'cf0'],
      [a.getIff(), 'cf0 TAP|NO_PI'],
      [b.setIff('cf0', TAP | IFF_TUN_EXCL), 'EBUSY'],
    ],
  },
  {
    name: 'tun: IFF_TUN on the name of a tap',
    rows: [
      [a.setIff('cf0', TAP), 'cf0'],
      [b.setIff('cf0', IFF_TUN | IFF_NO_PI), 'EINVAL'],
      [b.setIff('cf0', IFF_NO_PI), 'EINVAL'],
    ],
  },

  // --- TUNGETIFF
  {
    name: 'tun: TUNGETIFF always shows IFF_NOFILTER, the bit of IFF_NO_PI',
    rows: [attached(IFF_TAP), [a.getIff(), 'cf0 TAP|NO_PI']],
  },
  {
    name: 'tun: TUNGETIFF with a vnet header',
    rows: [attached(TAP | IFF_VNET_HDR), [a.getIff(), 'cf0 TAP|NO_PI|VNET_HDR']],
  },

  // --- Queues
  {
    name: 'tun: queues of one interface',
    rows: [
      [a.setIff('cf0', QUEUE), 'cf0'],
      [b.setIff('cf0', QUEUE), 'cf0'],
      [c.setIff('cf0', QUEUE), 'cf0'],
      [a.getIff(), 'cf0 TAP|MULTI_QUEUE|NO_PI'],
      [b.getIff(), 'cf0 TAP|MULTI_QUEUE|NO_PI'],
      [a.close(), '0'],
      [b.getIff(), 'cf0 TAP|MULTI_QUEUE|NO_PI'],
    ],
  },
  {
    name: 'tun: a second queue without IFF_MULTI_QUEUE',
    rows: [
      [a.setIff('cf0', QUEUE), 'cf0'],
      [b.setIff('cf0', TAP), 'EINVAL'],
    ],
  },
  {
    name: 'tun: a second queue of an interface that has one',
    rows: [
      [a.setIff('cf0', TAP), 'cf0'],
      [b.setIff('cf0', QUEUE), 'EINVAL'],
    ],
  },
  {
    name: 'tun: a second queue with IFF_TUN_EXCL',
    rows: [
      [a.setIff('cf0', QUEUE), 'cf0'],
      [b.setIff('cf0', QUEUE | IFF_TUN_EXCL), 'EBUSY'],
    ],
  },
  {
    name: 'tun: a queue is attached by the same file twice',
    rows: [
      [a.setIff('cf0', QUEUE), 'cf0'],
      [a.setIff('cf0', QUEUE), 'EEXIST'],
    ],
  },
  {
    name: 'tun: the flags of a second queue count for nothing',
    rows: [
      [a.setIff('cf0', QUEUE), 'cf0'],
      [b.setIff('cf0', QUEUE | IFF_VNET_HDR), 'cf0'],
      [b.getIff(), 'cf0 TAP|MULTI_QUEUE|NO_PI'],
      [a.getIff(), 'cf0 TAP|MULTI_QUEUE|NO_PI'],
    ],
  },
  {
    name: 'tun: the vnet header size belongs to the interface',
    rows: [
      [a.setIff('cf0', QUEUE | IFF_VNET_HDR), 'cf0'],
      [b.setIff('cf0', QUEUE | IFF_VNET_HDR), 'cf0'],
      [a.setInt('TUNSETVNETHDRSZ', 12), '0'],
      [b.getInt('TUNGETVNETHDRSZ'), '12'],
    ],
  },
  {
    name: 'tun: more than 256 queues',
    rows: [
      ...Array.from({ length: MAX_TAP_QUEUES }, (_, i): Row => [new TunFile(`q${i}`).setIff('cf0', QUEUE), 'cf0']),
      [a.setIff('cf0', QUEUE), 'E2BIG'],
    ],
  },
  {
    name: 'tun: TUNSETQUEUE detach and attach',
    rows: [
      [a.setIff('cf0', QUEUE), 'cf0'],
      [b.setIff('cf0', QUEUE), 'cf0'],
      [a.setQueue(IFF_DETACH_QUEUE), '0'],
      [a.getIff(), 'cf0 TAP|MULTI_QUEUE|DETACH_QUEUE|NO_PI'],
      [b.getIff(), 'cf0 TAP|MULTI_QUEUE|NO_PI'],
      [a.setQueue(IFF_ATTACH_QUEUE), '0'],
      [a.getIff(), 'cf0 TAP|MULTI_QUEUE|NO_PI'],
    ],
  },
  {
    name: 'tun: TUNSETQUEUE detach of the only queue',
    rows: [
      [a.setIff('cf0', QUEUE), 'cf0'],
      [a.setQueue(IFF_DETACH_QUEUE), '0'],
      [a.getIff(), 'cf0 TAP|MULTI_QUEUE|DETACH_QUEUE|NO_PI'],
      [a.setQueue(IFF_ATTACH_QUEUE), '0'],
    ],
  },
  {
    name: 'tun: TUNSETQUEUE in wrong order',
    rows: [
      [a.setIff('cf0', QUEUE), 'cf0'],
      [a.setQueue(IFF_ATTACH_QUEUE), 'EINVAL'],
      [a.setQueue(0), 'EINVAL'],
      [a.setQueue(IFF_ATTACH_QUEUE | IFF_DETACH_QUEUE), 'EINVAL'],
      [a.setQueue(IFF_DETACH_QUEUE), '0'],
      [a.setQueue(IFF_DETACH_QUEUE), 'EINVAL'],
      [a.setQueue(IFF_ATTACH_QUEUE | IFF_DETACH_QUEUE), '0'],
      [a.setQueue(IFF_ATTACH_QUEUE), 'EINVAL'],
    ],
  },
  {
    name: 'tun: TUNSETQUEUE without IFF_MULTI_QUEUE',
    rows: [attached(), [a.setQueue(IFF_DETACH_QUEUE), 'EINVAL'], [a.setQueue(IFF_ATTACH_QUEUE), 'EINVAL']],
  },
  {
    name: 'tun: a detached queue',
    rows: [
      [a.setIff('cf0', QUEUE | IFF_VNET_HDR), 'cf0'],
      [a.setQueue(IFF_DETACH_QUEUE), '0'],
      [a.setIff('cf0', QUEUE), 'EEXIST'],
      [a.setIff('cf1', QUEUE), 'EEXIST'],
      [a.getInt('TUNGETVNETHDRSZ'), '10'],
      [a.setInt('TUNSETVNETHDRSZ', 12), '0'],
      [a.getInt('TUNGETVNETHDRSZ'), '12'],
      [a.read(), 'EAGAIN'],
      up,
      [a.poll(), 'OUT'],
      [a.read(), 'EAGAIN'],
      [a.write('a frame', Buffer.concat([Buffer.alloc(12), frame])), '72'],
    ],
  },
  {
    name: 'tun: the name of an interface whose only queue is detached',
    rows: [
      [a.setIff('cf0', QUEUE), 'cf0'],
      [a.setQueue(IFF_DETACH_QUEUE), '0'],
      [b.setIff('cf0', QUEUE), 'cf0'],
      [b.getIff(), 'cf0 TAP|MULTI_QUEUE|NO_PI'],
      [b.close(), '0'],
      [a.setQueue(IFF_ATTACH_QUEUE), '0'],
      [a.getIff(), 'cf0 TAP|MULTI_QUEUE|NO_PI'],
    ],
  },

  // --- vnet header
  {
    name: 'tun: TUNSETVNETHDRSZ',
    rows: [
      attached(TAP | IFF_VNET_HDR),
      [a.getInt('TUNGETVNETHDRSZ'), '10'],
      [a.setInt('TUNSETVNETHDRSZ', 12), '0'],
      [a.getInt('TUNGETVNETHDRSZ'), '12'],
      [a.setInt('TUNSETVNETHDRSZ', 9), 'EINVAL'],
      [a.setInt('TUNSETVNETHDRSZ', 0), 'EINVAL'],
      [a.setInt('TUNSETVNETHDRSZ', -1), 'EINVAL'],
      [a.getInt('TUNGETVNETHDRSZ'), '12'],
      [a.setInt('TUNSETVNETHDRSZ', 10), '0'],
      [a.setInt('TUNSETVNETHDRSZ', 11), '0'],
      [a.setInt('TUNSETVNETHDRSZ', 20), '0'],
      [a.setInt('TUNSETVNETHDRSZ', 1000), '0'],
      [a.getInt('TUNGETVNETHDRSZ'), '1000'],
      [a.setInt('TUNSETVNETHDRSZ', 0x7fffffff), '0'],
      [a.getInt('TUNGETVNETHDRSZ'), '2147483647'],
    ],
  },
  {
    name: 'tun: TUNSETVNETHDRSZ without IFF_VNET_HDR',
    rows: [
      attached(),
      [a.getInt('TUNGETVNETHDRSZ'), '10'],
      [a.setInt('TUNSETVNETHDRSZ', 12), '0'],
      [a.getInt('TUNGETVNETHDRSZ'), '12'],
    ],
  },
  {
    name: 'tun: TUNSETVNETLE and TUNSETVNETBE',
    rows: [
      attached(TAP | IFF_VNET_HDR),
      [a.getInt('TUNGETVNETLE'), '0'],
      [a.setInt('TUNSETVNETLE', 1), '0'],
      [a.getInt('TUNGETVNETLE'), '1'],
      [a.setInt('TUNSETVNETLE', 2), '0'],
      [a.getInt('TUNGETVNETLE'), '1'],
      [a.setInt('TUNSETVNETLE', 0), '0'],
      [a.getInt('TUNGETVNETLE'), '0'],
      [a.getInt('TUNGETVNETBE'), 'EINVAL'],
      [a.setInt('TUNSETVNETBE', 1), 'EINVAL'],
      [a.setInt('TUNSETVNETBE', 0), 'EINVAL'],
    ],
  },

  // --- Buffers, carrier, addresses, filters
  {
    name: 'tun: TUNSETSNDBUF',
    rows: [
      attached(),
      [a.getInt('TUNGETSNDBUF'), '2147483647'],
      [a.setInt('TUNSETSNDBUF', 65536), '0'],
      [a.getInt('TUNGETSNDBUF'), '65536'],
      [a.setInt('TUNSETSNDBUF', 0), 'EINVAL'],
      [a.setInt('TUNSETSNDBUF', -1), 'EINVAL'],
      [a.getInt('TUNGETSNDBUF'), '65536'],
      [a.setInt('TUNSETSNDBUF', 1), '0'],
      [a.getInt('TUNGETSNDBUF'), '1'],
    ],
  },
  {
    name: 'tun: TUNSETCARRIER',
    rows: [
      attached(),
      [a.setInt('TUNSETCARRIER', 0), '0'],
      [a.setInt('TUNSETCARRIER', 1), '0'],
      up,
      [a.setInt('TUNSETCARRIER', 0), '0'],
      [a.setInt('TUNSETCARRIER', 1), '0'],
      [a.setInt('TUNSETCARRIER', 2), '0'],
    ],
  },
  {
    name: 'tun: the address of a new interface',
    rows: [attached(), [a.getRandomHwaddr(), `family ${ARPHRD_ETHER} local unicast`]],
  },
  {
    name: 'tun: SIOCSIFHWADDR',
    rows: [
      attached(),
      [a.setHwaddr(MAC), '0'],
      [a.getHwaddr('other'), `"other" family 1 ${MAC}`],
      [a.setHwaddr('01:00:5e:00:00:01'), 'EADDRNOTAVAIL'],
      [a.setHwaddr('00:00:00:00:00:00'), 'EADDRNOTAVAIL'],
      [a.setHwaddr('ff:ff:ff:ff:ff:ff'), 'EADDRNOTAVAIL'],
      [a.setHwaddr(OTHER_MAC, 0), 'EINVAL'],
      [a.setHwaddr(OTHER_MAC, 2), 'EINVAL'],
      [a.setHwaddr('01:00:5e:00:00:01', 2), 'EINVAL'],
      [a.getHwaddr(), `"" family 1 ${MAC}`],
      [a.setHwaddr(MAC), '0'],
      [a.setHwaddr(OTHER_MAC), '0'],
      [a.getHwaddr(), `"" family 1 ${OTHER_MAC}`],
    ],
  },
  {
    name: 'tun: SIOCSIFHWADDR of an interface that is up',
    rows: [attached(), up, [a.setHwaddr(MAC), '0'], [a.getHwaddr(), `"" family 1 ${MAC}`]],
  },
  {
    name: 'tun: queues share one address',
    rows: [
      [a.setIff('cf0', QUEUE), 'cf0'],
      [b.setIff('cf0', QUEUE), 'cf0'],
      [a.setHwaddr(MAC), '0'],
      [b.getHwaddr(), `"" family 1 ${MAC}`],
    ],
  },
  {
    name: 'tun: TUNSETTXFILTER',
    rows: [
      attached(),
      [a.setTxFilter(0, []), '0'],
      [a.setTxFilter(0, [MAC]), '1'],
      [a.setTxFilter(0, [MAC, OTHER_MAC, 'ff:ff:ff:ff:ff:ff']), '3'],
      [a.setTxFilter(0, [MAC, '01:00:5e:00:00:01']), '2'],
      [a.setTxFilter(1, []), '0'],
      [a.setTxFilter(0xffff, [MAC]), '1'],
    ],
  },
  {
    name: 'tun: TUNSETIFINDEX',
    rows: [
      [a.setInt('TUNSETIFINDEX', -1), 'EINVAL'],
      [a.setInt('TUNSETIFINDEX', 4711), '0'],
      [a.setIff('cf0', TAP), 'cf0'],
      [a.setInt('TUNSETIFINDEX', 4712), 'EPERM'],
      [a.setInt('TUNSETIFINDEX', -1), 'EPERM'],
    ],
  },
  {
    name: 'tun: the index that TUNSETIFINDEX asked for',
    only: 'kernel',
    rows: [
      [a.setInt('TUNSETIFINDEX', 4711), '0'],
      [a.setIff('cf0', TAP), 'cf0'],
      [a.ifindexOf('cf0'), '4711'],
      [b.setIfindexOf('cf0'), '0'],
      [b.setIff('cf1', TAP), 'EBUSY'],
    ],
  },

  // --- Values in the argument itself
  {
    name: 'tun: without ringswitch exec, values in the argument fail',
    only: 'clone',
    rows: [
      attached(),
      ...[
        'TUNSETOFFLOAD',
        'TUNSETPERSIST',
        'TUNSETOWNER',
        'TUNSETGROUP',
        'TUNSETLINK',
        'TUNSETNOCSUM',
        'TUNSETDEBUG',
      ].map((request): Row => [a.setValue(request, 0), 'EFAULT']),
    ],
  },
  ...OFFLOADS.map(
    ([what, offloads, answer]): Case => ({
      name: `tun: TUNSETOFFLOAD ${what}`,
      needsExec: true,
      rows: [attached(TAP | IFF_VNET_HDR), [a.setValue('TUNSETOFFLOAD', offloads), answer]],
    }),
  ),
  {
    name: 'tun: TUNSETOFFLOAD without IFF_VNET_HDR',
    needsExec: true,
    rows: [attached(), [a.setValue('TUNSETOFFLOAD', TUN_F_CSUM | TUN_F_TSO4), '0']],
  },
  {
    name: 'tun: TUNSETPERSIST keeps the interface',
    needsExec: true,
    rows: [
      [a.setIff('cfkept', TAP), 'cfkept'],
      [a.setHwaddr(MAC), '0'],
      [a.setValue('TUNSETPERSIST', 1), '0'],
      [a.getIff(), 'cfkept TAP|PERSIST|NO_PI'],
      [a.close(), '0'],
      [b.setIff('cfkept', TAP | IFF_TUN_EXCL), 'EBUSY'],
      [b.setIff('cfkept', TAP), 'cfkept'],
      [b.getIff(), 'cfkept TAP|PERSIST|NO_PI'],
      [b.getHwaddr(), `"" family 1 ${MAC}`],
      [b.setValue('TUNSETPERSIST', 0), '0'],
      [b.getIff(), 'cfkept TAP|NO_PI'],
      [b.close(), '0'],
      [c.setIff('cfkept', TAP | IFF_TUN_EXCL), 'cfkept'],
    ],
  },
  {
    name: 'tun: TUNSETPERSIST twice, and any value but 0',
    needsExec: true,
    rows: [
      [a.setIff('cftwice', TAP), 'cftwice'],
      [a.setValue('TUNSETPERSIST', 0), '0'],
      [a.setValue('TUNSETPERSIST', 2), '0'],
      [a.setValue('TUNSETPERSIST', 1), '0'],
      [a.getIff(), 'cftwice TAP|PERSIST|NO_PI'],
      [a.setValue('TUNSETPERSIST', 0), '0'],
      [a.setValue('TUNSETPERSIST', 0), '0'],
      [a.close(), '0'],
      [b.setIff('cftwice', TAP | IFF_TUN_EXCL), 'cftwice'],
    ],
  },
  {
    name: 'tun: a kept interface takes the flags of who opens it next',
    needsExec: true,
    rows: [
      [a.setIff('cfnext', TAP), 'cfnext'],
      [a.setValue('TUNSETPERSIST', 1), '0'],
      [a.close(), '0'],
      [b.setIff('cfnext', TAP | IFF_VNET_HDR | IFF_MULTI_QUEUE), 'EINVAL'],
      [b.setIff('cfnext', TAP | IFF_VNET_HDR), 'cfnext'],
      [b.getIff(), 'cfnext TAP|PERSIST|NO_PI|VNET_HDR'],
      [b.setValue('TUNSETPERSIST', 0), '0'],
    ],
  },
  {
    name: 'tun: TUNSETOWNER and TUNSETGROUP',
    needsExec: true,
    rows: [
      attached(),
      [a.setValue('TUNSETOWNER', 0), '0'],
      [a.setValue('TUNSETOWNER', 1000), '0'],
      [a.setValue('TUNSETOWNER', 0xffffffff), 'EINVAL'],
      [a.setValue('TUNSETGROUP', 0), '0'],
      [a.setValue('TUNSETGROUP', 1000), '0'],
      [a.setValue('TUNSETGROUP', 0xffffffff), 'EINVAL'],
    ],
  },
  {
    name: 'tun: TUNSETLINK',
    needsExec: true,
    rows: [attached(), [a.setValue('TUNSETLINK', ARPHRD_ETHER), '0']],
  },
  {
    name: 'tun: TUNSETLINK of an interface that is up',
    needsExec: true,
    rows: [attached(), up, [a.setValue('TUNSETLINK', ARPHRD_ETHER), { kernel: 'EBUSY', clone: '0', why: ALWAYS_UP }]],
  },
  {
    name: 'tun: TUNSETNOCSUM and TUNSETDEBUG',
    needsExec: true,
    rows: [
      attached(),
      [a.setValue('TUNSETNOCSUM', 0), '0'],
      [a.setValue('TUNSETNOCSUM', 1), '0'],
      [a.setValue('TUNSETDEBUG', 0), '0'],
      [a.setValue('TUNSETDEBUG', 1), '0'],
    ],
  },

  // --- What the clone has not
  {
    name: 'tun: filters and namespaces',
    rows: [
      attached(),
      [a.withZeros('TUNATTACHFILTER'), missing('EINVAL')],
      [a.withZeros('TUNGETFILTER'), missing('0')],
      [a.withZeros('TUNDETACHFILTER'), missing('0')],
      [a.setInt('TUNSETSTEERINGEBPF', -1), missing('0')],
      [a.setInt('TUNSETFILTEREBPF', -1), missing('0')],
      [a.getDescriptor('SIOCGSKNS'), missing('a descriptor')],
      [a.getDescriptor('TUNGETDEVNETNS'), missing('a descriptor')],
    ],
  },
  {
    name: 'tun: unknown ioctls',
    rows: [
      attached(),
      [a.unknown(0x400454f0), { kernel: 'EINVAL', clone: 'ENOTTY', why: ONLY_KNOWN }],
      [a.unknown(TCGETS), { kernel: 'EINVAL', clone: 'ENOTTY', why: ONLY_KNOWN }],
    ],
  },

  // --- Frames
  {
    name: 'tun: an interface that is down',
    rows: [
      attached(),
      [a.poll(), { kernel: 'nothing', clone: 'OUT', why: ALWAYS_UP }],
      [a.read(), 'EAGAIN'],
      [a.write('a frame', frame), { kernel: 'EIO', clone: '60', why: ALWAYS_UP }],
      [a.write('too short a frame', frame.subarray(0, ETH_HLEN - 1)), 'EINVAL'],
    ],
  },
  {
    name: 'tun: an interface that is up',
    rows: [
      attached(),
      up,
      [a.poll(), 'OUT'],
      [a.read(), 'EAGAIN'],
      [a.write('a frame', frame), '60'],
      [a.write('a header', frame.subarray(0, ETH_HLEN)), '14'],
      [a.write('too short a frame', frame.subarray(0, ETH_HLEN - 1)), 'EINVAL'],
      [a.write('one byte', frame.subarray(0, 1)), 'EINVAL'],
    ],
  },
  {
    name: 'tun: an empty write',
    rows: [
      attached(),
      up,
      [
        a.write('nothing', Buffer.alloc(0)),
        { kernel: 'EINVAL', clone: '0', why: 'FUSE answers empty writes without asking the daemon' },
      ],
    ],
  },
  {
    name: 'tun: writing with struct tun_pi',
    rows: [
      attached(IFF_TAP),
      up,
      [a.write('three bytes', Buffer.alloc(3)), 'EINVAL'],
      [a.write('struct tun_pi alone', Buffer.alloc(4)), 'EINVAL'],
      [a.write('too short a frame', Buffer.concat([Buffer.alloc(4), frame.subarray(0, ETH_HLEN - 1)])), 'EINVAL'],
      [a.write('a frame', Buffer.concat([Buffer.alloc(4), frame])), '64'],
      [a.write('unknown flags and protocol', Buffer.concat([Buffer.alloc(4, 0xff), frame])), '64'],
    ],
  },
  {
    name: 'tun: writing with a vnet header',
    rows: [
      attached(TAP | IFF_VNET_HDR),
      up,
      [a.write('less than the header', Buffer.alloc(9)), 'EINVAL'],
      [a.write('the header alone', Buffer.alloc(10)), 'EINVAL'],
      [a.write('too short a frame', Buffer.concat([Buffer.alloc(10), frame.subarray(0, ETH_HLEN - 1)])), 'EINVAL'],
      [a.write('a frame', withHeader({})), '70'],
      [a.setInt('TUNSETVNETHDRSZ', 12), '0'],
      [a.write('less than the header', Buffer.alloc(11)), 'EINVAL'],
      [a.write('a frame', Buffer.concat([Buffer.alloc(12), frame])), '72'],
      [a.setInt('TUNSETVNETHDRSZ', 1000), '0'],
      [a.write('a frame', Buffer.concat([Buffer.alloc(1000), frame])), '1060'],
      [a.write('less than the header', Buffer.alloc(999)), 'EINVAL'],
    ],
  },
  {
    name: 'tun: writing with struct tun_pi and a vnet header',
    rows: [
      attached(IFF_TAP | IFF_VNET_HDR),
      up,
      [a.write('both and a frame', Buffer.concat([Buffer.alloc(14), frame])), '74'],
      [a.write('both and too short a frame', Buffer.concat([Buffer.alloc(14), frame.subarray(0, 13)])), 'EINVAL'],
    ],
  },
  ...(
    [
      ['hdr_len past the end', { hdrLen: 61 }, 'EINVAL'],
      ['hdr_len of the whole frame', { hdrLen: 60 }, '70'],
      [
        'csum_start and csum_offset within the frame',
        { flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csumStart: 34, csumOffset: 16 },
        '70',
      ],
      ['csum_start past the end', { flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csumStart: 60, csumOffset: 0 }, 'EINVAL'],
      ['a checksum past the end', { flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csumStart: 58, csumOffset: 1 }, 'EINVAL'],
      ['the checksum last', { flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, csumStart: 34, csumOffset: 24 }, '70'],
      ['csum_start past the end, unused', { csumStart: 60000, csumOffset: 16 }, '70'],
      ['an unknown gso_type', { gsoType: VIRTIO_NET_HDR_GSO_UNKNOWN, gsoSize: 1000 }, 'EINVAL'],
      ['gso_size 0', { gsoType: VIRTIO_NET_HDR_GSO_TCPV4, gsoSize: 0, hdrLen: 54 }, 'EINVAL'],
      ['an unknown flag', { flags: 0x80 }, '70'],
    ] satisfies [string, NetHeader, Expected][]
  ).map(
    ([what, header, answer]): Case => ({
      name: `tun: writing a vnet header with ${what}`,
      rows: [attached(TAP | IFF_VNET_HDR), up, [a.write('a frame', withHeader(header)), answer]],
    }),
  ),
  {
    name: 'tun: reading a frame',
    rows: [attached(), up, [send('cf0', frame), '60'], [a.readFrame(), `60 ${frameHex}`], [a.read(), 'EAGAIN']],
  },
  {
    name: 'tun: reading a frame into too little cuts it',
    rows: [
      attached(),
      up,
      [send('cf0', frame), '60'],
      [a.readFrame(20), `20 ${frameHex.slice(0, 40)}`],
      [a.read(), 'EAGAIN'],
    ],
  },
  {
    name: 'tun: reading with struct tun_pi',
    rows: [
      attached(IFF_TAP),
      up,
      [send('cf0', frame), '60'],
      [a.readFrame(), `64 000088b5${frameHex}`],
      [send('cf0', frame), '60'],
      [a.readFrame(24), `24 010088b5${frameHex.slice(0, 40)}`],
      [send('cf0', frame), '60'],
      [a.readFrame(3), 'EINVAL'],
      [a.read(), 'EAGAIN'],
    ],
  },
  {
    name: 'tun: reading with a vnet header',
    rows: [
      attached(TAP | IFF_VNET_HDR),
      up,
      [send('cf0', frame), '60'],
      [a.readFrame(), `70 ${'00'.repeat(10)}${frameHex}`],
      [a.setInt('TUNSETVNETHDRSZ', 12), '0'],
      [send('cf0', frame), '60'],
      [a.readFrame(), readBehind(12, 72, frameHex)],
      [send('cf0', frame), '60'],
      [a.readFrame(11), 'EINVAL'],
      [send('cf0', frame), '60'],
      [a.readFrame(12), readBehind(12, 12, '')],
      [a.setInt('TUNSETVNETHDRSZ', 20), '0'],
      [send('cf0', frame), '60'],
      [a.readFrame(), readBehind(20, 80, frameHex)],
    ],
  },
];
