/** Names of the cards that the driver is for. */
import {
  DEVICE_82599_BACKPLANE,
  DEVICE_82599_CX4,
  DEVICE_82599_SFP,
  DEVICE_82599_T3_LOM,
  DEVICE_82599_XAUI_LOM,
  DEVICE_X540,
  INTEL_VENDOR_ID,
} from '../registers.ts';

const names = new Map<number, string>([
  [DEVICE_82599_SFP, '82599ES SFP+ (X520)'],
  [DEVICE_82599_BACKPLANE, '82599 backplane'],
  [DEVICE_82599_CX4, '82599EB CX4'],
  [DEVICE_82599_T3_LOM, '82599 KR'],
  [DEVICE_82599_XAUI_LOM, '82599 XAUI'],
  [DEVICE_X540, 'X540-AT2'],
]);

/** What a card is called; null when the driver does not know it. */
export function cardName(vendorId: number, deviceId: number): string | null {
  return vendorId === INTEL_VENDOR_ID ? (names.get(deviceId) ?? null) : null;
}
