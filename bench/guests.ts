/** Guests, played by one testpmd with a `net_virtio_user` port for each: the closed loop of the benchmarks. */
import { Testpmd } from '../lab/testpmd.ts';
import { type PortStatistics, parseForwardStatistics } from '../lab/testpmd-statistics.ts';
import { tail } from '../lab/words.ts';
import { pause } from './pause.ts';
import type { BenchSwitch } from './switches.ts';

export const RINGS = ['split', 'packed'] as const;
export type Ring = (typeof RINGS)[number];

const QUEUE_SIZE = 256;
/** Frames of one burst of testpmd (--burst). */
const BURST_FRAMES = 32;
/** Bursts that each port starts the loop with: fewer frames than a ring has entries. */
const FIRST_BURSTS = 6;
/** How long the first frames may take to come round, in seconds. */
const BURST_SECONDS = 0.1;
/** virtio 1.2 §6: VIRTIO_F_RING_PACKED. */
const VIRTIO_F_RING_PACKED = 34n;

export interface GuestsOptions {
  cpu: number;
  /** Default 2; an even number: guest 0 talks to 1, 2 to 3, ... */
  ports?: number;
  /** The number of the first, where several testpmds share a switch. Default 0. */
  first?: number;
  ring?: Ring;
  /** testpmd's memory. Default 512, and 16384 buffers in it. */
  memoryMiB?: number;
  mbufs?: number;
}

/** What became of the frames that the loop was started with. */
export interface StartLoss {
  /** Handed to testpmd's ports. */
  frames: number;
  /** Thrown away by testpmd: its transmit ring was full, since the switch had not taken what stood there. */
  dropped: number;
  /** Taken from a transmit ring by the switch, and never given to the other guest. */
  lost: number;
}

/** Both directions together, since the loop's start. */
export interface LoopCounts {
  /** When they were read: performance.now(), in ms. */
  time: number;
  received: number;
}

/**
 * Guests before a switch.
 *
 *     await using guests = await Guests.start(bench, { cpu: 1 });
 *     const loss = await guests.firstBurst(64);
 *     await guests.startLoop(64); ... guests.counts() ... guests.counts() ...
 */
export class Guests implements AsyncDisposable {
  readonly #testpmd: Testpmd;
  readonly #ports: number;

  /** Rejects when testpmd does not come up, and when a port got another kind of ring than was asked for. */
  static async start(bench: BenchSwitch, options: GuestsOptions): Promise<Guests> {
    const { cpu, ports = 2, first = 0, ring = 'split', memoryMiB, mbufs = 16_384 } = options;
    const macs = Array.from(
      { length: ports },
      (_, i) => `52:54:00:00:00:${(first + i + 1).toString(16).padStart(2, '0')}`,
    );
    const packed = ring === 'packed' ? ',packed_vq=1' : '';
    const testpmd = await Testpmd.start({
      cpu,
      memoryMiB,
      launcher: bench.launcher,
      vdevs: macs.map(
        (mac, i) => `net_virtio_user${i},${bench.vdev(first + i)},queue_size=${QUEUE_SIZE},mac=${mac}${packed}`,
      ),
      // Its driver tells the features that it negotiated at this level only.
      eal: ['--log-level=pmd.net.virtio.init:debug'],
      words: [
        ...['--forward-mode=macswap', '--port-topology=loop', `--total-num-mbufs=${mbufs}`],
        ...[`--txd=${QUEUE_SIZE}`, `--rxd=${QUEUE_SIZE}`, ...macs.map((_, i) => `--eth-peer=${i},${macs[i ^ 1]}`)],
      ],
    });
    const guests = new Guests(testpmd, ports);
    try {
      await testpmd.waitForLog('the features of its ports', (log) => negotiated(log).length >= ports);
      demandRing(testpmd.log, ports, ring);
    } catch (error) {
      await guests.stop();
      throw error;
    }
    return guests;
  }

  private constructor(testpmd: Testpmd, ports: number) {
    this.#testpmd = testpmd;
    this.#ports = ports;
  }

  /** Of testpmd, which plays all of them. */
  get pid(): number {
    return this.#testpmd.pid;
  }

