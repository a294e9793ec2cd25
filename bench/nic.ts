/**
 * What the driver's rings cost a frame: receive, touch, send, in batches, against the same loop in C on the same rings
 * (nic-loop.c), turn by turn in one run. No card and no memory copies are in it: a stub completes the descriptors between
 * two turns, untimed.
 *
 *     stub: BURST frames received, everything sent ──► the driver, timed, until it finds nothing ──► stub …
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import koffi from 'koffi';
import { type Address, viewMemory } from '../linux/libc.ts';
import { setAffinity } from '../linux/sched.ts';
import { Arena } from '../memory/arena.ts';
import { DESCRIPTOR_BYTES } from '../nic/descriptors.ts';
import { BufferTable } from '../nic/driver/buffer-table.ts';
import { BUFFER_BYTES, RX_BUFFER_STRIDE } from '../nic/driver/queue-memory.ts';
import { ReceiveRing } from '../nic/driver/receive-ring.ts';
import { registerWriter } from '../nic/driver/register-writer.ts';
import { ringKernels } from '../nic/driver/ring-kernels.ts';
import { TransmitRing } from '../nic/driver/transmit-ring.ts';
import { machine } from './cpu.ts';
import { pause } from './pause.ts';
import { median } from './statistics.ts';

export const NIC_BATCHES = [32, 256] as const;
/** Descriptors of each ring, and frames between two turns of the stub: fewer than half, since buffers come back a turn later. */
const DESCRIPTORS = 512;
const BURST = 255;
const RING_BYTES = DESCRIPTORS * DESCRIPTOR_BYTES;
const FRAME_BYTES = 60;
/** Turns of the stub in each measurement, and of the warm-up. */
const TURNS = 10_000;
const WARM_UP_TURNS = 10_000;
/** The byte of a frame that the driver changes, as ixy-fwd does. */
const TOUCHED = 48;
const CPU = 1;
const NS_PER_MS = 1e6;
/** Bus address of the first buffer: any that needs both words. */
const BUS = 0x1_4000_0000;
/** Where the stub finds RDT and TDT. */
const RDT = 0;
const TDT = 64;
const TAILS_BYTES = 4096;
/** struct rings of nic-loop.c, with room to spare. */
const RINGS_BYTES = 32_768;

export interface NicBatch {
  batch: number;
  ns_per_frame: { typescript: number; c: number };
  ratio: number;
  cycles_per_frame: { typescript: number; c: number };
}

export interface NicResult {
  machine: ReturnType<typeof machine>;
  rounds: number;
  /** Of the batch size with the worse ratio. */
  ns_per_frame: NicBatch['ns_per_frame'];
  ratio: number;
  /** The TypeScript driver's, of the same. */
  cycles_per_frame: number;
  batches: NicBatch[];
}

export interface NicOptions {
  rounds: number;
  /** Whether the rings' loops run as wasm kernels, as they do in a lane. */
  wasm: boolean;
  report?: (line: string) => void;
}

/** Rejects when there is no C compiler (gcc), and when it is interrupted. */
export async function nic({ rounds, wasm, report = () => {} }: NicOptions): Promise<NicResult> {
  setAffinity([CPU]);
  const library = loadLoop();
  const ticksPerNs = library.ticksPerNs();
  const arena = Arena.open({ wasm });
  const ours = new CardMemory(library, arena);
  const theirs = new CardMemory(library, arena);
  const forwarder = new Forwarder(ours);
  const batches: NicBatch[] = [];
  for (const batch of NIC_BATCHES) {
    const typescript: number[] = [];
    const c: number[] = [];
    runTypescript(ours, forwarder, WARM_UP_TURNS, batch);
    for (let round = 0; round < rounds; round++) {
      await pause(0);
      typescript.push(runTypescript(ours, forwarder, TURNS, batch));
      c.push(runC(theirs, TURNS, batch));
    }
    const ns = { typescript: median(typescript), c: median(c) };
    const cycles = { typescript: ns.typescript * ticksPerNs, c: ns.c * ticksPerNs };
    const ratio = median(typescript.map((value, i) => value / c[i]!));
    batches.push({ batch, ns_per_frame: ns, ratio, cycles_per_frame: cycles });
    report(
      `batches of ${String(batch).padStart(3)}: TypeScript ${ns.typescript.toFixed(1)} ns a frame ` +
        `(${cycles.typescript.toFixed(0)} cycles), C ${ns.c.toFixed(1)} ns (${cycles.c.toFixed(0)}), ratio ${ratio.toFixed(2)}`,
    );
  }
  const worst = batches.reduce((a, b) => (b.ratio > a.ratio ? b : a));
  const { ns_per_frame, ratio, cycles_per_frame } = worst;
  return { machine: machine(), rounds, ns_per_frame, ratio, cycles_per_frame: cycles_per_frame.typescript, batches };
}

/** nic-loop.c. */
interface Loop {
  reset(rings: Buffer): void;
  stub(rings: Buffer, frames: number): number;
  run(rings: Buffer, turns: number, burst: number, batch: number): number;
  ticksPerNs(): number;
}

