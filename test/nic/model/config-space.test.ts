import assert from 'node:assert/strict';
import { BAR0_BYTES, BAR4_BYTES, CONFIG_BYTES, ConfigSpace } from '../../../nic/model/config-space.ts';

const COMMAND = 0x04;
const STATUS = 0x06;
const BAR = (n: number): number => 0x10 + 4 * n;
const CAPABILITIES = 0x34;
const [CAP_PM, CAP_MSI, CAP_MSIX, CAP_PCIE] = [0x01, 0x05, 0x11, 0x10];
const FLR_CAPABLE = 1 << 28;
const FLR = 1 << 15;
const MSIX_ENABLE = 1 << 15;

describe('configuration space of the software 82599', () => {
  let config: ConfigSpace;

  beforeEach(() => {
    config = new ConfigSpace();
  });

  /** Where each capability stands, by its id. */
  function capabilities(): Map<number, number> {
    const found = new Map<number, number>();
    assert.notEqual(config.read(STATUS, 2) & 0x10, 0, 'no list of capabilities');
    for (let at = config.read(CAPABILITIES, 1); at !== 0; at = config.read(at + 1, 1)) {
      assert.ok(!found.has(config.read(at, 1)), 'the list of capabilities goes round');
      found.set(config.read(at, 1), at);
    }
    return found;
  }

  it('is that of 8086:10fb, an Ethernet controller', () => {
    assert.equal(config.read(0, 4), 0x10fb8086);
    assert.equal(config.read(0x08, 4) >>> 8, 0x020000);
    assert.equal(config.read(0x0e, 1), 0, 'header type');
  });

  it('has another device id where that is asked for', () => {
    assert.equal(new ConfigSpace({ deviceId: 0x10f8 }).read(2, 2), 0x10f8);
  });

  it('keeps what identifies it, whatever is written', () => {
    for (let offset = 0; offset < 0x40; offset += 4) {
      if (offset === COMMAND || (offset >= BAR(0) && offset <= BAR(5)) || offset === 0x0c || offset === 0x3c) continue;
      const before = config.read(offset, 4);
      config.write(offset, 4, 0xffffffff);
      config.write(offset, 4, 0);
      assert.equal(config.read(offset, 4), before, `offset ${offset}`);
    }
  });

  for (const [bar, bytes] of [
    [0, BAR0_BYTES],
    [4, BAR4_BYTES],
  ] as const) {
    it(`has a BAR ${bar} of 64 bits that says it is of ${bytes} bytes`, () => {
      config.write(BAR(bar), 4, 0xffffffff);
      config.write(BAR(bar + 1), 4, 0xffffffff);
      assert.equal(config.read(BAR(bar), 4), (-bytes | 0x4) >>> 0);
      assert.equal(config.read(BAR(bar + 1), 4), 0xffffffff);
      config.write(BAR(bar), 4, 0xfe000000);
      config.write(BAR(bar + 1), 4, 0x12);
      assert.equal(config.read(BAR(bar), 4), 0xfe000004);
      assert.equal(config.read(BAR(bar + 1), 4), 0x12);
    });
  }

  it('has no other BARs', () => {
    for (const bar of [2, 3]) {
      config.write(BAR(bar), 4, 0xffffffff);
      assert.equal(config.read(BAR(bar), 4), 0);
    }
  });

  it('has power management, MSI, MSI-X and PCI Express', () => {
    assert.deepEqual([...capabilities().keys()].sort(), [CAP_PM, CAP_MSI, CAP_PCIE, CAP_MSIX].sort());
  });

  it('has 64 MSI-X vectors: their table at the start of BAR 4, pending bits from 0x2000 on', () => {
    const at = capabilities().get(CAP_MSIX)!;
    assert.equal(config.read(at + 2, 2), 63);
    assert.deepEqual([config.read(at + 4, 4), config.read(at + 8, 4)], [4, 0x2004]);
    config.write(at + 2, 2, 0xffff);
    assert.equal(config.read(at + 2, 2), MSIX_ENABLE | 0x4000 | 63);
  });

  it('has MSI with an address of 64 bits', () => {
    const at = capabilities().get(CAP_MSI)!;
    assert.equal(config.read(at + 2, 2), 0x80);
    config.write(at + 4, 4, 0xfee00003);
    config.write(at + 8, 4, 0x1);
    config.write(at + 12, 2, 0x4021);
    assert.deepEqual(
      [4, 8].map((offset) => config.read(at + offset, 4)),
      [0xfee00000, 1],
    );
    assert.equal(config.read(at + 12, 2), 0x4021);
  });

  it('goes into D3hot and back, and never has PME_Status', () => {
    const at = capabilities().get(CAP_PM)! + 4;
    config.write(at, 2, 0x8003);
    assert.equal(config.read(at, 2), 0x0003);
    config.write(at, 2, 0);
    assert.equal(config.read(at, 2), 0);
  });

  it('masters the bus when the Command register says so', () => {
    assert.equal(config.busMaster, false);
    config.write(COMMAND, 2, 0x4);
    assert.equal(config.busMaster, true);
    config.write(COMMAND, 1, 0x2);
    assert.equal(config.busMaster, false);
    assert.equal(config.read(COMMAND, 2), 0x2);
  });

  for (const [width, write] of [
    [2, (at: number) => config.write(at, 2, FLR)],
    [4, (at: number) => config.write(at, 4, FLR)],
    [1, (at: number) => config.write(at + 1, 1, FLR >>> 8)],
  ] as const) {
    it(`tells of a function-level reset that is asked for in ${width} bytes, and does not keep the bit`, () => {
      let resets = 0;
      config.onFunctionReset = () => resets++;
      const at = capabilities().get(CAP_PCIE)!;
      assert.notEqual(config.read(at + 4, 4) & FLR_CAPABLE, 0);
      write(at + 8);
      assert.equal(resets, 1);
      assert.equal(config.read(at + 8, 2) & FLR, 0);
      config.write(at + 8, 2, 0x2810);
      assert.equal(resets, 1);
      assert.equal(config.read(at + 8, 2), 0x2810);
    });
  }

  it('has no transactions pending, eight lanes of 5 GT/s, and a completion timeout to set', () => {
    const at = capabilities().get(CAP_PCIE)!;
    assert.equal(config.read(at + 0x0a, 2), 0);
    assert.equal(config.read(at + 0x12, 2), 0x82);
    config.write(at + 0x28, 2, 0xffff);
    assert.equal(config.read(at + 0x28, 2), 0x1f);
  });

  it('is as after power-on when it is reset', () => {
    config.write(COMMAND, 2, 0x6);
    config.write(BAR(0), 4, 0xfe000000);
    config.reset();
    assert.equal(config.read(COMMAND, 2), 0);
    assert.equal(config.read(BAR(0), 4), 0x4);
    assert.equal(config.busMaster, false);
  });

  it('has ones beyond its end, and nothing to write there', () => {
    assert.equal(config.read(CONFIG_BYTES, 1), 0xff);
    assert.equal(config.read(CONFIG_BYTES - 1, 2), 0xffff);
    assert.equal(config.read(CONFIG_BYTES - 2, 4), 0xffffffff);
    assert.doesNotThrow(() => config.write(CONFIG_BYTES - 2, 4, 0));
  });
});
