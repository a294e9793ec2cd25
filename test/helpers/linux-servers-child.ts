/**
 * Servers over the kernel's TCP, for tests from a stack's side: HTTP on 8080 (what is uploaded comes back), TLS with the same
 * on 8443, Redis on 6379. Key and certificate come as paths. Says `ready`.
 */
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import { serveRedis } from './tiny-redis.ts';

const [keyFile = '', certFile = ''] = process.argv.slice(2);
const echo: http.RequestListener = (request, response) => void request.pipe(response);
const store = new Map<string, string>();
const servers = [
  http.createServer(echo).listen(8080, '::'),
  https.createServer({ key: fs.readFileSync(keyFile), cert: fs.readFileSync(certFile) }, echo).listen(8443, '::'),
  net.createServer((socket) => serveRedis(socket, store)).listen(6379, '::'),
];
await Promise.all(servers.map((server) => new Promise((resolve) => server.once('listening', resolve))));
console.log('ready');
