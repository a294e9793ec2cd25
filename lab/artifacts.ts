/** Where the laboratory's built things lie: what `scripts/setup` puts under `.cache/`. */
import fs from 'node:fs';
import path from 'node:path';

/** The folder of this checkout. */
export const projectRoot = path.dirname(import.meta.dirname);

/** The kernel and initial root of the guests, both as files that QEMU takes (`-kernel`, `-initrd`). */
export interface GuestImage {
  kernel: string;
  initramfs: string;
}

/**
 * The guest image that `lab/guest/build` made below `cache`.
 *
 * Throws an Error that says which file is missing, and that `scripts/setup` makes it.
 */
export function guestImage(cache: string = path.join(projectRoot, '.cache')): GuestImage {
  const image = { kernel: path.join(cache, 'guest', 'vmlinux'), initramfs: path.join(cache, 'guest', 'initramfs') };
  for (const file of Object.values(image)) {
    if (!fs.existsSync(file)) throw new Error(`The guest image has no ${file}: run scripts/setup first.`);
  }
  return image;
}
