/** Bytes that notice whoever looks at others than he was told to. */

/** `bytes` as they are, but RangeError for every look outside of `[from, end)`. For parsers; slow. */
export function guardedBytes(bytes: Uint8Array, from: number, end: number): Uint8Array {
  const check = (first: number, last: number): void => {
    if (first >= from && last <= end) return;
    throw new RangeError(`bytes ${first} to ${last} were looked at, of [${from}, ${end})`);
  };
  return new Proxy(bytes, {
    get(target, key) {
      if (typeof key === 'string' && /^-?\d+$/.test(key)) {
        check(Number(key), Number(key) + 1);
        return target[Number(key)];
      }
      if (key === 'slice' || key === 'subarray') {
        return (first = 0, last = target.length) => {
          check(first, last);
          return target[key](first, last);
        };
      }
      const value = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
