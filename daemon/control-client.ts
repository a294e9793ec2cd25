/** Asks a running daemon over its control socket (docs/control-api.md). */
import http from 'node:http';

const TIMEOUT_MS = 10_000;

export class ControlClient {
  readonly #socket: string;

  constructor(socket: string) {
    this.#socket = socket;
  }

  get(path: string): Promise<unknown> {
    return this.#ask('GET', path);
  }

  post(path: string, body: unknown): Promise<unknown> {
    return this.#ask('POST', path, body);
  }

  put(path: string, body: unknown): Promise<unknown> {
    return this.#ask('PUT', path, body);
  }

  patch(path: string, body: unknown): Promise<unknown> {
    return this.#ask('PATCH', path, body);
  }

  delete(path: string): Promise<unknown> {
    return this.#ask('DELETE', path);
  }

  /** Resolves with the JSON of a 2xx answer (null when it has none). Rejects with the daemon's own words otherwise. */
  #ask(method: string, path: string, body?: unknown): Promise<unknown> {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const headers =
      text === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
    return new Promise((resolve, reject) => {
      const request = http.request(
        { socketPath: this.#socket, method, path, headers, agent: false, timeout: TIMEOUT_MS },
        (response) => {
          const parts: Buffer[] = [];
          response.on('data', (part: Buffer) => parts.push(part));
          response.on('error', (error) => reject(this.#explain(error)));
          response.on('end', () => {
            const answer = Buffer.concat(parts).toString();
            let json: { error?: { message?: string } } | null;
            try {
              json = answer === '' ? null : JSON.parse(answer);
            } catch {
              reject(new Error(`what answers at the control socket ${this.#socket} is no ringswitch daemon`));
              return;
            }
            if (response.statusCode! < 300) resolve(json);
            else reject(new Error(json?.error?.message ?? `${method} ${path}: HTTP status ${response.statusCode}`));
          });
        },
      );
      request.on('timeout', () => request.destroy(new Error(`no answer in ${TIMEOUT_MS / 1000} s`)));
      request.on('error', (error: NodeJS.ErrnoException) => reject(this.#explain(error)));
      request.end(text);
    });
  }

  #explain(error: NodeJS.ErrnoException): Error {
    const at = `the control socket ${this.#socket}`;
    if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED') {
      return new Error(`no daemon answers at ${at}: start one (ringswitch daemon), or name its socket (--socket)`);
    }
    if (error.code === 'EACCES' || error.code === 'EPERM')
      return new Error(`no permission for ${at}: it is its owner’s; run as root`);
    return new Error(`${at}: ${error.message}`);
  }
}
