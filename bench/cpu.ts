/** Processor time, from /proc. */
import fs from 'node:fs';

/** USER_HZ: clock ticks a second in /proc/PID/stat, 100 on every Linux. */
const USER_HZ = 100;

/** Seconds of processor time that a process has used in all its threads (proc(5): utime and stime). */
export function cpuSeconds(pid: number): number {
  const stat = fs.readFileSync(`/proc/${pid}/stat`, 'latin1');
  // The name in parentheses may hold anything; fields are counted after it, from field 3 on.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[14 - 3]) + Number(fields[15 - 3])) / USER_HZ;
}

/** What the machine is, for whoever reads the figures later. */
export function machine(): { cpu: string; kernel: string; node: string } {
  const cpu = /^model name\s*: (.*)$/m.exec(fs.readFileSync('/proc/cpuinfo', 'latin1'))?.[1] ?? 'unknown';
  const kernel = fs.readFileSync('/proc/sys/kernel/osrelease', 'latin1').trim();
  return { cpu, kernel, node: process.version };
}
