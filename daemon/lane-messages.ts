/** What crosses between {@link LaneClient} on the main thread and the thread of its lane (lane-worker.ts). */
import type { LaneCommand, LaneOptions } from '../switch/lane.ts';

/** A command and its answer on the way between the threads. */
export interface LaneRequest {
  id: number;
  command: LaneCommand;
  args: unknown[];
}
export type LaneReply = { id: number; result: unknown } | { id: number; error: { name: string; message: string } };

export interface LaneClientOptions extends Omit<LaneOptions, 'now'> {
  /** The processor that its thread stays on; the kernel chooses without. */
  cpu?: number;
}
export type LaneWorkerData = LaneClientOptions & {
  /** Word 0 is set while commands wait. */
  pending: Int32Array<SharedArrayBuffer>;
};
