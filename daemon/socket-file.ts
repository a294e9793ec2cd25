/** The files of Unix sockets that daemons listen on, and leave behind when they are killed. */
import fs from 'node:fs';
import net from 'node:net';

/** Leaves mode 0600: who binds under it makes a socket that nobody else can open for a moment. */
const SOCKET_UMASK = 0o177;

/** `alive`: somebody listens on it, or nobody can tell, as without the right to connect. */
export type SocketFileState = 'none' | 'no socket' | 'alive' | 'dead';

/** Looks at the file, and tries to connect. */
async function socketFileState(path: string): Promise<SocketFileState> {
  const stat = fs.statSync(path, { throwIfNoEntry: false });
  if (!stat) return 'none';
  if (!stat.isSocket()) return 'no socket';
  return await new Promise((resolve) => {
    const probe = net.connect(path, () => {
      probe.destroy();
      resolve('alive');
    });
    probe.on('error', ({ code }: NodeJS.ErrnoException) => {
      resolve(code === 'ECONNREFUSED' || code === 'ENOENT' ? 'dead' : 'alive');
    });
  });
}

/** Removes a socket that nobody listens on, so that its place is free. Else gives why it is not; nothing is touched then. */
export async function freeSocketPath(path: string): Promise<Exclude<SocketFileState, 'none' | 'dead'> | 'free'> {
  const state = await socketFileState(path);
  if (state === 'alive' || state === 'no socket') return state;
  if (state === 'dead') fs.rmSync(path, { force: true });
  return 'free';
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
