/** TCP Fast Open (RFC 7413) with Linux, as client and as server: data in the SYN, once a cookie is known. */
import assert from 'node:assert/strict';
import { ECHO, FAMILIES, type Family, hashOf, LinuxStackWorld } from '../../helpers/linux-stack-world.ts';

/** Of tcp_fastopen: client, server, and that any listener is one. */
const TFO_CLIENT_ENABLE = 1;
const TFO_SERVER_ENABLE = 2;
const TFO_SERVER_WO_SOCKOPT1 = 0x400;
const FAST_OPEN = TFO_CLIENT_ENABLE | TFO_SERVER_ENABLE | TFO_SERVER_WO_SOCKOPT1;
const SERVER = `
  const listening = require('node:net').createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket));
  listening.listen(Number(process.argv[1]), '::', () => console.log('ready'));
`;
const PORT = 80;
const PLAIN_PORT = 1007;
const REQUEST = Buffer.from('in the SYN, where there is a cookie');
const NOTHING = new Uint8Array(0);

describe('TCP Fast Open with Linux', function () {
  this.timeout(60_000);
  let world: LinuxStackWorld;

  before(async () => {
    world = await LinuxStackWorld.create();
    // A server without it first: what is on ECHO has listened before.
    await world.sysctl([`net.ipv4.tcp_fastopen=${FAST_OPEN}`]);
    await world.program(SERVER, PORT);
    const { stack, bytes } = world;
    const head = `HTTP/1.1 200 OK\r\nContent-Length: ${bytes.length}\r\nConnection: close\r\n\r\n`;
    const handler = {
      onConnected() {},
      onWritable() {},
      onClosed() {},
      onData(c: number) {
        stack.tcp.write(c, Buffer.from(head));
        stack.tcp.write(c, bytes);
        stack.tcp.shutdown(c);
      },
      onEnd() {},
    };
    stack.tcp.listen({ port: PORT, fastOpen: true, onAccept: () => handler });
    stack.tcp.listen({ port: PLAIN_PORT, onAccept: () => handler });
  });
  after(() => world?.dispose());

  async function curl(family: Family, port: number): Promise<void> {
    const host = family === 4 ? world.ours[4] : `[${world.ours[6]}]`;
    const words = await world.shell(`curl -sS --fail --tcp-fastopen http://${host}:${port}/ | sha256sum`);
    assert.equal(words.slice(0, 64), world.hash);
  }

  async function echo(family: Family, port: number, bytes: Uint8Array): Promise<void> {
    const { received } = await world.exchange(family, port, NOTHING, { fastOpenData: bytes });
    assert.equal(hashOf(received), hashOf(bytes));
  }

  for (const family of FAMILIES) {
    it(`takes data in SYNs of Linux’s clients, IPv${family}`, async () => {
      await curl(family, PORT);
      const { fastOpenPassive } = world.counters;
      const active = await world.nstat('TcpExtTCPFastOpenActive');
      const failed = await world.nstat('TcpExtTCPFastOpenActiveFail');
      for (let i = 0; i < 3; i++) await curl(family, PORT);
      assert.equal(world.counters.fastOpenPassive, fastOpenPassive + 3);
      assert.equal(await world.nstat('TcpExtTCPFastOpenActive'), active + 3);
      assert.equal(await world.nstat('TcpExtTCPFastOpenActiveFail'), failed);
    });

    it(`sends data in SYNs to Linux’s servers, IPv${family}`, async () => {
      const { fastOpenActive } = world.counters;
      const passive = await world.nstat('TcpExtTCPFastOpenPassive');
      const failed = await world.nstat('TcpExtTCPFastOpenPassiveFail');
      const asked = await world.nstat('TcpExtTCPFastOpenCookieReqd');
      await echo(family, PORT, REQUEST);
      assert.equal(world.counters.fastOpenActive, fastOpenActive);
      assert.equal(await world.nstat('TcpExtTCPFastOpenCookieReqd'), asked + 1);
      for (let i = 0; i < 3; i++) await echo(family, PORT, REQUEST);
      // More than a SYN holds.
      await echo(family, PORT, world.bytes);
      assert.equal(world.counters.fastOpenActive, fastOpenActive + 4);
      assert.equal(await world.nstat('TcpExtTCPFastOpenPassive'), passive + 4);
      assert.equal(await world.nstat('TcpExtTCPFastOpenPassiveFail'), failed);
    });

    it(`comes through when Linux knows its cookie no more, IPv${family}`, async () => {
      await echo(family, PORT, REQUEST);
      const { fastOpenActive } = world.counters;
      const key = Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(16).padStart(8, '0'));
      await world.sysctl([`net.ipv4.tcp_fastopen_key=${key.join('-')}`]);
      const passive = await world.nstat('TcpExtTCPFastOpenPassive');
      await echo(family, PORT, world.bytes);
      assert.equal(world.counters.fastOpenActive, fastOpenActive + 1);
      assert.equal(await world.nstat('TcpExtTCPFastOpenPassive'), passive);
      // It came with a new one.
      await echo(family, PORT, world.bytes);
      assert.equal(await world.nstat('TcpExtTCPFastOpenPassive'), passive + 1);
    });

    it(`does without where the other side has none of it, IPv${family}`, async () => {
      const { fastOpenPassive } = world.counters;
      for (let i = 0; i < 2; i++) await curl(family, PLAIN_PORT);
      assert.equal(world.counters.fastOpenPassive, fastOpenPassive);
      const passive = await world.nstat('TcpExtTCPFastOpenPassive');
      for (let i = 0; i < 2; i++) await echo(family, ECHO, world.bytes);
      assert.equal(await world.nstat('TcpExtTCPFastOpenPassive'), passive);
    });
  }
});
