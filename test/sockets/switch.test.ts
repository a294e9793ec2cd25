/** Two stacks on one switch, over vhost-user: HTTP on both ends, and a switch that is started again below them. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import type { Duplex } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { DaemonProcess, RINGSWITCH } from '../../lab/daemon.ts';
import { run } from '../../lab/program.ts';
import type { NetworkStack } from '../../sockets/network-stack.ts';
import { openStack } from '../../sockets/open.ts';
import { descriptorsOf } from '../helpers/descriptors.ts';

const BYTES = 5_000_000;

describe('two stacks on one switch', function () {
  this.timeout(40_000);
  let daemon: DaemonProcess;
  let directory: string;
  let sockets: string[];
  let a: NetworkStack;
  let b: NetworkStack;
  before(async () => {
    directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ringswitch-'));
    sockets = ['a', 'b'].map((name) => path.join(directory, `${name}.sock`));
    daemon = await DaemonProcess.start({
      config: { ports: sockets.map((socket, i) => ({ name: `port${i}`, vhostUser: { path: socket } })) },
    });
    const open = (i: number) =>
      openStack({
        name: `stack-${i}`,
        vhostUser: { path: sockets[i]!, reconnectMs: 50 },
        addresses: [`10.8.0.${i + 1}/24`],
        control: path.join(daemon.directory, 'stacks'),
      });
    a = await open(0);
    b = await open(1);
  });
  after(async () => {
    await a?.close();
    await b?.close();
    await daemon?.dispose();
    fs.rmSync(directory, { recursive: true });
  });

  it('speak HTTP with each other', async () => {
    const server = http.createServer((request, response) => void request.pipe(response));
    const listening = b.net.createServer((socket) => server.emit('connection', socket));
    listening.listen(80);
    await once(listening, 'listening');
    const big = randomBytes(BYTES);
    const request = http.request({
      host: '10.8.0.2',
      method: 'POST',
      createConnection: (...args) => a.net.createConnection(...args) as unknown as Duplex,
    });
    request.end(big);
    const [response] = (await once(request, 'response')) as [http.IncomingMessage];
    assert.ok(Buffer.concat(await response.toArray()).equals(big));
    listening.close();
  });

  it('go on with their connections when the switch was started again', async () => {
    const listener = await b.listen({ port: 7 });
    const socket = await a.connect({ host: '10.8.0.2', port: 7 });
    const { value: other } = await listener.next();
    other!.pipe(other!);
    socket.write('before');
    assert.equal(((await once(socket, 'data')) as [Buffer])[0].toString(), 'before');
    await daemon.stop();
    socket.write('meanwhile');
    await delay(300);
    await daemon.restart();
    assert.equal(((await once(socket, 'data')) as [Buffer])[0].toString(), 'meanwhile');
    socket.end();
    await once(socket, 'close');
    listener.close();
  });

  it('are shown together', async () => {
    const listener = await b.listen({ port: 9 });
    const socket = await a.connect({ host: '10.8.0.2', port: 9 });
    const words = await run([RINGSWITCH, 'sockets', '--tcp', '--socket', daemon.socket]);
    assert.match(words, /^stack-0, process \d+: \d+ sockets?$/m);
    assert.match(words, /^stack-1, process \d+: \d+ sockets?$/m);
    assert.match(words, new RegExp(`^ESTAB .* 10.8.0.1:${socket.localPort} +10.8.0.2:9$`, 'm'));
    assert.match(words, new RegExp(`^ESTAB .* 10.8.0.2:9 +10.8.0.1:${socket.localPort}$`, 'm'));
    socket.destroy();
    listener.close();
  });

  it('leave nothing open when they are closed, and end what was open on them', async () => {
    const before = descriptorsOf(process.pid).length;
    const listener = await b.listen({ port: 10 });
    const socket = await a.connect({ host: '10.8.0.2', port: 10 });
    const ended = once(socket, 'close');
    await a.close();
    await ended;
    assert.ok(descriptorsOf(process.pid).length < before);
    assert.throws(() => a.net.connect(1, '10.8.0.2'), /the stack stack-0 was closed: nothing can be opened on it/);
    // Its FIN was sent: the other side ends too.
    const { value: other } = await listener.next();
    assert.equal(other!.readableEnded, true);
    await b.close();
    assert.deepEqual(await listener.next(), { value: undefined, done: true });
  });
});
