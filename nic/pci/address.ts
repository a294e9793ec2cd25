/** How PCI functions are called: `domain:bus:device.function`, all hexadecimal, as in `0000:01:00.0`. */

const ADDRESS = /^(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])$/i;

/** Whether `text` is a whole address with its domain, as sysfs writes it. */
export const isPciAddress = (text: string): boolean => ADDRESS.exec(text)?.[1] !== undefined;

/** `01:00.0` → `0000:01:00.0`. Throws Error for what is no address. */
export function parsePciAddress(text: string): string {
  const match = ADDRESS.exec(text);
  if (!match) {
    throw new Error(`${JSON.stringify(text)} is no PCI address: expected one such as 0000:01:00.0 or 01:00.0`);
  }
  const [, domain = '0000', bus, device, fn] = match;
  return `${domain}:${bus}:${device}.${fn}`.toLowerCase();
}
