/** Cases for /dev/vhost-net. The answers are those of Linux 6.1 (drivers/vhost/net.c and vhost.c). */
import { IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_TUN, IFF_VNET_HDR } from '../../linux/if-tun.ts';
import { IOR, IOW } from '../../linux/ioctl.ts';
import {
  VHOST_BACKEND_F_IOTLB_MSG_V2,
  VHOST_F_LOG_ALL,
  VHOST_IOCTL_NAMES,
  VHOST_MAX_MEM_REGIONS,
  VHOST_NET_VQ_RX,
  VHOST_NET_VQ_TX,
} from '../../linux/vhost.ts';
import {
  featureSet,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_ANY_LAYOUT,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_NOTIFY_ON_EMPTY,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
  VIRTQ_DESC_F_WRITE,
} from '../../vhost/virtio.ts';
import { MEMORY_BYTES, privately, shared } from './bench.ts';
import type { Case, Row } from './case.ts';
import { NOWHERE, send, setUp, TCGETS, TunFile } from './tun-steps.ts';
import {
  ALL_SHARED,
  awaitUsed,
  bufferOf,
  type CaseFd,
  offerBuffer,
  type Region,
  RING_ENTRIES,
  ringParts,
  VhostFile,
} from './vhost-steps.ts';

const v = new VhostFile('v');
const w = new VhostFile('w');
const a = new TunFile('a');
const b = new TunFile('b');

const RX = VHOST_NET_VQ_RX;
const TX = VHOST_NET_VQ_TX;
/** A ring that vhost-net files do not have. */
const NO_RING = 2;
const TAP = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
/** A descriptor that nobody has open. */
const BAD_FD = 9999;
/** An ioctl of vhost's type that vhost-net does not have. */
const UNKNOWN_IOCTL = IOW(0xaf, 0x7f, 8);
const VHOST_VSOCK_SET_GUEST_CID = IOW(0xaf, 0x60, 8);
const VHOST_VDPA_GET_STATUS = IOR(0xaf, 0x71, 1);
/** User addresses end below, on x86-64. */
const KERNEL_ADDRESS = 0xffff_8880_0000_0000n;
const TOP_OF_64_BITS = 0xffff_ffff_ffff_f000n;

const IN_TABLE = 'the clone looks for rings only in memory that the table names and the client has mapped';
const STAYS = 'a ring that runs in the clone stays where it is; no client moves one';
const ONE_RING_A_SIDE = 'a queue of a port has one ring for each direction';
const NO_LOG = 'the clone keeps no log of dirty pages';
const FUSE_COPIES = 'FUSE copies the argument in before it asks the daemon';
const NO_IOTLB = 'the clone has no IOTLB';
const PACKED = 'the clone has packed rings, which cost both sides fewer cache lines';
const ONE_FOR_ALL = 'the clone uses buffers in order, and gives back a batch of them at once';

const owned: Row = [v.plain('VHOST_SET_OWNER'), '0'];
const tapAttached: Row = [a.setIff('cf0', TAP), 'cf0'];
const tableSet: Row = [v.setMemTable([ALL_SHARED]), '0'];

/** Size and place of one ring. */
const ringSet = (index: number): Row[] => [
  [v.setState('VHOST_SET_VRING_NUM', index, RING_ENTRIES), '0'],
  [v.setState('VHOST_SET_VRING_BASE', index, 0), '0'],
  [v.setAddr(index, ringParts(index)), '0'],
  [v.setFile('VHOST_SET_VRING_KICK', index, `eventfd kick${index}`), '0'],
  [v.setFile('VHOST_SET_VRING_CALL', index, `eventfd call${index}`), '0'],
];

/** A whole legal set-up, but for the start. */
const ready: Row[] = [owned, tapAttached, tableSet, ...ringSet(RX), ...ringSet(TX)];
const running: Row[] = [...ready, [v.setBackend(RX, 'tun a'), '0'], [v.setBackend(TX, 'tun a'), '0']];

const tableCase = (what: string, regions: Region[], answer: string): Case => ({
  name: `vhost: VHOST_SET_MEM_TABLE ${what}`,
  rows: [owned, [v.setMemTable(regions), answer]],
});

/** All ioctls that only the owner may make. */
const owners = [...VHOST_IOCTL_NAMES.values()].filter(
  (name) =>
    ![
      'VHOST_SET_OWNER',
      'VHOST_GET_FEATURES',
      'VHOST_SET_FEATURES',
      'VHOST_GET_BACKEND_FEATURES',
      'VHOST_SET_BACKEND_FEATURES',
    ].includes(name),
);

const frame = Buffer.alloc(60);
frame.write('ffffffffffff525400123456' + '88b5', 'hex');
/** struct virtio_net_hdr_v1: 12 bytes. */
const NET_HEADER_BYTES = 12;
const VERSION_1 = featureSet(VIRTIO_F_VERSION_1);

