/** What all devices are told by their makers, checked once. */
import { randomBytes } from 'node:crypto';
import { MAX_FRAME_BYTES } from '../../memory/frame-batch.ts';

export const DEFAULT_MTU = 1500;
const ETHERNET_HEADER_BYTES = 14;
/** What every IPv4 link must carry (RFC 791 §3.2). */
const MIN_MTU = 68;
const MAX_MTU = MAX_FRAME_BYTES - ETHERNET_HEADER_BYTES;
const MAC_BYTES = 6;
/** Bits of a MAC address's first byte (IEEE 802 §8). */
const GROUP = 0x01;
const LOCALLY_ADMINISTERED = 0x02;

/** The address, when it is one that a station can have. */
export function checkMacAddress(address: Uint8Array, device: string): Uint8Array {
  const shown = Array.from(address, (byte) => byte.toString(16).padStart(2, '0')).join(':');
  if (address.length !== MAC_BYTES) {
    throw new RangeError(`${device}: the MAC address "${shown}" has ${address.length} bytes, not ${MAC_BYTES}`);
  }
  if ((address[0]! & GROUP) !== 0 || address.every((byte) => byte === 0)) {
    throw new RangeError(
      `${device}: ${shown} is no address of a station: give one that is not a group's, nor all zero`,
    );
  }
  return address;
}

/** Bytes of IP packet that a frame holds at the most. */
export function checkMtu(mtu: number, device: string): number {
  if (Number.isInteger(mtu) && mtu >= MIN_MTU && mtu <= MAX_MTU) return mtu;
  throw new RangeError(`${device}: an MTU of ${mtu}; give a whole number from ${MIN_MTU} to ${MAX_MTU}`);
}

/** A MAC address that nobody else has, in all likelihood: locally administered, the rest random. */
export function randomMacAddress(): Uint8Array {
  const address = new Uint8Array(randomBytes(MAC_BYTES));
  address[0] = (address[0]! & ~GROUP) | LOCALLY_ADMINISTERED;
  return address;
}

/** Parses `52:54:00:12:34:56`. Throws RangeError. */
export function parseMacAddress(text: string): Uint8Array {
  if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(text)) {
    throw new RangeError(`"${text}" is no MAC address: give six bytes as 52:54:00:12:34:56`);
  }
  return Uint8Array.from(text.split(':'), (byte) => Number.parseInt(byte, 16));
}
