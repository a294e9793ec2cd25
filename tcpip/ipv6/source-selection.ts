/** Which address of ours a packet comes from (RFC 6724 §5): of the rules 1, 2, 3, 6, 7 and 8; the others are for several interfaces. */
import type { LocalAddress } from '../ip/local-table.ts';
import { matches } from '../ip/route-table.ts';
import { commonPrefixBits, SUBNET_PREFIX_BITS, sameAddress, scopeOf } from './addresses.ts';
import { IPV6_ADDRESS_BYTES } from './ipv6-header.ts';

interface Policy {
  prefix: Uint8Array;
  bits: number;
  label: number;
}

function policy(bits: number, label: number, ...prefix: number[]): Policy {
  const bytes = new Uint8Array(IPV6_ADDRESS_BYTES);
  bytes.set(prefix);
  return { prefix: bytes, bits, label };
}

const MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
const LOOPBACK = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/** RFC 6724 §2.1, the default policy table: longest prefixes first. */
const POLICIES: readonly Policy[] = [
  policy(128, 0, ...LOOPBACK),
  policy(96, 4, ...MAPPED),
  policy(96, 3),
  policy(32, 5, 0x20, 0x01, 0, 0),
  policy(16, 2, 0x20, 0x02),
  policy(16, 12, 0x3f, 0xfe),
  policy(10, 11, 0xfe, 0xc0),
  policy(7, 13, 0xfc),
  policy(0, 1),
];

/** Label(A) of RFC 6724 §2.1. */
export function labelOf(bytes: Uint8Array, at: number): number {
  for (const { prefix, bits, label } of POLICIES) if (matches(prefix, bits, bytes, at)) return label;
  return 1;
}

/** The best of the addresses for packets to the one at `at`, or null when there is none of this family. */
export function selectSource(candidates: Iterable<LocalAddress>, bytes: Uint8Array, at: number): LocalAddress | null {
  let best: LocalAddress | null = null;
  for (const candidate of candidates) {
    if (candidate.family !== 6) continue;
    // ::1 is for talks with it alone (RFC 4291 §2.5.3).
    if (candidate.loopback && !sameAddress(candidate.bytes, 0, bytes, at)) continue;
    if (best === null || isBetter(candidate, best, bytes, at)) best = candidate;
  }
  return best;
}

function isBetter(a: LocalAddress, b: LocalAddress, bytes: Uint8Array, at: number): boolean {
  // Rule 1: the same address.
  if (sameAddress(a.bytes, 0, bytes, at)) return true;
  if (sameAddress(b.bytes, 0, bytes, at)) return false;
  // Rule 2: the appropriate scope.
  const scopeA = scopeOf(a.bytes, 0);
  const scopeB = scopeOf(b.bytes, 0);
  if (scopeA !== scopeB) {
    const scope = scopeOf(bytes, at);
    return scopeA < scopeB ? scopeA >= scope : scopeB < scope;
  }
  // Rule 3: no deprecated ones.
  if (a.deprecated !== b.deprecated) return b.deprecated;
  // Rule 6: the same label.
  const label = labelOf(bytes, at);
  const matchesA = labelOf(a.bytes, 0) === label;
  if (matchesA !== (labelOf(b.bytes, 0) === label)) return matchesA;
  // Rule 7: temporary ones.
  if (a.temporary !== b.temporary) return a.temporary;
  // Rule 8: the longest prefix in common.
  return commonBits(a, bytes, at) > commonBits(b, bytes, at);
}

/** CommonPrefixLen(S, D): as far as the prefix of S goes (RFC 6724 §2.2). */
function commonBits(address: LocalAddress, bytes: Uint8Array, at: number): number {
  const prefix = address.prefixLength < 8 * IPV6_ADDRESS_BYTES ? address.prefixLength : SUBNET_PREFIX_BITS;
  return Math.min(prefix, commonPrefixBits(address.bytes, 0, bytes, at));
}
