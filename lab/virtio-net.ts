/** QEMU's words for a virtio network card on a tap. */

/** A guest's card. */
export interface VirtioNetOptions {
  /** QEMU's id for the netdev, unique in its machine. */
  id: string;
  /** The tap's name: QEMU opens `/dev/net/tun` for it. Left out, the device names it. */
  ifname?: string;
  /** In place of `ifname`: descriptors of opened taps, one per queue pair (see `stdio` of the machine). */
  fds?: number[];
  /** Such as `52:54:00:00:00:01`. */
  mac: string;
  /** Whether QEMU opens `/dev/vhost-net` for it. */
  vhost: boolean;
  /** Queue pairs, with `VIRTIO_NET_F_MQ` when more than one. Default: 1, or one for each of `fds`. */
  queues?: number;
  /** More properties of virtio-net-pci, such as `mrg_rxbuf=off,event_idx=off`. */
  device?: string;
  /** More properties of the netdev, such as `vhostforce=on`. */
  netdev?: string;
}

/** The arguments that give a machine such a card: an element of `netdevs` in the machine's options. */
export function virtioNet(options: VirtioNetOptions): string[] {
  const { id, ifname, fds, mac, vhost, device, netdev } = options;
  if (ifname !== undefined && fds !== undefined) {
    throw new TypeError(`The card ${id} has both ifname ${ifname} and fds ${fds}: QEMU takes one of them.`);
  }
  const queues = options.queues ?? fds?.length ?? 1;
  if (!Number.isInteger(queues) || queues < 1 || (fds !== undefined && fds.length !== queues)) {
    throw new RangeError(`The card ${id} has ${queues} queue pairs and ${fds?.length ?? 'no'} fds: give one per pair.`);
  }
  const tap = ['tap', `id=${id}`];
  if (fds) tap.push(fds.length === 1 ? `fd=${fds[0]}` : `fds=${fds.join(':')}`);
  else {
    if (ifname !== undefined) tap.push(`ifname=${ifname}`);
    tap.push('script=no', 'downscript=no');
    if (queues > 1) tap.push(`queues=${queues}`);
  }
  tap.push(`vhost=${vhost ? 'on' : 'off'}`);
  if (netdev) tap.push(netdev);
  return ['-netdev', tap.join(','), ...virtioNetDevice(id, mac, queues, device)];
}

/** The guest's half of a card alone, for a netdev of any other kind: `-device virtio-net-pci,...`. */
export function virtioNetDevice(netdev: string, mac: string, queues = 1, device?: string): string[] {
  // Without romfile= the firmware spends a second on network boot.
  const words = ['virtio-net-pci', `netdev=${netdev}`, `mac=${mac}`, 'romfile='];
  // One MSI-X vector a queue, one for the control queue, one for changes of the configuration (virtio 1.2 §4.1.5.1.2).
  if (queues > 1) words.push('mq=on', `vectors=${2 * queues + 2}`);
  if (device) words.push(device);
  return ['-device', words.join(',')];
}
