/**
 * The memory that a vhost-user front-end shares: regions with the files that they are mapped from, checked as they come.
 *
 * A region is believed when it lies where memory can be, its file is as long as it says (beyond the end of a file there is
 * SIGBUS), and it can be mapped at its place in a page. Files that can be sealed against shrinking are.
 */
import fs from 'node:fs';
import { EINVAL, ENOENT, ENOSPC } from '../linux/errno.ts';
import { close } from '../linux/file.ts';
import { PAGE_SIZE, sealAgainstShrinking } from '../linux/mman.ts';
import type { ClientMemory, SharedArea } from '../memory/client-memory.ts';
import { VhostError } from './vhost-device.ts';
import type { VhostUserRegion } from './vhost-user-messages.ts';

/** What VHOST_USER_GET_MAX_MEM_SLOTS answers: as many as KVM gives to user space on x86. */
export const MAX_MEM_SLOTS = 509;

interface Region {
  guestAddress: number;
  userAddress: number;
  size: number;
  area: SharedArea;
  /** How often it was added: QEMU before 8.0 adds (and removes) each region once for each queue pair. */
  times: number;
}

/** A table of regions; immutable. Its descriptors belong to whoever made it: see {@link release}. */
export class VhostUserMemory {
  readonly #regions: readonly Region[];

  constructor(regions: readonly Region[] = []) {
    this.#regions = regions;
  }

  /**
   * With one more region, whose descriptor is taken over; with the same one once more, where it is there already, and
   * `unused` is then a descriptor to close. Throws {@link VhostError}; the descriptor is the caller's then.
   */
  with(raw: VhostUserRegion, fd: number, request: string): { memory: VhostUserMemory; unused: number | null } {
    const same = this.#find(raw);
    if (same) return { memory: this.#replace(same, { ...same, times: same.times + 1 }), unused: fd };
    if (this.#regions.length === MAX_MEM_SLOTS) {
      throw new VhostError(ENOSPC, request, `all ${MAX_MEM_SLOTS} memory slots are taken`);
    }
    const region = checkRegion(raw, fd, request);
    for (const other of this.#regions) {
      for (const kind of ['guestAddress', 'userAddress'] as const) {
        if (region[kind] >= other[kind] + other.size || other[kind] >= region[kind] + region.size) continue;
        const overlap = `overlap the one of ${other.size} bytes at ${hex(other[kind])}`;
        throw new VhostError(EINVAL, request, `${describe(raw)}: its ${WORDS[kind]} ${overlap}`);
      }
    }
    return { memory: new VhostUserMemory([...this.#regions, region]), unused: null };
  }

  /**
   * Without a region, told by its addresses and size, once it is removed as often as it was added; `unused` is then the
   * descriptor to close when nobody uses the old table any more.
   */
  without(raw: VhostUserRegion, request: string): { memory: VhostUserMemory; unused: number | null } {
    const found = this.#find(raw);
    if (!found) throw new VhostError(ENOENT, request, `${describe(raw)} is not in the table`);
    if (found.times > 1) return { memory: this.#replace(found, { ...found, times: found.times - 1 }), unused: null };
    return { memory: this.#replace(found), unused: found.area.fd };
  }

  #find(raw: VhostUserRegion): Region | undefined {
    return this.#regions.find(
      ({ guestAddress, userAddress, size }) =>
        BigInt(guestAddress) === raw.guestAddress &&
        BigInt(userAddress) === raw.userAddress &&
        BigInt(size) === raw.size,
    );
  }

  #replace(old: Region, ...by: Region[]): VhostUserMemory {
    return new VhostUserMemory(this.#regions.flatMap((region) => (region === old ? by : [region])));
  }

  /** As the lane maps it. */
  get client(): ClientMemory {
    return {
      regions: this.#regions.map(({ guestAddress, userAddress, size }) => ({ guestAddress, userAddress, size })),
      areas: this.#regions.map(({ area }) => area),
    };
  }

  get regions(): number {
    return this.#regions.length;
  }

  /** Bytes of all regions. */
  get bytes(): number {
    return this.#regions.reduce((sum, { size }) => sum + size, 0);
  }

  /** Closes the descriptors. */
  release(): void {
    for (const { area } of this.#regions) close(area.fd);
  }
}

const WORDS = { guestAddress: 'guest addresses', userAddress: 'user addresses' } as const;
/** User addresses end here on x86-64. */
const TASK_SIZE_MAX = 2n ** 47n - 4096n;
const hex = (n: number | bigint): string => `0x${n.toString(16)}`;
const describe = ({ guestAddress, size, userAddress }: VhostUserRegion): string =>
  `the region of ${size} bytes at ${hex(guestAddress)} (in the front-end ${hex(userAddress)})`;

const HUGETLBFS_MAGIC = 0x958458f6;
/** Whether a file is made of huge pages, a block a page. */
const isHugetlbfs = (fd: number): boolean => fs.statfsSync(`/proc/self/fd/${fd}`).type === HUGETLBFS_MAGIC;

function checkRegion(raw: VhostUserRegion, fd: number, request: string): Region {
  const refuse = (reason: string): never => {
    throw new VhostError(EINVAL, request, `${describe(raw)}: ${reason}`);
  };
  if (raw.size === 0n) refuse('it is empty');
  if (raw.userAddress + raw.size > TASK_SIZE_MAX) refuse('it lies outside of user space');
  if (raw.guestAddress + raw.size > BigInt(Number.MAX_SAFE_INTEGER)) refuse('no guest has memory there');
  // Before it is measured: it must not shrink in between.
  sealAgainstShrinking(fd);
  const file = fs.fstatSync(fd, { bigint: true });
  if (!file.isFile()) refuse('its descriptor is no file that can be mapped; share the memory as a memfd or a file');
  const end = raw.mmapOffset + raw.size;
  if (end > file.size) refuse(`its file has ${file.size} bytes, and it needs those up to ${end}`);
  const page = isHugetlbfs(fd) ? Number(file.blksize) : PAGE_SIZE;
  const offset = Number(raw.mmapOffset);
  const userAddress = Number(raw.userAddress);
  const size = Number(raw.size);
  const before = offset % page;
  if (userAddress % page !== before) {
    refuse(
      `offset ${hex(offset)} of its file and its address do not stand at the same place in a page of ${page} bytes`,
    );
  }
  return {
    guestAddress: Number(raw.guestAddress),
    userAddress,
    size,
    times: 1,
    area: {
      userAddress: userAddress - before,
      length: Math.ceil((before + size) / page) * page,
      fd,
      offset: offset - before,
    },
  };
}
