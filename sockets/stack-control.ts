/**
 * What a stack tells about itself: HTTP and JSON on a Unix socket in a directory that all stacks of a machine share, for
 * `ringswitch sockets`.
 *
 *     GET /v1/sockets?limit=N      {@link StackSockets}
 *
 * It does not keep the process alive. The directory is its owner's alone. A stack that dies leaves its socket behind, which whoever
 * lists them removes.
 */
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import type { TcpInfo, TcpUser } from '../tcpip/tcp/api.ts';
import { formatIp } from './ip-text.ts';

/** Next to the daemon's control socket. */
export const DEFAULT_STACKS_DIRECTORY = '/run/ringswitch/stacks';
export const STACK_SOCKET_SUFFIX = '.sock';
/** More rows than anybody reads; a stack may have millions of connections. */
export const DEFAULT_SOCKETS_LIMIT = 1000;
const DIRECTORY_MODE = 0o700;
/** Of the name in a file's name; a path of a socket has 108 bytes. */
const MAX_NAME = 40;

/** A connection: what TcpInfo has, with addresses as text. */
export interface SocketRow extends Omit<TcpInfo, 'local' | 'remote'> {
  local: { address: string; port: number };
  remote: { address: string; port: number };
}

export interface StackSockets {
  name: string;
  pid: number;
  /** Connections that there are; `sockets` may have fewer. */
  total: number;
  sockets: SocketRow[];
}

export interface StackControlOptions {
  /** Of the stack; letters, digits, and `-_.`, at most 40. */
  name: string;
  tcp: Pick<TcpUser, 'forEach' | 'info'>;
  /** Made if missing. */
  directory?: string;
}

export class StackControl {
  readonly path: string;
  readonly #server: http.Server;

  /** Listens. Rejects when directory or socket cannot be made. */
  static async start({ name, tcp, directory = DEFAULT_STACKS_DIRECTORY }: StackControlOptions): Promise<StackControl> {
    if (!/^[\w.-]+$/.test(name) || name.length > MAX_NAME) {
      throw new RangeError(`"${name}" is no name for a stack: 1 to ${MAX_NAME} letters, digits, and - _ .`);
    }
    fs.mkdirSync(directory, { recursive: true, mode: DIRECTORY_MODE });
    const socket = await freePath(directory, name);
    const control = new StackControl(socket, name, tcp);
    await new Promise<void>((resolve, reject) => {
      control.#server.once('error', reject);
      control.#server.listen(socket, resolve);
    });
    return control;
  }

  private constructor(socket: string, name: string, tcp: StackControlOptions['tcp']) {
    this.path = socket;
    this.#server = http.createServer((request, response) => {
      const { pathname, searchParams } = new URL(request.url ?? '/', 'http://localhost');
      const isKnown = request.method === 'GET' && pathname === '/v1/sockets';
      const limit = Number(searchParams.get('limit') ?? DEFAULT_SOCKETS_LIMIT);
      const refused = isKnown ? { code: 'EINVAL', message: 'limit: expected a number, 0 or more' } : UNKNOWN;
      const isFine = isKnown && limit >= 0;
      response.writeHead(isFine ? 200 : isKnown ? 400 : 404, { 'content-type': 'application/json' });
      response.end(`${JSON.stringify(isFine ? socketsOf(name, tcp, limit) : { error: refused })}\n`);
    });
    this.#server.unref();
  }

  /** Listens no more, and removes the socket. */
  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}

const UNKNOWN = { code: 'ENOENT', message: 'there is: GET /v1/sockets' };

/** `NAME.sock`, or `NAME-PID.sock` where that is taken by another process that lives. */
async function freePath(directory: string, name: string): Promise<string> {
  const plain = path.join(directory, name + STACK_SOCKET_SUFFIX);
  const mine = path.join(directory, `${name}-${process.pid}${STACK_SOCKET_SUFFIX}`);
  for (const socket of [plain, mine]) {
    if (!fs.existsSync(socket)) return socket;
    if ((await askStack(socket, 0)) !== 'dead') continue;
    fs.rmSync(socket, { force: true });
    return socket;
  }
  throw new Error(`this process has two stacks with the name ${name} already: give this one another`);
}

function socketsOf(name: string, tcp: StackControlOptions['tcp'], limit: number): StackSockets {
  const sockets: SocketRow[] = [];
  let total = 0;
  tcp.forEach((connection) => {
    if (total++ >= limit) return;
    const { local, remote, ...rest } = tcp.info(connection);
    sockets.push({
      ...rest,
      local: { address: formatIp(local.address), port: local.port },
      remote: { address: formatIp(remote.address), port: remote.port },
    });
  });
  return { name, pid: process.pid, total, sockets };
}

/** Asks the stack behind a socket. `dead`: nobody listens there. Rejects when it answers nonsense, or not at all. */
export function askStack(socketPath: string, limit = DEFAULT_SOCKETS_LIMIT): Promise<StackSockets | 'dead'> {
  return new Promise((resolve, reject) => {
    const options = { socketPath, path: `/v1/sockets?limit=${limit}`, agent: false, timeout: ASK_TIMEOUT_MS };
    const request = http.get(options, (response) => {
      const parts: Buffer[] = [];
      response.on('data', (part: Buffer) => parts.push(part));
      response.on('error', reject);
      response.on('end', () => {
        try {
          resolve(JSON.parse(Buffer.concat(parts).toString()) as StackSockets);
        } catch {
          reject(new Error(`what answers at ${socketPath} is no stack`));
        }
      });
    });
    request.on('timeout', () => request.destroy(new Error(`no answer at ${socketPath} in ${ASK_TIMEOUT_MS / 1000} s`)));
    request.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') resolve('dead');
      else reject(error);
    });
  });
}

const ASK_TIMEOUT_MS = 5000;
