/**
 * Which queue of a port a flow's frames go to: the one that the guest sends the flow from, as Linux's tun driver does it
 * (tun_flow_update and tun_automq_select_queue of drivers/net/tun.c); by the hash alone for a flow it has not heard of.
 *
 * A direct-mapped table: a flow takes the place of another one in its bucket, and one not heard of for EXPIRY_SECONDS
 * counts no more. Time comes as an argument. Hot where a port has several queues: allocates nothing.
 */
import { queueForHash } from './flow-hash.ts';

/** Buckets: TUN_NUM_FLOW_ENTRIES. */
const BUCKETS = 1024;
/** TUN_FLOW_EXPIRE, 3 seconds. */
const EXPIRY_SECONDS = 3;
const NOBODY = -EXPIRY_SECONDS - 1;

export class FlowSteering {
  readonly #hash = new Int32Array(BUCKETS);
  readonly #queue = new Uint16Array(BUCKETS);
  readonly #seen = new Int32Array(BUCKETS).fill(NOBODY);

  /** The guest has sent a frame of the flow with this hash from queue `queue`. */
  note(hash: number, queue: number, nowSeconds: number): void {
    const bucket = hash & (BUCKETS - 1);
    this.#hash[bucket] = hash;
    this.#queue[bucket] = queue;
    this.#seen[bucket] = nowSeconds;
  }

  /** The queue, of `queues`, for frames of the flow with this hash to the guest. */
  queueOf(hash: number, queues: number, nowSeconds: number): number {
    const bucket = hash & (BUCKETS - 1);
    if (this.#hash[bucket] === hash && nowSeconds - this.#seen[bucket]! <= EXPIRY_SECONDS) {
      const queue = this.#queue[bucket]!;
      if (queue < queues) return queue;
    }
    return queueForHash(hash, queues);
  }
}
