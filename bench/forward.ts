/**
 * Forwarding between two guests in a closed loop: a testpmd plays both with `macswap`, so that every frame received is
 * sent back to where it came from, and the figure is what the loop sustains. The switch runs on CPU 0, the guests on 1.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { DaemonProcess } from '../lab/daemon.ts';
import { Testpmd } from '../lab/testpmd.ts';
import { cpuSeconds } from './cpu.ts';

const SWITCH_CPU = 0;
const GUEST_CPU = 1;
const QUEUE_SIZE = 256;
/** Bursts of 32 that each port starts the loop with: less than a ring, so that none is lost at the start. */
const FIRST_BURSTS = 6;
const SETTLE_SECONDS = 1;
const MACS = ['52:54:00:00:00:01', '52:54:00:00:00:02'];

export interface ForwardRun {
  switch: string;
  /** Bytes of a frame, without the checksum. */
  size: number;
  /** Million frames a second received by both guests together. */
  mpps: number;
  gbps: number;
  /** Processor time of the switch by time measured: 1 is a whole CPU. */
  switch_cpu: number;
}

export interface ForwardOptions {
  sizes: number[];
  /** Measured for each size. */
  seconds: number;
}

/** Measures ringswitch; one run for each size. */
export async function forward({ sizes, seconds }: ForwardOptions): Promise<{ runs: ForwardRun[] }> {
  const runs: ForwardRun[] = [];
  for (const size of sizes) runs.push(await runOne(size, seconds));
  return { runs };
}

async function runOne(size: number, seconds: number): Promise<ForwardRun> {
  await using daemon = await DaemonProcess.start({
    launcher: ['taskset', '-c', `${SWITCH_CPU}`],
    config: { log: { level: 'warn', format: 'text' } },
  });
  await using guests = await Testpmd.start({
    cpu: GUEST_CPU,
    launcher: daemon.exec,
    vdevs: MACS.map(
      (mac, i) => `net_virtio_user${i},path=/dev/vhost-net,iface=bench${i},queue_size=${QUEUE_SIZE},mac=${mac}`,
    ),
    words: [
      ...['--forward-mode=macswap', '--port-topology=loop', '--total-num-mbufs=16384'],
      ...[`--txd=${QUEUE_SIZE}`, `--rxd=${QUEUE_SIZE}`, `--eth-peer=0,${MACS[1]}`, `--eth-peer=1,${MACS[0]}`],
    ],
  });
  await guests.command(`set txpkts ${size}`);
  await guests.command(`start tx_first ${FIRST_BURSTS}`);
  await delay(SETTLE_SECONDS * 1000);
  const before = await guests.portStats();
  const [cpuBefore, timeBefore] = [cpuSeconds(daemon.pid), performance.now()];
  await delay(seconds * 1000);
  const after = await guests.portStats();
  const elapsed = (performance.now() - timeBefore) / 1000;
  const cpu = (cpuSeconds(daemon.pid) - cpuBefore) / elapsed;
  let frames = 0;
  for (const [i, port] of after.entries()) frames += port.rxPackets - before[i]!.rxPackets;
  const mpps = frames / elapsed / 1e6;
  return { switch: 'ringswitch', size, mpps, gbps: (mpps * size * 8) / 1e3, switch_cpu: cpu };
}
