/** A guest in a few lines: a client with rings that carry frames, well-behaved until a test pokes it. */
import { drainEventfd, signalEventfd } from '../../linux/eventfd.ts';
import { POLLIN, PollSet } from '../../linux/poll.ts';
import { MRG_RXBUF, SplitDriver, TestGuest, VERSION_1 } from './split-driver.ts';
import { DELIVERY_MS } from './tun-client.ts';
import { type RingPlace, VhostClient } from './vhost-client.ts';

const MEMORY_BYTES = 1 << 20;
/** Where private memory stands, of one guest and of the next. */
const PRIVATE_AT = 0x7000_0000_0000;
const PRIVATE_STEP = 0x1000_0000;
let privateGuests = 0;
const NUM = 64;
const FEATURES = VERSION_1 | MRG_RXBUF;
const HEADER_BYTES = 12;
/** A buffer of its own for each descriptor of each ring. */
const BUFFER_BYTES = 4096;
const RX_BUFFERS = 0x10000;
const TX_BUFFERS = RX_BUFFERS + NUM * BUFFER_BYTES;

/** What a guest's rings are served by. */
export interface RingClient {
  /** By ring: receive, transmit. */
  readonly fds: readonly { kick: number; call: number; err: number }[];
  close(): void;
}

/** What a client has to tell about the guest: all of its memory, and the places of its rings in there. */
export interface GuestParts {
  memoryBytes: number;
  /** -1: the memory is private to this process, and stands at `memoryAddress`. */
  memoryFd: number;
  memoryAddress: number;
  features: bigint;
  rings: RingPlace[];
}

export class RingGuest<Client extends RingClient> implements Disposable {
  readonly guest: TestGuest;
  readonly rx: SplitDriver;
  readonly tx: SplitDriver;
  readonly client: Client;
  readonly #received: Buffer[] = [];

  constructor(connect: (parts: GuestParts) => Client, privately = false) {
    // Addresses of shared memory are offsets: the client says where the memory really is.
    const memoryAddress = privately ? PRIVATE_AT + PRIVATE_STEP * privateGuests++ : 0;
    const region = { guestAddress: 0, userAddress: memoryAddress, size: MEMORY_BYTES };
    this.guest = new TestGuest([region], () => privately);
    const memoryFd = this.guest.client.areas[0]?.fd ?? -1;
    this.rx = new SplitDriver(this.guest, { num: NUM, features: FEATURES, at: 0 });
    this.tx = new SplitDriver(this.guest, { num: NUM, features: FEATURES, at: 0x4000 });
    for (let i = 0; i < NUM; i++) this.#offer(RX_BUFFERS + i * BUFFER_BYTES);
    this.rx.announce();
    try {
      const memory = { memoryBytes: MEMORY_BYTES, memoryFd, memoryAddress };
      this.client = connect({ ...memory, features: FEATURES, rings: [this.rx, this.tx] });
    } catch (error) {
      this.guest.dispose();
      throw error;
    }
  }

  #offer(address: number): void {
    this.rx.add([{ address, length: BUFFER_BYTES }], true);
  }

  kick(ring: 0 | 1): void {
    signalEventfd(this.client.fds[ring]!.kick);
  }

  /** Sends one frame, and waits until the switch has taken it. */
  send(frame: Uint8Array): void {
    this.guest.write(TX_BUFFERS, new Uint8Array(HEADER_BYTES));
    this.guest.write(TX_BUFFERS + HEADER_BYTES, frame);
    this.tx.add([{ address: TX_BUFFERS, length: HEADER_BYTES + frame.length }], false);
    if (this.tx.announce()) this.kick(1);
    this.#await('taken', 1, () => this.tx.reclaim().length > 0 || undefined);
  }

  /** The next frame, waited for. */
  receive(): Buffer {
    return this.#await('received', 0, () => {
      for (const used of this.rx.reclaim()) {
        this.#received.push(Buffer.from(this.rx.contents(used).subarray(HEADER_BYTES)));
        this.#offer(used.buffers[0]!.address);
      }
      if (this.rx.announce()) this.kick(0);
      return this.#received.shift();
    });
  }

  #await<T>(what: string, ring: 0 | 1, look: () => T | undefined): T {
    const poll = new PollSet();
    const { call } = this.client.fds[ring]!;
    const deadline = performance.now() + DELIVERY_MS;
    for (;;) {
      const found = look();
      if (found !== undefined) return found;
      const leftMs = Math.ceil(deadline - performance.now());
      if (leftMs <= 0) throw new Error(`no frame was ${what} in ${DELIVERY_MS} ms`);
      poll.clear();
      poll.add(call, POLLIN);
      poll.wait(leftMs);
      drainEventfd(call);
    }
  }

  /** Whether the err eventfd of a ring is signalled, or becomes so. */
  errSignalled(ring: 0 | 1, timeoutMs = DELIVERY_MS): boolean {
    const poll = new PollSet();
    poll.add(this.client.fds[ring]!.err, POLLIN);
    return poll.wait(timeoutMs) === 1;
  }

  [Symbol.dispose](): void {
    this.client.close();
    this.guest.dispose();
  }
}

/** A guest of the clones; `privately`: its memory is private to this process. */
export class VhostGuest extends RingGuest<VhostClient> {
  constructor({ privately = false, ...clones }: { tun: string; vhostNet: string; name: string; privately?: boolean }) {
    super((parts) => new VhostClient({ ...clones, ...parts }), privately);
  }
}
