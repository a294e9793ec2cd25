import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  FCTRL,
  FCTRL_BAM,
  FCTRL_MPE,
  FCTRL_UPE,
  MCSTCTRL,
  MCSTCTRL_MFE,
  MTA,
  MTA_WORDS,
  RAH,
  RAH_AV,
  RAL,
  RAR_ENTRIES,
  VFTA,
  VLNCTRL,
  VLNCTRL_CFI,
  VLNCTRL_CFIEN,
  VLNCTRL_VFE,
} from '../../../nic/registers.ts';
import { Engines, HostReceiveRing } from '../../helpers/engines-under-test.ts';

const OWN = Uint8Array.of(0x02, 0x11, 0x22, 0x33, 0x44, 0x55);
const OTHER = Uint8Array.of(0x02, 0x11, 0x22, 0x33, 0x44, 0x56);
const GROUP = Uint8Array.of(0x01, 0x00, 0x5e, 0x01, 0x02, 0x03);
const BROADCAST = new Uint8Array(6).fill(0xff);
const TAG_TYPE = 0x8100;
const CFI = 0x1000;

describe('receive filters of the software 82599', () => {
  let engines: Engines;
  let ring: HostReceiveRing;
  beforeEach(() => {
    engines = new Engines();
    engines.receive.filters.load(OWN);
    ring = new HostReceiveRing(engines);
    ring.provide(7);
  });

  /** Whether a frame to `destination` comes in. */
  function takes(destination: Uint8Array, tag?: number, tagType = TAG_TYPE): boolean {
    const frame = new Uint8Array(64);
    frame.set(destination);
    const at = tag === undefined ? 12 : 16;
    if (tag !== undefined) frame.set([tagType >> 8, tagType & 0xff, tag >> 8, tag & 0xff], 12);
    frame.set([0x88, 0xb5], at);
    engines.arrive(frame);
    const got = ring.take().length;
    ring.provide(got);
    return got === 1;
  }
  const low = (address: Uint8Array): number => Buffer.from(address).readUInt32LE(0);
  const high = (address: Uint8Array): number => Buffer.from(address).readUInt16LE(4);

  it('take the address of the EEPROM, and no other', () => {
    assert.equal(engines.read(RAL(0)), low(OWN));
    assert.equal(engines.read(RAH(0)), (high(OWN) | RAH_AV) >>> 0);
    assert.deepEqual(
      [OWN, OTHER, GROUP, BROADCAST].map((address) => takes(address)),
      [true, false, false, false],
    );
  });

  it('take each address of RAR that is valid', () => {
    for (const n of [1, 15, 16, RAR_ENTRIES - 1]) {
      for (const address of [OTHER, GROUP]) {
        engines.write(RAL(n), low(address));
        engines.write(RAH(n), high(address));
        assert.equal(takes(address), false, 'without AV');
        engines.write(RAH(n), high(address) | RAH_AV);
        assert.equal(takes(address), true);
        engines.write(RAH(n), 0);
        engines.write(RAL(n), 0);
      }
    }
  });

  it('have the first sixteen addresses where the 82598 has them too', () => {
    engines.write(0x5400 + 8 * 3, low(OTHER));
    engines.write(0x5404 + 8 * 3, 0xffff0000 | high(OTHER));
    assert.equal(engines.read(RAL(3)), low(OTHER));
    assert.equal(engines.read(RAH(3)), (high(OTHER) | RAH_AV) >>> 0, 'reserved bits stay 0');
    assert.equal(takes(OTHER), true);
  });

  it('take broadcast by BAM, all multicast by MPE, all unicast by UPE', () => {
    const taken = (control: number): boolean[] => {
      engines.write(FCTRL, control);
      return [OTHER, GROUP, BROADCAST].map((address) => takes(address));
    };
    assert.deepEqual(taken(FCTRL_BAM), [false, false, true]);
    assert.deepEqual(taken(FCTRL_MPE), [false, true, false]);
    assert.deepEqual(taken(FCTRL_UPE), [true, false, false]);
  });

  it('take multicast by the bit of MTA that MCSTCTRL.MO chooses', () => {
    // The last two bytes of the address are a number of 16 bits, of which 12 count (§8.2.3.7.7).
    const firstBit = [4, 3, 2, 0];
    const address = fc.uint8Array({ minLength: 4, maxLength: 4 });
    fc.assert(
      fc.property(address, fc.nat(3), fc.boolean(), (tail, mo, enabled) => {
        const group = Uint8Array.of(0x01, 0x80, ...tail);
        const index = ((high(group) >>> firstBit[mo]!) & 0xfff) >>> 0;
        for (let n = 0; n < MTA_WORDS; n++) engines.write(MTA(n), 0);
        engines.write(MCSTCTRL, mo | (enabled ? MCSTCTRL_MFE : 0));
        assert.equal(takes(group), false);
        engines.write(MTA(index >>> 5), 2 ** (index & 31));
        assert.equal(takes(group), enabled);
        for (let n = 0; n < MTA_WORDS; n++) engines.write(MTA(n), 0xffffffff);
        engines.write(MTA(index >>> 5), ~(2 ** (index & 31)));
        assert.equal(takes(group), false);
        assert.equal(takes(OTHER), false, 'not a unicast address');
      }),
      { numRuns: 50 },
    );
  });

  describe('for VLANs', () => {
    it('let all pass until VFE is set', () => {
      assert.equal(takes(OWN, 7), true);
      engines.set(VLNCTRL, VLNCTRL_VFE);
      assert.equal(takes(OWN, 7), false);
      assert.equal(takes(OWN), true, 'a frame without a tag');
    });

    it('take those that VFTA has', () => {
      engines.set(VLNCTRL, VLNCTRL_VFE);
      for (const id of [0, 1, 31, 32, 4095]) {
        engines.write(VFTA(id >>> 5), 2 ** (id & 31));
        assert.equal(takes(OWN, id | 0xf000), true);
        assert.equal(takes(OWN, id ^ 1), false);
        assert.equal(takes(OTHER, id), false, "another's address");
        engines.write(VFTA(id >>> 5), 0);
      }
    });

    it('compare CFI where they are told to', () => {
      engines.set(VLNCTRL, VLNCTRL_VFE | VLNCTRL_CFIEN);
      engines.write(VFTA(0), 0xffffffff);
      assert.deepEqual([takes(OWN, 3), takes(OWN, 3 | CFI)], [true, false]);
      engines.set(VLNCTRL, VLNCTRL_CFI);
      assert.deepEqual([takes(OWN, 3), takes(OWN, 3 | CFI)], [false, true]);
    });

    it('know a tag by VLNCTRL.VET', () => {
      engines.write(VLNCTRL, VLNCTRL_VFE | 0x88a8);
      assert.equal(takes(OWN, 7), true, 'no tag any more');
      assert.equal(takes(OWN, 7, 0x88a8), false);
    });
  });
});
