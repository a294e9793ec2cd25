/**
 * Fetching the memory of another process: which parts of its address space are shared mappings, and files to map them by;
 * and which are private to it, so that only copies of them can be had (mirror.ts).
 *
 * A vhost memory table (struct vhost_memory_region) names guest-physical ranges by the client's own addresses. The
 * kernel just uses them; user space finds the mappings behind them in `/proc/PID/maps` and opens
 * `/proc/PID/map_files/START-END`. Needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
 *
 * Control path: the main thread fetches, a lane maps what was fetched (guest-memory.ts).
 */
import { close, O_RDWR, open } from '../linux/file.ts';
import { PAGE_SIZE, sealAgainstShrinking } from '../linux/mman.ts';
import { type MemoryArea, memoryAreas } from '../linux/process.ts';

/** What gives a guest of QEMU shared memory. */
export const SHARED_MEMORY_CURE =
  'start QEMU with -object memory-backend-memfd,id=mem0,size=…,share=on -machine memory-backend=mem0';

/** One region of a memory table; all in bytes. */
export interface MemoryRegion {
  guestAddress: number;
  size: number;
  /** Where it stands in the client. */
  userAddress: number;
}

/** A shared mapping of the client that touches some region. */
export interface SharedArea {
  userAddress: number;
  length: number;
  fd: number;
  /** Bytes into the file. */
  offset: number;
}

/** A part of some region that is private to the client: whole pages. */
export interface PrivateArea {
  userAddress: number;
  length: number;
}

/** A memory table with what is needed to map it: plain data that crosses threads. */
export interface ClientMemory {
  regions: MemoryRegion[];
  areas: SharedArea[];
  /** The private parts, and the process whose they are; left out where there are none. */
  copied?: { pid: number; areas: PrivateArea[] };
}

/**
 * Opens every shared, writable mapping of process `pid` that a region touches, and notes what of the regions is private
 * to it. What is neither stays out: who points there is refused later. The caller owns the descriptors: see {@link release}.
 */
export function fetchClientMemory(pid: number, regions: MemoryRegion[]): ClientMemory {
  const areas: SharedArea[] = [];
  const privateAreas: PrivateArea[] = [];
  const files = new Map<string, number>();
  try {
    for (const area of memoryAreas(pid)) {
      if (!area.permissions.startsWith('rw')) continue;
      const touching = regions.filter((region) => touches(region, area));
      if (touching.length === 0) continue;
      if (area.permissions[3] !== 's') {
        for (const part of touchedParts(touching, area)) append(privateAreas, part);
        continue;
      }
      areas.push({
        userAddress: area.start,
        length: area.end - area.start,
        fd: openArea(pid, area, files),
        offset: area.offset,
      });
    }
  } catch (error) {
    release({ regions, areas });
    throw error;
  }
  return privateAreas.length === 0 ? { regions, areas } : { regions, areas, copied: { pid, areas: privateAreas } };
}

/** The pages of an area that regions touch, in order. */
function touchedParts(regions: MemoryRegion[], area: MemoryArea): PrivateArea[] {
  const sorted = [...regions].sort((a, b) => a.userAddress - b.userAddress);
  return sorted.map(({ userAddress, size }) => {
    const start = Math.max(area.start, Math.floor(userAddress / PAGE_SIZE) * PAGE_SIZE);
    const end = Math.min(area.end, Math.ceil((userAddress + size) / PAGE_SIZE) * PAGE_SIZE);
    return { userAddress: start, length: end - start };
  });
}

/** Adds a part that begins nowhere before the last one; they become one where they touch. */
function append(parts: PrivateArea[], { userAddress, length }: PrivateArea): void {
  const last = parts.at(-1);
  if (last && userAddress <= last.userAddress + last.length) {
    last.length = Math.max(last.length, userAddress + length - last.userAddress);
  } else parts.push({ userAddress, length });
}

function touches(region: MemoryRegion, area: MemoryArea): boolean {
  return region.userAddress < area.end && area.start < region.userAddress + region.size;
}

function openArea(pid: number, area: MemoryArea, files: Map<string, number>): number {
  const known = files.get(area.file);
  if (known !== undefined) return known;
  const range = `${area.start.toString(16)}-${area.end.toString(16)}`;
  const fd = open(`/proc/${pid}/map_files/${range}`, O_RDWR);
  // A file that shrinks under a mapping ends the process that touches it (SIGBUS). Where the client's kind of memory
  // can be sealed against that, it is; where not, the client is trusted (README).
  sealAgainstShrinking(fd);
  files.set(area.file, fd);
  return fd;
}

/** Closes the descriptors. Mappings made from them stay. */
export function release(memory: ClientMemory): void {
  for (const fd of new Set(memory.areas.map((area) => area.fd))) close(fd);
  memory.areas = [];
}

/** How many bytes of the regions lie in shared mappings. */
export function sharedBytes({ regions, areas }: ClientMemory): number {
  return bytesIn(regions, areas);
}

/** How many bytes of the regions are private to the client. */
export function privateBytes({ regions, copied }: ClientMemory): number {
  return bytesIn(regions, copied?.areas ?? []);
}

function bytesIn(regions: MemoryRegion[], areas: readonly PrivateArea[]): number {
  let bytes = 0;
  for (const region of regions) {
    for (const area of areas) {
      const start = Math.max(region.userAddress, area.userAddress);
      const end = Math.min(region.userAddress + region.size, area.userAddress + area.length);
      if (end > start) bytes += end - start;
    }
  }
  return bytes;
}

/** Whether every byte of the client's range lies in some region, and in a mapping that is shared or private to it. */
export function isReachable(memory: ClientMemory, userAddress: number, length: number): boolean {
  const regions = memory.regions.map((region) => ({ userAddress: region.userAddress, length: region.size }));
  const areas = [...memory.areas, ...(memory.copied?.areas ?? [])];
  return covers(regions, userAddress, length) && covers(areas, userAddress, length);
}

/** Whether any byte of the client's range is private to it. */
export function isPrivate({ copied }: ClientMemory, userAddress: number, length: number): boolean {
  const areas = copied?.areas ?? [];
  return areas.some((area) => userAddress < area.userAddress + area.length && area.userAddress < userAddress + length);
}

function covers(ranges: readonly PrivateArea[], userAddress: number, length: number): boolean {
  let at = userAddress;
  for (const range of [...ranges].sort((a, b) => a.userAddress - b.userAddress)) {
    if (range.userAddress <= at) at = Math.max(at, range.userAddress + range.length);
  }
  return at >= userAddress + length;
}
