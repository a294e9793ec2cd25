/** The control API: HTTP and JSON on a Unix socket that only its owner may open (docs/control-api.md). */
import http from 'node:http';
import path from 'node:path';
import { z } from 'zod';
import type { Log } from '../fuse/log.ts';
import { makeDirectory } from '../fuse/make-directory.ts';
import { MAX_FRAME_BYTES } from '../memory/frame-batch.ts';
import { BPF_MAXINSNS } from '../packet/bpf.ts';
import {
  agingSeconds,
  cardDescriptors,
  cardDevice,
  cardMtu,
  cardQueues,
  interfaceName,
  logLevel,
  persistentFlag,
  socketPath,
  vhostUserMode,
  vhostUserQueues,
  withoutIommuFlag,
} from './config.ts';
import { CAPTURE_DIRECTIONS, type Control, ControlError, LiveAnswer } from './control.ts';
import { impairmentNumbers } from './impairment-schema.ts';
import { freeSocketPath, makePrivately } from './socket-file.ts';

const MAX_BODY_BYTES = 65_536;
/** A client has this long to say what it wants. */
const REQUEST_TIMEOUT_MS = 10_000;

/** One resource: its methods by name. `name` is what stands where the route has NAME. */
interface Route {
  pattern: string;
  methods: Record<string, (body: unknown, name: string) => unknown>;
}

const KIND = 'expected "tap", "vhost-user" or "nic"';
const kindBody = z.looseObject(
  { kind: z.enum(['tap', 'vhost-user', 'nic'], KIND) },
  'expected a JSON object with the key kind',
);
const tapBody = body({
  kind: z.literal('tap'),
  name: interfaceName,
  persistent: persistentFlag.default(false),
});
const vhostUserBody = body({
  kind: z.literal('vhost-user'),
  name: interfaceName,
  path: socketPath,
  mode: vhostUserMode,
  queues: vhostUserQueues,
});
const cardBody = body({
  kind: z.literal('nic'),
  name: interfaceName,
  device: cardDevice,
  queues: cardQueues,
  descriptors: cardDescriptors,
  mtu: cardMtu,
  withoutIommu: withoutIommuFlag,
});
const portBody = body({
  link: z.enum(['up', 'down'], 'expected "up" or "down"').optional(),
  impairment: impairmentNumbers.optional(),
});
const levelBody = body({ level: logLevel });
const agingBody = body({ aging: agingSeconds });
const PID = 'expected the id of a process';
const FD = 'expected the number of a descriptor';
/** A ring must hold two of the longest frames. */
const MIN_RING_BYTES = 2 ** 18;
const MAX_RING_BYTES = 2 ** 30;
const DEFAULT_RING_BYTES = 2 ** 24;
/** What tcpdump takes at the most (MAXIMUM_SNAPLEN of libpcap). */
const MAX_SNAPLEN = 2 ** 18;
const SNAPLEN = `expected a number of bytes from 1 to ${MAX_SNAPLEN}`;
const RING_BYTES = `expected a power of two from ${MIN_RING_BYTES} to ${MAX_RING_BYTES}`;
const FILTER = `expected a list of 1 to ${BPF_MAXINSNS} instructions of classic BPF, each [code, jt, jf, k]`;
const word = z.int(FILTER).min(0, FILTER).max(0xffff_ffff, FILTER);
const captureBody = body({
  snaplen: z.int(SNAPLEN).min(1, SNAPLEN).max(MAX_SNAPLEN, SNAPLEN).default(MAX_FRAME_BYTES),
  direction: z.enum(CAPTURE_DIRECTIONS, 'expected "in", "out" or "both"').default('both'),
  ringBytes: z
    .int(RING_BYTES)
    .min(MIN_RING_BYTES, RING_BYTES)
    .max(MAX_RING_BYTES, RING_BYTES)
    .refine((bytes) => Number.isInteger(Math.log2(bytes)), RING_BYTES)
    .default(DEFAULT_RING_BYTES),
  filter: z
    .array(z.tuple([word, word, word, word], FILTER), FILTER)
    .min(1, FILTER)
    .max(BPF_MAXINSNS, FILTER)
    .nullable()
    .default(null),
});
const listenerBody = body({ pid: z.int(PID).min(1, PID), fd: z.int(FD).min(0, FD) });

