/** The peers of linux-stack-world.ts over the kernel's TCP: ECHO, SINK and SOURCE (of the file named). Says `ready`. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import net from 'node:net';

const [ECHO, SINK, SOURCE] = [7, 9, 19];
const file = fs.readFileSync(process.argv[2]!);

function listen(port: number, serve: (socket: net.Socket) => unknown): Promise<unknown> {
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    // A connection that is reset is the other side's business.
    socket.on('error', () => {});
    serve(socket);
  });
  return new Promise((resolve) => server.listen(port, '::', 1000, () => resolve(server)));
}

await Promise.all([
  listen(ECHO, (socket) => socket.pipe(socket)),
  listen(SINK, (socket) => {
    const hash = createHash('sha256');
    socket.on('data', (data) => hash.update(data)).on('end', () => socket.end(hash.digest('hex')));
  }),
  listen(SOURCE, (socket) => socket.resume().end(file)),
]);
console.log('ready');
