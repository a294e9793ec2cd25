/** What a process has open. */
import fs from 'node:fs';

/** Descriptors by kind, sorted; sockets left out, which the control API opens and closes at its own pace. */
export function descriptorsOf(pid: number): string[] {
  const directory = `/proc/${pid}/fd`;
  return fs
    .readdirSync(directory)
    .flatMap((fd) => {
      try {
        return [fs.readlinkSync(`${directory}/${fd}`)];
      } catch {
        return []; // Closed meanwhile.
      }
    })
    .filter((target) => !target.startsWith('socket:'))
    .sort();
}
