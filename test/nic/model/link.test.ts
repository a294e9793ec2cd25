import assert from 'node:assert/strict';
import { LINK_UP_US } from '../../../nic/model/link.ts';
import {
  ANLP1,
  AUTOC,
  AUTOC_LMS_10G_SERIAL,
  AUTOC_LMS_MASK,
  AUTOC_LMS_SHIFT,
  AUTOC_RESTART_AN,
  CTRL,
  CTRL_LRST,
  CTRL_RST,
  EICR,
  EICR_LSC,
  EIMS,
  ESDP,
  ESDP_SDP2,
  ESDP_SDP3,
  LINKS,
  LINKS_SPEED_10G,
  LINKS_SPEED_MASK,
  LINKS_STATUS,
  LINKS_UP,
  MLFC,
  STATUS,
  STATUS_LINK_UP,
} from '../../../nic/registers.ts';
import { type CardUnderTest, newCard, startedCard } from '../../helpers/card-under-test.ts';
import { FakeWire, wirePair } from '../../helpers/fake-card-host.ts';

describe('link of the software 82599', () => {
  const isUp = ({ card }: CardUnderTest): boolean => {
    const up = (card.read(LINKS) & LINKS_UP) !== 0;
    assert.equal((card.read(STATUS) & STATUS_LINK_UP) !== 0, up, 'LINKS and STATUS disagree');
    return up;
  };
  const changed = ({ card }: CardUnderTest): boolean => (card.read(EICR) & EICR_LSC) !== 0;

  it('is dark until software starts the card', () => {
    const all = newCard();
    assert.equal(all.wire.transmitting, false);
    assert.equal(isUp(all), false);
  });

  for (const [name, register, value] of [
    ['a device reset', CTRL, CTRL_RST],
    ['a link reset', CTRL, CTRL_LRST],
    ['a restart of auto-negotiation', AUTOC, (AUTOC_LMS_10G_SERIAL << AUTOC_LMS_SHIFT) | AUTOC_RESTART_AN],
  ] as const) {
    it(`comes up at 10 Gb/s with ${name}`, () => {
      const all = newCard();
      all.card.write(register, value);
      if (register === CTRL) all.clock.advance(LINK_UP_US);
      assert.equal(all.wire.transmitting, true);
      assert.equal(isUp(all), true);
      assert.equal(all.card.read(LINKS) & LINKS_SPEED_MASK, LINKS_SPEED_10G);
    });
  }

  for (const [name, bit] of [
    ['device', CTRL_RST],
    ['link', CTRL_LRST],
  ] as const) {
    it(`goes down in a ${name} reset, and comes up later, which both ends of the cable are told`, () => {
      const [left, right] = wirePair();
      const a = startedCard(left);
      const b = startedCard(right);
      for (const { card } of [a, b]) card.read(EICR);
      b.card.write(EIMS, EICR_LSC);
      b.bus.takeInterrupts();
      a.card.write(EIMS, EICR_LSC);
      a.bus.takeInterrupts();
      a.card.write(CTRL, bit);
      assert.deepEqual([isUp(a), isUp(b)], [false, false]);
      assert.deepEqual(a.bus.takeInterrupts(), [], 'it was told to');
      assert.equal(changed(a), false, 'EICR is as after power-on');
      assert.deepEqual(b.bus.takeInterrupts(), [0]);
      assert.equal(changed(b), true);
      a.card.write(EIMS, EICR_LSC);
      // Drivers restart auto-negotiation soon after: it is up no sooner.
      a.card.write(AUTOC, a.card.read(AUTOC) | AUTOC_RESTART_AN);
      a.clock.advance(LINK_UP_US - 1);
      assert.deepEqual([isUp(a), isUp(b)], [false, false]);
      a.clock.advance(1);
      assert.deepEqual([isUp(a), isUp(b)], [true, true]);
      for (const side of [a, b]) {
        assert.deepEqual(side.bus.takeInterrupts(), [0]);
        assert.equal(changed(side), true);
      }
    });
  }

  it('that comes up after a reset is forgotten when the card is reset otherwise, or switched off', () => {
    for (const end of ['reset', 'close'] as const) {
      const all = startedCard();
      all.card.write(CTRL, CTRL_RST);
      all.card[end]();
      all.clock.advance(LINK_UP_US);
      assert.equal(isUp(all), false, end);
      assert.equal(all.clock.pending, 0);
    }
  });

  it('says 10 Gb/s serial in AUTOC, and forgets that it was restarted', () => {
    const { card } = startedCard();
    assert.equal((card.read(AUTOC) & AUTOC_LMS_MASK) >>> AUTOC_LMS_SHIFT, AUTOC_LMS_10G_SERIAL);
    card.write(AUTOC, card.read(AUTOC) | AUTOC_RESTART_AN);
    assert.equal(card.read(AUTOC) & AUTOC_RESTART_AN, 0);
    // Drivers wait for the state machine to leave 0.
    assert.notEqual(card.read(ANLP1) & 0xf0000, 0);
  });

  it('follows the light, and interrupts at each change', () => {
    const all = startedCard();
    const { card, wire, bus } = all;
    card.read(EICR);
    card.write(EIMS, EICR_LSC);
    bus.takeInterrupts();
    for (const on of [false, true, false]) {
      wire.setCarrier(on);
      assert.equal(isUp(all), on);
      assert.deepEqual(bus.takeInterrupts(), [0]);
      assert.equal(changed(all), true);
    }
    assert.equal(card.read(MLFC), 2);
    assert.equal(changed(all), false);
  });

  it('says in LINKS that it was down since the last look', () => {
    const { card, wire } = startedCard();
    card.read(LINKS);
    assert.notEqual(card.read(LINKS) & LINKS_STATUS, 0);
    wire.setCarrier(false);
    wire.setCarrier(true);
    assert.equal(card.read(LINKS) & (LINKS_STATUS | LINKS_UP), LINKS_UP);
    assert.equal(card.read(LINKS) & (LINKS_STATUS | LINKS_UP), LINKS_STATUS | LINKS_UP);
  });

  it('stays down without light', () => {
    const all = startedCard(new FakeWire({ carrier: false }));
    assert.equal(all.wire.transmitting, true);
    assert.equal(isUp(all), false);
  });

  it('has its laser switched by ESDP.SDP3', () => {
    const all = startedCard();
    const { card, wire } = all;
    card.write(ESDP, card.read(ESDP) | ESDP_SDP3);
    assert.equal(wire.transmitting, false);
    assert.equal(isUp(all), false);
    card.write(ESDP, card.read(ESDP) & ~ESDP_SDP3);
    assert.equal(wire.transmitting, true);
    assert.equal(isUp(all), true);
  });

  it('says in ESDP.SDP2 that there is a module', () => {
    const { card } = startedCard();
    card.write(ESDP, 0);
    assert.notEqual(card.read(ESDP) & ESDP_SDP2, 0);
  });

  it('goes dark when the function is reset, and when the card is switched off', () => {
    for (const end of ['reset', 'close'] as const) {
      const all = startedCard();
      all.card[end]();
      assert.equal(all.wire.transmitting, false, end);
      assert.equal(isUp(all), false, end);
    }
  });

  it('joins two cards: each sees the light of the other', () => {
    const [left, right] = wirePair();
    const a = startedCard(left);
    const b = newCard(right);
    assert.deepEqual([isUp(a), isUp(b)], [false, false]);
    b.card.write(CTRL, CTRL_RST);
    b.clock.advance(LINK_UP_US);
    assert.deepEqual([isUp(a), isUp(b)], [true, true]);
    for (let flap = 0; flap < 100; flap++) {
      b.card.write(ESDP, ESDP_SDP3);
      assert.deepEqual([isUp(a), isUp(b)], [false, false]);
      b.card.write(ESDP, 0);
      assert.deepEqual([isUp(a), isUp(b)], [true, true]);
    }
  });
});