  /**
   * Starts the loop for a moment, before anything has been learned, and accounts for the frames it was started with.
   *
   * Each port sends FIRST_BURSTS bursts. Once the loop is stopped nobody sends: whatever the switch took it delivers, and
   * the next `start` drains the receive rings (testpmd counts what it throws away so as received). From then on
   *
   *     lost = sent - received           over all ports, since nothing is on its way any more
   *
   * and frames that testpmd could not even hand over are its TX-dropped. A frame may be lost in any lap, but a loop never
   * holds more frames than in its first one.
   */
  async firstBurst(size: number): Promise<StartLoss> {
    const before = await this.#stats();
    const dropped = await this.#burst(size);
    const after = await this.#stats();
    const grown = (key: 'rxPackets' | 'txPackets') => sum(after, key) - sum(before, key);
    return {
      frames: this.#ports * FIRST_BURSTS * BURST_FRAMES,
      dropped,
      lost: grown('txPackets') - grown('rxPackets'),
    };
  }

  async #burst(size: number): Promise<number> {
    await this.startLoop(size);
    await pause(BURST_SECONDS);
    const { txDropped } = parseForwardStatistics(await this.#testpmd.command('stop'));
    await this.#drain();
    return txDropped;
  }

  /** Empties the receive rings of a stopped loop, until nothing more comes. */
  async #drain(): Promise<void> {
    await this.#testpmd.command('set fwd rxonly');
    for (let before = -1, now = sum(await this.#stats(), 'rxPackets'); now !== before; ) {
      await pause(BURST_SECONDS);
      await this.#testpmd.command('start');
      await this.#testpmd.command('stop');
      before = now;
      now = sum(await this.#stats(), 'rxPackets');
    }
    await this.#testpmd.command('set fwd macswap');
  }

  /**
   * Has each guest send under its own address for a moment while nobody answers, so that the switch learns them all. Before a
   * loop of more than two: it would begin with frames that are flooded, and every other guest would swap their addresses
   * and send them, under a partner's name; then chance decides who is whose partner.
   */
  async introduce(): Promise<void> {
    await this.#testpmd.command('set fwd txonly');
    await this.#testpmd.command('start');
    await pause(BURST_SECONDS);
    await this.#testpmd.command('stop');
    await this.#drain();
  }

  /** Starts the loop with frames of `size` bytes, without the checksum. */
  async startLoop(size: number): Promise<void> {
    await this.#testpmd.command(`set txpkts ${size}`);
    await this.#testpmd.command(`start tx_first ${FIRST_BURSTS}`);
  }

  async counts(): Promise<LoopCounts> {
    const received = sum(await this.#stats(), 'rxPackets');
    return { time: performance.now(), received };
  }

  /** Frames that each guest has received since its start. */
  async received(): Promise<number[]> {
    return (await this.#stats()).map(({ rxPackets }) => rxPackets);
  }

  /** Stops the loop. Gives the frames that were still in it. */
  async stopLoop(): Promise<number> {
    await this.#testpmd.command('stop');
    const before = sum(await this.#stats(), 'rxPackets');
    await this.#drain();
    return sum(await this.#stats(), 'rxPackets') - before;
  }

  #stats(): Promise<PortStatistics[]> {
    return this.#testpmd.portStats();
  }

  /** Ends testpmd. */
  async stop(): Promise<void> {
    await this.#testpmd.stop();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}

function sum(ports: PortStatistics[], key: 'rxPackets' | 'txPackets'): number {
  return ports.reduce((all, port) => all + port[key], 0);
}

/** The features that testpmd's ports negotiated, as far as its log tells of them. */
function negotiated(log: string): bigint[] {
  return [...log.matchAll(/features after negotiate = ([0-9a-f]+)/g)].map(([, hex]) => BigInt(`0x${hex}`));
}

/** Throws unless every port negotiated the ring: testpmd falls back to split rings without a word. */
export function demandRing(log: string, ports: number, ring: Ring): void {
  const all = negotiated(log);
  if (all.length < ports) {
    throw new Error(`only ${all.length} of ${ports} ports of testpmd negotiated features. It said:\n${tail(log)}`);
  }
  for (const [port, features] of all.entries()) {
    const packed = ((features >> VIRTIO_F_RING_PACKED) & 1n) === 1n;
    if (packed === (ring === 'packed')) continue;
    throw new Error(
      `port ${port} negotiated ${packed ? 'packed' : 'split'} rings, not ${ring}: the switch ${packed ? 'insists on' : 'does not offer'} VIRTIO_F_RING_PACKED`,
    );
  }
}
