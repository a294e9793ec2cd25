/** A port with queues in several lanes, such as a network card: to the network it is one. */
import assert from 'node:assert/strict';
import { newCounters } from '../../switch/counters.ts';
import { Engine } from '../../switch/engine.ts';
import { Port } from '../../switch/port.ts';
import { wasmArena } from '../helpers/arenas.ts';
import { BROADCAST, ethernet, FakeQueue } from '../helpers/fake-queue.ts';
import { TestLinks } from '../helpers/lane-links.ts';

const LANES = 3;
const CARD = 9;
/** Guest n is in lane n, and station n behind it; these are behind the card. */
const [FAR, OTHER] = [40, 41] as const;

describe('a port of several lanes', () => {
  let links: TestLinks;
  let engines: Engine[];
  let guests: FakeQueue[];
  /** Its queue in each lane that has one. */
  let card: Map<number, FakeQueue>;

  /** The card has queues in `cardLanes`; every lane has a guest. */
  function build(cardLanes: number[]): void {
    links = new TestLinks(wasmArena(), LANES);
    engines = Array.from({ length: LANES }, () => new Engine(wasmArena(), { seed: 5, agingSeconds: 300 }));
    for (const [lane, engine] of engines.entries()) {
      for (const other of engines.keys()) if (other !== lane) engine.addLink(links.link(lane, other), newCounters());
    }
    const add = (lane: number, port: Port): FakeQueue => {
      const queue = new FakeQueue();
      port.queues.push(queue);
      engines[lane]!.addPort(port);
      return queue;
    };
    guests = engines.map((_, lane) => add(lane, new Port(lane + 1, `guest${lane}`)));
    card = new Map();
    for (const [n, lane] of cardLanes.entries()) {
      const port = new Port(CARD, 'card');
      port.elsewhere = new Set(cardLanes.filter((other) => other !== lane));
      port.isFirst = n === 0;
      card.set(lane, add(lane, port));
    }
  }

  afterEach(() => links.dispose());

  function settle(): void {
    for (let round = 0; round < 1000; round++) {
      if (engines.reduce((moved, engine) => moved + engine.breathe(), 0) === 0) return;
    }
    assert.fail('frames go in circles');
  }

  /** How many frames each guest got, and the card on the queue of each lane; forgotten afterwards. */
  function taken(): { guests: number[]; card: Record<number, number> } {
    settle();
    const count = (queue: FakeQueue): number => queue.sent.splice(0, Number.POSITIVE_INFINITY).length;
    return {
      guests: guests.map(count),
      card: Object.fromEntries([...card].map(([lane, queue]) => [lane, count(queue)])),
    };
  }

  const fromGuest = (lane: number, to: number | typeof BROADCAST): void =>
    void guests[lane]!.inbox.push({ bytes: ethernet(to, lane + 1) });
  const fromCard = (lane: number, station: number, to: number | typeof BROADCAST): void =>
    void card.get(lane)!.inbox.push({ bytes: ethernet(to, station) });

  it('gets a flooded frame once, from the lane that floods it', () => {
    build([0, 1, 2]);
    fromGuest(1, BROADCAST);
    assert.deepEqual(taken(), { guests: [1, 0, 1], card: { 0: 0, 1: 1, 2: 0 } });
  });

  it('gets a flooded frame of a lane without a queue of it once, from its first lane', () => {
    build([0, 1]);
    fromGuest(2, BROADCAST);
    assert.deepEqual(taken(), { guests: [1, 1, 0], card: { 0: 1, 1: 0 } });
  });

  it('gets no frame back that came in on any of its queues', () => {
    build([0, 1, 2]);
    fromCard(2, FAR, BROADCAST);
    assert.deepEqual(taken(), { guests: [1, 1, 1], card: { 0: 0, 1: 0, 2: 0 } });
  });

  it('is one place for stations: each lane reaches them by its own queue', () => {
    build([0, 1]);
    fromCard(1, FAR, BROADCAST);
    taken();
    fromGuest(0, FAR);
    assert.deepEqual(taken(), { guests: [0, 0, 0], card: { 0: 1, 1: 0 } });
    fromGuest(1, FAR);
    assert.deepEqual(taken(), { guests: [0, 0, 0], card: { 0: 0, 1: 1 } });
    fromGuest(2, FAR);
    const { guests: reached, card: queues } = taken();
    assert.deepEqual(reached, [0, 0, 0]);
    assert.equal(queues[0]! + queues[1]!, 1, 'from a lane without a queue of it, by one of the others');
  });

  it('brings frames to guests of any lane, whichever queue they come in on', () => {
    build([0, 1]);
    for (const lane of [0, 1, 2]) fromGuest(lane, BROADCAST);
    taken();
    for (const lane of [0, 1]) {
      fromCard(lane, FAR, 3);
      assert.deepEqual(taken(), { guests: [0, 0, 1], card: { 0: 0, 1: 0 } });
    }
    // A station of the card that another one there sends to: the card's side has it already.
    fromCard(0, FAR, BROADCAST);
    taken();
    fromCard(1, OTHER, FAR);
    assert.deepEqual(taken(), { guests: [0, 0, 0], card: { 0: 0, 1: 0 } });
  });
});
