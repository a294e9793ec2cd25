/**
 * Addresses as the 64 bits that a descriptor takes, in the form of doubles: so a hot loop moves one with a load and a store.
 *
 * A double survives that unless it is a NaN. The bits of an address below 2^52 never are one.
 */

/** The bits of `count` addresses. Throws RangeError for one that is no whole number below 2^52. */
export function addressBits(count: number, address: (i: number) => number): Float64Array {
  const bits = new BigUint64Array(count);
  for (let i = 0; i < count; i++) {
    const value = address(i);
    if (!Number.isInteger(value) || value < 0 || value >= 2 ** 52) {
      throw new RangeError(`buffer ${i}: ${value} is no bus address; they are whole numbers below 2^52`);
    }
    bits[i] = BigInt(value);
  }
  return new Float64Array(bits.buffer);
}
