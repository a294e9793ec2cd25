/**
 * What a stack tells about itself: HTTP and JSON on a Unix socket in a directory that all stacks of a machine share, for
 * `ringswitch sockets`.
 *
 *     GET /v1/sockets?limit=N&kinds=tcp,udp      {@link StackSockets}
 *
 * It does not keep the process alive. The directory is its owner's alone. A stack that dies leaves its socket behind, which whoever
 * lists them removes.
 */
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { formatIp } from '../packet/ip-text.ts';
import type { Family } from '../tcpip/packet.ts';
import type { Listener, TcpInfo, TcpUser } from '../tcpip/tcp/api.ts';
import type { UdpSocket, UdpUser } from '../tcpip/udp/api.ts';

/** Next to the daemon's control socket. */
export const DEFAULT_STACKS_DIRECTORY = '/run/ringswitch/stacks';
export const STACK_SOCKET_SUFFIX = '.sock';
/** More rows than anybody reads; a stack may have millions of connections. */
export const DEFAULT_SOCKETS_LIMIT = 1000;
const DIRECTORY_MODE = 0o700;
/** Of the name in a file's name; a path of a socket has 108 bytes. */
const MAX_NAME = 40;

/** What can be asked for; a UDP socket that is not connected listens, as with ss(8). */
export const SOCKET_KINDS = ['tcp', 'tcp-listening', 'udp', 'udp-listening'] as const;
export type SocketKind = (typeof SOCKET_KINDS)[number];
const DEFAULT_KINDS: readonly SocketKind[] = ['tcp', 'udp'];

export interface SocketEnd {
  /** As text; `0.0.0.0` and `::` are any of a family, `*` any of both. */
  address: string;
  port: number;
}

/** A connection: what TcpInfo has, with addresses as text. */
export interface ConnectionRow extends Omit<TcpInfo, 'local' | 'remote'> {
  kind: 'tcp';
  local: SocketEnd;
  remote: SocketEnd;
}

/** The queues are connections: those that wait for the last ACK of their handshake, and the backlog. */
export interface ListenerRow {
  kind: 'tcp-listening';
  state: 'LISTEN';
  receiveQueue: number;
  sendQueue: number;
  local: SocketEnd;
  remote: null;
}

/** The queues are bytes. */
export interface UdpRow {
  kind: 'udp' | 'udp-listening';
  state: 'ESTABLISHED' | 'UNCONNECTED';
  receiveQueue: number;
  sendQueue: number;
  local: SocketEnd;
  remote: SocketEnd | null;
}

export type SocketRow = ConnectionRow | ListenerRow | UdpRow;

export interface StackSockets {
  name: string;
  pid: number;
  /** Those of the kinds asked for; `sockets` may have fewer. */
  total: number;
  /** UDP's first, then listeners, then connections. */
  sockets: SocketRow[];
}

export interface StackControlOptions {
  /** Of the stack; letters, digits, and `-_.`, at most 40. */
  name: string;
  tcp: Pick<TcpUser, 'forEach' | 'forEachListener' | 'info'>;
  udp: Pick<UdpUser, 'forEach'>;
  /** Made if missing. */
  directory?: string;
}

export class StackControl {
  readonly path: string;
  readonly #server: http.Server;

  /** Listens. Rejects when directory or socket cannot be made. */
  static async start(options: StackControlOptions): Promise<StackControl> {
    const { name, directory = DEFAULT_STACKS_DIRECTORY } = options;
    if (!/^[\w.-]+$/.test(name) || name.length > MAX_NAME) {
      throw new RangeError(`"${name}" is no name for a stack: 1 to ${MAX_NAME} letters, digits, and - _ .`);
    }
    fs.mkdirSync(directory, { recursive: true, mode: DIRECTORY_MODE });
    const socket = await freePath(directory, name);
    const control = new StackControl(socket, options);
    await new Promise<void>((resolve, reject) => {
      control.#server.once('error', reject);
      control.#server.listen(socket, resolve);
    });
    return control;
  }

