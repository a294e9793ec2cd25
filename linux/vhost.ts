/** `<linux/vhost.h>` and `<linux/vhost_types.h>`: the ioctls of /dev/vhost-net. */
import { IO, IOR, IOW, IOWR } from './ioctl.ts';

/** VHOST_VIRTIO, the type of all vhost ioctls. */
const VHOST_VIRTIO = 0xaf;
const U64 = 8;
const INT = 4;
/** struct vhost_vring_state { unsigned int index, num; } */
export const VHOST_VRING_STATE_BYTES = 8;
/** struct vhost_vring_file { unsigned int index; int fd; } */
export const VHOST_VRING_FILE_BYTES = 8;
/** struct vhost_vring_addr { unsigned index, flags; __u64 desc, used, avail, log; } */
export const VHOST_VRING_ADDR_BYTES = 40;
/** struct vhost_memory { __u32 nregions, padding; struct vhost_memory_region regions[]; } */
export const VHOST_MEMORY_BYTES = 8;
/** struct vhost_memory_region { __u64 guest_phys_addr, memory_size, userspace_addr, flags_padding; } */
export const VHOST_MEMORY_REGION_BYTES = 32;

export const VHOST_GET_FEATURES = IOR(VHOST_VIRTIO, 0x00, U64);
export const VHOST_SET_FEATURES = IOW(VHOST_VIRTIO, 0x00, U64);
export const VHOST_SET_OWNER = IO(VHOST_VIRTIO, 0x01);
export const VHOST_RESET_OWNER = IO(VHOST_VIRTIO, 0x02);
export const VHOST_SET_MEM_TABLE = IOW(VHOST_VIRTIO, 0x03, VHOST_MEMORY_BYTES);
export const VHOST_SET_LOG_BASE = IOW(VHOST_VIRTIO, 0x04, U64);
export const VHOST_SET_LOG_FD = IOW(VHOST_VIRTIO, 0x07, INT);
export const VHOST_SET_VRING_NUM = IOW(VHOST_VIRTIO, 0x10, VHOST_VRING_STATE_BYTES);
export const VHOST_SET_VRING_ADDR = IOW(VHOST_VIRTIO, 0x11, VHOST_VRING_ADDR_BYTES);
export const VHOST_SET_VRING_BASE = IOW(VHOST_VIRTIO, 0x12, VHOST_VRING_STATE_BYTES);
export const VHOST_GET_VRING_BASE = IOWR(VHOST_VIRTIO, 0x12, VHOST_VRING_STATE_BYTES);
export const VHOST_SET_VRING_ENDIAN = IOW(VHOST_VIRTIO, 0x13, VHOST_VRING_STATE_BYTES);
export const VHOST_GET_VRING_ENDIAN = IOW(VHOST_VIRTIO, 0x14, VHOST_VRING_STATE_BYTES);
export const VHOST_SET_VRING_KICK = IOW(VHOST_VIRTIO, 0x20, VHOST_VRING_FILE_BYTES);
export const VHOST_SET_VRING_CALL = IOW(VHOST_VIRTIO, 0x21, VHOST_VRING_FILE_BYTES);
export const VHOST_SET_VRING_ERR = IOW(VHOST_VIRTIO, 0x22, VHOST_VRING_FILE_BYTES);
export const VHOST_SET_VRING_BUSYLOOP_TIMEOUT = IOW(VHOST_VIRTIO, 0x23, VHOST_VRING_STATE_BYTES);
export const VHOST_GET_VRING_BUSYLOOP_TIMEOUT = IOW(VHOST_VIRTIO, 0x24, VHOST_VRING_STATE_BYTES);
export const VHOST_SET_BACKEND_FEATURES = IOW(VHOST_VIRTIO, 0x25, U64);
export const VHOST_GET_BACKEND_FEATURES = IOR(VHOST_VIRTIO, 0x26, U64);
export const VHOST_NET_SET_BACKEND = IOW(VHOST_VIRTIO, 0x30, VHOST_VRING_FILE_BYTES);

/** In vhost_vring_file.fd: take the descriptor away. */
export const VHOST_FILE_UNBIND = -1;
export const VHOST_VRING_F_LOG = 0;
/** Bit numbers in the feature word besides virtio's own. */
export const VHOST_F_LOG_ALL = 26;
export const VHOST_NET_F_VIRTIO_NET_HDR = 27;
/** Bit number in the backend feature word. */
export const VHOST_BACKEND_F_IOTLB_MSG_V2 = 1;
/** Regions in a memory table at the most: the kernel module's max_mem_regions. */
export const VHOST_MAX_MEM_REGIONS = 64;
/** Rings of one vhost-net file: receive and transmit. */
export const VHOST_NET_VQ_RX = 0;
export const VHOST_NET_VQ_TX = 1;
export const VHOST_NET_VQ_MAX = 2;

const names: Record<string, number> = {
  VHOST_GET_FEATURES,
  VHOST_SET_FEATURES,
  VHOST_SET_OWNER,
  VHOST_RESET_OWNER,
  VHOST_SET_MEM_TABLE,
  VHOST_SET_LOG_BASE,
  VHOST_SET_LOG_FD,
  VHOST_SET_VRING_NUM,
  VHOST_SET_VRING_ADDR,
  VHOST_SET_VRING_BASE,
  VHOST_GET_VRING_BASE,
  VHOST_SET_VRING_ENDIAN,
  VHOST_GET_VRING_ENDIAN,
  VHOST_SET_VRING_KICK,
  VHOST_SET_VRING_CALL,
  VHOST_SET_VRING_ERR,
  VHOST_SET_VRING_BUSYLOOP_TIMEOUT,
  VHOST_GET_VRING_BUSYLOOP_TIMEOUT,
  VHOST_SET_BACKEND_FEATURES,
  VHOST_GET_BACKEND_FEATURES,
  VHOST_NET_SET_BACKEND,
};

/** Names of the ioctl numbers of a vhost-net file. */
export const VHOST_IOCTL_NAMES: ReadonlyMap<number, string> = new Map(Object.entries(names).map(([n, v]) => [v, n]));
