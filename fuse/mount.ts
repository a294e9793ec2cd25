/**
 * The mount of the device tree: made with mount(2) on an opened /dev/fuse, without libfuse.
 *
 * A daemon that was killed leaves its mount behind, dead (every access gives ENOTCONN) but in the way. It is taken
 * away first; it is never looked into synchronously, since a mount that *is* served would be served by nobody if it
 * were our own.
 */
import fs from 'node:fs';
import path from 'node:path';
import { ENOENT } from '../linux/errno.ts';
import { close, O_NONBLOCK, O_RDWR, open } from '../linux/file.ts';
import { SystemError } from '../linux/libc.ts';
import { MNT_DETACH, MNT_FORCE, MS_NODEV, MS_NOSUID, mount, umount } from '../linux/mount.ts';
import { makeDirectory } from './make-directory.ts';

/** File system type, as /proc/mounts shows it: `fuse.` and the name of the program. */
const FS_TYPE = 'fuse.ringswitch';

export interface MountOptions {
  /** Where the tree appears; made if missing. */
  path: string;
}

/** Mounts an empty FUSE file system; gives the descriptor of its connection, non-blocking. */
export function mountFuse({ path: target }: MountOptions): number {
  unmountStale(target);
  makeDirectory(path.resolve(target), 'mount.path');
  let fd: number;
  try {
    fd = open('/dev/fuse', O_RDWR | O_NONBLOCK);
  } catch (error) {
    throw new Error(
      `cannot open /dev/fuse: ${(error as Error).message}; load the module (modprobe fuse) and run as root`,
    );
  }
  const data = `fd=${fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions`;
  try {
    mount('ringswitch', target, FS_TYPE, MS_NOSUID | MS_NODEV, data);
  } catch (error) {
    close(fd);
    throw new Error(`cannot mount the device tree on ${target}: ${(error as Error).message}; it needs CAP_SYS_ADMIN`);
  }
  return fd;
}

/** Whether something of ours, served or dead, is mounted at `target`. Reads /proc/self/mounts only. */
export function isMounted(target: string): boolean {
  const wanted = mountPoint(target);
  return fs
    .readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .some((line) => {
      const [, at, type] = line.split(' ');
      return type === FS_TYPE && at !== undefined && unescapeOctal(at) === wanted;
    });
}

/** As /proc/self/mounts has it: without symbolic links on the way. The last part is not looked at: it may be dead. */
function mountPoint(target: string): string {
  const { dir, base } = path.parse(path.resolve(target));
  try {
    return path.join(fs.realpathSync(dir), base);
  } catch {
    return path.join(dir, base); // Nothing is there, and so nothing is mounted there.
  }
}

/** proc(5): white space and backslashes stand as octal numbers, as `\040`. */
function unescapeOctal(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** Takes mounts of ours at `target` away, whoever served them: aborts their connections, then detaches. */
export function unmountStale(target: string): void {
  while (isMounted(target)) unmount(target);
}

/** Unmounts, also while files are open: their users get ECONNABORTED or ENOTCONN. */
export function unmount(target: string): void {
  for (const flags of [MNT_FORCE, MNT_DETACH]) {
    try {
      umount(target, flags);
      return;
    } catch (error) {
      // Busy: MNT_FORCE has aborted the connection all the same, and MNT_DETACH takes it out of the tree.
      if (flags === MNT_DETACH && !(error instanceof SystemError && error.errno === ENOENT)) throw error;
    }
  }
}
