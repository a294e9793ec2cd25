/** Options of neighbour discovery's messages (RFC 4861 §4.6), found and checked in one walk. */
import {
  LINK_LAYER_OPTION_BYTES,
  MTU_OPTION_BYTES,
  ND_OPTION_UNIT,
  OPTION_MTU,
  OPTION_NONCE,
  OPTION_PREFIX,
  OPTION_RDNSS,
  OPTION_SOURCE_LINK_LAYER,
  OPTION_TARGET_LINK_LAYER,
  PREFIX_OPTION_BYTES,
  RDNSS_ADDRESSES,
} from './icmpv6-header.ts';
import { IPV6_ADDRESS_BYTES } from './ipv6-header.ts';

/** No such option. */
export const NO_OPTION = -1;
/** Options of a kind that may come more than once, of which we look at so many: the first ones. */
export const MAX_PREFIX_OPTIONS = 32;
export const MAX_RDNSS_OPTIONS = 8;

const MAC_GROUP_BIT = 0x01;

/** Made once, filled by each {@link NdOptions.parse}; everything is an offset into the bytes parsed. */
export class NdOptions {
  /** The link-layer addresses themselves. */
  sourceMac = NO_OPTION;
  targetMac = NO_OPTION;
  /** The option. */
  mtu = NO_OPTION;
  /** The nonce itself, and its bytes. */
  nonce = NO_OPTION;
  nonceBytes = 0;
  readonly prefixes = new Uint32Array(MAX_PREFIX_OPTIONS);
  prefixCount = 0;
  readonly rdnss = new Uint32Array(MAX_RDNSS_OPTIONS);
  rdnssCount = 0;

  /**
   * Walks the options in `bytes[at, end)`. False: the whole message is to be thrown away, as an option has length 0 or does
   * not fit (RFC 4861 §7.1.1), or tells a group's MAC address, which no station can have. Unknown options are passed over.
   */
  parse(bytes: Uint8Array, at: number, end: number): boolean {
    this.sourceMac = this.targetMac = this.mtu = this.nonce = NO_OPTION;
    this.nonceBytes = this.prefixCount = this.rdnssCount = 0;
    let option = at;
    while (option < end) {
      if (end - option < ND_OPTION_UNIT) return false;
      const length = bytes[option + 1] * ND_OPTION_UNIT;
      if (length === 0 || length > end - option) return false;
      if (!this.#note(bytes, option, length)) return false;
      option += length;
    }
    return true;
  }

  #note(bytes: Uint8Array, option: number, length: number): boolean {
    switch (bytes[option]) {
      case OPTION_SOURCE_LINK_LAYER:
      case OPTION_TARGET_LINK_LAYER:
        // Ethernet's have this length (RFC 2464 §6); others are not of this link.
        if (length !== LINK_LAYER_OPTION_BYTES) return true;
        if ((bytes[option + 2] & MAC_GROUP_BIT) !== 0) return false;
        if (bytes[option] === OPTION_SOURCE_LINK_LAYER) this.sourceMac = option + 2;
        else this.targetMac = option + 2;
        return true;
      case OPTION_PREFIX:
        if (length === PREFIX_OPTION_BYTES && this.prefixCount < MAX_PREFIX_OPTIONS) {
          this.prefixes[this.prefixCount++] = option;
        }
        return true;
      case OPTION_MTU:
        if (length === MTU_OPTION_BYTES) this.mtu = option;
        return true;
      case OPTION_NONCE:
        this.nonce = option + 2;
        this.nonceBytes = length - 2;
        return true;
      case OPTION_RDNSS:
        // One address at least, whole ones (RFC 8106 §5.1).
        if (length > RDNSS_ADDRESSES && (length - RDNSS_ADDRESSES) % IPV6_ADDRESS_BYTES === 0) {
          if (this.rdnssCount < MAX_RDNSS_OPTIONS) this.rdnss[this.rdnssCount++] = option;
        }
        return true;
      default:
        return true;
    }
  }
}

/** Preference of a router (RFC 4191 §2.1): a signed number of two bits; the reserved one counts as medium. */
export function preferenceOf(bits: number): number {
  return bits === 1 ? 1 : bits === 3 ? -1 : 0;
}
