/** The transmit ring against a card that the test plays: it sends, and writes DD where RS asks for it. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { TXD_CMD_EOP, TXD_CMD_RS, TXD_STAT_DD } from '../../../nic/descriptors.ts';
import { TransmitRing } from '../../../nic/driver/transmit-ring.ts';

const COUNT = 64;
const TDT = 0x6018;

class Card {
  readonly descriptors = new ArrayBuffer(16 * COUNT);
  readonly words = new Uint32Array(this.descriptors);
  readonly writes: [number, number][] = [];
  /** TDH. */
  head = 0;
  readonly sent: number[] = [];
  ring = new TransmitRing({
    descriptors: this.descriptors,
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

describe('TransmitRing', () => {
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
