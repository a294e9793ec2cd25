/** Guests whose card is a software 82599, driven by Linux's own ixgbe. */
import assert from 'node:assert/strict';
import { Machine, type MachineOptions } from '../../lab/machine.ts';
import { vfioUserCard } from '../../lab/vfio-user-card.ts';
import { until } from '../helpers/until.ts';
import { ipOf } from './traffic.ts';

export interface IxgbeGuestOptions {
  name: string;
  /** The last part of its addresses 10.78.0.N and fd78::N. */
  number: number;
  /** Where its card is served: see `CardModel`. */
  socket: string;
  machine?: Partial<MachineOptions>;
}

/** How long a link may take to come or go. ixgbe looks every two seconds when no interrupt tells it. */
const LINK_TIMEOUT_MS = 15_000;

export const ip6Of = (number: number): string => `fd78::${number}`;

/** A guest whose eth0 is the card, driven by ixgbe, with its addresses. Two processors, hence two queues. */
export async function bootIxgbeGuest({ name, number, socket, machine }: IxgbeGuestOptions): Promise<Machine> {
  const netdevs = [vfioUserCard({ socket })];
  const guest = await Machine.start({
    ...{ name, qemu: 'fetched', smp: 2, netdevs, modules: ['ixgbe', '8021q'] },
    ...machine,
  });
  try {
    await bringUp(guest, number);
  } catch (error) {
    const log = await kernelLog(guest).catch(() => '(the guest is gone)');
    await guest.stop();
    throw new Error(`${(error as Error).message}\n-- dmesg\n${log}`, { cause: error });
  }
  return guest;
}

/** Gives eth0 its addresses, as after each loading of the driver, and brings it up. */
export async function bringUp(guest: Machine, number: number): Promise<void> {
  await guest.sh(`set -e
    cd /proc/sys/net/ipv6/conf/eth0
    echo 0 > accept_dad
    echo 0 > router_solicitations
    echo 1 > keep_addr_on_down
    ip address add ${ipOf(number)}/24 dev eth0
    ip link set eth0 up
    ip address add ${ip6Of(number)}/64 dev eth0`);
}

async function kernelLog(guest: Machine): Promise<string> {
  return (await guest.run('dmesg | grep -i ixgbe')).output;
}

/** Waits until eth0 sees the other end of its cable, or no longer does. */
export async function untilCarrier(guest: Machine, there: boolean): Promise<void> {
  const wanted = there ? '1' : '0';
  // Reading fails while the interface is down.
  const seen = async () => (await guest.run('cat /sys/class/net/eth0/carrier')).output.trim() === wanted;
  await until(`the carrier of ${guest.name} is ${wanted}`, seen, {
    timeoutMs: LINK_TIMEOUT_MS,
    everyMs: 100,
    instead: () => kernelLog(guest),
  });
}

/** `ethtool -S` of eth0. */
export async function statistics(guest: Machine): Promise<Record<string, number>> {
  const lines = (await guest.sh('ethtool -S eth0')).matchAll(/^ *(\S+): (\d+)$/gm);
  return Object.fromEntries(Array.from(lines, ([, name, value]) => [name, Number(value)]));
}

/** What the kernel of the guest says against the card or its driver, or against itself. */
export async function complaints(guest: Machine): Promise<string[]> {
  const lines = (await guest.sh('dmesg')).split('\n');
  const bad = /ixgbe.*(error|fail|warn|hang|time.?out|unable|pre-production|reset adapter)|WARNING:|BUG:|Call Trace/i;
  return lines.filter((line) => bad.test(line));
}

/** The kernel of no guest has complained. */
export async function assertNoComplaints(...guests: Machine[]): Promise<void> {
  for (const guest of guests) assert.deepEqual(await complaints(guest), [], guest.name);
}
