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

/** File system type, as /proc/mounts shows it: `fuse.` and the name of the program. */
const FS_TYPE = 'fuse.ringswitch';

export interface MountOptions {
  /** Where the tree appears; made if missing. */
  path: string;
}

/** Mounts an empty FUSE file system; gives the descriptor of its connection, non-blocking. */
export function mountFuse({ path: target }: MountOptions): number {
  unmountStale(target);
  fs.mkdirSync(target, { recursive: true });
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
  const wanted = path.resolve(target);
  return fs
    .readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .some((line) => {
      const [, at, type] = line.split(' ');
      return type === FS_TYPE && at?.replaceAll('\\040', ' ') === wanted;
    });
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
