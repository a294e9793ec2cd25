/**
 * Where the fields of Ethernet, IPv4, IPv6, TCP and UDP headers lie, and the numbers that stand in them.
 *
 * Offsets are in bytes from the start of the header that the name begins with. Constants only: what follows from
 * a field is decided where it is read.
 */

// Ethernet: IEEE 802.3 §3.1.1, tags IEEE 802.1Q §9.
export const ETHERNET_DESTINATION = 0;
export const ETHERNET_SOURCE = 6;
export const ETHERNET_TYPE = 12;
export const ETHERNET_HEADER_LENGTH = 14;
export const VLAN_TAG_LENGTH = 4;
/** Tags skipped before the EtherType: a service tag and a customer tag (IEEE 802.1Q "QinQ"). */
export const MAX_VLAN_TAGS = 2;
export const ETHERTYPE_IPV4 = 0x0800;
export const ETHERTYPE_IPV6 = 0x86dd;
/** TPID of a customer tag, IEEE 802.1Q table 9-1. */
export const ETHERTYPE_CTAG = 0x8100;
/** TPID of a service tag, IEEE 802.1Q table 9-1. */
export const ETHERTYPE_STAG = 0x88a8;

// IPv4: RFC 791 §3.1.
/** IHL, in the first byte: the header's length in 4-byte units. */
export const IPV4_IHL_MASK = 0x0f;
export const IPV4_TOTAL_LENGTH = 2;
export const IPV4_ID = 4;
export const IPV4_FRAGMENT = 6;
export const IPV4_PROTOCOL = 9;
export const IPV4_CHECKSUM = 10;
/** The source address; the destination follows it. */
export const IPV4_ADDRESSES = 12;
export const IPV4_MIN_HEADER_LENGTH = 20;
/** More Fragments and the fragment offset: not all zero in any fragment. */
export const IPV4_MF_AND_OFFSET = 0x3fff;

// IPv6: RFC 8200 §3 and §4.
export const IPV6_PAYLOAD_LENGTH = 4;
export const IPV6_NEXT_HEADER = 6;
/** The source address; the destination follows it. */
export const IPV6_ADDRESSES = 8;
export const IPV6_HEADER_LENGTH = 40;
export const IPV6_HOP_BY_HOP = 0;
export const IPV6_ROUTING = 43;
export const IPV6_FRAGMENT = 44;
export const IPV6_DESTINATION_OPTIONS = 60;
/** Hdr Ext Len of an extension header: its length in 8-byte units, the first not counted. */
export const IPV6_EXTENSION_LENGTH = 1;
/** Segments Left of a routing header, RFC 8200 §4.4. */
export const IPV6_ROUTING_SEGMENTS_LEFT = 3;

// Protocol numbers of RFC 9293 and RFC 768.
export const IPPROTO_TCP = 6;
export const IPPROTO_UDP = 17;

// TCP: RFC 9293 §3.1.
export const TCP_SEQUENCE = 4;
export const TCP_DATA_OFFSET = 12;
export const TCP_FLAGS = 13;
export const TCP_CHECKSUM = 16;
export const TCP_URGENT_POINTER = 18;
export const TCP_MIN_HEADER_LENGTH = 20;
export const TCP_FIN = 0x01;
export const TCP_SYN = 0x02;
export const TCP_RST = 0x04;
export const TCP_PSH = 0x08;
export const TCP_ACK = 0x10;
export const TCP_URG = 0x20;
/** Congestion Window Reduced, RFC 3168 §6.1. */
export const TCP_CWR = 0x80;

// UDP: RFC 768.
export const UDP_LENGTH = 4;
export const UDP_CHECKSUM = 6;
export const UDP_HEADER_LENGTH = 8;
