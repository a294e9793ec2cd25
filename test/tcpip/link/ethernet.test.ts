import assert from 'node:assert/strict';
import fc from 'fast-check';
import { EthernetLink } from '../../../tcpip/link/ethernet.ts';
import { EVERYBODY, frame, OUR_MAC, THEIR_MAC } from '../../helpers/tcpip-packets.ts';
import { MemoryDevice } from '../../helpers/tcpip-wire.ts';

describe('Ethernet frames', () => {
  const newLink = (vlan = 0): EthernetLink => new EthernetLink(new MemoryDevice(), vlan);
  const accept = (link: EthernetLink, bytes: Uint8Array): number => {
    link.device.rx.set([7, 7, 7, ...bytes, 7]);
    return link.accept(3, bytes.length);
  };

  it('for us, for everybody and for groups come in', () => {
    const link = newLink();
    assert.equal(accept(link, frame([1, 2])), 17);
    assert.equal(link.isGroup, false);
    assert.equal(link.type, 0x0800);
    assert.deepEqual([link.senderHigh, link.senderLow], [0x0200, 2]);
    assert.equal(accept(link, frame([1, 2], { to: EVERYBODY, type: 0x86dd })), 17);
    assert.equal(link.isGroup, true);
    assert.equal(link.type, 0x86dd);
    assert.equal(accept(link, frame([1, 2], { to: [0x33, 0x33, 0, 0, 0, 1] })), 17);
    assert.equal(link.isGroup, true);
  });

  it('for others, from ourselves, and too short ones do not, and are counted', () => {
    const link = newLink();
    assert.equal(accept(link, frame([1], { to: [2, 0, 0, 0, 0, 7] })), -1);
    assert.equal(accept(link, frame([1], { to: [2, 1, 0, 0, 0, 1] })), -1);
    assert.equal(accept(link, frame([1], { from: OUR_MAC })), -1);
    for (let length = 0; length < 14; length++) assert.equal(accept(link, frame([]).slice(0, length)), -1);
    const { inOtherHost, inOwnAddress, inTooShort, inFrames } = link.counters;
    assert.deepEqual([inOtherHost, inOwnAddress, inTooShort, inFrames], [2, 1, 14, 17]);
  });

  it('of other VLANs do not come in (IEEE 802.1Q)', () => {
    const link = newLink(7);
    assert.equal(accept(link, frame([1], { vid: 7 })), 21);
    assert.equal(link.type, 0x0800);
    // Priority and drop eligibility stand before the VID.
    assert.equal(accept(link, frame([1], { vid: 0xf007 })), 21);
    assert.equal(accept(link, frame([1], { vid: 8 })), -1);
    assert.equal(accept(link, frame([1])), -1);
    assert.equal(accept(link, frame([1], { vid: 0 })), -1);
    assert.equal(accept(link, frame([], { vid: 7 }).slice(0, 17)), -1);
    assert.deepEqual([link.counters.inOtherVlan, link.counters.inTooShort], [3, 1]);
  });

  it('with a priority and no VLAN come in where there is none', () => {
    const link = newLink();
    assert.equal(accept(link, frame([1], { vid: 0xe000 })), 21);
    assert.equal(accept(link, frame([1], { vid: 1 })), -1);
  });

  for (const vlan of [0, 7]) {
    it(`go out ${vlan === 0 ? 'without a tag' : 'with the tag'}, from tx and from elsewhere`, () => {
      const device = new MemoryDevice();
      const link = new EthernetLink(device, vlan);
      const at = link.begin(0x0200, 2, 0x86dd, 3);
      device.tx.set([5, 6, 7], at);
      link.send(3);
      const expected = frame([5, 6, 7], {
        to: THEIR_MAC,
        from: OUR_MAC,
        type: 0x86dd,
        ...(vlan === 0 ? {} : { vid: vlan }),
      });
      assert.deepEqual(device.sent[0]!.bytes, expected);
      const elsewhere = new Uint8Array(link.headerBytes);
      link.writeHeader(elsewhere, 0, 0x0200, 2, 0x86dd);
      assert.deepEqual(elsewhere, expected.slice(0, link.headerBytes));
    });
  }

  it('have VIDs from 1 to 4094', () => {
    for (const wrong of [-1, 4095, 1.5, Number.NaN]) assert.throws(() => newLink(wrong), /VID from 1 to 4094/);
  });

  it('may be anything', () => {
    const link = newLink(7);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        const at = accept(link, bytes);
        assert.ok(at === -1 || at <= 3 + bytes.length);
      }),
    );
  });
});
