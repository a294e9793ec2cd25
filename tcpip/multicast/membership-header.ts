/** IGMP (RFC 3376 §4, RFC 2236 §2, RFC 1112 appendix I) and MLD (RFC 3810 §5, RFC 2710 §3) on the wire. */

// Types of group records, RFC 3376 §4.2.12 and RFC 3810 §5.2.12.
export const MODE_IS_INCLUDE = 1;
export const MODE_IS_EXCLUDE = 2;
export const CHANGE_TO_INCLUDE_MODE = 3;
export const CHANGE_TO_EXCLUDE_MODE = 4;
export const ALLOW_NEW_SOURCES = 5;
export const BLOCK_OLD_SOURCES = 6;

/** Record type, auxiliary data length, number of sources; the group follows. */
export const RECORD_BYTES = 4;
export const RECORD_SOURCES = 2;
/** Type, reserved, checksum, reserved, number of records. */
export const REPORT_BYTES = 8;
export const REPORT_RECORDS = 6;

// IGMP.
export { IPPROTO_IGMP } from '../ip/ipv4-header.ts';
export const IGMP_QUERY = 0x11;
export const IGMPV1_REPORT = 0x12;
export const IGMPV2_REPORT = 0x16;
export const IGMPV2_LEAVE = 0x17;
export const IGMPV3_REPORT = 0x22;
export const IGMP_MAX_RESPONSE = 1;
export const IGMP_CHECKSUM = 2;
export const IGMP_GROUP = 4;
/** Of an IGMPv1 and IGMPv2 message. */
export const IGMP_BYTES = 8;
/** Resv, S, QRV; QQIC; number of sources: IGMPv3 queries only. */
export const IGMPV3_FLAGS = 8;
export const IGMPV3_QQIC = 9;
export const IGMPV3_SOURCES = 10;
export const IGMPV3_QUERY_BYTES = 12;

// MLD, from the ICMPv6 header on.
export const MLD_MAX_RESPONSE = 4;
export const MLD_GROUP = 8;
/** Of an MLDv1 message. */
export const MLD_BYTES = 24;
export const MLDV2_FLAGS = 24;
export const MLDV2_QQIC = 25;
export const MLDV2_SOURCES = 26;
export const MLDV2_QUERY_BYTES = 28;

/** Querier's Robustness Variable: three bits. */
export const QRV_MASK = 0x07;

/** Max Resp Code of IGMPv3 and QQIC of both: from 128 on a number with an exponent (RFC 3376 §4.1.1). */
export function codeOf8(code: number): number {
  return code < 0x80 ? code : ((code & 0x0f) | 0x10) << (((code >>> 4) & 0x07) + 3);
}

/** Maximum Response Code of MLDv2 (RFC 3810 §5.1.3). */
export function codeOf16(code: number): number {
  return code < 0x8000 ? code : ((code & 0x0fff) | 0x1000) << (((code >>> 12) & 0x07) + 3);
}
