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

  /**
   * POSTs for an answer that goes on. Resolves with its first line; each later one goes to `onLine`, and `onEnd` is told when
   * the daemon has left. Rejects with the daemon's own words. The caller ends it with `close`.
   */
  follow(
    path: string,
    body: unknown,
    onLine: (line: unknown) => void,
    onEnd: () => void,
  ): Promise<{ first: unknown; close(): void }> {
    const text = JSON.stringify(body);
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
    return new Promise((resolve, reject) => {
      const request = http.request(
        { socketPath: this.#socket, method: 'POST', path, headers, agent: false },
        (response) => {
          let pending = '';
          let started = false;
          const hear = (line: string): void => {
            const json = parse(line);
            if (json === undefined) reject(this.#stranger());
            else if (response.statusCode! >= 300)
              reject(refusal(json, `POST ${path}: HTTP status ${response.statusCode}`));
            else if (started) onLine(json);
            else {
              started = true;
              resolve({ first: json, close: () => request.destroy() });
            }
          };
          response.setEncoding('utf8').on('data', (part: string) => {
            const lines = `${pending}${part}`.split('\n');
            pending = lines.pop()!;
            for (const line of lines) hear(line);
          });
          // Also after an error, such as the end of the daemon.
          response.on('error', () => {});
          response.on('close', () => {
            reject(this.#stranger());
            if (started) onEnd();
          });
        },
      );
      request.on('error', (error: NodeJS.ErrnoException) => reject(this.#explain(error)));
      request.end(text);
    });
  }

  #stranger(): Error {
    return new Error(`what answers at the control socket ${this.#socket} is no ringswitch daemon`);
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
            const json = answer === '' ? null : parse(answer);
            if (json === undefined) reject(this.#stranger());
            else if (response.statusCode! < 300) resolve(json);
            else reject(refusal(json, `${method} ${path}: HTTP status ${response.statusCode}`));
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

/** undefined for what is no JSON. */
function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function refusal(answer: unknown, otherwise: string): Error {
  return new Error((answer as { error?: { message?: string } } | null)?.error?.message ?? otherwise);
}
