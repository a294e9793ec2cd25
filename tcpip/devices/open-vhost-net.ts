/**
 * A tap over vhost-net as a frame device: the clones that the switch serves, opened as any guest opens them, or the
 * kernel's own /dev/net/tun and /dev/vhost-net.
 *
 * A tun file believes every header, so sums and segmentation may always be left to the other side. Whether it may leave
 * them to us is said by TUNSETOFFLOAD, which the kernel keeps from files of a FUSE file system: frames then come plain,
 * unless the process runs under `ringswitch exec`.
 */
import { close, O_NONBLOCK, O_RDWR, open } from '../../linux/file.ts';
import {
  IFF_NO_PI,
  IFF_TAP,
  IFF_VNET_HDR,
  ifreq,
  TUN_F_CSUM,
  TUN_F_TSO_ECN,
  TUN_F_TSO4,
  TUN_F_TSO6,
  TUNSETIFF,
  TUNSETOFFLOAD,
} from '../../linux/if-tun.ts';
import { ioctl, tryIoctl } from '../../linux/ioctl.ts';
import { DRIVER_FEATURES, DriverDevice, openVhostNet } from '../../vhost/driver-device.ts';
import { featureSet, VIRTIO_NET_F_MRG_RXBUF } from '../../vhost/virtio.ts';
import {
  RECEIVE_CHECKSUM,
  RECEIVE_TSO4,
  RECEIVE_TSO6,
  TRANSMIT_CHECKSUM,
  TRANSMIT_TSO4,
  TRANSMIT_TSO6,
} from '../frame-device.ts';
import { deviceArena } from './device-arena.ts';
import { randomMacAddress } from './device-options.ts';
import { RingDevice } from './ring-device.ts';

const OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
const TRANSMIT = TRANSMIT_CHECKSUM | TRANSMIT_TSO4 | TRANSMIT_TSO6;
const RECEIVE = RECEIVE_CHECKSUM | RECEIVE_TSO4 | RECEIVE_TSO6;

export interface VhostNetDeviceOptions {
  /** Of the interface, which is made; the name of the port in the switch. */
  name: string;
  /** Default /dev/net/tun and /dev/vhost-net. */
  tun?: string;
  vhostNet?: string;
  /** Our side's; random unless given. */
  address?: Uint8Array;
  /** Default 1500. */
  mtu?: number;
  /** Entries of each ring: a power of two. Default 256. */
  ringSize?: number;
}

/** Opens and starts. Throws SystemError, DriverDeviceError; nothing stays behind then. */
export function openVhostNetDevice(options: VhostNetDeviceOptions): RingDevice {
  const { name, tun: tunPath = '/dev/net/tun', vhostNet, address, mtu, ringSize } = options;
  const undo: (() => void)[] = [];
  try {
    const tun = open(tunPath, O_RDWR | O_NONBLOCK);
    undo.push(() => close(tun));
    ioctl(tun, TUNSETIFF, ifreq(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR), `TUNSETIFF ${name}`);
    const receives = tryIoctl(tun, TUNSETOFFLOAD, OFFLOADS) === 0;
    const vhost = openVhostNet(vhostNet);
    undo.push(() => close(vhost));
    const features = DRIVER_FEATURES & ~featureSet(VIRTIO_NET_F_MRG_RXBUF);
    // Sums of what comes are ours to check then.
    const arena = receives ? undefined : deviceArena();
    const device = new DriverDevice({ vhost, tun, features, rxNum: ringSize, txNum: ringSize, space: arena });
    undo.push(() => device.close());
    const made = new RingDevice({
      name,
      rings: {
        features: device.features,
        memory: device.memory,
        rx: device.rx,
        frames: device.frames,
        tx: device.tx,
        rxCall: device.rxCall,
        txCall: device.txCall,
        get running() {
          return device.running;
        },
        close: () => {
          for (const one of undo.splice(0).reverse()) one();
        },
      },
      address: address ?? randomMacAddress(),
      mtu,
      offloads: receives ? TRANSMIT | RECEIVE : TRANSMIT,
      arena,
    });
    device.start();
    made.disableNotification();
    return made;
  } catch (error) {
    for (const one of undo.splice(0).reverse()) one();
    throw error;
  }
}
