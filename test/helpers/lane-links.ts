/** The memory that joins lanes, and each lane's links over it: all lanes in this thread, in one arena. */
import { drainEventfd, eventfd } from '../../linux/eventfd.ts';
import { close } from '../../linux/file.ts';
import { memfd } from '../../linux/mman.ts';
import type { Arena } from '../../memory/arena.ts';
import { LaneLink, linkMemoryBytes, linkRingOffset } from '../../switch/lane-link.ts';

export class TestLinks {
  readonly #arena: Arena;
  readonly #lanes: number;
  readonly #base: number;
  readonly #wakeFds: number[];

  constructor(arena: Arena, lanes: number) {
    this.#arena = arena;
    this.#lanes = lanes;
    const fd = memfd('test-links', linkMemoryBytes(lanes));
    this.#base = arena.mapFile(fd, linkMemoryBytes(lanes));
    close(fd);
    this.#wakeFds = Array.from({ length: lanes }, () => eventfd());
  }

  /** Lane `lane`'s end of what joins it to lane `other`. */
  link(lane: number, other: number): LaneLink {
    return new LaneLink({
      receiveRing: this.#base + linkRingOffset(this.#lanes, other, lane),
      transmitRing: this.#base + linkRingOffset(this.#lanes, lane, other),
      peer: other,
      wakeFd: this.#wakeFds[other]!,
    });
  }

  /** Whether lane `lane` was woken since the last time. */
  woken(lane: number): boolean {
    return drainEventfd(this.#wakeFds[lane]!);
  }

  dispose(): void {
    this.#arena.free(this.#base, linkMemoryBytes(this.#lanes));
    for (const fd of this.#wakeFds) close(fd);
  }
}
