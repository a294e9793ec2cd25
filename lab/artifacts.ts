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

/**
 * The program that starts the QEMU which `lab/qemu/build` fetched below `cache`: newer than Debian 12's, it takes cards
 * that another process serves (`vfioUserCard`).
 *
 * Throws an Error that says which file is missing, and that `scripts/setup` fetches it.
 */
export function fetchedQemu(cache: string = path.join(projectRoot, '.cache')): string {
  const program = path.join(cache, 'qemu', 'run');
  if (!fs.existsSync(program)) throw new Error(`There is no ${program}: run scripts/setup first.`);
  return program;
}
