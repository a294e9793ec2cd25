/** What the VM tests do with guests: boot them on a daemon, ping, and move files whose hashes are compared. */
import assert from 'node:assert/strict';
import type { DaemonProcess } from '../../lab/daemon.ts';
import { guestNetwork, Machine, type MachineOptions } from '../../lab/machine.ts';
import type { Testpmd } from '../../lab/testpmd.ts';
import { virtioNet } from '../../lab/virtio-net.ts';
import { until } from '../helpers/until.ts';

const HTTP_PORT = 8080;
/** Far more than traffic takes to flow, in a guest without KVM on a busy machine, too. */
export const TRAFFIC_MS = 20_000;

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

/** Waits until each port of a testpmd that plays guests has received `frames`. */
export async function untilReceived(guests: Testpmd, frames: number): Promise<void> {
  let received: number[] = [];
  await until(
    `${frames} frames at each port of testpmd`,
    async () => {
      received = (await guests.portStats()).map(({ rxPackets }) => rxPackets);
      return received.every((count) => count >= frames);
    },
    { timeoutMs: TRAFFIC_MS, everyMs: 100, instead: () => `there were ${received.join(', ')}` },
  );
}

/** A shell command: starts iperf3 as a server, with `options`, and ends when that listens, which it does after it went away. */
export function serveIperf3(options = '', port = 5201): string {
  const listens = `:${port.toString(16).toUpperCase()} [0-9A-F]*:0000 0A`;
  return `iperf3 -s -D -p ${port} ${options} && until cat /proc/net/tcp* | grep -q '${listens}'; do sleep 0.1; done`;
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
