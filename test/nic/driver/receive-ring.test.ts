/** The receive ring against a card that the test plays: it writes descriptors back. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { viewMemory } from '../../../linux/libc.ts';
import { Arena } from '../../../memory/arena.ts';
import { RXD_ERR_RXE, RXD_STAT_DD, RXD_STAT_EOP } from '../../../nic/descriptors.ts';
import { BufferTable } from '../../../nic/driver/buffer-table.ts';
import { MAX_FRAME_DESCRIPTORS, ReceiveRing } from '../../../nic/driver/receive-ring.ts';
import { ringKernels } from '../../../nic/driver/ring-kernels.ts';

const COUNT = 64;
const RDT = 0x1018;
const BUFFERS = 0x3_0000_0000;

/** Of which kind the rings are: with an arena its kernels run their loops. */
let arena: Arena | null = null;

class Card {
  readonly address = arena?.allocate(16 * COUNT) ?? 0;
  readonly descriptors = this.address === 0 ? new ArrayBuffer(16 * COUNT) : viewMemory(this.address, 16 * COUNT);
  readonly words = new Uint32Array(this.descriptors);
  readonly writes: [number, number][] = [];
  /** RDH. */
  head = 0;
  readonly buffers = new BufferTable(COUNT, (i) => BUFFERS + 2048 * i, arena);
  ring = new ReceiveRing({
    descriptors: this.descriptors,
    bufferBytes: 2048,
    buffers: this.buffers,
    kernels: arena ? ringKernels(arena, this.address, this.buffers.addressesAt) : undefined,
    writer: { write32: (offset, value) => void this.writes.push([offset, value]) },
    tail: RDT,
  });

  get tail(): number {
    return this.writes.at(-1)?.[1] ?? 0;
  }

  /** How many descriptors the card may fill. */
  get owned(): number {
    return (this.tail - this.head + COUNT) % COUNT;
  }

  /** Writes back the next descriptor, which must be in the read format. */
  fill(length: number, status: number, { vlan = 0, info = 0, hash = 0 } = {}): number {
    assert.ok(this.owned > 0, 'the card has no descriptor');
    const i = this.head;
    const at = 4 * i;
    const address = BUFFERS + 2048 * i;
    assert.deepEqual([...this.words.subarray(at, at + 4)], [address % 2 ** 32, Math.floor(address / 2 ** 32), 0, 0]);
    this.words.set([info, hash, (status | RXD_STAT_DD) >>> 0, length | (vlan << 16)], at);
    this.head = (i + 1) % COUNT;
    return i;
  }
}

