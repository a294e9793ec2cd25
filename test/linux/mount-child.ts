/** Mounts in a namespace of its own, in a process of its own, and says what it saw. For mount.test.ts. */
import fs from 'node:fs';
import { close, O_RDONLY, open } from '../../linux/file.ts';
import {
  CLONE_NEWNET,
  CLONE_NEWNS,
  MNT_DETACH,
  MS_BIND,
  MS_NODEV,
  MS_NOSUID,
  MS_PRIVATE,
  MS_REC,
  mount,
  setns,
  umount,
  unshare,
} from '../../linux/mount.ts';

export interface MountReport {
  tmpfs: string;
  bound: string;
  gone: boolean;
  namespaces: { first: string; unshared: string; back: string };
}

const folder = process.argv[2]!;
const mounted = (): string[] => fs.readFileSync('/proc/thread-self/mounts', 'latin1').split('\n');
const network = (): string => fs.readlinkSync('/proc/thread-self/ns/net');

unshare(CLONE_NEWNS);
mount('none', '/', null, MS_REC | MS_PRIVATE, null);
mount('tmpfs', folder, 'tmpfs', MS_NOSUID | MS_NODEV, 'size=64k');
const tmpfs = mounted().find((line) => line.includes(` ${folder} tmpfs `)) ?? '';
fs.writeFileSync(`${folder}/a`, 'content');
fs.writeFileSync(`${folder}/b`, '');
mount(`${folder}/a`, `${folder}/b`, null, MS_BIND, null);
const bound = fs.readFileSync(`${folder}/b`, 'latin1');
umount(`${folder}/b`, 0);
umount(folder, MNT_DETACH);
const gone = !mounted().some((line) => line.includes(` ${folder} `));

const first = network();
const home = open('/proc/thread-self/ns/net', O_RDONLY);
unshare(CLONE_NEWNET);
const unshared = network();
setns(home, CLONE_NEWNET);
close(home);
const report: MountReport = { tmpfs, bound, gone, namespaces: { first, unshared, back: network() } };
process.stdout.write(JSON.stringify(report));
