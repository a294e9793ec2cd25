/** Who has a file open. */
import fs from 'node:fs';
import { commandName } from '../../linux/process.ts';

/** The processes that have `file` open, in words: `qemu-system-x86 (1042)`. Without root only one's own are seen. */
export function holdersOf(file: string): string[] {
  const holders: string[] = [];
  for (const pid of fs.readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    try {
      const folder = `/proc/${pid}/fd`;
      if (!fs.readdirSync(folder).some((fd) => linkOf(`${folder}/${fd}`) === file)) continue;
    } catch {
      continue; // It has ended, or is none of ours.
    }
    holders.push(`${commandName(Number(pid))} (${pid})`);
  }
  return holders;
}

function linkOf(file: string): string | null {
  try {
    return fs.readlinkSync(file);
  } catch {
    return null; // Closed meanwhile.
  }
}
