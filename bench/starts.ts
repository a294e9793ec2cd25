/**
 * Guests that come and go: are frames moved at every start? Two guests start, begin the closed loop with a burst, are
 * seen to receive, and end; again and again before one daemon.
 */
import { Guests, type Ring } from './guests.ts';
import { pause } from './pause.ts';
import { startRingswitch } from './switches.ts';

const SWITCH_CPU = 0;
const GUEST_CPU = 1;
const FRAME_BYTES = 64;
/** Frames that each guest must have received, more than the first burst brings: the loop turns. */
const ENOUGH_FRAMES = 2000;
const TIMEOUT_MS = 3000;
const LOOK_SECONDS = 0.02;

export interface StartsResult {
  starts: number;
  failed: { start: number; reason: string }[];
  /** From the loop's start until every guest had its frames, in ms. */
  slowest_ms: number;
}

/** Starts the guests `count` times. Rejects when the daemon ends, and when it is interrupted. */
export async function starts(
  count: number,
  ring: Ring = 'split',
  report: (line: string) => void = () => {},
): Promise<StartsResult> {
  await using bench = await startRingswitch({ cpus: `${SWITCH_CPU}` });
  const failed: StartsResult['failed'] = [];
  let slowest = 0;
  for (let start = 1; start <= count; start++) {
    try {
      await using guests = await Guests.start(bench, { cpu: GUEST_CPU, ring, memoryMiB: 64, mbufs: 4096 });
      slowest = Math.max(slowest, await traffic(guests));
      const broken = (await bench.daemon.rings()).find((row) => row.error !== null);
      if (broken) throw new Error(`ring ${broken.ring} of ${broken.port} is broken: ${broken.error!.message}`);
    } catch (error) {
      await pause(0); // An interruption is no result.
      if (!bench.daemon.running) throw new Error(`the daemon ended at start ${start}:\n${bench.daemon.log}`);
      failed.push({ start, reason: (error as Error).message });
      report(`start ${start}: ${(error as Error).message}`);
    }
    if (start % 10 === 0) report(`${start} starts, ${failed.length} failed`);
  }
  return { starts: count, failed, slowest_ms: slowest };
}

/** Resolves with the ms it took until every guest had received enough. */
async function traffic(guests: Guests): Promise<number> {
  const before = performance.now();
  await guests.startLoop(FRAME_BYTES);
  for (;;) {
    const received = await guests.received();
    const elapsed = performance.now() - before;
    if (received.every((frames) => frames >= ENOUGH_FRAMES)) return elapsed;
    if (elapsed > TIMEOUT_MS) {
      throw new Error(`the guests received ${received.join(' and ')} frames in ${TIMEOUT_MS} ms: the loop stands`);
    }
    await pause(LOOK_SECONDS);
  }
}
