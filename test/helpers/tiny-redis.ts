/** A Redis server of a few commands (RESP 2), over any stream. */
import type { Duplex } from 'node:stream';

/** Serves one connection from `store`. */
export function serveRedis(socket: Duplex, store: Map<string, string>): void {
  let waiting = Buffer.alloc(0);
  socket.on('data', (chunk: Buffer) => {
    waiting = Buffer.concat([waiting, chunk]);
    for (let parsed = parse(waiting); parsed !== null; parsed = parse(waiting)) {
      waiting = waiting.subarray(parsed.end);
      socket.write(answer(parsed.words, store));
    }
  });
}

/** `*2\r\n$3\r\nGET\r\n$1\r\na\r\n`: null until it is whole. */
function parse(bytes: Buffer): { words: string[]; end: number } | null {
  let at = 0;
  const line = (): string | null => {
    const end = bytes.indexOf('\r\n', at);
    if (end < 0) return null;
    const text = bytes.toString('latin1', at + 1, end);
    at = end + 2;
    return text;
  };
  const count = line();
  if (count === null) return null;
  const words: string[] = [];
  for (let i = 0; i < Number(count); i++) {
    const length = line();
    if (length === null || at + Number(length) + 2 > bytes.length) return null;
    words.push(bytes.toString('utf8', at, at + Number(length)));
    at += Number(length) + 2;
  }
  return { words, end: at };
}

const bulk = (text: string | undefined): string =>
  text === undefined ? '$-1\r\n' : `$${Buffer.byteLength(text)}\r\n${text}\r\n`;

function answer([command = '', key = '', value = '']: string[], store: Map<string, string>): string {
  switch (command.toUpperCase()) {
    case 'PING':
      return '+PONG\r\n';
    case 'GET':
      return bulk(store.get(key));
    case 'SET':
      store.set(key, value);
      return '+OK\r\n';
    case 'INCR': {
      const next = Number(store.get(key) ?? 0) + 1;
      store.set(key, String(next));
      return `:${next}\r\n`;
    }
    case 'INFO':
      return bulk('redis_version:7.0.0\r\nloading:0\r\n');
    default:
      return `-ERR unknown command '${command}'\r\n`;
  }
}
