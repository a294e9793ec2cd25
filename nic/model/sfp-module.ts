/** What an SFP+ module says of itself over I2C: an optical one for short range (SFF-8472 §5, SFF-8431). */

/** Addresses of the module's pages on the bus, with room for the direction bit: what it is, and how it does (SFF-8472 §9). */
export const SFP_ADDRESS = 0xa0;
export const SFP_DIAGNOSTICS_ADDRESS = 0xa2;
const BYTES = 256;
const IDENTIFIER = 0;
const CONNECTOR = 2;
const COMPLIANCE_10G = 3;
const ENCODING = 11;
const NOMINAL_RATE = 12;
const LENGTH_OM3 = 19;
const VENDOR_NAME = 20;
const VENDOR_OUI = 37;
const PART_NUMBER = 40;
const REVISION = 56;
const WAVELENGTH = 60;
const BASE_CHECKSUM = 63;
const SERIAL_NUMBER = 68;
const DATE_CODE = 84;
const DIAGNOSTIC_TYPE = 92;
const COMPLIANCE_8472 = 94;
const EXTENDED_CHECKSUM = 95;
/** SFP or SFP+; LC; 10GBASE-SR; 64B/66B; 10.3 Gb/s in units of 100 Mb/s. */
const SFP = 0x03;
const LC = 0x07;
const BASE_SR = 0x10;
const ENCODING_64B66B = 0x06;
const RATE = 103;
/** 300 m in units of 10 m; in nm. */
const REACH_OM3 = 30;
const LASER_SR = 850;
const INTEL_OUI = [0x00, 0x1b, 0x21];
/** Diagnostics are there, calibrated, and power is the average; revision 11.0 of SFF-8472. */
const DIAGNOSTICS_CALIBRATED = 0x68;
const REVISION_11_0 = 0x06;
/** In the page of diagnostics: the calibration that changes nothing, checksum, readings. */
const RX_POWER_SLOPE = 68;
const SLOPES = [76, 80, 84, 88];
const SLOPE_OF_ONE = 0x0100;
const THRESHOLDS_CHECKSUM = 95;
const READINGS = 96;
/** What the module measures, and its thresholds: alarm high and low, warning high and low. */
const MEASURED: readonly { reading: number; thresholds: readonly number[] }[] = [
  // Temperature in units of 1/256 °C, supply in 100 µV, laser bias in 2 µA, power sent and received in 100 nW.
  { reading: 35 << 8, thresholds: [78 << 8, -13 << 8, 73 << 8, -8 << 8] },
  { reading: 33000, thresholds: [37000, 29000, 36000, 30000] },
  { reading: 3000, thresholds: [6600, 500, 6000, 1000] },
  { reading: 5600, thresholds: [15849, 1585, 10000, 2512] },
  { reading: 5400, thresholds: [15849, 324, 10000, 1023] },
];

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
  page[LENGTH_OM3] = REACH_OM3;
  new DataView(page.buffer).setUint16(WAVELENGTH, LASER_SR);
  text(VENDOR_NAME, 16, 'Intel Corp');
  page.set(INTEL_OUI, VENDOR_OUI);
  text(PART_NUMBER, 16, 'RINGSWITCH-SR');
  text(REVISION, 4, 'A');
  text(SERIAL_NUMBER, 16, '1');
  text(DATE_CODE, 8, '260101');
  page[DIAGNOSTIC_TYPE] = DIAGNOSTICS_CALIBRATED;
  page[COMPLIANCE_8472] = REVISION_11_0;
  page[BASE_CHECKSUM] = sum(page.subarray(0, BASE_CHECKSUM));
  page[EXTENDED_CHECKSUM] = sum(page.subarray(BASE_CHECKSUM + 1, EXTENDED_CHECKSUM));
  return page;
}

/** The page of diagnostics. */
export function sfpDiagnostics(): Uint8Array {
  const page = new Uint8Array(BYTES);
  const view = new DataView(page.buffer);
  for (const [n, { reading, thresholds }] of MEASURED.entries()) {
    for (const [i, threshold] of thresholds.entries()) view.setUint16(8 * n + 2 * i, threshold);
    view.setUint16(READINGS + 2 * n, reading);
  }
  view.setFloat32(RX_POWER_SLOPE, 1);
  for (const slope of SLOPES) view.setUint16(slope, SLOPE_OF_ONE);
  page[THRESHOLDS_CHECKSUM] = sum(page.subarray(0, THRESHOLDS_CHECKSUM));
  return page;
}

function sum(bytes: Uint8Array): number {
  return bytes.reduce((total, byte) => total + byte, 0) & 0xff;
}
