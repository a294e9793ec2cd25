/**
 * Bus addresses behind an IOMMU: which of them an owner has given out.
 *
 * From 4 GiB upward, so that neither the interrupt window at 0xfee00000 nor what firmware keeps below is ever in question;
 * below only where the IOMMU reaches no further. Never 0: a descriptor that was not filled in shall not work.
 */

/** Addresses that the IOMMU can translate, the end included. */
export interface IovaRange {
  start: bigint;
  end: bigint;
}

const PREFERRED_START = 2n ** 32n;
const ALIGNMENT = 2n ** 21n;
/** Beyond that a double is not exact. */
const LIMIT = 2n ** 53n;
/** What every IOMMU of the x86 has: 39 bits. For kernels (before 5.4) that do not tell their ranges. */
export const DEFAULT_RANGES: readonly IovaRange[] = [
  { start: 0n, end: 0xfedfffffn },
  { start: 0xfef00000n, end: 2n ** 39n - 1n },
];

interface Taken {
  start: bigint;
  end: bigint;
}

export class IovaSpace {
  readonly #ranges: readonly IovaRange[];
  /** By start. */
  #taken: Taken[] = [];

  constructor(ranges: readonly IovaRange[] = DEFAULT_RANGES) {
    this.#ranges = ranges;
  }

  /** A free range of so many bytes at a multiple of 2 MiB. Throws Error when there is none. */
  allocate(length: number): number {
    const above = this.#ranges.map(({ start, end }) => ({ start: max(start, PREFERRED_START), end }));
    const below = this.#ranges.map(({ start, end }) => ({ start: max(start, ALIGNMENT), end }));
    for (const range of [...above, ...below]) {
      const start = this.#fit(range, BigInt(length));
      if (start === null) continue;
      this.#taken.push({ start, end: start + BigInt(length) });
      this.#taken.sort((a, b) => (a.start < b.start ? -1 : 1));
      return Number(start);
    }
    const ranges = this.#ranges.map(({ start, end }) => `0x${start.toString(16)}-0x${end.toString(16)}`).join(', ');
    throw new Error(
      `the IOMMU has no ${length} bytes of bus addresses left (${ranges}; ${this.#taken.length} mappings): use fewer or smaller queues`,
    );
  }

  /** Gives a range back, by where it starts. */
  free(address: number): void {
    this.#taken = this.#taken.filter(({ start }) => start !== BigInt(address));
  }

  #fit(range: IovaRange, length: bigint): bigint | null {
    let at = alignUp(range.start);
    for (const { start, end } of this.#taken) {
      if (end <= at) continue;
      if (at + length <= start) break;
      at = alignUp(end);
    }
    return at + length - 1n <= range.end && at + length <= LIMIT ? at : null;
  }
}

const max = (a: bigint, b: bigint): bigint => (a > b ? a : b);
const alignUp = (value: bigint): bigint => (value + ALIGNMENT - 1n) & ~(ALIGNMENT - 1n);
