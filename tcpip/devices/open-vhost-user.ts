/** A port of the switch (or of any other) over vhost-user as a frame device, with all offloads. */
import { DriverVhostUser } from '../../vhost/driver-vhost-user.ts';
import { randomMacAddress } from './device-options.ts';
import { RingDevice } from './ring-device.ts';

export interface VhostUserDeviceOptions {
  /** Of the back-end's socket, which listens (`ringswitch port add vhost-user NAME --path PATH`). */
  path: string;
  /** Our side's; random unless given. */
  address?: Uint8Array;
  /** Default 1500. */
  mtu?: number;
  /** Entries of each ring: a power of two. Default 256. */
  ringSize?: number;
  /** Time between attempts to connect again, in ms; 0: do not. Default 500. */
  reconnectMs?: number;
  /** The back-end is there again, or has gone and why. */
  onLink?: (up: boolean, reason: string) => void;
}

/** Connects. Rejects with what {@link DriverVhostUser.connect} rejects with. */
export async function openVhostUserDevice(options: VhostUserDeviceOptions): Promise<RingDevice> {
  const { path, address, mtu, ringSize, reconnectMs, onLink } = options;
  const rings = await DriverVhostUser.connect({ path, rxNum: ringSize, txNum: ringSize, reconnectMs });
  if (onLink !== undefined) rings.onLink = onLink;
  // The device's descriptors are what keeps a process alive, not this connection.
  rings.unref();
  try {
    return new RingDevice({ name: rings.name, rings, address: address ?? randomMacAddress(), mtu });
  } catch (error) {
    rings.close();
    throw error;
  }
}
