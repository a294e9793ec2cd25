import assert from 'node:assert/strict';
import { Mdio } from '../../../nic/model/mdio.ts';
import { RegisterFile } from '../../../nic/model/register-file.ts';
import {
  MSCA,
  MSCA_DEV_TYPE_SHIFT,
  MSCA_MDI_COMMAND,
  MSCA_OP_ADDR_CYCLE,
  MSCA_OP_READ,
  MSCA_OP_SHIFT,
  MSCA_OP_WRITE,
  MSCA_PHY_ADDR_SHIFT,
  MSRWD,
  MSRWD_READ_DATA_SHIFT,
} from '../../../nic/registers.ts';

const PMA_PMD = 1;
const DEVICE_ID = 2;

describe('management bus of the software 82599', () => {
  let registers: RegisterFile;

  beforeEach(() => {
    registers = new RegisterFile();
    new Mdio(registers);
  });

  function command(operation: number, phy: number): void {
    const place = (phy << MSCA_PHY_ADDR_SHIFT) | (PMA_PMD << MSCA_DEV_TYPE_SHIFT) | DEVICE_ID;
    registers.write(MSCA, (place | (operation << MSCA_OP_SHIFT) | MSCA_MDI_COMMAND) >>> 0);
    assert.equal(registers.read(MSCA) & MSCA_MDI_COMMAND, 0, 'the command is not over');
    assert.equal(registers.read(MSCA) & ~(3 << MSCA_OP_SHIFT), place);
  }

  it('ends every command at once, and finds no PHY at any address', () => {
    for (let phy = 0; phy < 32; phy++) {
      registers.write(MSRWD, 0);
      command(MSCA_OP_ADDR_CYCLE, phy);
      command(MSCA_OP_READ, phy);
      assert.equal(registers.read(MSRWD) >>> MSRWD_READ_DATA_SHIFT, 0xffff);
    }
  });

  it('keeps the data that was to be written', () => {
    registers.write(MSRWD, 0x1234);
    command(MSCA_OP_WRITE, 0);
    assert.equal(registers.read(MSRWD) & 0xffff, 0x1234);
  });

  it('does nothing without the command bit', () => {
    registers.write(MSRWD, 0x1234);
    registers.write(MSCA, MSCA_OP_READ << MSCA_OP_SHIFT);
    assert.equal(registers.read(MSRWD), 0x1234);
  });
});