  private constructor(socket: string, options: StackControlOptions) {
    this.path = socket;
    this.#server = http.createServer((request, response) => {
      const { pathname, searchParams } = new URL(request.url ?? '/', 'http://localhost');
      const isKnown = request.method === 'GET' && pathname === '/v1/sockets';
      const limit = Number(searchParams.get('limit') ?? DEFAULT_SOCKETS_LIMIT);
      const kinds = searchParams.get('kinds')?.split(',') ?? DEFAULT_KINDS;
      const refused = isKnown ? refusal(limit, kinds) : UNKNOWN;
      response.writeHead(refused === null ? 200 : isKnown ? 400 : 404, { 'content-type': 'application/json' });
      const answer = refused === null ? socketsOf(options, limit, kinds as SocketKind[]) : { error: refused };
      response.end(`${JSON.stringify(answer)}\n`);
    });
    this.#server.unref();
  }

  /** Listens no more, and removes the socket. */
  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}

interface Refusal {
  code: string;
  message: string;
}

const UNKNOWN: Refusal = { code: 'ENOENT', message: 'there is: GET /v1/sockets' };

function refusal(limit: number, kinds: readonly string[]): Refusal | null {
  if (!(limit >= 0)) return { code: 'EINVAL', message: 'limit: expected a number, 0 or more' };
  const isKind = (kind: string): boolean => (SOCKET_KINDS as readonly string[]).includes(kind);
  if (kinds.every(isKind)) return null;
  return { code: 'EINVAL', message: `kinds: expected some of ${SOCKET_KINDS.join(', ')}, with commas between them` };
}

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

function socketsOf({ name, tcp, udp }: StackControlOptions, limit: number, kinds: readonly SocketKind[]): StackSockets {
  const sockets: SocketRow[] = [];
  let total = 0;
  const add = <Shown>(shown: Shown, rowOf: (shown: Shown) => SocketRow): void => {
    if (total++ < limit) sockets.push(rowOf(shown));
  };
  udp.forEach((socket) => {
    if (kinds.includes(kindOf(socket))) add(socket, udpRow);
  });
  if (kinds.includes('tcp-listening')) tcp.forEachListener((listener) => add(listener, listenerRow));
  if (kinds.includes('tcp')) {
    tcp.forEach((connection) => {
      add(connection, (one) => connectionRow(tcp.info(one)));
    });
  }
  return { name, pid: process.pid, total, sockets };
}

function connectionRow({ local, remote, ...rest }: TcpInfo): ConnectionRow {
  return { kind: 'tcp', ...rest, local: endOf(local.address, local.port), remote: endOf(remote.address, remote.port) };
}

function listenerRow({ address, port, ipv6Only, waiting, backlog }: Listener): ListenerRow {
  const local = endOf(address, port, 6, ipv6Only);
  return { kind: 'tcp-listening', state: 'LISTEN', receiveQueue: waiting, sendQueue: backlog, local, remote: null };
}

const kindOf = ({ remoteAddress }: UdpSocket): UdpRow['kind'] => (remoteAddress === null ? 'udp-listening' : 'udp');

function udpRow(socket: UdpSocket): UdpRow {
  const { family, ipv6Only, port, localAddress, remoteAddress, remotePort, receiveQueue } = socket;
  return {
    kind: kindOf(socket),
    state: remoteAddress === null ? 'UNCONNECTED' : 'ESTABLISHED',
    receiveQueue,
    // What cannot be sent at once is not kept.
    sendQueue: 0,
    local: endOf(localAddress, port, family, ipv6Only),
    remote: remoteAddress === null ? null : endOf(remoteAddress, remotePort),
  };
}

/** An IPv6 socket without an address also takes IPv4, unless told otherwise. */
function endOf(address: Uint8Array | null, port: number, family: Family = 6, ipv6Only = false): SocketEnd {
  if (address !== null) return { address: formatIp(address), port };
  return { address: family === 4 ? '0.0.0.0' : ipv6Only ? '::' : '*', port };
}

/** Asks the stack behind a socket. `dead`: nobody listens there. Rejects when it answers nonsense, or not at all. */
export function askStack(
  socketPath: string,
  limit = DEFAULT_SOCKETS_LIMIT,
  kinds = DEFAULT_KINDS,
): Promise<StackSockets | 'dead'> {
  return new Promise((resolve, reject) => {
    const options = {
      socketPath,
      path: `/v1/sockets?limit=${limit}&kinds=${kinds.join()}`,
      agent: false,
      timeout: ASK_TIMEOUT_MS,
    };
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
