/** Interface identifiers: opaque ones that stay with a network (RFC 7217), and what may not be one (RFC 5453). */
import { createHmac } from 'node:crypto';
import { IPV6_ADDRESS_BYTES } from './ipv6-header.ts';

export const INTERFACE_ID_BYTES = 8;
/** IDGEN_RETRIES (RFC 7217 §7). */
export const IDGEN_RETRIES = 3;

export interface StableIdInput {
  /** 16 bytes of which the first 8 count. */
  prefix: Uint8Array;
  /** Net_Iface: something of the interface that stays, such as its name. */
  interfaceName: string;
  /** Network_ID: what tells networks apart that have one prefix, such as fe80::/64; may be empty. */
  networkId: string;
  dadCounter: number;
  /** secret_key: 16 bytes at least. The same key gives the same addresses again. */
  secret: Uint8Array;
}

/** The address of the prefix with RID = F(Prefix, Net_Iface, Network_ID, DAD_Counter, secret_key) (RFC 7217 §5), F being HMAC-SHA-256. */
export function stableAddress({ prefix, interfaceName, networkId, dadCounter, secret }: StableIdInput): Uint8Array {
  const address = new Uint8Array(IPV6_ADDRESS_BYTES);
  address.set(prefix.subarray(0, INTERFACE_ID_BYTES));
  for (let counter = dadCounter; ; counter += IDGEN_RETRIES + 1) {
    const hmac = createHmac('sha256', secret).update(prefix.subarray(0, INTERFACE_ID_BYTES));
    // Each with its length before it: no two inputs run into the same bytes.
    for (const part of [interfaceName, networkId, String(counter)]) hmac.update(`${Buffer.byteLength(part)}:${part}`);
    address.set(hmac.digest().subarray(0, INTERFACE_ID_BYTES), INTERFACE_ID_BYTES);
    if (!isReservedId(address, INTERFACE_ID_BYTES)) return address;
  }
}

/** fe80::/64 or another prefix with the Modified EUI-64 of a MAC address (RFC 4291 appendix A). */
export function eui64Address(prefix: Uint8Array, mac: Uint8Array): Uint8Array {
  const address = new Uint8Array(IPV6_ADDRESS_BYTES);
  address.set(prefix.subarray(0, INTERFACE_ID_BYTES));
  address.set([mac[0] ^ 0x02, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]], INTERFACE_ID_BYTES);
  return address;
}

/** Subnet-router anycast, Ethernet's own block, and reserved subnet anycast (RFC 5453, IANA). */
export function isReservedId(bytes: Uint8Array, at: number): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, INTERFACE_ID_BYTES);
  const high = view.getUint32(0);
  const low = view.getUint32(4);
  if (high === 0 && low === 0) return true;
  if (high === 0x02005eff && low >= 0xfe000000) return true;
  return high === 0xfdffffff && low >= 0xffffff80;
}
