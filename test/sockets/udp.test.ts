/** node:dgram's behaviour, asked of Node's sockets first and then of ours; and datagrams by promises. */
import assert from 'node:assert/strict';
import dgram from 'node:dgram';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import type { DatagramSocket, Dgram, RemoteInfo } from '../../sockets/dgram.ts';
import { NetworkStack } from '../../sockets/network-stack.ts';
import { CableDevice } from '../helpers/cable-device.ts';
import { until } from '../helpers/until.ts';

interface DatagramHosts {
  client: Dgram;
  server: Dgram;
  host: string;
  clientHost: string;
  close(): void;
}
interface DatagramWorld {
  name: string;
  make(): Promise<DatagramHosts>;
}

const nodeWorld: DatagramWorld = {
  name: "Node's own datagram sockets",
  async make() {
    const own = dgram as unknown as Dgram;
    return { client: own, server: own, host: '127.0.0.1', clientHost: '127.0.0.1', close() {} };
  },
};

async function stacks(): Promise<[NetworkStack, NetworkStack]> {
  const [a, b] = CableDevice.pair();
  const ipv6 = { dadTransmits: 0 };
  return [
    await NetworkStack.start(a, { addresses: ['10.0.0.1/24', 'fd00::1/64'], ipv6, control: false }),
    await NetworkStack.start(b, { addresses: ['10.0.0.2/24', 'fd00::2/64'], ipv6, control: false }),
  ];
}

const stackWorld: DatagramWorld = {
  name: 'datagram sockets of two stacks',
  async make() {
    const [client, server] = await stacks();
    return {
      client: client.dgram,
      server: server.dgram,
      host: '10.0.0.2',
      clientHost: '10.0.0.1',
      close() {
        client.destroy();
        server.destroy();
      },
    };
  },
};

