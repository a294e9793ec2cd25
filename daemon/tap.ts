/** Linux taps: opened through the kernel's own /dev/net/tun, ready for a lane's TapQueue. */
import fs from 'node:fs';
import { isMounted } from '../fuse/mount.ts';
import { close, O_NONBLOCK, O_RDWR, open } from '../linux/file.ts';
import {
  IFF_NO_PI,
  IFF_TAP,
  IFF_VNET_HDR,
  IFNAMSIZ,
  ifreq,
  TUN_F_CSUM,
  TUN_F_TSO_ECN,
  TUN_F_TSO4,
  TUN_F_TSO6,
  TUN_F_USO4,
  TUN_F_USO6,
  TUNSETIFF,
  TUNSETOFFLOAD,
  TUNSETPERSIST,
  TUNSETVNETHDRSZ,
} from '../linux/if-tun.ts';
import { ioctl, ioctlValue, tryIoctl } from '../linux/ioctl.ts';
import { TAP_HEADER_BYTES } from '../switch/tap-queue.ts';

const KERNEL_TUN = '/dev/net/tun';
const KERNEL_VHOST_NET = '/dev/vhost-net';
/** <linux/miscdevice.h>: MISC_MAJOR and VHOST_NET_MINOR, as st_rdev has them. */
const VHOST_NET_RDEV = (10 << 8) | 238;
const TCP_OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
/** Linux 6.2 and later. */
const UDP_OFFLOADS = TUN_F_USO4 | TUN_F_USO6;

export interface OpenedTap {
  fd: number;
  /** TUN_F_… offloads that the kernel takes from us, and we from it. */
  offloads: number;
}

/** Creates a tap, or attaches to a persistent one of that name. Bringing it up is the operator's. */
export function openTap(name: string, persistent: boolean): OpenedTap {
  if (name === '' || name.length >= IFNAMSIZ || /[/:\s%]/.test(name)) {
    throw new Error(`${JSON.stringify(name)} is no interface name: 1 to 15 bytes without / : % and white space`);
  }
  if (isMounted(KERNEL_TUN)) {
    throw new Error(
      `${KERNEL_TUN} is covered by our own clone here; start the daemon where the kernel's own is visible`,
    );
  }
  const fd = open(KERNEL_TUN, O_RDWR | O_NONBLOCK);
  try {
    ioctl(fd, TUNSETIFF, ifreq(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR), `TUNSETIFF ${name}`);
    ioctl(fd, TUNSETVNETHDRSZ, Int32Array.of(TAP_HEADER_BYTES), 'TUNSETVNETHDRSZ');
    let offloads = TCP_OFFLOADS | UDP_OFFLOADS;
    if (tryIoctl(fd, TUNSETOFFLOAD, offloads) < 0) {
      offloads = TCP_OFFLOADS;
      ioctlValue(fd, TUNSETOFFLOAD, offloads, 'TUNSETOFFLOAD');
    }
    if (persistent) ioctlValue(fd, TUNSETPERSIST, 1, 'TUNSETPERSIST');
    return { fd, offloads };
  } catch (error) {
    close(fd);
    throw error;
  }
}

/**
 * Opens the kernel's own vhost-net for a tap. Gives its descriptor, or why there is none: most kernels have it as a module,
 * which opening loads where the device node is there.
 */
export function openKernelVhostNet(): { fd: number } | { reason: string } {
  const path = KERNEL_VHOST_NET;
  if (isMounted(path)) return { reason: `${path} is covered by our own clone here` };
  let stat: fs.Stats;
  let fd: number;
  try {
    stat = fs.statSync(path);
    if (!stat.isCharacterDevice() || stat.rdev !== VHOST_NET_RDEV)
      return { reason: `${path} is not the kernel's vhost-net` };
    fd = open(path, O_RDWR);
  } catch (error) {
    return { reason: `${path} cannot be opened: ${(error as { code?: string }).code ?? (error as Error).message}` };
  }
  return { fd };
}
