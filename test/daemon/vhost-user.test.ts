/** vhost-user ports of a daemon: sockets, peers that come and go, and frames. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { DaemonProcess, RINGSWITCH } from '../../lab/daemon.ts';
import { Program, run } from '../../lab/program.ts';
import { close } from '../../linux/file.ts';
import { memfd } from '../../linux/mman.ts';
import { bindUnix, listenUnix } from '../../linux/unix-socket.ts';
import { descriptorsOf } from '../helpers/descriptors.ts';
import { broadcastFrame, TunClient } from '../helpers/tun-client.ts';
import { until } from '../helpers/until.ts';
import {
  frame,
  GET_QUEUE_NUM,
  SEND_RARP,
  SET_MEM_TABLE,
  SET_OWNER,
  SET_VRING_NUM,
  u32,
  u64,
  VhostUserFrontEnd,
  VhostUserGuest,
} from '../helpers/vhost-user-front-end.ts';

const MAC_BYTES = 6;
const GUEST_MAC = [0x52, 0x54, 0x00, 0x76, 0x75, 0x01];

describe('a daemon with vhost-user ports', function () {
  this.timeout(30_000);

  let daemon: DaemonProcess;
  let socket: string;
  const opened: (() => void)[] = [];

  beforeEach(async () => {
    daemon = await DaemonProcess.start();
    socket = path.join(daemon.directory, 'vm1.sock');
  });

  afterEach(async () => {
    for (const undo of opened.splice(0).reverse()) undo();
    try {
      await daemon.stop();
    } finally {
      await daemon.dispose();
    }
  });

  const add = (more: object = {}): Promise<unknown> =>
    daemon.client.post('/v1/ports', { kind: 'vhost-user', name: 'vm1', path: socket, ...more });
  const command = (...words: string[]): Promise<string> => run([RINGSWITCH, ...words, '--socket', daemon.socket]);
  const connect = (): VhostUserFrontEnd => {
    const frontEnd = VhostUserFrontEnd.connect(socket);
    opened.push(() => frontEnd.close());
    return frontEnd;
  };
  const guest = (frontEnd: VhostUserFrontEnd): VhostUserGuest => {
    const made = new VhostUserGuest(frontEnd);
    opened.push(() => made[Symbol.dispose]());
    return made;
  };
  const tunClient = (): TunClient => {
    const client = new TunClient(daemon.tun);
    opened.push(() => client[Symbol.dispose]());
    return client;
  };
  const withLog = { instead: () => daemon.log };
  const disconnected = (): Promise<boolean> =>
    until('disconnected', async () => (await daemon.port('vm1')).vhostUser?.connected === false, withLog);

  /** A frame each way between a guest and a client of the clones. */
  function assertPass(guest: VhostUserGuest, client: TunClient): void {
    const there = broadcastFrame(60);
    there.set(GUEST_MAC, MAC_BYTES);
    guest.send(there);
    assert.deepEqual(client.receive(), there);
    const back = broadcastFrame(1514);
    client.write(back);
    assert.deepEqual(guest.receive(), back);
  }

  it('makes the socket for those who may attach guests, and shows who came', async () => {
    await command('port', 'add', 'vhost-user', 'vm1', '--path', socket, '--queues', '2');
    const stat = fs.statSync(socket);
    assert.equal(stat.mode & 0o777, 0o660);
    const waiting = await daemon.port('vm1');
    assert.deepEqual(
      [waiting.kind, waiting.path, waiting.carrier, waiting.queues, waiting.clients],
      ['vhost-user', 'none', 'down', 2, []],
    );
    assert.deepEqual(waiting.vhostUser, { path: socket, mode: 'server', connected: false });
    assert.match(await command('show', 'ports'), new RegExp(`vm1: not connected; waits for a peer on ${socket}`));
    const here = guest(connect());
    assertPass(here, tunClient());
    const { path: how, carrier, clients, vhostUser } = await daemon.port('vm1');
    assert.deepEqual([how, carrier, vhostUser?.connected], ['vhost-user', 'up', true]);
    assert.equal(clients[0]!.pid, process.pid);
    assert.match(await command('show', 'ports'), /^vm1\s+vhost-user\s+up\s+vhost-user\s+2 /m);
    await command('port', 'remove', 'vm1');
    assert.ok(here.client.ended);
    assert.ok(!fs.existsSync(socket));
    assert.deepEqual(
      (await daemon.ports()).map(({ kind }) => kind),
      ['guest'],
    );
  });

  it('keeps the port, its addresses and its counters while peers come and go, and nothing else', async () => {
    await add();
    const client = tunClient();
    const before = descriptorsOf(daemon.pid);
    for (let round = 1; round <= 3; round++) {
      const frontEnd = connect();
      const here = guest(frontEnd);
      assertPass(here, client);
      assert.equal((await daemon.port('vm1')).counters.rx_frames, round);
      frontEnd.hangUp();
      await disconnected();
      assert.deepEqual(await daemon.rings(), []);
      assert.deepEqual(await daemon.client.get('/v1/memory'), []);
      assert.deepEqual(descriptorsOf(daemon.pid), before);
    }
    const fdb = (await daemon.client.get('/v1/fdb')) as { port: string }[];
    assert.ok(fdb.some(({ port }) => port === 'vm1'));
    client.write(broadcastFrame(60));
    await until('dropped', async () => (await daemon.port('vm1')).counters.tx_drop_link_down === 1, withLog);
  });

  it('connects to a peer that makes the socket, as often as it comes', async () => {
    await command('port', 'add', 'vhost-user', 'vm1', '--path', socket, '--client');
    assert.match(await command('show', 'ports'), /vm1: not connected; tries to connect to/);
    const client = tunClient();
    for (let round = 0; round < 2; round++) {
      const listener = bindUnix(socket);
      listenUnix(listener);
      const frontEnd = VhostUserFrontEnd.accept(listener);
      opened.push(() => frontEnd.close());
      assertPass(guest(frontEnd), client);
      close(listener);
      fs.unlinkSync(socket);
      frontEnd.hangUp();
      await disconnected();
    }
    assert.match(daemon.log, /vm1: nobody listens on .*vm1\.sock yet \(ENOENT\)/);
    await command('port', 'remove', 'vm1');
  });

  it('tells the network of a guest whose front-end asks for it', async () => {
    await add();
    const client = tunClient();
    connect().send(SEND_RARP, Buffer.from('5254000102030000', 'hex'));
    const rarp = client.receive();
    assert.equal(rarp.length, 60);
    assert.equal(rarp.toString('hex', 0, 22), 'ffffffffffff525400010203803500010800060400' + '03');
    assert.equal(rarp.toString('hex', 22, 42), '525400010203000000005254000102030000' + '0000');
    const fdb = (await daemon.client.get('/v1/fdb')) as { mac: string; port: string }[];
    assert.ok(fdb.some(({ mac, port }) => mac === '52:54:00:01:02:03' && port === 'vm1'));
  });

  it('refuses a second peer while the first is there, and takes it when the first is dead', async () => {
    await add();
    const first = connect();
    assert.equal(first.ask(GET_QUEUE_NUM).readBigUInt64LE(0), 1n);
    assert.ok(connect().ended);
    await until(
      'logged',
      () => /vm1: a second peer on .* is refused: process \d+ is connected/.test(daemon.log),
      withLog,
    );
    first.send(SET_OWNER);
    first.hangUp();
    const third = connect();
    assert.equal(third.ask(GET_QUEUE_NUM).readBigUInt64LE(0), 1n);
  });

  it('ends connections that break the protocol, says why, and goes on', async () => {
    await add();
    const client = tunClient();
    const before = descriptorsOf(daemon.pid);
    const file = memfd('given', 4096);
    opened.push(() => close(file));
    const table = Buffer.concat([u32(1, 0), u64(0n, 1n << 30n, 0n, 0n)]);
    const cases: [what: string, act: (frontEnd: VhostUserFrontEnd) => void, told: RegExp][] = [
      [
        'garbage',
        (one) => one.sendBytes(Buffer.alloc(64, 0xa5)),
        /vhost-user message 2779096485: version 1, not 1|an answer/,
      ],
      ['a wrong length', (one) => one.send(SET_OWNER, u32(1)), /VHOST_USER_SET_OWNER: 4 bytes of payload, not 0/],
      ['a surplus descriptor', (one) => one.send(SET_OWNER, undefined, [file]), /SET_OWNER: came with 1 descriptors/],
      ['many descriptors', (one) => one.send(SET_OWNER, undefined, Array(9).fill(file)), /more descriptors came/],
      ['no such ring', (one) => one.send(SET_VRING_NUM, u32(2, 256)), /SET_VRING_NUM: ring 2 of 2 \(ENOBUFS\)/],
      [
        'a lie',
        (one) => one.send(SET_MEM_TABLE, table, [file]),
        /SET_MEM_TABLE: the region of 1073741824 .* its file has 4096/,
      ],
    ];
    for (const [what, act, told] of cases) {
      const frontEnd = connect();
      act(frontEnd);
      assert.ok(frontEnd.ended, what);
      const line = new RegExp(`vm1: the vhost-user connection to process ${process.pid} .*ends: .*${told.source}`);
      await until(`told of ${what}`, () => line.test(daemon.log), withLog);
      await disconnected();
      assert.deepEqual(descriptorsOf(daemon.pid), before, what);
    }
    const half = connect();
    half.sendBytes(frame(SET_MEM_TABLE, table).subarray(0, 20), [file]);
    half.hangUp();
    await until(
      'told of a half message',
      () => /closed the connection in the midst of a message/.test(daemon.log),
      withLog,
    );
    assert.deepEqual(descriptorsOf(daemon.pid), before, 'the descriptors of half a message');
    assertPass(guest(connect()), client);
  });

  it('puts a message together that comes in pieces', async () => {
    await add();
    const frontEnd = connect();
    const bytes = frame(SET_VRING_NUM, u32(0, 256));
    for (const byte of bytes) {
      frontEnd.sendBytes(Buffer.of(byte));
      await delay(1);
    }
    assert.equal(frontEnd.ask(GET_QUEUE_NUM).readBigUInt64LE(0), 1n);
  });

  it('is not held up by one that floods it with messages and reads no answers', async () => {
    await add();
    const frontEnd = connect();
    const many = Buffer.concat(Array.from({ length: 500 }, () => frame(GET_QUEUE_NUM)));
    try {
      for (let i = 0; i < 10_000; i++) frontEnd.sendBytes(many);
      assert.fail('the socket takes everything');
    } catch (error) {
      assert.match((error as { code?: string }).code ?? String(error), /EAGAIN|EPIPE|ECONNRESET/);
    }
    await daemon.status();
    await until('given up', () => /it does not read the answers that it asked for/.test(daemon.log), withLog);
  });

  it('replaces the socket of a dead daemon, and no other', async () => {
    const listener = bindUnix(socket);
    listenUnix(listener);
    await assert.rejects(
      add(),
      /another process listens on .*; choose another path, or let the port connect as a client/,
    );
    close(listener);
    await add();
    await assert.rejects(add({ name: 'vm2' }), /another process listens on/);
    const file = path.join(daemon.directory, 'file');
    fs.writeFileSync(file, '');
    await assert.rejects(add({ name: 'vm2', path: file }), /exists and is no socket; choose another path/);
    await assert.rejects(add(), /there is a port vm1 already/);
    await assert.rejects(
      add({ name: 'vm2', path: path.join(file, 'x') }),
      /cannot listen on .*: cannot make the directory/,
    );
    assert.deepEqual(
      (await daemon.ports()).map(({ name }) => name),
      ['vm1'],
      'what was refused leaves no port',
    );
    await daemon.kill();
    assert.ok(fs.existsSync(socket));
    await daemon.restart();
    await add();
    assertPass(guest(connect()), tunClient());
  });

  it('has those of its configuration', async () => {
    const config = {
      ports: [
        { name: 'one', vhostUser: { path: path.join(daemon.directory, 'a/one.sock'), queues: 4 } },
        { name: 'two', vhostUser: { path: path.join(daemon.directory, 'two.sock'), mode: 'client' } },
      ],
    };
    await using configured = await DaemonProcess.start({ config });
    assert.deepEqual(
      (await configured.ports()).map(({ name, queues, vhostUser }) => [name, queues, vhostUser?.mode]),
      [
        ['one', 4, 'server'],
        ['two', 1, 'client'],
      ],
    );
    await configured.stop();
    assert.ok(!fs.existsSync(config.ports[0]!.vhostUser.path));
  });

  it('takes options of the command line that belong together', async () => {
    const refused = async (told: RegExp, ...words: string[]): Promise<void> => {
      const program = new Program([RINGSWITCH, 'port', 'add', ...words, '--socket', daemon.socket]);
      assert.equal(await program.ended, 'exited with status 2');
      assert.match(program.stderr, told);
    };
    await refused(/a vhost-user port needs --path/, 'vhost-user', 'vm1');
    await refused(
      /--persistent is not for a vhost-user port; it takes --path, --client, --queues$/m,
      'vhost-user',
      'vm1',
      '--path',
      socket,
      '--persistent',
    );
    await refused(/--client is not for a tap port; it takes --persistent$/m, 'tap', 't0', '--client');
    await refused(/a nic port needs --device/, 'nic', 'up1');
    await refused(
      /--path is not for a nic port; it takes --device, .*, --without-iommu$/m,
      'nic',
      'up1',
      '--path',
      '/x',
    );
    await refused(/--without-iommu is not for a tap port/, 'tap', 't0', '--without-iommu');
    await refused(/It is a number of queue pairs/, 'vhost-user', 'vm1', '--path', socket, '--queues', 'two');
    await assert.rejects(
      command('port', 'add', 'vhost-user', 'vm1', '--path', socket, '--queues', '129'),
      /queues: expected a number of queue pairs from 1 to 128/,
    );
    await assert.rejects(
      command('port', 'add', 'nic', 'up1', '--device', 'vfio-user:/nobody/is/here', '--mtu', '9000'),
      /up1: no card can be reached at \/nobody\/is\/here \(ENOENT\)/,
    );
    await assert.rejects(command('port', 'add', 'nic', 'up1', '--device', '00:1f.7'), /up1: .*00:1f\.7/);
  });
});