export const vhostCases: Case[] = [
  // --- The owner
  ...owners.map((name): Case => ({ name: `vhost: ${name} without owner`, rows: [[v.withZeros(name), 'EPERM']] })),
  {
    name: 'vhost: without owner, only VHOST_NET_SET_BACKEND looks at its address',
    rows: [
      [v.withNowhere('VHOST_RESET_OWNER'), 'EPERM'],
      [v.withNowhere('VHOST_NET_SET_BACKEND'), 'EFAULT'],
      ...owners
        .filter((name) => name !== 'VHOST_RESET_OWNER' && name !== 'VHOST_NET_SET_BACKEND')
        .map((name): Row => [v.withNowhere(name), { kernel: 'EPERM', clone: 'EFAULT', why: FUSE_COPIES }]),
    ],
  },
  {
    name: 'vhost: VHOST_SET_OWNER twice',
    rows: [owned, [v.plain('VHOST_SET_OWNER'), 'EBUSY'], [v.plain('VHOST_SET_OWNER'), 'EBUSY']],
  },
  {
    name: 'vhost: two files have their own owners and features',
    rows: [
      owned,
      [w.setState('VHOST_SET_VRING_NUM', RX, 1), 'EPERM'],
      [w.plain('VHOST_SET_OWNER'), '0'],
      [v.setState('VHOST_SET_VRING_BASE', RX, 7), '0'],
      [w.getState('VHOST_GET_VRING_BASE', RX), '0 0'],
    ],
  },
  {
    name: 'vhost: another process is not the owner',
    rows: [
      owned,
      [v.inOtherProcess('VHOST_SET_OWNER', 'VHOST_GET_FEATURES', 'VHOST_SET_FEATURES'), 'EBUSY 0 0'],
      [v.inOtherProcess(...owners), owners.map(() => 'EPERM').join(' ')],
      [v.plain('VHOST_RESET_OWNER'), '0'],
    ],
  },
  {
    name: 'vhost: another process becomes the owner',
    rows: [
      [v.inOtherProcess('VHOST_SET_OWNER', 'VHOST_GET_VRING_BASE'), '0 0'],
      [v.plain('VHOST_SET_OWNER'), 'EBUSY'],
      [v.getState('VHOST_GET_VRING_BASE', RX), 'EPERM'],
      [v.plain('VHOST_RESET_OWNER'), 'EPERM'],
    ],
  },
  {
    name: 'vhost: VHOST_RESET_OWNER forgets',
    rows: [
      owned,
      [v.set64('VHOST_SET_FEATURES', VERSION_1), '0'],
      [v.setState('VHOST_SET_VRING_NUM', RX, 64), '0'],
      [v.setState('VHOST_SET_VRING_BASE', RX, 7), '0'],
      [v.setState('VHOST_SET_VRING_BUSYLOOP_TIMEOUT', RX, 50), '0'],
      [v.plain('VHOST_RESET_OWNER'), '0'],
      [v.plain('VHOST_RESET_OWNER'), 'EPERM'],
      [v.getState('VHOST_GET_VRING_BASE', RX), 'EPERM'],
      owned,
      [v.getState('VHOST_GET_VRING_BASE', RX), '0 0'],
      [v.getState('VHOST_GET_VRING_BUSYLOOP_TIMEOUT', RX), '0 0'],
    ],
  },
  {
    name: 'vhost: VHOST_RESET_OWNER while running',
    rows: [
      ...running,
      [v.plain('VHOST_RESET_OWNER'), '0'],
      owned,
      [v.setState('VHOST_SET_VRING_NUM', RX, 64), '0'],
      [v.setBackend(RX, 'tun a'), 'EFAULT'],
    ],
  },

  // --- Features
  {
    name: 'vhost: VHOST_GET_FEATURES',
    rows: [
      [
        v.get64('VHOST_GET_FEATURES'),
        {
          kernel: '0x33d008000',
          clone: '0xd39008000',
          why: [NO_LOG, NO_IOTLB, PACKED, ONE_FOR_ALL].join('; '),
        },
      ],
    ],
  },
  {
    name: 'vhost: VHOST_SET_FEATURES before VHOST_SET_OWNER',
    rows: [
      [v.set64('VHOST_SET_FEATURES', 0n), '0'],
      [v.set64('VHOST_SET_FEATURES', VERSION_1), '0'],
      [v.withNowhere('VHOST_SET_FEATURES'), 'EFAULT'],
      [v.withNowhere('VHOST_GET_FEATURES'), 'EFAULT'],
    ],
  },
  ...(
    [
      ['nothing', 0n],
      ['MRG_RXBUF', featureSet(VIRTIO_NET_F_MRG_RXBUF)],
      ['NOTIFY_ON_EMPTY', featureSet(VIRTIO_F_NOTIFY_ON_EMPTY)],
      ['ANY_LAYOUT, which is VHOST_NET_F_VIRTIO_NET_HDR', featureSet(VIRTIO_F_ANY_LAYOUT)],
      ['INDIRECT_DESC and EVENT_IDX', featureSet(VIRTIO_RING_F_INDIRECT_DESC, VIRTIO_RING_F_EVENT_IDX)],
      ['VERSION_1', VERSION_1],
    ] as const
  ).map(
    ([what, features]): Case => ({
      name: `vhost: VHOST_SET_FEATURES ${what}`,
      rows: [owned, [v.set64('VHOST_SET_FEATURES', features), '0']],
    }),
  ),
  {
    name: 'vhost: VHOST_SET_FEATURES with unknown bits',
    rows: [
      owned,
      [v.set64('VHOST_SET_FEATURES', featureSet(0)), 'EOPNOTSUPP'],
      [v.set64('VHOST_SET_FEATURES', featureSet(VIRTIO_F_VERSION_1, 63)), 'EOPNOTSUPP'],
      [v.set64('VHOST_SET_FEATURES', 0xffff_ffff_ffff_ffffn), 'EOPNOTSUPP'],
    ],
  },
  {
    name: 'vhost: VHOST_SET_FEATURES with VIRTIO_F_IN_ORDER',
    rows: [
      owned,
      [
        v.set64('VHOST_SET_FEATURES', featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_IN_ORDER)),
        { kernel: 'EOPNOTSUPP', clone: '0', why: ONE_FOR_ALL },
      ],
    ],
  },
  {
    name: 'vhost: VHOST_SET_FEATURES with VIRTIO_F_RING_PACKED, and rings of any size',
    rows: [
      owned,
      [v.setState('VHOST_SET_VRING_NUM', RX, 300), 'EINVAL'],
      [v.setState('VHOST_SET_VRING_BASE', RX, 0x8000_8000), 'EINVAL'],
      [
        v.set64('VHOST_SET_FEATURES', featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED)),
        { kernel: 'EOPNOTSUPP', clone: '0', why: PACKED },
      ],
      [v.setState('VHOST_SET_VRING_NUM', RX, 300), { kernel: 'EINVAL', clone: '0', why: PACKED }],
      [v.setState('VHOST_SET_VRING_NUM', RX, 32768), '0'],
      [v.setState('VHOST_SET_VRING_NUM', RX, 32769), 'EINVAL'],
      [v.setState('VHOST_SET_VRING_NUM', RX, 0), 'EINVAL'],
      [v.setState('VHOST_SET_VRING_BASE', RX, 0x8000_8000), { kernel: 'EINVAL', clone: '0', why: PACKED }],
      [v.getState('VHOST_GET_VRING_BASE', RX), { kernel: '0 0', clone: '0 2147516416', why: PACKED }],
    ],
  },
  {
    name: 'vhost: VHOST_SET_FEATURES with VHOST_F_LOG_ALL',
    rows: [
      owned,
      [v.set64('VHOST_SET_FEATURES', featureSet(VHOST_F_LOG_ALL)), { kernel: '0', clone: 'EOPNOTSUPP', why: NO_LOG }],
    ],
  },
  {
    name: 'vhost: VHOST_SET_FEATURES with VIRTIO_F_ACCESS_PLATFORM',
    rows: [
      owned,
      [
        v.set64('VHOST_SET_FEATURES', featureSet(VIRTIO_F_ACCESS_PLATFORM)),
        { kernel: '0', clone: 'EOPNOTSUPP', why: NO_IOTLB },
      ],
    ],
  },
  {
    name: 'vhost: VHOST_SET_FEATURES while running',
    rows: [...running, [v.set64('VHOST_SET_FEATURES', VERSION_1), '0'], [v.set64('VHOST_SET_FEATURES', 0n), '0']],
  },
  {
    name: 'vhost: backend features',
    rows: [
      [v.get64('VHOST_GET_BACKEND_FEATURES'), '0x2'],
      [v.set64('VHOST_SET_BACKEND_FEATURES', featureSet(VHOST_BACKEND_F_IOTLB_MSG_V2)), '0'],
      [v.set64('VHOST_SET_BACKEND_FEATURES', 0n), '0'],
      [v.set64('VHOST_SET_BACKEND_FEATURES', 1n), 'EOPNOTSUPP'],
      [v.set64('VHOST_SET_BACKEND_FEATURES', featureSet(VHOST_BACKEND_F_IOTLB_MSG_V2, 3)), 'EOPNOTSUPP'],
      [v.withNowhere('VHOST_SET_BACKEND_FEATURES'), 'EFAULT'],
      [v.withNowhere('VHOST_GET_BACKEND_FEATURES'), 'EFAULT'],
    ],
  },
  {
    name: 'vhost: the log of dirty pages',
    rows: [
      owned,
      [v.set64('VHOST_SET_LOG_BASE', 0n), { kernel: '0', clone: 'EOPNOTSUPP', why: NO_LOG }],
      [v.setFile('VHOST_SET_LOG_FD', -1, 0), { kernel: '0', clone: 'EOPNOTSUPP', why: NO_LOG }],
      [v.setFile('VHOST_SET_LOG_FD', BAD_FD, 0), { kernel: 'EBADF', clone: 'EOPNOTSUPP', why: NO_LOG }],
      [v.withNowhere('VHOST_SET_LOG_BASE'), 'EFAULT'],
    ],
  },

  // --- Memory
  tableCase('with no region', [], '0'),
  tableCase('with the shared memory', [ALL_SHARED], '0'),
  tableCase('with two regions', [ALL_SHARED, { gpa: 0x1_0000_0000, size: 0x1000, user: shared(0) }], '0'),
  tableCase('with overlapping regions', [ALL_SHARED, { gpa: 0x1000, size: 0x1000, user: shared(0x8000) }], '0'),
  tableCase('with the same region twice', [ALL_SHARED, ALL_SHARED], '0'),
  tableCase('with private memory', [{ gpa: 0, size: MEMORY_BYTES, user: privately(0) }], '0'),
  tableCase('with memory that is not there', [{ gpa: 0, size: 0x1000, user: NOWHERE }], '0'),
  tableCase('with odd addresses', [{ gpa: 3, size: 5, user: shared(7) }], '0'),
  tableCase('with size 0 at 0', [{ gpa: 0, size: 0, user: shared(0) }], '0'),
  tableCase('with size 0 elsewhere', [{ gpa: 0x1000, size: 0, user: shared(0) }], 'EFAULT'),
  tableCase('with a region that wraps around', [{ gpa: TOP_OF_64_BITS, size: 0x2000, user: shared(0) }], 'EFAULT'),
  tableCase('with a region up to the last byte', [{ gpa: TOP_OF_64_BITS, size: 0x1000, user: shared(0) }], '0'),
  tableCase('with user addresses that wrap around', [{ gpa: 0, size: 0x2000, user: TOP_OF_64_BITS }], '0'),
  tableCase('with kernel addresses', [{ gpa: 0, size: 0x1000, user: KERNEL_ADDRESS }], '0'),
  tableCase('with a size of all 64 bits', [{ gpa: 0, size: 0xffff_ffff_ffff_ffffn, user: 0 }], '0'),
  tableCase('with 64 regions', many(VHOST_MAX_MEM_REGIONS), '0'),
  tableCase('with 65 regions', many(VHOST_MAX_MEM_REGIONS + 1), 'E2BIG'),
  {
    name: 'vhost: VHOST_SET_MEM_TABLE with padding',
    rows: [
      owned,
      [v.setMemTable([ALL_SHARED], { padding: 1 }), 'EOPNOTSUPP'],
      [v.setMemTable(many(VHOST_MAX_MEM_REGIONS + 1), { padding: 1 }), 'EOPNOTSUPP'],
    ],
  },
  {
    name: 'vhost: VHOST_SET_MEM_TABLE that cannot be read',
    rows: [
      owned,
      [v.withNowhere('VHOST_SET_MEM_TABLE'), 'EFAULT'],
      [v.setUnreadableMemTable(1), 'EFAULT'],
      [v.setUnreadableMemTable(VHOST_MAX_MEM_REGIONS + 1), 'E2BIG'],
      [v.setUnreadableMemTable(0), '0'],
      [v.setMemTable([], { count: 0xffff_ffff }), 'E2BIG'],
    ],
  },
  {
    name: 'vhost: VHOST_SET_MEM_TABLE while running',
    rows: [
      ...running,
      [v.setMemTable([ALL_SHARED]), '0'],
      [v.setMemTable([{ gpa: 0x1_0000_0000, size: MEMORY_BYTES, user: shared(0) }]), '0'],
      [v.setMemTable([{ gpa: 0, size: 0x1000, user: KERNEL_ADDRESS }]), 'EFAULT'],
      [v.setMemTable([]), { kernel: '0', clone: 'EFAULT', why: IN_TABLE }],
    ],
  },

  // --- Rings
  {
    name: 'vhost: VHOST_SET_VRING_NUM',
    rows: [
      owned,
      [v.setState('VHOST_SET_VRING_NUM', RX, 0), 'EINVAL'],
      [v.setState('VHOST_SET_VRING_NUM', RX, 3), 'EINVAL'],
      [v.setState('VHOST_SET_VRING_NUM', RX, 65536), 'EINVAL'],
      [v.setState('VHOST_SET_VRING_NUM', RX, 32768), '0'],
      [v.setState('VHOST_SET_VRING_NUM', TX, 1), '0'],
      [v.setState('VHOST_SET_VRING_NUM', RX, 0x8000_0000), 'EINVAL'],
      [v.setState('VHOST_SET_VRING_NUM', NO_RING, 256), 'ENOBUFS'],
      [v.setState('VHOST_SET_VRING_NUM', NO_RING, 3), 'ENOBUFS'],
      [v.setState('VHOST_SET_VRING_NUM', -1, 256), 'ENOBUFS'],
      [v.withNowhere('VHOST_SET_VRING_NUM'), 'EFAULT'],
    ],
  },
  {
    name: 'vhost: VHOST_SET_VRING_BASE and VHOST_GET_VRING_BASE',
    rows: [
      owned,
      [v.getState('VHOST_GET_VRING_BASE', RX), '0 0'],
      [v.setState('VHOST_SET_VRING_BASE', RX, 65535), '0'],
      [v.getState('VHOST_GET_VRING_BASE', RX), '0 65535'],
      [v.getState('VHOST_GET_VRING_BASE', TX), '1 0'],
      [v.setState('VHOST_SET_VRING_BASE', RX, 65536), 'EINVAL'],
      [v.getState('VHOST_GET_VRING_BASE', RX), '0 65535'],
      [v.setState('VHOST_SET_VRING_BASE', NO_RING, 0), 'ENOBUFS'],
      [v.getState('VHOST_GET_VRING_BASE', NO_RING), 'ENOBUFS'],
      [v.withNowhere('VHOST_SET_VRING_BASE'), 'EFAULT'],
      [v.withNowhere('VHOST_GET_VRING_BASE'), 'EFAULT'],
    ],
  },
  {
    name: 'vhost: VHOST_SET_VRING_ADDR',
    rows: [
      owned,
      [v.setAddr(RX, ringParts(RX)), '0'],
      [v.setAddr(RX, { ...ringParts(RX), flags: 1 }), '0'],
      [v.setAddr(RX, { ...ringParts(RX), flags: 2 }), 'EOPNOTSUPP'],
      [v.setAddr(RX, { ...ringParts(RX), flags: 0xffff_ffff }), 'EOPNOTSUPP'],
      [v.setAddr(RX, { ...ringParts(RX), avail: shared(0x1001) }), 'EINVAL'],
      [v.setAddr(RX, { ...ringParts(RX), avail: shared(0x1002) }), '0'],
      [v.setAddr(RX, { ...ringParts(RX), used: shared(0x2002) }), 'EINVAL'],
      [v.setAddr(RX, { ...ringParts(RX), used: shared(0x2004) }), '0'],
      [v.setAddr(RX, { ...ringParts(RX), desc: shared(0x1) }), '0'],
      [v.setAddr(RX, { ...ringParts(RX), log: 2 }), 'EINVAL'],
      [v.setAddr(RX, { ...ringParts(RX), log: 4 }), '0'],
      [v.setAddr(RX, {}), '0'],
      [v.setAddr(RX, { desc: NOWHERE, used: NOWHERE, avail: NOWHERE }), '0'],
      [v.setAddr(RX, { desc: KERNEL_ADDRESS, used: KERNEL_ADDRESS, avail: KERNEL_ADDRESS }), '0'],
      [v.setAddr(NO_RING, ringParts(RX)), 'ENOBUFS'],
      [v.setAddr(NO_RING, { flags: 2 }), 'ENOBUFS'],
      [v.withNowhere('VHOST_SET_VRING_ADDR'), 'EFAULT'],
    ],
  },
  ...(['VHOST_SET_VRING_KICK', 'VHOST_SET_VRING_CALL', 'VHOST_SET_VRING_ERR'] as const).map(
    (request): Case => ({
      name: `vhost: ${request}`,
      rows: [
        owned,
        [v.setFile(request, RX, -1), '0'],
        [v.setFile(request, RX, 'eventfd e'), '0'],
        [v.setFile(request, RX, 'eventfd e'), '0'],
        [v.setFile(request, TX, 'eventfd e'), '0'],
        [v.setFile(request, RX, BAD_FD), 'EBADF'],
        [v.setFile(request, RX, -2), 'EBADF'],
        [v.setFile(request, RX, 'null n'), 'EINVAL'],
        [v.setFile(request, RX, 'tun a'), 'EINVAL'],
        [v.setFile(request, RX, 'vhost v'), 'EINVAL'],
        [v.setFile(request, NO_RING, 'eventfd e'), 'ENOBUFS'],
        [v.setFile(request, NO_RING, BAD_FD), 'ENOBUFS'],
        [v.setFile(request, RX, -1), '0'],
        [v.withNowhere(request), 'EFAULT'],
      ],
    }),
  ),
  {
    name: 'vhost: VHOST_SET_VRING_BUSYLOOP_TIMEOUT and VHOST_GET_VRING_BUSYLOOP_TIMEOUT',
    rows: [
      owned,
      [v.getState('VHOST_GET_VRING_BUSYLOOP_TIMEOUT', RX), '0 0'],
      [v.setState('VHOST_SET_VRING_BUSYLOOP_TIMEOUT', RX, 50), '0'],
      [v.getState('VHOST_GET_VRING_BUSYLOOP_TIMEOUT', RX), '0 50'],
      [v.getState('VHOST_GET_VRING_BUSYLOOP_TIMEOUT', TX), '1 0'],
      [v.setState('VHOST_SET_VRING_BUSYLOOP_TIMEOUT', RX, 0xffff_ffff), '0'],
      [v.getState('VHOST_GET_VRING_BUSYLOOP_TIMEOUT', RX), '0 4294967295'],
      [v.setState('VHOST_SET_VRING_BUSYLOOP_TIMEOUT', NO_RING, 50), 'ENOBUFS'],
      [v.getState('VHOST_GET_VRING_BUSYLOOP_TIMEOUT', NO_RING), 'ENOBUFS'],
      [v.withNowhere('VHOST_SET_VRING_BUSYLOOP_TIMEOUT'), 'EFAULT'],
    ],
  },
  {
    name: 'vhost: VHOST_SET_VRING_ENDIAN and VHOST_GET_VRING_ENDIAN',
    rows: [
      owned,
      [v.setState('VHOST_SET_VRING_ENDIAN', RX, 0), 'ENOTTY'],
      [v.setState('VHOST_SET_VRING_ENDIAN', RX, 1), 'ENOTTY'],
      [v.setState('VHOST_GET_VRING_ENDIAN', RX, 0), 'ENOTTY'],
      [v.setState('VHOST_SET_VRING_ENDIAN', NO_RING, 0), 'ENOBUFS'],
    ],
  },

  // --- The backend
  {
    name: 'vhost: VHOST_NET_SET_BACKEND without a memory table',
    rows: [
      owned,
      tapAttached,
      ...ringSet(RX),
      [v.setBackend(RX, 'tun a'), 'EFAULT'],
      [v.stop(RX), 'EFAULT'],
      [v.setBackend(RX, BAD_FD), 'EFAULT'],
    ],
  },
  {
    name: 'vhost: VHOST_NET_SET_BACKEND without rings',
    rows: [
      owned,
      tapAttached,
      tableSet,
      [v.setBackend(RX, 'tun a'), 'EFAULT'],
      [v.setBackend(TX, 'tun a'), 'EFAULT'],
      [v.stop(RX), '0'],
    ],
  },
  {
    name: 'vhost: VHOST_NET_SET_BACKEND of a ring that is not there',
    rows: [
      ...ready,
      [v.setBackend(NO_RING, 'tun a'), 'ENOBUFS'],
      [v.stop(NO_RING), 'ENOBUFS'],
      [v.setBackend(-1, 'tun a'), 'ENOBUFS'],
    ],
  },
  {
    name: 'vhost: VHOST_NET_SET_BACKEND of a ring that is not there, without a table',
    rows: [owned, [v.stop(NO_RING), 'ENOBUFS'], [v.withNowhere('VHOST_NET_SET_BACKEND'), 'EFAULT']],
  },
  {
    name: 'vhost: VHOST_NET_SET_BACKEND without kick and call',
    rows: [
      owned,
      tapAttached,
      tableSet,
      [v.setState('VHOST_SET_VRING_NUM', RX, RING_ENTRIES), '0'],
      [v.setAddr(RX, ringParts(RX)), '0'],
      [v.setBackend(RX, 'tun a'), '0'],
      [v.stop(RX), '0'],
    ],
  },
  ...(
    [
      ['nobody has open', BAD_FD, 'ENOTSOCK'],
      ['is negative', -2, 'ENOTSOCK'],
      ['is an eventfd', 'eventfd e', 'ENOTSOCK'],
      ['is /dev/null', 'null n', 'ENOTSOCK'],
      ['is a vhost-net file', 'vhost v', 'ENOTSOCK'],
      ['is a socket, but no packet socket', 'socket s', 'ENOTSOCK'],
      ['is a tun file that has no interface', 'tun b', 'EINVAL'],
    ] satisfies [string, CaseFd, string][]
  ).map(
    ([what, fd, answer]): Case => ({
      name: `vhost: VHOST_NET_SET_BACKEND with a descriptor that ${what}`,
      rows: [
        ...ready,
        [v.setBackend(RX, fd), answer],
        [v.setBackend(TX, fd), answer],
        [v.setBackend(RX, 'tun a'), '0'],
      ],
    }),
  ),
  {
    name: 'vhost: VHOST_NET_SET_BACKEND, right',
    rows: [
      ...ready,
      [v.setBackend(RX, 'tun a'), '0'],
      [v.setBackend(TX, 'tun a'), '0'],
      [v.stop(RX), '0'],
      [v.stop(TX), '0'],
    ],
  },
  {
    name: 'vhost: VHOST_NET_SET_BACKEND twice the same',
    rows: [...running, [v.setBackend(RX, 'tun a'), '0'], [v.setBackend(TX, 'tun a'), '0']],
  },
  {
    name: 'vhost: VHOST_NET_SET_BACKEND to another tap while running',
    rows: [
      ...running,
      [b.setIff('cf1', TAP), 'cf1'],
      [v.setBackend(RX, 'tun b'), '0'],
      [v.setBackend(TX, 'tun b'), '0'],
      [v.setBackend(RX, BAD_FD), 'ENOTSOCK'],
      [v.setState('VHOST_SET_VRING_NUM', RX, 64), 'EBUSY'],
    ],
  },
  {
    name: 'vhost: VHOST_FILE_UNBIND without a backend',
    rows: [...ready, [v.stop(RX), '0'], [v.stop(TX), '0'], [v.stop(RX), '0']],
  },
  {
    name: 'vhost: stopped and started again',
    rows: [
      ...running,
      [v.stop(RX), '0'],
      [v.stop(TX), '0'],
      [v.getState('VHOST_GET_VRING_BASE', RX), '0 0'],
      [v.getState('VHOST_GET_VRING_BASE', TX), '1 0'],
      [v.setState('VHOST_SET_VRING_NUM', RX, 64), '0'],
      [v.setState('VHOST_SET_VRING_NUM', RX, RING_ENTRIES), '0'],
      [v.setBackend(RX, 'tun a'), '0'],
      [v.setBackend(TX, 'tun a'), '0'],
    ],
  },
  {
    name: 'vhost: the transmit ring alone',
    rows: [
      owned,
      tapAttached,
      tableSet,
      ...ringSet(TX),
      [v.setBackend(TX, 'tun a'), '0'],
      [v.setBackend(RX, 'tun a'), 'EFAULT'],
    ],
  },
  {
    name: 'vhost: a tap without IFF_VNET_HDR as backend',
    rows: [
      owned,
      [a.setIff('cf0', IFF_TAP | IFF_NO_PI), 'cf0'],
      tableSet,
      ...ringSet(RX),
      [v.setBackend(RX, 'tun a'), '0'],
    ],
  },
  {
    name: 'vhost: a detached queue as backend',
    rows: [
      owned,
      [a.setIff('cf0', TAP | IFF_MULTI_QUEUE), 'cf0'],
      [a.setQueue(0x0400), '0'],
      tableSet,
      ...ringSet(RX),
      ...ringSet(TX),
      [v.setBackend(RX, 'tun a'), '0'],
      [v.setBackend(TX, 'tun a'), '0'],
    ],
  },
  {
    name: 'vhost: two vhost-net files with one tap',
    rows: [
      ...running,
      [w.plain('VHOST_SET_OWNER'), '0'],
      [w.setMemTable([{ gpa: 0, size: MEMORY_BYTES, user: shared(0) }]), '0'],
      [w.setState('VHOST_SET_VRING_NUM', TX, 64), '0'],
      [w.setAddr(TX, ringParts(TX)), '0'],
      [w.setBackend(TX, 'tun a'), { kernel: '0', clone: 'EBUSY', why: ONE_RING_A_SIDE }],
    ],
  },
  {
    name: 'vhost: the tap is closed while its rings run',
    rows: [
      ...running,
      [a.close(), '0'],
      [v.setState('VHOST_SET_VRING_NUM', RX, 64), 'EBUSY'],
      [b.setIff('cf0', TAP), 'EBUSY'],
      [v.stop(RX), '0'],
      [v.stop(TX), '0'],
      [b.setIff('cf0', TAP), 'cf0'],
    ],
  },
  {
    name: 'vhost: the vhost-net file is closed while its rings run',
    rows: [
      ...running,
      [v.close(), '0'],
      [a.getIff(), 'cf0 TAP|NO_PI|VNET_HDR'],
      ...ready.filter((row) => row !== tapAttached),
      [v.setBackend(RX, 'tun a'), '0'],
    ],
  },

  // --- Where rings lie
  {
    name: 'vhost: rings in shared memory outside of the table',
    rows: [
      owned,
      tapAttached,
      [v.setMemTable([{ gpa: 0, size: 0x1000, user: shared(0xf000) }]), '0'],
      ...ringSet(RX),
      [v.setBackend(RX, 'tun a'), { kernel: '0', clone: 'EFAULT', why: IN_TABLE }],
    ],
  },
  {
    name: 'vhost: rings with a table of no regions',
    rows: [
      owned,
      tapAttached,
      [v.setMemTable([]), '0'],
      ...ringSet(RX),
      [v.setBackend(RX, 'tun a'), { kernel: '0', clone: 'EFAULT', why: IN_TABLE }],
    ],
  },
  {
    name: 'vhost: rings in private memory',
    rows: [
      owned,
      tapAttached,
      [v.setMemTable([{ gpa: 0, size: MEMORY_BYTES, user: privately(0) }]), '0'],
      [v.setState('VHOST_SET_VRING_NUM', RX, RING_ENTRIES), '0'],
      [v.setAddr(RX, ringParts(RX, privately)), '0'],
      [v.setBackend(RX, 'tun a'), '0'],
    ],
  },
  {
    name: 'vhost: rings where no memory is',
    rows: [
      owned,
      tapAttached,
      tableSet,
      [v.setState('VHOST_SET_VRING_NUM', RX, RING_ENTRIES), '0'],
      [v.setAddr(RX, { desc: NOWHERE, used: NOWHERE, avail: NOWHERE }), '0'],
      [v.setBackend(RX, 'tun a'), 'EFAULT'],
      [v.setAddr(RX, { ...ringParts(RX), used: NOWHERE }), '0'],
      [v.setBackend(RX, 'tun a'), 'EFAULT'],
    ],
  },
  {
    name: 'vhost: a ring whose descriptors alone are nowhere',
    rows: [
      owned,
      tapAttached,
      tableSet,
      [v.setState('VHOST_SET_VRING_NUM', RX, RING_ENTRIES), '0'],
      [v.setAddr(RX, { ...ringParts(RX), desc: NOWHERE }), '0'],
      [v.setBackend(RX, 'tun a'), { kernel: '0', clone: 'EFAULT', why: IN_TABLE }],
    ],
  },
  {
    name: 'vhost: rings at kernel addresses',
    rows: [
      owned,
      tapAttached,
      tableSet,
      [v.setState('VHOST_SET_VRING_NUM', RX, RING_ENTRIES), '0'],
      [v.setAddr(RX, { desc: KERNEL_ADDRESS, used: KERNEL_ADDRESS, avail: KERNEL_ADDRESS }), '0'],
      [v.setBackend(RX, 'tun a'), 'EFAULT'],
      [v.stop(RX), 'EFAULT'],
    ],
  },
  {
    name: 'vhost: a table with kernel addresses forbids any backend',
    rows: [
      owned,
      tapAttached,
      [v.setMemTable([ALL_SHARED, { gpa: 0x1_0000_0000, size: 0x1000, user: KERNEL_ADDRESS }]), '0'],
      ...ringSet(RX),
      [v.setBackend(RX, 'tun a'), 'EFAULT'],
      [v.stop(RX), 'EFAULT'],
    ],
  },

  // --- While a ring runs
  {
    name: 'vhost: what cannot be set while a ring runs',
    rows: [
      ...running,
      [v.setState('VHOST_SET_VRING_NUM', RX, RING_ENTRIES), 'EBUSY'],
      [v.setState('VHOST_SET_VRING_NUM', RX, 3), 'EBUSY'],
      [v.setState('VHOST_SET_VRING_BASE', RX, 0), 'EBUSY'],
      [v.setState('VHOST_SET_VRING_BASE', RX, 65536), 'EBUSY'],
      [v.getState('VHOST_GET_VRING_BASE', RX), '0 0'],
      [v.plain('VHOST_SET_OWNER'), 'EBUSY'],
    ],
  },
  {
    name: 'vhost: what can be set while a ring runs',
    rows: [
      ...running,
      [v.setFile('VHOST_SET_VRING_CALL', RX, 'eventfd other'), '0'],
      [v.setFile('VHOST_SET_VRING_CALL', RX, -1), '0'],
      [v.setFile('VHOST_SET_VRING_KICK', RX, 'eventfd other'), '0'],
      [v.setFile('VHOST_SET_VRING_KICK', RX, -1), '0'],
      [v.setFile('VHOST_SET_VRING_ERR', RX, 'eventfd other'), '0'],
      [v.setFile('VHOST_SET_VRING_CALL', RX, BAD_FD), 'EBADF'],
      [v.setState('VHOST_SET_VRING_BUSYLOOP_TIMEOUT', RX, 50), '0'],
      [v.setAddr(RX, ringParts(RX)), '0'],
    ],
  },
  {
    name: 'vhost: VHOST_SET_VRING_ADDR elsewhere while the ring runs',
    rows: [
      ...running,
      [v.setAddr(RX, ringParts(NO_RING)), { kernel: '0', clone: 'EINVAL', why: STAYS }],
      [v.setAddr(RX, { desc: KERNEL_ADDRESS, used: KERNEL_ADDRESS, avail: KERNEL_ADDRESS }), 'EINVAL'],
    ],
  },

  // --- Frames
  {
    name: 'vhost: a frame goes through the transmit ring',
    rows: [
      ...ready,
      [a.setInt('TUNSETVNETHDRSZ', NET_HEADER_BYTES), '0'],
      [setUp('cf0', true), '0'],
      [v.set64('VHOST_SET_FEATURES', VERSION_1), '0'],
      [v.setBackend(RX, 'tun a'), '0'],
      [v.setBackend(TX, 'tun a'), '0'],
      [offerBuffer(TX, `eventfd kick${TX}`, Buffer.concat([Buffer.alloc(NET_HEADER_BYTES), frame]), 0), '0'],
      [awaitUsed(TX), 'idx 1 id 0 len 0'],
      [v.stop(RX), '0'],
      [v.stop(TX), '0'],
      [v.getState('VHOST_GET_VRING_BASE', RX), '0 0'],
      [v.getState('VHOST_GET_VRING_BASE', TX), '1 1'],
    ],
  },
  {
    name: 'vhost: a frame goes through the receive ring',
    rows: [
      ...ready,
      [a.setInt('TUNSETVNETHDRSZ', NET_HEADER_BYTES), '0'],
      [setUp('cf0', true), '0'],
      [v.set64('VHOST_SET_FEATURES', VERSION_1), '0'],
      [v.setBackend(RX, 'tun a'), '0'],
      [v.setBackend(TX, 'tun a'), '0'],
      [offerBuffer(RX, `eventfd kick${RX}`, Buffer.alloc(0), VIRTQ_DESC_F_WRITE, 1600), '0'],
      [send('cf0', frame), '60'],
      [awaitUsed(RX), 'idx 1 id 0 len 72'],
      [
        bufferOf(RX, NET_HEADER_BYTES + frame.length),
        {
          kernel: `${'00'.repeat(10)}0000${frame.toString('hex')}`,
          clone: `${'00'.repeat(10)}0100${frame.toString('hex')}`,
          why: 'num_buffers has to be 1 without VIRTIO_NET_F_MRG_RXBUF (virtio 1.2 §5.1.6.4.1); Linux 6.1 writes 0',
        },
      ],
      [v.stop(RX), '0'],
      [v.getState('VHOST_GET_VRING_BASE', RX), '0 1'],
    ],
  },

  // --- Others
  {
    name: 'vhost: unknown ioctls',
    rows: [
      [v.unknown(UNKNOWN_IOCTL, 0), 'EPERM'],
      [v.unknown(TCGETS, 0), 'EPERM'],
      [v.unknownAtNowhere(TCGETS), 'EPERM'],
      [v.unknownAtNowhere(UNKNOWN_IOCTL), { kernel: 'EPERM', clone: 'EFAULT', why: FUSE_COPIES }],
      owned,
      [v.unknown(UNKNOWN_IOCTL, 0), 'ENOTTY'],
      [v.unknown(VHOST_VSOCK_SET_GUEST_CID, 1), 'ENOTTY'],
      [v.unknown(VHOST_VDPA_GET_STATUS, 1), 'ENOTTY'],
      [v.unknown(TCGETS, 0), 'ENOTTY'],
      [v.unknown(UNKNOWN_IOCTL, NO_RING), 'ENOBUFS'],
      [v.unknown(TCGETS, NO_RING), 'ENOBUFS'],
      [v.unknownAtNowhere(UNKNOWN_IOCTL), 'EFAULT'],
      [v.unknownAtNowhere(TCGETS), 'EFAULT'],
    ],
  },
  {
    name: 'vhost: read, write and poll',
    rows: [
      [v.poll(), 'nothing'],
      [v.read(), '0'],
      [v.write(1), 'EINVAL'],
      [v.write(72), 'EINVAL'],
      owned,
      [v.poll(), 'nothing'],
      [v.read(), '0'],
      [v.write(72), 'EINVAL'],
    ],
  },
  {
    name: 'vhost: a layer 3 tun file as backend',
    only: 'kernel',
    rows: [
      owned,
      [a.setIff('cf0', IFF_TUN | IFF_NO_PI | IFF_VNET_HDR), 'cf0'],
      tableSet,
      ...ringSet(RX),
      [v.setBackend(RX, 'tun a'), '0'],
    ],
  },
];

/** So many regions of one page, side by side in the guest. */
function many(count: number): Region[] {
  return Array.from({ length: count }, (_, i) => ({ gpa: i * 0x1000, size: 0x1000, user: shared(0) }));
}
