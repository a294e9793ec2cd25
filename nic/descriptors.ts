/**
 * Descriptors of the 82599: 16 bytes each, little-endian (datasheet §7.1.6 receive, §7.2.3 transmit).
 *
 *     receive, read format        packet buffer address (64) | header buffer address (64), bit 0 DD
 *     receive, write-back         info (32) | RSS hash or fragment checksum (32) | status and error (32) | length (16) | VLAN tag (16)
 *     transmit, data              buffer address (64) | DTALEN (16), type and command (16) | status, index, options, PAYLEN (32)
 *     transmit, context           VLAN, MACLEN, IPLEN (32) | reserved (32) | type, TUCMD (32) | L4LEN, MSS (32)
 */
export const DESCRIPTOR_BYTES = 16;

// ---- receive, advanced write-back (§7.1.6.2)
/** First word: RSS type in bits 0 to 3, packet type from bit 4, header length from bit 21, split header in bit 31. */
export const RXD_RSS_TYPE_MASK = 0xf;
export const RSS_TYPE_NONE = 0;
export const RSS_TYPE_IPV4_TCP = 1;
export const RSS_TYPE_IPV4 = 2;
export const RSS_TYPE_IPV6_TCP = 3;
export const RSS_TYPE_IPV6 = 5;
export const RSS_TYPE_IPV4_UDP = 7;
export const RSS_TYPE_IPV6_UDP = 8;
/** The hash's word tells of a Flow Director filter: its number or signature, and its hash in the upper half. */
export const RSS_TYPE_FLOW_DIRECTOR = 15;
export const RXD_PKTTYPE_SHIFT = 4;
export const PKTTYPE_IPV4 = 1 << 0;
export const PKTTYPE_IPV4_OPTIONS = 1 << 1;
export const PKTTYPE_IPV6 = 1 << 2;
export const PKTTYPE_IPV6_EXTENSIONS = 1 << 3;
export const PKTTYPE_TCP = 1 << 4;
export const PKTTYPE_UDP = 1 << 5;
export const PKTTYPE_SCTP = 1 << 6;
/** Third word: status in bits 0 to 19, errors in bits 20 to 31. */
export const RXD_STAT_DD = 1 << 0;
export const RXD_STAT_EOP = 1 << 1;
export const RXD_STAT_FLM = 1 << 2;
/** The packet has an 802.1Q header (stripped where the queue strips). */
export const RXD_STAT_VP = 1 << 3;
export const RXD_STAT_UDPCS = 1 << 4;
export const RXD_STAT_L4I = 1 << 5;
export const RXD_STAT_IPCS = 1 << 6;
/** Passed an inexact filter. */
export const RXD_STAT_PIF = 1 << 7;
export const RXD_STAT_LB = 1 << 19;
export const RXD_ERR_RXE = 1 << 29;
export const RXD_ERR_TCPE = 1 << 30;
export const RXD_ERR_IPE = 2 ** 31;

// ---- transmit, advanced (§7.2.3.2.3 context, §7.2.3.2.4 data). Third word.
export const TXD_DTALEN_MASK = 0xffff;
export const TXD_DTYP_MASK = 0xf << 20;
export const TXD_DTYP_CONTEXT = 2 << 20;
export const TXD_DTYP_DATA = 3 << 20;
export const TXD_CMD_EOP = 1 << 24;
/** Insert the CRC. */
export const TXD_CMD_IFCS = 1 << 25;
export const TXD_CMD_RS = 1 << 27;
/** The descriptor is of the advanced format. */
export const TXD_CMD_DEXT = 1 << 29;
/** Insert the VLAN tag of the context. */
export const TXD_CMD_VLE = 1 << 30;
/** Segment this frame. */
export const TXD_CMD_TSE = 2 ** 31;
/** Fourth word of a data descriptor. */
export const TXD_STAT_DD = 1 << 0;
export const TXD_IDX_SHIFT = 4;
/** Check context: the context descriptor counts. */
export const TXD_CC = 1 << 7;
export const TXD_POPTS_IXSM = 1 << 8;
export const TXD_POPTS_TXSM = 1 << 9;
export const TXD_PAYLEN_SHIFT = 14;
export const TXD_PAYLEN_MASK = 0x3ffff;
/** Context descriptor. First word: IP header's length, MAC header's length, VLAN tag. */
export const CONTEXT_MACLEN_SHIFT = 9;
export const CONTEXT_MACLEN_MASK = 0x7f;
export const CONTEXT_IPLEN_MASK = 0x1ff;
export const CONTEXT_VLAN_SHIFT = 16;
/** Third word: TUCMD. */
export const CONTEXT_TUCMD_SNAP = 1 << 9;
export const CONTEXT_TUCMD_IPV4 = 1 << 10;
export const CONTEXT_TUCMD_L4T_MASK = 3 << 11;
export const CONTEXT_TUCMD_L4T_UDP = 0 << 11;
export const CONTEXT_TUCMD_L4T_TCP = 1 << 11;
export const CONTEXT_TUCMD_L4T_SCTP = 2 << 11;
/** Fourth word: context index, length of the layer-4 header, maximum segment size. */
export const CONTEXT_IDX_SHIFT = 4;
export const CONTEXT_L4LEN_SHIFT = 8;
export const CONTEXT_L4LEN_MASK = 0xff;
export const CONTEXT_MSS_SHIFT = 16;

// ---- transmit, legacy (§7.2.3.2.1): third word CMD in bits 24 to 31, CSO 16 to 23; DD in bit 0 of the fourth.
export const LEGACY_CSO_SHIFT = 16;
export const LEGACY_CMD_IC = 1 << 26;
export const LEGACY_CMD_VLE = 1 << 30;
