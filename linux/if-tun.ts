/** `<linux/if_tun.h>` and the parts of `<linux/if.h>` and `<linux/sockios.h>` that tun files know. */
import { IO, IOR, IOW } from './ioctl.ts';

const T = 'T'.charCodeAt(0);
const INT = 4;
/** struct sock_fprog: unsigned short len; struct sock_filter *filter. */
const SOCK_FPROG = 16;

export const TUNSETNOCSUM = IOW(T, 200, INT);
export const TUNSETDEBUG = IOW(T, 201, INT);
export const TUNSETIFF = IOW(T, 202, INT);
export const TUNSETPERSIST = IOW(T, 203, INT);
export const TUNSETOWNER = IOW(T, 204, INT);
export const TUNSETLINK = IOW(T, 205, INT);
export const TUNSETGROUP = IOW(T, 206, INT);
export const TUNGETFEATURES = IOR(T, 207, INT);
export const TUNSETOFFLOAD = IOW(T, 208, INT);
export const TUNSETTXFILTER = IOW(T, 209, INT);
export const TUNGETIFF = IOR(T, 210, INT);
export const TUNGETSNDBUF = IOR(T, 211, INT);
export const TUNSETSNDBUF = IOW(T, 212, INT);
export const TUNATTACHFILTER = IOW(T, 213, SOCK_FPROG);
export const TUNDETACHFILTER = IOW(T, 214, SOCK_FPROG);
export const TUNGETVNETHDRSZ = IOR(T, 215, INT);
export const TUNSETVNETHDRSZ = IOW(T, 216, INT);
export const TUNSETQUEUE = IOW(T, 217, INT);
export const TUNSETIFINDEX = IOW(T, 218, INT);
export const TUNGETFILTER = IOR(T, 219, SOCK_FPROG);
export const TUNSETVNETLE = IOW(T, 220, INT);
export const TUNGETVNETLE = IOR(T, 221, INT);
export const TUNSETVNETBE = IOW(T, 222, INT);
export const TUNGETVNETBE = IOR(T, 223, INT);
export const TUNSETSTEERINGEBPF = IOR(T, 224, INT);
export const TUNSETFILTEREBPF = IOR(T, 225, INT);
export const TUNSETCARRIER = IOW(T, 226, INT);
export const TUNGETDEVNETNS = IO(T, 227);

export const SIOCGIFFLAGS = 0x8913;
export const SIOCSIFFLAGS = 0x8914;
export const SIOCGIFHWADDR = 0x8927;
export const SIOCSIFHWADDR = 0x8924;
export const SIOCGSKNS = 0x894c;

export const IFF_UP = 0x1;
export const IFF_TUN = 0x0001;
export const IFF_TAP = 0x0002;
export const IFF_NAPI = 0x0010;
export const IFF_NAPI_FRAGS = 0x0020;
/** Linux 6.1 and later: the interface starts without a carrier. */
export const IFF_NO_CARRIER = 0x0040;
export const IFF_MULTI_QUEUE = 0x0100;
export const IFF_ATTACH_QUEUE = 0x0200;
export const IFF_DETACH_QUEUE = 0x0400;
export const IFF_PERSIST = 0x0800;
export const IFF_NO_PI = 0x1000;
export const IFF_ONE_QUEUE = 0x2000;
export const IFF_NOFILTER = 0x1000;
export const IFF_VNET_HDR = 0x4000;
export const IFF_TUN_EXCL = 0x8000;

/** Offloads that the reader of a tun file accepts (TUNSETOFFLOAD). */
export const TUN_F_CSUM = 0x01;
export const TUN_F_TSO4 = 0x02;
export const TUN_F_TSO6 = 0x04;
export const TUN_F_TSO_ECN = 0x08;
export const TUN_F_UFO = 0x10;
export const TUN_F_USO4 = 0x20;
export const TUN_F_USO6 = 0x40;

/** struct tun_pi: __u16 flags; __be16 proto. Stands before each frame without IFF_NO_PI. */
export const TUN_PI_BYTES = 4;
export const TUN_PKT_STRIP = 0x0001;

/** Queues of one interface at the most, MAX_TAP_QUEUES of tun.c. */
export const MAX_TAP_QUEUES = 256;

/** struct tun_filter { __u16 flags; __u16 count; __u8 addr[][6]; } (TUNSETTXFILTER) */
export const TUN_FILTER_BYTES = 4;
/** Addresses that a filter holds exactly, FLT_EXACT_COUNT of tun.c. */
export const FLT_EXACT_COUNT = 8;

/** Bytes of a name with its final 0. */
export const IFNAMSIZ = 16;
/** struct ifreq on a 64-bit machine. */
export const IFREQ_BYTES = 40;
/** ifr_flags, ifr_hwaddr (struct sockaddr) and so on share one place. */
export const IFR_DATA_OFFSET = IFNAMSIZ;
export const ARPHRD_ETHER = 1;

/** A struct ifreq with a name and flags. */
export function ifreq(name: string, flags = 0): Buffer {
  const bytes = Buffer.alloc(IFREQ_BYTES);
  bytes.write(name, 0, IFNAMSIZ, 'latin1');
  bytes.writeUInt16LE(flags, IFR_DATA_OFFSET);
  return bytes;
}

/** The name in a struct ifreq, up to its 0. */
export function ifreqName(bytes: Uint8Array): string {
  const name = Buffer.from(bytes.subarray(0, IFNAMSIZ)).toString('latin1');
  const end = name.indexOf('\0');
  return end < 0 ? name : name.slice(0, end);
}

const names: Record<string, number> = {
  TUNSETNOCSUM,
  TUNSETDEBUG,
  TUNSETIFF,
  TUNSETPERSIST,
  TUNSETOWNER,
  TUNSETLINK,
  TUNSETGROUP,
  TUNGETFEATURES,
  TUNSETOFFLOAD,
  TUNSETTXFILTER,
  TUNGETIFF,
  TUNGETSNDBUF,
  TUNSETSNDBUF,
  TUNATTACHFILTER,
  TUNDETACHFILTER,
  TUNGETVNETHDRSZ,
  TUNSETVNETHDRSZ,
  TUNSETQUEUE,
  TUNSETIFINDEX,
  TUNGETFILTER,
  TUNSETVNETLE,
  TUNGETVNETLE,
  TUNSETVNETBE,
  TUNGETVNETBE,
  TUNSETSTEERINGEBPF,
  TUNSETFILTEREBPF,
  TUNSETCARRIER,
  TUNGETDEVNETNS,
  SIOCGIFFLAGS,
  SIOCSIFFLAGS,
  SIOCGIFHWADDR,
  SIOCSIFHWADDR,
  SIOCGSKNS,
};

/** Names of the ioctl numbers of a tun file. */
export const TUN_IOCTL_NAMES: ReadonlyMap<number, string> = new Map(Object.entries(names).map(([n, v]) => [v, n]));
