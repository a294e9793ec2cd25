/** Mounts and namespaces: `<sys/mount.h>`, `<sched.h>`. */
import { check, libcFunction } from './libc.ts';

export const MS_NOSUID = 2;
export const MS_NODEV = 4;
export const MS_NOEXEC = 8;
export const MS_BIND = 4096;
export const MS_REC = 16384;
export const MS_PRIVATE = 1 << 18;
export const MNT_FORCE = 1;
export const MNT_DETACH = 2;
export const CLONE_NEWNS = 0x00020000;
export const CLONE_NEWNET = 0x40000000;

const c = {
  mount: libcFunction(
    'int mount(const char *source, const char *target, const char *type, ulong flags, const char *data)',
  ),
  umount2: libcFunction('int umount2(const char *target, int flags)'),
  unshare: libcFunction('int unshare(int flags)'),
  setns: libcFunction('int setns(int fd, int type)'),
};

/** mount(2). */
export function mount(source: string, target: string, type: string | null, flags: number, data: string | null): void {
  check(c.mount(source, target, type, flags, data), 'mount', { source, target, type, flags, data });
}

/** umount2(2). */
export function umount(target: string, flags: number): void {
  check(c.umount2(target, flags), 'umount2', { target, flags });
}

/** unshare(2) for the calling thread. */
export function unshare(flags: number): void {
  check(c.unshare(flags), 'unshare', { flags });
}

/** setns(2) for the calling thread. */
export function setns(fd: number, type: number): void {
  check(c.setns(fd, type), 'setns', { fd, type });
}
