/** Which processors a thread runs on, and giving one up: `<sched.h>`. */
import { check, libcFunction } from './libc.ts';

const c = {
  sched_setaffinity: libcFunction('int sched_setaffinity(int pid, size_t size, const uint8_t *mask)'),
  sched_yield: libcFunction('int sched_yield()'),
};

/** Processors that a mask of {@link setAffinity} has room for (CPU_SETSIZE). */
const CPU_SETSIZE = 1024;

/** Lets the calling thread run on these processors only (sched_setaffinity(2)). EINVAL when this machine has none of them. */
export function setAffinity(cpus: number[]): void {
  const mask = new Uint8Array(CPU_SETSIZE / 8);
  for (const cpu of cpus) if (cpu < CPU_SETSIZE) mask[cpu >> 3]! |= 1 << (cpu & 7);
  check(c.sched_setaffinity(0, mask.length, mask), 'sched_setaffinity', { cpus: cpus.join(',') });
}

/** Lets others who wait for this processor run first (sched_yield(2)); comes back at once when there are none. */
export function yieldProcessor(): void {
  c.sched_yield();
}
