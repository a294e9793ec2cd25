/**
 * Fetching the memory of another process: which parts of its address space are shared mappings, and files to map them by.
 *
 * A vhost memory table (struct vhost_memory_region) names guest-physical ranges by the client's own addresses. The
 * kernel just uses them; user space finds the mappings behind them in `/proc/PID/maps` and opens
 * `/proc/PID/map_files/START-END`. Needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
 *
 * Control path: the main thread fetches, a lane maps what was fetched (guest-memory.ts).
 */
import { close, O_RDWR, open } from '../linux/file.ts';
import { sealAgainstShrinking } from '../linux/mman.ts';
import { type MemoryArea, memoryAreas } from '../linux/process.ts';

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

/** A memory table with what is needed to map it: plain data that crosses threads. */
export interface ClientMemory {
  regions: MemoryRegion[];
  areas: SharedArea[];
}

/**
 * Opens every shared, writable mapping of process `pid` that a region touches. Regions or parts of them without one
 * (private memory) stay out: what points there is refused later. The caller owns the descriptors: see {@link release}.
 */
export function fetchClientMemory(pid: number, regions: MemoryRegion[]): ClientMemory {
  const areas: SharedArea[] = [];
  const files = new Map<string, number>();
  try {
    for (const area of memoryAreas(pid)) {
      if (!area.permissions.startsWith('rw') || area.permissions[3] !== 's') continue;
      if (!regions.some((region) => touches(region, area))) continue;
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
  return { regions, areas };
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
export function sharedBytes(memory: ClientMemory): number {
  let bytes = 0;
  for (const region of memory.regions) {
    for (const area of memory.areas) {
      const start = Math.max(region.userAddress, area.userAddress);
      const end = Math.min(region.userAddress + region.size, area.userAddress + area.length);
      if (end > start) bytes += end - start;
    }
  }
  return bytes;
}

/** Whether every byte of the client's range lies in some region and in a shared mapping. */
export function isShared(memory: ClientMemory, userAddress: number, length: number): boolean {
  const covered = (ranges: { userAddress: number; length: number }[]): boolean => {
    let at = userAddress;
    const end = userAddress + length;
    for (const range of [...ranges].sort((a, b) => a.userAddress - b.userAddress)) {
      if (range.userAddress <= at) at = Math.max(at, range.userAddress + range.length);
    }
    return at >= end;
  };
  return covered(memory.regions.map((r) => ({ userAddress: r.userAddress, length: r.size }))) && covered(memory.areas);
}
