/** Records for frame-ring.test.ts: length and bytes follow from their number, on both sides. */

/** 0 to 199 bytes, seldom more. */
export function recordLength(i: number): number {
  const mixed = Math.imul(i + 1, 0x9e3779b1) >>> 8;
  return mixed % 97 === 0 ? 900 + (mixed % 100) : mixed % 200;
}

const wordOf = (i: number, k: number): number => (Math.imul(i, 31) + k) & 0xff;

export function fillRecord(memory: Uint8Array, at: number, length: number, i: number): void {
  for (let k = 0; k < length; k++) memory[at + k] = wordOf(i, k);
}

/** Index of the first byte that is not what {@link fillRecord} wrote, or -1. */
export function checkRecord(memory: Uint8Array, at: number, length: number, i: number): number {
  for (let k = 0; k < length; k++) if (memory[at + k] !== wordOf(i, k)) return k;
  return -1;
}
