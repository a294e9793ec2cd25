/** Receive checksum offload (82599 datasheet §7.1.11): what the card found out about a packet's checksums. */
import { fold, pseudoHeaderSumIpv4, pseudoHeaderSumIpv6, sum } from '../../packet/checksum.ts';
import {
  IPPROTO_TCP,
  IPPROTO_UDP,
  IPV4_ADDRESSES,
  IPV4_ID,
  IPV6_ADDRESSES,
  UDP_CHECKSUM,
} from '../../packet/header-fields.ts';
import { RXD_ERR_IPE, RXD_ERR_TCPE, RXD_STAT_IPCS, RXD_STAT_L4I, RXD_STAT_UDPCS } from '../descriptors.ts';
import { type PacketHeaders, word } from './packet-headers.ts';

/** A sum over data and its checksum that is right. */
const RIGHT = 0xffff;

/** Status and error bits of a packet. */
export function receiveChecksums(frame: Uint8Array, headers: PacketHeaders): number {
  const { isIpv4, isIpv6, network, transport, isTcp, isUdp, end } = headers;
  if (!isIpv4 && !isIpv6) return 0;
  let status = 0;
  if (isIpv4) {
    status |= RXD_STAT_IPCS;
    const headerEnd = network + (frame[network]! & 0xf) * 4;
    if (fold(sum(frame, network, headerEnd, 0)) !== RIGHT) status |= RXD_ERR_IPE;
  }
  if (!isTcp && !isUdp) return status >>> 0;
  // A datagram without a checksum has none that could be wrong.
  if (isUdp && word(frame, transport + UDP_CHECKSUM) === 0) return status >>> 0;
  status |= RXD_STAT_L4I | (isUdp ? RXD_STAT_UDPCS : 0);
  const protocol = isTcp ? IPPROTO_TCP : IPPROTO_UDP;
  const pseudo = isIpv4
    ? pseudoHeaderSumIpv4(frame, network + IPV4_ADDRESSES, protocol, end - transport)
    : pseudoHeaderSumIpv6(frame, network + IPV6_ADDRESSES, protocol, end - transport);
  if (fold(sum(frame, transport, end, pseudo)) !== RIGHT) status |= RXD_ERR_TCPE;
  return status >>> 0;
}

/** A fragment of IPv4: the sum of what follows its header in the upper half, its identification in the lower (§7.1.8). */
export function fragmentChecksum(frame: Uint8Array, { network, end }: PacketHeaders): number {
  const headerEnd = network + (frame[network]! & 0xf) * 4;
  return ((fold(sum(frame, headerEnd, end, 0)) << 16) | word(frame, network + IPV4_ID)) >>> 0;
}