/** A body that refuses what it does not know, and says what it knows. */
function body<Shape extends z.ZodRawShape>(shape: Shape) {
  const keys = Object.keys(shape).join(', ');
  return z.strictObject(shape, {
    error: ({ code, keys: unknown }) =>
      code === 'unrecognized_keys'
        ? `unknown key ${(unknown as string[]).join(', ')}; known are ${keys}`
        : `expected a JSON object with the keys ${keys}`,
  });
}

function routes(control: Control): Route[] {
  const port = (name: string): unknown => {
    const ports = control.ports();
    const found = ports.find((one) => one.name === name);
    if (found) return found;
    const known = ports.map((one) => one.name).join(', ') || 'none';
    throw new ControlError(404, 'ENODEV', `there is no port ${name}; there are: ${known}`);
  };
  return [
    { pattern: '/v1/status', methods: { GET: () => control.status() } },
    {
      pattern: '/v1/ports',
      methods: {
        GET: () => control.ports(),
        POST: (body) => {
          const { kind } = check(kindBody, body);
          if (kind === 'tap') {
            const { name, persistent } = check(tapBody, body);
            return control.addTap({ name, persistent });
          }
          if (kind === 'nic') {
            const { kind: _, ...options } = check(cardBody, body);
            return control.addCard(options);
          }
          const { kind: _, ...options } = check(vhostUserBody, body);
          return control.addVhostUser(options);
        },
      },
    },
    {
      pattern: '/v1/ports/NAME',
      methods: {
        GET: (_, name) => port(name),
        PATCH: (body, name) => control.setPort(name, check(portBody, body)),
        DELETE: (_, name) => control.removePort(name),
      },
    },
    {
      pattern: '/v1/ports/NAME/nic',
      methods: { GET: (_, name) => control.cardStatistics(name) },
    },
    {
      pattern: '/v1/ports/NAME/captures',
      methods: { POST: (body, name) => control.capture(name, check(captureBody, body ?? {})) },
    },
    { pattern: '/v1/captures', methods: { GET: () => control.captures() } },
    { pattern: '/v1/captures/NAME', methods: { DELETE: (_, id) => control.stopCapture(id) } },
    {
      pattern: '/v1/fdb',
      methods: { GET: () => control.fdb(), PUT: (body) => control.setAging(check(agingBody, body).aging) },
    },
    { pattern: '/v1/rings', methods: { GET: () => control.rings() } },
    { pattern: '/v1/memory', methods: { GET: () => control.memory() } },
    { pattern: '/v1/lanes', methods: { GET: () => control.lanes() } },
    { pattern: '/v1/log', methods: { PUT: (body) => control.setLogLevel(check(levelBody, body).level) } },
    {
      pattern: '/v1/exec/listeners',
      methods: {
        POST: (body) => {
          const { pid, fd } = check(listenerBody, body);
          return control.adoptListener(pid, fd);
        },
      },
    },
  ];
}

function check<T extends z.ZodType>(schema: T, body: unknown): z.output<T> {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const problems = new Set(result.error.issues.map((issue) => `${issue.path.join('.') || 'body'}: ${issue.message}`));
  throw new ControlError(400, 'EINVAL', [...problems].join('; '));
}

export class ControlServer {
  readonly #server: http.Server;
  readonly #routes: Route[];
  readonly #log: Log;

  /** Listens on `socket`. Rejects when another daemon does; a dead daemon's socket is replaced. */
  static async start(socket: string, control: Control, log: Log): Promise<ControlServer> {
    await freeControlSocket(socket);
    makeDirectory(path.dirname(socket), 'control.socket');
    const server = new ControlServer(control, log);
    await server.#listen(socket);
    return server;
  }

  private constructor(control: Control, log: Log) {
    this.#routes = routes(control);
    this.#log = log;
    const limits = { headersTimeout: REQUEST_TIMEOUT_MS, requestTimeout: REQUEST_TIMEOUT_MS };
    this.#server = http.createServer(limits, (request, response) => void this.#serve(request, response));
  }

