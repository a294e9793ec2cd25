/** Sequence numbers: arithmetic modulo 2^32 (RFC 9293 §3.4). All are whole numbers from 0 to 2^32 - 1. */

/** a < b. */
export function before(a: number, b: number): boolean {
  return ((a - b) | 0) < 0;
}

/** a > b. */
export function after(a: number, b: number): boolean {
  return ((a - b) | 0) > 0;
}

/** a <= b. */
export function atOrBefore(a: number, b: number): boolean {
  return ((a - b) | 0) <= 0;
}

/** a >= b. */
export function atOrAfter(a: number, b: number): boolean {
  return ((a - b) | 0) >= 0;
}

/** a + bytes. */
export function plus(a: number, bytes: number): number {
  return (a + bytes) >>> 0;
}

/** Bytes from b to a: a - b, signed. */
export function distance(a: number, b: number): number {
  return (a - b) | 0;
}
