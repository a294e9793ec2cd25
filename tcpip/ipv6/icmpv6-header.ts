/** ICMPv6 on the wire (RFC 4443), with neighbour discovery (RFC 4861) and multicast listener discovery (RFC 3810). */

export const ICMPV6_CODE = 1;
export const ICMPV6_CHECKSUM = 2;
export const ICMPV6_HEADER_BYTES = 8;
/** Types from here on are no errors (RFC 4443 §2.1). */
export const ICMPV6_INFORMATIONAL = 128;

// Errors, RFC 4443 §3.
export const DESTINATION_UNREACHABLE = 1;
export const UNREACHABLE_NO_ROUTE = 0;
export const UNREACHABLE_PROHIBITED = 1;
export const UNREACHABLE_BEYOND_SCOPE = 2;
export const UNREACHABLE_ADDRESS = 3;
export const UNREACHABLE_PORT = 4;
export const UNREACHABLE_POLICY = 5;
export const UNREACHABLE_REJECT_ROUTE = 6;

export const PACKET_TOO_BIG = 2;
/** The next hop's MTU, 32 bits; of a parameter problem the pointer. */
export const ICMPV6_ERROR_WORD = 4;

export const TIME_EXCEEDED = 3;
export const TIME_REASSEMBLY = 1;

export const PARAMETER_PROBLEM = 4;
export const PROBLEM_FIELD = 0;
export const PROBLEM_NEXT_HEADER = 1;
export const PROBLEM_OPTION = 2;
/** RFC 7112 §5. */
export const PROBLEM_FIRST_FRAGMENT = 3;
/** RFC 8883 §2. */
export const PROBLEM_TOO_MANY_HEADERS = 8;
export const PROBLEM_TOO_MANY_OPTIONS = 9;

// RFC 4443 §4.
export const ECHO_REQUEST = 128;
export const ECHO_REPLY = 129;

// RFC 2710, RFC 3810.
export const MLD_QUERY = 130;
export const MLDV1_REPORT = 131;
export const MLDV1_DONE = 132;
export const MLDV2_REPORT = 143;

// RFC 4861 §4.
export const ROUTER_SOLICITATION = 133;
export const ROUTER_ADVERTISEMENT = 134;
export const NEIGHBOUR_SOLICITATION = 135;
export const NEIGHBOUR_ADVERTISEMENT = 136;
export const REDIRECT = 137;

/** Hop limit of all neighbour discovery: no router has passed the packet on (RFC 4861 §3.1). */
export const ND_HOP_LIMIT = 255;

export const ROUTER_SOLICITATION_BYTES = 8;

// Router advertisement, RFC 4861 §4.2.
export const RA_HOP_LIMIT = 4;
export const RA_FLAGS = 5;
export const RA_MANAGED = 0x80;
export const RA_OTHER = 0x40;
/** Default router preference, RFC 4191 §2.2. */
export const RA_PREFERENCE_SHIFT = 3;
export const RA_PREFERENCE_MASK = 0x03;
/** Seconds. */
export const RA_LIFETIME = 6;
/** Milliseconds. */
export const RA_REACHABLE_TIME = 8;
export const RA_RETRANS_TIMER = 12;
export const RA_OPTIONS = 16;

// Neighbour solicitation and advertisement, RFC 4861 §4.3, §4.4.
export const NS_TARGET = 8;
export const NS_OPTIONS = 24;
export const NA_FLAGS = 4;
export const NA_ROUTER = 0x80;
export const NA_SOLICITED = 0x40;
export const NA_OVERRIDE = 0x20;

// Redirect, RFC 4861 §4.5.
export const REDIRECT_TARGET = 8;
export const REDIRECT_DESTINATION = 24;
export const REDIRECT_OPTIONS = 40;

// Options, RFC 4861 §4.6. Lengths are in units of 8 bytes.
export const ND_OPTION_UNIT = 8;
export const OPTION_SOURCE_LINK_LAYER = 1;
export const OPTION_TARGET_LINK_LAYER = 2;
export const OPTION_PREFIX = 3;
export const OPTION_MTU = 5;
/** RFC 3971 §5.3.2, used by RFC 7527. */
export const OPTION_NONCE = 14;
/** RFC 8106 §5.1. */
export const OPTION_RDNSS = 25;

/** Bytes of a nonce: one option's unit less its two (RFC 3971 §5.3.2: 6 at least). */
export const NONCE_BYTES = 6;
export const LINK_LAYER_OPTION_BYTES = 8;

// Prefix information, RFC 4861 §4.6.2. Lifetimes in seconds.
export const PREFIX_OPTION_BYTES = 32;
export const PREFIX_LENGTH = 2;
export const PREFIX_FLAGS = 3;
export const PREFIX_ON_LINK = 0x80;
export const PREFIX_AUTONOMOUS = 0x40;
export const PREFIX_VALID = 4;
export const PREFIX_PREFERRED = 8;
export const PREFIX_PREFIX = 16;

export const MTU_OPTION_BYTES = 8;
export const MTU_MTU = 4;

export const RDNSS_LIFETIME = 4;
export const RDNSS_ADDRESSES = 8;

/** A lifetime that never ends (RFC 4861 §4.6.2). */
export const INFINITE_LIFETIME = 0xffff_ffff;
