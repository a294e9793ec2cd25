/** A context descriptor (82599 datasheet §7.2.3.2.3): where a frame's headers lie, for offloads of the frames that follow. */
import {
  CONTEXT_IPLEN_MASK,
  CONTEXT_L4LEN_MASK,
  CONTEXT_L4LEN_SHIFT,
  CONTEXT_MACLEN_MASK,
  CONTEXT_MACLEN_SHIFT,
  CONTEXT_MSS_SHIFT,
  CONTEXT_TUCMD_IPV4,
  CONTEXT_TUCMD_L4T_MASK,
  CONTEXT_VLAN_SHIFT,
} from '../descriptors.ts';

export class TransmitContext {
  /** Lengths of the headers in bytes. */
  macLength = 0;
  ipLength = 0;
  l4Length = 0;
  vlanTag = 0;
  isIpv4 = false;
  /** CONTEXT_TUCMD_L4T_… */
  l4Type = 0;
  mss = 0;

  /** Takes the words of a descriptor. */
  load(word0: number, word2: number, word3: number): void {
    this.ipLength = word0 & CONTEXT_IPLEN_MASK;
    this.macLength = (word0 >>> CONTEXT_MACLEN_SHIFT) & CONTEXT_MACLEN_MASK;
    this.vlanTag = word0 >>> CONTEXT_VLAN_SHIFT;
    this.isIpv4 = (word2 & CONTEXT_TUCMD_IPV4) !== 0;
    this.l4Type = word2 & CONTEXT_TUCMD_L4T_MASK;
    this.l4Length = (word3 >>> CONTEXT_L4LEN_SHIFT) & CONTEXT_L4LEN_MASK;
    this.mss = word3 >>> CONTEXT_MSS_SHIFT;
  }
}
