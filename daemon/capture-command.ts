/**
 * `ringswitch capture`: writes the frames that pass a port as pcapng, to a file or a pipe.
 *
 *     lane ── ring ══► this process ── file or pipe ──► tshark, Wireshark
 *
 * The daemon lends two descriptors (daemon/captures.ts): memory with a ring of each lane, and an eventfd. From then on the
 * frames do not concern its main thread. Who reads slowly makes the rings fill up, and frames are dropped and counted; the
 * lanes wait for nobody. The capture is the daemon's for as long as the connection to it lasts.
 */
import os from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { realTimeNs } from '../linux/clock.ts';
import { drainEventfd } from '../linux/eventfd.ts';
import { close } from '../linux/file.ts';
import { MAP_SHARED, mmap, PROT_READ, PROT_WRITE } from '../linux/mman.ts';
import { compileFilter } from '../linux/pcap.ts';
import { duplicateFrom } from '../linux/process.ts';
import { watchReadable } from '../linux/watch.ts';
import { CAPTURE_IN, CaptureReader, capturePartBytes } from '../memory/capture-ring.ts';
import { MAX_FRAME_BYTES } from '../memory/frame-batch.ts';
import packageJson from '../package.json' with { type: 'json' };
import { BpfProgram } from '../packet/bpf.ts';
import {
  EPB_FLAGS_INBOUND,
  EPB_FLAGS_OUTBOUND,
  fileHeader,
  packetBlockBytes,
  statisticsBlock,
  writePacket,
} from '../packet/pcapng.ts';
import { type CaptureOutput, openOutput } from './capture-output.ts';
import type { CaptureDirection, CaptureEnd, CaptureOptions, CaptureStart } from './control.ts';
import { ControlClient } from './control-client.ts';

const EXIT_FAILURE = 1;
const MIB = 2 ** 20;
/** Written in one go; more than the longest packet. */
const CHUNK_BYTES = 2 ** 20;
/** After frames came, how long this process looks by itself before it asks the lanes for signals. */
const LOOK_MS = 10;

export interface CaptureCommandOptions {
  socket: string;
  port: string;
  /** A file, or `-` for standard output; without it standard output, unless that is a terminal. */
  write?: string;
  /** As pcap-filter(7) has it. */
  filter?: string;
  /** Bytes of a frame that are kept; 0 for all. */
  snaplen?: number;
  direction?: CaptureDirection;
  /** Frames after which it ends. */
  count?: number;
  /** Seconds after which it ends. */
  duration?: number;
  /** MiB of the ring that each lane fills. */
  buffer?: number;
}

/**
 * Runs until it is told to end: by a signal, the options, its reader, the port's removal, or the daemon's end; process.exitCode
 * is set for the last two. Rejects with what is wrong with the options, or with what the daemon refuses.
 */
export async function runCapture(options: CaptureCommandOptions): Promise<void> {
  const { filter, snaplen: given = 0, direction, buffer } = options;
  const snaplen = given === 0 ? MAX_FRAME_BYTES : given;
  const asked: Partial<CaptureOptions> = { snaplen, direction, filter: null };
  if (filter !== undefined && filter.trim() !== '') {
    asked.filter = compileFilter(filter, snaplen);
    BpfProgram.check(asked.filter);
  }
  if (buffer !== undefined) asked.ringBytes = 2 ** Math.ceil(Math.log2(buffer * MIB));
  const session = await Session.start(options, asked);
  await session.run();
}

/** Why it ends. */
type Ending = 'asked' | 'reader-gone' | CaptureEnd['end'] | 'daemon-gone';

class Session {
  readonly #options: CaptureCommandOptions;
  readonly #snaplen: number;
  readonly #client: ControlClient;
  readonly #startNs = realTimeNs();
  readonly #chunk = new Uint8Array(CHUNK_BYTES);
  readonly #view = new DataView(this.#chunk.buffer);
  #start!: CaptureStart;
  #reader!: CaptureReader;
  #output!: CaptureOutput;
  #closeConnection: () => void = () => {};
  #ending: Ending | undefined;
  #wake = Promise.withResolvers<void>();
  /** Frames in the output. */
  #written = 0;

