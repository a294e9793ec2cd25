/**
 * `ringswitch exec`: becomes a command for which /dev/net/tun and /dev/vhost-net are the switch's clones.
 *
 * In a private mount namespace a tmpfs over /dev holds everything that was there (bound) and the clones. (Binding over
 * single files would not do: /dev is one devtmpfs for all namespaces, and /dev/vhost-net may be missing in it.)
 * A seccomp filter brings TUNSETOFFLOAD and its kin to the daemon. Then execve(2): the process keeps its id, so signals
 * and exit status are the command's.
 */
import fs from 'node:fs';
import path from 'node:path';
import { VALUE_REQUESTS } from '../fuse/tun-clone.ts';
import { EBUSY } from '../linux/errno.ts';
import { close, setCloseOnExec } from '../linux/file.ts';
import { SystemError } from '../linux/libc.ts';
import {
  CLONE_NEWNS,
  MNT_DETACH,
  MS_BIND,
  MS_NOEXEC,
  MS_NOSUID,
  MS_PRIVATE,
  MS_REC,
  mount,
  umount,
  unshare,
} from '../linux/mount.ts';
import { notifyIoctls } from '../linux/seccomp.ts';
import type { Status } from './control.ts';
import { ControlClient } from './control-client.ts';

export interface ExecOptions {
  /** Control socket of the daemon. */
  socket: string;
  /** The command and its arguments. */
  command: string[];
}

/** The command is not to be found: main exits with 127, as a shell and env(1) do. */
export class NoSuchProgramError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'NoSuchProgramError';
  }
}

/** Does not return: the process becomes the command. Rejects when something on the way fails. */
export async function execCommand({ socket, command }: ExecOptions): Promise<never> {
  const file = findProgram(command[0]!);
  const client = new ControlClient(socket);
  const { mount: tree } = (await client.get('/v1/status')) as Status;
  enterDeviceTree(tree);
  const listener = watchIoctls();
  await client.post('/v1/exec/listeners', { pid: process.pid, fd: listener });
  close(listener);
  for (const fd of [0, 1, 2]) setCloseOnExec(fd, false);
  process.execve!(file, command, process.env as Record<string, string>);
  throw new Error(`cannot execute ${file}`);
}

/** Descriptor of a listener for the ioctls that FUSE cannot bring. */
function watchIoctls(): number {
  try {
    return notifyIoctls(VALUE_REQUESTS);
  } catch (error) {
    if (!(error instanceof SystemError && error.errno === EBUSY)) throw error;
    throw new Error(
      'a supervisor watches the system calls here already (seccomp allows one): run this outside of the other ' +
        '`ringswitch exec`, or of the sandbox',
    );
  }
}

/** As execvp(3) finds it. */
function findProgram(name: string): string {
  const candidates = name.includes('/')
    ? [name]
    : (process.env.PATH ?? '/usr/sbin:/usr/bin:/sbin:/bin')
        .split(':')
        .map((directory) => path.join(directory || '.', name));
  for (const candidate of candidates) {
    try {
      fs.accessSync(candidate, fs.constants.X_OK);
      if (fs.statSync(candidate).isFile()) return path.resolve(candidate);
    } catch {
      // Not there: the next one.
    }
  }
  throw new NoSuchProgramError(`${name}: no such program in ${name.includes('/') ? 'that place' : 'PATH'}`);
}

/** Gives this process, and nobody else, a /dev with the clones of the mounted `tree` in it. */
function enterDeviceTree(tree: string): void {
  // The tree is reached by way of this directory, also when it is mounted below /dev.
  const staging = fs.mkdtempSync('/tmp/ringswitch-exec-');
  try {
    unshare(CLONE_NEWNS);
    mount('none', '/', null, MS_REC | MS_PRIVATE, null);
    mount('tmpfs', staging, 'tmpfs', MS_NOSUID | MS_NOEXEC, 'mode=0755,size=1m');
    for (const entry of fs.readdirSync('/dev', { withFileTypes: true })) {
      if (entry.name === 'vhost-net') continue;
      if (entry.name === 'net') continue;
      bindEntry(`/dev/${entry.name}`, path.join(staging, entry.name), entry);
    }
    // tun is bound, so that it is a file of its own; vhost-net must be looked up in the tree each time (see DeviceTree).
    fs.mkdirSync(path.join(staging, 'net'));
    bindFile(path.join(tree, 'net/tun'), path.join(staging, 'net/tun'));
    fs.symlinkSync(path.join(tree, 'vhost-net'), path.join(staging, 'vhost-net'));
    mount(staging, '/dev', null, MS_BIND | MS_REC, null);
    umount(staging, MNT_DETACH);
  } finally {
    fs.rmdirSync(staging);
  }
}

function bindEntry(from: string, to: string, entry: fs.Dirent): void {
  if (entry.isSymbolicLink()) fs.symlinkSync(fs.readlinkSync(from), to);
  else if (entry.isDirectory()) {
    fs.mkdirSync(to);
    mount(from, to, null, MS_BIND | MS_REC, null);
  } else bindFile(from, to);
}

function bindFile(from: string, to: string): void {
  fs.writeFileSync(to, '');
  mount(from, to, null, MS_BIND, null);
}
