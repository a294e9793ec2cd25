/** Opens a Linux tap for a stack: the far end of the interface is the kernel's own TCP/IP. */
import { close, O_NONBLOCK, O_RDWR, open } from '../../linux/file.ts';
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
  TUNSETIFF,
  TUNSETOFFLOAD,
  TUNSETVNETHDRSZ,
} from '../../linux/if-tun.ts';
import { ioctl, ioctlValue } from '../../linux/ioctl.ts';
import { deviceArena } from './device-arena.ts';
import { randomMacAddress } from './device-options.ts';
import { TAP_HEADER_BYTES, TapDevice } from './tap-device.ts';

const KERNEL_TUN = '/dev/net/tun';
const OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;

export interface TapOptions {
  /** Of the interface, which is made, or attached to when it is a persistent one. */
  name: string;
  /** Our side's; random unless given. */
  address?: Uint8Array;
  /** Default 1500. */
  mtu?: number;
  /** Whether checksums and segmentation are left to the other side, both ways. Default true. */
  offloads?: boolean;
  /** The tun file. Default: the kernel's own. */
  path?: string;
}

/** Creates a tap, or attaches to a persistent one. Bringing the interface up is the operator's. Throws SystemError. */
export function openTapDevice({ name, address, mtu, offloads = true, path = KERNEL_TUN }: TapOptions): TapDevice {
  if (name === '' || name.length >= IFNAMSIZ || /[/:\s%]/.test(name)) {
    throw new RangeError(`${JSON.stringify(name)} is no interface name: 1 to 15 bytes without / : % and white space`);
  }
  const fd = open(path, O_RDWR | O_NONBLOCK);
  try {
    ioctl(fd, TUNSETIFF, ifreq(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR), `TUNSETIFF ${name}`);
    ioctl(fd, TUNSETVNETHDRSZ, Int32Array.of(TAP_HEADER_BYTES), 'TUNSETVNETHDRSZ');
    ioctlValue(fd, TUNSETOFFLOAD, offloads ? OFFLOADS : 0, 'TUNSETOFFLOAD');
    return new TapDevice({
      name,
      fd,
      address: address ?? randomMacAddress(),
      mtu,
      offloads: offloads ? OFFLOADS : 0,
      transmitOffloads: offloads,
      arena: offloads ? undefined : deviceArena(),
    });
  } catch (error) {
    close(fd);
    throw error;
  }
}
