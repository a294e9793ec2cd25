/**
 * The demonstration: two unmodified QEMU guests and a Linux tap in a network namespace, on one switch.
 *
 *     guest-a ── virtqueues ──┐
 *                             ├── ringswitch ── tap ── namespace
 *     guest-b ── virtqueues ──┘
 */
import fs from 'node:fs';
import { parseArgs } from 'node:util';
import type { PortStatus } from '../daemon/control.ts';
import { formatPorts, formatRings } from '../daemon/show.ts';
import { DaemonProcess } from '../lab/daemon.ts';
import { guestNetwork, Machine } from '../lab/machine.ts';
import { NetworkNamespace } from '../lab/namespace.ts';
import { virtioNet } from '../lab/virtio-net.ts';

const FILE_MIB = 64;
const MIB = 1 << 20;
const PINGS = 3;
const HTTP_PORT = 8080;
const TRANSFER_TIMEOUT_MS = 60_000;
const TAP = 'rsdemo0';
const A = { name: 'guest-a', ip: '10.77.0.1', mac: '52:54:00:77:00:01' };
const B = { name: 'guest-b', ip: '10.77.0.2', mac: '52:54:00:77:00:02' };
const HOST = { name: 'namespace', ip: '10.77.0.3' };

interface Transfer {
  from: string;
  to: string;
  bytes: number;
  seconds: number;
  sha256_match: boolean;
}

interface Results {
  ok: boolean;
  /** Replies to `PINGS` pings, by `from → to`. */
  pings: Record<string, { sent: number; received: number; avg_ms: number | null }>;
  transfers: Transfer[];
  ports: PortStatus[];
}

/** Anything that runs commands: a guest or the namespace. */
interface Host {
  name: string;
  ip: string;
  sh(command: string, timeoutMs?: number): Promise<string>;
}

const startedAt = Date.now();

/** A step with a line of its own; on a terminal it counts the seconds while it waits. */
async function step<T>(what: string, work: Promise<T>): Promise<T> {
  const seconds = (since: number): string => ((Date.now() - since) / 1000).toFixed(1);
  const since = Date.now();
  const line = (end: string): string => `[${seconds(startedAt).padStart(5)} s] ${what} ${end}`;
  const timer = setInterval(
    () => {
      if (process.stdout.isTTY) process.stdout.write(`\r${line(`… ${seconds(since)} s`)}`);
      else console.log(line('…'));
    },
    process.stdout.isTTY ? 200 : 5000,
  );
  try {
    const result = await work;
    console.log(`${process.stdout.isTTY ? '\r' : ''}${line(`done in ${seconds(since)} s`)}`);
    return result;
  } finally {
    clearInterval(timer);
  }
}

const guest = ({ name, ip }: { name: string; ip: string }, machine: Machine): Host => ({
  name,
  ip,
  sh: (command, timeoutMs) => machine.sh(command, { timeoutMs }),
});

function bootGuest(daemon: DaemonProcess, { name, mac }: { name: string; mac: string }): Promise<Machine> {
  const card = virtioNet({ id: 'net0', ifname: name, mac, vhost: true });
  return Machine.start({ name, launcher: daemon.exec, netdevs: [card] });
}

async function ping(from: Host, to: Host): Promise<{ sent: number; received: number; avg_ms: number | null }> {
  const output = await from.sh(`ping -c ${PINGS} -i 0.2 -w 10 ${to.ip} || true`);
  const received = Number(/(\d+)(?: packets)? received/.exec(output)?.[1] ?? 0);
  const average = /= [\d.]+\/([\d.]+)\//.exec(output)?.[1];
  return { sent: PINGS, received, avg_ms: average ? Number(average) : null };
}

/** `to` fetches the file that `from` serves, and both hash what they have. */
async function transfer(from: Host, to: Host, sha256: string): Promise<Transfer> {
  const since = performance.now();
  await to.sh(`busybox wget -q -O /tmp/rsdemo-file http://${from.ip}:${HTTP_PORT}/file`, TRANSFER_TIMEOUT_MS);
  const seconds = (performance.now() - since) / 1000;
  const got = await to.sh('busybox sha256sum < /tmp/rsdemo-file; rm /tmp/rsdemo-file', TRANSFER_TIMEOUT_MS);
  const match = got.slice(0, 64) === sha256;
  return { from: from.name, to: to.name, bytes: FILE_MIB * MIB, seconds, sha256_match: match };
}

