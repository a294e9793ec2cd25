import assert from 'node:assert/strict';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { connect, listen } from '../../sockets/promises.ts';
import type { SocketStack } from '../../sockets/socket.ts';
import { FakeNetwork } from '../helpers/fake-tcp-user.ts';

describe('connections by promises', () => {
  let here: SocketStack;
  let there: SocketStack;
  const host = '10.0.0.2';
  beforeEach(() => {
    const network = new FakeNetwork();
    const none = { lookup: null, hold() {}, letGo() {}, attach() {}, detach() {} };
    here = { tcp: network.host(10, 0, 0, 1), ...none };
    there = { tcp: network.host(10, 0, 0, 2), ...none };
  });

  it('come one by one, in order', async () => {
    const listener = await listen(there, { port: 80 });
    assert.equal(listener.port, 80);
    assert.deepEqual(listener.address, { address: '::', family: 'IPv6', port: 80 });
    for (const word of ['a', 'b', 'c']) (await connect(here, { host, port: 80 })).end(word);
    const got: string[] = [];
    for await (const socket of listener) {
      got.push(Buffer.concat(await socket.toArray()).toString());
      if (got.length === 3) break;
    }
    assert.deepEqual(got, ['a', 'b', 'c']);
    await assert.rejects(connect(here, { host, port: 80 }), { code: 'ECONNREFUSED' }, 'leaving the loop closes it');
    assert.deepEqual(await listener.next(), { value: undefined, done: true });
  });

  it('are waited for, until the listener is closed', async () => {
    const listener = await listen(there, { port: 80 });
    const first = listener.next();
    const second = listener.next();
    const socket = await connect(here, { host, port: 80 });
    assert.equal((await first).value?.remotePort, socket.localPort);
    listener.close();
    listener.close();
    assert.deepEqual(await second, { value: undefined, done: true });
    assert.equal(socket.destroyed, false, 'those that were taken stay');
  });

  it('are refused when too many wait, and reset when nobody will take them', async () => {
    const codes: unknown[] = [];
    {
      await using listener = await listen(there, { port: 80, pending: 2 });
      for (let i = 0; i < 3; i++) {
        const socket = await connect(here, { host, port: 80 });
        socket.on('error', ({ code }: NodeJS.ErrnoException) => codes.push(code));
      }
      await delay(5);
      assert.deepEqual([listener.dropped, codes], [1, ['ECONNRESET']]);
    }
    await delay(5);
    assert.deepEqual(codes, ['ECONNRESET', 'ECONNRESET', 'ECONNRESET']);
  });

  it('that end while they wait are given all the same', async () => {
    const listener = await listen(there, { port: 80 });
    const socket = await connect(here, { host, port: 80 });
    await delay(5);
    socket.resetAndDestroy();
    await delay(5);
    const { value } = await listener.next();
    assert.equal(value?.destroyed, true);
    assert.equal(value?.errored?.message, 'read ECONNRESET');
    listener.close();
  });

  it('obey signals', async () => {
    await assert.rejects(connect(here, { host, port: 80, signal: AbortSignal.abort() }), { name: 'AbortError' });
    await assert.rejects(listen(there, { signal: AbortSignal.abort() }), { name: 'AbortError' });
    const stop = new AbortController();
    const listener = await listen(there, { port: 80, signal: stop.signal });
    const controller = new AbortController();
    const connecting = connect(here, { host, port: 80, signal: controller.signal });
    controller.abort();
    await assert.rejects(connecting, { name: 'AbortError' });
    const later = new AbortController();
    const socket = await connect(here, { host, port: 80, signal: later.signal });
    later.abort();
    assert.equal(((await once(socket, 'error')) as [Error])[0].name, 'AbortError');
    stop.abort();
    assert.equal((await listener.return()).done, true);
    await assert.rejects(connect(here, { host, port: 80 }), { code: 'ECONNREFUSED' });
  });

  it('refuse as sockets do', async () => {
    await assert.rejects(connect(here, { host, port: 81 }), { code: 'ECONNREFUSED', syscall: 'connect', port: 81 });
    await assert.rejects(connect(here, { host: '9.9.9.9', port: 81 }), {
      code: 'ENETUNREACH',
      message: 'connect ENETUNREACH 9.9.9.9:81 - Local (0.0.0.0:0)',
    });
    await assert.rejects(connect(here, { host: 'name.test', port: 81 }), {
      code: 'ENOTFOUND',
      message: 'getaddrinfo ENOTFOUND name.test',
    });
    await listen(there, { port: 80 });
    await assert.rejects(listen(there, { port: 80 }), {
      code: 'EADDRINUSE',
      message: 'listen EADDRINUSE: address already in use :::80',
    });
    await assert.rejects(connect(here, { path: '/run/x.sock' } as never), { code: 'ERR_INVALID_ARG_VALUE' });
    await assert.rejects(connect(here, { host, port: 70_000 }), { code: 'ERR_SOCKET_BAD_PORT' });
  });
});