  #listen(socket: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', (error) => reject(new Error(`cannot listen on the control socket: ${error.message}`)));
      // bind(2) happens inside listen(), so there is no moment with another mode.
      makePrivately(() => this.#server.listen(socket, () => resolve()));
    });
  }

  /** Stops listening and drops connections; the socket file goes. */
  async stop(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.#server.closeAllConnections();
    await closed;
  }

  async #serve(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    try {
      const { pathname } = new URL(request.url ?? '/', 'http://localhost');
      const { route, name } = this.#find(pathname);
      const handler = route.methods[request.method ?? ''];
      if (!handler) {
        const allowed = Object.keys(route.methods).join(', ');
        response.setHeader('allow', allowed);
        throw new ControlError(405, 'EMETHOD', `${request.method} ${route.pattern}: only ${allowed}`);
      }
      const body = await readBody(request);
      const result = await handler(body, name);
      if (result instanceof LiveAnswer) this.#follow(response, result);
      else if (result === undefined) response.writeHead(204).end();
      else answer(response, request.method === 'POST' ? 201 : 200, result);
    } catch (error) {
      this.#refuse(request, response, error as Error);
    }
  }

  /** The client ends it: until it has, what the first line speaks of stays. */
  #follow(response: http.ServerResponse, { first, last, close }: LiveAnswer): void {
    if (response.destroyed) {
      close();
      return;
    }
    response.on('close', close);
    response.writeHead(201, { 'content-type': 'application/x-ndjson' }).write(`${JSON.stringify(first)}\n`);
    void last.then((line) => {
      if (!response.destroyed) response.write(`${JSON.stringify(line)}\n`);
    });
  }

  #find(pathname: string): { route: Route; name: string } {
    const parts = pathname.split('/');
    for (const route of this.#routes) {
      const pattern = route.pattern.split('/');
      if (pattern.length !== parts.length) continue;
      if (pattern.every((part, i) => part === 'NAME' || part === parts[i])) {
        const at = pattern.indexOf('NAME');
        return { route, name: at < 0 ? '' : decodeName(parts[at]!) };
      }
    }
    const known = this.#routes.map(({ methods, pattern }) => `${Object.keys(methods).join('|')} ${pattern}`);
    throw new ControlError(404, 'ENOENT', `no ${pathname}; there are: ${known.join(', ')}`);
  }

  #refuse(request: http.IncomingMessage, response: http.ServerResponse, error: Error): void {
    if (error instanceof ControlError) {
      answer(response, error.status, { error: { code: error.code, message: error.message } });
      return;
    }
    this.#log.error(`control: ${request.method} ${request.url}: ${error.stack}`);
    answer(response, 500, { error: { code: 'EIO', message: error.message } });
  }
}

function decodeName(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new ControlError(400, 'EINVAL', `${part} is not percent-encoded UTF-8`);
  }
}

function answer(response: http.ServerResponse, status: number, result: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(`${JSON.stringify(result)}\n`);
}

async function readBody(request: http.IncomingMessage): Promise<unknown> {
  const parts: Buffer[] = [];
  let bytes = 0;
  // Read to its end, though not kept: a connection closed under a writing client would take the answer with it.
  for await (const part of request) {
    bytes += (part as Buffer).length;
    if (bytes <= MAX_BODY_BYTES) parts.push(part as Buffer);
  }
  if (bytes > MAX_BODY_BYTES)
    throw new ControlError(413, 'EMSGSIZE', `the body is longer than ${MAX_BODY_BYTES} bytes`);
  if (bytes === 0) return undefined;
  try {
    return JSON.parse(Buffer.concat(parts).toString());
  } catch (error) {
    throw new ControlError(400, 'EINVAL', `the body is no JSON: ${(error as Error).message}`);
  }
}

/** Throws when the socket's place is taken. */
async function freeControlSocket(socket: string): Promise<void> {
  const state = await freeSocketPath(socket);
  if (state === 'no socket') {
    throw new Error(`${socket} exists and is no socket; remove it, or set control.socket to another path`);
  }
  if (state === 'alive') {
    throw new Error(`another daemon listens on ${socket}; stop it, or set control.socket to another path`);
  }
}