/** Compiles nic-loop.c in a temporary folder, and loads it. */
function loadLoop(): Loop {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-bench-'));
  try {
    const file = path.join(directory, 'nic-loop.so');
    execFileSync('gcc', ['-O3', '-march=native', '-shared', '-fPIC', '-o', file, 'nic-loop.c'], {
      cwd: import.meta.dirname,
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const library = koffi.load(file);
    return {
      reset: library.func('void ring_reset(void *rings)'),
      stub: library.func('uint32_t stub(void *rings, uint32_t frames)'),
      run: library.func('double run_c(void *rings, uint32_t turns, uint32_t burst, uint32_t batch)'),
      ticksPerNs: library.func('double ticks_per_ns()'),
    };
  } catch (error) {
    const { code, message } = error as Error & { code?: string };
    if (code === 'ENOENT') throw new Error('gcc is not there, which builds bench/nic-loop.c: run scripts/setup peers');
    throw new Error(`bench/nic-loop.c cannot be built and loaded: ${message}`);
  } finally {
    fs.rmSync(directory, { recursive: true });
  }
}

/** A pair of rings, their buffers and registers, and what nic-loop.c knows of them (struct rings). */
class CardMemory {
  readonly rx: Address;
  readonly tx: Address;
  readonly tails: Address;
  readonly buffers: Address;
  readonly arena: Arena;
  readonly #rings = Buffer.alloc(RINGS_BYTES);
  readonly #loop: Loop;

  constructor(loop: Loop, arena: Arena) {
    this.#loop = loop;
    this.arena = arena;
    this.rx = arena.allocate(2 * RING_BYTES + TAILS_BYTES + DESCRIPTORS * RX_BUFFER_STRIDE);
    this.tx = this.rx + RING_BYTES;
    this.tails = this.tx + RING_BYTES;
    this.buffers = this.tails + TAILS_BYTES;
    const pointers = [this.rx, this.tx, this.buffers, this.tails + RDT, this.tails + TDT, BUS];
    for (const [i, pointer] of pointers.entries()) this.#rings.writeBigUInt64LE(BigInt(pointer), 8 * i);
    this.#rings.writeUInt32LE(DESCRIPTORS, 8 * pointers.length);
    this.#rings.writeUInt32LE(FRAME_BYTES, 8 * pointers.length + 4);
    loop.reset(this.#rings);
  }

  /** The card sends everything, and receives a burst. */
  stub(): void {
    this.#loop.stub(this.#rings, BURST);
  }

  /** Nanoseconds a frame of the C driver, which starts anew. */
  run(turns: number, batch: number): number {
    this.#loop.reset(this.#rings);
    return this.#loop.run(this.#rings, turns, BURST, batch);
  }
}

function runC(memory: CardMemory, turns: number, batch: number): number {
  const ns = memory.run(turns, batch);
  if (ns < 0) throw new Error('the loop in C lost frames');
  return ns;
}

/** Nanoseconds a frame of the driver's rings. */
function runTypescript(memory: CardMemory, forwarder: Forwarder, turns: number, batch: number): number {
  let ms = 0;
  let frames = 0;
  for (let turn = 0; turn < turns; turn++) {
    memory.stub();
    const start = performance.now();
    for (let left = BURST; left > 0; ) {
      const n = forwarder.forward(batch);
      if (n === 0) break;
      frames += n;
      left -= n;
    }
    ms += performance.now() - start;
  }
  if (frames !== turns * BURST) throw new Error(`the loop in TypeScript saw ${frames} of ${turns * BURST} frames`);
  return (ms * NS_PER_MS) / frames;
}

/** Sends back what it receives. Frames lie in one buffer each, which goes back to the card when it has been sent. */
class Forwarder {
  readonly #rx: ReceiveRing;
  readonly #tx: TransmitRing;
  readonly #bytes: Uint8Array;
  /** Frames ever posted, and ever released. */
  #posted = 0;
  #released = 0;

  constructor({ rx, tx, tails, buffers, arena }: CardMemory) {
    const writer = registerWriter({ kind: 'mapped', address: tails, length: TAILS_BYTES });
    const table = new BufferTable(DESCRIPTORS, (i) => BUS + RX_BUFFER_STRIDE * i, arena);
    this.#rx = new ReceiveRing({
      descriptors: viewMemory(rx, RING_BYTES),
      buffers: table,
      bufferBytes: BUFFER_BYTES,
      kernels: ringKernels(arena, rx, table.addressesAt),
      writer,
      tail: RDT,
    });
    this.#tx = new TransmitRing({
      descriptors: viewMemory(tx, RING_BYTES),
      kernels: ringKernels(arena, tx, table.addressesAt),
      writer,
      tail: TDT,
    });
    this.#bytes = new Uint8Array(viewMemory(buffers, DESCRIPTORS * RX_BUFFER_STRIDE));
    this.#rx.publish();
  }

  /** One batch of up to `limit` frames. Gives how many there were. */
  forward(limit: number): number {
    const rx = this.#rx;
    const tx = this.#tx;
    const bytes = this.#bytes;
    tx.reclaim();
    rx.release(tx.done - this.#released);
    this.#released = tx.done;
    // What was posted and has not been sent still waits, to the ring.
    const before = this.#posted - this.#released;
    const frames = rx.poll(before + limit) - before;
    if (!rx.plain) throw new Error('the stub received something else than frames of one buffer');
    const first = rx.index(before);
    for (let n = 0; n < frames; n++) {
      const at = Math.imul((first + n) & (DESCRIPTORS - 1), RX_BUFFER_STRIDE) + TOUCHED;
      bytes[at] = bytes[at]! + 1;
    }
    tx.postBuffers(rx.buffers, first, frames, this.#posted);
    this.#posted += frames;
    rx.publish();
    tx.publish();
    return frames;
  }
}