  static async start(options: CaptureCommandOptions, asked: Partial<CaptureOptions>): Promise<Session> {
    const session = new Session(options, asked.snaplen!);
    const { first, close } = await session.#client.follow(
      `/v1/ports/${encodeURIComponent(options.port)}/captures`,
      asked,
      (line) => session.#end((line as CaptureEnd).end),
      () => session.#end('daemon-gone'),
    );
    session.#start = first as CaptureStart;
    session.#closeConnection = close;
    return session;
  }

  private constructor(options: CaptureCommandOptions, snaplen: number) {
    this.#options = options;
    this.#snaplen = snaplen;
    this.#client = new ControlClient(options.socket);
  }

  /** The first reason counts. */
  #end(ending: Ending): void {
    this.#ending ??= ending;
    this.#wake.resolve();
  }

  async run(): Promise<void> {
    const { start } = this;
    const fds = borrow(start);
    const { count = Number.POSITIVE_INFINITY, duration, port, write } = this.#options;
    this.#reader = map(start, fds.memory);
    this.#output = openOutput(write);
    this.#output.onGone = () => this.#end('reader-gone');
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      process.on(signal, () => {
        if (this.#ending !== undefined) process.exit(EXIT_FAILURE); // Asked twice: at once, then.
        this.#end('asked');
      });
    }
    const timer = duration === undefined ? undefined : setTimeout(() => this.#end('asked'), duration * 1000);
    const watch = watchReadable(fds.wake, () => {
      drainEventfd(fds.wake);
      this.#wake.resolve();
    });
    process.stderr.write(`ringswitch: ${port}: capturing\n`);
    await this.#copy(count);
    watch.close();
    clearTimeout(timer);
    const dropped = await this.#finish();
    this.#closeConnection();
    process.stderr.write(`ringswitch: ${port}: ${this.#written} frames captured, ${dropped} dropped\n`);
  }

  get start(): CaptureStart {
    return this.#start;
  }

  /** Frames from the rings to the output, until the end. */
  async #copy(count: number): Promise<void> {
    const { filter, port } = this.#options;
    const header = fileHeader({
      hardware: `${os.arch()} ${os.cpus()[0]?.model ?? ''}`.trim(),
      os: `${os.type()} ${os.release()}`,
      application: `ringswitch ${packageJson.version}`,
      interfaceName: port,
      snaplen: this.#snaplen,
      filter,
    });
    if (!(await this.#write(header))) return;
    let detached = false;
    for (;;) {
      if (this.#ending === 'reader-gone') return;
      // What is in the rings at the end is still read, and no more comes.
      if (this.#ending !== undefined && !detached) {
        await this.#detach();
        detached = true;
      }
      const bytes = this.#fill(count);
      if (bytes > 0) {
        if (!(await this.#write(this.#chunk.subarray(0, bytes)))) return;
        if (this.#written === count) return;
      } else if (detached) return;
      else await this.#idle();
    }
  }

  async #write(bytes: Uint8Array): Promise<boolean> {
    if (await this.#output.write(bytes)) return true;
    this.#end('reader-gone');
    return false;
  }

  /** Takes what waits, up to a chunk of it. Gives the bytes of the chunk that are filled. */
  #fill(count: number): number {
    const reader = this.#reader;
    let at = 0;
    while (this.#written < count) {
      const frame = reader.peek();
      if (frame === null || at + packetBlockBytes(frame.captured) > CHUNK_BYTES) break;
      const flags = frame.direction === CAPTURE_IN ? EPB_FLAGS_INBOUND : EPB_FLAGS_OUTBOUND;
      at = writePacket(this.#chunk, this.#view, at, frame, flags);
      reader.release();
      this.#written++;
    }
    return at;
  }

  /** Waits for frames, or the end. A lane that is busy is spared the signals: frames of the next few ms come without. */
  async #idle(): Promise<void> {
    await Promise.race([delay(LOOK_MS), this.#wake.promise]);
    if (this.#ending === undefined && this.#reader.peek() === null && this.#reader.sleep()) await this.#wake.promise;
    this.#reader.wake();
    if (this.#ending === undefined) this.#wake = Promise.withResolvers();
  }

  /** The lanes let go. */
  async #detach(): Promise<void> {
    if (this.#ending !== 'asked') return;
    // A daemon that has ended meanwhile has let go, too.
    await this.#client.delete(`/v1/captures/${this.#start.id}`).catch(() => {});
  }

  /** Writes the statistics, and a word about an end that nobody asked for. Gives the frames that were dropped. */
  async #finish(): Promise<number> {
    const { port } = this.#options;
    const comment = { 'port-removed': 'the port was removed', 'daemon-gone': 'the daemon has ended' }[
      this.#ending as string
    ];
    const { seen: received, accepted, dropped } = this.#reader.counters();
    const delivered = this.#written;
    const statistics = { start: this.#startNs, end: realTimeNs(), received, accepted, dropped, delivered, comment };
    if (this.#ending !== 'reader-gone') await this.#write(statisticsBlock(statistics));
    await this.#output.close();
    if (comment !== undefined) {
      process.stderr.write(`ringswitch: ${port}: ${comment}\n`);
      process.exitCode = EXIT_FAILURE;
    }
    return dropped;
  }
}

/** The daemon's descriptors as this process's own. */
function borrow({ pid, memoryFd, wakeFd }: CaptureStart): { memory: number; wake: number } {
  try {
    return { memory: duplicateFrom(pid, memoryFd), wake: duplicateFrom(pid, wakeFd) };
  } catch (error) {
    const cure = "run as root, in the daemon's own PID namespace";
    throw new Error(`descriptors of the daemon (process ${pid}) cannot be had: ${(error as Error).message}; ${cure}`);
  }
}

function map({ lanes, ringBytes }: CaptureStart, fd: number): CaptureReader {
  const length = lanes * capturePartBytes(ringBytes);
  const address = mmap({ length, prot: PROT_READ | PROT_WRITE, flags: MAP_SHARED, fd });
  close(fd);
  return new CaptureReader(address, lanes, ringBytes);
}
