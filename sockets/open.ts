/**
 * Opens a stack in one call:
 *
 *     await using stack = await openStack({ vhostUser: '/run/ringswitch/web.sock', addresses: ['10.0.0.2/24'] });
 *     stack.net.createServer((socket) => socket.pipe(socket)).listen(7);
 */

import { parseMacAddress } from '../tcpip/devices/device-options.ts';
import { type OpenCardOptions, openCardDevice } from '../tcpip/devices/open-card.ts';
import { openTapDevice, type TapOptions } from '../tcpip/devices/open-tap.ts';
import { openVhostNetDevice, type VhostNetDeviceOptions } from '../tcpip/devices/open-vhost-net.ts';
import { openVhostUserDevice, type VhostUserDeviceOptions } from '../tcpip/devices/open-vhost-user.ts';
import type { WaitableDevice } from '../tcpip/devices/waitable-device.ts';
import { NetworkStack, type NetworkStackOptions } from './network-stack.ts';

/** What a stack stands on: exactly one of these. */
export interface StackDeviceOptions {
  /** A vhost-user port of the switch: its socket. The fastest way, with all offloads. */
  vhostUser?: string | VhostUserDeviceOptions;
  /** A port of the switch by its clones of /dev/net/tun and /dev/vhost-net, or a tap of the kernel by its vhost-net. */
  vhostNet?: string | VhostNetDeviceOptions;
  /** A tap of the kernel, read and written a frame at a time. */
  tap?: string | TapOptions;
  /** An 82599: its PCI address, or `vfio-user:` and the socket of a software card. */
  card?: string | OpenCardOptions;
  /** One that is open already. */
  device?: WaitableDevice;
}

export interface OpenStackOptions extends NetworkStackOptions, StackDeviceOptions {
  /** MAC address of our side, such as `52:54:00:12:34:56`; random (a card's own) when not given. */
  mac?: string;
  /** Bytes of an IP packet at the most. Default 1500. */
  mtu?: number;
}

const KINDS = ['vhostUser', 'vhostNet', 'tap', 'card', 'device'] as const;

/** Opens device and stack. Rejects with what the device's opening fails with, or RangeError for wrong options. */
export async function openStack(options: OpenStackOptions): Promise<NetworkStack> {
  return await NetworkStack.start(await openDevice(options), options);
}

async function openDevice(options: OpenStackOptions): Promise<WaitableDevice> {
  const given = KINDS.filter((kind) => options[kind] !== undefined);
  if (given.length !== 1) {
    const what = given.length === 0 ? 'none was given' : `these were given: ${given.join(', ')}`;
    throw new RangeError(`a stack stands on one of ${KINDS.join(', ')}; ${what}`);
  }
  const { vhostUser, vhostNet, tap, card, device, mac, mtu } = options;
  const address = mac === undefined ? undefined : parseMacAddress(mac);
  if (vhostUser !== undefined) {
    const more = typeof vhostUser === 'string' ? { path: vhostUser } : vhostUser;
    return await openVhostUserDevice({ address, mtu, ...more });
  }
  if (vhostNet !== undefined) {
    const more = typeof vhostNet === 'string' ? { name: vhostNet } : vhostNet;
    return openVhostNetDevice({ address, mtu, ...more });
  }
  if (tap !== undefined) {
    const more = typeof tap === 'string' ? { name: tap } : tap;
    return openTapDevice({ address, mtu, ...more });
  }
  if (card !== undefined) {
    const more = typeof card === 'string' ? { device: card } : card;
    return openCardDevice({ address, mtu, ...more });
  }
  return device!;
}
