/** Errors as Node's own sockets have them: `code`, `errno`, `syscall`, `address`, `port`, and the same words. */

import os from 'node:os';
import { getSystemErrorMap } from 'node:util';
import type { TcpError } from '../tcpip/tcp/api.ts';

/** EAI_NONAME as libuv numbers it: getaddrinfo(3) has no errno. */
const UV_ENOTFOUND = -3008;

export interface SystemErrorFields {
  address?: string;
  port?: number;
  /** More words behind the others, as ` - Local (0.0.0.0:0)`. */
  details?: string;
}

/** The negative errno of a code's name, as libuv has it; undefined for one that the system does not know. */
export function errnoOf(code: string): number | undefined {
  const number = (os.constants.errno as Record<string, number>)[code];
  return number === undefined ? undefined : -number;
}

/** `connect ECONNREFUSED 10.0.0.1:80`, `read ECONNRESET`. */
export function socketError(
  syscall: string,
  code: string,
  { address, port, details }: SystemErrorFields = {},
): NodeJS.ErrnoException {
  let message = `${syscall} ${code}`;
  if (address !== undefined) message += port !== undefined && port > 0 ? ` ${address}:${port}` : ` ${address}`;
  if (details !== undefined) message += ` - Local (${details})`;
  return withFields(new Error(message), { errno: errnoOf(code), code, syscall, address, port });
}

/** `listen EADDRINUSE: address already in use 10.0.0.1:80`. */
export function listenError(code: string, address: string, port: number): NodeJS.ErrnoException {
  const errno = errnoOf(code);
  const words = errno === undefined ? undefined : getSystemErrorMap().get(errno)?.[1];
  const what = words === undefined ? `listen ${code}` : `listen ${code}: ${words}`;
  const where = port > 0 ? `${address}:${port}` : address;
  return withFields(new Error(`${what} ${where}`), { code, errno, syscall: 'listen', address, port });
}

/** `getaddrinfo ENOTFOUND example.invalid`. */
export function lookupError(hostname: string): NodeJS.ErrnoException {
  const fields = { errno: UV_ENOTFOUND, code: 'ENOTFOUND', syscall: 'getaddrinfo', hostname };
  return withFields(new Error(`getaddrinfo ENOTFOUND ${hostname}`), fields);
}

/** What a connection ended with: while it was made, or later. */
export function connectionError(
  error: TcpError,
  connecting: boolean,
  { address, port }: SystemErrorFields,
): NodeJS.ErrnoException {
  const made = connecting ? socketError('connect', error.code, { address, port }) : socketError('read', error.code);
  made.cause = error;
  return made;
}

/** An error of Node's own kind, with a code such as ERR_SOCKET_CLOSED. */
export function nodeError<E extends Error>(made: E, code: string): E & { code: string } {
  return Object.assign(made, { code });
}

function withFields(error: Error, fields: Record<string, unknown>): NodeJS.ErrnoException {
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined) (error as unknown as Record<string, unknown>)[name] = value;
  }
  return error;
}
