/**
 * All lanes of the switch: starts them with the memory that joins them, and says which one a port belongs to.
 *
 *     lane 0 ◄══ ring 1→0 ══ lane 1       a ring for each ordered pair, in one memfd that every lane maps
 *            ══ ring 0→1 ══►
 */
import { EventEmitter } from 'node:events';
import { eventfd } from '../linux/eventfd.ts';
import { close } from '../linux/file.ts';
import { memfd } from '../linux/mman.ts';
import { newCounters, readCounters } from '../switch/counters.ts';
import type { LaneCommand, LaneEvent, LaneOptions } from '../switch/lane.ts';
import { linkMemoryBytes } from '../switch/lane-link.ts';
import type { LaneRow } from './control.ts';
import { type LaneAnswer, type LaneArguments, LaneClient } from './lane-client.ts';

const NO_FD = -1;

export interface LanesOptions extends Omit<LaneOptions, 'now' | 'wakeFd' | 'peers'> {
  count: number;
  /** The processor of each lane, or none to leave that to the kernel. */
  cpus: number[];
  /** Lane by name of port; a name that ends in `*` stands for all that begin like it. */
  placement: Record<string, number>;
}

/** Emits `event` with what a lane tells, and `died` with an Error when a lane's thread fails. */
export class Lanes extends EventEmitter<{ event: [LaneEvent]; died: [Error] }> {
  readonly all: LaneClient[];
  /** Resolves when all lanes run; rejects with what one of them failed with. */
  readonly started: Promise<void>;
  readonly #cpus: number[];
  readonly #placement: Record<string, number>;
  readonly #wakeFds: number[];
  /** Ports on each lane. */
  readonly #ports: number[];
  /** Counters of what each lane sends to each. */
  readonly #links: ReturnType<typeof newCounters>[][];

  constructor({ count, cpus, placement, ...options }: LanesOptions) {
    super();
    this.#cpus = cpus;
    this.#placement = placement;
    this.#ports = Array<number>(count).fill(0);
    this.#links = this.#ports.map(() => this.#ports.map(() => newCounters()));
    this.#wakeFds = this.#ports.map(() => eventfd());
    const linkMemory = count > 1 ? memfd('ringswitch-links', linkMemoryBytes(count)) : NO_FD;
    this.all = this.#links.map((counters, index) => {
      const lanes = this.#wakeFds.map((wakeFd, other) => ({ wakeFd, counters: counters[other]! }));
      const peers = count > 1 ? { index, linkMemory, lanes } : undefined;
      const lane = new LaneClient({ ...options, wakeFd: this.#wakeFds[index]!, peers, cpu: cpus[index] });
      lane.on('event', (event) => this.emit('event', event));
      lane.on('died', (error) => this.emit('died', error));
      return lane;
    });
    const answers = this.all.map((lane) => lane.call('load'));
    this.started = Promise.all(answers).then(() => {});
    this.started.catch(() => {}); // Who waits for it hears of it.
    // Each lane has mapped it by the time that all have answered.
    if (linkMemory !== NO_FD) void Promise.allSettled(answers).then(() => close(linkMemory));
  }

  /** The lane for a port of that name: as the configuration says, or the one with the fewest ports. Counts it there. */
  join(name: string): LaneClient {
    const index = this.#placed(name) ?? this.#ports.indexOf(Math.min(...this.#ports));
    this.#ports[index]!++;
    return this.all[index]!;
  }

  /**
   * Lanes for `queues` queues of a port of that name, in the order in which they get them: the one that the configuration
   * says for all, else every lane in turn, the emptiest first. Counts the port on each.
   */
  joinAll(name: string, queues: number): LaneClient[] {
    const placed = this.#placed(name);
    const byLoad = this.#ports.map((_, index) => index).sort((a, b) => this.#ports[a]! - this.#ports[b]! || a - b);
    const chosen = placed === undefined ? byLoad.slice(0, queues) : [placed];
    for (const index of chosen) this.#ports[index]!++;
    return chosen.map((index) => this.all[index]!);
  }

  /** A port has left its lane. */
  leave(lane: LaneClient): void {
    this.#ports[this.all.indexOf(lane)]!--;
  }

  #placed(name: string): number | undefined {
    const exact = this.#placement[name];
    if (exact !== undefined) return exact;
    const matches = Object.keys(this.#placement).filter(
      (key) => key.endsWith('*') && name.startsWith(key.slice(0, -1)),
    );
    const longest = matches.sort((a, b) => b.length - a.length)[0];
    return longest === undefined ? undefined : this.#placement[longest];
  }

  /** Asks every lane, or every one but those of `except`. */
  callAll<C extends LaneCommand>(
    command: C,
    args: LaneArguments<C>,
    except: readonly LaneClient[] = [],
  ): Promise<LaneAnswer<C>[]> {
    return Promise.all(this.all.filter((lane) => !except.includes(lane)).map((lane) => lane.call(command, ...args)));
  }

  /** What each lane has done. */
  async load(): Promise<LaneRow[]> {
    const loads = await this.callAll('load', []);
    return loads.map(({ arena, ...load }, lane) => {
      const sent = this.#links[lane]!.map(readCounters);
      const sum = (name: string): number => sent.reduce((total, counters) => total + counters[name]!, 0);
      return {
        lane,
        cpu: this.#cpus[lane] ?? null,
        ports: this.#ports[lane]!,
        ...load,
        sentToLanes: sum('tx_frames'),
        lostToLanes: sum('tx_drop_no_buffers'),
        arena,
      };
    });
  }

  /** Stops all rings and threads. */
  async stop(): Promise<void> {
    await Promise.all(this.all.map((lane) => lane.stop()));
    // Not before: until the last one has stopped, they wake each other.
    for (const fd of this.#wakeFds) close(fd);
  }
}
