/**
 * The captures that run: for each the memory that lanes fill and a capturing process empties, and its end.
 *
 *     POST …/captures ──► memfd, eventfd ──► startCapture on each lane of the port
 *     the port is removed, or DELETE ──► the last line; no lane has the capture any more
 *     the client leaves, in whatever way ──► the descriptors are closed
 *
 * The process duplicates the descriptors itself, and reads without this thread. They stay open until its connection ends, so
 * their numbers mean nothing else before.
 */
import type { Log } from '../fuse/log.ts';
import { eventfd } from '../linux/eventfd.ts';
import { close, pread } from '../linux/file.ts';
import { sealedMemfd } from '../linux/mman.ts';
import {
  CAPTURE_COUNTERS_BYTES,
  CAPTURE_IN,
  CAPTURE_OUT,
  type CaptureCounters,
  capturePartBytes,
  readCaptureCounters,
} from '../memory/capture-ring.ts';
import { BpfError, BpfProgram } from '../packet/bpf.ts';
import {
  type CaptureEnd,
  type CaptureOptions,
  type CaptureRow,
  type CaptureStart,
  ControlError,
  LiveAnswer,
} from './control.ts';
import type { LaneClient } from './lane-client.ts';
import type { SwitchPorts } from './switch-ports.ts';

const DIRECTIONS = { in: CAPTURE_IN, out: CAPTURE_OUT, both: CAPTURE_IN | CAPTURE_OUT } as const;

interface Running {
  id: number;
  portId: number;
  port: string;
  options: CaptureOptions;
  lanes: readonly LaneClient[];
  memoryFd: number;
  wakeFd: number;
  ended: PromiseWithResolvers<CaptureEnd>;
  /** No lane has it any more. */
  done: boolean;
}

export class Captures {
  readonly #ports: SwitchPorts;
  readonly #log: Log;
  readonly #running = new Map<number, Running>();
  #nextId = 1;

  constructor(ports: SwitchPorts, log: Log) {
    this.#ports = ports;
    this.#log = log;
    ports.onRemoved = (id) => {
      for (const capture of this.#running.values()) if (capture.portId === id) finish(capture, 'port-removed');
    };
  }

  /** ControlError: there is no such port, the filter is none, or there is no memory. */
  async start(name: string, options: CaptureOptions): Promise<LiveAnswer> {
    const { id: portId, lanes } = this.#ports.placeOf(name);
    checkFilter(options);
    const id = this.#nextId++;
    const { ringBytes, snaplen, filter, direction } = options;
    const partBytes = capturePartBytes(ringBytes);
    const memoryFd = sealedMemfd('ringswitch-capture', lanes.length * partBytes);
    const wakeFd = eventfd();
    const ended = Promise.withResolvers<CaptureEnd>();
    const capture: Running = { id, portId, port: name, options, lanes, memoryFd, wakeFd, ended, done: false };
    this.#running.set(id, capture);
    const shared = { memoryFd, ringBytes, wakeFd, snaplen, directions: DIRECTIONS[direction], filter };
    try {
      for (const [n, lane] of lanes.entries()) {
        await lane.call('startCapture', id, portId, { ...shared, offset: n * partBytes });
      }
    } catch (error) {
      await this.#detach(capture);
      this.#forget(capture);
      if (capture.done) throw new ControlError(404, 'ENODEV', `port ${name} was removed`);
      throw new ControlError(400, 'EIO', `${name} cannot be captured: ${(error as Error).message}`);
    }
    this.#log.info(`${name}: capture ${id} started`, { port: name });
    const first: CaptureStart = { id, port: name, pid: process.pid, memoryFd, wakeFd, lanes: lanes.length, ringBytes };
    return new LiveAnswer(first, ended.promise, () => void this.#leave(capture));
  }

  list(): CaptureRow[] {
    return [...this.#running.values()].map((capture) => {
      const { id, port, options } = capture;
      const { direction, snaplen, filter } = options;
      return { id, port, direction, snaplen, filtered: filter !== null, ...countersOf(capture) };
    });
  }

  /** Ends one by its number; its client may read the rest. ControlError when there is none. */
  async stop(id: string): Promise<void> {
    const capture = this.#running.get(Number(id));
    if (!capture) {
      const known = [...this.#running.keys()].join(', ') || 'none';
      throw new ControlError(404, 'ENOENT', `there is no capture ${id}; there are: ${known}`);
    }
    await this.#detach(capture);
    finish(capture, 'stopped');
  }

  /** The client has left. */
  async #leave(capture: Running): Promise<void> {
    await this.#detach(capture);
    finish(capture, 'stopped');
    const { id, port } = capture;
    const { accepted, dropped } = countersOf(capture);
    this.#forget(capture);
    this.#log.info(`${port}: capture ${id} ended, ${accepted - dropped} frames captured, ${dropped} dropped`, { port });
  }

  /** Takes it from the lanes, as far as they have it. */
  async #detach({ id, lanes, done }: Running): Promise<void> {
    if (done) return;
    // A lane that has stopped has let go of it.
    await Promise.allSettled(lanes.filter((lane) => lane.alive).map((lane) => lane.call('stopCapture', id)));
  }

  #forget({ id, memoryFd, wakeFd }: Running): void {
    if (!this.#running.delete(id)) return;
    close(memoryFd);
    close(wakeFd);
  }
}

function finish(capture: Running, end: CaptureEnd['end']): void {
  capture.done = true;
  capture.ended.resolve({ end });
}

function checkFilter({ filter }: CaptureOptions): void {
  if (filter === null) return;
  try {
    BpfProgram.check(filter);
  } catch (error) {
    if (!(error instanceof BpfError)) throw error;
    throw new ControlError(400, 'EINVAL', error.message);
  }
}

/** Of all lanes, read from the memory that they share. */
function countersOf({ lanes, memoryFd, options }: Running): CaptureCounters {
  const sum = { seen: 0, accepted: 0, dropped: 0 };
  for (const n of lanes.keys()) {
    const bytes = new Uint8Array(CAPTURE_COUNTERS_BYTES);
    pread(memoryFd, bytes, n * capturePartBytes(options.ringBytes));
    const { seen, accepted, dropped } = readCaptureCounters(bytes.buffer);
    sum.seen += seen;
    sum.accepted += accepted;
    sum.dropped += dropped;
  }
  return sum;
}