for (const kind of ['TypeScript', 'kernels'])
  describe(`ReceiveRing (${kind})`, () => {
    before(() => {
      arena = kind === 'kernels' ? Arena.open() : null;
    });

    it('gives the card all buffers but one, with one register write', () => {
      const card = new Card();
      assert.deepEqual(card.writes, []);
      card.ring.publish();
      assert.deepEqual(card.writes, [[RDT, COUNT - 1]]);
      card.ring.publish();
      assert.equal(card.writes.length, 1, 'nothing new, no write');
    });

    it('puts a frame together from several descriptors, and waits for the last', () => {
      const card = new Card();
      const { ring } = card;
      ring.publish();
      card.fill(60, RXD_STAT_EOP, { vlan: 0x2005, info: 0x311, hash: 0xdeadbeef });
      card.fill(2048, 0);
      assert.equal(ring.poll(32), 1);
      assert.equal(ring.descriptors(0), 1);
      const first = ring.index(0);
      assert.deepEqual(
        [ring.buffers.lengths[first], ring.vlanTag(first), ring.info(first), ring.hash(first)],
        [60, 0x2005, 0x311, 0xdeadbeef],
      );
      card.fill(952, RXD_STAT_EOP);
      assert.equal(ring.poll(32), 2);
      assert.equal(ring.descriptors(1), 2);
      assert.deepEqual([ring.buffers.lengths[ring.index(1)], ring.buffers.lengths[ring.index(2)]], [2048, 952]);
      assert.equal(ring.status(ring.index(2)) & RXD_STAT_EOP, RXD_STAT_EOP);
    });

    it('gives no more frames than asked for, and the rest the next time', () => {
      const card = new Card();
      card.ring.publish();
      for (let n = 0; n < 5; n++) card.fill(64 + n, RXD_STAT_EOP);
      assert.equal(card.ring.poll(3), 3);
      card.ring.release(3);
      assert.equal(card.ring.poll(3), 2);
      assert.equal(card.ring.buffers.lengths[card.ring.index(0)], 67);
    });

    it('announces released buffers once', () => {
      const card = new Card();
      card.ring.publish();
      for (let n = 0; n < 40; n++) card.fill(60, RXD_STAT_EOP);
      card.ring.poll(40);
      card.ring.release(25);
      card.ring.release(10);
      card.ring.publish();
      assert.deepEqual(card.writes.slice(1), [[RDT, 34]]);
    });

    const wrong: [string, number, number][] = [
      ['longer than its buffer', 2049, RXD_STAT_EOP],
      ['as long as the field allows', 0xffff, RXD_STAT_EOP],
      ['with an error', 64, RXD_STAT_EOP | RXD_ERR_RXE],
    ];
    for (const [what, length, status] of wrong) {
      it(`drops a frame ${what}, and goes on`, () => {
        const card = new Card();
        const { ring } = card;
        ring.publish();
        card.fill(length, status);
        card.fill(61, RXD_STAT_EOP);
        assert.equal(ring.poll(32), 2);
        assert.deepEqual([ring.descriptors(0), ring.descriptors(1)], [0, 1]);
        ring.release(1);
        assert.equal(ring.errors, 1);
        assert.equal(ring.buffers.lengths[ring.index(0)], 61);
        ring.release(1);
        assert.equal(ring.errors, 1);
      });
    }

    it('drops a frame of more descriptors than the longest takes', () => {
      const card = new Card();
      const { ring } = card;
      ring.publish();
      for (let d = 0; d < MAX_FRAME_DESCRIPTORS; d++) card.fill(2048, 0);
      card.fill(1, RXD_STAT_EOP);
      for (let d = 1; d < MAX_FRAME_DESCRIPTORS; d++) card.fill(2048, 0);
      card.fill(2048, RXD_STAT_EOP);
      assert.equal(ring.poll(32), 2);
      assert.deepEqual([ring.descriptors(0), ring.descriptors(1)], [0, MAX_FRAME_DESCRIPTORS]);
      ring.release(2);
      assert.equal(ring.errors, 1);
    });

    it('drops a ring full of descriptors without an end, and the card gets all of them back', () => {
      const card = new Card();
      const { ring } = card;
      ring.publish();
      while (card.owned > 0) card.fill(2048, 0);
      // The one that stays ours was written back as well: only a card gone mad does so.
      card.words[4 * card.head + 2] = RXD_STAT_DD;
      assert.equal(ring.poll(32), 1);
      assert.equal(ring.descriptors(0), 0);
      ring.release(1);
      ring.publish();
      assert.equal(ring.errors, 1);
      assert.equal(ring.poll(32), 0);
      for (let i = 0; i < COUNT; i++) assert.equal(card.words[4 * i + 2], 0, `descriptor ${i} is the card's again`);
    });

    it('keeps frames, order and buffers for any traffic (property)', () => {
      const step = fc.record({
        frames: fc.array(fc.integer({ min: 1, max: MAX_FRAME_DESCRIPTORS }), { maxLength: 10 }),
        limit: fc.integer({ min: 1, max: 32 }),
        release: fc.integer({ min: 0, max: 32 }),
      });
      fc.assert(
        fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
          const card = new Card();
          const { ring } = card;
          ring.publish();
          const sent: number[][] = [];
          for (const { frames, limit, release } of steps) {
            for (const descriptors of frames) {
              if (card.owned < descriptors) continue;
              const buffers: number[] = [];
              for (let d = 1; d <= descriptors; d++)
                buffers.push(card.fill(2048, d === descriptors ? RXD_STAT_EOP : 0));
              sent.push(buffers);
            }
            const waiting = ring.poll(limit);
            assert.ok(waiting <= Math.max(limit, waiting) && waiting <= sent.length);
            let at = 0;
            for (let f = 0; f < waiting; f++) {
              const buffers = Array.from({ length: ring.descriptors(f) }, () => ring.index(at++));
              assert.deepEqual(buffers, sent[f]);
            }
            const done = Math.min(release, waiting);
            ring.release(done);
            sent.splice(0, done);
            ring.publish();
          }
          assert.equal(ring.errors, 0);
        }),
      );
    });
  });