for (const world of [nodeWorld, stackWorld]) {
  describe(world.name, () => {
    let hosts: DatagramHosts;
    const opened: DatagramSocket[] = [];
    beforeEach(async () => {
      hosts = await world.make();
    });
    afterEach(() => {
      for (const socket of opened.splice(0)) {
        try {
          socket.close();
        } catch {
          // The test has closed it.
        }
      }
      hosts.close();
    });
    const client = (options = {}): DatagramSocket => {
      const socket = hosts.client.createSocket({ type: 'udp4', ...options });
      opened.push(socket);
      return socket;
    };
    async function server(onMessage?: (message: Buffer, info: RemoteInfo) => void, port = 0): Promise<DatagramSocket> {
      const socket = hosts.server.createSocket('udp4', onMessage);
      opened.push(socket);
      socket.bind(port, hosts.host);
      await once(socket, 'listening');
      return socket;
    }

    it('send and receive, and say who', async () => {
      const infos: RemoteInfo[] = [];
      const echo = await server((message, info) => {
        infos.push(info);
        echo.send(message, info.port, info.address);
      });
      const { address, family, port } = echo.address();
      assert.deepEqual([address, family], [hosts.host, 'IPv4']);
      const socket = client();
      const answers: string[] = [];
      socket.on('message', (message: Buffer) => answers.push(message.toString()));
      socket.send('text', port, hosts.host);
      socket.send(Buffer.from('bytes'), port, hosts.host);
      socket.send(Buffer.from('xxparts'), 2, 5, port, hosts.host);
      socket.send([Buffer.from('sev'), 'eral'], port, hosts.host);
      const sent = await new Promise((resolve) =>
        socket.send('', port, hosts.host, (...args: unknown[]) => resolve(args)),
      );
      assert.deepEqual(sent, [null, 0]);
      await until('five answers', () => answers.length >= 5);
      assert.deepEqual(answers, ['text', 'bytes', 'parts', 'several', '']);
      assert.deepEqual(infos[0], { address: hosts.clientHost, family: 'IPv4', port: socket.address().port, size: 4 });
    });

    it('carry large datagrams in fragments', async () => {
      const got: Buffer[] = [];
      const sink = await server((message) => got.push(message));
      const large = Buffer.from(Array.from({ length: 30_000 }, (_, i) => i & 0xff));
      client().send(large, sink.address().port, hosts.host);
      await until('a datagram', () => got.length > 0);
      assert.ok(got[0]!.equals(large));
    });

    it('connect', async () => {
      const echo = await server((message, { port, address }) => echo.send(message, port, address));
      const socket = client();
      assert.throws(() => socket.remoteAddress(), { code: 'ERR_SOCKET_DGRAM_NOT_CONNECTED' });
      socket.connect(echo.address().port, hosts.host);
      await once(socket, 'connect');
      assert.deepEqual(socket.remoteAddress(), { address: hosts.host, family: 'IPv4', port: echo.address().port });
      socket.send('hello');
      assert.equal(((await once(socket, 'message')) as [Buffer])[0].toString(), 'hello');
      assert.throws(() => socket.connect(1), { code: 'ERR_SOCKET_DGRAM_IS_CONNECTED' });
      socket.disconnect();
      assert.throws(() => socket.disconnect(), { code: 'ERR_SOCKET_DGRAM_NOT_CONNECTED' });
    });

    it('tell of a port where nobody listens', async () => {
      const gone = await server();
      const { port } = gone.address();
      await new Promise<void>((done) => gone.close(done));
      const socket = client();
      socket.connect(port, hosts.host);
      await once(socket, 'connect');
      socket.send('x');
      const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException];
      assert.deepEqual(
        [error.message, error.code, error.syscall, error.errno],
        ['recvmsg ECONNREFUSED', 'ECONNREFUSED', 'recvmsg', -111],
      );
    });

    it('tell of addresses and ports that cannot be had', async () => {
      const taken = await server();
      const other = hosts.server.createSocket('udp4');
      other.bind(taken.address().port, hosts.host);
      const [inUse] = (await once(other, 'error')) as [NodeJS.ErrnoException & { port: number }];
      assert.deepEqual(
        [inUse.message, inUse.code, inUse.port],
        [`bind EADDRINUSE ${hosts.host}:${taken.address().port}`, 'EADDRINUSE', taken.address().port],
      );
      const foreign = hosts.server.createSocket('udp4');
      foreign.bind(5555, '203.0.113.9');
      const [notOurs] = (await once(foreign, 'error')) as [NodeJS.ErrnoException];
      assert.equal(notOurs.message, 'bind EADDRNOTAVAIL 203.0.113.9:5555');
    });

    it('tell of messages that are too long', async () => {
      const { port } = (await server()).address();
      const told = (options = {}) =>
        new Promise<NodeJS.ErrnoException & { address?: string }>((resolve) =>
          client(options).send(Buffer.alloc(66_000), port, hosts.host, (error: Error | null) =>
            resolve(error as Error),
          ),
        );
      const { message, code, syscall, address } = await told();
      assert.deepEqual(
        [message, code, syscall, address],
        [`send EMSGSIZE ${hosts.host}:${port}`, 'EMSGSIZE', 'send', hosts.host],
      );
      const socket = client();
      socket.on('error', () => assert.fail('without a callback nobody is told'));
      socket.send(Buffer.alloc(66_000), port, hosts.host);
      await delay(10);
    });

    it('refuse wrong arguments and wrong moments', async () => {
      const socket = client();
      const code = (expected: string, what: () => unknown) => assert.throws(what, { code: expected });
      code('ERR_SOCKET_BAD_PORT', () => socket.send('x', 0, hosts.host));
      code('ERR_SOCKET_BAD_PORT', () => socket.send('x', 70_000, hosts.host));
      code('ERR_INVALID_ARG_TYPE', () => socket.send(5 as never, 9, hosts.host));
      code('ERR_SOCKET_BAD_TYPE', () => hosts.client.createSocket('udp5' as never));
      assert.throws(() => socket.address(), { code: 'EBADF' });
      socket.bind(0);
      code('ERR_SOCKET_ALREADY_BOUND', () => socket.bind(0));
      await once(socket, 'listening');
      assert.equal(socket.address().address, '0.0.0.0');
      assert.equal(socket.setTTL(5), 5);
      assert.throws(() => socket.setTTL(300), { code: 'EINVAL', message: 'setTTL EINVAL' });
      socket.setBroadcast(true);
      socket.setMulticastTTL(3);
      await new Promise<void>((done) => socket.close(done));
      code('ERR_SOCKET_DGRAM_NOT_RUNNING', () => socket.send('x', 9, hosts.host));
      code('ERR_SOCKET_DGRAM_NOT_RUNNING', () => socket.close());
    });

    it('look names up, and obey signals', async () => {
      const echo = await server((message, { port, address }) => echo.send(message, port, address));
      const lookup = (_: string, __: object, found: (...answer: unknown[]) => void) =>
        setImmediate(found, null, hosts.host, 4);
      const socket = client({ lookup });
      socket.send('named', echo.address().port, 'server.test');
      assert.equal(((await once(socket, 'message')) as [Buffer])[0].toString(), 'named');
      const controller = new AbortController();
      const stopped = client({ signal: controller.signal });
      stopped.bind(0);
      await once(stopped, 'listening');
      controller.abort();
      await once(stopped, 'close');
    });
  });
}

