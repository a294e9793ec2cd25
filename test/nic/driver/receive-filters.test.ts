/** Filters by what the registers hold afterwards. That the card filters so, ixgbe-model.test.ts sees. */
import assert from 'node:assert/strict';
import { CardRegisters } from '../../../nic/driver/card-registers.ts';
import { ReceiveFilters } from '../../../nic/driver/receive-filters.ts';
import {
  FCTRL,
  FCTRL_BAM,
  FCTRL_MPE,
  FCTRL_UPE,
  MCSTCTRL,
  MCSTCTRL_MFE,
  MTA,
  RAH,
  RAH_AV,
  RAL,
  RAR_ENTRIES,
  RXDCTL,
  RXDCTL_ENABLE,
  RXDCTL_VME,
  VFTA,
  VLNCTRL,
  VLNCTRL_VFE,
} from '../../../nic/registers.ts';
import { DriverTime, FakePciDevice } from '../../helpers/fake-pci-device.ts';

const address = (last: number): Uint8Array => Uint8Array.of(2, 0x11, 0x22, 0x33, 0x44, last);

describe('ReceiveFilters', () => {
  let device: FakePciDevice;
  let filters: ReceiveFilters;
  const modes = (): number => device.value(FCTRL);
  beforeEach(() => {
    device = new FakePciDevice();
    device.set(RAL(0), 0x33221100);
    device.set(RAH(0), (RAH_AV | 0x5544) >>> 0);
    device.set(RAH(5), (RAH_AV | 0x1234) >>> 0);
    device.set(VFTA(9), 1);
    device.set(FCTRL, FCTRL_UPE);
    device.set(VLNCTRL, VLNCTRL_VFE | 0x8100);
    filters = new ReceiveFilters(new CardRegisters(device, new DriverTime()));
    filters.reset();
  });

  it('begin with the own address and broadcast alone', () => {
    assert.deepEqual([...filters.macAddress], [0x00, 0x11, 0x22, 0x33, 0x44, 0x55]);
    assert.equal(device.value(RAH(0)), (RAH_AV | 0x5544) >>> 0, 'the own address stays');
    assert.equal(device.value(RAH(5)), 0);
    assert.equal(device.value(VFTA(9)), 0);
    assert.equal(modes(), FCTRL_BAM);
    assert.equal(device.value(VLNCTRL), 0x8100);
  });

  it('keep promiscuous and all-multicast apart', () => {
    filters.setAllMulticast(true);
    assert.equal(modes(), FCTRL_BAM | FCTRL_MPE);
    filters.setPromiscuous(true);
    assert.equal(modes(), FCTRL_BAM | FCTRL_MPE | FCTRL_UPE);
    filters.setPromiscuous(false);
    assert.equal(modes(), FCTRL_BAM | FCTRL_MPE, 'all-multicast was asked for, too');
    filters.setAllMulticast(false);
    assert.equal(modes(), FCTRL_BAM);
  });

  it('add an address once, and remove it', () => {
    filters.addAddress(address(0x77));
    filters.addAddress(address(0x77));
    assert.equal(device.value(RAL(1)), 0x33221102);
    assert.equal(device.value(RAH(1)), (RAH_AV | 0x7744) >>> 0);
    assert.equal(device.value(RAH(2)), 0);
    assert.equal(filters.removeAddress(address(0x77)), true);
    assert.equal(device.value(RAH(1)), 0);
    assert.equal(filters.removeAddress(address(0x77)), false);
  });

  it('take everything while there are more addresses than entries', () => {
    for (let n = 1; n < RAR_ENTRIES; n++) filters.addAddress(address(n));
    assert.equal(modes(), FCTRL_BAM);
    filters.addAddress(address(200));
    filters.addAddress(address(201));
    filters.addAddress(address(201));
    assert.equal(modes(), FCTRL_BAM | FCTRL_UPE);
    filters.setPromiscuous(true);
    filters.setPromiscuous(false);
    assert.equal(modes(), FCTRL_BAM | FCTRL_UPE, 'still too many');
    assert.equal(filters.removeAddress(address(7)), true);
    assert.equal(device.value(RAH(7)), (RAH_AV | (200 << 8) | 0x44) >>> 0, 'the first that waited gets the entry');
    assert.equal(modes(), FCTRL_BAM | FCTRL_UPE);
    assert.equal(filters.removeAddress(address(201)), true);
    assert.equal(modes(), FCTRL_BAM);
    assert.equal(filters.removeAddress(address(201)), false);
  });

  it('hash groups by the upper twelve bits of the last two bytes (§8.2.3.7.7)', () => {
    // 01:00:5e:00:00:fb: bytes 0x00 and 0xfb, of which 0xfb0 is the index: bit 16 of word 125.
    filters.setMulticast([Uint8Array.of(1, 0, 0x5e, 0, 0, 0xfb), Uint8Array.of(0x33, 0x33, 0, 0, 0xff, 0xff)]);
    assert.equal(device.value(MTA(125)), 2 ** 16);
    assert.equal(device.value(MTA(127)), 2 ** 31);
    assert.equal(device.value(MCSTCTRL), MCSTCTRL_MFE);
    filters.setMulticast([]);
    assert.equal(device.value(MTA(125)), 0);
    assert.equal(device.value(MCSTCTRL), 0);
  });

  it('filter VLANs by a bit each', () => {
    filters.setVlanFilter(true);
    filters.addVlan(0);
    filters.addVlan(4095);
    filters.addVlan(4094);
    filters.removeVlan(4094);
    assert.equal(device.value(VLNCTRL), VLNCTRL_VFE | 0x8100);
    assert.equal(device.value(VFTA(0)), 1);
    assert.equal(device.value(VFTA(127)), 2 ** 31);
    filters.setVlanFilter(false);
    assert.equal(device.value(VLNCTRL), 0x8100);
  });

  it('strip tags by queue, and leave the queue as it is else', () => {
    device.set(RXDCTL(3), RXDCTL_ENABLE);
    filters.setVlanStrip(3, true);
    assert.equal(device.value(RXDCTL(3)), RXDCTL_ENABLE | RXDCTL_VME);
    filters.setVlanStrip(3, false);
    assert.equal(device.value(RXDCTL(3)), RXDCTL_ENABLE);
  });

  it('refuse what is no address, and no VLAN', () => {
    const { length } = device.accesses;
    assert.throws(() => filters.addAddress(new Uint8Array(5)), { message: 'an address has 6 bytes, not 5' });
    assert.throws(() => filters.addAddress(Uint8Array.of(1, 0, 0x5e, 0, 0, 1)), {
      message: '01:00:5e:00:00:01 is a group address: setMulticast takes those',
    });
    assert.throws(() => filters.setMulticast([address(1)]), { message: '02:11:22:33:44:01 is no group address' });
    assert.throws(() => filters.setMulticast([new Uint8Array(0)]), { message: 'an address has 6 bytes, not 0' });
    for (const id of [-1, 4096, 1.5, Number.NaN]) {
      assert.throws(() => filters.addVlan(id), { message: `${id} is no VLAN: 0 to 4095` });
      assert.throws(() => filters.removeVlan(id), { name: 'RangeError' });
    }
    assert.equal(device.accesses.length, length, 'and do not touch the card');
  });

  it('say that the card is gone, also where they only write', () => {
    const calls: [string, (filters: ReceiveFilters) => void][] = [
      ['setPromiscuous', (f) => f.setPromiscuous(true)],
      ['setAllMulticast', (f) => f.setAllMulticast(true)],
      ['addAddress', (f) => f.addAddress(address(1))],
      ['setMulticast', (f) => f.setMulticast([])],
      ['setVlanFilter', (f) => f.setVlanFilter(true)],
      ['addVlan', (f) => f.addVlan(1)],
      ['setVlanStrip', (f) => f.setVlanStrip(0, true)],
      ['macAddress', (f) => f.macAddress],
    ];
    for (const [name, call] of calls) {
      const card = new FakePciDevice();
      card.vanish();
      const gone = new ReceiveFilters(new CardRegisters(card, new DriverTime()));
      assert.throws(() => call(gone), { name: 'CardGoneError' }, name);
    }
  });
});
