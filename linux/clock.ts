/** Clocks: `<time.h>`. */
import { check, libcFunction } from './libc.ts';

const CLOCK_REALTIME = 0;
/** struct timespec { time_t tv_sec; long tv_nsec; } */
const TIMESPEC_WORDS = 2;

const c = { clock_gettime: libcFunction('int clock_gettime(int clock, void *time)') };

/** Nanoseconds since 1970 (clock_gettime(2) of CLOCK_REALTIME). */
export function realTimeNs(): bigint {
  const time = new BigInt64Array(TIMESPEC_WORDS);
  check(c.clock_gettime(CLOCK_REALTIME, time), 'clock_gettime', { clock: 'CLOCK_REALTIME' });
  return time[0]! * 1_000_000_000n + time[1]!;
}
