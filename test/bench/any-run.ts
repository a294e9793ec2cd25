import type { ForwardRun } from '../../bench/forward.ts';

/** A run of `bench forward`, with whatever the test is about. */
export function anyRun(more: Partial<ForwardRun>): ForwardRun {
  return {
    ...{ switch: 'ringswitch', size: 64, ring: 'split', round: 1, mpps: 1, gbps: 0.5, switch_cpu: 1 },
    ...{ busy_ns_per_frame: 100, start_frames: 384, start_dropped: 0, start_lost: 0, circulating: 384 },
    ...{ turns: [{ mpps: 1, busy_ns_per_frame: 100, cache_line_ns: [140, 150] }] },
    ...more,
  };
}