async function demonstrate(): Promise<Results> {
  await using daemon = await step('start the daemon', DaemonProcess.start());
  await using namespace = await NetworkNamespace.create('rsdemo');
  await daemon.addTap(TAP);
  await namespace.moveIn(TAP);
  await namespace.address(TAP, `${HOST.ip}/24`);
  const host: Host = { ...HOST, sh: (command, timeoutMs) => namespace.exec(['sh', '-c', command], { timeoutMs }) };

  const [machineA, machineB] = await step(
    'boot two QEMU guests, with our clones as their /dev/net/tun and /dev/vhost-net',
    Promise.all([bootGuest(daemon, A), bootGuest(daemon, B)]),
  );
  await using _a = machineA;
  await using _b = machineB;
  await Promise.all([guestNetwork(machineA, `${A.ip}/24`), guestNetwork(machineB, `${B.ip}/24`)]);
  const [a, b] = [guest(A, machineA), guest(B, machineB)];

  const pings: Results['pings'] = {};
  for (const [from, to] of [
    [a, b],
    [b, host],
    [host, a],
  ] as const) {
    const name = `${from.name} → ${to.name}`;
    pings[name] = await step(`ping ${name}`, ping(from, to));
  }

  await step(
    `make a file of ${FILE_MIB} MiB in ${a.name}`,
    a.sh(`mkdir -p /tmp/www; dd if=/dev/urandom of=/tmp/www/file bs=1M count=${FILE_MIB} 2>&1`, TRANSFER_TIMEOUT_MS),
  );
  const sha256 = (await a.sh('busybox sha256sum < /tmp/www/file', TRANSFER_TIMEOUT_MS)).slice(0, 64);
  await a.sh(`busybox httpd -p ${HTTP_PORT} -h /tmp/www`);
  const transfers = [
    await step(`${FILE_MIB} MiB ${a.name} → ${b.name}`, transfer(a, b, sha256)),
    await step(`${FILE_MIB} MiB ${a.name} → ${host.name}`, transfer(a, host, sha256)),
  ];

  const [ports, rings] = [await daemon.ports(), await daemon.rings()];
  console.log(`\nPorts\n${formatPorts(ports)}\n\nRings, as negotiated\n${formatRings(rings)}\n`);
  for (const [name, { sent, received, avg_ms }] of Object.entries(pings)) {
    console.log(`ping ${name}: ${received} of ${sent} answered, ${avg_ms ?? '?'} ms on average`);
  }
  for (const { from, to, bytes, seconds, sha256_match } of transfers) {
    const rate = ((bytes * 8) / seconds / 1e6).toFixed(0);
    const verdict = sha256_match ? 'SHA-256 matches' : 'SHA-256 DIFFERS';
    console.log(`${from} → ${to}: ${bytes / MIB} MiB in ${seconds.toFixed(1)} s (${rate} Mbit/s), ${verdict}`);
  }

  const served = [A, B].every(({ name }) => ports.find((port) => port.name === name)?.path === 'vhost');
  if (!served) console.log('A guest does not run over vhost: see the port table.');
  const ok =
    served &&
    Object.values(pings).every(({ sent, received }) => received === sent) &&
    transfers.every(({ sha256_match }) => sha256_match);
  await Promise.all([machineA.stop(), machineB.stop()]);
  await step('stop the daemon', daemon.stop());
  return { ok, pings, transfers, ports };
}

const { values } = parseArgs({ options: { json: { type: 'string' } } });
let results: Results;
try {
  results = await demonstrate();
} catch (error) {
  console.error(`The demonstration failed: ${(error as Error).message}`);
  process.exit(1);
}
if (values.json) fs.writeFileSync(values.json, `${JSON.stringify(results, null, 2)}\n`);
console.log(results.ok ? 'All of it held.' : 'Something did not hold: see above.');
process.exitCode = results.ok ? 0 : 1;
