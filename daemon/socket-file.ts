/** The files of Unix sockets that daemons listen on, and leave behind when they are killed. */
import fs from 'node:fs';
import net from 'node:net';

/** Leaves mode 0600: who binds under it makes a socket that nobody else can open for a moment. */
const SOCKET_UMASK = 0o177;

/**
 * Removes a socket that nobody listens on, so that its place is free. `alive`: somebody listens on it, or nobody can tell, as
 * without the right to connect; nothing is touched then, nor where there is a file of another kind.
 */
export async function freeSocketPath(path: string): Promise<'free' | 'alive' | 'no socket'> {
  const stat = fs.statSync(path, { throwIfNoEntry: false });
  if (!stat) return 'free';
  if (!stat.isSocket()) return 'no socket';
  if (await isAlive(path)) return 'alive';
  fs.rmSync(path, { force: true });
  return 'free';
}

function isAlive(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = net.connect(path, () => {
      probe.destroy();
      resolve(true);
    });
    probe.on('error', ({ code }: NodeJS.ErrnoException) => resolve(code !== 'ECONNREFUSED' && code !== 'ENOENT'));
  });
}

/** Calls what makes a socket by bind(2) so that its file has mode 0600 from the first moment. */
export function makePrivately<T>(bind: () => T): T {
  const umask = process.umask(SOCKET_UMASK);
  try {
    return bind();
  } finally {
    process.umask(umask);
  }
}