describe('datagrams by promises', () => {
  let a: NetworkStack;
  let b: NetworkStack;
  beforeEach(async () => {
    [a, b] = await stacks();
  });
  afterEach(() => {
    a.destroy();
    b.destroy();
  });

  for (const [host, family] of [
    ['10.0.0.2', 4],
    ['fd00::2', 6],
  ] as const) {
    it(`come one by one (IPv${family})`, async () => {
      await using echo = b.openUdp({ port: 7, family });
      void (async () => {
        for await (const { data, address, port } of echo) await echo.send(data, port, address);
      })();
      await using endpoint = a.openUdp({ family });
      const sent = Array.from({ length: 20 }, (_, i) => `message ${i}`);
      for (const text of sent) await endpoint.send(text, 7, host);
      const got: string[] = [];
      for await (const { data, address, port } of endpoint) {
        assert.deepEqual([address, port], [host, 7]);
        got.push(data.toString());
        if (got.length === sent.length) break;
      }
      assert.deepEqual(got, sent);
      assert.deepEqual(await endpoint.next(), { value: undefined, done: true }, 'leaving the loop closes it');
    });
  }

  it('wait, but not without end', async () => {
    const sink = b.openUdp({ port: 9, receiveBuffer: 10_000 });
    const endpoint = a.openUdp();
    // While the neighbour is looked for only a few packets wait.
    await endpoint.send('first', 9, '10.0.0.2');
    assert.equal((await sink.next()).value?.data.toString(), 'first');
    for (let i = 0; i < 200; i++) await endpoint.send(Buffer.alloc(1000, i), 9, '10.0.0.2');
    // All have come by then, on a busy machine, too; what comes while they are taken has room again.
    await delay(200);
    const got: number[] = [];
    for (;;) {
      const next = await Promise.race([sink.next(), delay(50, null)]);
      if (next === null || next.done) break;
      got.push(next.value.data[0]!);
    }
    assert.ok(got.length >= 10 && got.length < 120, `${got.length} of 200`);
    assert.deepEqual(got, [...got.keys()], 'the first ones, in order');
    sink.close();
    endpoint.close();
  });

  it('tell of errors, and end with signals and with their stack', async () => {
    assert.throws(() => a.openUdp({ address: '10.9.9.9', port: 5 }), {
      code: 'EADDRNOTAVAIL',
      message: 'bind EADDRNOTAVAIL 10.9.9.9:5',
    });
    assert.throws(() => a.openUdp({ address: 'here' }), { code: 'EINVAL' });
    assert.throws(() => a.openUdp({ signal: AbortSignal.abort() }), { name: 'AbortError' });
    const endpoint = a.openUdp();
    await assert.rejects(endpoint.send('x', 9, 'there'), { code: 'EINVAL' });
    await assert.rejects(endpoint.send('x', 9, '192.0.2.1'), {
      code: 'ENETUNREACH',
      message: 'send ENETUNREACH 192.0.2.1:9',
    });
    await assert.rejects(endpoint.send(new Uint8Array(70_000), 9, '10.0.0.2'), { code: 'EMSGSIZE' });
    assert.throws(() => endpoint.connect(9, 'there'), { code: 'EINVAL' });
    endpoint.connect(9, '10.0.0.2');
    await endpoint.send('x');
    await assert.rejects(endpoint.next(), { code: 'ECONNREFUSED', message: 'recvmsg ECONNREFUSED' });
    const controller = new AbortController();
    const stopped = a.openUdp({ signal: controller.signal });
    const waiting = stopped.next();
    controller.abort();
    assert.deepEqual(await waiting, { value: undefined, done: true });
    await assert.rejects(stopped.send('x', 9, '10.0.0.2'), { code: 'ERR_SOCKET_DGRAM_NOT_RUNNING' });
    const last = endpoint.next();
    await a.close();
    assert.deepEqual(await last, { value: undefined, done: true });
    assert.throws(() => a.openUdp(), /the stack stack was closed/);
  });

  it('go to groups', async () => {
    const group = '239.1.2.3';
    const member = b.dgram.createSocket('udp4');
    member.bind(5000);
    await once(member, 'listening');
    assert.throws(() => member.addMembership('10.0.0.9'), { code: 'EINVAL', syscall: 'addMembership' });
    assert.throws(() => member.dropMembership(group), { code: 'EADDRNOTAVAIL' });
    member.addMembership(group);
    assert.throws(() => member.addMembership(group), { code: 'EADDRINUSE' });
    const told = once(member, 'message') as Promise<[Buffer, RemoteInfo]>;
    await using endpoint = a.openUdp();
    await endpoint.send('to all', 5000, group);
    const [message, info] = await told;
    assert.deepEqual([message.toString(), info.address], ['to all', '10.0.0.1']);
    member.dropMembership(group);
    member.on('message', () => assert.fail('it takes no part any more'));
    await endpoint.send('again', 5000, group);
    await delay(20);
    member.close();
  });
});
