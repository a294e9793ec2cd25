/** IP addresses as people write them, and as the stack has them: 4 or 16 bytes. */
import { isIPv4, isIPv6 } from 'node:net';

const GROUPS = 8;
/** ::ffff:0:0/96 (RFC 4291 §2.5.5.2). */
const MAPPED_PREFIX = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff);

/** The bytes of `10.0.0.1` or `fe80::1`, or null for what is no address. Zones (`%eth0`) are no part of one here. */
export function parseIp(text: string): Uint8Array | null {
  if (isIPv4(text)) return Uint8Array.from(text.split('.'), Number);
  if (!isIPv6(text) || text.includes('%')) return null;
  const plain = text.replace(/[\d.]+$/, (tail) => (isIPv4(tail) ? hexGroups(tail) : tail));
  const [head = '', tail] = plain.split('::') as [string, string?];
  const groups = (part: string): number[] =>
    part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16));
  const before = groups(head);
  const after = tail === undefined ? [] : groups(tail);
  const all = [...before, ...Array<number>(GROUPS - before.length - after.length).fill(0), ...after];
  return Uint8Array.from(all.flatMap((group) => [group >> 8, group & 0xff]));
}

function hexGroups(ipv4: string): string {
  const [a, b, c, d] = ipv4.split('.').map(Number) as [number, number, number, number];
  return `${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
}

/** `10.0.0.1`, or an IPv6 address in its one right form (RFC 5952). */
export function formatIp(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join('.');
  if (MAPPED_PREFIX.every((byte, i) => bytes[i] === byte)) return `::ffff:${bytes.subarray(12).join('.')}`;
  const groups = Array.from({ length: GROUPS }, (_, i) => ((bytes[2 * i]! << 8) | bytes[2 * i + 1]!).toString(16));
  // The longest run of zeros, the first of equals, but not a single one (§4.2).
  let start = 0;
  let length = 1;
  for (let i = 0; i < GROUPS; i++) {
    let end = i;
    while (end < GROUPS && groups[end] === '0') end++;
    if (end - i > length) {
      start = i;
      length = end - i;
    }
  }
  if (length === 1) return groups.join(':');
  return `${groups.slice(0, start).join(':')}::${groups.slice(start + length).join(':')}`;
}

export function familyName(bytes: Uint8Array): 'IPv4' | 'IPv6' {
  return bytes.length === 4 ? 'IPv4' : 'IPv6';
}

/** Parses `10.0.0.1/24`: address and prefix length. Throws RangeError naming what it was for. */
export function parseCidr(text: string, what: string): { address: Uint8Array; prefix: number } {
  const [ip = '', length, ...rest] = text.split('/');
  const address = parseIp(ip);
  const most = address?.length === 4 ? 32 : 128;
  if (
    address === null ||
    length === undefined ||
    rest.length > 0 ||
    !/^\d{1,3}$/.test(length) ||
    Number(length) > most
  ) {
    throw new RangeError(`${what}: "${text}" is no address with a prefix length, such as 10.0.0.1/24 or fd00::1/64`);
  }
  return { address, prefix: Number(length) };
}
