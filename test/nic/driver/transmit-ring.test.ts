/** The transmit ring against a card that the test plays: it sends, and writes DD where RS asks for it. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { viewMemory } from '../../../linux/libc.ts';
import { Arena } from '../../../memory/arena.ts';
import {
  TXD_CMD_DEXT,
  TXD_CMD_EOP,
  TXD_CMD_IFCS,
  TXD_CMD_RS,
  TXD_DTYP_DATA,
  TXD_PAYLEN_SHIFT,
  TXD_STAT_DD,
} from '../../../nic/descriptors.ts';
import { BufferTable } from '../../../nic/driver/buffer-table.ts';
import { ringKernels } from '../../../nic/driver/ring-kernels.ts';
import { TransmitRing } from '../../../nic/driver/transmit-ring.ts';

const COUNT = 64;
const TDT = 0x6018;

/** Of which kind the rings are: with an arena its kernels run their loops. */
let arena: Arena | null = null;

class Card {
  readonly address = arena?.allocate(16 * COUNT) ?? 0;
  readonly descriptors = this.address === 0 ? new ArrayBuffer(16 * COUNT) : viewMemory(this.address, 16 * COUNT);
  readonly words = new Uint32Array(this.descriptors);
  readonly writes: [number, number][] = [];
  /** TDH. */
  head = 0;
  readonly sent: number[] = [];
  readonly buffers = new BufferTable(16, (i) => 0x1_2345_0000 + 2048 * i, arena);
  ring = new TransmitRing({
    descriptors: this.descriptors,
    kernels: arena ? ringKernels(arena, this.address, this.buffers.addressesAt) : undefined,
    writer: { write32: (offset, value) => void this.writes.push([offset, value]) },
    tail: TDT,
  });

  /** Sends up to `limit` descriptors of those announced. */
  send(limit = COUNT): void {
    const tail = this.writes.at(-1)?.[1] ?? 0;
    for (; this.head !== tail && limit > 0; limit--) {
      const at = 4 * this.head;
      this.sent.push(this.words[at]!);
      if ((this.words[at + 2]! & TXD_CMD_RS) !== 0) this.words[at + 3] = TXD_STAT_DD;
      this.head = (this.head + 1) % COUNT;
    }
  }

  /** Posts a frame of some descriptors, numbered from `first`. */
  frame(first: number, descriptors = 1): void {
    for (let d = 0; d < descriptors - 1; d++) this.ring.post(first + d, 0, 0, 0);
    this.ring.postLast(first + descriptors - 1, 0, TXD_CMD_EOP, 0, first + descriptors);
  }

  get marks(): number[] {
    return Array.from({ length: COUNT }, (_, i) => i).filter((i) => (this.words[4 * i + 2]! & TXD_CMD_RS) !== 0);
  }
}

for (const kind of ['TypeScript', 'kernels'])
  describe(`TransmitRing (${kind})`, () => {
    before(() => {
      arena = kind === 'kernels' ? Arena.open() : null;
    });

    it('posts frames that lie in neighbouring buffers, round the table, and says which are done', () => {
      const card = new Card();
      const { ring, buffers, words } = card;
      buffers.lengths.set(Array.from({ length: 16 }, (_, i) => 60 + 100 * i));
      ring.postBuffers(buffers, 14, 40, 7);
      ring.publish();
      assert.deepEqual(card.writes, [[TDT, 40]]);
      assert.deepEqual(card.marks, [31, 39]);
      for (let n = 0; n < 40; n++) {
        const buffer = (14 + n) % 16;
        const length = buffers.lengths[buffer]!;
        const address = 0x1_2345_0000 + 2048 * buffer;
        const rs = card.marks.includes(n) ? TXD_CMD_RS : 0;
        const command = TXD_DTYP_DATA | TXD_CMD_DEXT | TXD_CMD_IFCS | TXD_CMD_EOP | rs;
        assert.deepEqual(
          [...words.subarray(4 * n, 4 * n + 4)],
          [address % 2 ** 32, 1, (length | command) >>> 0, length << TXD_PAYLEN_SHIFT],
        );
      }
      card.send(35);
      ring.reclaim();
      assert.equal(ring.done, 7 + 32);
      card.send();
      ring.reclaim();
      assert.equal(ring.done, 7 + 40);
    });

    it('announces a batch with one register write, and asks for one write-back', () => {
      const card = new Card();
      assert.equal(card.ring.free, COUNT - 1);
      card.frame(0);
      card.frame(1, 3);
      card.frame(4);
      assert.deepEqual(card.writes, []);
      card.ring.publish();
      assert.deepEqual(card.writes, [[TDT, 5]]);
      assert.deepEqual(card.marks, [4], 'only the last frame is marked');
      card.ring.publish();
      assert.equal(card.writes.length, 1, 'nothing new, no write');
    });

    it('takes back a batch when its last descriptor is done, and says whose', () => {
      const card = new Card();
      card.frame(0, 4);
      card.frame(4, 2);
      card.ring.publish();
      card.send(5);
      assert.equal(card.ring.reclaim(), COUNT - 7);
      assert.equal(card.ring.idle, false);
      card.send();
      assert.equal(card.ring.reclaim(), COUNT - 1);
      assert.equal(card.ring.done, 6);
      assert.equal(card.ring.idle, true);
    });

    it('marks long batches on the way, so that their beginning comes back earlier', () => {
      const card = new Card();
      for (let n = 0; n < 60; n++) card.frame(n);
      card.ring.publish();
      assert.deepEqual(card.marks, [31, 59]);
      card.send(40);
      assert.equal(card.ring.reclaim(), COUNT - 1 - 28);
      assert.equal(card.ring.done, 32);
    });

    it('believes in nothing that was not marked', () => {
      const card = new Card();
      card.frame(0);
      card.frame(1);
      card.ring.publish();
      card.words[3] = TXD_STAT_DD;
      assert.equal(card.ring.reclaim(), COUNT - 3);
      card.words[4 * 40 + 3] = TXD_STAT_DD;
      assert.equal(card.ring.reclaim(), COUNT - 3);
    });

    it('sends everything once and in order, round and round (property)', () => {
      const step = fc.record({
        frames: fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 12 }),
        send: fc.integer({ min: 0, max: COUNT }),
      });
      fc.assert(
        fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
          const card = new Card();
          let posted = 0;
          for (const { frames, send } of steps) {
            for (const descriptors of frames) {
              if (card.ring.free < descriptors) continue;
              card.frame(posted, descriptors);
              posted += descriptors;
            }
            card.ring.publish();
            card.send(send);
            card.ring.reclaim();
            assert.ok(card.ring.done <= card.sent.length, 'nothing comes back before it is sent');
          }
          card.send();
          assert.equal(card.ring.reclaim(), COUNT - 1);
          assert.deepEqual(
            card.sent,
            Array.from({ length: posted }, (_, i) => i),
          );
          assert.equal(card.ring.done, posted);
        }),
      );
    });
  });
