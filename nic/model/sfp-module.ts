/** What an SFP+ module says of itself over I2C: an optical one for short range (SFF-8472 §5, SFF-8431). */

/** Address of the module's first page on the bus, with room for the direction bit. */
export const SFP_ADDRESS = 0xa0;
const BYTES = 256;
const IDENTIFIER = 0;
const CONNECTOR = 2;
const COMPLIANCE_10G = 3;
const ENCODING = 11;
const NOMINAL_RATE = 12;
const VENDOR_NAME = 20;
const VENDOR_OUI = 37;
const PART_NUMBER = 40;
const REVISION = 56;
const BASE_CHECKSUM = 63;
const SERIAL_NUMBER = 68;
const EXTENDED_CHECKSUM = 95;
/** SFP or SFP+; LC; 10GBASE-SR; 64B/66B; 10.3 Gb/s in units of 100 Mb/s. */
const SFP = 0x03;
const LC = 0x07;
const BASE_SR = 0x10;
const ENCODING_64B66B = 0x06;
const RATE = 103;
const INTEL_OUI = [0x00, 0x1b, 0x21];

/** The first page. */
export function sfpModule(): Uint8Array {
  const page = new Uint8Array(BYTES);
  const text = (at: number, length: number, value: string): void =>
    page.set(Buffer.from(value.padEnd(length).slice(0, length), 'latin1'), at);
  page[IDENTIFIER] = SFP;
  page[1] = 0x04;
  page[CONNECTOR] = LC;
  page[COMPLIANCE_10G] = BASE_SR;
  page[ENCODING] = ENCODING_64B66B;
  page[NOMINAL_RATE] = RATE;
  text(VENDOR_NAME, 16, 'Intel Corp');
  page.set(INTEL_OUI, VENDOR_OUI);
  text(PART_NUMBER, 16, 'RINGSWITCH-SR');
  text(REVISION, 4, 'A');
  text(SERIAL_NUMBER, 16, '1');
  page[BASE_CHECKSUM] = sum(page.subarray(0, BASE_CHECKSUM));
  page[EXTENDED_CHECKSUM] = sum(page.subarray(BASE_CHECKSUM + 1, EXTENDED_CHECKSUM));
  return page;
}

function sum(bytes: Uint8Array): number {
  return bytes.reduce((total, byte) => total + byte, 0) & 0xff;
}
