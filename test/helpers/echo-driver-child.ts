/**
 * A client with private memory, and a driver in it that sends frames through one ring and checks that each comes back
 * through the other: whole, in order, while the device works on another process's time. Its orders come as an argument; it
 * says where its rings are, and at the end what it got.
 */
import type { MemoryRegion } from '../../memory/client-memory.ts';
import type { RingDescription } from '../../vhost/virtqueue.ts';
import { cut, frameBytes, join } from './frame-bytes.ts';
import { PackedDriver, RING_PACKED } from './packed-driver.ts';
import { INDIRECT_DESC, MRG_RXBUF, SplitDriver, type TestBuffer, TestGuest } from './split-driver.ts';

export interface EchoOrders {
  num: number;
  features: string;
  /** Where split rings begin to count. */
  base: number;
  frames: number;
  /** Every so many frames one of 64 KB; 0: none. */
  bigEvery: number;
}

/** The first line, and the last. Features as text. */
export interface EchoRings {
  pid: number;
  regions: MemoryRegion[];
  /** Receive ring, transmit ring. */
  rings: (Omit<RingDescription, 'features'> & { features: string })[];
}
export interface EchoResult {
  received: number;
  problem: string | null;
}

const MIB = 2 ** 20;
const MEMORY_BYTES = 16 * MIB;
const TX_RING = 0;
const RX_RING = 0x8000;
const TABLES = 0x1_0000;
const TABLE_BYTES = 0x100;
/** Frames on their way at the most, each in a place of its own. */
const OUTSTANDING = 32;
const SENT_AT = MIB;
const SENT_STEP = 0x1_2000;
const RECEIVE_AT = 8 * MIB;
const RECEIVE_BYTES = 4096;
const HEADER = new Uint8Array(12);
const NUM_BUFFERS_AT = 10;
const BIG_BYTES = 65_000;
const TIMEOUT_MS = 30_000;

const lengthOf = (i: number, { bigEvery }: EchoOrders): number =>
  bigEvery > 0 && i % bigEvery === 0 ? BIG_BYTES - (i % 100) : 14 + ((i * 97) % 1500);

function run(orders: EchoOrders): EchoResult {
  const { num, base, frames } = orders;
  const features = BigInt(orders.features);
  const guest = new TestGuest([{ guestAddress: 0, size: MEMORY_BYTES, userAddress: 0x7000_0000_0000 }], () => true);
  const driver = (at: number): SplitDriver | PackedDriver =>
    (features & RING_PACKED) !== 0n
      ? new PackedDriver(guest, { num, features, at, start: base })
      : new SplitDriver(guest, { num, features, at, base });
  const tx = driver(TX_RING);
  const rx = driver(RX_RING);
  const indirect = (features & INDIRECT_DESC) !== 0n;
  const mergeable = (features & MRG_RXBUF) !== 0n;

  const post = (i: number): void => {
    const bytes = join([HEADER, frameBytes(lengthOf(i, orders), i)]);
    const slot = i % OUTSTANDING;
    let at = SENT_AT + slot * SENT_STEP;
    const pieces = i % 3 === 0 ? [] : i % 3 === 1 ? [12] : [7, 5, 100];
    const buffers = cut(bytes, pieces).map((piece): TestBuffer => {
      guest.write(at, piece);
      const buffer = { address: at, length: piece.length };
      at += piece.length + 1;
      return buffer;
    });
    if (indirect && i % 2 === 0) tx.addIndirect(buffers, false, TABLES + slot * TABLE_BYTES, 0);
    else tx.add(buffers, false);
  };
  const offer = (buffers: TestBuffer[]): unknown => rx.add(buffers, true);
  // Without mergeable buffers each chain has its header in a buffer of its own, as old drivers have it.
  const chains = mergeable ? num : num >> 1;
  for (let i = 0; i < chains; i++) {
    const address = RECEIVE_AT + i * RECEIVE_BYTES;
    if (mergeable) offer([{ address, length: RECEIVE_BYTES }]);
    else {
      offer([
        { address, length: HEADER.length },
        { address: address + HEADER.length, length: RECEIVE_BYTES - HEADER.length },
      ]);
    }
  }
  rx.announce();

  const describe = ({ features, ...rest }: RingDescription) => ({ ...rest, features: String(features) });
  // Nothing has been made available when the device starts, but for the buffers to receive in.
  const rxDescription = { ...rx.description(), base: tx.description().base };
  const rings: EchoRings = {
    pid: process.pid,
    regions: guest.client.regions,
    rings: [describe(rxDescription), describe(tx.description())],
  };
  process.stdout.write(`${JSON.stringify(rings)}\n`);

  let sent = 0;
  let received = 0;
  let pieces: Uint8Array[] = [];
  const deadline = Date.now() + TIMEOUT_MS;
  while (received < frames) {
    tx.reclaim();
    while (sent < frames && tx.outstanding < OUTSTANDING && tx.freeDescriptors >= 4 && sent - received < OUTSTANDING) {
      post(sent++);
    }
    tx.announce();
    for (const used of rx.reclaim()) {
      pieces.push(rx.contents(used as never));
      offer(used.buffers);
      const first = pieces[0]!;
      const count = mergeable ? first[NUM_BUFFERS_AT]! | (first[NUM_BUFFERS_AT + 1]! << 8) : 1;
      if (pieces.length < count) continue;
      const frame = join(pieces).subarray(HEADER.length);
      pieces = [];
      const expected = frameBytes(lengthOf(received, orders), received);
      if (Buffer.compare(frame, expected) !== 0) {
        return {
          received,
          problem: `frame ${received} of ${expected.length} bytes came back as one of ${frame.length}`,
        };
      }
      received++;
    }
    rx.announce();
    if (Date.now() > deadline)
      return { received, problem: `${sent} frames sent, ${received} received in ${TIMEOUT_MS} ms` };
  }
  return { received, problem: null };
}

if (process.argv[2] !== undefined) {
  process.stdout.write(`${JSON.stringify(run(JSON.parse(process.argv[2]) as EchoOrders))}\n`);
}
