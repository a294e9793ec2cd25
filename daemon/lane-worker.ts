/** The thread of a lane: carries out what {@link LaneClient} asks for, between breaths. */
import fs from 'node:fs';
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { setAffinity } from '../linux/sched.ts';
import { Lane } from '../switch/lane.ts';
import type { LaneReply, LaneRequest, LaneWorkerData } from './lane-messages.ts';

const NS_PER_MS = 1e6;
const port = parentPort!;
const { pending, cpu, ...options } = workerData as LaneWorkerData;
if (cpu !== undefined) stayOn(cpu);
/** What performance.now() began to count from, by the clock that all threads have in common (CLOCK_MONOTONIC), in ms. */
const origin = Number(process.hrtime.bigint()) / NS_PER_MS - performance.now();
const lane = new Lane({ ...options, now: () => origin + performance.now() }, (event) => port.postMessage(event));

/** Throws what the operator is to read. */
function stayOn(cpu: number): void {
  try {
    setAffinity([cpu]);
  } catch (error) {
    const online = fs.readFileSync('/sys/devices/system/cpu/online', 'latin1').trim();
    const what = `lane.cpus: a lane cannot run on processor ${cpu}`;
    throw new Error(`${what}: ${(error as Error).message}; this machine has ${online}, and a cpuset may allow fewer`);
  }
}

function runCommands(): void {
  if (Atomics.exchange(pending, 0, 0) === 0) return;
  for (let message = receiveMessageOnPort(port); message; message = receiveMessageOnPort(port)) {
    port.postMessage(carryOut(message.message as LaneRequest));
  }
}

function carryOut({ id, command, args }: LaneRequest): LaneReply {
  try {
    return { id, result: (lane[command] as (...args: unknown[]) => unknown).apply(lane, args) };
  } catch (error) {
    const { name, message } = error as Error;
    return { id, error: { name, message } };
  }
}

lane.run(runCommands);
