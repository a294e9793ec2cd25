/** What the VM tests do with guests: boot them on a daemon, ping, and move files whose hashes are compared. */
import assert from 'node:assert/strict';
import type { DaemonProcess } from '../../lab/daemon.ts';
import { guestNetwork, Machine, type MachineOptions } from '../../lab/machine.ts';
import { virtioNet } from '../../lab/virtio-net.ts';

const HTTP_PORT = 8080;

export interface GuestOptions {
  /** Also the name of its switch port. */
  name: string;
  /** The last byte of its address 10.78.0.N and of its MAC. */
  number: number;
  vhost?: boolean;
  queues?: number;
  /** Properties of its card, such as `mrg_rxbuf=off`. */
  device?: string;
  machine?: Partial<MachineOptions>;
}

export const ipOf = (number: number): string => `10.78.0.${number}`;

/** A guest of the daemon with its network up. */
export async function bootGuest(daemon: DaemonProcess, options: GuestOptions): Promise<Machine> {
  const { name, number, vhost = true, queues, device, machine } = options;
  const mac = `52:54:00:78:00:${number.toString(16).padStart(2, '0')}`;
  const card = virtioNet({ id: 'net0', ifname: name, mac, vhost, queues, device });
  const guest = await Machine.start({ name, launcher: daemon.exec, netdevs: [card], ...machine });
  try {
    await guestNetwork(guest, `${ipOf(number)}/24`);
  } catch (error) {
    await guest.stop();
    throw error;
  }
  return guest;
}

/** Boots several at once; none is left running when one fails. */
export async function bootGuests(daemon: DaemonProcess, ...options: GuestOptions[]): Promise<Machine[]> {
  const booting = await Promise.allSettled(options.map((one) => bootGuest(daemon, one)));
  const up = booting.filter((result) => result.status === 'fulfilled').map((result) => result.value);
  const failed = booting.find((result) => result.status === 'rejected');
  if (!failed) return up;
  await Promise.all(up.map((guest) => guest.stop()));
  throw failed.reason;
}

/** Every ping is answered. */
export async function assertPings(from: Machine, number: number, count = 5): Promise<void> {
  const output = await from.sh(`ping -c ${count} -i 0.1 -w 15 ${ipOf(number)}`);
  assert.match(output, new RegExp(`${count} packets transmitted, ${count} packets received`));
}

/** `to` fetches `mib` MiB of random bytes from `from` (whose number is given) over TCP; the hashes are equal. */
export async function assertTransfer(from: Machine, number: number, to: Machine, mib: number): Promise<void> {
  await from.sh(`mkdir -p /tmp/www && dd if=/dev/urandom of=/tmp/www/file bs=1M count=${mib} 2>/dev/null`);
  await from.sh(`ps | grep -q '[h]ttpd -p ${HTTP_PORT}' || httpd -p ${HTTP_PORT} -h /tmp/www`);
  const sent = await from.sh('sha256sum < /tmp/www/file');
  const got = await to.sh(`wget -q -O - http://${ipOf(number)}:${HTTP_PORT}/file | sha256sum`, { timeoutMs: 60_000 });
  assert.equal(got, sent);
}
