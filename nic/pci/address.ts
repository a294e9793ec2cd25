/**
 * How cards are called: PCI functions `domain:bus:device.function`, all hexadecimal, as in `0000:01:00.0`; and those that another
 * process serves by the path of its socket, `vfio-user:/run/card0`.
 */
import path from 'node:path';

/** Names of cards that another process serves: the path of its socket follows. */
export const VFIO_USER_PREFIX = 'vfio-user:';
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

/**
 * The one name of a card, which may be called by several: `01:00.0` is `0000:01:00.0`, and the path of a socket may be written in
 * many ways. What is no name of a card comes back as it is.
 */
export function wholeName(name: string): string {
  if (name.startsWith(VFIO_USER_PREFIX)) return VFIO_USER_PREFIX + path.resolve(name.slice(VFIO_USER_PREFIX.length));
  try {
    return parsePciAddress(name);
  } catch {
    return name;
  }
}
